/* See trainer.h. */
#include "train/trainer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "train/schedule.h"

enum { REWARDS = 6 };          /* numbers of struct pw_preference_sums that ranks add up, beside the losses of the passes */

/* ---- what is trained ---- */

static enum pw_optim_kind kind_of(const char *optimizer)
{
    static const char *const names[] = {[PW_OPTIM_ADAMW] = "adamw", [PW_OPTIM_ADAMW8] = "adamw8", [PW_OPTIM_LION] = "lion", [PW_OPTIM_SGD] = "sgd"};
    int k = 0;
    while (strcmp(names[k], optimizer) != 0)     /* the recipe has checked it */
        k++;
    return (enum pw_optim_kind)k;
}

/* Is one of the comma-separated words part of the name? "none" is none. */
static bool named(const char *words, const char *name)
{
    for (const char *at = words; *at;) {
        const size_t n = strcspn(at, ",");
        if (n > 0 && !(n == 4 && strncmp(at, "none", 4) == 0) && memmem(name, strlen(name), at, n))
            return true;
        at += n + (at[n] == ',');
    }
    return false;
}

/* Trained tensors of a module. */
static size_t each_of(const struct pw_adapter *a) { return pw_adapter_is_dora(a) ? 3 : 2; }

static void place_slots(struct pw_trainer *t)
{
    const struct pw_adapter *a = t->set.adapter;
    const size_t each = each_of(a);
    for (size_t i = 0; i < a->n; i++) {
        struct pw_slot *s = &t->slots[each * i];
        s[0].value = a->modules[i].lora.a;
        s[1].value = a->modules[i].lora.b;
        if (each > 2)
            s[2].value = a->modules[i].lora.magnitude;
    }
    for (size_t i = 0; i < a->n_saved; i++)
        t->slots[each * a->n + i].value = a->saved[i].value;
}

static int slots_of_adapter(struct pw_trainer *t)
{
    struct pw_adapter *a = t->set.adapter;
    const size_t each = each_of(a);
    t->slots = pw_arena_array(&t->arena, each * a->n + a->n_saved, sizeof *t->slots);
    PW_CHECK(t->slots, PW_E_NOMEM, "out of memory for %zu trained tensors", each * a->n + a->n_saved);
    for (size_t i = 0; i < a->n; i++) {
        const struct pw_adapter_module *m = &a->modules[i];
        struct pw_slot *s = &t->slots[each * i];
        if (each > 2) {
            s[2] = (struct pw_slot){.name = pw_arena_printf(&t->arena, "%s.lora_magnitude_vector", m->name), .value = m->lora.magnitude};
            PW_CHECK(s[2].name, PW_E_NOMEM, "out of memory for names");
        }
        s[0] = (struct pw_slot){.name = pw_arena_printf(&t->arena, "%s.lora_A", m->name), .value = m->lora.a};
        s[1] = (struct pw_slot){.name = pw_arena_printf(&t->arena, "%s.lora_B", m->name), .value = m->lora.b, .rate = t->set.recipe->lora_plus};
        PW_CHECK(s[0].name && s[1].name, PW_E_NOMEM, "out of memory for names");
    }
    t->n_slots = each * a->n;
    for (size_t i = 0; i < a->n_saved; i++) {
        struct pw_slot *s = &t->slots[t->n_slots++];
        *s = (struct pw_slot){.name = pw_arena_printf(&t->arena, "%s%s", a->saved[i].name, pw_adapter_is_bias(a->saved[i].name, NULL) ? "" : ".weight"), .value = a->saved[i].value};
        PW_CHECK(s->name, PW_E_NOMEM, "out of memory for names");
    }
    return 0;
}

