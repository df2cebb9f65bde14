/* The row cache: arrays of tokenised rows to and from HDF5. */
#include "data/cache.h"

#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "data/h5.h"

static int grow(void **array, int64_t used, int64_t cap, size_t size)
{
    size_t old_bytes, bytes;
    PW_CHECK(pw_mul_size((size_t)used, size, &old_bytes) && pw_mul_size((size_t)cap, size, &bytes), PW_E_NOMEM, "too many tokens");
    void *p = pw_realloc(*array, old_bytes, bytes);
    PW_CHECK(p, PW_E_NOMEM, "no memory for %zu bytes of rows", bytes);
    *array = p;
    return 0;
}

static int reserve(struct pw_cache_rows *r, int64_t rows, int64_t tokens)
{
    if (!r->row_start || rows > r->cap_rows) {
        int64_t cap = rows + rows / 2 + 64;
        PW_PASS(grow((void **)&r->row_start, r->row_start ? r->n_rows + 1 : 0, cap + 1, sizeof *r->row_start));
        PW_PASS(grow((void **)&r->row_line, r->n_rows, cap, sizeof *r->row_line));
        PW_PASS(grow((void **)&r->row_label, r->n_rows, cap, sizeof *r->row_label));
        r->row_start[r->n_rows] = r->n_tokens;
        r->cap_rows = cap;
    }
    if (tokens > r->cap_tokens) {
        int64_t cap = tokens + tokens / 2 + 1024;
        PW_PASS(grow((void **)&r->ids, r->n_tokens, cap, sizeof *r->ids));
        PW_PASS(grow((void **)&r->trained, r->n_tokens, cap, sizeof *r->trained));
        if (r->weight)
            PW_PASS(grow((void **)&r->weight, r->n_tokens, cap, sizeof *r->weight));
        r->cap_tokens = cap;
    }
    return 0;
}

/* The rows before had none to say: they count 1. */
static int begin_weights(struct pw_cache_rows *r)
{
    PW_PASS(grow((void **)&r->weight, 0, r->cap_tokens, sizeof *r->weight));
    for (int64_t i = 0; i < r->n_tokens; i++)
        r->weight[i] = 1;
    return 0;
}

int pw_cache_rows_add(struct pw_cache_rows *r, const int32_t *ids, const uint8_t *trained, const float *weight, int64_t n, int64_t line, uint8_t label)
{
    PW_PASS(reserve(r, r->n_rows + 1, r->n_tokens + n));
    memcpy(r->ids + r->n_tokens, ids, (size_t)n * sizeof *ids);
    memcpy(r->trained + r->n_tokens, trained, (size_t)n);
    if (weight && !r->weight)
        PW_PASS(begin_weights(r));
    for (int64_t i = 0; r->weight && i < n; i++)
        r->weight[r->n_tokens + i] = weight ? weight[i] : 1;
    r->n_tokens += n;
    r->row_label[r->n_rows] = label;
    r->row_line[r->n_rows++] = line;
    r->row_start[r->n_rows] = r->n_tokens;
    return 0;
}

void pw_cache_rows_drop_last(struct pw_cache_rows *r)
{
    r->n_tokens = r->row_start[--r->n_rows];
}

void pw_cache_rows_free(struct pw_cache_rows *r)
{
    pw_free(r->ids);
    pw_free(r->trained);
    pw_free(r->weight);
    pw_free(r->row_start);
    pw_free(r->row_line);
    pw_free(r->row_label);
    pw_buf_free(&r->warnings);
    *r = (struct pw_cache_rows){0};
}

static int cache_path(struct pw_buf *path, const char *dir, const char *key)
{
    pw_buf_printf(path, "%s/%.32s.h5", dir, key);
    return pw_buf_status(path);
}

/* What the arrays must satisfy whatever the file says. */
static int check_rows(const struct pw_cache_rows *r, const char *path)
{
    PW_CHECK(r->row_start[0] == 0 && r->row_start[r->n_rows] == r->n_tokens, PW_E_FORMAT, "%s: row starts do not span the tokens", path);
    for (int64_t i = 0; i < r->n_rows; i++) {
        PW_CHECK(r->row_start[i] < r->row_start[i + 1], PW_E_FORMAT, "%s: row %" PRId64 " is empty", path, i);
        PW_CHECK(r->trained[r->row_start[i]] == 0, PW_E_FORMAT, "%s: row %" PRId64 " trains its first token", path, i);
        for (int64_t k = r->row_start[i]; r->weight && k < r->row_start[i + 1]; k++)
            PW_CHECK(r->weight[k] > 0 && r->weight[k] <= 1e6f, PW_E_FORMAT, "%s: row %" PRId64 " has a token of weight %g", path, i, (double)r->weight[k]);
        PW_CHECK(r->row_label[i] <= 1, PW_E_FORMAT, "%s: row %" PRId64 " has label %d", path, i, r->row_label[i]);
    }
    PW_CHECK((r->per == 1 || r->per == 2) && r->n_rows % r->per == 0, PW_E_FORMAT, "%s: %" PRId64 " rows in examples of %" PRId64, path, r->n_rows, r->per);
    return 0;
}

