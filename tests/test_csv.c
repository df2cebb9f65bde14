/* The CSV reader: RFC 4180, lines, limits, faults that leave the rest readable, and that what is written reads back. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/rng.h"
#include "data/csv.h"

static struct pw_csv csv;

static void open_text(const char *text, size_t n)
{
    pw_csv_close(&csv);
    pw_csv_open(&csv, text, n, "t.csv", ',');
}
#define OPEN(text) open_text(text, sizeof (text) - 1)

static void expect_row(int64_t line, int n, const char *const *cells)
{
    bool more = false;
    ck_assert_msg(pw_csv_next(&csv, &more) == 0, "%s", pw_error_text());
    ck_assert(more);
    ck_assert_int_eq(csv.row_line, line);
    ck_assert_int_eq(csv.n_cells, n);
    for (int i = 0; i < n; i++) {
        ck_assert_str_eq(csv.cells[i].s, cells[i]);
        ck_assert_uint_eq(csv.cells[i].len, strlen(cells[i]));
    }
}
#define ROW(line, ...) do { const char *const cells_[] = { __VA_ARGS__ }; \
    expect_row(line, (int)(sizeof cells_ / sizeof cells_[0]), cells_); } while (0)

static void expect_end(void)
{
    bool more = true;
    ck_assert_int_eq(pw_csv_next(&csv, &more), 0);
    ck_assert(!more);
}

static void expect_fault(int64_t line, const char *what)
{
    bool more = true;
    ck_assert_int_eq(pw_csv_next(&csv, &more), PW_E_FORMAT);
    ck_assert(!more);
    ck_assert_int_eq(csv.row_line, line);
    ck_assert_msg(strstr(pw_error_text(), what) != NULL, "'%s' not in '%s'", what, pw_error_text());
    pw_error_clear();
}

START_TEST(rows)
{
    OPEN("\xEF\xBB\xBF" "a,b,c\r\n1,,3\n\n\"x,y\",\"two\nlines\",\"say \"\"hi\"\"\"\r\n\r\nlast,\"\",");
    ROW(1, "a", "b", "c");
    ROW(2, "1", "", "3");
    ROW(4, "x,y", "two\nlines", "say \"hi\"");
    ROW(7, "last", "", "");
    expect_end();
    expect_end();
    OPEN("");
    expect_end();
    OPEN("one\r");
    ROW(1, "one");
    expect_end();
}
END_TEST

START_TEST(faults_leave_the_rest)
{
    OPEN("a,b\n\"x\"y,1\nok,2\nq\"q,3\nok,4\n\"open,5\nok,6\nc\rr,7\nok,8\nu\xff,9\nok,10\nn\0n,11\nok,12\n");
    ROW(1, "a", "b");
    expect_fault(2, "t.csv:2: text after the closing quote");
    ROW(3, "ok", "2");
    expect_fault(4, "t.csv:4: a quote inside");
    ROW(5, "ok", "4");
    expect_fault(6, "t.csv:6: a quote is opened and never closed");
    ROW(7, "ok", "6");
    expect_fault(8, "t.csv:8: a carriage return");
    ROW(9, "ok", "8");
    expect_fault(10, "t.csv:10: cell 1 is not UTF-8");
    ROW(11, "ok", "10");
    expect_fault(12, "t.csv:12: a NUL byte");
    ROW(13, "ok", "12");
    expect_end();
}
END_TEST

START_TEST(headers)
{
    OPEN("voter,entry,coins\nv,e,1\n");
    ck_assert_int_eq(pw_csv_header(&csv), 0);
    ck_assert_int_eq(pw_csv_column(&csv, "coins"), 2);
    ck_assert_int_eq(pw_csv_column(&csv, "coin"), -1);
    ROW(2, "v", "e", "1");
    ck_assert_str_eq(csv.names[1].s, "entry"); /* the header outlives the rows */
    OPEN("a,b,a\n");
    ck_assert_int_eq(pw_csv_header(&csv), PW_E_FORMAT);
    ck_assert(strstr(pw_error_text(), "columns 1 and 3 are both named 'a'") != NULL);
    OPEN("a,,b\n");
    ck_assert_int_eq(pw_csv_header(&csv), PW_E_FORMAT);
    OPEN("\n\n");
    ck_assert_int_eq(pw_csv_header(&csv), PW_E_FORMAT);
}
END_TEST

