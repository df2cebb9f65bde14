/* LoftQ of several rounds (Li et al. 2023; PEFT's loftq_init): Q = quantised(W - P), P = the part of rank r nearest to W - Q, again and again from P = 0.
 *
 * The last Q is the base of the run: not W as it would be quantised, so it is written as a folder in the form of bitsandbytes (base/), which is then a model
 * like any other. The adapter begins with the last P, as with one round (train/adapter_init.c), and says that it belongs to that folder. PEFT puts Q into the
 * model in memory, as f32 or whatever it was, and leaves storing it to the user. Knows nothing of steps and states. */
#ifndef PW_TRAIN_LOFTQ_H
#define PW_TRAIN_LOFTQ_H
#include "train/run.h"

int pw_loftq_check(const struct pw_run *run);                 /* can this run's base be made? Before anything is taken */
int pw_loftq_base(struct pw_run *run, const char *path);      /* writes the folder, whole or not at all */
size_t pw_loftq_bytes(const struct pw_run *run);              /* of host memory that this takes, beside the mapped model */
#endif
