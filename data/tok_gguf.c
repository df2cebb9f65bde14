/* Tokenizers embedded in GGUF files: the arrays of tokenizer.ggml.* brought to the constructors of tokenizer.h. Files that hold nothing but
 * keys serve too. Owns what the keys mean and llama.cpp's defaults for those that are absent.
 *
 * model "llama": SentencePiece BPE with scores; with merges beside them (files written here, for models whose merges do not follow from
 * scores) the merges count. model "gpt2": byte-level BPE, split as tokenizer.ggml.pre names it. Other models are refused. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "data/gguf.h"
#include "data/tok_gguf.h"
#include "data/tok_parts.h"

#define KEY "tokenizer.ggml."
static const char mark[] = "\xE2\x96\x81";

struct arrays { struct pw_tok_source s; struct pw_tok_piece *pieces; struct pw_tok_text *merges; size_t n_merges; struct pw_tok_template *templates; int32_t stops[16]; };

static int token_id(struct pw_gguf *g, const char *key, int64_t n, int32_t *out)
{
    int64_t id = -1;
    PW_PASS(pw_gguf_get_i64(g, key, false, -1, UINT32_MAX, &id));
    if (id < 0)
        return 0;
    if (id == UINT32_MAX) {      /* written by us for "none", where absence would mean a default */
        *out = -1;
        return 0;
    }
    PW_CHECK(id < n, PW_E_FORMAT, "%s: %s: %lld is no token (there are %lld)", g->path, key, (long long)id, (long long)n);
    *out = (int32_t)id;
    return 0;
}

static int read_pieces(struct pw_gguf *g, struct arrays *a)
{
    const struct pw_gguf_pair *tokens, *scores, *types;
    PW_PASS(pw_gguf_get_array(g, KEY "tokens", PW_GGUF_STRING, true, &tokens));
    PW_PASS(pw_gguf_get_array(g, KEY "scores", PW_GGUF_F32, false, &scores));
    PW_PASS(pw_gguf_get_array(g, KEY "token_type", PW_GGUF_I32, false, &types));
    PW_CHECK(tokens->n >= 1 && tokens->n <= TOK_ID_LIMIT, PW_E_FORMAT, "%s: " KEY "tokens: %llu pieces (expected 1 to %d)", g->path, (unsigned long long)tokens->n, TOK_ID_LIMIT);
    PW_CHECK(!scores || scores->n == tokens->n, PW_E_FORMAT, "%s: " KEY "scores: expected %llu, got %llu", g->path, (unsigned long long)tokens->n, (unsigned long long)(scores ? scores->n : 0));
    PW_CHECK(!types || types->n == tokens->n, PW_E_FORMAT, "%s: " KEY "token_type: expected %llu, got %llu", g->path, (unsigned long long)tokens->n, (unsigned long long)(types ? types->n : 0));
    a->s.n = (size_t)tokens->n;
    a->pieces = pw_arena_array(&g->arena, a->s.n, sizeof *a->pieces);
    PW_CHECK(a->pieces, PW_E_NOMEM, "%s: no memory", g->path);
    a->s.pieces = a->pieces;
    const uint8_t *at = tokens->data;
    for (size_t i = 0; i < a->s.n; i++) {
        struct pw_tok_piece *p = &a->pieces[i];
        const int64_t type = types ? pw_gguf_int(types, i) : PW_PIECE_NORMAL;
        at = pw_gguf_string(at, &p->text, &p->len);
        PW_CHECK(type >= PW_PIECE_NORMAL && type <= PW_PIECE_BYTE, PW_E_FORMAT, "%s: " KEY "token_type: element %zu: expected 1 to 6, got %lld", g->path, i, (long long)type);
        p->score = scores ? (float)pw_gguf_real(scores, i) : 0;
        p->type = (uint8_t)type;
    }
    return 0;
}

static int read_merges(struct pw_gguf *g, bool must, struct arrays *a)
{
    const struct pw_gguf_pair *p;
    PW_PASS(pw_gguf_get_array(g, KEY "merges", PW_GGUF_STRING, must, &p));
    if (!p)
        return 0;
    a->n_merges = (size_t)p->n;
    a->merges = pw_arena_array(&g->arena, a->n_merges + 1, sizeof *a->merges);
    PW_CHECK(a->merges, PW_E_NOMEM, "%s: no memory", g->path);
    const uint8_t *at = p->data;
    for (size_t i = 0; i < a->n_merges; i++)
        at = pw_gguf_string(at, &a->merges[i].s, &a->merges[i].len);
    return 0;
}

