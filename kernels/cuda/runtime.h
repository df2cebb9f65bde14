/* The few calls of the CUDA runtime that the backend needs, and their twins on the processor. Everything is queued on one stream;
 * each returns simt_error, 0 when it went well, and rt_error_text says what another value means. Only plugin.cu and nccl.cu call these. */
#ifndef PW_KERNELS_CUDA_RUNTIME_H
#define PW_KERNELS_CUDA_RUNTIME_H

#include "kernels/cuda/simt.h"

#if defined(__CUDACC__)
static const simt_error RT_NO_MEMORY = cudaErrorMemoryAllocation;
static inline const char *rt_error_text(simt_error e) { return cudaGetErrorString(e); }
/* After an error: whether the card is lost to this process (an illegal address, an end that never came), so that every call fails from now on. */
static inline bool rt_lost(simt_stream s)
{
    const cudaError_t e = cudaStreamQuery(s);
    return e != cudaSuccess && e != cudaErrorNotReady;
}
static inline simt_error rt_malloc(void **p, size_t bytes) { return cudaMalloc(p, bytes); }
static inline simt_error rt_free(void *p) { return cudaFree(p); }
static inline simt_error rt_clear(void *p, size_t bytes, simt_stream s) { return cudaMemsetAsync(p, 0, bytes, s); }
/* From pageable memory: returns when the host's bytes have been taken. */
static inline simt_error rt_put(void *device, const void *host, size_t bytes, simt_stream s) { return cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, s); }
static inline simt_error rt_get(void *host, const void *device, size_t bytes, simt_stream s) { return cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, s); }
static inline simt_error rt_sync(simt_stream s) { return cudaStreamSynchronize(s); }
static const simt_error RT_NOT_READY = cudaErrorNotReady;
static inline simt_error rt_query(simt_stream s) { return cudaStreamQuery(s); }
static inline simt_error rt_pinned(void **p, size_t bytes) { return cudaHostAlloc(p, bytes, cudaHostAllocMapped | cudaHostAllocPortable); }
static inline simt_error rt_pinned_free(void *p) { return cudaFreeHost(p); }
static inline simt_error rt_memory(size_t *free_bytes, size_t *total) { return cudaMemGetInfo(free_bytes, total); }

