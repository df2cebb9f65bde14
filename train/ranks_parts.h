/* What ranks.c and ranks_devices.c share: what there is to a group of ranks, and nothing that others need. */
#ifndef PW_TRAIN_RANKS_PARTS_H
#define PW_TRAIN_RANKS_PARTS_H

#include "train/ranks.h"

/* Where a rank's process can be seen. Equal machines share cores, equal spaces see each other's processes. */
struct whereabouts { char machine[64]; uint64_t space, started; int32_t pid; };

struct pw_ranks {
    struct pw_comm comm;
    const struct pw_comm_row *row;
    struct whereabouts *all;               /* (size) */
    int local, local_rank;
    uint32_t turn;                         /* of agreements */
    int over;                              /* the code the group ended with; 0: it goes on */
    int lost;                              /* a rank that is gone; -1: none */
    int missed, looks; double since;       /* a rank whose process has ended, though what is waited for may still be on its way from it */
    double looked;
    struct pw_dev *dev;
    size_t chunk;
    float *in[2], *out[2], *got;           /* (chunk, and one for each rank) each, pinned */
    struct pw_dev *joined;                 /* the device that sums with those of the other ranks; NULL: sums go over host memory */
    char library[24];                      /* that does it: "nccl 2.28.9" */
    bool warned;                           /* by another rank, which failed there */
};

int pw_ranks_after(struct pw_ranks *r, int rc);             /* what a call of the row returned: a failure there is the end of the group */
int pw_ranks_waits(void *r, long asked);                    /* the wait of a call of the row */
bool pw_ranks_beside(const struct pw_ranks *r, int a, int b);   /* do two of them share a machine? */
int pw_ranks_sum_devices(struct pw_ranks *r, float *data, size_t n);
void pw_ranks_leave_devices(struct pw_ranks *r);
#endif
