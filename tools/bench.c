/* See bench.h. Knows how much arithmetic and memory traffic a token is; nothing of results' correctness. */
#include "tools/bench.h"

#include <string.h>

#include "base/limit.h"
#include "base/memory.h"
#include "base/rng.h"
#include "quant/quant.h"
#include "train/pass.h"

/* ---- work of a token ------------------------------------------------------------------------------------------------ */

static double linear_weights(const struct pw_model *m)
{
    double n = 0;
    for (int i = 0; i < m->config.layers; i++)
        for (int l = 0; l < PW_LIN_COUNT; l++)
            n += pw_linear_has(&m->config, l) ? (double)m->layers[i].linear[l].n_out * (double)m->layers[i].linear[l].n_in : 0;
    return n;
}
static double linear_bytes(const struct pw_model *m)
{
    double n = (double)pw_weight_bytes(&m->head);
    for (int i = 0; i < m->config.layers; i++)
        for (int l = 0; l < PW_LIN_COUNT; l++)
            n += pw_linear_has(&m->config, l) ? (double)pw_weight_bytes(&m->layers[i].linear[l]) : 0;
    return n;
}
static double head_weights(const struct pw_model *m) { return (double)m->head.n_out * (double)m->head.n_in; }
static double attention_width(const struct pw_model *m) { return (double)m->config.heads * m->config.head_dim * m->config.layers; }

/* ---- memory of a device --------------------------------------------------------------------------------------------- */

static int in_use(const struct pw_bench *b, size_t *bytes)
{
    size_t free_bytes, total;
    *bytes = 0;
    if (b->m->dev->host)
        return 0;
    PW_PASS(pw_dev_memory(b->m->dev, &free_bytes, &total));
    *bytes = total - free_bytes;
    return 0;
}

/* Plan and measurement meet while everything is taken and everything has run once. `more`: what was placed beside model and scratch. */
static int look_at_memory(const struct pw_bench *b, struct pw_bench_run *r, size_t more)
{
    if (b->m->dev->host)
        return 0;
    r->memory.planned = b->held + b->m->pool.bytes + b->m->dev->scratch_bytes + more;
    return in_use(b, &r->memory.measured);
}

/* --memory: what will be taken for a measurement, beside what there is. On a device the limit is on its memory. Sessions look by themselves. */
static int within(const struct pw_bench *b, const char *what, size_t more, const char *way_out)
{
    const bool host = b->m->dev->host;
    const struct pw_limit_part parts[] = {{host ? "program and weights" : "weights", host ? pw_rss_bytes() : b->m->pool.bytes}, {what, more}};
    return pw_limit_check(b->c->common->memory, parts, 2, way_out);
}

/* ---- the machine ---------------------------------------------------------------------------------------------------- */

static bool emulated(const struct pw_dev *dev) { return strcmp(dev->kind, "simt") == 0; }

/* A square product in the type of activations: as large as fills a card; small where a card is emulated. */
int pw_bench_gemm(struct pw_bench *b)
{
    struct pw_dev *dev = b->m->dev;
    const int64_t n = dev->host ? 2048 : emulated(dev) ? 64 : 8192;
    const size_t bytes = pw_pool_round((size_t)(n * n) * pw_dtype_bytes(dev->act));
    struct pw_pool pool = {0};
    int rc = 0;
    PW_PASS_OUT(within(b, "measuring the matrix product", 3 * bytes, NULL));
    PW_PASS_OUT(pw_pool_open(&pool, dev, 3 * bytes + pw_pool_round((size_t)n * sizeof(float)), "GEMM"));
    struct pw_tensor t[3];
    const struct pw_tensor size = pw_tensor1(pw_pool_take(&pool, (size_t)n * sizeof(float)), PW_F32, n);
    PW_CHECK_OUT(size.data, PW_E_NOMEM, "out of memory");
    PW_PASS_OUT(pw_fill(dev, size, 1));
    for (int i = 0; i < 3; i++) {
        t[i] = pw_tensor2(pw_pool_take(&pool, bytes), dev->act, n, n);
        PW_CHECK_OUT(t[i].data, PW_E_NOMEM, "out of memory");
        if (i < 2)             /* random numbers: a card is faster, and cooler, with constants */
            PW_PASS_OUT(pw_noise(dev, t[i], size, (struct pw_drop){.seed = 1, .offset = (uint64_t)i}));
    }
    const struct pw_weight w = pw_weight_dense(t[1]);
    PW_PASS_OUT(pw_dev_reserve(dev, pw_scratch_linear(dev, n, &w, false)));
    for (int run = 0; run < 6; run++) {
        const int times = dev->host || emulated(dev) || run == 0 ? 1 : 10;
        PW_PASS_OUT(pw_dev_sync(dev));
        const double at = pw_seconds();
        for (int i = 0; i < times; i++)
            PW_PASS_OUT(pw_linear_fwd(dev, t[2], pw_none(), t[0], &w, (struct pw_drop){0}));
        PW_PASS_OUT(pw_dev_sync(dev));
        const double rate = 2.0 * (double)(n * n * n) * times / (pw_seconds() - at);
        b->gemm = rate > b->gemm ? rate : b->gemm;
        pw_progress_at(b->c->progress, run + 1, 6, "limit: matrix product");
    }
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

static int measure_read(struct pw_bench *b)
{
    const size_t n = (size_t)64 << 20;         /* 512 MiB: far beyond any cache */
    const int threads = b->m->dev->threads;
    PW_PASS(within(b, "measuring the memory", n * sizeof(uint64_t), NULL));
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
        b->bandwidth = rate > b->bandwidth ? rate : b->bandwidth;
    }
    pw_free(x);
    PW_CHECK(total == 4 * (uint64_t)threads * (part * (part - 1) / 2), PW_E_FAIL, "the sum of a known sequence is wrong");
    return 0;
}

