/* Products of a linear layer on bf16 multipliers with sums in f32, for the levels that have them (cpu_products16): factors are rounded, or each is the sum
 * of three planes of bf16 and nothing is rounded but the sums.
 *
 * The rows of x (forward) or dy (backward) are made so once a call, into scratch. A task owns up to 512 columns of the result, 16 panels; as many
 * terms of the weight as the level likes (cpu_products16) are decoded or taken where they are, packed, and multiplied by all rows. So no weight exists in
 * bf16 as a whole: packing costs no memory. A result's chain is its terms in their order, each panel's a sum.
 *
 * An adapter's second product is more terms of the same sum: [x | scale xa] [W | B]^T, and [dy | dxa] [W ; A] when there is no dropout. */
#include <omp.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/cpu/cpu.h"

enum {
    PANELS = 16,
    WIDE = PANELS * CPU_PANEL,                 /* columns a task, at most */
    STEP = 64,                                 /* rows of W decoded at a time in backward */
    ROWS = 48,                                 /* of x dropped at a time */
    LOW = 64,                                  /* ranks of db at a time */
    FACTOR = 128,                              /* columns a task of the gradients of A and B */
    FEWEST = 512,                              /* rows for which a weight is packed */
    DOWN = 192,                                /* rows a task on the way to xa and dxa */
};
_Static_assert(LOW <= 2 * STEP && CPU_TERMS % CPU_STEP == 0 && STEP % CPU_STEP == 0, "offsets into planes");

/* numbers of a plane from one row to the next: n, then the adapter's; whole lines, and not a power of two */
static int64_t row16(int64_t n, const struct pw_weight *w) { return cpu_steps(n) + (w->lora ? cpu_steps(w->lora->r) : 0) + CPU_STEP; }

static const struct cpu_products16 *products_of(const struct pw_dev *dev) { return cpu_isa_of(dev)->products16; }
static int planes_of(const struct pw_dev *dev) { return products_of(dev)->planes; }
static int64_t stride_decoded(const struct cpu_products16 *p) { return p->terms + 16; }     /* floats from one decoded row to the next in forward */
static int64_t stride_dropped(const struct cpu_products16 *p) { return p->terms + CPU_STEP; } /* numbers from one dropped row to the next, of a plane */
static int64_t panel16(const struct cpu_products16 *p) { return (int64_t)p->terms * CPU_PANEL * p->planes; } /* numbers */
/* floats that a thread keeps: the largest of rows decoded in forward and in backward, dropped rows behind one of floats, db */
static int64_t stage16(const struct cpu_products16 *p)
{
    const int64_t decoded = CPU_PANEL * stride_decoded(p), dropped = p->terms + ROWS * stride_dropped(p) * p->planes / 2, fixed = STEP * (WIDE > 2 * FACTOR ? WIDE : 2 * FACTOR);
    const int64_t most = decoded > dropped ? decoded : dropped;
    return (most > fixed ? most : fixed) / 16 * 16 + 16;
}
static size_t thread_bytes(const struct cpu_products16 *p) { return (size_t)stage16(p) * 4 + (size_t)(PANELS * panel16(p)) * 2; }

size_t cpu_scratch16(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w)
{
    const int64_t wide = w->n_in > w->n_out ? w->n_in : w->n_out;
    return (size_t)dev->threads * thread_bytes(products_of(dev)) + cpu_round((size_t)(tokens * row16(wide, w)) * 2 * (size_t)planes_of(dev));
}

struct room { uint16_t *rows; char *threads; const struct cpu_products16 *p; };
static struct room room_of(const struct pw_dev *dev, char *scratch)
{
    const struct cpu_products16 *p = products_of(dev);
    return (struct room){ .rows = (uint16_t *)(scratch + (size_t)dev->threads * thread_bytes(p)), .threads = scratch, .p = p };
}
static float *stage_of(struct room r) { return (float *)(r.threads + (size_t)omp_get_thread_num() * thread_bytes(r.p)); }
static uint16_t *panels_of(const struct cpu_products16 *p, float *stage) { return (uint16_t *)(stage + stage16(p)); }

