/* Weights: sizes, names, and the scalar definition of the quantised formats (what one code means, which code a value gets).
 * The layouts are described in weight.h. No loops over matrices here: those are ops. */
#include "kernels/weight.h"
#include "kernels/blocks.h"

#include <math.h>
#include <string.h>
#include "base/error.h"
#include "kernels/codes.h"
#include "kernels/dev.h"

static const char *const names[] = { [PW_Q_DENSE] = "dense", [PW_Q_NF4] = "nf4", [PW_Q_FP4] = "fp4", [PW_Q_INT8] = "int8" };

const char *pw_qtype_name(enum pw_qtype t)
{
    const struct pw_block_type *b = pw_block_type(t);
    return b ? b->name : (size_t)t < sizeof names / sizeof *names ? names[t] : "?";
}

int64_t pw_weight_blocks(const struct pw_weight *w)
{
    if (w->type == PW_Q_INT8) return w->n_out;
    const struct pw_block_type *b = pw_block_type(w->type);
    if (b) return w->n_out * (w->n_in / b->elements);
    if (w->type == PW_Q_DENSE || w->block < 1) return 0;
    return (w->n_out * w->n_in + w->block - 1) / w->block;
}

size_t pw_weight_data_bytes(const struct pw_weight *w)
{
    size_t n = (size_t)w->n_out * (size_t)w->n_in;
    const struct pw_block_type *b = pw_block_type(w->type);
    if (b) return (size_t)pw_weight_blocks(w) * (size_t)b->bytes;
    return w->type == PW_Q_DENSE ? n * pw_dtype_bytes(w->dtype) : w->type == PW_Q_INT8 ? n : (n + 1) / 2;
}

size_t pw_weight_bytes(const struct pw_weight *w)
{
    size_t blocks = (size_t)pw_weight_blocks(w), bytes = pw_weight_data_bytes(w);
    if (w->type == PW_Q_DENSE || pw_block_type(w->type)) return bytes;
    if (!w->absmax_q) return bytes + blocks * sizeof(float);
    size_t nested = w->nested_block > 0 ? (blocks + (size_t)w->nested_block - 1) / (size_t)w->nested_block : 0;
    return bytes + blocks + (nested + 256 + 1) * sizeof(float);
}

/* Each part of a weight in memory, with its size; absent parts have none. */
enum { PARTS = 6 };
struct part { const void *from; size_t bytes; };

static void list_parts(const struct pw_weight *w, struct part part[PARTS])
{
    size_t blocks = (size_t)pw_weight_blocks(w), nested = w->absmax_q && w->nested_block > 0 ? (blocks + (size_t)w->nested_block - 1) / (size_t)w->nested_block : 0;
    part[0] = (struct part){ w->data, pw_weight_data_bytes(w) };
    part[1] = (struct part){ w->absmax, w->absmax ? blocks * sizeof(float) : 0 };
    part[2] = (struct part){ w->absmax_q, w->absmax_q ? blocks : 0 };
    part[3] = (struct part){ w->nested_absmax, nested * sizeof(float) };
    part[4] = (struct part){ w->nested_code, w->absmax_q ? 256 * sizeof(float) : 0 };
    part[5] = (struct part){ w->bias, w->bias ? (size_t)w->n_out * sizeof(float) : 0 };
}

size_t pw_weight_put_bytes(const struct pw_weight *w)
{
    struct part part[PARTS];
    size_t bytes = 0;
    list_parts(w, part);
    for (int i = 0; i < PARTS; i++) bytes += pw_pool_round(part[i].bytes);
    return bytes;
}

int pw_weight_put(struct pw_dev *dev, void *memory, struct pw_weight *w)
{
    struct part part[PARTS];
    const void *to[PARTS];
    char *at = memory;
    list_parts(w, part);
    for (int i = 0; i < PARTS; i++) {
        to[i] = part[i].bytes ? at : NULL;
        PW_PASS(pw_dev_put(dev, at, part[i].from, part[i].bytes));
        at += pw_pool_round(part[i].bytes);
    }
    w->data = to[0];
    w->absmax = to[1];
    w->absmax_q = to[2];
    w->nested_absmax = to[3];
    w->nested_code = to[4];
    w->bias = to[5];
    return 0;
}

struct pw_weight pw_weight_dense(struct pw_tensor t)
{
    struct pw_weight w;
    memset(&w, 0, sizeof w);
    w.type = PW_Q_DENSE;
    w.dtype = t.dtype;
    w.data = t.data;
    w.n_out = t.shape[0];
    w.n_in = t.shape[1];
    return w;
}

float pw_weight_absmax(const struct pw_weight *w, int64_t block)
{
    if (!w->absmax_q) return w->absmax[block];
    float scaled = w->nested_code[w->absmax_q[block]] * w->nested_absmax[block / w->nested_block];
    return scaled + w->nested_offset; /* two roundings, as bitsandbytes does it */
}

float pw_block_inverse(float absmax)
{
    return 1.0f / (absmax > 1e-38f ? absmax : 1e-38f); /* finite: a block of zeros becomes zeros, not NaN */
}

int pw_nf4_code(float x)
{
    int code = 0;
    for (int i = 0; i < 15; i++) code += x > pw_nf4_threshold[i];
    return code;
}

int pw_fp4_code(float x)
{
    static const float above[7] = { PW_FP4_ABOVE };
    static const int code[7] = { PW_FP4_CODES };
    int sign = x < 0 ? 8 : 0;
    float a = fabsf(x);
    for (int i = 0; i < 7; i++)
        if (a > above[i]) return code[i] + sign;
    return sign;
}

int pw_int8_code(float x, float absmax)
{
    float factor = 127.0f / absmax;
    return isfinite(factor) ? (int)nearbyintf(x * factor) : 0; /* no finite factor: zeros, and values so small that their step is none */
}

int pw_state8_code(const float map[256], float x)
{
    int low = 0, high = 255;                /* the answer lies in [low, high] */
    while (low < high) {
        int k = (low + high) / 2;
        if (x > (map[k] + map[k + 1]) * 0.5f)
            low = k + 1;
        else
            high = k;
    }
    return low;
}
