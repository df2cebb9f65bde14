/* Attention forward over keys and values in bf16: the op, and sequences with many queries (attn_fwd.h). */
#include "kernels/cuda/attn_fwd.h"
#include "kernels/cuda/attn_library.h"

int attn_forward(struct pw_dev *dev, const struct attn_args *a, const struct pw_seqs *seqs) { return forward_all<false, false>(dev, *a, seqs); }

struct attn_args attn_args_of(struct pw_tensor q, struct pw_tensor k, struct pw_tensor v, const struct pw_seqs *seqs, const struct pw_attn *attn)
{
    struct attn_args a = {};
    a.q = (const bf16 *)q.data;
    a.k = (const bf16 *)k.data;
    a.v = (const bf16 *)v.data;
    a.seqs = seqs->device;
    a.n_seqs = seqs->n;
    a.rows = (int)q.shape[0];
    a.pool = (int)k.shape[0];
    a.heads = (int)q.shape[1];
    a.groups = (int)k.shape[1];
    a.share = a.heads / a.groups;
    a.d = (int)q.shape[2];
    a.window = attn->window > 0 && attn->window < INT32_MAX ? (int)attn->window : INT32_MAX;
    a.has_prefix = seqs->prefix_len != NULL;
    if (seqs->pages) {
        a.pages = seqs->device + 5 * (int64_t)seqs->n + 1;
        a.page = (int)seqs->page;
        a.page_shift = -1;
        for (int i = 0; i < 31; i++) a.page_shift = a.page == 1 << i ? i : a.page_shift;
    }
    a.capped = attn->softcap > 0;
    a.scale = (float)attn->scale;
    a.inner = a.capped ? (float)(attn->scale / attn->softcap) : 0.0f;
    a.outer = (float)((a.capped ? attn->softcap : attn->scale) * (double)ATTN_LOG2E);
    return a;
}
bool attn_aligned(const void *const *p, int n, int64_t d)
{
    bool aligned = d % 8 == 0;
    for (int i = 0; i < n; i++) aligned = aligned && (uintptr_t)p[i] % 16 == 0;
    return aligned;
}

extern "C" int cuda_attn_fwd(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor lse, struct pw_tensor q, struct pw_tensor k, struct pw_tensor v,
                             const struct pw_seqs *seqs, const struct pw_attn *attn)
{
    struct attn_args a = attn_args_of(q, k, v, seqs, attn);
    const void *const all[] = {q.data, k.data, v.data, out.data};
    PW_CHECK(a.d <= 256, PW_E_UNSUPPORTED, "attn_fwd: device %s has kernels for head dimensions to 256, got %d", dev->kind, a.d);
    a.out = (bf16 *)out.data;
    a.lse = (float *)lse.data;
    a.vec = attn_aligned(all, 4, a.d);
    struct pw_attn_shape shape;
    if (attn_library_takes(dev, &a, seqs, attn, &shape)) return attn_library_fwd(dev, &a, seqs, &shape);
    if (a.pages) {
        PW_PASS(attn_forward_paged(dev, &a, seqs));
        return attn_decode_paged(dev, &a, seqs);
    }
    PW_PASS(attn_forward(dev, &a, seqs));
    return attn_decode(dev, &a, seqs);
}

extern "C" size_t cuda_scratch_attn(const struct pw_dev *dev, int64_t tokens, int64_t keys, int heads, int kv_heads, int head_dim, bool backward)
{
    const size_t library = attn_library_scratch(dev, tokens, heads, kv_heads, head_dim), ours = attn_decode_scratch(tokens, keys, heads, head_dim), forward = library > ours ? library : ours, delta = backward ? (size_t)tokens * (size_t)heads * sizeof(float) : 0;
    return forward > delta ? forward : delta;
}
