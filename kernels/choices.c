/* The list of choices: its file, and measuring (see the header). */
#include "kernels/choices.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/progress.h"
#include "base/value.h"

enum { ENTRIES = 4096, RUNS = 3 };
static const char *const ways[] = { "fused", "decoded" };

int64_t pw_choice_bucket(int64_t rows)
{
    int64_t b = PW_CHOICE_LEAST;
    while (b < rows && b < PW_CHOICE_MOST) b *= 2;
    return b;
}

void pw_choices_free(struct pw_choices *c)
{
    pw_free(c->list);
    memset(c, 0, sizeof *c);
}

static bool same_shape(const struct pw_choice *a, const struct pw_choice *b)
{
    return a->type == b->type && (a->type != PW_Q_DENSE || a->dtype == b->dtype) && a->rows == b->rows && a->n_out == b->n_out && a->n_in == b->n_in;
}

static const struct pw_choice *find(const struct pw_choices *c, const struct pw_choice *like)
{
    for (size_t i = 0; i < c->n; i++)
        if (same_shape(&c->list[i], like)) return &c->list[i];
    return NULL;
}

static int append(struct pw_choices *c, const struct pw_choice *one)
{
    PW_CHECK(c->n < ENTRIES, PW_E_FORMAT, "more than %d choices", ENTRIES);
    if (c->n == c->room) {
        const size_t room = c->room ? 2 * c->room : 16;
        struct pw_choice *list = pw_realloc(c->list, c->room * sizeof *list, room * sizeof *list);
        PW_CHECK(list, PW_E_NOMEM, "out of memory for a list of choices");
        c->list = list;
        c->room = room;
    }
    c->list[c->n++] = *one;
    return 0;
}

static int read_one(struct pw_choice *one, const struct pw_value *v, const char *path)
{
    const char *type = "", *dtype = "", *way = "";
    int found = 0;
    memset(one, 0, sizeof *one);
    PW_CHECK(v->kind == PW_MAP, PW_E_FORMAT, "%s: line %d: expected a choice, got %s", path, v->line, pw_kind_name(v->kind));
    PW_PASS(pw_get_str(v, "type", path, &type));
    PW_PASS(pw_get_str(v, "dtype", path, &dtype));
    PW_PASS(pw_get_str(v, "way", path, &way));
    PW_PASS(pw_get_i64(v, "rows", path, &one->rows));
    PW_PASS(pw_get_i64(v, "n_out", path, &one->n_out));
    PW_PASS(pw_get_i64(v, "n_in", path, &one->n_in));
    PW_PASS(pw_get_f64(v, "fused_s", path, &one->seconds[PW_WAY_FUSED]));
    PW_PASS(pw_get_f64(v, "decoded_s", path, &one->seconds[PW_WAY_DECODED]));
    for (int i = 0; i < PW_QTYPES; i++)
        if (strcmp(pw_qtype_name((enum pw_qtype)i), type) == 0) one->type = (enum pw_qtype)i, found |= 1;
    for (int i = 0; i < PW_DTYPES; i++)
        if (strcmp(pw_dtype_name((enum pw_dtype)i), dtype) == 0) one->dtype = (enum pw_dtype)i, found |= 2;
    for (int i = 0; i < 2; i++)
        if (strcmp(ways[i], way) == 0) one->way = (enum pw_way)i, found |= 4;
    PW_CHECK(found == 7, PW_E_FORMAT, "%s: line %d: expected a type of weights and a way, got \"%s\", \"%s\", \"%s\"", path, v->line, type, dtype, way);
    PW_CHECK(one->rows >= PW_CHOICE_LEAST && one->rows <= PW_CHOICE_MOST && pw_choice_bucket(one->rows) == one->rows, PW_E_FORMAT,
             "%s: line %d: rows: expected a power of two from %d to %d, got %lld", path, v->line, PW_CHOICE_LEAST, PW_CHOICE_MOST, (long long)one->rows);
    PW_CHECK(one->n_out >= 1 && one->n_in >= 1, PW_E_FORMAT, "%s: line %d: expected positive sizes, got (%lld, %lld)", path, v->line, (long long)one->n_out, (long long)one->n_in);
    return 0;
}

static int same_text(const struct pw_value *file, const char *key, const char *path, const char *want)
{
    const char *got = "";
    PW_PASS(pw_get_str(file, key, path, &got));
    PW_CHECK(strcmp(got, want) == 0, PW_E_REFUSED, "%s: %s: expected \"%s\", got \"%s\"", path, key, want, got);
    return 0;
}

static int64_t driver_of(struct pw_dev *dev) { return dev->backend->driver ? dev->backend->driver(dev) : 0; }

