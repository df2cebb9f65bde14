/* Encoding: added tokens are cut out, the rest is normalised, split and given to the model, then the post-processor adds
 * its tokens. Owns the tries of added tokens and the public encode call. */
#include <string.h>

#include "base/error.h"
#include "data/tok_parts.h"

int tok_trie_add(struct tok_trie *trie, const char *s, size_t n, int32_t added)
{
    int32_t *link = &trie->first[(unsigned char)s[0]];
    int32_t node = -1;
    for (size_t i = 0; i < n; i++) {
        int32_t k = *link, *end = link;
        while (k >= 0 && trie->nodes[k].byte != (unsigned char)s[i]) {
            end = &trie->nodes[k].sibling;
            k = *end;
        }
        if (k < 0) {
            size_t offset = (size_t)((char *)end - (char *)trie->nodes);
            bool inside = trie->nodes && (char *)end >= (char *)trie->nodes && (char *)end < (char *)(trie->nodes + trie->cap);
            PW_CHECK(trie->n < INT32_MAX, PW_E_FORMAT, "too many added tokens");
            PW_PASS(tok_grow((void **)&trie->nodes, &trie->cap, trie->n + 1, sizeof *trie->nodes));
            if (inside)
                end = (int32_t *)((char *)trie->nodes + offset);
            k = (int32_t)trie->n++;
            trie->nodes[k] = (struct tok_node){ -1, -1, -1, (unsigned char)s[i] };
            *end = k;
        }
        node = k;
        link = &trie->nodes[k].child;
    }
    if (trie->nodes[node].added < 0)
        trie->nodes[node].added = added;
    return 0;
}

/* The longest added token that begins at s; -1: none. */
int32_t tok_trie_longest(const struct tok_trie *trie, const char *s, size_t n, size_t *len)
{
    int32_t best = -1, k = trie->first[(unsigned char)s[0]];
    for (size_t i = 0; i < n; i++) {
        while (k >= 0 && trie->nodes[k].byte != (unsigned char)s[i])
            k = trie->nodes[k].sibling;
        if (k < 0)
            break;
        if (trie->nodes[k].added >= 0) {
            best = trie->nodes[k].added;
            *len = i + 1;
        }
        k = trie->nodes[k].child;
    }
    return best;
}

int tok_added_ready(struct pw_tokenizer *t)
{
    struct pw_tok_work *w = NULL;
    int rc;
    memset(t->raw.first, 0xFF, sizeof t->raw.first);
    memset(t->normal.first, 0xFF, sizeof t->normal.first);
    PW_PASS_OUT(tok_work_open(&w));
    for (size_t i = 0; i < t->n_added; i++) {
        struct tok_added *a = &t->added[i];
        a->match = a->text;
        a->match_len = a->len;
        if (a->normalized) {
            struct tok_view in = { a->text, a->len, NULL, NULL, 0 }, normal;
            PW_PASS_OUT(tok_normalize(t, w, &in, &normal));
            a->match = pw_arena_strndup(&t->arena, normal.s, normal.n);
            a->match_len = normal.n;
            PW_CHECK_OUT(a->match, PW_E_NOMEM, "no memory for added tokens");
        }
        if (a->match_len)
            PW_PASS_OUT(tok_trie_add(a->normalized ? &t->normal : &t->raw, a->match, a->match_len, (int32_t)i));
    }
    rc = 0;
out: {
        struct pw_tokens holder = { .work = w };
        pw_tokens_free(&holder);
    }
    return rc;
}

int tok_work_open(struct pw_tok_work **out)
{
    struct pw_tok_work *w = pw_alloc_zero(1, sizeof *w);
    *out = w;
    PW_CHECK(w, PW_E_NOMEM, "no memory for tokenizing");
    w->cache = pw_alloc_zero(TOK_CACHE_SLOTS, sizeof *w->cache);
    PW_CHECK(w->cache, PW_E_NOMEM, "no memory for tokenizing");
    return pw_regex_room_open(&w->room);
}

static void free_build(struct tok_build *b)
{
    pw_free(b->s);
    pw_free(b->from);
    pw_free(b->to);
}

void pw_tokens_free(struct pw_tokens *out)
{
    struct pw_tok_work *w = out->work;
    if (w) {
        for (size_t i = 0; i < TOK_STEPS; i++)
            free_build(&w->level[i]);
        free_build(&w->norm[0]);
        free_build(&w->norm[1]);
        pw_free(w->symbols);
        pw_free(w->heap);
        pw_free(w->chars);
        pw_free(w->cache);
        pw_free(w->best);
        pw_regex_room_free(w->room);
        pw_free(w);
    }
    pw_free(out->ids);
    pw_free(out->start);
    pw_free(out->end);
    *out = (struct pw_tokens){ 0 };
}

static uint32_t char_before(const char *s, size_t end)
{
    uint32_t cp;
    size_t at = end - 1;
    while (at > 0 && ((unsigned char)s[at] & 0xC0) == 0x80)
        at--;
    pw_utf8_get(s + at, end - at, &cp);
    return cp;
}

static bool stands_alone(const struct tok_view *v, size_t start, size_t end)
{
    uint32_t cp;
    if (start > 0 && pw_cp_word(char_before(v->s, start)))
        return false;
    return end == v->n || (pw_utf8_get(v->s + end, v->n - end, &cp), !pw_cp_word(cp));
}

static int plain(const struct pw_tokenizer *t, const struct tok_view *v, bool raw, unsigned flags, struct pw_tokens *out);

