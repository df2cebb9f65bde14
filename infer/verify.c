/* Comparing two artefacts row of logits by row of logits (see the header). */
#include "infer/verify.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "infer/memory_limit.h"

enum { PIECE = 512, ROWS = 16 };   /* most tokens of a pass; rows of logits that exist at a time, beside those that are kept */

struct side { struct pw_session *s; int seq; int64_t prompt, fed; };   /* prompt -1: none is open */
struct walk {
    struct pw_verify_result *r;
    const struct pw_verify_prompt *prompts; size_t n;
    const struct pw_verify_options *o;
    int (*model)(void *ctx, int side, struct pw_model **out); void *ctx;
    struct pw_progress *progress;
    struct side side[2];
    int64_t vocab, longest, total;
    float *kept, *rows;        /* (keep, V) of the side that went first, (ROWS, V) */
    int64_t keep;
    double kl;                 /* sum */
};

/* ---- one row ---- */

static int check_row(const float *x, int64_t V, int side, int64_t prompt, int64_t position)
{
    for (int64_t v = 0; v < V; v++)
        PW_CHECK(isfinite(x[v]), PW_E_NUMERIC, "%s: prompt %lld, position %lld: the logit of token %lld is not a number", side ? "right" : "left", (long long)prompt,
                 (long long)position, (long long)v);
    return 0;
}

/* max and log of the sum of exponentials */
static double log_sum(const float *x, int64_t V, int32_t *most)
{
    double sum = 0;
    *most = 0;
    for (int64_t v = 1; v < V; v++)
        if (x[v] > x[*most])
            *most = (int32_t)v;
    for (int64_t v = 0; v < V; v++)
        sum += exp((double)x[v] - x[*most]);
    return x[*most] + log(sum);
}

static int compare(struct walk *w, int64_t prompt, int64_t position, const float *left, const float *right)
{
    struct pw_verify_result *r = w->r;
    const int64_t V = w->vocab;
    int32_t a, b;
    double kl = 0, most = 0;
    PW_PASS(check_row(left, V, 0, prompt, position));
    PW_PASS(check_row(right, V, 1, prompt, position));
    const double za = log_sum(left, V, &a), zb = log_sum(right, V, &b);
    for (int64_t v = 0; v < V; v++) {
        const double d = fabs((double)left[v] - right[v]), p = left[v] - za;
        kl += exp(p) * (p - (right[v] - zb));
        if (d > most)
            most = d;
        if (d > r->max_logit_diff || r->tokens == 0) {
            r->max_logit_diff = d;
            r->worst_prompt = prompt, r->worst_position = position, r->worst_token = (int32_t)v;
        }
        r->tokens += v == 0;
    }
    kl = kl > 0 ? kl : 0;          /* it is never below; sums of f64 are, by 1e-16 */
    w->kl += kl;
    r->max_kl = kl > r->max_kl ? kl : r->max_kl;
    r->same_token += a == b;
    if (r->kind == PW_VERIFY_SAME && (a != b || (w->o->tolerance >= 0 && most > w->o->tolerance))) {
        r->kind = a != b ? PW_VERIFY_TOKEN : PW_VERIFY_LOGIT;
        r->prompt = prompt, r->position = position;
        r->left = a, r->right = b;
        r->left_logits[0] = left[a], r->left_logits[1] = left[b];
        r->right_logits[0] = right[a], r->right_logits[1] = right[b];
    }
    return 0;
}

/* ---- the walk over rows first..first+n of one side; rows of all prompts are numbered through ---- */

struct sink { bool keep; int kept_side; int64_t at; };  /* at: row of `kept` that comes next */

static int take(struct walk *w, struct side *d, struct sink *to, int64_t prompt, int64_t from, int64_t in_pass, int64_t n)
{
    int32_t list[ROWS];
    for (int64_t i = 0; i < n; i += ROWS) {
        const int count = (int)(n - i < ROWS ? n - i : ROWS);
        for (int k = 0; k < count; k++)
            list[k] = (int32_t)(in_pass + i + k);
        float *out = to->keep ? w->kept + (to->at + i) * w->vocab : w->rows;
        PW_PASS(pw_session_logits(d->s, list, count, out));
        for (int k = 0; !to->keep && k < count; k++) {
            const float *kept = w->kept + (to->at + i + k) * w->vocab, *now = w->rows + k * w->vocab;
            PW_PASS(compare(w, prompt, from + i + k, to->kept_side ? now : kept, to->kept_side ? kept : now));
        }
    }
    to->at += n;
    return 0;
}

/* Feeds the prompt up to `stop`, and takes the rows from `start` on. */
static int walk_prompt(struct walk *w, struct side *d, struct sink *to, int64_t prompt, int64_t start, int64_t stop)
{
    const struct pw_verify_prompt *p = &w->prompts[prompt];
    if (d->prompt != prompt) {
        pw_session_reset(d->s);
        d->seq = pw_session_add(d->s, p->n, -1);
        PW_PASS(d->seq);
        PW_PASS(pw_session_expect(d->s, d->seq, p->n));
        d->prompt = prompt;
        d->fed = 0;
    }
    while (d->fed < stop) {
        const int64_t at = d->fed, edge = at < start && start - at < PIECE ? start : stop, n = edge - at < PIECE ? edge - at : PIECE;
        const struct pw_feed feed = {d->seq, p->ids + at, n};
        PW_CHECK(!pw_progress_stopped(w->progress), PW_E_INTERRUPTED, "interrupted");
        PW_PASS(pw_session_feed(d->s, &feed, 1));
        d->fed += n;
        if (at >= start)
            PW_PASS(take(w, d, to, prompt, at, 0, n));
    }
    return 0;
}

