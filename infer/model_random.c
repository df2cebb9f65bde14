/* Models with random weights, made where the device has its memory: for measuring speed and memory of shapes that nobody wants to download.
 *
 * Codes of quantised weights are random bytes and their scales constant, dense weights are normal; both repeat every few MiB, which no
 * kernel can tell. Values have the size of a trained model's, so that nothing overflows. Meaningless as a language model. */
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "infer/model.h"
#include "infer/model_parts.h"
#include "quant/dynamic_map.h"
#include "quant/quant.h"

enum { TILE = 1 << 22 };       /* bytes of random material */
#define DEVIATION 0.02

struct maker {
    struct pw_model *m;
    struct pw_quant_options quant, head;
    bool quantised, quantised_head;
    uint8_t *codes;            /* (TILE) random bytes */
    uint16_t *normal;          /* (TILE / 2) bf16, normal(0, DEVIATION) */
    float *scale;              /* (TILE / 4) the largest magnitude of 64 such values, about 2.5 deviations */
};

static int material(struct maker *k, uint64_t seed)
{
    struct pw_rng rng = pw_rng_make(seed, PW_STREAM_INIT);
    k->codes = pw_alloc(TILE);
    k->normal = pw_alloc(TILE);
    k->scale = pw_alloc(TILE);
    PW_CHECK(k->codes && k->normal && k->scale, PW_E_NOMEM, "out of memory");
    for (size_t i = 0; i < TILE; i += 4) {
        const uint32_t x = pw_rng_u32(&rng);
        memcpy(k->codes + i, &x, 4);
    }
    for (size_t i = 0; i < TILE / 2; i++)
        k->normal[i] = pw_f32_to_bf16((float)(DEVIATION * pw_rng_normal(&rng)));
    for (size_t i = 0; i < TILE / 4; i++)
        k->scale[i] = (float)(2.5 * DEVIATION);
    return 0;
}

/* Copies the tile again and again. */
static int lay(struct maker *k, const void *device, size_t bytes, const void *tile)
{
    char *to = (char *)(uintptr_t)device;
    for (size_t at = 0; at < bytes; at += TILE)
        PW_PASS(pw_dev_put(k->m->dev, to + at, tile, bytes - at < TILE ? bytes - at : TILE));
    return 0;
}

static size_t weight_bytes(const struct maker *k, int64_t n_out, int64_t n_in, bool head)
{
    if (head ? k->quantised_head : k->quantised)
        return pw_pool_round(pw_quant_bytes(n_out, n_in, head ? &k->head : &k->quant));
    return pw_pool_round((size_t)(n_out * n_in) * 2);
}

static int make_weight(struct maker *k, struct pw_weight *w, int64_t n_out, int64_t n_in, bool head)
{
    const size_t bytes = weight_bytes(k, n_out, n_in, head);
    const struct pw_quant_options *q = head ? &k->head : &k->quant;
    void *memory = pw_pool_take(&k->m->pool, bytes);
    PW_CHECK(memory, PW_E_NOMEM, "no room for a weight");
    if (!(head ? k->quantised_head : k->quantised)) {
        *w = pw_weight_dense(pw_tensor2(memory, PW_BF16, n_out, n_in));
        return lay(k, memory, (size_t)(n_out * n_in) * 2, k->normal);
    }
    PW_PASS(pw_quant_place(w, n_out, n_in, q, memory, bytes));
    const size_t blocks = (size_t)pw_weight_blocks(w);
    PW_PASS(lay(k, w->data, pw_weight_data_bytes(w), k->codes));
    if (w->absmax)
        PW_PASS(lay(k, w->absmax, blocks * sizeof(float), k->scale));
    if (w->absmax_q) {         /* scale = map[code] * nested + offset, map within [-1, 1] */
        PW_PASS(lay(k, w->absmax_q, blocks, k->codes));
        PW_PASS(lay(k, w->nested_absmax, (blocks + (size_t)w->nested_block - 1) / (size_t)w->nested_block * sizeof(float), k->scale));
        PW_PASS(pw_dev_put(k->m->dev, (void *)(uintptr_t)w->nested_code, pw_dynamic_map, 256 * sizeof(float)));
        w->nested_offset = (float)(2.5 * DEVIATION);
    }
    return 0;
}

