/* Ballots, see ballots.h: checking the words of one, and its record in the ledger. Knows neither files nor counting. */
#include "eval/ballots.h"

#include <stdio.h>
#include <string.h>
#include "base/error.h"

const char *const pw_choice_names[PW_CHOICES] = { "left", "right", "tie", "neither" };

/* ---- words ------------------------------------------------------------------------------------------------------------ */
/* -?digits and nothing else: "3.0", "1e3", " 3" and "+3" are not what a coin looks like. */
static int parse_coins(const char *s, int64_t *out)
{
    size_t sign = s[0] == '-', n = strlen(s);
    PW_CHECK(n > 0, PW_E_FORMAT, "coins are missing");
    PW_CHECK(n > sign && strspn(s + sign, "0123456789") == n - sign, PW_E_FORMAT, "coins '%.40s' are not an integer", s);
    PW_CHECK(pw_parse_i64(s, out) == 0 && *out <= PW_COINS_MAX && *out >= -PW_COINS_MAX, PW_E_FORMAT,
             "coins %.40s are out of range (at most %lld)", s, (long long)PW_COINS_MAX);
    return 0;
}

static int check_coins(const struct pw_contest *c, int64_t coins)
{
    PW_CHECK(coins >= 0 || c->negative != PW_NEGATIVE_REJECT, PW_E_FORMAT, "coins %lld are negative, which the contest rejects",
             (long long)coins);
    return 0;
}

static int check_time(struct pw_ballot *b, const struct pw_contest *c, const char *time)
{
    if (!time || !time[0])
        return 0;
    PW_CHECK(pw_time_parse(time, false, &b->time_ms) == 0, PW_E_FORMAT,
             "time '%.60s' is not a time (expected 2026-03-01T12:00:00Z or seconds since 1970)", time);
    PW_CHECK(!c->opens || b->time_ms >= c->opens_ms, PW_E_FORMAT, "time %s is before the contest opens (%s)", time, c->opens);
    PW_CHECK(!c->closes || b->time_ms <= c->closes_ms, PW_E_FORMAT, "time %s is after the contest closes (%s)", time, c->closes);
    b->time = time;
    return 0;
}

static int check_name(const char *what, const char *s)
{
    PW_CHECK(s && s[0], PW_E_FORMAT, "%s is missing", what);
    PW_CHECK(strlen(s) <= PW_NAME_MAX_BYTES, PW_E_FORMAT, "%s has %zu bytes (at most %d)", what, strlen(s), PW_NAME_MAX_BYTES);
    return 0;
}

static int find_entry(const struct pw_contest *c, const char *what, const char *s, int64_t *index)
{
    PW_PASS(check_name(what, s));
    return pw_contest_find(c, s, strlen(s), index);
}

static int find_choice(struct pw_ballot *b, const char *s)
{
    PW_CHECK(s && s[0], PW_E_FORMAT, "choice is missing");
    for (int i = 0; i < PW_CHOICES; i++)
        if (strcmp(s, pw_choice_names[i]) == 0) {
            b->choice = (enum pw_choice)i;
            return 0;
        }
    return pw_error(PW_E_FORMAT, "choice '%.40s' is none of left, right, tie, neither", s);
}

int pw_ballot_from_words(struct pw_ballot *b, const struct pw_contest *c, enum pw_ballot_kind kind, const struct pw_ballot_words *w)
{
    memset(b, 0, sizeof *b);
    b->kind = kind;
    b->right = -1;
    PW_CHECK(c->takes[kind], PW_E_FORMAT, "the contest takes no %s ballots", pw_ballot_kind_names[kind]);
    PW_PASS(check_name("voter", w->voter));
    b->voter = w->voter;
    b->voter_len = strlen(w->voter);
    if (kind == PW_BALLOT_PAIRS) {
        PW_PASS(find_entry(c, "left", w->left, &b->entry));
        PW_PASS(find_entry(c, "right", w->right, &b->right));
        PW_CHECK(b->entry != b->right, PW_E_FORMAT, "left and right are both '%s'", w->left);
        PW_PASS(find_choice(b, w->choice));
    } else {
        PW_PASS(find_entry(c, "entry", w->entry, &b->entry));
    }
    if (kind == PW_BALLOT_COINS || (kind == PW_BALLOT_PAIRS && w->coins && w->coins[0])) {
        PW_PASS(parse_coins(w->coins ? w->coins : "", &b->coins));
        PW_PASS(check_coins(c, b->coins));
        b->has_coins = true;
    }
    if (kind == PW_BALLOT_RATINGS) {
        PW_CHECK(w->rating && w->rating[0], PW_E_FORMAT, "rating is missing");
        PW_CHECK(pw_parse_f64(w->rating, &b->rating) == 0, PW_E_FORMAT, "rating '%.40s' is not a number", w->rating);
    }
    PW_PASS(check_time(b, c, w->time));
    PW_CHECK(!w->id || strlen(w->id) <= PW_NAME_MAX_BYTES, PW_E_FORMAT, "id has %zu bytes (at most %d)", strlen(w->id), PW_NAME_MAX_BYTES);
    b->id = w->id && w->id[0] ? w->id : NULL;
    b->prompt = w->prompt && w->prompt[0] ? w->prompt : NULL;
    return 0;
}

