/* Attention forward by a library: attn_cudnn.cu is cuDNN, kernels/simt/attn_cudnn.cc plain loops with the same contract. Both are behind attn_library.cu.
 *
 * Owns: finding the library at run time (libcudnn.so.9; nothing is linked to it), the operation graph of a shape, one plan a shape, and running it. Refuses
 * to know: when it is taken (attn_library.cu), whether it is faster (kernels/choices.h), where its memory comes from.
 *
 * The call is training's: n sequences one after the other, each seeing its own rows alone, causally; q, out (T, H, d), k, v (T, G, d) in bf16, lse (T, H) f32
 * in base e. A plan serves every call of up to shape.rows rows in up to shape.sequences sequences: where they begin and how long they are lies on the
 * device, and those past n have no rows. out and lse keep the bounds of attn_fwd, not the bytes of our kernels; the same call gives the same bytes. What a
 * sequence gets may depend on its company in the call, which a run that goes on repeats, but an evaluation must not.
 * Backward is ours: it follows either forward. Plain C, so that tests reach it; cuDNN's types stay inside. */
#ifndef PW_KERNELS_CUDA_ATTN_CUDNN_H
#define PW_KERNELS_CUDA_ATTN_CUDNN_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif
enum { SDPA_WORKSPACE_MOST = 32 << 20 }; /* a plan that wants more is none: as much as products may want (gemm.h) */
/* Where what lies in memory: all on the device, 16-byte aligned. */
struct sdpa_call {
    const void *q, *k, *v;
    void *out;
    float *lse;
    const int32_t *lengths;                      /* (sequences): rows of each */
    const int32_t *q_at, *kv_at, *lse_at;        /* (sequences + 1): elements of q and out, of k and v, of lse before each */
    float scale;
    void *workspace;                             /* what sdpa_plan said */
    void *stream;                                /* of CUDA; unused on simt */
};
/* A handle without the library in it: nothing is loaded before it is asked for. NULL when there is no memory. */
void *sdpa_new(const char *kind);
void sdpa_free(void *library);                   /* NULL is fine */
/* Its version as one number (9.19.0: 91900); 0: it is not on this machine, too old, or was not there when this was built (why says which; NULL is fine). */
int64_t sdpa_version(void *library, const char **why);
/* The plan of a shape, made the first time. there: false where the library is not, or has no engine for the shape within SDPA_WORKSPACE_MOST. */
int sdpa_plan(void *library, const struct pw_attn_shape *shape, bool *there, size_t *workspace);
/* Bytes that the plan of this shape wants; 0 without one. */
size_t sdpa_workspace(const void *library, const struct pw_attn_shape *shape);
int sdpa_run(void *library, const char *op, const struct pw_attn_shape *shape, const struct sdpa_call *call); /* after sdpa_plan found it */
/* Without a card: how many engines say they run the shape's graph on a card with these properties (JSON, as CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION has
 * it), and how many of them say that their sums have no fixed order. The graph is the one sdpa_plan makes, and the call's names
 * are put together as sdpa_run does. */
int sdpa_engines(void *library, const struct pw_attn_shape *shape, const char *properties, int *engines, int *without_order);
#ifdef __cplusplus
}
#endif
#endif
