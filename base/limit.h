/* A limit on memory that a user gave (--memory): held against a plan, or kept while the work goes on.
 *
 * Against a plan: what is there and what will be taken, part by part, before anything is taken. Whoever will take memory says how
 * much; this file adds up, and words the refusal.
 *
 * Kept: for work whose memory nobody can say beforehand. From pw_limit_keep on, pw_alloc counts what it takes, and libraries with an
 * allocator of their own are counted through pw_limit_take; what would go beyond the limit fails as one for which there is no
 * memory. In use is the larger of
 *   what the process had, with a reserve for what is not counted, and what was counted since;
 *   what the kernel says is resident: it is asked each MiB, and before anything is refused, so that memory of other libraries and
 *   holes in the heap count too, and what was given back counts no more.
 * Without a limit nothing is counted. */
#ifndef PW_BASE_LIMIT_H
#define PW_BASE_LIMIT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pw_limit_part { const char *name; size_t bytes; };
/* PW_E_REFUSED with the parts, their sum and the least that would do, when they are more than limit; 0 without a limit (0). way_out: what else would help, NULL: nothing. */
int pw_limit_check(uint64_t limit, const struct pw_limit_part *parts, int n, const char *way_out);

/* From here on this process stays below so many bytes. PW_E_REFUSED, and nothing kept, when it has more already. 0: no limit, nothing is counted any more.
 * Call it while no other thread allocates. */
int pw_limit_keep(uint64_t bytes);
extern atomic_bool pw_limit_kept;              /* is there one? */
/* Before memory is taken. False: it would go beyond the limit, nothing was counted, and pw_limit_reason knows of it. True without a limit. */
bool pw_limit_take(size_t bytes);
void pw_limit_count(int64_t bytes);            /* more (or less, when negative) than was said, without being asked: what a block really took, what is freed */
int64_t pw_limit_counted(void);                /* since the limit was set; below 0 when more was freed of what was there before */
size_t pw_limit_room(void);                    /* what may still be taken; SIZE_MAX without a limit */
/* Says why there was no memory: when rc is PW_E_NOMEM and the limit refused something, the trail gets the limit as its reason and a hint, and the result is
 * PW_E_REFUSED, or PW_E_FAIL when results had begun to go out. Any other rc is passed on. */
int pw_limit_reason(int rc, bool begun);
#endif
