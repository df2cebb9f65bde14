/* Values of the Jinja interpreter: memory of one rendering, Python's ideas of truth, equality, order and text. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/jinja_parts.h"

enum { CHUNK = 64 << 10 };
struct jinja_chunk { struct jinja_chunk *next; size_t bytes; };

int jinja_fail(struct jinja_run *r, const char *fmt, ...)
{
    char what[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return pw_error(PW_E_FORMAT, "template %s, line %d: %s", r->t->name, r->line, what);
}

int jinja_undefined(struct jinja_run *r, const struct jv *v) { return jinja_fail(r, "'%s' is undefined", v->s ? v->s : "a value"); }

int jinja_step(struct jinja_run *r, size_t n)
{
    if (n > (size_t)r->steps_limit || r->steps > r->steps_limit - (int64_t)n)
        return jinja_fail(r, "more than %" PRId64 " steps", r->steps_limit);
    r->steps += (int64_t)n;
    return 0;
}

void *jinja_alloc(struct jinja_run *r, size_t bytes)
{
    const size_t head = 64;
    bytes = (bytes + 15) & ~(size_t)15;
    if (r->chunks && r->chunks->bytes - r->chunk_used >= bytes) {
        void *p = (char *)r->chunks + r->chunk_used;
        r->chunk_used += bytes;
        memset(p, 0, bytes);
        return p;
    }
    size_t want = bytes > CHUNK - head ? bytes + head : CHUNK;
    if (bytes > r->memory_limit || r->memory > r->memory_limit - bytes || want > r->memory_limit) {
        jinja_fail(r, "more than %zu bytes of memory", r->memory_limit);
        return NULL;
    }
    struct jinja_chunk *c = pw_alloc(want);
    if (!c) {
        pw_error(PW_E_NOMEM, "template %s: no memory", r->t->name);
        return NULL;
    }
    c->bytes = want;
    r->memory += want;
    if (want > CHUNK && r->chunks) { /* a large piece of its own: goes behind, the open chunk stays open */
        c->next = r->chunks->next;
        r->chunks->next = c;
    } else {
        c->next = r->chunks;
        r->chunks = c;
        r->chunk_used = head + bytes;
    }
    memset((char *)c + head, 0, bytes);
    return (char *)c + head;
}

void jinja_free_all(struct jinja_run *r)
{
    while (r->chunks) {
        struct jinja_chunk *next = r->chunks->next;
        pw_free(r->chunks);
        r->chunks = next;
    }
}

/* ---- making ---- */

struct jv jv_none(void) { return (struct jv){.kind = JV_NONE}; }
struct jv jv_undefined(const char *name) { return (struct jv){.kind = JV_UNDEFINED, .s = name}; }
struct jv jv_bool(bool b) { return (struct jv){.kind = JV_BOOL, .b = b}; }
struct jv jv_int(int64_t i) { return (struct jv){.kind = JV_INT, .i = i}; }
struct jv jv_real(double d) { return (struct jv){.kind = JV_REAL, .d = d}; }
struct jv jv_static(const char *s) { return (struct jv){.kind = JV_STRING, .s = s, .len = strlen(s)}; }
bool jinja_absent(const struct jv *v) { return v->kind == JV_UNDEFINED && !v->s; }
bool jv_is(const struct jv *v, const char *s) { return v->kind == JV_STRING && v->len == strlen(s) && memcmp(v->s, s, v->len) == 0; }

/* The code of an allocation that failed: out of memory, or above the limit. */
static int no_room(void) { return strstr(pw_error_text(), "no memory") ? PW_E_NOMEM : PW_E_FORMAT; }

int jv_string(struct jinja_run *r, const char *s, size_t n, struct jv *out)
{
    char *copy = jinja_alloc(r, n + 1);
    if (!copy)
        return no_room();
    if (n)
        memcpy(copy, s, n);
    *out = (struct jv){.kind = JV_STRING, .s = copy, .len = n};
    return jinja_step(r, n / 64);
}

int jv_take(struct jinja_run *r, struct pw_buf *b, struct jv *out)
{
    int rc = pw_buf_status(b);
    if (rc == 0)
        rc = jv_string(r, b->data ? b->data : "", b->len, out);
    pw_buf_free(b);
    return rc;
}

