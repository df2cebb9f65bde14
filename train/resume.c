/* See resume.h. */
#include "train/resume.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "data/h5.h"

enum { LAYOUT = 3 };

void pw_state_free(struct pw_state *s)
{
    pw_buf_free(&s->recipe);
}

void pw_state_arithmetic(char out[PW_ARITHMETIC_BYTES], const struct pw_dev *dev)
{
    snprintf(out, PW_ARITHMETIC_BYTES, "%d %s%s%s", PW_ARITHMETIC, dev->kind, dev->level && dev->level[0] ? " " : "", dev->level ? dev->level : "");
}

/* ---- tensors ---- */

struct part { const char *group; size_t offset; };
static const struct part parts[] = {
    {"value", offsetof(struct pw_slot, value)}, {"m", offsetof(struct pw_slot, m)}, {"v", offsetof(struct pw_slot, v)},
    {"m_scale", offsetof(struct pw_slot, m_scale)}, {"v_scale", offsetof(struct pw_slot, v_scale)},
};
enum { PARTS = sizeof parts / sizeof parts[0], NAME_BYTES = 600 };

static struct pw_tensor part_of(const struct pw_slot *s, const struct part *p)
{
    return *(const struct pw_tensor *)(const void *)((const char *)s + p->offset);
}

static void name_of(char name[NAME_BYTES], const struct pw_slot *s, const struct part *p)
{
    snprintf(name, NAME_BYTES, "%s/%s", p->group, s->name);
}

static enum pw_h5_type stored(struct pw_tensor t)
{
    return t.dtype == PW_U8 ? PW_H5_U8 : PW_H5_F32;
}

/* On host devices tensors are written from where they lie; elsewhere through `host`, room for the largest. */
static int host_room(const struct pw_optim *o, const struct pw_dev *dev, void **host)
{
    size_t most = 0;
    *host = NULL;
    if (dev->host)
        return 0;
    for (size_t i = 0; i < o->n; i++)
        most = pw_bytes(o->slots[i].value) > most ? pw_bytes(o->slots[i].value) : most;
    *host = pw_alloc(most);
    PW_CHECK(*host, PW_E_NOMEM, "out of memory for %zu bytes", most);
    return 0;
}

/* Does the part k of a slot lie in host memory? */
static bool on_host(const struct pw_optim *o, const struct pw_dev *dev, int k)
{
    return dev->host || (o->on_host && k > 0);
}

/* A state that is not finite is worth nothing, and would push out one that is: pw_state_save refuses to write it. */
static int check_finite(const char *name, struct pw_tensor t, const void *host)
{
    const float *x = host;
    if (stored(t) == PW_H5_U8)
        return 0;
    for (int64_t i = 0, n = pw_count(t); i < n; i++)
        PW_CHECK(isfinite(x[i]), PW_E_NUMERIC, "%s: element %lld is not finite (expected a number, got %s)", name, (long long)i, isnan(x[i]) ? "NaN" : "infinity");
    return 0;
}

static int put_tensors(struct pw_h5_out *h, const struct pw_optim *o, struct pw_dev *dev, void *host)
{
    char name[NAME_BYTES];
    for (size_t i = 0; i < o->n; i++)
        for (int k = 0; k < PARTS; k++) {
            struct pw_tensor t = part_of(&o->slots[i], &parts[k]);
            if (!t.data)
                continue;
            name_of(name, &o->slots[i], &parts[k]);
            if (!on_host(o, dev, k))
                PW_PASS(pw_dev_get(dev, host, t.data, pw_bytes(t)));
            PW_PASS(check_finite(name, t, on_host(o, dev, k) ? t.data : host));
            PW_PASS(pw_h5_put(h, name, stored(t), on_host(o, dev, k) ? t.data : host, t.ndim, t.shape));
        }
    return 0;
}

