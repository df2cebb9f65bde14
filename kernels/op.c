/* The checked entry points: shape, dtype, contiguity, aliasing and ids are validated here, once; then the device's table is called.
 * Backends hold no validation. Messages read "rmsnorm_fwd: w: expected (128) f32, got (64) f32". Computes nothing. */
#include "kernels/op_check.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "kernels/backend.h"
#include "kernels/blocks.h"

/* ---- simple ops ---- */

int pw_fill(struct pw_dev *dev, struct pw_tensor x, double value)
{
    PW_CHECK(x.data && op_is_float(x.dtype) && pw_contiguous(x), PW_E_FAIL, "fill: x: expected a contiguous float tensor, got %s", x.data ? pw_dtype_name(x.dtype) : "none");
    return op_over(dev->ops->fill(dev, x, value), x);
}

int pw_copy(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x)
{
    PW_CHECK(x.data && op_is_float(x.dtype), PW_E_FAIL, "copy: x: expected a float tensor, got %s", x.data ? pw_dtype_name(x.dtype) : "none");
    PW_CHECK(out.data && op_is_float(out.dtype), PW_E_FAIL, "copy: out: expected a float tensor, got %s", out.data ? pw_dtype_name(out.dtype) : "none");
    PW_PASS(op_shape("copy", "x", x, x.dtype, x.ndim, x.shape));
    PW_PASS(op_shape("copy", "out", out, out.dtype, x.ndim, x.shape));
    struct named outs[] = { NAMED(out) }, ins[] = { NAMED(x) };
    APART("copy", outs, ins);
    return op_over(dev->ops->copy(dev, out, x), x);
}

int pw_axpy(struct pw_dev *dev, struct pw_tensor y, struct pw_tensor x, double alpha)
{
    PW_PASS(op_lead_any(dev, "axpy", "y", y, 0));
    PW_PASS(op_want_like("axpy", "x", x, y));
    PW_PASS(op_same_or_apart("axpy", "y", y, "x", x));
    return op_over(dev->ops->axpy(dev, y, x, alpha), x);
}

int pw_scale(struct pw_dev *dev, struct pw_tensor x, double alpha)
{
    PW_PASS(op_lead_any(dev, "scale", "x", x, 0));
    return op_over(dev->ops->scale(dev, x, alpha), x);
}

int pw_noise(struct pw_dev *dev, struct pw_tensor x, struct pw_tensor scale, struct pw_drop draw)
{
    PW_PASS(op_lead_any(dev, "noise", "x", x, 2));
    PW_PASS(op_want1("noise", "scale", scale, PW_F32, x.shape[0]));
    struct named outs[] = { NAMED(x) }, ins[] = { NAMED(scale) };
    APART("noise", outs, ins);
    return op_over(dev->ops->noise(dev, x, scale, draw), x);
}

int pw_embed_fwd(struct pw_dev *dev, struct pw_tensor out, const struct pw_weight *table, struct pw_tensor ids)
{
    PW_PASS(op_lead(dev, "embed_fwd", "out", out, 2));
    PW_PASS(op_good_weight(dev, "embed_fwd", table, out.dtype));
    PW_CHECK(table->n_in == out.shape[1], PW_E_FAIL, "embed_fwd: table: expected rows of %" PRId64 ", got %" PRId64, out.shape[1], table->n_in);
    PW_PASS(op_want1("embed_fwd", "ids", ids, PW_I32, out.shape[0]));
    PW_PASS(op_ids_in(dev, "embed_fwd", "ids", ids, 0, table->n_out));
    struct named outs[] = { NAMED(out) }, ins[] = { { "table", op_weight_view(table) }, NAMED(ids) };
    APART("embed_fwd", outs, ins);
    return op_over(dev->ops->embed_fwd(dev, out, table, ids), out);
}

int pw_embed_bwd(struct pw_dev *dev, struct pw_tensor dtable, struct pw_tensor dout, struct pw_tensor ids)
{
    PW_PASS(op_lead_wide(dev, "embed_bwd", "dtable", dtable, 2));
    PW_PASS(op_lead(dev, "embed_bwd", "dout", dout, 2));
    PW_PASS(op_want2("embed_bwd", "dout", dout, dtable.dtype == PW_F64 ? PW_F64 : dev->act, dout.shape[0], dtable.shape[1]));
    PW_PASS(op_want1("embed_bwd", "ids", ids, PW_I32, dout.shape[0]));
    PW_PASS(op_ids_in(dev, "embed_bwd", "ids", ids, 0, dtable.shape[0]));
    struct named outs[] = { NAMED(dtable) }, ins[] = { NAMED(dout), NAMED(ids) };
    APART("embed_bwd", outs, ins);
    return op_over(dev->ops->embed_bwd(dev, dtable, dout, ids), dout);
}

