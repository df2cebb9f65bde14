/* GGUF models (see the header): keys to config, and opening a file as a checkpoint. Keys that ask for arithmetic that is not done here are
 * refused by name. */
#include "data/gguf_arch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "data/checkpoint_parts.h"

/* ---- config from keys ---- */

static const char factors_short[] = "rope_factors_short.weight", factors_long[] = "rope_factors_long.weight";

struct keys { struct pw_gguf *g; const char *arch; const struct pw_gguf_arch_row *row; char key[160]; };

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
    if (!pw_gguf_find(k->g, k->key))
        return 0;
    PW_CHECK(isfinite(*out) && *out > 0, PW_E_FORMAT, "%s: %s must be above 0 (got %g)", k->g->path, k->key, *out);
    return 0;
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
            same = fabs((double)x - pw_gguf_llama3_divisor(&guess, i)) <= 1e-5 * (double)x; /* writers compute in f32 */
        }
        if (same) {
            *c = guess;
            return 0;
        }
    }
    return pw_error(PW_E_UNSUPPORTED, "%s: rope_freqs.weight: these frequencies are not those of a llama3 rope scaling, others are not supported", g->path);
}

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
    c->rope_attention = pw_gguf_yarn_attention(c->rope_factor);
    return 0;
}

/* Divisors of the frequencies, for sequences within the original context or for longer ones. */
static int long_factors(const struct keys *k, const struct pw_model_config *c, const char *name, double *out)
{
    const struct pw_gguf_tensor *t = pw_gguf_tensor(k->g, name);
    const int n = pw_model_config_rotary(c) / 2;
    float x;
    PW_CHECK(t, PW_E_FORMAT, "%s: tensor %s is missing", k->g->path, name);
    PW_CHECK(n <= PW_ROPE_PAIRS_MAX, PW_E_UNSUPPORTED, "%s: %s: heads of more than %d dimensions are not supported", k->g->path, name, 2 * PW_ROPE_PAIRS_MAX);
    PW_CHECK(t->ggml == PW_GGML_F32 && t->ndim == 1 && t->shape[0] == n, PW_E_FORMAT, "%s: %s: expected (%d) F32", k->g->path, name, n);
    for (int i = 0; i < n; i++) {
        memcpy(&x, t->data + 4 * i, 4);
        PW_CHECK(isfinite(x) && x > 0, PW_E_FORMAT, "%s: %s[%d] is %g", k->g->path, name, i, (double)x);
        out[i] = (double)x;
    }
    return 0;
}

/* Phi-3: two tensors of divisors, or none. */
static int longrope(struct keys *k, const char *type, struct pw_model_config *c)
{
    const bool any = pw_gguf_tensor(k->g, factors_short) || pw_gguf_tensor(k->g, factors_long);
    int64_t original = c->context;
    PW_CHECK(!type || strcmp(type, "none") == 0 || strcmp(type, "longrope") == 0, PW_E_UNSUPPORTED, "%s: %s \"%.40s\" is not supported here (known: none, longrope)", k->g->path,
             k->key, type);
    PW_CHECK(any || !type || strcmp(type, "none") == 0, PW_E_FORMAT, "%s: %s is longrope, but tensor %s is missing", k->g->path, k->key, factors_short);
    PW_CHECK(!pw_gguf_find(k->g, key(k, "rope.scaling.factor")), PW_E_UNSUPPORTED, "%s: %s is not supported here", k->g->path, k->key);
    if (!any) {
        PW_CHECK(!pw_gguf_find(k->g, key(k, "rope.scaling.attn_factor")), PW_E_UNSUPPORTED, "%s: %s is not supported without %s", k->g->path, k->key, factors_short);
        return 0;
    }
    c->rope_scaling = PW_ROPE_LONG;
    PW_PASS(pw_gguf_get_i64(k->g, key(k, "rope.scaling.original_context_length"), false, 1, 1 << 30, &original));
    c->rope_original_context = (double)original;
    c->rope_factor = (double)c->context / c->rope_original_context;
    c->rope_attention = 1;
    PW_PASS(real(k, "rope.scaling.attn_factor", false, &c->rope_attention));
    PW_PASS(long_factors(k, c, factors_short, c->rope_short));
    return long_factors(k, c, factors_long, c->rope_long);
}

