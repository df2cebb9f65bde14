/* A model's config and tensor names in GGUF files: the keys and names of llama.cpp, in both directions.
 *
 * Architectures: "llama" (Llama, Mistral, and all that is shaped like them), "qwen2", "qwen3", "qwen3moe", "gemma2", "gemma3", "phi3". Rows of q and k
 * of a llama file are in the order of interleaved rotary pairs: dst row h*d + 2j + t = row h*d + t*d/2 + j of Hugging Face (t 0 or 1, j below d/2); the
 * others keep the order of Hugging Face. Norms of Gemma are stored with 1 added (pw_gguf_offset); Phi-3's attn_qkv and ffn_up are qkv_proj and
 * gate_up_proj, rows q, k, v and gate, up. What llama.cpp does otherwise than transformers, and what is done here:
 *   gemma2, gemma3   which layers go without the window is in llama.cpp's code: every 2nd, every 6th. Here too; attention.sliding_window_pattern, which only
 *                    newer ones look for, goes before it, and is written for another order alone. The scale of scores (query_pre_attn_scalar) has no key: it
 *                    is sqrt(head_dim), or sqrt(hidden / heads) with 46 or 62 layers, and a model with another is not written.
 *   phi3             llama.cpp leaves the window out (attention.sliding_window is in the file); here it is in force as in transformers. rope_factors_long serves
 *                    llama.cpp whenever its context is longer than the original one, transformers and this program only for sequences that are.
 * Private to data/, quant/ and lora/, which write such files. */
#ifndef PW_DATA_GGUF_MODEL_H
#define PW_DATA_GGUF_MODEL_H

#include "data/gguf.h"
#include "data/model_config.h"

/* Reads the config; which heads and biases there are is seen by the tensors. */
int pw_gguf_config(struct pw_gguf *g, struct pw_model_config *c);
/* "blk.3.attn_q.weight" <-> "model.layers.3.self_attn.q_proj.weight" in files of an architecture; false: no such name. */
bool pw_gguf_name_to_hf(const char *arch, const char *gguf, char out[160]);
bool pw_gguf_name_from_hf(const char *arch, const char *hf, char out[160]);
/* What files add to the elements of this tensor: 1 for Gemma's norms. */
double pw_gguf_offset(const struct pw_model_config *c, const char *hf);
/* Are rows of q and k permuted in files of this family? PW_E_UNSUPPORTED for one that cannot be written. */
int pw_gguf_permutes(const struct pw_model_config *c, bool *permutes);
/* The same, and what general.architecture says. */
int pw_gguf_arch(const struct pw_model_config *c, const char **name, bool *permutes);
/* Writes the keys of a config (general.architecture and those of the architecture). Scalings that llama.cpp reads from tensors are added by the caller:
 * pw_gguf_rope_tensor. */
int pw_gguf_put_config(struct pw_gguf_out *w, const struct pw_model_config *c);
/* The context that is written: of architectures without a sliding window it ends with the window, within which there is no difference. */
int64_t pw_gguf_context(const struct pw_model_config *c);
/* Tensor `which` (0, 1) of the rope scaling: its name and head_dim / 2 values at most. Returns *n, its elements; 0: there is none. */
int pw_gguf_rope_tensor(const struct pw_model_config *c, int which, const char **name, float *values, int *n);
#endif
