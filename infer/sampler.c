/* Choosing a token on the host: greedy, or one draw from what temperature, top-k, top-p and min-p leave. Knows nothing of text. */
#include "infer/sampler.h"

#include <math.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/memory.h"

struct choice { float logit; int32_t id; };

static int larger_first(const void *a, const void *b)
{
    const struct choice *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;     /* a fixed order, whatever the sort does */
}

static int32_t largest(const float *logits, int64_t vocab)
{
    int64_t best = 0;
    for (int64_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return (int32_t)best;
}

/* choices are sorted; returns how many of them stay. weight[i] = exp((logit - max) / temperature). */
static int64_t keep(const struct pw_sampler *s, const double *weight, int64_t n)
{
    double total = 0, seen = 0;
    if (s->top_k > 0 && s->top_k < n)
        n = s->top_k;
    if (s->top_p > 0 && s->top_p < 1) {
        for (int64_t i = 0; i < n; i++)
            total += weight[i];
        for (int64_t i = 0; i < n; i++) {
            seen += weight[i];
            if (seen >= s->top_p * total) {
                n = i + 1;
                break;
            }
        }
    }
    if (s->min_p > 0)          /* weight[0] is 1, so a weight is the share of the largest probability */
        for (int64_t i = 1; i < n; i++)
            if (weight[i] < s->min_p)
                return i;
    return n;
}

int pw_sampler_pick(struct pw_sampler *s, const float *logits, int64_t vocab, int32_t *token)
{
    PW_CHECK(vocab > 0 && vocab <= INT32_MAX, PW_E_FAIL, "sampling from %lld logits", (long long)vocab);
    for (int64_t i = 0; i < vocab; i++)
        PW_CHECK(!isnan(logits[i]) && logits[i] < INFINITY, PW_E_NUMERIC, "logit of token %lld is not a number", (long long)i);
    const int32_t best = largest(logits, vocab);
    PW_CHECK(logits[best] > -INFINITY, PW_E_NUMERIC, "no token has a finite logit");
    if (!(s->temperature > 0)) {
        *token = best;
        return 0;
    }

    int rc = 0;
    struct choice *choices = pw_alloc((size_t)vocab * sizeof *choices);
    double *weight = pw_alloc((size_t)vocab * sizeof *weight);
    PW_CHECK_OUT(choices && weight, PW_E_NOMEM, "out of memory for %lld choices", (long long)vocab);
    for (int64_t i = 0; i < vocab; i++)
        choices[i] = (struct choice){logits[i], (int32_t)i};
    qsort(choices, (size_t)vocab, sizeof *choices, larger_first);
    for (int64_t i = 0; i < vocab; i++)
        weight[i] = exp(((double)choices[i].logit - (double)logits[best]) / s->temperature);

    const int64_t n = keep(s, weight, vocab);
    double total = 0, at = 0;
    for (int64_t i = 0; i < n; i++)
        total += weight[i];
    const double draw = pw_rng_uniform(&s->rng) * total;
    int64_t picked = 0;        /* rounding may leave the draw at the very end: then the last with any weight */
    for (int64_t i = 0; i < n; i++) {
        if (weight[i] > 0)
            picked = i;
        at += weight[i];
        if (draw < at)
            break;
    }
    *token = choices[picked].id;
out:
    pw_free(choices);
    pw_free(weight);
    return rc;
}
