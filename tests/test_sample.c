/* Drawing tokens: every device draws the token that a plain walk over sorted tokens draws, whatever the logits; the shares are those of the softmax. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/rng.h"
#include "infer/sampler.h"
#include "kernels/backend.h"
#include "kernels/sample.h"
#include "tests/support.h"

enum { ROWS = 16 };

/* ---- logits ---- */

enum kind { SPREAD, STEPS, EQUAL, SIGNS, HOLES, ONE_HOT, HUGE_RANGE, KINDS };
static float logit(enum kind kind, int64_t i, int64_t vocab, struct pw_rng *r)
{
    const double x = pw_rng_uniform(r), y = pw_rng_uniform(r);
    switch (kind) {
    case SPREAD: return (float)(3 * sqrt(-2 * log(1 - x)) * cos(6.283185307179586 * y));
    case STEPS: return (float)floor(x * 9) / 4;                               /* many equal */
    case EQUAL: return -2.5f;
    case SIGNS: return x < 0.4 ? 0.0f : x < 0.8 ? -0.0f : -0.5f;              /* -0 is 0 */
    case HOLES: return x < 0.7 && i != vocab / 2 ? -INFINITY : (float)(8 * y); /* tokens that a grammar rules out */
    case ONE_HOT: return i == vocab * 2 / 3 ? 30.0f : -30.0f;
    default: return (float)((x - 0.5) * 6e38 * (y < 0.5 ? 1 : 1e-30));
    }
}

/* ---- how ---- */

static struct pw_draw how(int t)
{
    static const struct { double temperature, top_p, min_p; int64_t top_k; } table[] = {
        {0, 0, 0, 0}, {1, 0, 0, 0}, {0.7, 0.9, 0, 0}, {1.3, 0, 0.05, 0}, {1, 0, 0, 40}, {2, 0.5, 0.01, 7}, {1, 0, 0, 1}, {1, 1e-9, 0, 0},
        {1e-3, 0, 0, 0}, {1e6, 0, 0, 0}, {5, 0.999999, 0, 0}, {1, 0.3, 2, 3}, {1e300, 0, 0, 5}, {1e-300, 0.5, 0, 0}, {0.5, 1, 0, 1 << 30}, {1, 0, 1, 0},
    };
    const int i = t % (int)(sizeof table / sizeof *table);
    return (struct pw_draw){.temperature = table[i].temperature, .top_p = table[i].top_p, .min_p = table[i].min_p, .top_k = table[i].top_k,
                            .seed = 11 + (uint64_t)t, .stream = (uint64_t)PW_STREAM_SAMPLE << 33, .at = (uint64_t)t * 7};
}

/* ---- the plain walk ---- */

struct token { float z; int32_t id; uint64_t weight; };
static int by_order(const void *a, const void *b)
{
    const struct token *x = a, *y = b;
    return x->z != y->z ? x->z > y->z ? -1 : 1 : x->id < y->id ? -1 : 1;
}
static int32_t walk(struct token *tokens, int64_t n, const struct pw_draw *d)
{
    struct pw_rng r = {d->seed, d->stream, d->at};
    uint64_t total = 0, sum = 0;
    if (d->temperature == 0) return tokens[0].id;
    for (int64_t i = 0; i < n; i++) tokens[i].weight = sample_weight(tokens[i].z, tokens[0].z, sample_sharpness(d->temperature));
    if (d->top_k && d->top_k < n) n = d->top_k;
    for (int64_t i = 0; i < n; i++) total += tokens[i].weight;
    if (d->top_p > 0 && d->top_p < 1) {
        int64_t i = 0;
        for (sum = tokens[0].weight; (double)sum < ceil((double)total * d->top_p); sum += tokens[i].weight) i++;
        n = i + 1;
        total = sum;
    }
    for (int64_t i = 1; i < n; i++)
        if (tokens[i].weight < (d->min_p < 1 ? d->min_p : 1) * 0x1p40) n = i;
    for (int64_t i = total = 0; i < n; i++) total += tokens[i].weight;
    const uint64_t place = (uint64_t)((unsigned __int128)pw_rng_u64(&r) * total >> 64);
    for (int64_t i = sum = 0;; i++)
        if ((sum += tokens[i].weight) > place) return tokens[i].id;
}

/* ---- devices ---- */

