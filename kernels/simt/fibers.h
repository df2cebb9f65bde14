/* CUDA threads as fibers: what kernels see of the emulation - barriers, warp collectives, shared memory, launches.
 *
 * One block runs at a time on a thread of the machine; each of its CUDA threads is a fiber that runs until it reaches __syncthreads(), a warp
 * collective, or its end. Every warp-wide operation is simt_warp(): each lane publishes a pointer to its operands, and the last lane to
 * arrive computes the result for all. It is strict where hardware is merely undefined: lanes that disagree about a collective, threads at
 * different barriers, a block that cannot go on, a pointer that is not shared or not aligned. Such a fault ends the block and the launch
 * returns an error whose text (simt_fault_text) names the source line and who waits where. Shared memory is NaN at the start of each block.
 * ThreadSanitizer sees each CUDA thread as a fiber, ordered by __syncthreads and __syncwarp alone (not by shuffles): a race checker.
 * Not modelled: time, banks, occupancy; blocks that wait for one another. The scheduler itself is in fibers.cc. */
#ifndef PW_KERNELS_SIMT_FIBERS_H
#define PW_KERNELS_SIMT_FIBERS_H

#include "kernels/simt/words.h"

#if defined(__SANITIZE_THREAD__)
#define SIMT_NO_TSAN __attribute__((no_sanitize_thread, noinline))
#else
#define SIMT_NO_TSAN
#endif

/* Trailing parameters that name the call site. */
#define SIMT_AT const char *file = __builtin_FILE(), int line = __builtin_LINE()

typedef void (*simt_collective)(void **lane_arg); /* 32 pointers, NULL for absent lanes */

[[noreturn]] void simt_fault(const char *file, int line, const char *what); /* ends the block */
void __syncthreads(SIMT_AT);
void __syncwarp(unsigned mask = 0xffffffffu, SIMT_AT);
void simt_warp(unsigned mask, simt_collective fn, void *arg, const char *file, int line);
int simt_lane(void);

/* ---- collectives ---- */

template <class T> struct simt_shfl_arg { T in, out; int src; };
template <class T> SIMT_NO_TSAN void simt_shfl_do(void **a)
{
    for (int l = 0; l < 32; l++) {
        if (!a[l]) continue;
        auto *me = (simt_shfl_arg<T> *)a[l];
        void *from = me->src < 0 ? a[l] : a[me->src];
        if (from) me->out = ((simt_shfl_arg<T> *)from)->in;
        else memset((void *)&me->out, 0xff, sizeof(T)); /* an absent lane: undefined, so NaN */
    }
}
template <class T> SIMT_NO_TSAN T __shfl_sync(unsigned mask, T v, int src, SIMT_AT)
{
    simt_shfl_arg<T> a = {v, v, src < 0 ? -1 : src & 31};
    simt_warp(mask, simt_shfl_do<T>, &a, file, line);
    return a.out;
}
template <class T> SIMT_NO_TSAN T __shfl_xor_sync(unsigned mask, T v, int bits, SIMT_AT) { return __shfl_sync(mask, v, simt_lane() ^ bits, file, line); }
template <class T> SIMT_NO_TSAN T __shfl_down_sync(unsigned mask, T v, unsigned delta, SIMT_AT)
{
    int src = simt_lane() + (int)delta;
    return __shfl_sync(mask, v, src < 32 ? src : -1, file, line);
}
unsigned __ballot_sync(unsigned mask, int p, SIMT_AT);
SIMT_FN int __any_sync(unsigned mask, int p, SIMT_AT) { return __ballot_sync(mask, p, file, line) != 0; }

/* ---- shared memory ---- */

enum { SIMT_SMEM_MAX = 99 * 1024 }; /* what a block may ask for: sm_86 and sm_89, the cards that users have (163 KiB on sm_80, 227 on sm_90) */
char *simt_shared(const void *variable, size_t bytes); /* the place in this block of the variable that this address stands for */
char *simt_dynamic(void);
void simt_check_shared(const void *p, size_t n, size_t align, const char *file, int line);
template <class T> using simt_type = T;
#define SIMT_SHARED(type, name)                                                \
    static char simt_shared_##name; /* its address alone; not thread_local, of which a plugin has little */ \
    simt_type<type> &name = *reinterpret_cast<simt_type<type> *>(simt_shared(&simt_shared_##name, sizeof(simt_type<type>)))
#define SIMT_DYN_SHARED(type, name) type *const name = reinterpret_cast<type *>(simt_dynamic())

/* ---- copies in flight (cp.async), kept by fiber ---- */
void simt_copy_issue(void *dst, const void *src, bool pred, const char *file, int line);
void simt_copy_commit(void);
void simt_copy_wait(int pending);

/* ---- launch ---- */

typedef void *simt_stream;
typedef int simt_error; /* 0, or not: simt_fault_text says why */
const char *simt_fault_text(void);
bool simt_schedule(const char *name); /* "" or "forward", "reverse", "random:SEED": order of the threads within a block; false = no such */
void simt_threads(int n);             /* blocks at a time */
simt_error simt_launch(dim3 grid, dim3 block, size_t smem, void (*body)(void *), void *arg);

/* Recording, the twin of a stream's capture: between begin and end launches are kept with a copy of their arguments instead of being run; a replay runs
 * them in their order, each time on what memory holds then. One recording at a time. Work of the host that belongs to the stream (the twin of a
 * library's kernel) goes through simt_host. */
struct simt_graph;
bool simt_record_begin(void);                   /* false: one is under way */
simt_error simt_record_end(struct simt_graph **out); /* out NULL: what was recorded is dropped */
simt_error simt_replay(const struct simt_graph *g);
void simt_graph_free(struct simt_graph *g);     /* NULL is fine */
simt_error simt_enqueue(dim3 grid, dim3 block, size_t smem, void (*body)(void *), void *arg, size_t bytes);
simt_error simt_host(simt_error (*work)(void *), void *arg, size_t bytes);

/* Arguments are evaluated once and passed by value to every thread, as in CUDA. */
template <class K, class... A> static inline simt_error simt_call(dim3 grid, dim3 block, size_t smem, K kernel, A... a)
{
    auto run = [=] { kernel(a...); };
    static_assert(__is_trivially_copyable(decltype(run)), "arguments of kernels are copied as bytes");
    return simt_enqueue(grid, block, smem, [](void *p) { (*(decltype(run) *)p)(); }, &run, sizeof run);
}
#define SIMT_LAUNCH(kernel, grid, block, smem, stream, ...) ((void)(stream), simt_call((grid), (block), (smem), [](auto... a) { kernel(a...); }, __VA_ARGS__))
#endif
