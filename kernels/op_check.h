/* What the checked entry points (op.c, op_experts.c) check with: shapes, types, aliasing, ids, weights, sequences. Private to these files.
 * Each returns 0, or an error that names the op and its tensor: "rmsnorm_fwd: w: expected (128) f32, got (64) f32". Calls no backend. */
#ifndef PW_KERNELS_OP_CHECK_H
#define PW_KERNELS_OP_CHECK_H

#include "kernels/op.h"

struct named { const char *name; struct pw_tensor t; };
#define NAMED(t) { #t, t }
/* No output may touch another output or an input. */
#define APART(op, outs, ins) PW_PASS(op_apart(op, outs, (int)(sizeof(outs) / sizeof *(outs)), ins, (int)(sizeof(ins) / sizeof *(ins))))

int op_shape(const char *op, const char *name, struct pw_tensor t, enum pw_dtype type, int ndim, const int64_t *shape);
int op_want1(const char *op, const char *name, struct pw_tensor t, enum pw_dtype type, int64_t a);
int op_want2(const char *op, const char *name, struct pw_tensor t, enum pw_dtype type, int64_t a, int64_t b);
int op_want3(const char *op, const char *name, struct pw_tensor t, enum pw_dtype type, int64_t a, int64_t b, int64_t c);
int op_want_like(const char *op, const char *name, struct pw_tensor t, struct pw_tensor like);

bool op_is_float(enum pw_dtype t);
bool op_is_ref(const struct pw_dev *dev);
enum pw_dtype op_wide_of(enum pw_dtype act);  /* of parameters, statistics and gradients of parameters beside activations of type act */

/* The tensor that sets the sizes and the type of a call: of activations; of parameters; either. */
int op_lead(const struct pw_dev *dev, const char *op, const char *name, struct pw_tensor t, int ndim);
int op_lead_wide(const struct pw_dev *dev, const char *op, const char *name, struct pw_tensor t, int ndim);
int op_lead_any(const struct pw_dev *dev, const char *op, const char *name, struct pw_tensor t, int ndim);

bool op_overlap(const void *a, size_t na, const void *b, size_t nb);
int op_apart(const char *op, const struct named *outs, int n_outs, const struct named *ins, int n_ins);
int op_same_or_apart(const char *op, const char *name, struct pw_tensor out, const char *in_name, struct pw_tensor x);

int op_ids_in(const struct pw_dev *dev, const char *op, const char *name, struct pw_tensor ids, int64_t low, int64_t limit);
int op_good_weight(const struct pw_dev *dev, const char *op, const struct pw_weight *w, enum pw_dtype type);
int op_good_drop(const char *op, struct pw_drop drop, const struct pw_lora *lora, bool experts);
int op_enough(const struct pw_dev *dev, const char *op, size_t bytes);
int op_good_seqs(const char *op, const struct pw_seqs *s, int64_t rows, int64_t pool, bool backward);
int op_over(int rc, struct pw_tensor x);      /* a failure of the device itself: says over what it computed */
struct pw_tensor op_weight_view(const struct pw_weight *w);
#endif
