/* One parser for all commands: rows in, a filled struct out. Knows no command. */
#include "base/options.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

enum { NAMES_MAX = 256 };

struct parse {
    const struct pw_option *const *tables;
    void *const *into;
    size_t n_tables;
};
struct found { const struct pw_option *row; void *field; };

static struct found field_of(const struct parse *p, size_t t, const struct pw_option *row)
{
    return (struct found){ row, (char *)p->into[t] + row->offset };
}

static struct found by_name(const struct parse *p, const char *name, size_t n)
{
    for (size_t t = 0; t < p->n_tables; t++)
        for (const struct pw_option *row = p->tables[t]; row->name; row++)
            if (strlen(row->name) == n && memcmp(row->name, name, n) == 0) return field_of(p, t, row);
    return (struct found){ 0 };
}

static struct found by_letter(const struct parse *p, char letter)
{
    for (size_t t = 0; t < p->n_tables; t++)
        for (const struct pw_option *row = p->tables[t]; row->name; row++)
            if (row->letter && row->letter == letter) return field_of(p, t, row);
    return (struct found){ 0 };
}

static int unknown(const struct parse *p, const char *name, int n)
{
    const char *names[NAMES_MAX];
    size_t count = 0;
    char word[64];
    for (size_t t = 0; t < p->n_tables; t++)
        for (const struct pw_option *row = p->tables[t]; row->name && count < NAMES_MAX; row++) names[count++] = row->name;
    snprintf(word, sizeof word, "%.*s", n, name);
    const char *near = pw_nearest(word, names, count);
    pw_error(PW_E_USAGE, "unknown option --%.*s", n, name);
    if (near) pw_error_hint("did you mean --%s?", near);
    return PW_E_USAGE;
}

/* Is text one of the words in "a|b|c"? */
static bool one_of(const char *choices, const char *text)
{
    size_t n = strlen(text);
    for (const char *c = choices;; c++) {
        size_t len = strcspn(c, "|");
        if (len == n && memcmp(c, text, n) == 0) return true;
        c += len;
        if (!*c) return false;
    }
}

static int list_add(struct pw_strings *list, const char *text)
{
    const char **items = pw_realloc(list->items, list->n * sizeof *items, (list->n + 1) * sizeof *items);
    PW_CHECK(items, PW_E_NOMEM, "out of memory reading the options");
    items[list->n] = text;
    list->items = items;
    list->n++;
    return 0;
}

static int set(struct found f, const char *text)
{
    const struct pw_option *o = f.row;
    bool ranged = o->min != 0 || o->max != 0;
    switch (o->type) {
    case PW_OPT_FLAG:
        *(bool *)f.field = strcmp(text, "true") == 0;
        return 0;
    case PW_OPT_INT: {
        int64_t x;
        PW_CHECK(pw_parse_i64(text, &x) == 0, PW_E_USAGE, "option --%s: \"%s\" is not an integer", o->name, text);
        PW_CHECK(!ranged || ((double)x >= o->min && (double)x <= o->max), PW_E_USAGE, "option --%s: %lld is out of range (%.17g to %.17g)",
                 o->name, (long long)x, o->min, o->max);
        *(int64_t *)f.field = x;
        return 0;
    }
    case PW_OPT_REAL: {
        double x;
        PW_CHECK(pw_parse_f64(text, &x) == 0, PW_E_USAGE, "option --%s: \"%s\" is not a number", o->name, text);
        PW_CHECK(!ranged || (x >= o->min && x <= o->max), PW_E_USAGE, "option --%s: %s is out of range (%g to %g)", o->name, text, o->min,
                 o->max);
        *(double *)f.field = x;
        return 0;
    }
    case PW_OPT_BYTES:
        PW_CHECK(pw_parse_bytes(text, f.field) == 0, PW_E_USAGE, "option --%s: \"%s\" is not a size (such as 8GiB or 512MB)", o->name, text);
        return 0;
    case PW_OPT_CHOICE:
        PW_CHECK(one_of(o->choices, text), PW_E_USAGE, "option --%s: \"%s\" is none of %s", o->name, text, o->choices);
        *(const char **)f.field = text;
        return 0;
    case PW_OPT_STRING:
        *(const char **)f.field = text;
        return 0;
    case PW_OPT_LIST: return list_add(f.field, text);
    }
    return pw_error(PW_E_FAIL, "option --%s: unknown type %d", o->name, (int)o->type);
}

static int fill_defaults(const struct parse *p)
{
    for (size_t t = 0; t < p->n_tables; t++)
        for (const struct pw_option *row = p->tables[t]; row->name; row++) {
            void *field = field_of(p, t, row).field;
            switch (row->type) {
            case PW_OPT_FLAG: *(bool *)field = false; break;
            case PW_OPT_INT: *(int64_t *)field = 0; break;
            case PW_OPT_REAL: *(double *)field = 0; break;
            case PW_OPT_BYTES: *(uint64_t *)field = 0; break;
            case PW_OPT_STRING:
            case PW_OPT_CHOICE: *(const char **)field = NULL; break;
            case PW_OPT_LIST: *(struct pw_strings *)field = (struct pw_strings){ 0 }; break;
            }
            if (row->type == PW_OPT_CHOICE && row->fallback && !row->fallback[0]) *(const char **)field = ""; /* "not given" */
            else if (row->fallback) PW_TRY(set((struct found){ row, field }, row->fallback), "setting the default of --%s", row->name);
        }
    return 0;
}

