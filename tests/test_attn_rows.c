/* Attention from the CUDA sources, on simt: the same bits whatever else is in the batch, wherever the rows lie in the pool, in whatever order
 * threads run, and whether memory is aligned or not (copies of 16 bytes, or element by element). The scratch that is planned is enough. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "base/memory.h"
#include "base/rng.h"
#include "kernels/backend.h"
#include "kernels/op.h"
#include "tests/support.h"

enum { H = 4, G = 2, SEQS = 8, Q, K, V, OUT, LSE, DOUT, DQ, DK, DV, ARRAYS };
static const struct { int n_q, before; } shape[SEQS] = { { 1, 500 }, { 40, 0 }, { 17, 30 }, { 3, 200 }, { 0, 9 }, { 70, 0 }, { 16, 150 }, { 5, 0 } };

struct batch {
    int64_t rows, pool, d;
    int32_t q_start[SEQS + 1], kv_start[SEQS], kv_len[SEQS], prefix_start[SEQS], prefix_len[SEQS];
    struct pw_seqs seqs;
    void *a[ARRAYS];      /* bf16; lse f32 */
    size_t bytes[ARRAYS];
};

static size_t row_bytes(int i, int64_t d) { return i == LSE ? H * 4 : (size_t)(i == K || i == V || i == DK || i == DV ? G : H) * (size_t)d * 2; }
static bool by_pool(int i) { return i == K || i == V || i == DK || i == DV; }

/* Sequences first .. first + n of the list, whose keys begin `gap` rows behind one another, behind a prefix of 37 rows. */
static void make(struct batch *b, int first, int n, int gap, int64_t d)
{
    struct pw_rng r = pw_rng_make(3, PW_STREAM_TEST);
    memset(b, 0, sizeof *b);
    b->d = d;
    b->pool = 37;
    for (int i = 0; i < n; i++) {
        b->kv_start[i] = (int32_t)(b->pool += gap);
        b->kv_len[i] = shape[first + i].n_q + shape[first + i].before;
        b->prefix_len[i] = 37;
        b->pool += b->kv_len[i];
        b->q_start[i + 1] = b->q_start[i] + shape[first + i].n_q;
    }
    b->rows = b->q_start[n];
    b->seqs = (struct pw_seqs){ n, b->q_start, b->kv_start, b->kv_len, b->prefix_start, b->prefix_len, NULL };
    for (int i = Q; i < ARRAYS; i++) {
        b->bytes[i] = (size_t)(by_pool(i) ? b->pool : b->rows) * row_bytes(i, d);
        b->a[i] = pw_alloc_zero(b->bytes[i] + 1, 1);
        ck_assert_ptr_nonnull(b->a[i]);
        for (size_t j = 0; i != LSE && j < b->bytes[i] / 2; j++) ((uint16_t *)b->a[i])[j] = pw_f32_to_bf16((float)(4 * pw_rng_uniform(&r) - 2));
    }
}
static void forget(struct batch *b)
{
    for (int i = Q; i < ARRAYS; i++) pw_free(b->a[i]);
}

/* Rows of sequence `from` of one batch become those of sequence `to` of another. */
static void copy_rows(struct batch *out, int to, const struct batch *in, int from)
{
    for (int i = Q; i < ARRAYS; i++) {
        const size_t row = row_bytes(i, in->d);
        const int64_t n = by_pool(i) ? in->kv_len[from] : in->q_start[from + 1] - in->q_start[from];
        memcpy((char *)out->a[i] + (size_t)(by_pool(i) ? out->kv_start[to] : out->q_start[to]) * row,
               (char *)in->a[i] + (size_t)(by_pool(i) ? in->kv_start[from] : in->q_start[from]) * row, (size_t)n * row);
        if (by_pool(i)) memcpy(out->a[i], in->a[i], 37 * row);
    }
}

