/* HDF5 files: round trips, the same bytes twice, and every way in which a file can be wrong. */
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "data/h5.h"
#include "tests/support.h"

static const float f[6] = {1, -2.5f, 3, 4e-30f, 5, 6};
static const int64_t big[3] = {INT64_MIN, 0, INT64_MAX};

static int write_all(const char *path)
{
    struct pw_h5_out *h = NULL;
    int rc = 0;
    PW_PASS(pw_h5_create(&h, path, true));
    PW_PASS_OUT(pw_h5_put_2d(h, "adapter/layer 0/a", PW_H5_F32, f, 2, 3));
    PW_PASS_OUT(pw_h5_put_1d(h, "big", PW_H5_I64, big, 3));
    PW_PASS_OUT(pw_h5_put_1d(h, "none", PW_H5_I32, NULL, 0));
    PW_PASS_OUT(pw_h5_put_text(h, "text", "two\nlines", 9));
    PW_PASS_OUT(pw_h5_put_i64(h, "step", 42));
    PW_PASS_OUT(pw_h5_put_f64(h, "loss", 0.1));
    rc = pw_h5_commit(h);
    h = NULL;
out:
    pw_h5_abort(h);
    return rc;
}

START_TEST(round_trip)
{
    const char *path = test_path(test_tmpdir(), "a.h5");
    struct pw_h5_in *in;
    float g[6] = {0};
    int64_t b[3], step;
    double loss;
    struct pw_buf text = {0};
    ck_ok(write_all(path));
    ck_ok(pw_h5_open(&in, path));
    ck_ok(pw_h5_get_2d(in, "adapter/layer 0/a", PW_H5_F32, g, 2, 3));
    ck_assert(memcmp(f, g, sizeof f) == 0);
    ck_ok(pw_h5_get_1d(in, "big", PW_H5_I64, b, 3));
    ck_assert(memcmp(b, big, sizeof b) == 0);
    ck_ok(pw_h5_get_1d(in, "none", PW_H5_I32, NULL, 0));
    ck_ok(pw_h5_get_text(in, "text", &text));
    ck_assert_str_eq(text.data, "two\nlines");
    ck_ok(pw_h5_get_i64(in, "step", &step));
    ck_assert_int_eq(step, 42);
    ck_ok(pw_h5_get_f64(in, "loss", &loss));
    ck_assert(loss == 0.1);
    ck_assert(pw_h5_has(in, "adapter/layer 0") && !pw_h5_has(in, "adapter/layer 1/a") && !pw_h5_has(in, ""));
    pw_buf_free(&text);
    pw_h5_close(in);
}
END_TEST

START_TEST(same_contents_same_bytes)
{
    const char *dir = test_tmpdir(), *a = test_path(dir, "a.h5"), *b = test_path(dir, "b.h5");
    size_t n, m;
    ck_ok(write_all(a));
    sleep(1); /* a time stored in the file would differ */
    ck_ok(write_all(b));
    char *x = test_slurp(a, &n), *y = test_slurp(b, &m);
    ck_assert(n == m && memcmp(x, y, n) == 0);
    pw_free(x);
    pw_free(y);
}
END_TEST

START_TEST(strict_reading)
{
    const char *path = test_path(test_tmpdir(), "a.h5");
    struct pw_h5_in *in;
    float g[6];
    int64_t b[8];
    ck_ok(write_all(path));
    ck_ok(pw_h5_open(&in, path));
    ck_fails(pw_h5_get_1d(in, "big", PW_H5_I64, b, 4), PW_E_FORMAT, "expected shape (4), got (3)");
    ck_fails(pw_h5_get_1d(in, "big", PW_H5_U64, b, 3), PW_E_FORMAT, "expected type u64");
    ck_fails(pw_h5_get_2d(in, "adapter/layer 0/a", PW_H5_F32, g, 3, 2), PW_E_FORMAT, "expected shape (3, 2), got (2, 3)");
    ck_fails(pw_h5_get_1d(in, "adapter/layer 0/a", PW_H5_F32, g, 6), PW_E_FORMAT, "expected shape (6), got (2, 3)");
    ck_fails(pw_h5_get_i64(in, "nothing/here", b), PW_E_FORMAT, "nothing/here is missing");
    ck_fails(pw_h5_get_i64(in, "adapter", b), PW_E_FORMAT, "not an array");
    pw_h5_close(in);
}
END_TEST

START_TEST(damage_is_seen)
{
    const char *dir = test_tmpdir(), *path = test_path(dir, "a.h5"), *bad = test_path(dir, "b.h5");
    struct pw_h5_in *in;
    size_t n;
    ck_ok(write_all(path));
    char *bytes = test_slurp(path, &n);
    for (size_t cut = 0; cut < n; cut += 1 + n / 40) {
        ck_ok(pw_file_write(bad, bytes, cut, true));
        ck_assert_int_eq(pw_h5_open(&in, bad), PW_E_FORMAT);
        ck_assert_ptr_null(in);
    }
    for (size_t at = 0; at < n; at += 1 + n / 60) { /* one bit anywhere; the rest of the first 512 bytes means nothing */
        if (at > 110 && at < 512)
            continue;
        bytes[at] ^= 4;
        ck_ok(pw_file_write(bad, bytes, n, true));
        ck_assert_msg(pw_h5_open(&in, bad) == PW_E_FORMAT, "a changed byte at %zu was not seen", at);
        bytes[at] ^= 4;
    }
    ck_ok(pw_file_write(bad, "pennyweight", 11, true));
    ck_fails(pw_h5_open(&in, bad), PW_E_FORMAT, "not a state or cache file");
    ck_assert_int_lt(pw_h5_open(&in, test_path(dir, "absent.h5")), 0);
    pw_free(bytes);
}
END_TEST

START_TEST(nothing_half_written)
{
    const char *dir = test_tmpdir(), *path = test_path(dir, "a.h5");
    struct pw_h5_out *h;
    struct pw_arena a;
    char **names;
    size_t n;
    pw_arena_init(&a);
    ck_ok(pw_h5_create(&h, path, false));
    ck_ok(pw_h5_put_i64(h, "x", 1));
    ck_assert_int_lt(pw_h5_put_i64(h, "x", 1), 0); /* a name once */
    pw_h5_abort(h);
    ck_assert(!pw_file_exists(path));
    ck_ok(pw_dir_list(&a, dir, &names, &n));
    ck_assert_uint_eq(n, 0);
    ck_ok(write_all(path));
    ck_assert_int_eq(pw_h5_create(&h, path, false), PW_E_REFUSED);
    pw_arena_free(&a);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("h5");
    TCase *c = tcase_create("h5");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, round_trip);
    tcase_add_test(c, same_contents_same_bytes);
    tcase_add_test(c, strict_reading);
    tcase_add_test(c, damage_is_seen);
    tcase_add_test(c, nothing_half_written);
    suite_add_tcase(s, c);
    return test_run(s);
}
