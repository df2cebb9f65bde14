/* Cases of the ops of experts: choosing them, rows in their order, their linear layers, and the way back (rules: op_parts.h). */
#include "tests/op_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Any choice of `n` different experts of `all` for each of `tokens`, as a router gives it; `few` > 0: of the first `few` alone, so that the others have no rows. */
static int32_t *choices(struct problem *p, int64_t tokens, int64_t n, int64_t all, int64_t few, uint64_t seed)
{
    struct pw_rng r = pw_rng_make(seed, PW_STREAM_TEST);
    int32_t *id = hold(p, (size_t)(tokens * n + 1) * sizeof *id);
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t c = 0; c < n; c++) {
            bool again;
            do {
                id[t * n + c] = (int32_t)pw_rng_below(&r, (uint64_t)(few ? few : all));
                again = false;
                for (int64_t k = 0; k < c; k++) again |= id[t * n + k] == id[t * n + c];
            } while (again);
        }
    return id;
}

/* ---- route; p: T, E, C, renormalise; x: half width of the logits. Logits are steps of 1/64, exact in every type, and often equal. A share is a quotient of
 * exponentials, each within 2 units and of an exact difference, and a sum of up to E of them: relatively (E / 32 + 16) u. dlogits: products of such
 * shares with values within 1, and a mean of C of them ---- */
enum { R_LOGITS, R_WEIGHTS, R_CHOSEN, R_DWEIGHTS, R_DLOGITS };
static void route_setup(struct problem *p)
{
    const int64_t *s = p->c->p;
    const int logits = add(p, "logits", IN, p->c->x[0] < 1 ? PW_F32 : PW_F64, 2, s[0], s[1], 1);
    p->a[logits].low = -p->c->x[0], p->a[logits].high = p->c->x[0];
    p->output = add2(p, "weights", OUT, s[0], s[2]);
    add(p, "chosen", OUT, PW_I32, 2, s[0], s[2], 1);
    p->upstream = add2(p, "dweights", IN, s[0], s[2]);
    const int dlogits = act2(p, "dlogits", ADD, s[0], s[1]);
    if (p->c->x[0] >= 1) p->a[logits].gradient = dlogits;
}
/* On ref logits in steps of 1/64 are f32 among f64: the op wants one type. */
static int as_wide(struct pw_dev *dev, struct pw_tensor like, struct pw_tensor *t, void **memory)
{
    *memory = NULL;
    if (t->dtype == like.dtype) return 0;
    struct pw_tensor wide = *t;
    wide.dtype = like.dtype;
    *memory = wide.data = pw_alloc_zero((size_t)pw_count(wide) + 1, sizeof(double));
    if (!wide.data) abort();
    const int rc = pw_copy(dev, wide, *t);
    *t = wide;
    return rc;
}
static int route_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    struct pw_tensor logits = t[R_LOGITS];
    void *memory;
    int rc = as_wide(dev, t[R_WEIGHTS], &logits, &memory);
    rc = rc ? rc : pw_route_fwd(dev, t[R_WEIGHTS], t[R_CHOSEN], logits, p->c->p[3]);
    pw_free(memory);
    return rc;
}
static int route_backward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    struct pw_tensor logits = t[R_LOGITS];
    void *memory;
    int rc = as_wide(dev, t[R_WEIGHTS], &logits, &memory);
    rc = rc ? rc : pw_route_bwd(dev, t[R_DLOGITS], t[R_DWEIGHTS], t[R_WEIGHTS], t[R_CHOSEN], logits, p->c->p[3]);
    pw_free(memory);
    return rc;
}
static double route_bound(const struct op_case *c)
{
    const double e = (double)c->p[1], n = (double)c->p[2], share = (e / 32 + 40 + 2 * c->x[0]) * u;
    return (3 + n) * share;
}
static const struct family route = { "route", route_setup, route_forward, route_backward, route_bound, NULL };

/* ---- mix; p: T, E, C, D, few; flags: CASE_NO_DX leaves the weights out. Rows in the order of experts: exact. Then x of the experts is gathered, and comes
 * back: a sum of C products; dweights sums D. What was gathered is bf16 already ---- */
