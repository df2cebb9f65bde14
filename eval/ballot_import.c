/* Importing ballot files, see ballot_import.h. Owns the way from a row of any of the three formats to records; knows no
 * rule of a ballot (ballots.h) or of a voter (tally.h). */
#include "eval/ballot_import.h"

#include <string.h>
#include "base/error.h"
#include "base/file.h"
#include "data/csv.h"

enum { MAX_FILE_BYTES = 1 << 30 };

/* A row of either format: names beside texts. value is set when the row was JSON; text is NULL for null, lists and maps. */
struct cell { const char *name, *text; size_t len; const struct pw_value *value; };
struct row { int64_t line; struct cell *cells; size_t n; };

struct importing {
    struct pw_ledger *l;
    const struct pw_contest *c;
    const struct pw_ballot_map *map;
    const struct pw_import *how;
    struct pw_import_report *report;
    const char *source;
    struct pw_tally tally;
    struct pw_arena row_arena;
    struct pw_buf record;
    int64_t rows;
};

/* ---- reports ---------------------------------------------------------------------------------------------------------- */
/* Turns the trail of a failed check into a line of the report. Failures that are not the ballot's fault are passed on. */
static int reject(struct importing *x, int64_t line, int code, const char *detail)
{
    struct pw_import_report *r = x->report;
    if (code != PW_E_FORMAT)
        return code;
    if (r->n_rejected == r->cap_rejected) {
        int64_t cap = r->cap_rejected ? 2 * r->cap_rejected : 16;
        void *p = pw_realloc(r->rejected, (size_t)r->cap_rejected * sizeof *r->rejected, (size_t)cap * sizeof *r->rejected);
        PW_CHECK(p, PW_E_NOMEM, "no memory for %lld rejected ballots", (long long)cap);
        r->rejected = p;
        r->cap_rejected = cap;
    }
    const char *why = pw_error_text();
    size_t n = strlen(x->source);
    if (strncmp(why, x->source, n) == 0 && why[n] == ':') { /* the place is a field of its own */
        why += n + 1;
        why += strspn(why, "0123456789: ");
    }
    const char *text = pw_arena_printf(&r->arena, "%s%s%s", detail ? detail : "", detail ? ": " : "", why);
    if (!text)
        return PW_E_NOMEM;
    pw_error_clear();
    r->rejected[r->n_rejected++] = (struct pw_rejected){ line, text };
    return 0;
}

void pw_import_report_free(struct pw_import_report *r)
{
    if (!r)
        return;
    pw_arena_free(&r->arena);
    pw_free(r->rejected);
    memset(r, 0, sizeof *r);
}

/* ---- one row ---------------------------------------------------------------------------------------------------------- */
static const struct cell *find_cell(const struct row *row, const char *name)
{
    for (size_t i = 0; i < row->n; i++)
        if (strcmp(row->cells[i].name, name) == 0)
            return &row->cells[i];
    return NULL;
}

static int get_word(const struct importing *x, const struct cell *cell, enum pw_ballot_field f, const char **out)
{
    *out = NULL;
    if (!cell || (cell->value && cell->value->kind == PW_NULL))
        return 0;
    PW_CHECK(cell->text, PW_E_FORMAT, "%s: expected a word, got %s", cell->name, pw_kind_name(cell->value->kind));
    PW_CHECK(strlen(cell->text) == cell->len, PW_E_FORMAT, "%s: a NUL byte in it", cell->name);
    *out = pw_ballot_map_word(x->map, f, cell->text);
    PW_CHECK(*out, PW_E_FORMAT, "%s: the map does not say what '%.60s' means", cell->name, cell->text);
    return 0;
}

/* -1: cannot be told. A column `kind`, as in an exported file of several kinds, goes first. */
static int row_kind(const struct importing *x, const struct row *row)
{
    const struct cell *kind = find_cell(row, "kind");
    if (x->map->kind >= 0)
        return x->map->kind;
    for (int k = 0; kind && kind->text && k < PW_BALLOT_KINDS; k++)
        if (strcmp(kind->text, pw_ballot_kind_names[k]) == 0)
            return k;
    bool coins = find_cell(row, x->map->column[PW_FIELD_COINS]), rating = find_cell(row, x->map->column[PW_FIELD_RATING]);
    if (find_cell(row, x->map->column[PW_FIELD_CHOICE]) || find_cell(row, x->map->column[PW_FIELD_LEFT]))
        return PW_BALLOT_PAIRS;
    if (coins && rating) /* both may be there: the contest says which of them is a ballot */
        return x->c->takes[PW_BALLOT_COINS] == x->c->takes[PW_BALLOT_RATINGS] ? -1
             : x->c->takes[PW_BALLOT_COINS] ? PW_BALLOT_COINS : PW_BALLOT_RATINGS;
    return coins ? PW_BALLOT_COINS : rating ? PW_BALLOT_RATINGS : -1;
}

