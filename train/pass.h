/* One pass of training or evaluation: a packed batch through the model, its loss, and the gradients of what is trained.
 *
 * Owns the activations: the residual stream, what backward needs of the last `kept` blocks, the inputs of the others (which are computed again,
 * block by block, in a slot that is free by then), and scratch. The bytes of the result are the same whatever is kept and wherever inputs wait. All of it is placed once for the largest pass; running allocates nothing.
 * Knows nothing of steps, schedules or files. */
#ifndef PW_TRAIN_PASS_H
#define PW_TRAIN_PASS_H

#include "data/packing.h"
#include "infer/block.h"
#include "train/optim.h"

struct pw_pass_shape {
    int64_t tokens;            /* of the largest pass */
    int64_t sequences;         /* most sequences in a pass */
    int64_t longest;           /* tokens of the longest sequence; 0: as many as the pass */
    bool train;                /* backward too */
    int kept;                  /* last blocks whose activations are all kept: from 1 (checkpointing) to all */
    int64_t mlp_rows;          /* infer/block.h; 0 but in tests */
    bool offload;              /* the inputs of the others wait in host memory, moved while blocks compute */
};
struct pw_pass {
    struct pw_model *m;
    struct pw_pass_shape shape;
    struct pw_tensor ids, pos, targets;          /* (T) i32 */
    struct pw_tensor loss, dloss, inv_final;     /* (T) f32 */
    struct pw_tensor x, h, dh, dx;               /* (T, D) activations; h and dh are those of work */
    void *seqs;                                  /* pw_seqs_put; NULL on host devices */
    struct pw_tensor inputs;                     /* ((L - kept) * T, D): inputs of blocks; with offload two of them, block i at i % 2 */
    struct pw_tensor xa_down;                    /* ((L - kept) * T, R): of the adapters of down, where blocks are computed again without it */
    char *host_inputs;                           /* ((L - kept), T, D) pinned, with offload: pw_pass_close */
    struct pw_saved *saved;                      /* (kept) */
    struct pw_work work;
    struct pw_block_grads *grads;                /* (L) */
    struct pw_tensor dembed, dhead, dnorm_final; /* full training; none otherwise */
    float *host_loss;                            /* (T) */
    struct pw_rope_tables rope;
    int32_t *host_pos;                           /* (T) rows of the rotary tables */
};
struct pw_pass_bytes { size_t saved, scratch, device; }; /* device: the scratch of the ops, pw_dev_reserve */
/* Sizes, from the model's shapes alone (a model with adapters attached, if there are any). */
void pw_pass_size(const struct pw_model *m, const struct pw_pass_shape *shape, struct pw_pass_bytes *bytes);
/* pool: at least saved + scratch bytes. arena: small host structures. The device's scratch must be reserved. */
int pw_pass_place(struct pw_pass *p, struct pw_model *m, const struct pw_pass_shape *shape, struct pw_pool *pool, struct pw_arena *arena);
void pw_pass_close(struct pw_pass *p); /* gives pinned memory back; fine on a zeroed pass */
size_t pw_pass_host_bytes(const struct pw_model *m, const struct pw_pass_shape *shape); /* of pinned memory */
/* Connects gradients: each slot is the tensor of one trained parameter of the model. A slot that is none of them is an error. */
int pw_pass_connect(struct pw_pass *p, const struct pw_optim *o);

struct pw_pass_options {
    bool backward;             /* gradients are added; each row's loss counts dloss */
    double dloss;
    bool dropout;
    uint64_t drop_seed, drop_offset;   /* of the step: */
    int64_t drop_row;          /* its tokens before those of the pass */
    double drop_p;
    double neftune;            /* noise on the embeddings, Jain et al. 2023: uniform, of size neftune / sqrt(tokens of the sequence * D); 0: none */
    /* Losses of whole sequences: called between forward and backward. rows (T): in, the loss of each token (0 where it is not trained); out,
     * what each counts in the gradient, instead of dloss. The head is then computed twice. NULL: none. */
    int (*weigh)(void *ctx, const struct pw_packed *batch, float *rows, double *loss); void *weigh_ctx;
};
/* loss: the sum over the trained tokens of the batch, each times its weight, in double, in token order; with weigh, what it says. */
int pw_pass_run(struct pw_pass *p, const struct pw_packed *batch, const struct pw_pass_options *o, double *loss);
#endif
