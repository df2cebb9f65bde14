/* Training a run: the folder, going on from a saved state, the loop, and the outputs. Opening and planning: run.c. */
#include <math.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/file.h"
#include "lora/adapter_file.h"
#include "lora/peft.h"
#include "train/loftq.h"
#include "train/report_html.h"
#include "train/run_parts.h"
#include "train/runlog.h"
#include "train/tfevents.h"

struct training {
    struct pw_run *run;
    const struct pw_recipe *r;
    struct pw_trainer *t;
    struct pw_progress *progress;
    struct pw_state state;          /* as it will be saved; the position is the trainer's */
    struct pw_runlog log;
    const char *states;             /* folder */
    const char *resume_from;        /* "" = from the start */
    double began, before;           /* clock at the start; seconds of earlier parts */
    int64_t saved_step;             /* -1: none in this process */
    struct pw_lock lock;            /* of the run folder, from before its state is read until the end */
    struct pw_run_result *result;
    uint64_t device_peak;           /* most memory in use on the device, where it has its own */
    struct pw_ranks *ranks;
    bool writes;                    /* rank 0: the run folder is its alone */
    bool resumed;
    bool folder;                    /* it is there and filled */
    bool made;                      /* by this process: it does not stay if training does not begin */
};

/* ---- outputs ---- */

/* A fresh model has no folder of its own: the tokenizer's files come from where the recipe says. */
static int copy_tokenizer(struct pw_run *run, const char *dir)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja",
                                        "vocab.json", "merges.txt"};
    const char *from = run->opt.recipe->tokenizer;
    bool folder = pw_is_dir(from);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *source = folder ? pw_path_join(&run->arena, from, names[i]) : from, *target = pw_path_join(&run->arena, dir, names[i]);
        PW_CHECK(source && target, PW_E_NOMEM, "out of memory");
        if (!pw_file_exists(source))
            continue;
        PW_PASS(pw_file_copy(source, target));
        if (!folder)
            break;
    }
    return 0;
}

int pw_run_outputs(struct pw_run *run, const char *folder, const char *name)
{
    struct pw_outdir dir = {0};
    const char *path = pw_path_join(&run->arena, folder, name);
    int rc = 0;
    PW_CHECK(path, PW_E_NOMEM, "out of memory");
    PW_PASS_OUT(pw_outdir_open(&dir, path, true));
    if (run->has_adapter) {
        struct pw_adapter host = {0};
        PW_PASS_OUT(pw_adapter_get(&host, &run->adapter, run->opt.dev));
        rc = pw_peft_write(&host, dir.temp);
        pw_adapter_free(&host);
        PW_PASS_OUT(rc);
    } else {
        PW_PASS_OUT(pw_model_save(run->model, dir.temp, run->opt.recipe->dtype));
        if (run->opt.recipe->fresh)
            PW_PASS_OUT(copy_tokenizer(run, dir.temp));
    }
    PW_PASS_OUT(pw_outdir_commit(&dir));
out:
    pw_outdir_abort(&dir);
    if (rc < 0)
        rc = pw_error_while(rc, "writing %s", path);
    return rc;
}

static const char *in_folder(struct training *k, const char *name)
{
    return pw_path_join(&k->run->arena, k->r->output, name);
}

static double seconds_now(const struct training *k)
{
    return k->before + (pw_seconds() - k->began);
}

/* log.csv, report.html and tb/ from log.jsonl, each written whole: a resumed run needs no more than the log. n, lines: what was read. */
static int write_curves(struct training *k, struct pw_arena *a, struct pw_log_line **lines, size_t *n)
{
    const char *jsonl = pw_path_join(a, k->r->output, "log.jsonl"), *csv = pw_path_join(a, k->r->output, "log.csv");
    const char *html = pw_path_join(a, k->r->output, "report.html"), *tb = pw_path_join(a, k->r->output, "tb");
    PW_CHECK(jsonl && csv && html && tb, PW_E_NOMEM, "out of memory");
    const char *events = pw_path_join(a, tb, "events.out.tfevents.1.pennyweight");
    PW_CHECK(events, PW_E_NOMEM, "out of memory");
    PW_PASS(pw_runlog_read(a, jsonl, lines, n));
    PW_PASS(pw_runlog_csv(*lines, *n, csv));
    PW_PASS(pw_report_html_write(*lines, *n, k->r->output, k->state.recipe.data, html));
    PW_PASS(pw_dir_make(tb));
    return pw_tfevents_write(*lines, *n, (double)time(NULL) - seconds_now(k), events);
}

