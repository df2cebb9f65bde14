/* Reference: capping logits, and drawing tokens: tokens in their order, and running sums of their weights. */
#include "kernels/ref/ref.h"

#include <stdlib.h>
#include "base/error.h"
#include "kernels/sample.h"

int ref_softcap(struct pw_dev *dev, struct pw_tensor x, double cap)
{
    (void)dev;
    for (int64_t i = 0, n = pw_count(x); i < n; i++) ref_put(x, i, cap * tanh(ref_get(x, i) / cap));
    return 0;
}

struct token { float z; int32_t id; };

static int by_order(const void *a, const void *b)
{
    const struct token *x = a, *y = b;
    if (x->z != y->z) return x->z > y->z ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

size_t ref_scratch_sample(const struct pw_dev *dev, int64_t vocab) { return (void)dev, (size_t)vocab * sizeof(struct token); }

static int pick(const float *logits, int64_t vocab, const struct pw_draw *d, struct token *tokens, int32_t *id)
{
    for (int64_t i = 0; i < vocab; i++) {
        PW_CHECK(logits[i] < INFINITY, PW_E_NUMERIC, "logit of token %lld is not a number", (long long)i);
        tokens[i] = (struct token){ logits[i], (int32_t)i };
    }
    qsort(tokens, (size_t)vocab, sizeof *tokens, by_order);
    PW_CHECK(tokens[0].z > -INFINITY, PW_E_NUMERIC, "no token has a finite logit");
    *id = tokens[0].id;
    if (!(d->temperature > 0)) return 0;
    const float sharpness = sample_sharpness(d->temperature);
    int64_t n = d->top_k > 0 && d->top_k < vocab ? d->top_k : vocab, kept = 0;
    uint64_t total = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) total += sample_weight(tokens[i].z, tokens[0].z, sharpness);
    const uint64_t enough = d->top_p > 0 && d->top_p < 1 ? sample_share(total, d->top_p) : total, least = d->min_p > 0 ? sample_least(d->min_p) : 0;
    for (; kept < n && (kept == 0 || sum < enough); kept++) {
        const uint64_t weight = sample_weight(tokens[kept].z, tokens[0].z, sharpness);
        if (weight < least) break;
        sum += weight;
    }
    const uint64_t place = sample_place(pw_draw_bits(d), sum);
    sum = 0;
    for (int64_t i = 0; i < kept; i++) {
        sum += sample_weight(tokens[i].z, tokens[0].z, sharpness);
        *id = tokens[i].id;
        if (sum > place) break;
    }
    return 0;
}

int ref_sample(struct pw_dev *dev, struct pw_tensor ids, struct pw_tensor logits, const struct pw_draws *draws)
{
    const int64_t vocab = logits.shape[1];
    for (int64_t t = 0; t < logits.shape[0]; t++)
        PW_TRY(pick((const float *)logits.data + t * vocab, vocab, &draws->rows[t], dev->scratch, (int32_t *)ids.data + t), "sample: logits[%lld]", (long long)t);
    return 0;
}
