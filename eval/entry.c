/* Contest entries: building and verifying packs (see the header). */
#include "eval/entry.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "data/archive.h"
#include "eval/choice_score.h"
#include "lora/peft.h"

enum { MAX_MEMBERS = 16 };
static const size_t max_pack = (size_t)4 << 30;

static const struct { const char *name, *from; bool required; } members[] = {
    {"adapter/adapter_config.json", "adapter/adapter_config.json", true},
    {"adapter/adapter_model.safetensors", "adapter/adapter_model.safetensors", true},
    {"base.json", "base.json", false},
    {"log.jsonl", "log.jsonl", false},
    {"recipe.yaml", "recipe.yaml", true},
    {"samples.jsonl", "tuned.samples.jsonl", false},
    {"tuned.json", "tuned.json", false},
};

struct pw_entry {
    struct pw_arena arena;
    const char *path;
    struct pw_archive_file *files; size_t n;
    const struct pw_value *manifest;
    struct pw_adapter adapter;
    char temp[64];
};

/* ---- building ---- */

static void card_scores(struct pw_buf *card, const char *title, const struct pw_value *doc)
{
    const struct pw_value *rows = doc ? pw_get(doc, "results") : NULL;
    for (size_t i = 0; rows && rows->kind == PW_LIST && i < rows->len; i++) {
        const struct pw_value *task = pw_get(&rows->items[i], "task"), *metrics = pw_get(&rows->items[i], "metrics");
        for (size_t m = 0; metrics && metrics->kind == PW_MAP && m < metrics->len; m++) {
            double value = 0, error = 0;
            int64_t n = 0;
            if (pw_get_f64(&metrics->members[m].value, "value", "scores", &value) < 0 || pw_get_i64(&rows->items[i], "n", "scores", &n) < 0 ||
                pw_get_f64(&metrics->members[m].value, "stderr", "scores", &error) < 0)
                continue;
            pw_buf_printf(card, "| %s | %s | %s | %lld | %.4f | %.4f |\n", title, task && task->kind == PW_STRING ? task->s : "?",
                          metrics->members[m].key, (long long)n, value, error);
        }
    }
}

static int make_card(struct pw_buf *card, struct pw_arena *a, const struct pw_adapter *adapter, const struct pw_archive_file *files, size_t n)
{
    const struct pw_value *base = NULL, *tuned = NULL;
    for (size_t i = 0; i < n; i++) {
        struct pw_value *v;
        bool is_base = strcmp(files[i].name, "base.json") == 0;
        if (!is_base && strcmp(files[i].name, "tuned.json") != 0)
            continue;
        PW_PASS(pw_json_parse(a, files[i].data, files[i].bytes, files[i].name, &v));
        *(is_base ? &base : &tuned) = v;
    }
    pw_buf_printf(card, "# Adapter\n\nBase: %s\n\nIdentity of the base (SHA-256): %s\n\n", adapter->config.base_name[0] ? adapter->config.base_name : "not recorded",
                  adapter->config.base_hash[0] ? adapter->config.base_hash : "not recorded");
    pw_buf_printf(card, "LoRA of rank %d, alpha %g, dropout %g%s, on %zu modules, %lld parameters.\n\n", adapter->config.r, adapter->config.alpha,
                  adapter->config.dropout, adapter->config.rslora ? ", rank-stabilised" : "", adapter->n, (long long)pw_adapter_parameters(adapter));
    if (base || tuned) {
        pw_buf_str(card, "| model | task | metric | n | value | stderr |\n|---|---|---|---|---|---|\n");
        card_scores(card, "base", base);
        card_scores(card, "adapter", tuned);
        pw_buf_char(card, '\n');
    }
    pw_buf_str(card, "How it was made: recipe.yaml. What belongs to this entry, with hashes: manifest.json. `pw entry check` verifies all of it.\n");
    return pw_buf_status(card);
}

