/* The cases: for each op its arrays, its calls, its error bound; then the table. The runner is in op_run.c.
 *
 * Bounds. u = 2^-24. A sum of K products of values within [-1, 1], in chains of at most depth(K) roundings, errs by at most
 * depth(K) * u * sum |x w| <= depth(K) * u * K (Higham, "Accuracy and stability", 3.1). depth: the narrowest vectors have 4 lanes, pieces of
 * 512 terms (dot) or single chains of 256 (outer), then one addition a piece, and 8 for the rest. Everything else is stated at its family. */
#include "tests/op_cases.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/memory.h"
#include "base/rng.h"
#include "tests/support.h"

static const double u = 0x1p-24;
static double depth(double k) { return (k < 256 ? k : 256) + k / 256 + 8; }
static double sum_bound(double k) { return depth(k) * u * (k < 1 ? 1 : k); }

static int add(struct problem *p, const char *name, enum role role, enum pw_dtype type, int ndim, int64_t a, int64_t b, int64_t c)
{
    struct array *r = &p->a[p->n];
    *r = (struct array){ .name = name, .role = role, .type = type, .ndim = ndim, .shape = { a, b, c }, .low = -1, .high = 1, .gradient = -1 };
    return p->n++;
}
static int add1(struct problem *p, const char *name, enum role role, int64_t a) { return add(p, name, role, PW_F64, 1, a, 1, 1); }
static int add2(struct problem *p, const char *name, enum role role, int64_t a, int64_t b) { return add(p, name, role, PW_F64, 2, a, b, 1); }
static int add3(struct problem *p, const char *name, enum role role, int64_t a, int64_t b, int64_t c) { return add(p, name, role, PW_F64, 3, a, b, c); }

static void *hold(struct problem *p, size_t bytes)
{
    void *m = pw_alloc_zero(bytes ? bytes : 1, 1);
    if (!m) abort();
    return p->memory[p->n_memory++] = m;
}
static int32_t *ids(struct problem *p, int64_t n, int64_t low, int64_t high, struct pw_rng *r)
{
    int32_t *id = hold(p, (size_t)n * sizeof *id);
    for (int64_t i = 0; i < n; i++) id[i] = (int32_t)(low + (int64_t)pw_rng_below(r, (uint64_t)(high - low)));
    p->ids = pw_tensor1(id, PW_I32, n);
    return id;
}

/* ---- elements: fill, copy, axpy, scale; p: n. Every element is a product and a sum of values within [-2, 2] ---- */
enum { E_X, E_Y, E_FILLED, E_COPIED, E_HALF, E_BRAIN, E_SCALED };
static void elements_setup(struct problem *p)
{
    int64_t n = p->c->p[0];
    add1(p, "x", IN, n);
    add1(p, "y", ADD, n);
    add1(p, "filled", OUT, n);
    add1(p, "copied", OUT, n);
    add(p, "half", OUT, PW_F16, 1, n, 1, 1);
    add(p, "brain", OUT, PW_BF16, 1, n, 1, 1);
    add1(p, "scaled", UPDATE, n);
}
static int elements_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    (void)p;
    int rc = pw_axpy(dev, t[E_Y], t[E_X], 0.75);
    rc = rc ? rc : pw_fill(dev, t[E_FILLED], 0.3);
    rc = rc ? rc : pw_copy(dev, t[E_COPIED], t[E_X]);
    rc = rc ? rc : pw_copy(dev, t[E_HALF], t[E_X]);
    rc = rc ? rc : pw_copy(dev, t[E_BRAIN], t[E_X]);
    return rc ? rc : pw_scale(dev, t[E_SCALED], -1.5);
}
static double elements_bound(const struct op_case *c) { (void)c; return 4 * u; }
static const struct family elements = { "elements", elements_setup, elements_forward, NULL, elements_bound };

/* ---- embed; p: T, V, D. Forward is exact; backward sums up to T values ---- */
enum { M_TABLE, M_OUT, M_DOUT, M_DTABLE };
static void embed_setup(struct problem *p)
{
    const int64_t *s = p->c->p;
    struct pw_rng r = pw_rng_make(11, PW_STREAM_TEST);
    add(p, "table", IN, p->c->type == PW_F32 ? PW_F64 : p->c->type, 2, s[1], s[2], 1);
    p->output = add2(p, "out", OUT, s[0], s[2]);
    p->upstream = add2(p, "dout", IN, s[0], s[2]);
    p->a[M_TABLE].gradient = add2(p, "dtable", ADD, s[1], s[2]);
    ids(p, s[0], 0, s[1], &r);
}
static int embed_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t) { return pw_embed_fwd(dev, t[M_OUT], t[M_TABLE], p->ids); }
static int embed_backward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t) { return pw_embed_bwd(dev, t[M_DTABLE], t[M_DOUT], p->ids); }
static double embed_bound(const struct op_case *c) { return sum_bound((double)c->p[0]); }
static const struct family embed = { "embed", embed_setup, embed_forward, embed_backward, embed_bound };

