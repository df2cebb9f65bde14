/* See runlog.h. */
#include "train/runlog.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/value.h"

int pw_runlog_open(struct pw_runlog *log, const char *path, int64_t keep_bytes)
{
    struct stat st;
    int rc = 0;
    *log = (struct pw_runlog){.path = pw_strdup(path)};
    PW_CHECK(log->path, PW_E_NOMEM, "opening %s: out of memory", path);
    log->f = fopen(path, keep_bytes > 0 ? "r+b" : "wb");
    PW_CHECK_OUT(log->f, PW_E_IO, "%s: %s", path, strerror(errno));
    PW_CHECK_OUT(fstat(fileno(log->f), &st) == 0, PW_E_IO, "%s: %s", path, strerror(errno));
    PW_CHECK_OUT((int64_t)st.st_size >= keep_bytes, PW_E_FORMAT, "%s: the log is shorter than the saved state says (expected %lld bytes, got %lld)", path,
                 (long long)keep_bytes, (long long)st.st_size);
    PW_CHECK_OUT(ftruncate(fileno(log->f), keep_bytes) == 0 && fseek(log->f, 0, SEEK_END) == 0, PW_E_IO, "%s: %s", path, strerror(errno));
out:
    if (rc < 0)
        pw_runlog_close(log);
    return rc;
}

static int put(struct pw_runlog *log, struct pw_json *w)
{
    int rc = 0;
    pw_json_close(w, '}');
    PW_TRY_OUT(pw_json_status(w), "writing %s", log->path);
    bool ok = fwrite(w->out.data, 1, w->out.len, log->f) == w->out.len && fputc('\n', log->f) != EOF && fflush(log->f) == 0;
    PW_CHECK_OUT(ok, PW_E_IO, "%s: %s", log->path, strerror(errno));
out:
    pw_json_free(w);
    return rc;
}

int pw_runlog_step(struct pw_runlog *log, const struct pw_log_step *s)
{
    struct pw_json w = {0};
    pw_json_open(&w, NULL, '{');
    pw_json_i64(&w, "step", s->step);
    pw_json_f64(&w, "loss", s->loss);
    pw_json_f64(&w, "lr", s->lr);
    pw_json_f64(&w, "grad_norm", s->grad_norm);
    pw_json_i64(&w, "tokens", s->tokens);
    pw_json_i64(&w, "trained_tokens", s->trained_tokens);
    pw_json_f64(&w, "tokens_per_s", s->tokens_per_s);
    pw_json_i64(&w, "memory_bytes", (int64_t)s->memory_bytes);
    pw_json_f64(&w, "seconds", s->seconds);
    if (s->sums && s->sums[0]) {
        pw_json_i64(&w, "ranks", s->ranks);
        pw_json_str(&w, "sums", s->sums);
    }
    if (s->has_rewards) {
        pw_json_f64(&w, "reward_accuracy", s->reward_accuracy);
        pw_json_f64(&w, "reward_margin", s->reward_margin);
    }
    return put(log, &w);
}

int pw_runlog_eval(struct pw_runlog *log, int64_t step, double loss)
{
    struct pw_json w = {0};
    pw_json_open(&w, NULL, '{');
    pw_json_i64(&w, "step", step);
    pw_json_f64(&w, "eval_loss", loss);
    return put(log, &w);
}

int pw_runlog_sync(struct pw_runlog *log, int64_t *bytes)
{
    PW_CHECK(fflush(log->f) == 0 && fsync(fileno(log->f)) == 0, PW_E_IO, "%s: %s", log->path, strerror(errno));
    long at = ftell(log->f);
    PW_CHECK(at >= 0, PW_E_IO, "%s: %s", log->path, strerror(errno));
    *bytes = at;
    return 0;
}

void pw_runlog_close(struct pw_runlog *log)
{
    if (log->f)
        fclose(log->f);
    pw_free(log->path);
    *log = (struct pw_runlog){0};
}

