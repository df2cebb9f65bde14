/* The block types of GGUF files in kernels: eight consecutive elements of a block, bit for bit as kernels/block_decode.h makes them (one rounding for
 * each operation, no fused multiply-add). Layouts: kernels/blocks.h. A part of decode.h, which is what to include.
 *
 * EVEN: the block's address is even, which it is in every file and pool: words are read two bytes at a time, else byte by byte. */
#ifndef PW_KERNELS_CUDA_BLOCKS_H
#define PW_KERNELS_CUDA_BLOCKS_H

#include "kernels/cuda/num.h"

template <bool EVEN> SIMT_INLINE uint32_t block_u16(const uint8_t *p)
{
    if constexpr (EVEN) return __ldg((const uint16_t *)p);
    else return (uint32_t)__ldg(p) | (uint32_t)__ldg(p + 1) << 8;
}
template <bool EVEN> SIMT_INLINE uint32_t block_u32(const uint8_t *p) { return block_u16<EVEN>(p) | block_u16<EVEN>(p + 2) << 16; }
template <bool EVEN> SIMT_INLINE float block_half(const uint8_t *p) { return f16_to_f32((uint16_t)block_u16<EVEN>(p)); }
SIMT_FN int byte_of(const uint32_t w[2], int e) { return (int)(w[e / 4] >> 8 * (e % 4) & 255); }

/* x = d * c + m, two roundings */
SIMT_FN float block_line(float d, int c, float m) { return __fadd_rn(__fmul_rn(d, (float)c), m); }

/* Scale and minimum of group g of q4_K and q5_K */
SIMT_FN void block_scales(const uint8_t *s, int g, float *scale, float *minimum)
{
    const int low = __ldg(s + (g < 4 ? g : g - 4)), mid = __ldg(s + (g < 4 ? g + 4 : g)), high = g < 4 ? 0 : __ldg(s + g + 4);
    *scale = (float)(g < 4 ? low & 63 : (high & 15) | low >> 6 << 4);
    *minimum = (float)(g < 4 ? mid & 63 : high >> 4 | mid >> 6 << 4);
}

/* Types of 32 elements: elements at .. at+7, `at` 0, 8, 16 or 24. */
template <bool EVEN> SIMT_INLINE void block8_q8_0(const uint8_t *b, int at, float x[8])
{
    const float d = block_half<EVEN>(b);
    const uint32_t q[2] = {block_u32<EVEN>(b + 2 + at), block_u32<EVEN>(b + 6 + at)};
#pragma unroll
    for (int e = 0; e < 8; e++) x[e] = __fmul_rn((float)(int8_t)byte_of(q, e), d);
}
/* Eight 4-bit codes out of 16 bytes at q: the low halves come first. */
template <bool EVEN> SIMT_INLINE void codes8(const uint8_t *q, int at, uint32_t c[2])
{
    q += at % 16;
    const int shift = at < 16 ? 0 : 4;
    c[0] = block_u32<EVEN>(q) >> shift & 0x0f0f0f0fu;
    c[1] = block_u32<EVEN>(q + 4) >> shift & 0x0f0f0f0fu;
}
template <bool EVEN> SIMT_INLINE void block8_q4_0(const uint8_t *b, int at, float x[8])
{
    uint32_t c[2];
    const float d = block_half<EVEN>(b);
    codes8<EVEN>(b + 2, at, c);
#pragma unroll
    for (int e = 0; e < 8; e++) x[e] = __fmul_rn(d, (float)(byte_of(c, e) - 8));
}
template <bool EVEN> SIMT_INLINE void block8_q4_1(const uint8_t *b, int at, float x[8])
{
    uint32_t c[2];
    const float d = block_half<EVEN>(b), m = block_half<EVEN>(b + 2);
    codes8<EVEN>(b + 4, at, c);
#pragma unroll
    for (int e = 0; e < 8; e++) x[e] = block_line(d, byte_of(c, e), m);
}
template <bool EVEN> SIMT_INLINE void block8_q5_0(const uint8_t *b, int at, float x[8])
{
    uint32_t c[2];
    const float d = block_half<EVEN>(b);
    const uint32_t high = block_u32<EVEN>(b + 2) >> at;
    codes8<EVEN>(b + 6, at, c);
#pragma unroll
    for (int e = 0; e < 8; e++) x[e] = __fmul_rn(d, (float)((byte_of(c, e) | (int)(high >> e & 1) << 4) - 16));
}
template <bool EVEN> SIMT_INLINE void block8_q5_1(const uint8_t *b, int at, float x[8])
{
    uint32_t c[2];
    const float d = block_half<EVEN>(b), m = block_half<EVEN>(b + 2);
    const uint32_t high = block_u32<EVEN>(b + 4) >> at;
    codes8<EVEN>(b + 8, at, c);
#pragma unroll
    for (int e = 0; e < 8; e++) x[e] = block_line(d, byte_of(c, e) | (int)(high >> e & 1) << 4, m);
}
template <bool EVEN> SIMT_INLINE void block8_iq4_nl(const uint8_t *b, int at, const float *table, float x[8])
{
    uint32_t c[2];
    const float d = block_half<EVEN>(b);
    codes8<EVEN>(b + 2, at, c);
#pragma unroll
    for (int e = 0; e < 8; e++) x[e] = __fmul_rn(d, table[byte_of(c, e)]);
}

