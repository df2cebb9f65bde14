/* Models that are trained whole: creating one from a config alone, listing its parameters, and writing it to a folder.
 *
 * Weights are dense and in memory that may be written (f32; f64 on the ref device for gradient checks). Knows nothing of gradients. */
#include "infer/model.h"

#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "data/safetensors.h"
#include "infer/model_parts.h"

/* ---- full training -------------------------------------------------------------------------------------------------- */

/* Parameters of a block in forward order: a norm, or (norm = PW_NORM_COUNT) a linear. */
static const struct part { enum pw_norm norm; enum pw_linear linear; } parts[] = {
    {PW_NORM_ATTN, 0}, {PW_NORM_COUNT, PW_LIN_Q}, {PW_NORM_COUNT, PW_LIN_K}, {PW_NORM_COUNT, PW_LIN_V}, {PW_NORM_COUNT, PW_LIN_QKV}, {PW_NORM_Q, 0}, {PW_NORM_K, 0},
    {PW_NORM_COUNT, PW_LIN_O}, {PW_NORM_ATTN_OUT, 0}, {PW_NORM_MLP, 0}, {PW_NORM_COUNT, PW_LIN_GATE}, {PW_NORM_COUNT, PW_LIN_UP}, {PW_NORM_COUNT, PW_LIN_GATE_UP},
    {PW_NORM_COUNT, PW_LIN_DOWN}, {PW_NORM_MLP_OUT, 0}};
enum { PARTS = sizeof parts / sizeof parts[0] };

static size_t params_of(const struct pw_model *m)
{
    return 2 + (m->config.tied ? 0 : 1) + (size_t)m->config.layers * PARTS;
}

static struct pw_tensor weight_view(const struct pw_weight *w)
{
    return pw_tensor2((void *)(uintptr_t)w->data, w->dtype, w->n_out, w->n_in);
}

static int list_params(struct pw_model *m, struct pw_arena *arena, struct pw_param **params, size_t *count)
{
    const size_t total = params_of(m);
    struct pw_param *p = pw_arena_array(arena, total, sizeof *p);
    size_t n = 0;
    PW_CHECK(p, PW_E_NOMEM, "out of memory for the list of parameters");
    p[n++] = (struct pw_param){"model.embed_tokens.weight", weight_view(&m->embed)};
    for (int i = 0; i < m->config.layers; i++) {
        const struct pw_layer *layer = &m->layers[i];
        for (int k = 0; k < PARTS; k++) {
            const bool is_norm = parts[k].norm != PW_NORM_COUNT;
            const char *suffix = is_norm ? pw_norm_suffix(&m->config, parts[k].norm) : pw_layer_has(&m->config, i, parts[k].linear) ? pw_linear_suffix(parts[k].linear) : NULL;
            if (suffix)
                p[n++] = (struct pw_param){pw_arena_printf(arena, "model.layers.%d.%s.weight", i, suffix),
                                           is_norm ? layer->norm[parts[k].norm] : weight_view(&layer->linear[parts[k].linear])};
        }
    }
    p[n++] = (struct pw_param){"model.norm.weight", m->norm_final};
    if (!m->config.tied)
        p[n++] = (struct pw_param){"lm_head.weight", weight_view(&m->head)};
    for (size_t i = 0; i < n; i++)
        PW_CHECK(p[i].name, PW_E_NOMEM, "out of memory for the names of parameters");
    *params = p;
    *count = n;
    return 0;
}

int pw_model_params(struct pw_model *m, struct pw_param **params, size_t *n)
{
    PW_CHECK(m->trainable, PW_E_FAIL, "the model was not loaded for full training");
    return list_params(m, &m->arena, params, n);
}

