/* Timelines over one model: which pages of the KV pool belong to whom, and one pass over a ragged batch of them.
 *
 * Every page is in one chain, that of a timeline in the order of its tokens or that of the free ones, so that there is one number a page and nothing to
 * allocate; a prefix is the chain of another timeline that is read but never written. A pass lists the pages it reads (pw_seqs). All memory is taken when the session opens, but for the adapter's scratch, which follows the adapter that is
 * attached. Knows nothing of text, stop rules or sampling. */
#include "infer/session.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "infer/memory_limit.h"

enum list { IDS, POS, KV_ROWS, TARGETS, BEST, LISTS };

enum { GRAPHS = 16 };
/* A captured step and all that it holds for; without `graph` a step that was seen once. */
struct step { bool used; int n_feeds; int64_t most_keys; bool prefix, draws; const void *scratch; uint64_t attached; void *graph; };

struct timeline { bool used; int32_t first, last; int64_t pages, capacity, length, coming; int prefix, shared; }; /* coming: the least length that its rotary factors are for */

struct pw_session {
    struct pw_model *m;
    int64_t rows, n_pages, batch_tokens;
    int max_seqs, n_open;
    struct timeline *timelines;            /* (max_seqs) */
    int32_t *next, free;                   /* (n_pages) the page after each in its chain, -1 at the end; the first free page */
    int64_t n_free;
    int32_t *listed;                       /* (n_pages) the pages of a pass */
    int32_t *listed_at;                    /* (max_seqs) where those of a prefix begin, -1: not yet */

    struct pw_pool kv, scratch, adapter;   /* adapter: xa of the attached adapter */
    struct pw_cache *cache;                /* per layer: pools (S, G, d) */
    struct pw_rope_tables rope;
    struct pw_work work;
    int xa_rank;
    struct pw_tensor x, h, picked, loss;   /* (T, D), (T, D), (T, D), (T) */
    int64_t fed;                           /* rows of the last pass */

    /* host side of a pass */
    int32_t *ids, *pos, *kv_rows, *targets, *best;                   /* (batch_tokens) */
    int32_t *q_start, *kv_start, *kv_len, *prefix_start, *prefix_len; /* (max_seqs + 1) */
    void *logits;                          /* (LOGIT_ROWS, V) f32 at most, on the device */
    /* device side, where that is not host memory */
    void *lists[LISTS], *seqs, *draws;
    struct step steps[GRAPHS];
    int next_step;                         /* the next to be overwritten */
    bool capture;
    int64_t replays;
    struct pw_arena arena;
};

/* ---- opening -------------------------------------------------------------------------------------------------------- */

enum { LOGIT_ROWS = 8 };   /* rows of logits that exist on a device at a time */

static size_t act_bytes(const struct pw_model *m, int64_t rows, int64_t columns)
{
    return (size_t)rows * (size_t)columns * pw_dtype_bytes(m->dev->act);
}

static int64_t pages_of(int64_t tokens)
{
    return tokens / PW_PAGE_ROWS + (tokens % PW_PAGE_ROWS > 0);
}

int64_t pw_session_rows(int64_t tokens)
{
    return pages_of(tokens) * PW_PAGE_ROWS;
}

/* Of one layer's keys, or values: the pool, and its scales. */
static size_t pool_bytes(const struct pw_model *m, int64_t rows)
{
    return (size_t)rows * (size_t)m->config.kv_heads * (size_t)m->config.head_dim * pw_dtype_bytes(m->cache_type);
}

static size_t scale_bytes(const struct pw_model *m, int64_t rows)
{
    return m->cache_type == PW_I8 ? (size_t)rows * (size_t)m->config.kv_heads * sizeof(float) : 0;
}

static size_t kv_bytes(const struct pw_model *m, int64_t rows)
{
    return 2 * (size_t)m->config.layers * (pw_pool_round(pool_bytes(m, rows)) + pw_pool_round(scale_bytes(m, rows)));
}

static struct pw_block_shape shape_of(const struct pw_model *m, int64_t tokens)
{
    return (struct pw_block_shape){.config = &m->config, .tokens = tokens, .type = m->dev->act};
}

/* No timeline is longer than the pool has rows. */
static struct pw_rope_shape rope_shape(const struct pw_model *m, int64_t rows, int64_t tokens)
{
    return (struct pw_rope_shape){.config = &m->config, .longest = rows, .tokens = tokens, .type = PW_F32};
}

static int64_t logit_rows(int64_t tokens)
{
    return tokens < LOGIT_ROWS ? tokens : LOGIT_ROWS;
}

static size_t logit_bytes(const struct pw_model *m, int64_t tokens)
{
    return (size_t)logit_rows(tokens) * (size_t)m->config.vocab * sizeof(float);
}

/* The lists of a pass, where they are not host memory. */
static size_t device_bytes(const struct pw_model *m, int64_t rows, int64_t tokens, int max_seqs)
{
    if (m->dev->host)
        return 0;
    return 5 * pw_pool_round((size_t)tokens * sizeof(int32_t)) + pw_seqs_bytes(max_seqs, pages_of(rows)) + pw_draws_bytes(max_seqs);
}

