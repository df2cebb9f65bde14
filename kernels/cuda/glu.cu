/* glu: act(gate) * up and its gradients, act = SiLU or GELU (tanh). Eight elements a thread; bound by memory. */
#include "kernels/cuda/cuda.h"

enum { THREADS = 256, PER_BLOCK = THREADS * 8 };

/* act(z), and its derivative */
template <enum pw_act ACT> SIMT_INLINE float act_of(float z, float *slope)
{
    if constexpr (ACT == PW_ACT_SILU) {
        const float s = 1.0f / (1.0f + expf(-z)), rest = 1.0f / (1.0f + expf(z)); /* rest = 1 - s, without cancellation */
        *slope = s * (1.0f + z * rest);
        return z * s;
    } else {
        const float c = 0.79788456080286535588f; /* sqrt(2 / pi) */
        const float th = tanhf(c * (z + 0.044715f * z * z * z));
        *slope = 0.5f * (1.0f + th) + 0.5f * z * (1.0f - th * th) * c * (1.0f + 3.0f * 0.044715f * z * z);
        return 0.5f * z * (1.0f + th);
    }
}

/* out may be gate or up. */
template <enum pw_act ACT, bool FAST> __global__ void __launch_bounds__(THREADS) glu_fwd_kernel(bf16 *out, const bf16 *gate, const bf16 *up, int64_t n)
{
    const int64_t i = (int64_t)blockIdx.x * PER_BLOCK + threadIdx.x * 8;
    float g[8], u[8], slope;
    load8<FAST>(gate, i, n, g);
    load8<FAST>(up, i, n, u);
#pragma unroll
    for (int e = 0; e < 8; e++) u[e] *= act_of<ACT>(g[e], &slope);
    store8<FAST>(out, i, n, u);
}

template <enum pw_act ACT, bool FAST> __global__ void __launch_bounds__(THREADS) glu_bwd_kernel(bf16 *__restrict__ dgate, bf16 *__restrict__ dup, const bf16 *__restrict__ dout,
                                                                                               const bf16 *__restrict__ gate, const bf16 *__restrict__ up, int64_t n)
{
    const int64_t i = (int64_t)blockIdx.x * PER_BLOCK + threadIdx.x * 8;
    float d[8], g[8], u[8], dg[8], du[8];
    load8<FAST>(dout, i, n, d);
    load8<FAST>(gate, i, n, g);
    load8<FAST>(up, i, n, u);
    load8<FAST>(dgate, i, n, dg);
    load8<FAST>(dup, i, n, du);
#pragma unroll
    for (int e = 0; e < 8; e++) {
        float slope;
        const float value = act_of<ACT>(g[e], &slope);
        dg[e] += d[e] * u[e] * slope;
        du[e] += d[e] * value;
    }
    store8<FAST>(dgate, i, n, dg);
    store8<FAST>(dup, i, n, du);
}

extern "C" int cuda_glu_fwd(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor gate, struct pw_tensor up, enum pw_act act)
{
    const int64_t n = pw_count(out);
    const unsigned grid = cuda_parts(n, PER_BLOCK);
    bf16 *to = (bf16 *)out.data;
    const bf16 *g = (const bf16 *)gate.data, *u = (const bf16 *)up.data;
    CUDA_BY_BOOL(cuda_aligned(to) && cuda_aligned(g) && cuda_aligned(u), fast,
                 if (act == PW_ACT_SILU) CUDA_LAUNCH(dev, "glu_fwd", (glu_fwd_kernel<PW_ACT_SILU, fast>), grid, THREADS, 0, to, g, u, n);
                 else CUDA_LAUNCH(dev, "glu_fwd", (glu_fwd_kernel<PW_ACT_GELU_TANH, fast>), grid, THREADS, 0, to, g, u, n))
    return 0;
}

extern "C" int cuda_glu_bwd(struct pw_dev *dev, struct pw_tensor dgate, struct pw_tensor dup, struct pw_tensor dout, struct pw_tensor gate, struct pw_tensor up, enum pw_act act)
{
    const int64_t n = pw_count(dout);
    const unsigned grid = cuda_parts(n, PER_BLOCK);
    bf16 *dg = (bf16 *)dgate.data, *du = (bf16 *)dup.data;
    const bf16 *d = (const bf16 *)dout.data, *g = (const bf16 *)gate.data, *u = (const bf16 *)up.data;
    CUDA_BY_BOOL(cuda_aligned(dg) && cuda_aligned(du) && cuda_aligned(d) && cuda_aligned(g) && cuda_aligned(u), fast,
                 if (act == PW_ACT_SILU) CUDA_LAUNCH(dev, "glu_bwd", (glu_bwd_kernel<PW_ACT_SILU, fast>), grid, THREADS, 0, dg, du, d, g, u, n);
                 else CUDA_LAUNCH(dev, "glu_bwd", (glu_bwd_kernel<PW_ACT_GELU_TANH, fast>), grid, THREADS, 0, dg, du, d, g, u, n))
    return 0;
}