static void round_rows(struct pw_dev *dev, uint16_t *to, const float *x, int64_t tokens, int64_t n, int64_t ld)
{
    const struct cpu_products16 *p = cpu_isa_of(dev)->products16;
#pragma omp parallel for num_threads(dev->threads) if (tokens * n > CPU_SMALL_ELEMENTS)
    for (int64_t t = 0; t < tokens; t++) p->round(n, cpu_steps(n), x + t * n, to + t * ld * p->planes);
}

/* Into how many parts, of at most `most`, n is cut where everything is cut into `others` as well: so that each thread gets as many pieces, and at least `each`; n at most. */
static int64_t even_parts(const struct pw_dev *dev, int64_t n, int64_t most, int64_t others, int64_t each)
{
    int64_t parts = cpu_parts(n, most);
    while (parts < n && (parts * others < each * dev->threads || parts * others % dev->threads)) parts++;
    return parts;
}

/* What a task computes: `rows` rows of a group of panels, at most PANELS and in all groups as many, but for one. All rows are read once for each group, and come from
 * the third cache then, so groups are broad, and where there are few of them the rows are cut for the threads: each part packs the weight for
 * itself. What is computed does not depend on it. */
struct grid { int64_t tokens, n, rows, panels, groups, tasks; };
static struct grid grid_of(const struct pw_dev *dev, int64_t tokens, int64_t n)
{
    struct grid g = { .tokens = tokens, .n = n, .rows = tokens, .panels = cpu_parts(n, CPU_PANEL) };
    const int64_t parts = cpu_min(dev->threads, tokens / FEWEST);
    if (parts > 1 && cpu_parts(n, WIDE) < 4 * dev->threads) g.rows = cpu_parts(cpu_parts(tokens, parts), ROWS) * ROWS;
    g.groups = even_parts(dev, g.panels, PANELS, cpu_parts(tokens, g.rows), 2);
    g.tasks = g.groups * cpu_parts(tokens, g.rows);
    return g;
}
struct task { int64_t t, tokens, j, n; };
static struct task task_of(struct grid g, int64_t i)
{
    const int64_t t = i / g.groups * g.rows, at = i % g.groups, j = at * g.panels / g.groups * CPU_PANEL, end = (at + 1) * g.panels / g.groups * CPU_PANEL;
    return (struct task){ t, cpu_min(g.rows, g.tokens - t), j, cpu_min(end, g.n) - j };
}

/* Weights that are packed from where they are; one of the two is NULL. */
static const float *dense_f32(const struct pw_weight *w) { return w->type == PW_Q_DENSE && w->dtype == PW_F32 ? w->data : NULL; }
static const uint16_t *dense_bf16(const struct pw_weight *w) { return w->type == PW_Q_DENSE && w->dtype == PW_BF16 ? w->data : NULL; }

/* What an adapter adds to a sum: r terms, in the panels of its last piece where they fit, else in pieces of their own (add_more). by_rows: factor is
 * B (columns, R); else A (R, columns). */
struct more { const float *factor; int64_t r, ld; bool by_rows; };
static void pack_more(const struct cpu_products16 *p, struct more m, int64_t column, int64_t wide, int64_t first, int64_t terms, uint16_t *panel)
{
    if (m.by_rows) p->pack_rows(wide, terms, m.factor + column * m.ld + first, m.ld, panel);
    else p->pack_columns(wide, terms, m.factor + first * m.ld + column, m.ld, panel);
}
static bool fits(const struct cpu_products16 *p, struct more m, int64_t terms) { return m.r > 0 && cpu_steps(terms) + m.r <= p->terms; }
static void add_more(const struct cpu_products16 *p, struct more m, float *c, int64_t ldc, const uint16_t *rows, int64_t ld, int64_t tokens, int64_t column, int64_t n, uint16_t *panels)
{
    for (int64_t first = 0; first < m.r; first += p->terms) {
        const int64_t terms = cpu_min(p->terms, m.r - first);
        for (int64_t j = 0; j < n; j += CPU_PANEL) pack_more(p, m, column + j, cpu_min(CPU_PANEL, n - j), first, terms, panels + j / CPU_PANEL * panel16(p));
        p->product(tokens, n, 0, terms, rows + first * p->planes, ld, panels, panel16(p), c, ldc, true);
    }
}

