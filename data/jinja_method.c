/* Methods of texts, lists and mappings that templates call, and those of `loop`. */
#include <string.h>

#include "data/jinja_parts.h"

static const char *const string_methods[] = {
    "strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "startswith", "endswith", "replace", "upper", "lower", "title", "capitalize",
    "find", "rfind", "index", "count", "join", "isdigit", "isalpha", "isalnum", "isspace", "isupper", "islower", "removeprefix", "removesuffix",
    "partition", "rpartition", NULL,
};
static const char *const list_methods[] = {"index", "count", "append", "extend", "insert", "pop", "remove", "reverse", "sort", NULL};
static const char *const map_methods[] = {"items", "keys", "values", "get", "update", "pop", "copy", "clear", "setdefault", "popitem", NULL};

const char *jinja_method_find(const struct jv *v, const char *name, size_t n)
{
    const char *const *list = v->kind == JV_STRING ? string_methods : v->kind == JV_LIST ? list_methods : map_methods;
    for (; *list; list++)
        if (strlen(*list) == n && memcmp(*list, name, n) == 0)
            return *list;
    return NULL;
}

static int text_arg(struct jinja_run *r, const char *what, const struct jv *v)
{
    if (v->kind == JV_STRING)
        return 0;
    return jinja_fail(r, "%s: expected a string, got %s", what, jinja_absent(v) ? "nothing" : jv_kind_name(v));
}

static int push_part(struct jinja_run *r, struct jv *list, const char *s, size_t n)
{
    struct jv part;
    PW_PASS(jv_string(r, s, n, &part));
    return jv_push(r, list, part);
}

/* Parts between runs of white space; at most `limit` cuts (negative: all), from the right when `right`. */
static int split_space(struct jinja_run *r, const struct jv *v, int64_t limit, bool right, struct jv *out)
{
    size_t from = 0, to = v->len;
    PW_PASS(jv_list(r, 0, out));
    if (right && limit >= 0)
        return jinja_fail(r, "rsplit with a limit needs a separator here");
    while (from < to) {
        uint32_t cp;
        size_t n = jinja_get(v->s + from, to - from, &cp);
        if (jinja_space(cp)) {
            from += n;
            continue;
        }
        if (limit == 0)
            return push_part(r, out, v->s + from, to - from);
        size_t end = from;
        while (end < to) {
            n = jinja_get(v->s + end, to - end, &cp);
            if (jinja_space(cp))
                break;
            end += n;
        }
        PW_PASS(push_part(r, out, v->s + from, end - from));
        from = end;
        limit--;
    }
    return 0;
}

static const char *find_last(const char *s, size_t n, const struct jv *what)
{
    for (size_t at = n >= what->len ? n - what->len + 1 : 0; at-- > 0;)
        if (memcmp(s + at, what->s, what->len) == 0)
            return s + at;
    return NULL;
}

static int split(struct jinja_run *r, const struct jv *v, const struct jinja_args *args, bool right, struct jv *out)
{
    static const char *const names[] = {"sep", "maxsplit"};
    struct jv a[2];
    PW_PASS(jinja_args_take(r, args, "split", names, 2, a));
    int64_t limit = -1;
    if (a[1].kind == JV_INT)
        limit = a[1].i;
    else if (!jinja_absent(&a[1]))
        return jinja_fail(r, "split: maxsplit must be an integer");
    if (jinja_absent(&a[0]) || a[0].kind == JV_NONE)
        return split_space(r, v, limit, right, out);
    PW_PASS(text_arg(r, "split", &a[0]));
    if (a[0].len == 0)
        return jinja_fail(r, "split: empty separator");
    PW_PASS(jv_list(r, 0, out));
    PW_PASS(jinja_step(r, v->len / 16));
    const char *s = v->s, *end = v->s + v->len;
    while (limit != 0) {
        const char *hit = right ? find_last(s, (size_t)(end - s), &a[0]) : memmem(s, (size_t)(end - s), a[0].s, a[0].len);
        if (!hit)
            break;
        if (right) {
            PW_PASS(push_part(r, out, hit + a[0].len, (size_t)(end - hit) - a[0].len));
            end = hit;
        } else {
            PW_PASS(push_part(r, out, s, (size_t)(hit - s)));
            s = hit + a[0].len;
        }
        limit--;
    }
    PW_PASS(push_part(r, out, s, (size_t)(end - s)));
    for (size_t i = 0; right && i < out->list->n / 2; i++) {
        struct jv x = out->list->items[i];
        out->list->items[i] = out->list->items[out->list->n - 1 - i];
        out->list->items[out->list->n - 1 - i] = x;
    }
    return 0;
}

