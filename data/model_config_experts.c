/* Models with experts: their part of a config.json, which layers have them, and what their tensors are called. Two families: Mixtral (all layers;
 * block_sparse_moe.experts.N.w1, w3, w2) and Qwen3-MoE (all but some layers; mlp.experts.N.gate_proj, up_proj, down_proj).
 * The loss that keeps experts evenly used (router_aux_loss_coef) is part of training a router, which is never trained here: a config that asks for it
 * (output_router_logits) is refused. */
#include "data/model_config_parts.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

enum { EXPERTS_MAX = 1024, CHOSEN_MAX = 32 }; /* as the ops have them: kernels/op.h */

static bool mixtral(const struct pw_model_config *c) { return strcmp(c->family, "mixtral") == 0; }

/* ---- config ---- */

static int count(const struct pw_value *json, const char *key, const char *source, bool required, int64_t low, int64_t high, int *out)
{
    const struct pw_value *v = pw_get(json, key);
    int64_t x = *out;
    if (!v || v->kind == PW_NULL) {
        PW_CHECK(!required, PW_E_FORMAT, "%s: %s is missing", source, key);
        return 0;
    }
    PW_PASS(pw_get_i64(json, key, source, &x));
    PW_CHECK(x >= low && x <= high, PW_E_FORMAT, "%s: %s is out of range (expected %" PRId64 " to %" PRId64 ", got %" PRId64 ")", source, key, low, high, x);
    *out = (int)x;
    return 0;
}

static void set_dense(struct pw_model_config *c, int layer) { c->dense[layer / 64] |= (uint64_t)1 << layer % 64; }

static int read_dense(struct pw_model_config *c, const struct pw_value *json, const char *source)
{
    int step = 1;
    PW_PASS(count(json, "decoder_sparse_step", source, false, 1, PW_LAYERS_MAX, &step));
    for (int i = 0; i < c->layers; i++)
        if ((i + 1) % step != 0)
            set_dense(c, i);
    const struct pw_value *list = pw_get(json, "mlp_only_layers");
    if (!list || list->kind == PW_NULL)
        return 0;
    PW_CHECK(list->kind == PW_LIST, PW_E_FORMAT, "%s: mlp_only_layers: expected a list of layers", source);
    for (size_t i = 0; i < list->len; i++) {
        const struct pw_value *v = &list->items[i];
        PW_CHECK(v->kind == PW_INT && v->i >= 0 && v->i < c->layers, PW_E_FORMAT, "%s: mlp_only_layers[%zu]: expected a layer from 0 to %d", source, i, c->layers - 1);
        set_dense(c, (int)v->i);
    }
    return 0;
}

int pw_experts_config_read(struct pw_model_config *c, const struct pw_value *json, const char *source)
{
    const struct pw_value *named = pw_get(json, "num_experts");
    const char *key = named && named->kind != PW_NULL ? "num_experts" : "num_local_experts";
    bool aux = false;
    double jitter = 0;
    PW_PASS(count(json, key, source, true, 1, EXPERTS_MAX, &c->experts));
    PW_PASS(count(json, "num_experts_per_tok", source, true, 1, c->experts < CHOSEN_MAX ? c->experts : CHOSEN_MAX, &c->experts_chosen));
    PW_PASS(pw_get_bool(json, "output_router_logits", source, &aux));
    PW_CHECK(!aux, PW_E_UNSUPPORTED, "%s: output_router_logits is not supported: the router is never trained, so its loss would change nothing that is", source);
    PW_PASS(pw_get_f64(json, "router_jitter_noise", source, &jitter));
    PW_CHECK(jitter == 0, PW_E_UNSUPPORTED, "%s: router_jitter_noise is not supported (expected 0, got %g)", source, jitter);
    c->expert_ffn = c->ffn;
    c->experts_renormalise = mixtral(c);
    if (mixtral(c))
        return 0;
    PW_PASS(count(json, "moe_intermediate_size", source, true, 1, 1 << 22, &c->expert_ffn));
    PW_PASS(pw_get_bool(json, "norm_topk_prob", source, &c->experts_renormalise));
    return read_dense(c, json, source);
}

