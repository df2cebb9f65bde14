/* Steps of decoding that are captured and replayed: the bytes of steps that are launched, and what may not be captured. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "infer/sampler.h"
#include "infer/session.h"
#include "kernels/backend.h"
#include "tests/support.h"

struct opened { struct pw_dev *dev; struct pw_model *m; struct pw_session *s; };

static void feed(struct pw_session *s, int seq, const int32_t *ids, int64_t n)
{
    const struct pw_feed f = {seq, ids, n};
    ck_ok(pw_session_feed(s, &f, 1));
}

/* A step that is captured and replayed gives the bytes of one that is launched: 50 steps of 1, 4 and 16 timelines, across the lengths where attention
 * takes more splits and where the plan is made anew, with an adapter that comes and goes, and with a prefix. _i: cache of bf16, of int8.
 * PW_FAST: 1 alone. */
enum { STEPS = 50, SEQS = 16 };

static void fifty_steps(struct opened *o, const struct pw_adapter *adapter, int n, bool prefix, bool capture, float *logits, int64_t *replays)
{
    const int64_t V2 = o->m->config.vocab;
    int32_t long_ids[300], ids[SEQS], rows[SEQS];
    struct pw_feed feeds[SEQS];
    int seqs[SEQS], shared = -1;
    for (int i = 0; i < 300; i++)
        long_ids[i] = (i * 31 + 7) % (int)V2;
    ck_ok(pw_session_open(&o->s, o->m, 5000, 300, SEQS + 1));
    pw_session_capture(o->s, capture);
    if (prefix) {
        shared = pw_session_add(o->s, 40, -1);
        feed(o->s, shared, long_ids, 40);
    }
    for (int i = 0; i < n; i++) {           /* 100, 240, 114, 121 keys: around 128 and 256; the others are short */
        seqs[i] = pw_session_add(o->s, 300, shared);
        ck_assert(seqs[i] >= 0);
        feed(o->s, seqs[i], long_ids + i, i == 1 ? 240 : i < 4 ? 100 + 7 * i : i);
    }
    for (int step = 0; step < STEPS; step++) {
        if (step % 20 == 10)
            ck_ok(pw_model_attach(o->m, step == 30 ? NULL : adapter));
        for (int i = 0; i < n; i++) {
            ids[i] = (step * 13 + i * 5) % (int)V2;
            rows[i] = i;
            feeds[i] = (struct pw_feed){seqs[i], &ids[i], 1};
        }
        ck_ok(pw_session_feed(o->s, feeds, n));
        ck_ok(pw_session_logits(o->s, rows, n, logits + (size_t)step * SEQS * (size_t)V2));
    }
    *replays = pw_session_replays(o->s);
    ck_ok(pw_model_attach(o->m, NULL));
    pw_session_close(o->s);
    o->s = NULL;
}

START_TEST(same_bytes)
{
    const struct pw_model_config config = {.layers = 1, .hidden = 32, .heads = 4, .kv_heads = 2, .head_dim = 16, .ffn = 40, .vocab = 50, .context = 400,
                                           .norm_eps = 1e-5, .rope_theta = 10000, .attn_scale = 0.25, .init_range = 0.3, .embed_scale = 1};
    struct opened o = {0};
    int64_t replays;
    static float launched[STEPS * SEQS * 50], replayed[STEPS * SEQS * 50];
    float a[3 * 32], b[40 * 3];
    ck_ok(pw_dev_open(&o.dev, &(struct pw_dev_options){.kind = test_card(), .threads = 1}));
    ck_ok(pw_model_create(&o.m, o.dev, &config, 4));
    o.m->cache_type = _i ? PW_I8 : PW_BF16;
    for (int i = 0; i < 3 * 32; i++)
        a[i] = 0.1f * (float)(i % 7 - 3);
    for (int i = 0; i < 40 * 3; i++)
        b[i] = 0.1f * (float)(i % 5 - 2);
    void *device;
    ck_ok(o.dev->backend->take(o.dev, &device, sizeof a + sizeof b));
    ck_ok(pw_dev_put(o.dev, device, a, sizeof a));
    ck_ok(pw_dev_put(o.dev, (char *)device + sizeof a, b, sizeof b));
    struct pw_adapter_module module = {.name = "model.layers.0.mlp.up_proj", .n_in = 32, .n_out = 40,
        .lora = {.r = 3, .scale = 2, .a = pw_tensor2(device, PW_F32, 3, 32), .b = pw_tensor2((char *)device + sizeof a, PW_F32, 40, 3)}};
    const struct pw_adapter adapter = {.modules = &module, .n = 1};
    static const struct { int n; bool prefix; } kinds[] = {{1, false}, {4, true}, {16, false}};
    const bool fast = getenv("PW_FAST") != NULL;
    for (int k = 0; k < (fast ? 1 : 3); k++) {
        const int n = kinds[k].n;
        fifty_steps(&o, &adapter, n, kinds[k].prefix, false, launched, &replays);
        ck_assert_int_eq(replays, 0);
        fifty_steps(&o, &adapter, n, kinds[k].prefix, true, replayed, &replays);
        ck_assert_msg(replays >= STEPS - 6, "%d timelines: %d of %d steps were replayed", n, (int)replays, STEPS); /* one attach more, one length */
        for (int step = 0; step < STEPS; step++)
            ck_assert_msg(memcmp(launched + step * SEQS * 50, replayed + step * SEQS * 50, (size_t)n * 50 * sizeof(float)) == 0,
                          "%d timelines: step %d, replayed, differs", n, step);
        ck_assert(memcmp(replayed, replayed + SEQS * 50, 50 * sizeof(float)) != 0);
    }
    o.dev->backend->give(o.dev, device);
    pw_model_free(o.m);
    pw_dev_close(o.dev);
}
END_TEST

