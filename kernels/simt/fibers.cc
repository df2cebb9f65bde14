/* The scheduler of the emulation: fibers, barriers, collectives, shared memory, launches (contract: fibers.h).
 *
 * Owns one set of fibers and one shared memory for each thread of the machine that runs blocks. A fault leaves the block's fibers where they
 * are: they are made anew before the next block, and the launch returns an error. Knows no kernel and no op. */
#include "kernels/simt/fibers.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "base/memory.h"
#include "kernels/simt/faults.h"
#include "kernels/simt/memory.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n)   ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

constinit thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

enum state { RUN, AT_BLOCK, AT_WARP, DONE };
struct copy { void *dst; const void *src; bool pred; int group; };

struct fiber {
    void *sp;               /* saved stack pointer while not running */
    char *stack;            /* lowest usable byte; a guard page lies below */
    state at;
    const char *file;       /* where it waits */
    int line;
    unsigned mask;          /* the collective in flight */
    simt_collective fn;
    void *arg;
    dim3 tid;
    copy *copies;           /* cp.async in flight, oldest first */
    int n_copies, cap_copies, open_group;
    void *fake;             /* ASan */
    void *tsan;
    unsigned n_sync, n_warp_sync; /* their parity picks a TSan sync object */
    char warp_key[2];
};

enum {
    THREADS_MAX = 1024,
    STACK_BYTES = 128 * 1024,
    REDZONE = 64,
    SMEM_BYTES = SIMT_SMEM_MAX + 64 * REDZONE,
    SHARED_MOST = 32,
};

struct block {                       /* one for each thread of the machine */
    fiber *fibers;                   /* THREADS_MAX of them, n in use */
    unsigned n, made, live, at_barrier;
    char barrier_key[2];
    fiber *cur;
    void *sched_sp;
    void (*body)(void *);
    void *body_arg;
    uint64_t gen;                    /* block counter; its address stands for the start of a block */
    char *smem, *dyn;
    size_t smem_used, smem_payload;
    struct { const void *variable; char *p; } shared[SHARED_MOST]; /* of this block, in the order of their first use */
    int n_shared;
    bool failed;
    uint64_t rng;
    void *sched_fake, *sched_tsan;
    const void *sched_stack; size_t sched_stack_bytes;
};
static constinit thread_local block tls SIMT_TLS;

static int schedule_kind; /* 0 forward, 1 reverse, 2 random */
static uint64_t schedule_seed;
static int schedule_threads = 1;
static int fault_taken;   /* the first fault of a launch writes the text */
static char fault_text[2048];

extern "C" void pw_simt_switch(void **save_sp, void *load_sp);
#if defined(__x86_64__)
__asm__(".pushsection .text\n"
        ".globl pw_simt_switch\n.hidden pw_simt_switch\n.type pw_simt_switch,@function\npw_simt_switch:\n"
        "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
        "  mov %rsp,(%rdi)\n  mov %rsi,%rsp\n"
        "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n  pop %rbp\n"
        "  ret\n.size pw_simt_switch,.-pw_simt_switch\n.popsection\n");
#else
#error "kernels/simt/fibers.cc: write pw_simt_switch for this processor"
#endif

/* ---- switching, with what the sanitizers need to know ---- */

SIMT_NO_TSAN static void resume(fiber *f)
{
    block &b = tls;
    b.cur = f;
    threadIdx = f->tid;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&b.sched_fake, f->stack, STACK_BYTES);
#elif defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(f->tsan, __tsan_switch_to_fiber_no_sync);
#endif
    pw_simt_switch(&b.sched_sp, f->sp);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(b.sched_fake, NULL, NULL);
#endif
    b.cur = NULL;
}

SIMT_NO_TSAN static void arrive(void) /* first thing on a fiber */
{
#if defined(__SANITIZE_ADDRESS__)
    block &b = tls;
    __sanitizer_finish_switch_fiber(b.cur->fake, &b.sched_stack, &b.sched_stack_bytes);
#endif
}

SIMT_NO_TSAN static void yield(void)
{
    block &b = tls;
    fiber *f = b.cur;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(f->at == DONE ? NULL : &f->fake, b.sched_stack, b.sched_stack_bytes);
#elif defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(b.sched_tsan, __tsan_switch_to_fiber_no_sync);
#endif
    pw_simt_switch(&f->sp, b.sched_sp);
    arrive();
}

