/* Data sets: files of rows become ids and masks; loading, the cache's key, totals, the held-out split. The forms are in forms*.c. */
#include "data/dataset.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/rng.h"
#include "data/cache.h"
#include "data/forms.h"
#include "data/row_reader.h"

/* Part of the cache's key: changes whenever the same inputs would give other rows. */
#define ROWS_VERSION "pennyweight rows 3"

int pw_train_on_parse(const char *s, enum pw_train_on *out)
{
    static const char *const names[] = {"assistant", "last", "all"};
    for (int i = 0; i < 3; i++)
        if (strcmp(s, names[i]) == 0) {
            *out = (enum pw_train_on)i;
            return 0;
        }
    const char *near = pw_nearest(s, names, 3);
    return pw_error(PW_E_USAGE, "train_on: expected assistant, last or all, got %s%s%s", s, near ? "; did you mean " : "", near ? near : "");
}

int pw_overlong_parse(const char *s, enum pw_overlong *out)
{
    bool cut = strcmp(s, "cut") == 0;
    PW_CHECK(cut || strcmp(s, "drop") == 0, PW_E_USAGE, "overlong: expected cut or drop, got %s", s);
    *out = cut ? PW_OVERLONG_CUT : PW_OVERLONG_DROP;
    return 0;
}

/* ---- which files ---- */

static int read_path(struct pw_arena *a, const char *path, const char *base_dir, const char **out)
{
    *out = path;
    if (base_dir && path[0] != '/' && !pw_file_exists(path)) {
        char *joined = pw_path_join(a, base_dir, path);
        PW_CHECK(joined, PW_E_NOMEM, "no memory for a path");
        if (pw_file_exists(joined))
            *out = joined;
    }
    return 0;
}

static int read_file_spec(struct pw_arena *a, const struct pw_value *v, const char *base_dir, const char *where, struct pw_data_file *f)
{
    static const char *const keys[] = {"path", "format", "weight", "prompt", "completion", "text"};
    const char *path = NULL;
    if (v->kind == PW_STRING) {
        path = v->s;
    } else {
        PW_CHECK(v->kind == PW_MAP, PW_E_USAGE, "%s: expected a path or {path, format, weight}, got %s", where, pw_kind_name(v->kind));
        for (size_t i = 0; i < v->len; i++) {
            size_t k = 0;
            while (k < 6 && strcmp(v->members[i].key, keys[k]) != 0)
                k++;
            const char *near = k < 6 ? NULL : pw_nearest(v->members[i].key, keys, 6);
            PW_CHECK(k < 6, PW_E_USAGE, "%s: unknown key %s%s%s", where, v->members[i].key, near ? "; did you mean " : "", near ? near : "");
        }
        PW_PASS(pw_get_str(v, "path", where, &path));
        PW_PASS(pw_get_str(v, "format", where, &f->format));
        PW_PASS(pw_get_f64(v, "weight", where, &f->weight));
        PW_PASS(pw_get_str(v, "prompt", where, &f->prompt));
        PW_PASS(pw_get_str(v, "completion", where, &f->completion));
        PW_PASS(pw_get_str(v, "text", where, &f->text));
    }
    PW_CHECK(path && path[0], PW_E_USAGE, "%s: no path", where);
    PW_CHECK(f->weight >= 0 && f->weight <= 1000, PW_E_USAGE, "%s: weight: expected 0 to 1000, got %g", where, f->weight);
    return read_path(a, path, base_dir, &f->path);
}

int pw_data_files_read(struct pw_arena *a, const struct pw_value *v, const char *format, const char *base_dir, const char *where,
                       struct pw_data_file **files, size_t *n)
{
    size_t count = v->kind == PW_LIST ? v->len : 1;
    PW_CHECK(count > 0, PW_E_USAGE, "%s: an empty list of files", where);
    struct pw_data_file *list = pw_arena_array(a, count, sizeof *list);
    PW_CHECK(list, PW_E_NOMEM, "no memory for the list of data files");
    for (size_t i = 0; i < count; i++) {
        list[i].format = format;
        list[i].weight = 1;
        PW_PASS(read_file_spec(a, v->kind == PW_LIST ? &v->items[i] : v, base_dir, where, &list[i]));
    }
    *files = list;
    *n = count;
    return 0;
}

