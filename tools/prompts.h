/* Prompts for comparing models: built-in texts, or a file of lines, or JSONL; as token ids. */
#ifndef PW_TOOLS_PROMPTS_H
#define PW_TOOLS_PROMPTS_H

#include "data/tokenizer.h"
#include "infer/verify.h"

struct pw_prompts { struct pw_verify_prompt *items; size_t n; };
/* path NULL: the built-in texts, cut to `context` tokens. A file whose first character other than white space is { is JSONL, each line with
 * "messages" (rendered with the chat template), "prompt" (and "completion" after it), or "text"; any other file is a text a line. Empty lines
 * are skipped. Everything in the arena. model: for messages. */
int pw_prompts_read(struct pw_arena *a, const char *path, const struct pw_tokenizer *t, const char *model, int64_t context, struct pw_prompts *out);
#endif
