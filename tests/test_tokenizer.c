/* Tokenizers against ids, offsets and texts of the Python packages (tests/fixtures/tokenizer, made by
 * tools/reference/tokenizer_fixtures.py, and kinds/ there by kinds_fixtures.py); files that must be refused; the incremental
 * decoder; published vectors. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/value.h"
#include "data/regex.h"
#include "data/tokenizer.h"
#include "data/utf8.h"
#include "tests/support.h"

static const char *const names[] = { "bytelevel", "bytelevel-trim", "split-digits", "sentencepiece", "metaspace", "splits" };
enum { NAMES = sizeof names / sizeof *names, LLAMA2C_PIECES = 262 };

static struct pw_tokenizer *load(const char *name, const char *end)
{
    struct pw_tokenizer *t;
    char path[256];
    snprintf(path, sizeof path, "tests/fixtures/tokenizer/%s%s", name, end);
    ck_ok(pw_tokenizer_load(&t, path));
    return t;
}

static void expect_text(const struct pw_buf *got, const struct pw_value *row, const char *key)
{
    const struct pw_value *want = pw_get(row, key);
    ck_assert_msg(got->len == want->len && memcmp(got->data ? got->data : "", want->s, want->len) == 0, "%s of \"%s\": got \"%.*s\", expected \"%s\"", key,
                  pw_get(row, "text")->s, (int)got->len, got->data ? got->data : "", want->s);
}

/* Whole decode, and token by token: every part must be whole characters. */
static void expect_decoded(const struct pw_tokenizer *t, const struct pw_tokens *k, const struct pw_value *row, const char *key, unsigned flags)
{
    struct pw_buf whole = { 0 }, parts = { 0 };
    struct pw_detok *d;
    ck_ok(pw_tokenizer_decode(t, k->ids, k->n, flags, &whole));
    expect_text(&whole, row, key);
    ck_ok(pw_detok_open(&d, t, flags));
    for (int again = 0; again < 2; again++) {
        pw_buf_clear(&parts);
        for (size_t i = 0; i < k->n; i++) {
            size_t before = parts.len;
            ck_ok(pw_detok_push(d, k->ids[i], &parts));
            ck_assert(parts.len == before || pw_utf8_valid(parts.data + before, parts.len - before));
        }
        ck_ok(pw_detok_end(d, &parts));
        expect_text(&parts, row, key);
    }
    pw_detok_free(d);
    pw_buf_free(&whole);
    pw_buf_free(&parts);
}

START_TEST(as_the_package)
{
    struct pw_tokenizer *t = load(names[_i], ".json");
    struct pw_tokens k = { 0 };
    struct pw_arena a;
    struct pw_value *rows;
    char path[256];
    snprintf(path, sizeof path, "tests/fixtures/tokenizer/%s.expected.json", names[_i]);
    pw_arena_init(&a);
    ck_ok(pw_json_load(&a, path, &rows));
    ck_assert_uint_gt(rows->len, 50);
    for (int again = 0; again < 2; again++) /* the second time from the cache */
        for (size_t i = 0; i < rows->len; i++) {
            const struct pw_value *row = &rows->items[i], *text = pw_get(row, "text"), *ids = pw_get(row, "ids"), *start = pw_get(row, "start");
            ck_ok(pw_tokenizer_encode(t, text->s, text->len, PW_TOK_DEFAULT, &k));
            ck_assert_msg(k.n == ids->len, "%s: \"%s\": %zu tokens, expected %zu", names[_i], text->s, k.n, ids->len);
            for (size_t j = 0; j < k.n; j++) {
                ck_assert_msg(k.ids[j] == ids->items[j].i, "%s: \"%s\": token %zu: id %d, expected %lld", names[_i], text->s, j, (int)k.ids[j], (long long)ids->items[j].i);
                ck_assert_msg(k.start[j] == start->items[j].i, "%s: \"%s\": token %zu begins at %lld, expected %lld", names[_i], text->s, j, (long long)k.start[j],
                              (long long)start->items[j].i);
                ck_assert(k.start[j] <= k.end[j] && k.end[j] <= (int64_t)text->len);
            }
            expect_decoded(t, &k, row, "decoded", 0);
            expect_decoded(t, &k, row, "plain", PW_TOK_SKIP_SPECIAL);
        }
    pw_arena_free(&a);
    pw_tokens_free(&k);
    pw_tokenizer_free(t);
}
END_TEST

