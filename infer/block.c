/* One transformer block, forward and backward: the order of the ops, and which buffer each one reads and writes.
 *
 * Owns no memory and no arithmetic: ops compute, pools hold. Backward keeps to what is saved and makes the outputs of the norms and the
 * gated product again (both are cheap next to a linear layer and would be the largest things to keep).
 * Knows nothing of losses, optimisers, caches or tokens' meaning. */
#include "infer/block_parts.h"

#include "base/error.h"

/* ---- sizes ---------------------------------------------------------------------------------------------------------- */

void pw_take_rows(struct taker *k, struct pw_tensor *t, enum pw_dtype type, int64_t rows, int64_t columns, bool vector)
{
    const size_t bytes = (size_t)rows * (size_t)columns * pw_dtype_bytes(type);
    void *data = NULL;
    k->bytes += pw_pool_round(bytes);
    *t = pw_none();
    if (k->rc < 0 || columns == 0)
        return;
    if (k->pool) {
        data = pw_pool_take(k->pool, bytes);
        if (!data) {
            k->rc = PW_E_NOMEM;
            return;
        }
    }
    *t = vector ? pw_tensor1(data, type, rows) : pw_tensor2(data, type, rows, columns);
}

static void take_as(struct taker *k, struct pw_tensor *t, enum pw_dtype type, int64_t columns, bool vector)
{
    pw_take_rows(k, t, type, k->tokens, columns, vector);
}

static void take(struct taker *k, struct pw_tensor *t, int64_t columns)
{
    take_as(k, t, k->type, columns, false);
}

static void take_statistics(struct taker *k, struct pw_tensor *t, int64_t columns, bool vector)
{
    take_as(k, t, k->type == PW_F64 ? PW_F64 : PW_F32, columns, vector);
}

/* Rows of the feed-forward half that are computed at a time, at most. Experts take all of theirs: which rows an expert has stays on the device. */
static int64_t half_rows(const struct pw_block_shape *shape)
{
    const int64_t most = shape->mlp_rows > 0 ? shape->mlp_rows : PW_MLP_ROWS;
    return shape->config->experts || shape->tokens < most ? shape->tokens : most;
}
static bool half_again(const struct pw_block_shape *shape) { return shape->mlp_again && !shape->config->experts; }

/* Something of the feed-forward half, (rows, F): in a model with experts as large as (N, expert_ffn) where that is more. */
static void take_half(struct taker *k, struct pw_tensor *t, const struct pw_model_config *c, int64_t rows)
{
    const int64_t own = c->experts ? (pw_expert_rows(c, k->tokens) * c->expert_ffn + k->tokens - 1) / (k->tokens ? k->tokens : 1) : 0;
    pw_take_rows(k, t, k->type, rows, own > c->ffn ? own : c->ffn, false);
}

static void take_xa(struct taker *k, struct pw_tensor xa[PW_LIN_COUNT], const struct pw_block_shape *shape)
{
    for (int l = 0; l < PW_LIN_COUNT; l++) {
        const bool half = l == PW_LIN_GATE || l == PW_LIN_UP || l == PW_LIN_DOWN;
        pw_take_rows(k, &xa[l], k->type, half ? pw_expert_rows(shape->config, k->tokens) : k->tokens, shape->ranks[l], false);
    }
}

static void walk_saved(struct taker *k, struct pw_saved *s, const struct pw_block_shape *shape)
{
    const struct pw_model_config *c = shape->config;
    const int64_t D = c->hidden, q = (int64_t)c->heads * c->head_dim, kv = (int64_t)c->kv_heads * c->head_dim;
    take(k, &s->x_in, D);
    take_statistics(k, &s->inv_attn, 1, true);
    take(k, &s->q, q);
    take(k, &s->k, kv);
    take(k, &s->v, kv);
    take(k, &s->attn, q);
    take_statistics(k, &s->lse, c->heads, false);
    take(k, &s->x_mid, D);
    take_statistics(k, &s->inv_mlp, 1, true);
    s->gate = s->up = pw_none();
    if (!half_again(shape)) {
        take_half(k, &s->gate, c, k->tokens);
        take_half(k, &s->up, c, k->tokens);
    }
    s->inv_q = s->inv_k = s->attn_out = s->inv_attn_out = s->mlp_out = s->inv_mlp_out = pw_none();
    if (c->qk_norm) {
        take_statistics(k, &s->inv_q, c->heads, false);
        take_statistics(k, &s->inv_k, c->kv_heads, false);
    }
    if (c->post_norms) {
        take(k, &s->attn_out, D);
        take_statistics(k, &s->inv_attn_out, 1, true);
        take(k, &s->mlp_out, D);
        take_statistics(k, &s->inv_mlp_out, 1, true);
    }
    take_xa(k, s->xa, shape);
    s->experts = (struct pw_experts_saved){0};
    if (c->experts)
        pw_experts_walk_saved(k, &s->experts, c);
}

