/* pw score: the log-probability of each token given those before it, and the perplexity of the text.
 *
 * A text goes through the KV cache in pieces, so its length costs memory only for keys and values; what does not fit into the context is
 * refused. Knows nothing of tasks or of choices. */
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "infer/session.h"
#include "tools/load.h"

struct options { const char *text, *file, *ids, *logits; int64_t top; bool no_bos; };
#define AT(field) offsetof(struct options, field)
static const struct pw_option table[] = {
    {"text", 't', PW_OPT_STRING, AT(text), "TEXT", NULL, NULL, 0, 0, "score this text"},
    {"file", 'f', PW_OPT_STRING, AT(file), "FILE", NULL, NULL, 0, 0, "score the text of a file; -: stdin"},
    {"ids", 0, PW_OPT_STRING, AT(ids), "FILE", NULL, NULL, 0, 0, "score token ids: a JSON array, or an array of arrays (then one result a line)"},
    {"top", 0, PW_OPT_INT, AT(top), "K", NULL, "0", 0, 1000, "also list the K likeliest tokens of each place"},
    {"logits", 0, PW_OPT_STRING, AT(logits), "FILE", NULL, NULL, 0, 0, "write the logits after each token to a .npy file, float32 (tokens, vocabulary)"},
    {"no-bos", 0, PW_OPT_FLAG, AT(no_bos), NULL, NULL, NULL, 0, 0, "do not put the model's BOS before the text"},
    PW_OPTIONS_END,
};

enum { PIECE = 512, ROWS = 16 };  /* tokens of one pass; rows whose logits exist at a time */

struct sequence { const int32_t *ids; int64_t n; };
struct work {
    struct pw_cmd *c;
    const struct options *o;
    struct pw_loaded *l;
    struct pw_session *s;
    struct pw_out *npy;        /* NULL: not asked for */
    float *logprobs;           /* (n), of the sequence in hand */
    float *logits;             /* (ROWS, V) when needed */
    int32_t *top_ids;          /* (n, K) */
    float *top_logprobs;
};

/* ---- what to score -------------------------------------------------------------------------------------------------- */

static int read_ids(const struct pw_value *list, const char *where, struct pw_arena *a, int64_t vocab, struct sequence *out)
{
    int32_t *ids = pw_arena_array(a, list->len ? list->len : 1, sizeof *ids);
    PW_CHECK(ids, PW_E_NOMEM, "out of memory");
    PW_CHECK(list->len > 0, PW_E_FORMAT, "%s: an empty list of ids", where);
    for (size_t i = 0; i < list->len; i++) {
        const struct pw_value *v = &list->items[i];
        PW_CHECK(v->kind == PW_INT, PW_E_FORMAT, "%s: item %zu: expected an id, got %s", where, i + 1, pw_kind_name(v->kind));
        PW_CHECK(v->i >= 0 && v->i < vocab, PW_E_FORMAT, "%s: item %zu: expected an id from 0 to %lld, got %lld", where, i + 1,
                 (long long)vocab - 1, (long long)v->i);
        ids[i] = (int32_t)v->i;
    }
    *out = (struct sequence){ids, (int64_t)list->len};
    return 0;
}

static int read_ids_file(const char *path, struct pw_arena *a, int64_t vocab, struct sequence **out, size_t *n)
{
    struct pw_value *v;
    PW_PASS(pw_json_load(a, path, &v));
    PW_CHECK(v->kind == PW_LIST, PW_E_FORMAT, "%s: expected a list of ids or of lists, got %s", path, pw_kind_name(v->kind));
    const bool nested = v->len > 0 && v->items[0].kind == PW_LIST;
    *n = nested ? v->len : 1;
    *out = pw_arena_array(a, *n, sizeof **out);
    PW_CHECK(*out, PW_E_NOMEM, "out of memory");
    if (!nested)
        return read_ids(v, path, a, vocab, *out);
    for (size_t i = 0; i < v->len; i++) {
        PW_CHECK(v->items[i].kind == PW_LIST, PW_E_FORMAT, "%s: item %zu: expected a list of ids, got %s", path, i + 1,
                 pw_kind_name(v->items[i].kind));
        PW_PASS(read_ids(&v->items[i], path, a, vocab, &(*out)[i]));
    }
    return 0;
}

