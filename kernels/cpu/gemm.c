/* The only file that knows OpenBLAS. */
#include "kernels/cpu/gemm.h"

#include <cblas.h>

void cpu_blas_init(void) { openblas_set_num_threads(1); }

void cpu_gemm_tn(int64_t m, int64_t n, int64_t r, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc)
{
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)m, (int)n, (int)r, 1, a, (int)lda, b, (int)ldb, 1, c, (int)ldc);
}

void cpu_gemm_nt(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)m, (int)n, (int)k, 1, a, (int)lda, b, (int)ldb, 0, c, (int)ldc);
}

void cpu_gemm_nn(int64_t m, int64_t n, int64_t r, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)m, (int)n, (int)r, 1, a, (int)lda, b, (int)ldb, 0, c, (int)ldc);
}