int pw_rmsnorm_fwd(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor inv_rms, struct pw_tensor x, struct pw_tensor w, double eps, double w_offset)
{
    const char *op = "rmsnorm_fwd";
    PW_PASS(op_lead(dev, op, "x", x, 2));
    PW_CHECK(x.shape[1] >= 1, PW_E_FAIL, "%s: x: rows without elements", op);
    PW_PASS(op_want_like(op, "out", out, x));
    PW_PASS(op_want1(op, "w", w, op_wide_of(x.dtype), x.shape[1]));
    if (inv_rms.data) PW_PASS(op_want1(op, "inv_rms", inv_rms, op_wide_of(x.dtype), x.shape[0]));
    PW_CHECK(eps >= 0 && isfinite(eps), PW_E_FAIL, "%s: eps: expected a number >= 0, got %g", op, eps);
    PW_PASS(op_same_or_apart(op, "out", out, "x", x));
    struct named outs[] = { NAMED(out), NAMED(inv_rms) }, ins[] = { NAMED(w) };
    APART(op, outs, ins);
    return op_over(dev->ops->rmsnorm_fwd(dev, out, inv_rms, x, w, eps, w_offset), x);
}

int pw_rmsnorm_bwd(struct pw_dev *dev, struct pw_tensor dx, struct pw_tensor dw, struct pw_tensor dout, struct pw_tensor x, struct pw_tensor w, struct pw_tensor inv_rms, double w_offset)
{
    const char *op = "rmsnorm_bwd";
    PW_PASS(op_lead(dev, op, "dx", dx, 2));
    PW_CHECK(dx.shape[1] >= 1, PW_E_FAIL, "%s: dx: rows without elements", op);
    PW_PASS(op_want_like(op, "dout", dout, dx));
    PW_PASS(op_want_like(op, "x", x, dx));
    PW_PASS(op_want1(op, "w", w, op_wide_of(dx.dtype), dx.shape[1]));
    PW_PASS(op_want1(op, "inv_rms", inv_rms, op_wide_of(dx.dtype), dx.shape[0]));
    if (dw.data) PW_PASS(op_want1(op, "dw", dw, op_wide_of(dx.dtype), dx.shape[1]));
    struct named outs[] = { NAMED(dx), NAMED(dw) }, ins[] = { NAMED(dout), NAMED(x), NAMED(w), NAMED(inv_rms) };
    APART(op, outs, ins);
    return op_over(dev->ops->rmsnorm_bwd(dev, dx, dw, dout, x, w, inv_rms, w_offset), dout);
}

int pw_rope(struct pw_dev *dev, struct pw_tensor x, struct pw_tensor pos, struct pw_tensor cosines, struct pw_tensor sines, enum pw_rope_layout layout, int direction)
{
    PW_PASS(op_lead(dev, "rope", "x", x, 3));
    PW_CHECK(cosines.ndim == 2 && cosines.shape[1] >= 0 && cosines.shape[1] <= x.shape[2] / 2, PW_E_FAIL,
             "rope: cosines: expected (P, at most %" PRId64 "), got %" PRId64 " columns", x.shape[2] / 2, cosines.ndim == 2 ? cosines.shape[1] : -1);
    PW_PASS(op_want2("rope", "cosines", cosines, op_wide_of(x.dtype), cosines.shape[0], cosines.shape[1]));
    PW_PASS(op_want_like("rope", "sines", sines, cosines));
    PW_PASS(op_want1("rope", "pos", pos, PW_I32, x.shape[0]));
    PW_PASS(op_ids_in(dev, "rope", "pos", pos, 0, cosines.shape[0]));
    PW_CHECK(direction == 1 || direction == -1, PW_E_FAIL, "rope: direction: expected 1 or -1, got %d", direction);
    PW_CHECK(layout == PW_ROPE_HALF || layout == PW_ROPE_INTERLEAVED, PW_E_FAIL, "rope: unknown layout %d", (int)layout);
    struct named outs[] = { NAMED(x) }, ins[] = { NAMED(pos), NAMED(cosines), NAMED(sines) };
    APART("rope", outs, ins);
    return op_over(dev->ops->rope(dev, x, pos, cosines, sines, layout, direction), x);
}

/* ---- attention ---- */

static int good_attn_as(const struct pw_dev *dev, const char *op, struct pw_tensor q, struct pw_tensor k, struct pw_tensor v, enum pw_dtype pool, const struct pw_seqs *seqs,
                        const struct pw_attn *attn, bool backward)
{
    PW_PASS(op_lead(dev, op, "q", q, 3));
    PW_CHECK(q.shape[1] >= 1 && q.shape[2] >= 1, PW_E_FAIL, "%s: q: expected (T, H, d), got no heads", op);
    PW_CHECK(k.ndim == 3 && k.shape[1] >= 1 && q.shape[1] % k.shape[1] == 0, PW_E_FAIL,
             "%s: k: expected (S, G, d) with G dividing %" PRId64 ", got G = %" PRId64, op, q.shape[1], k.ndim == 3 ? k.shape[1] : -1);
    PW_PASS(op_want3(op, "k", k, pool, k.shape[0], k.shape[1], q.shape[2]));
    PW_PASS(op_want_like(op, "v", v, k));
    PW_CHECK(attn && isfinite(attn->scale) && attn->softcap >= 0 && isfinite(attn->softcap) && attn->window >= 0, PW_E_FAIL, "%s: attn: scale, window or softcap out of range", op);
    PW_PASS(op_good_seqs(op, seqs, q.shape[0], k.shape[0], backward));
    PW_CHECK(dev->host || seqs->n == 0 || seqs->device, PW_E_FAIL, "%s: seqs: the lists are not on device %s (pw_seqs_put)", op, dev->kind);
    return op_enough(dev, op, pw_scratch_attn(dev, q.shape[0], k.shape[0], (int)q.shape[1], (int)k.shape[1], (int)q.shape[2], backward));
}

