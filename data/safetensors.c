/* safetensors files, read strictly and written deterministically. Owns the rules of the container: header length, offsets, dtypes,
 * shape times dtype = bytes. Refuses to know what the tensors are for. */
#include "data/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#define HEADER_LIMIT ((size_t)100 * 1000 * 1000)

static const struct { const char *name; size_t bytes; } dtypes[] = {
    {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"U8", 1}, {"I8", 1}, {"F64", 8}, {"I64", 8}, {"I32", 4}, {"I16", 2},
    {"U64", 8}, {"U32", 4}, {"U16", 2}, {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1},
};

size_t pw_st_dtype_bytes(const char *dtype)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtypes[i].name, dtype) == 0)
            return dtypes[i].bytes;
    return 0;
}

/* ---- reading ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct pw_st_tensor *)a)->name, ((const struct pw_st_tensor *)b)->name);
}

struct span { size_t start, end; const char *name; };

static int by_start(const void *a, const void *b)
{
    const struct span *x = a, *y = b;
    if (x->start != y->start)
        return x->start < y->start ? -1 : 1;
    if (x->end != y->end)
        return x->end < y->end ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int integer(const struct pw_value *v, int64_t *out)
{
    if (v->kind != PW_INT || v->i < 0)
        return -1;
    *out = v->i;
    return 0;
}

/* One entry of the header: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}. */
static int read_entry(struct pw_st_tensor *t, struct span *span, const struct pw_member *m, const char *path, const uint8_t *data,
                      size_t data_bytes)
{
    const char *name = m->key;
    PW_CHECK(strlen(name) == m->key_len && m->key_len > 0, PW_E_FORMAT, "%s: a tensor name is empty or holds a NUL (%.60s)", path, name);
    PW_CHECK(m->value.kind == PW_MAP, PW_E_FORMAT, "%s: %s: expected a map, got %s", path, name, pw_kind_name(m->value.kind));
    for (size_t i = 0; i < m->value.len; i++) {
        const char *key = m->value.members[i].key;
        PW_CHECK(!strcmp(key, "dtype") || !strcmp(key, "shape") || !strcmp(key, "data_offsets"), PW_E_FORMAT,
                 "%s: %s: unknown key \"%s\" in the header (expected dtype, shape, data_offsets)", path, name, key);
    }
    const struct pw_value *dtype = pw_get(&m->value, "dtype"), *shape = pw_get(&m->value, "shape"), *offsets = pw_get(&m->value, "data_offsets");
    PW_CHECK(dtype && dtype->kind == PW_STRING, PW_E_FORMAT, "%s: %s: dtype is missing or no string", path, name);
    PW_CHECK(shape && shape->kind == PW_LIST, PW_E_FORMAT, "%s: %s: shape is missing or no list", path, name);
    PW_CHECK(offsets && offsets->kind == PW_LIST && offsets->len == 2, PW_E_FORMAT, "%s: %s: data_offsets is missing or not a pair", path, name);
    PW_CHECK(shape->len <= 8, PW_E_UNSUPPORTED, "%s: %s: too many dimensions (expected at most 8, got %zu)", path, name, shape->len);
    size_t want = pw_st_dtype_bytes(dtype->s);
    PW_CHECK(want > 0, PW_E_UNSUPPORTED, "%s: %s: unknown dtype \"%.40s\"", path, name, dtype->s);

    *t = (struct pw_st_tensor){.name = name, .dtype = dtype->s, .ndim = (int)shape->len};
    for (size_t i = 0; i < shape->len; i++) {
        PW_CHECK(integer(&shape->items[i], &t->shape[i]) == 0, PW_E_FORMAT, "%s: %s: shape[%zu] is not a count", path, name, i);
        PW_CHECK(pw_mul_size(want, (size_t)t->shape[i], &want), PW_E_FORMAT, "%s: %s: the shape overflows", path, name);
    }
    int64_t start, end;
    PW_CHECK(integer(&offsets->items[0], &start) == 0 && integer(&offsets->items[1], &end) == 0, PW_E_FORMAT,
             "%s: %s: data_offsets are not counts", path, name);
    PW_CHECK(start <= end && (uint64_t)end <= data_bytes, PW_E_FORMAT,
             "%s: %s: data_offsets [%" PRId64 ", %" PRId64 "] lie outside the data (expected at most %zu bytes; is the file truncated?)",
             path, name, start, end, data_bytes);
    PW_CHECK((size_t)(end - start) == want, PW_E_FORMAT, "%s: %s: shape times dtype is not the size of the data (expected %zu bytes, got %" PRId64 ")",
             path, name, want, end - start);
    t->data = data + start;
    t->bytes = want;
    *span = (struct span){(size_t)start, (size_t)end, name};
    return 0;
}

