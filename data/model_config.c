/* The shape of a model from config.json (its rotary parameters: rope_config.c). Owns the table of families and which keys of a config are understood; a key that asks for
 * arithmetic the program does not do is refused by name. Refuses to know weights and tokenizers. */
#include "data/model_config_parts.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

/* A family: what its config means where the config is silent, and what it may ask for. */
struct family {
    const char *model_type, *architecture;
    double rope_theta;       /* when the config is silent */
    bool qkv_bias;           /* always has biases on q, k, v */
    bool may_bias;           /* attention_bias, mlp_bias are keys of it */
    bool qk_norm;
    bool gemma;              /* four norms a block with weights around 0, scaled embeddings, GeGLU, query_pre_attn_scalar, soft-caps; tied when silent */
    enum { WINDOW_NEVER, WINDOW_KEY, WINDOW_SWITCHED, WINDOW_ALTERNATES } window; /* sliding_window: no such key, in force in all layers, only with
                                                                                   * use_sliding_window from layer max_window_layers on, in all but every `period`th layer */
    int period;
    int64_t silent_window;
    int head_dim;            /* when the config is silent; 0 = hidden / heads */
    double attn_softcap, logit_softcap;
    double rope_local_theta; /* of layers with a window, when the config is silent; 0 = that of the others */
    double norm_eps;         /* when the config is silent; 0 = 1e-6 */
    bool fused;              /* qkv_proj, gate_up_proj */
    bool experts;            /* model_config_experts.c */
};
static const struct family families[] = {
    {"llama", "LlamaForCausalLM", .rope_theta = 10000, .may_bias = true},
    {"mistral", "MistralForCausalLM", .rope_theta = 10000, .window = WINDOW_KEY},
    {"qwen2", "Qwen2ForCausalLM", .rope_theta = 10000, .qkv_bias = true, .window = WINDOW_SWITCHED},
    {"qwen3", "Qwen3ForCausalLM", .rope_theta = 10000, .may_bias = true, .qk_norm = true, .window = WINDOW_SWITCHED, .head_dim = 128},
    {"gemma2", "Gemma2ForCausalLM", .rope_theta = 10000, .gemma = true, .window = WINDOW_ALTERNATES, .period = 2, .silent_window = 4096, .head_dim = 256,
     .attn_softcap = 50, .logit_softcap = 30},
    {"gemma3_text", "Gemma3ForCausalLM", .rope_theta = 1e6, .rope_local_theta = 10000, .gemma = true, .qk_norm = true, .window = WINDOW_ALTERNATES, .period = 6,
     .silent_window = 4096, .head_dim = 256},
    {"mixtral", "MixtralForCausalLM", .rope_theta = 1e6, .norm_eps = 1e-5, .window = WINDOW_KEY, .experts = true},
    {"qwen3_moe", "Qwen3MoeForCausalLM", .rope_theta = 10000, .may_bias = true, .qk_norm = true, .experts = true},
    {"phi3", "Phi3ForCausalLM", .rope_theta = 10000, .norm_eps = 1e-5, .window = WINDOW_KEY, .fused = true},
};
#define N_FAMILIES (sizeof families / sizeof *families)

/* Models of several parts, whose config has that of the text in a map of its own. Published ones leave out what is as in the class of transformers. */
struct whole { const char *model_type, *architecture, *text; int64_t vocab, context; int heads, kv_heads; };
static const struct whole wholes[] = {{"gemma3", "Gemma3ForConditionalGeneration", "gemma3_text", 262208, 131072, 8, 4}};

static void known_families(char out[512])
{
    size_t at = 0;
    for (size_t i = 0; i < N_FAMILIES; i++)
        at += (size_t)snprintf(out + at, 512 - at, "%s%s (%s)", i ? ", " : "", families[i].model_type, families[i].architecture);
}

