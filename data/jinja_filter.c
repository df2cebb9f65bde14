/* Filters: a table of names and functions. Each takes the value, the arguments, and gives a value. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "data/jinja_parts.h"
#include "data/utf8.h"

typedef int filter_fn(struct jinja_run *r, const char *name, const struct jv *v, const struct jinja_args *args, struct jv *out);
#define FILTER(fn) static int fn(struct jinja_run *r, const char *name, const struct jv *v, const struct jinja_args *args, struct jv *out)

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

static int as_text(struct jinja_run *r, const struct jv *v, struct jv *out)
{
    return jv_to_string(r, v, out); /* Jinja's filters take soft_str of what they get */
}

static int integer(struct jinja_run *r, const char *name, const struct jv *v, int64_t fallback, int64_t *out)
{
    *out = fallback;
    if (jinja_absent(v) || v->kind == JV_NONE)
        return 0;
    if (v->kind != JV_INT && v->kind != JV_BOOL)
        return jinja_fail(r, "%s: expected an integer, got %s", name, jv_kind_name(v));
    *out = v->kind == JV_INT ? v->i : v->b;
    return 0;
}

FILTER(f_case)
{
    struct jv text;
    (void)args;
    PW_PASS(as_text(r, v, &text));
    return jinja_case(r, &text, is(name, "title") ? 'j' : name[0], out);
}

FILTER(f_trim)
{
    static const char *const names[] = {"chars"};
    struct jv a[1], text;
    PW_PASS(jinja_args_take(r, args, name, names, 1, a));
    PW_PASS(as_text(r, v, &text));
    return jinja_strip(r, &text, &a[0], true, true, out);
}

FILTER(f_length)
{
    size_t n;
    (void)name, (void)args;
    PW_PASS(jv_length(r, v, &n));
    *out = jv_int((int64_t)n);
    return 0;
}

FILTER(f_tojson)
{
    static const char *const names[] = {"ensure_ascii", "indent", "separators", "sort_keys"};
    struct jv a[4], one = jv_undefined(NULL);
    struct jinja_args shifted = *args;
    bool sort, ascii;
    int64_t indent;
    if (args->n == 1 && args->items[0].kind == JV_INT) { /* Jinja's own filter has indent first */
        one = args->items[0];
        shifted.n = 0;
    }
    PW_PASS(jinja_args_take(r, &shifted, name, names, 4, a));
    if (jinja_absent(&a[1]))
        a[1] = one;
    PW_PASS(jv_truth(r, &a[0], &ascii));
    PW_PASS(jv_truth(r, &a[3], &sort));
    if (ascii || !(jinja_absent(&a[2]) || a[2].kind == JV_NONE))
        return jinja_fail(r, "tojson with ensure_ascii or separators is not supported");
    PW_PASS(integer(r, name, &a[1], -1, &indent));
    if (indent > 100)
        return jinja_fail(r, "tojson: an indent of %" PRId64, indent);
    struct pw_buf b = {0};
    int rc = jv_json(r, v, (int)indent, sort, &b);
    if (rc < 0) {
        pw_buf_free(&b);
        return rc;
    }
    return jv_take(r, &b, out);
}

/* The value at a dotted path of keys, as map and sort take it. */
static int at_path(struct jinja_run *r, const struct jv *v, const struct jv *path, struct jv *out)
{
    *out = *v;
    if (path->kind == JV_INT)
        return jinja_item(r, v, path, out);
    if (path->kind != JV_STRING)
        return jinja_fail(r, "an attribute is named by a string, got %s", jv_kind_name(path));
    for (size_t at = 0; at <= path->len;) {
        const char *dot = memchr(path->s + at, '.', path->len - at);
        size_t n = dot ? (size_t)(dot - path->s) - at : path->len - at;
        struct jv key, found;
        PW_PASS(jv_string(r, path->s + at, n, &key));
        int64_t index;
        if (n > 0 && key.s[0] >= '0' && key.s[0] <= '9' && pw_parse_i64(key.s, &index) == 0)
            key = jv_int(index);
        PW_PASS(jinja_item(r, out, &key, &found));
        *out = found;
        at += n + 1;
    }
    return 0;
}

