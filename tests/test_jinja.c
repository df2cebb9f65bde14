/* The template interpreter: renderings as Python's Jinja2 3.1.6 gives them (the expected texts were made with it), refusals, limits, the
 * sweep of failing allocations, and the reference templates where shared data is there. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "data/jinja.h"
#include "tests/support.h"

static const char vars_text[] =
    "{\"s\":\"  Za\\u017c\\u00f3\\u0142\\u0107 \\ud83d\\ude00 'q'  \",\"n\":null,\"t\":true,\"i\":7,\"x\":2.5,\"l\":[3,1,2],\"ls\":[\"b\",\"A\",\"c\"],"
    "\"d\":{\"b\":1,\"a\":[1,{\"z\":null}]},\"ms\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":\"yo\"}]}";

static int render(const char *template, size_t bytes, const struct pw_jinja_limits *limits, struct pw_buf *out, struct pw_spans *spans)
{
    struct pw_arena a;
    struct pw_value *vars;
    struct pw_jinja *t = NULL;
    int rc;
    pw_arena_init(&a);
    rc = pw_json_parse(&a, vars_text, sizeof vars_text - 1, "vars", &vars);
    if (rc == 0)
        rc = pw_jinja_parse(&t, template, bytes, "T");
    if (rc == 0)
        rc = pw_jinja_render(t, vars, limits, out, spans);
    pw_jinja_free(t);
    pw_arena_free(&a);
    return rc;
}

static const struct { const char *template, *text; } cases[] = {
    {"{{ s|trim }}|{{ s|length }}|{{ s[2:6] }}|{{ l[::-1] }}|{{ l[-2:] }}|{{ 'abc'[-1] }}", "Zażółć 😀 'q'|16|Zażó|[2, 1, 3]|[1, 2]|c"},
    {"{{ d|tojson }} {{ d|tojson(indent=2) }} {{ []|tojson(indent=2) }}",
     "{\"b\": 1, \"a\": [1, {\"z\": null}]} {\n  \"b\": 1,\n  \"a\": [\n    1,\n    {\n      \"z\": null\n    }\n  ]\n} []"},
    {"{{ d }} {{ (1,) }} {{ [n, t, 1.0, 'it\\'s'] }} {{ 1e20 }} {{ 0.1+0.2 }} {{ 1e-7 }}",
     "{'b': 1, 'a': [1, {'z': None}]} (1,) [None, True, 1.0, \"it's\"] 1e+20 0.30000000000000004 1e-07"},
    {"{{ 7//2 }} {{ -7//2 }} {{ -7%3 }} {{ 7/2 }} {{ 2**10 }} {{ -2**2 }} {{ 1 ~ 2 * 3 }}", "3 -4 2 3.5 1024 4 16"},
    {"{{ nothing }}|{{ d.zz }}|{{ 1 if false }}|{{ nothing is defined }}|{{ n is none }}", "|||False|True"},
    {"{{ 1 < 2 < 3 }} {{ 'a' in 'abc' }} {{ 1 not in l }} {{ not 1 in l }} {{ t and 'x' or 'y' }}", "True True False False x"},
    {"{{ 'a,b,,c'.split(',') }} {{ ' a  b c '.split(None, 1) }} {{ 'a-b-c'.rsplit('-', 1) }}",
     "['a', 'b', '', 'c'] ['a', 'b c '] ['a-b', 'c']"},
    {"{{ ls|sort }} {{ ls|map('upper')|join('') }} {{ ms|map(attribute='role')|join(',') }} {{ ms|selectattr('role','equalto','user')|list }}",
     "['A', 'b', 'c'] BAC user,assistant [{'role': 'user', 'content': 'hi'}]"},
    {"{% for k, v in d.items() if k != 'b' %}{{ k }}={{ v }};{{ loop.index }}{{ loop.last }}{% endfor %}", "a=[1, {'z': None}];1True"},
    {"{% for a in [] %}x{% else %}empty{% endfor %}", "empty"},
    {"{% for a in l %}{% if a == 3 %}{% continue %}{% endif %}{{ a }}{% if a == 1 %}{% break %}{% endif %}{% endfor %}", "1"},
    {"{% set y = 1 %}{% for a in l %}{% set y = y + a %}{{ y }}{% endfor %}{{ y }}", "4231"},
    {"{% set ns = namespace(a=1) %}{% for a in l %}{% set ns.a = ns.a + a %}{% endfor %}{{ ns.a }}", "7"},
    {"{% macro m(a, b=2) %}[{{ a }}{{ b }}{{ varargs }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, 2, 3) }}", "[12()][13()][12(3,)]"},
    {"{% macro o() %}<{{ caller('p') }}>{% endmacro %}{% call(u) o() %}in {{ u }}{% endcall %}", "<in p>"},
    {"{% set b %}x{{ i }}{% endset %}{{ b }}{% filter upper %}a{{ i }}{% endfilter %}{% with q = 5, r = i %}{{ q }}{{ r }}{% endwith %}", "x7A757"},
    {"{% raw %}{{ x }}{% endraw %}|{# c #}|{{ '}}' }}{{ {'a': {}} }}", "{{ x }}||}}{'a': {}}"},
    {"a {%- if true -%} b {%- endif -%} c\n  {% if true %}\n  x\n  {% endif %}\ny\n  {{- 'q' -}}  \nw\n", "abc\n  x\ny" "qw"},
    {"{%+ if true %} p {% endif +%}\nr\n  {%- set q = 1 %}\n\n  v\n\n", " p \nr\n  v\n"},
    {"{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"},
    {"{% for x in [[1,2],[3,[4]]] recursive %}({% if x is sequence %}{{ loop(x) }}{% else %}{{ x }}{% endif %}){% endfor %}", "((1)(2))((3)((4)))"},
    {"{{ nothing|default('d') }}{{ n|default('d') }}{{ ''|default('d', true) }}{{ '5'|int + 1 }}{{ 'x'|int }}{{ 2.5|round }}", "dNoned602.0"},
    {"{{ 'a\nb\n\nc'|indent }}|{{ 'aaa'|replace('a', 'b', 2) }}|{{ '<a>'|e }}|{{ \"they're bill's\"|title }}|{{ \"they're\".title() }}",
     "a\n    b\n\n    c|bba|&lt;a&gt;|They're Bill's|They'Re"},
    {"{% for a in l %}{% continue %}{% else %}none{% endfor %}|{{ 'é😀'.isalpha() }}{{ 'éß'.isalpha() }}|{{ '%d' % 2.9 }}|{{ \"a 'b' 😀 c_d\"|wordcount }}|{{ 'ΑΩǅ'.lower() }}",
     "none|FalseTrue|2|3|αωǆ"},
    {"{{ 5[::-1] }}|{{ ('a b'|wordcount)[1:] ~ 'x' }}|{{ 'abc'[:2.5] is undefined }}|{{ l[:true] }}{{ 'abc'[::true] }}", "|x|True|[3]abc"},
    {"{{ ' 1_0 '|int }} {{ '+0x1F'|int(base=16) }} {{ '0b11'|int(base=2) }} {{ '_1'|int }} {{ '1e3'|int }} {{ 'nan'|float }} {{ '-Infinity'|float }} {{ 'inf'|int(4) }}", "10 31 3 0 1000 nan -inf 4"},
    {"{% for a, (b, c) in [(1, (2, 'x'))] %}{{ a }}{{ b }}{{ c }}{{ loop }}{% endfor %}{{ namespace(a='b') }}{{ dict([(1, 2), 'ab'], c=3) }}", "12x<LoopContext 1/1><Namespace {'a': 'b'}>{1: 2, 'a': 'b', 'c': 3}"},
    {"{{ t is odd }}{{ 3.0 is odd }}{{ 2.5 is even }}{{ -3 is odd }}{{ i.real }}{{ t.real }}{{ i.imag }}", "TrueTrueFalseTrue710"},
};

START_TEST(as_jinja2_renders)
{
    struct pw_jinja_limits limits = {.now = 1721995200};
    struct pw_buf out = {0};
    ck_ok(render(cases[_i].template, strlen(cases[_i].template), &limits, &out, NULL));
    ck_assert_str_eq(out.data ? out.data : "", cases[_i].text);
    pw_buf_free(&out);
}
END_TEST

START_TEST(generation_spans)
{
    static const char t[] = "{% for m in ms %}{{ m.role }}:{% generation %}{{ m.content }}!{% endgeneration %};{% endfor %}";
    struct pw_buf out = {0};
    struct pw_spans s = {0};
    ck_ok(render(t, sizeof t - 1, NULL, &out, &s));
    ck_assert_str_eq(out.data, "user:hi!;assistant:yo!;");
    ck_assert_uint_eq(s.n, 2);
    ck_assert(s.start[0] == 5 && s.end[0] == 8 && s.start[1] == 19 && s.end[1] == 22);
    pw_buf_free(&out);
    pw_spans_free(&s);
}
END_TEST

START_TEST(refused)
{
    static const struct pw_jinja_limits limits = {.steps = 2000000, .memory = 32 << 20};
    struct pw_arena a;
    char **names;
    size_t n, bytes;
    pw_arena_init(&a);
    ck_ok(pw_dir_list(&a, "tests/fixtures/refused/jinja", &names, &n));
    ck_assert_uint_ge(n, 25);
    for (size_t i = 0; i < n; i++) {
        char *text = test_slurp(pw_path_join(&a, "tests/fixtures/refused/jinja", names[i]), &bytes);
        struct pw_buf out = {0};
        pw_buf_str(&out, "before");
        int rc = render(text, bytes, &limits, &out, NULL);
        ck_assert_msg(rc == PW_E_FORMAT, "%s: %d %s", names[i], rc, pw_error_text());
        ck_assert_msg(strstr(pw_error_text(), "template T, line 1: ") != NULL, "%s: %s", names[i], pw_error_text());
        ck_assert_str_eq(out.data, "before"); /* nothing half-rendered stays */
        pw_buf_free(&out);
        pw_free(text);
    }
    pw_arena_free(&a);
}
END_TEST