/* ---- notes ---- */

static int add_note(struct pw_dataset *d, struct pw_data_note **list, size_t *n, size_t *cap, int64_t row, const char *source, const char *what)
{
    if (*n == *cap) {
        size_t more = *cap ? *cap * 2 : 16;
        struct pw_data_note *grown = pw_arena_array(&d->arena, more, sizeof *grown);
        PW_CHECK(grown, PW_E_NOMEM, "no memory for notes on rows");
        if (*n)
            memcpy(grown, *list, *n * sizeof *grown);
        *list = grown;
        *cap = more;
    }
    char *kept = pw_arena_strndup(&d->arena, what, strlen(what)), *from = pw_arena_strndup(&d->arena, source, strlen(source));
    PW_CHECK(kept && from, PW_E_NOMEM, "no memory for notes on rows");
    (*list)[(*n)++] = (struct pw_data_note){row, from, kept};
    return 0;
}

static int add_error(struct pw_dataset *d, int64_t row, const char *source, const char *what)
{
    return add_note(d, &d->errors, &d->n_errors, &d->cap_errors, row, source, what);
}

static int add_warning(struct pw_dataset *d, int64_t row, const char *source, const char *what)
{
    return add_note(d, &d->warnings, &d->n_warnings, &d->cap_warnings, row, source, what);
}

/* The error at hand becomes a note on its row. A note holds its place, so a text that begins with one gives it up to the note. */
static int add_row_error(struct pw_dataset *d, int64_t row, const char *source)
{
    const char *text = pw_error_text(), *at = text + strlen(source);
    if (strncmp(text, source, strlen(source)) == 0 && *at == ':') {
        char *end;
        const long long line = strtoll(at + 1, &end, 10);
        if (end > at + 1 && strncmp(end, ": ", 2) == 0) {
            row = line;
            text = end + 2;
        }
    }
    return add_error(d, row, source, text);
}

int pw_dataset_note(struct pw_dataset *d, bool error, int64_t line, const char *source, const char *what)
{
    return error ? add_error(d, line, source, what) : add_warning(d, line, source, what);
}

/* ---- one file ---- */

static void maker_close(struct pw_row_maker *m)
{
    pw_chat_close(m->chat);
    pw_jinja_free(m->prompt);
    pw_jinja_free(m->completion);
    pw_jinja_free(m->whole);
    pw_tokens_free(&m->tokens);
    pw_chat_spans_free(&m->spans);
    pw_buf_free(&m->text);
    pw_free(m->ids);
    pw_free(m->trained);
    pw_free(m->weight);
}

static int parse_mapping(struct pw_jinja **t, const char *source, const char *name)
{
    return source ? pw_jinja_parse(t, source, strlen(source), name) : 0;
}

static int maker_open(struct pw_row_maker *m, const struct pw_data_file *f, const struct pw_dataset_options *o)
{
    *m = (struct pw_row_maker){.o = o, .file = f};
    PW_CHECK(!f->prompt == !f->completion, PW_E_USAGE, "%s: data.prompt and data.completion are given together or not at all", f->path);
    PW_CHECK(!(f->text && f->prompt), PW_E_USAGE, "%s: either data.text or data.prompt with data.completion", f->path);
    PW_PASS(parse_mapping(&m->prompt, f->prompt, "data.prompt"));
    PW_PASS(parse_mapping(&m->completion, f->completion, "data.completion"));
    PW_PASS(parse_mapping(&m->whole, f->text, "data.text"));
    if (o->chat_template)
        PW_PASS(pw_chat_open(&m->chat, o->chat_template, "chat template", pw_tokenizer_bos_text(o->tokenizer),
                             pw_tokenizer_eos_text(o->tokenizer)));
    return 0;
}

