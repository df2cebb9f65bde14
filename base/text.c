/* Byte buffers that grow, number parsing that refuses what it does not understand, numbers as people read them.
 * Numbers are read and written in the C locale, which the program never leaves. */
#include "base/text.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "base/memory.h"

/* ---- buffers ---- */

/* Room for n more bytes and the NUL. */
static bool buf_room(struct pw_buf *b, size_t n)
{
    if (b->failed) return false;
    size_t need;
    if (!pw_add_size(b->len, n, &need) || !pw_add_size(need, 1, &need)) goto fail;
    if (need <= b->cap) return true;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < need)
        if (!pw_mul_size(cap, 2, &cap)) cap = need;
    char *p = pw_realloc(b->data, b->len, cap);
    if (!p) goto fail;
    b->data = p;
    b->cap = cap;
    return true;
fail:
    b->failed = true;
    return false;
}

void pw_buf_add(struct pw_buf *b, const void *bytes, size_t n)
{
    if (!buf_room(b, n)) return;
    if (n) memcpy(b->data + b->len, bytes, n);
    b->len += n;
    b->data[b->len] = 0;
}

void pw_buf_str(struct pw_buf *b, const char *s) { pw_buf_add(b, s, strlen(s)); }
void pw_buf_char(struct pw_buf *b, char c) { pw_buf_add(b, &c, 1); }

void pw_buf_vprintf(struct pw_buf *b, const char *fmt, va_list ap)
{
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, again);
    va_end(again);
    if (n < 0) {
        b->failed = true;
        return;
    }
    if (!buf_room(b, (size_t)n)) return;
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
    b->len += (size_t)n;
}

void pw_buf_printf(struct pw_buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    pw_buf_vprintf(b, fmt, ap);
    va_end(ap);
}

int pw_buf_status(const struct pw_buf *b)
{
    PW_CHECK(!b->failed, PW_E_NOMEM, "out of memory: a text of more than %zu bytes", b->len);
    return 0;
}

void pw_buf_clear(struct pw_buf *b)
{
    b->len = 0;
    if (b->data) b->data[0] = 0;
}

void pw_buf_free(struct pw_buf *b)
{
    pw_free(b->data);
    *b = (struct pw_buf){ 0 };
}

/* ---- reading numbers ---- */
int pw_parse_i64(const char *s, int64_t *out)
{
    const char *digits = *s == '-' || *s == '+' ? s + 1 : s;
    if (*digits < '0' || *digits > '9') return -1; /* strtoll would skip blanks */
    char *end;
    errno = 0;
    long long x = strtoll(s, &end, 10);
    if (errno || *end) return -1;
    *out = x;
    return 0;
}

