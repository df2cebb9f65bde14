/* Sessions: logits of transformers reproduced, batches and caches that change nothing, and what is refused. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/value.h"
#include "infer/sampler.h"
#include "infer/session.h"
#include "tests/support.h"

struct opened { struct pw_dev *dev; struct pw_model *m; struct pw_session *s; };

static void open_cached(struct opened *o, const char *path, const char *device, const char *type, const char *cache, int64_t rows, int64_t batch_tokens, int max_seqs)
{
    const struct pw_dev_options dev = {.kind = device, .threads = 2, .level = strcmp(device, "cpu") == 0 ? getenv("PW_CPU") : NULL};
    const struct pw_model_options opt = {.quantise = type, .cache_type = cache};
    *o = (struct opened){0};
    ck_ok(pw_dev_open(&o->dev, &dev));
    ck_ok(pw_model_load(&o->m, o->dev, path, &opt));
    ck_ok(pw_session_open(&o->s, o->m, rows, batch_tokens, max_seqs));
}

static void open_model(struct opened *o, const char *path, const char *device, const char *type, int64_t rows, int64_t batch_tokens, int max_seqs)
{
    open_cached(o, path, device, type, NULL, rows, batch_tokens, max_seqs);
}

static void close_model(struct opened *o)
{
    pw_session_close(o->s);
    pw_model_free(o->m);
    pw_dev_close(o->dev);
}

static const int32_t IDS[] = {1, 17, 4, 33, 60, 9, 9, 2, 41, 28, 5, 63, 11, 30, 7, 52};
enum { N = 16, V = 64 };

static void feed(struct pw_session *s, int seq, const int32_t *ids, int64_t n)
{
    const struct pw_feed f = {seq, ids, n};
    ck_ok(pw_session_feed(s, &f, 1));
}

static void logits_of(struct pw_session *s, int32_t row, float *out)
{
    ck_ok(pw_session_logits(s, &row, 1, out));
}

/* ---- against PyTorch ------------------------------------------------------------------------------------------------ */

static void against_reference(const char *folder, const char *device, const char *type)
{
    struct opened o;
    struct pw_arena arena;
    struct pw_value *expected;
    float got[N * V];
    int32_t rows[N];
    char path[200];
    pw_arena_init(&arena);
    snprintf(path, sizeof path, "%s/expected.json", folder);
    ck_ok(pw_json_load(&arena, path, &expected));
    open_model(&o, folder, device, type, 32, 32, 2);
    const int seq = pw_session_add(o.s, N, -1);
    for (int i = 0; i < N; i++) {
        rows[i] = i;
        ck_assert_int_eq(pw_get(expected, "ids")->items[i].i, IDS[i]);
    }
    feed(o.s, seq, IDS, N);
    ck_ok(pw_session_logits(o.s, rows, N, got));
    for (int t = 0; t < N; t++)
        for (int v = 0; v < V; v++) {
            const struct pw_value *x = &pw_get(expected, "logits")->items[t].items[v];
            ck_close(got[t * V + v], x->kind == PW_INT ? (double)x->i : x->d, 2e-5, 2e-5);
        }
    close_model(&o);
    pw_arena_free(&arena);
}

START_TEST(untied_grouped_heads_scaled_rope)
{
    against_reference("tests/data/llama-untied", "cpu", "");
    against_reference("tests/data/llama-untied", "ref", "");
}
END_TEST

START_TEST(tied_biased_bf16)
{
    against_reference("tests/data/llama-tied", "cpu", "");
    against_reference("tests/data/llama-tied", "cpu", "f32");
    against_reference("tests/data/llama-tied", "ref", "");
}
END_TEST