/* ---- records ---------------------------------------------------------------------------------------------------------- */
static void put_entry(struct pw_json *w, const char *key, const struct pw_contest *c, int64_t index)
{
    pw_json_strn(w, key, c->entries.items[index].s, c->entries.items[index].len);
}

int pw_ballot_encode(const struct pw_ballot *b, const struct pw_contest *c, int64_t n, struct pw_buf *out)
{
    struct pw_json w = { .out = *out }; /* borrows the buffer, so that a long import does not allocate per record */
    pw_buf_clear(&w.out);
    pw_json_open(&w, NULL, '{');
    pw_json_i64(&w, "n", n);
    pw_json_str(&w, "kind", pw_ballot_kind_names[b->kind]);
    pw_json_strn(&w, "voter", b->voter, b->voter_len);
    if (b->kind == PW_BALLOT_PAIRS) {
        put_entry(&w, "left", c, b->entry);
        put_entry(&w, "right", c, b->right);
        pw_json_str(&w, "choice", pw_choice_names[b->choice]);
    } else {
        put_entry(&w, "entry", c, b->entry);
    }
    if (b->has_coins)
        pw_json_i64(&w, "coins", b->coins);
    if (b->kind == PW_BALLOT_RATINGS)
        pw_json_f64(&w, "rating", b->rating);
    if (b->prompt)
        pw_json_str(&w, "prompt", b->prompt);
    if (b->time)
        pw_json_str(&w, "time", b->time);
    if (b->id)
        pw_json_str(&w, "id", b->id);
    if (b->n_more) {
        pw_json_open(&w, "more", '{');
        for (size_t i = 0; i < b->n_more; i++) {
            if (b->more[i].value)
                pw_json_value(&w, b->more[i].key, b->more[i].value);
            else
                pw_json_strn(&w, b->more[i].key, b->more[i].text, b->more[i].text_len);
        }
        pw_json_close(&w, '}');
    }
    pw_json_close(&w, '}');
    int rc = pw_json_status(&w);
    while (w.out.len && w.out.data[w.out.len - 1] == '\n')
        w.out.data[--w.out.len] = 0;
    *out = w.out;
    return rc;
}

static int decode_more(struct pw_ballot *b, const struct pw_value *v, struct pw_arena *a)
{
    if (!v)
        return 0;
    PW_CHECK(v->kind == PW_MAP, PW_E_FORMAT, "more: expected a map, got %s", pw_kind_name(v->kind));
    struct pw_more *more = pw_arena_array(a, v->len ? v->len : 1, sizeof *more);
    if (!more)
        return PW_E_NOMEM;
    for (size_t i = 0; i < v->len; i++) {
        const struct pw_member *m = &v->members[i];
        more[i] = (struct pw_more){ .key = m->key, .key_len = m->key_len, .value = &m->value };
    }
    b->more = more;
    b->n_more = v->len;
    return 0;
}

static int decode(struct pw_ballot *b, const struct pw_contest *c, const struct pw_value *v, struct pw_arena *a, int64_t n)
{
    struct pw_ballot_words w = { 0 };
    int64_t number = 0, coins = 0;
    double rating = 0;
    const char *kind = NULL;
    char coins_text[32], rating_text[32];
    int k = 0;
    PW_PASS(pw_get_i64(v, "n", "record", &number));
    PW_CHECK(number == n, PW_E_FORMAT, "it says that it is record %lld", (long long)number);
    PW_PASS(pw_get_str(v, "kind", "record", &kind));
    while (k < PW_BALLOT_KINDS && (!kind || strcmp(kind, pw_ballot_kind_names[k]) != 0))
        k++;
    PW_CHECK(k < PW_BALLOT_KINDS, PW_E_FORMAT, "kind '%s' is no kind of ballot", kind ? kind : "");
    const struct { const char *key; const char **to; } texts[] = {
        { "voter", &w.voter }, { "entry", &w.entry }, { "left", &w.left }, { "right", &w.right }, { "choice", &w.choice },
        { "time", &w.time }, { "id", &w.id }, { "prompt", &w.prompt },
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        PW_PASS(pw_get_str(v, texts[i].key, "record", texts[i].to));
    if (pw_get(v, "coins")) {
        PW_PASS(pw_get_i64(v, "coins", "record", &coins));
        snprintf(coins_text, sizeof coins_text, "%lld", (long long)coins);
        w.coins = coins_text;
    }
    if (pw_get(v, "rating")) {
        PW_PASS(pw_get_f64(v, "rating", "record", &rating));
        pw_format_f64(rating_text, rating);
        w.rating = rating_text;
    }
    PW_PASS(pw_ballot_from_words(b, c, (enum pw_ballot_kind)k, &w));
    return decode_more(b, pw_get(v, "more"), a);
}

int pw_ballot_decode(struct pw_ballot *b, const struct pw_contest *c, const char *record, size_t bytes, struct pw_arena *a,
                     const char *where, int64_t n)
{
    struct pw_value *v = NULL;
    PW_TRY(pw_json_parse(a, record, bytes, "record", &v), "reading record %lld of %s", (long long)n, where);
    PW_TRY(decode(b, c, v, a, n), "reading record %lld of %s", (long long)n, where);
    return 0;
}