static int make_manifest(struct pw_json *w, const struct pw_adapter *adapter, const struct pw_archive_file *files, size_t n)
{
    w->indent = true;
    pw_json_open(w, NULL, '{');
    pw_json_i64(w, "schema", 1);
    pw_json_str(w, "kind", "pennyweight entry");
    pw_json_str(w, "base", adapter->config.base_name);
    pw_json_str(w, "base_hash", adapter->config.base_hash[0] ? adapter->config.base_hash : NULL);
    pw_json_open(w, "files", '[');
    for (size_t i = 0; i < n; i++) {
        char hex[65];
        pw_sha256_bytes(files[i].data, files[i].bytes, hex);
        pw_json_open(w, NULL, '{');
        pw_json_str(w, "name", files[i].name);
        pw_json_i64(w, "bytes", (int64_t)files[i].bytes);
        pw_json_str(w, "sha256", hex);
        pw_json_close(w, '}');
    }
    pw_json_close(w, ']');
    pw_json_close(w, '}');
    pw_buf_char(&w->out, '\n');
    return pw_json_status(w);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct pw_archive_file *)a)->name, ((const struct pw_archive_file *)b)->name);
}

int pw_entry_build(const char *run, const char *out, bool force, struct pw_json *report)
{
    struct pw_archive_file files[MAX_MEMBERS];
    struct pw_buf text[MAX_MEMBERS] = {0}, card = {0};
    struct pw_json manifest = {0};
    struct pw_adapter adapter = {0};
    struct pw_arena a;
    size_t n = 0;
    int rc = 0;
    pw_arena_init(&a);
    PW_CHECK_OUT(pw_is_dir(run), PW_E_FAIL, "%s: no run folder", run);
    PW_PASS_OUT(pw_out_check(out, force));
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        const char *path = pw_path_join(&a, run, members[i].from);
        PW_CHECK_OUT(path, PW_E_NOMEM, "out of memory");
        if (!pw_file_exists(path)) {
            PW_CHECK_OUT(!members[i].required, PW_E_FAIL, "%s is missing: not the folder of a finished run", path);
            continue;
        }
        PW_PASS_OUT(pw_file_read(path, 0, &text[n]));
        files[n] = (struct pw_archive_file){members[i].name, text[n].data, text[n].len};
        n++;
    }
    const char *dir = pw_path_join(&a, run, "adapter");
    PW_CHECK_OUT(dir, PW_E_NOMEM, "out of memory");
    PW_TRY_OUT(pw_peft_load(&adapter, dir, NULL), "reading the adapter of %s", run);
    PW_PASS_OUT(make_card(&card, &a, &adapter, files, n));
    files[n++] = (struct pw_archive_file){"card.md", card.data, card.len};
    qsort(files, n, sizeof *files, by_name);
    PW_PASS_OUT(make_manifest(&manifest, &adapter, files, n));
    files[n++] = (struct pw_archive_file){"manifest.json", manifest.out.data, manifest.out.len};
    qsort(files, n, sizeof *files, by_name);
    PW_PASS_OUT(pw_archive_write(out, files, n, force));
    char hex[65];
    PW_PASS_OUT(pw_sha256_file(out, hex));
    pw_json_str(report, "entry", out);
    pw_json_str(report, "sha256", hex);
    pw_json_open(report, "files", '[');
    for (size_t i = 0; i < n; i++)
        pw_json_str(report, NULL, files[i].name);
    pw_json_close(report, ']');
out:
    for (size_t i = 0; i < MAX_MEMBERS; i++)
        pw_buf_free(&text[i]);
    pw_buf_free(&card);
    pw_json_free(&manifest);
    pw_adapter_free(&adapter);
    pw_arena_free(&a);
    return rc;
}

/* ---- checking ---- */

static const struct pw_archive_file *find(const struct pw_entry *e, const char *name)
{
    for (size_t i = 0; i < e->n; i++)
        if (strcmp(e->files[i].name, name) == 0)
            return &e->files[i];
    return NULL;
}

