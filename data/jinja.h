/* Jinja2, as far as chat templates go: text with {{ }}, {% %} and {# #} in, text out.
 *
 * A template is parsed once and is immutable. Rendering is total: steps, output, memory and nesting are bounded, so a hostile
 * template ends in an error. Options are those that Hugging Face sets: trim_blocks and lstrip_blocks on, loop controls, the
 * {% generation %} block, raise_exception, strftime_now, tojson without HTML escaping. What is not supported is an error naming it.
 * Knows nothing of chats or tokens. Parsing: jinja_lex.c, jinja_expression.c, jinja_parse.c; running: jinja_run.c, jinja_value.c, jinja_filter.c. */
#ifndef PW_DATA_JINJA_H
#define PW_DATA_JINJA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"
#include "base/value.h"

struct pw_jinja;
/* name appears in errors ("template NAME, line 3: ..."). */
int pw_jinja_parse(struct pw_jinja **out, const char *source, size_t bytes, const char *name);
void pw_jinja_free(struct pw_jinja *t); /* NULL is fine */
bool pw_jinja_has_generation(const struct pw_jinja *t); /* it holds a {% generation %} block */
bool pw_jinja_uses_clock(const struct pw_jinja *t);     /* it names strftime_now */

struct pw_spans { size_t *start, *end; size_t n, cap; }; /* [start, end) byte offsets, ascending */
int pw_spans_add(struct pw_spans *s, size_t start, size_t end);
void pw_spans_free(struct pw_spans *s);

struct pw_jinja_limits { int64_t steps, now; size_t output, memory; }; /* zeros: defaults; now: seconds since 1970, 0 = the clock */
/* vars: a map. Appends to out; generation (may be NULL) gets the spans of {% generation %} blocks, as offsets into out. */
int pw_jinja_render(const struct pw_jinja *t, const struct pw_value *vars, const struct pw_jinja_limits *limits, struct pw_buf *out,
                    struct pw_spans *generation);
#endif