/* What a copy reads and writes. 1 GiB each: far beyond any card's cache. */
int pw_bench_bandwidth(struct pw_bench *b)
{
    struct pw_dev *dev = b->m->dev;
    if (dev->host)
        return measure_read(b);
    const int64_t n = (int64_t)1 << (emulated(dev) ? 16 : 28);
    struct pw_pool pool = {0};
    int rc = 0;
    PW_PASS_OUT(within(b, "measuring the memory", 2 * (size_t)n * sizeof(float), NULL));
    PW_PASS_OUT(pw_pool_open(&pool, dev, 2 * (size_t)n * sizeof(float), "copy"));
    const struct pw_tensor to = pw_tensor1(pool.base, PW_F32, n), from = pw_tensor1(pool.base + n * (int64_t)sizeof(float), PW_F32, n);
    for (int run = 0; run < 6; run++) {
        PW_PASS_OUT(pw_dev_sync(dev));
        const double at = pw_seconds();
        PW_PASS_OUT(pw_copy(dev, to, from));
        PW_PASS_OUT(pw_dev_sync(dev));
        const double rate = 2.0 * (double)n * sizeof(float) / (pw_seconds() - at);
        b->copy = rate > b->copy ? rate : b->copy;
    }
    b->bandwidth = b->copy;
out:
    pw_pool_close(&pool);
    return rc;
}

int pw_bench_encode(struct pw_bench *b)
{
    struct pw_dev *dev = b->m->dev;
    const int64_t rows = dev->host ? 1024 : emulated(dev) ? 64 : 16384, width = emulated(dev) ? 256 : 4096;
    const struct pw_quant_options q = {.type = PW_Q_NF4, .block = 64, .dtype = PW_BF16};
    const size_t f32 = (size_t)(rows * width) * sizeof(float), codes = pw_quant_bytes(rows, width, &q);
    struct pw_pool pool = {0};
    struct pw_weight w;
    int rc = 0;
    PW_PASS_OUT(within(b, "measuring encoding", f32 + codes, NULL));
    PW_PASS_OUT(pw_pool_open(&pool, dev, pw_pool_round(f32) + pw_pool_round(codes) + pw_pool_round((size_t)rows * sizeof(float)), "encode"));
    const struct pw_tensor x = pw_tensor2(pw_pool_take(&pool, f32), PW_F32, rows, width), size = pw_tensor1(pw_pool_take(&pool, (size_t)rows * sizeof(float)), PW_F32, rows);
    void *memory = pw_pool_take(&pool, codes);
    PW_CHECK_OUT(x.data && size.data && memory, PW_E_NOMEM, "out of memory");
    PW_PASS_OUT(pw_fill(dev, size, 1));
    PW_PASS_OUT(pw_noise(dev, x, size, (struct pw_drop){.seed = 1}));
    PW_PASS_OUT(pw_quant_place(&w, rows, width, &q, memory, codes));
    for (int run = 0; run < 4; run++) {
        PW_PASS_OUT(pw_dev_sync(dev));
        const double at = pw_seconds();
        PW_PASS_OUT(pw_encode(dev, &w, x));
        PW_PASS_OUT(pw_dev_sync(dev));
        const double rate = (double)(f32 + pw_weight_bytes(&w)) / (pw_seconds() - at);
        b->encode = rate > b->encode ? rate : b->encode;
    }
    b->encode_share = b->encode / b->bandwidth;
out:
    pw_pool_close(&pool);
    return rc;
}