/* Tokens that are drawn in a captured step: those that the host draws from the logits of the same pass, greedy and not, with logits that are capped; 10
 * timelines are more than there are rows of logits at a time. A prompt among the steps draws one token of many rows. */
enum { DRAWN = 10, ROUNDS = 5 };
START_TEST(drawn_in_the_step)
{
    const struct pw_model_config config = {.layers = 1, .hidden = 32, .heads = 4, .kv_heads = 2, .head_dim = 16, .ffn = 40, .vocab = 50, .context = 400, .norm_eps = 1e-5,
                                           .rope_theta = 10000, .attn_scale = 0.25, .init_range = 0.3, .embed_scale = 1, .logit_softcap = _i ? 1.5 : 0};
    struct opened o = {0};
    int32_t got[2][ROUNDS + 1][DRAWN] = {0};
    ck_ok(pw_dev_open(&o.dev, &(struct pw_dev_options){.kind = test_card(), .threads = 1}));
    ck_ok(pw_model_create(&o.m, o.dev, &config, 4));
    for (int capture = 0; capture < 2; capture++) {
        struct pw_sampler sampler[DRAWN];
        struct pw_draw draws[DRAWN];
        struct pw_feed feeds[DRAWN];
        int32_t prompt[3 * DRAWN], rows[DRAWN];
        float logits[DRAWN * 50];
        ck_ok(pw_session_open(&o.s, o.m, 500, 3 * DRAWN, DRAWN));
        pw_session_capture(o.s, capture);
        for (int i = 0; i < DRAWN; i++) {
            for (int j = 0; j < 3; j++)
                prompt[3 * i + j] = (7 * i + 11 * j + 1) % 50;
            feeds[i] = (struct pw_feed){pw_session_add(o.s, 3 + ROUNDS, -1), prompt + 3 * i, 3};
            rows[i] = 3 * i + 2;
            sampler[i] = (struct pw_sampler){.temperature = i % 3 * 0.7, .top_p = i % 2 ? 0.9 : 0, .top_k = i % 4 ? 20 : 0, .rng = pw_rng_make(5, (uint64_t)i)};
        }
        for (int round = 0; round <= ROUNDS; round++) {
            for (int i = 0; i < DRAWN; i++) {
                draws[i] = pw_sampler_draw(&sampler[i]);
                if (round == 0)
                    continue;
                feeds[i].ids = &got[capture][round - 1][i];
                feeds[i].n = 1;
                rows[i] = i;
            }
            if (round == 1 || round == 2)      /* steps of the same kind that draw nothing, which are captured apart */
                ck_ok(pw_session_feed(o.s, feeds, DRAWN));
            else
                ck_ok(pw_session_next(o.s, feeds, DRAWN, rows, draws, DRAWN, got[capture][round]));
            ck_ok(pw_session_logits(o.s, rows, DRAWN, logits));
            for (int i = 0; i < DRAWN; i++) {
                int32_t id;
                ck_ok(pw_sampler_pick(&sampler[i], logits + 50 * i, 50, &id));
                if (round == 1 || round == 2)
                    got[capture][round][i] = id;
                ck_assert_int_eq(got[capture][round][i], id);
                for (int v = 0; v < 50 && _i; v++)
                    ck_assert(fabsf(logits[50 * i + v]) <= 1.5f);
            }
        }
        ck_assert_int_eq(pw_session_replays(o.s), capture ? ROUNDS - 2 : 0);
        draws[3].temperature = -1;
        ck_fails(pw_session_next(o.s, feeds, DRAWN, rows, draws, DRAWN, got[0][0]), PW_E_FAIL, "draws[3]");
        rows[0] = DRAWN;
        ck_fails(pw_session_next(o.s, feeds, DRAWN, rows, draws, DRAWN, got[0][0]), PW_E_FAIL, "row 10");
        ck_fails(pw_session_next(o.s, feeds, 1, rows, draws, 2, got[0][0]), PW_E_FAIL, "2 rows");
        pw_session_close(o.s);
        o.s = NULL;
    }
    ck_assert(memcmp(got[0][1], got[1][1], sizeof got[0] - sizeof got[0][0]) == 0);
    ck_assert(memcmp(got[1][3], got[1][4], sizeof got[1][3]) != 0);
    pw_model_free(o.m);
    pw_dev_close(o.dev);
}
END_TEST

