/* Template text to tokens, with Jinja's rules of whitespace: trim_blocks and lstrip_blocks on, one newline at the end of the source
 * is not kept, "-" strips, "+" keeps. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "data/jinja_parts.h"

struct lexer {
    struct pw_jinja *t;
    const char *s;
    size_t n, at;
    int line;
    struct jinja_token *tokens;
    size_t n_tokens, cap;
    bool line_starting; /* what was consumed last ended in a newline */
};

static int bad(const struct lexer *x, const char *what)
{
    return pw_error(PW_E_FORMAT, "template %s, line %d: %s", x->t->name, x->line, what);
}

static int push(struct lexer *x, struct jinja_token k)
{
    if (x->n_tokens == x->cap) {
        size_t cap = x->cap ? x->cap * 2 : 256;
        struct jinja_token *p = pw_realloc(x->tokens, x->cap * sizeof *p, cap * sizeof *p);
        PW_CHECK(p, PW_E_NOMEM, "template %s: no memory", x->t->name);
        x->tokens = p;
        x->cap = cap;
    }
    k.line = x->line;
    x->tokens[x->n_tokens++] = k;
    return 0;
}

static bool space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool at_text(const struct lexer *x, size_t at, const char *word)
{
    size_t k = strlen(word);
    return x->n - at >= k && memcmp(x->s + at, word, k) == 0;
}

static void advance(struct lexer *x, size_t to)
{
    for (; x->at < to; x->at++)
        x->line += x->s[x->at] == '\n';
    x->line_starting = to > 0 && x->s[to - 1] == '\n';
}

/* After a closing delimiter that ends at `at`: what of the following text goes with it. */
static size_t after_close(const struct lexer *x, size_t at, char sign, bool trim)
{
    if (sign == '-')
        while (at < x->n && space(x->s[at]))
            at++;
    else if (trim && sign != '+' && at < x->n && x->s[at] == '\n')
        at++;
    return at;
}

static int push_text(struct lexer *x, size_t from, size_t to, char sign, bool is_variable)
{
    const char *s = x->s + from;
    size_t n = to - from;
    if (sign == '-') {
        while (n > 0 && space(s[n - 1]))
            n--;
    } else if (sign != '+' && !is_variable) {
        size_t l = n;
        while (l > 0 && s[l - 1] != '\n')
            l--;
        bool blank = true;
        for (size_t i = l; i < n; i++)
            blank &= space(s[i]);
        if (blank && (l > 0 || x->line_starting))
            n = l;
    }
    return n ? push(x, (struct jinja_token){.kind = JT_TEXT, .s = s, .n = n}) : 0;
}

static bool name_char(char c, bool first)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (unsigned char)c >= 128 || (!first && c >= '0' && c <= '9');
}

static int hex_digits(struct lexer *x, const char *s, const char *end, int count, uint32_t *cp)
{
    *cp = 0;
    for (int i = 0; i < count; i++) {
        char c = s + i < end ? s[i] : 0;
        int v = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (v < 0)
            return bad(x, "malformed escape in a string");
        *cp = *cp * 16 + (uint32_t)v;
    }
    if (*cp > 0x10ffff || (*cp >= 0xd800 && *cp < 0xe000))
        return bad(x, "a string names a code point that does not exist");
    return 0;
}

static int unescape(struct lexer *x, const char *s, const char *end, struct pw_buf *b)
{
    while (s < end) {
        if (*s != '\\') {
            pw_buf_char(b, *s++);
            continue;
        }
        static const char from[] = "nrtabfv\\'\"", to[] = "\n\r\t\a\b\f\v\\'\"";
        char c = *++s;
        const char *k = c ? strchr(from, c) : NULL;
        uint32_t cp;
        if (k) {
            pw_buf_char(b, to[k - from]);
            s++;
        } else if (c == '\n') {
            s++;
        } else if (c == 'x' || c == 'u' || c == 'U') {
            int digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
            PW_PASS(hex_digits(x, s + 1, end, digits, &cp));
            jinja_put(b, cp);
            s += digits + 1;
        } else if (c >= '0' && c <= '7') {
            cp = 0;
            for (int i = 0; i < 3 && s < end && *s >= '0' && *s <= '7'; i++)
                cp = cp * 8 + (uint32_t)(*s++ - '0');
            jinja_put(b, cp);
        } else if (c == 'N') {
            return bad(x, "\\N{...} in a string is not supported");
        } else {
            pw_buf_char(b, '\\');
        }
    }
    return pw_buf_status(b);
}

