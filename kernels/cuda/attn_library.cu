/* Which attention the library does, and with what lists (see attn_library.h).
 *
 *   scratch   [lists: lengths, q_at, kv_at, lse_at][workspace of the plan]
 * The lists are made on the device from pw_seqs_put's, so that nothing waits: entry i >= n of a plan for more sequences has no rows and begins at the end. */
#include "kernels/cuda/attn_library.h"

#include "kernels/cuda/attn_cudnn.h"

enum { MOST = 64, THREADS = 128, LISTS = MOST + 3 * (MOST + 1) };
#if defined(__CUDACC__)
static const size_t FORCED_WORKSPACE = SDPA_WORKSPACE_MOST;
#else
static const size_t FORCED_WORKSPACE = 16384; /* the twin's is less, and simt protects every page of scratch at every launch */
#endif

static bool forced(const struct pw_dev *dev) { return cuda_of(dev)->hooks.attn_path == CUDA_ATTN_LIBRARY; }

/* Each sequence alone, over its own rows, all of them in a row. */
static bool own_rows(const struct attn_args *a, const struct pw_seqs *s)
{
    if (a->pages || s->prefix_len || s->most_keys > 0 || a->pool != a->rows || !a->lse || !a->vec) return false;
    for (int i = 0; i < s->n; i++)
        if (s->kv_start[i] != s->q_start[i] || s->kv_len[i] != s->q_start[i + 1] - s->q_start[i]) return false;
    return true;
}

bool attn_library_takes(struct pw_dev *dev, const struct attn_args *a, const struct pw_seqs *seqs, const struct pw_attn *attn, struct pw_attn_shape *shape)
{
    const struct cuda_impl *impl = cuda_of(dev);
    const int64_t rows = forced(dev) && a->rows <= PW_ATTN_ROWS_LEAST ? PW_ATTN_ROWS_LEAST : a->rows;
    if (impl->capturing || (impl->n_attn == 0 && !forced(dev)) || (!seqs->company && !forced(dev)) || a->rows == 0 || !own_rows(a, seqs)) return false;
    if (!pw_attn_shape_of(shape, a->heads, a->groups, a->d, attn->window, attn->softcap, rows, seqs->n)) return false;
    if (forced(dev)) { /* nobody asked before */
        bool there = false;
        size_t workspace = 0;
        return sdpa_plan(impl->sdpa, shape, &there, &workspace) < 0 || there; /* an error comes again, and is said, in the call */
    }
    for (size_t i = 0; i < impl->n_attn; i++)
        if (pw_attn_shape_same(&impl->attn[i].shape, shape)) return impl->attn[i].way == PW_ATTN_LIBRARY;
    return false;
}

__global__ void attn_lists_kernel(int32_t *__restrict__ out, const int32_t *__restrict__ q_start, int n, int sequences, int q_width, int kv_width, int heads)
{
    const int i = (int)threadIdx.x;
    if (i > sequences) return;
    const int32_t at = q_start[min(i, n)];
    if (i < sequences) out[i] = i < n ? q_start[i + 1] - at : 0;
    out += sequences;
    out[i] = at * q_width;
    out[sequences + 1 + i] = at * kv_width;
    out[2 * (sequences + 1) + i] = at * heads;
}

static size_t lists_bytes(void) { return cuda_round(LISTS * sizeof(int32_t)); }

int attn_library_fwd(struct pw_dev *dev, const struct attn_args *a, const struct pw_seqs *seqs, const struct pw_attn_shape *shape)
{
    struct cuda_impl *impl = cuda_of(dev);
    int32_t *const lists = (int32_t *)dev->scratch;
    const int n = shape->sequences;
    if (forced(dev)) {
        bool there = false;
        size_t workspace = 0;
        PW_PASS(sdpa_plan(impl->sdpa, shape, &there, &workspace));
    }
    CUDA_LAUNCH(dev, "attn_fwd", attn_lists_kernel, 1, THREADS, 0, lists, a->seqs, seqs->n, n, a->heads * a->d, a->groups * a->d, a->heads);
    const struct sdpa_call call = {a->q, a->k, a->v, a->out, a->lse, lists, lists + n, lists + n + (n + 1), lists + n + 2 * (n + 1), a->scale, (char *)dev->scratch + lists_bytes(), (void *)impl->stream};
    PW_PASS(sdpa_run(impl->sdpa, "attn_fwd", shape, &call));
    impl->last = "attn_fwd";
    impl->queued++;
    return 0;
}

