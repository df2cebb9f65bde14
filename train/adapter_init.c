/* Where the training of an adapter begins: values for a fresh one, or those of a folder.
 *
 * Every way leaves an adapter that works on the base as `pw` loads it, so that what is trained is what is served:
 *   pissa, pissa_niter_N   the principal part of W (as it is in memory, so of the dequantised one on a quantised base) is the trained half of the pair, and minus the same the half
 *          that stays: W + s B A - s B0 A0. That is PiSSA's residual base, but the base itself is not changed (Meng et al. 2024)
 *   loftq  the principal part of what quantising took away, W - Q: the end of LoftQ (Li et al. 2023). With one round Q is Q(W), the base as it is loaded;
 *          with more, Q is the run's own base (train/loftq.h) */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "lora/adapter_file.h"
#include "lora/principal.h"
#include "train/loftq.h"
#include "train/run_parts.h"

/* ---- values on the host, brought to where the adapter lives ---- */

static int bring(struct pw_run *run, const struct pw_adapter *host)
{
    for (size_t i = 0; i < host->n; i++) {
        const struct pw_lora *from = &host->modules[i].lora, *to = &run->adapter.modules[i].lora;
        PW_PASS(pw_dev_put(run->opt.dev, to->a.data, from->a.data, pw_bytes(from->a)));
        PW_PASS(pw_dev_put(run->opt.dev, to->b.data, from->b.data, pw_bytes(from->b)));
    }
    return 0;
}

/* A stream for each module and use; pw_adapter_init has use 0. */
static struct pw_rng stream_of(uint64_t seed, size_t module, uint64_t use)
{
    return pw_rng_make(seed, PW_STREAM_INIT | (uint64_t)module << 8 | use << 40);
}

static void gaussian(struct pw_adapter *a, uint64_t seed)
{
    for (size_t i = 0; i < a->n; i++) {
        struct pw_rng rng = stream_of(seed, i, 1);
        float *x = a->modules[i].lora.a.data;
        for (int64_t k = 0; k < pw_count(a->modules[i].lora.a); k++)
            x[k] = (float)(pw_rng_normal(&rng) / a->modules[i].lora.r);
    }
}

/* ---- principal parts ---- */

/* Models on the processor that are read from: `base` as it is trained on, `full` as it is stored (loftq). */
struct sources { struct pw_dev *dev; struct pw_model *base, *full; bool own_base; };

static int open_sources(struct sources *s, struct pw_run *run, bool loftq)
{
    const struct pw_recipe *r = run->opt.recipe;
    struct pw_model_options o = {.tokenizer = r->tokenizer, .quantise = pw_run_quantise(run), .double_quant = r->double_quant};
    const struct pw_dev_options host = {.kind = "cpu", .threads = run->opt.dev->threads};
    const char *base = run->base ? run->base : r->model;
    s->own_base = !run->opt.dev->host;
    s->base = s->own_base ? NULL : run->model;
    PW_PASS(pw_dev_open(&s->dev, &host));
    if (s->own_base)
        PW_PASS(pw_model_load(&s->base, s->dev, base, &o));
    o.quantise = NULL;
    if (loftq)
        PW_PASS(pw_model_load(&s->full, s->dev, r->model, &o));
    return 0;
}

static void close_sources(struct sources *s)
{
    pw_model_free(s->full);
    if (s->own_base)
        pw_model_free(s->base);
    pw_dev_close(s->dev);
}

int pw_run_widened(struct pw_dev *dev, struct pw_model *m, const char *module, float *out)
{
    struct pw_weight w = *pw_model_linear(m, module);
    w.lora = NULL;
    return pw_decode(dev, pw_tensor2(out, PW_F32, w.n_out, w.n_in), &w, 0);
}

/* rounds: of pissa; -1: exactly */
struct way { bool loftq; int rounds; struct pw_rng rng; };

