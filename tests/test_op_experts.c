/* What the table of ops does not show of experts: a token's result has the same bytes whatever else is in the call; ties; what is refused, and what only
 * kernels see: numbers out of range. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "base/memory.h"
#include "base/rng.h"
#include "kernels/backend.h"
#include "kernels/cuda/hooks.h"
#include "kernels/op.h"
#include "tests/support.h"

static const struct { const char *kind, *level; int threads; } devices[] = { { "cpu", "generic", 1 }, { "cpu", "avx2", 2 }, { "cpu", "avx512", 2 }, { "simt", "random:3", 2 } };
enum { DEVICES = sizeof devices / sizeof *devices };

static struct pw_dev *dev;
static void *taken[64];
static int n_taken;

static bool open_device(int i)
{
    const bool simt = strcmp(devices[i].kind, "simt") == 0;
    int threads = devices[i].threads;
#if defined(__SANITIZE_THREAD__)
    threads = 1;
#endif
    const int rc = pw_dev_open(&dev, &(struct pw_dev_options){ .kind = simt ? test_card() : devices[i].kind, .threads = threads,
                                                               .level = simt ? test_card_order(devices[i].level) : devices[i].level });
    if (rc == PW_E_UNSUPPORTED) {
        test_skip("%s %s", devices[i].kind, devices[i].level);
        return false;
    }
    ck_ok(rc);
    return true;
}
static void close_device(void)
{
    while (n_taken) dev->backend->give(dev, taken[--n_taken]);
    pw_dev_close(dev);
}
static void *put(const void *host, size_t bytes) /* a copy on the device; NULL: cleared */
{
    ck_assert_int_lt(n_taken, 64);
    ck_ok(dev->backend->take(dev, &taken[n_taken], bytes ? bytes : 1));
    if (host) ck_ok(pw_dev_put(dev, taken[n_taken], host, bytes));
    return taken[n_taken++];
}
static struct pw_tensor shaped(void *data, enum pw_dtype type, int64_t a, int64_t b) { return b ? pw_tensor2(data, type, a, b) : pw_tensor1(data, type, a); }
static struct pw_tensor fresh(enum pw_dtype type, int64_t a, int64_t b) { return shaped(put(NULL, (size_t)(a * (b ? b : 1)) * pw_dtype_bytes(type)), type, a, b); }
static struct pw_tensor noise(enum pw_dtype type, int64_t a, int64_t b, uint64_t seed)
{
    const int64_t n = a * (b ? b : 1);
    char *x = pw_alloc((size_t)n * 4);
    struct pw_rng r = pw_rng_make(seed, PW_STREAM_TEST);
    for (int64_t i = 0; i < n; i++) {
        const float value = (float)(2 * pw_rng_uniform(&r) - 1);
        if (type == PW_F32) ((float *)(void *)x)[i] = value;
        else ((uint16_t *)(void *)x)[i] = pw_f32_to_bf16(value);
    }
    struct pw_tensor t = shaped(put(x, (size_t)n * pw_dtype_bytes(type)), type, a, b);
    pw_free(x);
    return t;
}
static struct pw_tensor numbers(const int32_t *x, int64_t a, int64_t b) { return shaped(put(x, (size_t)(a * (b ? b : 1)) * 4), PW_I32, a, b); }
static void *bring(struct pw_tensor t)
{
    void *x = pw_alloc(pw_bytes(t) + 1);
    ck_ok(pw_dev_get(dev, x, t.data, pw_bytes(t)));
    return x;
}

/* ---- the same bytes ---- */

