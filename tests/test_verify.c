/* Two artefacts on the same tokens: the measures against logits taken one by one, both models at once and in turn, and what is refused. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "infer/verify.h"
#include "tests/support.h"

enum { V = 64, N = 16 };
static const int32_t IDS[N] = {1, 17, 4, 33, 60, 9, 9, 2, 41, 28, 5, 63, 11, 30, 7, 52};
static const struct pw_verify_prompt prompts[] = {{IDS, N}, {IDS + 3, 7}, {IDS + 12, 1}, {IDS + 1, 11}};
enum { PROMPTS = 4, TOKENS = N + 7 + 1 + 11 };

struct pair { struct pw_dev *dev; struct pw_model *m[2]; const char *path, *types[2]; bool both; int loads, alive; };

static int open_one(struct pair *p, int side)
{
    const struct pw_model_options o = {.quantise = p->types[side]};
    p->loads++;
    return pw_model_load(&p->m[side], p->dev, p->path, &o);
}

static int hand_out(void *ctx, int side, struct pw_model **out)
{
    struct pair *p = ctx;
    if (!p->m[side]) {
        if (!p->both) {
            pw_model_free(p->m[!side]);
            p->m[!side] = NULL;
        }
        PW_PASS(open_one(p, side));
    }
    ck_assert(p->both || !p->m[!side]);
    *out = p->m[side];
    return 0;
}

static void pair_open(struct pair *p, const char *left, const char *right, bool both)
{
    const struct pw_dev_options dev = {.kind = "cpu", .threads = 2, .level = getenv("PW_CPU")};
    *p = (struct pair){.path = "tests/data/llama-untied", .types = {left, right}, .both = both};
    ck_ok(pw_dev_open(&p->dev, &dev));
}

static void pair_close(struct pair *p)
{
    pw_model_free(p->m[0]);
    pw_model_free(p->m[1]);
    pw_dev_close(p->dev);
}

/* Logits of every row by itself, one token at a time. */
static void all_logits(const char *type, float *out)
{
    struct pair p;
    struct pw_session *s;
    const int32_t row = 0;
    pair_open(&p, type, type, true);
    ck_ok(open_one(&p, 0));
    ck_ok(pw_session_open(&s, p.m[0], N, 1, 1));
    for (int i = 0; i < PROMPTS; i++) {
        pw_session_reset(s);
        const int seq = pw_session_add(s, N, -1);
        for (int64_t k = 0; k < prompts[i].n; k++, out += V) {
            const struct pw_feed f = {seq, prompts[i].ids + k, 1};
            ck_ok(pw_session_feed(s, &f, 1));
            ck_ok(pw_session_logits(s, &row, 1, out));
        }
    }
    pw_session_close(s);
    pair_close(&p);
}

static int likeliest(const float *x)
{
    int most = 0;
    for (int v = 1; v < V; v++)
        most = x[v] > x[most] ? v : most;
    return most;
}

/* The measures in double, written again in the plainest way. */
static void expect(const float *a, const float *b, struct pw_verify_result *r)
{
    *r = (struct pw_verify_result){.prompts = PROMPTS, .tokens = TOKENS};
    for (int i = 0, row = 0; i < PROMPTS; i++)
        for (int64_t k = 0; k < prompts[i].n; k++, row++) {
            const float *x = a + row * V, *y = b + row * V;
            double sx = 0, sy = 0, kl = 0;
            for (int v = 0; v < V; v++)
                sx += exp(x[v]), sy += exp(y[v]);
            for (int v = 0; v < V; v++) {
                kl += exp(x[v]) / sx * log(exp(x[v]) / sx / (exp(y[v]) / sy));
                if (fabs((double)x[v] - y[v]) > r->max_logit_diff) {
                    r->max_logit_diff = fabs((double)x[v] - y[v]);
                    r->worst_prompt = i, r->worst_position = k, r->worst_token = v;
                }
            }
            r->kl += kl / TOKENS;
            r->max_kl = kl > r->max_kl ? kl : r->max_kl;
            r->same_token += likeliest(x) == likeliest(y);
            if (r->kind == PW_VERIFY_SAME && likeliest(x) != likeliest(y)) {
                r->kind = PW_VERIFY_TOKEN;
                r->prompt = i, r->position = k;
                r->left = likeliest(x), r->right = likeliest(y);
                r->left_logits[0] = x[r->left], r->left_logits[1] = x[r->right];
                r->right_logits[0] = y[r->left], r->right_logits[1] = y[r->right];
            }
        }
}

static void same_result(const struct pw_verify_result *r, const struct pw_verify_result *e)
{
    ck_assert_int_eq(r->prompts, e->prompts);
    ck_assert_int_eq(r->tokens, e->tokens);
    ck_assert_int_eq(r->same_token, e->same_token);
    ck_assert(r->max_logit_diff == e->max_logit_diff);
    ck_assert(r->worst_prompt == e->worst_prompt && r->worst_position == e->worst_position && r->worst_token == e->worst_token);
    ck_close(r->kl, e->kl, 1e-12, 1e-9);
    ck_close(r->max_kl, e->max_kl, 1e-12, 1e-9);
    ck_assert_int_eq(r->kind, e->kind);
    ck_assert(r->prompt == e->prompt && r->position == e->position && r->left == e->left && r->right == e->right);
    ck_assert(memcmp(r->left_logits, e->left_logits, sizeof r->left_logits) == 0 && memcmp(r->right_logits, e->right_logits, sizeof r->right_logits) == 0);
}