static int check_spans(struct span *spans, size_t n, const char *path, size_t data_bytes)
{
    qsort(spans, n, sizeof *spans, by_start);
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        PW_CHECK(spans[i].start >= at, PW_E_FORMAT, "%s: %s: data_offsets overlap those of %s (expected a start of %zu, got %zu)", path,
                 spans[i].name, spans[i - 1].name, at, spans[i].start);
        PW_CHECK(spans[i].start == at, PW_E_FORMAT, "%s: %s: there is a gap before its data (expected a start of %zu, got %zu)", path,
                 spans[i].name, at, spans[i].start);
        at = spans[i].end;
    }
    PW_CHECK(at == data_bytes, PW_E_FORMAT, "%s: the tensors do not fill the file (expected %zu bytes of data, got %zu)", path, at, data_bytes);
    return 0;
}

static int read_header(struct pw_safetensors *s, const char *path)
{
    const uint8_t *p = s->map.data;
    PW_CHECK(s->map.bytes >= 8, PW_E_FORMAT, "%s: not a safetensors file: too short (expected at least 8 bytes, got %zu)", path, s->map.bytes);
    uint64_t header = 0;
    for (int i = 7; i >= 0; i--)
        header = header << 8 | p[i];
    PW_CHECK(header <= HEADER_LIMIT, PW_E_FORMAT, "%s: byte 0: header length is implausible (expected at most %zu, got %" PRIu64 ")", path,
             HEADER_LIMIT, header);
    PW_CHECK(header <= s->map.bytes - 8, PW_E_FORMAT, "%s: byte 0: header length goes beyond the file (expected at most %zu, got %" PRIu64 ")",
             path, s->map.bytes - 8, header);
    PW_CHECK(header >= 2 && p[8] == '{', PW_E_FORMAT, "%s: byte 8: the header does not begin with {", path);
    struct pw_value *json;
    PW_TRY(pw_json_parse(&s->arena, (const char *)p + 8, (size_t)header, path, &json), "reading the header");
    PW_CHECK(json->kind == PW_MAP, PW_E_FORMAT, "%s: the header is no map", path);

    size_t data_bytes = s->map.bytes - 8 - (size_t)header;
    s->tensors = pw_arena_array(&s->arena, json->len + 1, sizeof *s->tensors);
    struct span *spans = pw_arena_array(&s->arena, json->len + 1, sizeof *spans);
    PW_CHECK(s->tensors && spans, PW_E_NOMEM, "%s: no memory for %zu tensors", path, json->len);
    for (size_t i = 0; i < json->len; i++) {
        const struct pw_member *m = &json->members[i];
        if (strcmp(m->key, "__metadata__") == 0) {
            PW_CHECK(m->value.kind == PW_MAP, PW_E_FORMAT, "%s: __metadata__ is no map", path);
            for (size_t k = 0; k < m->value.len; k++)
                PW_CHECK(m->value.members[k].value.kind == PW_STRING, PW_E_FORMAT, "%s: __metadata__: %s is no string", path, m->value.members[k].key);
            s->metadata = &m->value;
            continue;
        }
        PW_PASS(read_entry(&s->tensors[s->n], &spans[s->n], m, path, p + 8 + header, data_bytes));
        s->n++;
    }
    PW_PASS(check_spans(spans, s->n, path, data_bytes));
    qsort(s->tensors, s->n, sizeof *s->tensors, by_name);
    return 0;
}

