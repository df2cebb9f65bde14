/* Rotary tables, with the scalings that stretch a model's context. Knows the config's rope fields, nothing of heads or tokens. */
#include "infer/rope.h"

#include <math.h>

#include "base/error.h"

/* Llama 3.1: long waves are slowed by `factor`, short ones kept, those between blended by how often they turn within the
 * context that the model was first trained with. */
static double llama3(const struct pw_model_config *c, double freq)
{
    const double turns = c->rope_original_context * freq / (2 * M_PI);
    if (turns > c->rope_high_freq)
        return freq;
    if (turns < c->rope_low_freq)
        return freq / c->rope_factor;
    const double keep = (turns - c->rope_low_freq) / (c->rope_high_freq - c->rope_low_freq);
    return keep * freq + (1 - keep) * freq / c->rope_factor;
}

/* YaRN (Peng et al. 2023): pairs that turn more than beta_fast times within the original context are kept, those that turn less than beta_slow times
 * are slowed by the factor, those between blended by their number. */
static double yarn_pair(const struct pw_model_config *c, double turns)
{
    const int dims = pw_model_config_rotary(c);
    return dims * log(c->rope_original_context / (turns * 2 * M_PI)) / (2 * log(c->rope_theta));
}

static double yarn(const struct pw_model_config *c, int i, double freq)
{
    double low = yarn_pair(c, c->rope_beta_fast), high = yarn_pair(c, c->rope_beta_slow);
    if (!c->rope_whole_range) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, pw_model_config_rotary(c) - 1);
    if (low == high)
        high += 0.001;
    const double slow = fmin(fmax((i - low) / (high - low), 0), 1);
    return freq / c->rope_factor * slow + freq * (1 - slow);
}

/* Dynamic NTK: the base that spreads the frequencies so that a sequence of this length turns as far as one of the original context did. */
static double dynamic_theta(const struct pw_model_config *c, int64_t length)
{
    const double dims = pw_model_config_rotary(c), L = fmax((double)length, c->rope_original_context);
    return c->rope_theta * pow(c->rope_factor * L / c->rope_original_context - (c->rope_factor - 1), dims / (dims - 2));
}

int pw_rope_frequencies(const struct pw_model_config *c, enum pw_rope_kind kind, int64_t length, double *freq)
{
    const bool scaled = c->rope_scaling == PW_ROPE_LINEAR || c->rope_scaling == PW_ROPE_LLAMA3 || c->rope_scaling == PW_ROPE_YARN || c->rope_scaling == PW_ROPE_DYNAMIC;
    const int dims = pw_model_config_rotary(c);
    PW_CHECK(!scaled || c->rope_factor > 0, PW_E_FORMAT, "rope scaling: factor must be above 0, got %g", c->rope_factor);
    PW_CHECK(c->rope_scaling != PW_ROPE_LLAMA3 || c->rope_high_freq > c->rope_low_freq, PW_E_FORMAT,
             "rope scaling: high_freq_factor must be above low_freq_factor, got %g and %g", c->rope_high_freq, c->rope_low_freq);
    PW_CHECK(c->rope_scaling != PW_ROPE_YARN || (c->rope_beta_slow > 0 && c->rope_beta_fast > c->rope_beta_slow && c->rope_original_context > 0), PW_E_FORMAT,
             "rope scaling: beta_fast must be above beta_slow, got %g and %g", c->rope_beta_fast, c->rope_beta_slow);
    PW_CHECK(c->rope_scaling != PW_ROPE_DYNAMIC || (dims > 2 && c->rope_original_context > 0 && c->rope_factor >= 1), PW_E_FORMAT,
             "rope scaling: dynamic takes more than one pair of dimensions and a factor from 1 on, got %d dimensions and %g", dims, c->rope_factor);
    const double theta = kind == PW_ROPE_LOCAL ? c->rope_local_theta : c->rope_scaling == PW_ROPE_DYNAMIC ? dynamic_theta(c, length) : c->rope_theta;
    for (int i = 0; i < dims / 2; i++) {
        freq[i] = pow(theta, -2.0 * i / dims);
        if (kind == PW_ROPE_LOCAL)
            continue;
        if (c->rope_scaling == PW_ROPE_LINEAR)
            freq[i] /= c->rope_factor;
        else if (c->rope_scaling == PW_ROPE_LLAMA3)
            freq[i] = llama3(c, freq[i]);
        else if (c->rope_scaling == PW_ROPE_YARN)
            freq[i] = yarn(c, i, freq[i]);
        else if (c->rope_scaling == PW_ROPE_LONG)
            freq[i] /= kind == PW_ROPE_STRETCHED ? c->rope_long[i] : c->rope_short[i];
    }
    return 0;
}

