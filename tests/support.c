/* See support.h. Only here do tests read the environment. */
#include "tests/support.h"

#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "kernels/dev.h"

enum { RING = 64 };

static int *skips;          /* shared with Check's children */
static char top[PATH_MAX];  /* the folder that holds this run's temporary folders */

static char *ring(void)
{
    static char texts[RING][PATH_MAX];
    static unsigned at;
    return texts[at++ % RING];
}

const char *test_shared(const char *rel)
{
    const char *given = getenv("PW_SHARED"), *places[] = { given, "../shared", "shared" };
    for (size_t i = given ? 0 : 1; i < (given ? 1 : 3); i++) {
        char *path = ring();
        if (snprintf(path, PATH_MAX, "%s/%s", places[i], rel) < PATH_MAX && access(path, R_OK) == 0) return path;
    }
    return NULL;
}

void test_skip(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("skipped: ", stdout);
    vprintf(fmt, ap);
    putchar('\n');
    va_end(ap);
    fflush(stdout);
    if (skips) __atomic_add_fetch(skips, 1, __ATOMIC_RELAXED);
}

const char *test_tmpdir(void)
{
    char *path = ring();
    ck_assert_msg(top[0], "test_tmpdir is for tests run by test_run");
    ck_assert_int_lt(snprintf(path, PATH_MAX, "%s/XXXXXX", top), PATH_MAX);
    ck_assert_msg(mkdtemp(path) != NULL, "%s cannot be made", path);
    return path;
}

const char *test_path(const char *dir, const char *name)
{
    char *path = ring();
    ck_assert_int_lt(snprintf(path, PATH_MAX, "%s/%s", dir, name), PATH_MAX);
    return path;
}

char *test_slurp(const char *path, size_t *bytes)
{
    struct pw_buf b = { 0 };
    ck_ok(pw_file_read(path, 0, &b));
    if (bytes) *bytes = b.len;
    return b.data;
}

int test_run(Suite *s)
{
    const char *tmp = getenv("TMPDIR");
    void *page = mmap(NULL, sizeof *skips, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    skips = page == MAP_FAILED ? NULL : page;
    snprintf(top, sizeof top, "%s/pw-test-XXXXXX", tmp && tmp[0] ? tmp : "/tmp");
    if (!skips || !mkdtemp(top)) {
        fprintf(stderr, "%s cannot be made\n", top);
        return 1;
    }
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    if (pw_dir_remove(top) < 0) printf("%s\n", pw_error_text());
    if (*skips) printf("%d skipped\n", *skips);
    return failed ? 1 : 0;
}

bool test_close(double a, double b, double absolute, double relative) { return fabs(a - b) <= absolute + relative * fabs(b); }

double test_worst(const float *a, const float *b, size_t n, double absolute, double relative)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double error = fabs((double)a[i] - b[i]), bound = absolute + relative * fabs((double)b[i]);
        double r = error <= bound && bound == 0 ? 0 : error / bound;
        if (isnan(r)) return INFINITY;
        if (r > worst) worst = r;
    }
    return worst;
}

void test_fill_nan(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = NAN;
}

int64_t test_sweep_nomem(int (*work)(void *context), void *context)
{
    int64_t whole = 0;
    for (int forever = 0; forever <= 1; forever++) {
        for (int64_t n = 1;; n++) {
            pw_error_clear();
            pw_fault_set(n, forever);
            int rc = work(context);
            int64_t seen = pw_fault_count();
            pw_fault_set(0, false);
            if (seen < n) { /* the failure was never reached: a whole run */
                ck_assert_msg(rc == 0, "without a failed allocation: %d: %s", rc, pw_error_text());
                whole = seen;
                break;
            }
            ck_assert_msg(rc == 0 || rc == PW_E_NOMEM, "allocation %lld failed: got %d (%s), expected PW_E_NOMEM", (long long)n, rc,
                          pw_error_text());
            ck_assert_msg(rc == 0 || pw_error_text()[0], "allocation %lld failed without a message", (long long)n);
            ck_assert_msg(n < 100000, "more than 100000 allocations: sweep something smaller");
        }
    }
    return whole;
}

const char *test_card(void)
{
    const char *asked = getenv("PW_OP_DEVICE");
    return asked && strncmp(asked, "cuda", 4) == 0 ? asked : "simt";
}

const char *test_card_order(const char *order)
{
    return strcmp(test_card(), "simt") == 0 ? order : "";
}

bool test_open_card(struct pw_dev **dev, const char *order)
{
    const struct pw_dev_options opt = {.kind = test_card(), .threads = 2, .level = test_card_order(order)};
    int rc = pw_dev_open(dev, &opt);
    if (rc == PW_E_REFUSED && strcmp(opt.kind, "simt") == 0) {
        test_skip("%s: %s", opt.kind, pw_error_text());
        return false;
    }
    ck_assert_msg(rc == 0, "%s: %s", opt.kind, pw_error_text());
    return true;
}

void test_same_file(const char *a, const char *b)
{
    size_t n = 0, m = 0;
    char *x = test_slurp(a, &n), *y = test_slurp(b, &m);
    ck_assert_msg(n == m && memcmp(x, y, n) == 0, "%s and %s differ", a, b);
    pw_free(x);
    pw_free(y);
}
