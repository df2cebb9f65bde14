/* The list of choices: its file, and measuring (see the header). */
#include "kernels/choices.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/value.h"

enum { ENTRIES = 4096, RUNS = 3, SCHEMA = 3 };
static const char *const ways[] = { "fused", "decoded" }, *const passes[] = { "forward", "backward" }, *const attn_ways[] = { "ours", "library" };

int64_t pw_choice_bucket(int64_t rows)
{
    int64_t b = PW_CHOICE_LEAST;
    while (b < rows && b < PW_CHOICE_MOST) b *= 2;
    return b;
}

void pw_choices_free(struct pw_choices *c)
{
    pw_free(c->list);
    pw_free(c->attn);
    memset(c, 0, sizeof *c);
}

static bool same_shape(const struct pw_choice *a, const struct pw_choice *b)
{
    return a->backward == b->backward && a->type == b->type && (a->type != PW_Q_DENSE || a->dtype == b->dtype) && a->rows == b->rows && a->n_out == b->n_out && a->n_in == b->n_in;
}

static const struct pw_choice *find(const struct pw_choices *c, const struct pw_choice *like)
{
    for (size_t i = 0; i < c->n; i++)
        if (same_shape(&c->list[i], like)) return &c->list[i];
    return NULL;
}

static bool find_attn(const struct pw_choices *c, const struct pw_attn_shape *shape)
{
    for (size_t i = 0; i < c->n_attn; i++)
        if (pw_attn_shape_same(&c->attn[i].shape, shape)) return true;
    return false;
}

/* Room for one more element of `each` bytes. */
static int grow(void **list, size_t n, size_t *room, size_t each)
{
    PW_CHECK(n < ENTRIES, PW_E_FORMAT, "more than %d choices", ENTRIES);
    if (n < *room) return 0;
    const size_t more = *room ? 2 * *room : 16;
    void *grown = pw_realloc(*list, *room * each, more * each);
    PW_CHECK(grown, PW_E_NOMEM, "out of memory for a list of choices");
    *list = grown;
    *room = more;
    return 0;
}
static int append(struct pw_choices *c, const struct pw_choice *one)
{
    void *list = c->list;
    PW_PASS(grow(&list, c->n, &c->room, sizeof *one));
    c->list = list;
    c->list[c->n++] = *one;
    return 0;
}
static int append_attn(struct pw_choices *c, const struct pw_attn_choice *one)
{
    void *list = c->attn;
    PW_PASS(grow(&list, c->n_attn, &c->room_attn, sizeof *one));
    c->attn = list;
    c->attn[c->n_attn++] = *one;
    return 0;
}

static int read_one(struct pw_choice *one, const struct pw_value *v, const char *path)
{
    const char *pass = "", *type = "", *dtype = "", *way = "";
    int found = 0;
    memset(one, 0, sizeof *one);
    PW_CHECK(v->kind == PW_MAP, PW_E_FORMAT, "%s: line %d: expected a choice, got %s", path, v->line, pw_kind_name(v->kind));
    PW_PASS(pw_get_str(v, "pass", path, &pass));
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
    for (int i = 0; i < 2; i++)
        if (strcmp(passes[i], pass) == 0) one->backward = i == 1, found |= 8;
    PW_CHECK(found == 15, PW_E_FORMAT, "%s: line %d: expected a pass, a type of weights and a way, got \"%s\", \"%s\", \"%s\", \"%s\"", path, v->line, pass, type, dtype, way);
    PW_CHECK(one->rows >= PW_CHOICE_LEAST && one->rows <= PW_CHOICE_MOST && pw_choice_bucket(one->rows) == one->rows, PW_E_FORMAT,
             "%s: line %d: rows: expected a power of two from %d to %d, got %lld", path, v->line, PW_CHOICE_LEAST, PW_CHOICE_MOST, (long long)one->rows);
    PW_CHECK(one->n_out >= 1 && one->n_in >= 1, PW_E_FORMAT, "%s: line %d: expected positive sizes, got (%lld, %lld)", path, v->line, (long long)one->n_out, (long long)one->n_in);
    return 0;
}

