/* What the files that make up the checkpoint share: the list of stored tensors, and one opener per container.
 * Private to data/checkpoint.c, data/checkpoint_hf.c, data/gguf_model.c, data/llama2c.c and data/bnb.c. */
#ifndef PW_DATA_CHECKPOINT_PARTS_H
#define PW_DATA_CHECKPOINT_PARTS_H

#include "data/checkpoint.h"
#include "data/gguf.h"
#include "data/safetensors.h"

struct stored {
    struct pw_stored t;
    const char *file;      /* for messages */
    bool used;
};
struct pw_checkpoint {
    struct pw_arena arena;
    const char *path, *format, *tokenizer;
    struct pw_model_config config;
    struct pw_safetensors *files; const char **paths; size_t n_files;  /* Hugging Face folder */
    struct pw_map map;                              /* llama2.c */
    struct pw_gguf gguf;
    struct stored *tensors; size_t n;               /* in name order */
    const char *source;                             /* recorded by pw quant, or NULL */
    const char *left_out;                           /* what of the folder is not in the list, or NULL */
    char hash[65];
    bool sparing;                                   /* pw_checkpoint_spare */
};

/* Each fills config, format, tokenizer and the tensors (any order); on failure the caller closes. */
int pw_checkpoint_open_hf(struct pw_checkpoint *c, const char *dir);
int pw_checkpoint_open_gguf(struct pw_checkpoint *c, const char *file);
int pw_checkpoint_open_llama2c(struct pw_checkpoint *c, const char *file);

struct stored *pw_checkpoint_stored(const struct pw_checkpoint *c, const char *name);  /* NULL: no such */
/* The tensor's bytes at an address that suits `align`: in place, or copied into the arena. */
int pw_checkpoint_aligned(struct pw_checkpoint *c, const struct stored *s, size_t align, const void **out);
/* bitsandbytes: is `name` stored quantised, and reading it. */
bool pw_bnb_has(const struct pw_checkpoint *c, const char *name);
int pw_bnb_read(struct pw_checkpoint *c, const char *name, int64_t n_out, int64_t n_in, struct pw_weight *out);
#endif
