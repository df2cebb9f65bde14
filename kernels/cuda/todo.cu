/* Ops that have no kernel yet: each says so. A file that brings one takes its line away here; the file goes with the last. */
#include "kernels/cuda/cuda.h"

#define DEV struct pw_dev *dev
#define T struct pw_tensor
#define W const struct pw_weight *
#define NOT_YET(name, ...) extern "C" int cuda_##name(__VA_ARGS__) { return pw_error(PW_E_UNSUPPORTED, #name ": device %s has no kernel for it yet", dev->kind); }
NOT_YET(linear_fwd, DEV, T, T, T, W, struct pw_drop)
NOT_YET(linear_bwd, DEV, const struct pw_linear_grads *, T, T, T, W, struct pw_drop)
NOT_YET(head_loss, DEV, T, T, T, T, T, W, T, T, double)

extern "C" size_t cuda_scratch_linear(const struct pw_dev *, int64_t, const struct pw_weight *, bool) { return 0; }
extern "C" size_t cuda_scratch_head(const struct pw_dev *, int64_t, const struct pw_weight *, bool) { return 0; }
