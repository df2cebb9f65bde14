/* Data sets: what each form trains, token by token, with a byte-level tokenizer of our own; cutting, dropping, the cache, and files that
 * must be refused. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "data/dataset.h"
#include "data/packing.h"
#include "tests/support.h"

static struct pw_tokenizer *tokenizer;

static void setup(void) { ck_ok(pw_tokenizer_load(&tokenizer, "tests/fixtures/data/model")); }
static void teardown(void) { pw_tokenizer_free(tokenizer); }

static struct pw_dataset_options plain(void)
{
    return (struct pw_dataset_options){.tokenizer = tokenizer, .chat_template = pw_tokenizer_template(tokenizer, NULL), .max_length = 500};
}

static const char *written(const char *name, const char *text)
{
    const char *path = test_path(test_tmpdir(), name);
    ck_ok(pw_file_write(path, text, strlen(text), true));
    return path;
}

/* A row as text: trained tokens in brackets. */
static void shown(const struct pw_dataset *d, int64_t row, struct pw_buf *out)
{
    pw_buf_clear(out);
    for (int64_t i = d->row_start[row]; i < d->row_start[row + 1]; i++) {
        if (d->trained[i])
            pw_buf_char(out, '[');
        ck_ok(pw_token_bytes(tokenizer, d->ids[i], out));
        if (d->trained[i])
            pw_buf_char(out, ']');
    }
}

static void expect(const struct pw_dataset *d, int64_t row, const char *text)
{
    struct pw_buf b = {0};
    shown(d, row, &b);
    ck_assert_str_eq(b.data, text);
    pw_buf_free(&b);
}

static struct pw_dataset *load(const struct pw_data_file *f, const struct pw_dataset_options *o)
{
    struct pw_dataset *d;
    ck_ok(pw_dataset_load(&d, f, 1, o));
    return d;
}

START_TEST(text)
{
    struct pw_dataset_options o = plain();
    struct pw_data_file f = {.path = written("a.jsonl", "{\"text\":\"hello\"}\n\n{\"text\":\"\"}\n{\"text\":\"hello\"}\n")};
    struct pw_dataset *d = load(&f, &o);
    ck_assert_int_eq(d->n_rows, 3);
    expect(d, 0, "<s>[hello][</s>]");
    expect(d, 1, "<s>[</s>]");
    ck_assert_int_eq(d->row_line[1], 3);
    ck_assert_int_eq(d->duplicates, 1);
    ck_assert_int_eq(d->n_trained, 5);
    pw_dataset_free(d);
}
END_TEST

START_TEST(completion_by_where_tokens_begin)
{
    /* "hello" is one token: where it begins in the prompt it is not trained, though it ends in the completion. */
    struct pw_dataset_options o = plain();
    struct pw_data_file f = {.path = written("a.jsonl", "{\"prompt\":\"he\",\"completion\":\"llo a\"}\n{\"prompt\":\"x:\",\"completion\":\" hello\"}\n")};
    struct pw_dataset *d = load(&f, &o);
    expect(d, 0, "<s>hello[ a][</s>]");
    expect(d, 1, "<s>x: [hello][</s>]");
    pw_dataset_free(d);
    o.train_on = PW_TRAIN_ALL;
    d = load(&f, &o);
    expect(d, 0, "<s>[hello][ a][</s>]");
    pw_dataset_free(d);
}
END_TEST

START_TEST(bos_and_eos_once)
{
    struct pw_dataset_options o = plain();
    struct pw_data_file f = {.path = written("a.jsonl", "{\"text\":\"<s>hello</s>\"}\n")};
    struct pw_dataset *d = load(&f, &o);
    expect(d, 0, "<s>[hello][</s>]");
    ck_assert_uint_eq(d->n_warnings, 2);
    pw_dataset_free(d);
}
END_TEST

