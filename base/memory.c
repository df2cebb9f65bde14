/* Allocation with a hook for tests, arenas, and the kernel's view of this process.
 *
 * Every block carries nothing in front of it: pw_realloc is told the old size by its caller. Fault counting is atomic, so that
 * a sweep over threaded code counts right; which thread meets the failing allocation is then up to the scheduler.
 * This file refuses to know what the memory is for. */
#include "base/memory.h"

#include <fcntl.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/limit.h"

enum { ALIGN = 64, FIRST_CHUNK = 16 << 10, LARGEST_CHUNK = 16 << 20 };

/* ---- sizes ---- */
bool pw_mul_size(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

bool pw_add_size(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_add_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

bool pw_mul_i64(int64_t a, int64_t b, int64_t *out)
{
    int64_t r;
    if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

/* ---- allocation ---- */
static atomic_llong fault_seen, fault_at;
static atomic_bool fault_forever;

void pw_fault_set(int64_t n, bool forever)
{
    atomic_store(&fault_at, n);
    atomic_store(&fault_forever, forever);
    atomic_store(&fault_seen, 0);
}

int64_t pw_fault_count(void) { return atomic_load(&fault_seen); }

static bool fault_due(void)
{
    long long seen = atomic_fetch_add_explicit(&fault_seen, 1, memory_order_relaxed) + 1;
    long long at = atomic_load_explicit(&fault_at, memory_order_relaxed);
    return at > 0 && (seen == at || (seen > at && atomic_load_explicit(&fault_forever, memory_order_relaxed)));
}

/* What a block takes of the heap: the next one begins at a multiple of ALIGN behind it and the heap's own word. */
static size_t with_heap(size_t bytes) { return (bytes + sizeof(size_t) + ALIGN - 1) / ALIGN * ALIGN; }

void *pw_alloc(size_t bytes)
{
    if (fault_due() || bytes > PTRDIFF_MAX) return NULL;
    const bool kept = atomic_load_explicit(&pw_limit_kept, memory_order_relaxed);
    const size_t asked = with_heap(bytes ? bytes : 1);
    void *p = NULL;
    if (kept && !pw_limit_take(asked)) return NULL;
    if (posix_memalign(&p, ALIGN, bytes ? bytes : 1) != 0) p = NULL;
    if (kept) pw_limit_count((p ? (int64_t)with_heap(malloc_usable_size(p)) : 0) - (int64_t)asked);
    return p;
}

void *pw_alloc_zero(size_t n, size_t size)
{
    size_t bytes;
    if (!pw_mul_size(n, size, &bytes)) return NULL;
    void *p = pw_alloc(bytes);
    if (p) memset(p, 0, bytes);
    return p;
}

void *pw_alloc_pages(size_t bytes, int threads)
{
    const size_t piece = (size_t)2 << 20;
    char *p = pw_alloc(bytes);
    if (!p) return NULL;
#pragma omp parallel for schedule(static) num_threads(threads) if (bytes >= 4 * piece)
    for (size_t at = 0; at < bytes; at += piece) memset(p + at, 0, bytes - at < piece ? bytes - at : piece);
    return p;
}

void *pw_realloc(void *p, size_t old_bytes, size_t bytes)
{
    void *q = pw_alloc(bytes);
    if (!q) return NULL;
    if (p) {
        size_t keep = old_bytes < bytes ? old_bytes : bytes;
        if (keep) memcpy(q, p, keep);
        pw_free(p);
    }
    return q;
}

char *pw_strndup(const char *s, size_t n)
{
    n = strnlen(s, n);
    size_t bytes;
    char *p = pw_add_size(n, 1, &bytes) ? pw_alloc(bytes) : NULL;
    if (!p) return NULL;
    memcpy(p, s, n);
    p[n] = 0;
    return p;
}

char *pw_strdup(const char *s) { return pw_strndup(s, strlen(s)); }

void pw_free(void *p)
{
    if (p && atomic_load_explicit(&pw_limit_kept, memory_order_relaxed)) pw_limit_count(-(int64_t)with_heap(malloc_usable_size(p)));
    free(p);
}

/* ---- arenas ---- */
struct pw_arena_chunk {
    struct pw_arena_chunk *before;
    size_t bytes, used; /* of data */
    const char *name;   /* fixed arenas; the caller's text, which outlives the arena */
    _Alignas(ALIGN) unsigned char data[];
};

int pw_arena_init(struct pw_arena *a)
{
    *a = (struct pw_arena){ .chunk_bytes = FIRST_CHUNK };
    return 0;
}

static struct pw_arena_chunk *chunk_make(struct pw_arena *a, size_t bytes)
{
    size_t whole;
    struct pw_arena_chunk *c = pw_add_size(bytes, sizeof *c, &whole) ? pw_alloc(whole) : NULL;
    if (!c) return NULL;
    *c = (struct pw_arena_chunk){ .before = a->last, .bytes = bytes };
    a->last = c;
    a->reserved += whole;
    return c;
}

int pw_arena_init_fixed(struct pw_arena *a, size_t bytes, const char *name)
{
    *a = (struct pw_arena){ 0 };
    struct pw_arena_chunk *c = bytes <= PTRDIFF_MAX - ALIGN ? chunk_make(a, (bytes + ALIGN - 1) / ALIGN * ALIGN) : NULL;
    PW_CHECK(c, PW_E_NOMEM, "out of memory: %s asks for %zu bytes", name, bytes);
    c->name = name;
    return 0;
}

void *pw_arena_alloc(struct pw_arena *a, size_t bytes)
{
    struct pw_arena_chunk *c = a->last;
    if (bytes > PTRDIFF_MAX - ALIGN) {
        pw_error(PW_E_NOMEM, "out of memory: %zu bytes asked for at once", bytes);
        return NULL;
    }
    size_t need = (bytes ? bytes + ALIGN - 1 : ALIGN) / ALIGN * ALIGN; /* empty pieces have addresses of their own */
    if (!c || need > c->bytes - c->used) {
        if (c && c->name) {
            pw_error(PW_E_NOMEM, "%s: %zu bytes asked for, %zu of %zu left", c->name, need, c->bytes - c->used, c->bytes);
            return NULL;
        }
        if (a->chunk_bytes == 0) a->chunk_bytes = FIRST_CHUNK; /* a zeroed arena grows */
        size_t size = need > a->chunk_bytes ? need : a->chunk_bytes;
        c = chunk_make(a, size);
        if (!c) {
            pw_error(PW_E_NOMEM, "out of memory: %zu bytes asked for beside %zu", size, a->reserved);
            return NULL;
        }
        if (a->chunk_bytes < LARGEST_CHUNK) a->chunk_bytes *= 2;
    }
    void *p = c->data + c->used;
    c->used += need;
    a->used += need;
    return memset(p, 0, need);
}

void *pw_arena_array(struct pw_arena *a, size_t n, size_t size)
{
    size_t bytes;
    if (!pw_mul_size(n, size, &bytes)) {
        pw_error(PW_E_NOMEM, "out of memory: %zu items of %zu bytes asked for", n, size);
        return NULL;
    }
    return pw_arena_alloc(a, bytes);
}

char *pw_arena_strndup(struct pw_arena *a, const char *s, size_t n)
{
    size_t bytes;
    if (!pw_add_size(n, 1, &bytes)) bytes = SIZE_MAX;
    char *p = pw_arena_alloc(a, bytes); /* cleared, so NUL-terminated */
    if (p && n) memcpy(p, s, n);
    return p;
}

char *pw_arena_printf(struct pw_arena *a, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *p = n < 0 ? NULL : pw_arena_alloc(a, (size_t)n + 1);
    if (n < 0) pw_error(PW_E_FAIL, "text cannot be formatted: %s", fmt);
    if (p) vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    return p;
}

void pw_arena_reset(struct pw_arena *a)
{
    struct pw_arena_chunk *c = a->last; /* the newest, which is the largest or nearly so */
    if (!c) return;
    while (c->before) {
        struct pw_arena_chunk *old = c->before;
        c->before = old->before;
        a->reserved -= old->bytes + sizeof *old;
        pw_free(old);
    }
    c->used = 0;
    a->used = 0;
}

void pw_arena_free(struct pw_arena *a)
{
    for (struct pw_arena_chunk *c = a->last, *before; c; c = before) {
        before = c->before;
        pw_free(c);
    }
    size_t chunk = a->chunk_bytes ? FIRST_CHUNK : 0;
    *a = (struct pw_arena){ .chunk_bytes = chunk };
}

/* ---- the kernel's numbers ---- */

/* The number behind "Key:" in a /proc file that counts in kB; 0 when it is not there. */
static size_t proc_bytes(const char *path, const char *key)
{
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    char line[256];
    size_t n = strlen(key), bytes = 0;
    while (fgets(line, sizeof line, f))
        if (strncmp(line, key, n) == 0 && line[n] == ':') {
            bytes = (size_t)strtoull(line + n + 1, NULL, 10) * 1024;
            break;
        }
    fclose(f);
    return bytes;
}

size_t pw_peak_rss_bytes(void) { return proc_bytes("/proc/self/status", "VmHWM"); }

/* A limit that is kept asks this often: one short file, and no stdio. */
size_t pw_rss_bytes(void)
{
    char text[128];
    unsigned long long resident = 0;
    const int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
    if (fd >= 0) close(fd);
    text[n > 0 ? n : 0] = 0;
    return n > 0 && sscanf(text, "%*u %llu", &resident) == 1 ? (size_t)resident * (size_t)sysconf(_SC_PAGESIZE) : 0;
}

size_t pw_rss_anon_bytes(void) { return proc_bytes("/proc/self/status", "RssAnon"); }
size_t pw_memory_available(void) { return proc_bytes("/proc/meminfo", "MemAvailable"); }

double pw_process_seconds(void)
{
    char text[1024];
    FILE *f = fopen("/proc/self/stat", "re");
    const size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f) fclose(f);
    text[n] = 0;
    const char *at = strrchr(text, ')'); /* the name before it may hold anything */
    unsigned long long ticks = 0;
    struct timespec now;
    const long rate = sysconf(_SC_CLK_TCK);
    if (!at || rate <= 0 || sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &ticks) != 1 || clock_gettime(CLOCK_BOOTTIME, &now) != 0)
        return 0;
    const double since = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec - (double)ticks / (double)rate;
    return since > 0 ? since : 0;
}

void pw_memory_trim(void) { (void)malloc_trim(0); }

void pw_memory_ahead(const void *mapped, size_t bytes)
{
    const uintptr_t page = 4096, at = (uintptr_t)mapped & ~(page - 1);
    if (mapped && bytes)
        (void)madvise((void *)at, (uintptr_t)mapped + bytes - at, MADV_WILLNEED);   /* advice: what comes of it does not matter */
}