static int slots_of_model(struct pw_trainer *t)
{
    struct pw_param *params = NULL;
    size_t n = 0;
    PW_PASS(pw_model_params(t->set.model, &params, &n));
    t->slots = pw_arena_array(&t->arena, n, sizeof *t->slots);
    PW_CHECK(t->slots, PW_E_NOMEM, "out of memory for %zu trained tensors", n);
    for (size_t i = 0; i < n; i++)
        t->slots[i] = (struct pw_slot){.name = params[i].name, .value = params[i].value};
    t->n_slots = n;
    return 0;
}

/* ---- adapters in halves ---- */

/* B (N, 2R) is (2N, R) by halves of rows; the second ones, 1, 3, 5, .., do not learn. Room for the largest of N and of N R. */
static void still_sizes(const struct pw_adapter *a, int64_t *rows, int64_t *elements)
{
    *rows = *elements = 0;
    for (size_t i = 0; a && a->config.halves && i < a->n; i++) {
        const int64_t n = a->modules[i].n_out;
        *rows = n > *rows ? n : *rows;
        *elements = n * (a->modules[i].lora.r / 2) > *elements ? n * (a->modules[i].lora.r / 2) : *elements;
    }
}
static size_t still_bytes(const struct pw_adapter *a)
{
    int64_t rows, elements;
    still_sizes(a, &rows, &elements);
    return pw_pool_round((size_t)rows * sizeof(int32_t)) + pw_pool_round((size_t)elements * sizeof(float));
}

static int place_still(struct pw_trainer *t)
{
    int64_t rows, elements;
    still_sizes(t->set.adapter, &rows, &elements);
    if (rows == 0)
        return 0;
    int32_t *odd = pw_arena_array(&t->arena, (size_t)rows, sizeof *odd);
    void *to = pw_pool_take(&t->pool, (size_t)rows * sizeof *odd), *zeros = pw_pool_take(&t->pool, (size_t)elements * sizeof(float)); /* cleared */
    PW_CHECK(odd && to && zeros, PW_E_NOMEM, "placing the adapter");
    for (int64_t i = 0; i < rows; i++)
        odd[i] = (int32_t)(2 * i + 1);
    t->still_rows = pw_tensor1(to, PW_I32, rows);
    t->still_zeros = pw_tensor1(zeros, PW_F32, elements);
    return pw_dev_put(t->set.model->dev, to, odd, (size_t)rows * sizeof *odd);
}

/* Gradients of the second halves are zero, so that they neither move nor count in the norm. */
static int hold_still(struct pw_trainer *t)
{
    const struct pw_adapter *a = t->set.adapter;
    struct pw_dev *dev = t->set.model->dev;
    for (size_t i = 0; a && a->config.halves && i < a->n; i++) {
        const struct pw_slot *s = &t->slots[each_of(a) * i];
        const int64_t r = a->modules[i].lora.r / 2, n = a->modules[i].n_out;
        PW_PASS(pw_fill(dev, pw_rows(s[0].grad, r, r), 0));
        PW_PASS(pw_scatter_rows(dev, pw_tensor2(s[1].grad.data, PW_F32, 2 * n, r), pw_tensor2(t->still_zeros.data, PW_F32, n, r), pw_rows(t->still_rows, 0, n)));
    }
    return 0;
}

/* ---- open ---- */

static int plan_eval(struct pw_trainer *t)
{
    struct pw_packing_options o = t->packing;
    o.shuffle = o.weights = false;
    if (!t->set.eval)
        return 0;
    PW_TRY(pw_packing_plan(&t->eval_plan, t->set.eval, t->set.eval_rows, t->set.n_eval, &o, 0), "planning the evaluation");
    int64_t trained = 0;
    for (int64_t i = 0; i < t->eval_plan->n_passes; i++)
        trained += t->eval_plan->pass_trained[i];
    PW_CHECK(trained > 0, PW_E_REFUSED, "no token of the held-out rows would be counted");
    return 0;
}

static int64_t most_rows(const struct pw_trainer *t)
{
    int64_t eval = t->eval_plan ? t->eval_plan->max_rows : 0;
    return eval > t->epochs.max_rows ? eval : t->epochs.max_rows;
}

