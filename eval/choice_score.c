/* Log-likelihood of choices over an inference session (see the header). */
#include "eval/choice_score.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "infer/rope.h"

enum { MAX_BATCH = 64, MIN_SHARED = 8 };

struct scorer {
    struct pw_model *m;
    struct pw_session *s;
    struct pw_choice_request *requests;
    size_t n;
    int64_t batch_tokens, context, *tokens;
    int shared, prefix;            /* tokens of the shared beginning, and its timeline (-1: none) */
    float *logits;                 /* (MAX_BATCH, V) */
    int32_t *targets;              /* (batch_tokens) */
    float *logprobs;               /* (batch_tokens) */
};

static int longest_cont(const struct pw_choice_request *r)
{
    int most = 0;
    for (int c = 0; c < r->n_choices; c++)
        most = r->n_conts[c] > most ? r->n_conts[c] : most;
    return most;
}

/* May its choices share the rows of its context? Not when they are cut, nor where a long choice rotates its context by other factors. */
static bool fits(const struct scorer *x, const struct pw_choice_request *r)
{
    const struct pw_model_config *c = &x->m->config;
    const int64_t tokens = (int64_t)r->n_context + longest_cont(r) - 1;
    return tokens <= x->context && (!pw_rope_by_length(c) || (double)tokens <= c->rope_original_context);
}

/* Tokens that all contexts that fit begin with; the last token of a context is never shared, since its row gives the first scores. */
static int shared_beginning(const struct scorer *x)
{
    const struct pw_choice_request *first = NULL;
    int shared = 0;
    size_t users = 0;
    for (size_t i = 0; i < x->n; i++) {
        const struct pw_choice_request *r = &x->requests[i];
        if (!fits(x, r))
            continue;
        users++;
        if (!first) {
            first = r;
            shared = r->n_context - 1;
            continue;
        }
        if (shared > r->n_context - 1)
            shared = r->n_context - 1;
        for (int k = 0; k < shared; k++)
            if (r->context[k] != first->context[k])
                shared = k;
    }
    return users > 1 && shared >= MIN_SHARED ? shared : 0;
}

static int64_t own_rows(const struct scorer *x, const struct pw_choice_request *r)
{
    return (int64_t)r->n_context - x->shared + longest_cont(r);
}

/* Requests from `first` on that make one batch: bounded by tokens and by number, never empty. Those that do not fit go alone. */
static size_t batch_end(const struct scorer *x, size_t first)
{
    int64_t rows = 0;
    size_t i = first;
    if (!fits(x, &x->requests[i]))
        return i + 1;
    for (; i < x->n && i - first < MAX_BATCH && fits(x, &x->requests[i]); i++) {
        rows += own_rows(x, &x->requests[i]);
        if (rows > x->batch_tokens && i > first)
            break;
    }
    return i;
}

static double log_softmax_at(const float *logits, int64_t vocab, int32_t at)
{
    double most = -INFINITY, sum = 0;
    for (int64_t v = 0; v < vocab; v++)
        most = logits[v] > most ? logits[v] : most;
    for (int64_t v = 0; v < vocab; v++)
        sum += exp((double)logits[v] - most);
    return (double)logits[at] - most - log(sum);
}

/* Feeds n tokens to each of several timelines, in passes of at most batch_tokens. After each pass, `after` sees which rows it had. */
struct run { int seq; const int32_t *ids; int n; size_t request; int choice; };
typedef int after_pass(struct scorer *x, const struct run *runs, const int *from, const int *count, int n_runs);

