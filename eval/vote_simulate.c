/* Simulated voters, see vote_simulate.h. They vote through the same import as everybody. */
#include "eval/vote_simulate.h"

#include <math.h>
#include <string.h>
#include <unistd.h>
#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "data/csv.h"
#include "eval/ballot_import.h"

enum { MAX_VOTERS = 1000000, MAX_COINS = 100000 };
struct scenario { int64_t voters, seed, coins; double noise, slot_bias, sharpness; struct pw_contest contest; double *quality; };

static int read_quality(struct scenario *s, struct pw_arena *a, const struct pw_value *v, const char *where)
{
    struct pw_value *file = NULL;
    if (v && v->kind == PW_STRING) {
        where = v->s;
        PW_PASS(pw_json_load(a, where, &file));
        v = file;
    }
    PW_CHECK(v && v->kind == PW_MAP, PW_E_FORMAT, "%s: entries: expected a quality for each entry of the contest", where);
    s->quality = pw_arena_array(a, (size_t)s->contest.entries.n, sizeof *s->quality);
    if (!s->quality)
        return PW_E_NOMEM;
    for (int64_t i = 0; i < s->contest.entries.n; i++) {
        const char *name = pw_contest_entry(&s->contest, i);
        PW_CHECK(pw_get(v, name), PW_E_FORMAT, "%s: entries: no quality for '%s'", where, name);
        PW_PASS(pw_get_f64(v, name, where, &s->quality[i]));
    }
    for (size_t i = 0; i < v->len; i++) {
        int64_t index;
        PW_TRY(pw_contest_find(&s->contest, v->members[i].key, v->members[i].key_len, &index), "reading the entries of %s", where);
    }
    return 0;
}

static int read_scenario(struct scenario *s, struct pw_arena *a, const char *path)
{
    static const char *const keys[] = { "contest", "voters", "seed", "coins", "entries", "noise", "slot_bias", "sharpness" };
    struct pw_value *v = NULL;
    PW_PASS(pw_yaml_load(a, path, &v));
    PW_CHECK(v->kind == PW_MAP, PW_E_FORMAT, "%s: a scenario is a map of keys", path);
    for (size_t i = 0; i < v->len; i++) {
        size_t k = 0, n = sizeof keys / sizeof keys[0];
        while (k < n && strcmp(keys[k], v->members[i].key) != 0)
            k++;
        const char *near = pw_nearest(v->members[i].key, keys, n);
        PW_CHECK(k < n, PW_E_FORMAT, "%s:%d: unknown key '%s' (nearest: '%s')", path, v->members[i].value.line, v->members[i].key, near ? near : "none");
    }
    const struct pw_value *contest = pw_get(v, "contest");
    PW_CHECK(contest, PW_E_FORMAT, "%s: contest is missing", path);
    if (contest->kind == PW_STRING)
        PW_PASS(pw_contest_load(&s->contest, contest->s));
    else
        PW_PASS(pw_contest_from_value(&s->contest, contest, path));
    PW_PASS(pw_get_i64(v, "voters", path, &s->voters));
    PW_PASS(pw_get_i64(v, "seed", path, &s->seed));
    PW_PASS(pw_get_i64(v, "coins", path, &s->coins));
    PW_PASS(pw_get_f64(v, "noise", path, &s->noise));
    PW_PASS(pw_get_f64(v, "slot_bias", path, &s->slot_bias));
    PW_PASS(pw_get_f64(v, "sharpness", path, &s->sharpness));
    PW_CHECK(s->voters >= 1 && s->voters <= MAX_VOTERS, PW_E_FORMAT, "%s: voters: %lld (1 to %d)", path, (long long)s->voters, MAX_VOTERS);
    PW_CHECK(s->coins >= 1 && s->coins <= MAX_COINS, PW_E_FORMAT, "%s: coins: %lld (1 to %d)", path, (long long)s->coins, MAX_COINS);
    PW_CHECK(s->noise >= 0 && s->sharpness >= 0, PW_E_FORMAT, "%s: noise and sharpness must not be negative", path);
    PW_CHECK(s->contest.takes[PW_BALLOT_COINS], PW_E_FORMAT, "%s: only coins are simulated, the contest takes none", path);
    return read_quality(s, a, pw_get(v, "entries"), path);
}

