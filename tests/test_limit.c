/* A limit that is kept while the work goes on (base/limit.h): what is counted, where it ends, and what the kernel knows beside it. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"
#include "base/limit.h"
#include "base/memory.h"
#include "base/progress.h"
#include "base/rng.h"
#include "tests/support.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };     /* shadow memory is resident too, and what is freed stays */
#else
enum { SANITIZED = 0 };
#endif
#define MIB ((size_t)1 << 20)

/* A limit that leaves so many bytes; what is resident now is not ours to say. */
static void keep(size_t room)
{
    for (size_t bytes = pw_rss_bytes() + room + 4 * MIB;; bytes += 4096) {
        if (pw_limit_keep(bytes) < 0 || pw_limit_room() < room) continue;
        ck_assert(pw_limit_take(pw_limit_room() - room));
        ck_assert_uint_eq(pw_limit_room(), room);
        return;
    }
}

START_TEST(without_a_limit)
{
    void *p = pw_alloc(1000);
    ck_assert(p && pw_limit_take(SIZE_MAX) && !atomic_load(&pw_limit_kept));
    ck_assert_int_eq(pw_limit_counted(), 0);
    ck_assert_uint_eq(pw_limit_room(), SIZE_MAX);
    ck_ok(pw_limit_keep((uint64_t)1 << 40));
    pw_free(p);                                   /* it was there before: there is more room than at first */
    ck_assert_int_lt(pw_limit_counted(), 0);
    ck_ok(pw_limit_keep(0));
    ck_assert(pw_limit_take(SIZE_MAX));
    ck_assert_int_eq(pw_limit_counted(), 0);
    ck_assert_int_eq(pw_limit_reason(PW_E_NOMEM, false), PW_E_NOMEM);
}
END_TEST

START_TEST(what_the_program_has)
{
    ck_fails(pw_limit_keep(MIB), PW_E_REFUSED, "it does not fit into --memory: planned ");
    ck_assert(strstr(pw_error_hint_text(), "is the least that would do"));
    ck_assert(!atomic_load(&pw_limit_kept) && pw_limit_room() == SIZE_MAX);
    pw_error_clear();
}
END_TEST

/* Whatever was taken, of any size and by any way, after it was freed nothing is counted. */
START_TEST(nothing_is_left)
{
    enum { BLOCKS = 500 };
    void *block[BLOCKS] = { 0 };
    size_t size[BLOCKS] = { 0 };
    struct pw_rng rng = pw_rng_make(3, PW_STREAM_TEST);
    struct pw_arena a;
    keep(512 * MIB);
    const int64_t start = pw_limit_counted();
    for (int i = 0; i < 20000; i++) {
        const int k = (int)(pw_rng_uniform(&rng) * BLOCKS);
        const size_t bytes = (size_t)(1 << (int)(pw_rng_uniform(&rng) * 18)) + (size_t)(pw_rng_uniform(&rng) * 100);
        if (block[k] && i % 3) {
            pw_free(block[k]);
            block[k] = NULL;
        } else {
            block[k] = block[k] ? pw_realloc(block[k], size[k], bytes) : i % 2 ? pw_alloc(bytes) : pw_alloc_zero(bytes, 1);
            size[k] = bytes;
            ck_assert_ptr_nonnull(block[k]);
        }
    }
    size_t held = 0;
    for (int k = 0; k < BLOCKS; k++)
        held += block[k] ? size[k] : 0;
    ck_assert_int_ge(pw_limit_counted() - start, (int64_t)held);
    for (int k = 0; k < BLOCKS; k++) pw_free(block[k]);
    ck_assert_int_eq(pw_limit_counted(), start);
    pw_arena_init(&a);
    for (int i = 0; i < 1000; i++) ck_assert_ptr_nonnull(pw_arena_alloc(&a, 3000));
    ck_assert_int_ge(pw_limit_counted() - start, 3000000);
    pw_arena_reset(&a);
    pw_arena_free(&a);
    char *s = pw_strdup("abc");
    ck_assert_int_gt(pw_limit_counted(), start);
    pw_free(s);
    ck_assert_int_eq(pw_limit_counted(), start);
}
END_TEST

