/* A model on disk: its config and its named tensors, whatever the container.
 *
 * Opens a Hugging Face folder (safetensors, sharded or not, dense or bitsandbytes 4-bit), a GGUF file, or a llama2.c .bin. Files
 * are mapped, not read. Tensors are asked for by their Hugging Face names ("model.layers.0.self_attn.q_proj.weight"); what was asked
 * for is remembered, so that pw_checkpoint_all_used can name a tensor that nobody read: an unread tensor is an error.
 * Every size is checked against the config by the caller through the expected shape. Knows nothing of devices. */
#ifndef PW_DATA_CHECKPOINT_H
#define PW_DATA_CHECKPOINT_H

#include "base/progress.h"
#include "data/model_config.h"
#include "kernels/weight.h"

struct pw_checkpoint;
struct pw_checkpoint_options { const char *tokenizer; }; /* path given by --tokenizer, or NULL */

int pw_checkpoint_open(struct pw_checkpoint **out, const char *model, const struct pw_checkpoint_options *opt);
void pw_checkpoint_close(struct pw_checkpoint *c);      /* unmaps: views from it die */
const struct pw_model_config *pw_checkpoint_config(const struct pw_checkpoint *c);
const char *pw_checkpoint_path(const struct pw_checkpoint *c);
const char *pw_checkpoint_format(const struct pw_checkpoint *c);   /* "safetensors", "safetensors, bitsandbytes nf4", "GGUF, Q4_K", "llama2.c" */
const char *pw_checkpoint_tokenizer(const struct pw_checkpoint *c);/* folder or file to give to pw_tokenizer_load; NULL = none */
/* Of a model of several parts only the text is opened, under the names of the model of text alone: what is left out, "the vision part (437 tensors, 817.8 MiB)"; NULL: nothing.
 * What is opened is that model, so identity and hash are those of a folder that holds it alone. */
const char *pw_checkpoint_left_out(const struct pw_checkpoint *c);
void pw_checkpoint_tell(const struct pw_checkpoint *c, struct pw_progress *progress);   /* says so in one line, if there is something */
size_t pw_checkpoint_bytes(const struct pw_checkpoint *c);         /* of all tensors as stored */
/* SHA-256 over config and tensors (names, dtypes, shapes, bytes) in name order: what is stored, exactly. Computed once, kept. Reads all. */
int pw_checkpoint_hash(struct pw_checkpoint *c, char hex[65]);
/* Bytes of a tensor, or of a part of it, that will not be read soon: their pages are given back. False: they are no bytes of the files, but a copy. */
bool pw_checkpoint_forget(const struct pw_checkpoint *c, const void *at, size_t bytes);
bool pw_checkpoint_is_mapped(const struct pw_checkpoint *c, const void *at);    /* in the files themselves, not a copy */
void pw_checkpoint_spare(struct pw_checkpoint *c);                 /* hashing does so as it goes, for a model that is read tensor by tensor after it */
size_t pw_checkpoint_hash_bytes(const struct pw_checkpoint *c);    /* of the files, that it has in memory at once then */
/* Which model this is: what adapters and caches record. `pw quant` writes the hash of the folder it read into the folder it makes
 * ("pennyweight.source" in the safetensors metadata); such a folder is the same model in another form, so its identity is that hash.
 * Any other model: pw_checkpoint_hash. An adapter trained on NF4 of X therefore fits X dense, X quantised while loading, and a
 * folder made of X by `pw quant`, and never Y. The recorded hash is believed, as the rest of the file is. */
int pw_checkpoint_identity(struct pw_checkpoint *c, char hex[65]);

bool pw_checkpoint_has(const struct pw_checkpoint *c, const char *name);
/* A dense tensor of exactly this shape (b = 0: one dimension). dtype f32, f16 or bf16, in place. */
int pw_checkpoint_tensor(struct pw_checkpoint *c, const char *name, int64_t a, int64_t b, struct pw_tensor *out);
/* A weight of exactly (n_out, n_in), dense, 4-bit or of a GGUF type, as stored; scales that are not aligned in the file are copied. */
int pw_checkpoint_weight(struct pw_checkpoint *c, const char *name, int64_t n_out, int64_t n_in, struct pw_weight *out);
/* Layers with experts: the router, and one linear of one expert. Under names of their own, as published files and transformers have them; or as slices of
 * the tensors that hold all experts of a layer, which transformers 5 writes with save_original_format=False (dense): mlp.experts.gate_up_proj
 * (E, 2 F, D), gate above up, and mlp.experts.down_proj (E, D, F), beside mlp.gate; GGUF has one such tensor for each of the three, of any type. */
int pw_checkpoint_router(struct pw_checkpoint *c, int layer, struct pw_weight *out);
int pw_checkpoint_expert(struct pw_checkpoint *c, int layer, int expert, enum pw_expert_part p, struct pw_weight *out);
int pw_checkpoint_all_used(const struct pw_checkpoint *c);
/* For listings: i-th tensor in name order; false past the end. */
struct pw_stored { const char *name; const char *dtype; int ndim; int64_t shape[4]; const void *data; size_t bytes; };
bool pw_checkpoint_at(const struct pw_checkpoint *c, size_t i, struct pw_stored *out);

/* The embedding and the head of a tied model may be stored under either name; this resolves it. A tied model that stores both
 * must store the same bytes twice; otherwise opening it is an error (transformers would silently take the embedding). */
const char *pw_checkpoint_head_name(const struct pw_checkpoint *c);
const char *pw_checkpoint_embed_name(const struct pw_checkpoint *c);
#endif
