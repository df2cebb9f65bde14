/* The preflight: each thing it looks for found in rows that have it, and not in rows that do not. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "data/preflight.h"
#include "tests/support.h"

static struct pw_tokenizer *tokenizer;
static void setup(void) { ck_ok(pw_tokenizer_load(&tokenizer, "tests/fixtures/data/model")); }
static void teardown(void) { pw_tokenizer_free(tokenizer); }

struct looked { struct pw_dataset *d, *eval; struct pw_preflight p; };

static struct pw_dataset *load(const char *name, const char *text, const char *template, int64_t max_length)
{
    struct pw_dataset_options o = {.tokenizer = tokenizer, .chat_template = template, .max_length = max_length, .keep_going = true};
    const char *path = test_path(test_tmpdir(), name);
    struct pw_data_file f = {.path = path};
    struct pw_dataset *d;
    ck_ok(pw_file_write(path, text, strlen(text), true));
    ck_ok(pw_dataset_load(&d, &f, 1, &o));
    return d;
}

static struct looked look(const char *text, const char *template, int64_t max_length, const char *eval)
{
    struct looked k = {.d = load("rows.jsonl", text, template, max_length)};
    if (eval)
        k.eval = load("eval.jsonl", eval, template, 0);
    const struct pw_preflight_options o = {.tokenizer = tokenizer, .chat_template = template, .max_length = max_length, .eval = k.eval, .source = "rows.jsonl"};
    ck_ok(pw_preflight(&k.p, k.d, &o));
    return k;
}

static void close_looked(struct looked *k)
{
    pw_dataset_free(k->d);
    pw_dataset_free(k->eval);
}

static bool told(const struct pw_data_note *notes, size_t n, int64_t line, const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (notes[i].row == line && strstr(notes[i].what, what))
            return true;
    return false;
}

#define TOLD(list, line, said) ck_assert_msg(told(k.d->list, k.d->n_##list, line, said), "no note \"%s\" of line %d; first: %s", said, line, \
                                             k.d->n_##list ? k.d->list[0].what : "none")
#define CHAT "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":\"hello\"}]}\n"
#define TEMPLATE(begin, end) begin "{% for m in messages %}{{ m.role }}: {{ m.content }}" end "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"

START_TEST(nothing_wrong)
{
    struct looked k = look(CHAT CHAT, pw_tokenizer_template(tokenizer, NULL), 100, NULL);
    ck_assert_uint_eq(k.d->n_errors, 0);
    ck_assert_int_eq(k.p.endless + k.p.doubled_bos + k.p.cut_answers + k.p.untrained + k.p.near.n, 0);
    ck_assert_int_eq(k.p.lengths[5], 2);            /* 17 to 32 tokens */
    ck_assert_int_eq(k.p.packs, 1);
    ck_close(k.p.fill, (double)k.d->n_tokens / 100, 0, 1e-12);
    close_looked(&k);
}
END_TEST

START_TEST(bos_twice)
{
    struct looked k = look(CHAT CHAT, TEMPLATE("{{ bos_token }}{{ bos_token }}", "{{ eos_token }}"), 100, NULL);
    ck_assert_int_eq(k.p.doubled_bos, 2);
    TOLD(errors, 2, "begins with BOS twice");
    close_looked(&k);
    k = look(CHAT, TEMPLATE("{{ bos_token }}", "{{ eos_token }}"), 100, NULL);
    ck_assert_uint_eq(k.d->n_errors, 0);
    close_looked(&k);
}
END_TEST

START_TEST(no_end_of_turn)
{
    struct looked k = look(CHAT, TEMPLATE("", "\n"), 100, NULL);
    TOLD(errors, 1, "an end-of-turn token is never trained");
    close_looked(&k);
    k = look(CHAT, TEMPLATE("", "\n"), 6, NULL);     /* all rows are cut: nothing can be said */
    ck_assert_uint_eq(k.d->n_errors, k.d->n_trained ? 0u : 1u);
    close_looked(&k);
    k = look(CHAT, TEMPLATE("", "<|im_end|>"), 100, NULL);
    ck_assert_uint_eq(k.d->n_errors, 0);
    TOLD(warnings, 0, "answers end with <|im_end|>, at which generation does not stop");
    close_looked(&k);
}
END_TEST

START_TEST(template_of_another_tokenizer)
{
    struct looked k = look(CHAT, TEMPLATE("<|im_start|>", "<|eot_id|>"), 100, NULL);
    TOLD(errors, 0, "template and tokenizer do not fit: <|eot_id|> is");
    ck_assert(!told(k.d->errors, k.d->n_errors, 0, "<|im_start|> is"));
    close_looked(&k);
    k = look(CHAT, TEMPLATE("<\uff5cUser\uff5c>", "<end_of_utterance>"), 100, NULL);
    TOLD(errors, 0, "template and tokenizer do not fit: <\uff5cUser\uff5c> is");
    TOLD(errors, 0, "template and tokenizer do not fit: <end_of_utterance> is");
    close_looked(&k);
}
END_TEST

START_TEST(role_that_the_template_refuses)
{
    static const char template[] = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{{ m.content }}{{ eos_token }}{% endfor %}";
    struct looked k = look(CHAT "{\"messages\":[{\"role\":\"system\",\"content\":\"be\"},{\"role\":\"assistant\",\"content\":\"a\"}]}\n", template, 100, NULL);
    TOLD(errors, 2, "no system role");
    ck_assert_int_eq(k.d->n_rows, 1);
    close_looked(&k);
}
END_TEST