enum { M_X, M_WEIGHTS, M_OUT, M_STARTS, M_TOKENS, M_PLACES, M_Y, M_DOUT, M_DX, M_DWEIGHTS, M_DY };
static void mix_setup(struct problem *p)
{
    const int64_t *s = p->c->p, rows = s[0] * s[2];
    const bool plain = p->c->flags & CASE_NO_DX;
    act2(p, "x", IN, s[0], s[3]);
    add2(p, "weights", IN, plain ? 0 : s[0], s[2]);
    p->output = act2(p, "out", ADD, s[0], s[3]);
    add(p, "starts", OUT, PW_I32, 1, s[1] + 1, 1, 1);
    add(p, "tokens", OUT, PW_I32, 1, rows, 1, 1);
    add(p, "places", OUT, PW_I32, 2, s[0], s[2], 1);
    act2(p, "y", OUT, rows, s[3]);
    p->upstream = act2(p, "dout", IN, s[0], s[3]);
    p->a[M_X].gradient = act2(p, "dx", ADD, s[0], s[3]);
    const int dweights = add2(p, "dweights", ADD, plain ? 0 : s[0], s[2]);
    if (!plain) p->a[M_WEIGHTS].gradient = dweights;
    act2(p, "dy", ADD, rows, s[3]);
    p->ids = pw_tensor2(choices(p, s[0], s[2], s[1], s[4], 21), PW_I32, s[0], s[2]);
}
static struct pw_tensor some(struct pw_tensor t) { return pw_count(t) ? t : pw_none(); }
static int mix_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    int rc = pw_route_rows(dev, t[M_STARTS], t[M_TOKENS], t[M_PLACES], p->ids);
    rc = rc ? rc : pw_gather_rows(dev, t[M_Y], t[M_X], t[M_TOKENS]);
    return rc ? rc : pw_combine_fwd(dev, t[M_OUT], t[M_Y], t[M_PLACES], some(t[M_WEIGHTS]));
}
static int mix_backward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    const bool plain = p->c->flags & CASE_NO_DX;
    int rc = pw_fill(dev, t[M_DY], 0);
    rc = rc ? rc : pw_combine_bwd(dev, t[M_DY], some(t[M_DWEIGHTS]), t[M_DOUT], plain ? pw_none() : t[M_Y], t[M_PLACES], some(t[M_WEIGHTS]));
    return rc ? rc : pw_combine_fwd(dev, t[M_DX], t[M_DY], t[M_PLACES], pw_none());
}
static double mix_bound(const struct op_case *c) { return sum_bound((double)(c->p[3] > c->p[2] ? c->p[3] : c->p[2])) + 4 * u; }
/* dy is rounded to bf16 before C of its rows are added up */
static double mix_bound16(const struct op_case *c, const double *largest) { return (double)c->p[2] * u16 * largest[M_DY]; }
static const struct family mix = { "mix", mix_setup, mix_forward, mix_backward, mix_bound, mix_bound16 };

