/* Rows of a data file. A JSON document is cut into its rows by counting brackets outside strings, and each row is parsed by itself:
 * that keeps line numbers, which the JSON library does not, and one row in memory at a time. */
#include "data/row_reader.h"

#include <inttypes.h>
#include <string.h>

#include "base/error.h"

static bool has_ending(const char *path, const char *ending)
{
    size_t n = strlen(path), k = strlen(ending);
    return n >= k && strcmp(path + n - k, ending) == 0;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static void skip_space(struct pw_row_reader *r)
{
    while (r->at < r->bytes && is_space(r->text[r->at]))
        r->line += r->text[r->at++] == '\n';
}

static const char *place(struct pw_row_reader *r, int64_t line)
{
    pw_buf_clear(&r->name);
    pw_buf_printf(&r->name, "%s:%" PRId64, r->path, line);
    return r->name.failed ? r->path : r->name.data;
}

static size_t line_end(const struct pw_row_reader *r, size_t from)
{
    const char *nl = memchr(r->text + from, '\n', r->bytes - from);
    return nl ? (size_t)(nl - r->text) : r->bytes;
}

/* Length of the JSON value at `from`: to the comma or closing bracket that ends it, or to the end of the text. */
static size_t value_length(const struct pw_row_reader *r, size_t from)
{
    int depth = 0;
    size_t i = from;
    for (; i < r->bytes; i++) {
        char c = r->text[i];
        if (c == '"') {
            for (i++; i < r->bytes && r->text[i] != '"'; i++)
                i += r->text[i] == '\\';
            if (i >= r->bytes)
                return r->bytes - from;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            if (depth-- == 0)
                break;
        } else if (c == ',' && depth == 0) {
            break;
        }
    }
    return i - from;
}

static bool all_values_are_maps(const struct pw_value *v)
{
    for (size_t i = 0; i < v->len; i++)
        if (v->members[i].value.kind != PW_MAP)
            return false;
    return v->len > 0;
}

/* A text that begins with '{': lines, or one object of objects? */
static int lines_or_object(struct pw_row_reader *r, enum pw_row_kind *kind)
{
    *kind = PW_ROWS_LINES;
    if (has_ending(r->path, ".jsonl") || has_ending(r->path, ".ndjson"))
        return 0;
    size_t end = line_end(r, r->at), rest = end;
    while (rest < r->bytes && is_space(r->text[rest]))
        rest++;
    struct pw_arena a;
    struct pw_value *v = NULL;
    pw_arena_init(&a);
    int rc = pw_json_parse(&a, r->text + r->at, end - r->at, r->path, &v);
    if (rc == PW_E_NOMEM) {
        pw_arena_free(&a);
        return rc;
    }
    if (rc == 0 ? rest == r->bytes && all_values_are_maps(v) : rest < r->bytes)
        *kind = PW_ROWS_OBJECT;
    pw_error_clear();
    pw_arena_free(&a);
    return 0;
}

int pw_rows_open(struct pw_row_reader *r, const char *path)
{
    *r = (struct pw_row_reader){.path = path, .line = 1, .first = true};
    PW_PASS(pw_map_open(&r->map, path));
    r->text = (const char *)r->map.data;
    r->bytes = r->map.bytes;
    int rc = 0;
    if (has_ending(path, ".csv") || has_ending(path, ".tsv")) {
        r->kind = PW_ROWS_CSV;
        pw_csv_open(&r->csv, r->text, r->bytes, path, has_ending(path, ".tsv") ? '\t' : ',');
        rc = r->bytes ? pw_csv_header(&r->csv) : 0;
        r->ended = r->bytes == 0;
    } else {
        skip_space(r);
        if (r->at == r->bytes) {
            r->kind = PW_ROWS_LINES;
            r->ended = true;
        } else if (r->text[r->at] == '[') {
            r->kind = PW_ROWS_LIST;
            r->at++;
        } else if (r->text[r->at] == '{') {
            rc = lines_or_object(r, &r->kind);
            r->at += r->kind == PW_ROWS_OBJECT;
        }
    }
    if (rc < 0)
        pw_rows_close(r);
    return rc;
}

void pw_rows_close(struct pw_row_reader *r)
{
    if (r->kind == PW_ROWS_CSV)
        pw_csv_close(&r->csv);
    pw_map_close(&r->map);
    pw_buf_free(&r->name);
    *r = (struct pw_row_reader){0};
}

static int parse_row(struct pw_row_reader *r, struct pw_arena *a, size_t from, size_t n, int64_t line, struct pw_value **row)
{
    struct pw_value *v = NULL;
    const char *where = place(r, line);
    PW_PASS(pw_json_parse(a, r->text + from, n, where, &v));
    PW_CHECK(v->kind == PW_MAP, PW_E_FORMAT, "%s: a row must be an object, got %s", where, pw_kind_name(v->kind));
    *row = v;
    return 0;
}

static int next_line(struct pw_row_reader *r, struct pw_arena *a, struct pw_value **row, int64_t *line)
{
    skip_space(r);
    if (r->at == r->bytes)
        return 0;
    size_t from = r->at, end = line_end(r, from);
    *line = r->line;
    r->at = end < r->bytes ? end + 1 : end;
    r->line += end < r->bytes;
    return parse_row(r, a, from, end - from, *line, row);
}

static int fail_for_good(struct pw_row_reader *r, int64_t line, const char *what)
{
    r->ended = true;
    return pw_error(PW_E_FORMAT, "%s: %s", place(r, line), what);
}

static int add_key(struct pw_arena *a, struct pw_value *row, const char *key, size_t n)
{
    PW_CHECK(!pw_get(row, "_key"), PW_E_FORMAT, "a row has a key _key already");
    struct pw_member *m = pw_arena_array(a, row->len + 1, sizeof *m);
    PW_CHECK(m, PW_E_NOMEM, "no memory for a row");
    memcpy(m, row->members, row->len * sizeof *m);
    m[row->len] = (struct pw_member){.key = "_key", .key_len = 4, .value = {.kind = PW_STRING, .len = n, .s = key}};
    row->members = m;
    row->len++;
    return 0;
}

static int next_item(struct pw_row_reader *r, struct pw_arena *a, struct pw_value **row, int64_t *line)
{
    char close = r->kind == PW_ROWS_LIST ? ']' : '}';
    skip_space(r);
    *line = r->line;
    if (r->at == r->bytes)
        return fail_for_good(r, r->line, "the text ends inside the document");
    if (r->text[r->at] == close) {
        r->at++;
        skip_space(r);
        if (r->at < r->bytes)
            return fail_for_good(r, r->line, "text after the end of the document");
        r->ended = true;
        return 0;
    }
    if (!r->first) {
        if (r->text[r->at] != ',')
            return fail_for_good(r, r->line, "expected a comma between rows");
        r->at++;
        skip_space(r);
        *line = r->line;
    }
    r->first = false;
    struct pw_value *key = NULL;
    if (r->kind == PW_ROWS_OBJECT) {
        size_t end = r->at + 1;
        while (end < r->bytes && r->text[end] != '"')
            end += r->text[end] == '\\' ? 2 : 1;
        if (r->at >= r->bytes || r->text[r->at] != '"' || end >= r->bytes)
            return fail_for_good(r, r->line, "expected a key in quotes");
        int rc = pw_json_parse(a, r->text + r->at, end + 1 - r->at, place(r, r->line), &key);
        r->at = end + 1;
        if (rc < 0) {
            r->ended = true;
            return rc;
        }
        skip_space(r);
        if (r->at == r->bytes || r->text[r->at] != ':')
            return fail_for_good(r, r->line, "expected a colon after a key");
        r->at++;
        skip_space(r);
    }
    size_t from = r->at, n = value_length(r, from);
    for (; r->at < from + n; r->at++)
        r->line += r->text[r->at] == '\n';
    int rc = parse_row(r, a, from, n, *line, row);
    if (rc < 0 && r->at == r->bytes)
        r->ended = true; /* the row ran to the end: nothing can be told apart any more */
    PW_PASS(rc);
    return key ? add_key(a, *row, key->s, key->len) : 0;
}

static int next_csv(struct pw_row_reader *r, struct pw_arena *a, struct pw_value **row, int64_t *line)
{
    bool more = false;
    struct pw_csv *c = &r->csv;
    *line = c->line;
    PW_PASS(pw_csv_next(c, &more));
    if (!more)
        return 0;
    *line = c->row_line;
    PW_CHECK(c->n_cells == c->n_names, PW_E_FORMAT, "%s: expected %d cells as in the header, got %d", place(r, *line), c->n_names, c->n_cells);
    struct pw_value *v = pw_arena_alloc(a, sizeof *v);
    struct pw_member *m = pw_arena_array(a, (size_t)c->n_cells, sizeof *m);
    PW_CHECK(v && m, PW_E_NOMEM, "%s: no memory for a row", place(r, *line));
    for (int i = 0; i < c->n_cells; i++) {
        m[i].key = pw_arena_strndup(a, c->names[i].s, c->names[i].len);
        m[i].key_len = c->names[i].len;
        m[i].value = (struct pw_value){.kind = PW_STRING, .len = c->cells[i].len, .s = pw_arena_strndup(a, c->cells[i].s, c->cells[i].len)};
        PW_CHECK(m[i].key && m[i].value.s, PW_E_NOMEM, "%s: no memory for a row", place(r, *line));
    }
    *v = (struct pw_value){.kind = PW_MAP, .len = (size_t)c->n_cells, .members = m};
    *row = v;
    return 0;
}

int pw_rows_next(struct pw_row_reader *r, struct pw_arena *a, struct pw_value **row, int64_t *line)
{
    *row = NULL;
    *line = r->line;
    if (r->ended)
        return 0;
    switch (r->kind) {
    case PW_ROWS_LINES: return next_line(r, a, row, line);
    case PW_ROWS_CSV: return next_csv(r, a, row, line);
    default: return next_item(r, a, row, line);
    }
}
