/* Preferences in passes: what a step over pairs or labelled answers needs beside the pass itself.
 *
 * Owns the log-probabilities of the reference model (the base with the adapter off, so there is one copy of the weights; with full training
 * the weights as training began), each row's once a run, and kto's partners. A pass stands for itself: whole pairs are in it, and what a
 * row gets does not depend on what else is in it. Knows nothing of optimisers and positions. */
#ifndef PW_TRAIN_PREFERENCE_H
#define PW_TRAIN_PREFERENCE_H

#include "train/objective.h"
#include "train/pass.h"

struct pw_reference {          /* of one data set */
    const struct pw_dataset *data;
    double *logp;              /* (n_rows); NaN: not known yet */
    /* kto: the answer of row partner[i] after the prompt of row i, which says how far the model as a whole has moved */
    uint32_t *partner;         /* (n_rows) */
    double *moved;             /* (n_rows) reference log-probability of that; NaN: not known yet */
};
struct pw_preference {
    struct pw_objective objective;
    struct pw_reference train, eval;
    struct pw_model *model;
    const struct pw_adapter *adapter;  /* NULL: full training, where the reference must have been read before the first step */
    struct pw_pass *pass;
    struct pw_packed *packed;
    double *seq;               /* (most rows of a pass) */
    int64_t longest;           /* pw_preference_longest of the data sets: what a prompt with another row's answer is cut to */
    bool (*stop)(void *ctx); void *stop_ctx;
};
/* Tokens of the longest sequence that a pass will see: kto also reads the answers of rows after the prompts of others, cut as rows are. */
int64_t pw_preference_longest(const struct pw_objective *o, const struct pw_dataset *d, int64_t max_length);
/* Host memory that placing will take. */
size_t pw_preference_bytes(const struct pw_objective *o, const struct pw_dataset *train, const struct pw_dataset *eval, int64_t most_rows);
/* rows: the examples of the data set that take part (NULL: all); partners are drawn among them, by seed, or the next one without `shuffle`. */
int pw_preference_place(struct pw_preference *p, struct pw_arena *a, const struct pw_dataset *train, const uint32_t *rows, int64_t n_rows,
                        const struct pw_dataset *eval, const uint32_t *eval_rows, int64_t n_eval, int64_t most_rows, bool shuffle, uint64_t seed);
/* Full training: all reference values, by the weights as they are now. */
int pw_preference_read(struct pw_preference *p, const uint32_t *rows, int64_t n_rows, const uint32_t *eval_rows, int64_t n_eval);
/* The log-probability ratios of kto's partners over the rows of passes [first, last), added up: z is their mean, or 0 where that is negative. */
int pw_preference_moved(struct pw_preference *p, struct pw_reference *r, const struct pw_packing *plan, int64_t first, int64_t last, double *sum);

struct pw_preference_sums {
    double loss;
    int64_t examples, right;   /* right: pairs that prefer the chosen answer; kto: answers on the right side of z */
    int64_t n[2]; double reward[2]; /* of chosen and rejected, desirable and undesirable answers */
};
/* One pass of the plan, which p->packed was filled with: the loss of its examples, each counting 1 / examples of the whole step; gradients with
 * o->backward. Sums are added to. */
int pw_preference_pass(struct pw_preference *p, struct pw_reference *r, const struct pw_packing *plan, int64_t pass, const struct pw_pass_options *o,
                       double z, struct pw_preference_sums *sums);
#endif