int pw_trainer_open(struct pw_trainer *t, const struct pw_trainer_setup *set)
{
    const struct pw_recipe *r = set->recipe;
    *t = (struct pw_trainer){.set = *set, .plan_epoch = -1, .preference.objective = pw_objective_of(r)};
    pw_arena_init(&t->arena);
    for (int i = 0; i < PW_TRAINER_RECENT; i++)
        t->recent[i] = NAN;
    t->packing = (struct pw_packing_options){
        .max_length = r->max_length, .batch_size = r->batch_size, .packing = r->packing, .shuffle = r->shuffle,
        .weights = set->train->row_weight != NULL, .seed = (uint64_t)r->seed,
    };
    PW_PASS(pw_epochs_count(&t->epochs, &t->arena, set->train, set->rows, set->n_rows, &t->packing, r->accumulate * pw_ranks_size(set->ranks), r->epochs, r->steps));
    PW_PASS(plan_eval(t));
    t->shape = (struct pw_pass_shape){.tokens = t->epochs.max_tokens, .train = true, .kept = set->kept ? set->kept : r->checkpointing ? 1 : set->model->config.layers, .offload = set->offload};
    if (t->eval_plan && t->eval_plan->max_tokens > t->shape.tokens)
        t->shape.tokens = t->eval_plan->max_tokens;
    t->shape.sequences = most_rows(t);
    const int64_t longest = pw_preference_longest(&t->preference.objective, set->train, r->max_length), of_eval = set->eval ? pw_preference_longest(&t->preference.objective, set->eval, r->max_length) : 0;
    t->preference.longest = t->shape.longest = longest > of_eval ? longest : of_eval;
    if (t->preference.objective.kind == PW_OBJECTIVE_KTO && t->shape.longest > t->shape.tokens)
        t->shape.tokens = t->shape.longest;
    PW_PASS(set->adapter ? slots_of_adapter(t) : slots_of_model(t));
    t->kind = kind_of(r->optimizer);
    for (size_t i = 0; i < t->n_slots; i++) {
        t->slots[i].decay = (t->slots[i].value.ndim >= 2 || (set->adapter && i < each_of(set->adapter) * set->adapter->n)) && !named(r->no_decay, t->slots[i].name);
        t->parameters += pw_count(t->slots[i].value);
    }
    return 0;
}

static const char *saved_name(const struct pw_trainer *t)
{
    if (t->shape.kept >= t->set.model->config.layers)
        return "activations of all blocks";
    if (t->shape.offload)
        return t->shape.kept == 1 ? "one block, inputs on the host" : "some blocks, inputs of others on the host";
    return t->shape.kept == 1 ? "block inputs and one block" : "some blocks, inputs of the others";
}

void pw_trainer_budget(const struct pw_trainer *t, struct pw_budget *b)
{
    struct pw_pass_bytes bytes;
    pw_pass_size(t->set.model, &t->shape, &bytes);
    size_t region = pw_optim_region(t->slots, t->n_slots);
    if (t->set.adapter)
        pw_budget_add(b, PW_BUDGET_STATIC, "adapter", pw_pool_round(pw_adapter_bytes(t->set.adapter)) + still_bytes(t->set.adapter));
    if (t->set.model->dev->host)                   /* they never lie on a card */
        pw_budget_add(b, PW_BUDGET_STATIC, "reference log-probabilities", pw_preference_bytes(&t->preference.objective, t->set.train, t->eval_plan ? t->set.eval : NULL, most_rows(t)));
    pw_budget_add(b, PW_BUDGET_STATIC, "gradients", region);
    pw_budget_add(b, PW_BUDGET_STATIC, "optimizer", pw_optim_bytes(t->kind, t->slots, t->n_slots, t->set.optim_host) - region);
    pw_budget_add(b, PW_BUDGET_SAVED, saved_name(t), bytes.saved);
    pw_budget_add(b, PW_BUDGET_SCRATCH, "pass", bytes.scratch);
    pw_budget_add(b, PW_BUDGET_SCRATCH, "operations", bytes.device);
    if (t->set.model->dev->host)
        pw_budget_add(b, PW_BUDGET_SCRATCH, "sums over ranks", pw_ranks_bytes(t->set.ranks, region / sizeof(float)));
    if (t->set.model->dev->host)
        pw_budget_add(b, PW_BUDGET_SCRATCH, "batch", (size_t)t->shape.tokens * (4 * sizeof(int32_t) + 2 * sizeof(float)) + (size_t)most_rows(t) * 2 * sizeof(int32_t));
}

