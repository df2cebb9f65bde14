/* Choices of products in training: measured for the shapes of the recipe and kept; obeyed in both passes; and a run that was stopped goes on with what it
 * began with, whatever the file of choices says by then, and ends with the same bytes. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "kernels/backend.h"
#include "tests/support.h"
#include "train/run.h"

#define FIXTURES "tests/fixtures/train_golden"

struct job { const char *output, *products, *stop_at, *rows; bool given, resume, force; };

static bool stop(void *ctx) /* once the file is there */
{
    const char *path = ctx;
    return path && pw_file_exists(path);
}

static void make_recipe(struct pw_recipe *r, const char *output, const char *rows)
{
    char text[1024];
    snprintf(text, sizeof text,
             "model: %s\nadapter: {r: 4, alpha: 8, dropout: 0.1, targets: %s}\ndata: {train: %s, format: completion, max_length: 24, packing: true}\n"
             "train: {steps: 2, batch_size: %d, lr: 1.0e-2, save_every: 1, eval_every: 0, memory: as_given}\noutput: %s\n", FIXTURES "/model", rows ? "[q_proj]" : "all-linear", rows ? rows : FIXTURES "/rows.jsonl", rows ? 6 : 1, output);
    ck_ok(pw_recipe_parse(r, text, strlen(text), "test", NULL, 0));
}

static int train(struct pw_dev *dev, const struct job *j)
{
    struct pw_recipe recipe;
    struct pw_run run = {0};
    struct pw_run_result result;
    int rc = 0;
    make_recipe(&recipe, j->output, j->rows);
    const struct pw_run_options opt = {.recipe = &recipe, .dev = dev, .resume = j->resume, .force = j->force, .products = j->products, .products_given = j->given,
                                       .stop = stop, .stop_ctx = (void *)(uintptr_t)j->stop_at};
    PW_PASS_OUT(pw_run_open(&run, &opt));
    PW_PASS_OUT(pw_run_train(&run, &result));
    ck_assert(result.planned_bytes > 0 && result.peak_bytes > 0);
out:
    pw_run_close(&run);
    pw_recipe_free(&recipe);
    return rc;
}

static int64_t some_driver(struct pw_dev *d) { (void)d; return 13000; }

/* A device that is as if its times meant something. */
static struct pw_dev *with_times(struct pw_dev *dev, struct pw_backend *row)
{
    *row = *dev->backend;
    row->driver = some_driver;
    dev->backend = row;
    return dev;
}

/* What a run measures, for every shape and both passes: into `path`. */
static void measure(const char *path, bool given, size_t want)
{
    struct pw_dev *dev = NULL;
    struct pw_backend row;
    struct pw_recipe recipe;
    struct pw_run run;
    ck_ok(pw_dev_open(&dev, &(struct pw_dev_options){.kind = "simt", .threads = 1}));
    const struct pw_backend *own = dev->backend;
    make_recipe(&recipe, test_path(test_tmpdir(), "never"), NULL);
    const struct pw_run_options opt = {.recipe = &recipe, .dev = with_times(dev, &row), .products = path, .products_given = given};
    ck_ok(pw_run_open(&run, &opt));
    ck_assert_uint_eq(run.choices.n, want ? want : run.choices.n);
    ck_assert(run.choices.n > 0 && run.choices.n % 2 == 0 && run.products.len > 0);
    ck_assert_msg(dev->scratch_bytes == 0, "measuring leaves %zu bytes of scratch that no plan has", dev->scratch_bytes);
    size_t backward = 0;
    for (size_t i = 0; i < run.choices.n; i++) {
        ck_assert(run.choices.list[i].rows == 32); /* a pass has 24 rows at most */
        ck_assert(run.choices.list[i].seconds[0] > 0 && run.choices.list[i].seconds[1] > 0);
        backward += run.choices.list[i].backward;
    }
    ck_assert_uint_eq(2 * backward, run.choices.n);
    pw_run_close(&run);
    dev->backend = own;
    pw_dev_close(dev);
    pw_recipe_free(&recipe);
}

/* The measured list with one way for all, as a file of this device. */
static void one_way(struct pw_dev *dev, const char *measured, enum pw_way way, const char *path)
{
    struct pw_choices c;
    struct pw_backend row;
    const struct pw_backend *own = dev->backend;
    ck_ok(pw_choices_read(&c, with_times(dev, &row), measured));
    dev->backend = own;
    for (size_t i = 0; i < c.n; i++) c.list[i].way = way;
    ck_ok(pw_choices_write(&c, dev, path));
    pw_choices_free(&c);
}