/* ---- inference ------------------------------------------------------------------------------------------------------ */

struct talk { struct pw_arena a; struct pw_session *s; struct pw_feed *feeds; int32_t *ids, *last, *which; struct pw_draw *draws; int64_t rows, piece; };

static int talk_open(struct pw_bench *b, struct talk *t, int64_t batch, int64_t prompt, int64_t gen)
{
    const struct pw_model_config *c = &b->m->config;
    const int64_t tokens = prompt > batch ? prompt : batch;
    t->rows = batch * pw_session_rows(prompt + gen);
    t->piece = tokens < 512 ? tokens : (batch > 512 ? batch : 512);
    if (!b->m->dev->host && prompt > t->piece)       /* a card wants large products: a prompt at once */
        t->piece = prompt;
    pw_arena_init(&t->a);
    t->ids = pw_arena_array(&t->a, (size_t)prompt, sizeof *t->ids);
    t->last = pw_arena_array(&t->a, (size_t)batch, sizeof *t->last);
    t->which = pw_arena_array(&t->a, (size_t)batch, sizeof *t->which);
    t->draws = pw_arena_array(&t->a, (size_t)batch, sizeof *t->draws);   /* greedy */
    t->feeds = pw_arena_array(&t->a, (size_t)batch, sizeof *t->feeds);
    PW_CHECK(t->ids && t->last && t->which && t->draws && t->feeds, PW_E_NOMEM, "out of memory");
    struct pw_rng rng = pw_rng_make((uint64_t)b->c->common->seed, PW_STREAM_TEST);
    for (int64_t i = 0; i < prompt; i++)
        t->ids[i] = (int32_t)pw_rng_below(&rng, (uint64_t)c->vocab);
    return pw_session_open(&t->s, b->m, t->rows, t->piece, (int)batch);
}

static void talk_close(struct talk *t)
{
    pw_session_close(t->s);
    pw_arena_free(&t->a);
}

static int feed_prompts(struct talk *t, int64_t batch, int64_t prompt, int64_t gen)
{
    pw_session_reset(t->s);
    for (int64_t i = 0; i < batch; i++) {
        const int seq = pw_session_add(t->s, prompt + gen, -1);
        PW_PASS(seq);
        t->feeds[i].seq = seq;
        for (int64_t done = 0; done < prompt; done += t->piece) {
            const struct pw_feed f = {seq, t->ids + done, prompt - done < t->piece ? prompt - done : t->piece};
            PW_CHECK(!pw_interrupted(), PW_E_INTERRUPTED, "interrupted");
            t->which[0] = (int32_t)(f.n - 1);
            PW_PASS(pw_session_next(t->s, &f, 1, t->which, t->draws, done + f.n == prompt, t->last));
        }
    }
    return 0;
}

/* FLOP of a prefill token: 2 a linear weight, 4 H d a key that it sees (half of the prompt on average); the head once a prompt. */
int pw_bench_prefill(struct pw_bench *b, struct pw_bench_run *r)
{
    struct talk t = {0};
    int rc = 0;
    PW_PASS_OUT(talk_open(b, &t, 1, r->tokens, 0));
    for (int run = 0; run < b->repeat; run++) {
        const double at = pw_seconds();
        PW_PASS_OUT(feed_prompts(&t, 1, r->tokens, 0));
        const double seconds = pw_seconds() - at;
        r->seconds = run == 0 || seconds < r->seconds ? seconds : r->seconds;
        pw_progress_at(b->c->progress, run + 1, b->repeat, "prefill");
    }
    PW_PASS_OUT(look_at_memory(b, r, pw_session_bytes(b->m, t.rows, t.piece, 1)));
    r->tokens_per_s = (double)r->tokens / r->seconds;
    const double work = 2 * linear_weights(b->m) + 4 * attention_width(b->m) * (double)r->tokens / 2 + 2 * head_weights(b->m) / (double)r->tokens;
    r->share = r->tokens_per_s * work / b->gemm;
out:
    talk_close(&t);
    return rc;
}

