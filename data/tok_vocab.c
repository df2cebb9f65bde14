/* Vocabulary (piece <-> id) and pair tables, both open-addressing hashes; the byte-level alphabet of GPT-2. */
#include <string.h>

#include "base/error.h"
#include "data/tok_parts.h"

static size_t table_size(size_t n)
{
    size_t size = 16;
    while (size < 2 * n + 2)
        size *= 2;
    return size;
}

static size_t hash_bytes(const char *s, size_t n)
{
    uint64_t h = 1469598103934665603u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * 1099511628211u;
    return (size_t)(h ^ h >> 29);
}

int tok_vocab_open(struct tok_vocab *v, size_t ids)
{
    size_t slots = table_size(ids);
    *v = (struct tok_vocab){ .n = ids, .mask = slots - 1 };
    v->at = pw_alloc_zero(ids ? ids : 1, sizeof *v->at);
    v->len = pw_alloc_zero(ids ? ids : 1, sizeof *v->len);
    v->slots = pw_alloc_zero(slots, sizeof *v->slots);
    if (!v->at || !v->len || !v->slots) {
        tok_vocab_free(v);
        return pw_error(PW_E_NOMEM, "no memory for a vocabulary of %zu pieces", ids);
    }
    memset(v->at, 0xFF, ids * sizeof *v->at);
    memset(v->slots, 0xFF, slots * sizeof *v->slots);
    return 0;
}

static size_t slot_of(const struct tok_vocab *v, const char *s, size_t len)
{
    size_t i = hash_bytes(s, len) & v->mask;
    while (v->slots[i] >= 0) {
        int32_t id = v->slots[i];
        if (v->len[id] == len && memcmp(v->text.data + v->at[id], s, len) == 0)
            break;
        i = (i + 1) & v->mask;
    }
    return i;
}

int tok_vocab_add(struct tok_vocab *v, int64_t id, const char *s, size_t len, const char *where)
{
    PW_CHECK(id >= 0 && (uint64_t)id < v->n, PW_E_FORMAT, "%s: id %lld of piece \"%.*s\" is out of range (0 to %zu)", where, (long long)id,
             len > 80 ? 80 : (int)len, s, v->n ? v->n - 1 : 0);
    PW_CHECK(v->at[id] == (size_t)-1, PW_E_FORMAT, "%s: id %lld is given twice (\"%s\" and \"%.*s\")", where, (long long)id, v->text.data + v->at[id],
             len > 80 ? 80 : (int)len, s);
    PW_CHECK(len <= 1 << 20, PW_E_FORMAT, "%s: piece of id %lld has %zu bytes (limit 1 MiB)", where, (long long)id, len);
    size_t slot = slot_of(v, s, len);
    PW_CHECK(v->slots[slot] < 0, PW_E_FORMAT, "%s: piece \"%.*s\" is given twice (ids %d and %lld)", where, len > 80 ? 80 : (int)len, s,
             (int)v->slots[slot], (long long)id);
    v->at[id] = v->text.len;
    v->len[id] = (uint32_t)len;
    v->slots[slot] = (int32_t)id;
    pw_buf_add(&v->text, s, len);
    pw_buf_char(&v->text, 0);
    return pw_buf_status(&v->text);
}

int32_t tok_vocab_find(const struct tok_vocab *v, const char *s, size_t len)
{
    return v->n ? v->slots[slot_of(v, s, len)] : -1;
}

const char *tok_vocab_piece(const struct tok_vocab *v, int32_t id, size_t *len)
{
    if (id < 0 || (size_t)id >= v->n || v->at[id] == (size_t)-1)
        return NULL;
    if (len)
        *len = v->len[id];
    return v->text.data + v->at[id];
}

void tok_vocab_free(struct tok_vocab *v)
{
    pw_buf_free(&v->text);
    pw_free(v->at);
    pw_free(v->len);
    pw_free(v->slots);
    *v = (struct tok_vocab){ 0 };
}

int tok_pairs_open(struct tok_pairs *p, size_t expected)
{
    size_t slots = table_size(expected);
    *p = (struct tok_pairs){ .mask = slots - 1 };
    p->keys = pw_alloc_zero(slots, sizeof *p->keys);
    p->rank = pw_alloc_zero(slots, sizeof *p->rank);
    p->id = pw_alloc_zero(slots, sizeof *p->id);
    if (!p->keys || !p->rank || !p->id) {
        tok_pairs_free(p);
        return pw_error(PW_E_NOMEM, "no memory for %zu merges", expected);
    }
    memset(p->keys, 0xFF, slots * sizeof *p->keys);
    return 0;
}

bool tok_pairs_put(struct tok_pairs *p, int32_t left, int32_t right, uint32_t rank, int32_t id)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t i = tok_pair_hash(key) & p->mask;
    while (p->keys[i] != UINT64_MAX) {
        if (p->keys[i] == key)
            return false;
        i = (i + 1) & p->mask;
    }
    p->keys[i] = key;
    p->rank[i] = rank;
    p->id[i] = id;
    p->n++;
    return true;
}

int tok_pairs_put_growing(struct tok_pairs *p, int32_t left, int32_t right, uint32_t rank, int32_t id)
{
    if (2 * (p->n + 1) > p->mask) {
        struct tok_pairs bigger;
        PW_PASS(tok_pairs_open(&bigger, 2 * p->n + 16));
        for (size_t i = 0; i <= p->mask; i++)
            if (p->keys[i] != UINT64_MAX)
                tok_pairs_put(&bigger, (int32_t)(p->keys[i] >> 32), (int32_t)(p->keys[i] & 0xFFFFFFFFu), p->rank[i], p->id[i]);
        tok_pairs_free(p);
        *p = bigger;
    }
    tok_pairs_put(p, left, right, rank, id);
    return 0;
}

void tok_pairs_free(struct tok_pairs *p)
{
    pw_free(p->keys);
    pw_free(p->rank);
    pw_free(p->id);
    *p = (struct tok_pairs){ 0 };
}

/* Printable Latin-1 stands for itself; the other 68 bytes follow from U+0100 on, in order. */
static bool stands_for_itself(unsigned b) { return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE; }

uint32_t tok_byte_char(unsigned char b)
{
    if (stands_for_itself(b))
        return b;
    if (b <= 0x20)
        return 0x100u + b;
    return b == 0xAD ? 0x143u : 0x121u + (b - 0x7Fu);
}

int tok_char_byte(uint32_t cp)
{
    if (cp < 0x100)
        return stands_for_itself(cp) ? (int)cp : -1;
    if (cp <= 0x120)
        return (int)(cp - 0x100);
    if (cp <= 0x142)
        return (int)(cp - 0x121 + 0x7F);
    return cp == 0x143 ? 0xAD : -1;
}
