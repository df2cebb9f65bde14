/* Reading the documents of a task: which file, which form (CSV, JSONL, JSON list), and what its fields mean (see eval/task.h). */
#include "eval/task.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "data/csv.h"

enum { MAX_DOCS = 10000000 };
static const size_t max_file = (size_t)1 << 30;

/* {task} and {subject} put in; a pattern that ends in ".*" stands for .jsonl, .json and .csv. NULL: no such file. */
static const char *find_file(struct pw_arena *a, const struct pw_task *t, const char *data_dir, const char *pattern)
{
    static const char *const endings[] = {"jsonl", "json", "csv"};
    struct pw_buf b = {0};
    const char *found = NULL;
    size_t n = strlen(pattern), any = n > 2 && strcmp(pattern + n - 2, ".*") == 0;
    pw_buf_printf(&b, "%s/", data_dir);
    for (const char *p = pattern; *p && p < pattern + n - any;)
        if (strncmp(p, "{task}", 6) == 0)
            pw_buf_str(&b, t->name), p += 6;
        else if (strncmp(p, "{subject}", 9) == 0)
            pw_buf_str(&b, t->subject), p += 9;
        else
            pw_buf_char(&b, *p++);
    for (size_t i = 0; i < (any ? 3 : 1) && !found && !b.failed; i++) {
        const char *path = any ? pw_arena_printf(a, "%s%s", b.data, endings[i]) : pw_arena_strndup(a, b.data, b.len);
        if (path && pw_file_exists(path) && !pw_is_dir(path))
            found = path;
    }
    pw_buf_free(&b);
    return found;
}

static const struct pw_value *at_path(const struct pw_value *v, const char *path)
{
    char key[128];
    while (v && *path) {
        size_t n = strcspn(path, ".");
        if (n >= sizeof key)
            return NULL;
        memcpy(key, path, n);
        key[n] = 0;
        v = pw_get(v, key);
        path += n + (path[n] == '.');
    }
    return v && v->kind != PW_NULL ? v : NULL;
}

static const char *as_text(struct pw_arena *a, const struct pw_value *v)
{
    char number[32];
    switch (v->kind) {
    case PW_STRING: return v->s;
    case PW_INT: return pw_arena_printf(a, "%lld", (long long)v->i);
    case PW_REAL: pw_format_f64(number, v->d); return pw_arena_printf(a, "%s", number);
    case PW_BOOL: return v->b ? "True" : "False";
    default: return NULL;
    }
}

/* Choices stand as a list of texts, a list of {text, label}, a map of two lists (text, label), or as columns ("A+", "choice0+"). */
static int read_choices(struct pw_doc *d, struct pw_arena *a, const struct pw_value *row, const char *path)
{
    static const char *const letters[] = {"A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L", "M",
                                          "N", "O", "P", "Q", "R", "S", "T", "U", "V", "W", "X", "Y", "Z"};
    size_t n = strlen(path);
    d->n_choices = 0;
    for (int i = 0; i < PW_TASK_MAX_CHOICES; i++)
        d->labels[i] = letters[i];
    if (n > 1 && path[n - 1] == '+') {
        for (int i = 0; i < PW_TASK_MAX_CHOICES; i++) {
            char key[128];
            if (isdigit((unsigned char)path[n - 2]))
                snprintf(key, sizeof key, "%.*s%d", (int)(n - 2), path, path[n - 2] - '0' + i);
            else
                snprintf(key, sizeof key, "%.*s%c", (int)(n - 2), path, path[n - 2] + i);
            const struct pw_value *v = at_path(row, key);
            if (!v)
                break;
            d->choices[d->n_choices++] = as_text(a, v);
        }
        return d->n_choices;
    }
    const struct pw_value *list = at_path(row, path), *labels = NULL;
    if (list && list->kind == PW_MAP) {
        labels = pw_get(list, "label");
        list = pw_get(list, "text");
    }
    if (!list || list->kind != PW_LIST || list->len > PW_TASK_MAX_CHOICES)
        return 0;
    for (size_t i = 0; i < list->len; i++) {
        const struct pw_value *v = &list->items[i], *label = NULL;
        if (v->kind == PW_MAP) {
            label = pw_get(v, "label");
            v = pw_get(v, "text");
        } else if (labels && labels->kind == PW_LIST && i < labels->len)
            label = &labels->items[i];
        if (label && label->kind == PW_STRING)
            d->labels[i] = label->s;
        d->choices[i] = v ? as_text(a, v) : NULL;
        d->n_choices++;
    }
    return d->n_choices;
}

