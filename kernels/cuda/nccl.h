/* Sums over the cards of several processes: the pw_dev_peers_* of this backend (kernels/dev.h says what each owes). NCCL is opened at run time, never
 * linked; a machine without it sums over host memory, which is the caller's decision. Knows nothing of who the other processes are and how they talk:
 * they hand over an id, and a wait that can be ended. */
#ifndef PW_KERNELS_CUDA_NCCL_H
#define PW_KERNELS_CUDA_NCCL_H

#include "kernels/cuda/cuda.h"

void nccl_look(struct pw_dev *dev, struct pw_peers_look *out);
int nccl_id(struct pw_dev *dev, char id[PW_PEERS_ID]);
int nccl_join(struct pw_dev *dev, const char id[PW_PEERS_ID], int rank, int size, struct pw_waits w);
int nccl_sum(struct pw_dev *dev, float *data, size_t n, struct pw_waits w);
void nccl_leave(struct pw_dev *dev, bool together, struct pw_waits w); /* fine where nobody joined */
#if !defined(__CUDACC__)
/* The emulation has no NCCL unless it is told of a file: "nccl:FILE", or "nccl-one-card:FILE" for processes that share a card. False: other words. The
 * file has NCCL's calls on memory of the host, and nccl_emulated_busy: whether work of its own is still queued on the stream, which such a call carries on. */
bool nccl_emulate(const char *text);
#endif
#endif
