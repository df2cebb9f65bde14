/* Regular expressions of tokenizer files: Oniguruma's dialect as far as it is used there, run by PCRE2, which is known only
 * to regex.c. Text must be valid UTF-8. */
#ifndef PW_DATA_REGEX_H
#define PW_DATA_REGEX_H

#include <stddef.h>

struct pw_regex;       /* immutable, may be shared by threads */
struct pw_regex_room;  /* one per thread */

/* source names the place in messages. Refuses patterns over 64 KiB. */
int pw_regex_compile(struct pw_regex **out, const char *pattern, size_t n, const char *source);
void pw_regex_free(struct pw_regex *r);
const char *pw_regex_source(const struct pw_regex *r); /* the pattern as it was given */
int pw_regex_room_open(struct pw_regex_room **out);
void pw_regex_room_free(struct pw_regex_room *room);

/* The first match at or after `at`: 1 and its range, 0 for none, negative for an error (the match limits). */
int pw_regex_find(const struct pw_regex *r, struct pw_regex_room *room, const char *text, size_t n, size_t at, size_t *start, size_t *end);
#endif
