/* Choices of products: each is obeyed within its bucket and nowhere else, scratch that is planned serves smaller passes, the file is read back or
 * refused with its place, and what is measured is kept. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "kernels/choices.h"
#include "kernels/cuda/hooks.h"
#include "tests/support.h"

enum { N = 150, K = 192, MOST = 80 };
struct on { struct pw_dev *dev; struct pw_pool pool; struct pw_weight w; struct pw_tensor x, y; };

static void open_on(struct on *o)
{
    struct pw_rng r = pw_rng_make(3, PW_STREAM_TEST);
    static float value[N * K];
    static uint16_t x[MOST * K];
    for (int i = 0; i < N * K; i++) value[i] = (float)(2 * pw_rng_uniform(&r) - 1);
    for (int i = 0; i < MOST * K; i++) x[i] = pw_f32_to_bf16((float)(2 * pw_rng_uniform(&r) - 1));
    ck_ok(pw_dev_open(&o->dev, &(struct pw_dev_options){ .kind = test_card(), .threads = 1 }));
    ck_ok(pw_pool_open(&o->pool, o->dev, 1 << 20, "test"));
    void *dense = pw_pool_take(&o->pool, sizeof value);
    ck_ok(pw_dev_put(o->dev, dense, value, sizeof value));
    o->w = (struct pw_weight){ .n_out = N, .n_in = K, .type = PW_Q_NF4, .dtype = PW_BF16, .data = pw_pool_take(&o->pool, N * K / 2), .absmax = pw_pool_take(&o->pool, N * K / 64 * 4), .block = 64 };
    ck_ok(pw_encode(o->dev, &o->w, pw_tensor2(dense, PW_F32, N, K)));
    o->x = pw_tensor2(pw_pool_take(&o->pool, sizeof x), PW_BF16, MOST, K);
    o->y = pw_tensor2(pw_pool_take(&o->pool, MOST * N * 4), PW_F32, MOST, N);
    ck_ok(pw_dev_put(o->dev, o->x.data, x, sizeof x));
}
static void close_on(struct on *o)
{
    pw_pool_close(&o->pool);
    pw_dev_close(o->dev);
}
static void multiply(struct on *o, int64_t rows, float *y)
{
    ck_ok(pw_dev_reserve(o->dev, pw_scratch_linear(o->dev, rows, &o->w, false)));
    ck_ok(pw_linear_fwd(o->dev, pw_rows(o->y, 0, rows), pw_none(), pw_rows(o->x, 0, rows), &o->w, (struct pw_drop){ 0 }));
    ck_ok(pw_dev_get(o->dev, y, o->y.data, (size_t)(rows * N) * 4));
}

/* dx (rows, K) = dy W, dy being the first rows of x as rows of n_out numbers */
static void back(struct on *o, int64_t rows, uint16_t *dx)
{
    const struct pw_tensor dy = pw_tensor2(o->x.data, PW_BF16, rows, N), out = pw_tensor2(o->y.data, PW_BF16, rows, K);
    ck_ok(pw_dev_reserve(o->dev, pw_scratch_linear(o->dev, rows, &o->w, true)));
    ck_ok(pw_fill(o->dev, out, 0));
    ck_ok(pw_linear_bwd(o->dev, &(struct pw_linear_grads){ .dx = out }, dy, pw_none(), pw_none(), &o->w, (struct pw_drop){ 0 }));
    ck_ok(pw_dev_get(o->dev, dx, out.data, (size_t)(rows * K) * 2));
}

static struct pw_choice choice(int64_t rows, enum pw_way way)
{
    return (struct pw_choice){ .type = PW_Q_NF4, .dtype = PW_BF16, .rows = rows, .n_out = N, .n_in = K, .way = way, .seconds = { 0.25, 0.125 } };
}

