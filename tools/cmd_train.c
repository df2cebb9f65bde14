/* pw train, pw plan, pw recipe: recipes from the command line to train/run.h. Owns the texts printed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "tools/cmd.h"
#include "tools/load.h"
#include "tools/ranks.h"
#include "train/run.h"

struct options { struct pw_strings sets; bool resume, dry_run; };

static const struct pw_option plan_options[] = {
    {"set", 0, PW_OPT_LIST, offsetof(struct options, sets), "KEY=VALUE", NULL, NULL, 0, 0, "override a key of the recipe; may be repeated"},
    PW_OPTIONS_END,
};
static const struct pw_option train_options[] = {
    {"set", 0, PW_OPT_LIST, offsetof(struct options, sets), "KEY=VALUE", NULL, NULL, 0, 0, "override a key of the recipe; may be repeated"},
    {"resume", 0, PW_OPT_FLAG, offsetof(struct options, resume), NULL, NULL, NULL, 0, 0, "go on from the newest saved state of the run folder"},
    {"dry-run", 0, PW_OPT_FLAG, offsetof(struct options, dry_run), NULL, NULL, NULL, 0, 0, "everything but the steps: reads, counts, plans"},
    PW_OPTIONS_END,
};

/* Where tokenised rows are kept between runs; NULL when there is no home for them. */
static const char *cache_dir(char path[4096])
{
    return pw_cmd_cache(path, "rows");   /* a read-only home is no reason not to train */
}

static bool stop(void *ctx)
{
    (void)ctx;
    return pw_interrupted();
}

/* Options of all commands that mean a key of the recipe come after the --set of the user's line. */
static int load_recipe(struct pw_recipe *r, const struct pw_cmd *c)
{
    const struct options *o = c->options;
    const struct pw_common *g = c->common;
    char type[64], seed[64], twice[] = "quant.double_quant=true", tokenizer[4200];
    const char **sets = pw_alloc_zero(o->sets.n + 4, sizeof *sets);
    size_t n = 0;
    PW_CHECK(sets, PW_E_NOMEM, "out of memory");
    for (; n < o->sets.n; n++)
        sets[n] = o->sets.items[n];
    if (g->type && g->type[0]) {
        snprintf(type, sizeof type, "quant.type=%.40s", g->type);
        sets[n++] = type;
    }
    if (g->double_quant)
        sets[n++] = twice;
    if (g->seed_given) {
        snprintf(seed, sizeof seed, "train.seed=%lld", (long long)g->seed);
        sets[n++] = seed;
    }
    if (g->tokenizer) {
        snprintf(tokenizer, sizeof tokenizer, "model.tokenizer=\"%.4100s\"", g->tokenizer);
        sets[n++] = tokenizer;
    }
    int rc = pw_recipe_load(r, c->args.items[0], sets, n);
    pw_free(sets);
    return rc;
}

static void table(struct pw_buf *out, const struct pw_run *run)
{
    const struct pw_budget *b = &run->budget;
    char text[32], limit[32];
    for (int i = 0; i < b->n; i++) {
        pw_format_bytes(text, b->items[i].bytes);
        pw_buf_printf(out, "%-9s %-28s %12s\n", pw_budget_class_name(b->items[i].class), b->items[i].name, text);
    }
    pw_format_bytes(text, pw_budget_peak(b));
    pw_format_bytes(limit, run->limit);
    pw_buf_printf(out, "%-9s %-28s %12s   of %s: %s\n", "PEAK", "", text, limit, pw_budget_peak(b) <= run->limit ? "fits" : "does not fit");
    if (run->fit.host_bytes > 0) {
        const struct pw_run_fit *f = &run->fit;
        char what[80], layers[24] = "";
        if (f->stream)
            snprintf(layers, sizeof layers, ", %d layers", f->stream);
        snprintf(what, sizeof what, "%s%s%s%s", layers, f->embed_host ? ", embedding" : "", f->optim_host ? ", optimizer" : "", f->offload ? ", block inputs" : "");
        pw_format_bytes(text, f->host_bytes);
        pw_format_bytes(limit, run->host_limit);
        pw_buf_printf(out, "%-9s %-28s %12s   of %s: %s\n", "HOST", what[0] ? what + 2 : "", text, limit, f->host_bytes <= run->host_limit ? "fits" : "does not fit");
    }
    pw_buf_printf(out, "blocks kept whole %d of %d\n", run->trainer.shape.kept, run->config.layers);
    pw_buf_printf(out, "rows %lld, held out %lld, epochs %lld, steps %lld, tokens %lld, trained parameters %lld, largest pass %lld tokens\n",
                  (long long)run->n_rows, (long long)run->n_held, (long long)run->trainer.epochs.n, (long long)run->trainer.epochs.steps,
                  (long long)run->trainer.epochs.tokens, (long long)run->trainer.parameters, (long long)run->trainer.shape.tokens);
}

