/* How the tokens of one text are chosen: greedy (temperature 0: the first index of the largest logit), or one draw from what temperature, top-k, top-p and
 * min-p leave (no penalties), one Philox draw a token. The same token on the host and on every device (kernels/sample.h). NaN in the logits is an error. */
#ifndef PW_INFER_SAMPLER_H
#define PW_INFER_SAMPLER_H
#include "base/rng.h"
#include "kernels/op.h"
struct pw_sampler { double temperature, top_p, min_p; int top_k; struct pw_rng rng; };
struct pw_draw pw_sampler_draw(const struct pw_sampler *s); /* of the next token, for pw_session_next */
void pw_sampler_drawn(struct pw_sampler *s);                /* it was drawn: on to the one after */
int pw_sampler_pick(struct pw_sampler *s, const float *logits, int64_t vocab, int32_t *token); /* both, from logits (V) in host memory */
#endif
