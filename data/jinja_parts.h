/* What the parts of the Jinja interpreter share: nodes, values, the running state. Included by jinja_*.c alone. */
#ifndef PW_DATA_JINJA_PARTS_H
#define PW_DATA_JINJA_PARTS_H

#include "base/error.h"
#include "data/jinja.h"

/* ---- values ---- */
enum jv_kind {
    JV_UNDEFINED, JV_NONE, JV_BOOL, JV_INT, JV_REAL, JV_STRING, JV_LIST, JV_MAP, JV_LOOP, JV_MACRO, JV_FUNCTION, JV_METHOD,
};
struct jinja_list;
struct jinja_map;
struct jinja_loop;
struct jinja_macro;
struct jinja_method;
struct jv {
    enum jv_kind kind;
    size_t len;           /* bytes of a string */
    union {
        bool b;
        int64_t i;        /* also the index of a function */
        double d;
        const char *s;    /* a string; the name of what is undefined (may be NULL) */
        struct jinja_list *list;
        struct jinja_map *map;
        struct jinja_loop *loop;
        struct jinja_macro *macro;
        struct jinja_method *method;
    };
};
struct jinja_list { struct jv *items; size_t n, cap; bool tuple; };
struct jinja_pair { struct jv key, value; };
struct jinja_map { struct jinja_pair *pairs; size_t n, cap; bool is_namespace; };
struct jinja_scope;
struct jinja_loop { struct jinja_scope *scope; int64_t index0, length, depth0; struct jv previous, next, *changed; const struct jinja_node *node; };
struct jinja_method { struct jv self; const char *name; };

/* ---- nodes ---- */
enum jinja_kind {
    /* expressions */
    JN_CONST, JN_NAME, JN_LIST, JN_TUPLE, JN_DICT, JN_COND, JN_AND, JN_OR, JN_NOT, JN_NEG, JN_POS, JN_BINARY, JN_COMPARE, JN_CONCAT, JN_ATTR,
    JN_ITEM, JN_SLICE, JN_CALL, JN_FILTER, JN_TEST, JN_KEYWORD, JN_STAR, JN_STARSTAR,
    /* statements */
    JN_TEXT, JN_OUTPUT, JN_IF, JN_FOR, JN_SET, JN_SET_BLOCK, JN_MACRO, JN_CALL_BLOCK, JN_FILTER_BLOCK, JN_GENERATION, JN_BREAK, JN_CONTINUE,
    JN_WITH, JN_BLOCK, /* JN_BLOCK: a list of statements */
};
/* One shape for all: which fields mean what stands at the makers of jinja_expression.c and jinja_parse.c and jinja_run.c's cases. */
struct jinja_node {
    enum jinja_kind kind;
    int line, op;             /* op: operator token, or a flag */
    const char *name;
    size_t name_len;
    struct jv value;          /* JN_CONST, JN_TEXT */
    struct jinja_node *a, *b, *c, *d;
    struct jinja_node **list;
    size_t n;
};
enum { JINJA_USES_CALLER = 1, JINJA_USES_VARARGS = 2, JINJA_USES_KWARGS = 4 }; /* op of JN_MACRO: what its body names */
struct jinja_macro { const struct jinja_node *node; struct jinja_scope *scope; };

/* ---- tokens ---- */
enum jinja_token_kind {
    JT_END, JT_TEXT, JT_VAR_BEGIN, JT_VAR_END, JT_BLOCK_BEGIN, JT_BLOCK_END, JT_NAME, JT_STRING, JT_INT, JT_REAL, JT_OP,
};
enum jinja_op { /* two-character operators; the others are their character */
    JO_EQ = 256, JO_NE, JO_LE, JO_GE, JO_FLOORDIV, JO_POW, JO_IN, JO_NOT_IN,
};
struct jinja_token { enum jinja_token_kind kind; int line, op; const char *s; size_t n; int64_t i; double d; };

struct pw_jinja {
    struct pw_arena arena;
    char *name;
    struct jinja_node *root;
    bool has_generation, uses_clock;
};
int jinja_lex(struct pw_jinja *t, const char *source, size_t bytes, struct jinja_token **tokens, size_t *n);
int jinja_parse_tokens(struct pw_jinja *t, const struct jinja_token *tokens, size_t n);

/* ---- running ---- */
struct jinja_var { const char *name; size_t n; struct jv value; struct jinja_var *next; };
struct jinja_scope { struct jinja_var *vars; struct jinja_scope *up; };
struct jinja_chunk;
struct jinja_run {
    const struct pw_jinja *t;
    struct jinja_chunk *chunks;
    size_t chunk_used, memory, memory_limit, output_limit;
    int64_t steps, steps_limit, now;
    int depth, line;
    struct pw_buf *out, *main_out;
    struct pw_spans *spans;
    struct jinja_scope *scope, *global;
};
enum { JINJA_DEPTH = 150 };
struct jinja_args { struct jv *items; size_t n; const char **names; struct jv *named; size_t n_named; };

