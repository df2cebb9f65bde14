/* The only file that knows OpenBLAS, and LAPACK inside it. */
#include "kernels/cpu/gemm.h"

#include <cblas.h>
#include "base/error.h"
#include "base/memory.h"

/* LAPACK, by columns; the lengths of the three words come last. */
extern void dsyevr_(const char *vectors, const char *range, const char *triangle, const int *n, double *a, const int *lda, const double *low, const double *high, const int *first,
                    const int *last, const double *tolerance, int *found, double *values, double *z, const int *ldz, int *support, double *work, const int *n_work, int *iwork,
                    const int *n_iwork, int *info, size_t, size_t, size_t);

extern void sgeqrf_(const int *m, const int *n, float *a, const int *lda, float *tau, float *work, const int *n_work, int *info);
extern void sorgqr_(const int *m, const int *n, const int *k, float *a, const int *lda, const float *tau, float *work, const int *n_work, int *info);

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

void cpu_gram(int64_t n, int64_t rows, const double *x, double *g)
{
    cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, (int)n, (int)rows, 1, x, (int)n, 1, g, (int)n);
}

int cpu_top_eigen(int n, double *g, int r, double *values, double *vectors)
{
    const int first = n - r + 1, last = n;
    const double nothing = 0;
    int found = 0, info = 0, n_iwork = 10 * n, n_work = 26 * n, rc = 0;
    double *ascending = pw_alloc((size_t)n * sizeof *ascending), *work = pw_alloc((size_t)n_work * sizeof *work), *z = pw_alloc((size_t)n * (size_t)r * sizeof *z);
    int *iwork = pw_alloc((size_t)n_iwork * sizeof *iwork), *support = pw_alloc(2 * (size_t)r * sizeof *support);
    PW_CHECK_OUT(ascending && work && z && iwork && support, PW_E_NOMEM, "no memory for the eigenvectors of %d rows", n);
    dsyevr_("V", "I", "L", &n, g, &n, &nothing, &nothing, &first, &last, &nothing, &found, ascending, z, &n, support, work, &n_work, iwork, &n_iwork, &info, 1, 1, 1);
    PW_CHECK_OUT(info == 0 && found == r, PW_E_NUMERIC, "the eigenvectors of %d rows were not found (%d of %d, code %d)", n, found, r, info);
    for (int i = 0; i < r; i++) {       /* descending */
        values[i] = ascending[r - 1 - i];
        for (int k = 0; k < n; k++)
            vectors[(int64_t)i * n + k] = z[(int64_t)(r - 1 - i) * n + k];
    }
out:
    pw_free(support);
    pw_free(iwork);
    pw_free(z);
    pw_free(work);
    pw_free(ascending);
    return rc;
}

enum { QR_BLOCK = 32 };
int64_t cpu_orthonormal_work(int q) { return (int64_t)q * (QR_BLOCK + 1); }

int cpu_orthonormal(int q, int n, float *x, float *work)
{
    const int n_work = q * QR_BLOCK;
    float *tau = work + n_work;
    int info = 0;
    sgeqrf_(&n, &q, x, &n, tau, work, &n_work, &info); /* rows of x are columns to LAPACK */
    PW_CHECK(info == 0, PW_E_NUMERIC, "an orthonormal basis of %d vectors was not found (code %d)", q, info);
    sorgqr_(&n, &q, &q, x, &n, tau, work, &n_work, &info);
    PW_CHECK(info == 0, PW_E_NUMERIC, "an orthonormal basis of %d vectors was not found (code %d)", q, info);
    return 0;
}
