/* Training against PyTorch and peft: 20 steps on a tiny Llama, dense and NF4, from the same adapter over the same rows. Losses, gradient
 * norms, rates and token counts of every step, and the adapter at the end (tools/reference/train_fixtures.py made them). The objectives over
 * preferences likewise, by the published formulas (tools/reference/preference_fixtures.py). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/value.h"
#include "lora/peft.h"
#include "tests/support.h"
#include "train/run.h"
#include "train/runlog.h"

#define FIXTURES "tests/fixtures/train_golden"
#define PREFERENCES "tests/fixtures/preference_golden"
enum { STEPS = 20 };

static double number(const struct pw_value *map, const char *key)
{
    double x = NAN;
    ck_ok(pw_get_f64(map, key, "golden.json", &x));
    return x;
}

static void recipe_text(char *text, size_t cap, const struct pw_value *o, const char *quant, const char *optimizer, const char *output)
{
    const char *schedule = NULL;
    ck_ok(pw_get_str(o, "schedule", "golden.json", &schedule));
    snprintf(text, cap,
             "model: %s\nquant: %s\nadapter: {r: 4, alpha: 8, dropout: 0.0, targets: all-linear, init_from: %s}\n"
             "data: {train: %s, format: completion, max_length: 40, packing: false, shuffle: false}\n"
             "train: {steps: %d, batch_size: 2, accumulate: 2, lr: %.17g, warmup: %.17g, schedule: %s, weight_decay: %.17g, clip: %.17g, "
             "betas: [0.9, 0.999], eps: 1.0e-8, optimizer: %s, save_every: 0, eval_every: 0}\noutput: %s\n",
             FIXTURES "/model", quant, FIXTURES "/adapter_init", FIXTURES "/rows.jsonl", STEPS, number(o, "lr"), number(o, "warmup"), schedule,
             number(o, "weight_decay"), number(o, "clip"), optimizer, output);
}

/* |ours - theirs| / |theirs| over all values of a tensor together. */
static double distance(struct pw_tensor ours, struct pw_tensor theirs)
{
    const float *x = ours.data, *y = theirs.data;
    double apart = 0, norm = 0;
    ck_assert_int_eq(pw_count(ours), pw_count(theirs));
    for (int64_t i = 0; i < pw_count(ours); i++) {
        apart += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        norm += (double)y[i] * y[i];
    }
    return sqrt(apart / norm);
}

static void compare_adapters(const char *ours, const char *theirs, double bound)
{
    struct pw_adapter a, b, start;
    double worst = 0, moved = 0;
    ck_ok(pw_peft_load(&a, ours, NULL));
    ck_ok(pw_peft_load(&b, theirs, NULL));
    ck_ok(pw_peft_load(&start, FIXTURES "/adapter_init", NULL));
    ck_assert_uint_eq(a.n, b.n);
    ck_assert_uint_eq(a.n, 14);
    for (size_t i = 0; i < a.n; i++) {
        const struct pw_adapter_module *m = pw_adapter_find(&b, a.modules[i].name), *s = pw_adapter_find(&start, a.modules[i].name);
        ck_assert_ptr_nonnull(m);
        const double da = distance(a.modules[i].lora.a, m->lora.a), db = distance(a.modules[i].lora.b, m->lora.b);
        ck_assert_msg(da <= bound && db <= bound, "%s: A differs by %g, B by %g of its norm (bound %g)", a.modules[i].name, da, db, bound);
        worst = fmax(worst, fmax(da, db));
        moved = fmax(moved, distance(s->lora.a, m->lora.a));
    }
    printf("%s: largest difference of a tensor %.3g; training moved one by %.3g\n", theirs, worst, moved);
    ck_assert_msg(moved > 1000 * bound, "the fixture hardly moves: %g", moved);
    pw_adapter_free(&a);
    pw_adapter_free(&b);
    pw_adapter_free(&start);
}

