/* encode and decode: whole matrices between f32 and the stored types (layouts: kernels/weight.h). Decoding itself is in decode.h, shared with the
 * fused products. Bound by memory: a thread makes eight consecutive elements, with 16-byte accesses where rows and addresses allow it. */
#include "kernels/cuda/decode.h"

#include <float.h>

enum { THREADS = 256, WARPS = THREADS / 32, EIGHTS = 2 }; /* EIGHTS: loads in flight of a decoding thread */

/* ---- decode ---- */

SIMT_FN void put8(float *out, const float x[8])
{
    ((float4 *)out)[0] = make_float4(x[0], x[1], x[2], x[3]);
    ((float4 *)out)[1] = make_float4(x[4], x[5], x[6], x[7]);
}
SIMT_FN void put8(bf16 *out, const float x[8]) { *(uint4 *)out = make_uint4(bf16x2(x[0], x[1]), bf16x2(x[2], x[3]), bf16x2(x[4], x[5]), bf16x2(x[6], x[7])); }

/* A block of threads makes one piece of a row; `pieces` of them make the row. */
template <class O, enum decode_kind KIND, bool FAST> __global__ void __launch_bounds__(THREADS) decode_kernel(O *__restrict__ out, const cuda_weight w, int64_t first_row, unsigned pieces)
{
    SIMT_SHARED(float[16], table);
    if constexpr (decode_uses_table(KIND)) {
        decode_table<KIND>(w, table);
        __syncthreads();
    }
    const int64_t row = blockIdx.x / pieces, k0 = (int64_t)(blockIdx.x % pieces) * blockDim.x * 8 * EIGHTS + threadIdx.x * 8;
    float x[EIGHTS][8];
#pragma unroll
    for (int j = 0; j < EIGHTS; j++) decode8<KIND, FAST>(w, table, first_row + row, k0 + j * (int64_t)blockDim.x * 8, x[j]);
#pragma unroll
    for (int j = 0; j < EIGHTS; j++) {
        const int64_t k = k0 + j * (int64_t)blockDim.x * 8;
        if constexpr (FAST) {
            if (k < w.n_in) put8(out + row * w.n_in + k, x[j]);
        } else {
#pragma unroll
            for (int e = 0; e < 8; e++)
                if (k + e < w.n_in) store(out, (size_t)(row * w.n_in + k + e), x[j][e]);
        }
    }
}

extern "C" int cuda_decode(struct pw_dev *dev, struct pw_tensor out, const struct pw_weight *w, int64_t first_row)
{
    const struct cuda_weight view = cuda_weight_of(w);
    const int64_t eights = (w->n_in + 7) / 8, wanted = (eights + EIGHTS - 1) / EIGHTS;
    const unsigned threads = wanted >= THREADS ? (unsigned)THREADS : (unsigned)((wanted + 31) / 32 * 32), pieces = cuda_parts(eights, (int64_t)threads * EIGHTS);
    const unsigned grid = (unsigned)out.shape[0] * pieces;
    const bool fast = cuda_weight_fast(w) && (uintptr_t)out.data % 16 == 0;
    CUDA_BY_KIND(w, "decode", kind,
                 if (out.dtype == PW_F32 && fast) CUDA_LAUNCH(dev, "decode", (decode_kernel<float, kind, true>), grid, threads, 0, (float *)out.data, view, first_row, pieces);
                 else if (out.dtype == PW_F32) CUDA_LAUNCH(dev, "decode", (decode_kernel<float, kind, false>), grid, threads, 0, (float *)out.data, view, first_row, pieces);
                 else if (fast) CUDA_LAUNCH(dev, "decode", (decode_kernel<bf16, kind, true>), grid, threads, 0, (bf16 *)out.data, view, first_row, pieces);
                 else CUDA_LAUNCH(dev, "decode", (decode_kernel<bf16, kind, false>), grid, threads, 0, (bf16 *)out.data, view, first_row, pieces))
    return 0;
}

/* ---- encode: codes ---- */