START_TEST(special_tokens)
{
    struct pw_tokenizer *t = load("sentencepiece", ".json");
    struct pw_tokens k = { 0 };
    struct pw_buf b = { 0 };
    static const char text[] = "a </s>";
    ck_ok(pw_tokenizer_encode(t, text, 6, 0, &k));
    for (size_t i = 0; i < k.n; i++)
        ck_assert_int_ne(k.ids[i], 2);
    ck_ok(pw_tokenizer_encode(t, text, 6, PW_TOK_SPECIAL, &k));
    ck_assert_int_eq(k.ids[0], 1);
    ck_assert_int_eq(k.start[0], -1);
    ck_ok(pw_tokenizer_encode(t, text, 6, PW_TOK_PARSE_SPECIAL, &k));
    ck_assert_int_eq(k.ids[k.n - 1], 2);
    ck_assert_int_eq(k.start[k.n - 1], 2);
    ck_assert_int_eq(k.end[k.n - 1], 6);
    ck_assert(pw_tokenizer_is_special(t, 2) && !pw_tokenizer_is_special(t, 3) && !pw_tokenizer_is_special(t, -1) && !pw_tokenizer_is_special(t, 1 << 20));
    ck_assert_int_eq(pw_tokenizer_find(t, "</s>"), 2);
    ck_assert_int_eq(pw_tokenizer_find(t, "no such piece"), -1);
    ck_assert_str_eq(pw_tokenizer_kind(t), "BPE SentencePiece");
    ck_assert_int_eq(strlen(pw_tokenizer_hash(t)), 64);
    ck_ok(pw_token_bytes(t, pw_tokenizer_find(t, "<0xE9>"), &b));
    ck_assert(b.len == 1 && (unsigned char)b.data[0] == 0xE9);
    ck_fails(pw_token_bytes(t, 1 << 20, &b), PW_E_FORMAT, "not in the vocabulary");
    ck_fails(pw_tokenizer_decode(t, (int32_t[]){ 3, -1 }, 2, 0, &b), PW_E_FORMAT, "token 1");
    pw_buf_free(&b);
    pw_tokens_free(&k);
    pw_tokenizer_free(t);
}
END_TEST

START_TEST(not_utf8)
{
    static const struct { const char *s; size_t n, at; } rows[] = { { "ab\xFF", 3, 2 }, { "\xC3", 1, 0 }, { "a\xED\xA0\x80", 4, 1 }, { "\xC0\xAF", 2, 0 },
        { "\xF4\x90\x80\x80", 4, 0 }, { "\xE2\x82", 2, 0 } };
    struct pw_tokenizer *t = load("bytelevel", ".json");
    struct pw_tokens k = { 0 };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char want[32];
        snprintf(want, sizeof want, "byte %zu ", rows[i].at);
        ck_fails(pw_tokenizer_encode(t, rows[i].s, rows[i].n, PW_TOK_DEFAULT, &k), PW_E_FORMAT, want);
        ck_assert_uint_eq(k.n, 0);
        pw_error_clear();
    }
    pw_tokens_free(&k);
    pw_tokenizer_free(t);
}
END_TEST

/* Bytes that are no text come out as U+FFFD, the same way whole and in parts. */
START_TEST(decoded_junk)
{
    for (size_t n = 0; n < NAMES; n++) {
        struct pw_tokenizer *t = load(names[n], ".json");
        struct pw_rng r = pw_rng_make(5, PW_STREAM_TEST);
        for (int i = 0; i < 300; i++) {
            struct pw_buf whole = { 0 }, parts = { 0 };
            struct pw_detok *d;
            int32_t ids[40];
            size_t k = (size_t)pw_rng_below(&r, 40);
            for (size_t j = 0; j < k; j++)
                ids[j] = (int32_t)pw_rng_below(&r, (uint64_t)pw_tokenizer_vocab(t));
            ck_ok(pw_tokenizer_decode(t, ids, k, 0, &whole));
            ck_ok(pw_detok_open(&d, t, 0));
            for (size_t j = 0; j < k; j++)
                ck_ok(pw_detok_push(d, ids[j], &parts));
            ck_ok(pw_detok_end(d, &parts));
            ck_assert(whole.len == parts.len && (whole.len == 0 || memcmp(whole.data, parts.data, whole.len) == 0));
            ck_assert(whole.len == 0 || pw_utf8_valid(whole.data, whole.len));
            pw_detok_free(d);
            pw_buf_free(&whole);
            pw_buf_free(&parts);
        }
        pw_tokenizer_free(t);
    }
}
END_TEST

/* One word of 200,000 characters: the heap. Its tokens must be those that the short path gives for each unit. */
START_TEST(long_word)
{
    struct pw_tokenizer *t = load("bytelevel", ".json");
    struct pw_tokens k = { 0 };
    struct pw_buf text = { 0 }, back = { 0 };
    for (int i = 0; i < 50000; i++)
        pw_buf_str(&text, i % 3 ? "riv" : "thee");
    ck_ok(pw_tokenizer_encode(t, text.data, text.len, 0, &k));
    for (size_t i = 1; i < k.n; i++)
        ck_assert_int_eq(k.start[i], k.end[i - 1]);
    ck_assert_int_eq(k.end[k.n - 1], (int64_t)text.len);
    ck_ok(pw_tokenizer_decode(t, k.ids, k.n, 0, &back));
    ck_assert(back.len == text.len && memcmp(back.data, text.data, text.len) == 0);
    pw_buf_free(&text);
    pw_buf_free(&back);
    pw_tokens_free(&k);
    pw_tokenizer_free(t);
}
END_TEST