static int walk_rows(struct walk *w, int side, struct sink to, int64_t first, int64_t n)
{
    int64_t base = 0;
    for (size_t i = 0; i < w->n; base += w->prompts[i++].n) {
        const int64_t start = first > base ? first - base : 0, end = first + n - base, stop = end < w->prompts[i].n ? end : w->prompts[i].n;
        if (start < stop)
            PW_TRY(walk_prompt(w, &w->side[side], &to, (int64_t)i, start, stop), "%s: prompt %zu", side ? "right" : "left", i);
    }
    return 0;
}

/* ---- models ---- */

static int open_side(struct walk *w, int side)
{
    struct pw_model *m = NULL;
    PW_PASS(w->model(w->ctx, side, &m));
    PW_CHECK(w->vocab == 0 || m->config.vocab == w->vocab, PW_E_FAIL, "the models have different vocabularies (%lld and %lld tokens)", (long long)w->vocab,
             (long long)m->config.vocab);
    w->vocab = m->config.vocab;
    for (size_t i = 0; i < w->n; i++) {
        PW_CHECK(w->prompts[i].n <= m->config.context, PW_E_REFUSED, "prompt %zu has %lld tokens, the context of the %s model holds %lld", i, (long long)w->prompts[i].n,
                 side ? "right" : "left", (long long)m->config.context);
        for (int64_t k = 0; k < w->prompts[i].n; k++)
            PW_CHECK(w->prompts[i].ids[k] >= 0 && w->prompts[i].ids[k] < w->vocab, PW_E_FAIL, "prompt %zu: token %d is not in the vocabulary of %lld", i,
                     (int)w->prompts[i].ids[k], (long long)w->vocab);
    }
    if (!w->kept) {                /* before the session opens: it counts towards what the process has, and is written for that */
        const size_t row = (size_t)w->vocab * sizeof(float), bytes = w->o->keep_bytes ? w->o->keep_bytes : (size_t)64 << 20;
        w->keep = bytes / row < 1 ? 1 : (int64_t)(bytes / row);
        if (w->keep > w->total)
            w->keep = w->total;
        if (w->o->both && w->keep > PIECE)
            w->keep = PIECE;
        w->kept = pw_alloc((size_t)w->keep * row);
        w->rows = pw_alloc(ROWS * row);
        PW_CHECK(w->kept && w->rows, PW_E_NOMEM, "no memory for %lld rows of logits", (long long)w->keep);
        memset(w->kept, 0, (size_t)w->keep * row);
        memset(w->rows, 0, ROWS * row);
    }
    w->side[side] = (struct side){.prompt = -1};
    return pw_session_open(&w->side[side].s, m, w->longest, w->longest < PIECE ? w->longest : PIECE, 1);
}

static void close_side(struct walk *w, int side)
{
    pw_session_close(w->side[side].s);
    w->side[side] = (struct side){.prompt = -1};
}

static int run(struct walk *w)
{
    int last = -1;
    PW_PASS(open_side(w, 0));
    last = 0;
    if (w->o->both)
        PW_PASS(open_side(w, 1));
    for (int64_t first = 0; first < w->total; first += w->keep) {
        const int64_t n = w->total - first < w->keep ? w->total - first : w->keep;
        const int lead = last;
        PW_PASS(walk_rows(w, lead, (struct sink){.keep = true}, first, n));
        if (!w->o->both) {
            close_side(w, lead);
            last = !lead;
            PW_PASS(open_side(w, last));
        }
        PW_PASS(walk_rows(w, !lead, (struct sink){.keep = false, .kept_side = lead}, first, n));
        pw_progress_at(w->progress, first + n, w->total, NULL);
    }
    return 0;
}

size_t pw_verify_need(const struct pw_model *m, const struct pw_verify_prompt *prompts, size_t n)
{
    int64_t longest = 1;
    for (size_t i = 0; i < n; i++)
        longest = prompts[i].n > longest ? prompts[i].n : longest;
    return pw_memory_need(m, longest, longest < PIECE ? longest : PIECE, 1) + (1 + ROWS) * (size_t)m->config.vocab * sizeof(float);
}

int pw_verify(struct pw_verify_result *r, const struct pw_verify_prompt *prompts, size_t n, const struct pw_verify_options *o,
              int (*model)(void *ctx, int side, struct pw_model **out), void *ctx, struct pw_progress *progress)
{
    struct walk w = {.r = r, .prompts = prompts, .n = n, .o = o, .model = model, .ctx = ctx, .progress = progress};
    *r = (struct pw_verify_result){.prompts = (int64_t)n};
    close_side(&w, 0);
    close_side(&w, 1);
    for (size_t i = 0; i < n; i++) {
        PW_CHECK(prompts[i].n > 0, PW_E_FAIL, "prompt %zu has no tokens", i);
        w.total += prompts[i].n;
        w.longest = prompts[i].n > w.longest ? prompts[i].n : w.longest;
    }
    PW_CHECK(w.total > 0, PW_E_REFUSED, "there is no prompt to compare on");
    const int rc = run(&w);
    r->kl = rc == 0 ? w.kl / (double)r->tokens : 0;
    close_side(&w, 0);
    close_side(&w, 1);
    pw_free(w.kept);
    pw_free(w.rows);
    return rc;
}