START_TEST(measures)
{
    struct pw_verify_result r, e;
    struct pair p;
    static float a[TOKENS * V], b[TOKENS * V];
    all_logits("", a);
    all_logits("nf4", b);
    expect(a, b, &e);
    ck_assert(e.kind == PW_VERIFY_TOKEN && e.same_token < TOKENS && e.same_token > 0 && e.kl > 1e-4);  /* a pair that tells something */
    pair_open(&p, "", "nf4", true);
    struct pw_verify_options o = {.tolerance = -1, .both = true};
    ck_ok(pw_verify(&r, prompts, PROMPTS, &o, hand_out, &p, NULL));
    same_result(&r, &e);
    ck_assert_int_eq(p.loads, 2);
    pair_close(&p);
    /* in turn: 3 rows of logits kept, so the sides change places 12 times */
    pair_open(&p, "", "nf4", false);
    o = (struct pw_verify_options){.tolerance = -1, .keep_bytes = 3 * V * sizeof(float)};
    ck_ok(pw_verify(&r, prompts, PROMPTS, &o, hand_out, &p, NULL));
    same_result(&r, &e);
    ck_assert_int_eq(p.loads, 1 + (TOKENS + 2) / 3);
    pair_close(&p);
}
END_TEST

START_TEST(same_and_tolerance)
{
    struct pw_verify_result r;
    struct pair p;
    pair_open(&p, "", "", true);
    struct pw_verify_options o = {.tolerance = 0, .both = true, .keep_bytes = 1};
    ck_ok(pw_verify(&r, prompts, PROMPTS, &o, hand_out, &p, NULL));
    ck_assert(r.max_logit_diff == 0 && r.kl == 0 && r.max_kl == 0 && r.kind == PW_VERIFY_SAME && r.same_token == TOKENS);
    pair_close(&p);
    pair_open(&p, "", "int8", true);
    o = (struct pw_verify_options){.tolerance = 0, .both = true};
    ck_ok(pw_verify(&r, prompts, PROMPTS, &o, hand_out, &p, NULL));
    ck_assert(r.kind != PW_VERIFY_SAME && r.prompt == 0 && r.position == 0);       /* every logit differs a little */
    const double most = r.max_logit_diff;
    const bool all = r.same_token == TOKENS;
    o.tolerance = most;
    ck_ok(pw_verify(&r, prompts, PROMPTS, &o, hand_out, &p, NULL));
    ck_assert(r.kind == (all ? PW_VERIFY_SAME : PW_VERIFY_TOKEN));
    o.tolerance = most * 0.999;
    ck_ok(pw_verify(&r, prompts, PROMPTS, &o, hand_out, &p, NULL));
    ck_assert(r.kind != PW_VERIFY_SAME);
    pair_close(&p);
}
END_TEST

START_TEST(refused)
{
    struct pw_verify_result r;
    struct pair p;
    static int32_t many[5000];
    const struct pw_verify_prompt longer = {many, 5000}, none = {IDS, 0}, strange = {(const int32_t[]){1, V}, 2};
    const struct pw_verify_options o = {.tolerance = -1, .both = true};
    pair_open(&p, "", "", true);
    ck_fails(pw_verify(&r, &longer, 1, &o, hand_out, &p, NULL), PW_E_REFUSED, "prompt 0 has 5000 tokens, the context of the left model holds");
    ck_fails(pw_verify(&r, &none, 1, &o, hand_out, &p, NULL), PW_E_FAIL, "no tokens");
    ck_fails(pw_verify(&r, &none, 0, &o, hand_out, &p, NULL), PW_E_REFUSED, "no prompt");
    ck_fails(pw_verify(&r, &strange, 1, &o, hand_out, &p, NULL), PW_E_FAIL, "token 64 is not in the vocabulary");
    /* a model that computes no numbers */
    if (!p.m[1])
        ck_ok(open_one(&p, 1));
    struct pw_lora lora = {.r = 1, .scale = 1};
    static float A[512], B[512];
    for (int i = 0; i < 512; i++)
        A[i] = 1, B[i] = INFINITY;
    struct pw_weight *w = &p.m[1]->layers[0].linear[PW_LIN_V];
    lora.a = pw_tensor2(A, PW_F32, 1, w->n_in);
    lora.b = pw_tensor2(B, PW_F32, w->n_out, 1);
    ck_assert(w->n_in <= 512 && w->n_out <= 512);
    w->lora = &lora;
    ck_fails(pw_verify(&r, prompts, PROMPTS, &o, hand_out, &p, NULL), PW_E_NUMERIC, "right: prompt 0, position 0");
    w->lora = NULL;
    pair_close(&p);
}
END_TEST

static int nomem(void *context)
{
    struct pair *p = context;
    struct pw_verify_result r;
    const struct pw_verify_options o = {.tolerance = -1, .both = true};
    return pw_verify(&r, prompts, PROMPTS, &o, hand_out, p, NULL);
}

START_TEST(without_memory)
{
    struct pair p;
    pair_open(&p, "", "", true);
    ck_ok(open_one(&p, 0));
    ck_ok(open_one(&p, 1));
    ck_assert(test_sweep_nomem(nomem, &p) > 2);
    pair_close(&p);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("verify");
    TCase *c = tcase_create("verify");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, measures);
    tcase_add_test(c, same_and_tolerance);
    tcase_add_test(c, refused);
    tcase_add_test(c, without_memory);
    suite_add_tcase(s, c);
    return test_run(s);
}
