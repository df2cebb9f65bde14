/* See preflight.h. */
#include "data/preflight.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "data/packing.h"

enum { MOST_NOTES = 20, ROWS_READ = 100 };   /* notes of one kind by row; rows whose text is read for the template's tokens */

struct look {                     /* at the rows */
    struct pw_preflight *p;
    struct pw_dataset *d;
    const struct pw_preflight_options *o;
    int64_t stops, ends, whole;   /* rows with a trained stop; with a trained stop or special token; that could have one */
    int32_t end_id;               /* a special token that ended an answer */
    int64_t first_endless, first_cut, first_untrained;
};

static bool is_stop(const struct pw_tokenizer *t, int32_t id)
{
    size_t n;
    const int32_t *stops = pw_tokenizer_stops(t, &n);
    for (size_t i = 0; i < n; i++)
        if (stops[i] == id)
            return true;
    return id == pw_tokenizer_eos(t);
}

static void look_at_row(struct look *k, int64_t row)
{
    const struct pw_dataset *d = k->d;
    const struct pw_tokenizer *t = k->o->tokenizer;
    const int64_t first = d->row_start[row], last = d->row_start[row + 1] - 1, n = last + 1 - first;
    bool any = false, stop = false, end = false;
    int bin = 0;
    while (bin + 1 < PW_LENGTH_BINS && ((int64_t)1 << bin) < n)
        bin++;
    k->p->lengths[bin]++;
    for (int64_t i = first; i <= last; i++) {
        if (!d->trained[i])
            continue;
        any = true;
        stop |= is_stop(t, d->ids[i]);
        if (pw_tokenizer_is_special(t, d->ids[i])) {
            end = true;
            k->end_id = d->ids[i];
        }
    }
    const bool full = k->o->max_length > 0 && n >= k->o->max_length, ended = is_stop(t, d->ids[last]) || pw_tokenizer_is_special(t, d->ids[last]);
    if (!any) {
        if (k->p->untrained++ == 0)
            k->first_untrained = row;
    } else if (full && d->trained[last] && !ended) {
        if (k->p->cut_answers++ == 0)
            k->first_cut = row;
    } else if (!full) {
        k->whole++;
        k->stops += stop;
        k->ends += stop || end;
        if (!stop && !end && k->p->endless++ == 0)
            k->first_endless = row;
    }
}


