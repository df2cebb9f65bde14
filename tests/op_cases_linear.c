/* Cases of linear layers, the loss head and decoding: arrays, calls and bounds (rules: op_parts.h). */
#include "tests/op_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "kernels/blocks.h"

/* ---- linear; p: T, K, N, R; x: dropout. A sum of K, plus the adapter: xa errs by sum_bound(K) / (1-p) and R of them are added with scale 0.5.
 * Gradients are sums of N (dx), T (dw, dbias), and twofold sums for da, db ---- */
enum { L_X, L_W, L_BIAS, L_A, L_B, L_Y, L_XA, L_DY, L_DX, L_DW, L_DBIAS, L_DA, L_DB, L_M, L_NORM, L_DM };

/* Blocks of a GGUF type with values within [-1, 1]: random codes under f16 scales small enough for them. */
static void random_blocks(struct problem *p, const struct pw_block_type *b, struct pw_rng *r)
{
    const bool k = b->elements > 32, minimum = b->type == PW_Q_Q4_1 || b->type == PW_Q_Q5_1 || b->type == PW_Q_Q4_K || b->type == PW_Q_Q5_K;
    /* the largest product of codes that a scale is multiplied by */
    const double most = b->type == PW_Q_Q6_K ? 128.0 * 32 : k ? 63.0 * 31 : b->type == PW_Q_Q8_0 || b->type == PW_Q_IQ4_NL ? 128 : 31;
    int64_t blocks = pw_weight_blocks(&p->w);
    uint8_t *data = hold(p, (size_t)(blocks * b->bytes));
    for (int64_t i = 0; i < blocks * b->bytes; i++) data[i] = (uint8_t)pw_rng_below(r, 256);
    for (int64_t i = 0; i < blocks; i++) {
        uint16_t d = pw_f32_to_f16((float)((minimum ? 0.5 : 1) * pw_rng_uniform(r) / most));
        uint16_t m = pw_f32_to_f16((float)(0.5 * pw_rng_uniform(r) / (k ? 63 : 1)));
        memcpy(data + i * b->bytes + (b->type == PW_Q_Q6_K ? 208 : 0), &d, 2);
        if (minimum) memcpy(data + i * b->bytes + 2, &m, 2);
    }
    p->w.data = data;
}

/* A quantised or 16-bit weight with values within [-1, 1], made by ref's encode. */
void quantised_weight(struct problem *p, enum pw_qtype q, enum pw_dtype type, int64_t n_out, int64_t n_in, bool nested)
{
    struct pw_rng r = pw_rng_make(13, PW_STREAM_TEST);
    int64_t n = n_out * n_in;
    float *value = hold(p, (size_t)n * 4);
    for (int64_t i = 0; i < n; i++) value[i] = (float)(2 * pw_rng_uniform(&r) - 1);
    p->w = (struct pw_weight){ .n_out = n_out, .n_in = n_in, .type = q, .dtype = type, .block = 64, .nested_block = 256 };
    if (q == PW_Q_DENSE) {
        uint16_t *half = hold(p, (size_t)n * 2);
        for (int64_t i = 0; i < n; i++) half[i] = type == PW_BF16 ? pw_f32_to_bf16(value[i]) : pw_f32_to_f16(value[i]);
        p->w.data = half;
        return;
    }
    if (pw_block_type(q)) {
        random_blocks(p, pw_block_type(q), &r);
        return;
    }
    int64_t blocks = pw_weight_blocks(&p->w);
    float *absmax = hold(p, (size_t)blocks * 4);
    p->w.absmax = absmax;
    p->w.data = hold(p, (size_t)n);
    struct pw_dev *ref;
    if (pw_dev_open(&ref, &(struct pw_dev_options){ .kind = "ref" }) < 0 || pw_encode(ref, &p->w, pw_tensor2(value, PW_F32, n_out, n_in)) < 0) abort();
    pw_dev_close(ref);
    if (!nested) return;
    uint8_t *code = hold(p, (size_t)blocks);
    float *table = hold(p, (256 + 64) * 4);
    for (int i = 0; i < 256; i++) table[i] = (float)(i - 127) / 129;
    for (int i = 0; i < 64; i++) table[256 + i] = 0.1f + 0.01f * (float)i;
    for (int64_t i = 0; i < blocks; i++) code[i] = (uint8_t)pw_rng_below(&r, 256);
    p->w.absmax = NULL;
    p->w.absmax_q = code;
    p->w.nested_code = table;
    p->w.nested_absmax = table + 256;
    p->w.nested_offset = 0.5f;
}

