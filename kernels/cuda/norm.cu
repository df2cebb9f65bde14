/* rmsnorm. A block makes a row; the gradient of the weights is summed by columns, in an order that only the number of rows sets. */
#include "kernels/cuda/cuda.h"

enum { THREADS = 256, HELD = 2 }; /* HELD: eights of a row that a thread keeps in registers: rows of up to 4096 are read once */

/* out may be x. */
template <bool FAST> __global__ void __launch_bounds__(THREADS) rmsnorm_fwd_kernel(bf16 *out, float *__restrict__ inv_rms, const bf16 *x, const float *__restrict__ w, int64_t width, float eps,
                                                                                  float w_offset)
{
    SIMT_SHARED(float[32], partial);
    const int64_t row = blockIdx.x, step = (int64_t)blockDim.x * 8, mine = threadIdx.x * 8;
    float held[HELD][8], v[8], g[8], sum = 0;
    x += row * width;
    out += row * width;
#pragma unroll
    for (int j = 0; j < HELD; j++) {
        load8<FAST>(x, mine + j * step, width, held[j]);
#pragma unroll
        for (int e = 0; e < 8; e++) sum = __fmaf_rn(held[j][e], held[j][e], sum);
    }
    for (int64_t i = mine + HELD * step; i < width; i += step) {
        load8<FAST>(x, i, width, v);
#pragma unroll
        for (int e = 0; e < 8; e++) sum = __fmaf_rn(v[e], v[e], sum);
    }
    sum = block_sum(sum, &partial[0]);
    const float inv = 1.0f / sqrtf(sum / (float)width + eps);
    if (inv_rms && threadIdx.x == 0) inv_rms[row] = inv;
#pragma unroll
    for (int j = 0; j < HELD; j++) {
        load8<FAST>(w, mine + j * step, width, g);
#pragma unroll
        for (int e = 0; e < 8; e++) g[e] = held[j][e] * inv * (g[e] + w_offset);
        store8<FAST>(out, mine + j * step, width, g);
    }
    for (int64_t i = mine + HELD * step; i < width; i += step) {
        load8<FAST>(x, i, width, v);
        load8<FAST>(w, i, width, g);
#pragma unroll
        for (int e = 0; e < 8; e++) g[e] = v[e] * inv * (g[e] + w_offset);
        store8<FAST>(out, i, width, g);
    }
}

/* dx += inv * (dout * (w + w_offset) - x * inv^2 * mean(dout * (w + w_offset) * x)) */
template <bool FAST> __global__ void __launch_bounds__(THREADS) rmsnorm_dx_kernel(bf16 *__restrict__ dx, const bf16 *__restrict__ dout, const bf16 *__restrict__ x, const float *__restrict__ w,
                                                                                 const float *__restrict__ inv_rms, int64_t width, float w_offset)
{
    SIMT_SHARED(float[32], partial);
    const int64_t row = blockIdx.x, step = (int64_t)blockDim.x * 8, mine = threadIdx.x * 8;
    float held[HELD][8], scaled[HELD][8], v[8], g[8], d[8], sum = 0; /* x; dout * (w + w_offset) */
    x += row * width;
    dx += row * width;
    dout += row * width;
#pragma unroll
    for (int j = 0; j < HELD; j++) {
        load8<FAST>(x, mine + j * step, width, held[j]);
        load8<FAST>(dout, mine + j * step, width, scaled[j]);
        load8<FAST>(w, mine + j * step, width, g);
#pragma unroll
        for (int e = 0; e < 8; e++) scaled[j][e] *= g[e] + w_offset, sum = __fmaf_rn(scaled[j][e], held[j][e], sum);
    }
    for (int64_t i = mine + HELD * step; i < width; i += step) {
        load8<FAST>(x, i, width, v);
        load8<FAST>(dout, i, width, d);
        load8<FAST>(w, i, width, g);
#pragma unroll
        for (int e = 0; e < 8; e++) sum = __fmaf_rn(d[e] * (g[e] + w_offset), v[e], sum);
    }
    const float inv = inv_rms[row], dot = block_sum(sum, &partial[0]) * inv * inv / (float)width;
#pragma unroll
    for (int j = 0; j < HELD; j++) {
        load8<FAST>(dx, mine + j * step, width, d);
#pragma unroll
        for (int e = 0; e < 8; e++) d[e] += inv * (scaled[j][e] - held[j][e] * dot);
        store8<FAST>(dx, mine + j * step, width, d);
    }
    for (int64_t i = mine + HELD * step; i < width; i += step) {
        float add[8];
        load8<FAST>(x, i, width, v);
        load8<FAST>(dout, i, width, add);
        load8<FAST>(w, i, width, g);
        load8<FAST>(dx, i, width, d);
#pragma unroll
        for (int e = 0; e < 8; e++) d[e] += inv * (add[e] * (g[e] + w_offset) - v[e] * dot);
        store8<FAST>(dx, i, width, d);
    }
}