static int splitlines(struct jinja_run *r, const struct jv *v, const struct jinja_args *args, struct jv *out)
{
    static const char *const names[] = {"keepends"};
    struct jv a[1];
    bool keep;
    PW_PASS(jinja_args_take(r, args, "splitlines", names, 1, a));
    PW_PASS(jv_truth(r, &a[0], &keep));
    PW_PASS(jv_list(r, 0, out));
    for (size_t from = 0; from < v->len;) {
        size_t end = from, n = 0;
        while (end < v->len) {
            uint32_t cp;
            n = jinja_get(v->s + end, v->len - end, &cp);
            if ((cp >= 10 && cp <= 13) || (cp >= 28 && cp <= 30) || cp == 0x85 || cp == 0x2028 || cp == 0x2029)
                break;
            end += n;
            n = 0;
        }
        if (end + 1 < v->len && v->s[end] == '\r' && v->s[end + 1] == '\n')
            n = 2;
        PW_PASS(push_part(r, out, v->s + from, end - from + (keep ? n : 0)));
        from = end + n;
    }
    return 0;
}

static int ends(struct jinja_run *r, const struct jv *v, const struct jv *what, bool start, bool *out)
{
    *out = false;
    if (what->kind == JV_LIST && what->list->tuple) {
        for (size_t i = 0; i < what->list->n && !*out; i++) {
            PW_PASS(text_arg(r, "startswith", &what->list->items[i]));
            PW_PASS(ends(r, v, &what->list->items[i], start, out));
        }
        return 0;
    }
    PW_PASS(text_arg(r, start ? "startswith" : "endswith", what));
    *out = v->len >= what->len && memcmp(start ? v->s : v->s + v->len - what->len, what->s, what->len) == 0;
    return 0;
}

static int find(struct jinja_run *r, const char *name, const struct jv *v, const struct jv *what, struct jv *out)
{
    PW_PASS(text_arg(r, name, what));
    PW_PASS(jinja_step(r, v->len / 16));
    if (strcmp(name, "count") == 0) {
        int64_t n = 0;
        for (const char *s = v->s, *hit; what->len && (hit = memmem(s, v->len - (size_t)(s - v->s), what->s, what->len)); s = hit + what->len)
            n++;
        *out = jv_int(what->len ? n : (int64_t)jinja_chars(v->s, v->len) + 1);
        return 0;
    }
    const char *hit = name[0] == 'r' ? find_last(v->s, v->len, what) : what->len ? memmem(v->s, v->len, what->s, what->len) : v->s;
    if (!hit && strcmp(name, "index") == 0)
        return jinja_fail(r, "index: the text is not there");
    *out = jv_int(hit ? (int64_t)jinja_chars(v->s, (size_t)(hit - v->s)) : -1);
    return 0;
}