static int good_attn(const struct pw_dev *dev, const char *op, struct pw_tensor q, struct pw_tensor k, struct pw_tensor v, const struct pw_seqs *seqs,
                     const struct pw_attn *attn, bool backward)
{
    return good_attn_as(dev, op, q, k, v, q.dtype, seqs, attn, backward);
}

int pw_attn_fwd(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor lse, struct pw_tensor q, struct pw_tensor k, struct pw_tensor v, const struct pw_seqs *seqs, const struct pw_attn *attn)
{
    const char *op = "attn_fwd";
    PW_PASS(good_attn(dev, op, q, k, v, seqs, attn, false));
    PW_PASS(op_want_like(op, "out", out, q));
    if (lse.data) PW_PASS(op_want2(op, "lse", lse, op_wide_of(q.dtype), q.shape[0], q.shape[1]));
    struct named outs[] = { NAMED(out), NAMED(lse) }, ins[] = { NAMED(q), NAMED(k), NAMED(v) };
    APART(op, outs, ins);
    return op_over(dev->ops->attn_fwd(dev, out, lse, q, k, v, seqs, attn), q);
}

/* ---- cache ---- */

static int good_pool(const struct pw_dev *dev, const char *op, const char *name, struct pw_tensor pool, struct pw_tensor scale, enum pw_dtype act)
{
    PW_CHECK(pool.data && pool.ndim == 3 && pool.shape[0] >= 0 && pool.shape[1] >= 1 && pool.shape[2] >= 1, PW_E_FAIL, "%s: %s: expected a pool (S, G, d), got %s", op, name,
             pool.data ? "other dimensions" : "none");
    PW_CHECK(pool.dtype == act || pool.dtype == PW_BF16 || pool.dtype == PW_I8, PW_E_FAIL, "%s: %s: expected %s, bf16 or i8, got %s", op, name, pw_dtype_name(act), pw_dtype_name(pool.dtype));
    PW_CHECK(pw_contiguous(pool), PW_E_FAIL, "%s: %s: expected contiguous rows, got strides", op, name);
    if (pool.dtype == PW_I8) return op_want2(op, "scale", scale, op_wide_of(act), pool.shape[0], pool.shape[1]);
    PW_CHECK(!scale.data, PW_E_FAIL, "%s: scale: expected none beside a pool of %s", op, pw_dtype_name(pool.dtype));
    (void)dev;
    return 0;
}

int pw_cache_put(struct pw_dev *dev, struct pw_tensor pool, struct pw_tensor scale, struct pw_tensor x, struct pw_tensor rows)
{
    const char *op = "cache_put";
    PW_PASS(op_lead(dev, op, "x", x, 3));
    PW_PASS(good_pool(dev, op, "pool", pool, scale, x.dtype));
    PW_PASS(op_want3(op, "x", x, x.dtype, x.shape[0], pool.shape[1], pool.shape[2]));
    PW_PASS(op_want1(op, "rows", rows, PW_I32, x.shape[0]));
    PW_PASS(op_ids_in(dev, op, "rows", rows, 0, pool.shape[0]));
    struct named outs[] = { NAMED(pool), NAMED(scale) }, ins[] = { NAMED(x), NAMED(rows) };
    APART(op, outs, ins);
    return op_over(pool.dtype == x.dtype ? dev->ops->scatter_rows(dev, pool, x, rows) : dev->ops->cache_put(dev, pool, scale, x, rows), x);
}

int pw_cache_attn(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor lse, struct pw_tensor q, const struct pw_cache *cache, const struct pw_seqs *seqs, const struct pw_attn *attn)
{
    const char *op = "cache_attn";
    PW_CHECK(cache, PW_E_FAIL, "%s: expected a cache, got none", op);
    const struct pw_tensor k = cache->k, v = cache->v, k_scale = cache->k_scale, v_scale = cache->v_scale;
    PW_PASS(good_pool(dev, op, "k", k, k_scale, q.dtype));
    PW_PASS(good_pool(dev, op, "v", v, v_scale, q.dtype));
    PW_PASS(good_attn_as(dev, op, q, k, v, k.dtype, seqs, attn, false));
    PW_PASS(op_want_like(op, "out", out, q));
    if (lse.data) PW_PASS(op_want2(op, "lse", lse, op_wide_of(q.dtype), q.shape[0], q.shape[1]));
    struct named outs[] = { NAMED(out), NAMED(lse) }, ins[] = { NAMED(q), NAMED(k), NAMED(v), NAMED(k_scale), NAMED(v_scale) };
    APART(op, outs, ins);
    return op_over(k.dtype == q.dtype ? dev->ops->attn_fwd(dev, out, lse, q, k, v, seqs, attn) : dev->ops->cache_attn(dev, out, lse, q, cache, seqs, attn), q);
}