static int module_parts(const struct sources *s, const struct pw_adapter_module *m, const struct way *way)
{
    const bool loftq = way->loftq;
    const int64_t n = m->n_out * m->n_in, rank = m->lora.r, half = loftq ? rank : rank / 2;
    float *w = pw_alloc((size_t)n * sizeof *w), *stored = loftq ? pw_alloc((size_t)n * sizeof *stored) : NULL, *a = m->lora.a.data, *b = m->lora.b.data;
    int rc = 0;
    PW_CHECK_OUT(w && (stored || !loftq), PW_E_NOMEM, "%s: no memory for its weight", m->name);
    PW_PASS_OUT(pw_run_widened(s->dev, s->base, m->name, w));
    if (loftq) {
        PW_CHECK_OUT(pw_model_linear(s->full, m->name)->type == PW_Q_DENSE, PW_E_REFUSED, "adapter.init: loftq needs the weights as they were before quantising, and %s is stored as %s", m->name,
                     pw_qtype_name(pw_model_linear(s->full, m->name)->type));
        PW_PASS_OUT(pw_run_widened(s->dev, s->full, m->name, stored));
        for (int64_t i = 0; i < n; i++)
            w[i] = stored[i] - w[i];
    }
    PW_PASS_OUT(way->rounds < 0 ? pw_principal_pair(w, m->n_out, m->n_in, (int)half, m->lora.scale, a, b, rank)
                                : pw_principal_fast(w, m->n_out, m->n_in, (int)half, way->rounds, way->rng, m->lora.scale, a, b, rank));
    for (int64_t i = 0; !loftq && i < m->n_out; i++)
        for (int64_t k = 0; k < half; k++)
            b[i * rank + half + k] = -b[i * rank + k];
    if (!loftq)
        memcpy(a + half * m->n_in, a, (size_t)(half * m->n_in) * sizeof *a);
out:
    pw_free(stored);
    pw_free(w);
    return rc;
}

static int principal(struct pw_run *run, struct pw_adapter *host, uint64_t seed)
{
    struct way way = {.loftq = !pw_recipe_pissa(run->opt.recipe, &way.rounds)};
    struct sources s = {0};
    int rc = 0;
    PW_TRY_OUT(open_sources(&s, run, way.loftq), "adapter.init: %s", run->opt.recipe->init);
    for (size_t i = 0; i < host->n; i++) {
        way.rng = stream_of(seed, i, 2);
        PW_TRY_OUT(module_parts(&s, &host->modules[i], &way), "adapter.init: %s: %s", run->opt.recipe->init, host->modules[i].name);
        pw_progress_at(run->opt.progress, (int64_t)i + 1, (int64_t)host->n, NULL);
    }
out:
    close_sources(&s);
    return rc;
}

/* ---- the adapter ---- */

static int fresh_pairs(struct pw_run *run, uint64_t seed)
{
    const char *init = run->opt.recipe->init;
    struct pw_adapter copy = {0}, *host = run->opt.dev->host ? &run->adapter : &copy;
    int rc = 0;
    if (host == &copy)
        PW_PASS(pw_adapter_get(&copy, &run->adapter, run->opt.dev));
    pw_adapter_init(host, seed);
    if (strcmp(init, "gaussian") == 0)
        gaussian(host, seed);
    else if (strcmp(init, "default") != 0)
        rc = principal(run, host, seed);
    if (rc == 0 && host == &copy)
        rc = bring(run, host);
    pw_adapter_free(&copy);
    return rc;
}

size_t pw_run_init_bytes(const struct pw_run *run)
{
    const bool loftq = strcmp(run->opt.recipe->init, "loftq") == 0;
    int rounds = -1;
    size_t most = 0;
    if (!run->has_adapter || !(pw_recipe_pissa(run->opt.recipe, &rounds) || loftq))
        return 0;
    for (size_t i = 0; i < run->adapter.n; i++) {
        const struct pw_adapter_module *m = &run->adapter.modules[i];
        const size_t bytes = (size_t)(m->n_out * m->n_in) * sizeof(float) * (loftq ? 2 : 1) +
                             (rounds < 0 ? pw_principal_bytes : pw_principal_fast_bytes)(m->n_out, m->n_in, m->lora.r);
        most = bytes > most ? bytes : most;
    }
    if (!loftq)
        return most;
    /* The model as it is stored is mapped once more, beside what is trained on; with several rounds that is a folder as large as the weights in memory. */
    if (!pw_recipe_loftq_base(run->opt.recipe))
        return most + pw_checkpoint_bytes(run->model->checkpoint);
    const size_t own = pw_loftq_bytes(run);
    return (own > most ? own : most) + run->model->pool.bytes;
}

