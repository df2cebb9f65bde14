/* What adapters with a magnitude add to linear layers (see kernels/dora.c): lengths of rows, dropout by itself, columns scaled and summed.
 *
 * row_norm: a block makes LENGTHS rows; a thread takes eight columns of each at a time, decodes W, adds scale B A (a row of A is read once for
 * LENGTHS rows of W), squares. B of these rows lies in shared memory, RANKS of it at a time.
 * The others are bound by memory. Sums are f32, in an order that the number of rows alone sets. */
#include "kernels/cuda/decode.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/philox.h"

enum { THREADS = 128, LENGTHS = 4, RANKS = 64, COLUMNS = 32, ROWS = 32, DROPS = 256 };



template <enum decode_kind KIND, bool FAST, bool A_FAST>
__global__ void __launch_bounds__(THREADS, 1) row_norm_kernel(float *__restrict__ norm, const cuda_weight w, const float *__restrict__ a, const float *__restrict__ b, int r, float scale)
{
    SIMT_SHARED(float[16], table);
    SIMT_SHARED(float[LENGTHS * RANKS], bs);
    SIMT_SHARED(float[32], partial);
    const int64_t row0 = (int64_t)blockIdx.x * LENGTHS;
    float sum[LENGTHS] = {};
    if constexpr (decode_uses_table(KIND)) decode_table<KIND>(w, table);
    __syncthreads();
    for (int64_t k0 = 0; k0 < w.n_in; k0 += THREADS * 8) { /* the same number of rounds for all threads */
        const int64_t k = k0 + threadIdx.x * 8;
        float low[LENGTHS][8] = {};
        for (int r0 = 0; r0 < r; r0 += RANKS) {
            const int ranks = min((int)RANKS, r - r0);
            if (r > RANKS || k0 == 0) {
                __syncthreads(); /* everyone is done with the ranks before */
                for (int i = (int)threadIdx.x; i < LENGTHS * ranks; i += THREADS) {
                    const int64_t row = row0 + i / ranks;
                    bs[i / ranks * RANKS + i % ranks] = row < w.n_out ? __ldg(b + row * r + r0 + i % ranks) : 0;
                }
                __syncthreads();
            }
            if (k >= w.n_in) continue;
            for (int j = 0; j < ranks; j++) {
                float x[8];
                load8<A_FAST>(a + (int64_t)(r0 + j) * w.n_in, k, w.n_in, x);
#pragma unroll
                for (int i = 0; i < LENGTHS; i++)
#pragma unroll
                    for (int e = 0; e < 8; e++) low[i][e] = __fmaf_rn(bs[i * RANKS + j], x[e], low[i][e]);
            }
        }
        if (k >= w.n_in) continue;
#pragma unroll
        for (int i = 0; i < LENGTHS; i++) {
            float x[8];
            if (row0 + i >= w.n_out) break;
            decode8<KIND, FAST>(w, table, row0 + i, k, x);
#pragma unroll
            for (int e = 0; e < 8; e++) {
                const float v = k + e < w.n_in ? __fmaf_rn(scale, low[i][e], x[e]) : 0.0f;
                sum[i] = __fmaf_rn(v, v, sum[i]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < LENGTHS; i++) {
        __syncthreads();
        const float all = block_sum(sum[i], &partial[0]);
        if (threadIdx.x == 0 && row0 + i < w.n_out) norm[row0 + i] = sqrtf(all);
    }
}

extern "C" int cuda_row_norm(struct pw_dev *dev, struct pw_tensor norm, const struct pw_weight *w)
{
    PW_PASS(linear_known(dev, "row_norm", w));
    const float *a = w->lora ? (const float *)w->lora->a.data : NULL, *b = w->lora ? (const float *)w->lora->b.data : NULL;
    const int r = w->lora ? w->lora->r : 0;
    const float scale = w->lora ? (float)w->lora->scale : 0;
    const bool words = linear_words(w) && w->n_in % 8 == 0 && cuda_aligned(a); /* FAST of both, or of none: instances are few */
    CUDA_BY_KIND(w, "row_norm", kind,
                 if (words) CUDA_LAUNCH(dev, "row_norm", (row_norm_kernel<kind, true, true>), cuda_parts(w->n_out, LENGTHS), THREADS, 0, (float *)norm.data, cuda_weight_of(w), a, b, r, scale);
                 else CUDA_LAUNCH(dev, "row_norm", (row_norm_kernel<kind, false, false>), cuda_parts(w->n_out, LENGTHS), THREADS, 0, (float *)norm.data, cuda_weight_of(w), a, b, r, scale))
    return 0;
}

/* A thread makes the four elements of one group of Philox. */
__global__ void __launch_bounds__(DROPS) dropout_kernel(bf16 *__restrict__ out, const bf16 *__restrict__ x, int64_t n, const struct cuda_drop drop, bool rest, bool add)
{
    const int64_t group = (int64_t)blockIdx.x * DROPS + threadIdx.x;
    if (4 * group >= n) return;
    const unsigned kept = philox_keep<4>(drop, (uint64_t)(4 * group));
    const float inverse = drop.inverse;
#pragma unroll
    for (int e = 0; e < 4; e++) {
        const int64_t i = 4 * group + e;
        if (i >= n) break;
        const float keep = kept >> e & 1 ? inverse : 0.0f, value = load(x, (size_t)i) * (rest ? 1.0f - keep : keep);
        store(out, (size_t)i, add ? load(out, (size_t)i) + value : value);
    }
}

extern "C" int cuda_dropout(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, struct pw_drop drop, bool rest, bool add)
{
    const int64_t n = pw_count(x);
    if (n == 0) return 0;
    CUDA_LAUNCH(dev, "dropout", dropout_kernel, cuda_parts(n, 4 * DROPS), DROPS, 0, (bf16 *)out.data, (const bf16 *)x.data, n, cuda_drop_of(drop), rest, add);
    return 0;
}

/* out may be x: every element is read and written by one thread. */
template <class O, class X> __global__ void __launch_bounds__(DROPS) column_scale_kernel(O *out, const X *x, const float *__restrict__ m, const float *__restrict__ norm, const float *__restrict__ bias,
                                                                                        int64_t n, int64_t width, bool add)
{
    const int64_t i = (int64_t)blockIdx.x * DROPS + threadIdx.x;
    if (i >= n) return;
    const int64_t c = i % width;
    float value = load(x, (size_t)i) * (m[c] / norm[c]) + (bias ? bias[c] : 0.0f);
    if (add) value += load(out, (size_t)i);
    store(out, (size_t)i, value);
}

extern "C" int cuda_column_scale(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, struct pw_tensor m, struct pw_tensor norm, struct pw_tensor bias, bool add)
{
    const int64_t n = pw_count(x);
    if (n == 0) return 0;
    CUDA_BY_FLOAT(out, to,
                  CUDA_BY_FLOAT(x, from,
                                CUDA_LAUNCH(dev, "column_scale", (column_scale_kernel<to_type, from_type>), cuda_parts(n, DROPS), DROPS, 0, to, from, (const float *)m.data,
                                            (const float *)norm.data, (const float *)bias.data, n, x.shape[1], add)))
    return 0;
}

/* 32 columns a block: thread (c, r) adds rows r, r + 32, ... of column c; then each warp adds the 32 sums of one column. */
__global__ void __launch_bounds__(COLUMNS *ROWS) column_dot_kernel(float *__restrict__ out, const bf16 *__restrict__ x, const bf16 *__restrict__ y, const float *__restrict__ norm, int64_t rows,
                                                                   int64_t width)
{
    SIMT_SHARED(float[ROWS][COLUMNS + 1], part);
    const int64_t column = (int64_t)blockIdx.x * COLUMNS + threadIdx.x;
    float sum = 0;
    if (column < width)
        for (int64_t t = threadIdx.y; t < rows; t += ROWS) sum = __fmaf_rn(load(x, (size_t)(t * width + column)), load(y, (size_t)(t * width + column)), sum);
    part[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    sum = warp_sum(part[threadIdx.x][threadIdx.y]);
    const int64_t mine = (int64_t)blockIdx.x * COLUMNS + threadIdx.y;
    if (threadIdx.x == 0 && mine < width) out[mine] += sum / norm[mine];
}

extern "C" int cuda_column_dot(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, struct pw_tensor y, struct pw_tensor norm)
{
    const int64_t width = x.shape[1];
    if (pw_count(x) == 0) return 0;
    CUDA_LAUNCH(dev, "column_dot", column_dot_kernel, cuda_parts(width, COLUMNS), dim3(COLUMNS, ROWS), 0, (float *)out.data, (const bf16 *)x.data, (const bf16 *)y.data, (const float *)norm.data,
                x.shape[0], width);
    return 0;
}
