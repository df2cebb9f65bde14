/* Tokens to nodes: the expression grammar and the statements. Unknown tags, filters and tests are errors here, before anything runs. */
#include <stdio.h>
#include <string.h>

#include "data/jinja_parts.h"

struct parser { struct pw_jinja *t; const struct jinja_token *k; size_t at; int depth, loops, uses; };

static int expression(struct parser *p, struct jinja_node **out);
static int statements(struct parser *p, const char *const *ends, struct jinja_node **out, int *which);

static const struct jinja_token *now(const struct parser *p) { return &p->k[p->at]; }

static int bad(const struct parser *p, const char *what)
{
    const struct jinja_token *k = now(p);
    char got[48] = "";
    if (k->kind == JT_NAME)
        snprintf(got, sizeof got, ", got %.*s", (int)(k->n < 30 ? k->n : 30), k->s);
    else if (k->kind == JT_OP && k->op < 256)
        snprintf(got, sizeof got, ", got %c", k->op);
    else if (k->kind == JT_VAR_END || k->kind == JT_BLOCK_END)
        snprintf(got, sizeof got, ", got the end of the tag");
    return pw_error(PW_E_FORMAT, "template %s, line %d: %s%s", p->t->name, k->line, what, got);
}

static bool is_op(const struct parser *p, int op) { return now(p)->kind == JT_OP && now(p)->op == op; }

static bool token_is(const struct jinja_token *k, const char *word)
{
    return k->kind == JT_NAME && k->n == strlen(word) && memcmp(k->s, word, k->n) == 0;
}

static bool is_word(const struct parser *p, const char *word) { return token_is(now(p), word); }

static bool skip_op(struct parser *p, int op)
{
    bool is = is_op(p, op);
    p->at += is;
    return is;
}

static bool skip_word(struct parser *p, const char *word)
{
    bool is = is_word(p, word);
    p->at += is;
    return is;
}

static int want_op(struct parser *p, int op)
{
    char what[32];
    snprintf(what, sizeof what, "expected %c", op);
    return skip_op(p, op) ? 0 : bad(p, what);
}

static struct jinja_node *make(struct parser *p, enum jinja_kind kind)
{
    struct jinja_node *n = pw_arena_alloc(&p->t->arena, sizeof *n);
    if (n) {
        n->kind = kind;
        n->line = now(p)->line;
    }
    return n;
}

#define MAKE(var, kind) \
    struct jinja_node *var = make(p, kind); \
    PW_CHECK(var, PW_E_NOMEM, "template %s: no memory", p->t->name)

static int append(struct parser *p, struct jinja_node *list, struct jinja_node *item)
{
    if ((list->n & (list->n - 1)) == 0) { /* 0, 1, 2, 4...: full */
        struct jinja_node **grown = pw_arena_array(&p->t->arena, list->n ? list->n * 2 : 1, sizeof *grown);
        PW_CHECK(grown, PW_E_NOMEM, "template %s: no memory", p->t->name);
        if (list->n)
            memcpy(grown, list->list, list->n * sizeof *grown);
        list->list = grown;
    }
    list->list[list->n++] = item;
    return 0;
}

static int enter(struct parser *p)
{
    return ++p->depth > JINJA_DEPTH ? bad(p, "nested too deeply") : 0;
}

/* ---- expressions ---- */

static bool tuple_end(const struct parser *p, const char *extra)
{
    enum jinja_token_kind k = now(p)->kind;
    return k == JT_VAR_END || k == JT_BLOCK_END || k == JT_END || is_op(p, ')') || (extra && is_word(p, extra));
}

static int or_expression(struct parser *p, struct jinja_node **out);
static int primary(struct parser *p, struct jinja_node **out);

