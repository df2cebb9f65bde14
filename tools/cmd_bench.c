/* pw bench: tokens a second for prefill, decode and training, each with its share of what the machine itself can do, measured in the
 * same run. Knows the shapes of models and how much arithmetic and memory traffic a token is; nothing of results' correctness. */
#include <string.h>

#include "base/rng.h"
#include "infer/session.h"
#include "quant/quant.h"
#include "tools/load.h"
#include "train/pass.h"

struct options { int64_t prompt, gen, batch, train, repeat; };
#define AT(field) offsetof(struct options, field)
static const struct pw_option table[] = {
    {"prompt", 0, PW_OPT_INT, AT(prompt), "N", NULL, "512", 1, 1e7, "tokens of a prompt"},
    {"gen", 0, PW_OPT_INT, AT(gen), "N", NULL, "128", 1, 1e7, "tokens to generate"},
    {"batch", 0, PW_OPT_INT, AT(batch), "N", NULL, "1", 1, 4096, "sequences that are generated at once"},
    {"train", 0, PW_OPT_INT, AT(train), "N", NULL, "512", 0, 1e7, "tokens of the row that is trained on; 0: no training"},
    {"repeat", 0, PW_OPT_INT, AT(repeat), "N", NULL, "3", 1, 100, "runs of each measurement; the fastest counts"},
    PW_OPTIONS_END,
};

struct result { double prefill, decode, train, gemm, read, share_prefill, share_decode, share_train; size_t peak; };
struct bench {
    struct pw_cmd *c;
    struct pw_model *m;
    struct pw_pool quantised;  /* of a synthetic model with --type */
    int64_t prompt, gen, batch, train;
    int repeat;
    struct result r;
};

/* ---- models --------------------------------------------------------------------------------------------------------- */

/* synthetic:100m, the shape of a small Llama: 109.5 million weights, tied. */
static int make_synthetic(struct bench *b, const char *name, struct pw_dev *dev)
{
    struct pw_model_config config = {.family = "llama", .architecture = "LlamaForCausalLM", .vocab = 32000, .layers = 12, .hidden = 768, .heads = 12,
        .kv_heads = 12, .head_dim = 64, .ffn = 2048, .context = 2048, .norm_eps = 1e-5, .rope_theta = 10000, .tied = true, .attn_scale = 0.125,
        .embed_scale = 1, .init_range = 0.02, .bos = 1, .eos = {2, -1}, .pad = -1, .n_eos = 1};
    const struct pw_common *o = b->c->common;
    struct pw_quant_options q;
    size_t bytes = 0;
    if (strcmp(name, "synthetic:100m") != 0) {
        const int rc = pw_error(PW_E_USAGE, "unknown synthetic model '%s'", name);
        pw_error_hint("there is synthetic:100m");
        return rc;
    }
    if (o->ctx > 0)
        config.context = o->ctx;
    config.parameters = pw_model_config_count(&config);
    PW_PASS(pw_model_create(&b->m, dev, &config, (uint64_t)o->seed));
    if (!o->type[0] || strcmp(o->type, "f32") == 0)
        return 0;
    PW_PASS(pw_quant_parse(o->type, &q));
    q.double_quant = o->double_quant;
    for (int i = 0; i < config.layers; i++)
        for (int l = 0; l < PW_LIN_COUNT; l++)
            bytes += pw_pool_round(pw_quant_bytes(b->m->layers[i].linear[l].n_out, b->m->layers[i].linear[l].n_in, &q));
    PW_PASS(pw_pool_open(&b->quantised, dev, bytes, "quantised weights"));
    for (int i = 0; i < config.layers; i++)
        for (int l = 0; l < PW_LIN_COUNT; l++) {
            struct pw_weight *w = &b->m->layers[i].linear[l], made = {0};
            const size_t size = pw_quant_bytes(w->n_out, w->n_in, &q);
            void *memory = pw_pool_take(&b->quantised, size);
            PW_CHECK(memory, PW_E_NOMEM, "no room for quantised weights");
            PW_PASS(pw_quant_place(&made, w->n_out, w->n_in, &q, memory, size));
            PW_PASS(pw_quant_encode(dev, &made, pw_tensor2((void *)(uintptr_t)w->data, w->dtype, w->n_out, w->n_in), &q));
            *w = made;
        }
    return 0;
}

