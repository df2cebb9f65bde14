/* Running benchmark tasks on one model (see the header). */
#include "eval/benchmark.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "eval/choice_score.h"
#include "eval/samples.h"

struct pw_benchmark {
    const struct pw_tokenizer *tokenizer;
    const struct pw_tasks *tasks;
    struct pw_benchmark_options o;
    struct pw_task_result *results; size_t n, cap;
    const struct pw_task **missing; size_t n_missing;   /* of groups, without data */
    struct pw_samples *samples;
    int64_t tokens;
    struct pw_arena arena;       /* results */
};

/* One task being scored: its documents, prompts and requests, all in `arena`, dropped afterwards. */
struct work {
    struct pw_benchmark *b;
    const struct pw_task *task;
    const char *adapter;
    int shots;
    struct pw_docs docs, shot_docs;
    struct pw_prompt *prompts;
    struct pw_choice_request *requests;
    size_t *of;                  /* requests[i] is document of[i] */
    size_t n, n_requests, done_before;
    struct pw_choice_request **by_doc;
    struct pw_arena arena;
};

/* A subject of a group whose file is not there: said on stderr and in the result, never silently left out. */
static int note_missing(struct pw_benchmark *b, const struct pw_task *t)
{
    for (size_t i = 0; i < b->n_missing; i++)
        if (b->missing[i] == t)
            return 0;
    if (!b->missing)
        b->missing = pw_arena_array(&b->arena, b->tasks->n, sizeof *b->missing);
    PW_CHECK(b->missing, PW_E_NOMEM, "out of memory");
    b->missing[b->n_missing++] = t;
    pw_progress_say(b->o.progress, "task %s: no data under %s, left out", t->name, b->o.data_dir);
    return 0;
}

static int load_work(struct work *w)
{
    const struct pw_benchmark_options *o = &w->b->o;
    const struct pw_task *t = w->task;
    struct pw_prompter *prompter = NULL;
    bool found;
    int rc = 0;
    w->shots = o->fewshot >= 0 ? o->fewshot : t->fewshot;
    PW_PASS_OUT(pw_docs_load(&w->docs, &w->arena, t, o->data_dir, "test", &found));
    if (!found && t->by_group) {
        rc = note_missing(w->b, t);
        goto out;
    }
    if (!found) {
        rc = pw_error(PW_E_REFUSED, "task %s: no data under %s", t->name, o->data_dir);
        pw_error_hint("expected %s/%s/test.jsonl (.json, .csv), or the published archive's own layout", o->data_dir, t->name);
        goto out;
    }
    if (w->shots > 0) {
        PW_PASS_OUT(pw_docs_load(&w->shot_docs, &w->arena, t, o->data_dir, "fewshot", &found));
        PW_CHECK_OUT(found, PW_E_REFUSED, "task %s: --fewshot %d needs a few-shot split, and there is none under %s", t->name, w->shots, o->data_dir);
        PW_CHECK_OUT(w->shot_docs.n >= (size_t)w->shots, PW_E_REFUSED, "task %s: --fewshot %d, but %s has %zu documents", t->name, w->shots,
                     w->shot_docs.path, w->shot_docs.n);
    }
    w->n = o->limit > 0 && (size_t)o->limit < w->docs.n ? (size_t)o->limit : w->docs.n;
    w->prompts = pw_arena_array(&w->arena, w->n, sizeof *w->prompts);
    PW_CHECK_OUT(w->prompts, PW_E_NOMEM, "out of memory");
    PW_PASS_OUT(pw_prompter_open(&prompter, t));
    for (size_t i = 0; i < w->n; i++)
        PW_TRY_OUT(pw_prompt_build(&w->prompts[i], &w->arena, prompter, w->shot_docs.items, w->shots, &w->docs.items[i]), "task %s, document %zu",
                   t->name, i);
out:
    pw_prompter_close(prompter);
    return rc;
}

