/* Attention forward over keys and values in bf16 that lie in pages: attn_fwd.h. */
#include "kernels/cuda/attn_fwd.h"

int attn_forward_paged(struct pw_dev *dev, const struct attn_args *a, const struct pw_seqs *seqs) { return forward_all<false, true>(dev, *a, seqs); }
