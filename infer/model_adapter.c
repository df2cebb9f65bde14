/* Adapters on a model: which pair hangs on which linear, what stands in for weights that were trained whole, and how it all comes off again.
 * Knows no files and computes nothing but the norms of rows that a magnitude needs. */
#include "infer/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "infer/model_parts.h"

struct pw_weight *pw_model_linear(struct pw_model *m, const char *module)
{
    static const char prefix[] = "model.layers.";
    char *end;
    if (strncmp(module, prefix, sizeof prefix - 1) != 0)
        return NULL;
    module += sizeof prefix - 1;
    if (*module < '0' || *module > '9')
        return NULL;
    const unsigned long layer = strtoul(module, &end, 10);
    if (*end != '.' || layer >= (unsigned long)m->config.layers || (module[0] == '0' && end != module + 1))
        return NULL;
    for (int l = 0; l < PW_LIN_COUNT; l++)
        if (pw_layer_has(&m->config, (int)layer, l) && strcmp(end + 1, pw_linear_suffix(l)) == 0)
            return &m->layers[layer].linear[l];
    int expert;
    enum pw_expert_part p;
    size_t length;
    char name[PW_EXPERT_NAME];
    if (!m->layers[layer].moe || !pw_expert_of(end + 1, &expert, &p, &length) || expert >= m->config.experts)
        return NULL;
    pw_expert_suffix(&m->config, expert, p, name);
    return strcmp(end + 1, name) == 0 ? &m->layers[layer].moe->part[p][expert] : NULL;
}

struct pw_model_own { struct pw_weight embed, head; struct pw_tensor norm_final; struct pw_layer *layers; };

static void detach(struct pw_model *m)
{
    for (int i = 0; i < m->config.layers; i++) {
        enum pw_place where;
        struct pw_weight *w;
        for (int at = 0; (w = pw_model_next_weight(m, i, &at, &where));)
            w->lora = NULL;
    }
    if (!m->own)
        return;
    m->embed = m->own->embed;
    m->norm_final = m->own->norm_final;
    m->head = m->own->head;
    for (int i = 0; i < m->config.layers; i++) {
        memcpy(m->layers[i].norm, m->own->layers[i].norm, sizeof m->layers[i].norm);
        for (int l = 0; l < PW_LIN_COUNT; l++)
            m->layers[i].linear[l].bias = m->own->layers[i].linear[l].bias;
    }
}

/* The experts of a layer are multiplied in one go: all have an adapter of one rank, or none has. */
static int check_experts(const struct pw_model *m, int layer)
{
    for (int p = 0; m->layers[layer].moe && p < PW_EXPERT_PARTS; p++) {
        const struct pw_weight *w = m->layers[layer].moe->part[p];
        for (int e = 1; e < m->config.experts; e++)
            PW_CHECK(!w[e].lora == !w[0].lora && (!w[0].lora || w[e].lora->r == w[0].lora->r), PW_E_UNSUPPORTED,
                     "attaching an adapter: layer %d: %s of expert %d has rank %d, of expert 0 %d: expected all experts of a layer to have the same rank, or none", layer,
                     pw_expert_part_name(&m->config, p), e, w[e].lora ? w[e].lora->r : 0, w[0].lora ? w[0].lora->r : 0);
    }
    return 0;
}

static int remember(struct pw_model *m)
{
    if (m->own)
        return 0;
    struct pw_model_own *own = pw_arena_array(&m->arena, 1, sizeof *own);
    struct pw_layer *layers = pw_arena_array(&m->arena, (size_t)m->config.layers, sizeof *layers);
    PW_CHECK(own && layers, PW_E_NOMEM, "no memory to attach an adapter");
    *own = (struct pw_model_own){.embed = m->embed, .norm_final = m->norm_final, .head = m->head, .layers = layers};
    for (int i = 0; i < m->config.layers; i++)
        layers[i] = m->layers[i];
    m->own = own;
    return 0;
}

/* The norm of that name among these; NULL: no such. */
static struct pw_tensor *norm_of(const struct pw_model *m, struct pw_layer *layers, struct pw_tensor *final, const char *module)
{
    char name[320];
    if (strcmp(module, "model.norm") == 0)
        return final;
    for (int i = 0; i < m->config.layers; i++)
        for (int n = 0; n < PW_NORM_COUNT; n++) {
            const char *suffix = pw_norm_suffix(&m->config, (enum pw_norm)n);
            if (!suffix)
                continue;
            snprintf(name, sizeof name, "model.layers.%d.%s", i, suffix);
            if (strcmp(module, name) == 0)
                return &layers[i].norm[n];
        }
    return NULL;
}

/* A bias that was trained takes the place of the base's; without memory yet (shapes alone) the base's stays. */
static int stand_in_bias(struct pw_model *m, const struct pw_adapter_saved *s, const char *module)
{
    struct pw_weight *w = pw_model_linear(m, module);
    PW_CHECK(w && w->bias, PW_E_FORMAT, "attaching an adapter: %s: the model has no such bias", s->name);
    PW_CHECK(s->value.ndim == 1 && s->value.shape[0] == w->n_out, PW_E_FORMAT, "attaching an adapter: %s: expected %lld elements, got %lld", s->name, (long long)w->n_out,
             (long long)pw_count(s->value));
    if (s->value.data)
        w->bias = s->value.data;
    return 0;
}

