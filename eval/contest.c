/* The contest file, see contest.h: reading it strictly, and writing it back in one canonical form. Knows no ballots. */
#include "eval/contest.h"

#include <stdio.h>
#include <string.h>
#include "base/error.h"

const char *const pw_ballot_kind_names[PW_BALLOT_KINDS] = { "coins", "pairs", "ratings" };
static const char *const keys[] = { "name", "entries", "ballots", "budget", "cost", "negative", "repeat", "opens", "closes",
                                    "prompts" };
static const char *const costs[] = { "linear", "quadratic" }, *const negatives[] = { "reject", "zero", "allow" },
                  *const repeats[] = { "add", "replace" };
#define COUNT(a) (sizeof (a) / sizeof (a)[0])

/* ---- times ---------------------------------------------------------------------------------------------------------- */
static bool digits(const char **s, int n, int64_t *out)
{
    *out = 0;
    for (int i = 0; i < n; i++, ++*s) {
        if (**s < '0' || **s > '9')
            return false;
        *out = *out * 10 + (**s - '0');
    }
    return true;
}

/* Days since 1970-01-01 in the Gregorian calendar (years counted from March, so that the leap day is the last). */
static int64_t days_from_date(int64_t y, int64_t m, int64_t d)
{
    y -= m <= 2;
    int64_t era = y / 400, yoe = y - era * 400, doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static bool date_is_real(int64_t y, int64_t m, int64_t d)
{
    static const int length[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    if (y < 1 || m < 1 || m > 12 || d < 1)
        return false;
    bool leap = (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
    return d <= length[m - 1] + (m == 2 && leap);
}

int pw_time_parse(const char *s, bool end_of_day, int64_t *ms)
{
    int64_t y, mo, d, h = 0, mi = 0, sec = 0, frac = 0, whole;
    const char *p = s;
    if (strlen(s) <= 11 && strspn(s, "0123456789") == strlen(s) && pw_parse_i64(s, &whole) == 0) {
        *ms = whole * 1000;
        return 0;
    }
    if (!digits(&p, 4, &y) || *p++ != '-' || !digits(&p, 2, &mo) || *p++ != '-' || !digits(&p, 2, &d) || !date_is_real(y, mo, d))
        return -1;
    int64_t at = days_from_date(y, mo, d) * 86400000;
    if (!*p) {
        *ms = at + (end_of_day ? 86399999 : 0);
        return 0;
    }
    if ((*p != 'T' && *p != 't' && *p != ' ') || (p++, !digits(&p, 2, &h)) || *p++ != ':' || !digits(&p, 2, &mi))
        return -1;
    if (*p == ':') {
        p++;
        if (!digits(&p, 2, &sec))
            return -1;
        if (*p == '.') {
            int64_t unit = 100;
            if (*++p < '0' || *p > '9')
                return -1;
            for (; *p >= '0' && *p <= '9'; p++, unit /= 10)
                frac += (*p - '0') * unit;
        }
    }
    if (h > 23 || mi > 59 || sec > 60)
        return -1;
    at += ((h * 60 + mi) * 60 + sec) * 1000 + frac;
    if (*p == 'Z' || *p == 'z') {
        p++;
    } else if (*p == '+' || *p == '-') {
        int64_t sign = *p++ == '+' ? 1 : -1, zh, zm;
        if (!digits(&p, 2, &zh))
            return -1;
        if (*p == ':')
            p++;
        if (!digits(&p, 2, &zm) || zh > 23 || zm > 59)
            return -1;
        at -= sign * (zh * 60 + zm) * 60000;
    }
    if (*p)
        return -1;
    *ms = at;
    return 0;
}

/* ---- reading -------------------------------------------------------------------------------------------------------- */
static int unknown(const char *where, const char *what, const char *got, int line, const char *const *right, size_t n)
{
    const char *near = pw_nearest(got, right, n);
    return near ? pw_error(PW_E_FORMAT, "%s:%d: unknown %s '%s' (nearest: '%s')", where, line, what, got, near)
                : pw_error(PW_E_FORMAT, "%s:%d: unknown %s '%s'", where, line, what, got);
}

static int get_choice(const struct pw_value *v, const char *key, const char *where, const char *const *words, size_t n, int *out)
{
    const char *s = NULL;
    PW_PASS(pw_get_str(v, key, where, &s));
    if (!s)
        return 0;
    for (size_t i = 0; i < n; i++)
        if (strcmp(s, words[i]) == 0) {
            *out = (int)i;
            return 0;
        }
    char what[64];
    snprintf(what, sizeof what, "value of '%s'", key);
    return unknown(where, what, s, pw_get(v, key)->line, words, n);
}

static int read_entries(struct pw_contest *c, const struct pw_value *list, const char *where)
{
    PW_CHECK(list && list->kind == PW_LIST && list->len > 0, PW_E_FORMAT, "%s: entries: expected a list of at least one name", where);
    PW_CHECK(list->len <= PW_CONTEST_MAX_ENTRIES, PW_E_FORMAT, "%s: entries: %zu names, at most %d", where, list->len,
             PW_CONTEST_MAX_ENTRIES);
    for (size_t i = 0; i < list->len; i++) {
        const struct pw_value *v = &list->items[i];
        char number[32];
        const char *s = v->s;
        size_t len = v->len;
        if (v->kind == PW_INT) { /* entries: [1, 2, 3] names them "1", "2", "3", as a ballot file does */
            len = (size_t)snprintf(number, sizeof number, "%lld", (long long)v->i);
            s = number;
        } else {
            PW_CHECK(v->kind == PW_STRING, PW_E_FORMAT, "%s:%d: entries: expected a name, got %s", where, v->line,
                     pw_kind_name(v->kind));
        }
        PW_CHECK(len > 0 && len <= PW_NAME_MAX_BYTES && !memchr(s, 0, len), PW_E_FORMAT,
                 "%s:%d: entries: a name has %zu bytes (1 to %d, no NUL)", where, v->line, len, PW_NAME_MAX_BYTES);
        int64_t index;
        PW_PASS(pw_names_add(&c->entries, s, len, &index));
        PW_CHECK(index == (int64_t)i, PW_E_FORMAT, "%s:%d: entries: '%s' stands there twice", where, v->line, s);
    }
    return 0;
}

static int read_kind(struct pw_contest *c, const struct pw_value *v, const char *where)
{
    PW_CHECK(v->kind == PW_STRING, PW_E_FORMAT, "%s:%d: ballots: expected coins, pairs or ratings, got %s", where, v->line,
             pw_kind_name(v->kind));
    for (int k = 0; k < PW_BALLOT_KINDS; k++)
        if (strcmp(v->s, pw_ballot_kind_names[k]) == 0) {
            c->takes[k] = true;
            return 0;
        }
    return unknown(where, "ballot kind", v->s, v->line, pw_ballot_kind_names, PW_BALLOT_KINDS);
}

static int read_ballots(struct pw_contest *c, const struct pw_value *v, const char *where)
{
    if (!v || v->kind == PW_NULL) {
        c->takes[PW_BALLOT_COINS] = true;
        return 0;
    }
    if (v->kind == PW_STRING)
        return read_kind(c, v, where);
    PW_CHECK(v->kind == PW_LIST && v->len > 0, PW_E_FORMAT, "%s:%d: ballots: expected a list of kinds", where, v->line);
    for (size_t i = 0; i < v->len; i++)
        PW_PASS(read_kind(c, &v->items[i], where));
    return 0;
}

static int read_time(struct pw_contest *c, const struct pw_value *v, const char *key, const char *where, bool end, const char **text,
                     int64_t *ms)
{
    const struct pw_value *t = pw_get(v, key);
    if (!t || t->kind == PW_NULL)
        return 0;
    if (t->kind == PW_INT)
        *text = pw_arena_printf(&c->arena, "%lld", (long long)t->i);
    else if (t->kind == PW_STRING)
        *text = pw_arena_strndup(&c->arena, t->s, t->len);
    else
        return pw_error(PW_E_FORMAT, "%s:%d: %s: expected a time, got %s", where, t->line, key, pw_kind_name(t->kind));
    if (!*text)
        return PW_E_NOMEM;
    PW_CHECK(pw_time_parse(*text, end, ms) == 0, PW_E_FORMAT,
             "%s:%d: %s: '%s' is not a time (expected 2026-03-01 or 2026-03-01T12:00:00Z)", where, t->line, key, *text);
    return 0;
}

static int read_contest(struct pw_contest *c, const struct pw_value *v, const char *where)
{
    PW_CHECK(v->kind == PW_MAP, PW_E_FORMAT, "%s: a contest is a map of keys, got %s", where, pw_kind_name(v->kind));
    for (size_t i = 0; i < v->len; i++) {
        bool known = false;
        for (size_t k = 0; k < COUNT(keys) && !known; k++)
            known = strcmp(v->members[i].key, keys[k]) == 0;
        if (!known)
            return unknown(where, "key", v->members[i].key, v->members[i].value.line, keys, COUNT(keys));
    }
    const char *name = "contest";
    PW_PASS(pw_get_str(v, "name", where, &name));
    c->name = pw_arena_strndup(&c->arena, name, strlen(name));
    if (!c->name)
        return PW_E_NOMEM;
    PW_PASS(read_entries(c, pw_get(v, "entries"), where));
    PW_PASS(read_ballots(c, pw_get(v, "ballots"), where));
    const struct pw_value *budget = pw_get(v, "budget");
    c->has_budget = budget && budget->kind != PW_NULL;
    PW_PASS(pw_get_i64(v, "budget", where, &c->budget));
    PW_CHECK(c->budget >= 0, PW_E_FORMAT, "%s: budget: %lld is negative", where, (long long)c->budget);
    int cost = 0, negative = PW_NEGATIVE_REJECT, repeat = 0;
    PW_PASS(get_choice(v, "cost", where, costs, COUNT(costs), &cost));
    PW_PASS(get_choice(v, "negative", where, negatives, COUNT(negatives), &negative));
    PW_PASS(get_choice(v, "repeat", where, repeats, COUNT(repeats), &repeat));
    c->cost_is_quadratic = cost == 1;
    c->negative = (enum pw_negative)negative;
    c->repeat_replaces = repeat == 1;
    PW_PASS(read_time(c, v, "opens", where, false, &c->opens, &c->opens_ms));
    PW_PASS(read_time(c, v, "closes", where, true, &c->closes, &c->closes_ms));
    PW_CHECK(!c->opens || !c->closes || c->opens_ms <= c->closes_ms, PW_E_FORMAT, "%s: closes (%s) is before opens (%s)", where,
             c->closes, c->opens);
    const struct pw_value *prompts = pw_get(v, "prompts");
    if (prompts && prompts->kind != PW_NULL) {
        PW_CHECK(prompts->kind == PW_LIST, PW_E_FORMAT, "%s:%d: prompts: expected a list, got %s", where, prompts->line,
                 pw_kind_name(prompts->kind));
        c->prompts = prompts;
    }
    return 0;
}

int pw_contest_from_json(struct pw_contest *c, const char *json, size_t bytes, const char *where)
{
    struct pw_value *v = NULL;
    memset(c, 0, sizeof *c);
    PW_PASS(pw_arena_init(&c->arena));
    int rc = pw_json_parse(&c->arena, json, bytes, where, &v);
    if (rc == 0)
        rc = read_contest(c, v, where);
    if (rc < 0)
        pw_contest_free(c);
    return rc;
}

int pw_contest_from_value(struct pw_contest *c, const struct pw_value *v, const char *where)
{
    /* Prompts are a tree in the caller's arena: check the contest where it is (its lines are in the errors), then take a
     * copy of its own through its canonical text. */
    struct pw_contest first = { 0 };
    struct pw_buf json = { 0 };
    int rc;
    memset(c, 0, sizeof *c);
    PW_PASS(pw_arena_init(&first.arena));
    PW_PASS_OUT(read_contest(&first, v, where));
    PW_PASS_OUT(pw_contest_json(&first, &json));
    PW_PASS_OUT(pw_contest_from_json(c, json.data, json.len, where));
out:
    pw_buf_free(&json);
    pw_contest_free(&first);
    return rc;
}

int pw_contest_load(struct pw_contest *c, const char *path)
{
    struct pw_arena a;
    struct pw_value *v = NULL;
    memset(c, 0, sizeof *c);
    PW_PASS(pw_arena_init(&a));
    int rc = pw_yaml_load(&a, path, &v);
    if (rc == 0)
        rc = pw_contest_from_value(c, v, path);
    pw_arena_free(&a);
    return rc;
}

/* ---- writing -------------------------------------------------------------------------------------------------------- */
int pw_contest_json(const struct pw_contest *c, struct pw_buf *out)
{
    struct pw_json w = { 0 };
    pw_json_open(&w, NULL, '{');
    pw_json_str(&w, "name", c->name);
    pw_json_open(&w, "entries", '[');
    for (int64_t i = 0; i < c->entries.n; i++)
        pw_json_strn(&w, NULL, c->entries.items[i].s, c->entries.items[i].len);
    pw_json_close(&w, ']');
    pw_json_open(&w, "ballots", '[');
    for (int k = 0; k < PW_BALLOT_KINDS; k++)
        if (c->takes[k])
            pw_json_str(&w, NULL, pw_ballot_kind_names[k]);
    pw_json_close(&w, ']');
    if (c->has_budget)
        pw_json_i64(&w, "budget", c->budget);
    else
        pw_json_null(&w, "budget");
    pw_json_str(&w, "cost", costs[c->cost_is_quadratic]);
    pw_json_str(&w, "negative", negatives[c->negative]);
    pw_json_str(&w, "repeat", repeats[c->repeat_replaces]);
    pw_json_str(&w, "opens", c->opens);
    pw_json_str(&w, "closes", c->closes);
    if (c->prompts) {
        pw_json_value(&w, "prompts", c->prompts);
    } else {
        pw_json_open(&w, "prompts", '[');
        pw_json_close(&w, ']');
    }
    pw_json_close(&w, '}');
    int rc = pw_json_status(&w);
    if (rc == 0) {
        size_t n = w.out.len;
        while (n && w.out.data[n - 1] == '\n') /* one line, without its end */
            n--;
        pw_buf_add(out, w.out.data, n);
        rc = pw_buf_status(out);
    }
    pw_json_free(&w);
    return rc;
}

int pw_contest_yaml(const struct pw_contest *c, struct pw_buf *out)
{
    /* A JSON document in flow style is YAML; one key a line makes it readable. Keys are cut at the top level only. */
    struct pw_buf json = { 0 };
    int rc = pw_contest_json(c, &json), depth = 0;
    bool in_string = false;
    for (size_t i = 1; rc == 0 && i + 1 < json.len; i++) {
        char ch = json.data[i];
        if (in_string) {
            if (ch == '\\') {
                pw_buf_char(out, ch);
                ch = json.data[++i];
            } else if (ch == '"') {
                in_string = false;
            }
            pw_buf_char(out, ch);
            continue;
        }
        in_string = ch == '"';
        depth += (ch == '[' || ch == '{') - (ch == ']' || ch == '}');
        if (ch == ',' && depth == 0)
            pw_buf_char(out, '\n');
        else
            pw_buf_char(out, ch);
        if ((ch == ':' || ch == ',') && !(ch == ',' && depth == 0) && json.data[i + 1] != ' ')
            pw_buf_char(out, ' ');
    }
    pw_buf_char(out, '\n');
    pw_buf_free(&json);
    return rc < 0 ? rc : pw_buf_status(out);
}

void pw_contest_free(struct pw_contest *c)
{
    if (!c)
        return;
    pw_names_free(&c->entries);
    pw_arena_free(&c->arena);
    memset(c, 0, sizeof *c);
}

const char *pw_contest_entry(const struct pw_contest *c, int64_t index)
{
    return c->entries.items[index].s;
}

int pw_contest_find(const struct pw_contest *c, const char *s, size_t len, int64_t *index)
{
    *index = pw_names_find(&c->entries, s, len);
    if (*index >= 0)
        return 0;
    const char *near = NULL;
    const char **names = c->entries.n <= 1000 ? pw_alloc((size_t)c->entries.n * sizeof *names) : NULL;
    if (names) {
        for (int64_t i = 0; i < c->entries.n; i++)
            names[i] = c->entries.items[i].s;
        near = pw_nearest(s, names, (size_t)c->entries.n);
        pw_free(names);
    }
    return near ? pw_error(PW_E_FORMAT, "unknown entry '%s' (nearest: '%s')", s, near)
                : pw_error(PW_E_FORMAT, "unknown entry '%s'", s);
}