static int save_state(struct training *k)
{
    struct pw_trainer *t = k->t;
    char name[64];
    if (k->saved_step == t->step)
        return 0;
    if (!k->writes) {
        k->saved_step = t->step;
        return 0;
    }
    k->state.step = t->step;
    k->state.epoch = t->epoch;
    k->state.pass = t->at;
    k->state.tokens = t->tokens;
    k->state.trained_tokens = t->trained_tokens;
    k->state.seconds = seconds_now(k);
    PW_PASS(pw_runlog_sync(&k->log, &k->state.log_bytes));
    snprintf(name, sizeof name, "step-%lld.h5", (long long)t->step);
    char path[4096];
    PW_CHECK((size_t)snprintf(path, sizeof path, "%s/%s", k->states, name) < sizeof path, PW_E_USAGE, "output: the path is too long");
    PW_PASS(pw_state_save(path, &k->state, &t->optim, k->run->opt.dev));
    k->saved_step = t->step;
    PW_PASS(pw_state_prune(k->states, k->r->keep));
    struct pw_arena a;
    struct pw_log_line *lines = NULL;
    size_t n = 0;
    pw_arena_init(&a);
    int rc = write_curves(k, &a, &lines, &n);
    pw_arena_free(&a);
    return rc;
}

/* ---- before the loop ---- */

#define LOCK_NAME ".lock"

int pw_run_lock(struct pw_lock *lock, const char *output)
{
    char path[4096], what[4200];
    PW_CHECK((size_t)snprintf(path, sizeof path, "%s/" LOCK_NAME, output) < sizeof path, PW_E_USAGE, "output: the path is too long");
    snprintf(what, sizeof what, "the run folder %s", output);
    return pw_lock_take(lock, path, what);
}

/* A run folder may be replaced; any other folder that is not empty is somebody's work. */
static int check_folder(struct training *k)
{
    char **names = NULL;
    size_t n = 0;
    const char *recipe = in_folder(k, "recipe.yaml");
    PW_CHECK(recipe, PW_E_NOMEM, "out of memory");
    PW_CHECK(pw_is_dir(k->r->output), PW_E_REFUSED, "%s is a file", k->r->output);
    PW_PASS(pw_dir_list(&k->run->arena, k->r->output, &names, &n));
    PW_CHECK(n == 0 || pw_file_exists(recipe), PW_E_REFUSED, "%s is not a run folder (no recipe.yaml in it): it is not replaced", k->r->output);
    return 0;
}

/* A folder that is there is locked before anything of it is read. */
static int lock_existing(struct training *k)
{
    if (!pw_file_exists(k->r->output))
        return 0;
    if (!k->run->opt.resume)
        PW_PASS(check_folder(k));
    return pw_run_lock(&k->lock, k->r->output);
}

/* Beside the recipe. */
static int check_unchanged(const struct training *k, const struct pw_state *s)
{
    const char *output = k->r->output;
    const struct pw_state *now = &k->state;
    PW_CHECK(strcmp(s->base_hash, now->base_hash) == 0, PW_E_REFUSED, "resuming %s: the base is another one (saved %.16s, now %.16s)", output, s->base_hash, now->base_hash);
    PW_CHECK(strcmp(s->data_hash, now->data_hash) == 0, PW_E_REFUSED, "resuming %s: the training rows are others (saved %.16s, now %.16s)", output, s->data_hash, now->data_hash);
    PW_CHECK(strcmp(s->products_hash, now->products_hash) == 0, PW_E_REFUSED, "resuming %s: %s was changed since the state was saved", output, PW_RUN_PRODUCTS);
    const char *sums = s->sums[0] ? s->sums : "host";
    PW_CHECK(s->ranks < 2 || s->ranks != now->ranks || strcmp(sums, now->sums) == 0, PW_E_REFUSED, "resuming %s: ranks sum by another way now, to other bytes (saved with '%s', now '%s')", output,
             sums, now->sums);
    PW_CHECK(strcmp(s->arithmetic, now->arithmetic) == 0, PW_E_REFUSED, "resuming %s: another device or version computes now, to other bytes (saved by '%s', now '%s')", output,
             s->arithmetic[0] ? s->arithmetic : "a version before 1", now->arithmetic);
    return 0;
}

