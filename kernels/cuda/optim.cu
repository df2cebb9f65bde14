/* The optimisers' ops: sumsq (norms of gradients), adamw, lion, adamw8. f32 throughout; sums in double in an order that only the number of elements sets. */
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

static struct adamw_step step_of(const struct pw_adamw *h)
{
    return {
        (float)h->lr, (float)h->beta1, (float)(1 - h->beta1), (float)h->beta2, (float)(1 - h->beta2), (float)(1 / (1 - pow(h->beta1, (double)h->step))),
        (float)(1 / (1 - pow(h->beta2, (double)h->step))), (float)h->eps, (float)h->weight_decay, (float)h->grad_scale,
    };
}

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
    CUDA_BY_BOOL(cuda_aligned(p.data) && cuda_aligned(m.data) && cuda_aligned(v.data) && cuda_aligned(g.data), fast,
                 CUDA_LAUNCH(dev, "adamw", adamw_kernel<fast>, cuda_parts(n, PER_BLOCK), THREADS, 0, (float *)p.data, (float *)m.data, (float *)v.data, (const float *)g.data, n, step_of(h)))
    return 0;
}

/* ---- lion ---- */

template <bool FAST> __global__ void __launch_bounds__(THREADS) lion_kernel(float *__restrict__ p, float *__restrict__ m, const float *__restrict__ g, int64_t n, const adamw_step h)
{
    const int64_t i = (int64_t)blockIdx.x * PER_BLOCK + threadIdx.x * 8;
    float pi[8], mi[8], gi[8];
    load8<FAST>(p, i, n, pi);
    load8<FAST>(m, i, n, mi);
    load8<FAST>(g, i, n, gi);
#pragma unroll
    for (int e = 0; e < 8; e++) {
        const float grad = gi[e] * h.grad_scale, c = __fadd_rn(__fmul_rn(h.beta1, mi[e]), __fmul_rn(h.rest1, grad)); /* no fma: equal terms cancel to 0 */
        pi[e] -= h.lr * ((c > 0 ? 1.0f : 0.0f) - (c < 0 ? 1.0f : 0.0f) + h.decay * pi[e]);
        mi[e] = h.beta2 * mi[e] + h.rest2 * grad;
    }
    store8<FAST>(p, i, n, pi);
    store8<FAST>(m, i, n, mi);
}

extern "C" int cuda_lion(struct pw_dev *dev, struct pw_tensor p, struct pw_tensor m, struct pw_tensor g, const struct pw_adamw *h)
{
    const int64_t n = pw_count(p);
    CUDA_BY_BOOL(cuda_aligned(p.data) && cuda_aligned(m.data) && cuda_aligned(g.data), fast,
                 CUDA_LAUNCH(dev, "lion", lion_kernel<fast>, cuda_parts(n, PER_BLOCK), THREADS, 0, (float *)p.data, (float *)m.data, (const float *)g.data, n, step_of(h)))
    return 0;
}

/* ---- adamw8: the averages in 8 bits, a scale each for PW_STATE8_BLOCK elements ---- */

/* pw_state8_code; map in shared memory */
SIMT_FN int state8_code(const float *map, float x)
{
    int low = 0, high = 255;
#pragma unroll
    for (int turn = 0; turn < 8; turn++) { /* 256 candidates, halved each time */
        const int k = (low + high) / 2;
        const bool above = low < high && x > (map[k] + map[k + 1]) * 0.5f;
        low = above ? k + 1 : low;
        high = above ? high : k;
    }
    return low;
}

/* A block of threads makes blocks of elements, a thread an element of each. */
__global__ void __launch_bounds__(PW_STATE8_BLOCK) adamw8_kernel(float *__restrict__ p, uint8_t *__restrict__ m, float *__restrict__ m_scale, uint8_t *__restrict__ v, float *__restrict__ v_scale,
                                                                 const float *__restrict__ g, const float *__restrict__ maps, int64_t n, const adamw_step h)
{
    SIMT_SHARED(float[512], map);
    SIMT_SHARED(float[2][2][PW_STATE8_BLOCK / 32], top);
    map[threadIdx.x] = maps[threadIdx.x];
    map[256 + threadIdx.x] = maps[256 + threadIdx.x];
    __syncthreads();
    int stage = 0;
    for (int64_t b = blockIdx.x; b * PW_STATE8_BLOCK < n; b += gridDim.x, stage ^= 1) {
        const int64_t i = b * PW_STATE8_BLOCK + threadIdx.x;
        float mi = 0, vi = 0;
        if (i < n) {
            const float grad = g[i] * h.grad_scale;
            mi = h.beta1 * (map[m[i]] * m_scale[b]) + h.rest1 * grad;
            vi = h.beta2 * (map[256 + v[i]] * v_scale[b]) + h.rest2 * grad * grad;
            p[i] -= h.lr * (mi * h.correct1 / (sqrtf(vi * h.correct2) + h.eps) + h.decay * p[i]);
        }
        float m_top = fabsf(mi), v_top = vi;
#pragma unroll
        for (int d = 16; d > 0; d /= 2) m_top = fmaxf(m_top, __shfl_xor_sync(0xffffffffu, m_top, d)), v_top = fmaxf(v_top, __shfl_xor_sync(0xffffffffu, v_top, d));
        if (threadIdx.x % 32 == 0) top[stage][0][threadIdx.x / 32] = m_top, top[stage][1][threadIdx.x / 32] = v_top;
        __syncthreads(); /* after the old scales were read; two stages: nobody is two turns ahead of a reader */
#pragma unroll
        for (int w = 0; w < PW_STATE8_BLOCK / 32; w++) m_top = fmaxf(m_top, top[stage][0][w]), v_top = fmaxf(v_top, top[stage][1][w]);
        if (threadIdx.x == 0) m_scale[b] = m_top, v_scale[b] = v_top;
        if (i >= n) continue;
        const int code = state8_code(map, mi * (m_top > 0 ? 1.0f / m_top : 0.0f));
        m[i] = (uint8_t)(code - (mi < 0 && map[code] >= 0));
        v[i] = (uint8_t)state8_code(map + 256, vi * (v_top > 0 ? 1.0f / v_top : 0.0f));
    }
}

extern "C" int cuda_adamw8(struct pw_dev *dev, struct pw_tensor p, struct pw_tensor m, struct pw_tensor m_scale, struct pw_tensor v, struct pw_tensor v_scale, struct pw_tensor g,
                           struct pw_tensor maps, const struct pw_adamw *h)
{
    const int64_t n = pw_count(p), blocks = (n + PW_STATE8_BLOCK - 1) / PW_STATE8_BLOCK, most = (int64_t)cuda_of(dev)->processors * 8;
    CUDA_LAUNCH(dev, "adamw8", adamw8_kernel, (unsigned)(blocks < most ? blocks : most), PW_STATE8_BLOCK, 0, (float *)p.data, (uint8_t *)m.data, (float *)m_scale.data, (uint8_t *)v.data,
                (float *)v_scale.data, (const float *)g.data, (const float *)maps.data, n, step_of(h));
    return 0;
}
