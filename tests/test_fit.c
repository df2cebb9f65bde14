/* What train.memory: auto chooses under a limit, over a table of recipes and every limit that matters, against all settings there are: one after the other is planned, and of those that fit into
 * a limit the chosen one must be the fastest by the order that train/fit.c states. Nothing is loaded: the models are shapes alone, the rows are imagined. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "tests/shape_model.h"
#include "tests/support.h"
#include "train/run_parts.h"

enum { LAYERS = 6, SETTINGS = LAYERS * 8 * LAYERS, LIMITS = 64 };

static const struct { const char *name; bool tied; int64_t tokens; const char *quant, *adapter, *data, *train; } cases[] = {
    {"nf4, rank 16", false, 2048, "{type: nf4, double_quant: true}", "{r: 16}", "packing: true", "batch_size: 1"},
    {"few tokens", false, 64, "{type: nf4}", "{r: 16}", "packing: true", "batch_size: 1"},
    {"as stored, passes of four rows", false, 512, "none", "{r: 16}", "packing: true", "batch_size: 4, accumulate: 8"},
    {"rows apart", false, 300, "{type: nf4}", "{r: 8}", "packing: false", "batch_size: 3"},
    {"large adapter", false, 128, "{type: nf4}", "{r: 256}", "packing: true", "accumulate: 1"},
    {"large adapter, steps of many passes", false, 128, "{type: nf4}", "{r: 256}", "packing: true", "accumulate: 64"},
    {"8-bit optimizer", false, 512, "{type: nf4}", "{r: 128}", "packing: true", "optimizer: adamw8, batch_size: 2"},
    {"state on the device", false, 512, "{type: nf4}", "{r: 64}", "packing: true", "optimizer_state: device"},
    {"state on the host", false, 512, "{type: nf4}", "{r: 64}", "packing: true", "optimizer_state: host"},
    {"embedding and head are one", true, 512, "{type: nf4}", "{r: 16}", "packing: true", "batch_size: 1"},
    {"embedding and head are one, head in int8", true, 512, "{type: nf4, head: int8}", "{r: 16}", "packing: true", "batch_size: 1"},
    {"everything kept", false, 512, "{type: nf4}", "{r: 16}", "packing: true", "checkpointing: false"},
    {"dora", false, 512, "{type: nf4}", "{kind: dora, r: 16, dropout: 0.1}", "packing: true", "batch_size: 1"},
    {"dpo", false, 256, "{type: nf4}", "{r: 16}", "packing: true", "objective: dpo, batch_size: 2"},
    {"kto", false, 256, "none", "{r: 16}", "packing: false", "objective: kto, batch_size: 4"},
    {"all weights", false, 256, "none", "{kind: full}", "packing: true", "batch_size: 1"},
};

static const char *model_of(bool tied)
{
    char config[1024];
    struct pw_model_config c;
    const char *dir = test_path(test_tmpdir(), "shape");
    snprintf(config, sizeof config, "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"vocab_size\":8192,\"num_hidden_layers\":%d,\"hidden_size\":1024,\"num_attention_heads\":16,"
             "\"num_key_value_heads\":4,\"intermediate_size\":2816,\"max_position_embeddings\":4096,\"rms_norm_eps\":1e-5,\"rope_theta\":10000,\"tie_word_embeddings\":%s}", LAYERS, tied ? "true" : "false");
    shape_model_write(dir, config, &c);
    return dir;
}

struct setting { struct pw_run_fit f; size_t peak; double cost; };

static void open_case(size_t i, const char *model, const char *kind, struct pw_recipe *r, struct pw_dev **dev, struct pw_run *run)
{
    const struct pw_dev_options options = {.kind = kind, .threads = 1, .level = getenv("PW_CPU")};
    struct pw_buf text = {0};
    ck_ok(pw_dev_open(dev, &options));
    pw_buf_printf(&text, "model: \"%s\"\nquant: %s\nadapter: %s\ndata: {train: none, max_length: %lld, %s}\ntrain: {compute: %s, %s}\noutput: nowhere\n", model, cases[i].quant, cases[i].adapter,
                  (long long)cases[i].tokens, cases[i].data, (*dev)->host && (*dev)->products == PW_BF16 ? "bf16" : "f32", cases[i].train);
    ck_ok(pw_recipe_parse(r, text.data, text.len, cases[i].name, NULL, 0));
    pw_buf_free(&text);
    const struct pw_run_options opt = {.recipe = r, .dev = *dev, .imagined = cases[i].tokens, .memory = 1};
    ck_ok(pw_run_open(run, &opt));
    ck_assert_int_eq(run->trainer.shape.tokens, cases[i].tokens * r->batch_size * pw_dataset_per(run->train));
}

static void close_case(struct pw_recipe *r, struct pw_dev *dev, struct pw_run *run)
{
    pw_run_close(run);
    pw_dev_close(dev);
    pw_recipe_free(r);
}

/* All settings that the recipe leaves open, with what each takes. */
static size_t all_settings(struct pw_run *run, bool tied, struct setting *out)
{
    const struct pw_recipe *r = run->opt.recipe;
    const bool card = !run->opt.dev->host, full = strcmp(r->kind, "full") == 0, host = strcmp(r->optimizer_state, "host") == 0, device = strcmp(r->optimizer_state, "device") == 0;
    const bool embed_may = card && !full && (!tied || strcmp(r->quant_head, "none") != 0);
    size_t n = 0;
    for (int stream = 0; stream <= (card && !full ? LAYERS : 0); stream++)
        for (int bits = 0; bits < 8; bits++)
            for (int kept = r->checkpointing ? 1 : LAYERS; kept <= LAYERS; kept++) {
                struct pw_run_fit f = {.kept = kept, .embed_host = bits & 1, .optim_host = bits & 2, .offload = bits & 4, .stream = stream};
                if ((stream > 0 && stream <= 2) || (f.embed_host && !embed_may) || (f.optim_host ? !card || device : host && card) || (f.offload && (!card || !r->checkpointing)))
                    continue;
                ck_assert_uint_lt(n, SETTINGS);
                ck_ok(pw_run_try_fit(run, &f));
                out[n++] = (struct setting){run->fit, pw_budget_peak(&run->budget), pw_run_fit_cost(run)};
            }
    return n;
}

