/* Experts as one launch finds them: a table of their weights, and which block takes which rows, both in scratch, written there by experts.cu before the
 * products of a call. A kernel that is given a group begins with the weight that all have in common (types, sizes) and takes the rest from the table. */
#ifndef PW_KERNELS_CUDA_EXPERTS_H
#define PW_KERNELS_CUDA_EXPERTS_H

#include "kernels/cuda/decode.h"

struct expert_entry {
    const uint8_t *data;
    const float *absmax;
    const uint8_t *absmax_q;
    const float *nested_absmax, *nested_code;
    const float *bias, *a, *b;     /* NULL where there are none */
    float *da, *db;
    float nested_offset, scale;
};
struct expert_tile { int32_t expert, first; }; /* expert -1: nothing to do; first: of its own rows */
/* Which matrix of an expert a product multiplies by, or which gradient it adds to. */
enum expert_operand { EXPERT_W, EXPERT_A, EXPERT_B };
struct expert_group {
    const struct expert_entry *entries; /* NULL: no group */
    const struct expert_tile *tiles;    /* of the block height of the kernel, one for each blockIdx.x (skinny: .y); TA: none, blockIdx.z is the expert */
    int n, n_tiles;
    enum expert_operand operand;
};
/* There are no more tiles than this, however the rows are shared out: one that is not full for each expert, and whole ones. */
static inline int64_t expert_tiles(int64_t rows, int64_t experts, int64_t height) { return rows / height + (experts < rows ? experts : rows); }

SIMT_FN cuda_weight expert_weight(cuda_weight w, const struct expert_entry &e, enum expert_operand operand)
{
    if (operand == EXPERT_W) {
        w.data = e.data;
        w.absmax = e.absmax;
        w.absmax_q = e.absmax_q;
        w.nested_absmax = e.nested_absmax;
        w.nested_code = e.nested_code;
        w.nested_offset = e.nested_offset;
    } else w.data = (const uint8_t *)(operand == EXPERT_A ? e.a : e.b);
    return w;
}
#endif
