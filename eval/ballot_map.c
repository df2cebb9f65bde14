/* Maps of ballot files, see ballot_map.h: reading one strictly and answering what a column is. Reads no ballots. */
#include "eval/ballot_map.h"

#include <stdio.h>
#include <string.h>
#include "base/error.h"
#include "base/file.h"

const char *const pw_ballot_field_names[PW_FIELDS] = { "voter", "entry", "coins", "left", "right", "choice", "rating", "time", "id",
                                                       "prompt" };
static const char *const keys[] = { "voter", "entry", "coins", "left", "right", "choice", "rating", "time", "id", "prompt", "kind",
                                    "wide", "voters", "split", "keep" };
#define N_KEYS (sizeof keys / sizeof keys[0])

static int check_keys(const struct pw_value *v, const char *where, const char *const *right, size_t n)
{
    PW_CHECK(v->kind == PW_MAP, PW_E_FORMAT, "%s:%d: expected a map of keys, got %s", where, v->line, pw_kind_name(v->kind));
    for (size_t i = 0; i < v->len; i++) {
        const char *key = v->members[i].key;
        bool known = false;
        for (size_t k = 0; k < n && !known; k++)
            known = strcmp(key, right[k]) == 0;
        if (known)
            continue;
        const char *near = pw_nearest(key, right, n);
        return pw_error(PW_E_FORMAT, near ? "%s:%d: unknown key '%s' (nearest: '%s')" : "%s:%d: unknown key '%s'", where,
                        v->members[i].value.line, key, near ? near : "");
    }
    return 0;
}

/* A scalar as the text that a file would hold. */
static int scalar_text(struct pw_ballot_map *m, const struct pw_value *v, const char *what, const char **out)
{
    char number[32];
    if (v->kind == PW_STRING) {
        *out = pw_arena_strndup(&m->arena, v->s, v->len);
    } else if (v->kind == PW_INT) {
        *out = pw_arena_printf(&m->arena, "%lld", (long long)v->i);
    } else if (v->kind == PW_REAL) {
        pw_format_f64(number, v->d);
        *out = pw_arena_strndup(&m->arena, number, strlen(number));
    } else if (v->kind == PW_BOOL) {
        *out = v->b ? "true" : "false";
    } else {
        return pw_error(PW_E_FORMAT, "%s:%d: %s: expected a word, got %s", m->source, v->line, what, pw_kind_name(v->kind));
    }
    return *out ? 0 : PW_E_NOMEM;
}

static int read_table(struct pw_ballot_map *m, const struct pw_value *v, const char *what, struct pw_map_table *out)
{
    if (!v || v->kind == PW_NULL)
        return 0;
    PW_CHECK(v->kind == PW_MAP && v->len > 0, PW_E_FORMAT, "%s:%d: %s: expected a map with at least one row", m->source, v->line, what);
    out->items = pw_arena_array(&m->arena, v->len, sizeof *out->items);
    if (!out->items)
        return PW_E_NOMEM;
    for (size_t i = 0; i < v->len; i++) {
        out->items[i].from = pw_arena_strndup(&m->arena, v->members[i].key, v->members[i].key_len);
        if (!out->items[i].from)
            return PW_E_NOMEM;
        PW_PASS(scalar_text(m, &v->members[i].value, what, &out->items[i].to));
    }
    out->n = v->len;
    return 0;
}

static int read_field(struct pw_ballot_map *m, const struct pw_value *v, enum pw_ballot_field f)
{
    static const char *const inner[] = { "column", "values" };
    const char *name = pw_ballot_field_names[f];
    if (!v || v->kind == PW_NULL)
        return 0;
    if (v->kind == PW_MAP) {
        PW_PASS(check_keys(v, m->source, inner, 2));
        PW_PASS(read_table(m, pw_get(v, "values"), name, &m->values[f]));
        v = pw_get(v, "column");
        if (!v) /* `choice: {values: …}` beside `voters`, whose columns hold the choice */
            return 0;
    }
    m->given[f] = true;
    return scalar_text(m, v, name, &m->column[f]);
}

static int read_split(struct pw_ballot_map *m, const struct pw_value *v)
{
    static const char *const inner[] = { "column", "separator" };
    if (!v || v->kind == PW_NULL)
        return 0;
    PW_PASS(check_keys(v, m->source, inner, 2));
    const struct pw_value *column = pw_get(v, "column"), *separator = pw_get(v, "separator");
    PW_CHECK(column && separator, PW_E_FORMAT, "%s:%d: split: expected {column: …, separator: …}", m->source, v->line);
    PW_PASS(scalar_text(m, column, "split", &m->split_column));
    PW_PASS(scalar_text(m, separator, "split", &m->split_separator));
    PW_CHECK(m->split_separator[0], PW_E_FORMAT, "%s:%d: split: the separator is empty", m->source, v->line);
    return 0;
}