FILTER(f_join)
{
    static const char *const names[] = {"d", "attribute"};
    struct jv a[2], list = *v, items, x;
    PW_PASS(jinja_args_take(r, args, name, names, 2, a));
    if (jinja_absent(&a[0]))
        a[0] = jv_static("");
    if (!jinja_absent(&a[1])) {
        PW_PASS(jv_iterate(r, v, &items));
        PW_PASS(jv_list(r, 0, &list));
        for (size_t i = 0; i < items.list->n; i++) {
            PW_PASS(at_path(r, &items.list->items[i], &a[1], &x));
            PW_PASS(jv_push(r, &list, x));
        }
    }
    return jinja_join(r, &list, &a[0], false, out);
}

FILTER(f_default)
{
    static const char *const names[] = {"default_value", "boolean"};
    struct jv a[2];
    bool also_false, truth;
    PW_PASS(jinja_args_take(r, args, name, names, 2, a));
    PW_PASS(jv_truth(r, &a[1], &also_false));
    PW_PASS(jv_truth(r, v, &truth));
    if (v->kind != JV_UNDEFINED && !(also_false && !truth))
        *out = *v;
    else
        *out = jinja_absent(&a[0]) ? jv_static("") : a[0];
    return 0;
}

FILTER(f_replace)
{
    static const char *const names[] = {"old", "new", "count"};
    struct jv a[3], text, from, to;
    int64_t count;
    PW_PASS(jinja_args_take(r, args, name, names, 3, a));
    PW_PASS(as_text(r, v, &text));
    PW_PASS(as_text(r, &a[0], &from));
    PW_PASS(as_text(r, &a[1], &to));
    PW_PASS(integer(r, name, &a[2], -1, &count));
    return jinja_replace(r, &text, &from, &to, count, out);
}

FILTER(f_ends)
{
    struct jv items;
    (void)args;
    PW_PASS(jv_iterate(r, v, &items));
    size_t n = items.list->n;
    if (n == 0)
        *out = jv_undefined(is(name, "first") ? "the first of nothing" : "the last of nothing");
    else
        *out = items.list->items[is(name, "first") ? 0 : n - 1];
    return 0;
}

static int copy_list(struct jinja_run *r, const struct jv *v, struct jv *out)
{
    struct jv items;
    PW_PASS(jv_iterate(r, v, &items));
    PW_PASS(jv_list(r, items.list->n, out));
    for (size_t i = 0; i < items.list->n; i++)
        PW_PASS(jv_push(r, out, items.list->items[i]));
    return 0;
}

FILTER(f_list)
{
    (void)name, (void)args;
    return copy_list(r, v, out);
}

FILTER(f_items)
{
    struct jinja_method m = {*v, "items"};
    if (v->kind == JV_UNDEFINED)
        return jv_list(r, 0, out);
    if (v->kind != JV_MAP || v->map->is_namespace)
        return jinja_fail(r, "%s: expected a mapping, got %s", name, jv_kind_name(v));
    return jinja_method(r, &m, args, out);
}

FILTER(f_map)
{
    struct jv items, x;
    struct jinja_args rest = *args;
    const struct jv *attribute = NULL, *fallback = NULL;
    for (size_t i = 0; i < args->n_named; i++) {
        if (is(args->names[i], "attribute"))
            attribute = &args->named[i];
        else if (is(args->names[i], "default"))
            fallback = &args->named[i];
    }
    const char *filter = NULL;
    if (!attribute) {
        if (args->n == 0 || args->items[0].kind != JV_STRING)
            return jinja_fail(r, "map needs the name of a filter, or attribute=");
        filter = jinja_filter_find(args->items[0].s, args->items[0].len);
        if (!filter)
            return jinja_fail(r, "map: unknown or unsupported filter %.*s", (int)(args->items[0].len < 40 ? args->items[0].len : 40), args->items[0].s);
        rest.items++;
        rest.n--;
    }
    PW_PASS(jv_iterate(r, v, &items));
    PW_PASS(jv_list(r, 0, out));
    for (size_t i = 0; i < items.list->n; i++) {
        if (filter)
            PW_PASS(jinja_filter(r, filter, &items.list->items[i], &rest, &x));
        else
            PW_PASS(at_path(r, &items.list->items[i], attribute, &x));
        if (!filter && fallback && x.kind == JV_UNDEFINED)
            x = *fallback;
        PW_PASS(jv_push(r, out, x));
    }
    (void)name;
    return 0;
}

