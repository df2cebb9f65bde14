/* The llama2.c checkpoint, version 0: a header of seven int32 (dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len;
 * a negative vocab_size means that the head is stored too), then f32 arrays in a fixed order, per kind over all layers. Owns that
 * order and gives the tensors their Hugging Face names. The file has no magic number: its exact size is the check. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "data/checkpoint_parts.h"

#define HEADER 28

struct cursor { struct pw_checkpoint *c; size_t at; bool place; };  /* at: floats after the header; place: list them too */

static int take(struct cursor *k, int layer, const char *name, int64_t a, int64_t b)
{
    int64_t n = a;
    size_t next = 0;
    PW_CHECK((!b || pw_mul_i64(a, b, &n)) && pw_add_size(k->at, (size_t)n, &next) && next < SIZE_MAX / 8, PW_E_FORMAT,
             "%s: the sizes in the header overflow", k->c->path);
    if (k->place) {
        struct pw_checkpoint *c = k->c;
        char *full = layer < 0 ? pw_arena_printf(&c->arena, "%s", name) : pw_arena_printf(&c->arena, "model.layers.%d.%s", layer, name);
        PW_CHECK(full, PW_E_NOMEM, "%s: no memory", c->path);
        c->tensors[c->n++] = (struct stored){.file = c->path, .t = {.name = full, .dtype = "F32", .ndim = b ? 2 : 1, .shape = {a, b},
                                             .data = c->map.data + HEADER + 4 * k->at, .bytes = 4 * (size_t)n}};
    }
    k->at = next;
    return 0;
}

static int take_layers(struct cursor *k, const char *name, int64_t a, int64_t b)
{
    for (int i = 0; i < k->c->config.layers; i++)
        PW_PASS(take(k, i, name, a, b));
    return 0;
}

static int walk(struct cursor *k)
{
    const struct pw_model_config *m = &k->c->config;
    int64_t d = m->hidden, kv = (int64_t)m->kv_heads * m->head_dim, f = m->ffn;
    PW_PASS(take(k, -1, "model.embed_tokens.weight", m->vocab, d));
    PW_PASS(take_layers(k, "input_layernorm.weight", d, 0));
    PW_PASS(take_layers(k, "self_attn.q_proj.weight", d, d));
    PW_PASS(take_layers(k, "self_attn.k_proj.weight", kv, d));
    PW_PASS(take_layers(k, "self_attn.v_proj.weight", kv, d));
    PW_PASS(take_layers(k, "self_attn.o_proj.weight", d, d));
    PW_PASS(take_layers(k, "post_attention_layernorm.weight", d, 0));
    PW_PASS(take_layers(k, "mlp.gate_proj.weight", f, d));
    PW_PASS(take_layers(k, "mlp.down_proj.weight", d, f));
    PW_PASS(take_layers(k, "mlp.up_proj.weight", f, d));
    PW_PASS(take(k, -1, "model.norm.weight", d, 0));
    k->at += (size_t)m->context * (size_t)m->head_dim;   /* freq_cis_real and _imag: a function of the header */
    if (!m->tied)
        PW_PASS(take(k, -1, "lm_head.weight", m->vocab, d));
    return 0;
}

static int read_header(struct pw_checkpoint *c)
{
    static const char *const names[7] = {"dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len"};
    static const int32_t high[7] = {1 << 20, 1 << 22, 4096, 1 << 14, 1 << 14, 1 << 26, 1 << 26};
    int32_t v[7];
    PW_CHECK(c->map.bytes >= HEADER, PW_E_FORMAT, "%s: too short for a llama2.c header (expected at least %d bytes, got %zu)", c->path, HEADER,
             c->map.bytes);
    memcpy(v, c->map.data, HEADER);
    bool tied = v[5] > 0;
    if (v[5] < 0 && v[5] >= -high[5])
        v[5] = -v[5];
    for (int i = 0; i < 7; i++)
        PW_CHECK(v[i] >= 1 && v[i] <= high[i], PW_E_FORMAT, "%s: byte %d: %s is out of range for a llama2.c header (expected 1 to %d, got %d)",
                 c->path, 4 * i, names[i], high[i], v[i]);
    PW_CHECK(v[0] % v[3] == 0 && v[3] % v[4] == 0 && v[0] / v[3] % 2 == 0, PW_E_FORMAT,
             "%s: dim %d, n_heads %d and n_kv_heads %d do not divide each other", c->path, v[0], v[3], v[4]);
    struct pw_model_config *m = &c->config;
    *m = (struct pw_model_config){.family = "llama", .architecture = "LlamaForCausalLM", .hidden = v[0], .ffn = v[1], .layers = v[2], .heads = v[3],
                                  .kv_heads = v[4], .vocab = v[5], .context = v[6], .head_dim = v[0] / v[3], .norm_eps = 1e-5, .rope_theta = 10000,
                                  .rope_interleaved = true, .rope_factor = 1, .tied = tied, .embed_scale = 1, .init_range = 0.02, .bos = 1,
                                  .pad = -1, .n_eos = 1};
    m->attn_scale = 1 / sqrt(m->head_dim);
    for (int i = 0; i < 8; i++)
        m->eos[i] = i ? -1 : 2;
    m->parameters = pw_model_config_count(m);
    return 0;
}

int pw_checkpoint_open_llama2c(struct pw_checkpoint *c, const char *file)
{
    PW_PASS(pw_map_open(&c->map, file));
    PW_PASS(read_header(c));
    struct cursor k = {c, 0, false};
    PW_PASS(walk(&k));
    PW_CHECK(c->map.bytes - HEADER == 4 * k.at, PW_E_FORMAT, "%s: size does not fit its llama2.c header (expected %zu bytes, got %zu)", file,
             HEADER + 4 * k.at, c->map.bytes);
    c->tensors = pw_arena_array(&c->arena, (size_t)c->config.layers * 9 + 3, sizeof *c->tensors);
    PW_CHECK(c->tensors, PW_E_NOMEM, "%s: no memory", file);
    k = (struct cursor){c, 0, true};
    PW_PASS(walk(&k));
    c->format = "llama2.c";
    return 0;
}
