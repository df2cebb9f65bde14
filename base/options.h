/* Command-line options as rows: one parser, help, completion and manual from the same tables.
 *
 * A command is a row of struct pw_command with a table of its options; options common to all commands stand in one shared
 * table. The parser refuses unknown options (naming the nearest right one), missing values, trailing junk and values out
 * of range, naming option and value. "--name=value" and "--name value" are the same; "--" ends options; "-" is an argument. */
#ifndef PW_BASE_OPTIONS_H
#define PW_BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/text.h"

enum pw_opt_type {
    PW_OPT_FLAG,    /* bool */
    PW_OPT_INT,     /* int64_t, [min, max] */
    PW_OPT_REAL,    /* double, [min, max] */
    PW_OPT_STRING,  /* const char * */
    PW_OPT_BYTES,   /* uint64_t, "8GiB" */
    PW_OPT_CHOICE,  /* const char *, one of `choices` separated by '|' */
    PW_OPT_LIST,    /* struct pw_strings, repeatable */
};
struct pw_strings { const char **items; size_t n; };

struct pw_option {
    const char *name;       /* without dashes: "batch-tokens" */
    char letter;            /* 'o', or 0 */
    enum pw_opt_type type;
    size_t offset;          /* of the field in the command's options struct */
    const char *meta;       /* "FILE", "N" */
    const char *choices;    /* for PW_OPT_CHOICE */
    const char *fallback;   /* default as text, parsed like a value; NULL = zero */
    double min, max;        /* for INT and REAL; both 0 = no range */
    const char *help;
};
#define PW_OPTIONS_END { 0 }

struct pw_args { const char **items; size_t n; };  /* what is left after the options */

/* Parses argv[0..argc) by n_tables tables (each ended by a row with a NULL name); table t fills the struct at into[t].
 * Defaults are filled in first. */
int pw_options_parse(const struct pw_option *const *tables, void *const *into, size_t n_tables, int argc, char **argv,
                     struct pw_args *rest);
void pw_options_free(struct pw_args *rest); /* and lists taken from the heap for PW_OPT_LIST live until exit */
/* The help text of one option table: a line an option, wrapped at 100 columns. */
void pw_options_help(const struct pw_option *table, struct pw_buf *out);
#endif
