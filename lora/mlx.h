/* Adapters of mlx-lm (its tuner/lora.py and tuner/utils.py): a folder with adapter_config.json and adapters.safetensors.
 *
 * Tensors "model.layers.3.self_attn.q_proj.lora_a" (n_in, r) and ".lora_b" (r, n_out), so transposed against PEFT; layers are numbered as
 * in the model, also when only the last num_layers were trained. What B A is multiplied by stands in lora_parameters: scale, in old
 * files scale * alpha / rank. Only reading. DoRA ("m" beside the pair) and full training are refused. */
#ifndef PW_LORA_MLX_H
#define PW_LORA_MLX_H
#include "lora/adapter.h"
bool pw_mlx_is(const char *dir);    /* the folder holds adapters.safetensors */
int pw_mlx_load(struct pw_adapter *a, const char *dir, const struct pw_model_config *model);
#endif