/* What counts is the passes of a step, whoever runs them: accumulate times ranks. */
static int check_same(struct training *k, const struct pw_state *s)
{
    struct pw_recipe then = {0}, now = *k->r;
    const int64_t ranks = s->ranks > 0 ? s->ranks : 1;
    char a[256], b[256];
    int rc = 0;
    PW_TRY_OUT(pw_recipe_parse(&then, s->recipe.data ? s->recipe.data : "", s->recipe.len, "recipe of the saved state", NULL, 0), "resuming");
    then.accumulate *= ranks;
    now.accumulate *= pw_ranks_size(k->ranks);
    const char *key = pw_recipe_difference(&then, &now, a, b);
    if (key && then.accumulate != now.accumulate && strcmp(key, "train.accumulate") == 0 && (ranks > 1 || k->ranks))
        key = "train.accumulate times the number of ranks";
    if (!key && ranks != pw_ranks_size(k->ranks))
        pw_progress_say(k->progress, "the state was saved by %lld rank%s: from here on sums are taken in another order", (long long)ranks, ranks == 1 ? "" : "s");
    if (!k->run->opt.force) {
        rc = key ? pw_error(PW_E_REFUSED, "resuming %s: %s was changed (saved %s, now %s)", k->r->output, key, a, b) : check_unchanged(k, s);
        if (rc < 0)
            pw_error_hint("go on with what the run began with, or --force to go on all the same");
    }
out:
    pw_recipe_free(&then);
    return rc;
}

static int find_state(struct training *k)
{
    struct pw_state s = {0};
    int rc = 0;
    k->resume_from = "";
    if (!k->run->opt.resume)
        return 0;
    PW_PASS(pw_state_newest(&k->run->arena, k->states, k->progress, &k->resume_from));
    if (!k->resume_from[0]) {
        pw_progress_say(k->progress, "no saved state in %s: the run begins at step 0", k->states);
        return 0;
    }
    PW_PASS(pw_state_read(k->resume_from, &s));
    PW_PASS_OUT(check_same(k, &s));
    k->state.log_bytes = s.log_bytes;
    k->state.has_best = s.has_best;
    k->state.best_loss = s.best_loss;
    k->state.best_step = s.best_step;
    k->state.evaluated_step = s.evaluated_step;
    k->state.worse = s.worse;
    k->before = s.seconds;
    k->state.step = s.step, k->state.epoch = s.epoch, k->state.pass = s.pass;
    k->state.tokens = s.tokens, k->state.trained_tokens = s.trained_tokens;
    k->resumed = true;
out:
    pw_state_free(&s);
    return rc;
}

/* Where rank 0 stands, to all. */
static int share_position(struct training *k)
{
    struct pw_state *s = &k->state;
    struct {
        int64_t step, epoch, pass, tokens, trained_tokens, evaluated_step, best_step, worse;
        double best_loss;
        bool has_best, resumed;
    } p = {s->step, s->epoch, s->pass, s->tokens, s->trained_tokens, s->evaluated_step, s->best_step, s->worse, s->best_loss, s->has_best, k->resumed};
    PW_PASS(pw_ranks_broadcast(k->ranks, &p, sizeof p));
    s->step = p.step, s->epoch = p.epoch, s->pass = p.pass, s->tokens = p.tokens, s->trained_tokens = p.trained_tokens;
    s->evaluated_step = p.evaluated_step, s->best_step = p.best_step, s->worse = p.worse, s->best_loss = p.best_loss, s->has_best = p.has_best;
    k->resumed = p.resumed;
    return 0;
}

/* All ranks must have read the same, and must compute alike. */
static int check_ranks(struct training *k)
{
    const struct pw_run *run = k->run;
    PW_PASS(pw_ranks_same(k->ranks, "the program", PW_VERSION, strlen(PW_VERSION)));
    PW_PASS(pw_ranks_same(k->ranks, "the device", k->state.arithmetic, strlen(k->state.arithmetic)));
    PW_PASS(pw_ranks_same(k->ranks, "the recipe", k->state.recipe.data, k->state.recipe.len));
    PW_PASS(pw_ranks_same(k->ranks, "the base", k->state.base_hash, strlen(k->state.base_hash)));
    PW_PASS(pw_ranks_same(k->ranks, "data.train", run->train->digest, strlen(run->train->digest)));
    return run->eval ? pw_ranks_same(k->ranks, "data.eval", run->eval->digest, strlen(run->eval->digest)) : 0;
}

