/* Models in several GGUF files, as llama.cpp's gguf-split writes them: NAME-00001-of-0000N.gguf and so on. The first holds all keys; each says
 * split.no (from 0) and split.count, and the first split.tensors.count, of all files. Owns names and what must agree; the files themselves
 * are read by gguf.c. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/gguf.h"

enum { MOST = 1024 };

/* "dir/x-00001-of-00003.gguf" -> the length of "dir/x" */
static int stem(const struct pw_gguf *g, int64_t count, size_t *n)
{
    char tail[40];
    snprintf(tail, sizeof tail, "-00001-of-%05" PRId64 ".gguf", count);
    const size_t len = strlen(g->path), t = strlen(tail);
    PW_CHECK(len > t && strcmp(g->path + len - t, tail) == 0, PW_E_FORMAT, "%s: split.count: the first of %" PRId64 " files, expected to be named NAME%s", g->path, count, tail);
    *n = len - t;
    return 0;
}

static int by_name(const void *x, const void *y)
{
    return strcmp((*(const struct pw_gguf_tensor *const *)x)->name, (*(const struct pw_gguf_tensor *const *)y)->name);
}

static int unique(struct pw_gguf *g)
{
    const struct pw_gguf_tensor **list = pw_arena_array(&g->arena, g->n_tensors + 1, sizeof *list);
    PW_CHECK(list, PW_E_NOMEM, "%s: no memory", g->path);
    for (size_t i = 0; i < g->n_tensors; i++)
        list[i] = &g->tensors[i];
    qsort(list, g->n_tensors, sizeof *list, by_name);
    for (size_t i = 1; i < g->n_tensors; i++)
        PW_CHECK(strcmp(list[i - 1]->name, list[i]->name) != 0, PW_E_FORMAT, "%s: tensor %s is in two of the files", g->path, list[i]->name);
    return 0;
}

static int open_part(struct pw_gguf *g, size_t stem_bytes, int64_t i, int64_t count)
{
    int64_t no = -1, parts = -1;
    const char *path = pw_arena_printf(&g->arena, "%.*s-%05" PRId64 "-of-%05" PRId64 ".gguf", (int)stem_bytes, g->path, i + 1, count);
    PW_CHECK(path, PW_E_NOMEM, "%s: no memory", g->path);
    PW_CHECK(pw_file_exists(path), PW_E_IO, "%s: no such file: part %" PRId64 " of %" PRId64 " of the model", path, i + 1, count);
    struct pw_gguf *part = &g->parts[g->n_parts];
    PW_PASS(pw_gguf_open(part, path));
    g->n_parts++;
    PW_PASS(pw_gguf_get_i64(part, "split.no", true, 0, INT32_MAX, &no));
    PW_PASS(pw_gguf_get_i64(part, "split.count", true, 0, INT32_MAX, &parts));
    PW_CHECK(no == i && parts == count, PW_E_FORMAT, "%s: expected part %" PRId64 " of %" PRId64 ", it says %" PRId64 " of %" PRId64, path, i + 1, count, no + 1, parts);
    return 0;
}

int pw_gguf_join(struct pw_gguf *g)
{
    int64_t count = 1, no = 0, total = -1;
    size_t n = 0, bytes = 0;
    PW_PASS(pw_gguf_get_i64(g, "split.count", false, 0, MOST, &count));
    PW_PASS(pw_gguf_get_i64(g, "split.no", false, 0, INT32_MAX, &no));
    PW_PASS(pw_gguf_get_i64(g, "split.tensors.count", false, 0, INT32_MAX, &total));
    if (count <= 1)
        return 0;
    if (no != 0) {
        const int rc = pw_error(PW_E_REFUSED, "%s: part %" PRId64 " of a model in %" PRId64 " files", g->path, no + 1, count);
        pw_error_hint("give the first, NAME-00001-of-%05" PRId64 ".gguf: the others are found beside it", count);
        return rc;
    }
    PW_PASS(stem(g, count, &bytes));
    g->parts = pw_arena_array(&g->arena, (size_t)count, sizeof *g->parts);
    PW_CHECK(g->parts, PW_E_NOMEM, "%s: no memory", g->path);
    for (int64_t i = 1; i < count; i++)
        PW_PASS(open_part(g, bytes, i, count));
    n = g->n_tensors;
    for (size_t i = 0; i < g->n_parts; i++)
        n += g->parts[i].n_tensors;
    PW_CHECK(total < 0 || (size_t)total == n, PW_E_FORMAT, "%s: split.tensors.count: expected %" PRId64 " tensors in all files, got %zu", g->path, total, n);
    struct pw_gguf_tensor *all = pw_arena_array(&g->arena, n + 1, sizeof *all);
    PW_CHECK(all, PW_E_NOMEM, "%s: no memory", g->path);
    if (g->n_tensors)
        memcpy(all, g->tensors, g->n_tensors * sizeof *all);
    n = g->n_tensors;
    for (size_t i = 0; i < g->n_parts; i++)
        for (size_t k = 0; k < g->parts[i].n_tensors; k++) {
            all[n] = g->parts[i].tensors[k];
            all[n++].file = g->parts[i].path;
        }
    g->tensors = all;
    g->n_tensors = n;
    return unique(g);
}