/* Records "template NAME, line N: ..." and returns PW_E_FORMAT. */
int jinja_fail(struct jinja_run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int jinja_undefined(struct jinja_run *r, const struct jv *v); /* that error of a value that is not defined */
int jinja_step(struct jinja_run *r, size_t n); /* counts work; fails above the limit */
void *jinja_alloc(struct jinja_run *r, size_t bytes); /* cleared; NULL with a trail above the limit */
void jinja_free_all(struct jinja_run *r);

/* values (jinja_value.c) */
struct jv jv_none(void);
struct jv jv_undefined(const char *name);
struct jv jv_bool(bool b);
struct jv jv_int(int64_t i);
struct jv jv_real(double d);
struct jv jv_static(const char *s);                                  /* a string constant of ours */
int jv_string(struct jinja_run *r, const char *s, size_t n, struct jv *out); /* copies */
int jv_take(struct jinja_run *r, struct pw_buf *b, struct jv *out);          /* copies and frees b */
int jv_list(struct jinja_run *r, size_t cap, struct jv *out);
int jv_push(struct jinja_run *r, struct jv *list, struct jv item);
int jv_map(struct jinja_run *r, struct jv *out);
int jv_put(struct jinja_run *r, struct jv *map, struct jv key, struct jv value);
const struct jv *jv_find(const struct jv *map, const struct jv *key);
const struct jv *jv_find_str(const struct jv *map, const char *key);
int jv_from_value(struct jinja_run *r, const struct pw_value *v, struct jv *out);
const char *jv_kind_name(const struct jv *v);
int jv_truth(struct jinja_run *r, const struct jv *v, bool *out);
bool jv_equal(const struct jv *a, const struct jv *b, int depth);
int jv_compare(struct jinja_run *r, const struct jv *a, const struct jv *b, int *out); /* < 0, 0, > 0 */
int jv_contains(struct jinja_run *r, const struct jv *in, const struct jv *what, bool *out);
int jv_text(struct jinja_run *r, const struct jv *v, struct pw_buf *out);              /* Python's str() */
int jv_repr(struct jinja_run *r, const struct jv *v, struct pw_buf *out, int depth);   /* Python's repr() */
int jv_json(struct jinja_run *r, const struct jv *v, int indent, bool sort, struct pw_buf *out);
int jv_to_string(struct jinja_run *r, const struct jv *v, struct jv *out);
int jv_length(struct jinja_run *r, const struct jv *v, size_t *n);
int jv_iterate(struct jinja_run *r, const struct jv *v, struct jv *list); /* as a list: items, characters, keys */
int jv_number(const struct jv *v, double *d, bool *is_int, int64_t *i); /* bool, int, real; else -1 */
bool jv_is(const struct jv *v, const char *s);                           /* is this string */
/* code points */
size_t jinja_chars(const char *s, size_t n);
size_t jinja_char_bytes(unsigned char first);
size_t jinja_get(const char *s, size_t n, uint32_t *cp);
void jinja_put(struct pw_buf *b, uint32_t cp);
bool jinja_space(uint32_t cp);     /* Python's str.isspace */
uint32_t jinja_upper(uint32_t cp);
uint32_t jinja_lower(uint32_t cp);
bool jinja_letter(uint32_t cp);    /* str.isalpha */
bool jinja_digit(uint32_t cp);     /* str.isdigit, decimal digits only */
bool jinja_hashable(const struct jv *v);

/* evaluation (jinja_run.c) */
int jinja_eval(struct jinja_run *r, const struct jinja_node *n, struct jv *out);
int jinja_call(struct jinja_run *r, const struct jv *f, const struct jinja_args *args, struct jv *out);
int jinja_attr(struct jinja_run *r, const struct jv *v, const char *name, size_t n, struct jv *out);
int jinja_item(struct jinja_run *r, const struct jv *v, const struct jv *key, struct jv *out);
int jinja_slice(struct jinja_run *r, const struct jinja_node *n, const struct jv *v, struct jv *out); /* jinja_slice.c */
int jinja_arith(struct jinja_run *r, int op, const struct jv *a, const struct jv *b, struct jv *out); /* jinja_arith.c */

/* filters, tests (jinja_filter.c), methods (jinja_method.c), functions (jinja_function.c) */
const char *jinja_filter_find(const char *name, size_t n); /* the table's own text, NULL: unknown */
const char *jinja_test_find(const char *name, size_t n);
int jinja_filter(struct jinja_run *r, const char *name, const struct jv *v, const struct jinja_args *args, struct jv *out);
int jinja_test(struct jinja_run *r, const char *name, const struct jv *v, const struct jinja_args *args, bool *out);
const char *jinja_method_find(const struct jv *v, const char *name, size_t n);
int jinja_method(struct jinja_run *r, const struct jinja_method *m, const struct jinja_args *args, struct jv *out);
int jinja_function_find(const char *name, size_t n); /* -1: none */
int jinja_function(struct jinja_run *r, int64_t index, const struct jinja_args *args, struct jv *out);
/* Arguments by position or name; names has n entries; what is absent is JV_UNDEFINED with s == NULL in into[]. */
int jinja_args_take(struct jinja_run *r, const struct jinja_args *args, const char *what, const char *const *names, size_t n, struct jv *into);
bool jinja_absent(const struct jv *v);
int jinja_strip(struct jinja_run *r, const struct jv *v, const struct jv *set, bool left, bool right, struct jv *out);
int jinja_replace(struct jinja_run *r, const struct jv *v, const struct jv *from, const struct jv *to, int64_t count, struct jv *out);
int jinja_case(struct jinja_run *r, const struct jv *v, char how, struct jv *out); /* u, l, c (capitalize), t (title), j (Jinja's title) */
int jinja_join(struct jinja_run *r, const struct jv *list, const struct jv *with, bool strict, struct jv *out);
#endif