/* Requests for the documents whose scores the sample log does not have. */
static int make_requests(struct work *w)
{
    struct pw_tokens tokens = {0};
    struct pw_choice_request *all = pw_arena_array(&w->arena, w->n, sizeof *all);
    int rc = 0;
    w->of = pw_arena_array(&w->arena, w->n, sizeof *w->of);
    w->by_doc = pw_arena_array(&w->arena, w->n, sizeof *w->by_doc);
    PW_CHECK_OUT(all && w->of && w->by_doc, PW_E_NOMEM, "out of memory");
    w->requests = all;
    size_t back = w->n;
    for (size_t i = 0; i < w->n; i++) {
        const struct pw_prompt *p = &w->prompts[i];
        const double *known = pw_samples_known(w->b->samples, w->task->name, w->adapter, (int64_t)i, p->context, p->n_choices);
        struct pw_choice_request *r = known ? &all[--back] : &all[w->n_requests];
        w->by_doc[i] = r;
        if (known) {
            r->n_choices = p->n_choices;
            memcpy(r->logprobs, known, (size_t)p->n_choices * sizeof *known);
            w->done_before++;
            continue;
        }
        w->of[w->n_requests++] = i;
        PW_TRY_OUT(pw_choice_encode(r, &w->arena, w->b->tokenizer, p->context, p->continuations, p->n_choices, &tokens), "task %s, document %zu", w->task->name, i);
    }
out:
    pw_tokens_free(&tokens);
    return rc;
}

static int64_t characters(const char *s)
{
    int64_t n = 0;
    for (; *s; s++)
        n += (*s & 0xC0) != 0x80;
    return n;
}

/* What the length of a choice is divided by: the choice's own text, without the delimiter. */
static int picked(const struct pw_choice_request *r, const struct pw_doc *d, enum pw_metric m)
{
    int best = 0;
    double most = 0;
    for (int c = 0; c < r->n_choices; c++) {
        double length = m == PW_METRIC_ACC_NORM ? (double)characters(d->choices[c]) : m == PW_METRIC_ACC_BYTES ? (double)strlen(d->choices[c]) : 1;
        double score = r->logprobs[c] / (length > 0 ? length : 1);
        if (c == 0 || score > most)
            best = c, most = score;
    }
    return best;
}

static int document_done(void *ctx, size_t i)
{
    struct work *w = ctx;
    size_t doc = w->of[i];
    const struct pw_choice_request *r = &w->requests[i];
    const struct pw_prompt *p = &w->prompts[doc];
    const struct pw_doc *d = &w->docs.items[doc];
    char note[96];
    struct pw_sample s = {.task = w->task->name, .adapter = w->adapter, .doc = (int64_t)doc, .prompt = p->context, .choices = p->continuations,
                          .texts = d->choices, .n_choices = r->n_choices, .target = d->answer, .logprobs = r->logprobs, .n_metrics = w->task->n_metrics};
    for (int m = 0; m < w->task->n_metrics; m++) {
        s.metric[m] = pw_metric_name(w->task->metrics[m]);
        s.picked[m] = picked(r, d, w->task->metrics[m]);
    }
    PW_PASS(pw_samples_add(w->b->samples, &s));
    snprintf(note, sizeof note, "%s%s%s", w->task->name, w->adapter ? " + " : "", w->adapter ? w->adapter : "");
    pw_progress_at(w->b->o.progress, (int64_t)(w->done_before + i + 1), (int64_t)w->n, note);
    if (w->b->o.stop && w->b->o.stop()) {
        int rc = pw_error(PW_E_INTERRUPTED, "interrupted at document %zu of %s", doc, w->task->name);
        if (w->b->samples)
            pw_error_hint("what is scored so far is kept; run the same command with --resume");
        return rc;
    }
    return 0;
}

