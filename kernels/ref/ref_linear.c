/* Reference: linear layers over any weight, the loss head, encoding and decoding of quantised weights. */
#include "kernels/ref/ref.h"

#include <math.h>
#include <string.h>
#include "kernels/blocks.h"

double ref_weight(const struct pw_weight *w, int64_t i)
{
    if (w->type == PW_Q_DENSE) {
        struct pw_tensor t = pw_tensor1((void *)(uintptr_t)w->data, w->dtype, w->n_out * w->n_in);
        return ref_get(t, i);
    }
    const struct pw_block_type *b = pw_block_type(w->type);
    if (b) {
        float group[PW_BLOCK_GROUP];
        b->decode((const uint8_t *)w->data + i / b->elements * b->bytes, (int)(i % b->elements) / PW_BLOCK_GROUP, group);
        return group[i % PW_BLOCK_GROUP];
    }
    if (w->type == PW_Q_INT8) {
        float step = w->absmax[i / w->n_in] / 127.0f;
        return (float)((const int8_t *)w->data)[i] * step;
    }
    uint8_t byte = ((const uint8_t *)w->data)[i / 2];
    int code = i % 2 ? byte & 15 : byte >> 4;
    float absmax = pw_weight_absmax(w, i / w->block);
    return (w->type == PW_Q_NF4 ? pw_nf4_table : pw_fp4_table)[code] * absmax;
}

/* m / norm of output n, and 1 where the adapter has no magnitude */
static double ratio_of(const struct pw_weight *w, int64_t n) { return pw_weight_is_dora(w) ? ref_get(w->lora->magnitude, n) / ref_get(w->lora->norm, n) : 1; }
/* What the base multiplies an input by that dropout multiplies by `keep`. */
static double share_of(bool magnitude, double ratio, double keep) { return magnitude ? 1 - keep + ratio * keep : 1; }

int ref_linear_fwd(struct pw_dev *dev, struct pw_tensor y, struct pw_tensor xa, struct pw_tensor x, const struct pw_weight *w, struct pw_drop drop)
{
    (void)dev;
    int64_t tokens = x.shape[0], n_in = w->n_in, n_out = w->n_out;
    int rank = w->lora ? w->lora->r : 0;
    for (int64_t t = 0; t < tokens; t++)
        for (int r = 0; r < rank; r++) {
            double sum = 0;
            for (int64_t k = 0; k < n_in; k++) sum += ref_keep(drop, pw_drop_element(drop, t, n_in, k)) * ref_get(x, t * n_in + k) * ref_get(w->lora->a, r * n_in + k);
            ref_put(xa, t * rank + r, sum);
        }
    for (int64_t n = 0; n < n_out; n++)
        for (int64_t t = 0; t < tokens; t++) {
            double sum = w->bias ? (double)w->bias[n] : 0, low = 0;
            for (int64_t k = 0; k < n_in; k++)
                sum += share_of(pw_weight_is_dora(w), ratio_of(w, n), ref_keep(drop, pw_drop_element(drop, t, n_in, k))) * ref_get(x, t * n_in + k) * ref_weight(w, n * n_in + k);
            for (int r = 0; r < rank; r++) low += ref_get(xa, t * rank + r) * ref_get(w->lora->b, n * rank + r);
            ref_put(y, t * n_out + n, sum + (rank ? ratio_of(w, n) * w->lora->scale * low : 0));
        }
    return 0;
}

