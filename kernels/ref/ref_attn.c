/* Reference: attention forward and backward, one query and one key at a time. */
#include "kernels/ref/ref.h"

#include <math.h>

struct view {               /* what one query sees, as logical keys 0 .. n-1 */
    int64_t prefix_at, prefix_n, own_at, first, n;
};

static struct view see(const struct pw_seqs *s, const struct pw_attn *a, int seq, int64_t j)
{
    int64_t n_q = s->q_start[seq + 1] - s->q_start[seq];
    struct view v = { 0, 0, s->kv_start[seq], 0, 0 };
    if (s->prefix_len) { v.prefix_at = s->prefix_start[seq]; v.prefix_n = s->prefix_len[seq]; }
    v.n = v.prefix_n + s->kv_len[seq] - n_q + j + 1;
    if (a->window > 0 && v.n > a->window) v.first = v.n - a->window; /* distance to itself is 0 */
    return v;
}
static int64_t row_of(const struct view *v, int64_t key) { return key < v->prefix_n ? v->prefix_at + key : v->own_at + key - v->prefix_n; }

static double score(struct pw_tensor q, struct pw_tensor k, int64_t q_base, int64_t k_base, const struct pw_attn *a)
{
    double s = 0;
    for (int64_t i = 0; i < q.shape[2]; i++) s += ref_get(q, q_base + i) * ref_get(k, k_base + i);
    s *= a->scale;
    return a->softcap > 0 ? a->softcap * tanh(s / a->softcap) : s;
}

int ref_attn_fwd(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor lse, struct pw_tensor q, struct pw_tensor k, struct pw_tensor v, const struct pw_seqs *seqs, const struct pw_attn *attn)
{
    (void)dev;
    int64_t heads = q.shape[1], groups = k.shape[1], d = q.shape[2];
    for (int s = 0; s < seqs->n; s++)
        for (int64_t t = seqs->q_start[s]; t < seqs->q_start[s + 1]; t++)
            for (int64_t h = 0; h < heads; h++) {
                struct view see_t = see(seqs, attn, s, t - seqs->q_start[s]);
                int64_t g = h / (heads / groups), q_base = (t * heads + h) * d;
                double top = -INFINITY, sum = 0;
                for (int64_t j = see_t.first; j < see_t.n; j++) {
                    double z = score(q, k, q_base, (row_of(&see_t, j) * groups + g) * d, attn);
                    if (z > top) { sum = sum * exp(top - z) + 1; top = z; }
                    else sum += exp(z - top);
                }
                double total = top + log(sum);
                ref_put(lse, t * heads + h, total);
                for (int64_t first = 0; first < d; first += 32) { /* 32 outputs at a time, summed in double whatever the tensor's type */
                    double o[32] = { 0 };
                    int64_t n = d - first < 32 ? d - first : 32;
                    for (int64_t j = see_t.first; j < see_t.n; j++) {
                        int64_t base = (row_of(&see_t, j) * groups + g) * d;
                        double p = exp(score(q, k, q_base, base, attn) - total);
                        for (int64_t i = 0; i < n; i++) o[i] += p * ref_get(v, base + first + i);
                    }
                    for (int64_t i = 0; i < n; i++) ref_put(out, q_base + first + i, o[i]);
                }
            }
    return 0;
}

int ref_attn_bwd(struct pw_dev *dev, struct pw_tensor dq, struct pw_tensor dk, struct pw_tensor dv, struct pw_tensor dout, struct pw_tensor out, struct pw_tensor lse,
                 struct pw_tensor q, struct pw_tensor k, struct pw_tensor v, const struct pw_seqs *seqs, const struct pw_attn *attn)
{
    (void)dev;
    int64_t heads = q.shape[1], groups = k.shape[1], d = q.shape[2];
    for (int s = 0; s < seqs->n; s++)
        for (int64_t t = seqs->q_start[s]; t < seqs->q_start[s + 1]; t++)
            for (int64_t h = 0; h < heads; h++) {
                struct view see_t = see(seqs, attn, s, t - seqs->q_start[s]);
                int64_t g = h / (heads / groups), q_base = (t * heads + h) * d;
                double total = ref_get(lse, t * heads + h), mean = 0; /* mean = sum over keys of p * dp */
                for (int64_t i = 0; i < d; i++) mean += ref_get(dout, q_base + i) * ref_get(out, q_base + i);
                for (int64_t j = see_t.first; j < see_t.n; j++) {
                    int64_t base = (row_of(&see_t, j) * groups + g) * d;
                    double z = score(q, k, q_base, base, attn), p = exp(z - total), dp = 0;
                    for (int64_t i = 0; i < d; i++) dp += ref_get(dout, q_base + i) * ref_get(v, base + i);
                    double ds = p * (dp - mean) * attn->scale;
                    if (attn->softcap > 0) ds *= 1 - (z / attn->softcap) * (z / attn->softcap);
                    for (int64_t i = 0; i < d; i++) {
                        ref_add(dv, base + i, p * ref_get(dout, q_base + i));
                        ref_add(dq, q_base + i, ds * ref_get(k, base + i));
                        ref_add(dk, base + i, ds * ref_get(q, q_base + i));
                    }
                }
            }
    return 0;
}
