/* Rankings that are sums over voters: coins and quadratic, see rank.h. Scores, bootstrap over voters, and the exact smallest
 * changes of the top. Knows nothing of files or of other methods. */
#include "eval/rank.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "base/rng.h"

#define EXACT_MAX INT64_C(9007199254740992) /* 2^53: integers up to here are doubles */

/* One voter's weight on one entry. by_voter: sorted by voter, from first[v] to first[v + 1]. */
struct gift { int64_t voter, entry; double value; };
struct sums { int64_t n_voters, n_gifts; struct gift *gifts; int64_t *first; };

static int by_voter(const void *a, const void *b)
{
    const struct gift *x = a, *y = b;
    return x->voter != y->voter ? (x->voter > y->voter) - (x->voter < y->voter) : (x->entry > y->entry) - (x->entry < y->entry);
}

static int by_entry(const void *a, const void *b)
{
    const struct gift *x = a, *y = b;
    return x->entry != y->entry ? (x->entry > y->entry) - (x->entry < y->entry) : (x->voter > y->voter) - (x->voter < y->voter);
}

/* Numbers the voters that gave a coin ballot from 0, and sums the totals up. */
static int gather(struct pw_ranking *r, struct sums *s, bool quadratic)
{
    const struct pw_tally *t = r->t;
    int64_t n = t->n_cells;
    s->gifts = pw_arena_array(r->arena, (size_t)n + 1, sizeof *s->gifts);
    s->first = pw_arena_array(r->arena, (size_t)n + 2, sizeof *s->first);
    if (!s->gifts || !s->first)
        return PW_E_NOMEM;
    for (int64_t i = 0; i < n; i++) {
        const struct pw_cell *c = &t->cells[i];
        double value = !quadratic ? (double)c->coins : c->coins < 0 ? -sqrt((double)-c->coins) : sqrt((double)c->coins);
        PW_CHECK(!__builtin_add_overflow(r->coins[c->entry], c->coins, &r->coins[c->entry]) && r->coins[c->entry] <= EXACT_MAX
                 && r->coins[c->entry] >= -EXACT_MAX, PW_E_NUMERIC, "the coins on '%s' sum up to more than 2^53",
                 pw_contest_entry(t->contest, c->entry));
        r->votes[c->entry] += c->votes;
        r->voters[c->entry] += c->votes > 0;
        s->gifts[i] = (struct gift){ c->voter, c->entry, value };
    }
    qsort(s->gifts, (size_t)n, sizeof *s->gifts, by_voter);
    s->n_gifts = n;
    for (int64_t i = 0; i < n; i++) {
        if (i == 0 || s->gifts[i].voter != s->gifts[i - 1].voter)
            s->first[s->n_voters++] = i;
        r->score[s->gifts[i].entry] += s->gifts[i].value;
    }
    s->first[s->n_voters] = n;
    return 0;
}

static void bootstrap(struct pw_ranking *r, const struct sums *s)
{
    for (int64_t k = 0; k < r->replicates.n_replicates; k++) {
        double *scores = r->replicates.scores + k * r->n;
        struct pw_rng rng = pw_rng_make(r->o->seed, PW_STREAM_BOOTSTRAP | (uint64_t)k << 8);
        for (int64_t i = 0; i < s->n_voters; i++) {
            int64_t v = (int64_t)pw_rng_below(&rng, (uint64_t)s->n_voters);
            for (int64_t j = s->first[v]; j < s->first[v + 1]; j++)
                scores[s->gifts[j].entry] += s->gifts[j].value;
        }
    }
}

static int descending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* Fewest voters whose leaving puts `out` strictly ahead of `in`: each takes (what it gave to in) - (to out) off the gap, and
 * the largest first is best. -1: no set of voters does. scratch: room for both entries' voters. */
