/* YAML into the tree of value.h: the events of libyaml (whose header is included here alone), the core schema.
 *
 * One document. Refused: anchors, aliases, tags, duplicate keys, keys that are not scalars, .nan and .inf, integers outside
 * int64, depth over 200. Only plain scalars become null, bool or numbers; quoted and block scalars are strings. "yes", "no",
 * "on" and "off" are strings, as in YAML 1.2. Every value knows its line.
 * libyaml allocates by malloc: tests cannot fail its allocations, ours they can. */
#include <yaml.h>

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/value.h"

enum { DEPTH_MAX = 200, KEYS_MAX = 10000 /* of one map: looking for duplicates is quadratic */ };

struct reader {
    yaml_parser_t parser;
    yaml_event_t event; /* the current one; owned while `held` */
    bool held;
    struct pw_arena *arena;
    const char *source;
};

static int line_of(const struct reader *r) { return (int)r->event.start_mark.line + 1; }

static int next(struct reader *r)
{
    if (r->held) yaml_event_delete(&r->event);
    r->held = false;
    if (yaml_parser_parse(&r->parser, &r->event)) {
        r->held = true;
        return 0;
    }
    const yaml_parser_t *p = &r->parser;
    PW_CHECK(p->error != YAML_MEMORY_ERROR, PW_E_NOMEM, "%s: out of memory reading YAML", r->source);
    if (p->error == YAML_READER_ERROR)
        return pw_error(PW_E_FORMAT, "%s: byte %zu: %s", r->source, p->problem_offset, p->problem ? p->problem : "not UTF-8");
    return pw_error(PW_E_FORMAT, "%s: line %zu, column %zu: %s%s%s", r->source, p->problem_mark.line + 1, p->problem_mark.column + 1,
                    p->problem ? p->problem : "syntax error", p->context ? " " : "", p->context ? p->context : "");
}

static int refuse(const struct reader *r, const char *what)
{
    return pw_error(PW_E_UNSUPPORTED, "%s: line %d: %s", r->source, line_of(r), what);
}

static int no_memory(const struct reader *r) { return pw_error(PW_E_NOMEM, "%s: out of memory reading YAML", r->source); }

/* ---- scalars ---- */
static bool any_of(const char *s, size_t n, const char *const *names)
{
    for (; *names; names++)
        if (strlen(*names) == n && memcmp(s, *names, n) == 0) return true;
    return false;
}

static size_t run_of(const char *s, const char *set) { return strspn(s, set); }

/* Is the whole text [-+]?[0-9]+ ? */
static bool looks_int(const char *s)
{
    if (*s == '-' || *s == '+') s++;
    size_t n = run_of(s, "0123456789");
    return n > 0 && s[n] == 0;
}

/* [-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )? */
static bool looks_real(const char *s)
{
    if (*s == '-' || *s == '+') s++;
    size_t whole = run_of(s, "0123456789"), part = 0;
    s += whole;
    if (*s == '.') {
        part = run_of(++s, "0123456789");
        s += part;
    }
    if (whole + part == 0) return false;
    if (*s == 'e' || *s == 'E') {
        s++;
        if (*s == '-' || *s == '+') s++;
        size_t n = run_of(s, "0123456789");
        if (n == 0) return false;
        s += n;
    }
    return *s == 0;
}

/* 0x1F or 0o17: base 16 or 8; 0 when it is neither. */
static int radix(const char *s)
{
    if (s[0] != '0' || (s[1] != 'x' && s[1] != 'o') || s[2] == 0) return 0;
    const char *set = s[1] == 'x' ? "0123456789abcdefABCDEF" : "01234567";
    return s[2 + run_of(s + 2, set)] ? 0 : s[1] == 'x' ? 16 : 8;
}

