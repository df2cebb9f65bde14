/* Interned names, see names.h: open addressing with linear probing, at most half full. */
#include "eval/names.h"

#include <string.h>
#include "base/error.h"

static uint64_t hash_bytes(const char *s, size_t len)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a, finished with a mix because the low bits choose the slot */
    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)s[i]) * 0x100000001b3u;
    h ^= h >> 32;
    h *= 0x9e3779b97f4a7c15u;
    return h ^ (h >> 29);
}

/* The slot of the name, or the free slot where it belongs. */
static int64_t find_slot(const struct pw_names *t, const char *s, size_t len, uint64_t hash)
{
    int64_t mask = t->n_slots - 1, at = (int64_t)(hash & (uint64_t)mask);
    while (t->slots[at]) {
        const struct pw_name *name = &t->items[t->slots[at] - 1];
        if (name->hash == hash && name->len == len && memcmp(name->s, s, len) == 0)
            break;
        at = (at + 1) & mask;
    }
    return at;
}

static int grow_slots(struct pw_names *t)
{
    int64_t n = t->n_slots ? 2 * t->n_slots : 64;
    int64_t *slots = pw_alloc_zero((size_t)n, sizeof *slots);
    PW_CHECK(slots, PW_E_NOMEM, "no memory for %lld names", (long long)n);
    for (int64_t i = 0; i < t->n; i++) {
        int64_t at = (int64_t)(t->items[i].hash & (uint64_t)(n - 1));
        while (slots[at])
            at = (at + 1) & (n - 1);
        slots[at] = i + 1;
    }
    pw_free(t->slots);
    t->slots = slots;
    t->n_slots = n;
    return 0;
}

int pw_names_add(struct pw_names *t, const char *s, size_t len, int64_t *index)
{
    uint64_t hash = hash_bytes(s, len);
    if (!t->n_slots) {
        PW_PASS(pw_arena_init(&t->text));
        PW_PASS(grow_slots(t));
    }
    int64_t at = find_slot(t, s, len, hash);
    if (t->slots[at]) {
        *index = t->slots[at] - 1;
        return 0;
    }
    if (2 * (t->n + 1) > t->n_slots) {
        PW_PASS(grow_slots(t));
        at = find_slot(t, s, len, hash);
    }
    if (t->n == t->cap) {
        int64_t cap = t->cap ? 2 * t->cap : 32;
        struct pw_name *grown = pw_realloc(t->items, (size_t)t->cap * sizeof *grown, (size_t)cap * sizeof *grown);
        PW_CHECK(grown, PW_E_NOMEM, "no memory for %lld names", (long long)cap);
        t->items = grown;
        t->cap = cap;
    }
    char *copy = pw_arena_strndup(&t->text, s, len);
    if (!copy)
        return PW_E_NOMEM;
    t->items[t->n] = (struct pw_name){ copy, len, hash };
    t->slots[at] = t->n + 1;
    *index = t->n++;
    return 0;
}

int64_t pw_names_find(const struct pw_names *t, const char *s, size_t len)
{
    return t->n_slots ? t->slots[find_slot(t, s, len, hash_bytes(s, len))] - 1 : -1;
}

void pw_names_free(struct pw_names *t)
{
    if (!t)
        return;
    pw_arena_free(&t->text);
    pw_free(t->items);
    pw_free(t->slots);
    memset(t, 0, sizeof *t);
}