/* A decimal number at s, without blanks, hexadecimal, "inf" and "nan". A result too small to hold is 0. */
static int real_at(const char *s, double *out, char **end)
{
    const char *digits = *s == '-' || *s == '+' ? s + 1 : s;
    if (*digits == '.') digits++;
    if (*digits < '0' || *digits > '9' || (digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X'))) return -1;
    double x = strtod(s, end);
    if (!isfinite(x)) return -1;
    *out = x;
    return 0;
}

int pw_parse_f64(const char *s, double *out)
{
    char *end;
    double x;
    if (real_at(s, &x, &end) < 0 || *end) return -1;
    *out = x;
    return 0;
}

int pw_parse_bytes(const char *s, uint64_t *out)
{
    static const struct { const char *name; double times; } units[] = {
        { "", 1 }, { "B", 1 }, { "K", 1024.0 }, { "KiB", 1024.0 }, { "M", 1048576.0 }, { "MiB", 1048576.0 }, { "G", 1073741824.0 },
        { "GiB", 1073741824.0 }, { "T", 1099511627776.0 }, { "TiB", 1099511627776.0 }, { "KB", 1e3 }, { "kB", 1e3 }, { "MB", 1e6 },
        { "GB", 1e9 }, { "TB", 1e12 },
    };
    char *end;
    double x;
    if (*s < '0' || *s > '9' || real_at(s, &x, &end) < 0) return -1;
    while (*end == ' ') end++;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcmp(end, units[i].name) == 0) {
            double bytes = x * units[i].times;
            if (!(bytes < 9007199254740992.0)) return -1; /* 2^53: beyond it a double skips integers */
            *out = (uint64_t)llround(bytes);
            return 0;
        }
    return -1;
}

/* ---- writing numbers ---- */
void pw_format_f64(char out[32], double x)
{
    if (!isfinite(x)) {
        memcpy(out, "null", 5);
        return;
    }
    if (x == trunc(x) && fabs(x) < 1e15) { /* 100, not 1e+02 */
        snprintf(out, 32, "%.0f", x);
        return;
    }
    for (int digits = 1; digits <= 17; digits++) { /* 17 always suffice to read back */
        snprintf(out, 32, "%.*g", digits, x);
        if (strtod(out, NULL) == x) return;
    }
}

void pw_format_bytes(char out[32], uint64_t bytes)
{
    static const char *const names[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
    double x = (double)bytes;
    size_t unit = 0;
    while (x >= 1023.995 && unit < 6) { /* what would print as 1024.00 takes the next unit */
        x /= 1024;
        unit++;
    }
    if (unit == 0) snprintf(out, 32, "%d B", (int)bytes);
    else snprintf(out, 32, "%.2f %s", x, names[unit]);
}

void pw_format_seconds(char out[32], double s)
{
    if (!(s >= 0 && s < 3.6e9)) { /* NaN, negative, a million hours */
        memcpy(out, "?", 2);
        return;
    }
    long long n = llround(s);
    if (n >= 3600) snprintf(out, 32, "%lld:%02lld:%02lld", n / 3600, n / 60 % 60, n % 60);
    else snprintf(out, 32, "%lld:%02lld", n / 60, n % 60);
}

/* ---- words ---- */
enum { WORD_MAX = 64 };

/* Number of insertions, deletions, replacements and swaps of neighbours. Both words have at most WORD_MAX bytes. */
static size_t distance(const char *a, size_t na, const char *b, size_t nb)
{
    size_t rows[3][WORD_MAX + 1];
    size_t *two = rows[0], *one = rows[1], *now = rows[2];
    for (size_t j = 0; j <= nb; j++) one[j] = j;
    for (size_t i = 1; i <= na; i++) {
        now[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t best = one[j - 1] + (a[i - 1] != b[j - 1]);
            if (one[j] + 1 < best) best = one[j] + 1;
            if (now[j - 1] + 1 < best) best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && two[j - 2] + 1 < best) best = two[j - 2] + 1;
            now[j] = best;
        }
        size_t *t = two;
        two = one;
        one = now;
        now = t;
    }
    return one[nb];
}

const char *pw_nearest(const char *word, const char *const *names, size_t n)
{
    size_t len = strlen(word), limit = len / 3 > 2 ? len / 3 : 2, best = limit + 1;
    const char *found = NULL;
    if (len == 0 || len > WORD_MAX) return NULL;
    for (size_t i = 0; i < n; i++)
        if (strcasecmp(word, names[i]) == 0) return names[i]; /* capitals alone are the nearest of all */
    for (size_t i = 0; i < n; i++) {
        size_t other = strlen(names[i]);
        if (other > WORD_MAX) continue;
        size_t d = distance(word, len, names[i], other);
        if (d < best && d < len) { /* everything replaced is not near */
            best = d;
            found = names[i];
        }
    }
    return found;
}

bool pw_utf8_valid(const char *text, size_t n)
{
    const unsigned char *s = (const unsigned char *)text;
    for (size_t i = 0; i < n;) {
        unsigned char c = s[i];
        size_t more = c < 0x80 ? 0 : c >= 0xC2 && c <= 0xDF ? 1 : (c & 0xF0) == 0xE0 ? 2 : c >= 0xF0 && c <= 0xF4 ? 3 : SIZE_MAX;
        if (more > n - i - 1) return false; /* SIZE_MAX: no such first byte */
        for (size_t k = 1; k <= more; k++)
            if ((s[i + k] & 0xC0) != 0x80) return false;
        if ((c == 0xE0 && s[i + 1] < 0xA0) || (c == 0xED && s[i + 1] > 0x9F)) return false; /* overlong, surrogate */
        if ((c == 0xF0 && s[i + 1] < 0x90) || (c == 0xF4 && s[i + 1] > 0x8F)) return false; /* overlong, above U+10FFFF */
        i += more + 1;
    }
    return true;
}
