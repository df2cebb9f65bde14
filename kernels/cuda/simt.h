/* One kernel source, two compilers: the words a kernel may use.
 *
 * Under nvcc every macro here is the obvious CUDA spelling and every wrapper is one PTX instruction. Under a C++ compiler the same words
 * come from kernels/simt/: each CUDA thread is a fiber, and what hardware leaves undefined stops with the source line.
 * Rules for kernels: no <<<>>>, no `extern __shared__`, no bare __shared__ (SIMT_LAUNCH, SIMT_DYN_SHARED, SIMT_SHARED); PTX only in the
 * wrappers of this file, one an instruction, each with its host twin (kernels/simt/ptx.h) and a test (tests/test_simt.c); bf16 is uint16_t
 * bits (kernels/cuda/num.h); literal, true lane masks; __syncwarp() between a write and a read of shared memory; one __syncthreads() a source
 * line, reached by all live threads; no waiting on memory; no float atomics. */
#ifndef PW_KERNELS_CUDA_SIMT_H
#define PW_KERNELS_CUDA_SIMT_H

#include <stddef.h>
#include <stdint.h>

#if !defined(__CUDACC__)
#include "kernels/simt/ptx.h"
#else

#include <cuda_runtime.h>

template <class T> using simt_type = T;
#define SIMT_SHARED(type, name) __shared__ __align__(16) simt_type<type> name
#define SIMT_DYN_SHARED(type, name)                                            \
    extern __shared__ __align__(128) unsigned char simt_dyn_bytes[];           \
    type *const name = reinterpret_cast<type *>(simt_dyn_bytes)

/* Above 48 KiB a kernel must opt in to its dynamic shared memory. */
template <class K> static inline cudaError_t simt_opt_in(K kernel, size_t smem)
{
    if (smem <= 48 * 1024) return cudaSuccess;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
}
/* Value: simt_error of the launch, 0 when it was queued. A grid of no blocks is no launch and no error. */
#define SIMT_LAUNCH(kernel, grid, block, smem, stream, ...)                                                    \
    (dim3(grid).x * (size_t)dim3(grid).y * dim3(grid).z == 0 ? cudaSuccess                                     \
     : simt_opt_in(kernel, (smem)) != cudaSuccess ? cudaGetLastError()                                         \
     : (kernel<<<(grid), (block), (smem), (stream)>>>(__VA_ARGS__), cudaGetLastError()))

typedef cudaStream_t simt_stream;
typedef cudaError_t simt_error;
#define SIMT_FN static __device__ __forceinline__
#define SIMT_INLINE static __device__ __forceinline__ /* for templates */

SIMT_FN unsigned simt_smem_addr(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }

/* f32 to 16 bits and back, rounding to nearest even; NaN stays NaN. x2: `low` in the low half. */
SIMT_FN uint16_t cvt_bf16(float x)
{
    uint16_t d;
    asm("cvt.rn.bf16.f32 %0, %1;\n" : "=h"(d) : "f"(x));
    return d;
}
SIMT_FN uint32_t cvt_bf16x2(float low, float high)
{
    uint32_t d;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(d) : "f"(high), "f"(low));
    return d;
}
SIMT_FN uint16_t cvt_f16(float x)
{
    uint16_t d;
    asm("cvt.rn.f16.f32 %0, %1;\n" : "=h"(d) : "f"(x));
    return d;
}
SIMT_FN float cvt_f32_from_f16(uint16_t h)
{
    float d;
    asm("cvt.f32.f16 %0, %1;\n" : "=f"(d) : "h"(h));
    return d;
}

/* 16 bytes global -> shared; zero-fills when !pred, without reading src. */
SIMT_FN void cp_async_16(void *dst, const void *src, bool pred)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" :: "r"(simt_smem_addr(dst)), "l"(src), "r"(pred ? 16 : 0) : "memory");
}
SIMT_FN void cp_async_commit(void) { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
template <int N> SIMT_FN void cp_async_wait(void) { asm volatile("cp.async.wait_group %0;\n" :: "n"(N) : "memory"); }

/* Four 8x8 matrices of 16-bit elements: lane 8i+j names row j of matrix i; r[i] of lane l = columns 2(l%4).. of row l/4 of matrix i. */
SIMT_FN void ldmatrix_x4(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(simt_smem_addr(row)) : "memory");
}
/* The same with each matrix transposed: r[i] of lane l = rows 2(l%4).. of column l/4. */
SIMT_FN void ldmatrix_x4_trans(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(simt_smem_addr(row)) : "memory");
}
/* d += a @ b; a is 16x16 row-major, b is 16x8 column-major, both bf16; f32 sums. Lane l holds d rows l/4, l/4+8 and columns 2(l%4).. */
SIMT_FN void mma_m16n8k16_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif
#endif
