/* --memory of making a model anew: a refusal names the least that would do; with that it is made and stays below it, with a byte less it is not. */
#include <omp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "quant/quant.h"
#include "tests/shape_model.h"
#include "tests/support.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };     /* shadow memory is resident too, and what is freed stays */
#else
enum { SANITIZED = 0 };
#endif
/* Feed-forward matrices of 16 MiB, far more than what a plan sets aside for libraries: one that is left out is seen. */
static const char config[] = "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"vocab_size\":512,\"hidden_size\":1024,\"intermediate_size\":8192,\"num_hidden_layers\":1,"
                             "\"num_attention_heads\":8,\"num_key_value_heads\":2,\"head_dim\":128,\"max_position_embeddings\":256,\"rms_norm_eps\":1e-5,\"rope_theta\":10000,"
                             "\"tie_word_embeddings\":true,\"torch_dtype\":\"bfloat16\"}";
static const struct { const char *type; bool gguf, nested; } forms[] = {{"nf4", false, false}, {"nf4", false, true}, {"int8", false, false}, {"f32", false, false}, {"q4_K", true, false}, {"f16", true, false}};

static int make(struct pw_dev *dev, const char *model, const char *out, int form, uint64_t memory)
{
    struct pw_quant_options o;
    ck_ok(pw_quant_parse(forms[form].type, &o));
    o.double_quant = forms[form].nested;
    o.memory = memory;
    return forms[form].gguf ? pw_quant_gguf(dev, model, NULL, out, true, &o, NULL, NULL, NULL) : pw_quant_folder(dev, model, NULL, out, true, &o, NULL, NULL, NULL);
}

/* Refused under this limit? Then nothing is left of it, and *least is what the refusal names. */
static bool refused(struct pw_dev *dev, const char *model, const char *out, int form, uint64_t memory, uint64_t *least)
{
    unsigned long long bytes = 0;
    if (pw_is_dir(out)) ck_ok(pw_dir_remove(out));       /* of a run that was not to be one */
    (void)unlink(out);
    const int rc = make(dev, model, out, form, memory);
    if (rc == 0) return false;
    ck_assert_msg(rc == PW_E_REFUSED && strstr(pw_error_text(), "it does not fit into --memory: planned "), "%d: %s", rc, pw_error_text());
    ck_assert_msg(sscanf(pw_error_hint_text(), "--memory %llu is the least that would do", &bytes) == 1, "%s", pw_error_hint_text());
    ck_assert_msg(!pw_file_exists(out) && !pw_is_dir(out), "a refusal left %s", out);
    pw_error_clear();
    *least = bytes;
    return true;
}

START_TEST(the_least_will_do)
{
    const char *dir = test_tmpdir(), *model = test_path(dir, "model"), *out = test_path(dir, "out");
    struct pw_model_config c;
    struct pw_dev *dev;
    omp_set_num_threads(1);              /* pieces of a model are hashed two at a time for each thread: with many the hash takes more than any tensor */
    ck_ok(pw_dev_open(&dev, &(struct pw_dev_options){.kind = "cpu", .threads = 1}));
    shape_model_write(model, config, &c);
    /* The program's own pages are in the plan. The kernel moves a few between one look and the next: then both are tried again with what is named now. */
    uint64_t need = 0, now = 0;
    bool less = false, enough = false;
    ck_assert(refused(dev, model, out, _i, 1, &need));
    if (SANITIZED) {
        ck_assert(!refused(dev, model, out, _i, need + ((uint64_t)1 << 30), &now));
        test_skip("the least to the byte: what was freed stays resident here");
        pw_dev_close(dev);
        return;
    }
    for (int i = 0; i < 20 && !(less && enough); i++, need = now) {
        if (!refused(dev, model, out, _i, need - 1, &now)) {
            ck_assert(refused(dev, model, out, _i, 1, &now));
            continue;
        }
        less = now == need;
        enough = less && !refused(dev, model, out, _i, need, &now);
    }
    ck_assert_msg(less && enough, "20 times a byte less than the least was enough, or the least was not");
    ck_assert(pw_file_exists(out) || pw_is_dir(out));
    const size_t peak = pw_peak_rss_bytes();
    printf("%s%s%s: planned %.1f MiB, at most %.1f MiB were resident\n", forms[_i].type, forms[_i].nested ? ", nested" : "", forms[_i].gguf ? ", GGUF" : "", (double)need / (1 << 20),
           (double)peak / (1 << 20));
    if (peak == 0)
        test_skip("what is resident is not what was taken here");
    else {
        ck_assert_msg(peak < need, "%zu bytes were resident, the plan was %llu", peak, (unsigned long long)need);
        ck_assert_msg(need - peak < (size_t)12 << 20, "%zu bytes were resident, the plan was %llu", peak, (unsigned long long)need);   /* 5 MiB are set aside; a block type fills little of its tile's 4 */
    }
    pw_dev_close(dev);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("quant limit");
    TCase *t = tcase_create("memory");
    tcase_add_loop_test(t, the_least_will_do, 0, (int)(sizeof forms / sizeof *forms));
    tcase_set_timeout(t, 600);
    suite_add_tcase(s, t);
    return test_run(s);
}