/* tokenizer.chat_template and tokenizer.chat_template.NAME */
static int read_templates(struct pw_gguf *g, struct arrays *a)
{
    static const char prefix[] = "tokenizer.chat_template";
    const size_t skip = sizeof prefix - 1;
    a->templates = pw_arena_array(&g->arena, g->n_pairs + 1, sizeof *a->templates);
    PW_CHECK(a->templates, PW_E_NOMEM, "%s: no memory", g->path);
    a->s.templates = a->templates;
    for (size_t i = 0; i < g->n_pairs; i++) {
        const char *key = g->pairs[i].key;
        if (strncmp(key, prefix, skip) != 0 || (key[skip] && key[skip] != '.'))
            continue;
        struct pw_tok_template *t = &a->templates[a->s.n_templates++];
        t->name = key[skip] ? key + skip + 1 : "default";
        PW_PASS(pw_gguf_get_str(g, key, true, &t->text));
    }
    return 0;
}

/* Tokens that end an answer: those that keys name, and control tokens that are known to (llama.cpp looks for them, too). */
static int read_stops(struct pw_gguf *g, struct arrays *a)
{
    static const char *const keys[] = {KEY "eot_token_id", KEY "eom_token_id"};
    static const char *const texts[] = {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|eom_id|>"};
    a->s.stops = a->stops;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        int32_t id = -1;
        PW_PASS(token_id(g, keys[i], (int64_t)a->s.n, &id));
        if (id >= 0)
            a->stops[a->s.n_stops++] = id;
    }
    for (size_t i = 0; i < a->s.n; i++)
        for (size_t k = 0; k < sizeof texts / sizeof *texts && a->pieces[i].type == PW_PIECE_CONTROL; k++)
            if (a->s.n_stops < sizeof a->stops / sizeof *a->stops && a->pieces[i].len == strlen(texts[k]) && memcmp(a->pieces[i].text, texts[k], a->pieces[i].len) == 0)
                a->stops[a->s.n_stops++] = (int32_t)i;
    return 0;
}

static int read_common(struct pw_gguf *g, struct arrays *a, bool bos, bool spm)
{
    const int64_t n = (int64_t)a->s.n;
    a->s.where = g->path;
    a->s.bos = spm && n > 2 ? 1 : -1;
    a->s.eos = spm && n > 2 ? 2 : -1;
    a->s.unk = spm ? 0 : -1;
    a->s.pad = -1;
    a->s.add_bos = bos;
    PW_PASS(token_id(g, KEY "bos_token_id", n, &a->s.bos));
    PW_PASS(token_id(g, KEY "eos_token_id", n, &a->s.eos));
    PW_PASS(token_id(g, KEY "unknown_token_id", n, &a->s.unk));
    PW_PASS(token_id(g, KEY "padding_token_id", n, &a->s.pad));
    PW_PASS(pw_gguf_get_bool(g, KEY "add_bos_token", &a->s.add_bos));
    PW_PASS(pw_gguf_get_bool(g, KEY "add_eos_token", &a->s.add_eos));
    PW_PASS(read_stops(g, a));
    return read_templates(g, a);
}

/* GGUF has no field for tokens that take the white space after them. Phi-3 has such: llama.cpp goes by the model's name, and so does this. */
static int phi3_strips(struct pw_gguf *g, struct arrays *a)
{
    static const char *const not_these[] = {"<unk>", "<s>", "<|endoftext|>"};
    const char *name = "";
    char low[64];
    size_t n = 0;
    PW_PASS(pw_gguf_get_str(g, "general.name", false, &name));
    for (; name[n] && n + 1 < sizeof low; n++)
        low[n] = (char)tolower((unsigned char)name[n]);
    low[n] = 0;
    if (!strstr(low, "phi3") && !strstr(low, "phi-3"))
        return 0;
    for (size_t i = 0; i < a->s.n; i++) {
        struct pw_tok_piece *p = &a->pieces[i];
        bool strips = p->type == PW_PIECE_CONTROL || p->type == PW_PIECE_USER;
        for (size_t k = 0; k < sizeof not_these / sizeof *not_these; k++)
            strips = strips && !(p->len == strlen(not_these[k]) && memcmp(p->text, not_these[k], p->len) == 0);
        p->flags = strips ? PW_PIECE_RSTRIP : 0;
    }
    return 0;
}