int pw_trainer_start(struct pw_trainer *t)
{
    struct pw_model *m = t->set.model;
    struct pw_pass_bytes bytes;
    size_t adapter = t->set.adapter ? pw_pool_round(pw_adapter_bytes(t->set.adapter)) : 0;
    pw_pass_size(m, &t->shape, &bytes);
    PW_TRY(pw_pool_open(&t->pool, m->dev, adapter + still_bytes(t->set.adapter) + pw_optim_bytes(t->kind, t->slots, t->n_slots, t->set.optim_host) + bytes.saved + bytes.scratch, "training"), "taking the planned memory");
    PW_PASS(pw_dev_reserve(m->dev, bytes.device));
    if (t->set.adapter) {
        /* Shapes were attached for planning; now the tensors get their place, and the model and the slots see it. */
        void *memory = pw_pool_take(&t->pool, adapter);
        PW_CHECK(memory, PW_E_NOMEM, "placing the adapter");
        PW_PASS(pw_adapter_place(t->set.adapter, memory, adapter));
        place_slots(t);
        PW_PASS(place_still(t));
        PW_PASS(pw_model_attach(m, t->set.adapter));
    }
    PW_PASS(pw_optim_place(&t->optim, &t->pool, t->kind, t->slots, t->n_slots, t->set.optim_host));
    PW_PASS(pw_pass_place(&t->pass, m, &t->shape, &t->pool, &t->arena));
    PW_PASS(pw_pass_connect(&t->pass, &t->optim));
    PW_PASS(pw_packed_init(&t->packed, &t->arena, t->shape.tokens, most_rows(t)));
    t->losses = pw_arena_array(&t->arena, (size_t)t->epochs.accumulate + REWARDS, sizeof *t->losses);
    PW_CHECK(t->losses, PW_E_NOMEM, "out of memory for %lld losses", (long long)t->epochs.accumulate);
    if (t->eval_plan) {
        t->eval_losses = pw_arena_array(&t->arena, (size_t)t->eval_plan->n_passes, sizeof *t->eval_losses);
        PW_CHECK(t->eval_losses, PW_E_NOMEM, "out of memory for the losses of %lld passes", (long long)t->eval_plan->n_passes);
    }
    PW_PASS(pw_ranks_reserve(t->set.ranks, m->dev, t->optim.region / sizeof(float)));
    struct pw_preference *p = &t->preference;
    if (p->objective.kind == PW_OBJECTIVE_TOKENS)
        return 0;
    p->model = m;
    p->adapter = t->set.adapter;
    p->pass = &t->pass;
    p->packed = &t->packed;
    p->stop = t->set.stop;
    p->stop_ctx = t->set.stop_ctx;
    return pw_preference_place(p, &t->arena, t->set.train, t->set.rows, t->set.n_rows, t->eval_plan ? t->set.eval : NULL, t->set.eval_rows, t->set.n_eval,
                               most_rows(t), t->packing.shuffle, t->packing.seed);
}

int pw_trainer_reference(struct pw_trainer *t)
{
    if (t->preference.objective.kind == PW_OBJECTIVE_TOKENS || t->set.adapter)
        return 0;
    return pw_preference_read(&t->preference, t->set.rows, t->set.n_rows, t->set.eval_rows, t->set.n_eval);
}

