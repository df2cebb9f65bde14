/* The key/value cache in 8 bits: cache_put makes codes and scales as kernels/cache8.h has it, cache_attn is attention over them. (A cache in bf16 is one of
 * activations: kernels/op.c calls scatter_rows and attn_fwd.) A row number outside the pool is reported and its row is not touched. */
#include "kernels/cuda/attn.h"

enum { WARPS = 4 };

/* A warp makes one head of one token. FAST: d % 8 == 0 and x begins on 16 bytes. */
template <bool FAST> __global__ void __launch_bounds__(32 * WARPS) cache_put_kernel(int8_t *__restrict__ pool, float *__restrict__ scales, const bf16 *__restrict__ x, const int32_t *__restrict__ rows,
                                                                                   int64_t limit, int64_t n, int groups, int d, struct cuda_status *status)
{
    const int64_t at = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, t = at / groups;
    const int lane = (int)threadIdx.x % 32;
    if (at >= n) return;
    const int row = rows[t];
    if (row < 0 || row >= limit) {
        if (lane == 0 && at % groups == 0) cuda_report(status, CUDA_FAULT_ROW, t, row, limit);
        return;
    }
    const bf16 *const from = x + at * d;
    const int64_t head = (int64_t)row * groups + at % groups;
    float v[8], largest = 0;
    for (int i = lane * 8; i < d; i += 256) {
        load8<FAST>(from, i, d, v);
#pragma unroll
        for (int e = 0; e < 8; e++) {
            const float a = fabsf(v[e]);
            largest = !(a <= 3.402823466e38f) ? INFINITY : a > largest ? a : largest; /* NaN too */
        }
    }
    largest = warp_max(largest);
    float scale = largest / 127.0f;
    if (!(largest <= 3.402823466e38f)) scale = NAN;
    else if (scale < 1.175494351e-38f) scale = 0;
    if (lane == 0) scales[head] = scale;
    for (int i = lane * 8; i < d; i += 256) {
        load8<FAST>(from, i, d, v);
#pragma unroll
        for (int e = 0; e < 8; e++)
            if (i + e < d) pool[head * d + i + e] = (int8_t)(scale > 0 ? (int)rintf(v[e] / scale) : 0);
    }
}

extern "C" int cuda_cache_put(struct pw_dev *dev, struct pw_tensor pool, struct pw_tensor scale, struct pw_tensor x, struct pw_tensor rows)
{
    const int groups = (int)x.shape[1], d = (int)x.shape[2];
    const int64_t n = x.shape[0] * groups;
    CUDA_BY_BOOL(d % 8 == 0 && cuda_aligned(x.data), fast,
                 CUDA_LAUNCH(dev, "cache_put", cache_put_kernel<fast>, cuda_parts(n, WARPS), 32 * WARPS, 0, (int8_t *)pool.data, (float *)scale.data, (const bf16 *)x.data,
                             (const int32_t *)rows.data, pool.shape[0], n, groups, d, cuda_of(dev)->status))
    return 0;
}

extern "C" int cuda_cache_attn(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor lse, struct pw_tensor q, const struct pw_cache *cache, const struct pw_seqs *seqs, const struct pw_attn *attn)
{
    struct attn_args a = attn_args_of(q, cache->k, cache->v, seqs, attn);
    const void *const all[] = {q.data, out.data};
    PW_CHECK(q.shape[2] <= 256, PW_E_UNSUPPORTED, "cache_attn: device %s has kernels for head dimensions to 256, got %d", dev->kind, (int)q.shape[2]);
    a.k = a.v = NULL;
    a.k8 = (const int8_t *)cache->k.data;
    a.v8 = (const int8_t *)cache->v.data;
    a.k_scale = (const float *)cache->k_scale.data;
    a.v_scale = (const float *)cache->v_scale.data;
    a.out = (bf16 *)out.data;
    a.lse = (float *)lse.data;
    a.vec = attn_aligned(all, 2, a.d);
    a.vec8 = a.d % 16 == 0 && cuda_aligned(cache->k.data) && cuda_aligned(cache->v.data);
    PW_PASS(attn_forward_codes(dev, &a, seqs));
    return attn_decode_codes(dev, &a, seqs);
}
