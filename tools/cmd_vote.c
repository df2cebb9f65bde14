/* pw vote new, import, rank, verify, export, simulate: options in, library calls, tables and JSON out. The rules are in eval/. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "eval/ballot_import.h"
#include "eval/rank.h"
#include "eval/vote_export.h"
#include "eval/vote_simulate.h"
#include "tools/cmd.h"

struct vote_options {
    const char *contest, *map, *method, *csv, *receipt, *out, *pseudonyms;
    int64_t top, replicates;
    double prior;
};
#define AT(field) offsetof(struct vote_options, field)

static int open_ledger(const char *path, struct pw_ledger **l, struct pw_contest *c)
{
    PW_PASS(pw_ledger_open(l, path));
    int rc = pw_contest_from_json(c, pw_ledger_contest(*l), strlen(pw_ledger_contest(*l)), path);
    if (rc < 0) {
        pw_ledger_close(*l);
        *l = NULL;
    }
    return rc;
}

static int vote_new(struct pw_cmd *c)
{
    const struct vote_options *o = c->options;
    const char *path = c->args.items[0];
    struct pw_contest contest = { 0 };
    struct pw_buf json = { 0 };
    char genesis[65];
    int rc;
    PW_CHECK(o->contest, PW_E_USAGE, "--contest FILE is missing");
    PW_PASS(pw_ledger_check_path(path, c->common->force));
    PW_PASS_OUT(pw_contest_load(&contest, o->contest));
    PW_PASS_OUT(pw_contest_json(&contest, &json));
    PW_PASS_OUT(pw_ledger_create(path, json.data, json.len, c->common->force));
    pw_ledger_hash_contest(json.data, json.len, genesis);
    if (c->common->json) {
        struct pw_json w = { 0 };
        pw_json_begin(&w);
        pw_json_str(&w, "ledger", path);
        pw_json_str(&w, "name", contest.name);
        pw_json_i64(&w, "entries", contest.entries.n);
        pw_json_str(&w, "root", genesis);
        rc = pw_json_finish(c, &w);
    } else {
        pw_buf_printf(c->out, "%s: %s, %lld entries, root %s\n", path, contest.name, (long long)contest.entries.n, genesis);
    }
out:
    pw_buf_free(&json);
    pw_contest_free(&contest);
    return rc;
}

static int print_import(struct pw_cmd *c, const struct pw_import_report *r, const struct pw_ledger *l, const char *file)
{
    if (c->common->json) {
        struct pw_json w = { 0 };
        pw_json_begin(&w);
        pw_json_i64(&w, "accepted", r->accepted);
        pw_json_open(&w, "rejected", '[');
        for (int64_t i = 0; i < r->n_rejected; i++) {
            pw_json_open(&w, NULL, '{');
            pw_json_i64(&w, "line", r->rejected[i].line);
            pw_json_str(&w, "why", r->rejected[i].why);
            pw_json_close(&w, '}');
        }
        pw_json_close(&w, ']');
        pw_json_i64(&w, "repeated", r->repeated);
        pw_json_i64(&w, "untimed", r->untimed);
        pw_json_i64(&w, "votes", pw_ledger_count(l));
        pw_json_str(&w, "root", pw_ledger_root(l));
        return pw_json_finish(c, &w);
    }
    pw_buf_printf(c->out, "%lld ballots accepted, %lld rejected", (long long)r->accepted, (long long)r->n_rejected);
    if (r->repeated)
        pw_buf_printf(c->out, ", %lld repeated (their ids were counted before)", (long long)r->repeated);
    if (r->untimed)
        pw_buf_printf(c->out, ", %lld without a time (opens and closes could not be checked)", (long long)r->untimed);
    pw_buf_char(c->out, '\n');
    for (int64_t i = 0; i < r->n_rejected; i++)
        pw_buf_printf(c->out, "%s:%lld: %s\n", file, (long long)r->rejected[i].line, r->rejected[i].why);
    return 0;
}

static int vote_import(struct pw_cmd *c)
{
    const struct vote_options *o = c->options;
    struct pw_ledger *l = NULL;
    struct pw_contest contest = { 0 };
    struct pw_ballot_map map = { 0 };
    struct pw_import_report report = { 0 };
    struct pw_import how = { .map = o->map ? &map : NULL, .progress = c->progress, .stop = pw_interrupted };
    int rc;
    PW_PASS(open_ledger(c->args.items[0], &l, &contest));
    if (o->map)
        PW_PASS_OUT(pw_ballot_map_load(&map, o->map));
    PW_PASS_OUT(pw_import_file(l, &contest, c->args.items[1], &how, &report));
    rc = print_import(c, &report, l, c->args.items[1]);
out:
    pw_import_report_free(&report);
    pw_ballot_map_free(&map);
    pw_ledger_close(l);
    pw_contest_free(&contest);
    return rc;
}

static void json_count(struct pw_json *w, const char *key, int64_t x)
{
    if (x < 0)
        pw_json_null(w, key);
    else
        pw_json_i64(w, key, x);
}

static void json_real(struct pw_json *w, const char *key, double x, bool known)
{
    if (known)
        pw_json_f64(w, key, x);
    else
        pw_json_null(w, key);
}

static int print_rank_json(struct pw_cmd *c, const struct pw_rank *r, const struct pw_contest *contest, int64_t top)
{
    struct pw_json w = { 0 };
    pw_json_begin(&w);
    pw_json_str(&w, "method", r->method);
    pw_json_i64(&w, "top", top);
    pw_json_i64(&w, "voters", r->n_voters);
    pw_json_open(&w, "entries", '[');
    for (int64_t i = 0; i < r->n; i++) {
        const struct pw_rank_row *x = &r->rows[i];
        pw_json_open(&w, NULL, '{');
        pw_json_str(&w, "entry", pw_contest_entry(contest, x->entry));
        pw_json_i64(&w, "rank", x->rank);
        pw_json_f64(&w, "score", x->score);
        json_real(&w, "low", x->low, r->has_interval);
        json_real(&w, "high", x->high, r->has_interval);
        pw_json_i64(&w, "coins", x->coins);
        pw_json_i64(&w, "votes", x->votes);
        pw_json_i64(&w, "voters", x->voters);
        json_real(&w, "p_top", x->p_top, r->has_interval);
        pw_json_close(&w, '}');
    }
    pw_json_close(&w, ']');
    pw_json_open(&w, "tie_sets", '[');
    for (int64_t i = 0; i < r->n_tie_sets; i++) {
        pw_json_open(&w, NULL, '[');
        for (int64_t k = 0; k < r->tie_sets[i].n; k++)
            pw_json_str(&w, NULL, pw_contest_entry(contest, r->tie_sets[i].entries[k]));
        pw_json_close(&w, ']');
    }
    pw_json_close(&w, ']');
    pw_json_open(&w, "certificate", '{');
    json_count(&w, "coins_to_change", r->coins_to_change);
    json_count(&w, "voters_to_change", r->voters_to_change);
    json_real(&w, "probability", r->probability, r->has_interval);
    pw_json_i64(&w, "top", r->certificate_top);
    pw_json_bool(&w, "exact", r->changes_exact);
    pw_json_close(&w, '}');
    pw_json_str(&w, "note", r->note);
    return pw_json_finish(c, &w);
}

static void print_rank_text(struct pw_cmd *c, const struct pw_rank *r, const struct pw_contest *contest, int64_t top)
{
    pw_buf_printf(c->out, "%4s  %-24s %12s  %-26s %10s %8s %7s  %s\n", "rank", "entry", "score", "95 % interval", "coins", "votes", "voters",
                  "p(top)");
    for (int64_t i = 0; i < r->n; i++) {
        const struct pw_rank_row *x = &r->rows[i];
        char interval[64] = "-", chance[32] = "-";
        if (r->has_interval) {
            snprintf(interval, sizeof interval, "[%.6g, %.6g]", x->low, x->high);
            snprintf(chance, sizeof chance, "%.3f", x->p_top);
        }
        pw_buf_printf(c->out, "%4lld  %-24s %12.6g  %-26s %10lld %8lld %7lld  %s\n", (long long)x->rank, pw_contest_entry(contest, x->entry),
                      x->score, interval, (long long)x->coins, (long long)x->votes, (long long)x->voters, chance);
    }
    for (int64_t i = 0; i < r->n_tie_sets; i++) {
        pw_buf_str(c->out, "cannot be told apart:");
        for (int64_t k = 0; k < r->tie_sets[i].n; k++)
            pw_buf_printf(c->out, "%s %s", k ? "," : "", pw_contest_entry(contest, r->tie_sets[i].entries[k]));
        pw_buf_char(c->out, '\n');
    }
    pw_buf_printf(c->out, "p(top): chance to be among the first %lld. To change the first %lld:", (long long)top, (long long)r->certificate_top);
    if (r->coins_to_change >= 0)
        pw_buf_printf(c->out, " %lld coins", (long long)r->coins_to_change);
    if (r->voters_to_change >= 0)
        pw_buf_printf(c->out, "%s leaving out %lld voters", r->coins_to_change >= 0 ? ", or" : "", (long long)r->voters_to_change);
    if (r->coins_to_change < 0 && r->voters_to_change < 0)
        pw_buf_str(c->out, " no number was found");
    if (r->has_interval)
        pw_buf_printf(c->out, "; right with probability %.3f", r->probability);
    pw_buf_str(c->out, "\n");
    if (r->note)
        pw_buf_printf(c->out, "note: %s\n", r->note);
}

static int vote_rank(struct pw_cmd *c)
{
    const struct vote_options *o = c->options;
    struct pw_ledger *l = NULL;
    struct pw_contest contest = { 0 };
    struct pw_tally tally = { 0 };
    struct pw_rank rank = { 0 };
    struct pw_rank_options how = { o->method, o->top, (uint64_t)c->common->seed, o->replicates, o->prior };
    int rc;
    PW_PASS(open_ledger(c->args.items[0], &l, &contest));
    pw_tally_open(&tally, &contest);
    PW_PASS_OUT(pw_tally_load(&tally, l));
    PW_PASS_OUT(pw_rank_run(&rank, &tally, &how));
    if (c->common->json)
        rc = print_rank_json(c, &rank, &contest, o->top);
    else
        print_rank_text(c, &rank, &contest, o->top);
out:
    pw_rank_free(&rank);
    pw_tally_free(&tally);
    pw_ledger_close(l);
    pw_contest_free(&contest);
    return rc;
}

static int vote_verify(struct pw_cmd *c)
{
    const struct vote_options *o = c->options;
    struct pw_ledger *l = NULL;
    struct pw_contest contest = { 0 };
    int64_t record = 0;
    int rc;
    PW_PASS(open_ledger(c->args.items[0], &l, &contest));
    PW_PASS_OUT(pw_ledger_verify(l));
    if (o->csv)
        PW_PASS_OUT(pw_vote_verify_csv(l, &contest, o->csv, o->pseudonyms));
    if (o->receipt)
        PW_PASS_OUT(pw_vote_verify_receipt(l, o->receipt, &record));
    if (c->common->json) {
        struct pw_json w = { 0 };
        pw_json_begin(&w);
        pw_json_i64(&w, "votes", pw_ledger_count(l));
        pw_json_str(&w, "root", pw_ledger_root(l));
        if (record)
            pw_json_i64(&w, "record", record);
        rc = pw_json_finish(c, &w);
    } else {
        pw_buf_printf(c->out, "%lld votes, root %s\n", (long long)pw_ledger_count(l), pw_ledger_root(l));
        if (record)
            pw_buf_printf(c->out, "the receipt is that of record %lld\n", (long long)record);
    }
out:
    pw_ledger_close(l);
    pw_contest_free(&contest);
    return rc;
}

static int vote_export(struct pw_cmd *c)
{
    const struct vote_options *o = c->options;
    struct pw_ledger *l = NULL;
    struct pw_contest contest = { 0 };
    int rc;
    PW_CHECK(o->out, PW_E_USAGE, "-o DIR is missing");
    PW_PASS(open_ledger(c->args.items[0], &l, &contest));
    PW_PASS_OUT(pw_ledger_verify(l));
    PW_PASS_OUT(pw_vote_export(l, &contest, o->out, o->pseudonyms, c->common->force));
    if (c->common->json) {
        struct pw_json w = { 0 };
        pw_json_begin(&w);
        pw_json_str(&w, "folder", o->out);
        pw_json_i64(&w, "votes", pw_ledger_count(l));
        pw_json_str(&w, "root", pw_ledger_root(l));
        rc = pw_json_finish(c, &w);
    } else {
        pw_buf_printf(c->out, "%s: %lld votes, root %s\n", o->out, (long long)pw_ledger_count(l), pw_ledger_root(l));
    }
out:
    pw_ledger_close(l);
    pw_contest_free(&contest);
    return rc;
}

static int vote_simulate(struct pw_cmd *c)
{
    const struct vote_options *o = c->options;
    int64_t votes = 0;
    PW_CHECK(o->out, PW_E_USAGE, "-o LEDGER is missing");
    PW_PASS(pw_vote_simulate(c->args.items[0], o->out, c->common->force, &votes));
    if (c->common->json) {
        struct pw_json w = { 0 };
        pw_json_begin(&w);
        pw_json_str(&w, "ledger", o->out);
        pw_json_i64(&w, "votes", votes);
        return pw_json_finish(c, &w);
    }
    pw_buf_printf(c->out, "%s: %lld simulated ballots\n", o->out, (long long)votes);
    return 0;
}

static const struct pw_option new_options[] = {
    { "contest", 0, PW_OPT_STRING, AT(contest), "FILE", NULL, NULL, 0, 0, "the contest: name, entries, ballots, budget, cost, negative, repeat, opens, closes, prompts" },
    PW_OPTIONS_END,
};
static const struct pw_option import_options[] = {
    { "map", 0, PW_OPT_STRING, AT(map), "FILE", NULL, NULL, 0, 0, "YAML that says which columns of a foreign file are which fields" },
    PW_OPTIONS_END,
};
static const struct pw_option rank_options[] = {
    { "method", 0, PW_OPT_CHOICE, AT(method), "M", "coins|quadratic|pairwise-quadratic|bt|itch|schulze", NULL, 0, 0,
      "how to rank; default coins where the contest takes them, else bt" },
    { "top", 0, PW_OPT_INT, AT(top), "N", NULL, "10", 1, 1e6, "places that p_top and the certificate speak of" },
    { "replicates", 0, PW_OPT_INT, AT(replicates), "N", NULL, "1000", 100, 1e6, "draws behind intervals and chances" },
    { "prior", 0, PW_OPT_REAL, AT(prior), "S", NULL, "0", 0, 100, "bt: standard deviation of a normal prior on log-strengths; 0: none" },
    PW_OPTIONS_END,
};
static const struct pw_option verify_options[] = {
    { "csv", 0, PW_OPT_STRING, AT(csv), "FILE", NULL, NULL, 0, 0, "compare with published ballots" },
    { "receipt", 0, PW_OPT_STRING, AT(receipt), "R", NULL, NULL, 0, 0, "find this receipt: RECORD:HASH" },
    { "pseudonyms", 0, PW_OPT_STRING, AT(pseudonyms), "KEYFILE", NULL, NULL, 0, 0, "key with which the published voters were hidden" },
    PW_OPTIONS_END,
};
static const struct pw_option export_options[] = {
    { "out", 'o', PW_OPT_STRING, AT(out), "DIR", NULL, NULL, 0, 0, "folder to write" },
    { "pseudonyms", 0, PW_OPT_STRING, AT(pseudonyms), "KEYFILE", NULL, NULL, 0, 0, "hide voters behind hashes salted with this file" },
    PW_OPTIONS_END,
};
static const struct pw_option simulate_options[] = {
    { "out", 'o', PW_OPT_STRING, AT(out), "LEDGER", NULL, NULL, 0, 0, "ledger to make" },
    PW_OPTIONS_END,
};

const struct pw_command pw_commands_vote[] = {
    { "vote new", "LEDGER --contest FILE", "start a ledger for a contest", NULL, new_options, sizeof(struct vote_options), 1, 1, false, vote_new },
    { "vote import", "LEDGER FILE [--map MAP.yaml]", "add the ballots of a CSV or JSONL file; bad ones are reported, the rest is kept", NULL,
      import_options, sizeof(struct vote_options), 2, 2, false, vote_import },
    { "vote rank", "LEDGER [--method M] [--top N]", "rank the entries, with intervals and what it would take to change the top", NULL, rank_options,
      sizeof(struct vote_options), 1, 1, false, vote_rank },
    { "vote verify", "LEDGER [--csv FILE] [--receipt R]", "recompute the hash chain; compare with published ballots", NULL, verify_options,
      sizeof(struct vote_options), 1, 1, false, vote_verify },
    { "vote export", "LEDGER -o DIR", "publish ballots, contest and proof", NULL, export_options, sizeof(struct vote_options), 1, 1, false, vote_export },
    { "vote simulate", "SCENARIO.yaml -o LEDGER", "an honest audience, drawn at random", NULL, simulate_options, sizeof(struct vote_options), 1, 1, false,
      vote_simulate },
    { NULL },
};