static void draw_on(const char *kind, const char *order, int threads, const float *logits, int64_t rows, int64_t vocab, const struct pw_draw *draws, int32_t *ids)
{
    struct pw_dev *dev;
    void *z, *id, *list;
    struct pw_draws all = {.n = (int)rows, .rows = draws};
    ck_ok(pw_dev_open(&dev, &(struct pw_dev_options){.kind = kind, .level = order, .threads = threads}));
    ck_ok(dev->backend->take(dev, &z, (size_t)(rows * vocab + 1) * sizeof(float)));
    ck_ok(dev->backend->take(dev, &id, (size_t)rows * sizeof(int32_t)));
    ck_ok(dev->backend->take(dev, &list, pw_draws_bytes((int)rows)));
    ck_ok(pw_dev_put(dev, (float *)z + 1, logits, (size_t)(rows * vocab) * sizeof(float)));   /* at no round address */
    ck_ok(pw_draws_put(dev, list, &all));
    ck_ok(pw_dev_reserve(dev, pw_scratch_sample(dev, vocab)));
    ck_ok(pw_sample(dev, pw_tensor1(id, PW_I32, rows), pw_tensor2((float *)z + 1, PW_F32, rows, vocab), &all));
    ck_ok(pw_dev_get(dev, ids, id, (size_t)rows * sizeof *ids));
    dev->backend->give(dev, z);
    dev->backend->give(dev, id);
    dev->backend->give(dev, list);
    pw_dev_close(dev);
}

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
static const int64_t vocabs[] = {2, 1025};
enum { THREADS = 1, MOST_ROWS = 4 };
#else
static const int64_t vocabs[] = {1, 2, 33, 1025, 5003, 32000, 151936};
enum { THREADS = 2, MOST_ROWS = ROWS };
#endif

static const char *kind_of(int i) { return i == 0 ? "ref" : i == 1 ? "cpu" : test_card(); }

START_TEST(every_device_draws_the_same)
{
    const int64_t vocab = vocabs[_i], rows = vocab > 30000 ? 2 : vocab > 5000 || vocab < 3 ? 4 : MOST_ROWS;
    float *z = malloc((size_t)(rows * vocab) * sizeof *z);
    struct token *tokens = malloc((size_t)vocab * sizeof *tokens);
    for (int kind = 0; kind < KINDS; kind++) {
        struct pw_rng r = pw_rng_make(3, (uint64_t)kind);
        struct pw_draw draws[ROWS];
        int32_t want[ROWS], got[ROWS];
        for (int64_t t = 0; t < rows; t++) {
            float *row = z + t * vocab;
            draws[t] = how((int)(t + (rows == ROWS ? 0 : 2 + rows * kind)));
            for (int64_t i = 0; i < vocab; i++) {
                row[i] = logit(kind, i, vocab, &r);
                tokens[i] = (struct token){row[i], (int32_t)i, 0};
            }
            qsort(tokens, (size_t)vocab, sizeof *tokens, by_order);
            want[t] = walk(tokens, vocab, &draws[t]);
        }
        for (int d = 0; d < 3; d++) {
            draw_on(kind_of(d), "", THREADS, z, rows, vocab, draws, got);
            for (int64_t t = 0; t < rows; t++)
                ck_assert_msg(got[t] == want[t], "%s, %d words, logits of kind %d, row %d: token %d, expected %d", kind_of(d), (int)vocab, kind, (int)t, got[t], want[t]);
        }
        if (vocab != 33 && vocab != 1025) continue;                     /* the order of the threads does not matter, nor do the rows beside */
        draw_on(test_card(), test_card_order("random:5"), 1, z, rows, vocab, draws, got);
        ck_assert(memcmp(got, want, (size_t)rows * sizeof *got) == 0);
        draw_on(test_card(), "", 1, z + 2 * vocab, 1, vocab, draws + 2, got);
        ck_assert_int_eq(got[0], want[2]);
    }
    free(tokens);
    free(z);
}
END_TEST

