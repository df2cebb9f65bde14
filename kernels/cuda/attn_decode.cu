/* Attention of few queries over keys and values in bf16: attn_decode.h. */
#include "kernels/cuda/attn_decode.h"

int attn_decode(struct pw_dev *dev, const struct attn_args *a, const struct pw_seqs *seqs) { return decode_all<false, false>(dev, *a, seqs); }

static int64_t wave_tokens(int64_t tokens) { return tokens < ATTN_WAVE_TOKENS ? tokens : (int64_t)ATTN_WAVE_TOKENS; }
size_t attn_decode_scratch(int64_t tokens, int64_t keys, int heads, int head_dim)
{
    const int splits = attn_most_splits(2 * keys); /* a prefix and a sequence's own keys may each be the whole pool */
    if (splits < 2) return 0;
    return (size_t)wave_tokens(tokens) * (size_t)heads * (size_t)splits * (size_t)(head_dim + 2) * sizeof(float);
}