START_TEST(place_of_an_error)
{
    static const char t[] = "a\n{% if true %}\n\n{{ nothing.x }}\n{% endif %}";
    struct pw_buf out = {0};
    ck_fails(render(t, sizeof t - 1, NULL, &out, NULL), PW_E_FORMAT, "template T, line 4: 'nothing' is undefined");
    pw_buf_free(&out);
}
END_TEST

START_TEST(limits_hold)
{
    static const char many[] = "{% for a in range(1000) %}{{ s }}{% endfor %}";
    struct pw_jinja_limits output = {.output = 1000}, steps = {.steps = 100};
    struct pw_buf out = {0};
    ck_fails(render(many, sizeof many - 1, &output, &out, NULL), PW_E_FORMAT, "more than 1000 bytes of output");
    ck_fails(render(many, sizeof many - 1, &steps, &out, NULL), PW_E_FORMAT, "more than 100 steps");
    pw_buf_free(&out);
}
END_TEST

static int sweep_work(void *context)
{
    (void)context;
    static const char t[] = "{% macro m(a) %}{{ a|upper }}{% endmacro %}{% for x in ls|sort %}{{ m(x) ~ d|tojson }}{% generation %}g{% endgeneration %}{% endfor %}";
    struct pw_buf out = {0};
    struct pw_spans s = {0};
    int rc = render(t, sizeof t - 1, NULL, &out, &s);
    pw_buf_free(&out);
    pw_spans_free(&s);
    return rc;
}

