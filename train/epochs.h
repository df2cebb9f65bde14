/* The run as counts: how many passes each epoch has, how many optimiser steps that makes, and how large the largest pass is.
 *
 * Counted before the start from the packing plans of all epochs, since the schedule needs the number of steps and the memory plan the
 * worst pass. The last step of an epoch takes the passes that are left. */
#ifndef PW_TRAIN_EPOCHS_H
#define PW_TRAIN_EPOCHS_H

#include "data/packing.h"

struct pw_epochs {
    int64_t n;                 /* epochs begun */
    int64_t *passes;           /* (n) */
    int64_t accumulate;
    int64_t steps;             /* of the whole run */
    int64_t max_tokens, max_rows;
    int64_t tokens;            /* of all passes of the whole run */
};
/* steps > 0: that many steps, however many epochs it takes; else `epochs` epochs. */
int pw_epochs_count(struct pw_epochs *e, struct pw_arena *a, const struct pw_dataset *d, const uint32_t *rows, int64_t n_rows,
                    const struct pw_packing_options *o, int64_t accumulate, int64_t epochs, int64_t steps);
#endif
