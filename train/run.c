/* Opening a run: what is read and counted before any large memory is taken, and whether the run may begin. Training: run_train.c. */
#include "train/run.h"

#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "train/loftq.h"
#include "train/run_parts.h"

bool pw_run_is_full(const struct pw_run *run)
{
    return strcmp(run->opt.recipe->kind, "full") == 0;
}

const char *pw_run_quantise(const struct pw_run *run)
{
    return run->base || strcmp(run->opt.recipe->quant_type, "none") == 0 ? NULL : run->opt.recipe->quant_type;
}

/* ---- model and tokenizer ---- */

static int read_fresh_config(struct pw_run *run)
{
    const char *path = run->opt.recipe->fresh;
    struct pw_value *json = NULL;
    struct pw_buf text = {0};
    int rc = 0;
    PW_PASS_OUT(pw_json_load(&run->arena, path, &json));
    PW_PASS_OUT(pw_model_config_parse(&run->config, json, path));
    PW_PASS_OUT(pw_file_read(path, 0, &text));
    pw_sha256_bytes(text.data, text.len, run->base_hash);
out:
    pw_buf_free(&text);
    return rc;
}

/* Loads the base, or only its shapes. */
int pw_run_model(struct pw_run *run, bool measure)
{
    const struct pw_recipe *r = run->opt.recipe;
    pw_model_free(run->model);
    run->model = NULL;
    if (r->fresh)
        return measure ? pw_model_create_measure(&run->model, run->opt.dev, &run->config)
                       : pw_model_create(&run->model, run->opt.dev, &run->config, (uint64_t)r->seed);
    struct pw_model_options o = {.tokenizer = r->tokenizer, .quantise = pw_run_quantise(run), .double_quant = r->double_quant,
                                 .head_type = strcmp(r->quant_head, "none") == 0 ? NULL : r->quant_head, .embed_host = run->fit.embed_host && !measure, .stream = measure ? 0 : run->fit.stream,
                                 .trainable = pw_run_is_full(run), .measure = measure};
    return pw_model_load(&run->model, run->opt.dev, run->base ? run->base : r->model, &o);
}

static int open_tokenizer(struct pw_run *run)
{
    const struct pw_recipe *r = run->opt.recipe;
    const char *path = r->fresh ? r->tokenizer : pw_checkpoint_tokenizer(run->model->checkpoint);
    if (!path) {
        int rc = pw_error(PW_E_REFUSED, "%s carries no tokenizer", r->model);
        pw_error_hint("name one with model.tokenizer");
        return rc;
    }
    bool llama2c = !r->fresh && strncmp(pw_checkpoint_format(run->model->checkpoint), "llama2.c", 8) == 0 && !pw_is_dir(path) &&
                   strlen(path) > 4 && strcmp(path + strlen(path) - 4, ".bin") == 0;
    PW_TRY(llama2c ? pw_tokenizer_load_llama2c(&run->tokenizer, path, run->config.vocab) : pw_tokenizer_load(&run->tokenizer, path),
           "loading the tokenizer %s", path);
    PW_CHECK(pw_tokenizer_vocab(run->tokenizer) <= run->config.vocab, PW_E_FAIL, "%s: the tokenizer has %d tokens, the model %lld", path,
             (int)pw_tokenizer_vocab(run->tokenizer), (long long)run->config.vocab);
    return 0;
}

/* ---- data ---- */

static int read_template(struct pw_run *run, const char **text)
{
    const char *name = run->opt.recipe->chat_template;
    struct pw_buf file = {0};
    if (strcmp(name, "model") == 0) {
        *text = pw_tokenizer_template(run->tokenizer, NULL);
        return 0;
    }
    if (!pw_file_exists(name)) {
        *text = pw_tokenizer_template(run->tokenizer, name);
        PW_CHECK(*text, PW_E_FAIL, "data.template: %s is neither a file nor a template of the tokenizer", name);
        return 0;
    }
    int rc = pw_file_read(name, 1 << 22, &file);
    if (rc == 0 && !(*text = pw_arena_strndup(&run->arena, file.data ? file.data : "", file.len)))
        rc = pw_error(PW_E_NOMEM, "out of memory for %s", name);
    pw_buf_free(&file);
    return rc;
}