static int check_manifest(struct pw_entry *e)
{
    const struct pw_archive_file *f = find(e, "manifest.json");
    struct pw_value *m;
    PW_CHECK(f, PW_E_FORMAT, "%s: manifest.json is missing: no entry", e->path);
    PW_TRY(pw_json_parse(&e->arena, f->data, f->bytes, "manifest.json", &m), "checking %s", e->path);
    e->manifest = m;
    const struct pw_value *list = pw_get(m, "files");
    PW_CHECK(list && list->kind == PW_LIST, PW_E_FORMAT, "%s: manifest.json: no list of files", e->path);
    for (size_t i = 0; i < list->len; i++) {
        const char *name = NULL, *want = NULL;
        int64_t bytes = -1;
        char hex[65];
        PW_PASS(pw_get_str(&list->items[i], "name", "manifest.json", &name));
        PW_PASS(pw_get_str(&list->items[i], "sha256", "manifest.json", &want));
        PW_PASS(pw_get_i64(&list->items[i], "bytes", "manifest.json", &bytes));
        PW_CHECK(name && want && bytes >= 0, PW_E_FORMAT, "%s: manifest.json: file %zu lacks name, bytes or sha256", e->path, i);
        const struct pw_archive_file *x = find(e, name);
        PW_CHECK(x, PW_E_FAIL, "%s: %s is in the manifest but not in the pack", e->path, name);
        PW_CHECK(x->bytes == (size_t)bytes, PW_E_FAIL, "%s: %s: expected %lld bytes, got %zu", e->path, name, (long long)bytes, x->bytes);
        pw_sha256_bytes(x->data, x->bytes, hex);
        PW_CHECK(strcmp(hex, want) == 0, PW_E_FAIL, "%s: %s: expected sha256 %s, got %s", e->path, name, want, hex);
    }
    for (size_t i = 0; i < e->n; i++) {
        bool listed = strcmp(e->files[i].name, "manifest.json") == 0;
        for (size_t k = 0; k < list->len && !listed; k++) {
            const struct pw_value *name = pw_get(&list->items[k], "name");
            listed = name && name->kind == PW_STRING && strcmp(name->s, e->files[i].name) == 0;
        }
        PW_CHECK(listed, PW_E_FAIL, "%s: %s is in the pack but not in the manifest", e->path, e->files[i].name);
    }
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        PW_CHECK(!members[i].required || find(e, members[i].name), PW_E_FAIL, "%s: %s is missing", e->path, members[i].name);
    return 0;
}

/* PEFT folders are read from disk: the two files go into a folder of their own for as long as the entry is open. */
static int load_adapter(struct pw_entry *e)
{
    static const char *const names[] = {"adapter_config.json", "adapter_model.safetensors"};
    snprintf(e->temp, sizeof e->temp, "/tmp/pw-entry-XXXXXX");
    if (!mkdtemp(e->temp)) {
        e->temp[0] = 0;
        return pw_error(PW_E_IO, "no temporary folder can be made under /tmp");
    }
    for (int i = 0; i < 2; i++) {
        const struct pw_archive_file *f = find(e, pw_arena_printf(&e->arena, "adapter/%s", names[i]));
        const char *path = pw_path_join(&e->arena, e->temp, names[i]);
        PW_CHECK(f && path, PW_E_NOMEM, "out of memory");
        PW_PASS(pw_file_write(path, f->data, f->bytes, true));
    }
    PW_TRY(pw_peft_load(&e->adapter, e->temp, NULL), "reading the adapter of %s", e->path);
    return 0;
}

int pw_entry_open(struct pw_entry **out, const char *path)
{
    struct pw_entry *e = pw_alloc_zero(1, sizeof *e);
    int rc = 0;
    PW_CHECK(e, PW_E_NOMEM, "out of memory");
    pw_arena_init(&e->arena);
    e->path = pw_arena_strndup(&e->arena, path, strlen(path));
    PW_CHECK_OUT(e->path, PW_E_NOMEM, "out of memory");
    PW_PASS_OUT(pw_archive_read(path, max_pack, &e->arena, &e->files, &e->n));
    PW_PASS_OUT(check_manifest(e));
    PW_PASS_OUT(load_adapter(e));
    *out = e;
out:
    if (rc < 0)
        pw_entry_close(e);
    return rc;
}

void pw_entry_close(struct pw_entry *e)
{
    if (!e)
        return;
    pw_adapter_free(&e->adapter);
    if (e->temp[0])
        pw_dir_remove(e->temp);
    pw_arena_free(&e->arena);
    pw_free(e);
}

const struct pw_adapter *pw_entry_adapter(const struct pw_entry *e)
{
    return &e->adapter;
}

bool pw_entry_has_samples(const struct pw_entry *e)
{
    return find(e, "samples.jsonl") != NULL;
}

bool pw_entry_has_scores(const struct pw_entry *e)
{
    return find(e, "tuned.json") != NULL || find(e, "base.json") != NULL;
}

