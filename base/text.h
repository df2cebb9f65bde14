/* Growing byte buffers and small text helpers. A buffer is always followed by a NUL that does not count. */
#ifndef PW_BASE_TEXT_H
#define PW_BASE_TEXT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pw_buf { char *data; size_t len, cap; bool failed; };
/* A zeroed struct is an empty buffer. Appending to a failed buffer does nothing; check pw_buf_status once at the end. */
void pw_buf_add(struct pw_buf *b, const void *bytes, size_t n);
void pw_buf_str(struct pw_buf *b, const char *s);
void pw_buf_char(struct pw_buf *b, char c);
void pw_buf_printf(struct pw_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void pw_buf_vprintf(struct pw_buf *b, const char *fmt, va_list ap);
int pw_buf_status(const struct pw_buf *b);  /* 0 or PW_E_NOMEM with a trail */
void pw_buf_clear(struct pw_buf *b);        /* length 0, memory kept */
void pw_buf_free(struct pw_buf *b);

/* Whole-string number parsers: refuse empty text, trailing junk, range errors, NaN and infinity. 0 or -1, no trail. */
int pw_parse_i64(const char *s, int64_t *out);
int pw_parse_f64(const char *s, double *out);
/* "8GiB", "512MB", "1.5G", "4096" -> bytes (powers of 1024 for GiB/G/MiB/M/KiB/K, of 1000 for GB/MB/KB). */
int pw_parse_bytes(const char *s, uint64_t *out);

/* Shortest decimal text that reads back as the same double ("0.1", "1e-05"); NaN and infinity give "null". At most 32 bytes. */
void pw_format_f64(char out[32], double x);
void pw_format_bytes(char out[32], uint64_t bytes); /* "5.31 GiB" */
void pw_format_seconds(char out[32], double s);     /* "1:02:03", "0:41" */

/* The nearest of n names by edit distance, or NULL when none is near (distance > max(2, len/3)). */
const char *pw_nearest(const char *word, const char *const *names, size_t n);

bool pw_utf8_valid(const char *s, size_t n);
#endif
