/* Generation on real small models: the known story, prompts alone or together, with and without the cache, stop strings, streaming. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "infer/generate.h"
#include "infer/memory_limit.h"
#include "tests/support.h"

struct opened { struct pw_dev *dev; struct pw_model *m; struct pw_tokenizer *t; struct pw_session *s; int32_t stops[16]; struct pw_gen_options opt; };

static bool open_stories(struct opened *o)
{
    const char *model = test_shared("data/models/stories260K/stories260K.bin"), *tokenizer = test_shared("data/models/stories260K/tok512.bin");
    const struct pw_dev_options dev = {.kind = "cpu", .threads = 2, .level = getenv("PW_CPU")};
    if (!model || !tokenizer) {
        test_skip("stories260K is not there");
        return false;
    }
    const struct pw_model_options opt = {.tokenizer = tokenizer};
    *o = (struct opened){0};
    ck_ok(pw_dev_open(&o->dev, &dev));
    ck_ok(pw_model_load(&o->m, o->dev, model, &opt));
    ck_ok(pw_tokenizer_load_llama2c(&o->t, tokenizer, o->m->config.vocab));
    ck_ok(pw_session_open(&o->s, o->m, 2048, 64, 8));
    o->opt.stop_ids = o->stops;
    o->opt.n_stop_ids = pw_gen_stop_ids(o->t, &o->m->config, o->stops);
    return true;
}

static void close_stories(struct opened *o)
{
    pw_session_close(o->s);
    pw_tokenizer_free(o->t);
    pw_model_free(o->m);
    pw_dev_close(o->dev);
}

static void generate(struct opened *o, struct pw_gen *g, const char *prompt, struct pw_tokens *tokens, int64_t n)
{
    ck_ok(pw_tokenizer_encode(o->t, prompt, strlen(prompt), PW_TOK_DEFAULT, tokens));
    g->prompt = tokens->ids;
    g->n_prompt = (int64_t)tokens->n;
    g->max_tokens = n;
}

static const char story[] = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.";

START_TEST(the_known_story)
{
    struct opened o;
    if (!open_stories(&o))
        return;
    const int32_t bos = 1;
    struct pw_gen g = {.prompt = &bos, .n_prompt = 1, .max_tokens = 60};
    ck_ok(pw_generate(o.s, o.t, &g, 1, &o.opt));
    ck_assert_msg(strncmp(g.text.data, story, sizeof story - 1) == 0, "got: %s", g.text.data);
    ck_assert_str_eq(g.finish, "length");
    ck_assert_int_eq(g.n_tokens, 60);
    pw_gen_free(&g);
    close_stories(&o);
}
END_TEST

static const char *const prompts[] = {"Once upon a time", "Tom had a red ball. He", "The", "Lily and Ben went to the beach. They saw a big"};

START_TEST(alone_together_and_without_cache)
{
    struct opened o;
    struct pw_gen alone[4] = {{0}}, together[4] = {{0}}, slow[4] = {{0}};
    struct pw_tokens tokens[4] = {{0}};
    if (!open_stories(&o))
        return;
    for (int i = 0; i < 4; i++) {
        generate(&o, &alone[i], prompts[i], &tokens[i], 40);
        together[i] = slow[i] = alone[i];
        ck_ok(pw_generate(o.s, o.t, &alone[i], 1, &o.opt));
    }
    ck_ok(pw_generate(o.s, o.t, together, 4, &o.opt));
    o.opt.no_cache = true;
    ck_ok(pw_generate(o.s, o.t, slow, 4, &o.opt));
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(alone[i].n_tokens, together[i].n_tokens);
        ck_assert(memcmp(alone[i].tokens, together[i].tokens, (size_t)alone[i].n_tokens * sizeof(int32_t)) == 0);
        ck_assert_str_eq(alone[i].text.data, together[i].text.data);
        ck_assert_str_eq(alone[i].text.data, slow[i].text.data);
        ck_assert_msg(alone[i].text.data[0] == (i == 0 ? ',' : ' ') || i == 2, "%s|%s", prompts[i], alone[i].text.data);    /* the space between prompt and continuation is kept */
        pw_gen_free(&alone[i]);
        pw_gen_free(&together[i]);
        pw_gen_free(&slow[i]);
        pw_tokens_free(&tokens[i]);
    }
    close_stories(&o);
}
END_TEST

