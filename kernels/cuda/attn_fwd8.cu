/* Attention forward of many queries over keys and values in 8 bits: attn_fwd.h. */
#include "kernels/cuda/attn_fwd.h"

int attn_forward_codes(struct pw_dev *dev, const struct attn_args *a, const struct pw_seqs *seqs) { return forward_all<true, false>(dev, *a, seqs); }
