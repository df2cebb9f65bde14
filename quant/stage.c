/* See stage.h. */
#include "quant/stage.h"

#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "quant/dynamic_map.h"

#define TILE_ELEMENTS ((int64_t)1 << 22)   /* 16 MiB of f32: large enough to fill a card, small beside any model */

static int64_t blocks_of(int64_t elements, int block) { return block ? (elements + block - 1) / block : 0; }

/* A tile is whole blocks and whole rows: at worst as many rows as a block has elements. */
static int64_t tile_of(const struct pw_quant_stage_size *s)
{
    const int64_t least = s->widest * (s->block ? s->block : 1), wanted = s->tile ? s->tile : TILE_ELEMENTS, tile = wanted > least ? wanted : least;
    return tile < s->most ? tile : s->most;
}

size_t pw_quant_stage_bytes(const struct pw_quant_stage_size *size)
{
    const size_t tile = (size_t)tile_of(size);
    return 2 * pw_pool_round(tile * sizeof(float)) + pw_pool_round((size_t)blocks_of(size->most, size->block) * sizeof(float));
}

int pw_quant_stage_open(struct pw_quant_stage *s, struct pw_dev *dev, const struct pw_quant_stage_size *size)
{
    int rc = 0;
    *s = (struct pw_quant_stage){.dev = dev, .tile_elements = tile_of(size), .blocks = blocks_of(size->most, size->block)};
    const size_t tile = (size_t)s->tile_elements * sizeof(float), scales = (size_t)s->blocks * sizeof(float);
    PW_PASS_OUT(pw_pool_open(&s->pool, dev, pw_quant_stage_bytes(size), "quantising on the device"));
    s->stored = pw_pool_take(&s->pool, tile);
    s->tile = pw_pool_take(&s->pool, tile);
    s->absmax = pw_pool_take(&s->pool, scales);
    s->host = pw_alloc(2 * scales + sizeof pw_dynamic_map);   /* scales, then a code each and the scales of the scales */
    PW_CHECK_OUT(s->stored && s->tile && s->absmax && s->host, PW_E_NOMEM, "no memory for quantising on device %s", dev->kind);
out:
    if (rc < 0)
        pw_quant_stage_close(s);
    return rc;
}

void pw_quant_stage_close(struct pw_quant_stage *s)
{
    pw_free(s->host);
    s->host = NULL;
    if (s->dev)
        pw_pool_close(&s->pool);
    s->dev = NULL;
}

bool pw_quant_stage_serves(const struct pw_dev *dev, enum pw_qtype type)
{
    return dev->host ? type != PW_Q_DENSE : type == PW_Q_NF4 || type == PW_Q_FP4 || type == PW_Q_INT8;
}

int pw_quant_stage_begin(struct pw_quant_stage *s, struct pw_quant_encoder *e, struct pw_weight *w, int64_t *rows)
{
    const int64_t unit = pw_quant_tile_unit(w);
    PW_CHECK(!w->absmax_q || pw_weight_blocks(w) <= s->blocks, PW_E_FAIL, "quantising on the device: %lld scales (room for %lld)", (long long)pw_weight_blocks(w),
             (long long)s->blocks);
    *rows = s->tile_elements / w->n_in / unit * unit;
    if (*rows == 0 && w->n_out * w->n_in <= s->tile_elements)
        *rows = w->n_out;
    PW_CHECK(*rows > 0, PW_E_FAIL, "quantising on the device: rows of %lld elements (a tile has %lld)", (long long)w->n_in, (long long)s->tile_elements);
    *e = (struct pw_quant_encoder){.w = w, .absmax = w->absmax_q ? s->absmax : NULL};
    return 0;
}

/* Scales of nested weights are quantised by the processor: a hundredth of the weight, and one definition for all devices. */
int pw_quant_stage_end(struct pw_quant_stage *s, struct pw_quant_encoder *e)
{
    struct pw_weight *w = e->w;
    const int64_t n = pw_weight_blocks(w);
    if (!e->absmax)
        return pw_dev_sync(s->dev);
    const int64_t outer = (n + w->nested_block - 1) / w->nested_block;
    float *absmax = (float *)(void *)s->host, *nested = absmax + n;
    uint8_t *q = (uint8_t *)(nested + outer);
    PW_PASS(pw_dev_get(s->dev, absmax, e->absmax, (size_t)n * sizeof(float)));
    pw_nested_encode(absmax, n, w->nested_block, q, nested, &w->nested_offset);
    /* The memory is the caller's, laid out by pw_quant_place; the view is const because every other user only reads. */
    PW_PASS(pw_dev_put(s->dev, (uint8_t *)(uintptr_t)w->absmax_q, q, (size_t)n));
    PW_PASS(pw_dev_put(s->dev, (float *)(uintptr_t)w->nested_absmax, nested, (size_t)outer * sizeof(float)));
    return pw_dev_put(s->dev, (float *)(uintptr_t)w->nested_code, pw_dynamic_map, sizeof pw_dynamic_map);
}

int pw_quant_stage_encode(struct pw_quant_stage *s, struct pw_weight *w, struct pw_tensor src)
{
    struct pw_quant_encoder e;
    int64_t step;
    PW_CHECK(src.dtype == PW_F32 || src.dtype == PW_F16 || src.dtype == PW_BF16, PW_E_FAIL, "quantising: dtype %s is not supported", pw_dtype_name(src.dtype));
    PW_PASS(pw_quant_stage_begin(s, &e, w, &step));
    for (int64_t first = 0; first < w->n_out; first += step) {
        const int64_t n = w->n_out - first < step ? w->n_out - first : step;
        const size_t size = pw_dtype_bytes(src.dtype), bytes = (size_t)(n * w->n_in) * size;
        const struct pw_tensor rows = pw_tensor2(s->tile, PW_F32, n, w->n_in);
        /* The copy takes the host's bytes and returns; the device widens and encodes while the next rows are read from the file. */
        PW_PASS(pw_dev_put(s->dev, src.dtype == PW_F32 ? (void *)s->tile : s->stored, (const char *)src.data + (size_t)(first * w->n_in) * size, bytes));
        if (src.dtype != PW_F32)
            PW_PASS(pw_copy(s->dev, rows, pw_tensor2(s->stored, src.dtype, n, w->n_in)));
        PW_PASS(pw_quant_encode_rows(s->dev, &e, first, rows));
    }
    return pw_quant_stage_end(s, &e);
}
