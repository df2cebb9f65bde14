/* Noise on rows of activations: a thread draws the four words of one Philox group and adds them to the four elements they belong to. */
#include "kernels/cuda/philox.h"

enum { THREADS = 256 };

template <class X> __global__ void __launch_bounds__(THREADS) noise_kernel(X *__restrict__ x, const float *__restrict__ scale, int64_t n, int64_t width, const struct cuda_drop draw)
{
    const int64_t group = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    uint32_t word[4];
    if (4 * group >= n) return;
    philox4(draw, (uint64_t)group, word);
#pragma unroll
    for (int e = 0; e < 4; e++) {
        const int64_t i = 4 * group + e;
        if (i < n) store(x, (size_t)i, __fmaf_rn(scale[i / width], (float)word[e] * 0x1p-31f - 1.0f, load(x, (size_t)i)));
    }
}

extern "C" int cuda_noise(struct pw_dev *dev, struct pw_tensor x, struct pw_tensor scale, struct pw_drop draw)
{
    const int64_t n = pw_count(x);
    draw.p = 0; /* only its counters matter */
    CUDA_BY_SMALL(x, to, CUDA_LAUNCH(dev, "noise", noise_kernel<to_type>, cuda_parts(n, 4 * THREADS), THREADS, 0, to, (const float *)scale.data, n, x.shape[1], cuda_drop_of(draw)))
    return 0;
}
