/* Cases of what adapters with a magnitude add to linear layers: lengths of rows, dropout by itself, columns scaled and summed (rules: op_parts.h).
 * The layers themselves are in op_cases_linear.c. */
#include "tests/op_parts.h"

#include <math.h>

static struct pw_tensor some(struct pw_tensor t) { return pw_count(t) ? t : pw_none(); }

/* ---- row_norm; p: K, N, R. An element of W + B A / 2 errs by 0.5 (depth(R) + 2) u R + u (1 + R / 2), relatively to a length of K of them by the same and
 * (depth(K) + 4) u; the length is at most sqrt(K) (1 + R / 2) ---- */
enum { N_W, N_A, N_B, N_NORM };
static void row_norm_setup(struct problem *p)
{
    const struct op_case *c = p->c;
    const int64_t k = c->p[0], n = c->p[1], r = c->p[2];
    const bool dense = c->q == PW_Q_DENSE && c->type == PW_F32;
    add2(p, "w", IN, dense ? n : 0, k);
    add2(p, "a", IN, r, k);
    add2(p, "b", IN, n, r);
    add1(p, "norm", OUT, n);
    if (!dense) quantised_weight(p, c->q, c->type, n, k, c->flags & CASE_NESTED);
}
static int row_norm_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    struct pw_weight w = pw_count(t[N_W]) ? pw_weight_dense(t[N_W]) : p->w;
    p->lora = (struct pw_lora){ .r = (int)p->c->p[2], .scale = 0.5, .a = t[N_A], .b = t[N_B] };
    if (p->lora.r) w.lora = &p->lora;
    int rc = pw_dev_reserve(dev, pw_scratch_linear(dev, 1, &w, false));
    return rc ? rc : pw_row_norm(dev, t[N_NORM], &w);
}
static double row_norm_bound(const struct op_case *c)
{
    const double k = (double)c->p[0], r = (double)c->p[2], length = sqrt(k) * (1 + 0.5 * r);
    return sqrt(k) * (0.5 * (depth(r) + 2) * u * r + u * (1 + 0.5 * r)) + (depth(k) + 4) * u * length;
}
static const struct family row_norm = { "row_norm", row_norm_setup, row_norm_forward, NULL, row_norm_bound, NULL };

/* ---- dropout; p: T, K; x: p. Its two products and its sum round once each; 1 - 1 / (1 - p) too ---- */
static void dropout_setup(struct problem *p)
{
    const int64_t *s = p->c->p;
    act2(p, "x", IN, s[0], s[1]);
    act2(p, "kept", OUT, s[0], s[1]);
    act2(p, "rest", OUT, s[0], s[1]);
    act2(p, "kept_added", UPDATE, s[0], s[1]);
    act2(p, "rest_added", UPDATE, s[0], s[1]);
}
static int dropout_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    const struct pw_drop drop = { .p = p->c->x[0], .seed = 99, .offset = ((uint64_t)3 << 33) + 7, .first = 5 };
    for (int i = 0; i < 4; i++) {
        int rc = pw_dropout(dev, t[1 + i], t[0], drop, i % 2, i >= 2);
        if (rc) return rc;
    }
    return 0;
}
static double dropout_bound(const struct op_case *c) { return 6 * u / (1 - c->x[0]); }
static const struct family dropout = { "dropout", dropout_setup, dropout_forward, NULL, dropout_bound, NULL };

