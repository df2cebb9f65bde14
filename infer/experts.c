/* The feed-forward half of a block that is made of experts, forward and backward: the order of the ops, and which buffer each one reads and writes.
 *
 *     h = rmsnorm(x); each token to C of E experts; rows in the order of their experts: f = act(gate(h)) * up(h), y = down(f); x += weights * y
 * There are T * C rows whatever the router says, so that every size is a function of the config; which rows an expert has stays on the device.
 * The router is computed in f32 from h and is never trained; its gradient goes on to h. Owns no memory and no arithmetic. */
#include "infer/block_parts.h"

#include "base/error.h"

/* ---- sizes ---------------------------------------------------------------------------------------------------------- */

int64_t pw_expert_rows(const struct pw_model_config *c, int64_t tokens) { return c->experts ? tokens * c->experts_chosen : tokens; }

static enum pw_dtype wide(const struct taker *k) { return k->type == PW_F64 ? PW_F64 : PW_F32; }

static void walk_route(struct taker *k, struct pw_route *r, const struct pw_model_config *c)
{
    pw_take_rows(k, &r->logits, wide(k), k->tokens, c->experts, false);
    pw_take_rows(k, &r->weights, wide(k), k->tokens, c->experts_chosen, false);
    pw_take_rows(k, &r->chosen, PW_I32, k->tokens, c->experts_chosen, false);
    pw_take_rows(k, &r->places, PW_I32, k->tokens, c->experts_chosen, false);
    pw_take_rows(k, &r->tokens, PW_I32, pw_expert_rows(c, k->tokens), 1, true);
    pw_take_rows(k, &r->starts, PW_I32, c->experts + 1, 1, true);
}

void pw_experts_walk_saved(struct taker *k, struct pw_experts_saved *s, const struct pw_model_config *c)
{
    walk_route(k, &s->route, c);
    pw_take_rows(k, &s->y, k->type, pw_expert_rows(c, k->tokens), c->hidden, false);
}

void pw_experts_walk_work(struct taker *k, struct pw_experts_work *w, const struct pw_model_config *c, bool backward)
{
    const int64_t rows = pw_expert_rows(c, k->tokens);
    walk_route(k, &w->route, c);
    pw_take_rows(k, &w->x, k->type, rows, c->hidden, false);
    if (!backward)
        return;
    pw_take_rows(k, &w->dy, k->type, rows, c->hidden, false);
    pw_take_rows(k, &w->dweights, wide(k), k->tokens, c->experts_chosen, false);
    pw_take_rows(k, &w->dlogits, k->type, k->tokens, c->experts, false);
}

static struct pw_experts linears_of(const struct pw_model *m, int layer, enum pw_expert_part p)
{
    return (struct pw_experts){m->config.experts, m->layers[layer].moe->part[p]};
}

size_t pw_experts_scratch(const struct pw_model *m, int layer, int64_t tokens, bool backward)
{
    size_t most = pw_scratch_linear(m->dev, tokens, &m->layers[layer].moe->router, backward);
    for (int p = 0; p < PW_EXPERT_PARTS; p++) {
        const struct pw_experts e = linears_of(m, layer, p);
        const size_t bytes = pw_scratch_experts(m->dev, pw_expert_rows(&m->config, tokens), &e, backward);
        most = bytes > most ? bytes : most;
    }
    return most;
}

/* ---- one half ------------------------------------------------------------------------------------------------------- */

struct half {                  /* what both directions look at */
    struct pw_model *m;
    struct pw_dev *dev;
    const struct pw_layer *layer;
    const struct pw_model_config *c;
    const struct pw_block_batch *b;
    int index;
    int64_t n, rows;           /* tokens, and rows of experts */
    const struct pw_tensor *xa;
};

static struct half half_of(struct pw_model *m, int layer, const struct pw_block_batch *b, const struct pw_tensor xa[PW_LIN_COUNT])
{
    return (struct half){.m = m, .dev = m->dev, .layer = &m->layers[layer], .c = &m->config, .b = b, .index = layer, .n = b->tokens,
                         .rows = pw_expert_rows(&m->config, b->tokens), .xa = xa};
}

static struct pw_tensor first(struct pw_tensor t, int64_t n) { return t.data ? pw_rows(t, 0, n) : t; }

/* Buffers that a dense half has too are larger where experts want more: seen here as (rows, columns). */
static struct pw_tensor as_rows(const struct half *k, struct pw_tensor t, int64_t columns) { return pw_tensor2(t.data, t.dtype, k->rows, columns); }

