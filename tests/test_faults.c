/* A card that fails, through the emulation's faults (kernels/simt/faults.h): whichever piece of memory is not there, whichever launch is refused, hangs the
 * card or writes NaN, a run stops with one message that says where, leaves no state that is not whole, and resumed it ends in the bytes of a run without a
 * fault. Faults are swept: each piece of memory, and launches at even distances over a whole run. PW_FAST: fewer of them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "infer/session.h"
#include "kernels/cuda/hooks.h"
#include "tests/support.h"
#include "train/run.h"

#define FIXTURES "tests/fixtures/train_golden"
#define ADAPTER "adapter/adapter_model.safetensors"

struct attempt { int rc; bool stepped; int64_t launches; };

/* One process' worth of a run on the emulation, with a fault such as "launch:40", or "". */
static struct attempt train(const char *output, const char *fault, bool resume)
{
    char text[1024], level[64];
    struct pw_recipe recipe;
    struct pw_run run = {0};
    struct pw_run_result result = {0};
    struct pw_dev *dev = NULL;
    struct attempt a = {0};
    int rc = 0;
    snprintf(text, sizeof text,
             "model: " FIXTURES "/model\nquant: nf4\nadapter: {r: 4, alpha: 8, dropout: 0.1}\ndata: {train: " FIXTURES "/rows.jsonl, format: completion, max_length: 40}\n"
             "train: {steps: 4, batch_size: 1, accumulate: 1, lr: 3.0e-3, warmup: 0, spike: 0, save_every: 2, eval_every: 0}\noutput: %s\n", output);
    ck_ok(pw_recipe_parse(&recipe, text, strlen(text), "faults", NULL, 0));
    snprintf(level, sizeof level, "forward,%s", fault);
    const struct pw_dev_options options = {.kind = "simt", .threads = 1, .level = level};
    PW_PASS_OUT(pw_dev_open(&dev, &options));
    const struct pw_run_options opt = {.recipe = &recipe, .dev = dev, .resume = resume};
    PW_PASS_OUT(pw_run_open(&run, &opt));
    PW_PASS_OUT(pw_run_train(&run, &result));
out:
    a.rc = rc;
    a.stepped = result.stepped;
    if (dev)
        a.launches = ((const struct cuda_hooks *)dev->impl)->launches;
    pw_run_close(&run);
    if (dev)
        pw_dev_close(dev);
    pw_recipe_free(&recipe);
    return a;
}

/* The adapter of a run without a fault. */
static char whole[4096];
static int64_t make_whole(void)
{
    snprintf(whole, sizeof whole, "%s", test_path(test_tmpdir(), "whole"));
    const struct attempt a = train(whole, "", false);
    ck_ok(a.rc);
    return a.launches;
}

static bool same_adapter(const char *output)
{
    size_t n = 0, m = 0;
    char *x = test_slurp(test_path(whole, ADAPTER), &n), *y = test_slurp(test_path(output, ADAPTER), &m);
    const bool same = n == m && memcmp(x, y, n) == 0;
    pw_free(x);
    pw_free(y);
    return same;
}

static bool says(const char *text) { return strstr(pw_error_text(), text) != NULL; }

/* ---- memory ---- */

/* Each piece of device memory in turn, with all after it: refused before anything is written. */
START_TEST(no_memory)
{
    int n = 0;
    for (bool more = true; more && n < 100;) {
        char fault[32];
        const char *output = test_path(test_tmpdir(), "run");
        snprintf(fault, sizeof fault, "memory:%d", ++n);
        const struct attempt a = train(output, fault, false);
        more = a.rc != 0;
        if (!more)
            break;
        ck_assert_msg(a.rc == (n == 1 ? PW_E_REFUSED : PW_E_NOMEM) && !a.stepped && (says("no memory for") || says("no memory left")), "%s: %d: %s", fault, a.rc, pw_error_text());
        ck_assert_msg(!pw_file_exists(output), "%s: the run folder is there", fault);
    }
    printf("%d pieces of device memory\n", n - 1);
    ck_assert_int_ge(n, 5);
    ck_assert_int_lt(n, 100);
}
END_TEST

/* ---- launches ---- */

/* The n-th of `of` places that are at even distances over all launches of a run. */
static int64_t place(int n, int of, int64_t launches) { return 1 + (2 * n + 1) * (launches - 1) / (2 * of); }
/* A launch of the update of step 2 of 4: there are 28 of them at its end, and steps are alike. */
static int64_t in_update(int64_t launches) { return launches / 2 - 10; }