/* One voter's ballots. slots, like and given: room for n each. */
static void vote(const struct scenario *s, int64_t voter, uint32_t *slots, double *like, int64_t *given, struct pw_buf *csv)
{
    int64_t n = s->contest.entries.n, spent = 0;
    struct pw_rng rng = pw_rng_make((uint64_t)s->seed, PW_STREAM_SIMULATE | (uint64_t)voter << 8);
    double most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++)
        slots[i] = (uint32_t)i;
    pw_rng_shuffle(&rng, slots, (uint64_t)n);
    for (int64_t slot = 0; slot < n; slot++) {
        int64_t e = slots[slot];
        like[e] = s->sharpness * (s->quality[e] + s->noise * pw_rng_normal(&rng) - s->slot_bias * (double)slot);
        most = like[e] > most ? like[e] : most;
        given[e] = 0;
    }
    for (int64_t i = 0; i < n; i++)
        sum += like[i] = exp(like[i] - most);
    for (int64_t coin = 0; coin < s->coins; coin++) {
        double at = pw_rng_uniform(&rng) * sum;
        int64_t e = 0;
        for (; e < n - 1 && at >= like[e]; e++)
            at -= like[e];
        int64_t price = s->contest.cost_is_quadratic ? 2 * given[e] + 1 : 1;
        if (s->contest.has_budget && spent + price > s->contest.budget)
            continue;
        spent += price;
        given[e]++;
    }
    for (int64_t slot = 0; slot < n; slot++) {
        int64_t e = slots[slot];
        if (!given[e])
            continue;
        pw_buf_printf(csv, "v%06lld", (long long)voter + 1);
        pw_csv_add_cell(csv, s->contest.entries.items[e].s, s->contest.entries.items[e].len, false);
        pw_buf_printf(csv, ",%lld,%lld\n", (long long)given[e], (long long)slot + 1);
    }
}

static int fill(const struct scenario *s, struct pw_arena *a, const char *path, int64_t *votes)
{
    size_t n = (size_t)s->contest.entries.n;
    uint32_t *slots = pw_arena_array(a, n, sizeof *slots);
    double *like = pw_arena_array(a, n, sizeof *like);
    int64_t *given = pw_arena_array(a, n, sizeof *given);
    struct pw_buf csv = { 0 };
    struct pw_ledger *l = NULL;
    struct pw_import how = { 0 };
    struct pw_import_report report = { 0 };
    int rc;
    if (!slots || !like || !given)
        return PW_E_NOMEM;
    pw_buf_str(&csv, "voter,entry,coins,slot\n");
    for (int64_t v = 0; v < s->voters; v++)
        vote(s, v, slots, like, given, &csv);
    PW_PASS_OUT(pw_buf_status(&csv));
    PW_PASS_OUT(pw_ledger_open(&l, path));
    PW_PASS_OUT(pw_import_text(l, &s->contest, csv.data, csv.len, "simulated ballots", &how, &report));
    PW_CHECK_OUT(report.n_rejected == 0, PW_E_FAIL, "simulated ballot %lld was rejected: %s", (long long)report.rejected[0].line,
                 report.rejected[0].why);
    *votes = report.accepted;
out:
    pw_import_report_free(&report);
    pw_ledger_close(l);
    pw_buf_free(&csv);
    return rc;
}

int pw_vote_simulate(const char *scenario, const char *ledger, bool force, int64_t *votes)
{
    struct scenario s = { .voters = 100, .seed = 1, .coins = 10, .noise = 0.2, .sharpness = 4 };
    struct pw_arena a;
    struct pw_buf json = { 0 }, temp = { 0 }, file = { 0 };
    int rc;
    PW_PASS(pw_ledger_check_path(ledger, force));
    PW_PASS(pw_arena_init(&a));
    PW_PASS_OUT(read_scenario(&s, &a, scenario));
    PW_PASS_OUT(pw_contest_json(&s.contest, &json));
    pw_buf_printf(&temp, "%s.simulated-%ld", ledger, (long)getpid());
    PW_PASS_OUT(pw_buf_status(&temp));
    PW_PASS_OUT(pw_ledger_create(temp.data, json.data, json.len, true));
    PW_PASS_OUT(fill(&s, &a, temp.data, votes));
    PW_PASS_OUT(pw_file_read(temp.data, 0, &file));
    PW_PASS_OUT(pw_file_write(ledger, file.data, file.len, force));
out:
    if (temp.data)
        (void)unlink(temp.data);
    pw_buf_free(&json);
    pw_buf_free(&temp);
    pw_buf_free(&file);
    pw_contest_free(&s.contest);
    pw_arena_free(&a);
    return rc;
}
