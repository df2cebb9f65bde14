/* Linear layers whose adapter has a magnitude (DoRA), as a composition of the ops without one: what the backends but ref share.
 *
 * c = m / norm, x' = dropout(x), u = x' W^T + scale (x' A^T) B^T:        y = (x - x') W^T + c u + bias
 *     without dropout one product of W forward, with it two; backward one (two) to x, and one more for dm, which wants u again:
 *     kept, it would be as large as y, for every linear layer of a block.
 *     dm (N) = sum over rows of dy u / norm;  du = c dy gives dA, dB and dx' as in a plain layer;  dx = (1 - k) (dy W) + k dx'
 * Buffers lie in the device's scratch behind what the plain ops want. On devices in bf16, u, du, x' and dx' are rounded to it. */
#include "base/error.h"
#include "kernels/backend.h"

/* The layer without magnitude and bias; low: with the adapter. */
struct plain { struct pw_weight w; struct pw_lora lora; };
static void plain_of(struct plain *p, const struct pw_weight *w, bool low)
{
    p->w = *w;
    p->w.bias = NULL;
    p->lora = *w->lora;
    p->lora.magnitude = p->lora.norm = pw_none();
    p->w.lora = low ? &p->lora : NULL;
}

struct room { struct pw_tensor product /* (T, N) */, xa /* (T, R) */, kept, part /* (T, K) */; size_t bytes; };
static struct pw_tensor piece(const struct pw_dev *d, struct room *r, bool wanted, int64_t rows, int64_t width)
{
    if (!wanted) return pw_none();
    const size_t at = r->bytes;
    r->bytes += ((size_t)(rows * width) * pw_dtype_bytes(d->act) + 255) & ~(size_t)255;
    return pw_tensor2((char *)d->scratch + at, d->act, rows, width);
}
static struct room room_of(const struct pw_dev *d, int64_t tokens, const struct pw_weight *w, bool backward)
{
    struct plain p;
    struct room r = { .bytes = 0 };
    plain_of(&p, w, true);
    const size_t forward_bytes = d->backend->scratch_linear(d, tokens, &p.w, false), backward_bytes = backward ? d->backend->scratch_linear(d, tokens, &p.w, true) : 0;
    r.bytes = ((forward_bytes > backward_bytes ? forward_bytes : backward_bytes) + 255) & ~(size_t)255;
    const bool drops = w->lora->drops;
    r.product = piece(d, &r, backward || drops, tokens, w->n_out);
    r.xa = piece(d, &r, backward, tokens, w->lora->r);
    r.kept = piece(d, &r, drops, tokens, w->n_in);
    r.part = piece(d, &r, backward && drops, tokens, w->n_in);
    return r;
}
size_t pw_dora_scratch(const struct pw_dev *d, int64_t tokens, const struct pw_weight *w, bool backward) { return tokens > 0 ? room_of(d, tokens, w, backward).bytes : 0; }

static struct pw_tensor bias_of(const struct pw_weight *w) { return w->bias ? pw_tensor1((void *)(uintptr_t)w->bias, PW_F32, w->n_out) : pw_none(); }
static const struct pw_drop still = { .p = 0 };

int pw_dora_fwd(struct pw_dev *dev, struct pw_tensor y, struct pw_tensor xa, struct pw_tensor x, const struct pw_weight *w, struct pw_drop drop)
{
    const struct pw_lora *lora = w->lora;
    struct plain base, low;
    plain_of(&base, w, false);
    plain_of(&low, w, true);
    if (x.shape[0] == 0) return 0;
    if (drop.p <= 0) {
        PW_PASS(dev->ops->linear_fwd(dev, y, xa, x, &low.w, still));
        return dev->ops->column_scale(dev, y, y, lora->magnitude, lora->norm, bias_of(w), false);
    }
    const struct room r = room_of(dev, x.shape[0], w, false);
    PW_PASS(dev->ops->dropout(dev, r.kept, x, drop, true, false));
    PW_PASS(dev->ops->linear_fwd(dev, y, pw_none(), r.kept, &base.w, still));
    PW_PASS(dev->ops->dropout(dev, r.kept, x, drop, false, false));
    PW_PASS(dev->ops->linear_fwd(dev, r.product, xa, r.kept, &low.w, still));
    return dev->ops->column_scale(dev, y, r.product, lora->magnitude, lora->norm, bias_of(w), true);
}

int pw_dora_bwd(struct pw_dev *dev, const struct pw_linear_grads *g, struct pw_tensor dy, struct pw_tensor x, struct pw_tensor xa, const struct pw_weight *w, struct pw_drop drop)
{
    const struct pw_lora *lora = w->lora;
    const bool drops = drop.p > 0;
    struct plain base, low;
    plain_of(&base, w, false);
    plain_of(&low, w, true);
    if (dy.shape[0] == 0) return 0;
    const struct room r = room_of(dev, dy.shape[0], w, true);
    if (g->dbias.data) {
        const struct pw_linear_grads alone = { .dbias = g->dbias };
        PW_PASS(dev->ops->linear_bwd(dev, &alone, dy, pw_none(), pw_none(), &base.w, still));
    }
    struct pw_linear_grads inner = { .dx = g->dx, .da = g->da, .db = g->db };
    if (drops && g->dx.data) {
        const struct pw_linear_grads through = { .dx = r.part };
        PW_PASS(dev->ops->fill(dev, r.part, 0));
        PW_PASS(dev->ops->linear_bwd(dev, &through, dy, pw_none(), pw_none(), &base.w, still));
        PW_PASS(dev->ops->dropout(dev, g->dx, r.part, drop, true, true));
        PW_PASS(dev->ops->fill(dev, r.part, 0));
        inner.dx = r.part;
    }
    if (drops && (g->da.data || g->dm.data)) {
        PW_PASS(dev->ops->dropout(dev, r.kept, x, drop, false, false));
        x = r.kept;
    }
    PW_PASS(dev->ops->column_scale(dev, r.product, dy, lora->magnitude, lora->norm, pw_none(), false));
    PW_PASS(dev->ops->linear_bwd(dev, &inner, r.product, x, xa, &low.w, still));
    if (drops && g->dx.data) PW_PASS(dev->ops->dropout(dev, g->dx, r.part, drop, false, true));
    if (!g->dm.data) return 0;
    PW_PASS(dev->ops->linear_fwd(dev, r.product, r.xa, x, &low.w, still));
    return dev->ops->column_dot(dev, g->dm, dy, r.product, lora->norm);
}