static int print_plan(struct pw_cmd *c, struct pw_run *run)
{
    const char **texts = NULL;
    double seconds = 0, rate = 0;
    PW_PASS(pw_run_suggest(run, &texts));
    PW_PASS(pw_run_estimate(run, &seconds, &rate));
    bool fits = pw_run_fits(run);
    if (!c->common->json) {
        char time[32];
        pw_format_seconds(time, seconds);
        table(c->out, run);
        if (rate > 0)
            pw_buf_printf(c->out, "about %s, from a measured %.1f GFLOP/s of dense products\n", time, rate / 1e9);
        for (size_t i = 0; !fits && texts[i]; i++)
            pw_buf_printf(c->out, "  %s\n", texts[i]);
        return 0;
    }
    struct pw_json w = {0};
    const struct pw_budget *b = &run->budget;
    pw_json_begin(&w);
    pw_json_open(&w, "items", '[');
    for (int i = 0; i < b->n; i++) {
        pw_json_open(&w, NULL, '{');
        pw_json_str(&w, "class", pw_budget_class_name(b->items[i].class));
        pw_json_str(&w, "name", b->items[i].name);
        pw_json_i64(&w, "bytes", (int64_t)b->items[i].bytes);
        pw_json_close(&w, '}');
    }
    pw_json_close(&w, ']');
    pw_json_i64(&w, "peak_bytes", (int64_t)pw_budget_peak(b));
    pw_json_i64(&w, "limit_bytes", (int64_t)run->limit);
    pw_json_i64(&w, "host_bytes", (int64_t)run->fit.host_bytes);
    pw_json_i64(&w, "host_limit_bytes", (int64_t)run->host_limit);
    pw_json_i64(&w, "blocks_kept", run->trainer.shape.kept);
    pw_json_bool(&w, "offload", run->fit.offload);
    pw_json_bool(&w, "embedding_on_host", run->fit.embed_host);
    pw_json_bool(&w, "optimizer_on_host", run->fit.optim_host);
    pw_json_bool(&w, "weights_on_host", run->fit.stream > 0);
    pw_json_i64(&w, "layers_on_host", run->fit.stream);
    pw_json_bool(&w, "fits", fits);
    pw_json_open(&w, "suggestions", '[');
    for (size_t i = 0; !fits && texts[i]; i++)
        pw_json_str(&w, NULL, texts[i]);
    pw_json_close(&w, ']');
    if (rate > 0) {
        pw_json_f64(&w, "seconds_estimate", seconds);
        pw_json_f64(&w, "gemm_flops", rate);
    } else {
        pw_json_null(&w, "seconds_estimate");
        pw_json_null(&w, "gemm_flops");
    }
    pw_json_i64(&w, "steps", run->trainer.epochs.steps);
    pw_json_i64(&w, "tokens", run->trainer.epochs.tokens);
    pw_json_i64(&w, "parameters", run->trainer.parameters);
    return pw_json_finish(c, &w);
}

/* The plan in a line, before step 1. */
static int say_plan(struct pw_cmd *c, struct pw_run *run)
{
    char peak[32], limit[32], time[32], about[48] = "";
    double seconds = 0, rate = 0;
    if (c->common->quiet)
        return 0;
    PW_PASS(pw_run_estimate(run, &seconds, &rate));
    pw_format_bytes(peak, pw_budget_peak(&run->budget));
    pw_format_bytes(limit, run->limit);
    pw_format_seconds(time, seconds);
    if (rate > 0)
        snprintf(about, sizeof about, ", about %s", time);
    pw_progress_say(c->progress, "plan: peak %s of %s, %lld rows, %lld steps, %lld tokens, %lld trained parameters%s", peak, limit, (long long)run->n_rows,
                    (long long)run->trainer.epochs.steps, (long long)run->trainer.epochs.tokens, (long long)run->trainer.parameters, about);
    return 0;
}

