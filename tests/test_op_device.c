/* What the table of ops does not show of devices with memory of their own: ids that only kernels see, sums over more than their partial sums,
 * the same bytes whatever the order of the threads, their number and the rows beside. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "base/memory.h"
#include "base/rng.h"
#include "kernels/backend.h"
#include "tests/support.h"

static struct pw_dev *dev;
static void *taken[64];
static int n_taken;

#if defined(__SANITIZE_THREAD__)
enum { THREADS_MOST = 1 }; /* it does not know OpenMP's barriers */
#else
enum { THREADS_MOST = 3 };
#endif
static void open_simt(const char *order, int threads)
{
    ck_ok(pw_dev_open(&dev, &(struct pw_dev_options){ .kind = test_card(), .threads = threads < THREADS_MOST ? threads : THREADS_MOST, .level = test_card_order(order) }));
}
static void close_simt(void)
{
    while (n_taken) dev->backend->give(dev, taken[--n_taken]);
    pw_dev_close(dev);
}
static void *put(const void *host, size_t bytes) /* a copy on the device */
{
    ck_assert_int_lt(n_taken, 64);
    ck_ok(dev->backend->take(dev, &taken[n_taken], bytes));
    ck_ok(pw_dev_put(dev, taken[n_taken], host, bytes));
    return taken[n_taken++];
}
static uint16_t *noise16(int64_t n, uint64_t seed)
{
    uint16_t *x = malloc((size_t)n * 2);
    struct pw_rng r = pw_rng_make(seed, PW_STREAM_TEST);
    for (int64_t i = 0; i < n; i++) x[i] = pw_f32_to_bf16((float)(2 * pw_rng_uniform(&r) - 1));
    return x;
}
static float *noise32(int64_t n, uint64_t seed)
{
    float *x = malloc((size_t)n * 4);
    struct pw_rng r = pw_rng_make(seed, PW_STREAM_TEST);
    for (int64_t i = 0; i < n; i++) x[i] = (float)(2 * pw_rng_uniform(&r) - 1);
    return x;
}

/* An id outside: the op is queued, the next look at the device tells where it was, what it was, and that row alone is as before. */
enum { ROWS = 5, WIDTH = 24, TABLE = 7 };
static void check_rows(const uint16_t *got, const uint16_t *before, int bad, const char *what)
{
    for (int t = 0; t < ROWS; t++) ck_assert_msg((memcmp(got + t * WIDTH, before + t * WIDTH, WIDTH * 2) == 0) == (t == bad), "%s: row %d", what, t);
}
START_TEST(ids_outside)
{
    static const int32_t wrong[] = { -1, TABLE, INT32_MIN, INT32_MAX };
    uint16_t *x = noise16(ROWS * WIDTH, 1), *table = noise16(TABLE * WIDTH, 2), got[TABLE * WIDTH];
    float *zeros = pw_alloc_zero(TABLE * WIDTH, sizeof *zeros), sums[TABLE * WIDTH], *angles = noise32(TABLE * 4, 3);
    for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
        open_simt("", 2);
        int32_t id[ROWS] = { 3, 1, 0, wrong[k], 5 };
        char text[200];
        struct pw_tensor there = pw_tensor1(put(id, sizeof id), PW_I32, ROWS), many = pw_tensor2(put(table, sizeof got), PW_BF16, TABLE, WIDTH);
        struct pw_tensor few = pw_tensor2(put(x, ROWS * WIDTH * 2), PW_BF16, ROWS, WIDTH), grad = pw_tensor2(put(zeros, sizeof sums), PW_F32, TABLE, WIDTH);
        struct pw_tensor heads = pw_tensor3(put(x, ROWS * WIDTH * 2), PW_BF16, ROWS, 2, WIDTH / 2), turn = pw_tensor2(put(angles, TABLE * 4 * 4), PW_F32, TABLE, 4);
#define TELLS(call, what) do { \
            ck_ok(call); \
            snprintf(text, sizeof text, "%s[3]: expected 0 to %d, got %d", what, TABLE - 1, wrong[k]); \
            ck_fails(pw_dev_sync(dev), PW_E_FAIL, text); \
            ck_ok(pw_dev_sync(dev)); \
        } while (0)
        const struct pw_weight weight = pw_weight_dense(many);
        TELLS(pw_embed_fwd(dev, few, &weight, there), "embed: ids");
        ck_ok(pw_dev_get(dev, got, few.data, ROWS * WIDTH * 2));
        check_rows(got, x, 3, "embed_fwd");
        ck_ok(pw_dev_put(dev, few.data, x, ROWS * WIDTH * 2));
        TELLS(pw_gather_rows(dev, few, many, there), "scatter_rows, gather_rows: rows");
        ck_ok(pw_dev_get(dev, got, few.data, ROWS * WIDTH * 2));
        check_rows(got, x, 3, "gather_rows");
        TELLS(pw_rope(dev, heads, there, turn, turn, PW_ROPE_HALF, 1), "rope: pos");
        ck_ok(pw_dev_get(dev, got, heads.data, ROWS * WIDTH * 2));
        check_rows(got, x, 3, "rope");
        TELLS(pw_embed_bwd(dev, grad, few, there), "embed: ids");
        ck_ok(pw_dev_get(dev, sums, grad.data, sizeof sums));
        for (int v = 0; v < TABLE; v++)
            for (int i = 0; i < WIDTH; i++) ck_assert_msg((sums[v * WIDTH + i] != 0) == (v == 0 || v == 1 || v == 3 || v == 5), "embed_bwd: row %d", v);
        ck_ok(pw_dev_put(dev, few.data, x, ROWS * WIDTH * 2));
        TELLS(pw_scatter_rows(dev, many, few, there), "scatter_rows, gather_rows: rows");
        ck_ok(pw_dev_get(dev, got, many.data, sizeof got));
        for (int v = 0; v < TABLE; v++)
            ck_assert_msg((memcmp(got + v * WIDTH, table + v * WIDTH, WIDTH * 2) != 0) == (v == 0 || v == 1 || v == 3 || v == 5), "scatter_rows: row %d", v);
        close_simt();
    }
    free(x);
    free(table);
    free(angles);
    pw_free(zeros);
}
END_TEST