static int read_text(const struct work *w, struct pw_buf *text, struct pw_tokens *tokens, struct sequence *out)
{
    const char *bytes = w->o->text;
    size_t n = bytes ? strlen(bytes) : 0;
    if (!bytes) {
        PW_PASS(pw_file_read(w->o->file, 0, text));
        bytes = text->data;
        n = text->len;
    }
    PW_TRY(pw_tokenizer_encode(w->l->tokenizer, n ? bytes : "", n, PW_TOK_PARSE_SPECIAL | (w->o->no_bos ? 0 : PW_TOK_SPECIAL), tokens), "tokenizing %s",
           w->o->file ? w->o->file : "the text");
    PW_CHECK(tokens->n > 0, PW_E_REFUSED, "the text has no tokens");
    *out = (struct sequence){tokens->ids, (int64_t)tokens->n};
    return 0;
}

/* ---- the work ------------------------------------------------------------------------------------------------------- */

/* The K likeliest of one row, in falling order, ties by id. */
static void pick_top(const float *logits, int64_t vocab, int64_t k, int32_t *ids, float *logprobs)
{
    double most = -INFINITY, sum = 0;
    int64_t n = 0;
    for (int64_t v = 0; v < vocab; v++)
        most = logits[v] > most ? logits[v] : most;
    for (int64_t v = 0; v < vocab; v++)
        sum += exp(logits[v] - most);
    for (int64_t v = 0; v < vocab; v++) {
        int64_t at = n;
        if (n == k && !(logits[v] > logits[ids[k - 1]]))
            continue;
        while (at > 0 && logits[v] > logits[ids[at - 1]])
            at--;
        n += n < k;
        memmove(ids + at + 1, ids + at, (size_t)(n - 1 - at) * sizeof *ids);
        ids[at] = (int32_t)v;
    }
    for (int64_t i = 0; i < n; i++)
        logprobs[i] = (float)(logits[ids[i]] - most - log(sum));
}

static int look_at_logits(struct work *w, int64_t first, int64_t n)
{
    const int64_t V = w->l->model->config.vocab, K = w->o->top;
    int32_t rows[ROWS];
    for (int64_t at = 0; at < n; at += ROWS) {
        const int count = (int)(n - at < ROWS ? n - at : ROWS);
        for (int i = 0; i < count; i++)
            rows[i] = (int32_t)(at + i);
        PW_PASS(pw_session_logits(w->s, rows, count, w->logits));
        if (w->npy)
            PW_PASS(pw_out_write(w->npy, w->logits, (size_t)(count * V) * sizeof *w->logits));
        for (int i = 0; K > 0 && i < count; i++)
            pick_top(w->logits + i * V, V, K, w->top_ids + (first + at + i) * K, w->top_logprobs + (first + at + i) * K);
    }
    return 0;
}

static int score(struct work *w, const struct sequence *q)
{
    const int64_t context = w->l->model->config.context;
    int32_t targets[PIECE];
    if (q->n > context) {
        const int rc = pw_error(PW_E_REFUSED, "the text has %lld tokens, the context holds %lld", (long long)q->n, (long long)context);
        pw_error_hint("split the text: tokens beyond the context cannot be scored");
        return rc;
    }
    pw_session_reset(w->s);
    const int seq = pw_session_add(w->s, q->n, -1);
    PW_PASS(seq);
    PW_PASS(pw_session_expect(w->s, seq, q->n));
    for (int64_t at = 0; at < q->n; at += PIECE) {
        const int64_t n = q->n - at < PIECE ? q->n - at : PIECE;
        const struct pw_feed feed = {seq, q->ids + at, n};
        PW_CHECK(!pw_interrupted(), PW_E_INTERRUPTED, "interrupted");
        PW_PASS(pw_session_feed(w->s, &feed, 1));
        for (int64_t i = 0; i < n; i++)
            targets[i] = at + i + 1 < q->n ? q->ids[at + i + 1] : -1;
        PW_PASS(pw_session_logprobs(w->s, targets, w->logprobs + at, NULL));
        if (w->logits)
            PW_PASS(look_at_logits(w, at, n));
        pw_progress_at(w->c->progress, at + n, q->n, NULL);
    }
    for (int64_t i = 0; i + 1 < q->n; i++)
        PW_CHECK(isfinite(w->logprobs[i]), PW_E_NUMERIC, "the log-probability of token %lld is not a number", (long long)i + 1);
    return 0;
}

/* ---- results -------------------------------------------------------------------------------------------------------- */

static double mean_nll(const struct work *w, const struct sequence *q)
{
    double sum = 0;
    for (int64_t i = 0; i + 1 < q->n; i++)
        sum -= w->logprobs[i];
    return sum / (double)(q->n - 1);
}

