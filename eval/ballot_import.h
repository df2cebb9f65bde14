/* Ballot files into a ledger: CSV with a header row, JSONL, or a JSON list of objects, as ballots.h and a map read them.
 *
 * A ballot that cannot be accepted is reported with its line and reason, and the rest is imported; a file that is none of
 * these, or whose header lacks a column, is an error. One import is one transaction: all of it is in the ledger or nothing. */
#ifndef PW_EVAL_BALLOT_IMPORT_H
#define PW_EVAL_BALLOT_IMPORT_H

#include "base/progress.h"
#include "eval/ballot_map.h"
#include "eval/tally.h"

struct pw_rejected { int64_t line; const char *why; };
struct pw_import_report {
    struct pw_arena arena;
    int64_t accepted;       /* records written */
    int64_t repeated;       /* ids seen before with the same content: neither written nor rejected */
    int64_t untimed;        /* accepted without a time although the contest has opens or closes */
    struct pw_rejected *rejected;
    int64_t n_rejected, cap_rejected;
};
struct pw_import {
    const struct pw_ballot_map *map;    /* NULL = the contract's own column names */
    struct pw_progress *progress;       /* may be NULL */
    bool (*stop)(void);                 /* may be NULL; asked now and then, true ends the import with nothing written */
};
int pw_import_file(struct pw_ledger *l, const struct pw_contest *c, const char *path, const struct pw_import *how,
                   struct pw_import_report *report);
int pw_import_text(struct pw_ledger *l, const struct pw_contest *c, const char *text, size_t bytes, const char *source,
                   const struct pw_import *how, struct pw_import_report *report);
void pw_import_report_free(struct pw_import_report *r);
#endif
