/* The reference backend: every op as plain loops in double, on f32 or f64 tensors. The definition that the other backends are held to. */
#ifndef PW_KERNELS_REF_H
#define PW_KERNELS_REF_H

#include "kernels/op.h"

#define DEV struct pw_dev *dev
#define T struct pw_tensor
#define W const struct pw_weight *
#define PW_OP(name, params, args) int ref_##name params;
#include "kernels/ops.def"
#undef PW_OP
#undef DEV
#undef T
#undef W

size_t ref_scratch_sample(const struct pw_dev *dev, int64_t vocab);
double ref_get(struct pw_tensor t, int64_t i);            /* element i of a contiguous tensor */
void ref_put(struct pw_tensor t, int64_t i, double value);/* rounded once to its type; nothing happens when the tensor is none */
void ref_add(struct pw_tensor t, int64_t i, double value);
double ref_weight(const struct pw_weight *w, int64_t i);  /* element i of the flattened (n_out, n_in), decoded in f32 */
double ref_keep(struct pw_drop drop, int64_t i);          /* 0 or 1/(1-p): what dropout multiplies element i by */
#endif
