/* The memory plan against the bytes that a run takes from its device, over a table of bases, adapters, optimisers and objectives, on the emulated card and on the
 * processor: every pool and every scratch is counted as it is taken and given back, and the most that was held at once must be what the plan says, to the byte.
 * Pinned host memory is compared with run->fit.host_bytes. The process's own pages are test_budget.c's. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "kernels/backend.h"
#include "tests/support.h"
#include "train/run.h"

#define FIXTURES "tests/fixtures/train_golden"

/* ---- a backend that counts ------------------------------------------------------------------------------------------------ */

enum { PIECES = 256 };
struct counter { size_t now, most; struct { void *p; size_t bytes; } piece[PIECES]; };
static struct counter device, pinned;
static const struct pw_backend *counted;       /* whose functions do the work */

static void count_take(struct counter *c, void *p, size_t bytes)
{
    int i = 0;
    while (i < PIECES && c->piece[i].p)
        i++;
    ck_assert_int_lt(i, PIECES);
    c->piece[i].p = p;
    c->piece[i].bytes = pw_pool_round(bytes);
    c->now += pw_pool_round(bytes);
    c->most = c->now > c->most ? c->now : c->most;
}

static void count_give(struct counter *c, const void *p)
{
    for (int i = 0; p && i < PIECES; i++)
        if (c->piece[i].p == p) {
            c->now -= c->piece[i].bytes;
            c->piece[i].p = NULL;
            return;
        }
}

static int take(struct pw_dev *d, void **out, size_t bytes)
{
    PW_PASS(counted->take(d, out, bytes));
    return count_take(&device, *out, bytes), 0;
}
static void give(struct pw_dev *d, void *p) { count_give(&device, p), counted->give(d, p); }
static int take_pinned(struct pw_dev *d, void **out, size_t bytes)
{
    PW_PASS(counted->take_pinned(d, out, bytes));
    return count_take(&pinned, *out, bytes), 0;
}
static void give_pinned(struct pw_dev *d, void *p) { count_give(&pinned, p), counted->give_pinned(d, p); }

/* ---- the table -------------------------------------------------------------------------------------------------------------- */

enum base { DENSE, BF16, GGUF, GGUF_EXPERTS, FRESH };
enum rows { COMPLETION, PAIRS, LABELS };
enum on { BOTH, CARD };
struct run_case { const char *name; enum base base; enum rows rows; enum on on; const char *quant, *adapter, *data, *train; };

static const struct run_case cases[] = {
    {"dense f32, lora", DENSE, COMPLETION, BOTH, "none", "{r: 4}", "packing: true", "memory: as_given"},
    {"dense f32, everything kept", DENSE, COMPLETION, BOTH, "none", "{r: 4}", "packing: true", "memory: as_given, checkpointing: false"},
    {"dense f32, as many blocks as there is room for", DENSE, COMPLETION, CARD, "none", "{r: 4}", "packing: true", "memory: auto"},
    {"dense f32, no packing", DENSE, COMPLETION, BOTH, "none", "{r: 4}", "packing: false", "memory: as_given, batch_size: 3"},
    {"dense bf16, lora", BF16, COMPLETION, BOTH, "none", "{r: 4}", "packing: true", "memory: as_given"},
    {"nf4", DENSE, COMPLETION, BOTH, "{type: nf4}", "{r: 4, dropout: 0.1}", "packing: true", "memory: as_given"},
    {"nf4, double", DENSE, COMPLETION, BOTH, "{type: nf4, double_quant: true}", "{r: 4}", "packing: true", "memory: as_given"},
    {"int8, head in int8", DENSE, COMPLETION, BOTH, "{type: int8, head: int8}", "{r: 4}", "packing: true", "memory: as_given"},
    {"gguf", GGUF, COMPLETION, BOTH, "none", "{r: 4}", "packing: true", "memory: as_given"},
    {"gguf with experts", GGUF_EXPERTS, COMPLETION, BOTH, "none", "{r: 4}", "packing: true", "memory: as_given"},
    {"dora", DENSE, COMPLETION, BOTH, "none", "{kind: dora, r: 4}", "packing: true", "memory: as_given"},
    {"dora on nf4, everything kept", DENSE, COMPLETION, BOTH, "{type: nf4}", "{kind: dora, r: 4, dropout: 0.1}", "packing: true", "memory: as_given, checkpointing: false"},
    {"all weights", FRESH, COMPLETION, BOTH, "none", "{kind: full}", "packing: true", "memory: as_given"},
    {"all weights, everything kept", FRESH, COMPLETION, BOTH, "none", "{kind: full}", "packing: false", "memory: as_given, checkpointing: false, batch_size: 2"},
    {"adamw8", DENSE, COMPLETION, BOTH, "none", "{r: 64}", "packing: true", "optimizer: adamw8"},
    {"lion", DENSE, COMPLETION, BOTH, "none", "{r: 4}", "packing: true", "optimizer: lion"},
    {"sgd with norms trained", DENSE, COMPLETION, BOTH, "none", "{r: 4, modules_to_save: [norm]}", "packing: true", "optimizer: sgd"},
    {"state on the host", DENSE, COMPLETION, CARD, "none", "{r: 64}", "packing: true", "optimizer_state: host"},
    {"8-bit state on the host", DENSE, COMPLETION, CARD, "none", "{r: 64}", "packing: true", "optimizer: adamw8, optimizer_state: host"},
    {"least: embedding, state, inputs on the host", DENSE, COMPLETION, CARD, "{type: nf4}", "{r: 4}", "packing: true", "memory: least"},
    {"stream: layers too", DENSE, COMPLETION, CARD, "{type: nf4}", "{r: 4}", "packing: true", "memory: stream"},
    {"stream, dense", DENSE, COMPLETION, CARD, "none", "{r: 4}", "packing: true", "memory: stream"},
    {"pissa", DENSE, COMPLETION, BOTH, "none", "{r: 4, init: pissa}", "packing: true", "memory: as_given"},
    {"loftq", DENSE, COMPLETION, BOTH, "{type: nf4}", "{r: 4, init: loftq}", "packing: true", "memory: as_given"},
    {"evaluation and samples", DENSE, COMPLETION, BOTH, "none", "{r: 4}", "packing: true, eval: 0.2", "eval_every: 1, sample_every: 1, sample_tokens: 4, samples: %s"},
    {"dpo, reference by the adapter turned off", DENSE, PAIRS, BOTH, "none", "{r: 4}", "packing: true, format: preference", "objective: dpo"},
    {"dpo, all weights", FRESH, PAIRS, BOTH, "none", "{kind: full}", "packing: true, format: preference", "objective: dpo"},
    {"orpo", DENSE, PAIRS, BOTH, "none", "{r: 4}", "packing: false, format: preference", "objective: orpo, batch_size: 2"},
    {"kto", DENSE, LABELS, BOTH, "none", "{r: 4}", "packing: true, format: kto", "objective: kto, batch_size: 2"},
};