/* Pretraining learns every token but the first of a row; rows of another form than text leave some out. */
static int check_pretrain(const struct pw_dataset *d)
{
    for (int64_t row = 0; row < d->n_rows; row++)
        for (int64_t i = d->row_start[row] + 1; i < d->row_start[row + 1]; i++)
            if (!d->trained[i]) {
                int rc = pw_error(PW_E_REFUSED, "train.objective pretrain takes rows of form text (row of line %lld has tokens that are not learnt)",
                                  (long long)d->row_line[row]);
                pw_error_hint("data.format: text, or train.objective: sft");
                return rc;
            }
    return 0;
}

/* The rows must be of the kind that the objective takes, with something to learn in every answer. */
static int check_kind(const struct pw_run *run, const struct pw_dataset *d, const char *key)
{
    const struct pw_recipe *r = run->opt.recipe;
    const struct pw_objective o = pw_objective_of(r);
    const bool pairs = pw_objective_pairs(&o), kto = o.kind == PW_OBJECTIVE_KTO;
    if (d->pairs != pairs || (d->row_label != NULL) != kto) {
        int rc = pw_error(PW_E_REFUSED, "train.objective %s takes rows of %s; %s has rows of %s", r->objective,
                          pairs ? "form preference" : kto ? "form kto" : "other forms than preference and kto", key,
                          d->pairs ? "form preference" : d->row_label ? "form kto" : "other forms");
        pw_error_hint("train.objective: %s, or other data", d->pairs ? "dpo, orpo or simpo" : d->row_label ? "kto" : "sft");
        return rc;
    }
    for (int64_t row = 0; (pairs || kto) && row < d->n_rows; row++) {
        bool any = false;
        for (int64_t i = d->row_start[row]; i < d->row_start[row + 1]; i++)
            any |= d->trained[i];
        PW_CHECK(any, PW_E_REFUSED, "%s: the row of line %lld: no token of its %sanswer is left within data.max_length", key, (long long)d->row_line[row],
                 pairs ? row % 2 ? "rejected " : "chosen " : "");
    }
    return 0;
}

/* What `pw data check` finds: errors refuse the run, warnings are told. */
static int preflight(struct pw_run *run, const struct pw_dataset_options *o)
{
    struct pw_dataset *d = run->train;
    const size_t before = d->n_warnings;
    const struct pw_preflight_options po = {.tokenizer = run->tokenizer, .chat_template = o->chat_template, .max_length = o->max_length, .eval = run->eval,
                                            .source = run->opt.recipe->train[0].path};
    PW_PASS(pw_preflight(&run->preflight, d, &po));
    for (size_t i = before; i < d->n_warnings; i++)
        pw_progress_say(run->opt.progress, "warning: %s:%lld: %s", d->warnings[i].source, (long long)d->warnings[i].row, d->warnings[i].what);
    if (d->n_errors == 0)
        return 0;
    int rc = pw_error(PW_E_REFUSED, "the data is not fit to train on, %zu error%s, first: %s:%lld: %s", d->n_errors, d->n_errors == 1 ? "" : "s", d->errors[0].source,
                      (long long)d->errors[0].row, d->errors[0].what);
    pw_error_hint("`pw data check` lists them");
    return rc;
}