static void linear_setup(struct problem *p)
{
    const struct op_case *c = p->c;
    int64_t tokens = c->p[0], k = c->p[1], n = c->p[2], r = c->flags & CASE_LORA ? c->p[3] : 0;
    bool dense = c->q == PW_Q_DENSE && c->type == PW_F32;
    act2(p, "x", IN, tokens, k);
    add2(p, "w", IN, dense ? n : 0, k);
    add(p, "bias", IN, PW_F32, 1, c->flags & CASE_BIAS ? n : 0, 1, 1);
    add2(p, "a", IN, r, k);
    add2(p, "b", IN, n, r);
    p->output = c->flags & CASE_WIDE ? add2(p, "y", OUT, tokens, n) : act2(p, "y", OUT, tokens, n);
    act2(p, "xa", OUT, tokens, r);
    p->upstream = act2(p, "dy", IN, tokens, n);
    const bool dora = c->flags & CASE_DORA;
    p->a[L_X].gradient = act2(p, "dx", ADD, c->flags & CASE_NO_DX ? 0 : tokens, k);
    p->a[L_W].gradient = add2(p, "dw", ADD, dense && !dora ? n : 0, k);
    p->a[L_BIAS].gradient = add1(p, "dbias", ADD, c->flags & CASE_BIAS ? n : 0);
    p->a[L_A].gradient = add2(p, "da", ADD, r, k);
    p->a[L_B].gradient = add2(p, "db", ADD, n, r);
    add1(p, "m", IN, dora ? n : 0);
    p->a[add1(p, "norm", IN, dora ? n : 0)].low = 1; /* lengths of 1 to 2, so that |m / norm| <= 1 */
    p->a[L_NORM].high = 2;
    p->a[L_M].gradient = add1(p, "dm", ADD, dora ? n : 0);
    if (dora) p->a[L_W].gradient = -1;
    if (c->flags & CASE_NO_DX) p->a[L_X].gradient = -1;
    if (!dense) quantised_weight(p, c->q, c->type, n, k, c->flags & CASE_NESTED);
    p->drop = (struct pw_drop){ .p = c->x[0], .seed = 99, .offset = 7, .first = 30 };
}
/* What dropout multiplies element i by. */
static double kept(struct pw_drop d, int64_t i)
{
    const uint64_t at = d.first + (uint64_t)i, group = at / 4;
    const uint32_t counter[4] = { (uint32_t)group, (uint32_t)(group >> 32), (uint32_t)d.offset, (uint32_t)(d.offset >> 32) }, key[2] = { (uint32_t)d.seed, (uint32_t)(d.seed >> 32) };
    uint32_t word[4];
    if (d.p <= 0) return 1;
    pw_philox(counter, key, word);
    return word[at % 4] >= pw_dropout_threshold(d.p) ? 1 / (1 - d.p) : 0;
}
/* Weights that a device may multiply as bf16: W, A, B. */
void round_array(struct array *a)
{
    for (int64_t i = 0, n = a->shape[0] * a->shape[1]; i < n; i++) a->start[i] = (double)pw_bf16_to_f32(pw_f32_to_bf16((float)a->start[i]));
}
void round_stored(struct problem *p)
{
    const int64_t n = p->w.n_out * p->w.n_in;
    float *value = hold(p, (size_t)n * 4);
    uint16_t *half = hold(p, (size_t)n * 2);
    struct pw_dev *ref;
    if (pw_dev_open(&ref, &(struct pw_dev_options){ .kind = "ref" }) < 0 || pw_decode(ref, pw_tensor2(value, PW_F32, p->w.n_out, p->w.n_in), &p->w, 0) < 0) abort();
    pw_dev_close(ref);
    for (int64_t i = 0; i < n; i++) half[i] = pw_f32_to_bf16(value[i]);
    p->w = pw_weight_dense(pw_tensor2(half, PW_BF16, p->w.n_out, p->w.n_in));
}
static bool linear_round16(struct problem *p, int which)
{
    const int array[3] = { L_W, L_A, L_B };
    if (which >= 3) return false;
    if (which == 0 && p->w.data) round_stored(p);
    else round_array(&p->a[array[which]]);
    return true;
}
/* xa and dxa are stored in bf16 (dxa = scale dy B), and products with a decoded weight are added to what was stored before: one rounding of it. */
static void linear_each16(const struct problem *p, const struct pw_tensor *ref, int i, double *extra)
{
    const struct op_case *c = p->c;
    const int64_t tokens = c->p[0], k_in = c->p[1], n_out = c->p[2], r = c->flags & CASE_LORA ? c->p[3] : 0;
    const double *x = ref[L_X].data, *a = ref[L_A].data, *b = ref[L_B].data, *dy = ref[L_DY].data, *xa = ref[L_XA].data, scale = 0.5;
    const float *bias = ref[L_BIAS].data;
    if (i == L_Y)
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t n = 0; n < n_out; n++) {
                double low = 0, size = 0;
                for (int64_t j = 0; j < r; j++) low += xa[t * r + j] * b[n * r + j], size += fabs(xa[t * r + j] * b[n * r + j]);
                extra[t * n_out + n] += u16 * scale * size;
                if (!(c->flags & CASE_WIDE)) extra[t * n_out + n] += u16 * fabs(scale * low + (c->flags & CASE_BIAS ? (double)bias[n] : 0));
            }
    for (int64_t t = 0; r && (i == L_DX || i == L_DA) && t < tokens; t++) {
        double dxa[256];
        for (int64_t j = 0; j < r; j++) {
            dxa[j] = 0;
            for (int64_t n = 0; n < n_out; n++) dxa[j] += scale * dy[t * n_out + n] * b[n * r + j];
        }
        for (int64_t k = 0; k < k_in; k++) {
            const double keep = kept(p->drop, t * k_in + k);
            double low = 0, size = 0;
            for (int64_t j = 0; j < r; j++) {
                low += keep * dxa[j] * a[j * k_in + k], size += keep * fabs(dxa[j] * a[j * k_in + k]);
                if (i == L_DA) extra[j * k_in + k] += u16 * keep * fabs(dxa[j] * x[t * k_in + k]);
            }
            if (i == L_DX && !(c->flags & CASE_NO_DX)) extra[t * k_in + k] += u16 * (size + fabs(low + p->a[L_DX].start[t * k_in + k]));
        }
    }
    for (int64_t t = 0; i == L_DB && t < tokens; t++)
        for (int64_t n = 0; n < n_out; n++)
            for (int64_t j = 0; j < r; j++) extra[n * r + j] += u16 * scale * fabs(dy[t * n_out + n] * xa[t * r + j]);
}
/* With a magnitude, beside that: x' and x - x', du = c dy, u, dx' and dy W are stored in bf16 (kernels/dora.c), y and dx on the way. */
static void dora_each16(const struct problem *p, const struct pw_tensor *ref, int i, double *extra)
{
    const struct op_case *c = p->c;
    const int64_t tokens = c->p[0], k_in = c->p[1], n_out = c->p[2], r = c->p[3];
    const double *x = ref[L_X].data, *a = ref[L_A].data, *b = ref[L_B].data, *dy = ref[L_DY].data, *m = ref[L_M].data, *norm = ref[L_NORM].data, scale = 0.5;
    const bool drops = p->drop.p > 0;
    double *w = pw_alloc_zero((size_t)(n_out * k_in), sizeof *w), *keep = pw_alloc_zero((size_t)k_in, sizeof *keep);
    float *stored = pw_alloc_zero((size_t)(n_out * k_in), sizeof *stored);
    double xa[256], xa_error[256], dxa[256], dxa_error[256];
    if (!w || !keep || !stored || r > 256) abort();
    if (p->w.data) {
        struct pw_dev *dev;
        if (pw_dev_open(&dev, &(struct pw_dev_options){ .kind = "ref" }) < 0 || pw_decode(dev, pw_tensor2(stored, PW_F32, n_out, k_in), &p->w, 0) < 0) abort();
        pw_dev_close(dev);
    }
    for (int64_t j = 0; j < n_out * k_in; j++) w[j] = p->w.data ? (double)stored[j] : ((const double *)ref[L_W].data)[j];
    for (int64_t t = 0; t < tokens; t++) {
        for (int64_t k = 0; k < k_in; k++) keep[k] = kept(p->drop, t * k_in + k);
        for (int64_t j = 0; j < r; j++) {
            xa[j] = xa_error[j] = dxa[j] = dxa_error[j] = 0;
            for (int64_t k = 0; k < k_in; k++) {
                const double term = keep[k] * x[t * k_in + k] * a[j * k_in + k];
                xa[j] += term;
                if (drops) xa_error[j] += u16 * fabs(term);
            }
            if (i == L_XA) extra[t * r + j] += xa_error[j];
            xa_error[j] += u16 * fabs(xa[j]);
            for (int64_t n = 0; n < n_out; n++) {
                const double du = m[n] / norm[n] * dy[t * n_out + n], term = scale * du * b[n * r + j];
                dxa[j] += term;
                dxa_error[j] += u16 * fabs(term);
                if (i == L_DB) extra[n * r + j] += scale * fabs(du) * (u16 * fabs(xa[j]) + xa_error[j]);
            }
            dxa_error[j] += u16 * fabs(dxa[j]);
            for (int64_t k = 0; i == L_DA && k < k_in; k++) extra[j * k_in + k] += keep[k] * fabs(x[t * k_in + k]) * (dxa_error[j] + u16 * fabs(dxa[j]));
        }
        for (int64_t n = 0; (i == L_Y || i == L_DM) && n < n_out; n++) {
            double out = 0, out_size = 0, rest = 0, rest_size = 0, low = 0, low_error = 0;
            for (int64_t k = 0; k < k_in; k++) {
                const double term = w[n * k_in + k] * x[t * k_in + k];
                out += keep[k] * term, out_size += keep[k] * fabs(term);
                rest += (1 - keep[k]) * term, rest_size += fabs((1 - keep[k]) * term);
            }
            for (int64_t j = 0; j < r; j++) low += scale * xa[j] * b[n * r + j], low_error += scale * xa_error[j] * fabs(b[n * r + j]);
            const double error = low_error + u16 * (fabs(low) + fabs(out + low) + (drops ? out_size : 0)); /* of u */
            if (i == L_Y) extra[t * n_out + n] += fabs(m[n] / norm[n]) * error + (drops ? u16 * (rest_size + fabs(rest)) : 0);
            else extra[n] += fabs(dy[t * n_out + n]) / norm[n] * error;
        }
        for (int64_t k = 0; i == L_DX && !(c->flags & CASE_NO_DX) && k < k_in; k++) {
            double low = 0, low_error = 0, part = 0, part_size = 0, through = 0;
            const double start = p->a[L_DX].start[t * k_in + k];
            for (int64_t j = 0; j < r; j++) low += dxa[j] * a[j * k_in + k], low_error += dxa_error[j] * fabs(a[j * k_in + k]);
            for (int64_t n = 0; n < n_out; n++) {
                const double term = m[n] / norm[n] * dy[t * n_out + n] * w[n * k_in + k];
                part += term, part_size += fabs(term), through += dy[t * n_out + n] * w[n * k_in + k];
            }
            const double error = low_error + u16 * part_size;
            if (!drops) extra[t * k_in + k] += error + u16 * fabs(low + start);
            else extra[t * k_in + k] += keep[k] * (error + u16 * (fabs(low) + fabs(low + part))) + u16 * (fabs((1 - keep[k]) * through) + fabs(start + (1 - keep[k]) * through));
        }
    }
    pw_free(w);
    pw_free(keep);
    pw_free(stored);
}
/* The f32 part with a magnitude, |m / norm| <= 1: W multiplies x - x' and x', each within inverse; du = c dy, x' and u are rounded once more. */
static double dora_sum_bound(const struct op_case *c, int i)
{
    const double tokens = (double)c->p[0], k = (double)c->p[1], n = (double)c->p[2], r = (double)c->p[3], inverse = 1 / (1 - c->x[0]);
    const double size = inverse * k * (1 + 0.5 * r), error = inverse * (sum_bound(k) + 0.5 * r * (sum_bound(k) + (depth(r) + 4) * u * k)) + 8 * u * size; /* of u */
    switch (i) {
    case L_Y: return error + inverse * sum_bound(k) + 8 * u * (size + inverse * k) + 4 * u;
    case L_XA: return inverse * (sum_bound(k) + 4 * u * k);
    case L_DX: return inverse * (2 * sum_bound(n) + 0.5 * r * (sum_bound(n) + (depth(r) + 4) * u * n) + 8 * u * n * (2 + 0.5 * r)) + 4 * u;
    case L_DA: return 0.5 * inverse * tokens * (sum_bound(n) + (depth(tokens) + 8) * u * n) + 4 * u;
    case L_DB: return 0.5 * inverse * tokens * (sum_bound(k) + (depth(tokens) + 8) * u * k) + 4 * u;
    case L_DM: return tokens * (error + (depth(tokens) + 4) * u * size) + 4 * u;
    default: return sum_bound(tokens) + 4 * u; /* dbias */
    }
}
/* The f32 part, array by array: linear_bound takes the largest of all sizes for each. */
static double linear_sum_bound(const struct op_case *c, int i)
{
    if (c->flags & CASE_DORA) return dora_sum_bound(c, i);
    const double tokens = (double)c->p[0], k = (double)c->p[1], n = (double)c->p[2], r = c->flags & CASE_LORA ? (double)c->p[3] : 0, inverse = 1 / (1 - c->x[0]);
    switch (i) {
    case L_Y: return sum_bound(k) + 4 * u + 0.5 * r * inverse * (sum_bound(k) + (depth(r) + 4) * u * k);
    case L_XA: return inverse * (sum_bound(k) + 4 * u * k);
    case L_DX: return sum_bound(n) + 4 * u + 0.5 * r * inverse * (sum_bound(n) + (depth(r) + 4) * u * n);
    case L_DA: return 0.5 * inverse * tokens * (sum_bound(n) + (depth(tokens) + 4) * u * n) + 4 * u;
    case L_DB: return 0.5 * inverse * tokens * (sum_bound(k) + (depth(tokens) + 4) * u * k) + 4 * u;
    default: return sum_bound(tokens) + 4 * u; /* dw, dbias */
    }
}
static void linear_allow16(const struct problem *p, const struct pw_tensor *ref, double *const *allow)
{
    for (int i = 0; i < p->n; i++) {
        const double *value = ref[i].data;
        if (p->a[i].role == IN) continue;
        for (int64_t j = 0, n = pw_count(ref[i]); j < n; j++) allow[i][j] = linear_sum_bound(p->c, i) + 2 * u * fabs(value[j]);
        if (p->c->flags & CASE_DORA) dora_each16(p, ref, i, allow[i]);
        else linear_each16(p, ref, i, allow[i]);
    }
}
static struct pw_tensor some(struct pw_tensor t) { return pw_count(t) ? t : pw_none(); }
static struct pw_weight linear_weight(struct problem *p, struct pw_tensor *t)
{
    struct pw_weight w = pw_count(t[L_W]) ? pw_weight_dense(t[L_W]) : p->w;
    w.bias = pw_count(t[L_BIAS]) ? t[L_BIAS].data : NULL;
    if (p->c->flags & CASE_LORA) {
        p->lora = (struct pw_lora){ .r = (int)p->c->p[3], .scale = 0.5, .a = t[L_A], .b = t[L_B] };
        w.lora = &p->lora;
    }
    if (p->c->flags & CASE_DORA) {
        p->lora.magnitude = t[L_M];
        p->lora.norm = t[L_NORM];
        p->lora.drops = p->drop.p > 0;
    }
    return w;
}
static int linear_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    struct pw_weight w = linear_weight(p, t);
    int rc = pw_dev_reserve(dev, pw_scratch_linear(dev, p->c->p[0], &w, false));
    return rc ? rc : pw_linear_fwd(dev, t[L_Y], some(t[L_XA]), t[L_X], &w, p->drop);
}
static int linear_backward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    struct pw_weight w = linear_weight(p, t);
    struct pw_linear_grads g = { some(t[L_DX]), some(t[L_DW]), some(t[L_DBIAS]), some(t[L_DA]), some(t[L_DB]), some(t[L_DM]) };
    int rc = pw_dev_reserve(dev, pw_scratch_linear(dev, p->c->p[0], &w, true));
    return rc ? rc : pw_linear_bwd(dev, &g, t[L_DY], t[L_X], some(t[L_XA]), &w, p->drop);
}
static double linear_bound(const struct op_case *c)
{
    double tokens = (double)c->p[0], k = (double)c->p[1], n = (double)c->p[2], r = c->flags & CASE_LORA ? (double)c->p[3] : 0;
    double largest = tokens > k ? tokens : k, inner = n > k ? n : k, plain = sum_bound(largest > n ? largest : n);
    if (r == 0) return plain;
    for (int i = L_Y; c->flags & CASE_DORA && i <= L_DM; i++) plain = dora_sum_bound(c, i) > plain ? dora_sum_bound(c, i) : plain;
    if (c->flags & CASE_DORA) return plain;
    double terms = r > tokens ? r : tokens; /* products of an inner sum, up to inner in size */
    return plain + 0.5 / (1 - c->x[0]) * terms * (sum_bound(inner) + (depth(terms) + 4) * u * inner);
}
static const struct family linear = { "linear", linear_setup, linear_forward, linear_backward, linear_bound, NULL, linear_allow16, linear_round16 };