static int get_tensors(struct pw_h5_in *in, const struct pw_optim *o, struct pw_dev *dev, void *host)
{
    char name[NAME_BYTES];
    for (size_t i = 0; i < o->n; i++)
        for (int k = 0; k < PARTS; k++) {
            struct pw_tensor t = part_of(&o->slots[i], &parts[k]);
            if (!t.data)
                continue;
            name_of(name, &o->slots[i], &parts[k]);
            PW_PASS(pw_h5_get(in, name, stored(t), on_host(o, dev, k) ? t.data : host, t.ndim, t.shape));
            if (!on_host(o, dev, k))
                PW_PASS(pw_dev_put(dev, t.data, host, pw_bytes(t)));
        }
    return 0;
}

/* ---- one file ---- */

static int put_scalars(struct pw_h5_out *h, const struct pw_state *s, const struct pw_optim *o)
{
    PW_PASS(pw_h5_put_i64(h, "layout", LAYOUT));
    PW_PASS(pw_h5_put_i64(h, "ranks", s->ranks));
    PW_PASS(pw_h5_put_i64(h, "step", s->step));
    PW_PASS(pw_h5_put_i64(h, "epoch", s->epoch));
    PW_PASS(pw_h5_put_i64(h, "pass", s->pass));
    PW_PASS(pw_h5_put_i64(h, "tokens", s->tokens));
    PW_PASS(pw_h5_put_i64(h, "trained_tokens", s->trained_tokens));
    PW_PASS(pw_h5_put_f64(h, "seconds", s->seconds));
    PW_PASS(pw_h5_put_i64(h, "log_bytes", s->log_bytes));
    PW_PASS(pw_h5_put_i64(h, "evaluated_step", s->evaluated_step));
    PW_PASS(pw_h5_put_i64(h, "has_best", s->has_best));
    PW_PASS(pw_h5_put_f64(h, "best_loss", s->best_loss));
    PW_PASS(pw_h5_put_i64(h, "best_step", s->best_step));
    PW_PASS(pw_h5_put_i64(h, "worse", s->worse));
    PW_PASS(pw_h5_put_i64(h, "tensors", (int64_t)o->n));
    PW_PASS(pw_h5_put_text(h, "recipe", s->recipe.data, s->recipe.len));
    PW_PASS(pw_h5_put_text(h, "base_hash", s->base_hash, strlen(s->base_hash)));
    PW_PASS(pw_h5_put_text(h, "arithmetic", s->arithmetic, strlen(s->arithmetic)));
    if (s->sums[0])
        PW_PASS(pw_h5_put_text(h, "sums", s->sums, strlen(s->sums)));
    if (s->products_hash[0])
        PW_PASS(pw_h5_put_text(h, "products_hash", s->products_hash, strlen(s->products_hash)));
    return pw_h5_put_text(h, "data_hash", s->data_hash, strlen(s->data_hash));
}

int pw_state_save(const char *path, const struct pw_state *s, struct pw_optim *o, struct pw_dev *dev)
{
    struct pw_h5_out *h = NULL;
    void *host = NULL;
    int rc = 0;
    PW_PASS(pw_optim_settle(o));
    PW_PASS_OUT(host_room(o, dev, &host));
    PW_TRY_OUT(pw_h5_create(&h, path, true), "saving the state");
    rc = put_scalars(h, s, o);
    if (rc == 0)
        rc = put_tensors(h, o, dev, host);
    if (rc == 0)
        rc = pw_h5_commit(h);
    else
        pw_h5_abort(h);
    if (rc < 0)
        rc = pw_error_while(rc, "saving the state of step %lld to %s", (long long)s->step, path);
out:
    pw_free(host);
    return rc;
}

static int get_word(struct pw_h5_in *in, const char *name, char *out, size_t room)
{
    struct pw_buf text = {0};
    int rc = 0;
    PW_PASS_OUT(pw_h5_get_text(in, name, &text));
    PW_CHECK_OUT(text.len < room, PW_E_FORMAT, "%s: expected at most %zu bytes, got %zu", name, room - 1, text.len);
    memcpy(out, text.data ? text.data : "", text.len);
    out[text.len] = 0;
out:
    pw_buf_free(&text);
    return rc;
}

