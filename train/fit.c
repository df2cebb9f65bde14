/* Which blocks are kept, and what waits in host memory, so that a run fits: from the fastest setting to the leanest, the first that fits.
 *
 * Nothing here changes the bytes of the result. Order of the savings, by what they cost on a card: fewer kept blocks (a block is computed again),
 * then the embedding in host memory (rows read over the bus), then block inputs in host memory (moved while blocks compute). */
#include <string.h>

#include "base/error.h"
#include "train/run_parts.h"

static int try_fit(struct pw_run *run, int kept, bool embed_host, bool offload, bool *fits)
{
    struct pw_trainer *t = &run->trainer;
    run->fit = (struct pw_run_fit){.kept = kept, .offload = offload, .embed_host = embed_host};
    t->set.kept = t->shape.kept = kept;
    t->set.offload = t->shape.offload = offload;
    run->fit.host_bytes = pw_pass_host_bytes(run->model, &t->shape) + (embed_host ? pw_bytes(run->model->embed) : 0);
    PW_PASS(pw_run_fill_budget(run));
    *fits = pw_run_fits(run);
    return 0;
}

/* Can the embedding stay behind? Not when the output layer reads it too, and nothing is won where device memory is host memory. */
static bool embed_may_wait(const struct pw_run *run)
{
    const struct pw_model *m = run->model;
    return !m->dev->host && !m->trainable && (!m->config.tied || m->head.type != PW_Q_DENSE);
}

/* The most kept blocks that fit under these savings, at least `least`; fits = false when not even these do. */
static int most_kept(struct pw_run *run, int least, int most, bool embed_host, bool offload, bool *fits)
{
    PW_PASS(try_fit(run, least, embed_host, offload, fits));
    if (!*fits)
        return 0;
    int low = least, high = most;
    while (low < high) {
        const int middle = low + (high - low + 1) / 2;
        bool room = false;
        PW_PASS(try_fit(run, middle, embed_host, offload, &room));
        if (room)
            low = middle;
        else
            high = middle - 1;
    }
    return try_fit(run, low, embed_host, offload, fits);
}

int pw_run_choose_fit(struct pw_run *run)
{
    const struct pw_recipe *r = run->opt.recipe;
    const bool card = !run->opt.dev->host, waits = embed_may_wait(run), least = strcmp(r->memory, "least") == 0;
    const int layers = run->config.layers, given = r->checkpointing ? 1 : layers;
    bool fits = false;
    if (least)
        return try_fit(run, 1, waits, card, &fits);
    if (strcmp(r->memory, "as_given") == 0 || !(card || run->opt.memory))
        return try_fit(run, given, false, false, &fits);
    PW_PASS(most_kept(run, given, layers, false, false, &fits));
    if (!fits && waits)
        PW_PASS(most_kept(run, given, layers, true, false, &fits));
    if (!fits && card && r->checkpointing)
        PW_PASS(most_kept(run, given, layers, waits, true, &fits));
    return fits ? 0 : try_fit(run, given, card && waits, card && r->checkpointing, &fits); /* the leanest is what is shown and refused */
}