static int open_data(struct pw_run *run)
{
    const struct pw_recipe *r = run->opt.recipe;
    struct pw_dataset_options o = {.tokenizer = run->tokenizer, .max_length = r->max_length, .cache_dir = run->opt.cache_dir, .progress = run->opt.progress};
    PW_PASS(read_template(run, &o.chat_template));
    PW_PASS(pw_train_on_parse(r->train_on, &o.train_on));
    PW_PASS(pw_overlong_parse(r->overlong, &o.overlong));
    if (o.max_length > run->config.context) {
        o.max_length = run->config.context;
        pw_progress_say(run->opt.progress, "data.max_length %lld is more than the model's context of %lld: rows end at %lld tokens", (long long)r->max_length,
                        (long long)o.max_length, (long long)o.max_length);
    }
    PW_TRY(pw_dataset_load(&run->train, r->train, r->n_train, &o), "reading data.train");
    run->n_rows = pw_dataset_examples(run->train);
    PW_PASS(check_kind(run, run->train, "data.train"));
    if (strcmp(r->objective, "pretrain") == 0)
        PW_PASS(check_pretrain(run->train));
    if (r->n_eval > 0) {
        PW_TRY(pw_dataset_load(&run->eval, r->eval, r->n_eval, &o), "reading data.eval");
        run->n_held = pw_dataset_examples(run->eval);
        PW_PASS(check_kind(run, run->eval, "data.eval"));
    } else if (r->eval_share > 0)
        PW_TRY(pw_dataset_split(&run->arena, run->train, r->eval_share, (uint64_t)r->seed, &run->rows, &run->n_rows, &run->held, &run->n_held),
               "holding out data.eval");
    PW_TRY(preflight(run, &o), "the preflight");
    if (r->samples)
        PW_TRY(pw_probes_read(&run->probes, r->samples, run->tokenizer, o.chat_template, &run->config, r->sample_tokens), "reading train.samples");
    if (run->train->truncated || run->train->dropped)
        pw_progress_say(run->opt.progress, "%lld rows over %lld tokens were cut, %lld dropped", (long long)run->train->truncated, (long long)o.max_length,
                        (long long)run->train->dropped);
    return 0;
}

/* ---- adapter, trainer, plan ---- */

int pw_run_trainer(struct pw_run *run)
{
    const struct pw_dataset *eval = run->eval ? run->eval : run->n_held > 0 ? run->train : NULL;
    struct pw_trainer_setup set = {
        .recipe = run->opt.recipe, .model = run->model, .adapter = run->has_adapter ? &run->adapter : NULL, .train = run->train, .rows = run->rows,
        .n_rows = run->n_rows, .ranks = run->opt.ranks, .kept = run->fit.kept, .offload = run->fit.offload, .optim_host = run->fit.optim_host, .eval = eval, .eval_rows = run->held, .n_eval = run->n_held, .stop = run->opt.stop, .stop_ctx = run->opt.stop_ctx,
    };
    if (run->has_trainer)
        pw_trainer_close(&run->trainer);
    /* The shapes of the low-rank pairs, for the plan; their memory comes with pw_trainer_start. */
    if (run->has_adapter)
        PW_PASS(pw_model_attach_shapes(run->model, &run->adapter));
    run->has_trainer = true;
    return pw_trainer_open(&run->trainer, &set);
}

int pw_run_plan_adapter(struct pw_run *run)
{
    const struct pw_recipe *r = run->opt.recipe;
    struct pw_adapter_config c = {.r = (int)r->r, .alpha = r->alpha, .dropout = r->dropout, .rslora = r->rslora, .targets = r->targets,
                                  .rank_pattern = r->rank_pattern, .alpha_pattern = r->alpha_pattern, .layers = r->layers, .modules_to_save = r->modules_to_save};
    if (pw_run_is_full(run))
        return 0;
    snprintf(c.kind, sizeof c.kind, "%s", r->kind);
    snprintf(c.bias, sizeof c.bias, "%s", r->bias);
    c.halves = pw_recipe_pissa(r, NULL);
    snprintf(c.base_name, sizeof c.base_name, "%s", r->model);
    PW_PASS(pw_adapter_plan(&run->adapter, &c, &run->config));
    run->has_adapter = true;
    PW_CHECK(strcmp(r->bias, "none") == 0 || pw_adapter_biases(&run->adapter) > 0, PW_E_USAGE, "adapter.bias: %s: the model has no bias %s", r->bias,
             strcmp(r->bias, "all") == 0 ? "to train" : "on the layers of adapter.targets");
    return 0;
}

