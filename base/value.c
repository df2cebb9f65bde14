/* Reading the tree that json.c and yaml.c make. Knows no syntax. */
#include "base/value.h"

#include <math.h>
#include <string.h>

#include "base/error.h"

const char *pw_kind_name(enum pw_kind k)
{
    switch (k) {
    case PW_NULL: return "null";
    case PW_BOOL: return "bool";
    case PW_INT: return "int";
    case PW_REAL: return "real";
    case PW_STRING: return "string";
    case PW_LIST: return "list";
    case PW_MAP: return "map";
    }
    return "?";
}

const struct pw_value *pw_get(const struct pw_value *map, const char *key)
{
    if (!map || map->kind != PW_MAP) return NULL;
    size_t n = strlen(key);
    for (size_t i = 0; i < map->len; i++)
        if (map->members[i].key_len == n && memcmp(map->members[i].key, key, n) == 0) return &map->members[i].value;
    return NULL;
}

static int wrong(const struct pw_value *v, const char *key, const char *where, const char *expected)
{
    if (v->line > 0)
        return pw_error(PW_E_FORMAT, "%s: %s: expected %s, got %s (line %d)", where, key, expected, pw_kind_name(v->kind), v->line);
    return pw_error(PW_E_FORMAT, "%s: %s: expected %s, got %s", where, key, expected, pw_kind_name(v->kind));
}

/* map[key] when it is there and not null. */
static const struct pw_value *present(const struct pw_value *map, const char *key)
{
    const struct pw_value *v = pw_get(map, key);
    return v && v->kind != PW_NULL ? v : NULL;
}

int pw_get_i64(const struct pw_value *map, const char *key, const char *where, int64_t *out)
{
    const struct pw_value *v = present(map, key);
    if (!v) return 0;
    if (v->kind == PW_REAL && v->d == trunc(v->d) && v->d >= -0x1p63 && v->d < 0x1p63) {
        *out = (int64_t)v->d;
        return 0;
    }
    if (v->kind != PW_INT) return wrong(v, key, where, "int");
    *out = v->i;
    return 0;
}

int pw_get_f64(const struct pw_value *map, const char *key, const char *where, double *out)
{
    const struct pw_value *v = present(map, key);
    if (!v) return 0;
    if (v->kind != PW_REAL && v->kind != PW_INT) return wrong(v, key, where, "number");
    *out = v->kind == PW_INT ? (double)v->i : v->d;
    return 0;
}

int pw_get_bool(const struct pw_value *map, const char *key, const char *where, bool *out)
{
    const struct pw_value *v = present(map, key);
    if (!v) return 0;
    if (v->kind != PW_BOOL) return wrong(v, key, where, "bool");
    *out = v->b;
    return 0;
}

int pw_get_str(const struct pw_value *map, const char *key, const char *where, const char **out)
{
    const struct pw_value *v = present(map, key);
    if (!v) return 0;
    if (v->kind != PW_STRING) return wrong(v, key, where, "string");
    PW_CHECK(!memchr(v->s, 0, v->len), PW_E_FORMAT, "%s: %s: the string holds a NUL", where, key);
    *out = v->s;
    return 0;
}