/* SentencePiece-like pieces with merges of their own. */
static int with_merges(struct pw_tokenizer *t, const struct arrays *a, bool prefix)
{
    struct pw_sha256 h;
    PW_PASS(tok_fill(t, &a->s, NULL, true));
    PW_PASS(tok_merges_text(t, a->merges, a->n_merges, a->s.where));
    t->model_unk = a->s.unk;
    t->fuse_unk = true;
    pw_sha256_init(&h);
    for (size_t i = 0; i < a->s.n; i++) {
        t->byte_fallback = t->byte_fallback || a->pieces[i].type == PW_PIECE_BYTE;
        pw_sha256_add(&h, &a->pieces[i].type, 1);
        pw_sha256_add(&h, a->pieces[i].text, a->pieces[i].len);
        pw_sha256_add(&h, "\n", 1);
    }
    for (size_t i = 0; i < a->n_merges; i++) {
        pw_sha256_add(&h, a->merges[i].s, a->merges[i].len);
        pw_sha256_add(&h, "\n", 1);
    }
    const int32_t ids[] = {a->s.bos, a->s.eos, a->s.pad, a->s.unk, a->s.add_bos, a->s.add_eos, prefix};
    pw_sha256_add(&h, ids, sizeof ids);
    pw_sha256_hex(&h, t->hash);
    PW_PASS(tok_bpe_ready(t));
    if (prefix)
        t->norm[t->n_norm++] = (struct tok_norm){.kind = NORM_PREPEND, .with = mark, .with_len = 3};
    t->norm[t->n_norm++] = (struct tok_norm){.kind = NORM_REPLACE, .find = " ", .find_len = 1, .with = mark, .with_len = 3};
    t->dec[t->n_dec++] = (struct tok_dec){.kind = DEC_REPLACE, .find = mark, .find_len = 3, .with = " ", .with_len = 1};
    t->dec[t->n_dec++] = (struct tok_dec){.kind = DEC_BYTE_FALLBACK};
    t->dec[t->n_dec++] = (struct tok_dec){.kind = DEC_FUSE};
    if (prefix)
        t->dec[t->n_dec++] = (struct tok_dec){.kind = DEC_STRIP, .find = " ", .find_len = 1, .start = 1};
    t->has_decoder = true;
    t->kind = "BPE SentencePiece";
    return tok_added_ready(t);
}

static int load_spm(struct pw_tokenizer **out, struct pw_gguf *g, struct arrays *a)
{
    struct pw_tok_spm spm = {.prefix = true, .user_apart = true};
    PW_PASS(read_common(g, a, true, true));
    PW_PASS(phi3_strips(g, a));
    PW_PASS(pw_gguf_get_bool(g, KEY "add_space_prefix", &spm.prefix));
    PW_PASS(pw_gguf_get_bool(g, KEY "remove_extra_whitespaces", &spm.squeeze));
    PW_PASS(read_merges(g, false, a));
    PW_CHECK(a->s.unk >= 0, PW_E_FORMAT, "%s: there is no unknown token", g->path);
    a->pieces[a->s.unk].type = PW_PIECE_UNKNOWN;  /* the key decides: some files mark it as a control token */
    if (!a->merges) {
        PW_CHECK(pw_gguf_find(g, KEY "scores"), PW_E_FORMAT, "%s: key " KEY "scores is missing", g->path);
        return pw_tokenizer_from_spm_bpe(out, &a->s, &spm);
    }
    struct pw_tokenizer *t = NULL;
    int rc = tok_new(&t);
    if (rc == 0)
        rc = with_merges(t, a, spm.prefix);
    if (rc < 0)
        pw_tokenizer_free(t);
    else
        *out = t;
    return rc;
}

static int load_bpe(struct pw_tokenizer **out, struct pw_gguf *g, struct arrays *a)
{
    static const char *const begin[] = {"llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "tekken"};
    const char *pre = NULL;
    bool bos = false;
    PW_PASS(pw_gguf_get_str(g, KEY "pre", true, &pre));
    for (size_t i = 0; i < sizeof begin / sizeof *begin; i++)
        bos = bos || strcmp(pre, begin[i]) == 0;
    PW_PASS(read_common(g, a, bos && pw_gguf_find(g, KEY "bos_token_id"), false));
    PW_PASS(read_merges(g, true, a));
    return pw_tokenizer_from_bpe(out, &a->s, a->merges, a->n_merges, pre);
}

int tok_gguf_load(struct pw_tokenizer **out, const char *path)
{
    struct pw_gguf g;
    struct arrays a = {0};
    const char *model = NULL;
    int rc = 0;
    *out = NULL;
    PW_PASS(pw_gguf_open(&g, path));
    PW_PASS_OUT(pw_gguf_get_str(&g, KEY "model", true, &model));
    const bool spm = strcmp(model, "llama") == 0;
    PW_CHECK_OUT(spm || strcmp(model, "gpt2") == 0, PW_E_UNSUPPORTED, "%s: " KEY "model \"%.40s\" is not supported (known: llama, gpt2)", path, model);
    PW_PASS_OUT(read_pieces(&g, &a));
    PW_PASS_OUT(spm ? load_spm(out, &g, &a) : load_bpe(out, &g, &a));
out:
    pw_gguf_close(&g);
    return rc;
}
