/* Reference: element access, and the ops that are one loop over elements or rows. */
#include "kernels/ref/ref.h"

#include <math.h>
#include "base/error.h"
#include "base/rng.h"
#include "kernels/backend.h"

#define PW_OP(name, params, args) .name = ref_##name,
static const struct pw_ops ops = {
#include "kernels/ops.def"
};
#undef PW_OP

static int open_ref(struct pw_dev *d, const struct pw_dev_options *opt, int index)
{
    (void)index;
    PW_CHECK(!opt->level[0], PW_E_USAGE, "device ref has no instruction set levels, got \"%s\"", opt->level);
    d->host = true;
    return 0;
}
static void close_ref(struct pw_dev *d) { (void)d; }
static size_t none_linear(const struct pw_dev *d, int64_t tokens, const struct pw_weight *w, bool backward)
{
    (void)d, (void)tokens, (void)w, (void)backward;
    return 0;
}
static size_t none_experts(const struct pw_dev *d, int64_t rows, const struct pw_experts *experts, bool backward)
{
    (void)d, (void)rows, (void)experts, (void)backward;
    return 0;
}
static size_t none_attn(const struct pw_dev *d, int64_t tokens, int64_t keys, int heads, int kv_heads, int head_dim, bool backward)
{
    (void)d, (void)tokens, (void)keys, (void)heads, (void)kv_heads, (void)head_dim, (void)backward;
    return 0;
}

const struct pw_backend pw_ref_backend = {
    .kind = "ref", .ops = &ops, .open = open_ref, .close = close_ref, .take = pw_host_take, .give = pw_host_give, .put = pw_host_move, .get = pw_host_move,
    .sync = pw_host_sync, .memory = pw_host_memory, .held = pw_host_held, .take_pinned = pw_host_take, .give_pinned = pw_host_give, .send = pw_host_transfer, .bring = pw_host_transfer,
    .wait = pw_host_wait, .scratch_linear = none_linear, .scratch_head = none_linear, .scratch_experts = none_experts, .scratch_attn = none_attn, .scratch_sample = ref_scratch_sample,
};

double ref_get(struct pw_tensor t, int64_t i)
{
    switch (t.dtype) {
    case PW_F64: return ((const double *)t.data)[i];
    case PW_F16: return pw_f16_to_f32(((const uint16_t *)t.data)[i]);
    case PW_BF16: return pw_bf16_to_f32(((const uint16_t *)t.data)[i]);
    case PW_I8: return ((const int8_t *)t.data)[i];
    default: return ((const float *)t.data)[i];
    }
}

void ref_put(struct pw_tensor t, int64_t i, double value)
{
    if (!t.data) return;
    switch (t.dtype) {
    case PW_F64: ((double *)t.data)[i] = value; break;
    case PW_F16: ((uint16_t *)t.data)[i] = pw_f32_to_f16((float)value); break;
    case PW_BF16: ((uint16_t *)t.data)[i] = pw_f32_to_bf16((float)value); break;
    default: ((float *)t.data)[i] = (float)value; break;
    }
}

void ref_add(struct pw_tensor t, int64_t i, double value)
{
    if (t.data) ref_put(t, i, ref_get(t, i) + value);
}

double ref_keep(struct pw_drop drop, int64_t i)
{
    if (drop.p <= 0) return 1;
    const uint64_t at = drop.first + (uint64_t)i, n = at / 4;
    uint32_t counter[4] = { (uint32_t)n, (uint32_t)(n >> 32), (uint32_t)drop.offset, (uint32_t)(drop.offset >> 32) };
    uint32_t key[2] = { (uint32_t)drop.seed, (uint32_t)(drop.seed >> 32) }, words[4];
    pw_philox(counter, key, words);
    return words[at % 4] >= pw_dropout_threshold(drop.p) ? 1 / (1 - drop.p) : 0;
}

int ref_fill(struct pw_dev *dev, struct pw_tensor x, double value)
{
    (void)dev;
    for (int64_t i = 0, n = pw_count(x); i < n; i++) ref_put(x, i, value);
    return 0;
}

