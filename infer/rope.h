/* Rotary tables (Su et al., "RoFormer", 2021): cosines and sines of position times frequency, one row a position.
 * Frequencies are computed in double; in f32 tables they and the angles are rounded to f32, as the models were trained (in transformers, whose angle of
 * a late position is off by up to half a unit of f32). The rotation itself is an op; its backward is the same op with direction -1.
 *
 * A session and a training pass have tables of their own, as long as the longest sequence that they may come to hold, and rows are made when a sequence first
 * reaches them: a model with a context of 131072 tokens costs a short text nothing.
 *
 * With two kinds of scaling the rows of a position depend on the length of the whole sequence that it is in, as in one pass of transformers over it:
 *   longrope  one set of rows for sequences within the original context, another for longer ones
 *   dynamic   within max_position_embeddings nothing is scaled; a longer sequence of L tokens has the base theta (f L / max - (f - 1))^(d / (d - 2)), so rows
 *             of its own, which are made for each pass anew. The context of such a model is factor times max_position_embeddings.
 * Knows the config's rope fields, nothing of heads or tokens. */
#ifndef PW_INFER_ROPE_H
#define PW_INFER_ROPE_H

#include "base/memory.h"
#include "data/model_config.h"
#include "kernels/dev.h"

/* Which of a model's frequencies: those of all layers; of layers with a window where these have their own; longrope's for sequences that are longer
 * than the original context. */
enum pw_rope_kind { PW_ROPE_GLOBAL, PW_ROPE_LOCAL, PW_ROPE_STRETCHED };
/* Frequency of each of the pairs that rotate, after the scaling that the config asks for. length: of the whole sequence; only dynamic scaling looks at it. */
int pw_rope_frequencies(const struct pw_model_config *c, enum pw_rope_kind kind, int64_t length, double *freq);

bool pw_rope_by_length(const struct pw_model_config *c);                                /* do the rows of a position depend on the length of its sequence? */
bool pw_rope_alike(const struct pw_model_config *c, int64_t length, int64_t other);     /* have sequences of these lengths the same rows? */

struct pw_rope_shape {
    const struct pw_model_config *config;
    int64_t longest;           /* no sequence is longer; above the context: the context */
    int64_t tokens;            /* of the largest pass */
    enum pw_dtype type;        /* f32 or f64 */
};
struct pw_rope_tables {
    struct pw_rope_shape shape;
    struct pw_dev *dev;
    struct pw_tensor cosines[2], sines[2];   /* (rows, pairs); the second of layers with a window, where these have their own */
    int64_t made[2];           /* rows from the start of each set that are there: longrope has two sets, others one */
    int64_t taken;             /* rows of this pass, after the sets */
    double *frequencies;       /* (pairs) */
    void *staged;              /* where rows are made, when the tables are not host memory */
};
size_t pw_rope_bytes(const struct pw_rope_shape *s);                                    /* of a pool, for plans */
int pw_rope_place(struct pw_rope_tables *r, struct pw_dev *dev, struct pw_pool *pool, struct pw_arena *arena, const struct pw_rope_shape *s);
void pw_rope_pass(struct pw_rope_tables *r);                                            /* a pass begins: rows that the last one made for its sequences are free */
/* rows[0..n) = the rows of positions first..first + n of a sequence that is `length` tokens long in all, made where they are not there yet. A length beyond what
 * the tables are for, or more tokens in a pass, is an error. */
int pw_rope_rows(struct pw_rope_tables *r, int64_t first, int64_t n, int64_t length, int32_t *rows);
#endif
