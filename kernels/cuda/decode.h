/* Weights in kernels: eight consecutive elements of a row as f32 or bf16, whatever they are stored as (layouts: kernels/weight.h, kernels/blocks.h).
 *
 * A kernel takes a struct cuda_weight by value and is a template over `kind`, how elements are stored, and `fast`, whether each eight are one aligned
 * load of one block (cuda_weight_fast: rows of whole eights, aligned addresses, blocks of a power of two). f32 results are those of kernels/ref bit for
 * bit: each product and sum below is one rounding, never a fused multiply-add; bf16 results are the f32 ones rounded once.
 *
 *   SIMT_SHARED(float[16], table);
 *   decode_table<KIND>(w, table);                    nothing unless the kind has codes: no barrier is needed when decode_uses_table(KIND) is false
 *   __syncthreads();
 *   float x[8];    decode8<KIND, FAST>(w, table, row, k, x);         elements k .. k+7 of `row`, k a multiple of 8, row within the weight;
 *   uint32_t p[4]; decode8_bf16<KIND, FAST>(w, table, row, k, p);    those past the end of the row are 0 and not read; p: two each, the first low
 *
 * Wider loads: read the codes yourself and call four_bit8 / weight_scale / int8_step. */
#ifndef PW_KERNELS_CUDA_DECODE_H
#define PW_KERNELS_CUDA_DECODE_H

#include "kernels/codes.h"
#include "kernels/cuda/blocks.h"
#include "kernels/cuda/cuda.h"

enum decode_kind {
    DECODE_F32, DECODE_BF16, DECODE_F16, DECODE_FOUR, DECODE_INT8, /* FOUR: NF4 and FP4, which differ by the table alone */
#define PW_BLOCK(id, ...) DECODE_##id,
#include "kernels/blocks.def"
#undef PW_BLOCK
    DECODE_KINDS
};

struct cuda_weight {
    const uint8_t *data;
    const float *absmax;           /* NULL: nested */
    const uint8_t *absmax_q;
    const float *nested_absmax, *nested_code;
    float nested_offset;
    int block, nested_block;
    int shift, nested_shift;       /* their logarithms, -1 when they are no powers of two */
    bool fp4;
    int64_t n_out, n_in;
};

/* ---- host ---- */

static inline int cuda_shift_of(int n)
{
    for (int s = 0; s < 31; s++)
        if (n == 1 << s) return s;
    return -1;
}
static inline struct cuda_weight cuda_weight_of(const struct pw_weight *w)
{
    return {(const uint8_t *)w->data, w->absmax_q ? NULL : w->absmax, w->absmax_q, w->nested_absmax, w->nested_code, w->nested_offset, w->block, w->nested_block,
            cuda_shift_of(w->block), cuda_shift_of(w->nested_block), w->type == PW_Q_FP4, w->n_out, w->n_in};
}
/* DECODE_KINDS: no kernel knows this type. */
static inline enum decode_kind cuda_decode_kind(const struct pw_weight *w)
{
    if (w->type == PW_Q_NF4 || w->type == PW_Q_FP4) return DECODE_FOUR;
    if (w->type == PW_Q_INT8) return DECODE_INT8;
    if (w->type == PW_Q_DENSE) return w->dtype == PW_F32 ? DECODE_F32 : w->dtype == PW_BF16 ? DECODE_BF16 : w->dtype == PW_F16 ? DECODE_F16 : DECODE_KINDS;
    switch (w->type) {
#define PW_BLOCK(id, ...) case PW_Q_##id: return DECODE_##id;
#include "kernels/blocks.def"
#undef PW_BLOCK
    default: return DECODE_KINDS;
    }
}
static inline bool cuda_weight_fast(const struct pw_weight *w)
{
    const enum decode_kind kind = cuda_decode_kind(w);
    const uintptr_t align = kind == DECODE_FOUR ? 4 : kind == DECODE_INT8 ? 8 : 16;
    if (w->n_in % 8 || (uintptr_t)w->data % align) return false;
    return kind != DECODE_FOUR || (cuda_shift_of(w->block) >= 3 && (!w->absmax_q || cuda_shift_of(w->nested_block) >= 0));
}
/* The statement with `kind` a constant of type decode_kind; other weight types are an error that names the op. */
#define CUDA_BY_KIND(w, op, kind, ...)                                                              \
    switch (cuda_decode_kind(w)) {                                                                  \
    case DECODE_F32: { [[maybe_unused]] constexpr enum decode_kind kind = DECODE_F32; __VA_ARGS__; break; }          \
    case DECODE_BF16: { [[maybe_unused]] constexpr enum decode_kind kind = DECODE_BF16; __VA_ARGS__; break; }        \
    case DECODE_F16: { [[maybe_unused]] constexpr enum decode_kind kind = DECODE_F16; __VA_ARGS__; break; }          \
    case DECODE_FOUR: { [[maybe_unused]] constexpr enum decode_kind kind = DECODE_FOUR; __VA_ARGS__; break; }        \
    case DECODE_INT8: { [[maybe_unused]] constexpr enum decode_kind kind = DECODE_INT8; __VA_ARGS__; break; }        \
    case DECODE_Q8_0: { [[maybe_unused]] constexpr enum decode_kind kind = DECODE_Q8_0; __VA_ARGS__; break; }                     \
    case DECODE_Q4_0: { [[maybe_unused]] constexpr enum decode_kind kind = DECODE_Q4_0; __VA_ARGS__; break; }                     \
    case DECODE_Q4_1: { [[maybe_unused]] constexpr enum decode_kind kind = DECODE_Q4_1; __VA_ARGS__; break; }                     \
    case DECODE_Q5_0: { [[maybe_unused]] constexpr enum decode_kind kind = DECODE_Q5_0; __VA_ARGS__; break; }                     \
    case DECODE_Q5_1: { [[maybe_unused]] constexpr enum decode_kind kind = DECODE_Q5_1; __VA_ARGS__; break; }                     \
    case DECODE_Q4_K: { [[maybe_unused]] constexpr enum decode_kind kind = DECODE_Q4_K; __VA_ARGS__; break; }                     \
    case DECODE_Q5_K: { [[maybe_unused]] constexpr enum decode_kind kind = DECODE_Q5_K; __VA_ARGS__; break; }                     \
    case DECODE_Q6_K: { [[maybe_unused]] constexpr enum decode_kind kind = DECODE_Q6_K; __VA_ARGS__; break; }                     \
    case DECODE_IQ4_NL: { [[maybe_unused]] constexpr enum decode_kind kind = DECODE_IQ4_NL; __VA_ARGS__; break; }                 \
    default: return pw_error(PW_E_UNSUPPORTED, "%s: device %s has no kernel for weights of type %s", (op), dev->kind, pw_qtype_name((w)->type)); \
    }

