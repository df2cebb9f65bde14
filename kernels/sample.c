/* One token from one row of logits on the host, in a few passes over the row and no memory: where a running sum in the order of tokens exceeds a target is
 * found a digit of the order at a time, from sums in bins. The definition is ref's, which sorts; the arithmetic is that of sample.h. */
#include "kernels/sample.h"

#include <string.h>

#include "base/error.h"
#include "base/rng.h"

struct row { const float *z; int64_t n; float top, sharpness; };
struct bins { uint64_t weight[SAMPLE_BINS]; uint32_t count[SAMPLE_BINS]; };
struct place { int64_t id; uint64_t through; }; /* a token, and the weight of all up to it */

uint64_t pw_draw_bits(const struct pw_draw *draw)
{
    struct pw_rng r = { draw->seed, draw->stream, draw->at };
    return pw_rng_u64(&r);
}

/* The bin in which the running sum, of weights or of tokens, exceeds *target; takes what lies before it off the target, and adds its weight to *before. */
static int crossing(const struct bins *b, bool by_weight, uint64_t *target, uint64_t *before)
{
    for (int i = 0;; i++) {
        const uint64_t mine = by_weight ? b->weight[i] : b->count[i];
        if (*target < mine || i == SAMPLE_BINS - 1) return i;
        *target -= mine;
        *before += b->weight[i];
    }
}

/* The first token at which the running sum exceeds the target; the sum of all does. */
static struct place find(const struct row *r, bool by_weight, uint64_t target)
{
    static const struct { int shift, bits; } digits[] = { { 21, 11 }, { 10, 11 }, { 0, 10 } };
    struct bins b;
    uint64_t before = 0;
    memset(&b, 0, sizeof b);
    for (int64_t i = 0; i < r->n; i++) {
        const int bin = sample_bin(r->z[i], r->top, r->sharpness);
        b.weight[bin] += sample_weight(r->z[i], r->top, r->sharpness);
        b.count[bin]++;
    }
    const int coarse = crossing(&b, by_weight, &target, &before);
    uint32_t order = 0;
    for (int d = 0; d < 3; d++) {
        const int known = digits[d].shift + digits[d].bits;
        memset(&b, 0, sizeof b);
        for (int64_t i = 0; i < r->n; i++) {
            const uint32_t mine = sample_order(r->z[i]);
            if ((d > 0 && mine >> known != order) || sample_bin(r->z[i], r->top, r->sharpness) != coarse) continue;
            const uint32_t bin = mine >> digits[d].shift & ((1u << digits[d].bits) - 1);
            b.weight[bin] += sample_weight(r->z[i], r->top, r->sharpness);
            b.count[bin]++;
        }
        order = order << digits[d].bits | (uint32_t)crossing(&b, by_weight, &target, &before);
    }
    /* equal logits, in the order of their ids */
    uint64_t weight = 0, left = target;
    for (int64_t i = 0; i < r->n; i++) {
        if (sample_order(r->z[i]) != order) continue;
        weight = sample_weight(r->z[i], r->top, r->sharpness);
        before += weight;
        if (left < (by_weight ? weight : 1)) return (struct place){ i, before };
        left -= by_weight ? weight : 1;
    }
    return (struct place){ r->n - 1, before };
}

static uint64_t weight_of_all(const struct row *r)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < r->n; i++) sum += sample_weight(r->z[i], r->top, r->sharpness);
    return sum;
}

/* The weight of what comes before the first token, in the order of tokens, that has less than `least`. */
static uint64_t weight_before(const struct row *r, uint64_t least)
{
    uint32_t order = UINT32_MAX;
    uint64_t sum = 0;
    for (int64_t i = 0; i < r->n; i++)
        if (sample_order(r->z[i]) < order && sample_weight(r->z[i], r->top, r->sharpness) < least) order = sample_order(r->z[i]);
    for (int64_t i = 0; i < r->n; i++)
        if (sample_order(r->z[i]) < order) sum += sample_weight(r->z[i], r->top, r->sharpness);
    return sum;
}

int pw_draw_pick(const float *logits, int64_t vocab, const struct pw_draw *draw, int32_t *id)
{
    int64_t best = 0;
    PW_CHECK(vocab >= 1 && vocab <= SAMPLE_VOCAB_MAX, PW_E_FAIL, "sampling from %lld logits: expected 1 to %d", (long long)vocab, SAMPLE_VOCAB_MAX);
    for (int64_t i = 0; i < vocab; i++) {
        PW_CHECK(logits[i] < INFINITY, PW_E_NUMERIC, "logit of token %lld is not a number", (long long)i);
        if (logits[i] > logits[best]) best = i;
    }
    PW_CHECK(logits[best] > -INFINITY, PW_E_NUMERIC, "no token has a finite logit");
    *id = (int32_t)best;
    if (!(draw->temperature > 0)) return 0;
    const struct row r = { logits, vocab, logits[best], sample_sharpness(draw->temperature) };
    uint64_t total = draw->top_k > 0 && draw->top_k < vocab ? find(&r, false, (uint64_t)draw->top_k - 1).through : weight_of_all(&r);
    if (draw->top_p > 0 && draw->top_p < 1) total = find(&r, true, sample_share(total, draw->top_p) - 1).through;
    if (draw->min_p > 0) {
        const uint64_t most = weight_before(&r, sample_least(draw->min_p));
        total = most < total ? most : total;
    }
    *id = (int32_t)find(&r, true, sample_place(pw_draw_bits(draw), total)).id;
    return 0;
}