/* Bytes of a decode step: all linear weights and the head once for the batch, keys and values of each sequence. */
int pw_bench_decode(struct pw_bench *b, struct pw_bench_run *r, int64_t prompt)
{
    const struct pw_model_config *c = &b->m->config;
    struct talk t = {0};
    int rc = 0;
    PW_PASS_OUT(talk_open(b, &t, r->batch, prompt, r->tokens));
    for (int run = 0; run < b->repeat; run++) {
        PW_PASS_OUT(feed_prompts(&t, r->batch, prompt, r->tokens));
        for (int64_t i = 0; i < r->batch; i++) {
            t.which[i] = (int32_t)i;
            t.last[i] = t.ids[i % prompt];
            t.feeds[i].ids = &t.last[i];
            t.feeds[i].n = 1;
        }
        const double at = pw_seconds();
        for (int64_t step = 0; step < r->tokens; step++) {
            PW_CHECK_OUT(!pw_interrupted(), PW_E_INTERRUPTED, "interrupted");
            PW_PASS_OUT(pw_session_next(t.s, t.feeds, (int)r->batch, t.which, t.draws, (int)r->batch, t.last));   /* the choice is part of the work */
        }
        const double seconds = pw_seconds() - at;
        r->seconds = run == 0 || seconds < r->seconds ? seconds : r->seconds;
        pw_progress_at(b->c->progress, run + 1, b->repeat, "decode");
    }
    PW_PASS_OUT(look_at_memory(b, r, pw_session_bytes(b->m, t.rows, t.piece, (int)r->batch)));
    r->tokens_per_s = (double)(r->batch * r->tokens) / r->seconds;
    const double keys = (double)prompt + (double)r->tokens / 2;
    const double step = linear_bytes(b->m) + (double)r->batch * keys * 2 * (double)c->kv_heads * c->head_dim * c->layers * (double)pw_dtype_bytes(b->m->dev->act);
    r->share = r->tokens_per_s / (double)r->batch * step / b->bandwidth;
out:
    talk_close(&t);
    return rc;
}

/* ---- training ------------------------------------------------------------------------------------------------------- */

