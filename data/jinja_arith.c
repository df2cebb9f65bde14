/* Arithmetic as Python does it: floor division, the sign of a remainder, text and lists under + and *. Integers that leave 64 bits are
 * an error. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "data/jinja_parts.h"

static int too_large(struct jinja_run *r)
{
    return jinja_fail(r, "an integer leaves 64 bits");
}

static int64_t floor_div(int64_t a, int64_t b)
{
    int64_t q = a / b;
    return q - (a % b != 0 && (a < 0) != (b < 0));
}

static int integers(struct jinja_run *r, int op, int64_t a, int64_t b, struct jv *out)
{
    int64_t x = 0;
    bool over = false;
    if ((op == '/' || op == '%' || op == JO_FLOORDIV) && b == 0)
        return jinja_fail(r, "division by zero");
    switch (op) {
    case '+': over = __builtin_add_overflow(a, b, &x); break;
    case '-': over = __builtin_sub_overflow(a, b, &x); break;
    case '*': over = __builtin_mul_overflow(a, b, &x); break;
    case '/': *out = jv_real((double)a / (double)b); return 0;
    case JO_FLOORDIV:
    case '%':
        over = b == -1 && a == INT64_MIN;
        if (!over)
            x = op == '%' ? a - floor_div(a, b) * b : floor_div(a, b);
        break;
    case JO_POW:
        if (b < 0) {
            *out = jv_real(pow((double)a, (double)b));
            return 0;
        }
        x = 1;
        if (b > 63 && a != 0 && a != 1 && a != -1)
            return too_large(r);
        for (int64_t i = 0; i < (b > 64 ? 64 + (b & 1) : b) && !over; i++)
            over = __builtin_mul_overflow(x, a, &x);
        break;
    default: return jinja_fail(r, "unknown operator");
    }
    if (over)
        return too_large(r);
    *out = jv_int(x);
    return 0;
}

static int reals(struct jinja_run *r, int op, double a, double b, struct jv *out)
{
    if ((op == '/' || op == '%' || op == JO_FLOORDIV) && b == 0)
        return jinja_fail(r, "division by zero");
    double x = 0;
    switch (op) {
    case '+': x = a + b; break;
    case '-': x = a - b; break;
    case '*': x = a * b; break;
    case '/': x = a / b; break;
    case JO_FLOORDIV: x = floor(a / b); break;
    case '%':
        x = fmod(a, b);
        if (x != 0 && (x < 0) != (b < 0))
            x += b;
        break;
    case JO_POW: x = pow(a, b); break;
    default: return jinja_fail(r, "unknown operator");
    }
    *out = jv_real(x);
    return 0;
}

static int repeat(struct jinja_run *r, const struct jv *what, int64_t times, struct jv *out)
{
    size_t each = what->kind == JV_STRING ? what->len : what->list->n, total;
    if (times < 0)
        times = 0;
    if (!pw_mul_size(each, (size_t)times, &total) || total > r->memory_limit)
        return jinja_fail(r, "more than %zu bytes of memory", r->memory_limit);
    if (what->kind == JV_LIST) {
        PW_PASS(jv_list(r, total, out));
        out->list->tuple = what->list->tuple;
        for (int64_t k = 0; k < times; k++)
            for (size_t i = 0; i < each; i++)
                PW_PASS(jv_push(r, out, what->list->items[i]));
        return 0;
    }
    char *text = jinja_alloc(r, total + 1);
    if (!text)
        return PW_E_FORMAT;
    PW_PASS(jinja_step(r, total / 64));
    for (int64_t k = 0; k < times && each; k++)
        memcpy(text + (size_t)k * each, what->s, each);
    *out = (struct jv){.kind = JV_STRING, .s = text, .len = total};
    return 0;
}

static int add_sequences(struct jinja_run *r, const struct jv *a, const struct jv *b, struct jv *out)
{
    if (a->kind == JV_STRING) {
        char *text = jinja_alloc(r, a->len + b->len + 1);
        if (!text)
            return PW_E_FORMAT;
        PW_PASS(jinja_step(r, (a->len + b->len) / 64));
        memcpy(text, a->s, a->len);
        memcpy(text + a->len, b->s, b->len);
        *out = (struct jv){.kind = JV_STRING, .s = text, .len = a->len + b->len};
        return 0;
    }
    PW_PASS(jv_list(r, a->list->n + b->list->n, out));
    out->list->tuple = a->list->tuple;
    for (size_t i = 0; i < a->list->n; i++)
        PW_PASS(jv_push(r, out, a->list->items[i]));
    for (size_t i = 0; i < b->list->n; i++)
        PW_PASS(jv_push(r, out, b->list->items[i]));
    return 0;
}

/* Python's % on a text, for %s, %d and %%. */
static int format_text(struct jinja_run *r, const struct jv *f, const struct jv *with, struct jv *out)
{
    struct pw_buf b = {0};
    int rc = 0;
    size_t used = 0, n = with->kind == JV_LIST && with->list->tuple ? with->list->n : 1;
    const struct jv *items = with->kind == JV_LIST && with->list->tuple ? with->list->items : with;
    for (size_t i = 0; i < f->len && rc == 0; i++) {
        char c = f->s[i], next = i + 1 < f->len ? f->s[i + 1] : 0;
        if (c != '%') {
            pw_buf_char(&b, c);
            continue;
        }
        i++;
        if (next == '%')
            pw_buf_char(&b, '%');
        else if (next != 's' && next != 'd' && next != 'i')
            rc = jinja_fail(r, "only %%s, %%d and %%%% are supported when a text is formatted");
        else if (used == n)
            rc = jinja_fail(r, "not enough arguments for the text to format");
        else if (next != 's' && items[used].kind == JV_REAL && fabs(items[used].d) < 9e18)
            pw_buf_printf(&b, "%" PRId64, (int64_t)items[used].d), used++;
        else if (next != 's' && items[used].kind != JV_INT && items[used].kind != JV_BOOL)
            rc = jinja_fail(r, "%%d needs a number, got %s", jv_kind_name(&items[used]));
        else if (next != 's')
            pw_buf_printf(&b, "%" PRId64, items[used].kind == JV_INT ? items[used].i : (int64_t)items[used].b), used++;
        else
            rc = jv_text(r, &items[used++], &b);
    }
    if (rc == 0 && used != n)
        rc = jinja_fail(r, "too many arguments for the text to format");
    if (rc < 0) {
        pw_buf_free(&b);
        return rc;
    }
    return jv_take(r, &b, out);
}