enum { T = 40, D = 72, F = 48, E = 8, C = 2, R = 4 };
struct layer { struct pw_weight up[E], down[E]; struct pw_lora lora_up[E], lora_down[E]; struct pw_tensor router; };
static void make_layer(struct layer *l)
{
    memset(l, 0, sizeof *l);
    for (int e = 0; e < E; e++) {
        l->up[e] = pw_weight_dense(noise(PW_F32, F, D, 10 + (uint64_t)e));
        l->down[e] = pw_weight_dense(noise(PW_F32, D, F, 30 + (uint64_t)e));
        l->lora_up[e] = (struct pw_lora){ .r = R, .scale = 0.5, .a = noise(PW_F32, R, D, 50 + (uint64_t)e), .b = noise(PW_F32, F, R, 60 + (uint64_t)e) };
        l->up[e].lora = &l->lora_up[e];
    }
    l->router = noise(PW_F32, E, D, 90);
}
/* Forward and back over rows first .. first + n of x: out and dx, activations. */
static void layer_pass(const struct layer *l, struct pw_tensor x, struct pw_tensor up, struct pw_tensor out, struct pw_tensor dx)
{
    const int64_t n = x.shape[0], rows = n * C;
    const enum pw_dtype act = dev->act;
    const int held = n_taken;
    const struct pw_weight router = pw_weight_dense(l->router);
    const struct pw_experts ups = { E, l->up }, downs = { E, l->down };
    struct pw_tensor logits = fresh(PW_F32, n, E), weights = fresh(PW_F32, n, C), chosen = fresh(PW_I32, n, C), starts = fresh(PW_I32, E + 1, 0), tokens = fresh(PW_I32, rows, 0);
    struct pw_tensor places = fresh(PW_I32, n, C), xs = fresh(act, rows, D), f = fresh(act, rows, F), xa = fresh(act, rows, R), y = fresh(act, rows, D);
    struct pw_tensor dy = fresh(act, rows, D), df = fresh(act, rows, F), dxs = fresh(act, rows, D), dweights = fresh(PW_F32, n, C), dlogits = fresh(act, n, E);
    const struct pw_drop none = { 0 };
    size_t scratch = pw_scratch_experts(dev, rows, &ups, true), more[] = { pw_scratch_experts(dev, rows, &downs, true), pw_scratch_linear(dev, n, &router, true), pw_scratch_linear(dev, n, &router, false) };
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) scratch = more[i] > scratch ? more[i] : scratch;
    ck_ok(pw_dev_reserve(dev, scratch));
    ck_ok(pw_linear_fwd(dev, logits, pw_none(), x, &router, none));
    ck_ok(pw_route_fwd(dev, weights, chosen, logits, true));
    ck_ok(pw_route_rows(dev, starts, tokens, places, chosen));
    ck_ok(pw_gather_rows(dev, xs, x, tokens));
    ck_ok(pw_experts_fwd(dev, f, xa, xs, starts, &ups, none));
    ck_ok(pw_experts_fwd(dev, y, pw_none(), f, starts, &downs, none));
    ck_ok(pw_combine_fwd(dev, out, y, places, weights));
    ck_ok(pw_combine_bwd(dev, dy, dweights, up, y, places, weights));
    ck_ok(pw_experts_bwd(dev, df, NULL, dy, f, pw_none(), starts, &downs, none));
    ck_ok(pw_experts_bwd(dev, dxs, NULL, df, xs, xa, starts, &ups, none));
    ck_ok(pw_combine_fwd(dev, dx, dxs, places, pw_none()));
    ck_ok(pw_route_bwd(dev, dlogits, dweights, weights, chosen, logits, true));
    ck_ok(pw_linear_bwd(dev, &(struct pw_linear_grads){ .dx = dx }, dlogits, pw_none(), pw_none(), &router, none));
    ck_ok(pw_dev_sync(dev));
    while (n_taken > held) dev->backend->give(dev, taken[--n_taken]);
}
START_TEST(alone)
{
    if (!open_device(_i)) return;
    struct layer l;
    make_layer(&l);
    const enum pw_dtype act = dev->act;
    struct pw_tensor x = noise(act, T, D, 1), up = noise(act, T, D, 2), out = fresh(act, T, D), dx = fresh(act, T, D), out1 = fresh(act, T, D), dx1 = fresh(act, T, D);
    layer_pass(&l, x, up, out, dx);
    char *all = bring(out), *all_dx = bring(dx);
    const size_t row = (size_t)D * pw_dtype_bytes(act);
    for (int64_t n = 17, at = 3; n <= T - 3; n += 20, at = 0) { /* skinny and tile products of the router differ in the order of sums: 17 rows and more */
        ck_ok(pw_fill(dev, out1, 0));
        ck_ok(pw_fill(dev, dx1, 0));
        layer_pass(&l, pw_rows(x, at, n), pw_rows(up, at, n), pw_rows(out1, 0, n), pw_rows(dx1, 0, n));
        char *some = bring(out1), *some_dx = bring(dx1);
        ck_assert_msg(memcmp(some, all + (size_t)at * row, (size_t)n * row) == 0, "%s %s: %d tokens", devices[_i].kind, devices[_i].level, (int)n);
        ck_assert_msg(memcmp(some_dx, all_dx + (size_t)at * row, (size_t)n * row) == 0, "%s %s: dx of %d tokens", devices[_i].kind, devices[_i].level, (int)n);
        pw_free(some);
        pw_free(some_dx);
    }
    pw_free(all);
    pw_free(all_dx);
    close_device();
}
END_TEST