static const char *form_names(char text[160])
{
    size_t at = 0;
    for (const struct pw_row_form *f = pw_forms; f->name; f++)
        at += (size_t)snprintf(text + at, 160 - at, "%s%s", at ? ", " : "", f->name);
    return text;
}

/* The form of a file: by its own templates, by name, or by the keys of its first row (row may be NULL: not known yet). */
static int find_form(const struct pw_data_file *f, const struct pw_value *row, const struct pw_row_form **form)
{
    char names[160];
    bool automatic = !f->format || strcmp(f->format, "auto") == 0;
    *form = NULL;
    if (f->prompt || f->text) {
        const char *name = f->prompt ? "completion" : "text";
        PW_CHECK(automatic || strcmp(f->format, name) == 0, PW_E_USAGE, "format: expected %s with these templates, got %s", name, f->format);
        *form = pw_form_find(name);
        return 0;
    }
    if (!automatic) {
        *form = pw_form_find(f->format);
        PW_CHECK(*form, PW_E_USAGE, "format: expected auto, %s, got %s", form_names(names), f->format);
        return 0;
    }
    if (!row)
        return 0;
    for (const struct pw_row_form *k = pw_forms; k->name && !*form; k++)
        if (k->matches && k->matches(row))
            *form = k;
    if (*form)
        return 0;
    struct pw_buf keys = {0};
    for (size_t i = 0; i < row->len && i < 12; i++)
        pw_buf_printf(&keys, "%s%s", i ? ", " : "", row->members[i].key);
    int rc = pw_error(PW_E_FORMAT, "the row's keys tell no form: expected those of %s, got %s", form_names(names), keys.len ? keys.data : "none");
    pw_error_hint("map other keys by Jinja templates: {path: FILE, prompt: \"{{ question }}\", completion: \"{{ answer }}\"}");
    pw_buf_free(&keys);
    return rc;
}

enum pw_kept { PW_ROW_KEPT, PW_ROW_CUT, PW_ROW_DROPPED };

/* Cuts or drops, then keeps the row. */
static int keep_row(struct pw_row_maker *m, struct pw_cache_rows *r, enum pw_kept *kept)
{
    static const char *const nothing_left = "the row has no trained token within max_length";
    int64_t limit = m->o->max_length;
    PW_CHECK(m->n > 0, PW_E_FORMAT, "the row is empty");
    bool any = false;
    m->trained[0] = 0; /* nothing comes before it that could predict it */
    for (int64_t i = 1; i < m->n; i++)
        any |= m->trained[i] != 0;
    if (limit > 0 && m->n > limit) {
        if (m->o->overlong == PW_OVERLONG_DROP) {
            *kept = PW_ROW_DROPPED;
            return 0;
        }
        *kept = PW_ROW_CUT;
        m->n = limit;
        bool left = false;
        for (int64_t i = 1; i < m->n; i++)
            left |= m->trained[i] != 0;
        if (any && !left)
            pw_row_warn(m, nothing_left);
    }
    return pw_cache_rows_add(r, m->ids, m->trained, m->weighted ? m->weight : NULL, m->n, m->line, m->label);
}

/* The row's own key "weight". Keys of a file that is mapped by templates mean nothing of themselves. */
static int row_weight(const struct pw_row_maker *m, const struct pw_row_form *form, const struct pw_value *row, double *weight)
{
    const struct pw_value *v = m->prompt || m->whole ? NULL : pw_get(row, "weight");
    *weight = 1;
    if (!v || v->kind == PW_NULL)
        return 0;
    PW_CHECK(v->kind == PW_INT || v->kind == PW_REAL, PW_E_FORMAT, "\"weight\": expected a number, got %s", pw_kind_name(v->kind));
    PW_PASS(pw_get_f64(row, "weight", "the row", weight));
    PW_CHECK(*weight > 0 && *weight <= 1000, PW_E_FORMAT, "\"weight\": expected more than 0 and at most 1000, got %g", *weight);
    PW_CHECK(form->shape == PW_ROW_ALONE || *weight == 1, PW_E_FORMAT, "\"weight\": only rows of sft have one, not preferences and labelled answers");
    return 0;
}

