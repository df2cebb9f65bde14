/* From prompts to continuations: the loop of feed, pick, decode, with stop tokens, stop strings and streaming.
 *
 * Several prompts run in one batch; each request's result is the same alone. What is used by `run`, `chat` and the demo. */
#ifndef PW_INFER_GENERATE_H
#define PW_INFER_GENERATE_H

#include "data/tokenizer.h"
#include "infer/sampler.h"
#include "infer/session.h"

struct pw_gen {
    /* asked */
    const int32_t *prompt; int64_t n_prompt;     /* at least one token */
    int64_t max_tokens;                          /* of the continuation */
    struct pw_sampler sampler;
    const char *const *stops; size_t n_stops;    /* strings that end it and are not part of it */
    /* Complete characters as they become certain (what may be the beginning of a stop string is held back). Negative = end with this
     * code. May be NULL. */
    int (*piece)(void *ctx, const char *text, size_t bytes);
    void *ctx;
    /* got; zeroed before, freed by pw_gen_free */
    int32_t *tokens; int64_t n_tokens;           /* a stop token is not among them */
    struct pw_buf text;                          /* the continuation, special tokens left out */
    const char *finish;                          /* "stop" (token or string), "length" (max_tokens), "context" (no room left) */
    double seconds_to_first;                     /* from the call of pw_generate to the first token */
};
struct pw_gen_options {
    const int32_t *stop_ids; size_t n_stop_ids;
    bool no_cache;                               /* every step computes the whole sequence again: for comparing */
    bool (*interrupted)(void);                   /* asked once a step, may be NULL: then PW_E_INTERRUPTED */
};
/* The session must be empty; it is reset before and after. Its pages must hold each prompt with its continuation, but not all at once: a request waits, in
 * order, until those before it have given back what it may come to need, and its result is the same. As many timelines and tokens a pass as requests. */
int pw_generate(struct pw_session *s, const struct pw_tokenizer *t, struct pw_gen *requests, int n, const struct pw_gen_options *opt);
/* What a session for these requests needs. batch_tokens is at most `chunk` when that holds one row of each: long prompts are fed in pieces. */
void pw_gen_sizes(const struct pw_model_config *c, const struct pw_gen *requests, int n, int64_t chunk, int64_t *rows, int64_t *batch_tokens);
/* Of the rows that pw_gen_sizes says, as many as --memory leaves room for; never fewer than the longest request takes, which opening the session then refuses. */
int64_t pw_gen_rows(const struct pw_model *m, const struct pw_gen *requests, int n, int64_t rows, int64_t batch_tokens);
void pw_gen_free(struct pw_gen *g);
/* The ids that end a generation with this model: those of the tokenizer and of the config. Writes at most 16; returns how many. */
size_t pw_gen_stop_ids(const struct pw_tokenizer *t, const struct pw_model_config *c, int32_t ids[16]);
#endif