/* ---- ties and NaN ---- */

START_TEST(ties)
{
    enum { N = 4, ALL = 70, M = 5 };
    static const int32_t want[N][M] = { { 0, 1, 2, 3, 4 }, { 33, 65, 0, 1, 2 }, { 69, 2, 3, 40, 0 }, { 10, 0, 1, 2, 3 } };
    float x[N * ALL] = { 0 };
    x[1 * ALL + 33] = x[1 * ALL + 65] = 2;
    x[2 * ALL + 69] = 3, x[2 * ALL + 40] = x[2 * ALL + 3] = x[2 * ALL + 2] = 1;
    x[3 * ALL + 10] = 90;
    if (!open_device(_i)) return;
    struct pw_tensor logits = shaped(put(x, sizeof x), PW_F32, N, ALL), weights = fresh(PW_F32, N, M), chosen = fresh(PW_I32, N, M);
    ck_ok(pw_route_fwd(dev, weights, chosen, logits, false));
    int32_t *id = bring(chosen);
    for (int t = 0; t < N; t++)
        for (int c = 0; c < M; c++) ck_assert_msg(id[t * M + c] == want[t][c], "token %d, choice %d: %d, expected %d", t, c, id[t * M + c], want[t][c]);
    pw_free(id);
    for (int i = 0; i < ALL; i++) x[i] = i % 3 ? NAN : (float)i;
    ck_ok(pw_dev_put(dev, logits.data, x, sizeof x));
    ck_ok(pw_route_fwd(dev, weights, chosen, logits, true));
    id = bring(chosen);
    float *w = bring(weights);
    for (int c = 0; c < M; c++) {
        ck_assert(id[c] >= 0 && id[c] < ALL);
        for (int k = 0; k < c; k++) ck_assert_int_ne(id[c], id[k]);
    }
    for (int c = 0; c < M; c++) ck_assert(id[c] == c + 1 + c / 2 && isnan(w[c]) && !isnan(w[M + c]));
    pw_free(id);
    pw_free(w);
    close_device();
}
END_TEST

/* ---- what is refused ---- */

