/* See overlap.h. Hashes are 64 bits; a table maps a hash to a number by open addressing. */
#include "data/overlap.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/utf8.h"

enum { RUN_TOKENS = 5, RUN_WORDS = 13, MINIMA = 48, BAND = 4, BANDS = MINIMA / BAND, FEWEST = 5 };

static uint64_t mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

/* ---- hash -> number ---- */

struct table { uint64_t *keys; uint32_t *values, *seen; size_t size; };

static int table_open(struct table *t, size_t entries)
{
    t->size = 64;
    while (t->size < entries * 2)
        t->size *= 2;
    t->keys = pw_alloc_zero(t->size, sizeof *t->keys);
    t->values = pw_alloc_zero(t->size, sizeof *t->values);
    t->seen = pw_alloc_zero(t->size, sizeof *t->seen);
    PW_CHECK(t->keys && t->values && t->seen, PW_E_NOMEM, "no memory to compare rows");
    return 0;
}

static void table_close(struct table *t)
{
    pw_free(t->keys);
    pw_free(t->values);
    pw_free(t->seen);
}

static size_t slot_of(const struct table *t, uint64_t key)
{
    key |= key == 0;                        /* 0 marks an empty slot */
    size_t at = (size_t)key & (t->size - 1);
    while (t->keys[at] && t->keys[at] != key)
        at = (at + 1) & (t->size - 1);
    return at;
}

/* How many different rows (numbered from 1 up, in order) have had the key. */
static void table_count(struct table *t, uint64_t key, uint32_t row)
{
    size_t at = slot_of(t, key);
    t->keys[at] = key | (key == 0);
    if (t->seen[at] == row)
        return;
    t->seen[at] = row;
    t->values[at]++;
}

/* ---- near-duplicates ---- */

struct near {
    const struct pw_dataset *d;
    struct table common;                    /* run -> examples that have it */
    struct table equal;                     /* hashes of the examples so far */
    uint32_t most;                          /* runs of more examples do not count */
    uint64_t *a, *b;                        /* sorted runs of two examples */
};

static int by_value(const void *x, const void *y)
{
    const uint64_t a = *(const uint64_t *)x, b = *(const uint64_t *)y;
    return a < b ? -1 : a > b;
}

static int64_t length_of(const struct pw_dataset *d, int64_t example)
{
    const int per = pw_dataset_per(d);
    return d->row_start[(example + 1) * per] - d->row_start[example * per];
}

static uint64_t run_at(const int32_t *ids)
{
    uint64_t h = 1;
    for (int k = 0; k < RUN_TOKENS; k++)
        h = mix(h, (uint32_t)ids[k]);
    return h;
}

/* The runs of an example that count, sorted, each once. */
static int64_t runs_of(const struct near *k, int64_t example, uint64_t *out)
{
    const int32_t *ids = k->d->ids + k->d->row_start[example * pw_dataset_per(k->d)];
    int64_t n = 0, unique = 0;
    for (int64_t i = 0; i + RUN_TOKENS <= length_of(k->d, example); i++) {
        const uint64_t run = run_at(ids + i);
        if (k->common.values[slot_of(&k->common, run)] <= k->most)
            out[n++] = run;
    }
    qsort(out, (size_t)n, sizeof *out, by_value);
    for (int64_t i = 0; i < n; i++)
        if (i == 0 || out[i] != out[i - 1])
            out[unique++] = out[i];
    return unique;
}

static bool similar(const uint64_t *a, int64_t n, const uint64_t *b, int64_t m)
{
    int64_t both = 0;
    for (int64_t i = 0, j = 0; i < n && j < m;) {
        both += a[i] == b[j];
        if (a[i] == b[j])
            i++, j++;
        else if (a[i] < b[j])
            i++;
        else
            j++;
    }
    return 5 * both >= 4 * (n + m - both);  /* 0.8 of the union */
}

