/* Tokenizers from arrays: vocabulary, types and scores that another file format holds, brought into the parts of tok_parts.h.
 * SentencePiece files and GGUF come through here; the checks on untrusted pieces are made here, once. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "data/tok_parts.h"

static int check_id(const struct pw_tok_source *s, int32_t id, const char *name)
{
    PW_CHECK(id >= -1 && (id < 0 || (size_t)id < s->n), PW_E_FORMAT, "%s: %s: id %d is not in the vocabulary (%zu pieces)", s->where, name, (int)id, s->n);
    return 0;
}

static int add_one(struct pw_tokenizer *t, const struct pw_tok_source *s, size_t id, bool user_apart)
{
    const struct pw_tok_piece *p = &s->pieces[id];
    size_t good = pw_utf8_check(p->text, p->len);
    PW_CHECK(p->type >= PW_PIECE_NORMAL && p->type <= PW_PIECE_BYTE, PW_E_FORMAT, "%s: piece %zu: type %d (expected 1 to 6)", s->where, id, p->type);
    PW_CHECK(good == p->len, PW_E_FORMAT, "%s: piece %zu: byte %zu is not UTF-8", s->where, id, good);
    PW_CHECK(p->len, PW_E_FORMAT, "%s: piece %zu is empty", s->where, id);
    PW_CHECK(!isnan(p->score), PW_E_FORMAT, "%s: the score of piece %zu is not a number", s->where, id);
    PW_PASS(tok_vocab_add(&t->vocab, (int64_t)id, p->text, p->len, s->where));
    t->types[id] = p->type;
    bool control = p->type == PW_PIECE_CONTROL || p->type == PW_PIECE_UNKNOWN;
    if (!control && (p->type != PW_PIECE_USER || !user_apart))
        return 0;
    struct tok_added *a = &t->added[t->n_added++];
    *a = (struct tok_added){ .text = pw_arena_strndup(&t->arena, p->text, p->len), .len = p->len, .id = (int32_t)id, .special = control,
                             .lstrip = p->flags & PW_PIECE_LSTRIP, .rstrip = p->flags & PW_PIECE_RSTRIP };
    PW_CHECK(a->text, PW_E_NOMEM, "%s: no memory", s->where);
    t->special[id] = control;
    return 0;
}

static int end_ids(struct pw_tokenizer *t, const struct pw_tok_source *s)
{
    int32_t *ids = pw_arena_array(&t->arena, 2, sizeof *ids);
    t->stops = pw_arena_array(&t->arena, s->n_stops + 1, sizeof *t->stops);
    PW_CHECK(ids && t->stops, PW_E_NOMEM, "%s: no memory", s->where);
    PW_CHECK(!s->add_bos || s->bos >= 0, PW_E_FORMAT, "%s: a begin token is to be added, but there is none", s->where);
    PW_CHECK(!s->add_eos || s->eos >= 0, PW_E_FORMAT, "%s: an end token is to be added, but there is none", s->where);
    ids[0] = s->bos;
    ids[1] = s->eos;
    if (s->add_bos || s->add_eos)
        t->post[t->n_post++] = (struct tok_post){ .kind = POST_TEMPLATE, .before = ids, .n_before = s->add_bos, .after = ids + 1, .n_after = s->add_eos };
    t->bos = s->bos;
    t->eos = s->eos;
    t->pad = s->pad;
    t->unk = s->unk;
    t->bos_text = s->bos < 0 ? NULL : tok_vocab_piece(&t->vocab, s->bos, NULL);
    t->eos_text = s->eos < 0 ? NULL : tok_vocab_piece(&t->vocab, s->eos, NULL);
    if (s->eos >= 0)
        t->stops[t->n_stops++] = s->eos;
    for (size_t i = 0; i < s->n_stops; i++) {
        bool known = false;
        PW_CHECK(s->stops[i] >= 0, PW_E_FORMAT, "%s: id %d cannot end a text", s->where, (int)s->stops[i]);
        PW_PASS(check_id(s, s->stops[i], "end of text"));
        for (size_t k = 0; k < t->n_stops; k++)
            known = known || t->stops[k] == s->stops[i];
        if (!known)
            t->stops[t->n_stops++] = s->stops[i];
    }
    return 0;
}

static int copy_templates(struct pw_tokenizer *t, const struct pw_tok_source *s)
{
    t->templates = pw_arena_array(&t->arena, s->n_templates + 1, sizeof *t->templates);
    PW_CHECK(t->templates, PW_E_NOMEM, "%s: no memory", s->where);
    for (size_t i = 0; i < s->n_templates; i++) {
        t->templates[i].name = pw_arena_strndup(&t->arena, s->templates[i].name, strlen(s->templates[i].name));
        t->templates[i].text = pw_arena_strndup(&t->arena, s->templates[i].text, strlen(s->templates[i].text));
        PW_CHECK(t->templates[i].name && t->templates[i].text, PW_E_NOMEM, "%s: no memory", s->where);
    }
    t->n_templates = s->n_templates;
    return 0;
}

int tok_fill(struct pw_tokenizer *t, const struct pw_tok_source *s, const struct tok_extra *extra, bool user_apart)
{
    size_t n_extra = extra ? extra->n : 0, top = s->n;
    PW_CHECK(s->n && s->n <= TOK_ID_LIMIT, PW_E_FORMAT, "%s: %zu pieces (expected 1 to %d)", s->where, s->n, TOK_ID_LIMIT);
    PW_PASS(check_id(s, s->bos, "begin of text"));
    PW_PASS(check_id(s, s->eos, "end of text"));
    PW_PASS(check_id(s, s->pad, "padding"));
    PW_PASS(check_id(s, s->unk, "unknown"));
    for (size_t i = 0; i < n_extra; i++) {
        PW_CHECK(extra->added[i].id >= 0 && extra->added[i].id < TOK_ID_LIMIT, PW_E_FORMAT, "%s: added token: id %d is out of range", s->where, (int)extra->added[i].id);
        if ((size_t)extra->added[i].id >= top)
            top = (size_t)extra->added[i].id + 1;
    }
    t->model_vocab = (int32_t)s->n;
    PW_PASS(tok_vocab_open(&t->vocab, top));
    t->types = pw_arena_array(&t->arena, top, sizeof *t->types);
    t->special = pw_arena_array(&t->arena, top, sizeof *t->special);
    t->added = pw_arena_array(&t->arena, s->n + n_extra, sizeof *t->added);
    PW_CHECK(t->types && t->special && t->added, PW_E_NOMEM, "%s: no memory for %zu pieces", s->where, s->n);
    for (size_t i = 0; i < s->n; i++)
        PW_PASS(add_one(t, s, i, user_apart));
    PW_PASS(end_ids(t, s));
    return copy_templates(t, s);
}

/* After the model is ready, since the ids of added tokens must not become parts of words. */
static int add_extra(struct pw_tokenizer *t, const struct tok_extra *extra, const char *where)
{
    for (size_t i = 0; extra && i < extra->n; i++) {
        PW_PASS(tok_add_token(t, &extra->added[i], where));
        if (extra->added[i].id >= t->model_vocab)
            t->types[extra->added[i].id] = extra->added[i].special ? PW_PIECE_CONTROL : PW_PIECE_USER;
    }
    return tok_added_ready(t);
}

