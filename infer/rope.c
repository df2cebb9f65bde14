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

int pw_rope_frequencies(const struct pw_model_config *c, double *freq)
{
    PW_CHECK(c->rope_scaling == PW_ROPE_PLAIN || c->rope_scaling == PW_ROPE_LINEAR || c->rope_scaling == PW_ROPE_LLAMA3, PW_E_UNSUPPORTED,
             "rope scaling: expected none, linear or llama3, got one that is not supported");
    PW_CHECK(c->rope_scaling == PW_ROPE_PLAIN || c->rope_factor > 0, PW_E_FORMAT, "rope scaling: factor must be above 0, got %g", c->rope_factor);
    PW_CHECK(c->rope_scaling != PW_ROPE_LLAMA3 || c->rope_high_freq > c->rope_low_freq, PW_E_FORMAT,
             "rope scaling: high_freq_factor must be above low_freq_factor, got %g and %g", c->rope_high_freq, c->rope_low_freq);
    for (int i = 0; i < c->head_dim / 2; i++) {
        freq[i] = pow(c->rope_theta, -2.0 * i / c->head_dim);
        if (c->rope_scaling == PW_ROPE_LINEAR)
            freq[i] /= c->rope_factor;
        else if (c->rope_scaling == PW_ROPE_LLAMA3)
            freq[i] = llama3(c, freq[i]);
    }
    return 0;
}

int pw_rope_tables(const struct pw_model_config *c, struct pw_tensor cosines, struct pw_tensor sines)
{
    const int64_t columns = c->head_dim / 2, positions = cosines.shape[0];
    int rc = 0;
    double *freq = pw_alloc_zero((size_t)columns + 1, sizeof *freq);
    PW_CHECK_OUT(freq, PW_E_NOMEM, "out of memory for %lld rotary frequencies", (long long)columns);
    PW_PASS_OUT(pw_rope_frequencies(c, freq));
    for (int64_t p = 0; p < positions; p++)
        for (int64_t i = 0; i < columns; i++) {
            const double angle = (double)p * freq[i], cosine = cos(angle), sine = sin(angle);
            if (cosines.dtype == PW_F64) {
                ((double *)cosines.data)[p * columns + i] = cosine;
                ((double *)sines.data)[p * columns + i] = sine;
            } else {
                ((float *)cosines.data)[p * columns + i] = (float)cosine;
                ((float *)sines.data)[p * columns + i] = (float)sine;
            }
        }
out:
    pw_free(freq);
    return rc;
}
