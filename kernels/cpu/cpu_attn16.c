/* Attention on bf16 multipliers with sums in f32, for the levels that have them (cpu_products16): queries, keys, values, weights and their gradients are
 * rounded, or split into planes, on their way to a product; softmax, sums and results are f32. Tasks are those of cpu_attn.c.
 *
 *            keys 0..63   64..127  128..191      Queries go 256 at a time, so that a block of keys is packed for many; of a block with queries that see
 *  q 0..255  [ tile S ]   [     ]                nothing of it only the rows between the first and the last that do are computed, from a multiple of 32
 *  q 256..   [        ]   [     ]   [     ]      on: what is left out would add zeros.
 *
 * Forward keeps a running maximum and sum per query. Backward makes the tile turned, keys by queries, as the products with dout and q want it:
 *
 *     S^T = K Q^T     P^T = exp(S^T - lse)     dP^T = V dO^T     dS^T = P^T (dP^T - mean) scale     mean = dO . O
 *     dV += P^T dO    dK += dS^T Q             dQ += dS K        dS^T is turned for the last one alone
 *
 * Keys and values of 8 bits are multiplied as the whole numbers they are; their scales go to the scores, and to the weights after these were summed. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/cpu/cpu_attn.h"

enum { QB = 256, KB = CPU_KEYS };
_Static_assert(QB % CPU_PANEL == 0 && KB % CPU_PANEL == 0 && KB % CPU_STEP == 0 && CPU_PANEL == CPU_STEP, "tiles are whole panels and whole steps");

/* One thread's scratch: taken piece by piece, each at a whole line. With `at` NULL it only counts. */
struct room { char *at; size_t bytes; };
static void *piece(struct room *r, int64_t n, size_t each)
{
    void *p = r->at ? r->at + r->bytes : NULL;
    r->bytes += cpu_round((size_t)n * each);
    return p;
}

/* Numbers of 16 bits count their planes. A panel of n terms has n * CPU_PANEL numbers. */
struct work {
    const struct cpu_isa *isa;
    const struct cpu_products16 *p;
    int64_t d, planes, wide;            /* wide: d in whole steps */
    float *k, *v;                       /* gathered: (KB, d) */
    float *s;                           /* forward (QB, KB); backward, turned (KB, QB) */
    uint16_t *s16;                      /* rows of s, made for a product */
    uint16_t *k_panels;                 /* forward: keys are columns, terms d; backward: keys are terms, columns d */
    uint16_t *q16, *v_panels;           /* forward: rows of queries; values, terms KB, columns d */
    float *o, *top; double *sum;        /* forward (QB, d), (QB), (QB) */
    float *ds, *lse, *mean;             /* backward (KB, QB), (QB), (QB) */
    uint16_t *ds16, *ds_turned, *k16, *v16;
    uint16_t *q_columns, *up_columns;   /* backward: queries are columns, terms d */
    uint16_t *q_terms, *up_terms;       /* queries are terms, columns d */
};

static struct work work_of(const struct pw_dev *dev, struct room *r, int64_t d, bool backward)
{
    const struct cpu_isa *isa = cpu_isa_of(dev);
    const int64_t planes = isa->products16->planes, wide = cpu_steps(d);
    struct work w = { .isa = isa, .p = isa->products16, .d = d, .planes = planes, .wide = wide };
    w.k = piece(r, KB * d, sizeof(float));
    w.v = piece(r, KB * d, sizeof(float));
    w.s = piece(r, QB * KB, sizeof(float));
    w.s16 = piece(r, QB * KB * planes, 2);
    w.k_panels = piece(r, KB * wide * planes, 2);
    if (!backward) {
        w.v_panels = piece(r, KB * wide * planes, 2);
        w.q16 = piece(r, QB * wide * planes, 2);
        w.o = piece(r, QB * d, sizeof(float));
        w.top = piece(r, QB, sizeof(float));
        w.sum = piece(r, QB, sizeof(double));
        return w;
    }
    w.ds = piece(r, QB * KB, sizeof(float));
    w.lse = piece(r, QB, sizeof(float));
    w.mean = piece(r, QB, sizeof(float));
    w.ds16 = piece(r, QB * KB * planes, 2);
    w.ds_turned = piece(r, QB * KB * planes, 2);
    w.k16 = piece(r, KB * wide * planes, 2);
    w.v16 = piece(r, KB * wide * planes, 2);
    w.q_columns = piece(r, QB * wide * planes, 2);
    w.up_columns = piece(r, QB * wide * planes, 2);
    w.q_terms = piece(r, QB * wide * planes, 2);
    w.up_terms = piece(r, QB * wide * planes, 2);
    return w;
}
size_t cpu_attn16_thread_bytes(const struct pw_dev *dev, int64_t d, bool backward)
{
    struct room r = { 0 };
    (void)work_of(dev, &r, d, backward);
    return r.bytes;
}
static struct work work_here(const struct pw_dev *dev, int64_t d, bool backward)
{
    struct room r = { (char *)dev->scratch + (size_t)omp_get_thread_num() * cpu_attn16_thread_bytes(dev, d, backward), 0 };
    return work_of(dev, &r, d, backward);
}

