/* Writing a tokenizer into a GGUF file (tok_gguf.h). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/tok_gguf.h"
#include "data/tok_parts.h"
#include "data/utf8.h"

#define KEY "tokenizer.ggml."
static const char mark[] = "\xE2\x96\x81", digit[] = "\\p{N}";

/* ---- which pre-split is it? ---- */

/* Steps in one form: byte-level with an expression of its own is a split and byte-level; single digits are a split. */
struct step { enum tok_pre_kind kind; const char *pattern; };

static size_t steps_of(const struct pw_tokenizer *t, struct step out[2 * TOK_STEPS])
{
    size_t n = 0;
    for (size_t i = 0; i < t->n_pre; i++) {
        const struct tok_pre *p = &t->pre[i];
        const bool plain = !p->invert && !p->prefix_space && !p->find;
        if (p->kind == PRE_BYTE_LEVEL && plain) {
            if (p->regex)
                out[n++] = (struct step){PRE_SPLIT, pw_regex_source(p->regex)};
            out[n++] = (struct step){PRE_BYTE_LEVEL, ""};
        } else if (p->kind == PRE_SPLIT && plain && p->regex && p->behaviour == SPLIT_ISOLATED)
            out[n++] = (struct step){PRE_SPLIT, pw_regex_source(p->regex)};
        else if (p->kind == PRE_CLASS && p->class == pw_cp_numeric && p->behaviour == SPLIT_ISOLATED)
            out[n++] = (struct step){PRE_SPLIT, digit};
        else
            return 0;
    }
    return n;
}

static int same_pre(const struct pw_tokenizer *t, const char *name, bool *same)
{
    struct step ours[2 * TOK_STEPS], theirs[2 * TOK_STEPS];
    struct pw_tokenizer *other;
    int rc = tok_new(&other);
    PW_PASS_OUT(rc);
    PW_PASS_OUT(tok_pre_set(other, name, name));
    const size_t n = steps_of(t, ours), m = steps_of(other, theirs);
    *same = n > 0 && n == m && t->ignore_merges == other->ignore_merges && t->n_norm == other->n_norm && (t->n_norm == 0 || (t->n_norm == 1 && t->norm[0].kind == NORM_FORM && t->norm[0].form == other->norm[0].form));
    for (size_t i = 0; *same && i < n; i++)
        *same = ours[i].kind == theirs[i].kind && strcmp(ours[i].pattern, theirs[i].pattern) == 0;
out:
    pw_tokenizer_free(other);
    return rc;
}

static int find_pre(const struct pw_tokenizer *t, char name[64])
{
    for (const char *at = pw_tokenizer_pre_names(); *at;) {
        const size_t n = strcspn(at, ",");
        bool same = false;
        snprintf(name, 64, "%.*s", (int)n, at);
        PW_PASS(same_pre(t, name, &same));
        if (same && strcmp(name, "cl100k_base") != 0 && strcmp(name, "o200k_base") != 0)
            return 0;
        at += n + strspn(at + n, ", ");
    }
    return pw_error(PW_E_UNSUPPORTED, "the tokenizer's pre-split has no name in GGUF files (known: %s)", pw_tokenizer_pre_names());
}

/* ---- merges ---- */

struct merge { uint32_t rank; int32_t left, right; };

static int by_rank(const void *a, const void *b)
{
    const struct merge *x = a, *y = b;
    return x->rank != y->rank ? (x->rank < y->rank ? -1 : 1) : x->left != y->left ? (x->left < y->left ? -1 : 1) : (x->right > y->right) - (x->right < y->right);
}

static void put_merges(struct pw_gguf_out *w, const struct pw_tokenizer *t, const struct merge *m, size_t n)
{
    struct pw_buf text = {0};
    pw_gguf_put_array(w, KEY "merges", PW_GGUF_STRING, n);
    for (size_t i = 0; i < n; i++) {
        size_t a, b;
        const char *l = tok_vocab_piece(&t->vocab, m[i].left, &a), *r = tok_vocab_piece(&t->vocab, m[i].right, &b);
        pw_buf_clear(&text);
        pw_buf_add(&text, l, a);
        pw_buf_char(&text, ' ');
        pw_buf_add(&text, r, b);
        pw_gguf_put_element(w, PW_GGUF_STRING, text.data, text.len);
        w->head.failed = w->head.failed || text.failed;
    }
    pw_buf_free(&text);
}

