/* Cases of attention: arrays, calls and bounds (rules: op_parts.h). */
#include "tests/op_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- attention; p: longest sequence, sequences, H, G, d, cached keys of the first (0: 3 with CASE_CACHE; 5 more each); x: window, softcap, scale factor. Scores err by e = sum_bound(d) / sqrt(d), the
 * weights of a query relatively by 2e + 8u, so an output (a mean of |v| <= 1) by that plus its own sum over n weights that add up to 1. In
 * backward |dp|, |mean| <= d, dS <= 2 d scale, and up to n * H/G such terms are added ---- */
enum { A_Q, A_K, A_V, A_OUT, A_LSE, A_DOUT, A_DQ, A_DK, A_DV };
static void attn_setup(struct problem *p)
{
    const struct op_case *c = p->c;
    int n = (int)c->p[1];
    int32_t *q_start = hold(p, (size_t)(n + 1) * 4), *kv_start = hold(p, (size_t)n * 4), *kv_len = hold(p, (size_t)n * 4);
    int32_t *prefix_start = hold(p, (size_t)n * 4), *prefix_len = hold(p, (size_t)n * 4);
    int32_t rows = 0, keys = c->flags & CASE_PREFIX ? 70 : 0;
    for (int i = 0; i < n; i++) {
        int32_t len = (int32_t)(c->p[0] - i * (c->p[0] / (n + 1))), before = c->flags & CASE_CACHE ? (int32_t)(c->p[5] ? c->p[5] : 3) + 5 * i : 0;
        q_start[i] = rows;
        kv_start[i] = keys;
        kv_len[i] = len + before;
        prefix_len[i] = 70 - 2 * i; /* shared: ends within a block of keys, another one for each sequence */
        rows += len;
        keys += len + before;
    }
    q_start[n] = rows;
    p->seqs = (struct pw_seqs){ n, q_start, kv_start, kv_len, c->flags & CASE_PREFIX ? prefix_start : NULL, c->flags & CASE_PREFIX ? prefix_len : NULL };
    p->attn = (struct pw_attn){ c->x[2] / sqrt((double)c->p[4]), (int64_t)c->x[0], c->x[1] };
    act3(p, "q", IN, rows, c->p[2], c->p[4]);
    act3(p, "k", IN, keys, c->p[3], c->p[4]);
    act3(p, "v", IN, keys, c->p[3], c->p[4]);
    p->output = act3(p, "out", OUT, rows, c->p[2], c->p[4]);
    add2(p, "lse", OUT, rows, c->p[2]);
    p->upstream = act3(p, "dout", IN, rows, c->p[2], c->p[4]);
    p->a[A_Q].gradient = act3(p, "dq", ADD, rows, c->p[2], c->p[4]);
    p->a[A_K].gradient = act3(p, "dk", ADD, keys, c->p[3], c->p[4]);
    p->a[A_V].gradient = act3(p, "dv", ADD, keys, c->p[3], c->p[4]);
}
static int attn_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    int rc = pw_dev_reserve(dev, pw_scratch_attn(dev, t[A_Q].shape[0], t[A_K].shape[0], (int)p->c->p[2], (int)p->c->p[3], (int)p->c->p[4], true));
    return rc ? rc : pw_attn_fwd(dev, t[A_OUT], t[A_LSE], t[A_Q], t[A_K], t[A_V], &p->seqs, &p->attn);
}
static int attn_backward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    return pw_attn_bwd(dev, t[A_DQ], t[A_DK], t[A_DV], t[A_DOUT], t[A_OUT], t[A_LSE], t[A_Q], t[A_K], t[A_V], &p->seqs, &p->attn);
}
static double attn_bound(const struct op_case *c)
{
    double d = (double)c->p[4], n = (double)(c->p[0] + c->p[5] + 5 * c->p[1]) + 70, share = (double)(c->p[2] / c->p[3]), scale = c->x[2] / sqrt(d);
    double weight = 2 * (sum_bound(d) * scale + u * (4 + log(n) + 2 * scale * sqrt(d))) + 8 * u; /* relative, of one weight */
    double forward = weight + depth(n) * u;
    double backward = share * (weight + depth(n * share) * u) * 2 * sqrt(d) * (1 + scale * sqrt(d));
    return c->flags & CASE_GRAD ? forward + backward + u * 8 : forward + backward;
}