/* The session that answers the sample prompts, and what its ops want of the scratch beyond those of a pass. */
static void plan_samples(const struct pw_run *run, struct pw_budget *b)
{
    const size_t scratch = pw_probes_scratch(&run->probes, run->model);
    struct pw_pass_bytes pass;
    pw_pass_size(run->model, &run->trainer.shape, &pass);
    pw_budget_add(b, PW_BUDGET_SCRATCH, "samples", pw_probes_bytes(&run->probes, run->model));
    pw_budget_add(b, PW_BUDGET_SCRATCH, "operations of samples", scratch > pass.device ? scratch - pass.device : 0);
}

int pw_run_fill_budget(struct pw_run *run)
{
    struct pw_budget *b = &run->budget;
    const struct pw_trainer *t = &run->trainer;
    struct pw_dev *dev = run->opt.dev;
    if (!dev->host) {          /* a card's memory holds weights and training; what the program itself takes is the host's */
        size_t free_bytes, total_bytes;
        *b = (struct pw_budget){0};
        pw_budget_add(b, PW_BUDGET_PROCESS, "driver and libraries", pw_dev_held(dev));
        pw_budget_add(b, PW_BUDGET_STATIC, "weights in memory", run->model->pool.bytes - (run->fit.embed_host ? pw_weight_put_bytes(&run->model->embed) : 0) -
                      pw_stream_host_bytes(run->model->block_bytes, run->config.layers, run->fit.stream));
        pw_budget_add(b, PW_BUDGET_STATIC, "slots for streamed layers", pw_stream_slot_bytes(run->model->block_bytes, run->config.layers, run->fit.stream));
        pw_trainer_budget(t, b);
        plan_samples(run, b);
        PW_PASS(pw_dev_memory(dev, &free_bytes, &total_bytes));
        run->limit = run->opt.memory ? run->opt.memory : free_bytes + pw_dev_held(dev);
        run->host_limit = pw_memory_available() / (size_t)pw_ranks_local(run->opt.ranks, NULL);
        return 0;
    }
    *b = (struct pw_budget){.before = pw_peak_rss_bytes()};
    pw_budget_add(b, PW_BUDGET_PROCESS, "program and data set", pw_rss_bytes());
    pw_budget_add(b, PW_BUDGET_PROCESS, "libraries", PW_RUN_LIBRARY_BYTES);
    if (run->model->checkpoint)
        pw_budget_add(b, PW_BUDGET_STATIC, "model file, mapped", run->model->mapped_bytes);
    pw_budget_add(b, PW_BUDGET_STATIC, "weights in memory", run->model->pool.bytes);
    pw_trainer_budget(t, b);
    plan_samples(run, b);
    /* A state is written, mapped and hashed. Weights that are converted for the output come later and are fewer bytes: they have its place. */
    pw_budget_add(b, PW_BUDGET_SCRATCH, "beginning the adapter", pw_run_init_bytes(run));
    pw_budget_add(b, PW_BUDGET_SCRATCH, "saving a state", pw_optim_state_bytes(t->kind, t->slots, t->n_slots));
    pw_budget_add(b, PW_BUDGET_SCRATCH, "writing the curves", (size_t)t->epochs.steps * PW_RUN_LOG_BYTES);
    run->limit = run->opt.memory ? run->opt.memory : pw_memory_available() / (size_t)pw_ranks_local(run->opt.ranks, NULL) + pw_rss_bytes();
    return 0;
}