static void json_top(struct pw_json *j, const struct work *w, const struct sequence *q)
{
    const int64_t K = w->o->top;
    pw_json_open(j, "top", '[');
    pw_json_null(j, NULL);
    for (int64_t i = 0; i + 1 < q->n; i++) {
        pw_json_open(j, NULL, '[');
        for (int64_t k = 0; k < K && k < w->l->model->config.vocab; k++) {
            pw_json_open(j, NULL, '[');
            pw_json_i64(j, NULL, w->top_ids[i * K + k]);
            pw_json_f32(j, NULL, w->top_logprobs[i * K + k]);
            pw_json_close(j, ']');
        }
        pw_json_close(j, ']');
    }
    pw_json_close(j, ']');
}

static int put_json(struct work *w, const struct sequence *q)
{
    struct pw_json j = {0};
    pw_json_begin(&j);
    pw_json_open(&j, "tokens", '[');
    for (int64_t i = 0; i < q->n; i++)
        pw_json_i64(&j, NULL, q->ids[i]);
    pw_json_close(&j, ']');
    pw_json_open(&j, "logprobs", '[');
    pw_json_null(&j, NULL);
    for (int64_t i = 0; i + 1 < q->n; i++)
        pw_json_f32(&j, NULL, w->logprobs[i]);
    pw_json_close(&j, ']');
    if (q->n > 1) {
        pw_json_f64(&j, "nll", mean_nll(w, q));
        pw_json_f64(&j, "perplexity", exp(mean_nll(w, q)));
    } else {
        pw_json_null(&j, "nll");
        pw_json_null(&j, "perplexity");
    }
    if (w->o->top > 0)
        json_top(&j, w, q);
    return pw_json_finish(w->c, &j);
}

static void put_escaped(struct pw_buf *out, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] < 32 || text[i] == 127)
            pw_buf_printf(out, "\\x%02x", (unsigned char)text[i]);
        else
            pw_buf_char(out, text[i]);
}

static int put_token(const struct work *w, int32_t id)
{
    struct pw_buf piece = {0};
    int rc = 0;
    if (w->l->tokenizer) {
        rc = pw_token_bytes(w->l->tokenizer, id, &piece);
        pw_buf_char(w->c->out, '|');
        if (rc == 0 && pw_utf8_valid(piece.data ? piece.data : "", piece.len))
            put_escaped(w->c->out, piece.data, piece.len);
        else
            for (size_t i = 0; i < piece.len; i++)
                pw_buf_printf(w->c->out, "\\x%02x", (unsigned char)piece.data[i]);
        pw_buf_char(w->c->out, '|');
    }
    pw_buf_free(&piece);
    return rc;
}

static int put_text(struct work *w, const struct sequence *q)
{
    struct pw_buf *out = w->c->out;
    const int64_t K = w->o->top;
    for (int64_t i = 0; i < q->n; i++) {
        if (i > 0)
            pw_buf_printf(out, "%8d %10.4f  ", q->ids[i], (double)w->logprobs[i - 1]);
        else
            pw_buf_printf(out, "%8d %10s  ", q->ids[i], "-");
        PW_PASS(put_token(w, q->ids[i]));
        for (int64_t k = 0; i > 0 && k < K && k < w->l->model->config.vocab; k++) {
            pw_buf_printf(out, "  %d %.4f ", w->top_ids[(i - 1) * K + k], (double)w->top_logprobs[(i - 1) * K + k]);
            PW_PASS(put_token(w, w->top_ids[(i - 1) * K + k]));
        }
        pw_buf_char(out, '\n');
    }
    if (q->n > 1)
        pw_buf_printf(out, "%lld tokens, %lld of them scored: nll %.6f, perplexity %.4f\n", (long long)q->n, (long long)q->n - 1, mean_nll(w, q),
                      exp(mean_nll(w, q)));
    else
        pw_buf_str(out, "1 token, none to score\n");
    return 0;
}

/* The header of a .npy file, version 1.0: padded so that data begins at a multiple of 64. */
static int npy_header(struct pw_out *f, int64_t rows, int64_t columns)
{
    char dict[128];
    const int n = snprintf(dict, sizeof dict, "{'descr': '<f4', 'fortran_order': False, 'shape': (%lld, %lld), }", (long long)rows, (long long)columns);
    const int padded = (10 + n + 1 + 63) / 64 * 64 - 10;
    const unsigned char head[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)(padded & 255), (unsigned char)(padded >> 8)};
    PW_PASS(pw_out_write(f, head, sizeof head));
    PW_PASS(pw_out_write(f, dict, (size_t)n));
    for (int i = n; i < padded - 1; i++)
        PW_PASS(pw_out_write(f, " ", 1));
    return pw_out_write(f, "\n", 1);
}

