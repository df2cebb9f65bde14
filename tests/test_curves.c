/* What is made of a run's log: TensorBoard's records byte by byte, and the report as one file without anything from outside. */
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "tests/support.h"
#include "train/report_html.h"
#include "train/tfevents.h"

/* RFC 3720, appendix B.4, and the check value of the CRC catalogue. */
START_TEST(crc32c_vectors)
{
    uint8_t x[32];
    ck_assert_uint_eq(pw_crc32c("", 0), 0);
    ck_assert_uint_eq(pw_crc32c("123456789", 9), 0xe3069283);
    memset(x, 0, sizeof x);
    ck_assert_uint_eq(pw_crc32c(x, 32), 0x8a9136aa);
    memset(x, 0xff, sizeof x);
    ck_assert_uint_eq(pw_crc32c(x, 32), 0x62a8ab43);
    for (int i = 0; i < 32; i++)
        x[i] = (uint8_t)i;
    ck_assert_uint_eq(pw_crc32c(x, 32), 0x46dd794e);
}
END_TEST

static uint64_t little(const uint8_t *p, int n)
{
    uint64_t x = 0;
    for (int i = n; i-- > 0;)
        x = x << 8 | p[i];
    return x;
}

static uint32_t unmasked(const uint8_t *p)
{
    const uint32_t rot = (uint32_t)little(p, 4) - 0xa282ead8;
    return (rot >> 17) | (rot << 15);
}

START_TEST(framing)
{
    struct pw_buf b = {0};
    pw_tfevents_record(&b, "abc", 3);
    ck_ok(pw_buf_status(&b));
    const uint8_t *p = (const uint8_t *)b.data;
    ck_assert_uint_eq(b.len, 8 + 4 + 3 + 4);
    ck_assert_uint_eq(little(p, 8), 3);
    ck_assert_uint_eq(unmasked(p + 8), pw_crc32c(p, 8));
    ck_assert_mem_eq(p + 12, "abc", 3);
    ck_assert_uint_eq(unmasked(p + 15), pw_crc32c("abc", 3));
    pw_buf_free(&b);
}
END_TEST

static const struct pw_log_line lines[] = {
    {true, {.step = 0, .loss = 5.5}},
    {false, {.step = 1, .loss = 5.25, .lr = 0, .grad_norm = 2, .tokens = 40, .trained_tokens = 20, .tokens_per_s = 100, .memory_bytes = 1 << 20, .seconds = 0.5}},
    {false, {.step = 300, .loss = 4.5, .lr = 1e-3, .grad_norm = 1, .tokens = 40, .trained_tokens = 20, .tokens_per_s = 120, .memory_bytes = 1 << 20, .seconds = 1}},
    {true, {.step = 300, .loss = 4.25}},
};
enum { LINES = sizeof lines / sizeof lines[0] };

/* The whole file, record by record; the one of step 300 against bytes written out by hand. */
START_TEST(events)
{
    static const uint8_t eval[] = {
        0x09, 0, 0, 0, 0, 0, 0x40, 0x8f, 0x40,                       /* 1: wall_time, double 1000 */
        0x10, 0xac, 0x02,                                            /* 2: step, varint 300 */
        0x2a, 0x12, 0x0a, 0x10,                                      /* 5: summary, 18 bytes; 1: value, 16 bytes */
        0x0a, 0x09, 'e', 'v', 'a', 'l', '/', 'l', 'o', 's', 's',     /* 1: tag */
        0x15, 0, 0, 0x88, 0x40,                                      /* 2: simple_value, float 4.25 */
    };
    const char *path = test_path(test_tmpdir(), "events");
    size_t bytes = 0, at = 0;
    int records = 0;
    ck_ok(pw_tfevents_write(lines, LINES, 999, path));
    char *text = test_slurp(path, &bytes);
    const uint8_t *p = (const uint8_t *)text, *last = NULL;
    uint64_t n = 0;
    while (at < bytes) {
        ck_assert_uint_ge(bytes - at, 16);
        n = little(p + at, 8);
        ck_assert_uint_le(n, bytes - at - 16);
        ck_assert_uint_eq(unmasked(p + at + 8), pw_crc32c(p + at, 8));
        ck_assert_uint_eq(unmasked(p + at + 12 + n), pw_crc32c(p + at + 12, n));
        last = p + at + 12;
        if (records == 0)
            ck_assert_mem_eq(last + n - 15, "\x1a\x0d" "brain.Event:2", 15);
        at += 16 + n;
        records++;
    }
    ck_assert_int_eq(records, 1 + LINES);
    ck_assert_uint_eq(n, sizeof eval);
    ck_assert_mem_eq(last, eval, sizeof eval);
    pw_free(text);
}
END_TEST