int jv_list(struct jinja_run *r, size_t cap, struct jv *out)
{
    struct jinja_list *l = jinja_alloc(r, sizeof *l);
    if (!l)
        return no_room();
    if (cap > 0) {
        size_t bytes;
        if (!pw_mul_size(cap, sizeof *l->items, &bytes) || bytes > r->memory_limit)
            return jinja_fail(r, "a list of %zu items", cap);
        l->items = jinja_alloc(r, bytes);
        if (!l->items)
            return no_room();
        l->cap = cap;
    }
    *out = (struct jv){.kind = JV_LIST, .list = l};
    return 0;
}

int jv_push(struct jinja_run *r, struct jv *list, struct jv item)
{
    struct jinja_list *l = list->list;
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 8;
        struct jv *grown = jinja_alloc(r, cap * sizeof *grown);
        if (!grown)
            return no_room();
        if (l->n)
            memcpy(grown, l->items, l->n * sizeof *grown);
        l->items = grown;
        l->cap = cap;
    }
    l->items[l->n++] = item;
    return jinja_step(r, 1);
}

int jv_map(struct jinja_run *r, struct jv *out)
{
    struct jinja_map *m = jinja_alloc(r, sizeof *m);
    if (!m)
        return no_room();
    *out = (struct jv){.kind = JV_MAP, .map = m};
    return 0;
}

const struct jv *jv_find(const struct jv *map, const struct jv *key)
{
    for (size_t i = 0; i < map->map->n; i++)
        if (jv_equal(&map->map->pairs[i].key, key, 0))
            return &map->map->pairs[i].value;
    return NULL;
}

const struct jv *jv_find_str(const struct jv *map, const char *key)
{
    struct jv k = jv_static(key);
    return jv_find(map, &k);
}

int jv_put(struct jinja_run *r, struct jv *map, struct jv key, struct jv value)
{
    struct jinja_map *m = map->map;
    if (key.kind == JV_LIST && !key.list->tuple)
        return jinja_fail(r, "a list cannot be a key");
    if (key.kind == JV_MAP)
        return jinja_fail(r, "a mapping cannot be a key");
    PW_PASS(jinja_step(r, 1 + m->n / 8));
    struct jv *old = (struct jv *)jv_find(map, &key);
    if (old) {
        *old = value;
        return 0;
    }
    if (m->n == m->cap) {
        size_t cap = m->cap ? m->cap * 2 : 8;
        struct jinja_pair *grown = jinja_alloc(r, cap * sizeof *grown);
        if (!grown)
            return no_room();
        if (m->n)
            memcpy(grown, m->pairs, m->n * sizeof *grown);
        m->pairs = grown;
        m->cap = cap;
    }
    m->pairs[m->n++] = (struct jinja_pair){key, value};
    return 0;
}

int jv_from_value(struct jinja_run *r, const struct pw_value *v, struct jv *out)
{
    PW_PASS(jinja_step(r, 1));
    switch (v->kind) {
    case PW_NULL: *out = jv_none(); return 0;
    case PW_BOOL: *out = jv_bool(v->b); return 0;
    case PW_INT: *out = jv_int(v->i); return 0;
    case PW_REAL: *out = jv_real(v->d); return 0;
    case PW_STRING: *out = (struct jv){.kind = JV_STRING, .s = v->s, .len = v->len}; return 0; /* outlives the rendering */
    case PW_LIST:
        PW_PASS(jv_list(r, v->len, out));
        for (size_t i = 0; i < v->len; i++) {
            struct jv item;
            PW_PASS(jv_from_value(r, &v->items[i], &item));
            out->list->items[out->list->n++] = item;
        }
        return 0;
    case PW_MAP:
        PW_PASS(jv_map(r, out));
        if (v->len > 0 && !(out->map->pairs = jinja_alloc(r, v->len * sizeof *out->map->pairs)))
            return no_room();
        out->map->cap = v->len;
        for (size_t i = 0; i < v->len; i++) { /* keys of a parsed document are distinct */
            struct jinja_pair *p = &out->map->pairs[out->map->n++];
            p->key = (struct jv){.kind = JV_STRING, .s = v->members[i].key, .len = v->members[i].key_len};
            PW_PASS(jv_from_value(r, &v->members[i].value, &p->value));
        }
        return 0;
    }
    return jinja_fail(r, "unknown kind of value");
}

/* ---- asking ---- */