/* "--name", "--name=value" or "--name value" at argv[*i]; moves *i over a value taken from the next word. */
static int long_option(const struct parse *p, int argc, char **argv, int *i)
{
    const char *name = argv[*i] + 2;
    size_t n = strcspn(name, "=");
    struct found f = by_name(p, name, n);
    if (!f.row) return unknown(p, name, (int)n);
    const char *value = name[n] == '=' ? name + n + 1 : NULL;
    if (f.row->type == PW_OPT_FLAG) {
        PW_CHECK(!value, PW_E_USAGE, "option --%s takes no value (got \"%s\")", f.row->name, value);
        return set(f, "true");
    }
    if (!value) {
        PW_CHECK(*i + 1 < argc, PW_E_USAGE, "option --%s: a value is missing (%s)", f.row->name, f.row->meta ? f.row->meta : "VALUE");
        value = argv[++*i];
    }
    return set(f, value);
}

/* "-o value", "-ovalue", "-ab" (flags). */
static int short_options(const struct parse *p, int argc, char **argv, int *i)
{
    for (const char *c = argv[*i] + 1; *c; c++) {
        struct found f = by_letter(p, *c);
        PW_CHECK(f.row, PW_E_USAGE, "unknown option -%c in %s", *c, argv[*i]);
        if (f.row->type == PW_OPT_FLAG) {
            PW_PASS(set(f, "true"));
            continue;
        }
        const char *value = c[1] ? c + 1 : NULL;
        if (!value) {
            PW_CHECK(*i + 1 < argc, PW_E_USAGE, "option -%c: a value is missing (%s)", *c, f.row->meta ? f.row->meta : "VALUE");
            value = argv[++*i];
        }
        return set(f, value);
    }
    return 0;
}

int pw_options_parse(const struct pw_option *const *tables, void *const *into, size_t n_tables, int argc, char **argv,
                     struct pw_args *rest)
{
    struct parse p = { tables, into, n_tables };
    int rc = 0;
    *rest = (struct pw_args){ 0 };
    PW_PASS(fill_defaults(&p));
    rest->items = pw_alloc_zero((size_t)(argc > 0 ? argc : 0) + 1, sizeof *rest->items); /* ends with NULL */
    PW_CHECK(rest->items, PW_E_NOMEM, "out of memory reading the options");
    bool only_arguments = false;
    for (int i = 0; i < argc && rc == 0; i++) {
        const char *word = argv[i];
        if (only_arguments || word[0] != '-' || word[1] == 0) rest->items[rest->n++] = word;
        else if (strcmp(word, "--") == 0) only_arguments = true;
        else if (word[1] == '-') rc = long_option(&p, argc, argv, &i);
        else rc = short_options(&p, argc, argv, &i);
    }
    if (rc < 0) pw_options_free(rest);
    return rc;
}

void pw_options_free(struct pw_args *rest)
{
    pw_free(rest->items);
    *rest = (struct pw_args){ 0 };
}

/* ---- help ---- */
enum { WIDTH = 100, TEXT_AT = 28 };

/* Appends text wrapped at WIDTH; the current line has `at` columns. */
static void wrapped(struct pw_buf *out, const char *text, size_t at)
{
    bool line_start = true;
    while (*text) {
        size_t n = strcspn(text, " ");
        if (!line_start && at + 1 + n > WIDTH) {
            pw_buf_printf(out, "\n%*s", TEXT_AT, "");
            at = TEXT_AT;
            line_start = true;
        }
        if (!line_start) {
            pw_buf_char(out, ' ');
            at++;
        }
        pw_buf_add(out, text, n);
        at += n;
        line_start = false;
        text += n + strspn(text + n, " ");
    }
}

void pw_options_help(const struct pw_option *table, struct pw_buf *out)
{
    for (const struct pw_option *o = table; o->name; o++) {
        size_t start = out->len, used;
        if (o->letter) pw_buf_printf(out, "  -%c, --%s", o->letter, o->name);
        else pw_buf_printf(out, "      --%s", o->name);
        if (o->type != PW_OPT_FLAG) pw_buf_printf(out, " %s", o->meta ? o->meta : o->type == PW_OPT_CHOICE && o->choices ? o->choices : "VALUE");
        used = out->len - start;
        if (used + 2 > TEXT_AT) pw_buf_printf(out, "\n%*s", TEXT_AT, "");
        else pw_buf_printf(out, "%*s", (int)(TEXT_AT - used), "");
        struct pw_buf text = { 0 };
        pw_buf_str(&text, o->help ? o->help : "");
        if (o->type == PW_OPT_CHOICE && o->meta && o->choices) pw_buf_printf(&text, " (%s)", o->choices);
        if (o->min != 0 || o->max != 0) pw_buf_printf(&text, " (%.10g to %.10g)", o->min, o->max);
        if (o->type == PW_OPT_LIST) pw_buf_str(&text, " (may be repeated)");
        if (o->fallback && o->fallback[0] && o->type != PW_OPT_FLAG) pw_buf_printf(&text, " [%s]", o->fallback);
        if (text.failed) out->failed = true;
        else wrapped(out, text.data, TEXT_AT);
        pw_buf_free(&text);
        pw_buf_char(out, '\n');
    }
}