START_TEST(checks)
{
    if (!open_device(0)) return;
    struct pw_tensor logits = noise(PW_F32, 3, 6, 1), weights = fresh(PW_F32, 3, 2), up = fresh(PW_F32, 3, 2), dlogits = fresh(PW_F32, 3, 6);
    int32_t ids[6] = { 0, 1, 5, 2, 6, 3 }, at[4] = { 0, 2, 1, 6 };
    struct pw_tensor chosen = numbers(ids, 3, 2), starts = numbers(at, 4, 0);
    ck_fails(pw_route_fwd(dev, fresh(PW_F32, 3, 7), fresh(PW_I32, 3, 7), logits, true), PW_E_FAIL, "route_fwd: weights: expected 1 to 32 of 6 experts a token, got 7");
    ck_fails(pw_route_fwd(dev, weights, fresh(PW_I32, 3, 3), logits, true), PW_E_FAIL, "route_fwd: chosen: expected (3, 2) i32, got (3, 3) i32");
    ck_fails(pw_route_fwd(dev, fresh(PW_F32, 1, 1), fresh(PW_I32, 1, 1), fresh(PW_F32, 1, 1025), true), PW_E_FAIL, "expected 1 to 1024 experts, got 1025");
    ck_fails(pw_route_bwd(dev, dlogits, up, weights, chosen, logits, true), PW_E_FAIL, "route_bwd: chosen[4]: expected 0 to 5, got 6");
    ck_fails(pw_route_rows(dev, fresh(PW_I32, 7, 0), fresh(PW_I32, 6, 0), fresh(PW_I32, 3, 2), chosen), PW_E_FAIL, "route_rows: chosen[4]: expected 0 to 5, got 6");
    ck_fails(pw_route_rows(dev, fresh(PW_I32, 8, 0), fresh(PW_I32, 5, 0), fresh(PW_I32, 3, 2), chosen), PW_E_FAIL, "route_rows: tokens: expected (6) i32, got (5) i32");
    struct pw_tensor x = fresh(PW_F32, 6, 4), y = fresh(PW_F32, 6, 5), out = fresh(PW_F32, 3, 5);
    struct pw_weight w[3];
    for (int e = 0; e < 3; e++) w[e] = pw_weight_dense(fresh(PW_F32, e == 2 ? 6 : 5, 4));
    const struct pw_experts experts = { 3, w };
    const struct pw_drop none = { 0 };
    ck_fails(pw_experts_fwd(dev, y, pw_none(), x, starts, &experts, none), PW_E_FAIL, "experts_fwd: expert 2: expected (5, 4) dense as expert 0, got (6, 4) dense");
    w[2].n_out = 5;
    ck_fails(pw_experts_fwd(dev, y, pw_none(), x, starts, &experts, none), PW_E_FAIL, "experts_fwd: starts[2]: expected 2 to 6, got 1");
    struct pw_lora lora = { .r = 2, .scale = 1, .a = fresh(PW_F32, 2, 4), .b = fresh(PW_F32, 5, 2) };
    w[1].lora = &lora;
    ck_fails(pw_experts_fwd(dev, y, pw_none(), x, starts, &experts, none), PW_E_FAIL, "expert 1: expected an adapter of rank 0 as expert 0, got rank 2");
    w[1].lora = NULL;
    at[2] = 3;
    ck_ok(pw_dev_put(dev, starts.data, at, sizeof at));
    ck_fails(pw_experts_fwd(dev, y, pw_none(), x, starts, &experts, none), PW_E_FAIL, "experts_fwd: scratch: expected");
    ck_ok(pw_dev_reserve(dev, pw_scratch_experts(dev, 6, &experts, true)));
    ck_ok(pw_experts_fwd(dev, y, pw_none(), x, starts, &experts, none));
    const struct pw_linear_grads g[3] = { { .da = pw_none() }, { .dw = w[0].lora ? pw_none() : fresh(PW_F32, 5, 4) } };
    ck_fails(pw_experts_bwd(dev, pw_none(), g, y, x, pw_none(), starts, &experts, none), PW_E_FAIL, "expert 1: da and db alone are made, got dx, dw or dbias");
    ck_fails(pw_combine_fwd(dev, out, y, chosen, fresh(PW_F32, 3, 1)), PW_E_FAIL, "combine_fwd: places[4]: expected 0 to 5, got 6");
    ids[4] = 4;
    ck_ok(pw_dev_put(dev, chosen.data, ids, sizeof ids));
    ck_fails(pw_combine_fwd(dev, out, y, chosen, fresh(PW_F32, 3, 1)), PW_E_FAIL, "combine_fwd: weights: expected (3, 2) f32, got (3, 1) f32");
    ck_fails(pw_combine_bwd(dev, y, fresh(PW_F32, 3, 2), out, pw_none(), chosen, weights), PW_E_FAIL, "combine_bwd: y: expected (6, 5) f32, got none");
    close_device();
}
END_TEST