static void release(void *sync) /* happens-before, for TSan alone */
{
#if defined(__SANITIZE_THREAD__)
    __tsan_release(sync);
#else
    (void)sync;
#endif
}
static void acquire(void *sync)
{
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(sync);
#else
    (void)sync;
#endif
}

/* ---- faults ---- */

const char *simt_fault_text(void) { return fault_text; }

/* One line for each place where threads wait, not one for each thread. */
SIMT_NO_TSAN static size_t describe_waiting(char *out, size_t room)
{
    block &b = tls;
    size_t at = 0;
    for (unsigned i = 0; i < b.n && at < room; i++) {
        const fiber &f = b.fibers[i];
        if (f.at != AT_BLOCK && f.at != AT_WARP) continue;
        unsigned count = 0;
        for (unsigned j = 0; j < b.n; j++) {
            const fiber &g = b.fibers[j];
            if (g.at != f.at || g.line != f.line || g.mask != f.mask || strcmp(g.file, f.file)) continue;
            if (j < i) { count = 0; break; }
            count++;
        }
        if (!count) continue;
        at += (size_t)snprintf(out + at, room - at, "; %u thread(s) from %u wait at %s:%d (%s", count, i, f.file, f.line,
                               f.at == AT_BLOCK ? "__syncthreads" : "warp collective");
        if (at < room && f.at == AT_WARP) at += (size_t)snprintf(out + at, room - at, ", mask %08x", f.mask);
        if (at < room) at += (size_t)snprintf(out + at, room - at, ")");
    }
    return at;
}

SIMT_NO_TSAN static void record_fault(const char *file, int line, const char *what)
{
    block &b = tls;
    b.failed = true;
    if (__atomic_exchange_n(&fault_taken, 1, __ATOMIC_ACQ_REL)) return;
    size_t room = sizeof fault_text, at = (size_t)snprintf(fault_text, room, "%s:%d: %s, block (%u,%u,%u)", file, line, what, blockIdx.x, blockIdx.y, blockIdx.z);
    if (b.cur && at < room) at += (size_t)snprintf(fault_text + at, room - at, " thread (%u,%u,%u)", b.cur->tid.x, b.cur->tid.y, b.cur->tid.z);
    if (at < room) describe_waiting(fault_text + at, room - at);
}

SIMT_NO_TSAN void simt_fault(const char *file, int line, const char *what)
{
    record_fault(file, line, what);
    if (!tls.cur) __builtin_trap();      /* no kernel is running: the emulation itself is wrong */
    tls.cur->at = DONE;         /* never resumed: its stack is made anew */
    yield();
    __builtin_unreachable();
}

/* ---- barriers and collectives ---- */

/* All live threads are at a barrier: it must be the same one. */
SIMT_NO_TSAN static void open_barrier(void)
{
    block &b = tls;
    const fiber *first = NULL;
    for (unsigned i = 0; i < b.n; i++) {
        fiber &f = b.fibers[i];
        if (f.at != AT_BLOCK) continue;
        if (!first) first = &f;
        else if (f.line != first->line || strcmp(f.file, first->file)) simt_fault(f.file, f.line, "threads of one block are at different __syncthreads");
    }
    for (unsigned i = 0; i < b.n; i++)
        if (b.fibers[i].at == AT_BLOCK) b.fibers[i].at = RUN;
    b.at_barrier = 0;
}

SIMT_NO_TSAN void __syncthreads(const char *file, int line)
{
    block &b = tls;
    fiber *f = b.cur;
    f->file = file, f->line = line, f->at = AT_BLOCK;
    /* Two keys: a fast thread may reach the next barrier before a slow one has left this one, and must not lend it that later happens-before. */
    char *key = &b.barrier_key[f->n_sync++ & 1];
    release(key);
    if (++b.at_barrier == b.live) open_barrier();
    else yield();
    acquire(key);
}