/* A cache that holds two of the four at a time: the others wait, and all get what they get alone. One that holds none of them is an error. */
START_TEST(fewer_pages_than_requests)
{
    struct opened o;
    struct pw_gen alone[4] = {{0}}, turns[4] = {{0}};
    struct pw_tokens tokens[4] = {{0}};
    int64_t rows = 0, all = 0, batch_tokens;
    if (!open_stories(&o))
        return;
    for (int i = 0; i < 4; i++) {
        generate(&o, &alone[i], prompts[i], &tokens[i], 20 + 30 * (i % 2));
        turns[i] = alone[i];
        ck_ok(pw_generate(o.s, o.t, &alone[i], 1, &o.opt));
        const int64_t one = pw_session_rows(alone[i].n_prompt + alone[i].max_tokens);
        rows = one > rows ? one : rows;
    }
    pw_gen_sizes(&o.m->config, turns, 4, 64, &all, &batch_tokens);
    ck_assert(rows + 48 < all);
    pw_session_close(o.s);
    ck_ok(pw_session_open(&o.s, o.m, rows + 48, 64, 4));
    ck_ok(pw_generate(o.s, o.t, turns, 4, &o.opt));
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(alone[i].n_tokens, turns[i].n_tokens);
        ck_assert(memcmp(alone[i].tokens, turns[i].tokens, (size_t)alone[i].n_tokens * sizeof(int32_t)) == 0);
        ck_assert_str_eq(alone[i].text.data, turns[i].text.data);
        pw_gen_free(&turns[i]);
    }
    ck_assert_int_eq(pw_session_room(o.s), pw_session_rows(rows + 48));
    pw_session_close(o.s);
    ck_ok(pw_session_open(&o.s, o.m, rows - 16, 64, 4));
    for (int i = 0; i < 4; i++)
        turns[i] = (struct pw_gen){.prompt = tokens[i].ids, .n_prompt = (int64_t)tokens[i].n, .max_tokens = 20 + 30 * (i % 2)};
    ck_fails(pw_generate(o.s, o.t, turns, 4, &o.opt), PW_E_FAIL, "rows of the cache, which has");
    for (int i = 0; i < 4; i++) {
        pw_gen_free(&turns[i]);
        pw_gen_free(&alone[i]);
        pw_tokens_free(&tokens[i]);
    }
    close_stories(&o);
}
END_TEST

/* --memory leaves room for fewer rows than all requests take at once: as many as fit, at least those of the longest. */
START_TEST(rows_that_memory_has)
{
    struct opened o;
    struct pw_gen asked[4] = {{0}};
    const int32_t bos = 1;
    int64_t all, batch_tokens, before = 0;
    if (!open_stories(&o))
        return;
    for (int i = 0; i < 4; i++)
        asked[i] = (struct pw_gen){.prompt = &bos, .n_prompt = 1, .max_tokens = 100 + 50 * i};
    pw_gen_sizes(&o.m->config, asked, 4, 64, &all, &batch_tokens);
    const int64_t longest = pw_session_rows(251);
    ck_assert_int_eq(all, pw_session_rows(101) + pw_session_rows(151) + pw_session_rows(201) + longest);
    ck_assert_int_eq(pw_gen_rows(o.m, asked, 4, all, batch_tokens), all);          /* no limit */
    const size_t row = (pw_session_bytes(o.m, all, batch_tokens, 4) - pw_session_bytes(o.m, all - 64, batch_tokens, 4)) / 64;
    bool between = false;
    ck_assert(row > 0);
    for (o.m->memory = 1 << 20; before < all && o.m->memory < (size_t)1 << 32; o.m->memory += 64 * row) {
        const int64_t rows = pw_gen_rows(o.m, asked, 4, all, batch_tokens);
        ck_assert(rows >= longest && rows <= all && rows % PW_PAGE_ROWS == 0 && rows + 32 >= before);  /* the program's own pages come and go */
        const size_t memory = o.m->memory;
        o.m->memory += (size_t)1 << 16;
        if (rows > longest)
            ck_ok(pw_memory_check_session(o.m, rows, batch_tokens, 4));
        o.m->memory = memory;
        if (rows < all - 128)
            ck_fails(pw_memory_check_session(o.m, rows + 128, batch_tokens, 4), PW_E_REFUSED, "--memory");
        between |= rows > longest + 32 && rows < all - 32;
        before = rows;
    }
    ck_assert(between && before == all);
    close_stories(&o);
}
END_TEST

