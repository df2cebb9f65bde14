/* The trainer on a tiny model: the same steps however they are cut, the same bytes however often, and a loss that falls. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "tests/support.h"
#include "train/schedule.h"
#include "train/trainer.h"

/* Rows made here: short counting sequences modulo a vocabulary, so that there is something to learn. */
enum { VOCAB = 40, ROWS = 24, LONGEST = 14 };
static float all_weigh;     /* what every token of the rows counts; 0: nothing is said, so 1 */
struct rows { struct pw_dataset d; int32_t ids[ROWS * LONGEST]; uint8_t trained[ROWS * LONGEST], label[ROWS]; int64_t start[ROWS + 1], line[ROWS]; float weight[ROWS * LONGEST]; };

static void make_rows(struct rows *r)
{
    struct pw_rng rng = pw_rng_make(7, PW_STREAM_TEST);
    int64_t at = 0;
    memset(r, 0, sizeof *r);
    for (int i = 0; i < ROWS; i++) {
        int64_t n = 5 + (int64_t)pw_rng_below(&rng, LONGEST - 5), from = (int64_t)pw_rng_below(&rng, VOCAB), by = 1 + i % 3;
        for (int64_t k = 0; k < n; k++, at++) {
            r->ids[at] = (int32_t)((from + k * by) % VOCAB);
            r->trained[at] = k >= 2;
            r->d.n_trained += k >= 2;
        }
        r->start[i + 1] = at;
        r->line[i] = i + 1;
        r->label[i] = i % 3 != 0;
        r->d.longest = n > r->d.longest ? n : r->d.longest;
    }
    r->d.n_rows = ROWS, r->d.n_tokens = at;
    r->d.ids = r->ids, r->d.trained = r->trained, r->d.row_start = r->start, r->d.row_line = r->line;
    for (int64_t i = 0; i < at; i++)
        r->weight[i] = all_weigh;
    r->d.token_weight = all_weigh > 0 ? r->weight : NULL;
}

struct fixture {
    struct pw_dev *dev;
    struct pw_model *m;
    struct pw_adapter a;
    struct pw_recipe r;
    struct rows rows;
    struct pw_trainer t;
    bool full;
};

static void open_fixture(struct fixture *f, const char *yaml)
{
    struct pw_dev_options dev = {.kind = "cpu", .threads = 1};
    struct pw_model_config c = {
        .family = "llama", .architecture = "LlamaForCausalLM", .vocab = VOCAB, .layers = 3, .hidden = 32, .heads = 4, .kv_heads = 2, .head_dim = 8,
        .ffn = 48, .context = 32, .norm_eps = 1e-5, .rope_theta = 10000, .tied = true, .attn_scale = 1 / sqrt(8.0), .embed_scale = 1, .init_range = 0.08,
    };
    memset(f, 0, sizeof *f);
    char text[2048];
    snprintf(text, sizeof text, "model: x\noutput: x\ndata: {train: x, max_length: 32}\n%s", yaml);
    ck_ok(pw_recipe_parse(&f->r, text, strlen(text), "test", NULL, 0));
    f->full = strcmp(f->r.kind, "full") == 0;
    make_rows(&f->rows);
    const struct pw_objective o = pw_objective_of(&f->r);
    f->rows.d.pairs = pw_objective_pairs(&o);
    f->rows.d.row_label = o.kind == PW_OBJECTIVE_KTO ? f->rows.label : NULL;
    const int64_t examples = pw_dataset_examples(&f->rows.d);
    ck_ok(pw_dev_open(&f->dev, &dev));
    ck_ok(pw_model_create(&f->m, f->dev, &c, 3));
    struct pw_trainer_setup set = {.recipe = &f->r, .model = f->m, .train = &f->rows.d, .n_rows = examples, .eval = &f->rows.d, .n_eval = examples};
    if (!f->full) {
        struct pw_adapter_config ac = {.kind = "lora", .r = (int)f->r.r, .alpha = f->r.alpha, .dropout = f->r.dropout, .targets = f->r.targets};
        ck_ok(pw_adapter_plan(&f->a, &ac, &c));
        for (size_t i = 0; i < f->a.n; i++)
            pw_model_linear(f->m, f->a.modules[i].name)->lora = &f->a.modules[i].lora;
        set.adapter = &f->a;
    }
    ck_ok(pw_trainer_open(&f->t, &set));
    struct pw_budget b = {0};
    pw_trainer_budget(&f->t, &b);
    ck_ok(pw_trainer_start(&f->t));
    /* The plan is what was taken, to the byte: the pool is full. */
    ck_assert_uint_eq(f->t.pool.used, f->t.pool.bytes);
    size_t pooled = 0;
    for (int i = 0; i < b.n; i++)
        if (strcmp(b.items[i].name, "operations") != 0 && strcmp(b.items[i].name, "batch") != 0 && strncmp(b.items[i].name, "reference", 9) != 0)
            pooled += b.items[i].bytes;
    ck_assert_uint_eq(pooled, f->t.pool.bytes);
    for (int i = 0; i < b.n; i++)
        if (strcmp(b.items[i].name, "operations") == 0)
            ck_assert_uint_eq(b.items[i].bytes, f->dev->scratch_bytes);
    ck_ok(pw_trainer_reference(&f->t));
    if (!f->full)
        pw_adapter_init(&f->a, 5);
}

