/* Dense products of bf16 matrices that are large enough for a library: gemm.cu is cuBLASLt, kernels/simt/gemm.cc plain loops with the same contract.
 *
 *   C (m, n) = A B + beta C, f32 sums, C rounded once.      NT: A (m, k), B (n, k)     NN: A (m, k), B (k, n)     TN: A (k, m), B (k, n)
 * All row-major with a stride from one row to the next; any alignment of elements. m, n, k >= 1. Same shapes and alignments (up to that of a
 * pool's places) on the same card, same bytes; whether a row's result depends on m is the library's choice (ours: kernels/cuda/tile.h never does).
 * Workspace comes from the caller's scratch: GEMM_WORKSPACE bytes, so that a plan counts it. Knows nothing of weights that are not dense. */
#ifndef PW_KERNELS_CUDA_GEMM_H
#define PW_KERNELS_CUDA_GEMM_H

#include "kernels/cuda/cuda.h"

enum gemm_layout { GEMM_NT, GEMM_NN, GEMM_TN };
#if defined(__CUDACC__)
enum { GEMM_WORKSPACE = 32 << 20 }; /* what NVIDIA recommends for Hopper; older cards are content with 4 MiB */
#else
enum { GEMM_WORKSPACE = 256 };      /* the twin wants none, and simt protects every page of it at every launch */
#endif
struct gemm_call {
    enum gemm_layout layout;
    int64_t m, n, k;
    const bf16 *a; int64_t lda;
    const bf16 *b; int64_t ldb;
    void *c; int64_t ldc;
    bool c_f32;           /* else bf16 */
    float beta;           /* 0: C is not read */
    void *workspace;      /* GEMM_WORKSPACE bytes, 256-byte aligned */
};
int gemm_open(void **handle, const char *kind);  /* cuda_impl.gemm */
void gemm_close(void *handle);                   /* NULL is fine */
int gemm_run(struct pw_dev *dev, const char *op, const struct gemm_call *call);
#endif