static int find_near(struct near *k, struct table bands[BANDS], struct pw_overlap *out)
{
    const struct pw_dataset *d = k->d;
    const int per = pw_dataset_per(d);
    for (int64_t e = 0; e < pw_dataset_examples(d); e++) {
        const int64_t n = runs_of(k, e, k->a);
        uint64_t minima[MINIMA];
        int64_t like = -1;
        const size_t same = slot_of(&k->equal, d->row_hash[e * per]);
        if (n < FEWEST || k->equal.keys[same])     /* an equal one is counted as a duplicate */
            continue;
        table_count(&k->equal, d->row_hash[e * per], (uint32_t)e + 1);
        memset(minima, 0xFF, sizeof minima);
        for (int64_t i = 0; i < n; i++)
            for (int j = 0; j < MINIMA; j++) {
                const uint64_t h = mix(k->a[i], (uint64_t)j * 0x632BE59BD9B4E019u + 1);
                minima[j] = h < minima[j] ? h : minima[j];
            }
        for (int j = 0; j < BANDS; j++) {
            uint64_t key = (uint64_t)j + 1;
            for (int i = 0; i < BAND; i++)
                key = mix(key, minima[j * BAND + i]);
            const size_t at = slot_of(&bands[j], key);
            const int64_t other = (int64_t)bands[j].values[at] - 1;
            if (other >= 0 && like < 0 && similar(k->a, n, k->b, runs_of(k, other, k->b)))
                like = other;
            bands[j].keys[at] = key | (key == 0);
            bands[j].values[at] = (uint32_t)e + 1;
        }
        if (like < 0)
            continue;
        if (out->n++ == 0) {
            out->first = e;
            out->like = like;
        }
    }
    return 0;
}

int pw_overlap_near(const struct pw_dataset *d, struct pw_overlap *out)
{
    const int64_t examples = pw_dataset_examples(d);
    struct near k = {.d = d, .most = (uint32_t)(examples / 10 > 10 ? examples / 10 : 10)};
    struct table bands[BANDS] = {{0}};
    int64_t longest = 0;
    int rc = 0;
    *out = (struct pw_overlap){.first = -1, .like = -1};
    for (int64_t e = 0; e < examples; e++)
        longest = length_of(d, e) > longest ? length_of(d, e) : longest;
    PW_PASS_OUT(table_open(&k.common, (size_t)d->n_tokens));
    PW_PASS_OUT(table_open(&k.equal, (size_t)examples));
    k.a = pw_alloc_zero((size_t)longest + 1, sizeof *k.a);
    k.b = pw_alloc_zero((size_t)longest + 1, sizeof *k.b);
    PW_CHECK_OUT(k.a && k.b, PW_E_NOMEM, "no memory to compare rows");
    for (int j = 0; j < BANDS; j++)
        PW_PASS_OUT(table_open(&bands[j], (size_t)examples));
    for (int64_t e = 0; e < examples; e++) {
        const int32_t *ids = d->ids + d->row_start[e * pw_dataset_per(d)];
        for (int64_t i = 0; i + RUN_TOKENS <= length_of(d, e); i++)
            table_count(&k.common, run_at(ids + i), (uint32_t)e + 1);
    }
    rc = find_near(&k, bands, out);
out:
    for (int j = 0; j < BANDS; j++)
        table_close(&bands[j]);
    table_close(&k.common);
    table_close(&k.equal);
    pw_free(k.a);
    pw_free(k.b);
    return rc;
}

/* ---- rows of an evaluation set ---- */

struct words { struct pw_buf text; uint64_t *hash; int64_t n, cap; };

static void words_free(struct words *w)
{
    pw_buf_free(&w->text);
    pw_free(w->hash);
}

static int add_word(struct words *w, uint64_t h)
{
    if (w->n == w->cap) {
        const int64_t cap = w->cap * 2 + 256;
        uint64_t *more = pw_realloc(w->hash, (size_t)w->cap * sizeof *more, (size_t)cap * sizeof *more);
        PW_CHECK(more, PW_E_NOMEM, "no memory to compare rows");
        w->hash = more;
        w->cap = cap;
    }
    w->hash[w->n++] = h;
    return 0;
}

