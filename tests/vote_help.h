/* What the tests of the coin vote share: a ledger from texts, one line a step. */
#ifndef PW_TESTS_VOTE_HELP_H
#define PW_TESTS_VOTE_HELP_H

#include "eval/ballot_import.h"
#include "eval/rank.h"

struct vote_box { struct pw_contest contest; struct pw_ledger *ledger; struct pw_import_report report; struct pw_tally tally; struct pw_rank rank; };
/* A new ledger at path with the contest of this YAML text. */
void vote_open(struct vote_box *b, const char *path, const char *contest_yaml);
void vote_reopen(struct vote_box *b, const char *path); /* an existing ledger */
/* Imports a text; source chooses nothing but the name in messages. map: YAML or NULL. */
void vote_import(struct vote_box *b, const char *text, const char *source, const char *map_yaml);
void vote_import_path(struct vote_box *b, const char *path, const char *map_yaml);
void vote_rank(struct vote_box *b, const char *method, int64_t top);
/* The row of an entry in the last ranking. */
const struct pw_rank_row *vote_row(const struct vote_box *b, const char *entry);
void vote_close(struct vote_box *b);
#endif
