/* bitsandbytes weights as they lie in a safetensors file, turned into views (struct pw_weight). 4-bit (nf4, fp4; scales nested or
 * not; any quant_storage dtype, which only renames the same bytes) and LLM.int8 (I8 rows with SCB). Owns the names and the
 * consistency rules of the companions of a weight. Refuses to know the arithmetic (kernels/) and who uses the weight. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "data/checkpoint_parts.h"

static const char *const kinds[2] = {"nf4", "fp4"};

static struct stored *companion(const struct pw_checkpoint *c, const char *name, const char *suffix)
{
    char full[1024];
    int n = snprintf(full, sizeof full, "%s.%s", name, suffix);
    return n > 0 && (size_t)n < sizeof full ? pw_checkpoint_stored(c, full) : NULL;
}

static struct stored *state_of(const struct pw_checkpoint *c, const char *name, int *kind)
{
    for (*kind = 0; *kind < 2; ++*kind) {
        char suffix[64];
        snprintf(suffix, sizeof suffix, "quant_state.bitsandbytes__%s", kinds[*kind]);
        struct stored *s = companion(c, name, suffix);
        if (s)
            return s;
    }
    return NULL;
}

/* "X.weight" -> the tensor "X.SCB" or "X.weight_format". */
static struct stored *sibling(const struct pw_checkpoint *c, const char *name, const char *tail)
{
    char full[1024];
    size_t n = strlen(name);
    if (n < 7 || n > 900 || strcmp(name + n - 7, ".weight") != 0)
        return NULL;
    snprintf(full, sizeof full, "%.*s.%s", (int)(n - 7), name, tail);
    return pw_checkpoint_stored(c, full);
}

bool pw_bnb_has(const struct pw_checkpoint *c, const char *name)
{
    int kind;
    return state_of(c, name, &kind) || sibling(c, name, "SCB");
}

/* A companion that must be there, with this dtype and this many elements, at an address that suits it. */
static int vector(struct pw_checkpoint *c, const char *name, const char *suffix, const char *dtype, int64_t n, const void **out)
{
    struct stored *s = companion(c, name, suffix);
    PW_CHECK(s, PW_E_FORMAT, "%s: tensor %s.%s is missing", c->path, name, suffix);
    PW_CHECK(strcmp(s->t.dtype, dtype) == 0, PW_E_FORMAT, "%s: %s: expected dtype %s, got %s", s->file, s->t.name, dtype, s->t.dtype);
    PW_CHECK(s->t.bytes == (size_t)n * pw_st_dtype_bytes(dtype), PW_E_FORMAT, "%s: %s: expected %" PRId64 " elements, got %zu", s->file, s->t.name, n,
             s->t.bytes / pw_st_dtype_bytes(dtype));
    PW_PASS(pw_checkpoint_aligned(c, s, pw_st_dtype_bytes(dtype), out));
    s->used = true;
    return 0;
}

static int all_finite(const struct pw_checkpoint *c, const char *name, const char *what, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        PW_CHECK(isfinite(x[i]), PW_E_NUMERIC, "%s: %s.%s[%" PRId64 "] is not a number", c->path, name, what, i);
    return 0;
}

struct state { const char *dtype; int64_t block, nested_block; double offset; bool nested; };