START_TEST(alpaca)
{
    struct pw_dataset_options o = plain();
    struct pw_data_file f = {.path = "tests/fixtures/data/alpaca.json"};
    struct pw_dataset *d = load(&f, &o);
    struct pw_buf b = {0};
    shown(d, 0, &b);
    ck_assert_str_eq(strstr(b.data, "completes the request."), "completes the request.\n\n### Instruction:\nSay hello\n\n### Response:\n[hello][</s>]");
    ck_assert_int_eq(strncmp(b.data, "<s>Below is an instruction that describes a task. Write", 55), 0);
    shown(d, 1, &b);
    ck_assert_ptr_nonnull(strstr(b.data, "paired with an input that provides further context."));
    ck_assert_ptr_nonnull(strstr(b.data, "Repeat\n\n### Input:\na: b\n\n### Response:\n[a][: ][b][</s>]"));
    ck_assert_int_eq(d->row_line[0], 2);
    ck_assert_int_eq(d->row_line[1], 3);
    pw_buf_free(&b);
    pw_dataset_free(d);
}
END_TEST

#define CHAT1 "<s><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n[hello][<|im_end|>]\n<|im_start|>user\nand<|im_end|>\n<|im_start|>assistant\n[a][<|im_end|>]\n"

START_TEST(messages)
{
    struct pw_dataset_options o = plain();
    struct pw_data_file f = {.path = "tests/fixtures/data/chat.jsonl"}, g = {.path = "tests/fixtures/data/sharegpt.json"};
    struct pw_dataset *d = load(&f, &o);
    expect(d, 0, CHAT1);
    expect(d, 1, "<s><|im_start|>user\nhi<|im_end|>\n");
    ck_assert_uint_eq(d->n_warnings, 1);
    ck_assert_int_eq(d->warnings[0].row, 2);
    pw_dataset_free(d);
    d = load(&g, &o);
    expect(d, 0, CHAT1);
    pw_dataset_free(d);
    o.train_on = PW_TRAIN_LAST;
    d = load(&f, &o);
    expect(d, 0, "<s><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n<|im_start|>user\nand<|im_end|>\n<|im_start|>assistant\n[a][<|im_end|>]\n");
    pw_dataset_free(d);
    o.chat_template = NULL;
    ck_fails(pw_dataset_load(&d, &f, 1, &o), PW_E_FORMAT, "messages need a chat template");
}
END_TEST

/* Both rows of a pair, their answers alone trained; conversations with a prompt, without one, and with turns before it. */
START_TEST(preference)
{
    struct pw_dataset_options o = plain();
    struct pw_data_file f = {.path = written("p.jsonl",
        "{\"prompt\":\"he\",\"chosen\":\"llo a\",\"rejected\":\" b\"}\n"
        "{\"prompt\":[{\"role\":\"user\",\"content\":\"hi\"}],\"chosen\":[{\"role\":\"assistant\",\"content\":\"hello\"}],\"rejected\":[{\"role\":\"assistant\",\"content\":\"a\"}]}\n"
        "{\"prompt\":\"hi\",\"chosen\":[{\"role\":\"assistant\",\"content\":\"hello\"}],\"rejected\":[{\"role\":\"assistant\",\"content\":\"a\"}]}\n"
        "{\"chosen\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":\"b\"},{\"role\":\"user\",\"content\":\"and\"},{\"role\":\"assistant\",\"content\":\"hello\"}],"
        "\"rejected\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":\"b\"},{\"role\":\"user\",\"content\":\"and\"},{\"role\":\"assistant\",\"content\":\"a\"}]}\n"
        "{\"prompt\":\"he\",\"chosen\":\"llo a\",\"rejected\":\" b\"}\n")};
    struct pw_dataset *d = load(&f, &o);
    ck_assert(d->pairs && !d->row_label);
    ck_assert_int_eq(d->n_rows, 10);
    ck_assert_int_eq(pw_dataset_examples(d), 5);
    ck_assert_int_eq(d->duplicates, 2);
    expect(d, 0, "<s>hello[ a][</s>]");
    expect(d, 1, "<s>he[ ][b][</s>]");
    for (int i = 2; i < 6; i += 2) {
        expect(d, i, "<s><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n[hello][<|im_end|>]\n");
        expect(d, i + 1, "<s><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n[a][<|im_end|>]\n");
    }
    expect(d, 6, "<s><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nand<|im_end|>\n<|im_start|>assistant\n[hello][<|im_end|>]\n");
    expect(d, 7, "<s><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nand<|im_end|>\n<|im_start|>assistant\n[a][<|im_end|>]\n");
    ck_assert_int_eq(d->row_line[7], 4);
    pw_dataset_free(d);
    o.max_length = 4;           /* a pair is dropped whole, whichever side is too long */
    o.overlong = PW_OVERLONG_DROP;
    f.path = written("q.jsonl", "{\"prompt\":\"x\",\"chosen\":\"a\",\"rejected\":\"abcde\"}\n{\"prompt\":\"x\",\"chosen\":\"abcde\",\"rejected\":\"a\"}\n{\"prompt\":\"x\",\"chosen\":\"a\",\"rejected\":\"b\"}\n");
    d = load(&f, &o);
    ck_assert_int_eq(d->n_rows, 2);
    ck_assert_int_eq(d->dropped, 2);
    expect(d, 1, "<s>x[b][</s>]");
    pw_dataset_free(d);
    o.overlong = PW_OVERLONG_CUT;
    o.cache_dir = test_path(test_tmpdir(), "cache");
    for (int i = 0; i < 2; i++) {
        d = load(&f, &o);
        ck_assert_int_eq(d->truncated, 2);
        ck_assert_int_eq(d->n_rows, 6);
        ck_assert(d->pairs);
        ck_assert_uint_eq(d->n_cached, (size_t)i);
        pw_dataset_free(d);
    }
}
END_TEST

