/* pw bench: tokens a second for prefill, decode and training, each with its share of what the machine itself can do, measured in the
 * same run; on a device also its memory beside the plan. Options, models and output here; the measurements: tools/bench.c. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/rng.h"
#include "tools/bench.h"
#include "tools/load.h"

struct options { const char *prompt, *batch, *train; int64_t gen, repeat; bool checkpointing; };
#define AT(field) offsetof(struct options, field)
static const struct pw_option table[] = {
    {"prompt", 0, PW_OPT_STRING, AT(prompt), "N,...", NULL, "512", 0, 0, "tokens of a prompt; of several, the first is the prompt of decoding; 0: none"},
    {"gen", 0, PW_OPT_INT, AT(gen), "N", NULL, "128", 1, 1e7, "tokens to generate"},
    {"batch", 0, PW_OPT_STRING, AT(batch), "N,...", NULL, "1", 0, 0, "sequences that are generated at once; 0: no decoding"},
    {"train", 0, PW_OPT_STRING, AT(train), "[Bx]N,...", NULL, "512", 0, 0, "tokens of the row that is trained on, or of each of B rows; 0: no training"},
    {"checkpointing", 0, PW_OPT_FLAG, AT(checkpointing), NULL, NULL, NULL, 0, 0, "training keeps the inputs of blocks alone and computes the rest again"},
    {"repeat", 0, PW_OPT_INT, AT(repeat), "N", NULL, "3", 1, 100, "runs of each measurement; the fastest counts"},
    PW_OPTIONS_END,
};

/* ---- lists of sizes ------------------------------------------------------------------------------------------------- */

/* "512,4x2048": rows of 512 once, and of 2048 four times. `rows`: may "Bx" be said? The single number 0 is an empty list. */
static int read_list(const char *name, const char *text, bool rows, int64_t most, struct pw_bench_run *list, int *n)
{
    const char *at = text;
    *n = 0;
    if (strcmp(text, "0") == 0)
        return 0;
    do {
        char word[48];
        const size_t length = strcspn(at, ",");
        int64_t b = 1, tokens = 0;
        PW_CHECK(*n < PW_BENCH_MOST, PW_E_USAGE, "--%s: at most %d sizes, got \"%s\"", name, PW_BENCH_MOST, text);
        snprintf(word, sizeof word, "%.*s", (int)(length < 47 ? length : 47), at);
        char *x = rows ? strchr(word, 'x') : NULL;
        if (x)
            *x = 0;
        PW_CHECK(length < 47 && (!x || (pw_parse_i64(word, &b) == 0 && b >= 1 && b <= 4096)) && pw_parse_i64(x ? x + 1 : word, &tokens) == 0 && tokens >= 1 && tokens <= most,
                 PW_E_USAGE, "--%s: expected %s from 1 to %lld, got \"%s\"", name, rows ? "numbers N or BxN" : "numbers", (long long)most, text);
        list[(*n)++] = (struct pw_bench_run){.batch = b, .tokens = tokens};
        at += length;
    } while (*at++ == ',');
    return 0;
}

/* What does not fit into the context is made shorter, and said. */
static void fit(struct pw_bench *b)
{
    const int64_t context = b->m->config.context;
    const int64_t gen = b->gen < context / 4 ? b->gen : (context + 3) / 4;
    for (int i = 0; i < b->n_prefill; i++)
        if (b->prefill[i].tokens > context - (i == 0 ? b->gen : 0)) {
            b->gen = i == 0 ? gen : b->gen;
            b->prefill[i].tokens = b->prefill[i].tokens < context - b->gen ? b->prefill[i].tokens : context - b->gen;
            pw_progress_say(b->c->progress, "the context holds %lld tokens: measuring a prompt of %lld and %lld generated", (long long)context,
                            (long long)b->prefill[i].tokens, (long long)b->gen);
        }
    for (int i = 0; i < b->n_train; i++)
        if (b->train[i].tokens > context) {
            b->train[i].tokens = context;
            pw_progress_say(b->c->progress, "the context holds %lld tokens: training on a row of that many", (long long)context);
        }
}