/* select, reject, selectattr, rejectattr */
FILTER(f_select)
{
    bool by_attribute = strlen(name) > 6, keep = name[0] == 's', holds;
    struct jv items, x;
    struct jinja_args rest = *args;
    const struct jv *attribute = NULL;
    const char *test = NULL;
    if (by_attribute) {
        if (rest.n == 0)
            return jinja_fail(r, "%s needs the name of an attribute", name);
        attribute = rest.items++;
        rest.n--;
    }
    if (rest.n > 0) {
        test = rest.items[0].kind == JV_STRING ? jinja_test_find(rest.items[0].s, rest.items[0].len) : NULL;
        if (!test)
            return jinja_fail(r, "%s: unknown or unsupported test", name);
        rest.items++;
        rest.n--;
    }
    PW_PASS(jv_iterate(r, v, &items));
    PW_PASS(jv_list(r, 0, out));
    for (size_t i = 0; i < items.list->n; i++) {
        x = items.list->items[i];
        if (attribute)
            PW_PASS(at_path(r, &items.list->items[i], attribute, &x));
        if (test)
            PW_PASS(jinja_test(r, test, &x, &rest, &holds));
        else
            PW_PASS(jv_truth(r, &x, &holds));
        if (holds == keep)
            PW_PASS(jv_push(r, out, items.list->items[i]));
    }
    return 0;
}

static int sort_key(struct jinja_run *r, const struct jv *v, const struct jv *attribute, bool case_sensitive, struct jv *out)
{
    *out = *v;
    if (!jinja_absent(attribute) && attribute->kind != JV_NONE)
        PW_PASS(at_path(r, v, attribute, out));
    if (!case_sensitive && out->kind == JV_STRING) {
        struct jv text = *out;
        PW_PASS(jinja_case(r, &text, 'l', out));
    }
    return 0;
}

/* Stable merge sort of items by keys: comparisons can fail, which qsort has no way to say. */
static int merge_sort(struct jinja_run *r, struct jv *items, struct jv *keys, struct jv *items2, struct jv *keys2, size_t n, bool reverse)
{
    if (n < 2)
        return 0;
    size_t half = n / 2, i = 0, j = half, k = 0;
    PW_PASS(merge_sort(r, items, keys, items2, keys2, half, reverse));
    PW_PASS(merge_sort(r, items + half, keys + half, items2, keys2, n - half, reverse));
    while (i < half || j < n) {
        int c = 0;
        if (i < half && j < n)
            PW_PASS(jv_compare(r, &keys[i], &keys[j], &c));
        bool left = j == n || (i < half && (reverse ? c >= 0 : c <= 0));
        size_t from = left ? i++ : j++;
        items2[k] = items[from];
        keys2[k++] = keys[from];
        PW_PASS(jinja_step(r, 1));
    }
    memcpy(items, items2, n * sizeof *items);
    memcpy(keys, keys2, n * sizeof *keys);
    return 0;
}

static int sort_items(struct jinja_run *r, struct jv *list, const struct jv *attribute, bool case_sensitive, bool reverse)
{
    size_t n = list->list->n;
    struct jv *room = jinja_alloc(r, (n * 3 + 1) * sizeof *room);
    if (!room)
        return PW_E_FORMAT;
    for (size_t i = 0; i < n; i++)
        PW_PASS(sort_key(r, &list->list->items[i], attribute, case_sensitive, &room[i]));
    return merge_sort(r, list->list->items, room, room + n, room + 2 * n, n, reverse);
}

FILTER(f_sort)
{
    static const char *const names[] = {"reverse", "case_sensitive", "attribute"};
    struct jv a[3];
    bool reverse, sensitive;
    PW_PASS(jinja_args_take(r, args, name, names, 3, a));
    PW_PASS(jv_truth(r, &a[0], &reverse));
    PW_PASS(jv_truth(r, &a[1], &sensitive));
    PW_PASS(copy_list(r, v, out));
    return sort_items(r, out, &a[2], sensitive, reverse);
}

FILTER(f_dictsort)
{
    static const char *const names[] = {"case_sensitive", "by", "reverse"};
    struct jv a[3], by;
    bool reverse, sensitive;
    struct jinja_args none = {0};
    PW_PASS(jinja_args_take(r, args, name, names, 3, a));
    if (v->kind == JV_UNDEFINED) /* which the filter items takes for an empty map */
        return jinja_undefined(r, v);
    PW_PASS(jv_truth(r, &a[0], &sensitive));
    PW_PASS(jv_truth(r, &a[2], &reverse));
    PW_PASS(f_items(r, name, v, &none, out));
    by = jv_int(jv_is(&a[1], "value"));
    return sort_items(r, out, &by, sensitive, reverse);
}

