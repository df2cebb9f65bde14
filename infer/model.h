/* A model ready to compute: config, typed layers, and the checkpoint mapping that owns the bytes.
 *
 * Loading places every weight where the device wants it: on host devices dense and 4-bit weights are used from the mapping; others get the stored rows
 * and quantise them by themselves (quant/stage.h), the rest is made on the processor, one at a time, and copied (never a second copy of the model in host memory);
 * `quantise` quantises block linears while loading (never a whole f32 copy of the model). Norms, embedding and head stay as stored
 * (norm vectors are widened to f32). An unknown architecture or an unread tensor is an error that names it. */
#ifndef PW_INFER_MODEL_H
#define PW_INFER_MODEL_H

#include "data/checkpoint.h"
#include "infer/stream.h"
#include "kernels/op.h"
#include "lora/adapter.h"

struct pw_moe {                                         /* a feed-forward half made of experts */
    struct pw_weight router;                           /* (E, D), as stored: never quantised while loading, never trained */
    struct pw_weight *part[PW_EXPERT_PARTS];           /* (E) each: gate, up, down; ->lora set by pw_model_attach, for all experts of a layer or none */
};
struct pw_layer {
    struct pw_tensor norm[PW_NORM_COUNT];              /* (D), of q and k (d), f32; none where the model has none */
    struct pw_weight linear[PW_LIN_COUNT];             /* those that the model has; ->lora set by pw_model_attach */
    struct pw_moe *moe;                                /* NULL: a dense half */
};
struct pw_model {
    struct pw_model_config config;
    struct pw_dev *dev;
    struct pw_layer *layers;
    struct pw_tensor norm_final;                       /* (D) f32 */
    struct pw_weight embed;                            /* (V, D) as it is stored: f32, f16, bf16, or the blocks of a GGUF file */
    struct pw_weight head;                             /* (V, D); tied: the embedding, or its own when quantised */
    struct pw_checkpoint *checkpoint;                  /* owned; NULL when the model was created, not loaded */
    bool trainable;                                    /* weights are dense and may be written */
    struct pw_pool pool;                               /* widened norms, quantised weights */
    struct pw_layer_stream stream;                           /* weights of blocks that wait in host memory, with `stream` */
    size_t *block_bytes;                               /* (layers): of the weights of each block in the pool, or on the host; for plans */
    void *embed_pinned;                                /* the embedding with embed_host */
    struct pw_model_own *own;                          /* what modules that an adapter trained whole stand in for; NULL: none yet */
    struct pw_arena arena;
    size_t weight_bytes;                               /* of all weights as they are in memory */
    uint64_t memory;                                   /* most bytes that the process may come to; 0: no limit. See memory_limit.h */
    size_t adapter_bytes;                              /* of adapters that lie beside it on a device that is not the host, attached or not: whoever puts them there adds them, for plans */
    uint64_t attached;                                 /* counts pw_model_attach: what was captured before is another step */
    enum pw_dtype cache_type;                          /* of keys and values that sessions keep: the device's type of activations, or bf16 or i8 */
    size_t program_bytes;                              /* resident pages of program and libraries before the model was mapped */
    size_t mapped_bytes;                               /* of the model's files, resident: weights that are used where they lie, and the largest that is made from them; a weight's
                                                        * pages are given back when it was made */
};
struct pw_model_options {
    const char *tokenizer;     /* --tokenizer, or NULL */
    const char *quantise;      /* "" or NULL = as stored; "nf4", "fp4", "int8": block linears; "f32", "bf16", "f16": all weights */
    bool double_quant;
    const char *head_type;     /* "" or NULL = as the other dense weights; "int8": the output layer is quantised while loading */
    bool embed_host;           /* the embedding stays in pinned host memory that the device reads; not on host devices, not with a dense tied head */
    int stream;                /* so many blocks wait in pinned host memory and are brought as they are needed (stream.h); not on host devices, not trainable */
    int64_t context;           /* --ctx; 0 = the model's */
    bool trainable;            /* full training: all weights as f32 in memory that may be written */
    uint64_t memory;           /* --memory; 0: no limit. What would go beyond it is refused before it is taken, here and when a session opens */
    const char *cache_type;    /* "" or NULL = as activations; "f32", "bf16", "int8": of the keys and values that sessions keep */
    bool measure;              /* for plans: types and shapes alone, nothing is made; pool.bytes says what loading would take. Cannot compute. */
};
int pw_model_load(struct pw_model **out, struct pw_dev *dev, const char *path, const struct pw_model_options *opt);
void pw_model_free(struct pw_model *m);
/* Hangs the adapter's low-rank pairs on the linears, and puts what it trained whole in the place of the base's (NULL takes all off). The adapter must outlive its use. A module that the model
 * does not have, or of another shape, is an error that names it. */
int pw_model_attach(struct pw_model *m, const struct pw_adapter *a);
double pw_model_embed_scale(const struct pw_model *m); /* what embeddings are multiplied by: the config's scale in the type of activations */
/* Only the shapes, for plans: tensors need no memory yet, and nothing can be computed until the adapter is attached. */
int pw_model_attach_shapes(struct pw_model *m, const struct pw_adapter *a);
/* out = the base's own weight of a norm, the embedding or the head ("model.norm", "lm_head"), in f32, whatever is attached. */
int pw_model_base_value(struct pw_model *m, const char *module, struct pw_tensor out);
/* The norms of attached DoRA adapters, anew: attaching makes them too, so call it when values of one that is attached have changed. */
int pw_model_norms(struct pw_model *m);
struct pw_weight *pw_model_linear(struct pw_model *m, const char *module); /* "model.layers.3.mlp.up_proj"; NULL = no such */
/* A fresh model from a config alone (weights normal(0, init_range), norms 1), trainable, for training from scratch. */
int pw_model_create(struct pw_model **out, struct pw_dev *dev, const struct pw_model_config *config, uint64_t seed);
/* The same for plans: shapes without memory; pool.bytes says what creating would take. */
int pw_model_create_measure(struct pw_model **out, struct pw_dev *dev, const struct pw_model_config *config);
/* The same in another type: f64 on the ref device, for gradient checks. Experts too, though they are not among the parameters. */
int pw_model_create_as(struct pw_model **out, struct pw_dev *dev, const struct pw_model_config *config, uint64_t seed, enum pw_dtype type);
/* Random weights made by the device where they lie, encoded as opt->quantise and double_quant say (dense: the device's type, or f32), for measuring
 * speed and memory; opt->context counts too. Not trainable. */
int pw_model_random(struct pw_model **out, struct pw_dev *dev, const struct pw_model_config *config, const struct pw_model_options *opt, uint64_t seed);
/* All trainable parameters of a full-training model in a fixed order, for the optimiser and for saving: the embedding; per layer
 * norms and linears in forward order (input norm, q, k, v, norms of q and k, o, ...); the final norm; the head unless it is tied (then the gradients of both uses are
 * added into the embedding's). Names are those of Hugging Face. */
struct pw_param { const char *name; struct pw_tensor value; };
int pw_model_params(struct pw_model *m, struct pw_param **params, size_t *n);  /* in m->arena */
/* Writes config.json, model.safetensors (dtype "f32", "bf16" or "f16") and the tokenizer files into an existing folder. */
int pw_model_save(struct pw_model *m, const char *dir, const char *dtype);
#endif
