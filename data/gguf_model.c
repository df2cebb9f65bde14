/* GGUF models (see the header): keys to config, names to names, and opening a file as a checkpoint. Keys that ask for arithmetic that is not
 * done here are refused by name. */
#include "data/gguf_model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "data/checkpoint_parts.h"

static const struct arch { const char *name, *family, *class; bool permuted; } archs[] = {
    {"llama", "llama", "LlamaForCausalLM", true},
    {"qwen2", "qwen2", "Qwen2ForCausalLM", false},
    {"qwen3", "qwen3", "Qwen3ForCausalLM", false},
    {"qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM", false},
};
enum { N_ARCHS = sizeof archs / sizeof *archs };

/* ---- names ---- */

static const char *const outer[][2] = {
    {"token_embd.weight", "model.embed_tokens.weight"}, {"output.weight", "lm_head.weight"}, {"output_norm.weight", "model.norm.weight"}};
static const char *const inner[][2] = {
    {"attn_norm", "input_layernorm"}, {"ffn_norm", "post_attention_layernorm"}, {"attn_q", "self_attn.q_proj"}, {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"}, {"attn_output", "self_attn.o_proj"}, {"ffn_gate", "mlp.gate_proj"}, {"ffn_up", "mlp.up_proj"}, {"ffn_down", "mlp.down_proj"},
    {"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"}, {"ffn_gate_inp", "mlp.gate"}, {"ffn_gate_exps", "mlp.experts.gate_proj"},
    {"ffn_up_exps", "mlp.experts.up_proj"}, {"ffn_down_exps", "mlp.experts.down_proj"}};

/* One table read from column `from` to the other. */
static bool rename_tensor(const char *name, int from, char out[160])
{
    static const char *const prefix[2] = {"blk.", "model.layers."};
    for (size_t i = 0; i < sizeof outer / sizeof *outer; i++)
        if (strcmp(name, outer[i][from]) == 0) {
            snprintf(out, 160, "%s", outer[i][!from]);
            return true;
        }
    const size_t skip = strlen(prefix[from]);
    if (strncmp(name, prefix[from], skip) != 0)
        return false;
    const size_t digits = strspn(name + skip, "0123456789");
    if (digits < 1 || digits > 6 || name[skip + digits] != '.' || (digits > 1 && name[skip] == '0'))
        return false;
    const char *rest = name + skip + digits + 1;
    for (size_t i = 0; i < sizeof inner / sizeof *inner; i++) {
        const size_t n = strlen(inner[i][from]);
        if (strncmp(rest, inner[i][from], n) == 0 && (strcmp(rest + n, ".weight") == 0 || strcmp(rest + n, ".bias") == 0)) {
            snprintf(out, 160, "%s%.*s.%s%s", prefix[!from], (int)digits, name + skip, inner[i][!from], rest + n);
            return true;
        }
    }
    return false;
}

bool pw_gguf_name_to_hf(const char *gguf, char out[160]) { return rename_tensor(gguf, 0, out); }
bool pw_gguf_name_from_hf(const char *hf, char out[160]) { return rename_tensor(hf, 1, out); }

/* ---- config from keys ---- */

struct keys { struct pw_gguf *g; const char *arch; char key[160]; };

static const char *key(struct keys *k, const char *end)
{
    snprintf(k->key, sizeof k->key, "%s.%s", k->arch, end);
    return k->key;
}

static int count(struct keys *k, const char *end, bool must, int64_t high, int *out)
{
    int64_t x = *out;
    PW_PASS(pw_gguf_get_i64(k->g, key(k, end), must, 1, high, &x));
    *out = (int)x;
    return 0;
}

/* A number, or one per layer that are all the same. */
static int per_layer(struct keys *k, const char *end, bool must, int64_t high, int *out)
{
    const struct pw_gguf_pair *p = pw_gguf_find(k->g, key(k, end));
    if (!p || p->type != PW_GGUF_ARRAY)
        return count(k, end, must, high, out);
    PW_CHECK((p->of == PW_GGUF_I32 || p->of == PW_GGUF_U32) && p->n >= 1, PW_E_FORMAT, "%s: %s: expected integers", k->g->path, k->key);
    const int64_t x = pw_gguf_int(p, 0);
    PW_CHECK(x >= 1 && x <= high, PW_E_FORMAT, "%s: %s is out of range (got %lld)", k->g->path, k->key, (long long)x);
    for (uint64_t i = 1; i < p->n; i++)
        PW_CHECK(pw_gguf_int(p, i) == x, PW_E_UNSUPPORTED, "%s: %s: layers that differ are not supported", k->g->path, k->key);
    *out = (int)x;
    return 0;
}

static int real(struct keys *k, const char *end, bool must, double *out)
{
    PW_PASS(pw_gguf_get_f64(k->g, key(k, end), must, out));
    PW_CHECK(isfinite(*out) && *out > 0, PW_E_FORMAT, "%s: %s must be above 0 (got %g)", k->g->path, k->key, *out);
    return 0;
}

/* The frequencies' divisors that a llama3 scaling stands for. */
static double llama3_divisor(const struct pw_model_config *c, int i)
{
    const double freq = pow(c->rope_theta, -2.0 * i / c->head_dim), turns = c->rope_original_context * freq / (2 * M_PI);
    if (turns > c->rope_high_freq)
        return 1;
    if (turns < c->rope_low_freq)
        return c->rope_factor;
    const double keep = (turns - c->rope_low_freq) / (c->rope_high_freq - c->rope_low_freq);
    return 1 / (keep + (1 - keep) / c->rope_factor);
}

/* rope_freqs.weight holds divisors as f32. Those of Llama 3.1 and later are recognised (largest = factor, low 1, high 4, an original
 * context that is a power of two); others are refused. */
static int rope_divisors(struct pw_gguf *g, struct pw_model_config *c)
{
    const struct pw_gguf_tensor *t = pw_gguf_tensor(g, "rope_freqs.weight");
    double largest = 0;
    float x;
    if (!t)
        return 0;
    PW_CHECK(t->ggml == PW_GGML_F32 && t->ndim == 1 && t->shape[0] == c->head_dim / 2, PW_E_FORMAT, "%s: rope_freqs.weight: expected (%d) F32", g->path, c->head_dim / 2);
    for (int i = 0; i < c->head_dim / 2; i++) {
        memcpy(&x, t->data + 4 * i, 4);
        PW_CHECK(isfinite(x) && x > 0, PW_E_FORMAT, "%s: rope_freqs.weight[%d] is %g", g->path, i, (double)x);
        largest = (double)x > largest ? (double)x : largest;
    }
    struct pw_model_config guess = *c;
    guess.rope_scaling = PW_ROPE_LLAMA3;
    guess.rope_factor = largest;
    guess.rope_low_freq = 1;
    guess.rope_high_freq = 4;
    for (int64_t original = 512; original <= 1 << 20; original *= 2) {
        bool same = true;
        guess.rope_original_context = (double)original;
        for (int i = 0; same && i < c->head_dim / 2; i++) {
            memcpy(&x, t->data + 4 * i, 4);
            same = fabs((double)x - llama3_divisor(&guess, i)) <= 1e-5 * (double)x; /* writers compute in f32 */
        }
        if (same) {
            *c = guess;
            return 0;
        }
    }
    return pw_error(PW_E_UNSUPPORTED, "%s: rope_freqs.weight: these frequencies are not those of a llama3 rope scaling, others are not supported", g->path);
}

static double yarn_attention(double factor) { return factor > 1 ? 1 + 0.1 * log(factor) : 1; }

/* YaRN as llama.cpp computes it when the file says no more than these keys: betas 32 and 1. */
static int yarn(struct keys *k, struct pw_model_config *c)
{
    static const char *const absent[] = {"attn_factor", "yarn_log_multiplier", "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"};
    char end[64];
    int64_t original = c->context;
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
        snprintf(end, sizeof end, "rope.scaling.%s", absent[i]);
        PW_CHECK(!pw_gguf_find(k->g, key(k, end)), PW_E_UNSUPPORTED, "%s: %s is not supported", k->g->path, k->key);
    }
    PW_PASS(real(k, "rope.scaling.factor", true, &c->rope_factor));
    PW_PASS(pw_gguf_get_i64(k->g, key(k, "rope.scaling.original_context_length"), false, 1, 1 << 30, &original));
    c->rope_scaling = PW_ROPE_YARN;
    c->rope_original_context = (double)original;
    c->rope_beta_fast = 32;
    c->rope_beta_slow = 1;
    c->rope_attention = yarn_attention(c->rope_factor);
    return 0;
}