START_TEST(limits)
{
    size_t n = PW_CSV_MAX_CELLS + 1;
    char *wide = malloc(n + 8), *big = malloc(PW_CSV_MAX_CELL_BYTES + 8u);
    memset(wide, ',', n);
    memcpy(wide + n, "\nok\n", 4);
    open_text(wide, n + 4);
    expect_fault(1, "more than 16384 cells");
    ROW(2, "ok");
    memset(big, 'x', PW_CSV_MAX_CELL_BYTES + 1u);
    memcpy(big + PW_CSV_MAX_CELL_BYTES + 1, "\nok\n", 4);
    open_text(big, PW_CSV_MAX_CELL_BYTES + 5u);
    expect_fault(1, "bytes (at most");
    ROW(2, "ok");
    pw_csv_close(&csv);
    free(wide);
    free(big);
}
END_TEST

/* Any table that is written reads back; cells are drawn from the bytes that make trouble. */
START_TEST(written_reads_back)
{
    static const char letters[] = "ab,\"\n\r; \t\xc3";
    struct pw_rng r = pw_rng_make(7, PW_STREAM_TEST);
    for (int table = 0; table < 300; table++) {
        char cells[12][8];
        struct pw_buf text = { 0 };
        for (int i = 0; i < 12; i++) {
            int n = (int)pw_rng_below(&r, 5), k = 0;
            for (int j = 0; j < n; j++) {
                char ch = letters[pw_rng_below(&r, sizeof letters - 1)];
                cells[i][k++] = ch;
                if (ch == '\xc3')
                    cells[i][k++] = '\xa9';
                if (k >= 6)
                    break;
            }
            cells[i][k] = 0;
            if (i % 3 == 0 && k == 0)
                strcpy(cells[i], "x"); /* a blank line would be no row */
            pw_csv_add_cell(&text, cells[i], strlen(cells[i]), i % 3 == 0);
            if (i % 3 == 2)
                pw_buf_str(&text, "\r\n");
        }
        open_text(text.data, text.len);
        for (int row = 0; row < 4; row++) {
            bool more;
            ck_assert_msg(pw_csv_next(&csv, &more) == 0 && more, "%s", pw_error_text());
            ck_assert_int_eq(csv.n_cells, 3);
            for (int i = 0; i < 3; i++)
                ck_assert_str_eq(csv.cells[i].s, cells[row * 3 + i]);
        }
        expect_end();
        pw_csv_close(&csv);
        pw_buf_free(&text);
    }
}
END_TEST

START_TEST(no_memory)
{
    static const char text[] = "a,b\n\"1\",2\n3,4\n";
    for (int64_t fail = 1; fail < 20; fail++) {
        bool more = true;
        int rc = 0;
        open_text(text, sizeof text - 1);
        pw_fault_set(fail, true);
        rc = pw_csv_header(&csv);
        while (rc == 0 && more)
            rc = pw_csv_next(&csv, &more);
        bool reached = pw_fault_count() >= fail;
        pw_fault_set(0, false);
        pw_csv_close(&csv);
        ck_assert_int_eq(rc, reached ? PW_E_NOMEM : 0);
        if (!reached)
            return;
    }
    ck_abort_msg("the sweep did not end");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("csv");
    TCase *t = tcase_create("csv");
    tcase_add_test(t, rows);
    tcase_add_test(t, faults_leave_the_rest);
    tcase_add_test(t, headers);
    tcase_add_test(t, limits);
    tcase_add_test(t, written_reads_back);
    tcase_add_test(t, no_memory);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