START_TEST(llama2c)
{
    static const int32_t want[] = { 1, 261, 260, 3 + 'b', 3 + 0xC3, 3 + 0xA9 }; /* " a" "a"... of "aab" + e acute */
    struct pw_tokenizer *t;
    struct pw_tokens k = { 0 };
    struct pw_buf back = { 0 };
    ck_ok(pw_tokenizer_load_llama2c(&t, "tests/fixtures/tokenizer/llama2c.bin", LLAMA2C_PIECES));
    ck_ok(pw_tokenizer_encode(t, "aab\xC3\xA9", 5, PW_TOK_DEFAULT, &k));
    ck_assert_uint_eq(k.n, sizeof want / sizeof *want);
    for (size_t i = 0; i < k.n; i++)
        ck_assert_int_eq(k.ids[i], want[i]);
    ck_assert_int_eq(k.start[1], 0);
    ck_assert_int_eq(k.start[2], 1);
    ck_ok(pw_tokenizer_decode(t, k.ids, k.n, PW_TOK_SKIP_SPECIAL, &back));
    ck_assert_str_eq(back.data, "aab\xC3\xA9");
    ck_ok(pw_tokenizer_encode(t, "", 0, PW_TOK_DEFAULT, &k));
    ck_assert_uint_eq(k.n, 1);
    ck_assert(pw_tokenizer_adds_bos(t) && !pw_tokenizer_adds_eos(t) && pw_tokenizer_eos(t) == 2);
    pw_tokenizer_free(t);
    ck_fails(pw_tokenizer_load_llama2c(&t, "tests/fixtures/tokenizer/llama2c.bin", LLAMA2C_PIECES - 1), PW_E_FORMAT, "another vocabulary size");
    ck_fails(pw_tokenizer_load_llama2c(&t, "tests/fixtures/tokenizer/llama2c.bin", LLAMA2C_PIECES + 1), PW_E_FORMAT, "llama2c.bin");
    ck_fails(pw_tokenizer_load_llama2c(&t, "tests/fixtures/tokenizer/llama2c.bin", -1), PW_E_FORMAT, "vocabulary");
    pw_buf_free(&back);
    pw_tokens_free(&k);
}
END_TEST

START_TEST(refused)
{
    struct pw_arena a;
    char **files;
    size_t n;
    pw_arena_init(&a);
    ck_ok(pw_dir_list(&a, "tests/fixtures/refused/tokenizer", &files, &n));
    ck_assert_uint_ge(n, 85);
    for (size_t i = 0; i < n; i++) {
        const char *path = pw_path_join(&a, "tests/fixtures/refused/tokenizer", files[i]);
        struct pw_tokenizer *t = NULL;
        bool bin = strcmp(files[i] + strlen(files[i]) - 4, ".bin") == 0;
        bool ranks = strstr(files[i], ".tiktoken") != NULL;
        int rc = bin ? pw_tokenizer_load_llama2c(&t, path, LLAMA2C_PIECES) : pw_tokenizer_load_as(&t, path, ranks ? "gpt-2" : NULL);
        ck_assert_msg(rc == PW_E_FORMAT || rc == PW_E_UNSUPPORTED, "%s: %d (%s)", files[i], rc, pw_error_text());
        ck_assert_ptr_null(t);
        const char *message = pw_error_text(), *after = strstr(message, files[i]);
        ck_assert_msg(after && strlen(after) > strlen(files[i]) + 8, "%s: the message says too little: %s", files[i], message);
        pw_error_clear();
    }
    pw_arena_free(&a);
}
END_TEST

/* Every cut and many flipped bytes of a good file: an error or a tokenizer, never a crash. */
START_TEST(damaged)
{
    struct pw_rng r = pw_rng_make(11, PW_STREAM_TEST);
    size_t n;
    char *good = test_slurp("tests/fixtures/tokenizer/sentencepiece.json", &n);
    const char *path = test_path(test_tmpdir(), "tokenizer.json");
    for (int i = 0; i < 300; i++) {
        struct pw_tokenizer *t = NULL;
        char *bad = pw_strndup(good, n);
        size_t len = i % 3 ? n : (size_t)pw_rng_below(&r, n);
        for (int j = 0; i % 3 && j < 1 + i % 4; j++)
            bad[pw_rng_below(&r, n)] = "{}[]\",:0a-9\\e"[pw_rng_below(&r, 13)];
        ck_ok(pw_file_write(path, bad, len, true));
        if (pw_tokenizer_load(&t, path) == 0) {
            struct pw_tokens k = { 0 };
            (void)pw_tokenizer_encode(t, "the <s> caf\xC3\xA9 said", 15, PW_TOK_DEFAULT, &k);
            pw_tokens_free(&k);
            pw_tokenizer_free(t);
        }
        pw_error_clear();
        pw_free(bad);
    }
    pw_free(good);
}
END_TEST

/* The same for the protobuf and for ranks: bytes of any value. */
START_TEST(damaged_binary)
{
    static const char *const files[] = { "tests/fixtures/tokenizer/kinds/unigram-bytes.model", "tests/fixtures/tokenizer/kinds/gpt-4o.tiktoken" };
    struct pw_rng r = pw_rng_make(12, PW_STREAM_TEST);
    size_t n;
    char *good = test_slurp(files[_i], &n);
    const char *path = test_path(test_tmpdir(), "damaged");
    for (int i = 0; i < 300; i++) {
        struct pw_tokenizer *t = NULL;
        char *bad = pw_alloc(n);
        memcpy(bad, good, n);
        size_t len = i % 3 ? n : (size_t)pw_rng_below(&r, n);
        for (int j = 0; i % 3 && j < 1 + i % 4; j++)
            bad[pw_rng_below(&r, n)] = (char)pw_rng_below(&r, 256);
        ck_ok(pw_file_write(path, bad, len, true));
        if (pw_tokenizer_load_as(&t, path, _i ? "gpt-2" : NULL) == 0) {
            struct pw_tokens k = { 0 };
            (void)pw_tokenizer_encode(t, "the <s> caf\xC3\xA9 said", 15, PW_TOK_DEFAULT, &k);
            pw_tokens_free(&k);
            pw_tokenizer_free(t);
        }
        pw_error_clear();
        pw_free(bad);
    }
    pw_free(good);
}
END_TEST