static int note(struct look *k, bool error, int64_t row, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
static int note(struct look *k, bool error, int64_t row, const char *fmt, ...)
{
    char text[600];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return pw_dataset_note(k->d, error, row >= 0 ? k->d->row_line[row] : 0, k->o->source, text);
}

static int check_bos(struct look *k)
{
    const struct pw_dataset *d = k->d;
    const int32_t bos = pw_tokenizer_bos(k->o->tokenizer);
    for (int64_t row = 0; bos >= 0 && row < d->n_rows; row++) {
        const int64_t at = d->row_start[row];
        if (d->row_start[row + 1] - at < 2 || d->ids[at] != bos || d->ids[at + 1] != bos)
            continue;
        if (k->p->doubled_bos++ < MOST_NOTES)
            PW_PASS(note(k, true, row, "the row begins with BOS twice"));
    }
    if (k->p->doubled_bos > MOST_NOTES)
        PW_PASS(note(k, true, -1, "%" PRId64 " rows begin with BOS twice", k->p->doubled_bos));
    return 0;
}

static int check_ends(struct look *k)
{
    const struct pw_tokenizer *t = k->o->tokenizer;
    struct pw_buf piece = {0};
    size_t n_stops;
    (void)pw_tokenizer_stops(t, &n_stops);
    if (k->whole == 0 || (pw_tokenizer_eos(t) < 0 && n_stops == 0))
        return 0;                     /* all rows are cut; or there is no such token, which reading has said */
    if (k->ends == 0)
        return note(k, true, k->first_endless, "an end-of-turn token is never trained, in none of %" PRId64 " rows: the model would not learn to stop", k->whole);
    if (k->p->endless > 0)
        PW_PASS(note(k, false, k->first_endless, "no end-of-turn token is trained (%" PRId64 " of %" PRId64 " rows, this is the first)", k->p->endless, k->whole));
    if (k->stops > 0)
        return 0;
    int rc = pw_token_bytes(t, k->end_id, &piece);
    if (rc == 0)
        rc = note(k, false, -1, "answers end with %.*s, at which generation does not stop (it stops at %s)", (int)piece.len, piece.len ? piece.data : "",
                  pw_tokenizer_eos_text(t) ? pw_tokenizer_eos_text(t) : "other tokens");
    pw_buf_free(&piece);
    return rc;
}

/* The length of a control token's text at s, "<|name|>" (the bars of DeepSeek too) or one of the names that templates write, or 0. */
static size_t control_at(const char *s)
{
    static const char *const bars[][2] = {{"<|", "|>"}, {"<\uff5c", "\uff5c>"}};
    static const char *const names[] = {"<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<s>", "</s>", "<end_of_utterance>"};
    for (size_t i = 0; i < sizeof bars / sizeof bars[0]; i++) {
        const size_t begin = strlen(bars[i][0]), end = strlen(bars[i][1]);
        if (strncmp(s, bars[i][0], begin) != 0)
            continue;
        size_t n = begin;
        while (n < 64 && !strchr("<> '\"", s[n]) && strncmp(s + n, bars[i][1], end) != 0)
            n++;
        return n > begin && strncmp(s + n, bars[i][1], end) == 0 ? n + end : 0;
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strncmp(s, names[i], strlen(names[i])) == 0)
            return strlen(names[i]);
    return 0;
}

/* A control token of the template that its rows hold, and that the tokenizer takes for plain text. */
static int check_template(struct look *k)
{
    const struct pw_dataset *d = k->d;
    const struct pw_tokenizer *t = k->o->tokenizer;
    struct pw_buf text = {0};
    struct pw_tokens tokens = {0};
    const char *told[MOST_NOTES];
    int n_told = 0, rc = 0;
    for (int64_t row = 0; row < d->n_rows && row < ROWS_READ; row++)
        PW_PASS_OUT(pw_tokenizer_decode(t, d->ids + d->row_start[row], (size_t)(d->row_start[row + 1] - d->row_start[row]), 0, &text));
    for (const char *s = k->o->chat_template; s && text.len > 0 && (s = strchr(s, '<')); s++) {
        const size_t n = control_at(s);
        bool known = n == 0 || n_told == MOST_NOTES;
        for (int i = 0; i < n_told && !known; i++)
            known = strncmp(told[i], s, n) == 0;
        if (known)
            continue;
        told[n_told++] = s;
        if (!memmem(text.data, text.len, s, n))
            continue;
        PW_PASS_OUT(pw_tokenizer_encode(t, s, n, PW_TOK_PARSE_SPECIAL, &tokens));
        if (tokens.n > 1)
            PW_PASS_OUT(note(k, true, -1, "template and tokenizer do not fit: %.*s is %zu tokens of plain text to the tokenizer", (int)n, s, tokens.n));
    }
out:
    pw_buf_free(&text);
    pw_tokens_free(&tokens);
    return rc;
}

static int check_overlaps(struct look *k)
{
    const struct pw_dataset *d = k->d, *e = k->o->eval;
    struct pw_preflight *p = k->p;
    const int per = pw_dataset_per(d);
    PW_PASS(pw_overlap_near(d, &p->near));
    if (p->near.n > 0)
        PW_PASS(note(k, false, p->near.first * per, "nearly the same as the row of line %" PRId64 " (%" PRId64 " rows are like an earlier one)", d->row_line[p->near.like * per],
                     p->near.n));
    if (!e)
        return 0;
    PW_PASS(pw_overlap_eval(d, e, k->o->tokenizer, &p->exact, &p->runs));
    if (p->exact.n > 0)
        PW_PASS(note(k, false, p->exact.first, "the same words as the evaluation row of line %" PRId64 " (%" PRId64 " rows are in the evaluation set)",
                     e->row_line[p->exact.like], p->exact.n));
    if (p->runs.n > 0)
        PW_PASS(note(k, false, p->runs.first, "shares 13 words in a row with the evaluation row of line %" PRId64 " (%" PRId64 " rows do)", e->row_line[p->runs.like], p->runs.n));
    return 0;
}

static int plan_packs(struct look *k)
{
    struct pw_packing *plan = NULL;
    const struct pw_packing_options o = {.max_length = k->o->max_length, .batch_size = 1, .packing = true};
    if (k->d->n_rows == 0)
        return 0;
    PW_PASS(pw_packing_plan(&plan, k->d, NULL, 0, &o, 0));
    k->p->fill = plan->fill;
    k->p->packs = plan->n_passes;
    pw_packing_free(plan);
    return 0;
}

int pw_preflight(struct pw_preflight *p, struct pw_dataset *d, const struct pw_preflight_options *o)
{
    struct look k = {.p = p, .d = d, .o = o, .end_id = -1, .first_endless = -1, .first_cut = -1, .first_untrained = -1};
    *p = (struct pw_preflight){.near = {.first = -1}, .exact = {.first = -1}, .runs = {.first = -1}};
    for (int64_t row = 0; row < d->n_rows; row++)
        look_at_row(&k, row);
    PW_TRY(plan_packs(&k), "checking the data");
    PW_TRY(check_bos(&k), "checking the data");
    if (d->n_trained > 0)
        PW_TRY(check_ends(&k), "checking the data");
    PW_TRY(check_template(&k), "checking the data");
    if (p->cut_answers > 0)
        PW_PASS(note(&k, false, k.first_cut, "the answer is longer than the window of %" PRId64 " tokens and is cut (%" PRId64 " rows, this is the first)", o->max_length, p->cut_answers));
    PW_TRY(check_overlaps(&k), "checking the data");
    return 0;
}
