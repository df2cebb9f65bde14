/* See begin.h. The parts are those of a run: run.c plans the adapter, adapter_init.c gives it values, loftq.c makes the base. */
#include "train/begin.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/limit.h"
#include "base/memory.h"
#include "train/loftq.h"
#include "train/run_parts.h"

/* Do the values depend on weights of the base, or are some of them copied? */
static bool reads_weights(const struct pw_run *run)
{
    const char *init = run->opt.recipe->init;
    return pw_adapter_is_dora(&run->adapter) || run->adapter.n_saved > 0 || (strcmp(init, "default") != 0 && strcmp(init, "gaussian") != 0);
}

static int check_memory(const struct pw_run *run, bool weights)
{
    const struct pw_limit_part parts[] = {{"program", pw_rss_bytes() + PW_RUN_LIBRARY_BYTES},
                                          {"the adapter", pw_adapter_bytes(&run->adapter)},
                                          {"its beginning", pw_run_init_bytes(run)},
                                          {"model file", weights ? run->model->mapped_bytes : 0},
                                          {"weights", weights ? run->model->pool.bytes : 0}};
    PW_TRY(pw_limit_check(run->opt.memory, parts, 5, NULL), "beginning the adapter");
    return 0;
}

static int use_own_base(struct pw_run *run, const struct pw_begin_options *opt)
{
    if (!pw_recipe_loftq_base(run->opt.recipe))
        return 0;
    PW_PASS(pw_loftq_base(run, opt->base));
    run->base = opt->base;
    return pw_run_model(run, true);
}

static int record_base(struct pw_run *run, const struct pw_begin_options *opt)
{
    PW_PASS(pw_adapter_record_base(&run->adapter.config, run->model->checkpoint, pw_run_quantise(run), run->opt.recipe->double_quant));
    if (run->base)
        snprintf(run->adapter.config.base_name, sizeof run->adapter.config.base_name, "%s", opt->base_named);
    return 0;
}

int pw_begin_open(struct pw_begin *b, const struct pw_begin_options *opt)
{
    const struct pw_recipe *r = opt->recipe;
    const struct pw_dev_options host = {.kind = "cpu", .threads = opt->threads};
    struct pw_run *run = &b->run;
    *b = (struct pw_begin){0};
    pw_arena_init(&run->arena);
    PW_PASS(pw_dev_open(&b->dev, &host));
    run->opt = (struct pw_run_options){.recipe = r, .dev = b->dev, .memory = opt->memory, .progress = opt->progress};
    PW_TRY(pw_run_model(run, true), "opening the model %s", r->model);
    run->config = run->model->config;
    pw_checkpoint_tell(run->model->checkpoint, opt->progress);
    PW_PASS(pw_run_plan_adapter(run));
    if (pw_recipe_loftq_base(r))
        PW_PASS(pw_loftq_check(run));
    const bool weights = reads_weights(run);
    const size_t bytes = pw_adapter_bytes(&run->adapter);
    PW_PASS(check_memory(run, weights));
    b->memory = pw_alloc_zero(1, bytes);
    PW_CHECK(b->memory, PW_E_NOMEM, "no memory for an adapter of %zu bytes", bytes);
    PW_PASS(use_own_base(run, opt));
    PW_PASS(record_base(run, opt));
    PW_PASS(pw_adapter_place(&run->adapter, b->memory, bytes));
    if (weights) {
        PW_TRY(pw_run_model(run, false), "loading the model %s", r->model);
        PW_PASS(pw_model_attach(run->model, &run->adapter));
    }
    PW_PASS(pw_run_fresh_adapter(run));
    return r->init_from ? pw_run_adapter_from(run, r->init_from) : 0;
}

void pw_begin_close(struct pw_begin *b)
{
    pw_run_close(&b->run);
    pw_free(b->memory);
    pw_dev_close(b->dev);
}
