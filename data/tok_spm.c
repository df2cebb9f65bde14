/* SentencePiece's normaliser: a map of source strings to others (nmt_nfkc and its kin, precompiled as a Darts double array),
 * white space squeezed, a space in front, spaces as U+2581; and the merges that follow from scores.
 *
 * Owns the double array, which is untrusted: every step of a walk through it is checked against its end. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/tok_parts.h"

static const char mark[] = "\xE2\x96\x81"; /* U+2581 */

int tok_charsmap_open(struct pw_tokenizer *t, const void *bytes, size_t n, const char *where)
{
    struct tok_charsmap *m = &t->spm.map;
    uint32_t trie;
    if (n == 0)
        return 0;
    PW_CHECK(n > 4, PW_E_FORMAT, "%s: precompiled_charsmap: %zu bytes are too few", where, n);
    memcpy(&trie, bytes, 4);
    PW_CHECK(trie >= 4 && trie % 4 == 0 && trie <= n - 4, PW_E_FORMAT, "%s: precompiled_charsmap: a trie of %u bytes in %zu", where, (unsigned)trie, n - 4);
    const char *text = (const char *)bytes + 4 + trie;
    size_t left = n - 4 - trie;
    PW_CHECK(left && text[left - 1] == 0, PW_E_FORMAT, "%s: precompiled_charsmap: its texts do not end with a NUL", where);
    /* A value may point into the middle of another text, but never into a character. */
    PW_CHECK(pw_utf8_check(text, left) == left, PW_E_FORMAT, "%s: precompiled_charsmap: text byte %zu is not UTF-8", where, pw_utf8_check(text, left));
    uint32_t *units = pw_arena_alloc(&t->arena, trie);
    char *copy = pw_arena_alloc(&t->arena, left);
    PW_CHECK(units && copy, PW_E_NOMEM, "%s: no memory", where);
    memcpy(units, (const char *)bytes + 4, trie);
    memcpy(copy, text, left);
    *m = (struct tok_charsmap){ units, copy, trie / 4, left };
    return 0;
}

static size_t jump(uint32_t unit) { return (size_t)(unit >> 10) << ((unit & 1u << 9) >> 6); }

/* The longest source string that begins at s: its length and what it becomes; 0: none. */
static size_t mapped(const struct tok_charsmap *m, const char *s, size_t n, const char **to)
{
    size_t best = 0, at = jump(m->units[0]);
    for (size_t i = 0; i < n; i++) {
        at ^= (unsigned char)s[i];
        if (at >= m->n_units || (m->units[at] & (1u << 31 | 0xFFu)) != (unsigned char)s[i])
            break;
        bool leaf = m->units[at] >> 8 & 1;
        at ^= jump(m->units[at]);
        if (at >= m->n_units)
            break;
        size_t value = m->units[at] & 0x7FFFFFFFu;
        if (leaf && value < m->text_bytes && ((unsigned char)m->text[value] & 0xC0) != 0x80) {
            best = i + 1;
            *to = m->text + value;
        }
    }
    return best;
}

/* What the text at `at` becomes: returns how much of it is used. User pieces stay what they are. */
static size_t step(const struct tok_spm *spm, const struct tok_view *v, size_t at, const char **s, size_t *len)
{
    uint32_t cp;
    size_t used;
    *s = v->s + at;
    if (spm->user.n && tok_trie_longest(&spm->user, v->s + at, v->n - at, &used) >= 0) {
        *len = used;
        return used;
    }
    used = spm->map.n_units ? mapped(&spm->map, v->s + at, v->n - at, s) : 0;
    if (used) {
        *len = strlen(*s);
        return used;
    }
    return *len = pw_utf8_get(v->s + at, v->n - at, &cp);
}