static void walk_work(struct taker *k, struct pw_work *w, const struct pw_block_shape *shape)
{
    const struct pw_model_config *c = shape->config;
    const int64_t D = c->hidden, q = (int64_t)c->heads * c->head_dim, kv = (int64_t)c->kv_heads * c->head_dim, rows = half_rows(shape);
    *w = (struct pw_work){.rows = rows};
    take(k, &w->h, D);
    take(k, &w->q, q);
    take(k, &w->k, kv);
    take(k, &w->v, kv);
    take(k, &w->attn, q);
    take_statistics(k, &w->lse, c->heads, false);
    take_half(k, &w->gate, c, rows);
    take_half(k, &w->up, c, rows);
    if (c->fused) {
        const int64_t qkv = k->tokens * (q + 2 * kv), gate_up = rows * 2 * c->ffn;
        pw_take_rows(k, &w->fused, k->type, qkv > gate_up ? qkv : gate_up, 1, true);
    }
    take_xa(k, w->xa, shape);
    if (c->experts)
        pw_experts_walk_work(k, &w->experts, c, shape->backward);
    if (shape->backward) {
        take(k, &w->dh, D);
        take_half(k, &w->glu, c, rows);
        w->gate_again = w->up_again = pw_none();
        if (half_again(shape)) {
            take_half(k, &w->gate_again, c, rows);
            take_half(k, &w->up_again, c, rows);
        }
        if (c->qk_norm) {
            take(k, &w->q_again, q);
            take(k, &w->k_again, kv);
        }
        w->dq = w->q, w->dk = w->k, w->dv = w->v, w->dattn = w->attn, w->dgate = w->gate, w->dup = w->up;
    }
}

size_t pw_saved_bytes(const struct pw_block_shape *shape)
{
    struct pw_saved s;
    struct taker k = {.type = shape->type, .tokens = shape->tokens};
    walk_saved(&k, &s, shape);
    return k.bytes;
}

int pw_saved_place(struct pw_saved *s, struct pw_pool *pool, const struct pw_block_shape *shape)
{
    struct taker k = {.pool = pool, .type = shape->type, .tokens = shape->tokens};
    walk_saved(&k, s, shape);
    return k.rc;
}

size_t pw_work_bytes(const struct pw_block_shape *shape)
{
    struct pw_work w;
    struct taker k = {.type = shape->type, .tokens = shape->tokens};
    walk_work(&k, &w, shape);
    return k.bytes;
}

int pw_work_place(struct pw_work *w, struct pw_pool *pool, const struct pw_block_shape *shape)
{
    struct taker k = {.pool = pool, .type = shape->type, .tokens = shape->tokens};
    walk_work(&k, w, shape);
    return k.rc;
}

void pw_model_ranks(const struct pw_model *m, int ranks[PW_LIN_COUNT])
{
    for (int l = 0; l < PW_LIN_COUNT; l++) {
        ranks[l] = 0;
        for (int i = 0; i < m->config.layers; i++) {
            const struct pw_lora *lora = m->layers[i].linear[l].lora;
            if (lora && lora->r > ranks[l])
                ranks[l] = lora->r;
        }
    }
    for (int i = 0; i < m->config.layers; i++)
        for (int p = 0; m->layers[i].moe && p < PW_EXPERT_PARTS; p++) {
            const struct pw_lora *lora = m->layers[i].moe->part[p][0].lora;
            int *rank = &ranks[pw_expert_linear(p)];
            *rank = lora && lora->r > *rank ? lora->r : *rank;
        }
}

size_t pw_block_scratch(const struct pw_model *m, int64_t tokens, int64_t keys, bool backward)
{
    const struct pw_model_config *c = &m->config;
    size_t most = pw_scratch_attn(m->dev, tokens, keys, c->heads, c->kv_heads, c->head_dim, backward);
    for (int i = 0; i < c->layers; i++) {
        const size_t half = m->layers[i].moe ? pw_experts_scratch(m, i, tokens, backward) : 0;
        most = half > most ? half : most;
        for (int l = 0; l < PW_LIN_COUNT; l++) {
            if (!pw_layer_has(c, i, l))
                continue;
            const bool wide = l == PW_LIN_GATE || l == PW_LIN_UP || l == PW_LIN_GATE_UP || l == PW_LIN_DOWN;
            const size_t bytes = pw_scratch_linear(m->dev, wide && !c->experts && tokens > PW_MLP_ROWS ? PW_MLP_ROWS : tokens, &m->layers[i].linear[l], backward);
            most = bytes > most ? bytes : most;
        }
    }
    return most;
}

