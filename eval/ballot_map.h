/* The map of a ballot file: which column of somebody else's file is which field of a ballot. A YAML file, all keys optional:
 *
 *   kind: coins | pairs | ratings         default: seen from the columns
 *   voter: COLUMN                         likewise entry, coins, left, right, choice, rating, time, id, prompt;
 *   choice: {column: C, values: {"1": left, "2": right, "0": tie}}      with a table of what the words of the file mean
 *   wide: {COLUMN: ENTRY, …}              coins, ratings: each of these columns is a ballot on that entry; a blank is none
 *   voters: {COLUMN: VOTER, …}            each of these columns is that voter's choice, coins or rating; a blank is none
 *   split: {column: C, separator: "_"}    pairs: column C names both entries, left first
 *   keep: all | none | [COLUMN, …]        which further columns are kept in the record; default all
 * A field that the map does not name is looked for under its own name. */
#ifndef PW_EVAL_BALLOT_MAP_H
#define PW_EVAL_BALLOT_MAP_H

#include "eval/contest.h"

enum pw_ballot_field { PW_FIELD_VOTER, PW_FIELD_ENTRY, PW_FIELD_COINS, PW_FIELD_LEFT, PW_FIELD_RIGHT, PW_FIELD_CHOICE, PW_FIELD_RATING,
                       PW_FIELD_TIME, PW_FIELD_ID, PW_FIELD_PROMPT, PW_FIELDS };
extern const char *const pw_ballot_field_names[PW_FIELDS];

struct pw_map_pair { const char *from, *to; };
struct pw_map_table { struct pw_map_pair *items; size_t n; };
struct pw_ballot_map {
    struct pw_arena arena;
    const char *source;
    int kind;                               /* enum pw_ballot_kind, or -1 */
    const char *column[PW_FIELDS];          /* the field's own name when the map is silent */
    bool given[PW_FIELDS];
    struct pw_map_table values[PW_FIELDS];
    struct pw_map_table wide, voters;       /* column -> entry, column -> voter */
    const char *split_column, *split_separator;
    bool keep_all;
    const char **keep;
    size_t n_keep;
};
int pw_ballot_map_default(struct pw_ballot_map *m);
int pw_ballot_map_load(struct pw_ballot_map *m, const char *path);
int pw_ballot_map_parse(struct pw_ballot_map *m, const char *yaml, size_t bytes, const char *source);
void pw_ballot_map_free(struct pw_ballot_map *m);
/* The field's word for what the file says; NULL when the table has no row for it. */
const char *pw_ballot_map_word(const struct pw_ballot_map *m, enum pw_ballot_field f, const char *text);
/* Is this column a field, so that it is not kept as a further one? */
bool pw_ballot_map_uses(const struct pw_ballot_map *m, const char *column);
bool pw_ballot_map_keeps(const struct pw_ballot_map *m, const char *column);
#endif
