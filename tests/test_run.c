/* A run as a whole on the tiny model of tests/fixtures/train_golden: killed at any moment and resumed it ends with the same bytes; opening
 * fails cleanly whichever allocation fails; what cannot be trained is refused before anything is written. */
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "kernels/backend.h"
#include "tests/support.h"
#include "train/run.h"
#include "train/runlog.h"

#define FIXTURES "tests/fixtures/train_golden"

static void make_recipe(struct pw_recipe *r, const char *data, const char *train, const char *output)
{
    char text[2048];
    snprintf(text, sizeof text, "model: %s\nadapter: {r: 4, alpha: 8, dropout: 0.1}\ndata: {%s}\ntrain: {lr: 3e-3, %s}\noutput: %s\n", FIXTURES "/model", data, train,
             output);
    ck_ok(pw_recipe_parse(r, text, strlen(text), "test", NULL, 0));
}

/* One process' worth of a run. */
static int train_once(const struct pw_recipe *r, bool resume)
{
    const struct pw_dev_options options = {.kind = "cpu", .threads = 1};
    struct pw_dev *dev = NULL;
    struct pw_run run = {0};
    struct pw_run_result result;
    int rc = 0;
    PW_PASS_OUT(pw_dev_open(&dev, &options));
    const struct pw_run_options opt = {.recipe = r, .dev = dev, .resume = resume};
    PW_PASS_OUT(pw_run_open(&run, &opt));
    PW_PASS_OUT(pw_run_train(&run, &result));
    ck_assert_msg(!result.stepped || (result.seconds_to_first_step > 0 && result.seconds_to_first_step <= pw_process_seconds()), "the first step after %g s",
                  result.seconds_to_first_step);
    ck_assert(result.stepped || resume);
out:
    pw_run_close(&run);
    if (dev)
        pw_dev_close(dev);
    return rc;
}

static void same_file(const char *a, const char *b, const char *name)
{
    test_same_file(test_path(a, name), test_path(b, name));
}

/* Each step and each evaluation once, in order, with the same numbers but for the times. */
static void same_log(const char *a, const char *b)
{
    struct pw_arena arena;
    struct pw_log_line *x = NULL, *y = NULL;
    size_t n = 0, m = 0;
    pw_arena_init(&arena);
    ck_ok(pw_runlog_read(&arena, test_path(a, "log.jsonl"), &x, &n));
    ck_ok(pw_runlog_read(&arena, test_path(b, "log.jsonl"), &y, &m));
    ck_assert_uint_eq(n, m);
    for (size_t i = 0; i < n; i++)
        ck_assert_msg(x[i].is_eval == y[i].is_eval && x[i].s.step == y[i].s.step && x[i].s.loss == y[i].s.loss && x[i].s.grad_norm == y[i].s.grad_norm,
                      "line %zu of the log differs (steps %lld and %lld)", i + 1, (long long)x[i].s.step, (long long)y[i].s.step);
    pw_arena_free(&arena);
}

START_TEST(killed_and_resumed)
{
    static const char data[] = "train: " FIXTURES "/rows.jsonl, max_length: 40, eval: 0.2";
    static const char train[] = "batch_size: 2, accumulate: 2, steps: 150, save_every: 7, eval_every: 20, keep: 2";
    const char *whole = test_path(test_tmpdir(), "whole"), *cut = test_path(test_tmpdir(), "cut");
    struct pw_rng rng = pw_rng_make((uint64_t)getpid(), PW_STREAM_TEST);      /* other moments each time */
    struct pw_recipe a, b;
    int kills = 0, status = 0;
    make_recipe(&a, data, train, whole);
    make_recipe(&b, data, train, cut);
    const double from = pw_seconds();
    pid_t pid = fork();
    if (pid == 0)
        _exit(train_once(&a, false) == 0 ? 0 : 1);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the run without a stop failed");
    double span = pw_seconds() - from;
    for (int i = 0; i < 12; i++) {
        pid = fork();
        if (pid == 0)
            _exit(train_once(&b, i > 0) == 0 ? 0 : 1);
        if (i < 11) {
            usleep((useconds_t)(1e6 * span * (0.02 + 0.4 * (double)pw_rng_below(&rng, 1000) / 1000)));
            kill(pid, SIGKILL);
        }
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        if (WIFEXITED(status)) {
            ck_assert_msg(WEXITSTATUS(status) == 0, "resumed after %d kills, the run failed", kills);
            break;
        }
        kills++;
    }
    printf("killed %d times in runs of %.2f s\n", kills, span);
    ck_assert_int_ge(kills, 1);
    ck_assert(WIFEXITED(status));
    same_file(whole, cut, "adapter/adapter_model.safetensors");
    same_file(whole, cut, "best/adapter_model.safetensors");
    same_log(whole, cut);
    for (const char *const *name = (const char *const[]){"report.html", "log.csv", "recipe.yaml", "tb/events.out.tfevents.1.pennyweight", NULL}; *name; name++)
        ck_assert_msg(pw_file_exists(test_path(cut, *name)), "%s is missing", *name);
    char left[4200];
    snprintf(left, sizeof left, "! find '%s' -name '.*' ! -name .lock | grep .", cut);
    ck_assert_msg(system(left) == 0, "a killed process left something");
    pw_recipe_free(&a);
    pw_recipe_free(&b);
}
END_TEST

