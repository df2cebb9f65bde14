/* Choosing a token on the host. The rule is kernels/sample.h; this is its state between tokens. Knows nothing of text. */
#include "infer/sampler.h"

#include "base/error.h"
#include "kernels/sample.h"

struct pw_draw pw_sampler_draw(const struct pw_sampler *s)
{
    return (struct pw_draw){.temperature = s->temperature, .top_p = s->top_p, .min_p = s->min_p, .top_k = s->top_k, .seed = s->rng.seed, .stream = s->rng.stream, .at = s->rng.at};
}

void pw_sampler_drawn(struct pw_sampler *s)
{
    s->rng.at += s->temperature > 0;
}

int pw_sampler_pick(struct pw_sampler *s, const float *logits, int64_t vocab, int32_t *token)
{
    const struct pw_draw draw = pw_sampler_draw(s);
    PW_PASS(pw_draw_pick(logits, vocab, &draw, token));
    pw_sampler_drawn(s);
    return 0;
}