/* a: of the parser, for this line alone. */
static int read_line(struct pw_arena *a, const char *text, size_t bytes, const char *path, struct pw_log_line *line)
{
    struct pw_value *v = NULL;
    int64_t memory = 0;
    PW_PASS(pw_json_parse(a, text, bytes, path, &v));
    line->is_eval = pw_get(v, "eval_loss") != NULL;
    PW_PASS(pw_get_i64(v, "step", path, &line->s.step));
    PW_PASS(pw_get_f64(v, line->is_eval ? "eval_loss" : "loss", path, &line->s.loss));
    PW_PASS(pw_get_f64(v, "lr", path, &line->s.lr));
    PW_PASS(pw_get_f64(v, "grad_norm", path, &line->s.grad_norm));
    PW_PASS(pw_get_i64(v, "tokens", path, &line->s.tokens));
    PW_PASS(pw_get_i64(v, "trained_tokens", path, &line->s.trained_tokens));
    PW_PASS(pw_get_f64(v, "tokens_per_s", path, &line->s.tokens_per_s));
    PW_PASS(pw_get_i64(v, "memory_bytes", path, &memory));
    PW_PASS(pw_get_f64(v, "seconds", path, &line->s.seconds));
    line->s.memory_bytes = (uint64_t)memory;
    line->s.has_rewards = pw_get(v, "reward_margin") != NULL;
    PW_PASS(pw_get_f64(v, "reward_accuracy", path, &line->s.reward_accuracy));
    PW_PASS(pw_get_f64(v, "reward_margin", path, &line->s.reward_margin));
    return 0;
}

int pw_runlog_read(struct pw_arena *a, const char *path, struct pw_log_line **lines, size_t *n)
{
    struct pw_buf text = {0};
    struct pw_arena one;
    size_t count = 0;
    int rc = 0;
    pw_arena_init(&one);
    PW_PASS_OUT(pw_file_read(path, 0, &text));
    for (size_t i = 0; i < text.len; i++)
        count += text.data[i] == '\n';
    *lines = pw_arena_array(a, count ? count : 1, sizeof **lines);
    PW_CHECK_OUT(*lines, PW_E_NOMEM, "reading %s: out of memory", path);
    *n = 0;
    for (char *at = text.data, *end; at && *n < count; at = end + 1) {
        end = memchr(at, '\n', text.len - (size_t)(at - text.data));
        pw_arena_reset(&one);
        PW_TRY_OUT(read_line(&one, at, (size_t)(end - at), path, &(*lines)[*n]), "reading line %zu", *n + 1);
        ++*n;
    }
out:
    pw_arena_free(&one);
    pw_buf_free(&text);
    return rc;
}

int pw_runlog_csv(const struct pw_log_line *lines, size_t n, const char *path)
{
    struct pw_buf out = {0};
    int rc = 0;
    bool rewards = false;
    for (size_t i = 0; i < n; i++)
        rewards |= lines[i].s.has_rewards;
    pw_buf_printf(&out, "step,loss,lr,grad_norm,tokens,trained_tokens,tokens_per_s,memory_bytes,seconds,eval_loss%s\n",
                  rewards ? ",reward_accuracy,reward_margin" : "");
    for (size_t i = 0; i < n; i++) {
        const struct pw_log_step *s = &lines[i].s;
        char a[32], b[32], c[32], d[32], e[32];
        pw_format_f64(a, s->loss);
        if (lines[i].is_eval) {
            pw_buf_printf(&out, "%lld,,,,,,,,,%s%s\n", (long long)s->step, a, rewards ? ",," : "");
            continue;
        }
        pw_format_f64(b, s->lr);
        pw_format_f64(c, s->grad_norm);
        pw_format_f64(d, s->tokens_per_s);
        pw_format_f64(e, s->seconds);
        pw_buf_printf(&out, "%lld,%s,%s,%s,%lld,%lld,%s,%llu,%s,", (long long)s->step, a, b, c, (long long)s->tokens, (long long)s->trained_tokens, d,
                      (unsigned long long)s->memory_bytes, e);
        pw_format_f64(a, s->reward_accuracy);
        pw_format_f64(b, s->reward_margin);
        if (rewards)
            pw_buf_printf(&out, ",%s,%s", s->has_rewards ? a : "", s->has_rewards ? b : "");
        pw_buf_char(&out, '\n');
    }
    PW_PASS_OUT(pw_buf_status(&out));
    PW_PASS_OUT(pw_file_write(path, out.data, out.len, true));
out:
    pw_buf_free(&out);
    return rc;
}