static struct pw_route narrow(const struct half *k, const struct pw_route *r)
{
    return (struct pw_route){first(r->logits, k->n), first(r->weights, k->n), first(r->chosen, k->n), first(r->places, k->n), first(r->tokens, k->rows), r->starts};
}

/* What a row drops is its token's, which has its place in the step: an expert's rows come and go with the pass. */
static struct pw_drop drop_of(const struct half *k, enum pw_expert_part p, const struct pw_route *r)
{
    struct pw_drop drop = pw_block_drop(k->b, k->index, pw_expert_linear(p), 0, k->layer->moe->part[p][0].n_in);
    drop.rows = drop.p > 0 ? r->tokens.data : NULL;
    return drop;
}

/* The product of the adapters of a part, or none. */
static int xa_of(const struct half *k, enum pw_expert_part p, struct pw_tensor *out)
{
    const struct pw_lora *lora = k->layer->moe->part[p][0].lora;
    const struct pw_tensor xa = k->xa[pw_expert_linear(p)];
    *out = pw_none();
    if (!lora)
        return 0;
    PW_CHECK(xa.data && pw_count(xa) >= k->rows * lora->r, PW_E_FAIL, "layer %d: experts: %s: adapters of rank %d for %lld rows, but the pass was planned for less", k->index,
             pw_expert_part_name(k->c, p), lora->r, (long long)k->rows);
    *out = as_rows(k, xa, lora->r);
    return 0;
}

static int linear(const struct half *k, enum pw_expert_part p, struct pw_tensor y, struct pw_tensor x, const struct pw_route *r)
{
    const struct pw_experts e = linears_of(k->m, k->index, p);
    struct pw_tensor xa;
    PW_PASS(xa_of(k, p, &xa));
    PW_TRY(pw_experts_fwd(k->dev, y, xa, x, r->starts, &e, drop_of(k, p, r)), "layer %d: experts: %s", k->index, pw_expert_part_name(k->c, p));
    return 0;
}

static int linear_back(const struct half *k, enum pw_expert_part p, struct pw_tensor dx, struct pw_tensor dy, struct pw_tensor x, const struct pw_route *r,
                       const struct pw_block_grads *grads)
{
    const struct pw_experts e = linears_of(k->m, k->index, p);
    struct pw_tensor xa;
    PW_PASS(xa_of(k, p, &xa));
    PW_TRY(pw_experts_bwd(k->dev, dx, e.w[0].lora ? grads->experts[p] : NULL, dy, x, xa, r->starts, &e, drop_of(k, p, r)), "layer %d: experts: backward of %s", k->index,
           pw_expert_part_name(k->c, p));
    return 0;
}

static int norm(const struct half *k, struct pw_tensor h, struct pw_tensor inv, struct pw_tensor x)
{
    PW_TRY(pw_rmsnorm_fwd(k->dev, h, inv, x, k->layer->norm[PW_NORM_MLP], k->c->norm_eps, k->c->norm_offset), "layer %d: %s", k->index, pw_norm_suffix(k->c, PW_NORM_MLP));
    return 0;
}

int pw_experts_forward(struct pw_model *m, int layer, struct pw_tensor x, const struct pw_block_batch *b, struct pw_work *w, struct pw_saved *saved)
{
    const struct half k = half_of(m, layer, b, saved ? saved->xa : w->xa);
    const struct pw_route r = narrow(&k, saved ? &saved->experts.route : &w->experts.route);
    const int64_t F = m->config.expert_ffn;
    const struct pw_tensor h = first(w->h, k.n), xs = first(w->experts.x, k.rows), inv = saved ? first(saved->inv_mlp, k.n) : pw_none();
    const struct pw_tensor gate = as_rows(&k, saved ? saved->gate : w->gate, F), up = as_rows(&k, saved ? saved->up : w->up, F), product = as_rows(&k, w->gate, F);
    const struct pw_tensor y = saved ? first(saved->experts.y, k.rows) : xs;       /* x of the experts is not needed any more by then */
    const struct pw_drop none = {0};

    PW_PASS(norm(&k, h, inv, x));
    PW_TRY(pw_linear_fwd(k.dev, r.logits, pw_none(), h, &k.layer->moe->router, none), "layer %d: router", layer);
    PW_TRY(pw_route_fwd(k.dev, r.weights, r.chosen, r.logits, k.c->experts_renormalise), "layer %d: router", layer);
    PW_TRY(pw_route_rows(k.dev, r.starts, r.tokens, r.places, r.chosen), "layer %d: rows of experts", layer);
    PW_TRY(pw_gather_rows(k.dev, xs, h, r.tokens), "layer %d: rows of experts", layer);
    PW_PASS(linear(&k, PW_EXPERT_GATE, gate, xs, &r));
    PW_PASS(linear(&k, PW_EXPERT_UP, up, xs, &r));
    PW_TRY(pw_glu_fwd(k.dev, product, gate, up, pw_block_act(k.c)), "layer %d: gated product", layer);
    PW_PASS(linear(&k, PW_EXPERT_DOWN, y, product, &r));
    PW_TRY(pw_combine_fwd(k.dev, x, y, r.places, r.weights), "layer %d: sum of experts", layer);
    return 0;
}

