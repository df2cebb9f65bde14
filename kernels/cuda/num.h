/* Numbers in kernels: bf16 and f16 are 16 bits in a uint16_t, arithmetic is f32; loads and stores by type; sums over a warp and a block.
 * Rounding is to nearest, ties to even, and NaN stays NaN, as in kernels/tensor.h. */
#ifndef PW_KERNELS_CUDA_NUM_H
#define PW_KERNELS_CUDA_NUM_H

#include "kernels/cuda/simt.h"

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

SIMT_FN float bf16_to_f32(uint16_t b) { return __uint_as_float((uint32_t)b << 16); }
SIMT_FN uint16_t bf16_from_f32(float f)
{
    uint32_t u = __float_as_uint(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}
/* Two at once, `low` in the low half: one word of an mma operand. */
SIMT_FN uint32_t bf16x2(float low, float high) { return (uint32_t)bf16_from_f32(low) | (uint32_t)bf16_from_f32(high) << 16; }
SIMT_FN float bf16x2_low(uint32_t w) { return __uint_as_float(w << 16); }
SIMT_FN float bf16x2_high(uint32_t w) { return __uint_as_float(w & 0xffff0000u); }

SIMT_FN float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13 | (fraction ? 0x400000u : 0));
    if (exponent) return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
    float x = (float)fraction * 0x1p-24f; /* subnormal: exact */
    return __uint_as_float(__float_as_uint(x) | sign);
}
SIMT_FN uint16_t f16_from_f32(float f)
{
    uint32_t u = __float_as_uint(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00);            /* rounds to infinity */
    if (a < 0x38800000u) {                                              /* subnormal in f16 */
        if (a < 0x33000000u) return (uint16_t)sign;
        int shift = 126 - (int)(a >> 23);                               /* 14 .. 24 */
        uint32_t m = (a & 0x7fffffu) | 0x800000u, half = 1u << (shift - 1), q = m >> shift, rest = m & ((1u << shift) - 1);
        return (uint16_t)(sign | (q + (rest > half || (rest == half && (q & 1)))));
    }
    uint32_t r = a - 0x38000000u;
    return (uint16_t)(sign | ((r + 0xfffu + (r >> 13 & 1)) >> 13));
}

/* One element as f32, whatever its type. f64 is only ever written or added to by sums. */
SIMT_FN float load(const float *p, size_t i) { return p[i]; }
SIMT_FN float load(const bf16 *p, size_t i) { return bf16_to_f32(p[i].bits); }
SIMT_FN float load(const f16 *p, size_t i) { return f16_to_f32(p[i].bits); }
SIMT_FN float load(const double *p, size_t i) { return (float)p[i]; }
SIMT_FN void store(float *p, size_t i, float x) { p[i] = x; }
SIMT_FN void store(bf16 *p, size_t i, float x) { p[i].bits = bf16_from_f32(x); }
SIMT_FN void store(f16 *p, size_t i, float x) { p[i].bits = f16_from_f32(x); }
SIMT_FN void store(double *p, size_t i, double x) { p[i] = x; }

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
