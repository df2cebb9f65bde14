/* Errors, memory, text, random numbers, options, progress. */
#include <math.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/options.h"
#include "base/progress.h"
#include "base/rng.h"
#include "base/text.h"
#include "tests/support.h"

/* ---- errors ---- */
static int inner(int n)
{
    PW_CHECK(n < 3, PW_E_FORMAT, "n too large (less than 3, got %d)", n);
    return 0;
}

static int outer(int n)
{
    PW_TRY(inner(n), "reading layer %d", n);
    return 0;
}

/* The helpers on which other tests rely. */
START_TEST(helpers)
{
    float a[3] = { 1, 2, 3 }, b[3] = { 1, 2, 3.5f };
    ck_assert(test_close(1, 1, 0, 0) && !test_close(1, 1.1, 0.05, 0) && test_close(10, 10.1, 0, 0.011));
    ck_assert(!test_close(NAN, 1, 1e9, 0) && !test_close(1, NAN, 1e9, 1e9) && !test_close(NAN, NAN, 1, 1) && !test_close(INFINITY, 1, 1, 1));
    ck_assert(test_worst(a, a, 3, 0, 0) == 0 && test_worst(a, b, 3, 0.25, 0) == 2);
    test_fill_nan(a, 1);
    ck_assert(!(test_worst(a, b, 3, 1e9, 1e9) <= 1));
    ck_assert(!(test_worst(b, a, 3, 1e9, 1e9) <= 1));
}
END_TEST

START_TEST(error_trail)
{
    ck_assert_int_eq(outer(2), 0);
    ck_assert_int_eq(outer(7), PW_E_FORMAT);
    ck_assert_str_eq(pw_error_text(), "while reading layer 7: n too large (less than 3, got 7)");
    ck_assert_int_eq(pw_error_while(PW_E_FORMAT, "loading %s", "m"), PW_E_FORMAT);
    ck_assert_str_eq(pw_error_text(), "while loading m: while reading layer 7: n too large (less than 3, got 7)");
    pw_error_hint("take %d", 2);
    ck_assert_str_eq(pw_error_hint_text(), "take 2");
    pw_error(PW_E_IO, "new");
    ck_assert_str_eq(pw_error_text(), "new");
    ck_assert_str_eq(pw_error_hint_text(), "");
    pw_error_clear();
    ck_assert_str_eq(pw_error_text(), "");
}
END_TEST

START_TEST(error_escapes)
{
    pw_error(PW_E_IO, "a\x1b[31mb\nc\x7f\xc2\x9b" "d\xff \xc3\xa9 \xf0\x9f\xaa\x99");
    ck_assert_str_eq(pw_error_text(), "a\\x1b[31mb\\nc\\x7f\\xc2\\x9b" "d\\xff \xc3\xa9 \xf0\x9f\xaa\x99");
    char longer[9000];
    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = 0;
    pw_error(PW_E_IO, "%s", longer);
    ck_assert_uint_lt(strlen(pw_error_text()), 4096);
    for (int i = 0; i < 100; i++) pw_error_while(PW_E_IO, "%s", longer);
    ck_assert(strncmp(pw_error_text(), "while xxx", 9) == 0);
    pw_error_hint("%s", longer);
    ck_assert_uint_lt(strlen(pw_error_hint_text()), 1024);
}
END_TEST

START_TEST(error_status)
{
    ck_assert_int_eq(pw_error_exit_status(0), 0);
    ck_assert_int_eq(pw_error_exit_status(PW_E_FAIL), 1);
    ck_assert_int_eq(pw_error_exit_status(PW_E_FORMAT), 1);
    ck_assert_int_eq(pw_error_exit_status(PW_E_USAGE), 2);
    ck_assert_int_eq(pw_error_exit_status(PW_E_REFUSED), 3);
    ck_assert_int_eq(pw_error_exit_status(PW_E_INTERRUPTED), 130);
}
END_TEST

