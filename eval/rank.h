/* Rankings of a contest from its tally: one struct of results, one function per method, one table of methods.
 *
 * coins        score = coins counted, in exact integers
 * quadratic    score = sum over voters of sign * sqrt(|coins|), coins being what the voter gave the entry in all, as written in
 *              the ballots (under cost: quadratic that number is votes, and the square root is of votes)
 *              Both: intervals, p_top and probability from a bootstrap over voters (they are drawn, with all their ballots).
 *              coins_to_change: fewest single coins, added or taken away, after which an entry outside the top is strictly
 *              ahead of one inside; under quadratic each by a voter of its own. voters_to_change: fewest voters to leave out
 *              for the same. Both exact.
 * pairwise-quadratic  score = sum over pairs of voters of k * 2 sqrt(c_i c_j), k = M / (M + sum over entries of sqrt(c_i c_j)),
 *              M = 10: voters who move together count less. Intervals from the jackknife over voters. Negative coins count as 0.
 * bt           score = log-strength (natural logarithm, mean 0) of Bradley-Terry with Davidson's ties, maximum likelihood:
 *              P(left) : P(right) : P(tie) = e^(d/2) : e^(-d/2) : nu, d the difference of log-strengths. `neither` is a tie. A
 *              ballot weighs as many as the coins staked on it, or 1 without. Intervals: sandwich clustered by voter with
 *              Student's t at (voters - 1). coins_to_change, voters_to_change: found greedily by influence and proved by fitting
 *              again, so never too small a claim of "this many suffice" but perhaps not the fewest.
 * top: the first N places; when N is not smaller than the number of entries the certificate speaks of place 1, and says so. */
#ifndef PW_EVAL_RANK_H
#define PW_EVAL_RANK_H

#include "eval/tally.h"
#include "eval/votestat.h"

struct pw_rank_options {
    const char *method;     /* NULL: coins when the contest takes them, else bt */
    int64_t top;            /* 10 */
    uint64_t seed;
    int64_t replicates;     /* 1000 */
    double prior;           /* bt: standard deviation of a normal prior on log-strengths; 0 = none */
};
struct pw_rank_row { int64_t entry, rank; double score, low, high, p_top; int64_t coins, votes, voters; };
struct pw_tie_set { int64_t *entries; int64_t n; };
struct pw_rank {
    struct pw_arena arena;
    const char *method;
    struct pw_rank_row *rows;       /* best first */
    int64_t n;
    bool has_interval;              /* false with fewer than two voters: nothing is known of the spread */
    struct pw_tie_set *tie_sets;
    int64_t n_tie_sets;
    int64_t certificate_top, coins_to_change, voters_to_change; /* -1: no number of them would */
    bool changes_exact;
    double probability;             /* that the top is right; 0 without intervals */
    int64_t n_voters;
    double tie_strength;            /* bt: nu; 0 elsewhere */
    const char *note;               /* NULL, or what the reader must know */
};
int pw_rank_run(struct pw_rank *out, const struct pw_tally *t, const struct pw_rank_options *o);
void pw_rank_free(struct pw_rank *r);

/* ---- between the methods and rank.c ----------------------------------------------------------------------------------- */
/* What a method fills in: per entry in contest order, all arrays in the arena of the rank. */
struct pw_ranking {
    const struct pw_tally *t;
    const struct pw_rank_options *o;
    struct pw_arena *arena;
    int64_t n, top;                 /* entries; places that the certificate speaks of (top < n; 0 when n == 1) */
    double *score, *low, *high;
    int64_t *coins, *votes, *voters, *order;
    struct pw_replicates replicates;/* allocated by rank.c, filled by the method when has_interval */
    bool has_interval, has_bounds;  /* has_bounds: the method filled low and high itself */
    int64_t n_voters, coins_to_change, voters_to_change;
    bool changes_exact;
    double tie_strength;
    const char *note;
};
int pw_rank_coins(struct pw_ranking *r);
int pw_rank_quadratic(struct pw_ranking *r);
int pw_rank_pairwise(struct pw_ranking *r);
int pw_rank_bt(struct pw_ranking *r);
#endif