/* The last byte is given, the one behind it is not; a small block takes a whole line of the heap. */
START_TEST(where_it_ends)
{
    static const size_t rooms[] = { 64, 128, 4096, 100 * 1024 };
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) {
        const size_t room = rooms[i];
        keep(room);
        ck_assert(pw_limit_take(room) && !pw_limit_take(1) && pw_limit_room() == 0);
        pw_limit_count(-(int64_t)room);
        ck_assert_ptr_null(pw_alloc(room - sizeof(size_t) + 1));
        ck_assert_uint_eq(pw_limit_room(), room);
        void *p = pw_alloc(room - sizeof(size_t));
        ck_assert_ptr_nonnull(p);
        if (!SANITIZED) ck_assert_uint_eq(pw_limit_room(), 0);
        ck_assert_ptr_null(pw_alloc(room));
        pw_free(p);
        ck_assert_uint_eq(pw_limit_room(), room);
    }
    keep(MIB);
    ck_assert(!pw_limit_take(SIZE_MAX) && !pw_limit_take(SIZE_MAX / 2) && !pw_alloc((size_t)1 << 60));
    ck_assert_uint_eq(pw_limit_room(), MIB);
}
END_TEST

START_TEST(the_reason)
{
    struct pw_arena a;
    keep(MIB);
    pw_error(PW_E_NOMEM, "the system's own");
    ck_assert_int_eq(pw_limit_reason(PW_E_NOMEM, false), PW_E_NOMEM);   /* nothing was refused here */
    pw_arena_init(&a);
    ck_assert_ptr_null(pw_arena_alloc(&a, 2 * MIB));
    pw_error(PW_E_FORMAT, "something else");
    ck_assert_int_eq(pw_limit_reason(PW_E_FORMAT, false), PW_E_FORMAT);
    ck_assert_str_eq(pw_error_text(), "something else");
    pw_error(PW_E_NOMEM, "no memory for 3 ballots");
    ck_fails(pw_limit_reason(PW_E_NOMEM, false), PW_E_REFUSED, "no memory for 3 ballots: it does not fit into --memory: ");
    ck_assert_msg(strstr(pw_error_text(), " in use, 2.00 MiB more wanted, at most ") != NULL, "%s", pw_error_text());
    ck_assert_msg(strstr(pw_error_hint_text(), "would have done for this") != NULL, "%s", pw_error_hint_text());
    ck_assert_int_eq(pw_limit_reason(PW_E_NOMEM, true), PW_E_FAIL);     /* results had begun to go out */
    pw_error_clear();
    ck_assert_int_eq(pw_limit_reason(0, false), 0);
    pw_arena_free(&a);
}
END_TEST

/* While a block grows both are there. */
START_TEST(blocks_that_grow)
{
    keep(5 * MIB);
    char *p = pw_alloc(2 * MIB), *q;
    ck_assert_ptr_nonnull(p);
    memset(p, 7, 2 * MIB);
    ck_assert_ptr_null(pw_realloc(p, 2 * MIB, 4 * MIB));
    ck_assert(p[0] == 7 && p[2 * MIB - 1] == 7);
    ck_assert_ptr_nonnull(q = pw_realloc(p, 2 * MIB, 2 * MIB + MIB / 2));
    ck_assert(q[2 * MIB - 1] == 7);
    pw_free(q);
    ck_assert_uint_eq(pw_limit_room(), 5 * MIB);
}
END_TEST

/* ---- threads: what they hold together is never more than the limit leaves ---- */
enum { THREADS = 4 };
static atomic_llong held, refused, switches;
static atomic_int last;
static size_t thread_room;
static pthread_barrier_t together;

static void *work(void *context)
{
    struct pw_rng rng = pw_rng_make((uint64_t)(uintptr_t)context, PW_STREAM_TEST);
    pthread_barrier_wait(&together);
    for (const double start = pw_seconds(); atomic_load(&switches) < 20000 && pw_seconds() < start + 5;)     /* nothing but the counting, until they met often */
        for (int i = 0; i < 100; i++) {
            if (pw_limit_take(1)) pw_limit_count(-1);
            if (atomic_exchange_explicit(&last, (int)(uintptr_t)context, memory_order_relaxed) != (int)(uintptr_t)context) atomic_fetch_add(&switches, 1);
        }
    for (int i = 0; i < 30000; i++) {
        const size_t bytes = 1 + (size_t)(pw_rng_uniform(&rng) * 100000);
        char *p = pw_alloc(bytes);
        if (!p) {
            atomic_fetch_add(&refused, 1);
            continue;
        }
        if (atomic_fetch_add(&held, (long long)bytes) + (long long)bytes > (long long)thread_room) return "more was held than the limit leaves";
        p[0] = p[bytes - 1] = 1;
        atomic_fetch_sub(&held, (long long)bytes);
        pw_free(p);
    }
    return NULL;
}

