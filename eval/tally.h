/* The count: every ballot of a ledger, by voter and entry, under the contest's rules of repeats, negatives and budget.
 *
 * coins    a cell (voter, entry) holds what the voter gave in all (repeat: add) or last (repeat: replace); under
 *          negative: zero each negative ballot counts as 0.
 * price    a cell costs |coins|, or coins squared under cost: quadratic; coins staked in a pair ballot cost likewise.
 *          A voter's prices sum up against the budget.
 * pairs    under repeat: replace a voter's later ballot on the same two entries and the same prompt takes the earlier's place.
 * ids      a repeated id of a voter on the same entry (or pair) with the same content counts once; with other content it is
 *          an error.
 * Ranking reads the arrays below; nothing here knows how. */
#ifndef PW_EVAL_TALLY_H
#define PW_EVAL_TALLY_H

#include "eval/ballots.h"
#include "eval/ledger.h"

struct pw_cell { int64_t voter, entry, coins, votes; };     /* votes: ballots with other than zero counted coins */
struct pw_pair { int64_t voter, left, right, coins; enum pw_choice choice; bool has_coins; };
struct pw_rating { int64_t voter, entry; double rating; };

struct pw_tally {
    const struct pw_contest *contest;   /* not owned */
    struct pw_names voters, cell_index, pair_index, rating_index, ids;
    __int128 *spent;                    /* per voter */
    int64_t cap_spent;
    struct pw_cell *cells;
    int64_t n_cells, cap_cells;
    struct pw_pair *pairs;
    int64_t n_pairs, cap_pairs;
    struct pw_rating *ratings;
    int64_t n_ratings, cap_ratings;
    uint64_t *id_content;               /* per id: hash of the ballot's content */
    int64_t cap_ids;
    int64_t n_ballots, n_of_kind[PW_BALLOT_KINDS], n_untimed;
    struct pw_buf scratch;
};

void pw_tally_open(struct pw_tally *t, const struct pw_contest *c);
void pw_tally_free(struct pw_tally *t);
/* Would it be accepted? PW_E_FORMAT with the reason (over the budget, an id used for something else) when not.
 * *repeated: its id was counted before with the same content, so adding it would change nothing. Changes nothing. */
int pw_tally_check(struct pw_tally *t, const struct pw_ballot *b, bool *repeated);
int pw_tally_add(struct pw_tally *t, const struct pw_ballot *b);
int pw_tally_load(struct pw_tally *t, struct pw_ledger *l);     /* adds every record */
#endif