/* ---- memory ---- */
START_TEST(memory_sizes)
{
    size_t s = 5;
    int64_t i = 5;
    ck_assert(pw_mul_size(3, 4, &s) && s == 12);
    ck_assert(!pw_mul_size(SIZE_MAX, 2, &s) && s == 12);
    ck_assert(!pw_add_size(SIZE_MAX, 1, &s) && s == 12);
    ck_assert(pw_mul_i64(INT64_MAX, 1, &i) && i == INT64_MAX);
    ck_assert(!pw_mul_i64(-1, 2, &i) && !pw_mul_i64(INT64_MAX, 2, &i) && i == INT64_MAX);
    ck_assert_ptr_null(pw_alloc_zero(SIZE_MAX / 2, 4));
    ck_assert_ptr_null(pw_alloc(SIZE_MAX));
}
END_TEST

START_TEST(memory_arena)
{
    struct pw_arena a;
    pw_arena_init(&a);
    unsigned char *before = NULL;
    for (int i = 0; i < 2000; i++) {
        unsigned char *p = pw_arena_alloc(&a, (size_t)i * 7);
        ck_assert_ptr_nonnull(p);
        ck_assert_uint_eq((uintptr_t)p % 64, 0);
        ck_assert(p != before);
        ck_assert(i == 0 || (p[0] == 0 && memcmp(p, p + 1, (size_t)i * 7 - 1) == 0));
        memset(p, 0xAA, (size_t)i * 7);
        before = p;
    }
    ck_assert_uint_le(a.used, a.reserved);
    ck_assert_str_eq(pw_arena_printf(&a, "%s-%d", "x", 5), "x-5");
    ck_assert_str_eq(pw_arena_strndup(&a, "hello", 4), "hell");
    ck_assert_ptr_null(pw_arena_array(&a, SIZE_MAX / 2, 3));
    ck_assert_ptr_null(pw_arena_alloc(&a, SIZE_MAX));
    pw_arena_reset(&a);
    ck_assert_uint_eq(a.used, 0);
    ck_assert_uint_eq(((unsigned char *)pw_arena_alloc(&a, 1))[0], 0);
    pw_arena_free(&a);
    pw_arena_free(&a);
    struct pw_arena zero = { 0 };
    pw_arena_free(&zero);
}
END_TEST

START_TEST(memory_fixed_arena)
{
    struct pw_arena a;
    ck_ok(pw_arena_init_fixed(&a, 256, "saved activations"));
    ck_assert_ptr_nonnull(pw_arena_alloc(&a, 100));
    ck_assert_ptr_nonnull(pw_arena_alloc(&a, 128));
    ck_assert_ptr_null(pw_arena_alloc(&a, 1));
    ck_assert(strstr(pw_error_text(), "saved activations") != NULL);
    pw_arena_reset(&a);
    ck_assert_ptr_nonnull(pw_arena_alloc(&a, 256));
    pw_arena_free(&a);
    ck_assert_int_eq(pw_arena_init_fixed(&a, SIZE_MAX, "x"), PW_E_NOMEM);
}
END_TEST

START_TEST(memory_faults)
{
    pw_fault_set(2, false);
    void *a = pw_alloc(1), *b = pw_alloc(1), *c = pw_alloc(1);
    ck_assert(a && !b && c);
    ck_assert_int_eq(pw_fault_count(), 3);
    pw_fault_set(1, true);
    ck_assert(!pw_strdup("x") && !pw_alloc_zero(1, 1));
    ck_assert(!pw_realloc(a, 1, 100));
    pw_fault_set(0, false);
    a = pw_realloc(a, 1, 100);
    ck_assert_ptr_nonnull(a);
    pw_free(a);
    pw_free(c);
}
END_TEST

START_TEST(memory_kernel)
{
    if (!pw_memory_available()) {
        test_skip("/proc is not mounted");
        return;
    }
    ck_assert_uint_gt(pw_rss_bytes(), 100000);
    ck_assert_uint_ge(pw_peak_rss_bytes(), pw_rss_bytes() / 2);
    ck_assert_uint_gt(pw_rss_anon_bytes(), 0);
    ck_assert_uint_gt(pw_memory_available(), 1 << 20);
}
END_TEST