START_TEST(tinystories_like_transformers)
{
    const char *model = test_shared("data/models/tinystories-656k");
    struct opened o;
    struct pw_arena arena;
    struct pw_value *expected;
    int32_t ids[256], targets[256];
    float logprobs[256];
    if (!model) {
        test_skip("tinystories-656k is not there");
        return;
    }
    pw_arena_init(&arena);
    ck_ok(pw_json_load(&arena, "tests/data/tinystories-656k.json", &expected));
    const struct pw_value *list = pw_get(expected, "ids"), *want = pw_get(expected, "logprobs");
    const int n = (int)list->len;
    ck_assert(n > 10 && n <= 256);
    for (int i = 0; i < n; i++)
        ids[i] = (int32_t)list->items[i].i;
    open_model(&o, model, "cpu", "", 256, 256, 2);
    feed(o.s, pw_session_add(o.s, n, -1), ids, n);
    memcpy(targets, ids + 1, (size_t)(n - 1) * sizeof *ids);
    targets[n - 1] = -1;
    ck_ok(pw_session_logprobs(o.s, targets, logprobs, NULL));
    for (int i = 1; i < n; i++)
        ck_close(logprobs[i - 1], want->items[i].d, 2e-4, 0);
    ck_assert(logprobs[n - 1] == 0);
    close_model(&o);
    pw_arena_free(&arena);
}
END_TEST

/* ---- what must not change a result ---------------------------------------------------------------------------------- */

START_TEST(batch_and_pieces_change_nothing)
{
    struct opened o;
    float alone[V], other[V];
    open_model(&o, "tests/data/llama-untied", "cpu", "", 200, 100, 8);
    int a = pw_session_add(o.s, 30, -1);
    feed(o.s, a, IDS, N);
    logits_of(o.s, N - 1, alone);

    pw_session_rewind(o.s, a, 0);              /* one token at a time */
    for (int i = 0; i < N; i++)
        feed(o.s, a, IDS + i, 1);
    logits_of(o.s, 0, other);
    ck_assert(memcmp(alone, other, sizeof alone) == 0);

    pw_session_rewind(o.s, a, 9);              /* back, and on from there in two pieces */
    ck_assert_int_eq(pw_session_length(o.s, a), 9);
    feed(o.s, a, IDS + 9, 3);
    feed(o.s, a, IDS + 12, 4);
    logits_of(o.s, 3, other);
    ck_assert(memcmp(alone, other, sizeof alone) == 0);

    int32_t noise[40];
    for (int i = 0; i < 40; i++)
        noise[i] = (i * 13) % V;
    pw_session_reset(o.s);
    const int b = pw_session_add(o.s, 40, -1), c = pw_session_add(o.s, 7, -1);
    a = pw_session_add(o.s, 30, -1);
    const int d = pw_session_add(o.s, 40, -1);
    const struct pw_feed feeds[] = {{b, noise, 31}, {c, noise + 4, 7}, {a, IDS, N}, {d, noise, 40}};
    ck_ok(pw_session_feed(o.s, feeds, 4));
    logits_of(o.s, 31 + 7 + N - 1, other);
    ck_assert(memcmp(alone, other, sizeof alone) == 0);
    close_model(&o);
}
END_TEST

/* A shared prefix gives what an own one gives, whatever else shares it; the keys are the same, their grouping in the sum may not be. */
START_TEST(shared_prefix)
{
    struct opened o;
    float own[V], shared[V], crowd[V];
    open_model(&o, "tests/data/llama-tied", "cpu", "", 100, 100, 8);
    int a = pw_session_add(o.s, 20, -1);
    feed(o.s, a, IDS, N);
    logits_of(o.s, N - 1, own);
    pw_session_reset(o.s);
    const int p = pw_session_add(o.s, 10, -1);
    feed(o.s, p, IDS, 10);
    a = pw_session_add(o.s, 6, p);
    const int b = pw_session_add(o.s, 9, p);
    feed(o.s, a, IDS + 10, 6);
    ck_assert_int_eq(pw_session_length(o.s, a), N);
    logits_of(o.s, 5, shared);
    for (int v = 0; v < V; v++)
        ck_close(shared[v], own[v], 1e-5, 1e-5);
    pw_session_rewind(o.s, a, 0);
    const struct pw_feed feeds[] = {{b, IDS, 9}, {a, IDS + 10, 6}};
    ck_ok(pw_session_feed(o.s, feeds, 2));
    logits_of(o.s, 14, crowd);
    ck_assert(memcmp(crowd, shared, sizeof crowd) == 0);

    const struct pw_feed grow = {p, IDS, 1};
    pw_session_rewind(o.s, p, 3);
    ck_fails(pw_session_feed(o.s, &grow, 1), PW_E_FAIL, "must not grow");
    ck_fails(pw_session_rewind(o.s, p, 3), PW_E_FAIL, "prefix of 2 others");
    ck_fails(pw_session_add(o.s, 3, a), PW_E_FAIL, "has a prefix itself");
    pw_session_drop(o.s, p);                   /* shared: stays */
    ck_assert_int_eq(pw_session_length(o.s, p), 10);
    pw_session_drop(o.s, a);
    pw_session_drop(o.s, b);
    pw_session_drop(o.s, p);
    ck_assert_int_eq(pw_session_length(o.s, p), 0);
    close_model(&o);
}
END_TEST

