/* The shape of a model, read from config.json (or the header of another format) into one struct.
 *
 * Families are rows of a table in data/model_config.c (model_type, architecture class, defaults, tensor names): adding one touches
 * a row. Of a model of several parts (text and vision), which is another table, the text part alone is read. A config that asks for something the program does not do is an error naming the key. Knows nothing of weights. */
#ifndef PW_DATA_MODEL_CONFIG_H
#define PW_DATA_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include "base/value.h"

enum pw_rope_scaling { PW_ROPE_PLAIN, PW_ROPE_LINEAR, PW_ROPE_LLAMA3, PW_ROPE_DYNAMIC, PW_ROPE_YARN, PW_ROPE_LONG };

enum { PW_LAYERS_MAX = 4096, PW_ROPE_PAIRS_MAX = 128 };

struct pw_model_config {
    char family[24];          /* "llama" */
    char architecture[48];    /* "LlamaForCausalLM" */
    char whole[48];           /* the folder holds more than text, "Gemma3ForConditionalGeneration", and this is its text part; else empty. Not part of what is written */
    int64_t vocab;
    int layers, hidden, heads, kv_heads, head_dim, ffn;
    int64_t context;          /* max_position_embeddings; with dynamic rope scaling, factor times it */
    double norm_eps, norm_offset;
    double rope_theta;
    bool rope_interleaved;    /* llama2.c and GGUF row order of q and k */
    enum pw_rope_scaling rope_scaling;
    double rope_factor, rope_low_freq, rope_high_freq, rope_original_context; /* original: with dynamic, max_position_embeddings */
    double rope_beta_fast, rope_beta_slow;     /* yarn */
    bool rope_whole_range;                     /* yarn: the range between the two is not widened to whole dimensions (truncate: false) */
    double rope_attention;                     /* yarn, longrope: cosines and sines are multiplied by it; 0 = 1 */
    double rope_short[PW_ROPE_PAIRS_MAX], rope_long[PW_ROPE_PAIRS_MAX]; /* longrope: divisors for sequences within the original context, and for longer ones */
    double rope_local_theta;  /* layers with a window rotate plainly by this base; 0 = as the others */
    int rotary;               /* dimensions of a head that rotate, its first; 0 = all */
    bool tied;                /* the head is the embedding */
    bool qkv_bias, o_bias, mlp_bias;
    bool gelu;                /* GeGLU (tanh) instead of SwiGLU */
    bool fused;               /* q, k, v are rows of one matrix, gate and up of another (Phi-3) */
    bool qk_norm;             /* each head of q and k is normalised before it is rotated */
    bool post_norms;          /* the outputs of attention and of the feed-forward half are normalised before they are added */
    int64_t window;           /* sliding window, 0 = none */
    uint64_t full[PW_LAYERS_MAX / 64]; /* with a window: bit i says that layer i sees everything all the same */
    double attn_scalar;       /* query_pre_attn_scalar, 0 = head_dim */
    double attn_scale;        /* 1/sqrt(attn_scalar) */
    double embed_scale;       /* embeddings are multiplied by it, rounded to the type of activations; 1 = not */
    double attn_softcap, logit_softcap; /* 0 */
    int experts;              /* of a feed-forward half; 0 = one dense half, as usual */
    int experts_chosen, expert_ffn;
    bool experts_renormalise; /* weights are a share of those chosen, not of all */
    uint64_t dense[PW_LAYERS_MAX / 64]; /* with experts: bit i says that layer i has a dense half all the same */
    double init_range;        /* initializer_range, for training from scratch */
    int32_t bos, eos[8], pad; /* -1 = none; eos ends at the first -1 */
    int n_eos;
    int64_t parameters;       /* counted from the shape, tied weights once */
};