static void columns(const struct cpu_isa *isa, float *y, const uint16_t *x, const struct pw_weight *w, struct more more, struct task task, float *stage)
{
    const struct cpu_products16 *p = isa->products16;
    const float *dense = dense_f32(w);
    const uint16_t *dense16 = dense_bf16(w);
    const int64_t n_in = w->n_in, ld = row16(n_in, w) * p->planes, tokens = task.tokens, n0 = task.j, n = task.n;
    uint16_t *panels = panels_of(p, stage);
    bool joined = false;
    x += task.t * ld;
    y += task.t * w->n_out;
    for (int64_t k = 0; k < n_in; k += p->terms) {
        const int64_t terms = cpu_min(p->terms, n_in - k), own = cpu_steps(terms);
        joined = k + p->terms >= n_in && fits(p, more, terms);
        for (int64_t j = 0; j < n; j += CPU_PANEL) {
            const int64_t wide = cpu_min(CPU_PANEL, n - j), row = n0 + j;
            uint16_t *panel = panels + j / CPU_PANEL * panel16(p);
            for (int64_t i = 0; !dense && !dense16 && i < wide; i++) isa->decode(w, row + i, k, terms, stage + i * stride_decoded(p));
            if (dense16) p->pack_rows16(wide, terms, dense16 + row * n_in + k, n_in, panel);
            else p->pack_rows(wide, terms, dense ? dense + row * n_in + k : stage, dense ? n_in : stride_decoded(p), panel);
            if (joined) pack_more(p, more, row, wide, 0, more.r, panel + own * CPU_PANEL * (dense16 ? 1 : p->planes));
        }
        p->product(tokens, n, dense16 ? own : 0, joined ? own + more.r : terms, x + k * p->planes, ld, panels, panel16(p), y + n0, w->n_out, k > 0);
    }
    if (!joined) add_more(p, more, y + n0, w->n_out, x + cpu_steps(n_in) * p->planes, ld, tokens, n0, n, panels);
}

void cpu_matmul16(struct pw_dev *dev, float *y, const float *x, int64_t tokens, const struct pw_weight *w, char *scratch)
{
    const struct room room = room_of(dev, scratch);
    const struct grid g = grid_of(dev, tokens, w->n_out);
    round_rows(dev, room.rows, x, tokens, w->n_in, row16(w->n_in, w));
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, w->n_out, w->n_in))
    for (int64_t i = 0; i < g.tasks; i++) columns(cpu_isa_of(dev), y, room.rows, w, (struct more){ 0 }, task_of(g, i), stage_of(room));
}