/* It grows with the clock, and a child is younger by what this process was old when it began. */
START_TEST(age_of_the_process)
{
    if (!pw_memory_available()) {
        test_skip("/proc is not mounted");
        return;
    }
    const double start = pw_process_seconds();
    usleep(300000);
    const double age = pw_process_seconds(), at = pw_seconds();
    ck_assert_msg(age - start >= 0.28, "%g s, 0.3 s later %g s", start, age);
    const pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        const double its = pw_process_seconds();
        _exit(!(its < age + (pw_seconds() - at) - 0.2));
    }
    int status = 1;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
}
END_TEST

/* ---- text ---- */
static int build_text(void *context)
{
    (void)context;
    struct pw_buf b = { 0 };
    for (int i = 0; i < 300; i++) pw_buf_printf(&b, "%d,", i);
    int rc = pw_buf_status(&b);
    if (rc == 0) ck_assert_uint_eq(b.len, 1090);
    pw_buf_free(&b);
    return rc;
}

START_TEST(text_buffer)
{
    struct pw_buf b = { 0 };
    pw_buf_str(&b, "ab");
    pw_buf_char(&b, 'c');
    pw_buf_add(&b, "\0d", 2);
    ck_assert_uint_eq(b.len, 5);
    ck_assert_mem_eq(b.data, "abc\0d", 6);
    pw_buf_clear(&b);
    ck_assert_str_eq(b.data, "");
    pw_buf_free(&b);
    ck_assert_int_ge(test_sweep_nomem(build_text, NULL), 3);
}
END_TEST

START_TEST(text_parse)
{
    static const char *const bad_int[] = { "", " 1", "1 ", "1x", "0x10", "1.0", "--1", "+", "9223372036854775808", "-9223372036854775809" };
    static const char *const bad_real[] = { "", " 1", "1 ", "nan", "inf", "-inf", "1e999", "0x1p3", ".", "1e", "1,5" };
    static const char *const bad_size[] = { "", "-1", "GiB", "1 x", "8gib", "1e30GiB", "nan", "8GiBs" };
    int64_t i = 42;
    double d = 42;
    uint64_t u = 42;
    for (size_t k = 0; k < sizeof bad_int / sizeof *bad_int; k++) ck_assert_msg(pw_parse_i64(bad_int[k], &i) == -1, "%s", bad_int[k]);
    for (size_t k = 0; k < sizeof bad_real / sizeof *bad_real; k++) ck_assert_msg(pw_parse_f64(bad_real[k], &d) == -1, "%s", bad_real[k]);
    for (size_t k = 0; k < sizeof bad_size / sizeof *bad_size; k++) ck_assert_msg(pw_parse_bytes(bad_size[k], &u) == -1, "%s", bad_size[k]);
    ck_assert(i == 42 && d == 42 && u == 42);
    ck_assert(pw_parse_i64("-9223372036854775808", &i) == 0 && i == INT64_MIN);
    ck_assert(pw_parse_f64("-1.5e-3", &d) == 0 && d == -1.5e-3);
    ck_assert(pw_parse_f64("1e-999", &d) == 0 && d == 0);
    ck_assert(pw_parse_bytes("8GiB", &u) == 0 && u == (uint64_t)8 << 30);
    ck_assert(pw_parse_bytes("512MB", &u) == 0 && u == 512000000);
    ck_assert(pw_parse_bytes("1.5G", &u) == 0 && u == (uint64_t)3 << 29);
    ck_assert(pw_parse_bytes("4096", &u) == 0 && u == 4096);
}
END_TEST