static size_t scratch_bytes(const struct pw_model *m, int64_t rows, int64_t tokens, int max_seqs)
{
    const struct pw_block_shape shape = shape_of(m, tokens);
    const struct pw_rope_shape rope = rope_shape(m, pw_session_rows(rows), tokens);
    return pw_rope_bytes(&rope) + pw_work_bytes(&shape) + 3 * pw_pool_round(act_bytes(m, tokens, m->config.hidden)) + pw_pool_round((size_t)tokens * sizeof(float)) +
           pw_pool_round(logit_bytes(m, tokens)) + device_bytes(m, rows, tokens, max_seqs);
}

/* The largest rank of the adapter that is attached; 0: none is. */
static int rank_of(const struct pw_model *m)
{
    int ranks[PW_LIN_COUNT], most = 0;
    pw_model_ranks(m, ranks);
    for (int l = 0; l < PW_LIN_COUNT; l++)
        most = ranks[l] > most ? ranks[l] : most;
    return most;
}

/* One buffer for the adapter's product serves all linears, since nothing is kept. */
static size_t adapter_bytes(const struct pw_model *m, int64_t tokens, int rank)
{
    return pw_pool_round(act_bytes(m, pw_expert_rows(&m->config, tokens), rank));
}

size_t pw_session_bytes(const struct pw_model *m, int64_t rows, int64_t batch_tokens, int max_seqs)
{
    return kv_bytes(m, pw_session_rows(rows)) + scratch_bytes(m, rows, batch_tokens, max_seqs) + adapter_bytes(m, batch_tokens, rank_of(m));
}

static int open_pools(struct pw_session *s)
{
    struct pw_model *m = s->m;
    const struct pw_model_config *c = &m->config;
    const struct pw_block_shape shape = shape_of(m, s->batch_tokens);
    const enum pw_dtype act = m->dev->act;
    PW_PASS(pw_pool_open(&s->kv, m->dev, kv_bytes(m, s->rows), "KV cache"));
    PW_PASS(pw_pool_open(&s->scratch, m->dev, scratch_bytes(m, s->rows, s->batch_tokens, s->max_seqs), "activations"));
    for (int i = 0; i < c->layers; i++) {
        struct pw_cache *cache = &s->cache[i];
        struct pw_tensor *pools[] = {&cache->k, &cache->v}, *scales[] = {&cache->k_scale, &cache->v_scale};
        for (int k = 0; k < 2; k++) {
            *pools[k] = pw_tensor3(pw_pool_take(&s->kv, pool_bytes(m, s->rows)), m->cache_type, s->rows, c->kv_heads, c->head_dim);
            *scales[k] = pw_none();
            if (m->cache_type == PW_I8)
                *scales[k] = pw_tensor2(pw_pool_take(&s->kv, scale_bytes(m, s->rows)), PW_F32, s->rows, c->kv_heads);
            PW_CHECK(pools[k]->data && (m->cache_type != PW_I8 || scales[k]->data), PW_E_NOMEM, "no room for the KV cache of layer %d", i);
        }
    }
    const struct pw_rope_shape rope = rope_shape(m, s->rows, s->batch_tokens);
    PW_PASS(pw_rope_place(&s->rope, m->dev, &s->scratch, &s->arena, &rope));
    PW_PASS(pw_work_place(&s->work, &s->scratch, &shape));
    struct pw_tensor *wide[] = {&s->x, &s->h, &s->picked};
    for (int i = 0; i < 3; i++) {
        *wide[i] = pw_tensor2(pw_pool_take(&s->scratch, act_bytes(m, s->batch_tokens, c->hidden)), act, s->batch_tokens, c->hidden);
        PW_CHECK(wide[i]->data, PW_E_NOMEM, "no room for activations");
    }
    s->loss = pw_tensor1(pw_pool_take(&s->scratch, (size_t)s->batch_tokens * sizeof(float)), PW_F32, s->batch_tokens);
    PW_CHECK(s->loss.data, PW_E_NOMEM, "no room for activations");
    s->logits = pw_pool_take(&s->scratch, logit_bytes(m, s->batch_tokens));
    PW_CHECK(s->logits, PW_E_NOMEM, "no room for logits");
    if (m->dev->host)
        return 0;
    for (int i = 0; i < LISTS; i++) {
        s->lists[i] = pw_pool_take(&s->scratch, (size_t)s->batch_tokens * sizeof(int32_t));
        PW_CHECK(s->lists[i], PW_E_NOMEM, "no room for the lists of a pass");
    }
    s->seqs = pw_pool_take(&s->scratch, pw_seqs_bytes(s->max_seqs, s->n_pages));
    s->draws = pw_pool_take(&s->scratch, pw_draws_bytes(s->max_seqs));
    PW_CHECK(s->seqs && s->draws, PW_E_NOMEM, "no room for the lists of a pass");
    return 0;
}

