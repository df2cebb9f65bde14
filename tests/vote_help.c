/* See vote_help.h. */
#include "tests/vote_help.h"

#include <string.h>
#include "base/error.h"
#include "tests/support.h"

void vote_open(struct vote_box *b, const char *path, const char *contest_yaml)
{
    struct pw_arena a;
    struct pw_value *v = NULL;
    struct pw_buf json = { 0 };
    memset(b, 0, sizeof *b);
    ck_ok(pw_arena_init(&a));
    ck_ok(pw_yaml_parse(&a, contest_yaml, strlen(contest_yaml), "contest.yaml", &v));
    ck_ok(pw_contest_from_value(&b->contest, v, "contest.yaml"));
    ck_ok(pw_contest_json(&b->contest, &json));
    ck_ok(pw_ledger_create(path, json.data, json.len, false));
    ck_ok(pw_ledger_open(&b->ledger, path));
    pw_buf_free(&json);
    pw_arena_free(&a);
}

void vote_reopen(struct vote_box *b, const char *path)
{
    memset(b, 0, sizeof *b);
    ck_ok(pw_ledger_open(&b->ledger, path));
    ck_ok(pw_contest_from_json(&b->contest, pw_ledger_contest(b->ledger), strlen(pw_ledger_contest(b->ledger)), path));
}

static struct pw_ballot_map *read_map(struct pw_ballot_map *m, const char *yaml)
{
    memset(m, 0, sizeof *m);
    if (!yaml)
        return NULL;
    ck_ok(pw_ballot_map_parse(m, yaml, strlen(yaml), "map.yaml"));
    return m;
}

void vote_import(struct vote_box *b, const char *text, const char *source, const char *map_yaml)
{
    struct pw_ballot_map m;
    struct pw_import how = { .map = read_map(&m, map_yaml) };
    pw_import_report_free(&b->report);
    ck_ok(pw_import_text(b->ledger, &b->contest, text, strlen(text), source, &how, &b->report));
    pw_ballot_map_free(&m);
}

void vote_import_path(struct vote_box *b, const char *path, const char *map_yaml)
{
    struct pw_ballot_map m;
    struct pw_import how = { .map = read_map(&m, map_yaml) };
    pw_import_report_free(&b->report);
    ck_ok(pw_import_file(b->ledger, &b->contest, path, &how, &b->report));
    pw_ballot_map_free(&m);
}

void vote_rank(struct vote_box *b, const char *method, int64_t top)
{
    struct pw_rank_options o = { .method = method, .top = top, .seed = 42, .replicates = 1000 };
    pw_tally_free(&b->tally);
    pw_rank_free(&b->rank);
    pw_tally_open(&b->tally, &b->contest);
    ck_ok(pw_tally_load(&b->tally, b->ledger));
    ck_ok(pw_rank_run(&b->rank, &b->tally, &o));
}

const struct pw_rank_row *vote_row(const struct vote_box *b, const char *entry)
{
    for (int64_t i = 0; i < b->rank.n; i++)
        if (strcmp(pw_contest_entry(&b->contest, b->rank.rows[i].entry), entry) == 0)
            return &b->rank.rows[i];
    ck_abort_msg("no entry '%s' in the ranking", entry);
    return NULL;
}

void vote_close(struct vote_box *b)
{
    pw_import_report_free(&b->report);
    pw_tally_free(&b->tally);
    pw_rank_free(&b->rank);
    pw_ledger_close(b->ledger);
    pw_contest_free(&b->contest);
    memset(b, 0, sizeof *b);
}
