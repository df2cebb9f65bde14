/* See loftq.h. Two passes over the model: the pairs P of the last round but one, a weight at a time; then the folder, whose rows are W - P. */
#include "train/loftq.h"

#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "kernels/cpu/gemm.h"
#include "lora/principal.h"
#include "quant/quant.h"
#include "train/run_parts.h"

struct part { const struct pw_adapter_module *module; float *a, *minus; bool met; };   /* P = - minus^T a: a (R, n_in), minus (R, n_out) */
struct work {
    struct pw_run *run;
    struct pw_dev *dev;
    struct pw_model *full;          /* as it is stored */
    struct pw_quant_options to;
    struct part *parts;
    float *stored, *rest, *b;       /* of the weight at hand; room for the largest */
    void *codes; size_t code_bytes;
};

static int options_of(const struct pw_run *run, struct pw_quant_options *to)
{
    PW_PASS(pw_quant_parse(run->opt.recipe->quant_type, to));
    to->double_quant = run->opt.recipe->double_quant;
    return 0;
}

int pw_loftq_check(const struct pw_run *run)
{
    const struct pw_checkpoint *c = run->model->checkpoint;
    PW_CHECK(strcmp(pw_checkpoint_format(c), "safetensors") == 0, PW_E_REFUSED, "adapter.loftq_iter: %lld makes a base from unquantised weights of a Hugging Face folder, and %s is %s",
             (long long)run->opt.recipe->loftq_iter, pw_checkpoint_path(c), pw_checkpoint_format(c));
    if (pw_ranks_size(run->opt.ranks) > 1) {
        int rc = pw_error(PW_E_REFUSED, "adapter.loftq_iter: %lld makes a base of its own, which one process does", (long long)run->opt.recipe->loftq_iter);
        pw_error_hint("train.steps: 1 without mpirun makes it; then model: RUN/base with adapter.init: default and adapter.init_from: RUN/adapter");
        return rc;
    }
    return 0;
}

static int64_t largest(const struct pw_run *run)
{
    int64_t most = 0;
    for (size_t i = 0; i < run->adapter.n; i++) {
        const int64_t n = run->adapter.modules[i].n_out * run->adapter.modules[i].n_in;
        most = n > most ? n : most;
    }
    return most;
}

size_t pw_loftq_bytes(const struct pw_run *run)
{
    struct pw_quant_options to;
    size_t pairs = 0, most = 0;
    if (options_of(run, &to) < 0) {
        pw_error_clear();           /* the recipe has checked the type */
        return 0;
    }
    for (size_t i = 0; i < run->adapter.n; i++) {
        const struct pw_adapter_module *m = &run->adapter.modules[i];
        const size_t bytes = pw_quant_bytes(m->n_out, m->n_in, &to) + pw_principal_bytes(m->n_out, m->n_in, m->lora.r) + sizeof(float) * (size_t)(m->n_out * m->lora.r);
        pairs += sizeof(float) * (size_t)m->lora.r * (size_t)(m->n_in + m->n_out);
        most = bytes > most ? bytes : most;
    }
    return pairs + most + 2 * sizeof(float) * (size_t)largest(run);
}

static int work_open(struct work *k)
{
    const struct pw_run *run = k->run;
    const struct pw_recipe *r = run->opt.recipe;
    const struct pw_dev_options host = {.kind = "cpu", .threads = run->opt.dev->threads};
    const struct pw_model_options as_stored = {.tokenizer = r->tokenizer};
    const size_t n = (size_t)largest(run) * sizeof(float);
    int64_t sides = 0;
    PW_PASS(options_of(run, &k->to));
    PW_PASS(pw_dev_open(&k->dev, &host));
    PW_PASS(pw_model_load(&k->full, k->dev, r->model, &as_stored));
    k->parts = pw_alloc_zero(run->adapter.n, sizeof *k->parts);
    k->stored = pw_alloc(n);
    k->rest = pw_alloc(n);
    PW_CHECK(k->parts && k->stored && k->rest, PW_E_NOMEM, "no memory for two weights in f32");
    for (size_t i = 0; i < run->adapter.n; i++) {
        const struct pw_adapter_module *m = k->parts[i].module = &run->adapter.modules[i];
        k->parts[i].a = pw_alloc(sizeof(float) * (size_t)(m->lora.r * m->n_in));
        k->parts[i].minus = pw_alloc(sizeof(float) * (size_t)(m->n_out * m->lora.r));
        PW_CHECK(k->parts[i].a && k->parts[i].minus, PW_E_NOMEM, "%s: no memory for its pair", m->name);
        sides = m->n_out * m->lora.r > sides ? m->n_out * m->lora.r : sides;
        const size_t bytes = pw_quant_bytes(m->n_out, m->n_in, &k->to);
        k->code_bytes = bytes > k->code_bytes ? bytes : k->code_bytes;
    }
    k->codes = pw_alloc(k->code_bytes);
    k->b = pw_alloc((size_t)sides * sizeof(float));
    PW_CHECK(k->codes && k->b, PW_E_NOMEM, "no memory for the codes of a weight");
    return 0;
}

