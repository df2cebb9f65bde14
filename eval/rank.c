/* Ranking, see rank.h: the table of methods, and what all of them share once scores and replicates are there. */
#include "eval/rank.h"

#include <string.h>
#include "base/error.h"

static const struct { const char *name; int (*run)(struct pw_ranking *r); } methods[] = {
    { "coins", pw_rank_coins }, { "quadratic", pw_rank_quadratic }, { "pairwise-quadratic", pw_rank_pairwise }, { "bt", pw_rank_bt },
    { "itch", NULL }, { "schulze", NULL },
};
#define N_METHODS (sizeof methods / sizeof methods[0])

/* Replicates are held at once: 400 MB at most. */
#define MAX_REPLICATE_SCORES INT64_C(50000000)

static int find_method(const struct pw_tally *t, const struct pw_rank_options *o, size_t *at)
{
    const struct pw_contest *c = t->contest;
    const char *name = o->method ? o->method : c->takes[PW_BALLOT_COINS] ? "coins" : c->takes[PW_BALLOT_PAIRS] ? "bt" : "itch";
    const char *names[N_METHODS];
    for (*at = 0; *at < N_METHODS; ++*at) {
        names[*at] = methods[*at].name;
        if (strcmp(name, names[*at]) == 0)
            break;
    }
    if (*at == N_METHODS) {
        const char *near = pw_nearest(name, names, N_METHODS);
        return near ? pw_error(PW_E_USAGE, "unknown method '%s' (nearest: '%s')", name, near)
                    : pw_error(PW_E_USAGE, "unknown method '%s'", name);
    }
    PW_CHECK(methods[*at].run, PW_E_UNSUPPORTED, "ranking by '%s' is not supported yet", name);
    return 0;
}

static int take_arrays(struct pw_ranking *r)
{
    size_t n = (size_t)r->n;
    r->score = pw_arena_array(r->arena, n, sizeof *r->score);
    r->low = pw_arena_array(r->arena, n, sizeof *r->low);
    r->high = pw_arena_array(r->arena, n, sizeof *r->high);
    r->coins = pw_arena_array(r->arena, n, sizeof *r->coins);
    r->votes = pw_arena_array(r->arena, n, sizeof *r->votes);
    r->voters = pw_arena_array(r->arena, n, sizeof *r->voters);
    r->order = pw_arena_array(r->arena, n, sizeof *r->order);
    if (!r->score || !r->low || !r->high || !r->coins || !r->votes || !r->voters || !r->order)
        return PW_E_NOMEM;
    PW_CHECK(r->o->replicates <= MAX_REPLICATE_SCORES / r->n, PW_E_USAGE, "%lld replicates of %lld entries are too many (at most %lld)",
             (long long)r->o->replicates, (long long)r->n, (long long)(MAX_REPLICATE_SCORES / r->n));
    r->replicates = (struct pw_replicates){ pw_alloc_zero((size_t)(r->o->replicates * r->n), sizeof(double)), r->o->replicates, r->n };
    PW_CHECK(r->replicates.scores, PW_E_NOMEM, "no memory for %lld replicates", (long long)r->o->replicates);
    return 0;
}

static int copy_tie_sets(struct pw_rank *out, const struct pw_ranking *r)
{
    struct pw_tie_run *runs;
    PW_PASS(pw_votestat_tie_runs(&r->replicates, r->order, &out->arena, &runs, &out->n_tie_sets));
    out->tie_sets = pw_arena_array(&out->arena, (size_t)(out->n_tie_sets ? out->n_tie_sets : 1), sizeof *out->tie_sets);
    if (!out->tie_sets)
        return PW_E_NOMEM;
    for (int64_t i = 0; i < out->n_tie_sets; i++) {
        struct pw_tie_set *s = &out->tie_sets[i];
        s->n = runs[i].to - runs[i].from + 1;
        s->entries = pw_arena_array(&out->arena, (size_t)s->n, sizeof *s->entries);
        if (!s->entries)
            return PW_E_NOMEM;
        memcpy(s->entries, r->order + runs[i].from, (size_t)s->n * sizeof *s->entries);
    }
    return 0;
}

static int finish(struct pw_rank *out, struct pw_ranking *r)
{
    int64_t *ranks = pw_arena_array(&out->arena, (size_t)r->n, sizeof *ranks);
    double *p_top = pw_arena_array(&out->arena, (size_t)r->n, sizeof *p_top);
    out->rows = pw_arena_array(&out->arena, (size_t)r->n, sizeof *out->rows);
    if (!ranks || !p_top || !out->rows)
        return PW_E_NOMEM;
    for (int64_t i = 0; i < r->n; i++)
        PW_CHECK(r->score[i] - r->score[i] == 0, PW_E_NUMERIC, "the score of '%s' is not a number",
                 pw_contest_entry(r->t->contest, i));
    pw_votestat_ranks(r->score, r->order, r->n, ranks);
    if (r->has_interval) {
        if (!r->has_bounds)
            PW_PASS(pw_votestat_intervals(&r->replicates, r->low, r->high));
        PW_PASS(pw_votestat_p_top(&r->replicates, r->o->top, p_top));
        if (r->top > 0)
            PW_PASS(pw_votestat_p_same(&r->replicates, r->order, r->top, &out->probability));
        else
            out->probability = 1;
        PW_PASS(copy_tie_sets(out, r));
    }
    out->n = r->n;
    for (int64_t i = 0; i < r->n; i++) {
        int64_t e = r->order[i];
        out->rows[i] = (struct pw_rank_row){ e, ranks[e], r->score[e], r->low[e], r->high[e], p_top[e], r->coins[e], r->votes[e], r->voters[e] };
    }
    out->has_interval = r->has_interval;
    out->certificate_top = r->top;
    out->coins_to_change = r->coins_to_change;
    out->voters_to_change = r->voters_to_change;
    out->changes_exact = r->changes_exact;
    out->n_voters = r->n_voters;
    out->tie_strength = r->tie_strength;
    out->note = r->note;
    return 0;
}

int pw_rank_run(struct pw_rank *out, const struct pw_tally *t, const struct pw_rank_options *o)
{
    struct pw_ranking r = { .t = t, .o = o, .arena = &out->arena, .n = t->contest->entries.n, .coins_to_change = -1, .voters_to_change = -1 };
    size_t method;
    int rc;
    memset(out, 0, sizeof *out);
    PW_CHECK(o->top >= 1, PW_E_USAGE, "top %lld is not at least 1", (long long)o->top);
    PW_CHECK(o->replicates >= 100, PW_E_USAGE, "%lld replicates are too few (at least 100)", (long long)o->replicates);
    PW_PASS(find_method(t, o, &method));
    PW_PASS(pw_arena_init(&out->arena));
    out->method = methods[method].name;
    r.top = o->top < r.n ? o->top : r.n > 1 ? 1 : 0;
    PW_PASS_OUT(take_arrays(&r));
    PW_TRY_OUT(methods[method].run(&r), "ranking by %s", methods[method].name);
    PW_PASS_OUT(finish(out, &r));
out:
    pw_free(r.replicates.scores);
    if (rc < 0)
        pw_rank_free(out);
    return rc;
}

void pw_rank_free(struct pw_rank *r)
{
    if (!r)
        return;
    pw_arena_free(&r->arena);
    memset(r, 0, sizeof *r);
}