/* With bf16 activations. Products of q and k are exact and add up in f32 through tensor cores: pieces of 16, whose sums may be truncated, so
 * 2u a piece and 16 more for the rest, of the sum of |q k|. From that e, the error of one score; lse errs by the largest e and its own sum.
 * Roundings to bf16 on the way: P before P V and P^T dO (u16 of each weight, so u16 of sum p |v| and sum p |dout|), dS before dS K and dS^T Q, and
 * out, from which backward takes delta. Each is carried to every element through the sums it takes part in; squares of u16 by the factor at the end. */
static double chain(double n) { return 2 * u * (n / 16 + 16); }
static void attn_allow16(const struct problem *p, const struct pw_tensor *t, double *const *allow)
{
    const struct pw_seqs *s = &p->seqs;
    const double *q = t[A_Q].data, *k = t[A_K].data, *v = t[A_V].data, *out = t[A_OUT].data, *lse = t[A_LSE].data, *up = t[A_DOUT].data, cap = p->attn.softcap, scale = p->attn.scale;
    const int64_t heads = p->c->p[2], groups = p->c->p[3], share = heads / groups, d = p->c->p[4];
    for (int i = 0; i < s->n; i++) {
        const int64_t prefix = s->prefix_len ? s->prefix_len[i] : 0, n = prefix + s->kv_len[i], n_q = s->q_start[i + 1] - s->q_start[i];
        for (int64_t j = 0; j < n_q; j++)
            for (int64_t h = 0; h < heads; h++) {
                const int64_t seen = n - n_q + j + 1, low = p->attn.window > 0 && seen > p->attn.window ? seen - p->attn.window : 0, at = (s->q_start[i] + j) * heads + h;
                const double *const q_row = q + at * d, *const up_row = up + at * d, terms = chain((double)(n * share * s->n));
                double most = 0, delta = 0, delta_error = 0;
                double *const z = malloc((size_t)n * 2 * sizeof *z), *const e = z + n;
                if (!z) abort();
                for (int pass = 0; pass < 3; pass++)
                    for (int64_t key = low; key < seen; key++) {
                        const int64_t row = ((key < prefix ? s->prefix_start[i] + key : s->kv_start[i] + key - prefix) * groups + h / share) * d;
                        if (pass == 0) {
                            double dot = 0, size = 0;
                            for (int64_t x = 0; x < d; x++) dot += q_row[x] * k[row + x], size += fabs(q_row[x] * k[row + x]);
                            z[key] = cap > 0 ? cap * tanh(dot * scale / cap) : dot * scale;
                            e[key] = chain((double)d) * size * scale + 8 * u * (fabs(z[key]) + cap + fabs(dot * scale));
                            most = fmax(most, e[key]);
                            if (key == seen - 1) allow[A_LSE][at] = most + u * ((double)n / 4 + 32) + 4 * u * fabs(lse[at]);
                            continue;
                        }
                        const double weight = exp(z[key] - lse[at]), weight_error = e[key] + allow[A_LSE][at] + 8 * u, tanh_z = cap > 0 ? z[key] / cap : 0;
                        if (pass == 1) {
                            for (int64_t x = 0; x < d; x++) allow[A_OUT][at * d + x] += (u16 + weight_error + terms) * weight * fabs(v[row + x]);
                            continue;
                        }
                        if (key == low)
                            for (int64_t x = 0; x < d; x++) {
                                const double o = out[at * d + x];
                                delta += up_row[x] * o;
                                delta_error += fabs(up_row[x]) * (allow[A_OUT][at * d + x] + (u16 + chain((double)d)) * fabs(o));
                            }
                        double dp = 0, dp_size = 0;
                        for (int64_t x = 0; x < d; x++) dp += up_row[x] * v[row + x], dp_size += fabs(up_row[x] * v[row + x]);
                        const double slope = 1 - tanh_z * tanh_z, ds = weight * (dp - delta) * slope, slope_error = cap > 0 ? 2 * e[key] / cap + 10 * u : 0;
                        const double ds_error = (u16 + weight_error + 8 * u + terms) * fabs(ds) + weight * slope * (delta_error + chain((double)d) * dp_size) + weight * fabs(dp - delta) * slope_error;
                        for (int64_t x = 0; x < d; x++) {
                            allow[A_DV][row + x] += (u16 + weight_error + terms) * weight * fabs(up_row[x]);
                            allow[A_DQ][at * d + x] += ds_error * scale * fabs(k[row + x]);
                            allow[A_DK][row + x] += ds_error * scale * fabs(q_row[x]);
                        }
                    }
                free(z);
            }
    }
    for (int a = A_OUT; a <= A_DV; a++)
        for (int64_t j = 0; j < pw_count(t[a]); j++) allow[a][j] = allow[a][j] * (1 + 4 * u16) + 2 * u * fabs(((const double *)t[a].data)[j]);
}
static const struct family attention = { "attn", attn_setup, attn_forward, attn_backward, attn_bound, .allow16 = attn_allow16 };

