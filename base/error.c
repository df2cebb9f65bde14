/* The trail of the last failure, one per thread, in fixed buffers: reporting a failure never allocates, so that running out
 * of memory can be reported like anything else. What does not fit is cut at the end and marked with "...".
 * This file knows nothing of who prints the trail. */
#include "base/error.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { TRAIL_BYTES = 4096, HINT_BYTES = 1024 };

static _Thread_local char trail[TRAIL_BYTES], hint[HINT_BYTES];

/* Length of the well-formed UTF-8 sequence at s (0 when it is not one). The text ends with NUL, which no sequence crosses. */
static size_t sequence_bytes(const unsigned char *s)
{
    size_t n = s[0] < 0x80 ? 1 : s[0] >= 0xC2 && s[0] <= 0xDF ? 2 : (s[0] & 0xF0) == 0xE0 ? 3 : s[0] >= 0xF0 && s[0] <= 0xF4 ? 4 : 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    if (n == 3 && ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F))) return 0;
    if (n == 4 && ((s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F))) return 0;
    return n;
}

/* Copies src to dst, writing control characters (C0, DEL, C1) and stray bytes as escapes; cuts at a whole character. */
static void copy_escaped(char *dst, size_t cap, const char *src)
{
    size_t at = 0;
    const unsigned char *s = (const unsigned char *)src;
    while (*s) {
        char piece[8];
        size_t n = sequence_bytes(s), len;
        bool control = *s < 0x20 || *s == 0x7F || (n == 2 && s[0] == 0xC2 && s[1] < 0xA0);
        if (n > 0 && !control) {
            memcpy(piece, s, n);
            len = n;
        } else if (*s == '\n' || *s == '\t' || *s == '\r') {
            len = (size_t)snprintf(piece, sizeof piece, "\\%c", *s == '\n' ? 'n' : *s == '\t' ? 't' : 'r');
            n = 1;
        } else {
            n = 1; /* a C1 control shows as its two bytes */
            len = (size_t)snprintf(piece, sizeof piece, "\\x%02x", *s);
        }
        if (len > cap - 4 - at) {
            memcpy(dst + at, "...", 4);
            return;
        }
        memcpy(dst + at, piece, len);
        at += len;
        s += n;
    }
    dst[at] = 0;
}

int pw_error(int code, const char *fmt, ...)
{
    char text[TRAIL_BYTES];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    copy_escaped(trail, sizeof trail, n < 0 ? "(message cannot be formatted)" : text);
    hint[0] = 0;
    return code;
}

int pw_error_while(int code, const char *fmt, ...)
{
    char text[TRAIL_BYTES / 4], shown[TRAIL_BYTES / 4], whole[TRAIL_BYTES * 2];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    copy_escaped(shown, sizeof shown, n < 0 ? "(message cannot be formatted)" : text);
    snprintf(whole, sizeof whole, "while %s%s%s", shown, trail[0] ? ": " : "", trail);
    copy_escaped(trail, sizeof trail, whole); /* already escaped: this only cuts to size */
    return code;
}

void pw_error_hint(const char *fmt, ...)
{
    char text[HINT_BYTES];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    copy_escaped(hint, sizeof hint, n < 0 ? "" : text);
}

const char *pw_error_text(void) { return trail; }
const char *pw_error_hint_text(void) { return hint; }

void pw_error_clear(void)
{
    trail[0] = 0;
    hint[0] = 0;
}

int pw_error_exit_status(int code)
{
    if (code >= 0) return 0;
    switch (code) {
    case PW_E_USAGE: return 2;
    case PW_E_REFUSED: return 3;
    case PW_E_INTERRUPTED: return 130;
    default: return 1;
    }
}
