/* Where the keys of a sequence lie and which of them its queries see: what both ways of attention on the cpu begin with (cpu_attn.c on f32,
 * cpu_attn16.c on bf16 multipliers). Knows no products.
 *
 * Blocks of keys begin at multiples of CPU_KEYS of the sequence's own numbering, prefix included, so a query meets the same blocks whether it is
 * alone or not, and whether its prefix is shared or not. */
#ifndef PW_KERNELS_CPU_ATTN_H
#define PW_KERNELS_CPU_ATTN_H

#include <math.h>
#include <string.h>
#include "kernels/tensor.h"
#include "kernels/cpu/cpu.h"

enum { CPU_KEYS = 64 };

/* keys of a sequence: n in all; query j sees the first back + j + 1 */
struct cpu_span { int64_t prefix_at, prefix_n, own_at, n, back; const int32_t *pages; int64_t page; };

static inline struct cpu_span cpu_span_of(const struct pw_seqs *s, int seq)
{
    struct cpu_span a = { 0, 0, s->kv_start[seq], 0, 0, s->pages, s->page };
    if (s->prefix_len) { a.prefix_at = s->prefix_start[seq]; a.prefix_n = s->prefix_len[seq]; }
    a.n = a.prefix_n + s->kv_len[seq];
    a.back = a.n - (s->q_start[seq + 1] - s->q_start[seq]);
    return a;
}
static inline int64_t cpu_row_of(const struct cpu_span *a, int64_t key)
{
    const bool shared = key < a->prefix_n;
    const int64_t start = shared ? a->prefix_at : a->own_at, j = shared ? key : key - a->prefix_n;
    return a->pages ? a->pages[start + j / a->page] * a->page + j % a->page : start + j;
}

/* the first and the end of the keys that some of n_q queries sees; the first at a multiple of CPU_KEYS */
static inline void cpu_key_range(const struct cpu_span *a, const struct pw_attn *attn, int64_t q0, int64_t n_q, int64_t *first, int64_t *end)
{
    int64_t seen = a->back + q0 + 1;
    *first = attn->window > 0 && seen > attn->window ? (seen - attn->window) / CPU_KEYS * CPU_KEYS : 0;
    *end = a->back + q0 + n_q;
}

/* A row of CPU_KEYS scores of query i, from products: scaled, capped, -infinity where it sees no key; the largest. key0: the first key's number less that
 * of the last key which query 0 sees; n_k keys are there. */
static inline float cpu_mask_row(const struct cpu_isa *isa, const struct pw_attn *attn, float *row, int64_t i, int64_t key0, int64_t n_k)
{
    const int64_t last = i - key0 + 1, low = attn->window > 0 ? last - attn->window : 0; /* keys low.. last of the block */
    const float scale = (float)attn->scale, cap = (float)attn->softcap;
    for (int64_t j = 0; cap > 0 && j < n_k; j++) row[j] = cap * tanhf(row[j] * scale / cap);
    return isa->mask_max(low > 0 ? cpu_min(low, CPU_KEYS) : 0, last > 0 ? cpu_min(last, n_k) : 0, CPU_KEYS, row, cap > 0 ? 1 : scale);
}

/* keys first.. n of them of head g, one after another, in f32; numbers of 8 bits without their scales where `scale` has no data */
static inline void cpu_pack_keys(float *to, struct pw_tensor from, struct pw_tensor scale, const struct cpu_span *a, int64_t first, int64_t n, int64_t g)
{
    int64_t d = from.shape[2], groups = from.shape[1];
    for (int64_t j = 0; j < n; j++) {
        const int64_t head = cpu_row_of(a, first + j) * groups + g;
        float *row = to + j * d;
        if (from.dtype == PW_F32) memcpy(row, (const float *)from.data + head * d, (size_t)d * sizeof(float));
        else if (from.dtype == PW_BF16)
            for (int64_t i = 0; i < d; i++) row[i] = pw_bf16_to_f32(((const uint16_t *)from.data)[head * d + i]);
        else {
            const int8_t *code = (const int8_t *)from.data + head * d;
            const float s = scale.data ? ((const float *)scale.data)[head] : 1;
            for (int64_t i = 0; i < d; i++) row[i] = (float)code[i] * s;
        }
    }
}

/* Attention where the level multiplies on bf16 multipliers: cpu_attn16.c. A head of a sequence; a key/value head of a sequence. */
size_t cpu_attn16_thread_bytes(const struct pw_dev *dev, int64_t d, bool backward);
void cpu_attn16_forward(const struct pw_dev *dev, struct pw_tensor out, struct pw_tensor lse, struct pw_tensor q, const struct pw_cache *c, const struct pw_seqs *seqs,
                        const struct pw_attn *attn, int seq, int64_t h);
struct cpu_attn_grads { struct pw_tensor dq, dk, dv, dout, out, lse, q, k, v; };
void cpu_attn16_backward(const struct pw_dev *dev, const struct cpu_attn_grads *t, const struct pw_seqs *seqs, const struct pw_attn *attn, int seq, int64_t g);
#endif
