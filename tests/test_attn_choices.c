/* Who does attention forward in training: calls that the library may take and those that it may not, both ways within the op's bounds (test_op has the table), one
 * choice for each shape, its file, measuring, scratch, and a way that is not there. On simt the library is its twin. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "kernels/choices.h"
#include "kernels/cuda/hooks.h"
#include "tests/support.h"

enum { ROWS = 140, H = 2, G = 1, D = 64, Q = ROWS * H * D, KV = ROWS * G * D, LSE = ROWS * H };
struct on { struct pw_dev *dev; struct pw_pool pool; struct pw_tensor q, k, v, out, lse; int32_t start[4], length[3]; struct pw_seqs seqs; };
struct got { uint16_t out[Q]; float lse[LSE]; };

static const struct pw_attn plain = { .scale = 0.125 };

static void open_on(struct on *o)
{
    static uint16_t x[Q + 2 * KV];
    struct pw_rng r = pw_rng_make(5, PW_STREAM_TEST);
    for (int i = 0; i < Q + 2 * KV; i++) x[i] = pw_f32_to_bf16((float)(2 * pw_rng_uniform(&r) - 1));
    memset(o, 0, sizeof *o);
    ck_ok(pw_dev_open(&o->dev, &(struct pw_dev_options){ .kind = test_card(), .threads = 2 }));
    ck_ok(pw_pool_open(&o->pool, o->dev, 1 << 20, "test"));
    void *at[3], *lists = pw_pool_take(&o->pool, pw_seqs_bytes(3, 0));
    for (int i = 0; i < 3; i++) {
        at[i] = pw_pool_take(&o->pool, (size_t)(i ? KV : Q) * 2);
        ck_ok(pw_dev_put(o->dev, at[i], x + (i ? Q + (i - 1) * KV : 0), (size_t)(i ? KV : Q) * 2));
    }
    o->q = pw_tensor3(at[0], PW_BF16, ROWS, H, D);
    o->k = pw_tensor3(at[1], PW_BF16, ROWS, G, D);
    o->v = pw_tensor3(at[2], PW_BF16, ROWS, G, D);
    o->out = pw_tensor3(pw_pool_take(&o->pool, (size_t)Q * 2), PW_BF16, ROWS, H, D);
    o->lse = pw_tensor2(pw_pool_take(&o->pool, (size_t)LSE * 4), PW_F32, ROWS, H);
    const int32_t starts[] = { 0, 3, 90, ROWS };
    memcpy(o->start, starts, sizeof starts);
    for (int i = 0; i < 3; i++) o->length[i] = starts[i + 1] - starts[i];
    o->seqs = (struct pw_seqs){ .n = 3, .q_start = o->start, .kv_start = o->start, .kv_len = o->length, .company = true };
    ck_ok(pw_seqs_put(o->dev, lists, &o->seqs));
}
static void close_on(struct on *o)
{
    pw_pool_close(&o->pool);
    pw_dev_close(o->dev);
}

static void attend_over(struct on *o, struct got *g, const struct pw_seqs *seqs, const struct pw_attn *attn, struct pw_tensor lse)
{
    ck_ok(pw_fill(o->dev, o->out, 7));
    ck_ok(pw_fill(o->dev, o->lse, 7));
    ck_ok(pw_dev_reserve(o->dev, pw_scratch_attn(o->dev, ROWS, ROWS, H, G, D, false)));
    ck_ok(pw_attn_fwd(o->dev, o->out, lse, o->q, o->k, o->v, seqs, attn));
    ck_ok(pw_dev_get(o->dev, g->out, o->out.data, sizeof g->out));
    ck_ok(pw_dev_get(o->dev, g->lse, o->lse.data, sizeof g->lse));
}
static void attend(struct on *o, struct got *g, const struct pw_attn *attn) { attend_over(o, g, &o->seqs, attn, o->lse); }
static bool same(const struct got *a, const struct got *b) { return memcmp(a->out, b->out, sizeof a->out) == 0; }

static struct pw_attn_choice choice(int64_t window, double softcap, int64_t rows, int sequences, enum pw_attn_way way)
{
    struct pw_attn_choice one = { .way = way, .seconds = { 0.25, 0.125 } };
    ck_assert(pw_attn_shape_of(&one.shape, H, G, D, window, softcap, rows, sequences));
    return one;
}

/* Without a library (a card without cuDNN) there is nothing to test, and that is counted. */
static bool has_library(struct on *o)
{
    if (o->dev->backend->attn_library(o->dev) != 0) return true;
    test_skip("attention by a library: device %s has none", o->dev->kind);
    close_on(o);
    return false;
}