/* ---- models --------------------------------------------------------------------------------------------------------- */

static const struct { const char *name; struct pw_model_config config; } shapes[] = {
    {"100m", {.vocab = 32000, .layers = 12, .hidden = 768, .heads = 12, .kv_heads = 12, .head_dim = 64, .ffn = 2048, .context = 2048, .norm_eps = 1e-5, .rope_theta = 10000, .tied = true}},
    {"mistral-7b", {.vocab = 32768, .layers = 32, .hidden = 4096, .heads = 32, .kv_heads = 8, .head_dim = 128, .ffn = 14336, .context = 32768, .norm_eps = 1e-5, .rope_theta = 1e6}},
    {"llama-3-8b", {.vocab = 128256, .layers = 32, .hidden = 4096, .heads = 32, .kv_heads = 8, .head_dim = 128, .ffn = 14336, .context = 8192, .norm_eps = 1e-5, .rope_theta = 5e5}},
    {"tiny", {.vocab = 512, .layers = 2, .hidden = 64, .heads = 4, .kv_heads = 2, .head_dim = 16, .ffn = 128, .context = 256, .norm_eps = 1e-5, .rope_theta = 10000}},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* The name of a shape, or a config.json. */
static int read_shape(const char *name, struct pw_model_config *config)
{
    for (int i = 0; i < SHAPES; i++)
        if (strcmp(name, shapes[i].name) == 0) {
            *config = shapes[i].config;
            snprintf(config->family, sizeof config->family, "llama");
            snprintf(config->architecture, sizeof config->architecture, "LlamaForCausalLM");
            config->embed_scale = 1;
            config->attn_scale = 1 / __builtin_sqrt(config->head_dim);
            config->init_range = 0.02;
            config->bos = 1;
            config->eos[0] = 2;
            config->eos[1] = config->pad = -1;
            config->n_eos = 1;
            return 0;
        }
    if (pw_file_exists(name)) {
        struct pw_arena a;
        struct pw_value *json = NULL;
        pw_arena_init(&a);
        int rc = pw_json_load(&a, name, &json);
        if (rc == 0)
            rc = pw_model_config_parse(config, json, name);
        pw_arena_free(&a);
        return rc;
    }
    const int rc = pw_error(PW_E_USAGE, "unknown synthetic model '%s'", name);
    pw_error_hint("there are synthetic:100m, synthetic:mistral-7b, synthetic:llama-3-8b, synthetic:tiny, and synthetic:FILE with a config.json");
    return rc;
}

static int make_synthetic(struct pw_bench *b, struct pw_dev *dev, const char *name)
{
    const struct pw_common *o = b->c->common;
    struct pw_model_config config;
    const struct pw_model_options mo = {.quantise = o->type, .double_quant = o->double_quant, .context = o->ctx, .memory = o->memory};
    PW_PASS(read_shape(name, &config));
    PW_TRY(pw_model_random(&b->m, dev, &config, &mo, (uint64_t)o->seed), "making synthetic:%s", name);
    return 0;
}

/* ---- output --------------------------------------------------------------------------------------------------------- */

static void put_memory(const struct pw_bench_run *r, struct pw_buf *out)
{
    char planned[32], measured[32];
    if (r->memory.measured) {
        pw_format_bytes(planned, r->memory.planned);
        pw_format_bytes(measured, r->memory.measured);
        pw_buf_printf(out, ", in use %s, planned %s", measured, planned);
    }
    pw_buf_char(out, '\n');
}

static void put_text(const struct pw_bench *b, size_t peak)
{
    struct pw_buf *out = b->c->out;
    const struct pw_dev *dev = b->m->dev;
    char text[32];
    for (int i = 0; i < b->n_prefill; i++) {
        pw_buf_printf(out, "prefill  %10.1f tokens/s  %5.1f %% of the matrix product's rate   (a prompt of %lld)", b->prefill[i].tokens_per_s, 100 * b->prefill[i].share,
                      (long long)b->prefill[i].tokens);
        put_memory(&b->prefill[i], out);
    }
    for (int i = 0; i < b->n_decode; i++) {
        pw_buf_printf(out, "decode   %10.1f tokens/s  %5.1f %% of the memory's bandwidth      (%lld at once, %lld tokens each)", b->decode[i].tokens_per_s, 100 * b->decode[i].share,
                      (long long)b->decode[i].batch, (long long)b->decode[i].tokens);
        put_memory(&b->decode[i], out);
    }
    for (int i = 0; i < b->n_train; i++) {
        pw_buf_printf(out, "training %10.1f tokens/s  %5.1f %% of the matrix product's rate   (LoRA r = 16 on all linears, %lld x %lld tokens%s)", b->train[i].tokens_per_s,
                      100 * b->train[i].share, (long long)b->train[i].batch, (long long)b->train[i].tokens, b->checkpointing ? ", checkpointing" : "");
        put_memory(&b->train[i], out);
    }
    for (size_t i = 0; i < b->attention.n_attn; i++) {
        const struct pw_attn_choice *a = &b->attention.attn[i];
        pw_buf_printf(out, "attention forward, %lld rows in %d sequences, window %lld: ours %.3f ms, cuDNN %.3f ms\n", (long long)a->shape.rows, a->shape.sequences, (long long)a->shape.window,
                      1e3 * a->seconds[PW_ATTN_OURS], 1e3 * a->seconds[PW_ATTN_LIBRARY]);
    }
    pw_buf_printf(out, "encoding NF4 %6.1f GB/s      %5.1f %% of the memory's bandwidth\n", b->encode / 1e9, 100 * b->encode_share);
    pw_format_bytes(text, peak);
    pw_buf_printf(out, "peak memory %s; limits: matrix product %.1f GFLOP/s, %s %.1f GB/s (%s %s, %d threads)\n", text, b->gemm / 1e9, dev->host ? "reading" : "copying",
                  b->bandwidth / 1e9, dev->kind, dev->level, dev->threads);
}

static void put_runs(struct pw_json *j, const char *name, const struct pw_bench_run *runs, int n)
{
    pw_json_open(j, name, '[');
    for (int i = 0; i < n; i++) {
        pw_json_open(j, NULL, '{');
        pw_json_i64(j, "batch", runs[i].batch);
        pw_json_i64(j, "tokens", runs[i].tokens);
        pw_json_f64(j, "tokens_per_s", runs[i].tokens_per_s);
        pw_json_f64(j, "share_of_limit", runs[i].share);
        pw_json_f64(j, "seconds", runs[i].seconds);
        if (runs[i].memory.measured) {
            pw_json_i64(j, "planned_bytes", (int64_t)runs[i].memory.planned);
            pw_json_i64(j, "in_use_bytes", (int64_t)runs[i].memory.measured);
        }
        pw_json_close(j, '}');
    }
    pw_json_close(j, ']');
}

static void put_attention(struct pw_json *j, const struct pw_choices *c)
{
    pw_json_open(j, "attention", '[');
    for (size_t i = 0; i < c->n_attn; i++) {
        pw_json_open(j, NULL, '{');
        pw_json_i64(j, "rows", c->attn[i].shape.rows);
        pw_json_i64(j, "sequences", c->attn[i].shape.sequences);
        pw_json_i64(j, "window", c->attn[i].shape.window);
        pw_json_f64(j, "ours_s", c->attn[i].seconds[PW_ATTN_OURS]);
        pw_json_f64(j, "library_s", c->attn[i].seconds[PW_ATTN_LIBRARY]);
        pw_json_close(j, '}');
    }
    pw_json_close(j, ']');
}

static void put_first(struct pw_json *j, const char *name, const double *x, int n)
{
    if (n > 0)
        pw_json_f64(j, name, *x);
    else
        pw_json_null(j, name);
}

static int put_json(const struct pw_bench *b, size_t peak)
{
    struct pw_json j = {0};
    const struct pw_dev *dev = b->m->dev;
    pw_json_begin(&j);
    put_first(&j, "prefill_tokens_per_s", &b->prefill[0].tokens_per_s, b->n_prefill);
    put_first(&j, "decode_tokens_per_s", &b->decode[0].tokens_per_s, b->n_decode);
    put_first(&j, "train_tokens_per_s", &b->train[0].tokens_per_s, b->n_train);
    pw_json_i64(&j, "peak_bytes", (int64_t)peak);
    pw_json_open(&j, "limits", '{');
    pw_json_f64(&j, "gemm_flops", b->gemm);
    pw_json_f64(&j, "read_bytes_per_s", b->bandwidth);
    pw_json_f64(&j, "copy_bytes_per_s", b->copy);
    pw_json_close(&j, '}');
    pw_json_open(&j, "share", '{');
    put_first(&j, "prefill", &b->prefill[0].share, b->n_prefill);
    put_first(&j, "decode", &b->decode[0].share, b->n_decode);
    put_first(&j, "train", &b->train[0].share, b->n_train);
    put_first(&j, "encode", &b->encode_share, 1);
    pw_json_close(&j, '}');
    pw_json_i64(&j, "prompt", b->prefill[0].tokens);
    pw_json_i64(&j, "gen", b->gen);
    pw_json_i64(&j, "batch", b->decode[0].batch);
    pw_json_i64(&j, "train", b->n_train ? b->train[0].tokens : 0);
    pw_json_bool(&j, "checkpointing", b->checkpointing);
    put_runs(&j, "prefill_runs", b->prefill, b->n_prefill);
    put_runs(&j, "decode_runs", b->decode, b->n_decode);
    put_runs(&j, "train_runs", b->train, b->n_train);
    put_attention(&j, &b->attention);
    pw_json_f64(&j, "encode_bytes_per_s", b->encode);
    pw_json_i64(&j, "parameters", b->m->config.parameters);
    pw_json_i64(&j, "weight_bytes", (int64_t)b->m->weight_bytes);
    pw_json_i64(&j, "driver_bytes", (int64_t)b->held);
    pw_json_str(&j, "device", dev->kind);
    pw_json_str(&j, "level", dev->level);
    pw_json_i64(&j, "threads", dev->threads);
    return pw_json_finish(b->c, &j);
}

/* ---- the command ---------------------------------------------------------------------------------------------------- */

static int measure(struct pw_bench *b)
{
    PW_PASS(pw_bench_gemm(b));
    PW_PASS(pw_bench_bandwidth(b));
    PW_PASS(pw_bench_encode(b));
    for (int i = 0; i < b->n_prefill; i++)
        PW_TRY(pw_bench_prefill(b, &b->prefill[i]), "measuring a prompt of %lld tokens", (long long)b->prefill[i].tokens);
    for (int i = 0; i < b->n_decode; i++)
        PW_TRY(pw_bench_decode(b, &b->decode[i], b->prefill[0].tokens), "measuring %lld sequences at once", (long long)b->decode[i].batch);
    for (int i = 0; i < b->n_train; i++)
        PW_TRY(pw_bench_train(b, &b->train[i]), "measuring training on %lld x %lld tokens", (long long)b->train[i].batch, (long long)b->train[i].tokens);
    PW_TRY(pw_bench_attention(b), "measuring attention");
    return 0;
}

/* On a device: the most that was in use at the end of a measurement; else the most that this process came to. */
static size_t peak_of(const struct pw_bench *b)
{
    const struct pw_bench_run *const all[] = {b->prefill, b->decode, b->train};
    const int n[] = {b->n_prefill, b->n_decode, b->n_train};
    size_t most = b->m->dev->host ? pw_peak_rss_bytes() : 0;
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < n[k]; i++)
            most = all[k][i].memory.measured > most ? all[k][i].memory.measured : most;
    return most;
}

