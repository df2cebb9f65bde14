/* Byte-pair encoding of one word: characters (or bytes) to symbols, then merges in order of rank, leftmost first.
 *
 * Short words scan for the best pair; long ones use a heap over a linked list, O(n log n). Without a pre-tokenizer a
 * whole document is one word: it is then cut wherever no merge can join the two characters, which cannot change the
 * result, so that the cache of words works there too. */
#include <string.h>

#include "base/error.h"
#include "data/tok_parts.h"

enum { SHORT_WORD = 40 };

int tok_grow(void **p, size_t *cap, size_t need, size_t size)
{
    size_t bytes, new_cap = *cap ? *cap : 64;
    if (need <= *cap)
        return 0;
    while (new_cap < need)
        PW_CHECK(pw_mul_size(new_cap, 2, &new_cap), PW_E_NOMEM, "no memory for tokenizing");
    PW_CHECK(pw_mul_size(new_cap, size, &bytes), PW_E_NOMEM, "no memory for tokenizing");
    void *bigger = pw_realloc(*p, *cap * size, bytes);
    PW_CHECK(bigger, PW_E_NOMEM, "no memory for tokenizing (%zu bytes)", bytes);
    *p = bigger;
    *cap = new_cap;
    return 0;
}

int tok_push(struct pw_tokens *out, int32_t id, int64_t start, int64_t end)
{
    if (out->n == out->cap) {
        size_t a = out->cap, b = out->cap, c = out->cap;
        PW_PASS(tok_grow((void **)&out->ids, &a, out->n + 1, sizeof *out->ids));
        PW_PASS(tok_grow((void **)&out->start, &b, out->n + 1, sizeof *out->start));
        PW_PASS(tok_grow((void **)&out->end, &c, out->n + 1, sizeof *out->end));
        out->cap = a;
    }
    out->ids[out->n] = id;
    out->start[out->n] = start;
    out->end[out->n++] = end;
    return 0;
}

static int32_t char_lookup(const struct pw_tokenizer *t, const char *s, size_t len)
{
    int32_t id = t->hidden.n ? tok_vocab_find(&t->hidden, s, len) : -1;
    if (id >= 0)
        return (int32_t)t->vocab.n + id;
    id = tok_vocab_find(&t->vocab, s, len);
    return id >= t->model_vocab || (t->types && id >= 0 && t->types[id] == PW_PIECE_UNKNOWN) ? -1 : id;
}

static int32_t char_id(const struct pw_tokenizer *t, const char *s, size_t len, uint32_t cp)
{
    return cp < TOK_DIRECT ? t->direct[cp] : char_lookup(t, s, len);
}

/* The ids of the characters on both sides of each merge's seam, found by the piece's text. */
static int join_chars(struct pw_tokenizer *t)
{
    t->cut_chars = !t->ignore_merges && t->hidden.n == 0;
    if (t->hidden.n)
        return 0;
    PW_PASS(tok_pairs_open(&t->joins, 1024));
    for (size_t i = 0; i <= t->merges.mask; i++) {
        size_t ln, rn, last, first;
        uint32_t a, b;
        if (t->merges.keys[i] == UINT64_MAX)
            continue;
        int32_t left = (int32_t)(t->merges.keys[i] >> 32), right = (int32_t)(t->merges.keys[i] & 0xFFFFFFFFu);
        const char *l = tok_vocab_piece(&t->vocab, left, &ln), *r = tok_vocab_piece(&t->vocab, right, &rn);
        if (!l || !r || ln == 0 || rn == 0 || left == t->model_unk || right == t->model_unk ||
            (t->byte_fallback && (strncmp(l, "<0x", 3) == 0 || strncmp(r, "<0x", 3) == 0))) {
            t->cut_chars = false; /* a symbol that is not its own text */
            continue;
        }
        for (last = ln - 1; last > 0 && ((unsigned char)l[last] & 0xC0) == 0x80;)
            last--;
        pw_utf8_get(l + last, ln - last, &a);
        first = pw_utf8_get(r, rn, &b);
        PW_PASS(tok_pairs_put_growing(&t->joins, char_id(t, l + last, ln - last, a), char_id(t, r, first, b), 0, 0));
    }
    return 0;
}

