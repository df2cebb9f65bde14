/* What the two kernels of attention backward share: sizes, and dS from S and dP. Each block owns 16 * WARPS rows (of keys, or of queries) in
 * shared memory and streams the other side past them, MB rows at a time.
 *
 *   shared memory        HD   warps   own: 2 x [16 warps][HD+8]   passing: STAGES x 2 x [MB][HD+8]    all
 *                        64    4      18 KiB                      2 x 9 KiB   (MB = 32)               36 KiB, two blocks on 100 KiB
 *                        80    4      22 KiB                      2 x 11 KiB  (MB = 32)               44 KiB, two
 *                        96    8      52 KiB                      2 x 6.5 KiB (MB = 16)               65 KiB, one
 *                       128    8      68 KiB                      2 x 8.5 KiB (MB = 16)               85 KiB, one
 *                       256    4      66 KiB                      16.5 KiB    (MB = 16, one stage)    83 KiB, one
 * With 8 warps of 255 registers a block takes the whole register file; a passing row of 128 serves 128 own rows: 4 products of 2 * 128 * 128
 * FLOP for its 512 bytes, 256 FLOP a byte. */
#ifndef PW_KERNELS_CUDA_ATTN_BWD_H
#define PW_KERNELS_CUDA_ATTN_BWD_H

#include "kernels/cuda/attn.h"

template <int HD> struct backward_tile {
    static constexpr int WARPS = HD == 96 || HD == 128 ? 8 : 4, THREADS = 32 * WARPS, OWN = 16 * WARPS, MB = HD > 80 ? 16 : 32, STAGES = HD > 128 ? 1 : 2, LD = HD + 8,
           OWN_ELEMENTS = OWN * LD, MB_ELEMENTS = MB * LD;
};
template <int HD> static constexpr size_t backward_shared(void)
{
    typedef backward_tile<HD> t;
    return (size_t)(2 * t::OWN_ELEMENTS + t::STAGES * 2 * t::MB_ELEMENTS) * sizeof(bf16);
}

/* The weight of one key for one query from the raw product, and the factor that the cap puts on dS. lse2: log-sum-exp in base 2. */
SIMT_FN float attn_weight(const struct attn_args &a, float s, float lse2, bool sees, float *slope)
{
    float z = s * a.outer;
    *slope = 1.0f;
    if (a.capped) {
        const float t = tanhf(s * a.inner);
        z = a.outer * t;
        *slope = 1.0f - t * t;
    }
    return sees ? exp2f(z - lse2) : 0.0f;
}
#endif