enum { TUPLE_FULL, TUPLE_NO_COND, TUPLE_SIMPLE };
static int tuple(struct parser *p, int how, const char *extra, bool parentheses, struct jinja_node **out)
{
    MAKE(list, JN_TUPLE);
    bool is_tuple = false;
    for (;;) {
        if (list->n > 0)
            PW_PASS(want_op(p, ','));
        if (tuple_end(p, extra))
            break;
        struct jinja_node *item;
        PW_PASS(how == TUPLE_SIMPLE ? primary(p, &item) : how == TUPLE_NO_COND ? or_expression(p, &item) : expression(p, &item));
        PW_PASS(append(p, list, item));
        if (!is_op(p, ','))
            break;
        is_tuple = true;
    }
    if (!is_tuple && list->n == 0 && !parentheses)
        return bad(p, "expected an expression");
    *out = is_tuple || list->n == 0 ? list : list->list[0];
    return 0;
}

static int call_args(struct parser *p, struct jinja_node *into)
{
    PW_PASS(want_op(p, '('));
    bool first = true, named = false;
    while (!is_op(p, ')')) {
        if (!first)
            PW_PASS(want_op(p, ','));
        if (is_op(p, ')'))
            break;
        first = false;
        struct jinja_node *item;
        if (is_op(p, '*') || is_op(p, JO_POW)) {
            MAKE(star, is_op(p, '*') ? JN_STAR : JN_STARSTAR);
            p->at++;
            PW_PASS(expression(p, &star->a));
            item = star;
        } else if (now(p)->kind == JT_NAME && now(p)[1].kind == JT_OP && now(p)[1].op == '=') {
            MAKE(word, JN_KEYWORD);
            word->name = now(p)->s;
            word->name_len = now(p)->n;
            p->at += 2;
            PW_PASS(expression(p, &word->a));
            item = word;
            named = true;
        } else {
            if (named)
                return bad(p, "an argument without a name after one with a name");
            PW_PASS(expression(p, &item));
        }
        PW_PASS(append(p, into, item));
    }
    return want_op(p, ')');
}

static int constant(struct parser *p, struct jv v, struct jinja_node **out)
{
    MAKE(n, JN_CONST);
    n->value = v;
    *out = n;
    return 0;
}

static int string_literal(struct parser *p, struct jinja_node **out)
{
    struct pw_buf b = {0}; /* neighbours are one string */
    for (; now(p)->kind == JT_STRING; p->at++)
        pw_buf_add(&b, now(p)->s, now(p)->n);
    char *s = pw_arena_strndup(&p->t->arena, b.data ? b.data : "", b.len);
    struct jv v = {.kind = JV_STRING, .len = b.len, .s = s};
    bool failed = b.failed || !s;
    pw_buf_free(&b);
    PW_CHECK(!failed, PW_E_NOMEM, "template %s: no memory", p->t->name);
    return constant(p, v, out);
}

static int dictionary(struct parser *p, struct jinja_node **out)
{
    MAKE(d, JN_DICT);
    p->at++;
    while (!is_op(p, '}')) {
        struct jinja_node *key, *value;
        if (d->n > 0)
            PW_PASS(want_op(p, ','));
        if (is_op(p, '}'))
            break;
        PW_PASS(expression(p, &key));
        PW_PASS(want_op(p, ':'));
        PW_PASS(expression(p, &value));
        PW_PASS(append(p, d, key));
        PW_PASS(append(p, d, value));
    }
    *out = d;
    return want_op(p, '}');
}

static int name_expression(struct parser *p, struct jinja_node **out)
{
    static const struct { const char *word; enum jv_kind kind; bool b; } words[] = {
        {"true", JV_BOOL, true}, {"True", JV_BOOL, true}, {"false", JV_BOOL, false}, {"False", JV_BOOL, false}, {"none", JV_NONE, false},
        {"None", JV_NONE, false},
    };
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (skip_word(p, words[i].word))
            return constant(p, (struct jv){.kind = words[i].kind, .b = words[i].b}, out);
    MAKE(n, JN_NAME);
    n->name = pw_arena_strndup(&p->t->arena, now(p)->s, now(p)->n);
    n->name_len = now(p)->n;
    PW_CHECK(n->name, PW_E_NOMEM, "template %s: no memory", p->t->name);
    p->uses |= strcmp(n->name, "caller") == 0 ? JINJA_USES_CALLER : strcmp(n->name, "varargs") == 0 ? JINJA_USES_VARARGS : strcmp(n->name, "kwargs") == 0 ? JINJA_USES_KWARGS : 0;
    p->t->uses_clock |= strcmp(n->name, "strftime_now") == 0;
    p->at++;
    *out = n;
    return 0;
}

