/* Objectives over preferences: every derivative against differences of the loss, values at points where they are known, and extremes. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/rng.h"
#include "tests/support.h"
#include "train/objective.h"
#include "train/preference.h"

static struct pw_objective objective(const char *text)
{
    struct pw_recipe r;
    char yaml[512];
    snprintf(yaml, sizeof yaml, "model: m\noutput: o\ndata: {train: t}\ntrain: {%s}\n", text);
    ck_ok(pw_recipe_parse(&r, yaml, strlen(yaml), "test", NULL, 0));
    struct pw_objective o = pw_objective_of(&r);
    pw_recipe_free(&r);
    return o;
}

static double loss_at(const struct pw_objective *o, const struct pw_answer a[2], bool label, double z)
{
    return o->kind == PW_OBJECTIVE_KTO ? pw_objective_label(o, &a[0], label, z).loss : pw_objective_pair(o, &a[0], &a[1]).loss;
}

/* Central differences of step h err by h^2 f'''/6 + 2 eps |f| / h: with h = 1e-4 and the third derivatives here below 30, under 1e-7. */
static void derivatives(const char *text, uint64_t seed)
{
    const struct pw_objective o = objective(text);
    struct pw_rng rng = pw_rng_make(seed, PW_STREAM_TEST);
    double largest = 0;
    for (int round = 0; round < 200; round++) {
        struct pw_answer a[2];
        const double h = 1e-4, z = pw_rng_uniform(&rng);
        const bool label = round % 2;
        for (int i = 0; i < 2; i++) {
            a[i].tokens = 1 + (int64_t)pw_rng_below(&rng, 9);
            a[i].logp = -(0.3 + 2 * pw_rng_uniform(&rng)) * (double)a[i].tokens;
            a[i].ref = a[i].logp + pw_rng_normal(&rng);
        }
        const struct pw_answer_loss l = o.kind == PW_OBJECTIVE_KTO ? pw_objective_label(&o, &a[0], label, z) : pw_objective_pair(&o, &a[0], &a[1]);
        ck_close(l.loss, loss_at(&o, a, label, z), 0, 0);
        for (int i = 0; i < (o.kind == PW_OBJECTIVE_KTO ? 1 : 2); i++) {
            struct pw_answer up[2] = {a[0], a[1]}, down[2] = {a[0], a[1]};
            up[i].logp += h;
            down[i].logp -= h;
            const double before = loss_at(&o, down, label, z), after = loss_at(&o, up, label, z);
            if (o.kind == PW_OBJECTIVE_DPO && o.dpo == PW_DPO_HINGE && (before < 1e-3 || after < 1e-3))
                continue;      /* the corner */
            ck_close(l.d[i], (after - before) / (2 * h), 1e-7, 1e-6);
            largest = fmax(largest, fabs(l.d[i]));
        }
    }
    ck_assert_msg(largest > 0.01, "%s: derivatives are all near zero", text);
}

START_TEST(gradients)
{
    derivatives("objective: dpo, beta: 0.3", 1);
    derivatives("objective: dpo, beta: 0.3, label_smoothing: 0.2, rpo_alpha: 0.7", 2);
    derivatives("objective: dpo, dpo_loss: ipo, beta: 0.4, rpo_alpha: 0.1", 3);
    derivatives("objective: dpo, dpo_loss: hinge, beta: 0.5", 4);
    derivatives("objective: orpo, beta: 0.3", 5);
    derivatives("objective: simpo, gamma: 0.7, label_smoothing: 0.1", 6);
    derivatives("objective: kto, beta: 0.6, desirable_weight: 1.5, undesirable_weight: 0.7", 7);
}
END_TEST

START_TEST(known_values)
{
    const struct pw_answer same = {.logp = -4, .ref = -4, .tokens = 2}, far = {.logp = -2000, .ref = -4, .tokens = 2};
    struct pw_objective o = objective("objective: dpo");
    ck_close(o.beta, 0.1, 0, 0);
    struct pw_answer_loss l = pw_objective_pair(&o, &same, &same);
    ck_close(l.loss, log(2), 0, 1e-15);
    ck_close(l.d[0], -0.05, 0, 1e-15);
    ck_close(l.d[1], 0.05, 0, 1e-15);
    l = pw_objective_pair(&o, &far, &same);      /* no overflow: -log sigmoid(x) is -x */
    ck_close(l.loss, 199.6, 0, 1e-12);
    ck_close(l.d[0], -0.1, 0, 1e-12);
    l = pw_objective_pair(&o, &same, &far);
    ck_close(l.loss, 0, 1e-80, 0);
    o = objective("objective: dpo, dpo_loss: ipo");
    ck_close(pw_objective_pair(&o, &same, &same).loss, 25, 0, 1e-14);
    o = objective("objective: orpo, beta: 1");
    ck_close(pw_objective_pair(&o, &same, &same).loss, 2 + log(2), 0, 1e-15);
    o = objective("objective: simpo");
    ck_close(o.beta, 2, 0, 0);
    ck_close(pw_objective_pair(&o, &same, &same).loss, log1p(exp(0.5)), 0, 1e-15);
    o = objective("objective: kto");
    ck_close(pw_objective_label(&o, &same, true, 0).loss, 0.5, 0, 1e-15);
    ck_close(pw_objective_label(&o, &far, true, 0).loss, 1, 0, 1e-12);
    ck_close(pw_objective_label(&o, &far, false, 0).loss, 0, 1e-80, 0);
}
END_TEST

/* kto reads the answer of one row after the prompt of another, which may be longer than any row is. */
START_TEST(longest_sequence)
{
    int64_t start[] = {0, 6, 13};
    uint8_t trained[13] = {[5] = 1, [7] = 1, [8] = 1, [9] = 1, [10] = 1, [11] = 1, [12] = 1};
    const struct pw_dataset d = {.n_rows = 2, .n_tokens = 13, .n_trained = 7, .row_start = start, .trained = trained, .longest = 7}; /* prompts of 5 and 1, answers of 1 and 6 */
    const struct pw_objective kto = objective("objective: kto"), dpo = objective("objective: dpo");
    ck_assert_int_eq(pw_preference_longest(&kto, &d, 100), 11);
    ck_assert_int_eq(pw_preference_longest(&kto, &d, 9), 9);
    ck_assert_int_eq(pw_preference_longest(&dpo, &d, 100), 7);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("objective");
    TCase *c = tcase_create("objective");
    tcase_add_test(c, gradients);
    tcase_add_test(c, known_values);
    tcase_add_test(c, longest_sequence);
    suite_add_tcase(s, c);
    return test_run(s);
}