static int rope(struct keys *k, struct pw_model_config *c)
{
    int dims = c->head_dim;
    const char *type = "none";
    PW_PASS(real(k, "rope.freq_base", false, &c->rope_theta));
    PW_PASS(count(k, "rope.dimension_count", false, 1 << 14, &dims));
    PW_CHECK(dims == c->head_dim, PW_E_UNSUPPORTED, "%s: %s: rotating a part of a head is not supported (expected %d, got %d)", k->g->path, k->key, c->head_dim, dims);
    PW_PASS(pw_gguf_get_str(k->g, key(k, "rope.scaling.type"), false, &type));
    if (strcmp(type, "linear") == 0) {
        c->rope_scaling = PW_ROPE_LINEAR;
        PW_PASS(real(k, "rope.scaling.factor", true, &c->rope_factor));
    } else if (strcmp(type, "yarn") == 0)
        PW_PASS(yarn(k, c));
    else
        PW_CHECK(strcmp(type, "none") == 0, PW_E_UNSUPPORTED, "%s: %s \"%.40s\" is not supported (known: none, linear, yarn)", k->g->path, k->key, type);
    PW_CHECK(!pw_gguf_find(k->g, key(k, "rope.scale_linear")), PW_E_UNSUPPORTED, "%s: %s is not supported", k->g->path, k->key);
    PW_CHECK(c->rope_scaling == PW_ROPE_PLAIN || !pw_gguf_tensor(k->g, "rope_freqs.weight"), PW_E_UNSUPPORTED, "%s: a rope scaling beside rope_freqs.weight", k->g->path);
    return rope_divisors(k->g, c);
}