static int open_and_close(void *context)
{
    struct pw_run_options *opt = context;
    struct pw_run run = {0};
    int rc = pw_run_open(&run, opt);
    pw_run_close(&run);
    return rc;
}

/* train.compute bf16: refused where the device multiplies in f32; elsewhere the same bytes for any number of threads and with checkpointing, and
 * losses that are near those of f32 but not the same. */
static int train_at(const char *level, int threads, const char *train, const char *output, double losses[4])
{
    const struct pw_dev_options options = {.kind = "cpu", .threads = threads, .level = level};
    struct pw_recipe r;
    struct pw_dev *dev = NULL;
    struct pw_run run = {0};
    struct pw_run_result result;
    struct pw_log_line *lines = NULL;
    struct pw_arena a;
    size_t n = 0;
    int rc = pw_dev_open(&dev, &options);
    if (rc < 0)
        return rc;
    pw_arena_init(&a);
    make_recipe(&r, "train: " FIXTURES "/rows.jsonl, max_length: 40", train, output);
    const struct pw_run_options opt = {.recipe = &r, .dev = dev};
    PW_PASS_OUT(pw_run_open(&run, &opt));
    PW_PASS_OUT(pw_run_train(&run, &result));
    PW_PASS_OUT(pw_runlog_read(&a, test_path(output, "log.jsonl"), &lines, &n));
    ck_assert_uint_eq(n, 4);
    for (size_t i = 0; i < n; i++)
        losses[i] = lines[i].s.loss;
out:
    pw_run_close(&run);
    pw_arena_free(&a);
    pw_recipe_free(&r);
    pw_dev_close(dev);
    return rc;
}

/* Each level that rounds to bf16 and is here. */
START_TEST(compute_bf16)
{
    static const char *const levels[] = {"avx512_bf16", "amx_bf16"};
    static const char f32[] = "steps: 4, accumulate: 2", bf16[] = "steps: 4, accumulate: 2, compute: bf16", kept[] = "steps: 4, accumulate: 2, compute: bf16, checkpointing: false";
    const char *level = levels[_i], *a = test_path(test_tmpdir(), "a"), *b = test_path(test_tmpdir(), "b"), *plain = test_path(test_tmpdir(), "plain"), *other = test_path(test_tmpdir(), "other");
    double of_a[4], of_b[4], of_f32[4];
    bool differs = false;
    char refusal[128];
    ck_fails(train_at("generic", 1, bf16, other, of_a), PW_E_REFUSED, "train.compute bf16: device cpu generic does not multiply in bf16");
    ck_assert(!pw_file_exists(other));
    const int rc = train_at(level, 1, bf16, a, of_a);
    if (rc == PW_E_UNSUPPORTED) {
        test_skip("%s", pw_error_text());
        return;
    }
    ck_ok(rc);
    ck_ok(train_at(level, 2, kept, b, of_b));
    same_file(a, b, "adapter/adapter_model.safetensors");
    ck_ok(train_at("", 1, f32, plain, of_f32));
    for (int i = 0; i < 4; i++) {
        ck_assert_msg(fabs(of_a[i] - of_f32[i]) <= 0x1p-6 * of_f32[i], "step %d: loss %.9g, in f32 %.9g", i + 1, of_a[i], of_f32[i]);
        differs = differs || of_a[i] != of_f32[i];
    }
    ck_assert(differs);
    snprintf(refusal, sizeof refusal, "train.compute f32: device cpu %s multiplies in bf16", level);
    ck_fails(train_at(level, 1, f32, other, of_b), PW_E_REFUSED, refusal);
}
END_TEST