/* Takes the next piece of the pool; random unless deviation is 0, then all `value`. */
static int fresh(struct pw_model *m, void **data, int64_t count, enum pw_dtype type, double value, double deviation, struct pw_rng rng)
{
    const size_t bytes = (size_t)count * pw_dtype_bytes(type);
    int rc = 0;
    *data = pw_pool_take(&m->pool, bytes);
    PW_CHECK(*data, PW_E_NOMEM, "no room for a tensor of %lld elements", (long long)count);
    void *host = m->dev->host ? *data : pw_alloc(bytes);
    PW_CHECK(host, PW_E_NOMEM, "out of memory for a tensor of %lld elements", (long long)count);
    for (int64_t i = 0; i < count; i++) {
        const double x = deviation > 0 ? value + deviation * pw_rng_normal(&rng) : value;
        if (type == PW_F64)
            ((double *)host)[i] = x;
        else
            ((float *)host)[i] = (float)x;
    }
    if (host != *data) {
        rc = pw_dev_put(m->dev, *data, host, bytes);
        pw_free(host);
    }
    return rc;
}

static size_t bytes_of(const struct pw_model_config *config, size_t size)
{
    const size_t norm = pw_pool_round((size_t)config->hidden * size);
    size_t bytes = norm + pw_pool_round((size_t)(config->vocab * config->hidden) * size) * (config->tied ? 1 : 2);
    for (int n = 0; n < PW_NORM_COUNT; n++)
        if (pw_norm_suffix(config, n))
            bytes += pw_pool_round((size_t)pw_norm_width(config, n) * size) * (size_t)config->layers;
    for (int i = 0; i < config->layers; i++) {
        int64_t n_out, n_in;
        for (int l = 0; l < PW_LIN_COUNT; l++) {
            if (!pw_layer_has(config, i, l))
                continue;
            pw_linear_shape(config, l, &n_out, &n_in);
            bytes += pw_pool_round((size_t)(n_out * n_in) * size);
        }
        if (!pw_model_config_sparse(config, i))
            continue;
        bytes += pw_pool_round((size_t)config->experts * (size_t)config->hidden * size);
        for (int p = 0; p < PW_EXPERT_PARTS; p++) {
            pw_expert_shape(config, p, &n_out, &n_in);
            bytes += pw_pool_round((size_t)(n_out * n_in) * size) * (size_t)config->experts;
        }
    }
    return bytes;
}

static int no_experts(const struct pw_model_config *config)
{
    PW_CHECK(config->experts == 0, PW_E_UNSUPPORTED, "training from scratch of a model with experts");
    return 0;
}

int pw_model_create_measure(struct pw_model **out, struct pw_dev *dev, const struct pw_model_config *config)
{
    struct pw_model *m = NULL;
    const int64_t D = config->hidden, V = config->vocab;
    int rc = 0;
    PW_PASS(no_experts(config));
    PW_PASS(pw_model_new(&m, dev, config));
    m->trainable = true;
    PW_PASS_OUT(pw_model_make_layers(m));
    m->embed = pw_weight_dense(pw_tensor2(NULL, PW_F32, V, D));
    m->norm_final = pw_tensor1(NULL, PW_F32, D);
    m->head = m->embed;
    for (int i = 0; i < config->layers; i++) {
        struct pw_layer *layer = &m->layers[i];
        for (int n = 0; n < PW_NORM_COUNT; n++)
            layer->norm[n] = pw_norm_suffix(config, n) ? pw_tensor1(NULL, PW_F32, pw_norm_width(config, n)) : pw_none();
        for (int l = 0; l < PW_LIN_COUNT; l++) {
            int64_t n_out, n_in;
            if (!pw_layer_has(config, i, l))
                continue;
            pw_linear_shape(config, l, &n_out, &n_in);
            layer->linear[l] = pw_weight_dense(pw_tensor2(NULL, PW_F32, n_out, n_in));
        }
    }
    m->pool.bytes = bytes_of(config, sizeof(float));
out:
    if (rc < 0) {
        pw_model_free(m);
        m = NULL;
    }
    *out = m;
    return rc;
}