static int make_norm(struct maker *k, struct pw_tensor *t)
{
    void *data = pw_pool_take(&k->m->pool, (size_t)k->m->config.hidden * sizeof(float));
    PW_CHECK(data, PW_E_NOMEM, "no room for a norm");
    *t = pw_tensor1(data, PW_F32, k->m->config.hidden);
    return pw_fill(k->m->dev, *t, 1.0 - k->m->config.norm_offset);
}

static size_t all_bytes(const struct maker *k)
{
    const struct pw_model_config *c = &k->m->config;
    size_t bytes = pw_pool_round((size_t)c->hidden * sizeof(float)) * (size_t)(1 + 2 * c->layers) + pw_pool_round((size_t)(c->vocab * c->hidden) * 2);
    bytes += 2 * pw_pool_round((size_t)c->context * (size_t)(c->head_dim / 2) * sizeof(float));
    if (!c->tied || k->quantised_head)
        bytes += weight_bytes(k, c->vocab, c->hidden, true);
    for (int l = 0; l < PW_LIN_COUNT; l++) {
        int64_t n_out, n_in;
        pw_linear_shape(c, l, &n_out, &n_in);
        bytes += weight_bytes(k, n_out, n_in, false) * (size_t)c->layers;
    }
    return bytes;
}

static int make_all(struct maker *k)
{
    struct pw_model *m = k->m;
    const struct pw_model_config *c = &m->config;
    void *embed = pw_pool_take(&m->pool, (size_t)(c->vocab * c->hidden) * 2);
    PW_CHECK(embed, PW_E_NOMEM, "no room for the embedding");
    m->embed = pw_tensor2(embed, PW_BF16, c->vocab, c->hidden);
    PW_PASS(lay(k, embed, pw_bytes(m->embed), k->normal));
    if (!c->tied || k->quantised_head)
        PW_PASS(make_weight(k, &m->head, c->vocab, c->hidden, true));
    else
        m->head = pw_weight_dense(m->embed);
    PW_PASS(make_norm(k, &m->norm_final));
    for (int i = 0; i < c->layers; i++) {
        PW_PASS(make_norm(k, &m->layers[i].norm_attn));
        PW_PASS(make_norm(k, &m->layers[i].norm_mlp));
        for (int l = 0; l < PW_LIN_COUNT; l++) {
            int64_t n_out, n_in;
            pw_linear_shape(c, l, &n_out, &n_in);
            PW_PASS(make_weight(k, &m->layers[i].linear[l], n_out, n_in, false));
        }
    }
    return pw_model_make_rope(m, PW_F32);
}

static int parse(const char *type, struct pw_quant_options *q, bool *quantised)
{
    *quantised = type && type[0] && strcmp(type, "bf16") != 0;
    if (!*quantised)
        return 0;
    PW_PASS(pw_quant_parse(type, q));
    PW_CHECK(q->type == PW_Q_NF4 || q->type == PW_Q_FP4 || q->type == PW_Q_INT8, PW_E_UNSUPPORTED, "random weights are bf16, nf4, fp4 or int8, not %s", type);
    return 0;
}

int pw_model_create_random(struct pw_model **out, struct pw_dev *dev, const struct pw_model_config *config, const struct pw_model_options *opt, uint64_t seed)
{
    struct maker k = {0};
    int rc = 0;
    *out = NULL;
    PW_PASS(parse(opt->quantise, &k.quant, &k.quantised));
    PW_PASS(parse(opt->head_type, &k.head, &k.quantised_head));
    k.quant.double_quant = opt->double_quant;
    PW_PASS(pw_model_new(&k.m, dev, config));
    PW_PASS_OUT(pw_model_make_layers(k.m));
    PW_PASS_OUT(material(&k, seed));
    PW_PASS_OUT(pw_pool_open(&k.m->pool, dev, all_bytes(&k), "weights"));
    PW_PASS_OUT(make_all(&k));
    pw_model_count_bytes(k.m);
out:
    pw_free(k.codes);
    pw_free(k.normal);
    pw_free(k.scale);
    if (rc < 0) {
        pw_model_free(k.m);
        k.m = NULL;
    }
    *out = k.m;
    return rc;
}
