/* Adapters as GGUF files, the form of llama.cpp (its convert_lora_to_gguf and llama-adapter): general.type "adapter", adapter.type "lora",
 * general.architecture that of the base, adapter.lora.alpha; of each module two tensors, "blk.3.attn_q.weight.lora_a" (r, n_in) and ".lora_b"
 * (n_out, r). What B A is multiplied by is alpha / r, or 1 when alpha is 0. The pairs of a linear of all experts of a layer are joined as its weights are:
 * "blk.3.ffn_up_exps.weight.lora_a" (E, r, n_in) and ".lora_b" (E, n_out, r), so that all have one rank.
 *
 * Rows of B of q and k are in the order of the base's GGUF file, so interleaved for architecture llama. Reading is strict: other tensors,
 * halves of pairs and shapes that do not fit are errors. There is one alpha for all modules and no way to say rank-stabilised: scales that
 * do not follow from one alpha are multiplied into B while writing. Files hold no DoRA: writing one is refused. */
#ifndef PW_LORA_GGUF_LORA_H
#define PW_LORA_GGUF_LORA_H
#include "lora/adapter.h"

/* model NULL: for looking alone, rows as in the file. */
int pw_gguf_lora_load(struct pw_adapter *a, const char *path, const struct pw_model_config *model);
/* The whole file, in f32 or f16 (type). Tensors must be in host memory. */
int pw_gguf_lora_write(const struct pw_adapter *a, const char *path, const struct pw_model_config *model, enum pw_dtype type, bool force);
#endif
