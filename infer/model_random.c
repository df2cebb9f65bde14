/* A model of random weights, made where it lies: noise and encoding are ops of the device, so that a 7B shape costs no file, no copy and no second
 * model's worth of host memory. For measuring speed and memory; its answers mean nothing. */
#include "infer/model.h"

#include <string.h>

#include "base/error.h"
#include "infer/memory_limit.h"
#include "infer/model_parts.h"
#include "quant/stage.h"

struct made {
    struct pw_model *m;
    struct pw_pool scales;          /* (most rows) f32, for the noise */
    struct pw_quant_stage stage;
    struct pw_quant_options quant, head;   /* type PW_Q_DENSE: in `type` */
    enum pw_dtype type;
    double half_width;              /* of the uniform numbers: the deviation is that of the config */
    uint64_t seed, drawn;
};

static size_t dense(const struct made *k, int64_t n) { return pw_pool_round((size_t)n * pw_dtype_bytes(k->type)); }
static size_t bytes_of(const struct made *k, const struct pw_quant_options *q, int64_t n_out, int64_t n_in)
{
    return q->type == PW_Q_DENSE ? dense(k, n_out * n_in) : pw_pool_round(pw_quant_bytes(n_out, n_in, q));
}

/* x (T, D), cleared, becomes uniform in [-half_width, half_width). */
static int draw(struct made *k, struct pw_tensor x)
{
    return pw_noise(k->m->dev, x, pw_tensor1(k->scales.base, PW_F32, x.shape[0]), (struct pw_drop){.seed = k->seed, .offset = k->drawn++});
}

static int make_matrix(struct made *k, struct pw_weight *w, int64_t n_out, int64_t n_in, const struct pw_quant_options *q)
{
    struct pw_dev *dev = k->m->dev;
    void *memory = pw_pool_take(&k->m->pool, bytes_of(k, q, n_out, n_in));
    PW_CHECK(memory, PW_E_NOMEM, "no room for a random weight");
    if (q->type == PW_Q_DENSE) {
        const struct pw_tensor t = pw_tensor2(memory, k->type, n_out, n_in);
        *w = pw_weight_dense(t);
        return draw(k, t);
    }
    struct pw_quant_encoder e;
    int64_t step;
    PW_PASS(pw_quant_place(w, n_out, n_in, q, memory, bytes_of(k, q, n_out, n_in)));
    PW_PASS(pw_quant_stage_begin(&k->stage, &e, w, &step));
    for (int64_t first = 0; first < n_out; first += step) {
        const struct pw_tensor rows = pw_tensor2(k->stage.tile, PW_F32, n_out - first < step ? n_out - first : step, n_in);
        PW_PASS(pw_fill(dev, rows, 0));
        PW_PASS(draw(k, rows));
        PW_PASS(pw_quant_encode_rows(dev, &e, first, rows));
    }
    return pw_quant_stage_end(&k->stage, &e);
}

static int make_norm(struct made *k, struct pw_tensor *t, int64_t n)
{
    *t = pw_tensor1(pw_pool_take(&k->m->pool, (size_t)n * sizeof(float)), PW_F32, n);
    PW_CHECK(t->data, PW_E_NOMEM, "no room for a norm");
    return pw_fill(k->m->dev, *t, 1 - k->m->config.norm_offset);
}

/* What the pool must hold, the most rows of a matrix, and what the device needs for quantising. */
static size_t count(const struct made *k, int64_t *rows, struct pw_quant_stage_size *size)
{
    const struct pw_model_config *c = &k->m->config;
    size_t bytes = pw_pool_round((size_t)c->hidden * sizeof(float)) + dense(k, c->vocab * c->hidden);
    *rows = c->vocab;
    for (int l = -1; l < PW_LIN_COUNT; l++) {
        const bool head = l < 0;
        const struct pw_quant_options *q = head ? &k->head : &k->quant;
        int64_t n_out = c->vocab, n_in = c->hidden;
        if ((head && c->tied && q->type == PW_Q_DENSE) || (!head && !pw_linear_has(c, l)))
            continue;
        if (!head)
            pw_linear_shape(c, l, &n_out, &n_in);
        bytes += bytes_of(k, q, n_out, n_in) * (head ? 1 : (size_t)c->layers);
        *rows = n_out > *rows ? n_out : *rows;
        if (q->type == PW_Q_DENSE)
            continue;
        size->widest = n_in > size->widest ? n_in : size->widest;
        size->most = n_out * n_in > size->most ? n_out * n_in : size->most;
        size->block = q->block > size->block ? q->block : size->block;
    }
    for (int n = 0; n < PW_NORM_COUNT; n++)
        bytes += pw_norm_suffix(c, n) ? pw_pool_round((size_t)pw_norm_width(c, n) * sizeof(float)) * (size_t)c->layers : 0;
    return bytes;
}

