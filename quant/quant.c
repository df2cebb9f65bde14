/* Quantising one weight: names of types, sizes, laying out, and encoding tile by tile. Owns double quantisation of the scales; the 4-bit
 * and 8-bit codes themselves are the op `encode`. Refuses to know files (quant_folder.c) and models. */
#include "quant/quant.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "kernels/blocks.h"
#include "quant/dynamic_map.h"

#define NESTED_BLOCK 256
#define TILE_FLOATS ((int64_t)1 << 18)
#define MAKING_FLOATS ((int64_t)1 << 16)   /* of a thread's tile: it stays in the thread's cache between widening and encoding */

int pw_quant_parse(const char *name, struct pw_quant_options *out)
{
    static const struct { const char *name; enum pw_qtype type; enum pw_dtype dtype; } types[] = {
        {"nf4", PW_Q_NF4, PW_BF16}, {"fp4", PW_Q_FP4, PW_BF16}, {"int8", PW_Q_INT8, PW_F16},
        {"f32", PW_Q_DENSE, PW_F32}, {"f16", PW_Q_DENSE, PW_F16}, {"bf16", PW_Q_DENSE, PW_BF16},
    };
    const char *names[sizeof types / sizeof *types + PW_QTYPES];
    size_t n = 0;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        names[n++] = types[i].name;
        if (strcmp(name, types[i].name) == 0) {
            *out = (struct pw_quant_options){.type = types[i].type, .block = 64, .dtype = types[i].dtype};
            return 0;
        }
    }
    for (int q = 0; q < PW_QTYPES; q++) {
        const struct pw_block_type *b = pw_block_type((enum pw_qtype)q);
        if (b && strcmp(name, b->name) == 0) {
            PW_CHECK(b->encode, PW_E_UNSUPPORTED, "type %s is read, but not made (known: nf4, fp4, int8, f32, f16, bf16, q8_0, q4_0, q4_K, q6_K)", name);
            *out = (struct pw_quant_options){.type = b->type, .dtype = PW_F32};
            return 0;
        }
        if (b && b->encode)
            names[n++] = b->name;
    }
    const char *near = pw_nearest(name, names, n);
    int rc = pw_error(PW_E_USAGE, "unknown type \"%.40s\" (known: nf4, fp4, int8, f32, f16, bf16, q8_0, q4_0, q4_K, q6_K)", name);
    if (near)
        pw_error_hint("did you mean %s?", near);
    return rc;
}

/* ---- layout ---- */

