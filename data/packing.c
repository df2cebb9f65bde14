/* Batches: the plan of an epoch, and the flat arrays of one pass.
 *
 * Packing is best fit over the (shuffled) order with a bounded number of open bins: a row goes into the open bin that it leaves
 * the least room in; when none has room a new bin is opened, and when too many are open the fullest is closed. Bins keep the order in
 * which they were opened, so that neighbours in the shuffled order stay near each other. Cost: rows * OPEN_BINS. */
#include "data/packing.h"

#include <inttypes.h>
#include <limits.h>
#include <string.h>

#include "base/error.h"
#include "base/rng.h"

enum { OPEN_BINS = 256 };

static int64_t row_length(const struct pw_dataset *d, uint32_t row)
{
    return d->row_start[row + 1] - d->row_start[row];
}

/* Tokens of an example: a row, or both of a pair. */
static int64_t example_length(const struct pw_dataset *d, uint32_t example)
{
    int per = pw_dataset_per(d);
    return d->row_start[((int64_t)example + 1) * per] - d->row_start[(int64_t)example * per];
}

static int64_t row_trained(const struct pw_dataset *d, uint32_t row)
{
    int64_t n = 0;
    for (int64_t i = d->row_start[row]; i < d->row_start[row + 1]; i++)
        n += d->trained[i];
    return n;
}

static double row_weight(const struct pw_dataset *d, uint32_t row)
{
    double sum = 0;
    if (!d->token_weight)
        return (double)row_trained(d, row);
    for (int64_t i = d->row_start[row]; i < d->row_start[row + 1]; i++)
        sum += d->trained[i] ? (double)d->token_weight[i] : 0;
    return sum;
}

static int64_t longest_example(const struct pw_dataset *d, const uint32_t *rows, int64_t n_rows)
{
    int64_t longest = 0;
    for (int64_t i = 0; i < n_rows; i++) {
        int64_t n = example_length(d, rows ? rows[i] : (uint32_t)i);
        longest = n > longest ? n : longest;
    }
    return longest;
}

/* The rows of the epoch in the order in which they are taken; weights decide how often a row occurs. */
static int epoch_order(struct pw_packing *p, const struct pw_dataset *d, const uint32_t *rows, int64_t n_rows,
                       const struct pw_packing_options *o, int64_t epoch, uint32_t **order, int64_t *n_order)
{
    struct pw_rng rng = pw_rng_make(o->seed, (uint64_t)PW_STREAM_SHUFFLE + ((uint64_t)epoch << 8));
    const float *weight = o->weights ? d->row_weight : NULL;
    const uint32_t per = (uint32_t)pw_dataset_per(d);
    double most = 0;
    for (int64_t i = 0; i < n_rows; i++)
        most += weight ? (double)weight[(rows ? rows[i] : (uint32_t)i) * per] + 1 : 1;
    PW_CHECK(most < (double)UINT32_MAX, PW_E_UNSUPPORTED, "data set: %.0f rows in an epoch, at most %u are possible", most, UINT32_MAX - 1);
    uint32_t *list = pw_arena_array(&p->arena, (size_t)most + 1, sizeof *list);
    PW_CHECK(list, PW_E_NOMEM, "no memory for the order of %.0f rows", most);
    int64_t n = 0;
    for (int64_t i = 0; i < n_rows; i++) {
        uint32_t row = rows ? rows[i] : (uint32_t)i;
        int64_t copies = 1;
        if (weight) {
            copies = (int64_t)weight[row * per];
            copies += pw_rng_uniform(&rng) < (double)weight[row * per] - (double)copies;
        }
        while (copies-- > 0)
            list[n++] = row;
    }
    if (o->shuffle)
        pw_rng_shuffle(&rng, list, (uint64_t)n);
    *order = list;
    *n_order = n;
    return 0;
}

struct open_bin { int64_t bin, left; };

/* bin_of[i]: the bin of the i-th row of the order. */
static int64_t pack(const struct pw_dataset *d, const uint32_t *order, int64_t n, int64_t capacity, int64_t *bin_of)
{
    struct open_bin open[OPEN_BINS];
    int n_open = 0;
    int64_t bins = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t length = example_length(d, order[i]);
        int best = -1;
        for (int b = 0; b < n_open; b++)
            if (open[b].left >= length && (best < 0 || open[b].left < open[best].left))
                best = b;
        if (best < 0) {
            if (n_open == OPEN_BINS) {
                best = 0;
                for (int b = 1; b < n_open; b++)
                    if (open[b].left < open[best].left)
                        best = b;
            } else {
                best = n_open++;
            }
            open[best] = (struct open_bin){bins++, capacity};
        }
        open[best].left -= length;
        bin_of[i] = open[best].bin;
    }
    return bins;
}