START_TEST(kto)
{
    struct pw_dataset_options o = plain();
    struct pw_data_file f = {.path = written("k.jsonl", "{\"prompt\":\"x\",\"completion\":\" a\",\"label\":true}\n{\"prompt\":\"x\",\"completion\":\" a\",\"label\":false}\n")};
    o.train_on = PW_TRAIN_ALL;  /* the answer alone, all the same */
    o.cache_dir = test_path(test_tmpdir(), "cache");
    for (int i = 0; i < 2; i++) {
        struct pw_dataset *d = load(&f, &o);
        expect(d, 0, "<s>x[ a][</s>]");
        ck_assert(d->row_label && d->row_label[0] == 1 && d->row_label[1] == 0);
        ck_assert_int_eq(d->duplicates, 0);
        pw_dataset_free(d);
    }
    struct pw_data_file two[2] = {f, {.path = written("t.jsonl", "{\"text\":\"a\"}\n")}};
    struct pw_dataset *d;
    ck_fails(pw_dataset_load(&d, two, 2, &o), PW_E_REFUSED, "rows are of another kind");
}
END_TEST

/* Pairs stay side by side in passes, packed and not, and a split takes both or none. */
START_TEST(pairs_stay_together)
{
    struct pw_dataset_options o = plain();
    struct pw_buf rows = {0};
    struct pw_arena a;
    struct pw_dataset *d;
    for (int i = 0; i < 40; i++)
        pw_buf_printf(&rows, "{\"prompt\":\"%d:\",\"chosen\":\"%.*s\",\"rejected\":\"%.*s\"}\n", i, i % 7, "abcdefg", i % 5 + 1, "hijklmn");
    struct pw_data_file f = {.path = written("p.jsonl", rows.data)};
    d = load(&f, &o);
    pw_arena_init(&a);
    uint32_t *train, *held;
    int64_t n_train, n_held;
    ck_ok(pw_dataset_split(&a, d, 0.2, 3, &train, &n_train, &held, &n_held));
    ck_assert_int_eq(n_train + n_held, 40);
    ck_assert_int_eq(n_held, 8);
    for (int packing = 0; packing < 2; packing++) {
        struct pw_packing_options p = {.max_length = packing ? 50 : 500, .batch_size = 2, .packing = packing, .shuffle = true, .seed = 5};
        struct pw_packing *plan;
        char seen[80] = {0};
        ck_ok(pw_packing_plan(&plan, d, train, n_train, &p, 1));
        ck_assert_int_eq(plan->n_rows, 2 * n_train);
        for (int64_t k = 0; k < plan->n_passes; k++) {
            int64_t from = plan->pass_start[k], n = plan->pass_start[k + 1] - from;
            ck_assert(n % 2 == 0 && (packing || n <= 4) && (!packing || plan->pass_tokens[k] <= 100));
            for (int64_t i = 0; i < n; i += 2) {
                ck_assert(plan->rows[from + i] % 2 == 0 && plan->rows[from + i + 1] == plan->rows[from + i] + 1);
                seen[plan->rows[from + i]]++;
            }
        }
        for (int64_t i = 0; i < n_train; i++)
            ck_assert_int_eq(seen[2 * train[i]], 1);
        int64_t tokens, seqs;
        pw_packing_worst(d, train, n_train, &p, &tokens, &seqs);
        ck_assert(plan->max_tokens <= tokens && plan->max_rows <= seqs);
        pw_packing_free(plan);
    }
    pw_arena_free(&a);
    pw_buf_free(&rows);
    pw_dataset_free(d);
}
END_TEST

