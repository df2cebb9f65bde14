/* The few calls of the CUDA runtime that the backend needs, and their twins on the processor. Everything is queued on one stream;
 * each returns simt_error, 0 when it went well, and rt_error_text says what another value means. Only plugin.cu calls these. */
#ifndef PW_KERNELS_CUDA_RUNTIME_H
#define PW_KERNELS_CUDA_RUNTIME_H

#include "kernels/cuda/simt.h"

#if defined(__CUDACC__)
static inline const char *rt_error_text(simt_error e) { return cudaGetErrorString(e); }
static inline simt_error rt_malloc(void **p, size_t bytes) { return cudaMalloc(p, bytes); }
static inline simt_error rt_free(void *p) { return cudaFree(p); }
static inline simt_error rt_clear(void *p, size_t bytes, simt_stream s) { return cudaMemsetAsync(p, 0, bytes, s); }
/* From pageable memory: returns when the host's bytes have been taken. */
static inline simt_error rt_put(void *device, const void *host, size_t bytes, simt_stream s) { return cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, s); }
static inline simt_error rt_get(void *host, const void *device, size_t bytes, simt_stream s) { return cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, s); }
static inline simt_error rt_sync(simt_stream s) { return cudaStreamSynchronize(s); }
static inline simt_error rt_pinned(void **p, size_t bytes) { return cudaHostAlloc(p, bytes, cudaHostAllocMapped | cudaHostAllocPortable); }
static inline simt_error rt_pinned_free(void *p) { return cudaFreeHost(p); }
static inline simt_error rt_memory(size_t *free_bytes, size_t *total) { return cudaMemGetInfo(free_bytes, total); }
#else
#include "base/memory.h"
#include "kernels/simt/memory.h"
static inline const char *rt_error_text(simt_error e) { return e == 2 ? "out of memory" : simt_fault_text(); }
static inline simt_error rt_malloc(void **p, size_t bytes) { return (*p = simt_memory_take(bytes)) ? 0 : 2; }
static inline simt_error rt_free(void *p) { return simt_memory_give(p), 0; }
static inline simt_error rt_clear(void *p, size_t bytes, simt_stream) { return simt_memory_open(), memset(p, 0, bytes), simt_memory_close(), 0; }
static inline simt_error rt_put(void *device, const void *host, size_t bytes, simt_stream) { return simt_memory_open(), memcpy(device, host, bytes), simt_memory_close(), 0; }
static inline simt_error rt_get(void *host, const void *device, size_t bytes, simt_stream) { return simt_memory_open(), memcpy(host, device, bytes), simt_memory_close(), 0; }
static inline simt_error rt_sync(simt_stream) { return 0; }
static inline simt_error rt_pinned(void **p, size_t bytes) { return (*p = pw_alloc_zero(bytes, 1)) ? 0 : 2; }
static inline simt_error rt_pinned_free(void *p) { return pw_free(p), 0; }
static inline simt_error rt_memory(size_t *free_bytes, size_t *total) { return *free_bytes = pw_memory_available(), *total = *free_bytes, 0; }
#endif
#endif
