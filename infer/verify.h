/* Two artefacts on the same tokens: the same texts are fed to both, token by token as they are (teacher forcing), and the logits after each
 * token are compared. Owns the walk and the measures. Refuses to know files, tokenizers, and how a model is loaded: a callback hands it out.
 *
 * Both models may be there at once, or one at a time: then rows of logits of one are kept while the other is loaded, and the sides
 * take turns (left right, right left, ...), so that each change of rows costs one load. */
#ifndef PW_INFER_VERIFY_H
#define PW_INFER_VERIFY_H

#include "base/progress.h"
#include "infer/session.h"

struct pw_verify_prompt { const int32_t *ids; int64_t n; };
struct pw_verify_options {
    double tolerance;          /* of a logit; below 0: none asked for */
    bool both;                 /* both models are there at once */
    size_t keep_bytes;         /* for the rows of logits that are kept; at least one row is. 0: 64 MiB */
};
enum pw_verify_kind { PW_VERIFY_SAME, PW_VERIFY_TOKEN, PW_VERIFY_LOGIT };
struct pw_verify_result {
    int64_t prompts, tokens;   /* compared: one row of logits after each token */
    double max_logit_diff, kl, max_kl;   /* kl: mean over the rows of KL(left || right), in nats */
    int64_t same_token;        /* rows whose likeliest token is the same (ties: the lowest id) */
    int64_t worst_prompt, worst_position; int32_t worst_token;   /* of max_logit_diff */
    /* The first row (in order of prompts and positions, both from 0) where the likeliest tokens differ, or a logit by more than the
     * tolerance; position p is the row after token p. Logits: of the left's token and of the right's, in each. */
    enum pw_verify_kind kind;
    int64_t prompt, position;
    int32_t left, right;
    float left_logits[2], right_logits[2];
};
/* For plans: what a side takes in all while it is alone, with its model, which was measured and not made: session, and rows of logits of which one is kept. */
size_t pw_verify_need(const struct pw_model *m, const struct pw_verify_prompt *prompts, size_t n);
/* model(ctx, side, &m): the model of side 0 (left) or 1, adapter attached. Without `both` the model handed out before may be closed by it:
 * no session is open on it. Errors: texts longer than a context are PW_E_REFUSED, logits that are no numbers PW_E_NUMERIC, models of
 * different vocabularies PW_E_FAIL. */
int pw_verify(struct pw_verify_result *r, const struct pw_verify_prompt *prompts, size_t n, const struct pw_verify_options *o,
              int (*model)(void *ctx, int side, struct pw_model **out), void *ctx, struct pw_progress *progress);
#endif