static int parse(const char *name, bool double_quant, const struct pw_dev *dev, struct pw_quant_options *q, enum pw_dtype *type)
{
    *q = (struct pw_quant_options){.type = PW_Q_DENSE, .dtype = dev->act};
    if (name && name[0]) {
        PW_PASS(pw_quant_parse(name, q));
        q->double_quant = double_quant;
    }
    if (q->type == PW_Q_DENSE)
        *type = q->dtype;
    PW_CHECK(q->type == PW_Q_DENSE || pw_quant_stage_serves(dev, q->type), PW_E_UNSUPPORTED, "device %s does not make weights of type %s itself", dev->kind, name);
    return 0;
}

static int make(struct made *k)
{
    struct pw_model *m = k->m;
    const struct pw_model_config *c = &m->config;
    const struct pw_quant_options plain = {.type = PW_Q_DENSE};
    struct pw_weight table;
    PW_PASS(make_matrix(k, &table, c->vocab, c->hidden, &plain));
    m->embed = table;
    m->head = table;
    if (!c->tied || k->head.type != PW_Q_DENSE)
        PW_TRY(make_matrix(k, &m->head, c->vocab, c->hidden, &k->head), "head");
    PW_PASS(make_norm(k, &m->norm_final, c->hidden));
    for (int i = 0; i < c->layers; i++) {
        for (int n = 0; n < PW_NORM_COUNT; n++)
            if (pw_norm_suffix(c, n))
                PW_PASS(make_norm(k, &m->layers[i].norm[n], pw_norm_width(c, n)));
        for (int l = 0; l < PW_LIN_COUNT; l++) {
            int64_t n_out, n_in;
            if (!pw_linear_has(c, l))
                continue;
            pw_linear_shape(c, l, &n_out, &n_in);
            PW_TRY(make_matrix(k, &m->layers[i].linear[l], n_out, n_in, &k->quant), "layer %d: %s", i, pw_linear_suffix(l));
        }
    }
    pw_model_count_bytes(m);
    return pw_dev_sync(m->dev);
}

int pw_model_random(struct pw_model **out, struct pw_dev *dev, const struct pw_model_config *config, const struct pw_model_options *opt, uint64_t seed)
{
    struct made k = {.type = dev->act, .half_width = (config->init_range > 0 ? config->init_range : 0.02) * 1.7320508075688772, .seed = seed};
    struct pw_quant_stage_size size = {0};
    int64_t rows = 0;
    int rc = 0;
    *out = NULL;
    PW_CHECK(!config->qkv_bias && !config->o_bias && !config->mlp_bias && !config->experts, PW_E_UNSUPPORTED, "a random model with biases or experts");
    PW_PASS(pw_model_new(&k.m, dev, config));
    if (opt->context > 0)
        k.m->config.context = opt->context;
    k.m->config.parameters = pw_model_config_count(&k.m->config);
    PW_PASS_OUT(parse(opt->quantise, opt->double_quant, dev, &k.quant, &k.type));
    PW_PASS_OUT(parse(opt->head_type, false, dev, &k.head, &k.type));
    PW_CHECK_OUT(k.type == PW_F32 || k.type == dev->act, PW_E_UNSUPPORTED, "device %s makes no random weights of type %s", dev->kind, pw_dtype_name(k.type));
    PW_PASS_OUT(pw_model_make_layers(k.m));
    const size_t bytes = count(&k, &rows, &size);
    k.m->memory = opt->memory;
    PW_PASS_OUT(pw_memory_check_weights(k.m, bytes + pw_pool_round((size_t)rows * sizeof(float))));
    PW_PASS_OUT(pw_pool_open(&k.m->pool, dev, bytes, "weights"));
    PW_PASS_OUT(pw_pool_open(&k.scales, dev, (size_t)rows * sizeof(float), "sizes of noise"));
    PW_PASS_OUT(pw_fill(dev, pw_tensor1(k.scales.base, PW_F32, rows), k.half_width));
    if (size.most > 0)
        PW_PASS_OUT(pw_quant_stage_open(&k.stage, dev, &size));
    PW_TRY_OUT(make(&k), "making random weights");
out:
    pw_quant_stage_close(&k.stage);
    if (k.scales.dev)
        pw_pool_close(&k.scales);
    if (rc < 0) {
        pw_model_free(k.m);
        k.m = NULL;
    }
    *out = k.m;
    return rc;
}