static size_t rounded(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

struct layout { size_t data, absmax, absmax_q, nested_absmax, nested_code, total; };

static bool four_bit(enum pw_qtype t) { return t == PW_Q_NF4 || t == PW_Q_FP4; }

static struct layout lay_out(int64_t n_out, int64_t n_in, const struct pw_quant_options *o)
{
    struct layout l = {0};
    const size_t n = (size_t)n_out * (size_t)n_in;
    if (four_bit(o->type)) {
        const size_t blocks = (n + (size_t)o->block - 1) / (size_t)o->block;
        l.data = rounded((n + 1) / 2);
        if (o->double_quant) {
            l.absmax_q = rounded(blocks);
            l.nested_absmax = rounded(4 * ((blocks + NESTED_BLOCK - 1) / NESTED_BLOCK));
            l.nested_code = rounded(4 * 256);
        } else
            l.absmax = rounded(4 * blocks);
    } else if (o->type == PW_Q_INT8) {
        l.data = rounded(n);
        l.absmax = rounded(4 * (size_t)n_out);
    } else if (pw_block_type(o->type))
        l.data = rounded(pw_block_bytes(pw_block_type(o->type), n_out * n_in));
    else
        l.data = rounded(n * pw_dtype_bytes(o->dtype));
    l.total = l.data + l.absmax + l.absmax_q + l.nested_absmax + l.nested_code;
    return l;
}

size_t pw_quant_bytes(int64_t n_out, int64_t n_in, const struct pw_quant_options *o) { return lay_out(n_out, n_in, o).total; }

int pw_quant_place(struct pw_weight *w, int64_t n_out, int64_t n_in, const struct pw_quant_options *o, void *memory, size_t bytes)
{
    const struct layout l = lay_out(n_out, n_in, o);
    const struct pw_block_type *b = pw_block_type(o->type);
    PW_CHECK(!b || n_in % b->elements == 0, PW_E_UNSUPPORTED, "rows of %" PRId64 " elements are not whole %s blocks of %d", n_in, b->name, b->elements);
    PW_CHECK(bytes >= l.total, PW_E_FAIL, "placing a quantised weight: too little memory (expected %zu bytes, got %zu)", l.total, bytes);
    char *at = memory;
    *w = (struct pw_weight){.n_out = n_out, .n_in = n_in, .type = o->type, .dtype = o->dtype, .data = at};
    at += l.data;
    if (four_bit(o->type))
        w->block = o->block;
    if (l.absmax)
        w->absmax = (float *)at;
    at += l.absmax;
    if (l.absmax_q) {
        w->absmax_q = (uint8_t *)at;
        w->nested_absmax = (float *)(at + l.absmax_q);
        w->nested_code = (float *)(at + l.absmax_q + l.nested_absmax);
        w->nested_block = NESTED_BLOCK;
    }
    return 0;
}

/* ---- encoding ---- */

/* A block never straddles two tiles, and a tile begins on a whole byte. */
int64_t pw_quant_tile_unit(const struct pw_weight *w)
{
    int64_t a = w->n_in, b = four_bit(w->type) ? w->block : 1;
    while (b) {
        int64_t r = a % b;
        a = b;
        b = r;
    }
    return four_bit(w->type) ? w->block / a : 1;
}

static int64_t tile_rows(const struct pw_weight *w, int64_t floats)
{
    const int64_t unit = pw_quant_tile_unit(w), rows = floats / w->n_in / unit * unit;
    return rows < unit ? unit : rows;
}

int64_t pw_quant_tile_rows(const struct pw_weight *w) { return tile_rows(w, TILE_FLOATS); }

int pw_quant_encode_begin(struct pw_quant_encoder *e, struct pw_weight *w)
{
    *e = (struct pw_quant_encoder){.w = w};
    if (w->absmax_q) {
        e->absmax = pw_alloc((size_t)pw_weight_blocks(w) * sizeof(float));
        PW_CHECK(e->absmax, PW_E_NOMEM, "no memory for %" PRId64 " scales", pw_weight_blocks(w));
    }
    return 0;
}

int pw_quant_encode_rows(struct pw_dev *dev, struct pw_quant_encoder *e, int64_t first, struct pw_tensor rows)
{
    const struct pw_weight *w = e->w;
    const int64_t at = first * w->n_in;
    struct pw_weight tile = *w;
    tile.n_out = rows.shape[0];
    tile.absmax_q = NULL;
    tile.nested_absmax = tile.nested_code = NULL;
    tile.nested_block = 0;
    if (four_bit(w->type)) {
        PW_CHECK(at % w->block == 0, PW_E_FAIL, "encoding: a tile begins inside a block");
        tile.data = (const uint8_t *)w->data + at / 2;
        tile.absmax = (e->absmax ? e->absmax : w->absmax) + at / w->block;
    } else if (pw_block_type(w->type)) {
        tile.data = (const uint8_t *)w->data + pw_block_bytes(pw_block_type(w->type), at);
    } else {
        tile.data = (const uint8_t *)w->data + at;
        tile.absmax = w->absmax + first;
    }
    return pw_encode(dev, &tile, rows);
}

int pw_quant_encode_end(struct pw_quant_encoder *e)
{
    struct pw_weight *w = e->w;
    /* The memory is the caller's, laid out by pw_quant_place; the view is const because every other user only reads. */
    if (e->absmax) {
        pw_nested_encode(e->absmax, pw_weight_blocks(w), w->nested_block, (uint8_t *)(uintptr_t)w->absmax_q, (float *)(uintptr_t)w->nested_absmax,
                         &w->nested_offset);
        memcpy((float *)(uintptr_t)w->nested_code, pw_dynamic_map, sizeof pw_dynamic_map);
    }
    pw_free(e->absmax);
    e->absmax = NULL;
    return 0;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static int encode_tile(struct pw_dev *dev, struct pw_quant_encoder *e, struct pw_tensor src, int64_t first, int64_t n, float *tile)
{
    const int64_t n_in = e->w->n_in;
    PW_PASS(pw_quant_widen(tile, (const char *)src.data + (size_t)(first * n_in) * pw_dtype_bytes(src.dtype), src.dtype, n * n_in));
    return pw_quant_encode_rows(dev, e, first, pw_tensor2(tile, PW_F32, n, n_in));
}

int pw_quant_encode(struct pw_dev *dev, struct pw_weight *w, struct pw_tensor src, const struct pw_quant_options *o)
{
    PW_CHECK(o->type == w->type && o->type != PW_Q_DENSE, PW_E_FAIL, "encoding: the weight was laid out as %s, not %s", pw_qtype_name(w->type),
             pw_qtype_name(o->type));
    PW_CHECK(src.ndim == 2 && src.shape[0] == w->n_out && src.shape[1] == w->n_in, PW_E_FAIL,
             "encoding: expected (%" PRId64 ", %" PRId64 "), got another shape", w->n_out, w->n_in);
    const int64_t step = tile_rows(w, MAKING_FLOATS), tiles = (w->n_out + step - 1) / step;
    struct pw_quant_encoder e = {0};
    int64_t failed = tiles;
    bool memory = true;
    int rc = 0;
    PW_PASS_OUT(pw_quant_encode_begin(&e, w));
    /* Tiles belong to threads; ops in here stay on theirs. Of those that fail the first is made again, to say why from this thread. */
#pragma omp parallel num_threads(dev->threads) reduction(&& : memory) reduction(min : failed) if (tiles > 1)
    {
        float *tile = pw_alloc((size_t)(least(step, w->n_out) * w->n_in) * sizeof(float));
        memory = tile != NULL;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < tiles; i++)
            if (tile && encode_tile(dev, &e, src, i * step, least(step, w->n_out - i * step), tile) < 0)
                failed = i < failed ? i : failed;
        pw_free(tile);
    }
    PW_CHECK_OUT(memory, PW_E_NOMEM, "no memory for a tile");
    if (failed < tiles) {
        float *tile = pw_alloc((size_t)(least(step, w->n_out) * w->n_in) * sizeof(float));
        PW_CHECK_OUT(tile, PW_E_NOMEM, "no memory for a tile");
        rc = encode_tile(dev, &e, src, failed * step, least(step, w->n_out - failed * step), tile);
        pw_free(tile);
    }
out:
    if (rc == 0)
        rc = pw_quant_encode_end(&e);
    else
        pw_free(e.absmax);
    return rc;
}

/* 64 elements; whether all are numbers */
static inline bool widen_piece(float *out, const uint8_t *in, enum pw_dtype dtype)
{
    uint32_t bits[64], bad = 0;
    uint16_t half[64];
    if (dtype == PW_F32)
        memcpy(bits, in, sizeof bits);
    else
        memcpy(half, in, sizeof half);
    if (dtype == PW_BF16)
        for (int i = 0; i < 64; i++)
            bits[i] = (uint32_t)half[i] << 16;
    if (dtype == PW_F16)
        for (int i = 0; i < 64; i++) {
            const float x = pw_f16_to_f32(half[i]);
            memcpy(bits + i, &x, 4);
        }
    for (int i = 0; i < 64; i++)
        bad |= (bits[i] & 0x7f800000u) == 0x7f800000u ? UINT32_MAX : 0;
    memcpy(out, bits, sizeof bits);
    return bad == 0;
}

int pw_quant_widen(float *out, const void *in, enum pw_dtype dtype, int64_t n)
{
    enum { PIECE = 64 };
    const uint8_t *p = in;
    bool numbers = true;
    PW_CHECK(dtype == PW_F32 || dtype == PW_F16 || dtype == PW_BF16, PW_E_FAIL, "widening: dtype %s is not supported", pw_dtype_name(dtype));
    const size_t size = pw_dtype_bytes(dtype);
#pragma omp parallel for reduction(&& : numbers) if (n > 1 << 15)
    for (int64_t i = 0; i <= n - PIECE; i += PIECE)
        numbers = widen_piece(out + i, p + (size_t)i * size, dtype) && numbers;
    if (n % PIECE) {
        const size_t last = (size_t)(n % PIECE), from = (size_t)n - last;
        uint8_t in_end[PIECE * sizeof(float)] = {0};
        float out_end[PIECE];
        memcpy(in_end, p + from * size, last * size);
        numbers = widen_piece(out_end, in_end, dtype) && numbers;
        memcpy(out + from, out_end, last * sizeof *out);
    }
    for (int64_t i = 0; !numbers && i < n; i++)
        PW_CHECK(isfinite(out[i]), PW_E_NUMERIC, "element %" PRId64 " of a tile is not a number", i);
    return 0;
}