/* ---- device ---- */

SIMT_FN constexpr bool decode_uses_table(enum decode_kind kind) { return kind == DECODE_FOUR || kind == DECODE_IQ4_NL; }
/* Of a block type of GGUF; 0 elements: the kind is none. */
static constexpr __host__ __device__ int decode_elements(enum decode_kind kind)
{
    switch (kind) {
#define PW_BLOCK(id, name, stored, ggml, elements, bytes, ...) case DECODE_##id: return elements;
#include "kernels/blocks.def"
#undef PW_BLOCK
    default: return 0;
    }
}
SIMT_FN constexpr int decode_bytes(enum decode_kind kind)
{
    switch (kind) {
#define PW_BLOCK(id, name, stored, ggml, elements, bytes, ...) case DECODE_##id: return bytes;
#include "kernels/blocks.def"
#undef PW_BLOCK
    default: return 0;
    }
}

template <enum decode_kind KIND> SIMT_INLINE void decode_table(const cuda_weight &w, float *table)
{
    static constexpr float nf4[16] = {PW_NF4_VALUES}, fp4[16] = {PW_FP4_VALUES}, iq4[16] = {PW_IQ4_VALUES};
    const unsigned i = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    if (decode_uses_table(KIND) && i < 16) table[i] = KIND == DECODE_IQ4_NL ? iq4[i] : w.fp4 ? fp4[i] : nf4[i];
}

/* The scale of the block that holds element i of the flat sequence. */
template <bool FAST> SIMT_INLINE float weight_scale(const cuda_weight &w, int64_t i)
{
    const int64_t block = FAST ? i >> w.shift : i / w.block;
    if (w.absmax) return __ldg(w.absmax + block);
    const int64_t outer = FAST ? block >> w.nested_shift : block / w.nested_block;
    return __fadd_rn(__fmul_rn(__ldg(w.nested_code + __ldg(w.absmax_q + block)), __ldg(w.nested_absmax + outer)), w.nested_offset); /* two roundings */
}
SIMT_FN float int8_step(float absmax) { return absmax / 127.0f; }

/* Eight codes, as they lie in four bytes: the first is the high half of the lowest byte. */
SIMT_FN void four_bit8(uint32_t codes, float scale, const float *table, float x[8])
{
#pragma unroll
    for (int e = 0; e < 8; e++) x[e] = __fmul_rn(table[codes >> (8 * (e / 2) + (e % 2 ? 0 : 4)) & 15], scale);
}
/* Four codes of a byte each. */
SIMT_FN void int8_4(uint32_t codes, float step, float x[4])
{
#pragma unroll
    for (int e = 0; e < 4; e++) x[e] = __fmul_rn((float)(int8_t)(codes >> 8 * e & 255), step);
}
SIMT_FN void bf16_8(uint4 v, float x[8])
{
    const uint32_t p[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int e = 0; e < 8; e++) x[e] = e % 2 ? bf16x2_high(p[e / 2]) : bf16x2_low(p[e / 2]);
}
SIMT_FN void f16_8(uint4 v, float x[8])
{
    const uint32_t p[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int e = 0; e < 8; e++) x[e] = f16_to_f32((uint16_t)(e % 2 ? p[e / 2] >> 16 : p[e / 2] & 0xffff));
}