static char config[256], narrow[256], pairs[256], labels[256], samples[256];

static void write_text(const char *path, const char *text) { ck_ok(pw_file_write(path, text, strlen(text), true)); }

static void write_inputs(void)
{
    static const char shape[] = "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 64, \"num_hidden_layers\": 4, \"hidden_size\": 32, "
                                "\"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"intermediate_size\": 48, \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-5, "
                                "\"rope_theta\": 10000, \"tie_word_embeddings\": false, \"hidden_act\": \"silu\", \"bos_token_id\": 0, \"eos_token_id\": 1, \"initializer_range\": 0.1}\n";
    const char *dir = test_tmpdir();
    snprintf(config, sizeof config, "%s/config.json", dir);
    snprintf(samples, sizeof samples, "%s/samples.jsonl", dir);
    snprintf(pairs, sizeof pairs, "%s/pairs.jsonl", dir);
    snprintf(labels, sizeof labels, "%s/labels.jsonl", dir);
    write_text(config, shape);
    write_text(samples, "{\"prompt\": \"39+16=\"}\n{\"prompt\": \"turn ahda:\"}\n");
    write_text(pairs, "{\"prompt\":\"39+16=\",\"chosen\":\"55\",\"rejected\":\"56\"}\n{\"prompt\":\"turn ahda:\",\"chosen\":\" adha\",\"rejected\":\" ahad\"}\n"
                            "{\"prompt\":\"the sky is\",\"chosen\":\" blue\",\"rejected\":\" low and low\"}\n{\"prompt\":\"8+8=\",\"chosen\":\"16\",\"rejected\":\"17\"}\n");
    write_text(labels, "{\"prompt\":\"39+16=\",\"completion\":\"55\",\"label\":true}\n{\"prompt\":\"turn ahda:\",\"completion\":\" ahad\",\"label\":false}\n"
                             "{\"prompt\":\"the sky is\",\"completion\":\" blue and wide\",\"label\":true}\n{\"prompt\":\"8+8=\",\"completion\":\"17\",\"label\":false}\n");
}

/* What of a plan on the processor is taken elsewhere than from the device. */
static size_t of_device(const struct pw_run *run)
{
    static const char *const elsewhere[] = {"model file, mapped", "reference log-probabilities", "sums over ranks", "batch", "beginning the adapter", "saving a state", "writing the curves"};
    size_t sum = 0;
    for (int i = 0; i < run->budget.n; i++) {
        const struct pw_budget_item *item = &run->budget.items[i];
        bool counts = item->class != PW_BUDGET_PROCESS;
        for (size_t k = 0; run->opt.dev->host && k < sizeof elsewhere / sizeof *elsewhere; k++)
            counts &= strcmp(item->name, elsewhere[k]) != 0;
        sum += counts ? item->bytes : 0;
    }
    return sum;
}

struct seen { size_t planned, taken, host_planned, host_taken; };

