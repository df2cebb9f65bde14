/* The cpu ops that go element by element or row by row. Rows are shared out among threads; a row is always done by one. */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>
#include "base/rng.h"
#include "kernels/backend.h"
#include "kernels/blocks.h"

#define PW_OP(name, params, args) .name = cpu_##name,
static const struct pw_ops ops = {
#include "kernels/ops.def"
};
#undef PW_OP

static int open_cpu(struct pw_dev *d, const struct pw_dev_options *opt, int index)
{
    (void)index;
    d->host = true;
    return cpu_choose_level(d, opt);
}
static void close_cpu(struct pw_dev *d) { (void)d; }

static size_t none_sample(const struct pw_dev *d, int64_t vocab) { return (void)d, (void)vocab, 0; }

const struct pw_backend pw_cpu_backend = {
    .kind = "cpu", .ops = &ops, .open = open_cpu, .close = close_cpu, .take = pw_host_take, .give = pw_host_give, .put = pw_host_move, .get = pw_host_move,
    .sync = pw_host_sync, .memory = pw_host_memory, .held = pw_host_held, .take_pinned = pw_host_take, .give_pinned = pw_host_give, .send = pw_host_transfer, .bring = pw_host_transfer,
    .wait = pw_host_wait, .scratch_linear = cpu_scratch_linear, .scratch_head = cpu_scratch_head, .scratch_experts = cpu_scratch_experts, .scratch_attn = cpu_scratch_attn, .scratch_sample = none_sample,
};

enum { PIECE = 8192 }; /* elements a task */

int cpu_fill(struct pw_dev *dev, struct pw_tensor x, double value)
{
    const int64_t n = pw_count(x);
    const uint16_t bits = x.dtype == PW_F16 ? pw_f32_to_f16((float)value) : pw_f32_to_bf16((float)value);
#pragma omp parallel for num_threads(dev->threads) if (n > CPU_SMALL_ELEMENTS)
    for (int64_t first = 0; first < n; first += PIECE) {
        const int64_t end = cpu_min(n, first + PIECE);
        if (x.dtype == PW_F64) for (int64_t i = first; i < end; i++) ((double *)x.data)[i] = value;
        else if (x.dtype == PW_F32) for (int64_t i = first; i < end; i++) ((float *)x.data)[i] = (float)value;
        else for (int64_t i = first; i < end; i++) ((uint16_t *)x.data)[i] = bits;
    }
    return 0;
}

static double get(struct pw_tensor t, int64_t i)
{
    switch (t.dtype) {
    case PW_F64: return ((const double *)t.data)[i];
    case PW_F16: return pw_f16_to_f32(((const uint16_t *)t.data)[i]);
    case PW_BF16: return pw_bf16_to_f32(((const uint16_t *)t.data)[i]);
    default: return ((const float *)t.data)[i];
    }
}

static void copy_piece(struct pw_tensor out, struct pw_tensor x, int64_t first, int64_t end)
{
    if (out.dtype == x.dtype) {
        size_t size = pw_dtype_bytes(x.dtype);
        memcpy((char *)out.data + (size_t)first * size, (const char *)x.data + (size_t)first * size, (size_t)(end - first) * size);
        return;
    }
    for (int64_t i = first; i < end; i++) {
        double value = get(x, i);
        switch (out.dtype) {
        case PW_F64: ((double *)out.data)[i] = value; break;
        case PW_F16: ((uint16_t *)out.data)[i] = pw_f32_to_f16((float)value); break;
        case PW_BF16: ((uint16_t *)out.data)[i] = pw_f32_to_bf16((float)value); break;
        default: ((float *)out.data)[i] = (float)value; break;
        }
    }
}

int cpu_copy(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x)
{
    int64_t n = pw_count(x);
#pragma omp parallel for num_threads(dev->threads) if (n > CPU_SMALL_ELEMENTS)
    for (int64_t first = 0; first < n; first += PIECE) copy_piece(out, x, first, cpu_min(n, first + PIECE));
    return 0;
}