static void close_fixture(struct fixture *f)
{
    pw_trainer_close(&f->t);
    if (!f->full)
        pw_adapter_free(&f->a);
    pw_model_free(f->m);
    pw_dev_close(f->dev);
    pw_recipe_free(&f->r);
}

/* Trains to the end (or `steps` steps), returns all trained values in one array and the losses. */
static float *train(const char *yaml, int64_t steps, double *losses, size_t *count)
{
    struct fixture f;
    struct pw_step_report s;
    open_fixture(&f, yaml);
    for (int64_t i = 0; i < steps && !pw_trainer_done(&f.t); i++) {
        ck_ok(pw_trainer_step(&f.t, &s));
        if (losses)
            losses[i] = s.loss;
    }
    float *all = pw_alloc((size_t)f.t.parameters * sizeof *all);
    size_t at = 0;
    for (size_t i = 0; i < f.t.n_slots; i++) {
        memcpy(all + at, f.t.slots[i].value.data, pw_bytes(f.t.slots[i].value));
        at += (size_t)pw_count(f.t.slots[i].value);
    }
    *count = at;
    close_fixture(&f);
    return all;
}

static void same(const char *a, const char *b, int64_t steps, double bound)
{
    double la[64] = {0}, lb[64] = {0};
    size_t n = 0, m = 0;
    float *x = train(a, steps, la, &n), *y = train(b, steps, lb, &m);
    ck_assert_uint_eq(n, m);
    if (bound == 0) {
        ck_assert_mem_eq(la, lb, sizeof la);
        ck_assert_mem_eq(x, y, n * sizeof *x);
    } else {
        for (int64_t i = 0; i < steps; i++)
            ck_close(la[i], lb[i], 0, bound);
        double worst = test_worst(x, y, n, bound, bound);
        ck_assert_msg(worst <= 1, "parameters differ by %g of the bound", worst);
    }
    pw_free(x);
    pw_free(y);
}

#define T(batch, accumulate, more) "adapter: {r: 4, alpha: 8}\ntrain: {batch_size: " #batch ", accumulate: " #accumulate ", lr: 1e-3, warmup: 2, epochs: 20" more "}\n"

#define D(batch, accumulate, more) "adapter: {r: 4, alpha: 8, dropout: 0.2}\ntrain: {batch_size: " #batch ", accumulate: " #accumulate ", lr: 1e-3, warmup: 2, epochs: 20" more "}\n"

/* Adam turns sums that differ in the last bits into steps of up to lr where a gradient is near zero: the loss is the strict witness. */
START_TEST(accumulation)
{
    same(T(8, 1, ", eps: 1e-4"), T(4, 2, ", eps: 1e-4"), 10, 2e-5);
    same(T(8, 1, ", eps: 1e-4"), T(1, 8, ", eps: 1e-4"), 10, 2e-5);
    /* What is dropped and the noise belong to a token's place in the step. */
    same(D(8, 1, ", eps: 1e-4, neftune: 5"), D(2, 4, ", eps: 1e-4, neftune: 5"), 10, 2e-5);
    same(D(8, 1, ", eps: 1e-4"), D(1, 8, ", eps: 1e-4"), 10, 2e-5);
}
END_TEST

