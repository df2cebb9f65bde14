/* Memory: checked sizes, allocation that can be made to fail on purpose, arenas, and what the process uses.
 *
 * Every allocation of the project goes through pw_alloc, so that tests can fail the Nth one (pw_fault_set) and a limit can be kept (limit.h).
 * An arena owns what is taken from it; single pieces are never freed. Growing arenas serve parsers and models,
 * fixed arenas serve training, whose size was planned beforehand: asking a fixed arena for more than it has is an error. */
#ifndef PW_BASE_MEMORY_H
#define PW_BASE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
/* Checked arithmetic on untrusted sizes: false (and *out untouched) on overflow. */
bool pw_mul_size(size_t a, size_t b, size_t *out);
bool pw_add_size(size_t a, size_t b, size_t *out);
bool pw_mul_i64(int64_t a, int64_t b, int64_t *out); /* false for negative factors too */

void *pw_alloc(size_t bytes);              /* 64-byte aligned, not cleared; NULL when there is none */
void *pw_alloc_zero(size_t n, size_t size);/* cleared; n*size checked */
/* Zeros, for much memory that is used at once: its pages are there when this returns, brought in by so many threads. */
void *pw_alloc_pages(size_t bytes, int threads);
void *pw_realloc(void *p, size_t old_bytes, size_t bytes); /* keeps min(old, new) bytes; p is untouched on failure */
char *pw_strdup(const char *s);
char *pw_strndup(const char *s, size_t n);
void pw_free(void *p);                     /* NULL is fine */

/* Fault injection for tests: the n-th allocation from now (1 = the next) and, if `forever`, all later ones return NULL.
 * n = 0 turns it off. pw_fault_count() = allocations since the last pw_fault_set. */
void pw_fault_set(int64_t n, bool forever);
int64_t pw_fault_count(void);

struct pw_arena_chunk;
struct pw_arena {
    struct pw_arena_chunk *last;
    size_t chunk_bytes;  /* size of the next chunk; 0 = fixed */
    size_t used;         /* bytes handed out, alignment included */
    size_t reserved;     /* bytes taken from the system */
};
int pw_arena_init(struct pw_arena *a);                     /* growing; takes nothing yet; cannot fail */
int pw_arena_init_fixed(struct pw_arena *a, size_t bytes, const char *name); /* name appears in the error */
void *pw_arena_alloc(struct pw_arena *a, size_t bytes);    /* 64-byte aligned, cleared; NULL + trail when full */
void *pw_arena_array(struct pw_arena *a, size_t n, size_t size); /* checked n*size */
char *pw_arena_strndup(struct pw_arena *a, const char *s, size_t n);
char *pw_arena_printf(struct pw_arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void pw_arena_reset(struct pw_arena *a);                   /* keeps one chunk, forgets the contents */
void pw_arena_free(struct pw_arena *a);                    /* fine on a zeroed or freed arena */

size_t pw_peak_rss_bytes(void);   /* high-water mark of resident memory of this process, from the kernel; 0 if unknown */
size_t pw_rss_bytes(void);        /* resident now */
size_t pw_rss_anon_bytes(void);   /* resident now, without file-backed pages */
double pw_process_seconds(void);  /* since this process began, loading of its libraries included, to a hundredth; 0 if unknown */
size_t pw_memory_available(void); /* what the kernel says could still be taken */
void pw_memory_trim(void);        /* what lies free in the heap goes back to the system: between two pieces of work that are planned one by one */
void pw_memory_ahead(const void *mapped, size_t bytes); /* these bytes of a mapped file will be read soon; NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
