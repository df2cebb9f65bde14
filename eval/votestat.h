/* What a ranking can claim: intervals, chance to belong to the top, sets that cannot be told apart, chance that the top is
 * right. All of it from replicates: the scores as they could have come out with other voters. Knows no method and no ballot. */
#ifndef PW_EVAL_VOTESTAT_H
#define PW_EVAL_VOTESTAT_H

#include <stdbool.h>
#include <stdint.h>
#include "base/memory.h"

/* Scores of n entries in R replicates, row by row. */
struct pw_replicates { double *scores; /* (R, n) */ int64_t n_replicates, n; };

/* Order by score, highest first; equal scores in index order. order: n indices. */
void pw_votestat_order(const double *scores, int64_t n, int64_t *order);
/* Competition ranks: equal scores share one, the next is 1 + the number above it. */
void pw_votestat_ranks(const double *scores, const int64_t *order, int64_t n, int64_t *ranks);
/* Percentile interval of 95 % for every entry. */
int pw_votestat_intervals(const struct pw_replicates *r, double *low, double *high);
/* Share of the replicates in which an entry is among the first `top`; entries that tie for the last places share them. */
int pw_votestat_p_top(const struct pw_replicates *r, int64_t top, double *p_top);
/* Chance that a replicate has the same first `top` entries as `order`, ties decided by lot. */
int pw_votestat_p_same(const struct pw_replicates *r, const int64_t *order, int64_t top, double *p);
/* Longest runs of the order in which no two entries can be told apart: a pair can when the 95 % interval of its difference
 * leaves zero out. Runs of one are left out; runs may overlap. Each is [from, to] in places of the order; owned by the arena. */
struct pw_tie_run { int64_t from, to; };
int pw_votestat_tie_runs(const struct pw_replicates *r, const int64_t *order, struct pw_arena *a, struct pw_tie_run **runs, int64_t *n_runs);
/* 97.5 % point of Student's t with df degrees of freedom, to 0.002 or better. */
double pw_votestat_t975(int64_t df);
#endif
