/* Products of a linear layer with factors in bf16 and sums in f32, for the level that has them (cpu_products16).
 *
 * The rows of x (forward) or dy (backward) are rounded once a call, into scratch. A task owns 64 columns of the result, two panels; 384 terms
 * at a time of the weight are decoded or taken where they are, rounded, packed, and multiplied by all rows. So no weight exists in bf16 as a
 * whole: packing is about 4 % of a call with 512 rows, and costs no memory. A result's chain is pairs in their order, 384 terms a sum. */
#include <omp.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/cpu/cpu.h"

enum {
    TERMS = 384,                               /* of a panel */
    PANELS = 2,
    WIDE = PANELS * CPU_PANEL,                 /* columns a task */
    STEP = 64,                                 /* rows of W decoded at a time in backward */
    LDT = TERMS + 16,                          /* floats from one decoded row to the next in forward */
    STAGE = CPU_PANEL * LDT,                   /* floats; in backward STEP x WIDE */
    PANEL = TERMS * CPU_PANEL,                 /* numbers of a panel in bf16 */
    THREAD_BYTES = STAGE * 4 + PANELS * PANEL * 2,
};
_Static_assert(STEP * WIDE <= STAGE && THREAD_BYTES % 64 == 0, "a thread's part of the scratch");

/* numbers from one rounded row to the next: whole lines, and not a power of two */
static int64_t row16(int64_t n) { return (n + 31) / 32 * 32 + 32; }

size_t cpu_scratch16(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w)
{
    const int64_t wide = w->n_in > w->n_out ? w->n_in : w->n_out;
    return (size_t)dev->threads * THREAD_BYTES + cpu_round((size_t)(tokens * row16(wide)) * 2);
}

struct room { uint16_t *rows; char *threads; };
static struct room room_of(const struct pw_dev *dev, char *scratch)
{
    return (struct room){ .rows = (uint16_t *)(scratch + (size_t)dev->threads * THREAD_BYTES), .threads = scratch };
}
static float *stage_of(struct room r) { return (float *)(r.threads + (size_t)omp_get_thread_num() * THREAD_BYTES); }
static uint16_t *panels_of(float *stage) { return (uint16_t *)(stage + STAGE); }

static void round_rows(struct pw_dev *dev, uint16_t *to, const float *x, int64_t tokens, int64_t n)
{
    const struct cpu_products16 *p = cpu_isa_of(dev)->products16;
    const int64_t ld = row16(n);
#pragma omp parallel for num_threads(dev->threads) if (tokens * n > CPU_SMALL_ELEMENTS)
    for (int64_t t = 0; t < tokens; t++) p->round(n, ld, x + t * n, to + t * ld);
}

/* Weights that are packed from where they are; one of the two is NULL. */
static const float *dense_f32(const struct pw_weight *w) { return w->type == PW_Q_DENSE && w->dtype == PW_F32 ? w->data : NULL; }
static const uint16_t *dense_bf16(const struct pw_weight *w) { return w->type == PW_Q_DENSE && w->dtype == PW_BF16 ? w->data : NULL; }

static void columns(const struct cpu_isa *isa, float *y, const uint16_t *x, int64_t tokens, const struct pw_weight *w, int64_t n0, float *stage)
{
    const int64_t n_in = w->n_in, n_out = w->n_out, n = cpu_min(WIDE, n_out - n0), ld = row16(n_in);
    const float *dense = dense_f32(w);
    const uint16_t *dense16 = dense_bf16(w);
    uint16_t *panels = panels_of(stage);
    for (int64_t k = 0; k < n_in; k += TERMS) {
        const int64_t terms = cpu_min(TERMS, n_in - k);
        for (int64_t j = 0; j < n; j += CPU_PANEL) {
            const int64_t wide = cpu_min(CPU_PANEL, n - j), row = n0 + j;
            uint16_t *panel = panels + j * TERMS;
            for (int64_t i = 0; !dense && !dense16 && i < wide; i++) isa->decode(w, row + i, k, terms, stage + i * LDT);
            if (dense16) isa->products16->pack_rows16(wide, terms, dense16 + row * n_in + k, n_in, panel);
            else isa->products16->pack_rows(wide, terms, dense ? dense + row * n_in + k : stage, dense ? n_in : LDT, panel);
            isa->products16->product(tokens, wide, terms, x + k, ld, panel, y + row, n_out, k > 0);
        }
    }
}