static void back_columns(const struct cpu_isa *isa, float *dx, const uint16_t *dy, const struct pw_weight *w, struct more more, struct task task, float *stage)
{
    const struct cpu_products16 *p = isa->products16;
    const float *dense = dense_f32(w);
    const uint16_t *dense16 = dense_bf16(w);
    const int64_t n_in = w->n_in, n_out = w->n_out, ld = row16(n_out, w) * p->planes, tokens = task.tokens, k0 = task.j, n = task.n;
    const int planes = dense16 ? 1 : p->planes;
    uint16_t *panels = panels_of(p, stage);
    bool joined = false;
    dy += task.t * ld;
    dx += task.t * n_in;
    for (int64_t row = 0; row < n_out; row += p->terms) {
        const int64_t terms = cpu_min(p->terms, n_out - row), own = cpu_steps(terms);
        joined = row + p->terms >= n_out && fits(p, more, terms);
        for (int64_t at = 0; at < terms; at += STEP) {
            const int64_t rows = cpu_min(STEP, terms - at);
            const float *from = dense ? dense + (row + at) * n_in + k0 : stage;
            for (int64_t i = 0; !dense && !dense16 && i < rows; i++) isa->decode(w, row + at + i, k0, n, stage + i * WIDE);
            for (int64_t j = 0; j < n; j += CPU_PANEL) {
                const int64_t wide = cpu_min(CPU_PANEL, n - j);
                uint16_t *panel = panels + j / CPU_PANEL * panel16(p) + at * CPU_PANEL * planes;
                if (dense16) p->pack_columns16(wide, rows, dense16 + (row + at) * n_in + k0 + j, n_in, panel);
                else p->pack_columns(wide, rows, from + j, dense ? n_in : WIDE, panel);
            }
        }
        for (int64_t j = 0; joined && j < n; j += CPU_PANEL)
            pack_more(p, more, k0 + j, cpu_min(CPU_PANEL, n - j), 0, more.r, panels + j / CPU_PANEL * panel16(p) + own * CPU_PANEL * planes);
        p->product(tokens, n, dense16 ? own : 0, joined ? own + more.r : terms, dy + row * p->planes, ld, panels, panel16(p), dx + k0, n_in, true);
    }
    if (!joined) add_more(p, more, dx + k0, n_in, dy + cpu_steps(n_out) * p->planes, ld, tokens, k0, n, panels);
}

void cpu_matmul_back16(struct pw_dev *dev, float *dx, const float *dy, int64_t tokens, const struct pw_weight *w, char *scratch)
{
    const struct room room = room_of(dev, scratch);
    const struct grid g = grid_of(dev, tokens, w->n_in);
    round_rows(dev, room.rows, dy, tokens, w->n_out, row16(w->n_out, w));
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, w->n_out, w->n_in))
    for (int64_t i = 0; i < g.tasks; i++) back_columns(cpu_isa_of(dev), dx, room.rows, w, (struct more){ 0 }, task_of(g, i), stage_of(room));
}

/* ---- with an adapter ----
 *
 * What it multiplies is rounded, or split into planes, too: x, A, B, scale xa, dy and dxa = scale dy B; sums, xa and gradients stay in f32.
 * x' = dropout(x) is x or 0; its factor 1 / (1 - p) goes to xa, and to dxa for da.
 *
 *     xa (T, R)  = x' A^T                     dxa (T, R) = scale dy B
 *     y (T, N)  += (scale xa) B^T             dx (T, K) += k (dxa A)         by the tasks that own the columns
 *     db^T (R, N) += (scale xa)^T dy          da (R, K) += dxa^T x'          likewise; the terms are tokens, so dxa and xa are turned first
 */
/* rows (T, R), behind those of x or dy; turned (R, T); ld.. count their planes */
struct low { float *f32; uint16_t *rows, *turned; int64_t ld, ld_turned; };
static int64_t row_turned(int64_t tokens) { return cpu_steps(tokens) + CPU_STEP; }
size_t cpu_scratch_adapter16(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w)
{
    const int64_t r = w->lora->r;
    return cpu_round((size_t)(tokens * r) * 4) + cpu_round((size_t)(r * row_turned(tokens) * planes_of(dev)) * 2);
}
static struct low low_of(const struct pw_dev *dev, struct room room, int64_t n, int64_t tokens, const struct pw_weight *w)
{
    char *at = (char *)dev->scratch + cpu_round(cpu_matmul_scratch(dev, tokens, w));
    return (struct low){ .f32 = (float *)at, .rows = room.rows + cpu_steps(n) * room.p->planes, .ld = row16(n, w) * room.p->planes,
                         .turned = (uint16_t *)(at + cpu_round((size_t)(tokens * w->lora->r) * 4)), .ld_turned = row_turned(tokens) * room.p->planes };
}

