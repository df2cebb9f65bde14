/* What a test may force on an open cuda or simt device, before any choice by measurement: the first member of its impl
 * (`(struct cuda_hooks *)dev->impl`). Plain C. Set it before scratch is asked for; zeros are replaced by the defaults when the device opens. */
#ifndef PW_KERNELS_CUDA_HOOKS_H
#define PW_KERNELS_CUDA_HOOKS_H

#include <stddef.h>
#include <stdint.h>

/* How a linear layer multiplies (kernels/cuda/linear.cu says when each is taken). A forced way that cannot take a call gives it to the next that can. */
enum cuda_linear_path { CUDA_LINEAR_AUTO, CUDA_LINEAR_SKINNY, CUDA_LINEAR_FUSED, CUDA_LINEAR_DECODED };
/* Who does attention forward; a call that the library cannot take is ours. */
enum cuda_attn_path { CUDA_ATTN_AUTO, CUDA_ATTN_OURS, CUDA_ATTN_LIBRARY };
struct cuda_hooks {
    int linear_path;
    size_t decoded_bytes;       /* of a weight that may exist in bf16 at a time */
    int64_t launches;           /* of kernels since the device was opened: read, not set */
    int attn_path;
    int64_t head_rows, head_words; /* a chunk of head_loss: rows with a target, words of the vocabulary */
};
#endif
