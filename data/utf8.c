/* Unicode text over utf8proc. Owns the mapping of source ranges through decomposition, reordering and composition, which
 * utf8proc does not keep. Knows nothing of tokenizers. */
#include "data/utf8.h"

#include <string.h>
#include <utf8proc.h>

#include "data/unicode_new.h"

/* Length of the well-formed character at s, or 0; *part = length of the maximal ill-formed part, *open = it could go on. */
static size_t char_length(const unsigned char *s, size_t n, size_t *part, bool *open)
{
    unsigned char c = s[0], low = 0x80, high = 0xBF;
    size_t need;
    *part = 1;
    *open = false;
    if (c < 0x80)
        return 1;
    if (c >= 0xC2 && c <= 0xDF)
        need = 2;
    else if (c >= 0xE0 && c <= 0xEF)
        need = 3, low = c == 0xE0 ? 0xA0 : 0x80, high = c == 0xED ? 0x9F : 0xBF;
    else if (c >= 0xF0 && c <= 0xF4)
        need = 4, low = c == 0xF0 ? 0x90 : 0x80, high = c == 0xF4 ? 0x8F : 0xBF;
    else
        return 0;
    for (size_t i = 1; i < need; i++) {
        if (i == n) {
            *open = true;
            return 0;
        }
        if (s[i] < low || s[i] > high)
            return 0;
        low = 0x80, high = 0xBF;
        *part = i + 1;
    }
    return need;
}

size_t pw_utf8_check(const char *s, size_t n)
{
    size_t at = 0, part;
    bool open;
    while (at < n) {
        size_t len = (unsigned char)s[at] < 0x80 ? 1 : char_length((const unsigned char *)s + at, n - at, &part, &open);
        if (len == 0)
            return at;
        at += len;
    }
    return n;
}

size_t pw_utf8_get(const char *s, size_t n, uint32_t *cp)
{
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) {
        *cp = u[0];
        return 1;
    }
    if (u[0] < 0xE0 && n >= 2) {
        *cp = (uint32_t)(u[0] & 0x1F) << 6 | (u[1] & 0x3F);
        return 2;
    }
    if (u[0] < 0xF0 && n >= 3) {
        *cp = (uint32_t)(u[0] & 0x0F) << 12 | (uint32_t)(u[1] & 0x3F) << 6 | (u[2] & 0x3F);
        return 3;
    }
    if (n >= 4) {
        *cp = (uint32_t)(u[0] & 0x07) << 18 | (uint32_t)(u[1] & 0x3F) << 12 | (uint32_t)(u[2] & 0x3F) << 6 | (u[3] & 0x3F);
        return 4;
    }
    *cp = 0xFFFD;
    return 1;
}

size_t pw_utf8_put(uint32_t cp, char out[4])
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xE0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        out[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3F));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3F));
    out[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

size_t pw_utf8_open_tail(const char *s, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        size_t part;
        bool open;
        if (((unsigned char)s[n - back] & 0xC0) == 0x80)
            continue;
        if (char_length((const unsigned char *)s + n - back, back, &part, &open) == 0 && open)
            return back;
        return 0;
    }
    return 0;
}

void pw_utf8_lossy(const char *s, size_t n, struct pw_buf *out)
{
    size_t at = 0, good = 0, part;
    bool open;
    while (at < n) {
        size_t len = char_length((const unsigned char *)s + at, n - at, &part, &open);
        if (len) {
            at += len;
            continue;
        }
        pw_buf_add(out, s + good, at - good);
        pw_buf_str(out, "\xEF\xBF\xBD");
        at += part;
        good = at;
    }
    pw_buf_add(out, s + good, at - good);
}

bool pw_cp_space(uint32_t cp)
{
    if (cp < 0x80)
        return cp == ' ' || (cp >= 9 && cp <= 13);
    return cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

static bool in_ranges(const struct pw_unicode_range *r, uint32_t cp, const char *categories)
{
    for (; r->to && cp >= r->from; r++)
        if (cp <= r->to)
            return !categories || strstr(categories, r->category) != NULL;
    return false;
}

bool pw_cp_word(uint32_t cp)
{
    if (cp >= 0x80 && in_ranges(pw_unicode_new, cp, "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl Pc"))
        return true;
    if ((cp >= 0x24B6 && cp <= 0x24E9) || (cp >= 0x1F130 && cp <= 0x1F149) || (cp >= 0x1F150 && cp <= 0x1F169) || (cp >= 0x1F170 && cp <= 0x1F189) ||
        cp == 0x200C || cp == 0x200D)
        return true;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU: case UTF8PROC_CATEGORY_LL: case UTF8PROC_CATEGORY_LT: case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: case UTF8PROC_CATEGORY_MN: case UTF8PROC_CATEGORY_MC: case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND: case UTF8PROC_CATEGORY_NL: case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return false;
    }
}