static int read_state(struct pw_checkpoint *c, struct stored *s, const char *kind, int64_t n_out, int64_t n_in, struct state *st)
{
    char where[1200];
    snprintf(where, sizeof where, "%s: %s", s->file, s->t.name);
    PW_CHECK(strcmp(s->t.dtype, "U8") == 0 && s->t.bytes < 65536, PW_E_FORMAT, "%s: expected a short U8 text", where);
    struct pw_value *json;
    PW_PASS(pw_json_parse(&c->arena, s->t.data, s->t.bytes, where, &json));
    const char *type = "", *nested_dtype = "float32";
    *st = (struct state){.dtype = "", .block = 0, .nested_block = 0, .offset = NAN};
    PW_PASS(pw_get_str(json, "quant_type", where, &type));
    PW_PASS(pw_get_str(json, "dtype", where, &st->dtype));
    PW_PASS(pw_get_i64(json, "blocksize", where, &st->block));
    PW_PASS(pw_get_i64(json, "nested_blocksize", where, &st->nested_block));
    PW_PASS(pw_get_f64(json, "nested_offset", where, &st->offset));
    PW_PASS(pw_get_str(json, "nested_dtype", where, &nested_dtype));
    PW_CHECK(strcmp(type, kind) == 0, PW_E_FORMAT, "%s: quant_type: expected %s, got %.40s", where, kind, type);
    PW_CHECK(st->block >= 32 && st->block <= 4096 && (st->block & (st->block - 1)) == 0, PW_E_FORMAT,
             "%s: blocksize: expected a power of two from 32 to 4096, got %" PRId64, where, st->block);
    st->nested = pw_get(json, "nested_blocksize") != NULL;
    if (st->nested) {
        PW_CHECK(st->nested_block >= 32 && st->nested_block <= 4096, PW_E_FORMAT, "%s: nested_blocksize is out of range (got %" PRId64 ")", where,
                 st->nested_block);
        PW_CHECK(isfinite(st->offset), PW_E_FORMAT, "%s: nested_offset is missing or not a number", where);
        PW_CHECK(strcmp(nested_dtype, "float32") == 0, PW_E_UNSUPPORTED, "%s: nested_dtype: expected float32, got %.40s", where, nested_dtype);
    }
    const struct pw_value *shape = pw_get(json, "shape");
    PW_CHECK(shape && shape->kind == PW_LIST && shape->len == 2 && shape->items[0].kind == PW_INT && shape->items[1].kind == PW_INT, PW_E_FORMAT,
             "%s: shape: expected a pair of counts", where);
    PW_CHECK(shape->items[0].i == n_out && shape->items[1].i == n_in, PW_E_FORMAT,
             "%s: shape does not fit the config (expected (%" PRId64 ", %" PRId64 "), got (%" PRId64 ", %" PRId64 "))", where, n_out, n_in,
             shape->items[0].i, shape->items[1].i);
    return 0;
}

static int dtype_of(const struct state *st, const char *name, enum pw_dtype *out)
{
    static const struct { const char *name; enum pw_dtype t; } known[] = {{"bfloat16", PW_BF16}, {"float16", PW_F16}, {"float32", PW_F32}};
    for (size_t i = 0; i < 3; i++)
        if (strcmp(known[i].name, st->dtype) == 0) {
            *out = known[i].t;
            return 0;
        }
    return pw_error(PW_E_UNSUPPORTED, "%s: quant_state: dtype %.40s is not supported (known: bfloat16, float16, float32)", name, st->dtype);
}

