/* Which blocks are kept, and what waits in host memory, so that a run fits: from the fastest setting to the leanest, the first that fits.
 *
 * Nothing here changes the bytes of the result. Order of the savings, by what they cost on a card: fewer kept blocks (a block is computed again),
 * then the embedding in host memory (rows read over the bus), then the state of the optimizer (moved once a step), then block inputs (moved in every pass,
 * while blocks compute), and last the frozen weights of blocks themselves (brought over the bus twice a pass), of as few blocks as will do. */
#include <string.h>

#include "base/error.h"
#include "train/run_parts.h"

struct savings { bool embed, optim, inputs; int weights; };   /* what waits on the host; of weights, so many blocks */

static int try_fit(struct pw_run *run, int kept, struct savings s, bool *fits)
{
    struct pw_trainer *t = &run->trainer;
    run->fit = (struct pw_run_fit){.kept = kept, .offload = s.inputs, .embed_host = s.embed, .optim_host = s.optim, .stream = s.weights};
    t->set.kept = t->shape.kept = kept;
    t->set.offload = t->shape.offload = s.inputs;
    t->set.optim_host = s.optim;
    run->fit.host_bytes = pw_pass_host_bytes(run->model, &t->shape) + (s.embed ? pw_weight_data_bytes(&run->model->embed) : 0) +
                          (s.optim ? pw_optim_host_bytes(t->kind, t->slots, t->n_slots) : 0) + (s.weights ? pw_stream_host_bytes(run->model->block_bytes, run->config.layers, s.weights) : 0);
    PW_PASS(pw_run_fill_budget(run));
    *fits = pw_run_fits(run);
    return 0;
}

/* Can the embedding stay behind? Not when the output layer reads it too, and nothing is won where device memory is host memory. */
static bool embed_may_wait(const struct pw_run *run)
{
    const struct pw_model *m = run->model;
    return !m->dev->host && !m->trainable && (!m->config.tied || m->head.type != m->embed.type);
}

/* The most kept blocks that fit under these savings, at least `least`; fits = false when not even these do. */
static int most_kept(struct pw_run *run, int least, int most, struct savings s, bool *fits)
{
    PW_PASS(try_fit(run, least, s, fits));
    if (!*fits)
        return 0;
    int low = least, high = most;
    while (low < high) {
        const int middle = low + (high - low + 1) / 2;
        bool room = false;
        PW_PASS(try_fit(run, middle, s, &room));
        if (room)
            low = middle;
        else
            high = middle - 1;
    }
    return try_fit(run, low, s, fits);
}

int pw_run_choose_fit(struct pw_run *run)
{
    const struct pw_recipe *r = run->opt.recipe;
    const bool card = !run->opt.dev->host, least = strcmp(r->memory, "least") == 0, stream = strcmp(r->memory, "stream") == 0;
    const bool optim_free = strcmp(r->optimizer_state, "auto") == 0;
    const int layers = run->config.layers, given = r->checkpointing ? 1 : layers;
    const struct savings none = {.optim = card && strcmp(r->optimizer_state, "host") == 0};
    const struct savings all = {.embed = embed_may_wait(run), .optim = card && (none.optim || optim_free), .inputs = card && (least || stream || r->checkpointing)};
    const bool streams = card && !run->model->trainable && !r->fresh;
    struct savings s = none;
    bool fits = false;
    PW_CHECK(!stream || streams, PW_E_USAGE, "train.memory: stream is for adapters on a card");
    struct savings most = all;
    most.weights = streams ? layers : 0;
    if (least || stream)
        return try_fit(run, 1, stream ? most : all, &fits);
    if (strcmp(r->memory, "as_given") == 0 || !(card || run->opt.memory))
        return try_fit(run, given, none, &fits);
    PW_PASS(most_kept(run, given, layers, s, &fits));
    if (!fits && all.embed != s.embed) {
        s.embed = all.embed;
        PW_PASS(most_kept(run, given, layers, s, &fits));
    }
    if (!fits && all.optim != s.optim) {
        s.optim = all.optim;
        PW_PASS(most_kept(run, given, layers, s, &fits));
    }
    if (!fits && all.inputs != s.inputs)
        PW_PASS(most_kept(run, given, layers, all, &fits));
    for (s = all, s.weights = PW_STREAM_SLOTS + 1; !fits && streams && s.weights <= layers; s.weights++)   /* fewer would all be in the slots */
        PW_PASS(try_fit(run, given, s, &fits));
    return fits ? 0 : try_fit(run, given, most, &fits); /* the leanest is what is shown and refused */
}
