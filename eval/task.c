/* Reading task files and finding tasks by name, group or subject (see the header). */
#include "eval/task.h"

#include <string.h>

#include "base/error.h"
#include "base/file.h"

static const char *const keys[] = {"task", "subjects", "group", "files", "columns", "question", "choices", "answer", "description", "prompt",
                                   "continuation", "delimiter", "shot_delimiter", "fewshot", "metrics"};
enum { N_KEYS = sizeof keys / sizeof *keys, MAX_TASKS = 4096 };

const char *pw_metric_name(enum pw_metric m)
{
    static const char *const names[] = {"acc", "acc_norm", "acc_bytes"};
    return names[m];
}

static int read_metrics(struct pw_task *t, const char *source)
{
    const struct pw_value *list = pw_get(t->spec, "metrics");
    PW_CHECK(list && list->kind == PW_LIST && list->len > 0 && list->len <= PW_TASK_MAX_METRICS, PW_E_FORMAT,
             "%s: metrics: expected a list of acc, acc_norm, acc_bytes", source);
    t->n_metrics = (int)list->len;
    for (size_t i = 0; i < list->len; i++) {
        int found = -1;
        for (int m = PW_METRIC_ACC; m <= PW_METRIC_ACC_BYTES; m++)
            if (list->items[i].kind == PW_STRING && strcmp(list->items[i].s, pw_metric_name((enum pw_metric)m)) == 0)
                found = m;
        PW_CHECK(found >= 0, PW_E_FORMAT, "%s: metrics: expected acc, acc_norm or acc_bytes (line %d)", source, list->line);
        t->metrics[i] = (enum pw_metric)found;
    }
    return 0;
}

static int add_task(struct pw_tasks *ts, const struct pw_value *spec, const char *source, const char *name, const char *group,
                    const char *subgroup, const char *subject)
{
    int64_t fewshot = 0;
    PW_CHECK(ts->n < MAX_TASKS, PW_E_FORMAT, "%s: more than %d tasks", source, MAX_TASKS);
    struct pw_task *t = &ts->items[ts->n];
    PW_PASS(pw_get_i64(spec, "fewshot", source, &fewshot));
    PW_CHECK(fewshot >= 0 && fewshot <= 100, PW_E_FORMAT, "%s: fewshot: expected 0 to 100, got %lld", source, (long long)fewshot);
    *t = (struct pw_task){.name = name, .group = group, .subgroup = subgroup, .subject = subject, .spec = spec, .source = source,
                          .fewshot = (int)fewshot};
    PW_PASS(read_metrics(t, source));
    ts->n++;
    return 0;
}

static int add_spec(struct pw_tasks *ts, const struct pw_value *spec, const char *source)
{
    struct pw_arena *a = &ts->arena;
    const char *name = NULL, *group = NULL;
    PW_CHECK(spec->kind == PW_MAP, PW_E_FORMAT, "%s: expected a map, got %s", source, pw_kind_name(spec->kind));
    for (size_t i = 0; i < spec->len; i++) {
        bool known = false;
        for (int k = 0; k < N_KEYS; k++)
            known |= strcmp(keys[k], spec->members[i].key) == 0;
        if (!known) {
            const char *near = pw_nearest(spec->members[i].key, keys, N_KEYS);
            int rc = pw_error(PW_E_FORMAT, "%s: unknown key '%s' (line %d)", source, spec->members[i].key, spec->members[i].value.line);
            if (near)
                pw_error_hint("did you mean '%s'?", near);
            return rc;
        }
    }
    PW_PASS(pw_get_str(spec, "task", source, &name));
    PW_CHECK(name && *name, PW_E_FORMAT, "%s: task: a name is missing", source);
    group = name;
    PW_PASS(pw_get_str(spec, "group", source, &group));
    const struct pw_value *subjects = pw_get(spec, "subjects");
    if (!subjects)
        return add_task(ts, spec, source, name, group, "", "");
    PW_CHECK(subjects->kind == PW_MAP, PW_E_FORMAT, "%s: subjects: expected a map of subject to group (line %d)", source, subjects->line);
    for (size_t i = 0; i < subjects->len; i++) {
        const struct pw_value *sub = &subjects->members[i].value;
        PW_CHECK(sub->kind == PW_STRING || sub->kind == PW_NULL, PW_E_FORMAT, "%s: subjects: %s: expected a group's name (line %d)", source,
                 subjects->members[i].key, sub->line);
        const char *full = pw_arena_printf(a, "%s_%s", name, subjects->members[i].key);
        const char *subgroup = sub->kind == PW_STRING ? pw_arena_printf(a, "%s_%s", name, sub->s) : "";
        PW_CHECK(full && subgroup, PW_E_NOMEM, "out of memory");
        PW_PASS(add_task(ts, spec, source, full, group, subgroup, subjects->members[i].key));
    }
    return 0;
}

static int add_text(struct pw_tasks *ts, const char *text, size_t bytes, const char *source)
{
    struct pw_value *spec;
    char *own = pw_arena_strndup(&ts->arena, source, strlen(source));
    PW_CHECK(own, PW_E_NOMEM, "out of memory");
    PW_PASS(pw_yaml_parse(&ts->arena, text, bytes, own, &spec));
    return add_spec(ts, spec, own);
}

static bool has_suffix(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);
    return n >= m && strcmp(s + n - m, suffix) == 0;
}