int cpu_axpy(struct pw_dev *dev, struct pw_tensor y, struct pw_tensor x, double alpha)
{
    int64_t n = pw_count(y);
    float *to = y.data;
    const float *from = x.data;
#pragma omp parallel for num_threads(dev->threads) if (n > CPU_SMALL_ELEMENTS)
    for (int64_t first = 0; first < n; first += PIECE) cpu_isa_of(dev)->axpy(cpu_min(PIECE, n - first), to + first, from + first, (float)alpha);
    return 0;
}

int cpu_scale(struct pw_dev *dev, struct pw_tensor x, double alpha)
{
    int64_t n = pw_count(x);
    float *to = x.data;
#pragma omp parallel for num_threads(dev->threads) if (n > CPU_SMALL_ELEMENTS)
    for (int64_t first = 0; first < n; first += PIECE) cpu_isa_of(dev)->scale(cpu_min(PIECE, n - first), to + first, (float)alpha);
    return 0;
}

int cpu_embed_fwd(struct pw_dev *dev, struct pw_tensor out, const struct pw_weight *table, struct pw_tensor ids)
{
    const int64_t tokens = out.shape[0], width = out.shape[1];
#pragma omp parallel for num_threads(dev->threads) if (tokens * width > CPU_SMALL_ELEMENTS)
    for (int64_t t = 0; t < tokens; t++) cpu_isa_of(dev)->decode(table, ((const int32_t *)ids.data)[t], 0, width, (float *)out.data + t * width);
    return 0;
}

/* Threads own ranges of columns, so that rows are added in token order whatever their number. */
int cpu_embed_bwd(struct pw_dev *dev, struct pw_tensor dtable, struct pw_tensor dout, struct pw_tensor ids)
{
    int64_t tokens = dout.shape[0], width = dout.shape[1];
    const int32_t *id = ids.data;
    const float *from = dout.data;
    float *to = dtable.data;
#pragma omp parallel for num_threads(dev->threads) if (tokens * width > CPU_SMALL_ELEMENTS)
    for (int64_t c = 0; c < width; c += 64)
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t i = c, end = cpu_min(width, c + 64); i < end; i++) to[id[t] * width + i] += from[t * width + i];
    return 0;
}

int cpu_rmsnorm_fwd(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor inv_rms, struct pw_tensor x, struct pw_tensor w, double eps, double w_offset)
{
    int64_t tokens = x.shape[0], width = x.shape[1];
    float *inv = inv_rms.data;
#pragma omp parallel for num_threads(dev->threads) if (tokens * width > CPU_SMALL_ELEMENTS)
    for (int64_t t = 0; t < tokens; t++)
        cpu_isa_of(dev)->norm_fwd(width, (float *)out.data + t * width, inv ? inv + t : NULL, (const float *)x.data + t * width, w.data, eps, (float)w_offset);
    return 0;
}

int cpu_rmsnorm_bwd(struct pw_dev *dev, struct pw_tensor dx, struct pw_tensor dw, struct pw_tensor dout, struct pw_tensor x, struct pw_tensor w, struct pw_tensor inv_rms, double w_offset)
{
    int64_t tokens = x.shape[0], width = x.shape[1];
    const float *g = dout.data, *in = x.data, *inv = inv_rms.data;
    if (dw.data) {
#pragma omp parallel for num_threads(dev->threads) if (tokens * width > CPU_SMALL_ELEMENTS)
        for (int64_t c = 0; c < width; c += 64) {
            int64_t n = cpu_min(64, width - c);
            double sum[64] = { 0 };
            for (int64_t t = 0; t < tokens; t++)
                for (int64_t i = 0; i < n; i++) sum[i] += (double)(g[t * width + c + i] * (in[t * width + c + i] * inv[t]));
            for (int64_t i = 0; i < n; i++) ((float *)dw.data)[c + i] += (float)sum[i];
        }
    }
#pragma omp parallel for num_threads(dev->threads) if (tokens * width > CPU_SMALL_ELEMENTS)
    for (int64_t t = 0; t < tokens; t++)
        cpu_isa_of(dev)->norm_bwd(width, (float *)dx.data + t * width, g + t * width, in + t * width, w.data, inv[t], (float)w_offset);
    return 0;
}