int tok_emit(const struct pw_tokenizer *t, const struct tok_view *v, int32_t id, size_t start, size_t len, struct pw_tokens *out)
{
    const char *s = v->s + start;
    if (id >= (int32_t)t->vocab.n) { /* a character that met none of its neighbours */
        id = tok_vocab_find(&t->vocab, s, len);
        if (id >= 0 && t->types && t->types[id] == PW_PIECE_UNKNOWN)
            id = -1;
    } else if (id == t->model_unk) {
        id = -1;
    }
    if (id >= 0)
        return tok_push(out, id, tok_start(v, start), tok_end(v, start + len - 1));
    if (t->byte_fallback) {
        bool all = true;
        for (size_t i = 0; i < len; i++)
            all = all && t->byte_id[(unsigned char)s[i]] >= 0;
        for (size_t i = 0; all && i < len; i++)
            PW_PASS(tok_push(out, t->byte_id[(unsigned char)s[i]], tok_start(v, start + i), tok_end(v, start + i)));
        if (all)
            return 0;
    }
    PW_CHECK(t->model_unk >= 0, PW_E_FORMAT, "\"%.*s\" is not in the vocabulary, which has no unknown token", len > 40 ? 40 : (int)len, s);
    if (t->fuse_unk && start > 0 && out->n && out->ids[out->n - 1] == t->model_unk) {
        out->end[out->n - 1] = tok_end(v, start + len - 1);
        return 0;
    }
    return tok_push(out, t->model_unk, tok_start(v, start), tok_end(v, start + len - 1));
}

int tok_bpe_ready(struct pw_tokenizer *t)
{
    char text[8];
    for (int b = 0; b < 256; b++) {
        static const char hex[] = "0123456789ABCDEF";
        char name[6] = { '<', '0', 'x', hex[b >> 4], hex[b & 15], '>' };
        t->byte_level_id[b] = tok_vocab_find(&t->vocab, text, pw_utf8_put(tok_byte_char((unsigned char)b), text));
        t->byte_id[b] = tok_vocab_find(&t->vocab, name, 6);
    }
    for (uint32_t cp = 0; cp < TOK_DIRECT; cp++)
        t->direct[cp] = char_lookup(t, text, pw_utf8_put(cp, text));
    return join_chars(t);
}

static int heap_push(struct pw_tok_work *w, const struct tok_pairs *merges, int32_t left, int32_t right, uint32_t pos)
{
    size_t slot = tok_pairs_find(merges, left, right), i = w->n_heap;
    if (slot == (size_t)-1)
        return 0;
    PW_PASS(tok_grow((void **)&w->heap, &w->heap_cap, w->n_heap + 1, sizeof *w->heap));
    struct tok_merge m = { merges->rank[slot], pos, merges->id[slot] };
    w->n_heap++;
    while (i > 0) {
        size_t up = (i - 1) / 2;
        if (w->heap[up].rank < m.rank || (w->heap[up].rank == m.rank && w->heap[up].pos <= m.pos))
            break;
        w->heap[i] = w->heap[up];
        i = up;
    }
    w->heap[i] = m;
    return 0;
}

static struct tok_merge heap_pop(struct pw_tok_work *w)
{
    struct tok_merge top = w->heap[0], m = w->heap[--w->n_heap];
    size_t i = 0;
    for (;;) {
        size_t down = 2 * i + 1;
        if (down >= w->n_heap)
            break;
        if (down + 1 < w->n_heap && (w->heap[down + 1].rank < w->heap[down].rank ||
                                     (w->heap[down + 1].rank == w->heap[down].rank && w->heap[down + 1].pos < w->heap[down].pos)))
            down++;
        if (m.rank < w->heap[down].rank || (m.rank == w->heap[down].rank && m.pos <= w->heap[down].pos))
            break;
        w->heap[i] = w->heap[down];
        i = down;
    }
    if (w->n_heap)
        w->heap[i] = m;
    return top;
}

static int merge_long(const struct pw_tokenizer *t, struct pw_tok_work *w)
{
    struct tok_symbol *s = w->symbols;
    PW_CHECK(w->n_symbols < INT32_MAX, PW_E_UNSUPPORTED, "a word of %zu characters", w->n_symbols);
    w->n_heap = 0;
    for (size_t i = 0; i < w->n_symbols; i++) {
        s[i].prev = (int32_t)i - 1;
        s[i].next = i + 1 < w->n_symbols ? (int32_t)i + 1 : -1;
        if (i + 1 < w->n_symbols)
            PW_PASS(heap_push(w, &t->merges, s[i].id, s[i + 1].id, (uint32_t)i));
    }
    while (w->n_heap) {
        struct tok_merge m = heap_pop(w);
        struct tok_symbol *left = &s[m.pos];
        if (left->len == 0 || left->next < 0)
            continue;
        struct tok_symbol *right = &s[left->next];
        size_t slot = tok_pairs_find(&t->merges, left->id, right->id);
        if (slot == (size_t)-1 || t->merges.id[slot] != m.id)
            continue; /* an older pair at this place */
        left->id = m.id;
        left->len = right->start + right->len - left->start;
        right->len = 0;
        left->next = right->next;
        if (left->next >= 0) {
            s[left->next].prev = (int32_t)m.pos;
            PW_PASS(heap_push(w, &t->merges, left->id, s[left->next].id, m.pos));
        }
        if (left->prev >= 0)
            PW_PASS(heap_push(w, &t->merges, s[left->prev].id, left->id, (uint32_t)left->prev));
    }
    size_t kept = 0;
    for (size_t i = 0; i < w->n_symbols; i++)
        if (s[i].len)
            s[kept++] = s[i];
    w->n_symbols = kept;
    return 0;
}

