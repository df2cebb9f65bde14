/* pw eval: benchmark tasks on a model and its adapters, and the comparison of two results. */
#include <string.h>

#include "base/file.h"
#include "eval/benchmark.h"
#include "eval/compare.h"
#include "tools/load.h"

struct eval_options {
    const char *tasks, *data, *tasks_dir, *out, *samples, *profile;
    int64_t fewshot, limit, batch_tokens, doc;
    bool resume, with_base;
};
#define AT(field) offsetof(struct eval_options, field)
static const struct pw_option run_options[] = {
    {"tasks", 0, PW_OPT_STRING, AT(tasks), "A,B", NULL, NULL, 0, 0, "tasks, groups or subjects, separated by commas"},
    {"data", 0, PW_OPT_STRING, AT(data), "DIR", NULL, ".", 0, 0, "folder of DIR/TASK/test.jsonl (.json, .csv), or a published archive's own layout"},
    {"fewshot", 0, PW_OPT_INT, AT(fewshot), "N", NULL, "-1", -1, 100, "examples before each question; -1: the task's own number"},
    {"limit", 0, PW_OPT_INT, AT(limit), "N", NULL, "0", 0, 1e9, "only the first N documents of each task; 0: all"},
    {"profile", 0, PW_OPT_CHOICE, AT(profile), "NAME", "lm-eval", "lm-eval", 0, 0, "whose protocol of prompts and scoring is followed"},
    {"tasks-dir", 0, PW_OPT_STRING, AT(tasks_dir), "DIR", NULL, NULL, 0, 0, "folder of your own task files (YAML)"},
    {"out", 'o', PW_OPT_STRING, AT(out), "FILE", NULL, NULL, 0, 0, "write the result document here too"},
    {"samples", 0, PW_OPT_STRING, AT(samples), "FILE", NULL, NULL, 0, 0, "one JSON line for each document; kept while running as FILE.part"},
    {"resume", 0, PW_OPT_FLAG, AT(resume), NULL, NULL, NULL, 0, 0, "go on from the sample log of a stopped run"},
    {"with-base", 0, PW_OPT_FLAG, AT(with_base), NULL, NULL, NULL, 0, 0, "with --adapter: rows of the base without adapter too"},
    {"batch-tokens", 0, PW_OPT_INT, AT(batch_tokens), "N", NULL, "512", 1, 1e6, "tokens of one pass; scores do not depend on it"},
    PW_OPTIONS_END,
};
static const struct pw_option list_options[] = {
    {"tasks-dir", 0, PW_OPT_STRING, AT(tasks_dir), "DIR", NULL, NULL, 0, 0, "folder of your own task files (YAML)"},
    PW_OPTIONS_END,
};
static const struct pw_option explain_options[] = {
    {"doc", 0, PW_OPT_INT, AT(doc), "N", NULL, "0", 0, 1e9, "which document, from 0"},
    {"data", 0, PW_OPT_STRING, AT(data), "DIR", NULL, ".", 0, 0, "folder of the data"},
    {"fewshot", 0, PW_OPT_INT, AT(fewshot), "N", NULL, "-1", -1, 100, "examples before the question; -1: the task's own number"},
    {"profile", 0, PW_OPT_CHOICE, AT(profile), "NAME", "lm-eval", "lm-eval", 0, 0, "whose protocol is followed"},
    {"tasks-dir", 0, PW_OPT_STRING, AT(tasks_dir), "DIR", NULL, NULL, 0, 0, "folder of your own task files (YAML)"},
    PW_OPTIONS_END,
};

static int score_all(struct pw_benchmark *b, struct pw_loaded *l, bool with_base)
{
    if (l->n_adapters == 0 || with_base)
        PW_PASS(pw_benchmark_run(b, l->model, NULL));
    for (size_t i = 0; i < l->n_adapters; i++) {
        PW_TRY(pw_model_attach(l->model, &l->adapters[i]), "attaching the adapter %s", l->adapter_names[i]);
        PW_TRY(pw_benchmark_run(b, l->model, l->adapter_names[i]), "evaluating with the adapter %s", l->adapter_names[i]);
        PW_PASS(pw_model_attach(l->model, NULL));
    }
    return pw_benchmark_finish(b);
}

static int eval_run(struct pw_cmd *c)
{
    const struct eval_options *o = c->options;
    struct pw_benchmark_options bo = {.data_dir = o->data, .fewshot = (int)o->fewshot, .limit = o->limit, .batch_tokens = o->batch_tokens,
                                      .samples = o->samples, .resume = o->resume, .force = c->common->force, .progress = c->progress,
                                      .stop = pw_interrupted};
    struct pw_tasks tasks = {0};
    struct pw_loaded l = {0};
    struct pw_benchmark *b = NULL;
    struct pw_json w = {0};
    int rc = 0;
    PW_CHECK(o->tasks, PW_E_USAGE, "--tasks: which? 'pw eval list' lists them");
    PW_CHECK(!o->resume || o->samples, PW_E_USAGE, "--resume needs --samples FILE: the log to go on from");
    PW_PASS_OUT(pw_tasks_find(&tasks, o->tasks, o->tasks_dir, o->data));
    if (o->out)
        PW_PASS_OUT(pw_out_check(o->out, c->common->force));
    PW_PASS_OUT(pw_load(&l, c, c->args.items[0], true));
    PW_PASS_OUT(pw_benchmark_open(&b, l.tokenizer, &tasks, &bo));
    double started = pw_seconds();
    pw_progress_start(c->progress, "evaluating", c->common->quiet);
    rc = score_all(b, &l, o->with_base);
    if (pw_benchmark_tokens(b) == 0) /* nothing has been scored */
        rc = pw_load_refusal(rc);
    pw_progress_end(c->progress, NULL);
    if (rc < 0)
        goto out;
    pw_json_begin(&w);
    pw_json_str(&w, "model", c->args.items[0]);
    pw_json_open(&w, "adapters", '[');
    for (size_t i = 0; i < l.n_adapters; i++)
        pw_json_str(&w, NULL, l.adapter_names[i]);
    pw_json_close(&w, ']');
    pw_json_str(&w, "type", c->common->type);
    pw_json_str(&w, "profile", o->profile);
    pw_benchmark_json(b, &w);
    pw_json_f64(&w, "seconds", pw_seconds() - started);
    pw_json_i64(&w, "tokens", pw_benchmark_tokens(b));
    struct pw_buf table = {0};
    pw_benchmark_table(b, &table);
    PW_PASS_OUT(pw_json_finish(c, &w));
    rc = o->out ? pw_file_write(o->out, c->out->data, c->out->len, c->common->force) : 0;
    if (rc == 0 && !c->common->json) {
        pw_buf_clear(c->out);
        pw_buf_add(c->out, table.data, table.len);
    }
    pw_buf_free(&table);
out:
    pw_json_free(&w);
    pw_benchmark_close(b);
    pw_unload(&l);
    pw_tasks_free(&tasks);
    return rc;
}