/* rows of x, n of them */
static void round_rows(const struct work *w, int64_t n, const float *x, int64_t ld, uint16_t *to)
{
    for (int64_t i = 0; i < n; i++) w->p->round(w->d, w->wide, x + i * ld, to + i * w->wide * w->planes);
}
/* n rows of x as the columns of panels with d terms */
static void as_columns(const struct work *w, int64_t n, const float *x, int64_t ld, uint16_t *panels)
{
    for (int64_t j = 0; j < n; j += CPU_PANEL) w->p->pack_rows(cpu_min(CPU_PANEL, n - j), w->d, x + j * ld, ld, panels + j * w->wide * w->planes);
}
/* n rows of x as the terms of panels with d columns; a panel has room for `most` terms */
static void as_terms(const struct work *w, int64_t n, int64_t most, const float *x, int64_t ld, uint16_t *panels)
{
    for (int64_t e = 0; e < w->d; e += CPU_PANEL) w->p->pack_columns(cpu_min(CPU_PANEL, w->d - e), n, x + e, ld, panels + e * most * w->planes);
}

/* Keys of a block as rows of f32: where they are if that is one range of f32, else gathered. */
struct rows { const float *at; int64_t ld; };
static struct rows rows_of(float *room, struct pw_tensor from, const struct cpu_span *a, int64_t first, int64_t n, int64_t g)
{
    const int64_t d = from.shape[2], ld = from.shape[1] * d;
    const bool range = from.dtype == PW_F32 && !a->pages && (first >= a->prefix_n || first + n <= a->prefix_n);
    if (range) return (struct rows){ (const float *)from.data + cpu_row_of(a, first) * ld + g * d, ld };
    cpu_pack_keys(room, from, pw_none(), a, first, n, g);
    return (struct rows){ room, d };
}
/* x[j] *= the scale of key first + j, of numbers of 8 bits */
static void scale_by_key(float *x, struct pw_tensor scale, const struct cpu_span *a, int64_t first, int64_t n, int64_t g)
{
    for (int64_t j = 0; j < n; j++) x[j] *= ((const float *)scale.data)[cpu_row_of(a, first + j) * scale.shape[1] + g];
}

/* The queries of a block of n_q that see some of n_k keys: from..to, from a multiple of CPU_PANEL. key0: the first key's number less that of the last key
 * which query 0 of the block sees. */
struct seen { int64_t from, to; };
static struct seen queries_of(int64_t key0, int64_t n_k, int64_t window, int64_t n_q)
{
    const int64_t to = window > 0 ? key0 + n_k - 1 + window : n_q;
    return (struct seen){ key0 > 0 ? key0 / CPU_PANEL * CPU_PANEL : 0, to < n_q ? to : n_q };
}