int pw_tasks_all(struct pw_tasks *ts, const char *dir)
{
    struct pw_buf text = {0};
    int rc = 0;
    memset(ts, 0, sizeof *ts);
    pw_arena_init(&ts->arena);
    ts->items = pw_arena_array(&ts->arena, MAX_TASKS, sizeof *ts->items);
    PW_CHECK_OUT(ts->items, PW_E_NOMEM, "out of memory");
    if (dir) {
        char **names;
        size_t n;
        PW_TRY_OUT(pw_dir_list(&ts->arena, dir, &names, &n), "reading the tasks of --tasks-dir");
        for (size_t i = 0; i < n; i++) {
            if (!has_suffix(names[i], ".yaml") && !has_suffix(names[i], ".yml"))
                continue;
            const char *path = pw_path_join(&ts->arena, dir, names[i]);
            PW_CHECK_OUT(path, PW_E_NOMEM, "out of memory");
            PW_PASS_OUT(pw_file_read(path, 1 << 20, &text));
            PW_PASS_OUT(add_text(ts, text.data, text.len, path));
            pw_buf_clear(&text);
        }
    }
    size_t own = ts->n;
    for (const struct pw_embedded *e = pw_embedded_files; e->name; e++) {
        if (strncmp(e->name, "eval/tasks/", 11) != 0)
            continue;
        size_t before = ts->n;
        PW_PASS_OUT(add_text(ts, (const char *)e->data, e->bytes, e->name));
        for (size_t i = 0; i < own && before < ts->n; i++)     /* a file of --tasks-dir wins */
            if (strcmp(ts->items[i].name, ts->items[before].name) == 0)
                ts->n = before;
    }
out:
    pw_buf_free(&text);
    if (rc < 0)
        pw_tasks_free(ts);
    return rc;
}

static bool is_called(const struct pw_task *t, const char *name)
{
    return strcmp(t->name, name) == 0 || strcmp(t->group, name) == 0 || strcmp(t->subgroup, name) == 0;
}

static int unknown_task(const struct pw_tasks *all, const char *name)
{
    const char *names[3 * 512];
    size_t n = 0;
    for (size_t i = 0; i < all->n && n + 3 < sizeof names / sizeof *names; i++) {
        names[n++] = all->items[i].name;
        names[n++] = all->items[i].group;
        if (*all->items[i].subgroup)
            names[n++] = all->items[i].subgroup;
    }
    const char *near = pw_nearest(name, names, n);
    int rc = pw_error(PW_E_USAGE, "--tasks: unknown task '%s'", name);
    pw_error_hint(near ? "did you mean '%s'? 'pw eval list' lists all" : "'pw eval list' lists the tasks; your own go into --tasks-dir, "
                  "or as DIR/NAME/test.jsonl below --data", near);
    return rc;
}

/* A folder of the user's with test.jsonl in it is a task too: the generic form under the folder's name. */
static bool is_folder_task(struct pw_arena *a, const char *data_dir, const char *name)
{
    static const char *const endings[] = {"jsonl", "json", "csv"};
    for (size_t i = 0; data_dir && i < 3; i++) {
        const char *path = pw_arena_printf(a, "%s/%s/test.%s", data_dir, name, endings[i]);
        if (path && pw_file_exists(path))
            return true;
    }
    return false;
}

int pw_tasks_find(struct pw_tasks *ts, const char *names, const char *dir, const char *data_dir)
{
    int rc = 0;
    PW_PASS(pw_tasks_all(ts, dir));
    struct pw_task *chosen = pw_arena_array(&ts->arena, MAX_TASKS, sizeof *chosen);
    size_t n = 0;
    PW_CHECK_OUT(chosen, PW_E_NOMEM, "out of memory");
    while (*names) {
        size_t len = strcspn(names, ","), before = n;
        const char *name = pw_arena_strndup(&ts->arena, names, len);
        PW_CHECK_OUT(name, PW_E_NOMEM, "out of memory");
        names += len + (names[len] == ',');
        if (!*name)
            continue;
        for (size_t i = 0; i < ts->n; i++) {
            bool twice = false;
            for (size_t k = 0; k < n; k++)
                twice |= strcmp(chosen[k].name, ts->items[i].name) == 0;
            PW_CHECK_OUT(n < MAX_TASKS, PW_E_USAGE, "--tasks: too many tasks");
            if (is_called(&ts->items[i], name)) {
                if (!twice) {
                    chosen[n] = ts->items[i];
                    chosen[n++].by_group = strcmp(ts->items[i].name, name) != 0;
                } else
                    before = (size_t)-1;
            }
        }
        if (n == before && is_folder_task(&ts->arena, data_dir, name))
            for (size_t i = 0; i < ts->n; i++)
                if (strcmp(ts->items[i].name, "choice") == 0) {
                    chosen[n] = ts->items[i];
                    chosen[n].name = chosen[n].group = name;
                    n++;
                    break;
                }
        if (n == before) {
            rc = unknown_task(ts, name);
            goto out;
        }
    }
    PW_CHECK_OUT(n > 0, PW_E_USAGE, "--tasks: no task is named");
    ts->items = chosen;
    ts->n = n;
out:
    if (rc < 0)
        pw_tasks_free(ts);
    return rc;
}

void pw_tasks_free(struct pw_tasks *t)
{
    pw_arena_free(&t->arena);
    memset(t, 0, sizeof *t);
}