static void compare_log(const char *path, const struct pw_value *want, double bound)
{
    struct pw_arena a;
    struct pw_log_line *lines = NULL;
    size_t n = 0;
    double worst = 0;
    pw_arena_init(&a);
    ck_ok(pw_runlog_read(&a, path, &lines, &n));
    ck_assert_uint_eq(n, STEPS);
    ck_assert_uint_eq(want->len, STEPS);
    for (size_t i = 0; i < n; i++) {
        const struct pw_value *w = &want->items[i];
        if (pw_get(w, "tokens")) {
            ck_assert_int_eq(lines[i].s.trained_tokens, (int64_t)number(w, "trained_tokens"));
            ck_assert_int_eq(lines[i].s.tokens, (int64_t)number(w, "tokens"));
        } else
            ck_assert(lines[i].s.has_rewards);
        ck_close(lines[i].s.lr, number(w, "lr"), 1e-18, 1e-12);
        ck_close(lines[i].s.loss, number(w, "loss"), 0, bound);
        ck_close(lines[i].s.grad_norm, number(w, "grad_norm"), 0, bound);
        worst = fmax(worst, fmax(fabs(lines[i].s.loss / number(w, "loss") - 1), fabs(lines[i].s.grad_norm / number(w, "grad_norm") - 1)));
    }
    printf("largest relative difference of a loss or gradient norm %.3g\n", worst);
    pw_arena_free(&a);
}

/* A recipe's text run to its end, then its log and adapter against `one` and the adapter in `theirs`. */
static void run(const char *text, const struct pw_value *one, const char *device, const char *theirs, double bound)
{
    struct pw_recipe recipe;
    struct pw_run run;
    struct pw_run_result result;
    struct pw_dev *dev = NULL;
    const struct pw_dev_options options = {.kind = device, .threads = 1, .level = strcmp(device, "cpu") == 0 ? getenv("PW_CPU") : NULL};
    ck_ok(pw_recipe_parse(&recipe, text, strlen(text), "golden", NULL, 0));
    ck_ok(pw_dev_open(&dev, &options));
    const struct pw_run_options opt = {.recipe = &recipe, .dev = dev};
    ck_ok(pw_run_open(&run, &opt));
    ck_ok(pw_run_train(&run, &result));
    ck_assert_int_eq(result.steps, STEPS);
    compare_log(test_path(recipe.output, "log.jsonl"), pw_get(one, "log"), bound);
    compare_adapters(test_path(recipe.output, "adapter"), theirs, bound);
    pw_run_close(&run);
    pw_dev_close(dev);
    pw_recipe_free(&recipe);
}

static void golden(const char *name, const char *quant, const char *device)
{
    struct pw_arena a;
    struct pw_value *all = NULL;
    char text[2048], theirs[128];
    pw_arena_init(&a);
    ck_ok(pw_json_load(&a, FIXTURES "/golden.json", &all));
    const struct pw_value *one = pw_get(all, name);
    ck_assert_ptr_nonnull(one);
    recipe_text(text, sizeof text, pw_get(one, "recipe"), quant, strcmp(name, "sgd") == 0 ? "sgd" : "adamw", test_path(test_tmpdir(), "run"));
    snprintf(theirs, sizeof theirs, FIXTURES "/final-%s", name);
    run(text, one, device, theirs, 1e-5);
    pw_arena_free(&a);
}