/* Ranks that no longer have the same parameters would train on without a word: the sums of squares, bit for bit. */
static int check_together(struct training *k)
{
    double sum = 0;
    if (!k->ranks)
        return 0;
    PW_PASS(pw_trainer_square(k->t, &sum));
    return pw_ranks_same(k->ranks, "the trained parameters", &sum, sizeof sum);
}

static int take_memory(struct training *k)
{
    struct pw_run *run = k->run;
    PW_PASS(pw_run_model(run, false));
    PW_PASS(pw_run_trainer(run));
    PW_PASS(pw_trainer_start(&run->trainer));
    PW_PASS(pw_trainer_reference(&run->trainer));
    PW_TRY(pw_probes_open(&run->probes, run->model), "opening the sample prompts");
    if (run->has_adapter && !k->resumed) {
        PW_PASS(pw_run_fresh_adapter(run));
        if (k->r->init_from && k->writes)
            PW_PASS(pw_run_adapter_from(run, k->r->init_from));
        PW_PASS(pw_model_norms(run->model));
    }
    if (k->writes && k->resumed)
        PW_PASS(pw_state_restore(k->resume_from, &run->trainer.optim, run->opt.dev));
    PW_PASS(pw_model_norms(run->model));
    if (k->resumed || run->has_adapter)
        PW_PASS(pw_state_share(k->ranks, &run->trainer.optim, run->opt.dev, k->resumed));
    if (!k->resumed)
        return 0;
    PW_CHECK(k->state.step <= run->trainer.epochs.steps, PW_E_REFUSED, "%s: step %lld of a run of %lld", k->resume_from, (long long)k->state.step,
             (long long)run->trainer.epochs.steps);
    run->trainer.step = k->state.step;
    run->trainer.epoch = k->state.epoch;
    run->trainer.at = k->state.pass;
    run->trainer.tokens = k->state.tokens;
    run->trainer.trained_tokens = k->state.trained_tokens;
    k->saved_step = k->state.step;
    pw_progress_say(k->progress, "going on after step %lld from %s", (long long)k->state.step, k->resume_from);
    return 0;
}

static int hash_base(struct training *k)
{
    struct pw_run *run = k->run;
    struct pw_checkpoint *c = run->model->checkpoint;
    if (c && run->has_adapter) {
        PW_PASS(pw_adapter_record_base(&run->adapter.config, c, pw_run_quantise(run), k->r->double_quant));
        memcpy(run->base_hash, run->adapter.config.base_hash, sizeof run->base_hash);
    } else if (c)
        PW_PASS(pw_checkpoint_identity(c, run->base_hash));
    memcpy(k->state.base_hash, run->base_hash, sizeof run->base_hash);
    pw_state_arithmetic(k->state.arithmetic, run->model->dev);
    k->state.ranks = pw_ranks_size(k->ranks);
    snprintf(k->state.sums, sizeof k->state.sums, "%s", pw_ranks_sums(k->ranks));
    memcpy(k->state.data_hash, run->train->digest, sizeof k->state.data_hash);
    if (run->products.len > 0)
        pw_sha256_bytes(run->products.data, run->products.len, k->state.products_hash);
    return 0;
}

/* The watchdog goes on with the losses that it had before. */
static int recall_losses(struct training *k, const char *log)
{
    struct pw_arena a;
    struct pw_log_line *lines = NULL;
    size_t n = 0;
    pw_arena_init(&a);
    int rc = pw_runlog_read(&a, log, &lines, &n);
    for (size_t i = 0; rc == 0 && i < n; i++)
        if (!lines[i].is_eval && lines[i].s.step > k->t->step - PW_TRAINER_RECENT)
            k->t->recent[lines[i].s.step % PW_TRAINER_RECENT] = lines[i].s.loss;
    pw_arena_free(&a);
    return rc;
}