static int get_scalars(struct pw_h5_in *in, struct pw_state *s)
{
    int64_t layout = 0, has_best = 0;
    PW_PASS(pw_h5_get_i64(in, "layout", &layout));
    PW_CHECK(layout == LAYOUT, PW_E_UNSUPPORTED, "layout: expected %d, got %lld", LAYOUT, (long long)layout);
    if (pw_h5_has(in, "ranks"))
        PW_PASS(pw_h5_get_i64(in, "ranks", &s->ranks));
    PW_PASS(pw_h5_get_i64(in, "step", &s->step));
    PW_PASS(pw_h5_get_i64(in, "epoch", &s->epoch));
    PW_PASS(pw_h5_get_i64(in, "pass", &s->pass));
    PW_PASS(pw_h5_get_i64(in, "tokens", &s->tokens));
    PW_PASS(pw_h5_get_i64(in, "trained_tokens", &s->trained_tokens));
    PW_PASS(pw_h5_get_f64(in, "seconds", &s->seconds));
    PW_PASS(pw_h5_get_i64(in, "log_bytes", &s->log_bytes));
    PW_PASS(pw_h5_get_i64(in, "evaluated_step", &s->evaluated_step));
    PW_PASS(pw_h5_get_i64(in, "has_best", &has_best));
    PW_PASS(pw_h5_get_f64(in, "best_loss", &s->best_loss));
    PW_PASS(pw_h5_get_i64(in, "best_step", &s->best_step));
    PW_PASS(pw_h5_get_i64(in, "worse", &s->worse));
    PW_PASS(pw_h5_get_text(in, "recipe", &s->recipe));
    PW_PASS(get_word(in, "base_hash", s->base_hash, sizeof s->base_hash));
    PW_PASS(get_word(in, "data_hash", s->data_hash, sizeof s->data_hash));
    if (pw_h5_has(in, "arithmetic"))
        PW_PASS(get_word(in, "arithmetic", s->arithmetic, sizeof s->arithmetic));
    if (pw_h5_has(in, "sums"))
        PW_PASS(get_word(in, "sums", s->sums, sizeof s->sums));
    if (pw_h5_has(in, "products_hash"))
        PW_PASS(get_word(in, "products_hash", s->products_hash, sizeof s->products_hash));
    s->has_best = has_best != 0;
    PW_CHECK(s->ranks >= 0 && s->ranks <= INT32_MAX, PW_E_FORMAT, "a state of %lld ranks", (long long)s->ranks);
    PW_CHECK(s->step >= 0 && s->epoch >= 0 && s->pass >= 0 && s->log_bytes >= 0, PW_E_FORMAT, "a negative position (step %lld, epoch %lld, pass %lld)",
             (long long)s->step, (long long)s->epoch, (long long)s->pass);
    return 0;
}

int pw_state_read(const char *path, struct pw_state *s)
{
    struct pw_h5_in *in = NULL;
    int rc = 0;
    *s = (struct pw_state){0};
    PW_PASS_OUT(pw_h5_open(&in, path));
    PW_TRY_OUT(get_scalars(in, s), "reading %s", path);
out:
    pw_h5_close(in);
    if (rc < 0)
        pw_state_free(s);
    return rc;
}

int pw_state_restore(const char *path, struct pw_optim *o, struct pw_dev *dev)
{
    struct pw_h5_in *in = NULL;
    void *host = NULL;
    int64_t n = 0;
    int rc = 0;
    PW_PASS_OUT(host_room(o, dev, &host));
    PW_PASS_OUT(pw_h5_open(&in, path));
    PW_TRY_OUT(pw_h5_get_i64(in, "tensors", &n), "reading %s", path);
    PW_CHECK_OUT(n == (int64_t)o->n, PW_E_FORMAT, "%s: expected %zu trained tensors, got %lld", path, o->n, (long long)n);
    PW_TRY_OUT(get_tensors(in, o, dev, host), "reading %s", path);
out:
    pw_h5_close(in);
    pw_free(host);
    return rc;
}

