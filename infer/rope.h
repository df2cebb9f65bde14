/* Rotary tables (Su et al., "RoFormer", 2021): cosines and sines of position times frequency, one row a position.
 * Computed in double and rounded once. The rotation itself is an op; its backward is the same op with direction -1. */
#ifndef PW_INFER_ROPE_H
#define PW_INFER_ROPE_H

#include "data/model_config.h"
#include "kernels/tensor.h"

/* Frequency of each of the head_dim / 2 pairs, after the scaling that the config asks for; an unsupported scaling is an error. */
int pw_rope_frequencies(const struct pw_model_config *c, double *freq);
/* cosines, sines (P, head_dim / 2), f32 or f64, host memory. */
int pw_rope_tables(const struct pw_model_config *c, struct pw_tensor cosines, struct pw_tensor sines);
#endif