START_TEST(logprobs_are_of_the_logits)
{
    struct opened o;
    float logits[N * V], logprobs[N];
    int32_t rows[N], targets[N], best[N];
    open_model(&o, "tests/data/llama-untied", "cpu", "", 40, 40, 2);
    feed(o.s, pw_session_add(o.s, N, -1), IDS, N);
    for (int i = 0; i < N; i++) {
        rows[i] = i;
        targets[i] = i == 3 ? -1 : (i * 7) % V;
    }
    ck_ok(pw_session_logits(o.s, rows, N, logits));
    ck_ok(pw_session_logprobs(o.s, targets, logprobs, best));
    for (int t = 0; t < N; t++) {
        double sum = 0;
        int top = 0;
        for (int v = 0; v < V; v++) {
            sum += exp(logits[t * V + v]);
            top = logits[t * V + v] > logits[t * V + top] ? v : top;
        }
        if (t == 3)
            ck_assert(logprobs[t] == 0 && best[t] == -1);
        else {
            ck_close(logprobs[t], logits[t * V + targets[t]] - log(sum), 1e-5, 1e-5);
            ck_assert_int_eq(best[t], top);
        }
    }
    close_model(&o);
}
END_TEST

START_TEST(an_adapter_attached_later)
{
    struct opened o;
    float before[V], with[V], after[V], a[5 * 24], b[24 * 5];
    open_model(&o, "tests/data/llama-untied", "cpu", "", 40, 40, 2);
    for (int i = 0; i < 5 * 24; i++) {
        a[i] = 0.1f * (float)(i % 7 - 3);
        b[i] = 0.1f * (float)(i % 5 - 2);
    }
    struct pw_adapter_module module = {.name = "model.layers.1.self_attn.q_proj", .n_in = 24, .n_out = 24,
        .lora = {.r = 5, .scale = 2, .a = pw_tensor2(a, PW_F32, 5, 24), .b = pw_tensor2(b, PW_F32, 24, 5)}};
    struct pw_adapter adapter = {.modules = &module, .n = 1};
    const int seq = pw_session_add(o.s, N, -1);
    feed(o.s, seq, IDS, N);
    logits_of(o.s, N - 1, before);
    ck_ok(pw_model_attach(o.m, &adapter));
    pw_session_rewind(o.s, seq, 0);
    feed(o.s, seq, IDS, N);
    logits_of(o.s, N - 1, with);
    ck_ok(pw_model_attach(o.m, NULL));
    pw_session_rewind(o.s, seq, 0);
    feed(o.s, seq, IDS, N);
    logits_of(o.s, N - 1, after);
    ck_assert(memcmp(before, with, sizeof with) != 0);
    ck_assert(memcmp(before, after, sizeof after) == 0);
    close_model(&o);
}
END_TEST

/* ---- pages ---------------------------------------------------------------------------------------------------------- */

/* Many uneven timelines whose limits together are far more rows than there are: they come, grow by turns, are rewound and go, so that what each holds is
 * scattered, and each gives the bytes of one that is alone. When the pages are used up the pass is refused and nothing has changed. */
