/* Learning rate as a pure function of the step: warm-up, then constant, cosine, linear, or warm-up-stable-decay. */
#ifndef PW_TRAIN_SCHEDULE_H
#define PW_TRAIN_SCHEDULE_H

#include <stdint.h>
#include "train/recipe.h"

/* Steps of warm-up of a run of `steps`: a share below 1 (rounded up), or a number of steps. */
int64_t pw_schedule_warmup(const struct pw_recipe *r, int64_t steps);
/* Rate of step i (from 0) of `steps`. Warm-up of w steps: lr * i / w. */
double pw_schedule_lr(const struct pw_recipe *r, int64_t i, int64_t steps);
#endif
