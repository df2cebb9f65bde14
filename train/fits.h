/* What can be done with a model on cards of some sizes: the planner's answers for the model alone, without data.
 *
 * Training is planned by train/run.h, as pw plan plans a run whose passes have `tokens` tokens in one row, with the same choice of what waits in host memory; running by
 * infer/memory_limit.h, for one text of that length. Nothing is loaded or taken. Knows nothing of options and of how the answers are shown. */
#ifndef PW_TRAIN_FITS_H
#define PW_TRAIN_FITS_H

#include "train/run.h"

enum { PW_FITS_USES = 4, PW_FITS_SIZES = 8, PW_FITS_RANK = 16 };
struct pw_fits_size { uint64_t limit, bytes; bool fits; struct pw_run_fit how; };    /* bytes: the plan's peak, which may use what room there is; how: of training */
struct pw_fits_use {
    const char *name;                /* "run as stored", "run in nf4", "train an adapter as stored", "train an adapter on nf4" */
    bool training;
    const char *why;                 /* it cannot be planned for this model; in the arena. NULL: it can */
    uint64_t bytes;                  /* with nothing waiting in host memory, blocks computed again */
    struct pw_fits_size sizes[PW_FITS_SIZES];
};
/* uses: of a base that is stored quantised only those as stored. limits: n of them. tokens: at most the context. */
int pw_fits(struct pw_fits_use uses[PW_FITS_USES], int *n_uses, struct pw_arena *arena, struct pw_dev *dev, const char *model, const char *tokenizer, int64_t tokens, const uint64_t *limits, int n);
#endif