int cpu_rope(struct pw_dev *dev, struct pw_tensor x, struct pw_tensor pos, struct pw_tensor cosines, struct pw_tensor sines, enum pw_rope_layout layout, int direction)
{
    int64_t tokens = x.shape[0], heads = x.shape[1], d = x.shape[2], pairs = cosines.shape[1];
    float sign = (float)direction;
#pragma omp parallel for num_threads(dev->threads) if (tokens * heads * d > CPU_SMALL_ELEMENTS)
    for (int64_t t = 0; t < tokens; t++) {
        int64_t at = ((const int32_t *)pos.data)[t];
        const float *c = (const float *)cosines.data + at * pairs, *s = (const float *)sines.data + at * pairs;
        for (int64_t h = 0; h < heads; h++) {
            float *v = (float *)x.data + (t * heads + h) * d;
            int64_t step = layout == PW_ROPE_HALF ? 1 : 2, far = layout == PW_ROPE_HALF ? pairs : 1;
            for (int64_t i = 0; i < pairs; i++) {
                float *a = v + i * step, *b = a + far, xa = *a, xb = *b, sine = sign * s[i];
                *a = xa * c[i] - xb * sine;
                *b = xb * c[i] + xa * sine;
            }
        }
    }
    return 0;
}

int cpu_glu_fwd(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor gate, struct pw_tensor up, enum pw_act act)
{
    int64_t n = pw_count(out);
#pragma omp parallel for num_threads(dev->threads) if (n > CPU_SMALL_ELEMENTS)
    for (int64_t i = 0; i < n; i += PIECE)
        cpu_isa_of(dev)->glu_fwd(cpu_min(PIECE, n - i), (float *)out.data + i, (const float *)gate.data + i, (const float *)up.data + i, act);
    return 0;
}

int cpu_glu_bwd(struct pw_dev *dev, struct pw_tensor dgate, struct pw_tensor dup, struct pw_tensor dout, struct pw_tensor gate, struct pw_tensor up, enum pw_act act)
{
    int64_t n = pw_count(dout);
#pragma omp parallel for num_threads(dev->threads) if (n > CPU_SMALL_ELEMENTS)
    for (int64_t i = 0; i < n; i += PIECE)
        cpu_isa_of(dev)->glu_bwd(cpu_min(PIECE, n - i), (float *)dgate.data + i, (float *)dup.data + i, (const float *)dout.data + i, (const float *)gate.data + i,
                                 (const float *)up.data + i, act);
    return 0;
}

int cpu_scatter_rows(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, struct pw_tensor rows)
{
    (void)dev;
    int64_t n = x.shape[0];
    size_t bytes = n ? pw_bytes(x) / (size_t)n : 0;
    for (int64_t t = 0; t < n; t++) memcpy((char *)out.data + (size_t)((const int32_t *)rows.data)[t] * bytes, (const char *)x.data + (size_t)t * bytes, bytes);
    return 0;
}

int cpu_columns_copy(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x)
{
    const size_t size = pw_dtype_bytes(x.dtype);
#pragma omp parallel for num_threads(dev->threads) if (pw_count(x) > CPU_SMALL_ELEMENTS)
    for (int64_t t = 0; t < x.shape[0]; t++)
        memcpy((char *)out.data + (size_t)(t * out.stride[0]) * size, (const char *)x.data + (size_t)(t * x.stride[0]) * size, (size_t)x.shape[1] * size);
    return 0;
}

int cpu_gather_rows(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, struct pw_tensor rows)
{
    (void)dev;
    int64_t n = out.shape[0];
    size_t bytes = n ? pw_bytes(out) / (size_t)n : 0;
    for (int64_t t = 0; t < n; t++) memcpy((char *)out.data + (size_t)t * bytes, (const char *)x.data + (size_t)((const int32_t *)rows.data)[t] * bytes, bytes);
    return 0;
}