START_TEST(obeyed)
{
    struct on o;
    static float y[2][MOST * N], got[MOST * N];
    open_on(&o);
    struct cuda_hooks *hooks = (struct cuda_hooks *)o.dev->impl;
    for (int way = 0; way < 2; way++) {
        hooks->linear_path = way == PW_WAY_FUSED ? CUDA_LINEAR_FUSED : CUDA_LINEAR_DECODED;
        multiply(&o, MOST, y[way]);
    }
    hooks->linear_path = CUDA_LINEAR_AUTO;
    ck_assert(memcmp(y[0], y[1], sizeof y[0]) != 0);
    /* f32 out, weights rounded to bf16 either way: what is left is the order of the sums, 2 (K / 16 + 16) u of the sum of |x w| <= K in each */
    ck_assert(test_worst(y[0], y[1], MOST * N, 4 * (K / 16 + 16) * 0x1p-24 * K, 0) <= 1);
    multiply(&o, MOST, got);
    ck_assert_msg(memcmp(got, y[PW_WAY_FUSED], sizeof got) == 0, "the fixed rule for %d rows changed", MOST);
    static const struct { int64_t rows, bucket; bool taken; } at[] = { { 80, 128, true }, { 65, 128, true }, { 64, 128, false }, { 33, 64, true }, { 32, 64, false }, { 20, 32, true } };
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        struct pw_choice one = choice(at[i].bucket, PW_WAY_DECODED);
        const struct pw_choices list = { .list = &one, .n = 1 };
        ck_ok(pw_choices_use(&list, o.dev));
        multiply(&o, at[i].rows, got);
        ck_assert_msg(memcmp(got, y[at[i].taken], (size_t)at[i].rows * N * 4) == 0, "%d rows, a choice for %d", (int)at[i].rows, (int)at[i].bucket);
    }
    const struct pw_choice others[] = { { .type = PW_Q_FP4, .rows = 128, .n_out = N, .n_in = K, .way = PW_WAY_DECODED }, { .type = PW_Q_NF4, .rows = 128, .n_out = K, .n_in = N, .way = PW_WAY_DECODED } };
    for (int i = 0; i < 2; i++) { /* another type, another shape */
        struct pw_choice one = others[i];
        ck_ok(pw_choices_use(&(struct pw_choices){ .list = &one, .n = 1 }, o.dev));
        multiply(&o, MOST, got);
        ck_assert(memcmp(got, y[PW_WAY_FUSED], sizeof got) == 0);
    }
    close_on(&o);
    ck_assert(pw_choice_bucket(1) == 32 && pw_choice_bucket(33) == 64 && pw_choice_bucket(4096) == 4096 && pw_choice_bucket(100000) == 4096);
}
END_TEST

/* The choice of backward's product is its own: neither obeys the other's. With an adapter one way rounds dx once and the other twice. */
START_TEST(obeyed_backward)
{
    struct on o;
    static uint16_t dx[2][MOST * K], got[MOST * K];
    static float y[MOST * N], got_y[MOST * N], low[4 * (N + K)];
    struct pw_rng r = pw_rng_make(4, PW_STREAM_TEST);
    open_on(&o);
    for (int i = 0; i < 4 * (N + K); i++) low[i] = (float)(2 * pw_rng_uniform(&r) - 1);
    float *a = pw_pool_take(&o.pool, sizeof low);
    ck_ok(pw_dev_put(o.dev, a, low, sizeof low));
    const struct pw_lora lora = { .r = 4, .scale = 1, .a = pw_tensor2(a, PW_F32, 4, K), .b = pw_tensor2(a + 4 * K, PW_F32, N, 4) };
    const struct pw_weight plain = o.w;
    struct pw_weight adapted = o.w;
    adapted.lora = &lora;
    struct cuda_hooks *hooks = (struct cuda_hooks *)o.dev->impl;
    for (int way = 0; way < 2; way++) {
        hooks->linear_path = way == PW_WAY_FUSED ? CUDA_LINEAR_FUSED : CUDA_LINEAR_DECODED;
        o.w = adapted;
        back(&o, MOST, dx[way]);
    }
    o.w = plain;
    hooks->linear_path = CUDA_LINEAR_AUTO;
    ck_assert(memcmp(dx[0], dx[1], sizeof dx[0]) != 0);
    multiply(&o, MOST, y);
    static const struct { int64_t rows, bucket; bool backward, taken; } at[] = { { 80, 128, true, true }, { 80, 128, false, false }, { 64, 128, true, false }, { 40, 64, true, true } };
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        struct pw_choice one = choice(at[i].bucket, PW_WAY_DECODED);
        one.backward = at[i].backward;
        ck_ok(pw_choices_use(&(struct pw_choices){ .list = &one, .n = 1 }, o.dev));
        o.w = adapted;
        back(&o, at[i].rows, got);
        o.w = plain;
        ck_assert_msg(memcmp(got, dx[at[i].taken], (size_t)at[i].rows * K * 2) == 0, "%d rows, a choice for %d, %s", (int)at[i].rows, (int)at[i].bucket, at[i].backward ? "backward" : "forward");
        multiply(&o, MOST, got_y);
        ck_assert_msg((memcmp(got_y, y, sizeof y) == 0) == at[i].backward, "forward, with a choice for %s", at[i].backward ? "backward" : "forward");
    }
    close_on(&o);
}
END_TEST