/* ---- one block ------------------------------------------------------------------------------------------------------ */

struct block {                 /* what both directions look at */
    struct pw_model *m;
    struct pw_dev *dev;
    const struct pw_layer *layer;
    const struct pw_model_config *c;
    const struct pw_block_batch *b;
    int index;
    int64_t at, n;             /* rows [at, at + n) of the pass: all of them, or a part of the feed-forward half */
};

/* The first n rows of a buffer that was placed for more; the columns of xa narrowed to the rank of this layer. */
static struct pw_tensor first(const struct block *k, struct pw_tensor t)
{
    return t.data ? pw_rows(t, 0, k->n) : t;
}

/* The same rows of what belongs to the pass: x, gradients, what is saved. */
static struct pw_tensor mine(const struct block *k, struct pw_tensor t)
{
    return t.data ? pw_rows(t, k->at, k->n) : t;
}

/* The first rows of gate, up and their product: the buffer may be wider where other layers have experts; of saved ones, those of the part. */
static struct pw_tensor first_half(const struct block *k, struct pw_tensor t)
{
    return pw_tensor2(t.data, t.dtype, k->n, k->c->ffn);
}
static struct pw_tensor mine_half(const struct block *k, struct pw_tensor t)
{
    return pw_rows(pw_tensor2(t.data, t.dtype, k->at + k->n, k->c->ffn), k->at, k->n);
}

static struct pw_tensor xa_of(const struct block *k, const struct pw_tensor xa[PW_LIN_COUNT], enum pw_linear l)
{
    const struct pw_lora *lora = k->layer->linear[l].lora;
    return lora ? pw_rows(pw_tensor2(xa[l].data, xa[l].dtype, k->at + k->n, lora->r), k->at, k->n) : pw_none();
}

struct pw_tensor pw_block_xa_down(const struct pw_model *m, int layer, const struct pw_tensor xa[PW_LIN_COUNT], int64_t tokens)
{
    const struct pw_lora *lora = m->layers[layer].linear[PW_LIN_DOWN].lora;
    return lora && !m->layers[layer].moe ? pw_tensor2(xa[PW_LIN_DOWN].data, xa[PW_LIN_DOWN].dtype, tokens, lora->r) : pw_none();
}

/* Part `i` of a half of all the rows of k; false: there are no more. Parts are of one size, in 64s, so that no part is a small rest. */
static bool part_of(struct block *part, const struct block *k, const struct pw_work *w, int64_t i)
{
    const int64_t parts = (k->n + w->rows - 1) / w->rows, even = parts > 0 ? ((k->n + parts - 1) / parts + 63) / 64 * 64 : 0, size = even < w->rows ? even : w->rows;
    *part = *k;
    part->at = i * size;
    part->n = k->n - part->at < size ? k->n - part->at : size;
    return part->n > 0;
}

struct pw_drop pw_block_drop(const struct pw_block_batch *b, int layer, enum pw_linear l, int64_t row, int64_t n_in)
{
    struct pw_drop drop = {0};
    if (b->train && b->drop_p > 0) {
        drop.p = b->drop_p;
        drop.seed = b->drop_seed;
        drop.offset = b->drop_offset + (uint64_t)layer * PW_LIN_COUNT + (uint64_t)l;
        drop.first = (uint64_t)(b->drop_row + row) * (uint64_t)n_in;
    }
    return drop;
}

static struct pw_drop drop_of(const struct block *k, enum pw_linear l)
{
    return pw_block_drop(k->b, k->index, l, k->at, k->layer->linear[l].n_in);
}

