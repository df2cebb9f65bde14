/* Cases of the ops that go by element or by row: their arrays, calls and bounds (rules: op_parts.h). */
#include "tests/op_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

/* ---- elements: fill, copy, axpy, scale, softcap; p: n. Every element is a product and a sum of values within [-2, 2] ---- */
enum { E_X, E_Y, E_FILLED, E_COPIED, E_HALF, E_BRAIN, E_SCALED, E_CAPPED };
static void elements_setup(struct problem *p)
{
    int64_t n = p->c->p[0];
    act1(p, "x", IN, n);
    act1(p, "y", ADD, n);
    add1(p, "filled", OUT, n);
    act1(p, "copied", OUT, n);
    add(p, "half", OUT, PW_F16, 1, n, 1, 1);
    add(p, "brain", OUT, PW_BF16, 1, n, 1, 1);
    act1(p, "scaled", UPDATE, n);
    add1(p, "capped", UPDATE, n);
}
static int elements_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    (void)p;
    int rc = pw_axpy(dev, t[E_Y], t[E_X], 0.75);
    rc = rc ? rc : pw_fill(dev, t[E_FILLED], 0.3);
    rc = rc ? rc : pw_copy(dev, t[E_COPIED], t[E_X]);
    rc = rc ? rc : pw_copy(dev, t[E_HALF], t[E_X]);
    rc = rc ? rc : pw_copy(dev, t[E_BRAIN], t[E_X]);
    rc = rc ? rc : pw_softcap(dev, t[E_CAPPED], 0.75);
    return rc ? rc : pw_scale(dev, t[E_SCALED], -1.5);
}
static double elements_bound(const struct op_case *c) { (void)c; return 4 * u; }
static const struct family elements = { "elements", elements_setup, elements_forward, NULL, elements_bound, NULL };

/* ---- embed; p: T, V, D. Forward is exact; backward sums up to T values ---- */
enum { M_TABLE, M_OUT, M_DOUT, M_DTABLE };
static void embed_setup(struct problem *p)
{
    const int64_t *s = p->c->p;
    struct pw_rng r = pw_rng_make(11, PW_STREAM_TEST);
    add(p, "table", IN, p->c->type == PW_F32 ? PW_F64 : p->c->type, 2, s[1], s[2], 1);
    p->output = act2(p, "out", OUT, s[0], s[2]);
    p->upstream = act2(p, "dout", IN, s[0], s[2]);
    p->a[M_TABLE].gradient = add2(p, "dtable", ADD, s[1], s[2]);
    ids(p, s[0], 0, s[1], &r);
}
static int embed_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    const struct pw_weight table = pw_weight_dense(t[M_TABLE]);
    return pw_embed_fwd(dev, t[M_OUT], &table, p->ids);
}
static int embed_backward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t) { return pw_embed_bwd(dev, t[M_DTABLE], t[M_DOUT], p->ids); }
static double embed_bound(const struct op_case *c) { return sum_bound((double)c->p[0]); }
static const struct family embed = { "embed", embed_setup, embed_forward, embed_backward, embed_bound, NULL };

/* ---- rmsnorm; p: T, D; x: eps, w_offset. inv <= 1 / sqrt(mean x^2): inputs are kept away from 0 on average, inv <= 8. Sums are in double,
 * so each element has under ten roundings of values up to inv * 2; dx has inv * (g w - x * mean) with mean up to 8 * 8 * 2; dw sums T terms ---- */