START_TEST(measured_and_kept)
{
    struct pw_choices c;
    struct pw_backend row;
    struct pw_dev *dev = NULL;
    const char *path = test_path(test_tmpdir(), "card.json");
    measure(path, false, 0);
    ck_ok(pw_dev_open(&dev, &(struct pw_dev_options){.kind = "simt", .threads = 1}));
    const struct pw_backend *own = dev->backend;
    ck_ok(pw_choices_read(&c, with_times(dev, &row), path));
    measure(path, true, c.n);   /* nothing anew: the times are those of the file */
    struct pw_choices again;
    ck_ok(pw_choices_read(&again, dev, path));
    ck_assert(again.n == c.n && memcmp(again.list, c.list, c.n * sizeof *c.list) == 0);
    dev->backend = own;
    const struct job of_another = {.output = test_path(test_tmpdir(), "other"), .products = path, .given = true};
    ck_fails(train(dev, &of_another), PW_E_REFUSED, "driver: expected 0, got 13000");
    ck_assert(!pw_file_exists(of_another.output));
    pw_error_clear();
    const struct job absent = {.output = of_another.output, .products = test_path(test_tmpdir(), "absent"), .given = true};
    ck_fails(train(dev, &absent), PW_E_REFUSED, "there is no such file");
    pw_error_clear();
    pw_dev_close(dev);
    ck_ok(pw_dev_open(&dev, &(struct pw_dev_options){.kind = "cpu", .threads = 1}));
    ck_fails(train(dev, &of_another), PW_E_USAGE, "device cpu has one way of multiplying");
    pw_error_clear();
    pw_dev_close(dev);
    pw_choices_free(&c);
    pw_choices_free(&again);
}
END_TEST

START_TEST(resumed_as_begun)
{
    const char *tmp = test_tmpdir(), *measured = test_path(tmp, "measured.json"), *file = test_path(tmp, "given.json"), *adapter = "adapter/adapter_model.safetensors";
    const char *whole = test_path(tmp, "whole"), *rule = test_path(tmp, "rule"), *cut = test_path(tmp, "cut"), *state = test_path(cut, "checkpoints/step-1.h5");
    const char *kept = test_path(cut, "products.json");
    struct pw_dev *dev = NULL;
    struct pw_buf a = {0}, b = {0}, text = {0};
    measure(measured, false, 0);
    ck_ok(pw_dev_open(&dev, &(struct pw_dev_options){.kind = "simt", .threads = 1}));
    one_way(dev, measured, PW_WAY_DECODED, file);
    ck_ok(train(dev, &(struct job){.output = rule}));
    ck_assert(!pw_file_exists(test_path(rule, "products.json")));
    ck_ok(train(dev, &(struct job){.output = whole, .products = file, .given = true}));
    ck_ok(pw_file_read(test_path(rule, adapter), 0, &a));
    ck_ok(pw_file_read(test_path(whole, adapter), 0, &b));
    ck_assert_msg(a.len == b.len && memcmp(a.data, b.data, a.len) != 0, "the choices change nothing, and so the test tells nothing");
    ck_ok(pw_file_read(test_path(whole, "products.json"), 0, &text));

    ck_assert_int_eq(train(dev, &(struct job){.output = cut, .products = file, .given = true, .stop_at = state}), PW_E_INTERRUPTED);
    pw_error_clear();
    ck_assert(pw_file_exists(state) && !pw_file_exists(test_path(cut, adapter)));
    test_same_file(test_path(whole, "products.json"), kept);
    one_way(dev, measured, PW_WAY_FUSED, file);
    ck_assert_int_eq(remove(kept), 0);
    const struct job go_on = {.output = cut, .products = file, .given = true, .resume = true};
    ck_fails(train(dev, &go_on), PW_E_REFUSED, "products.json was changed since the state was saved");
    pw_error_clear();
    ck_ok(pw_file_write(kept, text.data, text.len - 5, true));
    ck_fails(train(dev, &go_on), PW_E_FORMAT, "products.json");
    pw_error_clear();
    ck_ok(pw_file_write(kept, text.data, text.len, true));
    ck_ok(train(dev, &go_on));
    test_same_file(test_path(whole, adapter), test_path(cut, adapter));
    test_same_file(test_path(whole, "products.json"), kept);
    pw_dev_close(dev);
    pw_buf_free(&a);
    pw_buf_free(&b);
    pw_buf_free(&text);
}
END_TEST