static int feed_runs(struct scorer *x, const struct run *runs, int n_runs, after_pass *after)
{
    struct pw_feed feeds[MAX_BATCH];
    struct run part[MAX_BATCH];
    int from[MAX_BATCH], count[MAX_BATCH], i = 0, at = 0;
    while (i < n_runs) {
        int n = 0;
        int64_t room = x->batch_tokens;
        for (; i < n_runs && room > 0; ) {
            int take = runs[i].n - at < room ? runs[i].n - at : (int)room;
            part[n] = runs[i];
            from[n] = at, count[n] = take;
            feeds[n++] = (struct pw_feed){.seq = runs[i].seq, .ids = runs[i].ids + at, .n = take};
            room -= take;
            at += take;
            if (at == runs[i].n)
                i++, at = 0;
        }
        PW_PASS(pw_session_feed(x->s, feeds, n));
        *x->tokens += x->batch_tokens - room;
        if (after)
            PW_PASS(after(x, part, from, count, n));
    }
    return 0;
}

/* The row of a context's last token gives the first token of every choice. */
static int after_contexts(struct scorer *x, const struct run *runs, const int *from, const int *count, int n_runs)
{
    int32_t rows[MAX_BATCH], row = 0;
    int of[MAX_BATCH], n = 0;
    int64_t vocab = x->m->config.vocab;
    for (int i = 0; i < n_runs; i++) {
        row += count[i];
        if (from[i] + count[i] == runs[i].n)
            of[n] = i, rows[n++] = row - 1;
    }
    if (n == 0)
        return 0;
    PW_PASS(pw_session_logits(x->s, rows, n, x->logits));
    for (int i = 0; i < n; i++) {
        struct pw_choice_request *r = &x->requests[runs[of[i]].request];
        for (int c = 0; c < r->n_choices; c++)
            r->logprobs[c] = log_softmax_at(x->logits + (int64_t)i * vocab, vocab, r->conts[c][0]);
    }
    return 0;
}

static int after_choices(struct scorer *x, const struct run *runs, const int *from, const int *count, int n_runs)
{
    int64_t row = 0;
    for (int i = 0; i < n_runs; i++)
        for (int k = 0; k < count[i]; k++)
            x->targets[row++] = runs[i].ids[from[i] + k + 1];  /* ids are a choice without its last token: the next one is there */
    PW_PASS(pw_session_logprobs(x->s, x->targets, x->logprobs, NULL));
    row = 0;
    for (int i = 0; i < n_runs; i++)
        for (int k = 0; k < count[i]; k++)
            x->requests[runs[i].request].logprobs[runs[i].choice] += (double)x->logprobs[row++];
    return 0;
}

static int check_numbers(const struct pw_choice_request *r, size_t i)
{
    for (int c = 0; c < r->n_choices; c++)
        PW_CHECK(isfinite(r->logprobs[c]), PW_E_NUMERIC, "document %zu, choice %d: the log-probability is not a number", i, c);
    return 0;
}

static int score_batch(struct scorer *x, size_t first, size_t end)
{
    struct run runs[MAX_BATCH] = {0};
    int seqs[MAX_BATCH], n = (int)(end - first), most = 0;
    for (int i = 0; i < n; i++) {
        struct pw_choice_request *r = &x->requests[first + (size_t)i];
        int seq = pw_session_add(x->s, own_rows(x, r), x->prefix);
        PW_PASS(seq);
        seqs[i] = seq;
        runs[i] = (struct run){seq, r->context + x->shared, r->n_context - x->shared, first + (size_t)i, 0};
        most = r->n_choices > most ? r->n_choices : most;
    }
    PW_PASS(feed_runs(x, runs, n, after_contexts));
    for (int c = 0; c < most; c++) {
        int used = 0;
        for (int i = 0; i < n; i++) {
            struct pw_choice_request *r = &x->requests[first + (size_t)i];
            if (c >= r->n_choices || r->n_conts[c] < 2)
                continue;
            PW_PASS(pw_session_rewind(x->s, seqs[i], r->n_context - x->shared));
            runs[used++] = (struct run){seqs[i], r->conts[c], r->n_conts[c] - 1, first + (size_t)i, c};
        }
        PW_PASS(feed_runs(x, runs, used, after_choices));
    }
    for (int i = 0; i < n; i++)
        pw_session_drop(x->s, seqs[i]);
    return 0;
}