/* The further columns of the row. The ledger's own columns of an exported file are not the voter's. */
static int get_more(struct importing *x, const struct row *row, int kind, const struct pw_more **more, size_t *n)
{
    struct pw_more *m = pw_arena_array(&x->row_arena, row->n ? row->n : 1, sizeof *m);
    if (!m)
        return PW_E_NOMEM;
    *n = 0;
    for (size_t i = 0; i < row->n; i++) {
        const struct cell *cell = &row->cells[i];
        if (pw_ballot_map_uses(x->map, cell->name) || !pw_ballot_map_keeps(x->map, cell->name) || strcmp(cell->name, "receipt") == 0)
            continue;
        if (strcmp(cell->name, "kind") == 0 && cell->text && strcmp(cell->text, pw_ballot_kind_names[kind]) == 0)
            continue;
        if (cell->value ? cell->value->kind == PW_NULL : cell->len == 0)
            continue;
        m[(*n)++] = (struct pw_more){ cell->name, strlen(cell->name), cell->text, cell->len, cell->value };
    }
    *more = m;
    return 0;
}

static int accept(struct importing *x, int kind, const struct pw_ballot_words *w, const struct pw_more *more, size_t n_more)
{
    struct pw_ballot b;
    bool repeated;
    PW_PASS(pw_ballot_from_words(&b, x->c, (enum pw_ballot_kind)kind, w));
    b.more = more;
    b.n_more = n_more;
    PW_PASS(pw_tally_check(&x->tally, &b, &repeated));
    if (repeated) {
        x->report->repeated++;
        return 0;
    }
    PW_PASS(pw_ballot_encode(&b, x->c, pw_ledger_count(x->l) + 1, &x->record));
    int rc = pw_tally_add(&x->tally, &b);
    if (rc == 0)
        rc = pw_ledger_append(x->l, x->record.data, x->record.len, NULL);
    if (rc < 0) /* half done: not a ballot's fault any more */
        return rc == PW_E_FORMAT ? PW_E_FAIL : rc;
    x->report->accepted++;
    x->report->untimed += !b.time && (x->c->opens || x->c->closes);
    return 0;
}

static int split_entries(struct importing *x, const struct row *row, struct pw_ballot_words *w)
{
    const struct cell *cell = find_cell(row, x->map->split_column);
    PW_CHECK(cell && cell->text, PW_E_FORMAT, "%s is missing", x->map->split_column);
    const char *at = strstr(cell->text, x->map->split_separator), *right = at ? at + strlen(x->map->split_separator) : NULL;
    PW_CHECK(at && !strstr(right, x->map->split_separator), PW_E_FORMAT, "%s: '%.80s' does not hold the separator '%s' exactly once",
             cell->name, cell->text, x->map->split_separator);
    const char *left = pw_arena_strndup(&x->row_arena, cell->text, (size_t)(at - cell->text));
    if (!left)
        return PW_E_NOMEM;
    w->left = pw_ballot_map_word(x->map, PW_FIELD_LEFT, left);
    w->right = pw_ballot_map_word(x->map, PW_FIELD_RIGHT, right);
    PW_CHECK(w->left && w->right, PW_E_FORMAT, "%s: the map does not say what '%.80s' means", cell->name, cell->text);
    return 0;
}

static int read_words(struct importing *x, const struct row *row, struct pw_ballot_words *w)
{
    const char **fields[PW_FIELDS] = { &w->voter, &w->entry, &w->coins, &w->left, &w->right, &w->choice, &w->rating, &w->time, &w->id,
                                       &w->prompt };
    for (int f = 0; f < PW_FIELDS; f++)
        PW_PASS(get_word(x, find_cell(row, x->map->column[f]), (enum pw_ballot_field)f, fields[f]));
    return x->map->split_column ? split_entries(x, row, w) : 0;
}