int pw_safetensors_open(struct pw_safetensors *s, const char *path)
{
    *s = (struct pw_safetensors){0};
    pw_arena_init(&s->arena);
    int rc = pw_map_open(&s->map, path);
    if (rc == 0)
        rc = read_header(s, path);
    if (rc < 0)
        pw_safetensors_close(s);
    return rc;
}

void pw_safetensors_close(struct pw_safetensors *s)
{
    pw_map_close(&s->map);
    pw_arena_free(&s->arena);
    *s = (struct pw_safetensors){0};
}

const struct pw_st_tensor *pw_safetensors_find(const struct pw_safetensors *s, const char *name)
{
    struct pw_st_tensor key = {.name = name};
    return s->n ? bsearch(&key, s->tensors, s->n, sizeof *s->tensors, by_name) : NULL;
}

/* ---- writing ---- */

size_t pw_st_header_room(const char *name, int ndim)
{
    /* ,"NAME":{"dtype":"F8_E4M3","shape":[],"data_offsets":[,]} and the digits; a name byte escapes to at most six. */
    return 6 * strlen(name) + 64 + 21 * (size_t)ndim + 42;
}

static void header_string(struct pw_buf *b, const char *s)
{
    struct pw_json w = {0};
    pw_json_str(&w, NULL, s);
    pw_buf_add(b, w.out.data, w.out.len);
    if (pw_json_status(&w) < 0)
        b->failed = true;
    pw_json_free(&w);
}

static void header_metadata(struct pw_buf *b, const char *const *metadata)
{
    pw_buf_char(b, '{');
    if (!metadata || !metadata[0])
        return;
    pw_buf_str(b, "\"__metadata__\":{");
    for (size_t i = 0; metadata[i]; i += 2) {
        if (i)
            pw_buf_char(b, ',');
        header_string(b, metadata[i]);
        pw_buf_char(b, ':');
        header_string(b, metadata[i + 1]);
    }
    pw_buf_char(b, '}');
}

static int header_tensor(struct pw_buf *b, const char *name, const char *dtype, int ndim, const int64_t *shape, size_t at, size_t *bytes)
{
    *bytes = pw_st_dtype_bytes(dtype);
    PW_CHECK(*bytes > 0, PW_E_FAIL, "%s: unknown dtype %s", name, dtype);
    if (b->len > 1)
        pw_buf_char(b, ',');
    header_string(b, name);
    pw_buf_printf(b, ":{\"dtype\":\"%s\",\"shape\":[", dtype);
    for (int i = 0; i < ndim; i++) {
        PW_CHECK(shape[i] >= 0 && pw_mul_size(*bytes, (size_t)shape[i], bytes), PW_E_FAIL, "%s: its size overflows", name);
        pw_buf_printf(b, i ? ",%" PRId64 : "%" PRId64, shape[i]);
    }
    pw_buf_printf(b, "],\"data_offsets\":[%zu,%zu]}", at, at + *bytes);
    return pw_buf_status(b);
}

static void header_length(uint8_t out[8], uint64_t n)
{
    for (int i = 0; i < 8; i++)
        out[i] = (uint8_t)(n >> 8 * i);
}