START_TEST(obeyed)
{
    static struct got ours, theirs, got;
    struct on o;
    open_on(&o);
    if (!has_library(&o)) return;
    struct cuda_hooks *hooks = (struct cuda_hooks *)o.dev->impl;
    attend(&o, &ours, &plain);
    hooks->attn_path = CUDA_ATTN_LIBRARY;
    attend(&o, &theirs, &plain);
    hooks->attn_path = CUDA_ATTN_AUTO;
    ck_assert_msg(!same(&ours, &theirs), "both ways have the same bytes, and so the test tells nothing");
    float worst = 0;
    for (int i = 0; i < LSE; i++) worst = fmaxf(worst, fabsf(ours.lse[i] - theirs.lse[i]));
    ck_assert_msg(worst <= 1e-4f, "lse differs by %g", (double)worst); /* f32 sums of at most 140 terms, of scores that err by 1e-5 */

    static const struct { int64_t rows, window; int sequences; double softcap; enum pw_attn_way way; bool taken; } all[] = {
        { 256, 0, 3, 0, PW_ATTN_LIBRARY, true }, { 256, 0, 3, 0, PW_ATTN_OURS, false }, { 512, 0, 3, 0, PW_ATTN_LIBRARY, false }, { 256, 0, 1, 0, PW_ATTN_LIBRARY, false },
        { 256, 0, 64, 0, PW_ATTN_LIBRARY, false }, { 256, 100, 3, 0, PW_ATTN_LIBRARY, false }, { 256, 0, 3, 30, PW_ATTN_LIBRARY, false },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct pw_attn_choice one = choice(all[i].window, all[i].softcap, all[i].rows, all[i].sequences, all[i].way);
        ck_ok(pw_choices_use(&(struct pw_choices){ .attn = &one, .n_attn = 1 }, o.dev));
        attend(&o, &got, &plain);
        ck_assert_msg(same(&got, all[i].taken ? &theirs : &ours), "choice %d", (int)i);
    }
    close_on(&o);
}
END_TEST

/* A choice for the shape is there, and still these calls are ours. */
START_TEST(calls_that_are_ours)
{
    static struct got ours, got;
    struct on o;
    open_on(&o);
    if (!has_library(&o)) return;
    attend(&o, &ours, &plain);
    struct pw_attn_choice one = choice(0, 0, 256, 3, PW_ATTN_LIBRARY);
    ck_ok(pw_choices_use(&(struct pw_choices){ .attn = &one, .n_attn = 1 }, o.dev));
    struct pw_seqs seqs = o.seqs;
    seqs.company = false; /* evaluation: a score must not depend on its company */
    attend_over(&o, &got, &seqs, &plain, o.lse);
    ck_assert(same(&got, &ours));
    seqs = o.seqs;
    attend_over(&o, &got, &seqs, &plain, pw_none());
    ck_assert(same(&got, &ours));
    seqs = o.seqs;
    seqs.most_keys = ROWS;
    attend_over(&o, &got, &seqs, &plain, o.lse);
    ck_assert(same(&got, &ours));
    int32_t fewer[3] = { 0, 3, 90 }, len[3] = { 3, 87, ROWS - 90 }, none[3] = { 0 }; /* an empty prefix is a prefix */
    seqs = (struct pw_seqs){ .n = 3, .q_start = o.start, .kv_start = fewer, .kv_len = len, .prefix_start = none, .prefix_len = none, .company = true };
    void *lists = NULL;
    ck_ok(o.dev->backend->take(o.dev, &lists, pw_seqs_bytes(3, 0)));
    ck_ok(pw_seqs_put(o.dev, lists, &seqs));
    attend_over(&o, &got, &seqs, &plain, o.lse);
    ck_assert(same(&got, &ours));
    o.dev->backend->give(o.dev, lists);
    close_on(&o);
}
END_TEST

