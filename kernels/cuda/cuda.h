/* The cuda backend: what its files share. One file an op (or a few that belong together): first kernels, then the op's launcher cuda_<op>,
 * which chooses sizes, launches, and returns 0 or an error that names op and shape. The same files make libpw_cuda.so (nvcc) and libpw_simt.so
 * (C++, kernels/simt/). Launchers validate nothing (kernels/op.c did), never allocate, never wait; kernels never trust an id: one that is out
 * of range is reported (cuda_report) and its row is not touched. Activations are bf16; sums are f32 in a fixed order, no float atomics. */
#ifndef PW_KERNELS_CUDA_CUDA_H
#define PW_KERNELS_CUDA_CUDA_H

#include "base/error.h"
#include "kernels/backend.h"
#include "kernels/cuda/hooks.h"
#include "kernels/cuda/num.h"

#define DEV struct pw_dev *dev
#define T struct pw_tensor
#define W const struct pw_weight *
#define PW_OP(name, params, args) extern "C" int cuda_##name params;
#include "kernels/ops.def"
#undef PW_OP
#undef DEV
#undef T
#undef W

extern "C" size_t cuda_scratch_linear(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w, bool backward);
extern "C" size_t cuda_scratch_head(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w, bool backward);
extern "C" size_t cuda_scratch_experts(const struct pw_dev *dev, int64_t rows, const struct pw_experts *experts, bool backward);
extern "C" size_t cuda_scratch_attn(const struct pw_dev *dev, int64_t tokens, int64_t keys, int heads, int kv_heads, int head_dim, bool backward);

/* ---- what kernels report ---- */

/* What a kernel found wrong; the first report stays until the next pw_dev_sync or pw_dev_get, which turns it into an error. */
enum cuda_fault { CUDA_FAULT_NONE, CUDA_FAULT_EMBED_ID, CUDA_FAULT_POSITION, CUDA_FAULT_TARGET, CUDA_FAULT_ROW, CUDA_FAULT_NOT_FINITE, CUDA_FAULT_EXPERT, CUDA_FAULT_PLACE, CUDA_FAULT_LOGIT, CUDA_FAULT_NO_LOGIT };
struct cuda_status { int fault; int value; int64_t index, limit; }; /* memory that host and device both see */
SIMT_FN void cuda_report(struct cuda_status *s, enum cuda_fault fault, int64_t index, int value, int64_t limit)
{
    if (atomicCAS(&s->fault, CUDA_FAULT_NONE, fault) != CUDA_FAULT_NONE) return;
    s->index = index;
    s->value = value;
    s->limit = limit;
}

/* ---- the device ---- */

enum { CUDA_SUMS = 2048 };
struct cuda_impl {
    struct cuda_hooks hooks;  /* first: tests know it by that */
    simt_stream stream;
    struct cuda_status *status;
    int card;                 /* index; -1 on simt */
    int processors;           /* streaming multiprocessors */
    bool capturing;           /* ops are recorded; nothing else may be queued */
    const char *last;         /* op whose launch was queued last, and how many launches were since the last wait: what a lost card may have died of */
    int64_t queued;
    size_t shared_limit;      /* bytes of shared memory a block may ask for */
    const struct pw_choice *choices; /* of other ways than the fixed rule's */
    size_t n_choices;
    const struct pw_attn_choice *attn;
    size_t n_attn;
    void *gemm;               /* kernels/cuda/gemm.h */
    void *sdpa;               /* kernels/cuda/attn_cudnn.h */
    void *lanes;              /* of transfers: plugin.cu */
    void *nccl;               /* kernels/cuda/nccl.h; NULL: no peers */
    double *sums;             /* CUDA_SUMS partial sums, on the device: for one op at a time, which the stream sees to */
    size_t held;              /* bytes of the card in use when it was opened */
    char name[256];
};
static inline struct cuda_impl *cuda_of(const struct pw_dev *dev) { return (struct cuda_impl *)dev->impl; }
/* 0, or an error naming the op: for the value of SIMT_LAUNCH. */
int cuda_launched(struct pw_dev *dev, const char *op, simt_error e);
#define CUDA_LAUNCH(dev, op, kernel, grid, block, smem, ...) \
    PW_PASS(cuda_launched((dev), (op), SIMT_LAUNCH(kernel, (grid), (block), (smem), cuda_of(dev)->stream, __VA_ARGS__)))

/* Blocks of `size` that cover n, as a grid of one dimension. */
static inline unsigned cuda_parts(int64_t n, int64_t size) { return (unsigned)((n + size - 1) / size); }
static inline unsigned cuda_warps(int64_t n, unsigned most) { return n >= most ? most : n < 1 ? 32 : (unsigned)((n + 31) / 32 * 32); } /* threads for n pieces of work */
static inline bool cuda_aligned(const void *p) { return (uintptr_t)p % 16 == 0; } /* absent tensors are */
static inline size_t cuda_round(size_t bytes) { return (bytes + 255) & ~(size_t)255; }

/* The statement for each element type a tensor may have at run time: `name` is its typed pointer, name##_type the type of an element. */
#define CUDA_BY_TYPE(tensor, name, ...)                                                             \
    switch ((tensor).dtype) {                                                                       \
    case PW_F32: { typedef float name##_type; name##_type *name = (name##_type *)(tensor).data; __VA_ARGS__; break; }     \
    case PW_BF16: { typedef bf16 name##_type; name##_type *name = (name##_type *)(tensor).data; __VA_ARGS__; break; }     \
    case PW_F16: { typedef f16 name##_type; name##_type *name = (name##_type *)(tensor).data; __VA_ARGS__; break; }       \
    case PW_F64: { typedef double name##_type; name##_type *name = (name##_type *)(tensor).data; __VA_ARGS__; break; }    \
    default: return pw_error(PW_E_UNSUPPORTED, "device %s: elements of type %s", dev->kind, pw_dtype_name((tensor).dtype)); \
    }
/* The same without f64 */
#define CUDA_BY_SMALL(tensor, name, ...)                                                            \
    switch ((tensor).dtype) {                                                                       \
    case PW_F32: { typedef float name##_type; name##_type *name = (name##_type *)(tensor).data; __VA_ARGS__; break; }     \
    case PW_BF16: { typedef bf16 name##_type; name##_type *name = (name##_type *)(tensor).data; __VA_ARGS__; break; }     \
    case PW_F16: { typedef f16 name##_type; name##_type *name = (name##_type *)(tensor).data; __VA_ARGS__; break; }       \
    default: return pw_error(PW_E_UNSUPPORTED, "device %s: elements of type %s", dev->kind, pw_dtype_name((tensor).dtype)); \
    }
/* The same for tensors that are activations or f32: bf16 and f32. */
#define CUDA_BY_FLOAT(tensor, name, ...)                                                            \
    switch ((tensor).dtype) {                                                                       \
    case PW_F32: { typedef float name##_type; name##_type *name = (name##_type *)(tensor).data; __VA_ARGS__; break; }     \
    case PW_BF16: { typedef bf16 name##_type; name##_type *name = (name##_type *)(tensor).data; __VA_ARGS__; break; }     \
    default: return pw_error(PW_E_UNSUPPORTED, "device %s: elements of type %s", dev->kind, pw_dtype_name((tensor).dtype)); \
    }
/* `fast` as a constant. */
#define CUDA_BY_BOOL(value, fast, ...)                                                              \
    if (value) { [[maybe_unused]] constexpr bool fast = true; __VA_ARGS__; }                        \
    else { [[maybe_unused]] constexpr bool fast = false; __VA_ARGS__; }
#endif
