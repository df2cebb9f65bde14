/* Attention on the cpu: its tasks, and what one does on vectors of f32; where the level has bf16 multipliers, cpu_attn16.c does it. A task of the
 * forward pass is one head of one sequence; of the backward pass one key/value head of one sequence, so that no two tasks add to the same rows
 * (with a shared prefix: one key/value head of all sequences).
 *
 *            keys 0..63   64..127  128..191      Queries go 32 at a time, keys 64 at a time; blocks of keys begin at multiples of 64 of
 *  q 0..31   [ tile S ]   [     ]                the sequence's own numbering, prefix included, so a query meets the same blocks whether
 *  q 32..63  [        ]   [     ]   [     ]      it is alone or not, and whether its prefix is shared or not. Forward keeps a running
 *                                                maximum and sum per query; backward recomputes the tile from the saved log-sum-exp,
 *                                                all queries of a block of keys before the next: keys and values are turned once. */
#include "kernels/cpu/cpu_attn.h"

#include <math.h>
#include <omp.h>
#include <string.h>
#include "kernels/backend.h"
#include "kernels/cache8.h"

enum { QB = 32, KB = CPU_KEYS };

static bool on_products16(const struct pw_dev *dev) { return cpu_isa_of(dev)->products16; }

/* floats of one thread: a tile of scores, packed keys and values; forward output rows and maxima; backward a tile of dS, keys and values turned,
 * dO . O of the queries */
static size_t thread_floats(int64_t queries, int64_t d, bool backward)
{
    size_t wide = (size_t)(d + 15) & ~(size_t)15, mean = (size_t)(queries + 15) & ~(size_t)15;
    return QB * KB + 2 * KB * wide + (backward ? QB * KB + 2 * KB * wide + mean : QB * wide + QB);
}
size_t cpu_scratch_attn(const struct pw_dev *dev, int64_t tokens, int64_t keys, int heads, int kv_heads, int head_dim, bool backward)
{
    (void)keys; (void)heads; (void)kv_heads;
    return (size_t)dev->threads * (on_products16(dev) ? cpu_attn16_thread_bytes(dev, head_dim, backward) : thread_floats(tokens, head_dim, backward) * sizeof(float));
}

struct work { float *s, *ds, *k, *v, *k_turned, *v_turned, *o, *top, *mean; };

static struct work work_of(const struct pw_dev *dev, int64_t queries, int64_t d, bool backward)
{
    size_t wide = (size_t)(d + 15) & ~(size_t)15;
    struct work w = { 0 };
    float *at = (float *)dev->scratch + (size_t)omp_get_thread_num() * thread_floats(queries, d, backward);
    w.s = at; at += QB * KB;
    w.k = at; at += KB * wide;
    w.v = at; at += KB * wide;
    if (backward) {
        w.ds = at; at += QB * KB;
        w.k_turned = at; at += KB * wide;
        w.v_turned = at; at += KB * wide;
        w.mean = at;
    } else {
        w.o = at; at += QB * wide;
        w.top = at;
    }
    return w;
}

/* to (d, KB) = from (n, d), turned; columns past n are not written */
static void turn(float *to, const float *from, int64_t n, int64_t d)
{
    for (int64_t e0 = 0; e0 < d; e0 += 16) /* a line of each row at a time */
        for (int64_t j = 0; j < n; j++)
            for (int64_t e = e0; e < cpu_min(e0 + 16, d); e++) to[e * KB + j] = from[j * d + e];
}

struct block { int64_t q0, n_q, k0, n_k; };

static void forward_head(const struct pw_dev *dev, struct pw_tensor out, struct pw_tensor lse, struct pw_tensor q, const struct pw_cache *c,
                         const struct pw_seqs *seqs, const struct pw_attn *attn, int seq, int64_t h)
{
    const struct cpu_isa *isa = cpu_isa_of(dev);
    int64_t heads = q.shape[1], g = h / (heads / c->k.shape[1]), d = q.shape[2], ldq = heads * d;
    int64_t row0 = seqs->q_start[seq], queries = seqs->q_start[seq + 1] - row0;
    struct cpu_span a = cpu_span_of(seqs, seq);
    struct work w = work_of(dev, q.shape[0], d, false);
    for (int64_t q0 = 0; q0 < queries; q0 += QB) {
        int64_t n_q = cpu_min(QB, queries - q0), first, end;
        const float *rows = (const float *)q.data + (row0 + q0) * ldq + h * d;
        memset(w.o, 0, (size_t)(n_q * d) * sizeof(float));
        double sum[QB] = { 0 };
        for (int64_t i = 0; i < n_q; i++) w.top[i] = -INFINITY;
        cpu_key_range(&a, attn, q0, n_q, &first, &end);
        for (int64_t k0 = first; k0 < end; k0 += KB) {
            struct block b = { q0, n_q, k0, cpu_min(KB, end - k0) };
            cpu_pack_keys(w.k, c->k, c->k_scale, &a, k0, b.n_k, g);
            cpu_pack_keys(w.v, c->v, c->v_scale, &a, k0, b.n_k, g);
            isa->dot(b.n_q, b.n_k, d, rows, ldq, w.k, d, w.s, KB, false);
            for (int64_t i = 0; i < n_q; i++) {
                const float top = cpu_mask_row(isa, attn, w.s + i * KB, i, k0 - a.back - q0, b.n_k);
                if (!(top <= w.top[i])) { /* grows, or is NaN */
                    float shrink = w.top[i] == -INFINITY ? 0 : expf(w.top[i] - top);
                    isa->scale(d, w.o + i * d, shrink);
                    sum[i] *= (double)shrink;
                    w.top[i] = top;
                }
                if (w.top[i] == -INFINITY) memset(w.s + i * KB, 0, KB * sizeof(float)); /* nothing seen so far */
                else sum[i] += isa->exp_sub(KB, w.s + i * KB, w.top[i]);
            }
            isa->outer(n_q, d, b.n_k, w.s, KB, 1, w.v, d, w.o, d);
        }
        for (int64_t i = 0; i < n_q; i++) {
            float *to = (float *)out.data + (row0 + q0 + i) * ldq + h * d, inverse = (float)(1 / sum[i]);
            for (int64_t e = 0; e < d; e++) to[e] = w.o[i * d + e] * inverse;
            if (lse.data) ((float *)lse.data)[(row0 + q0 + i) * heads + h] = (float)((double)w.top[i] + log(sum[i]));
        }
    }
}

