/* Rows of a data file, one at a time, each with the line it begins on: JSON Lines, a JSON list, a JSON object of objects (each value
 * a row, its key added as "_key"), CSV and TSV with a header. Which of these a file is, its first bytes and its name's ending say.
 * Knows nothing of what the keys mean. */
#ifndef PW_DATA_ROW_READER_H
#define PW_DATA_ROW_READER_H

#include "base/file.h"
#include "base/value.h"
#include "data/csv.h"

enum pw_row_kind { PW_ROWS_LINES, PW_ROWS_LIST, PW_ROWS_OBJECT, PW_ROWS_CSV };
struct pw_row_reader {
    enum pw_row_kind kind;
    struct pw_map map;
    const char *path, *text;
    size_t bytes, at;
    int64_t line;          /* of text[at] */
    bool first, ended;
    struct pw_csv csv;
    struct pw_buf name;    /* "path:line", the source in errors */
};
int pw_rows_open(struct pw_row_reader *r, const char *path);
/* The next row (always a map) in the arena; *row = NULL at the end. After an error the next call goes on with the next row,
 * unless the file as a whole cannot be followed any more: then the call after it says the end. *line is set also with an error. */
int pw_rows_next(struct pw_row_reader *r, struct pw_arena *a, struct pw_value **row, int64_t *line);
void pw_rows_close(struct pw_row_reader *r);
#endif
