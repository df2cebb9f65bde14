/* An adapter as training begins with it, without a run: the values that `pw train` starts from with the same model, adapter settings and seed.
 *
 * Reads no data. What begins from rows (EVA and its kin) cannot be had here. With LoftQ of several rounds the base that the adapter belongs to is made too. */
#ifndef PW_TRAIN_BEGIN_H
#define PW_TRAIN_BEGIN_H
#include "train/run.h"

struct pw_begin {
    struct pw_run run;         /* its adapter is the result, in host memory */
    struct pw_dev *dev;        /* the processor */
    void *memory;              /* of the adapter */
};
struct pw_begin_options {
    const struct pw_recipe *recipe; /* with adapter.kind lora or dora */
    int threads;
    uint64_t memory;                /* most bytes to use; 0: no limit. Less than is wanted is PW_E_REFUSED */
    const char *base;               /* where LoftQ of several rounds writes its base, whole or not at all */
    const char *base_named;         /* how the adapter calls it: where it will be in the end */
    struct pw_progress *progress;
};
/* pw_begin_close also after a failure. */
int pw_begin_open(struct pw_begin *b, const struct pw_begin_options *opt);
void pw_begin_close(struct pw_begin *b);
#endif