/* A device that was made ready for 80 rows does 40, though those go another way that wants more. */
START_TEST(scratch_for_fewer)
{
    struct on o;
    static float y[MOST * N];
    open_on(&o);
    struct pw_choice list[] = { choice(128, PW_WAY_FUSED), choice(64, PW_WAY_DECODED) };
    const struct pw_choices all = { .list = list, .n = 2 };
    const size_t plain = pw_scratch_linear(o.dev, MOST, &o.w, false);
    ck_ok(pw_choices_use(&all, o.dev));
    ck_assert(pw_scratch_linear(o.dev, MOST, &o.w, false) > plain);
    ck_assert(pw_scratch_linear(o.dev, MOST, &o.w, false) >= pw_scratch_linear(o.dev, 40, &o.w, false));
    ck_ok(pw_dev_reserve(o.dev, pw_scratch_linear(o.dev, MOST, &o.w, false)));
    for (int64_t rows = 1; rows <= MOST; rows++) ck_ok(pw_linear_fwd(o.dev, pw_rows(o.y, 0, rows), pw_none(), pw_rows(o.x, 0, rows), &o.w, (struct pw_drop){ 0 }));
    ck_ok(pw_dev_get(o.dev, y, o.y.data, sizeof y));
    pw_dev_unreserve(o.dev);
    list[0].backward = list[1].backward = true;
    ck_ok(pw_dev_reserve(o.dev, pw_scratch_linear(o.dev, MOST, &o.w, true)));
    for (int64_t rows = 1; rows <= MOST; rows++)
        ck_ok(pw_linear_bwd(o.dev, &(struct pw_linear_grads){ .dx = pw_tensor2(o.y.data, PW_BF16, rows, K) }, pw_tensor2(o.x.data, PW_BF16, rows, N), pw_none(), pw_none(), &o.w, (struct pw_drop){ 0 }));
    ck_ok(pw_dev_sync(o.dev));
    close_on(&o);
}
END_TEST

static int64_t some_driver(struct pw_dev *d) { (void)d; return 13000; }

START_TEST(measured_once)
{
    struct on o;
    struct pw_choices c = { 0 }, again;
    const char *path = test_path(test_tmpdir(), "products.json");
    open_on(&o);
    ck_ok(pw_choices_read(&c, o.dev, path)); /* not there: none */
    ck_assert(c.n == 0);
    ck_ok(pw_choices_measure(&c, o.dev, &o.w, 100, false));
    ck_assert_msg(c.n == 0, "the emulation has no times");
    struct pw_backend with_times = *o.dev->backend; /* as if it were a card */
    const struct pw_backend *const own = o.dev->backend;
    with_times.driver = some_driver;
    o.dev->backend = &with_times;
    ck_ok(pw_choices_measure(&c, o.dev, &o.w, 100, false));
    ck_assert_int_eq((int)c.n, 3); /* 32, 64, 128 */
    for (size_t i = 0; i < c.n; i++) {
        ck_assert(c.list[i].rows == 32 << i && c.list[i].seconds[0] > 0 && c.list[i].seconds[1] > 0);
        ck_assert(c.list[i].way == (c.list[i].seconds[0] <= c.list[i].seconds[1] ? PW_WAY_FUSED : PW_WAY_DECODED));
    }
    ck_ok(pw_choices_write(&c, o.dev, path));
    ck_ok(pw_choices_read(&again, o.dev, path));
    ck_assert(again.n == c.n && memcmp(again.list, c.list, c.n * sizeof *c.list) == 0);
    ck_ok(pw_choices_measure(&again, o.dev, &o.w, 64, false));
    ck_assert(again.n == c.n && memcmp(again.list, c.list, c.n * sizeof *c.list) == 0); /* nothing anew */
    pw_choices_free(&again);
    struct pw_weight shape = o.w; /* no values: it gets some, nested as those of a recipe may be */
    shape.data = NULL;
    for (int nested = 0; nested < 2; nested++) {
        shape.nested_block = nested ? 256 : 0;
        shape.n_out = N - 10 + nested;
        const size_t before = c.n;
        ck_ok(pw_choices_measure(&c, o.dev, &shape, 32, true));
        ck_assert(c.n == before + 1 && c.list[before].backward && c.list[before].rows == 32 && c.list[before].n_out == shape.n_out && c.list[before].seconds[0] > 0);
    }
    o.dev->backend = own;
    ck_fails(pw_choices_read(&again, o.dev, path), PW_E_REFUSED, "driver: expected 0, got 13000");
    ck_assert(again.n == 0);
    struct pw_buf text = { 0 }; /* a run's own text holds wherever it was measured */
    ck_ok(pw_choices_text(&c, o.dev, &text));
    ck_ok(pw_choices_recall(&again, text.data, text.len, "a run"));
    ck_assert(again.n == c.n && memcmp(again.list, c.list, c.n * sizeof *c.list) == 0);
    pw_choices_free(&again);
    ck_fails(pw_choices_recall(&again, text.data, text.len / 2, "a run"), PW_E_FORMAT, "a run");
    ck_assert(again.n == 0);
    pw_buf_free(&text);
    pw_choices_free(&c);
    close_on(&o);
}
END_TEST