/* ---- head_loss; p: T, D, V, masked every n-th; x: softcap. Logits err by e = sum_bound(D); loss by 2e and its own size (log V + 2D) times u;
 * gradients: weights err relatively by 2e + 8u, and V of them (adding up to 2) times |w| <= 1, or T of them for dw ---- */
enum { H_H, H_W, H_LOSS, H_DLOSS, H_DH, H_DW, H_BEST };
static void head_setup(struct problem *p)
{
    const struct op_case *c = p->c;
    struct pw_rng r = pw_rng_make(14, PW_STREAM_TEST);
    bool dense = c->q == PW_Q_DENSE && c->type == PW_F32;
    act2(p, "h", IN, c->p[0], c->p[1]);
    add2(p, "w", IN, dense ? c->p[2] : 0, c->p[1]);
    p->output = add1(p, "loss", OUT, c->p[0]);
    p->upstream = add1(p, "dloss", IN, c->p[0]);
    p->a[H_H].gradient = act2(p, "dh", ADD, c->p[0], c->p[1]);
    p->a[H_W].gradient = add2(p, "dw", ADD, dense ? c->p[2] : 0, c->p[1]);
    add(p, "argmax", OUT, PW_I32, 1, c->p[0], 1, 1);
    int32_t *target = ids(p, c->p[0], 0, c->p[2], &r);
    for (int64_t t = 0; c->p[3] && t < c->p[0]; t++)
        if (t % c->p[3] == 1) target[t] = -100;
    if (!dense) quantised_weight(p, c->q, c->type, c->p[2], c->p[1], false);
}
static int head_run(struct problem *p, struct pw_dev *dev, struct pw_tensor *t, bool backward)
{
    struct pw_weight w = pw_count(t[H_W]) ? pw_weight_dense(t[H_W]) : p->w;
    int rc = pw_dev_reserve(dev, pw_scratch_head(dev, p->c->p[0], &w, backward));
    struct pw_tensor dh = backward ? t[H_DH] : pw_none(), dw = backward ? some(t[H_DW]) : pw_none();
    return rc ? rc : pw_head_loss(dev, t[H_LOSS], t[H_BEST], dh, dw, t[H_H], &w, p->ids, backward ? t[H_DLOSS] : pw_none(), p->c->x[0]);
}
static int head_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t) { return head_run(p, dev, t, false); }
static int head_backward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t) { return head_run(p, dev, t, true); }
static double head_bound(const struct op_case *c)
{
    double tokens = (double)c->p[0], d = (double)c->p[1], v = (double)c->p[2], e = sum_bound(d) + u * 2 * d;
    double loss = 2 * e + u * 4 * (log(v) + 2 * d), weight = 2 * e + 16 * u;
    return loss + 2 * weight * tokens + sum_bound(tokens) + depth(v) * u * 2;
}
static bool head_round16(struct problem *p, int which)
{
    if (which > 0) return false;
    if (p->w.data) round_stored(p);
    else round_array(&p->a[H_W]);
    return true;
}
/* The gradient of each logit is rounded to bf16, relatively; that of the target apart (see kernels/cuda/head.cu). */
static void head_each16(const struct problem *p, const struct pw_tensor *ref, int i, double *extra)
{
    const int64_t tokens = p->c->p[0], width = p->c->p[1], words = p->c->p[2];
    const double *h = ref[H_H].data, *dense = ref[H_W].data, *dloss = ref[H_DLOSS].data, cap = p->c->x[0];
    const int32_t *target = p->ids.data;
    float *stored = NULL;
    if (i != H_DH && i != H_DW) return;
    if (p->w.data) {
        struct pw_dev *dev;
        stored = pw_alloc_zero((size_t)(words * width), sizeof *stored);
        if (!stored || pw_dev_open(&dev, &(struct pw_dev_options){ .kind = "ref" }) < 0 || pw_decode(dev, pw_tensor2(stored, PW_F32, words, width), &p->w, 0) < 0) abort();
        pw_dev_close(dev);
    }
    double *z = pw_alloc_zero((size_t)words, sizeof *z);
    if (!z) abort();
    for (int64_t t = 0; t < tokens; t++) {
        double top = -INFINITY, sum = 0;
        if (target[t] < 0) continue;
        for (int64_t v = 0; v < words; v++) {
            z[v] = 0;
            for (int64_t k = 0; k < width; k++) z[v] += h[t * width + k] * (stored ? (double)stored[v * width + k] : dense[v * width + k]);
            if (cap > 0) z[v] = cap * tanh(z[v] / cap);
            top = z[v] > top ? z[v] : top;
        }
        for (int64_t v = 0; v < words; v++) sum += exp(z[v] - top);
        for (int64_t v = 0; v < words; v++) {
            const double size = u16 * fabs(dloss[t] * (exp(z[v] - top) / sum - (v == target[t])) * (cap > 0 ? 1 - z[v] / cap * (z[v] / cap) : 1));
            for (int64_t k = 0; k < width; k++) {
                if (i == H_DH) extra[t * width + k] += size * fabs(stored ? (double)stored[v * width + k] : dense[v * width + k]);
                else if (!stored) extra[v * width + k] += size * fabs(h[t * width + k]);
            }
        }
    }
    pw_free(z);
    pw_free(stored);
}
static void head_allow16(const struct problem *p, const struct pw_tensor *ref, double *const *allow)
{
    for (int i = 0; i < p->n; i++) {
        const double *value = ref[i].data;
        if (p->a[i].role == IN || p->a[i].type == PW_I32) continue;
        for (int64_t j = 0, n = pw_count(ref[i]); j < n; j++) allow[i][j] = head_bound(p->c) * (1 + fabs(value[j]));
        head_each16(p, ref, i, allow[i]);
    }
}
static const struct family head = { "head", head_setup, head_forward, head_backward, head_bound, NULL, head_allow16, head_round16 };