static int primary(struct parser *p, struct jinja_node **out)
{
    const struct jinja_token *k = now(p);
    switch (k->kind) {
    case JT_NAME: return name_expression(p, out);
    case JT_STRING: return string_literal(p, out);
    case JT_INT: p->at++; return constant(p, (struct jv){.kind = JV_INT, .i = k->i}, out);
    case JT_REAL: p->at++; return constant(p, (struct jv){.kind = JV_REAL, .d = k->d}, out);
    default: break;
    }
    if (skip_op(p, '(')) {
        PW_PASS(tuple(p, TUPLE_FULL, NULL, true, out));
        return want_op(p, ')');
    }
    if (is_op(p, '[')) {
        MAKE(list, JN_LIST);
        p->at++;
        while (!is_op(p, ']')) {
            struct jinja_node *item;
            if (list->n > 0)
                PW_PASS(want_op(p, ','));
            if (is_op(p, ']'))
                break;
            PW_PASS(expression(p, &item));
            PW_PASS(append(p, list, item));
        }
        *out = list;
        return want_op(p, ']');
    }
    if (is_op(p, '{'))
        return dictionary(p, out);
    return bad(p, "expected an expression");
}

static int subscript(struct parser *p, struct jinja_node *of, struct jinja_node **out)
{
    if (skip_op(p, '.')) {
        if (now(p)->kind == JT_INT) {
            MAKE(item, JN_ITEM);
            item->a = of;
            PW_PASS(primary(p, &item->b));
            *out = item;
            return 0;
        }
        if (now(p)->kind != JT_NAME)
            return bad(p, "expected a name after the dot");
        MAKE(attr, JN_ATTR);
        attr->a = of;
        attr->name = pw_arena_strndup(&p->t->arena, now(p)->s, now(p)->n);
        attr->name_len = now(p)->n;
        PW_CHECK(attr->name, PW_E_NOMEM, "template %s: no memory", p->t->name);
        p->at++;
        *out = attr;
        return 0;
    }
    p->at++; /* [ */
    MAKE(item, JN_ITEM);
    item->a = of;
    if (!is_op(p, ':'))
        PW_PASS(expression(p, &item->b));
    if (skip_op(p, ':')) {
        item->kind = JN_SLICE;
        if (!is_op(p, ':') && !is_op(p, ']'))
            PW_PASS(expression(p, &item->c));
        if (skip_op(p, ':') && !is_op(p, ']'))
            PW_PASS(expression(p, &item->d));
    }
    *out = item;
    return want_op(p, ']');
}

static int call(struct parser *p, struct jinja_node *of, struct jinja_node **out)
{
    MAKE(n, JN_CALL);
    n->a = of;
    *out = n;
    return call_args(p, n);
}

static int postfix(struct parser *p, struct jinja_node **n)
{
    for (;;) {
        if (is_op(p, '.') || is_op(p, '['))
            PW_PASS(subscript(p, *n, n));
        else if (is_op(p, '('))
            PW_PASS(call(p, *n, n));
        else
            return 0;
    }
}

static int dotted_name(struct parser *p, char *name, size_t room)
{
    if (now(p)->kind != JT_NAME)
        return bad(p, "expected a name");
    if (now(p)->n >= room)
        return bad(p, "too long a name");
    memcpy(name, now(p)->s, now(p)->n);
    name[now(p)->n] = 0;
    p->at++;
    return 0;
}