/* A pass of rows that are learnt from, each of the longest that one may be; they are never read. */
static int imagine_data(struct pw_run *run)
{
    const struct pw_recipe *r = run->opt.recipe;
    const struct pw_objective o = pw_objective_of(r);
    struct pw_dataset *d = run->train = pw_alloc_zero(1, sizeof *d);
    const int64_t n = run->opt.imagined < run->config.context ? run->opt.imagined : run->config.context;
    int64_t rows = r->batch_size, tokens;
    PW_CHECK(d, PW_E_NOMEM, "out of memory");
    pw_arena_init(&d->arena);
    d->pairs = pw_objective_pairs(&o);
    PW_CHECK(pw_mul_i64(rows, pw_dataset_per(d), &rows) && pw_mul_i64(rows, n, &tokens), PW_E_REFUSED, "passes of %lld rows of %lld tokens are too large", (long long)r->batch_size, (long long)n);
    d->n_rows = rows, d->n_tokens = tokens, d->n_trained = tokens - rows, d->longest = n;
    d->ids = pw_arena_array(&d->arena, (size_t)tokens, sizeof *d->ids);
    d->trained = pw_arena_array(&d->arena, (size_t)tokens, sizeof *d->trained);
    d->row_start = pw_arena_array(&d->arena, (size_t)rows + 1, sizeof *d->row_start);
    d->row_line = pw_arena_array(&d->arena, (size_t)rows, sizeof *d->row_line);
    d->row_file = pw_arena_array(&d->arena, (size_t)rows, sizeof *d->row_file);
    d->row_hash = pw_arena_array(&d->arena, (size_t)rows, sizeof *d->row_hash);
    d->row_label = o.kind == PW_OBJECTIVE_KTO ? pw_arena_array(&d->arena, (size_t)rows, 1) : NULL;
    PW_CHECK(d->ids && d->trained && d->row_start && d->row_line && d->row_file && d->row_hash && (d->row_label || o.kind != PW_OBJECTIVE_KTO), PW_E_NOMEM, "out of memory for %lld tokens",
             (long long)tokens);
    PW_CHECK(n > 1, PW_E_REFUSED, "the model's context is %lld tokens: there is nothing to learn in a row", (long long)n);
    memset(d->trained, 1, (size_t)tokens);
    for (int64_t i = 0; i < rows; i++) {
        d->trained[i * n] = 0;
        d->row_start[i + 1] = (i + 1) * n;
    }
    run->n_rows = pw_dataset_examples(d);
    return 0;
}

/* Rank 0 reads the rows first: the others of its machine find them in the cache. */
static int open_data_in_turn(struct pw_run *run)
{
    struct pw_ranks *ranks = run->opt.ranks;
    if (pw_ranks_rank(ranks) == 0)
        PW_PASS(open_data(run));
    PW_PASS(pw_ranks_agree(ranks, 0));
    return pw_ranks_rank(ranks) == 0 ? 0 : open_data(run);
}

static int open_alone(struct pw_run *run, const struct pw_run_options *opt)
{
    if (opt->recipe->fresh)
        PW_TRY(read_fresh_config(run), "reading model.fresh");
    PW_PASS(pw_run_model(run, true));
    if (!opt->recipe->fresh)
        run->config = run->model->config;
    if (pw_ranks_rank(opt->ranks) == 0)
        pw_checkpoint_tell(run->model->checkpoint, opt->progress);
    if (!opt->imagined)
        PW_PASS(open_tokenizer(run));
    PW_PASS(opt->imagined ? imagine_data(run) : open_data_in_turn(run));
    PW_PASS(pw_run_plan_adapter(run));
    if (pw_recipe_loftq_base(opt->recipe))
        PW_PASS(pw_loftq_check(run));
    PW_PASS(pw_run_trainer(run));
    PW_PASS(pw_run_products(run));
    return pw_run_choose_fit(run);
}

