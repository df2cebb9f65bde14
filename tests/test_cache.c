/* The key/value cache in 8 bits: what numbers become, how far attention over it is from attention over the numbers themselves (the bound that
 * kernels/op.h states), and that a sequence's result has the same bytes whatever its company, its place and the order of threads. On cpu and simt. */
#include <math.h>
#include <string.h>
#include "base/error.h"
#include "base/memory.h"
#include "base/rng.h"
#include "kernels/backend.h"
#include "kernels/op.h"
#include "tests/support.h"

enum { H = 4, G = 2, MOST = 300 };
static const char *kind_of(int i) { return i == 0 ? "ref" : i == 1 ? "cpu" : test_card(); }

struct on { struct pw_dev *dev; void *memory[32]; int n; };

static void open_on(struct on *o, const char *kind, const char *level)
{
    memset(o, 0, sizeof *o);
    ck_ok(pw_dev_open(&o->dev, &(struct pw_dev_options){ .kind = kind, .threads = 2, .level = level }));
}
static void *place(struct on *o, const void *from, size_t bytes, size_t offset)
{
    ck_assert(o->n < 32);
    ck_ok(o->dev->backend->take(o->dev, &o->memory[o->n], bytes + 64));
    char *p = (char *)o->memory[o->n++] + offset;
    if (from) ck_ok(pw_dev_put(o->dev, p, from, bytes));
    return p;
}
static void close_on(struct on *o)
{
    for (int i = 0; i < o->n; i++) o->dev->backend->give(o->dev, o->memory[i]);
    pw_dev_close(o->dev);
}
/* Numbers as activations of the device. */
static void *place_act(struct on *o, const float *x, size_t n, size_t offset)
{
    if (o->dev->act == PW_F32) return place(o, x, n * 4, 0);
    uint16_t *b = pw_alloc(n * 2 + 1);
    for (size_t i = 0; i < n; i++) b[i] = pw_f32_to_bf16(x[i]);
    void *p = place(o, b, n * 2, offset);
    pw_free(b);
    return p;
}
static void fetch_act(struct on *o, float *x, const void *from, size_t n)
{
    if (o->dev->act == PW_F32) { ck_ok(pw_dev_get(o->dev, x, from, n * 4)); return; }
    uint16_t *b = pw_alloc(n * 2 + 1);
    ck_ok(pw_dev_get(o->dev, b, from, n * 2));
    for (size_t i = 0; i < n; i++) x[i] = pw_bf16_to_f32(b[i]);
    pw_free(b);
}

/* Zeros, numbers too small for a scale, one large one among small ones, ties between codes, NaN and infinities: what the rule says, on every device. */
START_TEST(numbers)
{
    enum { T = 9, D = 40, S = 12 };
    struct on o;
    static float x[T * D];
    static int8_t code[S * D];
    float scale[S];
    const int32_t rows[T] = { 11, 0, 5, 3, 1, 7, 9, 2, 4 };
    struct pw_rng r = pw_rng_make(5, PW_STREAM_TEST);
    for (int t = 0; t < T; t++)
        for (int i = 0; i < D; i++) {
            float *at = &x[t * D + i], u = (float)(2 * pw_rng_uniform(&r) - 1);
            *at = pw_bf16_to_f32(pw_f32_to_bf16(t == 0 ? 0 : t == 1 ? u * 0x1p-121f : t == 2 ? (i == 17 ? 3e38f : u) : t == 3 ? (float)(i - 20) * 0.5f : u));
            if (t == 3 && i == 39) *at = -127; /* scale 1: halves lie between two codes */
            if ((t == 4 && i == 0) || (t == 5 && i == 39)) *at = NAN;
            if (t == 6 && i == 8) *at = -INFINITY;
        }
    open_on(&o, kind_of(_i), "");
    memset(code, 99, sizeof code);
    for (int i = 0; i < S; i++) scale[i] = 77;
    const struct pw_tensor pool = pw_tensor3(place(&o, code, sizeof code, 0), PW_I8, S, 1, D), scales = pw_tensor2(place(&o, scale, sizeof scale, 0), PW_F32, S, 1);
    ck_ok(pw_cache_put(o.dev, pool, scales, pw_tensor3(place_act(&o, x, T * D, 0), o.dev->act, T, 1, D), pw_tensor1(place(&o, rows, sizeof rows, 0), PW_I32, T)));
    ck_ok(pw_dev_get(o.dev, code, pool.data, sizeof code));
    ck_ok(pw_dev_get(o.dev, scale, scales.data, sizeof scale));
    for (int t = 0; t < T; t++) {
        const int8_t *c = code + rows[t] * D;
        const float s = scale[rows[t]];
        double largest = 0;
        for (int i = 0; i < D; i++) largest = fmax(largest, fabs((double)x[t * D + i]));
        if (t >= 4 && t <= 6) { ck_assert_msg(isnan(s), "token %d: scale %g", t, (double)s); continue; }
        if (t <= 1) ck_assert_msg(s == 0, "token %d: scale %g", t, (double)s);
        else ck_close((double)s, largest / 127, 0, 0x1p-23);
        for (int i = 0; i < D; i++) {
            const double y = (double)x[t * D + i];
            if (t <= 1) ck_assert_int_eq(c[i], 0);
            ck_assert_msg(fabs(c[i] * (double)s - y) <= (t <= 1 ? 0x1p-120 : (double)s * 0.50001), "token %d, %d: code %d, scale %g, value %g", t, i, c[i], (double)s, y);
            if (t == 3 && i != 39) ck_assert_msg(c[i] == 2 * (int)rint(y / 2) || c[i] == y, "a tie: code %d of %g", c[i], y); /* to even */
        }
    }
    for (int s = 0; s < S; s++) { /* rows that were not named */
        bool named = false;
        for (int t = 0; t < T; t++) named |= rows[t] == s;
        if (!named) ck_assert_msg(code[s * D] == 99 && scale[s] == 77, "row %d was written", s);
    }
    close_on(&o);
}
END_TEST