int pw_attn_bwd(struct pw_dev *dev, struct pw_tensor dq, struct pw_tensor dk, struct pw_tensor dv, struct pw_tensor dout, struct pw_tensor out, struct pw_tensor lse,
                struct pw_tensor q, struct pw_tensor k, struct pw_tensor v, const struct pw_seqs *seqs, const struct pw_attn *attn)
{
    const char *op = "attn_bwd";
    PW_PASS(good_attn(dev, op, q, k, v, seqs, attn, true));
    PW_PASS(op_want_like(op, "dq", dq, q));
    PW_PASS(op_want_like(op, "dk", dk, k));
    PW_PASS(op_want_like(op, "dv", dv, k));
    PW_PASS(op_want_like(op, "dout", dout, q));
    PW_PASS(op_want_like(op, "out", out, q));
    PW_PASS(op_want2(op, "lse", lse, op_wide_of(q.dtype), q.shape[0], q.shape[1]));
    struct named outs[] = { NAMED(dq), NAMED(dk), NAMED(dv) }, ins[] = { NAMED(dout), NAMED(out), NAMED(lse), NAMED(q), NAMED(k), NAMED(v) };
    APART(op, outs, ins);
    return op_over(dev->ops->attn_bwd(dev, dq, dk, dv, dout, out, lse, q, k, v, seqs, attn), dout);
}

/* ---- feed-forward and linear ---- */

int pw_glu_fwd(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor gate, struct pw_tensor up, enum pw_act act)
{
    PW_PASS(op_lead(dev, "glu_fwd", "out", out, 0));
    PW_PASS(op_want_like("glu_fwd", "gate", gate, out));
    PW_PASS(op_want_like("glu_fwd", "up", up, out));
    PW_CHECK(act == PW_ACT_SILU || act == PW_ACT_GELU_TANH, PW_E_FAIL, "glu_fwd: unknown activation %d", (int)act);
    PW_PASS(op_same_or_apart("glu_fwd", "out", out, "gate", gate));
    PW_PASS(op_same_or_apart("glu_fwd", "out", out, "up", up));
    return op_over(dev->ops->glu_fwd(dev, out, gate, up, act), gate);
}

int pw_glu_bwd(struct pw_dev *dev, struct pw_tensor dgate, struct pw_tensor dup, struct pw_tensor dout, struct pw_tensor gate, struct pw_tensor up, enum pw_act act)
{
    const char *op = "glu_bwd";
    PW_PASS(op_lead(dev, op, "dgate", dgate, 0));
    PW_PASS(op_want_like(op, "dup", dup, dgate));
    PW_PASS(op_want_like(op, "dout", dout, dgate));
    PW_PASS(op_want_like(op, "gate", gate, dgate));
    PW_PASS(op_want_like(op, "up", up, dgate));
    PW_CHECK(act == PW_ACT_SILU || act == PW_ACT_GELU_TANH, PW_E_FAIL, "%s: unknown activation %d", op, (int)act);
    struct named outs[] = { NAMED(dgate), NAMED(dup) }, ins[] = { NAMED(dout), NAMED(gate), NAMED(up) };
    APART(op, outs, ins);
    return op_over(dev->ops->glu_bwd(dev, dgate, dup, dout, gate, up, act), dout);
}


int pw_linear_fwd(struct pw_dev *dev, struct pw_tensor y, struct pw_tensor xa, struct pw_tensor x, const struct pw_weight *w, struct pw_drop drop)
{
    const char *op = "linear_fwd";
    PW_PASS(op_lead(dev, op, "x", x, 2));
    PW_PASS(op_good_weight(dev, op, w, x.dtype));
    PW_PASS(op_good_drop(op, drop, w->lora, false));
    PW_PASS(op_want2(op, "x", x, x.dtype, x.shape[0], w->n_in));
    PW_PASS(op_want2(op, "y", y, y.data && y.dtype == PW_F32 ? PW_F32 : x.dtype, x.shape[0], w->n_out));
    if (w->lora) PW_PASS(op_want2(op, "xa", xa, x.dtype, x.shape[0], w->lora->r));
    else xa = pw_none();
    struct named outs[] = { NAMED(y), NAMED(xa) }, ins[] = { NAMED(x), { "w", op_weight_view(w) } };
    APART(op, outs, ins);
    PW_PASS(op_enough(dev, op, pw_scratch_linear(dev, x.shape[0], w, false)));
    return op_over(dev->ops->linear_fwd(dev, y, xa, x, w, drop), x);
}

