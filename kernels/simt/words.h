/* The CUDA words that kernels use, for a C++ compiler: qualifiers, vector types, thread indices, single-thread intrinsics.
 * __shared__ is left undefined on purpose: SIMT_SHARED is the only spelling. Knows no fiber. */
#ifndef PW_KERNELS_SIMT_WORDS_H
#define PW_KERNELS_SIMT_WORDS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define SIMT_FN [[maybe_unused]] static inline
#define SIMT_INLINE static inline /* for templates */

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(8) int2 { int32_t x, y; };
struct alignas(16) int4 { int32_t x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
SIMT_FN uint2 make_uint2(uint32_t x, uint32_t y) { return uint2{x, y}; }
SIMT_FN uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return uint4{x, y, z, w}; }
SIMT_FN float2 make_float2(float x, float y) { return float2{x, y}; }
SIMT_FN float4 make_float4(float x, float y, float z, float w) { return float4{x, y, z, w}; }

/* initial-exec: these are read at every step of every kernel, and a plugin would call a function for each read otherwise */
#define SIMT_TLS __attribute__((tls_model("initial-exec")))
extern constinit thread_local dim3 threadIdx SIMT_TLS, blockIdx SIMT_TLS, blockDim SIMT_TLS, gridDim SIMT_TLS;

SIMT_FN float rsqrtf(float x) { return 1.0f / sqrtf(x); }
#define __expf(x) expf(x) /* libm reserves the names */
#define __logf(x) logf(x)
SIMT_FN uint32_t __float_as_uint(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
SIMT_FN float __uint_as_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
SIMT_FN uint32_t __umulhi(uint32_t a, uint32_t b) { return (uint32_t)((uint64_t)a * b >> 32); }
SIMT_FN uint64_t __umul64hi(uint64_t a, uint64_t b) { return (uint64_t)((unsigned __int128)a * b >> 64); }
SIMT_FN int __popc(unsigned x) { return __builtin_popcount(x); }
SIMT_FN int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
SIMT_FN float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
SIMT_FN float __fmul_rn(float a, float b) { return a * b; }
SIMT_FN float __fadd_rn(float a, float b) { return a + b; }
SIMT_FN double __dadd_rn(double a, double b) { return a + b; }
template <class T> static inline T __ldg(const T *p) { return *p; }
template <class T> static inline T min(T a, T b) { return b < a ? b : a; }
template <class T> static inline T max(T a, T b) { return a < b ? b : a; }

/* Atomics: blocks run on several threads of the machine. */
SIMT_FN int atomicAdd(int *p, int v) { return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL); }
SIMT_FN unsigned atomicAdd(unsigned *p, unsigned v) { return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL); }
SIMT_FN unsigned long long atomicAdd(unsigned long long *p, unsigned long long v) { return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL); }
SIMT_FN int atomicCAS(int *p, int expected, int v)
{
    __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    return expected;
}
SIMT_FN void __threadfence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
#endif
