/* The checked entry points of experts: routing, their linear layers, and the sum of what they put out. As in op.c, nothing is computed here. */
#include "kernels/op_check.h"

#include <inttypes.h>

#include "base/error.h"
#include "kernels/backend.h"

/* (rows, columns) i32 with ids in [0, limit); ids_in for two dimensions */
static int want_ids2(const struct pw_dev *dev, const char *op, const char *name, struct pw_tensor t, int64_t rows, int64_t columns, int64_t limit)
{
    PW_PASS(op_want2(op, name, t, PW_I32, rows, columns));
    return op_ids_in(dev, op, name, pw_tensor1(t.data, PW_I32, rows * columns), 0, limit);
}

static int good_route(const struct pw_dev *dev, const char *op, struct pw_tensor logits, struct pw_tensor weights, struct pw_tensor chosen)
{
    PW_PASS(op_lead_wide(dev, op, "logits", logits, 2));
    PW_PASS(op_lead_wide(dev, op, "weights", weights, 2));
    PW_CHECK(logits.shape[1] >= 1 && logits.shape[1] <= PW_EXPERTS_MAX, PW_E_FAIL, "%s: logits: expected 1 to %d experts, got %" PRId64, op, PW_EXPERTS_MAX, logits.shape[1]);
    PW_CHECK(weights.shape[1] >= 1 && weights.shape[1] <= PW_CHOSEN_MAX && weights.shape[1] <= logits.shape[1], PW_E_FAIL,
             "%s: weights: expected 1 to %d of %" PRId64 " experts a token, got %" PRId64, op, PW_CHOSEN_MAX, logits.shape[1], weights.shape[1]);
    PW_PASS(op_want2(op, "weights", weights, logits.dtype, logits.shape[0], weights.shape[1]));
    return op_want2(op, "chosen", chosen, PW_I32, logits.shape[0], weights.shape[1]);
}

int pw_route_fwd(struct pw_dev *dev, struct pw_tensor weights, struct pw_tensor chosen, struct pw_tensor logits, bool renormalise)
{
    PW_PASS(good_route(dev, "route_fwd", logits, weights, chosen));
    struct named outs[] = { NAMED(weights), NAMED(chosen) }, ins[] = { NAMED(logits) };
    APART("route_fwd", outs, ins);
    return op_over(dev->ops->route_fwd(dev, weights, chosen, logits, renormalise), logits);
}

int pw_route_bwd(struct pw_dev *dev, struct pw_tensor dlogits, struct pw_tensor dweights, struct pw_tensor weights, struct pw_tensor chosen, struct pw_tensor logits, bool renormalise)
{
    const char *op = "route_bwd";
    PW_PASS(good_route(dev, op, logits, weights, chosen));
    PW_PASS(op_ids_in(dev, op, "chosen", pw_tensor1(chosen.data, PW_I32, pw_count(chosen)), 0, logits.shape[1]));
    PW_PASS(op_lead(dev, op, "dlogits", dlogits, 2));
    PW_CHECK(op_wide_of(dlogits.dtype) == logits.dtype, PW_E_FAIL, "%s: dlogits: %s beside logits in %s", op, pw_dtype_name(dlogits.dtype), pw_dtype_name(logits.dtype));
    PW_PASS(op_want2(op, "dlogits", dlogits, dlogits.dtype, logits.shape[0], logits.shape[1]));
    PW_PASS(op_want_like(op, "dweights", dweights, weights));
    struct named outs[] = { NAMED(dlogits) }, ins[] = { NAMED(dweights), NAMED(weights), NAMED(chosen), NAMED(logits) };
    APART(op, outs, ins);
    return op_over(dev->ops->route_bwd(dev, dlogits, dweights, weights, chosen, logits, renormalise), logits);
}

int pw_route_rows(struct pw_dev *dev, struct pw_tensor starts, struct pw_tensor tokens, struct pw_tensor places, struct pw_tensor chosen)
{
    const char *op = "route_rows";
    PW_CHECK(starts.data && starts.ndim == 1 && starts.shape[0] >= 2 && starts.shape[0] <= PW_EXPERTS_MAX + 1, PW_E_FAIL, "%s: starts: expected (E + 1) i32, E up to %d", op, PW_EXPERTS_MAX);
    PW_CHECK(chosen.data && chosen.ndim == 2 && chosen.shape[0] >= 0 && chosen.shape[1] >= 1 && chosen.shape[0] <= INT32_MAX / chosen.shape[1], PW_E_FAIL,
             "%s: chosen: expected (T, C) i32 with T * C below 2^31", op);
    PW_PASS(op_want1(op, "starts", starts, PW_I32, starts.shape[0]));
    PW_PASS(want_ids2(dev, op, "chosen", chosen, chosen.shape[0], chosen.shape[1], starts.shape[0] - 1));
    PW_PASS(op_want1(op, "tokens", tokens, PW_I32, chosen.shape[0] * chosen.shape[1]));
    PW_PASS(op_want_like(op, "places", places, chosen));
    struct named outs[] = { NAMED(starts), NAMED(tokens), NAMED(places) }, ins[] = { NAMED(chosen) };
    APART(op, outs, ins);
    return op_over(dev->ops->route_rows(dev, starts, tokens, places, chosen), chosen);
}