/* ---- cache; p, x as attention. Keys and values go to rows of pools by cache_put, one pool row each in another order, and attention reads them there. What is
 * rounded to codes is compared exactly; attention's bounds hold for the rounded numbers, of which ref takes the product with the scale exactly and
 * others with one rounding more (u of each key and value, or of each score and weight). ---- */
enum { C_Q, C_KX, C_VX, C_K, C_KS, C_V, C_VS, C_OUT, C_LSE, C_ARRAYS };
static void cache_setup(struct problem *p)
{
    const struct op_case *c = p->c;
    struct problem plain = *p; /* its lists and sizes */
    attn_setup(&plain);
    const int64_t rows = plain.a[A_Q].shape[0], keys = plain.a[A_K].shape[0], heads = c->p[2], groups = c->p[3], d = c->p[4];
    memcpy(p->memory, plain.memory, sizeof p->memory);
    p->n_memory = plain.n_memory;
    p->seqs = plain.seqs;
    p->attn = plain.attn;
    const bool codes = c->type == PW_I8;
    act3(p, "q", IN, rows, heads, d);
    act3(p, "keys", IN, keys, groups, d);
    act3(p, "values", IN, keys, groups, d);
    add(p, "k", OUT, codes ? PW_I8 : PW_BF16, 3, keys, groups, d);
    add2(p, "k_scale", OUT, codes ? keys : 0, groups);
    add(p, "v", OUT, codes ? PW_I8 : PW_BF16, 3, keys, groups, d);
    add2(p, "v_scale", OUT, codes ? keys : 0, groups);
    act3(p, "out", OUT, rows, heads, d);
    add2(p, "lse", OUT, rows, heads);
    int32_t *row = hold(p, (size_t)keys * 4);
    for (int64_t i = 0; i < keys; i++) row[i] = (int32_t)(keys - 1 - i);
    p->ids = pw_tensor1(row, PW_I32, keys);
}
static int cache_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    const bool codes = p->c->type == PW_I8;
    const struct pw_cache cache = { t[C_K], t[C_V], codes ? t[C_KS] : pw_none(), codes ? t[C_VS] : pw_none() };
    int rc = pw_dev_reserve(dev, pw_scratch_attn(dev, t[C_Q].shape[0], t[C_K].shape[0], (int)p->c->p[2], (int)p->c->p[3], (int)p->c->p[4], false));
    rc = rc ? rc : pw_cache_put(dev, cache.k, cache.k_scale, t[C_KX], p->ids);
    rc = rc ? rc : pw_cache_put(dev, cache.v, cache.v_scale, t[C_VX], p->ids);
    return rc ? rc : pw_cache_attn(dev, t[C_OUT], t[C_LSE], t[C_Q], &cache, &p->seqs, &p->attn);
}
static double cache_bound(const struct op_case *c)
{
    struct op_case plain = *c;
    plain.flags &= ~(unsigned)CASE_GRAD;
    return attn_bound(&plain) + u * (2 + 2 * c->x[2] * sqrt((double)c->p[4]));
}
static double *rounded(const struct pw_tensor code, const struct pw_tensor scale)
{
    const int64_t n = pw_count(code), d = code.shape[2];
    double *x = malloc((size_t)n * sizeof *x);
    if (!x) abort();
    for (int64_t i = 0; i < n; i++)
        x[i] = code.dtype == PW_I8 ? ((const int8_t *)code.data)[i] * ((const double *)scale.data)[i / d] : (double)pw_bf16_to_f32(((const uint16_t *)code.data)[i]);
    return x;
}
static void cache_allow16(const struct problem *p, const struct pw_tensor *t, double *const *allow)
{
    struct pw_tensor plain[A_DV + 1];
    double *more[A_DV + 1], *k = rounded(t[C_K], t[C_KS]), *v = rounded(t[C_V], t[C_VS]);
    const int64_t rows = t[C_Q].shape[0], keys = t[C_K].shape[0], h = t[C_Q].shape[1], g = t[C_K].shape[1], d = t[C_Q].shape[2];
    for (int i = 0; i <= A_DV; i++) {
        const bool pool = i == A_K || i == A_V || i == A_DK || i == A_DV;
        more[i] = calloc((size_t)((pool ? keys * g : rows * h) * d) + 1, sizeof(double));
        if (!more[i]) abort();
        plain[i] = pw_tensor3(more[i], PW_F64, pool ? keys : rows, pool ? g : h, d); /* dout and gradients: zeros */
    }
    plain[A_Q] = t[C_Q], plain[A_OUT] = t[C_OUT], plain[A_LSE] = t[C_LSE];
    plain[A_K].data = k, plain[A_V].data = v;
    double *to[A_DV + 1];
    memcpy(to, more, sizeof to);
    to[A_OUT] = allow[C_OUT], to[A_LSE] = allow[C_LSE];
    attn_allow16(p, plain, to);
    for (int i = 0; i <= A_DV; i++) free(more[i]);
    free(k);
    free(v);
}
static const struct family cache = { "cache", cache_setup, cache_forward, NULL, cache_bound, .allow16 = cache_allow16 };
#define C8 PW_Q_DENSE, PW_I8

