/* CSV as in RFC 4180: rows of cells from a text in memory, with the line each row begins on.
 *
 * Quoted cells may hold separators, line breaks and doubled quotes; lines end in LF or CRLF; a UTF-8 byte order mark at the
 * start is skipped; blank lines are skipped. Text after a closing quote, a quote inside an unquoted cell, a quote that is
 * never closed, a bare carriage return, a NUL and text that is not UTF-8 are errors that name source and line.
 * Lines are counted as an editor counts them, the header being line 1. This file knows nothing of what columns mean. */
#ifndef PW_DATA_CSV_H
#define PW_DATA_CSV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/text.h"

enum { PW_CSV_MAX_CELLS = 16384, PW_CSV_MAX_CELL_BYTES = 16 << 20 };

struct pw_csv_cell { const char *s; size_t len; bool quoted; }; /* NUL-terminated too */
struct pw_csv {
    const char *text;           /* not owned */
    size_t bytes, at;
    int64_t line;               /* of the byte at `at`, from 1 */
    const char *source;         /* name in errors, not owned */
    char separator;
    /* the row read last; valid until the next call */
    int64_t row_line;
    struct pw_csv_cell *cells;
    int n_cells, cap_cells;
    struct pw_buf scratch;
    /* the header, when pw_csv_header was called */
    struct pw_csv_cell *names;
    int n_names;
    struct pw_buf names_text;
};

/* separator: ',' as a rule, ';' or '\t'. Nothing is read yet; cannot fail. */
void pw_csv_open(struct pw_csv *c, const char *text, size_t bytes, const char *source, char separator);
void pw_csv_close(struct pw_csv *c); /* fine on a zeroed struct */
/* The next row into c->cells; *more = false at the end. After an error the next call goes on with the line after the one
 * on which the faulty row began, so that a caller may report it and keep the rest. */
int pw_csv_next(struct pw_csv *c, bool *more);
/* Reads the first row as names. Empty or repeated names and a file without any row are errors. */
int pw_csv_header(struct pw_csv *c);
int pw_csv_column(const struct pw_csv *c, const char *name); /* index, or -1 */
/* Appends one cell, quoted where it must be. */
void pw_csv_add_cell(struct pw_buf *out, const char *s, size_t len, bool first);
#endif
