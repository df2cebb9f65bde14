/* Pairwise-bounded quadratic ranking, see rank.h: two voters who agree everywhere add less than two strangers. */
#include "eval/rank.h"

#include <math.h>
#include <stdlib.h>
#include "base/error.h"
#include "base/rng.h"

static const double bound_m = 10; /* M of the formula: where the agreement of two voters begins to count against them */
#define MAX_PAIRS INT64_C(4000000000)

struct root { int64_t voter, entry; double root, share; }; /* share: what the score of the entry loses without this voter */

static int by_entry(const void *a, const void *b)
{
    const struct root *x = a, *y = b;
    return x->entry != y->entry ? (x->entry > y->entry) - (x->entry < y->entry) : (x->voter > y->voter) - (x->voter < y->voter);
}

static int compare_voters(const void *a, const void *b)
{
    const struct root *x = *(struct root *const *)a, *y = *(struct root *const *)b;
    return x->voter != y->voter ? (x->voter > y->voter) - (x->voter < y->voter) : (x->entry > y->entry) - (x->entry < y->entry);
}

struct roots { struct root *items, **of_voter; int64_t n, n_voters, *first, *from; };

static int gather(struct pw_ranking *r, struct roots *s)
{
    const struct pw_tally *t = r->t;
    size_t n = (size_t)t->n_cells + 2;
    s->items = pw_arena_array(r->arena, n, sizeof *s->items);
    s->of_voter = pw_arena_array(r->arena, n, sizeof *s->of_voter);
    s->first = pw_arena_array(r->arena, n, sizeof *s->first);
    s->from = pw_arena_array(r->arena, (size_t)r->n + 2, sizeof *s->from);
    if (!s->items || !s->of_voter || !s->first || !s->from)
        return PW_E_NOMEM;
    for (int64_t i = 0; i < t->n_cells; i++) {
        const struct pw_cell *c = &t->cells[i];
        r->coins[c->entry] += c->coins;
        r->votes[c->entry] += c->votes;
        r->voters[c->entry] += c->votes > 0;
        if (c->coins > 0)
            s->items[s->n++] = (struct root){ c->voter, c->entry, sqrt((double)c->coins), 0 };
    }
    qsort(s->items, (size_t)s->n, sizeof *s->items, by_entry);
    for (int64_t i = 0; i < s->n; i++) {
        s->of_voter[i] = &s->items[i];
        s->from[s->items[i].entry + 1]++;
    }
    for (int64_t e = 0; e < r->n; e++)
        s->from[e + 1] += s->from[e];
    qsort(s->of_voter, (size_t)s->n, sizeof *s->of_voter, compare_voters);
    for (int64_t i = 0; i < s->n; i++)
        if (i == 0 || s->of_voter[i]->voter != s->of_voter[i - 1]->voter)
            s->first[s->n_voters++] = i;
    s->first[s->n_voters] = s->n;
    return 0;
}

/* For each voter: its agreement with every other one, then its shares. */
static int score_voters(struct pw_ranking *r, struct roots *s)
{
    double *agree = pw_arena_array(r->arena, (size_t)r->t->voters.n + 1, sizeof *agree), work = 0;
    if (!agree)
        return PW_E_NOMEM;
    for (int64_t e = 0; e < r->n; e++)
        work += (double)(s->from[e + 1] - s->from[e]) * (double)(s->from[e + 1] - s->from[e]);
    PW_CHECK(work <= (double)MAX_PAIRS, PW_E_UNSUPPORTED, "%g pairs of voters are too many (at most %lld)", work, (long long)MAX_PAIRS);
    for (int64_t v = 0; v < s->n_voters; v++) {
        int64_t self = s->of_voter[s->first[v]]->voter;
        for (int pass = 0; pass < 3; pass++) /* sum up, use, clear */
            for (int64_t i = s->first[v]; i < s->first[v + 1]; i++) {
                struct root *mine = s->of_voter[i];
                for (int64_t j = s->from[mine->entry]; j < s->from[mine->entry + 1]; j++) {
                    const struct root *other = &s->items[j];
                    if (other->voter == self)
                        continue;
                    if (pass == 0)
                        agree[other->voter] += mine->root * other->root;
                    else if (pass == 1)
                        mine->share += bound_m / (bound_m + agree[other->voter]) * 2 * mine->root * other->root;
                    else
                        agree[other->voter] = 0;
                }
            }
    }
    for (int64_t i = 0; i < s->n; i++)
        r->score[s->items[i].entry] += s->items[i].share / 2;
    return 0;
}

/* Leaving voter v out takes exactly its share off (k of other pairs does not change), so the jackknife covariance is that of
 * the shares; a replicate adds each voter's deviation times a normal number. */
static int replicate(struct pw_ranking *r, const struct roots *s)
{
    double *mean = pw_arena_array(r->arena, (size_t)r->n, sizeof *mean), V = (double)s->n_voters, scale = sqrt((V - 1) / V);
    if (!mean)
        return PW_E_NOMEM;
    for (int64_t i = 0; i < s->n; i++)
        mean[s->items[i].entry] += s->items[i].share / V;
    for (int64_t k = 0; k < r->replicates.n_replicates; k++) {
        double *scores = r->replicates.scores + k * r->n, sum = 0;
        struct pw_rng rng = pw_rng_make(r->o->seed, PW_STREAM_BOOTSTRAP | (uint64_t)k << 8);
        for (int64_t e = 0; e < r->n; e++)
            scores[e] = r->score[e];
        for (int64_t v = 0; v < s->n_voters; v++) {
            double z = scale * pw_rng_normal(&rng);
            sum += z;
            for (int64_t i = s->first[v]; i < s->first[v + 1]; i++)
                scores[s->of_voter[i]->entry] += z * s->of_voter[i]->share;
        }
        for (int64_t e = 0; e < r->n; e++)
            scores[e] -= sum * mean[e];
    }
    return 0;
}

int pw_rank_pairwise(struct pw_ranking *r)
{
    struct roots s = { 0 };
    PW_CHECK(r->t->contest->takes[PW_BALLOT_COINS], PW_E_REFUSED, "the contest takes no coins ballots");
    PW_PASS(gather(r, &s));
    PW_PASS(score_voters(r, &s));
    pw_votestat_order(r->score, r->n, r->order);
    r->n_voters = s.n_voters;
    r->has_interval = s.n_voters >= 2;
    r->note = r->has_interval ? "no certificate in coins or voters for this method" : "fewer than two voters: no intervals";
    return r->has_interval ? replicate(r, &s) : 0;
}
