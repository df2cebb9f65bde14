/* Where the training of an adapter begins: PiSSA and LoftQ against peft (tools/reference/adapter_fixtures.py made the fixtures), the principal parts they
 * take, and runs in two parts. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "lora/principal.h"
#include "tests/adapter_golden.h"
#include "tests/golden.h"
#include "tests/support.h"
#include "lora/peft.h"
#include "train/begin.h"

/* ---- initialisations ---- */

/* Trained as peft trained from the same initialisation; and what is written, on the base as it is loaded, gives the logits that training ended with. */
static void begins(const char *name, const char *init, const char *quant, const char *adapter, const char *device, double bound, double logit_bound)
{
    struct pw_arena a;
    struct pw_value *all = NULL;
    struct expected e;
    static float got[MOST * VOCAB];
    const char *schedule = NULL;
    char text[2048];
    pw_arena_init(&a);
    ck_ok(pw_json_load(&a, FIXTURES "/golden.json", &all));
    const struct pw_value *one = pw_get(all, name), *o = pw_get(one, "recipe");
    ck_assert_ptr_nonnull(o);
    ck_ok(pw_get_str(o, "schedule", "golden.json", &schedule));
    const char *output = test_path(test_tmpdir(), "run");
    snprintf(text, sizeof text,
             "model: %s\nquant: %s\nadapter: {init: %s, %s}\ndata: {train: %s, format: completion, max_length: 40, packing: false, shuffle: false}\n"
             "train: {steps: %d, batch_size: 2, accumulate: 2, lr: %.17g, warmup: %.17g, schedule: %s, weight_decay: 0, clip: %.17g, save_every: 0, eval_every: 0}\noutput: %s\n", MODEL,
             quant, init, adapter, ROWS, GOLDEN_STEPS, golden_number(o, "lr"), golden_number(o, "warmup"), schedule, golden_number(o, "clip"), output);
    golden_run(text, one, device, NULL, NULL, bound);
    read_expected(&e, name);
    const char *base = test_path(output, "base");
    const bool own = pw_is_dir(base);
    ck_assert(own == (strstr(adapter, "loftq_iter") != NULL));
    logits_of_quantised(own ? base : MODEL, own || strcmp(quant, "none") == 0 ? NULL : "nf4", test_path(output, "adapter"), "cpu", e.ids, e.n, got);
    const double off = furthest(got, e.logits, e.n * VOCAB);
    ck_assert_msg(off <= logit_bound, "%s: logits of what was written are off by %g", name, off);
    printf("%s: largest difference of a logit after training %.3g\n", name, off);
    pw_arena_free(&a);
}
START_TEST(pissa) { begins("pissa", "pissa", "none", "r: 4, alpha: 8", "cpu", 1e-4, 1e-4); }
END_TEST
START_TEST(pissa_fast) { begins("pissa", "pissa_niter_16", "none", "r: 4, alpha: 8", "cpu", 1e-4, 1e-4); }     /* 12 of 24 directions: (S_13 / S_4)^32 is nothing */
END_TEST
START_TEST(loftq) { begins("loftq", "loftq", NF4, "r: 4, alpha: 4", "cpu", 1e-4, 1e-4); }
END_TEST
START_TEST(loftq_rounds) { begins("loftq3", "loftq", "{type: nf4}", "r: 4, alpha: 4, loftq_iter: 3", "cpu", 1e-4, 1e-4); }
END_TEST
START_TEST(loftq_rounds_on_simt) { begins("loftq3", "loftq", "{type: nf4}", "r: 4, alpha: 4, loftq_iter: 3", "simt", 4 * 0x1p-8, 4 * 0x1p-8); }   /* some roundings of bf16 */
END_TEST