START_TEST(folder)
{
    const char *dir = test_tmpdir();
    struct pw_tokenizer *t;
    size_t n;
    char *json = test_slurp("tests/fixtures/tokenizer/bytelevel.json", &n);
    static const char config[] = "{\"bos_token\": {\"content\": \"<s>\"}, \"eos_token\": \"</s>\", \"pad_token\": null, \"unk_token\": \"<unk>\","
                                 " \"model_max_length\": 1000000000000000019884624838656, \"note\": \"1000000000000000019884624838656\","
                                 " \"chat_template\": [{\"name\": \"default\", \"template\": \"D\"}, {\"name\": \"tool_use\", \"template\": \"T\"}]}";
    ck_fails(pw_tokenizer_load(&t, dir), PW_E_FORMAT, "no tokenizer");
    ck_ok(pw_file_write(test_path(dir, "tokenizer.json"), json, n, false));
    ck_ok(pw_file_write(test_path(dir, "tokenizer_config.json"), config, sizeof config - 1, false));
    ck_ok(pw_file_write(test_path(dir, "generation_config.json"), "{\"eos_token_id\": [2, 5]}", 24, false));
    ck_ok(pw_tokenizer_load(&t, dir));
    ck_assert_int_eq(pw_tokenizer_bos(t), 1);
    ck_assert_int_eq(pw_tokenizer_eos(t), 2);
    ck_assert_int_eq(pw_tokenizer_pad(t), -1);
    ck_assert_int_eq(pw_tokenizer_unk(t), 0);
    ck_assert_str_eq(pw_tokenizer_bos_text(t), "<s>");
    ck_assert_str_eq(pw_tokenizer_template(t, NULL), "D");
    ck_assert_str_eq(pw_tokenizer_template(t, "tool_use"), "T");
    ck_assert_ptr_null(pw_tokenizer_template(t, "rag"));
    const int32_t *stops = pw_tokenizer_stops(t, &n);
    ck_assert(n == 2 && stops[0] == 2 && stops[1] == 5);
    pw_tokenizer_free(t);
    ck_ok(pw_file_write(test_path(dir, "chat_template.jinja"), "J", 1, false));
    ck_ok(pw_tokenizer_load(&t, dir));
    ck_assert_str_eq(pw_tokenizer_template(t, NULL), "J");
    pw_tokenizer_free(t);
    ck_ok(pw_file_write(test_path(dir, "tokenizer_config.json"), "{\"eos_token\": \"<gone>\"}", 23, true));
    ck_fails(pw_tokenizer_load(&t, dir), PW_E_FORMAT, "<gone>");
    pw_free(json);
}
END_TEST

/* Without tokenizer_config.json the ids are the model's: generation_config.json's, then config.json's, then those of its model of text (Gemma 3's folders of text and vision). */
START_TEST(ids_of_the_model)
{
    static const char inner[] = "{\"text_config\": {\"eos_token_id\": [2, 5], \"bos_token_id\": 1}}", outer[] = "{\"eos_token_id\": 1, \"text_config\": {\"eos_token_id\": 2}}",
                      bad[] = "{\"text_config\": [2]}";
    const char *dir = test_tmpdir(), *config = test_path(dir, "config.json");
    struct pw_tokenizer *t;
    size_t n;
    char *json = test_slurp("tests/fixtures/tokenizer/bytelevel.json", &n);
    ck_ok(pw_file_write(test_path(dir, "tokenizer.json"), json, n, false));
    ck_ok(pw_file_write(config, inner, sizeof inner - 1, false));
    ck_ok(pw_tokenizer_load(&t, dir));
    ck_assert_int_eq(pw_tokenizer_eos(t), 2);
    ck_assert_int_eq(pw_tokenizer_bos(t), 1);
    pw_tokenizer_free(t);
    ck_ok(pw_file_write(config, outer, sizeof outer - 1, true));
    ck_ok(pw_tokenizer_load(&t, dir));
    ck_assert_int_eq(pw_tokenizer_eos(t), 1);
    pw_tokenizer_free(t);
    ck_ok(pw_file_write(config, bad, sizeof bad - 1, true));
    ck_ok(pw_tokenizer_load(&t, dir));
    ck_assert_int_eq(pw_tokenizer_eos(t), -1);
    pw_tokenizer_free(t);
    pw_free(json);
}
END_TEST

/* ---- every kind of file, on random strings of all planes ---- */

static const char *const kinds[] = { "unigram-nfkc.model", "unigram-bytes.model", "bpe-bytes.model", "llama3.json", "qwen2.json", "deepseek-v3.json", "deepseek-llm.json",
    "phi3.json", "llama2-first.json", "gemma.json", "unigram-json.json", "punctuation.json", "gpt-4o.tiktoken" };
enum { KINDS = sizeof kinds / sizeof *kinds };