/* ---- rmsnorm; p: T, D; x: eps, w_offset. inv <= 1 / sqrt(mean x^2): inputs are kept away from 0 on average, inv <= 8. Sums are in double,
 * so each element has under ten roundings of values up to inv * 2; dx has inv * (g w - x * mean) with mean up to 8 * 8 * 2; dw sums T terms ---- */
enum { N_X, N_W, N_OUT, N_INV, N_DOUT, N_DX, N_DW };
static void norm_setup(struct problem *p)
{
    const int64_t *s = p->c->p;
    add2(p, "x", IN, s[0], s[1]);
    add1(p, "w", IN, s[1]);
    p->output = add2(p, "out", OUT, s[0], s[1]);
    add1(p, "inv_rms", OUT, s[0]);
    p->upstream = add2(p, "dout", IN, s[0], s[1]);
    p->a[N_X].gradient = add2(p, "dx", ADD, s[0], s[1]);
    p->a[N_W].gradient = add1(p, "dw", ADD, s[1]);
    p->a[N_X].low = 0.2; /* away from 0: bounds inv_rms by 5 */
}
static int norm_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t) { return pw_rmsnorm_fwd(dev, t[N_OUT], t[N_INV], t[N_X], t[N_W], p->c->x[0], p->c->x[1]); }
static int norm_backward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    return pw_rmsnorm_bwd(dev, t[N_DX], p->c->flags & CASE_NO_DX ? pw_none() : t[N_DW], t[N_DOUT], t[N_X], t[N_W], t[N_INV], p->c->x[1]);
}
static double norm_bound(const struct op_case *c) { return 10 * u * (200 + 5 * (double)c->p[0]); }
static const struct family norm = { "norm", norm_setup, norm_forward, norm_backward, norm_bound };

/* ---- rope; p: T, H, d, pairs, layout. Two products and a sum ---- */
enum { R_X, R_COS, R_SIN, R_OUT, R_DOUT, R_DX, R_BACK };
static void rope_setup(struct problem *p)
{
    const int64_t *s = p->c->p;
    struct pw_rng r = pw_rng_make(12, PW_STREAM_TEST);
    add3(p, "x", IN, s[0], s[1], s[2]);
    add2(p, "cosines", IN, 40, s[3]);
    add2(p, "sines", IN, 40, s[3]);
    p->output = add3(p, "out", OUT, s[0], s[1], s[2]);
    p->upstream = add3(p, "dout", IN, s[0], s[1], s[2]);
    p->a[R_X].gradient = add3(p, "dx", ADD, s[0], s[1], s[2]);
    add3(p, "back", OUT, s[0], s[1], s[2]);
    ids(p, s[0], 0, 40, &r);
}
static int rope_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    int rc = pw_copy(dev, t[R_OUT], t[R_X]);
    return rc ? rc : pw_rope(dev, t[R_OUT], p->ids, t[R_COS], t[R_SIN], (enum pw_rope_layout)p->c->p[4], 1);
}
static int rope_backward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    int rc = pw_copy(dev, t[R_BACK], t[R_DOUT]);
    rc = rc ? rc : pw_rope(dev, t[R_BACK], p->ids, t[R_COS], t[R_SIN], (enum pw_rope_layout)p->c->p[4], -1);
    return rc ? rc : pw_axpy(dev, t[R_DX], t[R_BACK], 1);
}
static double rope_bound(const struct op_case *c) { (void)c; return 8 * u; }
static const struct family rope = { "rope", rope_setup, rope_forward, rope_backward, rope_bound };

/* ---- attention; p: longest sequence, sequences, H, G, d; x: window, softcap, scale factor. Scores err by e = sum_bound(d) / sqrt(d), the
 * weights of a query relatively by 2e + 8u, so an output (a mean of |v| <= 1) by that plus its own sum over n weights that add up to 1. In
 * backward |dp|, |mean| <= d, dS <= 2 d scale, and up to n * H/G such terms are added ---- */