/* 32 columns a block: thread (c, r) adds rows r, r + 32, ... of column c; then row 0 of threads adds the 32 sums of each column. */
enum { COLUMNS = 32, ROWS = 32 };
__global__ void __launch_bounds__(COLUMNS * ROWS) rmsnorm_dw_kernel(float *__restrict__ dw, const bf16 *__restrict__ dout, const bf16 *__restrict__ x, const float *__restrict__ inv_rms,
                                                                    int64_t tokens, int64_t width)
{
    SIMT_SHARED(float[ROWS][COLUMNS + 1], part);
    const int64_t column = (int64_t)blockIdx.x * COLUMNS + threadIdx.x;
    float sum = 0;
    if (column < width)
        for (int64_t t = threadIdx.y; t < tokens; t += ROWS)
            sum = __fmaf_rn(load(dout, (size_t)(t * width + column)) * load(x, (size_t)(t * width + column)), inv_rms[t], sum);
    part[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    sum = warp_sum(part[threadIdx.x][threadIdx.y]); /* lane r has row r of column threadIdx.y */
    const int64_t mine = (int64_t)blockIdx.x * COLUMNS + threadIdx.y;
    if (threadIdx.x == 0 && mine < width) dw[mine] += sum;
}

extern "C" int cuda_rmsnorm_fwd(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor inv_rms, struct pw_tensor x, struct pw_tensor w, double eps, double w_offset)
{
    const int64_t width = x.shape[1];
    const unsigned grid = (unsigned)x.shape[0], threads = cuda_warps((width + 7) / 8, THREADS);
    bf16 *to = (bf16 *)out.data;
    const bf16 *from = (const bf16 *)x.data;
    const float *scale = (const float *)w.data;
    CUDA_BY_BOOL(width % 8 == 0 && cuda_aligned(to) && cuda_aligned(from) && cuda_aligned(scale), fast,
                 CUDA_LAUNCH(dev, "rmsnorm_fwd", rmsnorm_fwd_kernel<fast>, grid, threads, 0, to, (float *)inv_rms.data, from, scale, width, (float)eps, (float)w_offset))
    return 0;
}

extern "C" int cuda_rmsnorm_bwd(struct pw_dev *dev, struct pw_tensor dx, struct pw_tensor dw, struct pw_tensor dout, struct pw_tensor x, struct pw_tensor w, struct pw_tensor inv_rms, double w_offset)
{
    const int64_t width = x.shape[1];
    const unsigned grid = (unsigned)x.shape[0], threads = cuda_warps((width + 7) / 8, THREADS);
    bf16 *to = (bf16 *)dx.data;
    const bf16 *d = (const bf16 *)dout.data, *from = (const bf16 *)x.data;
    const float *scale = (const float *)w.data, *inv = (const float *)inv_rms.data;
    CUDA_BY_BOOL(width % 8 == 0 && cuda_aligned(to) && cuda_aligned(d) && cuda_aligned(from) && cuda_aligned(scale), fast,
                 CUDA_LAUNCH(dev, "rmsnorm_bwd", rmsnorm_dx_kernel<fast>, grid, threads, 0, to, d, from, scale, inv, width, (float)w_offset))
    if (dw.data)
        CUDA_LAUNCH(dev, "rmsnorm_bwd", rmsnorm_dw_kernel, cuda_parts(width, COLUMNS), dim3(COLUMNS, ROWS), 0, (float *)dw.data, d, from, inv, x.shape[0], width);
    return 0;
}