int pw_linear_bwd(struct pw_dev *dev, const struct pw_linear_grads *g, struct pw_tensor dy, struct pw_tensor x, struct pw_tensor xa, const struct pw_weight *w, struct pw_drop drop)
{
    const char *op = "linear_bwd";
    PW_CHECK(g, PW_E_FAIL, "%s: grads: expected a list, got none", op);
    PW_PASS(op_lead(dev, op, "dy", dy, 2));
    PW_PASS(op_good_weight(dev, op, w, dy.dtype));
    PW_PASS(op_good_drop(op, drop, w->lora, false));
    enum pw_dtype type = dy.dtype;
    int64_t tokens = dy.shape[0];
    PW_PASS(op_want2(op, "dy", dy, type, tokens, w->n_out));
    if (g->dx.data) PW_PASS(op_want2(op, "dx", g->dx, type, tokens, w->n_in));
    if (g->dw.data) {
        PW_CHECK(w->type == PW_Q_DENSE, PW_E_FAIL, "%s: dw: a %s weight has no gradient", op, pw_qtype_name(w->type));
        PW_PASS(op_want2(op, "dw", g->dw, op_wide_of(type), w->n_out, w->n_in));
    }
    if (g->dbias.data) PW_PASS(op_want1(op, "dbias", g->dbias, op_wide_of(type), w->n_out));
    if (g->da.data || g->db.data) PW_CHECK(w->lora, PW_E_FAIL, "%s: da, db: the weight has no adapter", op);
    const bool magnitude = pw_weight_is_dora(w);
    PW_CHECK(!magnitude || !g->dw.data, PW_E_FAIL, "%s: dw: a weight whose adapter has a magnitude has no gradient", op);
    if (g->dm.data) {
        PW_CHECK(magnitude, PW_E_FAIL, "%s: dm: the adapter has no magnitude", op);
        PW_PASS(op_want1(op, "dm", g->dm, op_wide_of(type), w->n_out));
    }
    if (g->da.data) PW_PASS(op_want2(op, "da", g->da, op_wide_of(type), w->lora->r, w->n_in));
    if (g->db.data) PW_PASS(op_want2(op, "db", g->db, op_wide_of(type), w->n_out, w->lora->r));
    if (g->dw.data || g->da.data || g->dm.data || x.data) PW_PASS(op_want2(op, "x", x, type, tokens, w->n_in));
    if (g->db.data || (xa.data && w->lora)) PW_PASS(op_want2(op, "xa", xa, type, tokens, w->lora->r));
    struct named outs[] = { { "dx", g->dx }, { "dw", g->dw }, { "dbias", g->dbias }, { "da", g->da }, { "db", g->db }, { "dm", g->dm } };
    struct named ins[] = { NAMED(dy), NAMED(x), NAMED(xa), { "w", op_weight_view(w) } };
    APART(op, outs, ins);
    PW_PASS(op_enough(dev, op, pw_scratch_linear(dev, tokens, w, true)));
    return op_over(dev->ops->linear_bwd(dev, g, dy, x, xa, w, drop), dy);
}

int pw_row_norm(struct pw_dev *dev, struct pw_tensor norm, const struct pw_weight *w)
{
    PW_PASS(op_lead_wide(dev, "row_norm", "norm", norm, 1));
    PW_PASS(op_good_weight(dev, "row_norm", w, norm.dtype));
    PW_PASS(op_want1("row_norm", "norm", norm, norm.dtype, w->n_out));
    struct named outs[] = { NAMED(norm) }, ins[] = { { "w", op_weight_view(w) }, { "lora.a", w->lora ? w->lora->a : pw_none() }, { "lora.b", w->lora ? w->lora->b : pw_none() } };
    APART("row_norm", outs, ins);
    PW_PASS(op_enough(dev, "row_norm", pw_scratch_linear(dev, 1, w, false)));
    return op_over(dev->ops->row_norm(dev, norm, w), norm);
}

int pw_dropout(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, struct pw_drop drop, bool rest, bool add)
{
    PW_PASS(op_lead(dev, "dropout", "out", out, 2));
    PW_PASS(op_want_like("dropout", "x", x, out));
    PW_PASS(op_good_drop("dropout", drop, NULL, false));
    struct named outs[] = { NAMED(out) }, ins[] = { NAMED(x) };
    APART("dropout", outs, ins);
    return op_over(dev->ops->dropout(dev, out, x, drop, rest, add), x);
}

int pw_column_scale(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, struct pw_tensor m, struct pw_tensor norm, struct pw_tensor bias, bool add)
{
    const char *op = "column_scale";
    PW_PASS(op_lead_any(dev, op, "out", out, 2));
    PW_PASS(op_lead_any(dev, op, "x", x, 2));
    const enum pw_dtype wide = op_wide_of(x.dtype);
    PW_PASS(op_want2(op, "x", x, x.dtype, out.shape[0], out.shape[1]));
    PW_PASS(op_want1(op, "m", m, wide, out.shape[1]));
    PW_PASS(op_want1(op, "norm", norm, wide, out.shape[1]));
    if (bias.data) PW_PASS(op_want1(op, "bias", bias, PW_F32, out.shape[1]));
    PW_PASS(op_same_or_apart(op, "out", out, "x", x));
    PW_CHECK(out.data != x.data || out.dtype == x.dtype, PW_E_FAIL, "%s: out is x, but of another type", op);
    struct named outs[] = { NAMED(out) }, ins[] = { NAMED(m), NAMED(norm), NAMED(bias) };
    APART(op, outs, ins);
    return op_over(dev->ops->column_scale(dev, out, x, m, norm, bias, add), x);
}

int pw_column_dot(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, struct pw_tensor y, struct pw_tensor norm)
{
    const char *op = "column_dot";
    PW_PASS(op_lead(dev, op, "x", x, 2));
    PW_PASS(op_want_like(op, "y", y, x));
    PW_PASS(op_want1(op, "out", out, op_wide_of(x.dtype), x.shape[1]));
    PW_PASS(op_want1(op, "norm", norm, op_wide_of(x.dtype), x.shape[1]));
    struct named outs[] = { NAMED(out) }, ins[] = { NAMED(x), NAMED(y), NAMED(norm) };
    APART(op, outs, ins);
    return op_over(dev->ops->column_dot(dev, out, x, y, norm), x);
}

