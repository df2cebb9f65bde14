/* Tokenizers in GGUF files: reading (tok_gguf.c, behind pw_tokenizer_load) and writing (tok_gguf_write.c). */
#ifndef PW_DATA_TOK_GGUF_H
#define PW_DATA_TOK_GGUF_H

#include "data/gguf.h"
#include "data/tokenizer.h"

int tok_gguf_load(struct pw_tokenizer **out, const char *path);
/* Writes the keys of a tokenizer, padded to `vocab` pieces, and its chat templates. Byte-level BPE becomes model "gpt2" with the name of its
 * pre-split; BPE over SentencePiece pieces becomes model "llama" with scores that give its merges their order. llama.cpp merges any two pieces
 * whose sum is one: when that is more than the model's merges, they are written as well (pw_tokenizer_load takes them) and *exact is
 * false: llama.cpp may cut a text otherwise. What has no place in such files (Unigram, other normalizers and pre-splits, tokens that mind
 * the text beside them) is refused. Not kept: whether a token is looked for in the normalised text (`normalized`): it is looked for as it is. */
int pw_gguf_put_tokenizer(struct pw_gguf_out *w, const struct pw_tokenizer *t, int64_t vocab, bool *exact);
#endif
