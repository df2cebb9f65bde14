/* Batches: every row once, bins not overfull, the same plan again, and targets that never cross a row. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/rng.h"
#include "data/packing.h"
#include "tests/support.h"

enum { ROWS = 300, LIMIT = 64 };

static struct pw_dataset *made(struct pw_arena *a)
{
    struct pw_rng rng = pw_rng_make(1, PW_STREAM_TEST);
    struct pw_dataset *d = pw_arena_alloc(a, sizeof *d);
    d->n_rows = ROWS;
    d->row_start = pw_arena_array(a, ROWS + 1, sizeof *d->row_start);
    d->row_hash = pw_arena_array(a, ROWS, sizeof *d->row_hash);
    for (int i = 0; i < ROWS; i++)
        d->row_start[i + 1] = d->row_start[i] + 2 + (int64_t)pw_rng_below(&rng, LIMIT - 1);
    d->n_tokens = d->row_start[ROWS];
    d->ids = pw_arena_array(a, (size_t)d->n_tokens, sizeof *d->ids);
    d->trained = pw_arena_array(a, (size_t)d->n_tokens, 1);
    for (int i = 0; i < ROWS; i++) {
        d->row_hash[i] = (uint64_t)(i < 290 ? i : 290) * 7919; /* the last ten are equal */
        for (int64_t k = d->row_start[i]; k < d->row_start[i + 1]; k++) {
            d->ids[k] = (int32_t)(i * 100 + (k - d->row_start[i]));
            d->trained[k] = k > d->row_start[i] && pw_rng_below(&rng, 2);
            d->n_trained += d->trained[k];
        }
    }
    return d;
}

static void check_plan(const struct pw_dataset *d, const struct pw_packing *p, const struct pw_packing_options *o, int64_t worst_tokens,
                       int64_t worst_seqs)
{
    int seen[ROWS] = {0};
    struct pw_arena a;
    struct pw_packed b;
    int64_t trained = 0;
    pw_arena_init(&a);
    ck_ok(pw_packed_init(&b, &a, p->max_tokens, p->max_rows));
    ck_assert_int_le(p->max_tokens, worst_tokens);
    ck_assert_int_le(p->max_rows, worst_seqs);
    for (int64_t k = 0; k < p->n_passes; k++) {
        ck_ok(pw_packed_fill(&b, p, d, k));
        ck_assert_int_eq(b.n_tokens, p->pass_tokens[k]);
        ck_assert_int_eq(b.n_trained, p->pass_trained[k]);
        ck_assert_int_le(b.n_tokens, o->batch_size * LIMIT);
        ck_assert_int_eq(b.seq_start[b.n_seqs], b.n_tokens);
        trained += b.n_trained;
        for (int s = 0; s < b.n_seqs; s++) {
            int row = b.ids[b.seq_start[s]] / 100;
            seen[row]++;
            ck_assert_int_eq(b.seq_len[s], d->row_start[row + 1] - d->row_start[row]);
            for (int i = 0; i < b.seq_len[s]; i++) {
                int at = b.seq_start[s] + i;
                bool learnt = i + 1 < b.seq_len[s] && d->trained[d->row_start[row] + i + 1];
                ck_assert_int_eq(b.positions[at], i);
                ck_assert_int_eq(b.ids[at], row * 100 + i);
                ck_assert_int_eq(b.targets[at], learnt ? row * 100 + i + 1 : -1);
            }
        }
    }
    for (int i = 0; i < ROWS; i++)
        ck_assert_msg(seen[i] == 1, "row %d occurs %d times", i, seen[i]);
    ck_assert_int_eq(trained, d->n_trained);
    ck_assert_int_lt(pw_packed_fill(&b, p, d, p->n_passes), 0);
    pw_arena_free(&a);
}

START_TEST(every_row_once)
{
    struct pw_arena a;
    pw_arena_init(&a);
    struct pw_dataset *d = made(&a);
    for (int packing = 0; packing < 2; packing++)
        for (int batch = 1; batch < 8; batch += 3) {
            struct pw_packing_options o = {.max_length = LIMIT, .batch_size = batch, .packing = packing, .shuffle = true, .weights = true, .seed = 3};
            struct pw_packing *p, *again, *other;
            int64_t tokens, seqs;
            pw_packing_worst(d, NULL, 0, &o, &tokens, &seqs);
            ck_ok(pw_packing_plan(&p, d, NULL, 0, &o, 5));
            check_plan(d, p, &o, tokens, seqs);
            ck_ok(pw_packing_plan(&again, d, NULL, 0, &o, 5));
            ck_assert(again->n_rows == p->n_rows && memcmp(again->rows, p->rows, (size_t)p->n_rows * sizeof *p->rows) == 0);
            ck_ok(pw_packing_plan(&other, d, NULL, 0, &o, 6));
            ck_assert_msg(memcmp(other->rows, p->rows, (size_t)p->n_rows * sizeof *p->rows) != 0, "epochs 5 and 6 have the same order");
            if (packing)
                ck_assert_msg(p->fill > 0.9, "fill %g", p->fill);
            pw_packing_free(p);
            pw_packing_free(again);
            pw_packing_free(other);
        }
    pw_arena_free(&a);
}
END_TEST