/* A name of `names` as its number. */
static int read_name(const struct pw_value *v, const char *key, const char *path, const char *const *names, int n, int *out)
{
    const char *text = "";
    PW_PASS(pw_get_str(v, key, path, &text));
    for (*out = 0; *out < n; ++*out)
        if (strcmp(names[*out], text) == 0) return 0;
    return pw_error(PW_E_FORMAT, "%s: line %d: %s: expected %s or %s, got \"%s\"", path, v->line, key, names[0], names[1], text);
}

static int read_attn(struct pw_attn_choice *one, const struct pw_value *v, const char *path)
{
    static const char *const keys[] = { "heads", "kv_heads", "head_dim", "sequences", "rows", "window" };
    struct pw_attn_shape same;
    int64_t n[6] = { 0 };
    int way = 0;
    double softcap = 0;
    memset(one, 0, sizeof *one);
    PW_CHECK(v->kind == PW_MAP, PW_E_FORMAT, "%s: line %d: expected a choice, got %s", path, v->line, pw_kind_name(v->kind));
    for (int i = 0; i < 6; i++) PW_PASS(pw_get_i64(v, keys[i], path, &n[i]));
    PW_PASS(pw_get_f64(v, "softcap", path, &softcap));
    PW_PASS(pw_get_f64(v, "ours_s", path, &one->seconds[PW_ATTN_OURS]));
    PW_PASS(pw_get_f64(v, "library_s", path, &one->seconds[PW_ATTN_LIBRARY]));
    PW_PASS(read_name(v, "way", path, attn_ways, 2, &way));
    for (int i = 0; i < 3; i++) PW_CHECK(n[i] >= 1 && n[i] <= 4096, PW_E_FORMAT, "%s: line %d: %s: expected 1 to 4096, got %lld", path, v->line, keys[i], (long long)n[i]);
    PW_CHECK(n[0] % n[1] == 0, PW_E_FORMAT, "%s: line %d: kv_heads: expected a divisor of %lld, got %lld", path, v->line, (long long)n[0], (long long)n[1]);
    PW_CHECK(n[3] == 1 || n[3] == 8 || n[3] == 64, PW_E_FORMAT, "%s: line %d: sequences: expected 1, 8 or 64, got %lld", path, v->line, (long long)n[3]);
    PW_CHECK(n[4] >= PW_ATTN_ROWS_LEAST && n[4] <= PW_ATTN_ROWS_MOST, PW_E_FORMAT, "%s: line %d: rows: expected %d to %d, got %lld", path, v->line, PW_ATTN_ROWS_LEAST, PW_ATTN_ROWS_MOST, (long long)n[4]);
    PW_CHECK(softcap >= 0 && isfinite(softcap), PW_E_FORMAT, "%s: line %d: softcap: expected a number from 0 on, got %g", path, v->line, softcap);
    one->shape = (struct pw_attn_shape){ (int)n[0], (int)n[1], (int)n[2], (int)n[3], n[4], n[5], softcap };
    one->way = (enum pw_attn_way)way;
    PW_CHECK(pw_attn_shape_of(&same, one->shape.heads, one->shape.groups, one->shape.head_dim, n[5], softcap, n[4], one->shape.sequences) && pw_attn_shape_same(&same, &one->shape), PW_E_FORMAT,
             "%s: line %d: rows, window: expected a power of two and less than that, got %lld and %lld", path, v->line, (long long)n[4], (long long)n[5]);
    return 0;
}

static int same_text(const struct pw_value *file, const char *key, const char *path, const char *want)
{
    const char *got = "";
    PW_PASS(pw_get_str(file, key, path, &got));
    PW_CHECK(strcmp(got, want) == 0, PW_E_REFUSED, "%s: %s: expected \"%s\", got \"%s\"", path, key, want, got);
    return 0;
}

