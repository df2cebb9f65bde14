/* The memory plan against what is taken: the largest resident memory of whole runs, each in a process of its own, over shapes that spend it
 * on different things; and the limit, to the byte. */
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "tests/support.h"
#include "train/run.h"

#define FIXTURES "tests/fixtures/train_golden"
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { MEASURED = 0 };
#else
enum { MEASURED = 1 };
#endif
struct measured { uint64_t planned, peak; int rc; };

static int train_here(const char *text, struct measured *m)
{
    const struct pw_dev_options options = {.kind = "cpu", .threads = 1};
    struct pw_dev *dev = NULL;
    struct pw_recipe r = {0};
    struct pw_run run = {0};
    struct pw_run_result result;
    int rc = 0;
    PW_PASS_OUT(pw_recipe_parse(&r, text, strlen(text), "test", NULL, 0));
    PW_PASS_OUT(pw_dev_open(&dev, &options));
    const struct pw_run_options opt = {.recipe = &r, .dev = dev};
    PW_PASS_OUT(pw_run_open(&run, &opt));
    PW_PASS_OUT(pw_run_train(&run, &result));
    m->planned = result.planned_bytes;
    m->peak = result.peak_bytes;
out:
    if (rc < 0)
        fprintf(stderr, "%s\n", pw_error_text());
    pw_run_close(&run);
    if (dev)
        pw_dev_close(dev);
    pw_recipe_free(&r);
    return rc;
}

/* The sanitizers' shadow memory is not ours to plan, so shapes are measured without them. */
static void measure(const char *name, const char *text)
{
    struct measured m = {0};
    int ends[2], status = 0;
    ck_assert_int_eq(pipe(ends), 0);
    pid_t pid = fork();
    if (pid == 0) {
        m.rc = train_here(text, &m);
        _exit(write(ends[1], &m, sizeof m) == (ssize_t)sizeof m ? 0 : 1);
    }
    close(ends[1]);
    ck_assert_int_eq(read(ends[0], &m, sizeof m), sizeof m);
    close(ends[0]);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(m.rc == 0, "%s: the run failed", name);
    const double mib = 1 << 20, apart = ((double)m.peak - (double)m.planned) / mib, share = apart * mib / (double)m.planned;
    printf("%-42s planned %7.1f MiB, peak %7.1f MiB: %+.1f MiB, %+.1f %%\n", name, (double)m.planned / mib, (double)m.peak / mib, apart, 100 * share);
    ck_assert_msg(test_close((double)m.peak, (double)m.planned, 8 * mib, 0) || test_close((double)m.peak, (double)m.planned, 0, 0.05),
                  "%s: planned %.1f MiB, peak %.1f MiB", name, (double)m.planned / mib, (double)m.peak / mib);
}

static const char *write_config(const char *dir, int vocab, int layers, int hidden, int ffn)
{
    const char *path = test_path(dir, "config.json");
    char text[1024];
    int n = snprintf(text, sizeof text,
                     "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": %d, \"num_hidden_layers\": %d, \"hidden_size\": %d, "
                     "\"num_attention_heads\": 8, \"num_key_value_heads\": 4, \"intermediate_size\": %d, \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-5, "
                     "\"rope_theta\": 10000, \"tie_word_embeddings\": false, \"hidden_act\": \"silu\", \"bos_token_id\": 0, \"eos_token_id\": 1, "
                     "\"initializer_range\": 0.02}\n",
                     vocab, layers, hidden, ffn);
    ck_ok(pw_file_write(path, text, (size_t)n, true));
    return path;
}

#define DATA "data: {train: " FIXTURES "/rows.jsonl, format: completion, max_length: 40}\n"

START_TEST(shapes)
{
    const char *dir = test_tmpdir(), *config = write_config(dir, 64, 4, 512, 1536);
    static const struct { const char *name, *more; } kinds[] = {
        {"adapter, checkpointing", "adapter: {r: 8}\n" DATA "train: {steps: 2, batch_size: 64, accumulate: 1, checkpointing: true, eval_every: 0}\n"},
        {"adapter, all activations kept", "adapter: {r: 8}\n" DATA "train: {steps: 2, batch_size: 64, accumulate: 1, checkpointing: false, eval_every: 0}\n"},
        {"adapter of rank 256: optimizer and states", "adapter: {r: 256}\n" DATA "train: {steps: 2, batch_size: 1, accumulate: 2, save_every: 1, eval_every: 0}\n"},
        {"adapter on NF4", "quant: {type: nf4}\nadapter: {r: 8}\n" DATA "train: {steps: 2, batch_size: 8, accumulate: 1, eval_every: 0}\n"},
    };
    char text[2048];
    snprintf(text, sizeof text, "model: {fresh: %s, tokenizer: " FIXTURES "/model}\nadapter: {kind: full}\n" DATA
             "train: {steps: 2, batch_size: 4, accumulate: 1, eval_every: 0}\noutput: %s/full\n", config, dir);
    measure("all weights", text);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        snprintf(text, sizeof text, "model: %s/full/model\n%soutput: %s/run%zu\n", dir, kinds[i].more, dir, i);
        measure(kinds[i].name, text);
    }
    config = write_config(dir, 30000, 2, 256, 512);
    snprintf(text, sizeof text, "model: {fresh: %s, tokenizer: " FIXTURES "/model}\nadapter: {kind: full}\n" DATA
             "train: {steps: 2, batch_size: 32, accumulate: 1, eval_every: 0}\noutput: %s/wide\n", config, dir);
    measure("all weights, 30,000 words", text);
    snprintf(text, sizeof text, "model: {fresh: %s, tokenizer: " FIXTURES "/model, dtype: bf16}\nadapter: {kind: full}\n" DATA
             "train: {steps: 2, batch_size: 4, accumulate: 1, eval_every: 0}\noutput: %s/narrow\n", config, dir);
    measure("all weights, written as bf16", text);
}
END_TEST

/* One byte too few refuses and leaves no folder; the plan's own sum is enough. */
START_TEST(limit)
{
    const struct pw_dev_options options = {.kind = "cpu", .threads = 1};
    const char *output = test_path(test_tmpdir(), "run");
    struct pw_dev *dev;
    struct pw_recipe r;
    struct pw_run run;
    struct pw_run_result result;
    char text[1024];
    snprintf(text, sizeof text, "model: " FIXTURES "/model\nadapter: {r: 4}\n" DATA "train: {steps: 2, eval_every: 0}\noutput: %s\n", output);
    ck_ok(pw_recipe_parse(&r, text, strlen(text), "test", NULL, 0));
    ck_ok(pw_dev_open(&dev, &options));
    struct pw_run_options opt = {.recipe = &r, .dev = dev, .memory = 1};
    ck_ok(pw_run_open(&run, &opt));
    ck_assert(!pw_run_fits(&run));
    ck_fails(pw_run_train(&run, &result), PW_E_REFUSED, "does not fit");
    ck_assert(!pw_file_exists(output));
    run.limit = pw_budget_peak(&run.budget) - 1;
    ck_fails(pw_run_accept(&run), PW_E_REFUSED, "does not fit");
    run.limit++;
    ck_ok(pw_run_accept(&run));
    pw_run_close(&run);
    pw_dev_close(dev);
    pw_recipe_free(&r);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("budget");
    TCase *c = tcase_create("plan");
    tcase_set_timeout(c, 240);
    tcase_add_test(c, limit);
    if (MEASURED)
        tcase_add_test(c, shapes);
    suite_add_tcase(s, c);
    return test_run(s);
}