size_t pw_session_scratch(const struct pw_model *m, int64_t rows, int64_t batch_tokens)
{
    size_t most = pw_block_scratch(m, batch_tokens, pw_session_rows(rows), false);
    const size_t others[] = {pw_scratch_head(m->dev, batch_tokens, &m->head, false), pw_scratch_linear(m->dev, batch_tokens, &m->head, false),
                             pw_scratch_sample(m->dev, m->config.vocab)};
    for (int i = 0; i < 3; i++)
        most = others[i] > most ? others[i] : most;
    return most;
}

static int open_host(struct pw_session *s)
{
    const size_t tokens = (size_t)s->batch_tokens, seqs = (size_t)s->max_seqs + 1, layers = (size_t)s->m->config.layers;
    int32_t **per_token[] = {&s->ids, &s->pos, &s->kv_rows, &s->targets, &s->best};
    int32_t **per_seq[] = {&s->q_start, &s->kv_start, &s->kv_len, &s->prefix_start, &s->prefix_len};
    s->timelines = pw_arena_array(&s->arena, seqs, sizeof *s->timelines);
    s->next = pw_arena_array(&s->arena, (size_t)s->n_pages, sizeof *s->next);
    s->listed = pw_arena_array(&s->arena, (size_t)s->n_pages, sizeof *s->listed);
    s->listed_at = pw_arena_array(&s->arena, seqs, sizeof *s->listed_at);
    s->cache = pw_arena_array(&s->arena, layers, sizeof *s->cache);
    bool all = s->timelines && s->next && s->listed && s->listed_at && s->cache;
    for (int i = 0; i < 5; i++) {
        *per_token[i] = pw_arena_array(&s->arena, tokens, sizeof(int32_t));
        *per_seq[i] = pw_arena_array(&s->arena, seqs, sizeof(int32_t));
        all = all && *per_token[i] && *per_seq[i];
    }
    PW_CHECK(all, PW_E_NOMEM, "out of memory for a session of %d timelines", s->max_seqs);
    return 0;
}

int pw_session_open(struct pw_session **out, struct pw_model *m, int64_t rows, int64_t batch_tokens, int max_seqs)
{
    struct pw_session *s = NULL;
    int rc = 0;
    PW_CHECK(rows > 0 && rows <= INT32_MAX - PW_PAGE_ROWS && batch_tokens > 0 && batch_tokens <= INT32_MAX && max_seqs > 0 && max_seqs < INT32_MAX, PW_E_FAIL,
             "opening a session: %lld rows, %lld tokens a pass, %d timelines", (long long)rows, (long long)batch_tokens, max_seqs);
    PW_PASS(pw_memory_check_session(m, rows, batch_tokens, max_seqs));
    s = pw_alloc_zero(1, sizeof *s);
    PW_CHECK_OUT(s, PW_E_NOMEM, "out of memory");
    s->m = m;
    s->rows = pw_session_rows(rows);
    s->n_pages = pages_of(rows);
    s->batch_tokens = batch_tokens;
    s->max_seqs = max_seqs;
    pw_arena_init(&s->arena);
    PW_TRY_OUT(open_host(s), "opening a session");
    pw_session_reset(s);
    PW_TRY_OUT(open_pools(s), "opening a session");
    PW_TRY_OUT(pw_dev_reserve(m->dev, pw_session_scratch(m, s->rows, batch_tokens)), "opening a session");
    s->capture = pw_dev_captures(m->dev) && !m->stream.count;   /* which layer is where changes from step to step */
out:
    if (rc < 0) {
        pw_session_close(s);
        s = NULL;
    }
    *out = s;
    return rc;
}

static void forget_steps(struct pw_session *s)
{
    for (int i = 0; i < GRAPHS; i++)
        pw_dev_graph_free(s->m->dev, s->steps[i].graph);
    memset(s->steps, 0, sizeof s->steps);
}

void pw_session_close(struct pw_session *s)
{
    if (!s)
        return;
    forget_steps(s);
    pw_pool_close(&s->adapter);
    pw_pool_close(&s->scratch);
    pw_pool_close(&s->kv);
    pw_arena_free(&s->arena);
    pw_free(s);
}

const struct pw_model *pw_session_model(const struct pw_session *s)
{
    return s->m;
}

void pw_session_capture(struct pw_session *s, bool on)
{
    s->capture = on && pw_dev_captures(s->m->dev) && !s->m->stream.count;
}

int64_t pw_session_replays(const struct pw_session *s)
{
    return s->replays;
}

int64_t pw_session_batch_tokens(const struct pw_session *s)
{
    return s->batch_tokens;
}

/* ---- timelines ------------------------------------------------------------------------------------------------------ */

static bool is_open(const struct pw_session *s, int seq)
{
    return seq >= 0 && seq < s->max_seqs && s->timelines[seq].used;
}

static int64_t length_of(const struct pw_session *s, int seq)
{
    const struct timeline *t = &s->timelines[seq];
    return t->length + (t->prefix >= 0 ? s->timelines[t->prefix].length : 0);
}

