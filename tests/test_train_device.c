/* Training and inference through a device whose memory is not the host's: the real CUDA kernels on the processor (simt), against the cpu backend.
 *
 * Bounds. Activations are rounded to bf16 (u16 = 2^-8 relative) some 14 times a block and 4 times besides; rounding errors are independent of one another,
 * so a hidden vector errs by about sqrt(14 L + 4) u16 / sqrt(3) of its length in a random direction, and a logit h . w by that share of |w|. A loss
 * moves by at most twice the largest logit's error; six of these standard deviations are allowed (the steps before add little: the updates
 * themselves are f32). */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "infer/session.h"
#include "lora/peft.h"
#include "tests/support.h"
#include "train/run.h"
#include "train/runlog.h"

#define FIXTURES "tests/fixtures/train_golden"
enum { STEPS = 10, LAYERS = 2, D = 24, V = 64 };

/* Six standard deviations of a logit, from the longest row of the head (norms of the model are near 1). */
static double logit_bound(const struct pw_model *host_model)
{
    const float *w = host_model->head.data;
    double longest = 0;
    for (int v = 0; v < V; v++) {
        double sum = 0;
        for (int i = 0; i < D; i++) sum += (double)w[v * D + i] * w[v * D + i];
        longest = fmax(longest, sqrt(sum));
    }
    return 6 * sqrt((14 * LAYERS + 4) / 3.0) * 0x1p-8 * longest; /* |h . e| with e of random direction is |h| |w| / sqrt(D), and |h| = sqrt(D) */
}

enum { TENSORS = 2 * 7 * LAYERS };   /* A and B of every linear layer */
struct gradients { struct { const char *name; size_t n; float *data; } of[TENSORS]; };

/* What the last step had added up. */
static void keep_gradients(const struct pw_run *run, struct gradients *g, struct pw_arena *a)
{
    const struct pw_trainer *t = &run->trainer;
    ck_assert_uint_eq(t->n_slots, TENSORS);
    for (size_t i = 0; i < TENSORS; i++) {
        g->of[i].name = pw_arena_printf(a, "%s", t->slots[i].name);
        g->of[i].n = (size_t)pw_count(t->slots[i].grad);
        g->of[i].data = pw_arena_alloc(a, g->of[i].n * sizeof(float));
        ck_ok(pw_dev_get(run->opt.dev, g->of[i].data, t->slots[i].grad.data, g->of[i].n * sizeof(float)));
    }
}

static void train(const char *device, const char *quant, const char *more, int steps, const char *output, struct pw_log_line *lines, struct gradients *g, struct pw_arena *a)
{
    char text[2048];
    struct pw_recipe recipe;
    struct pw_run run;
    struct pw_run_result result;
    struct pw_dev *dev = NULL;
    const struct pw_dev_options options = {.kind = device, .threads = 2};
    struct pw_log_line *read = NULL;
    size_t n = 0;
    snprintf(text, sizeof text,
             "model: %s\nquant: %s\nadapter: {r: 4, alpha: 8, dropout: 0.1, targets: all-linear, init_from: %s}\n"
             "data: {train: %s, format: completion, max_length: 40, packing: true, shuffle: true}\n"
             "train: {steps: %d, batch_size: 1, accumulate: 2, lr: 1.0e-2, warmup: 0, schedule: constant, save_every: 5, eval_every: 0%s}\noutput: %s\n",
             FIXTURES "/model", quant, FIXTURES "/adapter_init", FIXTURES "/rows.jsonl", steps, more, output);
    ck_ok(pw_recipe_parse(&recipe, text, strlen(text), "device", NULL, 0));
    ck_ok(pw_dev_open(&dev, &options));
    const struct pw_run_options opt = {.recipe = &recipe, .dev = dev};
    ck_ok(pw_run_open(&run, &opt));
    ck_ok(pw_run_train(&run, &result));
    /* The plan of a device is exact: what it says is in use after a step is within 2 % of it. */
    if (!dev->host)
        ck_assert_msg(result.peak_bytes > 50000 && fabs((double)result.planned_bytes - (double)result.peak_bytes) <= 0.02 * (double)result.peak_bytes, "planned %llu bytes, in use %llu",
                      (unsigned long long)result.planned_bytes, (unsigned long long)result.peak_bytes);
    ck_ok(pw_runlog_read(a, test_path(output, "log.jsonl"), &read, &n));
    ck_assert_uint_eq(n, (size_t)steps);
    if (g)
        keep_gradients(&run, g, a);
    memcpy(lines, read, n * sizeof *lines);
    pw_run_close(&run);
    pw_dev_close(dev);
    pw_recipe_free(&recipe);
}

