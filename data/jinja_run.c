/* Running a parsed template: expressions, statements, scopes, and the public functions. Statements return 0, a negative code, or one of
 * LEAVE and AGAIN on their way to the loop they belong to. */
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "data/jinja_parts.h"

enum { LEAVE = 1, AGAIN = 2, EVAL_DEPTH = 600 };

static int run(struct jinja_run *r, const struct jinja_node *n);

/* ---- scopes ---- */

static int no_room(void) { return strstr(pw_error_text(), "no memory") ? PW_E_NOMEM : PW_E_FORMAT; }

static int scope_push(struct jinja_run *r)
{
    struct jinja_scope *s = jinja_alloc(r, sizeof *s);
    if (!s)
        return no_room();
    s->up = r->scope;
    r->scope = s;
    return 0;
}

static struct jinja_var *var_find(struct jinja_scope *s, const char *name, size_t n)
{
    for (struct jinja_var *v = s->vars; v; v = v->next)
        if (v->n == n && memcmp(v->name, name, n) == 0)
            return v;
    return NULL;
}

static int var_set(struct jinja_run *r, const char *name, size_t n, struct jv value)
{
    struct jinja_var *v = var_find(r->scope, name, n);
    if (!v) {
        v = jinja_alloc(r, sizeof *v);
        if (!v)
            return no_room();
        *v = (struct jinja_var){name, n, value, r->scope->vars};
        r->scope->vars = v;
    }
    v->value = value;
    return 0;
}

static void lookup(struct jinja_run *r, const char *name, size_t n, struct jv *out)
{
    for (struct jinja_scope *s = r->scope; s; s = s->up) {
        struct jinja_var *v = var_find(s, name, n);
        if (v) {
            *out = v->value;
            return;
        }
    }
    int f = jinja_function_find(name, n);
    *out = f >= 0 ? (struct jv){.kind = JV_FUNCTION, .i = f} : jv_undefined(name);
}

static int assign(struct jinja_run *r, const struct jinja_node *target, const struct jv *value)
{
    if (target->kind == JN_NAME)
        return var_set(r, target->name, target->name_len, *value);
    if (target->kind == JN_ATTR) {
        struct jv ns;
        PW_PASS(jinja_eval(r, target->a, &ns));
        if (ns.kind != JV_MAP || !ns.map->is_namespace)
            return jinja_fail(r, "an attribute can be set of a namespace only, not of a %s", jv_kind_name(&ns));
        return jv_put(r, &ns, (struct jv){.kind = JV_STRING, .s = target->name, .len = target->name_len}, *value);
    }
    struct jv list;
    PW_PASS(jv_iterate(r, value, &list));
    if (list.list->n != target->n)
        return jinja_fail(r, "expected %zu values to unpack, got %zu", target->n, list.list->n);
    for (size_t i = 0; i < target->n; i++)
        PW_PASS(assign(r, target->list[i], &list.list->items[i]));
    return 0;
}

/* ---- attributes and items ---- */

static int loop_attr(struct jinja_run *r, const struct jv *v, const char *name, struct jv *out)
{
    const struct jinja_loop *l = v->loop;
    if (strcmp(name, "index") == 0) *out = jv_int(l->index0 + 1);
    else if (strcmp(name, "index0") == 0) *out = jv_int(l->index0);
    else if (strcmp(name, "revindex") == 0) *out = jv_int(l->length - l->index0);
    else if (strcmp(name, "revindex0") == 0) *out = jv_int(l->length - l->index0 - 1);
    else if (strcmp(name, "first") == 0) *out = jv_bool(l->index0 == 0);
    else if (strcmp(name, "last") == 0) *out = jv_bool(l->index0 == l->length - 1);
    else if (strcmp(name, "length") == 0) *out = jv_int(l->length);
    else if (strcmp(name, "depth") == 0) *out = jv_int(l->depth0 + 1);
    else if (strcmp(name, "depth0") == 0) *out = jv_int(l->depth0);
    else if (strcmp(name, "previtem") == 0) *out = l->previous;
    else if (strcmp(name, "nextitem") == 0) *out = l->next;
    else if (strcmp(name, "cycle") == 0 || strcmp(name, "changed") == 0) {
        struct jinja_method *m = jinja_alloc(r, sizeof *m);
        if (!m)
            return no_room();
        *m = (struct jinja_method){*v, name};
        *out = (struct jv){.kind = JV_METHOD, .method = m};
    } else *out = jv_undefined(name);
    return 0;
}

