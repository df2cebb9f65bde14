/* Mixture of experts on the cpu. Tokens are shared out among threads, each done by one; linear layers of experts are those of cpu_linear.c over
 * the rows of one expert at a time, so that an expert without rows costs nothing and its weights are not read. */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>
#include "base/error.h"

/* NaN is above every number, so that it is chosen and seen. */
static bool above(float a, float b) { return a > b || (isnan(a) && !isnan(b)); }

static void choose(const float *logit, int64_t experts, int32_t *id, int64_t n)
{
    bool taken[PW_EXPERTS_MAX] = { false };
    for (int64_t c = 0; c < n; c++) {
        int64_t best = -1;
        for (int64_t e = 0; e < experts; e++)
            if (!taken[e] && (best < 0 || above(logit[e], logit[best]))) best = e;
        taken[best] = true;
        id[c] = (int32_t)best;
    }
}

/* What the weights are a share of: sum of exp(logit - largest) over all, or over the chosen in their order. */
static float share_of(const float *logit, int64_t experts, const int32_t *id, int64_t n, bool renormalise)
{
    float sum = 0;
    if (renormalise)
        for (int64_t c = 0; c < n; c++) sum += expf(logit[id[c]] - logit[id[0]]);
    else
        for (int64_t e = 0; e < experts; e++) sum += expf(logit[e] - logit[id[0]]);
    return sum;
}

int cpu_route_fwd(struct pw_dev *dev, struct pw_tensor weights, struct pw_tensor chosen, struct pw_tensor logits, bool renormalise)
{
    const int64_t tokens = logits.shape[0], experts = logits.shape[1], n = weights.shape[1];
#pragma omp parallel for num_threads(dev->threads) if (tokens * experts * n > CPU_SMALL_ELEMENTS)
    for (int64_t t = 0; t < tokens; t++) {
        const float *logit = (const float *)logits.data + t * experts;
        float *weight = (float *)weights.data + t * n;
        int32_t *id = (int32_t *)chosen.data + t * n;
        choose(logit, experts, id, n);
        const float sum = share_of(logit, experts, id, n, renormalise);
        for (int64_t c = 0; c < n; c++) weight[c] = expf(logit[id[c]] - logit[id[0]]) / sum;
    }
    return 0;
}

int cpu_route_bwd(struct pw_dev *dev, struct pw_tensor dlogits, struct pw_tensor dweights, struct pw_tensor weights, struct pw_tensor chosen, struct pw_tensor logits, bool renormalise)
{
    const int64_t tokens = logits.shape[0], experts = logits.shape[1], n = weights.shape[1];
#pragma omp parallel for num_threads(dev->threads) if (tokens * experts > CPU_SMALL_ELEMENTS)
    for (int64_t t = 0; t < tokens; t++) {
        const float *logit = (const float *)logits.data + t * experts, *weight = (const float *)weights.data + t * n, *up = (const float *)dweights.data + t * n;
        const int32_t *id = (const int32_t *)chosen.data + t * n;
        float *to = (float *)dlogits.data + t * experts, mean = 0;
        for (int64_t c = 0; c < n; c++) mean += weight[c] * up[c];
        for (int64_t c = 0; c < n; c++) to[id[c]] += weight[c] * (up[c] - (renormalise ? mean : 0));
        if (renormalise) continue;
        const float scale = mean / share_of(logit, experts, id, n, false);
        for (int64_t e = 0; e < experts; e++) to[e] -= scale * expf(logit[e] - logit[id[0]]);
    }
    return 0;
}

