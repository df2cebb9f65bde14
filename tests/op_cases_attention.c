/* Cases of attention: arrays, calls and bounds (rules: op_parts.h). */
#include "tests/op_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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
    act3(p, "q", IN, rows, c->p[2], c->p[4]);
    act3(p, "k", IN, keys, c->p[3], c->p[4]);
    act3(p, "v", IN, keys, c->p[3], c->p[4]);
    p->output = act3(p, "out", OUT, rows, c->p[2], c->p[4]);
    add2(p, "lse", OUT, rows, c->p[2]);
    p->upstream = act3(p, "dout", IN, rows, c->p[2], c->p[4]);
    p->a[A_Q].gradient = act3(p, "dq", ADD, rows, c->p[2], c->p[4]);
    p->a[A_K].gradient = act3(p, "dk", ADD, keys, c->p[3], c->p[4]);
    p->a[A_V].gradient = act3(p, "dv", ADD, keys, c->p[3], c->p[4]);
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
static const struct family attention = { "attn", attn_setup, attn_forward, attn_backward, attn_bound, NULL };

const struct op_case op_cases_attention[] = {
    /* T, sequences, H, G, d; window, softcap, scale */
    { &attention, { 5, 1, 2, 1, 3 }, F32, CASE_GRAD, { 0, 0, 1 } }, { &attention, { 6, 3, 4, 2, 4 }, F32, CASE_GRAD, { 3, 0, 1 } },
    { &attention, { 5, 2, 2, 2, 5 }, F32, CASE_GRAD, { 0, 1.5, 2 } }, { &attention, { 3, 2, 4, 2, 3 }, F32, CASE_GRAD | CASE_PREFIX, { 0, 0, 1 } },
    { &attention, { 3, 2, 2, 1, 3 }, F32, CASE_GRAD | CASE_PREFIX | CASE_CACHE, { 40, 0, 1 } },
    { &attention, { 4, 2, 2, 1, 3 }, F32, CASE_GRAD | CASE_CACHE, { 0, 0, 1 } }, { &attention, { 1, 1, 3, 1, 16 }, F32, CASE_CACHE, { 0, 0, 1 } },
    { &attention, { 130, 1, 4, 2, 64 }, F32, 0, { 0, 0, 1 } }, { &attention, { 97, 3, 6, 3, 17 }, F32, 0, { 0, 0, 1 } },
    { &attention, { 150, 2, 2, 2, 32 }, F32, 0, { 33, 0, 1 } }, { &attention, { 90, 3, 2, 1, 24 }, F32, CASE_PREFIX, { 0, 0, 1 } },
    { &attention, { 70, 3, 4, 2, 40 }, F32, CASE_PREFIX | CASE_CACHE, { 80, 5, 1 } },
    { &attention, { 40, 2, 2, 1, 80 }, F32, CASE_CACHE, { 0, 0, 3 } },
};
const int op_cases_attention_n = (int)(sizeof op_cases_attention / sizeof *op_cases_attention);