static void rank_of(const struct tok_pairs *merges, const struct tok_symbol *s, struct tok_merge *m)
{
    size_t slot = tok_pairs_find(merges, s[0].id, s[1].id);
    m->rank = slot == (size_t)-1 ? UINT32_MAX : merges->rank[slot];
    m->id = slot == (size_t)-1 ? -1 : merges->id[slot];
}

static void merge_short(const struct pw_tokenizer *t, struct pw_tok_work *w)
{
    struct tok_merge m[SHORT_WORD];
    struct tok_symbol *s = w->symbols;
    size_t n = w->n_symbols;
    for (size_t i = 0; i + 1 < n; i++)
        rank_of(&t->merges, s + i, &m[i]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (m[i].rank < m[best].rank)
                best = i;
        if (m[best].id < 0)
            break;
        s[best].id = m[best].id;
        s[best].len = s[best + 1].start + s[best + 1].len - s[best].start;
        n--;
        memmove(s + best + 1, s + best + 2, (n - best - 1) * sizeof *s);
        memmove(m + best, m + best + 1, (n - best - 1 < n ? n - best - 1 : 0) * sizeof *m);
        if (best + 1 < n)
            rank_of(&t->merges, s + best, &m[best]);
        if (best > 0)
            rank_of(&t->merges, s + best - 1, &m[best - 1]);
    }
    w->n_symbols = n;
}

static int add_symbol(struct pw_tok_work *w, int32_t id, size_t start, size_t len)
{
    PW_PASS(tok_grow((void **)&w->symbols, &w->symbols_cap, w->n_symbols + 1, sizeof *w->symbols));
    w->symbols[w->n_symbols++] = (struct tok_symbol){ .id = id, .start = (uint32_t)start, .len = (uint32_t)len };
    return 0;
}

/* Characters to symbols. Unknown ones become <0xNN>, else the unknown token (a run of them one token with fuse_unk), else
 * nothing at all: *gaps tells that something was left out. */
static int first_symbols(const struct pw_tokenizer *t, struct pw_tok_work *w, const char *s, size_t n, bool byte_level, bool *gaps)
{
    size_t unk_start = 0, unk_len = 0;
    w->n_symbols = 0;
    for (size_t i = 0, len; i < n; i += len) {
        uint32_t cp;
        int32_t id;
        len = 1;
        if (byte_level) {
            id = t->byte_level_id[(unsigned char)s[i]];
        } else {
            len = pw_utf8_get(s + i, n - i, &cp);
            id = char_id(t, s + i, len, cp);
        }
        if (id >= 0) {
            if (unk_len)
                PW_PASS(add_symbol(w, t->model_unk, unk_start, unk_len));
            unk_len = 0;
            PW_PASS(add_symbol(w, id, i, len));
            continue;
        }
        if (t->byte_fallback && !byte_level) {
            bool all = true;
            for (size_t j = 0; j < len; j++)
                all = all && t->byte_id[(unsigned char)s[i + j]] >= 0;
            if (all) {
                for (size_t j = 0; j < len; j++)
                    PW_PASS(add_symbol(w, t->byte_id[(unsigned char)s[i + j]], i + j, 1));
                continue;
            }
        }
        if (t->model_unk < 0) {
            *gaps = true;
        } else if (unk_len && t->fuse_unk) {
            unk_len += len;
        } else {
            if (unk_len)
                PW_PASS(add_symbol(w, t->model_unk, unk_start, unk_len));
            unk_start = i;
            unk_len = len;
        }
    }
    if (unk_len)
        PW_PASS(add_symbol(w, t->model_unk, unk_start, unk_len));
    return 0;
}

static uint64_t cache_hash(const char *s, size_t n, bool byte_level)
{
    uint64_t h = 0x9E3779B97F4A7C15u ^ n ^ (uint64_t)byte_level << 32, x;
    for (; n >= 8; s += 8, n -= 8) {
        memcpy(&x, s, 8);
        h = (h ^ x) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
    }
    x = 0;
    memcpy(&x, s, n);
    h = (h ^ x) * 0xD6E8FEB86659FD93u;
    return h ^ h >> 32;
}