void pw_trainer_close(struct pw_trainer *t)
{
    pw_packing_free(t->plan);
    pw_packing_free(t->eval_plan);
    pw_pass_close(&t->pass);
    pw_optim_close(&t->optim);
    pw_pool_close(&t->pool);
    pw_arena_free(&t->arena);
    t->plan = t->eval_plan = NULL;
}

/* ---- one step ---- */

bool pw_trainer_done(const struct pw_trainer *t)
{
    return t->step >= t->epochs.steps;
}

static int plan_epoch(struct pw_trainer *t)
{
    PW_CHECK(t->epoch < t->epochs.n && t->at < t->epochs.passes[t->epoch], PW_E_FAIL, "position outside the run (epoch %lld, pass %lld)",
             (long long)t->epoch, (long long)t->at);
    if (t->plan && t->plan_epoch == t->epoch)
        return 0;
    pw_packing_free(t->plan);
    t->plan = NULL;
    PW_TRY(pw_packing_plan(&t->plan, t->set.train, t->set.rows, t->set.n_rows, &t->packing, t->epoch), "planning epoch %lld", (long long)t->epoch + 1);
    t->plan_epoch = t->epoch;
    PW_CHECK(t->plan->n_passes == t->epochs.passes[t->epoch] && t->plan->max_tokens <= t->shape.tokens, PW_E_FAIL,
             "epoch %lld was counted otherwise", (long long)t->epoch + 1);
    return 0;
}

/* Lines of the rows of passes [first, last) of this epoch, as far as there is room. */
static void lines_of(const struct pw_trainer *t, int64_t first, int64_t last, char lines[200])
{
    size_t at = 0;
    lines[0] = 0;
    for (int64_t i = t->plan->pass_start[first]; i < t->plan->pass_start[last] && at < 170; i++) {
        bool more = at > 140;
        long long line = (long long)t->set.train->row_line[t->plan->rows[i]];
        at += (size_t)(more ? snprintf(lines + at, 200 - at, ", ...") : snprintf(lines + at, 200 - at, "%s%lld", at ? ", " : "", line));
        if (more)
            break;
    }
}

/* A tensor whose gradient is not finite, of several that which backward came to first: from there it spread to the layers below. Or the first whose
 * values are not finite. NULL: none, or they cannot be read. */
static const char *first_bad(struct pw_trainer *t, bool gradients)
{
    struct pw_dev *dev = t->set.model->dev;
    for (size_t i = 0; i < t->optim.n; i++) {
        const struct pw_slot *s = &t->optim.slots[gradients ? t->optim.n - 1 - i : i];
        double sum = 0;
        if (pw_fill(dev, t->optim.norm2, 0) < 0 || pw_sumsq(dev, t->optim.norm2, gradients ? s->grad : s->value) < 0 ||
            pw_dev_get(dev, &sum, t->optim.norm2.data, sizeof sum) < 0)
            return NULL;
        if (!isfinite(sum))
            return s->name;
    }
    return NULL;
}

/* An error that names the step, the tensor, and the rows (lines of their files) of passes [first, last) of this epoch. */
static int not_a_number(struct pw_trainer *t, bool gradient, double x, int64_t first, int64_t last)
{
    char lines[200];
    lines_of(t, first, last, lines);
    const char *bad = first_bad(t, gradient), *got = isnan(x) ? "NaN" : "infinity";
    const long long step = (long long)t->step + 1;
    int rc = gradient ? pw_error(PW_E_NUMERIC, "step %lld: the gradient of %s is not finite (expected a number, got %s), rows %s", step, bad ? bad : "all tensors together", got, lines)
             : bad    ? pw_error(PW_E_NUMERIC, "step %lld: the loss is not finite (expected a number, got %s), nor is %s, rows %s", step, got, bad, lines)
                      : pw_error(PW_E_NUMERIC, "step %lld: the loss is not finite (expected a number, got %s) though all that is trained is, rows %s", step, got, lines);
    pw_error_hint("a smaller train.lr or train.clip, or a look at these rows; the last good state is kept");
    return rc;
}