START_TEST(many_uneven_timelines)
{
    enum { SEQS = 12, LONG = 60, PAGES = 20 };
    static const char *const types[] = {"auto", "bf16", "int8"};
    struct opened o;
    float alone[SEQS][V], other[V];
    int32_t ids[SEQS][LONG];
    int seqs[SEQS], n[SEQS], fed[SEQS] = {0}, row = 0;
    for (int i = 0; i < SEQS; i++) {
        n[i] = 3 + i * 7 % 40;                 /* 3 to 40: at the end 18 pages of the 20; set aside they would be SEQS * LONG rows */
        for (int j = 0; j < LONG; j++)
            ids[i][j] = (i * 17 + j * 13) % V;
    }
    open_cached(&o, "tests/data/llama-untied", "cpu", "", types[_i], PAGES * PW_PAGE_ROWS, 200, SEQS);
    for (int i = 0; i < SEQS; i++) {
        pw_session_reset(o.s);
        feed(o.s, pw_session_add(o.s, LONG, -1), ids[i], n[i] / 2);
        feed(o.s, 0, ids[i] + n[i] / 2, n[i] - n[i] / 2);
        logits_of(o.s, n[i] - n[i] / 2 - 1, alone[i]);
    }
    pw_session_reset(o.s);
    int64_t most = 0;
    for (int half = 0; half < 2; half++) {     /* six at a time: the second six take the pages that the first left */
        for (int i = half; i < SEQS; i += 2) {
            seqs[i] = pw_session_add(o.s, LONG, -1);
            ck_assert(seqs[i] >= 0);
        }
        for (bool more = true; more;) {        /* a token or a few each, by turns */
            struct pw_feed feeds[SEQS];
            int who[SEQS], last[SEQS], n_feeds = 0;
            more = false;
            row = 0;
            for (int i = half; i < SEQS; i += 2) {
                const int left = n[i] - fed[i], take = left < 1 + i % 5 ? left : 1 + i % 5;
                if (take == 0)
                    continue;
                more = true;
                feeds[n_feeds] = (struct pw_feed){seqs[i], ids[i] + fed[i], take};
                fed[i] += take;
                row += take;
                who[n_feeds] = i;
                last[n_feeds++] = row - 1;
            }
            if (!more)
                break;
            ck_ok(pw_session_feed(o.s, feeds, n_feeds));
            for (int j = 0; j < n_feeds; j++)
                if (fed[who[j]] == n[who[j]]) {
                    logits_of(o.s, last[j], other);
                    ck_assert_msg(memcmp(other, alone[who[j]], sizeof other) == 0, "timeline %d differs from itself alone", who[j]);
                }
            const int64_t held = PAGES * PW_PAGE_ROWS - pw_session_room(o.s);
            most = held > most ? held : most;
        }
        for (int i = half; i < SEQS && half == 0; i += 4)   /* every second one goes; the rest stay */
            pw_session_drop(o.s, seqs[i]);
    }
    ck_assert(most <= PAGES * PW_PAGE_ROWS && most > PAGES * PW_PAGE_ROWS / 2 && most < (SEQS - 3) * LONG);

    const int64_t room = pw_session_room(o.s);
    const int big = pw_session_add(o.s, room + 1, -1), small = seqs[1], before = n[1];
    int32_t many[PAGES * PW_PAGE_ROWS + 1] = {0};
    ck_assert(big >= 0 && room > 0 && room < 64);
    const struct pw_feed too_much[] = {{small, many, 2}, {big, many, room + 1}}, all = {big, many, room};
    ck_fails(pw_session_feed(o.s, too_much + 1, 1), PW_E_FAIL, "the KV cache is full");
    ck_fails(pw_session_feed(o.s, too_much, 2), PW_E_FAIL, "are free");
    ck_assert_int_eq(pw_session_room(o.s), room);
    ck_assert_int_eq(pw_session_length(o.s, big), 0);
    ck_assert_int_eq(pw_session_length(o.s, small), before);
    ck_ok(pw_session_feed(o.s, &all, 1));
    ck_assert_int_eq(pw_session_room(o.s), 0);
    ck_ok(pw_session_rewind(o.s, big, 1));
    ck_assert_int_eq(pw_session_room(o.s), room - PW_PAGE_ROWS);
    pw_session_drop(o.s, big);
    ck_assert_int_eq(pw_session_room(o.s), room);

    ck_ok(pw_session_rewind(o.s, small, n[1] / 2));         /* the others are as they were, on the pages they had */
    feed(o.s, small, ids[1] + n[1] / 2, n[1] - n[1] / 2);
    logits_of(o.s, n[1] - n[1] / 2 - 1, other);
    ck_assert(memcmp(other, alone[1], sizeof other) == 0);
    close_model(&o);
}
END_TEST