/* Only ops belong into a step; what is dropped never ran; what is replayed runs on what memory holds then. */
START_TEST(rules)
{
    struct pw_dev *dev;
    void *graph = NULL, *device;
    float a[96] = {0};
    ck_ok(pw_dev_open(&dev, &(struct pw_dev_options){.kind = test_card(), .threads = 2}));
    ck_ok(dev->backend->take(dev, &device, 2 * sizeof a));
    const struct pw_tensor x = pw_tensor1(device, PW_F32, 96), y = pw_tensor1((char *)device + sizeof a, PW_F32, 96);
    ck_ok(pw_dev_capture(dev));
    ck_fails(pw_dev_put(dev, device, a, sizeof a), PW_E_FAIL, "inside of a step that is being captured");
    ck_fails(pw_dev_get(dev, a, device, sizeof a), PW_E_FAIL, "inside of a step that is being captured");
    ck_fails(pw_dev_sync(dev), PW_E_FAIL, "inside of a step that is being captured");
    ck_fails(pw_dev_bring(dev, 0, device, a, sizeof a), PW_E_FAIL, "inside of a step that is being captured");
    ck_fails(pw_dev_capture(dev), PW_E_FAIL, "inside of a step that is being captured");
    ck_ok(pw_fill(dev, x, 5));
    ck_ok(pw_dev_captured(dev, NULL));
    ck_fails(pw_dev_captured(dev, NULL), PW_E_FAIL, "no step is being captured");
    ck_ok(pw_dev_get(dev, a, device, sizeof a));
    ck_assert(a[0] == 0 && a[95] == 0);
    ck_ok(pw_dev_capture(dev));
    ck_ok(pw_axpy(dev, y, x, 2));
    ck_ok(pw_axpy(dev, y, x, 1));
    ck_ok(pw_dev_captured(dev, &graph));
    for (int i = 1; i <= 3; i++) {
        ck_ok(pw_fill(dev, x, i));
        ck_ok(pw_dev_replay(dev, graph));
    }
    ck_ok(pw_dev_get(dev, a, y.data, sizeof a));
    ck_assert(a[0] == 18 && a[95] == 18);
    pw_dev_graph_free(dev, graph);
    pw_dev_graph_free(dev, NULL);
    dev->backend->give(dev, device);
    pw_dev_close(dev);
    ck_ok(pw_dev_open(&dev, &(struct pw_dev_options){.kind = "cpu"}));
    ck_assert(!pw_dev_captures(dev));
    ck_fails(pw_dev_capture(dev), PW_E_UNSUPPORTED, "captures no steps");
    pw_dev_close(dev);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("capture");
    TCase *t = tcase_create("capture");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, same_bytes, 0, 2);
    tcase_add_loop_test(t, drawn_in_the_step, 0, 2);
    tcase_add_test(t, rules);
    suite_add_tcase(s, t);
    return test_run(s);
}
