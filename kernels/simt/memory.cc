/* See memory.h. One list of mappings behind a lock; mprotect flips all of them at the outermost open and close. */
#include "kernels/simt/memory.h"

#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include "base/memory.h"

enum { PAGE = 4096 };
struct piece { piece *next; char *map, *data; size_t bytes; }; /* bytes: of the mapping without its guard page */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static piece *pieces;
static int open_count;

static void protect(const piece *p, int how) { (void)mprotect(p->map, p->bytes, how); }

void *simt_memory_take(size_t bytes)
{
    piece *p = (piece *)pw_alloc_zero(1, sizeof *p);
    size_t rounded = (bytes + 63) & ~(size_t)63;
    if (!p) return NULL;
    if (rounded < bytes || rounded > SIZE_MAX / 2) { pw_free(p); return NULL; }
    p->bytes = (rounded + PAGE - 1) & ~(size_t)(PAGE - 1);
    p->map = (char *)mmap(NULL, p->bytes + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p->map == MAP_FAILED) { pw_free(p); return NULL; }
    p->data = p->map + p->bytes - rounded; /* ends at the guard page */
    pthread_mutex_lock(&lock);
    p->next = pieces;
    pieces = p;
    if (open_count) protect(p, PROT_READ | PROT_WRITE);
    pthread_mutex_unlock(&lock);
    return p->data;
}

void simt_memory_give(void *data)
{
    if (!data) return;
    pthread_mutex_lock(&lock);
    for (piece **at = &pieces; *at; at = &(*at)->next)
        if ((*at)->data == data) {
            piece *p = *at;
            *at = p->next;
            munmap(p->map, p->bytes + PAGE);
            pw_free(p);
            break;
        }
    pthread_mutex_unlock(&lock);
}

/* The lock is not held while `see` runs: pieces come and go on the thread that calls this. */
void simt_memory_each(bool (*see)(void *ctx, char *data, size_t bytes), void *ctx)
{
    for (piece *p = pieces; p; p = p->next)
        if (!see(ctx, p->data, (size_t)(p->map + p->bytes - p->data))) return;
}

size_t simt_memory_taken(void)
{
    size_t sum = 0;
    pthread_mutex_lock(&lock);
    for (piece *p = pieces; p; p = p->next) sum += (size_t)(p->map + p->bytes - p->data);
    pthread_mutex_unlock(&lock);
    return sum;
}

void simt_memory_open(void)
{
    pthread_mutex_lock(&lock);
    if (open_count++ == 0)
        for (piece *p = pieces; p; p = p->next) protect(p, PROT_READ | PROT_WRITE);
    pthread_mutex_unlock(&lock);
}

void simt_memory_close(void)
{
    pthread_mutex_lock(&lock);
    if (--open_count == 0)
        for (piece *p = pieces; p; p = p->next) protect(p, PROT_NONE);
    pthread_mutex_unlock(&lock);
}