/* The rows that one row of the file makes: all of them or, when one fails or is dropped, none. */
static int make_example(struct pw_row_maker *m, struct pw_cache_rows *r, struct pw_arena *a, const struct pw_row_form *form, const struct pw_value *row)
{
    const int per = form->shape == PW_ROW_PAIRED ? 2 : 1;
    bool cut = false;
    int rc = 0;
    double weight;
    PW_PASS(row_weight(m, form, row, &weight));
    r->per = per;
    r->labelled = form->shape == PW_ROW_LABELLED;
    for (m->side = 0; m->side < per; m->side++) {
        enum pw_kept kept = PW_ROW_KEPT;
        rc = form->make(m, a, row);
        if (rc == 0)
            pw_row_weigh(m, 0, m->n, weight);
        if (rc == 0)
            rc = keep_row(m, r, &kept);
        if (m->side == 1 && (rc < 0 || kept == PW_ROW_DROPPED))
            pw_cache_rows_drop_last(r);
        if (rc < 0)
            return rc;
        if (kept == PW_ROW_DROPPED) {
            r->dropped++;
            return 0;
        }
        cut |= kept == PW_ROW_CUT;
    }
    r->truncated += cut;
    return 0;
}

/* Rows of one file, made from its source. */
static int make_rows(struct pw_dataset *d, struct pw_cache_rows *r, const struct pw_data_file *f, const struct pw_dataset_options *o)
{
    struct pw_row_reader reader;
    struct pw_row_maker m = {0};
    struct pw_arena a;
    const struct pw_row_form *form = NULL;
    PW_PASS(pw_rows_open(&reader, f->path));
    pw_arena_init(&a);
    int rc = 0;
    if (o->progress)
        pw_progress_start(o->progress, "rows", !o->progress->on);
    PW_TRY_OUT(maker_open(&m, f, o), "preparing %s", f->path);
    PW_TRY_OUT(find_form(f, NULL, &form), "reading %s", f->path);
    for (int64_t count = 0;; count++) {
        struct pw_value *row = NULL;
        pw_arena_reset(&a);
        rc = pw_rows_next(&reader, &a, &row, &m.line);
        if (rc == 0 && !row)
            break;
        if (rc == 0) {
            if (!form) {
                rc = find_form(f, row, &form);
                if (rc == 0)
                    pw_progress_say(o->progress, "%s: rows of the form %s", f->path, form->name);
            }
            if (rc == 0)
                rc = make_example(&m, r, &a, form, row);
            if (rc < 0 && !o->keep_going)
                pw_error_while(rc, "reading %s:%" PRId64, f->path, m.line);
        }
        if (rc < 0 && (!o->keep_going || rc == PW_E_NOMEM || rc == PW_E_USAGE))
            goto out;
        if (rc < 0) {
            PW_PASS_OUT(add_row_error(d, m.line, f->path));
            pw_error_clear();
            rc = 0;
        }
        if (count % 1024 == 1023)
            pw_progress_at(o->progress, (int64_t)reader.at, (int64_t)reader.bytes, NULL);
    }
    for (int i = 0; i < m.n_warnings; i++)
        pw_buf_printf(&r->warnings, "%" PRId64 "\t%" PRId64 "\t%s\n", m.warnings[i].line, m.warnings[i].count, m.warnings[i].what);
    rc = pw_buf_status(&r->warnings);
    if (o->progress && o->progress->last_drawn > 0)
        pw_progress_end(o->progress, NULL);
out:
    maker_close(&m);
    pw_arena_free(&a);
    pw_rows_close(&reader);
    return rc;
}