int jinja_arith(struct jinja_run *r, int op, const struct jv *a, const struct jv *b, struct jv *out)
{
    double x, y;
    bool p, q;
    int64_t i, j;
    if (a->kind == JV_UNDEFINED)
        return jinja_undefined(r, a);
    if (b->kind == JV_UNDEFINED)
        return jinja_undefined(r, b);
    int left = jv_number(a, &x, &p, &i), right = jv_number(b, &y, &q, &j);
    if (left == 0 && right == 0)
        return p && q ? integers(r, op, i, j, out) : reals(r, op, x, y, out);
    bool same = a->kind == b->kind && (a->kind == JV_STRING || (a->kind == JV_LIST && a->list->tuple == b->list->tuple));
    if (op == '+' && same)
        return add_sequences(r, a, b, out);
    if (op == '*' && right == 0 && q && (a->kind == JV_STRING || a->kind == JV_LIST))
        return repeat(r, a, j, out);
    if (op == '*' && left == 0 && p && (b->kind == JV_STRING || b->kind == JV_LIST))
        return repeat(r, b, i, out);
    if (op == '%' && a->kind == JV_STRING)
        return format_text(r, a, b, out);
    char name[3] = {(char)(op < 256 ? op : op == JO_POW ? '*' : '/'), op < 256 ? 0 : op == JO_POW ? '*' : '/', 0};
    return jinja_fail(r, "%s and %s do not go together with %s", jv_kind_name(a), jv_kind_name(b), name);
}