/* Cuts the tokens of one trie out of v; what lies between goes on. raw: the first of the two passes. */
static int cut(const struct pw_tokenizer *t, const struct tok_view *v, bool raw, unsigned flags, struct pw_tokens *out)
{
    const struct tok_trie *trie = raw ? &t->raw : &t->normal;
    size_t done = 0, at = 0;
    while (trie->n && at < v->n) {
        size_t len, start, stop;
        uint32_t cp;
        int32_t found = trie->first[(unsigned char)v->s[at]] < 0 ? -1 : tok_trie_longest(trie, v->s + at, v->n - at, &len);
        if (found < 0) {
            at++;
            continue;
        }
        const struct tok_added *a = &t->added[found];
        start = at;
        stop = at + len;
        at = stop;
        if ((a->special && !(flags & PW_TOK_PARSE_SPECIAL)) || (a->single_word && !stands_alone(v, start, stop)))
            continue;
        while (a->lstrip && start > done && pw_cp_space(cp = char_before(v->s, start)))
            start -= cp < 0x80 ? 1 : cp < 0x800 ? 2 : 3;
        while (a->rstrip && stop < v->n && (len = pw_utf8_get(v->s + stop, v->n - stop, &cp), pw_cp_space(cp)))
            stop += len;
        if (start > done) {
            struct tok_view part = tok_slice(v, done, start);
            PW_PASS(plain(t, &part, raw, flags, out));
        }
        PW_PASS(tok_push(out, a->id, tok_start(v, start), tok_end(v, stop - 1)));
        done = at = stop;
    }
    if (done == v->n)
        return 0;
    struct tok_view rest = tok_slice(v, done, v->n);
    return plain(t, &rest, raw, flags, out);
}

static int plain(const struct pw_tokenizer *t, const struct tok_view *v, bool raw, unsigned flags, struct pw_tokens *out)
{
    struct tok_view normal;
    if (!raw)
        return tok_split(t, 0, v, false, out);
    PW_PASS(tok_normalize(t, out->work, v, &normal));
    return cut(t, &normal, false, flags, out);
}

/* Byte-level post-processing: offsets without the spaces that pieces begin and end with. */
static void trim(const struct pw_tokenizer *t, const struct tok_post *post, struct pw_tokens *out)
{
    for (size_t i = 0; i < out->n; i++) {
        size_t len, lead = 0, trail = 0;
        const char *p = tok_vocab_piece(&t->vocab, out->ids[i], &len);
        if (out->start[i] < 0 || !p)
            continue;
        for (size_t at = 0, k; at < len; at += k, lead++) {
            uint32_t cp;
            k = pw_utf8_get(p + at, len - at, &cp);
            if (cp != tok_byte_char(' ') && !pw_cp_space(cp))
                break;
        }
        for (size_t at = len; at > 0; trail++) {
            uint32_t cp = char_before(p, at);
            if (cp != tok_byte_char(' ') && !pw_cp_space(cp))
                break;
            for (at--; at > 0 && ((unsigned char)p[at] & 0xC0) == 0x80;)
                at--;
        }
        if (lead && post->prefix_space && (i == 0 || out->start[i] == 0))
            lead--;
        out->start[i] = out->start[i] + (int64_t)lead < out->end[i] ? out->start[i] + (int64_t)lead : out->end[i];
        if (out->end[i] >= (int64_t)trail)
            out->end[i] = out->end[i] - (int64_t)trail > out->start[i] ? out->end[i] - (int64_t)trail : out->start[i];
    }
}

static int wrap(const struct tok_post *post, struct pw_tokens *out)
{
    size_t n = out->n;
    if (post->n_before + post->n_after == 0)
        return 0;
    for (size_t i = 0; i < post->n_before + post->n_after; i++)
        PW_PASS(tok_push(out, post->n_after && i >= post->n_before ? post->after[i - post->n_before] : -1, -1, -1));
    memmove(out->ids + post->n_before, out->ids, n * sizeof *out->ids);
    memmove(out->start + post->n_before, out->start, n * sizeof *out->start);
    memmove(out->end + post->n_before, out->end, n * sizeof *out->end);
    for (size_t i = 0; i < post->n_before; i++) {
        out->ids[i] = post->before[i];
        out->start[i] = out->end[i] = -1;
    }
    for (size_t i = 0; i < post->n_after; i++) {
        out->ids[post->n_before + n + i] = post->after[i];
        out->start[post->n_before + n + i] = out->end[post->n_before + n + i] = -1;
    }
    return 0;
}

int pw_tokenizer_encode(const struct pw_tokenizer *t, const char *text, size_t bytes, unsigned flags, struct pw_tokens *out)
{
    struct tok_view v = { bytes ? text : "", bytes, NULL, NULL, 0 };
    size_t good = bytes ? pw_utf8_check(text, bytes) : 0;
    out->n = 0;
    PW_CHECK(good == bytes, PW_E_FORMAT, "text: byte %zu (0x%02x) is not UTF-8", good, (unsigned char)text[good]);
    PW_CHECK(bytes < UINT32_MAX / 2, PW_E_UNSUPPORTED, "text of %zu bytes (limit 2 GiB)", bytes);
    if (!out->work) {
        int rc = tok_work_open(&out->work);
        if (rc < 0) {
            pw_tokens_free(out);
            return rc;
        }
    }
    if (out->work->serial != t->serial) {
        memset(out->work->cache, 0, TOK_CACHE_SLOTS * sizeof *out->work->cache);
        out->work->serial = t->serial;
    }
    if (bytes)
        PW_PASS(cut(t, &v, true, flags, out));
    for (size_t i = 0; i < t->n_post; i++) {
        if (t->post[i].kind == POST_TRIM)
            trim(t, &t->post[i], out);
        else if (flags & PW_TOK_SPECIAL)
            PW_PASS(wrap(&t->post[i], out));
    }
    return 0;
}