START_TEST(every_kind)
{
    struct pw_tokenizer *t;
    struct pw_tokens k = { 0 };
    struct pw_arena a;
    struct pw_value *rows;
    char path[256];
    const char *dot = strrchr(kinds[_i], '.');
    bool json = strcmp(dot, ".json") == 0;
    size_t tokens = 0;
    pw_arena_init(&a);
    snprintf(path, sizeof path, "tests/fixtures/tokenizer/kinds/%s", kinds[_i]);
    ck_ok(pw_tokenizer_load_as(&t, path, strcmp(dot, ".tiktoken") == 0 ? "gpt-4o" : NULL));
    snprintf(path, sizeof path, "tests/fixtures/tokenizer/kinds/%.*s.expected.json", (int)(dot - kinds[_i]), kinds[_i]);
    ck_ok(pw_json_load(&a, path, &rows));
    ck_assert_uint_ge(rows->len, 120);
    for (int again = 0; again < 2; again++)
        for (size_t i = 0; i < rows->len; i++) {
            const struct pw_value *row = &rows->items[i], *text = pw_get(row, "text"), *ids = pw_get(row, "ids");
            int64_t last = 0;
            ck_ok(pw_tokenizer_encode(t, text->s, text->len, json ? PW_TOK_DEFAULT : 0, &k));
            ck_assert_msg(k.n == ids->len, "%s: \"%s\": %zu tokens, expected %zu", kinds[_i], text->s, k.n, ids->len);
            for (size_t j = 0; j < k.n; j++) {
                ck_assert_msg(k.ids[j] == ids->items[j].i, "%s: \"%s\": token %zu: id %d, expected %lld", kinds[_i], text->s, j, (int)k.ids[j], (long long)ids->items[j].i);
                if (k.start[j] >= 0) {
                    ck_assert(k.start[j] >= last && k.start[j] <= k.end[j] && k.end[j] <= (int64_t)text->len);
                    last = k.start[j];
                }
            }
            expect_decoded(t, &k, row, "decoded", 0);
            tokens += k.n;
        }
    ck_assert_uint_gt(tokens, 3000);
    pw_arena_free(&a);
    pw_tokens_free(&k);
    pw_tokenizer_free(t);
}
END_TEST

/* The arrays of a .model given as arrays: the same ids; USER pieces apart as llama.cpp has them. */
START_TEST(from_arrays)
{
    static const struct pw_tok_piece pieces[] = { { "<unk>", 5, 0, PW_PIECE_UNKNOWN, 0 }, { "<s>", 3, 0, PW_PIECE_CONTROL, 0 }, { "</s>", 4, 0, PW_PIECE_CONTROL, 0 },
        { "\xE2\x96\x81", 3, -1, PW_PIECE_NORMAL, 0 }, { "a", 1, -2, PW_PIECE_NORMAL, 0 }, { "b", 1, -3, PW_PIECE_NORMAL, 0 }, { "ab", 2, -1.5f, PW_PIECE_NORMAL, 0 },
        { "\xE2\x96\x81" "a", 4, -1.6f, PW_PIECE_NORMAL, 0 }, { "<u>", 3, 0, PW_PIECE_USER, PW_PIECE_RSTRIP }, { "cd", 2, -1, PW_PIECE_NORMAL, 0 } };
    struct pw_tok_source s = { .where = "arrays", .pieces = pieces, .n = 10, .bos = 1, .eos = 2, .pad = -1, .unk = 0, .add_bos = true };
    struct pw_tok_spm spm = { .prefix = true, .user_apart = true };
    static const int32_t bpe[] = { 1, 3, 6, 8, 7, 9, 0, 2 }; /* "ab<u> acdc</s>": cd is merged though c and d are no pieces */
    struct pw_tokenizer *t;
    struct pw_tokens k = { 0 };
    ck_ok(pw_tokenizer_from_spm_bpe(&t, &s, &spm));
    ck_ok(pw_tokenizer_encode(t, "ab<u> acdc</s>", 14, PW_TOK_DEFAULT, &k));
    ck_assert_uint_eq(k.n, sizeof bpe / sizeof *bpe);
    for (size_t i = 0; i < k.n; i++)
        ck_assert_int_eq(k.ids[i], bpe[i]);
    ck_assert(pw_tokenizer_adds_bos(t) && pw_tokenizer_eos(t) == 2 && pw_tokenizer_is_special(t, 1) && !pw_tokenizer_is_special(t, 8));
    pw_tokenizer_free(t);
    ck_ok(pw_tokenizer_from_unigram(&t, &s, &spm));
    ck_ok(pw_tokenizer_encode(t, "ab", 2, 0, &k)); /* _ + ab = -2.5, _a + b = -4.6 */
    ck_assert(k.n == 2 && k.ids[0] == 3 && k.ids[1] == 6);
    pw_tokenizer_free(t);
    struct pw_tok_piece other[10];
    memcpy(other, pieces, sizeof other);
    other[6].score = -9; /* now _ + ab = -10 and _a + b = -4.6 */
    s.pieces = other;
    ck_ok(pw_tokenizer_from_unigram(&t, &s, &spm));
    ck_ok(pw_tokenizer_encode(t, "ab", 2, 0, &k));
    ck_assert(k.n == 2 && k.ids[0] == 7 && k.ids[1] == 5);
    pw_tokenizer_free(t);
    s.pieces = pieces;
    s.bos = 11;
    ck_fails(pw_tokenizer_from_unigram(&t, &s, &spm), PW_E_FORMAT, "begin of text: id 11");
    s.bos = -1;
    ck_fails(pw_tokenizer_from_unigram(&t, &s, &spm), PW_E_FORMAT, "begin token is to be added");
    s.bos = 1;
    static const struct pw_tok_text merges[] = { { "a b", 3 } }, bad[] = { { "a c", 3 } };
    ck_ok(pw_tokenizer_from_bpe(&t, &s, merges, 1, "qwen2"));
    ck_ok(pw_tokenizer_encode(t, "ab<u>  b", 8, PW_TOK_SPECIAL, &k));
    ck_assert(k.n == 4 && k.ids[0] == 1 && k.ids[1] == 6 && k.ids[2] == 8 && k.ids[3] == 5);
    pw_tokenizer_free(t);
    ck_fails(pw_tokenizer_from_bpe(&t, &s, bad, 1, "qwen2"), PW_E_FORMAT, "merge 0");
    ck_fails(pw_tokenizer_from_bpe(&t, &s, merges, 1, "bert"), PW_E_UNSUPPORTED, "pre-split \"bert\"");
    pw_tokens_free(&k);
}
END_TEST

