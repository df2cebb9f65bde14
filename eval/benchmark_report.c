/* Result documents of benchmarks: the rows and groups of the JSON, and the table for people. */
#include <stdio.h>
#include <string.h>

#include "eval/benchmark.h"

static void metrics_json(struct pw_json *w, const struct pw_task *t, const struct pw_estimate *e)
{
    pw_json_open(w, "metrics", '{');
    for (int m = 0; m < t->n_metrics; m++) {
        pw_json_open(w, pw_metric_name(t->metrics[m]), '{');
        pw_json_f64(w, "value", e[m].value);
        pw_json_f64(w, "stderr", e[m].stderr_);
        pw_json_f64(w, "low", e[m].low);
        pw_json_f64(w, "high", e[m].high);
        pw_json_close(w, '}');
    }
    pw_json_close(w, '}');
}

static bool same_adapter(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

/* Calls each(...) once for every group of two or more tasks that belong together under one adapter. */
typedef void each_group(void *ctx, const char *group, const char *adapter, const struct pw_task *t, const struct pw_estimate *e, size_t tasks);

static void for_groups(const struct pw_task_result *r, size_t n, bool sub, each_group *each, void *ctx)
{
    for (size_t i = 0; i < n; i++) {
        const char *group = sub ? r[i].task->subgroup : r[i].task->group;
        struct pw_estimate parts[512], sums[PW_TASK_MAX_METRICS];
        bool seen = false;
        size_t members = 0;
        for (size_t k = 0; k < i; k++)
            seen |= same_adapter(r[k].adapter, r[i].adapter) && strcmp(sub ? r[k].task->subgroup : r[k].task->group, group) == 0;
        if (seen || !*group)
            continue;
        for (int m = 0; m < r[i].task->n_metrics; m++) {
            members = 0;
            for (size_t k = i; k < n && members < 512; k++)
                if (same_adapter(r[k].adapter, r[i].adapter) && strcmp(sub ? r[k].task->subgroup : r[k].task->group, group) == 0 &&
                    r[k].task->n_metrics > m && r[k].task->metrics[m] == r[i].task->metrics[m])
                    parts[members++] = r[k].metrics[m];
            sums[m] = pw_estimate_pool(parts, members);
        }
        if (members > 1)
            each(ctx, group, r[i].adapter, r[i].task, sums, members);
    }
}

static void group_json(void *ctx, const char *group, const char *adapter, const struct pw_task *t, const struct pw_estimate *e, size_t tasks)
{
    struct pw_json *w = ctx;
    pw_json_open(w, NULL, '{');
    pw_json_str(w, "group", group);
    pw_json_str(w, "adapter", adapter);
    pw_json_i64(w, "n", e[0].n);
    pw_json_i64(w, "tasks", (int64_t)tasks);
    metrics_json(w, t, e);
    pw_json_close(w, '}');
}

void pw_benchmark_json(const struct pw_benchmark *b, struct pw_json *w)
{
    size_t n;
    const struct pw_task_result *r = pw_benchmark_results(b, &n);
    pw_json_open(w, "results", '[');
    for (size_t i = 0; i < n; i++) {
        pw_json_open(w, NULL, '{');
        pw_json_str(w, "task", r[i].task->name);
        pw_json_str(w, "group", r[i].task->group);
        pw_json_str(w, "adapter", r[i].adapter);
        pw_json_i64(w, "n", r[i].n);
        pw_json_i64(w, "fewshot", r[i].fewshot);
        pw_json_i64(w, "truncated", r[i].truncated);
        metrics_json(w, r[i].task, r[i].metrics);
        pw_json_open(w, "hits", '{');
        for (int m = 0; m < r[i].task->n_metrics; m++)
            pw_json_str(w, pw_metric_name(r[i].task->metrics[m]), r[i].hits[m]);
        pw_json_close(w, '}');
        pw_json_str(w, "docs_hash", r[i].docs_hash);
        pw_json_str(w, "scores_hash", r[i].scores_hash);
        pw_json_close(w, '}');
    }
    pw_json_close(w, ']');
    pw_json_open(w, "missing", '[');
    for (size_t i = 0; pw_benchmark_missing(b, i); i++)
        pw_json_str(w, NULL, pw_benchmark_missing(b, i)->name);
    pw_json_close(w, ']');
    pw_json_open(w, "groups", '[');
    for_groups(r, n, false, group_json, w);
    for_groups(r, n, true, group_json, w);
    pw_json_close(w, ']');
}

static void row_text(struct pw_buf *out, const char *name, const char *adapter, int64_t n, const struct pw_task *t, const struct pw_estimate *e)
{
    for (int m = 0; m < t->n_metrics; m++)
        pw_buf_printf(out, "| %-40s | %-24s | %6lld | %-9s | %7.4f | %6.4f | %.4f to %.4f |\n", m ? "" : name, m ? "" : adapter ? adapter : "(base)",
                      (long long)n, pw_metric_name(t->metrics[m]), e[m].value, e[m].stderr_, e[m].low, e[m].high);
}

static void group_text(void *ctx, const char *group, const char *adapter, const struct pw_task *t, const struct pw_estimate *e, size_t tasks)
{
    char name[160];
    snprintf(name, sizeof name, "%s (%zu tasks)", group, tasks);
    row_text(ctx, name, adapter, e[0].n, t, e);
}

void pw_benchmark_table(const struct pw_benchmark *b, struct pw_buf *out)
{
    size_t n;
    int64_t truncated = 0;
    const struct pw_task_result *r = pw_benchmark_results(b, &n);
    pw_buf_printf(out, "| %-40s | %-24s | %6s | %-9s | %7s | %6s | %-16s |\n", "task", "adapter", "n", "metric", "value", "stderr", "95 %");
    pw_buf_str(out, "|------------------------------------------|--------------------------|--------|-----------|---------|--------|------------------|\n");
    for (size_t i = 0; i < n; i++) {
        row_text(out, r[i].task->name, r[i].adapter, r[i].n, r[i].task, r[i].metrics);
        truncated += r[i].truncated;
    }
    for_groups(r, n, false, group_text, out);
    for_groups(r, n, true, group_text, out);
    size_t missing = 0;
    while (pw_benchmark_missing(b, missing))
        missing++;
    if (missing)
        pw_buf_printf(out, "\n%zu tasks of the groups asked for have no data and are not in these figures.\n", missing);
    if (truncated)
        pw_buf_printf(out, "\n%lld documents are longer than the context and were cut from the left.\n", (long long)truncated);
}