/* Longer than the window (or than what one set of rotary factors is for): each choice with its own context, cut from the left as (context + choice)[-(window + 1):][:-1]. */
static int score_long(struct scorer *x, size_t at)
{
    struct pw_choice_request *r = &x->requests[at];
    int32_t *ids = pw_alloc((size_t)(x->context + 1) * sizeof *ids);
    int rc = 0;
    PW_CHECK(ids, PW_E_NOMEM, "out of memory");
    r->truncated = (int64_t)r->n_context + longest_cont(r) - 1 > x->context;
    for (int c = 0; c < r->n_choices; c++) {
        int64_t total = (int64_t)r->n_context + r->n_conts[c], keep = total < x->context + 1 ? total : x->context + 1;
        PW_CHECK_OUT(r->n_conts[c] <= x->context, PW_E_FAIL, "document %zu, choice %d: %d tokens do not fit into a context of %lld", at, c,
                     r->n_conts[c], (long long)x->context);
        for (int64_t k = 0; k < keep; k++) {
            int64_t from = total - keep + k;
            ids[k] = from < r->n_context ? r->context[from] : r->conts[c][from - r->n_context];
        }
        int seq = pw_session_add(x->s, keep, -1);
        PW_PASS_OUT(seq);
        PW_PASS_OUT(pw_session_expect(x->s, seq, keep - 1));
        r->logprobs[c] = 0;
        for (int64_t k = 0; k + 1 < keep;) {
            int64_t take = keep - 1 - k < x->batch_tokens ? keep - 1 - k : x->batch_tokens;
            struct pw_feed feed = {.seq = seq, .ids = ids + k, .n = take};
            PW_PASS_OUT(pw_session_feed(x->s, &feed, 1));
            *x->tokens += take;
            for (int64_t j = 0; j < take; j++)
                x->targets[j] = k + j + 1 >= keep - r->n_conts[c] ? ids[k + j + 1] : -1;
            PW_PASS_OUT(pw_session_logprobs(x->s, x->targets, x->logprobs, NULL));
            for (int64_t j = 0; j < take; j++)
                r->logprobs[c] += x->targets[j] >= 0 ? (double)x->logprobs[j] : 0;
            k += take;
        }
        pw_session_drop(x->s, seq);
    }
    rc = 0;
out:
    pw_free(ids);
    return rc;
}

static int64_t rows_needed(const struct scorer *x)
{
    int64_t most = 0;
    for (size_t i = 0; i < x->n;) {
        size_t end = batch_end(x, i);
        const int64_t total = (int64_t)x->requests[i].n_context + longest_cont(&x->requests[i]);
        int64_t rows = fits(x, &x->requests[i]) ? 0 : total < x->context + 1 ? total : x->context + 1;
        for (size_t k = i; k < end && fits(x, &x->requests[k]); k++)
            rows += pw_session_rows(own_rows(x, &x->requests[k]));
        most = rows > most ? rows : most;
        i = end;
    }
    return pw_session_rows(most) + pw_session_rows(x->shared);
}