size_t attn_library_scratch(const struct pw_dev *dev, int64_t tokens, int heads, int kv_heads, int head_dim)
{
    const struct cuda_impl *impl = cuda_of(dev);
    size_t most = forced(dev) ? lists_bytes() + FORCED_WORKSPACE : 0;
    for (size_t i = 0; i < impl->n_attn; i++) {
        const struct pw_attn_shape *s = &impl->attn[i].shape;
        if (impl->attn[i].way != PW_ATTN_LIBRARY || s->heads != heads || s->groups != kv_heads || s->head_dim != head_dim || 2 * tokens <= s->rows) continue;
        const size_t bytes = lists_bytes() + sdpa_workspace(impl->sdpa, s);
        most = bytes > most ? bytes : most;
    }
    return most;
}

/* ---- making ready ---- */

static int warm(struct pw_dev *dev, const struct pw_attn_shape *s, size_t workspace)
{
    const size_t q = cuda_round((size_t)s->rows * (size_t)(s->heads * s->head_dim) * 2), kv = cuda_round((size_t)s->rows * (size_t)(s->groups * s->head_dim) * 2), lse = cuda_round((size_t)s->rows * (size_t)s->heads * 4);
    void *memory = NULL;
    PW_PASS(dev->backend->take(dev, &memory, 2 * q + 2 * kv + lse + lists_bytes() + workspace)); /* cleared: all lengths are 0 */
    char *const at = (char *)memory;
    const int32_t *lists = (const int32_t *)(at + 2 * q + 2 * kv + lse);
    const int n = s->sequences;
    const struct sdpa_call call = {at, at + 2 * q, at + 2 * q + kv, at + q, (float *)(at + 2 * q + 2 * kv), lists, lists + n, lists + n + (n + 1), lists + n + 2 * (n + 1), 1.0f, at + 2 * q + 2 * kv + lse + lists_bytes(), (void *)cuda_of(dev)->stream};
    int rc = sdpa_run(cuda_of(dev)->sdpa, "attn_fwd", s, &call);
    if (rc == 0) rc = dev->backend->sync(dev);
    dev->backend->give(dev, memory);
    return rc;
}

int attn_library_ready(struct pw_dev *dev, const struct pw_attn_shape *shape, bool *there)
{
    size_t workspace = 0;
    PW_PASS(sdpa_plan(cuda_of(dev)->sdpa, shape, there, &workspace));
    if (*there) PW_TRY(warm(dev, shape, workspace), "making attention of %lld rows by cuDNN ready", (long long)shape->rows);
    return 0;
}

int attn_library_use(struct pw_dev *dev, const struct pw_attn_choice *list, size_t n)
{
    struct cuda_impl *impl = cuda_of(dev);
    impl->attn = NULL;
    impl->n_attn = 0;
    for (size_t i = 0; i < n; i++) {
        const struct pw_attn_shape *s = &list[i].shape;
        const char *why = NULL;
        bool there = false;
        if (list[i].way != PW_ATTN_LIBRARY) continue;
        PW_CHECK(sdpa_version(impl->sdpa, &why) != 0, PW_E_REFUSED, "attention of %lld rows was chosen to go by cuDNN: %s", (long long)s->rows, why);
        PW_PASS(attn_library_ready(dev, s, &there));
        PW_CHECK(there, PW_E_REFUSED, "attention of %lld rows, %d and %d heads of %d was chosen to go by cuDNN, which has no plan for it", (long long)s->rows, s->heads, s->groups, s->head_dim);
    }
    impl->attn = list;
    impl->n_attn = n;
    return 0;
}
