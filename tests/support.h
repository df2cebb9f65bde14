/* What the test programs share: where real data lies, skips that are counted, temporary folders, comparisons that NaN fails,
 * the sweep of failing allocations, and main's last lines. */
#ifndef PW_TESTS_SUPPORT_H
#define PW_TESTS_SUPPORT_H

#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Path of a file or folder of shared/ (data that is not part of the repository): under $PW_SHARED when that is set, else
 * ../shared, else shared. NULL when it is not there. The text is static; 64 results live at once. */
const char *test_shared(const char *rel);
/* Prints "skipped: ..." and counts it; the caller returns. Counted across forked tests; test_run prints the sum. */
void test_skip(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The device that tests of the CUDA sources run on: $PW_OP_DEVICE when that names a card, else "simt". */
const char *test_card(void);
/* The order of threads for it: as given on simt, none on a card. */
const char *test_card_order(const char *order);
/* That device opened with two threads, its threads in this order. False, and a skip counted, where there is no emulation; a card that was asked for by name must be there. */
struct pw_dev;
bool test_open_card(struct pw_dev **dev, const char *order);
/* A new empty folder, removed when test_run ends. Static text; 64 results live at once. */
const char *test_tmpdir(void);
/* Path of a name inside a folder, static as above. */
const char *test_path(const char *dir, const char *name);
/* Whole file, NUL-terminated; fails the test when it cannot be read. Free with pw_free. */
char *test_slurp(const char *path, size_t *bytes);
/* Fails the test unless both files hold the same bytes. */
void test_same_file(const char *a, const char *b);

/* Runs the suite and prints Check's summary. Returns main's status. */
int test_run(Suite *s);

/* |a - b| <= absolute + relative * |b|; false for NaN on either side (use this, not fabs(...) > ...). */
bool test_close(double a, double b, double absolute, double relative);
#define ck_close(a, b, absolute, relative) do { \
        double ck_a_ = (a), ck_b_ = (b); \
        ck_assert_msg(test_close(ck_a_, ck_b_, (absolute), (relative)), "%s = %.17g, expected %.17g (within %g + %g of it)", #a, ck_a_, \
                      ck_b_, (double)(absolute), (double)(relative)); \
    } while (0)
/* The largest |a[i] - b[i]| / (absolute + relative * |b[i]|) over n floats; infinity when there is a NaN. Pass when <= 1. */
double test_worst(const float *a, const float *b, size_t n, double absolute, double relative);
void test_fill_nan(float *x, size_t n);

/* The call must succeed; prints the trail otherwise. */
#define ck_ok(call) do { \
        int ck_rc_ = (call); \
        ck_assert_msg(ck_rc_ == 0, "%s: %d: %s", #call, ck_rc_, pw_error_text()); \
    } while (0)
/* The call must fail with code, and its trail must hold the text. */
#define ck_fails(call, code, text) do { \
        int ck_rc_ = (call); \
        ck_assert_msg(ck_rc_ == (code), "%s: got %d, expected %d: %s", #call, ck_rc_, (int)(code), pw_error_text()); \
        ck_assert_msg(strstr(pw_error_text(), (text)) != NULL, "%s: the message is \"%s\", expected \"%s\" in it", #call, pw_error_text(), \
                      (text)); \
    } while (0)

/* Fails allocation 1, 2, 3... of work(context), first only that one and then that and all later ones, until work succeeds without a
 * failure. Each failed run must return PW_E_NOMEM with a message; work frees what it made, in both cases. A run may also succeed in spite
 * of a failed allocation when it can do without. Leaks are seen by the sanitizer build. Returns the number of allocations of a whole run. */
int64_t test_sweep_nomem(int (*work)(void *context), void *context);

#endif
