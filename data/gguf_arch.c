/* The table of architectures, and names of tensors (see the headers). */
#include "data/gguf_arch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

static const struct pw_gguf_arch_row archs[] = {
    {"llama", "llama", "LlamaForCausalLM", .permuted = true},
    {"qwen2", "qwen2", "Qwen2ForCausalLM"},
    {"qwen3", "qwen3", "Qwen3ForCausalLM", .qk_norm = true},
    {"qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM", .qk_norm = true},
    {"gemma2", "gemma2", "Gemma2ForCausalLM", .gemma = true, .window = true, .period = 2, .silent_window = 4096, .attn_softcap = 50, .logit_softcap = 30,
     .attn_softcaps = true, .logit_softcaps = true, .scale_layers = 46},
    {"gemma3", "gemma3_text", "Gemma3ForCausalLM", .gemma = true, .qk_norm = true, .window = true, .period = 6, .logit_softcaps = true, .local_theta = 10000, .scale_layers = 62},
    {"phi3", "phi3", "Phi3ForCausalLM", .fused = true, .window = true},
};
enum { N_ARCHS = sizeof archs / sizeof *archs };

const struct pw_gguf_arch_row *pw_gguf_arch_named(const char *name)
{
    for (size_t i = 0; i < N_ARCHS; i++)
        if (strcmp(archs[i].name, name) == 0)
            return &archs[i];
    return NULL;
}

static const struct pw_gguf_arch_row *find(const struct pw_model_config *c)
{
    const char *family = strcmp(c->family, "mistral") == 0 || strcmp(c->family, "mixtral") == 0 ? "llama" : c->family;
    for (size_t i = 0; i < N_ARCHS; i++)
        if (strcmp(archs[i].family, family) == 0)
            return &archs[i];
    return NULL;
}

int64_t pw_gguf_context(const struct pw_model_config *c)
{
    const struct pw_gguf_arch_row *a = find(c);
    return !(a && a->window) && c->window && c->window < c->context ? c->window : c->context;
}

int pw_gguf_arch_of(const struct pw_model_config *c, const struct pw_gguf_arch_row **out)
{
    *out = find(c);
    if (*out)
        return 0;
    return pw_error(PW_E_UNSUPPORTED, "a %s model cannot be written as GGUF (known: llama, mistral, mixtral, qwen2, qwen3, qwen3_moe, gemma2, gemma3_text, phi3)", c->family);
}

int pw_gguf_arch(const struct pw_model_config *c, const char **name, bool *permutes)
{
    const struct pw_gguf_arch_row *a;
    PW_PASS(pw_gguf_arch_of(c, &a));
    *name = a->name;
    *permutes = a->permuted;
    return 0;
}

int pw_gguf_permutes(const struct pw_model_config *c, bool *permutes)
{
    const char *name;
    return pw_gguf_arch(c, &name, permutes);
}

double pw_gguf_attn_scalar(const struct pw_gguf_arch_row *a, const struct pw_model_config *c)
{
    if (!a->gemma)
        return 0;
    return c->layers == a->scale_layers ? c->hidden / c->heads : c->head_dim; /* a whole number there, too */
}

double pw_gguf_llama3_divisor(const struct pw_model_config *c, int i)
{
    const double freq = pow(c->rope_theta, -2.0 * i / c->head_dim), turns = c->rope_original_context * freq / (2 * M_PI);
    if (turns > c->rope_high_freq)
        return 1;
    if (turns < c->rope_low_freq)
        return c->rope_factor;
    const double keep = (turns - c->rope_low_freq) / (c->rope_high_freq - c->rope_low_freq);
    return 1 / (keep + (1 - keep) / c->rope_factor);
}

double pw_gguf_yarn_attention(double factor) { return factor > 1 ? 1 + 0.1 * log(factor) : 1; }

/* ---- names ---- */

static const char *const outer[][2] = {
    {"token_embd.weight", "model.embed_tokens.weight"}, {"output.weight", "lm_head.weight"}, {"output_norm.weight", "model.norm.weight"}};
static const char *const inner[][2] = {
    {"attn_norm", "input_layernorm"}, {"ffn_norm", "post_attention_layernorm"}, {"attn_q", "self_attn.q_proj"}, {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"}, {"attn_output", "self_attn.o_proj"}, {"ffn_gate", "mlp.gate_proj"}, {"ffn_up", "mlp.up_proj"}, {"ffn_down", "mlp.down_proj"},
    {"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"}, {"ffn_gate_inp", "mlp.gate"}, {"ffn_gate_exps", "mlp.experts.gate_proj"},
    {"ffn_up_exps", "mlp.experts.up_proj"}, {"ffn_down_exps", "mlp.experts.down_proj"}, {"ffn_gate_inp", "block_sparse_moe.gate"}};
/* Looked through before the others. */
static const char *const inner_gemma[][2] = {
    {"post_attention_norm", "post_attention_layernorm"}, {"ffn_norm", "pre_feedforward_layernorm"}, {"post_ffw_norm", "post_feedforward_layernorm"}};
static const char *const inner_fused[][2] = {{"attn_qkv", "self_attn.qkv_proj"}, {"ffn_up", "mlp.gate_up_proj"}};

/* One table read from column `from` to the other; the rest of a name behind its layer. */
static bool rename_rest(const char *const table[][2], size_t n, const char *rest, int from, const char *prefix, int digits, const char *layer, char out[160])
{
    for (size_t i = 0; i < n; i++) {
        const size_t len = strlen(table[i][from]);
        if (strncmp(rest, table[i][from], len) == 0 && (strcmp(rest + len, ".weight") == 0 || strcmp(rest + len, ".bias") == 0)) {
            snprintf(out, 160, "%s%.*s.%s%s", prefix, digits, layer, table[i][!from], rest + len);
            return true;
        }
    }
    return false;
}

static bool rename_tensor(const char *arch, const char *name, int from, char out[160])
{
    static const char *const prefix[2] = {"blk.", "model.layers."};
    const struct pw_gguf_arch_row *a = pw_gguf_arch_named(arch);
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
#define LOOK(table) rename_rest(table, sizeof table / sizeof *table, rest, from, prefix[!from], (int)digits, name + skip, out)
    return (a && a->gemma && LOOK(inner_gemma)) || (a && a->fused && LOOK(inner_fused)) || LOOK(inner);
#undef LOOK
}

bool pw_gguf_name_to_hf(const char *arch, const char *gguf, char out[160]) { return rename_tensor(arch, gguf, 0, out); }
bool pw_gguf_name_from_hf(const char *arch, const char *hf, char out[160]) { return rename_tensor(arch, hf, 1, out); }

double pw_gguf_offset(const struct pw_model_config *c, const char *hf)
{
    const size_t n = strlen(hf), m = strlen("norm.weight");
    return n >= m && strcmp(hf + n - m, "norm.weight") == 0 ? c->norm_offset : 0;
}
