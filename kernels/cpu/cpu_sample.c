/* The cpu ops after the head: capping logits, and drawing tokens (kernels/sample.c), a row a thread. */
#include "kernels/cpu/cpu.h"

#include "base/error.h"
#include "kernels/sample.h"

int cpu_softcap(struct pw_dev *dev, struct pw_tensor x, double cap)
{
    const int64_t n = pw_count(x);
    float *z = x.data;
#pragma omp parallel for num_threads(dev->threads) if (n > CPU_SMALL_ELEMENTS)
    for (int64_t i = 0; i < n; i++) z[i] = (float)(cap * tanh((double)z[i] / cap));
    return 0;
}

int cpu_sample(struct pw_dev *dev, struct pw_tensor ids, struct pw_tensor logits, const struct pw_draws *draws)
{
    const int64_t rows = logits.shape[0], vocab = logits.shape[1];
    int64_t failed = rows; /* the first row that is none */
#pragma omp parallel for num_threads(dev->threads) reduction(min : failed) if (rows > 1 && vocab > CPU_SMALL_ELEMENTS / 8)
    for (int64_t t = 0; t < rows; t++)
        if (pw_draw_pick((const float *)logits.data + t * vocab, vocab, &draws->rows[t], (int32_t *)ids.data + t) < 0) {
            pw_error_clear(); /* of this thread */
            failed = t < failed ? t : failed;
        }
    if (failed == rows) return 0;
    PW_TRY(pw_draw_pick((const float *)logits.data + failed * vocab, vocab, &draws->rows[failed], (int32_t *)ids.data + failed), "sample: logits[%lld]", (long long)failed);
    return 0;
}