/* Types of 256 elements in groups of 32: `at` a multiple of 8 below 256. */
template <bool EVEN> SIMT_INLINE void block8_q4_K(const uint8_t *b, int at, float x[8])
{
    const int g = at / 32, shift = 4 * (g & 1);
    const uint8_t *const q = b + 16 + 32 * (g / 2) + at % 32;
    float scale, minimum;
    block_scales(b + 4, g, &scale, &minimum);
    const float d = __fmul_rn(block_half<EVEN>(b), scale), m = -__fmul_rn(block_half<EVEN>(b + 2), minimum);
    const uint32_t c[2] = {block_u32<EVEN>(q) >> shift & 0x0f0f0f0fu, block_u32<EVEN>(q + 4) >> shift & 0x0f0f0f0fu};
#pragma unroll
    for (int e = 0; e < 8; e++) x[e] = block_line(d, byte_of(c, e), m);
}
template <bool EVEN> SIMT_INLINE void block8_q5_K(const uint8_t *b, int at, float x[8])
{
    const int g = at / 32, shift = 4 * (g & 1);
    const uint8_t *const h = b + 16 + at % 32, *const q = b + 48 + 32 * (g / 2) + at % 32;
    float scale, minimum;
    block_scales(b + 4, g, &scale, &minimum);
    const float d = __fmul_rn(block_half<EVEN>(b), scale), m = -__fmul_rn(block_half<EVEN>(b + 2), minimum);
    const uint32_t c[2] = {(block_u32<EVEN>(q) >> shift & 0x0f0f0f0fu) | (block_u32<EVEN>(h) >> g & 0x01010101u) << 4,
                           (block_u32<EVEN>(q + 4) >> shift & 0x0f0f0f0fu) | (block_u32<EVEN>(h + 4) >> g & 0x01010101u) << 4};
#pragma unroll
    for (int e = 0; e < 8; e++) x[e] = block_line(d, byte_of(c, e), m);
}
template <bool EVEN> SIMT_INLINE void block8_q6_K(const uint8_t *b, int at, float x[8])
{
    const int g = at / 32, half = g / 4, part = g % 4, shift = 4 * (part >> 1), high = 2 * part;
    const uint8_t *const l = b + 64 * half + 32 * (part & 1) + at % 32, *const h = b + 128 + 32 * half + at % 32;
    const float d = __fmul_rn(block_half<EVEN>(b + 208), (float)(int8_t)__ldg(b + 192 + at / 16));
    const uint32_t c[2] = {(block_u32<EVEN>(l) >> shift & 0x0f0f0f0fu) | (block_u32<EVEN>(h) >> high & 0x03030303u) << 4,
                           (block_u32<EVEN>(l + 4) >> shift & 0x0f0f0f0fu) | (block_u32<EVEN>(h + 4) >> high & 0x03030303u) << 4};
#pragma unroll
    for (int e = 0; e < 8; e++) x[e] = __fmul_rn(d, (float)(byte_of(c, e) - 32));
}
#endif