/* The answer: an index from 0, the label of a choice, a letter, or the text of exactly one choice. -1: none of these. */
static int find_answer(const struct pw_doc *d, const struct pw_value *v)
{
    int64_t index;
    if (v->kind == PW_INT)
        return v->i >= 0 && v->i < d->n_choices ? (int)v->i : -1;
    if (v->kind != PW_STRING)
        return -1;
    for (int i = 0; i < d->n_choices; i++)
        if (strcmp(v->s, d->labels[i]) == 0)
            return i;
    if (pw_parse_i64(v->s, &index) == 0)
        return index >= 0 && index < d->n_choices ? (int)index : -1;
    if (v->len == 1 && *v->s >= 'A' && *v->s - 'A' < d->n_choices)
        return *v->s - 'A';
    for (int i = 0; i < d->n_choices; i++)
        if (strcmp(v->s, d->choices[i]) == 0)
            return i;
    return -1;
}

static const struct pw_value *paths_of(const struct pw_task *t, const char *key)
{
    const struct pw_value *list = pw_get(t->spec, key);
    return list && list->kind == PW_LIST ? list : NULL;
}

static int read_doc(struct pw_doc *d, struct pw_arena *a, const struct pw_task *t, const struct pw_value *row, const char *path, int line)
{
    const struct pw_value *questions = paths_of(t, "question"), *choices = paths_of(t, "choices"), *answers = paths_of(t, "answer"), *v = NULL;
    PW_CHECK(questions && choices && answers, PW_E_FORMAT, "%s: question, choices and answer: expected lists of paths", t->source);
    *d = (struct pw_doc){.raw = row, .line = line, .answer = -1};
    PW_CHECK(row->kind == PW_MAP, PW_E_FORMAT, "%s:%d: expected a row with fields, got %s", path, line, pw_kind_name(row->kind));
    for (size_t i = 0; i < questions->len && !d->question; i++)
        if (questions->items[i].kind == PW_STRING && (v = at_path(row, questions->items[i].s)) && v->kind == PW_STRING)
            d->question = v->s;
    PW_CHECK(d->question, PW_E_FORMAT, "%s:%d: no question in the row (looked for %s)", path, line, questions->items[0].s);
    for (size_t i = 0; i < choices->len; i++)
        if (choices->items[i].kind == PW_STRING && read_choices(d, a, row, choices->items[i].s) > 0)
            break;
    PW_CHECK(d->n_choices >= 2, PW_E_FORMAT, "%s:%d: expected two or more choices, got %d", path, line, d->n_choices);
    for (int i = 0; i < d->n_choices; i++)
        PW_CHECK(d->choices[i], PW_E_FORMAT, "%s:%d: choice %d is no text", path, line, i);
    v = NULL;
    for (size_t i = 0; i < answers->len && !v; i++)
        if (answers->items[i].kind == PW_STRING)
            v = at_path(row, answers->items[i].s);
    PW_CHECK(v, PW_E_FORMAT, "%s:%d: no answer in the row (looked for %s)", path, line, answers->items[0].s);
    d->answer = find_answer(d, v);
    PW_CHECK(d->answer >= 0, PW_E_FORMAT, "%s:%d: the answer %s is none of the %d choices", path, line,
             v->kind == PW_STRING ? v->s : v->kind == PW_INT ? pw_arena_printf(a, "%lld", (long long)v->i) : pw_kind_name(v->kind), d->n_choices);
    return 0;
}

struct growing { struct pw_doc *items; size_t n, cap; };

static int grow(struct growing *g)
{
    if (g->n < g->cap)
        return 0;
    size_t cap = g->cap ? 2 * g->cap : 256;
    PW_CHECK(cap <= MAX_DOCS, PW_E_FORMAT, "more than %d documents", MAX_DOCS);
    void *p = pw_realloc(g->items, g->cap * sizeof *g->items, cap * sizeof *g->items);
    PW_CHECK(p, PW_E_NOMEM, "out of memory");
    g->items = p;
    g->cap = cap;
    return 0;
}

static int add_doc(struct growing *g, struct pw_arena *a, const struct pw_task *t, const struct pw_value *row, const char *path, int line)
{
    PW_PASS(grow(g));
    PW_PASS(read_doc(&g->items[g->n], a, t, row, path, line));
    g->n++;
    return 0;
}

