/* The memory plan against what is taken: the largest resident memory of whole runs, each in a process of its own, over shapes that spend it
 * on different things; and the limit, to the byte. */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/value.h"
#include "tests/shape_model.h"
#include "tests/support.h"
#include "train/fits.h"

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

/* ---- a model of 7B, of which there is nothing but the shape ---------------------------------------------------------- */

/* Mistral 7B v0.3. */
static const char *mistral_7b(void)
{
    static const char config[] = "{\"architectures\":[\"MistralForCausalLM\"],\"model_type\":\"mistral\",\"vocab_size\":32768,\"num_hidden_layers\":32,\"hidden_size\":4096,\"num_attention_heads\":32,"
        "\"num_key_value_heads\":8,\"intermediate_size\":14336,\"max_position_embeddings\":32768,\"rms_norm_eps\":1e-5,\"rope_theta\":1e6,\"sliding_window\":null,\"tie_word_embeddings\":false}";
    const char *dir = test_path(test_tmpdir(), "mistral-7b");
    struct pw_model_config c;
    shape_model_write(dir, config, &c);
    ck_assert_int_eq(c.parameters, 7248023552);
    return dir;
}

/* What the program itself holds may have grown so much from one plan to the next; AddressSanitizer keeps up to 256 MiB of what was freed. */
#if defined(__SANITIZE_ADDRESS__)
enum { PROCESS_MIB = 256 };
#else
enum { PROCESS_MIB = 16 };
#endif

/* What pw model info says of 8, 12, 16 and 24 GB is what pw plan says with that --memory of a run with rows of 2048 tokens: on the emulated card to the byte, and with the same things
 * in host memory; on the processor, where the program's own pages count and come and go, within 16 MiB. */
START_TEST(what_fits_is_the_plan)
{
    static const int cards[] = {8, 12, 16, 24};
    static const char *const devices[] = {"simt", "cpu"};
    const char *model = mistral_7b(), *rows = test_path(test_tmpdir(), "rows.jsonl");
    struct pw_buf text = {0};
    struct pw_arena arena;
    uint64_t limits[4];
    bool between[2] = {false, false};
    pw_arena_init(&arena);
    pw_buf_str(&text, "{\"text\":\"");
    for (int i = 0; i < 4000; i++)
        pw_buf_str(&text, "one two ");
    pw_buf_str(&text, "\"}\n");
    ck_ok(pw_file_write(rows, text.data, text.len, true));
    for (int i = 0; i < 4; i++)
        limits[i] = (uint64_t)cards[i] << 30;
    for (int d = 0; d < 2; d++) {
        const struct pw_dev_options options = {.kind = devices[d], .threads = 1, .level = d ? getenv("PW_CPU") : NULL};
        struct pw_fits_use uses[PW_FITS_USES];
        struct pw_dev *dev;
        int n;
        ck_ok(pw_dev_open(&dev, &options));
        ck_ok(pw_fits(uses, &n, &arena, dev, model, NULL, 2048, limits, 4));
        ck_assert_int_eq(n, PW_FITS_USES);
        for (int u = 0; u < n; u++)
            ck_assert_msg(!uses[u].why, "%s", uses[u].why);
        for (int nf4 = 0; nf4 < 2; nf4++)
            for (int i = 0; i < 4; i++) {
                const struct pw_fits_size *told = &uses[2 + nf4].sizes[i];
                struct pw_recipe r;
                struct pw_run run;
                pw_buf_clear(&text);
                pw_buf_printf(&text, "model: \"%s\"\nquant: {type: %s, double_quant: %s}\nadapter: {r: 16}\ndata: {train: \"%s\", format: text, max_length: 2048}\n"
                              "train: {compute: %s}\noutput: nowhere\n", model, nf4 ? "nf4" : "none", nf4 ? "true" : "false", rows, d && dev->products == PW_BF16 ? "bf16" : "f32");
                ck_ok(pw_recipe_parse(&r, text.data, text.len, "test", NULL, 0));
                const struct pw_run_options opt = {.recipe = &r, .dev = dev, .memory = limits[i]};
                ck_ok(pw_run_open(&run, &opt));
                ck_assert_int_eq(run.trainer.shape.tokens, 2048);
                const double planned = (double)pw_budget_peak(&run.budget);
                printf("%s, %s, %d GB: told %s of %.1f MiB, planned %s of %.1f MiB, %d layers on the host\n", devices[d], uses[2 + nf4].name, cards[i], told->fits ? "a fit" : "none",
                       (double)told->bytes / (1 << 20), pw_run_fits(&run) ? "a fit" : "none", planned / (1 << 20), run.fit.stream);
                ck_assert(told->fits == pw_run_fits(&run));
                ck_close((double)told->bytes, planned, d ? PROCESS_MIB << 20 : 0, 0);
                ck_assert(told->how.stream == run.fit.stream && told->how.embed_host == run.fit.embed_host && told->how.offload == run.fit.offload && told->how.optim_host == run.fit.optim_host);
                ck_assert(d == 1 || told->how.kept == run.fit.kept);
                between[d] |= !told->fits;
                pw_run_close(&run);
                pw_recipe_free(&r);
            }
        /* Running: the weights of the file, or in 4 bits and a bit, and what a session takes; more memory is never worse. */
        const double weights = (double)(7248023552 - 65 * 4096) * 2;
        if (d == 0) {
            ck_assert(uses[0].bytes > weights && uses[0].bytes < weights + 1.5 * (1 << 30));
            ck_assert(uses[1].bytes > 0.25 * weights && uses[1].bytes < 0.3 * weights + 1.5 * (1 << 30));
            ck_assert(!uses[0].sizes[1].fits && uses[0].sizes[2].fits && uses[1].sizes[0].fits);
        }
        pw_dev_close(dev);
    }
    ck_assert(between[1]);                             /* on the processor nothing is streamed, and 8 GB are not enough for all of them */
    pw_buf_free(&text);
    pw_arena_free(&arena);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("budget");
    TCase *c = tcase_create("plan");
    tcase_set_timeout(c, 240);
    tcase_add_test(c, limit);
    tcase_add_test(c, what_fits_is_the_plan);
    if (MEASURED)
        tcase_add_test(c, shapes);
    suite_add_tcase(s, c);
    return test_run(s);
}