static void hash_field(struct pw_sha256 *h, const char *s)
{
    uint64_t n = s ? strlen(s) : UINT64_MAX; /* absent is not empty */
    pw_sha256_add(h, &n, sizeof n);
    if (s)
        pw_sha256_add(h, s, strlen(s));
}

static bool names_clock(const char *s)
{
    return s && strstr(s, "strftime_now");
}

static void cache_key(const struct pw_data_file *f, const struct pw_dataset_options *o, const char *source, char key[65])
{
    struct pw_sha256 h;
    char numbers[160], today[32] = "";
    if (names_clock(o->chat_template) || names_clock(f->prompt) || names_clock(f->completion) || names_clock(f->text))
        snprintf(today, sizeof today, "%lld", (long long)(o->now ? o->now : (int64_t)time(NULL)) / 60);
    snprintf(numbers, sizeof numbers, "%" PRId64 " %d %d %s", o->max_length, o->overlong, o->train_on, today);
    pw_sha256_init(&h);
    hash_field(&h, ROWS_VERSION);
    hash_field(&h, source);
    hash_field(&h, pw_tokenizer_hash(o->tokenizer));
    hash_field(&h, pw_tokenizer_bos_text(o->tokenizer));
    hash_field(&h, pw_tokenizer_eos_text(o->tokenizer));
    hash_field(&h, o->chat_template);
    hash_field(&h, f->format ? f->format : "auto");
    hash_field(&h, strrchr(f->path, '.')); /* the ending has a say in how the file is read */
    hash_field(&h, f->prompt);
    hash_field(&h, f->completion);
    hash_field(&h, f->text);
    hash_field(&h, numbers);
    pw_sha256_hex(&h, key);
}

static int load_file(struct pw_dataset *d, struct pw_cache_rows *r, const struct pw_data_file *f, const struct pw_dataset_options *o)
{
    if (!o->cache_dir)
        return make_rows(d, r, f, o);
    char source[65], key[65];
    PW_PASS(pw_sha256_file(f->path, source));
    cache_key(f, o, source, key);
    int rc = pw_cache_load(r, o->cache_dir, key, source, o->progress);
    if (rc < 0)
        return rc;
    if (rc == 1) {
        d->n_cached++;
        pw_progress_say(o->progress, "%s: %" PRId64 " rows from the cache", f->path, r->n_rows);
        return 0;
    }
    size_t errors = d->n_errors;
    PW_PASS(make_rows(d, r, f, o));
    if (d->n_errors == errors && r->n_rows > 0)
        PW_TRY(pw_cache_store(r, o->cache_dir, key, source), "caching the rows of %s", f->path);
    return 0;
}

/* ---- all files ---- */

static int take_warnings(struct pw_dataset *d, const struct pw_cache_rows *r, const char *path)
{
    const char *p = r->warnings.len ? r->warnings.data : "";
    while (*p) {
        long long line = 0, count = 0;
        int used = 0;
        char what[400];
        const char *end = strchr(p, '\n');
        PW_CHECK(end && sscanf(p, "%lld\t%lld\t%n", &line, &count, &used) == 2 && used > 0, PW_E_FORMAT, "%s: warnings of the cache are malformed",
                 path);
        int n = (int)(end - p) - used;
        if (count > 1)
            snprintf(what, sizeof what, "%.*s (%lld rows, this is the first)", n, p + used, count);
        else
            snprintf(what, sizeof what, "%.*s", n, p + used);
        PW_PASS(add_warning(d, line, path, what));
        p = end + 1;
    }
    return 0;
}