enum { A_Q, A_K, A_V, A_OUT, A_LSE, A_DOUT, A_DQ, A_DK, A_DV };
static void attn_setup(struct problem *p)
{
    const struct op_case *c = p->c;
    int n = (int)c->p[1];
    int32_t *q_start = hold(p, (size_t)(n + 1) * 4), *kv_start = hold(p, (size_t)n * 4), *kv_len = hold(p, (size_t)n * 4);
    int32_t *prefix_start = hold(p, (size_t)n * 4), *prefix_len = hold(p, (size_t)n * 4);
    int32_t rows = 0, keys = c->flags & CASE_PREFIX ? 70 : 0;
    for (int i = 0; i < n; i++) {
        int32_t len = (int32_t)(c->p[0] - i * (c->p[0] / (n + 1))), before = c->flags & CASE_CACHE ? 3 + 5 * i : 0;
        q_start[i] = rows;
        kv_start[i] = keys;
        kv_len[i] = len + before;
        prefix_len[i] = 70 - 2 * i; /* shared: ends within a block of keys, another one for each sequence */
        rows += len;
        keys += len + before;
    }
    q_start[n] = rows;
    p->seqs = (struct pw_seqs){ n, q_start, kv_start, kv_len, c->flags & CASE_PREFIX ? prefix_start : NULL, c->flags & CASE_PREFIX ? prefix_len : NULL };
    p->attn = (struct pw_attn){ c->x[2] / sqrt((double)c->p[4]), (int64_t)c->x[0], c->x[1] };
    add3(p, "q", IN, rows, c->p[2], c->p[4]);
    add3(p, "k", IN, keys, c->p[3], c->p[4]);
    add3(p, "v", IN, keys, c->p[3], c->p[4]);
    p->output = add3(p, "out", OUT, rows, c->p[2], c->p[4]);
    add2(p, "lse", OUT, rows, c->p[2]);
    p->upstream = add3(p, "dout", IN, rows, c->p[2], c->p[4]);
    p->a[A_Q].gradient = add3(p, "dq", ADD, rows, c->p[2], c->p[4]);
    p->a[A_K].gradient = add3(p, "dk", ADD, keys, c->p[3], c->p[4]);
    p->a[A_V].gradient = add3(p, "dv", ADD, keys, c->p[3], c->p[4]);
}
static int attn_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    int rc = pw_dev_reserve(dev, pw_scratch_attn(dev, t[A_Q].shape[0], t[A_K].shape[0], (int)p->c->p[2], (int)p->c->p[3], (int)p->c->p[4], true));
    return rc ? rc : pw_attn_fwd(dev, t[A_OUT], t[A_LSE], t[A_Q], t[A_K], t[A_V], &p->seqs, &p->attn);
}
static int attn_backward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    return pw_attn_bwd(dev, t[A_DQ], t[A_DK], t[A_DV], t[A_DOUT], t[A_OUT], t[A_LSE], t[A_Q], t[A_K], t[A_V], &p->seqs, &p->attn);
}
static double attn_bound(const struct op_case *c)
{
    double d = (double)c->p[4], n = (double)c->p[0] + 70, share = (double)(c->p[2] / c->p[3]), scale = c->x[2] / sqrt(d);
    double weight = 2 * (sum_bound(d) * scale + u * (4 + log(n) + 2 * scale * sqrt(d))) + 8 * u; /* relative, of one weight */
    double forward = weight + depth(n) * u;
    double backward = share * (weight + depth(n * share) * u) * 2 * sqrt(d) * (1 + scale * sqrt(d));
    return c->flags & CASE_GRAD ? forward + backward + u * 8 : forward + backward;
}
static const struct family attention = { "attn", attn_setup, attn_forward, attn_backward, attn_bound };

/* ---- glu; p: n, act. exp within 2 units, under ten roundings of values within 2 ---- */
enum { G_GATE, G_UP, G_OUT, G_DOUT, G_DGATE, G_DUP };
static void glu_setup(struct problem *p)
{
    int64_t n = p->c->p[0];
    add1(p, "gate", IN, n);
    add1(p, "up", IN, n);
    p->output = add1(p, "out", OUT, n);
    p->upstream = add1(p, "dout", IN, n);
    p->a[G_GATE].gradient = add1(p, "dgate", ADD, n);
    p->a[G_UP].gradient = add1(p, "dup", ADD, n);
    p->a[G_GATE].low = -p->c->x[0];
    p->a[G_GATE].high = p->c->x[0];
}
static int glu_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t) { return pw_glu_fwd(dev, t[G_OUT], t[G_GATE], t[G_UP], (enum pw_act)p->c->p[1]); }
static int glu_backward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    return pw_glu_bwd(dev, t[G_DGATE], t[G_DUP], t[G_DOUT], t[G_GATE], t[G_UP], (enum pw_act)p->c->p[1]);
}
static double glu_bound(const struct op_case *c) { return 20 * u * (1 + c->x[0]); }
static const struct family glu = { "glu", glu_setup, glu_forward, glu_backward, glu_bound };