static double bound_of_model(void)
{
    struct pw_dev *dev;
    struct pw_model *m;
    ck_ok(pw_dev_open(&dev, NULL));
    ck_ok(pw_model_load(&m, dev, FIXTURES "/model", NULL));
    double bound = logit_bound(m);
    pw_model_free(m);
    pw_dev_close(dev);
    return bound;
}

static void learns_as_the_processor_does(const char *quant)
{
    struct pw_dev *dev;
    struct pw_arena a;
    struct pw_log_line there[STEPS], here[STEPS];
    double worst = 0, bound = 2 * bound_of_model();
    if (!test_open_card(&dev, "")) return;
    pw_dev_close(dev);
    pw_arena_init(&a);
    train(test_card(), quant, "", STEPS, test_path(test_tmpdir(), "simt"), there, NULL, &a);
    train("cpu", quant, "", STEPS, test_path(test_tmpdir(), "cpu"), here, NULL, &a);
    for (int i = 0; i < STEPS; i++) {
        ck_assert_int_eq(there[i].s.trained_tokens, here[i].s.trained_tokens);
        ck_close(there[i].s.loss, here[i].s.loss, bound, 0);
        ck_close(there[i].s.grad_norm, here[i].s.grad_norm, 0, 0.25);
        worst = fmax(worst, fabs(there[i].s.loss - here[i].s.loss));
    }
    printf("%s: %d steps on simt and cpu: losses %.4f to %.4f, largest difference %.3g (bound %.3g)\n", quant, STEPS, here[0].s.loss, here[STEPS - 1].s.loss, worst, bound);
    ck_assert_msg(here[0].s.loss - here[STEPS - 1].s.loss > 4 * bound, "the run does not learn enough to tell");
    pw_arena_free(&a);
}
START_TEST(dense) { learns_as_the_processor_does("none"); }
END_TEST
START_TEST(nf4) { learns_as_the_processor_does("{type: nf4, double_quant: true}"); }
END_TEST

/* The gradients of one step, each tensor by itself: losses over ten steps hardly feel one that is missing. A gradient is made of what forward rounded and of what
 * backward rounds as often again, so it errs by sqrt(2 (14 L + 4)) u16 / sqrt(3) of its length; the length of an error scatters less than one number does: four of these. */
START_TEST(gradients_as_the_processor_has_them)
{
    const double bound = 4 * sqrt(2 * (14 * LAYERS + 4) / 3.0) * 0x1p-8;
    static const char *const quants[] = {"none", "{type: nf4, double_quant: true}"};
    struct pw_dev *dev;
    struct pw_arena a;
    struct pw_log_line line;
    static struct gradients there, here;
    if (!test_open_card(&dev, "")) return;
    pw_dev_close(dev);
    for (int q = 0; q < 2; q++) {
        double worst = 0;
        pw_arena_init(&a);
        train(test_card(), quants[q], "", 1, test_path(test_tmpdir(), "card"), &line, &there, &a);
        train("cpu", quants[q], "", 1, test_path(test_tmpdir(), "host"), &line, &here, &a);
        for (int i = 0; i < TENSORS; i++) {
            double off = 0, size = 0;
            ck_assert_uint_eq(there.of[i].n, here.of[i].n);
            for (size_t k = 0; k < here.of[i].n; k++) {
                const double d = (double)there.of[i].data[k] - (double)here.of[i].data[k];
                off += d * d;
                size += (double)here.of[i].data[k] * (double)here.of[i].data[k];
            }
            ck_assert_msg(size > 0 && test_close(sqrt(off), 0, bound * sqrt(size), 0), "%s: the gradient of %s is off by %.3g of its length %.3g, allowed %.3g", quants[q], here.of[i].name,
                          sqrt(off / size), sqrt(size), bound);
            worst = fmax(worst, sqrt(off / size));
        }
        printf("%s: gradients of step 1 on simt and cpu: largest difference %.3g of a tensor's length (bound %.3g)\n", quants[q], worst, bound);
        pw_arena_free(&a);
    }
}
END_TEST