/* The order of speed: the fewer streamed blocks, the faster; then what the estimate says. */
static bool slower(const struct setting *a, const struct setting *b)
{
    return a->f.stream != b->f.stream ? a->f.stream > b->f.stream : a->cost > b->cost;
}

static int by_bytes(const void *a, const void *b)
{
    const size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x > y) - (x < y);
}

static struct setting choose(struct pw_run *run, size_t limit)
{
    run->opt.memory = limit;
    ck_ok(pw_run_choose_fit(run));
    return (struct setting){run->fit, pw_budget_peak(&run->budget), pw_run_fit_cost(run)};
}

static bool same(const struct setting *a, const struct setting *b)
{
    return a->peak == b->peak && a->f.kept == b->f.kept && a->f.stream == b->f.stream && a->f.embed_host == b->f.embed_host && a->f.optim_host == b->f.optim_host && a->f.offload == b->f.offload;
}

/* At every peak of every setting, one byte below and halfway to the next: what fits is chosen, nothing that fits is faster, more memory is never slower, and between two peaks nothing changes. */
static int sweep(const char *name, struct pw_run *run, bool tied, const char **wrong)
{
    static struct setting all[SETTINGS];
    static size_t at[SETTINGS];
    const size_t n = all_settings(run, tied, all);
    struct setting before = {0};
    size_t least = SIZE_MAX;
    int distinct = 0;
    for (size_t i = 0; i < n; i++) {
        at[i] = all[i].peak;
        least = at[i] < least ? at[i] : least;
    }
    qsort(at, n, sizeof *at, by_bytes);
    *wrong = NULL;
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && at[i] == at[i - 1])
            continue;
        const struct setting below = choose(run, at[i] - 1);
        if (i == 0) {
            if (pw_run_fits(run) || below.peak != least)
                *wrong = "below the least: something fits, or another number than the least is planned";
            char told[64];
            snprintf(told, sizeof told, "--memory %zu is the least", least);
            ck_fails(pw_run_accept(run), PW_E_REFUSED, "does not fit");
            ck_assert_msg(pw_error_hint_text() && strstr(pw_error_hint_text(), told), "%s", pw_error_hint_text());
        } else if (!same(&below, &before))
            *wrong = "one byte below a peak, another setting than at the peak before";
        const struct setting now = choose(run, at[i]);
        if (!pw_run_fits(run) || now.peak > at[i])
            *wrong = "the chosen setting does not fit";
        if (i > 0 && slower(&now, &before))
            *wrong = "more memory, and a slower setting";
        for (size_t k = 0; k < n; k++)
            if (all[k].peak <= at[i] && slower(&now, &all[k]))
                *wrong = "a faster setting would fit";
        if (i + 1 < n && at[i + 1] > at[i] + 1) {
            const struct setting between = choose(run, at[i] + (at[i + 1] - at[i]) / 2);
            if (!same(&between, &now))
                *wrong = "between two peaks, another setting than at the lower";
        }
        distinct += i == 0 || !same(&now, &before);
        before = now;
        if (*wrong) {
            printf("%s: at %zu bytes: %s: kept %d, stream %d, embedding %d, optimizer %d, inputs %d\n", name, at[i], *wrong, now.f.kept, now.f.stream, now.f.embed_host, now.f.optim_host, now.f.offload);
            return distinct;
        }
    }
    const struct setting most = choose(run, at[n - 1] * 2);
    if (most.f.kept != LAYERS || most.f.stream || most.f.embed_host || most.f.offload || (most.f.optim_host && strcmp(run->opt.recipe->optimizer_state, "host") != 0))
        *wrong = "with room for everything something waits";
    return distinct;
}

