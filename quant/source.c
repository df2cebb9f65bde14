/* See the header. Never holds more than the rows asked for. */
#include "quant/source.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/limit.h"
#include "quant/quant.h"

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

/* What follows the layer in a name; NULL: it is of no layer of this model. */
static const char *of_layer(const struct pw_model_config *c, const char *name, int *layer)
{
    int used = 0;
    return sscanf(name, "model.layers.%9d.%n", layer, &used) == 1 && used > 0 && *layer >= 0 && *layer < c->layers ? name + used : NULL;
}

int pw_router_of(const struct pw_model_config *c, const char *name)
{
    int layer;
    const char *rest = of_layer(c, name, &layer);
    const size_t n = strlen(pw_router_suffix(c));
    if (!rest || !pw_model_config_sparse(c, layer))
        return -1;
    return (strncmp(rest, pw_router_suffix(c), n) == 0 && !strcmp(rest + n, ".weight")) || !strcmp(rest, "mlp.gate.weight") ? layer : -1;
}

bool pw_expert_named(const struct pw_model_config *c, const char *name, int *layer, int *expert, enum pw_expert_part *part)
{
    size_t length;
    const char *rest = of_layer(c, name, layer);
    return rest && pw_model_config_sparse(c, *layer) && pw_expert_of(rest, expert, part, &length) && !strcmp(rest + length, ".weight") && *expert < c->experts;
}

bool pw_experts_joined(const struct pw_model_config *c, const struct pw_stored *t, int *layer, int *first, int *last)
{
    static const struct { const char *name; int first, last; } known[] = {
        {"gate_up_proj", PW_EXPERT_GATE, PW_EXPERT_DOWN}, {"down_proj", PW_EXPERT_DOWN, PW_EXPERT_PARTS}, {"gate_proj.weight", PW_EXPERT_GATE, PW_EXPERT_UP},
        {"up_proj.weight", PW_EXPERT_UP, PW_EXPERT_DOWN}, {"down_proj.weight", PW_EXPERT_DOWN, PW_EXPERT_PARTS}};
    static const char where[] = "mlp.experts.";
    const char *rest = of_layer(c, t->name, layer);
    if (!rest || t->ndim != 3 || !pw_model_config_sparse(c, *layer) || strncmp(rest, where, strlen(where)) != 0)
        return false;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(rest + strlen(where), known[i].name)) {
            *first = known[i].first;
            *last = known[i].last;
            return true;
        }
    return false;
}

/* What a stored tensor is in a model of this config. */
enum pw_role pw_role_of(const struct pw_model_config *c, const char *name, enum pw_linear *linear)
{
    int layer = -1, expert;
    enum pw_expert_part part;
    *linear = PW_LIN_COUNT;
    if (strstr(name, ".weight.") || ends_with(name, ".SCB") || ends_with(name, ".weight_format") || ends_with(name, ".rotary_emb.inv_freq"))
        return PW_ROLE_COMPANION;
    if (!strcmp(name, "model.embed_tokens.weight") || !strcmp(name, "lm_head.weight") || !strcmp(name, "model.norm.weight"))
        return PW_ROLE_DENSE;
    const char *rest = of_layer(c, name, &layer);
    if (!rest)
        return PW_ROLE_UNKNOWN;
    for (int k = 0; k < PW_NORM_COUNT; k++) {
        const char *suffix = pw_norm_suffix(c, (enum pw_norm)k);
        const size_t n = suffix ? strlen(suffix) : 0;
        if (suffix && strncmp(rest, suffix, n) == 0 && !strcmp(rest + n, ".weight"))
            return PW_ROLE_DENSE;
    }
    for (int l = 0; l < PW_LIN_COUNT; l++) {
        const char *suffix = pw_linear_suffix((enum pw_linear)l);
        size_t n = strlen(suffix);
        if (!pw_linear_has(c, (enum pw_linear)l) || strncmp(rest, suffix, n) != 0)
            continue;
        *linear = (enum pw_linear)l;
        if (!strcmp(rest + n, ".weight"))
            return PW_ROLE_LINEAR;
        if (!strcmp(rest + n, ".bias"))
            return PW_ROLE_DENSE;
    }
    if (pw_router_of(c, name) >= 0)
        return PW_ROLE_DENSE;
    return pw_expert_named(c, name, &layer, &expert, &part) ? PW_ROLE_LINEAR : PW_ROLE_UNKNOWN;
}

int pw_source_open(struct pw_source *s, struct pw_checkpoint *c, const struct pw_stored *t, bool interleaved)
{
    const struct pw_model_config *m = pw_checkpoint_config(c);
    enum pw_linear l;
    const enum pw_role role = pw_role_of(m, t->name, &l);
    *s = (struct pw_source){.name = t->name, .interleave = interleaved};
    if (interleaved != m->rope_interleaved && (l == PW_LIN_Q || l == PW_LIN_K))
        s->heads = l == PW_LIN_Q ? m->heads : m->kv_heads;
    int layer, expert;
    enum pw_expert_part part;
    if (pw_expert_named(m, t->name, &layer, &expert, &part))
        return pw_checkpoint_expert(c, layer, expert, part, &s->w);     /* under a name of its own, or a slice */
    if (pw_router_of(m, t->name) >= 0)
        return pw_checkpoint_router(c, pw_router_of(m, t->name), &s->w);
    if (role == PW_ROLE_LINEAR) {
        int64_t n_out, n_in;
        pw_linear_shape(m, l, &n_out, &n_in);
        return pw_checkpoint_weight(c, t->name, n_out, n_in, &s->w);
    }
    PW_CHECK(t->ndim == 1 || t->ndim == 2, PW_E_FORMAT, "%s: expected one or two dimensions, got %d", t->name, t->ndim);
    if (t->ndim == 2)
        return pw_checkpoint_weight(c, t->name, t->shape[0], t->shape[1], &s->w);
    struct pw_tensor x;
    PW_PASS(pw_checkpoint_tensor(c, t->name, t->shape[0], 0, &x));
    s->vector = true;
    s->w = (struct pw_weight){.n_out = 1, .n_in = t->shape[0], .type = PW_Q_DENSE, .dtype = x.dtype, .data = x.data};
    return 0;
}