static int how_many(int all) { return getenv("PW_FAST") ? (all + 3) / 4 : all; }

/* The message says what was being done, in which layer or step, on what; the state of the last whole step, if there is one. */
static void check_message(const char *fault, const struct attempt *a, const char *what)
{
    const char *pass = strstr(pw_error_text(), "ward pass");
    ck_assert_msg(a->rc == PW_E_FAIL && says(what) && (!a->stepped || says("step ")), "%s: %d: %s", fault, a->rc, pw_error_text());
    ck_assert_msg(!pass || says("layer ") || says("embed") || says("norm"), "%s: where? %s", fault, pw_error_text());
    ck_assert_msg(!a->stepped || says("state of step ") || says("state is that of step ") || says("no state was saved before"), "%s: nothing is said of a saved state: %s", fault, pw_error_text());
}

static void refused_or_lost(const char *kind, int all)
{
    const int64_t launches = make_whole();
    int failed = 0;
    for (int i = 0; i <= how_many(all); i++) {
        char fault[32];
        const char *output = test_path(test_tmpdir(), "run");
        snprintf(fault, sizeof fault, "%s:%lld", kind, (long long)(i == how_many(all) ? in_update(launches) : place(i, how_many(all), launches)));
        const struct attempt a = train(output, fault, false);
        if (a.rc == 0)
            continue; /* launches of empty grids are counted, and are none */
        failed++;
        ck_assert_msg(i < how_many(all) || says("; step 2 was half done and is not saved; no state was saved before"), "%s: %s", fault, pw_error_text());
        check_message(fault, &a, strcmp(kind, "lost") == 0 ? "the card is lost to this process" : "too many resources requested for launch");
        if (strcmp(kind, "launch") == 0 && a.stepped)
            ck_assert_msg(says("computing over ") && says(": launch on device simt failed: "), "%s: %s", fault, pw_error_text());
        if (!pw_file_exists(output))
            continue;
        const struct attempt again = train(output, "", true);
        ck_assert_msg(again.rc == 0 && same_adapter(output), "%s, resumed: %d: %s", fault, again.rc, again.rc ? pw_error_text() : "another adapter");
    }
    ck_assert_int_ge(failed, how_many(all) - 2);
}

START_TEST(refused_launches) { refused_or_lost("launch", 6); }
END_TEST
START_TEST(lost_card) { refused_or_lost("lost", 4); }
END_TEST

/* ---- NaN ---- */

/* Either the run says so, or what was written is read by nobody and the bytes are those of a run without. No saved state holds it. */
START_TEST(not_a_number)
{
    const int64_t launches = make_whole();
    int failed = 0;
    const int n = how_many(10);
    for (int i = 0; i <= n; i++) {
        char fault[32];
        const char *output = test_path(test_tmpdir(), "run");
        snprintf(fault, sizeof fault, "nan:%lld", (long long)(i == n ? in_update(launches) : place(i, n, launches)));
        const struct attempt a = train(output, fault, false);

        if (a.rc == 0) {
            ck_assert_msg(same_adapter(output), "%s: another adapter, and not a word", fault);
            continue;
        }
        failed++;
        ck_assert_msg(a.rc == PW_E_NUMERIC || a.rc == PW_E_FAIL, "%s: %d: %s", fault, a.rc, pw_error_text());
        if (!a.stepped)
            continue;
        ck_assert_msg(i < n || says("saving the state of step 2 to "), "%s: %s", fault, pw_error_text());
        ck_assert_msg(says("not finite") && (says("rows ") || says("the state of step ")), "%s: %s", fault, pw_error_text());
        const struct attempt again = train(output, "", true);
        ck_assert_msg(again.rc == 0 && same_adapter(output), "%s, resumed: %d: %s", fault, again.rc, again.rc ? pw_error_text() : "another adapter");
    }
    ck_assert_int_ge(failed, n / 2);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("faults");
    TCase *c = tcase_create("a card that fails");
    tcase_set_timeout(c, 600);
    tcase_add_test(c, no_memory);
    tcase_add_test(c, refused_launches);
    tcase_add_test(c, lost_card);
    tcase_add_test(c, not_a_number);
    suite_add_tcase(s, c);
    return test_run(s);
}