/* Attention by the library, as a file says: in the passes of training, and kept with the run. A run that is cut and goes on ends in the bytes of the whole one,
 * and does not go on where the library is not there. */
static int no_library(struct pw_dev *dev, const struct pw_choice *list, size_t n, const struct pw_attn_choice *attn, size_t n_attn)
{
    (void)dev, (void)list, (void)n, (void)attn;
    return n_attn > 0 ? pw_error(PW_E_REFUSED, "libcudnn.so.9 is not on this machine") : 0;
}

START_TEST(attention_resumed_as_begun)
{
    const char *tmp = test_tmpdir(), *file = test_path(tmp, "given.json"), *rows = test_path(tmp, "rows.jsonl"), *adapter = "adapter/adapter_model.safetensors";
    const char *whole = test_path(tmp, "whole"), *rule = test_path(tmp, "rule"), *cut = test_path(tmp, "cut"), *state = test_path(cut, "checkpoints/step-1.h5");
    struct pw_attn_choice list[3];
    struct pw_choices c = {.attn = list, .n_attn = 3};
    struct pw_dev *dev = NULL;
    struct pw_buf a = {0}, b = {0}, text = {0}, long_rows = {0};
    size_t n = 0;
    char *some = test_slurp(FIXTURES "/rows.jsonl", &n);
    pw_buf_add(&long_rows, some, n); /* enough for two steps */
    ck_ok(pw_file_write(rows, long_rows.data, long_rows.len, true));
    ck_ok(pw_dev_open(&dev, &(struct pw_dev_options){.kind = "simt", .threads = 1}));
    ck_ok(train(dev, &(struct job){.output = rule, .rows = rows}));
    for (int i = 0; i < 3; i++) {
        list[i] = (struct pw_attn_choice){.way = PW_ATTN_LIBRARY, .seconds = {2, 1}};
        ck_assert(pw_attn_shape_of(&list[i].shape, 4, 2, 8, 0, 0, 6 * 24, i == 0 ? 1 : i == 1 ? 8 : 64));
    }
    ck_ok(pw_choices_write(&c, dev, file));
    ck_ok(train(dev, &(struct job){.output = whole, .products = file, .given = true, .rows = rows}));
    ck_ok(pw_file_read(test_path(rule, adapter), 0, &a));
    ck_ok(pw_file_read(test_path(whole, adapter), 0, &b));
    ck_assert_msg(a.len == b.len && memcmp(a.data, b.data, a.len) != 0, "the choices change nothing, and so the test tells nothing");
    ck_ok(pw_file_read(test_path(whole, "products.json"), 0, &text));
    ck_assert(text.len > 0 && strstr(text.data, "\"library\""));

    ck_assert_int_eq(train(dev, &(struct job){.output = cut, .products = file, .given = true, .stop_at = state, .rows = rows}), PW_E_INTERRUPTED);
    pw_error_clear();
    const struct job go_on = {.output = cut, .resume = true, .products = file, .rows = rows};
    struct pw_backend row = *dev->backend;
    const struct pw_backend *own = dev->backend;
    row.choose = no_library;
    dev->backend = &row;
    ck_fails(train(dev, &go_on), PW_E_REFUSED, "while choosing the ways of products and attention: libcudnn.so.9 is not on this machine");
    pw_error_clear();
    dev->backend = own;
    ck_assert_int_eq(remove(file), 0);
    ck_ok(train(dev, &go_on));
    test_same_file(test_path(whole, adapter), test_path(cut, adapter));
    test_same_file(test_path(whole, "products.json"), test_path(cut, "products.json"));
    pw_dev_close(dev);
    pw_free(some);
    pw_buf_free(&a);
    pw_buf_free(&b);
    pw_buf_free(&text);
    pw_buf_free(&long_rows);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("run_products");
    TCase *t = tcase_create("run_products");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, measured_and_kept);
    tcase_add_test(t, resumed_as_begun);
    tcase_add_test(t, attention_resumed_as_begun);
    suite_add_tcase(s, t);
    return test_run(s);
}
