/* A row's result has the same bytes whatever else is in the call, wherever the row lies, and whatever the number of threads. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "base/memory.h"
#include "base/rng.h"
#include "kernels/op.h"
#include "tests/support.h"

enum { T = 130 };
static const char *const levels[] = { "generic", "avx2", "avx512", "amx", "avx512_bf16", "amx_bf16" };
enum { LEVELS = sizeof levels / sizeof *levels };

static float *noise(int64_t n, uint64_t seed)
{
    float *x = pw_alloc((size_t)n * sizeof *x);
    struct pw_rng r = pw_rng_make(seed, PW_STREAM_TEST);
    for (int64_t i = 0; i < n; i++) x[i] = (float)(2 * pw_rng_uniform(&r) - 1);
    return x;
}

static struct pw_dev *open_level(const char *level, int threads)
{
    struct pw_dev *d;
    int rc = pw_dev_open(&d, &(struct pw_dev_options){ .kind = "cpu", .threads = threads, .level = level });
    if (rc == PW_E_UNSUPPORTED) return NULL;
    ck_assert_int_eq(rc, 0);
    return d;
}

static void same(const float *a, const float *b, int64_t n, const char *what, int64_t tokens, int threads)
{
    ck_assert_msg(memcmp(a, b, (size_t)n * sizeof *a) == 0, "%s: %lld rows on %d threads differ from the same rows among %d", what, (long long)tokens, threads, T);
}

/* kind 0 f32, 1 nf4, 2 bf16, 3 nf4 with odd rows; each with an adapter */
static void linear_rows(struct pw_dev **dev, int kind)
{
    int64_t k = kind == 3 ? 545 : 576, n = 401, r = 20; /* large enough for every part to be shared out among threads */
    float *value = noise(n * k, 1), *x = noise(T * k, 2), *a = noise(r * k, 3), *b = noise(n * r, 4), *dy = noise(T * n, 5), *bias = noise(n, 6);
    float *y = pw_alloc(T * (size_t)n * 4), *xa = pw_alloc(T * (size_t)r * 4), *dx = pw_alloc(T * (size_t)k * 4);
    float *y2 = pw_alloc(T * (size_t)n * 4), *xa2 = pw_alloc(T * (size_t)r * 4), *dx2 = pw_alloc(T * (size_t)k * 4);
    float *absmax = pw_alloc((size_t)(n * k / 64 + 1) * 4);
    uint16_t *code = pw_alloc((size_t)(n * k) * 2);
    struct pw_lora lora = { .r = (int)r, .scale = 2, .a = pw_tensor2(a, PW_F32, r, k), .b = pw_tensor2(b, PW_F32, n, r) };
    struct pw_weight w = { .n_out = n, .n_in = k, .type = PW_Q_DENSE, .dtype = PW_F32, .data = value, .block = 64 };
    if (kind == 1 || kind == 3) {
        w.type = PW_Q_NF4;
        w.data = code;
        w.absmax = absmax;
        ck_ok(pw_encode(dev[0], &w, pw_tensor2(value, PW_F32, n, k)));
    } else if (kind == 2) {
        ck_ok(pw_copy(dev[0], pw_tensor2(code, PW_BF16, n, k), pw_tensor2(value, PW_F32, n, k)));
        w.data = code;
        w.dtype = PW_BF16;
    }
    w.lora = &lora;
    w.bias = bias;
    struct pw_drop none = { 0 };
    for (int d = 0; d < 2; d++) ck_ok(pw_dev_reserve(dev[d], pw_scratch_linear(dev[d], T, &w, true)));
    memset(dx, 0, T * (size_t)k * 4);
    ck_ok(pw_linear_fwd(dev[1], pw_tensor2(y, PW_F32, T, n), pw_tensor2(xa, PW_F32, T, r), pw_tensor2(x, PW_F32, T, k), &w, none));
    struct pw_linear_grads g = { .dx = pw_tensor2(dx, PW_F32, T, k) };
    ck_ok(pw_linear_bwd(dev[1], &g, pw_tensor2(dy, PW_F32, T, n), pw_tensor2(x, PW_F32, T, k), pw_tensor2(xa, PW_F32, T, r), &w, none));
    for (int64_t tokens = 1; tokens <= T; tokens += tokens < 20 ? 1 : 11)
        for (int d = 0; d < 2; d++) {
            int64_t at = d ? T - tokens : 0; /* from the front, and at another place */
            memset(dx2, 0, (size_t)(tokens * k) * 4);
            ck_ok(pw_linear_fwd(dev[d], pw_tensor2(y2, PW_F32, tokens, n), pw_tensor2(xa2, PW_F32, tokens, r), pw_tensor2(x + at * k, PW_F32, tokens, k), &w, none));
            g.dx = pw_tensor2(dx2, PW_F32, tokens, k);
            ck_ok(pw_linear_bwd(dev[d], &g, pw_tensor2(dy + at * n, PW_F32, tokens, n), pw_tensor2(x + at * k, PW_F32, tokens, k), pw_tensor2(xa2, PW_F32, tokens, r), &w, none));
            same(xa2, xa + at * r, tokens * r, "xa", tokens, d + 1);
            same(y2, y + at * n, tokens * n, "y", tokens, d + 1);
            same(dx2, dx + at * k, tokens * k, "dx", tokens, d + 1);
        }
    void *all[] = { value, x, a, b, dy, bias, y, xa, dx, y2, xa2, dx2, absmax, code };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) pw_free(all[i]);
}

