/* Slices of lists and texts, by code points, with Python's clamping of ends. What Python cannot slice is an error, as in Jinja, but
 * for slices whose every part is constant: those Jinja takes while it compiles, and there they are undefined. */
#include <inttypes.h>
#include <string.h>

#include "data/jinja_parts.h"

/* Filters that ask for the running template, which there is none of while compiling. */
static bool wants_context(const char *name)
{
    static const char *const those[] = {"map", "select", "reject", "selectattr", "rejectattr"};
    for (size_t i = 0; i < sizeof those / sizeof *those; i++)
        if (strcmp(name, those[i]) == 0)
            return true;
    return false;
}

/* Whether Jinja can work n out while it compiles; n NULL is a part left out. */
static bool constant(const struct jinja_node *n)
{
    if (!n)
        return true;
    switch (n->kind) {
    case JN_CONST: return true;
    case JN_LIST: case JN_TUPLE: case JN_DICT: case JN_COND: case JN_AND: case JN_OR: case JN_NOT: case JN_NEG: case JN_POS: case JN_BINARY:
    case JN_COMPARE: case JN_CONCAT: case JN_ATTR: case JN_ITEM: case JN_SLICE: case JN_TEST: case JN_KEYWORD: break;
    case JN_FILTER:
        if (wants_context(n->name))
            return false;
        break;
    default: return false;
    }
    if (!constant(n->a) || !constant(n->b) || !constant(n->c) || !constant(n->d))
        return false;
    for (size_t i = 0; i < n->n; i++)
        if (!constant(n->list[i]))
            return false;
    return true;
}

enum { NOT_AN_INTEGER = 1 };

/* One end of a slice as Python clamps it; NOT_AN_INTEGER for what is none. */
static int slice_end(struct jinja_run *r, const struct jinja_node *n, int64_t length, int64_t step, int64_t absent, int64_t *out)
{
    *out = absent;
    if (!n)
        return 0;
    struct jv v;
    PW_PASS(jinja_eval(r, n, &v));
    if (v.kind == JV_NONE)
        return 0;
    if (v.kind != JV_INT && v.kind != JV_BOOL)
        return NOT_AN_INTEGER;
    int64_t i = v.kind == JV_INT ? v.i : v.b, low = step < 0 ? -1 : 0, high = step < 0 ? length - 1 : length;
    if (i < 0)
        i = i < -length ? low : i + length;
    *out = i < low ? low : i > high ? high : i;
    return 0;
}

/* The parts of n: 0, a failure, or NOT_AN_INTEGER. */
static int slice_parts(struct jinja_run *r, const struct jinja_node *n, int64_t length, int64_t *step, int64_t *from, int64_t *to)
{
    *step = 1;
    if (n->d) {
        struct jv s;
        PW_PASS(jinja_eval(r, n->d, &s));
        if (s.kind == JV_INT || s.kind == JV_BOOL)
            *step = s.kind == JV_INT ? s.i : s.b;
        else if (s.kind != JV_NONE)
            return NOT_AN_INTEGER;
    }
    if (*step == 0 || *step > INT32_MAX || *step < -INT32_MAX)
        return jinja_fail(r, "the step of a slice is %" PRId64, *step);
    int rc = slice_end(r, n->b, length, *step, *step < 0 ? length - 1 : 0, from);
    return rc ? rc : slice_end(r, n->c, length, *step, *step < 0 ? -1 : length, to);
}

int jinja_slice(struct jinja_run *r, const struct jinja_node *n, const struct jv *v, struct jv *out)
{
    struct jv list;
    int64_t step, from, to;
    if (v->kind == JV_UNDEFINED)
        return jinja_undefined(r, v);
    bool can = v->kind == JV_LIST || v->kind == JV_STRING;
    if (!can && !constant(n))
        return jinja_fail(r, "a slice needs a list or a text, got %s", jv_kind_name(v));
    *out = jv_undefined("slice");
    if (!can)
        return 0;
    PW_PASS(jv_iterate(r, v, &list));
    int rc = slice_parts(r, n, (int64_t)list.list->n, &step, &from, &to);
    if (rc == NOT_AN_INTEGER)
        return constant(n) ? 0 : jinja_fail(r, "a slice needs integers for its ends and its step");
    PW_PASS(rc);
    PW_PASS(jv_list(r, 0, out));
    out->list->tuple = list.list->tuple;
    for (int64_t i = from; step > 0 ? i < to : i > to; i += step)
        PW_PASS(jv_push(r, out, list.list->items[i]));
    if (v->kind == JV_LIST)
        return 0;
    struct jv none = jv_static("");
    struct jv chars = *out;
    return jinja_join(r, &chars, &none, true, out);
}
