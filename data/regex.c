/* The PCRE2 wall. Owns the translation of what means other characters in PCRE2: \s, \S, \w (\s holds U+180E there, \w all of
 * \p{N} and no marks), \d and properties (its Unicode is older), ^ and $ (of lines in the original); and the limits on matching.
 * Knows nothing of tokenizers. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "data/regex.h"

#include <pcre2.h>
#include <stdbool.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/text.h"
#include "data/unicode_new.h"

enum { PATTERN_LIMIT = 65536 };
static const char space_set[] = "\\t-\\r\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
static const char other_set[] = "\\x00-\\x08\\x0e-\\x1f\\x21-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}"
                                "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}";

struct pw_regex { pcre2_code *code; char *source; };
struct pw_regex_room { pcre2_match_data *data; pcre2_match_context *context; };

/* A category and what later versions of Unicode put into it, as the inside of a class. */
static void add_category(struct pw_buf *out, const char *name)
{
    uint32_t from = 0, to = 0;
    pw_buf_printf(out, "\\p{%s}", name);
    for (const struct pw_unicode_range *r = pw_unicode_new; r->to; r++) {
        if (strncmp(r->category, name, strlen(name)) != 0)
            continue;
        if (to && r->from == to + 1) {
            to = r->to;
            continue;
        }
        if (to)
            pw_buf_printf(out, "\\x{%x}-\\x{%x}", (unsigned)from, (unsigned)to);
        from = r->from;
        to = r->to;
    }
    if (to)
        pw_buf_printf(out, "\\x{%x}-\\x{%x}", (unsigned)from, (unsigned)to);
}

static void add_word(struct pw_buf *out)
{
    add_category(out, "L");
    add_category(out, "M");
    add_category(out, "Nd");
    add_category(out, "Pc");
}

/* \p{..}, \P{..}: general categories; *at is at the letter and moves to the closing brace. */
static int property(const char *p, size_t n, size_t *at, bool in_class, const char *source, struct pw_buf *out)
{
    static const char *const known[] = { "L", "M", "N", "P", "S", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So" };
    size_t start = *at + 2, end = start;
    bool negative = p[*at] == 'P';
    char name[3] = "";
    if (start < n && p[start - 1] == '{' && p[start] == '^') {
        negative = !negative;
        start++;
    }
    for (end = start; end < n && p[end] != '}' && end - start < 3;)
        end++;
    if (start - 1 < n && end < n && p[end] == '}' && end - start <= 2 && end > start)
        memcpy(name, p + start, end - start);
    for (size_t i = 0; i < sizeof known / sizeof *known && *name; i++) {
        if (strcmp(known[i], name) != 0)
            continue;
        PW_CHECK(!negative || !in_class, PW_E_UNSUPPORTED, "%s: regular expression: \\P inside a class at byte %zu is not supported", source, *at - 1);
        pw_buf_str(out, in_class ? "" : negative ? "[^" : "[");
        add_category(out, name);
        pw_buf_str(out, in_class ? "" : "]");
        *at = end;
        return 0;
    }
    return pw_error(PW_E_UNSUPPORTED, "%s: regular expression: the property at byte %zu is not supported (general categories are)", source, *at - 1);
}

static int translate(const char *p, size_t n, const char *source, struct pw_buf *out)
{
    bool in_class = false;
    size_t class_start = 0;
    for (size_t i = 0; i < n; i++) {
        if (p[i] != '\\' || i + 1 == n) {
            if (!in_class && p[i] == '[') {
                in_class = true;
                class_start = i + 1 < n && p[i + 1] == '^' ? i + 2 : i + 1;
            } else if (in_class && p[i] == '[' && i + 1 < n && p[i + 1] != ':') {
                /* Oniguruma reads a nested class here, PCRE2 a bracket. */
                return pw_error(PW_E_UNSUPPORTED, "%s: regular expression: nested character class at byte %zu is not supported", source, i);
            } else if (in_class && p[i] == '&' && i + 1 < n && p[i + 1] == '&') {
                return pw_error(PW_E_UNSUPPORTED, "%s: regular expression: && in a character class at byte %zu is not supported", source, i);
            } else if (in_class && p[i] == ']' && i != class_start) {
                in_class = false;
            }
            if (!in_class && (p[i] == '^' || p[i] == '$'))
                pw_buf_printf(out, "(?m:%c)", p[i]);
            else
                pw_buf_char(out, p[i]);
            continue;
        }
        char c = p[++i];
        if (c == 's' || c == 'S') {
            pw_buf_printf(out, in_class ? "%s" : "[%s]", c == 's' ? space_set : other_set);
        } else if (c == 'w' || (c == 'W' && !in_class)) {
            pw_buf_str(out, in_class ? "" : c == 'w' ? "[" : "[^");
            add_word(out);
            pw_buf_str(out, in_class ? "" : "]");
        } else if (c == 'd' || (c == 'D' && !in_class)) {
            pw_buf_str(out, in_class ? "" : c == 'd' ? "[" : "[^");
            add_category(out, "Nd");
            pw_buf_str(out, in_class ? "" : "]");
        } else if (c == 'p' || c == 'P') {
            PW_PASS(property(p, n, &i, in_class, source, out));
        } else if (c == 'W' || c == 'D' || c == 'h' || c == 'H' || c == 'b' || c == 'B') {
            return pw_error(PW_E_UNSUPPORTED, "%s: regular expression: \\%c at byte %zu is not supported", source, c, i - 1);
        } else {
            pw_buf_char(out, '\\');
            pw_buf_char(out, c);
        }
    }
    return pw_buf_status(out);
}

int pw_regex_compile(struct pw_regex **out, const char *pattern, size_t n, const char *source)
{
    struct pw_buf text = { 0 };
    struct pw_regex *r = NULL;
    int rc, code = 0;
    size_t where = 0;
    *out = NULL;
    PW_CHECK(n <= PATTERN_LIMIT, PW_E_FORMAT, "%s: regular expression of %zu bytes (limit %d)", source, n, PATTERN_LIMIT);
    PW_PASS_OUT(translate(pattern, n, source, &text));
    r = pw_alloc_zero(1, sizeof *r);
    PW_CHECK_OUT(r && (r->source = pw_strndup(pattern, n)), PW_E_NOMEM, "%s: no memory for a regular expression", source);
    r->code = pcre2_compile((PCRE2_SPTR)text.data, text.len, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &where, NULL);
    if (!r->code) {
        unsigned char why[160] = "";
        pcre2_get_error_message(code, why, sizeof why);
        rc = pw_error(PW_E_FORMAT, "%s: regular expression \"%.*s\": %s", source, n > 200 ? 200 : (int)n, pattern, (char *)why);
        goto out;
    }
    (void)pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE); /* where there is none, the interpreter gives the same matches */
    *out = r;
    r = NULL;
    rc = 0;
out:
    pw_regex_free(r);
    pw_buf_free(&text);
    return rc;
}

