/* Ollama's Modelfile for a base and an adapter: FROM, ADAPTER, TEMPLATE, SYSTEM and the PARAMETER lines. */
#ifndef PW_TOOLS_MODELFILE_H
#define PW_TOOLS_MODELFILE_H

#include "base/progress.h"
#include "data/tokenizer.h"

struct pw_modelfile {
    const char *from, *adapter;            /* as written */
    const struct pw_tokenizer *tokenizer;  /* NULL: no TEMPLATE, no stops */
    const char *generation_config;         /* path of generation_config.json, or NULL */
    int64_t context;                       /* PARAMETER num_ctx; 0: none */
    const char *name;                      /* of the model, for messages */
};
/* What cannot be written truthfully (a template that Go's form cannot hold) is left out and said on progress. */
int pw_modelfile_write(const struct pw_modelfile *m, struct pw_buf *out, bool *has_template, struct pw_progress *progress);
#endif