/* Pages for n more tokens; there are enough. */
static void grow(struct pw_session *s, struct timeline *t, int64_t n)
{
    while (t->pages < pages_of(t->length + n)) {
        const int32_t page = s->free;
        s->free = s->next[page];
        s->n_free--;
        s->next[page] = -1;
        if (t->pages++ == 0)
            t->first = page;
        else
            s->next[t->last] = page;
        t->last = page;
    }
}

/* Gives back the pages after those that hold `tokens`. */
static void shrink(struct pw_session *s, struct timeline *t, int64_t tokens)
{
    const int64_t keep = pages_of(tokens);
    int32_t last = -1, page = t->first;
    if (keep >= t->pages)
        return;
    for (int64_t i = 0; i < keep; i++) {
        last = page;
        page = s->next[page];
    }
    s->next[t->last] = s->free;
    s->free = page;
    s->n_free += t->pages - keep;
    if (last >= 0)
        s->next[last] = -1;
    else
        t->first = -1;
    t->last = last;
    t->pages = keep;
}

int64_t pw_session_room(const struct pw_session *s)
{
    return s->n_free * PW_PAGE_ROWS;
}

int pw_session_add(struct pw_session *s, int64_t capacity, int prefix)
{
    int seq = 0;
    PW_CHECK(capacity > 0, PW_E_FAIL, "a timeline of %lld tokens", (long long)capacity);
    PW_CHECK(s->n_open < s->max_seqs, PW_E_FAIL, "the session is open for %d timelines and all are taken", s->max_seqs);
    if (prefix >= 0) {
        PW_CHECK(is_open(s, prefix), PW_E_FAIL, "prefix: timeline %d is not open", prefix);
        PW_CHECK(s->timelines[prefix].prefix < 0, PW_E_FAIL, "prefix: timeline %d has a prefix itself", prefix);
        PW_CHECK(s->timelines[prefix].length > 0, PW_E_FAIL, "prefix: timeline %d is empty", prefix);
    }
    PW_CHECK(capacity <= s->rows, PW_E_FAIL, "the KV cache of %lld rows never has room for a timeline of %lld", (long long)s->rows, (long long)capacity);
    while (s->timelines[seq].used)
        seq++;
    s->n_open++;
    s->timelines[seq] = (struct timeline){.used = true, .first = -1, .last = -1, .capacity = capacity, .prefix = prefix >= 0 ? prefix : -1};
    if (prefix >= 0)
        s->timelines[prefix].shared++;
    return seq;
}

void pw_session_drop(struct pw_session *s, int seq)
{
    if (!is_open(s, seq) || s->timelines[seq].shared > 0)
        return;
    if (s->timelines[seq].prefix >= 0)
        s->timelines[s->timelines[seq].prefix].shared--;
    shrink(s, &s->timelines[seq], 0);
    s->n_open--;
    s->timelines[seq] = (struct timeline){0};
}

void pw_session_reset(struct pw_session *s)
{
    memset(s->timelines, 0, (size_t)s->max_seqs * sizeof *s->timelines);
    for (int64_t i = 0; i < s->n_pages; i++)
        s->next[i] = i + 1 < s->n_pages ? (int32_t)(i + 1) : -1;
    s->free = 0;
    s->n_free = s->n_pages;
    s->n_open = 0;
    s->fed = 0;
}

int pw_session_rewind(struct pw_session *s, int seq, int64_t tokens)
{
    PW_CHECK(is_open(s, seq), PW_E_FAIL, "rewinding: timeline %d is not open", seq);
    struct timeline *t = &s->timelines[seq];
    PW_CHECK(t->shared == 0, PW_E_FAIL, "rewinding: timeline %d is the prefix of %d others", seq, t->shared);
    PW_CHECK(tokens >= 0 && tokens <= t->length, PW_E_FAIL, "rewinding timeline %d to %lld of its %lld tokens", seq, (long long)tokens,
             (long long)t->length);
    shrink(s, t, tokens);
    t->length = tokens;
    if (tokens == 0)
        t->coming = 0;
    return 0;
}

/* The length whose rotary factors hold for a timeline of `length` tokens in all. */
static int64_t factors_of(const struct pw_session *s, int seq, int64_t length)
{
    const struct timeline *t = &s->timelines[seq];
    const int64_t own = t->length > 0 ? t->coming : t->coming > length ? t->coming : length, shared = t->prefix >= 0 ? s->timelines[t->prefix].coming : 0;
    return own > shared ? own : shared;
}

int pw_session_expect(struct pw_session *s, int seq, int64_t length)
{
    PW_CHECK(is_open(s, seq), PW_E_FAIL, "timeline %d is not open", seq);
    PW_CHECK(s->timelines[seq].length == 0, PW_E_FAIL, "timeline %d: its length is said after it was begun", seq);
    s->timelines[seq].coming = length;
    return 0;
}

int pw_session_stretch(struct pw_session *s, int seq, int64_t length)
{
    PW_CHECK(is_open(s, seq), PW_E_FAIL, "timeline %d is not open", seq);
    PW_CHECK(s->m->config.rope_scaling == PW_ROPE_DYNAMIC, PW_E_FAIL, "timeline %d: only dynamic rope scaling goes on from what was rotated otherwise", seq);
    PW_CHECK(length >= length_of(s, seq), PW_E_FAIL, "timeline %d: stretched to %lld, and it has %lld tokens", seq, (long long)length, (long long)length_of(s, seq));
    s->timelines[seq].coming = length;
    return 0;
}

