#include "tests/whole_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/rng.h"

static void must(int rc, const char *what)
{
    if (rc < 0) {
        fprintf(stderr, "%s: %s\n", what, pw_error_text());
        abort();
    }
}
#define MUST(call) must((call), #call)

struct pw_model_config whole_config(bool tied)
{
    return (struct pw_model_config){.family = "llama", .architecture = "LlamaForCausalLM", .vocab = 17, .layers = WHOLE_LAYERS, .hidden = 12,
        .heads = 3, .kv_heads = 1, .head_dim = 4, .ffn = 20, .context = 32, .norm_eps = 1e-5, .rope_theta = 10000, .tied = tied,
        .attn_scale = 0.5, .embed_scale = 1, .init_range = 0.3, .bos = 1, .eos = {2, -1}, .pad = -1, .n_eos = 1};
}

double whole_get(struct pw_tensor t, int64_t i)
{
    return t.dtype == PW_F64 ? ((double *)t.data)[i] : (double)((float *)t.data)[i];
}

void whole_set(struct pw_tensor t, int64_t i, double x)
{
    if (t.dtype == PW_F64)
        ((double *)t.data)[i] = x;
    else
        ((float *)t.data)[i] = (float)x;
}

void whole_random(struct pw_tensor t, double deviation, uint64_t seed)
{
    struct pw_rng rng = pw_rng_make(seed, PW_STREAM_TEST);
    for (int64_t i = 0; i < pw_count(t); i++)
        whole_set(t, i, deviation * pw_rng_normal(&rng));
}

static struct pw_tensor piece(struct whole *w, enum pw_dtype type, int64_t a, int64_t b)
{
    const int64_t n = b > 0 ? a * b : a;
    void *data = pw_pool_take(&w->pool, (size_t)n * pw_dtype_bytes(type));
    must(data ? 0 : -1, "pool of the test");
    return b > 0 ? pw_tensor2(data, type, a, b) : pw_tensor1(data, type, a);
}

static void open_lora(struct whole *w, struct pw_weight *linear, struct pw_lora *lora, enum pw_dtype type, int rank, uint64_t seed)
{
    lora->r = rank;
    lora->scale = 0.7;
    lora->a = piece(w, type, rank, linear->n_in);
    lora->b = piece(w, type, linear->n_out, rank);
    whole_random(lora->a, 0.3, seed);
    whole_random(lora->b, 0.3, seed + 1);
    linear->lora = lora;
}

static void open_experts(struct whole *w, int i, enum pw_dtype type, int rank, uint64_t seed)
{
    struct pw_moe *moe = w->m->layers[i].moe;
    for (int p = 0; moe && p < PW_EXPERT_PARTS; p++) {
        w->grads[i].experts[p] = w->expert_grads[i][p];
        for (int e = 0; e < w->m->config.experts; e++) {
            struct pw_linear_grads *g = &w->expert_grads[i][p][e];
            *g = (struct pw_linear_grads){pw_none(), pw_none(), pw_none(), pw_none(), pw_none()};
            if (rank == 0)
                continue;
            open_lora(w, &moe->part[p][e], &w->expert_lora[i][p][e], type, rank, seed + 3000 + (uint64_t)(2 * ((i * PW_EXPERT_PARTS + p) * WHOLE_EXPERTS + e)));
            g->da = piece(w, type, rank, moe->part[p][e].n_in);
            g->db = piece(w, type, moe->part[p][e].n_out, rank);
        }
    }
}

static void open_layer(struct whole *w, int i, enum pw_dtype type, int rank, uint64_t seed)
{
    struct pw_block_grads *g = &w->grads[i];
    for (int l = 0; l < PW_LIN_COUNT; l++) {
        struct pw_weight *linear = &w->m->layers[i].linear[l];
        g->dw[l] = g->da[l] = g->db[l] = g->dbias[l] = pw_none();
        if (!pw_layer_has(&w->m->config, i, l))
            continue;
        g->dw[l] = piece(w, type, linear->n_out, linear->n_in);
        if (rank > 0) {
            struct pw_lora *lora = &w->lora[i][l];
            open_lora(w, linear, lora, type, rank, seed + (uint64_t)(i * 16 + l) * 2 + 1000);
            g->da[l] = piece(w, type, rank, linear->n_in);
            g->db[l] = piece(w, type, linear->n_out, rank);
        }
    }
    open_experts(w, i, type, rank, seed);
    for (int n = 0; n < PW_NORM_COUNT; n++) {
        struct pw_tensor norm = w->m->layers[i].norm[n];
        g->dnorm[n] = pw_none();
        if (!norm.data)
            continue;
        g->dnorm[n] = piece(w, type, norm.shape[0], 0);
        whole_random(norm, 0.2, seed + 50 + (uint64_t)(PW_NORM_COUNT * i + n));
        for (int64_t j = 0; j < norm.shape[0]; j++)
            whole_set(norm, j, 1 - w->m->config.norm_offset + whole_get(norm, j));
    }
}