/* ---- decode; p: K, N. Exact: the same f32 operations. A row range that begins inside a block and on an odd element ---- */
enum { D_ALL, D_PART };
static void decode_setup(struct problem *p)
{
    const int64_t *s = p->c->p;
    quantised_weight(p, p->c->q, p->c->type, s[1], s[0], p->c->flags & CASE_NESTED);
    add2(p, "all", OUT, s[1], s[0]);
    act2(p, "part", OUT, s[1] / 2, s[0]);
}
static int decode_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t)
{
    int rc = pw_decode(dev, t[D_ALL], &p->w, 0);
    return rc ? rc : pw_decode(dev, t[D_PART], &p->w, p->c->p[1] / 3);
}
static double decode_bound(const struct op_case *c) { (void)c; return 0; }
static const struct family decode = { "decode", decode_setup, decode_forward, NULL, decode_bound, NULL };

/* ---- lookup: rows of a weight by id, as an embedding in blocks; p: K, N, T. Exact ---- */
static void lookup_setup(struct problem *p)
{
    const int64_t *s = p->c->p;
    struct pw_rng r = pw_rng_make(11, PW_STREAM_TEST);
    quantised_weight(p, p->c->q, p->c->type, s[1], s[0], p->c->flags & CASE_NESTED);
    act2(p, "out", OUT, s[2], s[0]);
    ids(p, s[2], 0, s[1], &r);
}
static int lookup_forward(struct problem *p, struct pw_dev *dev, struct pw_tensor *t) { return pw_embed_fwd(dev, t[0], &p->w, p->ids); }
static const struct family lookup = { "lookup", lookup_setup, lookup_forward, NULL, decode_bound, NULL };