static int find_family(const struct family **out, const struct pw_value *json, const char *source)
{
    char known[512];
    known_families(known);
    const char *type = NULL, *architecture = NULL;
    PW_PASS(pw_get_str(json, "model_type", source, &type));
    const struct pw_value *list = pw_get(json, "architectures");
    if (list && list->kind != PW_NULL) {
        PW_CHECK(list->kind == PW_LIST && list->len >= 1 && list->items[0].kind == PW_STRING, PW_E_FORMAT,
                 "%s: architectures: expected a list of names", source);
        PW_CHECK(list->len == 1, PW_E_UNSUPPORTED, "%s: architectures: expected one, got %zu", source, list->len);
        architecture = list->items[0].s;
    }
    PW_CHECK(type || architecture, PW_E_FORMAT, "%s: neither model_type nor architectures is there", source);
    for (size_t i = 0; i < N_FAMILIES; i++) {
        const struct family *f = &families[i];
        if (type ? strcmp(f->model_type, type) != 0 : strcmp(f->architecture, architecture) != 0)
            continue;
        PW_CHECK(!architecture || strcmp(f->architecture, architecture) == 0, PW_E_UNSUPPORTED,
                 "%s: architectures: unknown architecture for model_type %s (expected %s, got %.60s)", source, f->model_type, f->architecture,
                 architecture);
        *out = f;
        return 0;
    }
    return pw_error(PW_E_UNSUPPORTED, "%s: unknown architecture %.60s (known: %s)", source, type ? type : architecture, known);
}

/* A count in [low, high]; absent: an error when it is required, else what *out holds. */
static int count(const struct pw_value *json, const char *key, const char *source, bool required, int64_t low, int64_t high, int64_t *out)
{
    const struct pw_value *v = pw_get(json, key);
    if (!v || v->kind == PW_NULL) {
        PW_CHECK(!required, PW_E_FORMAT, "%s: %s is missing", source, key);
        return 0;
    }
    PW_PASS(pw_get_i64(json, key, source, out));
    PW_CHECK(*out >= low && *out <= high, PW_E_FORMAT, "%s: %s is out of range (expected %" PRId64 " to %" PRId64 ", got %" PRId64 ")", source,
             key, low, high, *out);
    return 0;
}

static int small_count(const struct pw_value *json, const char *key, const char *source, bool required, int64_t high, int *out)
{
    int64_t x = *out;
    PW_PASS(count(json, key, source, required, 1, high, &x));
    *out = (int)x;
    return 0;
}

int pw_config_positive(const struct pw_value *json, const char *key, const char *source, double *out)
{
    const struct pw_value *v = pw_get(json, key);
    if (!v || v->kind == PW_NULL)
        return 0;
    PW_PASS(pw_get_f64(json, key, source, out));
    PW_CHECK(*out > 0 && isfinite(*out), PW_E_FORMAT, "%s: %s must be above 0 (got %g)", source, key, *out);
    return 0;
}

/* A token id: an int, null, or -1 for none. */
static int token_id(const struct pw_value *v, const char *key, const char *source, int64_t vocab, int32_t *out)
{
    if (!v || v->kind == PW_NULL)
        return 0;
    PW_CHECK(v->kind == PW_INT, PW_E_FORMAT, "%s: %s: expected an id, got %s", source, key, pw_kind_name(v->kind));
    PW_CHECK(v->i >= -1 && v->i < vocab, PW_E_FORMAT, "%s: %s is no token of the model (expected below %" PRId64 ", got %" PRId64 ")", source, key,
             vocab, v->i);
    *out = (int32_t)v->i;
    return 0;
}

static int read_tokens(struct pw_model_config *c, const struct pw_value *json, const char *source)
{
    PW_PASS(token_id(pw_get(json, "bos_token_id"), "bos_token_id", source, c->vocab, &c->bos));
    /* Padding never enters the model here, and published configs name pad ids past the embedding. */
    PW_PASS(token_id(pw_get(json, "pad_token_id"), "pad_token_id", source, INT32_MAX, &c->pad));
    return pw_model_config_eos(c, json, source);
}