/* Hashes of the words of a row: runs of letters, marks, digits and connectors, in lower case. */
static int read_words(struct words *w, const struct pw_dataset *d, const struct pw_tokenizer *t, int64_t row)
{
    uint64_t h = 0;
    w->n = 0;
    pw_buf_clear(&w->text);
    PW_PASS(pw_tokenizer_decode(t, d->ids + d->row_start[row], (size_t)(d->row_start[row + 1] - d->row_start[row]), PW_TOK_SKIP_SPECIAL, &w->text));
    PW_PASS(pw_buf_status(&w->text));
    for (size_t at = 0; at < w->text.len;) {
        uint32_t cp, low[2];
        at += pw_utf8_get(w->text.data + at, w->text.len - at, &cp);
        if (pw_cp_word(cp))
            for (size_t i = 0, n = pw_cp_lower(cp, low); i < n; i++)
                h = mix(h ? h : 1, low[i]);
        else if (h) {
            PW_PASS(add_word(w, h));
            h = 0;
        }
    }
    return h ? add_word(w, h) : 0;
}

static uint64_t whole_of(const struct words *w)
{
    uint64_t h = 2;
    for (int64_t i = 0; i < w->n; i++)
        h = mix(h, w->hash[i]);
    return h;
}

static uint64_t words_at(const struct words *w, int64_t at)
{
    uint64_t h = 3;
    for (int k = 0; k < RUN_WORDS; k++)
        h = mix(h, w->hash[at + k]);
    return h;
}

static void found(struct pw_overlap *o, int64_t row, int64_t like)
{
    if (o->n++ == 0) {
        o->first = row;
        o->like = like;
    }
}

/* seen[slot] is the row of eval, from 1, that had the key last. */
static int compare_rows(const struct pw_dataset *d, const struct pw_tokenizer *t, const struct table *table, uint32_t most, struct words *w,
                        struct pw_overlap *exact, struct pw_overlap *runs)
{
    for (int64_t row = 0; row < d->n_rows; row++) {
        PW_PASS(read_words(w, d, t, row));
        const size_t whole = slot_of(table, whole_of(w));
        if (w->n > 0 && table->keys[whole]) {
            found(exact, row, (int64_t)table->seen[whole] - 1);
            continue;
        }
        for (int64_t i = 0; i + RUN_WORDS <= w->n; i++) {
            const size_t at = slot_of(table, words_at(w, i));
            if (table->keys[at] && table->values[at] <= most) {
                found(runs, row, (int64_t)table->seen[at] - 1);
                break;
            }
        }
    }
    return 0;
}

int pw_overlap_eval(const struct pw_dataset *d, const struct pw_dataset *eval, const struct pw_tokenizer *t, struct pw_overlap *exact, struct pw_overlap *runs)
{
    const uint32_t most = (uint32_t)(eval->n_rows / 20 > 2 ? eval->n_rows / 20 : 2);
    struct table table = {0};
    struct words w = {0};
    size_t keys = 0;
    int rc = 0;
    *exact = *runs = (struct pw_overlap){.first = -1, .like = -1};
    for (int fill = 0; fill < 2; fill++) {   /* the number of words is known only after reading them */
        if (fill)
            PW_PASS_OUT(table_open(&table, keys));
        for (int64_t row = 0; row < eval->n_rows; row++) {
            PW_PASS_OUT(read_words(&w, eval, t, row));
            keys += (size_t)w.n + 1;
            if (!fill || w.n == 0)
                continue;
            table_count(&table, whole_of(&w), (uint32_t)row + 1);
            for (int64_t i = 0; i + RUN_WORDS <= w.n; i++)
                table_count(&table, words_at(&w, i), (uint32_t)row + 1);
        }
    }
    rc = compare_rows(d, t, &table, most, &w, exact, runs);
out:
    table_close(&table);
    words_free(&w);
    return rc;
}