START_TEST(threads)
{
    pthread_t t[THREADS];
    thread_room = 200000;
    ck_assert_int_eq(pthread_barrier_init(&together, NULL, THREADS), 0);
    keep(thread_room);
    const int64_t start = pw_limit_counted();
    for (int i = 0; i < THREADS; i++) ck_assert_int_eq(pthread_create(&t[i], NULL, work, (void *)(uintptr_t)(i + 1)), 0);
    for (int i = 0; i < THREADS; i++) {
        void *what = NULL;
        pthread_join(t[i], &what);
        ck_assert_msg(!what, "%s", (char *)what);
    }
    ck_assert_int_eq(pw_limit_counted(), start);
    printf("%lld allocations of %d threads were refused\n", (long long)refused, THREADS);
}
END_TEST

/* ---- what the kernel knows ---- */

/* Memory that a library took for itself is in use too, until it gives it back. */
START_TEST(memory_of_others)
{
    if (SANITIZED || !pw_memory_available()) {
        test_skip("what is resident is not what was taken here");
        return;
    }
    keep(80 * MIB);
    const size_t bytes = 64 * MIB;
    void *other = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert(other != MAP_FAILED);
    memset(other, 1, bytes);
    ck_assert_ptr_null(pw_alloc(32 * MIB));
    munmap(other, bytes);
    void *p = pw_alloc(32 * MIB);
    ck_assert_ptr_nonnull(p);
    pw_free(p);
    /* and the next look is never far away: small pieces find it out too */
    other = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert(other != MAP_FAILED);
    memset(other, 1, bytes);
    size_t got = 0;
    struct pw_arena a;
    pw_arena_init(&a);
    while (got < 80 * MIB && pw_arena_alloc(&a, 1024)) got += 1024;
    ck_assert_msg(got < 30 * MIB, "%zu MiB were given beside 64 of another, of 80", got / MIB);
    pw_arena_free(&a);
    munmap(other, bytes);
}
END_TEST

/* Pages that lie free within the heap go back to the kernel before anything is refused. */
START_TEST(holes_in_the_heap)
{
    enum { N = 1000 };
    static void *block[N];
    if (SANITIZED || !pw_memory_available()) {
        test_skip("the heap is not the system's own");
        return;
    }
    keep(100 * MIB);
    for (int i = 0; i < N; i++) {
        block[i] = pw_alloc(64 << 10);
        ck_assert_ptr_nonnull(block[i]);
        memset(block[i], 1, 64 << 10);
    }
    const size_t full = pw_rss_bytes();
    for (int i = 0; i + 1 < N; i++) pw_free(block[i]);      /* the last one keeps the heap as long as it is */
    ck_assert_uint_gt(pw_rss_bytes() + 8 * MIB, full);
    void *p = pw_alloc(64 * MIB);
    ck_assert_msg(p != NULL, "62 MiB of holes were not given back");
    ck_assert_uint_lt(pw_rss_bytes() + 32 * MIB, full);
    pw_free(p);
    pw_free(block[N - 1]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("limit");
    TCase *t = tcase_create("kept");
    tcase_add_test(t, without_a_limit);
    tcase_add_test(t, what_the_program_has);
    tcase_add_test(t, nothing_is_left);
    tcase_add_test(t, where_it_ends);
    tcase_add_test(t, the_reason);
    tcase_add_test(t, blocks_that_grow);
    tcase_add_test(t, threads);
    tcase_add_test(t, memory_of_others);
    tcase_add_test(t, holes_in_the_heap);
    tcase_set_timeout(t, 300);
    suite_add_tcase(s, t);
    return test_run(s);
}