/* ---- column_scale; p: T, N. Quotient, product and two sums of values up to 1, 1, 2 and 3 ---- */
enum { S_X, S_M, S_NORM, S_BIAS, S_OUT, S_ADDED, S_WIDE, S_SAME };
static void column_scale_setup(struct problem *p)
{
    const int64_t *s = p->c->p;
    act2(p, "x", IN, s[0], s[1]);
    add1(p, "m", IN, s[1]);
    p->a[add1(p, "norm", IN, s[1])].low = 1;
    p->a[S_NORM].high = 2;
    add(p, "bias", IN, PW_F32, 1, p->c->flags & CASE_BIAS ? s[1] : 0, 1, 1);
    act2(p, "out", OUT, s[0], s[1]);
    act2(p, "added", UPDATE, s[0], s[1]);
    add2(p, "wide", OUT, s[0], s[1]);
    act2(p, "same", UPDATE, s[0], s[1]);
}
static int column_scale_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    (void)p;
    int rc = pw_column_scale(dev, t[S_OUT], t[S_X], t[S_M], t[S_NORM], some(t[S_BIAS]), false);
    rc = rc ? rc : pw_column_scale(dev, t[S_ADDED], t[S_X], t[S_M], t[S_NORM], some(t[S_BIAS]), true);
    rc = rc ? rc : pw_column_scale(dev, t[S_WIDE], t[S_X], t[S_M], t[S_NORM], some(t[S_BIAS]), false);
    return rc ? rc : pw_column_scale(dev, t[S_SAME], t[S_SAME], t[S_M], t[S_NORM], some(t[S_BIAS]), false);
}
static double column_scale_bound(const struct op_case *c) { (void)c; return 8 * u; }
static const struct family column_scale = { "column_scale", column_scale_setup, column_scale_forward, NULL, column_scale_bound, NULL };

/* ---- column_dot; p: T, N ---- */
static void column_dot_setup(struct problem *p)
{
    const int64_t *s = p->c->p;
    add1(p, "out", ADD, s[1]);
    act2(p, "x", IN, s[0], s[1]);
    act2(p, "y", IN, s[0], s[1]);
    p->a[add1(p, "norm", IN, s[1])].low = 1;
    p->a[3].high = 2;
}
static int column_dot_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    (void)p;
    return pw_column_dot(dev, t[0], t[1], t[2], t[3]);
}
static double column_dot_bound(const struct op_case *c) { return sum_bound((double)c->p[0]) + 4 * u; }
static const struct family column_dot = { "column_dot", column_dot_setup, column_dot_forward, NULL, column_dot_bound, NULL };

const struct op_case op_cases_dora[] = {
    /* K, N, R */
    { &row_norm, { 5, 3, 0 }, F32, 0, { 0 } }, { &row_norm, { 9, 5, 3 }, F32, 0, { 0 } }, { &row_norm, { 1100, 21, 8 }, F32, 0, { 0 } }, { &row_norm, { 2056, 18, 70 }, F32, 0, { 0 } },
    { &row_norm, { 64, 7, 4 }, NF4, CASE_NESTED, { 0 } }, { &row_norm, { 129, 33, 17 }, NF4, 0, { 0 } }, { &row_norm, { 40, 9, 600 }, FP4, 0, { 0 } }, { &row_norm, { 544, 6, 4 }, I8, 0, { 0 } },
    { &row_norm, { 72, 5, 4 }, BF, 0, { 0 } }, { &row_norm, { 70, 5, 4 }, HF, 0, { 0 } }, { &row_norm, { 96, 6, 4 }, G(Q8_0), 0, { 0 } }, { &row_norm, { 1280, 6, 4 }, G(Q4_K), 0, { 0 } },
    { &row_norm, { 512, 6, 0 }, G(Q6_K), 0, { 0 } }, { &row_norm, { 64, 6, 2 }, G(IQ4_NL), 0, { 0 } },
    /* T, K; p */
    { &dropout, { 1, 1 }, F32, 0, { 0.5 } }, { &dropout, { 7, 9 }, F32, 0, { 0.3 } }, { &dropout, { 33, 130 }, F32, 0, { 0.1 } }, { &dropout, { 5, 6 }, F32, 0, { 0 } },
    /* T, N */
    { &column_scale, { 1, 1 }, F32, 0, { 0 } }, { &column_scale, { 7, 9 }, F32, CASE_BIAS, { 0 } }, { &column_scale, { 60, 130 }, F32, CASE_BIAS, { 0 } },
    { &column_dot, { 1, 1 }, F32, 0, { 0 } }, { &column_dot, { 7, 9 }, F32, 0, { 0 } }, { &column_dot, { 130, 70 }, F32, 0, { 0 } }, { &column_dot, { 600, 33 }, F32, 0, { 0 } },
};
const int op_cases_dora_n = (int)(sizeof op_cases_dora / sizeof *op_cases_dora);
