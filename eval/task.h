/* Benchmark tasks: YAML rows that say where the documents are, what their fields mean, and how a prompt is put together.
 *
 * A task file (eval/tasks/NAME.yaml, embedded; files of --tasks-dir win):
 *     task: mmlu                    name; with `subjects` each becomes task_subject in group `task` and in the group named
 *     subjects: {abstract_algebra: stem, ...}
 *     group: name                   for a single task
 *     files: {test: [patterns], fewshot: [patterns]}    tried in order under --data; {task} and {subject} are replaced
 *     columns: [question, A, B, C, D, answer]           names for a CSV file without a header row
 *     question: [question.stem, question]    paths, the first that is there; choices: [question.choices, "A+", "choice0+"]
 *     answer: [answerKey, answer]            an index, a letter, a label of the choices, or the text of a choice
 *     description: text            once, before the shots;  {{subject}} has spaces for underscores
 *     prompt: text                 Jinja over {question, choices, labels, subject, doc}
 *     continuation: text           Jinja over {choice, label, index}, what is scored; the delimiter (one space) stands before it
 *     delimiter: " "     shot_delimiter: "\n\n"     fewshot: 0
 *     metrics: [acc, acc_norm]
 * A document that does not fit (no question, fewer than two choices, an answer outside them) is an error with file and line. */
#ifndef PW_EVAL_TASK_H
#define PW_EVAL_TASK_H

#include "base/value.h"

enum { PW_TASK_MAX_CHOICES = 26, PW_TASK_MAX_METRICS = 3 };
enum pw_metric { PW_METRIC_ACC, PW_METRIC_ACC_NORM, PW_METRIC_ACC_BYTES };
const char *pw_metric_name(enum pw_metric m);

struct pw_task {
    const char *name, *group, *subgroup, *subject;  /* subgroup "" when there is none */
    const struct pw_value *spec;                    /* the YAML map */
    const char *source;                             /* the YAML's name, for messages */
    int fewshot;
    bool by_group;                                  /* asked for by its group: may have no data, which is then said */
    int n_metrics;
    enum pw_metric metrics[PW_TASK_MAX_METRICS];
};
struct pw_tasks { struct pw_task *items; size_t n; struct pw_arena arena; };

/* names: comma-separated tasks, groups ("mmlu", "mmlu_stem") or subjects ("mmlu_anatomy"). dir: --tasks-dir or NULL.
 * A name that is a folder of data_dir with
 * test.jsonl (.json, .csv) in it is the generic task `choice` under that name. An unknown name is PW_E_USAGE with the nearest. Order: as asked, subjects in the file's order. */
int pw_tasks_find(struct pw_tasks *t, const char *names, const char *dir, const char *data_dir);
int pw_tasks_all(struct pw_tasks *t, const char *dir); /* for listings */
void pw_tasks_free(struct pw_tasks *t);

struct pw_doc {
    const char *question;
    int n_choices, answer;
    const char *choices[PW_TASK_MAX_CHOICES], *labels[PW_TASK_MAX_CHOICES];
    const struct pw_value *raw;
    int line;
};
struct pw_docs { struct pw_doc *items; size_t n; const char *path; };
/* The documents of one split ("test" or "fewshot"), in file order. found = false and no error when no file of the patterns is there. */
int pw_docs_load(struct pw_docs *d, struct pw_arena *a, const struct pw_task *t, const char *data_dir, const char *split, bool *found);

/* The templates of a task, parsed once. */
struct pw_prompter;
int pw_prompter_open(struct pw_prompter **out, const struct pw_task *t);
void pw_prompter_close(struct pw_prompter *p);
/* The prompt of a document after its shots, and what is scored after it: delimiter + continuation of choice i. Texts live in a. */
struct pw_prompt { const char *context; int n_choices; const char *continuations[PW_TASK_MAX_CHOICES]; };
int pw_prompt_build(struct pw_prompt *p, struct pw_arena *a, const struct pw_prompter *templates, const struct pw_doc *shots, int n_shots,
                    const struct pw_doc *doc);
#endif
