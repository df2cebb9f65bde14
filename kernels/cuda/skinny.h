/* A lane's share of a row of W for the kernels that read W once (skinny.cu, skinny_mma.cu): a chunk of 16 bytes, as it was loaded, and eight elements
 * of it at a time. Blocks of GGUF are decoded as they are read: their bytes lie all over a block. */
#ifndef PW_KERNELS_CUDA_SKINNY_H
#define PW_KERNELS_CUDA_SKINNY_H

#include "kernels/cuda/decode.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/linear.h"

static constexpr __host__ __device__ bool chunk_is_block(enum decode_kind kind) { return decode_elements(kind) > 0; }
/* Elements: 16 bytes of codes; 32 bytes of f32. */
static constexpr __host__ __device__ int chunk_of(enum decode_kind kind) { return kind == DECODE_FOUR || chunk_is_block(kind) ? 32 : kind == DECODE_INT8 ? 16 : 8; }
/* Whether rows are whole chunks at aligned addresses, in whole blocks; blocks of GGUF need an even address. */
static inline bool chunk_fits(const struct pw_weight *w)
{
    const enum decode_kind kind = cuda_decode_kind(w);
    if (chunk_is_block(kind)) return linear_words(w);
    return kind != DECODE_KINDS && cuda_weight_fast(w) && w->n_in % chunk_of(kind) == 0 && (uintptr_t)w->data % 16 == 0 && (kind != DECODE_FOUR || w->block % 32 == 0);
}

template <enum decode_kind KIND> struct chunk_raw { uint4 v; float scale; };
template <> struct chunk_raw<DECODE_F32> { float4 v[2]; };

template <enum decode_kind KIND> SIMT_INLINE void chunk_load(chunk_raw<KIND> &raw, const cuda_weight &w, int64_t row, int64_t k)
{
    const int64_t i = row * w.n_in + k;
    if constexpr (KIND == DECODE_F32) {
        raw.v[0] = __ldg((const float4 *)(w.data + 4 * i));
        raw.v[1] = __ldg((const float4 *)(w.data + 4 * i) + 1);
    } else if constexpr (!chunk_is_block(KIND)) {
        raw.v = __ldg((const uint4 *)(w.data + (KIND == DECODE_FOUR ? i / 2 : KIND == DECODE_INT8 ? i : 2 * i)));
        raw.scale = 1;
        if constexpr (KIND == DECODE_FOUR) raw.scale = weight_scale<true>(w, i);
    }
}
/* Elements 8 eight .. of a chunk, before the scale: that of a chunk (4 bits) or of the row (8 bits). */
template <enum decode_kind KIND> SIMT_INLINE void chunk_eight(const chunk_raw<KIND> &raw, const float *table, int eight, float x[8])
{
    if constexpr (KIND == DECODE_F32) {
        x[0] = raw.v[0].x, x[1] = raw.v[0].y, x[2] = raw.v[0].z, x[3] = raw.v[0].w, x[4] = raw.v[1].x, x[5] = raw.v[1].y, x[6] = raw.v[1].z, x[7] = raw.v[1].w;
    } else if constexpr (KIND == DECODE_BF16) bf16_8(raw.v, x);
    else if constexpr (KIND == DECODE_F16) f16_8(raw.v, x);
    else if constexpr (KIND == DECODE_INT8) {
        int8_4(eight ? raw.v.z : raw.v.x, 1, x);
        int8_4(eight ? raw.v.w : raw.v.y, 1, x + 4);
    } else four_bit8(eight == 0 ? raw.v.x : eight == 1 ? raw.v.y : eight == 2 ? raw.v.z : raw.v.w, 1, table, x);
}

struct skinny_args {
    const bf16 *x; int64_t k;     /* (rows, K) */
    bool x_words;                 /* rows are whole 16-byte words */
    struct cuda_weight w;
    int rows, split;
    void *y; bool y_f32;          /* (rows, N) */
    const float *bias;
    const bf16 *xa; const float *b; int r; float scale; /* r 0: no adapter */
    struct expert_group group; const int32_t *starts; int all_rows; /* or none: blockIdx.y is a tile of at most SKINNY_TILE rows of one expert */
};
/* 5 to 16 rows of x, on tensor cores. */
int skinny_mma_run(struct pw_dev *dev, const struct skinny_args *g, enum decode_kind kind);
#endif
