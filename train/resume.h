/* Saved states: everything a run needs to go on and end with the same bytes, in one HDF5 file a state.
 *
 * A state holds what is trained, the averages of the optimiser, the position (step, epoch, pass), the log's length, the best evaluation,
 * the effective recipe, and hashes of base and data. Random numbers are counters, so the position is all there is to them. Files
 * appear whole or not at all (data/h5.h); the newest valid one is taken, and those before it that are not are named.
 * Layout: value/NAME, m/NAME, v/NAME (f32, or u8 codes with m_scale/NAME, v_scale/NAME; what the optimiser does not keep is not there), and the scalars and texts of struct pw_state. */
#ifndef PW_TRAIN_RESUME_H
#define PW_TRAIN_RESUME_H

#include "base/progress.h"
#include "base/memory.h"
#include "base/text.h"
#include "train/optim.h"
#include "train/ranks.h"

/* Raised by every change after which a step, from the same state, ends in other bytes: the order of sums, what is rounded, the counters of random
 * numbers. Beside it a state names the device and its instruction set or card: all these must be the same for a resumed run to end as it would have. */
enum { PW_ARITHMETIC = 5 };
enum { PW_ARITHMETIC_BYTES = 160 };

struct pw_state {
    int64_t ranks;             /* that trained it; 0 of a state from before there were several: 1 */
    int64_t step;              /* optimiser steps done */
    int64_t epoch, pass;       /* where the next one begins */
    int64_t tokens, trained_tokens;
    double seconds;            /* of training so far */
    int64_t log_bytes;
    int64_t evaluated_step;    /* the last step that was evaluated; -1: none */
    bool has_best; double best_loss; int64_t best_step;
    int64_t worse;             /* evaluations in a row that were not better than the best */
    struct pw_buf recipe;      /* effective, YAML */
    char base_hash[65], data_hash[65];
    char arithmetic[PW_ARITHMETIC_BYTES]; /* "2 cpu avx512"; "": of a version that did not say */
    char sums[32];             /* what summed gradients over the ranks (pw_ranks_sums); "": of one rank, or of a version that did not say: "host" */
    char products_hash[65];    /* of the choices of products (train/run_products.c); "": none */
};
void pw_state_free(struct pw_state *s);
void pw_state_arithmetic(char out[PW_ARITHMETIC_BYTES], const struct pw_dev *dev);
int pw_state_save(const char *path, const struct pw_state *s, struct pw_optim *o, struct pw_dev *dev);
int pw_state_read(const char *path, struct pw_state *s);                                         /* without tensors */
int pw_state_restore(const char *path, struct pw_optim *o, struct pw_dev *dev);                  /* the tensors */
/* Gives all ranks the tensors of rank 0: the trained values, and the averages if `averages`. */
int pw_state_share(struct pw_ranks *ranks, struct pw_optim *o, struct pw_dev *dev, bool averages);
/* The newest valid state of a folder; path "" when there is none at all. Damaged ones are named to the progress line and skipped. */
int pw_state_newest(struct pw_arena *a, const char *dir, struct pw_progress *p, const char **path);
int pw_state_prune(const char *dir, int64_t keep);                                               /* removes all but the newest `keep` */
#endif