/* Numbers that only kernels see: told by the next look at the device. */
START_TEST(ids_outside)
{
    static const int32_t wrong[] = { -1, E, INT32_MIN, INT32_MAX };
    for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
        if (!open_device(DEVICES - 1)) return;
        int32_t ids[6] = { 0, 1, 5, 2, wrong[k], 3 };
        char text[100];
        struct pw_tensor chosen = numbers(ids, 3, 2), out = noise(PW_BF16, 3, 24, 1), y = noise(PW_BF16, E, 24, 2), w = noise(PW_F32, 3, 2, 3);
        char *before = bring(out);
        snprintf(text, sizeof text, "route: chosen[4]: expected 0 to %d, got %d", E - 1, wrong[k]);
        ck_ok(pw_route_rows(dev, fresh(PW_I32, E + 1, 0), fresh(PW_I32, 6, 0), fresh(PW_I32, 3, 2), chosen));
        ck_fails(pw_dev_sync(dev), PW_E_FAIL, text);
        ck_ok(pw_route_bwd(dev, fresh(PW_BF16, 3, E), w, w, chosen, noise(PW_F32, 3, E, 4), false));
        ck_fails(pw_dev_sync(dev), PW_E_FAIL, text);
        snprintf(text, sizeof text, "combine: places[4]: expected 0 to %d, got %d", E - 1, wrong[k]);
        ck_ok(pw_combine_fwd(dev, out, y, chosen, w));
        ck_fails(pw_dev_sync(dev), PW_E_FAIL, text);
        char *after = bring(out);
        for (int t = 0; t < 3; t++) ck_assert_msg((memcmp(before + t * 48, after + t * 48, 48) == 0) == (t == 2), "row %d", t);
        ck_ok(pw_combine_bwd(dev, y, pw_none(), out, pw_none(), chosen, w));
        ck_fails(pw_dev_sync(dev), PW_E_FAIL, text);
        /* rows of experts that claim to lie outside */
        struct pw_weight weight[1] = { pw_weight_dense(noise(PW_F32, 24, 24, 5)) };
        const struct pw_experts one = { 1, weight };
        ck_ok(pw_dev_reserve(dev, pw_scratch_experts(dev, 3, &one, true)));
        ck_ok(pw_experts_fwd(dev, pw_rows(y, 0, 3), pw_none(), out, numbers((int32_t[]){ wrong[k], INT32_MAX }, 2, 0), &one, (struct pw_drop){ 0 }));
        ck_ok(pw_dev_sync(dev));
        pw_free(before);
        pw_free(after);
        close_device();
    }
}
END_TEST

/* Experts in one launch give the bytes that each gives alone, also where the table of their weights takes several launches; and their number does not show in
 * the number of launches. Few rows (W is read once for each four) and many; some experts have none. _i: rows of the fullest expert. */
