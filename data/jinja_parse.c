/* Tokens to nodes: the statements. Unknown tags are errors here, before anything runs. */
#include "data/jinja_parser.h"

static int statements(struct jinja_parser *p, const char *const *ends, struct jinja_node **out, int *which);

static int end_tag(struct jinja_parser *p)
{
    if (now(p)->kind != JT_BLOCK_END)
        return jinja_bad(p, "expected the end of the tag");
    p->at++;
    return 0;
}

/* After the tag's own words: its end, then a body up to one of `ends`, whose word is consumed. */
static int body(struct jinja_parser *p, const char *const *ends, struct jinja_node **out, int *which)
{
    PW_PASS(end_tag(p));
    return statements(p, ends, out, which);
}

static int body_to(struct jinja_parser *p, const char *end, struct jinja_node **out);

/* A body whose output is taken as a text: no break or continue leads out of it. */
static int closed_body(struct jinja_parser *p, const char *end, struct jinja_node **out)
{
    int loops = p->loops;
    p->loops = 0;
    PW_PASS(body_to(p, end, out));
    p->loops = loops;
    return 0;
}

static int body_to(struct jinja_parser *p, const char *end, struct jinja_node **out)
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

static int target(struct jinja_parser *p, const char *extra, struct jinja_node **out)
{
    PW_PASS(jinja_tuple(p, TUPLE_SIMPLE, extra, false, out));
    if ((*out)->kind == JN_NAME && is_op(p, '.')) { /* ns.x */
        PW_PASS(jinja_subscript(p, *out, out));
        return (*out)->kind == JN_ATTR ? 0 : jinja_bad(p, "expected a name after the dot");
    }
    if (!only_names(*out))
        return jinja_bad(p, "only names can be assigned to");
    return 0;
}

static int if_statement(struct jinja_parser *p, struct jinja_node **out)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    PW_PASS(jinja_enter(p));
    MAKE(n, JN_IF);
    int which;
    PW_PASS(jinja_tuple(p, TUPLE_NO_COND, NULL, false, &n->a));
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

static int for_statement(struct jinja_parser *p, struct jinja_node **out)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    MAKE(n, JN_FOR);
    int which;
    PW_PASS(target(p, "in", &n->a));
    if (!skip_word(p, "in"))
        return jinja_bad(p, "expected in");
    PW_PASS(jinja_tuple(p, TUPLE_NO_COND, "recursive", false, &n->b));
    if (skip_word(p, "if"))
        PW_PASS(jinja_expression(p, &n->c));
    n->op = skip_word(p, "recursive");
    p->loops++;
    MAKE(parts, JN_BLOCK);
    struct jinja_node *part;
    PW_PASS(body(p, ends, &part, &which));
    p->loops--;
    PW_PASS(jinja_append(p, parts, part));
    if (which == 1) {
        PW_PASS(body_to(p, "endfor", &part));
        PW_PASS(jinja_append(p, parts, part));
    } else {
        PW_PASS(end_tag(p));
    }
    n->d = parts;
    *out = n;
    return 0;
}

static int set_statement(struct jinja_parser *p, struct jinja_node **out)
{
    MAKE(n, JN_SET);
    PW_PASS(target(p, NULL, &n->a));
    *out = n;
    if (skip_op(p, '=')) {
        PW_PASS(jinja_tuple(p, TUPLE_FULL, NULL, false, &n->b));
        return end_tag(p);
    }
    n->kind = JN_SET_BLOCK;
    while (skip_op(p, '|'))
        PW_PASS(jinja_filter_of(p, n->c, &n->c));
    return closed_body(p, "endset", &n->b);
}

static int signature(struct jinja_parser *p, struct jinja_node *n)
{
    PW_PASS(jinja_want_op(p, '('));
    while (!is_op(p, ')')) {
        if (n->n > 0)
            PW_PASS(jinja_want_op(p, ','));
        if (now(p)->kind != JT_NAME)
            return jinja_bad(p, "expected the name of a parameter");
        struct jinja_node *param;
        PW_PASS(jinja_name(p, &param));
        if (param->kind != JN_NAME)
            return jinja_bad(p, "expected the name of a parameter");
        if (skip_op(p, '='))
            PW_PASS(jinja_expression(p, &param->a));
        else if (n->n > 0 && n->list[n->n - 1]->a)
            return jinja_bad(p, "a parameter without a default after one with a default");
        PW_PASS(jinja_append(p, n, param));
    }
    return jinja_want_op(p, ')');
}