const struct op_case op_cases_attention[] = {
    /* caches in 8 bits and in bf16: odd heads, windows, caps, prefixes, few queries and many, tiles' borders */
    { &cache, { 5, 1, 2, 1, 3 }, C8, 0, { 0, 0, 1 } }, { &cache, { 65, 2, 4, 2, 64 }, C8, 0, { 0, 0, 4 } }, { &cache, { 33, 2, 2, 1, 256 }, C8, CASE_PREFIX, { 0, 0, 4 } },
    { &cache, { 66, 1, 2, 2, 33 }, C8, CASE_PREFIX, { 0, 2, 3 } }, { &cache, { 130, 1, 4, 2, 128 }, C8, 0, { 50, 0, 4 } }, { &cache, { 70, 2, 8, 1, 24 }, C8, CASE_PREFIX, { 3, 0, 2 } },
    { &cache, { 1, 3, 8, 1, 64, 700 }, C8, CASE_CACHE, { 0, 0, 4 } }, { &cache, { 1, 2, 4, 2, 128, 1000 }, C8, CASE_CACHE, { 300, 0, 4 } },
    { &cache, { 16, 2, 3, 1, 80, 126 }, C8, CASE_CACHE, { 0, 0, 4 } }, { &cache, { 10, 6, 4, 2, 17, 300 }, C8, CASE_CACHE | CASE_PREFIX, { 0, 4, 4 } },
    { &cache, { 1, 2, 2, 1, 256, 260 }, C8, CASE_CACHE, { 0, 0, 4 } }, { &cache, { 2, 2, 2, 1, 96, 400 }, C8, CASE_CACHE, { 5, 0, 3 } },
    { &cache, { 40, 2, 2, 1, 80 }, C8, CASE_CACHE, { 0, 0, 3 } }, { &cache, { 81, 1, 1, 1, 100 }, C8, 0, { 17, 3, 4 } },
    { &cache, { 40, 2, 2, 1, 80 }, BF, CASE_CACHE, { 0, 0, 3 } }, { &cache, { 1, 2, 4, 2, 33, 100 }, BF, CASE_CACHE | CASE_PREFIX, { 90, 2, 4 } },
    /* of each head dimension: window, cap, four heads a group and a prefix at once, few queries */
    { &cache, { 1, 2, 4, 1, 64, 133 }, C8, CASE_CACHE | CASE_PREFIX, { 90, 3, 3 } }, { &cache, { 4, 2, 4, 1, 80, 133 }, C8, CASE_CACHE | CASE_PREFIX, { 90, 3, 3 } },
    { &cache, { 1, 2, 4, 1, 96, 133 }, C8, CASE_CACHE | CASE_PREFIX, { 90, 3, 3 } }, { &cache, { 4, 2, 4, 1, 128, 133 }, C8, CASE_CACHE | CASE_PREFIX, { 90, 3, 3 } },
    { &cache, { 1, 2, 4, 1, 256, 133 }, C8, CASE_CACHE | CASE_PREFIX, { 90, 3, 3 } },
    /* T, sequences, H, G, d; window, softcap, scale */
    { &attention, { 5, 1, 2, 1, 3 }, F32, CASE_GRAD, { 0, 0, 1 } }, { &attention, { 6, 3, 4, 2, 4 }, F32, CASE_GRAD, { 3, 0, 1 } },
    { &attention, { 5, 2, 2, 2, 5 }, F32, CASE_GRAD, { 0, 1.5, 2 } }, { &attention, { 3, 2, 4, 2, 3 }, F32, CASE_GRAD | CASE_PREFIX, { 0, 0, 1 } },
    { &attention, { 3, 2, 2, 1, 3 }, F32, CASE_GRAD | CASE_PREFIX | CASE_CACHE, { 40, 0, 1 } },
    { &attention, { 4, 2, 2, 1, 3 }, F32, CASE_GRAD | CASE_CACHE, { 0, 0, 1 } }, { &attention, { 1, 1, 3, 1, 16 }, F32, CASE_CACHE, { 0, 0, 1 } },
    { &attention, { 130, 1, 4, 2, 64 }, F32, 0, { 0, 0, 1 } }, { &attention, { 97, 3, 6, 3, 17 }, F32, 0, { 0, 0, 1 } },
    { &attention, { 150, 2, 2, 2, 32 }, F32, 0, { 33, 0, 1 } }, { &attention, { 90, 3, 2, 1, 24 }, F32, CASE_PREFIX, { 0, 0, 1 } },
    { &attention, { 70, 3, 4, 2, 40 }, F32, CASE_PREFIX | CASE_CACHE, { 80, 5, 1 } },
    { &attention, { 40, 2, 2, 1, 80 }, F32, CASE_CACHE, { 0, 0, 3 } },
    /* head dimensions of every instance and between them, lengths one more than a tile of rows or keys, and one less */
    { &attention, { 65, 1, 1, 1, 64 }, F32, 0, { 0, 0, 4 } }, { &attention, { 129, 1, 2, 2, 96 }, F32, 0, { 0, 0, 2 } }, { &attention, { 65, 2, 2, 1, 128 }, F32, 0, { 0, 0, 3 } },
    { &attention, { 33, 3, 2, 1, 256 }, F32, 0, { 0, 0, 4 } }, { &attention, { 66, 1, 2, 2, 33 }, F32, 0, { 0, 2, 3 } }, { &attention, { 63, 1, 3, 1, 136 }, F32, 0, { 20, 0, 2 } },
    { &attention, { 81, 1, 1, 1, 100 }, F32, 0, { 17, 3, 4 } }, { &attention, { 50, 1, 1, 1, 1 }, F32, 0, { 0, 0, 4 } },
    /* eight query heads a group; windows smaller than a tile (3: every weight matters) and larger than the sequence */
    { &attention, { 40, 2, 8, 1, 64 }, F32, 0, { 0, 0, 3 } }, { &attention, { 200, 1, 2, 1, 16 }, F32, 0, { 3, 0, 2 } }, { &attention, { 70, 2, 8, 1, 24 }, F32, CASE_PREFIX, { 3, 0, 2 } },
    { &attention, { 70, 1, 2, 2, 72 }, F32, CASE_CACHE, { 1000, 0, 2 } }, { &attention, { 70, 2, 2, 1, 12 }, F32, CASE_CACHE, { 1, 0, 2 } },
    /* of each head dimension: window, cap and four heads a group at once */
    { &attention, { 67, 2, 4, 1, 64 }, F32, 0, { 20, 3, 3 } }, { &attention, { 67, 1, 4, 1, 80 }, F32, CASE_CACHE, { 20, 3, 3 } }, { &attention, { 67, 1, 4, 1, 96 }, F32, CASE_PREFIX, { 20, 3, 3 } },
    { &attention, { 67, 1, 4, 1, 128 }, F32, 0, { 20, 3, 3 } }, { &attention, { 67, 1, 4, 1, 256 }, F32, CASE_CACHE, { 20, 3, 3 } },
    /* more queries than a block of the cpu's, some of which see nothing of a block of keys */
    { &attention, { 300, 1, 2, 1, 16 }, F32, 0, { 0, 0, 3 } }, { &attention, { 330, 1, 1, 1, 24 }, F32, CASE_CACHE, { 90, 4, 3 } },
    /* many short sequences, more than a block has threads */
    { &attention, { 3, 300, 2, 1, 8 }, F32, 0, { 0, 0, 3 } }, { &attention, { 20, 19, 4, 2, 40 }, F32, 0, { 7, 0, 3 } },
    /* few queries over many keys: one split, several, splits that begin at a window, more query tokens than a wave keeps */
    { &attention, { 1, 3, 8, 1, 64, 700 }, F32, CASE_CACHE, { 0, 0, 4 } }, { &attention, { 1, 2, 4, 2, 128, 1000 }, F32, CASE_CACHE, { 300, 0, 4 } },
    { &attention, { 16, 2, 3, 1, 80, 126 }, F32, CASE_CACHE, { 0, 0, 4 } }, { &attention, { 10, 6, 4, 2, 17, 300 }, F32, CASE_CACHE | CASE_PREFIX, { 0, 4, 4 } },
    { &attention, { 17, 2, 2, 1, 64, 300 }, F32, CASE_CACHE, { 0, 0, 4 } }, { &attention, { 1, 2, 2, 1, 256, 260 }, F32, CASE_CACHE, { 0, 0, 4 } },
    { &attention, { 1, 1, 2, 1, 16, 5000 }, F32, CASE_CACHE, { 0, 0, 4 } }, { &attention, { 2, 2, 2, 1, 96, 400 }, F32, CASE_CACHE, { 5, 0, 3 } },
};
const int op_cases_attention_n = (int)(sizeof op_cases_attention / sizeof *op_cases_attention);
