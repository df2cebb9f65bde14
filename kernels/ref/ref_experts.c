/* Reference: mixture of experts: which experts a token goes to, rows in the order of experts, linear layers over them, and the way back. */
#include "kernels/ref/ref.h"

#include <math.h>

/* NaN is above every number, so that it is chosen and seen. */
static bool above(double a, double b) { return a > b || (isnan(a) && !isnan(b)); }

int ref_route_fwd(struct pw_dev *dev, struct pw_tensor weights, struct pw_tensor chosen, struct pw_tensor logits, bool renormalise)
{
    (void)dev;
    const int64_t tokens = logits.shape[0], experts = logits.shape[1], n = weights.shape[1];
    int32_t *id = chosen.data;
    for (int64_t t = 0; t < tokens; t++, id += n) {
        bool taken[PW_EXPERTS_MAX] = { false };
        double sum = 0;
        for (int64_t c = 0; c < n; c++) {
            int64_t best = -1;
            for (int64_t e = 0; e < experts; e++)
                if (!taken[e] && (best < 0 || above(ref_get(logits, t * experts + e), ref_get(logits, t * experts + best)))) best = e;
            taken[best] = true;
            id[c] = (int32_t)best;
        }
        const double top = ref_get(logits, t * experts + id[0]);
        for (int64_t e = 0; e < experts; e++)
            if (!renormalise || taken[e]) sum += exp(ref_get(logits, t * experts + e) - top);
        for (int64_t c = 0; c < n; c++) ref_put(weights, t * n + c, exp(ref_get(logits, t * experts + id[c]) - top) / sum);
    }
    return 0;
}

int ref_route_bwd(struct pw_dev *dev, struct pw_tensor dlogits, struct pw_tensor dweights, struct pw_tensor weights, struct pw_tensor chosen, struct pw_tensor logits, bool renormalise)
{
    (void)dev;
    const int64_t tokens = logits.shape[0], experts = logits.shape[1], n = weights.shape[1];
    const int32_t *id = chosen.data;
    for (int64_t t = 0; t < tokens; t++, id += n) {
        double mean = 0;
        for (int64_t c = 0; c < n; c++) mean += ref_get(weights, t * n + c) * ref_get(dweights, t * n + c);
        for (int64_t c = 0; c < n; c++) ref_add(dlogits, t * experts + id[c], ref_get(weights, t * n + c) * (ref_get(dweights, t * n + c) - (renormalise ? mean : 0)));
        if (renormalise) continue;
        const double top = ref_get(logits, t * experts + id[0]);
        double sum = 0;
        for (int64_t e = 0; e < experts; e++) sum += exp(ref_get(logits, t * experts + e) - top);
        for (int64_t e = 0; e < experts; e++) ref_add(dlogits, t * experts + e, -mean * exp(ref_get(logits, t * experts + e) - top) / sum);
    }
    return 0;
}

int ref_route_rows(struct pw_dev *dev, struct pw_tensor starts, struct pw_tensor tokens, struct pw_tensor places, struct pw_tensor chosen)
{
    (void)dev;
    const int64_t experts = starts.shape[0] - 1, n = chosen.shape[1], pairs = pw_count(chosen);
    const int32_t *id = chosen.data;
    int32_t *start = starts.data, *token = tokens.data, *place = places.data, row = 0;
    for (int64_t e = 0; e < experts; e++) {
        start[e] = row;
        for (int64_t i = 0; i < pairs; i++)
            if (id[i] == e) {
                token[row] = (int32_t)(i / n);
                place[i] = row++;
            }
    }
    start[experts] = row;
    return 0;
}

static struct pw_tensor part(struct pw_tensor t, int64_t first, int64_t end) { return t.data ? pw_rows(t, first, end - first) : t; }

int ref_experts_fwd(struct pw_dev *dev, struct pw_tensor y, struct pw_tensor xa, struct pw_tensor x, struct pw_tensor starts, const struct pw_experts *experts, struct pw_drop drop)
{
    const int32_t *at = starts.data;
    for (int e = 0; e < experts->n; e++) {
        const int rc = ref_linear_fwd(dev, part(y, at[e], at[e + 1]), part(xa, at[e], at[e + 1]), part(x, at[e], at[e + 1]), &experts->w[e], pw_drop_of_expert(drop, e, at[e]));
        if (rc < 0) return rc;
    }
    return 0;
}

int ref_experts_bwd(struct pw_dev *dev, struct pw_tensor dx, const struct pw_linear_grads *g, struct pw_tensor dy, struct pw_tensor x, struct pw_tensor xa, struct pw_tensor starts,
                    const struct pw_experts *experts, struct pw_drop drop)
{
    const int32_t *at = starts.data;
    for (int e = 0; e < experts->n; e++) {
        struct pw_linear_grads of = g ? g[e] : (struct pw_linear_grads){ 0 };
        of.dx = part(dx, at[e], at[e + 1]);
        const int rc = ref_linear_bwd(dev, &of, part(dy, at[e], at[e + 1]), part(x, at[e], at[e + 1]), part(xa, at[e], at[e + 1]), &experts->w[e], pw_drop_of_expert(drop, e, at[e]));
        if (rc < 0) return rc;
    }
    return 0;
}

int ref_combine_fwd(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor y, struct pw_tensor places, struct pw_tensor weights)
{
    (void)dev;
    const int64_t tokens = out.shape[0], width = out.shape[1], n = places.shape[1];
    const int32_t *place = places.data;
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < width; i++) {
            double sum = 0;
            for (int64_t c = 0; c < n; c++) sum += (weights.data ? ref_get(weights, t * n + c) : 1) * ref_get(y, place[t * n + c] * width + i);
            ref_add(out, t * width + i, sum);
        }
    return 0;
}

int ref_combine_bwd(struct pw_dev *dev, struct pw_tensor dy, struct pw_tensor dweights, struct pw_tensor dout, struct pw_tensor y, struct pw_tensor places, struct pw_tensor weights)
{
    (void)dev;
    const int64_t tokens = dout.shape[0], width = dout.shape[1], n = places.shape[1];
    const int32_t *place = places.data;
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t c = 0; c < n; c++) {
            double dot = 0;
            for (int64_t i = 0; i < width; i++) {
                const double g = ref_get(dout, t * width + i);
                ref_add(dy, place[t * n + c] * width + i, (weights.data ? ref_get(weights, t * n + c) : 1) * g);
                if (dweights.data) dot += g * ref_get(y, place[t * n + c] * width + i);
            }
            ref_add(dweights, t * n + c, dot);
        }
    return 0;
}
