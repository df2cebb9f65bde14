/* The loss head on the cpu: rows with a target are gathered, some at a time, into scratch; their logits exist for that long only.
 * A chunk is CHUNK rows, or fewer when the vocabulary is so large that their logits would pass LOGITS_MAX. */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>
#include "kernels/backend.h"

enum { CHUNK = 512, CHUNK_MIN = 32, LOGITS_MAX = 16 << 20 /* floats */ }; /* each chunk decodes the whole head, twice */

static int64_t chunk_rows(int64_t tokens, int64_t words)
{
    int64_t rows = LOGITS_MAX / words;
    rows = rows > CHUNK ? CHUNK : rows < CHUNK_MIN ? CHUNK_MIN : rows;
    return tokens < rows ? (tokens > 0 ? tokens : 1) : rows;
}

size_t cpu_scratch_head(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w, bool backward)
{
    size_t rows = (size_t)chunk_rows(tokens, w->n_out), wide = (size_t)w->n_in * sizeof(float);
    size_t bytes = cpu_round(cpu_matmul_scratch(dev, (int64_t)rows, w)) + cpu_round(rows * (size_t)w->n_out * sizeof(float)) + cpu_round(rows * wide);
    return backward ? bytes + cpu_round(rows * wide) : bytes;
}

struct head {           /* one chunk: row i of it is row at[i] of the call */
    int64_t rows, at[CHUNK];
    float *logits, *h, *dh;
};

/* Loss and arg max of one row of logits; leaves the gradient of the row in it when `up` (the gradient of the loss) is given. */
static void finish_row(const struct cpu_isa *isa, float *z, int64_t words, int32_t target, const float *up, float softcap, float *loss, int32_t *best)
{
    if (softcap > 0)
        for (int64_t v = 0; v < words; v++) z[v] = softcap * tanhf(z[v] / softcap);
    float top = isa->max(words, z), at_target = z[target];
    if (best) {
        int64_t first = 0;
        while (first + 1 < words && !(z[first] == top)) first++;
        *best = (int32_t)first;
    }
    float slope_at_target = softcap > 0 ? 1 - (at_target / softcap) * (at_target / softcap) : 1;
    if (up && softcap > 0) { /* the slope of the cap needs the logits, which the next step overwrites: keep them as scores, use exp twice */
        double sum = 0;
        for (int64_t v = 0; v < words; v++) sum += (double)expf(z[v] - top);
        float inverse = (float)(1 / sum);
        *loss = (float)(log(sum) + (double)(top - at_target));
        for (int64_t v = 0; v < words; v++) z[v] = *up * expf(z[v] - top) * inverse * (1 - (z[v] / softcap) * (z[v] / softcap));
        z[target] -= *up * slope_at_target;
        return;
    }
    double sum = isa->exp_sub(words, z, top);
    *loss = (float)(log(sum) + (double)(top - at_target));
    if (!up) return;
    isa->scale(words, z, (float)((double)*up / sum));
    z[target] -= *up;
}

int cpu_head_loss(struct pw_dev *dev, struct pw_tensor loss, struct pw_tensor argmax, struct pw_tensor dh, struct pw_tensor dw, struct pw_tensor h,
                  const struct pw_weight *w, struct pw_tensor targets, struct pw_tensor dloss, double softcap)
{
    const struct cpu_isa *isa = cpu_isa_of(dev);
    int64_t tokens = h.shape[0], width = w->n_in, words = w->n_out, most = chunk_rows(tokens, words);
    const int32_t *target = targets.data;
    float *losses = loss.data;
    int32_t *best = argmax.data;
    bool backward = dh.data || dw.data;

    struct head c;
    char *at = (char *)dev->scratch + cpu_round(cpu_matmul_scratch(dev, most, w));
    c.logits = (float *)at;
    c.h = (float *)(at + cpu_round((size_t)(most * words) * sizeof(float)));
    c.dh = c.h + cpu_round((size_t)(most * width) * sizeof(float)) / sizeof(float);

    for (int64_t t = 0; t < tokens;) {
        for (c.rows = 0; t < tokens && c.rows < most; t++) {
            if (target[t] >= 0) {
                memcpy(c.h + c.rows * width, (const float *)h.data + t * width, (size_t)width * sizeof(float));
                c.at[c.rows++] = t;
            } else {
                losses[t] = 0;
                if (best) best[t] = -1;
            }
        }
        if (!c.rows) break;
        cpu_matmul(dev, c.logits, c.h, c.rows, w, dev->scratch);
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (c.rows * words > CPU_SMALL_ELEMENTS)
        for (int64_t i = 0; i < c.rows; i++) {
            int64_t row = c.at[i];
            finish_row(isa, c.logits + i * words, words, target[row], backward ? (const float *)dloss.data + row : NULL, (float)softcap, losses + row, best ? best + row : NULL);
        }
        if (dh.data) {
            memset(c.dh, 0, (size_t)(c.rows * width) * sizeof(float));
            cpu_matmul_back(dev, c.dh, c.logits, c.rows, w, dev->scratch);
            for (int64_t i = 0; i < c.rows; i++) isa->axpy(width, (float *)dh.data + c.at[i] * width, c.dh + i * width, 1);
        }
        if (dw.data) cpu_matmul_weight(dev, dw.data, c.logits, c.h, c.rows, words, width);
    }
    return 0;
}
