/* Bradley-Terry with Davidson's ties, see rank.h: maximum likelihood by Newton steps, the sandwich clustered by voter, draws
 * for the chance to be in the top, and the search for the smallest change. Knows nothing of files or of other methods.
 *
 * With d = theta_left - theta_right and lambda = ln nu an outcome has probability e^(d/2), e^(-d/2) or e^lambda over their sum: an
 * exponential family, so the likelihood is concave and the Hessian is the covariance of ((left - right)/2, tie). */
#include "eval/rank.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "base/rng.h"

enum { MAX_ENTRIES = 1500, MAX_STEPS = 200, MAX_REFITS = 40, NAMES_SHOWN = 8 };
static const double strength_limit = 40; /* e^40: beyond any ballot box, the likelihood has no maximum */

struct match { int64_t voter, i, j; double y, tie, weight; }; /* y: +1/2 left, -1/2 right, 0 tie */
struct model {
    int64_t n, p, n_matches, n_voters; /* p: n, and one more when there are ties */
    struct match *matches;
    bool has_ties;
    double prior_precision;
    double *theta, *next, *gradient, *step; /* (p) each; theta[n] = lambda */
    double *hessian;                        /* (p, p); after fit its Cholesky factor */
};

/* ---- small dense algebra ----------------------------------------------------------------------------------------------- */
/* A = L L' in the lower triangle. A pivot that is nothing but rounding makes a column of zeros (semidefinite) when `soft`, and is
 * a failure otherwise. */
static bool factor(double *a, int64_t n, bool soft)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        most = a[i * n + i] > most ? a[i * n + i] : most;
    for (int64_t j = 0; j < n; j++) {
        double pivot = a[j * n + j];
        for (int64_t k = 0; k < j; k++)
            pivot -= a[j * n + k] * a[j * n + k];
        bool good = pivot > 1e-13 * most;
        if (!good && !soft)
            return false;
        double root = good ? sqrt(pivot) : 0;
        a[j * n + j] = root;
        for (int64_t i = j + 1; i < n; i++) {
            double x = a[i * n + j];
            for (int64_t k = 0; k < j; k++)
                x -= a[i * n + k] * a[j * n + k];
            a[i * n + j] = good ? x / root : 0;
        }
    }
    return true;
}

static void solve(const double *l, int64_t n, double *x)
{
    for (int64_t i = 0; i < n; i++) {
        for (int64_t k = 0; k < i; k++)
            x[i] -= l[i * n + k] * x[k];
        x[i] /= l[i * n + i];
    }
    for (int64_t i = n - 1; i >= 0; i--) {
        for (int64_t k = i + 1; k < n; k++)
            x[i] -= l[k * n + i] * x[k];
        x[i] /= l[i * n + i];
    }
}

/* ---- the likelihood ---------------------------------------------------------------------------------------------------- */
struct chances { double m, tie, variance, log_sum; }; /* m = mean of y; variance of y */

static struct chances chances_of(const struct model *f, const double *theta, const struct match *x)
{
    double d = theta[x->i] - theta[x->j], lambda = f->has_ties ? theta[f->n] : -INFINITY;
    double top = fabs(d) / 2 > lambda ? fabs(d) / 2 : lambda;
    double a = exp(d / 2 - top), b = exp(-d / 2 - top), c = f->has_ties ? exp(lambda - top) : 0, z = a + b + c;
    struct chances p = { .m = (a - b) / (2 * z), .tie = c / z, .log_sum = top + log(z) };
    p.variance = (a + b) / (4 * z) - p.m * p.m;
    return p;
}

static double log_likelihood(const struct model *f, const double *theta)
{
    double sum = 0;
    for (int64_t k = 0; k < f->n_matches; k++) {
        const struct match *x = &f->matches[k];
        if (x->weight == 0)
            continue;
        struct chances p = chances_of(f, theta, x);
        sum += x->weight * (x->y * (theta[x->i] - theta[x->j]) + (f->has_ties ? x->tie * theta[f->n] : 0) - p.log_sum);
    }
    for (int64_t i = 0; i < f->p; i++)
        sum -= f->prior_precision * theta[i] * theta[i] / 2;
    return sum;
}

