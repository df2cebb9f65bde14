/* Names to numbers: every distinct byte string gets the next index, 0, 1, 2, ... A hash table that owns copies of its names. */
#ifndef PW_EVAL_NAMES_H
#define PW_EVAL_NAMES_H

#include <stddef.h>
#include <stdint.h>
#include "base/memory.h"

struct pw_name { const char *s; size_t len; uint64_t hash; };
struct pw_names {
    struct pw_arena text;
    struct pw_name *items;
    int64_t n, cap;
    int64_t *slots;     /* index + 1, 0 = free */
    int64_t n_slots;    /* a power of two */
};
/* A zeroed struct is an empty table. */
int pw_names_add(struct pw_names *t, const char *s, size_t len, int64_t *index); /* finds or adds */
int64_t pw_names_find(const struct pw_names *t, const char *s, size_t len);      /* -1 when absent */
void pw_names_free(struct pw_names *t);
#endif
