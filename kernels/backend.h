/* What op.c and dev.c know of the backends: one op table each, and how the cpu picks its instruction set. */
#ifndef PW_KERNELS_BACKEND_H
#define PW_KERNELS_BACKEND_H

#include "kernels/op.h"

extern const struct pw_ops pw_ref_ops;
extern const struct pw_ops pw_cpu_ops;

/* Picks the level ("" or NULL: the best this processor has), sets dev->level and dev->impl. A level that the processor lacks is an error. */
int pw_cpu_choose(struct pw_dev *dev, const char *level);

size_t pw_cpu_scratch_linear(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w, bool backward);
size_t pw_cpu_scratch_head(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w, bool backward);
size_t pw_cpu_scratch_attn(const struct pw_dev *dev, int64_t tokens, int64_t keys, int heads, int kv_heads, int head_dim, bool backward);
#endif