static int good_experts(const struct pw_dev *dev, const char *op, const struct pw_experts *experts, struct pw_tensor starts, int64_t rows, enum pw_dtype type)
{
    PW_CHECK(experts && experts->n >= 1 && experts->n <= PW_EXPERTS_MAX && experts->w, PW_E_FAIL, "%s: experts: expected 1 to %d weights", op, PW_EXPERTS_MAX);
    const struct pw_weight *first = &experts->w[0];
    for (int i = 0; i < experts->n; i++) {
        const struct pw_weight *w = &experts->w[i];
        PW_PASS(op_good_weight(dev, op, w, type));
        PW_CHECK(w->n_out == first->n_out && w->n_in == first->n_in && w->type == first->type && w->dtype == first->dtype, PW_E_FAIL,
                 "%s: expert %d: expected (%" PRId64 ", %" PRId64 ") %s as expert 0, got (%" PRId64 ", %" PRId64 ") %s", op, i, first->n_out, first->n_in, pw_qtype_name(first->type),
                 w->n_out, w->n_in, pw_qtype_name(w->type));
        PW_CHECK(w->block == first->block && w->nested_block == first->nested_block && !w->absmax_q == !first->absmax_q, PW_E_FAIL,
                 "%s: expert %d: expected blocks of %d and %d as expert 0, got %d and %d", op, i, first->block, first->nested_block, w->block, w->nested_block);
        PW_CHECK(!w->lora == !first->lora && (!w->lora || w->lora->r == first->lora->r), PW_E_FAIL, "%s: expert %d: expected an adapter of rank %d as expert 0, got rank %d", op, i,
                 first->lora ? first->lora->r : 0, w->lora ? w->lora->r : 0);
        PW_CHECK(!pw_weight_is_dora(w), PW_E_UNSUPPORTED, "%s: expert %d: adapters with a magnitude are not supported on experts", op, i);
    }
    PW_PASS(op_want1(op, "starts", starts, PW_I32, (int64_t)experts->n + 1));
    if (!dev->host) return 0;
    const int32_t *at = starts.data;
    for (int i = 0; i < experts->n; i++)
        PW_CHECK((i > 0 || at[0] == 0) && at[i + 1] >= at[i] && at[i + 1] <= rows, PW_E_FAIL, "%s: starts[%d]: expected %d to %" PRId64 ", got %d", op, i + 1, at[i], rows, at[i + 1]);
    return 0;
}

int pw_experts_fwd(struct pw_dev *dev, struct pw_tensor y, struct pw_tensor xa, struct pw_tensor x, struct pw_tensor starts, const struct pw_experts *experts, struct pw_drop drop)
{
    const char *op = "experts_fwd";
    PW_PASS(op_lead(dev, op, "x", x, 2));
    PW_PASS(good_experts(dev, op, experts, starts, x.shape[0], x.dtype));
    PW_PASS(op_good_drop(op, drop, NULL, true));
    const struct pw_weight *w = experts->w;
    PW_PASS(op_want2(op, "x", x, x.dtype, x.shape[0], w->n_in));
    PW_PASS(op_want2(op, "y", y, x.dtype, x.shape[0], w->n_out));
    if (w->lora) PW_PASS(op_want2(op, "xa", xa, x.dtype, x.shape[0], w->lora->r));
    else xa = pw_none();
    struct named outs[] = { NAMED(y), NAMED(xa) }, ins[] = { NAMED(x), NAMED(starts) };
    APART(op, outs, ins);
    for (int i = 0; i < experts->n; i++) {
        struct named weight[] = { { "w", op_weight_view(&w[i]) } };
        APART(op, outs, weight);
    }
    PW_PASS(op_enough(dev, op, pw_scratch_experts(dev, x.shape[0], experts, false)));
    return op_over(dev->ops->experts_fwd(dev, y, xa, x, starts, experts, drop), x);
}