static int collect(void *ctx, const char *text, size_t bytes)
{
    pw_buf_add(ctx, text, bytes);
    return 0;
}

START_TEST(stop_strings_and_streaming)
{
    static const char *const stops[] = {"Lilx", "Lily", "a little girl named Lilies"};
    struct opened o;
    struct pw_buf streamed = {0};
    const int32_t bos = 1;
    if (!open_stories(&o))
        return;
    struct pw_gen g = {.prompt = &bos, .n_prompt = 1, .max_tokens = 60, .stops = stops, .n_stops = 3, .piece = collect, .ctx = &streamed};
    ck_ok(pw_generate(o.s, o.t, &g, 1, &o.opt));
    ck_assert_str_eq(g.text.data, "Once upon a time, there was a little girl named ");
    ck_assert_str_eq(streamed.data, g.text.data);
    ck_assert_str_eq(g.finish, "stop");
    pw_gen_free(&g);

    static const char *const never[] = {"there was a little girl named Bob", "park.Z"};
    g.stops = never;                           /* what was held back comes out in the end */
    g.n_stops = 2;
    pw_buf_clear(&streamed);
    ck_ok(pw_generate(o.s, o.t, &g, 1, &o.opt));
    ck_assert(strncmp(g.text.data, story, sizeof story - 1) == 0);
    ck_assert_str_eq(streamed.data, g.text.data);
    pw_gen_free(&g);
    pw_buf_free(&streamed);
    close_stories(&o);
}
END_TEST

START_TEST(context_and_prompts_that_do_not_fit)
{
    struct opened o;
    int32_t ids[600];
    if (!open_stories(&o))
        return;
    for (int i = 0; i < 600; i++)
        ids[i] = 3 + i % 400;
    const int64_t context = o.m->config.context;
    struct pw_gen g = {.prompt = ids, .n_prompt = context - 3, .max_tokens = 40};
    ck_ok(pw_generate(o.s, o.t, &g, 1, &o.opt));
    ck_assert(strcmp(g.finish, "stop") == 0 || (strcmp(g.finish, "context") == 0 && g.n_tokens == 3));
    pw_gen_free(&g);
    g.n_prompt = context;
    ck_fails(pw_generate(o.s, o.t, &g, 1, &o.opt), PW_E_REFUSED, "the context holds");
    pw_gen_free(&g);
    g.n_prompt = 0;
    ck_fails(pw_generate(o.s, o.t, &g, 1, &o.opt), PW_E_FAIL, "without tokens");
    pw_gen_free(&g);
    close_stories(&o);
}
END_TEST

START_TEST(same_seed_same_text)
{
    struct opened o;
    struct pw_gen g[3] = {{0}};
    const int32_t bos = 1;
    if (!open_stories(&o))
        return;
    for (int i = 0; i < 3; i++) {
        g[i] = (struct pw_gen){.prompt = &bos, .n_prompt = 1, .max_tokens = 40,
                               .sampler = {.temperature = 0.9, .top_p = 0.95, .rng = pw_rng_make(i < 2 ? 7 : 8, PW_STREAM_SAMPLE)}};
        ck_ok(pw_generate(o.s, o.t, &g[i], 1, &o.opt));
    }
    ck_assert_str_eq(g[0].text.data, g[1].text.data);
    ck_assert_str_ne(g[0].text.data, g[2].text.data);
    for (int i = 0; i < 3; i++)
        pw_gen_free(&g[i]);
    close_stories(&o);
}
END_TEST