static int begin(struct block *k, struct pw_model *m, int layer, struct pw_tensor x, const struct pw_block_batch *b, const struct pw_work *w,
                 const struct pw_tensor xa[PW_LIN_COUNT])
{
    *k = (struct block){.m = m, .dev = m->dev, .layer = &m->layers[layer], .c = &m->config, .b = b, .index = layer, .n = b->tokens};
    PW_CHECK(x.ndim == 2 && x.shape[0] == k->n && x.shape[1] == m->config.hidden, PW_E_FAIL, "block %d: expected x (%lld, %d), got (%lld, %lld)",
             layer, (long long)k->n, m->config.hidden, (long long)x.shape[0], (long long)x.shape[1]);
    PW_CHECK(k->n <= w->h.shape[0], PW_E_FAIL, "block %d: %lld tokens in a pass that was planned for %lld", layer, (long long)k->n,
             (long long)w->h.shape[0]);
    for (int l = 0; l < PW_LIN_COUNT; l++) {
        const struct pw_lora *lora = k->layer->linear[l].lora;
        PW_CHECK(!lora || (xa[l].data && lora->r <= xa[l].shape[1]), PW_E_FAIL, "block %d: %s: adapter of rank %d, but the pass was planned for %lld",
                 layer, pw_linear_suffix(l), lora->r, xa[l].data ? (long long)xa[l].shape[1] : 0LL);
    }
    return 0;
}

static int linear(const struct block *k, enum pw_linear l, struct pw_tensor y, struct pw_tensor x, const struct pw_tensor xa[PW_LIN_COUNT])
{
    PW_TRY(pw_linear_fwd(k->dev, y, xa_of(k, xa, l), x, &k->layer->linear[l], drop_of(k, l)), "layer %d: %s", k->index, pw_linear_suffix(l));
    return 0;
}

/* One linear whose columns are those of several tensors, side by side: all of them as one matrix in the block's scratch. */
static struct pw_tensor side_by_side(const struct block *k, const struct pw_work *w, const struct pw_tensor *parts, int n_parts)
{
    int64_t columns = 0;
    for (int i = 0; i < n_parts; i++)
        columns += parts[i].shape[1];
    return pw_tensor2(w->fused.data, w->fused.dtype, k->n, columns);
}

static int linear_split(const struct block *k, enum pw_linear l, const struct pw_tensor *parts, int n_parts, struct pw_tensor x,
                        const struct pw_tensor xa[PW_LIN_COUNT], const struct pw_work *w)
{
    const struct pw_tensor y = side_by_side(k, w, parts, n_parts);
    PW_PASS(linear(k, l, y, x, xa));
    for (int64_t i = 0, at = 0; i < n_parts; at += parts[i++].shape[1])
        PW_PASS(pw_columns_copy(k->dev, parts[i], pw_columns(y, at, parts[i].shape[1])));
    return 0;
}

static int rotate(const struct block *k, struct pw_tensor t, int heads, int direction)
{
    const enum pw_rope_layout layout = k->c->rope_interleaved ? PW_ROPE_INTERLEAVED : PW_ROPE_HALF;
    const int table = pw_model_config_local(k->c, k->index);
    PW_TRY(pw_rope(k->dev, pw_split_heads(t, heads), k->b->pos, k->b->rope->cosines[table], k->b->rope->sines[table], layout, direction), "layer %d: rope", k->index);
    return 0;
}

static int norm(const struct block *k, enum pw_norm n, struct pw_tensor out, struct pw_tensor inv, struct pw_tensor x)
{
    PW_TRY(pw_rmsnorm_fwd(k->dev, out, inv, x, k->layer->norm[n], k->c->norm_eps, k->c->norm_offset), "layer %d: %s", k->index, pw_norm_suffix(k->c, n));
    return 0;
}

static int norm_back(const struct block *k, enum pw_norm n, struct pw_tensor dx, const struct pw_block_grads *grads, struct pw_tensor dout, struct pw_tensor x,
                     struct pw_tensor inv)
{
    PW_TRY(pw_rmsnorm_bwd(k->dev, dx, grads->dnorm[n], dout, x, k->layer->norm[n], inv, k->c->norm_offset), "layer %d: backward of %s", k->index,
           pw_norm_suffix(k->c, n));
    return 0;
}

/* (T, H * d) as rows of heads, (T * H, d), and their statistics (T, H) as one vector. */
static struct pw_tensor heads_of(const struct block *k, struct pw_tensor t)
{
    return pw_tensor2(t.data, t.dtype, pw_count(t) / k->c->head_dim, k->c->head_dim);
}

static struct pw_tensor flat(struct pw_tensor t)
{
    return t.data ? pw_tensor1(t.data, t.dtype, pw_count(t)) : t;
}

/* out = rope(norm(x)) for q or k of a model that normalises heads. */
static int norm_heads(const struct block *k, enum pw_norm n, struct pw_tensor out, struct pw_tensor inv, struct pw_tensor x, int heads)
{
    PW_PASS(norm(k, n, heads_of(k, out), inv, heads_of(k, x)));
    return rotate(k, out, heads, 1);
}