static int count(const char *text, const char *word)
{
    int n = 0;
    for (; (text = strstr(text, word)) != NULL; text++)
        n++;
    return n;
}

START_TEST(report)
{
    const char *path = test_path(test_tmpdir(), "report.html");
    ck_ok(pw_report_html_write(lines, LINES, "runs/<a>&\"b\"", "model: \"<x>\"\n", path));
    char *text = test_slurp(path, NULL);
    ck_assert_int_eq(count(text, "<svg"), 6);
    ck_assert_int_eq(count(text, "</svg>"), 6);
    ck_assert_int_eq(count(text, "<h1>runs/&lt;a&gt;&amp;&quot;b&quot;</h1>"), 1);
    ck_assert_int_eq(count(text, "model: &quot;&lt;x&gt;&quot;"), 1);
    ck_assert_int_eq(count(text, "<td>4.25</td>"), 2);      /* the last and the lowest held-out loss */
    for (const char *const *word = (const char *const[]){"nan", "inf", "<script", "http:", "https:", "src=", "@import", NULL}; *word; word++)
        ck_assert_msg(!strstr(text, *word), "%s in the report", *word);
    pw_free(text);
}
END_TEST

/* No lines, one line, constants, and more steps than columns with one spike among them. */
START_TEST(report_shapes)
{
    static struct pw_log_line many[5000];
    struct pw_buf b = {0};
    pw_report_html(&b, NULL, 0, "empty", "");
    pw_report_html(&b, lines + 1, 1, "one", "");
    ck_ok(pw_buf_status(&b));
    ck_assert_ptr_nonnull(strstr(b.data, "No step has been taken"));
    ck_assert_ptr_null(strstr(b.data, "nan"));
    ck_assert_ptr_null(strstr(b.data, "inf"));
    pw_buf_clear(&b);
    for (int i = 0; i < 5000; i++)
        many[i].s = (struct pw_log_step){.step = i + 1, .loss = i == 2503 ? 9 : 2, .tokens_per_s = 10, .seconds = i};
    pw_report_html(&b, many, 5000, "many", "");
    ck_ok(pw_buf_status(&b));
    ck_assert_uint_lt(b.len, 100000);
    const char *polyline = strstr(b.data, "<polyline");
    ck_assert_ptr_nonnull(polyline);
    const char *spike = strstr(polyline, ",12.0 ");   /* the top of the frame */
    ck_assert(spike && spike < strstr(polyline, "\"/>"));
    pw_buf_free(&b);
}
END_TEST

static int both(void *context)
{
    PW_PASS(pw_report_html_write(lines, LINES, "t", "r", context));
    return pw_tfevents_write(lines, LINES, 0, context);
}

START_TEST(no_memory)
{
    char path[512];
    snprintf(path, sizeof path, "%s", test_path(test_tmpdir(), "out"));
    test_sweep_nomem(both, path);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("curves");
    TCase *c = tcase_create("log");
    tcase_add_test(c, crc32c_vectors);
    tcase_add_test(c, framing);
    tcase_add_test(c, events);
    tcase_add_test(c, report);
    tcase_add_test(c, report_shapes);
    tcase_add_test(c, no_memory);
    suite_add_tcase(s, c);
    return test_run(s);
}