/* ---- what is refused ------------------------------------------------------------------------------------------------ */

START_TEST(wrong_feeds)
{
    struct opened o;
    int32_t ids[80] = {0};
    float logits[V];
    open_model(&o, "tests/data/llama-untied", "cpu", "", 96, 80, 3);
    const int a = pw_session_add(o.s, 20, -1), b = pw_session_add(o.s, 66, -1);
    int32_t row = 0;
    ck_fails(pw_session_logits(o.s, &row, 1, logits), PW_E_FAIL, "before a pass");
    const struct pw_feed too_long = {a, ids, 21}, empty = {a, ids, 0}, closed = {2, ids, 1}, past_context = {b, ids, 65};
    const struct pw_feed twice[] = {{a, ids, 1}, {a, ids, 1}}, too_many[] = {{a, ids, 20}, {b, ids, 61}};
    ck_fails(pw_session_feed(o.s, &too_long, 1), PW_E_FAIL, "capacity of 20");
    ck_fails(pw_session_feed(o.s, &empty, 1), PW_E_FAIL, "nothing");
    ck_fails(pw_session_feed(o.s, &closed, 1), PW_E_FAIL, "not open");
    ck_fails(pw_session_feed(o.s, &past_context, 1), PW_E_FAIL, "context of 64");
    ck_fails(pw_session_feed(o.s, twice, 2), PW_E_FAIL, "twice");
    ck_fails(pw_session_feed(o.s, too_many, 2), PW_E_FAIL, "exceeds 80");
    ids[3] = V;
    const struct pw_feed wrong_id = {a, ids, 5};
    ck_fails(pw_session_feed(o.s, &wrong_id, 1), PW_E_FORMAT, "token id 64");
    ids[3] = -1;
    ck_fails(pw_session_feed(o.s, &wrong_id, 1), PW_E_FORMAT, "token id -1");
    ck_assert_int_eq(pw_session_length(o.s, a), 0);
    ck_fails(pw_session_add(o.s, 97, -1), PW_E_FAIL, "never has room for a timeline of 97");
    ck_assert_int_eq(pw_session_add(o.s, 96, -1), 2); /* a limit: nothing is set aside */
    ck_fails(pw_session_add(o.s, 1, -1), PW_E_FAIL, "all are taken");
    pw_session_drop(o.s, a);
    ck_assert_int_eq(pw_session_add(o.s, 20, -1), a);
    feed(o.s, a, IDS, 2);
    row = 2;
    ck_fails(pw_session_logits(o.s, &row, 1, logits), PW_E_FAIL, "row 2");
    close_model(&o);
}
END_TEST

/* --cache-type: pieces and company still change nothing; the session takes the bytes it says; the logits, which are of order 1, stay near those of the
 * plain cache. (How near attention must stay is a bound that test_cache checks; through layers there is none that is not far too wide.) */
