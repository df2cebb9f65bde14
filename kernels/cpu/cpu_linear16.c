/* Products of a linear layer with factors in bf16 and sums in f32, for the level that has them (cpu_products16).
 *
 * The rows of x (forward) or dy (backward) are rounded once a call, into scratch. A task owns 64 columns of the result, two panels; 256 terms
 * at a time of the weight are decoded or taken where they are, rounded, packed, and multiplied by all rows. So no weight exists in bf16 as a
 * whole: packing is about 4 % of a call with 512 rows, and costs no memory. A result's chain is pairs in their order, 256 terms a sum. */
#include <omp.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/cpu/cpu.h"

enum {
    TERMS = 256,                               /* of a panel */
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