START_TEST(scratch_and_what_is_not_there)
{
    struct on o;
    open_on(&o);
    if (!has_library(&o)) return;
    struct pw_attn_choice list[] = { choice(0, 0, 1024, 1, PW_ATTN_LIBRARY), choice(0, 0, 4096, 1, PW_ATTN_LIBRARY), choice(0, 0, 2048, 1, PW_ATTN_OURS) };
    const size_t small = pw_scratch_attn(o.dev, 512, 1, H, G, D, false), large = pw_scratch_attn(o.dev, 4096, 1, H, G, D, false); /* one key: ours wants next to nothing */
    ck_ok(pw_choices_use(&(struct pw_choices){ .attn = list, .n_attn = 3 }, o.dev));
    ck_assert(pw_scratch_attn(o.dev, 512, 1, H, G, D, false) == small && pw_scratch_attn(o.dev, 513, 1, H, G, D, false) > large); /* from where a shape stands for them */
    ck_assert(pw_scratch_attn(o.dev, 2048, 1, H, G, D, false) >= pw_scratch_attn(o.dev, 1024, 1, H, G, D, false)); /* enough for a pass is enough for a smaller one */
    ck_assert(pw_scratch_attn(o.dev, 4096, 1, H, G + 1, D, false) == large && pw_scratch_attn(o.dev, 4096, 1, H, G, D + 8, false) < pw_scratch_attn(o.dev, 4096, 1, H, G, D, false));
    list[0].shape.head_dim = 20; /* the library has no plan for it */
    ck_fails(pw_choices_use(&(struct pw_choices){ .attn = list, .n_attn = 1 }, o.dev), PW_E_REFUSED, "1024 rows, 2 and 1 heads of 20 was chosen to go by cuDNN, which has no plan for it");
    pw_error_clear();
    ck_assert(pw_scratch_attn(o.dev, 4096, 1, H, G, D, false) == large); /* nothing is in use after that */
    close_on(&o);
}
END_TEST

static int64_t some_driver(struct pw_dev *d) { (void)d; return 13000; }
static int64_t no_library(struct pw_dev *d) { (void)d; return 0; }
static int no_plan(struct pw_dev *d, const struct pw_attn_shape *s, bool *there) { (void)d, (void)s; return *there = false, 0; }

START_TEST(measured_once)
{
    struct on o;
    struct pw_choices c = { 0 }, again = { 0 };
    const char *path = test_path(test_tmpdir(), "products.json");
    const struct pw_attn capped = { .scale = 0.125, .window = 100, .softcap = 30 };
    open_on(&o);
    if (!has_library(&o)) return;
    struct pw_backend row = *o.dev->backend; /* as if it were a card */
    const struct pw_backend *const own = o.dev->backend;
    ck_ok(pw_choices_measure_attn(&c, o.dev, H, G, D, &plain, 200));
    ck_assert(c.n_attn == 0 || own->driver(o.dev) != 0);
    row.driver = some_driver;
    o.dev->backend = &row;
    ck_ok(pw_choices_measure_attn(&c, o.dev, 1, 1, D, &plain, 128));
    ck_assert_msg(c.n_attn == 0, "no shape stands for so few rows");
    ck_ok(pw_choices_measure_attn(&c, o.dev, 1, 1, D, &capped, 200));
    ck_assert_int_eq((int)c.n_attn, 3);
    for (size_t i = 0; i < c.n_attn; i++) {
        const struct pw_attn_choice *one = &c.attn[i];
        ck_assert(one->shape.rows == 256 && one->shape.sequences == (i == 0 ? 1 : i == 1 ? 8 : 64) && one->shape.window == 100 && one->shape.softcap == 30 && one->shape.head_dim == D);
        ck_assert(one->seconds[0] > 0 && one->seconds[1] > 0 && one->way == (one->seconds[0] <= one->seconds[1] ? PW_ATTN_OURS : PW_ATTN_LIBRARY));
    }
    ck_ok(pw_choices_write(&c, o.dev, path));
    ck_ok(pw_choices_read(&again, o.dev, path));
    ck_ok(pw_choices_measure_attn(&again, o.dev, 1, 1, D, &capped, 256));
    bool equal = again.n_attn == c.n_attn;
    for (size_t i = 0; i < c.n_attn && equal; i++) equal = pw_attn_shape_same(&again.attn[i].shape, &c.attn[i].shape) && again.attn[i].way == c.attn[i].way && again.attn[i].seconds[0] == c.attn[i].seconds[0];
    ck_assert_msg(equal, "something was measured anew");
    pw_choices_free(&again);
    row.attn_plan = no_plan; /* a shape that the library does not know stays ours, and unwritten */
    ck_ok(pw_choices_measure_attn(&c, o.dev, 2, 1, D, &plain, 256));
    ck_assert_int_eq((int)c.n_attn, 3);
    row.attn_library = no_library;
    ck_fails(pw_choices_read(&again, o.dev, path), PW_E_REFUSED, "attention_library: expected 0, got");
    pw_error_clear();
    o.dev->backend = own;
    pw_choices_free(&c);
    close_on(&o);
}
END_TEST

