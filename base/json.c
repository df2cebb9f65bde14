/* JSON into the tree of value.h, parsed by Jansson, whose header is included here alone.
 *
 * Jansson checks syntax, UTF-8, duplicate keys and the range of integers, and names line and column of what it refuses; it keeps
 * no line of what it accepts, so values have line 0. Its own depth limit (2048) is far above ours, so we count brackets first:
 * neither its recursion nor ours can be driven deep. */
#include <jansson.h>

#include <pthread.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/value.h"

enum { DEPTH_MAX = 200 };

/* ---- the library's memory ----
 * Its many small pieces come from chunks that are dropped whole after the conversion: several times faster than a heap piece
 * each, and a failed allocation is remembered, since the library reports it as some syntax error. */
enum { PIECE_ALIGN = 16, FIRST_CHUNK = 16 << 10, LARGEST_CHUNK = 4 << 20 };
struct chunk { struct chunk *before; size_t bytes, used; _Alignas(PIECE_ALIGN) unsigned char data[]; };
struct heap { struct chunk *last; size_t next_bytes; bool failed; };

static _Thread_local struct heap *heap; /* of the parse under way on this thread */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void *piece(size_t bytes)
{
    struct heap *h = heap;
    if (!h || bytes > PTRDIFF_MAX - 4096) return NULL;
    size_t need = (bytes + PIECE_ALIGN) / PIECE_ALIGN * PIECE_ALIGN;
    if (!h->last || need > h->last->bytes - h->last->used) {
        size_t size = need > h->next_bytes ? need : h->next_bytes;
        struct chunk *c = pw_alloc(sizeof *c + size);
        if (!c) {
            h->failed = true;
            return NULL;
        }
        *c = (struct chunk){ .before = h->last, .bytes = size };
        h->last = c;
        if (h->next_bytes < LARGEST_CHUNK) h->next_bytes *= 2;
    }
    void *p = h->last->data + h->last->used;
    h->last->used += need;
    return p;
}

static void piece_free(void *p) { (void)p; }
static void use_our_memory(void) { json_set_alloc_funcs(piece, piece_free); }

static void heap_drop(struct heap *h)
{
    for (struct chunk *c = h->last, *before; c; c = before) {
        before = c->before;
        pw_free(c);
    }
}

/* Line and column (from 1, in bytes) of text[at]. */
static void place(const char *text, size_t at, int *line, int *column)
{
    *line = 1;
    *column = 1;
    for (size_t i = 0; i < at; i++) {
        if (text[i] == '\n') {
            ++*line;
            *column = 1;
        } else {
            ++*column;
        }
    }
}

static int check_depth(const char *text, size_t bytes, const char *source)
{
    int depth = 0, line, column;
    bool quoted = false;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (quoted) {
            if (c == '\\') i++;
            else if (c == '"') quoted = false;
        } else if (c == '"') {
            quoted = true;
        } else if (c == '[' || c == '{') {
            if (++depth <= DEPTH_MAX) continue;
            place(text, i, &line, &column);
            return pw_error(PW_E_FORMAT, "%s: line %d, column %d: nested deeper than %d", source, line, column, DEPTH_MAX);
        } else if (c == ']' || c == '}') {
            depth--;
        }
    }
    return 0;
}

static int no_memory(const char *source) { return pw_error(PW_E_NOMEM, "%s: out of memory reading JSON", source); }

static int convert(struct pw_arena *a, const char *source, json_t *j, struct pw_value *v);

static int convert_list(struct pw_arena *a, const char *source, json_t *j, struct pw_value *v)
{
    v->kind = PW_LIST;
    v->len = json_array_size(j);
    if (!(v->items = pw_arena_array(a, v->len, sizeof *v->items))) return no_memory(source);
    for (size_t i = 0; i < v->len; i++) PW_PASS(convert(a, source, json_array_get(j, i), &v->items[i]));
    return 0;
}

static int convert_map(struct pw_arena *a, const char *source, json_t *j, struct pw_value *v)
{
    v->kind = PW_MAP;
    v->len = json_object_size(j);
    if (!(v->members = pw_arena_array(a, v->len, sizeof *v->members))) return no_memory(source);
    struct pw_member *m = v->members;
    for (void *it = json_object_iter(j); it; it = json_object_iter_next(j, it), m++) { /* in source order */
        m->key_len = json_object_iter_key_len(it);
        if (!(m->key = pw_arena_strndup(a, json_object_iter_key(it), m->key_len))) return no_memory(source);
        PW_PASS(convert(a, source, json_object_iter_value(it), &m->value));
    }
    return 0;
}

static int convert(struct pw_arena *a, const char *source, json_t *j, struct pw_value *v)
{
    switch (json_typeof(j)) {
    case JSON_NULL: v->kind = PW_NULL; return 0;
    case JSON_TRUE:
    case JSON_FALSE: v->kind = PW_BOOL; v->b = json_is_true(j); return 0;
    case JSON_INTEGER: v->kind = PW_INT; v->i = json_integer_value(j); return 0;
    case JSON_REAL: v->kind = PW_REAL; v->d = json_real_value(j); return 0;
    case JSON_STRING:
        v->kind = PW_STRING;
        v->len = json_string_length(j);
        if (!(v->s = pw_arena_strndup(a, json_string_value(j), v->len))) return no_memory(source);
        return 0;
    case JSON_ARRAY: return convert_list(a, source, j, v);
    case JSON_OBJECT: return convert_map(a, source, j, v);
    }
    return pw_error(PW_E_FORMAT, "%s: unknown kind of JSON value", source);
}

int pw_json_parse(struct pw_arena *a, const char *text, size_t bytes, const char *source, struct pw_value **out)
{
    pthread_once(&once, use_our_memory);
    PW_PASS(check_depth(text, bytes, source));
    struct heap h = { .next_bytes = FIRST_CHUNK };
    json_error_t e;
    int rc = 0;
    heap = &h;
    json_t *j = json_loadb(bytes ? text : " ", bytes ? bytes : 1, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
    struct pw_value *v = NULL;
    if (h.failed || (j && !(v = pw_arena_alloc(a, sizeof *v)))) rc = no_memory(source);
    else if (!j) rc = pw_error(PW_E_FORMAT, "%s: line %d, column %d: %s", source, e.line, e.column, e.text);
    else rc = convert(a, source, j, v);
    heap = NULL;
    heap_drop(&h); /* j goes with it */
    if (rc == 0) *out = v;
    return rc;
}

int pw_json_load(struct pw_arena *a, const char *path, struct pw_value **out)
{
    struct pw_buf text = { 0 };
    int rc = pw_file_read(path, 0, &text);
    if (rc == 0) rc = pw_json_parse(a, text.data, text.len, path, out);
    pw_buf_free(&text);
    return rc;
}