int pw_choice_score(struct pw_model *m, struct pw_choice_request *requests, size_t n, int64_t batch_tokens, int64_t *tokens,
                    int (*done)(void *ctx, size_t i), void *ctx)
{
    struct scorer x = {.m = m, .requests = requests, .n = n, .batch_tokens = batch_tokens, .context = m->config.context, .tokens = tokens,
                       .prefix = -1};
    int rc = 0;
    if (n == 0)
        return 0;
    PW_CHECK(batch_tokens > 0, PW_E_USAGE, "--batch-tokens: expected 1 or more");
    x.shared = shared_beginning(&x);
    x.logits = pw_alloc((size_t)MAX_BATCH * (size_t)m->config.vocab * sizeof(float));
    x.targets = pw_alloc((size_t)batch_tokens * sizeof(int32_t));
    x.logprobs = pw_alloc((size_t)batch_tokens * sizeof(float));
    PW_CHECK_OUT(x.logits && x.targets && x.logprobs, PW_E_NOMEM, "out of memory");
    PW_PASS_OUT(pw_session_open(&x.s, m, rows_needed(&x), batch_tokens, MAX_BATCH + 2));
    if (x.shared > 0) {
        int seq = pw_session_add(x.s, x.shared, -1);
        PW_PASS_OUT(seq);
        x.prefix = seq;
        struct run run = {seq, NULL, x.shared, 0, 0};
        for (size_t i = 0; i < n && !run.ids; i++)
            run.ids = fits(&x, &requests[i]) ? requests[i].context : NULL;
        PW_PASS_OUT(feed_runs(&x, &run, 1, NULL));
    }
    for (size_t i = 0; i < n;) {
        size_t end = batch_end(&x, i);
        PW_TRY_OUT(fits(&x, &requests[i]) ? score_batch(&x, i, end) : score_long(&x, i), "scoring documents %zu to %zu", i, end - 1);
        for (; i < end; i++) {
            PW_PASS_OUT(check_numbers(&requests[i], i));
            if (done)
                PW_PASS_OUT(done(ctx, i));
        }
    }
    rc = 0;
out:
    pw_session_close(x.s);
    pw_free(x.logits);
    pw_free(x.targets);
    pw_free(x.logprobs);
    return rc;
}

static int32_t *keep_ids(struct pw_arena *a, const int32_t *ids, size_t n)
{
    int32_t *p = pw_arena_array(a, n ? n : 1, sizeof *p);
    if (p)
        memcpy(p, ids, n * sizeof *p);
    return p;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

int pw_choice_encode(struct pw_choice_request *r, struct pw_arena *a, const struct pw_tokenizer *t, const char *prompt,
                     const char *const *continuations, int n, struct pw_tokens *tokens)
{
    size_t bytes = strlen(prompt), own;
    struct pw_buf b = {0};
    int rc = 0;
    PW_CHECK_OUT(n <= PW_SCORE_MAX_CHOICES, PW_E_FAIL, "%d choices are more than %d", n, PW_SCORE_MAX_CHOICES);
    while (bytes > 0 && is_space(prompt[bytes - 1]))
        bytes--;
    PW_PASS_OUT(pw_tokenizer_encode(t, prompt, bytes, PW_TOK_DEFAULT, tokens));
    own = tokens->n;
    if (own == 0) {
        int32_t first = pw_tokenizer_bos(t) >= 0 ? pw_tokenizer_bos(t) : pw_tokenizer_eos(t);
        PW_CHECK_OUT(first >= 0, PW_E_FAIL, "the prompt is empty, and the tokenizer has no BOS or EOS to begin with");
        r->context = keep_ids(a, &first, 1);
    } else
        r->context = keep_ids(a, tokens->ids, own);
    PW_CHECK_OUT(r->context, PW_E_NOMEM, "out of memory");
    r->n_context = own ? (int)own : 1;
    r->n_choices = n;
    for (int c = 0; c < n; c++) {
        pw_buf_clear(&b);
        pw_buf_str(&b, prompt);
        pw_buf_str(&b, continuations[c]);
        PW_PASS_OUT(pw_buf_status(&b));
        PW_PASS_OUT(pw_tokenizer_encode(t, b.data, b.len, PW_TOK_DEFAULT, tokens));
        PW_CHECK_OUT(tokens->n > own, PW_E_FAIL, "choice %d adds no token to the prompt", c);
        r->n_conts[c] = (int)(tokens->n - own);
        r->conts[c] = keep_ids(a, tokens->ids + own, tokens->n - own);
        PW_CHECK_OUT(r->conts[c], PW_E_NOMEM, "out of memory");
    }
out:
    pw_buf_free(&b);
    return rc;
}