int pw_head_loss(struct pw_dev *dev, struct pw_tensor loss, struct pw_tensor argmax, struct pw_tensor dh, struct pw_tensor dw, struct pw_tensor h,
                 const struct pw_weight *w, struct pw_tensor targets, struct pw_tensor dloss, double softcap)
{
    const char *op = "head_loss";
    PW_PASS(op_lead(dev, op, "h", h, 2));
    PW_PASS(op_good_weight(dev, op, w, h.dtype));
    PW_CHECK(!w->lora && !w->bias, PW_E_FAIL, "%s: w: a head with bias or adapter is not supported", op);
    int64_t tokens = h.shape[0];
    PW_PASS(op_want2(op, "h", h, h.dtype, tokens, w->n_in));
    PW_PASS(op_want1(op, "loss", loss, op_wide_of(h.dtype), tokens));
    PW_PASS(op_want1(op, "targets", targets, PW_I32, tokens));
    PW_PASS(op_ids_in(dev, op, "targets", targets, INT32_MIN, w->n_out));
    if (argmax.data) PW_PASS(op_want1(op, "argmax", argmax, PW_I32, tokens));
    if (dh.data) PW_PASS(op_want_like(op, "dh", dh, h));
    if (dw.data) {
        PW_CHECK(w->type == PW_Q_DENSE, PW_E_FAIL, "%s: dw: a %s weight has no gradient", op, pw_qtype_name(w->type));
        PW_PASS(op_want2(op, "dw", dw, op_wide_of(h.dtype), w->n_out, w->n_in));
    }
    if (dh.data || dw.data) PW_PASS(op_want1(op, "dloss", dloss, op_wide_of(h.dtype), tokens));
    PW_CHECK(softcap >= 0 && isfinite(softcap), PW_E_FAIL, "%s: softcap: expected a number >= 0, got %g", op, softcap);
    struct named outs[] = { NAMED(loss), NAMED(argmax), NAMED(dh), NAMED(dw) };
    struct named ins[] = { NAMED(h), { "w", op_weight_view(w) }, NAMED(targets), NAMED(dloss) };
    APART(op, outs, ins);
    PW_PASS(op_enough(dev, op, pw_scratch_head(dev, tokens, w, dh.data || dw.data)));
    return op_over(dev->ops->head_loss(dev, loss, argmax, dh, dw, h, w, targets, dloss, softcap), h);
}

/* ---- rows, sums, optimiser, codecs ---- */

static int good_rows(const struct pw_dev *dev, const char *op, struct pw_tensor many, const char *many_name, struct pw_tensor few, const char *few_name, struct pw_tensor rows)
{
    PW_PASS(op_lead_any(dev, op, many_name, many, 0));
    PW_CHECK(few.data && few.ndim == many.ndim, PW_E_FAIL, "%s: %s: expected %d dimensions, got %d", op, few_name, many.ndim, few.ndim);
    int64_t shape[4];
    memcpy(shape, many.shape, sizeof shape);
    shape[0] = few.shape[0];
    PW_PASS(op_shape(op, few_name, few, many.dtype, many.ndim, shape));
    PW_PASS(op_want1(op, "rows", rows, PW_I32, few.shape[0]));
    PW_PASS(op_ids_in(dev, op, "rows", rows, 0, many.shape[0]));
    PW_CHECK(!op_overlap(many.data, pw_bytes(many), few.data, pw_bytes(few)), PW_E_FAIL, "%s: %s and %s share memory", op, many_name, few_name);
    return 0;
}

int pw_scatter_rows(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, struct pw_tensor rows)
{
    PW_PASS(good_rows(dev, "scatter_rows", out, "out", x, "x", rows));
    return op_over(dev->ops->scatter_rows(dev, out, x, rows), x);
}

int pw_gather_rows(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, struct pw_tensor rows)
{
    PW_PASS(good_rows(dev, "gather_rows", x, "x", out, "out", rows));
    return op_over(dev->ops->gather_rows(dev, out, x, rows), out);
}

/* A matrix whose rows may lie apart. */
static int lead_columns(const struct pw_dev *dev, const char *name, struct pw_tensor t)
{
    PW_CHECK(t.data && (t.dtype == PW_F32 || t.dtype == dev->act || (t.dtype == PW_F64 && op_is_ref(dev))), PW_E_FAIL, "columns_copy: %s: expected f32 or %s, got %s", name,
             pw_dtype_name(dev->act), t.data ? pw_dtype_name(t.dtype) : "none");
    PW_CHECK(t.ndim == 2 && t.shape[0] >= 0 && t.shape[1] >= 1, PW_E_FAIL, "columns_copy: %s: expected a matrix, got %d dimensions", name, t.ndim);
    PW_CHECK((t.stride[1] == 1 || t.shape[1] == 1) && t.stride[0] >= t.shape[1], PW_E_FAIL, "columns_copy: %s: expected rows of %" PRId64 " elements in a row, got strides %" PRId64 " and %" PRId64,
             name, t.shape[1], t.stride[0], t.stride[1]);
    return 0;
}
static size_t span(struct pw_tensor t) { return t.shape[0] ? (size_t)((t.shape[0] - 1) * t.stride[0] + t.shape[1]) * pw_dtype_bytes(t.dtype) : 0; }