/* What a process left in the folder that was killed while it wrote there. */
static int sweep(struct training *k)
{
    static const char *const inside[] = {"", "checkpoints", "samples", "tb"};
    for (size_t i = 0; i < sizeof inside / sizeof inside[0]; i++) {
        const char *dir = i ? in_folder(k, inside[i]) : k->r->output;
        PW_CHECK(dir, PW_E_NOMEM, "out of memory");
        if (pw_is_dir(dir))
            PW_TRY(pw_out_sweep(dir), "tidying %s", dir);
    }
    return 0;
}

static int fill_folder(struct training *k)
{
    const char *recipe = in_folder(k, "recipe.yaml"), *log = in_folder(k, "log.jsonl"), *products = in_folder(k, PW_RUN_PRODUCTS);
    PW_CHECK(recipe && log && products, PW_E_NOMEM, "out of memory");
    if (k->lock.path && !k->run->opt.resume)
        PW_PASS(pw_dir_clear(k->r->output, LOCK_NAME));
    if (!k->lock.path) {
        const bool there = pw_file_exists(k->r->output);
        PW_PASS(pw_dir_make(k->r->output));
        PW_PASS(pw_run_lock(&k->lock, k->r->output));
        PW_CHECK(!pw_file_exists(recipe), PW_E_REFUSED, "%s exists already", k->r->output);   /* another process made it since we looked */
        k->made = !there;
    }
    PW_PASS(pw_dir_make(k->states));
    PW_PASS(sweep(k));
    if (k->run->products.len > 0)   /* before the recipe, which makes it a run's folder */
        PW_PASS(pw_file_write(products, k->run->products.data, k->run->products.len, true));
    PW_PASS(pw_file_write(recipe, k->state.recipe.data, k->state.recipe.len, true));
    PW_PASS(pw_runlog_open(&k->log, log, k->resume_from[0] ? k->state.log_bytes : 0));
    return k->resume_from[0] ? recall_losses(k, log) : 0;
}

static int make_folder(struct training *k)
{
    if (!k->writes || k->folder)
        return 0;
    PW_PASS(fill_folder(k));
    k->folder = true;
    return 0;
}

/* A folder that this process made goes again when training did not begin (a full disk, no memory). Keeps the error. */
static void drop_folder(struct training *k, int rc)
{
    char what[1024], hint[512];
    snprintf(what, sizeof what, "%s", pw_error_text());
    snprintf(hint, sizeof hint, "%s", pw_error_hint_text());
    if (k->log.f)
        pw_runlog_close(&k->log);
    (void)pw_dir_remove(k->r->output);
    pw_error(rc, "%s", what);
    pw_error_hint("%s", hint);
}

/* ---- a base of the run's own ---- */

static int use_base(struct training *k, const char *path)
{
    struct pw_run *run = k->run;
    run->base = path;
    snprintf(run->adapter.config.base_name, sizeof run->adapter.config.base_name, "%s", path);
    PW_TRY(pw_run_model(run, true), "opening the run's base");
    return pw_run_trainer(run);
}

/* Before the saved state is compared: the base that this run has written when it began. */
static int find_base(struct training *k)
{
    const char *path = in_folder(k, "base");
    PW_CHECK(path, PW_E_NOMEM, "out of memory");
    return k->run->opt.resume && pw_recipe_loftq_base(k->r) && pw_is_dir(path) ? use_base(k, path) : 0;
}

static int make_base(struct training *k)
{
    const char *path = in_folder(k, "base");
    if (!pw_recipe_loftq_base(k->r))
        return 0;
    PW_CHECK(path, PW_E_NOMEM, "out of memory");
    PW_CHECK(!k->resumed || k->run->base, PW_E_FAIL, "resuming %s: %s is missing, on which it trains", k->r->output, path);
    if (k->resumed)
        return 0;
    PW_PASS(make_folder(k));
    PW_PASS(pw_loftq_base(k->run, path));
    PW_PASS(use_base(k, path));
    return hash_base(k);
}

/* ---- the loop ---- */

