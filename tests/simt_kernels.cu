/* Kernels that test the emulation and every PTX wrapper (contract: simt_kernels.h). nvcc compiles this file too (make cuda), so that each wrapper is
 * assembled. Kernels named bad_* hold one mistake, which is written beside it. */
#include "kernels/cuda/philox.h"

#include "tests/simt_kernels.h"

/* ---- barriers, warps ---- */

__global__ void phases(float *o, const float *x) /* 100 threads, each needs the whole of the last phase */
{
    SIMT_SHARED(float[2][100], s);
    const int i = threadIdx.x;
    s[0][i] = x[i];
    for (int p = 0; p < 3; p++) {
        __syncthreads();
        float sum = 0;
        for (int j = 0; j < 100; j++) sum += s[p & 1][j];
        s[1 - (p & 1)][i] = sum / 100 + (float)i;
    }
    __syncthreads();
    o[i] = s[1][99 - i];
}
__global__ void indices(float *o, const float *) /* block (4, 3, 2), grid (2, 3, 4): every thread of every block once */
{
    const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z), block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    o[block * 24 + thread] = (float)(block * 24 + thread);
}
__global__ void shuffles(float *o, const float *x)
{
    const float v = x[threadIdx.x];
    o[threadIdx.x] = __shfl_sync(0xffffffffu, v, 5);
    o[32 + threadIdx.x] = __shfl_xor_sync(0xffffffffu, v, 3);
    o[64 + threadIdx.x] = __shfl_down_sync(0xffffffffu, v, 4); /* the last four keep theirs */
    o[96 + threadIdx.x] = (float)__shfl_sync(0xffffffffu, (int)threadIdx.x * 7, (int)(threadIdx.x * 5 % 32));
    o[128 + threadIdx.x] = (float)__shfl_xor_sync(0xffffffffu, (double)v * 3, 16);
    o[160 + threadIdx.x] = (float)__popc(__ballot_sync(0xffffffffu, threadIdx.x % 3 == 0));
    o[192 + threadIdx.x] = (float)(__any_sync(0xffffffffu, threadIdx.x == 31) * 2 + __any_sync(0xffffffffu, 0));
}
__global__ void absent_lane(float *o, const float *x) /* lane 1 is not in the mask of lane 0's collective */
{
    if (threadIdx.x == 1) return;
    o[threadIdx.x] = __shfl_sync(0xfffffffdu, x[threadIdx.x], 1);
}
__global__ void warp_write(float *o, const float *x)
{
    SIMT_SHARED(float[64], s);
    s[threadIdx.x] = x[threadIdx.x];
    __syncwarp();
    o[threadIdx.x] = s[threadIdx.x ^ 31];
}
__global__ void sums(float *o, const float *x) /* 96 threads */
{
    SIMT_SHARED(float[32], partial);
    SIMT_SHARED(double[32], wide);
    const float one = block_sum(x[threadIdx.x], &partial[0]);
    const double two = block_sum((double)x[threadIdx.x] * 0x1p40, &wide[0]);
    o[threadIdx.x] = one;
    o[96 + threadIdx.x] = (float)(two * 0x1p-40);
    o[192 + threadIdx.x] = warp_max(-x[threadIdx.x]);
    o[288 + threadIdx.x] = warp_max(threadIdx.x == 40 ? __uint_as_float(0x7fc00000u) : 1.0f);
}
__global__ void counters(float *o, const float *)
{
    SIMT_SHARED(int[2], n);
    if (threadIdx.x < 2) n[threadIdx.x] = 0;
    __syncthreads();
    atomicAdd(&n[0], (int)threadIdx.x);
    const int before = atomicCAS(&n[1], 0, (int)threadIdx.x + 1);
    const unsigned first = __ballot_sync(0xffffffffu, before == 0);
    __syncthreads();
    o[threadIdx.x] = (float)n[0];
    o[64 + threadIdx.x] = first && threadIdx.x / 32 == (unsigned)(n[1] - 1) / 32 ? (float)__popc(first) : 1.0f; /* one thread found it free */
}
/* Legal: threads that have returned are not waited for. */
__global__ void early_return(float *o, const float *)
{
    if (threadIdx.x >= 40) return;
    __syncthreads();
    o[threadIdx.x] = 1;
}
/* Legal: two half-warps with masks of their own, __syncwarp as the only ordering. */
__global__ void halves(float *o, const float *x)
{
    SIMT_SHARED(float[2][32], s);
    const unsigned lane = threadIdx.x % 32, mask = lane < 16 ? 0xffffu : 0xffff0000u;
    float v = x[threadIdx.x];
    if (lane < 16) v = __shfl_xor_sync(mask, v, 8);
    else
        for (int i = 0; i < 3; i++) v += __shfl_xor_sync(mask, v, 1);
    s[threadIdx.x / 32][lane] = v;
    __syncwarp(mask);
    v = s[threadIdx.x / 32][lane ^ 4];
    __syncwarp();
    s[threadIdx.x / 32][lane ^ 16] = v;
    __syncwarp();
    o[threadIdx.x] = s[threadIdx.x / 32][31 - lane];
}
/* Legal: lanes that have returned are not in a vote. */
__global__ void exited_lanes(float *o, const float *)
{
    if (threadIdx.x % 32 >= 20) return;
    o[threadIdx.x] = (float)__ballot_sync(0xffffffffu, threadIdx.x % 2);
}