template <enum decode_kind KIND, bool EVEN> SIMT_INLINE void decode8_block(const uint8_t *block, const float *table, int at, float x[8])
{
    if constexpr (KIND == DECODE_Q8_0) block8_q8_0<EVEN>(block, at, x);
    else if constexpr (KIND == DECODE_Q4_0) block8_q4_0<EVEN>(block, at, x);
    else if constexpr (KIND == DECODE_Q4_1) block8_q4_1<EVEN>(block, at, x);
    else if constexpr (KIND == DECODE_Q5_0) block8_q5_0<EVEN>(block, at, x);
    else if constexpr (KIND == DECODE_Q5_1) block8_q5_1<EVEN>(block, at, x);
    else if constexpr (KIND == DECODE_Q4_K) block8_q4_K<EVEN>(block, at, x);
    else if constexpr (KIND == DECODE_Q5_K) block8_q5_K<EVEN>(block, at, x);
    else if constexpr (KIND == DECODE_Q6_K) block8_q6_K<EVEN>(block, at, x);
    else block8_iq4_nl<EVEN>(block, at, table, x);
}

/* Without alignment: by the element. */
template <enum decode_kind KIND> SIMT_INLINE void decode8_any(const cuda_weight &w, const float *table, int64_t row, int64_t k, float x[8])
{
    const int64_t i = row * w.n_in + k;
    float scale = 0;
    int left = 0; /* elements of the current block still to come */
    if constexpr (KIND == DECODE_INT8) scale = int8_step(__ldg(w.absmax + row));
    if constexpr (KIND == DECODE_FOUR)
        if (k < w.n_in) scale = weight_scale<false>(w, i), left = w.block - (int)(i % w.block);
#pragma unroll
    for (int e = 0; e < 8; e++) {
        x[e] = 0;
        if (k + e >= w.n_in) continue;
        if constexpr (KIND == DECODE_F32) x[e] = load((const float *)w.data, (size_t)(i + e));
        else if constexpr (KIND == DECODE_BF16) x[e] = load((const bf16 *)w.data, (size_t)(i + e));
        else if constexpr (KIND == DECODE_F16) x[e] = load((const f16 *)w.data, (size_t)(i + e));
        else if constexpr (KIND == DECODE_INT8) x[e] = __fmul_rn((float)((const int8_t *)w.data)[i + e], scale);
        else {
            if (left == 0) scale = weight_scale<false>(w, i + e), left = w.block;
            const uint8_t byte = w.data[(i + e) >> 1];
            x[e] = __fmul_rn(table[(i + e) & 1 ? byte & 15 : byte >> 4], scale);
            left--;
        }
    }
}

template <enum decode_kind KIND, bool FAST> SIMT_INLINE void decode8(const cuda_weight &w, const float *table, int64_t row, int64_t k, float x[8])
{
    constexpr int elements = decode_elements(KIND);
    const int64_t i = row * w.n_in + k;
    if constexpr (!FAST && elements == 0) {
        decode8_any<KIND>(w, table, row, k, x);
    } else if (k >= w.n_in) {
#pragma unroll
        for (int e = 0; e < 8; e++) x[e] = 0;
    } else if constexpr (elements > 0) { /* rows are whole blocks */
        decode8_block<KIND, FAST>(w.data + i / elements * decode_bytes(KIND), table, (int)(k % elements), x);
    } else if constexpr (KIND == DECODE_F32) {
        const float4 a = __ldg((const float4 *)(w.data + 4 * i)), b = __ldg((const float4 *)(w.data + 4 * i) + 1);
        x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
    } else if constexpr (KIND == DECODE_BF16) {
        bf16_8(__ldg((const uint4 *)(w.data + 2 * i)), x);
    } else if constexpr (KIND == DECODE_F16) {
        f16_8(__ldg((const uint4 *)(w.data + 2 * i)), x);
    } else if constexpr (KIND == DECODE_INT8) {
        const uint2 v = __ldg((const uint2 *)(w.data + i));
        const float step = int8_step(__ldg(w.absmax + row));
        int8_4(v.x, step, x);
        int8_4(v.y, step, x + 4);
    } else if constexpr (KIND == DECODE_FOUR) {
        four_bit8(__ldg((const uint32_t *)(w.data + (i >> 1))), weight_scale<true>(w, i), table, x);
    }
}

template <enum decode_kind KIND, bool FAST> SIMT_INLINE void decode8_bf16(const cuda_weight &w, const float *table, int64_t row, int64_t k, uint32_t p[4])
{
    if constexpr (KIND == DECODE_BF16 && FAST) {
        const uint4 v = k < w.n_in ? __ldg((const uint4 *)(w.data + 2 * (row * w.n_in + k))) : make_uint4(0, 0, 0, 0);
        p[0] = v.x, p[1] = v.y, p[2] = v.z, p[3] = v.w;
    } else {
        float x[8];
        decode8<KIND, FAST>(w, table, row, k, x);
#pragma unroll
        for (int e = 0; e < 4; e++) p[e] = bf16x2(x[2 * e], x[2 * e + 1]);
    }
}
#endif
