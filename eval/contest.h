/* A contest: who stands, which ballots are taken, what they may cost. Read from YAML, kept in the ledger as canonical JSON.
 *
 *   name: Spring contest            default "contest"
 *   entries: [a, b, c]              required; the only names a ballot may give
 *   ballots: [coins]                coins | pairs | ratings, one or more; default [coins]
 *   budget: 100                     coins a voter may spend in all; null (default) = no limit
 *   cost: linear                    linear: n coins cost n. quadratic: the number in a ballot is votes, and n votes cost n*n
 *   negative: reject                reject | zero (kept as written, counted as 0) | allow (costs as much as its positive)
 *   repeat: add                     add: a voter's later ballot on the same entry adds to the earlier | replace
 *   opens: 2026-03-01               a ballot's time must lie in [opens, closes]; a closing date without a time of day holds
 *   closes: 2026-03-31T18:00:00Z    until that day ends; times without a zone are UTC
 *   prompts: []                     texts that were shown; kept, not interpreted
 * Unknown keys are refused. This file knows nothing of ballots. */
#ifndef PW_EVAL_CONTEST_H
#define PW_EVAL_CONTEST_H

#include <stdbool.h>
#include <stdint.h>
#include "base/memory.h"
#include "base/value.h"
#include "eval/names.h"

enum pw_ballot_kind { PW_BALLOT_COINS, PW_BALLOT_PAIRS, PW_BALLOT_RATINGS, PW_BALLOT_KINDS };
extern const char *const pw_ballot_kind_names[PW_BALLOT_KINDS];
enum pw_negative { PW_NEGATIVE_REJECT, PW_NEGATIVE_ZERO, PW_NEGATIVE_ALLOW };
enum { PW_CONTEST_MAX_ENTRIES = 10000, PW_NAME_MAX_BYTES = 1024 };

struct pw_contest {
    struct pw_arena arena;      /* owns every text below */
    const char *name;
    struct pw_names entries;    /* index = place in the contest file */
    bool takes[PW_BALLOT_KINDS];
    bool has_budget, cost_is_quadratic, repeat_replaces;
    int64_t budget;
    enum pw_negative negative;
    const char *opens, *closes; /* as written, or NULL */
    int64_t opens_ms, closes_ms;
    const struct pw_value *prompts; /* a list, or NULL */
};

int pw_contest_load(struct pw_contest *c, const char *path);                   /* YAML file */
int pw_contest_from_value(struct pw_contest *c, const struct pw_value *v, const char *where);
int pw_contest_from_json(struct pw_contest *c, const char *json, size_t bytes, const char *where);
int pw_contest_json(const struct pw_contest *c, struct pw_buf *out);           /* canonical: fixed order, every key, one line */
int pw_contest_yaml(const struct pw_contest *c, struct pw_buf *out);           /* for people; loads back to the same contest */
void pw_contest_free(struct pw_contest *c);
const char *pw_contest_entry(const struct pw_contest *c, int64_t index);
/* The index of an entry, or PW_E_FORMAT "unknown entry 'x' (nearest: 'y')". */
int pw_contest_find(const struct pw_contest *c, const char *s, size_t len, int64_t *index);

/* 2026-03-01, 2026-03-01T12:00[:00[.5]][Z|+01:00] (a space may stand for T), or whole seconds since 1970; to milliseconds
 * since 1970. end_of_day: what a date alone means. 0 or -1, no trail. */
int pw_time_parse(const char *s, bool end_of_day, int64_t *ms);
#endif