int pw_model_config_parse(struct pw_model_config *c, const struct pw_value *json, const char *source);
/* eos_token_id of another file (generation_config.json), which wins over the config's; absent: nothing changes. */
int pw_model_config_eos(struct pw_model_config *c, const struct pw_value *json, const char *source);
/* Writes the members of a config.json of the Hugging Face form into a map that is open in w (the caller opens and closes it, and may
 * add members). dtype: "float32", "bfloat16" or "float16" for torch_dtype, NULL = none. */
void pw_model_config_write(const struct pw_model_config *c, const char *dtype, struct pw_json *w);
int64_t pw_model_config_count(const struct pw_model_config *c); /* parameters */
int64_t pw_model_config_window(const struct pw_model_config *c, int layer); /* of this layer; 0 = it sees everything */

int pw_model_config_rotary(const struct pw_model_config *c);                      /* dimensions of a head that rotate */
bool pw_model_config_local(const struct pw_model_config *c, int layer);           /* does it rotate by rope_local_theta? */

/* The linear modules of a block, in forward order, with their sizes: the one list of names that everybody uses. A model has some of
 * them: pw_linear_has. */
enum pw_linear { PW_LIN_Q, PW_LIN_K, PW_LIN_V, PW_LIN_QKV, PW_LIN_O, PW_LIN_GATE, PW_LIN_UP, PW_LIN_GATE_UP, PW_LIN_DOWN, PW_LIN_COUNT };
bool pw_linear_has(const struct pw_model_config *c, enum pw_linear l);
const char *pw_linear_suffix(enum pw_linear l);                      /* "self_attn.q_proj" */
bool pw_linear_biased(const struct pw_model_config *c, enum pw_linear l);
void pw_linear_shape(const struct pw_model_config *c, enum pw_linear l, int64_t *n_out, int64_t *n_in);

/* The feed-forward half of a layer with experts: a router and, of each expert, three linears. The linears PW_LIN_GATE, UP and DOWN are absent there. */
enum pw_expert_part { PW_EXPERT_GATE, PW_EXPERT_UP, PW_EXPERT_DOWN, PW_EXPERT_PARTS };
bool pw_model_config_sparse(const struct pw_model_config *c, int layer);            /* has this layer experts? */
bool pw_layer_has(const struct pw_model_config *c, int layer, enum pw_linear l);    /* pw_linear_has, and it is not made of experts here */
enum { PW_EXPERT_NAME = 64 };
const char *pw_router_suffix(const struct pw_model_config *c);                      /* "mlp.gate" */
const char *pw_expert_part_name(const struct pw_model_config *c, enum pw_expert_part p);  /* "gate_proj"; Mixtral: "w1" */
/* "mlp.experts.3.gate_proj"; Mixtral: "block_sparse_moe.experts.3.w1" */
void pw_expert_suffix(const struct pw_model_config *c, int expert, enum pw_expert_part p, char out[PW_EXPERT_NAME]);
/* Which expert and part a suffix of this form names, whatever the family; false: none. *length: how much of the text is the name. */
bool pw_expert_of(const char *suffix, int *expert, enum pw_expert_part *p, size_t *length);
void pw_expert_shape(const struct pw_model_config *c, enum pw_expert_part p, int64_t *n_out, int64_t *n_in);
enum pw_linear pw_expert_linear(enum pw_expert_part p);                             /* the linear of a dense half that it stands for */

/* The norms of a block, in forward order: before attention, of the heads of q and k, of what attention puts out, before and after the
 * feed-forward half. A model has some of them. */
enum pw_norm { PW_NORM_ATTN, PW_NORM_Q, PW_NORM_K, PW_NORM_ATTN_OUT, PW_NORM_MLP, PW_NORM_MLP_OUT, PW_NORM_COUNT };
const char *pw_norm_suffix(const struct pw_model_config *c, enum pw_norm n);   /* "input_layernorm"; NULL: the model has none */
int pw_norm_width(const struct pw_model_config *c, enum pw_norm n);            /* hidden or head_dim */
#endif