START_TEST(linear)
{
    struct pw_dev *dev[2] = { open_level(levels[_i], 1), open_level(levels[_i], 2) };
    if (!dev[0]) { test_skip("level %s", levels[_i]); return; }
    for (int kind = 0; kind < 4; kind++) linear_rows(dev, kind);
    pw_dev_close(dev[0]);
    pw_dev_close(dev[1]);
}
END_TEST

/* The last queries of a sequence alone, over a cache of the earlier keys, and with the earlier keys as a prefix kept elsewhere. */
START_TEST(attention)
{
    enum { H = 4, G = 2, D = 40 };
    struct pw_dev *dev[2] = { open_level(levels[_i], 1), open_level(levels[_i], 2) };
    if (!dev[0]) { test_skip("level %s", levels[_i]); return; }
    float *q = noise(T * H * D, 1), *k = noise(2 * T * G * D, 2), *v = noise(2 * T * G * D, 3);
    static float out[T * H * D], lse[T * H], out2[T * H * D], lse2[T * H];
    for (int window = 0; window <= 50; window += 50) {
        struct pw_attn attn = { .scale = 0.4, .window = window };
        int32_t q_start[2] = { 0, T }, kv_start = 0, kv_len = T, prefix_start = 0, prefix_len = 0;
        struct pw_seqs seqs = { 1, q_start, &kv_start, &kv_len, NULL, NULL };
        for (int d = 0; d < 2; d++) ck_ok(pw_dev_reserve(dev[d], pw_scratch_attn(dev[d], T, 2 * T, H, G, D, false)));
        struct pw_tensor kt = pw_tensor3(k, PW_F32, 2 * T, G, D), vt = pw_tensor3(v, PW_F32, 2 * T, G, D);
        ck_ok(pw_attn_fwd(dev[1], pw_tensor3(out, PW_F32, T, H, D), pw_tensor2(lse, PW_F32, T, H), pw_tensor3(q, PW_F32, T, H, D), kt, vt, &seqs, &attn));
        for (int64_t n = 1; n < T; n += 9)
            for (int d = 0; d < 2; d++)
                for (int shared = 0; shared < 2; shared++) {
                    q_start[1] = (int32_t)n;
                    kv_start = 0;
                    kv_len = T;
                    if (shared) { /* keys 0..T-n stay, the rest moves behind them */
                        memcpy(k + T * G * D, k + (T - n) * G * D, (size_t)(n * G * D) * 4);
                        memcpy(v + T * G * D, v + (T - n) * G * D, (size_t)(n * G * D) * 4);
                        prefix_len = (int32_t)(T - n);
                        kv_start = T;
                        kv_len = (int32_t)n;
                        seqs.prefix_start = &prefix_start;
                        seqs.prefix_len = &prefix_len;
                    } else {
                        seqs.prefix_start = seqs.prefix_len = NULL;
                    }
                    ck_ok(pw_attn_fwd(dev[d], pw_tensor3(out2, PW_F32, n, H, D), pw_tensor2(lse2, PW_F32, n, H), pw_tensor3(q + (T - n) * H * D, PW_F32, n, H, D), kt, vt, &seqs, &attn));
                    same(out2, out + (T - n) * H * D, n * H * D, shared ? "attention, prefix" : "attention, cache", n, d + 1);
                    same(lse2, lse + (T - n) * H, n * H, "lse", n, d + 1);
                }
        q_start[1] = T;
    }
    pw_free(q); pw_free(k); pw_free(v);
    pw_dev_close(dev[0]);
    pw_dev_close(dev[1]);
}
END_TEST

