/* Paired comparison of two result documents (see the header). */
#include "eval/compare.h"

#include <string.h>

#include "base/error.h"

struct row { const char *task, *adapter, *metric, *hits, *docs, *scores; size_t n; };

static int read_row(struct row *r, const struct pw_value *v, const char *path)
{
    const struct pw_value *hits = pw_get(v, "hits");
    memset(r, 0, sizeof *r);
    PW_PASS(pw_get_str(v, "task", path, &r->task));
    PW_PASS(pw_get_str(v, "adapter", path, &r->adapter));
    PW_PASS(pw_get_str(v, "docs_hash", path, &r->docs));
    PW_PASS(pw_get_str(v, "scores_hash", path, &r->scores));
    PW_CHECK(r->task && r->docs && r->scores && hits && hits->kind == PW_MAP && hits->len > 0 && hits->members[0].value.kind == PW_STRING,
             PW_E_FORMAT, "%s: a row of results lacks task, hits, docs_hash or scores_hash: no result document of 'pw eval run'", path);
    r->metric = hits->members[0].key;
    r->hits = hits->members[0].value.s;
    r->n = hits->members[0].value.len;
    for (size_t i = 0; i < r->n; i++)
        PW_CHECK(r->hits[i] == '0' || r->hits[i] == '1', PW_E_FORMAT, "%s: task %s: hits: expected 0 and 1", path, r->task);
    return 0;
}

static int read_rows(struct pw_arena *a, const char *path, bool prefer_adapter, struct row **rows, size_t *n)
{
    struct pw_value *doc;
    size_t with = 0;
    PW_TRY(pw_json_load(a, path, &doc), "reading the result document %s", path);
    const struct pw_value *list = pw_get(doc, "results");
    PW_CHECK(list && list->kind == PW_LIST && list->len > 0, PW_E_FORMAT, "%s: no results: not a result document of 'pw eval run'", path);
    struct row *all = pw_arena_array(a, list->len, sizeof *all);
    PW_CHECK(all, PW_E_NOMEM, "out of memory");
    for (size_t i = 0; i < list->len; i++) {
        PW_PASS(read_row(&all[i], &list->items[i], path));
        with += all[i].adapter != NULL;
    }
    bool mixed = with > 0 && with < list->len;
    *n = 0;
    for (size_t i = 0; i < list->len; i++)
        if (!mixed || (all[i].adapter != NULL) == prefer_adapter)
            all[(*n)++] = all[i];
    *rows = all;
    return 0;
}

int pw_compare_files(struct pw_comparisons *c, const char *base_path, const char *other_path)
{
    struct row *base, *other;
    size_t n_base, n_other, total = 0;
    struct pw_buf all_base = {0}, all_other = {0};
    int rc = 0;
    memset(c, 0, sizeof *c);
    pw_arena_init(&c->arena);
    PW_PASS_OUT(read_rows(&c->arena, base_path, false, &base, &n_base));
    PW_PASS_OUT(read_rows(&c->arena, other_path, true, &other, &n_other));
    c->items = pw_arena_array(&c->arena, n_other, sizeof *c->items);
    PW_CHECK_OUT(c->items, PW_E_NOMEM, "out of memory");
    c->no_effect = true;
    for (size_t i = 0; i < n_other; i++)
        for (size_t k = 0; k < n_base; k++) {
            const struct row *x = &base[k], *y = &other[i];
            if (strcmp(x->task, y->task) != 0)
                continue;
            PW_CHECK_OUT(x->n == y->n && strcmp(x->docs, y->docs) == 0, PW_E_FAIL,
                         "task %s: %s and %s were scored on different documents or prompts (%zu and %zu)", x->task, base_path, other_path, x->n, y->n);
            PW_CHECK_OUT(strcmp(x->metric, y->metric) == 0, PW_E_FAIL, "task %s: metrics %s and %s", x->task, x->metric, y->metric);
            struct pw_comparison *p = &c->items[c->n++];
            *p = (struct pw_comparison){.task = y->task, .metric = y->metric, .adapter = y->adapter, .p = pw_paired_flags(x->hits, y->hits, (int64_t)x->n),
                                        .same_scores = strcmp(x->scores, y->scores) == 0};
            c->no_effect &= p->same_scores;
            pw_buf_add(&all_base, x->hits, x->n);
            pw_buf_add(&all_other, y->hits, y->n);
            total += x->n;
            break;
        }
    PW_CHECK_OUT(c->n > 0, PW_E_FAIL, "%s and %s have no task in common", base_path, other_path);
    PW_PASS_OUT(pw_buf_status(&all_base));
    PW_PASS_OUT(pw_buf_status(&all_other));
    c->all = pw_paired_flags(all_base.data, all_other.data, (int64_t)total);
    c->verdict = c->no_effect ? "no effect" : c->all.p_value >= 0.05 ? "no difference shown" : c->all.difference > 0 ? "better" : "worse";
out:
    pw_buf_free(&all_base);
    pw_buf_free(&all_other);
    if (rc < 0)
        pw_compare_free(c);
    return rc;
}