/* After "|": name and arguments. of may be NULL (filter blocks). */
static int filter(struct parser *p, struct jinja_node *of, struct jinja_node **out)
{
    char name[64];
    MAKE(n, JN_FILTER);
    size_t at = p->at;
    PW_PASS(dotted_name(p, name, sizeof name));
    n->name = jinja_filter_find(name, strlen(name));
    if (!n->name) {
        p->at = at;
        return bad(p, "unknown or unsupported filter");
    }
    n->a = of;
    *out = n;
    return is_op(p, '(') ? call_args(p, n) : 0;
}

static int test(struct parser *p, struct jinja_node *of, struct jinja_node **out)
{
    char name[64];
    bool negated = skip_word(p, "not");
    MAKE(n, JN_TEST);
    size_t at = p->at;
    PW_PASS(dotted_name(p, name, sizeof name));
    n->name = jinja_test_find(name, strlen(name));
    if (!n->name) {
        p->at = at;
        return bad(p, "unknown or unsupported test");
    }
    n->a = of;
    n->op = negated;
    *out = n;
    if (is_op(p, '('))
        return call_args(p, n);
    enum jinja_token_kind k = now(p)->kind;
    bool begins = k == JT_NAME || k == JT_STRING || k == JT_INT || k == JT_REAL || is_op(p, '[') || is_op(p, '{');
    if (!begins || is_word(p, "else") || is_word(p, "or") || is_word(p, "and"))
        return 0;
    if (is_word(p, "is"))
        return bad(p, "tests cannot be chained");
    /* "x is defined if ..." and "x is defined in ...": Jinja itself reads the word as the test's argument, and so is `if` above all
     * an error there; a name that is an operator cannot begin an argument. */
    if (is_word(p, "if") || is_word(p, "in") || is_word(p, "not"))
        return 0;
    struct jinja_node *arg;
    PW_PASS(primary(p, &arg));
    PW_PASS(postfix(p, &arg));
    return append(p, n, arg);
}

static int filters(struct parser *p, struct jinja_node **n)
{
    for (;;) {
        if (skip_op(p, '|'))
            PW_PASS(filter(p, *n, n));
        else if (skip_word(p, "is"))
            PW_PASS(test(p, *n, n));
        else if (is_op(p, '('))
            PW_PASS(call(p, *n, n));
        else
            return 0;
    }
}

static int unary(struct parser *p, bool with_filter, struct jinja_node **out)
{
    PW_PASS(enter(p));
    if (is_op(p, '-') || is_op(p, '+')) {
        MAKE(n, is_op(p, '-') ? JN_NEG : JN_POS);
        p->at++;
        PW_PASS(unary(p, false, &n->a));
        *out = n;
    } else {
        PW_PASS(primary(p, out));
    }
    PW_PASS(postfix(p, out));
    if (with_filter)
        PW_PASS(filters(p, out));
    p->depth--;
    return 0;
}

/* Left-associative operators, loosest first; the last level's operand is unary. */
static const int levels[][5] = {{'+', '-', 0}, {'~', 0}, {'*', '/', JO_FLOORDIV, '%', 0}, {JO_POW, 0}};

static int binary(struct parser *p, size_t level, struct jinja_node **out)
{
    if (level == sizeof levels / sizeof levels[0])
        return unary(p, true, out);
    PW_PASS(binary(p, level + 1, out));
    for (int chain = 0;; chain++) {
        int i = 0;
        while (levels[level][i] && !is_op(p, levels[level][i]))
            i++;
        if (!levels[level][i])
            return 0;
        if (chain > 2000)
            return bad(p, "too long an expression");
        MAKE(n, level == 1 ? JN_CONCAT : JN_BINARY);
        n->op = levels[level][i];
        p->at++;
        n->a = *out;
        PW_PASS(binary(p, level + 1, &n->b));
        *out = n;
    }
}