int pw_model_config_eos(struct pw_model_config *c, const struct pw_value *json, const char *source)
{
    const struct pw_value *v = pw_get(json, "eos_token_id");
    if (!v || v->kind == PW_NULL)
        return 0;
    const struct pw_value *items = v->kind == PW_LIST ? v->items : v;
    size_t n = v->kind == PW_LIST ? v->len : 1;
    PW_CHECK(n <= 8, PW_E_UNSUPPORTED, "%s: eos_token_id: expected at most 8 ids, got %zu", source, n);
    c->n_eos = 0;
    for (int i = 0; i < 8; i++)
        c->eos[i] = -1;
    for (size_t i = 0; i < n; i++) {
        int32_t id = -1;
        PW_PASS(token_id(&items[i], "eos_token_id", source, c->vocab, &id));
        if (id >= 0)
            c->eos[c->n_eos++] = id;
    }
    return 0;
}

static void set_full(struct pw_model_config *c, int layer)
{
    c->full[layer / 64] |= (uint64_t)1 << layer % 64;
}

int64_t pw_model_config_window(const struct pw_model_config *c, int layer)
{
    return c->full[layer / 64] >> layer % 64 & 1 ? 0 : c->window;
}

int pw_model_config_rotary(const struct pw_model_config *c) { return c->rotary ? c->rotary : c->head_dim; }

bool pw_model_config_local(const struct pw_model_config *c, int layer)
{
    return c->rope_local_theta > 0 && pw_model_config_window(c, layer) > 0;
}

/* The window, and the layers that go without it: by the family's rule, or as layer_types lists them. */
static int read_window(struct pw_model_config *c, const struct family *f, const struct pw_value *json, const char *source)
{
    bool on = false;
    int64_t first = 28, period = f->period;
    PW_PASS(pw_get_bool(json, "use_sliding_window", source, &on));
    PW_CHECK(!on || f->window == WINDOW_SWITCHED, PW_E_UNSUPPORTED, "%s: use_sliding_window is not supported for %s", source, f->model_type);
    const struct pw_value *key = pw_get(json, "sliding_window");
    if (f->window == WINDOW_KEY || f->window == WINDOW_ALTERNATES || on) {
        c->window = key ? 0 : on ? 4096 : f->silent_window;
        PW_PASS(count(json, "sliding_window", source, false, 1, INT32_MAX, &c->window));
    }
    PW_PASS(count(json, "max_window_layers", source, false, 0, INT32_MAX, &first));
    PW_PASS(count(json, "sliding_window_pattern", source, false, 1, PW_LAYERS_MAX, &period));
    PW_CHECK(period == f->period || f->rope_local_theta > 0, PW_E_UNSUPPORTED, "%s: sliding_window_pattern %" PRId64 " is not supported for %s", source, period, f->model_type);
    const struct pw_value *types = pw_get(json, "layer_types");
    bool listed = types && types->kind != PW_NULL;
    PW_CHECK(!listed || (types->kind == PW_LIST && types->len == (size_t)c->layers), PW_E_FORMAT, "%s: layer_types: expected a list of %d", source, c->layers);
    for (int i = 0; i < c->layers; i++) {
        bool full = !c->window || (f->window == WINDOW_SWITCHED && i < first) || (f->window == WINDOW_ALTERNATES && (i + 1) % period == 0);
        if (listed) {
            const struct pw_value *t = &types->items[i];
            full = t->kind == PW_STRING && strcmp(t->s, "full_attention") == 0;
            PW_CHECK(full || (t->kind == PW_STRING && strcmp(t->s, "sliding_attention") == 0), PW_E_UNSUPPORTED,
                     "%s: layer_types[%d] is not supported (known: full_attention, sliding_attention)", source, i);
            PW_CHECK(full || c->window, PW_E_UNSUPPORTED, "%s: layer_types[%d] is sliding_attention, but no sliding_window is in force", source, i);
            PW_CHECK(!full || !c->window || f->window != WINDOW_KEY, PW_E_UNSUPPORTED, "%s: layer_types[%d] is not supported for %s (expected sliding_attention)",
                     source, i, f->model_type);
        }
        if (full && c->window)
            set_full(c, i);
    }
    return 0;
}

/* A key that is a number, or null for none. */
static int cap(const struct pw_value *json, const char *key, const char *source, double *out)
{
    const struct pw_value *v = pw_get(json, key);
    if (v && v->kind == PW_NULL)
        *out = 0;
    else if (v)
        PW_PASS(pw_config_positive(json, key, source, out));
    return 0;
}

