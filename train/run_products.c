/* Which way the products and the attention of a run go on a card (kernels/choices.h): measured at its start, kept with it, and the same when it goes on.
 *
 * A new run takes the file of choices that it is given, or the one in the user's cache, measures what its shapes lack there (not with a limit of memory, since
 * that takes memory of its own), and keeps the whole list as products.json in its folder. A run that goes on reads that and nothing else, whatever the
 * other files say by then: its bytes depend on the ways. A saved state holds the hash of it (run_train.c). Rank 0 does this for all. */
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/progress.h"
#include "train/run_parts.h"

enum { MOST_BYTES = 4 << 20 };

/* All shapes of the blocks, in both passes. Of experts the rows are few and vary: they keep the fixed rule. */
static int measure(struct pw_run *run)
{
    const struct pw_model *m = run->model;
    const int64_t rows = run->trainer.shape.tokens;
    int64_t n_out, n_in;
    int rc = 0;
    for (int i = 0; i < m->config.layers && rc == 0; i++)
        for (int j = 0; j < PW_LIN_COUNT && rc == 0; j++) {
            if (!pw_layer_has(&m->config, i, j))
                continue;
            struct pw_weight w = m->layers[i].linear[j];
            pw_linear_shape(&m->config, j, &n_out, &n_in);
            w.n_out = n_out;
            w.n_in = n_in;
            w.data = NULL;   /* as planned, not as stored */
            w.nested_block = w.absmax_q || run->opt.recipe->double_quant ? 256 : 0;
            for (int backward = 0; backward < 2 && rc == 0; backward++)
                rc = pw_choices_measure(&run->choices, run->opt.dev, &w, rows, backward == 1);
        }
    for (int i = 0; i < m->config.layers && rc == 0; i++) {
        const struct pw_attn attn = {m->config.attn_scale, pw_model_config_window(&m->config, i), m->config.attn_softcap};
        rc = pw_choices_measure_attn(&run->choices, run->opt.dev, m->config.heads, m->config.kv_heads, m->config.head_dim, &attn, rows);
    }
    pw_dev_unreserve(run->opt.dev);
    return rc;
}

/* The run that goes on: what it began with, which may be nothing. */
static int recall(struct pw_run *run, const char *path)
{
    if (run->opt.products_given)
        pw_progress_say(run->opt.progress, "the run goes on with its own choices of products: %s is not read", run->opt.products);
    if (!pw_file_exists(path))
        return 0;
    PW_PASS(pw_file_read(path, MOST_BYTES, &run->products));
    PW_TRY(pw_choices_recall(&run->choices, run->products.data ? run->products.data : "", run->products.len, path), "reading what the run began with");
    return 0;
}

static int take(struct pw_run *run)
{
    const struct pw_run_options *o = &run->opt;
    if (!o->products)
        return 0;
    PW_PASS(pw_choices_begin(&run->choices, o->dev, o->products, o->products_given, o->progress));
    const size_t before = run->choices.n + run->choices.n_attn;
    if (o->dev->backend->driver(o->dev) != 0 && o->memory == 0) {
        if (o->dev->backend->attn_library(o->dev) == 0)
            pw_progress_say(o->progress, "attention is ours alone: cuDNN (libcudnn.so.9, 9.18.1 or later) is not here, or its headers were not when this was built");
        PW_TRY(measure(run), "measuring products");
    }
    PW_PASS(pw_choices_keep(&run->choices, o->dev, o->products, o->products_given, before, o->progress));
    if (o->memory != 0)
        run->choices.n_attn = 0; /* the library's attention takes memory that no limit knows of, as it is made ready */
    return run->choices.n + run->choices.n_attn > 0 ? pw_choices_text(&run->choices, o->dev, &run->products) : 0;
}

static int choose(struct pw_run *run)
{
    const char *output = run->opt.recipe->output;
    const char *path = pw_path_join(&run->arena, output, PW_RUN_PRODUCTS), *recipe = pw_path_join(&run->arena, output, "recipe.yaml");
    PW_CHECK(path && recipe, PW_E_NOMEM, "out of memory");
    return run->opt.resume && pw_file_exists(recipe) ? recall(run, path) : take(run);
}

/* A list of rank 0, to all: n elements of `each` bytes. */
static int share(struct pw_ranks *ranks, void **list, size_t *n, size_t *room, size_t each)
{
    uint64_t count = *n;
    PW_PASS(pw_ranks_broadcast(ranks, &count, sizeof count));
    if (pw_ranks_rank(ranks) != 0 && count > 0) {
        *list = pw_alloc_zero((size_t)count, each);
        PW_CHECK(*list, PW_E_NOMEM, "out of memory for a list of choices");
        *n = *room = (size_t)count;
    }
    return count > 0 ? pw_ranks_broadcast(ranks, *list, (size_t)count * each) : 0;
}

static int share_all(struct pw_run *run)
{
    struct pw_choices *c = &run->choices;
    void *list = c->list, *attn = c->attn;
    int rc = share(run->opt.ranks, &list, &c->n, &c->room, sizeof *c->list);
    c->list = list;
    if (rc == 0)
        rc = share(run->opt.ranks, &attn, &c->n_attn, &c->room_attn, sizeof *c->attn);
    c->attn = attn;
    return rc;
}

int pw_run_products(struct pw_run *run)
{
    const struct pw_run_options *o = &run->opt;
    PW_CHECK(!o->products_given || o->dev->backend->choose, PW_E_USAGE, "--products: device %s has one way of multiplying", o->dev->kind);
    if (!o->dev->backend->choose)
        return 0;
    if (pw_ranks_rank(o->ranks) == 0)
        PW_PASS(choose(run));
    PW_PASS(pw_ranks_agree(o->ranks, 0));
    if (o->ranks)
        PW_PASS(share_all(run));
    if (run->choices.n + run->choices.n_attn == 0) /* the same on all ranks */
        return 0;
    const int rc = pw_choices_use(&run->choices, o->dev);
    PW_TRY(pw_ranks_agree(o->ranks, rc), "choosing the ways of products and attention"); /* a library may be there on one machine and not on another */
    return 0;
}