static int place_adapter(struct pw_bench *b, struct pw_adapter *adapter, struct pw_arena *a)
{
    const struct pw_adapter_config config = {.kind = "lora", .r = 16, .alpha = 32, .targets = "all-linear"};
    PW_PASS(pw_adapter_plan(adapter, &config, &b->m->config));
    const size_t bytes = pw_adapter_bytes(adapter);
    void *memory = pw_arena_alloc(a, bytes);
    PW_CHECK(memory, PW_E_NOMEM, "out of memory for an adapter");
    PW_PASS(pw_adapter_place(adapter, memory, bytes));
    pw_adapter_init(adapter, (uint64_t)b->c->common->seed);
    PW_PASS(pw_adapter_put(adapter, b->m->dev));
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

/* Rows of random tokens, each trained from its second one on. */
static int fill_batch(struct pw_bench *b, struct pw_packed *batch, struct pw_arena *a, const struct pw_bench_run *r)
{
    struct pw_rng rng = pw_rng_make((uint64_t)b->c->common->seed, PW_STREAM_TEST);
    PW_PASS(pw_packed_init(batch, a, r->batch * r->tokens, r->batch));
    batch->n_tokens = r->batch * r->tokens;
    batch->n_trained = r->batch * (r->tokens - 1);
    batch->n_seqs = (int)r->batch;
    batch->seq_start[0] = 0;
    for (int64_t s = 0; s < r->batch; s++) {
        const int64_t first = s * r->tokens;
        for (int64_t i = 0; i < r->tokens; i++) {
            batch->ids[first + i] = (int32_t)pw_rng_below(&rng, (uint64_t)b->m->config.vocab);
            batch->positions[first + i] = (int32_t)i;
            if (i > 0)
                batch->targets[first + i - 1] = batch->ids[first + i];
        }
        batch->targets[first + r->tokens - 1] = -1;
        batch->seq_start[s + 1] = (int32_t)(first + r->tokens);
        batch->seq_len[s] = (int32_t)r->tokens;
    }
    return 0;
}

/* FLOP of a trained token: 4 a weight of linears and head (forward, and dX backward; the base is frozen), 12 H d a key. What checkpointing computes
 * again is not counted: the model's arithmetic is. */
int pw_bench_train(struct pw_bench *b, struct pw_bench_run *r)
{
    struct pw_dev *dev = b->m->dev;
    const struct pw_pass_shape shape = {.tokens = r->batch * r->tokens, .sequences = r->batch, .longest = r->tokens, .train = true, .kept = b->checkpointing ? 1 : b->m->config.layers};
    struct pw_adapter adapter = {0};
    struct pw_arena a;
    struct pw_pool pool = {0}, gradients = {0};
    struct pw_pass pass = {0};
    struct pw_optim optim = {0};
    struct pw_packed batch = {0};
    struct pw_pass_bytes bytes;
    double loss;
    int rc = 0;
    pw_arena_init(&a);
    PW_PASS_OUT(place_adapter(b, &adapter, &a));
    pw_pass_size(b->m, &shape, &bytes);
    /* gradients and two averages of the adapter beside it */
    PW_PASS_OUT(within(b, "training", bytes.saved + bytes.scratch + bytes.device + (dev->host ? 3 : 4) * pw_adapter_bytes(&adapter), "a smaller --train, or --checkpointing"));
    PW_PASS_OUT(pw_pool_open(&pool, dev, bytes.saved + bytes.scratch, "training"));
    PW_PASS_OUT(pw_dev_reserve(dev, bytes.device));
    PW_PASS_OUT(pw_pass_place(&pass, b->m, &shape, &pool, &a));
    PW_PASS_OUT(connect(&pass, &optim, &adapter, &gradients, &a));
    PW_PASS_OUT(fill_batch(b, &batch, &a, r));
    const struct pw_pass_options o = {.backward = true, .dloss = 1.0 / (double)batch.n_trained};
    for (int run = 0; run < b->repeat + (dev->host ? 0 : 1); run++) {   /* a card's first step loads its code and is not counted */
        const struct pw_adamw step = {.lr = 1e-4, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .step = run + 1, .grad_scale = 1};
        PW_CHECK_OUT(!pw_interrupted(), PW_E_INTERRUPTED, "interrupted");
        PW_PASS_OUT(pw_dev_sync(dev));
        const double at = pw_seconds();
        PW_PASS_OUT(pw_optim_clear(dev, &optim));
        PW_PASS_OUT(pw_pass_run(&pass, &batch, &o, &loss));
        PW_PASS_OUT(pw_optim_step(dev, &optim, &step));
        PW_PASS_OUT(pw_dev_sync(dev));
        const double seconds = pw_seconds() - at;
        PW_CHECK_OUT(loss > 0 && loss < 100.0 * (double)batch.n_trained, PW_E_NUMERIC, "training: the loss of random tokens is %g a token", loss / (double)batch.n_trained);
        if (dev->host || run > 0)
            r->seconds = r->seconds == 0 || seconds < r->seconds ? seconds : r->seconds;
        pw_progress_at(b->c->progress, run + 1, b->repeat + (dev->host ? 0 : 1), "training");
    }
    PW_PASS_OUT(look_at_memory(b, r, pool.bytes + gradients.bytes + adapter.device.bytes));
    r->tokens_per_s = (double)batch.n_tokens / r->seconds;
    r->share = r->tokens_per_s * (4 * (linear_weights(b->m) + head_weights(b->m)) + 12 * attention_width(b->m) * (double)r->tokens / 2) / b->gemm;
out:
    pw_model_attach(b->m, NULL);
    pw_pass_close(&pass);
    pw_pool_close(&gradients);
    pw_pool_close(&pool);
    pw_adapter_free(&adapter);
    pw_arena_free(&a);
    return rc;
}

int pw_bench_attention(struct pw_bench *b)
{
    const struct pw_model_config *c = &b->m->config;
    int64_t most = 0;
    for (int i = 0; i < b->n_train; i++)
        most = b->train[i].batch * b->train[i].tokens > most ? b->train[i].batch * b->train[i].tokens : most;
    for (int i = 0; i < c->layers && most > 0; i++) {
        const struct pw_attn attn = {c->attn_scale, pw_model_config_window(c, i), c->attn_softcap};
        PW_PASS(pw_choices_measure_attn(&b->attention, b->m->dev, c->heads, c->kv_heads, c->head_dim, &attn, most));
    }
    return 0;
}