static int read_gemma(struct pw_model_config *c, const struct pw_value *json, const char *source)
{
    bool both = false;
    c->attn_scalar = 256;
    PW_PASS(pw_config_positive(json, "query_pre_attn_scalar", source, &c->attn_scalar));
    PW_PASS(cap(json, "attn_logit_softcapping", source, &c->attn_softcap));
    PW_PASS(cap(json, "final_logit_softcapping", source, &c->logit_softcap));
    PW_PASS(pw_get_bool(json, "use_bidirectional_attention", source, &both));
    PW_CHECK(!both, PW_E_UNSUPPORTED, "%s: use_bidirectional_attention is not supported", source);
    c->embed_scale = sqrt(c->hidden);
    return 0;
}

static int read_rest(struct pw_model_config *c, const struct family *f, const struct pw_value *json, const char *source)
{
    const char *key = f->gemma ? "hidden_activation" : "hidden_act", *act = f->gemma ? "gelu_pytorch_tanh" : "silu";
    PW_PASS(pw_get_str(json, key, source, &act));
    c->gelu = strcmp(act, "gelu_pytorch_tanh") == 0;
    PW_CHECK(c->gelu || strcmp(act, "silu") == 0, PW_E_UNSUPPORTED, "%s: %s %.40s is not supported (known: silu, gelu_pytorch_tanh)", source, key, act);
    bool attention_bias = false, mlp_bias = false;
    PW_PASS(pw_get_bool(json, "attention_bias", source, &attention_bias));
    PW_PASS(pw_get_bool(json, "mlp_bias", source, &mlp_bias));
    PW_CHECK(f->may_bias || !attention_bias, PW_E_UNSUPPORTED, "%s: attention_bias is not supported for %s", source, f->model_type);
    PW_CHECK(f->may_bias || !mlp_bias, PW_E_UNSUPPORTED, "%s: mlp_bias is not supported for %s", source, f->model_type);
    PW_CHECK(!mlp_bias || !f->qk_norm, PW_E_UNSUPPORTED, "%s: mlp_bias is not supported for %s", source, f->model_type);
    c->qkv_bias = f->qkv_bias || attention_bias;
    c->o_bias = attention_bias;
    c->mlp_bias = mlp_bias;
    static const char *const ones[] = {"embedding_multiplier", "residual_multiplier", "attention_multiplier",
                                       "logits_scaling"};
    for (size_t i = 0; i < sizeof ones / sizeof *ones; i++) {
        double x = 1;
        PW_PASS(pw_get_f64(json, ones[i], source, &x));
        PW_CHECK(x == 1, PW_E_UNSUPPORTED, "%s: %s is not supported (expected 1, got %g)", source, ones[i], x);
    }
    if (f->gemma)
        PW_PASS(read_gemma(c, json, source));
    static const char *const absent[] = {"num_local_experts", "num_experts", "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"};
    for (size_t i = f->experts ? 2 : 0; i < (f->gemma ? 2 : sizeof absent / sizeof *absent); i++) {
        const struct pw_value *v = pw_get(json, absent[i]);
        PW_CHECK(!v || v->kind == PW_NULL, PW_E_UNSUPPORTED, "%s: %s is not supported for %s", source, absent[i], f->model_type);
    }
    return 0;
}