/* Multiply-adds of the scores of all heads, an upper bound (masked ones too). */
static int64_t score_work(const struct pw_seqs *seqs, int64_t heads, int64_t d)
{
    int64_t work = 0;
    for (int s = 0; s < seqs->n; s++)
        work += (int64_t)(seqs->q_start[s + 1] - seqs->q_start[s]) * (seqs->kv_len[s] + (seqs->prefix_len ? seqs->prefix_len[s] : 0));
    return work * heads * d;
}

int cpu_cache_attn(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor lse, struct pw_tensor q, const struct pw_cache *cache, const struct pw_seqs *seqs, const struct pw_attn *attn)
{
    const int64_t heads = q.shape[1], tasks = seqs->n * heads;
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (score_work(seqs, heads, q.shape[2]) > CPU_SMALL_WORK / 4)
    for (int64_t i = 0; i < tasks; i++) {
        if (on_products16(dev)) cpu_attn16_forward(dev, out, lse, q, cache, seqs, attn, (int)(i / heads), i % heads);
        else forward_head(dev, out, lse, q, cache, seqs, attn, (int)(i / heads), i % heads);
    }
    return 0;
}
int cpu_attn_fwd(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor lse, struct pw_tensor q, struct pw_tensor k, struct pw_tensor v, const struct pw_seqs *seqs, const struct pw_attn *attn)
{
    return cpu_cache_attn(dev, out, lse, q, &(struct pw_cache){ k, v, pw_none(), pw_none() }, seqs, attn);
}

int cpu_cache_put(struct pw_dev *dev, struct pw_tensor pool, struct pw_tensor scale, struct pw_tensor x, struct pw_tensor rows)
{
    const int64_t groups = x.shape[1], d = x.shape[2], n = x.shape[0] * groups;
#pragma omp parallel for num_threads(dev->threads) if (n * d > CPU_SMALL_ELEMENTS)
    for (int64_t i = 0; i < n; i++) {
        const int64_t head = ((const int32_t *)rows.data)[i / groups] * groups + i % groups;
        const float *from = (const float *)x.data + i * d;
        if (pool.dtype == PW_BF16) {
            for (int64_t e = 0; e < d; e++) ((uint16_t *)pool.data)[head * d + e] = pw_f32_to_bf16(from[e]);
            continue;
        }
        float largest = 0, bad = 0;
        for (int64_t e = 0; e < d; e++) {
            const float a = fabsf(from[e]);
            largest = a > largest ? a : largest;
            bad += a * 0; /* NaN once a number is not finite */
        }
        const float s = pw_cache_scale(largest + bad);
        ((float *)scale.data)[head] = s;
        for (int64_t e = 0; e < d; e++) ((int8_t *)pool.data)[head * d + e] = pw_cache_code(from[e], s);
    }
    return 0;
}

/* grad[keys k0..k0+n) of head g += tile^T rows; tile (n_q, KB), rows (n_q, d) of ld */
static void add_rows(const struct cpu_isa *isa, struct pw_tensor grad, const struct cpu_span *a, struct block b, int64_t g, const float *tile, const float *rows, int64_t ld)
{
    int64_t d = grad.shape[2], stride = grad.shape[1] * d;
    for (int64_t j = 0; j < b.n_k;) { /* the prefix's rows and the sequence's own are two ranges */
        int64_t key = b.k0 + j, n = key < a->prefix_n ? cpu_min(b.n_k - j, a->prefix_n - key) : b.n_k - j;
        isa->outer(n, d, b.n_q, tile + j, 1, KB, rows, ld, (float *)grad.data + cpu_row_of(a, key) * stride + g * d, stride);
        j += n;
    }
}

