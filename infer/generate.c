/* The loop from prompts to continuations. Owns the running state of each request: its timeline, its decoder, and how much of its text has
 * been handed out. Knows nothing of chat templates or of where the text goes. */
#include "infer/generate.h"

#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/progress.h"
#include "infer/memory_limit.h"

struct running {
    struct pw_gen *g;
    int seq;
    bool done;
    int64_t room;              /* tokens that may follow: max_tokens, or less where the context ends */
    bool cut_by_context;
    struct pw_detok *detok;
    size_t emitted;            /* bytes of g->text handed to piece() */
    int32_t *ids;              /* prompt and continuation; g->tokens is its tail */
    int64_t n, fed;            /* tokens known; tokens in the cache */
    int64_t cached;            /* rows of the cache that it may come to hold */
};
struct loop {
    struct pw_session *s;
    const struct pw_tokenizer *tokenizer;
    const struct pw_gen_options *opt;
    const struct pw_model_config *c;
    struct running *runs;
    struct pw_feed *feeds;
    int32_t *rows, *which;     /* of each row that a token is drawn from: where in the pass, whose */
    struct pw_draw *draws;     /* of the same rows, and what was drawn */
    int32_t *ids;
    int n;
    int64_t batch_tokens;
    int64_t left;              /* rows of the cache that no request that has begun may come to hold */
    double started;
};

size_t pw_gen_stop_ids(const struct pw_tokenizer *t, const struct pw_model_config *c, int32_t ids[16])
{
    size_t n = 0, given;
    const int32_t *stops = pw_tokenizer_stops(t, &given);
    for (size_t i = 0; i < given + (size_t)c->n_eos && n < 16; i++) {
        const int32_t id = i < given ? stops[i] : c->eos[i - given];
        bool known = id < 0;
        for (size_t j = 0; j < n; j++)
            known |= ids[j] == id;
        if (!known)
            ids[n++] = id;
    }
    return n;
}

static int64_t rows_of(const struct pw_model_config *c, const struct pw_gen *g)
{
    const int64_t room = g->max_tokens < c->context - g->n_prompt ? g->max_tokens : c->context - g->n_prompt;
    return pw_session_rows(g->n_prompt + (room > 0 ? room : 0));
}

static bool has_room(const struct pw_model *m, int64_t rows, int64_t batch_tokens, int n)
{
    const int rc = pw_memory_check_session(m, rows, batch_tokens, n);
    if (rc < 0)
        pw_error_clear();
    return rc == 0;
}

int64_t pw_gen_rows(const struct pw_model *m, const struct pw_gen *requests, int n, int64_t rows, int64_t batch_tokens)
{
    int64_t low = 0, high = rows;              /* low has room from the first look on, high has not */
    for (int i = 0; i < n; i++) {
        const int64_t one = rows_of(&m->config, &requests[i]);
        low = one > low ? one : low;
    }
    if (has_room(m, rows, batch_tokens, n))
        return rows;
    if (!has_room(m, low, batch_tokens, n))
        return low;
    while (high - low > PW_PAGE_ROWS) {
        const int64_t middle = low + (high - low) / (2 * PW_PAGE_ROWS) * PW_PAGE_ROWS;
        if (has_room(m, middle, batch_tokens, n))
            low = middle;
        else
            high = middle;
    }
    return low;
}

void pw_gen_sizes(const struct pw_model_config *c, const struct pw_gen *requests, int n, int64_t chunk, int64_t *rows, int64_t *batch_tokens)
{
    int64_t prompts = 0;
    *rows = 0;
    for (int i = 0; i < n; i++) {
        *rows += rows_of(c, &requests[i]);
        prompts += requests[i].n_prompt;
    }
    *batch_tokens = prompts < chunk ? prompts : chunk;
    if (*batch_tokens < n)
        *batch_tokens = n;
}

void pw_gen_free(struct pw_gen *g)
{
    pw_free(g->tokens);
    pw_buf_free(&g->text);
    g->tokens = NULL;
    g->n_tokens = 0;
}

/* ---- text ----------------------------------------------------------------------------------------------------------- */

/* Where the first stop string begins in text[from..], or SIZE_MAX; *held = where the longest beginning of one starts at the end. */
static size_t find_stop(const struct pw_gen *g, size_t from, size_t *held)
{
    const struct pw_buf *t = &g->text;
    size_t found = SIZE_MAX;
    *held = t->len;
    for (size_t i = 0; i < g->n_stops; i++) {
        const size_t len = strlen(g->stops[i]);
        if (len == 0)
            continue;
        for (size_t at = from; at < t->len; at++) {
            const size_t left = t->len - at, n = left < len ? left : len;
            if (memcmp(t->data + at, g->stops[i], n) != 0)
                continue;
            if (n == len && at < found)
                found = at;
            if (n < len && at < *held)
                *held = at;
            break;
        }
    }
    return found;
}