static void preferences(const char *name, const char *quant, const char *device, const char *more)
{
    struct pw_arena a;
    struct pw_value *all = NULL;
    char text[2048], theirs[128];
    const char *objective = NULL, *loss = NULL, *schedule = NULL;
    pw_arena_init(&a);
    ck_ok(pw_json_load(&a, PREFERENCES "/golden.json", &all));
    const struct pw_value *one = pw_get(all, name), *o = pw_get(one, "recipe");
    ck_assert_ptr_nonnull(o);
    ck_ok(pw_get_str(o, "objective", "golden.json", &objective));
    ck_ok(pw_get_str(o, "dpo_loss", "golden.json", &loss));
    ck_ok(pw_get_str(o, "schedule", "golden.json", &schedule));
    snprintf(text, sizeof text,
             "model: %s\nquant: %s\nadapter: {r: 4, alpha: 8, targets: all-linear, init_from: %s}\n"
             "data: {train: %s, max_length: 40, packing: false, shuffle: false}\n"
             "train: {objective: %s, beta: %.17g, dpo_loss: %s, label_smoothing: %.17g, rpo_alpha: %.17g, gamma: %.17g, desirable_weight: %.17g, "
             "undesirable_weight: %.17g, steps: %d, lr: %.17g, warmup: %.17g, schedule: %s, weight_decay: %.17g, clip: %.17g, save_every: 0, eval_every: 0, "
             "%s}\noutput: %s\n",
             FIXTURES "/model", quant, FIXTURES "/adapter_init", strcmp(objective, "kto") == 0 ? PREFERENCES "/kto.jsonl" : PREFERENCES "/pairs.jsonl",
             objective, number(o, "beta"), loss, number(o, "label_smoothing"), number(o, "rpo_alpha"), number(o, "gamma"), number(o, "desirable_weight"),
             number(o, "undesirable_weight"), STEPS, number(o, "lr"), number(o, "warmup"), schedule, number(o, "weight_decay"), number(o, "clip"), more,
             test_path(test_tmpdir(), "run"));
    snprintf(theirs, sizeof theirs, PREFERENCES "/final-%s", name);
    run(text, one, device, theirs, 1e-4);
    pw_arena_free(&a);
}

#define TWO_BY_TWO "batch_size: 2, accumulate: 2"
START_TEST(dpo) { preferences("dpo", "none", "cpu", TWO_BY_TWO); }
END_TEST
START_TEST(dpo_other_passes) { preferences("dpo", "none", "cpu", "batch_size: 2, accumulate: 2, checkpointing: false"); }
END_TEST
START_TEST(dpo_nf4) { preferences("dpo-nf4", "{type: nf4, double_quant: true}", "cpu", TWO_BY_TWO); }
END_TEST
START_TEST(dpo_by_definition) { preferences("dpo", "none", "ref", TWO_BY_TWO); }
END_TEST
START_TEST(ipo) { preferences("ipo", "none", "cpu", TWO_BY_TWO); }
END_TEST
START_TEST(hinge) { preferences("hinge", "none", "cpu", TWO_BY_TWO); }
END_TEST
START_TEST(cdpo_rpo) { preferences("cdpo-rpo", "none", "cpu", TWO_BY_TWO); }
END_TEST
START_TEST(orpo) { preferences("orpo", "none", "cpu", TWO_BY_TWO); }
END_TEST
START_TEST(simpo) { preferences("simpo", "none", "cpu", TWO_BY_TWO); }
END_TEST
START_TEST(kto) { preferences("kto", "none", "cpu", TWO_BY_TWO); }
END_TEST

START_TEST(dense) { golden("dense", "none", "cpu"); }
END_TEST
START_TEST(nf4) { golden("nf4", "{type: nf4, double_quant: true}", "cpu"); }
END_TEST
START_TEST(sgd) { golden("sgd", "none", "cpu"); }
END_TEST
START_TEST(dense_by_definition) { golden("dense", "none", "ref"); }
END_TEST

int main(void)
{
    Suite *s = suite_create("train_golden");
    TCase *c = tcase_create("against PyTorch and peft");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, dense);
    tcase_add_test(c, nf4);
    tcase_add_test(c, sgd);
    tcase_add_test(c, dense_by_definition);
    tcase_add_test(c, dpo);
    tcase_add_test(c, dpo_other_passes);
    tcase_add_test(c, dpo_nf4);
    tcase_add_test(c, dpo_by_definition);
    tcase_add_test(c, ipo);
    tcase_add_test(c, hinge);
    tcase_add_test(c, cdpo_rpo);
    tcase_add_test(c, orpo);
    tcase_add_test(c, simpo);
    tcase_add_test(c, kto);
    suite_add_tcase(s, c);
    return test_run(s);
}