static int rope(struct keys *k, struct pw_model_config *c)
{
    const bool parts = k->row->fused, gemma3 = k->row->local_theta > 0;
    int dims = c->head_dim;
    const char *type = NULL;
    double local = k->row->local_theta, attention = 1;
    PW_PASS(real(k, "rope.freq_base", gemma3, &c->rope_theta));   /* of Gemma 3, silent files mean 10000 to some programs and 1000000 to others */
    PW_PASS(count(k, "rope.dimension_count", false, 1 << 14, &dims));
    PW_CHECK(parts || dims == c->head_dim, PW_E_UNSUPPORTED, "%s: %s: rotating a part of a head is not supported (expected %d, got %d)", k->g->path, k->key, c->head_dim, dims);
    PW_CHECK(dims <= c->head_dim && dims % 2 == 0, PW_E_FORMAT, "%s: %s: expected an even number up to %d, got %d", k->g->path, k->key, c->head_dim, dims);
    c->rotary = dims == c->head_dim ? 0 : dims;
    PW_PASS(real(k, "rope.freq_base_swa", false, &local));
    PW_CHECK(gemma3 || local == 0 || local == c->rope_theta, PW_E_UNSUPPORTED, "%s: %s is not supported (expected that of the other layers, %g, got %g)", k->g->path, k->key,
             c->rope_theta, local);
    c->rope_local_theta = gemma3 && c->window ? local : 0;
    PW_PASS(pw_gguf_get_str(k->g, key(k, "rope.scaling.type"), false, &type));
    if (parts)
        return longrope(k, type, c);
    PW_PASS(real(k, "rope.scaling.attn_factor", false, &attention));
    PW_CHECK(attention == 1, PW_E_UNSUPPORTED, "%s: %s is not supported", k->g->path, k->key);
    if (!type)                                                   /* a factor alone is a linear one */
        type = pw_gguf_find(k->g, key(k, "rope.scaling.factor")) ? "linear" : "none";
    key(k, "rope.scaling.type");
    if (strcmp(type, "linear") == 0) {
        c->rope_scaling = PW_ROPE_LINEAR;
        PW_PASS(real(k, "rope.scaling.factor", true, &c->rope_factor));
    } else if (strcmp(type, "yarn") == 0 && !gemma3)
        PW_PASS(yarn(k, c));
    else
        PW_CHECK(strcmp(type, "none") == 0, PW_E_UNSUPPORTED, "%s: %s \"%.40s\" is not supported (known: none, linear%s)", k->g->path, k->key, type, gemma3 ? "" : ", yarn");
    if (k->row->gemma)
        return 0;
    PW_CHECK(!pw_gguf_find(k->g, key(k, "rope.scale_linear")), PW_E_UNSUPPORTED, "%s: %s is not supported", k->g->path, k->key);
    PW_CHECK(c->rope_scaling == PW_ROPE_PLAIN || !pw_gguf_tensor(k->g, "rope_freqs.weight"), PW_E_UNSUPPORTED, "%s: a rope scaling beside rope_freqs.weight", k->g->path);
    return rope_divisors(k->g, c);
}

static int refuse(struct keys *k)
{
    const struct pw_gguf_arch_row *a = k->row;
    const struct { const char *end; bool known; } keys[] = {
        {"attn_logit_softcapping", a->attn_softcaps}, {"final_logit_softcapping", a->logit_softcaps}, {"attention.sliding_window", a->window},
        {"attention.sliding_window_pattern", a->period > 0}, {"logit_scale", false}, {"attention.clamp_kqv", false}, {"attention.max_alibi_bias", false},
        {"residual_scale", false}, {"embedding_scale", false}, {"attention.scale", false}};
    bool causal = true;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        PW_CHECK(keys[i].known || !pw_gguf_find(k->g, key(k, keys[i].end)), PW_E_UNSUPPORTED, "%s: %s is not supported", k->g->path, k->key);
    PW_PASS(pw_gguf_get_bool(k->g, key(k, "attention.causal"), &causal));
    PW_CHECK(causal, PW_E_UNSUPPORTED, "%s: %s: attention to tokens that come later is not supported", k->g->path, k->key);
    for (size_t i = 0; (a->gemma || a->fused) && i < 3; i++) {    /* llama.cpp does not look for these here */
        static const char *const strange[] = {"rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"};
        PW_CHECK((a->fused && i > 0) || !pw_gguf_tensor(k->g, strange[i]), PW_E_UNSUPPORTED, "%s: %s is not supported for %s", k->g->path, strange[i], a->name);
    }
    return 0;
}

static int cap(struct keys *k, const char *end, bool known, double silent, double *out)
{
    *out = silent;
    return known ? real(k, end, false, out) : 0;
}