/* Sums of pieces, in double, added in the order of the pieces: waves of a fixed number of them, so that no memory is needed. */
int cpu_sumsq(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x)
{
    enum { WAVE = 256 };
    int64_t n = pw_count(x), pieces = cpu_parts(n, PIECE);
    double total = 0, part[WAVE];
    for (int64_t wave = 0; wave < pieces; wave += WAVE) {
        int64_t count = cpu_min(WAVE, pieces - wave);
#pragma omp parallel for num_threads(dev->threads) if (count > CPU_SMALL_ELEMENTS / PIECE)
        for (int64_t i = 0; i < count; i++) {
            int64_t first = (wave + i) * PIECE;
            part[i] = cpu_isa_of(dev)->sumsq(cpu_min(PIECE, n - first), (const float *)x.data + first);
        }
        for (int64_t i = 0; i < count; i++) total += part[i];
    }
    *(double *)out.data += total;
    return 0;
}

int cpu_adamw(struct pw_dev *dev, struct pw_tensor p, struct pw_tensor m, struct pw_tensor v, struct pw_tensor g, const struct pw_adamw *h)
{
    int64_t n = pw_count(p);
#pragma omp parallel for num_threads(dev->threads) if (n > CPU_SMALL_ELEMENTS)
    for (int64_t i = 0; i < n; i += PIECE)
        cpu_isa_of(dev)->adamw(cpu_min(PIECE, n - i), (float *)p.data + i, (float *)m.data + i, (float *)v.data + i, (const float *)g.data + i, h);
    return 0;
}

int cpu_noise(struct pw_dev *dev, struct pw_tensor x, struct pw_tensor scale, struct pw_drop draw)
{
    const int64_t rows = x.shape[0], width = x.shape[1];
    const uint32_t key[2] = { (uint32_t)draw.seed, (uint32_t)(draw.seed >> 32) };
    const float *s = scale.data;
    float *value = x.data;
#pragma omp parallel for num_threads(dev->threads) if (rows * width > PIECE)
    for (int64_t t = 0; t < rows; t++) {
        uint32_t words[4];
        for (int64_t i = t * width; i < (t + 1) * width; i++) {
            const uint64_t at = draw.first + (uint64_t)i;
            if (i == t * width || at % 4 == 0) {
                const uint32_t counter[4] = { (uint32_t)(at / 4), (uint32_t)(at / 4 >> 32), (uint32_t)draw.offset, (uint32_t)(draw.offset >> 32) };
                pw_philox(counter, key, words);
            }
            value[i] += s[t] * ((float)words[at % 4] * 0x1p-31f - 1);
        }
    }
    return 0;
}

/* One block of 8-bit averages; every product is f32 and rounded, as on every level. */
static void adamw8_block(int64_t n, float *p, uint8_t *mc, float *m_scale, uint8_t *vc, float *v_scale, const float *g, const float *map, const struct pw_adamw *h)
{
    const float c1 = (float)(1 / (1 - pow(h->beta1, (double)h->step))), c2 = (float)(1 / (1 - pow(h->beta2, (double)h->step)));
    const float b1 = (float)h->beta1, b2 = (float)h->beta2, a1 = (float)(1 - h->beta1), a2 = (float)(1 - h->beta2);
    const float lr = (float)h->lr, eps = (float)h->eps, decay = (float)h->weight_decay, gs = (float)h->grad_scale;
    float m[PW_STATE8_BLOCK], v[PW_STATE8_BLOCK], m_top = 0, v_top = 0;
    for (int64_t i = 0; i < n; i++) {
        const float gi = g[i] * gs;
        m[i] = b1 * (map[mc[i]] * *m_scale) + a1 * gi;
        v[i] = b2 * (map[256 + vc[i]] * *v_scale) + a2 * gi * gi;
        p[i] -= lr * (m[i] * c1 / (sqrtf(v[i] * c2) + eps) + decay * p[i]);
        m_top = fmaxf(m_top, fabsf(m[i]));
        v_top = fmaxf(v_top, v[i]);
    }
    *m_scale = m_top;
    *v_scale = v_top;
    const float m_inverse = m_top > 0 ? 1 / m_top : 0, v_inverse = v_top > 0 ? 1 / v_top : 0;
    for (int64_t i = 0; i < n; i++) {
        const int code = pw_state8_code(map, m[i] * m_inverse);
        mc[i] = (uint8_t)(code - (m[i] < 0 && map[code] >= 0));
        vc[i] = (uint8_t)pw_state8_code(map + 256, v[i] * v_inverse);
    }
}