/* dq, gradient of rope(norm(x)), becomes that of x, in `into`. */
static int norm_heads_back(const struct block *k, enum pw_norm n, struct pw_tensor into, struct pw_tensor dq, struct pw_tensor x, struct pw_tensor inv,
                           const struct pw_block_grads *grads)
{
    PW_PASS(pw_fill(k->dev, into, 0));
    return norm_back(k, n, heads_of(k, into), grads, heads_of(k, dq), heads_of(k, x), inv);
}

static struct pw_attn attn_of(const struct block *k)
{
    return (struct pw_attn){.scale = k->c->attn_scale, .window = pw_model_config_window(k->c, k->index), .softcap = k->c->attn_softcap};
}

enum pw_act pw_block_act(const struct pw_model_config *c)
{
    return c->gelu ? PW_ACT_GELU_TANH : PW_ACT_SILU;
}

/* x += y, through the norm of what a half puts out if there is one; that one reads y from where backward will. */
static int add_half(const struct block *k, struct pw_tensor x, enum pw_norm n, struct pw_tensor h, struct pw_tensor inv, struct pw_tensor y)
{
    if (k->c->post_norms)
        PW_PASS(norm(k, n, h, inv, y));
    return pw_axpy(k->dev, x, h, 1.0);
}

static int attention_forward(const struct block *k, struct pw_tensor x, struct pw_work *w, struct pw_saved *saved)
{
    const struct pw_model_config *c = k->c;
    const struct pw_tensor *xa = saved ? saved->xa : w->xa;
    const struct pw_tensor h = first(k, w->h), value = first(k, saved ? saved->v : w->v), a = first(k, saved ? saved->attn : w->attn);
    const struct pw_tensor inv = saved ? first(k, saved->inv_attn) : pw_none();
    const struct pw_tensor lse = saved ? first(k, saved->lse) : k->b->seqs->company ? first(k, w->lse) : pw_none(); /* a library gives it in any case */
    const struct pw_tensor out = saved && c->post_norms ? first(k, saved->attn_out) : h, inv_out = saved ? first(k, saved->inv_attn_out) : pw_none();
    const struct pw_attn attn = attn_of(k);
    struct pw_tensor q = first(k, saved ? saved->q : w->q), key = first(k, saved ? saved->k : w->k);

    PW_PASS(norm(k, PW_NORM_ATTN, h, inv, x));
    if (c->fused)
        PW_PASS(linear_split(k, PW_LIN_QKV, (struct pw_tensor[]){q, key, value}, 3, h, xa, w));
    else {
        PW_PASS(linear(k, PW_LIN_Q, q, h, xa));
        PW_PASS(linear(k, PW_LIN_K, key, h, xa));
        PW_PASS(linear(k, PW_LIN_V, value, h, xa));
    }
    if (c->qk_norm) {
        const struct pw_tensor inv_q = saved ? flat(first(k, saved->inv_q)) : pw_none(), inv_k = saved ? flat(first(k, saved->inv_k)) : pw_none();
        PW_PASS(norm_heads(k, PW_NORM_Q, first(k, w->q), inv_q, q, c->heads));
        PW_PASS(norm_heads(k, PW_NORM_K, first(k, w->k), inv_k, key, c->kv_heads));
        q = first(k, w->q);
        key = first(k, w->k);
    } else {
        PW_PASS(rotate(k, q, c->heads, 1));
        PW_PASS(rotate(k, key, c->kv_heads, 1));
    }

    const struct pw_tensor keys = pw_split_heads(key, c->kv_heads), values = pw_split_heads(value, c->kv_heads);
    const struct pw_tensor heads_out = pw_split_heads(a, c->heads), queries = pw_split_heads(q, c->heads);
    if (k->b->kv_rows.data) {
        const struct pw_cache *cache = &k->b->cache;
        PW_TRY(pw_cache_put(k->dev, cache->k, cache->k_scale, keys, k->b->kv_rows), "layer %d: keys to the cache", k->index);
        PW_TRY(pw_cache_put(k->dev, cache->v, cache->v_scale, values, k->b->kv_rows), "layer %d: values to the cache", k->index);
        PW_TRY(pw_cache_attn(k->dev, heads_out, lse, queries, cache, k->b->seqs, &attn), "layer %d: attention", k->index);
    } else
        PW_TRY(pw_attn_fwd(k->dev, heads_out, lse, queries, keys, values, k->b->seqs, &attn), "layer %d: attention", k->index);
    PW_PASS(linear(k, PW_LIN_O, out, a, xa));
    return add_half(k, x, PW_NORM_ATTN_OUT, h, inv_out, out);
}

