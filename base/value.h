/* One tree for JSON and YAML: null, bool, int, real, string, list, map, each with the line it came from.
 *
 * Parsers put everything into an arena. Limits: depth 200, duplicate keys refused, text must be UTF-8, integers outside
 * int64 are refused. YAML: the safe core schema (null, bool, int, float, string), anchors and tags are refused.
 * Errors name the source and the line. */
#ifndef PW_BASE_VALUE_H
#define PW_BASE_VALUE_H

#include "base/memory.h"
#include "base/text.h"

enum pw_kind { PW_NULL, PW_BOOL, PW_INT, PW_REAL, PW_STRING, PW_LIST, PW_MAP };

struct pw_member;
struct pw_value {
    enum pw_kind kind;
    int line;           /* from 1; 0 when unknown */
    size_t len;         /* bytes of a string, items of a list, members of a map */
    union {
        bool b;
        int64_t i;
        double d;
        const char *s;              /* NUL-terminated too; may hold NULs inside */
        struct pw_value *items;
        struct pw_member *members;  /* in source order */
    };
};
struct pw_member { const char *key; size_t key_len; struct pw_value value; };

int pw_json_parse(struct pw_arena *a, const char *text, size_t bytes, const char *source, struct pw_value **out);
int pw_json_load(struct pw_arena *a, const char *path, struct pw_value **out);
int pw_yaml_parse(struct pw_arena *a, const char *text, size_t bytes, const char *source, struct pw_value **out);
int pw_yaml_load(struct pw_arena *a, const char *path, struct pw_value **out);

const char *pw_kind_name(enum pw_kind k);
const struct pw_value *pw_get(const struct pw_value *map, const char *key);  /* NULL: absent, or not a map */

/* Typed reading of map[key]. Absent (or null) key: the output keeps the value it had and 0 is returned.
 * Present with another type: PW_E_FORMAT "source: key: expected int, got string (line 3)". `where` names the source.
 * pw_get_i64 takes a real with an integral value (JSON writes 1e4); pw_get_f64 takes an int. */
int pw_get_i64(const struct pw_value *map, const char *key, const char *where, int64_t *out);
int pw_get_f64(const struct pw_value *map, const char *key, const char *where, double *out);
int pw_get_bool(const struct pw_value *map, const char *key, const char *where, bool *out);
int pw_get_str(const struct pw_value *map, const char *key, const char *where, const char **out);

/* Writing JSON. One struct, commas and nesting are kept by it. Numbers are written with all their digits; a NaN or an
 * infinity turns the writer into the error state ("JSON field NAME is not a number"), since NaN never leaves the program. */
struct pw_json { struct pw_buf out; int depth; bool first[64]; bool indent, failed_nan; const char *bad_key; };
void pw_json_open(struct pw_json *w, const char *key, char bracket); /* '{' or '['; key NULL inside lists and at the top */
void pw_json_close(struct pw_json *w, char bracket);
void pw_json_str(struct pw_json *w, const char *key, const char *s); /* s NULL writes null */
void pw_json_strn(struct pw_json *w, const char *key, const char *s, size_t n); /* invalid UTF-8 becomes U+FFFD */
void pw_json_i64(struct pw_json *w, const char *key, int64_t x);
void pw_json_f64(struct pw_json *w, const char *key, double x);
void pw_json_f32(struct pw_json *w, const char *key, float x);       /* shortest text that reads back as the same float */
void pw_json_bool(struct pw_json *w, const char *key, bool x);
void pw_json_null(struct pw_json *w, const char *key);
void pw_json_value(struct pw_json *w, const char *key, const struct pw_value *v);
int pw_json_status(const struct pw_json *w);
void pw_json_free(struct pw_json *w);
#endif