/* Every published pre-split compiles and loses nothing: the pieces of a text are the text. */
START_TEST(every_pre_split)
{
    static const char text[] = "It's 12345 \xC3\xA9t\xC3\xA9's  \xE6\x9D\xB1\xE4\xBA\xAC\n\n  foo_BAR!? \xF0\x9F\x99\x82 'LL 3.14\t";
    static const char *const more[] = { "llama3", "qwen", "gpt2", "r50k_base", "starcoder", "o200k_base", "falcon3" };
    char list[512], *save = NULL;
    size_t count = 0;
    snprintf(list, sizeof list, "%s", pw_tokenizer_pre_names());
    for (char *name = strtok_r(list, ", ", &save); name || count < 18;) {
        const char *pre = name ? name : more[count - 11];
        struct pw_tokenizer *t;
        struct pw_tokens k = { 0 };
        struct pw_buf back = { 0 };
        ck_ok(pw_tokenizer_load_as(&t, "tests/fixtures/tokenizer/kinds/gpt-4o.tiktoken", pre));
        ck_ok(pw_tokenizer_encode(t, text, sizeof text - 1, 0, &k));
        ck_ok(pw_tokenizer_decode(t, k.ids, k.n, 0, &back));
        ck_assert_msg(back.len == sizeof text - 1 && memcmp(back.data, text, back.len) == 0, "%s: \"%s\"", pre, back.data);
        pw_buf_free(&back);
        pw_tokens_free(&k);
        pw_tokenizer_free(t);
        count++;
        name = name ? strtok_r(NULL, ", ", &save) : NULL;
    }
    ck_assert_uint_eq(count, 18);
}
END_TEST

/* A folder with tokenizer.model or ranks: what tokenizer_config.json says of BOS, added tokens and the pre-split. */
START_TEST(folders_without_json)
{
    const char *dir = test_tmpdir(), *other = test_tmpdir();
    struct pw_tokenizer *t;
    struct pw_tokens k = { 0 };
    size_t n, m;
    char *model = test_slurp("tests/fixtures/tokenizer/kinds/bpe-bytes.model", &n), *ranks = test_slurp("tests/fixtures/tokenizer/kinds/gpt-4o.tiktoken", &m);
    static const char llama[] = "{\"tokenizer_class\": \"LlamaTokenizer\", \"bos_token\": \"<s>\", \"eos_token\": \"</s>\", \"added_tokens_decoder\":"
                                " {\"1\": {\"content\": \"<s>\", \"special\": true}, \"5000\": {\"content\": \"<tool>\", \"special\": true}}}";
    static const char qwen[] = "{\"tokenizer_class\": \"QWenTokenizer\", \"added_tokens_decoder\": {\"5001\": {\"content\": \"<|im_end|>\", \"special\": true}}}";
    ck_ok(pw_file_write(test_path(dir, "tokenizer.model"), model, n, false));
    ck_ok(pw_file_write(test_path(dir, "tokenizer_config.json"), llama, sizeof llama - 1, false));
    ck_ok(pw_tokenizer_load(&t, dir));
    ck_ok(pw_tokenizer_encode(t, "the<tool>", 9, PW_TOK_DEFAULT, &k));
    ck_assert(k.ids[0] == 1 && k.ids[k.n - 1] == 5000 && pw_tokenizer_vocab(t) == 5001 && pw_tokenizer_adds_bos(t) && pw_tokenizer_eos(t) == 2);
    ck_ok(pw_tokenizer_encode(t, "the<tool>", 9, 0, &k));
    ck_assert(k.ids[0] != 1 && k.ids[k.n - 1] != 5000);
    pw_tokenizer_free(t);
    ck_ok(pw_file_write(test_path(dir, "tokenizer_config.json"), "{\"tokenizer_class\": \"XLNetTokenizer\"}", 37, true));
    ck_fails(pw_tokenizer_load(&t, dir), PW_E_UNSUPPORTED, "XLNetTokenizer");
    ck_ok(pw_file_write(test_path(other, "x.tiktoken"), ranks, m, false));
    ck_fails(pw_tokenizer_load(&t, other), PW_E_FORMAT, "x.tiktoken");
    ck_ok(pw_file_write(test_path(other, "tokenizer_config.json"), qwen, sizeof qwen - 1, false));
    ck_ok(pw_tokenizer_load(&t, other));
    ck_ok(pw_tokenizer_encode(t, "the<|im_end|>", 13, PW_TOK_DEFAULT, &k));
    ck_assert_int_eq(k.ids[k.n - 1], 5001);
    pw_tokenizer_free(t);
    ck_ok(pw_file_write(test_path(other, "y.tiktoken"), ranks, m, false));
    ck_fails(pw_tokenizer_load(&t, other), PW_E_FORMAT, "two files of ranks");
    pw_free(model);
    pw_free(ranks);
    pw_tokens_free(&k);
}
END_TEST