static int comparison(struct parser *p, struct jinja_node **out)
{
    PW_PASS(binary(p, 0, out));
    struct jinja_node *list = NULL;
    for (;;) {
        int op = 0;
        static const int ops[] = {JO_EQ, JO_NE, '<', '>', JO_LE, JO_GE};
        for (size_t i = 0; i < 6 && !op; i++)
            op = skip_op(p, ops[i]) ? ops[i] : 0;
        if (!op && skip_word(p, "in"))
            op = JO_IN;
        if (!op && is_word(p, "not") && token_is(now(p) + 1, "in")) {
            p->at += 2;
            op = JO_NOT_IN;
        }
        if (!op)
            return 0;
        if (!list) {
            MAKE(n, JN_COMPARE);
            list = n;
            list->a = *out;
            *out = list;
        }
        MAKE(operand, JN_POS); /* only carries the operator */
        operand->op = op;
        PW_PASS(binary(p, 0, &operand->a));
        PW_PASS(append(p, list, operand));
    }
}

static int not_expression(struct parser *p, struct jinja_node **out)
{
    PW_PASS(enter(p));
    if (is_word(p, "not")) {
        MAKE(n, JN_NOT);
        p->at++;
        PW_PASS(not_expression(p, &n->a));
        *out = n;
    } else {
        PW_PASS(comparison(p, out));
    }
    p->depth--;
    return 0;
}

static int and_expression(struct parser *p, struct jinja_node **out)
{
    PW_PASS(not_expression(p, out));
    for (int chain = 0; is_word(p, "and"); chain++) {
        MAKE(n, JN_AND);
        p->at++;
        n->a = *out;
        PW_PASS(not_expression(p, &n->b));
        *out = n;
        if (chain > 2000)
            return bad(p, "too long an expression");
    }
    return 0;
}

static int or_expression(struct parser *p, struct jinja_node **out)
{
    PW_PASS(and_expression(p, out));
    for (int chain = 0; is_word(p, "or"); chain++) {
        MAKE(n, JN_OR);
        p->at++;
        n->a = *out;
        PW_PASS(and_expression(p, &n->b));
        *out = n;
        if (chain > 2000)
            return bad(p, "too long an expression");
    }
    return 0;
}

static int expression(struct parser *p, struct jinja_node **out)
{
    PW_PASS(enter(p));
    PW_PASS(or_expression(p, out));
    while (is_word(p, "if")) {
        MAKE(n, JN_COND);
        p->at++;
        n->b = *out;
        PW_PASS(or_expression(p, &n->a));
        if (skip_word(p, "else"))
            PW_PASS(expression(p, &n->c));
        *out = n;
        if (!n->c)
            continue;
    }
    p->depth--;
    return 0;
}

/* ---- statements ---- */

static int end_tag(struct parser *p)
{
    if (now(p)->kind != JT_BLOCK_END)
        return bad(p, "expected the end of the tag");
    p->at++;
    return 0;
}

/* After the tag's own words: its end, then a body up to one of `ends`, whose word is consumed. */
static int body(struct parser *p, const char *const *ends, struct jinja_node **out, int *which)
{
    PW_PASS(end_tag(p));
    return statements(p, ends, out, which);
}

static int body_to(struct parser *p, const char *end, struct jinja_node **out);

/* A body whose output is taken as a text: no break or continue leads out of it. */
static int closed_body(struct parser *p, const char *end, struct jinja_node **out)
{
    int loops = p->loops;
    p->loops = 0;
    PW_PASS(body_to(p, end, out));
    p->loops = loops;
    return 0;
}

static int body_to(struct parser *p, const char *end, struct jinja_node **out)
{
    const char *ends[] = {end, NULL};
    int which;
    PW_PASS(body(p, ends, out, &which));
    return end_tag(p);
}

static bool only_names(const struct jinja_node *n)
{
    if (n->kind != JN_TUPLE)
        return n->kind == JN_NAME;
    for (size_t i = 0; i < n->n; i++)
        if (!only_names(n->list[i]))
            return false;
    return true;
}

