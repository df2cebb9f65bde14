/* The cpu backend: ops over fixed tiles, in parallel with OpenMP, on the kernels of isa.h; dense f32 gradients through OpenBLAS (gemm.h). */
#ifndef PW_KERNELS_CPU_H
#define PW_KERNELS_CPU_H

#include "kernels/cpu/isa.h"
#include "kernels/op.h"

#define DEV struct pw_dev *dev
#define T struct pw_tensor
#define W const struct pw_weight *
#define PW_OP(name, params, args) int cpu_##name params;
#include "kernels/ops.def"
#undef PW_OP
#undef DEV
#undef T
#undef W

/* Picks the level that is named, or the best this processor has for what is asked, and sets dev->level and dev->impl. A level that the processor
 * lacks is an error. */
int cpu_choose_level(struct pw_dev *dev, const struct pw_dev_options *opt);
size_t cpu_scratch_linear(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w, bool backward);
size_t cpu_scratch_head(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w, bool backward);
size_t cpu_scratch_experts(const struct pw_dev *dev, int64_t rows, const struct pw_experts *experts, bool backward);
size_t cpu_scratch_attn(const struct pw_dev *dev, int64_t tokens, int64_t keys, int heads, int kv_heads, int head_dim, bool backward);
/* Work below which an op stays on the calling thread: some tens of microseconds. A parallel region costs one or two when all cores are free, but
 * a time slice of the system, milliseconds, when another program has one of them; the decoding of a small model is hundreds of such ops a token.
 * What is computed in which order does not depend on it, nor do results. Multiply-adds of data at hand; weights, which come from memory, once
 * each; elements of maps over arrays. */
enum { CPU_SMALL_WORK = 1 << 20, CPU_SMALL_WEIGHTS = 1 << 18, CPU_SMALL_ELEMENTS = 1 << 15 };
static inline bool cpu_is_small(int64_t tokens, int64_t n_out, int64_t n_in)
{
    return n_out * n_in <= CPU_SMALL_WEIGHTS && tokens * n_out * n_in <= CPU_SMALL_WORK;
}

static inline const struct cpu_isa *cpu_isa_of(const struct pw_dev *dev) { return dev->impl; }
static inline size_t cpu_round(size_t bytes) { return (bytes + 63) & ~(size_t)63; }
static inline int64_t cpu_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t cpu_parts(int64_t n, int64_t size) { return (n + size - 1) / size; }

/* y (T, N) = x W^T for rows of an array; the product alone, no bias, no adapter. Uses the device's threads and scratch_at.. of its scratch. */
void cpu_matmul(struct pw_dev *dev, float *y, const float *x, int64_t tokens, const struct pw_weight *w, char *scratch);
/* dx (T, K) += dy W, likewise */
void cpu_matmul_back(struct pw_dev *dev, float *dx, const float *dy, int64_t tokens, const struct pw_weight *w, char *scratch);
/* dw (N, K) += dy^T x */
void cpu_matmul_weight(struct pw_dev *dev, float *dw, const float *dy, const float *x, int64_t tokens, int64_t n_out, int64_t n_in);
size_t cpu_matmul_scratch(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w); /* of each of the three */
/* The first two where the level multiplies on bf16 multipliers: cpu_linear16.c. The threads' parts of the scratch come first. */
void cpu_matmul16(struct pw_dev *dev, float *y, const float *x, int64_t tokens, const struct pw_weight *w, char *scratch);
void cpu_matmul_back16(struct pw_dev *dev, float *dx, const float *dy, int64_t tokens, const struct pw_weight *w, char *scratch);
size_t cpu_scratch16(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w);
/* Linear layers there, adapter and bias included; of g, dx, da and db. Behind cpu_matmul_scratch they want cpu_scratch_adapter16. */
void cpu_linear_fwd16(struct pw_dev *dev, float *y, float *xa, const float *x, int64_t tokens, const struct pw_weight *w, struct pw_drop drop);
void cpu_linear_bwd16(struct pw_dev *dev, const struct pw_linear_grads *g, const float *dy, const float *x, const float *xa, int64_t tokens, const struct pw_weight *w, struct pw_drop drop);
size_t cpu_scratch_adapter16(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w);
#endif