struct sample { bool of_base; const char *prompt; int n, target, picked; const char *choices[PW_SCORE_MAX_CHOICES]; double logprobs[PW_SCORE_MAX_CHOICES]; };

static int read_sample(struct sample *s, const struct pw_value *row, int line)
{
    const struct pw_value *choices = pw_get(row, "choices"), *lp = pw_get(row, "logprobs"), *picked = pw_get(row, "picked");
    int64_t target = -1;
    memset(s, 0, sizeof *s);
    const struct pw_value *adapter = pw_get(row, "adapter");
    s->of_base = !adapter || adapter->kind == PW_NULL;
    PW_PASS(pw_get_str(row, "prompt", "samples.jsonl", &s->prompt));
    PW_PASS(pw_get_i64(row, "target", "samples.jsonl", &target));
    PW_CHECK(s->prompt && choices && lp && choices->kind == PW_LIST && lp->kind == PW_LIST && choices->len == lp->len && lp->len >= 1 &&
             lp->len <= PW_SCORE_MAX_CHOICES && picked && picked->kind == PW_MAP && picked->len > 0 && picked->members[0].value.kind == PW_INT,
             PW_E_FORMAT, "samples.jsonl:%d: not a sample of an evaluation", line);
    s->n = (int)choices->len;
    s->target = (int)target;
    s->picked = (int)picked->members[0].value.i;
    for (int i = 0; i < s->n; i++) {
        const struct pw_value *x = &lp->items[i];
        PW_CHECK(choices->items[i].kind == PW_STRING && (x->kind == PW_REAL || x->kind == PW_INT), PW_E_FORMAT,
                 "samples.jsonl:%d: expected texts and numbers", line);
        s->choices[i] = choices->items[i].s;
        s->logprobs[i] = x->kind == PW_REAL ? x->d : (double)x->i;
    }
    return 0;
}

/* Rows of an evaluation with --with-base are of both: those of the base go, unless there are no others. Returns what is left. */
static size_t drop_base(struct sample *samples, struct pw_choice_request *requests, size_t n)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        kept += !samples[i].of_base;
    if (kept == 0 || kept == n)
        return n;
    kept = 0;
    for (size_t i = 0; i < n; i++)
        if (!samples[i].of_base) {
            samples[kept] = samples[i];
            requests[kept++] = requests[i];
        }
    return kept;
}

/* tuned.json says the same as the samples: as many documents, as many of them right. */
static int check_result(struct pw_entry *e, const struct sample *samples, size_t n)
{
    const struct pw_archive_file *f = find(e, "tuned.json");
    int64_t documents = 0, hits = 0, recorded = 0;
    struct pw_value *v;
    bool some = false;
    if (!f)
        return 0;
    PW_TRY(pw_json_parse(&e->arena, f->data, f->bytes, "tuned.json", &v), "checking %s", e->path);
    const struct pw_value *rows = pw_get(v, "results");
    PW_CHECK(rows && rows->kind == PW_LIST, PW_E_FORMAT, "%s: tuned.json: no list of results", e->path);
    for (size_t i = 0; i < rows->len; i++) {
        const struct pw_value *adapter = pw_get(&rows->items[i], "adapter");
        some = some || (adapter && adapter->kind != PW_NULL);
    }
    for (size_t i = 0; i < rows->len; i++) {
        const struct pw_value *row = &rows->items[i], *adapter = pw_get(row, "adapter"), *metrics = pw_get(row, "metrics");
        const struct pw_value *acc = metrics ? pw_get(metrics, "acc") : NULL;
        int64_t of_row = -1;
        double value = -1;
        if (some && (!adapter || adapter->kind == PW_NULL))
            continue;
        PW_PASS(pw_get_i64(row, "n", "tuned.json", &of_row));
        if (acc)
            PW_PASS(pw_get_f64(acc, "value", "tuned.json", &value));
        PW_CHECK(of_row >= 0 && value >= 0 && value <= 1, PW_E_FORMAT, "%s: tuned.json: result %zu has no n and acc", e->path, i + 1);
        documents += of_row;
        recorded += llround(value * (double)of_row);
    }
    for (size_t i = 0; i < n; i++)
        hits += samples[i].picked == samples[i].target;
    PW_CHECK(documents == (int64_t)n && recorded == hits, PW_E_FAIL,
             "%s: tuned.json does not fit the samples (it says %lld of %lld right, they say %lld of %zu)", e->path, (long long)recorded,
             (long long)documents, (long long)hits, n);
    return 0;
}

