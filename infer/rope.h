/* Rotary tables (Su et al., "RoFormer", 2021): cosines and sines of position times frequency, one row a position.
 * Frequencies are computed in double; in f32 tables they and the angles are rounded to f32, as the models were trained (in transformers, whose angle of
 * a late position is off by up to half a unit of f32). The rotation itself is an op; its backward is the same op with direction -1. */
#ifndef PW_INFER_ROPE_H
#define PW_INFER_ROPE_H

#include "data/model_config.h"
#include "kernels/dev.h"
#include "kernels/tensor.h"

/* Which of a model's frequencies: those of all layers; of layers with a window where these have their own; longrope's for sequences that are longer
 * than the original context. */
enum pw_rope_kind { PW_ROPE_GLOBAL, PW_ROPE_LOCAL, PW_ROPE_STRETCHED };
/* Frequency of each of the pairs that rotate, after the scaling that the config asks for. */
int pw_rope_frequencies(const struct pw_model_config *c, enum pw_rope_kind kind, double *freq);

/* A model has one table, or two: of layers with a window too. Rows of the first: one a position; with longrope and a context above the original one,
 * rows of the original context for sequences within it, then rows of the whole context for longer ones. `longest`: no sequence is longer, so that no more
 * rows are made; 0: the whole context. */
bool pw_rope_two_sets(const struct pw_model_config *c);             /* the rows of a position depend on the length of its sequence */
int64_t pw_rope_longest(const struct pw_model_config *c, int64_t longest); /* in tokens: within the context */
int64_t pw_rope_rows(const struct pw_model_config *c, int64_t longest);
int32_t pw_rope_row(const struct pw_model_config *c, int64_t position, int64_t length); /* length: of the whole sequence that it is in */
int pw_rope_tables_of(const struct pw_model_config *c);             /* 1 or 2 */
size_t pw_rope_bytes(const struct pw_model_config *c, int64_t longest, size_t size); /* of all cosines and sines in a pool, elements of `size` bytes */
/* cosines, sines (rows, pairs), f32 or f64, host memory; local: the second table. */
int pw_rope_tables(const struct pw_model_config *c, bool local, struct pw_tensor cosines, struct pw_tensor sines);
#endif