START_TEST(out_of_memory)
{
    ck_assert_int_gt(test_sweep_nomem(sweep_work, NULL), 5);
}
END_TEST

START_TEST(reference_templates)
{
    const char *path = test_shared("data/chat_templates/expected.json");
    if (!path) {
        test_skip("reference templates are not here");
        return;
    }
    struct pw_arena a;
    struct pw_value *v;
    pw_arena_init(&a);
    ck_ok(pw_json_load(&a, path, &v));
    const struct pw_value *all = pw_get(v, "cases"), *conversations = pw_get(v, "conversations");
    ck_assert_uint_ge(all->len, 100);
    for (size_t i = 0; i < all->len; i++) {
        const struct pw_value *c = &all->items[i], *text = pw_get(c, "text");
        char name[200];
        size_t bytes;
        snprintf(name, sizeof name, "data/%s", pw_get(c, "template")->s);
        char *source = test_slurp(test_shared(name), &bytes);
        struct pw_member m[] = {
            {"messages", 8, *pw_get(conversations, pw_get(c, "conversation")->s)}, {"tools", 5, {.kind = PW_NULL}}, {"documents", 9, {.kind = PW_NULL}},
            {"add_generation_prompt", 21, *pw_get(c, "add_generation_prompt")}, {"bos_token", 9, *pw_get(c, "bos_token")},
            {"eos_token", 9, *pw_get(c, "eos_token")},
        };
        struct pw_value vars = {.kind = PW_MAP, .len = 6, .members = m};
        struct pw_jinja_limits limits = {.now = 1721995200};
        struct pw_jinja *t;
        struct pw_buf out = {0};
        ck_ok(pw_jinja_parse(&t, source, bytes, name));
        int rc = pw_jinja_render(t, &vars, &limits, &out, NULL);
        if (text && text->kind == PW_STRING)
            ck_assert_msg(rc == 0 && out.len == text->len && memcmp(out.data ? out.data : "", text->s, out.len) == 0, "%s, %s: %s\n%s", name,
                          pw_get(c, "conversation")->s, pw_error_text(), out.data ? out.data : "");
        else
            ck_assert_msg(rc == PW_E_FORMAT, "%s, %s is not refused", name, pw_get(c, "conversation")->s);
        pw_buf_free(&out);
        pw_jinja_free(t);
        pw_free(source);
    }
    pw_arena_free(&a);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("jinja");
    TCase *c = tcase_create("jinja");
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, as_jinja2_renders, 0, (int)(sizeof cases / sizeof cases[0]));
    tcase_add_test(c, generation_spans);
    tcase_add_test(c, refused);
    tcase_add_test(c, place_of_an_error);
    tcase_add_test(c, limits_hold);
    tcase_add_test(c, out_of_memory);
    tcase_add_test(c, reference_templates);
    suite_add_tcase(s, c);
    return test_run(s);
}
