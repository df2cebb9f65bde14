/* combine: what the experts gave, weighted and added to the tokens, and the gradients of both. A block makes a piece of one token's row, in the order of
 * its choices; backward, a block makes one row of one expert, and the dot product that is the gradient of its weight. Bound by memory. */
#include "kernels/cuda/cuda.h"

enum { THREADS = 256 };

template <bool FAST> __global__ void __launch_bounds__(THREADS) combine_fwd_kernel(bf16 *__restrict__ out, const bf16 *__restrict__ y, const int32_t *__restrict__ places,
                                                                                  const float *__restrict__ weights, int64_t rows, int64_t width, int n, unsigned pieces,
                                                                                  struct cuda_status *status)
{
    const int64_t t = blockIdx.x / pieces, i = ((int64_t)(blockIdx.x % pieces) * blockDim.x + threadIdx.x) * 8;
    float sum[8] = {}, x[8];
    for (int c = 0; c < n; c++) {
        const int row = places[t * n + c];
        if (row < 0 || row >= rows) {
            if (i == 0) cuda_report(status, CUDA_FAULT_PLACE, t * n + c, row, rows);
            return;
        }
        const float w = weights ? weights[t * n + c] : 1;
        load8<FAST>(y + row * width, i, width, x);
#pragma unroll
        for (int e = 0; e < 8; e++) sum[e] = __fmaf_rn(w, x[e], sum[e]);
    }
    load8<FAST>(out + t * width, i, width, x);
#pragma unroll
    for (int e = 0; e < 8; e++) x[e] += sum[e];
    store8<FAST>(out + t * width, i, width, x);
}

template <bool FAST> __global__ void __launch_bounds__(THREADS) combine_bwd_kernel(bf16 *__restrict__ dy, float *__restrict__ dweights, const bf16 *__restrict__ dout, const bf16 *__restrict__ y,
                                                                                  const int32_t *__restrict__ places, const float *__restrict__ weights, int64_t rows, int64_t width, int n,
                                                                                  struct cuda_status *status)
{
    SIMT_SHARED(float[32], partial);
    const int64_t pair = blockIdx.x, t = pair / n;
    const int row = places[pair];
    if (row < 0 || row >= rows) { /* the whole block */
        if (threadIdx.x == 0) cuda_report(status, CUDA_FAULT_PLACE, pair, row, rows);
        return;
    }
    const float w = weights ? weights[pair] : 1;
    float dot = 0, up[8], x[8];
    for (int64_t i = threadIdx.x * 8; i < width; i += (int64_t)blockDim.x * 8) {
        load8<FAST>(dout + t * width, i, width, up);
        if (dweights) {
            load8<FAST>(y + row * width, i, width, x);
#pragma unroll
            for (int e = 0; e < 8; e++) dot = __fmaf_rn(up[e], x[e], dot);
        }
        load8<FAST>(dy + row * width, i, width, x);
#pragma unroll
        for (int e = 0; e < 8; e++) x[e] = __fmaf_rn(w, up[e], x[e]);
        store8<FAST>(dy + row * width, i, width, x);
    }
    if (!dweights) return;
    dot = block_sum(dot, &partial[0]);
    if (threadIdx.x == 0) dweights[pair] += dot;
}

extern "C" int cuda_combine_fwd(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor y, struct pw_tensor places, struct pw_tensor weights)
{
    const int64_t width = out.shape[1], eights = (width + 7) / 8;
    const unsigned threads = cuda_warps(eights, THREADS), pieces = cuda_parts(eights, threads);
    CUDA_BY_BOOL(width % 8 == 0 && cuda_aligned(out.data) && cuda_aligned(y.data), fast,
                 CUDA_LAUNCH(dev, "combine_fwd", combine_fwd_kernel<fast>, (unsigned)out.shape[0] * pieces, threads, 0, (bf16 *)out.data, (const bf16 *)y.data, (const int32_t *)places.data,
                             (const float *)weights.data, y.shape[0], width, (int)places.shape[1], pieces, cuda_of(dev)->status))
    return 0;
}

extern "C" int cuda_combine_bwd(struct pw_dev *dev, struct pw_tensor dy, struct pw_tensor dweights, struct pw_tensor dout, struct pw_tensor y, struct pw_tensor places, struct pw_tensor weights)
{
    const int64_t width = dout.shape[1];
    CUDA_BY_BOOL(width % 8 == 0 && cuda_aligned(dout.data) && cuda_aligned(dy.data) && cuda_aligned(y.data), fast,
                 CUDA_LAUNCH(dev, "combine_bwd", combine_bwd_kernel<fast>, (unsigned)pw_count(places), cuda_warps((width + 7) / 8, THREADS), 0, (bf16 *)dy.data, (float *)dweights.data,
                             (const bf16 *)dout.data, (const bf16 *)y.data, (const int32_t *)places.data, (const float *)weights.data, dy.shape[0], width, (int)places.shape[1],
                             cuda_of(dev)->status))
    return 0;
}
