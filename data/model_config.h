/* The shape of a model, read from config.json (or the header of another format) into one struct.
 *
 * Families are rows of a table in data/model_config.c (model_type, architecture class, defaults, tensor names): adding one touches
 * a row. A config that asks for something the program does not do is an error naming the key. Knows nothing of weights. */
#ifndef PW_DATA_MODEL_CONFIG_H
#define PW_DATA_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include "base/value.h"

enum pw_rope_scaling { PW_ROPE_PLAIN, PW_ROPE_LINEAR, PW_ROPE_LLAMA3, PW_ROPE_DYNAMIC, PW_ROPE_YARN, PW_ROPE_LONG };

struct pw_model_config {
    char family[24];          /* "llama" */
    char architecture[48];    /* "LlamaForCausalLM" */
    int64_t vocab;
    int layers, hidden, heads, kv_heads, head_dim, ffn;
    int64_t context;          /* max_position_embeddings */
    double norm_eps, norm_offset;
    double rope_theta;
    bool rope_interleaved;    /* llama2.c and GGUF row order of q and k */
    enum pw_rope_scaling rope_scaling;
    double rope_factor, rope_low_freq, rope_high_freq, rope_original_context;
    bool tied;                /* the head is the embedding */
    bool qkv_bias, o_bias, mlp_bias;
    bool gelu;                /* GeGLU (tanh) instead of SwiGLU */
    int64_t window;           /* sliding window, 0 = none */
    double attn_scale;        /* 1/sqrt(head_dim) unless the config says otherwise */
    double embed_scale;       /* 1 */
    double attn_softcap, logit_softcap; /* 0 */
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
/* The seven linear modules of a block, in forward order, with their sizes: the one list of names that everybody uses. */
enum pw_linear { PW_LIN_Q, PW_LIN_K, PW_LIN_V, PW_LIN_O, PW_LIN_GATE, PW_LIN_UP, PW_LIN_DOWN, PW_LIN_COUNT };
const char *pw_linear_suffix(enum pw_linear l);                      /* "self_attn.q_proj" */
void pw_linear_shape(const struct pw_model_config *c, enum pw_linear l, int64_t *n_out, int64_t *n_in);
#endif