FILTER(f_unique)
{
    static const char *const names[] = {"case_sensitive", "attribute"};
    struct jv a[2], items, keys, key;
    bool sensitive, seen;
    PW_PASS(jinja_args_take(r, args, name, names, 2, a));
    PW_PASS(jv_truth(r, &a[0], &sensitive));
    PW_PASS(jv_iterate(r, v, &items));
    PW_PASS(jv_list(r, 0, out));
    PW_PASS(jv_list(r, 0, &keys));
    for (size_t i = 0; i < items.list->n; i++) {
        PW_PASS(sort_key(r, &items.list->items[i], &a[1], sensitive, &key));
        if (!jinja_hashable(&key))
            return jinja_fail(r, "unique: a %s cannot be compared by hash", jv_kind_name(&key));
        PW_PASS(jv_contains(r, &keys, &key, &seen));
        if (seen)
            continue;
        PW_PASS(jv_push(r, &keys, key));
        PW_PASS(jv_push(r, out, items.list->items[i]));
    }
    return 0;
}

FILTER(f_extreme)
{
    static const char *const names[] = {"case_sensitive", "attribute"};
    struct jv a[2], items, best, key;
    bool sensitive;
    int c;
    PW_PASS(jinja_args_take(r, args, name, names, 2, a));
    PW_PASS(jv_truth(r, &a[0], &sensitive));
    PW_PASS(jv_iterate(r, v, &items));
    *out = jv_undefined("the extreme of nothing");
    for (size_t i = 0; i < items.list->n; i++) {
        PW_PASS(sort_key(r, &items.list->items[i], &a[1], sensitive, &key));
        c = 0;
        if (i > 0)
            PW_PASS(jv_compare(r, &key, &best, &c));
        if (i == 0 || (is(name, "max") ? c > 0 : c < 0)) {
            best = key;
            *out = items.list->items[i];
        }
    }
    return 0;
}

FILTER(f_sum)
{
    static const char *const names[] = {"attribute", "start"};
    struct jv a[2], items, x;
    PW_PASS(jinja_args_take(r, args, name, names, 2, a));
    PW_PASS(jv_iterate(r, v, &items));
    *out = jinja_absent(&a[1]) ? jv_int(0) : a[1];
    for (size_t i = 0; i < items.list->n; i++) {
        x = items.list->items[i];
        if (!jinja_absent(&a[0]) && a[0].kind != JV_NONE)
            PW_PASS(at_path(r, &items.list->items[i], &a[0], &x));
        struct jv before = *out;
        PW_PASS(jinja_arith(r, '+', &before, &x, out));
    }
    return 0;
}

FILTER(f_reverse)
{
    struct jv items, all, none = jv_static("");
    (void)name, (void)args;
    PW_PASS(jv_iterate(r, v, &items));
    PW_PASS(jv_list(r, items.list->n, &all));
    for (size_t i = items.list->n; i-- > 0;)
        PW_PASS(jv_push(r, &all, items.list->items[i]));
    if (v->kind == JV_STRING)
        return jinja_join(r, &all, &none, true, out);
    *out = all;
    return 0;
}

/* A text as Python's int() and float() take it: without the white space around it, a plus, and the low lines between digits. */
static bool plain_number(const struct jv *v, char *text, size_t room)
{
    const char *s = v->s, *end = v->s + v->len;
    size_t n = 0;
    while (s < end && jinja_space((unsigned char)*s))
        s++;
    while (end > s && jinja_space((unsigned char)end[-1]))
        end--;
    if (s < end && *s == '+' && end - s > 1 && s[1] != '-')
        s++;
    for (const char *c = s; c < end; c++) {
        if (*c == '_' && c > s && c + 1 < end && isalnum((unsigned char)c[-1]) && isalnum((unsigned char)c[1]))
            continue;
        if (n + 1 >= room || !*c)
            return false;
        text[n++] = *c;
    }
    text[n] = 0;
    return n > 0;
}

static bool real_of_text(const struct jv *v, double *d)
{
    char text[400];
    if (!plain_number(v, text, sizeof text))
        return false;
    const char *word = text[0] == '-' ? text + 1 : text;
    bool inf = strcasecmp(word, "inf") == 0 || strcasecmp(word, "infinity") == 0;
    if (inf || strcasecmp(word, "nan") == 0) {
        *d = !inf ? (double)NAN : word > text ? -(double)INFINITY : (double)INFINITY;
        return true;
    }
    return pw_parse_f64(text, d) == 0 && !strpbrk(text, "xXpP");
}