/* A loss is a mean by weights: where every token counts four times, nothing is another bit than where none says so. */
START_TEST(equal_weights)
{
    double plain[6] = {0}, weighted[6] = {0};
    size_t n = 0, m = 0;
    float *x = train(T(4, 2, ""), 6, plain, &n);
    all_weigh = 4;
    float *y = train(T(4, 2, ""), 6, weighted, &m);
    all_weigh = 0;
    ck_assert_uint_eq(n, m);
    ck_assert_mem_eq(plain, weighted, sizeof plain);
    ck_assert_mem_eq(x, y, n * sizeof *x);
    pw_free(x);
    pw_free(y);
}
END_TEST

START_TEST(checkpointing)
{
    same(T(4, 2, ", checkpointing: true"), T(4, 2, ", checkpointing: false"), 10, 0);
    same("adapter: {r: 4, dropout: 0.2}\ntrain: {batch_size: 4, checkpointing: true}\n", "adapter: {r: 4, dropout: 0.2}\ntrain: {batch_size: 4, checkpointing: false}\n", 3, 0);
    same("adapter: {kind: full}\ntrain: {batch_size: 4, checkpointing: true}\n", "adapter: {kind: full}\ntrain: {batch_size: 4, checkpointing: false}\n", 3, 0);
}
END_TEST

/* What training takes it takes before the first step: within an epoch no step and, after the first, no evaluation asks for memory. */
START_TEST(steps_take_no_memory)
{
    static const char *const kinds[] = {
        "adapter: {r: 4}\ntrain: {batch_size: 1, accumulate: 1}\n",
        "adapter: {r: 4, dropout: 0.1}\ntrain: {batch_size: 1, accumulate: 1, checkpointing: false, optimizer: adamw8}\n",
        "adapter: {r: 4}\ntrain: {batch_size: 1, accumulate: 1, optimizer: lion, neftune: 5}\n",
        "adapter: {kind: full}\ntrain: {batch_size: 1, accumulate: 1, optimizer: sgd}\n",
        "adapter: {r: 4}\ntrain: {objective: dpo, batch_size: 1, accumulate: 1}\n",
        "adapter: {r: 4}\ntrain: {objective: kto, batch_size: 2, accumulate: 1}\n",
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        struct fixture f;
        struct pw_step_report s;
        double loss;
        open_fixture(&f, kinds[i]);
        ck_ok(pw_trainer_step(&f.t, &s));      /* plans the epoch */
        ck_ok(pw_trainer_evaluate(&f.t, &loss));
        pw_fault_set(0, false);
        for (int k = 0; k < 3; k++) {
            ck_assert_int_eq(f.t.epoch, 0);
            ck_ok(pw_trainer_step(&f.t, &s));
            ck_ok(pw_trainer_evaluate(&f.t, &loss));
        }
        ck_assert_msg(pw_fault_count() == 0, "%s: %lld allocations in three steps", kinds[i], (long long)pw_fault_count());
        close_fixture(&f);
    }
}
END_TEST

START_TEST(same_seed_same_bytes)
{
    same("adapter: {r: 4}\ntrain: {batch_size: 4, neftune: 5}\n", "adapter: {r: 4}\ntrain: {batch_size: 4, neftune: 5, checkpointing: false}\n", 6, 0);
    same("adapter: {r: 4, dropout: 0.1}\ntrain: {batch_size: 4}\n", "adapter: {r: 4, dropout: 0.1}\ntrain: {batch_size: 4}\n", 6, 0);
}
END_TEST

/* All rows in one step: packed into bins, or one by one. */
static void packed_or_separate(const char *packed)
{
    char separate[400];
    double a[8], b[8];
    size_t n, m;
    snprintf(separate, sizeof separate, "%s", packed);
    float *x = train(packed, 5, a, &n);
    /* data: is already a map of the fixture; the second one goes through another recipe text */
    struct fixture f;
    struct pw_step_report s;
    open_fixture(&f, separate);
    pw_trainer_close(&f.t);
    f.r.packing = false;
    struct pw_trainer_setup set = f.t.set;
    for (size_t i = 0; i < f.a.n; i++)
        pw_model_linear(f.m, f.a.modules[i].name)->lora = &f.a.modules[i].lora;
    ck_ok(pw_trainer_open(&f.t, &set));
    ck_ok(pw_trainer_start(&f.t));
    pw_adapter_init(&f.a, 5);
    m = n;
    for (int i = 0; i < 5; i++) {
        ck_ok(pw_trainer_step(&f.t, &s));
        b[i] = s.loss;
        ck_close(a[i], b[i], 0, 1e-5);
    }
    ck_assert_uint_eq(m, (size_t)f.t.parameters);
    close_fixture(&f);
    pw_free(x);
}