static void fill_derivatives(struct model *f)
{
    int64_t n = f->n, p = f->p;
    double trace = 0;
    memset(f->hessian, 0, (size_t)(p * p) * sizeof *f->hessian);
    memset(f->gradient, 0, (size_t)p * sizeof *f->gradient);
    for (int64_t k = 0; k < f->n_matches; k++) {
        const struct match *x = &f->matches[k];
        double w = x->weight;
        struct chances c = chances_of(f, f->theta, x);
        double s = w * (x->y - c.m), v = w * c.variance, cross = -w * c.m * c.tie;
        f->gradient[x->i] += s;
        f->gradient[x->j] -= s;
        f->hessian[x->i * p + x->i] += v;
        f->hessian[x->j * p + x->j] += v;
        f->hessian[x->i * p + x->j] -= v;
        f->hessian[x->j * p + x->i] -= v;
        if (f->has_ties) {
            f->gradient[n] += w * (x->tie - c.tie);
            f->hessian[n * p + n] += w * c.tie * (1 - c.tie);
            f->hessian[n * p + x->i] += cross;
            f->hessian[n * p + x->j] -= cross;
        }
    }
    for (int64_t i = 0; i < p; i++) {
        f->gradient[i] -= f->prior_precision * f->theta[i];
        f->hessian[i * p + i] += f->prior_precision;
        trace += f->hessian[i * p + i];
    }
    /* Strengths are known up to a common shift: hold their sum by filling that direction in; steps never leave sum 0. */
    double hold = trace / (double)p / (double)n;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            f->hessian[i * p + j] += hold;
}

/* 0, or PW_E_NUMERIC when the likelihood has no finite maximum. Leaves the factor of the Hessian at the maximum. */
static int fit(struct model *f)
{
    double now = log_likelihood(f, f->theta);
    for (int step = 0; step < MAX_STEPS; step++) {
        double largest = 0, taken = 1;
        fill_derivatives(f);
        if (!factor(f->hessian, f->p, false))
            break;
        memcpy(f->step, f->gradient, (size_t)f->p * sizeof *f->step);
        solve(f->hessian, f->p, f->step);
        for (int64_t i = 0; i < f->p; i++)
            largest = fabs(f->step[i]) > largest ? fabs(f->step[i]) : largest;
        if (!(largest < INFINITY))
            break;
        if (largest < 1e-11)
            return 0;
        for (;; taken /= 2) { /* the step is one of ascent: halving ends */
            double far = 0;
            for (int64_t i = 0; i < f->p; i++) {
                f->next[i] = f->theta[i] + taken * f->step[i];
                far = fabs(f->next[i]) > far ? fabs(f->next[i]) : far;
            }
            PW_CHECK(far < strength_limit, PW_E_NUMERIC, "the strengths have no finite best values: the ballots can be explained ever better"
                     " by strengths further apart");
            double then = log_likelihood(f, f->next);
            if (then >= now - 1e-12 * fabs(now) || taken < 1e-6) {
                now = then;
                break;
            }
        }
        memcpy(f->theta, f->next, (size_t)f->p * sizeof *f->theta);
        if (largest * taken < 1e-10 && step > 3) {
            fill_derivatives(f);
            if (factor(f->hessian, f->p, false))
                return 0;
        }
    }
    return pw_error(PW_E_NUMERIC, "the strengths did not settle in %d steps", MAX_STEPS);
}

/* ---- is there a maximum at all ------------------------------------------------------------------------------------------ */
/* Marks what is reached from `start` along "was preferred to or tied with" (or its reverse). */
static void reach(const struct model *f, int64_t start, bool reverse, bool either, char *seen)
{
    memset(seen, 0, (size_t)f->n);
    seen[start] = 1;
    for (bool grew = true; grew;) {
        grew = false;
        for (int64_t k = 0; k < f->n_matches; k++) {
            const struct match *x = &f->matches[k];
            bool left_wins = x->y >= 0, right_wins = x->y <= 0;
            if (x->weight == 0)
                continue;
            bool i_to_j = either || (reverse ? right_wins : left_wins), j_to_i = either || (reverse ? left_wins : right_wins);
            if (i_to_j && seen[x->i] && !seen[x->j])
                seen[x->j] = 1, grew = true;
            if (j_to_i && seen[x->j] && !seen[x->i])
                seen[x->i] = 1, grew = true;
        }
    }
}