START_TEST(mapped_by_templates)
{
    struct pw_dataset_options o = plain();
    struct pw_data_file f = {.path = "tests/fixtures/data/object.json", .prompt = "{{ _key }} {{ Q }}:", .completion = " {{ A }}"};
    struct pw_dataset *d = load(&f, &o);
    expect(d, 0, "<s>k1 one: [y][e][s][</s>]");
    ck_assert_int_eq(d->row_line[1], 3);
    pw_dataset_free(d);
    f.completion = "{{ A.b.c }}";
    ck_fails(pw_dataset_load(&d, &f, 1, &o), PW_E_FORMAT, "object.json:2: while rendering data.completion");
    f.completion = NULL;
    ck_fails(pw_dataset_load(&d, &f, 1, &o), PW_E_USAGE, "together");
    struct pw_data_file c = {.path = "tests/fixtures/data/rows.csv"};
    d = load(&c, &o);
    expect(d, 0, "<s>hello[</s>]");
    expect(d, 1, "<s>a\nb[hello][</s>]");
    ck_assert_int_eq(d->row_line[1], 3);
    pw_dataset_free(d);
}
END_TEST

START_TEST(overlong_rows)
{
    struct pw_dataset_options o = plain();
    struct pw_data_file f = {.path = written("a.jsonl", "{\"text\":\"abcdef\"}\n{\"text\":\"ab\"}\n")};
    o.max_length = 4;
    struct pw_dataset *d = load(&f, &o);
    expect(d, 0, "<s>[a][b][c]");
    expect(d, 1, "<s>[a][b][</s>]");
    ck_assert_int_eq(d->truncated, 1);
    ck_assert_int_eq(d->longest, 4);
    pw_dataset_free(d);
    o.overlong = PW_OVERLONG_DROP;
    d = load(&f, &o);
    ck_assert_int_eq(d->n_rows, 1);
    ck_assert_int_eq(d->dropped, 1);
    pw_dataset_free(d);
    o.max_length = 2;
    ck_fails(pw_dataset_load(&d, &f, 1, &o), PW_E_REFUSED, "longer than max_length");
}
END_TEST

START_TEST(nothing_to_train_on)
{
    struct pw_dataset_options o = plain();
    struct pw_dataset *d;
    struct pw_data_file f = {.path = written("a.jsonl", "")}, g = {.path = written("b.jsonl", "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}\n")};
    ck_fails(pw_dataset_load(&d, &f, 1, &o), PW_E_REFUSED, "no row");
    ck_fails(pw_dataset_load(&d, &g, 1, &o), PW_E_REFUSED, "no token would be trained");
    o.keep_going = true;
    d = load(&g, &o);
    ck_assert_uint_eq(d->n_errors, 1);
    pw_dataset_free(d);
}
END_TEST