static double linear_weights(const struct pw_model *m)
{
    double n = 0;
    for (int l = 0; l < PW_LIN_COUNT; l++)
        n += (double)m->layers[0].linear[l].n_out * (double)m->layers[0].linear[l].n_in;
    return n * m->config.layers;
}

static double linear_bytes(const struct pw_model *m)
{
    double n = (double)pw_weight_bytes(&m->head);
    for (int i = 0; i < m->config.layers; i++)
        for (int l = 0; l < PW_LIN_COUNT; l++)
            n += (double)pw_weight_bytes(&m->layers[i].linear[l]);
    return n;
}

/* ---- inference ------------------------------------------------------------------------------------------------------ */

static int prefill_and_decode(struct bench *b)
{
    const struct pw_model_config *c = &b->m->config;
    const int64_t rows = b->batch * (b->prompt + b->gen), tokens = b->prompt > b->batch ? b->prompt : b->batch;
    const int64_t piece = tokens < 512 ? tokens : (b->batch > 512 ? b->batch : 512);
    struct pw_session *s = NULL;
    struct pw_arena a;
    double prefill = 0, decode = 0;
    int rc = 0;
    pw_arena_init(&a);
    int32_t *ids = pw_arena_array(&a, (size_t)b->prompt, sizeof *ids), *last = pw_arena_array(&a, (size_t)b->batch, sizeof *last),
            *which = pw_arena_array(&a, (size_t)b->batch, sizeof *which);
    float *logits = pw_arena_array(&a, (size_t)b->batch * (size_t)c->vocab, sizeof *logits);
    struct pw_feed *feeds = pw_arena_array(&a, (size_t)b->batch, sizeof *feeds);
    struct pw_rng rng = pw_rng_make((uint64_t)b->c->common->seed, PW_STREAM_TEST);
    PW_CHECK_OUT(ids && last && which && logits && feeds, PW_E_NOMEM, "out of memory");
    for (int64_t i = 0; i < b->prompt; i++)
        ids[i] = (int32_t)pw_rng_below(&rng, (uint64_t)c->vocab);
    PW_PASS_OUT(pw_session_open(&s, b->m, rows, piece, (int)b->batch));
    for (int run = 0; run < b->repeat; run++) {
        double at = pw_seconds(), seconds;
        pw_session_reset(s);
        for (int64_t i = 0; i < b->batch; i++) {
            const int seq = pw_session_add(s, b->prompt + b->gen, -1);
            PW_PASS_OUT(seq);
            feeds[i].seq = seq;
            for (int64_t done = 0; done < b->prompt; done += piece) {
                const struct pw_feed f = {seq, ids + done, b->prompt - done < piece ? b->prompt - done : piece};
                PW_CHECK_OUT(!pw_interrupted(), PW_E_INTERRUPTED, "interrupted");
                PW_PASS_OUT(pw_session_feed(s, &f, 1));
                which[0] = (int32_t)(f.n - 1);
            }
            PW_PASS_OUT(pw_session_logits(s, which, 1, logits));
        }
        seconds = pw_seconds() - at;
        prefill = run == 0 || seconds < prefill ? seconds : prefill;
        for (int64_t i = 0; i < b->batch; i++) {
            which[i] = (int32_t)i;
            last[i] = ids[i % b->prompt];
            feeds[i].ids = &last[i];
            feeds[i].n = 1;
        }
        at = pw_seconds();
        for (int64_t step = 0; step < b->gen; step++) {
            PW_CHECK_OUT(!pw_interrupted(), PW_E_INTERRUPTED, "interrupted");
            PW_PASS_OUT(pw_session_feed(s, feeds, (int)b->batch));
            PW_PASS_OUT(pw_session_logits(s, which, (int)b->batch, logits));
            for (int64_t i = 0; i < b->batch; i++) {   /* the greedy choice is part of the work */
                const float *row = logits + i * c->vocab;
                int64_t best = 0;
                for (int64_t v = 1; v < c->vocab; v++)
                    best = row[v] > row[best] ? v : best;
                last[i] = (int32_t)best;
            }
        }
        seconds = pw_seconds() - at;
        decode = run == 0 || seconds < decode ? seconds : decode;
        pw_progress_at(b->c->progress, run + 1, b->repeat, "prefill, decode");
    }
    b->r.prefill = (double)(b->batch * b->prompt) / prefill;
    b->r.decode = (double)(b->batch * b->gen) / decode;
out:
    pw_session_close(s);
    pw_arena_free(&a);
    return rc;
}

