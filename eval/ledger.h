/* The ledger: an append-only, hash-chained list of records in one SQLite file.
 *
 *   genesis = SHA-256("pw-contest-1\n" + contest)                 contest: the canonical JSON of contest.h
 *   hash(n) = SHA-256(hash(n-1) + "\n" + record n)                hash(0) = genesis; hashes as 64 hex digits
 *   root    = the hash of the last record, or genesis
 * so that anyone can check a record with `printf '%s\n%s' PREVIOUS RECORD | sha256sum`.
 *
 * Triggers refuse UPDATE, DELETE and out-of-order INSERT. Each commit also appends a seal (record count and root), so that
 * records cut off the end are noticed. A transaction is on the disk when pw_ledger_commit returns, and whole or not there
 * at all after a crash. This file knows nothing of what a record says; it is the only one that includes <sqlite3.h>. */
#ifndef PW_EVAL_LEDGER_H
#define PW_EVAL_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pw_ledger;

/* A new file with the contest in it. It appears whole or not at all; an existing one is refused without force. */
int pw_ledger_create(const char *path, const char *contest, size_t bytes, bool force);
/* Before the work that makes a ledger: PW_E_REFUSED when path exists, PW_E_UNSUPPORTED for a server's address. */
int pw_ledger_check_path(const char *path, bool force);
int pw_ledger_open(struct pw_ledger **out, const char *path);
void pw_ledger_close(struct pw_ledger *l); /* rolls an open transaction back; NULL is fine */

const char *pw_ledger_path(const struct pw_ledger *l);
const char *pw_ledger_contest(const struct pw_ledger *l);  /* canonical JSON */
int64_t pw_ledger_count(const struct pw_ledger *l);
const char *pw_ledger_root(const struct pw_ledger *l);     /* 64 hex digits */
const char *pw_ledger_genesis(const struct pw_ledger *l);

/* One writer at a time: begin waits up to 10 s for another. What was read before begin may be out of date after it. */
int pw_ledger_begin(struct pw_ledger *l);
int pw_ledger_append(struct pw_ledger *l, const char *record, size_t bytes, char hash[65]); /* hash may be NULL */
int pw_ledger_commit(struct pw_ledger *l);
void pw_ledger_rollback(struct pw_ledger *l);

/* Calls fn for every record in order. A negative return of fn ends the walk and is passed on. */
struct pw_record { int64_t n; const char *body; size_t bytes; const char *hash; };
int pw_ledger_each(struct pw_ledger *l, int (*fn)(void *context, const struct pw_record *r), void *context);

/* Recomputes everything: tables and triggers are those of a new ledger, SQLite's own check, genesis, every record's hash,
 * every seal. The first place that differs is named (PW_E_FORMAT). */
int pw_ledger_verify(struct pw_ledger *l);
/* hash(n) of a record from the previous hash. */
void pw_ledger_hash(const char *previous, const char *record, size_t bytes, char hash[65]);
void pw_ledger_hash_contest(const char *contest, size_t bytes, char hash[65]);
#endif