START_TEST(refused)
{
    struct pw_dataset_options o = plain();
    struct pw_arena a;
    char **names;
    size_t n;
    pw_arena_init(&a);
    ck_ok(pw_dir_list(&a, "tests/fixtures/refused/jsonl", &names, &n));
    ck_assert_uint_ge(n, 14);
    for (size_t i = 0; i < n; i++) {
        struct pw_data_file f = {.path = pw_path_join(&a, "tests/fixtures/refused/jsonl", names[i])};
        struct pw_dataset *d;
        char place[200];
        int rc = pw_dataset_load(&d, &f, 1, &o);
        ck_assert_msg(rc == PW_E_FORMAT, "%s: %d", names[i], rc);
        snprintf(place, sizeof place, "%s:", names[i]);
        ck_assert_msg(strstr(pw_error_text(), place) != NULL, "%s: %s", names[i], pw_error_text());
        o.keep_going = true;
        ck_ok(pw_dataset_load(&d, &f, 1, &o));
        ck_assert_msg(d->n_errors >= 1 && d->errors[0].row >= 1, "%s: %zu errors, first in row %ld", names[i], d->n_errors, (long)d->errors[0].row);
        for (size_t k = 0; k < d->n_errors; k++)         /* a note has its place, so its text does not say it again */
            ck_assert_msg(strstr(d->errors[k].what, place) == NULL, "%s: %s", names[i], d->errors[k].what);
        pw_dataset_free(d);
        o.keep_going = false;
    }
    pw_arena_free(&a);
}
END_TEST

START_TEST(line_of_a_broken_row)
{
    struct pw_dataset_options o = plain();
    struct pw_dataset *d;
    struct pw_data_file f = {.path = "tests/fixtures/refused/jsonl/not_closed.jsonl"};
    ck_fails(pw_dataset_load(&d, &f, 1, &o), PW_E_FORMAT, "not_closed.jsonl:2");
    o.keep_going = true;
    d = load(&f, &o);
    ck_assert_int_eq(d->n_rows, 2);
    ck_assert_uint_eq(d->n_errors, 1);
    ck_assert_int_eq(d->errors[0].row, 2);
    pw_dataset_free(d);
}
END_TEST

/* What rows and turns count: tokens of a row of weight 2 and a turn of 0.25 count a half; a turn of 0 is not trained; the cache keeps it. */
START_TEST(weights)
{
    static const char rows[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":\"hello\",\"weight\":0},"
        "{\"role\":\"user\",\"content\":\"and\"},{\"role\":\"assistant\",\"content\":\"a\",\"weight\":0.25}],\"weight\":2}\n"
        "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":\"a\"}]}\n";
    static const char shared[] = "{\"conversations\":[{\"from\":\"human\",\"value\":\"hi\"},{\"from\":\"gpt\",\"value\":\"a\",\"weight\":3}]}\n";
    static const struct { const char *row, *says; } bad[] = {
        {"{\"text\":\"a\",\"weight\":0}\n", "expected more than 0"}, {"{\"text\":\"a\",\"weight\":\"2\"}\n", "expected a number"},
        {"{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\",\"weight\":2}\n", "only rows of sft"},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\",\"weight\":-1}]}\n", "expected 0 to 1000"},
        {"{\"prompt\":[{\"role\":\"user\",\"content\":\"hi\"}],\"chosen\":[{\"role\":\"assistant\",\"content\":\"a\",\"weight\":2}],"
         "\"rejected\":[{\"role\":\"assistant\",\"content\":\"b\"}]}\n", "only rows of sft"}};
    struct pw_dataset_options o = plain();
    struct pw_data_file f[2] = {{.path = written("w.jsonl", rows)}, {.path = written("s.jsonl", shared)}};
    o.cache_dir = test_path(test_tmpdir(), "weights");
    for (int again = 0; again < 2; again++) {
        struct pw_dataset *d;
        ck_ok(pw_dataset_load(&d, f, 2, &o));
        ck_assert_int_eq(d->n_rows, 3);
        ck_assert_uint_eq(d->n_cached, again ? 2 : 0);
        expect(d, 0, "<s><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n<|im_start|>user\nand<|im_end|>\n<|im_start|>assistant\n[a][<|im_end|>]\n");
        ck_assert_ptr_nonnull(d->token_weight);
        static const float counts[] = {0.5f, 1, 3};
        for (int64_t row = 0; row < 3; row++)
            for (int64_t i = d->row_start[row]; i < d->row_start[row + 1]; i++)
                ck_assert_msg(!d->trained[i] || d->token_weight[i] == counts[row], "row %ld: %g", (long)row, (double)d->token_weight[i]);
        pw_dataset_free(d);
    }
    struct pw_dataset *d;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct pw_data_file g = {.path = written("bad.jsonl", bad[i].row)};
        ck_fails(pw_dataset_load(&d, &g, 1, &o), PW_E_FORMAT, bad[i].says);
    }
    o.train_on = PW_TRAIN_ALL;
    ck_fails(pw_dataset_load(&d, f, 1, &o), PW_E_FORMAT, "train_on: all");
}
END_TEST