static int evaluate(struct training *k)
{
    struct pw_trainer *t = k->t;
    double loss = 0;
    if (!t->eval_plan || k->state.evaluated_step == t->step)
        return 0;
    PW_PASS(pw_trainer_evaluate(t, &loss));
    if (k->writes)
        PW_PASS(pw_runlog_eval(&k->log, t->step, loss));
    k->state.evaluated_step = t->step;
    k->result->eval_loss = loss;
    k->result->has_eval = true;
    if (t->step == 0)
        k->result->first_eval_loss = loss;
    const bool best = t->step > 0 && (!k->state.has_best || loss < k->state.best_loss);
    pw_progress_say(k->progress, "step %lld: held out %.4f%s", (long long)t->step, loss, best ? ", the best so far" : "");
    /* As transformers' early stopping counts: a gain of no more than min_delta is one more evaluation without, though best/ takes it. */
    if (t->step > 0)
        k->state.worse = !k->state.has_best || loss < k->state.best_loss - k->r->min_delta ? 0 : k->state.worse + 1;
    if (best) {
        k->state.has_best = true;
        k->state.best_loss = loss;
        k->state.best_step = t->step;
        if (k->writes)
            PW_PASS(pw_run_outputs(k->run, k->r->output, "best"));
    }
    if (k->run->opt.evaluated && k->writes)
        PW_PASS(k->run->opt.evaluated(k->run->opt.evaluated_ctx, k->run->model, t->step, loss));
    return 0;
}

/* A file that is there already is of the same step of this run: resumed, it stays. */
static int write_samples(struct training *k)
{
    char name[64];
    if (k->run->probes.n == 0 || !k->writes)
        return 0;
    struct pw_arena a;
    int rc = 0;
    pw_arena_init(&a);
    snprintf(name, sizeof name, "step-%lld.jsonl", (long long)k->t->step);
    const char *dir = pw_path_join(&a, k->r->output, "samples"), *path = dir ? pw_path_join(&a, dir, name) : NULL;
    PW_CHECK_OUT(path, PW_E_NOMEM, "out of memory");
    if (pw_file_exists(path))
        goto out;
    PW_PASS_OUT(pw_dir_make(dir));
    PW_PASS_OUT(pw_probes_write(&k->run->probes, k->t->step, path));
out:
    pw_arena_free(&a);
    return rc;
}

static bool due(int64_t step, int64_t every)
{
    return every > 0 && step % every == 0;
}

/* Resident memory; on a card what is in use there (by all, as its driver counts). */
static uint64_t memory_now(struct training *k)
{
    struct pw_dev *dev = k->run->opt.dev;
    size_t free_bytes = 0, total = 0;
    if (dev->host || pw_dev_memory(dev, &free_bytes, &total) < 0 || total <= free_bytes)
        return pw_rss_bytes();
    const uint64_t used = total - free_bytes;
    k->device_peak = used > k->device_peak ? used : k->device_peak;
    return used;
}

static int one_step(struct training *k)
{
    struct pw_trainer *t = k->t;
    struct pw_step_report s;
    char note[128];
    if (!k->result->stepped)
        k->result->seconds_to_first_step = pw_process_seconds();
    k->result->stepped = true;
    double from = pw_seconds();
    PW_PASS(pw_trainer_step(t, &s));
    double took = pw_seconds() - from;
    const struct pw_log_step line = {
        .step = t->step, .loss = s.loss, .lr = s.lr, .grad_norm = s.grad_norm, .tokens = s.tokens, .trained_tokens = s.trained_tokens,
        .has_rewards = s.has_rewards, .reward_accuracy = s.reward_accuracy, .reward_margin = s.reward_margin,
        .tokens_per_s = took > 0 ? (double)s.tokens / took : 0, .memory_bytes = memory_now(k), .seconds = seconds_now(k),
        .ranks = k->result->ranks, .sums = k->result->sums,
    };
    if (k->writes)
        PW_PASS(pw_runlog_step(&k->log, &line));
    k->result->loss = s.loss;
    k->result->has_loss = true;
    char right[32] = "";
    if (s.has_rewards)
        snprintf(right, sizeof right, ", right %.0f%%", 100 * s.reward_accuracy);
    snprintf(note, sizeof note, "loss %.4f%s, lr %.2e, %.0f tokens/s", s.loss, right, s.lr, line.tokens_per_s);
    pw_progress_at(k->progress, t->step, t->epochs.steps, note);
    if (due(t->step, k->r->eval_every))
        PW_PASS(evaluate(k));
    if (due(t->step, k->r->sample_every))
        PW_PASS(write_samples(k));
    if (due(t->step, k->r->save_every)) {
        PW_PASS(check_together(k));
        PW_PASS(save_state(k));
    }
    return 0;
}