void cpu_matmul16(struct pw_dev *dev, float *y, const float *x, int64_t tokens, const struct pw_weight *w, char *scratch)
{
    const struct room room = room_of(dev, scratch);
    round_rows(dev, room.rows, x, tokens, w->n_in);
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, w->n_out, w->n_in))
    for (int64_t n0 = 0; n0 < w->n_out; n0 += WIDE) columns(cpu_isa_of(dev), y, room.rows, tokens, w, n0, stage_of(room));
}

static void back_columns(const struct cpu_isa *isa, float *dx, const uint16_t *dy, int64_t tokens, const struct pw_weight *w, int64_t k0, float *stage)
{
    const int64_t n_in = w->n_in, n_out = w->n_out, n = cpu_min(WIDE, n_in - k0), ld = row16(n_out);
    const float *dense = dense_f32(w);
    const uint16_t *dense16 = dense_bf16(w);
    uint16_t *panels = panels_of(stage);
    for (int64_t row = 0; row < n_out; row += TERMS) {
        const int64_t terms = cpu_min(TERMS, n_out - row);
        for (int64_t at = 0; at < terms; at += STEP) {
            const int64_t rows = cpu_min(STEP, terms - at);
            const float *from = dense ? dense + (row + at) * n_in + k0 : stage;
            for (int64_t i = 0; !dense && !dense16 && i < rows; i++) isa->decode(w, row + at + i, k0, n, stage + i * WIDE);
            for (int64_t j = 0; j < n; j += CPU_PANEL) {
                const int64_t wide = cpu_min(CPU_PANEL, n - j);
                uint16_t *panel = panels + j * TERMS + at * CPU_PANEL;
                if (dense16) isa->products16->pack_columns16(wide, rows, dense16 + (row + at) * n_in + k0 + j, n_in, panel);
                else isa->products16->pack_columns(wide, rows, from + j, dense ? n_in : WIDE, panel);
            }
        }
        for (int64_t j = 0; j < n; j += CPU_PANEL)
            isa->products16->product(tokens, cpu_min(CPU_PANEL, n - j), terms, dy + row, ld, panels + j * TERMS, dx + k0 + j, n_in, true);
    }
}

void cpu_matmul_back16(struct pw_dev *dev, float *dx, const float *dy, int64_t tokens, const struct pw_weight *w, char *scratch)
{
    const struct room room = room_of(dev, scratch);
    round_rows(dev, room.rows, dy, tokens, w->n_out);
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, w->n_out, w->n_in))
    for (int64_t k0 = 0; k0 < w->n_in; k0 += WIDE) back_columns(cpu_isa_of(dev), dx, room.rows, tokens, w, k0, stage_of(room));
}

/* ---- with an adapter ----
 *
 * What it multiplies is rounded too: x, A, B, scale xa, dy and dxa = scale dy B; sums, xa and gradients stay in f32. x' = dropout(x) is x or 0; its factor
 * 1 / (1 - p) goes to xa, and to dxa for da.
 *
 *     xa (T, R)  = x' A^T                     dxa (T, R) = scale dy B
 *     y (T, N)  += (scale xa) B^T             dx (T, K) += k (dxa A)         by the tasks that own the columns
 *     db^T (R, N) += (scale xa)^T dy          da (R, K) += dxa^T x'          likewise; the terms are tokens, so dxa and xa are turned first
 */
enum { ROWS = 48 /* of x a task of xa and dxa */, LDA = TERMS + 32 /* numbers from one dropped row to the next */, LOW = 64 /* ranks of db at a time */ };
_Static_assert(TERMS + ROWS * LDA / 2 <= STAGE && 2 * STEP * WIDE <= STAGE && LOW * WIDE <= STAGE, "what is kept in a thread's stage");

