/* Log-likelihood of the choices of many questions: the forward passes behind multiple-choice scoring.
 *
 * Each request is a context and several continuations; the score of a continuation is the sum of log P of its tokens after the context.
 * The tokens that all contexts begin with (description, few-shot prompts) are computed once and shared; a context is computed once for all
 * its choices; a choice of one token costs nothing more. Scores do not depend on batch_tokens. */
#ifndef PW_EVAL_CHOICE_SCORE_H
#define PW_EVAL_CHOICE_SCORE_H

#include "base/progress.h"
#include "data/tokenizer.h"
#include "infer/session.h"

enum { PW_SCORE_MAX_CHOICES = 26 };
struct pw_choice_request {
    const int32_t *context; int n_context;                     /* at least one token */
    int n_choices;
    const int32_t *conts[PW_SCORE_MAX_CHOICES]; int n_conts[PW_SCORE_MAX_CHOICES]; /* at least one token each */
    double logprobs[PW_SCORE_MAX_CHOICES];                     /* out */
    bool truncated;                                            /* out: longer than the context window, cut from the left */
};
/* Fills a request from texts, by lm-evaluation-harness's rule: white space at the end of the prompt goes to the continuation, whose tokens are
 * those of prompt + continuation past the prompt's own. An empty prompt becomes BOS (else EOS). Ids live in a; tokens is a work buffer. */
int pw_choice_encode(struct pw_choice_request *r, struct pw_arena *a, const struct pw_tokenizer *t, const char *prompt,
                     const char *const *continuations, int n, struct pw_tokens *tokens);
/* done(ctx, i) is called as request i is finished (in order); a negative return stops. tokens: tokens computed, added to. */
int pw_choice_score(struct pw_model *m, struct pw_choice_request *requests, size_t n, int64_t batch_tokens, int64_t *tokens,
                    int (*done)(void *ctx, size_t i), void *ctx);
#endif