static int lex_string(struct lexer *x)
{
    size_t from = x->at + 1, end = from;
    while (end < x->n && x->s[end] != x->s[x->at])
        end += x->s[end] == '\\' ? 2 : 1;
    if (end >= x->n)
        return bad(x, "a string is not closed");
    struct pw_buf b = {0};
    struct jinja_token k = {.kind = JT_STRING};
    int rc = unescape(x, x->s + from, x->s + end, &b);
    if (rc == 0) {
        k.s = pw_arena_strndup(&x->t->arena, b.data ? b.data : "", b.len);
        k.n = b.len;
        rc = k.s ? push(x, k) : PW_E_NOMEM;
    }
    pw_buf_free(&b);
    advance(x, end + 1);
    return rc;
}

static bool digit(const struct lexer *x, size_t at)
{
    return at < x->n && x->s[at] >= '0' && x->s[at] <= '9';
}

static int lex_number(struct lexer *x)
{
    char text[64];
    size_t n = 0, at = x->at;
    bool real = false, after_dot = at > 0 && x->s[at - 1] == '.'; /* x.0.1 is two items, not a number */
    for (; at < x->n && n < sizeof text - 1; at++) {
        char c = x->s[at];
        if (c == '_' && digit(x, at + 1))
            continue;
        bool dot = c == '.' && !real && !after_dot && digit(x, at + 1);
        bool sign = at + 1 < x->n && (x->s[at + 1] == '-' || x->s[at + 1] == '+');
        bool e = !after_dot && (c == 'e' || c == 'E') && digit(x, at + 1 + sign);
        if (!digit(x, at) && !dot && !e)
            break;
        text[n++] = c;
        real |= dot || e;
        if (e && !digit(x, at + 1))
            text[n++] = x->s[++at];
    }
    text[n] = 0;
    struct jinja_token k = {.kind = real ? JT_REAL : JT_INT};
    if (real ? pw_parse_f64(text, &k.d) : pw_parse_i64(text, &k.i))
        return bad(x, "a number is malformed or too large");
    if (!real)
        k.s = "";
    PW_PASS(push(x, k));
    advance(x, at);
    return 0;
}

static int lex_operator(struct lexer *x)
{
    static const struct { const char *s; int op; } two[] = {{"==", JO_EQ}, {"!=", JO_NE}, {"<=", JO_LE}, {">=", JO_GE}, {"//", JO_FLOORDIV}, {"**", JO_POW}};
    for (size_t i = 0; i < sizeof two / sizeof two[0]; i++)
        if (at_text(x, x->at, two[i].s)) {
            PW_PASS(push(x, (struct jinja_token){.kind = JT_OP, .op = two[i].op}));
            advance(x, x->at + 2);
            return 0;
        }
    char c = x->s[x->at];
    if (c == 0 || !strchr("+-/*%~[](){}<>=.:|,;", c))
        return bad(x, "a character that means nothing here");
    PW_PASS(push(x, (struct jinja_token){.kind = JT_OP, .op = c}));
    advance(x, x->at + 1);
    return 0;
}

/* The inside of {{ }} or {% %}, up to and including its end. */
static int lex_code(struct lexer *x, bool variable)
{
    int open = 0, begun = x->line;
    const char *close = variable ? "}}" : "%}";
    for (;;) {
        while (x->at < x->n && space(x->s[x->at]))
            advance(x, x->at + 1);
        if (x->at >= x->n) {
            x->line = begun;
            return bad(x, variable ? "{{ is not closed" : "{% is not closed");
        }
        if (open == 0) {
            char sign = x->s[x->at] == '-' || (!variable && x->s[x->at] == '+') ? x->s[x->at] : 0;
            if (at_text(x, x->at + (sign != 0), close)) {
                PW_PASS(push(x, (struct jinja_token){.kind = variable ? JT_VAR_END : JT_BLOCK_END}));
                advance(x, after_close(x, x->at + (sign != 0) + 2, sign, !variable));
                return 0;
            }
        }
        char c = x->s[x->at];
        if (c == '"' || c == '\'') {
            PW_PASS(lex_string(x));
        } else if (c >= '0' && c <= '9') {
            PW_PASS(lex_number(x));
        } else if (name_char(c, true)) {
            size_t end = x->at;
            while (end < x->n && name_char(x->s[end], false))
                end++;
            PW_PASS(push(x, (struct jinja_token){.kind = JT_NAME, .s = x->s + x->at, .n = end - x->at}));
            advance(x, end);
        } else {
            open += c == '(' || c == '[' || c == '{';
            open -= (c == ')' || c == ']' || c == '}') && open > 0;
            PW_PASS(lex_operator(x));
        }
    }
}

