/* From the pairs that a file of adapters holds to an adapter: in the model's order, each fitting it. Shared by the readers of forms in which
 * each module is one pair (GGUF, mlx-lm); what such files do not record (dropout, targets) is filled in. Private to lora/. */
#ifndef PW_LORA_PAIRS_H
#define PW_LORA_PAIRS_H
#include "lora/adapter.h"

struct pw_pair {
    const char *name;             /* "model.layers.0.self_attn.q_proj", in the adapter's arena */
    int64_t r, n_in, n_out;
    double scale;                 /* what B A is multiplied by */
    const void *a, *b;            /* the file's tensors, for fill */
    int64_t slice;                /* which part of them, where they hold the pairs of all experts */
};
/* a: its arena is open, nothing else in it. model NULL: nothing is checked against a model. fill writes A (r, n_in) and B (n_out, r) as f32 with the
 * rows of B in the file's order; `interleaved`: that order is the interleaved one. Sorts the pairs. On failure the caller frees a.
 * Rows become those of the model; without a model they stay as in the file, for looking alone. */
int pw_pairs_build(struct pw_adapter *a, struct pw_pair *pairs, size_t n, const struct pw_model_config *model, bool interleaved, const char *path,
                   int (*fill)(const struct pw_pair *p, float *to_a, float *to_b, const char *path));
#endif