/* Several ballots in one row: each column of the table is one. */
static int take_columns(struct importing *x, const struct row *row, int kind, struct pw_ballot_words *w, const struct pw_more *more, size_t n_more)
{
    const struct pw_map_table *t = x->map->wide.n ? &x->map->wide : &x->map->voters;
    enum pw_ballot_field f = kind == PW_BALLOT_PAIRS ? PW_FIELD_CHOICE : kind == PW_BALLOT_COINS ? PW_FIELD_COINS : PW_FIELD_RATING;
    const char **value = kind == PW_BALLOT_PAIRS ? &w->choice : kind == PW_BALLOT_COINS ? &w->coins : &w->rating;
    for (size_t i = 0; i < t->n; i++) {
        const struct cell *cell = find_cell(row, t->items[i].from);
        int rc = cell ? get_word(x, cell, f, value) : pw_error(PW_E_FORMAT, "the row does not have it");
        if (rc == 0 && (!*value || !(*value)[0]))
            continue;
        *(x->map->wide.n ? &w->entry : &w->voter) = t->items[i].to;
        if (rc == 0)
            rc = accept(x, kind, w, more, n_more);
        if (rc < 0)
            PW_PASS(reject(x, row->line, rc, t->items[i].from));
    }
    return 0;
}

static int take_words(struct importing *x, const struct row *row, bool *expanded)
{
    struct pw_ballot_words w = { 0 };
    const struct pw_more *more = NULL;
    size_t n_more;
    int kind = row_kind(x, row);
    PW_CHECK(kind >= 0, PW_E_FORMAT, "neither coins, nor rating, nor left, right and choice are in it");
    PW_PASS(read_words(x, row, &w));
    PW_PASS(get_more(x, row, kind, &more, &n_more));
    *expanded = x->map->wide.n || x->map->voters.n;
    return *expanded ? take_columns(x, row, kind, &w, more, n_more) : accept(x, kind, &w, more, n_more);
}

static int take_row(struct importing *x, const struct row *row)
{
    bool expanded = false;
    int rc = take_words(x, row, &expanded);
    if (rc < 0)
        rc = expanded ? rc : reject(x, row->line, rc, NULL);
    if (rc == 0 && ++x->rows % 1024 == 0) {
        PW_CHECK(!x->how->stop || !x->how->stop(), PW_E_INTERRUPTED, "stopped: nothing of %s was imported", x->source);
        pw_progress_at(x->how->progress, x->rows, 0, NULL);
    }
    return rc;
}

/* ---- CSV -------------------------------------------------------------------------------------------------------------- */
static int need_column(const struct importing *x, const struct pw_csv *csv, const char *column)
{
    const char *near = NULL;
    if (pw_csv_column(csv, column) >= 0)
        return 0;
    const char **names = pw_alloc((size_t)csv->n_names * sizeof *names);
    if (names) {
        for (int i = 0; i < csv->n_names; i++)
            names[i] = csv->names[i].s;
        near = pw_nearest(column, names, (size_t)csv->n_names);
        pw_free(names);
    }
    return near ? pw_error(PW_E_FORMAT, "%s: the header has no column '%s' (nearest: '%s')", x->source, column, near)
                : pw_error(PW_E_FORMAT, "%s: the header has no column '%s'", x->source, column);
}

