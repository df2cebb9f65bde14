/* What carries bytes between the ranks of a run: a row of functions that a plugin fills (train/comm.c: MPI, libpw_mpi.so), so that the program itself
 * needs no such library. Calls are collective: every rank makes the same ones in the same order, with the same sizes.
 *
 * A call that waits for others asks `waits` again and again, with the number of times it was asked before in this call; a negative answer ends the wait
 * and is what the call returns, after which nothing but `abandon` may be called. Knows nothing of training, and decides nothing (train/ranks.h does). */
#ifndef PW_TRAIN_COMM_H
#define PW_TRAIN_COMM_H

#include <stdbool.h>
#include <stddef.h>

struct pw_comm {
    int rank, size;            /* filled by open */
    void *impl;
    int (*waits)(void *ctx, long asked); void *waits_ctx;
};
struct pw_comm_row {
    int (*open)(struct pw_comm *c);
    void (*close)(struct pw_comm *c);                                                          /* collective */
    void (*abandon)(struct pw_comm *c, int status);                                            /* ends every rank that is left, this one too */
    int (*gather)(struct pw_comm *c, const void *mine, void *all, size_t bytes);               /* all: (size, bytes), by rank, on every rank */
    int (*exchange)(struct pw_comm *c, const void *mine, void *got, size_t bytes);             /* mine (size, bytes): row i goes to rank i; got: row i came from rank i */
    int (*broadcast)(struct pw_comm *c, int root, void *data, size_t bytes);
    /* Beside the collective calls, for ranks that wait in a library of the devices (NCCL) and so in none of them: one says that it has failed, the others see it. */
    void (*warn)(struct pw_comm *c);
    bool (*warned)(struct pw_comm *c);
};
/* The symbol of a plugin. It returns NULL unless version and size of the row are its own. */
typedef const struct pw_comm_row *pw_comm_fn(const char *version, size_t row_bytes);
#define PW_COMM_SYMBOL "pw_comm_plugin"
#endif