/* The best pair of rank 3 of a matrix whose singular values fall by 0.7: exactly, and by rounds from a random start, which come near it and repeat to the bit. */
START_TEST(principal_parts_fast)
{
    enum { N = 37, M = 29, RANK = 3 };
    static float w[N * M], a[2][RANK * M], b[2][N * RANK], again[RANK * M];
    struct pw_rng rng = pw_rng_make(5, PW_STREAM_TEST);
    const struct pw_rng start = pw_rng_make(6, PW_STREAM_TEST);
    double off = 0;
    for (int j = 0; j < M; j++) {
        double u[N], v[M];
        for (int i = 0; i < N; i++)
            u[i] = pw_rng_normal(&rng);
        for (int k = 0; k < M; k++)
            v[k] = pw_rng_normal(&rng);
        for (int i = 0; i < N * M; i++)
            w[i] += (float)(pow(0.7, j) * u[i / M] * v[i % M]);
    }
    for (int turned = 0; turned < 2; turned++) {
        const int n = turned ? M : N, m = turned ? N : M;
        ck_ok(pw_principal_pair(w, n, m, RANK, 0.5, turned ? b[0] : a[0], turned ? a[0] : b[0], RANK));
        for (int rounds = 0; rounds <= 16; rounds += 16) {
            float *x = turned ? b[1] : a[1], *y = turned ? a[1] : b[1];
            off = 0;
            ck_ok(pw_principal_fast(w, n, m, RANK, rounds, start, 0.5, x, y, RANK));
            for (int i = 0; i < RANK * m; i++)
                off = fmax(off, fabs(x[i] - (turned ? b[0] : a[0])[i]));
            ck_assert_msg(rounds ? off <= 1e-4 : off > 1e-4 && off < 10, "%d rounds: off by %g", rounds, off);
        }
        ck_ok(pw_principal_fast(w, n, m, RANK, 16, start, 0.5, turned ? b[0] : again, turned ? again : b[0], RANK));
        ck_assert(turned || memcmp(again, a[1], sizeof again) == 0);
    }
    memset(w, 0, sizeof w);
    ck_ok(pw_principal_fast(w, N, M, RANK, 2, start, 0.5, a[0], b[0], RANK));
    for (int i = 0; i < RANK * M; i++)
        off = fmax(off, fabs(a[0][i]));
    ck_assert_msg(off <= 1e-4, "of nothing %g", off);   /* and no NaN */
    ck_fails(pw_principal_fast(w, N, M, M + 1, 2, start, 0.5, a[0], b[0], RANK), PW_E_USAGE, "a rank of 30");
}
END_TEST

START_TEST(principal_parts)
{
    enum { WIDE = 23, TALL = 41, RANK = 5 };
    struct pw_rng rng = pw_rng_make(3, PW_STREAM_TEST);
    for (int turned = 0; turned < 2; turned++) {
        const int n = turned ? WIDE : TALL, m = turned ? TALL : WIDE;
        float w[WIDE * TALL], a[RANK * TALL], b[TALL * (RANK + 2)], x[TALL * RANK], y[RANK * TALL];
        double most = 0, gap = 0;
        for (int i = 0; i < n * RANK; i++)
            x[i] = (float)pw_rng_normal(&rng);
        for (int i = 0; i < RANK * m; i++)
            y[i] = (float)pw_rng_normal(&rng);
        for (int i = 0; i < n; i++)
            for (int k = 0; k < m; k++) {
                double sum = 0;
                for (int j = 0; j < RANK; j++)
                    sum += (double)x[i * RANK + j] * y[j * m + k];
                w[i * m + k] = (float)sum;
            }
        ck_ok(pw_principal_pair(w, n, m, RANK, 0.5, a, b, RANK + 2));   /* a matrix of rank 5: its principal part of rank 5 is itself */
        for (int i = 0; i < n; i++)
            for (int k = 0; k < m; k++) {
                double sum = 0;
                for (int j = 0; j < RANK; j++)
                    sum += 0.5 * (double)b[i * (RANK + 2) + j] * a[j * m + k];
                most = fmax(most, fabs(sum - w[i * m + k]));
            }
        ck_assert_msg(most <= 1e-5, "off by %g", most);
        for (int i = 0; i < RANK; i++)
            for (int j = 0; j < i; j++) {
                double sum = 0;
                for (int k = 0; k < m; k++)
                    sum += (double)a[i * m + k] * a[j * m + k];
                gap = fmax(gap, fabs(sum));
            }
        ck_assert_msg(gap <= 1e-5, "rows of a are not at right angles: %g", gap);
        ck_ok(pw_principal_pair(w, n, m, RANK + 2, 0.5, (float[(RANK + 2) * TALL]){0}, b, RANK + 2));  /* more than its rank: no NaN */
        for (int i = 0; i < n * (RANK + 2); i++)
            ck_assert(isfinite(b[i]));
        ck_fails(pw_principal_pair(w, n, m, WIDE + 1, 0.5, a, b, RANK), PW_E_USAGE, "a rank of 24");
    }
}
END_TEST