static int sum_up(struct work *w, struct pw_task_result *res)
{
    struct pw_sha256 docs, scores;
    *res = (struct pw_task_result){.task = w->task, .fewshot = w->shots, .n = (int64_t)w->n};
    pw_sha256_init(&docs);
    pw_sha256_init(&scores);
    if (w->adapter) {
        res->adapter = pw_arena_strndup(&w->b->arena, w->adapter, strlen(w->adapter));
        PW_CHECK(res->adapter, PW_E_NOMEM, "out of memory");
    }
    for (size_t i = 0; i < w->n; i++) {
        const struct pw_choice_request *r = w->by_doc[i];
        pw_sha256_add(&docs, w->prompts[i].context, strlen(w->prompts[i].context) + 1);
        for (int c = 0; c < r->n_choices; c++)
            pw_sha256_add(&docs, w->prompts[i].continuations[c], strlen(w->prompts[i].continuations[c]) + 1);
        pw_sha256_add(&docs, &w->docs.items[i].answer, sizeof(int));
        pw_sha256_add(&scores, r->logprobs, (size_t)r->n_choices * sizeof *r->logprobs);
        res->truncated += r->truncated;
    }
    pw_sha256_hex(&docs, res->docs_hash);
    pw_sha256_hex(&scores, res->scores_hash);
    for (int m = 0; m < w->task->n_metrics; m++) {
        int64_t hits = 0;
        res->hits[m] = pw_arena_alloc(&w->b->arena, w->n + 1);
        PW_CHECK(res->hits[m], PW_E_NOMEM, "out of memory");
        for (size_t i = 0; i < w->n; i++) {
            bool hit = picked(w->by_doc[i], &w->docs.items[i], w->task->metrics[m]) == w->docs.items[i].answer;
            res->hits[m][i] = hit ? '1' : '0';
            hits += hit;
        }
        res->metrics[m] = pw_estimate_share(hits, (int64_t)w->n);
    }
    return 0;
}

static int run_task(struct pw_benchmark *b, struct pw_model *m, const struct pw_task *t, const char *adapter)
{
    struct work w = {.b = b, .task = t, .adapter = adapter};
    int rc = 0;
    pw_arena_init(&w.arena);
    PW_PASS_OUT(load_work(&w));
    if (!w.docs.path)
        goto out;
    PW_PASS_OUT(make_requests(&w));
    PW_TRY_OUT(pw_choice_score(m, w.requests, w.n_requests, b->o.batch_tokens, &b->tokens, document_done, &w), "evaluating task %s", t->name);
    if (b->n == b->cap) {
        size_t cap = b->cap ? 2 * b->cap : 64;
        void *p = pw_realloc(b->results, b->cap * sizeof *b->results, cap * sizeof *b->results);
        PW_CHECK_OUT(p, PW_E_NOMEM, "out of memory");
        b->results = p;
        b->cap = cap;
    }
    PW_PASS_OUT(sum_up(&w, &b->results[b->n]));
    b->n++;
out:
    pw_arena_free(&w.arena);
    return rc;
}

int pw_benchmark_open(struct pw_benchmark **out, const struct pw_tokenizer *t, const struct pw_tasks *tasks, const struct pw_benchmark_options *o)
{
    struct pw_benchmark *b = pw_alloc_zero(1, sizeof *b);
    PW_CHECK(b, PW_E_NOMEM, "out of memory");
    *b = (struct pw_benchmark){.tokenizer = t, .tasks = tasks, .o = *o};
    pw_arena_init(&b->arena);
    if (o->samples) {
        int rc = pw_samples_open(&b->samples, o->samples, o->resume, o->force);
        if (rc < 0) {
            pw_benchmark_close(b);
            return rc;
        }
    }
    *out = b;
    return 0;
}

int pw_benchmark_run(struct pw_benchmark *b, struct pw_model *m, const char *adapter)
{
    for (size_t i = 0; i < b->tasks->n; i++)
        PW_PASS(run_task(b, m, &b->tasks->items[i], adapter));
    return 0;
}