/* What the recipe says of rounding is what the device does. */
static int check_compute(const struct pw_run_options *opt)
{
    const struct pw_dev *dev = opt->dev;
    const bool asked = strcmp(opt->recipe->compute, "bf16") == 0, rounds = dev->products == PW_BF16;
    int rc = 0;
    if (asked && !rounds) {
        rc = pw_error(PW_E_REFUSED, "train.compute bf16: device %s%s%s does not multiply in bf16", dev->kind, dev->level[0] ? " " : "", dev->level);
        pw_error_hint("train.compute: f32 runs on every processor");
    } else if (!asked && rounds && strcmp(dev->kind, "cpu") == 0) {
        rc = pw_error(PW_E_REFUSED, "train.compute f32: device cpu %s multiplies in bf16", dev->level);
        pw_error_hint("train.compute: bf16 says that this is meant");
    }
    return rc;
}

int pw_run_open(struct pw_run *run, const struct pw_run_options *opt)
{
    *run = (struct pw_run){.opt = *opt};
    pw_arena_init(&run->arena);
    int rc = check_compute(opt);
    if (rc == 0)
        rc = open_alone(run, opt);
    return pw_ranks_agree(opt->ranks, rc);
}

void pw_run_close(struct pw_run *run)
{
    if (run->has_trainer)
        pw_trainer_close(&run->trainer);
    pw_probes_free(&run->probes);
    pw_model_free(run->model);
    if (run->choices.n > 0)
        (void)pw_choices_use(&(struct pw_choices){0}, run->opt.dev);
    pw_choices_free(&run->choices);
    pw_buf_free(&run->products);
    if (run->has_adapter)
        pw_adapter_free(&run->adapter);
    pw_dataset_free(run->train);
    pw_dataset_free(run->eval);
    pw_tokenizer_free(run->tokenizer);
    pw_arena_free(&run->arena);
}

/* ---- may it begin? ---- */

bool pw_run_fits(const struct pw_run *run)
{
    return pw_budget_peak(&run->budget) <= run->limit && (run->opt.dev->host || run->fit.host_bytes <= run->host_limit);
}

int pw_run_suggest(struct pw_run *run, const char ***texts)
{
    const struct pw_recipe *r = run->opt.recipe;
    struct pw_arena *a = &run->arena;
    size_t n = 0;
    const char **list = pw_arena_array(a, 8, sizeof *list);
    PW_CHECK(list, PW_E_NOMEM, "out of memory");
    if (!r->checkpointing)
        list[n++] = "train.checkpointing: true keeps only the inputs of the blocks";
    if (r->batch_size > 1)
        list[n++] = pw_arena_printf(a, "train.batch_size: 1 with train.accumulate: %lld trains the same steps in smaller passes",
                                    (long long)(r->batch_size * r->accumulate));
    if (!pw_run_is_full(run) && strcmp(r->quant_type, "none") == 0)
        list[n++] = "quant.type: nf4 stores the base in 4 bits";
    if (r->max_length > 256)
        list[n++] = pw_arena_printf(a, "data.max_length: %lld halves the longest pass", (long long)(r->max_length / 2));
    if (!pw_run_is_full(run) && r->r > 8)
        list[n++] = pw_arena_printf(a, "adapter.r: %lld shrinks adapter and optimizer", (long long)(r->r / 2));
    if (pw_run_is_full(run) && !r->fresh)
        list[n++] = "adapter.kind: lora trains a small part of the weights";
    *texts = list;
    return 0;
}