static uint64_t hash_row(const struct pw_dataset *d, int64_t row)
{
    uint64_t h = 1469598103934665603u; /* FNV-1a over ids and mask */
    for (int64_t i = d->row_start[row]; i < d->row_start[row + 1]; i++) {
        uint32_t id = (uint32_t)d->ids[i];
        for (int b = 0; b < 4; b++)
            h = (h ^ (id >> (8 * b) & 255)) * 1099511628211u;
        h = (h ^ d->trained[i]) * 1099511628211u;
        uint32_t weight = 0;
        if (d->token_weight)
            memcpy(&weight, &d->token_weight[i], sizeof weight);
        for (int b = 0; d->token_weight && b < 4; b++)
            h = (h ^ (weight >> (8 * b) & 255)) * 1099511628211u;
    }
    if (d->row_label)
        h = (h ^ d->row_label[row]) * 1099511628211u;
    return h ^ h >> 29;
}

/* Slot of a row's hash in an open-addressing table of row + 1; size a power of two. */
static size_t find_slot(const struct pw_dataset *d, const uint32_t *table, size_t size, uint64_t hash)
{
    size_t at = (size_t)hash & (size - 1);
    while (table[at] && d->row_hash[table[at] - 1] != hash)
        at = (at + 1) & (size - 1);
    return at;
}

static size_t table_size(int64_t rows)
{
    size_t size = 16;
    while (size < (size_t)rows * 2)
        size *= 2;
    return size;
}

static int count_duplicates(struct pw_dataset *d)
{
    size_t size = table_size(d->n_rows);
    uint32_t *table = pw_alloc_zero(size, sizeof *table);
    PW_CHECK(table, PW_E_NOMEM, "no memory to look for equal rows");
    for (int64_t i = 0; i < d->n_rows; i += pw_dataset_per(d)) {
        d->row_hash[i] = hash_row(d, i);
        if (d->pairs)
            d->row_hash[i] = d->row_hash[i + 1] = d->row_hash[i] * 31 ^ hash_row(d, i + 1);
        size_t at = find_slot(d, table, size, d->row_hash[i]);
        if (table[at])
            d->duplicates++;
        else
            table[at] = (uint32_t)i + 1;
    }
    pw_free(table);
    return 0;
}