/* ---- shared memory, copies in flight ---- */

__global__ void most_shared(float *o, const float *x) /* all there is, dynamic */
{
    SIMT_DYN_SHARED(float, s);
    const int last = 99 * 256 - 1;
    s[last - (int)threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    o[threadIdx.x] = s[last - 31 + (int)threadIdx.x];
}
__global__ void copies(float *o, const float *x)
{
    SIMT_SHARED(float[3][128], s);
    const int i = 4 * threadIdx.x;
    cp_async_16(&s[0][i], x + i, true);
    cp_async_commit();
    cp_async_16(&s[1][i], x + 128 + i, true);
    cp_async_commit();
    cp_async_16(&s[2][i], nullptr, false); /* zeros, nothing is read */
    cp_async_commit();
    cp_async_wait<2>();
    o[threadIdx.x] = s[0][i];
    o[32 + threadIdx.x] = s[1][i];         /* not covered by the wait: as late as it may be, so NaN */
    cp_async_wait<0>();
    __syncthreads();
    o[64 + threadIdx.x] = s[1][127 - i];
    o[96 + threadIdx.x] = s[2][i + 3];
}

/* ---- tensor cores ---- */

__global__ void ldmatrix_kernel(uint32_t *r, const uint16_t *rows, bool trans)
{
    SIMT_SHARED(uint16_t[32 * 8], s);
    for (int i = 0; i < 8; i++) s[8 * threadIdx.x + i] = rows[8 * threadIdx.x + i];
    __syncthreads();
    uint32_t v[4];
    if (trans) ldmatrix_x4_trans(v, &s[8 * threadIdx.x]);
    else ldmatrix_x4(v, &s[8 * threadIdx.x]);
    for (int i = 0; i < 4; i++) r[4 * threadIdx.x + i] = v[i];
}
/* Operands placed by CuTe's published strides (mma_traits_sm80.hpp): A T(4,8):(32,1) V(2,2,2):(16,8,128) in (m + 16 k); B T(4,8):(16,1)
 * V(2,2):(8,64) in (n + 8 k); C T(4,8):(32,1) V(2,2):(16,8) in (m + 16 n). */
__global__ void mma_kernel(float *d, const uint16_t *a, const uint16_t *b)
{
    const int l = threadIdx.x, low = l % 4, high = l / 4;
    uint16_t av[8], bv[4];
    for (int v = 0; v < 8; v++) {
        const int at = low * 32 + high + v % 2 * 16 + v / 2 % 2 * 8 + v / 4 * 128;
        av[v] = a[at % 16 * 16 + at / 16];
    }
    for (int v = 0; v < 4; v++) {
        const int at = low * 16 + high + v % 2 * 8 + v / 2 * 64;
        bv[v] = b[at / 8 * 8 + at % 8];
    }
    uint32_t ra[4], rb[2];
    for (int i = 0; i < 4; i++) ra[i] = (uint32_t)av[2 * i] | (uint32_t)av[2 * i + 1] << 16;
    for (int i = 0; i < 2; i++) rb[i] = (uint32_t)bv[2 * i] | (uint32_t)bv[2 * i + 1] << 16;
    float c[4] = {0.25f, 0.25f, 0.25f, 0.25f};
    mma_m16n8k16_bf16(c, ra, rb);
    for (int v = 0; v < 4; v++) {
        const int at = low * 32 + high + v % 2 * 16 + v / 2 * 8;
        d[at % 16 * 8 + at / 16] = c[v];
    }
}

/* ---- mistakes ---- */

__global__ void bad_missing_barrier(float *o, const float *x)
{
    SIMT_SHARED(float[64], s);
    s[threadIdx.x] = x[threadIdx.x];
    o[threadIdx.x] = s[63 - threadIdx.x]; /* no __syncthreads() */
}
__global__ void bad_missing_second_barrier(float *o, const float *x)
{
    SIMT_SHARED(float[64], s);
    float acc = 0;
    for (int r = 0; r < 2; r++) {
        s[threadIdx.x] = x[threadIdx.x] + (float)r; /* the last turn's reader may still be there */
        __syncthreads();
        acc += s[(threadIdx.x + 32) % 64];
    }
    o[threadIdx.x] = acc;
}
__global__ void bad_warp_sync_assumed(float *o, const float *x)
{
    SIMT_SHARED(float[32], s);
    s[threadIdx.x] = x[threadIdx.x];
    o[threadIdx.x] = __shfl_xor_sync(0xffffffffu, s[threadIdx.x ^ 1], 1); /* no __syncwarp() */
}
__global__ void bad_shuffle_as_barrier(float *o, const float *x)
{
    SIMT_SHARED(float[32], s);
    s[threadIdx.x] = x[threadIdx.x];
    const float v = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);      /* orders nothing; only TSan sees it */
    o[threadIdx.x] = s[threadIdx.x ^ 1] - v;
}
__global__ void bad_shared_oob(float *o, const float *x)
{
    SIMT_SHARED(float[64], s);
    float *const flat = &s[0]; /* not for the compiler to see */
    flat[threadIdx.x + 1] = x[threadIdx.x]; /* s[64] */
    __syncthreads();
    o[threadIdx.x] = s[threadIdx.x];
}
__global__ void bad_divergent_barrier(float *o, const float *)
{
    if (threadIdx.x < 32) __syncthreads();
    else {
        o[threadIdx.x] = 0;
        __syncthreads(); /* another line */
    }
}
__global__ void bad_shuffle_vs_barrier(float *o, const float *x)
{
    float v = x[threadIdx.x];
    if (threadIdx.x % 32 < 16) v = __shfl_xor_sync(0xffffffffu, v, 1); /* waits for lanes that are elsewhere */
    else __syncthreads();
    o[threadIdx.x] = v;
}
__global__ void bad_lanes_disagree(float *o, const float *x)
{
    float v = x[threadIdx.x];
    if (threadIdx.x % 2) v = __shfl_xor_sync(0xffffffffu, v, 1);
    else v += (float)__ballot_sync(0xffffffffu, v > 0);
    o[threadIdx.x] = v;
}
__global__ void bad_mask(float *o, const float *x) { o[threadIdx.x] = __shfl_xor_sync(0xfffffffeu, x[threadIdx.x], 1); } /* lane 0 is not in it */
__global__ void bad_uninitialised_shared(float *o, const float *)
{
    SIMT_SHARED(float[64], s);
    if (threadIdx.x < 63) s[threadIdx.x] = 1;
    __syncthreads();
    o[threadIdx.x] = s[threadIdx.x];
}
__global__ void bad_no_wait(float *o, const float *x)
{
    SIMT_SHARED(float[128], s);
    cp_async_16(&s[4 * threadIdx.x], x + 4 * threadIdx.x, true);
    cp_async_commit();
    __syncthreads();
    o[threadIdx.x] = s[threadIdx.x];
    cp_async_wait<0>();
}
__global__ void bad_wait_too_few(float *o, const float *x)
{
    SIMT_SHARED(float[128], s);
    cp_async_16(&s[4 * threadIdx.x], x + 4 * threadIdx.x, true);
    cp_async_commit();
    cp_async_wait<1>(); /* must be <0> */
    __syncthreads();
    o[threadIdx.x] = s[threadIdx.x];
    cp_async_wait<0>();
}
__global__ void bad_wait_no_barrier(float *o, const float *x)
{
    SIMT_SHARED(float[128], s);
    cp_async_16(&s[4 * threadIdx.x], x + 4 * threadIdx.x, true);
    cp_async_commit();
    cp_async_wait<0>(); /* its own copies alone */
    o[threadIdx.x] = s[threadIdx.x + 96];
}
__global__ void bad_never_waits(float *o, const float *x)
{
    SIMT_SHARED(float[128], s);
    cp_async_16(&s[4 * threadIdx.x], x + 4 * threadIdx.x, true);
    cp_async_commit();
    o[threadIdx.x] = 0;
}
__global__ void bad_copy_source(float *o, const float *x)
{
    SIMT_SHARED(float[128], s);
    cp_async_16(&s[4 * threadIdx.x], x + 4 * threadIdx.x + 1, true); /* 4 bytes off */
    cp_async_commit();
    cp_async_wait<0>();
    o[threadIdx.x] = s[4 * threadIdx.x];
}
__global__ void bad_misaligned_ldmatrix(float *o, const float *)
{
    SIMT_SHARED(uint16_t[32 * 9], s);
    for (int i = threadIdx.x; i < 32 * 9; i += 32) s[i] = 0;
    __syncthreads();
    uint32_t r[4];
    ldmatrix_x4(r, &s[9 * threadIdx.x]); /* rows of 18 bytes */
    o[threadIdx.x] = (float)r[0];
}
__global__ void bad_global_ldmatrix(float *o, const float *x)
{
    uint32_t r[4];
    ldmatrix_x4(r, x + 4 * threadIdx.x);
    o[threadIdx.x] = (float)r[0];
}
__global__ void bad_mma_lane(float *o, const float *)
{
    if (threadIdx.x == 7) return; /* needs all 32 */
    float d[4] = {};
    const uint32_t a[4] = {}, b[2] = {};
    mma_m16n8k16_bf16(d, a, b);
    o[threadIdx.x] = d[0];
}
__global__ void dropout_bits(uint32_t *eights, uint32_t *pairs, cuda_drop d, uint64_t first)
{
    eights[threadIdx.x] = philox_keep<8>(d, first + threadIdx.x);
    pairs[threadIdx.x] = philox_keep<2>(d, first + threadIdx.x);
}
__global__ void write_at(float *x, int at) { x[at + (int)threadIdx.x] = 1; }