const char *jv_kind_name(const struct jv *v)
{
    static const char *const names[] = {"undefined", "none", "boolean", "integer", "float", "string", "list", "mapping", "loop", "macro",
                                        "function", "method"};
    return v->kind == JV_MAP && v->map->is_namespace ? "namespace" : v->kind == JV_LIST && v->list->tuple ? "tuple" : names[v->kind];
}

int jv_truth(struct jinja_run *r, const struct jv *v, bool *out)
{
    (void)r;
    switch (v->kind) {
    case JV_UNDEFINED:
    case JV_NONE: *out = false; return 0;
    case JV_BOOL: *out = v->b; return 0;
    case JV_INT: *out = v->i != 0; return 0;
    case JV_REAL: *out = v->d != 0; return 0;
    case JV_STRING: *out = v->len > 0; return 0;
    case JV_LIST: *out = v->list->n > 0; return 0;
    case JV_MAP: *out = v->map->n > 0 || v->map->is_namespace; return 0;
    default: *out = true; return 0;
    }
}

int jv_number(const struct jv *v, double *d, bool *is_int, int64_t *i)
{
    *is_int = v->kind == JV_INT || v->kind == JV_BOOL;
    if (!*is_int && v->kind != JV_REAL)
        return -1;
    *i = v->kind == JV_INT ? v->i : v->kind == JV_BOOL ? v->b : 0;
    *d = *is_int ? (double)*i : v->d;
    return 0;
}

bool jv_equal(const struct jv *a, const struct jv *b, int depth)
{
    double x, y;
    bool p, q;
    int64_t i, j;
    if (depth > JINJA_DEPTH)
        return false;
    if (jv_number(a, &x, &p, &i) == 0 && jv_number(b, &y, &q, &j) == 0)
        return p && q ? i == j : x == y;
    if (a->kind != b->kind)
        return false;
    switch (a->kind) {
    case JV_UNDEFINED:
    case JV_NONE: return true;
    case JV_STRING: return a->len == b->len && memcmp(a->s, b->s, a->len) == 0;
    case JV_LIST:
        if (a->list->n != b->list->n || a->list->tuple != b->list->tuple)
            return false;
        for (size_t k = 0; k < a->list->n; k++)
            if (!jv_equal(&a->list->items[k], &b->list->items[k], depth + 1))
                return false;
        return true;
    case JV_MAP:
        if (a->map == b->map)
            return true;
        if (a->map->n != b->map->n || a->map->is_namespace || b->map->is_namespace)
            return false;
        for (size_t k = 0; k < a->map->n; k++) {
            const struct jv *other = jv_find(b, &a->map->pairs[k].key);
            if (!other || !jv_equal(&a->map->pairs[k].value, other, depth + 1))
                return false;
        }
        return true;
    default: return a->loop == b->loop; /* the same pointer, or index of a function */
    }
}

int jv_compare(struct jinja_run *r, const struct jv *a, const struct jv *b, int *out)
{
    double x, y;
    bool p, q;
    int64_t i, j;
    if (jv_number(a, &x, &p, &i) == 0 && jv_number(b, &y, &q, &j) == 0) {
        *out = p && q ? (i > j) - (i < j) : (x > y) - (x < y);
        return 0;
    }
    if (a->kind == JV_STRING && b->kind == JV_STRING) {
        size_t n = a->len < b->len ? a->len : b->len;
        int c = n ? memcmp(a->s, b->s, n) : 0; /* the order of UTF-8 bytes is that of code points */
        *out = c ? c : (a->len > b->len) - (a->len < b->len);
        return 0;
    }
    if (a->kind == JV_LIST && b->kind == JV_LIST && a->list->tuple == b->list->tuple) {
        if (++r->depth > JINJA_DEPTH)
            return jinja_fail(r, "nested too deeply");
        size_t n = a->list->n < b->list->n ? a->list->n : b->list->n;
        *out = 0;
        for (size_t k = 0; k < n && *out == 0; k++)
            PW_PASS(jv_compare(r, &a->list->items[k], &b->list->items[k], out));
        if (*out == 0)
            *out = (a->list->n > b->list->n) - (a->list->n < b->list->n);
        r->depth--;
        return 0;
    }
    return jinja_fail(r, "%s and %s cannot be put in order", jv_kind_name(a), jv_kind_name(b));
}