/* Runs the collective f waits in, if every live lane it names has arrived. As in CUDA, lanes that have exited are not waited for. */
SIMT_NO_TSAN static bool try_warp(fiber *f)
{
    block &b = tls;
    unsigned base = (unsigned)(f - b.fibers) & ~31u;
    void *arg[32];
    for (unsigned l = 0; l < 32; l++) {
        arg[l] = NULL;
        if (!(f->mask >> l & 1) || base + l >= b.n) continue;
        fiber *g = &b.fibers[base + l];
        if (g->at == DONE) continue;
        if (g->at != AT_WARP || g->mask != f->mask) return false;
        if (g->fn != f->fn || g->line != f->line) simt_fault(g->file, g->line, "lanes of one warp are in different collectives");
        arg[l] = g->arg;
    }
    f->fn(arg);
    for (unsigned l = 0; l < 32; l++)
        if (arg[l]) b.fibers[base + l].at = RUN;
    return true;
}

SIMT_NO_TSAN void simt_warp(unsigned mask, simt_collective fn, void *arg, const char *file, int line)
{
    block &b = tls;
    fiber *f = b.cur;
    unsigned lane = (unsigned)(f - b.fibers) & 31;
    if (!(mask >> lane & 1)) simt_fault(file, line, "mask does not name the calling lane");
    f->mask = mask, f->fn = fn, f->arg = arg, f->file = file, f->line = line;
    f->at = AT_WARP;
    if (!try_warp(f)) yield();
}

int simt_lane(void) { return (int)(tls.cur - tls.fibers) & 31; }

struct vote { bool in; unsigned out; };
SIMT_NO_TSAN static void vote_do(void **a)
{
    unsigned bits = 0;
    for (int l = 0; l < 32; l++)
        if (a[l] && ((vote *)a[l])->in) bits |= 1u << l;
    for (int l = 0; l < 32; l++)
        if (a[l]) ((vote *)a[l])->out = bits;
}
SIMT_NO_TSAN unsigned __ballot_sync(unsigned mask, int p, const char *file, int line)
{
    vote a = {p != 0, 0};
    simt_warp(mask, vote_do, &a, file, line);
    return a.out;
}

/* Only __syncwarp orders memory between lanes; a shuffle does not. */
struct meet { char *mine, *all[32]; };
SIMT_NO_TSAN static void meet_do(void **a)
{
    for (int l = 0; l < 32; l++)
        for (int m = 0; a[l] && m < 32; m++) ((meet *)a[l])->all[m] = a[m] ? ((meet *)a[m])->mine : NULL;
}
SIMT_NO_TSAN void __syncwarp(unsigned mask, const char *file, int line)
{
    fiber *f = tls.cur;
    meet a;
    a.mine = &f->warp_key[f->n_warp_sync++ & 1];
    release(a.mine);
    simt_warp(mask, meet_do, &a, file, line);
    for (int m = 0; m < 32; m++)
        if (a.all[m]) acquire(a.all[m]);
}

/* ---- shared memory ---- */

void simt_check_shared(const void *p, size_t n, size_t align, const char *file, int line)
{
    const char *c = (const char *)p;
    if (c < tls.smem || c + n > tls.smem + SMEM_BYTES) simt_fault(file, line, "address is not in shared memory");
    if ((uintptr_t)p % align) simt_fault(file, line, "shared address is misaligned");
}

/* Pieces in order with red zones between; run_block left all of it NaN. */
SIMT_NO_TSAN static char *smem_take(size_t n)
{
    block &b = tls;
    size_t at = (b.smem_used + REDZONE + 127) & ~(size_t)127;
    b.smem_payload += n;
    if (b.smem_payload > SIMT_SMEM_MAX || at + n + REDZONE > SMEM_BYTES) simt_fault("kernel", 0, "the block asks for more shared memory than there is");
    ASAN_UNPOISON_MEMORY_REGION(b.smem + at, n);
    b.smem_used = at + n;
    return b.smem + at;
}

SIMT_NO_TSAN char *simt_shared(const void *variable, size_t n)
{
    block &b = tls;
    for (int i = 0; i < b.n_shared; i++)
        if (b.shared[i].variable == variable) return b.shared[i].p;
    if (b.n_shared == SHARED_MOST) simt_fault("kernel", 0, "too many shared variables");
    b.shared[b.n_shared] = {variable, smem_take(n)};
    return b.shared[b.n_shared++].p;
}
char *simt_dynamic(void) { return tls.dyn; }