static bool int_of_text(const struct jv *v, int base, int64_t *i)
{
    char text[80], *end;
    if (!plain_number(v, text, sizeof text))
        return false;
    if (base == 10)
        return pw_parse_i64(text, i) == 0;
    char *digits = text[0] == '-' ? text + 1 : text, mark = digits[0] == '0' ? (char)tolower((unsigned char)digits[1]) : 0;
    if ((mark == 'b' && base == 2) || (mark == 'o' && base == 8)) /* which strtoll does not know; 0x it does */
        memmove(digits, digits + 2, strlen(digits + 2) + 1);
    errno = 0;
    *i = strtoll(text, &end, base);
    return isalnum((unsigned char)*digits) && !*end && errno == 0;
}

FILTER(f_int)
{
    static const char *const names[] = {"default", "base"};
    struct jv a[2];
    double d = 0;
    int64_t base;
    PW_PASS(jinja_args_take(r, args, name, names, 2, a));
    PW_PASS(integer(r, name, &a[1], 10, &base));
    if (base < 2 || base > 36)
        return jinja_fail(r, "int: a base is 2 to 36, got %" PRId64, base);
    if (v->kind == JV_UNDEFINED)
        return jinja_undefined(r, v);
    bool is_int = false, good = true;
    int64_t i = 0;
    if (v->kind == JV_STRING) {
        is_int = int_of_text(v, (int)base, &i);
        good = is_int || real_of_text(v, &d);
    } else {
        good = jv_number(v, &d, &is_int, &i) == 0;
    }
    if (good && !is_int) {
        good = d > -9.2e18 && d < 9.2e18;
        i = good ? (int64_t)d : 0;
    }
    *out = good ? jv_int(i) : jinja_absent(&a[0]) ? jv_int(0) : a[0];
    return 0;
}

FILTER(f_float)
{
    static const char *const names[] = {"default"};
    struct jv a[1];
    double d;
    bool is_int;
    int64_t i;
    PW_PASS(jinja_args_take(r, args, name, names, 1, a));
    if (v->kind == JV_UNDEFINED)
        return jinja_undefined(r, v);
    bool good = v->kind == JV_STRING ? real_of_text(v, &d) : jv_number(v, &d, &is_int, &i) == 0;
    *out = good ? jv_real(d) : jinja_absent(&a[0]) ? jv_real(0) : a[0];
    return 0;
}

FILTER(f_string)
{
    (void)name, (void)args;
    return jv_to_string(r, v, out);
}

FILTER(f_abs)
{
    (void)args;
    if (v->kind == JV_INT && v->i != INT64_MIN)
        *out = jv_int(v->i < 0 ? -v->i : v->i);
    else if (v->kind == JV_REAL)
        *out = jv_real(fabs(v->d));
    else
        return jinja_fail(r, "%s: expected a number, got %s", name, jv_kind_name(v));
    return 0;
}

FILTER(f_round)
{
    static const char *const names[] = {"precision", "method"};
    struct jv a[2];
    int64_t precision, i;
    double d;
    bool is_int;
    PW_PASS(jinja_args_take(r, args, name, names, 2, a));
    PW_PASS(integer(r, name, &a[0], 0, &precision));
    if (jv_number(v, &d, &is_int, &i) < 0)
        return jinja_fail(r, "%s: expected a number, got %s", name, jv_kind_name(v));
    if (precision < 0 || precision > 15)
        return jinja_fail(r, "round: precision is 0 to 15, got %" PRId64, precision);
    if (jinja_absent(&a[1]) || jv_is(&a[1], "common")) {
        if (is_int) {
            *out = jv_int(i);
            return 0;
        }
        char text[400]; /* as decimal digits, correctly rounded, halves to even: what Python does */
        snprintf(text, sizeof text, "%.*f", (int)precision, d);
        *out = jv_real(strtod(text, NULL));
        return 0;
    }
    double scale = pow(10, (double)precision);
    if (jv_is(&a[1], "ceil"))
        *out = jv_real(ceil(d * scale) / scale);
    else if (jv_is(&a[1], "floor"))
        *out = jv_real(floor(d * scale) / scale);
    else
        return jinja_fail(r, "round: the method is common, ceil or floor");
    return 0;
}

