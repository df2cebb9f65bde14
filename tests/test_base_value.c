/* JSON and YAML: the same tree, what is refused and where, JSON out. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/value.h"
#include "tests/support.h"

static struct pw_arena arena;

static void setup(void) { pw_arena_init(&arena); }
static void teardown(void) { pw_arena_free(&arena); }

static int json(const char *text, struct pw_value **v) { return pw_json_parse(&arena, text, strlen(text), "x.json", v); }
static int yaml(const char *text, struct pw_value **v) { return pw_yaml_parse(&arena, text, strlen(text), "x.yaml", v); }

/* One line of canonical JSON for comparison. */
static const char *shown(const struct pw_value *v)
{
    struct pw_json w = { 0 };
    pw_json_value(&w, NULL, v);
    ck_ok(pw_json_status(&w));
    const char *text = pw_arena_strndup(&arena, w.out.data, w.out.len);
    pw_json_free(&w);
    return text;
}

START_TEST(json_good)
{
    static const struct { const char *in, *out; } cases[] = {
        { "null", "null" }, { " [1, -2.5, 1e4, true, false, \"\"] ", "[1,-2.5,10000.0,true,false,\"\"]" },
        { "{\"b\": {\"z\": 1, \"a\": []}, \"a\": {}}", "{\"b\":{\"z\":1,\"a\":[]},\"a\":{}}" },
        { "\"\\u00e9\\ud83e\\ude99\\n\\u0001\"", "\"\xc3\xa9\xf0\x9f\xaa\x99\\n\\u0001\"" },
        { "[9223372036854775807, -9223372036854775808]", "[9223372036854775807,-9223372036854775808]" }, { "[1e-400]", "[0.0]" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct pw_value *v = NULL;
        ck_ok(json(cases[i].in, &v));
        ck_assert_str_eq(shown(v), cases[i].out);
    }
    struct pw_value *v;
    ck_ok(json("[\"a\\u0000b\", 1]", &v));
    ck_assert_uint_eq(v->items[0].len, 3);
    ck_assert_mem_eq(v->items[0].s, "a\0b", 4);
}
END_TEST

START_TEST(json_bad)
{
    static const struct { const char *in, *text; } cases[] = {
        { "", "line 1" }, { "[1,\n 2,,]", "line 2, column 4" }, { "{\"a\": 1} x", "line 1" }, { "{\"a\":1,\n\"a\":2}", "line 2" },
        { "[NaN]", "line 1" }, { "[Infinity]", "line 1" }, { "[01]", "line 1" }, { "[\"\xff\"]", "line 1" }, { "[\"a", "line 1" },
        { "[9223372036854775808]", "too big" }, { "[1e999]", "real number overflow" }, { "{1:2}", "line 1" }, { "['a']", "line 1" },
        { "[\"\\ud800\"]", "line 1" }, { "[\"\t\"]", "line 1" }, { "\xef\xbb\xbf[]", "line 1" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct pw_value *v = NULL;
        ck_fails(json(cases[i].in, &v), PW_E_FORMAT, cases[i].text);
        ck_assert(strncmp(pw_error_text(), "x.json: ", 8) == 0);
        ck_assert_ptr_null(v);
    }
    ck_fails(pw_json_load(&arena, "/nowhere/at-all.json", &(struct pw_value *){ 0 }), PW_E_IO, "/nowhere/at-all.json");
    struct pw_value *v;
    ck_fails(pw_json_parse(&arena, "[]\0[]", 5, "x.json", &v), PW_E_FORMAT, "line 1");
}
END_TEST

/* Deep texts must be refused, not crash; 200 levels are fine. */
START_TEST(depth)
{
    enum { DEEP = 1000000 };
    char *text = pw_alloc(DEEP + 1);
    struct pw_value *v;
    memset(text, '[', DEEP);
    text[DEEP] = 0;
    ck_fails(json(text, &v), PW_E_FORMAT, "line 1, column 201: nested deeper than 200");
    text[100000] = 0;
    ck_fails(yaml(text, &v), PW_E_FORMAT, "");
    text[200] = 0;
    memset(text + 200, ']', 200);
    text[400] = 0;
    ck_ok(json(text, &v));
    ck_ok(yaml(text, &v));
    struct pw_json w = { 0 }; /* readable, but too deep to write: an error */
    pw_json_value(&w, NULL, v);
    ck_fails(pw_json_status(&w), PW_E_FAIL, "nested deeper than 64");
    pw_json_free(&w);
    pw_free(text);
}
END_TEST

START_TEST(yaml_good)
{
    static const struct { const char *in, *out; } cases[] = {
        { "--- \na: .5\n...\n", "{\"a\":0.5}" }, { "{\"a\": [1]}", "{\"a\":[1]}" }, { "x: 2024-01-01", "{\"x\":\"2024-01-01\"}" },
        { "", "null" }, { "a: 1\nb: [x, 2.5, ~, true]\nc:\n  - d: 'true'\n    e: \"1\"\n", "{\"a\":1,\"b\":[\"x\",2.5,null,true],\"c\":[{\"d\":\"true\",\"e\":\"1\"}]}" },
        { "lr: 2e-4", "{\"lr\":0.0002}" }, { "- 0x1F\n- 0o17\n- 017\n- 1_000\n- yes\n- 1.2.3\n- 1e5", "[31,15,17,\"1_000\",\"yes\",\"1.2.3\",100000.0]" },
        { "t: |\n  a\n  b\nu: >-\n  a\n  b\n", "{\"t\":\"a\\nb\\n\",\"u\":\"a b\"}" }, { "1: a\ntrue: b\n~: c", "{\"1\":\"a\",\"true\":\"b\",\"~\":\"c\"}" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct pw_value *v = NULL;
        ck_ok(yaml(cases[i].in, &v));
        ck_assert_str_eq(shown(v), cases[i].out);
    }
    struct pw_value *v;
    ck_ok(yaml("# c\na: 1\n\nb:\n  - x\n  - {y: 2}\n", &v));
    ck_assert_int_eq(pw_get(v, "a")->line, 2);
    ck_assert_int_eq(pw_get(v, "b")->items[1].members[0].value.line, 6);
}
END_TEST

START_TEST(yaml_bad)
{
    static const struct { const char *in, *text; int code; } cases[] = {
        { "a: 1\nb: &x 2\n", "line 2: anchors", PW_E_UNSUPPORTED }, { "a: *x", "line 1: aliases", PW_E_UNSUPPORTED },
        { "a: !!str 1", "line 1: tags", PW_E_UNSUPPORTED }, { "a: ! 1", "line 1: tags", PW_E_UNSUPPORTED },
        { "!!map {a: 1}", "tags", PW_E_UNSUPPORTED }, { "- &x [1]", "anchors", PW_E_UNSUPPORTED },
        { "a: 1\nb: 2\na: 3", "line 3: key a stands twice (first in line 1)", PW_E_FORMAT }, { "a: 1\n\"a\": 2", "key a stands twice", PW_E_FORMAT },
        { "a: 1\n---\nb: 2", "line 2: a second document", PW_E_UNSUPPORTED }, { "a: .nan", "NaN", PW_E_UNSUPPORTED }, { "[.inf]", "NaN and inf", PW_E_UNSUPPORTED },
        { "a: 9223372036854775808", "64 bits", PW_E_FORMAT }, { "a: 0x8000000000000000", "64 bits", PW_E_FORMAT },
        { "a: 0xFFFFFFFFFFFFFFFFFFFFFF", "64 bits", PW_E_FORMAT }, { "a: 1e999", "too large", PW_E_FORMAT },
        { "a: [1, 2", "did not find expected", PW_E_FORMAT }, { "a:\n\t- 1", "line 2", PW_E_FORMAT }, { "? [a]\n: 1", "a key must be", PW_E_UNSUPPORTED },
        { "a: \xff", "x.yaml", PW_E_FORMAT }, { "a: b: c", "line 1", PW_E_FORMAT },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct pw_value *v = NULL;
        ck_fails(yaml(cases[i].in, &v), cases[i].code, cases[i].text);
        ck_assert(strncmp(pw_error_text(), "x.yaml: ", 8) == 0);
        ck_assert_ptr_null(v);
    }
}
END_TEST

START_TEST(typed)
{
    struct pw_value *v;
    int64_t i = 7;
    double d = 7;
    bool b = true;
    const char *s = "kept";
    ck_ok(yaml("i: 3\nr: 1e4\nf: 2.5\nb: false\ns: text\nn: null\n", &v));
    ck_ok(pw_get_i64(v, "absent", "x", &i));
    ck_ok(pw_get_i64(v, "n", "x", &i));
    ck_ok(pw_get_str(v, "n", "x", &s));
    ck_assert(i == 7 && strcmp(s, "kept") == 0);
    ck_ok(pw_get_i64(v, "r", "x", &i));
    ck_assert_int_eq(i, 10000);
    ck_ok(pw_get_f64(v, "i", "x", &d));
    ck_assert(d == 3);
    ck_ok(pw_get_bool(v, "b", "x", &b));
    ck_ok(pw_get_str(v, "s", "x", &s));
    ck_assert(!b && strcmp(s, "text") == 0);
    ck_fails(pw_get_i64(v, "s", "x.yaml", &i), PW_E_FORMAT, "x.yaml: s: expected int, got string (line 5)");
    ck_fails(pw_get_i64(v, "f", "x.yaml", &i), PW_E_FORMAT, "expected int, got real");
    ck_fails(pw_get_f64(v, "s", "x.yaml", &d), PW_E_FORMAT, "expected number, got string");
    ck_fails(pw_get_bool(v, "i", "x.yaml", &b), PW_E_FORMAT, "expected bool, got int");
    ck_fails(pw_get_str(v, "i", "x.yaml", &s), PW_E_FORMAT, "expected string, got int (line 1)");
    ck_assert_ptr_null(pw_get(NULL, "a"));
    ck_assert_ptr_null(pw_get(&v->members[0].value, "a"));
}
END_TEST

START_TEST(writer)
{
    struct pw_json w = { 0 };
    pw_json_open(&w, NULL, '{');
    pw_json_str(&w, "a\"", "x\n\x01\x7f\\");
    pw_json_strn(&w, "bad", "a\xff\xc3", 3);
    pw_json_str(&w, "none", NULL);
    pw_json_i64(&w, "i", INT64_MIN);
    pw_json_f64(&w, "f", 0.1);
    pw_json_f32(&w, "g", 0.1f);
    pw_json_open(&w, "l", '[');
    pw_json_bool(&w, NULL, true);
    pw_json_open(&w, NULL, '{');
    pw_json_close(&w, '}');
    pw_json_close(&w, ']');
    pw_json_close(&w, '}');
    ck_ok(pw_json_status(&w));
    ck_assert_str_eq(w.out.data, "{\"a\\\"\":\"x\\n\\u0001\\u007f\\\\\",\"bad\":\"a\xef\xbf\xbd\xef\xbf\xbd\",\"none\":null,\"i\":-9223372036854775808,\"f\":0.1,"
                                 "\"g\":0.1,\"l\":[true,{}]}");
    pw_json_free(&w);
    w.indent = true;
    pw_json_open(&w, NULL, '{');
    pw_json_open(&w, "a", '[');
    pw_json_i64(&w, NULL, 1);
    pw_json_i64(&w, NULL, 2);
    pw_json_close(&w, ']');
    pw_json_close(&w, '}');
    ck_assert_str_eq(w.out.data, "{\n  \"a\": [\n    1,\n    2\n  ]\n}\n");
    pw_json_free(&w);
    pw_json_f64(&w, "loss", NAN);
    ck_fails(pw_json_status(&w), PW_E_NUMERIC, "JSON field loss is not a number");
    pw_json_free(&w);
    pw_json_f32(&w, NULL, -INFINITY);
    ck_fails(pw_json_status(&w), PW_E_NUMERIC, "not a number");
    pw_json_free(&w);
    pw_json_open(&w, NULL, '[');
    ck_fails(pw_json_status(&w), PW_E_FAIL, "not closed");
    for (int i = 0; i < 100; i++) pw_json_open(&w, NULL, '[');
    ck_fails(pw_json_status(&w), PW_E_FAIL, "nested deeper");
    pw_json_free(&w);
}
END_TEST

START_TEST(floats_read_back)
{
    struct pw_rng r = pw_rng_make(11, PW_STREAM_TEST);
    for (int i = 0; i < 20000; i++) {
        uint32_t bits = pw_rng_u32(&r);
        float x;
        memcpy(&x, &bits, 4);
        if (!isfinite(x)) continue;
        struct pw_json w = { 0 };
        pw_json_f32(&w, NULL, x);
        float y = strtof(w.out.data, NULL);
        ck_assert_mem_eq(&x, &y, 4);
        pw_json_free(&w);
    }
}
END_TEST

static const char mixed_json[] = "{\"a\": [1, 2.5, \"text that is long enough to be copied somewhere\", {\"b\": null}], \"c\": {\"d\": true, \"e\": \"\\u00e9\"}}";

static int parse_once(void *context)
{
    struct pw_arena a;
    struct pw_value *v = NULL;
    pw_arena_init(&a);
    int rc = *(bool *)context ? pw_yaml_parse(&a, mixed_json, sizeof mixed_json - 1, "x", &v) : pw_json_parse(&a, mixed_json, sizeof mixed_json - 1, "x", &v);
    if (rc == 0) ck_assert_uint_eq(v->len, 2);
    pw_arena_free(&a);
    return rc;
}

static int write_once(void *context)
{
    (void)context;
    struct pw_json w = { 0 };
    pw_json_open(&w, NULL, '[');
    for (int i = 0; i < 200; i++) pw_json_i64(&w, NULL, i);
    pw_json_close(&w, ']');
    int rc = pw_json_status(&w);
    pw_json_free(&w);
    return rc;
}

START_TEST(out_of_memory)
{
    bool use_yaml = false;
    ck_assert_int_ge(test_sweep_nomem(parse_once, &use_yaml), 1);
    use_yaml = true;
    ck_assert_int_ge(test_sweep_nomem(parse_once, &use_yaml), 1);
    ck_assert_int_ge(test_sweep_nomem(write_once, NULL), 2);
}
END_TEST

/* Every prefix and every changed byte of a text: an answer or an error, no crash, no sanitizer report. */
START_TEST(damaged)
{
    char text[sizeof mixed_json];
    struct pw_value *v;
    size_t n = sizeof mixed_json - 1;
    for (size_t i = 0; i < n; i++) {
        (void)pw_json_parse(&arena, mixed_json, i, "x", &v);
        (void)pw_yaml_parse(&arena, mixed_json, i, "x", &v);
        for (int k = 0; k < 6; k++) {
            memcpy(text, mixed_json, sizeof text);
            text[i] = "\0\xff[\"{:"[k];
            (void)pw_json_parse(&arena, text, n, "x", &v);
            (void)pw_yaml_parse(&arena, text, n, "x", &v);
        }
        pw_arena_reset(&arena);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("base: values");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, teardown);
    suite_add_tcase(s, t);
    tcase_add_test(t, json_good);
    tcase_add_test(t, json_bad);
    tcase_add_test(t, depth);
    tcase_add_test(t, yaml_good);
    tcase_add_test(t, yaml_bad);
    tcase_add_test(t, typed);
    tcase_add_test(t, writer);
    tcase_add_test(t, floats_read_back);
    tcase_add_test(t, out_of_memory);
    tcase_add_test(t, damaged);
    return test_run(s);
}
