/* A model's config as keys of a GGUF file (see gguf_model.h). What llama.cpp would compute otherwise than the model does is refused. */
#include "data/gguf_arch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

int pw_gguf_rope_tensor(const struct pw_model_config *c, int which, const char **name, float *values, int *n)
{
    const int pairs = pw_model_config_rotary(c) / 2;
    static const char *const factors[] = {"rope_factors_short.weight", "rope_factors_long.weight"};
    *n = 0;
    if (c->rope_scaling == PW_ROPE_LLAMA3 && which == 0) {
        *name = "rope_freqs.weight";
        for (int i = 0; i < pairs; i++)
            values[i] = (float)pw_gguf_llama3_divisor(c, i);
        *n = pairs;
    }
    if (c->rope_scaling == PW_ROPE_LONG && which < 2) {
        *name = factors[which];
        for (int i = 0; i < pairs; i++)
            values[i] = (float)(which ? c->rope_long : c->rope_short)[i];
        *n = pairs;
    }
    return *n;
}

/* Every how many layers one goes without the window; 0: in no such order. */
static int period_of(const struct pw_gguf_arch_row *a, const struct pw_model_config *c)
{
    for (int p = a->period, i; p <= c->layers + 1; p = p == a->period ? 1 : p + 1 == a->period ? p + 2 : p + 1) {
        for (i = 0; i < c->layers && (pw_model_config_window(c, i) == 0) == ((i + 1) % p == 0); i++);
        if (i == c->layers)
            return p;
    }
    return 0;
}

/* What these architectures are in llama.cpp and may not be in a config. */
static int check(const struct pw_gguf_arch_row *a, const struct pw_model_config *c, bool yarn)
{
    const bool plain = c->rope_scaling == PW_ROPE_PLAIN, linear = c->rope_scaling == PW_ROPE_LINEAR, gemma3 = a->local_theta > 0;
    PW_CHECK(c->gelu == a->gemma && c->norm_offset == a->gemma && c->embed_scale == (a->gemma ? sqrt(c->hidden) : 1) && (a->attn_softcaps ? c->attn_softcap > 0 : c->attn_softcap == 0) &&
                 (a->attn_softcaps ? c->logit_softcap > 0 : a->logit_softcaps || c->logit_softcap == 0),
             PW_E_UNSUPPORTED, "a model with other than %s's arithmetic cannot be written as GGUF", a->name);
    PW_CHECK(a->fused ? plain || c->rope_scaling == PW_ROPE_LONG : plain || linear || (yarn && !gemma3) || (c->rope_scaling == PW_ROPE_LLAMA3 && !a->gemma), PW_E_UNSUPPORTED,
             "this rope scaling cannot be written as GGUF");
    PW_CHECK(!a->gemma || c->attn_scalar == pw_gguf_attn_scalar(a, c), PW_E_UNSUPPORTED,
             "query_pre_attn_scalar %g has no key in GGUF files: llama.cpp takes %g for this %s model", c->attn_scalar, pw_gguf_attn_scalar(a, c), a->name);
    PW_CHECK(!a->attn_softcaps || (c->tied && c->window > 0), PW_E_UNSUPPORTED, "a %s model without a window, or with a head of its own, cannot be written as GGUF", a->name);
    PW_CHECK(!a->period || !c->window || period_of(a, c) > 0, PW_E_UNSUPPORTED, "layers whose windows are in no order cannot be written as GGUF");
    PW_CHECK(!a->fused || (int64_t)c->heads * c->head_dim == c->hidden, PW_E_UNSUPPORTED,
             "heads of %d dimensions are not those of a %s model in GGUF files (expected %d)", c->head_dim, a->name, c->hidden / c->heads);
    for (int i = 0; c->experts && i < c->layers; i++)
        PW_CHECK(pw_model_config_sparse(c, i), PW_E_UNSUPPORTED, "layer %d has no experts, and llama.cpp expects them in every layer of a %s model: it cannot be written as GGUF", i, a->name);
    PW_CHECK(!c->experts || c->experts_renormalise, PW_E_UNSUPPORTED, "norm_topk_prob false has no key in GGUF files: llama.cpp divides the weights of a %s model's experts by their sum",
             a->name);
    return 0;
}

static const char *key(char k[160], const struct pw_gguf_arch_row *a, const char *end)
{
    snprintf(k, 160, "%s.%s", a->name, end);
    return k;
}

