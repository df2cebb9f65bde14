/* What the files of the linear layer share: the way for few rows (skinny.cu). */
#ifndef PW_KERNELS_CUDA_LINEAR_H
#define PW_KERNELS_CUDA_LINEAR_H

#include "kernels/cuda/cuda.h"

/* Up to how many rows W is read once by kernels of its own: 16, or 4 where its rows are not whole 16-byte words. */
int64_t skinny_rows(const struct pw_weight *w);
/* y (T, N) = x W^T + bias + scale xa B^T for T <= skinny_rows(w); no scratch. */
int skinny_fwd(struct pw_dev *dev, struct pw_tensor y, struct pw_tensor xa, struct pw_tensor x, const struct pw_weight *w);
/* out (T, N) bf16 = x W^T alone: an adapter's first half. */
int skinny_plain(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, const struct pw_weight *w);
/* The same for rows of experts, w[0] standing for all: any number of rows, read again for each SKINNY_TILE rows of one expert. operand EXPERT_A: skinny_plain
 * of the first halves. */
enum { SKINNY_TILE = 4 };
struct expert_group;
int skinny_experts(struct pw_dev *dev, struct pw_tensor y, struct pw_tensor xa, struct pw_tensor x, const struct pw_weight *w, const struct expert_group *group, const int32_t *starts);
/* Whether eight elements of w are a load or a few at a known alignment: FAST of decode8. */
bool linear_words(const struct pw_weight *w);
/* Whether tile.h can decode w while it stages it; if not, it is decoded to bf16 first. */
bool linear_fused(const struct pw_weight *w);
/* out (rows, ld) bf16 = columns first_col .. of rows first_row .. of w; ld a multiple of 8, out aligned to 16 bytes, zeros past the end of a row. */
int linear_unpack(struct pw_dev *dev, const char *op, bf16 *out, int64_t rows, int64_t ld, const struct pw_weight *w, int64_t first_row, int64_t first_col);
/* An adapter's products run over pieces of the terms, whose sums lie in scratch and are added in order: LINEAR_PIECE terms along n_in or n_out; along
 * the rows of a call at most LINEAR_PIECES pieces. */
enum { LINEAR_PIECE = 512, LINEAR_PIECES = 16 };
int64_t linear_pieces(int64_t n);
int64_t linear_token_piece(int64_t tokens);
int64_t linear_token_pieces(int64_t tokens);
/* out[i] = (store), or += (add), alpha * (partial[0][i] + partial[1][i] + ..), n elements of each piece */
int linear_pieces_store(struct pw_dev *dev, const char *op, bf16 *out, const float *partial, int64_t n, int64_t pieces, float alpha);
int linear_pieces_add(struct pw_dev *dev, const char *op, float *out, const float *partial, int64_t n, int64_t pieces, float alpha);
/* Rows of W (forward), or columns (backward), that are decoded to bf16 at a time. */
int64_t linear_decoded_part(const struct pw_dev *dev, const struct pw_weight *w, bool backward);
int linear_known(struct pw_dev *dev, const char *op, const struct pw_weight *w); /* 0, or the error that names a type without kernels */
#endif