/* whole: what the text part is of, or NULL. */
static int parse(struct pw_model_config *c, const struct family *f, const struct whole *whole, const struct pw_value *json, const char *source)
{
    *c = (struct pw_model_config){.rope_theta = f->rope_theta, .rope_local_theta = f->rope_local_theta, .norm_eps = f->norm_eps > 0 ? f->norm_eps : 1e-6,
                                  .norm_offset = f->gemma, .fused = f->fused, .embed_scale = 1, .rope_factor = 1,
                                  .init_range = 0.02, .qk_norm = f->qk_norm, .post_norms = f->gemma, .tied = f->gemma,
                                  .attn_softcap = f->attn_softcap, .logit_softcap = f->logit_softcap, .bos = -1, .pad = -1};
    for (int i = 0; i < 8; i++)
        c->eos[i] = -1;
    snprintf(c->family, sizeof c->family, "%s", f->model_type);
    snprintf(c->architecture, sizeof c->architecture, "%s", f->architecture);

    if (whole) {
        c->vocab = whole->vocab;
        c->context = whole->context;
        c->heads = whole->heads;
        snprintf(c->whole, sizeof c->whole, "%s", whole->architecture);
    }
    PW_PASS(count(json, "vocab_size", source, !whole, 1, 1 << 26, &c->vocab));
    PW_PASS(small_count(json, "hidden_size", source, true, 1 << 20, &c->hidden));
    PW_PASS(small_count(json, "intermediate_size", source, true, 1 << 22, &c->ffn));
    PW_PASS(small_count(json, "num_hidden_layers", source, true, PW_LAYERS_MAX, &c->layers));
    PW_PASS(small_count(json, "num_attention_heads", source, !whole, 1 << 14, &c->heads));
    c->kv_heads = whole ? whole->kv_heads : c->heads;
    PW_PASS(small_count(json, "num_key_value_heads", source, false, 1 << 14, &c->kv_heads));
    PW_CHECK(c->heads % c->kv_heads == 0, PW_E_FORMAT, "%s: num_attention_heads is no multiple of num_key_value_heads (%d, %d)", source, c->heads,
             c->kv_heads);
    c->head_dim = f->head_dim ? f->head_dim : c->hidden % c->heads == 0 ? c->hidden / c->heads : 0;
    PW_PASS(small_count(json, "head_dim", source, c->head_dim == 0, 1 << 14, &c->head_dim));
    PW_CHECK(c->head_dim % 2 == 0, PW_E_FORMAT, "%s: head_dim must be even (got %d)", source, c->head_dim);
    PW_PASS(count(json, "max_position_embeddings", source, !whole, 1, 1 << 30, &c->context));
    PW_PASS(pw_config_positive(json, "rms_norm_eps", source, &c->norm_eps));
    PW_PASS(pw_config_positive(json, "initializer_range", source, &c->init_range));
    PW_PASS(pw_get_bool(json, "tie_word_embeddings", source, &c->tied));
    PW_PASS(read_window(c, f, json, source));
    PW_PASS(pw_rope_config_read(c, &(struct pw_rope_rules){.local = f->rope_local_theta > 0, .phi = f->fused}, json, source));
    PW_PASS(read_rest(c, f, json, source));
    if (f->experts)
        PW_PASS(pw_experts_config_read(c, json, source));
    PW_PASS(read_tokens(c, json, source));
    c->attn_scale = 1 / sqrt(c->attn_scalar > 0 ? c->attn_scalar : c->head_dim);
    c->parameters = pw_model_config_count(c);
    return 0;
}

/* The text part. transformers ties by the outer key, which is true when it is silent. */
static int parse_whole(struct pw_model_config *c, const struct whole *w, const struct pw_value *json, const char *source)
{
    const struct pw_value *text = pw_get(json, "text_config"), *list = pw_get(json, "architectures");
    const struct family *f;
    const char *type = w->text;
    char where[200];
    bool tied = true;
    PW_CHECK(text && text->kind == PW_MAP, PW_E_FORMAT, "%s: text_config: expected a map", source);
    PW_CHECK(!list || list->kind == PW_NULL || (list->kind == PW_LIST && list->len == 1 && list->items[0].kind == PW_STRING && strcmp(list->items[0].s, w->architecture) == 0), PW_E_UNSUPPORTED,
             "%s: architectures: expected %s for model_type %s", source, w->architecture, w->model_type);
    snprintf(where, sizeof where, "%.180s: text_config", source);
    PW_PASS(pw_get_str(text, "model_type", where, &type));
    PW_CHECK(strcmp(type, w->text) == 0, PW_E_UNSUPPORTED, "%s: model_type: expected %s, got %.60s", where, w->text, type);
    for (f = families; strcmp(f->model_type, w->text) != 0;)
        f++;
    PW_PASS(parse(c, f, w, text, where));
    PW_PASS(pw_get_bool(json, "tie_word_embeddings", source, &tied));
    PW_CHECK(tied == c->tied || !pw_get(text, "tie_word_embeddings"), PW_E_UNSUPPORTED, "%s: tie_word_embeddings is %s, and that of text_config is not", source, tied ? "true" : "false");
    c->tied = tied;
    c->parameters = pw_model_config_count(c);
    return pw_model_config_eos(c, json, source);
}

