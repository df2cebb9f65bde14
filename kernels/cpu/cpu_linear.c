/* Linear layers on the cpu: y = x W^T + bias + adapter, and their gradients, over fixed tiles.
 *
 * Forward, a task owns 48 columns of y:     Backward to x, a task owns 128 columns of dx:
 *     W rows n0..n0+48, 1024 terms at a time     W rows 256 at a time, its 128 columns
 *     are decoded into the thread's tile,        are decoded into the thread's tile,
 *     all rows of x multiply it                  all rows of dy multiply it
 * so a quantised weight is decoded once per call and never exists as a whole. Dense f32 weights are used where they are. */
#include "kernels/cpu/cpu.h"

#include <omp.h>
#include <string.h>
#include "kernels/backend.h"
#include "kernels/cpu/gemm.h"

enum {
    NC = 48,    /* columns of y a task */
    FEW = 8,    /* of these, decoded at a time when x has few rows: 16 KiB */
    KB = 128,   /* columns of dx a task */
    NB = 256,   /* rows of W decoded at a time in backward */
    TB = 252,   /* rows of dy at a time: what they bring stays in the second cache while all columns of the tile use it */
    RB = 32,    /* rows a task of the adapter's small products */
    LDT = CPU_KC + 16, /* floats from one decoded row to the next: not a power of two, or all rows fall into the same cache sets */
    TILE = NC * LDT > KB * NB ? NC * LDT : KB * NB, /* floats of a thread's tile */
};

static bool in_place(const struct pw_weight *w) { return w->type == PW_Q_DENSE && w->dtype == PW_F32; }

size_t cpu_matmul_scratch(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w)
{
    const size_t tiles = (size_t)dev->threads * 2 * TILE * sizeof(float), need = cpu_isa_of(dev)->products16 ? cpu_scratch16(dev, tokens, w) : 0;
    return tiles > need ? tiles : need;
}
static float *tile_of(char *scratch) { return (float *)scratch + (size_t)omp_get_thread_num() * 2 * TILE; }

/* Whether single rows can go straight from codes to sums: every piece of a row is whole blocks, every block whole vectors. */
static bool dot4_fits(const struct pw_weight *w)
{
    return (w->type == PW_Q_NF4 || w->type == PW_Q_FP4) && w->block % 32 == 0 && CPU_KC % w->block == 0 && w->n_in % w->block == 0;
}

/* y[0..tokens)[n0..n0+n) of one task */
static void product_columns(const struct cpu_isa *isa, float *y, const float *x, int64_t tokens, const struct pw_weight *w, int64_t n0, int64_t n, float *tile)
{
    int64_t n_in = w->n_in, n_out = w->n_out;
    if (in_place(w) && tokens < 16) { /* more rows repay a copy into the tile */
        isa->dot(tokens, n, n_in, x, n_in, (const float *)w->data + n0 * n_in, n_in, y + n0, n_out, false);
        return;
    }
    if (tokens <= 2 && dot4_fits(w)) {
        for (int64_t t = 0; t < tokens; t++) isa->dot4(w, n0, n, x + t * n_in, y + t * n_out + n0);
        return;
    }
    /* few rows of x use a decoded row too seldom to bring it back from beyond the first cache */
    const int64_t step = tokens <= 4 ? FEW : NC, ldt = cpu_min(CPU_KC, n_in) + LDT - CPU_KC;
    for (int64_t j0 = 0; j0 < n; j0 += step)
        for (int64_t k = 0; k < n_in; k += CPU_KC) {
            int64_t piece = cpu_min(CPU_KC, n_in - k), rows = cpu_min(step, n - j0);
            for (int64_t j = 0; j < rows; j++) isa->decode(w, n0 + j0 + j, k, piece, tile + j * ldt);
            isa->dot(tokens, rows, piece, x + k, n_in, tile, ldt, y + n0 + j0, n_out, k > 0);
        }
}