static int read_keep(struct pw_ballot_map *m, const struct pw_value *v)
{
    if (!v || v->kind == PW_NULL)
        return 0;
    if (v->kind == PW_STRING) {
        m->keep_all = strcmp(v->s, "all") == 0;
        PW_CHECK(m->keep_all || strcmp(v->s, "none") == 0, PW_E_FORMAT, "%s:%d: keep: expected all, none or a list, got '%s'", m->source,
                 v->line, v->s);
        return 0;
    }
    PW_CHECK(v->kind == PW_LIST, PW_E_FORMAT, "%s:%d: keep: expected all, none or a list, got %s", m->source, v->line, pw_kind_name(v->kind));
    m->keep_all = false;
    m->keep = pw_arena_array(&m->arena, v->len ? v->len : 1, sizeof *m->keep);
    if (!m->keep)
        return PW_E_NOMEM;
    for (m->n_keep = 0; m->n_keep < v->len; m->n_keep++)
        PW_PASS(scalar_text(m, &v->items[m->n_keep], "keep", &m->keep[m->n_keep]));
    return 0;
}

static int read_map(struct pw_ballot_map *m, const struct pw_value *v)
{
    const char *kind = NULL;
    PW_PASS(check_keys(v, m->source, keys, N_KEYS));
    PW_PASS(pw_get_str(v, "kind", m->source, &kind));
    for (int k = 0; kind && k < PW_BALLOT_KINDS; k++)
        if (strcmp(kind, pw_ballot_kind_names[k]) == 0)
            m->kind = k;
    PW_CHECK(!kind || m->kind >= 0, PW_E_FORMAT, "%s: kind: '%s' is none of coins, pairs, ratings", m->source, kind);
    for (int f = 0; f < PW_FIELDS; f++)
        PW_PASS(read_field(m, pw_get(v, pw_ballot_field_names[f]), (enum pw_ballot_field)f));
    PW_PASS(read_table(m, pw_get(v, "wide"), "wide", &m->wide));
    PW_PASS(read_table(m, pw_get(v, "voters"), "voters", &m->voters));
    PW_PASS(read_split(m, pw_get(v, "split")));
    PW_PASS(read_keep(m, pw_get(v, "keep")));
    PW_CHECK(!m->wide.n || !m->voters.n, PW_E_FORMAT, "%s: wide and voters exclude each other", m->source);
    PW_CHECK(!m->wide.n || m->kind != PW_BALLOT_PAIRS, PW_E_FORMAT, "%s: wide is for coins and ratings", m->source);
    PW_CHECK(!m->split_column || m->kind < 0 || m->kind == PW_BALLOT_PAIRS, PW_E_FORMAT, "%s: split is for pairs", m->source);
    if (m->kind < 0 && (m->split_column || m->given[PW_FIELD_LEFT] || m->given[PW_FIELD_RIGHT]))
        m->kind = PW_BALLOT_PAIRS;
    if (m->kind < 0 && (m->wide.n || m->voters.n))
        m->kind = PW_BALLOT_COINS;
    return 0;
}

int pw_ballot_map_default(struct pw_ballot_map *m)
{
    memset(m, 0, sizeof *m);
    m->kind = -1;
    m->keep_all = true;
    m->source = "map";
    for (int f = 0; f < PW_FIELDS; f++)
        m->column[f] = pw_ballot_field_names[f];
    return pw_arena_init(&m->arena);
}

int pw_ballot_map_parse(struct pw_ballot_map *m, const char *yaml, size_t bytes, const char *source)
{
    struct pw_value *v = NULL;
    PW_PASS(pw_ballot_map_default(m));
    m->source = pw_arena_strndup(&m->arena, source, strlen(source));
    int rc = m->source ? pw_yaml_parse(&m->arena, yaml, bytes, source, &v) : PW_E_NOMEM;
    if (rc == 0)
        rc = read_map(m, v);
    if (rc < 0)
        pw_ballot_map_free(m);
    return rc;
}

int pw_ballot_map_load(struct pw_ballot_map *m, const char *path)
{
    struct pw_buf text = { 0 };
    int rc = pw_file_read(path, 16 << 20, &text);
    memset(m, 0, sizeof *m);
    if (rc == 0)
        rc = pw_ballot_map_parse(m, text.data ? text.data : "", text.len, path);
    pw_buf_free(&text);
    return rc;
}

void pw_ballot_map_free(struct pw_ballot_map *m)
{
    if (!m)
        return;
    pw_arena_free(&m->arena);
    memset(m, 0, sizeof *m);
}

static const char *look_up(const struct pw_map_table *t, const char *from)
{
    for (size_t i = 0; i < t->n; i++)
        if (strcmp(t->items[i].from, from) == 0)
            return t->items[i].to;
    return NULL;
}

const char *pw_ballot_map_word(const struct pw_ballot_map *m, enum pw_ballot_field f, const char *text)
{
    return m->values[f].n ? look_up(&m->values[f], text) : text;
}

bool pw_ballot_map_uses(const struct pw_ballot_map *m, const char *column)
{
    for (int f = 0; f < PW_FIELDS; f++)
        if (strcmp(m->column[f], column) == 0)
            return true;
    return look_up(&m->wide, column) || look_up(&m->voters, column) || (m->split_column && strcmp(m->split_column, column) == 0);
}

bool pw_ballot_map_keeps(const struct pw_ballot_map *m, const char *column)
{
    for (size_t i = 0; i < m->n_keep; i++)
        if (strcmp(m->keep[i], column) == 0)
            return true;
    return m->keep_all;
}
