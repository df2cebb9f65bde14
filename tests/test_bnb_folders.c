/* Folders of models with experts, written; and folders as transformers and bitsandbytes write them, for each bnb_4bit_quant_storage, and LLM.int8(): the logits of the decoded weights
 * (tests/fixtures/bnb_folders, made by tools/reference/bnb_folders.py). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/safetensors.h"
#include "infer/session.h"
#include "quant/quant.h"
#include "tests/model_logits.h"
#include "tests/support.h"

#define FIXTURES "tests/fixtures/bnb_folders/"
enum { MOST = 64 };
static const struct { const char *name, *format; } cases[] = {
    {"uint8", "safetensors, bitsandbytes nf4"}, {"bfloat16", "safetensors, bitsandbytes nf4"}, {"float16", "safetensors, bitsandbytes fp4"},
    {"float32", "safetensors, bitsandbytes fp4"}, {"mixtral", "safetensors, bitsandbytes nf4"}, {"int8", "safetensors, bitsandbytes int8"}};

/* Bound: sums of at most 128 f32 terms in another order through one layer, near 1 behind the norms, times the head's gain: 1e-5 of it. */
START_TEST(logits_of_the_decoded_weights)
{
    struct pw_dev *dev;
    struct pw_model *m;
    struct pw_session *s;
    struct pw_safetensors want;
    int32_t ids[MOST], rows[MOST];
    char folder[200], file[220];
    snprintf(folder, sizeof folder, FIXTURES "%s", cases[_i].name);
    snprintf(file, sizeof file, "%s/logits.safetensors", folder);
    ck_ok(pw_safetensors_open(&want, file));
    const struct pw_st_tensor *t = pw_safetensors_find(&want, "ids"), *x = pw_safetensors_find(&want, "logits");
    ck_assert(t && x && t->shape[0] <= MOST && x->shape[0] == t->shape[0]);
    const int n = (int)t->shape[0];
    memcpy(ids, t->data, t->bytes);
    for (int i = 0; i < n; i++)
        rows[i] = i;
    ck_ok(pw_dev_open(&dev, &(struct pw_dev_options){.kind = "cpu", .threads = 2, .level = getenv("PW_CPU")}));
    ck_ok(pw_model_load(&m, dev, folder, NULL));
    ck_assert_str_eq(pw_checkpoint_format(m->checkpoint), cases[_i].format);
    ck_assert_int_eq(m->config.vocab, x->shape[1]);
    ck_ok(pw_session_open(&s, m, n, n, 1));
    const struct pw_feed feed = {pw_session_add(s, n, -1), ids, n};
    ck_ok(pw_session_feed(s, &feed, 1));
    const int64_t count = n * m->config.vocab;
    float *got = malloc((size_t)count * sizeof *got), *theirs = malloc((size_t)count * sizeof *theirs), largest = 0;
    memcpy(theirs, x->data, x->bytes);
    ck_ok(pw_session_logits(s, rows, n, got));
    double most = 0;
    for (int64_t i = 0; i < count; i++) {
        const double d = fabs((double)got[i] - theirs[i]);
        most = !(d <= most) ? d : most;
        largest = fabsf(theirs[i]) > largest ? fabsf(theirs[i]) : largest;
    }
    printf("%s: largest difference of a logit %.3g of %.3g\n", cases[_i].name, most, (double)largest);
    ck_assert_msg(most <= 1e-5 * largest && largest > 0.5f, "%s: %g", cases[_i].name, most);
    free(got);
    free(theirs);
    pw_session_close(s);
    pw_model_free(m);
    pw_dev_close(dev);
    pw_safetensors_close(&want);
}
END_TEST

/* ---- experts, written ---- */

static const char *const families[] = {"mixtral", "qwen3-moe", "qwen3-moe-joined"};
static const int32_t some_ids[] = {1, 5, 9, 33, 2, 17, 8, 8, 3, 21, 39, 11, 7};
enum { SOME = sizeof some_ids / sizeof *some_ids };

static void write_folder(struct pw_dev *dev, const char *from, const char *to, const char *type, bool stored)
{
    struct pw_quant_options o;
    ck_ok(pw_quant_parse(type, &o));
    o.experts_stored = stored;
    ck_ok(pw_quant_folder(dev, from, NULL, to, false, &o, NULL, NULL, NULL));
}

/* Of the linears of experts, and of the others: how many tensors of this dtype. */
static int tensors_of(const char *folder, bool experts, const char *dtype)
{
    struct pw_checkpoint *c;
    struct pw_stored t;
    int n = 0;
    ck_ok(pw_checkpoint_open(&c, folder, NULL));
    for (size_t i = 0; pw_checkpoint_at(c, i, &t); i++)
        n += (strstr(t.name, ".experts.") != NULL) == experts && strstr(t.name, "proj") && !strstr(t.name, ".weight.") && strcmp(t.dtype, dtype) == 0;
    pw_checkpoint_close(c);
    return n;
}

/* Every linear of an expert under a name of its own, with the codes that loading with --type gives: the same logits to the last bit, of joined experts too. With
 * experts_stored they stay what they were, as transformers 5 has them. */
START_TEST(experts_written)
{
    static const char *const types[] = {"nf4", "fp4", "int8"};
    const char *name = families[_i % 3], *type = types[_i / 3], *dir = test_tmpdir(), *all = test_path(dir, "all"), *stored = test_path(dir, "stored");
    struct pw_dev *dev = logits_device("", 1);
    char base[96];
    int64_t vocab;
    size_t n;
    snprintf(base, sizeof base, "tests/fixtures/families/%s", name);
    write_folder(dev, base, all, type, false);
    write_folder(dev, base, stored, type, true);
    float *want = logits_loaded(dev, base, &(struct pw_model_options){.quantise = type}, NULL, some_ids, SOME, &vocab), *plain = logits_of(dev, base, some_ids, SOME, &vocab);
    float *got = logits_of(dev, all, some_ids, SOME, &vocab), *half = logits_of(dev, stored, some_ids, SOME, &vocab);
    ck_assert(logits_apart(want, got, SOME * vocab) == 0);
    ck_assert(logits_apart(half, plain, SOME * vocab) > 0 && logits_apart(half, got, SOME * vocab) > 0);
    const char *codes = strcmp(type, "int8") == 0 ? "I8" : "U8";
    const int linears = 3 * (_i % 3 == 0 ? 2 * 4 : _i % 3 == 1 ? 2 * 6 : 5);
    if (_i % 3 > 0) {
        ck_assert_int_eq(tensors_of(all, true, codes), linears);
        ck_assert_int_eq(tensors_of(stored, true, "BF16"), linears);
        ck_assert_int_eq(tensors_of(stored, true, codes), 0);
    }
    ck_assert_int_ge(tensors_of(stored, false, codes), 8);
    char *config = test_slurp(test_path(all, "config.json"), &n), *skip = strstr(config, "\"llm_int8_skip_modules\": [");
    ck_assert(skip && strstr(skip, "\"lm_head\"") && strstr(skip, "\"gate\""));     /* or transformers 4 looks for codes of routers */
    pw_free(config);
    free(want);
    free(got);
    free(half);
    free(plain);
    pw_dev_close(dev);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("bitsandbytes folders");
    TCase *c = tcase_create("bitsandbytes folders");
    tcase_add_loop_test(c, logits_of_the_decoded_weights, 0, (int)(sizeof cases / sizeof cases[0]));
    tcase_add_loop_test(c, experts_written, 0, 9);
    suite_add_tcase(s, c);
    return test_run(s);
}
