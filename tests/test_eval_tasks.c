/* Tasks, documents, prompts, and the statistics of scores. Real data when it is there; small files of our own always. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "eval/compare.h"
#include "eval/stats.h"
#include "eval/task.h"
#include "tests/support.h"

START_TEST(wilson_and_mcnemar_goldens)
{
    double low, high;
    pw_wilson(8, 10, 1.96, &low, &high);
    ck_close(low, 0.49016, 5e-6, 0);
    ck_close(high, 0.94332, 5e-6, 0);
    pw_wilson(0, 10, 1.959963984540054, &low, &high);
    ck_close(low, 0, 0, 0);
    ck_close(high, 0.27753, 5e-6, 0);
    ck_close(pw_mcnemar_exact(10, 2), 0.0385742, 5e-8, 0);
    ck_close(pw_mcnemar_exact(2, 10), 0.0385742, 5e-8, 0);
    ck_close(pw_mcnemar_exact(0, 0), 1, 0, 0);
}
END_TEST

/* Sample standard deviation over sqrt(n), and the pooled form, against sums written out here. */
START_TEST(standard_errors)
{
    struct pw_estimate e = pw_estimate_share(3, 4), parts[2] = {e, pw_estimate_share(1, 6)}, all;
    ck_close(e.value, 0.75, 0, 0);
    ck_close(e.stderr_, 0.25, 1e-15, 0); /* variance ((0.25^2)*3 + 0.75^2)/3 = 0.25; /4, root */
    all = pw_estimate_pool(parts, 2);
    ck_assert_int_eq(all.n, 10);
    ck_close(all.value, 0.4, 1e-15, 0);
    double v1 = 0.25, v2 = (1.0 / 6) * (5.0 / 6) * 6 / 5, pooled = (3 * v1 + 5 * v2) / 8;
    ck_close(all.stderr_ * all.stderr_, pooled / 10, 1e-15, 0);
}
END_TEST

START_TEST(paired_flags)
{
    struct pw_paired p = pw_paired_flags("1100110000", "1111110010", 10);
    ck_assert_int_eq(p.other_only, 3);
    ck_assert_int_eq(p.base_only, 0);
    ck_close(p.difference, 0.3, 1e-15, 0);
    ck_close(p.stderr_, 0.15275252316519466, 1e-12, 0); /* sd of seven 0 and three 1 over 9, / sqrt 10 */
    ck_close(p.p_value, 0.25, 1e-12, 0);
}
END_TEST

static void write_text(const char *path, const char *text)
{
    ck_ok(pw_file_write(path, text, strlen(text), true));
}

static int load_first(struct pw_docs *d, struct pw_arena *a, struct pw_tasks *t, const char *names, const char *dir)
{
    bool found;
    pw_arena_init(a);
    PW_PASS(pw_tasks_find(t, names, NULL, dir));
    PW_PASS(pw_docs_load(d, a, &t->items[0], dir, "test", &found));
    PW_CHECK(found, PW_E_FAIL, "not found");
    return 0;
}

/* The same question in every published form. */
START_TEST(forms_of_documents)
{
    static const struct { const char *task, *file, *text; } forms[] = {
        {"mmlu_anatomy", "anatomy_test.csv", "question,choice0,choice1,choice2,choice3,answer\n\"Which, then?\",w,x,\"y \"\"z\"\"\",v,2\n"},
        {"mmlu_anatomy", "anatomy_test.csv", "\"Which, then?\",w,x,\"y \"\"z\"\"\",v,C\n"},
        {"arc_easy", "ARC-Easy-Test.jsonl", "{\"id\":\"1\",\"question\":{\"stem\":\"Which, then?\",\"choices\":[{\"text\":\"w\",\"label\":\"1\"},{\"text\":\"x\",\"label\":\"2\"},"
                                            "{\"text\":\"y \\\"z\\\"\",\"label\":\"3\"},{\"text\":\"v\",\"label\":\"4\"}]},\"answerKey\":\"3\"}\n"},
        {"choice", "test.jsonl", "\n{\"question\":\"Which, then?\",\"choices\":[\"w\",\"x\",\"y \\\"z\\\"\",\"v\"],\"answer\":2}\n\n"},
        {"choice", "test.json", "[{\"question\":\"Which, then?\",\"choices\":{\"text\":[\"w\",\"x\",\"y \\\"z\\\"\",\"v\"],\"label\":[\"A\",\"B\",\"C\",\"D\"]},\"answer\":\"C\"}]"},
        {"choice", "test.jsonl", "{\"question\":\"Which, then?\",\"choices\":[\"w\",\"x\",\"y \\\"z\\\"\",\"v\"],\"answer\":\"y \\\"z\\\"\"}"},
    };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        struct pw_docs d;
        struct pw_arena a;
        struct pw_tasks t;
        const char *dir = test_tmpdir();
        write_text(test_path(dir, forms[i].file), forms[i].text);
        ck_ok(load_first(&d, &a, &t, forms[i].task, dir));
        ck_assert_uint_eq(d.n, 1);
        ck_assert_str_eq(d.items[0].question, "Which, then?");
        ck_assert_int_eq(d.items[0].n_choices, 4);
        ck_assert_str_eq(d.items[0].choices[2], "y \"z\"");
        ck_assert_int_eq(d.items[0].answer, 2);
        pw_arena_free(&a);
        pw_tasks_free(&t);
    }
}
END_TEST