static void name_set(struct pw_buf *b, const struct pw_contest *c, const char *in, char wanted, int64_t n)
{
    int64_t shown = 0, all = 0;
    pw_buf_char(b, '{');
    for (int64_t i = 0; i < n; i++) {
        if (in[i] != wanted)
            continue;
        if (all++ < NAMES_SHOWN)
            pw_buf_printf(b, "%s%s", shown++ ? ", " : "", pw_contest_entry(c, i));
    }
    if (all > shown)
        pw_buf_printf(b, ", and %lld more", (long long)(all - shown));
    pw_buf_char(b, '}');
}

static int check_connected(const struct model *f, const struct pw_contest *c)
{
    char *seen = pw_alloc((size_t)f->n), *part = pw_alloc((size_t)f->n);
    struct pw_buf text = { 0 };
    int64_t parts = 0;
    int rc = 0;
    PW_CHECK_OUT(seen && part, PW_E_NOMEM, "no memory for %lld entries", (long long)f->n);
    memset(part, 0, (size_t)f->n);
    for (int64_t i = 0; i < f->n; i++) {
        if (part[i])
            continue;
        reach(f, i, false, true, seen);
        if (parts++ < NAMES_SHOWN) {
            pw_buf_str(&text, parts > 1 ? ", " : "");
            name_set(&text, c, seen, 1, f->n);
        }
        for (int64_t j = 0; j < f->n; j++)
            part[j] |= seen[j];
    }
    if (parts > 1) {
        rc = pw_error(PW_E_FAIL, "the pair ballots leave %lld groups of entries that were never compared with each other: %s%s",
                      (long long)parts, text.data ? text.data : "", parts > NAMES_SHOWN ? ", ..." : "");
        goto out;
    }
    for (int reverse = 0; reverse < 2; reverse++) {
        reach(f, 0, reverse, false, seen);
        if (!memchr(seen, 0, (size_t)f->n))
            continue;
        pw_buf_clear(&text);
        name_set(&text, c, seen, reverse ? 1 : 0, f->n);
        pw_buf_str(&text, " was preferred to or tied with any of ");
        name_set(&text, c, seen, reverse ? 0 : 1, f->n);
        rc = pw_error(PW_E_FAIL, "no finite strengths: none of %s", text.data ? text.data : "");
        goto out;
    }
out:
    if (rc == PW_E_FAIL)
        pw_error_hint("--prior 2 adds a normal prior of that standard deviation, under which every contest can be ranked");
    pw_buf_free(&text);
    pw_free(seen);
    pw_free(part);
    return rc;
}

/* ---- from the tally ----------------------------------------------------------------------------------------------------- */
static int match_by_voter(const void *a, const void *b)
{
    const struct match *x = a, *y = b;
    return (x->voter > y->voter) - (x->voter < y->voter);
}

static int gather(struct pw_ranking *r, struct model *f)
{
    const struct pw_tally *t = r->t;
    size_t n = (size_t)r->n, p = n + 1;
    PW_CHECK(r->n <= MAX_ENTRIES, PW_E_UNSUPPORTED, "%lld entries are too many (at most %d)", (long long)r->n, MAX_ENTRIES);
    f->matches = pw_arena_array(r->arena, (size_t)t->n_pairs + 1, sizeof *f->matches);
    f->theta = pw_arena_array(r->arena, 4 * p, sizeof *f->theta);
    f->hessian = pw_arena_array(r->arena, p * p, sizeof *f->hessian);
    if (!f->matches || !f->theta || !f->hessian)
        return PW_E_NOMEM;
    f->next = f->theta + p;
    f->gradient = f->next + p;
    f->step = f->gradient + p;
    f->n = r->n;
    for (int64_t k = 0; k < t->n_pairs; k++) {
        const struct pw_pair *b = &t->pairs[k];
        double weight = b->has_coins ? (double)b->coins : 1;
        bool tie = b->choice == PW_CHOICE_TIE || b->choice == PW_CHOICE_NEITHER;
        if (!(weight > 0))
            continue;
        f->matches[f->n_matches++] = (struct match){ b->voter, b->left, b->right, tie ? 0 : b->choice == PW_CHOICE_LEFT ? 0.5 : -0.5, tie, weight };
        f->has_ties |= tie;
        r->votes[b->left]++;
        r->votes[b->right]++;
        if (!tie && b->has_coins)
            r->coins[b->choice == PW_CHOICE_LEFT ? b->left : b->right] += b->coins;
    }
    PW_CHECK(f->n_matches > 0, PW_E_REFUSED, "there are no pair ballots to rank");
    f->p = r->n + f->has_ties;
    if (r->o->prior > 0)
        f->prior_precision = 1 / (r->o->prior * r->o->prior);
    qsort(f->matches, (size_t)f->n_matches, sizeof *f->matches, match_by_voter);
    int64_t *last = pw_arena_array(r->arena, n, sizeof *last);
    if (!last)
        return PW_E_NOMEM;
    for (int64_t k = 0; k < f->n_matches; k++) {
        const struct match *x = &f->matches[k];
        f->n_voters += k == 0 || x->voter != f->matches[k - 1].voter;
        for (int side = 0; side < 2; side++) {
            int64_t e = side ? x->j : x->i;
            r->voters[e] += last[e] != x->voter + 1;
            last[e] = x->voter + 1;
        }
    }
    return 0;
}

