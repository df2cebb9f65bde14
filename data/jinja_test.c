/* Tests: `x is defined` and its kin. */
#include <math.h>
#include <string.h>

#include "data/jinja_parts.h"

static const char *const tests[] = {
    "defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "number", "integer", "float", "boolean", "true", "false", "odd",
    "even", "divisibleby", "equalto", "eq", "==", "ne", "!=", "lt", "<", "lessthan", "le", "<=", "gt", ">", "greaterthan", "ge", ">=", "in",
    "sameas", "lower", "upper", "callable", "filter", "test", "escaped", NULL,
};

const char *jinja_test_find(const char *name, size_t n)
{
    for (const char *const *t = tests; *t; t++)
        if (strlen(*t) == n && memcmp(*t, name, n) == 0)
            return *t;
    return NULL;
}

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

static int kind_test(const char *name, const struct jv *v, bool *out)
{
    bool plain_map = v->kind == JV_MAP && !v->map->is_namespace;
    if (is(name, "defined")) *out = v->kind != JV_UNDEFINED;
    else if (is(name, "undefined")) *out = v->kind == JV_UNDEFINED;
    else if (is(name, "none")) *out = v->kind == JV_NONE;
    else if (is(name, "string")) *out = v->kind == JV_STRING;
    else if (is(name, "mapping")) *out = plain_map;
    else if (is(name, "iterable")) *out = v->kind == JV_STRING || v->kind == JV_LIST || plain_map || v->kind == JV_UNDEFINED || v->kind == JV_LOOP;
    else if (is(name, "sequence")) *out = v->kind == JV_STRING || v->kind == JV_LIST || plain_map || v->kind == JV_UNDEFINED;
    else if (is(name, "number")) *out = v->kind == JV_INT || v->kind == JV_REAL || v->kind == JV_BOOL;
    else if (is(name, "integer")) *out = v->kind == JV_INT;
    else if (is(name, "float")) *out = v->kind == JV_REAL;
    else if (is(name, "boolean")) *out = v->kind == JV_BOOL;
    else if (is(name, "true")) *out = v->kind == JV_BOOL && v->b;
    else if (is(name, "false")) *out = v->kind == JV_BOOL && !v->b;
    else if (is(name, "callable")) *out = v->kind == JV_MACRO || v->kind == JV_FUNCTION || v->kind == JV_METHOD || v->kind == JV_LOOP || v->kind == JV_UNDEFINED;
    else if (is(name, "filter")) *out = v->kind == JV_STRING && jinja_filter_find(v->s, v->len);
    else if (is(name, "test")) *out = v->kind == JV_STRING && jinja_test_find(v->s, v->len);
    else if (is(name, "escaped")) *out = false;
    else return 1;
    return 0;
}

static bool same(const struct jv *a, const struct jv *b)
{
    if (a->kind != b->kind)
        return false;
    return a->kind == JV_LIST || a->kind == JV_MAP ? a->list == b->list : jv_equal(a, b, 0);
}

static int order_test(struct jinja_run *r, const char *name, const struct jv *v, const struct jv *with, bool *out)
{
    int c;
    PW_PASS(jv_compare(r, v, with, &c));
    if (is(name, "lt") || is(name, "<") || is(name, "lessthan")) *out = c < 0;
    else if (is(name, "le") || is(name, "<=")) *out = c <= 0;
    else if (is(name, "gt") || is(name, ">") || is(name, "greaterthan")) *out = c > 0;
    else *out = c >= 0;
    return 0;
}

int jinja_test(struct jinja_run *r, const char *name, const struct jv *v, const struct jinja_args *args, bool *out)
{
    static const char *const names[] = {"other"};
    struct jv a[1];
    if ((is(name, "filter") || is(name, "test")) && !jinja_hashable(v))
        return jinja_fail(r, "test %s: a %s names nothing", name, jv_kind_name(v));
    if (kind_test(name, v, out) == 0)
        return args->n + args->n_named == 0 ? 0 : jinja_fail(r, "test %s takes no argument", name);
    if (is(name, "odd") || is(name, "even")) {
        double d, rest;
        bool is_int;
        int64_t i;
        if (jv_number(v, &d, &is_int, &i) < 0)
            return jinja_fail(r, "test %s: expected a number, got %s", name, jv_kind_name(v));
        rest = is_int ? (double)(i % 2 != 0) : fabs(fmod(d, 2)); /* of a fraction neither holds */
        *out = rest == (is(name, "odd") ? 1 : 0);
        return 0;
    }
    if (is(name, "lower") || is(name, "upper")) {
        struct jv text, changed;
        struct jinja_args none = {0};
        PW_PASS(jv_to_string(r, v, &text));
        struct jinja_method m = {text, is(name, "lower") ? "islower" : "isupper"};
        PW_PASS(jinja_method(r, &m, &none, &changed));
        *out = changed.b;
        return 0;
    }
    PW_PASS(jinja_args_take(r, args, name, names, 1, a));
    if (jinja_absent(&a[0]))
        return jinja_fail(r, "test %s needs an argument", name);
    if (is(name, "equalto") || is(name, "eq") || is(name, "=="))
        *out = jv_equal(v, &a[0], 0);
    else if (is(name, "ne") || is(name, "!="))
        *out = !jv_equal(v, &a[0], 0);
    else if (is(name, "in"))
        return jv_contains(r, &a[0], v, out);
    else if (is(name, "sameas"))
        *out = same(v, &a[0]);
    else if (is(name, "divisibleby")) {
        if (v->kind != JV_INT || a[0].kind != JV_INT || a[0].i == 0 || a[0].i == -1)
            return jinja_fail(r, "test divisibleby needs two integers, the second not 0 or -1");
        *out = v->i % a[0].i == 0;
    } else
        return order_test(r, name, v, &a[0], out);
    return 0;
}