static int refuse(struct keys *k)
{
    static const char *const absent[] = {"attn_logit_softcapping", "final_logit_softcapping", "logit_scale", "attention.clamp_kqv", "attention.max_alibi_bias",
                                         "attention.sliding_window", "residual_scale", "embedding_scale", "attention.scale"};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
        PW_CHECK(!pw_gguf_find(k->g, key(k, absent[i])), PW_E_UNSUPPORTED, "%s: %s is not supported", k->g->path, k->key);
    return 0;
}

/* Experts of every layer, their weights a share of those chosen, as llama.cpp computes these two architectures. An old Mixtral file calls itself llama. */
static int experts(struct keys *k, const struct arch *a, struct pw_model_config *c)
{
    static const char *const absent[] = {"expert_shared_count", "expert_shared_feed_forward_length", "expert_weights_scale", "expert_gating_func", "expert_group_count"};
    int64_t n = 0;
    const bool moe = strcmp(a->family, "qwen3_moe") == 0;
    PW_PASS(pw_gguf_get_i64(k->g, key(k, "expert_count"), moe, 0, 1024, &n));
    if (n == 0)
        return 0;
    PW_CHECK(moe || strcmp(a->family, "llama") == 0, PW_E_UNSUPPORTED, "%s: %s: experts are not supported for %s", k->g->path, k->key, a->name);
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
        PW_CHECK(!pw_gguf_find(k->g, key(k, absent[i])), PW_E_UNSUPPORTED, "%s: %s is not supported", k->g->path, k->key);
    c->experts = (int)n;
    PW_PASS(count(k, "expert_used_count", true, n < 32 ? n : 32, &c->experts_chosen));
    c->expert_ffn = c->ffn;
    PW_PASS(count(k, "expert_feed_forward_length", moe, 1 << 22, &c->expert_ffn));
    c->experts_renormalise = true;
    if (!moe) {
        snprintf(c->family, sizeof c->family, "mixtral");
        snprintf(c->architecture, sizeof c->architecture, "MixtralForCausalLM");
    }
    return 0;
}

