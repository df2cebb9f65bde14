/* Tokenizers: text to ids and back, from a Hugging Face folder, a tokenizer.json, vocab.json + merges.txt, a SentencePiece
 * .model, tiktoken ranks, the tokenizer of llama2.c, or arrays that another file format holds.
 *
 * A tokenizer is immutable after loading; encoding writes only into the caller's struct pw_tokens (which holds all work
 * buffers), so several threads may share one tokenizer, each with its own pw_tokens. Whatever part of a file is not
 * supported is an error that names it; nothing is silently skipped or repaired, invalid UTF-8 included.
 * Knows nothing of models, chat templates (beyond handing out their source) or data sets. */
#ifndef PW_DATA_TOKENIZER_H
#define PW_DATA_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

struct pw_tokenizer;

/* path: a folder (tokenizer.json, else vocab.json + merges.txt, else tokenizer.model, else one *.tiktoken; beside it
 * tokenizer_config.json, special_tokens_map.json, generation_config.json, config.json, chat_template.jinja), or one of those
 * files. The files beside a tokenizer.json count as if its folder were given; a SentencePiece or tiktoken file given by
 * itself is read alone: no BOS is added then, as the sentencepiece and tiktoken packages do. What a file is, its bytes say:
 * JSON, lines of base64 and rank, a SentencePiece protobuf, or GGUF (with or without a model); anything else is refused (a llama2.c tokenizer has no magic
 * number and needs the vocabulary's size).
 * pre: the pre-split of tiktoken ranks (a name of pw_tokenizer_pre_names); NULL: what tokenizer_class in
 * tokenizer_config.json or the file's published name says, else an error that asks for it. */
int pw_tokenizer_load(struct pw_tokenizer **out, const char *path);
int pw_tokenizer_load_as(struct pw_tokenizer **out, const char *path, const char *pre);
int pw_tokenizer_load_llama2c(struct pw_tokenizer **out, const char *path, int64_t vocab);
void pw_tokenizer_free(struct pw_tokenizer *t); /* NULL is fine */

/* ---- from arrays ---- */
enum pw_piece_type { PW_PIECE_NORMAL = 1, PW_PIECE_UNKNOWN, PW_PIECE_CONTROL, PW_PIECE_USER, PW_PIECE_UNUSED, PW_PIECE_BYTE }; /* as in SentencePiece and GGUF */
enum { PW_PIECE_LSTRIP = 1, PW_PIECE_RSTRIP = 2 }; /* of pieces that are cut out of the text: they take the white space beside them */
struct pw_tok_piece { const char *text; size_t len; float score; uint8_t type, flags; };
struct pw_tok_text { const char *s; size_t len; };
struct pw_tok_template { const char *name, *text; }; /* chat templates; name "default" is the one taken */
/* The piece at index i has id i; nothing given here is kept after the call. CONTROL pieces are special tokens. */
struct pw_tok_source {
    const char *where;               /* names the file in messages */
    const struct pw_tok_piece *pieces;
    size_t n;
    int32_t bos, eos, pad, unk;      /* -1: none */
    bool add_bos, add_eos;           /* what PW_TOK_SPECIAL adds */
    const int32_t *stops;            /* further ids that end a generation */
    size_t n_stops;
    const struct pw_tok_template *templates;
    size_t n_templates;
};
/* Byte-level BPE: merges "left right" in order of rank, pieces in the alphabet of byte-level pieces; USER and CONTROL pieces
 * are added tokens. pre: a name of pw_tokenizer_pre_names (those of tokenizer.ggml.pre among them). */
int pw_tokenizer_from_bpe(struct pw_tokenizer **out, const struct pw_tok_source *s, const struct pw_tok_text *merges, size_t n_merges, const char *pre);
const char *pw_tokenizer_pre_names(void); /* "gpt-2, llama-bpe, ..." for messages */
/* SentencePiece with scores: BPE merges the pair whose joined piece has the highest score, leftmost first; Unigram takes the
 * cut with the highest sum of scores. BYTE pieces, if all 256 are there, stand for what is not in the vocabulary. */
struct pw_tok_spm {
    bool prefix;                     /* add_dummy_prefix: a space before the text */
    bool prefix_once;                /* only at the beginning of the whole text, not after each token cut out of it */
    bool squeeze;                    /* remove_extra_whitespaces */
    bool user_apart;                 /* USER pieces are cut out before normalising (llama.cpp), not inside it (sentencepiece) */
    const void *charsmap;            /* precompiled_charsmap; NULL: identity */
    size_t charsmap_bytes;
    const char *unk_surface;         /* what decoding shows for the unknown piece; NULL: the piece itself */
};
int pw_tokenizer_from_spm_bpe(struct pw_tokenizer **out, const struct pw_tok_source *s, const struct pw_tok_spm *spm);
int pw_tokenizer_from_unigram(struct pw_tokenizer **out, const struct pw_tok_source *s, const struct pw_tok_spm *spm);