static void open_rows(struct whole *w, enum pw_dtype type, const int *lens, uint64_t seed)
{
    const struct pw_rope_shape rope = {.config = &w->m->config, .longest = WHOLE_TOKENS, .tokens = WHOLE_TOKENS, .type = type};
    int32_t row = 0;
    MUST(pw_rope_place(&w->rope, w->dev, &w->pool, &w->arena, &rope));
    for (int s = 0; lens[s] > 0; s++) {
        w->seqs.n = s + 1;
        w->q_start[s] = row;
        w->kv_len[s] = lens[s];
        MUST(pw_rope_rows(&w->rope, 0, lens[s], lens[s], w->pos + row));
        row += lens[s];
        w->q_start[s + 1] = row;
    }
    w->tokens = row;
    w->seqs.q_start = w->seqs.kv_start = w->q_start;
    w->seqs.kv_len = w->kv_len;
    for (int t = 0; t < row; t++) {
        struct pw_rng rng = pw_rng_make(seed + (uint64_t)t, PW_STREAM_TEST);
        w->ids[t] = (int32_t)pw_rng_below(&rng, (uint64_t)w->m->config.vocab);
        w->targets[t] = t % 4 == 2 ? -1 : (int32_t)pw_rng_below(&rng, (uint64_t)w->m->config.vocab);
    }
    w->batch = (struct pw_block_batch){.tokens = row, .rope = &w->rope, .pos = pw_tensor1(w->pos, PW_I32, row), .seqs = &w->seqs};
}

void whole_open(struct whole *w, const char *device, const struct pw_model_config *c, enum pw_dtype type, int rank, const int *lens, uint64_t seed)
{
    whole_open_parts(w, device, c, type, rank, lens, seed, WHOLE_MLP_ROWS);
}

void whole_open_parts(struct whole *w, const char *device, const struct pw_model_config *c, enum pw_dtype type, int rank, const int *lens, uint64_t seed, int64_t mlp_rows)
{
    const struct pw_dev_options opt = {.kind = device, .threads = 2, .level = getenv("PW_CPU")};
    *w = (struct whole){0};
    pw_arena_init(&w->arena);
    MUST(pw_dev_open(&w->dev, &opt));
    MUST(pw_model_create_as(&w->m, w->dev, c, seed, type));
    MUST(pw_pool_open(&w->pool, w->dev, 4 << 20, "test"));
    for (int i = 0; i < c->layers; i++)
        open_layer(w, i, type, rank, seed);
    open_rows(w, type, lens, seed);
    const int64_t T = w->tokens, D = c->hidden;
    struct pw_block_shape shape = {.config = c, .tokens = T, .backward = true, .type = type, .mlp_rows = mlp_rows};
    pw_model_ranks(w->m, shape.ranks);
    for (int i = 0; i < c->layers; i++) {
        MUST(pw_saved_place(&w->saved[i], &w->pool, &shape));
        w->inputs[i] = piece(w, type, T, D);
        w->xa_down[i] = pw_block_xa_down(w->m, i, w->saved[i].xa, T);
        if (w->xa_down[i].data)
            w->xa_down[i] = piece(w, type, T, w->xa_down[i].shape[1]);
    }
    shape.mlp_again = true;
    MUST(pw_saved_place(&w->again, &w->pool, &shape));
    shape.tokens = T + 3;
    MUST(pw_work_place(&w->work, &w->pool, &shape)); /* larger than the pass on purpose */
    w->dembed = piece(w, type, c->vocab, D);
    w->dhead = c->tied ? w->dembed : piece(w, type, c->vocab, D);
    w->dnorm_final = piece(w, type, D, 0);
    struct pw_tensor *rows[] = {&w->x, &w->h, &w->dx, &w->dh};
    for (int i = 0; i < 4; i++)
        *rows[i] = piece(w, type, T, D);
    w->inv = piece(w, type, T, 0);
    w->loss = piece(w, type, T, 0);
    w->dloss = piece(w, type, T, 0);
    for (int t = 0; t < T; t++) {
        struct pw_rng rng = pw_rng_make(seed + 500 + (uint64_t)t, PW_STREAM_TEST);
        whole_set(w->dloss, t, pw_rng_normal(&rng));
    }
    size_t scratch = pw_block_scratch(w->m, T, T, true), head = pw_scratch_head(w->dev, T, &w->m->head, true);
    MUST(pw_dev_reserve(w->dev, scratch > head ? scratch : head));
}