START_TEST(opening_without_memory)
{
    const struct pw_dev_options options = {.kind = "cpu", .threads = 1};
    const char *rows = test_path(test_tmpdir(), "rows.jsonl"), *output = test_path(test_tmpdir(), "run");
    static const char text[] = "{\"prompt\": \"1+2=\", \"completion\": \"3\"}\n{\"prompt\": \"the sky\", \"completion\": \" is blue\"}\n";
    char data[512];
    struct pw_recipe r;
    struct pw_dev *dev;
    ck_ok(pw_file_write(rows, text, strlen(text), true));
    snprintf(data, sizeof data, "train: %s, eval: %s, max_length: 40", rows, rows);
    make_recipe(&r, data, "epochs: 1, accumulate: 1", output);
    ck_ok(pw_dev_open(&dev, &options));
    struct pw_run_options opt = {.recipe = &r, .dev = dev};
    printf("%lld allocations\n", (long long)test_sweep_nomem(open_and_close, &opt));
    ck_assert(!pw_file_exists(output));
    pw_dev_close(dev);
    pw_recipe_free(&r);
}
END_TEST

static void refused(const char *rows, const char *data, const char *train, int code, const char *message)
{
    const char *dir = test_tmpdir(), *output = test_path(dir, "run"), *path = test_path(dir, "rows.jsonl");
    char text[512];
    struct pw_recipe r;
    ck_ok(pw_file_write(path, rows, strlen(rows), true));
    snprintf(text, sizeof text, "train: %s, max_length: 40%s", path, data);
    make_recipe(&r, text, train, output);
    ck_fails(train_once(&r, false), code, message);
    ck_assert(!pw_file_exists(output));
    pw_recipe_free(&r);
}

START_TEST(refusals)
{
    refused("{\"text\": \"blue sky\"}\n{\"prompt\": \"1+2=\", \"completion\": \"3\"}\n", ", format: completion", "epochs: 1", PW_E_FORMAT,
            "the row has no key");
    refused("{\"prompt\": \"1+2=\", \"completion\": \"3\"}\n", "", "objective: pretrain", PW_E_REFUSED, "train.objective pretrain takes rows of form text (row of line 1 ");
    refused("", "", "epochs: 1", PW_E_REFUSED, "rows.jsonl");
}
END_TEST

/* Every token but the first counts, and the run ends. */
/* Without progress the run ends after its third worse evaluation; resumed it stays ended; how often to evaluate may then not change. */
START_TEST(patience)
{
    struct pw_recipe r;
    const char *output = test_path(test_tmpdir(), "run");
    make_recipe(&r, "train: " FIXTURES "/rows.jsonl, eval: 0.2, max_length: 40", "steps: 40, batch_size: 4, accumulate: 1, eval_every: 2, save_every: 3, patience: 3", output);
    r.lr = 0;
    for (int resume = 0; resume < 2; resume++) {
        struct pw_state s;
        ck_ok(train_once(&r, resume));
        ck_ok(pw_state_read(test_path(output, "checkpoints/step-8.h5"), &s));
        ck_assert_int_eq(s.worse, 3);
        ck_assert_int_eq(s.best_step, 2);
        pw_state_free(&s);
        ck_assert(!pw_file_exists(test_path(output, "checkpoints/step-9.h5")) && pw_is_dir(test_path(output, "best")) && pw_is_dir(test_path(output, "adapter")));
    }
    r.eval_every = 5;
    ck_fails(train_once(&r, true), PW_E_REFUSED, "train.eval_every was changed");
    /* Each evaluation is better, but not by enough: best/ follows, patience does not wait. */
    struct pw_state s;
    r.eval_every = 2;
    r.lr = 1e-3;
    r.min_delta = 100;
    r.output = output = test_path(test_tmpdir(), "delta");
    ck_ok(train_once(&r, false));
    ck_ok(pw_state_read(test_path(output, "checkpoints/step-8.h5"), &s));
    ck_assert_int_eq(s.worse, 3);
    ck_assert_int_eq(s.best_step, 8);
    pw_state_free(&s);
    /* A rate that spoils what was learnt: best/ is of an earlier step, and with load_best adapter/ is that. */
    r.min_delta = 0;
    r.lr = 0.3;
    for (int load = 0; load < 2; load++) {
        struct pw_buf best = {0}, last = {0};
        r.load_best = load;
        r.output = output = test_path(test_tmpdir(), load ? "loaded" : "not-loaded");
        ck_ok(train_once(&r, false));
        ck_ok(pw_file_read(test_path(output, "best/adapter_model.safetensors"), 0, &best));
        ck_ok(pw_file_read(test_path(output, "adapter/adapter_model.safetensors"), 0, &last));
        ck_assert_uint_eq(best.len, last.len);
        ck_assert((memcmp(best.data, last.data, best.len) == 0) == (load == 1));
        ck_assert(pw_file_exists(test_path(output, "adapter/adapter_config.json")));
        pw_buf_free(&best);
        pw_buf_free(&last);
    }
    pw_recipe_free(&r);
}
END_TEST

