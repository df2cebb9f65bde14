/* Tokens to nodes: the grammar of expressions. Unknown filters and tests are errors here, before anything runs. */
#include <stdio.h>

#include "data/jinja_parser.h"

int jinja_bad(const struct jinja_parser *p, const char *what)
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

int jinja_want_op(struct jinja_parser *p, int op)
{
    char what[32];
    snprintf(what, sizeof what, "expected %c", op);
    return skip_op(p, op) ? 0 : jinja_bad(p, what);
}

struct jinja_node *jinja_make(struct jinja_parser *p, enum jinja_kind kind)
{
    struct jinja_node *n = pw_arena_alloc(&p->t->arena, sizeof *n);
    if (n) {
        n->kind = kind;
        n->line = now(p)->line;
    }
    return n;
}

int jinja_append(struct jinja_parser *p, struct jinja_node *list, struct jinja_node *item)
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

int jinja_enter(struct jinja_parser *p)
{
    return ++p->depth > JINJA_DEPTH ? jinja_bad(p, "nested too deeply") : 0;
}

/* ---- expressions ---- */

static bool tuple_end(const struct jinja_parser *p, const char *extra)
{
    enum jinja_token_kind k = now(p)->kind;
    return k == JT_VAR_END || k == JT_BLOCK_END || k == JT_END || is_op(p, ')') || (extra && is_word(p, extra));
}

static int or_expression(struct jinja_parser *p, struct jinja_node **out);
static int primary(struct jinja_parser *p, struct jinja_node **out);

int jinja_tuple(struct jinja_parser *p, int how, const char *extra, bool parentheses, struct jinja_node **out)
{
    MAKE(list, JN_TUPLE);
    bool is_tuple = false;
    for (;;) {
        if (list->n > 0)
            PW_PASS(jinja_want_op(p, ','));
        if (tuple_end(p, extra))
            break;
        struct jinja_node *item;
        PW_PASS(how == TUPLE_SIMPLE ? primary(p, &item) : how == TUPLE_NO_COND ? or_expression(p, &item) : jinja_expression(p, &item));
        PW_PASS(jinja_append(p, list, item));
        if (!is_op(p, ','))
            break;
        is_tuple = true;
    }
    if (!is_tuple && list->n == 0 && !parentheses)
        return jinja_bad(p, "expected an expression");
    *out = is_tuple || list->n == 0 ? list : list->list[0];
    return 0;
}

static int call_args(struct jinja_parser *p, struct jinja_node *into)
{
    PW_PASS(jinja_want_op(p, '('));
    bool first = true, named = false;
    while (!is_op(p, ')')) {
        if (!first)
            PW_PASS(jinja_want_op(p, ','));
        if (is_op(p, ')'))
            break;
        first = false;
        struct jinja_node *item;
        if (is_op(p, '*') || is_op(p, JO_POW)) {
            MAKE(star, is_op(p, '*') ? JN_STAR : JN_STARSTAR);
            p->at++;
            PW_PASS(jinja_expression(p, &star->a));
            item = star;
        } else if (now(p)->kind == JT_NAME && now(p)[1].kind == JT_OP && now(p)[1].op == '=') {
            MAKE(word, JN_KEYWORD);
            word->name = now(p)->s;
            word->name_len = now(p)->n;
            p->at += 2;
            PW_PASS(jinja_expression(p, &word->a));
            item = word;
            named = true;
        } else {
            if (named)
                return jinja_bad(p, "an argument without a name after one with a name");
            PW_PASS(jinja_expression(p, &item));
        }
        PW_PASS(jinja_append(p, into, item));
    }
    return jinja_want_op(p, ')');
}

static int constant(struct jinja_parser *p, struct jv v, struct jinja_node **out)
{
    MAKE(n, JN_CONST);
    n->value = v;
    *out = n;
    return 0;
}

static int string_literal(struct jinja_parser *p, struct jinja_node **out)
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