static int run(struct pw_cmd *c)
{
    const struct options *o = c->options;
    const char *name = c->args.items[0];
    struct pw_bench b = {.c = c, .gen = o->gen, .repeat = o->repeat, .checkpointing = o->checkpointing};
    struct pw_loaded l = {0};
    const bool synthetic = strncmp(name, "synthetic:", 10) == 0;
    int rc = 0;
    PW_PASS_OUT(read_list("prompt", o->prompt, false, 10000000, b.prefill, &b.n_prefill));
    PW_PASS_OUT(read_list("batch", o->batch, false, 4096, b.decode, &b.n_decode));
    PW_PASS_OUT(read_list("train", o->train, true, 10000000, b.train, &b.n_train));
    PW_CHECK_OUT(b.n_prefill > 0 || b.n_decode == 0, PW_E_USAGE, "--batch: sequences begin with the first --prompt, expected one, got 0");
    PW_CHECK_OUT(c->common->adapters.n == 0, PW_E_USAGE, "pw bench takes no --adapter: it makes its own");
    if (synthetic) {
        PW_PASS_OUT(pw_cmd_device(c, &l.dev));
        PW_PASS_OUT(make_synthetic(&b, l.dev, name + 10));
    } else {
        PW_PASS_OUT(pw_load(&l, c, name, false));
        b.m = l.model;
    }
    b.held = pw_dev_held(l.dev);
    fit(&b);
    for (int i = 0; i < b.n_decode; i++) {
        b.decode[i].batch = b.decode[i].tokens;
        b.decode[i].tokens = b.gen;
    }
    pw_progress_start(c->progress, "bench", c->common->quiet);
    PW_PASS_OUT(measure(&b));
    pw_progress_end(c->progress, NULL);
    const size_t peak = peak_of(&b);
    if (c->common->json)
        rc = put_json(&b, peak);
    else
        put_text(&b, peak);
out:
    pw_choices_free(&b.attention);
    if (synthetic)
        pw_model_free(b.m);
    pw_unload(&l);
    return rc;
}

