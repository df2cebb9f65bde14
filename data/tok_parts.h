/* What the files data/tok_*.c share: the parts of a tokenizer and the work buffers of one encoder. Private to them.
 *
 * A tokenizer is: added tokens (tries), normalisers, pre-tokenizers, a BPE or Unigram model, post-processing, decoders, in
 * the terms of tokenizer.json; other formats are brought into the same parts by their loaders. */
#ifndef PW_DATA_TOK_PARTS_H
#define PW_DATA_TOK_PARTS_H

#include "base/memory.h"
#include "base/value.h"
#include "data/regex.h"
#include "data/tokenizer.h"
#include "data/utf8.h"

enum { TOK_STEPS = 32, TOK_ID_LIMIT = 1 << 24, TOK_DIRECT = 0x3100, TOK_CACHE_KEY = 24, TOK_CACHE_IDS = 7, TOK_CACHE_SLOTS = 1 << 15 };

/* ---- vocabulary and merges (tok_vocab.c) ---- */
struct tok_vocab {
    struct pw_buf text;          /* all pieces, each followed by a NUL */
    size_t *at;                  /* piece id starts at text.data[at[id]]; (size_t)-1: no such id */
    uint32_t *len;
    int32_t *slots;              /* hash: piece -> id, -1 empty */
    size_t n, mask;              /* ids, slots - 1 */
};
int tok_vocab_open(struct tok_vocab *v, size_t ids);
int tok_vocab_add(struct tok_vocab *v, int64_t id, const char *s, size_t len, const char *where);
int32_t tok_vocab_find(const struct tok_vocab *v, const char *s, size_t len);
const char *tok_vocab_piece(const struct tok_vocab *v, int32_t id, size_t *len); /* NULL: none */
void tok_vocab_free(struct tok_vocab *v);

struct tok_pairs {               /* (left id, right id) -> rank, id; also used as a set */
    uint64_t *keys;              /* all ones: empty */
    uint32_t *rank;
    int32_t *id;
    size_t n, mask;
};
int tok_pairs_open(struct tok_pairs *p, size_t expected);
bool tok_pairs_put(struct tok_pairs *p, int32_t left, int32_t right, uint32_t rank, int32_t id); /* false: it is there already (kept) */
int tok_pairs_put_growing(struct tok_pairs *p, int32_t left, int32_t right, uint32_t rank, int32_t id);
void tok_pairs_free(struct tok_pairs *p);
static inline size_t tok_pair_hash(uint64_t key) { return (size_t)((key * 0x9E3779B97F4A7C15u) >> 20); }
static inline size_t tok_pairs_find(const struct tok_pairs *p, int32_t left, int32_t right) /* slot, (size_t)-1: none */
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    for (size_t i = tok_pair_hash(key) & p->mask;; i = (i + 1) & p->mask) {
        if (p->keys[i] == key)
            return i;
        if (p->keys[i] == UINT64_MAX)
            return (size_t)-1;
    }
}

/* ---- steps ---- */
enum tok_norm_kind { NORM_PREPEND, NORM_REPLACE, NORM_FORM, NORM_LOWER, NORM_STRIP, NORM_SPM, NORM_PRECOMPILED };
struct tok_norm {
    enum tok_norm_kind kind;
    enum pw_form form;
    const char *find, *with;     /* find NULL: regex */
    size_t find_len, with_len;
    struct pw_regex *regex;
    bool left, right;            /* strip */
};
enum tok_pre_kind { PRE_BYTE_LEVEL, PRE_SPLIT, PRE_CLASS, PRE_METASPACE };
enum tok_behaviour { SPLIT_REMOVED, SPLIT_ISOLATED, SPLIT_WITH_PREVIOUS, SPLIT_WITH_NEXT, SPLIT_CONTIGUOUS };
enum tok_scheme { SCHEME_ALWAYS, SCHEME_FIRST, SCHEME_NEVER };
struct tok_pre {
    enum tok_pre_kind kind;
    enum tok_behaviour behaviour;
    enum tok_scheme scheme;      /* metaspace */
    const char *find;            /* literal of a split, or the metaspace character; NULL: regex */
    size_t find_len;
    struct pw_regex *regex;      /* split; byte-level with use_regex */
    bool invert, prefix_space, split;
    bool (*class)(uint32_t cp);  /* PRE_CLASS: what is split at */
};
enum tok_dec_kind { DEC_BYTE_LEVEL, DEC_REPLACE, DEC_BYTE_FALLBACK, DEC_FUSE, DEC_STRIP, DEC_METASPACE };
struct tok_dec {
    enum tok_dec_kind kind;
    const char *find, *with;
    size_t find_len, with_len;
    struct pw_regex *regex;
    int64_t start, stop;         /* strip */
    enum tok_scheme scheme;
};
enum tok_post_kind { POST_TRIM, POST_TEMPLATE };
struct tok_post {
    enum tok_post_kind kind;
    bool prefix_space;
    const int32_t *before, *after;
    size_t n_before, n_after;
};