/* The watchdog: a loss far above those of the last steps. Fewer than 8 of them say nothing. */
static int check_spike(const struct pw_trainer *t, double loss, int64_t last)
{
    const double spike = t->set.recipe->spike;
    char lines[200];
    double sum = 0;
    int n = 0;
    for (int i = 0; i < PW_TRAINER_RECENT; i++)
        if (!isnan(t->recent[i])) {
            sum += t->recent[i];
            n++;
        }
    if (spike == 0 || n < 8 || !(loss > spike * sum / n && loss > sum / n + 5))
        return 0;
    lines_of(t, t->at, last, lines);
    int rc = pw_error(PW_E_NUMERIC, "step %lld: the loss jumped to %g (mean of the last %d steps %g), rows %s", (long long)t->step + 1, loss, n, sum / n, lines);
    pw_error_hint("a smaller train.lr or train.clip, or a look at these rows; the last good state is kept, train.spike: 0 goes on");
    return rc;
}

static bool over_tokens(const struct pw_trainer *t)
{
    return t->preference.objective.kind == PW_OBJECTIVE_TOKENS;
}

static void report_rewards(struct pw_step_report *report, const struct pw_preference_sums *s)
{
    if (s->examples == 0)
        return;
    report->has_rewards = true;
    report->reward_accuracy = (double)s->right / (double)s->examples;
    for (int i = 0; i < 2; i++)
        report->reward_margin += s->n[i] ? (i ? -1 : 1) * s->reward[i] / (double)s->n[i] : 0;
}

static void sums_out(const struct pw_preference_sums *s, double x[REWARDS])
{
    const double all[REWARDS] = {(double)s->examples, (double)s->right, (double)s->n[0], (double)s->n[1], s->reward[0], s->reward[1]};
    memcpy(x, all, sizeof all);
}

static void sums_in(struct pw_preference_sums *s, const double x[REWARDS])
{
    *s = (struct pw_preference_sums){.examples = (int64_t)x[0], .right = (int64_t)x[1], .n = {(int64_t)x[2], (int64_t)x[3]}, .reward = {x[4], x[5]}};
}

static int64_t examples_of(const struct pw_packing *plan, const struct pw_dataset *d, int64_t first, int64_t last)
{
    return (plan->pass_start[last] - plan->pass_start[first]) / pw_dataset_per(d);
}

static double weight_of(const struct pw_packing *plan, int64_t first, int64_t last)
{
    double sum = 0;
    for (int64_t i = first; i < last; i++)
        sum += plan->pass_weight[i];
    return sum;
}

/* kto's z over the rows of passes [first, last), of which this rank reads its share. */
static int moved(struct pw_trainer *t, struct pw_reference *r, const struct pw_packing *plan, int64_t first, int64_t last, double *z)
{
    int64_t mine, end;
    double sum = 0;
    *z = 0;
    if (t->preference.objective.kind != PW_OBJECTIVE_KTO)
        return 0;
    pw_ranks_share(t->set.ranks, first, last, &mine, &end);
    int rc = pw_preference_moved(&t->preference, r, plan, mine, end, &sum);
    PW_PASS(pw_ranks_sum_f64(t->set.ranks, rc, &sum, 1));
    *z = sum > 0 ? sum / (double)(plan->pass_start[last] - plan->pass_start[first]) : 0;
    return 0;
}

