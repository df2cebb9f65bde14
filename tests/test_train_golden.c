/* Training against PyTorch and peft: 20 steps on a tiny Llama, dense and NF4, from the same adapter over the same rows. Losses, gradient
 * norms, rates and token counts of every step, and the adapter at the end (tools/reference/train_fixtures.py made them). The objectives over
 * preferences likewise, by the published formulas (tools/reference/preference_fixtures.py). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/value.h"
#include "tests/golden.h"
#include "tests/support.h"

#define FIXTURES "tests/fixtures/train_golden"
#define PREFERENCES "tests/fixtures/preference_golden"
enum { STEPS = GOLDEN_STEPS };

static void recipe_text(char *text, size_t cap, const struct pw_value *o, const char *quant, const char *optimizer, const char *output)
{
    const char *schedule = NULL;
    ck_ok(pw_get_str(o, "schedule", "golden.json", &schedule));
    snprintf(text, cap,
             "model: %s\nquant: %s\nadapter: {r: 4, alpha: 8, dropout: 0.0, targets: all-linear, init_from: %s}\n"
             "data: {train: %s, format: completion, max_length: 40, packing: false, shuffle: false}\n"
             "train: {steps: %d, batch_size: 2, accumulate: 2, lr: %.17g, warmup: %.17g, schedule: %s, weight_decay: %.17g, clip: %.17g, "
             "betas: [0.9, 0.999], eps: 1.0e-8, optimizer: %s, save_every: 0, eval_every: 0}\noutput: %s\n",
             FIXTURES "/model", quant, FIXTURES "/adapter_init", FIXTURES "/rows.jsonl", STEPS, golden_number(o, "lr"), golden_number(o, "warmup"), schedule,
             golden_number(o, "weight_decay"), golden_number(o, "clip"), optimizer, output);
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
    golden_run(text, one, device, theirs, FIXTURES "/adapter_init", 1e-5);
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
             objective, golden_number(o, "beta"), loss, golden_number(o, "label_smoothing"), golden_number(o, "rpo_alpha"), golden_number(o, "gamma"), golden_number(o, "desirable_weight"),
             golden_number(o, "undesirable_weight"), STEPS, golden_number(o, "lr"), golden_number(o, "warmup"), schedule, golden_number(o, "weight_decay"), golden_number(o, "clip"), more,
             test_path(test_tmpdir(), "run"));
    snprintf(theirs, sizeof theirs, PREFERENCES "/final-%s", name);
    golden_run(text, one, device, theirs, FIXTURES "/adapter_init", 1e-4);
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
