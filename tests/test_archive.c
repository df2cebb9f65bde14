/* Archives: round trip, the same bytes twice, and what is refused. */
#include <string.h>

#include "base/error.h"
#include "data/archive.h"
#include "tests/support.h"

static const struct pw_archive_file files[] = {{"a/one.txt", "first", 5}, {"empty", "", 0}, {"two.bin", "\0\1\2", 3}};

static const char *written(void)
{
    const char *path = test_path(test_tmpdir(), "x.tar.zst");
    ck_ok(pw_archive_write(path, files, 3, false));
    return path;
}

START_TEST(round_trip)
{
    const char *x = written(), *y = written();
    struct pw_archive_file *got;
    struct pw_arena a;
    size_t n, bx, by;
    pw_arena_init(&a);
    ck_ok(pw_archive_read(x, 1 << 20, &a, &got, &n));
    ck_assert_uint_eq(n, 3);
    for (size_t i = 0; i < n; i++) {
        ck_assert_str_eq(got[i].name, files[i].name);
        ck_assert_uint_eq(got[i].bytes, files[i].bytes);
        ck_assert_int_eq(memcmp(got[i].data, files[i].data, files[i].bytes), 0);
    }
    char *p = test_slurp(x, &bx), *q = test_slurp(y, &by);
    ck_assert(bx == by && memcmp(p, q, bx) == 0);
    pw_free(p);
    pw_free(q);
    pw_arena_free(&a);
    ck_fails(pw_archive_write(x, files, 3, false), PW_E_REFUSED, "x.tar.zst");
}
END_TEST

/* Every cut is seen, and every flipped byte that changes what comes out: the frame carries a checksum. */
START_TEST(damage)
{
    size_t n, unseen = 0;
    char *good = test_slurp(written(), &n);
    const char *path = test_path(test_tmpdir(), "bad.tar.zst");
    for (size_t i = 0; i < 2 * n; i++) {
        struct pw_archive_file *got;
        struct pw_arena a;
        size_t count, bytes = i < n ? n : i - n;
        pw_arena_init(&a);
        if (i < n)
            good[i] ^= 0x20;
        ck_ok(pw_file_write(path, good, bytes, true));
        int rc = pw_archive_read(path, 1 << 20, &a, &got, &count);
        if (rc < 0)
            ck_assert_msg(strstr(pw_error_text(), "bad.tar.zst") != NULL, "%s", pw_error_text());
        else {                      /* a bit that means nothing: then every byte that comes out is still the same */
            ck_assert_msg(i < n && count == 3, "cut to %zu bytes and read", bytes);
            for (size_t k = 0; k < 3; k++)
                ck_assert_msg(got[k].bytes == files[k].bytes && memcmp(got[k].data, files[k].data, files[k].bytes) == 0 &&
                              strcmp(got[k].name, files[k].name) == 0, "byte %zu changed, %s with it, and nobody saw it", i, files[k].name);
            unseen++;
        }
        if (i < n)
            good[i] ^= 0x20;
        pw_arena_free(&a);
    }
    ck_assert_msg(unseen <= 2, "%zu of %zu changed bytes were not seen", unseen, n);
    pw_free(good);
}
END_TEST

START_TEST(names_and_limits)
{
    static const char *const unsafe[] = {"/etc/x", "../x", "a/../x", "a//b", "./x", "a/", "", "a\nb", "a\\b"};
    const char *path = test_path(test_tmpdir(), "n.tar.zst");
    for (size_t i = 0; i < sizeof unsafe / sizeof *unsafe; i++) {
        struct pw_archive_file f = {unsafe[i], "x", 1};
        ck_fails(pw_archive_write(path, &f, 1, true), PW_E_FAIL, "cannot be a name");
    }
    const struct pw_archive_file twice[] = {{"x", "1", 1}, {"x", "2", 1}};
    struct pw_archive_file *got;
    struct pw_arena a;
    size_t n;
    pw_arena_init(&a);
    ck_ok(pw_archive_write(path, twice, 2, true));
    ck_fails(pw_archive_read(path, 1 << 20, &a, &got, &n), PW_E_FORMAT, "twice");
    ck_fails(pw_archive_read(written(), 1000, &a, &got, &n), PW_E_FORMAT, "limit");
    pw_arena_free(&a);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("archive");
    TCase *c = tcase_create("all");
    tcase_add_test(c, round_trip);
    tcase_add_test(c, damage);
    tcase_add_test(c, names_and_limits);
    suite_add_tcase(s, c);
    return test_run(s);
}