/* Forward and backward on a device of its own; every tensor begins `offset` bytes behind an address that is a multiple of 64. */
static void run(struct batch *b, const char *schedule, int threads, size_t offset, int64_t window, double cap)
{
    struct pw_dev *dev;
    char *at[ARRAYS], *lists;
    struct pw_tensor t[ARRAYS];
    ck_ok(pw_dev_open(&dev, &(struct pw_dev_options){ .kind = test_card(), .threads = threads, .level = test_card_order(schedule) }));
    ck_ok(pw_dev_reserve(dev, pw_scratch_attn(dev, b->rows, b->pool, H, G, (int)b->d, true)));
    for (int i = Q; i < ARRAYS; i++) {
        void *p;
        const int64_t rows = by_pool(i) ? b->pool : b->rows;
        ck_ok(dev->backend->take(dev, &p, b->bytes[i] + 64));
        at[i] = p;
        const size_t begin = i == LSE ? 0 : offset; /* f32 */
        t[i] = i == LSE ? pw_tensor2(at[i] + begin, PW_F32, rows, H) : pw_tensor3(at[i] + begin, PW_BF16, rows, by_pool(i) ? G : H, b->d);
        ck_ok(pw_dev_put(dev, at[i] + begin, b->a[i], b->bytes[i]));
    }
    void *p;
    ck_ok(dev->backend->take(dev, &p, pw_seqs_bytes(SEQS, 0)));
    ck_ok(pw_seqs_put(dev, lists = p, &b->seqs));
    const struct pw_attn attn = { .scale = 1 / sqrt((double)b->d), .window = window, .softcap = cap };
    ck_ok(pw_attn_fwd(dev, t[OUT], t[LSE], t[Q], t[K], t[V], &b->seqs, &attn));
    ck_ok(pw_attn_bwd(dev, t[DQ], t[DK], t[DV], t[DOUT], t[OUT], t[LSE], t[Q], t[K], t[V], &b->seqs, &attn));
    for (int i = Q; i < ARRAYS; i++) {
        ck_ok(pw_dev_get(dev, b->a[i], t[i].data, b->bytes[i]));
        dev->backend->give(dev, at[i]);
    }
    dev->backend->give(dev, lists);
    pw_dev_close(dev);
}

static const char *const names[ARRAYS] = { [OUT] = "out", [LSE] = "lse", [DQ] = "dq", [DK] = "dk", [DV] = "dv" };

static void all_same(const struct batch *a, const struct batch *b, const char *what)
{
    for (int i = OUT; i < ARRAYS; i++) ck_assert_msg(memcmp(a->a[i], b->a[i], a->bytes[i]) == 0, "d = %d: %s: %s differs", (int)a->d, what, names[i] ? names[i] : "dout");
}

static const struct { int64_t d, window; double cap; } kinds[] = { { 24, 0, 0 }, { 128, 50, 3 }, { 136, 0, 0 } };

/* The batch of all sequences, with gradients that start as minus what is added to them: what is left is what rounding to bf16 cut off, in which
 * another order of adding shows. Among gradients of ordinary size it nearly never does. */
static void make_all(struct batch *b, int kind)
{
    struct batch added;
    make(b, 0, SEQS, 0, kinds[kind].d);
    make(&added, 0, SEQS, 0, kinds[kind].d);
    for (int i = DQ; i < ARRAYS; i++) memset(added.a[i], 0, added.bytes[i]);
    run(&added, "", 2, 0, kinds[kind].window, kinds[kind].cap);
    for (int i = DQ; i < ARRAYS; i++)
        for (size_t j = 0; j < b->bytes[i] / 2; j++) {
            const uint16_t x = ((uint16_t *)added.a[i])[j];
            ((uint16_t *)b->a[i])[j] = x ? x ^ 0x8000 : 0; /* no -0: adding nothing to it makes 0 */
        }
    forget(&added);
}

START_TEST(order_and_memory)
{
    struct batch a, b;
    make_all(&a, _i);
    make_all(&b, _i);
    run(&a, "", 2, 0, kinds[_i].window, kinds[_i].cap);
    run(&b, "random:3", 1, 0, kinds[_i].window, kinds[_i].cap);
    all_same(&a, &b, "another order of threads");
    forget(&b);
    make_all(&b, _i);
    run(&b, "reverse", 2, 2, kinds[_i].window, kinds[_i].cap);
    all_same(&a, &b, "addresses that are no multiples of 16");
    forget(&a);
    forget(&b);
}
END_TEST

/* The prefix's gradients are sums over the batch; all else belongs to one sequence. */
START_TEST(company)
{
    struct batch a, start, one;
    make_all(&a, _i);
    make_all(&start, _i);
    run(&a, "", 2, 0, kinds[_i].window, kinds[_i].cap);
    for (int s = 0; s < SEQS; s++) {
        make(&one, s, 1, 5 + 3 * s, kinds[_i].d); /* at another place in the pool */
        copy_rows(&one, 0, &start, s);
        run(&one, "", 2, 0, kinds[_i].window, kinds[_i].cap);
        for (int i = OUT; i < ARRAYS; i++) {
            const size_t row = row_bytes(i, a.d), n = (size_t)(by_pool(i) ? one.kv_len[0] : one.rows) * row;
            const char *x = (char *)a.a[i] + (size_t)(by_pool(i) ? a.kv_start[s] : a.q_start[s]) * row, *y = (char *)one.a[i] + (size_t)(by_pool(i) ? one.kv_start[0] : 0) * row;
            ck_assert_msg(memcmp(x, y, n) == 0, "d = %d: sequence %d alone: %s differs", (int)a.d, s, names[i] ? names[i] : "dout");
        }
        forget(&one);
    }
    forget(&a);
    forget(&start);
}
END_TEST

