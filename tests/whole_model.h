/* A whole small model in training form for tests: every tensor that a forward and backward pass touches, in f32 or (ref device) f64. */
#ifndef PW_TESTS_WHOLE_MODEL_H
#define PW_TESTS_WHOLE_MODEL_H

#include "infer/block.h"

enum { WHOLE_LAYERS = 2, WHOLE_TOKENS = 12, WHOLE_EXPERTS = 4, WHOLE_MLP_ROWS = 5 };   /* the feed-forward half goes in parts, the last one smaller */
struct whole {
    struct pw_dev *dev;
    struct pw_model *m;
    struct pw_pool pool;
    struct pw_saved saved[WHOLE_LAYERS], again;              /* again: without gate and up, for a block that is computed again */
    struct pw_tensor xa_down[WHOLE_LAYERS];                  /* kept for it */
    struct pw_work work;
    struct pw_lora lora[WHOLE_LAYERS][PW_LIN_COUNT];
    struct pw_block_grads grads[WHOLE_LAYERS];
    struct pw_lora expert_lora[WHOLE_LAYERS][PW_EXPERT_PARTS][WHOLE_EXPERTS];
    struct pw_linear_grads expert_grads[WHOLE_LAYERS][PW_EXPERT_PARTS][WHOLE_EXPERTS];   /* of adapters alone */
    struct pw_tensor dembed, dhead, dnorm_final;             /* dhead = dembed when tied */
    struct pw_tensor x, inputs[WHOLE_LAYERS], h, inv, dx, dh, loss, dloss;
    int64_t tokens;
    int32_t ids[WHOLE_TOKENS], targets[WHOLE_TOKENS], pos[WHOLE_TOKENS], q_start[4], kv_len[4];
    struct pw_seqs seqs;
    struct pw_rope_tables rope;
    struct pw_arena arena;
    struct pw_block_batch batch;
};
struct pw_model_config whole_config(bool tied);
/* lens: lengths of the packed sequences, ended by 0. Ids, targets and upstream gradients are random of `seed` and of the row. */
void whole_open(struct whole *w, const char *device, const struct pw_model_config *c, enum pw_dtype type, int rank, const int *lens, uint64_t seed);
/* The same with other parts of the feed-forward half. */
void whole_open_parts(struct whole *w, const char *device, const struct pw_model_config *c, enum pw_dtype type, int rank, const int *lens, uint64_t seed, int64_t mlp_rows);
void whole_close(struct whole *w);
double whole_forward(struct whole *w, bool save);            /* sum of dloss * loss; without save only the blocks' inputs are kept */
void whole_backward(struct whole *w, bool recompute);        /* clears the gradients first */
double whole_get(struct pw_tensor t, int64_t i);
void whole_set(struct pw_tensor t, int64_t i, double x);
void whole_random(struct pw_tensor t, double deviation, uint64_t seed);
#endif