/* Prompts answered before the first step, every 4 and at the end; training is the same without them, and nothing in its memory is missing in the plan. */
START_TEST(samples)
{
    static const int steps[] = {0, 4, 8, 10};
    struct pw_recipe r;
    const char *with = test_path(test_tmpdir(), "with"), *without = test_path(test_tmpdir(), "without"), *prompts = test_path(test_tmpdir(), "prompts.jsonl");
    static const char rows[] = "{\"prompt\":\"turn abc:\"}\n{\"prompt\":\"the sky of day 1 is\"}\n";
    char train[4400];
    ck_ok(pw_file_write(prompts, rows, strlen(rows), true));
    snprintf(train, sizeof train, "steps: 10, batch_size: 4, accumulate: 1, samples: %s, sample_every: 4, sample_tokens: 12", prompts);
    make_recipe(&r, "train: " FIXTURES "/rows.jsonl, max_length: 40", train, with);
    ck_ok(train_once(&r, false));
    pw_recipe_free(&r);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        char name[64];
        size_t n = 0;
        snprintf(name, sizeof name, "samples/step-%d.jsonl", steps[i]);
        char *text = test_slurp(test_path(with, name), &n);
        ck_assert_msg(strstr(text, "\"prompt\":\"turn abc:\"") && strstr(text, "\"finish\":") && strchr(text, '\n') != strrchr(text, '\n'), "%s: %s", name, text);
        pw_free(text);
    }
    ck_assert(!pw_file_exists(test_path(with, "samples/step-3.jsonl")));
    make_recipe(&r, "train: " FIXTURES "/rows.jsonl, max_length: 40", "steps: 10, batch_size: 4, accumulate: 1", without);
    ck_ok(train_once(&r, false));
    same_file(with, without, "adapter/adapter_model.safetensors");
    pw_recipe_free(&r);
    snprintf(train, sizeof train, "steps: 2, samples: %s, sample_tokens: 60", prompts);
    make_recipe(&r, "train: " FIXTURES "/rows.jsonl, max_length: 40", train, test_path(test_tmpdir(), "long"));
    ck_fails(train_once(&r, false), PW_E_REFUSED, "leaves no room for 60 more in a context of 64");
    pw_recipe_free(&r);
}
END_TEST

/* ---- a device that fails ---- */

enum fault { LAUNCH, STICKY, UPDATE, NAN_GRADIENT, NAN_LOSS };
static struct { enum fault fault; int calls, at; const struct pw_ops *own; struct pw_backend backend; } broken;

static int broken_glu_bwd(struct pw_dev *dev, struct pw_tensor dgate, struct pw_tensor dup, struct pw_tensor dout, struct pw_tensor gate, struct pw_tensor up, enum pw_act act)
{
    PW_PASS(broken.own->glu_bwd(dev, dgate, dup, dout, gate, up, act));
    if ((broken.fault != LAUNCH && broken.fault != NAN_GRADIENT) || ++broken.calls != broken.at)
        return 0;
    if (broken.fault == LAUNCH)
        return pw_error(PW_E_FAIL, "glu_bwd: launch on device %s failed: as the test wants it", dev->kind);
    return broken.fault == NAN_GRADIENT ? pw_fill(dev, dgate, NAN) : 0;
}

