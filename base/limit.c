/* See limit.h. Counting is a sum of atomics, so that threads need no lock; a reading of the kernel's number by several at once does no harm. */
#include "base/limit.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/text.h"

/* ---- against a plan ---- */

int pw_limit_check(uint64_t limit, const struct pw_limit_part *parts, int n, const char *way_out)
{
    struct pw_buf list = { 0 };
    char text[32], most[32];
    size_t sum = 0;
    if (limit == 0) return 0;
    for (int i = 0; i < n; i++) {
        if (!pw_add_size(sum, parts[i].bytes, &sum)) sum = SIZE_MAX;
        pw_format_bytes(text, parts[i].bytes);
        pw_buf_printf(&list, "%s%s %s", i ? ", " : "", parts[i].name, text);
    }
    int rc = pw_buf_status(&list);
    if (rc == 0 && sum > limit) {
        pw_format_bytes(text, sum);
        pw_format_bytes(most, limit);
        rc = pw_error(PW_E_REFUSED, "it does not fit into --memory: planned %s (%s), at most %s", text, list.data ? list.data : "", most);
        pw_error_hint("--memory %zu is the least that would do%s%s", sum, way_out ? "; or " : "", way_out ? way_out : "");
    }
    pw_buf_free(&list);
    return rc;
}

/* ---- kept ---- */

/* Stacks, code that is first used, buffers of files, small pieces of libraries: commands that count little ended 0 to 2 MiB above what they began with. */
#define RESERVE ((int64_t)4 << 20)
#define LOOK_EVERY ((int64_t)1 << 20)

atomic_bool pw_limit_kept;
static int64_t limit, before;                  /* bytes; what the process had, and RESERVE. Written while no other thread counts */
static atomic_int_fast64_t counted;
static atomic_int_fast64_t ceiling;            /* counted may come to this before the kernel is asked */
static atomic_size_t met_in_use, met_asked;    /* of the last refusal; asked 0: none */

/* counted: without what is asked for. */
static void set_ceiling(int64_t now, int64_t resident)
{
    const int64_t other = resident - now > before ? resident - now : before, most = limit - other;
    atomic_store_explicit(&ceiling, most < now + LOOK_EVERY ? most : now + LOOK_EVERY, memory_order_relaxed);
}

int pw_limit_keep(uint64_t bytes)
{
    const size_t resident = pw_rss_bytes();
    const struct pw_limit_part parts[] = { { "program", resident }, { "reserve for its libraries", (size_t)RESERVE } };
    atomic_store(&pw_limit_kept, false);
    atomic_store(&counted, 0);
    atomic_store(&met_asked, 0);
    if (bytes == 0) return 0;
    PW_PASS(pw_limit_check(bytes, parts, 2, NULL));
    limit = bytes > INT64_MAX ? INT64_MAX : (int64_t)bytes;
    before = (int64_t)resident + RESERVE;
    set_ceiling(0, (int64_t)resident);
    atomic_store(&pw_limit_kept, true);
    return 0;
}

/* Beyond the ceiling: the kernel is asked, and what lies free in the heap goes back to it before anything is refused. */
static bool look(int64_t asked, int64_t now)
{
    const int64_t old = now - asked;
    int64_t resident = 0;
    for (int again = 0; again < 2; again++) {
        resident = (int64_t)pw_rss_bytes();
        if (now <= limit - before && resident + asked <= limit) {
            set_ceiling(old, resident);
            return true;
        }
        if (now > limit - before) break;
        pw_memory_trim();
    }
    const int64_t in_use = before + old > resident ? before + old : resident;
    atomic_fetch_sub_explicit(&counted, asked, memory_order_relaxed);
    atomic_store(&met_in_use, (size_t)in_use);
    atomic_store(&met_asked, (size_t)asked);
    return false;
}

bool pw_limit_take(size_t bytes)
{
    if (!atomic_load_explicit(&pw_limit_kept, memory_order_relaxed)) return true;
    const int64_t asked = bytes > (size_t)INT64_MAX / 4 ? INT64_MAX / 4 : (int64_t)bytes;
    const int64_t now = atomic_fetch_add_explicit(&counted, asked, memory_order_relaxed) + asked;
    return now <= atomic_load_explicit(&ceiling, memory_order_relaxed) || look(asked, now);
}

void pw_limit_count(int64_t bytes)
{
    if (atomic_load_explicit(&pw_limit_kept, memory_order_relaxed)) atomic_fetch_add_explicit(&counted, bytes, memory_order_relaxed);
}

int64_t pw_limit_counted(void) { return atomic_load(&counted); }

size_t pw_limit_room(void)
{
    if (!atomic_load(&pw_limit_kept)) return SIZE_MAX;
    const int64_t room = limit - before - atomic_load(&counted);
    return room > 0 ? (size_t)room : 0;
}

int pw_limit_reason(int rc, bool begun)
{
    char what[2048], in_use[32], asked[32], most[32];
    const size_t wanted = atomic_load(&met_asked), there = atomic_load(&met_in_use);
    if (rc != PW_E_NOMEM || wanted == 0) return rc;
    snprintf(what, sizeof what, "%s", pw_error_text());
    pw_format_bytes(in_use, there);
    pw_format_bytes(asked, wanted);
    pw_format_bytes(most, (uint64_t)limit);
    rc = pw_error(begun ? PW_E_FAIL : PW_E_REFUSED, "%s%sit does not fit into --memory: %s in use, %s more wanted, at most %s", what, what[0] ? ": " : "", in_use, asked, most);
    pw_error_hint("--memory %zu would have done for this; what comes after it may want more", there + wanted);
    return rc;
}
