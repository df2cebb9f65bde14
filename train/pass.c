/* See pass.h. The order of a pass: embed, blocks, final norm, head with its loss; then the same backwards. */
#include "train/pass.h"

#include <math.h>
#include <string.h>

#include "base/error.h"

enum { NOISE_OFFSET = (1 << 20) - 1 };   /* of the counters of a pass: above those of layers and linears */

/* Either counts (pool NULL) or places: one walk serves the plan and the run. */
struct walk { struct pw_pool *pool; size_t bytes; int rc; };

static void *take(struct walk *k, size_t bytes)
{
    k->bytes += pw_pool_round(bytes);
    if (!k->pool || k->rc < 0)
        return NULL;
    void *data = pw_pool_take(k->pool, bytes);
    if (!data)
        k->rc = PW_E_NOMEM;
    return data;
}

static struct pw_tensor vector(struct walk *k, enum pw_dtype t, int64_t n)
{
    return pw_tensor1(take(k, (size_t)n * pw_dtype_bytes(t)), t, n);
}

static struct pw_tensor matrix(struct walk *k, enum pw_dtype t, int64_t rows, int64_t columns)
{
    return pw_tensor2(take(k, (size_t)rows * (size_t)columns * pw_dtype_bytes(t)), t, rows, columns);
}

static int64_t slots_of(const struct pw_model *m, const struct pw_pass_shape *s)
{
    return !s->train ? 0 : s->kept < m->config.layers ? s->kept : m->config.layers;
}

/* Blocks that are computed again. */
static int64_t again_of(const struct pw_model *m, const struct pw_pass_shape *s)
{
    return s->train ? m->config.layers - slots_of(m, s) : 0;
}

/* As work is shaped, and the first slot, in which blocks are computed again; the others keep all. */
static struct pw_block_shape shape_of(const struct pw_model *m, const struct pw_pass_shape *s)
{
    struct pw_block_shape shape = {.config = &m->config, .tokens = s->tokens, .backward = s->train, .type = m->dev->act, .mlp_again = again_of(m, s) > 0, .mlp_rows = s->mlp_rows};
    pw_model_ranks(m, shape.ranks);
    return shape;
}

/* What is kept between forward and backward. */
static void walk_saved(struct walk *k, struct pw_pass *p, const struct pw_model *m, const struct pw_pass_shape *s)
{
    struct pw_block_shape block = shape_of(m, s);
    const int64_t again = again_of(m, s);
    if (again > 0 && !m->config.experts && block.ranks[PW_LIN_DOWN] > 0)
        p->xa_down = matrix(k, m->dev->act, again * s->tokens, block.ranks[PW_LIN_DOWN]);
    if (again > 0)
        p->inputs = matrix(k, m->dev->act, (s->offload && again > PW_INPUT_LANES ? PW_INPUT_LANES : again) * s->tokens, m->config.hidden);
    for (int64_t i = 0; i < slots_of(m, s); i++) {
        k->bytes += pw_saved_bytes(&block);
        if (k->pool && k->rc == 0)
            k->rc = pw_saved_place(&p->saved[i], k->pool, &block);
        block.mlp_again = false;
    }
}

static void walk_scratch(struct walk *k, struct pw_pass *p, const struct pw_model *m, const struct pw_pass_shape *s, struct pw_arena *arena)
{
    int64_t T = s->tokens, D = m->config.hidden;
    const struct pw_block_shape block = shape_of(m, s);
    const enum pw_dtype act = m->dev->act;
    p->ids = vector(k, PW_I32, T);
    p->pos = vector(k, PW_I32, T);
    p->targets = vector(k, PW_I32, T);
    p->loss = vector(k, PW_F32, T);
    p->x = matrix(k, act, T, D);
    if (s->train) {
        p->dloss = vector(k, PW_F32, T);
        p->inv_final = vector(k, PW_F32, T);
        p->dx = matrix(k, act, T, D);
    }
    if (!m->dev->host)
        p->seqs = take(k, pw_seqs_bytes((int)s->sequences, 0));
    const struct pw_rope_shape rope = {.config = &m->config, .longest = s->longest ? s->longest : T, .tokens = T, .type = PW_F32};
    k->bytes += pw_rope_bytes(&rope);
    if (k->pool && k->rc == 0)
        k->rc = pw_rope_place(&p->rope, m->dev, k->pool, arena, &rope);
    k->bytes += pw_work_bytes(&block);
    if (k->pool && k->rc == 0)
        k->rc = pw_work_place(&p->work, k->pool, &block);
    p->h = p->work.h;          /* blocks are done with them when the head begins, and begin again when it is done */
    p->dh = p->work.dh;
}