struct input { int n; int64_t rows, keys, d; int32_t q_start[9], kv_start[9], kv_len[9], at[MOST * 8]; float *q, *k, *v; struct pw_attn attn; };

static void attend(struct on *o, const struct input *in, bool codes, size_t offset, float *out, float *lse)
{
    const size_t kv = (size_t)(in->keys * G * in->d), n = (size_t)(in->rows * H * in->d);
    struct pw_seqs seqs = { in->n, in->q_start, in->kv_start, in->kv_len, NULL, NULL, NULL };
    const enum pw_dtype act = o->dev->act, type = codes ? PW_I8 : act;
    struct pw_tensor none = pw_none(), x[2] = { pw_tensor3(place_act(o, in->k, kv, offset), act, in->keys, G, in->d), pw_tensor3(place_act(o, in->v, kv, offset), act, in->keys, G, in->d) };
    struct pw_tensor pool[2], scale[2] = { none, none }, rows = pw_tensor1(place(o, in->at, (size_t)in->keys * 4, 0), PW_I32, in->keys);
    for (int i = 0; i < 2; i++) {
        pool[i] = pw_tensor3(place(o, NULL, kv * pw_dtype_bytes(type), codes ? offset : 0), type, in->keys, G, in->d);
        if (codes) scale[i] = pw_tensor2(place(o, NULL, (size_t)in->keys * G * 4, 0), PW_F32, in->keys, G);
        ck_ok(pw_cache_put(o->dev, pool[i], scale[i], x[i], rows));
    }
    ck_ok(pw_dev_reserve(o->dev, pw_scratch_attn(o->dev, in->rows, in->keys, H, G, (int)in->d, false)));
    ck_ok(pw_seqs_put(o->dev, place(o, NULL, pw_seqs_bytes(in->n, 0), 0), &seqs));
    const struct pw_tensor q = pw_tensor3(place_act(o, in->q, n, offset), act, in->rows, H, in->d), y = pw_tensor3(place(o, NULL, n * 4, 0), act, in->rows, H, in->d);
    const struct pw_tensor l = pw_tensor2(place(o, NULL, (size_t)(in->rows * H) * 4, 0), PW_F32, in->rows, H);
    const struct pw_cache cache = { pool[0], pool[1], scale[0], scale[1] };
    ck_ok(pw_cache_attn(o->dev, y, l, q, &cache, &seqs, &in->attn));
    fetch_act(o, out, y.data, n);
    ck_ok(pw_dev_get(o->dev, lse, l.data, (size_t)(in->rows * H) * 4));
}

static const struct { int n_q, before; } shape[] = { { 1, 200 }, { 40, 0 }, { 17, 30 }, { 3, 130 }, { 16, 7 } };
enum { SEQS = 5 };