static int plain(struct reader *r, struct pw_value *v)
{
    static const char *const nulls[] = { "", "~", "null", "Null", "NULL", NULL }, *const trues[] = { "true", "True", "TRUE", NULL },
        *const falses[] = { "false", "False", "FALSE", NULL },
        *const specials[] = { ".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF", NULL };
    const char *s = v->s;
    size_t n = v->len;
    bool yes = any_of(s, n, trues);
    if (any_of(s, n, nulls)) {
        *v = (struct pw_value){ .kind = PW_NULL, .line = v->line };
    } else if (yes || any_of(s, n, falses)) {
        *v = (struct pw_value){ .kind = PW_BOOL, .line = v->line, .b = yes };
    } else if (any_of(s, n, specials)) {
        return refuse(r, "NaN and infinity are not supported");
    } else if (strlen(s) != n) {
        return 0; /* a NUL inside: a string, whatever stands before it */
    } else if (radix(s)) {
        uint64_t x = 0; /* at most 16 digits matter: more than int64 is seen by the bound */
        for (const char *p = s + 2; *p; p++) {
            PW_CHECK(x <= INT64_MAX / 16, PW_E_FORMAT, "%s: line %d: integer %.40s does not fit 64 bits", r->source, v->line, s);
            char digit[2] = { *p, 0 };
            x = x * (uint64_t)radix(s) + strtoul(digit, NULL, 16);
        }
        *v = (struct pw_value){ .kind = PW_INT, .line = v->line, .i = (int64_t)x };
    } else if (looks_int(s)) {
        int64_t x;
        PW_CHECK(pw_parse_i64(s, &x) == 0, PW_E_FORMAT, "%s: line %d: integer %.40s does not fit 64 bits", r->source, v->line, s);
        *v = (struct pw_value){ .kind = PW_INT, .line = v->line, .i = x };
    } else if (looks_real(s)) {
        double x;
        PW_CHECK(pw_parse_f64(s, &x) == 0, PW_E_FORMAT, "%s: line %d: number %.40s is too large", r->source, v->line, s);
        *v = (struct pw_value){ .kind = PW_REAL, .line = v->line, .d = x };
    }
    return 0;
}

/* The bytes of the current scalar as a string value. */
static int scalar_text(struct reader *r, struct pw_value *v)
{
    const char *bytes = (const char *)r->event.data.scalar.value;
    size_t n = r->event.data.scalar.length;
    PW_CHECK(pw_utf8_valid(bytes, n), PW_E_FORMAT, "%s: line %d: not UTF-8", r->source, line_of(r));
    *v = (struct pw_value){ .kind = PW_STRING, .line = line_of(r), .len = n, .s = pw_arena_strndup(r->arena, bytes, n) };
    return v->s ? 0 : no_memory(r);
}

/* ---- nodes ---- */
static int node(struct reader *r, struct pw_value *v, int depth);

/* Items of a list or members of a map come one by one: this array doubles, and the arena keeps the halves. */
struct growing { void *items; size_t len, cap; };

static void *grow(struct reader *r, struct growing *g, size_t size)
{
    if (g->len == g->cap) {
        size_t cap = g->cap ? 2 * g->cap : 4;
        void *more = pw_arena_array(r->arena, cap, size);
        if (!more) return NULL;
        if (g->len) memcpy(more, g->items, g->len * size);
        g->items = more;
        g->cap = cap;
    }
    return (char *)g->items + size * g->len++;
}

static int list(struct reader *r, struct pw_value *v, int depth)
{
    struct growing g = { 0 };
    *v = (struct pw_value){ .kind = PW_LIST, .line = line_of(r) };
    for (;;) {
        PW_PASS(next(r));
        if (r->event.type == YAML_SEQUENCE_END_EVENT) break;
        struct pw_value *item = grow(r, &g, sizeof *item);
        if (!item) return no_memory(r);
        PW_PASS(node(r, item, depth + 1));
    }
    v->items = g.items;
    v->len = g.len;
    return 0;
}

