/* Choosing the next token from logits on the host. temperature 0 = greedy, first index of the largest logit.
 * Order: penalties none; temperature, top-k, top-p, min-p, then one Philox draw. NaN in the logits is an error. */
#ifndef PW_INFER_SAMPLER_H
#define PW_INFER_SAMPLER_H
#include "base/rng.h"
struct pw_sampler { double temperature, top_p, min_p; int top_k; struct pw_rng rng; };
int pw_sampler_pick(struct pw_sampler *s, const float *logits, int64_t vocab, int32_t *token);
#endif
