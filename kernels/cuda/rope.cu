/* rope: rotates pairs of elements of each head in place. A block makes a token; a position outside the tables is reported, its row stays as it is. */
#include "kernels/cuda/cuda.h"

enum { THREADS = 256 };

/* UNIT pairs a thread: 8 (HALF) or 4 (INTERLEAVED) where 16-byte accesses are possible, else 1. The first of a head's pairs is (0, far). */
template <bool HALF, bool FAST> __global__ void __launch_bounds__(THREADS) rope_kernel(bf16 *__restrict__ x, const int32_t *__restrict__ pos, const float *__restrict__ cosines,
                                                                                      const float *__restrict__ sines, int64_t limit, int heads, int d, int pairs, float direction,
                                                                                      struct cuda_status *status)
{
    constexpr int UNIT = FAST ? (HALF ? 8 : 4) : 1;
    const int64_t t = blockIdx.x;
    const int at = pos[t], units = pairs / UNIT;
    if (at < 0 || at >= limit) {
        if (threadIdx.x == 0) cuda_report(status, CUDA_FAULT_POSITION, t, at, limit);
        return;
    }
    const float *const c_row = cosines + (int64_t)at * pairs, *const s_row = sines + (int64_t)at * pairs;
    for (int j = threadIdx.x; j < heads * units; j += blockDim.x) {
        const int i = j % units * UNIT;
        bf16 *const head = x + (t * heads + j / units) * d;
        if constexpr (FAST && HALF) {
            float a[8], b[8], c[8], s[8];
            load8<true>(head, i, pairs, a);
            load8<true>(head + pairs, i, pairs, b);
            load8<true>(c_row, i, pairs, c);
            load8<true>(s_row, i, pairs, s);
#pragma unroll
            for (int e = 0; e < 8; e++) {
                const float first = a[e], sine = direction * s[e];
                a[e] = first * c[e] - b[e] * sine;
                b[e] = b[e] * c[e] + first * sine;
            }
            store8<true>(head, i, pairs, a);
            store8<true>(head + pairs, i, pairs, b);
        } else if constexpr (FAST) {
            float v[8];
            const float4 c4 = *(const float4 *)(c_row + i), s4 = *(const float4 *)(s_row + i);
            const float c[4] = {c4.x, c4.y, c4.z, c4.w}, s[4] = {s4.x, s4.y, s4.z, s4.w};
            load8<true>(head, 2 * i, 2 * pairs, v);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const float first = v[2 * e], second = v[2 * e + 1], sine = direction * s[e];
                v[2 * e] = first * c[e] - second * sine;
                v[2 * e + 1] = second * c[e] + first * sine;
            }
            store8<true>(head, 2 * i, 2 * pairs, v);
        } else {
            const size_t a = HALF ? i : 2 * i, b = HALF ? a + pairs : a + 1;
            const float first = load(head, a), second = load(head, b), c = c_row[i], sine = direction * s_row[i];
            store(head, a, first * c - second * sine);
            store(head, b, second * c + first * sine);
        }
    }
}

extern "C" int cuda_rope(struct pw_dev *dev, struct pw_tensor x, struct pw_tensor pos, struct pw_tensor cosines, struct pw_tensor sines, enum pw_rope_layout layout, int direction)
{
    const int heads = (int)x.shape[1], d = (int)x.shape[2], pairs = (int)cosines.shape[1], unit = layout == PW_ROPE_HALF ? 8 : 4;
    const bool fast = pairs % unit == 0 && d % 8 == 0 && cuda_aligned(x.data) && cuda_aligned(cosines.data) && cuda_aligned(sines.data);
    const unsigned grid = pairs ? (unsigned)x.shape[0] : 0, threads = cuda_warps((int64_t)heads * pairs / (fast ? unit : 1), THREADS);
    CUDA_BY_BOOL(fast, vector, CUDA_BY_BOOL(layout == PW_ROPE_HALF, half,
                 CUDA_LAUNCH(dev, "rope", (rope_kernel<half, vector>), grid, threads, 0, (bf16 *)x.data, (const int32_t *)pos.data, (const float *)cosines.data, (const float *)sines.data,
                             cosines.shape[0], heads, d, pairs, (float)direction, cuda_of(dev)->status)))
    return 0;
}