/* What an integer has of the numbers of Python that is no method. */
static bool of_integer(const struct jv *v, const char *name, size_t n, struct jv *out)
{
    static const struct { const char *name; int64_t value; } parts[] = {{"real", -1}, {"numerator", -1}, {"imag", 0}, {"denominator", 1}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (strlen(parts[i].name) == n && memcmp(parts[i].name, name, n) == 0) {
            *out = jv_int(parts[i].value >= 0 ? parts[i].value : v->kind == JV_INT ? v->i : v->b);
            return true;
        }
    return false;
}

int jinja_attr(struct jinja_run *r, const struct jv *v, const char *name, size_t n, struct jv *out)
{
    if (v->kind == JV_UNDEFINED)
        return jinja_undefined(r, v);
    if (v->kind == JV_LOOP)
        return loop_attr(r, v, name, out);
    if ((v->kind == JV_INT || v->kind == JV_BOOL) && of_integer(v, name, n, out))
        return 0;
    bool plain_map = v->kind == JV_MAP && !v->map->is_namespace;
    const char *method = v->kind == JV_STRING || v->kind == JV_LIST || plain_map ? jinja_method_find(v, name, n) : NULL;
    if (method) { /* Python looks for attributes before items */
        struct jinja_method *m = jinja_alloc(r, sizeof *m);
        if (!m)
            return no_room();
        *m = (struct jinja_method){*v, method};
        *out = (struct jv){.kind = JV_METHOD, .method = m};
        return 0;
    }
    const struct jv *found = NULL;
    if (v->kind == JV_MAP) {
        struct jv key = {.kind = JV_STRING, .s = name, .len = n};
        PW_PASS(jinja_step(r, v->map->n / 8));
        found = jv_find(v, &key);
    }
    *out = found ? *found : jv_undefined(name);
    return 0;
}

int jinja_item(struct jinja_run *r, const struct jv *v, const struct jv *key, struct jv *out)
{
    if (v->kind == JV_UNDEFINED)
        return jinja_undefined(r, v);
    *out = jv_undefined("item");
    if (v->kind == JV_MAP) {
        PW_PASS(jinja_step(r, v->map->n / 8));
        const struct jv *found = v->map->is_namespace ? NULL : jv_find(v, key);
        if (found) {
            *out = *found;
            return 0;
        }
    } else if ((v->kind == JV_LIST || v->kind == JV_STRING) && (key->kind == JV_INT || key->kind == JV_BOOL)) {
        size_t n;
        PW_PASS(jv_length(r, v, &n));
        int64_t i = key->kind == JV_INT ? key->i : key->b;
        i += i < 0 ? (int64_t)n : 0;
        if (i < 0 || i >= (int64_t)n)
            return 0;
        if (v->kind == JV_LIST) {
            *out = v->list->items[i];
            return 0;
        }
        size_t at = 0;
        while (i-- > 0)
            at += jinja_char_bytes((unsigned char)v->s[at]);
        return jv_string(r, v->s + at, jinja_char_bytes((unsigned char)v->s[at]), out);
    }
    if (key->kind == JV_STRING) {
        struct jv name;
        PW_PASS(jv_string(r, key->s, key->len, &name));
        return jinja_attr(r, v, name.s, name.len, out);
    }
    return 0;
}

/* ---- calls ---- */

static int eval_args(struct jinja_run *r, struct jinja_node *const *list, size_t n, struct jinja_args *args)
{
    struct jv positional, star;
    PW_PASS(jv_list(r, 0, &positional));
    *args = (struct jinja_args){0};
    size_t cap = n;
    args->names = jinja_alloc(r, (cap + 1) * sizeof *args->names);
    args->named = jinja_alloc(r, (cap + 1) * sizeof *args->named);
    if (!args->names || !args->named)
        return no_room();
    for (size_t i = 0; i < n; i++) {
        struct jv v;
        if (list[i]->kind == JN_KEYWORD) {
            PW_PASS(jinja_eval(r, list[i]->a, &v));
            struct jv name;
            PW_PASS(jv_string(r, list[i]->name, list[i]->name_len, &name));
            args->names[args->n_named] = name.s;
            args->named[args->n_named++] = v;
        } else if (list[i]->kind == JN_STAR) {
            PW_PASS(jinja_eval(r, list[i]->a, &v));
            PW_PASS(jv_iterate(r, &v, &star));
            for (size_t k = 0; k < star.list->n; k++)
                PW_PASS(jv_push(r, &positional, star.list->items[k]));
        } else if (list[i]->kind == JN_STARSTAR) {
            return jinja_fail(r, "** in a call is not supported");
        } else {
            PW_PASS(jinja_eval(r, list[i], &v));
            PW_PASS(jv_push(r, &positional, v));
        }
    }
    args->items = positional.list->items;
    args->n = positional.list->n;
    return 0;
}

/* Runs statements with their output going into a text. */
static int captured(struct jinja_run *r, const struct jinja_node *body, struct jv *out)
{
    struct pw_buf text = {0}, *before = r->out;
    r->out = &text;
    int rc = run(r, body);
    r->out = before;
    if (rc != 0) {
        pw_buf_free(&text);
        return rc;
    }
    return jv_take(r, &text, out);
}

static int call_macro(struct jinja_run *r, const struct jinja_macro *m, const struct jinja_args *args, const struct jv *caller, struct jv *out)
{
    struct jinja_scope *before = r->scope;
    const struct jinja_node *n = m->node;
    struct jv rest, named;
    r->scope = m->scope;
    PW_PASS(scope_push(r));
    PW_PASS(jv_list(r, 0, &rest));
    PW_PASS(jv_map(r, &named));
    rest.list->tuple = true;
    if (args->n > n->n && !(n->op & JINJA_USES_VARARGS))
        return jinja_fail(r, "a macro of %zu arguments is called with %zu", n->n, args->n);
    if (caller && !(n->op & JINJA_USES_CALLER))
        return jinja_fail(r, "call of a macro that does not use caller");
    for (size_t i = n->n; i < args->n; i++)
        PW_PASS(jv_push(r, &rest, args->items[i]));
    for (size_t i = 0; i < n->n; i++) {
        struct jv v = jv_undefined(n->list[i]->name);
        size_t k = 0;
        while (k < args->n_named && strcmp(args->names[k], n->list[i]->name) != 0)
            k++;
        if (i < args->n)
            v = args->items[i];
        else if (k < args->n_named)
            v = args->named[k];
        else if (n->list[i]->a)
            PW_PASS(jinja_eval(r, n->list[i]->a, &v));
        PW_PASS(var_set(r, n->list[i]->name, n->list[i]->name_len, v));
    }
    for (size_t k = 0; k < args->n_named; k++) {
        size_t i = 0;
        while (i < n->n && strcmp(args->names[k], n->list[i]->name) != 0)
            i++;
        if (i < n->n && i < args->n)
            return jinja_fail(r, "a macro got its argument %s twice", args->names[k]);
        if (i == n->n && strcmp(args->names[k], "caller") == 0 && (n->op & JINJA_USES_CALLER))
            caller = &args->named[k];
        else if (i == n->n && !(n->op & JINJA_USES_KWARGS))
            return jinja_fail(r, "a macro has no argument %s", args->names[k]);
        else if (i == n->n)
            PW_PASS(jv_put(r, &named, jv_static(args->names[k]), args->named[k]));
    }
    PW_PASS(var_set(r, "varargs", 7, rest));
    PW_PASS(var_set(r, "kwargs", 6, named));
    if (caller)
        PW_PASS(var_set(r, "caller", 6, *caller));
    int rc = captured(r, n->b, out);
    r->scope = before;
    return rc;
}

static int run_for(struct jinja_run *r, const struct jinja_node *n, const struct jv *over, int64_t depth0);

static int call_value(struct jinja_run *r, const struct jv *f, const struct jinja_args *args, const struct jv *caller, struct jv *out)
{
    if (++r->depth > EVAL_DEPTH)
        return jinja_fail(r, "nested too deeply");
    int rc;
    if (f->kind == JV_FUNCTION) {
        rc = jinja_function(r, f->i, args, out);
    } else if (f->kind == JV_METHOD) {
        rc = jinja_method(r, f->method, args, out);
    } else if (f->kind == JV_MACRO) {
        rc = call_macro(r, f->macro, args, caller, out);
    } else if (f->kind == JV_LOOP && f->loop->node->op && args->n == 1) {
        struct pw_buf text = {0}, *before = r->out;
        struct jinja_scope *scope = r->scope;
        r->out = &text;
        r->scope = f->loop->scope;
        rc = run_for(r, f->loop->node, &args->items[0], f->loop->depth0 + 1);
        r->out = before;
        r->scope = scope;
        if (rc < 0)
            pw_buf_free(&text);
        else
            rc = jv_take(r, &text, out);
    } else if (f->kind == JV_UNDEFINED) {
        rc = jinja_undefined(r, f);
    } else {
        rc = jinja_fail(r, "a %s cannot be called", jv_kind_name(f));
    }
    r->depth--;
    return rc;
}

int jinja_call(struct jinja_run *r, const struct jv *f, const struct jinja_args *args, struct jv *out)
{
    return call_value(r, f, args, NULL, out);
}

/* ---- expressions ---- */

static int eval_compare(struct jinja_run *r, const struct jinja_node *n, struct jv *out)
{
    struct jv left, right;
    bool holds = true;
    PW_PASS(jinja_eval(r, n->a, &left));
    for (size_t i = 0; i < n->n && holds; i++) {
        int op = n->list[i]->op, order = 0;
        PW_PASS(jinja_eval(r, n->list[i]->a, &right));
        switch (op) {
        case JO_EQ:
        case JO_NE:
            holds = jv_equal(&left, &right, 0) == (op == JO_EQ);
            break;
        case JO_IN:
        case JO_NOT_IN:
            PW_PASS(jv_contains(r, &right, &left, &holds));
            holds = holds == (op == JO_IN);
            break;
        default:
            PW_PASS(jv_compare(r, &left, &right, &order));
            holds = op == '<' ? order < 0 : op == '>' ? order > 0 : op == JO_LE ? order <= 0 : order >= 0;
        }
        left = right;
    }
    *out = jv_bool(holds);
    return 0;
}

static int eval_concat(struct jinja_run *r, const struct jinja_node *n, struct jv *out)
{
    struct jv a, b;
    struct pw_buf text = {0};
    PW_PASS(jinja_eval(r, n->a, &a));
    PW_PASS(jinja_eval(r, n->b, &b));
    int rc = jv_text(r, &a, &text);
    if (rc == 0)
        rc = jv_text(r, &b, &text);
    if (rc < 0) {
        pw_buf_free(&text);
        return rc;
    }
    return jv_take(r, &text, out);
}

static int eval_collection(struct jinja_run *r, const struct jinja_node *n, struct jv *out)
{
    struct jv a, b;
    if (n->kind == JN_DICT) {
        PW_PASS(jv_map(r, out));
        for (size_t i = 0; i + 1 < n->n; i += 2) {
            PW_PASS(jinja_eval(r, n->list[i], &a));
            PW_PASS(jinja_eval(r, n->list[i + 1], &b));
            PW_PASS(jv_put(r, out, a, b));
        }
        return 0;
    }
    PW_PASS(jv_list(r, n->n, out));
    out->list->tuple = n->kind == JN_TUPLE;
    for (size_t i = 0; i < n->n; i++) {
        PW_PASS(jinja_eval(r, n->list[i], &a));
        PW_PASS(jv_push(r, out, a));
    }
    return 0;
}

static int eval_node(struct jinja_run *r, const struct jinja_node *n, struct jv *out)
{
    struct jv a, b;
    struct jinja_args args;
    bool truth;
    switch (n->kind) {
    case JN_CONST: *out = n->value; return 0;
    case JN_NAME: lookup(r, n->name, n->name_len, out); return 0;
    case JN_LIST:
    case JN_TUPLE:
    case JN_DICT: return eval_collection(r, n, out);
    case JN_COND:
        PW_PASS(jinja_eval(r, n->a, &a));
        PW_PASS(jv_truth(r, &a, &truth));
        if (truth)
            return jinja_eval(r, n->b, out);
        *out = jv_undefined("the value of an if without else");
        return n->c ? jinja_eval(r, n->c, out) : 0;
    case JN_AND:
    case JN_OR:
        PW_PASS(jinja_eval(r, n->a, out));
        PW_PASS(jv_truth(r, out, &truth));
        return truth == (n->kind == JN_AND) ? jinja_eval(r, n->b, out) : 0;
    case JN_NOT:
        PW_PASS(jinja_eval(r, n->a, &a));
        PW_PASS(jv_truth(r, &a, &truth));
        *out = jv_bool(!truth);
        return 0;
    case JN_NEG:
    case JN_POS:
        PW_PASS(jinja_eval(r, n->a, &a));
        b = jv_int(0);
        if (a.kind == JV_REAL && n->kind == JN_NEG) {
            *out = jv_real(-a.d);
            return 0;
        }
        return jinja_arith(r, n->kind == JN_NEG ? '-' : '+', &b, &a, out);
    case JN_BINARY:
        PW_PASS(jinja_eval(r, n->a, &a));
        PW_PASS(jinja_eval(r, n->b, &b));
        return jinja_arith(r, n->op, &a, &b, out);
    case JN_COMPARE: return eval_compare(r, n, out);
    case JN_CONCAT: return eval_concat(r, n, out);
    case JN_ATTR:
        PW_PASS(jinja_eval(r, n->a, &a));
        return jinja_attr(r, &a, n->name, n->name_len, out);
    case JN_ITEM:
        PW_PASS(jinja_eval(r, n->a, &a));
        PW_PASS(jinja_eval(r, n->b, &b));
        return jinja_item(r, &a, &b, out);
    case JN_SLICE:
        PW_PASS(jinja_eval(r, n->a, &a));
        return jinja_slice(r, n, &a, out);
    case JN_CALL:
        PW_PASS(jinja_eval(r, n->a, &a));
        PW_PASS(eval_args(r, n->list, n->n, &args));
        return jinja_call(r, &a, &args, out);
    case JN_FILTER:
        PW_PASS(jinja_eval(r, n->a, &a));
        PW_PASS(eval_args(r, n->list, n->n, &args));
        return jinja_filter(r, n->name, &a, &args, out);
    case JN_TEST:
        PW_PASS(jinja_eval(r, n->a, &a));
        PW_PASS(eval_args(r, n->list, n->n, &args));
        PW_PASS(jinja_test(r, n->name, &a, &args, &truth));
        *out = jv_bool(truth != (n->op != 0));
        return 0;
    default: return jinja_fail(r, "not an expression");
    }
}

int jinja_eval(struct jinja_run *r, const struct jinja_node *n, struct jv *out)
{
    if (!n)
        return jinja_fail(r, "a part of an expression is missing");
    PW_PASS(jinja_step(r, 1));
    if (++r->depth > EVAL_DEPTH)
        return jinja_fail(r, "nested too deeply");
    r->line = n->line;
    int rc = eval_node(r, n, out);
    r->depth--;
    return rc;
}

/* ---- statements ---- */

static int write_text(struct jinja_run *r, const struct jv *v)
{
    if (v->kind == JV_STRING)
        PW_PASS(jinja_step(r, v->len / 64));
    PW_PASS(jv_text(r, v, r->out));
    if (r->out->len > r->output_limit)
        return jinja_fail(r, "more than %zu bytes of output", r->output_limit);
    return pw_buf_status(r->out);
}

static int run_loop(struct jinja_run *r, const struct jinja_node *n, struct jv *items, int64_t depth0, struct jinja_scope *outer, bool *finished)
{
    struct jinja_loop *l = jinja_alloc(r, sizeof *l);
    if (!l)
        return no_room();
    *l = (struct jinja_loop){.scope = outer, .length = (int64_t)items->list->n, .depth0 = depth0, .node = n};
    for (size_t i = 0; i < items->list->n; i++) {
        r->scope = outer;
        PW_PASS(jinja_step(r, 1));
        PW_PASS(scope_push(r)); /* what an iteration sets is gone after it */
        l->index0 = (int64_t)i;
        l->previous = i > 0 ? items->list->items[i - 1] : jv_undefined("there is no previous item");
        l->next = i + 1 < items->list->n ? items->list->items[i + 1] : jv_undefined("there is no next item");
        PW_PASS(var_set(r, "loop", 4, (struct jv){.kind = JV_LOOP, .loop = l}));
        PW_PASS(assign(r, n->a, &items->list->items[i]));
        int rc = run(r, n->d->list[0]);
        if (rc < 0)
            return rc;
        if (rc == LEAVE)
            break;
        *finished = *finished || rc == 0;
    }
    return 0;
}

/* `for ... if`: keeps the items for which the test holds, each tried in a scope of its own. */
static int keep_items(struct jinja_run *r, const struct jinja_node *n, struct jv *items)
{
    struct jinja_scope *outer = r->scope;
    struct jv kept, v;
    bool truth;
    PW_PASS(jv_list(r, 0, &kept));
    for (size_t i = 0; i < items->list->n; i++) {
        r->scope = outer;
        PW_PASS(scope_push(r));
        PW_PASS(assign(r, n->a, &items->list->items[i]));
        PW_PASS(jinja_eval(r, n->c, &v));
        PW_PASS(jv_truth(r, &v, &truth));
        if (truth)
            PW_PASS(jv_push(r, &kept, items->list->items[i]));
    }
    r->scope = outer;
    *items = kept;
    return 0;
}

static int run_for(struct jinja_run *r, const struct jinja_node *n, const struct jv *over, int64_t depth0)
{
    struct jinja_scope *outer = r->scope;
    struct jv items;
    PW_PASS(jv_iterate(r, over, &items));
    if (n->c)
        PW_PASS(keep_items(r, n, &items));
    /* As Jinja does it: else runs unless some iteration came to its end, so also after a lone continue or break. */
    bool finished = false;
    int rc = run_loop(r, n, &items, depth0, outer, &finished);
    if (rc == 0 && !finished && n->d->n > 1) {
        r->scope = outer;
        PW_PASS(scope_push(r));
        rc = run(r, n->d->list[1]);
    }
    r->scope = outer;
    return rc;
}

static int run_set_block(struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_scope *outer = r->scope;
    struct jv text;
    PW_PASS(scope_push(r));
    PW_PASS(captured(r, n->b, &text));
    r->scope = outer;
    if (n->c) {
        struct jinja_node whole = *n->c, *at = &whole; /* the text goes in where the chain of filters begins */
        struct jinja_node source = {.kind = JN_CONST, .line = n->line, .value = text}, parts[16];
        size_t depth = 0;
        while (at->a) {
            if (depth == 16)
                return jinja_fail(r, "too many filters");
            parts[depth] = *at->a;
            at->a = &parts[depth];
            at = &parts[depth++];
        }
        at->a = &source;
        PW_PASS(jinja_eval(r, &whole, &text));
    }
    if (n->kind == JN_FILTER_BLOCK)
        return write_text(r, &text);
    return assign(r, n->a, &text);
}

static int run_call_block(struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_macro *m = jinja_alloc(r, sizeof *m);
    struct jinja_args args;
    struct jv f, out;
    if (!m)
        return no_room();
    *m = (struct jinja_macro){n->b, r->scope};
    struct jv caller = {.kind = JV_MACRO, .macro = m};
    PW_PASS(jinja_eval(r, n->a->a, &f));
    PW_PASS(eval_args(r, n->a->list, n->a->n, &args));
    PW_PASS(call_value(r, &f, &args, &caller, &out));
    return write_text(r, &out);
}

static int run_generation(struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_scope *outer = r->scope;
    if (r->out != r->main_out)
        return jinja_fail(r, "{%% generation %%} inside a macro or a captured block is not supported");
    size_t from = r->out->len;
    PW_PASS(scope_push(r));
    int rc = run(r, n->b);
    r->scope = outer;
    if (rc == 0 && r->spans)
        rc = pw_spans_add(r->spans, from, r->out->len);
    return rc;
}

static int run_with(struct jinja_run *r, const struct jinja_node *n)
{
    struct jinja_scope *outer = r->scope, *inner;
    PW_PASS(scope_push(r));
    inner = r->scope;
    for (size_t i = 0; i + 1 < n->n; i += 2) { /* values are those outside */
        struct jv v;
        r->scope = outer;
        PW_PASS(jinja_eval(r, n->list[i + 1], &v));
        r->scope = inner;
        PW_PASS(assign(r, n->list[i], &v));
    }
    int rc = run(r, n->b);
    r->scope = outer;
    return rc;
}

static int run_one(struct jinja_run *r, const struct jinja_node *n)
{
    struct jv v;
    bool truth;
    switch (n->kind) {
    case JN_TEXT: return write_text(r, &n->value);
    case JN_OUTPUT:
        PW_PASS(jinja_eval(r, n->a, &v));
        return write_text(r, &v);
    case JN_IF:
        PW_PASS(jinja_eval(r, n->a, &v));
        PW_PASS(jv_truth(r, &v, &truth));
        return truth ? run(r, n->b) : n->c ? run(r, n->c) : 0;
    case JN_FOR:
        PW_PASS(jinja_eval(r, n->b, &v));
        return run_for(r, n, &v, 0);
    case JN_SET:
        PW_PASS(jinja_eval(r, n->b, &v));
        return assign(r, n->a, &v);
    case JN_SET_BLOCK: return run_set_block(r, n);
    case JN_FILTER_BLOCK: {
        struct jinja_node block = *n; /* filters stand in ->a here, in ->c there */
        block.c = n->a;
        return run_set_block(r, &block);
    }
    case JN_MACRO: {
        struct jinja_macro *m = jinja_alloc(r, sizeof *m);
        if (!m)
            return no_room();
        *m = (struct jinja_macro){n, r->scope};
        return var_set(r, n->a->name, n->a->name_len, (struct jv){.kind = JV_MACRO, .macro = m});
    }
    case JN_CALL_BLOCK: return run_call_block(r, n);
    case JN_GENERATION: return run_generation(r, n);
    case JN_WITH: return run_with(r, n);
    case JN_BREAK: return LEAVE;
    case JN_CONTINUE: return AGAIN;
    case JN_BLOCK: return run(r, n);
    default: return jinja_fail(r, "not a statement");
    }
}

static int run(struct jinja_run *r, const struct jinja_node *n)
{
    if (n->kind != JN_BLOCK)
        return run_one(r, n);
    if (++r->depth > EVAL_DEPTH)
        return jinja_fail(r, "nested too deeply");
    int rc = 0;
    for (size_t i = 0; i < n->n && rc == 0; i++) {
        r->line = n->list[i]->line;
        PW_PASS(jinja_step(r, 1));
        rc = run_one(r, n->list[i]);
    }
    r->depth--;
    return rc;
}

/* ---- public ---- */

int pw_jinja_parse(struct pw_jinja **out, const char *source, size_t bytes, const char *name)
{
    *out = NULL;
    struct pw_jinja *t = pw_alloc_zero(1, sizeof *t);
    PW_CHECK(t, PW_E_NOMEM, "template %s: no memory", name);
    pw_arena_init(&t->arena);
    int rc = 0;
    struct jinja_token *tokens = NULL;
    size_t n = 0;
    t->name = pw_strdup(name);
    PW_CHECK_OUT(t->name, PW_E_NOMEM, "template %s: no memory", name);
    PW_PASS_OUT(jinja_lex(t, source, bytes, &tokens, &n));
    PW_PASS_OUT(jinja_parse_tokens(t, tokens, n));
    *out = t;
    t = NULL;
out:
    pw_free(tokens);
    pw_jinja_free(t);
    return rc;
}

void pw_jinja_free(struct pw_jinja *t)
{
    if (!t)
        return;
    pw_arena_free(&t->arena);
    pw_free(t->name);
    pw_free(t);
}

bool pw_jinja_has_generation(const struct pw_jinja *t) { return t->has_generation; }
bool pw_jinja_uses_clock(const struct pw_jinja *t) { return t->uses_clock; }

int pw_spans_add(struct pw_spans *s, size_t start, size_t end)
{
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 16;
        size_t *a = pw_realloc(s->start, s->cap * sizeof *a, cap * sizeof *a);
        PW_CHECK(a, PW_E_NOMEM, "no memory for spans");
        s->start = a;
        size_t *b = pw_realloc(s->end, s->cap * sizeof *b, cap * sizeof *b);
        PW_CHECK(b, PW_E_NOMEM, "no memory for spans");
        s->end = b;
        s->cap = cap;
    }
    s->start[s->n] = start;
    s->end[s->n++] = end;
    return 0;
}