START_TEST(cut_answers)
{
    struct looked k = look("{\"prompt\":\"x\",\"completion\":\"abcdefghij\"}\n{\"prompt\":\"x\",\"completion\":\"a\"}\n{\"prompt\":\"xx\",\"completion\":\"abcdefghij\"}\n", NULL, 6, NULL);
    ck_assert_int_eq(k.p.cut_answers, 2);
    TOLD(warnings, 1, "longer than the window of 6 tokens and is cut (2 rows");
    close_looked(&k);
}
END_TEST

/* 30 rows of 60 drawn letters; one of them again with another end, one with half of it changed, one equal. */
START_TEST(near_duplicates)
{
    struct pw_buf b = {0};
    struct pw_rng rng = pw_rng_make(3, PW_STREAM_TEST);
    char letters[61] = {0}, kept[61];
    for (int i = 0; i < 30; i++) {
        for (int j = 0; j < 60; j++)
            letters[j] = (char)('a' + pw_rng_below(&rng, 26));
        if (i == 4)
            memcpy(kept, letters, sizeof kept);
        pw_buf_printf(&b, "{\"text\":\"%s\"}\n", letters);
    }
    pw_buf_printf(&b, "{\"text\":\"%.58szz\"}\n{\"text\":\"%.30s%s\"}\n{\"text\":\"%s\"}\n{\"text\":\"%.50s%s\"}\n", kept, kept,
                  "qwertyuiopasdfghjklzxcvbnmqwer", kept, kept, "mnbvcxzlkj");     /* the last shares 46 runs of 66: 0.7 */
    struct looked k = look(b.data, NULL, 0, NULL);
    ck_assert_int_eq(k.d->duplicates, 1);
    ck_assert_int_eq(k.p.near.n, 1);
    ck_assert_int_eq(k.p.near.first, 30);
    ck_assert_int_eq(k.p.near.like, 4);
    TOLD(warnings, 31, "nearly the same as the row of line 5");
    close_looked(&k);
    pw_buf_free(&b);
}
END_TEST

/* A text that all rows have, as a template's, is no likeness. */
START_TEST(shared_text_is_no_likeness)
{
    struct pw_buf b = {0}, e = {0};
    for (int i = 0; i < 40; i++) {
        pw_buf_printf(&b, "{\"text\":\"below is an instruction that says what is to be done so write an answer that does it well: %d%d%d%d\"}\n", i, i * 7, i * 13, i * 31);
        pw_buf_printf(&e, "{\"text\":\"below is an instruction that says what is to be done so write an answer that does it well: %d%d%d%d\"}\n", i + 50, i * 3, i * 17, i * 5);
    }
    struct looked k = look(b.data, NULL, 0, e.data);
    ck_assert_int_eq(k.p.near.n, 0);
    ck_assert_int_eq(k.p.exact.n, 0);
    ck_assert_int_eq(k.p.runs.n, 0);
    close_looked(&k);
    pw_buf_free(&b);
    pw_buf_free(&e);
}
END_TEST

START_TEST(evaluation_rows)
{
#define SAID "one two three four five six seven eight nine ten eleven twelve thirteen"
    struct looked k = look("{\"text\":\"The answer, is: 42!\"}\n{\"text\":\"something else\"}\n{\"text\":\"so " SAID " it goes on\"}\n{\"text\":\"one two three four five six seven eight nine ten eleven twelve fourteen\"}\n",
                           NULL, 0, "{\"text\":\"the answer is 42\"}\n{\"text\":\"they say: " SAID ".\"}\n");
    ck_assert_int_eq(k.p.exact.n, 1);
    ck_assert_int_eq(k.p.runs.n, 1);
    ck_assert_int_eq(k.p.runs.first, 2);
    TOLD(warnings, 1, "the same words as the evaluation row of line 1");
    TOLD(warnings, 3, "shares 13 words in a row with the evaluation row of line 2");
    close_looked(&k);
}
END_TEST

static int work(void *context)
{
    struct looked *k = context;
    const size_t errors = k->d->n_errors, warnings = k->d->n_warnings;
    const struct pw_preflight_options o = {.tokenizer = tokenizer, .chat_template = "<|im_start|>", .max_length = 6, .eval = k->eval, .source = "rows.jsonl"};
    int rc = pw_preflight(&k->p, k->d, &o);
    k->d->n_errors = errors;
    k->d->n_warnings = warnings;
    return rc;
}

START_TEST(no_memory)
{
    struct looked k = look("{\"text\":\"the answer is 42\"}\n{\"text\":\"the answer is 43\"}\n", NULL, 6, "{\"text\":\"the answer is 42\"}\n");
    ck_assert_int_gt(test_sweep_nomem(work, &k), 0);
    close_looked(&k);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("preflight");
    TCase *c = tcase_create("preflight");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, nothing_wrong);
    tcase_add_test(c, bos_twice);
    tcase_add_test(c, no_end_of_turn);
    tcase_add_test(c, template_of_another_tokenizer);
    tcase_add_test(c, role_that_the_template_refuses);
    tcase_add_test(c, cut_answers);
    tcase_add_test(c, near_duplicates);
    tcase_add_test(c, shared_text_is_no_likeness);
    tcase_add_test(c, evaluation_rows);
    tcase_add_test(c, no_memory);
    suite_add_tcase(s, c);
    return test_run(s);
}