/* ---- experts; p: T, K, N, R, E, few; two experts a token; x: dropout. The bounds of a linear layer: the same sums, over the rows of one expert ---- */
enum { X_X, X_W, X_A, X_B, X_Y, X_XA, X_STARTS, X_TOKENS, X_PLACES, X_DY, X_DX, X_DA, X_DB };
enum { TWO = 2, EXPERTS = 16 };
static void experts_setup(struct problem *p)
{
    const struct op_case *c = p->c;
    const bool dense = c->q == PW_Q_DENSE && c->type == PW_F32;
    const int64_t rows = TWO * c->p[0], k = c->p[1], n = c->p[2], r = c->flags & CASE_LORA ? c->p[3] : 0, all = c->p[4];
    if (all > EXPERTS) abort();
    act2(p, "x", IN, rows, k);
    add2(p, "w", IN, dense ? all * n : 0, k);
    add2(p, "a", IN, all * r, k);
    add2(p, "b", IN, all * n, r);
    p->output = act2(p, "y", OUT, rows, n);
    act2(p, "xa", OUT, rows, r);
    add(p, "starts", OUT, PW_I32, 1, all + 1, 1, 1);
    add(p, "tokens", OUT, PW_I32, 1, rows, 1, 1);
    add(p, "places", OUT, PW_I32, 2, c->p[0], TWO, 1);
    p->upstream = act2(p, "dy", IN, rows, n);
    p->a[X_X].gradient = act2(p, "dx", ADD, c->flags & CASE_NO_DX ? 0 : rows, k);
    p->a[X_A].gradient = add2(p, "da", ADD, all * r, k);
    p->a[X_B].gradient = add2(p, "db", ADD, all * n, r);
    if (c->flags & CASE_NO_DX) p->a[X_X].gradient = -1;
    if (!dense) quantised_weight(p, c->q, c->type, all * n, k, false);
    p->drop = (struct pw_drop){ .p = c->x[0], .seed = 99, .offset = 7, .first = 18 };
    p->ids = pw_tensor2(choices(p, c->p[0], TWO, all, c->p[5], 22), PW_I32, c->p[0], TWO);
}
/* The weights of the experts: equal shares of the rows of one, each whole blocks. */
struct layer { struct pw_weight w[EXPERTS]; struct pw_lora lora[EXPERTS]; struct pw_linear_grads g[EXPERTS]; struct pw_experts experts; };
static void layer_of(struct layer *l, struct problem *p, struct pw_tensor *t)
{
    const struct op_case *c = p->c;
    const int64_t k = c->p[1], n = c->p[2], r = c->p[3];
    const struct pw_weight all = pw_count(t[X_W]) ? pw_weight_dense(t[X_W]) : p->w;
    const int64_t block = all.type == PW_Q_NF4 ? all.block : 1;
    if (n * k % block) abort();
    memset(l, 0, sizeof *l);
    l->experts = (struct pw_experts){ (int)c->p[4], l->w };
    for (int e = 0; e < l->experts.n; e++) {
        struct pw_weight *w = &l->w[e];
        *w = all;
        w->n_out = n;
        w->data = (const char *)all.data + (size_t)e * pw_weight_data_bytes(w);
        if (all.absmax) w->absmax = all.absmax + (all.type == PW_Q_INT8 ? e * n : e * n * k / block);
        if (!(c->flags & CASE_LORA)) continue;
        l->lora[e] = (struct pw_lora){ .r = (int)r, .scale = e % 2 ? 0.5 : 0.25, .a = pw_rows(t[X_A], e * r, r), .b = pw_rows(t[X_B], e * n, n) };
        w->lora = &l->lora[e];
        l->g[e].da = pw_rows(t[X_DA], e * r, r);
        l->g[e].db = pw_rows(t[X_DB], e * n, n);
    }
}
/* What a row drops is its token's. */
static struct pw_drop drop_of(const struct problem *p, struct pw_tensor *t)
{
    struct pw_drop drop = p->drop;
    drop.rows = t[X_TOKENS].data;
    return drop;
}
static int experts_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    struct layer l;
    layer_of(&l, p, t);
    int rc = pw_route_rows(dev, t[X_STARTS], t[X_TOKENS], t[X_PLACES], p->ids);
    rc = rc ? rc : pw_dev_reserve(dev, pw_scratch_experts(dev, t[X_X].shape[0], &l.experts, false));
    return rc ? rc : pw_experts_fwd(dev, t[X_Y], some(t[X_XA]), t[X_X], t[X_STARTS], &l.experts, drop_of(p, t));
}
static int experts_backward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    struct layer l;
    layer_of(&l, p, t);
    int rc = pw_dev_reserve(dev, pw_scratch_experts(dev, t[X_X].shape[0], &l.experts, true));
    return rc ? rc : pw_experts_bwd(dev, some(t[X_DX]), p->c->flags & CASE_LORA ? l.g : NULL, t[X_DY], t[X_X], some(t[X_XA]), t[X_STARTS], &l.experts, drop_of(p, t));
}
static double experts_sum_bound(const struct op_case *c, int i)
{
    const double rows = TWO * (double)c->p[0], k = (double)c->p[1], n = (double)c->p[2], r = c->flags & CASE_LORA ? (double)c->p[3] : 0, inverse = 1 / (1 - c->x[0]);
    switch (i) {
    case X_Y: return sum_bound(k) + 4 * u + 0.5 * r * inverse * (sum_bound(k) + (depth(r) + 4) * u * k);
    case X_XA: return inverse * (sum_bound(k) + 4 * u * k);
    case X_DX: return sum_bound(n) + 4 * u + 0.5 * r * inverse * (sum_bound(n) + (depth(r) + 4) * u * n);
    case X_DA: return 0.5 * inverse * rows * (sum_bound(n) + (depth(rows) + 4) * u * n) + 4 * u;
    default: return 0.5 * inverse * rows * (sum_bound(k) + (depth(rows) + 4) * u * k) + 4 * u;
    }
}
static double experts_bound(const struct op_case *c)
{
    double most = experts_sum_bound(c, X_Y);
    for (int i = X_XA; i <= X_DB; i++) most = fmax(most, experts_sum_bound(c, i));
    return most;
}
/* As in a linear layer: xa and dxa are stored in bf16, and a product with a decoded weight is added to what was stored before. */
static void experts_allow16(const struct problem *p, const struct pw_tensor *ref, double *const *allow)
{
    const struct op_case *c = p->c;
    const int64_t k_in = c->p[1], n_out = c->p[2], r = c->flags & CASE_LORA ? c->p[3] : 0;
    const double *x = ref[X_X].data, *a = ref[X_A].data, *b = ref[X_B].data, *dy = ref[X_DY].data, *xa = ref[X_XA].data, inverse = 1 / (1 - c->x[0]);
    const int32_t *starts = ref[X_STARTS].data;
    for (int i = X_Y; i <= X_DB; i++)
        for (int64_t j = 0, n = pw_count(ref[i]); p->a[i].role != IN && p->a[i].type != PW_I32 && j < n; j++)
            allow[i][j] = experts_sum_bound(c, i) + 2 * u * fabs(((const double *)ref[i].data)[j]);
    for (int e = 0; r && e < c->p[4]; e++, a += r * k_in, b += n_out * r) {
        const double scale = e % 2 ? 0.5 : 0.25;
        for (int64_t t = starts[e]; t < starts[e + 1]; t++) {
            double dxa[64];
            if (r > 64) abort();
            for (int64_t j = 0; j < r; j++) dxa[j] = 0;
            for (int64_t n = 0; n < n_out; n++)
                for (int64_t j = 0; j < r; j++) {
                    dxa[j] += scale * dy[t * n_out + n] * b[n * r + j];
                    allow[X_Y][t * n_out + n] += 2 * u16 * scale * fabs(xa[t * r + j] * b[n * r + j]);
                    allow[X_DB][(e * n_out + n) * r + j] += u16 * scale * fabs(dy[t * n_out + n] * xa[t * r + j]);
                }
            for (int64_t k = 0; k < k_in; k++) {
                double size = 0;
                for (int64_t j = 0; j < r; j++) {
                    size += inverse * fabs(dxa[j] * a[j * k_in + k]);
                    allow[X_DA][(e * r + j) * k_in + k] += u16 * inverse * fabs(dxa[j] * x[t * k_in + k]);
                }
                if (!(c->flags & CASE_NO_DX)) allow[X_DX][t * k_in + k] += u16 * (2 * size + fabs(p->a[X_DX].start[t * k_in + k]));
            }
        }
    }
}
static bool experts_round16(struct problem *p, int which)
{
    if (which == 0 && p->w.data) round_stored(p);
    else if (which < 3) round_array(&p->a[(const int[]){ X_W, X_A, X_B }[which]]);
    return which < 3;
}
static const struct family experts = { "experts", experts_setup, experts_forward, experts_backward, experts_bound, NULL, experts_allow16, experts_round16 };