/* Twice, everything kept, and with block inputs, embedding and state of the optimizer in host memory: the same bytes. */
START_TEST(the_same_bytes)
{
    static const char *const more[] = {", memory: as_given", ", memory: as_given, checkpointing: false", ", memory: least", ", memory: auto"};
    struct pw_dev *dev;
    struct pw_arena a;
    struct pw_log_line lines[STEPS];
    const char *first = NULL;
    if (!test_open_card(&dev, "")) return;
    pw_dev_close(dev);
    pw_arena_init(&a);
    for (size_t i = 0; i < sizeof more / sizeof more[0]; i++) {
        const char *out = test_path(test_tmpdir(), "run");
        train(test_card(), "nf4", more[i], STEPS, out, lines, NULL, &a);
        const char *file = test_path(test_path(out, "adapter"), "adapter_model.safetensors");
        if (first) test_same_file(first, file);
        else first = file;
    }
    pw_arena_free(&a);
}
END_TEST

/* Five blocks, so that inputs take turns on the two lanes: all weights trained, one step, everything kept against inputs that wait on the host. */
START_TEST(inputs_wait_on_the_host)
{
    static const char *const more[] = {"checkpointing: false, memory: as_given", "memory: as_given", "memory: least"};
    const char *config = test_path(test_tmpdir(), "config.json"), *first = NULL;
    static const char shape[] = "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 64, \"num_hidden_layers\": 5, \"hidden_size\": 16, "
                                "\"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"intermediate_size\": 24, \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-5, "
                                "\"rope_theta\": 10000, \"tie_word_embeddings\": true, \"hidden_act\": \"silu\", \"bos_token_id\": 0, \"eos_token_id\": 1, \"initializer_range\": 0.1}\n";
    struct pw_dev *dev;
    if (!test_open_card(&dev, "")) return;
    ck_ok(pw_file_write(config, shape, sizeof shape - 1, false));
    for (int i = 0; i < 3; i++) {
        char text[1024];
        const char *out = test_path(test_tmpdir(), "run");
        struct pw_recipe recipe;
        struct pw_run run;
        struct pw_run_result result;
        snprintf(text, sizeof text,
                 "model: {fresh: %s, tokenizer: %s}\nadapter: {kind: full}\ndata: {train: %s, format: completion, max_length: 40}\n"
                 "train: {steps: 1, batch_size: 1, accumulate: 1, lr: 1.0e-2, warmup: 0, save_every: 0, eval_every: 0, %s}\noutput: %s\n",
                 config, FIXTURES "/model", FIXTURES "/rows.jsonl", more[i], out);
        ck_ok(pw_recipe_parse(&recipe, text, strlen(text), "device", NULL, 0));
        const struct pw_run_options opt = {.recipe = &recipe, .dev = dev};
        ck_ok(pw_run_open(&run, &opt));
        ck_assert_int_eq(run.trainer.shape.kept, i == 0 ? 5 : 1);
        ck_assert_int_eq(run.fit.offload, i == 2);
        ck_ok(pw_run_train(&run, &result));
        pw_run_close(&run);
        pw_recipe_free(&recipe);
        const char *file = test_path(test_path(out, "model"), "model.safetensors");
        if (first) test_same_file(first, file);
        else first = file;
    }
    pw_dev_close(dev);
}
END_TEST

/* ---- inference ---- */

static const int32_t IDS[] = {1, 17, 4, 33, 60, 9, 9, 2, 41, 28, 5, 63, 11, 30, 7, 52, 3, 19, 8, 44};
enum { N = 20, PREFIX = 7 };