struct tok_added {
    const char *text;            /* as stored */
    size_t len;
    const char *match;           /* what is looked for: normalised for the second trie */
    size_t match_len;
    int32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
};
struct tok_node { int32_t child, sibling, added; unsigned char byte; };
struct tok_trie { struct tok_node *nodes; size_t n, cap; int32_t first[256]; };

/* SentencePiece's normaliser and its decoder (tok_spm.c). */
struct tok_charsmap {            /* a double array of Darts over source strings, and the strings they become, each with a NUL */
    const uint32_t *units;
    const char *text;
    size_t n_units, text_bytes;
};
struct tok_spm {
    bool on, prefix, prefix_once, squeeze, unused_merges;
    struct tok_charsmap map;
    struct tok_trie user;        /* pieces that are taken as they are; `added` is the id */
    const char *unk_surface;     /* NULL: the piece */
};
/* Unigram (tok_unigram.c): a trie of bytes; node 0 is the root. */
struct tok_unigram {
    bool on, sentencepiece;      /* sums in float and bonus of user pieces, as sentencepiece; else in double, as tokenizers */
    struct tok_pairs edges;      /* (node, byte) -> id = child */
    int32_t *piece;              /* id of the piece that ends at a node; -1: none */
    size_t n_nodes, cap;
    double *score;               /* by id */
    double unk_score;
};

struct pw_tokenizer {
    struct pw_arena arena;
    uint64_t serial;             /* never reused: caches are keyed by it */
    const char *kind;
    char hash[65];
    struct tok_vocab vocab;      /* with the added tokens */
    struct tok_vocab hidden;     /* characters that only occur inside pieces: id vocab.n + i while merging */
    uint8_t *types;              /* enum pw_piece_type by id; NULL: the format has none */
    int32_t model_vocab;
    struct tok_spm spm;
    struct tok_unigram unigram;
    struct tok_added *added;
    size_t n_added;
    bool *special;               /* by id */
    struct tok_trie raw, normal;

    struct tok_norm norm[TOK_STEPS];
    struct tok_pre pre[TOK_STEPS];
    struct tok_dec dec[TOK_STEPS];
    struct tok_post post[TOK_STEPS];
    size_t n_norm, n_pre, n_dec, n_post;
    bool has_decoder;

    struct tok_pairs merges, joins; /* joins: character ids that some merge brings together */
    bool byte_fallback, fuse_unk, ignore_merges, cut_chars;
    int32_t byte_level_id[256];  /* of the character that stands for a byte */
    int32_t byte_id[256];        /* <0xNN> */
    int32_t direct[TOK_DIRECT];  /* code point -> id */
    int32_t model_unk;

    int32_t bos, eos, pad, unk;
    int32_t *stops;
    size_t n_stops;
    const char *bos_text, *eos_text;
    struct pw_tok_template *templates;
    size_t n_templates;
};

/* Aligned text: byte i came from bytes [from[i], to[i]) of the original; from NULL: byte i is byte base + i of it. */
struct tok_view { const char *s; size_t n; const uint32_t *from, *to; uint32_t base; };
struct tok_build { char *s; uint32_t *from, *to; size_t n, cap; };

struct tok_symbol { int32_t id; uint32_t start, len; int32_t prev, next; };
struct tok_merge { uint32_t rank, pos; int32_t id; };
struct tok_cached { uint64_t hash; char key[TOK_CACHE_KEY]; int32_t ids[TOK_CACHE_IDS]; uint8_t key_len, n, len[TOK_CACHE_IDS], byte_level; };
struct pw_tok_work {
    uint64_t serial;
    struct tok_build norm[2], level[TOK_STEPS];
    struct tok_symbol *symbols;
    size_t n_symbols, symbols_cap;
    struct tok_merge *heap;
    size_t n_heap, heap_cap;
    struct pw_char *chars;
    size_t chars_cap;
    struct tok_cached *cache;
    struct tok_best *best;
    size_t best_cap;
    struct pw_regex_room *room;
};
struct tok_best { double score; int32_t id; uint32_t start; }; /* of the best cut that ends here; start == its own place: none */

