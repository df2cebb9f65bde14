/* The optimiser's ops: sumsq (norms of gradients) and adamw. f32 throughout; sums in double in an order that only the number of elements sets. */
#include "kernels/cuda/cuda.h"

#include <math.h>

enum { THREADS = 256, PER_BLOCK = THREADS * 8 };

/* ---- sumsq ---- */

/* sums[b] = what the blocks' strides give; there are at most CUDA_SUMS blocks, so a thread may take many strides. */
template <bool FAST> __global__ void __launch_bounds__(THREADS) sumsq_kernel(double *__restrict__ sums, const float *__restrict__ x, int64_t n)
{
    SIMT_SHARED(double[32], partial);
    double sum = 0;
    for (int64_t i = (int64_t)blockIdx.x * PER_BLOCK + threadIdx.x * 8; i < n; i += (int64_t)gridDim.x * PER_BLOCK) {
        float v[8];
        load8<FAST>(x, i, n, v);
#pragma unroll
        for (int e = 0; e < 8; e++) sum += (double)v[e] * v[e];
    }
    sum = block_sum(sum, &partial[0]);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
__global__ void __launch_bounds__(THREADS) add_sums_kernel(double *__restrict__ out, const double *__restrict__ sums, unsigned n)
{
    SIMT_SHARED(double[32], partial);
    double sum = 0;
    for (unsigned i = threadIdx.x; i < n; i += THREADS) sum += sums[i];
    sum = block_sum(sum, &partial[0]);
    if (threadIdx.x == 0) *out += sum;
}

extern "C" int cuda_sumsq(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x)
{
    const int64_t n = pw_count(x), parts = (n + PER_BLOCK - 1) / PER_BLOCK;
    const unsigned grid = (unsigned)(parts < CUDA_SUMS ? parts : (int64_t)CUDA_SUMS);
    double *const sums = cuda_of(dev)->sums;
    CUDA_BY_BOOL(cuda_aligned(x.data), fast, CUDA_LAUNCH(dev, "sumsq", sumsq_kernel<fast>, grid, THREADS, 0, sums, (const float *)x.data, n))
    if (grid) CUDA_LAUNCH(dev, "sumsq", add_sums_kernel, 1, THREADS, 0, (double *)out.data, sums, grid);
    return 0;
}

/* ---- adamw ---- */

struct adamw_step { float lr, beta1, rest1, beta2, rest2, correct1, correct2, eps, decay, grad_scale; }; /* rest = 1 - beta, correct = 1 / (1 - beta^step) */

template <bool FAST> __global__ void __launch_bounds__(THREADS) adamw_kernel(float *__restrict__ p, float *__restrict__ m, float *__restrict__ v, const float *__restrict__ g, int64_t n,
                                                                            const adamw_step h)
{
    const int64_t i = (int64_t)blockIdx.x * PER_BLOCK + threadIdx.x * 8;
    float pi[8], mi[8], vi[8], gi[8];
    load8<FAST>(p, i, n, pi);
    load8<FAST>(m, i, n, mi);
    load8<FAST>(v, i, n, vi);
    load8<FAST>(g, i, n, gi);
#pragma unroll
    for (int e = 0; e < 8; e++) {
        const float grad = gi[e] * h.grad_scale;
        mi[e] = h.beta1 * mi[e] + h.rest1 * grad;
        vi[e] = h.beta2 * vi[e] + h.rest2 * grad * grad;
        pi[e] -= h.lr * (mi[e] * h.correct1 / (sqrtf(vi[e] * h.correct2) + h.eps) + h.decay * pi[e]);
    }
    store8<FAST>(p, i, n, pi);
    store8<FAST>(m, i, n, mi);
    store8<FAST>(v, i, n, vi);
}

extern "C" int cuda_adamw(struct pw_dev *dev, struct pw_tensor p, struct pw_tensor m, struct pw_tensor v, struct pw_tensor g, const struct pw_adamw *h)
{
    const int64_t n = pw_count(p);
    const struct adamw_step step = {
        (float)h->lr, (float)h->beta1, (float)(1 - h->beta1), (float)h->beta2, (float)(1 - h->beta2), (float)(1 / (1 - pow(h->beta1, (double)h->step))),
        (float)(1 / (1 - pow(h->beta2, (double)h->step))), (float)h->eps, (float)h->weight_decay, (float)h->grad_scale,
    };
    CUDA_BY_BOOL(cuda_aligned(p.data) && cuda_aligned(m.data) && cuda_aligned(v.data) && cuda_aligned(g.data), fast,
                 CUDA_LAUNCH(dev, "adamw", adamw_kernel<fast>, cuda_parts(n, PER_BLOCK), THREADS, 0, (float *)p.data, (float *)m.data, (float *)v.data, (const float *)g.data, n, step))
    return 0;
}