/* rows of scale * x (T, R), and, when turned is not 0, turned * scale * x: (R, T) */
static void round_low(struct pw_dev *dev, struct low l, const float *x, float scale, int64_t tokens, int64_t r, float turned)
{
    enum { PIECE = 2 * CPU_STEP };
    const struct cpu_products16 *p = cpu_isa_of(dev)->products16;
#pragma omp parallel for num_threads(dev->threads) if (tokens * r > CPU_SMALL_ELEMENTS)
    for (int64_t t = 0; t < tokens; t++) {
        for (int64_t i = t * r; i < (t + 1) * r; i++) l.f32[i] = x[i] * scale;
        p->round(r, cpu_steps(r), l.f32 + t * r, l.rows + t * l.ld);
    }
    if (!(turned > 0)) return;
#pragma omp parallel for num_threads(dev->threads) if (tokens * r > CPU_SMALL_ELEMENTS)
    for (int64_t i = 0; i < r; i++)
        for (int64_t t = 0; t < cpu_steps(tokens); t += PIECE) {
            float column[PIECE];
            const int64_t n = cpu_min(PIECE, cpu_steps(tokens) - t);
            for (int64_t j = 0; j < n; j++) column[j] = t + j < tokens ? turned * l.f32[(t + j) * r + i] : 0;
            p->round(n, n, column, l.turned + i * l.ld_turned + t * p->planes);
        }
}

static float factor_of(struct pw_drop drop) { return drop.p > 0 ? (float)(1 / (1 - drop.p)) : 1; }

/* out = x where dropout keeps it, 0 elsewhere; n <= CPU_TERMS */
static void mask(const struct cpu_isa *isa, struct pw_drop drop, int64_t first, int64_t n, const float *x, float *out)
{
    static const float ones[CPU_TERMS] = { [0 ... CPU_TERMS - 1] = 1 };
    isa->keep(drop, first, n, ones, out);
    for (int64_t i = 0; i < n; i++) out[i] = out[i] > 0 ? x[i] : 0;
}

/* out (T, R) = rows of a, rounded, times columns of B (by_columns) or rows of A, n terms each */
static void down(struct pw_dev *dev, float *out, const uint16_t *a, int64_t lda, int64_t tokens, int64_t n, const float *factor, int64_t r, bool by_columns)
{
    const struct cpu_products16 *p = cpu_isa_of(dev)->products16;
    const int64_t piece = cpu_parts(tokens, even_parts(dev, tokens, DOWN, 1, 1));
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, n, r))
    for (int64_t t = 0; t < tokens; t += piece) {
        const int64_t rows = cpu_min(piece, tokens - t);
        uint16_t *panel = panels_of(p, stage_of(room_of(dev, dev->scratch)));
        for (int64_t j = 0; j < r; j += CPU_PANEL)
            for (int64_t k = 0; k < n; k += p->terms) {
                const int64_t terms = cpu_min(p->terms, n - k), wide = cpu_min(CPU_PANEL, r - j);
                if (by_columns) p->pack_columns(wide, terms, factor + k * r + j, r, panel);
                else p->pack_rows(wide, terms, factor + j * n + k, n, panel);
                p->product(rows, wide, 0, terms, a + t * lda + k * p->planes, lda, panel, 0, out + t * r + j, r, k > 0);
            }
    }
}

/* xa (T, R) = dropout(x) A^T */
static void down_dropped(struct pw_dev *dev, float *xa, const float *x, int64_t tokens, const struct pw_weight *w, struct pw_drop drop)
{
    const struct cpu_isa *isa = cpu_isa_of(dev);
    const struct cpu_products16 *p = isa->products16;
    const int64_t n = w->n_in, r = w->lora->r;
    const float *a = w->lora->a.data;
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, n, r))
    for (int64_t t = 0; t < tokens; t += ROWS) {
        const int64_t rows = cpu_min(ROWS, tokens - t);
        float *kept = stage_of(room_of(dev, dev->scratch));
        uint16_t *panel = panels_of(p, kept), *dropped = (uint16_t *)(kept + p->terms);
        for (int64_t k = 0; k < n; k += p->terms) {
            const int64_t terms = cpu_min(p->terms, n - k);
            for (int64_t i = 0; i < rows; i++) {
                mask(isa, drop, pw_drop_element(drop, t + i, n, k), terms, x + (t + i) * n + k, kept);
                p->round(terms, stride_dropped(p), kept, dropped + i * stride_dropped(p) * p->planes);
            }
            for (int64_t j = 0; j < r; j += CPU_PANEL) {
                const int64_t wide = cpu_min(CPU_PANEL, r - j);
                p->pack_rows(wide, terms, a + j * n + k, n, panel);
                p->product(rows, wide, 0, terms, dropped, stride_dropped(p) * p->planes, panel, 0, xa + t * r + j, r, k > 0);
            }
        }
        isa->scale(rows * r, xa + t * r, factor_of(drop));
    }
}