enum { MANY = 150, IN = 24, OUT = 16, RANK = 3 };
static const int fullest[] = { 2, 70 };
START_TEST(one_launch_for_all)
{
    struct pw_weight w[MANY];
    struct pw_lora lora[MANY];
    struct pw_linear_grads g[MANY], one;
    int32_t start[MANY + 1] = { 0 }, of_one[MANY][2];
    struct pw_drop drop = { .p = 0.25, .seed = 3, .offset = 5 };
    int32_t token[3 * MANY + 70];
    if (!open_device(DEVICES - 1)) return;
    struct cuda_hooks *hooks = dev->impl;
    const struct pw_tensor weights = noise(PW_BF16, MANY * OUT, IN, 1), a = noise(PW_F32, MANY * RANK, IN, 2), b = noise(PW_F32, MANY * OUT, RANK, 3), bias = noise(PW_F32, MANY, OUT, 4);
    for (int e = 0; e < MANY; e++) {
        start[e + 1] = start[e] + (e == 7 ? fullest[_i] : e % 3);
        of_one[e][0] = 0;
        of_one[e][1] = start[e + 1] - start[e];
        lora[e] = (struct pw_lora){ .r = RANK, .scale = 0.25 * (1 + e % 4), .a = pw_rows(a, e * RANK, RANK), .b = pw_rows(b, e * OUT, OUT) };
        w[e] = pw_weight_dense(pw_rows(weights, e * OUT, OUT));
        w[e].lora = &lora[e];
        w[e].bias = e % 5 ? (const float *)bias.data + e * OUT : NULL;
    }
    const int64_t rows = start[MANY];
    const struct pw_experts all = { MANY, w };
    for (int64_t i = 0; i < rows; i++) token[i] = (int32_t)(i * 37 % 101);
    const struct pw_tensor tokens = numbers(token, rows, 0);
    drop.rows = tokens.data;
    const struct pw_tensor x = noise(PW_BF16, rows, IN, 5), dy = noise(PW_BF16, rows, OUT, 6), starts = numbers(start, MANY + 1, 0), ones = numbers(of_one[0], 2 * MANY, 0);
    struct pw_tensor y[2], xa[2], dx[2], da[2], db[2];
    for (int i = 0; i < 2; i++) {
        y[i] = fresh(PW_BF16, rows, OUT), xa[i] = fresh(PW_BF16, rows, RANK), dx[i] = fresh(PW_BF16, rows, IN);
        da[i] = fresh(PW_F32, MANY * RANK, IN), db[i] = fresh(PW_F32, MANY * OUT, RANK);
    }
    for (int e = 0; e < MANY; e++) g[e] = (struct pw_linear_grads){ .da = e == 9 ? pw_none() : pw_rows(da[0], e * RANK, RANK), .db = e == 11 ? pw_none() : pw_rows(db[0], e * OUT, OUT) };
    ck_ok(pw_dev_reserve(dev, pw_scratch_experts(dev, rows, &all, true) + pw_scratch_experts(dev, rows, &all, false)));
    hooks->linear_path = _i ? CUDA_LINEAR_FUSED : CUDA_LINEAR_AUTO; /* many rows: an expert with few would take another way alone */
    int64_t before = hooks->launches;
    ck_ok(pw_experts_fwd(dev, y[0], xa[0], x, starts, &all, drop));
    ck_assert_int_eq(hooks->launches - before, 5); /* the table in two parts, xa, its sum, y */
    before = hooks->launches;
    ck_ok(pw_experts_bwd(dev, dx[0], g, dy, x, xa[0], starts, &all, drop));
    ck_assert_int_eq(hooks->launches - before, 7); /* the table, dxa, its sum, db, da, dx */
    for (int e = 0; e < MANY; e++) {
        const struct pw_experts alone_e = { 1, &w[e] };
        const int64_t at = start[e], n = of_one[e][1];
        struct pw_drop of_e = drop;
        of_e.offset += (uint64_t)e * PW_EXPERT_STREAM;
        of_e.rows += at;
        if (n == 0) continue;
        const struct pw_tensor s = pw_rows(ones, 2 * e, 2);
        one = (struct pw_linear_grads){ .da = e == 9 ? pw_none() : pw_rows(da[1], e * RANK, RANK), .db = e == 11 ? pw_none() : pw_rows(db[1], e * OUT, OUT) };
        ck_ok(pw_experts_fwd(dev, pw_rows(y[1], at, n), pw_rows(xa[1], at, n), pw_rows(x, at, n), s, &alone_e, of_e));
        ck_ok(pw_experts_bwd(dev, pw_rows(dx[1], at, n), &one, pw_rows(dy, at, n), pw_rows(x, at, n), pw_rows(xa[1], at, n), s, &alone_e, of_e));
    }
    const struct pw_tensor *pairs[] = { y, xa, dx, da, db };
    for (int i = 0; i < 5; i++) {
        char *together = bring(pairs[i][0]), *apart = bring(pairs[i][1]);
        ck_assert_msg(memcmp(together, apart, pw_bytes(pairs[i][0])) == 0, "array %d", i);
        pw_free(together);
        pw_free(apart);
    }
    close_device();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("op_experts");
    TCase *t = tcase_create("experts");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, alone, 0, DEVICES);
    tcase_add_loop_test(t, ties, 0, DEVICES);
    tcase_add_test(t, checks);
    tcase_add_loop_test(t, one_launch_for_all, 0, sizeof fullest / sizeof *fullest);
    tcase_add_test(t, ids_outside);
    suite_add_tcase(s, t);
    return test_run(s);
}
