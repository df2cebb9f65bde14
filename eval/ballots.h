/* One ballot: its fields, the rules that make it valid in a contest, and its text in the ledger.
 *
 * A record is one line of JSON in fixed order:
 *   {"n":1,"kind":"coins","voter":"v","entry":"e","coins":3,"time":"…","id":"…","more":{…}}
 *   {"n":2,"kind":"pairs","voter":"v","left":"a","right":"b","choice":"left","coins":1,"prompt":"…","time":"…","id":"…","more":{…}}
 *   {"n":3,"kind":"ratings","voter":"v","entry":"e","rating":4.5,…}
 * Fields that a ballot does not have are left out; `more` holds the further columns of the file it came from. Values are
 * kept as they were written (a negative coin too, where the contest counts it as zero); counting is tally.h. */
#ifndef PW_EVAL_BALLOTS_H
#define PW_EVAL_BALLOTS_H

#include "eval/contest.h"

enum pw_choice { PW_CHOICE_LEFT, PW_CHOICE_RIGHT, PW_CHOICE_TIE, PW_CHOICE_NEITHER, PW_CHOICES };
extern const char *const pw_choice_names[PW_CHOICES];
#define PW_COINS_MAX INT64_C(1000000000) /* of one ballot; keeps every sum and square far inside 128 bits */

/* A further column: text, or a JSON value when the file was JSON. */
struct pw_more { const char *key; size_t key_len; const char *text; size_t text_len; const struct pw_value *value; };

struct pw_ballot {
    enum pw_ballot_kind kind;
    const char *voter;
    size_t voter_len;
    int64_t entry, right;       /* of the contest; entry is `left` in pairs, right -1 elsewhere */
    enum pw_choice choice;      /* pairs */
    bool has_coins;             /* always in coins, may be in pairs */
    int64_t coins;
    double rating;              /* ratings */
    const char *time, *id, *prompt; /* as written, or NULL */
    int64_t time_ms;
    const struct pw_more *more;
    size_t n_more;
};

/* A ballot as words of a file; NULL: the file does not have it. */
struct pw_ballot_words { const char *voter, *entry, *left, *right, *choice, *coins, *rating, *time, *id, *prompt; };
/* Checks everything that can be said of one ballot alone: names, numbers, times, kinds. Texts are not copied. The error
 * says why in one line, without file and place. */
int pw_ballot_from_words(struct pw_ballot *b, const struct pw_contest *c, enum pw_ballot_kind kind, const struct pw_ballot_words *w);
int pw_ballot_encode(const struct pw_ballot *b, const struct pw_contest *c, int64_t n, struct pw_buf *out); /* replaces out */
/* Texts of the ballot live in the arena. `where` names the ledger. */
int pw_ballot_decode(struct pw_ballot *b, const struct pw_contest *c, const char *record, size_t bytes, struct pw_arena *a,
                     const char *where, int64_t n);
#endif