int pw_choices_read(struct pw_choices *c, struct pw_dev *dev, const char *path)
{
    struct pw_arena arena;
    struct pw_value *file = NULL;
    int64_t schema = 0, driver = -1;
    int rc = 0;
    memset(c, 0, sizeof *c);
    if (!pw_file_exists(path)) return 0;
    pw_arena_init(&arena);
    PW_PASS_OUT(pw_json_load(&arena, path, &file));
    PW_CHECK_OUT(file->kind == PW_MAP, PW_E_FORMAT, "%s: expected choices of products, got %s", path, pw_kind_name(file->kind));
    PW_PASS_OUT(pw_get_i64(file, "schema", path, &schema));
    PW_CHECK_OUT(schema == 1, PW_E_FORMAT, "%s: schema: expected 1, got %lld", path, (long long)schema);
    PW_PASS_OUT(same_text(file, "version", path, PW_VERSION));
    PW_PASS_OUT(same_text(file, "device", path, dev->level));
    PW_PASS_OUT(pw_get_i64(file, "driver", path, &driver));
    PW_CHECK_OUT(driver == driver_of(dev), PW_E_REFUSED, "%s: driver: expected %lld, got %lld", path, (long long)driver_of(dev), (long long)driver);
    const struct pw_value *list = pw_get(file, "choices");
    PW_CHECK_OUT(list && list->kind == PW_LIST, PW_E_FORMAT, "%s: choices: expected a list", path);
    for (size_t i = 0; i < list->len; i++) {
        struct pw_choice one;
        PW_PASS_OUT(read_one(&one, &list->items[i], path));
        PW_CHECK_OUT(!find(c, &one), PW_E_FORMAT, "%s: line %d: a shape is there twice", path, list->items[i].line);
        PW_TRY_OUT(append(c, &one), "reading %s", path);
    }
out:
    if (rc < 0) pw_choices_free(c);
    pw_arena_free(&arena);
    return rc;
}

int pw_choices_write(const struct pw_choices *c, struct pw_dev *dev, const char *path)
{
    struct pw_json w = { .indent = true };
    pw_json_open(&w, NULL, '{');
    pw_json_i64(&w, "schema", 1);
    pw_json_str(&w, "version", PW_VERSION);
    pw_json_str(&w, "device", dev->level);
    pw_json_i64(&w, "driver", driver_of(dev));
    pw_json_open(&w, "choices", '[');
    for (size_t i = 0; i < c->n; i++) {
        const struct pw_choice *one = &c->list[i];
        pw_json_open(&w, NULL, '{');
        pw_json_str(&w, "type", pw_qtype_name(one->type));
        pw_json_str(&w, "dtype", pw_dtype_name(one->dtype));
        pw_json_i64(&w, "rows", one->rows);
        pw_json_i64(&w, "n_out", one->n_out);
        pw_json_i64(&w, "n_in", one->n_in);
        pw_json_str(&w, "way", ways[one->way]);
        pw_json_f64(&w, "fused_s", one->seconds[PW_WAY_FUSED]);
        pw_json_f64(&w, "decoded_s", one->seconds[PW_WAY_DECODED]);
        pw_json_close(&w, '}');
    }
    pw_json_close(&w, ']');
    pw_json_close(&w, '}');
    int rc = pw_json_status(&w);
    if (rc == 0) rc = pw_file_write(path, w.out.data, w.out.len, true);
    pw_json_free(&w);
    return rc;
}

/* The least of RUNS, after one that makes ready. */
static int time_way(struct pw_dev *dev, struct pw_choice *one, enum pw_way way, const struct pw_weight *w, struct pw_tensor y, struct pw_tensor x)
{
    double least = INFINITY;
    one->way = way;
    dev->backend->choose(dev, one, 1);
    PW_PASS(pw_dev_reserve(dev, pw_scratch_linear(dev, x.shape[0], w, false)));
    for (int i = 0; i <= RUNS; i++) {
        const double begin = pw_seconds();
        PW_PASS(pw_linear_fwd(dev, y, pw_none(), x, w, (struct pw_drop){ 0 }));
        PW_PASS(pw_dev_sync(dev));
        const double seconds = pw_seconds() - begin;
        least = i > 0 && seconds < least ? seconds : least;
    }
    one->seconds[way] = least;
    return 0;
}

int pw_choices_measure(struct pw_choices *c, struct pw_dev *dev, const struct pw_weight *weight, int64_t most_rows)
{
    struct pw_weight w = *weight;
    const int64_t most = pw_choice_bucket(most_rows);
    struct pw_pool pool = { 0 };
    int rc = 0;
    if (!dev->backend->choose || driver_of(dev) == 0) return 0;
    w.lora = NULL;
    for (int64_t rows = PW_CHOICE_LEAST; rows <= most; rows *= 2) {
        struct pw_choice one = { .type = w.type, .dtype = w.dtype, .rows = rows, .n_out = w.n_out, .n_in = w.n_in };
        if (find(c, &one)) continue;
        const size_t each = pw_dtype_bytes(dev->act), x_bytes = (size_t)rows * (size_t)w.n_in * each, y_bytes = (size_t)rows * (size_t)w.n_out * each;
        PW_PASS_OUT(pw_pool_open(&pool, dev, pw_pool_round(x_bytes) + pw_pool_round(y_bytes), "measuring products"));
        const struct pw_tensor x = pw_tensor2(pw_pool_take(&pool, x_bytes), dev->act, rows, w.n_in), y = pw_tensor2(pw_pool_take(&pool, y_bytes), dev->act, rows, w.n_out);
        for (int way = 0; way < 2; way++) PW_TRY_OUT(time_way(dev, &one, (enum pw_way)way, &w, y, x), "measuring a product of %lld rows", (long long)rows);
        one.way = one.seconds[PW_WAY_FUSED] <= one.seconds[PW_WAY_DECODED] ? PW_WAY_FUSED : PW_WAY_DECODED;
        PW_PASS_OUT(append(c, &one));
        pw_pool_close(&pool);
    }
out:
    dev->backend->choose(dev, NULL, 0);
    pw_pool_close(&pool);
    return rc;
}

void pw_choices_use(const struct pw_choices *c, struct pw_dev *dev)
{
    if (dev->backend->choose) dev->backend->choose(dev, c->list, c->n);
}