struct low { float *f32; uint16_t *rows, *turned; int64_t ld, ld_turned; };
size_t cpu_scratch_adapter16(int64_t tokens, const struct pw_weight *w)
{
    const int64_t r = w->lora->r;
    return cpu_round((size_t)(tokens * r) * 4) + cpu_round((size_t)(tokens * row16(r)) * 2) + cpu_round((size_t)(r * row16(tokens)) * 2);
}
static struct low low_of(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w)
{
    const int64_t r = w->lora->r;
    char *at = (char *)dev->scratch + cpu_round(cpu_matmul_scratch(dev, tokens, w));
    struct low l = { .f32 = (float *)at, .ld = row16(r), .ld_turned = row16(tokens) };
    l.rows = (uint16_t *)(at += cpu_round((size_t)(tokens * r) * 4));
    l.turned = (uint16_t *)(at + cpu_round((size_t)(tokens * l.ld) * 2));
    return l;
}

/* rows of scale * x (T, R) in bf16, and, when turned is not 0, turned * scale * x: (R, T) */
static void round_low(struct pw_dev *dev, struct low l, const float *x, float scale, int64_t tokens, int64_t r, float turned)
{
    const struct cpu_products16 *p = cpu_isa_of(dev)->products16;
    for (int64_t i = 0; i < tokens * r; i++) l.f32[i] = x[i] * scale;
    for (int64_t t = 0; t < tokens; t++) p->round(r, l.ld, l.f32 + t * r, l.rows + t * l.ld);
    for (int64_t i = 0; turned > 0 && i < r; i++)
        for (int64_t t = 0; t < l.ld_turned; t += ROWS) {
            float column[ROWS];
            const int64_t n = cpu_min(ROWS, l.ld_turned - t);
            for (int64_t j = 0; j < n; j++) column[j] = t + j < tokens ? turned * l.f32[(t + j) * r + i] : 0;
            p->round(n, n, column, l.turned + i * l.ld_turned + t);
        }
}

static float factor_of(struct pw_drop drop) { return drop.p > 0 ? (float)(1 / (1 - drop.p)) : 1; }

/* out = x where dropout keeps it, 0 elsewhere; n <= TERMS */
static void mask(const struct cpu_isa *isa, struct pw_drop drop, int64_t first, int64_t n, const float *x, float *out)
{
    static const float ones[TERMS] = { [0 ... TERMS - 1] = 1 };
    isa->keep(drop, first, n, ones, out);
    for (int64_t i = 0; i < n; i++) out[i] = out[i] > 0 ? x[i] : 0;
}

/* out (T, R) = rows of a, rounded, times columns of B (by_columns) or rows of A, n terms each */
static void down(struct pw_dev *dev, float *out, const uint16_t *a, int64_t lda, int64_t tokens, int64_t n, const float *factor, int64_t r, bool by_columns)
{
    const struct cpu_products16 *p = cpu_isa_of(dev)->products16;
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, n, r))
    for (int64_t t = 0; t < tokens; t += 2 * ROWS) {
        const int64_t rows = cpu_min(2 * ROWS, tokens - t);
        uint16_t *panel = panels_of(stage_of(room_of(dev, dev->scratch)));
        for (int64_t j = 0; j < r; j += CPU_PANEL)
            for (int64_t k = 0; k < n; k += TERMS) {
                const int64_t terms = cpu_min(TERMS, n - k), wide = cpu_min(CPU_PANEL, r - j);
                if (by_columns) p->pack_columns(wide, terms, factor + k * r + j, r, panel);
                else p->pack_rows(wide, terms, factor + j * n + k, n, panel);
                p->product(rows, wide, terms, a + t * lda + k, lda, panel, out + t * r + j, r, k > 0);
            }
    }
}

