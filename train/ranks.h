/* The ranks of a run: processes that train one model together, each on its own passes of a step. NULL stands for one process alone, everywhere.
 *
 * Protocol: what can fail on one rank alone is followed by an agreement (pw_ranks_agree, or a sum, which begins with one), where all learn of it and leave
 * with the same code and message; a rank that fails elsewhere goes to exactly one agreement on its way out, and it meets the others wherever they wait.
 * After a failed agreement the group is over: every later call returns at once. A rank of this machine whose process is gone is noticed by those that wait
 * for it; ranks of other machines are the launcher's to watch. Sums are taken in order of ranks, in double, by one rank each and handed to all, so that every
 * rank has the same bits and two runs have the same bytes (where the devices sum themselves the order is their library's). Knows nothing of models, files and steps. */
#ifndef PW_TRAIN_RANKS_H
#define PW_TRAIN_RANKS_H

#include <stdbool.h>
#include <stddef.h>
#include "kernels/dev.h"
#include "train/comm.h"

struct pw_ranks;
/* row: NULL: MPI, from its plugin; PW_E_UNSUPPORTED where it was not built. expected: what the launcher said; another number is refused. */
int pw_ranks_open(struct pw_ranks **out, const struct pw_comm_row *row, int expected);
/* Waits for all; then the processes may end in any order. After a rank was lost it ends the ones that are left (status), when rank 0 has come this far. */
void pw_ranks_close(struct pw_ranks *r, int status);

int pw_ranks_rank(const struct pw_ranks *r);                                /* 0 alone */
int pw_ranks_size(const struct pw_ranks *r);                                /* 1 alone */
int pw_ranks_local(const struct pw_ranks *r, int *rank);                    /* ranks on this machine; rank: which of them this is (may be NULL) */
bool pw_ranks_lost(const struct pw_ranks *r);                               /* a rank is gone */
bool pw_ranks_speaks(const struct pw_ranks *r);                             /* rank 0, or the first that is left */

/* rc: of this rank. 0 when all came with 0; else the code of the rank that failed, with its message, on all. */
int pw_ranks_agree(struct pw_ranks *r, int rc);
/* PW_E_REFUSED on all when a rank's bytes are others than those of rank 0. */
int pw_ranks_same(struct pw_ranks *r, const char *what, const void *bytes, size_t n);
int pw_ranks_broadcast(struct pw_ranks *r, void *data, size_t bytes);       /* of rank 0 */
int pw_ranks_sum_f64(struct pw_ranks *r, int rc, double *x, size_t n);      /* agrees on rc first */
/* From here on pw_ranks_sum_f32 sums where the device memory lies, by the devices' own library (NCCL), if every rank has it, in one version, and a card of its
 * own, and joining goes well on all; else, and before it is called, over host memory. The same way on all. Once, before memory is planned: the library
 * takes some. wish: NULL, or why this rank wants sums over host memory whatever there is; then all have them. way: which one, and why not the other; "" where
 * there is nothing to choose (alone; devices whose memory is the host's). */
enum { PW_RANKS_WAY = 512 };
int pw_ranks_join_devices(struct pw_ranks *r, struct pw_dev *dev, const char *wish, char way[PW_RANKS_WAY]);
const char *pw_ranks_sums(const struct pw_ranks *r);                        /* what sums f32 for several ranks: "host", "nccl 2.28.9"; "" alone */
/* data: device memory. The room it works in is pinned memory, taken once by pw_ranks_reserve for sums of n numbers (more take longer). */
size_t pw_ranks_bytes(const struct pw_ranks *r, size_t n);
int pw_ranks_reserve(struct pw_ranks *r, struct pw_dev *dev, size_t n);
int pw_ranks_sum_f32(struct pw_ranks *r, float *data, size_t n);
void pw_ranks_release(struct pw_ranks *r);                                  /* before the device is closed */

/* This rank's part [*first, *last) of the items [from, to): as even as can be, in order. */
void pw_ranks_share(const struct pw_ranks *r, int64_t from, int64_t to, int64_t *first, int64_t *last);
#endif