START_TEST(fastest_that_fits)
{
    const char *models[2] = {model_of(false), model_of(true)};
    int bad = 0, all = 0;
    struct pw_dev *there;
    if (!test_open_card(&there, "")) return;
    pw_dev_close(there);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *wrong;
        struct pw_recipe r;
        struct pw_run run;
        struct pw_dev *dev;
        open_case(i, models[cases[i].tied], "simt", &r, &dev, &run);
        const int n = sweep(cases[i].name, &run, cases[i].tied, &wrong);
        if (wrong || getenv("PW_VERBOSE"))
            printf("%-42s %3d settings chosen: %s\n", cases[i].name, n, wrong ? wrong : "good");
        bad += wrong != NULL;
        all += n;
        close_case(&r, dev, &run);
    }
    printf("%zu recipes, %d settings chosen over their limits, %d wrong\n", sizeof cases / sizeof *cases, all, bad);
    ck_assert_int_eq(bad, 0);
}
END_TEST

/* On the processor nothing waits and blocks alone are chosen; the program's own pages, which are part of the plan, may come and go by a little while it is made. */
START_TEST(on_the_processor)
{
    enum { STEP = 1 << 20 };
    const char *model = model_of(false);
    bool good = true;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i += 4) {
        struct pw_recipe r;
        struct pw_run run;
        struct pw_dev *dev;
        open_case(i, model, "cpu", &r, &dev, &run);
        static struct setting all[SETTINGS];
        const size_t n = all_settings(&run, cases[i].tied, all);
        int kept = 0;
        for (size_t k = 0; k < n; k++) {
            const struct setting at = choose(&run, all[k].peak + 4 * STEP);
            good &= pw_run_fits(&run) && at.peak <= all[k].peak + 4 * STEP && at.f.kept >= all[k].f.kept && at.f.kept >= kept && !at.f.stream && !at.f.embed_host;
            kept = at.f.kept;
        }
        choose(&run, all[0].peak - 4 * STEP);
        good &= !pw_run_fits(&run) && run.fit.kept == all[0].f.kept;
        close_case(&r, dev, &run);
        ck_assert_msg(good, "%s", cases[i].name);
    }
}
END_TEST

/* What the project is for, as numbers: a 7B model (Mistral's shape, NF4 with nested scales, rank 16 on all linears, one row, blocks computed again, nothing waiting in host memory) in 5.5 GiB at
 * 2048 tokens and 7.5 GiB at 8192, driver and libraries aside; Mixtral 8x7B on a card of 24 GB (22.35 GiB), with the fewest streamed layers that will do. */
