/* One transformer block, forward and backward: the mathematics of the project exists here once, for inference, evaluation and training.
 *
 * x is the residual stream (T, D) of activations, updated in place:
 *     h = rmsnorm(x); q, k, v = linears(h); [rmsnorm of the heads of q and k]; rope; [k, v go to the KV pool]; a = attention; x += [rmsnorm] o(a)
 * where the linears of q, k, v may be one, and those of gate and up,
 *     h = rmsnorm(x); f = act(gate(h)) * up(h); x += [rmsnorm] down(f)
 * In layers with experts the second half is experts.c's: h goes to some of many gates, ups and downs, and comes back weighted.
 * With `saved` the activations that backward needs are kept there; NULL in inference. Gradient checkpointing is: keep only the block's
 * input, and call pw_block_again with a saved slot before pw_block_backward. Sizes are pure functions of the config.
 *
 * The dense feed-forward half goes through its rows in parts of at most PW_MLP_ROWS, forward and backward, whatever is kept: (T, F) is by far its
 * widest matrix, and backward holds five of them. A slot may leave gate and up out (mlp_again): backward makes each part's again from x_mid. Then
 * pw_block_again computes the attention half alone, and the product with down, a quarter of a block, is not repeated at all: nothing but its
 * xa is needed, (T, R), which the caller kept. On paper, Mistral-7B's shape in bf16, MiB: x is T/128, gate T * 7/256; a slot and scratch were
 * 5 gates and 10 x's; at T = 8192 the gates shrink from 1120 to 280, at 2048 they stay at 280. What it costs: weights are decoded once a part. */
#ifndef PW_INFER_BLOCK_H
#define PW_INFER_BLOCK_H

#include "infer/model.h"
#include "infer/rope.h"

/* Which experts the tokens of a pass went to (ops: kernels/op.h); N = T * experts_chosen rows. */
struct pw_route { struct pw_tensor logits, weights, chosen, places, tokens, starts; }; /* (T, E), (T, C) f32; (T, C), (T, C), (N), (E + 1) i32 */
struct pw_experts_saved { struct pw_route route; struct pw_tensor y; };                 /* y (N, D): what experts gave */
struct pw_experts_work { struct pw_route route; struct pw_tensor x, dy, dweights, dlogits; }; /* x, dy (N, D); (T, C) f32, (T, E): backward only */
int64_t pw_expert_rows(const struct pw_model_config *c, int64_t tokens);               /* N; of a model without experts: tokens */

enum { PW_MLP_ROWS = 2048 };

struct pw_saved {              /* what one block keeps for backward, (T, .) each: activations, but for inv and lse in f32; gate, up: none with mlp_again */
    struct pw_tensor x_in, inv_attn, q, k, v, attn, lse, x_mid, inv_mlp, gate, up;  /* q, k: with norms of their own, before these */
    struct pw_tensor inv_q, inv_k;             /* (T * heads), with norms of q and k */
    struct pw_tensor attn_out, inv_attn_out, mlp_out, inv_mlp_out;   /* with norms of outputs: what goes into them */
    struct pw_tensor xa[PW_LIN_COUNT];   /* (T, R) of linears with an adapter; of gate, up and down (N, R) in a model with experts, gate and up (N, F) too if that is more */
    struct pw_experts_saved experts;
};
struct pw_work {               /* scratch of a block: reused by every block; (T, .); of the dense feed-forward half (rows, F) */
    int64_t rows;                          /* that the half takes at a time, at most */
    struct pw_tensor h, q, k, v, attn, lse, gate, up, xa[PW_LIN_COUNT];
    struct pw_tensor fused;                /* T (q + 2 kv) or rows 2 F elements, whichever is more: what linears of several parts give, and the gradient of it */
    /* backward only; dq, dk, dv, dattn, dgate and dup are the memory of q, k, v, attn, gate and up, which are free by then */
    struct pw_tensor dh, dq, dk, dv, dattn, dgate, dup, glu;
    struct pw_tensor gate_again, up_again; /* (rows, F), with mlp_again */
    struct pw_experts_work experts;
    struct pw_tensor q_again, k_again;     /* with norms of q and k: these after norm and rope, made again; then gradients of what goes into the norms */
};
struct pw_block_batch {        /* the rows of this pass */
    int64_t tokens;
    const struct pw_rope_tables *rope;
    struct pw_tensor pos;                 /* (T) i32, rows of the rotary tables: pw_rope_rows of each position */
    const struct pw_seqs *seqs;
    struct pw_tensor kv_rows;             /* (T) i32: rows of the KV pool to write; none in training (k, v are the batch's own) */
    struct pw_cache cache;                /* of this layer, with kv_rows */
    bool train;                           /* dropout is on */
    uint64_t drop_seed, drop_offset;      /* Philox offset of the step; the block adds layer * PW_LIN_COUNT + linear */
    int64_t drop_row;                     /* what the first token of the pass is in the step: a mask belongs to a token, however the step is cut into passes */
    double drop_p;
};
/* Bytes, and placing in a pool; the same functions serve the plan (pool NULL: only counts) and the run. r = largest adapter rank per
 * linear, taken from the weights attached to layer 0..L-1 (ranks[PW_LIN_COUNT], 0 = none). */