START_TEST(caches_of_other_types)
{
    static const struct { const char *device, *type; double off; } kinds[] = {
        {"cpu", "int8", 0.06}, {"cpu", "bf16", 0.03}, {"ref", "int8", 0.06}, {"simt", "int8", 0.1}};
    float plain[V], alone[V], other[V];
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        struct opened o;
        open_model(&o, "tests/data/llama-untied", kinds[k].device, "", 112, 60, 4);
        feed(o.s, pw_session_add(o.s, 30, -1), IDS, N);
        logits_of(o.s, N - 1, plain);
        const size_t plain_bytes = pw_session_bytes(o.m, 112, 60, 4);
        close_model(&o);

        open_cached(&o, "tests/data/llama-untied", kinds[k].device, "", kinds[k].type, 112, 60, 4);
        const struct pw_model_config *c = &o.m->config;
        const size_t head = (size_t)c->head_dim, saved = 2 * (size_t)c->layers * 112 * (size_t)c->kv_heads * (head * pw_dtype_bytes(o.dev->act) - (kinds[k].type[0] == 'i' ? head + 4 : 2 * head));
        ck_close((double)(plain_bytes - pw_session_bytes(o.m, 112, 60, 4)), (double)saved, 4.0 * 64 * c->layers, 0);
        int a = pw_session_add(o.s, 30, -1);
        feed(o.s, a, IDS, N);
        logits_of(o.s, N - 1, alone);
        ck_assert_msg(memcmp(alone, plain, sizeof plain) != 0, "%s: a cache of %s rounds nothing", kinds[k].device, kinds[k].type);
        for (int v = 0; v < V; v++)
            ck_close(alone[v], plain[v], kinds[k].off, 0);
        pw_session_reset(o.s);
        const int b = pw_session_add(o.s, 40, -1);
        a = pw_session_add(o.s, 30, -1);
        const struct pw_feed feeds[] = {{b, IDS + 3, 11}, {a, IDS, N}};
        ck_ok(pw_session_feed(o.s, feeds, 2));
        logits_of(o.s, 11 + N - 1, other);
        ck_assert(memcmp(alone, other, sizeof alone) == 0);
        if (strcmp(kinds[k].device, "cpu") == 0) { /* one path of attention whatever the number of queries */
            pw_session_rewind(o.s, a, 0);
            for (int i = 0; i < N; i++)
                feed(o.s, a, IDS + i, 1);
            logits_of(o.s, 0, other);
            ck_assert(memcmp(alone, other, sizeof alone) == 0);
        }
        close_model(&o);
    }
    struct pw_dev *d;
    struct pw_model *m;
    const struct pw_model_options unknown = {.cache_type = "int4"}, wide = {.cache_type = "f32"};
    ck_ok(pw_dev_open(&d, &(struct pw_dev_options){.kind = "simt"}));
    ck_fails(pw_model_load(&m, d, "tests/data/llama-untied", &unknown), PW_E_USAGE, "expected auto, f32, bf16 or int8, got \"int4\"");
    ck_fails(pw_model_load(&m, d, "tests/data/llama-untied", &wide), PW_E_USAGE, "computes in bf16");
    pw_dev_close(d);
}
END_TEST

START_TEST(wrong_loads)
{
    const struct pw_dev_options dev = {.kind = "cpu", .threads = 1};
    struct pw_dev *d;
    struct pw_model *m;
    ck_ok(pw_dev_open(&d, &dev));
    const struct pw_model_options longer = {.context = 65}, unknown = {.quantise = "nf5"}, train_bf16 = {.quantise = "bf16", .trainable = true};
    ck_fails(pw_model_load(&m, d, "tests/data/llama-untied", &longer), PW_E_USAGE, "context is 64 tokens, got 65");
    ck_assert_ptr_null(m);
    ck_fails(pw_model_load(&m, d, "tests/data/llama-untied", &unknown), PW_E_USAGE, "nf5");
    ck_fails(pw_model_load(&m, d, "tests/data/llama-untied", &train_bf16), PW_E_USAGE, "f32");
    pw_dev_close(d);
}
END_TEST

/* A model of a long context: a session takes tables for its own rows, and the plan counts them. Results are those of a session for all of it. */
START_TEST(tables_of_the_session)
{
    static const char path[] = "tests/data/llama-tied";
    const int32_t rows[] = {0, 1, 2, 3, 4};
    struct opened whole, o;
    float expected[5 * V], got[5 * V];
    open_model(&whole, path, "cpu", NULL, 64, 8, 1);
    open_model(&o, path, "cpu", NULL, 16, 8, 1);
    const size_t weights = o.m->pool.bytes, cache = 2 * (size_t)o.m->config.layers * (size_t)(o.m->config.kv_heads * o.m->config.head_dim) * sizeof(float);
    ck_assert_uint_eq(whole.m->pool.bytes, weights);
    ck_assert_uint_eq(pw_session_bytes(o.m, 64, 8, 1) - pw_session_bytes(o.m, 16, 8, 1), 48 * (cache + (size_t)o.m->config.head_dim * sizeof(float)));
    ck_assert_uint_eq(pw_session_bytes(o.m, 1 << 20, 8, 1) - pw_session_bytes(o.m, 64, 8, 1), ((1 << 20) - 64) * cache);       /* its context is 64 */
    const int a = pw_session_add(whole.s, 8, -1), b = pw_session_add(o.s, 8, -1);
    feed(whole.s, a, IDS, 5);
    ck_ok(pw_session_logits(whole.s, rows, 5, expected));
    feed(o.s, b, IDS, 5);
    ck_ok(pw_session_logits(o.s, rows, 5, got));
    ck_assert_mem_eq(expected, got, sizeof got);
    close_model(&o);
    close_model(&whole);
}
END_TEST

