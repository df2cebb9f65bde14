/* The host twins of the PTX wrappers in kernels/cuda/simt.h: what each instruction does, lane by lane (PTX ISA 8, "ldmatrix", "mma.m16n8k16",
 * "cp.async"). cp.async delivers as late as the ISA allows: the destination is NaN from issue until the wait that covers it. Tensor-core sums are
 * exact here (double) and rounded once; hardware truncates partial sums in f32, so bounds must allow for that. */
#ifndef PW_KERNELS_SIMT_PTX_H
#define PW_KERNELS_SIMT_PTX_H

#include "kernels/simt/fibers.h"

/* cvt: NaN in, the canonical NaN out (PTX ISA 8, "cvt"). */
SIMT_FN uint16_t cvt_bf16(float x)
{
    const uint32_t u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}
SIMT_FN uint32_t cvt_bf16x2(float low, float high) { return (uint32_t)cvt_bf16(low) | (uint32_t)cvt_bf16(high) << 16; }
SIMT_FN uint16_t cvt_f16(float x)
{
    const uint32_t u = __float_as_uint(x), sign = u >> 16 & 0x8000, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return 0x7fff;
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00);            /* rounds to infinity */
    if (a < 0x33000000u) return (uint16_t)sign;
    if (a < 0x38800000u) {                                              /* subnormal in f16 */
        const int shift = 126 - (int)(a >> 23);                         /* 14 .. 24 */
        const uint32_t m = (a & 0x7fffffu) | 0x800000u, half = 1u << (shift - 1), q = m >> shift, rest = m & ((1u << shift) - 1);
        return (uint16_t)(sign | (q + (rest > half || (rest == half && (q & 1)))));
    }
    const uint32_t r = a - 0x38000000u;
    return (uint16_t)(sign | ((r + 0xfffu + (r >> 13 & 1)) >> 13));
}
SIMT_FN float cvt_f32_from_f16(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff;
    if (exponent == 31) return __uint_as_float(fraction ? 0x7fffffffu : sign | 0x7f800000u);
    if (exponent) return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
    return __uint_as_float(__float_as_uint((float)fraction * 0x1p-24f) | sign); /* subnormal: exact */
}

SIMT_FN void cp_async_16(void *dst, const void *src, bool pred, SIMT_AT) { simt_copy_issue(dst, src, pred, file, line); }
SIMT_FN void cp_async_commit(void) { simt_copy_commit(); }
template <int N> static inline void cp_async_wait(void) { simt_copy_wait(N); }

struct simt_ldm_arg { uint32_t *r; const char *row; };
SIMT_NO_TSAN inline void simt_ldm_do(void **a)
{
    for (int l = 0; l < 32; l++)
        if (!a[l]) simt_fault("ldmatrix", 0, "needs all 32 lanes");
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++)
            ((simt_ldm_arg *)a[l])->r[i] = ((const uint32_t *)((simt_ldm_arg *)a[8 * i + l / 4])->row)[l % 4];
}
SIMT_NO_TSAN inline void simt_ldm_trans_do(void **a)
{
    for (int l = 0; l < 32; l++)
        if (!a[l]) simt_fault("ldmatrix.trans", 0, "needs all 32 lanes");
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++) {
            uint32_t low = ((const uint16_t *)((simt_ldm_arg *)a[8 * i + l % 4 * 2])->row)[l / 4];
            uint32_t high = ((const uint16_t *)((simt_ldm_arg *)a[8 * i + l % 4 * 2 + 1])->row)[l / 4];
            ((simt_ldm_arg *)a[l])->r[i] = low | high << 16;
        }
}
/* An access that the sanitizers see, on behalf of the instruction. */
SIMT_FN void simt_read16(const void *p) { for (int i = 0; i < 2; i++) (void)((const volatile uint64_t *)p)[i]; }
SIMT_NO_TSAN inline void ldmatrix_x4(uint32_t r[4], const void *row, SIMT_AT)
{
    simt_check_shared(row, 16, 16, file, line);
    simt_read16(row);
    simt_ldm_arg a = {r, (const char *)row};
    simt_warp(0xffffffffu, simt_ldm_do, &a, file, line);
}
SIMT_NO_TSAN inline void ldmatrix_x4_trans(uint32_t r[4], const void *row, SIMT_AT)
{
    simt_check_shared(row, 16, 16, file, line);
    simt_read16(row);
    simt_ldm_arg a = {r, (const char *)row};
    simt_warp(0xffffffffu, simt_ldm_trans_do, &a, file, line);
}

struct simt_mma_arg { float *d; const uint32_t *a, *b; };
SIMT_NO_TSAN inline float simt_bf16_at(const uint32_t *regs, int i)
{
    uint32_t u = (regs[i / 2] >> (16 * (i % 2)) & 0xffffu) << 16;
    float f;
    __builtin_memcpy(&f, &u, 4);
    return f;
}
SIMT_NO_TSAN inline void simt_mma_do(void **arg)
{
    float A[16][16], B[8][16]; /* B by columns */
    for (int l = 0; l < 32; l++) {
        if (!arg[l]) simt_fault("mma", 0, "needs all 32 lanes");
        const simt_mma_arg *x = (simt_mma_arg *)arg[l];
        int g = l / 4, t = l % 4;
        for (int e = 0; e < 8; e++) A[g + 8 * (e / 2 % 2)][2 * t + e % 2 + 8 * (e / 4)] = simt_bf16_at(x->a, e); /* e = 2 * register + half */
        for (int e = 0; e < 4; e++) B[g][2 * t + e % 2 + 8 * (e / 2)] = simt_bf16_at(x->b, e);
    }
    for (int l = 0; l < 32; l++) {
        simt_mma_arg *x = (simt_mma_arg *)arg[l];
        for (int e = 0; e < 4; e++) {
            int row = l / 4 + 8 * (e / 2), col = 2 * (l % 4) + e % 2;
            double s = 0; /* products of bf16 are exact in double */
            for (int k = 0; k < 16; k++) s += (double)A[row][k] * B[col][k];
            x->d[e] = (float)(x->d[e] + s);
        }
    }
}
SIMT_NO_TSAN inline void mma_m16n8k16_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], SIMT_AT)
{
    simt_mma_arg x = {d, a, b};
    simt_warp(0xffffffffu, simt_mma_do, &x, file, line);
}
#endif