/* gate and up from x, by way of h. */
static int gate_and_up(const struct block *k, struct pw_tensor gate, struct pw_tensor up, struct pw_tensor inv, struct pw_tensor x, const struct pw_tensor xa[PW_LIN_COUNT],
                       const struct pw_work *w)
{
    const struct pw_tensor h = first(k, w->h);
    PW_PASS(norm(k, PW_NORM_MLP, h, inv, x));
    if (k->c->fused)
        return linear_split(k, PW_LIN_GATE_UP, (struct pw_tensor[]){gate, up}, 2, h, xa, w);
    PW_PASS(linear(k, PW_LIN_GATE, gate, h, xa));
    return linear(k, PW_LIN_UP, up, h, xa);
}

static int mlp_part_forward(const struct block *k, struct pw_tensor x, struct pw_work *w, struct pw_saved *saved)
{
    const struct pw_model_config *c = k->c;
    const struct pw_tensor *xa = saved ? saved->xa : w->xa;
    const bool keeps = saved && saved->gate.data;
    const struct pw_tensor h = first(k, w->h), gate = keeps ? mine_half(k, saved->gate) : first_half(k, w->gate), up = keeps ? mine_half(k, saved->up) : first_half(k, w->up);
    const struct pw_tensor product = first_half(k, w->gate);   /* gate itself when it is not saved */
    const struct pw_tensor inv = saved ? mine(k, saved->inv_mlp) : pw_none();
    const struct pw_tensor out = saved && c->post_norms ? mine(k, saved->mlp_out) : h, inv_out = saved ? mine(k, saved->inv_mlp_out) : pw_none();

    PW_PASS(gate_and_up(k, gate, up, inv, x, xa, w));
    PW_TRY(pw_glu_fwd(k->dev, product, gate, up, pw_block_act(c)), "layer %d: gated product", k->index);
    PW_PASS(linear(k, PW_LIN_DOWN, out, product, xa));
    return add_half(k, x, PW_NORM_MLP_OUT, h, inv_out, out);
}

static int mlp_forward(const struct block *k, struct pw_tensor x, struct pw_work *w, struct pw_saved *saved)
{
    struct block part;
    for (int64_t i = 0; part_of(&part, k, w, i); i++)
        PW_PASS(mlp_part_forward(&part, mine(&part, x), w, saved));
    return 0;
}

/* The attention half, and what is kept before and after it. */
static int attention_kept(const struct block *k, struct pw_tensor x, struct pw_work *w, struct pw_saved *saved)
{
    if (saved)
        PW_PASS(pw_copy(k->dev, first(k, saved->x_in), x));
    PW_PASS(attention_forward(k, x, w, saved));
    return saved ? pw_copy(k->dev, first(k, saved->x_mid), x) : 0;
}

int pw_block_forward(struct pw_model *m, int layer, struct pw_tensor x, const struct pw_block_batch *b, struct pw_work *w, struct pw_saved *saved)
{
    struct block k;
    PW_PASS(begin(&k, m, layer, x, b, w, saved ? saved->xa : w->xa));
    PW_TRY(attention_kept(&k, x, w, saved), "layer %d: the attention half", layer);
    PW_TRY(k.layer->moe ? pw_experts_forward(m, layer, x, b, w, saved) : mlp_forward(&k, x, w, saved), "layer %d: the feed-forward half", layer);
    return 0;
}

int pw_block_again(struct pw_model *m, int layer, struct pw_tensor x, const struct pw_block_batch *b, struct pw_work *w, struct pw_saved *saved)
{
    struct block k;
    if (saved->gate.data)
        return pw_block_forward(m, layer, x, b, w, saved);
    PW_PASS(begin(&k, m, layer, x, b, w, saved->xa));
    PW_TRY(attention_kept(&k, x, w, saved), "layer %d: the attention half", layer);
    return 0;
}

/* ---- backward ------------------------------------------------------------------------------------------------------- */

static int linear_back(const struct block *k, enum pw_linear l, struct pw_tensor dx, struct pw_tensor dy, struct pw_tensor x,
                       const struct pw_saved *saved, const struct pw_block_grads *grads)
{
    const struct pw_linear_grads g = {.dx = dx, .dw = grads->dw[l], .dbias = grads->dbias[l], .da = grads->da[l], .db = grads->db[l], .dm = grads->dm[l]};
    PW_TRY(pw_linear_bwd(k->dev, &g, dy, x, xa_of(k, saved->xa, l), &k->layer->linear[l], drop_of(k, l)), "layer %d: backward of %s",
           k->index, pw_linear_suffix(l));
    return 0;
}

