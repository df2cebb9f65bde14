/* Dense f32 products through OpenBLAS, one thread a call. */
#ifndef PW_KERNELS_CPU_GEMM_H
#define PW_KERNELS_CPU_GEMM_H

#include <stdint.h>

void cpu_blas_init(void); /* one thread inside: tiles are ours */
/* c (M, N) += a^T b; a (R, M) rows of lda, b (R, N), c rows of ldc */
void cpu_gemm_tn(int64_t m, int64_t n, int64_t r, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc);
/* c (M, N) = a b^T, whole matrices: what the benchmark measures against */
void cpu_gemm_nt(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc);
/* c (M, N) = a b; a (M, R), b (R, N) */
void cpu_gemm_nn(int64_t m, int64_t n, int64_t r, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc);
/* The upper triangle of g (N, N) += x^T x; x (rows, N) */
void cpu_gram(int64_t n, int64_t rows, const double *x, double *g);
/* The r largest eigenvalues, descending, and their unit vectors (r, N), of the symmetric g (N, N) given by its upper triangle; g is destroyed. The time
 * goes with N^3: with the product that makes g 8 s for N = 4096 on one core of an AVX-512 machine. */
int cpu_top_eigen(int n, double *g, int r, double *values, double *vectors);
/* The rows of x (Q, N), Q <= N, become orthonormal ones that span the same (or more, where they did not span Q dimensions): as LQ has them. work: (cpu_orthonormal_work). */
int cpu_orthonormal(int q, int n, float *x, float *work);
int64_t cpu_orthonormal_work(int q);
#endif