/* exp on whole numbers: within 3e-7 of the weight (a rounding of the exponent of up to 41, one of 2^-41 and a few of the series), and 2^-40 of the largest. */
START_TEST(weights)
{
    for (int k = 0; k < 20000; k++) {
        const float z = -0.0015f * (float)k, top = 1.25f;
        const double want = exp(((double)z - (double)top) / 0.8) * 0x1p40, got = (double)sample_weight(z, top, sample_sharpness(0.8));
        ck_close(got, want, 1, (double)(2 + (top - z) * 1.5f / 0.8f) * 0x1p-23);
    }
    ck_assert(sample_weight(3, 3, sample_sharpness(1)) == SAMPLE_ONE && sample_weight(-INFINITY, 3, sample_sharpness(1)) == 0);
    ck_assert(sample_order(0.0f) == sample_order(-0.0f) && sample_order(1) < sample_order(0.5f) && sample_order(-1e-40f) > sample_order(0) && sample_order(-INFINITY) > sample_order(-3e38f) && sample_order(INFINITY) < sample_order(3e38f));
    ck_assert(sample_share(100, 0.5) == 50 && sample_share(100, 1e-9) == 1 && sample_share(100, 0.999) == 100 && sample_least(2) == SAMPLE_ONE);
}
END_TEST

START_TEST(refused)
{
    static const float nan[6] = {0, 1, 2, 3, NAN, INFINITY}, none[3] = {-INFINITY, -INFINITY, -INFINITY};
    for (int d = 0; d < 3; d++) {
        struct pw_dev *dev;
        void *z, *id, *list;
        struct pw_draw rows[2] = {how(0), how(1)};
        struct pw_draws draws = {.n = 2, .rows = rows};
        int32_t ids[2];
        ck_ok(pw_dev_open(&dev, &(struct pw_dev_options){.kind = kind_of(d), .threads = 1}));
        ck_ok(dev->backend->take(dev, &z, sizeof nan));
        ck_ok(dev->backend->take(dev, &id, sizeof ids));
        ck_ok(dev->backend->take(dev, &list, pw_draws_bytes(2)));
        ck_ok(pw_dev_reserve(dev, 4096));
        ck_ok(pw_draws_put(dev, list, &draws));
        const struct pw_tensor to = pw_tensor1(id, PW_I32, 2);
        ck_ok(pw_dev_put(dev, z, nan, sizeof nan));
        int rc = pw_sample(dev, to, pw_tensor2(z, PW_F32, 2, 3), &draws);
        ck_fails(rc ? rc : pw_dev_sync(dev), PW_E_NUMERIC, "logit of token 1 is not a number");
        ck_ok(pw_dev_put(dev, (float *)z + 3, none, sizeof none));
        rc = pw_sample(dev, to, pw_tensor2(z, PW_F32, 2, 3), &draws);
        ck_fails(rc ? rc : pw_dev_sync(dev), PW_E_NUMERIC, "logits[1]");
        ck_fails(pw_sample(dev, to, pw_tensor2(z, PW_F32, 1, 6), &draws), PW_E_FAIL, "ids");
        draws.n = 1;
        ck_fails(pw_sample(dev, to, pw_tensor2(z, PW_F32, 2, 3), &draws), PW_E_FAIL, "draws: expected 2, got 1");
        draws.n = 2;
        rows[1].top_p = -1;
        ck_fails(pw_sample(dev, to, pw_tensor2(z, PW_F32, 2, 3), &draws), PW_E_FAIL, "draws[1]");
        ck_fails(pw_draws_put(dev, list, &draws), PW_E_FAIL, "draws[1]");
        ck_fails(pw_sample(dev, to, pw_tensor2(z, PW_BF16, 2, 3), &draws), PW_E_FAIL, "logits");
        ck_fails(pw_softcap(dev, pw_tensor2(z, PW_F32, 2, 3), 0), PW_E_FAIL, "cap");
        dev->backend->give(dev, z);
        dev->backend->give(dev, id);
        dev->backend->give(dev, list);
        pw_dev_close(dev);
    }
    struct pw_sampler s = {.temperature = 1, .rng = pw_rng_make(1, PW_STREAM_SAMPLE)};
    int32_t id;
    ck_fails(pw_sampler_pick(&s, nan, 6, &id), PW_E_NUMERIC, "token 4");
    ck_fails(pw_sampler_pick(&s, none, 3, &id), PW_E_NUMERIC, "finite");
    ck_assert_uint_eq(s.rng.at, 0);                      /* nothing was drawn */
    ck_ok(pw_sampler_pick(&s, nan, 4, &id));
    ck_assert_uint_eq(s.rng.at, 1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("sample");
    TCase *t = tcase_create("sample");
    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, every_device_draws_the_same, 0, sizeof vocabs / sizeof *vocabs);
    tcase_add_test(t, weights);
    tcase_add_test(t, refused);
    suite_add_tcase(s, t);
    return test_run(s);
}
