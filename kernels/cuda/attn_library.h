/* Attention forward by the library (attn_cudnn.h), behind the op: which calls it may take, its lists, its scratch. */
#ifndef PW_KERNELS_CUDA_ATTN_LIBRARY_H
#define PW_KERNELS_CUDA_ATTN_LIBRARY_H

#include "kernels/cuda/attn.h"

/* Whether the library takes this call, by the choices in use or a hook: training's calls alone (pw_seqs.company), in the shape that attn_library_fwd wants. */
bool attn_library_takes(struct pw_dev *dev, const struct attn_args *a, const struct pw_seqs *seqs, const struct pw_attn *attn, struct pw_attn_shape *shape);
int attn_library_fwd(struct pw_dev *dev, const struct attn_args *a, const struct pw_seqs *seqs, const struct pw_attn_shape *shape);
size_t attn_library_scratch(const struct pw_dev *dev, int64_t tokens, int heads, int kv_heads, int head_dim);
/* Makes the plan of a shape, if there is one, and runs it once over rows that no sequence has, so that its kernels are loaded before memory is planned. */
int attn_library_ready(struct pw_dev *dev, const struct pw_attn_shape *shape, bool *there);
/* Uses the list from now on, with all it names made ready. */
int attn_library_use(struct pw_dev *dev, const struct pw_attn_choice *list, size_t n);
#endif
