/* Linear layers of experts, over rows in the order of their experts: where an expert's rows begin and end is read on the device (tile.h: span), so nothing
 * waits for the host and a step with experts can be captured.
 *
 * Every product of linear.cu is one launch for each expert, with blocks for all rows there could be; those past the expert's rows leave at once.
 *   y, dx     the fused kernel, whatever the number of rows. A weight that it cannot decode is decoded to bf16 a part at a time, as in linear.cu
 *   xa, dxa   partial sums of all rows lie side by side, each expert writes its own; one pass adds them up for all
 *   da, db    partial sums of one expert, added into its gradients before the next
 * Cost, not measured: with N rows and E experts (E - 1) / E of the blocks do nothing, and there are E launches a product: small beside 8 experts' products,
 * not beside those of 128 when few tokens are decoded. One launch for all experts, with weights found through a table on the device, is the way on.
 * A row's result does not depend on the rows beside it: the order of its sums is that of k alone. */
#include "kernels/cuda/linear.h"
#include "kernels/cuda/tile.h"

enum { FEW_ROWS = 64, FEW_EACH = 16 }; /* blocks of 64 x 32 up to so many rows in all, or an expert on average */

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t whole(int64_t n, int64_t of) { return (n + of - 1) / of * of; }

/* Backward: dxa (rows, R) bf16. Then, one after the other in the same place: partial sums; a decoded part of one weight. */
struct layout { size_t shared, bytes; };
static struct layout layout_of(const struct pw_dev *dev, int64_t rows, const struct pw_experts *experts, bool backward)
{
    const struct pw_weight *w = experts->w;
    const int64_t r = w->lora ? w->lora->r : 0;
    struct layout l = {};
    if (backward) l.shared = cuda_round((size_t)(rows * r) * 2);
    int64_t partial = linear_pieces(backward ? w->n_out : w->n_in) * rows * r;
    if (backward) partial = most(partial, linear_token_pieces(rows) * r * most(w->n_in, w->n_out));
    size_t decoded = 0;
    for (int e = 0; e < experts->n && decoded == 0; e++)
        if (!linear_fused(&w[e])) decoded = cuda_round((size_t)(linear_decoded_part(dev, w, backward) * (backward ? w->n_out : whole(w->n_in, 8))) * 2);
    const size_t sums = cuda_round((size_t)partial * 4);
    l.bytes = l.shared + (sums > decoded ? sums : decoded);
    return l;
}
extern "C" size_t cuda_scratch_experts(const struct pw_dev *dev, int64_t rows, const struct pw_experts *experts, bool backward)
{
    return rows > 0 ? layout_of(dev, rows, experts, backward).bytes : 0;
}

struct call { struct pw_dev *dev; const char *op; const struct pw_experts *experts; const int32_t *starts; struct pw_drop drop; char *scratch; };

static struct cuda_drop drop_of(const struct call *k, int e)
{
    struct pw_drop d = k->drop;
    d.offset += (uint64_t)e * PW_EXPERT_STREAM;
    return cuda_drop_of(d);
}

/* out (rows, R) = factor * (keep x) A^T, or factor * scale dy B */
static int low_rows(const struct call *k, bf16 *out, struct pw_tensor x, bool turned, float factor, float *partial)
{
    const int64_t rows = x.shape[0], terms = x.shape[1], r = k->experts->w->lora->r;
    for (int e = 0; e < k->experts->n; e++) {
        const struct pw_tensor low = turned ? k->experts->w[e].lora->b : k->experts->w[e].lora->a;
        struct tile_args g = tile_args_of(x, tile_view(low.data, low.shape[1]), tile_words(low.data, low.shape[1], low.shape[1]), rows, r, terms, LINEAR_PIECE, partial, r);
        g.c_f32 = true;
        g.c_piece = rows * r;
        g.span = k->starts + e;
        if (turned) g.alpha = (float)k->experts->w[e].lora->scale;
        else g.drop = drop_of(k, e);
        PW_PASS(turned ? tile_low_nn(k->dev, k->op, &g) : tile_low_nt(k->dev, k->op, &g));
    }
    return linear_pieces_store(k->dev, k->op, out, partial, rows * r, linear_pieces(terms), factor);
}

/* out (M, R), or (R, M) when turned, += factor * (keep a)^T b over the rows of expert e */
static int low_weight(const struct call *k, int e, float *out, bool turned, struct pw_tensor a, const bf16 *b, bool masked, float factor, float *partial)
{
    const int64_t rows = a.shape[0], m = a.shape[1], r = k->experts->w->lora->r;
    struct tile_args g = tile_args_of(a, tile_view(b, r), tile_words(b, r, r), m, r, rows, linear_token_piece(rows), partial, turned ? m : r);
    g.c_f32 = true;
    g.c_turned = turned;
    g.c_piece = m * r;
    g.span = k->starts + e;
    if (masked) g.drop = drop_of(k, e);
    PW_PASS(tile_low_tn(k->dev, k->op, &g));
    return linear_pieces_add(k->dev, k->op, out, partial, m * r, linear_token_pieces(rows), factor);
}

/* ---- forward ---- */