static int read_4bit(struct pw_checkpoint *c, const char *name, int kind, struct stored *state, int64_t n_out, int64_t n_in, struct pw_weight *out)
{
    struct stored *w = pw_checkpoint_stored(c, name);
    PW_CHECK(w, PW_E_FORMAT, "%s: tensor %s is missing, but its quant_state is there", state->file, name);
    struct state st;
    int64_t n;
    PW_PASS(read_state(c, state, kinds[kind], n_out, n_in, &st));
    PW_CHECK(pw_mul_i64(n_out, n_in, &n), PW_E_FORMAT, "%s: its size overflows", name);
    size_t packed = ((size_t)n + 1) / 2, item = pw_st_dtype_bytes(w->t.dtype);
    PW_CHECK(w->t.bytes >= packed && w->t.bytes - packed < item, PW_E_FORMAT, "%s: %s: expected %zu bytes of 4-bit codes, got %zu", w->file, name,
             packed, w->t.bytes);

    int64_t blocks = (n + st.block - 1) / st.block;
    const void *table;
    *out = (struct pw_weight){.n_out = n_out, .n_in = n_in, .type = kind == 0 ? PW_Q_NF4 : PW_Q_FP4, .data = w->t.data, .block = (int)st.block};
    PW_PASS(dtype_of(&st, name, &out->dtype));
    PW_PASS(vector(c, name, "quant_map", "F32", 16, &table));
    const float *ours = kind == 0 ? pw_nf4_table : pw_fp4_table;
    for (int i = 0; i < 16; i++)
        PW_CHECK(((const float *)table)[i] == ours[i], PW_E_UNSUPPORTED, "%s: %s.quant_map[%d] is not the %s table's (expected %.9g, got %.9g)",
                 c->path, name, i, kinds[kind], (double)ours[i], (double)((const float *)table)[i]);
    const void *p;
    if (!st.nested) {
        PW_PASS(vector(c, name, "absmax", "F32", blocks, &p));
        out->absmax = p;
        PW_PASS(all_finite(c, name, "absmax", out->absmax, blocks));
    } else {
        int64_t nested = (blocks + st.nested_block - 1) / st.nested_block;
        PW_PASS(vector(c, name, "absmax", "U8", blocks, &p));
        out->absmax_q = p;
        PW_PASS(vector(c, name, "nested_absmax", "F32", nested, &p));
        out->nested_absmax = p;
        PW_PASS(vector(c, name, "nested_quant_map", "F32", 256, &p));
        out->nested_code = p;
        out->nested_block = (int)st.nested_block;
        out->nested_offset = (float)st.offset;
        PW_PASS(all_finite(c, name, "nested_absmax", out->nested_absmax, nested));
        PW_PASS(all_finite(c, name, "nested_quant_map", out->nested_code, 256));
    }
    w->used = state->used = true;
    return 0;
}

static int read_int8(struct pw_checkpoint *c, const char *name, struct stored *scb, int64_t n_out, int64_t n_in, struct pw_weight *out)
{
    struct stored *w = pw_checkpoint_stored(c, name), *format = sibling(c, name, "weight_format");
    PW_CHECK(w, PW_E_FORMAT, "%s: tensor %s is missing, but its SCB is there", scb->file, name);
    PW_CHECK(strcmp(w->t.dtype, "I8") == 0 && w->t.ndim == 2 && w->t.shape[0] == n_out && w->t.shape[1] == n_in, PW_E_FORMAT,
             "%s: %s: expected I8 of shape (%" PRId64 ", %" PRId64 ")", w->file, name, n_out, n_in);
    PW_CHECK(strcmp(scb->t.dtype, "F32") == 0 && scb->t.bytes == 4 * (size_t)n_out, PW_E_FORMAT, "%s: %s: expected %" PRId64 " numbers of F32",
             scb->file, scb->t.name, n_out);
    if (format) {
        PW_CHECK(format->t.bytes == 1 && *(const uint8_t *)format->t.data == 0, PW_E_UNSUPPORTED, "%s: %s: only the row format (0) is supported",
                 format->file, format->t.name);
        format->used = true;
    }
    const void *p;
    PW_PASS(pw_checkpoint_aligned(c, scb, 4, &p));
    *out = (struct pw_weight){.n_out = n_out, .n_in = n_in, .type = PW_Q_INT8, .dtype = PW_F16, .data = w->t.data, .absmax = p};
    PW_PASS(all_finite(c, name, "SCB", out->absmax, n_out));
    w->used = scb->used = true;
    return 0;
}

int pw_bnb_read(struct pw_checkpoint *c, const char *name, int64_t n_out, int64_t n_in, struct pw_weight *out)
{
    int kind;
    struct stored *state = state_of(c, name, &kind);
    return state ? read_4bit(c, name, kind, state, n_out, n_in, out) : read_int8(c, name, sibling(c, name, "SCB"), n_out, n_in, out);
}