/* ---- which rows ----------------------------------------------------------------------------------------------------- */

bool pw_rope_by_length(const struct pw_model_config *c)
{
    return (c->rope_scaling == PW_ROPE_LONG || c->rope_scaling == PW_ROPE_DYNAMIC) && (double)c->context > c->rope_original_context;
}

static bool beyond(const struct pw_model_config *c, int64_t length) { return pw_rope_by_length(c) && (double)length > c->rope_original_context; }

bool pw_rope_alike(const struct pw_model_config *c, int64_t length, int64_t other)
{
    if (beyond(c, length) != beyond(c, other))
        return false;
    return !beyond(c, length) || c->rope_scaling == PW_ROPE_LONG || length == other;
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t longest_of(const struct pw_rope_shape *s) { return smaller(s->longest, s->config->context); }

/* Rows of set 0 or 1, then those of single sequences of a pass. */
static int64_t set_rows(const struct pw_rope_shape *s, int set)
{
    const int64_t longest = longest_of(s);
    const bool further = beyond(s->config, longest);
    if (set == 0)
        return further ? (int64_t)s->config->rope_original_context : longest;
    return further && s->config->rope_scaling == PW_ROPE_LONG ? longest : 0;
}

static int64_t pass_rows(const struct pw_rope_shape *s)
{
    return beyond(s->config, longest_of(s)) && s->config->rope_scaling == PW_ROPE_DYNAMIC ? s->tokens : 0;
}

static int64_t all_rows(const struct pw_rope_shape *s) { return set_rows(s, 0) + set_rows(s, 1) + pass_rows(s); }
static int tables_of(const struct pw_model_config *c) { return c->rope_local_theta > 0 ? 2 : 1; }

static size_t row_bytes(const struct pw_rope_shape *s) { return (size_t)(pw_model_config_rotary(s->config) / 2) * pw_dtype_bytes(s->type); }

/* ---- tables --------------------------------------------------------------------------------------------------------- */

enum { PIECE = 128 };          /* rows that are made at a time */

size_t pw_rope_bytes(const struct pw_rope_shape *s)
{
    return 2 * (size_t)tables_of(s->config) * pw_pool_round((size_t)all_rows(s) * row_bytes(s));
}

int pw_rope_place(struct pw_rope_tables *r, struct pw_dev *dev, struct pw_pool *pool, struct pw_arena *arena, const struct pw_rope_shape *s)
{
    const int64_t columns = pw_model_config_rotary(s->config) / 2, rows = all_rows(s);
    *r = (struct pw_rope_tables){.shape = *s, .dev = dev};
    for (int i = 0; i < tables_of(s->config); i++) {
        void *cosines = pw_pool_take(pool, (size_t)rows * row_bytes(s)), *sines = pw_pool_take(pool, (size_t)rows * row_bytes(s));
        PW_CHECK(cosines && sines, PW_E_NOMEM, "no room for the rotary tables");
        r->cosines[i] = pw_tensor2(cosines, s->type, rows, columns);
        r->sines[i] = pw_tensor2(sines, s->type, rows, columns);
    }
    r->frequencies = pw_arena_array(arena, (size_t)columns, sizeof *r->frequencies);
    PW_CHECK(r->frequencies, PW_E_NOMEM, "out of memory for rotary frequencies");
    if (!dev->host) {
        r->staged = pw_arena_array(arena, 2 * PIECE, row_bytes(s));
        PW_CHECK(r->staged, PW_E_NOMEM, "out of memory for the rotary tables");
    }
    return 0;
}

/* n rows from position `first` on. */
static void fill(void *cosines, void *sines, enum pw_dtype type, int64_t columns, int64_t first, int64_t n, const double *freq, double factor)
{
    for (int64_t p = 0; p < n; p++)
        for (int64_t i = 0; i < columns; i++) {
            const int64_t at = p * columns + i;
            if (type == PW_F64) {
                ((double *)cosines)[at] = cos((double)(first + p) * freq[i]) * factor;
                ((double *)sines)[at] = sin((double)(first + p) * freq[i]) * factor;
            } else {
                const float angle = (float)(first + p) * (float)freq[i];
                ((float *)cosines)[at] = (float)(cos((double)angle) * factor);
                ((float *)sines)[at] = (float)(sin((double)angle) * factor);
            }
        }
}

/* Rows at..at + n of a table become those of positions first..first + n. */
static int make_rows(struct pw_rope_tables *r, int table, int64_t at, int64_t first, int64_t n, const double *freq, double factor)
{
    const size_t bytes = row_bytes(&r->shape);
    const int64_t columns = r->cosines[table].shape[1];
    char *const cosines = (char *)r->cosines[table].data, *const sines = (char *)r->sines[table].data;
    for (int64_t done = 0; done < n; done += PIECE) {
        const int64_t some = smaller(n - done, PIECE);
        const size_t offset = (size_t)(at + done) * bytes;
        char *const c = r->staged ? r->staged : cosines + offset, *const s = r->staged ? c + (size_t)PIECE * bytes : sines + offset;
        fill(c, s, r->shape.type, columns, first + done, some, freq, factor);
        if (!r->staged)
            continue;
        PW_PASS(pw_dev_put(r->dev, cosines + offset, c, (size_t)some * bytes));
        PW_PASS(pw_dev_put(r->dev, sines + offset, s, (size_t)some * bytes));
    }
    return 0;
}

/* The same of both tables, for a sequence of this length. */
static int make(struct pw_rope_tables *r, int set, int64_t at, int64_t first, int64_t n, int64_t length)
{
    const struct pw_model_config *c = r->shape.config;
    double *const freq = r->frequencies;
    PW_PASS(pw_rope_frequencies(c, set == 1 ? PW_ROPE_STRETCHED : PW_ROPE_GLOBAL, length, freq));
    PW_PASS(make_rows(r, 0, at, first, n, freq, c->rope_attention > 0 ? c->rope_attention : 1));
    if (tables_of(c) == 1)
        return 0;
    PW_PASS(pw_rope_frequencies(c, PW_ROPE_LOCAL, length, freq));
    return make_rows(r, 1, at, first, n, freq, 1);
}

void pw_rope_pass(struct pw_rope_tables *r) { r->taken = 0; }

int pw_rope_rows(struct pw_rope_tables *r, int64_t first, int64_t n, int64_t length, int32_t *rows)
{
    const struct pw_rope_shape *s = &r->shape;
    const bool further = beyond(s->config, length), own = further && s->config->rope_scaling == PW_ROPE_DYNAMIC;
    const int set = further && !own;
    PW_CHECK(first >= 0 && n >= 0 && length <= longest_of(s) && n <= length - first, PW_E_FAIL, "%lld tokens after %lld of a sequence of %lld, and the rotary tables are for %lld", (long long)n,
             (long long)first, (long long)length, (long long)longest_of(s));
    int64_t base = set == 0 ? 0 : set_rows(s, 0);
    if (own) {
        PW_CHECK(n <= s->tokens - r->taken, PW_E_FAIL, "%lld more tokens after %lld in a pass, and the rotary tables are for %lld", (long long)n, (long long)r->taken, (long long)s->tokens);
        base = set_rows(s, 0) + r->taken - first;
        PW_PASS(make(r, 0, base + first, first, n, length));
        r->taken += n;
    } else if (first + n > r->made[set]) {
        const int64_t up_to = smaller((first + n + PIECE - 1) / PIECE * PIECE, set_rows(s, set));
        PW_PASS(make(r, set, base + r->made[set], r->made[set], up_to - r->made[set], length));
        r->made[set] = up_to;
    }
    for (int64_t i = 0; i < n; i++)
        rows[i] = (int32_t)(base + first + i);
    return 0;
}