/* The state of the last whole step, if it can still be read and is finite. Says in `said` what became of it, and which saved state is the newest. Not
 * after a failure of the disk, which would fail again. */
static void save_what_is_whole(struct training *k, int rc, char said[4300])
{
    const long long step = k->t->step;
    char why[80] = "";
    double square = 0;
    said[0] = 0;
    if (!k->writes || rc == PW_E_IO)
        return;
    if (k->t->torn)
        snprintf(why, sizeof why, "; step %lld was half done and is not saved", step + 1);
    else if (step > 0 && k->saved_step != step && pw_trainer_square(k->t, &square) < 0)
        snprintf(why, sizeof why, "; the state of step %lld cannot be read any more", step);
    else if (!isfinite(square))
        snprintf(why, sizeof why, "; the state of step %lld is not finite either and is not saved", step);
    else if (step > 0 && save_state(k) == 0) {
        snprintf(said, 4300, "; state of step %lld saved in %s", step, k->states);
        return;
    } else if (step > 0)
        snprintf(why, sizeof why, "; the state of step %lld could not be saved", step);
    if (k->saved_step >= 0)
        snprintf(said, 4300, "%s; the newest saved state is that of step %lld, in %s", why, (long long)k->saved_step, k->states);
    else
        snprintf(said, 4300, "%s; no state was saved before", why);
}

/* What is left to do when a step failed: the last whole step is saved, if that can be. */
static int after_failure(struct training *k, int rc)
{
    char what[2048], hint[512], said[4300];
    if (rc == PW_E_INTERRUPTED) {
        PW_PASS(save_state(k));
        rc = pw_error(PW_E_INTERRUPTED, "interrupted after step %lld of %lld, state saved in %s", (long long)k->t->step, (long long)k->t->epochs.steps, k->states);
        pw_error_hint("--resume goes on");
        return rc;
    }
    snprintf(what, sizeof what, "%s", pw_error_text());
    snprintf(hint, sizeof hint, "%s", pw_error_hint_text());
    save_what_is_whole(k, rc, said);
    rc = pw_error(rc, "%s%s%s", what, pw_ranks_lost(k->ranks) ? ": the run ends" : "", said);
    pw_error_hint("%s", hint[0] ? hint : k->saved_step >= 0 ? "--resume goes on from the newest saved state" : "--resume begins it again");
    return rc;
}

static bool out_of_patience(const struct training *k)
{
    return k->r->patience > 0 && k->state.worse >= k->r->patience;
}

static int loop(struct training *k)
{
    int rc = k->t->step == 0 || due(k->t->step, k->r->eval_every) ? evaluate(k) : 0;
    if (rc == 0 && (k->t->step == 0 || due(k->t->step, k->r->sample_every)))
        rc = write_samples(k);
    while (rc == 0 && !pw_trainer_done(k->t) && !out_of_patience(k))
        rc = one_step(k);
    if (rc == 0 && !pw_trainer_done(k->t))
        pw_progress_say(k->progress, "ended after step %lld of %lld: %lld evaluations in a row were not better, the best was after step %lld", (long long)k->t->step, (long long)k->t->epochs.steps,
                        (long long)k->state.worse, (long long)k->state.best_step);
    if (rc == 0)
        rc = evaluate(k);
    if (rc == 0)
        rc = write_samples(k);
    return rc < 0 ? after_failure(k, rc) : 0;
}

/* best/ once more, under another name. */
static int copy_best(struct training *k, struct pw_arena *a, const char *name)
{
    const char *from = in_folder(k, "best"), *to = in_folder(k, name);
    struct pw_outdir dir = {0};
    char **names = NULL;
    size_t n = 0;
    int rc = 0;
    PW_CHECK(from && to, PW_E_NOMEM, "out of memory");
    PW_PASS(pw_dir_list(a, from, &names, &n));
    PW_PASS_OUT(pw_outdir_open(&dir, to, true));
    for (size_t i = 0; i < n; i++) {
        const char *source = pw_path_join(a, from, names[i]), *target = pw_path_join(a, dir.temp, names[i]);
        PW_CHECK_OUT(source && target, PW_E_NOMEM, "out of memory");
        PW_PASS_OUT(pw_file_copy(source, target));
    }
    PW_PASS_OUT(pw_outdir_commit(&dir));
out:
    pw_outdir_abort(&dir);
    return rc;
}