int pw_model_config_parse(struct pw_model_config *c, const struct pw_value *json, const char *source)
{
    const struct family *f;
    const char *type = NULL;
    PW_CHECK(json && json->kind == PW_MAP, PW_E_FORMAT, "%s: expected a map", source);
    PW_PASS(pw_get_str(json, "model_type", source, &type));
    for (size_t i = 0; type && i < sizeof wholes / sizeof *wholes; i++)
        if (strcmp(wholes[i].model_type, type) == 0)
            return parse_whole(c, &wholes[i], json, source);
    PW_PASS(find_family(&f, json, source));
    return parse(c, f, NULL, json, source);
}

static int64_t count_layer(const struct pw_model_config *c, int i)
{
    int64_t layer = pw_model_config_sparse(c, i) ? pw_experts_count(c) : 0;
    for (int n = 0; n < PW_NORM_COUNT; n++)
        layer += pw_norm_suffix(c, n) ? pw_norm_width(c, n) : 0;
    for (int l = 0; l < PW_LIN_COUNT; l++) {
        int64_t n_out, n_in;
        if (!pw_layer_has(c, i, l))
            continue;
        pw_linear_shape(c, l, &n_out, &n_in);
        layer += n_out * n_in + (pw_linear_biased(c, l) ? n_out : 0);
    }
    return layer;
}

int64_t pw_model_config_count(const struct pw_model_config *c)
{
    int64_t sum = c->vocab * c->hidden * (c->tied ? 1 : 2) + c->hidden;
    for (int i = 0; i < c->layers; i++)
        sum += count_layer(c, i);
    return sum;
}

static void write_cap(struct pw_json *w, const char *key, double x)
{
    if (x > 0)
        pw_json_f64(w, key, x);
    else
        pw_json_null(w, key);
}

static void write_layers(const struct pw_model_config *c, struct pw_json *w)
{
    pw_json_open(w, "layer_types", '[');
    for (int i = 0; i < c->layers; i++)
        pw_json_str(w, NULL, pw_model_config_window(c, i) ? "sliding_attention" : "full_attention");
    pw_json_close(w, ']');
}