START_TEST(head)
{
    enum { D = 70, V = 333 };
    struct pw_dev *dev[2] = { open_level(levels[_i], 1), open_level(levels[_i], 2) };
    if (!dev[0]) { test_skip("level %s", levels[_i]); return; }
    float *h = noise(T * D, 1), *value = noise(V * D, 2), *up = noise(T, 3);
    static float loss[T], loss2[T], dh[T * D], dh2[T * D];
    int32_t target[T];
    for (int t = 0; t < T; t++) target[t] = t % 3 == 1 ? -100 : t * 7 % V;
    struct pw_weight w = pw_weight_dense(pw_tensor2(value, PW_F32, V, D));
    for (int d = 0; d < 2; d++) ck_ok(pw_dev_reserve(dev[d], pw_scratch_head(dev[d], T, &w, true)));
    memset(dh, 0, sizeof dh);
    ck_ok(pw_head_loss(dev[1], pw_tensor1(loss, PW_F32, T), pw_none(), pw_tensor2(dh, PW_F32, T, D), pw_none(), pw_tensor2(h, PW_F32, T, D), &w,
                       pw_tensor1(target, PW_I32, T), pw_tensor1(up, PW_F32, T), 0));
    for (int64_t n = 1; n <= T; n += 13)
        for (int d = 0; d < 2; d++) {
            int64_t at = T - n;
            memset(dh2, 0, sizeof dh2);
            ck_ok(pw_head_loss(dev[d], pw_tensor1(loss2, PW_F32, n), pw_none(), pw_tensor2(dh2, PW_F32, n, D), pw_none(), pw_tensor2(h + at * D, PW_F32, n, D), &w,
                               pw_tensor1(target + at, PW_I32, n), pw_tensor1(up + at, PW_F32, n), 0));
            same(loss2, loss + at, n, "loss", n, d + 1);
            same(dh2, dh + at * D, n * D, "dh", n, d + 1);
        }
    pw_free(h); pw_free(value); pw_free(up);
    pw_dev_close(dev[0]);
    pw_dev_close(dev[1]);
}
END_TEST

/* Parameter gradients are sums over rows: they depend on the rows, but not on the threads. */
START_TEST(threads)
{
    struct pw_dev *dev[2] = { open_level(levels[_i], 1), open_level(levels[_i], 2) };
    if (!dev[0]) { test_skip("level %s", levels[_i]); return; }
    int64_t k = 130, n = 260, r = 70; /* likewise */
    float *value = noise(n * k, 1), *x = noise(T * k, 2), *a = noise(r * k, 3), *b = noise(n * r, 4), *dy = noise(T * n, 5), *xa = noise(T * r, 6);
    struct pw_lora lora = { .r = (int)r, .scale = 2, .a = pw_tensor2(a, PW_F32, r, k), .b = pw_tensor2(b, PW_F32, n, r) };
    struct pw_weight w = { .n_out = n, .n_in = k, .type = PW_Q_DENSE, .dtype = PW_F32, .data = value, .lora = &lora };
    float *sum[2];
    double squares[2] = { 0 };
    size_t total = (size_t)(n * k + n + r * k + n * r);
    for (int d = 0; d < 2; d++) {
        float *at = sum[d] = pw_alloc_zero(total, 4);
        struct pw_linear_grads g = { .dw = pw_tensor2(at, PW_F32, n, k), .dbias = pw_tensor1(at + n * k, PW_F32, n), .da = pw_tensor2(at + n * k + n, PW_F32, r, k),
                                     .db = pw_tensor2(at + n * k + n + r * k, PW_F32, n, r) };
        ck_ok(pw_dev_reserve(dev[d], pw_scratch_linear(dev[d], T, &w, true)));
        ck_ok(pw_linear_bwd(dev[d], &g, pw_tensor2(dy, PW_F32, T, n), pw_tensor2(x, PW_F32, T, k), pw_tensor2(xa, PW_F32, T, r), &w, (struct pw_drop){ .p = 0.2, .seed = 1 }));
        ck_ok(pw_sumsq(dev[d], pw_tensor1(&squares[d], PW_F64, 1), pw_tensor1(value, PW_F32, n * k)));
    }
    ck_assert_mem_eq(sum[0], sum[1], total * 4);
    ck_assert_mem_eq(&squares[0], &squares[1], 8);
    void *all[] = { value, x, a, b, dy, xa, sum[0], sum[1] };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) pw_free(all[i]);
    pw_dev_close(dev[0]);
    pw_dev_close(dev[1]);
}
END_TEST