/* The gradients of this rank's share of passes [at, last), and their losses, each at its pass. */
static int run_passes(struct pw_trainer *t, int64_t last, double number, double z, struct pw_preference_sums *sums)
{
    const struct pw_recipe *r = t->set.recipe;
    int64_t mine, end;
    pw_ranks_share(t->set.ranks, t->at, last, &mine, &end);
    int64_t row = 0;
    for (int64_t i = t->at; i < mine; i++)
        row += t->plan->pass_tokens[i];
    for (int64_t i = mine; i < end; row += t->plan->pass_tokens[i++]) {
        if (t->set.stop && t->set.stop(t->set.stop_ctx))
            return pw_error(PW_E_INTERRUPTED, "interrupted in step %lld", (long long)t->step + 1);
        double loss = 0;
        PW_PASS(pw_packed_fill(&t->packed, t->plan, t->set.train, i));
        if (t->packed.n_trained == 0)
            continue;
        const struct pw_pass_options o = {
            .backward = true, .dloss = 1.0 / number, .dropout = true, .drop_seed = (uint64_t)r->seed,
            /* Each step of the run has its own counters; the block adds layer and linear in the low bits, and a token its place in the step. */
            .drop_offset = (uint64_t)t->step << 40, .drop_row = row, .drop_p = t->set.adapter ? r->dropout : 0,
            .neftune = r->neftune,
        };
        if (over_tokens(t))
            PW_TRY(pw_pass_run(&t->pass, &t->packed, &o, &loss), "step %lld, pass %lld", (long long)t->step + 1, (long long)(i - t->at) + 1);
        else {
            sums->loss = 0;
            PW_TRY(pw_preference_pass(&t->preference, &t->preference.train, t->plan, i, &o, z, sums), "step %lld, pass %lld", (long long)t->step + 1,
                   (long long)(i - t->at) + 1);
            loss = sums->loss;
        }
        if (!isfinite(loss))
            return not_a_number(t, false, loss, i, i + 1);
        t->losses[i - t->at] = loss;
    }
    return 0;
}

/* The gradients of passes [at, last), and their loss: a mean over tokens, or over pairs or answers. Losses are added in the order of passes. */
static int accumulate(struct pw_trainer *t, int64_t last, struct pw_step_report *report)
{
    const int64_t n = last - t->at;
    const double number = over_tokens(t) ? weight_of(t->plan, t->at, last) : (double)examples_of(t->plan, t->set.train, t->at, last);
    struct pw_preference_sums sums = {0};
    double sum = 0, z = 0;
    memset(t->losses, 0, ((size_t)n + REWARDS) * sizeof *t->losses);
    PW_TRY(moved(t, &t->preference.train, t->plan, t->at, last, &z), "step %lld", (long long)t->step + 1);
    int rc = run_passes(t, last, number, z, &sums);
    sums_out(&sums, t->losses + n);
    PW_PASS(pw_ranks_sum_f64(t->set.ranks, rc, t->losses, (size_t)n + REWARDS));
    PW_PASS(pw_ranks_sum_f32(t->set.ranks, (float *)(void *)t->optim.grads, t->optim.region / sizeof(float)));
    sums_in(&sums, t->losses + n);
    for (int64_t i = 0; i < n; i++)
        sum += t->losses[i];
    if (number > 0)
        report->loss = sum / number;
    report_rewards(report, &sums);
    return 0;
}