enum { N_X, N_W, N_OUT, N_INV, N_DOUT, N_DX, N_DW };
static void norm_setup(struct problem *p)
{
    const int64_t *s = p->c->p;
    act2(p, "x", IN, s[0], s[1]);
    add1(p, "w", IN, s[1]);
    p->output = act2(p, "out", OUT, s[0], s[1]);
    add1(p, "inv_rms", OUT, s[0]);
    p->upstream = act2(p, "dout", IN, s[0], s[1]);
    p->a[N_X].gradient = act2(p, "dx", ADD, s[0], s[1]);
    p->a[N_W].gradient = add1(p, "dw", ADD, s[1]);
    p->a[N_X].low = 0.2; /* away from 0: bounds inv_rms by 5 */
}
static int norm_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t) { return pw_rmsnorm_fwd(dev, t[N_OUT], t[N_INV], t[N_X], t[N_W], p->c->x[0], p->c->x[1]); }
static int norm_backward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    return pw_rmsnorm_bwd(dev, t[N_DX], p->c->flags & CASE_NO_DX ? pw_none() : t[N_DW], t[N_DOUT], t[N_X], t[N_W], t[N_INV], p->c->x[1]);
}
static double norm_bound(const struct op_case *c) { return 10 * u * (200 + 5 * (double)c->p[0]); }
static const struct family norm = { "norm", norm_setup, norm_forward, norm_backward, norm_bound, NULL };

/* ---- rope; p: T, H, d, pairs, layout. Two products and a sum ---- */
enum { R_X, R_COS, R_SIN, R_OUT, R_DOUT, R_DX, R_BACK };
static void rope_setup(struct problem *p)
{
    const int64_t *s = p->c->p;
    struct pw_rng r = pw_rng_make(12, PW_STREAM_TEST);
    act3(p, "x", IN, s[0], s[1], s[2]);
    add2(p, "cosines", IN, 40, s[3]);
    add2(p, "sines", IN, 40, s[3]);
    p->output = act3(p, "out", OUT, s[0], s[1], s[2]);
    p->upstream = act3(p, "dout", IN, s[0], s[1], s[2]);
    p->a[R_X].gradient = act3(p, "dx", ADD, s[0], s[1], s[2]);
    act3(p, "back", OUT, s[0], s[1], s[2]);
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
/* what comes back is rounded before it is added */
static double rope_bound16(const struct op_case *c, const double *largest) { (void)c; return u16 * largest[R_BACK]; }
static const struct family rope = { "rope", rope_setup, rope_forward, rope_backward, rope_bound, rope_bound16 };

/* ---- glu; p: n, act. exp within 2 units, under ten roundings of values within 2 ---- */
enum { G_GATE, G_UP, G_OUT, G_DOUT, G_DGATE, G_DUP };
static void glu_setup(struct problem *p)
{
    int64_t n = p->c->p[0];
    act1(p, "gate", IN, n);
    act1(p, "up", IN, n);
    p->output = act1(p, "out", OUT, n);
    p->upstream = act1(p, "dout", IN, n);
    p->a[G_GATE].gradient = act1(p, "dgate", ADD, n);
    p->a[G_UP].gradient = act1(p, "dup", ADD, n);
    p->a[G_GATE].low = -p->c->x[0];
    p->a[G_GATE].high = p->c->x[0];
}
static int glu_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t) { return pw_glu_fwd(dev, t[G_OUT], t[G_GATE], t[G_UP], (enum pw_act)p->c->p[1]); }
static int glu_backward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    return pw_glu_bwd(dev, t[G_DGATE], t[G_DUP], t[G_DOUT], t[G_GATE], t[G_UP], (enum pw_act)p->c->p[1]);
}
static double glu_bound(const struct op_case *c) { return 20 * u * (1 + c->x[0]); }
static const struct family glu = { "glu", glu_setup, glu_forward, glu_backward, glu_bound, NULL };