/* ---- linear; p: T, K, N, R; x: dropout. A sum of K, plus the adapter: xa errs by sum_bound(K) / (1-p) and R of them are added with scale 0.5.
 * Gradients are sums of N (dx), T (dw, dbias), and twofold sums for da, db ---- */
enum { L_X, L_W, L_BIAS, L_A, L_B, L_Y, L_XA, L_DY, L_DX, L_DW, L_DBIAS, L_DA, L_DB };

/* A quantised or 16-bit weight with values within [-1, 1], made by ref's encode. */
static void quantise(struct problem *p, enum pw_qtype q, enum pw_dtype type, int64_t n_out, int64_t n_in, bool nested)
{
    struct pw_rng r = pw_rng_make(13, PW_STREAM_TEST);
    int64_t n = n_out * n_in;
    float *value = hold(p, (size_t)n * 4);
    for (int64_t i = 0; i < n; i++) value[i] = (float)(2 * pw_rng_uniform(&r) - 1);
    p->w = (struct pw_weight){ .n_out = n_out, .n_in = n_in, .type = q, .dtype = type, .block = 64, .nested_block = 256 };
    if (q == PW_Q_DENSE) {
        uint16_t *half = hold(p, (size_t)n * 2);
        for (int64_t i = 0; i < n; i++) half[i] = type == PW_BF16 ? pw_f32_to_bf16(value[i]) : pw_f32_to_f16(value[i]);
        p->w.data = half;
        return;
    }
    int64_t blocks = pw_weight_blocks(&p->w);
    float *absmax = hold(p, (size_t)blocks * 4);
    p->w.absmax = absmax;
    p->w.data = hold(p, (size_t)n);
    struct pw_dev *ref;
    if (pw_dev_open(&ref, &(struct pw_dev_options){ .kind = "ref" }) < 0 || pw_encode(ref, &p->w, pw_tensor2(value, PW_F32, n_out, n_in)) < 0) abort();
    pw_dev_close(ref);
    if (!nested) return;
    uint8_t *code = hold(p, (size_t)blocks);
    float *table = hold(p, (256 + 64) * 4);
    for (int i = 0; i < 256; i++) table[i] = (float)(i - 127) / 129;
    for (int i = 0; i < 64; i++) table[256 + i] = 0.1f + 0.01f * (float)i;
    for (int64_t i = 0; i < blocks; i++) code[i] = (uint8_t)pw_rng_below(&r, 256);
    p->w.absmax = NULL;
    p->w.absmax_q = code;
    p->w.nested_code = table;
    p->w.nested_absmax = table + 256;
    p->w.nested_offset = 0.5f;
}