void pw_pass_size(const struct pw_model *m, const struct pw_pass_shape *s, struct pw_pass_bytes *bytes)
{
    struct pw_pass none = {0};
    struct walk saved = {0}, scratch = {0};
    walk_saved(&saved, &none, m, s);
    walk_scratch(&scratch, &none, m, s, NULL);
    size_t block = pw_block_scratch(m, s->tokens, s->tokens, s->train), head = pw_scratch_head(m->dev, s->tokens, &m->head, s->train);
    *bytes = (struct pw_pass_bytes){.saved = saved.bytes, .scratch = scratch.bytes, .device = block > head ? block : head};
}

int pw_pass_place(struct pw_pass *p, struct pw_model *m, const struct pw_pass_shape *s, struct pw_pool *pool, struct pw_arena *arena)
{
    struct walk k = {.pool = pool};
    size_t L = (size_t)m->config.layers;
    *p = (struct pw_pass){.m = m, .shape = *s, .dembed = pw_none(), .dhead = pw_none(), .dnorm_final = pw_none(),
                          .dloss = pw_none(), .dh = pw_none(), .inv_final = pw_none(), .xa_down = pw_none()};
    p->host_loss = pw_arena_array(arena, (size_t)s->tokens, sizeof *p->host_loss);
    p->saved = pw_arena_array(arena, (size_t)(slots_of(m, s) > 0 ? slots_of(m, s) : 1), sizeof *p->saved);
    p->grads = pw_arena_array(arena, L, sizeof *p->grads);
    p->host_pos = pw_arena_array(arena, (size_t)s->tokens, sizeof *p->host_pos);
    PW_CHECK(p->host_loss && p->host_pos && p->saved && p->grads, PW_E_NOMEM, "placing a pass");
    for (size_t i = 0; i < L; i++) {
        struct pw_block_grads *g = &p->grads[i];
        for (int n = 0; n < PW_NORM_COUNT; n++)
            g->dnorm[n] = pw_none();
        for (int l = 0; l < PW_LIN_COUNT; l++)
            g->da[l] = g->db[l] = g->dm[l] = g->dw[l] = g->dbias[l] = pw_none();
        for (int e = 0; m->layers[i].moe && e < PW_EXPERT_PARTS; e++) {
            g->experts[e] = pw_arena_array(arena, (size_t)m->config.experts, sizeof *g->experts[e]);
            PW_CHECK(g->experts[e], PW_E_NOMEM, "placing a pass");
        }
    }
    walk_saved(&k, p, m, s);
    walk_scratch(&k, p, m, s, arena);
    PW_TRY(k.rc, "placing a pass of %lld tokens", (long long)s->tokens);
    if (pw_pass_host_bytes(m, s) > 0) {
        void *host = NULL;
        PW_TRY(pw_dev_pinned(m->dev, &host, pw_pass_host_bytes(m, s)), "taking host memory for the inputs of blocks");
        p->host_inputs = host;
    }
    return 0;
}

size_t pw_pass_host_bytes(const struct pw_model *m, const struct pw_pass_shape *s)
{
    return s->offload ? (size_t)again_of(m, s) * (size_t)s->tokens * (size_t)m->config.hidden * pw_dtype_bytes(m->dev->act) : 0;
}

void pw_pass_close(struct pw_pass *p)
{
    if (p->m)
        pw_dev_pinned_free(p->m->dev, p->host_inputs);
    p->host_inputs = NULL;
}

/* The place of the gradient of an adapter's tensor that belongs to an expert, or NULL. */
static struct pw_tensor *expert_place(struct pw_block_grads *g, const struct pw_moe *moe, int experts, const void *data)
{
    for (int p = 0; p < PW_EXPERT_PARTS; p++)
        for (int e = 0; e < experts; e++) {
            const struct pw_lora *lora = moe->part[p][e].lora;
            if (lora && data == lora->a.data)
                return &g->experts[p][e].da;
            if (lora && data == lora->b.data)
                return &g->experts[p][e].db;
        }
    return NULL;
}