static int linear_join_back(const struct block *k, enum pw_linear l, struct pw_tensor dx, const struct pw_tensor *parts, int n_parts, struct pw_tensor x,
                            const struct pw_work *w, const struct pw_saved *saved, const struct pw_block_grads *grads)
{
    const struct pw_tensor dy = side_by_side(k, w, parts, n_parts);
    for (int64_t i = 0, at = 0; i < n_parts; at += parts[i++].shape[1])
        PW_PASS(pw_columns_copy(k->dev, pw_columns(dy, at, parts[i].shape[1]), parts[i]));
    return linear_back(k, l, dx, dy, x, saved, grads);
}

/* The gradient of what a half put out, from dx, that of what was added: the same, or through its norm, into `into`. */
static int half_back(const struct block *k, enum pw_norm n, struct pw_tensor *dout, struct pw_tensor into, struct pw_tensor dx, struct pw_tensor x,
                     struct pw_tensor inv, const struct pw_block_grads *grads)
{
    *dout = dx;
    if (!k->c->post_norms)
        return 0;
    *dout = into;
    PW_PASS(pw_fill(k->dev, into, 0));
    return norm_back(k, n, into, grads, dx, x, inv);
}

/* x += f(x) passes dx on as it is and adds what comes back through f: dx holds the gradient of the block's output and, after each half, of that half's input. */
static int mlp_part_backward(const struct block *k, struct pw_tensor dx, struct pw_work *w, const struct pw_saved *s, const struct pw_block_grads *grads)
{
    const struct pw_model_config *c = k->c;
    const bool keeps = s->gate.data != NULL;
    const struct pw_tensor h = first(k, w->h), dh = first(k, w->dh), x_mid = mine(k, s->x_mid), inv = mine(k, s->inv_mlp), mlp_out = mine(k, s->mlp_out), inv_out = mine(k, s->inv_mlp_out);
    const struct pw_tensor gate = keeps ? mine_half(k, s->gate) : first_half(k, w->gate_again), up = keeps ? mine_half(k, s->up) : first_half(k, w->up_again);
    const struct pw_tensor product = first_half(k, w->gate), dproduct = first_half(k, w->glu);  /* product's memory becomes dgate */
    const struct pw_tensor dgate = first_half(k, w->dgate), dup = first_half(k, w->dup);
    struct pw_tensor dout;

    if (!keeps)
        PW_PASS(gate_and_up(k, gate, up, inv, x_mid, s->xa, w));
    PW_PASS(pw_glu_fwd(k->dev, product, gate, up, pw_block_act(c)));
    if (!keeps && c->post_norms) {
        PW_PASS(linear(k, PW_LIN_DOWN, mlp_out, product, s->xa));
        PW_PASS(norm(k, PW_NORM_MLP_OUT, dh, inv_out, mlp_out));
    }
    PW_PASS(half_back(k, PW_NORM_MLP_OUT, &dout, dh, dx, mlp_out, inv_out, grads));
    PW_PASS(pw_fill(k->dev, dproduct, 0));
    PW_PASS(linear_back(k, PW_LIN_DOWN, dproduct, dout, product, s, grads));
    PW_PASS(pw_fill(k->dev, dgate, 0));
    PW_PASS(pw_fill(k->dev, dup, 0));
    PW_PASS(pw_glu_bwd(k->dev, dgate, dup, dproduct, gate, up, pw_block_act(c)));

    if (keeps)
        PW_PASS(norm(k, PW_NORM_MLP, h, pw_none(), x_mid));
    PW_PASS(pw_fill(k->dev, dh, 0));
    if (c->fused)
        PW_PASS(linear_join_back(k, PW_LIN_GATE_UP, dh, (struct pw_tensor[]){dgate, dup}, 2, h, w, s, grads));
    else {
        PW_PASS(linear_back(k, PW_LIN_GATE, dh, dgate, h, s, grads));
        PW_PASS(linear_back(k, PW_LIN_UP, dh, dup, h, s, grads));
    }
    return norm_back(k, PW_NORM_MLP, dx, grads, dh, x_mid, inv);
}

static int mlp_backward(const struct block *k, struct pw_tensor dx, struct pw_work *w, const struct pw_saved *s, const struct pw_block_grads *grads)
{
    struct block part;
    for (int64_t i = 0; part_of(&part, k, w, i); i++)
        PW_PASS(mlp_part_backward(&part, mine(&part, dx), w, s, grads));
    return 0;
}