const struct pw_command pw_commands_bench[] = {
    {.name = "bench", .usage = "MODEL [--prompt 512] [--gen 128] [--batch N] [--train 512]",
     .summary = "tokens a second of prefill, decode and training, and their share of what the machine can do",
     .text = "MODEL may be synthetic:100m, a Llama shape of 109.5 million random weights (768 wide, 12 layers, 12 heads, 2048, 32000 words),\n"
             "synthetic:mistral-7b, synthetic:llama-3-8b, synthetic:tiny, or synthetic:FILE with the config.json of a shape: weights are drawn,\n"
             "and encoded to --type, by the device where they lie.\n"
             "Limits are measured in the same run: a product of square matrices in the device's type (2048 wide on a processor, 8192 on a card),\n"
             "and reading 512 MiB with all threads, or copying 1 GiB on a card (read and write counted). Training is forward, backward and a step\n"
             "of AdamW with a fresh rank 16 adapter on all linears.\n"
             "share: prefill and train of gemm_flops (2 and 4 FLOP a weight and token, and attention; what checkpointing computes again is not\n"
             "counted), decode of read_bytes_per_s (weights once a step, and the cache), encode of the same (f32 read, codes and scales written).\n"
             "On a card in_use_bytes is what it says is taken at the end of a measurement, driver and libraries included; planned_bytes is what\n"
             "driver and libraries held when the device was opened (driver_bytes; other programs of the card count there), and what we planned.\n"
             "attention: where cuDNN is found, forward of attention in training by our kernels and by it, for each shape up to the rows of --train.\n"
             "On a processor with AMX all is measured at the level that generation has; pw train and scoring take another (docs/bench.md).",
     .options = table, .options_bytes = sizeof(struct options), .min_args = 1, .max_args = 1, .run = run, .plans = true},
    {0},
};
