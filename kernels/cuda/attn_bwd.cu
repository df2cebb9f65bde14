/* Attention backward, what comes first: delta = sum of dout * out for each query and head, then the two kernels that share it.
 *
 *   P = exp(z - lse)      dP = dO V^T      dS = P (dP - delta) (1 - tanh^2 with a cap)      dV += P^T dO    dK += scale dS^T Q    dQ += scale dS K
 *
 * attn_bwd_keys.cu owns rows of the pool and sums over queries, attn_bwd_queries.cu owns queries and sums over keys; both make P again from
 * lse, so nothing of size queries x keys is stored. Five products instead of the four that one kernel with atomics would need, plus one S: the
 * price of sums in a fixed order. P and dS are rounded to bf16 for their products; sums are f32 and are rounded once, with what they add to. */
#include "kernels/cuda/attn.h"

enum { DELTA_WARPS = 8 };

/* A warp a row: 32 lanes over d. */
__global__ void attn_delta_kernel(const bf16 *__restrict__ dout, const bf16 *__restrict__ out, float *__restrict__ delta, int64_t rows, int d)
{
    const int64_t row = (int64_t)blockIdx.x * DELTA_WARPS + threadIdx.x / 32;
    const int lane = (int)threadIdx.x % 32;
    if (row >= rows) return;
    float sum = 0;
    for (int e = lane; e < d; e += 32) sum = __fmaf_rn(load(dout, (size_t)(row * d + e)), load(out, (size_t)(row * d + e)), sum);
    sum = warp_sum(sum);
    if (lane == 0) delta[row] = sum;
}

extern "C" int cuda_attn_bwd(struct pw_dev *dev, struct pw_tensor dq, struct pw_tensor dk, struct pw_tensor dv, struct pw_tensor dout, struct pw_tensor out, struct pw_tensor lse,
                             struct pw_tensor q, struct pw_tensor k, struct pw_tensor v, const struct pw_seqs *seqs, const struct pw_attn *attn)
{
    struct attn_args a = attn_args_of(q, k, v, seqs, attn);
    const void *const all[] = {q.data, k.data, v.data, dout.data, dq.data, dk.data, dv.data};
    const int64_t rows = (int64_t)a.rows * a.heads;
    PW_CHECK(a.d <= 256, PW_E_UNSUPPORTED, "attn_bwd: device %s has kernels for head dimensions to 256, got %d", dev->kind, a.d);
    if (rows == 0) return 0;
    a.lse = (float *)lse.data;
    a.dout = (const bf16 *)dout.data;
    a.dq = (bf16 *)dq.data;
    a.dk = (bf16 *)dk.data;
    a.dv = (bf16 *)dv.data;
    a.delta = (float *)dev->scratch;
    a.vec = attn_aligned(all, 7, a.d);
    CUDA_LAUNCH(dev, "attn_bwd", attn_delta_kernel, cuda_parts(rows, DELTA_WARPS), 32 * DELTA_WARPS, 0, a.dout, (const bf16 *)out.data, a.delta, rows, a.d);
    PW_PASS(attn_bwd_keys(dev, &a));
    return attn_bwd_queries(dev, &a);
}