int pw_state_share(struct pw_ranks *ranks, struct pw_optim *o, struct pw_dev *dev, bool averages)
{
    void *host = NULL;
    int rc = pw_ranks_size(ranks) > 1 ? host_room(o, dev, &host) : 0;
    for (size_t i = 0; rc == 0 && pw_ranks_size(ranks) > 1 && i < o->n; i++)
        for (int k = 0; rc == 0 && k < (averages ? PARTS : 1); k++) {
            struct pw_tensor t = part_of(&o->slots[i], &parts[k]);
            if (!t.data)
                continue;
            if (!on_host(o, dev, k) && pw_ranks_rank(ranks) == 0)
                PW_PASS_OUT(pw_dev_get(dev, host, t.data, pw_bytes(t)));
            PW_PASS_OUT(pw_ranks_broadcast(ranks, on_host(o, dev, k) ? t.data : host, pw_bytes(t)));
            if (!on_host(o, dev, k) && pw_ranks_rank(ranks) != 0)
                PW_PASS_OUT(pw_dev_put(dev, t.data, host, pw_bytes(t)));
        }
out:
    pw_free(host);
    return rc;
}

/* ---- a folder of states ---- */

/* "step-123.h5" -> 123; -1 for any other name. */
static int64_t step_of(const char *name)
{
    const char *prefix = "step-", *suffix = ".h5";
    size_t n = strlen(name), p = strlen(prefix), s = strlen(suffix);
    char digits[24];
    int64_t step = -1;
    if (n <= p + s || n - p - s >= sizeof digits || strncmp(name, prefix, p) != 0 || strcmp(name + n - s, suffix) != 0)
        return -1;
    memcpy(digits, name + p, n - p - s);
    digits[n - p - s] = 0;
    return pw_parse_i64(digits, &step) == 0 && step >= 0 ? step : -1;
}

static int newest_first(const void *a, const void *b)
{
    int64_t x = step_of(*(char *const *)a), y = step_of(*(char *const *)b);
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Names of the states of a folder, newest first. */
static int list(struct pw_arena *a, const char *dir, char ***names, size_t *n)
{
    size_t all = 0;
    *names = NULL;
    *n = 0;
    if (!pw_is_dir(dir))
        return 0;
    PW_PASS(pw_dir_list(a, dir, names, &all));
    for (size_t i = 0; i < all; i++)
        if (step_of((*names)[i]) >= 0)
            (*names)[(*n)++] = (*names)[i];
    if (*n > 0)
        qsort(*names, *n, sizeof **names, newest_first);
    return 0;
}

int pw_state_newest(struct pw_arena *a, const char *dir, struct pw_progress *p, const char **path)
{
    char **names = NULL;
    size_t n = 0;
    *path = "";
    PW_PASS(list(a, dir, &names, &n));
    for (size_t i = 0; i < n; i++) {
        struct pw_state s;
        const char *at = pw_path_join(a, dir, names[i]);
        PW_CHECK(at, PW_E_NOMEM, "out of memory");
        int rc = pw_state_read(at, &s);
        if (rc == 0) {
            pw_state_free(&s);
            *path = at;
            return 0;
        }
        if (rc != PW_E_FORMAT && rc != PW_E_IO)
            return rc;
        pw_progress_say(p, "skipping a damaged state: %s", pw_error_text());
    }
    pw_error_clear();
    return 0;
}

int pw_state_prune(const char *dir, int64_t keep)
{
    struct pw_arena a;
    char **names = NULL;
    size_t n = 0;
    int rc = 0;
    pw_arena_init(&a);
    PW_PASS_OUT(list(&a, dir, &names, &n));
    for (size_t i = 0; keep > 0 && i < n; i++)
        if ((int64_t)i >= keep) {
            const char *at = pw_path_join(&a, dir, names[i]);
            PW_CHECK_OUT(at, PW_E_NOMEM, "out of memory");
            PW_CHECK_OUT(unlink(at) == 0, PW_E_IO, "%s: %s", at, strerror(errno));
        }
out:
    pw_arena_free(&a);
    return rc;
}