bool pw_session_stale(const struct pw_session *s, int seq, int64_t n)
{
    const struct pw_model_config *c = &s->m->config;
    if (!is_open(s, seq) || length_of(s, seq) == 0 || !pw_rope_by_length(c))
        return false;
    const struct timeline *t = &s->timelines[seq];
    const int64_t length = length_of(s, seq) + n, held = t->length > 0 ? t->coming : s->timelines[t->prefix].coming;
    const int64_t factors = factors_of(s, seq, length);
    return !pw_rope_alike(c, factors > length ? factors : length, held);
}

int64_t pw_session_length(const struct pw_session *s, int seq)
{
    return is_open(s, seq) ? length_of(s, seq) : 0;
}

/* ---- one pass ------------------------------------------------------------------------------------------------------- */

static int check_feed(const struct pw_session *s, const struct pw_feed *feeds, int n_feeds, int64_t *total)
{
    const struct pw_model_config *c = &s->m->config;
    int64_t pages = 0;
    *total = 0;
    PW_CHECK(n_feeds > 0 && n_feeds <= s->max_seqs, PW_E_FAIL, "a pass over %d timelines, but the session is open for %d", n_feeds, s->max_seqs);
    for (int i = 0; i < n_feeds; i++) {
        const struct pw_feed *f = &feeds[i];
        PW_CHECK(is_open(s, f->seq), PW_E_FAIL, "timeline %d is not open", f->seq);
        const struct timeline *t = &s->timelines[f->seq];
        PW_CHECK(t->shared == 0, PW_E_FAIL, "timeline %d is the prefix of %d others and must not grow", f->seq, t->shared);
        PW_CHECK(f->n > 0, PW_E_FAIL, "timeline %d: nothing to append", f->seq);
        for (int j = 0; j < i; j++)
            PW_CHECK(feeds[j].seq != f->seq, PW_E_FAIL, "timeline %d is fed twice in one pass", f->seq);
        PW_CHECK(f->n <= t->capacity - t->length, PW_E_FAIL, "timeline %d: %lld more tokens after %lld exceed its capacity of %lld", f->seq,
                 (long long)f->n, (long long)t->length, (long long)t->capacity);
        PW_CHECK(f->n <= c->context - length_of(s, f->seq), PW_E_FAIL, "timeline %d: %lld more tokens after %lld exceed the context of %lld", f->seq,
                 (long long)f->n, (long long)length_of(s, f->seq), (long long)c->context);
        PW_CHECK(!pw_session_stale(s, f->seq, f->n), PW_E_FAIL, "timeline %d: with %lld more tokens it is longer than the original context of %.0f, for which its %lld were rotated%s: it must be fed again from its start",
                 f->seq, (long long)f->n, c->rope_original_context, (long long)length_of(s, f->seq), length_of(s, f->seq) > c->rope_original_context ? " otherwise" : "");
        PW_CHECK(f->n <= s->batch_tokens - *total, PW_E_FAIL, "the pass exceeds %lld tokens", (long long)s->batch_tokens);
        for (int64_t j = 0; j < f->n; j++)
            PW_CHECK(f->ids[j] >= 0 && f->ids[j] < c->vocab, PW_E_FORMAT, "token id %d at %lld: expected 0 to %lld", f->ids[j], (long long)j,
                     (long long)c->vocab - 1);
        *total += f->n;
        const int64_t more = pages_of(t->length + f->n) - t->pages;
        pages += more > 0 ? more : 0;
    }
    PW_CHECK(pages <= s->n_free, PW_E_FAIL, "the KV cache is full: the pass takes %lld more pages of %d rows and %lld of %lld are free", (long long)pages, PW_PAGE_ROWS,
             (long long)s->n_free, (long long)s->n_pages);
    return 0;
}

static int follow_adapter(struct pw_session *s)
{
    const int most = rank_of(s->m);
    if (most > s->xa_rank) {
        forget_steps(s);
        pw_pool_close(&s->adapter);
        s->adapter = (struct pw_pool){0};
        s->xa_rank = 0;
        const int64_t rows = pw_expert_rows(&s->m->config, s->batch_tokens);
        PW_PASS(pw_pool_open(&s->adapter, s->m->dev, adapter_bytes(s->m, s->batch_tokens, most), "adapter activations"));
        void *data = pw_pool_take(&s->adapter, act_bytes(s->m, rows, most));
        PW_CHECK(data, PW_E_NOMEM, "no room for the adapter's activations");
        for (int l = 0; l < PW_LIN_COUNT; l++)
            s->work.xa[l] = pw_tensor2(data, s->m->dev->act, rows, most);
        s->xa_rank = most;
        PW_PASS(pw_dev_reserve(s->m->dev, pw_session_scratch(s->m, s->rows, s->batch_tokens)));
    }
    return 0;
}

