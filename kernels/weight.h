/* What a linear layer multiplies by: a dense matrix or a block-quantised one, with an optional adapter on top.
 *
 * A view like pw_tensor: owns nothing. Logical shape is (n_out, n_in), row-major, and y = x W^T (+ bias).
 * Block types NF4 and FP4 are laid out as bitsandbytes does: the matrix is flattened row-major and cut into blocks of
 * `block` elements over the flat sequence (a row need not be a multiple of it, the last block may be short); element 2i of
 * the sequence is the HIGH nibble of byte i, 2i+1 the LOW one; value = table[code] * absmax[flat / block].
 * The block types of GGUF (Q8_0, Q4_K, ...) hold their scales inside their blocks, each row being whole blocks: kernels/blocks.h.
 * With double quantisation (nested): absmax[b] = nested_code[absmax_q[b]] * nested_absmax[b / nested_block] + nested_offset. */
#ifndef PW_KERNELS_WEIGHT_H
#define PW_KERNELS_WEIGHT_H

#include "kernels/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif
enum pw_qtype {
    PW_Q_DENSE, PW_Q_NF4, PW_Q_FP4, PW_Q_INT8,
#define PW_BLOCK(id, ...) PW_Q_##id,
#include "kernels/blocks.def" /* PW_Q_Q8_0, PW_Q_Q4_0, ... */
#undef PW_BLOCK
    PW_QTYPES
};

struct pw_lora {             /* y += scale * (dropout(x) A^T) B^T */
    int r;
    double scale;            /* alpha / r, or alpha / sqrt(r) */
    struct pw_tensor a, b;   /* (R, n_in), (n_out, R): f32 (f64 on ref) */
    /* DoRA (Liu et al. 2024): every row of W + scale B A gets the length m of its own. The lengths it has, which count as
     * constants in gradients, are kept beside it: op row_norm makes them, anew whenever A, B or W changed. Without dimensions: none. */
    struct pw_tensor magnitude, norm; /* (n_out), (n_out), as a */
    bool drops;              /* with a magnitude: scratch has room for dropout too */
};

struct pw_weight {
    int64_t n_out, n_in;
    enum pw_qtype type;
    enum pw_dtype dtype;          /* dense: of data; quantised: what it was before ("dtype" of the quant state) */
    const void *data;             /* dense elements, or packed codes, ceil(n_out*n_in/2) bytes for NF4 and FP4; GGUF types: all there is */
    const float *absmax;          /* (blocks) f32; NULL when nested. INT8: one per row, value = code * (absmax[row] / 127) */
    const uint8_t *absmax_q;      /* (blocks); NULL when not nested */
    const float *nested_absmax;   /* (ceil(blocks / nested_block)) */
    const float *nested_code;     /* (256) */
    float nested_offset;
    int block, nested_block;      /* 64, 256 */
    const float *bias;            /* (n_out) f32, or NULL */
    const struct pw_lora *lora;   /* or NULL */
};

/* By the shape of the magnitude: plans know it before there is memory. */
static inline bool pw_weight_is_dora(const struct pw_weight *w) { return w->lora && w->lora->magnitude.ndim > 0; }
const char *pw_qtype_name(enum pw_qtype t);        /* "nf4" */
int64_t pw_weight_blocks(const struct pw_weight *w);
size_t pw_weight_data_bytes(const struct pw_weight *w); /* of data alone */
size_t pw_weight_bytes(const struct pw_weight *w); /* of data and scales, as stored */
/* Copies data, scales and bias to device memory of pw_weight_put_bytes, and points w at them. An adapter stays as it is. */
struct pw_dev;
size_t pw_weight_put_bytes(const struct pw_weight *w);
int pw_weight_put(struct pw_dev *dev, void *memory, struct pw_weight *w);
struct pw_weight pw_weight_dense(struct pw_tensor t); /* (n_out, n_in) contiguous */

/* The formats by the element: what backends must agree with, bit for bit. */
float pw_weight_absmax(const struct pw_weight *w, int64_t block); /* nested or not */
float pw_block_inverse(float absmax);                             /* the factor before encoding; finite for a block of zeros */
int pw_nf4_code(float x);                                         /* x in [-1, 1] -> 0..15 */
int pw_fp4_code(float x);
int pw_int8_code(float x, float absmax);                          /* -127..127 */

/* 8-bit states of optimisers: see adamw8 in kernels/op.h. */
#define PW_STATE8_BLOCK 256
int pw_state8_code(const float map[256], float x);               /* index of the nearest value, a tie to the lower one */

extern const float pw_nf4_table[16];      /* kernels/nf4.c: the code values, and the thresholds between them */
extern const float pw_nf4_threshold[15];
extern const float pw_fp4_table[16];
#ifdef __cplusplus
}
#endif
#endif
