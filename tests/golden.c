/* Runs against reference results (see the header). */
#include "tests/golden.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "lora/peft.h"
#include "tests/support.h"
#include "train/run.h"
#include "train/runlog.h"

double golden_number(const struct pw_value *map, const char *key)
{
    double x = NAN;
    ck_ok(pw_get_f64(map, key, "golden.json", &x));
    return x;
}

/* |ours - theirs| / |theirs| over all values of a tensor together. */
double golden_distance(struct pw_tensor ours, struct pw_tensor theirs)
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

static void compare_adapters(const char *ours, const char *theirs, const char *before, double bound)
{
    struct pw_adapter a, b, start;
    double worst = 0, moved = 0, magnitudes = -1;
    ck_ok(pw_peft_load(&a, ours, NULL));
    ck_ok(pw_peft_load(&b, theirs, NULL));
    ck_ok(pw_peft_load(&start, before, NULL));
    ck_assert_uint_eq(a.n, b.n);
    ck_assert_uint_eq(a.n, strstr(theirs, "bias-all") ? 4 : 14);
    for (size_t i = 0; i < a.n; i++) {
        const struct pw_adapter_module *m = pw_adapter_find(&b, a.modules[i].name), *s = pw_adapter_find(&start, a.modules[i].name);
        ck_assert_ptr_nonnull(m);
        const double da = golden_distance(a.modules[i].lora.a, m->lora.a), db = golden_distance(a.modules[i].lora.b, m->lora.b);
        ck_assert_msg(da <= bound && db <= bound, "%s: A differs by %g, B by %g of its norm (bound %g)", a.modules[i].name, da, db, bound);
        worst = fmax(worst, fmax(da, db));
        ck_assert_int_eq(a.modules[i].lora.magnitude.ndim, m->lora.magnitude.ndim);
        if (m->lora.magnitude.ndim > 0) {
            const double dm = golden_distance(a.modules[i].lora.magnitude, m->lora.magnitude);
            ck_assert_msg(dm <= bound, "%s: the magnitude differs by %g of its norm (bound %g)", a.modules[i].name, dm, bound);
            worst = fmax(worst, dm);
            magnitudes = fmax(magnitudes, golden_distance(s->lora.magnitude, m->lora.magnitude));
        }
        moved = fmax(moved, golden_distance(s->lora.a, m->lora.a));
    }
    ck_assert_uint_eq(a.n_saved, b.n_saved);
    for (size_t i = 0; i < a.n_saved; i++) {
        const struct pw_adapter_saved *m = pw_adapter_find_saved(&b, a.saved[i].name), *s = pw_adapter_find_saved(&start, a.saved[i].name);
        ck_assert_ptr_nonnull(m);
        const double d = golden_distance(a.saved[i].value, m->value);
        ck_assert_msg(d <= bound, "%s differs by %g of its norm (bound %g)", a.saved[i].name, d, bound);
        ck_assert_msg(golden_distance(s->value, m->value) > 100 * bound, "%s of the fixture hardly moves", a.saved[i].name);
        worst = fmax(worst, d);
    }
    printf("%s: largest difference of a tensor %.3g; training moved one by %.3g\n", theirs, worst, moved);
    ck_assert_msg(moved > 1000 * bound, "the fixture hardly moves: %g", moved);
    ck_assert_msg(magnitudes < 0 || magnitudes > 100 * bound, "the magnitudes of the fixture hardly move: %g", magnitudes);
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
    ck_assert_uint_eq(n, GOLDEN_STEPS);
    ck_assert_uint_eq(want->len, GOLDEN_STEPS);
    for (size_t i = 0; i < n; i++) {
        const struct pw_value *w = &want->items[i];
        if (pw_get(w, "tokens")) {
            ck_assert_int_eq(lines[i].s.trained_tokens, (int64_t)golden_number(w, "trained_tokens"));
            ck_assert_int_eq(lines[i].s.tokens, (int64_t)golden_number(w, "tokens"));
        } else
            ck_assert(lines[i].s.has_rewards);
        ck_close(lines[i].s.lr, golden_number(w, "lr"), 1e-18, 1e-12);
        ck_close(lines[i].s.loss, golden_number(w, "loss"), 0, bound);
        ck_close(lines[i].s.grad_norm, golden_number(w, "grad_norm"), 0, bound);
        worst = fmax(worst, fmax(fabs(lines[i].s.loss / golden_number(w, "loss") - 1), fabs(lines[i].s.grad_norm / golden_number(w, "grad_norm") - 1)));
    }
    printf("largest relative difference of a loss or gradient norm %.3g\n", worst);
    pw_arena_free(&a);
}

void golden_run(const char *text, const struct pw_value *one, const char *device, const char *theirs, const char *before, double bound)
{
    struct pw_recipe recipe;
    struct pw_run run;
    struct pw_run_result result;
    struct pw_dev *dev = NULL;
    const struct pw_dev_options options = {.kind = device, .threads = 1, .level = strcmp(device, "cpu") == 0 ? getenv("PW_CPU") : NULL, .many_rows = true}; /* as pw train */
    ck_ok(pw_recipe_parse(&recipe, text, strlen(text), "golden", NULL, 0));
    ck_ok(pw_dev_open(&dev, &options));
    const struct pw_run_options opt = {.recipe = &recipe, .dev = dev};
    ck_ok(pw_run_open(&run, &opt));
    ck_ok(pw_run_train(&run, &result));
    ck_assert_int_eq(result.steps, GOLDEN_STEPS);
    compare_log(test_path(recipe.output, "log.jsonl"), pw_get(one, "log"), bound);
    if (theirs)
        compare_adapters(test_path(recipe.output, "adapter"), theirs, before, bound);
    pw_run_close(&run);
    pw_dev_close(dev);
    pw_recipe_free(&recipe);
}