static int list_merges(const struct pw_tokenizer *t, struct merge **out, size_t *n)
{
    size_t room = 0;
    *n = 0;
    for (size_t i = 0; i <= t->merges.mask; i++)
        room += t->merges.keys[i] != UINT64_MAX;
    struct merge *m = pw_alloc_zero(room + 1, sizeof *m);
    PW_CHECK(m, PW_E_NOMEM, "no memory for %zu merges", room);
    for (size_t i = 0; i <= t->merges.mask; i++)
        if (t->merges.keys[i] != UINT64_MAX)
            m[(*n)++] = (struct merge){t->merges.rank[i], (int32_t)(t->merges.keys[i] >> 32), (int32_t)(t->merges.keys[i] & 0xFFFFFFFFu)};
    qsort(m, *n, sizeof *m, by_rank);
    *out = m;
    return 0;
}

/* ---- SentencePiece ---- */

struct span { uint32_t first, last; bool any; }; /* ranks of the merges that make a piece */

static int by_first(const void *a, const void *b)
{
    const struct span *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

/* Do the merges follow from a score for each piece? Every way to cut a piece in two must be a merge, and the ranks of pieces must not
 * interleave. */
static int follows(const struct pw_tokenizer *t, const struct span *span, bool *yes)
{
    const size_t n = (size_t)t->model_vocab;
    *yes = true;
    for (size_t id = 0; id < n && *yes; id++) {
        size_t len;
        const char *s = tok_vocab_piece(&t->vocab, (int32_t)id, &len);
        if (!s || t->special[id])
            continue;
        for (size_t k = 1; k < len && *yes; k++) {
            const int32_t l = tok_vocab_find(&t->vocab, s, k), r = l < 0 ? -1 : tok_vocab_find(&t->vocab, s + k, len - k);
            if (l >= 0 && r >= 0 && l < t->model_vocab && r < t->model_vocab && !t->special[l] && !t->special[r])
                *yes = tok_pairs_find(&t->merges, l, r) != (size_t)-1;
        }
    }
    struct span *sorted = pw_alloc_zero(n + 1, sizeof *sorted);
    PW_CHECK(sorted, PW_E_NOMEM, "no memory for %zu pieces", n);
    size_t m = 0;
    for (size_t id = 0; id < n; id++)
        if (span[id].any)
            sorted[m++] = span[id];
    qsort(sorted, m, sizeof *sorted, by_first);
    for (size_t i = 1; i < m; i++)
        *yes = *yes && sorted[i - 1].last < sorted[i].first;
    pw_free(sorted);
    return 0;
}

static int ranks_of(const struct pw_tokenizer *t, struct span *span)
{
    for (size_t i = 0; i <= t->merges.mask; i++) {
        const int32_t id = t->merges.id[i];
        if (t->merges.keys[i] == UINT64_MAX || id < 0 || id >= (int32_t)t->vocab.n)
            continue;
        struct span *s = &span[id];
        const uint32_t r = t->merges.rank[i];
        *s = (struct span){s->any && s->first < r ? s->first : r, s->any && s->last > r ? s->last : r, true};
    }
    return 0;
}

/* Is there a space put in front, and nothing else done that such files cannot say? */
static int spm_form(const struct pw_tokenizer *t, bool *prefix, bool *spaces)
{
    static const char what[] = "the tokenizer cannot be written into a GGUF file";
    *prefix = *spaces = false;
    PW_CHECK(!t->unigram.on, PW_E_UNSUPPORTED, "%s: Unigram", what);
    PW_CHECK(!t->spm.map.n_units, PW_E_UNSUPPORTED, "%s: its normalizer", what);
    if (t->spm.on)
        *prefix = t->spm.prefix;
    for (size_t i = 0; i < t->n_norm; i++) {
        const struct tok_norm *m = &t->norm[i];
        const bool space = m->kind == NORM_PREPEND && m->with_len == 1 && m->with[0] == ' ', spm = m->kind == NORM_PREPEND && m->with_len == 3 && memcmp(m->with, mark, 3) == 0;
        *spaces = *spaces || space;
        *prefix = *prefix || space || spm;
        PW_CHECK(space || spm || m->kind == NORM_SPM || (m->kind == NORM_REPLACE && m->find && m->find_len == 1 && m->find[0] == ' ' && m->with_len == 3 && memcmp(m->with, mark, 3) == 0),
                 PW_E_UNSUPPORTED, "%s: normalizer %zu", what, i);
    }
    for (size_t i = 0; i < t->n_pre; i++) {
        PW_CHECK(t->pre[i].kind == PRE_METASPACE && t->pre[i].find_len == 3 && memcmp(t->pre[i].find, mark, 3) == 0, PW_E_UNSUPPORTED, "%s: pre-tokenizer %zu", what, i);
        *prefix = *prefix || t->pre[i].scheme != SCHEME_NEVER;
    }
    return 0;
}

/* ---- pieces ---- */

static int type_of(const struct pw_tokenizer *t, int32_t id, bool spm)
{
    size_t n;
    const char *s = tok_vocab_piece(&t->vocab, id, &n);
    if (t->types && id < t->model_vocab)
        return t->types[id];
    if (id == t->model_unk)
        return PW_PIECE_UNKNOWN;
    for (size_t i = 0; i < t->n_added; i++)
        if (t->added[i].id == id)
            return t->added[i].special ? PW_PIECE_CONTROL : PW_PIECE_USER;
    if (t->special[id])
        return PW_PIECE_CONTROL;
    return spm && t->byte_fallback && n == 6 && memcmp(s, "<0x", 3) == 0 && s[5] == '>' ? PW_PIECE_BYTE : PW_PIECE_NORMAL;
}

/* spaces: pieces hold plain spaces where SentencePiece has its mark (llama2.c) */
static void put_pieces(struct pw_gguf_out *w, const struct pw_tokenizer *t, size_t vocab, bool spm, bool spaces, const struct span *span)
{
    struct pw_buf text = {0};
    pw_gguf_put_array(w, KEY "tokens", PW_GGUF_STRING, vocab);
    for (size_t i = 0; i < vocab; i++) {
        size_t n = 0;
        const char *s = i < t->vocab.n ? tok_vocab_piece(&t->vocab, (int32_t)i, &n) : NULL;
        pw_buf_clear(&text);
        if (!s)
            pw_buf_printf(&text, "[PAD%zu]", i);
        for (size_t k = 0; s && k < n; k++) {
            if (spaces && s[k] == ' ')
                pw_buf_str(&text, mark);
            else
                pw_buf_char(&text, s[k]);
        }
        pw_gguf_put_element(w, PW_GGUF_STRING, text.data, text.len);
        w->head.failed = w->head.failed || text.failed;
    }
    if (spm) {
        pw_gguf_put_array(w, KEY "scores", PW_GGUF_F32, vocab);
        for (size_t i = 0; i < vocab; i++) {
            const float score = i < t->vocab.n && span[i].any ? -(float)span[i].first : 0;
            pw_gguf_put_element(w, PW_GGUF_F32, &score, sizeof score);
        }
    }
    pw_gguf_put_array(w, KEY "token_type", PW_GGUF_I32, vocab);
    for (size_t i = 0; i < vocab; i++) {
        const int32_t type = i < t->vocab.n && tok_vocab_piece(&t->vocab, (int32_t)i, NULL) ? type_of(t, (int32_t)i, spm) : PW_PIECE_UNUSED;
        pw_gguf_put_element(w, PW_GGUF_I32, &type, sizeof type);
    }
    pw_buf_free(&text);
}

/* Without its key a token of a "llama" tokenizer is not absent but has a default: "none" is said with all ones. */
static void put_id(struct pw_gguf_out *w, const char *key, int32_t id, bool default_else)
{
    if (id >= 0 || default_else)
        pw_gguf_put_u32(w, key, (uint32_t)id);
}

/* What is put before and after a text: at most one token each. */
static int ends_of(const struct pw_tokenizer *t, int32_t *bos, int32_t *eos, bool *add_bos, bool *add_eos)
{
    *bos = t->bos;
    *eos = t->eos;
    for (size_t i = 0; i < t->n_post; i++) {
        const struct tok_post *p = &t->post[i];
        if (p->kind != POST_TEMPLATE)
            continue;
        PW_CHECK(p->n_before <= 1 && p->n_after <= 1 && (!p->n_before || !*add_bos) && (!p->n_after || !*add_eos), PW_E_UNSUPPORTED,
                 "the tokenizer adds more than one token at an end of a text: GGUF files cannot say that");
        if (p->n_before) {
            *bos = p->before[0];
            *add_bos = true;
        }
        if (p->n_after) {
            *eos = p->after[0];
            *add_eos = true;
        }
    }
    return 0;
}

int pw_gguf_put_tokenizer(struct pw_gguf_out *w, const struct pw_tokenizer *t, int64_t vocab, bool *exact)
{
    const bool byte_level = t->n_pre && t->pre[t->n_pre - 1].kind == PRE_BYTE_LEVEL;
    bool prefix = false, spaces = false, add_bos = false, add_eos = false;
    int32_t bos, eos;
    char pre[64] = "default";
    struct span *span = NULL;
    struct merge *merges = NULL;
    size_t n = 0;
    int rc = 0;
    *exact = true;
    PW_CHECK((int64_t)t->vocab.n <= vocab, PW_E_FORMAT, "the tokenizer has %zu pieces, the model %lld", t->vocab.n, (long long)vocab);
    span = pw_alloc_zero((size_t)vocab + 1, sizeof *span);
    PW_CHECK_OUT(span, PW_E_NOMEM, "no memory for %lld pieces", (long long)vocab);
    for (size_t i = 0; i < t->n_added; i++) /* Phi-3's rstrip is read by the model's name, which is not this tokenizer's to give */
        PW_CHECK_OUT(!t->added[i].single_word && !t->added[i].lstrip && !t->added[i].rstrip, PW_E_UNSUPPORTED,
                     "token %.60s minds the text beside it (single_word, lstrip, rstrip): GGUF files have no field for that", t->added[i].text);
    PW_PASS_OUT(ends_of(t, &bos, &eos, &add_bos, &add_eos));
    PW_PASS_OUT(list_merges(t, &merges, &n));
    if (byte_level)
        PW_PASS_OUT(find_pre(t, pre));
    else {
        PW_PASS_OUT(spm_form(t, &prefix, &spaces));
        PW_PASS_OUT(ranks_of(t, span));
        if (!t->spm.on && !spaces)
            PW_PASS_OUT(follows(t, span, exact));
    }
    pw_gguf_put_str(w, KEY "model", byte_level ? "gpt2" : "llama", byte_level ? 4 : 5);
    pw_gguf_put_str(w, KEY "pre", pre, strlen(pre));
    put_pieces(w, t, (size_t)vocab, !byte_level, spaces, span);
    if (byte_level || !*exact)
        put_merges(w, t, merges, n);
    put_id(w, KEY "bos_token_id", bos, !byte_level);
    put_id(w, KEY "eos_token_id", eos, !byte_level);
    put_id(w, KEY "unknown_token_id", t->unk, !byte_level);
    put_id(w, KEY "padding_token_id", t->pad, false);
    if (t->n_stops > 1)
        put_id(w, KEY "eot_token_id", t->stops[0] == t->eos ? t->stops[1] : t->stops[0], false);
    pw_gguf_put_bool(w, KEY "add_bos_token", add_bos);
    pw_gguf_put_bool(w, KEY "add_eos_token", add_eos);
    if (!byte_level) {
        pw_gguf_put_bool(w, KEY "add_space_prefix", prefix);
        if (t->spm.on && t->spm.squeeze)
            pw_gguf_put_bool(w, KEY "remove_extra_whitespaces", true);
    }
    for (size_t i = 0; i < t->n_templates; i++) {
        char key[256];
        const bool plain = strcmp(t->templates[i].name, "default") == 0;
        snprintf(key, sizeof key, "tokenizer.chat_template%s%.200s", plain ? "" : ".", plain ? "" : t->templates[i].name);
        pw_gguf_put_str(w, key, t->templates[i].text, strlen(t->templates[i].text));
    }
out:
    pw_free(merges);
    pw_free(span);
    return rc;
}