START_TEST(damaged)
{
    struct on o;
    struct pw_choices c;
    const char *path = test_path(test_tmpdir(), "products.json");
#define HEAD "{\"schema\": 3, \"version\": \"" PW_VERSION "\", \"device\": \"\", \"driver\": 0, \"attention_library\": 1, \"choices\": ["
#define TAIL "], \"attention\": []}"
#define ONE(type, rows, n, way) "{\"pass\": \"forward\", \"type\": \"" type "\", \"dtype\": \"bf16\", \"rows\": " rows ", \"n_out\": " n ", \"n_in\": 8, \"way\": \"" way "\", \"fused_s\": 1, \"decoded_s\": 2}"
    static const struct { const char *text; int code; const char *why; } files[] = {
        { HEAD ONE("nf4", "64", "5", "fused") TAIL, 0, "" },
        { HEAD ONE("nf4", "64", "5", "fused"), PW_E_FORMAT, "products.json" },
        { "", PW_E_FORMAT, "products.json" },
        { "[]", PW_E_FORMAT, "expected choices of products, got list" },
        { "{\"schema\": 1}", PW_E_FORMAT, "schema: expected 3, got 1" },
        { "{\"schema\": 3, \"version\": \"0\"}", PW_E_REFUSED, "version: expected" },
        { "{\"schema\": 3, \"version\": \"" PW_VERSION "\", \"device\": \"a card\"}", PW_E_REFUSED, "device: expected \"\", got \"a card\"" },
        { HEAD ONE("nf9", "64", "5", "fused") TAIL, PW_E_FORMAT, "\"nf9\"" },
        { HEAD ONE("?", "64", "5", "fused") TAIL, PW_E_FORMAT, "\"?\"" },
        { HEAD ONE("nf4", "65", "5", "fused") TAIL, PW_E_FORMAT, "a power of two from 32 to 4096, got 65" },
        { HEAD ONE("nf4", "8192", "5", "fused") TAIL, PW_E_FORMAT, "got 8192" },
        { HEAD ONE("nf4", "-32", "5", "fused") TAIL, PW_E_FORMAT, "got -32" },
        { HEAD ONE("nf4", "64", "0", "fused") TAIL, PW_E_FORMAT, "expected positive sizes" },
        { HEAD "{\"pass\": \"sideways\", \"type\": \"nf4\", \"dtype\": \"bf16\", \"rows\": 64, \"n_out\": 5, \"n_in\": 8, \"way\": \"fused\", \"fused_s\": 1, \"decoded_s\": 2}" TAIL, PW_E_FORMAT, "\"sideways\"" },
        { HEAD ONE("nf4", "64", "5", "both") TAIL, PW_E_FORMAT, "\"both\"" },
        { HEAD ONE("nf4", "64", "5", "fused") "," ONE("nf4", "64", "5", "decoded") TAIL, PW_E_FORMAT, "a shape is there twice" },
        { HEAD "]}", PW_E_FORMAT, "attention: expected a list" },
        { HEAD "3" TAIL, PW_E_FORMAT, "expected a choice, got int" },
    };
    open_on(&o);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        ck_ok(pw_file_write(path, files[i].text, strlen(files[i].text), true));
        if (files[i].code == 0) {
            ck_ok(pw_choices_read(&c, o.dev, path));
            ck_assert(c.n == 1 && c.list[0].way == PW_WAY_FUSED && c.list[0].n_out == 5);
        } else {
            ck_fails(pw_choices_read(&c, o.dev, path), files[i].code, files[i].why);
            ck_assert(c.n == 0 && !c.list);
        }
        pw_choices_free(&c);
        pw_error_clear();
    }
    close_on(&o);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("choices");
    TCase *t = tcase_create("choices");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, obeyed);
    tcase_add_test(t, obeyed_backward);
    tcase_add_test(t, scratch_for_fewer);
    tcase_add_test(t, measured_once);
    tcase_add_test(t, damaged);
    suite_add_tcase(s, t);
    return test_run(s);
}