static int emit(struct running *r, size_t end)
{
    struct pw_gen *g = r->g;
    int rc = 0;
    if (g->piece && end > r->emitted)
        rc = g->piece(g->ctx, g->text.data + r->emitted, end - r->emitted);
    if (end > r->emitted)
        r->emitted = end;
    return rc;
}

/* After the text has grown: cut at a stop string, hand out what is certain. */
static int look_at_text(struct running *r, bool last)
{
    size_t held;
    const size_t stop = find_stop(r->g, r->emitted, &held);
    PW_PASS(pw_buf_status(&r->g->text));
    if (stop != SIZE_MAX) {
        r->g->text.len = stop;
        r->g->text.data[stop] = '\0';
        r->g->finish = "stop";
        r->done = true;
        return emit(r, stop);
    }
    return emit(r, last ? r->g->text.len : held);
}

static int finish(struct running *r, const char *how)
{
    r->g->finish = how;
    r->done = true;
    PW_PASS(pw_detok_end(r->detok, &r->g->text));
    return look_at_text(r, true);
}

static int take_token(struct loop *k, struct running *r, int32_t id)
{
    struct pw_gen *g = r->g;
    if (g->n_tokens == 0)
        g->seconds_to_first = pw_seconds() - k->started;
    for (size_t i = 0; i < k->opt->n_stop_ids; i++)
        if (id == k->opt->stop_ids[i])
            return finish(r, "stop");
    r->ids[r->n++] = id;
    g->tokens[g->n_tokens++] = id;
    PW_PASS(pw_detok_push(r->detok, id, &g->text));
    PW_PASS(look_at_text(r, false));
    if (!r->done && g->n_tokens >= r->room)
        return finish(r, r->cut_by_context ? "context" : "length");
    return 0;
}

/* ---- passes --------------------------------------------------------------------------------------------------------- */

/* The decoder has seen the prompt, so that the first token of the continuation keeps its leading space. */
static int open_decoder(struct loop *k, struct running *r)
{
    struct pw_buf prompt = {0};
    int rc = 0;
    PW_PASS(pw_detok_open(&r->detok, k->tokenizer, PW_TOK_SKIP_SPECIAL));
    for (int64_t i = 0; i < r->n && rc == 0; i++) {
        pw_buf_clear(&prompt);
        rc = pw_detok_push(r->detok, r->ids[i], &prompt);
    }
    pw_buf_free(&prompt);
    return rc;
}

static int begin(struct loop *k, struct running *r, struct pw_gen *g)
{
    r->g = g;
    r->seq = -1;
    g->tokens = NULL;
    g->n_tokens = 0;
    g->text = (struct pw_buf){0};
    g->finish = "";
    g->seconds_to_first = 0;
    PW_CHECK(g->n_prompt > 0, PW_E_FAIL, "a prompt without tokens");
    if (g->n_prompt >= k->c->context) {
        const int rc = pw_error(PW_E_REFUSED, "the prompt has %lld tokens, the context holds %lld", (long long)g->n_prompt, (long long)k->c->context);
        pw_error_hint("shorten the prompt: at least one token must be left for the answer");
        return rc;
    }
    r->room = g->max_tokens;
    if (r->room > k->c->context - g->n_prompt) {
        r->room = k->c->context - g->n_prompt;
        r->cut_by_context = true;
    }
    g->tokens = pw_alloc_zero((size_t)r->room + 1, sizeof *g->tokens);
    r->ids = pw_alloc_zero((size_t)(g->n_prompt + r->room) + 1, sizeof *r->ids);
    PW_CHECK(g->tokens && r->ids, PW_E_NOMEM, "out of memory for %lld tokens", (long long)(g->n_prompt + r->room));
    memcpy(r->ids, g->prompt, (size_t)g->n_prompt * sizeof *r->ids);
    r->n = g->n_prompt;
    PW_PASS(open_decoder(k, r));
    if (r->room == 0)
        return finish(r, "length");
    r->cached = pw_session_rows(g->n_prompt + r->room);
    PW_CHECK(r->cached <= k->left, PW_E_FAIL, "a prompt of %lld tokens and %lld more take %lld rows of the cache, which has %lld", (long long)g->n_prompt, (long long)r->room,
             (long long)r->cached, (long long)k->left);
    return 0;
}

/* Requests begin in their order, as soon as there are pages for all that they may come to; what has begun never runs out of them. */
static int admit(struct loop *k)
{
    for (int i = 0; i < k->n; i++) {
        struct running *r = &k->runs[i];
        if (r->done && r->seq >= 0) {
            pw_session_drop(k->s, r->seq);
            k->left += r->cached;
            r->seq = -1;
        }
    }
    for (int i = 0; i < k->n; i++) {
        struct running *r = &k->runs[i];
        if (r->done || r->seq >= 0)
            continue;
        if (r->cached > k->left)
            return 0;
        r->seq = pw_session_add(k->s, r->g->n_prompt + r->room, -1);
        PW_PASS(r->seq);
        PW_PASS(pw_session_expect(k->s, r->seq, r->g->n_prompt));
        k->left -= r->cached;
    }
    return 0;
}