static void hash_source(struct pw_sha256 *h, const struct pw_tok_source *s)
{
    int32_t ids[6] = { s->bos, s->eos, s->pad, s->unk, s->add_bos, s->add_eos };
    for (size_t i = 0; i < s->n; i++) {
        const struct pw_tok_piece *p = &s->pieces[i];
        uint64_t len = p->len;
        uint8_t kind[2] = { p->type, p->flags };
        pw_sha256_add(h, &len, sizeof len);
        pw_sha256_add(h, p->text, p->len);
        pw_sha256_add(h, &p->score, sizeof p->score);
        pw_sha256_add(h, kind, 2);
    }
    pw_sha256_add(h, ids, sizeof ids);
}

static void hash_extra(struct pw_sha256 *h, const struct tok_extra *extra)
{
    for (size_t i = 0; extra && i < extra->n; i++) {
        const struct tok_added *a = &extra->added[i];
        uint8_t flags[5] = { a->single_word, a->lstrip, a->rstrip, a->normalized, a->special };
        pw_sha256_add(h, a->text, a->len);
        pw_sha256_add(h, &a->id, sizeof a->id);
        pw_sha256_add(h, flags, 5);
    }
}

static int bpe(struct pw_tokenizer *t, const struct pw_tok_source *s, const struct pw_tok_text *merges, size_t n, const char *pre)
{
    struct pw_sha256 h;
    PW_PASS(tok_fill(t, s, NULL, true));
    PW_PASS(tok_merges_text(t, merges, n, s->where));
    t->model_unk = s->unk;
    PW_PASS(tok_pre_set(t, pre, s->where));
    PW_PASS(tok_bpe_ready(t));
    t->kind = "BPE byte-level";
    pw_sha256_init(&h);
    hash_source(&h, s);
    for (size_t i = 0; i < n; i++) {
        pw_sha256_add(&h, merges[i].s, merges[i].len);
        pw_sha256_add(&h, "\n", 1);
    }
    pw_sha256_add(&h, pre, strlen(pre));
    pw_sha256_hex(&h, t->hash);
    return tok_added_ready(t);
}