static void linear_setup(struct problem *p)
{
    const struct op_case *c = p->c;
    int64_t tokens = c->p[0], k = c->p[1], n = c->p[2], r = c->flags & CASE_LORA ? c->p[3] : 0;
    bool dense = c->q == PW_Q_DENSE && c->type == PW_F32;
    add2(p, "x", IN, tokens, k);
    add2(p, "w", IN, dense ? n : 0, k);
    add(p, "bias", IN, PW_F32, 1, c->flags & CASE_BIAS ? n : 0, 1, 1);
    add2(p, "a", IN, r, k);
    add2(p, "b", IN, n, r);
    p->output = add2(p, "y", OUT, tokens, n);
    add2(p, "xa", OUT, tokens, r);
    p->upstream = add2(p, "dy", IN, tokens, n);
    p->a[L_X].gradient = add2(p, "dx", ADD, c->flags & CASE_NO_DX ? 0 : tokens, k);
    p->a[L_W].gradient = add2(p, "dw", ADD, dense ? n : 0, k);
    p->a[L_BIAS].gradient = add1(p, "dbias", ADD, c->flags & CASE_BIAS ? n : 0);
    p->a[L_A].gradient = add2(p, "da", ADD, r, k);
    p->a[L_B].gradient = add2(p, "db", ADD, n, r);
    if (c->flags & CASE_NO_DX) p->a[L_X].gradient = -1;
    if (!dense) quantise(p, c->q, c->type, n, k, c->flags & CASE_NESTED);
    p->drop = (struct pw_drop){ .p = c->x[0], .seed = 99, .offset = 7 };
}
static struct pw_tensor some(struct pw_tensor t) { return pw_count(t) ? t : pw_none(); }
static struct pw_weight linear_weight(struct problem *p, struct pw_tensor *t)
{
    struct pw_weight w = pw_count(t[L_W]) ? pw_weight_dense(t[L_W]) : p->w;
    w.bias = pw_count(t[L_BIAS]) ? t[L_BIAS].data : NULL;
    if (p->c->flags & CASE_LORA) {
        p->lora = (struct pw_lora){ .r = (int)p->c->p[3], .scale = 0.5, .a = t[L_A], .b = t[L_B] };
        w.lora = &p->lora;
    }
    return w;
}
static int linear_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    struct pw_weight w = linear_weight(p, t);
    int rc = pw_dev_reserve(dev, pw_scratch_linear(dev, p->c->p[0], &w, false));
    return rc ? rc : pw_linear_fwd(dev, t[L_Y], some(t[L_XA]), t[L_X], &w, p->drop);
}
static int linear_backward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    struct pw_weight w = linear_weight(p, t);
    struct pw_linear_grads g = { some(t[L_DX]), some(t[L_DW]), some(t[L_DBIAS]), some(t[L_DA]), some(t[L_DB]) };
    int rc = pw_dev_reserve(dev, pw_scratch_linear(dev, p->c->p[0], &w, true));
    return rc ? rc : pw_linear_bwd(dev, &g, t[L_DY], t[L_X], some(t[L_XA]), &w, p->drop);
}
static double linear_bound(const struct op_case *c)
{
    double tokens = (double)c->p[0], k = (double)c->p[1], n = (double)c->p[2], r = c->flags & CASE_LORA ? (double)c->p[3] : 0;
    double largest = tokens > k ? tokens : k, inner = n > k ? n : k, plain = sum_bound(largest > n ? largest : n);
    if (r == 0) return plain;
    double terms = r > tokens ? r : tokens; /* products of an inner sum, up to inner in size */
    return plain + 0.5 / (1 - c->x[0]) * terms * (sum_bound(inner) + (depth(terms) + 4) * u * inner);
}
static const struct family linear = { "linear", linear_setup, linear_forward, linear_backward, linear_bound };

/* ---- head_loss; p: T, D, V, masked every n-th; x: softcap. Logits err by e = sum_bound(D); loss by 2e and its own size (log V + 2D) times u;
 * gradients: weights err relatively by 2e + 8u, and V of them (adding up to 2) times |w| <= 1, or T of them for dw ---- */
enum { H_H, H_W, H_LOSS, H_DLOSS, H_DH, H_DW, H_BEST };
static void head_setup(struct problem *p)
{
    const struct op_case *c = p->c;
    struct pw_rng r = pw_rng_make(14, PW_STREAM_TEST);
    bool dense = c->q == PW_Q_DENSE && c->type == PW_F32;
    add2(p, "h", IN, c->p[0], c->p[1]);
    add2(p, "w", IN, dense ? c->p[2] : 0, c->p[1]);
    p->output = add1(p, "loss", OUT, c->p[0]);
    p->upstream = add1(p, "dloss", IN, c->p[0]);
    p->a[H_H].gradient = add2(p, "dh", ADD, c->p[0], c->p[1]);
    p->a[H_W].gradient = add2(p, "dw", ADD, dense ? c->p[2] : 0, c->p[1]);
    add(p, "argmax", OUT, PW_I32, 1, c->p[0], 1, 1);
    int32_t *target = ids(p, c->p[0], 0, c->p[2], &r);
    for (int64_t t = 0; c->p[3] && t < c->p[0]; t++)
        if (t % c->p[3] == 1) target[t] = -100;
    if (!dense) quantise(p, c->q, c->type, c->p[2], c->p[1], false);
}
static int head_run(struct problem *p, struct pw_dev *dev, struct pw_tensor *t, bool backward)
{
    struct pw_weight w = pw_count(t[H_W]) ? pw_weight_dense(t[H_W]) : p->w;
    int rc = pw_dev_reserve(dev, pw_scratch_head(dev, p->c->p[0], &w, backward));
    struct pw_tensor dh = backward ? t[H_DH] : pw_none(), dw = backward ? some(t[H_DW]) : pw_none();
    return rc ? rc : pw_head_loss(dev, t[H_LOSS], t[H_BEST], dh, dw, t[H_H], &w, p->ids, backward ? t[H_DLOSS] : pw_none(), p->c->x[0]);
}
static int head_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t) { return head_run(p, dev, t, false); }
static int head_backward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t) { return head_run(p, dev, t, true); }
static double head_bound(const struct op_case *c)
{
    double tokens = (double)c->p[0], d = (double)c->p[1], v = (double)c->p[2], e = sum_bound(d) + u * 2 * d;
    double loss = 2 * e + u * 4 * (log(v) + 2 * d), weight = 2 * e + 16 * u;
    return loss + 2 * weight * tokens + sum_bound(tokens) + depth(v) * u * 2;
}
static const struct family head = { "head", head_setup, head_forward, head_backward, head_bound };