/* Notes which of caller, varargs and kwargs the body names: a macro takes only what it uses. */
static int macro_body(struct jinja_parser *p, struct jinja_node *n, const char *end)
{
    int outside = p->uses;
    p->uses = 0;
    PW_PASS(closed_body(p, end, &n->b));
    n->op = p->uses;
    p->uses |= outside;
    return 0;
}

static int macro_statement(struct jinja_parser *p, struct jinja_node **out)
{
    MAKE(n, JN_MACRO);
    if (now(p)->kind != JT_NAME)
        return jinja_bad(p, "expected the name of a macro");
    PW_PASS(jinja_name(p, &n->a));
    PW_PASS(signature(p, n));
    PW_PASS(macro_body(p, n, "endmacro"));
    *out = n;
    return 0;
}

static int call_statement(struct jinja_parser *p, struct jinja_node **out)
{
    MAKE(n, JN_CALL_BLOCK);
    MAKE(caller, JN_MACRO);
    if (is_op(p, '('))
        PW_PASS(signature(p, caller));
    PW_PASS(jinja_expression(p, &n->a));
    if (n->a->kind != JN_CALL)
        return jinja_bad(p, "expected a call");
    PW_PASS(macro_body(p, caller, "endcall"));
    n->b = caller;
    *out = n;
    return 0;
}

static int with_statement(struct jinja_parser *p, struct jinja_node **out)
{
    MAKE(n, JN_WITH);
    while (now(p)->kind == JT_NAME) {
        struct jinja_node *name, *value;
        PW_PASS(jinja_name(p, &name));
        PW_PASS(jinja_want_op(p, '='));
        PW_PASS(jinja_expression(p, &value));
        PW_PASS(jinja_append(p, n, name));
        PW_PASS(jinja_append(p, n, value));
        if (!skip_op(p, ','))
            break;
    }
    *out = n;
    return body_to(p, "endwith", &n->b);
}

static int statement(struct jinja_parser *p, struct jinja_node **out)
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
            return jinja_bad(p, "break and continue stand inside a loop");
        MAKE(n, is_word(p, "break") ? JN_BREAK : JN_CONTINUE);
        p->at++;
        *out = n;
        return end_tag(p);
    }
    if (skip_word(p, "filter")) {
        MAKE(n, JN_FILTER_BLOCK);
        PW_PASS(jinja_filter_of(p, NULL, &n->a));
        while (skip_op(p, '|'))
            PW_PASS(jinja_filter_of(p, n->a, &n->a));
        *out = n;
        return closed_body(p, "endfilter", &n->b);
    }
    if (skip_word(p, "generation")) {
        MAKE(n, JN_GENERATION);
        p->t->has_generation = true;
        *out = n;
        return closed_body(p, "endgeneration", &n->b);
    }
    return jinja_bad(p, "unknown or unsupported tag");
}

static int statements(struct jinja_parser *p, const char *const *ends, struct jinja_node **out, int *which)
{
    PW_PASS(jinja_enter(p));
    MAKE(list, JN_BLOCK);
    *out = list;
    for (;;) {
        const struct jinja_token *k = now(p);
        struct jinja_node *n = NULL;
        if (k->kind == JT_END) {
            if (ends)
                return jinja_bad(p, "the template ends inside a block");
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
            PW_PASS(jinja_tuple(p, TUPLE_FULL, NULL, false, &output->a));
            if (now(p)->kind != JT_VAR_END)
                return jinja_bad(p, "expected }}");
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
        PW_PASS(jinja_append(p, list, n));
    }
    p->depth--;
    return 0;
}

int jinja_parse_tokens(struct pw_jinja *t, const struct jinja_token *tokens, size_t n)
{
    (void)n; /* the last one is JT_END, which nothing steps over */
    struct jinja_parser p = {.t = t, .k = tokens};
    return statements(&p, NULL, &t->root, NULL);
}