/* ---- training ------------------------------------------------------------------------------------------------------- */

static int place_adapter(struct bench *b, struct pw_adapter *adapter, struct pw_arena *a)
{
    const struct pw_adapter_config config = {.kind = "lora", .r = 16, .alpha = 32, .targets = "all-linear"};
    PW_PASS(pw_adapter_plan(adapter, &config, &b->m->config));
    const size_t bytes = pw_adapter_bytes(adapter);
    void *memory = pw_arena_alloc(a, bytes);
    PW_CHECK(memory, PW_E_NOMEM, "out of memory for an adapter");
    PW_PASS(pw_adapter_place(adapter, memory, bytes));
    pw_adapter_init(adapter, (uint64_t)b->c->common->seed);
    return pw_model_attach(b->m, adapter);
}

static int connect(struct pw_pass *pass, struct pw_optim *optim, const struct pw_adapter *adapter, struct pw_pool *pool, struct pw_arena *a)
{
    struct pw_slot *slots = pw_arena_array(a, 2 * adapter->n, sizeof *slots);
    PW_CHECK(slots, PW_E_NOMEM, "out of memory");
    for (size_t i = 0; i < adapter->n; i++) {
        slots[2 * i] = (struct pw_slot){.name = adapter->modules[i].name, .value = adapter->modules[i].lora.a};
        slots[2 * i + 1] = (struct pw_slot){.name = adapter->modules[i].name, .value = adapter->modules[i].lora.b};
    }
    PW_PASS(pw_pool_open(pool, pass->m->dev, pw_optim_bytes(PW_OPTIM_ADAMW, slots, 2 * adapter->n, false), "gradients"));
    PW_PASS(pw_optim_place(optim, pool, PW_OPTIM_ADAMW, slots, 2 * adapter->n, false));
    return pw_pass_connect(pass, optim);
}