/* How many thresholds x is above, by halving. */
SIMT_FN unsigned nf4_code(float x)
{
    constexpr float t[15] = {PW_NF4_THRESHOLDS};
    const bool a = x > t[7], b = x > (a ? t[11] : t[3]);
    const bool c = x > (a ? (b ? t[13] : t[9]) : (b ? t[5] : t[1]));
    const bool d = x > (a ? (b ? (c ? t[14] : t[12]) : (c ? t[10] : t[8])) : (b ? (c ? t[6] : t[4]) : (c ? t[2] : t[0])));
    return 8u * a + 4u * b + 2u * c + d;
}
SIMT_FN unsigned fp4_code(float x)
{
    constexpr float above[7] = {PW_FP4_ABOVE};
    constexpr unsigned code[7] = {PW_FP4_CODES};
    const float a = fabsf(x);
    unsigned c = 0;
#pragma unroll
    for (int i = 6; i >= 0; i--) c = a > above[i] ? code[i] : c;
    return c | (x < 0 ? 8u : 0u);
}
template <bool FP4> SIMT_INLINE unsigned four_code(float x) { return FP4 ? fp4_code(x) : nf4_code(x); }
SIMT_FN float block_inverse(float absmax) { return 1.0f / (absmax > 1e-38f ? absmax : 1e-38f); } /* pw_block_inverse */
SIMT_FN bool is_finite(float x) { return fabsf(x) <= FLT_MAX; }

/* ---- encode: 4 bits ---- */

/* Blocks of 8 to 256 elements, a power of two: 1 to 32 lanes make one. A block with a number that is not finite is reported and not written. */
template <bool FP4> __global__ void __launch_bounds__(THREADS) encode_four_kernel(uint32_t *__restrict__ codes, float *__restrict__ absmax, const float *__restrict__ x, int64_t n,
                                                                                  int block, struct cuda_status *status)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 8;
    float v[8], top = 0;
    int bad = -1;
    if (i + 8 <= n) {
        const float4 a = __ldg((const float4 *)(x + i)), b = __ldg((const float4 *)(x + i) + 1);
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    } else {
#pragma unroll
        for (int e = 0; e < 8; e++) v[e] = i + e < n ? x[i + e] : 0;
    }
#pragma unroll
    for (int e = 0; e < 8; e++) {
        top = fmaxf(top, fabsf(v[e]));
        if (bad < 0 && !is_finite(v[e])) bad = e;
    }
    const int lanes = block / 8;
    const unsigned lane = threadIdx.x % 32, mine = (lanes == 32 ? 0xffffffffu : (1u << lanes) - 1) << lane / lanes * lanes;
    for (int d = 1; d < lanes; d *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, d));
    const unsigned all_bad = __ballot_sync(0xffffffffu, bad >= 0);
    if (bad >= 0) cuda_report(status, CUDA_FAULT_NOT_FINITE, i + bad, 0, n);
    if ((all_bad & mine) || i >= n) return;
    const float inverse = block_inverse(top);
    uint32_t word = 0;
#pragma unroll
    for (int e = 0; e < 8; e++) word |= four_code<FP4>(v[e] * inverse) << (8 * (e / 2) + (e % 2 ? 0 : 4));
    if (lane % lanes == 0) absmax[i / block] = top;
    if (i + 8 <= n) {
        codes[i / 8] = word;
        return;
    }
    if (n % 2) word &= ~(15u << (n - i - 1) * 4); /* the half that no element owns */
    for (int64_t b = 0; b < (n - i + 1) / 2; b++) ((uint8_t *)(codes + i / 8))[b] = (uint8_t)(word >> 8 * b);
}