static size_t plan_of(const char *model, int64_t tokens, const char *memory, size_t limit, struct pw_run_fit *fit, bool *fits)
{
    char text[1024];
    struct pw_dev *dev;
    struct pw_recipe r;
    struct pw_run run;
    const struct pw_dev_options options = {.kind = "simt", .threads = 1};
    ck_ok(pw_dev_open(&dev, &options));
    snprintf(text, sizeof text, "model: \"%s\"\nquant: {type: nf4, double_quant: true}\nadapter: {r: 16, targets: all-linear}\ndata: {train: none, max_length: %lld}\ntrain: {memory: %s}\noutput: nowhere\n", model,
             (long long)tokens, memory);
    ck_ok(pw_recipe_parse(&r, text, strlen(text), "goals", NULL, 0));
    const struct pw_run_options opt = {.recipe = &r, .dev = dev, .imagined = tokens, .memory = limit};
    ck_ok(pw_run_open(&run, &opt));
    ck_assert_int_eq(run.trainer.shape.tokens, tokens);
    const size_t peak = pw_budget_peak(&run.budget);
    *fit = run.fit;
    *fits = pw_run_fits(&run);
    close_case(&r, dev, &run);
    return peak;
}

START_TEST(goals)
{
    static const struct { int64_t tokens; double most; } seven[] = {{2048, 5.5}, {8192, 7.5}};
    static const char shape[] = "{\"architectures\":[\"%s\"],\"model_type\":\"%s\",\"vocab_size\":%d,\"num_hidden_layers\":32,\"hidden_size\":4096,\"num_attention_heads\":32,"
        "\"num_key_value_heads\":8,\"intermediate_size\":14336,\"max_position_embeddings\":32768,\"rms_norm_eps\":1e-5,\"rope_theta\":1e6,\"sliding_window\":null,\"tie_word_embeddings\":false%s}";
    const size_t card = 24 * (size_t)1000000000;
    char config[1024];
    struct pw_model_config c;
    struct pw_run_fit fit, more;
    struct pw_dev *there;
    bool fits;
    if (!test_open_card(&there, "")) return;
    pw_dev_close(there);
    const char *mistral = test_path(test_tmpdir(), "mistral"), *mixtral = test_path(test_tmpdir(), "mixtral");
    snprintf(config, sizeof config, shape, "MistralForCausalLM", "mistral", 32768, "");
    shape_model_write(mistral, config, &c);
    ck_assert_int_eq(c.parameters, 7248023552);
    for (int i = 0; i < 2; i++) {
        const double gib = (double)plan_of(mistral, seven[i].tokens, "as_given", 0, &fit, &fits) / (1 << 30);
        printf("7B, %d tokens: %.3f GiB\n", (int)seven[i].tokens, gib);
        ck_assert_msg(gib <= seven[i].most, "%d tokens of a 7B model: planned %.3f GiB, the goal is %.1f", (int)seven[i].tokens, gib, seven[i].most);
        ck_assert(fit.kept == 1 && fit.host_bytes == 0);
    }
    if (pw_memory_available() < (size_t)10 << 30) {
        test_skip("8x7B: layers that wait want 7 GiB of host memory");
        return;
    }
    snprintf(config, sizeof config, shape, "MixtralForCausalLM", "mixtral", 32000, ",\"num_local_experts\":8,\"num_experts_per_tok\":2");
    shape_model_write(mixtral, config, &c);
    ck_assert_int_eq(c.parameters, 46702792704);
    const size_t peak = plan_of(mixtral, 2048, "auto", card, &fit, &fits);
    printf("8x7B, 2048 tokens on 24 GB: %.3f GiB, %d layers wait, %.3f GiB of host memory\n", (double)peak / (1 << 30), fit.stream, (double)fit.host_bytes / (1 << 30));
    ck_assert(fits && peak <= card && fit.stream > 0 && fit.stream < 16);
    plan_of(mixtral, 2048, "auto", card + card / 20, &more, &fits);
    ck_assert(fits && more.stream < fit.stream);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("fit");
    TCase *c = tcase_create("sweep");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, fastest_that_fits);
    tcase_add_test(c, on_the_processor);
    tcase_add_test(c, goals);
    suite_add_tcase(s, c);
    return test_run(s);
}
