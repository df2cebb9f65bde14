/* Every op on every device that this machine can open against ref in double, and ref's backward passes against finite differences.
 * PW_OP_CASE=part-of-a-name runs the cases that match. PW_OP_DEVICE=kind and PW_OP_LEVEL=level (of simt: the order of the threads) choose devices and
 * leave the differences out; "ref" chooses the differences alone. PW_FAST leaves out what is large: the sanitizers' share, with odd and aligned shapes of everything and several tiles of most. */
#include "tests/op_cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "kernels/backend.h"
#include "kernels/cuda/hooks.h"
#include "tests/support.h"

/* Under ThreadSanitizer the emulation alone, one block at a time: what is looked for are races within a block, and OpenMP's own threads look like races. */
#if defined(__SANITIZE_THREAD__)
enum { TSAN = 1, SIMT_THREADS = 1, LIMIT_S = 1200 };
#else
enum { TSAN = 0, SIMT_THREADS = 2, LIMIT_S = 240 };
#endif

/* hooks: what is forced on a device of the CUDA sources, `only` for the cases whose name begins so. */
static const struct device { struct pw_dev_options opt; struct cuda_hooks hooks; const char *only; } devices[] = {
    { .opt = { .kind = "cpu", .threads = 2, .level = "generic" } }, { .opt = { .kind = "cpu", .threads = 2, .level = "avx2" } },
    { .opt = { .kind = "cpu", .threads = 2, .level = "avx512" } },
    { .opt = { .kind = "cpu", .threads = 2, .level = "avx512_bf16" } }, { .opt = { .kind = "cpu", .threads = 2, .level = "amx" } },
    { .opt = { .kind = "cpu", .threads = 2, .level = "amx_bf16" } },
    { .opt = { .kind = "simt", .threads = SIMT_THREADS, .level = "" } },
    { .opt = { .kind = "simt", .threads = SIMT_THREADS, .level = "reverse" }, .hooks = { .linear_path = CUDA_LINEAR_FUSED }, .only = "linear" },
    { .opt = { .kind = "simt", .threads = SIMT_THREADS, .level = "" }, .hooks = { .linear_path = CUDA_LINEAR_DECODED, .decoded_bytes = 20000 }, .only = "linear" },
    { .opt = { .kind = "simt", .threads = SIMT_THREADS, .level = "reverse" }, .hooks = { .decoded_bytes = 2000 }, .only = "experts" },
    { .opt = { .kind = "simt", .threads = SIMT_THREADS, .level = "" }, .hooks = { .attn_path = CUDA_ATTN_LIBRARY }, .only = "attn" },
    { .opt = { .kind = "simt", .threads = SIMT_THREADS, .level = "random:7" }, .hooks = { .head_rows = 32, .head_words = 64 }, .only = "head" },
};
enum { FAST_SIZE = 50000 };

/* What row i runs on, as the environment has it; kind NULL: not at all. The rows of simt serve a card too. */
static struct pw_dev_options options_of(int i)
{
    const char *kind = getenv("PW_OP_DEVICE"), *level = getenv("PW_OP_LEVEL");
    struct pw_dev_options opt = devices[i].opt;
    const bool simt = strcmp(opt.kind, "simt") == 0;
    if (TSAN && !simt) return (struct pw_dev_options){ 0 };
    if (kind && simt && strncmp(kind, "cuda", 4) == 0) opt = (struct pw_dev_options){ .kind = kind, .threads = 1, .level = "" };
    if (kind && strcmp(kind, opt.kind) != 0) return (struct pw_dev_options){ 0 };
    if (level) opt.level = level;
    return opt;
}

static void force(struct pw_dev *dev, const struct cuda_hooks *want)
{
    if (strcmp(dev->kind, "simt") != 0 && strcmp(dev->kind, "cuda") != 0) return;
    struct cuda_hooks *hooks = dev->impl;
    hooks->linear_path = want->linear_path;
    hooks->attn_path = want->attn_path;
    if (want->decoded_bytes) hooks->decoded_bytes = want->decoded_bytes;
    if (want->head_rows) hooks->head_rows = want->head_rows;
    if (want->head_words) hooks->head_words = want->head_words;
}

static bool wanted(const struct op_case *c, const char *name)
{
    const char *filter = getenv("PW_OP_CASE");
    const int64_t *p = c->p, size = p[0] * (p[1] > 1 ? p[1] : 1) * (p[2] > 1 ? p[2] : 1);
    return (!filter || strstr(name, filter)) && (!getenv("PW_FAST") || size <= FAST_SIZE);
}

START_TEST(device_agrees_with_ref)
{
    const struct pw_dev_options opt_of_row = options_of(_i), *opt = &opt_of_row;
    const char *only = devices[_i].only;
    struct pw_dev *ref, *dev;
    int failed = 0;
    if (!opt->kind) return;
    ck_assert_int_eq(pw_dev_open(&ref, &(struct pw_dev_options){ .kind = "ref" }), 0);
    int rc = pw_dev_open(&dev, opt);
    if (rc == PW_E_UNSUPPORTED) {
        test_skip("%s %s: %s", opt->kind, opt->level, pw_error_text());
        pw_dev_close(ref);
        return;
    }
    ck_assert_msg(rc == 0, "%s: %s", opt->kind, pw_error_text());
    if (devices[_i].hooks.attn_path == CUDA_ATTN_LIBRARY && dev->backend->attn_library(dev) == 0) {
        test_skip("%s: attention by cuDNN: libcudnn.so.9 is not there, or too old", opt->kind);
        pw_dev_close(dev);
        pw_dev_close(ref);
        return;
    }
    force(dev, &devices[_i].hooks);
    for (int i = 0; i < op_cases_count(); i++) {
        char name[160], why[512];
        op_case_name(op_cases_at(i), name, sizeof name);
        if (!wanted(op_cases_at(i), name) || (only && strncmp(name, only, strlen(only)) != 0)) continue;
        if (op_case_compare(op_cases_at(i), ref, dev, why, sizeof why) == 0) continue;
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
        if (!(op_cases_at(i)->flags & CASE_GRAD) || !wanted(op_cases_at(i), name) || op_case_gradient(op_cases_at(i), ref, why, sizeof why) == 0) continue;
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
    enum { ROWS = sizeof devices / sizeof *devices };
    int rows = 0;
    for (int i = 0; i < ROWS; i++) rows += options_of(i).kind != NULL;
    const char *only = getenv("PW_OP_DEVICE");
    const bool differences = !only || strcmp(only, "ref") == 0; /* "ref": the differences alone */
    if (!rows && !differences) {
        fprintf(stderr, "test_op: no device is called \"%s\"\n", getenv("PW_OP_DEVICE"));
        return 2;
    }
    tcase_set_timeout(t, LIMIT_S);
    if (rows) tcase_add_loop_test(t, device_agrees_with_ref, 0, ROWS);
    if (!TSAN && differences) tcase_add_test(t, gradients_agree_with_differences);
    suite_add_tcase(s, t);
    return test_run(s);
}