int cpu_route_rows(struct pw_dev *dev, struct pw_tensor starts, struct pw_tensor tokens, struct pw_tensor places, struct pw_tensor chosen)
{
    (void)dev;
    const int64_t experts = starts.shape[0] - 1, n = chosen.shape[1], pairs = pw_count(chosen);
    const int32_t *id = chosen.data;
    int32_t *start = starts.data, *token = tokens.data, *place = places.data, next[PW_EXPERTS_MAX];
    memset(start, 0, (size_t)(experts + 1) * sizeof *start);
    for (int64_t i = 0; i < pairs; i++) start[id[i] + 1]++;
    for (int64_t e = 0; e < experts; e++) {
        start[e + 1] += start[e];
        next[e] = start[e];
    }
    for (int64_t i = 0; i < pairs; i++) {
        place[i] = next[id[i]]++;
        token[place[i]] = (int32_t)(i / n);
    }
    return 0;
}

static struct pw_tensor part(struct pw_tensor t, int64_t first, int64_t end) { return t.data ? pw_rows(t, first, end - first) : t; }

int cpu_experts_fwd(struct pw_dev *dev, struct pw_tensor y, struct pw_tensor xa, struct pw_tensor x, struct pw_tensor starts, const struct pw_experts *experts, struct pw_drop drop)
{
    const int32_t *at = starts.data;
    for (int e = 0; e < experts->n; e++)
        PW_PASS(cpu_linear_fwd(dev, part(y, at[e], at[e + 1]), part(xa, at[e], at[e + 1]), part(x, at[e], at[e + 1]), &experts->w[e], pw_drop_of_expert(drop, e, at[e])));
    return 0;
}

int cpu_experts_bwd(struct pw_dev *dev, struct pw_tensor dx, const struct pw_linear_grads *g, struct pw_tensor dy, struct pw_tensor x, struct pw_tensor xa, struct pw_tensor starts,
                    const struct pw_experts *experts, struct pw_drop drop)
{
    const int32_t *at = starts.data;
    for (int e = 0; e < experts->n; e++) {
        struct pw_linear_grads of = g ? g[e] : (struct pw_linear_grads){ .da = pw_none() };
        of.dx = part(dx, at[e], at[e + 1]);
        PW_PASS(cpu_linear_bwd(dev, &of, part(dy, at[e], at[e + 1]), part(x, at[e], at[e + 1]), part(xa, at[e], at[e + 1]), &experts->w[e], pw_drop_of_expert(drop, e, at[e])));
    }
    return 0;
}

size_t cpu_scratch_experts(const struct pw_dev *dev, int64_t rows, const struct pw_experts *experts, bool backward)
{
    return cpu_scratch_linear(dev, rows, &experts->w[0], backward); /* all rows may go to one */
}

int cpu_combine_fwd(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor y, struct pw_tensor places, struct pw_tensor weights)
{
    const int64_t tokens = out.shape[0], width = out.shape[1], n = places.shape[1];
#pragma omp parallel for num_threads(dev->threads) if (tokens * width * n > CPU_SMALL_ELEMENTS)
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t c = 0; c < n; c++)
            cpu_isa_of(dev)->axpy(width, (float *)out.data + t * width, (const float *)y.data + ((const int32_t *)places.data)[t * n + c] * width,
                                  weights.data ? ((const float *)weights.data)[t * n + c] : 1);
    return 0;
}

int cpu_combine_bwd(struct pw_dev *dev, struct pw_tensor dy, struct pw_tensor dweights, struct pw_tensor dout, struct pw_tensor y, struct pw_tensor places, struct pw_tensor weights)
{
    const int64_t tokens = dout.shape[0], width = dout.shape[1], n = places.shape[1];
    const struct cpu_isa *isa = cpu_isa_of(dev);
#pragma omp parallel for num_threads(dev->threads) if (tokens * width * n > CPU_SMALL_ELEMENTS)
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t c = 0; c < n; c++) {
            const int64_t row = ((const int32_t *)places.data)[t * n + c];
            const float *up = (const float *)dout.data + t * width;
            float dot;
            isa->axpy(width, (float *)dy.data + row * width, up, weights.data ? ((const float *)weights.data)[t * n + c] : 1);
            if (!dweights.data) continue;
            isa->dot(1, 1, width, up, width, (const float *)y.data + row * width, width, &dot, 1, false);
            ((float *)dweights.data)[t * n + c] += dot;
        }
    return 0;
}