/* ---- rows and sums; p: rows, width. Moves are exact; the sum is in double ---- */
enum { S_X, S_POOL, S_TAKEN, S_SUMMED, S_SUM };
static void rows_setup(struct problem *p)
{
    const int64_t *s = p->c->p;
    act2(p, "x", IN, s[0], s[1]);
    act2(p, "pool", UPDATE, 2 * s[0], s[1]);
    act2(p, "taken", OUT, s[0], s[1]);
    add2(p, "summed", IN, s[0], s[1]);
    p->a[add1(p, "sum", ADD, 1)].f64 = true;
    int32_t *row = hold(p, (size_t)s[0] * 4);
    for (int64_t i = 0; i < s[0]; i++) row[i] = (int32_t)((i * 7 + 3) % (2 * s[0])); /* 7 and 2 rows are coprime in the table: distinct */
    p->ids = pw_tensor1(row, PW_I32, s[0]);
}
static int rows_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    int rc = pw_gather_rows(dev, t[S_TAKEN], t[S_POOL], p->ids);
    rc = rc ? rc : pw_scatter_rows(dev, t[S_POOL], t[S_X], p->ids);
    return rc ? rc : pw_sumsq(dev, t[S_SUM], t[S_SUMMED]);
}
static double rows_bound(const struct op_case *c) { return u * 2 * (double)(c->p[0] * c->p[1]) + 2 * u; }
static const struct family rows = { "rows", rows_setup, rows_forward, NULL, rows_bound, NULL };

/* ---- columns; p: rows, columns of the wide side, first and number of those that move. Exact ---- */
enum { C_WIDE, C_OUT, C_NARROW, C_INTO };
static void columns_setup(struct problem *p)
{
    const int64_t *s = p->c->p;
    act2(p, "wide", IN, s[0], s[1]);
    act2(p, "out", OUT, s[0], s[3]);
    act2(p, "narrow", IN, s[0], s[3]);
    act2(p, "into", UPDATE, s[0], s[1]);
}
static int columns_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    const int64_t *s = p->c->p;
    int rc = pw_columns_copy(dev, t[C_OUT], pw_columns(t[C_WIDE], s[2], s[3]));
    return rc ? rc : pw_columns_copy(dev, pw_columns(t[C_INTO], s[2], s[3]), t[C_NARROW]);
}
static double columns_bound(const struct op_case *c) { (void)c; return u; }
static const struct family columns = { "columns", columns_setup, columns_forward, NULL, columns_bound, NULL };

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
static const struct family adamw = { "adamw", adamw_setup, adamw_forward, NULL, adamw_bound, NULL };

/* ---- noise; p: T, D; x: largest scale. A word in f32 errs by half a unit of 2^-24, the product and the sum round once each ---- */
static void noise_setup(struct problem *p)
{
    p->a[add2(p, "x", UPDATE, p->c->p[0], p->c->p[1])].act = true;
    const int scale = add1(p, "scale", IN, p->c->p[0]);
    p->a[scale].type = PW_F32;
    p->a[scale].low = 0, p->a[scale].high = p->c->x[0];
}
static int noise_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    (void)p;
    return pw_noise(dev, t[0], t[1], (struct pw_drop){ .seed = 77, .offset = ((uint64_t)5 << 40) + 3, .first = ((uint64_t)1 << 34) + 3 });
}
static double noise_bound(const struct op_case *c) { return u * (2 + 4 * c->x[0]); }
static const struct family noise = { "noise", noise_setup, noise_forward, NULL, noise_bound, NULL };

/* ---- lion; p: n; x: lr, decay, grad scale. The sign of c is that of a sum that errs by 3 roundings: inputs are steps of 1/64, the betas are binary
 * and the scale a power of two, so c is exact and 0 is met. m: two roundings ---- */
static void lion_setup(struct problem *p)
{
    int64_t n = p->c->p[0];
    p->a[add1(p, "p", UPDATE, n)].type = PW_F32;
    p->a[add1(p, "m", UPDATE, n)].type = PW_F32;
    p->a[add1(p, "g", IN, n)].type = PW_F32;
}
static int lion_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    struct pw_adamw h = { .lr = p->c->x[0], .beta1 = 0.5, .beta2 = 0.75, .weight_decay = p->c->x[1], .step = 1, .grad_scale = p->c->x[2] };
    return pw_lion(dev, t[0], t[1], t[2], &h);
}
static double lion_bound(const struct op_case *c) { return u * 8 + c->x[0] * u * 8; }
static const struct family lion = { "lion", lion_setup, lion_forward, NULL, lion_bound, NULL };