/* Rows sorted by bin, stable: counting sort. */
static int fill_passes(struct pw_packing *p, const struct pw_dataset *d, const uint32_t *order, int64_t n_order, const int64_t *bin_of,
                       int64_t bins, const struct pw_packing_options *o)
{
    const int per = pw_dataset_per(d);
    p->n_rows = n_order * per;
    p->n_passes = (bins + o->batch_size - 1) / o->batch_size;
    p->rows = pw_arena_array(&p->arena, (size_t)p->n_rows + 1, sizeof *p->rows);
    p->pass_start = pw_arena_array(&p->arena, (size_t)p->n_passes + 1, sizeof *p->pass_start);
    p->pass_tokens = pw_arena_array(&p->arena, (size_t)p->n_passes + 1, sizeof *p->pass_tokens);
    p->pass_trained = pw_arena_array(&p->arena, (size_t)p->n_passes + 1, sizeof *p->pass_trained);
    int64_t *at = pw_arena_array(&p->arena, (size_t)bins + 1, sizeof *at);
    p->pass_weight = pw_arena_array(&p->arena, (size_t)p->n_passes + 1, sizeof *p->pass_weight);
    PW_CHECK(p->rows && p->pass_start && p->pass_tokens && p->pass_trained && p->pass_weight && at, PW_E_NOMEM, "no memory for the plan of an epoch");
    for (int64_t i = 0; i < n_order; i++)
        at[bin_of[i] + 1] += per;
    for (int64_t b = 0; b < bins; b++)
        at[b + 1] += at[b];
    for (int64_t k = 0; k <= p->n_passes; k++)
        p->pass_start[k] = at[k * o->batch_size < bins ? k * o->batch_size : bins];
    for (int64_t i = 0; i < n_order; i++)
        for (int k = 0; k < per; k++)
            p->rows[at[bin_of[i]]++] = order[i] * (uint32_t)per + (uint32_t)k;
    for (int64_t k = 0; k < p->n_passes; k++) {
        for (int64_t i = p->pass_start[k]; i < p->pass_start[k + 1]; i++) {
            p->pass_tokens[k] += row_length(d, p->rows[i]);
            p->pass_trained[k] += row_trained(d, p->rows[i]);
            p->pass_weight[k] += row_weight(d, p->rows[i]);
        }
        int64_t n = p->pass_start[k + 1] - p->pass_start[k];
        p->max_rows = n > p->max_rows ? n : p->max_rows;
        p->max_tokens = p->pass_tokens[k] > p->max_tokens ? p->pass_tokens[k] : p->max_tokens;
    }
    return 0;
}

int pw_packing_plan(struct pw_packing **out, const struct pw_dataset *d, const uint32_t *rows, int64_t n_rows,
                    const struct pw_packing_options *o, int64_t epoch)
{
    *out = NULL;
    if (!rows)
        n_rows = pw_dataset_examples(d);
    int64_t longest = longest_example(d, rows, n_rows), capacity = o->max_length > 0 && !(d->pairs && longest > o->max_length) ? o->max_length : longest;
    PW_CHECK(o->batch_size >= 1, PW_E_USAGE, "batch_size: expected at least 1, got %" PRId64, o->batch_size);
    PW_CHECK(epoch >= 0, PW_E_USAGE, "epoch: expected at least 0, got %" PRId64, epoch);
    PW_CHECK(longest <= capacity, PW_E_FAIL, "packing: a row has %" PRId64 " tokens, max_length is %" PRId64, longest, capacity);
    struct pw_packing *p = pw_alloc_zero(1, sizeof *p);
    PW_CHECK(p, PW_E_NOMEM, "no memory for the plan of an epoch");
    pw_arena_init(&p->arena);
    int rc = 0;
    uint32_t *order = NULL;
    int64_t n_order = 0;
    PW_PASS_OUT(epoch_order(p, d, rows, n_rows, o, epoch, &order, &n_order));
    int64_t *bin_of = pw_arena_array(&p->arena, (size_t)n_order + 1, sizeof *bin_of), bins = n_order;
    PW_CHECK_OUT(bin_of, PW_E_NOMEM, "no memory for the plan of an epoch");
    if (o->packing)
        bins = pack(d, order, n_order, capacity, bin_of);
    else
        for (int64_t i = 0; i < n_order; i++)
            bin_of[i] = i;
    PW_PASS_OUT(fill_passes(p, d, order, n_order, bin_of, bins, o));
    double tokens = 0;
    for (int64_t k = 0; k < p->n_passes; k++)
        tokens += (double)p->pass_tokens[k];
    p->fill = bins > 0 ? tokens / ((double)bins * (double)capacity) : 0;
    *out = p;
out:
    if (rc < 0)
        pw_packing_free(p);
    return rc;
}