static inline int rt_driver(void)
{
    int version = 0;
    return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

/* A stream for each pair of lanes, and an event for each lane: transfers wait for the ops queued before them, ops for the lane they ask for. */
enum { RT_LANES = 4 };
struct rt_lanes { cudaStream_t stream[RT_LANES / 2]; cudaEvent_t ops, lane[RT_LANES]; };
static inline simt_error rt_lanes_open(struct rt_lanes *l)
{
    simt_error e = cudaSuccess;
    for (int i = 0; i < RT_LANES / 2 && e == 0; i++) e = cudaStreamCreateWithFlags(&l->stream[i], cudaStreamNonBlocking);
    if (e == 0) e = cudaEventCreateWithFlags(&l->ops, cudaEventDisableTiming);
    for (int i = 0; i < RT_LANES && e == 0; i++) e = cudaEventCreateWithFlags(&l->lane[i], cudaEventDisableTiming);
    return e;
}
static inline void rt_lanes_close(struct rt_lanes *l)
{
    for (int i = 0; i < RT_LANES; i++)
        if (l->lane[i]) (void)cudaEventDestroy(l->lane[i]);
    if (l->ops) (void)cudaEventDestroy(l->ops);
    for (int i = 0; i < RT_LANES / 2; i++)
        if (l->stream[i]) (void)cudaStreamDestroy(l->stream[i]);
}
static inline simt_error rt_transfer(struct rt_lanes *l, int lane, void *to, const void *from, size_t bytes, bool to_host, simt_stream s)
{
    const cudaStream_t beside = l->stream[lane / 2];
    simt_error e = cudaEventRecord(l->ops, s);
    if (e == 0) e = cudaStreamWaitEvent(beside, l->ops, 0);
    if (e == 0) e = cudaMemcpyAsync(to, from, bytes, to_host ? cudaMemcpyDeviceToHost : cudaMemcpyHostToDevice, beside);
    return e == 0 ? cudaEventRecord(l->lane[lane], beside) : e;
}
static inline void rt_lanes_drain(struct rt_lanes *) {} /* freeing memory waits for what uses it */
static inline simt_error rt_wait(struct rt_lanes *l, int lane, simt_stream s) { return cudaStreamWaitEvent(s, l->lane[lane], 0); }

/* A step as a graph: what is queued between begin and end is recorded, not run. */
static inline simt_error rt_capture_begin(simt_stream s) { return cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal); }
static inline simt_error rt_capture_end(void **out, simt_stream s) /* out NULL: what was recorded is dropped */
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    simt_error e = cudaStreamEndCapture(s, &graph);
    if (e == 0 && out) e = cudaGraphInstantiate(&exec, graph, 0);
    if (graph) (void)cudaGraphDestroy(graph);
    if (out) *out = exec;
    return e;
}
static inline simt_error rt_replay(void *graph, simt_stream s) { return cudaGraphLaunch((cudaGraphExec_t)graph, s); }
static inline void rt_graph_free(void *graph) { (void)cudaGraphExecDestroy((cudaGraphExec_t)graph); }
#else
#include "base/memory.h"
#include "kernels/simt/faults.h"
#include "kernels/simt/memory.h"
static const simt_error RT_NO_MEMORY = SIMT_E_MEMORY, RT_NOT_READY = SIMT_E_NOT_READY;
static inline const char *rt_error_text(simt_error e)
{
    const char *known = simt_faults_text(e);
    return known ? known : simt_fault_text();
}
static inline bool rt_lost(simt_stream) { return simt_faults_lost() != 0; }
static inline simt_error rt_malloc(void **p, size_t bytes)
{
    const simt_error e = simt_faults_memory();
    return e ? e : (*p = simt_memory_take(bytes)) ? 0 : SIMT_E_MEMORY;
}
static inline simt_error rt_free(void *p) { return simt_memory_give(p), 0; }
static inline simt_error rt_clear(void *p, size_t bytes, simt_stream)
{
    simt_memory_open();
    memset(p, 0, bytes);
    simt_memory_close();
    return simt_faults_lost();
}
/* A lost card copies nothing. */
static inline simt_error rt_copy(void *to, const void *from, size_t bytes)
{
    if (simt_faults_lost()) return SIMT_E_LOST;
    simt_memory_open();
    memcpy(to, from, bytes);
    simt_memory_close();
    return 0;
}
static inline simt_error rt_put(void *device, const void *host, size_t bytes, simt_stream) { return rt_copy(device, host, bytes); }
static inline simt_error rt_get(void *host, const void *device, size_t bytes, simt_stream) { return rt_copy(host, device, bytes); }
static inline simt_error rt_sync(simt_stream) { return simt_faults_lost(); }
static inline simt_error rt_pinned(void **p, size_t bytes) { return (*p = pw_alloc_zero(bytes, 1)) ? 0 : SIMT_E_MEMORY; }
static inline simt_error rt_pinned_free(void *p) { return pw_free(p), 0; }
/* As late as a card may be: a transfer happens when its lane is waited for, or used again, or memory is given back. Until then what comes to the device is
 * NaN there, so that an op that did not wait is seen; what goes to the host is read late, so that an op that did not wait changes it. */
enum { RT_LANES = 4 };
struct rt_lanes { struct { void *to; const void *from; size_t bytes; } on_its_way[RT_LANES]; };
static inline simt_error rt_lanes_open(struct rt_lanes *) { return 0; }
static inline simt_error rt_wait(struct rt_lanes *l, int lane, simt_stream)
{
    auto &t = l->on_its_way[lane];
    const simt_error e = t.bytes ? rt_copy(t.to, t.from, t.bytes) : simt_faults_lost();
    t.bytes = 0;
    return e;
}
static inline void rt_lanes_drain(struct rt_lanes *l)
{
    for (int i = 0; i < RT_LANES; i++) (void)rt_wait(l, i, {});
}
static inline void rt_lanes_close(struct rt_lanes *l) { rt_lanes_drain(l); }
static inline simt_error rt_transfer(struct rt_lanes *l, int lane, void *to, const void *from, size_t bytes, bool to_host, simt_stream s)
{
    const simt_error e = rt_wait(l, lane, s);
    if (e) return e;
    simt_memory_open();
    if (!to_host) memset(to, 0xff, bytes);
    simt_memory_close();
    l->on_its_way[lane] = {to, from, bytes};
    return 0;
}
static inline int rt_driver(void) { return 0; }
static inline simt_error rt_capture_begin(simt_stream) { return simt_record_begin() ? 0 : 1; }
static inline simt_error rt_capture_end(void **out, simt_stream) { return simt_record_end((struct simt_graph **)out); }
static inline simt_error rt_replay(void *graph, simt_stream) { return simt_replay((struct simt_graph *)graph); }
static inline void rt_graph_free(void *graph) { simt_graph_free((struct simt_graph *)graph); }
static inline simt_error rt_memory(size_t *free_bytes, size_t *total) { return *free_bytes = pw_memory_available(), *total = *free_bytes + simt_memory_taken(), simt_faults_lost(); }
#endif
#endif