/* Forward and backward of one row through a fresh adapter of rank 16 on all linears, nothing recomputed. */
static int train(struct bench *b)
{
    const struct pw_pass_shape shape = {.tokens = b->train, .sequences = 1, .train = true, .kept = b->m->config.layers};
    struct pw_adapter adapter = {0};
    struct pw_arena a;
    struct pw_pool pool = {0}, gradients = {0};
    struct pw_pass pass = {0};
    struct pw_optim optim = {0};
    struct pw_packed batch = {0};
    struct pw_pass_bytes bytes;
    double best = 0, loss;
    int rc = 0;
    pw_arena_init(&a);
    PW_PASS_OUT(place_adapter(b, &adapter, &a));
    pw_pass_size(b->m, &shape, &bytes);
    PW_PASS_OUT(pw_pool_open(&pool, b->m->dev, bytes.saved + bytes.scratch, "training"));
    PW_PASS_OUT(pw_dev_reserve(b->m->dev, bytes.device));
    PW_PASS_OUT(pw_pass_place(&pass, b->m, &shape, &pool, &a));
    PW_PASS_OUT(connect(&pass, &optim, &adapter, &gradients, &a));
    PW_PASS_OUT(pw_packed_init(&batch, &a, b->train, 1));
    struct pw_rng rng = pw_rng_make((uint64_t)b->c->common->seed, PW_STREAM_TEST);
    batch.n_tokens = b->train;
    batch.n_trained = b->train - 1;
    batch.n_seqs = 1;
    for (int64_t i = 0; i < b->train; i++) {
        batch.ids[i] = (int32_t)pw_rng_below(&rng, (uint64_t)b->m->config.vocab);
        batch.positions[i] = (int32_t)i;
        if (i > 0)
            batch.targets[i - 1] = batch.ids[i];
    }
    batch.targets[b->train - 1] = -1;
    batch.seq_start[0] = 0;
    batch.seq_start[1] = batch.seq_len[0] = (int32_t)b->train;
    const struct pw_pass_options o = {.backward = true, .dloss = 1.0 / (double)b->train};
    for (int run = 0; run < b->repeat; run++) {
        PW_CHECK_OUT(!pw_interrupted(), PW_E_INTERRUPTED, "interrupted");
        PW_PASS_OUT(pw_optim_clear(b->m->dev, &optim));
        const double at = pw_seconds();
        PW_PASS_OUT(pw_pass_run(&pass, &batch, &o, &loss));
        const double seconds = pw_seconds() - at;
        best = run == 0 || seconds < best ? seconds : best;
        pw_progress_at(b->c->progress, run + 1, b->repeat, "training");
    }
    b->r.train = (double)b->train / best;
out:
    pw_model_attach(b->m, NULL);
    pw_pool_close(&gradients);
    pw_pool_close(&pool);
    pw_adapter_free(&adapter);
    pw_arena_free(&a);
    return rc;
}

/* ---- the machine ---------------------------------------------------------------------------------------------------- */

static int measure_gemm(struct bench *b)
{
    enum { N = 2048 };
    struct pw_dev *dev = b->m->dev;
    struct pw_pool pool = {0};
    double best = 0;
    int rc = 0;
    PW_PASS_OUT(pw_pool_open(&pool, dev, 3 * pw_pool_round((size_t)N * N * sizeof(float)), "GEMM"));
    struct pw_tensor t[3];
    for (int i = 0; i < 3; i++) {
        t[i] = pw_tensor2(pw_pool_take(&pool, (size_t)N * N * sizeof(float)), PW_F32, N, N);
        PW_CHECK_OUT(t[i].data, PW_E_NOMEM, "out of memory");
        PW_PASS_OUT(pw_fill(dev, t[i], 0.5));
    }
    const struct pw_weight w = pw_weight_dense(t[1]);
    PW_PASS_OUT(pw_dev_reserve(dev, pw_scratch_linear(dev, N, &w, false)));
    for (int run = 0; run < 6; run++) {
        const double at = pw_seconds();
        PW_PASS_OUT(pw_linear_fwd(dev, t[2], pw_none(), t[0], &w, (struct pw_drop){0}));
        const double rate = 2.0 * N * N * N / (pw_seconds() - at);
        best = rate > best ? rate : best;
        pw_progress_at(b->c->progress, run + 1, 6, "limit: matrix product");
    }
    b->r.gemm = best;
out:
    pw_pool_close(&pool);
    return rc;
}

/* Sums of 8 lanes, so that additions do not wait for each other. */
static uint64_t add_up(const uint64_t *x, size_t n)
{
    uint64_t lane[8] = {0};
    for (size_t i = 0; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++)
            lane[k] += x[i + k];
    return lane[0] + lane[1] + lane[2] + lane[3] + lane[4] + lane[5] + lane[6] + lane[7];
}