/* Writes the pages that hold the first n tokens of a timeline to the list, and says where they begin. */
static int32_t list_pages(struct pw_session *s, const struct timeline *t, int64_t n, int32_t *used)
{
    const int32_t at = *used;
    int32_t page = t->first;
    for (int64_t i = 0; i < pages_of(n); i++) {
        s->listed[(*used)++] = page;
        page = s->next[page];
    }
    return at;
}

/* The rows of the rotary tables for the tokens of a pass. */
static int turn(struct pw_session *s, const struct pw_feed *feeds, int n_feeds)
{
    int64_t row = 0;
    pw_rope_pass(&s->rope);
    for (int i = 0; i < n_feeds; i++) {
        const int64_t before = length_of(s, feeds[i].seq), length = before + feeds[i].n, factors = pw_rope_by_length(&s->m->config) ? factors_of(s, feeds[i].seq, length) : 0;
        PW_TRY(pw_rope_rows(&s->rope, before, feeds[i].n, factors > length ? factors : length, s->pos + row), "timeline %d", feeds[i].seq);
        row += feeds[i].n;
    }
    return 0;
}

static bool lay_out(struct pw_session *s, const struct pw_feed *feeds, int n_feeds, int32_t *n_listed)
{
    bool any_prefix = false;
    int32_t row = 0;
    *n_listed = 0;
    for (int i = 0; i < n_feeds; i++)
        if (s->timelines[feeds[i].seq].prefix >= 0)
            s->listed_at[s->timelines[feeds[i].seq].prefix] = -1;
    for (int i = 0; i < n_feeds; i++) {
        struct timeline *t = &s->timelines[feeds[i].seq];
        const struct timeline *prefix = t->prefix >= 0 ? &s->timelines[t->prefix] : NULL;
        grow(s, t, feeds[i].n);
        if (prefix && s->listed_at[t->prefix] < 0)
            s->listed_at[t->prefix] = list_pages(s, prefix, prefix->length, n_listed);
        s->q_start[i] = row;
        s->kv_len[i] = (int32_t)(t->length + feeds[i].n);
        s->kv_start[i] = list_pages(s, t, s->kv_len[i], n_listed);
        s->prefix_start[i] = prefix ? s->listed_at[t->prefix] : 0;
        s->prefix_len[i] = prefix ? (int32_t)prefix->length : 0;
        any_prefix |= prefix != NULL;
        for (int64_t j = 0; j < feeds[i].n; j++, row++) {
            s->ids[row] = feeds[i].ids[j];
            const int64_t at = t->length + j;
            s->kv_rows[row] = s->listed[s->kv_start[i] + at / PW_PAGE_ROWS] * PW_PAGE_ROWS + (int32_t)(at % PW_PAGE_ROWS);
        }
    }
    s->q_start[n_feeds] = row;
    return any_prefix;
}

/* A list of the pass as the device sees it. */
static int list_of(struct pw_session *s, enum list which, int32_t *host, int64_t n, struct pw_tensor *out)
{
    *out = pw_tensor1(s->m->dev->host ? (void *)host : s->lists[which], PW_I32, n);
    return s->m->dev->host ? 0 : pw_dev_put(s->m->dev, out->data, host, (size_t)n * sizeof *host);
}

/* The ops of a pass, over lists that lie where the device sees them. */
static int compute(struct pw_session *s, struct pw_block_batch *b, struct pw_tensor ids)
{
    struct pw_model *m = s->m;
    const struct pw_model_config *c = &m->config;
    const struct pw_tensor x = pw_rows(s->x, 0, b->tokens), h = pw_rows(s->h, 0, b->tokens);
    PW_PASS(pw_embed_fwd(m->dev, x, &m->embed, ids));
    if (c->embed_scale != 1.0)
        PW_PASS(pw_scale(m->dev, x, pw_model_embed_scale(m)));
    for (int i = 0; i < c->layers; i++) {
        b->cache = s->cache[i];
        PW_PASS(pw_stream_need(&m->stream, i, i + 1 < c->layers ? i + 1 : 0, 1));
        PW_PASS(pw_block_forward(m, i, x, b, &s->work, NULL));
    }
    return pw_rmsnorm_fwd(m->dev, h, pw_none(), x, m->norm_final, c->norm_eps, c->norm_offset);
}

/* Logits of some rows of h, capped, to y (n, V). */
static int head(const struct pw_model *m, struct pw_tensor y, struct pw_tensor h)
{
    PW_TRY(pw_linear_fwd(m->dev, y, pw_none(), h, &m->head, (struct pw_drop){0}), "head");
    return m->config.logit_softcap > 0 ? pw_softcap(m->dev, y, m->config.logit_softcap) : 0;
}