static int check_header(const struct importing *x, const struct pw_csv *csv)
{
    const struct pw_ballot_map *m = x->map;
    struct cell *cells = pw_alloc_zero((size_t)csv->n_names, sizeof *cells);
    PW_CHECK(cells, PW_E_NOMEM, "%s: no memory for %d columns", x->source, csv->n_names);
    for (int i = 0; i < csv->n_names; i++)
        cells[i].name = csv->names[i].s;
    int kind = row_kind(x, &(struct row){ 1, cells, (size_t)csv->n_names });
    pw_free(cells);
    if (pw_csv_column(csv, "kind") < 0 || m->kind >= 0) {
        PW_CHECK(kind >= 0, PW_E_FORMAT, "%s: the header is that of no ballot file (expected voter,entry,coins or voter,left,right,choice or"
                 " voter,entry,rating)", x->source);
        PW_CHECK(x->c->takes[kind], PW_E_FORMAT, "%s: holds %s ballots, which the contest does not take", x->source, pw_ballot_kind_names[kind]);
        if (!m->voters.n)
            PW_PASS(need_column(x, csv, m->column[PW_FIELD_VOTER]));
        if (!m->voters.n && !m->wide.n)
            PW_PASS(need_column(x, csv, m->column[kind == PW_BALLOT_PAIRS ? PW_FIELD_CHOICE : kind == PW_BALLOT_COINS ? PW_FIELD_COINS : PW_FIELD_RATING]));
        if (kind == PW_BALLOT_PAIRS && !m->split_column) {
            PW_PASS(need_column(x, csv, m->column[PW_FIELD_LEFT]));
            PW_PASS(need_column(x, csv, m->column[PW_FIELD_RIGHT]));
        }
        if (kind != PW_BALLOT_PAIRS && !m->wide.n)
            PW_PASS(need_column(x, csv, m->column[PW_FIELD_ENTRY]));
    }
    for (int f = 0; f < PW_FIELDS; f++)
        if (m->given[f])
            PW_PASS(need_column(x, csv, m->column[f]));
    for (size_t i = 0; i < m->wide.n; i++)
        PW_PASS(need_column(x, csv, m->wide.items[i].from));
    for (size_t i = 0; i < m->voters.n; i++)
        PW_PASS(need_column(x, csv, m->voters.items[i].from));
    for (size_t i = 0; i < m->n_keep; i++)
        PW_PASS(need_column(x, csv, m->keep[i]));
    return m->split_column ? need_column(x, csv, m->split_column) : 0;
}

static int import_csv(struct importing *x, const char *text, size_t bytes, char separator)
{
    struct pw_csv csv;
    struct cell *cells = NULL;
    bool more = true;
    int rc;
    pw_csv_open(&csv, text, bytes, x->source, separator);
    PW_PASS_OUT(pw_csv_header(&csv));
    PW_PASS_OUT(check_header(x, &csv));
    cells = pw_alloc_zero((size_t)csv.n_names, sizeof *cells);
    PW_CHECK_OUT(cells, PW_E_NOMEM, "%s: no memory for %d columns", x->source, csv.n_names);
    for (;;) {
        pw_arena_reset(&x->row_arena);
        int got = pw_csv_next(&csv, &more);
        if (got == 0 && !more)
            break;
        if (got == 0 && csv.n_cells != csv.n_names)
            got = pw_error(PW_E_FORMAT, "the row has %d cells, the header %d", csv.n_cells, csv.n_names);
        if (got < 0) {
            PW_PASS_OUT(reject(x, csv.row_line, got, NULL));
            continue;
        }
        for (int i = 0; i < csv.n_cells; i++)
            cells[i] = (struct cell){ csv.names[i].s, csv.cells[i].s, csv.cells[i].len, NULL };
        PW_PASS_OUT(take_row(x, &(struct row){ csv.row_line, cells, (size_t)csv.n_cells }));
    }
out:
    pw_free(cells);
    pw_csv_close(&csv);
    return rc;
}

/* ---- JSON ------------------------------------------------------------------------------------------------------------- */
static int value_cell(struct importing *x, const struct pw_member *m, struct cell *cell)
{
    const struct pw_value *v = &m->value;
    char number[32];
    PW_CHECK(strlen(m->key) == m->key_len && m->key_len > 0, PW_E_FORMAT, "a key is empty or holds a NUL byte");
    *cell = (struct cell){ .name = m->key, .value = v };
    if (v->kind == PW_STRING) {
        cell->text = v->s;
        cell->len = v->len;
        return 0;
    }
    if (v->kind == PW_INT)
        cell->text = pw_arena_printf(&x->row_arena, "%lld", (long long)v->i);
    else if (v->kind == PW_BOOL)
        cell->text = v->b ? "true" : "false";
    else if (v->kind == PW_REAL) {
        pw_format_f64(number, v->d);
        cell->text = pw_arena_strndup(&x->row_arena, number, strlen(number));
    } else {
        return 0;
    }
    if (!cell->text)
        return PW_E_NOMEM;
    cell->len = strlen(cell->text);
    return 0;
}

static int value_row(struct importing *x, const struct pw_value *v, struct row *row)
{
    PW_CHECK(v->kind == PW_MAP, PW_E_FORMAT, "expected an object, got %s", pw_kind_name(v->kind));
    row->cells = pw_arena_array(&x->row_arena, v->len ? v->len : 1, sizeof *row->cells);
    if (!row->cells)
        return PW_E_NOMEM;
    for (row->n = 0; row->n < v->len; row->n++)
        PW_PASS(value_cell(x, &v->members[row->n], &row->cells[row->n]));
    return 0;
}

