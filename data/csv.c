/* CSV reading and writing, see csv.h. Owns the scratch memory of one row and of the header; knows no column. */
#include "data/csv.h"

#include <string.h>
#include "base/error.h"
#include "base/memory.h"

void pw_csv_open(struct pw_csv *c, const char *text, size_t bytes, const char *source, char separator)
{
    memset(c, 0, sizeof *c);
    c->text = text;
    c->bytes = bytes;
    c->source = source;
    c->separator = separator;
    c->line = 1;
    if (bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0)
        c->at = 3;
}

void pw_csv_close(struct pw_csv *c)
{
    if (!c)
        return;
    pw_free(c->cells);
    pw_free(c->names);
    pw_buf_free(&c->scratch);
    pw_buf_free(&c->names_text);
    memset(c, 0, sizeof *c);
}

/* While a row is read the cells hold offsets into scratch, because scratch moves when it grows. */
static int begin_cell(struct pw_csv *c, bool quoted)
{
    PW_CHECK(c->n_cells < PW_CSV_MAX_CELLS, PW_E_FORMAT, "%s:%lld: more than %d cells in a row", c->source,
             (long long)c->row_line, PW_CSV_MAX_CELLS);
    if (c->n_cells == c->cap_cells) {
        int cap = c->cap_cells ? 2 * c->cap_cells : 32;
        struct pw_csv_cell *grown = pw_realloc(c->cells, (size_t)c->cap_cells * sizeof *grown, (size_t)cap * sizeof *grown);
        PW_CHECK(grown, PW_E_NOMEM, "%s:%lld: no memory for %d cells", c->source, (long long)c->row_line, cap);
        c->cells = grown;
        c->cap_cells = cap;
    }
    c->cells[c->n_cells++] = (struct pw_csv_cell){ .s = NULL, .len = c->scratch.len, .quoted = quoted };
    return 0;
}

static int end_cell(struct pw_csv *c)
{
    size_t len = c->scratch.len - c->cells[c->n_cells - 1].len;
    PW_CHECK(len <= PW_CSV_MAX_CELL_BYTES, PW_E_FORMAT, "%s:%lld: cell %d has %zu bytes (at most %d)", c->source,
             (long long)c->row_line, c->n_cells, len, PW_CSV_MAX_CELL_BYTES);
    pw_buf_char(&c->scratch, '\0');
    return pw_buf_status(&c->scratch);
}

/* At the end of a line: steps over it. *ended = whether there was one (the end of the text is one). */
static int step_line_end(struct pw_csv *c, bool *ended)
{
    *ended = true;
    if (c->at == c->bytes)
        return 0;
    char ch = c->text[c->at];
    if (ch == '\r') {
        if (c->at + 1 == c->bytes || c->text[c->at + 1] == '\n') {
            c->at += c->at + 1 == c->bytes ? 1 : 2;
            c->line++;
            return 0;
        }
        return pw_error(PW_E_FORMAT, "%s:%lld: a carriage return that no line feed follows", c->source, (long long)c->line);
    }
    if (ch == '\n') {
        c->at++;
        c->line++;
        return 0;
    }
    *ended = false;
    return 0;
}

static int read_quoted(struct pw_csv *c)
{
    int64_t opened = c->line;
    c->at++;
    for (;;) {
        PW_CHECK(c->at < c->bytes, PW_E_FORMAT, "%s:%lld: a quote is opened and never closed", c->source, (long long)opened);
        size_t from = c->at;
        while (c->at < c->bytes && c->text[c->at] != '"') {
            if (c->text[c->at] == '\n')
                c->line++;
            c->at++;
        }
        pw_buf_add(&c->scratch, c->text + from, c->at - from);
        if (c->at < c->bytes) {
            c->at++;
            if (c->at == c->bytes || c->text[c->at] != '"')
                return 0;
            pw_buf_char(&c->scratch, '"');
            c->at++;
        }
    }
}

static int read_plain(struct pw_csv *c)
{
    size_t from = c->at;
    while (c->at < c->bytes) {
        char ch = c->text[c->at];
        if (ch == c->separator || ch == '\n' || ch == '\r')
            break;
        PW_CHECK(ch != '"', PW_E_FORMAT, "%s:%lld: a quote inside a cell that does not begin with one (cell %d)", c->source,
                 (long long)c->line, c->n_cells);
        c->at++;
    }
    pw_buf_add(&c->scratch, c->text + from, c->at - from);
    return 0;
}

