/* What adapters with a magnitude add to linear layers on the cpu (see kernels/dora.c): lengths of rows, dropout by itself, columns scaled and summed. */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <omp.h>
#include <string.h>

enum { ROWS = 16 /* of W a task */, COLUMNS = 64, PIECE = 512 /* columns at a time */ };

/* norm[n0 .. n0 + n) of one task: W + scale B A, a piece of the columns at a time; x: (ROWS, PIECE) and then scale B (ROWS, R) by pieces as long. */
static void lengths(const struct cpu_isa *isa, float *norm, const struct pw_weight *w, int64_t n0, int64_t n, float *x)
{
    const struct pw_lora *lora = w->lora;
    float *scaled = x + ROWS * PIECE;
    double squares[ROWS] = { 0 };
    for (int64_t k = 0; k < w->n_in; k += PIECE) {
        const int64_t piece = cpu_min(PIECE, w->n_in - k), r = lora ? lora->r : 0;
        for (int64_t i = 0; i < n; i++) isa->decode(w, n0 + i, k, piece, x + i * PIECE);
        for (int64_t r0 = 0; r0 < r; r0 += PIECE) {
            const int64_t ranks = cpu_min(PIECE, r - r0);
            for (int64_t i = 0; i < n; i++)
                for (int64_t j = 0; j < ranks; j++) scaled[i * PIECE + j] = (float)lora->scale * ((const float *)lora->b.data)[(n0 + i) * r + r0 + j];
            isa->outer(n, piece, ranks, scaled, PIECE, 1, (const float *)lora->a.data + r0 * w->n_in + k, w->n_in, x, PIECE);
        }
        for (int64_t i = 0; i < n; i++) squares[i] += isa->sumsq(piece, x + i * PIECE);
    }
    for (int64_t i = 0; i < n; i++) norm[n0 + i] = (float)sqrt(squares[i]);
}

int cpu_row_norm(struct pw_dev *dev, struct pw_tensor norm, const struct pw_weight *w)
{
    const size_t floats = cpu_matmul_scratch(dev, 0, w) / sizeof(float) / (size_t)dev->threads; /* of a thread: more than the 2 ROWS PIECE wanted */
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(w->lora ? w->lora->r : 1, w->n_out, w->n_in))
    for (int64_t n0 = 0; n0 < w->n_out; n0 += ROWS)
        lengths(cpu_isa_of(dev), norm.data, w, n0, cpu_min(ROWS, w->n_out - n0), (float *)dev->scratch + (size_t)omp_get_thread_num() * floats);
    return 0;
}

int cpu_dropout(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, struct pw_drop drop, bool rest, bool add)
{
    const struct cpu_isa *isa = cpu_isa_of(dev);
    const int64_t n = pw_count(x);
    const float *from = x.data;
    float *to = out.data;
#pragma omp parallel for num_threads(dev->threads) if (n > CPU_SMALL_ELEMENTS)
    for (int64_t i = 0; i < n; i += CPU_KC) {
        const int64_t piece = cpu_min(CPU_KC, n - i);
        float kept[CPU_KC];
        isa->keep(drop, i, piece, from + i, kept);
        for (int64_t j = 0; j < piece; j++) {
            const float value = rest ? from[i + j] - kept[j] : kept[j];
            to[i + j] = add ? to[i + j] + value : value;
        }
    }
    return 0;
}

int cpu_column_scale(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, struct pw_tensor m, struct pw_tensor norm, struct pw_tensor bias, bool add)
{
    const int64_t rows = x.shape[0], width = x.shape[1];
    const float *length = m.data, *divisor = norm.data, *b = bias.data;
#pragma omp parallel for num_threads(dev->threads) if (rows * width > CPU_SMALL_ELEMENTS)
    for (int64_t t = 0; t < rows; t++) {
        const float *from = (const float *)x.data + t * width;
        float *to = (float *)out.data + t * width;
        for (int64_t c = 0; c < width; c++) to[c] = (add ? to[c] : 0) + from[c] * (length[c] / divisor[c]) + (b ? b[c] : 0);
    }
    return 0;
}

int cpu_column_dot(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, struct pw_tensor y, struct pw_tensor norm)
{
    const int64_t rows = x.shape[0], width = x.shape[1];
    const float *a = x.data, *b = y.data, *divisor = norm.data;
#pragma omp parallel for num_threads(dev->threads) if (rows * width > CPU_SMALL_ELEMENTS)
    for (int64_t c0 = 0; c0 < width; c0 += COLUMNS) {
        const int64_t n = cpu_min(COLUMNS, width - c0);
        double sum[COLUMNS] = { 0 };
        for (int64_t t = 0; t < rows; t++)
            for (int64_t c = 0; c < n; c++) sum[c] += (double)a[t * width + c0 + c] * (double)b[t * width + c0 + c];
        for (int64_t c = 0; c < n; c++) ((float *)out.data)[c0 + c] += (float)(sum[c] / (double)divisor[c0 + c]);
    }
    return 0;
}