int pw_trainer_step(struct pw_trainer *t, struct pw_step_report *report)
{
    const struct pw_recipe *r = t->set.recipe;
    struct pw_dev *dev = t->set.model->dev;
    *report = (struct pw_step_report){0};
    PW_PASS(plan_epoch(t));
    int64_t last = t->at + t->epochs.accumulate < t->plan->n_passes ? t->at + t->epochs.accumulate : t->plan->n_passes;
    for (int64_t i = t->at; i < last; i++) {
        report->tokens += t->plan->pass_tokens[i];
        report->trained_tokens += t->plan->pass_trained[i];
    }
    PW_TRY(pw_optim_clear(dev, &t->optim), "step %lld: clearing the gradients", (long long)t->step + 1);
    PW_PASS(accumulate(t, last, report));
    PW_PASS(check_spike(t, report->loss, last));
    report->lr = pw_schedule_lr(r, t->step, t->epochs.steps);
    if (report->trained_tokens > 0) {       /* a step of cut rows that trains nothing changes nothing */
        PW_TRY(hold_still(t), "step %lld: what is not trained", (long long)t->step + 1);
        PW_TRY(pw_optim_norm(dev, &t->optim, &report->grad_norm), "step %lld: the norm of the gradients", (long long)t->step + 1);
        if (!isfinite(report->grad_norm))
            return not_a_number(t, true, report->grad_norm, t->at, last);
        const struct pw_adamw h = {
            .lr = report->lr, .beta1 = r->betas[0], .beta2 = r->betas[1], .eps = r->eps, .weight_decay = r->weight_decay, .step = t->step + 1,
            .grad_scale = r->clip > 0 && report->grad_norm > r->clip ? r->clip / report->grad_norm : 1,
        };
        t->torn = true;
        PW_TRY(pw_optim_step(dev, &t->optim, &h), "the update of step %lld", (long long)t->step + 1);
        t->torn = false;
        PW_TRY(pw_model_norms(t->set.model), "after the update of step %lld", (long long)t->step + 1);
    }
    t->step++;
    t->recent[t->step % PW_TRAINER_RECENT] = report->loss;
    t->at = last;
    if (t->at == t->plan->n_passes) {
        t->epoch++;
        t->at = 0;
    }
    t->tokens += report->tokens;
    t->trained_tokens += report->trained_tokens;
    return 0;
}

static int evaluate_passes(struct pw_trainer *t, double z, double *losses)
{
    struct pw_preference_sums sums = {0};
    const struct pw_pass_options o = {.backward = false};
    int64_t mine, end;
    pw_ranks_share(t->set.ranks, 0, t->eval_plan->n_passes, &mine, &end);
    for (int64_t i = mine; i < end; i++) {
        if (t->set.stop && t->set.stop(t->set.stop_ctx))
            return pw_error(PW_E_INTERRUPTED, "interrupted while evaluating after step %lld", (long long)t->step);
        PW_PASS(pw_packed_fill(&t->packed, t->eval_plan, t->set.eval, i));
        sums.loss = 0;
        int rc = over_tokens(t) ? pw_pass_run(&t->pass, &t->packed, &o, &losses[i])
                                : pw_preference_pass(&t->preference, &t->preference.eval, t->eval_plan, i, &o, z, &sums);
        PW_TRY(rc, "evaluating after step %lld, pass %lld", (long long)t->step, (long long)i + 1);
        if (!over_tokens(t))
            losses[i] = sums.loss;
    }
    return 0;
}

int pw_trainer_evaluate(struct pw_trainer *t, double *loss)
{
    const struct pw_packing *plan = t->eval_plan;
    double sum = 0, z = 0, *losses = t->eval_losses;
    PW_CHECK(plan, PW_E_FAIL, "there are no held-out rows");
    memset(losses, 0, (size_t)plan->n_passes * sizeof *losses);
    PW_TRY(moved(t, &t->preference.eval, plan, 0, plan->n_passes, &z), "evaluating after step %lld", (long long)t->step);
    PW_PASS(pw_ranks_sum_f64(t->set.ranks, evaluate_passes(t, z, losses), losses, (size_t)plan->n_passes));
    for (int64_t i = 0; i < plan->n_passes; i++)
        sum += losses[i];
    *loss = sum / (over_tokens(t) ? weight_of(plan, 0, plan->n_passes) : (double)examples_of(plan, t->set.eval, 0, plan->n_passes));
    PW_CHECK(isfinite(*loss), PW_E_NUMERIC, "the held-out loss after step %lld is not finite", (long long)t->step);
    return 0;
}

int pw_trainer_square(struct pw_trainer *t, double *sum)
{
    struct pw_dev *dev = t->set.model->dev;
    PW_PASS(pw_fill(dev, t->optim.norm2, 0));
    for (size_t i = 0; i < t->optim.n; i++)
        PW_PASS(pw_sumsq(dev, t->optim.norm2, t->optim.slots[i].value));
    return pw_dev_get(dev, sum, t->optim.norm2.data, sizeof *sum);
}
