/* What the files of op cases share: bounds, and making arrays. A case file lists arrays, the calls, a bound; then its table.
 *
 * Bounds. u = 2^-24. A sum of K products of values within [-1, 1], in chains of at most depth(K) roundings, errs by at most
 * depth(K) * u * sum |x w| <= depth(K) * u * K (Higham, "Accuracy and stability", 3.1). depth: the narrowest vectors have 4 lanes, pieces of
 * 512 terms (dot) or single chains of 256 (outer), then one addition a piece, and 8 for the rest. Everything else is stated at its family.
 * Devices with bf16 activations start from inputs that are bf16 numbers on both sides. An activation that is stored is rounded once: the runner
 * allows u16 |value| for that. What is rounded to bf16 on the way is the family's bound16, from the largest values that ref found in each array. */
#ifndef PW_TESTS_OP_PARTS_H
#define PW_TESTS_OP_PARTS_H

#include "base/memory.h"
#include "base/rng.h"
#include "tests/op_cases.h"

static const double u = 0x1p-24;
__attribute__((unused)) static const double u16 = 0x1p-8;
static inline double depth(double k) { return (k < 256 ? k : 256) + k / 256 + 8; }
static inline double sum_bound(double k) { return depth(k) * u * (k < 1 ? 1 : k); }

/* Adds an array of parameters (f32 on devices), returns its index; act..: of activations (the device's type). */
int add(struct problem *p, const char *name, enum role role, enum pw_dtype type, int ndim, int64_t a, int64_t b, int64_t c);
int add1(struct problem *p, const char *name, enum role role, int64_t a);
int add2(struct problem *p, const char *name, enum role role, int64_t a, int64_t b);
int add3(struct problem *p, const char *name, enum role role, int64_t a, int64_t b, int64_t c);
int act1(struct problem *p, const char *name, enum role role, int64_t a);
int act2(struct problem *p, const char *name, enum role role, int64_t a, int64_t b);
int act3(struct problem *p, const char *name, enum role role, int64_t a, int64_t b, int64_t c);
void *hold(struct problem *p, size_t bytes); /* cleared; freed with the problem */
int32_t *ids(struct problem *p, int64_t n, int64_t low, int64_t high, struct pw_rng *r);

/* op_cases_linear.c: a weight with values within [-1, 1]; rounding weights and arrays of them to bf16. */
void quantised_weight(struct problem *p, enum pw_qtype q, enum pw_dtype type, int64_t n_out, int64_t n_in, bool nested);
void round_array(struct array *a);
void round_stored(struct problem *p);

#define F32 PW_Q_DENSE, PW_F32
#define NF4 PW_Q_NF4, PW_BF16
#define FP4 PW_Q_FP4, PW_BF16
#define I8 PW_Q_INT8, PW_BF16
#define BF PW_Q_DENSE, PW_BF16
#define HF PW_Q_DENSE, PW_F16
#define G(id) PW_Q_##id, PW_BF16 /* a block type of GGUF */
#endif
