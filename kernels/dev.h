/* Devices: an op table, memory and scratch behind one handle. Explicit, never global.
 *
 * Kinds: "cpu" (C with AVX2/AVX-512 chosen at run time, OpenMP, OpenBLAS), "ref" (plain loops in double, the definition of
 * each op), "cuda[:n]" (card n, from the plugin libpw_cuda.so) and "simt" (the same .cu sources on the processor, from
 * libpw_simt.so). A plugin lies beside the program, one folder up, or in ../lib/pennyweight; one that is absent or that
 * finds no card is PW_E_REFUSED, never another device. Device memory of "cuda" and "simt" is not host memory: only
 * pw_dev_put, pw_dev_get and ops may touch it, and simt enforces that.
 * Memory is taken in pools that are sized before the work; ops never allocate. Scratch is one region per device, reserved once
 * to the largest need (the pw_scratch_* functions of kernels/op.h tell); an op that finds too little fails and says how much it wants.
 * Work on a device that is not the host is queued; what went wrong in it (an id out of range, a failed launch) is reported by the
 * next pw_dev_get or pw_dev_sync. */
#ifndef PW_KERNELS_DEV_H
#define PW_KERNELS_DEV_H

#include <stdbool.h>
#include "kernels/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif
struct pw_ops;
struct pw_backend;
struct pw_dev {
    const struct pw_ops *ops;
    const struct pw_backend *backend;
    const char *kind;        /* "cpu", "ref", "cuda", "simt" */
    const char *level;       /* instruction set in use: "generic", "avx2", "avx512", "amx", "avx512_bf16", "amx_bf16"; the card's name; "" elsewhere */
    bool host;               /* device memory is host memory: mapped weights are used where they are */
    enum pw_dtype act;       /* the type of activations: f32; bf16 on cuda and simt */
    enum pw_dtype products;  /* what the factors of products of linear layers and head are rounded to: f32 (not at all); bf16 on cuda, simt and the levels avx512_bf16 and amx_bf16 */
    int threads;
    void *scratch; size_t scratch_bytes;
    void *impl;
};
struct pw_dev_options {
    const char *kind;        /* "" or NULL = auto */
    int threads;             /* 0 = all cores */
    const char *level;       /* "" or NULL: the best there is */
    enum pw_dtype products;  /* PW_BF16: on the cpu, a level that rounds to it; PW_E_UNSUPPORTED where there is none */
    bool many_rows;          /* training and scoring: on the cpu, a level in f32 that multiplies few rows more slowly may be chosen (amx) */
};
int pw_dev_open(struct pw_dev **out, const struct pw_dev_options *opt);
void pw_dev_close(struct pw_dev *d);
int pw_dev_reserve(struct pw_dev *d, size_t scratch_bytes); /* grows the scratch; never inside a loop */
void pw_dev_unreserve(struct pw_dev *d);                    /* gives it back, so that what was measured leaves no trace in a plan */
int pw_dev_put(struct pw_dev *d, void *device, const void *host, size_t bytes); /* host may be reused at once */
int pw_dev_get(struct pw_dev *d, void *host, const void *device, size_t bytes); /* waits for the work queued before */
int pw_dev_sync(struct pw_dev *d);                                              /* waits and reports */
int pw_dev_memory(struct pw_dev *d, size_t *free_bytes, size_t *total_bytes);   /* of the card; of the machine on host devices and simt */

/* Bytes of the card in use when it was opened: the driver's context and the libraries' handles, which every plan must count, and other programs.
 * 0 where memory is the host's. */
size_t pw_dev_held(const struct pw_dev *d);

/* Transfers that run beside the ops, on PW_LANES lanes. `host` is pinned memory (ordinary memory on host devices). A transfer begins when the ops
 * queued before it are done, and returns at once; ops queued after pw_dev_wait run when the lane's last transfer is done. */
enum { PW_LANES = 4, PW_INPUT_LANES = 2, PW_LANE_WEIGHTS = 2 }; /* 0, 1: inputs of blocks, state of the optimizer;
                                                                           * 2, 3: weights. The two pairs do not wait for each other. */
int pw_dev_send(struct pw_dev *d, int lane, void *host, const void *device, size_t bytes);
int pw_dev_bring(struct pw_dev *d, int lane, void *device, const void *host, size_t bytes);
int pw_dev_wait(struct pw_dev *d, int lane);
int pw_dev_pinned(struct pw_dev *d, void **out, size_t bytes); /* cleared; kernels may read it as if it were device memory, only slower */
void pw_dev_pinned_free(struct pw_dev *d, void *p);            /* NULL is fine */

/* A step that is the same each time, captured once and replayed as one piece of work (a CUDA graph; on simt a recording). Ops called between capture and
 * captured are recorded, not run; nothing else may be called there. A replay runs them on what device memory holds by then, so all that
 * changes from step to step lies there, is put before the replay, and no op of the step may choose by it on the host (pw_seqs.most_keys says how
 * attention does not). Memory and scratch that the step used must live as long as the graph. */
bool pw_dev_captures(const struct pw_dev *d);
int pw_dev_capture(struct pw_dev *d);
int pw_dev_captured(struct pw_dev *d, void **graph);   /* ends it; NULL drops what was recorded, as after an error between the two */
int pw_dev_replay(struct pw_dev *d, void *graph);      /* queued, like an op */
void pw_dev_graph_free(struct pw_dev *d, void *graph); /* NULL is fine */

/* Peers: the devices of other processes, with which this one sums what lies on them (NCCL between cards). All make the same calls in the same order;
 * what waits for the others asks `w` again and again, with the number of times it was asked before in this call: a negative answer ends the wait and is what
 * the call returns. A call that fails has left the peers already; it says nothing to them, which is the caller's to do. What the library takes on the device
 * is taken by pw_dev_peers_join, and counts as held from then on: join before memory is planned. */
enum { PW_PEERS_ID = 128 };
struct pw_peers_look {
    int32_t version;         /* of the library, 0: there is none, and why */
    char library[24];        /* "nccl 2.28.9" */
    char card[64];           /* which one of its machine's */
    char why[256];
};
struct pw_waits { int (*ask)(void *ctx, long asked); void *ctx; };
void pw_dev_peers_look(struct pw_dev *d, struct pw_peers_look *out);
int pw_dev_peers_id(struct pw_dev *d, char id[PW_PEERS_ID]);                     /* one of them makes it, and gives it to all */
int pw_dev_peers_join(struct pw_dev *d, const char id[PW_PEERS_ID], int rank, int size, struct pw_waits w);
int pw_dev_peers_sum(struct pw_dev *d, float *data, size_t n, struct pw_waits w);   /* data: device memory, the sum on all; returns when it is there */
void pw_dev_peers_leave(struct pw_dev *d, bool together, struct pw_waits w);     /* together: all do, in order; else at once */

/* A pool: one allocation, pieces handed out in order, all given back at once. Pieces are 64-byte aligned and cleared. */
struct pw_pool { struct pw_dev *dev; char *base; size_t bytes, used; const char *name; };
int pw_pool_open(struct pw_pool *p, struct pw_dev *d, size_t bytes, const char *name);
void *pw_pool_take(struct pw_pool *p, size_t bytes); /* NULL + trail when the plan was too small */
void pw_pool_close(struct pw_pool *p);
static inline size_t pw_pool_round(size_t bytes) { return (bytes + 63) & ~(size_t)63; }
#ifdef __cplusplus
}
#endif
#endif
