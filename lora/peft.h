/* PEFT adapter folders: adapter_config.json and adapter_model.safetensors (huggingface/peft, docs/source/developer_guides/checkpoint.md).
 *
 * Reading is strict: unknown, missing or misshaped tensors are errors that name them; keys that would change the arithmetic and that
 * we do not do (use_dora, ...) are refused. Writing gives only long-lived keys, deterministic bytes. The hash of the base
 * is kept in the metadata of adapter_model.safetensors ("pennyweight.base", "pennyweight.base_type"), since older versions of PEFT fail on
 * keys of adapter_config.json that they do not know. Rows of B of q and k are in the order of Hugging Face in every file; for a base whose
 * rows are in interleaved pairs (llama2.c, GGUF) they are reordered while reading and writing, so that an adapter fits all forms of its base. */
#ifndef PW_LORA_PEFT_H
#define PW_LORA_PEFT_H
#include "lora/adapter.h"

/* model: shapes that the adapter must fit; NULL = shapes are taken from the file (pw lora info). */
int pw_peft_load(struct pw_adapter *a, const char *dir, const struct pw_model_config *model);
/* Writes the two files into an existing folder (inside a pw_outdir). Tensors must be in host memory. */
int pw_peft_write(const struct pw_adapter *a, const char *dir);
#endif
