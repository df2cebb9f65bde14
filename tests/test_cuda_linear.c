/* Linear layers and the loss head on the emulation of cards, beyond the table of op cases: rows that do not depend on their neighbours, the first of equal
 * logits, targets that are out of range. */
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "base/memory.h"
#include "base/rng.h"
#include "kernels/backend.h"
#include "kernels/cuda/hooks.h"
#include "tests/support.h"

enum { MEMORY = 64 };
static struct pw_dev *dev;
static void *memory[MEMORY];
static int n_memory;

static void setup(void) { ck_assert_msg(pw_dev_open(&dev, &(struct pw_dev_options){ .kind = test_card(), .threads = 1 }) == 0, "%s", pw_error_text()); }
static void teardown(void)
{
    while (n_memory) dev->backend->give(dev, memory[--n_memory]);
    pw_dev_close(dev);
}
static void *take(size_t bytes, const void *from)
{
    void *p;
    ck_assert(n_memory < MEMORY);
    ck_ok(dev->backend->take(dev, &p, bytes));
    memory[n_memory++] = p;
    if (from) ck_ok(pw_dev_put(dev, p, from, bytes));
    return p;
}
/* Random numbers within [-1, 1] on the device, f32 or bf16. */
static void *noise(enum pw_dtype type, int64_t n, uint64_t seed)
{
    struct pw_rng r = pw_rng_make(seed, PW_STREAM_TEST);
    uint8_t *host = pw_alloc((size_t)n * 4);
    for (int64_t i = 0; i < n; i++) {
        const float x = (float)(2 * pw_rng_uniform(&r) - 1);
        if (type == PW_F32) ((float *)host)[i] = x;
        else ((uint16_t *)host)[i] = pw_f32_to_bf16(x);
    }
    void *p = take((size_t)n * pw_dtype_bytes(type), host);
    pw_free(host);
    return p;
}

enum { MOST = 200 };
/* Within these ranges of rows the same sums are made; beyond, others may be (kernels/cuda/linear.cu). */
static const int ranges[][2] = { { 1, 4 }, { 5, 16 }, { 17, MOST } };

START_TEST(rows_alone)
{
    enum { K = 1088, N = 134, R = 8 };
    const int path = _i % 2 ? CUDA_LINEAR_FUSED : CUDA_LINEAR_AUTO;
    const enum pw_qtype type = _i / 2 ? PW_Q_INT8 : PW_Q_NF4;
    ((struct cuda_hooks *)dev->impl)->linear_path = path;
    float *value = noise(PW_F32, N * K, 1);
    struct pw_lora lora = { .r = R, .scale = 2, .a = pw_tensor2(noise(PW_F32, R * K, 2), PW_F32, R, K), .b = pw_tensor2(noise(PW_F32, N * R, 3), PW_F32, N, R) };
    struct pw_weight w = { .n_out = N, .n_in = K, .type = type, .dtype = PW_BF16, .data = take(N * K, NULL), .absmax = take(N * K, NULL), .block = 64,
                           .bias = noise(PW_F32, N, 4) };
    ck_ok(pw_encode(dev, &w, pw_tensor2(value, PW_F32, N, K)));
    w.lora = &lora;
    char *x = noise(PW_BF16, MOST * K, 5), *dy = noise(PW_BF16, MOST * N, 6);
    void *y = take(MOST * N * 2, NULL), *xa = take(MOST * R * 2, NULL), *dx = take(MOST * K * 2, NULL), *zeros = pw_alloc_zero(MOST * K, 2);
    static uint16_t all[MOST * (N + R + K)], some[MOST * (N + R + K)];
    ck_ok(pw_dev_reserve(dev, pw_scratch_linear(dev, MOST, &w, true)));
    ck_ok(pw_dev_reserve(dev, pw_scratch_linear(dev, MOST, &w, false)));
    for (size_t range = 0; range < sizeof ranges / sizeof *ranges; range++)
        for (int64_t rows = ranges[range][1]; rows >= ranges[range][0]; rows -= range < 2 ? 1 : 61) {
            const int64_t most = ranges[range][1], at = most - rows; /* the last rows, alone */
            uint16_t *to = rows == most ? all : some;
            const struct pw_drop drop = { .p = 0 };
            struct pw_linear_grads g = { .dx = pw_tensor2(dx, PW_BF16, rows, K) };
            struct pw_tensor xt = pw_tensor2(x + at * K * 2, PW_BF16, rows, K), xat = pw_tensor2(xa, PW_BF16, rows, R);
            ck_ok(pw_linear_fwd(dev, pw_tensor2(y, PW_BF16, rows, N), xat, xt, &w, drop));
            ck_ok(pw_dev_put(dev, dx, zeros, (size_t)(rows * K) * 2));
            ck_ok(pw_linear_bwd(dev, &g, pw_tensor2(dy + at * N * 2, PW_BF16, rows, N), xt, xat, &w, drop));
            ck_ok(pw_dev_get(dev, to, y, (size_t)(rows * N) * 2));
            ck_ok(pw_dev_get(dev, to + MOST * N, xa, (size_t)(rows * R) * 2));
            ck_ok(pw_dev_get(dev, to + MOST * (N + R), dx, (size_t)(rows * K) * 2));
            if (rows == most) continue;
            ck_assert_msg(memcmp(some, all + at * N, (size_t)(rows * N) * 2) == 0, "y: %d rows alone differ from the same among %d", (int)rows, (int)most);
            ck_assert_msg(memcmp(some + MOST * N, all + MOST * N + at * R, (size_t)(rows * R) * 2) == 0, "xa: %d rows among %d", (int)rows, (int)most);
            ck_assert_msg(memcmp(some + MOST * (N + R), all + MOST * (N + R) + at * K, (size_t)(rows * K) * 2) == 0, "dx: %d rows among %d", (int)rows, (int)most);
        }
    pw_free(zeros);
}
END_TEST