START_TEST(documents_that_are_refused)
{
    static const struct { const char *text, *message; } bad[] = {
        {"{\"question\":\"q\",\"choices\":[\"a\",\"b\"],\"answer\":2}\n", "test.jsonl:1: the answer 2 is none of the 2 choices"},
        {"{\"question\":\"q\",\"choices\":[\"a\",\"b\"],\"answer\":0}\n{\"question\":\"q\",\"choices\":[\"a\"],\"answer\":0}\n", "test.jsonl:2: expected two or more choices"},
        {"{\"question\":\"q\",\"choices\":[\"a\",\"b\"]}\n", "test.jsonl:1: no answer"},
        {"{\"choices\":[\"a\",\"b\"],\"answer\":0}\n", "test.jsonl:1: no question"},
        {"{\"question\":\"q\",\n", "test.jsonl:1"},
        {"[1]\n", "test.jsonl:1: expected a row with fields"},
        {"\n", "no documents"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct pw_docs d;
        struct pw_arena a;
        struct pw_tasks t = {0};
        const char *dir = test_tmpdir();
        write_text(test_path(dir, "test.jsonl"), bad[i].text);
        ck_fails(load_first(&d, &a, &t, "choice", dir), PW_E_FORMAT, bad[i].message);
        pw_arena_free(&a);
        pw_tasks_free(&t);
    }
}
END_TEST

START_TEST(names_of_tasks)
{
    struct pw_tasks t;
    ck_ok(pw_tasks_find(&t, "mmlu", NULL, NULL));
    ck_assert_uint_eq(t.n, 57);
    pw_tasks_free(&t);
    ck_ok(pw_tasks_find(&t, "mmlu_stem,mmlu_astronomy,arc_easy", NULL, NULL));
    ck_assert_uint_eq(t.n, 20);
    ck_assert_str_eq(t.items[19].name, "arc_easy");
    pw_tasks_free(&t);
    ck_fails(pw_tasks_find(&t, "arc_esay", NULL, NULL), PW_E_USAGE, "arc_esay");
    ck_assert_msg(strstr(pw_error_hint_text(), "arc_easy"), "hint: %s", pw_error_hint_text());
    const char *dir = test_tmpdir();
    ck_ok(pw_dir_make(test_path(dir, "quiz")));
    write_text(test_path(dir, "quiz/test.jsonl"), "{\"question\":\"q\",\"choices\":[\"a\",\"b\"],\"answer\":1}\n");
    ck_ok(pw_tasks_find(&t, "quiz", NULL, dir));
    ck_assert_str_eq(t.items[0].name, "quiz");
    pw_tasks_free(&t);
}
END_TEST

START_TEST(task_files_of_the_user)
{
    const char *dir = test_tmpdir();
    struct pw_tasks t;
    struct pw_docs d;
    struct pw_arena a;
    struct pw_prompter *p;
    struct pw_prompt prompt;
    bool found;
    write_text(test_path(dir, "tides.yaml"), "task: tides\nfiles: {test: [\"{task}.jsonl\"]}\nquestion: [q]\nchoices: [a+]\nanswer: [right]\n"
                                             "description: \"Tides.\\n\\n\"\nprompt: \"{{ question }}?\"\ncontinuation: \"{{ label }}\"\nmetrics: [acc]\n");
    write_text(test_path(dir, "tides.jsonl"), "{\"q\":\"High\",\"a\":\"yes\",\"b\":\"no\",\"right\":\"B\"}\n");
    ck_ok(pw_tasks_find(&t, "tides", dir, dir));
    pw_arena_init(&a);
    ck_ok(pw_docs_load(&d, &a, &t.items[0], dir, "test", &found));
    ck_assert(found);
    ck_ok(pw_prompter_open(&p, &t.items[0]));
    ck_ok(pw_prompt_build(&prompt, &a, p, d.items, 1, &d.items[0]));
    ck_assert_str_eq(prompt.context, "Tides.\n\nHigh? B\n\nHigh?");
    ck_assert_str_eq(prompt.continuations[1], " B");
    pw_prompter_close(p);
    pw_arena_free(&a);
    pw_tasks_free(&t);
    write_text(test_path(dir, "tides.yaml"), "task: tides\nquestoin: [q]\n");
    ck_fails(pw_tasks_find(&t, "tides", dir, dir), PW_E_FORMAT, "questoin");
}
END_TEST

/* The 5-shot prompt of the first question of abstract_algebra: its bytes are known. */
START_TEST(mmlu_prompt_golden)
{
    const char *data = test_shared("data/eval");
    struct pw_tasks t;
    struct pw_docs test, dev;
    struct pw_arena a;
    struct pw_prompter *p;
    struct pw_prompt prompt;
    bool found;
    char hex[65];
    if (!data) {
        test_skip("mmlu_prompt_golden: no shared data");
        return;
    }
    pw_arena_init(&a);
    ck_ok(pw_tasks_find(&t, "mmlu_abstract_algebra", NULL, data));
    ck_ok(pw_docs_load(&test, &a, &t.items[0], data, "test", &found));
    ck_assert(found);
    ck_ok(pw_docs_load(&dev, &a, &t.items[0], data, "fewshot", &found));
    ck_assert(found);
    ck_assert_uint_eq(test.n, 100);
    ck_assert_uint_eq(dev.n, 5);
    ck_ok(pw_prompter_open(&p, &t.items[0]));
    ck_ok(pw_prompt_build(&prompt, &a, p, dev.items, 5, &test.items[0]));
    ck_assert_uint_eq(strlen(prompt.context), 993);
    pw_sha256_bytes(prompt.context, strlen(prompt.context), hex);
    ck_assert_str_eq(hex, "ff9b00310e214beacf4b324da8c9e6c1de4e49cb422f1bcb1f7037b78f40a2a3");
    pw_prompter_close(p);
    pw_arena_free(&a);
    pw_tasks_free(&t);
}
END_TEST

/* Both forms of one subject give the same documents; ARC has items of 3 and 5 choices. */
START_TEST(real_documents)
{
    const char *data = test_shared("data/eval");
    struct pw_tasks t;
    struct pw_docs x, y;
    struct pw_arena a;
    bool found;
    char original[4096];
    if (!data) {
        test_skip("real_documents: no shared data");
        return;
    }
    snprintf(original, sizeof original, "%s/mmlu_original_form", data);
    pw_arena_init(&a);
    ck_ok(pw_tasks_find(&t, "mmlu_high_school_chemistry,arc_challenge", NULL, data));
    ck_ok(pw_docs_load(&x, &a, &t.items[0], data, "test", &found));
    ck_ok(pw_docs_load(&y, &a, &t.items[0], original, "test", &found));
    ck_assert(found);
    ck_assert_uint_eq(x.n, 203);
    ck_assert_uint_eq(y.n, 203);
    for (size_t i = 0; i < x.n; i++) {
        ck_assert_str_eq(x.items[i].question, y.items[i].question);
        ck_assert_int_eq(x.items[i].answer, y.items[i].answer);
        for (int c = 0; c < 4; c++)
            ck_assert_str_eq(x.items[i].choices[c], y.items[i].choices[c]);
    }
    ck_ok(pw_docs_load(&x, &a, &t.items[1], data, "test", &found));
    ck_assert_uint_eq(x.n, 1150);
    int odd = 0;
    for (size_t i = 0; i < x.n; i++)
        odd += x.items[i].n_choices != 4;
    ck_assert_int_eq(odd, 6);
    pw_arena_free(&a);
    pw_tasks_free(&t);
}
END_TEST

static const char *result_file(const char *name, const char *adapter, const char *hits, const char *docs, const char *scores)
{
    char text[1024];
    const char *path = test_path(test_tmpdir(), name);
    snprintf(text, sizeof text, "{\"schema\":1,\"results\":[{\"task\":\"t\",\"adapter\":%s,\"docs_hash\":\"%s\",\"scores_hash\":\"%s\",\"hits\":{\"acc\":\"%s\"}}]}",
             adapter, docs, scores, hits);
    write_text(path, text);
    return path;
}

START_TEST(comparisons)
{
    struct pw_comparisons c;
    ck_ok(pw_compare_files(&c, result_file("a", "null", "0000000000", "d", "s"), result_file("b", "\"x\"", "1111111111", "d", "r")));
    ck_assert_str_eq(c.verdict, "better");
    ck_close(c.all.p_value, 2.0 / 1024, 1e-12, 0);
    pw_compare_free(&c);
    ck_ok(pw_compare_files(&c, result_file("a", "null", "0101", "d", "s"), result_file("b", "\"x\"", "0101", "d", "s")));
    ck_assert_str_eq(c.verdict, "no effect");
    pw_compare_free(&c);
    ck_ok(pw_compare_files(&c, result_file("a", "null", "0101", "d", "s"), result_file("b", "\"x\"", "0111", "d", "r")));
    ck_assert_str_eq(c.verdict, "no difference shown");
    pw_compare_free(&c);
    ck_fails(pw_compare_files(&c, result_file("a", "null", "0101", "d", "s"), result_file("b", "\"x\"", "0111", "e", "r")), PW_E_FAIL, "different documents");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("eval tasks");
    TCase *c = tcase_create("all");
    tcase_add_test(c, wilson_and_mcnemar_goldens);
    tcase_add_test(c, standard_errors);
    tcase_add_test(c, paired_flags);
    tcase_add_test(c, forms_of_documents);
    tcase_add_test(c, documents_that_are_refused);
    tcase_add_test(c, names_of_tasks);
    tcase_add_test(c, task_files_of_the_user);
    tcase_add_test(c, mmlu_prompt_golden);
    tcase_add_test(c, real_documents);
    tcase_add_test(c, comparisons);
    suite_add_tcase(s, c);
    return test_run(s);
}
