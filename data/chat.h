/* Chats: messages rendered by a model's own template, and which bytes of the rendering training learns.
 *
 * An assistant turn is learnt from where the rendering of the messages before it with the generation prompt ends, up to and including
 * its end-of-turn token; what the template writes after that token is not. A template with {% generation %} blocks says it itself.
 * Knows nothing of files, rows or batches. */
#ifndef PW_DATA_CHAT_H
#define PW_DATA_CHAT_H

#include "data/dataset.h"
#include "data/jinja.h"
#include "data/tokenizer.h"

struct pw_chat;
/* bos, eos: the texts that templates see as bos_token and eos_token; NULL: "". */
int pw_chat_open(struct pw_chat **out, const char *source, const char *name, const char *bos, const char *eos);
void pw_chat_close(struct pw_chat *c); /* NULL is fine */
const struct pw_jinja *pw_chat_template(const struct pw_chat *c);

struct pw_chat_request {
    const struct pw_value *messages; /* a list of maps with a "role" */
    const struct pw_value *tools;    /* a list, or NULL */
    const struct pw_value *extra;    /* a map of further variables, or NULL */
    bool generation_prompt;
    int64_t now;
};
/* Appends the rendering to out. */
int pw_chat_render(const struct pw_chat *c, const struct pw_chat_request *r, struct pw_buf *out);

/* The rendering and what of it is learnt. A zeroed struct is empty; reuse it. */
struct pw_chat_spans {
    struct pw_buf text, part;
    struct pw_tokens tokens;  /* of text, when a tokenizer was given */
    struct pw_spans spans;    /* byte offsets into text */
    double *weight;           /* (spans.n) what a turn counts: its key "weight", 1 without; 0 is no span; NULL: every one 1 */
    size_t cap_weight;
    const char *warning;      /* something to know about this template, or NULL; a constant */
};
/* tokenizer NULL: the end-of-turn token is found by its looks (<|im_end|>, </s>, ...). */
int pw_chat_spans(const struct pw_chat *c, const struct pw_chat_request *r, const struct pw_tokenizer *t, enum pw_train_on on,
                  struct pw_chat_spans *out);
/* The same for the assistant's turns among messages `first` and later, whatever else the template marks (answers of preference data). */
int pw_chat_spans_from(const struct pw_chat *c, const struct pw_chat_request *r, const struct pw_tokenizer *t, size_t first,
                       struct pw_chat_spans *out);
void pw_chat_spans_free(struct pw_chat_spans *s);
/* What a template cannot mean: messages must be a list of maps with a string role. */
int pw_messages_check(const struct pw_value *messages, const char *where);
#endif