void cpu_matmul(struct pw_dev *dev, float *y, const float *x, int64_t tokens, const struct pw_weight *w, char *scratch)
{
    if (cpu_isa_of(dev)->products16) {
        cpu_matmul16(dev, y, x, tokens, w, scratch);
        return;
    }
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, w->n_out, w->n_in))
    for (int64_t n0 = 0; n0 < w->n_out; n0 += NC)
        product_columns(cpu_isa_of(dev), y, x, tokens, w, n0, cpu_min(NC, w->n_out - n0), tile_of(scratch));
}

static void back_columns(const struct cpu_isa *isa, float *dx, const float *dy, int64_t tokens, const struct pw_weight *w, int64_t k0, int64_t k, float *tile)
{
    int64_t n_in = w->n_in, n_out = w->n_out;
    if (in_place(w)) {
        isa->outer(tokens, k, n_out, dy, n_out, 1, (const float *)w->data + k0, n_in, dx + k0, n_in);
        return;
    }
    for (int64_t n = 0; n < n_out; n += NB) {
        int64_t rows = cpu_min(NB, n_out - n);
        for (int64_t j = 0; j < rows; j++) isa->decode(w, n + j, k0, k, tile + j * KB);
        for (int64_t t = 0; t < tokens; t += TB)
            isa->outer(cpu_min(TB, tokens - t), k, rows, dy + t * n_out + n, n_out, 1, tile, KB, dx + t * n_in + k0, n_in);
    }
}

void cpu_matmul_back(struct pw_dev *dev, float *dx, const float *dy, int64_t tokens, const struct pw_weight *w, char *scratch)
{
    if (cpu_isa_of(dev)->products16) {
        cpu_matmul_back16(dev, dx, dy, tokens, w, scratch);
        return;
    }
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, w->n_out, w->n_in))
    for (int64_t k0 = 0; k0 < w->n_in; k0 += KB)
        back_columns(cpu_isa_of(dev), dx, dy, tokens, w, k0, cpu_min(KB, w->n_in - k0), tile_of(scratch));
}

void cpu_matmul_weight(struct pw_dev *dev, float *dw, const float *dy, const float *x, int64_t tokens, int64_t n_out, int64_t n_in)
{
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, n_out, n_in))
    for (int64_t n0 = 0; n0 < n_out; n0 += KB)
        cpu_gemm_tn(cpu_min(KB, n_out - n0), n_in, tokens, dy + n0, n_out, x, n_in, dw + n0 * n_in, n_in);
}

/* ---- adapter ---- */

/* Scratch: the threads' tiles, then two (T, R) arrays. */
static float *low_rank(struct pw_dev *dev, int which, int64_t tokens, const struct pw_weight *w)
{
    return (float *)((char *)dev->scratch + cpu_round(cpu_matmul_scratch(dev, tokens, w))) + which * (int64_t)(cpu_round((size_t)(tokens * w->lora->r) * 4) / 4);
}

size_t cpu_scratch_linear(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w, bool backward)
{
    if (pw_weight_is_dora(w)) return pw_dora_scratch(dev, tokens, w, backward);
    size_t bytes = cpu_round(cpu_matmul_scratch(dev, tokens, w));
    if (w->lora && cpu_isa_of(dev)->products16) bytes += cpu_scratch_adapter16(dev, tokens, w);
    else if (w->lora) bytes += 2 * cpu_round((size_t)tokens * (size_t)w->lora->r * sizeof(float));
    return bytes;
}

/* xa (T, R) = dropout(x) A^T, and the same times the scale */
static void adapter_down(struct pw_dev *dev, float *xa, float *scaled, const float *x, int64_t tokens, const struct pw_weight *w, struct pw_drop drop)
{
    const struct cpu_isa *isa = cpu_isa_of(dev);
    int64_t n_in = w->n_in, r = w->lora->r;
    const float *a = w->lora->a.data;
    float scale = (float)w->lora->scale;
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, n_in, r))
    for (int64_t t0 = 0; t0 < tokens; t0 += RB) {
        int64_t rows = cpu_min(RB, tokens - t0);
        float *tile = tile_of(dev->scratch);
        if (drop.p <= 0) {
            isa->dot(rows, r, n_in, x + t0 * n_in, n_in, a, n_in, xa + t0 * r, r, false);
        } else {
            for (int64_t k = 0; k < n_in; k += CPU_KC) {
                int64_t piece = cpu_min(CPU_KC, n_in - k);
                for (int64_t i = 0; i < rows; i++) isa->keep(drop, pw_drop_element(drop, t0 + i, n_in, k), piece, x + (t0 + i) * n_in + k, tile + i * LDT);
                isa->dot(rows, r, piece, tile, LDT, a + k, n_in, xa + t0 * r, r, k > 0);
            }
        }
        for (int64_t i = t0 * r; i < (t0 + rows) * r; i++) scaled[i] = xa[i] * scale;
    }
}

