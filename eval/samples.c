/* The sample log (see the header). */
#include "eval/samples.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/lock.h"
#include "base/value.h"

struct known { char key[65]; double *logprobs; int n; };
struct pw_samples {
    char *path, *part;
    FILE *f;
    struct pw_lock lock;                /* of path.lock: two processes would write one log */
    struct known *known; size_t n, cap;
    struct pw_arena arena;
};

/* What a document is known by. */
static void make_key(char key[65], const char *task, const char *adapter, int64_t doc, const char *prompt)
{
    struct pw_sha256 h;
    pw_sha256_init(&h);
    pw_sha256_add(&h, task, strlen(task) + 1);
    pw_sha256_add(&h, adapter ? adapter : "", adapter ? strlen(adapter) + 1 : 0);
    pw_sha256_add(&h, &doc, sizeof doc);
    pw_sha256_add(&h, prompt, strlen(prompt));
    pw_sha256_hex(&h, key);
}

static int remember(struct pw_samples *s, const struct pw_value *row, const char *where)
{
    const char *task = NULL, *adapter = NULL, *prompt = NULL;
    const struct pw_value *lp = pw_get(row, "logprobs");
    int64_t doc = -1;
    PW_PASS(pw_get_str(row, "task", where, &task));
    PW_PASS(pw_get_str(row, "adapter", where, &adapter));
    PW_PASS(pw_get_str(row, "prompt", where, &prompt));
    PW_PASS(pw_get_i64(row, "doc", where, &doc));
    PW_CHECK(task && prompt && doc >= 0 && lp && lp->kind == PW_LIST && lp->len > 0, PW_E_FORMAT, "%s: no sample line of an evaluation", where);
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 1024;
        void *p = pw_realloc(s->known, s->cap * sizeof *s->known, cap * sizeof *s->known);
        PW_CHECK(p, PW_E_NOMEM, "out of memory");
        s->known = p;
        s->cap = cap;
    }
    struct known *k = &s->known[s->n];
    make_key(k->key, task, adapter, doc, prompt);
    k->n = (int)lp->len;
    k->logprobs = pw_arena_array(&s->arena, lp->len, sizeof(double));
    PW_CHECK(k->logprobs, PW_E_NOMEM, "out of memory");
    for (size_t i = 0; i < lp->len; i++) {
        PW_CHECK(lp->items[i].kind == PW_REAL || lp->items[i].kind == PW_INT, PW_E_FORMAT, "%s: logprobs: expected numbers", where);
        k->logprobs[i] = lp->items[i].kind == PW_REAL ? lp->items[i].d : (double)lp->items[i].i;
    }
    s->n++;
    return 0;
}

/* Reads a log back. *good: bytes of its whole lines. */
static int read_back(struct pw_samples *s, const char *path, long *good)
{
    struct pw_buf text = {0};
    int rc = 0, line = 0;
    PW_PASS_OUT(pw_file_read(path, 0, &text));
    for (size_t at = 0; at < text.len;) {
        char *stop = memchr(text.data + at, '\n', text.len - at);
        struct pw_arena a;
        struct pw_value *row;
        char where[4200];
        if (!stop)
            break;                       /* cut off: this document is scored again */
        pw_arena_init(&a);
        snprintf(where, sizeof where, "%s:%d", path, ++line);
        rc = pw_json_parse(&a, text.data + at, (size_t)(stop - text.data) - at, where, &row);
        if (rc == 0)
            rc = remember(s, row, where);
        pw_arena_free(&a);
        if (rc < 0)
            goto out;
        at = (size_t)(stop - text.data) + 1;
        *good = (long)at;
    }
out:
    pw_buf_free(&text);
    return rc;
}