int jv_contains(struct jinja_run *r, const struct jv *in, const struct jv *what, bool *out)
{
    *out = false;
    switch (in->kind) {
    case JV_UNDEFINED: return 0;
    case JV_STRING:
        if (what->kind != JV_STRING)
            return jinja_fail(r, "'in <string>' needs a string on the left, got %s", jv_kind_name(what));
        PW_PASS(jinja_step(r, in->len / 64));
        *out = what->len == 0 || memmem(in->s, in->len, what->s, what->len) != NULL;
        return 0;
    case JV_LIST:
        PW_PASS(jinja_step(r, in->list->n));
        for (size_t i = 0; i < in->list->n && !*out; i++)
            *out = jv_equal(&in->list->items[i], what, 0);
        return 0;
    case JV_MAP:
        PW_PASS(jinja_step(r, in->map->n));
        if (!jinja_hashable(what))
            return jinja_fail(r, "a %s is no key of a mapping", jv_kind_name(what));
        *out = jv_find(in, what) != NULL;
        return 0;
    default: return jinja_fail(r, "%s cannot be searched with 'in'", jv_kind_name(in));
    }
}

int jv_length(struct jinja_run *r, const struct jv *v, size_t *n)
{
    switch (v->kind) {
    case JV_UNDEFINED: *n = 0; return 0;
    case JV_STRING: *n = jinja_chars(v->s, v->len); return jinja_step(r, v->len / 64);
    case JV_LIST: *n = v->list->n; return 0;
    case JV_MAP: *n = v->map->n; return 0;
    default: return jinja_fail(r, "%s has no length", jv_kind_name(v));
    }
}

int jv_iterate(struct jinja_run *r, const struct jv *v, struct jv *list)
{
    switch (v->kind) {
    case JV_LIST: *list = *v; return 0;
    case JV_UNDEFINED: return jv_list(r, 0, list);
    case JV_STRING:
        PW_PASS(jv_list(r, 0, list));
        for (size_t at = 0; at < v->len;) {
            size_t n = jinja_char_bytes((unsigned char)v->s[at]);
            struct jv c;
            PW_PASS(jv_string(r, v->s + at, n, &c));
            PW_PASS(jv_push(r, list, c));
            at += n;
        }
        return 0;
    case JV_MAP:
        if (v->map->is_namespace)
            break;
        PW_PASS(jv_list(r, v->map->n, list));
        for (size_t i = 0; i < v->map->n; i++)
            PW_PASS(jv_push(r, list, v->map->pairs[i].key));
        return 0;
    default: break;
    }
    return jinja_fail(r, "%s cannot be iterated over", jv_kind_name(v));
}

/* ---- text ---- */

/* Python's repr of a float: the shortest digits that read back, exponents below -4 and from 16 on. */
static void real_text(double d, struct pw_buf *out)
{
    char text[40], digits[24];
    if (isnan(d) || isinf(d)) {
        pw_buf_str(out, isnan(d) ? "nan" : d < 0 ? "-inf" : "inf");
        return;
    }
    int precision = 0;
    do
        snprintf(text, sizeof text, "%.*e", precision, d);
    while (strtod(text, NULL) != d && ++precision < 18);
    char *e = strchr(text, 'e');
    int exponent = atoi(e + 1), n = 0;
    for (const char *p = text; p < e; p++)
        if (*p >= '0' && *p <= '9')
            digits[n++] = *p;
    if (text[0] == '-')
        pw_buf_char(out, '-');
    if (exponent < -4 || exponent >= 16) {
        pw_buf_char(out, digits[0]);
        if (n > 1)
            pw_buf_printf(out, ".%.*s", n - 1, digits + 1);
        pw_buf_printf(out, "e%c%02d", exponent < 0 ? '-' : '+', exponent < 0 ? -exponent : exponent);
        return;
    }
    if (exponent < 0)
        pw_buf_printf(out, "0.%.*s%.*s", -exponent - 1, "0000", n, digits);
    else
        for (int i = 0; i < n || i <= exponent + 1; i++) {
            if (i == exponent + 1)
                pw_buf_char(out, '.');
            pw_buf_char(out, i < n ? digits[i] : '0');
        }
}

