/* Noise on rows of activations: a thread draws the four words of one Philox group and adds them to the elements they belong to, four but at the ends. */
#include "kernels/cuda/philox.h"

enum { THREADS = 256 };

template <class X> __global__ void __launch_bounds__(THREADS) noise_kernel(X *__restrict__ x, const float *__restrict__ scale, int64_t n, int64_t width, const struct cuda_drop draw)
{
    const int64_t group = (int64_t)blockIdx.x * THREADS + threadIdx.x, from = 4 * group - (int64_t)(draw.first % 4); /* of x: -3 to n - 1 */
    uint32_t word[4];
    if (from >= n) return;
    philox4(draw, draw.first / 4 + (uint64_t)group, word);
#pragma unroll
    for (int e = 0; e < 4; e++) {
        const int64_t i = from + e;
        if (i >= 0 && i < n) store(x, (size_t)i, __fmaf_rn(scale[i / width], (float)word[e] * 0x1p-31f - 1.0f, load(x, (size_t)i)));
    }
}

extern "C" int cuda_noise(struct pw_dev *dev, struct pw_tensor x, struct pw_tensor scale, struct pw_drop draw)
{
    const int64_t n = pw_count(x);
    draw.p = 0; /* only its counters matter */
    CUDA_BY_SMALL(x, to, CUDA_LAUNCH(dev, "noise", noise_kernel<to_type>, cuda_parts(n + 3, 4 * THREADS), THREADS, 0, to, (const float *)scale.data, n, x.shape[1], cuda_drop_of(draw)))
    return 0;
}