START_TEST(text_format)
{
    char t[32];
    static const struct { double x; const char *text; } reals[] = {
        { 0.1, "0.1" }, { 1e-5, "1e-05" }, { 1.0 / 3, "0.3333333333333333" }, { 5e-324, "5e-324" }, { 1e300, "1e+300" }, { 100, "100" }, { 1e15, "1e+15" },
        { NAN, "null" }, { -INFINITY, "null" }, { -0.0, "-0" },
    };
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        pw_format_f64(t, reals[i].x);
        ck_assert_str_eq(t, reals[i].text);
    }
    struct pw_rng r = pw_rng_make(3, PW_STREAM_TEST);
    for (int i = 0; i < 20000; i++) {
        uint64_t bits = pw_rng_u64(&r);
        double x, y;
        memcpy(&x, &bits, 8);
        if (!isfinite(x)) continue;
        pw_format_f64(t, x);
        ck_assert(pw_parse_f64(t, &y) == 0);
        ck_assert_mem_eq(&x, &y, 8);
    }
    pw_format_bytes(t, 1023);
    ck_assert_str_eq(t, "1023 B");
    pw_format_bytes(t, 5701632000);
    ck_assert_str_eq(t, "5.31 GiB");
    pw_format_bytes(t, 1048575);
    ck_assert_str_eq(t, "1.00 MiB");
    pw_format_bytes(t, UINT64_MAX);
    ck_assert_str_eq(t, "16.00 EiB");
    pw_format_seconds(t, 3723.2);
    ck_assert_str_eq(t, "1:02:03");
    pw_format_seconds(t, 40.6);
    ck_assert_str_eq(t, "0:41");
    pw_format_seconds(t, NAN);
    ck_assert_str_eq(t, "?");
}
END_TEST

START_TEST(text_nearest)
{
    static const char *const names[] = { "method", "model", "output", "seed" };
    ck_assert_str_eq(pw_nearest("metod", names, 4), "method");
    ck_assert_str_eq(pw_nearest("modle", names, 4), "model");
    ck_assert_ptr_null(pw_nearest("banana", names, 4));
    ck_assert_ptr_null(pw_nearest("", names, 4));
    char longer[400];
    memset(longer, 'a', sizeof longer);
    longer[sizeof longer - 1] = 0;
    ck_assert_ptr_null(pw_nearest(longer, names, 4));
}
END_TEST