int ref_copy(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x)
{
    (void)dev;
    for (int64_t i = 0, n = pw_count(x); i < n; i++) ref_put(out, i, ref_get(x, i));
    return 0;
}

int ref_axpy(struct pw_dev *dev, struct pw_tensor y, struct pw_tensor x, double alpha)
{
    (void)dev;
    for (int64_t i = 0, n = pw_count(x); i < n; i++) ref_put(y, i, ref_get(y, i) + alpha * ref_get(x, i));
    return 0;
}

int ref_scale(struct pw_dev *dev, struct pw_tensor x, double alpha)
{
    (void)dev;
    for (int64_t i = 0, n = pw_count(x); i < n; i++) ref_put(x, i, alpha * ref_get(x, i));
    return 0;
}

int ref_embed_fwd(struct pw_dev *dev, struct pw_tensor out, const struct pw_weight *table, struct pw_tensor ids)
{
    (void)dev;
    int64_t tokens = out.shape[0], width = out.shape[1];
    const int32_t *id = ids.data;
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < width; i++) ref_put(out, t * width + i, ref_weight(table, id[t] * width + i));
    return 0;
}

int ref_embed_bwd(struct pw_dev *dev, struct pw_tensor dtable, struct pw_tensor dout, struct pw_tensor ids)
{
    (void)dev;
    int64_t tokens = dout.shape[0], width = dout.shape[1];
    const int32_t *id = ids.data;
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < width; i++) ref_add(dtable, id[t] * width + i, ref_get(dout, t * width + i));
    return 0;
}

int ref_rmsnorm_fwd(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor inv_rms, struct pw_tensor x, struct pw_tensor w, double eps, double w_offset)
{
    (void)dev;
    int64_t tokens = x.shape[0], width = x.shape[1];
    for (int64_t t = 0; t < tokens; t++) {
        double sum = 0;
        for (int64_t i = 0; i < width; i++) sum += ref_get(x, t * width + i) * ref_get(x, t * width + i);
        double inv = 1 / sqrt(sum / (double)width + eps);
        ref_put(inv_rms, t, inv);
        for (int64_t i = 0; i < width; i++) ref_put(out, t * width + i, ref_get(x, t * width + i) * inv * (ref_get(w, i) + w_offset));
    }
    return 0;
}

int ref_rmsnorm_bwd(struct pw_dev *dev, struct pw_tensor dx, struct pw_tensor dw, struct pw_tensor dout, struct pw_tensor x, struct pw_tensor w, struct pw_tensor inv_rms, double w_offset)
{
    (void)dev;
    int64_t tokens = x.shape[0], width = x.shape[1];
    for (int64_t t = 0; t < tokens; t++) {
        double inv = ref_get(inv_rms, t), dot = 0;
        for (int64_t i = 0; i < width; i++) dot += ref_get(dout, t * width + i) * (ref_get(w, i) + w_offset) * ref_get(x, t * width + i);
        dot *= inv * inv / (double)width;
        for (int64_t i = 0; i < width; i++) {
            double g = ref_get(dout, t * width + i), xi = ref_get(x, t * width + i);
            ref_add(dx, t * width + i, inv * (g * (ref_get(w, i) + w_offset) - xi * dot));
        }
    }
    for (int64_t i = 0; dw.data && i < width; i++) {
        double sum = 0;
        for (int64_t t = 0; t < tokens; t++) sum += ref_get(dout, t * width + i) * ref_get(x, t * width + i) * ref_get(inv_rms, t);
        ref_add(dw, i, sum);
    }
    return 0;
}