int pw_columns_copy(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x)
{
    PW_PASS(lead_columns(dev, "x", x));
    PW_PASS(lead_columns(dev, "out", out));
    PW_CHECK(out.dtype == x.dtype && out.shape[0] == x.shape[0] && out.shape[1] == x.shape[1], PW_E_FAIL,
             "columns_copy: out: expected (%" PRId64 ", %" PRId64 ") %s, got (%" PRId64 ", %" PRId64 ") %s", x.shape[0], x.shape[1], pw_dtype_name(x.dtype), out.shape[0], out.shape[1],
             pw_dtype_name(out.dtype));
    PW_CHECK(!op_overlap(out.data, span(out), x.data, span(x)), PW_E_FAIL, "columns_copy: out and x share memory");
    return op_over(dev->ops->columns_copy(dev, out, x), x);
}

int pw_sumsq(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x)
{
    PW_PASS(op_lead_wide(dev, "sumsq", "x", x, 0));
    PW_PASS(op_want1("sumsq", "out", out, PW_F64, 1));
    struct named outs[] = { NAMED(out) }, ins[] = { NAMED(x) };
    APART("sumsq", outs, ins);
    return op_over(dev->ops->sumsq(dev, out, x), x);
}

int pw_adamw(struct pw_dev *dev, struct pw_tensor p, struct pw_tensor m, struct pw_tensor v, struct pw_tensor g, const struct pw_adamw *h)
{
    PW_PASS(op_lead_wide(dev, "adamw", "p", p, 0));
    PW_PASS(op_want_like("adamw", "m", m, p));
    PW_PASS(op_want_like("adamw", "v", v, p));
    PW_PASS(op_want_like("adamw", "g", g, p));
    PW_CHECK(h && h->step >= 1, PW_E_FAIL, "adamw: step: expected 1 or more, got %" PRId64, h ? h->step : 0);
    PW_CHECK(h->beta1 >= 0 && h->beta1 < 1 && h->beta2 >= 0 && h->beta2 < 1, PW_E_FAIL, "adamw: betas: expected 0 <= beta < 1, got %g and %g", h->beta1, h->beta2);
    PW_CHECK(h->eps >= 0 && isfinite(h->lr) && isfinite(h->weight_decay) && isfinite(h->grad_scale), PW_E_FAIL, "adamw: lr, eps, weight_decay or grad_scale is not a number in range");
    struct named outs[] = { NAMED(p), NAMED(m), NAMED(v) }, ins[] = { NAMED(g) };
    APART("adamw", outs, ins);
    return op_over(dev->ops->adamw(dev, p, m, v, g, h), p);
}

static int good_step(const char *op, const struct pw_adamw *h)
{
    PW_CHECK(h && h->step >= 1, PW_E_FAIL, "%s: step: expected 1 or more, got %" PRId64, op, h ? h->step : 0);
    PW_CHECK(h->beta1 >= 0 && h->beta1 < 1 && h->beta2 >= 0 && h->beta2 < 1, PW_E_FAIL, "%s: betas: expected 0 <= beta < 1, got %g and %g", op, h->beta1, h->beta2);
    PW_CHECK(h->eps >= 0 && isfinite(h->lr) && isfinite(h->weight_decay) && isfinite(h->grad_scale), PW_E_FAIL,
             "%s: lr, eps, weight_decay or grad_scale is not a number in range", op);
    return 0;
}

int pw_adamw8(struct pw_dev *dev, struct pw_tensor p, struct pw_tensor m, struct pw_tensor m_scale, struct pw_tensor v, struct pw_tensor v_scale,
              struct pw_tensor g, struct pw_tensor maps, const struct pw_adamw *h)
{
    PW_PASS(op_lead_wide(dev, "adamw8", "p", p, 1));
    const int64_t n = p.shape[0], blocks = (n + PW_STATE8_BLOCK - 1) / PW_STATE8_BLOCK;
    PW_PASS(op_want_like("adamw8", "g", g, p));
    PW_PASS(op_want1("adamw8", "m", m, PW_U8, n));
    PW_PASS(op_want1("adamw8", "v", v, PW_U8, n));
    PW_PASS(op_want1("adamw8", "m_scale", m_scale, PW_F32, blocks));
    PW_PASS(op_want1("adamw8", "v_scale", v_scale, PW_F32, blocks));
    PW_PASS(op_want1("adamw8", "maps", maps, PW_F32, 512));
    PW_PASS(good_step("adamw8", h));
    struct named outs[] = { NAMED(p), NAMED(m), NAMED(v), NAMED(m_scale), NAMED(v_scale) }, ins[] = { NAMED(g), NAMED(maps) };
    APART("adamw8", outs, ins);
    return op_over(dev->ops->adamw8(dev, p, m, m_scale, v, v_scale, g, maps, h), p);
}

