/* Folders as transformers and bitsandbytes write them, for each bnb_4bit_quant_storage, and LLM.int8(): the logits of the decoded weights
 * (tests/fixtures/bnb_folders, made by tools/reference/bnb_folders.py). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/safetensors.h"
#include "infer/session.h"
#include "tests/support.h"

#define FIXTURES "tests/fixtures/bnb_folders/"
enum { MOST = 64 };
static const struct { const char *name, *format; } cases[] = {
    {"uint8", "safetensors, bitsandbytes nf4"}, {"bfloat16", "safetensors, bitsandbytes nf4"}, {"float16", "safetensors, bitsandbytes fp4"},
    {"float32", "safetensors, bitsandbytes fp4"}, {"int8", "safetensors, bitsandbytes int8"}};

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

int main(void)
{
    Suite *s = suite_create("bitsandbytes folders");
    TCase *c = tcase_create("bitsandbytes folders");
    tcase_add_loop_test(c, logits_of_the_decoded_weights, 0, (int)(sizeof cases / sizeof cases[0]));
    suite_add_tcase(s, c);
    return test_run(s);
}
