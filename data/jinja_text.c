/* Work on texts that filters and methods share: stripping, replacing, case, joining. */
#include <string.h>

#include "data/jinja_parts.h"

int jinja_args_take(struct jinja_run *r, const struct jinja_args *args, const char *what, const char *const *names, size_t n, struct jv *into)
{
    if (args->n > n)
        return jinja_fail(r, "%s takes at most %zu arguments, got %zu", what, n, args->n);
    for (size_t i = 0; i < n; i++)
        into[i] = i < args->n ? args->items[i] : jv_undefined(NULL);
    for (size_t k = 0; k < args->n_named; k++) {
        size_t i = 0;
        while (i < n && strcmp(names[i], args->names[k]) != 0)
            i++;
        if (i == n || i < args->n)
            return jinja_fail(r, "%s: unexpected argument %s", what, args->names[k]);
        into[i] = args->named[k];
    }
    return 0;
}

static int want_text(struct jinja_run *r, const struct jv *v)
{
    if (v->kind == JV_STRING)
        return 0;
    if (v->kind == JV_UNDEFINED)
        return jinja_undefined(r, v);
    return jinja_fail(r, "expected a string, got %s", jv_kind_name(v));
}

static bool in_set(uint32_t cp, const struct jv *set)
{
    if (jinja_absent(set) || set->kind == JV_NONE)
        return jinja_space(cp);
    for (size_t at = 0; at < set->len;) {
        uint32_t c;
        at += jinja_get(set->s + at, set->len - at, &c);
        if (c == cp)
            return true;
    }
    return false;
}

int jinja_strip(struct jinja_run *r, const struct jv *v, const struct jv *set, bool left, bool right, struct jv *out)
{
    PW_PASS(want_text(r, v));
    if (!jinja_absent(set) && set->kind != JV_NONE)
        PW_PASS(want_text(r, set));
    size_t from = 0, to = v->len;
    uint32_t cp;
    while (left && from < to) {
        size_t n = jinja_get(v->s + from, to - from, &cp);
        if (!in_set(cp, set))
            break;
        from += n;
    }
    while (right && to > from) {
        size_t at = to - 1;
        while (at > from && ((unsigned char)v->s[at] & 0xc0) == 0x80)
            at--;
        jinja_get(v->s + at, to - at, &cp);
        if (!in_set(cp, set))
            break;
        to = at;
    }
    PW_PASS(jinja_step(r, v->len / 16));
    return jv_string(r, v->s + from, to - from, out);
}

int jinja_replace(struct jinja_run *r, const struct jv *v, const struct jv *from, const struct jv *to, int64_t count, struct jv *out)
{
    PW_PASS(want_text(r, v));
    PW_PASS(want_text(r, from));
    PW_PASS(want_text(r, to));
    struct pw_buf b = {0};
    size_t at = 0;
    while (at <= v->len && count != 0) {
        const char *hit = from->len == 0 ? v->s + at : memmem(v->s + at, v->len - at, from->s, from->len);
        if (!hit)
            break;
        pw_buf_add(&b, v->s + at, (size_t)(hit - v->s) - at);
        pw_buf_add(&b, to->s, to->len);
        at = (size_t)(hit - v->s) + from->len;
        count--;
        if (from->len == 0) {
            size_t n = at < v->len ? jinja_char_bytes((unsigned char)v->s[at]) : 1;
            if (at < v->len)
                pw_buf_add(&b, v->s + at, n);
            at += n;
        }
        if (b.len > r->memory_limit || jinja_step(r, 1) < 0) {
            pw_buf_free(&b);
            return jinja_fail(r, "too long a text or too many steps in replace");
        }
    }
    if (at < v->len)
        pw_buf_add(&b, v->s + at, v->len - at);
    return jv_take(r, &b, out);
}

static bool word_break(uint32_t cp) /* where Jinja's title filter starts a word: [-\s({\[<]+ */
{
    return cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<' || jinja_space(cp);
}

int jinja_case(struct jinja_run *r, const struct jv *v, char how, struct jv *out)
{
    PW_PASS(want_text(r, v));
    struct pw_buf b = {0};
    bool first = true;
    for (size_t at = 0; at < v->len;) {
        uint32_t cp;
        size_t n = jinja_get(v->s + at, v->len - at, &cp);
        bool upper = how == 'u' || (first && how != 'l');
        if (cp == 0xdf && upper)
            pw_buf_str(&b, how == 'u' || how == 'j' ? "SS" : "Ss");
        else if (cp == 0x130 && !upper)
            pw_buf_str(&b, "i\xCC\x87");
        else
            jinja_put(&b, upper ? jinja_upper(cp) : jinja_lower(cp));
        if (how == 't')
            first = jinja_upper(cp) == jinja_lower(cp); /* after anything without case */
        else if (how == 'j')
            first = word_break(cp);
        else
            first = false;
        at += n;
    }
    PW_PASS(jinja_step(r, v->len / 8));
    return jv_take(r, &b, out);
}

/* strict: as str.join, texts only; else each item is turned into text, as the filter does. */
int jinja_join(struct jinja_run *r, const struct jv *list, const struct jv *with, bool strict, struct jv *out)
{
    struct jv items;
    struct pw_buf b = {0};
    PW_PASS(jv_iterate(r, list, &items));
    int rc = 0;
    for (size_t i = 0; i < items.list->n && rc == 0; i++) {
        if (i)
            rc = jv_text(r, with, &b);
        if (rc == 0 && strict && items.list->items[i].kind != JV_STRING)
            rc = jinja_fail(r, "join: expected strings, got %s", jv_kind_name(&items.list->items[i]));
        if (rc == 0)
            rc = jv_text(r, &items.list->items[i], &b);
        if (rc == 0 && b.len > r->memory_limit)
            rc = jinja_fail(r, "more than %zu bytes of memory", r->memory_limit);
        if (rc == 0)
            rc = jinja_step(r, 1);
    }
    if (rc < 0) {
        pw_buf_free(&b);
        return rc;
    }
    return jv_take(r, &b, out);
}