int pw_samples_open(struct pw_samples **out, const char *path, bool resume, bool force)
{
    struct pw_samples *s = pw_alloc_zero(1, sizeof *s);
    long good = 0;
    int rc = 0;
    PW_CHECK(s, PW_E_NOMEM, "out of memory");
    pw_arena_init(&s->arena);
    s->path = pw_arena_strndup(&s->arena, path, strlen(path));
    s->part = pw_arena_printf(&s->arena, "%s.part", path);
    const char *lock = pw_arena_printf(&s->arena, "%s.lock", path), *what = pw_arena_printf(&s->arena, "the sample log %s", path);
    PW_CHECK_OUT(s->path && s->part && lock && what, PW_E_NOMEM, "out of memory");
    if (!resume)
        PW_PASS_OUT(pw_out_check(path, force)); /* before anything is made beside it */
    PW_PASS_OUT(pw_lock_take(&s->lock, lock, what));
    if (resume && pw_file_exists(s->part))
        PW_TRY_OUT(read_back(s, s->part, &good), "resuming from %s", s->part);
    else if (resume && pw_file_exists(path)) {
        struct pw_buf whole = {0};
        rc = pw_file_read(path, 0, &whole);
        if (rc == 0)
            rc = pw_file_write(s->part, whole.data, whole.len, true);
        pw_buf_free(&whole);
        if (rc < 0)
            goto out;
        PW_TRY_OUT(read_back(s, s->part, &good), "resuming from %s", path);
    } else
        PW_PASS_OUT(pw_out_check(path, force || resume)); /* again: whoever had the lock may have finished */
    s->f = fopen(s->part, good ? "r+" : "w");
    PW_CHECK_OUT(s->f, PW_E_IO, "%s: cannot be written: %s", s->part, strerror(errno));
    PW_CHECK_OUT(ftruncate(fileno(s->f), good) == 0 && fseek(s->f, 0, SEEK_END) == 0, PW_E_IO, "%s: %s", s->part, strerror(errno));
    *out = s;
out:
    if (rc < 0)
        pw_samples_close(s);
    return rc;
}

const double *pw_samples_known(const struct pw_samples *s, const char *task, const char *adapter, int64_t doc, const char *prompt, int n_choices)
{
    char key[65];
    if (!s || s->n == 0)
        return NULL;
    make_key(key, task, adapter, doc, prompt);
    for (size_t i = 0; i < s->n; i++)
        if (memcmp(key, s->known[i].key, 64) == 0 && s->known[i].n == n_choices)
            return s->known[i].logprobs;
    return NULL;
}

int pw_samples_add(struct pw_samples *s, const struct pw_sample *x)
{
    struct pw_json w = {0};
    if (!s)
        return 0;
    pw_json_open(&w, NULL, '{');
    pw_json_str(&w, "task", x->task);
    pw_json_str(&w, "adapter", x->adapter);
    pw_json_i64(&w, "doc", x->doc);
    pw_json_str(&w, "prompt", x->prompt);
    pw_json_open(&w, "choices", '[');
    for (int i = 0; i < x->n_choices; i++)
        pw_json_str(&w, NULL, x->choices[i]);
    pw_json_close(&w, ']');
    pw_json_open(&w, "logprobs", '[');
    for (int i = 0; i < x->n_choices; i++)
        pw_json_f64(&w, NULL, x->logprobs[i]);
    pw_json_close(&w, ']');
    pw_json_open(&w, "bytes", '[');
    for (int i = 0; i < x->n_choices; i++)
        pw_json_i64(&w, NULL, (int64_t)strlen(x->texts[i]));
    pw_json_close(&w, ']');
    pw_json_i64(&w, "target", x->target);
    pw_json_open(&w, "picked", '{');
    for (int m = 0; m < x->n_metrics; m++)
        pw_json_i64(&w, x->metric[m], x->picked[m]);
    pw_json_close(&w, '}');
    pw_json_str(&w, "text", x->texts[x->picked[0]]);
    pw_json_close(&w, '}');
    int rc = pw_json_status(&w);
    if (rc == 0 && (fwrite(w.out.data, 1, w.out.len, s->f) != w.out.len || fputc('\n', s->f) == EOF || fflush(s->f) != 0))
        rc = pw_error(PW_E_IO, "%s: cannot be written: %s", s->part, strerror(errno));
    pw_json_free(&w);
    return rc;
}

int pw_samples_finish(struct pw_samples *s)
{
    if (!s)
        return 0;
    FILE *f = s->f;
    s->f = NULL;
    bool written = fflush(f) == 0 && fsync(fileno(f)) == 0;
    written = fclose(f) == 0 && written;
    PW_CHECK(written, PW_E_IO, "%s: cannot be written: %s", s->part, strerror(errno));
    PW_CHECK(rename(s->part, s->path) == 0, PW_E_IO, "%s: cannot be renamed to %s: %s", s->part, s->path, strerror(errno));
    return 0;
}

void pw_samples_close(struct pw_samples *s)
{
    if (!s)
        return;
    if (s->f) {
        const bool empty = ftell(s->f) == 0;
        fclose(s->f);
        if (empty)
            unlink(s->part); /* nothing to go on from */
    }
    pw_lock_drop(&s->lock);
    pw_free(s->known);
    pw_arena_free(&s->arena);
    pw_free(s);
}