int pw_model_create_as(struct pw_model **out, struct pw_dev *dev, const struct pw_model_config *config, uint64_t seed, enum pw_dtype type)
{
    struct pw_model *m = NULL;
    const int64_t D = config->hidden, V = config->vocab;
    const size_t size = pw_dtype_bytes(type);
    const double ones = 1.0 - config->norm_offset, deviation = config->init_range > 0 ? config->init_range : 0.02;
    uint64_t tensor = 0;
    void *data;
    int rc = 0;
    PW_CHECK(!config->qkv_bias && !config->o_bias && !config->mlp_bias, PW_E_UNSUPPORTED, "training from scratch of a model with biases");
    PW_PASS(pw_model_new(&m, dev, config));
    m->trainable = true;
    PW_PASS_OUT(pw_model_make_layers(m));

    PW_PASS_OUT(pw_pool_open(&m->pool, dev, bytes_of(config, size), "weights"));

    const struct pw_rng still = {0};
#define STREAM pw_rng_make(seed, PW_STREAM_INIT | (++tensor << 8))
    PW_PASS_OUT(fresh(m, &data, V * D, type, 0, deviation, STREAM));
    m->embed = pw_weight_dense(pw_tensor2(data, type, V, D));
    for (int i = 0; i < config->layers; i++) {
        struct pw_layer *layer = &m->layers[i];
        for (int n = 0; n < PW_NORM_COUNT; n++) {
            layer->norm[n] = pw_none();
            if (!pw_norm_suffix(config, n))
                continue;
            const int width = pw_norm_width(config, n);
            PW_PASS_OUT(fresh(m, &data, width, type, ones, 0, still));
            layer->norm[n] = pw_tensor1(data, type, width);
        }
        for (int l = 0; l < PW_LIN_COUNT; l++) {
            int64_t n_out, n_in;
            if (!pw_layer_has(config, i, l))
                continue;
            pw_linear_shape(config, l, &n_out, &n_in);
            PW_PASS_OUT(fresh(m, &data, n_out * n_in, type, 0, deviation, STREAM));
            layer->linear[l] = pw_weight_dense(pw_tensor2(data, type, n_out, n_in));
        }
        if (!layer->moe)
            continue;
        PW_PASS_OUT(fresh(m, &data, config->experts * D, type, 0, deviation, STREAM));
        layer->moe->router = pw_weight_dense(pw_tensor2(data, type, config->experts, D));
        for (int e = 0; e < PW_EXPERT_PARTS * config->experts; e++) {
            int64_t n_out, n_in;
            pw_expert_shape(config, e % PW_EXPERT_PARTS, &n_out, &n_in);
            PW_PASS_OUT(fresh(m, &data, n_out * n_in, type, 0, deviation, STREAM));
            layer->moe->part[e % PW_EXPERT_PARTS][e / PW_EXPERT_PARTS] = pw_weight_dense(pw_tensor2(data, type, n_out, n_in));
        }
    }
    PW_PASS_OUT(fresh(m, &data, D, type, ones, 0, still));
    m->norm_final = pw_tensor1(data, type, D);
    m->head = m->embed;
    if (!config->tied) {
        PW_PASS_OUT(fresh(m, &data, V * D, type, 0, deviation, STREAM));
        m->head = pw_weight_dense(pw_tensor2(data, type, V, D));
    }
#undef STREAM
    pw_model_count_bytes(m);
out:
    if (rc < 0) {
        pw_model_free(m);
        m = NULL;
    }
    *out = m;
    return rc;
}

int pw_model_create(struct pw_model **out, struct pw_dev *dev, const struct pw_model_config *config, uint64_t seed)
{
    PW_PASS(no_experts(config));
    return pw_model_create_as(out, dev, config, seed, PW_F32);
}

/* ---- saving --------------------------------------------------------------------------------------------------------- */

static int save_config(const struct pw_model *m, const char *dir, enum pw_dtype type)
{
    struct pw_arena arena;
    struct pw_json w = {.indent = true};
    int rc = 0;
    pw_arena_init(&arena);
    const char *path = pw_path_join(&arena, dir, "config.json");
    PW_CHECK_OUT(path, PW_E_NOMEM, "out of memory");
    pw_json_open(&w, NULL, '{');
    pw_model_config_write(&m->config, type == PW_F32 ? "float32" : type == PW_BF16 ? "bfloat16" : "float16", &w);
    pw_json_close(&w, '}');
    PW_PASS_OUT(pw_json_status(&w));
    pw_buf_char(&w.out, '\n');
    PW_PASS_OUT(pw_buf_status(&w.out));
    PW_PASS_OUT(pw_file_write(path, w.out.data, w.out.len, false));
out:
    pw_json_free(&w);
    pw_arena_free(&arena);
    return rc;
}

