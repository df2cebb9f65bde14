/* Attention of few queries over keys and values in 8 bits: attn_decode.h. */
#include "kernels/cuda/attn_decode.h"

int attn_decode_codes(struct pw_dev *dev, const struct attn_args *a, const struct pw_seqs *seqs) { return decode_all<true, false>(dev, *a, seqs); }