/* ---- rows and sums; p: rows, width. Moves are exact; the sum is in double ---- */
enum { S_X, S_POOL, S_TAKEN, S_SUM };
static void rows_setup(struct problem *p)
{
    const int64_t *s = p->c->p;
    add2(p, "x", IN, s[0], s[1]);
    add2(p, "pool", UPDATE, 2 * s[0], s[1]);
    add2(p, "taken", OUT, s[0], s[1]);
    add(p, "sum", ADD, PW_F64, 1, 1, 1, 1);
    p->a[S_SUM].name = "sum (f64)";
    int32_t *row = hold(p, (size_t)s[0] * 4);
    for (int64_t i = 0; i < s[0]; i++) row[i] = (int32_t)((i * 7 + 3) % (2 * s[0])); /* 7 and 2 rows are coprime in the table: distinct */
    p->ids = pw_tensor1(row, PW_I32, s[0]);
}
static int rows_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    double sum = 0;
    int rc = pw_gather_rows(dev, t[S_TAKEN], t[S_POOL], p->ids);
    rc = rc ? rc : pw_scatter_rows(dev, t[S_POOL], t[S_X], p->ids);
    rc = rc ? rc : pw_sumsq(dev, pw_tensor1(&sum, PW_F64, 1), t[S_X]);
    rc = rc ? rc : pw_axpy(dev, t[S_SUM], pw_tensor1(t[S_SUM].dtype == PW_F64 ? (void *)&sum : (void *)&(float){ (float)sum }, t[S_SUM].dtype, 1), 1);
    return rc;
}
static double rows_bound(const struct op_case *c) { return u * 2 * (double)(c->p[0] * c->p[1]) + 2 * u; }
static const struct family rows = { "rows", rows_setup, rows_forward, NULL, rows_bound };

/* ---- adamw; p: n, step; x: lr, decay, grad scale. m, v: three roundings; the step is lr times a quotient whose denominator is at least sqrt of
 * the smallest v: v starts in [0.01, 1], so the quotient is below 20 and errs by 16 roundings of it ---- */
enum { W_P, W_M, W_V, W_G };
static void adamw_setup(struct problem *p)
{
    int64_t n = p->c->p[0];
    add1(p, "p", UPDATE, n);
    add1(p, "m", UPDATE, n);
    p->a[add1(p, "v", UPDATE, n)].low = 0.01;
    add1(p, "g", IN, n);
}
static int adamw_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    struct pw_adamw h = { .lr = p->c->x[0], .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = p->c->x[1], .step = p->c->p[1], .grad_scale = p->c->x[2] };
    return pw_adamw(dev, t[W_P], t[W_M], t[W_V], t[W_G], &h);
}
static double adamw_bound(const struct op_case *c) { return u * 8 + c->x[0] * u * 16 * 100; }
static const struct family adamw = { "adamw", adamw_setup, adamw_forward, NULL, adamw_bound };

/* ---- decode; p: K, N. Exact: the same f32 operations. A row range that begins inside a block and on an odd element ---- */
enum { D_ALL, D_PART };
static void decode_setup(struct problem *p)
{
    const int64_t *s = p->c->p;
    quantise(p, p->c->q, p->c->type, s[1], s[0], p->c->flags & CASE_NESTED);
    add2(p, "all", OUT, s[1], s[0]);
    add2(p, "part", OUT, s[1] / 2, s[0]);
}
static int decode_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    int rc = pw_decode(dev, t[D_ALL], &p->w, 0);
    return rc ? rc : pw_decode(dev, t[D_PART], &p->w, p->c->p[1] / 3);
}
static double decode_bound(const struct op_case *c) { (void)c; return 0; }
static const struct family decode = { "decode", decode_setup, decode_forward, NULL, decode_bound };

