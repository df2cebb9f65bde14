/* Slices of lists and texts, by code points, with Python's clamping of ends. */
#include <inttypes.h>

#include "data/jinja_parts.h"

/* One end of a slice as Python clamps it. */
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
        return jinja_fail(r, "a slice needs integers, got %s", jv_kind_name(&v));
    int64_t i = v.kind == JV_INT ? v.i : v.b, low = step < 0 ? -1 : 0, high = step < 0 ? length - 1 : length;
    if (i < 0)
        i = i < -length ? low : i + length;
    *out = i < low ? low : i > high ? high : i;
    return 0;
}

int jinja_slice(struct jinja_run *r, const struct jinja_node *n, const struct jv *v, struct jv *out)
{
    struct jv list;
    int64_t step = 1, from, to;
    if (v->kind == JV_UNDEFINED)
        return jinja_fail(r, "'%s' is undefined", v->s ? v->s : "a value");
    if (v->kind != JV_LIST && v->kind != JV_STRING) {
        *out = jv_undefined("slice");
        return 0;
    }
    PW_PASS(jv_iterate(r, v, &list));
    int64_t length = (int64_t)list.list->n;
    if (n->d) {
        struct jv s;
        PW_PASS(jinja_eval(r, n->d, &s));
        if (s.kind == JV_INT)
            step = s.i;
        else if (s.kind != JV_NONE)
            return jinja_fail(r, "a slice needs integers, got %s", jv_kind_name(&s));
    }
    if (step == 0 || step > INT32_MAX || step < -INT32_MAX)
        return jinja_fail(r, "the step of a slice is %" PRId64, step);
    PW_PASS(slice_end(r, n->b, length, step, step < 0 ? length - 1 : 0, &from));
    PW_PASS(slice_end(r, n->c, length, step, step < 0 ? -1 : length, &to));
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
