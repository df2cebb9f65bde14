/* Tensors of a model on disk as f32 rows, in the order that the model to be written wants: what folders (remake.c) and GGUF files
 * (gguf_file.c) are made from. Owns what a tensor is in a model of its config, the order of q and k rows, and the errors of what was
 * stored. Private to quant/. */
#ifndef PW_QUANT_SOURCE_H
#define PW_QUANT_SOURCE_H

#include "data/checkpoint.h"
#include "kernels/op.h"

enum pw_role { PW_ROLE_LINEAR, PW_ROLE_DENSE, PW_ROLE_COMPANION, PW_ROLE_UNKNOWN }; /* block linears; all else; parts of a quantised one */
/* The layer of a router's weight, under either name; -1: it is none. */
int pw_router_of(const struct pw_model_config *c, const char *name);
/* Which expert's which linear of which layer a name is of. */
bool pw_expert_named(const struct pw_model_config *c, const char *name, int *layer, int *expert, enum pw_expert_part *part);
/* Does a tensor hold a linear of all experts of a layer, as folders of transformers 5 and GGUF files have them? Of which parts: first to before last. */
bool pw_experts_joined(const struct pw_model_config *c, const struct pw_stored *t, int *layer, int *first, int *last);
enum pw_role pw_role_of(const struct pw_model_config *c, const char *name, enum pw_linear *linear); /* linear: also of a bias; PW_LIN_COUNT: of an expert, or none */

struct pw_source {
    const char *name;
    struct pw_weight w;      /* as stored; of a vector: one row */
    int64_t heads;           /* > 0: rows (of a bias: elements) of this many heads change their order */
    bool interleave;         /* from half to interleaved pairs; else the other way */
    bool vector;
};
/* interleaved: the order of q and k in what is written. */
int pw_source_open(struct pw_source *s, struct pw_checkpoint *c, const struct pw_stored *t, bool interleaved);
int pw_source_rows(struct pw_dev *dev, const struct pw_source *s, int64_t first, struct pw_tensor rows); /* (n, n_in) f32 */

/* What is in memory at one time while tensors are made one by one, as a plan: the tensor that takes most, as it is stored and as it becomes, and copies of those whose place in the file is not aligned. */
struct pw_making { size_t stored, made, copies; };
void pw_making_add(struct pw_making *k, const struct pw_checkpoint *c, const struct pw_source *s, size_t made);
int pw_making_check(const struct pw_making *k, const struct pw_checkpoint *c, uint64_t memory, size_t beside);   /* PW_E_REFUSED when it is more than that; beside: header, names */
void pw_source_forget(const struct pw_checkpoint *c, const struct pw_source *s);   /* it is made: its pages are given back */

struct pw_error_sum { double squares, max; int64_t n; };
void pw_error_add(struct pw_error_sum *e, const float *want, const float *got, int64_t n);
/* f32 to 16 bits, and back: what is stored */
int pw_source_narrow(void *out, enum pw_dtype to, const float *x, float *back, int64_t n, const char *name);
#endif