/* ---- spread ------------------------------------------------------------------------------------------------------------- */
/* The score of the voter whose ballots begin at k, added into s (p); returns where the next voter begins. */
static int64_t add_voter_score(const struct model *f, int64_t k, double *s)
{
    int64_t voter = f->matches[k].voter;
    for (; k < f->n_matches && f->matches[k].voter == voter; k++) {
        const struct match *x = &f->matches[k];
        struct chances c = chances_of(f, f->theta, x);
        s[x->i] += x->weight * (x->y - c.m);
        s[x->j] -= x->weight * (x->y - c.m);
        if (f->has_ties)
            s[f->n] += x->weight * (x->tie - c.tie);
    }
    return k;
}

/* Covariance of theta (p, p) = H^-1 (sum over voters of s s') H^-1 * V / (V - 1), by solving for each voter's row first. */
static int sandwich(struct pw_ranking *r, const struct model *f, double *covariance)
{
    int64_t p = f->p;
    double *g = pw_alloc_zero((size_t)(p * p), sizeof *g), *s = pw_alloc_zero((size_t)p, sizeof *s);
    int64_t *touched = pw_alloc((size_t)p * sizeof *touched);
    int rc = 0;
    PW_CHECK_OUT(g && s && touched, PW_E_NOMEM, "no memory for the covariance of %lld entries", (long long)r->n);
    double factor_v = (double)f->n_voters / (double)(f->n_voters - 1);
    for (int64_t k = 0; k < f->n_matches;) {
        int64_t n = 0;
        k = add_voter_score(f, k, s);
        for (int64_t i = 0; i < p; i++)
            if (s[i] != 0)
                touched[n++] = i;
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++)
                g[touched[i] * p + touched[j]] += factor_v * s[touched[i]] * s[touched[j]];
        for (int64_t i = 0; i < n; i++)
            s[touched[i]] = 0;
    }
    for (int turn = 0; turn < 2; turn++) { /* rows of G through H^-1, transpose, and again: G is symmetric */
        for (int64_t i = 0; i < p; i++)
            solve(f->hessian, p, g + i * p);
        for (int64_t i = 0; i < p; i++)
            for (int64_t j = 0; j < i; j++) {
                double x = g[i * p + j];
                g[i * p + j] = g[j * p + i];
                g[j * p + i] = x;
            }
    }
    memcpy(covariance, g, (size_t)(p * p) * sizeof *g);
out:
    pw_free(g);
    pw_free(s);
    pw_free(touched);
    return rc;
}