START_TEST(order_without_shuffling)
{
    struct pw_arena a;
    struct pw_packing *p;
    pw_arena_init(&a);
    struct pw_dataset *d = made(&a);
    uint32_t rows[] = {7, 9, 200};
    struct pw_packing_options o = {.max_length = LIMIT, .batch_size = 2};
    ck_ok(pw_packing_plan(&p, d, rows, 3, &o, 0));
    ck_assert_int_eq(p->n_passes, 2);
    ck_assert(memcmp(p->rows, rows, sizeof rows) == 0);
    pw_packing_free(p);
    o.max_length = 3;
    ck_fails(pw_packing_plan(&p, d, NULL, 0, &o, 0), PW_E_FAIL, "max_length is 3");
    o.batch_size = 0;
    ck_fails(pw_packing_plan(&p, d, NULL, 0, &o, 0), PW_E_USAGE, "batch_size");
    pw_arena_free(&a);
}
END_TEST

START_TEST(weights_decide_how_often)
{
    struct pw_arena a;
    pw_arena_init(&a);
    struct pw_dataset *d = made(&a);
    d->row_weight = pw_arena_array(&a, ROWS, sizeof *d->row_weight);
    for (int i = 0; i < ROWS; i++)
        d->row_weight[i] = i < 100 ? 2 : i < 200 ? 0.25f : 1;
    int64_t first = 0, second = 0;
    for (int epoch = 0; epoch < 20; epoch++) {
        struct pw_packing_options o = {.max_length = LIMIT, .batch_size = 1, .packing = true, .shuffle = true, .weights = true, .seed = 3};
        struct pw_packing *p;
        ck_ok(pw_packing_plan(&p, d, NULL, 0, &o, epoch));
        for (int64_t i = 0; i < p->n_rows; i++) {
            first += p->rows[i] < 100;
            second += p->rows[i] >= 100 && p->rows[i] < 200;
        }
        pw_packing_free(p);
    }
    ck_assert_int_eq(first, 4000);
    ck_close((double)second, 500, 5 * sqrt(2000 * 0.25 * 0.75), 0); /* binomial, 5 sigma; the seed is fixed */
    pw_arena_free(&a);
}
END_TEST

START_TEST(split_keeps_equal_rows_together)
{
    struct pw_arena a;
    uint32_t *train, *held, *held2;
    int64_t n_train, n_held, n_held2;
    pw_arena_init(&a);
    struct pw_dataset *d = made(&a);
    for (uint64_t seed = 0; seed < 20; seed++) {
        ck_ok(pw_dataset_split(&a, d, 0.1, seed, &train, &n_train, &held, &n_held));
        ck_assert_int_eq(n_train + n_held, ROWS);
        ck_assert_int_ge(n_held, 30);
        int equal_held = 0;
        for (int64_t i = 0; i < n_held; i++) {
            equal_held += held[i] >= 290;
            ck_assert(i == 0 || held[i] > held[i - 1]);
        }
        ck_assert_msg(equal_held == 0 || equal_held == 10, "%d of ten equal rows are held out", equal_held);
    }
    ck_ok(pw_dataset_split(&a, d, 0.1, 19, &train, &n_train, &held2, &n_held2));
    ck_assert(n_held == n_held2 && memcmp(held, held2, (size_t)n_held * sizeof *held) == 0);
    ck_ok(pw_dataset_split(&a, d, 1e-9, 1, &train, &n_train, &held, &n_held));
    ck_assert_int_ge(n_held, 1);
    ck_fails(pw_dataset_split(&a, d, 1.5, 1, &train, &n_train, &held, &n_held), PW_E_USAGE, "between 0 and 1");
    d->n_rows = 1;
    ck_fails(pw_dataset_split(&a, d, 0.5, 1, &train, &n_train, &held, &n_held), PW_E_REFUSED, "nothing to train on");
    pw_arena_free(&a);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("packing");
    TCase *c = tcase_create("packing");
    tcase_add_test(c, every_row_once);
    tcase_add_test(c, order_without_shuffling);
    tcase_add_test(c, weights_decide_how_often);
    tcase_add_test(c, split_keeps_equal_rows_together);
    suite_add_tcase(s, c);
    return test_run(s);
}