int cpu_adamw8(struct pw_dev *dev, struct pw_tensor p, struct pw_tensor m, struct pw_tensor m_scale, struct pw_tensor v, struct pw_tensor v_scale,
               struct pw_tensor g, struct pw_tensor maps, const struct pw_adamw *h)
{
    const int64_t n = pw_count(p);
#pragma omp parallel for num_threads(dev->threads) if (n > PIECE)
    for (int64_t i = 0; i < n; i += PW_STATE8_BLOCK)
        adamw8_block(cpu_min(PW_STATE8_BLOCK, n - i), (float *)p.data + i, (uint8_t *)m.data + i, (float *)m_scale.data + i / PW_STATE8_BLOCK,
                     (uint8_t *)v.data + i, (float *)v_scale.data + i / PW_STATE8_BLOCK, (const float *)g.data + i, maps.data, h);
    return 0;
}

int cpu_lion(struct pw_dev *dev, struct pw_tensor p, struct pw_tensor m, struct pw_tensor g, const struct pw_adamw *h)
{
    const int64_t n = pw_count(p);
    const float b1 = (float)h->beta1, b2 = (float)h->beta2, a1 = (float)(1 - h->beta1), a2 = (float)(1 - h->beta2);
    const float lr = (float)h->lr, decay = (float)h->weight_decay, gs = (float)h->grad_scale, *gv = g.data;
    float *pv = p.data, *mv = m.data;
#pragma omp parallel for num_threads(dev->threads) if (n > PIECE)
    for (int64_t i = 0; i < n; i++) {
        const float gi = gv[i] * gs, c = b1 * mv[i] + a1 * gi;
        pv[i] -= lr * ((float)((c > 0) - (c < 0)) + decay * pv[i]);
        mv[i] = b2 * mv[i] + a2 * gi;
    }
    return 0;
}

/* Blocks may begin in the middle of a byte's row but never of a byte: the block size is even. Tasks are whole blocks. */
int cpu_encode(struct pw_dev *dev, struct pw_weight *w, struct pw_tensor x)
{
    const float *value = x.data;
    float *absmax = (float *)(uintptr_t)w->absmax;
    uint8_t *code = (uint8_t *)(uintptr_t)w->data;
    int64_t n = w->n_out * w->n_in, block = w->type == PW_Q_INT8 ? w->n_in : w->block;
    const struct pw_block_type *b = pw_block_type(w->type);
    if (b) {
        int64_t blocks = n / b->elements;
#pragma omp parallel for num_threads(dev->threads) if (n > CPU_SMALL_ELEMENTS)
        for (int64_t i = 0; i < blocks; i++) b->encode(value + i * b->elements, code + i * b->bytes);
        return 0;
    }
    if (w->type != PW_Q_INT8) {
        const int64_t piece = (CPU_SMALL_ELEMENTS / 4 + block - 1) / block * block; /* blocks are even: it begins on a whole byte */
#pragma omp parallel for num_threads(dev->threads) if (n > CPU_SMALL_ELEMENTS)
        for (int64_t first = 0; first < n; first += piece)
            cpu_isa_of(dev)->encode4(w->type, cpu_min(piece, n - first), (int)block, value + first, code + first / 2, absmax + first / block);
        return 0;
    }
#pragma omp parallel for num_threads(dev->threads) if (n > CPU_SMALL_ELEMENTS)
    for (int64_t row = 0; row < w->n_out; row++) {
        const float *from = value + row * block;
        float top = 0;
        for (int64_t i = 0; i < block; i++) top = fabsf(from[i]) > top ? fabsf(from[i]) : top;
        absmax[row] = top;
        for (int64_t i = 0; i < block; i++) ((int8_t *)code)[row * block + i] = (int8_t)pw_int8_code(from[i], top);
    }
    return 0;
}

int cpu_decode(struct pw_dev *dev, struct pw_tensor out, const struct pw_weight *w, int64_t first_row)
{
    int64_t rows = out.shape[0], width = w->n_in;
#pragma omp parallel for num_threads(dev->threads) if (rows * width > CPU_SMALL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++) cpu_isa_of(dev)->decode(w, first_row + r, 0, width, (float *)out.data + r * width);
    return 0;
}