/* Which stored row (or element) becomes number i of n: heads of d, pairs (j, j + d/2) or (2j, 2j + 1). */
static int64_t from_row(const struct pw_source *s, int64_t n, int64_t i)
{
    const int64_t d = n / s->heads, h = i / d, k = i % d;
    if (s->interleave)
        return h * d + k % 2 * (d / 2) + k / 2;
    return h * d + (k < d / 2 ? 2 * k : 2 * (k - d / 2) + 1);
}

static int read_rows(struct pw_dev *dev, const struct pw_source *s, int64_t first, struct pw_tensor rows)
{
    if (s->w.type != PW_Q_DENSE)
        PW_TRY(pw_decode(dev, rows, &s->w, first), "reading %s", s->name);
    else
        PW_TRY(pw_quant_widen(rows.data, (const char *)s->w.data + (size_t)(first * s->w.n_in) * pw_dtype_bytes(s->w.dtype), s->w.dtype, pw_count(rows)),
               "reading %s, rows from %" PRId64, s->name, first);
    return 0;
}

int pw_source_rows(struct pw_dev *dev, const struct pw_source *s, int64_t first, struct pw_tensor rows)
{
    if (!s->heads)
        return read_rows(dev, s, first, rows);
    if (!s->vector) {
        for (int64_t i = 0; i < rows.shape[0]; i++)
            PW_PASS(read_rows(dev, s, from_row(s, s->w.n_out, first + i), pw_rows(rows, i, 1)));
        return 0;
    }
    const int64_t n = s->w.n_in;
    float *out = rows.data, *x = pw_alloc((size_t)n * sizeof *x);
    PW_CHECK(x, PW_E_NOMEM, "%s: no memory", s->name);
    const int rc = read_rows(dev, s, 0, pw_tensor2(x, PW_F32, 1, n));
    for (int64_t i = 0; rc == 0 && i < n; i++)
        out[i] = x[from_row(s, n, i)];
    pw_free(x);
    return rc;
}

/* ---- memory ---- */

/* Stacks of threads, code that is first used, buffers of files: 0 to 4 MiB were measured over types, formats and shapes. */
#define LIBRARY_BYTES ((size_t)5 << 20)

void pw_source_forget(const struct pw_checkpoint *c, const struct pw_source *s)
{
    const struct pw_weight *w = &s->w;
    const size_t blocks = w->absmax || w->absmax_q ? (size_t)pw_weight_blocks(w) : 0;
    pw_checkpoint_forget(c, w->data, pw_weight_data_bytes(w));
    if (w->absmax)
        pw_checkpoint_forget(c, w->absmax, (w->type == PW_Q_INT8 ? (size_t)w->n_out : blocks) * sizeof(float));
    if (w->absmax_q)
        pw_checkpoint_forget(c, w->absmax_q, blocks);
}

void pw_making_add(struct pw_making *k, const struct pw_checkpoint *c, const struct pw_source *s, size_t made)
{
    const size_t stored = pw_weight_bytes(&s->w);
    if (stored + made > k->stored + k->made) {
        k->stored = stored;
        k->made = made;
    }
    if (!pw_checkpoint_forget(c, s->w.data, pw_weight_data_bytes(&s->w)))
        k->copies += stored;
}

int pw_making_check(const struct pw_making *k, const struct pw_checkpoint *c, uint64_t memory, size_t beside)
{
    const size_t hashing = pw_checkpoint_hash_bytes(c), one = k->stored + k->made, now = pw_rss_bytes() + LIBRARY_BYTES + beside, before = pw_peak_rss_bytes();
    const struct pw_limit_part parts[] = {{"program", now}, {"copies of tensors that are not aligned", k->copies}, {"the largest tensor as stored", k->stored}, {"and as it becomes", k->made}};
    const struct pw_limit_part hash[] = {{"program", now}, {"the model while it is hashed", hashing}}, already[] = {{"program until now", before}};
    if (before > now + (hashing > k->copies + one ? hashing : k->copies + one))
        return pw_limit_check(memory, already, 1, NULL);
    return hashing > k->copies + one ? pw_limit_check(memory, hash, 2, "fewer --threads") : pw_limit_check(memory, parts, 4, NULL);
}

void pw_error_add(struct pw_error_sum *e, const float *want, const float *got, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        e->squares += d * d;
        if (!(d <= e->max))
            e->max = d;
    }
    e->n += n;
}

int pw_source_narrow(void *out, enum pw_dtype to, const float *x, float *back, int64_t n, const char *name)
{
    for (int64_t i = 0; i < n; i++) {
        uint16_t u = to == PW_F16 ? pw_f32_to_f16(x[i]) : pw_f32_to_bf16(x[i]);
        ((uint16_t *)out)[i] = u;
        back[i] = to == PW_F16 ? pw_f16_to_f32(u) : pw_bf16_to_f32(u);
        PW_CHECK(isfinite(back[i]), PW_E_NUMERIC, "%s: %g does not fit into %s", name, (double)x[i], pw_dtype_name(to));
    }
    return 0;
}