static int measure_read(struct bench *b)
{
    const size_t n = (size_t)64 << 20;         /* 512 MiB: far beyond any cache */
    const int threads = b->m->dev->threads;
    uint64_t *x = pw_alloc(n * sizeof *x), total = 0;
    PW_CHECK(x, PW_E_NOMEM, "out of memory for measuring the memory's bandwidth");
    const size_t part = n / (size_t)threads / 8 * 8;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int t = 0; t < threads; t++)
        for (size_t i = 0; i < part; i++)
            x[(size_t)t * part + i] = i;
    for (int run = 0; run < 4; run++) {
        const double at = pw_seconds();
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : total)
        for (int t = 0; t < threads; t++)
            total += add_up(x + (size_t)t * part, part);
        const double rate = (double)(part * (size_t)threads * sizeof *x) / (pw_seconds() - at);
        b->r.read = rate > b->r.read ? rate : b->r.read;
    }
    pw_free(x);
    PW_CHECK(total == 4 * (uint64_t)threads * (part * (part - 1) / 2), PW_E_FAIL, "the sum of a known sequence is wrong");
    return 0;
}

/* FLOP of a prefill token: 2 a linear weight, 4 H d a key that it sees (half of the prompt on average); the head once a prompt.
 * Bytes of a decode step: all linear weights and the head once for the batch, keys and values of each sequence.
 * FLOP of a trained token: 4 a weight of linears and head (forward, and dX backward; the base is frozen), 12 H d a key. */
static void shares(struct bench *b)
{
    const struct pw_model_config *c = &b->m->config;
    const double weights = linear_weights(b->m), head = (double)c->vocab * c->hidden, width = (double)c->heads * c->head_dim * c->layers;
    const double prefill = 2 * weights + 4 * width * (double)b->prompt / 2 + 2 * head / (double)b->prompt;
    const double keys = (double)b->prompt + (double)b->gen / 2;
    const double step = linear_bytes(b->m) + (double)b->batch * keys * 2 * (double)c->kv_heads * c->head_dim * c->layers * sizeof(float);
    const double trained = 4 * (weights + head) + 12 * width * (double)b->train / 2;
    b->r.share_prefill = b->r.prefill * prefill / b->r.gemm;
    b->r.share_decode = b->r.decode / (double)b->batch * step / b->r.read;
    b->r.share_train = b->r.train * trained / b->r.gemm;
}

/* ---- the command ---------------------------------------------------------------------------------------------------- */

static void fit(struct bench *b)
{
    const int64_t context = b->m->config.context;
    if (b->prompt > context - b->gen) {
        b->gen = b->gen < context / 4 ? b->gen : (context + 3) / 4;
        b->prompt = b->prompt < context - b->gen ? b->prompt : context - b->gen;
        pw_progress_say(b->c->progress, "the context holds %lld tokens: measuring a prompt of %lld and %lld generated", (long long)context,
                        (long long)b->prompt, (long long)b->gen);
    }
    if (b->train > context) {
        b->train = context;
        pw_progress_say(b->c->progress, "the context holds %lld tokens: training on a row of that many", (long long)context);
    }
}