int ref_linear_bwd(struct pw_dev *dev, const struct pw_linear_grads *g, struct pw_tensor dy, struct pw_tensor x, struct pw_tensor xa, const struct pw_weight *w, struct pw_drop drop)
{
    (void)dev;
    int64_t tokens = dy.shape[0], n_in = w->n_in, n_out = w->n_out;
    int rank = w->lora ? w->lora->r : 0;
    for (int64_t t = 0; g->dx.data && t < tokens; t++)
        for (int64_t k = 0; k < n_in; k++) {
            double sum = 0;
            for (int64_t n = 0; n < n_out; n++)
                sum += share_of(pw_weight_is_dora(w), ratio_of(w, n), ref_keep(drop, pw_drop_element(drop, t, n_in, k))) * ref_get(dy, t * n_out + n) * ref_weight(w, n * n_in + k);
            ref_add(g->dx, t * n_in + k, sum);
        }
    for (int64_t n = 0; n < n_out; n++) {
        double bias = 0;
        for (int64_t t = 0; t < tokens; t++) bias += ref_get(dy, t * n_out + n);
        ref_add(g->dbias, n, bias);
        for (int64_t k = 0; g->dw.data && k < n_in; k++) {
            double sum = 0;
            for (int64_t t = 0; t < tokens; t++) sum += ref_get(dy, t * n_out + n) * ref_get(x, t * n_in + k);
            ref_add(g->dw, n * n_in + k, sum);
        }
        for (int r = 0; g->db.data && r < rank; r++) {
            double sum = 0;
            for (int64_t t = 0; t < tokens; t++) sum += ref_get(dy, t * n_out + n) * ref_get(xa, t * rank + r);
            ref_add(g->db, n * rank + r, ratio_of(w, n) * w->lora->scale * sum);
        }
        double dot = 0;
        for (int64_t t = 0; g->dm.data && t < tokens; t++) {
            double sum = 0, low = 0;
            for (int64_t k = 0; k < n_in; k++) sum += ref_keep(drop, pw_drop_element(drop, t, n_in, k)) * ref_get(x, t * n_in + k) * ref_weight(w, n * n_in + k);
            for (int r = 0; r < rank; r++) low += ref_get(xa, t * rank + r) * ref_get(w->lora->b, n * rank + r);
            dot += ref_get(dy, t * n_out + n) * (sum + w->lora->scale * low);
        }
        if (g->dm.data) ref_add(g->dm, n, dot / ref_get(w->lora->norm, n));
    }
    for (int r = 0; (g->dx.data || g->da.data) && r < rank; r++)
        for (int64_t t = 0; t < tokens; t++) {
            double dxa = 0; /* gradient of xa[t][r] */
            for (int64_t n = 0; n < n_out; n++) dxa += ratio_of(w, n) * ref_get(dy, t * n_out + n) * ref_get(w->lora->b, n * rank + r);
            dxa *= w->lora->scale;
            for (int64_t k = 0; k < n_in; k++) {
                double keep = ref_keep(drop, pw_drop_element(drop, t, n_in, k));
                if (g->da.data) ref_add(g->da, r * n_in + k, dxa * keep * ref_get(x, t * n_in + k));
                ref_add(g->dx, t * n_in + k, dxa * keep * ref_get(w->lora->a, r * n_in + k));
            }
        }
    return 0;
}

int ref_row_norm(struct pw_dev *dev, struct pw_tensor norm, const struct pw_weight *w)
{
    (void)dev;
    const int rank = w->lora ? w->lora->r : 0;
    for (int64_t n = 0; n < w->n_out; n++) {
        double squares = 0;
        for (int64_t k = 0; k < w->n_in; k++) {
            double low = 0;
            for (int r = 0; r < rank; r++) low += ref_get(w->lora->b, n * rank + r) * ref_get(w->lora->a, r * w->n_in + k);
            const double x = ref_weight(w, n * w->n_in + k) + (rank ? w->lora->scale * low : 0);
            squares += x * x;
        }
        ref_put(norm, n, sqrt(squares));
    }
    return 0;
}

int ref_dropout(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, struct pw_drop drop, bool rest, bool add)
{
    (void)dev;
    for (int64_t i = 0, n = pw_count(x); i < n; i++) {
        const double keep = ref_keep(drop, i);
        ref_put(out, i, (add ? ref_get(out, i) : 0) + ref_get(x, i) * (rest ? 1 - keep : keep));
    }
    return 0;
}

int ref_column_scale(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, struct pw_tensor m, struct pw_tensor norm, struct pw_tensor bias, bool add)
{
    (void)dev;
    for (int64_t i = 0, n = pw_count(x), width = x.shape[1]; i < n; i++) {
        const int64_t c = i % width;
        ref_put(out, i, (add ? ref_get(out, i) : 0) + ref_get(x, i) * ref_get(m, c) / ref_get(norm, c) + (bias.data ? ref_get(bias, c) : 0));
    }
    return 0;
}

int ref_column_dot(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, struct pw_tensor y, struct pw_tensor norm)
{
    (void)dev;
    for (int64_t c = 0, width = x.shape[1]; c < width; c++) {
        double sum = 0;
        for (int64_t t = 0; t < x.shape[0]; t++) sum += ref_get(x, t * width + c) * ref_get(y, t * width + c);
        ref_add(out, c, sum / ref_get(norm, c));
    }
    return 0;
}

