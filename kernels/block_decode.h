/* Decoding of groups of blocks, written once: kernels/blocks.c compiles it as the definition, kernels/cpu/isa_body.h once for each
 * instruction set, where the compiler turns the loops into vectors. No reordering of sums and no fused multiply-add: the bits are the same.
 * The includer defines BLOCK_HALF(u16) -> float. Layouts: kernels/blocks.h. Everything is static. */
#include <string.h>
#include "kernels/blocks.h"

static inline float block_half(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return BLOCK_HALF(h);
}
static inline uint32_t block_word(const uint8_t *p)
{
    uint32_t w;
    memcpy(&w, p, 4);
    return w;
}

static void block_q8_0(const uint8_t *restrict b, int group, float *restrict out)
{
    const float d = block_half(b);
    const int8_t *q = (const int8_t *)b + 2;
    (void)group;
    for (int i = 0; i < 32; i++) out[i] = (float)q[i] * d;
}

static void block_q4_0(const uint8_t *restrict b, int group, float *restrict out)
{
    const float d = block_half(b);
    (void)group;
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((b[2 + i] & 15) - 8);
        out[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
    }
}

static void block_q4_1(const uint8_t *restrict b, int group, float *restrict out)
{
    const float d = block_half(b), m = block_half(b + 2);
    (void)group;
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(b[4 + i] & 15) + m;
        out[i + 16] = d * (float)(b[4 + i] >> 4) + m;
    }
}

static void block_q5_0(const uint8_t *restrict b, int group, float *restrict out)
{
    const float d = block_half(b);
    const uint32_t high = block_word(b + 2);
    (void)group;
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((int)((b[6 + i] & 15) | (high >> i & 1) << 4) - 16);
        out[i + 16] = d * (float)((int)((b[6 + i] >> 4) | (high >> (i + 16) & 1) << 4) - 16);
    }
}

static void block_q5_1(const uint8_t *restrict b, int group, float *restrict out)
{
    const float d = block_half(b), m = block_half(b + 2);
    const uint32_t high = block_word(b + 4);
    (void)group;
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(int)((b[8 + i] & 15) | (high >> i & 1) << 4) + m;
        out[i + 16] = d * (float)(int)((b[8 + i] >> 4) | (high >> (i + 16) & 1) << 4) + m;
    }
}

static void block_iq4_nl(const uint8_t *restrict b, int group, float *restrict out)
{
    const float d = block_half(b);
    (void)group;
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)pw_iq4_table[b[2 + i] & 15];
        out[i + 16] = d * (float)pw_iq4_table[b[2 + i] >> 4];
    }
}

/* scale and minimum of group g of q4_K and q5_K */
static inline void block_scales(const uint8_t *s, int g, int *scale, int *minimum)
{
    if (g < 4) {
        *scale = s[g] & 63;
        *minimum = s[g + 4] & 63;
    } else {
        *scale = (s[g + 4] & 15) | (s[g - 4] >> 6) << 4;
        *minimum = (s[g + 4] >> 4) | (s[g] >> 6) << 4;
    }
}

static void block_q4_K(const uint8_t *restrict b, int group, float *restrict out)
{
    int scale, minimum;
    block_scales(b + 4, group, &scale, &minimum);
    const float d = block_half(b) * (float)scale, m = block_half(b + 2) * (float)minimum;
    const uint8_t *q = b + 16 + 32 * (group / 2);
    const int shift = 4 * (group & 1);
    for (int i = 0; i < 32; i++) out[i] = d * (float)(q[i] >> shift & 15) - m;
}

static void block_q5_K(const uint8_t *restrict b, int group, float *restrict out)
{
    int scale, minimum;
    block_scales(b + 4, group, &scale, &minimum);
    const float d = block_half(b) * (float)scale, m = block_half(b + 2) * (float)minimum;
    const uint8_t *high = b + 16, *q = b + 48 + 32 * (group / 2);
    const int shift = 4 * (group & 1);
    for (int i = 0; i < 32; i++) out[i] = d * (float)((q[i] >> shift & 15) | (high[i] >> group & 1) << 4) - m;
}

static void block_q6_K(const uint8_t *restrict b, int group, float *restrict out)
{
    const int half = group / 4, part = group % 4;
    const uint8_t *low = b + 64 * half + 32 * (part & 1), *high = b + 128 + 32 * half;
    const int8_t *scale = (const int8_t *)b + 192 + 2 * group;
    const float d = block_half(b + 208), d0 = d * (float)scale[0], d1 = d * (float)scale[1];
    const int shift = 4 * (part >> 1), high_shift = 2 * part;
    for (int i = 0; i < 16; i++) out[i] = d0 * (float)(((low[i] >> shift & 15) | (high[i] >> high_shift & 3) << 4) - 32);
    for (int i = 16; i < 32; i++) out[i] = d1 * (float)(((low[i] >> shift & 15) | (high[i] >> high_shift & 3) << 4) - 32);
}