static int chunk(const struct pw_tokenizer *t, const struct tok_view *v, size_t start, size_t end, bool byte_level, struct pw_tokens *out)
{
    struct pw_tok_work *w = out->work;
    struct tok_cached *slot = NULL;
    const char *s = v->s + start;
    size_t n = end - start;
    bool gaps = false;
    if (n <= TOK_CACHE_KEY) {
        uint64_t hash = cache_hash(s, n, byte_level);
        slot = &w->cache[hash & (TOK_CACHE_SLOTS - 1)];
        if (slot->hash == hash && slot->key_len == n && slot->byte_level == byte_level && memcmp(slot->key, s, n) == 0) {
            size_t at = start;
            for (size_t i = 0; i < slot->n; i++) {
                PW_PASS(tok_push(out, slot->ids[i], tok_start(v, at), tok_end(v, at + slot->len[i] - 1)));
                at += slot->len[i];
            }
            return 0;
        }
        slot->hash = hash;
        slot->key_len = 0; /* not valid until filled below */
    }
    int32_t whole = -1;
    if (t->ignore_merges) {
        struct pw_buf name = { 0 };
        for (size_t i = 0; byte_level && i < n; i++) {
            char c[4];
            pw_buf_add(&name, c, pw_utf8_put(tok_byte_char((unsigned char)s[i]), c));
        }
        whole = byte_level ? tok_vocab_find(&t->vocab, name.data ? name.data : "", name.len) : tok_vocab_find(&t->vocab, s, n);
        int rc = pw_buf_status(&name);
        pw_buf_free(&name);
        PW_PASS(rc);
        if (whole >= t->model_vocab)
            whole = -1;
    }
    w->n_symbols = 0;
    if (whole >= 0)
        PW_PASS(add_symbol(w, whole, 0, n));
    else
        PW_PASS(first_symbols(t, w, s, n, byte_level, &gaps));
    if (w->n_symbols > SHORT_WORD)
        PW_PASS(merge_long(t, w));
    else if (w->n_symbols > 1)
        merge_short(t, w);
    for (size_t i = 0; t->hidden.n && i < w->n_symbols; i++)
        PW_PASS(tok_emit(t, v, w->symbols[i].id, start + w->symbols[i].start, w->symbols[i].len, out));
    if (t->hidden.n)
        return 0;
    for (size_t i = 0; i < w->n_symbols; i++) {
        const struct tok_symbol *y = &w->symbols[i];
        PW_PASS(tok_push(out, y->id, tok_start(v, start + y->start), tok_end(v, start + y->start + y->len - 1)));
    }
    if (slot && !gaps && w->n_symbols <= TOK_CACHE_IDS) {
        size_t at = 0;
        for (size_t i = 0; i < w->n_symbols; i++) {
            if (w->symbols[i].start != at)
                return 0; /* out of order (unknown characters before byte tokens): not kept */
            slot->ids[i] = w->symbols[i].id;
            slot->len[i] = (uint8_t)w->symbols[i].len;
            at += w->symbols[i].len;
        }
        memcpy(slot->key, s, n);
        slot->n = (uint8_t)w->n_symbols;
        slot->byte_level = byte_level;
        slot->key_len = (uint8_t)n;
    }
    return 0;
}

int tok_bpe_word(const struct pw_tokenizer *t, const struct tok_view *v, bool byte_level, struct pw_tokens *out)
{
    size_t begun = 0;
    int32_t before = -1;
    if (v->n == 0)
        return 0;
    if (byte_level || (!t->cut_chars && t->spm.user.n == 0))
        return chunk(t, v, 0, v->n, byte_level, out);
    for (size_t i = 0, len; i < v->n; i += len) {
        uint32_t cp;
        int32_t user = t->spm.user.n ? tok_trie_longest(&t->spm.user, v->s + i, v->n - i, &len) : -1;
        if (user >= 0) { /* never part of a merge */
            if (i > begun)
                PW_PASS(chunk(t, v, begun, i, false, out));
            PW_PASS(tok_push(out, user, tok_start(v, i), tok_end(v, i + len - 1)));
            begun = i + len;
            before = -1;
            continue;
        }
        len = pw_utf8_get(v->s + i, v->n - i, &cp);
        int32_t id = char_id(t, v->s + i, len, cp);
        if (t->cut_chars && i > begun && id >= 0 && before >= 0 && tok_pairs_find(&t->joins, before, id) == (size_t)-1) {
            PW_PASS(chunk(t, v, begun, i, false, out));
            begun = i;
        }
        before = id;
    }
    return begun < v->n ? chunk(t, v, begun, v->n, false, out) : 0;
}
