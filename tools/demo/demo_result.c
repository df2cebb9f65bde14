/* Sums the demo up: reads what the pw commands wrote, writes the scenario of the audience and demo/result.json.
 *
 * demo quality BASE TUNED SHUFFLED          the share of right answers of the three entries, as YAML for `pw vote simulate`
 * demo result BASE TUNED SHUFFLED RANK SECONDS OUT
 *                                           the result document. When OUT is there and differs in nothing but the time it took, it stays as it
 *                                           is: the demo is run again to see that it gives the same bytes. */
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/value.h"
#include "tools/demo/demo.h"

struct score { double acc, stderr_; int64_t n; };

static int read_score(struct pw_arena *a, const char *path, struct score *s)
{
    struct pw_value *doc;
    PW_PASS(pw_json_load(a, path, &doc));
    const struct pw_value *rows = pw_get(doc, "results");
    PW_CHECK(rows && rows->kind == PW_LIST && rows->len == 1, PW_E_FORMAT, "%s: expected one row of results", path);
    const struct pw_value *metrics = pw_get(&rows->items[0], "metrics"), *acc = metrics ? pw_get(metrics, "acc") : NULL;
    PW_CHECK(acc, PW_E_FORMAT, "%s: no acc", path);
    PW_PASS(pw_get_f64(acc, "value", path, &s->acc));
    PW_PASS(pw_get_f64(acc, "stderr", path, &s->stderr_));
    return pw_get_i64(&rows->items[0], "n", path, &s->n);
}

static void score_json(struct pw_json *w, const char *key, const struct score *s)
{
    pw_json_open(w, key, '{');
    pw_json_f64(w, "acc", s->acc);
    pw_json_f64(w, "stderr", s->stderr_);
    pw_json_i64(w, "n", s->n);
    pw_json_close(w, '}');
}

/* The document; seconds < 0 leaves the time out, for comparing. */
static int write_document(struct pw_buf *out, const struct score s[3], const struct pw_value *ranking, double seconds)
{
    struct pw_json w = {.indent = true};
    pw_json_open(&w, NULL, '{');
    pw_json_i64(&w, "schema", 1);
    score_json(&w, "base", &s[0]);
    score_json(&w, "adapter", &s[1]);
    score_json(&w, "shuffled", &s[2]);
    pw_json_value(&w, "ranking", ranking);
    if (seconds >= 0)
        pw_json_f64(&w, "seconds", seconds);
    pw_json_close(&w, '}');
    int rc = pw_json_status(&w);
    pw_buf_clear(out);
    pw_buf_add(out, w.out.data, w.out.len);
    pw_buf_char(out, '\n');
    pw_json_free(&w);
    return rc < 0 ? rc : pw_buf_status(out);
}

static int read_before(struct pw_arena *a, const char *path, struct score s[3], double *seconds, const struct pw_value **ranking)
{
    static const char *const keys[3] = {"base", "adapter", "shuffled"};
    struct pw_value *doc;
    PW_PASS(pw_json_load(a, path, &doc));
    for (int i = 0; i < 3; i++) {
        const struct pw_value *v = pw_get(doc, keys[i]);
        PW_CHECK(v, PW_E_FORMAT, "%s: no %s", path, keys[i]);
        PW_PASS(pw_get_f64(v, "acc", path, &s[i].acc));
        PW_PASS(pw_get_f64(v, "stderr", path, &s[i].stderr_));
        PW_PASS(pw_get_i64(v, "n", path, &s[i].n));
    }
    *ranking = pw_get(doc, "ranking");
    PW_CHECK(*ranking, PW_E_FORMAT, "%s: no ranking", path);
    return pw_get_f64(doc, "seconds", path, seconds);
}

static int result(struct pw_arena *a, char **argv, const struct score s[3])
{
    struct pw_buf now = {0}, before = {0};
    struct score old[3];
    struct pw_value *rank;
    const struct pw_value *old_ranking = NULL;
    double seconds = 0, old_seconds = 0;
    int rc = 0;
    PW_PASS_OUT(pw_json_load(a, argv[4], &rank));
    const struct pw_value *entries = pw_get(rank, "entries");
    PW_CHECK_OUT(entries && pw_parse_f64(argv[5], &seconds) == 0 && seconds >= 0, PW_E_FORMAT, "%s: no entries, or no number of seconds", argv[4]);
    PW_PASS_OUT(write_document(&now, s, entries, -1));
    if (pw_file_exists(argv[6]) && read_before(a, argv[6], old, &old_seconds, &old_ranking) == 0) {
        PW_PASS_OUT(write_document(&before, old, old_ranking, -1));
        if (before.len == now.len && memcmp(before.data, now.data, now.len) == 0) {
            printf("%s: the same as before, byte for byte\n", argv[6]);
            goto out;
        }
    }
    pw_error_clear();
    PW_PASS_OUT(write_document(&now, s, entries, seconds));
    rc = pw_file_write(argv[6], now.data, now.len, true);
out:
    pw_buf_free(&now);
    pw_buf_free(&before);
    return rc;
}

int pw_demo_result(int argc, char **argv)
{
    struct score s[3];
    struct pw_arena a;
    bool quality = strcmp(argv[0], "quality") == 0;
    int rc = 0;
    if (argc != (quality ? 4 : 7))
        return 2;
    pw_arena_init(&a);
    for (int i = 0; i < 3; i++)
        PW_PASS_OUT(read_score(&a, argv[i + 1], &s[i]));
    if (quality)
        printf("  base: %.6f\n  adapter: %.6f\n  shuffled: %.6f\n", s[0].acc, s[1].acc, s[2].acc);
    else
        PW_PASS_OUT(result(&a, argv, s));
out:
    pw_arena_free(&a);
    return rc;
}