#define AT_ONCE "batch_size: 64, accumulate: 1, epochs: 5, lr: 1e-3, eps: 1e-4, warmup: 0"
START_TEST(packed_equals_separate)
{
    packed_or_separate("train: {" AT_ONCE "}\n");
    packed_or_separate("train: {objective: dpo, " AT_ONCE "}\n");
    packed_or_separate("train: {objective: orpo, " AT_ONCE "}\n");
    packed_or_separate("train: {objective: kto, " AT_ONCE "}\n");
}
END_TEST

/* The same steps however they are cut, for objectives whose mean runs over pairs or answers: and kto's z over the whole step. */
static void preference_cut(const char *objective)
{
    char a[400], b[400], c[400];
    static const char *const form = "adapter: {r: 4, alpha: 8}\ntrain: {objective: %s, batch_size: %d, accumulate: %d, lr: 1e-3, warmup: 2, epochs: 20, eps: 1e-4, checkpointing: %s}\n";
    snprintf(a, sizeof a, form, objective, 4, 1, "true");
    snprintf(b, sizeof b, form, objective, 1, 4, "true");
    snprintf(c, sizeof c, form, objective, 4, 1, "false");
    same(a, b, 10, 2e-5);
    same(a, c, 6, 0);
    same(a, a, 6, 0);
}

START_TEST(preferences_however_cut)
{
    preference_cut("dpo");
    preference_cut("simpo");
    preference_cut("kto");
}
END_TEST

/* The noise is there, differs from step to step, and is not there in evaluation. */
START_TEST(neftune)
{
    struct fixture f, g;
    struct pw_step_report a, b, c;
    double with, without;
    open_fixture(&f, "train: {epochs: 40, batch_size: 64, accumulate: 1, lr: 0, neftune: 5}\n");
    open_fixture(&g, "train: {epochs: 40, batch_size: 64, accumulate: 1, lr: 0}\n");
    f.t.packing.shuffle = g.t.packing.shuffle = false;     /* the same pass each time: what differs is the noise */
    ck_ok(pw_trainer_evaluate(&f.t, &with));
    ck_ok(pw_trainer_evaluate(&g.t, &without));
    ck_close(with, without, 0, 0);
    ck_ok(pw_trainer_step(&f.t, &a));
    ck_ok(pw_trainer_step(&f.t, &b));
    ck_ok(pw_trainer_step(&g.t, &c));
    ck_assert(fabs(a.loss - c.loss) > 1e-4 && fabs(a.loss - b.loss) > 1e-4);
    close_fixture(&f);
    close_fixture(&g);
}
END_TEST

static void falls(const char *yaml, int64_t steps, double to)
{
    struct fixture f;
    struct pw_step_report s = {0};
    double before, after;
    open_fixture(&f, yaml);
    ck_ok(pw_trainer_evaluate(&f.t, &before));
    for (int64_t i = 0; i < steps; i++)
        ck_ok(pw_trainer_step(&f.t, &s));
    ck_ok(pw_trainer_evaluate(&f.t, &after));
    ck_assert_msg(after < to * before, "held out: %g, then %g", before, after);
    close_fixture(&f);
}

START_TEST(loss_falls)
{
    falls("adapter: {r: 8, alpha: 16}\ntrain: {batch_size: 4, accumulate: 1, steps: 60, lr: 2e-2, warmup: 5}\n", 60, 0.8);
    falls("adapter: {kind: full}\ntrain: {batch_size: 4, accumulate: 1, steps: 60, lr: 1e-2, warmup: 5}\n", 60, 0.5);
    falls("adapter: {r: 128, alpha: 16}\ntrain: {optimizer: adamw8, batch_size: 4, accumulate: 1, steps: 60, lr: 2e-2, warmup: 5}\n", 60, 0.8);
    falls("adapter: {r: 8, alpha: 16, lora_plus: 8}\ntrain: {optimizer: lion, betas: [0.9, 0.99], batch_size: 4, accumulate: 1, steps: 60, lr: 1e-3, warmup: 5}\n", 60, 0.8);
    falls("adapter: {r: 8, alpha: 16}\ntrain: {objective: dpo, batch_size: 4, accumulate: 1, steps: 40, lr: 1e-2, warmup: 5}\n", 40, 0.5);
    falls("adapter: {kind: full}\ntrain: {objective: dpo, batch_size: 4, accumulate: 1, steps: 40, lr: 1e-2, warmup: 5}\n", 40, 0.5);
    falls("adapter: {kind: full}\ntrain: {objective: kto, batch_size: 8, accumulate: 1, steps: 40, lr: 1e-2, warmup: 5}\n", 40, 0.8);
    falls("adapter: {kind: full}\ntrain: {batch_size: 4, accumulate: 1, steps: 60, lr: 0.1, warmup: 5, optimizer: sgd, schedule: wsd}\n", 60, 0.7);
}
END_TEST