void cpu_attn16_forward(const struct pw_dev *dev, struct pw_tensor out, struct pw_tensor lse, struct pw_tensor q, const struct pw_cache *c, const struct pw_seqs *seqs,
                        const struct pw_attn *attn, int seq, int64_t h)
{
    const int64_t heads = q.shape[1], g = h / (heads / c->k.shape[1]), d = q.shape[2], ldq = heads * d;
    const int64_t row0 = seqs->q_start[seq], queries = seqs->q_start[seq + 1] - row0;
    const struct cpu_span a = cpu_span_of(seqs, seq);
    const struct work w = work_here(dev, d, false);
    const struct cpu_products16 *p = w.p;
    const int64_t ld16 = w.wide * w.planes, ld_s16 = KB * w.planes;
    for (int64_t q0 = 0; q0 < queries; q0 += QB) {
        const int64_t n_q = cpu_min(QB, queries - q0);
        int64_t first, end;
        round_rows(&w, n_q, (const float *)q.data + (row0 + q0) * ldq + h * d, ldq, w.q16);
        memset(w.o, 0, (size_t)(n_q * d) * sizeof(float));
        for (int64_t i = 0; i < n_q; i++) {
            w.top[i] = -INFINITY;
            w.sum[i] = 0;
        }
        cpu_key_range(&a, attn, q0, n_q, &first, &end);
        for (int64_t k0 = first; k0 < end; k0 += KB) {
            const int64_t n_k = cpu_min(KB, end - k0), key0 = k0 - a.back - q0;
            const struct seen s = queries_of(key0, n_k, attn->window, n_q);
            const struct rows k = rows_of(w.k, c->k, &a, k0, n_k, g), v = rows_of(w.v, c->v, &a, k0, n_k, g);
            as_columns(&w, n_k, k.at, k.ld, w.k_panels);
            as_terms(&w, n_k, KB, v.at, v.ld, w.v_panels);
            p->product(s.to - s.from, n_k, 0, d, w.q16 + s.from * ld16, ld16, w.k_panels, CPU_PANEL * ld16, w.s + s.from * KB, KB, false);
            for (int64_t i = s.from; i < s.to; i++) {
                float *row = w.s + i * KB;
                if (c->k_scale.data) scale_by_key(row, c->k_scale, &a, k0, n_k, g);
                const float top = cpu_mask_row(w.isa, attn, row, i, key0, n_k);
                if (!(top <= w.top[i])) { /* grows, or is NaN */
                    const float shrink = w.top[i] == -INFINITY ? 0 : expf(w.top[i] - top);
                    w.isa->scale(d, w.o + i * d, shrink);
                    w.sum[i] *= (double)shrink;
                    w.top[i] = top;
                }
                if (w.top[i] == -INFINITY) memset(row, 0, KB * sizeof(float)); /* nothing seen so far */
                else w.sum[i] += w.isa->exp_sub(KB, row, w.top[i]);
                if (c->v_scale.data) scale_by_key(row, c->v_scale, &a, k0, n_k, g);
                p->round(KB, KB, row, w.s16 + i * ld_s16);
            }
            p->product(s.to - s.from, d, 0, n_k, w.s16 + s.from * ld_s16, ld_s16, w.v_panels, CPU_PANEL * ld_s16, w.o + s.from * d, d, true);
        }
        for (int64_t i = 0; i < n_q; i++) {
            float *to = (float *)out.data + (row0 + q0 + i) * ldq + h * d, inverse = (float)(1 / w.sum[i]);
            for (int64_t e = 0; e < d; e++) to[e] = w.o[i * d + e] * inverse;
            if (lse.data) ((float *)lse.data)[(row0 + q0 + i) * heads + h] = (float)((double)w.top[i] + log(w.sum[i]));
        }
    }
}

/* Turned scores and products with dout of key j of a block become weights and their gradients, and zeros where a query does not see it. */
static void backward_row(const struct work *w, const struct pw_attn *attn, int64_t j, int64_t key0, struct seen q)
{
    float *s = w->s + j * QB, *ds = w->ds + j * QB, slope[QB];
    const float scale = (float)attn->scale, cap = (float)attn->softcap;
    const int64_t low = key0 + j, from = low > q.from ? cpu_min(low, q.to) : q.from, n = cpu_steps(q.to - q.from);
    const int64_t to = attn->window > 0 && low + attn->window < q.to ? (low + attn->window > from ? low + attn->window : from) : q.to;
    for (int64_t i = from; cap > 0 && i < to; i++) {
        const float t = tanhf(s[i] * scale / cap);
        s[i] = cap * t;
        slope[i] = 1 - t * t;
    }
    w->isa->softmax_back(to - from, s + from, ds + from, w->lse + from, w->mean + from, cap > 0 ? 1 : scale, scale);
    for (int64_t i = from; cap > 0 && i < to; i++) ds[i] *= slope[i];
    for (int part = 0; part < 2; part++) {
        float *row = part ? ds : s;
        memset(row + q.from, 0, (size_t)(from - q.from) * sizeof(float));
        memset(row + to, 0, (size_t)(q.from + n - to) * sizeof(float));
        w->p->round(n, n, row + q.from, (part ? w->ds16 : w->s16) + (j * QB + q.from) * w->planes);
    }
}