static int read_rows(struct pw_cache_rows *r, struct pw_h5_in *in, const char *path, const char *key, const char *source_sha256)
{
    struct pw_buf text = {0};
    int rc = 0, rank;
    int64_t shape[PW_H5_MAX_RANK];
    PW_PASS_OUT(pw_h5_get_text(in, "key", &text));
    PW_CHECK_OUT(strcmp(text.data ? text.data : "", key) == 0, PW_E_FORMAT, "%s: made for another key", path);
    PW_PASS_OUT(pw_h5_get_text(in, "source_sha256", &text));
    PW_CHECK_OUT(strcmp(text.data ? text.data : "", source_sha256) == 0, PW_E_FORMAT, "%s: made from another source file", path);
    PW_PASS_OUT(pw_h5_shape(in, "ids", PW_H5_I32, &rank, shape));
    int64_t tokens = rank == 1 ? shape[0] : -1;
    PW_PASS_OUT(pw_h5_shape(in, "row_line", PW_H5_I64, &rank, shape));
    int64_t rows = rank == 1 ? shape[0] : -1;
    PW_CHECK_OUT(tokens >= 0 && rows >= 0, PW_E_FORMAT, "%s: ids and row_line must have one dimension", path);
    PW_PASS_OUT(reserve(r, rows, tokens));
    PW_PASS_OUT(pw_h5_get_1d(in, "ids", PW_H5_I32, r->ids, tokens));
    PW_PASS_OUT(pw_h5_get_1d(in, "trained", PW_H5_U8, r->trained, tokens));
    PW_PASS_OUT(pw_h5_get_1d(in, "row_start", PW_H5_I64, r->row_start, rows + 1));
    PW_PASS_OUT(pw_h5_get_1d(in, "row_line", PW_H5_I64, r->row_line, rows));
    int64_t labelled = 0, weighted = 0;
    PW_PASS_OUT(pw_h5_get_i64(in, "weighted", &weighted));
    if (weighted) {
        PW_PASS_OUT(grow((void **)&r->weight, 0, r->cap_tokens, sizeof *r->weight));
        PW_PASS_OUT(pw_h5_get_1d(in, "weight", PW_H5_F32, r->weight, tokens));
    }
    PW_PASS_OUT(pw_h5_get_1d(in, "row_label", PW_H5_U8, r->row_label, rows));
    PW_PASS_OUT(pw_h5_get_i64(in, "per", &r->per));
    PW_PASS_OUT(pw_h5_get_i64(in, "labelled", &labelled));
    r->labelled = labelled != 0;
    PW_PASS_OUT(pw_h5_get_i64(in, "truncated", &r->truncated));
    PW_PASS_OUT(pw_h5_get_i64(in, "dropped", &r->dropped));
    PW_PASS_OUT(pw_h5_get_text(in, "warnings", &r->warnings));
    r->n_rows = rows;
    r->n_tokens = tokens;
    PW_PASS_OUT(check_rows(r, path));
out:
    pw_buf_free(&text);
    return rc;
}

int pw_cache_load(struct pw_cache_rows *r, const char *dir, const char *key, const char *source_sha256, struct pw_progress *p)
{
    struct pw_buf path = {0};
    struct pw_h5_in *in = NULL;
    int rc = 0;
    PW_PASS_OUT(cache_path(&path, dir, key));
    if (!pw_file_exists(path.data))
        goto out;
    rc = pw_h5_open(&in, path.data);
    if (rc == 0)
        rc = read_rows(r, in, path.data, key, source_sha256);
    if (rc == 0) {
        rc = 1;
    } else if (rc == PW_E_FORMAT || rc == PW_E_IO) {
        pw_progress_say(p, "cached rows cannot be used and are made again: %s", pw_error_text());
        pw_error_clear();
        pw_cache_rows_free(r);
        rc = 0;
    }
out:
    pw_h5_close(in);
    pw_buf_free(&path);
    return rc;
}

int pw_cache_store(const struct pw_cache_rows *r, const char *dir, const char *key, const char *source_sha256)
{
    struct pw_buf path = {0};
    struct pw_h5_out *h = NULL;
    int rc = 0;
    PW_PASS_OUT(pw_dir_make(dir));
    PW_PASS_OUT(cache_path(&path, dir, key));
    PW_PASS_OUT(pw_h5_create(&h, path.data, true));
    PW_PASS_OUT(pw_h5_put_text(h, "key", key, strlen(key)));
    PW_PASS_OUT(pw_h5_put_text(h, "source_sha256", source_sha256, strlen(source_sha256)));
    PW_PASS_OUT(pw_h5_put_1d(h, "ids", PW_H5_I32, r->ids, r->n_tokens));
    PW_PASS_OUT(pw_h5_put_1d(h, "trained", PW_H5_U8, r->trained, r->n_tokens));
    PW_PASS_OUT(pw_h5_put_1d(h, "row_start", PW_H5_I64, r->row_start, r->n_rows + 1));
    PW_PASS_OUT(pw_h5_put_1d(h, "row_line", PW_H5_I64, r->row_line, r->n_rows));
    PW_PASS_OUT(pw_h5_put_1d(h, "row_label", PW_H5_U8, r->row_label, r->n_rows));
    PW_PASS_OUT(pw_h5_put_i64(h, "weighted", r->weight != NULL));
    if (r->weight)
        PW_PASS_OUT(pw_h5_put_1d(h, "weight", PW_H5_F32, r->weight, r->n_tokens));
    PW_PASS_OUT(pw_h5_put_i64(h, "per", r->per));
    PW_PASS_OUT(pw_h5_put_i64(h, "labelled", r->labelled));
    PW_PASS_OUT(pw_h5_put_i64(h, "truncated", r->truncated));
    PW_PASS_OUT(pw_h5_put_i64(h, "dropped", r->dropped));
    PW_PASS_OUT(pw_h5_put_text(h, "warnings", r->warnings.len ? r->warnings.data : "", r->warnings.len));
    rc = pw_h5_commit(h);
    h = NULL;
out:
    pw_h5_abort(h);
    pw_buf_free(&path);
    return rc;
}