/* y[..][n0..n0+n) += bias + scaled B^T */
static void finish_columns(const struct cpu_isa *isa, float *y, const float *scaled, int64_t tokens, const struct pw_weight *w, int64_t n0, int64_t n, float *tile)
{
    const int64_t n_out = w->n_out, r = w->lora ? w->lora->r : 0;
    float *to = y + n0;
    if (w->bias)
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t i = 0; i < n; i++) to[t * n_out + i] += w->bias[n0 + i];
    for (int64_t r0 = 0; r0 < r; r0 += NB) { /* B^T, some ranks of these columns at a time */
        const int64_t ranks = cpu_min(NB, r - r0);
        const float *b = (const float *)w->lora->b.data + n0 * r + r0;
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < ranks; j++) tile[j * NC + i] = b[i * r + j];
        isa->outer(tokens, n, ranks, scaled + r0, r, 1, tile, NC, to, n_out);
    }
}

int cpu_linear_fwd(struct pw_dev *dev, struct pw_tensor y, struct pw_tensor xa, struct pw_tensor x, const struct pw_weight *w, struct pw_drop drop)
{
    const struct cpu_isa *isa = cpu_isa_of(dev);
    const int64_t tokens = x.shape[0], n_out = w->n_out;
    if (tokens == 0) return 0;
    if (pw_weight_is_dora(w)) return pw_dora_fwd(dev, y, xa, x, w, drop);
    if (isa->products16) {
        cpu_linear_fwd16(dev, y.data, xa.data, x.data, tokens, w, drop);
        return 0;
    }
    float *scaled = w->lora ? low_rank(dev, 0, tokens, w) : NULL;
    if (w->lora) adapter_down(dev, xa.data, scaled, x.data, tokens, w, drop);
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, n_out, w->n_in))
    for (int64_t n0 = 0; n0 < n_out; n0 += NC) {
        const int64_t n = cpu_min(NC, n_out - n0);
        float *tile = tile_of(dev->scratch);
        product_columns(isa, y.data, x.data, tokens, w, n0, n, tile);
        finish_columns(isa, y.data, scaled, tokens, w, n0, n, tile);
    }
    return 0;
}

/* dx (rows, k0..k0+k) += keep * (dxa A), and da (R, k0..) += dxa^T (keep * x), for one range of columns */
static void adapter_back_columns(const struct cpu_isa *isa, const struct pw_linear_grads *g, const float *dxa, const float *x, int64_t tokens, const struct pw_weight *w,
                                 struct pw_drop drop, int64_t k0, int64_t k, float *tile)
{
    int64_t n_in = w->n_in, r = w->lora->r;
    const float *a = (const float *)w->lora->a.data + k0;
    float *dx = g->dx.data ? (float *)g->dx.data + k0 : NULL, *da = g->da.data ? (float *)g->da.data + k0 : NULL;
    if (drop.p <= 0) {
        if (dx) isa->outer(tokens, k, r, dxa, r, 1, a, n_in, dx, n_in);
        if (da) isa->outer(r, k, tokens, dxa, 1, r, x + k0, n_in, da, n_in);
        return;
    }
    float *part = tile + TILE;
    for (int64_t t0 = 0; t0 < tokens; t0 += NB) {
        int64_t rows = cpu_min(NB, tokens - t0);
        if (dx) {
            memset(part, 0, (size_t)(rows * KB) * sizeof(float));
            isa->outer(rows, k, r, dxa + t0 * r, r, 1, a, n_in, part, KB);
            for (int64_t i = 0; i < rows; i++) {
                isa->keep(drop, pw_drop_element(drop, t0 + i, n_in, k0), k, part + i * KB, tile);
                isa->axpy(k, dx + (t0 + i) * n_in, tile, 1);
            }
        }
        if (da) {
            for (int64_t i = 0; i < rows; i++) isa->keep(drop, pw_drop_element(drop, t0 + i, n_in, k0), k, x + (t0 + i) * n_in + k0, tile + i * KB);
            isa->outer(r, k, rows, dxa + t0 * r, 1, r, tile, KB, da, n_in);
        }
    }
}

