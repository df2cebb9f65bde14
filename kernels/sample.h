/* How the next token is drawn from logits: arithmetic that gives every backend the same token, bit for bit.
 *
 * The weight of a token is 2^40 * exp((z - top) / temperature) as a whole number, so that sums of weights have one value in whatever order they are made.
 * Up to there every step is one f32 operation, rounded as IEEE has it, never a fused multiply-add; what rounding a weight down loses is at most 2^-40 of
 * the first token's for each token. Tokens are ordered by logit, largest first, ties by id (sample_order; -0 is 0). What stays is a beginning of that
 * order, so its weight alone says which: the first top_k; of these as few as reach top_p of their weight; of these those before the first
 * that has less than min_p of the first one's. One draw of 64 bits then falls on one of them: the first whose running sum exceeds draw * weight / 2^64.
 * The same lines are compiled for kernels (after kernels/cuda/simt.h) and for C. */
#ifndef PW_KERNELS_SAMPLE_H
#define PW_KERNELS_SAMPLE_H

#include <math.h>
#include <stdint.h>

#ifdef PW_KERNELS_CUDA_SIMT_H
#define SAMPLE_FN SIMT_FN
#define SAMPLE_MUL(a, b) __fmul_rn(a, b)
#define SAMPLE_ADD(a, b) __fadd_rn(a, b)
#define SAMPLE_BITS(x) __float_as_uint(x)
#define SAMPLE_FLOAT(u) __uint_as_float(u)
#define SAMPLE_HIGH(a, b) __umul64hi(a, b)
#else
#include <string.h>
#define SAMPLE_FN static inline
#define SAMPLE_MUL(a, b) ((a) * (b))
#define SAMPLE_ADD(a, b) ((a) + (b))
static inline uint32_t sample_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
static inline float sample_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}
#define SAMPLE_BITS(x) sample_bits(x)
#define SAMPLE_FLOAT(u) sample_float(u)
#define SAMPLE_HIGH(a, b) ((uint64_t)((unsigned __int128)(a) * (b) >> 64))
#endif

#define SAMPLE_ONE ((uint64_t)1 << 40)             /* the weight of the largest logit */
enum { SAMPLE_VOCAB_MAX = 1 << 23 };               /* 2^23 weights of 2^40 have a sum */
enum { SAMPLE_BINS = 2048 };

/* What exponents are multiplied by: to base 2. */
SAMPLE_FN float sample_sharpness(double temperature) { return (float)(1.4426950408889634 / temperature); }

/* (z - top) / temperature to base 2, at most 0. z is not NaN, top is finite. */
SAMPLE_FN float sample_exponent(float z, float top, float sharpness)
{
    const float d = SAMPLE_ADD(z, -top);
    return d < 0 ? d < -3e38f ? -INFINITY : SAMPLE_MUL(d, sharpness) : 0.0f;
}
SAMPLE_FN uint64_t sample_weight(float z, float top, float sharpness)
{
    const float y = sample_exponent(z, top, sharpness);
    if (!(y > -41.0f)) return 0;
    const float k = rintf(y), f = SAMPLE_ADD(y, -k); /* exact; |f| <= 1/2 */
    /* 2^f: Taylor's series to ln(2)^7 / 7!, the next term is 5e-9 */
    float p = 1.5252734e-5f;
    p = SAMPLE_ADD(SAMPLE_MUL(p, f), 1.5403530e-4f);
    p = SAMPLE_ADD(SAMPLE_MUL(p, f), 1.3333558e-3f);
    p = SAMPLE_ADD(SAMPLE_MUL(p, f), 9.6181291e-3f);
    p = SAMPLE_ADD(SAMPLE_MUL(p, f), 5.5504109e-2f);
    p = SAMPLE_ADD(SAMPLE_MUL(p, f), 2.4022651e-1f);
    p = SAMPLE_ADD(SAMPLE_MUL(p, f), 6.9314718e-1f);
    p = SAMPLE_ADD(SAMPLE_MUL(p, f), 1.0f);
    return (uint64_t)SAMPLE_MUL(p, SAMPLE_FLOAT((uint32_t)((int)k + 40 + 127) << 23)); /* times 2^(k + 40): exact */
}
/* Ascending in the order of tokens: equal for equal logits. */
SAMPLE_FN uint32_t sample_order(float z)
{
    const uint32_t u = SAMPLE_BITS(z);
    return u == 0x80000000u ? 0x7fffffffu : u >> 31 ? u : ~(u | 0x80000000u);
}
/* A first, coarse part of the order, in which common logits lie apart: 1/32 of a power of two of weight each, the last for all the rest. */
SAMPLE_FN int sample_bin(float z, float top, float sharpness)
{
    const float y = sample_exponent(z, top, sharpness);
    return y > -63.0f ? (int)SAMPLE_MUL(y, -32.0f) : SAMPLE_BINS - 1;
}

/* Of `total`, the least weight that is a share of top_p: 1 to total. */
SAMPLE_FN uint64_t sample_share(uint64_t total, double top_p)
{
    const double x = ceil((double)total * top_p);
    return x < 1 ? 1 : x >= (double)total ? total : (uint64_t)x;
}
/* The least weight that min_p lets stay; the first token always does. */
SAMPLE_FN uint64_t sample_least(double min_p)
{
    const double x = ceil((double)SAMPLE_ONE * min_p);
    return x >= (double)SAMPLE_ONE ? SAMPLE_ONE : (uint64_t)x;
}
/* Which unit of weight a draw falls on, 0 to total - 1. */
SAMPLE_FN uint64_t sample_place(uint64_t draw, uint64_t total) { return SAMPLE_HIGH(draw, total); }

#ifndef PW_KERNELS_CUDA_SIMT_H
#include "kernels/op.h"
/* The token of one row (vocab, at most SAMPLE_VOCAB_MAX) without memory of its own; PW_E_NUMERIC for logits that are not numbers. kernels/sample.c. */
int pw_draw_pick(const float *logits, int64_t vocab, const struct pw_draw *draw, int32_t *id);
uint64_t pw_draw_bits(const struct pw_draw *draw); /* its 64 random bits: draw `at` of base/rng.h */
#endif
#endif