static int target(struct parser *p, const char *extra, struct jinja_node **out)
{
    PW_PASS(tuple(p, TUPLE_SIMPLE, extra, false, out));
    if ((*out)->kind == JN_NAME && is_op(p, '.')) { /* ns.x */
        PW_PASS(subscript(p, *out, out));
        return (*out)->kind == JN_ATTR ? 0 : bad(p, "expected a name after the dot");
    }
    if (!only_names(*out))
        return bad(p, "only names can be assigned to");
    return 0;
}

static int if_statement(struct parser *p, struct jinja_node **out)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    PW_PASS(enter(p));
    MAKE(n, JN_IF);
    int which;
    PW_PASS(tuple(p, TUPLE_NO_COND, NULL, false, &n->a));
    PW_PASS(body(p, ends, &n->b, &which));
    *out = n;
    if (which == 0)
        PW_PASS(if_statement(p, &n->c));
    else if (which == 1)
        PW_PASS(body_to(p, "endif", &n->c));
    else
        PW_PASS(end_tag(p));
    p->depth--;
    return 0;
}

static int for_statement(struct parser *p, struct jinja_node **out)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    MAKE(n, JN_FOR);
    int which;
    PW_PASS(target(p, "in", &n->a));
    if (!skip_word(p, "in"))
        return bad(p, "expected in");
    PW_PASS(tuple(p, TUPLE_NO_COND, "recursive", false, &n->b));
    if (skip_word(p, "if"))
        PW_PASS(expression(p, &n->c));
    n->op = skip_word(p, "recursive");
    p->loops++;
    MAKE(parts, JN_BLOCK);
    struct jinja_node *part;
    PW_PASS(body(p, ends, &part, &which));
    p->loops--;
    PW_PASS(append(p, parts, part));
    if (which == 1) {
        PW_PASS(body_to(p, "endfor", &part));
        PW_PASS(append(p, parts, part));
    } else {
        PW_PASS(end_tag(p));
    }
    n->d = parts;
    *out = n;
    return 0;
}

static int set_statement(struct parser *p, struct jinja_node **out)
{
    MAKE(n, JN_SET);
    PW_PASS(target(p, NULL, &n->a));
    *out = n;
    if (skip_op(p, '=')) {
        PW_PASS(tuple(p, TUPLE_FULL, NULL, false, &n->b));
        return end_tag(p);
    }
    n->kind = JN_SET_BLOCK;
    while (skip_op(p, '|'))
        PW_PASS(filter(p, n->c, &n->c));
    return closed_body(p, "endset", &n->b);
}

static int signature(struct parser *p, struct jinja_node *n)
{
    PW_PASS(want_op(p, '('));
    while (!is_op(p, ')')) {
        if (n->n > 0)
            PW_PASS(want_op(p, ','));
        if (now(p)->kind != JT_NAME)
            return bad(p, "expected the name of a parameter");
        struct jinja_node *param;
        PW_PASS(name_expression(p, &param));
        if (param->kind != JN_NAME)
            return bad(p, "expected the name of a parameter");
        if (skip_op(p, '='))
            PW_PASS(expression(p, &param->a));
        else if (n->n > 0 && n->list[n->n - 1]->a)
            return bad(p, "a parameter without a default after one with a default");
        PW_PASS(append(p, n, param));
    }
    return want_op(p, ')');
}

/* Notes which of caller, varargs and kwargs the body names: a macro takes only what it uses. */
static int macro_body(struct parser *p, struct jinja_node *n, const char *end)
{
    int outside = p->uses;
    p->uses = 0;
    PW_PASS(closed_body(p, end, &n->b));
    n->op = p->uses;
    p->uses |= outside;
    return 0;
}

static int macro_statement(struct parser *p, struct jinja_node **out)
{
    MAKE(n, JN_MACRO);
    if (now(p)->kind != JT_NAME)
        return bad(p, "expected the name of a macro");
    PW_PASS(name_expression(p, &n->a));
    PW_PASS(signature(p, n));
    PW_PASS(macro_body(p, n, "endmacro"));
    *out = n;
    return 0;
}