static void paired_json(struct pw_json *w, const struct pw_paired *p)
{
    pw_json_i64(w, "n", p->n);
    pw_json_f64(w, "base", p->base);
    pw_json_f64(w, "other", p->other);
    pw_json_f64(w, "difference", p->difference);
    pw_json_f64(w, "stderr", p->stderr_);
    pw_json_f64(w, "low", p->low);
    pw_json_f64(w, "high", p->high);
    pw_json_f64(w, "p_value", p->p_value);
    pw_json_i64(w, "flipped", p->base_only + p->other_only);
    pw_json_i64(w, "gained", p->other_only);
    pw_json_i64(w, "lost", p->base_only);
}

void pw_compare_json(const struct pw_comparisons *c, struct pw_json *w)
{
    pw_json_open(w, "tasks", '[');
    for (size_t i = 0; i < c->n; i++) {
        pw_json_open(w, NULL, '{');
        pw_json_str(w, "task", c->items[i].task);
        pw_json_str(w, "metric", c->items[i].metric);
        pw_json_str(w, "adapter", c->items[i].adapter);
        paired_json(w, &c->items[i].p);
        pw_json_close(w, '}');
    }
    pw_json_close(w, ']');
    pw_json_open(w, "all", '{');
    paired_json(w, &c->all);
    pw_json_close(w, '}');
    pw_json_str(w, "verdict", c->verdict);
}

void pw_compare_table(const struct pw_comparisons *c, struct pw_buf *out)
{
    pw_buf_printf(out, "| %-40s | %-8s | %6s | %7s | %7s | %8s | %-20s | %8s | %-12s |\n", "task", "metric", "n", "base", "other", "change", "95 %",
                  "p", "gained/lost");
    for (size_t i = 0; i <= c->n; i++) {
        const struct pw_paired *p = i < c->n ? &c->items[i].p : &c->all;
        if (i == c->n && c->n == 1)
            break;
        pw_buf_printf(out, "| %-40s | %-8s | %6lld | %7.4f | %7.4f | %+8.4f | %+.4f to %+.4f | %8.2g | %5lld/%-6lld |\n", i < c->n ? c->items[i].task : "all",
                      i < c->n ? c->items[i].metric : "", (long long)p->n, p->base, p->other, p->difference, p->low, p->high, p->p_value,
                      (long long)p->other_only, (long long)p->base_only);
    }
    pw_buf_printf(out, "verdict: %s\n", c->verdict);
    if (c->no_effect)
        pw_buf_str(out, "Every score is the same to the last digit: the adapter was not active, or the two results are of one model.\n");
}

void pw_compare_free(struct pw_comparisons *c)
{
    pw_arena_free(&c->arena);
    memset(c, 0, sizeof *c);
}