START_TEST(text_utf8)
{
    static const char *const good[] = { "", "a", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\xaa\x99", "\xed\x9f\xbf", "\xee\x80\x80", "\xf4\x8f\xbf\xbf" };
    static const char *const bad[] = { "\x80", "\xc3", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xe2\x82", "\xed\xa0\x80", "\xf0\x80\x80\x80",
                                       "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "a\xc3" "a" };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) ck_assert(pw_utf8_valid(good[i], strlen(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) ck_assert_msg(!pw_utf8_valid(bad[i], strlen(bad[i])), "%zu", i);
    ck_assert(pw_utf8_valid("\0", 1));
}
END_TEST

/* ---- random numbers ---- */

/* Known answers published with the Random123 library (kat_vectors, philox4x32 10 rounds). */
START_TEST(rng_known_answers)
{
    static const struct { uint32_t counter[4], key[2], out[4]; } cases[] = {
        { { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff }, { 0xffffffff, 0xffffffff }, { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 }, { 0xa4093822, 0x299f31d0 }, { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };
    for (size_t i = 0; i < 3; i++) {
        uint32_t out[4];
        pw_philox(cases[i].counter, cases[i].key, out);
        ck_assert_mem_eq(out, cases[i].out, sizeof out);
    }
    struct pw_rng r = pw_rng_make(0, 0); /* the documented mapping */
    ck_assert_uint_eq(pw_rng_u64(&r), 0xe169c58d6627e8d5u);
    ck_assert_uint_eq(pw_rng_u64(&r), 0x9b00dbd8bc57ac4cu);
    ck_assert_uint_eq(r.at, 2);
    struct pw_rng s = r;
    ck_assert_uint_eq(pw_rng_u64(&r), pw_rng_u64(&s)); /* copying saves */
}
END_TEST

START_TEST(rng_distribution)
{
    struct pw_rng r = pw_rng_make(1, PW_STREAM_TEST);
    enum { N = 200000 };
    double sum = 0, squares = 0, uniform = 0;
    for (int i = 0; i < N; i++) {
        double x = pw_rng_normal(&r), u = pw_rng_uniform(&r);
        ck_assert(isfinite(x) && u >= 0 && u < 1);
        sum += x;
        squares += x * x;
        uniform += u;
    }
    ck_close(sum / N, 0, 5 / sqrt(N), 0); /* five standard errors each */
    ck_close(squares / N, 1, 5 * sqrt(2.0 / N), 0);
    ck_close(uniform / N, 0.5, 5 / sqrt(12.0 * N), 0);
    int count[7] = { 0 };
    for (int i = 0; i < 70000; i++) count[pw_rng_below(&r, 7)]++;
    for (int i = 0; i < 7; i++) ck_close(count[i], 10000, 5 * sqrt(10000.0 * 6 / 7), 0);
    ck_assert_uint_eq(pw_rng_below(&r, 1), 0);
    for (int i = 0; i < 100; i++) ck_assert_uint_lt(pw_rng_below(&r, ((uint64_t)1 << 63) + 1), ((uint64_t)1 << 63) + 1);
    uint32_t items[100], seen[100] = { 0 };
    for (uint32_t i = 0; i < 100; i++) items[i] = i;
    pw_rng_shuffle(&r, items, 100);
    int moved = 0;
    for (uint32_t i = 0; i < 100; i++) {
        seen[items[i]]++;
        moved += items[i] != i;
    }
    for (int i = 0; i < 100; i++) ck_assert_uint_eq(seen[i], 1);
    ck_assert_int_gt(moved, 80);
    ck_assert_uint_eq(pw_dropout_threshold(0), 0);
    ck_assert_uint_eq(pw_dropout_threshold(0.5), 0x80000000u);
    ck_assert_uint_eq(pw_dropout_threshold(1), UINT32_MAX);
    ck_assert_uint_eq(pw_dropout_threshold(NAN), 0);
}
END_TEST

/* ---- options ---- */
struct first { bool quick; int64_t n; double x; const char *out; uint64_t memory; const char *method; struct pw_strings tags; };
struct second { bool json; };
static const struct pw_option first_table[] = {
    { "quick", 'q', PW_OPT_FLAG, offsetof(struct first, quick), .help = "be quick" },
    { "n", 'n', PW_OPT_INT, offsetof(struct first, n), "N", .fallback = "7", .min = 1, .max = 10, .help = "how many" },
    { "x", 0, PW_OPT_REAL, offsetof(struct first, x), "X", .help = "how much" },
    { "output", 'o', PW_OPT_STRING, offsetof(struct first, out), "FILE", .help = "where" },
    { "memory", 0, PW_OPT_BYTES, offsetof(struct first, memory), "SIZE", .fallback = "1GiB", .help = "limit" },
    { "method", 0, PW_OPT_CHOICE, offsetof(struct first, method), NULL, "bt|sum", .fallback = "bt", .help = "how to rank" },
    { "tag", 't', PW_OPT_LIST, offsetof(struct first, tags), "TAG", .help = "a tag" },
    PW_OPTIONS_END
};
static const struct pw_option second_table[] = { { "json", 0, PW_OPT_FLAG, offsetof(struct second, json), .help = "as JSON" }, PW_OPTIONS_END };

static int parse(struct first *f, struct second *s, struct pw_args *rest, int argc, char **argv)
{
    const struct pw_option *const tables[] = { first_table, second_table };
    void *const into[] = { f, s };
    return pw_options_parse(tables, into, 2, argc, argv, rest);
}
#define PARSE(...) parse(&f, &s, &rest, (int)(sizeof (char *[]){ __VA_ARGS__ } / sizeof(char *)), (char *[]){ __VA_ARGS__ })

START_TEST(options_good)
{
    struct first f;
    struct second s;
    struct pw_args rest;
    ck_ok(PARSE("a", "--n=3", "--x", "-0.5", "-", "-qo", "f", "--json", "--memory", "2G", "--tag=1", "-t2", "--method", "sum", "--", "--n", "b"));
    ck_assert(f.quick && f.n == 3 && f.x == -0.5 && s.json && f.memory == (uint64_t)2 << 30);
    ck_assert_str_eq(f.out, "f");
    ck_assert_str_eq(f.method, "sum");
    ck_assert_uint_eq(f.tags.n, 2);
    ck_assert_str_eq(f.tags.items[1], "2");
    ck_assert_uint_eq(rest.n, 4);
    ck_assert_str_eq(rest.items[1], "-");
    ck_assert_str_eq(rest.items[2], "--n");
    pw_options_free(&rest);
    pw_free(f.tags.items);
    ck_ok(parse(&f, &s, &rest, 0, NULL));
    ck_assert(!f.quick && f.n == 7 && f.x == 0 && !f.out && f.memory == 1 << 30 && strcmp(f.method, "bt") == 0 && f.tags.n == 0);
    pw_options_free(&rest);
}
END_TEST

START_TEST(options_bad)
{
    struct first f;
    struct second s;
    struct pw_args rest;
    ck_fails(PARSE("--metod", "x"), PW_E_USAGE, "unknown option --metod");
    ck_assert_str_eq(pw_error_hint_text(), "did you mean --method?");
    ck_fails(PARSE("--banana"), PW_E_USAGE, "--banana");
    ck_assert_str_eq(pw_error_hint_text(), "");
    ck_fails(PARSE("-z"), PW_E_USAGE, "-z");
    ck_fails(PARSE("--n"), PW_E_USAGE, "value is missing");
    ck_fails(PARSE("-o"), PW_E_USAGE, "value is missing");
    ck_fails(PARSE("--n="), PW_E_USAGE, "--n: \"\" is not an integer");
    ck_fails(PARSE("--n", "3x"), PW_E_USAGE, "3x");
    ck_fails(PARSE("--n", "11"), PW_E_USAGE, "11 is out of range (1 to 10)");
    ck_fails(PARSE("--x", "nan"), PW_E_USAGE, "nan");
    ck_fails(PARSE("--quick=1"), PW_E_USAGE, "takes no value");
    ck_fails(PARSE("--memory", "8XB"), PW_E_USAGE, "8XB");
    ck_fails(PARSE("--method", "b"), PW_E_USAGE, "none of bt|sum");
    ck_fails(PARSE("--method", "bt|sum"), PW_E_USAGE, "none of bt|sum");
}
END_TEST

START_TEST(options_help_text)
{
    struct pw_buf b = { 0 };
    pw_options_help(first_table, &b);
    ck_ok(pw_buf_status(&b));
    ck_assert(strstr(b.data, "  -n, --n N") && strstr(b.data, "[7]") && strstr(b.data, "bt|sum"));
    for (const char *line = b.data; *line; line += strcspn(line, "\n") + 1) ck_assert_uint_le(strcspn(line, "\n"), 100);
    pw_buf_free(&b);
}
END_TEST

START_TEST(progress_null)
{
    struct pw_progress p;
    pw_progress_at(NULL, 1, 2, NULL);
    pw_progress_say(NULL, "x");
    pw_progress_start(&p, "quiet", true);
    pw_progress_at(&p, 1, 0, "x");
    pw_progress_end(&p, NULL);
    ck_assert(pw_seconds() > 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("base: text");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    tcase_add_test(t, helpers);
    tcase_add_test(t, error_trail);
    tcase_add_test(t, error_escapes);
    tcase_add_test(t, error_status);
    tcase_add_test(t, memory_sizes);
    tcase_add_test(t, memory_arena);
    tcase_add_test(t, memory_fixed_arena);
    tcase_add_test(t, memory_faults);
    tcase_add_test(t, memory_kernel);
    tcase_add_test(t, age_of_the_process);
    tcase_add_test(t, text_buffer);
    tcase_add_test(t, text_parse);
    tcase_add_test(t, text_format);
    tcase_add_test(t, text_nearest);
    tcase_add_test(t, text_utf8);
    tcase_add_test(t, rng_known_answers);
    tcase_add_test(t, rng_distribution);
    tcase_add_test(t, options_good);
    tcase_add_test(t, options_bad);
    tcase_add_test(t, options_help_text);
    tcase_add_test(t, progress_null);
    return test_run(s);
}