int pw_lion(struct pw_dev *dev, struct pw_tensor p, struct pw_tensor m, struct pw_tensor g, const struct pw_adamw *h)
{
    PW_PASS(op_lead_wide(dev, "lion", "p", p, 0));
    PW_PASS(op_want_like("lion", "m", m, p));
    PW_PASS(op_want_like("lion", "g", g, p));
    PW_PASS(good_step("lion", h));
    struct named outs[] = { NAMED(p), NAMED(m) }, ins[] = { NAMED(g) };
    APART("lion", outs, ins);
    return op_over(dev->ops->lion(dev, p, m, g, h), p);
}

/* By their exponents, 64 at a time, which compilers turn into vectors. */
static bool all_numbers(const float *x, int64_t n)
{
    uint32_t bad = 0, bits[64];
    int64_t at = 0;
    for (; at <= n - 64; at += 64) {
        memcpy(bits, x + at, sizeof bits);
        for (int i = 0; i < 64; i++) bad |= (bits[i] & 0x7f800000u) == 0x7f800000u ? UINT32_MAX : 0;
    }
    for (; at < n; at++)
        if (!isfinite(x[at])) return false;
    return bad == 0;
}

int pw_encode(struct pw_dev *dev, struct pw_weight *w, struct pw_tensor x)
{
    PW_CHECK(w && w->type != PW_Q_DENSE && !w->absmax_q, PW_E_FAIL, "encode: w: expected memory of a quantised type with f32 scales");
    PW_PASS(op_good_weight(dev, "encode", w, PW_F32));
    const struct pw_block_type *b = pw_block_type(w->type);
    PW_CHECK(!b || b->encode, PW_E_UNSUPPORTED, "encode: w: %s is only read, never made", pw_qtype_name(w->type));
    PW_PASS(op_want2("encode", "x", x, PW_F32, w->n_out, w->n_in));
    struct named outs[] = { { "w", op_weight_view(w) } }, ins[] = { NAMED(x) };
    APART("encode", outs, ins);
    if (dev->host) {
        const float *value = x.data;
        for (int64_t i = all_numbers(value, pw_count(x)) ? pw_count(x) : 0, n = pw_count(x); i < n; i++)
            PW_CHECK(isfinite(value[i]), PW_E_NUMERIC, "encode: x: element (%" PRId64 ", %" PRId64 ") is %g", i / w->n_in, i % w->n_in, (double)value[i]);
    }
    return op_over(dev->ops->encode(dev, w, x), x);
}

int pw_decode(struct pw_dev *dev, struct pw_tensor out, const struct pw_weight *w, int64_t first_row)
{
    PW_PASS(op_lead_any(dev, "decode", "out", out, 2));
    PW_PASS(op_good_weight(dev, "decode", w, out.dtype));
    PW_PASS(op_want2("decode", "out", out, out.dtype, out.shape[0], w->n_in));
    PW_CHECK(first_row >= 0 && first_row <= w->n_out && out.shape[0] <= w->n_out - first_row, PW_E_FAIL,
             "decode: rows %" PRId64 " + %" PRId64 " outside the %" PRId64 " there are", first_row, out.shape[0], w->n_out);
    struct named outs[] = { NAMED(out) }, ins[] = { { "w", op_weight_view(w) } };
    APART("decode", outs, ins);
    return op_over(dev->ops->decode(dev, out, w, first_row), out);
}

/* ---- scratch ---- */

size_t pw_scratch_linear(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w, bool backward)
{
    return dev->backend->scratch_linear(dev, tokens, w, backward);
}
size_t pw_scratch_head(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w, bool backward)
{
    return dev->backend->scratch_head(dev, tokens, w, backward);
}
size_t pw_scratch_experts(const struct pw_dev *dev, int64_t rows, const struct pw_experts *experts, bool backward)
{
    return dev->backend->scratch_experts(dev, rows, experts, backward);
}
size_t pw_scratch_sample(const struct pw_dev *dev, int64_t vocab)
{
    return dev->backend->scratch_sample(dev, vocab);
}
size_t pw_scratch_attn(const struct pw_dev *dev, int64_t tokens, int64_t keys, int heads, int kv_heads, int head_dim, bool backward)
{
    return dev->backend->scratch_attn(dev, tokens, keys, heads, kv_heads, head_dim, backward);
}

/* ---- sequences on a device ---- */

size_t pw_seqs_bytes(int n, int64_t n_pages) { return pw_pool_round((size_t)(5 * (int64_t)n + 1 + n_pages) * sizeof(int32_t)); }

int pw_seqs_put(struct pw_dev *dev, void *memory, struct pw_seqs *s)
{
    int32_t *to = memory;
    const size_t n = (size_t)s->n, four = sizeof(int32_t);
    s->device = NULL;
    if (dev->host || s->n == 0) return 0;
    PW_PASS(pw_dev_put(dev, to, s->q_start, (n + 1) * four));
    PW_PASS(pw_dev_put(dev, to + n + 1, s->kv_start, n * four));
    PW_PASS(pw_dev_put(dev, to + 2 * n + 1, s->kv_len, n * four));
    if (s->prefix_len) {
        PW_PASS(pw_dev_put(dev, to + 3 * n + 1, s->prefix_start, n * four));
        PW_PASS(pw_dev_put(dev, to + 4 * n + 1, s->prefix_len, n * four));
    }
    if (s->pages) PW_PASS(pw_dev_put(dev, to + 5 * n + 1, s->pages, (size_t)s->n_pages * four));
    s->device = to;
    return 0;
}