int pw_entry_score(struct pw_entry *e, struct pw_model *m, const struct pw_tokenizer *t, int64_t limit, double bound, struct pw_entry_scores *out)
{
    const struct pw_archive_file *f = find(e, "samples.jsonl");
    struct pw_choice_request *requests = NULL;
    struct sample *samples = NULL;
    struct pw_tokens tokens = {0};
    struct pw_arena a;
    size_t lines = 0, n = 0;
    int64_t computed = 0, hits = 0, hits_again = 0;
    int rc = 0;
    pw_arena_init(&a);
    memset(out, 0, sizeof *out);
    PW_CHECK_OUT(f, PW_E_FAIL, "%s holds no samples: nothing to score again", e->path);
    const char *p = f->data, *end = p + f->bytes;
    for (const char *q = p; q < end; q++)
        lines += *q == '\n';
    requests = pw_alloc_zero(lines + 1, sizeof *requests);
    samples = pw_alloc_zero(lines + 1, sizeof *samples);
    PW_CHECK_OUT(requests && samples, PW_E_NOMEM, "out of memory");
    for (int line = 1; p < end && (limit == 0 || (int64_t)n < limit); line++) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        struct pw_value *row;
        PW_CHECK_OUT(stop, PW_E_FORMAT, "samples.jsonl:%d: the line has no end", line);
        PW_TRY_OUT(pw_json_parse(&a, p, (size_t)(stop - p), "samples.jsonl", &row), "checking line %d of samples.jsonl", line);
        PW_PASS_OUT(read_sample(&samples[n], row, line));
        PW_TRY_OUT(pw_choice_encode(&requests[n], &a, t, samples[n].prompt, samples[n].choices, samples[n].n, &tokens), "samples.jsonl:%d", line);
        n++;
        p = stop + 1;
    }
    PW_CHECK_OUT(n > 0, PW_E_FAIL, "%s: samples.jsonl is empty", e->path);
    n = drop_base(samples, requests, n);
    if (limit == 0)
        PW_PASS_OUT(check_result(e, samples, n));
    PW_TRY_OUT(pw_choice_score(m, requests, n, 512, &computed, NULL, NULL), "scoring the samples of %s", e->path);
    for (size_t i = 0; i < n; i++) {
        int best = 0;
        for (int c = 0; c < samples[i].n; c++) {
            double d = fabs(requests[i].logprobs[c] - samples[i].logprobs[c]);
            if (!(d <= out->max_difference))
                out->max_difference = d;
            if (requests[i].logprobs[c] > requests[i].logprobs[best])
                best = c;
        }
        out->picks_changed += best != samples[i].picked;
        hits += samples[i].picked == samples[i].target;
        hits_again += best == samples[i].target;
    }
    out->documents = (int64_t)n;
    out->acc_recorded = (double)hits / (double)n;
    out->acc_again = (double)hits_again / (double)n;
    PW_CHECK_OUT(out->max_difference <= bound, PW_E_FAIL,
                 "%s: the recorded scores are not this adapter's: a log-probability differs by %g (bound %g), %lld of %zu answers change", e->path,
                 out->max_difference, bound, (long long)out->picks_changed, n);
out:
    pw_free(requests);
    pw_free(samples);
    pw_tokens_free(&tokens);
    pw_arena_free(&a);
    return rc;
}

void pw_entry_json(const struct pw_entry *e, struct pw_json *w)
{
    pw_json_str(w, "entry", e->path);
    pw_json_value(w, "base", pw_get(e->manifest, "base"));
    pw_json_value(w, "base_hash", pw_get(e->manifest, "base_hash"));
    pw_json_value(w, "files", pw_get(e->manifest, "files"));
    pw_json_open(w, "adapter", '{');
    pw_json_i64(w, "r", e->adapter.config.r);
    pw_json_f64(w, "alpha", e->adapter.config.alpha);
    pw_json_i64(w, "modules", (int64_t)e->adapter.n);
    pw_json_i64(w, "parameters", pw_adapter_parameters(&e->adapter));
    pw_json_close(w, '}');
}