/* The device, or the host, had less than the plan was promised: nothing has been trained, so this is a refusal, and the plan says what was wanted. */
static int refuse_for_memory(const struct pw_run *run, bool first)
{
    struct pw_buf plan = {0};
    char what[2048];
    snprintf(what, sizeof what, "%s", pw_error_text());
    if (first && run->budget.n > 0) {
        table(&plan, run);
        if (pw_buf_status(&plan) == 0)
            fwrite(plan.data, 1, plan.len, stderr);
        pw_buf_free(&plan);
    }
    int rc = pw_error(PW_E_REFUSED, "there is less memory than planned: %s", what);
    pw_error_hint("another process may have taken it since the plan was made: look, and start again, or give --memory what is left");
    return rc;
}

static int print_result(struct pw_cmd *c, const struct pw_run_result *r, const struct pw_dev *dev)
{
    char planned[32], peak[32], time[32];
    if (c->common->json) {
        struct pw_json w = {0};
        pw_json_begin(&w);
        pw_json_str(&w, "output", r->output);
        pw_json_str(&w, "device", dev->kind);
        pw_json_str(&w, "level", dev->level);
        pw_json_i64(&w, "steps", r->steps);
        if (r->has_loss)
            pw_json_f64(&w, "loss", r->loss);
        else
            pw_json_null(&w, "loss");
        if (r->has_eval)
            pw_json_f64(&w, "eval_loss", r->eval_loss);
        else
            pw_json_null(&w, "eval_loss");
        pw_json_f64(&w, "seconds", r->seconds);
        if (r->stepped)
            pw_json_f64(&w, "seconds_to_first_step", r->seconds_to_first_step);
        else
            pw_json_null(&w, "seconds_to_first_step");
        pw_json_i64(&w, "tokens", r->tokens);
        pw_json_i64(&w, "trained_tokens", r->trained_tokens);
        pw_json_i64(&w, "parameters", r->parameters);
        pw_json_i64(&w, "peak_bytes", (int64_t)r->peak_bytes);
        pw_json_i64(&w, "planned_bytes", (int64_t)r->planned_bytes);
        pw_json_i64(&w, "ranks", r->ranks);
        pw_json_str(&w, "sums", r->sums[0] ? r->sums : NULL);
        return pw_json_finish(c, &w);
    }
    pw_format_bytes(planned, r->planned_bytes);
    pw_format_bytes(peak, r->peak_bytes);
    pw_format_seconds(time, r->seconds);
    pw_buf_printf(c->out, "%s: %lld steps, %lld tokens (%lld trained) in %s, %.0f tokens/s\n", r->output, (long long)r->steps, (long long)r->tokens,
                  (long long)r->trained_tokens, time, r->seconds > 0 ? (double)r->tokens / r->seconds : 0);
    if (r->has_loss)
        pw_buf_printf(c->out, "loss %.4f", r->loss);
    if (r->has_eval)
        pw_buf_printf(c->out, ", held out %.4f (before training %.4f)", r->eval_loss, r->first_eval_loss);
    pw_buf_printf(c->out, "\npeak memory %s, planned %s", peak, planned);
    if (r->ranks > 1)
        pw_buf_printf(c->out, "; %d ranks, gradients summed by %s", r->ranks, r->sums);
    pw_buf_char(c->out, '\n');
    if (r->stepped)
        pw_buf_printf(c->out, "the first step began %.2f s after the program\n", r->seconds_to_first_step);
    return 0;
}

