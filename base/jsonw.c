/* Writing JSON. Ours, since the numbers must read back as the same bits and a NaN must be an error: it never leaves the program. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/value.h"

enum { DEPTH_MAX = 64 };

static void new_line(struct pw_json *w)
{
    if (!w->indent) return;
    pw_buf_char(&w->out, '\n');
    for (int i = 0; i < w->depth; i++) pw_buf_str(&w->out, "  ");
}

/* Length of the well-formed UTF-8 character at s[0..n), 0 when there is none. */
static size_t character(const char *s, size_t n)
{
    for (size_t len = 1; len <= 4 && len <= n; len++)
        if (pw_utf8_valid(s, len)) return len;
    return 0;
}

static void quoted(struct pw_buf *b, const char *s, size_t n)
{
    pw_buf_char(b, '"');
    for (size_t i = 0; i < n;) {
        size_t len = character(s + i, n - i);
        unsigned char c = (unsigned char)s[i];
        if (len == 0) {
            pw_buf_str(b, "\xEF\xBF\xBD");
            len = 1;
        } else if (c == '"' || c == '\\') {
            pw_buf_printf(b, "\\%c", c);
        } else if (c == '\n' || c == '\t' || c == '\r') {
            pw_buf_printf(b, "\\%c", c == '\n' ? 'n' : c == '\t' ? 't' : 'r');
        } else if (c < 0x20 || c == 0x7F) {
            pw_buf_printf(b, "\\u%04x", c);
        } else {
            pw_buf_add(b, s + i, len);
        }
        i += len;
    }
    pw_buf_char(b, '"');
}

/* Comma, line and key before a value. */
static void lead(struct pw_json *w, const char *key, size_t key_len)
{
    if (w->depth > 0 && w->depth <= DEPTH_MAX) {
        if (!w->first[w->depth - 1]) pw_buf_char(&w->out, ',');
        w->first[w->depth - 1] = false;
        new_line(w);
    }
    if (key) {
        quoted(&w->out, key, key_len);
        pw_buf_str(&w->out, w->indent ? ": " : ":");
    }
}

static void lead_key(struct pw_json *w, const char *key) { lead(w, key, key ? strlen(key) : 0); }

void pw_json_open(struct pw_json *w, const char *key, char bracket)
{
    lead_key(w, key);
    pw_buf_char(&w->out, bracket);
    if (w->depth < DEPTH_MAX) w->first[w->depth] = true;
    w->depth++;
}

void pw_json_close(struct pw_json *w, char bracket)
{
    w->depth--;
    if (w->depth >= 0 && w->depth < DEPTH_MAX && !w->first[w->depth]) new_line(w);
    pw_buf_char(&w->out, bracket);
    if (w->depth == 0 && w->indent) pw_buf_char(&w->out, '\n');
}

void pw_json_strn(struct pw_json *w, const char *key, const char *s, size_t n)
{
    lead_key(w, key);
    quoted(&w->out, s, n);
}

void pw_json_str(struct pw_json *w, const char *key, const char *s)
{
    if (s) pw_json_strn(w, key, s, strlen(s));
    else pw_json_null(w, key);
}

void pw_json_i64(struct pw_json *w, const char *key, int64_t x)
{
    lead_key(w, key);
    pw_buf_printf(&w->out, "%lld", (long long)x);
}

static void bad_number(struct pw_json *w, const char *key)
{
    if (!w->failed_nan) w->bad_key = key ? key : "(in a list)"; /* keys are constants or outlive the writer */
    w->failed_nan = true;
}

void pw_json_f64(struct pw_json *w, const char *key, double x)
{
    char text[32];
    if (!isfinite(x)) {
        bad_number(w, key);
        return;
    }
    pw_format_f64(text, x);
    lead_key(w, key);
    pw_buf_str(&w->out, text);
}

void pw_json_f32(struct pw_json *w, const char *key, float x)
{
    char text[32];
    if (!isfinite(x)) {
        bad_number(w, key);
        return;
    }
    bool whole = x == truncf(x) && fabsf(x) < 1e9f; /* 100, not 1e+02 */
    if (whole) snprintf(text, sizeof text, "%.0f", (double)x);
    for (int digits = 1; digits <= 9 && !whole; digits++) { /* 9 always suffice for a float */
        snprintf(text, sizeof text, "%.*g", digits, (double)x);
        if (strtof(text, NULL) == x) break;
    }
    lead_key(w, key);
    pw_buf_str(&w->out, text);
}

void pw_json_bool(struct pw_json *w, const char *key, bool x)
{
    lead_key(w, key);
    pw_buf_str(&w->out, x ? "true" : "false");
}

void pw_json_null(struct pw_json *w, const char *key)
{
    lead_key(w, key);
    pw_buf_str(&w->out, "null");
}

/* Our parsers bound the depth of v to 200 and the writer's to 64: beyond that the status is an error, not a crash. */
static void value(struct pw_json *w, const char *key, size_t key_len, const struct pw_value *v)
{
    char text[32];
    if (v->kind == PW_REAL && !isfinite(v->d)) {
        bad_number(w, key);
        return;
    }
    lead(w, key, key_len);
    switch (v->kind) {
    case PW_NULL: pw_buf_str(&w->out, "null"); break;
    case PW_BOOL: pw_buf_str(&w->out, v->b ? "true" : "false"); break;
    case PW_INT: pw_buf_printf(&w->out, "%lld", (long long)v->i); break;
    case PW_REAL:
        pw_format_f64(text, v->d);
        pw_buf_str(&w->out, text);
        if (!strpbrk(text, ".e")) pw_buf_str(&w->out, ".0"); /* a real stays a real */
        break;
    case PW_STRING: quoted(&w->out, v->s, v->len); break;
    case PW_LIST:
    case PW_MAP:
        pw_buf_char(&w->out, v->kind == PW_LIST ? '[' : '{');
        if (w->depth < DEPTH_MAX) w->first[w->depth] = true;
        w->depth++;
        for (size_t i = 0; i < v->len; i++) {
            if (v->kind == PW_LIST) value(w, NULL, 0, &v->items[i]);
            else value(w, v->members[i].key, v->members[i].key_len, &v->members[i].value);
        }
        pw_json_close(w, v->kind == PW_LIST ? ']' : '}');
        break;
    }
}

/* Levels of lists and maps in v. */
static int levels(const struct pw_value *v)
{
    int deepest = 0;
    if (v->kind != PW_LIST && v->kind != PW_MAP) return 0;
    for (size_t i = 0; i < v->len; i++) {
        int n = levels(v->kind == PW_LIST ? &v->items[i] : &v->members[i].value);
        if (n > deepest) deepest = n;
    }
    return deepest + 1;
}

void pw_json_value(struct pw_json *w, const char *key, const struct pw_value *v)
{
    if (levels(v) > DEPTH_MAX - w->depth) {
        w->depth = DEPTH_MAX + 1; /* stays unbalanced: pw_json_status refuses */
        return;
    }
    value(w, key, key ? strlen(key) : 0, v);
}

int pw_json_status(const struct pw_json *w)
{
    PW_PASS(pw_buf_status(&w->out));
    PW_CHECK(!w->failed_nan, PW_E_NUMERIC, "JSON field %s is not a number", w->bad_key);
    PW_CHECK(w->depth == 0, PW_E_FAIL, "JSON nested deeper than %d, or not closed (%d open)", DEPTH_MAX, w->depth);
    return 0;
}

void pw_json_free(struct pw_json *w)
{
    pw_buf_free(&w->out);
    *w = (struct pw_json){ 0 };
}
