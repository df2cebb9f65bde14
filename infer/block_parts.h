/* What the files of a block share: block.c (the attention half, the dense feed-forward half) and experts.c (a half made of experts). Private to them.
 * Places buffers in a pool, or counts what they take: one walk serves the plan and the run. */
#ifndef PW_INFER_BLOCK_PARTS_H
#define PW_INFER_BLOCK_PARTS_H

#include "infer/block.h"

struct taker { struct pw_pool *pool; enum pw_dtype type; int64_t tokens; size_t bytes; int rc; };

/* (rows, columns), or, vector, (rows). No columns: none. */
void pw_take_rows(struct taker *k, struct pw_tensor *t, enum pw_dtype type, int64_t rows, int64_t columns, bool vector);

/* On the input of the adapter of l, (.., n_in), for rows from `row` of the pass on. */
struct pw_drop pw_block_drop(const struct pw_block_batch *b, int layer, enum pw_linear l, int64_t row, int64_t n_in);
enum pw_act pw_block_act(const struct pw_model_config *c);

/* The half made of experts: what is kept for backward, and scratch, beside the buffers that a dense half has too. */
void pw_experts_walk_saved(struct taker *k, struct pw_experts_saved *s, const struct pw_model_config *c);
void pw_experts_walk_work(struct taker *k, struct pw_experts_work *w, const struct pw_model_config *c, bool backward);
int pw_experts_forward(struct pw_model *m, int layer, struct pw_tensor x, const struct pw_block_batch *b, struct pw_work *w, struct pw_saved *saved);
int pw_experts_backward(struct pw_model *m, int layer, struct pw_tensor dx, const struct pw_block_batch *b, struct pw_work *w, const struct pw_saved *saved,
                        const struct pw_block_grads *grads);
size_t pw_experts_scratch(const struct pw_model *m, int layer, int64_t tokens, bool backward); /* of the device, for the ops */
#endif
