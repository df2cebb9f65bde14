/* The coin vote on real ballots: published totals of a quadratic vote, and the human preferences of PandaLM. */
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "tests/support.h"
#include "tests/vote_help.h"

#define QV_MAP "{kind: coins, voter: voter_id, id: vote_id, wide: {candidate_0: c0, candidate_1: c1, candidate_2: c2, candidate_3: c3," \
               " candidate_4: c4, candidate_5: c5, candidate_6: c6}}"
#define QV_ENTRIES "entries: [c0, c1, c2, c3, c4, c5, c6]\n"

static void check_totals(struct vote_box *b, const char *repeat, const int64_t totals[7])
{
    const char *csv = test_shared("data/preferences/qv_beyond2025/votes.csv");
    char contest[256], name[16];
    if (!csv) {
        test_skip("qv_beyond2025 is not there");
        return;
    }
    snprintf(contest, sizeof contest, QV_ENTRIES "cost: quadratic\nnegative: zero\nrepeat: %s\n", repeat);
    vote_open(b, test_path(test_tmpdir(), "qv.ledger"), contest);
    vote_import_path(b, csv, QV_MAP);
    ck_assert_int_eq(b->report.n_rejected, 0);
    ck_assert_int_eq(b->report.accepted, 133 * 7);
    vote_rank(b, "coins", 3);
    ck_assert_int_eq(b->rank.n_voters, 124);
    for (int i = 0; i < 7; i++) {
        snprintf(name, sizeof name, "c%d", i);
        ck_assert_int_eq(vote_row(b, name)->coins, totals[i]);
        ck_assert(vote_row(b, name)->score == (double)totals[i]);
        ck_assert(vote_row(b, name)->low < vote_row(b, name)->score && vote_row(b, name)->score < vote_row(b, name)->high);
    }
    ck_ok(pw_ledger_verify(b->ledger));
}

START_TEST(published_totals)
{
    static const int64_t totals[] = { 327, 430, 337, 330, 415, 373, 477 }, counts[] = { 111, 115, 108, 104, 114, 114, 117 };
    struct vote_box b = { 0 };
    check_totals(&b, "add", totals);
    if (!b.ledger)
        return;
    for (int i = 0; i < 7; i++) {
        char name[16];
        snprintf(name, sizeof name, "c%d", i);
        ck_assert_int_eq(vote_row(&b, name)->votes, counts[i]); /* the published vote_count */
    }
    /* The order of the published result: 6, 1, 4, 5, 2, 3, 0. Top three: 6 1 4; 4 leads 5 by 42. */
    static const int order[] = { 6, 1, 4, 5, 2, 3, 0 };
    for (int i = 0; i < 7; i++)
        ck_assert_int_eq(b.rank.rows[i].entry, order[i]);
    ck_assert_int_eq(b.rank.coins_to_change, 43);
    ck_assert(b.rank.voters_to_change > 5 && b.rank.voters_to_change < 43);
    ck_assert(b.rank.probability > 0.5 && b.rank.probability <= 1);
    vote_close(&b);
}
END_TEST

START_TEST(one_ballot_a_voter)
{
    static const int64_t totals[] = { 314, 394, 311, 317, 395, 344, 441 };
    struct vote_box b = { 0 };
    check_totals(&b, "replace", totals);
    if (b.ledger)
        vote_close(&b);
}
END_TEST

/* 99 credits: nobody overspent but those who sent the form twice. */
START_TEST(budget_of_the_vote)
{
    const char *csv = test_shared("data/preferences/qv_beyond2025/votes.csv");
    struct vote_box b;
    if (!csv)
        return;
    vote_open(&b, test_path(test_tmpdir(), "qv.ledger"), QV_ENTRIES "cost: quadratic\nnegative: zero\nrepeat: replace\nbudget: 99\n");
    vote_import_path(&b, csv, QV_MAP);
    ck_assert_int_eq(b.report.n_rejected, 0);
    vote_close(&b);
    vote_open(&b, test_path(test_tmpdir(), "qv.ledger"), QV_ENTRIES "cost: quadratic\nnegative: zero\nrepeat: add\nbudget: 99\n");
    vote_import_path(&b, csv, QV_MAP);
    ck_assert(b.report.n_rejected > 0);
    ck_assert(strstr(b.report.rejected[0].why, "over the budget") != NULL);
    vote_close(&b);
    vote_open(&b, test_path(test_tmpdir(), "qv.ledger"), QV_ENTRIES "cost: quadratic\nnegative: reject\n");
    vote_import_path(&b, csv, QV_MAP);
    ck_assert_int_eq(b.report.n_rejected, 3);
    ck_assert(strstr(b.report.rejected[0].why, "negative") != NULL);
    vote_close(&b);
}
END_TEST

START_TEST(pandalm)
{
    static const char *const models[] = { "bloom-7b", "cerebras-gpt-6.7B", "llama-7b", "opt-7b", "pythia-6.9b" };
    const char *json = test_shared("data/preferences/pandalm/testset-v1.json");
    struct vote_box b;
    if (!json) {
        test_skip("pandalm is not there");
        return;
    }
    vote_open(&b, test_path(test_tmpdir(), "p.ledger"), "entries: [bloom-7b, cerebras-gpt-6.7B, llama-7b, opt-7b, pythia-6.9b]\nballots: [pairs]\n");
    vote_import_path(&b, json,
                     "kind: pairs\nsplit: {column: cmp_key, separator: _}\nprompt: idx\n"
                     "voters: {annotator1: a1, annotator2: a2, annotator3: a3}\nchoice: {values: {'1': left, '2': right, '0': tie}}\nkeep: none\n");
    if (b.report.n_rejected)
        printf("%lld: %s\n", (long long)b.report.rejected[0].line, b.report.rejected[0].why);
    ck_assert_int_eq(b.report.n_rejected, 0);
    ck_assert_int_eq(b.report.accepted, 999 * 3);
    vote_rank(&b, "bt", 2);
    /* Three ballots follow each other for each pair of answers: their majority, with a tie where all differ. */
    int64_t majority[3] = { 0 };
    for (int64_t i = 0; i < b.tally.n_pairs; i += 3) {
        int n[PW_CHOICES] = { 0 };
        for (int k = 0; k < 3; k++)
            n[b.tally.pairs[i + k].choice]++;
        majority[n[PW_CHOICE_LEFT] >= 2 ? 0 : n[PW_CHOICE_RIGHT] >= 2 ? 1 : 2]++;
    }
    ck_assert_int_eq(majority[0], 422);
    ck_assert_int_eq(majority[1], 472);
    ck_assert_int_eq(majority[2], 105);
    ck_assert_int_eq(b.rank.n, 5);
    for (int i = 0; i < 5; i++) {
        const struct pw_rank_row *r = vote_row(&b, models[i]);
        ck_assert(r->low < r->score && r->score < r->high && r->voters == 3);
        printf("%-18s %2lld %8.4f [%7.4f, %7.4f] p_top %.3f votes %lld\n", models[i], (long long)r->rank, r->score, r->low, r->high, r->p_top,
               (long long)r->votes);
    }
    printf("nu %.4f, certificate: %lld ballots, %lld voters, p %.3f\n", b.rank.tie_strength, (long long)b.rank.coins_to_change,
           (long long)b.rank.voters_to_change, b.rank.probability);
    vote_close(&b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("vote_real");
    TCase *t = tcase_create("vote_real");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, published_totals);
    tcase_add_test(t, one_ballot_a_voter);
    tcase_add_test(t, budget_of_the_vote);
    tcase_add_test(t, pandalm);
    suite_add_tcase(s, t);
    return test_run(s);
}