static int put(struct bench *b)
{
    const struct result *r = &b->r;
    struct pw_json j = {0};
    char peak[32];
    if (!b->c->common->json) {
        struct pw_buf *out = b->c->out;
        pw_format_bytes(peak, r->peak);
        pw_buf_printf(out, "prefill  %10.1f tokens/s  %5.1f %% of the matrix product's rate   (prompts of %lld)\n", r->prefill, 100 * r->share_prefill,
                      (long long)b->prompt);
        pw_buf_printf(out, "decode   %10.1f tokens/s  %5.1f %% of the memory's bandwidth      (%lld at once, %lld tokens each)\n", r->decode,
                      100 * r->share_decode, (long long)b->batch, (long long)b->gen);
        if (b->train > 0)
            pw_buf_printf(out, "training %10.1f tokens/s  %5.1f %% of the matrix product's rate   (LoRA r = 16 on all linears, a row of %lld)\n", r->train,
                          100 * r->share_train, (long long)b->train);
        pw_buf_printf(out, "peak memory %s; limits: matrix product %.1f GFLOP/s, reading %.1f GB/s (%s %s, %d threads)\n", peak, r->gemm / 1e9, r->read / 1e9,
                      b->m->dev->kind, b->m->dev->level, b->m->dev->threads);
        return 0;
    }
    pw_json_begin(&j);
    pw_json_f64(&j, "prefill_tokens_per_s", r->prefill);
    pw_json_f64(&j, "decode_tokens_per_s", r->decode);
    if (b->train > 0)
        pw_json_f64(&j, "train_tokens_per_s", r->train);
    else
        pw_json_null(&j, "train_tokens_per_s");
    pw_json_i64(&j, "peak_bytes", (int64_t)r->peak);
    pw_json_open(&j, "limits", '{');
    pw_json_f64(&j, "gemm_flops", r->gemm);
    pw_json_f64(&j, "read_bytes_per_s", r->read);
    pw_json_close(&j, '}');
    pw_json_open(&j, "share", '{');
    pw_json_f64(&j, "prefill", r->share_prefill);
    pw_json_f64(&j, "decode", r->share_decode);
    if (b->train > 0)
        pw_json_f64(&j, "train", r->share_train);
    else
        pw_json_null(&j, "train");
    pw_json_close(&j, '}');
    pw_json_i64(&j, "prompt", b->prompt);
    pw_json_i64(&j, "gen", b->gen);
    pw_json_i64(&j, "batch", b->batch);
    pw_json_i64(&j, "train", b->train);
    pw_json_str(&j, "device", b->m->dev->kind);
    pw_json_str(&j, "level", b->m->dev->level);
    pw_json_i64(&j, "threads", b->m->dev->threads);
    return pw_json_finish(b->c, &j);
}

static int run(struct pw_cmd *c)
{
    const struct options *o = c->options;
    const char *name = c->args.items[0];
    struct bench b = {.c = c, .prompt = o->prompt, .gen = o->gen, .batch = o->batch, .train = o->train, .repeat = (int)o->repeat};
    struct pw_loaded l = {0};
    const bool synthetic = strncmp(name, "synthetic:", 10) == 0;
    int rc = 0;
    if (synthetic) {
        PW_PASS_OUT(pw_cmd_host_device(c, &l.dev));
        PW_TRY_OUT(make_synthetic(&b, name, l.dev), "making %s", name);
    } else {
        PW_CHECK_OUT(c->common->adapters.n == 0, PW_E_USAGE, "pw bench takes no --adapter: it makes its own");
        PW_PASS_OUT(pw_load(&l, c, name, false));
        b.m = l.model;
    }
    fit(&b);
    pw_progress_start(c->progress, "bench", c->common->quiet);
    PW_PASS_OUT(prefill_and_decode(&b));
    if (b.train > 0)
        PW_PASS_OUT(train(&b));
    b.r.peak = pw_peak_rss_bytes();
    PW_PASS_OUT(measure_gemm(&b));
    PW_PASS_OUT(measure_read(&b));
    pw_progress_end(c->progress, NULL);
    shares(&b);
    rc = put(&b);
out:
    if (synthetic)
        pw_model_free(b.m);
    pw_pool_close(&b.quantised);
    pw_unload(&l);
    return rc;
}

const struct pw_command pw_commands_bench[] = {
    {.name = "bench", .usage = "MODEL [--prompt 512] [--gen 128] [--batch N] [--train 512]",
     .summary = "tokens a second of prefill, decode and training, and their share of what the machine can do",
     .text = "MODEL may be synthetic:100m, a Llama shape of 109.5 million random weights (768 wide, 12 layers, 12 heads, 2048, 32000 words).\n"
             "Limits are measured in the same run: an f32 matrix product of 2048 cubed, and reading 512 MiB with all threads. Training is\n"
             "forward and backward of one row with a fresh rank 16 adapter on all linears, without checkpointing or optimiser.\n"
             "share: prefill and train of gemm_flops (2 and 4 FLOP a weight and token, and attention), decode of read_bytes_per_s (weights once\n"
             "a step, and the cache).",
     .options = table, .options_bytes = sizeof(struct options), .min_args = 1, .max_args = 1, .run = run},
    {0},
};
