/* Merging an adapter into its base: scale * B A is added in f32 to the dequantised rows, tensor by tensor, and the change is measured.
 * DoRA then brings each row to its magnitude. Owns the arithmetic and the measure. Refuses to know how the folder is written (quant/). */
#include "lora/merge.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "data/gguf_model.h"

struct merge { const struct pw_adapter *adapter; const struct pw_merge_options *o; struct pw_merge_result *result; size_t merged; };

static const struct pw_adapter_module *module_of(const struct merge *m, const char *name)
{
    char module[320];
    snprintf(module, sizeof module, "%.*s", (int)(strlen(name) - strlen(".weight")), name);
    return pw_adapter_find(m->adapter, module);
}

static const struct pw_adapter_saved *saved_of(const struct merge *m, const char *name)
{
    char module[320];
    if (pw_adapter_is_bias(name, NULL))
        return pw_adapter_find_saved(m->adapter, name);
    snprintf(module, sizeof module, "%.*s", (int)(strlen(name) - strlen(".weight")), name);
    return pw_adapter_find_saved(m->adapter, module);
}

static bool edits(void *ctx, const char *name) { return module_of(ctx, name) || saved_of(ctx, name); }

/* A tensor that was trained whole takes the place of the base's. */
static int replace(struct merge *m, const struct pw_adapter_saved *s, int64_t first, struct pw_tensor rows)
{
    const int64_t width = s->value.shape[s->value.ndim - 1], n = rows.shape[0] * rows.shape[1];
    const float *from = (const float *)s->value.data + first * width;
    float *to = rows.data;
    PW_CHECK(rows.shape[1] == width && (first + rows.shape[0]) * width <= pw_count(s->value), PW_E_FORMAT, "%s: the adapter does not fit", s->name);
    m->merged += first == 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = fabs((double)from[i] - to[i]);
        if (!(d <= m->result->max_change)) {
            m->result->max_change = d;
            snprintf(m->result->where, sizeof m->result->where, "%s", s->name);
        }
        to[i] = from[i];
    }
    return 0;
}

static int edit(void *ctx, const char *name, int64_t first, struct pw_tensor rows)
{
    struct merge *m = ctx;
    if (!pw_adapter_is_bias(name, NULL) && (strlen(name) <= strlen(".weight") || strcmp(name + strlen(name) - strlen(".weight"), ".weight") != 0))
        return 0;
    const struct pw_adapter_saved *whole = saved_of(m, name);
    if (whole)
        return replace(m, whole, first, rows);
    const struct pw_adapter_module *a = module_of(m, name);
    if (!a)
        return 0;
    const int64_t n_in = a->n_in, r = a->lora.r;
    PW_CHECK(rows.shape[1] == n_in && first + rows.shape[0] <= a->n_out, PW_E_FORMAT, "%s: the adapter does not fit", name);
    m->merged += first == 0;
    const float *A = a->lora.a.data, *B = a->lora.b.data;
    float *sum = pw_alloc((size_t)n_in * sizeof(float));
    PW_CHECK(sum, PW_E_NOMEM, "%s: no memory for a row", name);
    double change = m->result->max_change;
    for (int64_t i = 0; i < rows.shape[0]; i++) {
        float *w = (float *)rows.data + i * n_in;
        memset(sum, 0, (size_t)n_in * sizeof(float));
        for (int64_t k = 0; k < r; k++) {
            const float b = B[(first + i) * r + k];
            for (int64_t x = 0; x < n_in; x++)
                sum[x] += b * A[k * n_in + x];
        }
        float ratio = 1;    /* of DoRA: the length that the row is to have to the one it has */
        if (a->lora.magnitude.ndim > 0) {
            double squares = 0;
            for (int64_t x = 0; x < n_in; x++) {
                const double v = (double)(w[x] + (float)a->lora.scale * sum[x]);
                squares += v * v;
            }
            ratio = (float)((double)((const float *)a->lora.magnitude.data)[first + i] / sqrt(squares));
        }
        for (int64_t x = 0; x < n_in; x++) {
            const float before = w[x];
            w[x] = ratio * (before + (float)a->lora.scale * sum[x]);
            const double d = fabs((double)w[x] - before);
            if (!(d <= change)) {
                change = d;
                snprintf(m->result->where, sizeof m->result->where, "%s", a->name);
            }
        }
    }
    pw_free(sum);
    PW_CHECK(isfinite(change), PW_E_NUMERIC, "%s: the merged weight is not a number", name);
    m->result->max_change = change;
    return 0;
}

static int finished(void *ctx, const char *path)
{
    const struct merge *m = ctx;
    PW_CHECK(m->merged == m->adapter->n + m->adapter->n_saved, PW_E_FAIL, "merging: only %zu of %zu modules found their weight", m->merged, m->adapter->n + m->adapter->n_saved);
    PW_CHECK(m->result->max_change > 0, PW_E_FAIL, "merging changed nothing: the adapter is all zero (B is 0 before training)");
    return m->o->finished ? m->o->finished(m->o->ctx, path) : 0;
}

int pw_lora_merge_into(struct pw_dev *dev, struct pw_checkpoint *c, const struct pw_adapter *a, const char *out, const struct pw_merge_options *o,
                       struct pw_merge_result *result, struct pw_progress *progress)
{
    struct pw_outdir dir = {0};
    struct merge m = {.adapter = a, .o = o, .result = result};
    const struct pw_remake how = {.to = o->to, .edit = edit, .edits = edits, .finished = finished, .ctx = &m, .progress = progress};
    bool interleaved = false;
    int rc = 0;
    *result = (struct pw_merge_result){.modules = a->n};
    if (pw_checkpoint_config(c)->tied && (pw_adapter_find_saved(a, "lm_head") || pw_adapter_find_saved(a, "model.embed_tokens"))) {
        rc = pw_error(PW_E_UNSUPPORTED, "merging: the model's output layer is its embedding, and the adapter holds one of its own; a merged model of this kind has one tensor for both");
        pw_error_hint("keep base and adapter as they are: --adapter takes them together everywhere");
        return rc;
    }
    if (o->gguf)
        PW_PASS(pw_gguf_permutes(pw_checkpoint_config(c), &interleaved));
    PW_CHECK((a->paired > 0) == interleaved, PW_E_FAIL, "merging: the adapter's rows are not in the order of what is to be written");
    if (o->gguf)
        return pw_quant_gguf_remake(dev, c, out, o->force, &how);
    PW_CHECK(o->to.type == PW_Q_DENSE, PW_E_USAGE, "merging writes f32, f16 or bf16 into a folder; nothing is merged into quantised weights");
    PW_PASS_OUT(pw_outdir_open(&dir, out, o->force));
    PW_PASS_OUT(pw_quant_remake(dev, c, dir.temp, &how));
    PW_PASS_OUT(finished(&m, dir.temp));
    PW_PASS_OUT(pw_outdir_commit(&dir));
out:
    pw_outdir_abort(&dir);
    return rc;
}

int pw_lora_merge(struct pw_dev *dev, struct pw_checkpoint *c, const struct pw_adapter *a, enum pw_dtype dtype, const char *out_dir, bool force,
                  struct pw_merge_result *result, struct pw_progress *progress)
{
    const struct pw_merge_options o = {.to = {.type = PW_Q_DENSE, .block = 64, .dtype = dtype}, .force = force};
    return pw_lora_merge_into(dev, c, a, out_dir, &o, result, progress);
}