/* A module that was trained whole takes its place. */
static int stand_in(struct pw_model *m, const struct pw_adapter_saved *s)
{
    const bool embed = strcmp(s->name, "model.embed_tokens") == 0, head = strcmp(s->name, "lm_head") == 0;
    struct pw_tensor *norm = embed || head ? NULL : norm_of(m, m->layers, &m->norm_final, s->name);
    const int64_t rows = norm ? norm->shape[0] : m->config.vocab, width = norm ? 1 : m->config.hidden;
    PW_CHECK(embed || head || norm, PW_E_FORMAT, "attaching an adapter: %s: the model has no such norm, embedding or head", s->name);
    PW_CHECK(s->value.ndim == (norm ? 1 : 2) && s->value.shape[0] == rows && (norm || s->value.shape[1] == width), PW_E_FORMAT,
             "attaching an adapter: %s: expected (%lld, %lld), got (%lld, %lld)", s->name, (long long)rows, (long long)width, (long long)s->value.shape[0],
             (long long)(s->value.ndim > 1 ? s->value.shape[1] : 1));
    if (norm)
        *norm = s->value;
    else if (embed)
        m->embed = pw_weight_dense(s->value);
    else
        m->head = pw_weight_dense(s->value);
    return 0;
}

int pw_model_base_value(struct pw_model *m, const char *module, struct pw_tensor out)
{
    PW_PASS(remember(m));
    char linear[320];
    if (pw_adapter_is_bias(module, linear)) {
        const struct pw_weight *w = pw_model_linear(m, linear);
        PW_CHECK(w, PW_E_FORMAT, "%s: the model has no such bias", module);
        const float *bias = NULL;
        for (int i = 0; i < m->config.layers && !bias; i++)
            for (int l = 0; l < PW_LIN_COUNT; l++)
                if (w == &m->layers[i].linear[l])
                    bias = m->own->layers[i].linear[l].bias;
        PW_CHECK(bias, PW_E_FORMAT, "%s: the model has no such bias", module);
        return pw_copy(m->dev, out, pw_tensor1((void *)(uintptr_t)bias, PW_F32, w->n_out));
    }
    if (strcmp(module, "lm_head") == 0)
        return pw_decode(m->dev, out, &m->own->head, 0);
    if (strcmp(module, "model.embed_tokens") == 0)
        return pw_decode(m->dev, out, &m->own->embed, 0);
    const struct pw_tensor *from = norm_of(m, m->own->layers, &m->own->norm_final, module);
    PW_CHECK(from, PW_E_FORMAT, "%s: the model has no such norm, embedding or head", module);
    return pw_copy(m->dev, out, *from);
}

int pw_model_norms(struct pw_model *m)
{
    for (int i = 0; i < m->config.layers; i++)
        for (int l = 0; l < PW_LIN_COUNT; l++) {
            const struct pw_weight *w = &m->layers[i].linear[l];
            if (!pw_weight_is_dora(w))
                continue;
            PW_PASS(pw_dev_reserve(m->dev, pw_scratch_linear(m->dev, 1, w, false)));
            PW_TRY(pw_row_norm(m->dev, w->lora->norm, w), "layer %d: %s: the norms of its adapter", i, pw_linear_suffix((enum pw_linear)l));
        }
    return 0;
}

/* peft 0.21.2 has none on the joined experts of transformers 5 either: "lora.ParamWrapper does not work with use_dora=True". */
static int no_dora_experts(const struct pw_adapter *a)
{
    const char *name = a ? pw_adapter_dora_expert(a) : NULL;
    if (!name)
        return 0;
    const int rc = pw_error(PW_E_UNSUPPORTED, "attaching an adapter: dora on experts is not supported (%s), nor does peft 0.21 have it on the joined experts of transformers 5", name);
    pw_error_hint("train with adapter.kind: lora, or with adapter.targets: [q_proj, k_proj, v_proj, o_proj]; an adapter that is there already can be merged: pw lora merge MODEL --adapter DIR -o OUT");
    return rc;
}

static int attach(struct pw_model *m, const struct pw_adapter *a, bool shapes)
{
    PW_PASS(no_dora_experts(a));
    m->attached++;
    detach(m);
    for (size_t i = 0; a && i < a->n; i++) {
        const struct pw_adapter_module *module = &a->modules[i];
        struct pw_weight *w = pw_model_linear(m, module->name);
        PW_CHECK(w, PW_E_FORMAT, "attaching an adapter: %s: the model has no such linear layer", module->name);
        PW_CHECK(w->n_in == module->n_in && w->n_out == module->n_out, PW_E_FORMAT,
                 "attaching an adapter: %s: expected (%lld, %lld), got (%lld, %lld)", module->name, (long long)w->n_out, (long long)w->n_in,
                 (long long)module->n_out, (long long)module->n_in);
        PW_CHECK(shapes || (module->lora.a.data && module->lora.b.data), PW_E_FAIL, "attaching an adapter: %s: it has no tensors", module->name);
        w->lora = &module->lora;
    }
    if (a && a->n_saved > 0)
        PW_PASS(remember(m));
    for (size_t i = 0; a && i < a->n_saved; i++) {
        PW_CHECK(shapes || a->saved[i].value.data, PW_E_FAIL, "attaching an adapter: %s: it has no tensor", a->saved[i].name);
        char module[320];
        PW_PASS(pw_adapter_is_bias(a->saved[i].name, module) ? stand_in_bias(m, &a->saved[i], module) : stand_in(m, &a->saved[i]));
    }
    for (int i = 0; i < m->config.layers; i++)
        PW_PASS(check_experts(m, i));
    return shapes ? 0 : pw_model_norms(m);
}

int pw_model_attach(struct pw_model *m, const struct pw_adapter *a)
{
    const int rc = attach(m, a, false);
    if (rc < 0)
        detach(m);
    return rc;
}

int pw_model_attach_shapes(struct pw_model *m, const struct pw_adapter *a)
{
    const int rc = attach(m, a, true);
    if (rc < 0)
        detach(m);
    return rc;
}