/* The place of the gradient of the parameter that lies at `data`, or NULL. */
static struct pw_tensor *place_of(struct pw_pass *p, const void *data)
{
    struct pw_model *m = p->m;
    if (data == m->embed.data)
        return &p->dembed;       /* a tied head adds to it as well */
    if (data == m->head.data)
        return &p->dhead;
    if (data == m->norm_final.data)
        return &p->dnorm_final;
    for (int i = 0; i < m->config.layers; i++) {
        struct pw_layer *layer = &m->layers[i];
        struct pw_block_grads *g = &p->grads[i];
        for (int n = 0; n < PW_NORM_COUNT; n++)
            if (data == layer->norm[n].data)
                return &g->dnorm[n];
        for (int l = 0; l < PW_LIN_COUNT; l++) {
            const struct pw_weight *w = &layer->linear[l];
            if (data == w->data)
                return &g->dw[l];
            if (w->bias && data == w->bias)
                return &g->dbias[l];
            if (w->lora && data == w->lora->a.data)
                return &g->da[l];
            if (w->lora && data == w->lora->b.data)
                return &g->db[l];
            if (w->lora && data == w->lora->magnitude.data)
                return &g->dm[l];
        }
        struct pw_tensor *of_expert = layer->moe ? expert_place(g, layer->moe, m->config.experts, data) : NULL;
        if (of_expert)
            return of_expert;
    }
    return NULL;
}

int pw_pass_connect(struct pw_pass *p, const struct pw_optim *o)
{
    for (size_t i = 0; i < o->n; i++) {
        struct pw_tensor *g = place_of(p, o->slots[i].value.data);
        PW_CHECK(g, PW_E_UNSUPPORTED, "%s: parameters of this kind are not trained yet", o->slots[i].name);
        *g = o->slots[i].grad;
    }
    if (p->m->head.data == p->m->embed.data)
        p->dhead = p->dembed;
    return 0;
}

/* ---- one pass ---- */

struct rows { struct pw_tensor ids, pos, targets, loss, x, h; }; /* the buffers narrowed to the tokens of this pass */

static struct rows narrow(const struct pw_pass *p, int64_t n)
{
    return (struct rows){pw_rows(p->ids, 0, n), pw_rows(p->pos, 0, n), pw_rows(p->targets, 0, n), pw_rows(p->loss, 0, n),
                         pw_rows(p->x, 0, n), pw_rows(p->h, 0, n)};
}

/* Where the input of a block that is computed again lies on the device, and where it waits on the host. */
static struct pw_tensor input_of(const struct pw_pass *p, int layer, int64_t n)
{
    return pw_rows(p->inputs, (p->host_inputs ? layer % PW_INPUT_LANES : layer) * p->shape.tokens, n);
}
static char *host_input(const struct pw_pass *p, int layer)
{
    return p->host_inputs + (size_t)layer * (size_t)p->shape.tokens * (size_t)p->m->config.hidden * pw_dtype_bytes(p->m->dev->act);
}

static int keep_input(struct pw_pass *p, int layer, struct pw_tensor x)
{
    struct pw_dev *dev = p->m->dev;
    const struct pw_tensor to = input_of(p, layer, x.shape[0]);
    if (p->host_inputs)
        PW_PASS(pw_dev_wait(dev, layer % PW_INPUT_LANES));     /* what was there two blocks ago has left */
    PW_PASS(pw_copy(dev, to, x));
    return p->host_inputs ? pw_dev_send(dev, layer % PW_INPUT_LANES, host_input(p, layer), to.data, pw_bytes(to)) : 0;
}

static int bring_input(struct pw_pass *p, int layer, int64_t n)
{
    const struct pw_tensor to = input_of(p, layer, n);
    return p->host_inputs && layer >= 0 ? pw_dev_bring(p->m->dev, layer % PW_INPUT_LANES, to.data, host_input(p, layer), pw_bytes(to)) : 0;
}

/* x = input of the block; the one before it is on its way from then on. */
static int take_input(struct pw_pass *p, int layer, struct pw_tensor x)
{
    if (p->host_inputs)
        PW_PASS(pw_dev_wait(p->m->dev, layer % PW_INPUT_LANES));
    PW_PASS(pw_copy(p->m->dev, x, input_of(p, layer, x.shape[0])));
    return bring_input(p, layer - 1, x.shape[0]);
}