/* Few rows over a type: every kernel that is made for 1, 2, 3, 4 and 5 to 16 rows of it. K crosses their steps of 512 and 1024, N their columns. */
#define FEW_OF(T, ...) { &linear, { T, 1280, 9, 4 }, __VA_ARGS__, { 0 } }
#define FEW(...) FEW_OF(1, __VA_ARGS__), FEW_OF(2, __VA_ARGS__), FEW_OF(3, __VA_ARGS__), FEW_OF(4, __VA_ARGS__), FEW_OF(7, __VA_ARGS__), FEW_OF(13, __VA_ARGS__)

const struct op_case op_cases_linear[] = {
    /* T, K, N, R; dropout */
    { &linear, { 3, 5, 4, 2 }, F32, CASE_GRAD | CASE_BIAS, { 0 } }, { &linear, { 3, 5, 4, 2 }, F32, CASE_GRAD | CASE_LORA | CASE_BIAS, { 0 } },
    { &linear, { 4, 9, 6, 3 }, F32, CASE_GRAD | CASE_LORA, { 0.4 } }, { &linear, { 3, 9, 7, 2 }, NF4, CASE_GRAD | CASE_LORA, { 0.25 } },
    { &linear, { 2, 8, 5, 2 }, I8, CASE_GRAD, { 0 } }, { &linear, { 2, 8, 5, 2 }, BF, CASE_GRAD | CASE_BIAS, { 0 } },
    { &linear, { 1, 64, 48, 8 }, F32, 0, { 0 } }, { &linear, { 65, 130, 97, 8 }, F32, CASE_LORA | CASE_BIAS, { 0 } },
    { &linear, { 37, 520, 49, 4 }, F32, CASE_LORA, { 0.1 } }, { &linear, { 2, 1100, 51, 4 }, F32, 0, { 0 } },
    { &linear, { 1, 64, 50, 16 }, NF4, CASE_LORA, { 0 } }, { &linear, { 2, 640, 50, 16 }, NF4, CASE_LORA, { 0 } },
    { &linear, { 3, 640, 50, 16 }, NF4, CASE_LORA | CASE_NESTED, { 0 } }, { &linear, { 1, 576, 130, 16 }, NF4, CASE_NESTED, { 0 } },
    { &linear, { 1, 576, 130, 16 }, FP4, CASE_BIAS, { 0 } }, { &linear, { 9, 65, 51, 3 }, NF4, CASE_LORA | CASE_BIAS, { 0.1 } },
    { &linear, { 70, 129, 133, 17 }, NF4, CASE_LORA, { 0.05 } }, { &linear, { 9, 65, 51, 3 }, FP4, 0, { 0 } },
    { &linear, { 9, 65, 51, 3 }, I8, CASE_LORA, { 0 } }, { &linear, { 130, 96, 40, 130 }, BF, CASE_LORA, { 0 } },
    { &linear, { 6, 70, 30, 4 }, HF, 0, { 0 } }, { &linear, { 33, 64, 40, 8 }, NF4, CASE_LORA | CASE_NO_DX, { 0.1 } },
    { &linear, { 300, 24, 20, 8 }, F32, CASE_LORA | CASE_BIAS, { 0 } }, { &linear, { 140, 33, 12, 3 }, NF4, CASE_LORA, { 0.2 } },
    /* the block types of GGUF: one row and few, more than one piece of 512, rows that are no multiple of a tile */
    { &linear, { 2, 32, 3, 2 }, G(Q8_0), CASE_GRAD | CASE_LORA | CASE_BIAS, { 0 } }, { &linear, { 2, 32, 3, 2 }, G(Q5_1), CASE_GRAD, { 0 } },
    { &linear, { 1, 256, 2, 2 }, G(Q4_K), CASE_GRAD, { 0 } }, { &linear, { 1, 256, 2, 2 }, G(Q6_K), CASE_GRAD, { 0 } },
    { &linear, { 1, 96, 50, 4 }, G(Q8_0), CASE_LORA, { 0 } }, { &linear, { 19, 544, 51, 3 }, G(Q8_0), CASE_LORA | CASE_BIAS, { 0.1 } },
    { &linear, { 1, 96, 50, 4 }, G(Q4_0), CASE_LORA, { 0 } }, { &linear, { 19, 544, 51, 3 }, G(Q4_0), CASE_LORA | CASE_BIAS, { 0.1 } },
    { &linear, { 5, 160, 131, 4 }, G(Q4_1), CASE_LORA, { 0 } }, { &linear, { 5, 160, 131, 4 }, G(Q5_0), CASE_LORA, { 0 } },
    { &linear, { 5, 160, 131, 4 }, G(Q5_1), CASE_LORA, { 0 } }, { &linear, { 5, 160, 131, 4 }, G(IQ4_NL), CASE_LORA, { 0 } },
    { &linear, { 1, 256, 50, 4 }, G(Q4_K), CASE_LORA, { 0 } }, { &linear, { 9, 768, 51, 3 }, G(Q4_K), CASE_LORA | CASE_BIAS, { 0.1 } },
    { &linear, { 1, 512, 50, 4 }, G(Q6_K), CASE_LORA, { 0 } }, { &linear, { 9, 768, 51, 3 }, G(Q6_K), CASE_LORA, { 0 } },
    { &linear, { 3, 256, 133, 4 }, G(Q5_K), CASE_LORA | CASE_BIAS, { 0 } }, { &linear, { 2, 512, 130, 4 }, G(Q4_K), 0, { 0 } },
    /* across the tiles of the CUDA sources: 128 x 128 x 32, pieces of 512, words of 16 bytes; f32 results */
    { &linear, { 17, 64, 136, 8 }, NF4, CASE_LORA | CASE_BIAS | CASE_NESTED, { 0 } }, { &linear, { 130, 544, 136, 17 }, NF4, CASE_LORA | CASE_BIAS, { 0.1 } },
    { &linear, { 67, 1032, 24, 8 }, I8, CASE_LORA, { 0.3 } }, { &linear, { 20, 136, 264, 16 }, FP4, CASE_LORA | CASE_NESTED | CASE_WIDE, { 0 } },
    { &linear, { 520, 72, 40, 8 }, HF, CASE_LORA | CASE_BIAS, { 0.5 } }, { &linear, { 600, 40, 33, 5 }, BF, CASE_LORA, { 0.1 } },
    { &linear, { 20, 136, 600, 16 }, F32, CASE_LORA | CASE_BIAS, { 0.1 } }, { &linear, { 3, 2080, 17, 4 }, I8, CASE_LORA | CASE_WIDE, { 0 } },
    { &linear, { 4, 4256, 9, 16 }, NF4, CASE_LORA | CASE_NESTED | CASE_WIDE | CASE_BIAS, { 0 } }, { &linear, { 5, 256, 40, 8 }, BF, CASE_LORA | CASE_WIDE, { 0.2 } },
    { &linear, { 12, 1096, 33, 8 }, NF4, CASE_LORA, { 0 } }, { &linear, { 16, 128, 66, 8 }, HF, CASE_BIAS, { 0 } },
    { &linear, { 2100, 24, 8, 4 }, NF4, CASE_LORA | CASE_BIAS, { 0.3 } }, /* slabs of 2048 rows, several pieces of T */
    { &linear, { 100, 72, 1130, 8 }, BF, CASE_LORA, { 0 } }, /* two pieces of N on the way back, for the longest pieces there are */
    /* 5 to 16 rows: steps of 1024 of K, 32 or 8 columns */
    { &linear, { 16, 2080, 139, 8 }, NF4, CASE_LORA | CASE_BIAS | CASE_NESTED | CASE_NO_DX, { 0 } }, { &linear, { 7, 1040, 21, 3 }, I8, CASE_LORA | CASE_WIDE | CASE_NO_DX, { 0 } },
    { &linear, { 6, 1288, 130, 8 }, F32, CASE_LORA | CASE_NO_DX, { 0 } }, { &linear, { 9, 512, 20, 4 }, PW_Q_Q4_K, PW_BF16, CASE_NO_DX, { 0 } },
    FEW(F32, CASE_LORA | CASE_NO_DX), FEW(BF, CASE_LORA | CASE_NO_DX), FEW(HF, CASE_LORA | CASE_NO_DX), FEW(I8, CASE_LORA | CASE_NO_DX), FEW(NF4, CASE_LORA | CASE_NO_DX),
    FEW(NF4, CASE_LORA | CASE_NO_DX | CASE_NESTED), FEW(FP4, CASE_LORA | CASE_NO_DX), FEW(FP4, CASE_LORA | CASE_NO_DX | CASE_NESTED), FEW(G(Q8_0), CASE_LORA | CASE_NO_DX), FEW(G(Q4_0), CASE_LORA | CASE_NO_DX),
    FEW(G(Q4_1), CASE_NO_DX), FEW(G(Q5_0), CASE_NO_DX), FEW(G(Q5_1), CASE_NO_DX), FEW(G(IQ4_NL), CASE_NO_DX), FEW(G(Q4_K), CASE_LORA | CASE_NO_DX), FEW(G(Q5_K), CASE_NO_DX),
    FEW(G(Q6_K), CASE_LORA | CASE_NO_DX),
    /* with a magnitude: with and without dropout, every way of a product, tiles and pieces crossed */
    { &linear, { 3, 5, 4, 2 }, F32, CASE_GRAD | CASE_LORA | CASE_DORA | CASE_BIAS, { 0 } }, { &linear, { 4, 9, 6, 3 }, F32, CASE_GRAD | CASE_LORA | CASE_DORA | CASE_BIAS, { 0.4 } },
    { &linear, { 3, 9, 7, 2 }, NF4, CASE_GRAD | CASE_LORA | CASE_DORA, { 0.25 } }, { &linear, { 2, 32, 3, 2 }, G(Q8_0), CASE_GRAD | CASE_LORA | CASE_DORA, { 0 } },
    { &linear, { 1, 64, 48, 8 }, NF4, CASE_LORA | CASE_DORA, { 0 } }, { &linear, { 37, 520, 49, 4 }, F32, CASE_LORA | CASE_DORA, { 0.1 } },
    { &linear, { 65, 130, 97, 8 }, F32, CASE_LORA | CASE_DORA | CASE_BIAS, { 0 } }, { &linear, { 130, 96, 136, 17 }, NF4, CASE_LORA | CASE_DORA | CASE_BIAS | CASE_NESTED, { 0.3 } },
    { &linear, { 33, 64, 40, 8 }, BF, CASE_LORA | CASE_DORA | CASE_NO_DX, { 0.2 } }, { &linear, { 520, 40, 24, 8 }, HF, CASE_LORA | CASE_DORA | CASE_BIAS, { 0.5 } },
    { &linear, { 9, 256, 20, 4 }, G(Q4_K), CASE_LORA | CASE_DORA | CASE_WIDE, { 0 } }, { &linear, { 5, 256, 40, 8 }, I8, CASE_LORA | CASE_DORA | CASE_WIDE | CASE_BIAS, { 0.2 } },
    /* T, D, V, masked; softcap */
    { &head, { 4, 5, 7, 3 }, F32, CASE_GRAD, { 0 } }, { &head, { 4, 5, 7, 0 }, F32, CASE_GRAD, { 2 } },
    { &head, { 3, 6, 9, 2 }, NF4, CASE_GRAD, { 0 } }, { &head, { 2, 4, 1, 0 }, F32, CASE_GRAD, { 0 } }, { &head, { 150, 32, 101, 4 }, F32, 0, { 0 } },
    { &head, { 33, 16, 1500, 2 }, F32, 0, { 3 } }, { &head, { 20, 64, 200, 3 }, BF, 0, { 0 } }, { &head, { 1, 64, 200, 0 }, NF4, 0, { 0 } },
    { &head, { 20, 64, 200, 3 }, G(Q8_0), 0, { 0 } }, { &head, { 5, 256, 150, 3 }, G(Q6_K), 0, { 0 } },
    { &head, { 20, 256, 75, 3 }, I8, 0, { 0 } }, { &head, { 9, 256, 75, 4 }, G(Q4_K), 0, { 3 } }, { &head, { 9, 96, 75, 4 }, G(Q4_0), 0, { 0 } }, { &head, { 7, 64, 75, 2 }, HF, 0, { 0 } },
    { &head, { 9, 128, 75, 4 }, NF4, CASE_NESTED, { 0 } },
    { &decode, { 64, 6 }, NF4, 0, { 0 } }, { &decode, { 65, 9 }, NF4, 0, { 0 } }, { &decode, { 65, 9 }, FP4, 0, { 0 } },
    { &decode, { 200, 9 }, NF4, CASE_NESTED, { 0 } }, { &decode, { 2048, 9 }, NF4, CASE_NESTED, { 0 } }, { &decode, { 2050, 9 }, NF4, CASE_NESTED, { 0 } }, { &decode, { 7, 3 }, NF4, 0, { 0 } }, { &decode, { 65, 9 }, I8, 0, { 0 } },
    { &decode, { 65, 9 }, BF, 0, { 0 } }, { &decode, { 65, 9 }, HF, 0, { 0 } },
    { &decode, { 96, 9 }, G(Q8_0), 0, { 0 } }, { &decode, { 96, 9 }, G(Q4_0), 0, { 0 } }, { &decode, { 32, 9 }, G(Q4_1), 0, { 0 } }, { &decode, { 96, 9 }, G(Q5_0), 0, { 0 } },
    { &decode, { 64, 9 }, G(Q5_1), 0, { 0 } }, { &decode, { 512, 9 }, G(Q4_K), 0, { 0 } }, { &decode, { 256, 9 }, G(Q5_K), 0, { 0 } }, { &decode, { 512, 9 }, G(Q6_K), 0, { 0 } },
    { &decode, { 96, 9 }, G(IQ4_NL), 0, { 0 } },
    { &lookup, { 65, 9, 7 }, NF4, 0, { 0 } }, { &lookup, { 2048, 9, 3 }, NF4, CASE_NESTED, { 0 } }, { &lookup, { 65, 9, 20 }, I8, 0, { 0 } }, { &lookup, { 65, 9, 5 }, BF, 0, { 0 } },
    { &lookup, { 65, 9, 5 }, HF, 0, { 0 } }, { &lookup, { 96, 9, 33 }, G(Q8_0), 0, { 0 } }, { &lookup, { 96, 9, 33 }, G(Q4_0), 0, { 0 } },
    { &lookup, { 32, 9, 1 }, G(Q4_1), 0, { 0 } }, { &lookup, { 96, 9, 4 }, G(Q5_0), 0, { 0 } }, { &lookup, { 64, 9, 4 }, G(Q5_1), 0, { 0 } }, { &lookup, { 512, 9, 11 }, G(Q4_K), 0, { 0 } },
    { &lookup, { 256, 9, 3 }, G(Q5_K), 0, { 0 } }, { &lookup, { 4352, 5, 8 }, G(Q6_K), 0, { 0 } }, { &lookup, { 96, 9, 13 }, G(IQ4_NL), 0, { 0 } },
};
const int op_cases_linear_n = (int)(sizeof op_cases_linear / sizeof *op_cases_linear);