/* The capped logit of one row against word v. */
static double logit_of(struct pw_tensor h, const struct pw_weight *w, int64_t t, int64_t v, double softcap)
{
    int64_t width = w->n_in;
    double z = 0;
    for (int64_t i = 0; i < width; i++) z += ref_get(h, t * width + i) * ref_weight(w, v * width + i);
    return softcap > 0 ? softcap * tanh(z / softcap) : z;
}

int ref_head_loss(struct pw_dev *dev, struct pw_tensor loss, struct pw_tensor argmax, struct pw_tensor dh, struct pw_tensor dw, struct pw_tensor h,
                  const struct pw_weight *w, struct pw_tensor targets, struct pw_tensor dloss, double softcap)
{
    (void)dev;
    int64_t tokens = h.shape[0], width = w->n_in, words = w->n_out;
    const int32_t *target = targets.data;
    int32_t *best = argmax.data;
    for (int64_t t = 0; t < tokens; t++) {
        if (target[t] < 0) {
            ref_put(loss, t, 0);
            if (best) best[t] = -1;
            continue;
        }
        double top = -INFINITY, sum = 0, at_target = 0;
        int64_t first = 0;
        for (int64_t v = 0; v < words; v++) {
            double z = logit_of(h, w, t, v, softcap);
            if (v == target[t]) at_target = z;
            if (z > top) { sum = sum * exp(top - z) + 1; top = z; first = v; }
            else sum += exp(z - top); /* NaN lands here and stays */
        }
        double lse = top + log(sum);
        ref_put(loss, t, lse - at_target);
        if (best) best[t] = (int32_t)first;
        if (!dh.data && !dw.data) continue;
        double up = ref_get(dloss, t);
        for (int64_t v = 0; v < words; v++) {
            double z = logit_of(h, w, t, v, softcap), dz = up * (exp(z - lse) - (v == target[t]));
            if (softcap > 0) dz *= 1 - (z / softcap) * (z / softcap);
            for (int64_t i = 0; i < width; i++) {
                ref_add(dh, t * width + i, dz * ref_weight(w, v * width + i));
                if (dw.data) ref_add(dw, v * width + i, dz * ref_get(h, t * width + i));
            }
        }
    }
    return 0;
}

int ref_encode(struct pw_dev *dev, struct pw_weight *w, struct pw_tensor x)
{
    (void)dev;
    const float *value = x.data;
    float *absmax = (float *)(uintptr_t)w->absmax;
    uint8_t *code = (uint8_t *)(uintptr_t)w->data;
    int64_t n = w->n_out * w->n_in, block = w->type == PW_Q_INT8 ? w->n_in : w->block;
    const struct pw_block_type *b = pw_block_type(w->type);
    if (b) {
        for (int64_t i = 0; i < n / b->elements; i++) b->encode(value + i * b->elements, code + i * b->bytes);
        return 0;
    }
    if (w->type != PW_Q_INT8) memset(code, 0, (size_t)(n + 1) / 2);
    for (int64_t first = 0; first < n; first += block) {
        int64_t end = first + block < n ? first + block : n;
        float top = 0;
        for (int64_t i = first; i < end; i++) top = fabsf(value[i]) > top ? fabsf(value[i]) : top;
        absmax[first / block] = top;
        float inverse = pw_block_inverse(top);
        for (int64_t i = first; i < end; i++) {
            if (w->type == PW_Q_INT8) { ((int8_t *)code)[i] = (int8_t)pw_int8_code(value[i], top); continue; }
            int c = w->type == PW_Q_NF4 ? pw_nf4_code(value[i] * inverse) : pw_fp4_code(value[i] * inverse);
            code[i / 2] = (uint8_t)(code[i / 2] | (i % 2 ? c : c << 4));
        }
    }
    return 0;
}

int ref_decode(struct pw_dev *dev, struct pw_tensor out, const struct pw_weight *w, int64_t first_row)
{
    (void)dev;
    for (int64_t i = 0, n = pw_count(out); i < n; i++) ref_put(out, i, ref_weight(w, first_row * w->n_in + i));
    return 0;
}