static int attention_backward(const struct block *k, struct pw_tensor dx, struct pw_work *w, const struct pw_saved *s, const struct pw_block_grads *grads)
{
    const struct pw_model_config *c = k->c;
    const struct pw_tensor h = first(k, w->h), dh = first(k, w->dh), a = first(k, s->attn), da = first(k, w->dattn), x_in = first(k, s->x_in);
    const struct pw_tensor q_in = first(k, s->q), k_in = first(k, s->k), dv = first(k, w->dv);
    const struct pw_attn attn = attn_of(k);
    struct pw_tensor dout, q = q_in, key = k_in, dq = first(k, w->dq), dk = first(k, w->dk);

    PW_PASS(half_back(k, PW_NORM_ATTN_OUT, &dout, dh, dx, first(k, s->attn_out), first(k, s->inv_attn_out), grads));
    PW_PASS(pw_fill(k->dev, da, 0));
    PW_PASS(linear_back(k, PW_LIN_O, da, dout, a, s, grads));
    if (c->qk_norm) {
        q = first(k, w->q_again);
        key = first(k, w->k_again);
        PW_PASS(norm_heads(k, PW_NORM_Q, q, pw_none(), q_in, c->heads));
        PW_PASS(norm_heads(k, PW_NORM_K, key, pw_none(), k_in, c->kv_heads));
    }
    PW_PASS(pw_fill(k->dev, dq, 0));
    PW_PASS(pw_fill(k->dev, dk, 0));
    PW_PASS(pw_fill(k->dev, dv, 0));
    PW_TRY(pw_attn_bwd(k->dev, pw_split_heads(dq, c->heads), pw_split_heads(dk, c->kv_heads), pw_split_heads(dv, c->kv_heads),
                       pw_split_heads(da, c->heads), pw_split_heads(a, c->heads), first(k, s->lse), pw_split_heads(q, c->heads),
                       pw_split_heads(key, c->kv_heads), pw_split_heads(first(k, s->v), c->kv_heads), k->b->seqs, &attn),
           "layer %d: backward of attention", k->index);
    PW_PASS(rotate(k, dq, c->heads, -1));
    PW_PASS(rotate(k, dk, c->kv_heads, -1));
    if (c->qk_norm) {          /* q and key are not needed any more: their memory takes what comes out of the norms */
        PW_PASS(norm_heads_back(k, PW_NORM_Q, q, dq, q_in, flat(first(k, s->inv_q)), grads));
        PW_PASS(norm_heads_back(k, PW_NORM_K, key, dk, k_in, flat(first(k, s->inv_k)), grads));
        dq = q;
        dk = key;
    }

    PW_PASS(norm(k, PW_NORM_ATTN, h, pw_none(), x_in));
    PW_PASS(pw_fill(k->dev, dh, 0));
    if (c->fused)
        PW_PASS(linear_join_back(k, PW_LIN_QKV, dh, (struct pw_tensor[]){dq, dk, dv}, 3, h, w, s, grads));
    else {
        PW_PASS(linear_back(k, PW_LIN_Q, dh, dq, h, s, grads));
        PW_PASS(linear_back(k, PW_LIN_K, dh, dk, h, s, grads));
        PW_PASS(linear_back(k, PW_LIN_V, dh, dv, h, s, grads));
    }
    return norm_back(k, PW_NORM_ATTN, dx, grads, dh, x_in, first(k, s->inv_attn));
}

int pw_block_backward(struct pw_model *m, int layer, struct pw_tensor dx, const struct pw_block_batch *b, struct pw_work *w,
                      const struct pw_saved *saved, const struct pw_block_grads *grads)
{
    struct block k;
    PW_PASS(begin(&k, m, layer, dx, b, w, saved->xa));
    PW_CHECK(!b->kv_rows.data, PW_E_FAIL, "block %d: backward through a cache", layer);
    PW_CHECK(w->dh.data && (saved->gate.data || w->gate_again.data), PW_E_FAIL, "block %d: work was placed without backward", layer);
    PW_TRY(k.layer->moe ? pw_experts_backward(m, layer, dx, b, w, saved, grads) : mlp_backward(&k, dx, w, saved, grads), "layer %d: backward of the feed-forward half", layer);
    PW_TRY(attention_backward(&k, dx, w, saved, grads), "layer %d: backward of the attention half", layer);
    return 0;
}