static int spread(struct pw_ranking *r, const struct model *f)
{
    int64_t n = r->n, p = f->p, df = f->n_voters - 1;
    double *cov = pw_arena_array(r->arena, (size_t)(p * p), sizeof *cov), *l = pw_arena_array(r->arena, (size_t)(n * n), sizeof *l);
    double *z = pw_arena_array(r->arena, (size_t)n, sizeof *z), t = pw_votestat_t975(df);
    if (!cov || !l || !z)
        return PW_E_NOMEM;
    PW_PASS(sandwich(r, f, cov));
    for (int64_t i = 0; i < n; i++) {
        double se = sqrt(cov[i * p + i] > 0 ? cov[i * p + i] : 0);
        r->low[i] = r->score[i] - t * se;
        r->high[i] = r->score[i] + t * se;
        for (int64_t j = 0; j < n; j++)
            l[i * n + j] = (cov[i * p + j] + cov[j * p + i]) / 2;
    }
    r->has_bounds = true;
    (void)factor(l, n, true);
    for (int64_t k = 0; k < r->replicates.n_replicates; k++) {
        double *scores = r->replicates.scores + k * n, chi = 0;
        struct pw_rng rng = pw_rng_make(r->o->seed, PW_STREAM_BOOTSTRAP | (uint64_t)k << 8);
        for (int64_t i = 0; i < n; i++)
            z[i] = pw_rng_normal(&rng);
        for (int64_t i = 0; i < df && df < 200; i++) { /* Student's t, as the intervals */
            double x = pw_rng_normal(&rng);
            chi += x * x;
        }
        double scale = df < 200 ? sqrt((double)df / chi) : 1;
        for (int64_t i = 0; i < n; i++) {
            double x = 0;
            for (int64_t j = 0; j <= i; j++)
                x += l[i * n + j] * z[j];
            scores[i] = r->score[i] + scale * x;
        }
    }
    return 0;
}

/* ---- smallest change ---------------------------------------------------------------------------------------------------- */
/* Things that may be left out: ballots [from, to), with what the difference is expected to lose. */
struct part { int64_t from, to; double off, cost; };

static int by_worth(const void *a, const void *b)
{
    const struct part *x = a, *y = b;
    double p = x->off / x->cost, q = y->off / y->cost;
    return p != q ? (p < q) - (p > q) : (x->from > y->from) - (x->from < y->from);
}

static int64_t list_parts(const struct model *f, const double *w, bool by_voters, struct part *parts)
{
    int64_t n = 0;
    for (int64_t k = 0; k < f->n_matches;) {
        struct part x = { k, k, 0, 0 };
        do {
            const struct match *m = &f->matches[x.to];
            struct chances c = chances_of(f, f->theta, m);
            x.off += m->weight * ((m->y - c.m) * (w[m->i] - w[m->j]) + (f->has_ties ? (m->tie - c.tie) * w[f->n] : 0));
            x.cost += by_voters ? 0 : m->weight;
            x.to++;
        } while (by_voters && x.to < f->n_matches && f->matches[x.to].voter == f->matches[k].voter);
        x.cost = by_voters ? 1 : x.cost;
        k = x.to;
        if (x.off > 0)
            parts[n++] = x;
    }
    qsort(parts, (size_t)n, sizeof *parts, by_worth);
    return n;
}

/* Fits again without the first n parts. *changed: an entry outside the top is then ahead of one inside. A contest that has no
 * fit any more counts as not changed. */
static int try_without(struct model *f, const struct pw_ranking *r, const struct part *parts, int64_t n, const double *start, bool *changed)
{
    struct pw_rank_row edge = { 0 };
    double *kept = pw_alloc((size_t)f->n_matches * sizeof *kept);
    PW_CHECK(kept, PW_E_NOMEM, "no memory for %lld ballots", (long long)f->n_matches);
    for (int64_t k = 0; k < f->n_matches; k++)
        kept[k] = f->matches[k].weight;
    for (int64_t k = 0; k < n; k++)
        for (int64_t m = parts[k].from; m < parts[k].to; m++)
            f->matches[m].weight = 0;
    memcpy(f->theta, start, (size_t)f->p * sizeof *start);
    int rc = fit(f);
    for (int64_t k = 0; k < f->n_matches; k++)
        f->matches[k].weight = kept[k];
    pw_free(kept);
    *changed = false;
    if (rc < 0) {
        pw_error_clear();
        return rc == PW_E_NUMERIC ? 0 : rc;
    }
    edge.low = INFINITY;
    edge.high = -INFINITY;
    for (int64_t i = 0; i < r->n; i++) {
        double x = f->theta[r->order[i]];
        if (i < r->top)
            edge.low = x < edge.low ? x : edge.low;
        else
            edge.high = x > edge.high ? x : edge.high;
    }
    *changed = edge.high > edge.low + 1e-9;
    return 0;
}