START_TEST(damaged)
{
    struct pw_choices c;
#define FILE_OF(list) "{\"schema\": 3, \"choices\": [], \"attention\": [" list "]}"
#define ONE(heads, kv, dim, window, cap, rows, sequences, way) "{\"heads\": " heads ", \"kv_heads\": " kv ", \"head_dim\": " dim ", \"window\": " window ", \"softcap\": " cap ", \"rows\": " rows \
    ", \"sequences\": " sequences ", \"way\": \"" way "\", \"ours_s\": 1, \"library_s\": 2}"
    static const struct { const char *text, *why; } files[] = {
        { FILE_OF(ONE("8", "2", "64", "0", "0", "2048", "8", "library")), NULL },
        { FILE_OF(ONE("8", "3", "64", "0", "0", "2048", "8", "library")), "kv_heads: expected a divisor of 8, got 3" },
        { FILE_OF(ONE("8", "0", "64", "0", "0", "2048", "8", "library")), "kv_heads: expected 1 to 4096, got 0" },
        { FILE_OF(ONE("8", "2", "-64", "0", "0", "2048", "8", "library")), "head_dim: expected 1 to 4096" },
        { FILE_OF(ONE("8", "2", "64", "0", "0", "2000", "8", "library")), "a power of two and less than that, got 2000 and 0" },
        { FILE_OF(ONE("8", "2", "64", "2048", "0", "2048", "8", "library")), "got 2048 and 2048" },
        { FILE_OF(ONE("8", "2", "64", "-1", "0", "2048", "8", "library")), "got 2048 and -1" },
        { FILE_OF(ONE("8", "2", "64", "0", "-3", "2048", "8", "library")), "softcap: expected a number from 0 on" },
        { FILE_OF(ONE("8", "2", "64", "0", "0", "128", "8", "library")), "rows: expected 256 to 131072, got 128" },
        { FILE_OF(ONE("8", "2", "64", "0", "0", "2048", "7", "library")), "sequences: expected 1, 8 or 64, got 7" },
        { FILE_OF(ONE("8", "2", "64", "0", "0", "2048", "8", "cudnn")), "way: expected ours or library, got \"cudnn\"" },
        { FILE_OF("7"), "expected a choice, got int" },
        { FILE_OF(ONE("8", "2", "64", "0", "0", "2048", "8", "library") "," ONE("8", "2", "64", "0", "0", "2048", "8", "ours")), "a shape is there twice" },
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        if (!files[i].why) {
            ck_ok(pw_choices_recall(&c, files[i].text, strlen(files[i].text), "a run"));
            ck_assert(c.n_attn == 1 && c.attn[0].way == PW_ATTN_LIBRARY && c.attn[0].shape.groups == 2 && c.attn[0].shape.sequences == 8);
        } else {
            ck_fails(pw_choices_recall(&c, files[i].text, strlen(files[i].text), "a run"), PW_E_FORMAT, files[i].why);
            ck_assert(c.n_attn == 0 && !c.attn);
        }
        pw_choices_free(&c);
        pw_error_clear();
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("attn_choices");
    TCase *t = tcase_create("attn_choices");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, obeyed);
    tcase_add_test(t, calls_that_are_ours);
    tcase_add_test(t, scratch_and_what_is_not_there);
    tcase_add_test(t, measured_once);
    tcase_add_test(t, damaged);
    suite_add_tcase(s, t);
    return test_run(s);
}