/* The shortest source string that begins at s and what it becomes; the rest of s is dropped, as the package does. */
static bool first_mapped(const struct tok_charsmap *m, const char *s, size_t n, const char **to)
{
    for (size_t k = 1; k <= n; k++)
        if (mapped(m, s, k, to))
            return true;
    return false;
}

/* Grapheme by grapheme: one of up to five bytes is looked up whole, else its characters are. */
int tok_precompiled(const struct pw_tokenizer *t, const struct tok_view *v, struct tok_build *b)
{
    const struct tok_charsmap *m = &t->spm.map;
    const char *to;
    for (size_t at = 0, end; at < v->n; at = end) {
        uint32_t cp, next;
        int32_t state = 0;
        end = at + pw_utf8_get(v->s + at, v->n - at, &cp);
        for (size_t len; end < v->n; end += len, cp = next) {
            len = pw_utf8_get(v->s + end, v->n - end, &next);
            if (pw_grapheme_break(cp, next, &state))
                break;
        }
        if (m->n_units && end - at < 6 && first_mapped(m, v->s + at, end - at, &to)) {
            PW_PASS(tok_put(b, to, strlen(to), (uint32_t)tok_start(v, at), (uint32_t)tok_end(v, end - 1)));
            continue;
        }
        for (size_t i = at, len; i < end; i += len) {
            len = pw_utf8_get(v->s + i, v->n - i, &cp);
            bool hit = m->n_units && first_mapped(m, v->s + i, len, &to);
            PW_PASS(tok_put(b, hit ? to : v->s + i, hit ? strlen(to) : len, (uint32_t)tok_start(v, i), (uint32_t)tok_end(v, i + len - 1)));
        }
    }
    return 0;
}

static bool plain(const struct tok_spm *spm) { return spm->map.n_units == 0 && spm->user.n == 0 && !spm->squeeze; }

int tok_spm_normalize(const struct pw_tokenizer *t, const struct tok_view *v, struct tok_build *b)
{
    const struct tok_spm *spm = &t->spm;
    const char *s;
    size_t at = 0, len, used;
    bool after_space = spm->squeeze;
    b->n = 0;
    while (spm->squeeze && at < v->n) {
        used = step(spm, v, at, &s, &len);
        if (len != 1 || s[0] != ' ')
            break;
        at += used;
    }
    if (at == v->n)
        return 0;
    if (spm->prefix && (!spm->prefix_once || tok_start(v, 0) == 0))
        PW_PASS(tok_put(b, mark, 3, (uint32_t)tok_start(v, at), (uint32_t)tok_end(v, at)));
    for (; at < v->n; at += used) {
        if (plain(spm)) {
            uint32_t cp;
            s = v->s + at;
            used = len = pw_utf8_get(s, v->n - at, &cp);
        } else {
            used = step(spm, v, at, &s, &len);
        }
        uint32_t from = (uint32_t)tok_start(v, at), to = (uint32_t)tok_end(v, at + used - 1);
        for (; after_space && len && s[0] == ' '; s++)
            len--;
        for (size_t i = 0; i < len; i++)
            PW_PASS(s[i] == ' ' ? tok_put(b, mark, 3, from, to) : tok_put(b, s + i, 1, from, to));
        if (len)
            after_space = spm->squeeze && s[len - 1] == ' ';
    }
    while (spm->squeeze && b->n >= 3 && memcmp(b->s + b->n - 3, mark, 3) == 0)
        b->n -= 3;
    return 0;
}

/* ---- merges from scores ---- */

static int by_score_down(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

static uint32_t rank_of_score(const float *sorted, size_t n, float score)
{
    size_t low = 0, high = n; /* the first place whose score is not above */
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (sorted[mid] > score)
            low = mid + 1;
        else
            high = mid;
    }
    return (uint32_t)low;
}

static bool merges_with(const struct pw_tokenizer *t, int32_t id)
{
    return !t->types || t->types[id] == PW_PIECE_NORMAL || t->types[id] == PW_PIECE_UNUSED;
}

