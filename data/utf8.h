/* Unicode text: validity, code points, classes, case and the four normal forms. utf8proc is known only to utf8.c.
 * Functions that take text expect valid UTF-8 unless they say otherwise. */
#ifndef PW_DATA_UTF8_H
#define PW_DATA_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

/* Offset of the first byte that is not UTF-8 (overlong forms and surrogates included), n when all is well. */
size_t pw_utf8_check(const char *s, size_t n);
size_t pw_utf8_get(const char *s, size_t n, uint32_t *cp);  /* bytes of the character at s; n >= 1 */
size_t pw_utf8_put(uint32_t cp, char out[4]);               /* bytes written */
/* How many bytes of an incomplete but so far possible character end s (0..3); for text that arrives in parts. */
size_t pw_utf8_open_tail(const char *s, size_t n);
/* Appends s to out with each maximal ill-formed part replaced by U+FFFD. */
void pw_utf8_lossy(const char *s, size_t n, struct pw_buf *out);

bool pw_cp_space(uint32_t cp);    /* property White_Space */
bool pw_cp_word(uint32_t cp);     /* Alphabetic, marks, decimal digits, connectors, joiners: \w of Unicode's recommendation */
bool pw_cp_numeric(uint32_t cp);  /* categories Nd, Nl, No */
bool pw_cp_letter(uint32_t cp);   /* categories L* */
bool pw_cp_decimal(uint32_t cp);  /* category Nd */
uint32_t pw_cp_simple(uint32_t cp, bool upper); /* simple case mapping */
bool pw_cp_punctuation(uint32_t cp); /* ASCII punctuation and symbols, and what tokenizers take for it beyond */
/* Whether text may be cut between two characters that follow each other; *state is 0 at the beginning of a text. */
bool pw_grapheme_break(uint32_t a, uint32_t b, int32_t *state);
size_t pw_cp_lower(uint32_t cp, uint32_t out[2]);

enum pw_form { PW_NFC, PW_NFD, PW_NFKC, PW_NFKD };
/* One character with the byte range of the source it came from. */
struct pw_char { uint32_t cp, start, end; };
/* Brings chars[0..n) into a normal form. out must have room for 18 * n; returns the number written. Starts never fall. */
size_t pw_utf8_normalize(const struct pw_char *chars, size_t n, enum pw_form form, struct pw_char *out);
#endif