/* Any even block, any address: a warp makes one, a byte for each lane at a time. */
template <bool FP4> __global__ void __launch_bounds__(THREADS) encode_four_any_kernel(uint8_t *__restrict__ codes, float *__restrict__ absmax, const float *__restrict__ x, int64_t n,
                                                                                      int block, struct cuda_status *status)
{
    const int64_t b = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, first = b * block, end = min(n, first + block);
    const int64_t lane = threadIdx.x % 32;
    if (first >= n) return; /* a whole warp */
    float top = 0;
    bool bad = false;
    for (int64_t i = first + lane; i < end; i += 32) {
        top = fmaxf(top, fabsf(x[i]));
        if (is_finite(x[i])) continue;
        bad = true;
        cuda_report(status, CUDA_FAULT_NOT_FINITE, i, 0, n);
    }
    if (__any_sync(0xffffffffu, bad)) return;
    top = warp_max(top);
    const float inverse = block_inverse(top);
    if (lane == 0) absmax[b] = top;
    for (int64_t i = first + 2 * lane; i < end; i += 64)
        codes[i / 2] = (uint8_t)(four_code<FP4>(x[i] * inverse) << 4 | (i + 1 < end ? four_code<FP4>(x[i + 1] * inverse) : 0));
}

/* ---- encode: 8 bits, one scale a row ---- */

__global__ void __launch_bounds__(THREADS) encode_int8_kernel(int8_t *__restrict__ codes, float *__restrict__ absmax, const float *__restrict__ x, int64_t width, struct cuda_status *status)
{
    SIMT_SHARED(float[32], partial);
    const int64_t row = blockIdx.x;
    x += row * width;
    codes += row * width;
    float top = 0;
    for (int64_t i = threadIdx.x; i < width; i += THREADS) {
        const float a = fabsf(x[i]);
        if (!is_finite(a)) cuda_report(status, CUDA_FAULT_NOT_FINITE, row * width + i, 0, gridDim.x * width);
        top = is_finite(a) ? fmaxf(top, a) : a != a || top != top ? __uint_as_float(0x7fffffffu) : a;
    }
    top = warp_max(top);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = top;
    __syncthreads();
    top = warp_max(threadIdx.x % 32 < WARPS ? partial[threadIdx.x % 32] : 0);
    if (!is_finite(top)) return;
    const float factor = 127.0f / top;
    const bool zeros = !is_finite(factor); /* pw_int8_code */
    if (threadIdx.x == 0) absmax[row] = top;
    for (int64_t i = threadIdx.x; i < width; i += THREADS) codes[i] = zeros ? 0 : (int8_t)rintf(x[i] * factor);
}

extern "C" int cuda_encode(struct pw_dev *dev, struct pw_weight *w, struct pw_tensor x)
{
    const int64_t n = w->n_out * w->n_in;
    float *absmax = (float *)(uintptr_t)w->absmax;
    uint8_t *codes = (uint8_t *)(uintptr_t)w->data;
    const float *from = (const float *)x.data;
    struct cuda_status *status = cuda_of(dev)->status;
    if (w->type == PW_Q_INT8) {
        CUDA_LAUNCH(dev, "encode", encode_int8_kernel, (unsigned)w->n_out, THREADS, 0, (int8_t *)codes, absmax, from, w->n_in, status);
        return 0;
    }
    PW_CHECK(w->type == PW_Q_NF4 || w->type == PW_Q_FP4, PW_E_UNSUPPORTED, "encode: device %s has no kernel for weights of type %s", dev->kind, pw_qtype_name(w->type));
    const bool fp4 = w->type == PW_Q_FP4;
    if (cuda_shift_of(w->block) >= 3 && w->block <= 256 && (uintptr_t)from % 16 == 0 && (uintptr_t)codes % 4 == 0) {
        const unsigned grid = cuda_parts(n, THREADS * 8);
        if (fp4) CUDA_LAUNCH(dev, "encode", encode_four_kernel<true>, grid, THREADS, 0, (uint32_t *)codes, absmax, from, n, w->block, status);
        else CUDA_LAUNCH(dev, "encode", encode_four_kernel<false>, grid, THREADS, 0, (uint32_t *)codes, absmax, from, n, w->block, status);
        return 0;
    }
    const unsigned grid = cuda_parts(pw_weight_blocks(w), WARPS);
    if (fp4) CUDA_LAUNCH(dev, "encode", encode_four_any_kernel<true>, grid, THREADS, 0, codes, absmax, from, n, w->block, status);
    else CUDA_LAUNCH(dev, "encode", encode_four_any_kernel<false>, grid, THREADS, 0, codes, absmax, from, n, w->block, status);
    return 0;
}