/* ---- without a run ---- */

static void same_file(const char *x, const char *y, const char *name)
{
    struct pw_buf a = {0}, b = {0};
    ck_ok(pw_file_read(test_path(x, name), 0, &a));
    ck_ok(pw_file_read(test_path(y, name), 0, &b));
    ck_assert_msg(a.len == b.len && memcmp(a.data, b.data, a.len) == 0, "%s and %s differ in %s", x, y, name);
    pw_buf_free(&a);
    pw_buf_free(&b);
}

/* What pw_begin_open gives is what a run starts from: a step with a rate of 0 leaves an adapter as it was, so the run's is the same file. */
static void begins_alike(const char *model, const char *quant, const char *adapter)
{
    const struct pw_dev_options options = {.kind = "cpu", .threads = 2};
    const char *output = test_path(test_tmpdir(), "zero"), *out = test_path(test_tmpdir(), "begun"), *base = test_path(out, "base");
    struct pw_recipe recipe;
    struct pw_run run;
    struct pw_run_result result;
    struct pw_begin b;
    struct pw_dev *dev = NULL;
    char text[2048];
    snprintf(text, sizeof text,
             "model: %s\nquant: %s\nadapter: {%s}\ndata: {train: %s, format: completion, max_length: 40}\n"
             "train: {steps: 1, batch_size: 1, accumulate: 1, lr: 0, eval_every: 0, seed: 7}\noutput: %s\n", model, quant, adapter, ROWS, output);
    ck_ok(pw_recipe_parse(&recipe, text, strlen(text), "begins", NULL, 0));
    ck_ok(pw_dev_open(&dev, &options));
    const struct pw_run_options opt = {.recipe = &recipe, .dev = dev, .force = true};
    ck_ok(pw_run_open(&run, &opt));
    ck_ok(pw_run_train(&run, &result));
    pw_run_close(&run);
    pw_dev_close(dev);

    struct pw_begin_options how = {.recipe = &recipe, .threads = 1, .base = base, .base_named = test_path(output, "base")};
    ck_ok(pw_dir_make(out));
    ck_ok(pw_begin_open(&b, &how));
    ck_ok(pw_peft_write(&b.run.adapter, out));
    pw_begin_close(&b);
    same_file(test_path(output, "adapter"), out, "adapter_model.safetensors");
    same_file(test_path(output, "adapter"), out, "adapter_config.json");
    ck_assert_msg(pw_is_dir(base) == pw_recipe_loftq_base(&recipe), "%s: a base is %swritten", adapter, pw_is_dir(base) ? "" : "not ");
    if (pw_is_dir(base))
        same_file(test_path(output, "base"), base, "model.safetensors");
    how.memory = 1 << 20;
    ck_fails(pw_begin_open(&b, &how), PW_E_REFUSED, "beginning the adapter: it does not fit");
    pw_begin_close(&b);
    pw_recipe_free(&recipe);
    ck_ok(pw_dir_remove(out));
}
START_TEST(begins_without_a_run)
{
    begins_alike(MODEL, "none", "r: 4, alpha: 8, dropout: 0.1");
    begins_alike(MODEL, NF4, "r: 4, init: gaussian, rslora: true, rank_pattern: {q_proj: 2}, targets: [q_proj, up_proj], layers: 0-0");
    begins_alike(MODEL, NF4, "r: 4, kind: dora, modules_to_save: [norm, embed_tokens]");
    begins_alike(BIASED, "none", "r: 4, bias: all");
    begins_alike(MODEL, "none", "r: 4, init: pissa");
    begins_alike(MODEL, NF4, "r: 4, init: pissa_niter_4");
    begins_alike(MODEL, NF4, "r: 4, init: loftq");
    begins_alike(MODEL, "{type: nf4}", "r: 4, init: loftq, loftq_iter: 2");
    begins_alike(MODEL, "none", "r: 4, alpha: 8, init_from: tests/fixtures/train_golden/adapter_init");
}
END_TEST