/* More elements than one turn of all partial sums, aligned and not. */
START_TEST(sums)
{
    const int64_t n = 2048 * 2048 + 4097;
    float *x = noise32(n + 1, 4);
    double want = 1.5, got;
    for (int64_t i = 0; i < n; i++) want += (double)x[i + _i] * (double)x[i + _i];
    open_simt("", 2);
    double *there = put(&(double){ 1.5 }, sizeof want);
    float *from = put(x, (size_t)(n + 1) * 4);
    ck_ok(pw_sumsq(dev, pw_tensor1(there, PW_F64, 1), pw_tensor1(from + _i, PW_F32, n)));
    ck_ok(pw_dev_get(dev, &got, there, sizeof got));
    ck_close(got, want, 0, (double)n * 0x1p-53);
    close_simt();
    free(x);
}
END_TEST

/* Every op of elements and rows: bytes of all outputs. */
enum { T = 37, D = 200, IDS = 11, HASHES = 9 };
static uint64_t hash(const void *where, size_t bytes)
{
    uint64_t h = 14695981039346656037ull;
    unsigned char *b = malloc(bytes);
    ck_ok(pw_dev_get(dev, b, where, bytes));
    for (size_t i = 0; i < bytes; i++) h = (h ^ b[i]) * 1099511628211ull;
    free(b);
    return h;
}
static void all_ops(uint64_t h[HASHES])
{
    uint16_t *x = noise16(T * D, 5), *y = noise16(T * D, 6);
    float *w = noise32(D, 7), *many = noise32(T * D, 8), *squares = noise32(T * D, 11);
    for (int i = 0; i < T * D; i++) squares[i] *= squares[i];
    int32_t id[T];
    for (int t = 0; t < T; t++) id[t] = t * t % IDS;
    struct pw_tensor ids = pw_tensor1(put(id, sizeof id), PW_I32, T), a = pw_tensor2(put(x, T * D * 2), PW_BF16, T, D), b = pw_tensor2(put(y, T * D * 2), PW_BF16, T, D);
    struct pw_tensor g = pw_tensor2(put(y, T * D * 2), PW_BF16, T, D), weight = pw_tensor1(put(w, D * 4), PW_F32, D), inv = pw_tensor1(put(w, T * 4), PW_F32, T);
    struct pw_tensor dw = pw_tensor1(put(w, D * 4), PW_F32, D), table = pw_tensor2(put(many, IDS * D * 4), PW_F32, IDS, D), sum = pw_tensor1(put(w, 8), PW_F64, 1);
    struct pw_tensor p = pw_tensor2(put(many, T * D * 4), PW_F32, T, D), m = pw_tensor2(put(many, T * D * 4), PW_F32, T, D);
    struct pw_adamw step = { .lr = 0.01, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.1, .step = 3, .grad_scale = 0.5 };
    uint8_t *codes = malloc(T * D);
    float *scales = malloc(T * D);
    struct pw_weight nf4 = { .n_out = T, .n_in = D, .type = PW_Q_NF4, .dtype = PW_F32, .block = 64, .data = put(codes, T * D), .absmax = put(scales, T * D) };
    ck_ok(pw_rmsnorm_fwd(dev, b, inv, a, weight, 1e-6, 0));
    h[0] = hash(b.data, T * D * 2);
    ck_ok(pw_rmsnorm_bwd(dev, g, dw, b, a, weight, inv, 0));
    h[1] = hash(g.data, T * D * 2);
    h[2] = hash(dw.data, D * 4);
    ck_ok(pw_embed_bwd(dev, table, b, ids));
    h[3] = hash(table.data, IDS * D * 4);
    ck_ok(pw_sumsq(dev, sum, table));
    h[4] = hash(sum.data, 8);
    ck_ok(pw_adamw(dev, p, m, pw_tensor2(put(squares, T * D * 4), PW_F32, T, D), pw_tensor2(put(many, T * D * 4), PW_F32, T, D), &step));
    h[5] = hash(p.data, T * D * 4);
    ck_ok(pw_encode(dev, &nf4, p));
    h[6] = hash(nf4.data, T * D / 2);
    ck_ok(pw_decode(dev, b, &nf4, 0));
    h[7] = hash(b.data, T * D * 2);
    ck_ok(pw_glu_bwd(dev, a, g, b, pw_tensor2(put(x, T * D * 2), PW_BF16, T, D), pw_tensor2(put(y, T * D * 2), PW_BF16, T, D), PW_ACT_SILU));
    h[8] = hash(g.data, T * D * 2);
    free(x);
    free(y);
    free(w);
    free(many);
    free(squares);
    free(codes);
    free(scales);
}
START_TEST(same_bytes)
{
    static const struct { const char *order; int threads; } how[] = { { "reverse", 1 }, { "random:5", 1 }, { "random:6", 2 }, { "forward", 3 } };
    uint64_t first[HASHES], again[HASHES];
    open_simt("", 1);
    all_ops(first);
    close_simt();
    for (size_t k = 0; k < sizeof how / sizeof *how; k++) {
        open_simt(how[k].order, how[k].threads);
        all_ops(again);
        close_simt();
        for (int i = 0; i < HASHES; i++) ck_assert_msg(first[i] == again[i], "output %d differs: %s, %d threads", i, how[k].order, how[k].threads);
    }
}
END_TEST