int ref_rope(struct pw_dev *dev, struct pw_tensor x, struct pw_tensor pos, struct pw_tensor cosines, struct pw_tensor sines, enum pw_rope_layout layout, int direction)
{
    (void)dev;
    int64_t tokens = x.shape[0], heads = x.shape[1], d = x.shape[2], pairs = cosines.shape[1];
    const int32_t *at = pos.data;
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t i = 0; i < pairs; i++) {
                int64_t base = (t * heads + h) * d;
                int64_t a = base + (layout == PW_ROPE_HALF ? i : 2 * i), b = layout == PW_ROPE_HALF ? a + pairs : a + 1;
                double c = ref_get(cosines, at[t] * pairs + i), s = direction * ref_get(sines, at[t] * pairs + i);
                double xa = ref_get(x, a), xb = ref_get(x, b);
                ref_put(x, a, xa * c - xb * s);
                ref_put(x, b, xb * c + xa * s);
            }
    return 0;
}

/* act(z) and its derivative */
static double act_of(enum pw_act act, double z, double *slope)
{
    if (act == PW_ACT_SILU) {
        double s = 1 / (1 + exp(-z));
        *slope = s * (1 + z * (1 - s));
        return z * s;
    }
    const double c = 0.79788456080286535588; /* sqrt(2 / pi) */
    double u = c * (z + 0.044715 * z * z * z), th = tanh(u);
    *slope = 0.5 * (1 + th) + 0.5 * z * (1 - th * th) * c * (1 + 3 * 0.044715 * z * z);
    return 0.5 * z * (1 + th);
}

int ref_glu_fwd(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor gate, struct pw_tensor up, enum pw_act act)
{
    (void)dev;
    double slope;
    for (int64_t i = 0, n = pw_count(out); i < n; i++) ref_put(out, i, act_of(act, ref_get(gate, i), &slope) * ref_get(up, i));
    return 0;
}

int ref_glu_bwd(struct pw_dev *dev, struct pw_tensor dgate, struct pw_tensor dup, struct pw_tensor dout, struct pw_tensor gate, struct pw_tensor up, enum pw_act act)
{
    (void)dev;
    for (int64_t i = 0, n = pw_count(dout); i < n; i++) {
        double slope, value = act_of(act, ref_get(gate, i), &slope), g = ref_get(dout, i);
        ref_add(dgate, i, g * ref_get(up, i) * slope);
        ref_add(dup, i, g * value);
    }
    return 0;
}

int ref_scatter_rows(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, struct pw_tensor rows)
{
    (void)dev;
    int64_t n = x.shape[0], width = n ? pw_count(x) / n : 0;
    const int32_t *row = rows.data;
    for (int64_t t = 0; t < n; t++)
        for (int64_t i = 0; i < width; i++) ref_put(out, row[t] * width + i, ref_get(x, t * width + i));
    return 0;
}

int ref_columns_copy(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x)
{
    (void)dev;
    for (int64_t t = 0; t < x.shape[0]; t++)
        for (int64_t i = 0; i < x.shape[1]; i++) ref_put(out, t * out.stride[0] + i, ref_get(x, t * x.stride[0] + i));
    return 0;
}

int ref_gather_rows(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, struct pw_tensor rows)
{
    (void)dev;
    int64_t n = out.shape[0], width = n ? pw_count(out) / n : 0;
    const int32_t *row = rows.data;
    for (int64_t t = 0; t < n; t++)
        for (int64_t i = 0; i < width; i++) ref_put(out, t * width + i, ref_get(x, row[t] * width + i));
    return 0;
}

int ref_sumsq(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x)
{
    (void)dev;
    double sum = 0;
    for (int64_t i = 0, n = pw_count(x); i < n; i++) sum += ref_get(x, i) * ref_get(x, i);
    ref_add(out, 0, sum);
    return 0;
}

int ref_adamw(struct pw_dev *dev, struct pw_tensor p, struct pw_tensor m, struct pw_tensor v, struct pw_tensor g, const struct pw_adamw *h)
{
    (void)dev;
    double c1 = 1 - pow(h->beta1, (double)h->step), c2 = 1 - pow(h->beta2, (double)h->step);
    for (int64_t i = 0, n = pw_count(p); i < n; i++) {
        double gi = ref_get(g, i) * h->grad_scale;
        double mi = h->beta1 * ref_get(m, i) + (1 - h->beta1) * gi, vi = h->beta2 * ref_get(v, i) + (1 - h->beta2) * gi * gi;
        double pi = ref_get(p, i);
        ref_put(m, i, mi);
        ref_put(v, i, vi);
        ref_put(p, i, pi - h->lr * (mi / c1 / (sqrt(vi / c2) + h->eps) + h->weight_decay * pi));
    }
    return 0;
}