/* ---- in two parts ---- */

static void train_some(const char *output, const char *adapter, bool resume, bool (*stop)(void *), void *ctx, int expected)
{
    char text[2048];
    struct pw_recipe recipe;
    struct pw_run run;
    struct pw_run_result result;
    struct pw_dev *dev = NULL;
    const struct pw_dev_options options = {.kind = "cpu", .threads = 1};
    snprintf(text, sizeof text,
             "model: %s\nquant: " NF4 "\nadapter: {r: 4, alpha: 8, %s}\ndata: {train: %s, format: completion, max_length: 40}\n"
             "train: {steps: 8, batch_size: 2, accumulate: 2, lr: 3e-3, save_every: 1, eval_every: 0}\noutput: %s\n", strstr(adapter, "bias:") ? BIASED : MODEL, adapter, ROWS, output);
    ck_ok(pw_recipe_parse(&recipe, text, strlen(text), "parts", NULL, 0));
    ck_ok(pw_dev_open(&dev, &options));
    const struct pw_run_options opt = {.recipe = &recipe, .dev = dev, .resume = resume, .stop = stop, .stop_ctx = ctx};
    ck_ok(pw_run_open(&run, &opt));
    ck_assert_int_eq(pw_run_train(&run, &result), expected);
    pw_run_close(&run);
    pw_dev_close(dev);
    pw_recipe_free(&recipe);
}
/* Asked between passes: after this many it says stop. */
static bool enough(void *left) { return --*(int *)left < 0; }

/* With dropout, on a 4-bit base: stopped in the middle and resumed, the same bytes as in one go. */
static void two_parts(const char *adapter)
{
    struct pw_buf whole = {0}, parts = {0};
    const char *one = test_path(test_tmpdir(), "one"), *two = test_path(test_tmpdir(), "two");
    int left = 9;
    train_some(one, adapter, false, NULL, NULL, 0);
    train_some(two, adapter, false, enough, &left, PW_E_INTERRUPTED);
    train_some(two, adapter, true, NULL, NULL, 0);
    ck_ok(pw_file_read(test_path(one, "adapter/adapter_model.safetensors"), 0, &whole));
    ck_ok(pw_file_read(test_path(two, "adapter/adapter_model.safetensors"), 0, &parts));
    ck_assert_uint_eq(whole.len, parts.len);
    ck_assert_int_eq(memcmp(whole.data, parts.data, whole.len), 0);
    pw_buf_free(&whole);
    pw_buf_free(&parts);
}
START_TEST(pissa_in_two_parts) { two_parts("init: pissa, dropout: 0, modules_to_save: [norm]"); }
END_TEST
START_TEST(loftq_in_two_parts) { two_parts("init: loftq, loftq_iter: 2, dropout: 0.1"); }
END_TEST
START_TEST(dora_in_two_parts) { two_parts("kind: dora, dropout: 0.2, modules_to_save: [norm, embed_tokens, lm_head]"); }
END_TEST
START_TEST(biases_in_two_parts) { two_parts("bias: all, targets: [q_proj, down_proj], dropout: 0.1"); }
END_TEST

int main(void)
{
    Suite *s = suite_create("adapter_init");
    TCase *c = tcase_create("beginnings");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, pissa);
    tcase_add_test(c, pissa_fast);
    tcase_add_test(c, loftq);
    tcase_add_test(c, loftq_rounds);
    tcase_add_test(c, loftq_rounds_on_simt);
    tcase_add_test(c, principal_parts_fast);
    tcase_add_test(c, principal_parts);
    tcase_add_test(c, begins_without_a_run);
    tcase_add_test(c, pissa_in_two_parts);
    tcase_add_test(c, loftq_in_two_parts);
    tcase_add_test(c, dora_in_two_parts);
    tcase_add_test(c, biases_in_two_parts);
    suite_add_tcase(s, c);
    return test_run(s);
}