/* Tokens of the rows of h, one a draw, where the device sees them: logits exist for a few rows at a time. */
static int draw(struct pw_session *s, struct pw_tensor h, const struct pw_draws *draws, struct pw_tensor ids)
{
    const struct pw_model *m = s->m;
    const int64_t n = h.shape[0], step = logit_rows(s->batch_tokens);
    for (int64_t at = 0; at < n; at += step) {
        const int64_t some = n - at < step ? n - at : step;
        const struct pw_tensor y = pw_tensor2(s->logits, PW_F32, some, m->config.vocab);
        const struct pw_draws part = {.n = (int)some, .rows = draws->rows + at, .device = draws->device ? (const struct pw_draw *)draws->device + at : NULL};
        PW_PASS(head(m, y, pw_rows(h, at, some)));
        PW_PASS(pw_sample(m->dev, pw_rows(ids, at, some), y, &part));
    }
    return 0;
}

/* The most keys that the step serves: doublings, so that few steps are captured while texts grow; never more than there is scratch for. */
static int64_t most_keys(const struct pw_session *s, const struct pw_seqs *seqs)
{
    int64_t longest = 1, most = 256;
    for (int i = 0; i < seqs->n; i++) {
        const int64_t keys = seqs->kv_len[i] + (seqs->prefix_len ? seqs->prefix_len[i] : 0);
        longest = keys > longest ? keys : longest;
    }
    while (most < longest)
        most *= 2;
    return most < 2 * s->rows ? most : 2 * s->rows;
}

static bool same_step(const struct step *a, const struct step *b)
{
    return a->used && a->n_feeds == b->n_feeds && a->most_keys == b->most_keys && a->prefix == b->prefix && a->draws == b->draws && a->scratch == b->scratch &&
           a->attached == b->attached;
}

/* What is drawn at the end of a pass: from which rows of it. rows NULL: from each, so that it can be a part of a captured step. */
struct drawing { int n; const int32_t *rows; struct pw_draws draws; struct pw_tensor ids; };

static int compute_and_draw(struct pw_session *s, struct pw_block_batch *b, struct pw_tensor ids, const struct drawing *d)
{
    PW_PASS(compute(s, b, ids));
    return d && !d->rows ? draw(s, pw_rows(s->h, 0, b->tokens), &d->draws, d->ids) : 0;
}

/* A pass of one token a timeline. The first of its kind is launched, since libraries and the driver make ready what they need then; the second is
 * captured. */
static int compute_step(struct pw_session *s, struct pw_block_batch *b, struct pw_seqs *seqs, struct pw_tensor ids, const struct drawing *d)
{
    struct pw_dev *dev = s->m->dev;
    const struct step wanted = {.used = true, .n_feeds = seqs->n, .most_keys = most_keys(s, seqs), .prefix = seqs->prefix_len != NULL,
                                .draws = d && !d->rows, .scratch = dev->scratch, .attached = s->m->attached};
    struct step *step = NULL;
    for (int i = 0; i < GRAPHS && !step; i++)
        step = same_step(&s->steps[i], &wanted) ? &s->steps[i] : NULL;
    seqs->most_keys = wanted.most_keys;
    if (!step) {
        step = &s->steps[s->next_step];
        s->next_step = (s->next_step + 1) % GRAPHS;
        pw_dev_graph_free(dev, step->graph);
        *step = wanted;
        return compute_and_draw(s, b, ids, d);
    }
    if (!step->graph) {
        PW_PASS(pw_dev_capture(dev));
        const int rc = compute_and_draw(s, b, ids, d), end = pw_dev_captured(dev, rc < 0 ? NULL : &step->graph);
        PW_PASS(rc);
        PW_PASS(end);
    }
    s->replays++;
    PW_TRY(pw_dev_replay(dev, step->graph), "a captured step of %d rows through %d layers", seqs->n, s->m->config.layers);
    return 0;
}

static int feed(struct pw_session *s, const struct pw_feed *feeds, int n_feeds, const struct drawing *d)
{
    int64_t n;
    int32_t n_listed;
    PW_PASS(check_feed(s, feeds, n_feeds, &n));
    PW_PASS(follow_adapter(s));
    s->fed = 0;
    PW_PASS(turn(s, feeds, n_feeds));
    const bool any_prefix = lay_out(s, feeds, n_feeds, &n_listed);
    struct pw_seqs seqs = {.n = n_feeds, .q_start = s->q_start, .kv_start = s->kv_start, .kv_len = s->kv_len,
                           .prefix_start = any_prefix ? s->prefix_start : NULL, .prefix_len = any_prefix ? s->prefix_len : NULL,
                           .pages = s->listed, .n_pages = n_listed, .page = PW_PAGE_ROWS};
    struct pw_block_batch b = {.tokens = n, .rope = &s->rope, .seqs = &seqs};
    struct pw_tensor ids;
    PW_PASS(list_of(s, IDS, s->ids, n, &ids));
    PW_PASS(list_of(s, POS, s->pos, n, &b.pos));
    PW_PASS(list_of(s, KV_ROWS, s->kv_rows, n, &b.kv_rows));
    PW_PASS(pw_seqs_put(s->m->dev, s->seqs, &seqs));
    PW_PASS(s->capture && n == n_feeds ? compute_step(s, &b, &seqs, ids, d) : compute_and_draw(s, &b, ids, d));
    for (int i = 0; i < n_feeds; i++) {
        struct timeline *t = &s->timelines[feeds[i].seq];
        t->coming = factors_of(s, feeds[i].seq, length_of(s, feeds[i].seq) + feeds[i].n);
        t->length += feeds[i].n;
    }
    s->fed = n;
    return 0;
}