static int dictionary(struct jinja_parser *p, struct jinja_node **out)
{
    MAKE(d, JN_DICT);
    p->at++;
    while (!is_op(p, '}')) {
        struct jinja_node *key, *value;
        if (d->n > 0)
            PW_PASS(jinja_want_op(p, ','));
        if (is_op(p, '}'))
            break;
        PW_PASS(jinja_expression(p, &key));
        PW_PASS(jinja_want_op(p, ':'));
        PW_PASS(jinja_expression(p, &value));
        PW_PASS(jinja_append(p, d, key));
        PW_PASS(jinja_append(p, d, value));
    }
    *out = d;
    return jinja_want_op(p, '}');
}

int jinja_name(struct jinja_parser *p, struct jinja_node **out)
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

static int primary(struct jinja_parser *p, struct jinja_node **out)
{
    const struct jinja_token *k = now(p);
    switch (k->kind) {
    case JT_NAME: return jinja_name(p, out);
    case JT_STRING: return string_literal(p, out);
    case JT_INT: p->at++; return constant(p, (struct jv){.kind = JV_INT, .i = k->i}, out);
    case JT_REAL: p->at++; return constant(p, (struct jv){.kind = JV_REAL, .d = k->d}, out);
    default: break;
    }
    if (skip_op(p, '(')) {
        PW_PASS(jinja_tuple(p, TUPLE_FULL, NULL, true, out));
        return jinja_want_op(p, ')');
    }
    if (is_op(p, '[')) {
        MAKE(list, JN_LIST);
        p->at++;
        while (!is_op(p, ']')) {
            struct jinja_node *item;
            if (list->n > 0)
                PW_PASS(jinja_want_op(p, ','));
            if (is_op(p, ']'))
                break;
            PW_PASS(jinja_expression(p, &item));
            PW_PASS(jinja_append(p, list, item));
        }
        *out = list;
        return jinja_want_op(p, ']');
    }
    if (is_op(p, '{'))
        return dictionary(p, out);
    return jinja_bad(p, "expected an expression");
}

int jinja_subscript(struct jinja_parser *p, struct jinja_node *of, struct jinja_node **out)
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
            return jinja_bad(p, "expected a name after the dot");
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
        PW_PASS(jinja_expression(p, &item->b));
    if (skip_op(p, ':')) {
        item->kind = JN_SLICE;
        if (!is_op(p, ':') && !is_op(p, ']'))
            PW_PASS(jinja_expression(p, &item->c));
        if (skip_op(p, ':') && !is_op(p, ']'))
            PW_PASS(jinja_expression(p, &item->d));
    }
    *out = item;
    return jinja_want_op(p, ']');
}

static int call(struct jinja_parser *p, struct jinja_node *of, struct jinja_node **out)
{
    MAKE(n, JN_CALL);
    n->a = of;
    *out = n;
    return call_args(p, n);
}

static int postfix(struct jinja_parser *p, struct jinja_node **n)
{
    for (;;) {
        if (is_op(p, '.') || is_op(p, '['))
            PW_PASS(jinja_subscript(p, *n, n));
        else if (is_op(p, '('))
            PW_PASS(call(p, *n, n));
        else
            return 0;
    }
}

static int dotted_name(struct jinja_parser *p, char *name, size_t room)
{
    if (now(p)->kind != JT_NAME)
        return jinja_bad(p, "expected a name");
    if (now(p)->n >= room)
        return jinja_bad(p, "too long a name");
    memcpy(name, now(p)->s, now(p)->n);
    name[now(p)->n] = 0;
    p->at++;
    return 0;
}

