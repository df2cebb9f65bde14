/* Running benchmark tasks on one model: prompts, scoring, metrics, samples, and the result document.
 *
 * The protocol is lm-evaluation-harness's: the continuation's tokens are those of (context + continuation) past the context's own;
 * acc picks the largest sum of log-probabilities, acc_norm the largest per character (code points), acc_bytes per byte; the first of equals.
 * Few-shot examples are the first of the few-shot split. Knows nothing of files but the data folder and the sample log. */
#ifndef PW_EVAL_BENCHMARK_H
#define PW_EVAL_BENCHMARK_H

#include "data/tokenizer.h"
#include "eval/stats.h"
#include "eval/task.h"
#include "infer/model.h"

struct pw_benchmark_options {
    const char *data_dir;
    int fewshot;              /* -1: the task's own */
    int64_t limit;            /* documents a task, 0: all */
    int64_t batch_tokens;
    const char *samples;      /* path of the sample log, or NULL; lines are appended to PATH.part and renamed at the end */
    bool resume;              /* take scores of documents that PATH.part (or PATH) already has */
    bool force;
    struct pw_progress *progress;
    bool (*stop)(void);       /* asked after each document; true: PW_E_INTERRUPTED with the sample log kept */
};
struct pw_task_result {
    const struct pw_task *task;
    const char *adapter;      /* NULL: the base */
    int fewshot;
    int64_t n, truncated;
    struct pw_estimate metrics[PW_TASK_MAX_METRICS];
    char *hits[PW_TASK_MAX_METRICS];  /* (n) '0' or '1' a document, for paired comparison */
    char docs_hash[65], scores_hash[65]; /* of prompts and choices; of all log-probabilities */
};
struct pw_benchmark;
int pw_benchmark_open(struct pw_benchmark **out, const struct pw_tokenizer *t, const struct pw_tasks *tasks, const struct pw_benchmark_options *o);
/* Scores all tasks with the model as it is now; adapter is only a name for the rows. May be called once per adapter. */
int pw_benchmark_run(struct pw_benchmark *b, struct pw_model *m, const char *adapter);
int pw_benchmark_finish(struct pw_benchmark *b);      /* makes the sample log appear */
const struct pw_task_result *pw_benchmark_results(const struct pw_benchmark *b, size_t *n);
const struct pw_task *pw_benchmark_missing(const struct pw_benchmark *b, size_t i); /* i-th task of a group that has no data; NULL past the end */
int64_t pw_benchmark_tokens(const struct pw_benchmark *b);
void pw_benchmark_close(struct pw_benchmark *b);
/* "results" and "groups" of the result document, and a table for people. */
void pw_benchmark_json(const struct pw_benchmark *b, struct pw_json *w);
void pw_benchmark_table(const struct pw_benchmark *b, struct pw_buf *out);

/* What one document looks like to the model, for `pw eval explain`: of the first task whose data is there. */
int pw_benchmark_explain(const struct pw_tokenizer *t, const struct pw_tasks *tasks, const struct pw_benchmark_options *o, int64_t doc,
                         struct pw_json *w);
#endif