/* A header row is one that names the question's column; a file without one takes the names of `columns`. */
static int read_csv(struct growing *g, struct pw_arena *a, const struct pw_task *t, const struct pw_buf *text, const char *path)
{
    const struct pw_value *columns = paths_of(t, "columns"), *questions = paths_of(t, "question");
    const char *names[64] = {0};
    struct pw_csv csv;
    int rc = 0, n_names = 0;
    bool more = true, first = true;
    pw_csv_open(&csv, text->data, text->len, path, ',');
    for (;;) {
        PW_PASS_OUT(pw_csv_next(&csv, &more));
        if (!more)
            break;
        if (first) {
            bool header = !columns;
            first = false;
            for (size_t q = 0; questions && q < questions->len; q++)
                for (int i = 0; i < csv.n_cells; i++)
                    header |= questions->items[q].kind == PW_STRING && strcmp(csv.cells[i].s, questions->items[q].s) == 0;
            n_names = header ? csv.n_cells : (int)columns->len;
            PW_CHECK_OUT(n_names <= 64, PW_E_FORMAT, "%s: more than 64 columns", path);
            for (int i = 0; i < n_names; i++)
                names[i] = header ? pw_arena_strndup(a, csv.cells[i].s, csv.cells[i].len) : columns->items[i].s;
            if (header)
                continue;
        }
        PW_CHECK_OUT(csv.n_cells == n_names, PW_E_FORMAT, "%s:%lld: expected %d cells, got %d", path, (long long)csv.row_line, n_names, csv.n_cells);
        struct pw_value *row = pw_arena_alloc(a, sizeof *row);
        struct pw_member *members = pw_arena_array(a, (size_t)n_names, sizeof *members);
        PW_CHECK_OUT(row && members, PW_E_NOMEM, "out of memory");
        for (int i = 0; i < n_names; i++) {
            PW_CHECK_OUT(names[i], PW_E_NOMEM, "out of memory");
            members[i] = (struct pw_member){.key = names[i], .key_len = strlen(names[i])};
            members[i].value = (struct pw_value){.kind = PW_STRING, .line = (int)csv.row_line, .len = csv.cells[i].len,
                                                 .s = pw_arena_strndup(a, csv.cells[i].s, csv.cells[i].len)};
            PW_CHECK_OUT(members[i].value.s, PW_E_NOMEM, "out of memory");
        }
        *row = (struct pw_value){.kind = PW_MAP, .line = (int)csv.row_line, .len = (size_t)n_names, .members = members};
        PW_PASS_OUT(add_doc(g, a, t, row, path, (int)csv.row_line));
    }
out:
    pw_csv_close(&csv);
    return rc;
}

static int read_json(struct growing *g, struct pw_arena *a, const struct pw_task *t, const struct pw_buf *text, const char *path)
{
    struct pw_value *v;
    PW_PASS(pw_json_parse(a, text->data, text->len, path, &v));
    PW_CHECK(v->kind == PW_LIST, PW_E_FORMAT, "%s: expected a list of rows, got %s", path, pw_kind_name(v->kind));
    for (size_t i = 0; i < v->len; i++)
        PW_PASS(add_doc(g, a, t, &v->items[i], path, (int)i + 1));
    return 0;
}

static int read_jsonl(struct growing *g, struct pw_arena *a, const struct pw_task *t, const struct pw_buf *text, const char *path)
{
    int line = 0;
    for (const char *p = text->data, *end = text->data + text->len; p < end;) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((stop ? stop : end) - p), blank = 0;
        struct pw_value *v;
        line++;
        while (blank < n && isspace((unsigned char)p[blank]))
            blank++;
        if (blank < n) {
            char *source = pw_arena_printf(a, "%s:%d", path, line);
            PW_CHECK(source, PW_E_NOMEM, "out of memory");
            PW_PASS(pw_json_parse(a, p, n, source, &v));
            PW_PASS(add_doc(g, a, t, v, path, line));
        }
        p += n + 1;
    }
    return 0;
}

int pw_docs_load(struct pw_docs *d, struct pw_arena *a, const struct pw_task *t, const char *data_dir, const char *split, bool *found)
{
    const struct pw_value *files = pw_get(t->spec, "files"), *patterns = files ? pw_get(files, split) : NULL;
    struct growing g = {0};
    struct pw_buf text = {0};
    int rc = 0;
    *d = (struct pw_docs){0};
    *found = false;
    for (size_t i = 0; patterns && patterns->kind == PW_LIST && i < patterns->len && !d->path; i++)
        if (patterns->items[i].kind == PW_STRING)
            d->path = find_file(a, t, data_dir, patterns->items[i].s);
    if (!d->path)
        return 0;
    *found = true;
    size_t n = strlen(d->path);
    PW_PASS_OUT(pw_file_read(d->path, max_file, &text));
    if (n > 4 && strcmp(d->path + n - 4, ".csv") == 0)
        PW_PASS_OUT(read_csv(&g, a, t, &text, d->path));
    else if (n > 5 && strcmp(d->path + n - 5, ".json") == 0)
        PW_PASS_OUT(read_json(&g, a, t, &text, d->path));
    else
        PW_PASS_OUT(read_jsonl(&g, a, t, &text, d->path));
    PW_CHECK_OUT(g.n > 0, PW_E_FORMAT, "%s: no documents in it", d->path);
    d->items = pw_arena_array(a, g.n, sizeof *d->items);
    PW_CHECK_OUT(d->items, PW_E_NOMEM, "out of memory");
    memcpy(d->items, g.items, g.n * sizeof *d->items);
    d->n = g.n;
out:
    pw_free(g.items);
    pw_buf_free(&text);
    return rc;
}