/* Saved after step 4 with its averages, restored into another trainer, gone on: the same bytes as without a stop. */
static void save_and_restore(const char *yaml, int steps)
{
    const char *path = test_path(test_tmpdir(), "step-4.h5");
    struct fixture f;
    struct pw_step_report s;
    struct pw_state state = {.evaluated_step = -1}, back;
    size_t n;
    float *straight = train(yaml, steps, NULL, &n);
    open_fixture(&f, yaml);
    for (int i = 0; i < 4; i++)
        ck_ok(pw_trainer_step(&f.t, &s));
    state.step = f.t.step, state.epoch = f.t.epoch, state.pass = f.t.at;
    pw_buf_str(&state.recipe, "x");
    ck_ok(pw_state_save(path, &state, &f.t.optim, f.dev));
    close_fixture(&f);
    open_fixture(&f, yaml);
    ck_ok(pw_state_read(path, &back));
    ck_ok(pw_state_restore(path, &f.t.optim, f.dev));
    f.t.step = back.step, f.t.epoch = back.epoch, f.t.at = back.pass;
    for (int i = 4; i < steps; i++)
        ck_ok(pw_trainer_step(&f.t, &s));
    size_t at = 0;
    for (size_t i = 0; i < f.t.n_slots; at += (size_t)pw_count(f.t.slots[i++].value))
        ck_assert_mem_eq(straight + at, f.t.slots[i].value.data, pw_bytes(f.t.slots[i].value));
    close_fixture(&f);
    pw_state_free(&state);
    pw_state_free(&back);
    pw_free(straight);
}

/* Preferences go on in the second epoch, when a run without a stop knows the reference of all rows from the first: packed otherwise then. */
START_TEST(saved_and_restored)
{
    save_and_restore("adapter: {r: 4, dropout: 0.1}\ntrain: {batch_size: 2, accumulate: 2, epochs: 12}\n", 9);
    save_and_restore("adapter: {r: 4, dropout: 0.1}\ntrain: {objective: dpo, batch_size: 1, accumulate: 2, epochs: 12, lr: 1e-2}\n", 9);
    save_and_restore("adapter: {r: 4, dropout: 0.1}\ntrain: {objective: kto, batch_size: 1, accumulate: 2, epochs: 12, lr: 1e-2}\n", 9);
    save_and_restore("adapter: {r: 128, dropout: 0.1}\ntrain: {optimizer: adamw8, batch_size: 2, accumulate: 2, epochs: 12}\n", 9);   /* some averages in 8 bits */
    save_and_restore("adapter: {r: 4}\ntrain: {neftune: 5, batch_size: 2, accumulate: 2, epochs: 12}\n", 9);
    save_and_restore("adapter: {r: 4}\ntrain: {optimizer: lion, batch_size: 2, accumulate: 2, epochs: 12, lr: 1e-3}\n", 9);
    save_and_restore("adapter: {kind: full}\ntrain: {objective: dpo, batch_size: 1, accumulate: 2, epochs: 12, lr: 1e-2}\n", 9);
}
END_TEST

/* A NaN in a weight stops the run at its step, names rows, and leaves the parameters as they were. */
START_TEST(nan_stops)
{
    struct fixture f;
    struct pw_step_report s;
    open_fixture(&f, "train: {batch_size: 2, accumulate: 2, clip: 0}\n");
    ck_ok(pw_trainer_step(&f.t, &s));
    ((float *)f.m->norm_final.data)[0] = NAN;
    ck_fails(pw_trainer_step(&f.t, &s), PW_E_NUMERIC, "step 2: the loss is not finite");
    ck_assert_int_eq(f.t.step, 1);
    close_fixture(&f);
}
END_TEST