/* tok_vocab.c: the character that stands for a byte in byte-level pieces, and back (-1: none). */
uint32_t tok_byte_char(unsigned char b);
int tok_char_byte(uint32_t cp);
/* tok_bpe.c */
int tok_bpe_ready(struct pw_tokenizer *t);     /* fills the tables that follow from vocabulary and merges */
int tok_bpe_word(const struct pw_tokenizer *t, const struct tok_view *v, bool byte_level, struct pw_tokens *out);
int tok_push(struct pw_tokens *out, int32_t id, int64_t start, int64_t end);
int tok_grow(void **p, size_t *cap, size_t need, size_t size);
int tok_emit(const struct pw_tokenizer *t, const struct tok_view *v, int32_t id, size_t start, size_t len, struct pw_tokens *out); /* a symbol; an unknown one as byte pieces, or fused with an unknown token before it */
/* tok_unigram.c */
int tok_unigram_ready(struct pw_tokenizer *t); /* score, types and vocabulary are there */
int tok_unigram_word(const struct pw_tokenizer *t, const struct tok_view *v, struct pw_tokens *out);
void tok_unigram_free(struct tok_unigram *u);
/* tok_spm.c */
int tok_charsmap_open(struct pw_tokenizer *t, const void *bytes, size_t n, const char *where);
int tok_precompiled(const struct pw_tokenizer *t, const struct tok_view *v, struct tok_build *b); /* as the package tokenizers applies it */
int tok_spm_normalize(const struct pw_tokenizer *t, const struct tok_view *v, struct tok_build *b);
int tok_spm_merges(struct pw_tokenizer *t, const float *score, const char *where); /* every way to cut a piece in two, ranked by score */
/* tok_split.c */
int tok_put(struct tok_build *b, const char *s, size_t n, uint32_t from, uint32_t to);
int tok_normalize(const struct pw_tokenizer *t, struct pw_tok_work *w, const struct tok_view *in, struct tok_view *out);
int tok_split(const struct pw_tokenizer *t, size_t step, const struct tok_view *v, bool byte_level, struct pw_tokens *out);
struct tok_view tok_slice(const struct tok_view *v, size_t start, size_t end);
int64_t tok_start(const struct tok_view *v, size_t pos);
int64_t tok_end(const struct tok_view *v, size_t pos);  /* pos: the last byte */
/* tok_encode.c */
int tok_work_open(struct pw_tok_work **out);
int tok_added_ready(struct pw_tokenizer *t);   /* normalises and builds the tries */
int tok_trie_add(struct tok_trie *trie, const char *s, size_t n, int32_t added);
int32_t tok_trie_longest(const struct tok_trie *trie, const char *s, size_t n, size_t *len); /* -1: none begins at s */
/* tok_json.c: the parts from tokenizer.json's tree; the two-file form */
int tok_from_json(struct pw_tokenizer *t, const struct pw_value *root, const char *where);
int tok_from_two_files(struct pw_tokenizer *t, const char *vocab_path, const char *merges_path, const struct pw_value *config, const char *config_path);
int tok_merges_text(struct pw_tokenizer *t, const struct pw_tok_text *merges, size_t n, const char *where);
int tok_read_added(struct pw_tokenizer *t, const struct pw_value *v, int64_t id, const char *where, struct tok_added *out);
int tok_add_token(struct pw_tokenizer *t, const struct tok_added *added, const char *where);
/* tok_pre.c: sets pre-tokenizers, normaliser and decoder of a published pre-split */
int tok_pre_set(struct pw_tokenizer *t, const char *name, const char *where);
bool tok_pre_known(const char *name);
/* tok_arrays.c */
struct tok_extra { const struct tok_added *added; size_t n; }; /* of the files beside, ids may lie beyond the pieces */
int tok_fill(struct pw_tokenizer *t, const struct pw_tok_source *s, const struct tok_extra *extra, bool user_apart);
int tok_fill_spm(struct pw_tokenizer *t, const struct pw_tok_source *s, const struct pw_tok_spm *spm, const struct tok_extra *extra, bool unigram);
/* tok_model.c, tok_tiktoken.c: files that are read whole */
bool tok_is_spm(const uint8_t *bytes, size_t n);
int tok_base64(const uint8_t *s, size_t n, struct pw_buf *out); /* padded; appends the bytes */
bool tok_is_tiktoken(const uint8_t *bytes, size_t n);
struct tok_beside { bool add_bos, add_eos, legacy; struct tok_extra extra; };
int tok_from_spm(struct pw_tokenizer *t, const uint8_t *bytes, size_t n, const struct tok_beside *beside, const char *where);
int tok_from_tiktoken(struct pw_tokenizer *t, const uint8_t *bytes, size_t n, const char *pre, const struct tok_extra *extra, const char *where);
/* tok_load.c */
int tok_new(struct pw_tokenizer **out);

#endif