#if !defined(__CUDACC__)
#include <math.h>
#include "kernels/simt/memory.h"

__global__ void bad_too_much_shared(float *o, const float *) /* 100 KiB; nvcc would refuse */
{
    SIMT_SHARED(float[25 * 1024], s);
    s[threadIdx.x] = 1;
    o[threadIdx.x] = s[threadIdx.x];
}

/* ---- by name ---- */

static const struct row { const char *name; dim3 grid, block; size_t smem; void (*kernel)(float *, const float *); } rows[] = {
#define ROW(name, threads) {#name, 1, threads, 0, name}
    ROW(phases, 100), {"indices", dim3(2, 3, 4), dim3(4, 3, 2), 0, indices}, ROW(shuffles, 32), ROW(absent_lane, 32), ROW(warp_write, 64), ROW(sums, 96), ROW(counters, 64),
    ROW(early_return, 64), ROW(halves, 64), ROW(exited_lanes, 64), {"most_shared", 1, 32, SIMT_SMEM_MAX, most_shared}, ROW(copies, 32),
    ROW(bad_missing_barrier, 64), ROW(bad_missing_second_barrier, 64), ROW(bad_warp_sync_assumed, 32), ROW(bad_shuffle_as_barrier, 32), ROW(bad_shared_oob, 64),
    ROW(bad_divergent_barrier, 64), ROW(bad_shuffle_vs_barrier, 32), ROW(bad_lanes_disagree, 32), ROW(bad_mask, 32), ROW(bad_uninitialised_shared, 64), ROW(bad_no_wait, 32),
    ROW(bad_wait_too_few, 32), ROW(bad_wait_no_barrier, 32), ROW(bad_never_waits, 32), ROW(bad_copy_source, 32), ROW(bad_misaligned_ldmatrix, 32), ROW(bad_global_ldmatrix, 32),
    ROW(bad_mma_lane, 32), ROW(bad_too_much_shared, 32), {"bad_dynamic", 1, 32, SIMT_SMEM_MAX + 1, most_shared}, {"bad_block", 1, 1025, 0, early_return},
};
static const struct row *find(const char *name)
{
    for (const struct row &r : rows)
        if (strcmp(r.name, name) == 0) return &r;
    return nullptr;
}

