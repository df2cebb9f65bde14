/* Every op on every device that this machine can open against ref in double, and ref's backward passes against finite differences.
 * PW_OP_CASE=part-of-a-name runs the cases that match. */
#include "tests/op_cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "tests/support.h"

static const struct pw_dev_options devices[] = {
    { .kind = "cpu", .threads = 2, .level = "generic" }, { .kind = "cpu", .threads = 2, .level = "avx2" }, { .kind = "cpu", .threads = 2, .level = "avx512" },
    { .kind = "simt", .threads = 2, .level = "" },
};

static bool wanted(const char *name)
{
    const char *filter = getenv("PW_OP_CASE");
    return !filter || strstr(name, filter);
}

START_TEST(device_agrees_with_ref)
{
    const struct pw_dev_options *opt = &devices[_i];
    struct pw_dev *ref, *dev;
    int failed = 0;
    ck_assert_int_eq(pw_dev_open(&ref, &(struct pw_dev_options){ .kind = "ref" }), 0);
    int rc = pw_dev_open(&dev, opt);
    if (rc == PW_E_UNSUPPORTED) {
        test_skip("%s %s: %s", opt->kind, opt->level, pw_error_text());
        pw_dev_close(ref);
        return;
    }
    ck_assert_int_eq(rc, 0);
    for (int i = 0; i < op_cases_count(); i++) {
        char name[160], why[512];
        op_case_name(op_cases_at(i), name, sizeof name);
        if (!wanted(name) || op_case_compare(op_cases_at(i), ref, dev, why, sizeof why) == 0) continue;
        if (strstr(why, "has no kernel for it yet")) {
            test_skip("%s: %s", opt->kind, name);
            continue;
        }
        printf("%s %s: %s: %s\n  again: PW_OP_CASE='%s'\n", opt->kind, opt->level, name, why, name);
        failed++;
    }
    pw_dev_close(dev);
    pw_dev_close(ref);
    fflush(stdout);
    ck_assert_int_eq(failed, 0);
}
END_TEST

START_TEST(gradients_agree_with_differences)
{
    struct pw_dev *ref;
    int failed = 0;
    ck_assert_int_eq(pw_dev_open(&ref, &(struct pw_dev_options){ .kind = "ref" }), 0);
    for (int i = 0; i < op_cases_count(); i++) {
        char name[160], why[512];
        op_case_name(op_cases_at(i), name, sizeof name);
        if (!(op_cases_at(i)->flags & CASE_GRAD) || !wanted(name) || op_case_gradient(op_cases_at(i), ref, why, sizeof why) == 0) continue;
        printf("gradient: %s: %s\n  again: PW_OP_CASE='%s'\n", name, why, name);
        failed++;
    }
    pw_dev_close(ref);
    fflush(stdout);
    ck_assert_int_eq(failed, 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("op");
    TCase *t = tcase_create("cases");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, device_agrees_with_ref, 0, (int)(sizeof devices / sizeof *devices));
    tcase_add_test(t, gradients_agree_with_differences);
    suite_add_tcase(s, t);
    return test_run(s);
}