static int read_row(struct pw_csv *c)
{
    for (;;) {
        bool quoted = c->at < c->bytes && c->text[c->at] == '"', ended;
        PW_PASS(begin_cell(c, quoted));
        PW_PASS(quoted ? read_quoted(c) : read_plain(c));
        PW_PASS(end_cell(c));
        PW_PASS(step_line_end(c, &ended));
        if (ended)
            return 0;
        PW_CHECK(c->text[c->at] == c->separator, PW_E_FORMAT, "%s:%lld: text after the closing quote of cell %d", c->source,
                 (long long)c->line, c->n_cells);
        c->at++;
    }
}

static int check_cells(struct pw_csv *c)
{
    for (int i = 0; i < c->n_cells; i++) {
        struct pw_csv_cell *cell = &c->cells[i];
        size_t from = cell->len, end = (i + 1 < c->n_cells ? c->cells[i + 1].len : c->scratch.len) - 1;
        cell->s = c->scratch.data + from;
        PW_CHECK(!memchr(cell->s, 0, end - from), PW_E_FORMAT, "%s:%lld: a NUL byte in cell %d", c->source,
                 (long long)c->row_line, i + 1);
        PW_CHECK(pw_utf8_valid(cell->s, end - from), PW_E_FORMAT, "%s:%lld: cell %d is not UTF-8", c->source,
                 (long long)c->row_line, i + 1);
    }
    for (int i = 0; i < c->n_cells; i++)
        c->cells[i].len = strlen(c->cells[i].s);
    return 0;
}

int pw_csv_next(struct pw_csv *c, bool *more)
{
    *more = false;
    for (bool blank = true; blank && c->at < c->bytes;) {
        char ch = c->text[c->at];
        blank = ch == '\n' || (ch == '\r' && c->at + 1 < c->bytes && c->text[c->at + 1] == '\n');
        if (blank) {
            c->at += ch == '\r' ? 2 : 1;
            c->line++;
        }
    }
    c->n_cells = 0;
    c->row_line = c->line;
    pw_buf_clear(&c->scratch);
    if (c->at == c->bytes)
        return 0;
    size_t start = c->at;
    int rc = read_row(c);
    if (rc == 0)
        rc = check_cells(c);
    if (rc < 0) {
        const char *end = memchr(c->text + start, '\n', c->bytes - start);
        c->at = end ? (size_t)(end - c->text) + 1 : c->bytes;
        c->line = c->row_line + 1;
        c->n_cells = 0;
        return rc;
    }
    *more = true;
    return 0;
}

int pw_csv_header(struct pw_csv *c)
{
    bool more;
    PW_PASS(pw_csv_next(c, &more));
    PW_CHECK(more, PW_E_FORMAT, "%s: empty, expected a row of column names", c->source);
    for (int i = 0; i < c->n_cells; i++) {
        PW_CHECK(c->cells[i].len > 0, PW_E_FORMAT, "%s:%lld: column %d has no name", c->source, (long long)c->row_line, i + 1);
        for (int j = 0; j < i; j++)
            PW_CHECK(strcmp(c->cells[i].s, c->cells[j].s) != 0, PW_E_FORMAT, "%s:%lld: columns %d and %d are both named '%s'",
                     c->source, (long long)c->row_line, j + 1, i + 1, c->cells[i].s);
    }
    /* The names are the row itself, taken over whole: later rows get fresh memory. */
    c->names = c->cells;
    c->n_names = c->n_cells;
    c->names_text = c->scratch;
    c->cells = NULL;
    c->n_cells = c->cap_cells = 0;
    memset(&c->scratch, 0, sizeof c->scratch);
    return 0;
}

int pw_csv_column(const struct pw_csv *c, const char *name)
{
    for (int i = 0; i < c->n_names; i++)
        if (strcmp(c->names[i].s, name) == 0)
            return i;
    return -1;
}

void pw_csv_add_cell(struct pw_buf *out, const char *s, size_t len, bool first)
{
    bool quote = false;
    for (size_t i = 0; i < len && !quote; i++)
        quote = s[i] == '"' || s[i] == ',' || s[i] == ';' || s[i] == '\t' || s[i] == '\n' || s[i] == '\r';
    if (!first)
        pw_buf_char(out, ',');
    /* A byte order mark at the start of a file would be skipped by the reader. */
    if (len >= 3 && memcmp(s, "\xEF\xBB\xBF", 3) == 0)
        quote = true;
    if (!quote) {
        pw_buf_add(out, s, len);
        return;
    }
    pw_buf_char(out, '"');
    for (size_t i = 0; i < len; i++) {
        if (s[i] == '"')
            pw_buf_char(out, '"');
        pw_buf_char(out, s[i]);
    }
    pw_buf_char(out, '"');
}