static int run_recipe(struct pw_cmd *c, bool plan_only)
{
    const struct options *o = c->options;
    struct pw_recipe recipe = {0};
    struct pw_run run = {0};
    struct pw_run_result result = {0};
    struct pw_dev *dev = NULL;
    struct pw_ranks *ranks = NULL;
    char cache[4096], products[4400], way[PW_RANKS_WAY];
    int rc = 0;
    PW_PASS(pw_cmd_join(c, &ranks));
    const bool first = pw_ranks_rank(ranks) == 0;
    PW_PASS_OUT(load_recipe(&recipe, c));
    if (first && !plan_only && !o->resume && pw_file_exists(recipe.output) && !c->common->force) {   /* before minutes of reading */
        rc = pw_error(PW_E_REFUSED, "%s exists already", recipe.output);
        pw_error_hint("--resume goes on with it, --force replaces it, --set output=FOLDER takes another");
        goto out;
    }
    if (first && !plan_only && !o->dry_run && pw_is_dir(recipe.output)) {                            /* likewise: another process at work in it */
        struct pw_lock lock;
        PW_PASS_OUT(pw_run_lock(&lock, recipe.output));
        pw_lock_drop(&lock);
    }
    PW_PASS_OUT(pw_cmd_rank_device(c, ranks, strcmp(recipe.compute, "bf16") == 0, &dev));
    PW_PASS_OUT(pw_ranks_join_devices(ranks, dev, strcmp(recipe.sums, "host") == 0 ? "train.sums: host" : NULL, way));
    if (first && way[0])
        pw_progress_say(c->progress, "%s", way);
    const struct pw_run_options opt = {
        .recipe = &recipe, .dev = dev, .memory = c->common->memory, .resume = o->resume, .force = c->common->force, .cache_dir = cache_dir(cache),
        .progress = c->progress, .stop = stop, .ranks = ranks,
        .products = pw_cmd_products(c, dev, products), .products_given = c->common->products != NULL,
    };
    PW_PASS_OUT(pw_run_open(&run, &opt));
    if (plan_only || o->dry_run) {
        if (!plan_only)
            PW_PASS_OUT(pw_run_accept(&run));
        rc = first ? print_plan(c, &run) : 0;
        goto out;
    }
    if (first)
        PW_PASS_OUT(say_plan(c, &run));
    pw_progress_start(c->progress, "train", c->common->quiet || !first);
    rc = pw_run_train(&run, &result);
    if (rc == 0)
        pw_progress_end(c->progress, NULL);
    else
        pw_progress_stop(c->progress);
    if (rc == 0 && first)
        rc = print_result(c, &result, dev);
out:
    if (rc == PW_E_NOMEM && !result.stepped && !plan_only)
        rc = refuse_for_memory(&run, first);
    rc = pw_ranks_agree(ranks, rc);
    pw_ranks_release(ranks);
    pw_run_close(&run);
    if (dev)
        pw_dev_close(dev);
    pw_recipe_free(&recipe);
    return rc;
}

static int run_plan(struct pw_cmd *c) { return run_recipe(c, true); }
static int run_train(struct pw_cmd *c) { return run_recipe(c, false); }

/* ---- pw recipe ---- */

static int recipe_list(struct pw_cmd *c)
{
    struct pw_json w = {0};
    if (c->common->json) {
        pw_json_begin(&w);
        pw_json_open(&w, "recipes", '[');
    }
    for (const struct pw_embedded *e = pw_embedded_files; e->name; e++) {
        if (strncmp(e->name, "recipes/", 8) != 0)
            continue;
        const char *name = e->name + 8, *text = (const char *)e->data;
        size_t n = strcspn(text, "\n");
        if (c->common->json)
            pw_json_strn(&w, NULL, name, strlen(name) - 5);
        else
            pw_buf_printf(c->out, "%-24.*s %.*s\n", (int)strlen(name) - 5, name, text[0] == '#' ? (int)n - 2 : 0, text + 2);
    }
    if (c->common->json) {
        pw_json_close(&w, ']');
        return pw_json_finish(c, &w);
    }
    return 0;
}

static int no_such_recipe(const char *asked)
{
    const char *names[64], *near;
    char stem[64][64];
    size_t n = 0;
    for (const struct pw_embedded *e = pw_embedded_files; e->name && n < 64; e++)
        if (strncmp(e->name, "recipes/", 8) == 0) {
            snprintf(stem[n], sizeof stem[n], "%.*s", (int)strlen(e->name + 8) - 5, e->name + 8);
            names[n] = stem[n];
            n++;
        }
    near = pw_nearest(asked, names, n);
    int rc = near ? pw_error(PW_E_USAGE, "%s: no such recipe, the nearest is %s", asked, near) : pw_error(PW_E_USAGE, "%s: no such recipe", asked);
    pw_error_hint("`pw recipe list` names them");
    return rc;
}

