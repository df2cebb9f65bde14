/* Every parser of untrusted bytes over its stored corpus, and over cheap mutations of it: cuts, flipped bits, doubled and moved pieces,
 * numbers at their limits. Nothing may crash; the sanitizer build sees reads past the end and leaks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "tests/fuzz_targets.h"
#include "tests/support.h"

static void run_exact(const struct fuzz_target *t, const char *bytes, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    ck_assert_ptr_nonnull(copy);
    memcpy(copy, bytes, n);
    t->run(copy, n);
    free(copy);
    pw_error_clear();
}

static size_t mutate(struct pw_rng *r, char *out, size_t cap, const char *in, size_t n)
{
    static const char *const bits[] = {"18446744073709551615", "-1", "9223372036854775808", "1e999", "\xff\xff\xff\xff\xff\xff\xff\x7f", "[[[[[[[[", "{{", "{%",
                                       "\"", "\\u0000", "null", "\n", "\xf0\x9f\x92\xa9", "\xc0"};
    memcpy(out, in, n);
    for (uint64_t times = 1 + pw_rng_below(r, 4); times > 0; times--) {
        uint64_t at = n ? pw_rng_below(r, n) : 0, len = n ? 1 + pw_rng_below(r, n - at) : 0;
        const char *bit = bits[pw_rng_below(r, sizeof bits / sizeof *bits)];
        switch (pw_rng_below(r, 6)) {
        case 0: n = (size_t)at; break;
        case 1: if (n) out[at] ^= (char)(1 << pw_rng_below(r, 8)); break;
        case 2: if (n) out[at] = (char)pw_rng_below(r, 256); break;
        case 3: if (n && n + len <= cap) { memmove(out + at + len, out + at, n - at); n += (size_t)len; } break;
        case 4: if (n) { memmove(out + at, out + at + len, n - at - len); n -= (size_t)len; } break;
        default:
            len = strlen(bit);
            if (n + len <= cap) { memmove(out + at + len, out + at, n - at); memcpy(out + at, bit, len); n += (size_t)len; }
        }
    }
    return n;
}

START_TEST(corpus)
{
    const struct fuzz_target *t = &fuzz_targets[_i];
    int per_file = getenv("PW_FAST") ? 40 : 200;
    struct pw_rng r = pw_rng_make(1, PW_STREAM_TEST);
    struct pw_arena a;
    char dir[256], **names;
    size_t n;
    snprintf(dir, sizeof dir, "tests/fuzz/corpus/%s", t->name);
    pw_arena_init(&a);
    ck_ok(pw_dir_list(&a, dir, &names, &n));
    ck_assert_msg(n > 0, "%s is empty", dir);
    for (size_t i = 0; i < n; i++) {
        size_t bytes;
        char *text = test_slurp(pw_path_join(&a, dir, names[i]), &bytes);
        char *other = malloc(2 * bytes + 4096);
        ck_assert_ptr_nonnull(other);
        run_exact(t, text, bytes);
        for (int k = 0; k < per_file; k++)
            run_exact(t, other, mutate(&r, other, 2 * bytes + 4096, text, bytes));
        free(other);
        pw_free(text);
    }
    pw_arena_free(&a);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("fuzz corpus");
    TCase *c = tcase_create("targets");
    int n = 0;
    while (fuzz_targets[n].name)
        n++;
    tcase_set_timeout(c, 300);
    tcase_add_loop_test(c, corpus, 0, n);
    suite_add_tcase(s, c);
    return test_run(s);
}