/* rmsnorm: a row's result does not depend on the rows beside it. */
START_TEST(rows_alone)
{
    uint16_t *x = noise16(T * D, 9), all[T * D], alone[D];
    float *w = noise32(D, 10);
    open_simt("", 2);
    struct pw_tensor a = pw_tensor2(put(x, T * D * 2), PW_BF16, T, D), out = pw_tensor2(put(x, T * D * 2), PW_BF16, T, D), weight = pw_tensor1(put(w, D * 4), PW_F32, D);
    ck_ok(pw_rmsnorm_fwd(dev, out, pw_none(), a, weight, 1e-6, 1));
    ck_ok(pw_dev_get(dev, all, out.data, sizeof all));
    for (int t = 0; t < T; t += 6) {
        ck_ok(pw_rmsnorm_fwd(dev, pw_rows(out, 0, 1), pw_none(), pw_rows(a, t, 1), weight, 1e-6, 1));
        ck_ok(pw_dev_get(dev, alone, out.data, sizeof alone));
        ck_assert_msg(memcmp(alone, all + t * D, sizeof alone) == 0, "row %d", t);
    }
    close_simt();
    free(x);
    free(w);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("op_device");
    TCase *t = tcase_create("device");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, ids_outside);
    tcase_add_loop_test(t, sums, 0, 2);
    tcase_add_test(t, same_bytes);
    tcase_add_test(t, rows_alone);
    suite_add_tcase(s, t);
    return test_run(s);
}