/* The window and who goes without it; caps; what Gemma multiplies by. Silent files mean what llama.cpp takes them for. */
static int family(struct keys *k, struct pw_model_config *c)
{
    const struct pw_gguf_arch_row *a = k->row;
    int64_t period = a->period;
    c->window = a->silent_window;
    if (a->window)
        PW_PASS(pw_gguf_get_i64(k->g, key(k, "attention.sliding_window"), false, 0, INT32_MAX, &c->window));
    if (a->period)
        PW_PASS(pw_gguf_get_i64(k->g, key(k, "attention.sliding_window_pattern"), false, 1, PW_LAYERS_MAX, &period));
    for (int i = 0; c->window && period && i < c->layers; i++)
        if ((i + 1) % period == 0)
            c->full[i / 64] |= (uint64_t)1 << i % 64;
    PW_PASS(cap(k, "attn_logit_softcapping", a->attn_softcaps, a->attn_softcap, &c->attn_softcap));
    PW_PASS(cap(k, "final_logit_softcapping", a->logit_softcaps, a->logit_softcap, &c->logit_softcap));
    c->gelu = c->post_norms = a->gemma;
    c->norm_offset = a->gemma;
    c->embed_scale = a->gemma ? sqrt(c->hidden) : 1;
    c->attn_scalar = pw_gguf_attn_scalar(a, c);
    c->fused = a->fused;
    c->qk_norm = a->qk_norm;
    return 0;
}

/* Experts of every layer, their weights a share of those chosen, as llama.cpp computes these two architectures. An old Mixtral file calls itself llama. */
static int experts(struct keys *k, struct pw_model_config *c)
{
    const struct pw_gguf_arch_row *a = k->row;
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
    PW_PASS(pw_gguf_get_str(g, "general.architecture", true, &name));
    const struct pw_gguf_arch_row *a = pw_gguf_arch_named(name);
    PW_CHECK(a, PW_E_UNSUPPORTED, "%s: general.architecture: unknown architecture %.40s (known: llama, qwen2, qwen3, qwen3moe, gemma2, gemma3, phi3)", g->path, name);
    struct keys k = {g, name, a, ""};
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
    PW_PASS(count(&k, "block_count", true, PW_LAYERS_MAX, &c->layers));
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
    PW_PASS(family(&k, c));
    PW_PASS(rope(&k, c));
    PW_PASS(experts(&k, c));
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
    if (!a->gemma && !a->fused) {             /* of these, transformers has no biases */
        c->qkv_bias = pw_gguf_tensor(g, "blk.0.attn_q.bias") != NULL;
        c->o_bias = pw_gguf_tensor(g, "blk.0.attn_output.bias") != NULL;
        c->mlp_bias = pw_gguf_tensor(g, "blk.0.ffn_gate.bias") != NULL;
    }
    c->attn_scale = 1 / sqrt(c->attn_scalar > 0 ? c->attn_scalar : c->head_dim);
    c->parameters = pw_model_config_count(c);
    return 0;
}

/* ---- as a checkpoint ---- */

/* Norms of Gemma are stored with 1 added, in f32; from here on they are what folders hold. Exact, but for a last bit below 0.5. */
static int lower_norm(struct pw_checkpoint *c, struct stored *s)
{
    const int64_t n = s->t.shape[0];
    PW_CHECK(s->t.ndim == 1 && strcmp(s->t.dtype, "F32") == 0, PW_E_UNSUPPORTED, "%s: %s: expected one dimension of F32, got %d of %s", s->file, s->t.name, s->t.ndim, s->t.dtype);
    float *x = pw_arena_array(&c->arena, (size_t)n, sizeof *x);
    PW_CHECK(x, PW_E_NOMEM, "%s: no memory", s->file);
    memcpy(x, s->t.data, (size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] -= 1;
    s->t.data = (const uint8_t *)x;
    return 0;
}

int pw_checkpoint_open_gguf(struct pw_checkpoint *c, const char *file)
{
    struct pw_gguf *g = &c->gguf;
    const char *source = NULL, *arch = NULL;
    size_t most = 0;
    PW_PASS(pw_gguf_open(g, file));
    PW_PASS(pw_gguf_join(g));
    PW_PASS(pw_gguf_config(g, &c->config));
    PW_PASS(pw_gguf_get_str(g, "general.architecture", true, &arch));
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
        if (strcmp(t->name, "rope_freqs.weight") == 0 || (c->config.rope_scaling == PW_ROPE_LONG && (strcmp(t->name, factors_short) == 0 || strcmp(t->name, factors_long) == 0)))
            continue;                           /* part of the config */
        struct stored *s = &c->tensors[c->n++];
        *s = (struct stored){.file = t->file ? t->file : c->path, .t = {.name = t->name, .dtype = t->stored, .ndim = t->ndim, .data = t->data, .bytes = t->bytes}};
        memcpy(s->t.shape, t->shape, sizeof s->t.shape);
        if (pw_gguf_name_to_hf(arch, t->name, name)) {
            s->t.name = pw_arena_strndup(&c->arena, name, strlen(name));
            PW_CHECK(s->t.name, PW_E_NOMEM, "%s: no memory", file);
            if (pw_gguf_offset(&c->config, name) != 0)
                PW_PASS(lower_norm(c, s));
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
