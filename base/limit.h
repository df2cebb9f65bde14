/* A limit on memory that a user gave (--memory), against a plan: what is there and what will be taken, part by part, before anything is taken.
 * Whoever will take memory says how much; this file adds up, and words the refusal. */
#ifndef PW_BASE_LIMIT_H
#define PW_BASE_LIMIT_H

#include <stddef.h>
#include <stdint.h>

struct pw_limit_part { const char *name; size_t bytes; };
/* PW_E_REFUSED with the parts, their sum and the least that would do, when they are more than limit; 0 without a limit (0). way_out: what else would help, NULL: nothing. */
int pw_limit_check(uint64_t limit, const struct pw_limit_part *parts, int n, const char *way_out);
#endif