/* A part of a piece as a symbol: a piece that can merge, or a single character that is none (kept in `hidden`; with *lone
 * it is only counted). -1: neither. */
static int part(struct pw_tokenizer *t, const char *s, size_t n, size_t *lone, int32_t *id)
{
    uint32_t cp;
    *id = tok_vocab_find(&t->vocab, s, n);
    if (*id >= 0 && *id < t->model_vocab && merges_with(t, *id))
        return 0;
    bool user = *id >= 0 && t->types && t->types[*id] == PW_PIECE_USER;
    *id = -1;
    if (!t->types || user || pw_utf8_get(s, n, &cp) != n)
        return 0;
    if (t->hidden.n) {
        *id = tok_vocab_find(&t->hidden, s, n);
        if (*id < 0) {
            *id = (int32_t)*lone;
            PW_PASS(tok_vocab_add(&t->hidden, *id, s, n, "characters of pieces"));
            *lone += 1;
        }
    } else {
        *id = 0;
        *lone += 1;
    }
    *id += (int32_t)t->vocab.n;
    return 0;
}

/* One pass over all cuts: counts the lone characters, or (ranks given) keeps the merges. */
static int all_cuts(struct pw_tokenizer *t, const float *score, const float *sorted, size_t *lone, const char *where)
{
    for (int32_t id = 0; id < t->model_vocab; id++) {
        size_t n;
        const char *s = tok_vocab_piece(&t->vocab, id, &n);
        if (!s || !merges_with(t, id))
            continue;
        for (size_t k = 1; k < n; k++) {
            int32_t left, right;
            size_t count = *lone;
            if (((unsigned char)s[k] & 0xC0) == 0x80)
                continue;
            if (!sorted) {
                PW_PASS(part(t, s, k, &count, &left));
                if (left >= 0)
                    PW_PASS(part(t, s + k, n - k, &count, &right));
                if (left >= 0 && right >= 0)
                    *lone = count;
                continue;
            }
            /* Both parts are known before a lone character is kept: only those of real cuts are. */
            left = tok_vocab_find(&t->vocab, s, k);
            right = tok_vocab_find(&t->vocab, s + k, n - k);
            if (t->hidden.n || (left >= 0 && right >= 0)) {
                PW_PASS(part(t, s, k, lone, &left));
                PW_PASS(part(t, s + k, n - k, lone, &right));
                PW_CHECK(left < 0 || right < 0 || !t->types || t->types[id] != PW_PIECE_UNUSED || t->spm.unused_merges, PW_E_UNSUPPORTED,
                         "%s: piece %d \"%.*s\" is marked unused but can be merged: taking it apart again is not supported", where, (int)id, n > 60 ? 60 : (int)n, s);
                if (left >= 0 && right >= 0)
                    PW_PASS(tok_pairs_put_growing(&t->merges, left, right, rank_of_score(sorted, (size_t)t->model_vocab, score[id]), id));
            }
        }
    }
    return 0;
}

int tok_spm_merges(struct pw_tokenizer *t, const float *score, const char *where)
{
    size_t n = (size_t)t->model_vocab, lone = 0;
    float *sorted = pw_arena_array(&t->arena, n, sizeof *sorted);
    PW_CHECK(sorted, PW_E_NOMEM, "%s: no memory for merges", where);
    for (size_t i = 0; i < n; i++)
        PW_CHECK(!isnan(score[i]), PW_E_FORMAT, "%s: the score of piece %zu is not a number", where, i);
    memcpy(sorted, score, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_score_down);
    PW_PASS(tok_pairs_open(&t->merges, 4 * n));
    if (t->types) {
        PW_PASS(all_cuts(t, score, NULL, &lone, where));
        if (lone)
            PW_PASS(tok_vocab_open(&t->hidden, 2 * n + 2 * lone));
        lone = 0;
    }
    return all_cuts(t, score, sorted, &lone, where);
}