void cpu_linear_fwd16(struct pw_dev *dev, float *y, float *xa, const float *x, int64_t tokens, const struct pw_weight *w, struct pw_drop drop)
{
    const struct cpu_isa *isa = cpu_isa_of(dev);
    const struct room room = room_of(dev, dev->scratch);
    const int64_t n_in = w->n_in, n_out = w->n_out, r = w->lora ? w->lora->r : 0, ld = row16(n_in, w);
    const struct grid g = grid_of(dev, tokens, n_out);
    struct more more = { 0 };
    round_rows(dev, room.rows, x, tokens, n_in, ld);
    if (r) {
        more = (struct more){ w->lora->b.data, r, r, true };
        if (drop.p > 0) down_dropped(dev, xa, x, tokens, w, drop);
        else down(dev, xa, room.rows, ld * room.p->planes, tokens, n_in, w->lora->a.data, r, false);
        round_low(dev, low_of(dev, room, n_in, tokens, w), xa, (float)w->lora->scale, tokens, r, 0);
    }
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, n_out, n_in))
    for (int64_t i = 0; i < g.tasks; i++) {
        const struct task task = task_of(g, i);
        columns(isa, y, room.rows, w, more, task, stage_of(room));
        for (int64_t t = task.t; w->bias && t < task.t + task.tokens; t++)
            for (int64_t j = task.j; j < task.j + task.n; j++) y[t * n_out + j] += w->bias[j];
    }
}

/* db (N, R) += dy^T (scale xa), n columns of dy from n0 */
static void back_b(const struct cpu_isa *isa, float *db, const uint16_t *dy, struct low low, int64_t tokens, const struct pw_weight *w, int64_t n0, int64_t n, float *stage)
{
    const struct cpu_products16 *p = isa->products16;
    const int64_t r = w->lora->r, ld = row16(w->n_out, w) * p->planes;
    for (int64_t j = n0; j < n0 + n; j += CPU_PANEL)
        for (int64_t first = 0; first < r; first += LOW) {
            const int64_t wide = cpu_min(CPU_PANEL, n0 + n - j), ranks = cpu_min(LOW, r - first);
            for (int64_t t = 0; t < tokens; t += p->terms) {
                const int64_t terms = cpu_min(p->terms, tokens - t);
                p->pack_rounded(wide, terms, dy + t * ld + j * p->planes, ld, panels_of(p, stage));
                p->product(ranks, wide, 0, terms, low.turned + first * low.ld_turned + t * p->planes, low.ld_turned, panels_of(p, stage), 0, stage, FACTOR, t > 0);
            }
            for (int64_t i = 0; i < wide; i++)
                for (int64_t k = 0; k < ranks; k++) db[(j + i) * r + first + k] += stage[k * FACTOR + i];
        }
}