/* A loss that jumps stops the run before the step, with rows; with few steps to compare, or with the watchdog off, it goes on. */
START_TEST(spike_stops)
{
    static const struct { const char *yaml; int steps; bool stops; } runs[] = {
        {"train: {epochs: 20, batch_size: 2, accumulate: 2, warmup: 0}\n", 10, true},
        {"train: {epochs: 20, batch_size: 2, accumulate: 2, warmup: 0}\n", 5, false},
        {"train: {epochs: 20, batch_size: 2, accumulate: 2, warmup: 0, spike: 0}\n", 10, false},
    };
    for (size_t r = 0; r < sizeof runs / sizeof runs[0]; r++) {
        struct fixture f;
        struct pw_step_report s;
        open_fixture(&f, runs[r].yaml);
        for (int i = 0; i < runs[r].steps; i++)
            ck_ok(pw_trainer_step(&f.t, &s));
        float *a = f.t.slots[0].value.data, before = a[0];
        for (int i = 0; i < 32; i++)
            ((float *)f.m->norm_final.data)[i] *= 3000;
        if (runs[r].stops) {
            ck_fails(pw_trainer_step(&f.t, &s), PW_E_NUMERIC, "step 11: the loss jumped to");
            ck_assert(strstr(pw_error_text(), "rows ") != NULL);
            ck_assert_int_eq(f.t.step, 10);
            ck_assert(a[0] == before);
        } else
            ck_ok(pw_trainer_step(&f.t, &s));
        close_fixture(&f);
    }
}
END_TEST

static bool always(void *ctx) { (void)ctx; return true; }

START_TEST(stop_changes_nothing)
{
    struct fixture f;
    struct pw_step_report s;
    open_fixture(&f, "train: {batch_size: 2}\n");
    f.t.set.stop = always;
    ck_fails(pw_trainer_step(&f.t, &s), PW_E_INTERRUPTED, "interrupted");
    ck_assert_int_eq(f.t.step, 0);
    close_fixture(&f);
}
END_TEST

START_TEST(schedule)
{
    struct pw_recipe r;
    static const char yaml[] = "model: x\noutput: x\ndata: {train: x}\ntrain: {lr: 1.0, warmup: 4, schedule: cosine}\n";
    ck_ok(pw_recipe_parse(&r, yaml, strlen(yaml), "test", NULL, 0));
    for (int i = 0; i < 4; i++)
        ck_close(pw_schedule_lr(&r, i, 20), i / 4.0, 0, 1e-12);
    ck_close(pw_schedule_lr(&r, 4, 20), 1, 0, 1e-12);
    ck_close(pw_schedule_lr(&r, 12, 20), 0.5, 0, 1e-12);
    r.schedule = "linear";
    ck_close(pw_schedule_lr(&r, 16, 20), 0.25, 0, 1e-12);
    r.lr_end = 0.1;    /* the floor */
    ck_close(pw_schedule_lr(&r, 20, 20), 0.1, 0, 1e-12);
    r.schedule = "cosine";
    ck_close(pw_schedule_lr(&r, 12, 20), 0.55, 0, 1e-12);
    r.schedule = "wsd";
    r.decay = 0.5;
    ck_close(pw_schedule_lr(&r, 10, 20), 1, 0, 1e-12);
    ck_close(pw_schedule_lr(&r, 15, 20), 0.55, 0, 1e-12);
    r.schedule = "constant";
    ck_close(pw_schedule_lr(&r, 19, 20), 1, 0, 1e-12);
    r.warmup = 0.03;   /* a share is rounded up */
    ck_assert_int_eq(pw_schedule_warmup(&r, 100), 3);
    ck_assert_int_eq(pw_schedule_warmup(&r, 101), 4);
    pw_recipe_free(&r);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("train");
    TCase *c = tcase_create("trainer");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, schedule);
    tcase_add_test(c, accumulation);
    tcase_add_test(c, equal_weights);
    tcase_add_test(c, checkpointing);
    tcase_add_test(c, steps_take_no_memory);
    tcase_add_test(c, same_seed_same_bytes);
    tcase_add_test(c, packed_equals_separate);
    tcase_add_test(c, preferences_however_cut);
    tcase_add_test(c, neftune);
    tcase_add_test(c, loss_falls);
    tcase_add_test(c, saved_and_restored);
    tcase_add_test(c, nan_stops);
    tcase_add_test(c, spike_stops);
    tcase_add_test(c, stop_changes_nothing);
    suite_add_tcase(s, c);
    return test_run(s);
}
