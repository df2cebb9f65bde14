/* Numbers in kernels: bf16 and f16 are 16 bits in a uint16_t, arithmetic is f32; loads and stores by type; sums over a warp and a block.
 * Rounding is to nearest, ties to even, and NaN stays NaN, as in kernels/tensor.h. */
#ifndef PW_KERNELS_CUDA_NUM_H
#define PW_KERNELS_CUDA_NUM_H

#include "kernels/cuda/simt.h"

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

SIMT_FN float bf16_to_f32(uint16_t b) { return __uint_as_float((uint32_t)b << 16); }
SIMT_FN uint16_t bf16_from_f32(float f) { return cvt_bf16(f); }
/* Two at once, `low` in the low half: one word of an mma operand. */
SIMT_FN uint32_t bf16x2(float low, float high) { return cvt_bf16x2(low, high); }
SIMT_FN float bf16x2_low(uint32_t w) { return __uint_as_float(w << 16); }
SIMT_FN float bf16x2_high(uint32_t w) { return __uint_as_float(w & 0xffff0000u); }

SIMT_FN float f16_to_f32(uint16_t h) { return cvt_f32_from_f16(h); }
SIMT_FN uint16_t f16_from_f32(float f) { return cvt_f16(f); }

/* One element as f32, whatever its type. f64 is only ever written or added to by sums. */
SIMT_FN float load(bf16 x) { return bf16_to_f32(x.bits); }
SIMT_FN float load(f16 x) { return f16_to_f32(x.bits); }
SIMT_FN float load(const float *p, size_t i) { return p[i]; }
SIMT_FN float load(const bf16 *p, size_t i) { return bf16_to_f32(p[i].bits); }
SIMT_FN float load(const f16 *p, size_t i) { return f16_to_f32(p[i].bits); }
SIMT_FN float load(const double *p, size_t i) { return (float)p[i]; }
SIMT_FN void store(float *p, size_t i, float x) { p[i] = x; }
SIMT_FN void store(bf16 *p, size_t i, float x) { p[i].bits = bf16_from_f32(x); }
SIMT_FN void store(f16 *p, size_t i, float x) { p[i].bits = f16_from_f32(x); }
SIMT_FN void store(double *p, size_t i, double x) { p[i] = x; }

/* Eight consecutive elements, i .. i+7; those from `end` on are 0, not read and not written. FAST: the address of element i is a multiple of 16. */
template <bool FAST> SIMT_INLINE void load8(const float *p, int64_t i, int64_t end, float x[8])
{
    if (FAST && i + 8 <= end) {
        const float4 a = ((const float4 *)(p + i))[0], b = ((const float4 *)(p + i))[1];
        x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
    } else {
#pragma unroll
        for (int e = 0; e < 8; e++) x[e] = i + e < end ? p[i + e] : 0;
    }
}
template <bool FAST> SIMT_INLINE void store8(float *p, int64_t i, int64_t end, const float x[8])
{
    if (FAST && i + 8 <= end) {
        ((float4 *)(p + i))[0] = make_float4(x[0], x[1], x[2], x[3]);
        ((float4 *)(p + i))[1] = make_float4(x[4], x[5], x[6], x[7]);
    } else {
#pragma unroll
        for (int e = 0; e < 8; e++)
            if (i + e < end) p[i + e] = x[e];
    }
}
/* X: bf16 or f16 */
template <bool FAST, class X> SIMT_INLINE void load8(const X *p, int64_t i, int64_t end, float x[8])
{
    if (FAST && i + 8 <= end) {
        const uint4 v = *(const uint4 *)(p + i);
        const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int e = 0; e < 8; e++) x[e] = load(X{(uint16_t)(e % 2 ? w[e / 2] >> 16 : w[e / 2] & 0xffff)});
    } else {
#pragma unroll
        for (int e = 0; e < 8; e++) x[e] = i + e < end ? load(p, (size_t)(i + e)) : 0;
    }
}
SIMT_FN uint32_t pair_of(bf16, float low, float high) { return cvt_bf16x2(low, high); }
SIMT_FN uint32_t pair_of(f16, float low, float high) { return (uint32_t)cvt_f16(low) | (uint32_t)cvt_f16(high) << 16; }
template <bool FAST, class X> SIMT_INLINE void store8(X *p, int64_t i, int64_t end, const float x[8])
{
    if (FAST && i + 8 <= end) {
        *(uint4 *)(p + i) = make_uint4(pair_of(X{}, x[0], x[1]), pair_of(X{}, x[2], x[3]), pair_of(X{}, x[4], x[5]), pair_of(X{}, x[6], x[7]));
    } else {
#pragma unroll
        for (int e = 0; e < 8; e++)
            if (i + e < end) store(p, (size_t)(i + e), x[e]);
    }
}

/* Sum over the 32 lanes, the same in every lane, in a fixed order. */
template <class T> SIMT_INLINE T warp_sum(T v)
{
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}
SIMT_FN float warp_max(float v) /* NaN if any is */
{
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) {
        float w = __shfl_xor_sync(0xffffffffu, v, d);
        v = w > v || w != w ? w : v;
    }
    return v;
}
struct best { float z; int word; };
/* The larger; of equals the one that comes first. NaN is never larger. */
SIMT_FN best better(best a, best b) { return b.z > a.z || (b.z == a.z && b.word < a.word) ? b : a; }
SIMT_FN best warp_best(best v)
{
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) v = better(v, best{__shfl_xor_sync(0xffffffffu, v.z, d), __shfl_xor_sync(0xffffffffu, v.word, d)});
    return v;
}
/* Sum over a block of whole warps, at most 32; `partial` is shared memory of 32 elements, free for reuse after the next __syncthreads. */
template <class T> SIMT_INLINE T block_sum(T v, T *partial)
{
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    v = warp_sum(v);
    if (lane == 0) partial[warp] = v;
    __syncthreads();
    return warp_sum(lane < blockDim.x / 32 ? partial[lane] : (T)0); /* every warp sums the partial sums itself */
}
#endif
