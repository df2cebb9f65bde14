/* safetensors: what is written reads back, bytes are deterministic, and every kind of broken file is refused by name and place. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/safetensors.h"
#include "tests/support.h"

static const char *broken(const char *header, int64_t length, size_t data)
{
    const char *path = test_path(test_tmpdir(), "x.safetensors");
    struct pw_buf b = {0};
    uint64_t n = length < 0 ? strlen(header) : (uint64_t)length;
    pw_buf_add(&b, &n, 8);
    pw_buf_str(&b, header);
    for (size_t i = 0; i < data; i++)
        pw_buf_char(&b, (char)i);
    ck_ok(pw_file_write(path, b.data, b.len, true));
    pw_buf_free(&b);
    return path;
}

static const struct { const char *what, *header; int64_t length; size_t data; int code; const char *text; } cases[] = {
    {"empty header length beyond the file", "{}", 1000, 0, PW_E_FORMAT, "header length goes beyond the file (expected at most 2, got 1000)"},
    {"header length implausible", "{}", INT64_MAX, 0, PW_E_FORMAT, "header length is implausible"},
    {"not JSON", "{\"a\":", -1, 0, PW_E_FORMAT, "x.safetensors"},
    {"not a map", "[1]", -1, 0, PW_E_FORMAT, "does not begin with {"},
    {"truncated", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", -1, 5, PW_E_FORMAT, "a: data_offsets [0, 8] lie outside the data"},
    {"bytes too many", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", -1, 9, PW_E_FORMAT, "do not fill the file (expected 8 bytes of data, got 9)"},
    {"size", "{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", -1, 8, PW_E_FORMAT, "a: shape times dtype is not the size of the data (expected 12 bytes, got 8)"},
    {"overlap", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]}}", -1, 6, PW_E_FORMAT,
     "b: data_offsets overlap those of a (expected a start of 4, got 2)"},
    {"same place twice", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", -1, 4, PW_E_FORMAT, "overlap"},
    {"gap", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]}}", -1, 6, PW_E_FORMAT, "a: there is a gap before its data"},
    {"backwards", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,0]}}", -1, 4, PW_E_FORMAT, "outside the data"},
    {"negative", "{\"a\":{\"dtype\":\"U8\",\"shape\":[-4],\"data_offsets\":[0,4]}}", -1, 4, PW_E_FORMAT, "shape[0] is not a count"},
    {"overflow", "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}", -1, 0, PW_E_FORMAT, "a: the shape overflows"},
    {"real offset", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0.5,4]}}", -1, 4, PW_E_FORMAT, "not counts"},
    {"dtype", "{\"a\":{\"dtype\":\"F33\",\"shape\":[4],\"data_offsets\":[0,4]}}", -1, 4, PW_E_UNSUPPORTED, "a: unknown dtype \"F33\""},
    {"key", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4],\"x\":1}}", -1, 4, PW_E_FORMAT, "unknown key \"x\""},
    {"twice", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}", -1, 8, PW_E_FORMAT, "a"},
    {"metadata", "{\"__metadata__\":{\"a\":1}}", -1, 0, PW_E_FORMAT, "__metadata__: a is no string"},
};

START_TEST(refuses)
{
    struct pw_safetensors s;
    const char *path = broken(cases[_i].header, cases[_i].length, cases[_i].data);
    ck_fails(pw_safetensors_open(&s, path), cases[_i].code, cases[_i].text);
    ck_assert_msg(strstr(pw_error_text(), "x.safetensors"), "%s: the file is not named", cases[_i].what);
    ck_assert(s.n == 0 && !s.map.data);
}
END_TEST

START_TEST(round_trip)
{
    static const float x[6] = {1, 2, 3, 4, 5, -6};
    static const uint8_t y[3] = {7, 8, 9};
    const struct pw_st_write t[] = {{"b.weight", "F32", 2, {2, 3}, x, sizeof x}, {"a \"quoted\"", "U8", 1, {3}, y, sizeof y}, {"scalar", "U8", 0, {0}, y, 1}, {"none", "F32", 1, {0}, x, 0}};
    const char *const metadata[] = {"format", "pt", NULL};
    const char *dir = test_tmpdir(), *first = test_path(dir, "1.safetensors"), *second = test_path(dir, "2.safetensors");
    ck_ok(pw_safetensors_write(first, t, 4, metadata, false));
    ck_fails(pw_safetensors_write(first, t, 4, metadata, false), PW_E_REFUSED, "1.safetensors");

    struct pw_st_stream w;
    ck_ok(pw_st_stream_open(&w, second, 4 * pw_st_header_room("a \"quoted\"", 2), metadata, false));
    for (int i = 0; i < 4; i++) {
        ck_ok(pw_st_stream_begin(&w, t[i].name, t[i].dtype, t[i].ndim, t[i].shape));
        ck_ok(pw_st_stream_bytes(&w, t[i].data, t[i].bytes / 2));
        ck_ok(pw_st_stream_bytes(&w, (const char *)t[i].data + t[i].bytes / 2, t[i].bytes - t[i].bytes / 2));
    }
    ck_ok(pw_st_stream_commit(&w));
    pw_st_stream_abort(&w);

    for (int k = 0; k < 2; k++) {
        struct pw_safetensors s;
        ck_ok(pw_safetensors_open(&s, k ? second : first));
        ck_assert_uint_eq(s.n, 4);
        ck_assert_str_eq(s.tensors[0].name, "a \"quoted\"");
        const struct pw_st_tensor *b = pw_safetensors_find(&s, "b.weight");
        ck_assert(b && b->ndim == 2 && b->shape[0] == 2 && b->shape[1] == 3 && memcmp(b->data, x, sizeof x) == 0);
        ck_assert(!pw_safetensors_find(&s, "b") && pw_get(s.metadata, "format"));
        pw_safetensors_close(&s);
    }
}
END_TEST

START_TEST(stream_counts_bytes)
{
    const int64_t shape[1] = {2};
    struct pw_st_stream w;
    const char *dir = test_tmpdir(), *path = test_path(dir, "s.safetensors");
    ck_ok(pw_st_stream_open(&w, path, 1000, NULL, false));
    ck_ok(pw_st_stream_begin(&w, "a", "F32", 1, shape));
    ck_fails(pw_st_stream_bytes(&w, "123456789", 9), PW_E_FAIL, "a: more data");
    ck_ok(pw_st_stream_bytes(&w, "1234", 4));
    ck_fails(pw_st_stream_commit(&w), PW_E_FAIL, "a: 4 bytes of its data were not written");
    pw_st_stream_abort(&w);
    ck_assert(!pw_file_exists(path));
}
END_TEST

START_TEST(real_file)
{
    const char *path = test_shared("data/models/tinystories-656k/model.safetensors");
    if (!path) {
        test_skip("data/models/tinystories-656k is not there");
        return;
    }
    struct pw_safetensors s;
    ck_ok(pw_safetensors_open(&s, path));
    ck_assert_uint_eq(s.n, 20);
    pw_safetensors_close(&s);
}
END_TEST

static int open_work(void *path)
{
    struct pw_safetensors s;
    int rc = pw_safetensors_open(&s, path);
    if (rc == 0)
        pw_safetensors_close(&s);
    return rc;
}

START_TEST(no_memory)
{
    const char *path = broken("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", -1, 8);
    char copy[512];
    snprintf(copy, sizeof copy, "%s", path);
    ck_assert_int_gt(test_sweep_nomem(open_work, copy), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("safetensors");
    TCase *t = tcase_create("all");
    tcase_add_loop_test(t, refuses, 0, sizeof cases / sizeof *cases);
    tcase_add_test(t, round_trip);
    tcase_add_test(t, stream_counts_bytes);
    tcase_add_test(t, real_file);
    tcase_add_test(t, no_memory);
    suite_add_tcase(s, t);
    return test_run(s);
}