static void backward_block(const struct cpu_isa *isa, const struct cpu_attn_grads *t, struct work *w, const struct cpu_span *a, const struct pw_attn *attn, int64_t row, int64_t h, int64_t g, struct block b)
{
    int64_t heads = t->q.shape[1], d = t->q.shape[2], ld = heads * d;
    const float *q = (const float *)t->q.data + row * ld + h * d, *up = (const float *)t->dout.data + row * ld + h * d;
    const float *mean = w->mean + b.q0;
    float scale = (float)attn->scale, cap = (float)attn->softcap;
    memset(w->s, 0, QB * KB * sizeof(float));
    memset(w->ds, 0, QB * KB * sizeof(float));
    isa->outer(b.n_q, b.n_k, d, q, ld, 1, w->k_turned, KB, w->s, KB);
    isa->outer(b.n_q, b.n_k, d, up, ld, 1, w->v_turned, KB, w->ds, KB);
    for (int64_t i = 0; i < b.n_q; i++) {
        float *s = w->s + i * KB, *ds = w->ds + i * KB, slope[KB];
        (void)cpu_mask_row(isa, attn, s, i, b.k0 - a->back - b.q0, b.n_k);
        if (cap > 0)
            for (int64_t j = 0; j < b.n_k; j++) slope[j] = s[j] == -INFINITY ? 0 : 1 - (s[j] / cap) * (s[j] / cap);
        (void)isa->exp_sub(KB, s, ((const float *)t->lse.data)[(row + i) * heads + h]);
        for (int64_t j = 0; j < b.n_k; j++) ds[j] = s[j] * (ds[j] - mean[i]) * scale;
        if (cap > 0)
            for (int64_t j = 0; j < b.n_k; j++) ds[j] *= slope[j];
    }
    add_rows(isa, t->dv, a, b, g, w->s, up, ld);
    add_rows(isa, t->dk, a, b, g, w->ds, q, ld);
    isa->outer(b.n_q, d, b.n_k, w->ds, KB, 1, w->k, d, (float *)t->dq.data + row * ld + h * d, ld);
}

static void backward_group(const struct pw_dev *dev, const struct cpu_attn_grads *t, const struct pw_seqs *seqs, const struct pw_attn *attn, int seq, int64_t g)
{
    int64_t heads = t->q.shape[1], share = heads / t->k.shape[1], d = t->q.shape[2];
    int64_t row0 = seqs->q_start[seq], queries = seqs->q_start[seq + 1] - row0;
    struct cpu_span a = cpu_span_of(seqs, seq);
    struct work w = work_of(dev, t->q.shape[0], d, true);
    for (int64_t h = g * share; h < (g + 1) * share; h++) {
        for (int64_t i = 0; i < queries; i++) {
            const float *up = (const float *)t->dout.data + ((row0 + i) * heads + h) * d, *o = (const float *)t->out.data + ((row0 + i) * heads + h) * d;
            double mean = 0;
            for (int64_t e = 0; e < d; e++) mean += (double)up[e] * (double)o[e];
            w.mean[i] = (float)mean;
        }
        for (int64_t k0 = 0; k0 < a.n; k0 += KB) {
            const int64_t n = cpu_min(KB, a.n - k0);
            bool packed = false;
            for (int64_t q0 = 0; q0 < queries; q0 += QB) {
                int64_t n_q = cpu_min(QB, queries - q0), first, end;
                cpu_key_range(&a, attn, q0, n_q, &first, &end);
                if (k0 < first || k0 >= end) continue;
                if (!packed) {
                    cpu_pack_keys(w.k, t->k, pw_none(), &a, k0, n, g);
                    cpu_pack_keys(w.v, t->v, pw_none(), &a, k0, n, g);
                    turn(w.k_turned, w.k, n, d);
                    turn(w.v_turned, w.v, n, d);
                    packed = true;
                }
                backward_block(cpu_isa_of(dev), t, &w, &a, attn, row0 + q0, h, g, (struct block){ q0, n_q, k0, cpu_min(KB, end - k0) });
            }
        }
    }
}

int cpu_attn_bwd(struct pw_dev *dev, struct pw_tensor dq, struct pw_tensor dk, struct pw_tensor dv, struct pw_tensor dout, struct pw_tensor out, struct pw_tensor lse,
                 struct pw_tensor q, struct pw_tensor k, struct pw_tensor v, const struct pw_seqs *seqs, const struct pw_attn *attn)
{
    struct cpu_attn_grads t = { dq, dk, dv, dout, out, lse, q, k, v };
    const int64_t groups = k.shape[1];
    int together = seqs->prefix_len ? seqs->n : 1; /* sequences a task does one after another */
    int64_t tasks = together > 1 ? groups : seqs->n * groups;
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic, 1) if (score_work(seqs, q.shape[1], q.shape[2]) > CPU_SMALL_WORK / 8)
    for (int64_t i = 0; i < tasks; i++) {
        const int first = together > 1 ? 0 : (int)(i / groups);
        for (int n = first; n < first + together; n++) {
            if (on_products16(dev)) cpu_attn16_backward(dev, &t, seqs, attn, n, i % groups);
            else backward_group(dev, &t, seqs, attn, n, i % groups);
        }
    }
    return 0;
}