static int forward(const struct call *k, int e, struct pw_tensor y, struct pw_tensor xa, struct pw_tensor x)
{
    const struct pw_weight *w = &k->experts->w[e];
    const bool fused = linear_fused(w), few = x.shape[0] <= FEW_ROWS || x.shape[0] / k->experts->n <= FEW_EACH;
    const int64_t part = fused ? w->n_out : linear_decoded_part(k->dev, w, false), ld = whole(w->n_in, 8);
    for (int64_t n = 0; n < w->n_out; n += part) {
        const int64_t columns = least(part, w->n_out - n);
        struct tile_args g = tile_args_of(x, fused ? cuda_weight_of(w) : tile_view(k->scratch, ld), fused ? linear_words(w) : true, x.shape[0], columns, w->n_in, whole(w->n_in, TILE_K),
                                          (bf16 *)y.data + n, w->n_out);
        if (!fused) PW_PASS(linear_unpack(k->dev, k->op, (bf16 *)k->scratch, columns, ld, w, n, 0));
        g.bias = w->bias ? w->bias + n : NULL;
        g.span = k->starts + e;
        if (w->lora) {
            tile_add_low(&g, w->lora, (const bf16 *)xa.data, w->lora->b, (float)w->lora->scale);
            g.low_w += n * w->lora->r;
        }
        const enum decode_kind kind = fused ? cuda_decode_kind(w) : DECODE_BF16;
        PW_PASS(few ? tile_nt_few(k->dev, k->op, kind, &g) : tile_nt(k->dev, k->op, kind, &g));
    }
    return 0;
}

extern "C" int cuda_experts_fwd(struct pw_dev *dev, struct pw_tensor y, struct pw_tensor xa, struct pw_tensor x, struct pw_tensor starts, const struct pw_experts *experts, struct pw_drop drop)
{
    const struct call k = {dev, "experts_fwd", experts, (const int32_t *)starts.data, drop, (char *)dev->scratch};
    PW_PASS(linear_known(dev, k.op, experts->w));
    if (x.shape[0] == 0) return 0;
    if (experts->w->lora) PW_PASS(low_rows(&k, (bf16 *)xa.data, x, false, cuda_drop_of(drop).inverse, (float *)k.scratch));
    for (int e = 0; e < experts->n; e++) PW_PASS(forward(&k, e, y, xa, x));
    return 0;
}

/* ---- backward ---- */

static int backward_x(const struct call *k, int e, struct pw_tensor dx, struct pw_tensor dy, const bf16 *dxa)
{
    const struct pw_weight *w = &k->experts->w[e];
    const bool fused = linear_fused(w);
    const int64_t rows = dy.shape[0];
    struct tile_args g = tile_args_of(dy, cuda_weight_of(w), linear_words(w), rows, w->n_in, fused ? w->n_out : 0, whole(w->n_out, TILE_K), dx.data, w->n_in);
    g.beta = 1;
    g.span = k->starts + e;
    g.drop = drop_of(k, e);
    if (w->lora) tile_add_low(&g, w->lora, dxa, w->lora->a, 1);
    if (fused) return tile_nn(k->dev, k->op, cuda_decode_kind(w), &g);
    if (w->lora) PW_PASS(tile_nn(k->dev, k->op, DECODE_BF16, &g)); /* no terms of W: the adapter alone */
    const int64_t part = linear_decoded_part(k->dev, w, true);
    for (int64_t n = 0; n < w->n_in; n += part) {
        struct tile_args p = tile_args_of(dy, tile_view(k->scratch, part), true, rows, least(part, w->n_in - n), w->n_out, whole(w->n_out, TILE_K), (bf16 *)dx.data + n, w->n_in);
        p.beta = 1;
        p.span = k->starts + e;
        PW_PASS(linear_unpack(k->dev, k->op, (bf16 *)k->scratch, w->n_out, part, w, 0, n));
        PW_PASS(tile_nn(k->dev, k->op, DECODE_BF16, &p));
    }
    return 0;
}

extern "C" int cuda_experts_bwd(struct pw_dev *dev, struct pw_tensor dx, const struct pw_linear_grads *g, struct pw_tensor dy, struct pw_tensor x, struct pw_tensor xa, struct pw_tensor starts,
                                const struct pw_experts *experts, struct pw_drop drop)
{
    const int64_t rows = dy.shape[0];
    const struct layout l = layout_of(dev, rows, experts, true);
    const struct call k = {dev, "experts_bwd", experts, (const int32_t *)starts.data, drop, (char *)dev->scratch + l.shared};
    const struct pw_weight *w = experts->w;
    bf16 *dxa = (bf16 *)dev->scratch;
    float *partial = (float *)k.scratch;
    PW_PASS(linear_known(dev, k.op, w));
    if (rows == 0) return 0;
    bool any = dx.data != NULL;
    for (int e = 0; g && e < experts->n; e++) any |= g[e].da.data != NULL;
    if (w->lora && any) PW_PASS(low_rows(&k, dxa, dy, true, 1, partial));
    for (int e = 0; e < experts->n; e++) {
        if (g && g[e].db.data) PW_PASS(low_weight(&k, e, (float *)g[e].db.data, false, dy, (const bf16 *)xa.data, false, (float)w[e].lora->scale, partial));
        if (g && g[e].da.data) PW_PASS(low_weight(&k, e, (float *)g[e].da.data, true, x, dxa, true, cuda_drop_of(drop).inverse, partial));
        if (dx.data) PW_PASS(backward_x(&k, e, dx, dy, dxa));
    }
    return 0;
}