static int broken_glu_fwd(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor gate, struct pw_tensor up, enum pw_act act)
{
    PW_PASS(broken.own->glu_fwd(dev, out, gate, up, act));
    return broken.fault == NAN_LOSS && ++broken.calls == broken.at ? pw_fill(dev, out, NAN) : 0;
}

static int broken_adamw(struct pw_dev *dev, struct pw_tensor p, struct pw_tensor m, struct pw_tensor v, struct pw_tensor g, const struct pw_adamw *h)
{
    if (broken.fault == UPDATE && h->step == 3 && ++broken.calls == broken.at)
        return pw_error(PW_E_FAIL, "adamw: launch on device %s failed: as the test wants it", dev->kind);
    return broken.own->adamw(dev, p, m, v, g, h);
}

/* From the given call on nothing can be read any more. */
static int broken_get(struct pw_dev *dev, void *host, const void *device, size_t bytes)
{
    if (broken.fault == STICKY && ++broken.calls >= broken.at)
        return pw_error(PW_E_FAIL, "device %s: copy from the device: as the test wants it", dev->kind);
    return broken.backend.get(dev, host, device, bytes);
}

static int train_broken(const struct pw_recipe *r, const char *kind, enum fault fault, int at)
{
    const struct pw_dev_options options = {.kind = kind, .threads = 1};
    struct pw_dev *dev = NULL;
    struct pw_run run = {0};
    struct pw_run_result result;
    int rc = 0;
    PW_PASS_OUT(pw_dev_open(&dev, &options));
    broken.fault = fault, broken.calls = 0, broken.at = at, broken.own = dev->ops, broken.backend = *dev->backend;
    struct pw_ops ops = *dev->ops;
    struct pw_backend backend = *dev->backend;
    ops.glu_bwd = broken_glu_bwd, ops.glu_fwd = broken_glu_fwd, ops.adamw = broken_adamw;
    backend.get = broken_get;
    dev->ops = &ops;
    dev->backend = &backend;
    const struct pw_run_options opt = {.recipe = r, .dev = dev};
    PW_PASS_OUT(pw_run_open(&run, &opt));
    PW_PASS_OUT(pw_run_train(&run, &result));
out:
    pw_run_close(&run);
    if (dev) {
        dev->ops = broken.own;
        dev->backend = &broken.backend;
        pw_dev_close(dev);
    }
    return rc;
}

/* What is said, the newest state that is left, and that going on from it ends in the same bytes as a run without a fault. Blocks of the model: 2, passes of a
 * step: 2, so that a step has 4 backward passes of a block, and 8 gated products (backward makes them again). */
static void faults_on(const char *kind)
{
    static const char data[] = "train: " FIXTURES "/rows.jsonl, max_length: 40", train[] = "steps: 6, batch_size: 2, accumulate: 2, save_every: 2, warmup: 0, spike: 0, checkpointing: false";
    static const struct { enum fault fault; int at, code, saved; const char *says[4]; } cases[] = {
        {LAUNCH, 4 * 3 + 2, PW_E_FAIL, 3, {"step 4, pass 1", "layer 0", "glu_bwd: launch on device ", "state of step 3 saved in "}},
        {LAUNCH, 4 * 3 + 2, PW_E_FAIL, 3, {"computing over ", " (", "backward", "as the test wants it"}},
        {UPDATE, 5, PW_E_FAIL, 2, {"the update of step 3", "updating model.layers.", "adamw: launch on device ", "; step 3 was half done and is not saved; the newest saved state is that of step 2, in "}},
        {NAN_GRADIENT, 4 * 4 + 1, PW_E_NUMERIC, 4, {"step 5: the gradient of model.layers.1.mlp.gate_proj.lora_B is not finite (expected a number, got NaN)", "rows ", "", "state of step 4 saved in "}},
        {NAN_LOSS, 8 * 3 + 1, PW_E_NUMERIC, 3, {"step 4: the loss is not finite (expected a number, got NaN) though all that is trained is, rows ", "", "", "state of step 3 saved in "}},
    };
    const char *whole = test_path(test_tmpdir(), "whole");
    struct pw_recipe r, w;
    make_recipe(&w, data, train, whole);
    ck_assert_int_ge(train_broken(&w, kind, LAUNCH, 0), 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *output = test_path(test_tmpdir(), "run");
        char state[64];
        make_recipe(&r, data, train, output);
        const int rc = train_broken(&r, kind, cases[i].fault, cases[i].at);
        for (int k = 0; k < 4; k++)
            ck_assert_msg(rc == cases[i].code && strstr(pw_error_text(), cases[i].says[k]), "case %zu: %d: %s (expected \"%s\")", i, rc, pw_error_text(), cases[i].says[k]);
        snprintf(state, sizeof state, "checkpoints/step-%d.h5", cases[i].saved);
        ck_assert_msg(pw_file_exists(test_path(output, state)), "case %zu: no %s", i, state);
        snprintf(state, sizeof state, "checkpoints/step-%d.h5", cases[i].saved + 1);
        ck_assert(!pw_file_exists(test_path(output, state)));
        if (strcmp(kind, "cpu") == 0) {
            ck_ok(train_once(&r, true));
            same_file(whole, output, "adapter/adapter_model.safetensors");
        }
        pw_recipe_free(&r);
    }
    pw_recipe_free(&w);
}

