/* Which blocks are kept, and what waits in host memory, so that a run fits: of the settings that fit, the fastest.
 *
 * Nothing here changes the bytes of the result. A setting costs what blocks that are computed again take in operations, and what goes over the bus in bytes: rows of the
 * embedding and block inputs in every pass, the state of the optimizer once a step. One is set against the other by a round number for cards (OPS_A_BYTE), and nothing is taken to be hidden
 * behind computing: an estimate that orders settings, no promise of time. The frozen weights of blocks themselves, brought over the bus twice a pass, wait only when nothing
 * else fits, and of as few blocks as will do: the fewer of these, the faster, and then the less of that cost. */
#include <string.h>

#include "base/error.h"
#include "train/run_parts.h"

/* Operations of dense products in bf16 that a card does while its bus brings a byte: 71e12 and 25e9 a second say 2,800 (RTX 3090), 165e12 6,600 (RTX 4090), 312e12 12,500
 * (A100); the published rates. A card that waits longer for its bus than that is slower with what waits, so the number is on the small side of the middle. */
#define OPS_A_BYTE 5000.0

double pw_run_block_ops(const struct pw_model_config *c, int layer, bool again)
{
    double ops = 0;
    int64_t n_out, n_in;
    for (int l = 0; l < PW_LIN_COUNT; l++) {
        if (!pw_layer_has(c, layer, l) || (again && l == PW_LIN_DOWN && !c->experts && !c->post_norms))
            continue;
        pw_linear_shape(c, l, &n_out, &n_in);
        ops += 2.0 * (double)n_out * (double)n_in;
    }
    for (int p = 0; pw_model_config_sparse(c, layer) && p < PW_EXPERT_PARTS; p++) {
        pw_expert_shape(c, p, &n_out, &n_in);
        ops += 2.0 * c->experts_chosen * (double)n_out * (double)n_in;
    }
    return ops;
}

double pw_run_fit_cost(const struct pw_run *run)
{
    const struct pw_trainer *t = &run->trainer;
    const struct pw_run_fit *f = &run->fit;
    const double tokens = (double)t->shape.tokens, passes = (double)run->opt.recipe->accumulate;
    double ops = 0, bytes = 2.0 * (double)pw_pass_host_bytes(run->model, &t->shape);
    for (int i = 0; i < run->config.layers - f->kept; i++)
        ops += tokens * pw_run_block_ops(&run->config, i, true);
    bytes += f->embed_host ? tokens * (double)pw_weight_data_bytes(&run->model->embed) / (double)run->config.vocab : 0;
    return passes * (ops + OPS_A_BYTE * bytes) + (f->optim_host ? OPS_A_BYTE * 2.0 * (double)pw_optim_host_bytes(t->kind, t->slots, t->n_slots) : 0);
}

int pw_run_try_fit(struct pw_run *run, const struct pw_run_fit *f)
{
    struct pw_trainer *t = &run->trainer;
    run->fit = *f;
    t->set.kept = t->shape.kept = f->kept;
    t->set.offload = t->shape.offload = f->offload;
    t->set.optim_host = f->optim_host;
    run->fit.host_bytes = pw_pass_host_bytes(run->model, &t->shape) + (f->embed_host ? pw_weight_data_bytes(&run->model->embed) : 0) +
                          (f->optim_host ? pw_optim_host_bytes(t->kind, t->slots, t->n_slots) : 0) + (f->stream ? pw_stream_host_bytes(run->model->block_bytes, run->config.layers, f->stream) : 0);
    return pw_run_fill_budget(run);
}

/* Can the embedding stay behind? Not when the output layer reads it too, and nothing is won where device memory is host memory. */
static bool embed_may_wait(const struct pw_run *run)
{
    const struct pw_model *m = run->model;
    return !m->dev->host && !m->trainable && (!m->config.tied || m->head.type != m->embed.type);
}

struct search {
    bool found; struct pw_run_fit best; double cost;          /* of those that fit */
    bool lean; struct pw_run_fit leanest; size_t least;       /* of those whose waiting part fits into host memory */
};

/* The most kept blocks, from those of f, that fit with what waits in f: more of them cost less. */
static int consider(struct pw_run *run, const struct pw_run_fit *f, struct search *s)
{
    struct pw_run_fit now = *f;
    int low = f->kept, high = run->config.layers;
    PW_PASS(pw_run_try_fit(run, f));
    if ((run->opt.dev->host || run->fit.host_bytes <= run->host_limit) && (!s->lean || pw_budget_peak(&run->budget) < s->least)) {
        s->lean = true;
        s->leanest = *f;
        s->least = pw_budget_peak(&run->budget);
    }
    if (!pw_run_fits(run))
        return 0;
    while (low < high) {
        now.kept = low + (high - low + 1) / 2;
        PW_PASS(pw_run_try_fit(run, &now));
        if (pw_run_fits(run))
            low = now.kept;
        else
            high = now.kept - 1;
    }
    now.kept = low;
    PW_PASS(pw_run_try_fit(run, &now));
    const double cost = pw_run_fit_cost(run);
    if (!s->found || cost < s->cost) {
        s->found = true;
        s->best = now;
        s->cost = cost;
    }
    return 0;
}

/* Everything that may wait, in every combination, those with less of it first: of equal cost they are taken. */
static int search(struct pw_run *run, const struct pw_run_fit *none, const struct pw_run_fit *all, int stream, struct search *s)
{
    for (int inputs = none->offload; inputs <= all->offload; inputs++)
        for (int optim = none->optim_host; optim <= all->optim_host; optim++)
            for (int embed = none->embed_host; embed <= all->embed_host; embed++) {
                const struct pw_run_fit f = {.kept = none->kept, .offload = inputs, .optim_host = optim, .embed_host = embed, .stream = stream};
                PW_PASS(consider(run, &f, s));
            }
    return 0;
}

int pw_run_choose_fit(struct pw_run *run)
{
    const struct pw_recipe *r = run->opt.recipe;
    const bool card = !run->opt.dev->host, least = strcmp(r->memory, "least") == 0, stream = strcmp(r->memory, "stream") == 0;
    const bool optim_free = strcmp(r->optimizer_state, "auto") == 0, streams = card && !run->model->trainable && !r->fresh;
    const int layers = run->config.layers;
    const struct pw_run_fit none = {.kept = r->checkpointing ? 1 : layers, .optim_host = card && strcmp(r->optimizer_state, "host") == 0};
    struct pw_run_fit all = none;
    struct search s = {0};
    all.embed_host = embed_may_wait(run);
    all.optim_host = card && (none.optim_host || optim_free);
    all.offload = card && (least || stream || r->checkpointing);
    PW_CHECK(!stream || streams, PW_E_USAGE, "train.memory: stream is for adapters on a card");
    if (least || stream) {
        all.kept = 1;
        all.stream = stream ? layers : 0;
        return pw_run_try_fit(run, &all);
    }
    if (strcmp(r->memory, "as_given") == 0 || !(card || run->opt.memory))
        return pw_run_try_fit(run, &none);
    PW_PASS(search(run, &none, &all, 0, &s));
    for (int n = PW_STREAM_SLOTS + 1; streams && !s.found && n <= layers; n++)   /* fewer would all be in the slots */
        PW_PASS(search(run, &none, &all, n, &s));
    return pw_run_try_fit(run, s.found ? &s.best : s.lean ? &s.leanest : &all);  /* the leanest is what is shown and refused */
}