/* The rate of a dense product on this machine: operations a second, over at least 30 ms. */
static int gemm_rate(struct pw_dev *dev, double *rate)
{
    enum { N = 512, ROWS = 256 };
    struct pw_pool pool = {0};
    int rc = 0;
    const enum pw_dtype act = dev->act;
    const size_t one = pw_dtype_bytes(act);
    PW_PASS_OUT(pw_pool_open(&pool, dev, (size_t)(N * N + 2 * ROWS * N) * one + 256, "measuring"));
    struct pw_weight w = pw_weight_dense(pw_tensor2(pw_pool_take(&pool, N * N * one), act, N, N));
    struct pw_tensor x = pw_tensor2(pw_pool_take(&pool, ROWS * N * one), act, ROWS, N);
    struct pw_tensor y = pw_tensor2(pw_pool_take(&pool, ROWS * N * one), act, ROWS, N);
    PW_PASS_OUT(pw_dev_reserve(dev, pw_scratch_linear(dev, ROWS, &w, false)));
    const struct pw_drop none = {0};
    PW_PASS_OUT(pw_linear_fwd(dev, y, pw_none(), x, &w, none));
    PW_PASS_OUT(pw_dev_sync(dev));
    double from = pw_seconds(), seconds = 0;
    int runs = 0;
    for (; seconds < 0.03; runs++) {
        PW_PASS_OUT(pw_linear_fwd(dev, y, pw_none(), x, &w, none));
        PW_PASS_OUT(pw_dev_sync(dev));
        seconds = pw_seconds() - from;
    }
    *rate = 2.0 * N * N * ROWS * runs / seconds;
out:
    pw_pool_close(&pool);
    return rc;
}

int pw_run_estimate(struct pw_run *run, double *seconds, double *rate)
{
    const struct pw_model_config *c = &run->config;
    const struct pw_recipe *r = run->opt.recipe;
    const struct pw_backend *b = run->opt.dev->backend;
    *seconds = *rate = 0;
    if (b->driver && b->driver(run->opt.dev) == 0)
        return 0;
    double blocks = 0, twice = 0, tokens = (double)run->trainer.epochs.tokens;
    double trained = (double)run->train->n_trained / (double)run->train->n_tokens;
    for (int i = 0; i < c->layers; i++) {
        blocks += pw_run_block_ops(c, i, false);
        twice += pw_run_block_ops(c, i, true);
    }
    /* Forward, gradient of the input, with full training the gradient of the weights, with checkpointing the forward pass again. */
    const double again = r->checkpointing && blocks > 0 ? (1.0 - 1.0 / c->layers) * twice / blocks : 0, times = 2 + pw_run_is_full(run) + again;
    double head = 2.0 * (double)c->vocab * c->hidden * (2 + pw_run_is_full(run)) * trained;
    PW_PASS(gemm_rate(run->opt.dev, rate));
    *seconds = tokens * (blocks * times + head) / (*rate * PW_RUN_GEMM_SHARE * pw_ranks_size(run->opt.ranks));
    return 0;
}

int pw_run_accept(struct pw_run *run)
{
    const struct pw_recipe *r = run->opt.recipe;
    char want[32], have[32];
    if (pw_ranks_rank(run->opt.ranks) == 0 && !run->opt.resume && pw_file_exists(r->output) && !run->opt.force) {
        int rc = pw_error(PW_E_REFUSED, "%s exists already", r->output);
        pw_error_hint("--resume goes on with it, --force replaces it, --set output=FOLDER takes another");
        return rc;
    }
    if (pw_run_fits(run))
        return 0;
    const char **texts = NULL;
    const bool device = pw_budget_peak(&run->budget) > run->limit;
    pw_format_bytes(want, device ? pw_budget_peak(&run->budget) : run->fit.host_bytes);
    pw_format_bytes(have, device ? run->limit : run->host_limit);
    PW_PASS(pw_run_suggest(run, &texts));
    int rc = pw_error(PW_E_REFUSED, "the run does not fit: planned %s%s, at most %s", want, device ? "" : " of host memory", have);
    if (device && run->opt.memory && strcmp(r->memory, "as_given") != 0)       /* the leanest was planned */
        pw_error_hint("--memory %zu is the least that would do with these settings%s%s", pw_budget_peak(&run->budget), texts[0] ? "; " : "", texts[0] ? texts[0] : "");
    else if (texts[0])
        pw_error_hint("%s", texts[0]);
    return rc;
}