/* is...(): every character of the kind, and at least one; isupper and islower: no cased character of the other case, at least one of this. */
static bool is_all(const struct jv *v, const char *name)
{
    bool any = false;
    for (size_t at = 0; at < v->len;) {
        uint32_t cp;
        at += jinja_get(v->s + at, v->len - at, &cp);
        bool digit = jinja_digit(cp), cased = jinja_upper(cp) != jinja_lower(cp), letter = jinja_letter(cp);
        if (strcmp(name, "isupper") == 0 || strcmp(name, "islower") == 0) {
            if (cased && cp != (name[2] == 'u' ? jinja_upper(cp) : jinja_lower(cp)))
                return false;
            any |= cased;
            continue;
        }
        bool is = strcmp(name, "isdigit") == 0 ? digit : strcmp(name, "isspace") == 0 ? jinja_space(cp) : strcmp(name, "isalpha") == 0 ? letter : letter || digit;
        if (!is)
            return false;
        any = true;
    }
    return any;
}

static int partition(struct jinja_run *r, const struct jv *v, const struct jv *sep, bool right, struct jv *out)
{
    PW_PASS(text_arg(r, "partition", sep));
    if (sep->len == 0)
        return jinja_fail(r, "partition: empty separator");
    const char *hit = right ? find_last(v->s, v->len, sep) : memmem(v->s, v->len, sep->s, sep->len);
    PW_PASS(jv_list(r, 3, out));
    out->list->tuple = true;
    size_t before = hit ? (size_t)(hit - v->s) : right ? 0 : v->len, after = hit ? before + sep->len : right ? 0 : v->len;
    PW_PASS(push_part(r, out, v->s, before));
    PW_PASS(push_part(r, out, v->s + before, after - before));
    return push_part(r, out, v->s + after, v->len - after);
}

static int string_method(struct jinja_run *r, const struct jv *v, const char *name, const struct jinja_args *args, struct jv *out)
{
    static const char *const names[] = {"1", "2", "count"};
    struct jv a[3];
    bool yes;
    if (strcmp(name, "split") == 0 || strcmp(name, "rsplit") == 0)
        return split(r, v, args, name[0] == 'r', out);
    if (strcmp(name, "splitlines") == 0)
        return splitlines(r, v, args, out);
    PW_PASS(jinja_args_take(r, args, name, names, 3, a));
    if (strcmp(name, "strip") == 0 || strcmp(name, "lstrip") == 0 || strcmp(name, "rstrip") == 0)
        return jinja_strip(r, v, &a[0], name[0] != 'r', name[0] != 'l', out);
    if (strcmp(name, "startswith") == 0 || strcmp(name, "endswith") == 0) {
        if (!jinja_absent(&a[1]))
            return jinja_fail(r, "%s with a range is not supported", name);
        PW_PASS(ends(r, v, &a[0], name[0] == 's', &yes));
        *out = jv_bool(yes);
        return 0;
    }
    if (strcmp(name, "replace") == 0) {
        int64_t count = a[2].kind == JV_INT ? a[2].i : -1;
        return jinja_replace(r, v, &a[0], &a[1], count, out);
    }
    if (strcmp(name, "upper") == 0 || strcmp(name, "lower") == 0 || strcmp(name, "title") == 0 || strcmp(name, "capitalize") == 0)
        return jinja_case(r, v, name[0], out);
    if (strcmp(name, "join") == 0)
        return jinja_join(r, &a[0], v, true, out);
    if (strcmp(name, "partition") == 0 || strcmp(name, "rpartition") == 0)
        return partition(r, v, &a[0], name[0] == 'r', out);
    if (name[0] == 'i' && name[1] == 's') {
        *out = jv_bool(is_all(v, name));
        return 0;
    }
    if (strcmp(name, "removeprefix") == 0 || strcmp(name, "removesuffix") == 0) {
        bool start = name[6] == 'p';
        PW_PASS(text_arg(r, name, &a[0]));
        PW_PASS(ends(r, v, &a[0], start, &yes));
        return jv_string(r, v->s + (yes && start ? a[0].len : 0), v->len - (yes ? a[0].len : 0), out);
    }
    if (!jinja_absent(&a[1]))
        return jinja_fail(r, "%s with a range is not supported", name);
    return find(r, name, v, &a[0], out);
}