void pw_packing_free(struct pw_packing *p)
{
    if (!p)
        return;
    pw_arena_free(&p->arena);
    pw_free(p);
}

void pw_packing_worst(const struct pw_dataset *d, const uint32_t *rows, int64_t n_rows, const struct pw_packing_options *o, int64_t *tokens,
                      int64_t *n_seqs)
{
    if (!rows)
        n_rows = pw_dataset_examples(d);
    int64_t longest = longest_example(d, rows, n_rows), shortest = INT64_MAX;
    for (int64_t i = 0; i < n_rows; i++) {
        int64_t n = example_length(d, rows ? rows[i] : (uint32_t)i);
        shortest = n < shortest ? n : shortest;
    }
    int64_t capacity = o->packing && o->max_length > longest ? o->max_length : longest, per = pw_dataset_per(d);
    *tokens = capacity * o->batch_size;
    *n_seqs = (o->packing && n_rows > 0 ? capacity / shortest * o->batch_size : o->batch_size) * per;
    if (o->weights && d->row_weight)
        return;
    int64_t all = 0; /* no pass holds more than the whole epoch */
    for (int64_t i = 0; i < n_rows; i++)
        all += example_length(d, rows ? rows[i] : (uint32_t)i);
    *tokens = all < *tokens ? all : *tokens;
    *n_seqs = n_rows * per < *n_seqs ? n_rows * per : *n_seqs;
}

int pw_packed_init(struct pw_packed *b, struct pw_arena *a, int64_t max_tokens, int64_t max_seqs)
{
    PW_CHECK(max_tokens >= 0 && max_tokens <= INT32_MAX && max_seqs >= 0 && max_seqs <= INT32_MAX, PW_E_UNSUPPORTED,
             "a pass of %" PRId64 " tokens in %" PRId64 " rows is too large", max_tokens, max_seqs);
    *b = (struct pw_packed){.cap_tokens = max_tokens, .cap_seqs = max_seqs};
    b->ids = pw_arena_array(a, (size_t)max_tokens + 1, sizeof *b->ids);
    b->positions = pw_arena_array(a, (size_t)max_tokens + 1, sizeof *b->positions);
    b->targets = pw_arena_array(a, (size_t)max_tokens + 1, sizeof *b->targets);
    b->weight = pw_arena_array(a, (size_t)max_tokens + 1, sizeof *b->weight);
    b->seq_start = pw_arena_array(a, (size_t)max_seqs + 1, sizeof *b->seq_start);
    b->seq_len = pw_arena_array(a, (size_t)max_seqs + 1, sizeof *b->seq_len);
    PW_CHECK(b->ids && b->positions && b->targets && b->weight && b->seq_start && b->seq_len, PW_E_NOMEM, "no memory for a pass of %" PRId64 " tokens",
             max_tokens);
    return 0;
}

int pw_packed_fill(struct pw_packed *b, const struct pw_packing *p, const struct pw_dataset *d, int64_t pass)
{
    PW_CHECK(pass >= 0 && pass < p->n_passes, PW_E_FAIL, "pass %" PRId64 " of %" PRId64, pass, p->n_passes);
    int64_t rows = p->pass_start[pass + 1] - p->pass_start[pass];
    PW_CHECK(p->pass_tokens[pass] <= b->cap_tokens && rows <= b->cap_seqs, PW_E_FAIL,
             "pass %" PRId64 " has %" PRId64 " tokens in %" PRId64 " rows, room was planned for %" PRId64 " in %" PRId64, pass,
             p->pass_tokens[pass], rows, b->cap_tokens, b->cap_seqs);
    b->n_tokens = b->n_trained = 0;
    b->n_seqs = (int)rows;
    b->weighted = d->token_weight != NULL;
    b->seq_start[0] = 0;
    for (int s = 0; s < b->n_seqs; s++) {
        uint32_t row = p->rows[p->pass_start[pass] + s];
        int64_t first = d->row_start[row], n = row_length(d, row);
        memcpy(b->ids + b->n_tokens, d->ids + first, (size_t)n * sizeof *b->ids);
        for (int64_t i = 0; i < n; i++) {
            bool learnt = i + 1 < n && d->trained[first + i + 1];
            b->positions[b->n_tokens + i] = (int32_t)i;
            b->targets[b->n_tokens + i] = learnt ? d->ids[first + i + 1] : -1;
            b->n_trained += learnt;
            if (b->weighted)
                b->weight[b->n_tokens + i] = learnt ? d->token_weight[first + i + 1] : 0;
        }
        b->n_tokens += n;
        b->seq_len[s] = (int32_t)n;
        b->seq_start[s + 1] = (int32_t)b->n_tokens;
    }
    return 0;
}
