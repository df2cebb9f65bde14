/* Code points as the Jinja interpreter needs them: counting, white space, simple case. Texts are valid UTF-8 here. */
#include <string.h>

#include "data/jinja_parts.h"

size_t jinja_char_bytes(unsigned char c)
{
    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

size_t jinja_chars(const char *s, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += ((unsigned char)s[i] & 0xc0) != 0x80;
    return count;
}

size_t jinja_get(const char *s, size_t n, uint32_t *cp)
{
    const unsigned char *p = (const unsigned char *)s;
    size_t k = jinja_char_bytes(p[0]);
    if (k > n)
        k = n;
    *cp = k == 1 ? p[0] : p[0] & (0xffu >> (k + 1));
    for (size_t i = 1; i < k; i++)
        *cp = *cp << 6 | (p[i] & 0x3f);
    return k;
}

void jinja_put(struct pw_buf *b, uint32_t cp)
{
    char out[4];
    size_t n = cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n; i-- > 1; cp >>= 6)
        out[i] = (char)(0x80 | (cp & 0x3f));
    out[0] = (char)(lead[n] | cp);
    pw_buf_add(b, out, n);
}

bool jinja_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* Blocks of letters whose cases are a fixed distance apart, or neighbours (upper even or odd). From the Unicode charts: Latin, Greek,
 * Cyrillic, Armenian; others keep their case. */
enum { NEXT_EVEN = 1, NEXT_ODD = -1 };
static const struct { uint32_t first, last; int distance; } cases[] = {
    {'A', 'Z', 32}, {0xc0, 0xd6, 32}, {0xd8, 0xde, 32}, {0x100, 0x12f, NEXT_EVEN}, {0x132, 0x137, NEXT_EVEN}, {0x139, 0x148, NEXT_ODD},
    {0x14a, 0x177, NEXT_EVEN}, {0x179, 0x17e, NEXT_ODD}, {0x1de, 0x1ef, NEXT_EVEN}, {0x1f8, 0x21f, NEXT_EVEN}, {0x222, 0x233, NEXT_EVEN},
    {0x391, 0x3a1, 32}, {0x3a3, 0x3ab, 32}, {0x400, 0x40f, 80}, {0x410, 0x42f, 32}, {0x460, 0x481, NEXT_EVEN}, {0x48a, 0x4bf, NEXT_EVEN},
    {0x4d0, 0x52f, NEXT_EVEN}, {0x531, 0x556, 48}, {0x1e00, 0x1e95, NEXT_EVEN}, {0x1ea0, 0x1eff, NEXT_EVEN}, {0xff21, 0xff3a, 32},
};

uint32_t jinja_lower(uint32_t c)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (c < cases[i].first || c > cases[i].last)
            continue;
        if (cases[i].distance == NEXT_EVEN)
            return c | 1;
        if (cases[i].distance == NEXT_ODD)
            return c & 1 ? c + 1 : c;
        return c + (uint32_t)cases[i].distance;
    }
    return c == 0x178 ? 0xff : c;
}

uint32_t jinja_upper(uint32_t c)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int distance = cases[i].distance;
        if (distance == NEXT_EVEN || distance == NEXT_ODD) {
            if (c >= cases[i].first && c <= cases[i].last)
                return distance == NEXT_EVEN ? c & ~1u : c & 1 ? c : c - 1;
        } else if (c >= cases[i].first + (uint32_t)distance && c <= cases[i].last + (uint32_t)distance) {
            return c - (uint32_t)distance;
        }
    }
    return c == 0x3c2 ? 0x3a3 : c == 0xff ? 0x178 : c == 0xb5 ? 0x39c : c;
}
