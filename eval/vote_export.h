/* Publishing a ledger and checking what was published.
 *
 * The folder: ballots.csv (one row a record; `receipt` = RECORD:HASH), records.jsonl (the records' exact bytes, so that anyone can
 * recompute the chain), contest.yaml, contest.json (the exact bytes under the genesis hash), proof.json. With a key file voters are
 * SHA-256(key + "\n" + voter), 32 hex digits, and records and receipts are left out: they would give guessed names away. */
#ifndef PW_EVAL_VOTE_EXPORT_H
#define PW_EVAL_VOTE_EXPORT_H
#include "eval/contest.h"
#include "eval/ledger.h"
int pw_vote_export(struct pw_ledger *l, const struct pw_contest *c, const char *dir, const char *key_file, bool force);
/* Row i must be record i in every column that a ballot has; the first difference is named with its line. */
int pw_vote_verify_csv(struct pw_ledger *l, const struct pw_contest *c, const char *csv, const char *key_file);
int pw_vote_verify_receipt(struct pw_ledger *l, const char *receipt, int64_t *record); /* RECORD:HASH, or HASH */
#endif