START_TEST(cache)
{
    const char *dir = test_path(test_tmpdir(), "cache"), *path = written("a.jsonl", "{\"text\":\"hello<s>\"}\n{\"text\":\"<s>ab\"}\n");
    struct pw_dataset_options o = plain();
    struct pw_data_file f = {.path = path};
    struct pw_arena a;
    char **names;
    size_t n;
    o.cache_dir = dir;
    struct pw_dataset *made = load(&f, &o), *read = load(&f, &o);
    ck_assert_uint_eq(made->n_cached, 0);
    ck_assert_uint_eq(read->n_cached, 1);
    ck_assert_str_eq(made->digest, read->digest);
    ck_assert_uint_eq(read->n_warnings, made->n_warnings);
    ck_assert_uint_eq(made->n_warnings, 1);
    ck_assert_str_eq(read->warnings[0].what, made->warnings[0].what);
    pw_dataset_free(read);
    o.max_length = 3; /* another option: other rows */
    read = load(&f, &o);
    ck_assert_uint_eq(read->n_cached, 0);
    ck_assert_int_eq(read->truncated, 2);
    pw_dataset_free(read);
    o.max_length = 500;
    pw_arena_init(&a);
    ck_ok(pw_dir_list(&a, dir, &names, &n));
    ck_assert_uint_eq(n, 2);
    for (size_t i = 0; i < n; i++) { /* damaged: made again, and then read again */
        size_t bytes;
        const char *h5 = pw_path_join(&a, dir, names[i]);
        char *bits = test_slurp(h5, &bytes);
        bits[bytes / 2] ^= 1;
        ck_ok(pw_file_write(h5, bits, bytes, true));
        pw_free(bits);
    }
    read = load(&f, &o);
    ck_assert_uint_eq(read->n_cached, 0);
    ck_assert_str_eq(made->digest, read->digest);
    pw_dataset_free(read);
    read = load(&f, &o);
    ck_assert_uint_eq(read->n_cached, 1);
    pw_dataset_free(read);
    ck_ok(pw_file_write(path, "{\"text\":\"other\"}\n", 17, true)); /* another source */
    read = load(&f, &o);
    ck_assert_uint_eq(read->n_cached, 0);
    ck_assert_int_eq(read->n_rows, 1);
    pw_dataset_free(read);
    pw_dataset_free(made);
    pw_arena_free(&a);
}
END_TEST