int pw_experts_bwd(struct pw_dev *dev, struct pw_tensor dx, const struct pw_linear_grads *g, struct pw_tensor dy, struct pw_tensor x, struct pw_tensor xa, struct pw_tensor starts,
                   const struct pw_experts *experts, struct pw_drop drop)
{
    const char *op = "experts_bwd";
    PW_PASS(op_lead(dev, op, "dy", dy, 2));
    const enum pw_dtype type = dy.dtype;
    const int64_t rows = dy.shape[0];
    PW_PASS(good_experts(dev, op, experts, starts, rows, type));
    PW_PASS(op_good_drop(op, drop, NULL, true));
    const struct pw_weight *w = experts->w;
    PW_PASS(op_want2(op, "dy", dy, type, rows, w->n_out));
    if (dx.data) PW_PASS(op_want2(op, "dx", dx, type, rows, w->n_in));
    bool da = false, db = false;
    for (int i = 0; g && i < experts->n; i++) {
        PW_CHECK(!g[i].dx.data && !g[i].dw.data && !g[i].dbias.data, PW_E_FAIL, "%s: expert %d: da and db alone are made, got dx, dw or dbias", op, i);
        PW_CHECK(w->lora || (!g[i].da.data && !g[i].db.data), PW_E_FAIL, "%s: expert %d: da, db: the weight has no adapter", op, i);
        if (g[i].da.data) PW_PASS(op_want2(op, "da", g[i].da, op_wide_of(type), w->lora->r, w->n_in));
        if (g[i].db.data) PW_PASS(op_want2(op, "db", g[i].db, op_wide_of(type), w->n_out, w->lora->r));
        da |= g[i].da.data != NULL, db |= g[i].db.data != NULL;
    }
    if (da || x.data) PW_PASS(op_want2(op, "x", x, type, rows, w->n_in));
    if (db || (xa.data && w->lora)) PW_PASS(op_want2(op, "xa", xa, type, rows, w->lora->r));
    struct named outs[] = { NAMED(dx) }, ins[] = { NAMED(dy), NAMED(x), NAMED(xa), NAMED(starts) };
    APART(op, outs, ins);
    PW_PASS(op_enough(dev, op, pw_scratch_experts(dev, rows, experts, true)));
    return op_over(dev->ops->experts_bwd(dev, dx, g, dy, x, xa, starts, experts, drop), dy);
}

static int good_combine(const struct pw_dev *dev, const char *op, struct pw_tensor of_tokens, const char *name, struct pw_tensor of_rows, const char *rows_name, struct pw_tensor places,
                        struct pw_tensor weights)
{
    PW_PASS(op_lead(dev, op, name, of_tokens, 2));
    PW_CHECK(of_rows.data && of_rows.ndim == 2, PW_E_FAIL, "%s: %s: expected (rows, D), got none", op, rows_name);
    PW_PASS(op_want2(op, rows_name, of_rows, of_tokens.dtype, of_rows.shape[0], of_tokens.shape[1]));
    PW_CHECK(places.data && places.ndim == 2 && places.shape[1] >= 1 && places.shape[1] <= PW_CHOSEN_MAX, PW_E_FAIL, "%s: places: expected (T, C) i32, C up to %d", op, PW_CHOSEN_MAX);
    PW_PASS(want_ids2(dev, op, "places", places, of_tokens.shape[0], places.shape[1], of_rows.shape[0]));
    if (weights.data) PW_PASS(op_want2(op, "weights", weights, op_wide_of(of_tokens.dtype), places.shape[0], places.shape[1]));
    return 0;
}

int pw_combine_fwd(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor y, struct pw_tensor places, struct pw_tensor weights)
{
    PW_PASS(good_combine(dev, "combine_fwd", out, "out", y, "y", places, weights));
    struct named outs[] = { NAMED(out) }, ins[] = { NAMED(y), NAMED(places), NAMED(weights) };
    APART("combine_fwd", outs, ins);
    return op_over(dev->ops->combine_fwd(dev, out, y, places, weights), out);
}

int pw_combine_bwd(struct pw_dev *dev, struct pw_tensor dy, struct pw_tensor dweights, struct pw_tensor dout, struct pw_tensor y, struct pw_tensor places, struct pw_tensor weights)
{
    const char *op = "combine_bwd";
    PW_PASS(good_combine(dev, op, dout, "dout", dy, "dy", places, weights));
    if (y.data || dweights.data) PW_PASS(op_want_like(op, "y", y, dy));
    if (dweights.data) PW_PASS(op_want2(op, "dweights", dweights, op_wide_of(dout.dtype), places.shape[0], places.shape[1]));
    struct named outs[] = { NAMED(dy), NAMED(dweights) }, ins[] = { NAMED(dout), NAMED(y), NAMED(places), NAMED(weights) };
    APART(op, outs, ins);
    return op_over(dev->ops->combine_bwd(dev, dy, dweights, dout, y, places, weights), dout);
}