static int join_files(struct pw_dataset *d, const struct pw_cache_rows *r, const struct pw_data_file *files, size_t n_files)
{
    const struct pw_cache_rows *like = NULL;     /* the first file with rows: all others must have its shape */
    bool weighted = false, tokens_weighted = false;
    for (size_t f = 0; f < n_files; f++) {
        like = !like && r[f].n_rows > 0 ? &r[f] : like;
        PW_CHECK(r[f].n_rows == 0 || (r[f].per == like->per && r[f].labelled == like->labelled), PW_E_REFUSED,
                 "%s: its rows are of another kind than those of %s (preference and kto do not go with other forms)", files[f].path, files[like - r].path);
        d->n_rows += r[f].n_rows;
        d->n_tokens += r[f].n_tokens;
        d->truncated += r[f].truncated;
        d->dropped += r[f].dropped;
        tokens_weighted |= r[f].weight != NULL;
        weighted |= files[f].weight != 0 && files[f].weight != 1;
    }
    PW_CHECK(d->n_rows < INT32_MAX, PW_E_UNSUPPORTED, "%" PRId64 " rows, at most %d are possible", d->n_rows, INT32_MAX - 1);
    size_t rows = (size_t)d->n_rows + 1, tokens = (size_t)d->n_tokens + 1;
    d->ids = pw_arena_array(&d->arena, tokens, sizeof *d->ids);
    d->trained = pw_arena_array(&d->arena, tokens, sizeof *d->trained);
    d->token_weight = tokens_weighted ? pw_arena_array(&d->arena, tokens, sizeof *d->token_weight) : NULL;
    PW_CHECK(d->token_weight || !tokens_weighted, PW_E_NOMEM, "no memory for the weights of %" PRId64 " tokens", d->n_tokens);
    d->row_start = pw_arena_array(&d->arena, rows, sizeof *d->row_start);
    d->row_line = pw_arena_array(&d->arena, rows, sizeof *d->row_line);
    d->row_file = pw_arena_array(&d->arena, rows, sizeof *d->row_file);
    d->row_hash = pw_arena_array(&d->arena, rows, sizeof *d->row_hash);
    bool labelled = like && like->labelled;
    d->pairs = like && like->per == 2;
    d->row_label = labelled ? pw_arena_array(&d->arena, rows, sizeof *d->row_label) : NULL;
    d->row_weight = weighted ? pw_arena_array(&d->arena, rows, sizeof *d->row_weight) : NULL;
    PW_CHECK(d->ids && d->trained && d->row_start && d->row_line && d->row_file && d->row_hash && (d->row_weight || !weighted) && (d->row_label || !labelled), PW_E_NOMEM,
             "no memory for %" PRId64 " rows of %" PRId64 " tokens", d->n_rows, d->n_tokens);
    int64_t row = 0, token = 0;
    for (size_t f = 0; f < n_files; f++) {
        if (r[f].n_tokens > 0) {
            memcpy(d->ids + token, r[f].ids, (size_t)r[f].n_tokens * sizeof *d->ids);
            memcpy(d->trained + token, r[f].trained, (size_t)r[f].n_tokens);
        }
        for (int64_t i = 0; d->token_weight && i < r[f].n_tokens; i++)
            d->token_weight[token + i] = r[f].weight ? r[f].weight[i] : 1;
        for (int64_t i = 0; i < r[f].n_rows; i++, row++) {
            d->row_start[row] = token + r[f].row_start[i];
            d->row_line[row] = r[f].row_line[i];
            d->row_file[row] = (int32_t)f;
            if (labelled)
                d->row_label[row] = r[f].row_label[i];
            if (weighted)
                d->row_weight[row] = files[f].weight != 0 ? (float)files[f].weight : 1;
            int64_t length = r[f].row_start[i + 1] - r[f].row_start[i];
            d->longest = length > d->longest ? length : d->longest;
        }
        token += r[f].n_tokens;
        PW_PASS(take_warnings(d, &r[f], files[f].path));
    }
    d->row_start[d->n_rows] = token;
    for (int64_t i = 0; i < d->n_tokens; i++)
        d->n_trained += d->trained[i];
    return 0;
}

static void digest(struct pw_dataset *d)
{
    struct pw_sha256 h;
    pw_sha256_init(&h);
    pw_sha256_add(&h, d->ids, (size_t)d->n_tokens * sizeof *d->ids);
    pw_sha256_add(&h, d->trained, (size_t)d->n_tokens);
    pw_sha256_add(&h, d->row_start, ((size_t)d->n_rows + 1) * sizeof *d->row_start);
    if (d->token_weight)
        pw_sha256_add(&h, d->token_weight, (size_t)d->n_tokens * sizeof *d->token_weight);
    if (d->row_label)
        pw_sha256_add(&h, d->row_label, (size_t)d->n_rows);
    if (d->pairs)
        pw_sha256_add(&h, "pairs", 5);
    pw_sha256_hex(&h, d->digest);
}

/* Without a row or a trained token there is nothing to do: refused, or an entry of the list. */
static int check_usable(struct pw_dataset *d, const struct pw_data_file *files, size_t n_files, const struct pw_dataset_options *o)
{
    char what[200] = "";
    if (d->n_rows == 0 && d->dropped > 0)
        snprintf(what, sizeof what, "nothing to train on: all %" PRId64 " rows are longer than max_length (%" PRId64 ") and were dropped", d->dropped,
                 o->max_length);
    else if (d->n_rows == 0)
        snprintf(what, sizeof what, "nothing to train on: the data set has no row");
    else if (d->n_trained == 0)
        snprintf(what, sizeof what, "nothing to train on: in %" PRId64 " rows no token would be trained", d->n_rows);
    if (!what[0])
        return 0;
    if (o->keep_going)
        return d->n_errors > 0 ? 0 : add_error(d, 0, n_files ? files[0].path : "", what);
    return pw_error(PW_E_REFUSED, "%s: %s", n_files ? files[0].path : "data", what);
}

