/* What the two files of model_config.h share: model_config.c (families, sizes, layers), model_config_experts.c (experts) and rope_config.c (rotary parameters). Private to them. */
#ifndef PW_DATA_MODEL_CONFIG_PARTS_H
#define PW_DATA_MODEL_CONFIG_PARTS_H

#include "data/model_config.h"

/* A finite number above 0; absent: *out stays. */
int pw_config_positive(const struct pw_value *json, const char *key, const char *source, double *out);

/* rope_theta, rope_local_base_freq, partial_rotary_factor and rope_scaling of older files, or rope_parameters of transformers 5, which may be one
 * map for each type of layer. Wants head_dim, context and, with `local`, which layers have the window. */
struct pw_rope_rules {
    bool local;               /* layers with a window rotate by frequencies of their own, from rope_local_theta */
    bool phi;                 /* knows longrope alone ("su" and "yarn" are old names of it); original_max_position_embeddings is 4096 when silent */
};
int pw_rope_config_read(struct pw_model_config *c, const struct pw_rope_rules *rules, const struct pw_value *json, const char *source);
void pw_rope_config_write(const struct pw_model_config *c, struct pw_json *w);
/* num_local_experts or num_experts, num_experts_per_tok, moe_intermediate_size, norm_topk_prob, mlp_only_layers, decoder_sparse_step: model_config_experts.c. */
int pw_experts_config_read(struct pw_model_config *c, const struct pw_value *json, const char *source);
void pw_experts_config_write(const struct pw_model_config *c, struct pw_json *w);
int64_t pw_experts_count(const struct pw_model_config *c); /* parameters of a half with experts */
#endif
