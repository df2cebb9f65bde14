/* Attention of few queries over keys and values in bf16 that lie in pages: attn_decode.h. */
#include "kernels/cuda/attn_decode.h"

int attn_decode_paged(struct pw_dev *dev, const struct attn_args *a, const struct pw_seqs *seqs) { return decode_all<false, true>(dev, *a, seqs); }