static void string_repr(const struct jv *v, struct pw_buf *out)
{
    bool single = memchr(v->s, '\'', v->len) != NULL, both = memchr(v->s, '"', v->len) != NULL;
    char quote = single && !both ? '"' : '\'';
    pw_buf_char(out, quote);
    for (size_t at = 0; at < v->len;) {
        uint32_t cp;
        size_t n = jinja_get(v->s + at, v->len - at, &cp);
        if (cp == (uint32_t)quote || cp == '\\')
            pw_buf_printf(out, "\\%c", (int)cp);
        else if (cp == '\n' || cp == '\r' || cp == '\t')
            pw_buf_str(out, cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : "\\t");
        else if (cp < 32 || (cp >= 127 && cp <= 160) || cp == 173)
            pw_buf_printf(out, "\\x%02x", cp);
        else if ((cp >= 0x2028 && cp <= 0x202e) || (cp >= 0x2000 && cp <= 0x200f) || cp == 0x3000 || cp == 0xfeff)
            pw_buf_printf(out, "\\u%04x", cp);
        else
            pw_buf_add(out, v->s + at, n);
        at += n;
    }
    pw_buf_char(out, quote);
}

int jv_repr(struct jinja_run *r, const struct jv *v, struct pw_buf *out, int depth)
{
    if (depth > JINJA_DEPTH)
        return jinja_fail(r, "nested too deeply");
    if (out->len > r->memory_limit)
        return jinja_fail(r, "more than %zu bytes of memory", r->memory_limit);
    PW_PASS(jinja_step(r, 1));
    if (v->kind == JV_STRING) {
        string_repr(v, out);
    } else if (v->kind == JV_LIST) {
        pw_buf_char(out, v->list->tuple ? '(' : '[');
        for (size_t i = 0; i < v->list->n; i++) {
            if (i)
                pw_buf_str(out, ", ");
            PW_PASS(jv_repr(r, &v->list->items[i], out, depth + 1));
        }
        if (v->list->tuple && v->list->n == 1)
            pw_buf_char(out, ',');
        pw_buf_char(out, v->list->tuple ? ')' : ']');
    } else if (v->kind == JV_MAP) {
        pw_buf_str(out, v->map->is_namespace ? "<Namespace {" : "{");
        for (size_t i = 0; i < v->map->n; i++) {
            if (i)
                pw_buf_str(out, ", ");
            PW_PASS(jv_repr(r, &v->map->pairs[i].key, out, depth + 1));
            pw_buf_str(out, ": ");
            PW_PASS(jv_repr(r, &v->map->pairs[i].value, out, depth + 1));
        }
        pw_buf_str(out, v->map->is_namespace ? "}>" : "}");
    } else if (v->kind == JV_UNDEFINED) {
        pw_buf_str(out, "Undefined");
    } else {
        return jv_text(r, v, out);
    }
    return pw_buf_status(out);
}

int jv_text(struct jinja_run *r, const struct jv *v, struct pw_buf *out)
{
    switch (v->kind) {
    case JV_UNDEFINED: return 0;
    case JV_NONE: pw_buf_str(out, "None"); return 0;
    case JV_BOOL: pw_buf_str(out, v->b ? "True" : "False"); return 0;
    case JV_INT: pw_buf_printf(out, "%" PRId64, v->i); return 0;
    case JV_REAL: real_text(v->d, out); return 0;
    case JV_STRING:
        pw_buf_add(out, v->s, v->len);
        return jinja_step(r, v->len / 64);
    case JV_LIST:
    case JV_MAP: return jv_repr(r, v, out, 0);
    case JV_LOOP: pw_buf_printf(out, "<LoopContext %" PRId64 "/%" PRId64 ">", v->loop->index0 + 1, v->loop->length); return 0;
    default: return jinja_fail(r, "a %s cannot be printed", jv_kind_name(v));
    }
}

int jv_to_string(struct jinja_run *r, const struct jv *v, struct jv *out)
{
    if (v->kind == JV_STRING) {
        *out = *v;
        return 0;
    }
    struct pw_buf b = {0};
    int rc = jv_text(r, v, &b);
    if (rc < 0) {
        pw_buf_free(&b);
        return rc;
    }
    return jv_take(r, &b, out);
}

/* ---- JSON, as json.dumps(ensure_ascii=False) writes it ---- */

static void json_string(const struct jv *v, struct pw_buf *out)
{
    pw_buf_char(out, '"');
    for (size_t i = 0; i < v->len; i++) {
        unsigned char c = (unsigned char)v->s[i];
        static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
        const char *k = c ? strchr(from, c) : NULL;
        if (k)
            pw_buf_printf(out, "\\%c", to[k - from]);
        else if (c < 32)
            pw_buf_printf(out, "\\u%04x", c);
        else
            pw_buf_char(out, (char)c);
    }
    pw_buf_char(out, '"');
}