/* The text has become longer than what its rows were for. Both as transformers does: with longrope all of it once more; with dynamic scaling what is cached stays. */
static int turn_otherwise(struct loop *k, struct running *r)
{
    if (k->c->rope_scaling == PW_ROPE_DYNAMIC)
        return pw_session_stretch(k->s, r->seq, r->n);
    PW_PASS(pw_session_rewind(k->s, r->seq, 0));
    r->fed = 0;
    return pw_session_expect(k->s, r->seq, r->n);
}

/* One pass over as much as fits: each unfinished request feeds what the cache lacks; those that come to their end pick a token. */
static int step(struct loop *k)
{
    int n_feeds = 0, n_rows = 0, waiting = 0;
    int64_t used = 0;
    PW_PASS(admit(k));
    for (int i = 0; i < k->n; i++)
        waiting += !k->runs[i].done && k->runs[i].seq >= 0;
    for (int i = 0; i < k->n; i++) {
        struct running *r = &k->runs[i];
        if (r->done || r->seq < 0)
            continue;
        if (pw_session_stale(k->s, r->seq, r->n - r->fed))
            PW_PASS(turn_otherwise(k, r));
        waiting--;                                     /* leave one row for each request that comes after */
        int64_t room = k->batch_tokens - used - waiting, left = r->n - r->fed, take = left < room ? left : room;
        if (take <= 0)
            continue;
        k->feeds[n_feeds++] = (struct pw_feed){r->seq, r->ids + r->fed, take};
        used += take;
        r->fed += take;
        if (r->fed == r->n) {
            k->rows[n_rows] = (int32_t)(used - 1);
            k->draws[n_rows] = pw_sampler_draw(&r->g->sampler);
            k->which[n_rows++] = i;
        }
    }
    PW_TRY(pw_session_next(k->s, k->feeds, n_feeds, k->rows, k->draws, n_rows, k->ids), "a pass over %lld tokens of %d prompts", (long long)used, n_feeds);
    for (int j = 0; j < n_rows; j++) {
        struct running *r = &k->runs[k->which[j]];
        pw_sampler_drawn(&r->g->sampler);
        PW_PASS(take_token(k, r, k->ids[j]));
        if (!r->done && k->opt->no_cache) {
            PW_PASS(pw_session_rewind(k->s, r->seq, 0));
            PW_PASS(pw_session_expect(k->s, r->seq, r->n));
            r->fed = 0;
        }
    }
    return 0;
}

static bool unfinished(const struct loop *k)
{
    for (int i = 0; i < k->n; i++)
        if (!k->runs[i].done)
            return true;
    return false;
}

int pw_generate(struct pw_session *s, const struct pw_tokenizer *t, struct pw_gen *requests, int n, const struct pw_gen_options *opt)
{
    const struct pw_model *m = pw_session_model(s);
    struct loop k = {.s = s, .tokenizer = t, .opt = opt, .c = &m->config, .n = n, .batch_tokens = pw_session_batch_tokens(s), .started = pw_seconds()};
    struct pw_arena arena;
    int rc = 0;
    pw_arena_init(&arena);
    pw_session_reset(s);
    k.left = pw_session_room(s);
    k.runs = pw_arena_array(&arena, (size_t)n, sizeof *k.runs);
    k.feeds = pw_arena_array(&arena, (size_t)n, sizeof *k.feeds);
    k.rows = pw_arena_array(&arena, (size_t)n, sizeof *k.rows);
    k.which = pw_arena_array(&arena, (size_t)n, sizeof *k.which);
    k.draws = pw_arena_array(&arena, (size_t)n, sizeof *k.draws);
    k.ids = pw_arena_array(&arena, (size_t)n, sizeof *k.ids);
    PW_CHECK_OUT(k.runs && k.feeds && k.rows && k.which && k.draws && k.ids, PW_E_NOMEM, "out of memory for %d requests", n);
    for (int i = 0; i < n; i++)
        PW_TRY_OUT(begin(&k, &k.runs[i], &requests[i]), "prompt %d", i + 1);
    while (unfinished(&k)) {
        PW_CHECK_OUT(!opt->interrupted || !opt->interrupted(), PW_E_INTERRUPTED, "interrupted");
        PW_PASS_OUT(step(&k));
    }
out:
    for (int i = 0; k.runs && i < n; i++) {
        pw_detok_free(k.runs[i].detok);
        pw_free(k.runs[i].ids);
    }
    pw_session_reset(s);
    pw_arena_free(&arena);
    return rc;
}