struct pw_block_shape {
    const struct pw_model_config *config;
    int64_t tokens;
    int ranks[PW_LIN_COUNT];
    bool backward;             /* of work: room for it */
    bool mlp_again;            /* slots without gate and up, work with room to make them again; not in models with experts */
    int64_t mlp_rows;          /* of the feed-forward half at a time, at most; 0: PW_MLP_ROWS. Another number is another order of sums over tokens */
    enum pw_dtype type;        /* of activations: the device's; f64 on ref, for gradient checks */
};
size_t pw_saved_bytes(const struct pw_block_shape *shape);
int pw_saved_place(struct pw_saved *s, struct pw_pool *pool, const struct pw_block_shape *shape);
size_t pw_work_bytes(const struct pw_block_shape *shape);
int pw_work_place(struct pw_work *w, struct pw_pool *pool, const struct pw_block_shape *shape);
/* Largest adapter rank per linear over the layers, as attached now; those of experts count as gate, up and down. */
void pw_model_ranks(const struct pw_model *m, int ranks[PW_LIN_COUNT]);

/* Batches may have fewer tokens than work and saved were placed for. */
int pw_block_forward(struct pw_model *m, int layer, struct pw_tensor x, const struct pw_block_batch *b, struct pw_work *w, struct pw_saved *saved);

/* What backward needs of a block whose input was kept, into `saved`: with mlp_again the attention half alone, and x is left in the middle of the block. xa of down
 * is then not made: the caller has kept it from the work of the first time, as pw_block_xa_down sees it there, and puts it into the slot. */
int pw_block_again(struct pw_model *m, int layer, struct pw_tensor x, const struct pw_block_batch *b, struct pw_work *w, struct pw_saved *saved);
/* (tokens, rank of this layer) in xa, or none. */
struct pw_tensor pw_block_xa_down(const struct pw_model *m, int layer, const struct pw_tensor xa[PW_LIN_COUNT], int64_t tokens);

/* Gradients of one block's parameters; each tensor may be none. */
struct pw_block_grads {
    struct pw_tensor da[PW_LIN_COUNT], db[PW_LIN_COUNT], dm[PW_LIN_COUNT];   /* adapters; dm: of magnitudes */
    struct pw_tensor dbias[PW_LIN_COUNT];                    /* biases that are trained beside an adapter */
    struct pw_tensor dw[PW_LIN_COUNT], dnorm[PW_NORM_COUNT]; /* full training */
    struct pw_linear_grads *experts[PW_EXPERT_PARTS];        /* (E) each, da and db; NULL: of none */
};
/* dx (T, D): in: gradient of the block's output; out: of its input (in place). Parameter gradients are added to. */
int pw_block_backward(struct pw_model *m, int layer, struct pw_tensor dx, const struct pw_block_batch *b, struct pw_work *w,
                      const struct pw_saved *saved, const struct pw_block_grads *grads);
size_t pw_block_scratch(const struct pw_model *m, int64_t tokens, int64_t keys, bool backward); /* device scratch the ops want */
#endif