/* xa (T, R) = dropout(x) A^T */
static void down_dropped(struct pw_dev *dev, float *xa, const float *x, int64_t tokens, const struct pw_weight *w, struct pw_drop drop)
{
    const struct cpu_isa *isa = cpu_isa_of(dev);
    const int64_t n = w->n_in, r = w->lora->r;
    const float *a = w->lora->a.data;
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, n, r))
    for (int64_t t = 0; t < tokens; t += ROWS) {
        const int64_t rows = cpu_min(ROWS, tokens - t);
        float *kept = stage_of(room_of(dev, dev->scratch));
        uint16_t *panel = panels_of(kept), *dropped = (uint16_t *)(kept + TERMS);
        for (int64_t k = 0; k < n; k += TERMS) {
            const int64_t terms = cpu_min(TERMS, n - k);
            for (int64_t i = 0; i < rows; i++) {
                mask(isa, drop, (t + i) * n + k, terms, x + (t + i) * n + k, kept);
                isa->products16->round(terms, LDA, kept, dropped + i * LDA);
            }
            for (int64_t j = 0; j < r; j += CPU_PANEL) {
                const int64_t wide = cpu_min(CPU_PANEL, r - j);
                isa->products16->pack_rows(wide, terms, a + j * n + k, n, panel);
                isa->products16->product(rows, wide, terms, dropped, LDA, panel, xa + t * r + j, r, k > 0);
            }
        }
        isa->scale(rows * r, xa + t * r, factor_of(drop));
    }
}

void cpu_linear_fwd16(struct pw_dev *dev, float *y, float *xa, const float *x, int64_t tokens, const struct pw_weight *w, struct pw_drop drop)
{
    const struct cpu_isa *isa = cpu_isa_of(dev);
    const struct room room = room_of(dev, dev->scratch);
    const int64_t n_in = w->n_in, n_out = w->n_out, r = w->lora ? w->lora->r : 0;
    struct low low = { 0 };
    round_rows(dev, room.rows, x, tokens, n_in);
    if (r) {
        low = low_of(dev, tokens, w);
        if (drop.p > 0) down_dropped(dev, xa, x, tokens, w, drop);
        else down(dev, xa, room.rows, row16(n_in), tokens, n_in, w->lora->a.data, r, false);
        round_low(dev, low, xa, (float)w->lora->scale, tokens, r, 0);
    }
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, n_out, n_in))
    for (int64_t n0 = 0; n0 < n_out; n0 += WIDE) {
        float *stage = stage_of(room);
        columns(isa, y, room.rows, tokens, w, n0, stage);
        for (int64_t j = n0; j < cpu_min(n0 + WIDE, n_out); j += CPU_PANEL) {
            const int64_t wide = cpu_min(CPU_PANEL, n_out - j);
            for (int64_t t = 0; w->bias && t < tokens; t++)
                for (int64_t i = 0; i < wide; i++) y[t * n_out + j + i] += w->bias[j + i];
            for (int64_t k = 0; k < r; k += TERMS) {
                const int64_t terms = cpu_min(TERMS, r - k);
                isa->products16->pack_rows(wide, terms, (const float *)w->lora->b.data + j * r + k, r, panels_of(stage));
                isa->products16->product(tokens, wide, terms, low.rows + k, low.ld, panels_of(stage), y + j, n_out, true);
            }
        }
    }
}

/* db (N, R) += dy^T (scale xa), columns n0.. of dy */
static void back_b(const struct cpu_isa *isa, float *db, const uint16_t *dy, struct low low, int64_t tokens, const struct pw_weight *w, int64_t n0, float *stage)
{
    const int64_t r = w->lora->r, n_out = w->n_out, ld = row16(n_out);
    for (int64_t j = n0; j < cpu_min(n0 + WIDE, n_out); j += CPU_PANEL)
        for (int64_t first = 0; first < r; first += LOW) {
            const int64_t wide = cpu_min(CPU_PANEL, n_out - j), ranks = cpu_min(LOW, r - first);
            for (int64_t t = 0; t < tokens; t += TERMS) {
                const int64_t terms = cpu_min(TERMS, tokens - t);
                isa->products16->pack_columns16(wide, terms, dy + t * ld + j, ld, panels_of(stage));
                isa->products16->product(ranks, wide, terms, low.turned + first * low.ld_turned + t, low.ld_turned, panels_of(stage), stage, WIDE, t > 0);
            }
            for (int64_t i = 0; i < wide; i++)
                for (int64_t k = 0; k < ranks; k++) db[(j + i) * r + first + k] += stage[k * WIDE + i];
        }
}

