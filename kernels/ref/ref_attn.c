/* Reference: attention forward and backward, one query and one key at a time. */
#include "kernels/ref/ref.h"

#include <math.h>
#include "kernels/cache8.h"

struct view {               /* what one query sees, as logical keys 0 .. n-1 */
    int64_t prefix_at, prefix_n, own_at, first, n;
    const int32_t *pages;
    int64_t page;
};

static struct view see(const struct pw_seqs *s, const struct pw_attn *a, int seq, int64_t j)
{
    int64_t n_q = s->q_start[seq + 1] - s->q_start[seq];
    struct view v = { 0, 0, s->kv_start[seq], 0, 0, s->pages, s->page };
    if (s->prefix_len) { v.prefix_at = s->prefix_start[seq]; v.prefix_n = s->prefix_len[seq]; }
    v.n = v.prefix_n + s->kv_len[seq] - n_q + j + 1;
    if (a->window > 0 && v.n > a->window) v.first = v.n - a->window; /* distance to itself is 0 */
    return v;
}
static int64_t row_of(const struct view *v, int64_t key)
{
    const bool shared = key < v->prefix_n;
    const int64_t start = shared ? v->prefix_at : v->own_at, j = shared ? key : key - v->prefix_n;
    return v->pages ? v->pages[start + j / v->page] * v->page + j % v->page : start + j;
}

/* what a number of the vector at `base` is multiplied by: its scale, or 1 */
static double scale_of(struct pw_tensor scale, int64_t base, int64_t d) { return scale.data ? ref_get(scale, base / d) : 1; }

static double score(struct pw_tensor q, struct pw_tensor k, struct pw_tensor k_scale, int64_t q_base, int64_t k_base, const struct pw_attn *a)
{
    double s = 0;
    for (int64_t i = 0; i < q.shape[2]; i++) s += ref_get(q, q_base + i) * ref_get(k, k_base + i);
    s *= scale_of(k_scale, k_base, q.shape[2]) * a->scale;
    return a->softcap > 0 ? a->softcap * tanh(s / a->softcap) : s;
}

int ref_cache_attn(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor lse, struct pw_tensor q, const struct pw_cache *cache, const struct pw_seqs *seqs, const struct pw_attn *attn)
{
    (void)dev;
    const struct pw_tensor k = cache->k, v = cache->v;
    int64_t heads = q.shape[1], groups = k.shape[1], d = q.shape[2];
    for (int s = 0; s < seqs->n; s++)
        for (int64_t t = seqs->q_start[s]; t < seqs->q_start[s + 1]; t++)
            for (int64_t h = 0; h < heads; h++) {
                struct view see_t = see(seqs, attn, s, t - seqs->q_start[s]);
                int64_t g = h / (heads / groups), q_base = (t * heads + h) * d;
                double top = -INFINITY, sum = 0;
                for (int64_t j = see_t.first; j < see_t.n; j++) {
                    double z = score(q, k, cache->k_scale, q_base, (row_of(&see_t, j) * groups + g) * d, attn);
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
                        double p = exp(score(q, k, cache->k_scale, q_base, base, attn) - total) * scale_of(cache->v_scale, base, d);
                        for (int64_t i = 0; i < n; i++) o[i] += p * ref_get(v, base + first + i);
                    }
                    for (int64_t i = 0; i < n; i++) ref_put(out, q_base + first + i, o[i]);
                }
            }
    return 0;
}

int ref_attn_fwd(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor lse, struct pw_tensor q, struct pw_tensor k, struct pw_tensor v, const struct pw_seqs *seqs, const struct pw_attn *attn)
{
    return ref_cache_attn(dev, out, lse, q, &(struct pw_cache){ k, v, pw_none(), pw_none() }, seqs, attn);
}

int ref_cache_put(struct pw_dev *dev, struct pw_tensor pool, struct pw_tensor scale, struct pw_tensor x, struct pw_tensor rows)
{
    (void)dev;
    const int64_t groups = x.shape[1], d = x.shape[2];
    for (int64_t t = 0; t < x.shape[0]; t++)
        for (int64_t g = 0; g < groups; g++) {
            const int64_t from = (t * groups + g) * d, head = ((const int32_t *)rows.data)[t] * groups + g;
            float largest = 0, s;
            for (int64_t i = 0; i < d; i++) {
                const float a = fabsf((float)ref_get(x, from + i));
                if (!(a <= largest)) largest = a; /* grows, or is NaN, which stays */
                if (isnan(largest)) break;
            }
            s = pw_cache_scale(largest);
            ref_put(scale, head, (double)s);
            for (int64_t i = 0; i < d; i++) {
                if (pool.dtype == PW_I8) ((int8_t *)pool.data)[head * d + i] = pw_cache_code((float)ref_get(x, from + i), s);
                else ref_put(pool, head * d + i, ref_get(x, from + i));
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
                    double z = score(q, k, pw_none(), q_base, base, attn), p = exp(z - total), dp = 0;
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