static int map_method(struct jinja_run *r, const struct jv *v, const char *name, const struct jinja_args *args, struct jv *out)
{
    static const char *const names[] = {"key", "default"};
    struct jv a[2];
    PW_PASS(jinja_args_take(r, args, name, names, 2, a));
    const struct jinja_map *m = v->map;
    if (strcmp(name, "get") == 0) {
        const struct jv *found = jv_find(v, &a[0]);
        *out = found ? *found : jinja_absent(&a[1]) ? jv_none() : a[1];
        return 0;
    }
    if (strcmp(name, "copy") == 0) {
        PW_PASS(jv_map(r, out));
        for (size_t i = 0; i < m->n; i++)
            PW_PASS(jv_put(r, out, m->pairs[i].key, m->pairs[i].value));
        return 0;
    }
    if (strcmp(name, "items") != 0 && strcmp(name, "keys") != 0 && strcmp(name, "values") != 0)
        return jinja_fail(r, "%s changes a mapping, which templates may not", name);
    PW_PASS(jv_list(r, m->n, out));
    for (size_t i = 0; i < m->n; i++) {
        struct jv item = name[0] == 'k' ? m->pairs[i].key : m->pairs[i].value;
        if (name[0] == 'i') {
            PW_PASS(jv_list(r, 2, &item));
            item.list->tuple = true;
            PW_PASS(jv_push(r, &item, m->pairs[i].key));
            PW_PASS(jv_push(r, &item, m->pairs[i].value));
        }
        PW_PASS(jv_push(r, out, item));
    }
    return 0;
}

static int list_method(struct jinja_run *r, const struct jv *v, const char *name, const struct jinja_args *args, struct jv *out)
{
    static const char *const names[] = {"value"};
    struct jv a[1];
    if (strcmp(name, "index") != 0 && strcmp(name, "count") != 0)
        return jinja_fail(r, "%s changes a list, which templates may not", name);
    PW_PASS(jinja_args_take(r, args, name, names, 1, a));
    int64_t n = 0, at = -1;
    for (size_t i = 0; i < v->list->n; i++)
        if (jv_equal(&v->list->items[i], &a[0], 0)) {
            at = at < 0 ? (int64_t)i : at;
            n++;
        }
    if (name[0] == 'i' && at < 0)
        return jinja_fail(r, "index: the value is not in the list");
    *out = jv_int(name[0] == 'i' ? at : n);
    return jinja_step(r, v->list->n);
}

static int loop_method(struct jinja_run *r, const struct jv *v, const char *name, const struct jinja_args *args, struct jv *out)
{
    struct jinja_loop *l = v->loop;
    if (strcmp(name, "cycle") == 0) {
        if (args->n == 0)
            return jinja_fail(r, "loop.cycle needs something to cycle through");
        *out = args->items[l->index0 % (int64_t)args->n];
        return 0;
    }
    struct jv now;
    PW_PASS(jv_list(r, args->n, &now));
    for (size_t i = 0; i < args->n; i++)
        PW_PASS(jv_push(r, &now, args->items[i]));
    bool same = l->changed && jv_equal(l->changed, &now, 0);
    if (!l->changed && !(l->changed = jinja_alloc(r, sizeof *l->changed)))
        return PW_E_FORMAT;
    *l->changed = now;
    *out = jv_bool(!same);
    return 0;
}

int jinja_method(struct jinja_run *r, const struct jinja_method *m, const struct jinja_args *args, struct jv *out)
{
    switch (m->self.kind) {
    case JV_STRING: return string_method(r, &m->self, m->name, args, out);
    case JV_LIST: return list_method(r, &m->self, m->name, args, out);
    case JV_MAP: return map_method(r, &m->self, m->name, args, out);
    default: return loop_method(r, &m->self, m->name, args, out);
    }
}