static void json_newline(struct pw_buf *out, int indent, int depth)
{
    if (indent < 0)
        return;
    pw_buf_char(out, '\n');
    for (int i = 0; i < indent * depth; i++)
        pw_buf_char(out, ' ');
}

static int json_key(struct jinja_run *r, const struct jv *k, struct pw_buf *out)
{
    if (k->kind == JV_STRING) {
        json_string(k, out);
        return 0;
    }
    pw_buf_char(out, '"');
    if (k->kind == JV_NONE || k->kind == JV_BOOL)
        pw_buf_str(out, k->kind == JV_NONE ? "null" : k->b ? "true" : "false");
    else if (k->kind == JV_INT || k->kind == JV_REAL)
        PW_PASS(jv_text(r, k, out));
    else
        return jinja_fail(r, "tojson: a %s cannot be a key", jv_kind_name(k));
    pw_buf_char(out, '"');
    return 0;
}

static int key_order(const void *a, const void *b)
{
    const struct jv *x = &((const struct jinja_pair *)a)->key, *y = &((const struct jinja_pair *)b)->key;
    size_t n = x->len < y->len ? x->len : y->len;
    int c = n ? memcmp(x->s, y->s, n) : 0;
    return c ? c : (x->len > y->len) - (x->len < y->len);
}

static int json_at(struct jinja_run *r, const struct jv *v, int indent, bool sort, int depth, struct pw_buf *out)
{
    if (depth > JINJA_DEPTH)
        return jinja_fail(r, "nested too deeply");
    if (out->len > r->memory_limit)
        return jinja_fail(r, "more than %zu bytes of memory", r->memory_limit);
    PW_PASS(jinja_step(r, 1));
    switch (v->kind) {
    case JV_NONE: pw_buf_str(out, "null"); return 0;
    case JV_BOOL: pw_buf_str(out, v->b ? "true" : "false"); return 0;
    case JV_INT: return jv_text(r, v, out);
    case JV_REAL:
        if (isnan(v->d) || isinf(v->d))
            pw_buf_str(out, isnan(v->d) ? "NaN" : v->d < 0 ? "-Infinity" : "Infinity");
        else
            real_text(v->d, out);
        return 0;
    case JV_STRING: json_string(v, out); return jinja_step(r, v->len / 64);
    case JV_LIST:
        pw_buf_char(out, '[');
        for (size_t i = 0; i < v->list->n; i++) {
            if (i)
                pw_buf_str(out, indent < 0 ? ", " : ",");
            json_newline(out, indent, depth + 1);
            PW_PASS(json_at(r, &v->list->items[i], indent, sort, depth + 1, out));
        }
        if (v->list->n)
            json_newline(out, indent, depth);
        pw_buf_char(out, ']');
        return 0;
    case JV_MAP: {
        if (v->map->is_namespace)
            break;
        struct jinja_pair *pairs = v->map->pairs;
        if (sort && v->map->n > 1) {
            for (size_t i = 0; i < v->map->n; i++)
                if (pairs[i].key.kind != JV_STRING)
                    return jinja_fail(r, "tojson: only text keys can be sorted");
            pairs = jinja_alloc(r, v->map->n * sizeof *pairs);
            if (!pairs)
                return no_room();
            memcpy(pairs, v->map->pairs, v->map->n * sizeof *pairs);
            qsort(pairs, v->map->n, sizeof *pairs, key_order);
        }
        pw_buf_char(out, '{');
        for (size_t i = 0; i < v->map->n; i++) {
            if (i)
                pw_buf_str(out, indent < 0 ? ", " : ",");
            json_newline(out, indent, depth + 1);
            PW_PASS(json_key(r, &pairs[i].key, out));
            pw_buf_str(out, ": ");
            PW_PASS(json_at(r, &pairs[i].value, indent, sort, depth + 1, out));
        }
        if (v->map->n)
            json_newline(out, indent, depth);
        pw_buf_char(out, '}');
        return 0;
    }
    default: break;
    }
    return jinja_fail(r, "tojson: a %s is not JSON", jv_kind_name(v));
}

int jv_json(struct jinja_run *r, const struct jv *v, int indent, bool sort, struct pw_buf *out)
{
    PW_PASS(json_at(r, v, indent, sort, 0, out));
    return pw_buf_status(out);
}