/* The product of down's adapter, of a block that is computed again without down: out of the work of the first time, and into the slot. */
static int keep_xa(struct pw_pass *p, int layer, const struct pw_tensor xa[PW_LIN_COUNT], int64_t n, bool back)
{
    const struct pw_tensor there = pw_block_xa_down(p->m, layer, xa, n);
    if (!there.data || !p->xa_down.data)
        return 0;
    char *from = (char *)p->xa_down.data + (size_t)layer * (size_t)p->shape.tokens * (size_t)p->xa_down.shape[1] * pw_dtype_bytes(p->xa_down.dtype);
    const struct pw_tensor kept = pw_tensor2(from, there.dtype, n, there.shape[1]);
    return back ? pw_copy(p->m->dev, there, kept) : pw_copy(p->m->dev, kept, there);
}

/* The buffer of losses is free until the end of the forward pass. */
static int add_noise(struct pw_pass *p, const struct rows *r, const struct pw_packed *batch, const struct pw_pass_options *o)
{
    for (int s = 0; s < batch->n_seqs; s++)
        for (int32_t t = batch->seq_start[s]; t < batch->seq_start[s + 1]; t++)
            p->host_loss[t] = (float)(o->neftune / sqrt((double)batch->seq_len[s] * p->m->config.hidden));
    PW_PASS(pw_dev_put(p->m->dev, r->loss.data, p->host_loss, (size_t)batch->n_tokens * sizeof(float)));
    return pw_noise(p->m->dev, r->x, r->loss, (struct pw_drop){.seed = o->drop_seed, .offset = o->drop_offset | NOISE_OFFSET, .first = (uint64_t)(o->drop_row * p->m->config.hidden)});
}

static int forward(struct pw_pass *p, const struct rows *r, const struct pw_block_batch *b, const struct pw_packed *batch, const struct pw_pass_options *o)
{
    const bool backward = o->backward;
    struct pw_model *m = p->m;
    struct pw_dev *dev = m->dev;
    const int last = m->config.layers - 1, again = (int)again_of(m, &p->shape);
    PW_PASS(pw_embed_fwd(dev, r->x, &m->embed, r->ids));
    if (m->config.embed_scale != 1)
        PW_PASS(pw_scale(dev, r->x, pw_model_embed_scale(m)));
    if (o->neftune > 0)
        PW_PASS(add_noise(p, r, batch, o));
    for (int i = 0; i <= last; i++) {
        struct pw_saved *saved = NULL;
        if (backward && i < again)
            PW_PASS(keep_input(p, i, r->x));
        else if (backward)
            saved = &p->saved[i - again];
        PW_PASS(pw_stream_need(&m->stream, i, i + 1, 1));
        PW_PASS(pw_block_forward(m, i, r->x, b, &p->work, saved));
        if (backward && i < again)
            PW_PASS(keep_xa(p, i, p->work.xa, b->tokens, false));
    }
    struct pw_tensor inv = backward ? pw_rows(p->inv_final, 0, b->tokens) : pw_none();
    return pw_rmsnorm_fwd(dev, r->h, inv, r->x, m->norm_final, m->config.norm_eps, m->config.norm_offset);
}

static int backward(struct pw_pass *p, const struct rows *r, const struct pw_block_batch *b)
{
    struct pw_model *m = p->m;
    struct pw_dev *dev = m->dev;
    struct pw_tensor dh = pw_rows(p->dh, 0, b->tokens), dx = pw_rows(p->dx, 0, b->tokens);
    const int again = (int)again_of(m, &p->shape);
    PW_PASS(bring_input(p, again - 1, b->tokens));
    PW_PASS(pw_fill(dev, dx, 0));
    PW_PASS(pw_rmsnorm_bwd(dev, dx, p->dnorm_final, dh, r->x, m->norm_final, pw_rows(p->inv_final, 0, b->tokens), m->config.norm_offset));
    for (int i = m->config.layers - 1; i >= 0; i--) {
        struct pw_saved *saved = &p->saved[i < again ? 0 : i - again];
        PW_PASS(pw_stream_need(&m->stream, i, i - 1, -1));
        if (i < again) {
            PW_PASS(take_input(p, i, r->x));
            PW_TRY(pw_block_again(m, i, r->x, b, &p->work, saved), "computing layer %d again", i);
            PW_PASS(keep_xa(p, i, saved->xa, b->tokens, true));
        }
        PW_PASS(pw_block_backward(m, i, dx, b, &p->work, saved, &p->grads[i]));
    }
    if (p->dembed.data) {
        if (m->config.embed_scale != 1)
            PW_PASS(pw_scale(dev, dx, pw_model_embed_scale(m)));
        PW_PASS(pw_embed_bwd(dev, p->dembed, dx, r->ids));
    }
    return 0;
}