/* The greedy continuation as the rules have it, by hand: each token from a pass over all before it, or through the cache as it was rotated. */
static void by_hand(struct opened *o, int32_t *ids, int64_t n, int64_t more, bool fresh)
{
    const int64_t vocab = o->m->config.vocab;
    float *logits = calloc((size_t)vocab, sizeof *logits);
    int64_t fed = 0;
    pw_session_reset(o->s);
    const int seq = pw_session_add(o->s, n + more, -1);
    for (; more > 0; more--, n++) {
        if (fresh || pw_session_stale(o->s, seq, n - fed)) {
            if (!fresh && o->m->config.rope_scaling == PW_ROPE_DYNAMIC)
                ck_ok(pw_session_stretch(o->s, seq, n));
            else {
                ck_ok(pw_session_rewind(o->s, seq, 0));
                fed = 0;
            }
        }
        const struct pw_feed feed = {seq, ids + fed, n - fed};
        ck_ok(pw_session_feed(o->s, &feed, 1));
        ck_ok(pw_session_logits(o->s, &(int32_t){(int32_t)(n - fed - 1)}, 1, logits));
        fed = n;
        ids[n] = 0;
        for (int32_t v = 1; v < vocab; v++)
            ids[n] = logits[v] > logits[ids[n]] ? v : ids[n];
    }
    free(logits);
}

/* Texts that grow beyond the original context. longrope: all of the text is computed once more, so that the cache changes nothing. Dynamic: what is cached stays as
 * it was rotated, as in transformers; without the cache each token is that of a pass over the whole text. A prompt in several pieces is one length. */
START_TEST(beyond_the_original_context)
{
    struct opened o;
    struct pw_tokens tokens = {0};
    struct pw_gen g = {0};
    int32_t texts[2][2][200];                          /* prompt and continuation: dynamic or not, fresh or not */
    if (!open_stories(&o))
        return;
    generate(&o, &g, prompts[3], &tokens, 60);
    const int64_t n = g.n_prompt;
    pw_session_close(o.s);
    o.m->config.rope_original_context = 30;
    o.m->config.rope_factor = 12;
    o.m->config.rope_attention = 0;
    for (int i = 0; i < PW_ROPE_PAIRS_MAX; i++)
        o.m->config.rope_short[i] = 1, o.m->config.rope_long[i] = 3;
    ck_assert(n < 30 && o.m->config.context > 30);
    o.opt.n_stop_ids = 0;
    for (int dynamic = 0; dynamic < 2; dynamic++)
        for (int fresh = 0; fresh < 2; fresh++) {
            int32_t *ids = texts[dynamic][fresh];
            o.m->config.rope_scaling = dynamic ? PW_ROPE_DYNAMIC : PW_ROPE_LONG;
            memcpy(ids, tokens.ids, (size_t)n * sizeof *ids);
            ck_ok(pw_session_open(&o.s, o.m, 2048, 128, 8));
            by_hand(&o, ids, n, 60, fresh);
            pw_session_close(o.s);
            ck_ok(pw_session_open(&o.s, o.m, 2048, 17, 8));
            for (int64_t begin = n; begin <= n + 40; begin += 40) {    /* from within, and from beyond */
                struct pw_gen more = {.prompt = ids, .n_prompt = begin, .max_tokens = n + 60 - begin};
                if (dynamic && !fresh && begin > n)
                    continue;                          /* the prompt would have another base than the cache had */
                o.opt.no_cache = fresh;
                ck_ok(pw_generate(o.s, o.t, &more, 1, &o.opt));
                ck_assert_int_eq(more.n_tokens, n + 60 - begin);
                ck_assert_mem_eq(more.tokens, ids + begin, (size_t)more.n_tokens * sizeof *ids);
                pw_gen_free(&more);
            }
            pw_session_close(o.s);
        }
    ck_assert_mem_eq(texts[0][0], texts[0][1], (size_t)(n + 60) * sizeof(int32_t));
    ck_assert_mem_ne(texts[1][0], texts[1][1], (size_t)(n + 60) * sizeof(int32_t));
    pw_tokens_free(&tokens);
    o.s = NULL;
    close_stories(&o);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("generate");
    TCase *t = tcase_create("generate");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, the_known_story);
    tcase_add_test(t, alone_together_and_without_cache);
    tcase_add_test(t, fewer_pages_than_requests);
    tcase_add_test(t, rows_that_memory_has);
    tcase_add_test(t, stop_strings_and_streaming);
    tcase_add_test(t, context_and_prompts_that_do_not_fit);
    tcase_add_test(t, same_seed_same_text);
    tcase_add_test(t, beyond_the_original_context);
    suite_add_tcase(s, t);
    return test_run(s);
}