static void make(struct input *in, int first, int n, int gap, int64_t d)
{
    struct pw_rng r;
    memset(in, 0, sizeof *in);
    in->n = n;
    in->d = d;
    in->attn = (struct pw_attn){ .scale = 1 / sqrt((double)d), .window = 60 };
    for (int i = 0; i < n; i++) {
        in->kv_start[i] = (int32_t)(in->keys += gap);
        in->kv_len[i] = shape[first + i].n_q + shape[first + i].before;
        in->keys += in->kv_len[i];
        in->q_start[i + 1] = in->q_start[i] + shape[first + i].n_q;
    }
    in->rows = in->q_start[n];
    const size_t sizes[] = { (size_t)(in->rows * H * d), (size_t)(in->keys * G * d), (size_t)(in->keys * G * d) };
    float **to[] = { &in->q, &in->k, &in->v };
    for (int a = 0; a < 3; a++) {
        *to[a] = pw_alloc_zero(sizes[a] + 1, 4);
        for (int i = 0; i < n; i++) { /* a sequence's numbers are its own, wherever it is; each key of another size */
            r = pw_rng_make((uint64_t)(100 * a + first + i), PW_STREAM_TEST);
            const int64_t begin = a == 0 ? in->q_start[i] : in->kv_start[i], len = a == 0 ? in->q_start[i + 1] - begin : in->kv_len[i], width = (a == 0 ? H : G) * d;
            for (int64_t j = 0; j < len; j++) {
                const double size = a == 0 ? 2 : 0.2 + 3 * pw_rng_uniform(&r);
                for (int64_t e = 0; e < width; e++) (*to[a])[(begin + j) * width + e] = pw_bf16_to_f32(pw_f32_to_bf16((float)(size * (2 * pw_rng_uniform(&r) - 1))));
            }
        }
    }
    for (int64_t i = 0; i < in->keys; i++) in->at[i] = (int32_t)i;
}
static void forget(struct input *in) { pw_free(in->q), pw_free(in->k), pw_free(in->v); }

/* Attention over codes against attention over the numbers, both on ref: within the bound of op.h, and not far below it for nothing to be rounded. */
START_TEST(bound)
{
    struct input in;
    struct on o;
    make(&in, 0, SEQS, 0, 32);
    const size_t n = (size_t)(in.rows * H * in.d);
    float *plain = pw_alloc(n * 4), *coded = pw_alloc(n * 4), *lse = pw_alloc((size_t)(in.rows * H) * 4), *lse8 = pw_alloc((size_t)(in.rows * H) * 4);
    open_on(&o, "ref", "");
    attend(&o, &in, false, 0, plain, lse);
    attend(&o, &in, true, 0, coded, lse8);
    double most = 0;
    for (int s = 0; s < in.n; s++)
        for (int64_t t = in.q_start[s]; t < in.q_start[s + 1]; t++)
            for (int h = 0; h < H; h++) {
                const int64_t at = t * H + h, g = h / (H / G), end = in.kv_start[s] + in.kv_len[s] - (in.q_start[s + 1] - 1 - t), low = end - in.kv_start[s] > 60 ? end - 60 : in.kv_start[s];
                double norm = 0, e = 0, half = 0, largest = 0;
                for (int64_t i = 0; i < in.d; i++) norm += fabs((double)in.q[at * in.d + i]);
                for (int64_t key = low; key < end; key++) {
                    double k = 0, v = 0;
                    for (int64_t i = 0; i < in.d; i++) {
                        k = fmax(k, fabs((double)in.k[(key * G + g) * in.d + i]));
                        v = fmax(v, fabs((double)in.v[(key * G + g) * in.d + i]));
                    }
                    e = fmax(e, in.attn.scale * norm * k / 254);
                    half = fmax(half, v / 254);
                    largest = fmax(largest, v);
                }
                ck_assert_msg(fabs((double)(lse8[at] - lse[at])) <= e * 1.0001 + 1e-5, "lse of row %d: %g and %g, bound %g", (int)at, (double)lse8[at], (double)lse[at], e);
                for (int64_t i = 0; i < in.d; i++) {
                    const double off = fabs((double)(coded[at * in.d + i] - plain[at * in.d + i])), allowed = (exp(2 * e) - 1) * largest + half * 1.0001 + 1e-5;
                    ck_assert_msg(off <= allowed, "out of row %d: off by %g, bound %g", (int)at, off, allowed);
                    most = fmax(most, off / allowed);
                }
            }
    ck_assert_msg(most > 0.01, "the largest error is %g of its bound", most);
    pw_free(plain), pw_free(coded), pw_free(lse), pw_free(lse8);
    close_on(&o);
    forget(&in);
}
END_TEST