static int take_value(struct importing *x, const struct pw_value *v, int64_t line)
{
    struct row row = { .line = line };
    int rc = value_row(x, v, &row);
    return rc < 0 ? reject(x, line, rc, NULL) : take_row(x, &row);
}

static int import_lines(struct importing *x, const char *text, size_t bytes)
{
    size_t at = 0;
    for (int64_t line = 1; at < bytes; line++) {
        const char *start = text + at, *end = memchr(start, '\n', bytes - at);
        size_t n = end ? (size_t)(end - start) : bytes - at;
        struct pw_value *v = NULL;
        at += n + (end != NULL);
        if (n && start[n - 1] == '\r')
            n--;
        size_t blank = 0;
        while (blank < n && (start[blank] == ' ' || start[blank] == '\t'))
            blank++;
        if (blank == n)
            continue;
        pw_arena_reset(&x->row_arena);
        int rc = pw_json_parse(&x->row_arena, start, n, x->source, &v);
        if (rc < 0)
            PW_PASS(reject(x, line, rc, "not JSON"));
        else
            PW_PASS(take_value(x, v, line));
    }
    return 0;
}

static int import_list(struct importing *x, const char *text, size_t bytes)
{
    struct pw_arena a;
    struct pw_value *v = NULL;
    int rc;
    PW_PASS(pw_arena_init(&a));
    PW_PASS_OUT(pw_json_parse(&a, text, bytes, x->source, &v));
    for (size_t i = 0; i < v->len; i++) {
        pw_arena_reset(&x->row_arena);
        PW_PASS_OUT(take_value(x, &v->items[i], v->items[i].line));
    }
out:
    pw_arena_free(&a);
    return rc;
}

/* ---- the whole -------------------------------------------------------------------------------------------------------- */
static int import_any(struct importing *x, const char *text, size_t bytes)
{
    size_t skip = bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0, at = skip, n = strlen(x->source);
    while (at < bytes && strchr(" \t\r\n", text[at]) && text[at])
        at++;
    PW_CHECK(at < bytes, PW_E_FORMAT, "%s: empty, expected ballots", x->source);
    if (text[at] == '[')
        return import_list(x, text + skip, bytes - skip);
    if (text[at] == '{')
        return import_lines(x, text + skip, bytes - skip);
    return import_csv(x, text, bytes, n > 4 && strcmp(x->source + n - 4, ".tsv") == 0 ? '\t' : ',');
}

int pw_import_text(struct pw_ledger *l, const struct pw_contest *c, const char *text, size_t bytes, const char *source,
                   const struct pw_import *how, struct pw_import_report *report)
{
    struct pw_ballot_map plain = { 0 };
    struct importing x = { .l = l, .c = c, .map = how->map, .how = how, .report = report, .source = source };
    int rc;
    memset(report, 0, sizeof *report);
    PW_PASS(pw_arena_init(&report->arena));
    PW_PASS(pw_arena_init(&x.row_arena));
    pw_tally_open(&x.tally, c);
    if (!x.map) {
        PW_PASS_OUT(pw_ballot_map_default(&plain));
        x.map = &plain;
    }
    PW_PASS_OUT(pw_ledger_begin(l));
    PW_PASS_OUT(pw_tally_load(&x.tally, l));
    PW_PASS_OUT(import_any(&x, text, bytes));
    if (report->accepted)
        PW_PASS_OUT(pw_ledger_commit(l));
out:
    pw_ledger_rollback(l);
    pw_ballot_map_free(&plain);
    pw_tally_free(&x.tally);
    pw_arena_free(&x.row_arena);
    pw_buf_free(&x.record);
    if (rc < 0)
        pw_import_report_free(report);
    return rc;
}

int pw_import_file(struct pw_ledger *l, const struct pw_contest *c, const char *path, const struct pw_import *how,
                   struct pw_import_report *report)
{
    struct pw_buf text = { 0 };
    memset(report, 0, sizeof *report);
    int rc = pw_file_read(path, MAX_FILE_BYTES, &text);
    if (rc == 0)
        rc = pw_import_text(l, c, text.data ? text.data : "", text.len, path, how, report);
    pw_buf_free(&text);
    return rc == PW_E_NOMEM ? pw_error_while(rc, "importing %s", path) : rc; /* nothing of it is in the ledger */
}