/* At "{%": is this the word, closed at once? Returns the place after it, 0 if not. */
static size_t match_tag(const struct lexer *x, size_t at, const char *word, bool keep_newline, char *sign)
{
    at += 2;
    *sign = at < x->n && (x->s[at] == '-' || x->s[at] == '+') ? x->s[at++] : 0;
    while (at < x->n && space(x->s[at]))
        at++;
    if (!at_text(x, at, word))
        return 0;
    at += strlen(word);
    while (at < x->n && space(x->s[at]))
        at++;
    char close = at < x->n && (x->s[at] == '-' || x->s[at] == '+') ? x->s[at++] : 0;
    if (!at_text(x, at, "%}"))
        return 0;
    return after_close(x, at + 2, close, !keep_newline);
}

static int lex_raw(struct lexer *x, size_t from)
{
    advance(x, from);
    for (size_t i = from; i + 1 < x->n; i++) {
        char sign;
        size_t end = at_text(x, i, "{%") ? match_tag(x, i, "endraw", false, &sign) : 0;
        if (end) {
            PW_PASS(push_text(x, from, i, sign, false));
            advance(x, end);
            return 0;
        }
    }
    return bad(x, "{% raw %} is not closed");
}

static int lex_all(struct lexer *x)
{
    x->line_starting = true;
    while (x->at < x->n) {
        size_t from = x->at, i = from;
        while (i < x->n && !(x->s[i] == '{' && i + 1 < x->n && (x->s[i + 1] == '{' || x->s[i + 1] == '%' || x->s[i + 1] == '#')))
            i++;
        if (i == x->n) {
            PW_PASS(push(x, (struct jinja_token){.kind = JT_TEXT, .s = x->s + from, .n = i - from}));
            break;
        }
        char what = x->s[i + 1], sign = i + 2 < x->n && (x->s[i + 2] == '-' || x->s[i + 2] == '+') ? x->s[i + 2] : 0, unused;
        if (what == '{' && sign == '+')
            sign = 0; /* {{+ 1 }} is a sign of the expression */
        PW_PASS(push_text(x, from, i, sign, what == '{'));
        size_t raw = what == '%' ? match_tag(x, i, "raw", true, &unused) : 0;
        if (raw) {
            PW_PASS(lex_raw(x, raw));
            continue;
        }
        advance(x, i);
        if (what == '#') {
            size_t end = i + 2;
            while (end + 1 < x->n && !(x->s[end] == '#' && x->s[end + 1] == '}'))
                end++;
            if (end + 1 >= x->n)
                return bad(x, "{# is not closed");
            char close = end > i + 2 && (x->s[end - 1] == '-' || x->s[end - 1] == '+') ? x->s[end - 1] : 0;
            advance(x, after_close(x, end + 2, close, true));
            continue;
        }
        PW_PASS(push(x, (struct jinja_token){.kind = what == '{' ? JT_VAR_BEGIN : JT_BLOCK_BEGIN}));
        advance(x, i + 2 + (sign != 0));
        PW_PASS(lex_code(x, what == '{'));
    }
    return push(x, (struct jinja_token){.kind = JT_END});
}

/* Newlines become LF; one at the end of the source goes. */
static char *normalise(struct pw_arena *a, const char *s, size_t n, size_t *out_n)
{
    char *copy = pw_arena_strndup(a, s, n);
    size_t k = 0;
    if (!copy)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        bool pair = s[i] == '\r' && i + 1 < n && s[i + 1] == '\n';
        copy[k++] = s[i] == '\r' ? '\n' : s[i];
        i += pair;
    }
    if (k > 0 && copy[k - 1] == '\n')
        k--;
    copy[k] = 0;
    *out_n = k;
    return copy;
}

int jinja_lex(struct pw_jinja *t, const char *source, size_t bytes, struct jinja_token **tokens, size_t *n)
{
    struct lexer x = {.t = t, .line = 1};
    PW_CHECK(bytes <= (size_t)16 << 20, PW_E_FORMAT, "template %s: %zu bytes, at most 16 MiB", t->name, bytes);
    PW_CHECK(pw_utf8_valid(source, bytes), PW_E_FORMAT, "template %s: not UTF-8", t->name);
    x.s = normalise(&t->arena, source, bytes, &x.n);
    PW_CHECK(x.s, PW_E_NOMEM, "template %s: no memory", t->name);
    int rc = lex_all(&x);
    if (rc < 0) {
        pw_free(x.tokens);
        x.tokens = NULL;
    }
    *tokens = x.tokens;
    *n = x.n_tokens;
    return rc;
}
