/* What the model says while it is trained: the same prompts every n steps, answered greedily, one file a time.
 *
 * Prompts come from a file of rows (JSON Lines and the other forms of data/row_reader.h) with a "prompt", which is tokenised with BOS as rows are, or
 * "messages", which the chat template renders with the prompt for an answer. Knows nothing of steps and folders. */
#ifndef PW_TRAIN_PROBES_H
#define PW_TRAIN_PROBES_H

#include "infer/generate.h"

enum { PW_PROBES_MOST = 64 };
struct pw_probes {
    const struct pw_tokenizer *tokenizer;
    struct pw_gen *asked; int n;      /* prompts, in the arena */
    const char **texts;               /* (n) as they were tokenised */
    int64_t rows, batch_tokens;       /* what the session needs */
    int32_t stops[16]; size_t n_stops;
    struct pw_session *session;       /* from pw_probes_open on */
    struct pw_arena arena;
};
/* Reads and tokenises; template NULL: the model has none. A prompt that leaves no room for `tokens` in the context is an error. */
int pw_probes_read(struct pw_probes *s, const char *path, const struct pw_tokenizer *t, const char *template, const struct pw_model_config *c, int64_t tokens);
size_t pw_probes_bytes(const struct pw_probes *s, const struct pw_model *m);
size_t pw_probes_scratch(const struct pw_probes *s, const struct pw_model *m);   /* of the device's scratch */
int pw_probes_open(struct pw_probes *s, struct pw_model *m);
/* One JSON line a prompt, {"step","prompt","text","finish"}, into a file that appears whole. */
int pw_probes_write(struct pw_probes *s, int64_t step, const char *path);
void pw_probes_free(struct pw_probes *s);   /* a zeroed one is fine */
#endif