/* grad[keys k0..k0+n_k) of head g += tile rows, whose terms are the queries q; panels: of the rows they multiply */
static void add_keys(const struct work *w, struct pw_tensor grad, const struct cpu_span *a, int64_t k0, int64_t n_k, int64_t g, const uint16_t *tile, const uint16_t *panels, struct seen q)
{
    const int64_t ld = grad.shape[1] * w->d;
    for (int64_t j = 0; j < n_k;) { /* the prefix's rows and the sequence's own are two ranges */
        const int64_t key = k0 + j, n = key < a->prefix_n ? cpu_min(n_k - j, a->prefix_n - key) : n_k - j;
        w->p->product(n, w->d, 0, q.to - q.from, tile + (j * QB + q.from) * w->planes, QB * w->planes, panels + q.from * CPU_PANEL * w->planes, QB * CPU_PANEL * w->planes,
                      (float *)grad.data + cpu_row_of(a, key) * ld + g * w->d, ld, true);
        j += n;
    }
}

static void backward_head(const struct work *w, const struct cpu_attn_grads *t, const struct cpu_span *a, const struct pw_attn *attn, int64_t row0, int64_t queries, int64_t h, int64_t g)
{
    const struct cpu_products16 *p = w->p;
    const int64_t heads = t->q.shape[1], d = w->d, ld = heads * d, ld16 = w->wide * w->planes, ld_s16 = KB * w->planes;
    for (int64_t q0 = 0; q0 < queries; q0 += QB) {
        const int64_t n_q = cpu_min(QB, queries - q0), at = (row0 + q0) * ld + h * d;
        const float *q = (const float *)t->q.data + at, *up = (const float *)t->dout.data + at, *out = (const float *)t->out.data + at;
        int64_t first, end;
        as_columns(w, n_q, q, ld, w->q_columns);
        as_columns(w, n_q, up, ld, w->up_columns);
        as_terms(w, n_q, QB, q, ld, w->q_terms);
        as_terms(w, n_q, QB, up, ld, w->up_terms);
        for (int64_t i = 0; i < n_q; i++) {
            w->isa->dot(1, 1, d, up + i * ld, ld, out + i * ld, ld, w->mean + i, 1, false);
            w->lse[i] = ((const float *)t->lse.data)[(row0 + q0 + i) * heads + h];
        }
        cpu_key_range(a, attn, q0, n_q, &first, &end);
        for (int64_t k0 = first; k0 < end; k0 += KB) {
            const int64_t n_k = cpu_min(KB, end - k0), key0 = k0 - a->back - q0;
            const struct seen s = queries_of(key0, n_k, attn->window, n_q);
            const int64_t n = s.to - s.from;
            const struct rows k = rows_of(w->k, t->k, a, k0, n_k, g), v = rows_of(w->v, t->v, a, k0, n_k, g);
            round_rows(w, n_k, k.at, k.ld, w->k16);
            round_rows(w, n_k, v.at, v.ld, w->v16);
            as_terms(w, n_k, KB, k.at, k.ld, w->k_panels);
            p->product(n_k, n, 0, d, w->k16, ld16, w->q_columns + s.from * ld16, CPU_PANEL * ld16, w->s + s.from, QB, false);
            p->product(n_k, n, 0, d, w->v16, ld16, w->up_columns + s.from * ld16, CPU_PANEL * ld16, w->ds + s.from, QB, false);
            for (int64_t j = 0; j < n_k; j++) backward_row(w, attn, j, key0, s);
            add_keys(w, t->dv, a, k0, n_k, g, w->s16, w->up_terms, s);
            add_keys(w, t->dk, a, k0, n_k, g, w->ds16, w->q_terms, s);
            p->turn(n, n_k, w->ds + s.from, QB, w->ds_turned, ld_s16);
            p->product(n, d, 0, n_k, w->ds_turned, ld_s16, w->k_panels, CPU_PANEL * ld_s16, (float *)t->dq.data + at + s.from * ld, ld, true);
        }
    }
}

void cpu_attn16_backward(const struct pw_dev *dev, const struct cpu_attn_grads *t, const struct pw_seqs *seqs, const struct pw_attn *attn, int seq, int64_t g)
{
    const int64_t share = t->q.shape[1] / t->k.shape[1], row0 = seqs->q_start[seq];
    const struct cpu_span a = cpu_span_of(seqs, seq);
    const struct work w = work_here(dev, t->q.shape[2], true);
    for (int64_t h = g * share; h < (g + 1) * share; h++) backward_head(&w, t, &a, attn, row0, seqs->q_start[seq + 1] - row0, h, g);
}
