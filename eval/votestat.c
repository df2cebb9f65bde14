/* Statistics of rankings from replicates, see votestat.h. Pure functions of numbers. */
#include "eval/votestat.h"

#include <stdlib.h>
#include <string.h>
#include "base/error.h"

struct scored { double score; int64_t index; };

static int by_score(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

void pw_votestat_order(const double *scores, int64_t n, int64_t *order)
{
    struct scored *s = pw_alloc((size_t)n * sizeof *s);
    if (!s) { /* slower, but needs nothing: an order must not fail */
        for (int64_t i = 0; i < n; i++) {
            int64_t at = i;
            for (; at > 0 && scores[order[at - 1]] < scores[i]; at--)
                order[at] = order[at - 1];
            order[at] = i;
        }
        return;
    }
    for (int64_t i = 0; i < n; i++)
        s[i] = (struct scored){ scores[i], i };
    qsort(s, (size_t)n, sizeof *s, by_score);
    for (int64_t i = 0; i < n; i++)
        order[i] = s[i].index;
    pw_free(s);
}

void pw_votestat_ranks(const double *scores, const int64_t *order, int64_t n, int64_t *ranks)
{
    for (int64_t i = 0; i < n; i++)
        ranks[order[i]] = i > 0 && scores[order[i]] == scores[order[i - 1]] ? ranks[order[i - 1]] : i + 1;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The p quantile of sorted values, linear between neighbours. */
static double quantile(const double *sorted, int64_t n, double p)
{
    double at = p * (double)(n - 1);
    int64_t i = (int64_t)at;
    if (i + 1 >= n)
        return sorted[n - 1];
    return sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]);
}

int pw_votestat_intervals(const struct pw_replicates *r, double *low, double *high)
{
    double *column = pw_alloc((size_t)r->n_replicates * sizeof *column);
    PW_CHECK(column, PW_E_NOMEM, "no memory for %lld replicates", (long long)r->n_replicates);
    for (int64_t i = 0; i < r->n; i++) {
        for (int64_t k = 0; k < r->n_replicates; k++)
            column[k] = r->scores[k * r->n + i];
        qsort(column, (size_t)r->n_replicates, sizeof *column, ascending);
        low[i] = quantile(column, r->n_replicates, 0.025);
        high[i] = quantile(column, r->n_replicates, 0.975);
    }
    pw_free(column);
    return 0;
}

/* The score of place `top`, how many lie above it, and how many have it. */
static void find_boundary(const double *scores, int64_t n, int64_t top, double *sorted, double *edge, int64_t *above, int64_t *equal)
{
    memcpy(sorted, scores, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, ascending);
    *edge = sorted[n - top];
    *above = *equal = 0;
    for (int64_t i = 0; i < n; i++) {
        *above += scores[i] > *edge;
        *equal += scores[i] == *edge;
    }
}

int pw_votestat_p_top(const struct pw_replicates *r, int64_t top, double *p_top)
{
    memset(p_top, 0, (size_t)r->n * sizeof *p_top);
    if (top >= r->n) {
        for (int64_t i = 0; i < r->n; i++)
            p_top[i] = 1;
        return 0;
    }
    double *sorted = pw_alloc((size_t)r->n * sizeof *sorted), edge;
    int64_t above, equal;
    PW_CHECK(sorted, PW_E_NOMEM, "no memory for %lld entries", (long long)r->n);
    for (int64_t k = 0; k < r->n_replicates; k++) {
        const double *s = r->scores + k * r->n;
        find_boundary(s, r->n, top, sorted, &edge, &above, &equal);
        double share = (double)(top - above) / (double)equal;
        for (int64_t i = 0; i < r->n; i++)
            p_top[i] += s[i] > edge ? 1 : s[i] == edge ? share : 0;
    }
    for (int64_t i = 0; i < r->n; i++)
        p_top[i] /= (double)r->n_replicates;
    pw_free(sorted);
    return 0;
}

int pw_votestat_p_same(const struct pw_replicates *r, const int64_t *order, int64_t top, double *p)
{
    double *sorted = pw_alloc((size_t)r->n * sizeof *sorted), edge, sum = 0;
    int64_t above, equal;
    PW_CHECK(sorted, PW_E_NOMEM, "no memory for %lld entries", (long long)r->n);
    for (int64_t k = 0; k < r->n_replicates; k++) {
        const double *s = r->scores + k * r->n;
        int64_t inside_equal = 0;
        bool same = true;
        find_boundary(s, r->n, top, sorted, &edge, &above, &equal);
        for (int64_t i = 0; i < r->n; i++) {
            double x = s[order[i]];
            if (i < top) {
                same = same && x >= edge;
                inside_equal += x == edge;
            } else {
                same = same && x <= edge;
            }
        }
        if (!same || inside_equal != top - above)
            continue;
        double chance = 1; /* 1 / (equal choose inside_equal) */
        for (int64_t i = 1; i <= inside_equal; i++)
            chance *= (double)i / (double)(equal - inside_equal + i);
        sum += chance;
    }
    *p = sum / (double)r->n_replicates;
    pw_free(sorted);
    return 0;
}

static bool can_be_told_apart(const struct pw_replicates *r, int64_t better, int64_t worse)
{
    int64_t against = 0;
    for (int64_t k = 0; k < r->n_replicates; k++)
        against += !(r->scores[k * r->n + better] > r->scores[k * r->n + worse]);
    return (double)against < 0.025 * (double)r->n_replicates;
}

int pw_votestat_tie_runs(const struct pw_replicates *r, const int64_t *order, struct pw_arena *a, struct pw_tie_run **runs, int64_t *n_runs)
{
    *n_runs = 0;
    *runs = pw_arena_array(a, (size_t)(r->n ? r->n : 1), sizeof **runs);
    if (!*runs)
        return PW_E_NOMEM;
    int64_t end = 0; /* last place of the longest run so far */
    for (int64_t from = 0; from < r->n; from++) {
        int64_t to = end > from ? end : from;
        /* [from, end] is part of the run before, so only new members need comparing with all of [from, to]. */
        for (bool joins = true; joins && to + 1 < r->n; ) {
            for (int64_t i = to; joins && i >= from; i--)
                joins = !can_be_told_apart(r, order[i], order[to + 1]);
            to += joins;
        }
        if (to > from && (to > end || *n_runs == 0))
            (*runs)[(*n_runs)++] = (struct pw_tie_run){ from, to };
        end = to > end ? to : end;
    }
    return 0;
}

double pw_votestat_t975(int64_t df)
{
    static const double small[] = { 0, 12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622 };
    if (df < 1)
        return 0;
    if (df < (int64_t)(sizeof small / sizeof small[0]))
        return small[df];
    const double z = 1.959963984540054, n = (double)df, z3 = z * z * z, z5 = z3 * z * z;
    return z + (z3 + z) / (4 * n) + (5 * z5 + 16 * z3 + 3 * z) / (96 * n * n);
}