/* Dynamic rope scaling: a longer timeline is computed for the length that is coming; growing further is an error, or, stretched, another answer. */
START_TEST(dynamic_scaling)
{
    const int32_t last[] = {7};
    struct opened o;
    float whole[V], pieces[V], stretched[V], plain[V];
    open_model(&o, "tests/data/llama-tied", "cpu", NULL, 64, 8, 2);
    int a = pw_session_add(o.s, 32, -1);
    feed(o.s, a, IDS, 8);
    ck_ok(pw_session_logits(o.s, last, 1, plain));
    ck_fails(pw_session_stretch(o.s, a, 9), PW_E_FAIL, "only dynamic rope scaling");
    pw_session_close(o.s);
    o.m->config.rope_scaling = PW_ROPE_DYNAMIC;
    o.m->config.rope_factor = 16;
    o.m->config.rope_original_context = 4;
    ck_ok(pw_session_open(&o.s, o.m, 64, 8, 2));
    a = pw_session_add(o.s, 32, -1);
    feed(o.s, a, IDS, 8);
    ck_ok(pw_session_logits(o.s, last, 1, whole));
    ck_assert_mem_ne(whole, plain, sizeof whole);
    pw_session_reset(o.s);
    a = pw_session_add(o.s, 32, -1);
    ck_ok(pw_session_expect(o.s, a, 8));
    feed(o.s, a, IDS, 3);
    feed(o.s, a, IDS + 3, 4);
    feed(o.s, a, IDS + 7, 1);
    ck_ok(pw_session_logits(o.s, &(int32_t){0}, 1, pieces));
    for (int v = 0; v < V; v++)
        ck_close(pieces[v], whole[v], 1e-5, 0);        /* f32, sums of at most 40 products */
    ck_assert(pw_session_stale(o.s, a, 1));
    ck_fails(pw_session_feed(o.s, &(struct pw_feed){a, IDS, 1}, 1), PW_E_FAIL, "for which its 8 were rotated otherwise: it must be fed again from its start");
    ck_fails(pw_session_stretch(o.s, a, 7), PW_E_FAIL, "stretched to 7, and it has 8 tokens");
    pw_session_reset(o.s);
    a = pw_session_add(o.s, 32, -1);
    feed(o.s, a, IDS, 7);
    ck_ok(pw_session_stretch(o.s, a, 8));
    ck_assert(!pw_session_stale(o.s, a, 1));
    feed(o.s, a, IDS + 7, 1);
    ck_ok(pw_session_logits(o.s, &(int32_t){0}, 1, stretched));
    ck_assert_mem_ne(stretched, pieces, sizeof pieces);
    /* A prefix within the original context cannot begin a longer timeline. */
    pw_session_reset(o.s);
    a = pw_session_add(o.s, 8, -1);
    feed(o.s, a, IDS, 4);
    const int b = pw_session_add(o.s, 8, a);
    ck_fails(pw_session_feed(o.s, &(struct pw_feed){b, IDS, 1}, 1), PW_E_FAIL, "for which its 4 were rotated: it must be fed again");
    close_model(&o);
}
END_TEST

/* ---- choosing ------------------------------------------------------------------------------------------------------- */

