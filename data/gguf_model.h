/* A model's config and tensor names in GGUF files: the keys and names of llama.cpp, in both directions.
 *
 * Architectures: "llama" (Llama, Mistral, and all that is shaped like them) and "qwen2". Rows of q and k of a llama file are in the
 * order of interleaved rotary pairs: dst row h*d + 2j + t = row h*d + t*d/2 + j of Hugging Face (t 0 or 1, j below d/2); qwen2 keeps the
 * order of Hugging Face. Private to data/, quant/ and lora/, which write such files. */
#ifndef PW_DATA_GGUF_MODEL_H
#define PW_DATA_GGUF_MODEL_H

#include "data/gguf.h"
#include "data/model_config.h"

/* Reads the config; which heads and biases there are is seen by the tensors. */
int pw_gguf_config(struct pw_gguf *g, struct pw_model_config *c);
/* "blk.3.attn_q.weight" <-> "model.layers.3.self_attn.q_proj.weight"; false: no such name. */
bool pw_gguf_name_to_hf(const char *gguf, char out[160]);
bool pw_gguf_name_from_hf(const char *hf, char out[160]);
/* Are rows of q and k permuted in files of this family? PW_E_UNSUPPORTED for one that cannot be written. */
int pw_gguf_permutes(const struct pw_model_config *c, bool *permutes);
/* The same, and what general.architecture says. */
int pw_gguf_arch(const struct pw_model_config *c, const char **name, bool *permutes);
/* Writes the keys of a config (general.architecture and those of the architecture). A llama3 rope scaling becomes the tensor
 * "rope_freqs.weight" of head_dim / 2 floats, which the caller adds: pw_gguf_rope_factors; *n 0 when there is none. */
int pw_gguf_put_config(struct pw_gguf_out *w, const struct pw_model_config *c);
/* The context that is written: files of these architectures have no sliding window, and within the window there is no difference. */
int64_t pw_gguf_context(const struct pw_model_config *c);
int pw_gguf_rope_factors(const struct pw_model_config *c, float *factors, int *n);
#endif