static int load_and_use(void *context)
{
    struct pw_tokenizer *t = NULL;
    struct pw_tokens k = { 0 };
    struct pw_buf out = { 0 };
    int rc = pw_tokenizer_load(&t, context);
    if (rc == 0)
        rc = pw_tokenizer_encode(t, "the caf\xC3\xA9 </s>", 13, PW_TOK_DEFAULT, &k);
    if (rc == 0)
        rc = pw_tokenizer_decode(t, k.ids, k.n, 0, &out);
    pw_buf_free(&out);
    pw_tokens_free(&k);
    pw_tokenizer_free(t);
    return rc;
}

START_TEST(no_memory)
{
    char a[] = "tests/fixtures/tokenizer/sentencepiece.json";
    pw_error_clear();
    char b[] = "tests/fixtures/tokenizer/kinds/bpe-bytes.model", c[] = "tests/fixtures/tokenizer/kinds/unigram-json.json";
    ck_assert_int_gt(test_sweep_nomem(load_and_use, a), 10);
    ck_assert_int_gt(test_sweep_nomem(load_and_use, b), 10);
    ck_assert_int_gt(test_sweep_nomem(load_and_use, c), 10);
}
END_TEST

/* 46 strings and their ids as llama.cpp publishes them: the two-file form, and ranks. */
START_TEST(published_vectors)
{
    static const char mark[] = "\n__ggml_vocab_test__\n";
    static const struct { const char *tokenizer, *vectors, *pre; } rows[] = {
        { "gpt2-hf", "gpt-2", NULL }, { "qwen.tiktoken", "qwen2", NULL }, { "qwen.tiktoken", "qwen2", "qwen2" } };
    struct pw_tokenizer *t;
    struct pw_tokens k = { 0 };
    size_t n, m, count = 0;
    char name[128];
    snprintf(name, sizeof name, "data/tokenizers/%s", rows[_i].tokenizer);
    const char *path = test_shared(name);
    snprintf(name, sizeof name, "data/tokenizers/ggml-vocab-%s.gguf.inp", rows[_i].vectors);
    const char *in = test_shared(name);
    snprintf(name, sizeof name, "data/tokenizers/ggml-vocab-%s.gguf.out", rows[_i].vectors);
    const char *out = test_shared(name);
    if (!path || !in || !out) {
        test_skip("the vocabulary %s is not here", rows[_i].tokenizer);
        return;
    }
    ck_ok(pw_tokenizer_load_as(&t, path, rows[_i].pre));
    char *text = test_slurp(in, &n), *ids = test_slurp(out, &m), *line = ids;
    for (char *at = text; line < ids + m; count++) {
        char *end = strstr(at, mark), *stop = end ? end : text + n;
        ck_ok(pw_tokenizer_encode(t, at, (size_t)(stop - at), 0, &k));
        for (size_t i = 0; i < k.n; i++)
            ck_assert_int_eq(strtol(line, &line, 10), k.ids[i]);
        while (*line == ' ')
            line++;
        ck_assert_msg(*line == '\n' || *line == 0, "string %zu: more ids are expected", count);
        line++;
        if (!end)
            break;
        at = end + sizeof mark - 1;
    }
    ck_assert_uint_ge(count, 46);
    pw_free(text);
    pw_free(ids);
    pw_tokens_free(&k);
    pw_tokenizer_free(t);
}
END_TEST

/* The published conversations of Mistral: shown as pieces, where a control token is followed by the space that encoding put in front of the
 * text after it. */
START_TEST(mistral_samples)
{
    static const struct { const char *model, *text, *tokens; bool v3; } rows[] = {
        { "tokenizer.model.v1", "no_tools/text_v1.txt", "no_tools/tokens_v1.json", false },
        { "mistral_instruct_tokenizer_240323.model.v3", "no_tools/text_v3.txt", "no_tools/tokens_v3.json", true },
        { "mistral_instruct_tokenizer_240323.model.v3", "get_weather_full/text_v3.txt", "get_weather_full/tokens_v3.json", true },
        { "mistral_instruct_tokenizer_240323.model.v3", "several_calls/text_v3.txt", "several_calls/tokens_v3.json", true } };
    static const char *const control[] = { "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]" };
    static const char mark[] = "\xE2\x96\x81";
    struct pw_tokenizer *t;
    struct pw_tokens k = { 0 };
    struct pw_buf text = { 0 };
    struct pw_arena a;
    struct pw_value *v;
    char name[160];
    size_t n;
    snprintf(name, sizeof name, "data/tokenizers/mistral/%s", rows[_i].model);
    const char *model = test_shared(name);
    snprintf(name, sizeof name, "data/tokenizers/mistral/samples/%s", rows[_i].text);
    const char *shown = test_shared(name);
    snprintf(name, sizeof name, "data/tokenizers/mistral/samples/%s", rows[_i].tokens);
    const char *tokens = test_shared(name);
    if (!model || !shown || !tokens) {
        test_skip("the samples of Mistral are not here");
        return;
    }
    char *source = test_slurp(shown, &n);
    for (const char *at = source; at < source + n;) {
        size_t len = 0;
        for (size_t i = 0; i < (rows[_i].v3 ? 9u : 2u) && !len; i++)
            len = strncmp(at, control[i], strlen(control[i])) == 0 ? strlen(control[i]) : 0;
        if (len) {
            pw_buf_add(&text, at, len);
            at += len + (strncmp(at + len, mark, 3) == 0 ? 3 : 0);
        } else if (strncmp(at, "<0x0A>", 6) == 0) {
            pw_buf_char(&text, '\n');
            at += 6;
        } else if (strncmp(at, mark, 3) == 0) {
            pw_buf_char(&text, ' ');
            at += 3;
        } else {
            pw_buf_char(&text, *at++);
        }
    }
    pw_arena_init(&a);
    ck_ok(pw_json_load(&a, tokens, &v));
    const struct pw_value *want = pw_get(v, "tokens");
    ck_ok(pw_tokenizer_load(&t, model));
    ck_ok(pw_tokenizer_encode(t, text.data, text.len, PW_TOK_PARSE_SPECIAL, &k));
    ck_assert_uint_eq(k.n, want->len);
    for (size_t i = 0; i < k.n; i++)
        ck_assert_int_eq(k.ids[i], want->items[i].i);
    pw_free(source);
    pw_buf_free(&text);
    pw_tokens_free(&k);
    pw_tokenizer_free(t);
    pw_arena_free(&a);
}
END_TEST

