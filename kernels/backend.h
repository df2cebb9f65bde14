/* What a backend is: a row of functions behind a device. op.c and dev.c know backends by these rows alone; a plugin exports one.
 *
 * A backend computes and moves bytes. It validates nothing (op.c did), never chooses another device, never reads the environment. */
#ifndef PW_KERNELS_BACKEND_H
#define PW_KERNELS_BACKEND_H

#include "kernels/op.h"

#ifdef __cplusplus
extern "C" {
#endif
/* Which way a linear layer of this shape multiplies: kernels/choices.h. */
enum { PW_CHOICE_LEAST = 32, PW_CHOICE_MOST = 4096 }; /* rows: a power of two that stands for the numbers above the one before it, the last for all */
enum pw_way { PW_WAY_FUSED, PW_WAY_DECODED };
struct pw_choice { enum pw_qtype type; enum pw_dtype dtype; int64_t rows, n_out, n_in; bool backward; enum pw_way way; double seconds[2]; }; /* backward: dx alone */

/* Which way attention forward goes in training: ours, or a library's (kernels/cuda/attn_cudnn.h). A shape stands for the calls of up to `rows` rows, and more than
 * half as many, in up to `sequences` sequences. */
enum { PW_ATTN_ROWS_LEAST = 256, PW_ATTN_ROWS_MOST = 1 << 17 };
enum pw_attn_way { PW_ATTN_OURS, PW_ATTN_LIBRARY };
struct pw_attn_shape { int heads, groups, head_dim, sequences; int64_t rows, window; double softcap; }; /* window 0: all rows before */
struct pw_attn_choice { struct pw_attn_shape shape; enum pw_attn_way way; double seconds[2]; };
/* The shape that stands for a call; false where none does, and ours is the way. */
static inline bool pw_attn_shape_of(struct pw_attn_shape *out, int heads, int groups, int head_dim, int64_t window, double softcap, int64_t rows, int sequences)
{
    int64_t bucket = PW_ATTN_ROWS_LEAST;
    if (2 * rows <= PW_ATTN_ROWS_LEAST || rows > PW_ATTN_ROWS_MOST || sequences < 1 || sequences > 64) return false;
    while (bucket < rows) bucket *= 2;
    out->heads = heads, out->groups = groups, out->head_dim = head_dim;
    out->sequences = sequences == 1 ? 1 : sequences <= 8 ? 8 : 64;
    out->rows = bucket;
    out->window = window > 0 && window < bucket ? window : 0;
    out->softcap = softcap;
    return true;
}
static inline bool pw_attn_shape_same(const struct pw_attn_shape *a, const struct pw_attn_shape *b)
{
    return a->heads == b->heads && a->groups == b->groups && a->head_dim == b->head_dim && a->sequences == b->sequences && a->rows == b->rows && a->window == b->window && a->softcap == b->softcap;
}

struct pw_backend {
    const char *kind;
    const struct pw_ops *ops;
    /* Fills level, host, act and impl. `index`: the number after "cuda:", or -1. PW_E_REFUSED when there is no such device. */
    int (*open)(struct pw_dev *d, const struct pw_dev_options *opt, int index);
    void (*close)(struct pw_dev *d);
    int (*take)(struct pw_dev *d, void **out, size_t bytes);          /* cleared, aligned to 64 bytes; bytes > 0 */
    void (*give)(struct pw_dev *d, void *p);                          /* NULL is fine */
    int (*put)(struct pw_dev *d, void *device, const void *host, size_t bytes);
    int (*get)(struct pw_dev *d, void *host, const void *device, size_t bytes);
    int (*sync)(struct pw_dev *d);
    int (*memory)(struct pw_dev *d, size_t *free_bytes, size_t *total_bytes);
    size_t (*held)(const struct pw_dev *d);                           /* see pw_dev_held; 0 on host devices */
    int (*take_pinned)(struct pw_dev *d, void **out, size_t bytes);   /* host memory that transfers and kernels reach; cleared */
    void (*give_pinned)(struct pw_dev *d, void *p);
    int (*send)(struct pw_dev *d, int lane, void *host, const void *device, size_t bytes);
    int (*bring)(struct pw_dev *d, int lane, void *device, const void *host, size_t bytes);
    int (*wait)(struct pw_dev *d, int lane);
    int (*capture)(struct pw_dev *d);                                 /* NULL, all four: this backend captures nothing */
    int (*captured)(struct pw_dev *d, void **graph);                  /* graph NULL: what was recorded is dropped */
    int (*replay)(struct pw_dev *d, void *graph);
    void (*forget)(struct pw_dev *d, void *graph);
    /* Uses the lists, not copies, from now on, and makes ready what they name: PW_E_REFUSED when a library is not there that a choice is of. NULL, all
     * four: there is one way. */
    int (*choose)(struct pw_dev *d, const struct pw_choice *list, size_t n, const struct pw_attn_choice *attn, size_t n_attn);
    int64_t (*driver)(struct pw_dev *d);                              /* its version; 0: times mean nothing here */
    int64_t (*attn_library)(struct pw_dev *d);                        /* the version of attention's library; 0: it is not there */
    int (*attn_plan)(struct pw_dev *d, const struct pw_attn_shape *shape, bool *there); /* whether it has a plan for the shape */
    void (*peers_look)(struct pw_dev *d, struct pw_peers_look *out);  /* NULL, all five: its kind sums over no peers; see pw_dev_peers_* */
    int (*peers_id)(struct pw_dev *d, char id[PW_PEERS_ID]);
    int (*peers_join)(struct pw_dev *d, const char id[PW_PEERS_ID], int rank, int size, struct pw_waits w);
    int (*peers_sum)(struct pw_dev *d, float *data, size_t n, struct pw_waits w);
    void (*peers_leave)(struct pw_dev *d, bool together, struct pw_waits w);
    size_t (*scratch_linear)(const struct pw_dev *d, int64_t tokens, const struct pw_weight *w, bool backward);
    size_t (*scratch_head)(const struct pw_dev *d, int64_t tokens, const struct pw_weight *w, bool backward);
    size_t (*scratch_experts)(const struct pw_dev *d, int64_t rows, const struct pw_experts *experts, bool backward);
    size_t (*scratch_sample)(const struct pw_dev *d, int64_t vocab);
    size_t (*scratch_attn)(const struct pw_dev *d, int64_t tokens, int64_t keys, int heads, int kv_heads, int head_dim, bool backward);
};
extern const struct pw_backend pw_ref_backend, pw_cpu_backend; /* kernels/ref/, kernels/cpu/ */

/* The symbol a plugin exports. It returns NULL unless `version` and the size of the row are its own (a plugin of another build). */
typedef const struct pw_backend *pw_plugin_fn(const char *version, size_t row_bytes);
#define PW_PLUGIN_SYMBOL "pw_plugin_backend"

/* Linear layers whose adapter has a magnitude, made of a backend's other ops (dev->ops): kernels/dora.c. They begin in the device's scratch behind
 * what those want; pw_dora_scratch is all of it. Backends call them from their own linear_fwd, linear_bwd and scratch_linear. */
size_t pw_dora_scratch(const struct pw_dev *d, int64_t tokens, const struct pw_weight *w, bool backward);
int pw_dora_fwd(struct pw_dev *dev, struct pw_tensor y, struct pw_tensor xa, struct pw_tensor x, const struct pw_weight *w, struct pw_drop drop);
int pw_dora_bwd(struct pw_dev *dev, const struct pw_linear_grads *g, struct pw_tensor dy, struct pw_tensor x, struct pw_tensor xa, const struct pw_weight *w, struct pw_drop drop);

/* What the host backends share: kernels/dev.c. */
int pw_host_take(struct pw_dev *d, void **out, size_t bytes);
void pw_host_give(struct pw_dev *d, void *p);
int pw_host_move(struct pw_dev *d, void *to, const void *from, size_t bytes);
int pw_host_transfer(struct pw_dev *d, int lane, void *to, const void *from, size_t bytes);
int pw_host_wait(struct pw_dev *d, int lane);
int pw_host_sync(struct pw_dev *d);
size_t pw_host_held(const struct pw_dev *d);
int pw_host_memory(struct pw_dev *d, size_t *free_bytes, size_t *total_bytes);
#ifdef __cplusplus
}
#endif
#endif