static int eval_list(struct pw_cmd *c)
{
    const struct eval_options *o = c->options;
    struct pw_tasks tasks;
    struct pw_json w = {0};
    PW_PASS(pw_tasks_all(&tasks, o->tasks_dir));
    pw_json_begin(&w);
    pw_json_open(&w, "tasks", '[');
    for (size_t i = 0; i < tasks.n; i++) {
        const struct pw_task *t = &tasks.items[i];
        pw_json_open(&w, NULL, '{');
        pw_json_str(&w, "task", t->name);
        pw_json_str(&w, "group", t->group);
        pw_json_str(&w, "subgroup", *t->subgroup ? t->subgroup : NULL);
        pw_json_i64(&w, "fewshot", t->fewshot);
        pw_json_str(&w, "file", t->source);
        pw_json_close(&w, '}');
        if (!c->common->json)
            pw_buf_printf(c->out, "%-42s %-10s %s\n", t->name, t->group, t->subgroup);
    }
    pw_json_close(&w, ']');
    int rc = 0;
    if (c->common->json)
        rc = pw_json_finish(c, &w);
    else
        pw_json_free(&w);
    pw_tasks_free(&tasks);
    return rc;
}

static int eval_explain(struct pw_cmd *c)
{
    const struct eval_options *o = c->options;
    struct pw_benchmark_options bo = {.data_dir = o->data, .fewshot = (int)o->fewshot};
    struct pw_tasks tasks = {0};
    struct pw_tokenizer *tokenizer = NULL;
    struct pw_json w = {0};
    int rc = 0;
    PW_PASS_OUT(pw_tasks_find(&tasks, c->args.items[0], o->tasks_dir, o->data));
    if (c->args.n > 1)
        PW_PASS_OUT(pw_load_tokenizer(&tokenizer, c, c->args.items[1]));
    w.indent = !c->common->json;
    pw_json_begin(&w);
    PW_PASS_OUT(pw_benchmark_explain(tokenizer, &tasks, &bo, o->doc, &w));
    PW_PASS_OUT(pw_json_finish(c, &w));
out:
    pw_json_free(&w);
    pw_tokenizer_free(tokenizer);
    pw_tasks_free(&tasks);
    return rc;
}

static int eval_compare(struct pw_cmd *c)
{
    struct pw_comparisons cmp;
    struct pw_json w = {0};
    PW_PASS(pw_compare_files(&cmp, c->args.items[0], c->args.items[1]));
    int rc = 0;
    if (c->common->json) {
        pw_json_begin(&w);
        pw_compare_json(&cmp, &w);
        rc = pw_json_finish(c, &w);
    } else
        pw_compare_table(&cmp, c->out);
    pw_compare_free(&cmp);
    return rc;
}

static int eval_fetch(struct pw_cmd *c)
{
    int rc = pw_error(PW_E_UNSUPPORTED, "eval fetch: this version does not download benchmark data (%s)", c->args.items[0]);
    pw_error_hint("get the published archive and give its folder with --data, or put files as DIR/TASK/test.jsonl");
    return rc;
}

const struct pw_command pw_commands_eval[] = {
    {"eval run", "MODEL --tasks A,B [--data DIR] [--adapter A]... [-o OUT.json]", "score benchmark tasks by log-likelihood",
     "Rows are of the base, or of each --adapter when there are any (--with-base: of both). Scores follow lm-evaluation-harness: acc, and\n"
     "acc_norm per character of a choice; standard errors and 95 % intervals (Wilson) with each. --data is a folder of TASK/test.jsonl with the\n"
     "published field names, or a published archive; a folder NAME/test.jsonl with question, choices and answer is a task NAME by itself.",
     run_options, sizeof(struct eval_options), 1, 1, false, eval_run, true, true},
    {"eval compare", "BASE.json OTHER.json", "compare two results, document by document", NULL, NULL, 0, 2, 2, false, eval_compare},
    {"eval explain", "TASK [MODEL] --doc N --data DIR", "show a document's prompt and choices as the model gets them", NULL, explain_options,
     sizeof(struct eval_options), 1, 2, false, eval_explain},
    {"eval list", "", "list the tasks", NULL, list_options, sizeof(struct eval_options), 0, 0, false, eval_list},
    {"eval fetch", "TASK", "where a task's data comes from", NULL, NULL, 0, 1, 1, false, eval_fetch},
    {0},
};