void whole_close(struct whole *w)
{
    pw_pool_close(&w->pool);
    pw_arena_free(&w->arena);
    pw_model_free(w->m);
    pw_dev_close(w->dev);
}

double whole_forward(struct whole *w, bool save)
{
    const struct pw_model_config *c = &w->m->config;
    double sum = 0;
    MUST(pw_embed_fwd(w->dev, w->x, &w->m->embed, pw_tensor1(w->ids, PW_I32, w->tokens)));
    if (c->embed_scale != 1)
        MUST(pw_scale(w->dev, w->x, pw_model_embed_scale(w->m)));
    for (int i = 0; i < c->layers; i++) {
        MUST(pw_copy(w->dev, w->inputs[i], w->x));
        MUST(pw_block_forward(w->m, i, w->x, &w->batch, &w->work, save ? &w->saved[i] : NULL));
        if (!save && w->xa_down[i].data)
            MUST(pw_copy(w->dev, w->xa_down[i], pw_block_xa_down(w->m, i, w->work.xa, w->tokens)));
    }
    MUST(pw_rmsnorm_fwd(w->dev, w->h, w->inv, w->x, w->m->norm_final, c->norm_eps, c->norm_offset));
    MUST(pw_head_loss(w->dev, w->loss, pw_none(), pw_none(), pw_none(), w->h, &w->m->head, pw_tensor1(w->targets, PW_I32, w->tokens), pw_none(), c->logit_softcap));
    for (int64_t t = 0; t < w->tokens; t++)
        sum += whole_get(w->dloss, t) * whole_get(w->loss, t);
    return sum;
}

static void clear(struct whole *w, struct pw_tensor t)
{
    if (t.data)
        MUST(pw_fill(w->dev, t, 0));
}

void whole_backward(struct whole *w, bool recompute)
{
    const struct pw_model_config *c = &w->m->config;
    const struct pw_tensor ids = pw_tensor1(w->ids, PW_I32, w->tokens), targets = pw_tensor1(w->targets, PW_I32, w->tokens);
    for (int i = 0; i < c->layers; i++) {
        for (int l = 0; l < PW_LIN_COUNT; l++) {
            clear(w, w->grads[i].dw[l]);
            clear(w, w->grads[i].da[l]);
            clear(w, w->grads[i].db[l]);
        }
        for (int n = 0; n < PW_NORM_COUNT; n++)
            clear(w, w->grads[i].dnorm[n]);
        for (int e = 0; w->m->layers[i].moe && e < PW_EXPERT_PARTS * c->experts; e++) {
            clear(w, w->expert_grads[i][e % PW_EXPERT_PARTS][e / PW_EXPERT_PARTS].da);
            clear(w, w->expert_grads[i][e % PW_EXPERT_PARTS][e / PW_EXPERT_PARTS].db);
        }
    }
    clear(w, w->dembed);
    clear(w, w->dhead);
    clear(w, w->dnorm_final);
    clear(w, w->dh);
    clear(w, w->dx);
    MUST(pw_head_loss(w->dev, w->loss, pw_none(), w->dh, w->dhead, w->h, &w->m->head, targets, w->dloss, c->logit_softcap));
    MUST(pw_rmsnorm_bwd(w->dev, w->dx, w->dnorm_final, w->dh, w->x, w->m->norm_final, w->inv, c->norm_offset));
    for (int i = c->layers - 1; i >= 0; i--) {
        if (recompute) {
            MUST(pw_copy(w->dev, w->h, w->inputs[i]));       /* h is free: the block may write over its copy of the input */
            MUST(pw_block_again(w->m, i, w->h, &w->batch, &w->work, &w->again));
            if (w->xa_down[i].data)
                MUST(pw_copy(w->dev, pw_block_xa_down(w->m, i, w->again.xa, w->tokens), w->xa_down[i]));
        }
        MUST(pw_block_backward(w->m, i, w->dx, &w->batch, &w->work, recompute ? &w->again : &w->saved[i], &w->grads[i]));
    }
    if (c->embed_scale != 1)
        MUST(pw_scale(w->dev, w->dx, pw_model_embed_scale(w->m)));
    MUST(pw_embed_bwd(w->dev, w->dembed, w->dx, ids));
}