/* ---- adamw8; p: n, step; x: lr, decay, grad scale. Bound as adamw: v is at least 0.5 / 255, so the quotient is below 20 here too. Maps
 * ascend evenly ---- */
enum { X_P, X_M, X_MS, X_V, X_VS, X_G, X_MAPS };
static void adamw8_setup(struct problem *p)
{
    int64_t n = p->c->p[0], blocks = (n + PW_STATE8_BLOCK - 1) / PW_STATE8_BLOCK;
    add1(p, "p", UPDATE, n);
    int m = add1(p, "m", UPDATE, n), ms = add1(p, "m_scale", UPDATE, blocks), v = add1(p, "v", UPDATE, n), vs = add1(p, "v_scale", UPDATE, blocks);
    add1(p, "g", IN, n);
    int maps = add1(p, "maps", OUT, 512);      /* filled below */
    p->a[m].type = p->a[v].type = PW_U8;
    p->a[m].low = 0, p->a[v].low = 1, p->a[m].high = p->a[v].high = 255.9;
    p->a[ms].type = p->a[vs].type = p->a[maps].type = PW_F32;
    p->a[ms].low = p->a[vs].low = 0.5, p->a[ms].high = p->a[vs].high = 1;
}
static int adamw8_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    struct pw_adamw h = { .lr = p->c->x[0], .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = p->c->x[1], .step = p->c->p[1], .grad_scale = p->c->x[2] };
    float maps[512];
    for (int i = 0; i < 256; i++) {
        maps[i] = (float)(i - 127) / 128;
        maps[256 + i] = (float)i / 255;
    }
    PW_PASS(pw_dev_put(dev, t[X_MAPS].data, maps, sizeof maps));
    return pw_adamw8(dev, t[X_P], t[X_M], t[X_MS], t[X_V], t[X_VS], t[X_G], t[X_MAPS], &h);
}
static const struct family adamw8 = { "adamw8", adamw8_setup, adamw8_forward, NULL, adamw_bound, NULL };