int cpu_linear_bwd(struct pw_dev *dev, const struct pw_linear_grads *g, struct pw_tensor dy, struct pw_tensor x, struct pw_tensor xa, const struct pw_weight *w, struct pw_drop drop)
{
    const struct cpu_isa *isa = cpu_isa_of(dev);
    int64_t tokens = dy.shape[0], n_in = w->n_in, n_out = w->n_out, r = w->lora ? w->lora->r : 0;
    const float *up = dy.data;
    if (tokens == 0) return 0;
    if (pw_weight_is_dora(w)) return pw_dora_bwd(dev, g, dy, x, xa, w, drop);
    if (g->dw.data) cpu_matmul_weight(dev, g->dw.data, up, x.data, tokens, n_out, n_in);
    if (g->dbias.data) {
#pragma omp parallel for num_threads(dev->threads) if (tokens * n_out > CPU_SMALL_ELEMENTS)
        for (int64_t n0 = 0; n0 < n_out; n0 += 64) {
            double sum[64] = { 0 };
            int64_t n = cpu_min(64, n_out - n0);
            for (int64_t t = 0; t < tokens; t++)
                for (int64_t i = 0; i < n; i++) sum[i] += (double)up[t * n_out + n0 + i];
            for (int64_t i = 0; i < n; i++) ((float *)g->dbias.data)[n0 + i] += (float)sum[i];
        }
    }
    if (isa->products16) {
        cpu_linear_bwd16(dev, g, up, x.data, xa.data, tokens, w, drop);
        return 0;
    }
    if (!r) {
        if (g->dx.data) cpu_matmul_back(dev, g->dx.data, up, tokens, w, dev->scratch);
        return 0;
    }
    float scale = (float)w->lora->scale;
    if (g->db.data) {
        float *scaled = low_rank(dev, 0, tokens, w);
        for (int64_t i = 0; i < tokens * r; i++) scaled[i] = ((const float *)xa.data)[i] * scale;
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, n_out, r))
        for (int64_t n0 = 0; n0 < n_out; n0 += KB)
            isa->outer(cpu_min(KB, n_out - n0), r, tokens, up + n0, 1, n_out, scaled, r, (float *)g->db.data + n0 * r, r);
    }
    if (!g->dx.data && !g->da.data) return 0;
    float *dxa = low_rank(dev, 1, tokens, w);
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, n_out, r))
    for (int64_t t0 = 0; t0 < tokens; t0 += RB) {
        int64_t rows = cpu_min(RB, tokens - t0);
        memset(dxa + t0 * r, 0, (size_t)(rows * r) * sizeof(float));
        isa->outer(rows, r, n_out, up + t0 * n_out, n_out, 1, w->lora->b.data, r, dxa + t0 * r, r);
        isa->scale(rows * r, dxa + t0 * r, scale);
    }
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, n_in, g->dx.data ? n_out : r))
    for (int64_t k0 = 0; k0 < n_in; k0 += KB) {
        const int64_t k = cpu_min(KB, n_in - k0);
        if (g->dx.data) back_columns(isa, g->dx.data, up, tokens, w, k0, k, tile_of(dev->scratch));
        adapter_back_columns(isa, g, dxa, x.data, tokens, w, drop, k0, k, tile_of(dev->scratch));
    }
    return 0;
}