/* ---- copies in flight ---- */

static void write16(void *p, const void *from)
{
    for (int i = 0; i < 2; i++) ((volatile uint64_t *)p)[i] = from ? ((const uint64_t *)from)[i] : 0;
}

SIMT_NO_TSAN void simt_copy_issue(void *dst, const void *src, bool pred, const char *file, int line)
{
    static const uint64_t nan[2] = {~0ull, ~0ull};
    fiber *f = tls.cur;
    simt_check_shared(dst, 16, 16, file, line);
    if (pred && (uintptr_t)src % 16) simt_fault(file, line, "the source of cp.async is misaligned");
    if (f->n_copies == f->cap_copies) {
        int cap = f->cap_copies ? 2 * f->cap_copies : 16;
        copy *more = (copy *)pw_realloc(f->copies, (size_t)f->cap_copies * sizeof *f->copies, (size_t)cap * sizeof *f->copies);
        if (!more) simt_fault(file, line, "no memory for copies in flight");
        f->copies = more, f->cap_copies = cap;
    }
    f->copies[f->n_copies++] = copy{dst, src, pred, f->open_group};
    write16(dst, nan);
}
SIMT_NO_TSAN void simt_copy_commit(void) { tls.cur->open_group++; }
SIMT_NO_TSAN void simt_copy_wait(int pending)
{
    fiber *f = tls.cur;
    int done = 0;
    while (done < f->n_copies && f->copies[done].group < f->open_group - pending) {
        copy c = f->copies[done++];
        write16(c.dst, c.pred ? c.src : NULL);
    }
    for (int i = done; i < f->n_copies; i++) f->copies[i - done] = f->copies[i];
    f->n_copies -= done;
}

/* ---- blocks ---- */

SIMT_NO_TSAN static void fiber_main(void)
{
    block &b = tls;
    arrive();
    for (;;) { /* one turn for each block */
        fiber *f = b.cur;
        acquire(&b.gen);
        b.body(b.body_arg);
        if (f->n_copies) simt_fault("kernel", 0, "cp.async still in flight at the end of a thread");
        f->open_group = 0;
        release(&b.live);
        f->at = DONE;
        b.live--;
        /* A departure can complete a barrier or a collective of others. */
        if (b.live && b.at_barrier == b.live) open_barrier();
        unsigned base = (unsigned)(f - b.fibers) & ~31u;
        for (unsigned i = base; i < base + 32 && i < b.n; i++)
            if (b.fibers[i].at == AT_WARP) try_warp(&b.fibers[i]);
        yield();
    }
}

SIMT_NO_TSAN static void stand_up(fiber *f, unsigned i)
{
    /* Staggered, or every stack's hot lines would share the same cache sets. */
    void **top = (void **)(f->stack + STACK_BYTES - i % 64 * 64);
    top[-2] = (void *)fiber_main; /* pw_simt_switch returns to it */
    f->sp = top - 8;              /* six saved registers below */
    f->fake = NULL;
    f->n_copies = f->open_group = 0;
}

/* A fiber that will never be resumed: what it left marked on its stack, and what it did, which comes before all that follows. */
SIMT_NO_TSAN static void abandon(fiber *f)
{
    ASAN_UNPOISON_MEMORY_REGION(f->stack, STACK_BYTES);
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(f->tsan, __tsan_switch_to_fiber_no_sync);
    __tsan_switch_to_fiber(tls.sched_tsan, 0); /* ordered */
    __tsan_destroy_fiber(f->tsan);
    f->tsan = __tsan_create_fiber(0);
#endif
}