/* dx[..][k0..] += keep (dxa A), da[..][k0..] += dxa^T dropout(x) */
static void back_a(const struct cpu_isa *isa, const struct pw_linear_grads *g, const float *x, struct low low, int64_t tokens, const struct pw_weight *w, struct pw_drop drop, int64_t k0, float *stage)
{
    const struct cpu_products16 *p = isa->products16;
    const int64_t r = w->lora->r, n_in = w->n_in;
    uint16_t *panel = panels_of(stage);
    for (int64_t j = k0; j < cpu_min(k0 + WIDE, n_in); j += CPU_PANEL) {
        const int64_t wide = cpu_min(CPU_PANEL, n_in - j);
        for (int64_t k = 0; g->dx.data && k < r; k += TERMS) {
            const int64_t terms = cpu_min(TERMS, r - k);
            float *dx = (float *)g->dx.data + j;
            p->pack_columns(wide, terms, (const float *)w->lora->a.data + k * n_in + j, n_in, panel);
            if (drop.p <= 0) p->product(tokens, wide, terms, low.rows + k, low.ld, panel, dx, n_in, true);
            for (int64_t t = 0; drop.p > 0 && t < tokens; t += STEP) {
                const int64_t rows = cpu_min(STEP, tokens - t);
                float *kept = stage + STEP * WIDE;
                p->product(rows, wide, terms, low.rows + t * low.ld + k, low.ld, panel, stage, WIDE, false);
                for (int64_t i = 0; i < rows; i++) {
                    isa->keep(drop, (t + i) * n_in + j, wide, stage + i * WIDE, kept);
                    isa->axpy(wide, dx + (t + i) * n_in, kept, 1);
                }
            }
        }
        for (int64_t t = 0; g->da.data && t < tokens; t += TERMS) {
            const int64_t terms = cpu_min(TERMS, tokens - t);
            if (drop.p <= 0) p->pack_columns(wide, terms, x + t * n_in + j, n_in, panel);
            for (int64_t at = 0; drop.p > 0 && at < terms; at += STEP) {
                const int64_t rows = cpu_min(STEP, terms - at);
                for (int64_t i = 0; i < rows; i++) mask(isa, drop, (t + at + i) * n_in + j, wide, x + (t + at + i) * n_in + j, stage + i * WIDE);
                p->pack_columns(wide, rows, stage, WIDE, panel + at * CPU_PANEL);
            }
            p->product(r, wide, terms, low.turned + t, low.ld_turned, panel, (float *)g->da.data + j, n_in, true);
        }
    }
}

void cpu_linear_bwd16(struct pw_dev *dev, const struct pw_linear_grads *g, const float *dy, const float *x, const float *xa, int64_t tokens, const struct pw_weight *w, struct pw_drop drop)
{
    const struct cpu_isa *isa = cpu_isa_of(dev);
    const struct room room = room_of(dev, dev->scratch);
    const int64_t n_in = w->n_in, n_out = w->n_out, r = w->lora ? w->lora->r : 0;
    const bool low_wanted = r && (g->dx.data || g->da.data);
    struct low low = { 0 };
    if (!g->dx.data && !r) return;
    round_rows(dev, room.rows, dy, tokens, n_out);
    if (r) low = low_of(dev, tokens, w);
    if (r && g->db.data) {
        round_low(dev, low, xa, (float)w->lora->scale, tokens, r, 1);
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, n_out, r))
        for (int64_t n0 = 0; n0 < n_out; n0 += WIDE) back_b(isa, g->db.data, room.rows, low, tokens, w, n0, stage_of(room));
    }
    if (low_wanted) {
        down(dev, low.f32, room.rows, row16(n_out), tokens, n_out, w->lora->b.data, r, true);
        round_low(dev, low, low.f32, (float)w->lora->scale, tokens, r, g->da.data ? factor_of(drop) : 0);
    }
    if (!g->dx.data && !low_wanted) return;
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, n_in, g->dx.data ? n_out : r))
    for (int64_t k0 = 0; k0 < n_in; k0 += WIDE) {
        if (g->dx.data) back_columns(isa, g->dx.data, room.rows, tokens, w, k0, stage_of(room));
        if (low_wanted) back_a(isa, g, x, low, tokens, w, drop, k0, stage_of(room));
    }
}