/* Rows of the rotary tables for the tokens of a batch. */
static int turn(struct pw_pass *p, const struct pw_packed *batch, struct pw_tensor pos)
{
    pw_rope_pass(&p->rope);
    for (int s = 0; s < batch->n_seqs; s++)
        PW_TRY(pw_rope_rows(&p->rope, 0, batch->seq_len[s], batch->seq_len[s], p->host_pos + batch->seq_start[s]), "sequence %d of a pass", s);
    return pw_dev_put(p->m->dev, pos.data, p->host_pos, (size_t)batch->n_tokens * sizeof(int32_t));
}

int pw_pass_run(struct pw_pass *p, const struct pw_packed *batch, const struct pw_pass_options *o, double *loss)
{
    struct pw_model *m = p->m;
    struct pw_dev *dev = m->dev;
    int64_t n = batch->n_tokens;
    PW_CHECK(n > 0 && n <= p->shape.tokens, PW_E_FAIL, "a pass of %lld tokens (planned for %lld)", (long long)n, (long long)p->shape.tokens);
    PW_CHECK(!o->backward || p->shape.train, PW_E_FAIL, "backward in a pass that was planned without");
    struct rows r = narrow(p, n);
    size_t bytes = (size_t)n * sizeof(int32_t);
    PW_PASS(pw_dev_put(dev, r.ids.data, batch->ids, bytes));
    PW_PASS(turn(p, batch, r.pos));
    PW_PASS(pw_dev_put(dev, r.targets.data, batch->targets, bytes));
    PW_CHECK(batch->n_seqs <= p->shape.sequences, PW_E_FAIL, "a pass of %d sequences (planned for %lld)", (int)batch->n_seqs, (long long)p->shape.sequences);
    struct pw_seqs seqs = {.n = batch->n_seqs, .q_start = batch->seq_start, .kv_start = batch->seq_start, .kv_len = batch->seq_len, .company = true};
    PW_PASS(pw_seqs_put(dev, p->seqs, &seqs));
    const struct pw_block_batch b = {
        .tokens = n, .rope = &p->rope, .pos = r.pos, .seqs = &seqs, .kv_rows = pw_none(),
        .train = o->dropout && o->drop_p > 0, .drop_seed = o->drop_seed, .drop_offset = o->drop_offset, .drop_row = o->drop_row, .drop_p = o->drop_p,
    };
    PW_TRY(forward(p, &r, &b, batch, o), "the forward pass");
    struct pw_tensor dh = pw_none(), dloss = pw_none(), dhead = pw_none();
    if (o->backward && !o->weigh) {
        dh = pw_rows(p->dh, 0, n);
        dloss = pw_rows(p->dloss, 0, n);
        dhead = p->dhead;
        PW_PASS(pw_fill(dev, dh, 0));
        if (batch->weighted) {
            for (int64_t t = 0; t < n; t++)
                p->host_loss[t] = (float)((double)batch->weight[t] * o->dloss);
            PW_PASS(pw_dev_put(dev, dloss.data, p->host_loss, (size_t)n * sizeof(float)));
        } else
            PW_PASS(pw_fill(dev, dloss, o->dloss));
    }
    PW_TRY(pw_head_loss(dev, r.loss, pw_none(), dh, dhead, r.h, &m->head, r.targets, dloss, m->config.logit_softcap), "the loss");
    PW_PASS(pw_dev_get(dev, p->host_loss, r.loss.data, (size_t)n * sizeof(float)));
    double sum = 0;
    for (int64_t t = 0; t < n; t++)
        if (batch->targets[t] >= 0)
            sum += (batch->weighted ? (double)batch->weight[t] : 1) * (double)p->host_loss[t];
    *loss = sum;
    if (o->weigh)
        PW_PASS(o->weigh(o->weigh_ctx, batch, p->host_loss, loss));
    if (o->backward && o->weigh) {
        dh = pw_rows(p->dh, 0, n);
        dloss = pw_rows(p->dloss, 0, n);
        PW_PASS(pw_fill(dev, dh, 0));
        PW_PASS(pw_dev_put(dev, dloss.data, p->host_loss, (size_t)n * sizeof(float)));
        PW_TRY(pw_head_loss(dev, r.loss, pw_none(), dh, p->dhead, r.h, &m->head, r.targets, dloss, m->config.logit_softcap), "the loss");
    }
    if (o->backward)
        PW_TRY(backward(p, &r, &b), "the backward pass");
    return 0;
}
