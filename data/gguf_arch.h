/* What llama.cpp's code knows of an architecture and its files do not say: a row each. Private to the files of gguf_model.h. */
#ifndef PW_DATA_GGUF_ARCH_H
#define PW_DATA_GGUF_ARCH_H

#include "data/gguf_model.h"

struct pw_gguf_arch_row {
    const char *name, *family, *class;
    bool permuted;                      /* rows of q and k */
    bool gemma;                         /* norms are stored with 1 added; GeGLU, scaled embeddings, norms after each half */
    bool fused;                         /* attn_qkv, and gate above up in ffn_up; longrope, no other scaling */
    bool qk_norm;
    bool window; int period;            /* attention.sliding_window is a key; every period-th layer (0: none) goes without */
    int64_t silent_window;
    double attn_softcap, logit_softcap; /* where the file is silent; of Gemma 2 alone there is the first */
    bool attn_softcaps, logit_softcaps; /* these are keys */
    double local_theta;                 /* layers with a window rotate plainly by this base where the file is silent; 0: as the others */
    int scale_layers;                   /* a model of so many layers divides scores by sqrt(hidden / heads), others by sqrt(head_dim) */
};
const struct pw_gguf_arch_row *pw_gguf_arch_named(const char *name);   /* NULL: unknown */
/* The row that a model is written by. PW_E_UNSUPPORTED: none. */
int pw_gguf_arch_of(const struct pw_model_config *c, const struct pw_gguf_arch_row **out);
/* query_pre_attn_scalar, as llama.cpp goes by the number of layers; 0 of those without. */
double pw_gguf_attn_scalar(const struct pw_gguf_arch_row *a, const struct pw_model_config *c);
double pw_gguf_llama3_divisor(const struct pw_model_config *c, int i); /* of frequency i */
double pw_gguf_yarn_attention(double factor);
#endif