void pw_experts_config_write(const struct pw_model_config *c, struct pw_json *w)
{
    if (mixtral(c)) {
        pw_json_i64(w, "num_local_experts", c->experts);
        pw_json_i64(w, "num_experts_per_tok", c->experts_chosen);
        return;
    }
    pw_json_i64(w, "decoder_sparse_step", 1);
    pw_json_open(w, "mlp_only_layers", '[');
    for (int i = 0; i < c->layers; i++)
        if (!pw_model_config_sparse(c, i))
            pw_json_i64(w, NULL, i);
    pw_json_close(w, ']');
    pw_json_i64(w, "moe_intermediate_size", c->expert_ffn);
    pw_json_bool(w, "norm_topk_prob", c->experts_renormalise);
    pw_json_i64(w, "num_experts", c->experts);
    pw_json_i64(w, "num_experts_per_tok", c->experts_chosen);
}

/* ---- layers ---- */

bool pw_model_config_sparse(const struct pw_model_config *c, int layer) { return c->experts > 0 && !(c->dense[layer / 64] >> layer % 64 & 1); }

bool pw_layer_has(const struct pw_model_config *c, int layer, enum pw_linear l)
{
    const bool half = l == PW_LIN_GATE || l == PW_LIN_UP || l == PW_LIN_GATE_UP || l == PW_LIN_DOWN;
    return pw_linear_has(c, l) && !(half && pw_model_config_sparse(c, layer));
}

int64_t pw_experts_count(const struct pw_model_config *c) { return (int64_t)c->experts * c->hidden * (1 + 3 * (int64_t)c->expert_ffn); }

void pw_expert_shape(const struct pw_model_config *c, enum pw_expert_part p, int64_t *n_out, int64_t *n_in)
{
    *n_out = p == PW_EXPERT_DOWN ? c->hidden : c->expert_ffn;
    *n_in = p == PW_EXPERT_DOWN ? c->expert_ffn : c->hidden;
}

enum pw_linear pw_expert_linear(enum pw_expert_part p) { return p == PW_EXPERT_GATE ? PW_LIN_GATE : p == PW_EXPERT_UP ? PW_LIN_UP : PW_LIN_DOWN; }

/* ---- names ---- */

static const struct style { const char *router, *experts, *parts[PW_EXPERT_PARTS]; } styles[] = {
    {"mlp.gate", "mlp.experts.", {"gate_proj", "up_proj", "down_proj"}},
    {"block_sparse_moe.gate", "block_sparse_moe.experts.", {"w1", "w3", "w2"}},
};
static const struct style *style_of(const struct pw_model_config *c) { return &styles[mixtral(c)]; }

const char *pw_router_suffix(const struct pw_model_config *c) { return style_of(c)->router; }
const char *pw_expert_part_name(const struct pw_model_config *c, enum pw_expert_part p) { return style_of(c)->parts[p]; }

void pw_expert_suffix(const struct pw_model_config *c, int expert, enum pw_expert_part p, char out[PW_EXPERT_NAME])
{
    snprintf(out, PW_EXPERT_NAME, "%s%d.%s", style_of(c)->experts, expert, style_of(c)->parts[p]);
}

bool pw_expert_of(const char *suffix, int *expert, enum pw_expert_part *p, size_t *length)
{
    for (size_t i = 0; i < sizeof styles / sizeof *styles; i++) {
        const size_t n = strlen(styles[i].experts), digits = strncmp(suffix, styles[i].experts, n) == 0 ? strspn(suffix + n, "0123456789") : 0;
        if (digits < 1 || digits > 4 || suffix[n + digits] != '.' || (digits > 1 && suffix[n] == '0'))
            continue;
        for (int k = 0; k < PW_EXPERT_PARTS; k++) {
            const char *rest = suffix + n + digits + 1;
            const size_t m = strlen(styles[i].parts[k]);
            if (strncmp(rest, styles[i].parts[k], m) != 0 || (rest[m] && rest[m] != '.'))
                continue;
            *expert = 0;
            for (size_t d = 0; d < digits; d++)
                *expert = 10 * *expert + (suffix[n + d] - '0');
            *p = (enum pw_expert_part)k;
            *length = n + digits + 1 + m;
            return true;
        }
    }
    return false;
}