/* Windows and caps. */
static void put_family(struct pw_gguf_out *w, const struct pw_gguf_arch_row *a, const struct pw_model_config *c)
{
    char k[160];
    if (a->window && (c->window || a->fused))
        pw_gguf_put_u32(w, key(k, a, "attention.sliding_window"), (uint32_t)c->window);
    if (a->period && c->window && period_of(a, c) != a->period)
        pw_gguf_put_u32(w, key(k, a, "attention.sliding_window_pattern"), (uint32_t)period_of(a, c));
    if (c->attn_softcap > 0)
        pw_gguf_put_f32(w, key(k, a, "attn_logit_softcapping"), (float)c->attn_softcap);
    if (c->logit_softcap > 0)
        pw_gguf_put_f32(w, key(k, a, "final_logit_softcapping"), (float)c->logit_softcap);
}

/* Where an expert is as wide as a dense half, as in Mixtral, files do not say how wide. */
static void put_experts(struct pw_gguf_out *w, const struct pw_gguf_arch_row *a, const struct pw_model_config *c)
{
    char k[160];
    if (!c->experts)
        return;
    pw_gguf_put_u32(w, key(k, a, "expert_count"), (uint32_t)c->experts);
    pw_gguf_put_u32(w, key(k, a, "expert_used_count"), (uint32_t)c->experts_chosen);
    if (strcmp(a->family, "qwen3_moe") == 0)
        pw_gguf_put_u32(w, key(k, a, "expert_feed_forward_length"), (uint32_t)c->expert_ffn);
}

static void put_rope(struct pw_gguf_out *w, const struct pw_gguf_arch_row *a, const struct pw_model_config *c)
{
    char k[160];
    const bool yarn = c->rope_scaling == PW_ROPE_YARN, stretched = c->rope_scaling == PW_ROPE_LONG;
    pw_gguf_put_u32(w, key(k, a, "rope.dimension_count"), (uint32_t)pw_model_config_rotary(c));
    pw_gguf_put_f32(w, key(k, a, "rope.freq_base"), (float)c->rope_theta);
    if (c->rope_local_theta > 0)
        pw_gguf_put_f32(w, key(k, a, "rope.freq_base_swa"), (float)c->rope_local_theta);
    if (c->rope_scaling == PW_ROPE_LINEAR || yarn) {
        pw_gguf_put_str(w, key(k, a, "rope.scaling.type"), yarn ? "yarn" : "linear", yarn ? 4 : 6);
        pw_gguf_put_f32(w, key(k, a, "rope.scaling.factor"), (float)c->rope_factor);
    }
    if (stretched) {
        pw_gguf_put_str(w, key(k, a, "rope.scaling.type"), "longrope", 8);
        pw_gguf_put_f32(w, key(k, a, "rope.scaling.attn_factor"), (float)c->rope_attention);
    }
    if (yarn || stretched)
        pw_gguf_put_u32(w, key(k, a, "rope.scaling.original_context_length"), (uint32_t)c->rope_original_context);
}

int pw_gguf_put_config(struct pw_gguf_out *w, const struct pw_model_config *c)
{
    const struct pw_gguf_arch_row *a;
    char k[160];
    const bool yarn = c->rope_scaling == PW_ROPE_YARN && c->rope_beta_fast == 32 && c->rope_beta_slow == 1 && !c->rope_whole_range &&
                      fabs(c->rope_attention - pw_gguf_yarn_attention(c->rope_factor)) <= 1e-6;
    PW_PASS(pw_gguf_arch_of(c, &a));
    PW_PASS(check(a, c, yarn));
    pw_gguf_put_str(w, "general.architecture", a->name, strlen(a->name));
    pw_gguf_put_u32(w, key(k, a, "block_count"), (uint32_t)c->layers);
    pw_gguf_put_u32(w, key(k, a, "context_length"), (uint32_t)pw_gguf_context(c));
    pw_gguf_put_u32(w, key(k, a, "embedding_length"), (uint32_t)c->hidden);
    pw_gguf_put_u32(w, key(k, a, "feed_forward_length"), (uint32_t)c->ffn);
    pw_gguf_put_u32(w, key(k, a, "attention.head_count"), (uint32_t)c->heads);
    pw_gguf_put_u32(w, key(k, a, "attention.head_count_kv"), (uint32_t)c->kv_heads);
    pw_gguf_put_u32(w, key(k, a, "attention.key_length"), (uint32_t)c->head_dim);
    pw_gguf_put_u32(w, key(k, a, "attention.value_length"), (uint32_t)c->head_dim);
    pw_gguf_put_f32(w, key(k, a, "attention.layer_norm_rms_epsilon"), (float)c->norm_eps);
    pw_gguf_put_u32(w, key(k, a, "vocab_size"), (uint32_t)c->vocab);
    put_family(w, a, c);
    put_experts(w, a, c);
    put_rope(w, a, c);
    return 0;
}