/* ---- encode ---- */
enum {
    PW_TOK_SPECIAL = 1,       /* what the tokenizer adds by itself: BOS, EOS, the post-processor's template */
    PW_TOK_PARSE_SPECIAL = 2, /* text that reads like a special token becomes that token (renderings of chat templates);
                               * without it such text is tokenised as plain text. Added tokens that are not special are
                               * always recognised. */
    PW_TOK_DEFAULT = PW_TOK_SPECIAL | PW_TOK_PARSE_SPECIAL, /* what the Python package does */
};

/* Token i covers bytes [start[i], end[i]) of the text given; a token that was added has start = end = -1. A token that is
 * part of a character (byte fallback, byte-level pieces) covers that whole character or its own bytes; starts never fall. */
struct pw_tokens {
    int32_t *ids;
    int64_t *start, *end;
    size_t n, cap;
    struct pw_tok_work *work; /* owned by the tokenizer's code */
};
/* Replaces the contents of out; a zeroed struct is empty; reuse it to save allocations. Text must be UTF-8: otherwise
 * PW_E_FORMAT with the byte offset. NULs are text. */
int pw_tokenizer_encode(const struct pw_tokenizer *t, const char *text, size_t bytes, unsigned flags, struct pw_tokens *out);
void pw_tokens_free(struct pw_tokens *out);

/* ---- decode ---- */
enum { PW_TOK_SKIP_SPECIAL = 1 };
/* Appends the text of the whole sequence to out. Bytes that do not form UTF-8 become U+FFFD. An id out of range: PW_E_FORMAT. */
int pw_tokenizer_decode(const struct pw_tokenizer *t, const int32_t *ids, size_t n, unsigned flags, struct pw_buf *out);
/* Appends the raw bytes one token stands for (a byte token: that byte; special tokens: their text), as in the middle of a text. */
int pw_token_bytes(const struct pw_tokenizer *t, int32_t id, struct pw_buf *out);

/* Token by token: after each push `out` has grown by the complete characters known so far; pieces concatenate to what
 * pw_tokenizer_decode gives for all ids. */
struct pw_detok;
int pw_detok_open(struct pw_detok **out, const struct pw_tokenizer *t, unsigned flags);
int pw_detok_push(struct pw_detok *d, int32_t id, struct pw_buf *out);
int pw_detok_end(struct pw_detok *d, struct pw_buf *out); /* what is left (U+FFFD for half characters); ready for a new text */
void pw_detok_free(struct pw_detok *d);

/* ---- what it is ---- */
int32_t pw_tokenizer_vocab(const struct pw_tokenizer *t);  /* highest id + 1, added tokens included */
int32_t pw_tokenizer_bos(const struct pw_tokenizer *t);    /* -1: none */
int32_t pw_tokenizer_eos(const struct pw_tokenizer *t);
int32_t pw_tokenizer_pad(const struct pw_tokenizer *t);
int32_t pw_tokenizer_unk(const struct pw_tokenizer *t);
bool pw_tokenizer_adds_bos(const struct pw_tokenizer *t);  /* PW_TOK_SPECIAL puts BOS first */
bool pw_tokenizer_adds_eos(const struct pw_tokenizer *t);
/* Ids that end a generation: eos, and those of generation_config.json (a list there). */
const int32_t *pw_tokenizer_stops(const struct pw_tokenizer *t, size_t *n);
int32_t pw_tokenizer_find(const struct pw_tokenizer *t, const char *piece);  /* by the piece as stored; -1: none */
const char *pw_tokenizer_piece(const struct pw_tokenizer *t, int32_t id);    /* as stored; NULL: no such id */
bool pw_tokenizer_is_special(const struct pw_tokenizer *t, int32_t id);
const char *pw_tokenizer_kind(const struct pw_tokenizer *t);      /* "BPE byte-level", "BPE SentencePiece", ... */
const char *pw_tokenizer_hash(const struct pw_tokenizer *t);      /* SHA-256, 64 hex digits, of everything that ids depend on */
/* Source text of the chat template, NULL when there is none. name NULL: the default one ("default" in a list of several). */
const char *pw_tokenizer_template(const struct pw_tokenizer *t, const char *name);
const char *pw_tokenizer_bos_text(const struct pw_tokenizer *t);  /* for templates: bos_token, eos_token; NULL: none */
const char *pw_tokenizer_eos_text(const struct pw_tokenizer *t);

#endif