bool pw_cp_numeric(uint32_t cp)
{
    if (cp < 0x80)
        return cp >= '0' && cp <= '9';
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return in_ranges(pw_unicode_new, cp, "Nd Nl No") || c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

bool pw_cp_letter(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

bool pw_cp_decimal(uint32_t cp) { return utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_ND; }

uint32_t pw_cp_simple(uint32_t cp, bool upper)
{
    return (uint32_t)(upper ? utf8proc_toupper((utf8proc_int32_t)cp) : utf8proc_tolower((utf8proc_int32_t)cp));
}

bool pw_cp_punctuation(uint32_t cp) { return in_ranges(pw_unicode_punctuation, cp, NULL); }

bool pw_grapheme_break(uint32_t a, uint32_t b, int32_t *state)
{
    if (in_ranges(pw_unicode_joining, a, NULL))
        a = 0x301; /* a mark that every version knows */
    if (in_ranges(pw_unicode_joining, b, NULL))
        b = 0x301;
    return utf8proc_grapheme_break_stateful((utf8proc_int32_t)a, (utf8proc_int32_t)b, state);
}

size_t pw_cp_lower(uint32_t cp, uint32_t out[2])
{
    if (cp == 0x130) { /* the one letter whose lower case is two characters without regard to its surroundings */
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    out[0] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
    if (out[0] == cp && cp >= 0x1C89) /* letters of Unicode 16 and 17, which the reference knows */
        out[0] = cp >= 0x10D50 && cp <= 0x10D65 ? cp + 0x20 : cp >= 0x16EA0 && cp <= 0x16EB8 ? cp + 0x1B :
                 cp == 0x1C89 || cp == 0xA7CC || cp == 0xA7CE || cp == 0xA7D2 || cp == 0xA7D4 || cp == 0xA7DA ? cp + 1 : cp == 0xA7CB ? 0x264 : cp == 0xA7DC ? 0x19B : cp;
    return 1;
}

static unsigned combining(uint32_t cp)
{
    return cp < 0x300 || in_ranges(pw_unicode_inert, cp, NULL) ? 0 : (unsigned)utf8proc_get_property((utf8proc_int32_t)cp)->combining_class;
}

/* Hangul is arithmetic (Unicode 3.12); utf8proc knows it too, but only inside whole strings. */
static bool compose_pair(uint32_t a, uint32_t b, uint32_t *out)
{
    utf8proc_int32_t pair[3] = { (utf8proc_int32_t)a, (utf8proc_int32_t)b, 0 };
    if (b < 0x300)
        return false;
    if (utf8proc_normalize_utf32(pair, 2, (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE)) != 1)
        return false;
    *out = (uint32_t)pair[0];
    return true;
}

static size_t compose(struct pw_char *c, size_t n)
{
    size_t kept = 0, starter = (size_t)-1;
    unsigned last = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned ccc = combining(c[i].cp);
        uint32_t joined;
        bool blocked = starter == (size_t)-1 || (kept - 1 != starter && (last == 0 || last >= ccc));
        if (!blocked && compose_pair(c[starter].cp, c[i].cp, &joined)) {
            c[starter].cp = joined;
            if (c[i].end > c[starter].end)
                c[starter].end = c[i].end;
            continue;
        }
        if (ccc == 0)
            starter = kept;
        last = ccc;
        c[kept++] = c[i];
    }
    return kept;
}

size_t pw_utf8_normalize(const struct pw_char *chars, size_t n, enum pw_form form, struct pw_char *out)
{
    int options = UTF8PROC_DECOMPOSE | UTF8PROC_STABLE;
    size_t m = 0;
    if (form == PW_NFKC || form == PW_NFKD)
        options |= UTF8PROC_COMPAT;
    for (size_t i = 0; i < n; i++) {
        utf8proc_int32_t parts[18];
        int boundary = 0;
        utf8proc_ssize_t k = 1;
        parts[0] = (utf8proc_int32_t)chars[i].cp;
        if (chars[i].cp >= 0x80 && !in_ranges(pw_unicode_inert, chars[i].cp, NULL))
            k = utf8proc_decompose_char((utf8proc_int32_t)chars[i].cp, parts, 18, (utf8proc_option_t)options, &boundary);
        if (k < 1 || k > 18) { /* unassigned code points stay what they are */
            parts[0] = (utf8proc_int32_t)chars[i].cp;
            k = 1;
        }
        for (utf8proc_ssize_t j = 0; j < k; j++)
            out[m++] = (struct pw_char){ (uint32_t)parts[j], chars[i].start, chars[i].end };
    }
    /* Canonical order: marks sort by class, stably; the source ranges stay in place so that starts never fall. */
    for (size_t i = 1; i < m; i++) {
        unsigned ccc = combining(out[i].cp);
        uint32_t cp = out[i].cp;
        size_t j = i;
        if (ccc == 0)
            continue;
        while (j > 0 && combining(out[j - 1].cp) > ccc) {
            out[j].cp = out[j - 1].cp;
            j--;
        }
        out[j].cp = cp;
    }
    return form == PW_NFC || form == PW_NFKC ? compose(out, m) : m;
}