/* Fibers and shared memory for blocks of n threads; false = no memory. */
SIMT_NO_TSAN static bool set_up(unsigned n)
{
    block &b = tls;
    if (!b.smem) {
        char *smem = (char *)pw_alloc(SMEM_BYTES + 128);
        b.fibers = (fiber *)pw_alloc_zero(THREADS_MAX, sizeof *b.fibers);
        if (!smem || !b.fibers) { pw_free(smem); pw_free(b.fibers); b.fibers = NULL; return false; }
        b.smem = (char *)(((uintptr_t)smem + 127) & ~(uintptr_t)127);
        memset(b.smem, 0xff, SMEM_BYTES);
        ASAN_POISON_MEMORY_REGION(b.smem, SMEM_BYTES);
#if defined(__SANITIZE_THREAD__)
        b.sched_tsan = __tsan_get_current_fiber();
#endif
    }
    b.rng = schedule_seed * 0x9e3779b97f4a7c15ull + 1;
    for (unsigned i = b.made; i < n; i++) {
        size_t map = STACK_BYTES + 4096;
        char *m = (char *)mmap(NULL, map, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (m == MAP_FAILED) return false;
        if (mprotect(m, 4096, PROT_NONE)) { munmap(m, map); return false; }
        b.fibers[i].stack = m + 4096;
        stand_up(&b.fibers[i], i);
#if defined(__SANITIZE_THREAD__)
        b.fibers[i].tsan = __tsan_create_fiber(0);
#endif
        b.made = i + 1;
    }
    b.n = n;
    return true;
}

SIMT_NO_TSAN static void run_threads(void)
{
    block &b = tls;
    unsigned order[THREADS_MAX];
    for (unsigned i = 0; i < b.n; i++) order[i] = schedule_kind == 1 ? b.n - 1 - i : i;
    while (b.live && !b.failed) {
        bool moved = false;
        if (schedule_kind == 2)
            for (unsigned i = b.n - 1; i > 0; i--) {
                b.rng = b.rng * 6364136223846793005ull + 1442695040888963407ull;
                unsigned j = (unsigned)((b.rng >> 33) % (i + 1)), t = order[i];
                order[i] = order[j], order[j] = t;
            }
        for (unsigned i = 0; i < b.n && !b.failed; i++) {
            if (b.fibers[order[i]].at != RUN) continue;
            moved = true;
            resume(&b.fibers[order[i]]);
        }
        if (!moved && b.live) record_fault("kernel", 0, "the block cannot go on");
    }
}

SIMT_NO_TSAN static void run_block(dim3 index, size_t dyn_bytes)
{
    block &b = tls;
    blockIdx = index;
    b.gen++;
    b.dyn = smem_take(dyn_bytes);
    b.live = b.n, b.at_barrier = 0;
    b.failed = false;
    release(&b.gen);
    for (unsigned i = 0; i < b.n; i++) {
        b.fibers[i].at = RUN;
        b.fibers[i].n_sync = b.fibers[i].n_warp_sync = 0;
        b.fibers[i].tid = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y));
    }
    run_threads();
    acquire(&b.live);
    if (b.failed)
        for (unsigned i = 0; i < b.n; i++) abandon(&b.fibers[i]), stand_up(&b.fibers[i], i);
    ASAN_UNPOISON_MEMORY_REGION(b.smem, b.smem_used);
    memset(b.smem, 0xff, b.smem_used); /* the next block starts from NaN */
    ASAN_POISON_MEMORY_REGION(b.smem, b.smem_used);
    b.smem_used = b.smem_payload = 0;
    b.n_shared = 0;
}

/* ---- launch ---- */

bool simt_schedule(const char *name)
{
    char *end = NULL;
    if (!name[0] || !strcmp(name, "forward")) schedule_kind = 0;
    else if (!strcmp(name, "reverse")) schedule_kind = 1;
    else if (!strncmp(name, "random:", 7) && name[7]) {
        schedule_seed = strtoull(name + 7, &end, 10);
        if (*end) return false;
        schedule_kind = 2;
    } else return false;
    return true;
}
void simt_threads(int n) { schedule_threads = n < 1 ? 1 : n; }