static int call_statement(struct parser *p, struct jinja_node **out)
{
    MAKE(n, JN_CALL_BLOCK);
    MAKE(caller, JN_MACRO);
    if (is_op(p, '('))
        PW_PASS(signature(p, caller));
    PW_PASS(expression(p, &n->a));
    if (n->a->kind != JN_CALL)
        return bad(p, "expected a call");
    PW_PASS(macro_body(p, caller, "endcall"));
    n->b = caller;
    *out = n;
    return 0;
}

static int with_statement(struct parser *p, struct jinja_node **out)
{
    MAKE(n, JN_WITH);
    while (now(p)->kind == JT_NAME) {
        struct jinja_node *name, *value;
        PW_PASS(name_expression(p, &name));
        PW_PASS(want_op(p, '='));
        PW_PASS(expression(p, &value));
        PW_PASS(append(p, n, name));
        PW_PASS(append(p, n, value));
        if (!skip_op(p, ','))
            break;
    }
    *out = n;
    return body_to(p, "endwith", &n->b);
}

static int statement(struct parser *p, struct jinja_node **out)
{
    if (skip_word(p, "if"))
        return if_statement(p, out);
    if (skip_word(p, "for"))
        return for_statement(p, out);
    if (skip_word(p, "set"))
        return set_statement(p, out);
    if (skip_word(p, "macro"))
        return macro_statement(p, out);
    if (skip_word(p, "call"))
        return call_statement(p, out);
    if (skip_word(p, "with"))
        return with_statement(p, out);
    if (is_word(p, "break") || is_word(p, "continue")) {
        if (p->loops == 0)
            return bad(p, "break and continue stand inside a loop");
        MAKE(n, is_word(p, "break") ? JN_BREAK : JN_CONTINUE);
        p->at++;
        *out = n;
        return end_tag(p);
    }
    if (skip_word(p, "filter")) {
        MAKE(n, JN_FILTER_BLOCK);
        PW_PASS(filter(p, NULL, &n->a));
        while (skip_op(p, '|'))
            PW_PASS(filter(p, n->a, &n->a));
        *out = n;
        return closed_body(p, "endfilter", &n->b);
    }
    if (skip_word(p, "generation")) {
        MAKE(n, JN_GENERATION);
        p->t->has_generation = true;
        *out = n;
        return closed_body(p, "endgeneration", &n->b);
    }
    return bad(p, "unknown or unsupported tag");
}

static int statements(struct parser *p, const char *const *ends, struct jinja_node **out, int *which)
{
    PW_PASS(enter(p));
    MAKE(list, JN_BLOCK);
    *out = list;
    for (;;) {
        const struct jinja_token *k = now(p);
        struct jinja_node *n = NULL;
        if (k->kind == JT_END) {
            if (ends)
                return bad(p, "the template ends inside a block");
            break;
        }
        if (k->kind == JT_TEXT) {
            MAKE(text, JN_TEXT);
            text->value = (struct jv){.kind = JV_STRING, .s = k->s, .len = k->n};
            p->at++;
            n = text;
        } else if (k->kind == JT_VAR_BEGIN) {
            MAKE(output, JN_OUTPUT);
            p->at++;
            PW_PASS(tuple(p, TUPLE_FULL, NULL, false, &output->a));
            if (now(p)->kind != JT_VAR_END)
                return bad(p, "expected }}");
            p->at++;
            n = output;
        } else {
            p->at++;
            for (int i = 0; ends && ends[i]; i++)
                if (is_word(p, ends[i])) {
                    p->at++;
                    *which = i;
                    p->depth--;
                    return 0;
                }
            PW_PASS(statement(p, &n));
        }
        PW_PASS(append(p, list, n));
    }
    p->depth--;
    return 0;
}

int jinja_parse_tokens(struct pw_jinja *t, const struct jinja_token *tokens, size_t n)
{
    (void)n; /* the last one is JT_END, which nothing steps over */
    struct parser p = {.t = t, .k = tokens};
    return statements(&p, NULL, &t->root, NULL);
}