/* dx[..][k0..] += keep (dxa A) where there is dropout, da[..][k0..] += dxa^T dropout(x) */
static void back_a(const struct cpu_isa *isa, const struct pw_linear_grads *g, const float *x, struct low low, int64_t tokens, const struct pw_weight *w, struct pw_drop drop, int64_t k0, int64_t n,
                   float *stage)
{
    const struct cpu_products16 *p = isa->products16;
    const int64_t r = w->lora->r, n_in = w->n_in;
    uint16_t *panel = panels_of(p, stage);
    for (int64_t j = k0; j < k0 + n; j += CPU_PANEL) {
        const int64_t wide = cpu_min(CPU_PANEL, k0 + n - j);
        for (int64_t k = 0; drop.p > 0 && g->dx.data && k < r; k += p->terms) {
            const int64_t terms = cpu_min(p->terms, r - k);
            float *dx = (float *)g->dx.data + j;
            p->pack_columns(wide, terms, (const float *)w->lora->a.data + k * n_in + j, n_in, panel);
            for (int64_t t = 0; t < tokens; t += STEP) {
                const int64_t rows = cpu_min(STEP, tokens - t);
                float *kept = stage + STEP * FACTOR;
                p->product(rows, wide, 0, terms, low.rows + t * low.ld + k * p->planes, low.ld, panel, 0, stage, FACTOR, false);
                for (int64_t i = 0; i < rows; i++) {
                    isa->keep(drop, pw_drop_element(drop, t + i, n_in, j), wide, stage + i * FACTOR, kept);
                    isa->axpy(wide, dx + (t + i) * n_in, kept, 1);
                }
            }
        }
        for (int64_t t = 0; g->da.data && t < tokens; t += p->terms) {
            const int64_t terms = cpu_min(p->terms, tokens - t);
            if (drop.p <= 0) p->pack_columns(wide, terms, x + t * n_in + j, n_in, panel);
            for (int64_t at = 0; drop.p > 0 && at < terms; at += STEP) {
                const int64_t rows = cpu_min(STEP, terms - at);
                for (int64_t i = 0; i < rows; i++) mask(isa, drop, pw_drop_element(drop, t + at + i, n_in, j), wide, x + (t + at + i) * n_in + j, stage + i * FACTOR);
                p->pack_columns(wide, rows, stage, FACTOR, panel + at * CPU_PANEL * p->planes);
            }
            p->product(r, wide, 0, terms, low.turned + t * p->planes, low.ld_turned, panel, 0, (float *)g->da.data + j, n_in, true);
        }
    }
}

void cpu_linear_bwd16(struct pw_dev *dev, const struct pw_linear_grads *g, const float *dy, const float *x, const float *xa, int64_t tokens, const struct pw_weight *w, struct pw_drop drop)
{
    const struct cpu_isa *isa = cpu_isa_of(dev);
    const struct room room = room_of(dev, dev->scratch);
    const int64_t n_in = w->n_in, n_out = w->n_out, r = w->lora ? w->lora->r : 0;
    const struct grid of_dx = grid_of(dev, tokens, n_in);
    const bool low_wanted = r && (g->dx.data || g->da.data);
    struct low low = { 0 };
    struct more more = { 0 };
    if (!g->dx.data && !r) return;
    round_rows(dev, room.rows, dy, tokens, n_out, row16(n_out, w));
    if (r) low = low_of(dev, room, n_out, tokens, w);
    if (r && drop.p <= 0) more = (struct more){ w->lora->a.data, r, n_in, false };
    if (r && g->db.data) {
        round_low(dev, low, xa, (float)w->lora->scale, tokens, r, 1);
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, n_out, r))
        for (int64_t n0 = 0; n0 < n_out; n0 += FACTOR) back_b(isa, g->db.data, room.rows, low, tokens, w, n0, cpu_min(FACTOR, n_out - n0), stage_of(room));
    }
    if (low_wanted) {
        down(dev, low.f32, room.rows, row16(n_out, w) * room.p->planes, tokens, n_out, w->lora->b.data, r, true);
        round_low(dev, low, low.f32, (float)w->lora->scale, tokens, r, g->da.data ? factor_of(drop) : 0);
    }
    if (g->dx.data) {
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, n_in, n_out))
        for (int64_t i = 0; i < of_dx.tasks; i++) back_columns(isa, g->dx.data, room.rows, w, more, task_of(of_dx, i), stage_of(room));
    }
    if (low_wanted) {
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (!cpu_is_small(tokens, n_in, r))
        for (int64_t k0 = 0; k0 < n_in; k0 += FACTOR) back_a(isa, g, x, low, tokens, w, drop, k0, cpu_min(FACTOR, n_in - k0), stage_of(room));
    }
}
