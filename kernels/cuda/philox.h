/* Philox4x32-10 and the mask of dropout in kernels: the bits of base/rng.h, drawn where they are used and never stored. */
#ifndef PW_KERNELS_CUDA_PHILOX_H
#define PW_KERNELS_CUDA_PHILOX_H

#include "kernels/cuda/cuda.h"

struct cuda_drop { uint32_t threshold, key[2], offset[2]; float inverse; uint64_t first; const int32_t *rows; }; /* threshold 0: nothing is dropped; inverse = 1 / (1 - p); first, rows: kernels/op.h */

/* p as in base/rng.h: pw_dropout_threshold. Here because a plugin has no base/rng. */
static inline struct cuda_drop cuda_drop_of(struct pw_drop d)
{
    const double t = d.p > 0 ? floor(d.p * 0x1p32) : 0;
    return {t >= 4294967295.0 ? UINT32_MAX : (uint32_t)t, {(uint32_t)d.seed, (uint32_t)(d.seed >> 32)}, {(uint32_t)d.offset, (uint32_t)(d.offset >> 32)},
            (float)(1 / (1 - (d.p > 0 ? d.p : 0))), d.first, d.rows};
}

/* The four words of elements 4 group .. 4 group + 3. */
SIMT_FN void philox4(const cuda_drop &d, uint64_t group, uint32_t out[4])
{
    uint32_t c0 = (uint32_t)group, c1 = (uint32_t)(group >> 32), c2 = d.offset[0], c3 = d.offset[1], k0 = d.key[0], k1 = d.key[1];
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint32_t h0 = __umulhi(0xD2511F53u, c0), l0 = 0xD2511F53u * c0, h1 = __umulhi(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
        c0 = h1 ^ c1 ^ k0;
        c1 = l1;
        c2 = h0 ^ c3 ^ k1;
        c3 = l0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/* Bit e: element i + e is kept. Elements i .. i + N - 1 in as few calls as their groups are. */
template <int N> SIMT_INLINE unsigned philox_keep(const cuda_drop &d, uint64_t i)
{
    if (d.threshold == 0) return (1u << N) - 1;
    i += d.first;
    unsigned keep = 0;
    uint32_t word[4];
    for (uint64_t group = i / 4; group <= (i + N - 1) / 4; group++) {
        philox4(d, group, word);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int64_t e = (int64_t)(4 * group + j - i);
            if (e >= 0 && e < N && word[j] >= d.threshold) keep |= 1u << e;
        }
    }
    return keep;
}
#endif