int pw_dataset_load(struct pw_dataset **out, const struct pw_data_file *files, size_t n_files, const struct pw_dataset_options *o)
{
    *out = NULL;
    int rc = 0;
    struct pw_dataset *d = pw_alloc_zero(1, sizeof *d);
    struct pw_cache_rows *r = pw_alloc_zero(n_files + 1, sizeof *r);
    PW_CHECK_OUT(d && r, PW_E_NOMEM, "no memory for a data set");
    pw_arena_init(&d->arena);
    for (size_t f = 0; f < n_files; f++)
        PW_PASS_OUT(load_file(d, &r[f], &files[f], o));
    PW_PASS_OUT(join_files(d, r, files, n_files));
    PW_PASS_OUT(count_duplicates(d));
    digest(d);
    if (d->truncated > 0 && o->progress)
        pw_progress_say(o->progress, "%" PRId64 " rows are cut at max_length %" PRId64, d->truncated, o->max_length);
    if (d->dropped > 0 && o->progress)
        pw_progress_say(o->progress, "%" PRId64 " rows longer than max_length %" PRId64 " are dropped", d->dropped, o->max_length);
    PW_PASS_OUT(check_usable(d, files, n_files, o));
    *out = d;
    d = NULL;
out:
    for (size_t f = 0; r && f < n_files; f++)
        pw_cache_rows_free(&r[f]);
    pw_free(r);
    pw_dataset_free(d);
    return rc;
}

void pw_dataset_free(struct pw_dataset *d)
{
    if (!d)
        return;
    pw_arena_free(&d->arena);
    pw_free(d);
}

/* ---- held-out rows ---- */

int pw_dataset_split(struct pw_arena *a, const struct pw_dataset *d, double share, uint64_t seed, uint32_t **train, int64_t *n_train,
                     uint32_t **held, int64_t *n_held)
{
    PW_CHECK(share > 0 && share < 1, PW_E_USAGE, "share to hold out: expected between 0 and 1, got %g", share);
    int64_t n = pw_dataset_examples(d), per = pw_dataset_per(d), want = llround(share * (double)n);
    want = want < 1 ? 1 : want;
    uint32_t *order = pw_arena_array(a, (size_t)n + 1, sizeof *order), *left = pw_arena_array(a, (size_t)n + 1, sizeof *left);
    PW_CHECK(order && left, PW_E_NOMEM, "no memory for the split of %" PRId64 " rows", n);
    size_t size = table_size(n);
    uint32_t *table = pw_alloc_zero(size, sizeof *table);
    PW_CHECK(table, PW_E_NOMEM, "no memory for the split of %" PRId64 " rows", n);
    for (int64_t i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    struct pw_rng rng = pw_rng_make(seed, PW_STREAM_SPLIT);
    pw_rng_shuffle(&rng, order, (uint64_t)n);
    for (int64_t i = 0; i < n && i < want; i++)
        table[find_slot(d, table, size, d->row_hash[order[i] * per])] = (uint32_t)(order[i] * per) + 1;
    int64_t out = 0, in = 0;
    for (int64_t i = 0; i < n; i++) {
        if (table[find_slot(d, table, size, d->row_hash[i * per])])
            order[out++] = (uint32_t)i;
        else
            left[in++] = (uint32_t)i;
    }
    pw_free(table);
    PW_CHECK(in > 0, PW_E_REFUSED, "nothing to train on: of %" PRId64 " rows all are held out for evaluation", n);
    *train = left;
    *n_train = in;
    *held = order;
    *n_held = out;
    return 0;
}