simt_error simt_launch(dim3 grid, dim3 block, size_t smem, void (*body)(void *), void *arg)
{
    long n = (long)block.x * block.y * block.z, blocks = (long)grid.x * grid.y * grid.z;
    if (blocks == 0) return 0;
    __atomic_store_n(&fault_taken, 0, __ATOMIC_RELEASE);
    if (n < 1 || n > THREADS_MAX || smem > SIMT_SMEM_MAX || grid.y > 65535 || grid.z > 65535 || grid.x > 0x7fffffffu) {
        snprintf(fault_text, sizeof fault_text, "invalid launch: grid (%u,%u,%u), block (%u,%u,%u), %zu bytes of shared memory", grid.x, grid.y, grid.z, block.x,
                 block.y, block.z, smem);
        return 9; /* as CUDA numbers it */
    }
    bool skip;
    const simt_error fault = simt_faults_before(&skip);
    if (fault || skip) return fault;
    int failed = 0;
    simt_memory_open();
#pragma omp parallel num_threads(schedule_threads) reduction(| : failed)
    {
        if (!set_up((unsigned)n)) {
            if (!__atomic_exchange_n(&fault_taken, 1, __ATOMIC_ACQ_REL)) snprintf(fault_text, sizeof fault_text, "no memory for %ld fibers", n);
            failed = 1;
        } else {
            tls.body = body;
            tls.body_arg = arg;
            blockDim = block, gridDim = grid;
        }
#pragma omp for schedule(dynamic)
        for (long i = 0; i < blocks; i++) {
            if (failed) continue;
            run_block(dim3((unsigned)(i % grid.x), (unsigned)(i / grid.x % grid.y), (unsigned)(i / ((long)grid.x * grid.y))), smem);
            failed |= tls.failed;
        }
    }
    simt_memory_close();
    simt_faults_after();
    return failed;
}

/* ---- recording ---- */

struct record { dim3 grid, block; size_t smem; void (*body)(void *); simt_error (*work)(void *); void *arg; };
struct simt_graph { record *list; size_t n, room; bool failed; };
static simt_graph *recording;

bool simt_record_begin(void)
{
    if (recording) return false;
    recording = (simt_graph *)pw_alloc_zero(1, sizeof *recording);
    return recording != NULL;
}

void simt_graph_free(simt_graph *g)
{
    if (!g) return;
    for (size_t i = 0; i < g->n; i++) pw_free(g->list[i].arg);
    pw_free(g->list);
    pw_free(g);
}

simt_error simt_record_end(simt_graph **out)
{
    simt_graph *g = recording;
    recording = NULL;
    if (out) *out = NULL;
    if (!g) return snprintf(fault_text, sizeof fault_text, "nothing is being recorded"), 1;
    if (!out || g->failed) {
        const bool failed = g->failed;
        simt_graph_free(g);
        if (failed) snprintf(fault_text, sizeof fault_text, "no memory for a recording");
        return failed ? 2 : 0;
    }
    *out = g;
    return 0;
}

static simt_error keep(record r, const void *arg, size_t bytes)
{
    simt_graph *g = recording;
    r.arg = pw_alloc_zero(1, bytes ? bytes : 1);
    if (g->n == g->room) {
        const size_t room = g->room ? 2 * g->room : 64;
        record *list = (record *)pw_realloc(g->list, g->room * sizeof *list, room * sizeof *list);
        if (list) g->list = list, g->room = room;
    }
    if (!r.arg || g->n == g->room) {
        pw_free(r.arg);
        g->failed = true;
        snprintf(fault_text, sizeof fault_text, "no memory for a recording");
        return 2;
    }
    memcpy(r.arg, arg, bytes);
    g->list[g->n++] = r;
    return 0;
}

simt_error simt_enqueue(dim3 grid, dim3 block, size_t smem, void (*body)(void *), void *arg, size_t bytes)
{
    return recording ? keep({grid, block, smem, body, NULL, NULL}, arg, bytes) : simt_launch(grid, block, smem, body, arg);
}

simt_error simt_host(simt_error (*work)(void *), void *arg, size_t bytes)
{
    const simt_error lost = simt_faults_lost();
    return recording ? keep({dim3(0), dim3(0), 0, NULL, work, NULL}, arg, bytes) : lost ? lost : work(arg);
}

simt_error simt_replay(const simt_graph *g)
{
    for (size_t i = 0; i < g->n; i++) {
        const record &r = g->list[i];
        const simt_error lost = simt_faults_lost();
        const simt_error e = lost ? lost : r.work ? r.work(r.arg) : simt_launch(r.grid, r.block, r.smem, r.body, r.arg);
        if (e) return e;
    }
    return 0;
}