/* 40 sequences of 16 queries over the same 600 keys: partial results of all of them at once would not fit what is planned. */
START_TEST(scratch)
{
    enum { N = 40, QUERIES = 16, KEYS = 600, D = 8 };
    struct pw_dev *dev;
    int32_t q_start[N + 1] = { 0 }, kv_start[N] = { 0 }, kv_len[N];
    uint16_t *host = pw_alloc_zero(N * QUERIES * D, 2), *first = pw_alloc_zero(QUERIES * D, 2);
    struct pw_rng r = pw_rng_make(4, PW_STREAM_TEST);
    void *q, *k, *v, *out, *lists;
    for (int i = 0; i < N; i++) {
        q_start[i + 1] = q_start[i] + QUERIES;
        kv_len[i] = KEYS;
    }
    struct pw_seqs seqs = { N, q_start, kv_start, kv_len, NULL, NULL, NULL };
    ck_ok(pw_dev_open(&dev, &(struct pw_dev_options){ .kind = test_card(), .threads = 2 }));
    ck_ok(pw_dev_reserve(dev, pw_scratch_attn(dev, N * QUERIES, KEYS, 1, 1, D, false)));
    ck_ok(dev->backend->take(dev, &q, N * QUERIES * D * 2));
    ck_ok(dev->backend->take(dev, &k, KEYS * D * 2));
    ck_ok(dev->backend->take(dev, &v, KEYS * D * 2));
    ck_ok(dev->backend->take(dev, &out, N * QUERIES * D * 2));
    ck_ok(dev->backend->take(dev, &lists, pw_seqs_bytes(N, 0)));
    ck_ok(pw_seqs_put(dev, lists, &seqs));
    for (int i = 0; i < KEYS * D; i++) host[i] = pw_f32_to_bf16((float)pw_rng_uniform(&r));
    ck_ok(pw_dev_put(dev, k, host, KEYS * D * 2));
    ck_ok(pw_dev_put(dev, v, host, KEYS * D * 2));
    for (int i = 0; i < N * QUERIES * D; i++) host[i] = i < QUERIES * D ? pw_f32_to_bf16((float)(8 * pw_rng_uniform(&r))) : host[i % (QUERIES * D)]; /* all alike */
    ck_ok(pw_dev_put(dev, q, host, N * QUERIES * D * 2));
    ck_ok(pw_attn_fwd(dev, pw_tensor3(out, PW_BF16, N * QUERIES, 1, D), pw_none(), pw_tensor3(q, PW_BF16, N * QUERIES, 1, D), pw_tensor3(k, PW_BF16, KEYS, 1, D),
                      pw_tensor3(v, PW_BF16, KEYS, 1, D), &seqs, &(struct pw_attn){ .scale = 1 }));
    ck_ok(pw_dev_get(dev, host, out, N * QUERIES * D * 2));
    memcpy(first, host, QUERIES * D * 2);
    for (int i = 0; i < N; i++) ck_assert_msg(memcmp(first, host + i * QUERIES * D, QUERIES * D * 2) == 0, "sequence %d differs from the first, which is the same", i);
    for (int i = 0; i < QUERIES * D; i++) {
        const float x = pw_bf16_to_f32(first[i]);
        ck_assert_msg(x > 0.25f && x < 0.95f, "out[%d] = %g is no mean of values between 0 and 1 that stress the larger ones", i, (double)x);
    }
    void *all[] = { q, k, v, out, lists };
    for (int i = 0; i < 5; i++) dev->backend->give(dev, all[i]);
    pw_free(host);
    pw_free(first);
    pw_dev_close(dev);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("attn_rows");
    TCase *t = tcase_create("rows");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, order_and_memory, 0, (int)(sizeof kinds / sizeof *kinds));
    tcase_add_loop_test(t, company, 0, getenv("PW_FAST") ? 1 : (int)(sizeof kinds / sizeof *kinds));
    tcase_add_test(t, scratch);
    suite_add_tcase(s, t);
    return test_run(s);
}
