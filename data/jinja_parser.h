/* What the two halves of the parser share: tokens to nodes, expressions in jinja_expression.c, statements in jinja_parse.c. */
#ifndef PW_DATA_JINJA_PARSER_H
#define PW_DATA_JINJA_PARSER_H
#include <string.h>

#include "data/jinja_parts.h"

struct jinja_parser { struct pw_jinja *t; const struct jinja_token *k; size_t at; int depth, loops, uses; };

static inline const struct jinja_token *now(const struct jinja_parser *p) { return &p->k[p->at]; }
static inline bool is_op(const struct jinja_parser *p, int op) { return now(p)->kind == JT_OP && now(p)->op == op; }
static inline bool token_is(const struct jinja_token *k, const char *word) { return k->kind == JT_NAME && k->n == strlen(word) && memcmp(k->s, word, k->n) == 0; }
static inline bool is_word(const struct jinja_parser *p, const char *word) { return token_is(now(p), word); }
static inline bool skip_op(struct jinja_parser *p, int op)
{
    bool is = is_op(p, op);
    p->at += is;
    return is;
}
static inline bool skip_word(struct jinja_parser *p, const char *word)
{
    bool is = is_word(p, word);
    p->at += is;
    return is;
}

int jinja_bad(const struct jinja_parser *p, const char *what);       /* an error at the token that is next, and what it is */
int jinja_want_op(struct jinja_parser *p, int op);
struct jinja_node *jinja_make(struct jinja_parser *p, enum jinja_kind kind); /* NULL: no memory */
#define MAKE(var, kind) \
    struct jinja_node *var = jinja_make(p, kind); \
    PW_CHECK(var, PW_E_NOMEM, "template %s: no memory", p->t->name)
int jinja_append(struct jinja_parser *p, struct jinja_node *list, struct jinja_node *item);
int jinja_enter(struct jinja_parser *p);                              /* one level deeper, or an error */

int jinja_expression(struct jinja_parser *p, struct jinja_node **out);
/* Items up to the end of a tag, a closing parenthesis or the word `extra`; one without a comma is itself. */
enum { TUPLE_FULL, TUPLE_NO_COND, TUPLE_SIMPLE };
int jinja_tuple(struct jinja_parser *p, int how, const char *extra, bool parentheses, struct jinja_node **out);
int jinja_name(struct jinja_parser *p, struct jinja_node **out);      /* a name, or a constant that is spelt as one */
int jinja_subscript(struct jinja_parser *p, struct jinja_node *of, struct jinja_node **out);
int jinja_filter_of(struct jinja_parser *p, struct jinja_node *of, struct jinja_node **out); /* after its bar */
#endif
