/* Rotary tables, with the scalings that stretch a model's context. Knows the config's rope fields, nothing of heads or tokens. */
#include "infer/rope.h"

#include <math.h>

#include "base/error.h"
#include "base/memory.h"

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

/* Dynamic NTK scaling changes nothing within max_position_embeddings, and no sequence here is longer than that. */
int pw_rope_frequencies(const struct pw_model_config *c, enum pw_rope_kind kind, double *freq)
{
    const bool scaled = c->rope_scaling == PW_ROPE_LINEAR || c->rope_scaling == PW_ROPE_LLAMA3 || c->rope_scaling == PW_ROPE_YARN;
    const int dims = pw_model_config_rotary(c);
    PW_CHECK(!scaled || c->rope_factor > 0, PW_E_FORMAT, "rope scaling: factor must be above 0, got %g", c->rope_factor);
    PW_CHECK(c->rope_scaling != PW_ROPE_LLAMA3 || c->rope_high_freq > c->rope_low_freq, PW_E_FORMAT,
             "rope scaling: high_freq_factor must be above low_freq_factor, got %g and %g", c->rope_high_freq, c->rope_low_freq);
    PW_CHECK(c->rope_scaling != PW_ROPE_YARN || (c->rope_beta_slow > 0 && c->rope_beta_fast > c->rope_beta_slow && c->rope_original_context > 0), PW_E_FORMAT,
             "rope scaling: beta_fast must be above beta_slow, got %g and %g", c->rope_beta_fast, c->rope_beta_slow);
    for (int i = 0; i < dims / 2; i++) {
        freq[i] = pow(kind == PW_ROPE_LOCAL ? c->rope_local_theta : c->rope_theta, -2.0 * i / dims);
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

/* ---- tables --------------------------------------------------------------------------------------------------------- */

bool pw_rope_two_sets(const struct pw_model_config *c)
{
    return c->rope_scaling == PW_ROPE_LONG && (double)c->context > c->rope_original_context;
}

int64_t pw_rope_longest(const struct pw_model_config *c, int64_t longest) { return longest > 0 && longest < c->context ? longest : c->context; }

int64_t pw_rope_rows(const struct pw_model_config *c, int64_t longest)
{
    const int64_t rows = pw_rope_longest(c, longest), original = pw_rope_two_sets(c) ? (int64_t)c->rope_original_context : 0;
    return rows > original ? original + rows : rows;
}

int32_t pw_rope_row(const struct pw_model_config *c, int64_t position, int64_t length)
{
    const int64_t original = pw_rope_two_sets(c) ? (int64_t)c->rope_original_context : INT64_MAX;
    return (int32_t)(length > original ? original + position : position);
}

int pw_rope_tables_of(const struct pw_model_config *c) { return c->rope_local_theta > 0 ? 2 : 1; }

size_t pw_rope_bytes(const struct pw_model_config *c, int64_t longest, size_t size)
{
    return 2 * (size_t)pw_rope_tables_of(c) * pw_pool_round((size_t)pw_rope_rows(c, longest) * (size_t)(pw_model_config_rotary(c) / 2) * size);
}

/* Rows first..first + n of both tables, positions from 0. */
static void fill(struct pw_tensor cosines, struct pw_tensor sines, int64_t first, int64_t n, const double *freq, double factor)
{
    const int64_t columns = cosines.shape[1];
    for (int64_t p = 0; p < n; p++)
        for (int64_t i = 0; i < columns; i++) {
            const int64_t at = (first + p) * columns + i;
            if (cosines.dtype == PW_F64) {
                ((double *)cosines.data)[at] = cos((double)p * freq[i]) * factor;
                ((double *)sines.data)[at] = sin((double)p * freq[i]) * factor;
            } else {
                const float angle = (float)p * (float)freq[i];
                ((float *)cosines.data)[at] = (float)(cos((double)angle) * factor);
                ((float *)sines.data)[at] = (float)(sin((double)angle) * factor);
            }
        }
}

int pw_rope_tables(const struct pw_model_config *c, bool local, struct pw_tensor cosines, struct pw_tensor sines)
{
    const double factor = !local && c->rope_attention > 0 ? c->rope_attention : 1;
    const int64_t original = !local && pw_rope_two_sets(c) ? (int64_t)c->rope_original_context : 0, rows = cosines.shape[0], within = rows < original ? rows : original;
    int rc = 0;
    double *freq = pw_alloc_zero((size_t)cosines.shape[1] + 1, sizeof *freq);
    PW_CHECK_OUT(freq, PW_E_NOMEM, "out of memory for %lld rotary frequencies", (long long)cosines.shape[1]);
    if (original > 0) {
        PW_PASS_OUT(pw_rope_frequencies(c, PW_ROPE_GLOBAL, freq));
        fill(cosines, sines, 0, within, freq, factor);
    }
    PW_PASS_OUT(pw_rope_frequencies(c, local ? PW_ROPE_LOCAL : original > 0 ? PW_ROPE_STRETCHED : PW_ROPE_GLOBAL, freq));
    fill(cosines, sines, within, rows - within, freq, factor);
out:
    pw_free(freq);
    return rc;
}