void pw_regex_free(struct pw_regex *r)
{
    if (!r)
        return;
    pcre2_code_free(r->code);
    pw_free(r->source);
    pw_free(r);
}

const char *pw_regex_source(const struct pw_regex *r) { return r->source; }

int pw_regex_room_open(struct pw_regex_room **out)
{
    struct pw_regex_room *room = pw_alloc_zero(1, sizeof *room);
    *out = NULL;
    PW_CHECK(room, PW_E_NOMEM, "no memory for matching regular expressions");
    room->data = pcre2_match_data_create(16, NULL);
    room->context = pcre2_match_context_create(NULL);
    if (!room->data || !room->context) {
        pw_regex_room_free(room);
        return pw_error(PW_E_NOMEM, "no memory for matching regular expressions");
    }
    pcre2_set_match_limit(room->context, 50000000);
    *out = room;
    return 0;
}

void pw_regex_room_free(struct pw_regex_room *room)
{
    if (!room)
        return;
    pcre2_match_data_free(room->data);
    pcre2_match_context_free(room->context);
    pw_free(room);
}

int pw_regex_find(const struct pw_regex *r, struct pw_regex_room *room, const char *text, size_t n, size_t at, size_t *start, size_t *end)
{
    int got = pcre2_match(r->code, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK, room->data, room->context);
    if (got == PCRE2_ERROR_JIT_STACKLIMIT)
        got = pcre2_match(r->code, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, room->data, room->context);
    if (got == PCRE2_ERROR_NOMATCH)
        return 0;
    if (got < 0) {
        unsigned char why[160] = "";
        pcre2_get_error_message(got, why, sizeof why);
        return pw_error(PW_E_FAIL, "regular expression at byte %zu of the text: %s", at, (char *)why);
    }
    const PCRE2_SIZE *o = pcre2_get_ovector_pointer(room->data);
    PW_CHECK(o[0] >= at && o[1] >= o[0], PW_E_UNSUPPORTED, "regular expression: a match that ends before it begins (\\K in a lookaround)");
    *start = o[0];
    *end = o[1];
    return 1;
}