static int map(struct reader *r, struct pw_value *v, int depth)
{
    struct growing g = { 0 };
    *v = (struct pw_value){ .kind = PW_MAP, .line = line_of(r) };
    for (;;) {
        PW_PASS(next(r));
        if (r->event.type == YAML_MAPPING_END_EVENT) break;
        if (r->event.type != YAML_SCALAR_EVENT && r->event.type != YAML_ALIAS_EVENT) return refuse(r, "a key must be a plain word");
        struct pw_value key;
        PW_PASS(node(r, &key, depth + 1));
        PW_PASS(key.kind == PW_STRING ? 0 : scalar_text(r, &key)); /* 1: and true: are the keys "1" and "true" */
        if (g.len >= KEYS_MAX) return refuse(r, "more than 10000 keys in one map");
        const struct pw_member *seen = g.items;
        for (size_t i = 0; i < g.len; i++)
            PW_CHECK(seen[i].key_len != key.len || memcmp(seen[i].key, key.s, key.len) != 0, PW_E_FORMAT,
                     "%s: line %d: key %s stands twice (first in line %d)", r->source, key.line, key.s, seen[i].value.line);
        struct pw_member *m = grow(r, &g, sizeof *m);
        if (!m) return no_memory(r);
        m->key = key.s;
        m->key_len = key.len;
        PW_PASS(next(r));
        PW_PASS(node(r, &m->value, depth + 1));
    }
    v->members = g.items;
    v->len = g.len;
    return 0;
}

/* The node that the current event starts. */
static int node(struct reader *r, struct pw_value *v, int depth)
{
    const yaml_event_t *e = &r->event;
    PW_CHECK(depth <= DEPTH_MAX, PW_E_FORMAT, "%s: line %d: nested deeper than %d", r->source, line_of(r), DEPTH_MAX);
    const yaml_char_t *anchor = NULL, *tag = NULL;
    if (e->type == YAML_ALIAS_EVENT) return refuse(r, "aliases (*name) are not supported");
    if (e->type == YAML_SCALAR_EVENT) anchor = e->data.scalar.anchor, tag = e->data.scalar.tag;
    if (e->type == YAML_SEQUENCE_START_EVENT) anchor = e->data.sequence_start.anchor, tag = e->data.sequence_start.tag;
    if (e->type == YAML_MAPPING_START_EVENT) anchor = e->data.mapping_start.anchor, tag = e->data.mapping_start.tag;
    if (anchor) return refuse(r, "anchors (&name) are not supported");
    if (tag) return refuse(r, "tags (!name) are not supported");
    switch (e->type) {
    case YAML_SEQUENCE_START_EVENT: return list(r, v, depth);
    case YAML_MAPPING_START_EVENT: return map(r, v, depth);
    case YAML_SCALAR_EVENT:
        PW_PASS(scalar_text(r, v));
        return e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE ? plain(r, v) : 0;
    default: return refuse(r, "unexpected structure");
    }
}

static int document(struct reader *r, struct pw_value *v)
{
    PW_PASS(next(r)); /* the stream's start */
    PW_PASS(next(r));
    if (r->event.type == YAML_STREAM_END_EVENT) { /* an empty text is null, as an empty document is */
        *v = (struct pw_value){ .kind = PW_NULL, .line = 1 };
        return 0;
    }
    PW_PASS(next(r));
    PW_PASS(node(r, v, 0));
    PW_PASS(next(r)); /* the document's end */
    PW_PASS(next(r));
    if (r->event.type != YAML_STREAM_END_EVENT) return refuse(r, "a second document; one file holds one");
    return 0;
}

int pw_yaml_parse(struct pw_arena *a, const char *text, size_t bytes, const char *source, struct pw_value **out)
{
    struct reader r = { .arena = a, .source = source };
    PW_CHECK(yaml_parser_initialize(&r.parser), PW_E_NOMEM, "%s: out of memory reading YAML", source);
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)(bytes ? text : ""), bytes);
    struct pw_value *v = pw_arena_alloc(a, sizeof *v);
    int rc = v ? document(&r, v) : no_memory(&r);
    if (r.held) yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    if (rc == 0) *out = v;
    return rc;
}

int pw_yaml_load(struct pw_arena *a, const char *path, struct pw_value **out)
{
    struct pw_buf text = { 0 };
    int rc = pw_file_read(path, (size_t)64 << 20, &text);
    if (rc == 0) rc = pw_yaml_parse(a, text.data, text.len, path, out);
    pw_buf_free(&text);
    return rc;
}