static int token(struct pw_gguf *g, const char *name, int64_t high, int32_t *out)
{
    int64_t id = -1;
    PW_PASS(pw_gguf_get_i64(g, name, false, -1, UINT32_MAX, &id));
    if (id >= 0 && id != UINT32_MAX) {
        PW_CHECK(id < high, PW_E_FORMAT, "%s: %s is no token of the model (expected below %lld, got %lld)", g->path, name, (long long)high, (long long)id);
        *out = (int32_t)id;
    }
    return 0;
}

int pw_gguf_config(struct pw_gguf *g, struct pw_model_config *c)
{
    const char *name = NULL;
    const struct arch *a = NULL;
    PW_PASS(pw_gguf_get_str(g, "general.architecture", true, &name));
    for (size_t i = 0; i < N_ARCHS; i++)
        if (strcmp(archs[i].name, name) == 0)
            a = &archs[i];
    PW_CHECK(a, PW_E_UNSUPPORTED, "%s: general.architecture: unknown architecture %.40s (known: llama, qwen2, qwen3, qwen3moe)", g->path, name);
    struct keys k = {g, name, ""};
    *c = (struct pw_model_config){.rope_theta = 10000, .embed_scale = 1, .rope_factor = 1, .init_range = 0.02, .bos = -1, .pad = -1, .rope_interleaved = a->permuted};
    for (int i = 0; i < 8; i++)
        c->eos[i] = -1;
    snprintf(c->family, sizeof c->family, "%s", a->family);
    snprintf(c->architecture, sizeof c->architecture, "%s", a->class);
    PW_PASS(refuse(&k));
    const struct pw_gguf_tensor *embed = pw_gguf_tensor(g, "token_embd.weight");
    if (!embed) {
        const int rc = pw_error(PW_E_FORMAT, "%s: tensor token_embd.weight is missing%s", g->path, g->n_tensors ? "" : ": the file holds no tensors, only keys");
        if (!g->n_tensors)
            pw_error_hint("such a file serves as a tokenizer: pw tokenize FILE, or --tokenizer FILE");
        return rc;
    }
    PW_CHECK(embed->ndim == 2 && embed->shape[0] <= 1 << 26, PW_E_FORMAT, "%s: token_embd.weight: expected a matrix of at most 2^26 rows", g->path);
    c->vocab = embed->shape[0];
    PW_PASS(count(&k, "embedding_length", true, 1 << 20, &c->hidden));
    PW_PASS(per_layer(&k, "feed_forward_length", true, 1 << 22, &c->ffn));
    PW_PASS(count(&k, "block_count", true, 4096, &c->layers));
    PW_PASS(per_layer(&k, "attention.head_count", true, 1 << 14, &c->heads));
    c->kv_heads = c->heads;
    PW_PASS(per_layer(&k, "attention.head_count_kv", false, 1 << 14, &c->kv_heads));
    PW_CHECK(c->heads % c->kv_heads == 0, PW_E_FORMAT, "%s: %d heads are no multiple of %d key/value heads", g->path, c->heads, c->kv_heads);
    c->head_dim = c->hidden % c->heads == 0 ? c->hidden / c->heads : 0;
    PW_PASS(count(&k, "attention.key_length", c->head_dim == 0, 1 << 14, &c->head_dim));
    int value = c->head_dim;
    PW_PASS(count(&k, "attention.value_length", false, 1 << 14, &value));
    PW_CHECK(value == c->head_dim && c->head_dim % 2 == 0, PW_E_UNSUPPORTED, "%s: heads of %d keys and %d values are not supported", g->path, c->head_dim, value);
    int64_t context = 0;
    PW_PASS(pw_gguf_get_i64(g, key(&k, "context_length"), true, 1, 1 << 30, &context));
    c->context = context;
    PW_PASS(real(&k, "attention.layer_norm_rms_epsilon", true, &c->norm_eps));
    PW_PASS(rope(&k, c));
    PW_PASS(experts(&k, a, c));
    c->qk_norm = strncmp(a->family, "qwen3", 5) == 0;
    PW_PASS(token(g, "tokenizer.ggml.bos_token_id", c->vocab, &c->bos));
    PW_PASS(token(g, "tokenizer.ggml.eos_token_id", c->vocab, &c->eos[0]));
    PW_PASS(token(g, "tokenizer.ggml.padding_token_id", INT32_MAX, &c->pad));
    c->n_eos = c->eos[0] >= 0;
    static const char *const ends[] = {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    for (int i = 0; i < 2; i++) {
        int32_t id = -1;
        PW_PASS(token(g, ends[i], c->vocab, &id));
        bool known = id < 0;
        for (int j = 0; j < c->n_eos; j++)
            known = known || c->eos[j] == id;
        if (!known)
            c->eos[c->n_eos++] = id;
    }
    c->tied = !pw_gguf_tensor(g, "output.weight");
    c->qkv_bias = pw_gguf_tensor(g, "blk.0.attn_q.bias") != NULL;
    c->o_bias = pw_gguf_tensor(g, "blk.0.attn_output.bias") != NULL;
    c->mlp_bias = pw_gguf_tensor(g, "blk.0.ffn_gate.bias") != NULL;
    c->attn_scale = 1 / sqrt(c->head_dim);
    c->parameters = pw_model_config_count(c);
    return 0;
}

/* ---- config to keys ---- */

static int arch_of(const struct pw_model_config *c, const struct arch **out)
{
    const char *family = strcmp(c->family, "mistral") == 0 ? "llama" : c->family;
    for (size_t i = 0; c->experts == 0 && i < N_ARCHS; i++)
        if (strcmp(archs[i].family, family) == 0) {
            *out = &archs[i];
            return 0;
        }
    return pw_error(PW_E_UNSUPPORTED, "a %s model cannot be written as GGUF (known: llama, mistral, qwen2, qwen3)", c->family);
}

int pw_gguf_arch(const struct pw_model_config *c, const char **name, bool *permutes)
{
    const struct arch *a;
    PW_PASS(arch_of(c, &a));
    *name = a->name;
    *permutes = a->permuted;
    return 0;
}

int pw_gguf_permutes(const struct pw_model_config *c, bool *permutes)
{
    const char *name;
    return pw_gguf_arch(c, &name, permutes);
}

int pw_gguf_rope_factors(const struct pw_model_config *c, float *factors, int *n)
{
    *n = c->rope_scaling == PW_ROPE_LLAMA3 ? c->head_dim / 2 : 0;
    for (int i = 0; i < *n; i++)
        factors[i] = (float)llama3_divisor(c, i);
    return 0;
}

int64_t pw_gguf_context(const struct pw_model_config *c) { return c->window && c->window < c->context ? c->window : c->context; }

int pw_gguf_put_config(struct pw_gguf_out *w, const struct pw_model_config *c)
{
    const struct arch *a;
    char k[160];
    PW_PASS(arch_of(c, &a));
    PW_CHECK(!c->gelu && c->norm_offset == 0 && c->embed_scale == 1 && c->attn_softcap == 0 && c->logit_softcap == 0, PW_E_UNSUPPORTED,
             "a model with other than llama's arithmetic cannot be written as GGUF");
    const bool yarn = c->rope_scaling == PW_ROPE_YARN && c->rope_beta_fast == 32 && c->rope_beta_slow == 1 && !c->rope_whole_range &&
                      fabs(c->rope_attention - yarn_attention(c->rope_factor)) <= 1e-6;
    PW_CHECK(yarn || c->rope_scaling == PW_ROPE_PLAIN || c->rope_scaling == PW_ROPE_LINEAR || c->rope_scaling == PW_ROPE_LLAMA3, PW_E_UNSUPPORTED,
             "this rope scaling cannot be written as GGUF");
#define KEY(end) (snprintf(k, sizeof k, "%s." end, a->name), k)
    pw_gguf_put_str(w, "general.architecture", a->name, strlen(a->name));
    pw_gguf_put_u32(w, KEY("block_count"), (uint32_t)c->layers);
    pw_gguf_put_u32(w, KEY("context_length"), (uint32_t)pw_gguf_context(c));
    pw_gguf_put_u32(w, KEY("embedding_length"), (uint32_t)c->hidden);
    pw_gguf_put_u32(w, KEY("feed_forward_length"), (uint32_t)c->ffn);
    pw_gguf_put_u32(w, KEY("attention.head_count"), (uint32_t)c->heads);
    pw_gguf_put_u32(w, KEY("attention.head_count_kv"), (uint32_t)c->kv_heads);
    pw_gguf_put_u32(w, KEY("attention.key_length"), (uint32_t)c->head_dim);
    pw_gguf_put_u32(w, KEY("attention.value_length"), (uint32_t)c->head_dim);
    pw_gguf_put_f32(w, KEY("attention.layer_norm_rms_epsilon"), (float)c->norm_eps);
    pw_gguf_put_u32(w, KEY("rope.dimension_count"), (uint32_t)c->head_dim);
    pw_gguf_put_f32(w, KEY("rope.freq_base"), (float)c->rope_theta);
    pw_gguf_put_u32(w, KEY("vocab_size"), (uint32_t)c->vocab);
    if (c->rope_scaling == PW_ROPE_LINEAR) {
        pw_gguf_put_str(w, KEY("rope.scaling.type"), "linear", 6);
        pw_gguf_put_f32(w, KEY("rope.scaling.factor"), (float)c->rope_factor);
    }
    if (yarn) {
        pw_gguf_put_str(w, KEY("rope.scaling.type"), "yarn", 4);
        pw_gguf_put_f32(w, KEY("rope.scaling.factor"), (float)c->rope_factor);
        pw_gguf_put_u32(w, KEY("rope.scaling.original_context_length"), (uint32_t)c->rope_original_context);
    }
#undef KEY
    return 0;
}

/* ---- as a checkpoint ---- */

int pw_checkpoint_open_gguf(struct pw_checkpoint *c, const char *file)
{
    struct pw_gguf *g = &c->gguf;
    const char *source = NULL;
    size_t most = 0;
    PW_PASS(pw_gguf_open(g, file));
    PW_PASS(pw_gguf_join(g));
    PW_PASS(pw_gguf_config(g, &c->config));
    PW_PASS(pw_gguf_get_str(g, "pennyweight.source", false, &source));
    if (source) {
        PW_CHECK(strlen(source) == 64 && strspn(source, "0123456789abcdef") == 64, PW_E_FORMAT, "%s: pennyweight.source is no SHA-256", file);
        c->source = source;
    }
    c->tensors = pw_arena_array(&c->arena, g->n_tensors + 1, sizeof *c->tensors);
    PW_CHECK(c->tensors, PW_E_NOMEM, "%s: no memory", file);
    const char *type = "F32";
    for (size_t i = 0; i < g->n_tensors; i++) {
        const struct pw_gguf_tensor *t = &g->tensors[i];
        char name[160];
        if (strcmp(t->name, "rope_freqs.weight") == 0)
            continue;                           /* part of the config */
        struct stored *s = &c->tensors[c->n++];
        *s = (struct stored){.file = t->file ? t->file : c->path, .t = {.name = t->name, .dtype = t->stored, .ndim = t->ndim, .data = t->data, .bytes = t->bytes}};
        memcpy(s->t.shape, t->shape, sizeof s->t.shape);
        if (pw_gguf_name_to_hf(t->name, name)) {
            s->t.name = pw_arena_strndup(&c->arena, name, strlen(name));
            PW_CHECK(s->t.name, PW_E_NOMEM, "%s: no memory", file);
        }
        if (t->ndim >= 2 && t->bytes > most) {  /* the file goes by the type of its largest matrix that is not the embedding */
            if (strcmp(t->name, "token_embd.weight") != 0 && strcmp(t->name, "output.weight") != 0) {
                most = t->bytes;
                type = t->stored;
            }
        }
    }
    char *format = pw_arena_printf(&c->arena, "GGUF, %s", type);
    PW_CHECK(format, PW_E_NOMEM, "%s: no memory", file);
    c->format = format;
    if (pw_gguf_find(g, "tokenizer.ggml.tokens"))
        c->tokenizer = c->path;
    return 0;
}