int ref_adamw8(struct pw_dev *dev, struct pw_tensor p, struct pw_tensor m, struct pw_tensor m_scale, struct pw_tensor v, struct pw_tensor v_scale,
               struct pw_tensor g, struct pw_tensor maps, const struct pw_adamw *h)
{
    (void)dev;
    const float *map = maps.data;
    float *ms = m_scale.data, *vs = v_scale.data;
    uint8_t *mc = m.data, *vc = v.data;
    const double c1 = 1 - pow(h->beta1, (double)h->step), c2 = 1 - pow(h->beta2, (double)h->step);
    for (int64_t b = 0, n = pw_count(p); b * PW_STATE8_BLOCK < n; b++) {
        const int64_t first = b * PW_STATE8_BLOCK, count = n - first < PW_STATE8_BLOCK ? n - first : PW_STATE8_BLOCK;
        double mi[PW_STATE8_BLOCK], vi[PW_STATE8_BLOCK], m_top = 0, v_top = 0;
        for (int64_t k = 0; k < count; k++) {
            const int64_t i = first + k;
            const double gi = ref_get(g, i) * h->grad_scale, pi = ref_get(p, i);
            mi[k] = h->beta1 * map[mc[i]] * ms[b] + (1 - h->beta1) * gi;
            vi[k] = h->beta2 * map[256 + vc[i]] * vs[b] + (1 - h->beta2) * gi * gi;
            m_top = fmax(m_top, fabs(mi[k]));
            v_top = fmax(v_top, vi[k]);
            ref_put(p, i, pi - h->lr * (mi[k] / c1 / (sqrt(vi[k] / c2) + h->eps) + h->weight_decay * pi));
        }
        ms[b] = (float)m_top;
        vs[b] = (float)v_top;
        for (int64_t k = 0; k < count; k++) {
            const int code = pw_state8_code(map, m_top > 0 ? (float)(mi[k] / m_top) : 0);
            mc[first + k] = (uint8_t)(code - (mi[k] < 0 && map[code] >= 0));
            vc[first + k] = (uint8_t)pw_state8_code(map + 256, v_top > 0 ? (float)(vi[k] / v_top) : 0);
        }
    }
    return 0;
}

int ref_lion(struct pw_dev *dev, struct pw_tensor p, struct pw_tensor m, struct pw_tensor g, const struct pw_adamw *h)
{
    (void)dev;
    for (int64_t i = 0, n = pw_count(p); i < n; i++) {
        const double gi = ref_get(g, i) * h->grad_scale, mi = ref_get(m, i), pi = ref_get(p, i), c = h->beta1 * mi + (1 - h->beta1) * gi;
        ref_put(p, i, pi - h->lr * ((c > 0) - (c < 0) + h->weight_decay * pi));
        ref_put(m, i, h->beta2 * mi + (1 - h->beta2) * gi);
    }
    return 0;
}

int ref_noise(struct pw_dev *dev, struct pw_tensor x, struct pw_tensor scale, struct pw_drop draw)
{
    (void)dev;
    const uint32_t key[2] = { (uint32_t)draw.seed, (uint32_t)(draw.seed >> 32) };
    const float *s = scale.data;
    for (int64_t i = 0, n = pw_count(x), width = x.shape[1]; i < n; i++) {
        const uint64_t at = draw.first + (uint64_t)i;
        const uint32_t counter[4] = { (uint32_t)(at / 4), (uint32_t)(at / 4 >> 32), (uint32_t)draw.offset, (uint32_t)(draw.offset >> 32) };
        uint32_t words[4];
        pw_philox(counter, key, words);
        ref_add(x, i, s[i / width] * (words[at % 4] * 0x1p-31 - 1));
    }
    return 0;
}