static int smallest_change(struct pw_ranking *r, struct model *f, bool by_voters, int64_t *answer)
{
    int64_t p = f->p, n_best = 0;
    struct part *parts = pw_arena_array(r->arena, (size_t)f->n_matches + 1, sizeof *parts);
    double *w = pw_arena_array(r->arena, (size_t)p, sizeof *w), *start = pw_arena_array(r->arena, (size_t)p, sizeof *start);
    int64_t in = -1, out = -1;
    double fewest = INFINITY;
    *answer = -1;
    if (!parts || !w || !start)
        return PW_E_NOMEM;
    memcpy(start, f->theta, (size_t)p * sizeof *start);
    /* The pair that is expected to need the least. Only neighbours of the edge are looked at: three on each side. */
    for (int64_t i = r->top - 1; i >= 0 && i >= r->top - 3; i--)
        for (int64_t j = r->top; j < r->n && j < r->top + 3; j++) {
            double gap = r->score[r->order[i]] - r->score[r->order[j]], off = 0, cost = 0;
            memset(w, 0, (size_t)p * sizeof *w);
            w[r->order[i]] = 1;
            w[r->order[j]] = -1;
            solve(f->hessian, p, w);
            int64_t n = list_parts(f, w, by_voters, parts), k = 0;
            for (; k < n && off <= gap; k++) {
                off += parts[k].off;
                cost += parts[k].cost;
            }
            if (off <= gap) /* linear extrapolation says no; the search below may still find it */
                cost *= 1 + (gap - off);
            if (n > 0 && cost < fewest) {
                fewest = cost;
                in = r->order[i];
                out = r->order[j];
                n_best = k;
            }
        }
    if (in < 0)
        return 0;
    memset(w, 0, (size_t)p * sizeof *w);
    w[in] = 1;
    w[out] = -1;
    solve(f->hessian, p, w);
    int64_t n = list_parts(f, w, by_voters, parts), no = 0, yes = -1, k = n_best > 0 ? n_best : 1;
    for (int tries = 0; tries < MAX_REFITS && yes - no != 1; tries++) {
        bool changed = false;
        PW_PASS(try_without(f, r, parts, k, start, &changed));
        if (changed)
            yes = k;
        else
            no = k;
        if (yes < 0 && no == n)
            break;
        k = yes < 0 ? no + 1 + no / 8 : no + (yes - no) / 2;
        k = k > n ? n : k;
    }
    memcpy(f->theta, start, (size_t)p * sizeof *start);
    fill_derivatives(f);
    (void)factor(f->hessian, p, false); /* as it was after the first fit */
    if (yes < 0)
        return 0;
    double cost = 0;
    for (int64_t i = 0; i < yes; i++)
        cost += parts[i].cost;
    *answer = (int64_t)(cost + 0.5);
    return 0;
}

int pw_rank_bt(struct pw_ranking *r)
{
    struct model f = { 0 };
    PW_CHECK(r->t->contest->takes[PW_BALLOT_PAIRS], PW_E_REFUSED, "the contest takes no pairs ballots");
    PW_PASS(gather(r, &f));
    if (f.prior_precision == 0)
        PW_PASS(check_connected(&f, r->t->contest));
    int rc = fit(&f);
    if (rc == PW_E_NUMERIC && f.prior_precision == 0)
        pw_error_hint("--prior 2 adds a normal prior of that standard deviation, under which every contest can be ranked");
    PW_PASS(rc);
    memcpy(r->score, f.theta, (size_t)r->n * sizeof *r->score);
    pw_votestat_order(r->score, r->n, r->order);
    r->tie_strength = f.has_ties ? exp(f.theta[r->n]) : 0;
    r->n_voters = f.n_voters;
    r->has_interval = f.n_voters >= 2;
    r->note = f.n_voters < 2 ? "fewer than two voters: no intervals"
            : f.n_voters < 10 ? "fewer than ten voters: intervals clustered by voter are rough" : NULL;
    if (r->has_interval)
        PW_PASS(spread(r, &f));
    if (r->top > 0) {
        PW_PASS(smallest_change(r, &f, false, &r->coins_to_change));
        PW_PASS(smallest_change(r, &f, true, &r->voters_to_change));
    }
    return 0;
}
