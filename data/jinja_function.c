/* Functions that templates may call: range, dict, namespace, raise_exception, strftime_now. */
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "data/jinja_parts.h"

enum { F_RANGE, F_DICT, F_NAMESPACE, F_RAISE, F_NOW };
static const char *const functions[] = {"range", "dict", "namespace", "raise_exception", "strftime_now"};

int jinja_function_find(const char *name, size_t n)
{
    for (int i = 0; i < (int)(sizeof functions / sizeof functions[0]); i++)
        if (strlen(functions[i]) == n && memcmp(functions[i], name, n) == 0)
            return i;
    return -1;
}

static int range(struct jinja_run *r, const struct jinja_args *args, struct jv *out)
{
    int64_t v[3] = {0, 0, 1};
    if (args->n < 1 || args->n > 3 || args->n_named)
        return jinja_fail(r, "range takes 1 to 3 integers");
    for (size_t i = 0; i < args->n; i++) {
        if (args->items[i].kind != JV_INT)
            return jinja_fail(r, "range needs integers, got %s", jv_kind_name(&args->items[i]));
        v[args->n == 1 ? 1 : i] = args->items[i].i;
    }
    if (v[2] == 0)
        return jinja_fail(r, "range: the step is 0");
    PW_PASS(jv_list(r, 0, out));
    for (int64_t i = v[0]; v[2] > 0 ? i < v[1] : i > v[1];) {
        if (out->list->n >= 100000) /* the sandbox's own limit */
            return jinja_fail(r, "range: more than 100000 items");
        PW_PASS(jv_push(r, out, jv_int(i)));
        if (__builtin_add_overflow(i, v[2], &i))
            break;
    }
    return 0;
}

static int mapping(struct jinja_run *r, const struct jinja_args *args, struct jv *out)
{
    PW_PASS(jv_map(r, out));
    for (size_t i = 0; i < args->n; i++) {
        if (args->items[i].kind == JV_LIST) { /* of pairs */
            for (size_t k = 0; k < args->items[i].list->n; k++) {
                struct jv pair;
                PW_PASS(jv_iterate(r, &args->items[i].list->items[k], &pair));
                if (pair.list->n != 2)
                    return jinja_fail(r, "dict: item %zu has %zu parts, not a key and a value", k, pair.list->n);
                PW_PASS(jv_put(r, out, pair.list->items[0], pair.list->items[1]));
            }
            continue;
        }
        if (args->items[i].kind != JV_MAP)
            return jinja_fail(r, "expected a mapping, got %s", jv_kind_name(&args->items[i]));
        const struct jinja_map *m = args->items[i].map;
        for (size_t k = 0; k < m->n; k++)
            PW_PASS(jv_put(r, out, m->pairs[k].key, m->pairs[k].value));
    }
    for (size_t i = 0; i < args->n_named; i++)
        PW_PASS(jv_put(r, out, jv_static(args->names[i]), args->named[i]));
    return 0;
}

static int now(struct jinja_run *r, const struct jinja_args *args, struct jv *out)
{
    if (args->n != 1 || args->items[0].kind != JV_STRING || args->n_named)
        return jinja_fail(r, "strftime_now takes one format");
    if (args->items[0].len > 200)
        return jinja_fail(r, "strftime_now: too long a format");
    char text[2048];
    time_t t = (time_t)r->now;
    struct tm tm;
    if (!gmtime_r(&t, &tm))
        return jinja_fail(r, "strftime_now: the clock is out of range");
    size_t n = strftime(text, sizeof text, args->items[0].s, &tm);
    if (n == 0 && args->items[0].len > 0)
        return jinja_fail(r, "strftime_now: too long a text");
    return jv_string(r, text, n, out);
}

int jinja_function(struct jinja_run *r, int64_t index, const struct jinja_args *args, struct jv *out)
{
    switch (index) {
    case F_RANGE: return range(r, args, out);
    case F_DICT: return mapping(r, args, out);
    case F_NAMESPACE:
        PW_PASS(mapping(r, args, out));
        out->map->is_namespace = true;
        return 0;
    case F_RAISE:
        if (args->n != 1 || args->items[0].kind != JV_STRING)
            return jinja_fail(r, "raise_exception takes one text");
        return jinja_fail(r, "the template refuses these messages: %.*s", (int)(args->items[0].len < 300 ? args->items[0].len : 300),
                          args->items[0].s);
    default: return now(r, args, out);
    }
}