int simt_run(const char *name, const char *schedule, float *out)
{
    alignas(16) static float in[SIMT_OUT];
    const struct row *r = find(name);
    for (int i = 0; i < SIMT_OUT; i++) in[i] = (float)(i + 1), out[i] = NAN;
    if (!r || !simt_schedule(schedule)) return -1;
    simt_threads(1);
    return simt_call(r->grid, r->block, r->smem, r->kernel, out, (const float *)in);
}
int simt_dropout(double p, uint64_t seed, uint64_t offset, uint64_t first, uint32_t *eights, uint32_t *pairs)
{
    simt_threads(1);
    return SIMT_LAUNCH(dropout_bits, 1, 32, 0, nullptr, eights, pairs, cuda_drop_of({p, seed, offset}), first);
}
const char *simt_run_fault(void) { return simt_fault_text(); }
int simt_run_threads(const char *name) { return (int)(find(name)->block.x * find(name)->block.y * find(name)->block.z); }

int simt_run_past_end(int n, int at)
{
    float *x = (float *)simt_memory_take((size_t)n * sizeof *x);
    if (!x) return -1;
    simt_threads(1);
    const int rc = SIMT_LAUNCH(write_at, 1, 1, 0, nullptr, x, at);
    simt_memory_give(x);
    return rc;
}
float simt_peek(void)
{
    volatile float *x = (volatile float *)simt_memory_take(64);
    return x[3];
}

float simt_bf16_to_f32(uint16_t x) { return bf16_to_f32(x); }
uint16_t simt_bf16_from_f32(float x) { return bf16_from_f32(x); }
uint32_t simt_bf16x2(float low, float high) { return bf16x2(low, high); }
float simt_f16_to_f32(uint16_t x) { return f16_to_f32(x); }
uint16_t simt_f16_from_f32(float x) { return f16_from_f32(x); }

int simt_ldmatrix(bool trans, const uint16_t *from, uint32_t *r) { return SIMT_LAUNCH(ldmatrix_kernel, 1, 32, 0, nullptr, r, from, trans); }
int simt_mma(float *d, const uint16_t *a, const uint16_t *b) { return SIMT_LAUNCH(mma_kernel, 1, 32, 0, nullptr, d, a, b); }
#endif