const struct op_case op_cases_elements[] = {
    { &elements, { 1 }, F32, 0, { 0 } }, { &elements, { 37 }, F32, 0, { 0 } }, { &elements, { 20001 }, F32, 0, { 0 } },
    { &elements, { 12290 }, F32, 0, { 0 } },
    { &embed, { 5, 7, 9 }, F32, CASE_GRAD, { 0 } }, { &embed, { 300, 50, 128 }, F32, 0, { 0 } }, { &embed, { 17, 33, 65 }, BF, 0, { 0 } },
    { &embed, { 17, 33, 65 }, HF, 0, { 0 } }, { &embed, { 9, 4, 2056 }, BF, 0, { 0 } }, { &embed, { 3, 5, 2059 }, F32, 0, { 0 } }, { &embed, { 9, 4, 16 }, HF, 0, { 0 } },
    { &norm, { 3, 7 }, F32, CASE_GRAD, { 1e-5, 0 } }, { &norm, { 4, 16 }, F32, CASE_GRAD, { 0.1, 1 } }, { &norm, { 33, 130 }, F32, 0, { 1e-6, 0 } },
    { &norm, { 130, 512 }, F32, 0, { 1e-6, 1 } }, { &norm, { 5, 64 }, F32, CASE_NO_DX, { 1e-6, 0 } },
    { &norm, { 2, 4360 }, F32, 0, { 1e-6, 0 } }, { &norm, { 2, 4361 }, F32, 0, { 1e-6, 0 } }, { &norm, { 65, 33 }, F32, 0, { 1e-6, 0 } },
    { &rope, { 4, 2, 8, 4, PW_ROPE_HALF }, F32, CASE_GRAD, { 0 } }, { &rope, { 4, 2, 8, 4, PW_ROPE_INTERLEAVED }, F32, CASE_GRAD, { 0 } },
    { &rope, { 4, 3, 10, 3, PW_ROPE_HALF }, F32, CASE_GRAD, { 0 } }, { &rope, { 90, 6, 64, 32, PW_ROPE_HALF }, F32, 0, { 0 } },
    { &rope, { 90, 6, 64, 20, PW_ROPE_INTERLEAVED }, F32, 0, { 0 } }, { &rope, { 3, 3, 10, 3, PW_ROPE_INTERLEAVED }, F32, 0, { 0 } },
    { &rope, { 2, 40, 128, 64, PW_ROPE_HALF }, F32, 0, { 0 } }, { &rope, { 5, 2, 24, 8, PW_ROPE_HALF }, F32, 0, { 0 } },
    { &glu, { 9, PW_ACT_SILU }, F32, CASE_GRAD, { 3 } }, { &glu, { 9, PW_ACT_GELU_TANH }, F32, CASE_GRAD, { 3 } },
    { &glu, { 1003, PW_ACT_SILU }, F32, 0, { 20 } }, { &glu, { 20000, PW_ACT_GELU_TANH }, F32, 0, { 20 } },
    { &glu, { 4102, PW_ACT_SILU }, F32, 0, { 20 } }, { &glu, { 1003, PW_ACT_GELU_TANH }, F32, 0, { 20 } },
    { &glu, { 77, PW_ACT_SILU }, F32, 0, { 300 } },
    { &columns, { 1, 3, 1, 1 }, F32, 0, { 0 } }, { &columns, { 5, 12, 4, 6 }, F32, 0, { 0 } }, { &columns, { 40, 64, 16, 32 }, F32, 0, { 0 } },
    { &columns, { 3, 9000, 24, 8200 }, F32, 0, { 0 } }, { &columns, { 7, 1037, 1030, 7 }, F32, 0, { 0 } }, { &columns, { 9, 16, 0, 16 }, F32, 0, { 0 } },
    { &rows, { 1, 3 }, F32, 0, { 0 } }, { &rows, { 40, 33 }, F32, 0, { 0 } }, { &rows, { 200, 130 }, F32, 0, { 0 } },
    { &rows, { 9, 64 }, F32, 0, { 0 } }, { &rows, { 3, 4104 }, F32, 0, { 0 } }, { &rows, { 3, 1030 }, F32, 0, { 0 } },
    { &adamw, { 1, 1 }, F32, 0, { 1e-3, 0, 1 } }, { &adamw, { 1003, 1 }, F32, 0, { 1e-2, 0.1, 0.3 } },
    { &adamw, { 20000, 100 }, F32, 0, { 1e-2, 0.1, 1 } }, { &adamw, { 2050, 7 }, F32, 0, { 1e-2, 0.1, 1 } },
    { &adamw8, { 1, 1 }, F32, 0, { 1e-3, 0, 1 } }, { &adamw8, { 256, 3 }, F32, 0, { 1e-2, 0, 0.3 } }, { &adamw8, { 1003, 2 }, F32, 0, { 1e-2, 0.1, 0.3 } },
    { &adamw8, { 20000, 100 }, F32, 0, { 1e-2, 0.1, 1 } },
    { &noise, { 1, 1 }, F32, 0, { 1 } }, { &noise, { 7, 9 }, F32, 0, { 2 } }, { &noise, { 60, 130 }, F32, 0, { 1 } },
    { &lion, { 1 }, F32, 0, { 1e-3, 0, 1 } }, { &lion, { 1003 }, F32, 0, { 1e-2, 0.1, 0.5 } }, { &lion, { 20000 }, F32, 0, { 1e-2, 0.1, 1 } },
};
const int op_cases_elements_n = (int)(sizeof op_cases_elements / sizeof *op_cases_elements);