/* ---- the table ---- */
#define F32 PW_Q_DENSE, PW_F32
#define NF4 PW_Q_NF4, PW_BF16
#define FP4 PW_Q_FP4, PW_BF16
#define I8 PW_Q_INT8, PW_BF16
#define BF PW_Q_DENSE, PW_BF16
#define HF PW_Q_DENSE, PW_F16
const struct op_case op_cases[] = {
    { &elements, { 1 }, F32, 0, { 0 } }, { &elements, { 37 }, F32, 0, { 0 } }, { &elements, { 20001 }, F32, 0, { 0 } },
    { &embed, { 5, 7, 9 }, F32, CASE_GRAD, { 0 } }, { &embed, { 300, 50, 128 }, F32, 0, { 0 } },
    { &embed, { 17, 33, 65 }, BF, 0, { 0 } }, { &embed, { 17, 33, 65 }, HF, 0, { 0 } },
    { &norm, { 3, 7 }, F32, CASE_GRAD, { 1e-5, 0 } }, { &norm, { 4, 16 }, F32, CASE_GRAD, { 0.1, 1 } }, { &norm, { 33, 130 }, F32, 0, { 1e-6, 0 } },
    { &norm, { 130, 512 }, F32, 0, { 1e-6, 1 } }, { &norm, { 5, 64 }, F32, CASE_NO_DX, { 1e-6, 0 } },
    { &rope, { 4, 2, 8, 4, PW_ROPE_HALF }, F32, CASE_GRAD, { 0 } }, { &rope, { 4, 2, 8, 4, PW_ROPE_INTERLEAVED }, F32, CASE_GRAD, { 0 } },
    { &rope, { 4, 3, 10, 3, PW_ROPE_HALF }, F32, CASE_GRAD, { 0 } }, { &rope, { 90, 6, 64, 32, PW_ROPE_HALF }, F32, 0, { 0 } },
    { &rope, { 90, 6, 64, 20, PW_ROPE_INTERLEAVED }, F32, 0, { 0 } },
    /* T, sequences, H, G, d; window, softcap, scale */
    { &attention, { 5, 1, 2, 1, 3 }, F32, CASE_GRAD, { 0, 0, 1 } }, { &attention, { 6, 3, 4, 2, 4 }, F32, CASE_GRAD, { 3, 0, 1 } },
    { &attention, { 5, 2, 2, 2, 5 }, F32, CASE_GRAD, { 0, 1.5, 2 } }, { &attention, { 3, 2, 4, 2, 3 }, F32, CASE_GRAD | CASE_PREFIX, { 0, 0, 1 } },
    { &attention, { 3, 2, 2, 1, 3 }, F32, CASE_GRAD | CASE_PREFIX | CASE_CACHE, { 40, 0, 1 } },
    { &attention, { 4, 2, 2, 1, 3 }, F32, CASE_GRAD | CASE_CACHE, { 0, 0, 1 } },
    { &attention, { 1, 1, 3, 1, 16 }, F32, CASE_CACHE, { 0, 0, 1 } }, { &attention, { 130, 1, 4, 2, 64 }, F32, 0, { 0, 0, 1 } },
    { &attention, { 97, 3, 6, 3, 17 }, F32, 0, { 0, 0, 1 } }, { &attention, { 150, 2, 2, 2, 32 }, F32, 0, { 33, 0, 1 } },
    { &attention, { 90, 3, 2, 1, 24 }, F32, CASE_PREFIX, { 0, 0, 1 } }, { &attention, { 70, 3, 4, 2, 40 }, F32, CASE_PREFIX | CASE_CACHE, { 80, 5, 1 } },
    { &attention, { 40, 2, 2, 1, 80 }, F32, CASE_CACHE, { 0, 0, 3 } },
    { &glu, { 9, PW_ACT_SILU }, F32, CASE_GRAD, { 3 } }, { &glu, { 9, PW_ACT_GELU_TANH }, F32, CASE_GRAD, { 3 } },
    { &glu, { 1003, PW_ACT_SILU }, F32, 0, { 20 } }, { &glu, { 20000, PW_ACT_GELU_TANH }, F32, 0, { 20 } }, { &glu, { 77, PW_ACT_SILU }, F32, 0, { 300 } },
    /* T, K, N, R; dropout */
    { &linear, { 3, 5, 4, 2 }, F32, CASE_GRAD | CASE_BIAS, { 0 } }, { &linear, { 3, 5, 4, 2 }, F32, CASE_GRAD | CASE_LORA | CASE_BIAS, { 0 } },
    { &linear, { 4, 9, 6, 3 }, F32, CASE_GRAD | CASE_LORA, { 0.4 } }, { &linear, { 3, 9, 7, 2 }, NF4, CASE_GRAD | CASE_LORA, { 0.25 } },
    { &linear, { 2, 8, 5, 2 }, I8, CASE_GRAD, { 0 } }, { &linear, { 2, 8, 5, 2 }, BF, CASE_GRAD | CASE_BIAS, { 0 } },
    { &linear, { 1, 64, 48, 8 }, F32, 0, { 0 } }, { &linear, { 65, 130, 97, 8 }, F32, CASE_LORA | CASE_BIAS, { 0 } },
    { &linear, { 37, 520, 49, 4 }, F32, CASE_LORA, { 0.1 } }, { &linear, { 2, 1100, 51, 4 }, F32, 0, { 0 } },
    { &linear, { 1, 64, 50, 16 }, NF4, CASE_LORA, { 0 } }, { &linear, { 2, 640, 50, 16 }, NF4, CASE_LORA, { 0 } },
    { &linear, { 3, 640, 50, 16 }, NF4, CASE_LORA | CASE_NESTED, { 0 } }, { &linear, { 1, 576, 130, 16 }, NF4, CASE_NESTED, { 0 } },
    { &linear, { 1, 576, 130, 16 }, FP4, CASE_BIAS, { 0 } }, { &linear, { 9, 65, 51, 3 }, NF4, CASE_LORA | CASE_BIAS, { 0.1 } },
    { &linear, { 70, 129, 133, 17 }, NF4, CASE_LORA, { 0.05 } }, { &linear, { 9, 65, 51, 3 }, FP4, 0, { 0 } }, { &linear, { 9, 65, 51, 3 }, I8, CASE_LORA, { 0 } },
    { &linear, { 130, 96, 40, 130 }, BF, CASE_LORA, { 0 } }, { &linear, { 6, 70, 30, 4 }, HF, 0, { 0 } }, { &linear, { 33, 64, 40, 8 }, NF4, CASE_LORA | CASE_NO_DX, { 0.1 } },
    { &linear, { 300, 24, 20, 8 }, F32, CASE_LORA | CASE_BIAS, { 0 } }, { &linear, { 140, 33, 12, 3 }, NF4, CASE_LORA, { 0.2 } },
    /* T, D, V, masked; softcap */
    { &head, { 4, 5, 7, 3 }, F32, CASE_GRAD, { 0 } }, { &head, { 4, 5, 7, 0 }, F32, CASE_GRAD, { 2 } }, { &head, { 3, 6, 9, 2 }, NF4, CASE_GRAD, { 0 } },
    { &head, { 2, 4, 1, 0 }, F32, CASE_GRAD, { 0 } }, { &head, { 150, 32, 101, 4 }, F32, 0, { 0 } }, { &head, { 33, 16, 1500, 2 }, F32, 0, { 3 } },
    { &head, { 20, 64, 200, 3 }, BF, 0, { 0 } }, { &head, { 1, 64, 200, 0 }, NF4, 0, { 0 } },
    { &rows, { 1, 3 }, F32, 0, { 0 } }, { &rows, { 40, 33 }, F32, 0, { 0 } }, { &rows, { 200, 130 }, F32, 0, { 0 } },
    { &adamw, { 1, 1 }, F32, 0, { 1e-3, 0, 1 } }, { &adamw, { 1003, 1 }, F32, 0, { 1e-2, 0.1, 0.3 } }, { &adamw, { 20000, 100 }, F32, 0, { 1e-2, 0.1, 1 } },
    { &decode, { 64, 6 }, NF4, 0, { 0 } }, { &decode, { 65, 9 }, NF4, 0, { 0 } }, { &decode, { 65, 9 }, FP4, 0, { 0 } }, { &decode, { 200, 9 }, NF4, CASE_NESTED, { 0 } },
    { &decode, { 7, 3 }, NF4, 0, { 0 } }, { &decode, { 65, 9 }, I8, 0, { 0 } }, { &decode, { 65, 9 }, BF, 0, { 0 } }, { &decode, { 65, 9 }, HF, 0, { 0 } },
};
const int op_cases_n = (int)(sizeof op_cases / sizeof *op_cases);