static void measure(const char *kind, const struct run_case *c, struct seen *seen)
{
    const struct pw_dev_options options = {.kind = kind, .threads = 1};
    static const char *const models[] = {[GGUF] = "tests/fixtures/gguf/llama.gguf", [GGUF_EXPERTS] = "tests/fixtures/gguf/mixtral.gguf"};
    char model[512], more[512], text[2048];
    struct pw_backend backend;
    struct pw_dev *dev;
    struct pw_recipe recipe;
    struct pw_run run;
    struct pw_run_result result;
    if (c->base == FRESH)
        snprintf(model, sizeof model, "{fresh: %s, tokenizer: " FIXTURES "/model}", config);
    else
        snprintf(model, sizeof model, "{path: %s, tokenizer: " FIXTURES "/model}", c->base == DENSE ? FIXTURES "/model" : c->base == BF16 ? narrow : models[c->base]);
    snprintf(more, sizeof more, c->train, samples);
    snprintf(text, sizeof text, "model: %s\nquant: %s\nadapter: %s\ndata: {train: \"%s\", max_length: 12, %s}\ntrain: {steps: 1, accumulate: 1, save_every: 0, %s}\noutput: %s\n", model, c->quant,
             c->adapter, c->rows == PAIRS ? pairs : c->rows == LABELS ? labels : FIXTURES "/rows.jsonl", c->data, more, test_path(test_tmpdir(), "run"));
    ck_ok(pw_recipe_parse(&recipe, text, strlen(text), c->name, NULL, 0));
    ck_ok(pw_dev_open(&dev, &options));
    counted = dev->backend;
    backend = *counted;
    backend.take = take, backend.give = give, backend.take_pinned = take_pinned, backend.give_pinned = give_pinned;
    dev->backend = &backend;
    memset(&device, 0, sizeof device);
    memset(&pinned, 0, sizeof pinned);
    const struct pw_run_options opt = {.recipe = &recipe, .dev = dev};
    ck_ok(pw_run_open(&run, &opt));
    ck_assert_msg(device.now == 0 && device.most == 0, "%s, %s: %zu bytes were taken before the plan was accepted", kind, c->name, device.most);
    *seen = (struct seen){.planned = of_device(&run), .host_planned = dev->host ? 0 : run.fit.host_bytes};
    ck_ok(pw_run_train(&run, &result));
    seen->taken = device.most;
    seen->host_taken = pinned.most;
    pw_run_close(&run);
    pw_recipe_free(&recipe);
    dev->backend = counted;
    pw_dev_close(dev);
}

/* Dense in bf16: a fresh model, written so. */
static void write_narrow(void)
{
    const char *output = test_path(test_tmpdir(), "narrow");
    const struct pw_dev_options options = {.kind = "cpu", .threads = 2};
    char text[1024];
    struct pw_dev *dev;
    struct pw_recipe recipe;
    struct pw_run run;
    struct pw_run_result result;
    snprintf(text, sizeof text, "model: {fresh: %s, tokenizer: " FIXTURES "/model, dtype: bf16}\nadapter: {kind: full}\ndata: {train: " FIXTURES "/rows.jsonl, max_length: 12}\ntrain: {steps: 1}\noutput: %s\n",
             config, output);
    ck_ok(pw_recipe_parse(&recipe, text, strlen(text), "bf16", NULL, 0));
    ck_ok(pw_dev_open(&dev, &options));
    const struct pw_run_options opt = {.recipe = &recipe, .dev = dev};
    ck_ok(pw_run_open(&run, &opt));
    ck_ok(pw_run_train(&run, &result));
    pw_run_close(&run);
    pw_dev_close(dev);
    pw_recipe_free(&recipe);
    snprintf(narrow, sizeof narrow, "%s/model", output);
}

START_TEST(taken_is_planned)
{
    const char *const kinds[] = {test_card(), "cpu"};
    const size_t n = sizeof cases / sizeof *cases;
    size_t largest = 0;
    struct pw_dev *dev;
    int wrong = 0;
    if (!test_open_card(&dev, "")) return;
    pw_dev_close(dev);
    write_inputs();
    write_narrow();
    for (int k = 0; k < 2; k++)
        for (size_t i = 0; i < n; i++) {
            struct seen s;
            if (k == 1 && cases[i].on == CARD)
                continue;
            measure(kinds[k], &cases[i], &s);
            const bool good = s.taken == s.planned && s.host_taken == s.host_planned;
            if (!good || getenv("PW_VERBOSE"))
                printf("%s, %s: planned %zu, taken %zu; of the host planned %zu, taken %zu\n", kinds[k], cases[i].name, s.planned, s.taken, s.host_planned, s.host_taken);
            wrong += !good;
            largest = s.taken > largest ? s.taken : largest;
        }
    printf("%zu runs on %s and cpu, up to %zu bytes: %d took another number than was planned\n", n, kinds[0], largest, wrong);
    ck_assert_msg(wrong == 0, "%d runs took other bytes than were planned", wrong);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("plan_bytes");
    TCase *c = tcase_create("device");
    tcase_set_timeout(c, 240);
    tcase_add_test(c, taken_is_planned);
    suite_add_tcase(s, c);
    return test_run(s);
}
