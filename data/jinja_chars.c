/* Code points as the Jinja interpreter needs them: counting, white space, case, classes. Texts are valid UTF-8 here. */
#include <string.h>

#include "data/jinja_parts.h"
#include "data/utf8.h"

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

uint32_t jinja_lower(uint32_t c) { return c == 0x130 ? 'i' : pw_cp_simple(c, false); }
uint32_t jinja_upper(uint32_t c) { return pw_cp_simple(c, true); }
bool jinja_letter(uint32_t c) { return pw_cp_letter(c); }
bool jinja_digit(uint32_t c) { return (c >= '0' && c <= '9') || (c >= 0x80 && (pw_cp_decimal(c) || c == 0xB2 || c == 0xB3 || c == 0xB9 || c == 0x2070 || (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089) || (c >= 0x2460 && c <= 0x2468))); }

bool jinja_hashable(const struct jv *v)
{
    for (size_t i = 0; v->kind == JV_LIST && v->list->tuple && i < v->list->n; i++)
        if (v->list->items[i].kind == JV_MAP || (v->list->items[i].kind == JV_LIST && !jinja_hashable(&v->list->items[i])))
            return false;
    return v->kind != JV_MAP && (v->kind != JV_LIST || v->list->tuple);
}