int pw_session_feed(struct pw_session *s, const struct pw_feed *feeds, int n_feeds)
{
    return feed(s, feeds, n_feeds, NULL);
}

/* picked (n, D) = these rows of the last pass. */
static int pick(struct pw_session *s, const int32_t *rows, int n, struct pw_tensor *picked)
{
    struct pw_tensor list;
    memcpy(s->targets, rows, (size_t)n * sizeof *rows);
    *picked = pw_rows(s->picked, 0, n);
    PW_PASS(list_of(s, TARGETS, s->targets, n, &list));
    return pw_gather_rows(s->m->dev, *picked, pw_rows(s->h, 0, s->fed), list);
}

int pw_session_next(struct pw_session *s, const struct pw_feed *feeds, int n_feeds, const int32_t *rows, const struct pw_draw *draws, int n, int32_t *ids)
{
    struct pw_dev *dev = s->m->dev;
    struct drawing d = {.n = n, .draws = {.n = n, .rows = draws}};
    int64_t fed = 0;
    for (int i = 0; i < n_feeds; i++)
        fed += feeds[i].n;
    PW_CHECK(n >= 0 && n <= n_feeds && n <= s->max_seqs, PW_E_FAIL, "tokens of %d rows, but the pass is over %d timelines", n, n_feeds);
    for (int i = 0; i < n; i++) {
        PW_CHECK(rows[i] >= 0 && rows[i] < fed, PW_E_FAIL, "the token after row %d, but the pass has %lld", rows[i], (long long)fed);
        if (rows[i] != i || n < fed)
            d.rows = rows;
    }
    if (n == 0)
        return feed(s, feeds, n_feeds, NULL);
    PW_PASS(pw_draws_put(dev, s->draws, &d.draws));
    d.ids = pw_tensor1(dev->host ? (void *)s->best : s->lists[BEST], PW_I32, n);
    PW_PASS(feed(s, feeds, n_feeds, &d));
    if (d.rows) {
        struct pw_tensor picked;
        PW_PASS(pick(s, rows, n, &picked));
        PW_PASS(draw(s, picked, &d.draws, d.ids));
    }
    return pw_dev_get(dev, ids, d.ids.data, pw_bytes(d.ids));
}

int pw_session_logits(struct pw_session *s, const int32_t *rows, int n, float *logits)
{
    const struct pw_model *m = s->m;
    const int64_t V = m->config.vocab, step = m->dev->host ? n : logit_rows(s->batch_tokens);
    struct pw_tensor picked;
    PW_CHECK(s->fed > 0, PW_E_FAIL, "logits are asked for before a pass");
    PW_CHECK(n > 0 && n <= s->batch_tokens, PW_E_FAIL, "logits of %d rows, but the session is open for %lld", n, (long long)s->batch_tokens);
    for (int i = 0; i < n; i++)
        PW_CHECK(rows[i] >= 0 && rows[i] < s->fed, PW_E_FAIL, "logits of row %d, but the pass had %lld", rows[i], (long long)s->fed);
    PW_PASS(pick(s, rows, n, &picked));
    for (int64_t at = 0; at < n; at += step) {     /* at once where the device computes in host memory, else a few rows at a time */
        const int64_t some = n - at < step ? n - at : step;
        const struct pw_tensor y = pw_tensor2(m->dev->host ? (void *)logits : s->logits, PW_F32, some, V);
        PW_PASS(head(m, y, pw_rows(picked, at, some)));
        if (!m->dev->host)
            PW_PASS(pw_dev_get(m->dev, logits + at * V, y.data, pw_bytes(y)));
    }
    return 0;
}

int pw_session_logprobs(struct pw_session *s, const int32_t *targets, float *logprobs, int32_t *argmax)
{
    struct pw_model *m = s->m;
    const int64_t n = s->fed;
    struct pw_tensor list, best = pw_none();
    PW_CHECK(n > 0, PW_E_FAIL, "log-probabilities are asked for before a pass");
    memcpy(s->targets, targets, (size_t)n * sizeof *targets);
    PW_PASS(list_of(s, TARGETS, s->targets, n, &list));
    if (argmax)
        best = pw_tensor1(m->dev->host ? (void *)s->best : s->lists[BEST], PW_I32, n);
    const struct pw_tensor loss = pw_rows(s->loss, 0, n);
    PW_TRY(pw_head_loss(m->dev, loss, best, pw_none(), pw_none(), pw_rows(s->h, 0, n), &m->head, list, pw_none(), m->config.logit_softcap), "head");
    PW_PASS(pw_dev_get(m->dev, logprobs, loss.data, pw_bytes(loss)));
    for (int64_t i = 0; i < n; i++)
        logprobs[i] = targets[i] >= 0 ? -logprobs[i] : 0;
    if (argmax)
        PW_PASS(pw_dev_get(m->dev, argmax, best.data, pw_bytes(best)));
    return 0;
}