static int64_t voters_between(const struct gift *in, int64_t n_in, const struct gift *out, int64_t n_out, double gap, double *scratch)
{
    int64_t n = 0;
    for (int64_t i = 0, j = 0; i < n_in || j < n_out;) {
        bool take_in = j == n_out || (i < n_in && in[i].voter <= out[j].voter);
        bool take_out = i == n_in || (j < n_out && out[j].voter <= in[i].voter);
        double off = (take_in ? in[i].value : 0) - (take_out ? out[j].value : 0);
        i += take_in;
        j += take_out;
        if (off > 0)
            scratch[n++] = off;
    }
    qsort(scratch, (size_t)n, sizeof *scratch, descending);
    double taken = 0;
    for (int64_t k = 0; k < n; k++) {
        taken += scratch[k];
        /* With integers this is exact; sums of square roots that should be equal may differ in the last bits, and equality is
         * not "ahead", so they must differ by more than that. */
        if (taken - gap > 1e-9 * (1 + gap))
            return k + 1;
    }
    return -1;
}

static int find_changes(struct pw_ranking *r, struct sums *s)
{
    double gap = r->score[r->order[r->top - 1]] - r->score[r->order[r->top]];
    double *scratch = pw_arena_array(r->arena, (size_t)s->n_gifts + 1, sizeof *scratch);
    int64_t *from = pw_arena_array(r->arena, (size_t)r->n + 1, sizeof *from), best = -1;
    if (!scratch || !from)
        return PW_E_NOMEM;
    /* One coin changes the difference of two entries by one at most (under quadratic: by one when it is a voter's only coin). */
    r->coins_to_change = (int64_t)floor(gap + 1e-9) + 1;
    qsort(s->gifts, (size_t)s->n_gifts, sizeof *s->gifts, by_entry);
    for (int64_t i = 0; i < s->n_gifts; i++)
        from[s->gifts[i].entry + 1]++;
    for (int64_t e = 0; e < r->n; e++)
        from[e + 1] += from[e];
    double *most = pw_arena_array(r->arena, (size_t)r->n, sizeof *most), *least = pw_arena_array(r->arena, (size_t)r->n, sizeof *least);
    if (!most || !least)
        return PW_E_NOMEM;
    for (int64_t i = 0; i < s->n_gifts; i++) {
        const struct gift *g = &s->gifts[i];
        most[g->entry] = g->value > most[g->entry] ? g->value : most[g->entry];
        least[g->entry] = g->value < least[g->entry] ? g->value : least[g->entry];
    }
    /* Nearest pairs first; a pair whose gap cannot be closed by fewer voters than the best so far is passed over. */
    for (int64_t i = r->top - 1; i >= 0; i--) {
        for (int64_t j = r->top; j < r->n; j++) {
            int64_t in = r->order[i], out = r->order[j];
            double apart = r->score[in] - r->score[out], step = most[in] - least[out];
            if (!(step > 0) || (best > 0 && apart >= step * (double)(best - 1)))
                continue;
            int64_t k = voters_between(s->gifts + from[in], from[in + 1] - from[in], s->gifts + from[out], from[out + 1] - from[out], apart,
                                       scratch);
            if (k > 0 && (best < 0 || k < best))
                best = k;
        }
    }
    r->voters_to_change = best;
    r->changes_exact = true;
    return 0;
}

static int rank_sums(struct pw_ranking *r, bool quadratic)
{
    struct sums s = { 0 };
    PW_CHECK(r->t->contest->takes[PW_BALLOT_COINS], PW_E_REFUSED, "the contest takes no coins ballots");
    PW_PASS(gather(r, &s, quadratic));
    pw_votestat_order(r->score, r->n, r->order);
    r->n_voters = s.n_voters;
    r->has_interval = s.n_voters >= 2;
    if (r->has_interval)
        bootstrap(r, &s);
    else
        r->note = "fewer than two voters: no intervals";
    return r->top > 0 ? find_changes(r, &s) : 0;
}

int pw_rank_coins(struct pw_ranking *r)
{
    return rank_sums(r, false);
}

int pw_rank_quadratic(struct pw_ranking *r)
{
    return rank_sums(r, true);
}