int tok_fill_spm(struct pw_tokenizer *t, const struct pw_tok_source *s, const struct pw_tok_spm *spm, const struct tok_extra *extra, bool unigram)
{
    struct pw_sha256 h;
    PW_CHECK(s->unk >= 0 && (size_t)s->unk < s->n && s->pieces[s->unk].type == PW_PIECE_UNKNOWN, PW_E_FORMAT, "%s: no piece is marked as the unknown one", s->where);
    PW_PASS(tok_fill(t, s, extra, spm->user_apart));
    t->model_unk = s->unk;
    t->fuse_unk = true;
    t->spm = (struct tok_spm){ .on = true, .prefix = spm->prefix, .prefix_once = spm->prefix_once, .squeeze = spm->squeeze, .unused_merges = spm->user_apart, .user = t->spm.user };
    if (spm->unk_surface) {
        t->spm.unk_surface = pw_arena_strndup(&t->arena, spm->unk_surface, strlen(spm->unk_surface));
        PW_CHECK(t->spm.unk_surface, PW_E_NOMEM, "%s: no memory", s->where);
    }
    PW_PASS(tok_charsmap_open(t, spm->charsmap, spm->charsmap_bytes, s->where));
    size_t bytes = 0;
    for (size_t i = 0; i < s->n; i++) {
        const struct pw_tok_piece *p = &s->pieces[i];
        bytes += p->type == PW_PIECE_BYTE;
        if (p->type == PW_PIECE_USER && !spm->user_apart)
            PW_PASS(tok_trie_add(&t->spm.user, p->text, p->len, (int32_t)i));
    }
    t->byte_fallback = bytes > 0;
    if (unigram) {
        t->unigram.score = pw_arena_array(&t->arena, s->n, sizeof *t->unigram.score);
        PW_CHECK(t->unigram.score, PW_E_NOMEM, "%s: no memory", s->where);
        for (size_t i = 0; i < s->n; i++)
            t->unigram.score[i] = (double)s->pieces[i].score;
        t->unigram.sentencepiece = true;
        PW_PASS(tok_unigram_ready(t));
    } else {
        float *score = pw_arena_array(&t->arena, s->n, sizeof *score);
        PW_CHECK(score, PW_E_NOMEM, "%s: no memory", s->where);
        for (size_t i = 0; i < s->n; i++)
            score[i] = s->pieces[i].score;
        PW_PASS(tok_spm_merges(t, score, s->where));
        PW_PASS(tok_bpe_ready(t));
    }
    for (int b = 0; b < 256 && bytes; b++)
        PW_CHECK(t->byte_id[b] >= 0 && t->types[t->byte_id[b]] == PW_PIECE_BYTE, PW_E_FORMAT, "%s: byte pieces without <0x%02X>", s->where, (unsigned)b);
    PW_CHECK(bytes == 0 || bytes == 256, PW_E_FORMAT, "%s: %zu byte pieces (expected none or 256)", s->where, bytes);
    t->norm[t->n_norm++] = (struct tok_norm){ .kind = NORM_SPM };
    t->kind = unigram ? "Unigram" : "BPE SentencePiece";
    pw_sha256_init(&h);
    hash_source(&h, s);
    hash_extra(&h, extra);
    uint8_t flags[5] = { unigram, spm->prefix, spm->prefix_once, spm->squeeze, spm->user_apart };
    pw_sha256_add(&h, flags, 5);
    pw_sha256_add(&h, spm->charsmap, spm->charsmap_bytes);
    pw_sha256_hex(&h, t->hash);
    return add_extra(t, extra, s->where);
}

static int finish(struct pw_tokenizer **out, struct pw_tokenizer *t, const char *where, int rc)
{
    if (rc < 0) {
        pw_tokenizer_free(t);
        return pw_error_while(rc, "loading the tokenizer of %s", where);
    }
    *out = t;
    return 0;
}

int pw_tokenizer_from_bpe(struct pw_tokenizer **out, const struct pw_tok_source *s, const struct pw_tok_text *merges, size_t n_merges, const char *pre)
{
    struct pw_tokenizer *t;
    *out = NULL;
    PW_PASS(tok_new(&t));
    return finish(out, t, s->where, bpe(t, s, merges, n_merges, pre));
}

int pw_tokenizer_from_spm_bpe(struct pw_tokenizer **out, const struct pw_tok_source *s, const struct pw_tok_spm *spm)
{
    struct pw_tokenizer *t;
    *out = NULL;
    PW_PASS(tok_new(&t));
    return finish(out, t, s->where, tok_fill_spm(t, s, spm, NULL, false));
}

int pw_tokenizer_from_unigram(struct pw_tokenizer **out, const struct pw_tok_source *s, const struct pw_tok_spm *spm)
{
    struct pw_tokenizer *t;
    *out = NULL;
    PW_PASS(tok_new(&t));
    return finish(out, t, s->where, tok_fill_spm(t, s, spm, NULL, true));
}