int pw_safetensors_write(const char *path, const struct pw_st_write *tensors, size_t n, const char *const *metadata, bool force)
{
    struct pw_buf header = {0};
    struct pw_out out = {0};
    size_t at = 0;
    int rc = 0;
    header_metadata(&header, metadata);
    for (size_t i = 0; i < n; i++) {
        const struct pw_st_write *t = &tensors[i];
        size_t bytes;
        PW_PASS_OUT(header_tensor(&header, t->name, t->dtype, t->ndim, t->shape, at, &bytes));
        PW_CHECK_OUT(bytes == t->bytes, PW_E_FAIL, "%s: expected %zu bytes, got %zu", t->name, bytes, t->bytes);
        at += bytes;
    }
    pw_buf_char(&header, '}');
    while (header.len % 8 && !header.failed)
        pw_buf_char(&header, ' ');
    PW_PASS_OUT(pw_buf_status(&header));

    uint8_t length[8];
    header_length(length, header.len);
    PW_PASS_OUT(pw_out_open(&out, path, force));
    PW_PASS_OUT(pw_out_write(&out, length, 8));
    PW_PASS_OUT(pw_out_write(&out, header.data, header.len));
    for (size_t i = 0; i < n; i++)
        if (tensors[i].bytes)
            PW_PASS_OUT(pw_out_write(&out, tensors[i].data, tensors[i].bytes));
    PW_PASS_OUT(pw_out_commit(&out));
out:
    pw_out_abort(&out);
    pw_buf_free(&header);
    return rc;
}

int pw_st_stream_open(struct pw_st_stream *w, const char *path, size_t header_bytes, const char *const *metadata, bool force)
{
    *w = (struct pw_st_stream){0};
    pw_arena_init(&w->arena);
    header_metadata(&w->header, metadata);
    PW_PASS(pw_buf_status(&w->header));
    w->room = (w->header.len + header_bytes + 1 + 63) & ~(size_t)63;  /* 64: the data is as aligned as the mapping allows */
    w->room += 56;                                                    /* 8 bytes of length in front */
    PW_PASS(pw_out_open(&w->out, path, force));
    w->open = true;
    if (fseeko(w->out.f, (off_t)(8 + w->room), SEEK_SET) != 0)
        return pw_error(PW_E_IO, "%s: %s", path, strerror(errno));
    return 0;
}

static int stream_settled(const struct pw_st_stream *w)
{
    PW_CHECK(w->want == 0, PW_E_FAIL, "%s: %zu bytes of its data were not written", w->name, w->want);
    return 0;
}

int pw_st_stream_begin(struct pw_st_stream *w, const char *name, const char *dtype, int ndim, const int64_t *shape)
{
    PW_PASS(stream_settled(w));
    w->name = pw_arena_strndup(&w->arena, name, strlen(name));
    PW_CHECK(w->name, PW_E_NOMEM, "%s: no memory for its name", name);
    PW_PASS(header_tensor(&w->header, name, dtype, ndim, shape, w->at, &w->want));
    w->at += w->want;
    return 0;
}

int pw_st_stream_bytes(struct pw_st_stream *w, const void *data, size_t bytes)
{
    PW_CHECK(bytes <= w->want, PW_E_FAIL, "%s: more data than its shape says (expected %zu more bytes, got %zu)", w->name, w->want, bytes);
    w->want -= bytes;
    return bytes ? pw_out_write(&w->out, data, bytes) : 0;
}

int pw_st_stream_commit(struct pw_st_stream *w)
{
    PW_PASS(stream_settled(w));
    pw_buf_char(&w->header, '}');
    PW_PASS(pw_buf_status(&w->header));
    PW_CHECK(w->header.len <= w->room, PW_E_FAIL, "%s: the header outgrew its room (%zu bytes, got %zu)", w->out.path, w->room, w->header.len);
    while (w->header.len < w->room && !w->header.failed)
        pw_buf_char(&w->header, ' ');
    PW_PASS(pw_buf_status(&w->header));
    uint8_t length[8];
    header_length(length, w->room);
    if (fseeko(w->out.f, 0, SEEK_SET) != 0)
        return pw_error(PW_E_IO, "%s: %s", w->out.path, strerror(errno));
    PW_PASS(pw_out_write(&w->out, length, 8));
    PW_PASS(pw_out_write(&w->out, w->header.data, w->room));
    return pw_out_commit(&w->out);
}

void pw_st_stream_abort(struct pw_st_stream *w)
{
    if (w->open)
        pw_out_abort(&w->out);
    pw_buf_free(&w->header);
    pw_arena_free(&w->arena);
    *w = (struct pw_st_stream){0};
}