static int recipe_show(struct pw_cmd *c)
{
    char name[256];
    const char *asked = c->args.items[0];
    size_t n = strlen(asked);
    bool yaml = n > 5 && strcmp(asked + n - 5, ".yaml") == 0;
    struct pw_buf text = {0};
    struct pw_json w = {0};
    int rc = 0;
    snprintf(name, sizeof name, "recipes/%.200s%s", asked, yaml ? "" : ".yaml");
    if (pw_embedded_read(name, c->common->json ? &text : c->out) < 0)
        rc = no_such_recipe(asked);
    else if (c->common->json) {
        pw_json_begin(&w);
        pw_json_strn(&w, "name", asked, yaml ? n - 5 : n);
        pw_json_strn(&w, "recipe", text.data ? text.data : "", text.len);
        rc = pw_json_finish(c, &w);
    }
    pw_buf_free(&text);
    return rc;
}

static int recipe_check(struct pw_cmd *c)
{
    struct pw_recipe r = {0};
    int rc = load_recipe(&r, c);
    if (rc == 0) {
        if (c->common->json) {
            struct pw_json w = {0};
            pw_json_begin(&w);
            pw_json_str(&w, "recipe", r.source);
            pw_json_bool(&w, "ok", true);
            rc = pw_json_finish(c, &w);
        } else
            rc = pw_recipe_write(&r, c->out);
    }
    pw_recipe_free(&r);
    return rc;
}

static int recipe_docs(struct pw_cmd *c)
{
    if (!c->common->json) {
        pw_recipe_docs(c->out);
        return 0;
    }
    struct pw_json w = {0};
    pw_json_begin(&w);
    pw_json_open(&w, "keys", '[');
    for (const struct pw_recipe_row *row = pw_recipe_rows; row->key; row++) {
        pw_json_open(&w, NULL, '{');
        pw_json_str(&w, "key", row->key);
        pw_json_str(&w, "default", row->fallback);
        pw_json_str(&w, "choices", row->choices);
        if (row->max > 0) {
            pw_json_f64(&w, "min", row->min);
            pw_json_f64(&w, "max", row->max);
        }
        pw_json_bool(&w, "may_change_on_resume", row->free);
        pw_json_str(&w, "help", row->help);
        pw_json_close(&w, '}');
    }
    pw_json_close(&w, ']');
    return pw_json_finish(c, &w);
}

const struct pw_command pw_commands_train[] = {
    {"train", "RECIPE [--set KEY=VALUE]… [--resume] [--dry-run]", "train an adapter, or a whole model, as a recipe says",
     "RECIPE is a file or the name of an embedded recipe (`pw recipe list`). The run folder holds adapter/ (or model/), best/, checkpoints/, log.jsonl, "
     "log.csv, report.html, tb/ (TensorBoard), the effective recipe.yaml and on a card products.json, the choices of --products that it goes on with. Ctrl-C saves the state and exits with 130; --resume goes on from the newest saved state and ends with the same bytes. "
     "`mpirun -np N pw train` trains with N processes, each with its own passes of a step: docs/ranks.md.",
     train_options, sizeof(struct options), 1, 1, false, run_train, true, true},
    {"plan", "RECIPE [--set KEY=VALUE]…", "memory and time of a run, before anything is taken",
     "Reads the data and the model's shapes, and lists what the run will take: PROCESS measured, the rest from the functions that the run itself uses.",
     plan_options, sizeof(struct options), 1, 1, false, run_plan, true, true},
    {"recipe list", "", "names of the embedded recipes", NULL, plan_options, sizeof(struct options), 0, 0, false, recipe_list},
    {"recipe show", "NAME", "an embedded recipe", NULL, plan_options, sizeof(struct options), 1, 1, false, recipe_show},
    {"recipe check", "FILE [--set KEY=VALUE]…", "check a recipe and print it with all its settings", NULL, plan_options, sizeof(struct options), 1, 1, false, recipe_check},
    {"recipe docs", "", "every key with its type, range, default and meaning", NULL, plan_options, sizeof(struct options), 0, 0, false, recipe_docs},
    {0},
};