static void logprobs_of(struct pw_dev *dev, bool cached, float *out)
{
    struct pw_model *m;
    struct pw_session *s;
    int32_t targets[N], best[N];
    float row[V];
    ck_ok(pw_model_load(&m, dev, FIXTURES "/model", NULL));
    ck_ok(pw_session_open(&s, m, 3 * N, N, 4));
    for (int i = 0; i < N; i++) targets[i] = i + 1 < N ? IDS[i + 1] : -1;
    if (cached) {
        int prefix = pw_session_add(s, PREFIX, -1);
        ck_ok(pw_session_feed(s, &(struct pw_feed){prefix, IDS, PREFIX}, 1));
        ck_ok(pw_session_logprobs(s, targets, out, best));
        int rest = pw_session_add(s, N - PREFIX, prefix);
        for (int i = PREFIX; i < N; i++) {
            ck_ok(pw_session_feed(s, &(struct pw_feed){rest, IDS + i, 1}, 1));
            ck_ok(pw_session_logprobs(s, targets + i, out + i, best + i));
        }
    } else {
        int seq = pw_session_add(s, N, -1);
        ck_ok(pw_session_feed(s, &(struct pw_feed){seq, IDS, N}, 1));
        ck_ok(pw_session_logprobs(s, targets, out, best));
    }
    /* the arg max of the last pass is where the largest logit is */
    int32_t last = cached ? 0 : N - 2;
    ck_ok(pw_session_logits(s, &last, 1, row));
    int top = 0;
    for (int v = 1; v < V; v++) top = row[v] > row[top] ? v : top;
    if (!cached) ck_assert_int_eq(top, best[N - 2]);
    pw_session_close(s);
    pw_model_free(m);
}

START_TEST(scores_as_the_processor_does)
{
    struct pw_dev *dev, *cpu;
    float there[N], piecewise[N], here[N];
    double worst = 0, bound = 2 * bound_of_model();
    if (!test_open_card(&dev, "random:3")) return;
    ck_ok(pw_dev_open(&cpu, NULL));
    logprobs_of(dev, false, there);
    logprobs_of(dev, true, piecewise);
    logprobs_of(cpu, false, here);
    for (int i = 0; i + 1 < N; i++) {
        ck_close(there[i], here[i], bound, 0);
        ck_close(piecewise[i], here[i], bound, 0);
        worst = fmax(worst, fabs((double)there[i] - here[i]));
    }
    printf("log-probabilities on simt and cpu: largest difference %.3g (bound %.3g)\n", worst, bound);
    pw_dev_close(cpu);
    pw_dev_close(dev);
}
END_TEST

/* What a kernel finds wrong comes back as an error that names it, and the device goes on. */
START_TEST(ids_out_of_range)
{
    struct pw_dev *dev;
    struct pw_pool pool;
    int32_t id[3] = {0, 9, 2};
    uint16_t table[4 * 8] = {0}, out[3 * 8];
    if (!test_open_card(&dev, "")) return;
    ck_ok(pw_pool_open(&pool, dev, 4096, "test"));
    void *t = pw_pool_take(&pool, sizeof table), *o = pw_pool_take(&pool, sizeof out), *i = pw_pool_take(&pool, sizeof id);
    ck_ok(pw_dev_put(dev, t, table, sizeof table));
    ck_ok(pw_dev_put(dev, i, id, sizeof id));
    const struct pw_weight rows = pw_weight_dense(pw_tensor2(t, PW_BF16, 4, 8));
    ck_ok(pw_embed_fwd(dev, pw_tensor2(o, PW_BF16, 3, 8), &rows, pw_tensor1(i, PW_I32, 3)));
    ck_fails(pw_dev_get(dev, out, o, sizeof out), PW_E_FAIL, "embed: ids[1]: expected 0 to 3, got 9");
    ck_ok(pw_dev_get(dev, out, o, sizeof out));
    pw_pool_close(&pool);
    pw_dev_close(dev);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("train_device");
    TCase *t = tcase_create("simt");
    tcase_set_timeout(t, 300);
    tcase_add_test(t, ids_out_of_range);
    tcase_add_test(t, gradients_as_the_processor_has_them);
    tcase_add_test(t, scores_as_the_processor_does);
    tcase_add_test(t, dense);
    tcase_add_test(t, nf4);
    tcase_add_test(t, the_same_bytes);
    tcase_add_test(t, inputs_wait_on_the_host);
    suite_add_tcase(s, t);
    return test_run(s);
}