int pw_benchmark_finish(struct pw_benchmark *b)
{
    if (b->n == 0) {
        int rc = pw_error(PW_E_REFUSED, "task %s: no data under %s", b->tasks->items[0].group, b->o.data_dir);
        pw_error_hint("expected %s/%s/test.jsonl (.json, .csv), or the published archive's own layout", b->o.data_dir, b->tasks->items[0].name);
        return rc;
    }
    return pw_samples_finish(b->samples);
}

const struct pw_task_result *pw_benchmark_results(const struct pw_benchmark *b, size_t *n)
{
    *n = b->n;
    return b->results;
}

const struct pw_task *pw_benchmark_missing(const struct pw_benchmark *b, size_t i)
{
    return i < b->n_missing ? b->missing[i] : NULL;
}

int64_t pw_benchmark_tokens(const struct pw_benchmark *b)
{
    return b->tokens;
}

void pw_benchmark_close(struct pw_benchmark *b)
{
    if (!b)
        return;
    pw_samples_close(b->samples);
    pw_free(b->results);
    pw_arena_free(&b->arena);
    pw_free(b);
}

/* The task of the list whose data is there; when none has any, the first, whose loading then says so. */
static int first_with_data(const struct pw_tasks *tasks, const char *data_dir, struct pw_task *task)
{
    struct pw_arena a;
    bool found = false;
    int rc = 0;
    pw_arena_init(&a);
    for (size_t i = 0; i < tasks->n && !found; i++) {
        struct pw_docs docs;
        *task = tasks->items[i];
        PW_PASS_OUT(pw_docs_load(&docs, &a, task, data_dir, "test", &found));
    }
    if (!found)
        *task = tasks->items[0];
    task->by_group = false; /* a group may lack some of its tasks, but not the one that is shown */
out:
    pw_arena_free(&a);
    return rc;
}

int pw_benchmark_explain(const struct pw_tokenizer *t, const struct pw_tasks *tasks, const struct pw_benchmark_options *o, int64_t doc, struct pw_json *j)
{
    struct pw_benchmark b = {.tokenizer = t, .o = *o};
    struct pw_task shown, *task = &shown;
    struct work w = {.b = &b, .task = task};
    struct pw_tokens tokens = {0};
    struct pw_choice_request r = {0};
    int rc = 0;
    pw_arena_init(&w.arena);
    PW_PASS_OUT(first_with_data(tasks, o->data_dir, task));
    PW_PASS_OUT(load_work(&w));
    PW_CHECK_OUT(doc >= 0 && (size_t)doc < w.n, PW_E_USAGE, "--doc: expected 0 to %zu, got %lld", w.n - 1, (long long)doc);
    const struct pw_prompt *p = &w.prompts[doc];
    pw_json_str(j, "task", task->name);
    pw_json_i64(j, "doc", doc);
    pw_json_i64(j, "line", w.docs.items[doc].line);
    pw_json_str(j, "file", w.docs.path);
    pw_json_i64(j, "fewshot", w.shots);
    pw_json_str(j, "prompt", p->context);
    pw_json_open(j, "choices", '[');
    for (int c = 0; c < p->n_choices; c++)
        pw_json_str(j, NULL, p->continuations[c]);
    pw_json_close(j, ']');
    pw_json_i64(j, "target", w.docs.items[doc].answer);
    if (t) {
        PW_PASS_OUT(pw_choice_encode(&r, &w.arena, t, p->context, p->continuations, p->n_choices, &tokens));
        pw_json_open(j, "prompt_ids", '[');
        for (int i = 0; i < r.n_context; i++)
            pw_json_i64(j, NULL, r.context[i]);
        pw_json_close(j, ']');
        pw_json_open(j, "choice_ids", '[');
        for (int c = 0; c < r.n_choices; c++) {
            pw_json_open(j, NULL, '[');
            for (int i = 0; i < r.n_conts[c]; i++)
                pw_json_i64(j, NULL, r.conts[c][i]);
            pw_json_close(j, ']');
        }
        pw_json_close(j, ']');
    }
out:
    pw_tokens_free(&tokens);
    pw_arena_free(&w.arena);
    return rc;
}
