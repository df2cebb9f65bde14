/* Reading GGUF files (see the header). Every length is compared with what is left before it is used. */
#include "data/gguf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum { MOST_PAIRS = 1 << 16, MOST_TENSORS = 1 << 20, LONGEST_NAME = 1 << 12, DEEPEST = 4 };
static const char *const type_names[PW_GGUF_TYPES] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};
static const uint8_t sizes[PW_GGUF_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

struct cursor { const struct pw_gguf *g; size_t at; };

static const uint8_t *here(const struct cursor *c) { return c->g->map.data + c->at; }
static size_t left(const struct cursor *c) { return c->g->map.bytes - c->at; }

static int take(struct cursor *c, void *out, size_t n, const char *what)
{
    PW_CHECK(n <= left(c), PW_E_FORMAT, "%s: byte %zu: the file ends inside %s", c->g->path, c->at, what);
    memcpy(out, here(c), n);
    c->at += n;
    return 0;
}

static int skip_string(struct cursor *c, const char *what)
{
    uint64_t n = 0;
    const size_t begun = c->at;
    PW_PASS(take(c, &n, sizeof n, what));
    PW_CHECK(n <= left(c), PW_E_FORMAT, "%s: byte %zu: %s: a string of %" PRIu64 " bytes, %zu are left", c->g->path, begun, what, n, left(c));
    c->at += (size_t)n;
    return 0;
}

/* A key or name: short, UTF-8, no NUL. A copy in the arena. */
static int name(struct cursor *c, struct pw_arena *a, const char *what, const char **out)
{
    const size_t begun = c->at;
    PW_PASS(skip_string(c, what));
    const char *s = (const char *)c->g->map.data + begun + 8;
    const size_t n = c->at - begun - 8;
    PW_CHECK(n >= 1 && n <= LONGEST_NAME, PW_E_FORMAT, "%s: byte %zu: %s: expected 1 to %d bytes, got %zu", c->g->path, begun, what, LONGEST_NAME, n);
    PW_CHECK(!memchr(s, 0, n) && pw_utf8_valid(s, n), PW_E_FORMAT, "%s: byte %zu: %s is not UTF-8 text", c->g->path, begun, what);
    *out = pw_arena_strndup(a, s, n);
    PW_CHECK(*out, PW_E_NOMEM, "%s: no memory", c->g->path);
    return 0;
}

static int value(struct cursor *c, struct pw_gguf_pair *p, const char *key, int depth)
{
    uint32_t of;
    p->n = 1;
    if (p->type == PW_GGUF_ARRAY) {
        PW_CHECK(depth < DEEPEST, PW_E_FORMAT, "%s: %s: arrays inside each other %d deep", c->g->path, key, depth);
        PW_PASS(take(c, &of, sizeof of, key));
        PW_PASS(take(c, &p->n, sizeof p->n, key));
        PW_CHECK(of < PW_GGUF_TYPES, PW_E_FORMAT, "%s: byte %zu: %s: unknown element type %" PRIu32, c->g->path, c->at - 12, key, of);
        p->of = (enum pw_gguf_type)of;
    } else
        p->of = p->type;
    p->data = here(c);
    if (sizes[p->of]) {
        PW_CHECK(p->n <= left(c) / sizes[p->of], PW_E_FORMAT, "%s: byte %zu: %s: %" PRIu64 " values of type %s do not fit into the %zu bytes left", c->g->path,
                 c->at, key, p->n, type_names[p->of], left(c));
        if (p->of == PW_GGUF_BOOL)
            for (uint64_t i = 0; i < p->n; i++)
                PW_CHECK(p->data[i] <= 1, PW_E_FORMAT, "%s: byte %zu: %s: a bool is %d", c->g->path, c->at + (size_t)i, key, p->data[i]);
        c->at += (size_t)p->n * sizes[p->of];
    } else {
        PW_CHECK(p->n <= left(c) / 8 || p->n == 1, PW_E_FORMAT, "%s: byte %zu: %s: %" PRIu64 " values of type %s do not fit into the %zu bytes left", c->g->path,
                 c->at, key, p->n, type_names[p->of], left(c));
        for (uint64_t i = 0; i < p->n; i++) {
            struct pw_gguf_pair inner = {.type = PW_GGUF_ARRAY};
            PW_PASS(p->of == PW_GGUF_STRING ? skip_string(c, key) : value(c, &inner, key, depth + 1));
        }
    }
    p->end = here(c);
    return 0;
}

static int by_key(const void *a, const void *b) { return strcmp(((const struct pw_gguf_pair *)a)->key, ((const struct pw_gguf_pair *)b)->key); }

static int read_pairs(struct pw_gguf *g, struct cursor *c, uint64_t n)
{
    PW_CHECK(n <= MOST_PAIRS && n <= left(c) / 13, PW_E_FORMAT, "%s: %" PRIu64 " key/value pairs do not fit into the file", g->path, n);
    g->pairs = pw_arena_array(&g->arena, (size_t)n + 1, sizeof *g->pairs);
    PW_CHECK(g->pairs, PW_E_NOMEM, "%s: no memory", g->path);
    for (; g->n_pairs < n; g->n_pairs++) {
        struct pw_gguf_pair *p = &g->pairs[g->n_pairs];
        uint32_t type;
        PW_PASS(name(c, &g->arena, "a key", &p->key));
        PW_PASS(take(c, &type, sizeof type, p->key));
        PW_CHECK(type < PW_GGUF_TYPES, PW_E_FORMAT, "%s: byte %zu: %s: unknown type %" PRIu32, g->path, c->at - 4, p->key, type);
        p->type = (enum pw_gguf_type)type;
        PW_PASS(value(c, p, p->key, 0));
    }
    qsort(g->pairs, g->n_pairs, sizeof *g->pairs, by_key);
    for (size_t i = 1; i < g->n_pairs; i++)
        PW_CHECK(strcmp(g->pairs[i - 1].key, g->pairs[i].key) != 0, PW_E_FORMAT, "%s: key %s is there twice", g->path, g->pairs[i].key);
    return 0;
}

/* Elements and bytes of a unit of a type; false: not a type that is read here. */
static bool unit_of(uint32_t ggml, size_t *elements, size_t *bytes, const char **stored)
{
    const struct pw_block_type *b = pw_block_type_ggml(ggml);
    if (b) {
        *elements = (size_t)b->elements;
        *bytes = (size_t)b->bytes;
        *stored = b->stored;
        return true;
    }
    *elements = 1;
    *bytes = ggml == PW_GGML_F32 ? 4 : 2;
    *stored = ggml == PW_GGML_F32 ? "F32" : ggml == PW_GGML_F16 ? "F16" : "BF16";
    return ggml == PW_GGML_F32 || ggml == PW_GGML_F16 || ggml == PW_GGML_BF16;
}

/* bytes of a shape (slowest first) in a type */
static int tensor_bytes(const char *path, const char *tensor, uint32_t ggml, int ndim, const int64_t *shape, const char **stored, size_t *out)
{
    size_t elements, bytes, count = 1;
    PW_CHECK(unit_of(ggml, &elements, &bytes, stored), PW_E_UNSUPPORTED,
             "%s: %s: type %" PRIu32 " is not supported (known: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K, IQ4_NL)", path, tensor, ggml);
    PW_CHECK((size_t)shape[ndim - 1] % elements == 0, PW_E_FORMAT, "%s: %s: rows of %" PRId64 " elements are not whole %s blocks of %zu", path, tensor,
             shape[ndim - 1], *stored, elements);
    for (int k = 0; k < ndim; k++)
        PW_CHECK(pw_mul_size(count, (size_t)shape[k], &count), PW_E_FORMAT, "%s: %s: its shape overflows", path, tensor);
    PW_CHECK(pw_mul_size(count / elements, bytes, out) && *out <= SIZE_MAX / 2, PW_E_FORMAT, "%s: %s: its shape overflows", path, tensor);
    return 0;
}

static int tensor_info(struct pw_gguf *g, struct cursor *c, struct pw_gguf_tensor *t, uint64_t *offset)
{
    uint32_t ndim;
    uint64_t size[4] = {0};
    PW_PASS(name(c, &g->arena, "a tensor's name", &t->name));
    PW_PASS(take(c, &ndim, sizeof ndim, t->name));
    PW_CHECK(ndim >= 1 && ndim <= 4, PW_E_FORMAT, "%s: byte %zu: %s: expected 1 to 4 dimensions, got %" PRIu32, g->path, c->at - 4, t->name, ndim);
    PW_PASS(take(c, size, ndim * sizeof *size, t->name));
    t->ndim = (int)ndim;
    for (int k = 0; k < t->ndim; k++) {
        PW_CHECK(size[k] >= 1 && size[k] <= INT64_MAX, PW_E_FORMAT, "%s: %s: dimension %d is %" PRIu64, g->path, t->name, k, size[k]);
        t->shape[t->ndim - 1 - k] = (int64_t)size[k];
    }
    PW_PASS(take(c, &t->ggml, sizeof t->ggml, t->name));
    PW_PASS(take(c, offset, sizeof *offset, t->name));
    return tensor_bytes(g->path, t->name, t->ggml, t->ndim, t->shape, &t->stored, &t->bytes);
}

static int by_name(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static int unique_names(struct pw_gguf *g)
{
    const char **names = pw_arena_array(&g->arena, g->n_tensors + 1, sizeof *names);
    PW_CHECK(names, PW_E_NOMEM, "%s: no memory", g->path);
    for (size_t i = 0; i < g->n_tensors; i++)
        names[i] = g->tensors[i].name;
    qsort(names, g->n_tensors, sizeof *names, by_name);
    for (size_t i = 1; i < g->n_tensors; i++)
        PW_CHECK(strcmp(names[i - 1], names[i]) != 0, PW_E_FORMAT, "%s: tensor %s is there twice", g->path, names[i]);
    return 0;
}

static int read_tensors(struct pw_gguf *g, struct cursor *c, uint64_t n)
{
    const size_t mask = g->alignment - 1;
    PW_CHECK(n <= MOST_TENSORS && n <= left(c) / 32, PW_E_FORMAT, "%s: %" PRIu64 " tensors do not fit into the file", g->path, n);
    g->tensors = pw_arena_array(&g->arena, (size_t)n + 1, sizeof *g->tensors);
    uint64_t *offsets = pw_arena_array(&g->arena, (size_t)n + 1, sizeof *offsets);
    PW_CHECK(g->tensors && offsets, PW_E_NOMEM, "%s: no memory", g->path);
    for (; g->n_tensors < n; g->n_tensors++)
        PW_PASS(tensor_info(g, c, &g->tensors[g->n_tensors], &offsets[g->n_tensors]));
    PW_PASS(unique_names(g));
    const size_t pad = (g->alignment - (c->at & mask)) & mask;
    if (n == 0) {
        PW_CHECK(left(c) <= pad, PW_E_FORMAT, "%s: %zu bytes follow the header of a file without tensors", g->path, left(c));
        return 0;
    }
    PW_CHECK(pad <= left(c), PW_E_FORMAT, "%s: the file ends before its tensors", g->path);
    c->at += pad;
    size_t at = 0, room = left(c);       /* of the data */
    for (size_t i = 0; i < n; i++) {
        struct pw_gguf_tensor *t = &g->tensors[i];
        PW_CHECK(offsets[i] == at, PW_E_FORMAT, "%s: %s: expected it to begin at offset %zu, got %" PRIu64, g->path, t->name, at, offsets[i]);
        PW_CHECK(at <= room && t->bytes <= room - at, PW_E_FORMAT, "%s: %s: %zu bytes from offset %zu on, the file has %zu", g->path, t->name, t->bytes, at, room);
        t->data = here(c) + at;
        at += t->bytes;
        at += (g->alignment - (at & mask)) & mask;
    }
    PW_CHECK(room <= at, PW_E_FORMAT, "%s: %zu bytes follow the last tensor", g->path, room - at);
    return 0;
}

static int read_all(struct pw_gguf *g)
{
    struct cursor c = {g, 0};
    uint64_t n_tensors, n_pairs;
    int64_t alignment = 32;
    PW_CHECK(g->map.bytes >= 4 && memcmp(g->map.data, "GGUF", 4) == 0, PW_E_FORMAT, "%s: not a GGUF file (it does not begin with \"GGUF\")", g->path);
    c.at = 4;
    PW_PASS(take(&c, &g->version, sizeof g->version, "the header"));
    PW_CHECK(g->version != 0x03000000u && g->version != 0x02000000u, PW_E_UNSUPPORTED, "%s: a GGUF file of a big-endian machine", g->path);
    PW_CHECK(g->version == 3 || g->version == 2, PW_E_UNSUPPORTED, "%s: GGUF version %" PRIu32 " is not supported (expected 3)", g->path, g->version);
    PW_PASS(take(&c, &n_tensors, sizeof n_tensors, "the header"));
    PW_PASS(take(&c, &n_pairs, sizeof n_pairs, "the header"));
    PW_PASS(read_pairs(g, &c, n_pairs));
    PW_PASS(pw_gguf_get_i64(g, "general.alignment", false, 1, 1 << 24, &alignment));
    PW_CHECK((alignment & (alignment - 1)) == 0, PW_E_FORMAT, "%s: general.alignment: expected a power of two, got %" PRId64, g->path, alignment);
    g->alignment = (size_t)alignment;
    return read_tensors(g, &c, n_tensors);
}

int pw_gguf_open(struct pw_gguf *g, const char *path)
{
    *g = (struct pw_gguf){0};
    pw_arena_init(&g->arena);
    int rc = 0;
    g->path = pw_arena_strndup(&g->arena, path, strlen(path));
    PW_CHECK_OUT(g->path, PW_E_NOMEM, "%s: no memory", path);
    PW_PASS_OUT(pw_map_open(&g->map, path));
    PW_PASS_OUT(read_all(g));
out:
    if (rc < 0)
        pw_gguf_close(g);
    return rc;
}

void pw_gguf_close(struct pw_gguf *g)
{
    for (size_t i = 0; i < g->n_parts; i++)
        pw_gguf_close(&g->parts[i]);
    pw_map_close(&g->map);
    pw_arena_free(&g->arena);
    *g = (struct pw_gguf){0};
}

/* ---- access ---- */

const struct pw_gguf_pair *pw_gguf_find(const struct pw_gguf *g, const char *key)
{
    struct pw_gguf_pair wanted = {.key = key};
    return g->n_pairs ? bsearch(&wanted, g->pairs, g->n_pairs, sizeof *g->pairs, by_key) : NULL;
}

const struct pw_gguf_tensor *pw_gguf_tensor(const struct pw_gguf *g, const char *wanted)
{
    for (size_t i = 0; i < g->n_tensors; i++)
        if (strcmp(g->tensors[i].name, wanted) == 0)
            return &g->tensors[i];
    return NULL;
}

static bool is_int(enum pw_gguf_type t) { return t != PW_GGUF_F32 && t != PW_GGUF_F64 && t != PW_GGUF_BOOL && t != PW_GGUF_STRING && t != PW_GGUF_ARRAY; }

int64_t pw_gguf_int(const struct pw_gguf_pair *p, uint64_t i)
{
    const uint8_t *at = p->data + i * sizes[p->of];
    union { uint8_t u8; int8_t i8; uint16_t u16; int16_t i16; uint32_t u32; int32_t i32; uint64_t u64; int64_t i64; } v;
    memcpy(&v, at, sizes[p->of]);
    switch (p->of) {
    case PW_GGUF_U8: return v.u8;
    case PW_GGUF_I8: return v.i8;
    case PW_GGUF_U16: return v.u16;
    case PW_GGUF_I16: return v.i16;
    case PW_GGUF_U32: return v.u32;
    case PW_GGUF_I32: return v.i32;
    case PW_GGUF_U64: return v.u64 > INT64_MAX ? INT64_MAX : (int64_t)v.u64;
    default: return v.i64;
    }
}

double pw_gguf_real(const struct pw_gguf_pair *p, uint64_t i)
{
    float f;
    double d;
    if (p->of == PW_GGUF_F32) {
        memcpy(&f, p->data + i * 4, 4);
        return (double)f;
    }
    memcpy(&d, p->data + i * 8, 8);
    return d;
}

const uint8_t *pw_gguf_string(const uint8_t *at, const char **s, size_t *n)
{
    uint64_t len;
    memcpy(&len, at, 8);
    *s = (const char *)at + 8;
    *n = (size_t)len;
    return at + 8 + len;
}

static int missing(const struct pw_gguf *g, const char *key) { return pw_error(PW_E_FORMAT, "%s: key %s is missing", g->path, key); }

int pw_gguf_get_i64(const struct pw_gguf *g, const char *key, bool must, int64_t low, int64_t high, int64_t *out)
{
    const struct pw_gguf_pair *p = pw_gguf_find(g, key);
    if (!p)
        return must ? missing(g, key) : 0;
    PW_CHECK(is_int(p->type), PW_E_FORMAT, "%s: %s: expected an integer, got %s", g->path, key, type_names[p->type]);
    const int64_t x = pw_gguf_int(p, 0);
    PW_CHECK(x >= low && x <= high, PW_E_FORMAT, "%s: %s is out of range (expected %" PRId64 " to %" PRId64 ", got %" PRId64 ")", g->path, key, low, high, x);
    *out = x;
    return 0;
}

int pw_gguf_get_f64(const struct pw_gguf *g, const char *key, bool must, double *out)
{
    const struct pw_gguf_pair *p = pw_gguf_find(g, key);
    if (!p)
        return must ? missing(g, key) : 0;
    PW_CHECK(p->type == PW_GGUF_F32 || p->type == PW_GGUF_F64, PW_E_FORMAT, "%s: %s: expected a real number, got %s", g->path, key, type_names[p->type]);
    *out = pw_gguf_real(p, 0);
    return 0;
}

int pw_gguf_get_bool(const struct pw_gguf *g, const char *key, bool *out)
{
    const struct pw_gguf_pair *p = pw_gguf_find(g, key);
    if (!p)
        return 0;
    PW_CHECK(p->type == PW_GGUF_BOOL, PW_E_FORMAT, "%s: %s: expected a bool, got %s", g->path, key, type_names[p->type]);
    *out = p->data[0] != 0;
    return 0;
}

int pw_gguf_get_str(struct pw_gguf *g, const char *key, bool must, const char **out)
{
    const struct pw_gguf_pair *p = pw_gguf_find(g, key);
    const char *s;
    size_t n;
    if (!p)
        return must ? missing(g, key) : 0;
    PW_CHECK(p->type == PW_GGUF_STRING, PW_E_FORMAT, "%s: %s: expected a string, got %s", g->path, key, type_names[p->type]);
    pw_gguf_string(p->data, &s, &n);
    PW_CHECK(!memchr(s, 0, n) && pw_utf8_valid(s, n), PW_E_FORMAT, "%s: %s is not UTF-8 text", g->path, key);
    *out = pw_arena_strndup(&g->arena, s, n);
    PW_CHECK(*out, PW_E_NOMEM, "%s: no memory", g->path);
    return 0;
}

int pw_gguf_get_array(const struct pw_gguf *g, const char *key, enum pw_gguf_type of, bool must, const struct pw_gguf_pair **out)
{
    const struct pw_gguf_pair *p = pw_gguf_find(g, key);
    *out = NULL;
    if (!p)
        return must ? missing(g, key) : 0;
    PW_CHECK(p->type == PW_GGUF_ARRAY && p->of == of, PW_E_FORMAT, "%s: %s: expected an array of %s, got %s%s", g->path, key, type_names[of],
             p->type == PW_GGUF_ARRAY ? "one of " : "", type_names[p->of]);
    *out = p;
    return 0;
}

/* ---- for the writer ---- */

int pw_gguf_tensor_bytes(const char *tensor, uint32_t ggml, int ndim, const int64_t *shape, size_t *bytes)
{
    const char *stored;
    return tensor_bytes("writing GGUF", tensor, ggml, ndim, shape, &stored, bytes);
}