START_TEST(recipe_entries)
{
    struct pw_arena a;
    struct pw_value *v;
    struct pw_data_file *f;
    size_t n;
    pw_arena_init(&a);
    static const char good[] = "[\"alpaca.json\", {\"path\": \"chat.jsonl\", \"format\": \"messages\", \"weight\": 2}]", bad[] = "{\"path\": \"x\", \"wieght\": 2}";
    ck_ok(pw_json_parse(&a, good, sizeof good - 1, "g", &v));
    ck_ok(pw_data_files_read(&a, v, "auto", "tests/fixtures/data", "data.train", &f, &n));
    ck_assert_uint_eq(n, 2);
    ck_assert_str_eq(f[0].path, "tests/fixtures/data/alpaca.json");
    ck_assert(f[1].weight == 2 && strcmp(f[1].format, "messages") == 0);
    struct pw_dataset_options o = plain();
    struct pw_dataset *d;
    ck_ok(pw_dataset_load(&d, f, n, &o));
    ck_assert_int_eq(d->n_rows, 4);
    ck_assert(d->row_weight && d->row_weight[0] == 1 && d->row_weight[2] == 2 && d->row_file[2] == 1);
    pw_dataset_free(d);
    ck_ok(pw_json_parse(&a, bad, sizeof bad - 1, "b", &v));
    ck_fails(pw_data_files_read(&a, v, "auto", NULL, "data.train", &f, &n), PW_E_USAGE, "did you mean weight");
    pw_arena_free(&a);
}
END_TEST

static int sweep_work(void *context)
{
    struct pw_dataset_options o = plain();
    struct pw_data_file f[] = {{.path = "tests/fixtures/data/chat.jsonl"}, {.path = "tests/fixtures/data/rows.csv"}};
    struct pw_dataset *d = NULL;
    (void)context;
    int rc = pw_dataset_load(&d, f, 2, &o);
    pw_dataset_free(d);
    return rc;
}

START_TEST(out_of_memory)
{
    ck_assert_int_gt(test_sweep_nomem(sweep_work, NULL), 20);
}
END_TEST

START_TEST(real_data)
{
    static const struct { const char *path, *prompt, *completion; int64_t rows, at_least; } files[] = {
        {"data/finetune/openbookqa/train.json", NULL, NULL, 4957, 60000},
        {"data/finetune/pubmedqa/ori_pqal.json", "{{ QUESTION }}\nAnswer:", " {{ final_decision }}", 1000, 2000},
        {"data/finetune/sharegpt_form/dummy_conversation.json", NULL, NULL, 500, 5000},
        {"data/finetune/dolly_sample/dolly.jsonl", "{{ prompt }}", "{{ answer }}", -1, 1000},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        const char *path = test_shared(files[i].path);
        if (!path) {
            test_skip("%s is not here", files[i].path);
            continue;
        }
        struct pw_dataset_options o = plain();
        struct pw_data_file f = {.path = path, .prompt = files[i].prompt, .completion = files[i].completion};
        o.max_length = 0;
        struct pw_dataset *d = load(&f, &o);
        ck_assert_msg(files[i].rows < 0 || d->n_rows == files[i].rows, "%s: %ld rows", path, (long)d->n_rows);
        ck_assert_int_ge(d->n_trained, files[i].at_least);
        for (int64_t k = 0; k < d->n_rows; k++)
            ck_assert_int_eq(d->trained[d->row_start[k]], 0);
        pw_dataset_free(d);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("dataset");
    TCase *c = tcase_create("dataset");
    tcase_set_timeout(c, 120);
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, text);
    tcase_add_test(c, completion_by_where_tokens_begin);
    tcase_add_test(c, bos_and_eos_once);
    tcase_add_test(c, alpaca);
    tcase_add_test(c, messages);
    tcase_add_test(c, preference);
    tcase_add_test(c, kto);
    tcase_add_test(c, pairs_stay_together);
    tcase_add_test(c, mapped_by_templates);
    tcase_add_test(c, overlong_rows);
    tcase_add_test(c, nothing_to_train_on);
    tcase_add_test(c, refused);
    tcase_add_test(c, line_of_a_broken_row);
    tcase_add_test(c, weights);
    tcase_add_test(c, cache);
    tcase_add_test(c, recipe_entries);
    tcase_add_test(c, out_of_memory);
    tcase_add_test(c, real_data);
    suite_add_tcase(s, c);
    return test_run(s);
}