/* Chunks of 32 rows and 64 words; word v and word v + 75 are the same, every third row is skipped. */
START_TEST(head)
{
    enum { T = 90, D = 40, V = 150, SAME = 25 };
    ((struct cuda_hooks *)dev->impl)->head_rows = 32;
    ((struct cuda_hooks *)dev->impl)->head_words = 64;
    struct pw_rng r = pw_rng_make(9, PW_STREAM_TEST);
    static float value[V * D], loss[T], before[T], up[T];
    static uint16_t h[T * D], dh[T * D], zeros[T * D];
    static double logit[T][V];
    int32_t target[T], best[T];
    for (int i = 0; i < V * D; i++) value[i] = i < SAME * D ? (float)(2 * pw_rng_uniform(&r) - 1) : value[i - SAME * D];
    for (int i = 0; i < T * D; i++) h[i] = pw_f32_to_bf16((float)(2 * pw_rng_uniform(&r) - 1));
    for (int t = 0; t < T; t++) target[t] = t % 3 == 1 ? -1 - t : t * 7 % V, before[t] = -7, up[t] = 1;
    for (int t = 0; t < T; t++)
        for (int v = 0; v < V; v++) /* as the device multiplies: a weight rounded to bf16 */
            for (int d = 0; d < D; d++) logit[t][v] += (double)pw_bf16_to_f32(h[t * D + d]) * (double)pw_bf16_to_f32(pw_f32_to_bf16(value[v * D + d]));
    struct pw_weight w = pw_weight_dense(pw_tensor2(take(sizeof value, value), PW_F32, V, D));
    struct pw_tensor targets = pw_tensor1(take(sizeof target, target), PW_I32, T), losses = pw_tensor1(take(sizeof loss, before), PW_F32, T);
    struct pw_tensor bests = pw_tensor1(take(sizeof best, NULL), PW_I32, T), ht = pw_tensor2(take(sizeof h, h), PW_BF16, T, D);
    struct pw_tensor dht = pw_tensor2(take(sizeof dh, zeros), PW_BF16, T, D), upt = pw_tensor1(take(sizeof up, up), PW_F32, T);
    ck_ok(pw_dev_reserve(dev, pw_scratch_head(dev, T, &w, true)));
    ck_ok(pw_head_loss(dev, losses, bests, pw_none(), pw_none(), ht, &w, targets, pw_none(), 0));
    ck_ok(pw_dev_get(dev, best, bests.data, sizeof best));
    for (int t = 0; t < T; t++) {
        int first = 0;
        for (int v = 0; v < V; v++) first = logit[t][v] > logit[t][first] ? v : first;
        ck_assert_int_eq(best[t], t % 3 == 1 ? -1 : first);
        ck_assert(first < SAME);
    }
    /* two targets past the vocabulary: the first that was seen is named, and their rows are left alone */
    target[33] = V;
    target[72] = INT32_MAX;
    ck_ok(pw_dev_put(dev, targets.data, target, sizeof target));
    ck_ok(pw_dev_put(dev, losses.data, before, sizeof before));
    ck_ok(pw_head_loss(dev, losses, pw_none(), dht, pw_none(), ht, &w, targets, upt, 0));
    int rc = pw_dev_sync(dev);
    ck_assert_msg(rc == PW_E_FAIL && (strstr(pw_error_text(), "head_loss: targets[33]: expected 0 to 149, got 150") ||
                                      strstr(pw_error_text(), "head_loss: targets[72]: expected 0 to 149, got 2147483647")), "%d: %s", rc, pw_error_text());
    ck_ok(pw_dev_get(dev, loss, losses.data, sizeof loss));
    ck_ok(pw_dev_get(dev, dh, dht.data, sizeof dh));
    for (int t = 0; t < T; t++) {
        const bool skipped = t % 3 == 1 || t == 33 || t == 72;
        bool touched = false;
        for (int d = 0; d < D; d++) touched |= dh[t * D + d] != 0;
        ck_assert_msg(touched == !skipped, "dh of row %d", t);
        if (t == 33 || t == 72) ck_assert_msg(loss[t] == -7, "loss[%d] = %g", t, (double)loss[t]);
        else ck_assert_msg(skipped ? loss[t] == 0 : loss[t] > 0, "loss[%d] = %g", t, (double)loss[t]);
    }
    /* no row at all */
    for (int t = 0; t < T; t++) target[t] = -100;
    ck_ok(pw_dev_put(dev, targets.data, target, sizeof target));
    ck_ok(pw_dev_put(dev, dht.data, zeros, sizeof zeros));
    ck_ok(pw_head_loss(dev, losses, bests, dht, pw_none(), ht, &w, targets, upt, 0));
    ck_ok(pw_dev_get(dev, loss, losses.data, sizeof loss));
    ck_ok(pw_dev_get(dev, dh, dht.data, sizeof dh));
    for (int t = 0; t < T; t++) ck_assert(loss[t] == 0);
    ck_assert_mem_eq(dh, zeros, sizeof dh);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cuda_linear");
    TCase *t = tcase_create("simt");
    tcase_set_timeout(t, 240);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, rows_alone, 0, 4);
    tcase_add_test(t, head);
    suite_add_tcase(s, t);
    return test_run(s);
}