int pw_run_fresh_adapter(struct pw_run *run)
{
    PW_PASS(fresh_pairs(run, (uint64_t)run->opt.recipe->seed));
    for (size_t i = 0; i < run->adapter.n_saved; i++)
        PW_PASS(pw_model_base_value(run->model, run->adapter.saved[i].name, run->adapter.saved[i].value));
    PW_PASS(pw_model_norms(run->model));
    /* The magnitudes of a fresh DoRA are the lengths that the base's rows have: it changes nothing yet. */
    for (size_t i = 0; pw_adapter_is_dora(&run->adapter) && i < run->adapter.n; i++)
        PW_PASS(pw_copy(run->opt.dev, run->adapter.modules[i].lora.magnitude, run->adapter.modules[i].lora.norm));
    return 0;
}

int pw_run_adapter_from(struct pw_run *run, const char *dir)
{
    struct pw_adapter from = {0};
    int rc = 0;
    PW_TRY(pw_adapter_load(&from, dir, &run->config), "adapter.init_from");
    PW_CHECK_OUT(strcmp(from.config.kind, run->adapter.config.kind) == 0, PW_E_FAIL, "adapter.init_from: %s is of another kind (expected %s, got %s)", dir,
                 run->adapter.config.kind, from.config.kind);
    for (size_t i = 0; i < run->adapter.n; i++) {
        struct pw_adapter_module *m = &run->adapter.modules[i];
        const struct pw_adapter_module *f = pw_adapter_find(&from, m->name);
        PW_CHECK_OUT(f, PW_E_FAIL, "adapter.init_from: %s has no %s", dir, m->name);
        PW_CHECK_OUT(f->lora.r == m->lora.r && f->lora.scale == m->lora.scale, PW_E_FAIL,
                     "adapter.init_from: %s: %s: rank and scale differ (expected %d and %g, got %d and %g)", dir, m->name, m->lora.r, m->lora.scale,
                     f->lora.r, f->lora.scale);
        PW_PASS_OUT(pw_dev_put(run->opt.dev, m->lora.a.data, f->lora.a.data, pw_bytes(m->lora.a)));
        PW_PASS_OUT(pw_dev_put(run->opt.dev, m->lora.b.data, f->lora.b.data, pw_bytes(m->lora.b)));
        if (pw_adapter_is_dora(&run->adapter))
            PW_PASS_OUT(pw_dev_put(run->opt.dev, m->lora.magnitude.data, f->lora.magnitude.data, pw_bytes(m->lora.magnitude)));
    }
    for (size_t i = 0; i < run->adapter.n_saved; i++) {
        const struct pw_adapter_saved *s = &run->adapter.saved[i], *f = pw_adapter_find_saved(&from, s->name);
        PW_CHECK_OUT(f, PW_E_FAIL, "adapter.init_from: %s has no %s", dir, s->name);
        PW_PASS_OUT(pw_dev_put(run->opt.dev, s->value.data, f->value.data, pw_bytes(s->value)));
    }
    PW_CHECK_OUT(from.n_saved == run->adapter.n_saved, PW_E_FAIL, "adapter.init_from: %s has %zu modules trained whole (expected %zu)", dir, from.n_saved, run->adapter.n_saved);
    PW_CHECK_OUT(from.n == run->adapter.n, PW_E_FAIL, "adapter.init_from: %s has %zu modules (expected %zu)", dir, from.n, run->adapter.n);
out:
    pw_adapter_free(&from);
    return rc;
}