static int same_number(const struct pw_value *file, const char *key, const char *path, int64_t want)
{
    int64_t got = -1;
    PW_PASS(pw_get_i64(file, key, path, &got));
    PW_CHECK(got == want, PW_E_REFUSED, "%s: %s: expected %lld, got %lld", path, key, (long long)want, (long long)got);
    return 0;
}

static int64_t library_of(struct pw_dev *dev) { return dev->backend->attn_library ? dev->backend->attn_library(dev) : 0; }
static int64_t driver_of(struct pw_dev *dev) { return dev->backend->driver ? dev->backend->driver(dev) : 0; }

/* dev NULL: measured anywhere */
static int read_all(struct pw_choices *c, const struct pw_value *file, const char *path, struct pw_dev *dev)
{
    int64_t schema = 0;
    PW_CHECK(file->kind == PW_MAP, PW_E_FORMAT, "%s: expected choices of products, got %s", path, pw_kind_name(file->kind));
    PW_PASS(pw_get_i64(file, "schema", path, &schema));
    PW_CHECK(schema == SCHEMA, PW_E_FORMAT, "%s: schema: expected %d, got %lld", path, SCHEMA, (long long)schema);
    if (dev) {
        PW_PASS(same_text(file, "version", path, PW_VERSION));
        PW_PASS(same_text(file, "device", path, dev->level));
        PW_PASS(same_number(file, "driver", path, driver_of(dev)));
        PW_PASS(same_number(file, "attention_library", path, library_of(dev)));
    }
    const struct pw_value *list = pw_get(file, "choices");
    PW_CHECK(list && list->kind == PW_LIST, PW_E_FORMAT, "%s: choices: expected a list", path);
    for (size_t i = 0; i < list->len; i++) {
        struct pw_choice one;
        PW_PASS(read_one(&one, &list->items[i], path));
        PW_CHECK(!find(c, &one), PW_E_FORMAT, "%s: line %d: a shape is there twice", path, list->items[i].line);
        PW_TRY(append(c, &one), "reading %s", path);
    }
    const struct pw_value *attention = pw_get(file, "attention");
    PW_CHECK(attention && attention->kind == PW_LIST, PW_E_FORMAT, "%s: attention: expected a list", path);
    for (size_t i = 0; i < attention->len; i++) {
        struct pw_attn_choice one;
        PW_PASS(read_attn(&one, &attention->items[i], path));
        PW_CHECK(!find_attn(c, &one.shape), PW_E_FORMAT, "%s: line %d: a shape is there twice", path, attention->items[i].line);
        PW_TRY(append_attn(c, &one), "reading %s", path);
    }
    return 0;
}

int pw_choices_read(struct pw_choices *c, struct pw_dev *dev, const char *path)
{
    struct pw_arena arena;
    struct pw_value *file = NULL;
    memset(c, 0, sizeof *c);
    if (!pw_file_exists(path)) return 0;
    pw_arena_init(&arena);
    int rc = pw_json_load(&arena, path, &file);
    if (rc == 0) rc = read_all(c, file, path, dev);
    if (rc < 0) pw_choices_free(c);
    pw_arena_free(&arena);
    return rc;
}

int pw_choices_recall(struct pw_choices *c, const char *text, size_t n, const char *name)
{
    struct pw_arena arena;
    struct pw_value *file = NULL;
    memset(c, 0, sizeof *c);
    pw_arena_init(&arena);
    int rc = pw_json_parse(&arena, text, n, name, &file);
    if (rc == 0) rc = read_all(c, file, name, NULL);
    if (rc < 0) pw_choices_free(c);
    pw_arena_free(&arena);
    return rc;
}