int pw_experts_backward(struct pw_model *m, int layer, struct pw_tensor dx, const struct pw_block_batch *b, struct pw_work *w, const struct pw_saved *s,
                        const struct pw_block_grads *grads)
{
    const struct half k = half_of(m, layer, b, s->xa);
    const struct pw_route r = narrow(&k, &s->experts.route);
    const int64_t F = m->config.expert_ffn;
    const struct pw_tensor h = first(w->h, k.n), dh = first(w->dh, k.n), x_mid = first(s->x_mid, k.n), xs = first(w->experts.x, k.rows), y = first(s->experts.y, k.rows);
    const struct pw_tensor gate = as_rows(&k, s->gate, F), up = as_rows(&k, s->up, F), product = as_rows(&k, w->gate, F), dproduct = as_rows(&k, w->glu, F);
    const struct pw_tensor dgate = as_rows(&k, w->dgate, F), dup = as_rows(&k, w->dup, F), dy = first(w->experts.dy, k.rows), dxs = dy;  /* as in the dense half; dy is read once */
    const struct pw_tensor dweights = first(w->experts.dweights, k.n), dlogits = first(w->experts.dlogits, k.n);
    const struct pw_drop none = {0};

    PW_PASS(pw_fill(k.dev, dy, 0));
    PW_PASS(pw_fill(k.dev, dweights, 0));
    PW_TRY(pw_combine_bwd(k.dev, dy, dweights, dx, y, r.places, r.weights), "layer %d: backward of the sum of experts", layer);
    PW_PASS(pw_glu_fwd(k.dev, product, gate, up, pw_block_act(k.c)));
    PW_PASS(pw_fill(k.dev, dproduct, 0));
    PW_PASS(linear_back(&k, PW_EXPERT_DOWN, dproduct, dy, product, &r, grads));
    PW_PASS(pw_fill(k.dev, dgate, 0));
    PW_PASS(pw_fill(k.dev, dup, 0));
    PW_PASS(pw_glu_bwd(k.dev, dgate, dup, dproduct, gate, up, pw_block_act(k.c)));

    PW_PASS(norm(&k, h, pw_none(), x_mid));
    PW_PASS(pw_gather_rows(k.dev, xs, h, r.tokens));
    PW_PASS(pw_fill(k.dev, dxs, 0));
    PW_PASS(linear_back(&k, PW_EXPERT_GATE, dxs, dgate, xs, &r, grads));
    PW_PASS(linear_back(&k, PW_EXPERT_UP, dxs, dup, xs, &r, grads));
    PW_PASS(pw_fill(k.dev, dh, 0));
    PW_PASS(pw_combine_fwd(k.dev, dh, dxs, r.places, pw_none()));
    PW_PASS(pw_fill(k.dev, dlogits, 0));
    PW_TRY(pw_route_bwd(k.dev, dlogits, dweights, r.weights, r.chosen, r.logits, k.c->experts_renormalise), "layer %d: backward of the router", layer);
    const struct pw_linear_grads g = {.dx = dh, .dw = pw_none(), .dbias = pw_none(), .da = pw_none(), .db = pw_none()};
    PW_TRY(pw_linear_bwd(k.dev, &g, dlogits, pw_none(), pw_none(), &k.layer->moe->router, none), "layer %d: backward of the router", layer);
    PW_TRY(pw_rmsnorm_bwd(k.dev, dx, grads->dnorm[PW_NORM_MLP], dh, x_mid, k.layer->norm[PW_NORM_MLP], first(s->inv_mlp, k.n), k.c->norm_offset), "layer %d: backward of %s", layer,
           pw_norm_suffix(k.c, PW_NORM_MLP));
    return 0;
}
