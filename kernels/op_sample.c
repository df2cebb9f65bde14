/* The checked entry points of what comes after the head: capping logits, drawing tokens from them, and the list that says how. As in op.c, nothing is
 * computed here. */
#include "kernels/op_check.h"

#include <inttypes.h>
#include <math.h>

#include "base/error.h"
#include "kernels/backend.h"
#include "kernels/sample.h"

int pw_softcap(struct pw_dev *dev, struct pw_tensor x, double cap)
{
    PW_PASS(op_lead_wide(dev, "softcap", "x", x, 0));
    PW_CHECK(cap > 0 && isfinite(cap), PW_E_FAIL, "softcap: cap: expected a number above 0, got %g", cap);
    return op_over(dev->ops->softcap(dev, x, cap), x);
}

static int good_draws(const struct pw_draws *draws)
{
    for (int t = 0; t < draws->n; t++) {
        const struct pw_draw *d = &draws->rows[t];
        PW_CHECK(d->temperature >= 0 && d->top_p >= 0 && d->min_p >= 0 && d->top_k >= 0, PW_E_FAIL,
                 "sample: draws[%d]: expected temperature, top_p, min_p and top_k of 0 or more, got %g, %g, %g and %" PRId64, t, d->temperature, d->top_p, d->min_p, d->top_k);
    }
    return 0;
}

size_t pw_draws_bytes(int n) { return pw_pool_round((size_t)n * sizeof(struct pw_draw)); }

int pw_draws_put(struct pw_dev *dev, void *memory, struct pw_draws *d)
{
    d->device = NULL;
    PW_PASS(good_draws(d)); /* a captured step is replayed without its checks */
    if (dev->host || d->n == 0) return 0;
    PW_PASS(pw_dev_put(dev, memory, d->rows, (size_t)d->n * sizeof *d->rows));
    d->device = memory;
    return 0;
}

int pw_sample(struct pw_dev *dev, struct pw_tensor ids, struct pw_tensor logits, const struct pw_draws *draws)
{
    const char *op = "sample";
    PW_CHECK(logits.data && logits.ndim == 2 && logits.shape[0] >= 0 && logits.shape[1] >= 1 && logits.shape[1] <= SAMPLE_VOCAB_MAX, PW_E_FAIL,
             "%s: logits: expected (T, V) f32, V from 1 to %d", op, SAMPLE_VOCAB_MAX);
    const int64_t rows = logits.shape[0];
    PW_PASS(op_want2(op, "logits", logits, PW_F32, rows, logits.shape[1]));
    PW_PASS(op_want1(op, "ids", ids, PW_I32, rows));
    PW_CHECK(draws && draws->n == rows && (rows == 0 || draws->rows), PW_E_FAIL, "%s: draws: expected %" PRId64 ", got %d", op, rows, draws ? draws->n : 0);
    PW_PASS(good_draws(draws));
    PW_CHECK(dev->host || rows == 0 || draws->device, PW_E_FAIL, "%s: draws: the list is not on device %s (pw_draws_put)", op, dev->kind);
    struct named outs[] = { NAMED(ids) }, ins[] = { NAMED(logits) };
    APART(op, outs, ins);
    PW_PASS(op_enough(dev, op, pw_scratch_sample(dev, logits.shape[1])));
    return op_over(dev->ops->sample(dev, ids, logits, draws), logits);
}