const struct op_case op_cases_experts[] = {
    /* T, E, C, renormalise; x: half width. Below 1: steps of 1/64, with ties */
    { &route, { 3, 5, 2, 1 }, F32, CASE_GRAD, { 2 } }, { &route, { 3, 7, 3, 0 }, F32, CASE_GRAD, { 2 } }, { &route, { 2, 4, 4, 1 }, F32, CASE_GRAD, { 1 } },
    { &route, { 3, 1, 1, 1 }, F32, CASE_GRAD, { 1 } }, { &route, { 2, 6, 1, 0 }, F32, CASE_GRAD, { 1 } },
    { &route, { 40, 8, 2, 1 }, F32, 0, { 4 } }, { &route, { 19, 128, 8, 0 }, F32, 0, { 6 } }, { &route, { 11, 33, 8, 1 }, F32, 0, { 30 } },
    { &route, { 3, 1024, 32, 0 }, F32, 0, { 3 } }, { &route, { 9, 1000, 10, 1 }, F32, 0, { 3 } }, { &route, { 50, 60, 4, 0 }, F32, 0, { 0.25 } },
    { &route, { 33, 130, 8, 1 }, F32, 0, { 0.1 } },
    /* T, E, C, D, few */
    { &mix, { 4, 3, 2, 5, 0 }, F32, CASE_GRAD, { 0 } }, { &mix, { 3, 4, 1, 3, 2 }, F32, CASE_GRAD, { 0 } }, { &mix, { 3, 4, 3, 4, 0 }, F32, CASE_GRAD | CASE_NO_DX, { 0 } },
    { &mix, { 300, 8, 2, 24, 0 }, F32, 0, { 0 } }, { &mix, { 70, 128, 8, 33, 0 }, F32, 0, { 0 } }, { &mix, { 200, 8, 2, 40, 3 }, F32, CASE_NO_DX, { 0 } },
    { &mix, { 1, 16, 4, 4104, 0 }, F32, 0, { 0 } }, { &mix, { 5, 2, 2, 1030, 0 }, F32, 0, { 0 } }, { &mix, { 260, 1, 1, 8, 0 }, F32, 0, { 0 } },
    /* T, K, N, R, E, few; dropout */
    { &experts, { 3, 5, 4, 2, 3, 0 }, F32, CASE_GRAD | CASE_LORA, { 0 } }, { &experts, { 4, 6, 3, 2, 4, 3 }, F32, CASE_GRAD | CASE_LORA, { 0.3 } },
    { &experts, { 3, 16, 8, 2, 3, 0 }, NF4, CASE_GRAD | CASE_LORA, { 0 } }, { &experts, { 2, 8, 6, 2, 2, 0 }, BF, CASE_GRAD, { 0 } },
    { &experts, { 1, 64, 48, 8, 8, 0 }, NF4, CASE_LORA, { 0 } }, { &experts, { 9, 64, 50, 4, 8, 0 }, F32, CASE_LORA, { 0.1 } },
    { &experts, { 40, 128, 136, 8, 4, 0 }, NF4, CASE_LORA, { 0.1 } }, { &experts, { 33, 72, 40, 17, 4, 3 }, BF, CASE_LORA, { 0.2 } },
    { &experts, { 50, 130, 33, 5, 3, 2 }, HF, CASE_LORA, { 0.1 } }, { &experts, { 20, 33, 64, 3, 3, 0 }, NF4, CASE_LORA, { 0.1 } },
    { &experts, { 12, 64, 34, 8, 16, 5 }, I8, CASE_LORA | CASE_NO_DX, { 0 } }, { &experts, { 7, 256, 20, 4, 3, 0 }, G(Q4_K), CASE_LORA, { 0 } },
    { &experts, { 7, 96, 20, 4, 3, 0 }, G(Q8_0), 0, { 0 } }, { &experts, { 300, 24, 16, 4, 2, 0 }, NF4, CASE_LORA, { 0.3 } },
    { &experts, { 6, 1088, 12, 4, 3, 0 }, F32, CASE_LORA, { 0 } }, { &experts, { 150, 40, 136, 4, 3, 2 }, F32, 0, { 0 } },
};
const int op_cases_experts_n = (int)(sizeof op_cases_experts / sizeof *op_cases_experts);