static int save_weights(struct pw_model *m, const char *dir, enum pw_dtype type, const char *type_name)
{
    static const char *const metadata[] = {"format", "pt", NULL};
    struct pw_arena arena;
    struct pw_param *params;
    size_t n;
    int rc = 0;
    struct pw_dev *maker = m->dev->host ? m->dev : NULL;   /* a host device: what is written is converted there */
    pw_arena_init(&arena);
    if (!maker)
        PW_PASS_OUT(pw_dev_open(&maker, NULL));
    PW_PASS_OUT(list_params(m, &arena, &params, &n));
    struct pw_st_write *list = pw_arena_array(&arena, n, sizeof *list);
    const char *path = pw_path_join(&arena, dir, "model.safetensors");
    PW_CHECK_OUT(list && path, PW_E_NOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        struct pw_tensor t = params[i].value;
        if (!m->dev->host) {
            void *here = pw_arena_alloc(&arena, pw_bytes(t));
            PW_CHECK_OUT(here, PW_E_NOMEM, "out of memory for %s", params[i].name);
            PW_PASS_OUT(pw_dev_get(m->dev, here, t.data, pw_bytes(t)));
            t.data = here;
        }
        if (t.dtype != type) {
            struct pw_tensor to = t;
            to.dtype = type;
            to.data = pw_arena_alloc(&arena, (size_t)pw_count(t) * pw_dtype_bytes(type));
            PW_CHECK_OUT(to.data, PW_E_NOMEM, "out of memory for %s", params[i].name);
            PW_PASS_OUT(pw_copy(maker, to, t));
            t = to;
        }
        list[i] = (struct pw_st_write){.name = params[i].name, .dtype = type_name, .ndim = t.ndim, .shape = {t.shape[0], t.ndim > 1 ? t.shape[1] : 0},
                                       .data = t.data, .bytes = pw_bytes(t)};
    }
    PW_PASS_OUT(pw_safetensors_write(path, list, n, metadata, false));
out:
    if (maker != m->dev)
        pw_dev_close(maker);
    pw_arena_free(&arena);
    return rc;
}

/* The tokenizer's files as they are, from the folder that the model came from. */
static int save_tokenizer(const struct pw_model *m, const char *dir)
{
    static const char *const files[] = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
                                        "chat_template.jinja", "vocab.json", "merges.txt", "tokenizer.model"};
    const char *from = m->checkpoint ? pw_checkpoint_tokenizer(m->checkpoint) : NULL;
    struct pw_arena arena;
    struct pw_buf bytes = {0};
    int rc = 0;
    pw_arena_init(&arena);
    for (size_t i = 0; from && pw_is_dir(from) && i < sizeof files / sizeof files[0]; i++) {
        const char *source = pw_path_join(&arena, from, files[i]), *target = pw_path_join(&arena, dir, files[i]);
        PW_CHECK_OUT(source && target, PW_E_NOMEM, "out of memory");
        if (!pw_file_exists(source))
            continue;
        pw_buf_clear(&bytes);
        PW_PASS_OUT(pw_file_read(source, 0, &bytes));
        PW_PASS_OUT(pw_file_write(target, bytes.data, bytes.len, false));
    }
out:
    pw_buf_free(&bytes);
    pw_arena_free(&arena);
    return rc;
}

int pw_model_save(struct pw_model *m, const char *dir, const char *dtype)
{
    static const struct { const char *name, *stored; enum pw_dtype type; } types[] = {
        {"f32", "F32", PW_F32}, {"bf16", "BF16", PW_BF16}, {"f16", "F16", PW_F16}};
    PW_CHECK(m->trainable, PW_E_FAIL, "only a model that was loaded for full training is saved");
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(dtype, types[i].name) == 0) {
            PW_TRY(save_config(m, dir, types[i].type), "saving the model");
            PW_TRY(save_weights(m, dir, types[i].type, types[i].stored), "saving the model");
            PW_TRY(save_tokenizer(m, dir), "saving the model");
            return 0;
        }
    return pw_error(PW_E_USAGE, "saving a model: expected f32, bf16 or f16, got '%s'", dtype);
}