FILTER(f_indent)
{
    static const char *const names[] = {"width", "first", "blank"};
    struct jv a[3], text, pad, lines, keep = jv_bool(false);
    bool first, blank;
    PW_PASS(jinja_args_take(r, args, name, names, 3, a));
    PW_PASS(jv_truth(r, &a[1], &first));
    PW_PASS(jv_truth(r, &a[2], &blank));
    if (v->kind != JV_STRING)
        return jinja_fail(r, "indent: expected a string, got %s", jv_kind_name(v));
    text = *v;
    pad = a[0];
    if (a[0].kind != JV_STRING) {
        int64_t width;
        PW_PASS(integer(r, name, &a[0], 4, &width));
        struct jv one = jv_static(" "), n = jv_int(width);
        PW_PASS(jinja_arith(r, '*', &one, &n, &pad));
    }
    struct jv newline = jv_static("\n"), whole;
    PW_PASS(jinja_arith(r, '+', &text, &newline, &whole));
    struct jinja_method m = {whole, "splitlines"};
    struct jinja_args one_arg = {.items = &keep, .n = 1};
    PW_PASS(jinja_method(r, &m, &one_arg, &lines));
    struct pw_buf b = {0};
    for (size_t i = 0; i < lines.list->n; i++) {
        const struct jv *line = &lines.list->items[i];
        if (i)
            pw_buf_char(&b, '\n');
        if (i == 0 ? first : blank || line->len > 0)
            pw_buf_add(&b, pad.s, pad.len);
        pw_buf_add(&b, line->s, line->len);
        if (b.len > r->memory_limit) {
            pw_buf_free(&b);
            return jinja_fail(r, "more than %zu bytes of memory", r->memory_limit);
        }
    }
    return jv_take(r, &b, out);
}

FILTER(f_escape)
{
    static const char from[] = "&<>\"'", *const to[] = {"&amp;", "&lt;", "&gt;", "&#34;", "&#39;"};
    struct jv text;
    struct pw_buf b = {0};
    (void)name, (void)args;
    PW_PASS(as_text(r, v, &text));
    for (size_t i = 0; i < text.len; i++) {
        const char *k = text.s[i] ? strchr(from, text.s[i]) : NULL;
        if (k)
            pw_buf_str(&b, to[k - from]);
        else
            pw_buf_char(&b, text.s[i]);
    }
    return jv_take(r, &b, out);
}

FILTER(f_wordcount)
{
    struct jv text;
    int64_t n = 0;
    bool inside = false;
    (void)name, (void)args;
    PW_PASS(as_text(r, v, &text));
    for (size_t at = 0; at < text.len;) {
        uint32_t cp;
        at += jinja_get(text.s + at, text.len - at, &cp);
        bool word = cp == '_' || jinja_letter(cp) || pw_cp_numeric(cp);
        n += word && !inside;
        inside = word;
    }
    *out = jv_int(n);
    return 0;
}

static const struct { const char *name; filter_fn *fn; } filters[] = {
    {"abs", f_abs}, {"capitalize", f_case}, {"count", f_length}, {"d", f_default}, {"default", f_default}, {"dictsort", f_dictsort},
    {"e", f_escape}, {"escape", f_escape}, {"first", f_ends}, {"float", f_float}, {"indent", f_indent}, {"int", f_int}, {"items", f_items},
    {"join", f_join}, {"last", f_ends}, {"length", f_length}, {"list", f_list}, {"lower", f_case}, {"map", f_map}, {"max", f_extreme},
    {"min", f_extreme}, {"reject", f_select}, {"rejectattr", f_select}, {"replace", f_replace}, {"reverse", f_reverse}, {"round", f_round},
    {"safe", f_string}, {"select", f_select}, {"selectattr", f_select}, {"sort", f_sort}, {"string", f_string}, {"sum", f_sum},
    {"title", f_case}, {"tojson", f_tojson}, {"trim", f_trim}, {"unique", f_unique}, {"upper", f_case}, {"wordcount", f_wordcount},
};

const char *jinja_filter_find(const char *name, size_t n)
{
    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++)
        if (strlen(filters[i].name) == n && memcmp(filters[i].name, name, n) == 0)
            return filters[i].name;
    return NULL;
}

int jinja_filter(struct jinja_run *r, const char *name, const struct jv *v, const struct jinja_args *args, struct jv *out)
{
    PW_PASS(jinja_step(r, 1));
    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++)
        if (is(filters[i].name, name))
            return filters[i].fn(r, name, v, args, out);
    return jinja_fail(r, "unknown filter %s", name);
}