/* --memory: refused with the plan before weights and before a session are taken; a session that fits is opened. */
START_TEST(memory_limits)
{
    struct pw_dev *dev = NULL;
    const struct pw_dev_options d = {.kind = "cpu", .threads = 2, .level = getenv("PW_CPU")};
    struct pw_model_options opt = {.memory = 1 << 20};
    struct pw_model *m = NULL;
    struct pw_session *s = NULL;
    ck_ok(pw_dev_open(&dev, &d));
    ck_fails(pw_model_load(&m, dev, "tests/data/llama-tied", &opt), PW_E_REFUSED, "does not fit into --memory: planned");
    ck_assert_ptr_null(m);
    opt.memory = pw_rss_bytes() + ((uint64_t)64 << 20);
    ck_ok(pw_model_load(&m, dev, "tests/data/llama-tied", &opt));
    const int64_t too_many = ((int64_t)128 << 20) / (2 * m->config.layers * m->config.kv_heads * m->config.head_dim * (int64_t)sizeof(float));
    const size_t before = pw_rss_bytes();
    ck_fails(pw_session_open(&s, m, too_many, 8, 1), PW_E_REFUSED, "KV cache");
    ck_assert_ptr_null(s);
    ck_assert(pw_rss_bytes() < before + ((size_t)8 << 20)); /* nothing of it was touched */
    ck_ok(pw_session_open(&s, m, 64, 8, 1));
    pw_session_close(s);
    pw_model_free(m);
    pw_dev_close(dev);
}
END_TEST

START_TEST(sampling)
{
    const float logits[5] = {1, 3, 3, 0, -INFINITY}, bad[2] = {0, NAN};
    struct pw_sampler s = {.rng = pw_rng_make(1, PW_STREAM_SAMPLE)};
    int32_t id, seen[5] = {0};
    ck_ok(pw_sampler_pick(&s, logits, 5, &id));
    ck_assert_int_eq(id, 1);                   /* the first of the largest */
    ck_fails(pw_sampler_pick(&s, bad, 2, &id), PW_E_NUMERIC, "token 1");
    s.temperature = 2;
    for (int i = 0; i < 20000; i++) {
        ck_ok(pw_sampler_pick(&s, logits, 5, &id));
        seen[id]++;
    }
    const double weight[4] = {exp(-1), 1, 1, exp(-1.5)}, total = weight[0] + 2 + weight[3];
    for (int i = 0; i < 4; i++)                /* 5 standard deviations of a binomial */
        ck_close(seen[i] / 20000.0, weight[i] / total, 5 * sqrt(0.25 / 20000), 0);
    ck_assert_int_eq(seen[4], 0);
    const struct pw_sampler only_top[] = {{.temperature = 2, .top_k = 2}, {.temperature = 2, .top_p = 0.6}, {.temperature = 2, .min_p = 0.5}};
    for (int k = 0; k < 3; k++) {
        s = only_top[k];
        s.rng = pw_rng_make(3, PW_STREAM_SAMPLE);
        int first = 0, second = 0;
        for (int i = 0; i < 300; i++) {
            ck_ok(pw_sampler_pick(&s, logits, 5, &id));
            first += id == 1;
            second += id == 2;
        }
        ck_assert(first > 90 && second > 90 && first + second == 300);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("session");
    TCase *t = tcase_create("session");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, untied_grouped_heads_scaled_rope);
    tcase_add_test(t, tied_biased_bf16);
    tcase_add_test(t, tinystories_like_transformers);
    tcase_add_test(t, batch_and_pieces_change_nothing);
    tcase_add_test(t, shared_prefix);
    tcase_add_test(t, logprobs_are_of_the_logits);
    tcase_add_test(t, an_adapter_attached_later);
    tcase_add_test(t, caches_of_other_types);
    tcase_add_loop_test(t, many_uneven_timelines, 0, 3);
    tcase_add_test(t, wrong_feeds);
    tcase_add_test(t, wrong_loads);
    tcase_add_test(t, tables_of_the_session);
    tcase_add_test(t, dynamic_scaling);
    tcase_add_test(t, memory_limits);
    tcase_add_test(t, sampling);
    suite_add_tcase(s, t);
    return test_run(s);
}