void pw_spans_free(struct pw_spans *s)
{
    pw_free(s->start);
    pw_free(s->end);
    *s = (struct pw_spans){0};
}

int pw_jinja_render(const struct pw_jinja *t, const struct pw_value *vars, const struct pw_jinja_limits *limits, struct pw_buf *out,
                    struct pw_spans *generation)
{
    static const struct pw_jinja_limits defaults = {0};
    const struct pw_jinja_limits *l = limits ? limits : &defaults;
    struct jinja_run r = {.t = t, .spans = generation};
    r.steps_limit = l->steps ? l->steps : 50 * 1000 * 1000;
    r.output_limit = (l->output ? l->output : (size_t)64 << 20) + out->len;
    r.memory_limit = l->memory ? l->memory : (size_t)512 << 20;
    r.now = l->now ? l->now : (int64_t)time(NULL);
    r.out = r.main_out = out;
    size_t before = out->len;
    int rc = 0;
    PW_PASS_OUT(scope_push(&r));
    r.global = r.scope;
    for (size_t i = 0; vars && i < vars->len; i++) {
        struct jv v;
        PW_PASS_OUT(jv_from_value(&r, &vars->members[i].value, &v));
        PW_PASS_OUT(var_set(&r, vars->members[i].key, vars->members[i].key_len, v));
    }
    PW_PASS_OUT(run(&r, t->root));
out:
    jinja_free_all(&r);
    if (rc < 0 && out->data && out->len > before) { /* a failed rendering leaves nothing */
        out->len = before;
        out->data[before] = 0;
    }
    return rc < 0 ? rc : 0;
}