int pw_choices_text(const struct pw_choices *c, struct pw_dev *dev, struct pw_buf *out)
{
    struct pw_json w = { .indent = true };
    pw_json_open(&w, NULL, '{');
    pw_json_i64(&w, "schema", SCHEMA);
    pw_json_str(&w, "version", PW_VERSION);
    pw_json_str(&w, "device", dev->level);
    pw_json_i64(&w, "driver", driver_of(dev));
    pw_json_i64(&w, "attention_library", library_of(dev));
    pw_json_open(&w, "choices", '[');
    for (size_t i = 0; i < c->n; i++) {
        const struct pw_choice *one = &c->list[i];
        pw_json_open(&w, NULL, '{');
        pw_json_str(&w, "pass", passes[one->backward]);
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
    pw_json_open(&w, "attention", '[');
    for (size_t i = 0; i < c->n_attn; i++) {
        const struct pw_attn_choice *one = &c->attn[i];
        pw_json_open(&w, NULL, '{');
        pw_json_i64(&w, "heads", one->shape.heads);
        pw_json_i64(&w, "kv_heads", one->shape.groups);
        pw_json_i64(&w, "head_dim", one->shape.head_dim);
        pw_json_i64(&w, "window", one->shape.window);
        pw_json_f64(&w, "softcap", one->shape.softcap);
        pw_json_i64(&w, "rows", one->shape.rows);
        pw_json_i64(&w, "sequences", one->shape.sequences);
        pw_json_str(&w, "way", attn_ways[one->way]);
        pw_json_f64(&w, "ours_s", one->seconds[PW_ATTN_OURS]);
        pw_json_f64(&w, "library_s", one->seconds[PW_ATTN_LIBRARY]);
        pw_json_close(&w, '}');
    }
    pw_json_close(&w, ']');
    pw_json_close(&w, '}');
    const int rc = pw_json_status(&w);
    if (rc < 0) pw_json_free(&w);
    *out = rc == 0 ? w.out : (struct pw_buf){ 0 };
    return rc;
}

int pw_choices_write(const struct pw_choices *c, struct pw_dev *dev, const char *path)
{
    struct pw_buf text = { 0 };
    PW_PASS(pw_choices_text(c, dev, &text));
    const int rc = pw_file_write(path, text.data, text.len, true);
    pw_buf_free(&text);
    return rc;
}

int pw_choices_begin(struct pw_choices *c, struct pw_dev *dev, const char *path, bool named, struct pw_progress *progress)
{
    const bool times = driver_of(dev) != 0;
    PW_CHECK(!named || times || pw_file_exists(path), PW_E_REFUSED, "--products %s: there is no such file, and device %s has no times to measure", path, dev->kind);
    const int rc = pw_choices_read(c, dev, path);
    if (named) PW_TRY(rc, "reading the choices of --products");
    if (rc < 0) {
        pw_progress_say(progress, "products are measured anew: %s", pw_error_text());
        pw_error_clear();
    }
    return 0;
}

int pw_choices_keep(const struct pw_choices *c, struct pw_dev *dev, const char *path, bool named, size_t before, struct pw_progress *progress)
{
    if (c->n + c->n_attn <= before) return 0;
    const int rc = pw_choices_write(c, dev, path);
    if (rc >= 0 || named) return rc;
    pw_progress_say(progress, "what was measured is not kept: %s", pw_error_text());
    pw_error_clear();
    return 0;
}

/* ---- measuring ---- */

/* Numbers for memory of the device, so that a card multiplies what it multiplies in earnest (zeros take less power, and so less time): uniform in
 * (-1, 1), or any bytes for what is not one number an element. */
enum { CHUNK = 1 << 20 };
struct values { struct pw_dev *dev; char *chunk; struct pw_rng rng; };
static int fill(struct values *v, void *device, size_t bytes, const enum pw_dtype *type)
{
    const size_t chunk = bytes < CHUNK ? (bytes + 3) / 4 : CHUNK / 4;
    for (size_t i = 0; i < chunk; i++) {
        const uint32_t word = pw_rng_u32(&v->rng);
        const float x = (float)(int32_t)word * 0x1p-31f;
        if (!type) memcpy(v->chunk + 4 * i, &word, 4);
        else if (*type == PW_F32) memcpy(v->chunk + 4 * i, &x, 4);
        else {
            const uint16_t half = *type == PW_BF16 ? pw_f32_to_bf16(x) : pw_f32_to_f16(x), two[2] = { half, half };
            memcpy(v->chunk + 4 * i, two, 4);
        }
    }
    for (size_t at = 0; at < bytes; at += CHUNK) PW_PASS(pw_dev_put(v->dev, (char *)device + at, v->chunk, bytes - at < CHUNK ? bytes - at : CHUNK));
    return 0;
}

/* A weight of w's shape and type. Nested when w is. */
static int make_weight(struct values *v, struct pw_pool *pool, struct pw_weight *w)
{
    static const enum pw_dtype f32 = PW_F32;
    const bool scales = w->type == PW_Q_NF4 || w->type == PW_Q_FP4 || w->type == PW_Q_INT8, nested = scales && w->nested_block > 0;
    if (scales && w->block < 1) w->block = 64;
    const size_t data = pw_weight_data_bytes(w), blocks = scales ? (size_t)pw_weight_blocks(w) : 0;
    const size_t absmax = nested ? 0 : blocks * 4, outer = nested ? (blocks + (size_t)w->nested_block - 1) / (size_t)w->nested_block * 4 : 0;
    PW_PASS(pw_pool_open(pool, v->dev, pw_pool_round(data) + pw_pool_round(absmax) + pw_pool_round(nested ? blocks : 0) + pw_pool_round(outer) + pw_pool_round(1024), "measuring products"));
    void *at = pw_pool_take(pool, data);
    PW_PASS(fill(v, at, data, w->type == PW_Q_DENSE ? &w->dtype : NULL));
    w->data = at;
    w->absmax = w->nested_absmax = w->nested_code = NULL;
    w->absmax_q = NULL;
    w->bias = NULL;
    if (scales && !nested) {
        PW_PASS(fill(v, at = pw_pool_take(pool, absmax), absmax, &f32));
        w->absmax = at;
    } else if (nested) {
        PW_PASS(fill(v, at = pw_pool_take(pool, blocks), blocks, NULL));
        w->absmax_q = at;
        PW_PASS(fill(v, at = pw_pool_take(pool, outer), outer, &f32));
        w->nested_absmax = at;
        PW_PASS(fill(v, at = pw_pool_take(pool, 1024), 1024, &f32));
        w->nested_code = at;
    }
    return 0;
}

/* The least of RUNS, after one that makes ready. Forward: out (rows, n_out) from in (rows, n_in); backward the other way. */
static int time_way(struct pw_dev *dev, struct pw_choice *one, enum pw_way way, const struct pw_weight *w, struct pw_tensor out, struct pw_tensor in)
{
    const struct pw_drop none = { 0 };
    const struct pw_linear_grads g = { .dx = out };
    double least = INFINITY;
    one->way = way;
    PW_PASS(dev->backend->choose(dev, one, 1, NULL, 0));
    PW_PASS(pw_dev_reserve(dev, pw_scratch_linear(dev, in.shape[0], w, one->backward)));
    for (int i = 0; i <= RUNS; i++) {
        const double begin = pw_seconds();
        PW_PASS(one->backward ? pw_linear_bwd(dev, &g, in, pw_none(), pw_none(), w, none) : pw_linear_fwd(dev, out, pw_none(), in, w, none));
        PW_PASS(pw_dev_sync(dev));
        const double seconds = pw_seconds() - begin;
        least = i > 0 && seconds < least ? seconds : least;
    }
    one->seconds[way] = least;
    return 0;
}

static int measure_one(struct values *v, struct pw_choice *one, const struct pw_weight *w)
{
    struct pw_dev *dev = v->dev;
    struct pw_pool pool = { 0 };
    int rc = 0;
    const int64_t from = one->backward ? w->n_out : w->n_in, to = one->backward ? w->n_in : w->n_out;
    const size_t each = pw_dtype_bytes(dev->act), in_bytes = (size_t)one->rows * (size_t)from * each, out_bytes = (size_t)one->rows * (size_t)to * each;
    PW_PASS_OUT(pw_pool_open(&pool, dev, pw_pool_round(in_bytes) + pw_pool_round(out_bytes), "measuring products"));
    const struct pw_tensor in = pw_tensor2(pw_pool_take(&pool, in_bytes), dev->act, one->rows, from), out = pw_tensor2(pw_pool_take(&pool, out_bytes), dev->act, one->rows, to);
    PW_PASS_OUT(fill(v, in.data, in_bytes, &dev->act));
    for (int way = 0; way < 2; way++) PW_TRY_OUT(time_way(dev, one, (enum pw_way)way, w, out, in), "measuring a product of %lld rows", (long long)one->rows);
    one->way = one->seconds[PW_WAY_FUSED] <= one->seconds[PW_WAY_DECODED] ? PW_WAY_FUSED : PW_WAY_DECODED;
out:
    pw_pool_close(&pool);
    return rc;
}

int pw_choices_measure(struct pw_choices *c, struct pw_dev *dev, const struct pw_weight *weight, int64_t most_rows, bool backward)
{
    struct pw_weight w = *weight;
    struct pw_pool pool = { 0 };
    struct values v = { .dev = dev, .rng = pw_rng_make(0, PW_STREAM_SIMULATE) };
    int rc = 0;
    if (!dev->backend->choose || driver_of(dev) == 0) return 0;
    w.lora = NULL;
    for (int64_t rows = PW_CHOICE_LEAST; rows <= pw_choice_bucket(most_rows); rows *= 2) {
        struct pw_choice one = { .type = w.type, .dtype = w.dtype, .rows = rows, .n_out = w.n_out, .n_in = w.n_in, .backward = backward };
        if (find(c, &one)) continue;
        if (!v.chunk) {
            v.chunk = pw_alloc(CHUNK);
            PW_CHECK_OUT(v.chunk, PW_E_NOMEM, "out of memory for measuring products");
        }
        if (!w.data) PW_PASS_OUT(make_weight(&v, &pool, &w));
        PW_PASS_OUT(measure_one(&v, &one, &w));
        PW_PASS_OUT(append(c, &one));
    }
out:
    if (dev->backend->choose(dev, NULL, 0, NULL, 0) < 0 && rc == 0) rc = PW_E_FAIL; /* an empty list needs nothing */
    pw_pool_close(&pool);
    pw_free(v.chunk);
    return rc;
}

/* ---- measuring attention ---- */

/* Sequences of one length, as many as the shape stands for, that fill its rows. */
struct batch { struct pw_pool pool; struct pw_seqs seqs; int32_t start[65], length[64]; struct pw_tensor q, k, v, out, lse; };
static int make_batch(struct batch *b, struct values *v, const struct pw_attn_shape *s)
{
    struct pw_dev *dev = v->dev;
    const enum pw_dtype act = dev->act;
    const size_t each = pw_dtype_bytes(act), q = (size_t)s->rows * (size_t)(s->heads * s->head_dim) * each, kv = (size_t)s->rows * (size_t)(s->groups * s->head_dim) * each;
    const size_t lse = (size_t)s->rows * (size_t)s->heads * 4, lists = pw_seqs_bytes(s->sequences, 0);
    for (int i = 0; i < s->sequences; i++) {
        b->start[i] = (int32_t)(s->rows / s->sequences * i);
        b->length[i] = (int32_t)(s->rows / s->sequences);
    }
    b->start[s->sequences] = (int32_t)s->rows;
    b->seqs = (struct pw_seqs){ .n = s->sequences, .q_start = b->start, .kv_start = b->start, .kv_len = b->length, .company = true };
    PW_PASS(pw_pool_open(&b->pool, dev, 2 * pw_pool_round(q) + 2 * pw_pool_round(kv) + pw_pool_round(lse) + pw_pool_round(lists), "measuring attention"));
    b->q = pw_tensor3(pw_pool_take(&b->pool, q), act, s->rows, s->heads, s->head_dim);
    b->out = pw_tensor3(pw_pool_take(&b->pool, q), act, s->rows, s->heads, s->head_dim);
    b->k = pw_tensor3(pw_pool_take(&b->pool, kv), act, s->rows, s->groups, s->head_dim);
    b->v = pw_tensor3(pw_pool_take(&b->pool, kv), act, s->rows, s->groups, s->head_dim);
    b->lse = pw_tensor2(pw_pool_take(&b->pool, lse), PW_F32, s->rows, s->heads);
    PW_PASS(fill(v, b->q.data, q, &act));
    PW_PASS(fill(v, b->k.data, kv, &act));
    PW_PASS(fill(v, b->v.data, kv, &act));
    return pw_seqs_put(dev, pw_pool_take(&b->pool, lists), &b->seqs);
}

static int time_attn(struct pw_dev *dev, struct pw_attn_choice *one, enum pw_attn_way way, const struct batch *b, const struct pw_attn *attn)
{
    const struct pw_attn_shape *s = &one->shape;
    double least = INFINITY;
    one->way = way;
    PW_PASS(dev->backend->choose(dev, NULL, 0, one, 1));
    PW_PASS(pw_dev_reserve(dev, pw_scratch_attn(dev, s->rows, s->rows, s->heads, s->groups, s->head_dim, false)));
    for (int i = 0; i <= RUNS; i++) {
        const double begin = pw_seconds();
        PW_PASS(pw_attn_fwd(dev, b->out, b->lse, b->q, b->k, b->v, &b->seqs, attn));
        PW_PASS(pw_dev_sync(dev));
        const double seconds = pw_seconds() - begin;
        least = i > 0 && seconds < least ? seconds : least;
    }
    one->seconds[way] = least;
    return 0;
}

static int measure_shape(struct values *v, struct pw_attn_choice *one, const struct pw_attn *attn)
{
    struct batch b = { 0 };
    int rc = make_batch(&b, v, &one->shape);
    for (int way = 0; way < 2 && rc == 0; way++) rc = time_attn(v->dev, one, (enum pw_attn_way)way, &b, attn);
    one->way = one->seconds[PW_ATTN_OURS] <= one->seconds[PW_ATTN_LIBRARY] ? PW_ATTN_OURS : PW_ATTN_LIBRARY;
    pw_pool_close(&b.pool);
    return rc;
}

int pw_choices_measure_attn(struct pw_choices *c, struct pw_dev *dev, int heads, int kv_heads, int head_dim, const struct pw_attn *attn, int64_t most_rows)
{
    static const int sequences[] = { 1, 8, 64 };
    struct values v = { .dev = dev, .rng = pw_rng_make(0, PW_STREAM_SIMULATE) };
    int rc = 0;
    if (!dev->backend->attn_plan || driver_of(dev) == 0 || library_of(dev) == 0) return 0;
    v.chunk = pw_alloc(CHUNK);
    PW_CHECK(v.chunk, PW_E_NOMEM, "out of memory for measuring attention");
    for (int64_t rows = PW_ATTN_ROWS_LEAST; rows < 2 * most_rows && rows <= PW_ATTN_ROWS_MOST && rc == 0; rows *= 2)
        for (int i = 0; i < 3 && rc == 0; i++) {
            struct pw_attn_choice one = { .way = PW_ATTN_OURS };
            bool there = false;
            if (!pw_attn_shape_of(&one.shape, heads, kv_heads, head_dim, attn->window, attn->softcap, rows, sequences[i]) || find_attn(c, &one.shape)) continue;
            PW_PASS_OUT(dev->backend->attn_plan(dev, &one.shape, &there));
            if (!there) continue;
            PW_TRY_OUT(measure_shape(&v, &one, attn), "measuring attention of %lld rows in %d", (long long)rows, sequences[i]);
            PW_PASS_OUT(append_attn(c, &one));
        }
out:
    if (dev->backend->choose(dev, NULL, 0, NULL, 0) < 0 && rc == 0) rc = PW_E_FAIL; /* an empty list needs nothing */
    pw_free(v.chunk);
    return rc;
}

int pw_choices_use(const struct pw_choices *c, struct pw_dev *dev) { return dev->backend->choose ? dev->backend->choose(dev, c->list, c->n, c->attn, c->n_attn) : 0; }