/* dimension and device in _i: a multiple of 16, and one that is not. */
START_TEST(company)
{
    struct input all, one;
    struct on o;
    const int64_t d = _i % 2 ? 24 : 64;
    const char *const kind = kind_of(1 + _i / 2);
    const bool card = strcmp(kind, "cpu") != 0;
    make(&all, 0, SEQS, 0, d);
    const size_t n = (size_t)(all.rows * H * d), m = (size_t)(all.rows * H);
    float *out = pw_alloc(n * 4), *lse = pw_alloc(m * 4), *out2 = pw_alloc(n * 4), *lse2 = pw_alloc(m * 4);
    open_on(&o, kind, "");
    attend(&o, &all, true, 0, out, lse);
    for (int s = 0; s < SEQS; s++) {
        make(&one, s, 1, 5 + 3 * s, d);
        attend(&o, &one, true, 0, out2, lse2);
        ck_assert_msg(memcmp(out2, out + all.q_start[s] * H * d, (size_t)(one.rows * H * d) * 4) == 0, "sequence %d alone: out differs", s);
        ck_assert_msg(memcmp(lse2, lse + all.q_start[s] * H, (size_t)(one.rows * H) * 4) == 0, "sequence %d alone: lse differs", s);
        forget(&one);
        if (o.n > 20) {
            close_on(&o);
            open_on(&o, kind, "");
        }
    }
    close_on(&o);
    for (int i = 0; card && i < 2; i++) {
        open_on(&o, kind, test_card_order(i ? "reverse" : "random:3"));
        attend(&o, &all, true, i ? 2 : 0, out2, lse2); /* the second: addresses that are no multiples of 16 */
        ck_assert_msg(memcmp(out2, out, n * 4) == 0 && memcmp(lse2, lse, m * 4) == 0, "another order of threads, or memory that is not aligned: differs");
        close_on(&o);
    }
    pw_free(out), pw_free(lse), pw_free(out2), pw_free(lse2);
    forget(&all);
}
END_TEST

START_TEST(refused)
{
    struct on o;
    static int8_t code[4 * 8];
    static float scale[4 * 1], x[2 * 8];
    static int32_t rows[2] = { 1, 4 };
    open_on(&o, "cpu", "");
    const struct pw_tensor pool = pw_tensor3(code, PW_I8, 4, 1, 8), s = pw_tensor2(scale, PW_F32, 4, 1), t = pw_tensor3(x, PW_F32, 2, 1, 8), r = pw_tensor1(rows, PW_I32, 2);
    ck_fails(pw_cache_put(o.dev, pool, s, t, r), PW_E_FAIL, "rows[1]: expected 0 to 3, got 4");
    rows[1] = 3;
    ck_ok(pw_cache_put(o.dev, pool, s, t, r));
    ck_fails(pw_cache_put(o.dev, pool, pw_none(), t, r), PW_E_FAIL, "scale: expected (4, 1) f32, got none");
    ck_fails(pw_cache_put(o.dev, pool, pw_tensor2(scale, PW_F32, 2, 2), t, r), PW_E_FAIL, "scale: expected (4, 1) f32");
    ck_fails(pw_cache_put(o.dev, pw_tensor3(code, PW_U8, 4, 1, 8), s, t, r), PW_E_FAIL, "expected f32, bf16 or i8, got u8");
    ck_fails(pw_cache_put(o.dev, pw_tensor3(code, PW_BF16, 2, 1, 8), s, t, pw_tensor1(rows, PW_I32, 0)), PW_E_FAIL, "expected none beside a pool of bf16");
    const struct pw_cache mixed = { pool, pw_tensor3(x, PW_F32, 2, 1, 8), s, pw_none() };
    int32_t q_start[2] = { 0, 2 }, start = 0, len = 2;
    const struct pw_seqs seqs = { 1, q_start, &start, &len, NULL, NULL, NULL };
    ck_fails(pw_cache_attn(o.dev, t, pw_none(), t, &mixed, &seqs, &(struct pw_attn){ .scale = 1 }), PW_E_FAIL, "v: expected");
    close_on(&o);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cache");
    TCase *t = tcase_create("cache");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, numbers, 0, 3);
    tcase_add_test(t, bound);
    tcase_add_loop_test(t, company, 0, 4);
    tcase_add_test(t, refused);
    suite_add_tcase(s, t);
    return test_run(s);
}