static int write_outputs(struct training *k, struct pw_arena *a, const char *name)
{
    if (!k->r->load_best || !k->state.has_best || k->state.best_step == k->t->step)
        return pw_run_outputs(k->run, k->r->output, name);
    PW_TRY(copy_best(k, a, name), "copying best/ to %s/", name);
    pw_progress_say(k->progress, "%s/ is that of step %lld, the best evaluation", name, (long long)k->state.best_step);
    return 0;
}

static int finish(struct training *k)
{
    struct pw_arena a;
    struct pw_log_line *lines = NULL;
    size_t n = 0;
    int64_t bytes = 0;
    int rc = 0;
    PW_PASS(check_together(k));
    PW_PASS(save_state(k));
    if (!k->writes)
        return 0;
    pw_arena_init(&a);
    PW_PASS_OUT(pw_runlog_sync(&k->log, &bytes));
    PW_PASS_OUT(write_curves(k, &a, &lines, &n));
    for (size_t i = 0; i < n; i++)
        if (lines[i].is_eval) {
            k->result->eval_loss = lines[i].s.loss;
            k->result->has_eval = true;
            if (lines[i].s.step == 0)
                k->result->first_eval_loss = lines[i].s.loss;
        } else {
            k->result->loss = lines[i].s.loss;
            k->result->has_loss = true;
        }
    PW_PASS_OUT(write_outputs(k, &a, k->run->has_adapter ? "adapter" : "model"));
out:
    pw_arena_free(&a);
    return rc;
}

int pw_run_train(struct pw_run *run, struct pw_run_result *result)
{
    struct training k = {.ranks = run->opt.ranks, .writes = pw_ranks_rank(run->opt.ranks) == 0, .run = run, .r = run->opt.recipe, .t = &run->trainer, .progress = run->opt.progress, .saved_step = -1, .result = result};
    int rc = 0;
    *result = (struct pw_run_result){.output = k.r->output, .planned_bytes = pw_budget_peak(&run->budget), .parameters = run->trainer.parameters,
                                      .ranks = pw_ranks_size(run->opt.ranks), .sums = pw_ranks_sums(run->opt.ranks)};
    k.began = pw_seconds();
    k.state.evaluated_step = -1;
    k.resume_from = "";
    k.states = in_folder(&k, "checkpoints");
    PW_CHECK_OUT(k.states, PW_E_NOMEM, "out of memory");
    PW_PASS_OUT(pw_run_accept(run));
    if (k.writes)
        PW_PASS_OUT(lock_existing(&k));
    PW_PASS_OUT(pw_recipe_write(k.r, &k.state.recipe));
    PW_PASS_OUT(find_base(&k));
    PW_PASS_OUT(hash_base(&k));
    PW_PASS_OUT(check_ranks(&k));
    if (k.writes)
        PW_PASS_OUT(find_state(&k));
    PW_PASS_OUT(share_position(&k));
    PW_PASS_OUT(make_base(&k));
    PW_PASS_OUT(take_memory(&k));
    PW_PASS_OUT(make_folder(&k));
    PW_PASS_OUT(pw_ranks_broadcast(k.ranks, k.t->recent, sizeof k.t->recent));
    k.began = pw_seconds();
    k.made = false;                 /* from here on it stays */
    PW_PASS_OUT(loop(&k));
    PW_PASS_OUT(finish(&k));
    result->steps = run->trainer.step;
    result->tokens = run->trainer.tokens;
    result->trained_tokens = run->trainer.trained_tokens;
    result->seconds = seconds_now(&k);
    result->peak_bytes = k.device_peak > 0 ? k.device_peak : pw_peak_rss_bytes();
out:
    if (rc < 0 && k.made)
        drop_folder(&k, rc);
    rc = pw_ranks_agree(k.ranks, rc);
    if (k.log.f)
        pw_runlog_close(&k.log);
    pw_state_free(&k.state);
    pw_lock_drop(&k.lock);
    return rc;
}