static void work_close(struct work *k)
{
    for (size_t i = 0; k->parts && i < k->run->adapter.n; i++) {
        pw_free(k->parts[i].a);
        pw_free(k->parts[i].minus);
    }
    pw_free(k->parts);
    pw_free(k->stored);
    pw_free(k->rest);
    pw_free(k->b);
    pw_free(k->codes);
    pw_model_free(k->full);
    pw_dev_close(k->dev);
}

/* x (rows first.., n_in) -= the same rows of P */
static void take_part(const struct part *p, int64_t first, int64_t rows, float *x)
{
    const struct pw_adapter_module *m = p->module;
    cpu_gemm_tn(rows, m->n_in, m->lora.r, p->minus + first, m->n_out, p->a, m->n_in, x, m->n_in);
}

/* From rest = W - P the next P: rest becomes Q - W, whose principal part is -P. */
static int one_round(struct work *k, const struct part *p)
{
    const struct pw_adapter_module *m = p->module;
    const int64_t r = m->lora.r;
    struct pw_weight w;
    memset(k->codes, 0, k->code_bytes);
    PW_PASS(pw_quant_place(&w, m->n_out, m->n_in, &k->to, k->codes, k->code_bytes));
    PW_PASS(pw_quant_encode(k->dev, &w, pw_tensor2(k->rest, PW_F32, m->n_out, m->n_in), &k->to));
    PW_PASS(pw_decode(k->dev, pw_tensor2(k->rest, PW_F32, m->n_out, m->n_in), &w, 0));
    for (int64_t i = 0; i < m->n_out * m->n_in; i++)
        k->rest[i] -= k->stored[i];
    PW_PASS(pw_principal_pair(k->rest, m->n_out, m->n_in, (int)r, 1, p->a, k->b, r));
    for (int64_t i = 0; i < m->n_out; i++)
        for (int64_t j = 0; j < r; j++)
            p->minus[j * m->n_out + i] = k->b[i * r + j];
    return 0;
}

static int find_part(struct work *k, const struct part *p)
{
    const struct pw_adapter_module *m = p->module;
    const size_t n = (size_t)(m->n_out * m->n_in) * sizeof(float);
    const struct pw_weight *stored = pw_model_linear(k->full, m->name);
    PW_CHECK(stored && stored->type == PW_Q_DENSE, PW_E_REFUSED, "its weight is not stored unquantised");
    k->to.dtype = stored->dtype;
    PW_PASS(pw_run_widened(k->dev, k->full, m->name, k->stored));
    for (int64_t round = 1; round < k->run->opt.recipe->loftq_iter; round++) {
        memcpy(k->rest, k->stored, n);
        if (round > 1)
            take_part(p, 0, m->n_out, k->rest);
        PW_PASS(one_round(k, p));
    }
    return 0;
}

/* Rows of a linear on their way into the folder. */
static int edit(void *ctx, const char *name, int64_t first, struct pw_tensor rows)
{
    struct work *k = ctx;
    for (size_t i = 0; i < k->run->adapter.n; i++) {
        struct part *p = &k->parts[i];
        const size_t n = strlen(p->module->name);
        if (strncmp(name, p->module->name, n) != 0 || strcmp(name + n, ".weight") != 0)
            continue;
        p->met = true;
        take_part(p, first, rows.shape[0], rows.data);
        return 0;
    }
    return 0;
}

static int write_folder(struct work *k, const char *path)
{
    const struct pw_remake how = {.to = k->to, .edit = edit, .ctx = k, .progress = k->run->opt.progress};
    struct pw_outdir out = {0};
    int rc = 0;
    PW_PASS_OUT(pw_outdir_open(&out, path, true));
    PW_PASS_OUT(pw_quant_remake(k->dev, k->full->checkpoint, out.temp, &how));
    for (size_t i = 0; i < k->run->adapter.n; i++)
        PW_CHECK_OUT(k->parts[i].met, PW_E_FAIL, "%s: no weight of that name was written", k->parts[i].module->name);
    PW_PASS_OUT(pw_outdir_commit(&out));
out:
    pw_outdir_abort(&out);
    return rc;
}

int pw_loftq_base(struct pw_run *run, const char *path)
{
    struct work k = {.run = run};
    int rc = 0;
    PW_TRY_OUT(work_open(&k), "adapter.init: loftq");
    for (size_t i = 0; i < run->adapter.n; i++) {
        PW_TRY_OUT(find_part(&k, &k.parts[i]), "adapter.init: loftq: %s", run->adapter.modules[i].name);
        pw_progress_at(run->opt.progress, (int64_t)i + 1, (int64_t)run->adapter.n, "loftq");
    }
    PW_TRY_OUT(write_folder(&k, path), "writing %s", path);
out:
    work_close(&k);
    return rc;
}