/* Levels whose products are of f32 numbers lose no more than the roundings of the sum: few terms, so that what is left out of a term would be seen.
 * A term and an addition err by u each; those that put a term together of parts by 2 u more, which what they leave out is within. */
static void short_sums(struct pw_dev *dev, int64_t k, enum pw_dtype type)
{
    enum { N = 37 };
    const double u = 0x1p-24;
    float *value = noise(N * k, 1), *x = noise(T * k, 2), *y = pw_alloc(T * N * 4), *dx = pw_alloc_zero((size_t)(T * N), 4);
    uint16_t *half = pw_alloc((size_t)(N * k) * 2);
    if (type == PW_BF16)
        for (int64_t i = 0; i < N * k; i++) value[i] = pw_bf16_to_f32(half[i] = pw_f32_to_bf16(value[i]));
    const struct pw_weight w = pw_weight_dense(pw_tensor2(type == PW_BF16 ? (void *)half : value, type, N, k)), turned = pw_weight_dense(pw_tensor2(type == PW_BF16 ? (void *)half : value, type, k, N));
    const struct pw_linear_grads g = { .dx = pw_tensor2(dx, PW_F32, T, N) };
    const struct pw_drop none = { 0 };
    ck_ok(pw_dev_reserve(dev, pw_scratch_linear(dev, T, &w, false)));
    ck_ok(pw_dev_reserve(dev, pw_scratch_linear(dev, T, &turned, true)));
    ck_ok(pw_linear_fwd(dev, pw_tensor2(y, PW_F32, T, N), pw_none(), pw_tensor2(x, PW_F32, T, k), &w, none));
    ck_ok(pw_linear_bwd(dev, &g, pw_tensor2(x, PW_F32, T, k), pw_none(), pw_none(), &turned, none));
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < N; i++) {
            double sum = 0, size = 0, back = 0, back_size = 0;
            for (int64_t j = 0; j < k; j++) {
                const double a = (double)x[t * k + j] * (double)value[i * k + j], b = (double)x[t * k + j] * (double)value[j * N + i];
                sum += a, size += fabs(a), back += b, back_size += fabs(b);
            }
            ck_assert_msg(fabs((double)y[t * N + i] - sum) <= (double)(k + 3) * u * size, "y[%lld][%lld] of %lld terms: %.9g, expected %.9g", (long long)t, (long long)i, (long long)k, (double)y[t * N + i], sum);
            ck_assert_msg(fabs((double)dx[t * N + i] - back) <= (double)(k + 3) * u * back_size, "dx[%lld][%lld] of %lld terms: %.9g, expected %.9g", (long long)t, (long long)i, (long long)k,
                          (double)dx[t * N + i], back);
        }
    void *all[] = { value, x, y, dx, half };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) pw_free(all[i]);
}

START_TEST(few_terms)
{
    struct pw_dev *dev = open_level(levels[_i], 2);
    if (!dev) { test_skip("level %s", levels[_i]); return; }
    for (int64_t k = 1; dev->products == PW_F32 && k <= 5; k++) {
        short_sums(dev, k, PW_F32);
        short_sums(dev, k, PW_BF16);
    }
    pw_dev_close(dev);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("op_rows");
    TCase *t = tcase_create("rows");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, linear, 0, LEVELS);
    tcase_add_loop_test(t, attention, 0, LEVELS);
    tcase_add_loop_test(t, head, 0, LEVELS);
    tcase_add_loop_test(t, threads, 0, LEVELS);
    tcase_add_loop_test(t, few_terms, 0, LEVELS);
    suite_add_tcase(s, t);
    return test_run(s);
}