/* After "|": name and arguments. of may be NULL (filter blocks). */
int jinja_filter_of(struct jinja_parser *p, struct jinja_node *of, struct jinja_node **out)
{
    char name[64];
    MAKE(n, JN_FILTER);
    size_t at = p->at;
    PW_PASS(dotted_name(p, name, sizeof name));
    n->name = jinja_filter_find(name, strlen(name));
    if (!n->name) {
        p->at = at;
        return jinja_bad(p, "unknown or unsupported filter");
    }
    n->a = of;
    *out = n;
    return is_op(p, '(') ? call_args(p, n) : 0;
}

static int test(struct jinja_parser *p, struct jinja_node *of, struct jinja_node **out)
{
    char name[64];
    bool negated = skip_word(p, "not");
    MAKE(n, JN_TEST);
    size_t at = p->at;
    PW_PASS(dotted_name(p, name, sizeof name));
    n->name = jinja_test_find(name, strlen(name));
    if (!n->name) {
        p->at = at;
        return jinja_bad(p, "unknown or unsupported test");
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
        return jinja_bad(p, "tests cannot be chained");
    /* "x is defined if ..." and "x is defined in ...": Jinja itself reads the word as the test's argument, and so is `if` above all
     * an error there; a name that is an operator cannot begin an argument. */
    if (is_word(p, "if") || is_word(p, "in") || is_word(p, "not"))
        return 0;
    struct jinja_node *arg;
    PW_PASS(primary(p, &arg));
    PW_PASS(postfix(p, &arg));
    return jinja_append(p, n, arg);
}

static int filters(struct jinja_parser *p, struct jinja_node **n)
{
    for (;;) {
        if (skip_op(p, '|'))
            PW_PASS(jinja_filter_of(p, *n, n));
        else if (skip_word(p, "is"))
            PW_PASS(test(p, *n, n));
        else if (is_op(p, '('))
            PW_PASS(call(p, *n, n));
        else
            return 0;
    }
}

static int unary(struct jinja_parser *p, bool with_filter, struct jinja_node **out)
{
    PW_PASS(jinja_enter(p));
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

static int binary(struct jinja_parser *p, size_t level, struct jinja_node **out)
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
            return jinja_bad(p, "too long an expression");
        MAKE(n, level == 1 ? JN_CONCAT : JN_BINARY);
        n->op = levels[level][i];
        p->at++;
        n->a = *out;
        PW_PASS(binary(p, level + 1, &n->b));
        *out = n;
    }
}

static int comparison(struct jinja_parser *p, struct jinja_node **out)
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
        PW_PASS(jinja_append(p, list, operand));
    }
}

static int not_expression(struct jinja_parser *p, struct jinja_node **out)
{
    PW_PASS(jinja_enter(p));
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

static int and_expression(struct jinja_parser *p, struct jinja_node **out)
{
    PW_PASS(not_expression(p, out));
    for (int chain = 0; is_word(p, "and"); chain++) {
        MAKE(n, JN_AND);
        p->at++;
        n->a = *out;
        PW_PASS(not_expression(p, &n->b));
        *out = n;
        if (chain > 2000)
            return jinja_bad(p, "too long an expression");
    }
    return 0;
}

static int or_expression(struct jinja_parser *p, struct jinja_node **out)
{
    PW_PASS(and_expression(p, out));
    for (int chain = 0; is_word(p, "or"); chain++) {
        MAKE(n, JN_OR);
        p->at++;
        n->a = *out;
        PW_PASS(and_expression(p, &n->b));
        *out = n;
        if (chain > 2000)
            return jinja_bad(p, "too long an expression");
    }
    return 0;
}

int jinja_expression(struct jinja_parser *p, struct jinja_node **out)
{
    PW_PASS(jinja_enter(p));
    PW_PASS(or_expression(p, out));
    while (is_word(p, "if")) {
        MAKE(n, JN_COND);
        p->at++;
        n->b = *out;
        PW_PASS(or_expression(p, &n->a));
        if (skip_word(p, "else"))
            PW_PASS(jinja_expression(p, &n->c));
        *out = n;
        if (!n->c)
            continue;
    }
    p->depth--;
    return 0;
}
