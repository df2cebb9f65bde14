/* The twin of kernels/cuda/gemm.cu on the processor: the contract of gemm.h as plain loops on device memory. */
#include "kernels/cuda/gemm.h"

#include "base/memory.h"
#include "kernels/simt/faults.h"
#include "kernels/simt/memory.h"

int gemm_open(void **handle, const char *)
{
    *handle = NULL;
    return 0;
}
void gemm_close(void *) { }

struct work { struct gemm_call call; int threads; };

static simt_error multiply(void *arg)
{
    const struct gemm_call *g = &((struct work *)arg)->call;
    float *b = (float *)pw_alloc_zero((size_t)(g->n * g->k), sizeof *b); /* B as f32, (n, k): each element is read m times */
    if (!b) return SIMT_E_MEMORY;
    simt_memory_open();
    for (int64_t n = 0; n < g->n; n++)
        for (int64_t k = 0; k < g->k; k++) b[n * g->k + k] = bf16_to_f32(g->b[g->layout == GEMM_NT ? n * g->ldb + k : k * g->ldb + n].bits);
#pragma omp parallel for num_threads(((struct work *)arg)->threads) schedule(static) if (g->m * g->n * g->k > 65536)
    for (int64_t m = 0; m < g->m; m++)
        for (int64_t n = 0; n < g->n; n++) {
            const int64_t at = m * g->ldc + n;
            float sum = 0;
            for (int64_t k = 0; k < g->k; k++) sum += bf16_to_f32(g->a[g->layout == GEMM_TN ? k * g->lda + m : m * g->lda + k].bits) * b[n * g->k + k];
            if (g->c_f32) ((float *)g->c)[at] = g->beta != 0 ? g->beta * ((float *)g->c)[at] + sum : sum;
            else ((bf16 *)g->c)[at].bits = bf16_from_f32(g->beta != 0 ? g->beta * bf16_to_f32(((bf16 *)g->c)[at].bits) + sum : sum);
        }
    simt_memory_close();
    pw_free(b);
    return 0;
}

int gemm_run(struct pw_dev *dev, const char *op, const struct gemm_call *g)
{
    struct work w = {*g, dev->threads};
    const simt_error e = simt_host(multiply, &w, sizeof w);
    PW_CHECK(e == 0, e == SIMT_E_MEMORY ? PW_E_NOMEM : PW_E_FAIL, "%s: device %s: the product of (%lld, %lld) by (%lld, %lld): %s", op, dev->kind, (long long)g->m, (long long)g->k,
             (long long)g->k, (long long)g->n, simt_faults_text(e));
    return 0;
}
