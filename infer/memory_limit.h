/* --memory for commands that compute without training: the plan of a model and of a session, and whether it stays below the limit.
 *
 * A plan counts the program, what stays resident of the mapped model file (pw_model.mapped_bytes), weights made in memory, the KV cache, activations, and
 * the scratch of operations, from the functions that take them. On a device whose memory is not
 * the host's the limit is on that memory, and only what lies there counts. Training plans for itself (train/budget.h). */
#ifndef PW_INFER_MEMORY_LIMIT_H
#define PW_INFER_MEMORY_LIMIT_H

#include "infer/model.h"

/* PW_E_REFUSED with the plan when `weights` more bytes of weights (beside the mapped file) go beyond m->memory; 0 without a limit. */
int pw_memory_check_weights(const struct pw_model *m, size_t weights);
/* The same before an adapter is read: `stored` bytes of its file, and what is made of it. */
int pw_memory_check_adapter(const struct pw_model *m, size_t stored, size_t made);
/* The same for a session of this size on a loaded model. */
int pw_memory_check_session(const struct pw_model *m, int64_t rows, int64_t batch_tokens, int max_seqs);
/* For plans: what a session of this size takes in all with its model, which was measured and not made. On a card with what driver and libraries hold. */
size_t pw_memory_need(const struct pw_model *m, int64_t rows, int64_t batch_tokens, int max_seqs);
#endif