static int score_all(struct work *w, struct pw_arena *a, const struct sequence *list, size_t n)
{
    const int64_t V = w->l->model->config.vocab;
    int64_t longest = 1;
    for (size_t i = 0; i < n; i++)
        longest = list[i].n > longest ? list[i].n : longest;
    const int64_t rows = longest < w->l->model->config.context ? longest : w->l->model->config.context;
    PW_PASS(pw_load_refusal(pw_session_open(&w->s, w->l->model, rows, rows < PIECE ? rows : PIECE, 1)));
    w->logprobs = pw_arena_array(a, (size_t)longest, sizeof *w->logprobs);
    PW_CHECK(w->logprobs, PW_E_NOMEM, "out of memory");
    if (w->o->top > 0 || w->npy) {
        w->logits = pw_arena_array(a, (size_t)(ROWS * V), sizeof *w->logits);
        w->top_ids = pw_arena_array(a, (size_t)(longest * w->o->top + 1), sizeof *w->top_ids);
        w->top_logprobs = pw_arena_array(a, (size_t)(longest * w->o->top + 1), sizeof *w->top_logprobs);
        PW_CHECK(w->logits && w->top_ids && w->top_logprobs, PW_E_NOMEM, "out of memory");
    }
    if (w->npy)
        PW_PASS(npy_header(w->npy, list[0].n, V));
    pw_progress_start(w->c->progress, "scoring", w->c->common->quiet);
    for (size_t i = 0; i < n; i++) {
        PW_TRY(score(w, &list[i]), "scoring sequence %zu", i + 1);
        PW_PASS(w->c->common->json ? put_json(w, &list[i]) : put_text(w, &list[i]));
    }
    pw_progress_end(w->c->progress, NULL);
    return 0;
}

static int run(struct pw_cmd *c)
{
    const struct options *o = c->options;
    struct pw_loaded l = {0};
    struct pw_arena arena;
    struct pw_buf text = {0};
    struct pw_tokens tokens = {0};
    struct pw_out npy = {0};
    struct work w = {.c = c, .o = o, .l = &l};
    struct sequence one, *list = &one;
    size_t n = 1;
    int rc = 0;
    pw_arena_init(&arena);
    PW_CHECK_OUT((o->text != NULL) + (o->file != NULL) + (o->ids != NULL) == 1, PW_E_USAGE, "pw score: give one of --text, --file and --ids");
    if (o->logits)
        PW_PASS_OUT(pw_out_check(o->logits, c->common->force));
    PW_PASS_OUT(pw_load_attached(&l, c, c->args.items[0], !o->ids));
    if (o->ids)
        PW_PASS_OUT(read_ids_file(o->ids, &arena, l.model->config.vocab, &list, &n));
    else
        PW_PASS_OUT(read_text(&w, &text, &tokens, &one));
    if (o->logits) {
        PW_CHECK_OUT(n == 1, PW_E_USAGE, "--logits: expected one sequence, got %zu", n);
        PW_PASS_OUT(pw_out_open(&npy, o->logits, c->common->force));
        w.npy = &npy;
    }
    PW_PASS_OUT(score_all(&w, &arena, list, n));
    if (w.npy)
        PW_PASS_OUT(pw_out_commit(&npy));
out:
    pw_out_abort(&npy);
    pw_session_close(w.s);
    pw_tokens_free(&tokens);
    pw_buf_free(&text);
    pw_arena_free(&arena);
    pw_unload(&l);
    return rc;
}

const struct pw_command pw_commands_score[] = {
    {.name = "score", .usage = "MODEL (--text S | --file F | --ids F.json) [--top K] [--logits F.npy]",
     .summary = "log-probability of each token given those before; perplexity",
     .text = "The first token is given, not scored: its log-probability is null (and its entry in \"top\" too).\n"
             "nll is the mean over the scored tokens, in nats: -sum(logprobs) / (tokens - 1); perplexity is exp(nll).\n"
             "A text longer than the context is refused. With --ids and an array of arrays there is one result a line.",
     .options = table, .options_bytes = sizeof(struct options), .min_args = 1, .max_args = 1, .run = run, .many_rows = true, .plans = true},
    {0},
};
