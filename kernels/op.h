/* The ops: one contract each. op.c validates shape, dtype, contiguity and aliasing once, then calls the device's table.
 *
 * Letters: T tokens (rows), D width, H query heads, G key/value heads, d head dimension, F feed-forward, V vocabulary,
 * R rank, K and N inputs and outputs of a linear layer, S rows of a key/value pool, E experts, C of them chosen for a token.
 * Argument order: device, outputs, saved, inputs, weights, sizes, scalars. Backward ADDS into gradients. Optional tensors may be
 * pw_none(). Activations and their gradients, (T, ..) and the key/value pools, are of the device's type (dev->act: f32, bf16 on cuda
 * and simt); parameters, their gradients and statistics (norm weights, adapters, bias, inv_rms, lse, loss, dloss, cosines) are f32. On the ref device
 * every float tensor may be f64 as well (all of one type in a call), for gradient checks. Results of a row do not depend on how many other rows are in the call, nor on the number of threads.
 * All return 0 or a negative code with a trail that names op, tensor, expected and got. */
#ifndef PW_KERNELS_OP_H
#define PW_KERNELS_OP_H

#include "kernels/dev.h"
#include "kernels/tensor.h"
#include "kernels/weight.h"

#ifdef __cplusplus
extern "C" {
#endif
enum pw_rope_layout { PW_ROPE_HALF, PW_ROPE_INTERLEAVED }; /* pairs (i, i + d/2) as in HF; (2i, 2i+1) as in llama2.c and GGUF */
enum pw_act { PW_ACT_SILU, PW_ACT_GELU_TANH };

/* Ragged batch for attention. Sequence i owns query rows [q_start[i], q_start[i+1]), n_q of them, and sees keys in order:
 * rows prefix_start[i] .. + prefix_len[i] of the pool (shared between sequences; both NULL when unused), then rows
 * kv_start[i] .. + kv_len[i], of which the last n_q belong to the queries themselves. Query j sees all of the prefix and the first
 * kv_len - n_q + j + 1 own keys (causal). In training k and v are the batch's own rows: kv_start = q_start, kv_len = n_q.
 *
 * Pages. With `pages` the pool is cut into pages of `page` rows, page p being rows p * page .. (rows past the last whole page are in none), and kv_start
 * and prefix_start say places in the list `pages`: key j of a range that begins at place s lies in row pages[s + j / page] * page + j % page. The pages
 * of a prefix are listed once, for all that share them; a sequence's own keys begin on a page of their own, so what is shared is never written, not
 * even a last page that is not full. Results have the bytes of the same keys in contiguous rows. Forward only. */
struct pw_seqs {
    int n;
    const int32_t *q_start;                   /* (n + 1) */
    const int32_t *kv_start, *kv_len;         /* (n) */
    const int32_t *prefix_start, *prefix_len; /* (n) or NULL */
    const int32_t *device;                    /* the five lists, then pages, one after the other where the device sees them: pw_seqs_put; NULL on host devices */
    int64_t most_keys;                        /* in a captured step: what is launched serves every kv_len and prefix_len that sum up to this; 0: those of now */
    const int32_t *pages;                     /* (n_pages) or NULL: contiguous rows */
    int64_t n_pages, page;                    /* in a captured step n_pages may change, page and whether there are any may not */
    bool company;                             /* training: what a row gets may depend on the other rows of the call, and a library may do it */
};
size_t pw_seqs_bytes(int n, int64_t n_pages); /* of device memory that pw_seqs_put wants */
int pw_seqs_put(struct pw_dev *dev, void *memory, struct pw_seqs *s); /* sets s->device; the host's lists stay the ones that are checked */
struct pw_attn {
    double scale;      /* 1 / sqrt(d) as a rule */
    int64_t window;    /* keys at distance >= window are not seen; 0 = all */
    double softcap;    /* scores = cap * tanh(scores / cap); 0 = none */
};
/* Keys and values kept for later passes, of one layer: pools (S, G, d) of activations, bf16 or i8. With i8 a row has one scale for each head, (S, G) f32:
 * value = code * scale (kernels/cache8.h); otherwise the scales are none. */
struct pw_cache { struct pw_tensor k, v, k_scale, v_scale; };
/* On the adapter's input; p = 0: none. Mask: base/rng.h, with first + i as the number of element i. rows: NULL, or which row of the mask each row of the
 * input is, (T) where the device sees it: for experts, whose rows are of tokens here and there. */
struct pw_drop { double p; uint64_t seed, offset, first; const int32_t *rows; };
/* The number, without first, of an element of a row of `width`; for devices whose memory the host reads. */
static inline int64_t pw_drop_element(struct pw_drop d, int64_t row, int64_t width, int64_t column) { return (d.rows ? d.rows[row] : row) * width + column; }
struct pw_linear_grads {       /* each may be pw_none(); what is none is not computed */
    struct pw_tensor dx;       /* (T, K) */
    struct pw_tensor dw;       /* (N, K), dense weights only */
    struct pw_tensor dbias;    /* (N) */
    struct pw_tensor da, db;   /* (R, K), (N, R) */
    struct pw_tensor dm;       /* (N), of the magnitude */
};
/* Linear layers that stand side by side, one an expert: the same n_out, n_in, type and blocks, all with an adapter of one rank or all without. */
enum { PW_EXPERTS_MAX = 1024, PW_CHOSEN_MAX = 32 };
#define PW_EXPERT_STREAM ((uint64_t)1 << 48) /* from the dropout offset of one expert to the next */
/* What rows of expert e drop, of which `row` is the first. */
static inline struct pw_drop pw_drop_of_expert(struct pw_drop drop, int e, int64_t row)
{
    drop.offset += (uint64_t)e * PW_EXPERT_STREAM;
    if (drop.rows) drop.rows += row;
    return drop;
}
struct pw_experts { int n; const struct pw_weight *w; /* (n) */ };
/* How the next token of a row is drawn (kernels/sample.h): temperature 0 is the largest logit; top_k 0, top_p 0 or 1 and up, min_p 0: not used.
 * The random bits are draw `at` of (seed, stream), base/rng.h. */
struct pw_draw { double temperature, top_p, min_p; uint64_t seed, stream, at; int64_t top_k; };
struct pw_draws { int n; const struct pw_draw *rows; const void *device; }; /* device: rows where the device sees them: pw_draws_put */
size_t pw_draws_bytes(int n);
int pw_draws_put(struct pw_dev *dev, void *memory, struct pw_draws *d); /* sets d->device; the host's rows stay the ones that are checked */
struct pw_adamw {              /* one step of AdamW, Loshchilov and Hutter 2019 */
    double lr, beta1, beta2, eps, weight_decay;
    int64_t step;              /* from 1, for the bias correction */
    double grad_scale;         /* g is multiplied by it first (clipping) */
};

#define DEV struct pw_dev *dev
#define T struct pw_tensor
#define W const struct pw_weight *
#define PW_OP(name, params, args) int (*name) params;
struct pw_ops {                /* what a backend fills: kernels/ref/, kernels/cpu/ */
#include "kernels/ops.def"
};
#undef PW_OP
#define PW_OP(name, params, args) int pw_##name params;
#include "kernels/ops.def"     /* the checked entry points: pw_fill(dev, x, value) ... */
#undef PW_OP
#undef DEV
#undef T
#undef W

/* Contracts
 * fill        every element of x (any float type) = value. fill, copy, axpy, scale, scatter_rows and gather_rows take activations and f32 alike.
 * copy        out = x, same shape, converting between float types.
 * axpy        y += alpha x.            scale  x *= alpha.
 * noise       x (T, D) += scale[t] * u, scale (T) f32, u uniform in [-1, 1): word w of draw's counters (as the mask of dropout takes them,
 *             base/rng.h: element i of x has word i) gives w * 2^-31 - 1. p of draw does not matter. x in f32 or the type of activations.
 * embed_fwd   out (T, D) = rows ids of table (V, D), of any weight type, decoded; ids (T) i32 in [0, V): others are an error, never a wrong read.
 * embed_bwd   dtable (V, D) f32 += dout rows; rows added in token order (fixed sums).
 * rmsnorm_fwd out (T, D) = x * inv_rms * (w + w_offset), inv_rms (T) = 1/sqrt(mean(x^2) + eps). inv_rms may be none. out may be x.
 * rmsnorm_bwd dx (T, D) +=, dw (D) += (may be none).
 * rope        x (T, H, d) in place, the first 2*columns(cosines) of d are rotated; pos (T) i32 indexes rows of cosines, sines (P, c);
 *             direction +1 forward, -1 backward (the transpose).
 * attn_fwd    out (T, H, d), lse (T, H) f32 log-sum-exp of the scaled scores (may be none); q (T, H, d); k, v (S, G, d), H % G = 0.
 * attn_bwd    dq, dk, dv +=; dk, dv shaped as k, v.
 * cache_put   row rows[t] of a pool = x[t], x (T, G, d) activations, in the pool's type; scale as in pw_cache. Rows not named stay.
 * cache_attn  attn_fwd over a cache of any type. Errs from attn_fwd over unrounded keys and values by what rounding changes: with i8 a score by at most
 *             scale * |q|_1 * k_scale / 2 = e, a weight by the factor exp(2 max e), an output by that and max v_scale / 2.
 * glu_fwd     out (T, F) = act(gate) * up. out may be gate or up.     glu_bwd  dgate, dup +=.
 * linear_fwd  y (T, N) = x W^T + bias + lora, an activation or f32 (logits); x (T, K). With w->lora, xa (T, R) = dropout(x) A^T is saved (needed).
 *             With a magnitude m, c = m / norm and x' = dropout(x): y = (x - x') W^T + c (x' W^T + lora) + bias, which without dropout is
 *             c (x W^T + lora) + bias: the base of a layer reads what the adapter reads, but for its own, unscaled share (as PEFT has it).
 * linear_bwd  the gradients named in g; x, xa as in forward (x may be none when only dx is asked for and there is no lora). dm (N) += sum of
 *             dy (x' W^T + lora) / norm: norm is a constant. With a magnitude there is no dw.
 * row_norm    norm (N) = length of each row of W + scale B A, of W alone without an adapter. W is decoded in tiles; nothing of its size exists.
 * dropout     out = x * k, or x * (1 - k) with rest; k (T, K) as linear_fwd draws it, 0 or 1 / (1 - p). add: out += instead. out is not x.
 * column_scale  out (T, N) = x * m / norm + bias, add: out += instead; bias (N) may be none, out may be x. out is an activation or f32.
 * column_dot  out (N) += sum over rows of x y, divided by norm; x, y (T, N).
 * head_loss   for each row with target >= 0: loss = logsumexp(logits) - logits[target], logits = softcap(h W^T), in chunks: no more
 *             than one chunk of logits exists. Rows with target < 0 get loss 0 and cost nothing. argmax (T) i32 (may be none) is the
 *             first index of the largest logit (-1 on skipped rows). dh (T, D) +=, dw (V, D) += dloss[t] * d loss_t (each may be none;
 *             dloss (T) may be none when both are).
 * softcap     x = cap * tanh(x / cap) in place, f32 (parameters' type on ref).
 * sample      ids (T) i32 = the next token of each row of logits (T, V) f32, V <= 2^23, as draws.rows[t] says. The same token on every device, by
 *             whole numbers (kernels/sample.h); temperature 0: the first index of the largest. A NaN or +inf among the logits, or all -inf, is an error.
 * scatter_rows  out[rows[t]] = x[t]; gather_rows  out[t] = x[rows[t]]; (.., n) contiguous rows, rows (T) i32.
 * route_fwd   chosen (T, C) i32: the experts with the C largest logits of each token, largest first, a tie to the lower index; weights (T, C): their
 *             share of the softmax over all E logits, or, renormalise, over the C chosen. logits (T, E), E <= PW_EXPERTS_MAX, C <= PW_CHOSEN_MAX;
 *             logits and weights are statistics (f32). NaN is above every number: it makes all weights NaN.
 * route_bwd   dlogits (T, E), an activation, += from dweights (T, C); the choice has no gradient.
 * route_rows  the T * C (token, choice) pairs in the order of their experts, then tokens: starts (E + 1) i32, the rows of expert e are starts[e] ..
 *             starts[e + 1]; tokens (T * C) i32, the token of a row; places (T, C) i32, the row of a pair. So x of the experts is
 *             gather_rows(h, tokens), and what they give goes back with combine.
 * experts_fwd linear_fwd for rows in the order of route_rows: rows of expert e by w[e]. Where starts is on the device, nobody waits for it. xa (rows, R).
 *             The dropout mask of expert e is that of a linear layer over its rows alone with offset drop.offset + e * PW_EXPERT_STREAM; with drop.rows = tokens
 *             a row drops what its token's place says, whatever other rows the expert has. Rows past starts[E] are not touched.
 * experts_bwd dx (rows, K) += (may be none); g (n) or NULL: da and db of each expert, the rest of it is none. No gradient of weights, nor of biases.
 * combine_fwd out (T, D) += sum over c of weights[t][c] * y[places[t][c]], in the order of c; weights (T, C) may be none: 1 each. y (rows, D).
 * combine_bwd dy (rows, D) += weights * dout, dweights (T, C) += dot(dout, y) (may be none; y too then); each row is in places once.
 * columns_copy  out (T, n) = x (T, n), of one type, an activation or f32; rows of either may lie apart (pw_columns of something wider).
 * sumsq       out (1) f64 += sum of x^2, added in double in a fixed order.
 * adamw       p, m, v, g same shape f32; p -= lr * (mhat / (sqrt(vhat) + eps) + weight_decay * p).
 * adamw8      the same with averages in 8 bits: p, g (n) f32; m, v (n) u8, codes into maps (512) f32, which holds an ascending signed map of
 *             256 values and then an unsigned one; m_scale, v_scale (ceil(n / 256)) f32, one a block of PW_STATE8_BLOCK elements of the flat
 *             sequence, the last of which may be short. A block is decoded (map[code] * scale), updated as adamw in f32, and p is changed by
 *             the averages before they are rounded; then scale = the largest magnitude of the block, code = the nearest map value to
 *             x * (1 / scale), pw_state8_code, a tie to the lower index (scale 0: code of 0). A negative m never gets the code of 0 but the
 *             one below it, so that it keeps its sign, as bitsandbytes has it. Blocks are independent; cleared memory is NOT the code
 *             of 0 in m: start from code 127 and 0. A backend's code may differ from ref's by one where x lies at a midpoint.
 * lion        p, m, g same shape f32: c = beta1 m + (1 - beta1) g; p -= lr (sign(c) + weight_decay p), sign(0) = 0;
 *             m = beta2 m + (1 - beta2) g (Chen et al. 2023). eps and step do not matter; g is multiplied by grad_scale first.
 * encode      quantises x (n_out, n_in) f32 into the memory that w points to; w->type says how. NF4/FP4: bitsandbytes' rule, bit for bit,
 *             and a block of zeros encodes to the code of 0. GGUF types: kernels/blocks.h. Nested quantisation is quant/'s.
 * decode      out (n, n_in) f32 or activation = rows first_row.. of w. */

/* Scratch bytes an op wants on this device; pw_dev_reserve the largest before the work. */
size_t pw_scratch_linear(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w, bool backward);
size_t pw_scratch_head(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w, bool backward);
size_t pw_scratch_experts(const struct pw_dev *dev, int64_t rows, const struct pw_experts *experts, bool backward);
size_t pw_scratch_sample(const struct pw_dev *dev, int64_t vocab);
size_t pw_scratch_attn(const struct pw_dev *dev, int64_t tokens, int64_t keys, int heads, int kv_heads, int head_dim, bool backward);
#ifdef __cplusplus
}
#endif
#endif