static uint32_t first_of(const char *s)
{
    uint32_t cp;
    pw_utf8_get(s, strlen(s), &cp);
    return cp;
}

START_TEST(unicode)
{
    struct pw_char in[8], out[8 * 18];
    char bytes[4];
    static const struct { enum pw_form form; const char *from, *to; } rows[] = {
        { PW_NFC, "e\u0301", "\u00e9" }, { PW_NFD, "\u00e9", "e\u0301" }, { PW_NFC, "\u1100\u1161\u11a8", "\uac01" }, { PW_NFD, "\uac01", "\u1100\u1161\u11a8" },
        { PW_NFKC, "\ufb01", "fi" }, { PW_NFKD, "\u2460", "1" }, { PW_NFC, "\u0958", "\u0915\u093c" }, { PW_NFC, "q\u0300\u0323", "q\u0323\u0300" },
        { PW_NFC, "\u212b", "\u00c5" }, { PW_NFC, "a\u0328\u0301", "\u0105\u0301" } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct pw_buf got = { 0 };
        size_t n = 0, len = strlen(rows[i].from);
        for (size_t at = 0; at < len; n++) {
            in[n].start = (uint32_t)at;
            at += pw_utf8_get(rows[i].from + at, len - at, &in[n].cp);
            in[n].end = (uint32_t)at;
        }
        size_t m = pw_utf8_normalize(in, n, rows[i].form, out);
        for (size_t j = 0; j < m; j++)
            pw_buf_add(&got, bytes, pw_utf8_put(out[j].cp, bytes));
        ck_assert_str_eq(got.data, rows[i].to);
        pw_buf_free(&got);
    }
    ck_assert(pw_cp_space(first_of("\u2003")) && !pw_cp_space(0x180E) && pw_cp_numeric(first_of("\u2167")) && !pw_cp_word(' ') && pw_cp_word('_'));
}
END_TEST

/* Characters about which versions of Unicode disagree are taken as the package takes them, whatever the libraries of the machine know. */
START_TEST(versions_of_unicode)
{
    static const struct { const char *pattern; size_t start, end; } rows[] = { { "\\d", 1, 5 }, { "[x\\d]", 1, 5 }, { "\\D", 0, 1 }, { "a\\D", 0, 0 } };
    static const char text[] = "a\U0001E4F2a\u0661"; /* a digit of Unicode 15; one of the first version */
    struct pw_regex_room *room;
    ck_ok(pw_regex_room_open(&room));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct pw_regex *r;
        size_t start = 0, end = 0;
        ck_ok(pw_regex_compile(&r, rows[i].pattern, strlen(rows[i].pattern), "T"));
        int found = pw_regex_find(r, room, text, sizeof text - 1, 0, &start, &end);
        ck_assert_msg(found == (i < 3) && (!found || (start == rows[i].start && end == rows[i].end)), "%s: %d, %zu to %zu", rows[i].pattern, found, start, end);
        pw_regex_free(r);
    }
    pw_regex_room_free(room);
    ck_assert(pw_cp_punctuation('$') && pw_cp_punctuation(0x2E42) && !pw_cp_punctuation(0x2E4D) && pw_cp_punctuation(0x166D) && !pw_cp_punctuation('a'));
    int32_t state = 0;
    ck_assert(!pw_grapheme_break('n', 0x1AE7, &state) && !pw_grapheme_break(0x1AE7, 0x301, &state) && pw_grapheme_break(0x301, 'n', &state));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("tokenizer");
    TCase *c = tcase_create("tokenizer");
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, as_the_package, 0, NAMES);
    tcase_add_test(c, special_tokens);
    tcase_add_test(c, not_utf8);
    tcase_add_test(c, decoded_junk);
    tcase_add_test(c, long_word);
    tcase_add_test(c, llama2c);
    tcase_add_test(c, refused);
    tcase_add_test(c, damaged);
    tcase_add_loop_test(c, damaged_binary, 0, 2);
    tcase_add_test(c, folder);
    tcase_add_test(c, ids_of_the_model);
    tcase_add_test(c, no_memory);
    tcase_add_loop_test(c, published_vectors, 0, 3);
    tcase_add_loop_test(c, mistral_samples, 0, 4);
    tcase_add_loop_test(c, every_kind, 0, KINDS);
    tcase_add_test(c, every_pre_split);
    tcase_add_test(c, from_arrays);
    tcase_add_test(c, folders_without_json);
    tcase_add_test(c, unicode);
    tcase_add_test(c, versions_of_unicode);
    suite_add_tcase(s, c);
    return test_run(s);
}
