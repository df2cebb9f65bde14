/* cuBLASLt behind gemm.h. The library is column-major: a row-major C = A B is computed as C^T = B^T A^T.
 *
 * Which algorithm: the library's first proposal for the shape, within GEMM_WORKSPACE and without sums in the output's type, remembered by shape and
 * alignment in a small table of this handle, so that the same call is the same work every time. (A choice by measurement belongs in choose().) */
#include "kernels/cuda/gemm.h"

#include <cublasLt.h>
#include <string.h>
#include "base/memory.h"

enum { REMEMBERED = 256 };
struct key { int64_t m, n, k, lda, ldb, ldc; int layout, c_f32, add; uint32_t align_a, align_b, align_c; };
struct row { bool used; struct key key; cublasLtMatmulAlgo_t algo; };
struct gemm { cublasLtHandle_t lt; struct row rows[REMEMBERED]; };

static int failed(const char *kind, const char *op, const char *what, cublasStatus_t s)
{
    if (s == CUBLAS_STATUS_SUCCESS) return 0;
    return pw_error(PW_E_FAIL, "%s: device %s: cuBLASLt: %s: %s", op, kind, what, cublasLtGetStatusString(s));
}

int gemm_open(void **handle, const char *kind)
{
    struct gemm *g = (struct gemm *)pw_alloc_zero(1, sizeof *g);
    *handle = NULL;
    PW_CHECK(g, PW_E_NOMEM, "no memory for a handle of cuBLASLt");
    int rc = failed(kind, "open", "making a handle", cublasLtCreate(&g->lt));
    if (rc < 0) pw_free(g);
    else *handle = g;
    return rc;
}
void gemm_close(void *handle)
{
    if (!handle) return;
    (void)cublasLtDestroy(((struct gemm *)handle)->lt);
    pw_free(handle);
}

/* How the library sees a call: its first operand is our B, its second our A. */
struct parts { cublasLtMatmulDesc_t op; cublasLtMatrixLayout_t a, b, c; cublasLtMatmulPreference_t prefer; };

static void parts_free(struct parts *p)
{
    if (p->prefer) (void)cublasLtMatmulPreferenceDestroy(p->prefer);
    if (p->c) (void)cublasLtMatrixLayoutDestroy(p->c);
    if (p->b) (void)cublasLtMatrixLayoutDestroy(p->b);
    if (p->a) (void)cublasLtMatrixLayoutDestroy(p->a);
    if (p->op) (void)cublasLtMatmulDescDestroy(p->op);
}

#define LT(call) PW_PASS(failed(dev->kind, op, #call, cublasLt##call))
static int parts_make(struct pw_dev *dev, const char *op, const struct gemm_call *g, struct parts *p)
{
    const cublasOperation_t no = CUBLAS_OP_N, yes = CUBLAS_OP_T;
    const bool b_turned = g->layout == GEMM_NT, a_turned = g->layout == GEMM_TN;
    LT(MatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    LT(MatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, b_turned ? &yes : &no, sizeof no));
    LT(MatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSB, a_turned ? &yes : &no, sizeof no));
    LT(MatrixLayoutCreate(&p->a, CUDA_R_16BF, (uint64_t)(b_turned ? g->k : g->n), (uint64_t)(b_turned ? g->n : g->k), g->ldb));
    LT(MatrixLayoutCreate(&p->b, CUDA_R_16BF, (uint64_t)(a_turned ? g->m : g->k), (uint64_t)(a_turned ? g->k : g->m), g->lda));
    LT(MatrixLayoutCreate(&p->c, g->c_f32 ? CUDA_R_32F : CUDA_R_16BF, (uint64_t)g->n, (uint64_t)g->m, g->ldc));
    return 0;
}

/* The largest power of two that divides the address, up to what every place in a pool has: more would depend on what lies before it there, and with it the algorithm and the bytes
 * of the result. What a plan keeps, moves to the host or streams may not change them. Kernels ask for 16. */
static uint32_t alignment(const void *p)
{
    const uintptr_t most = pw_pool_round(1), low = (uintptr_t)p & (0 - (uintptr_t)p);
    return (uint32_t)(low == 0 || low > most ? most : low);
}

static int choose(struct pw_dev *dev, const char *op, struct parts *p, const struct key *key, cublasLtMatmulAlgo_t *algo)
{
    const size_t workspace = GEMM_WORKSPACE;
    const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    cublasLtMatmulHeuristicResult_t found;
    int n = 0;
    LT(MatmulPreferenceCreate(&p->prefer));
    LT(MatmulPreferenceSetAttribute(p->prefer, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace));
    LT(MatmulPreferenceSetAttribute(p->prefer, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes));
    LT(MatmulPreferenceSetAttribute(p->prefer, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &key->align_b, sizeof key->align_b));
    LT(MatmulPreferenceSetAttribute(p->prefer, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &key->align_a, sizeof key->align_a));
    LT(MatmulPreferenceSetAttribute(p->prefer, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &key->align_c, sizeof key->align_c));
    LT(MatmulPreferenceSetAttribute(p->prefer, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &key->align_c, sizeof key->align_c));
    LT(MatmulAlgoGetHeuristic(((struct gemm *)cuda_of(dev)->gemm)->lt, p->op, p->a, p->b, p->c, p->c, p->prefer, 1, &found, &n));
    PW_CHECK(n == 1, PW_E_UNSUPPORTED, "%s: device %s: cuBLASLt knows no way to multiply (%lld, %lld) by (%lld, %lld)", op, dev->kind, (long long)key->m, (long long)key->k,
             (long long)key->k, (long long)key->n);
    *algo = found.algo;
    return 0;
}

static int run(struct pw_dev *dev, const char *op, const struct gemm_call *g, struct parts *p)
{
    struct gemm *lt = (struct gemm *)cuda_of(dev)->gemm;
    struct key key;
    memset(&key, 0, sizeof key); /* it is compared as bytes */
    key.m = g->m, key.n = g->n, key.k = g->k, key.lda = g->lda, key.ldb = g->ldb, key.ldc = g->ldc;
    key.layout = g->layout, key.c_f32 = g->c_f32, key.add = g->beta != 0;
    key.align_a = alignment(g->a), key.align_b = alignment(g->b), key.align_c = alignment(g->c);
    PW_PASS(parts_make(dev, op, g, p));
    uint64_t hash = 1469598103934665603u; /* FNV-1a */
    for (size_t i = 0; i < sizeof key; i++) hash = (hash ^ ((const unsigned char *)&key)[i]) * 1099511628211u;
    struct row *row = &lt->rows[hash % REMEMBERED];
    if (!row->used || memcmp(&row->key, &key, sizeof key) != 0) {
        row->used = false;
        PW_PASS(choose(dev, op, p, &key, &row->algo));
        row->key = key;
        row->used = true;
    }
    const float one = 1, beta = g->beta;
    LT(Matmul(lt->lt, p->op, &one, g->b, p->a, g->a, p->b, &beta, g->c, p->c, g->c, p->c, &row->algo, g->workspace, GEMM_WORKSPACE, cuda_of(dev)->stream));
    return 0;
}

int gemm_run(struct pw_dev *dev, const char *op, const struct gemm_call *g)
{
    struct parts p = {};
    const int rc = run(dev, op, g, &p);
    parts_free(&p);
    return rc;
}
