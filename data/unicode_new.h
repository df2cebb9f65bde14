/* What the versions of Unicode disagree about. Regular expressions of tokenizers are published for Unicode 16; PCRE2 and
 * utf8proc, as systems ship them, know an older one. The rows add what they lack, so that ids do not depend on the machine.
 * Normalisers are the other way round: the reference implementation knows Unicode 10, and leaves newer characters alone. What it takes for
 * punctuation outside expressions is an older set yet. */
#ifndef PW_DATA_UNICODE_NEW_H
#define PW_DATA_UNICODE_NEW_H

#include <stdint.h>

struct pw_unicode_range { uint32_t from, to; char category[3]; };
extern const struct pw_unicode_range pw_unicode_new[];   /* assigned after Unicode 14, in order; ends with to = 0 */
extern const struct pw_unicode_range pw_unicode_inert[]; /* neither decomposed nor reordered; ends with to = 0 */
extern const struct pw_unicode_range pw_unicode_punctuation[]; /* all of it; ends with to = 0 */
extern const struct pw_unicode_range pw_unicode_joining[]; /* marks assigned after Unicode 15, of one cluster with what is before; ends with to = 0 */
#endif