START_TEST(faults) { faults_on("cpu"); }
END_TEST
START_TEST(faults_of_kernels) { faults_on("simt"); }
END_TEST

/* Nothing can be read after the fault: the states from before are left as they are. */
START_TEST(sticky)
{
    struct pw_recipe r;
    const char *output = test_path(test_tmpdir(), "run");
    make_recipe(&r, "train: " FIXTURES "/rows.jsonl, max_length: 40", "steps: 6, batch_size: 2, accumulate: 1, save_every: 2, warmup: 0", output);
    ck_fails(train_broken(&r, "cpu", STICKY, 8), PW_E_FAIL, "device cpu: copy from the device");
    ck_assert_msg(strstr(pw_error_text(), "; the state of step 3 cannot be read any more; the newest saved state is that of step 2, in ") && strstr(pw_error_hint_text(), "--resume goes on from the newest"), "%s, %s", pw_error_text(), pw_error_hint_text());
    ck_assert_msg(pw_file_exists(test_path(output, "checkpoints/step-2.h5")) && !pw_file_exists(test_path(output, "checkpoints/step-3.h5")), "%s", pw_error_text());
    ck_ok(train_once(&r, true));
    pw_recipe_free(&r);
}
END_TEST

START_TEST(pretraining)
{
    const char *dir = test_tmpdir(), *output = test_path(dir, "run"), *path = test_path(dir, "rows.jsonl");
    static const char rows[] = "{\"text\": \"the sky is blue and wide\"}\n{\"text\": \"12+3=15\"}\n";
    char text[512];
    struct pw_recipe r;
    struct pw_arena a;
    struct pw_log_line *lines = NULL;
    size_t n = 0;
    ck_ok(pw_file_write(path, rows, strlen(rows), true));
    snprintf(text, sizeof text, "train: %s, max_length: 40, format: text", path);
    make_recipe(&r, text, "objective: pretrain, epochs: 2, batch_size: 2, accumulate: 1", output);
    ck_ok(train_once(&r, false));
    pw_arena_init(&a);
    ck_ok(pw_runlog_read(&a, test_path(output, "log.jsonl"), &lines, &n));
    ck_assert_uint_ge(n, 2);
    ck_assert_int_eq(lines[0].s.trained_tokens, lines[0].s.tokens - 2);
    pw_arena_free(&a);
    pw_recipe_free(&r);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("run");
    TCase *c = tcase_create("whole runs");
    tcase_set_timeout(c, 300);
    tcase_add_test(c, killed_and_resumed);
    tcase_add_test(c, opening_without_memory);
    tcase_add_loop_test(c, compute_bf16, 0, 2);
    tcase_add_test(c, refusals);
    tcase_add_test(c, patience);
    tcase_add_test(c, samples);
    tcase_add_test(c, pretraining);
    tcase_add_test(c, faults);
    if (!getenv("PW_FAST")) tcase_add_test(c, faults_of_kernels);
    tcase_add_test(c, sticky);
    suite_add_tcase(s, c);
    return test_run(s);
}