void pw_model_config_write(const struct pw_model_config *c, const char *dtype, struct pw_json *w)
{
    const struct family *f = &families[0];
    for (size_t i = 0; i < N_FAMILIES; i++)
        if (strcmp(families[i].model_type, c->family) == 0)
            f = &families[i];
    pw_json_open(w, "architectures", '[');
    pw_json_str(w, NULL, c->architecture);
    pw_json_close(w, ']');
    if (f->experts)
        pw_experts_config_write(c, w);
    if (f->gemma)
        write_cap(w, "attn_logit_softcapping", c->attn_softcap);
    if (f->may_bias)
        pw_json_bool(w, "attention_bias", c->o_bias);
    if (c->bos >= 0)
        pw_json_i64(w, "bos_token_id", c->bos);
    if (c->n_eos == 1)
        pw_json_i64(w, "eos_token_id", c->eos[0]);
    else if (c->n_eos > 1) {
        pw_json_open(w, "eos_token_id", '[');
        for (int i = 0; i < c->n_eos; i++)
            pw_json_i64(w, NULL, c->eos[i]);
        pw_json_close(w, ']');
    }
    if (c->pad >= 0)
        pw_json_i64(w, "pad_token_id", c->pad);
    if (f->gemma)
        write_cap(w, "final_logit_softcapping", c->logit_softcap);
    pw_json_i64(w, "head_dim", c->head_dim);
    pw_json_str(w, f->gemma ? "hidden_activation" : "hidden_act", c->gelu ? "gelu_pytorch_tanh" : "silu");
    pw_json_i64(w, "hidden_size", c->hidden);
    pw_json_f64(w, "initializer_range", c->init_range);
    pw_json_i64(w, "intermediate_size", c->ffn);
    if (f->window == WINDOW_ALTERNATES || (f->window == WINDOW_SWITCHED && c->window))
        write_layers(c, w);
    pw_json_i64(w, "max_position_embeddings", c->rope_scaling == PW_ROPE_DYNAMIC ? (int64_t)c->rope_original_context : c->context);
    if (f->may_bias && !f->qk_norm)
        pw_json_bool(w, "mlp_bias", c->mlp_bias);
    pw_json_str(w, "model_type", c->family);
    pw_json_i64(w, "num_attention_heads", c->heads);
    pw_json_i64(w, "num_hidden_layers", c->layers);
    pw_json_i64(w, "num_key_value_heads", c->kv_heads);
    if (c->attn_scalar > 0)
        pw_json_f64(w, "query_pre_attn_scalar", c->attn_scalar);
    pw_json_f64(w, "rms_norm_eps", c->norm_eps);
    pw_rope_config_write(c, w);
    pw_json_f64(w, "rope_theta", c->rope_theta);
    if (f->window == WINDOW_KEY || f->window == WINDOW_ALTERNATES || c->window) {
        if (c->window)
            pw_json_i64(w, "sliding_window", c->window);
        else
            pw_json_null(w, "sliding_window");
    }
    pw_json_bool(w, "tie_word_embeddings", c->tied);
    if (dtype)
        pw_json_str(w, "torch_dtype", dtype);
    if (f->window == WINDOW_SWITCHED && c->window)
        pw_json_bool(w, "use_sliding_window", true);
    pw_json_i64(w, "vocab_size", c->vocab);
}

/* ---- the linear modules of a block ---- */

static const char *const suffixes[PW_LIN_COUNT] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.qkv_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.gate_up_proj", "mlp.down_proj",
};

const char *pw_linear_suffix(enum pw_linear l) { return suffixes[l]; }

bool pw_linear_has(const struct pw_model_config *c, enum pw_linear l)
{
    const bool joined = l == PW_LIN_QKV || l == PW_LIN_GATE_UP;
    return l == PW_LIN_O || l == PW_LIN_DOWN || joined == c->fused;
}

bool pw_linear_biased(const struct pw_model_config *c, enum pw_linear l)
{
    return l == PW_LIN_O ? c->o_bias : l < PW_LIN_O ? c->qkv_bias : c->mlp_bias;
}

void pw_linear_shape(const struct pw_model_config *c, enum pw_linear l, int64_t *n_out, int64_t *n_in)
{
    const int64_t q = (int64_t)c->heads * c->head_dim, kv = (int64_t)c->kv_heads * c->head_dim;
    const int64_t outs[PW_LIN_COUNT] = {q, kv, kv, q + 2 * kv, c->hidden, c->ffn, c->ffn, 2 * (int64_t)c->ffn, c->hidden};
    *n_in = l == PW_LIN_O ? q : l == PW_LIN_DOWN ? c->ffn : c->hidden;
    *n_out = outs[l];
}

/* ---- the norms of a block ---- */

const char *pw_norm_suffix(const struct pw_model_config *c, enum pw_norm n)
{
    switch (n) {
    case PW_NORM_ATTN: return "input_layernorm";
    case PW_NORM_Q: return c->qk_norm ? "self_attn.q_norm" : NULL;
    case PW_NORM_K: return c->qk_norm ? "self_attn.k_norm" : NULL;
    case PW_NORM_ATTN_OUT: return c->post_norms ? "post_attention_layernorm" : NULL;
    case PW_NORM_MLP: return c->post_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm";
    case PW_NORM_MLP_OUT: return c->post_norms ? "post_feedforward_layernorm" : NULL;
    default: return NULL;
    }
}

int pw_norm_width(const struct pw_model_config *c, enum pw_norm n)
{
    return n == PW_NORM_Q || n == PW_NORM_K ? c->head_dim : c->hidden;
}
