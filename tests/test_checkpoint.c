/* Opening models: the two real ones, config.json of the families, tied heads, shards, bitsandbytes companions, and what is refused. */
#include <stdlib.h>
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "data/checkpoint.h"
#include "data/safetensors.h"
#include "tests/support.h"

static struct pw_arena arena;
static void setup(void) { pw_arena_init(&arena); }
static void teardown(void) { pw_arena_free(&arena); }

/* ---- configs ---- */

#define SIZES "\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"vocab_size\":100,\"max_position_embeddings\":128"
#define LLAMA "{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"]," SIZES
#define QWEN3 "{\"model_type\":\"qwen3\"," SIZES
#define GEMMA2 "{\"model_type\":\"gemma2\"," SIZES
#define GEMMA3 "{\"model_type\":\"gemma3_text\"," SIZES
#define PHI3 "{\"model_type\":\"phi3\"," SIZES

static int parse(const char *text, struct pw_model_config *c)
{
    struct pw_value *json;
    ck_ok(pw_json_parse(&arena, text, strlen(text), "config.json", &json));
    return pw_model_config_parse(c, json, "config.json");
}

#define MIXTRAL "{\"model_type\":\"mixtral\"," SIZES ",\"num_local_experts\":8,\"num_experts_per_tok\":2"
#define QWEN3MOE "{\"model_type\":\"qwen3_moe\"," SIZES ",\"num_experts\":16,\"num_experts_per_tok\":3,\"moe_intermediate_size\":20"

START_TEST(experts)
{
    struct pw_model_config c;
    char name[PW_EXPERT_NAME];
    int expert;
    enum pw_expert_part part;
    size_t length;
    ck_ok(parse(MIXTRAL "}", &c));
    ck_assert(c.experts == 8 && c.experts_chosen == 2 && c.expert_ffn == c.ffn && c.experts_renormalise && pw_model_config_sparse(&c, 0) && pw_model_config_sparse(&c, 1));
    ck_assert(pw_layer_has(&c, 0, PW_LIN_Q) && !pw_layer_has(&c, 0, PW_LIN_GATE) && !pw_layer_has(&c, 1, PW_LIN_DOWN));
    pw_expert_suffix(&c, 7, PW_EXPERT_UP, name);
    ck_assert_str_eq(name, "block_sparse_moe.experts.7.w3");
    /* by hand: head and embedding, two layers of attention, norms, router and experts, the final norm */
    ck_assert_int_eq(c.parameters, 2 * 6400 + 2 * (4 * 64 * 64 + 2 * 64 + 8 * 64 + 8 * 3 * 64 * 96) + 64);
    ck_ok(parse(QWEN3MOE ",\"mlp_only_layers\":[0],\"norm_topk_prob\":true}", &c));
    ck_assert(c.experts == 16 && c.expert_ffn == 20 && c.experts_renormalise && c.qk_norm && !pw_model_config_sparse(&c, 0) && pw_model_config_sparse(&c, 1));
    ck_assert(pw_layer_has(&c, 0, PW_LIN_GATE) && !pw_layer_has(&c, 1, PW_LIN_GATE));
    ck_assert_str_eq(pw_router_suffix(&c), "mlp.gate");
    ck_ok(parse(QWEN3MOE ",\"decoder_sparse_step\":2,\"use_sliding_window\":false,\"sliding_window\":4096}", &c));
    ck_assert(!c.experts_renormalise && !pw_model_config_sparse(&c, 0) && pw_model_config_sparse(&c, 1) && c.window == 0);
    ck_assert(pw_expert_of("mlp.experts.12.down_proj.weight", &expert, &part, &length) && expert == 12 && part == PW_EXPERT_DOWN && length == strlen("mlp.experts.12.down_proj"));
    ck_assert(pw_expert_of("block_sparse_moe.experts.0.w1", &expert, &part, &length) && expert == 0 && part == PW_EXPERT_GATE);
    static const char *const none[] = {"mlp.experts.gate_up_proj", "mlp.experts.01.up_proj", "mlp.experts.99999.up_proj", "mlp.experts.1.up_project", "mlp.experts.1", "mlp.gate", "mlp.experts.-1.up_proj"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        ck_assert_msg(!pw_expert_of(none[i], &expert, &part, &length), "%s", none[i]);
}
END_TEST

START_TEST(families)
{
    struct pw_model_config c;
    ck_ok(parse(LLAMA ",\"num_key_value_heads\":2,\"eos_token_id\":[2,3],\"bos_token_id\":1,\"rope_theta\":5e5,\"tie_word_embeddings\":true,"
                "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}}", &c));
    ck_assert(c.kv_heads == 2 && c.head_dim == 16 && c.n_eos == 2 && c.eos[1] == 3 && c.bos == 1 && c.pad == -1 && c.tied);
    ck_assert(c.rope_theta == 5e5 && c.rope_scaling == PW_ROPE_LLAMA3 && c.rope_factor == 8 && c.rope_original_context == 8192);
    ck_assert(c.attn_scale == 0.25 && !c.qkv_bias);
    /* by hand: 100*64 + 2*(64*64*2 + 64*32*2 + 3*64*96 + 2*64) + 64 */
    ck_assert_int_eq(c.parameters, 6400 + 2 * (8192 + 4096 + 18432 + 128) + 64);
    ck_ok(parse("{\"model_type\":\"qwen2\"," SIZES ",\"use_sliding_window\":false,\"sliding_window\":77,\"eos_token_id\":5}", &c));
    ck_assert(c.qkv_bias && c.window == 0 && c.n_eos == 1 && !c.o_bias && c.kv_heads == 4);
    ck_ok(parse("{\"model_type\":\"mistral\"," SIZES ",\"sliding_window\":32,\"head_dim\":32}", &c));
    ck_assert(c.window == 32 && c.head_dim == 32);
    ck_ok(parse("{\"model_type\":\"qwen2\"," SIZES ",\"use_sliding_window\":true,\"sliding_window\":7,\"max_window_layers\":1}", &c));
    ck_assert(c.window == 7 && pw_model_config_window(&c, 0) == 0 && pw_model_config_window(&c, 1) == 7);
    ck_ok(parse(QWEN3 "}", &c));
    ck_assert(c.qk_norm && c.head_dim == 128 && !c.window && !c.post_norms && !c.tied);
    ck_assert_str_eq(pw_norm_suffix(&c, PW_NORM_Q), "self_attn.q_norm");
    ck_assert_str_eq(pw_norm_suffix(&c, PW_NORM_MLP), "post_attention_layernorm");
    ck_ok(parse(GEMMA2 ",\"attn_logit_softcapping\":null,\"query_pre_attn_scalar\":144}", &c));
    ck_assert(c.tied && c.gelu && c.norm_offset == 1 && c.embed_scale == 8 && c.attn_softcap == 0 && c.logit_softcap == 30 && c.attn_scale == 1.0 / 12);
    ck_assert(pw_model_config_window(&c, 0) == 4096 && pw_model_config_window(&c, 1) == 0);
    ck_assert_str_eq(pw_norm_suffix(&c, PW_NORM_MLP), "pre_feedforward_layernorm");
    ck_ok(parse(GEMMA3 ",\"sliding_window_pattern\":2,\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8}}", &c));
    ck_assert(c.qk_norm && c.post_norms && c.rope_theta == 1e6 && c.rope_local_theta == 1e4 && c.rope_factor == 8 && c.attn_softcap == 0 && c.logit_softcap == 0);
    ck_assert(pw_model_config_local(&c, 0) && !pw_model_config_local(&c, 1));
    ck_ok(parse(PHI3 ",\"original_max_position_embeddings\":32,\"partial_rotary_factor\":0.25,\"rope_scaling\":{\"type\":\"su\",\"short_factor\":[1,1.5],\"long_factor\":[2,3]}}", &c));
    ck_assert(c.fused && c.rope_scaling == PW_ROPE_LONG && c.rotary == 4 && c.rope_original_context == 32 && c.rope_factor == 4 && c.rope_long[1] == 3);
    ck_assert(fabs(c.rope_attention - sqrt(1 + log(4) / log(32))) <= 1e-15);
    ck_assert(pw_linear_has(&c, PW_LIN_QKV) && !pw_linear_has(&c, PW_LIN_Q) && pw_linear_has(&c, PW_LIN_O));
    ck_ok(parse(PHI3 ",\"rope_scaling\":{\"type\":\"yarn\",\"short_factor\":[1,1,1,1,1,1,1,1],\"long_factor\":[1,1,1,1,1,1,1,1]}}", &c));
    ck_assert(c.rope_scaling == PW_ROPE_LONG && c.rope_original_context == 4096 && c.rope_attention == 1);
    ck_ok(parse(LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"mscale\":1,\"mscale_all_dim\":0.5}}", &c));
    ck_assert(c.rope_beta_fast == 32 && c.rope_beta_slow == 1 && c.rope_original_context == 128);
    ck_assert(fabs(c.rope_attention - (0.1 * log(4) + 1) / (0.05 * log(4) + 1)) <= 1e-15);
    ck_ok(parse(LLAMA ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2.505}}", &c));
    ck_assert(c.rope_scaling == PW_ROPE_DYNAMIC && c.rope_original_context == 128 && c.context == 320);  /* 320.64 */
    /* transformers 5 */
    ck_ok(parse(LLAMA ",\"dtype\":\"bfloat16\",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":12345.0}}", &c));
    ck_assert(c.rope_theta == 12345 && c.rope_scaling == PW_ROPE_PLAIN);
}
END_TEST

static const struct { const char *text; int code; const char *message; } bad_configs[] = {
    {"{\"model_type\":\"gpt2\"," SIZES "}", PW_E_UNSUPPORTED, "unknown architecture gpt2 (known: llama (LlamaForCausalLM), mistral"},
    {"{\"model_type\":\"llama\",\"architectures\":[\"LlamaForSequenceClassification\"]," SIZES "}", PW_E_UNSUPPORTED, "expected LlamaForCausalLM"},
    {"{" SIZES "}", PW_E_FORMAT, "neither model_type nor architectures"},
    {"{\"model_type\":\"llama\"}", PW_E_FORMAT, "vocab_size is missing"},
    {LLAMA ",\"num_key_value_heads\":3}", PW_E_FORMAT, "no multiple of num_key_value_heads"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"proportional\",\"factor\":2}}", PW_E_UNSUPPORTED, "rope_scaling: rope_type proportional is not supported (known: default, linear, dynamic, yarn"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":0.5}}", PW_E_FORMAT, "factor must be at least 1 with rope_type dynamic (got 0.5)"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":1e9}}", PW_E_FORMAT, "times max_position_embeddings is more than 2^30"},
    {LLAMA ",\"head_dim\":2,\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}", PW_E_UNSUPPORTED, "dynamic takes heads of more than 2 dimensions"},
    {LLAMA ",\"rope_scaling\":{\"factor\":2}}", PW_E_FORMAT, "rope_scaling: rope_type is missing"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2,\"beta_fast\":1,\"beta_slow\":2}}", PW_E_FORMAT, "beta_fast must be above beta_slow"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2,\"original_max_position_embeddings\":0.5}}", PW_E_FORMAT, "original_max_position_embeddings: expected a whole number"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1]}}", PW_E_FORMAT, "short_factor: expected a list of 8 numbers"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1,1,1,1,1,1,1,0],\"long_factor\":[]}}", PW_E_FORMAT, "short_factor[7]: expected a number above 0"},
    {LLAMA ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}}", PW_E_UNSUPPORTED, "rope_parameters: full_attention is not supported"},
    {PHI3 ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}", PW_E_UNSUPPORTED, "rope_type linear is not supported for this family"},
    {PHI3 ",\"partial_rotary_factor\":0.2}", PW_E_UNSUPPORTED, "partial_rotary_factor: 3 of 16 dimensions rotate"},
    {PHI3 ",\"partial_rotary_factor\":1.5}", PW_E_FORMAT, "partial_rotary_factor must be at most 1"},
    {GEMMA3 ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}", PW_E_UNSUPPORTED, "type is not supported for this family, whose key is rope_type"},
    {GEMMA3 ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"yarn\",\"factor\":2,\"truncate\":false}}}", PW_E_UNSUPPORTED, "truncate is not supported here"},
    {GEMMA3 ",\"rope_parameters\":{\"sliding_attention\":{\"rope_type\":\"linear\",\"factor\":2}}}", PW_E_UNSUPPORTED, "sliding_attention: rope_type linear is not supported"},
    {GEMMA2 ",\"sliding_window_pattern\":3}", PW_E_UNSUPPORTED, "sliding_window_pattern 3 is not supported for gemma2"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"linear\"}}", PW_E_FORMAT, "factor is missing"},
    {LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2,\"attn_factor\":3}}", PW_E_UNSUPPORTED, "attn_factor"},
    {LLAMA ",\"hidden_act\":\"relu\"}", PW_E_UNSUPPORTED, "hidden_act relu"},
    {LLAMA ",\"partial_rotary_factor\":0.5}", PW_E_UNSUPPORTED, "partial_rotary_factor is not supported for this family"},
    {LLAMA ",\"final_logit_softcapping\":30}", PW_E_UNSUPPORTED, "final_logit_softcapping"},
    {LLAMA ",\"rms_norm_eps\":0}", PW_E_FORMAT, "rms_norm_eps must be above 0"},
    {LLAMA ",\"eos_token_id\":100}", PW_E_FORMAT, "eos_token_id is no token"},
    {LLAMA ",\"rms_norm_eps\":\"x\"}", PW_E_FORMAT, "rms_norm_eps"},
    {"{\"model_type\":\"mistral\"," SIZES ",\"attention_bias\":true}", PW_E_UNSUPPORTED, "attention_bias is not supported for mistral"},
    {LLAMA ",\"use_sliding_window\":true}", PW_E_UNSUPPORTED, "use_sliding_window"},
    {LLAMA ",\"query_pre_attn_scalar\":16}", PW_E_UNSUPPORTED, "query_pre_attn_scalar"},
    {QWEN3 ",\"layer_types\":[\"full_attention\"]}", PW_E_FORMAT, "layer_types: expected a list of 2"},
    {QWEN3 ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", PW_E_UNSUPPORTED, "layer_types[1] is sliding_attention, but no sliding_window"},
    {QWEN3 ",\"layer_types\":[\"full_attention\",\"linear_attention\"]}", PW_E_UNSUPPORTED, "layer_types[1] is not supported"},
    {QWEN3 ",\"mlp_bias\":true}", PW_E_UNSUPPORTED, "mlp_bias is not supported for qwen3"},
    {MIXTRAL ",\"output_router_logits\":true}", PW_E_UNSUPPORTED, "output_router_logits is not supported: the router is never trained"},
    {MIXTRAL ",\"router_jitter_noise\":0.1}", PW_E_UNSUPPORTED, "router_jitter_noise is not supported"},
    {"{\"model_type\":\"mixtral\"," SIZES ",\"num_experts_per_tok\":2}", PW_E_FORMAT, "num_local_experts is missing"},
    {"{\"model_type\":\"mixtral\"," SIZES ",\"num_local_experts\":2,\"num_experts_per_tok\":3}", PW_E_FORMAT, "num_experts_per_tok is out of range (expected 1 to 2, got 3)"},
    {"{\"model_type\":\"mixtral\"," SIZES ",\"num_local_experts\":4096,\"num_experts_per_tok\":3}", PW_E_FORMAT, "num_local_experts is out of range (expected 1 to 1024, got 4096)"},
    {"{\"model_type\":\"qwen3_moe\"," SIZES ",\"num_experts\":4,\"num_experts_per_tok\":2}", PW_E_FORMAT, "moe_intermediate_size is missing"},
    {QWEN3MOE ",\"mlp_only_layers\":[2]}", PW_E_FORMAT, "mlp_only_layers[0]: expected a layer from 0 to 1"},
    {QWEN3MOE ",\"mlp_only_layers\":7}", PW_E_FORMAT, "mlp_only_layers: expected a list of layers"},
    {QWEN3MOE ",\"decoder_sparse_step\":0}", PW_E_FORMAT, "decoder_sparse_step is out of range"},
    {QWEN3MOE ",\"use_sliding_window\":true}", PW_E_UNSUPPORTED, "use_sliding_window"},
    {GEMMA2 ",\"use_bidirectional_attention\":true}", PW_E_UNSUPPORTED, "use_bidirectional_attention"},
    {GEMMA2 ",\"hidden_activation\":\"gelu\"}", PW_E_UNSUPPORTED, "hidden_activation gelu"},
    {GEMMA2 ",\"attn_logit_softcapping\":-1}", PW_E_FORMAT, "attn_logit_softcapping must be above 0"},
    {GEMMA2 ",\"query_pre_attn_scalar\":0}", PW_E_FORMAT, "query_pre_attn_scalar must be above 0"},
};

START_TEST(refused_configs)
{
    struct pw_model_config c;
    ck_fails(parse(bad_configs[_i].text, &c), bad_configs[_i].code, bad_configs[_i].message);
    ck_assert_ptr_nonnull(strstr(pw_error_text(), "config.json"));
}
END_TEST

static const char *const written[] = {
    LLAMA ",\"num_key_value_heads\":2,\"eos_token_id\":[2,3],\"bos_token_id\":1,\"rms_norm_eps\":1e-5,\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":4.0}}",
    "{\"model_type\":\"qwen2\"," SIZES ",\"use_sliding_window\":true,\"sliding_window\":7,\"max_window_layers\":1}",
    QWEN3 ",\"attention_bias\":true}",
    MIXTRAL ",\"sliding_window\":9}",
    QWEN3MOE ",\"decoder_sparse_step\":2,\"norm_topk_prob\":true,\"attention_bias\":true}",
    GEMMA2 ",\"attn_logit_softcapping\":null,\"final_logit_softcapping\":3.5,\"query_pre_attn_scalar\":144}",
    GEMMA3 ",\"num_key_value_heads\":1,\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"yarn\",\"factor\":2,\"rope_theta\":77},\"sliding_attention\":{\"rope_theta\":55}}}",
    PHI3 ",\"original_max_position_embeddings\":32,\"partial_rotary_factor\":0.75,\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1,2,3,4,5,6.5],\"long_factor\":[1,1,1,1,1,1]}}",
    LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"mscale\":1,\"mscale_all_dim\":0.5,\"truncate\":false,\"beta_fast\":7}}",
    LLAMA ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":4}}",
    GEMMA2 ",\"layer_types\":[\"full_attention\",\"sliding_attention\"],\"tie_word_embeddings\":false}",
};

START_TEST(config_written_reads_back)
{
    struct pw_model_config a, b;
    ck_ok(parse(written[_i], &a));
    struct pw_json w = {0};
    pw_json_open(&w, NULL, '{');
    pw_model_config_write(&a, "float32", &w);
    pw_json_close(&w, '}');
    ck_ok(pw_json_status(&w));
    ck_ok(parse(w.out.data, &b));
    ck_assert_mem_eq(&a, &b, sizeof a);
    pw_json_free(&w);
}
END_TEST

/* ---- folders ---- */

#define TINY "{\"model_type\":\"llama\",\"hidden_size\":4,\"intermediate_size\":6,\"num_hidden_layers\":1,\"num_attention_heads\":1,\"vocab_size\":5,\"max_position_embeddings\":8,"

static float numbers[64] = {1, 2, 3, 4, 5};
static const struct pw_st_write embed = {"model.embed_tokens.weight", "F32", 2, {5, 4}, numbers, 80};
static const struct pw_st_write head = {"lm_head.weight", "F32", 2, {5, 4}, numbers, 80};
static const struct pw_st_write other_head = {"lm_head.weight", "F32", 2, {5, 4}, numbers + 1, 80};
static const struct pw_st_write norm = {"model.norm.weight", "F32", 1, {4}, numbers, 16};
static const struct pw_st_write extra = {"model.layers.0.surprise", "F32", 1, {4}, numbers, 16};
static const struct pw_st_write freq = {"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", 1, {4}, numbers, 16};

static void put(const char *dir, const char *name, const char *text) { ck_ok(pw_file_write(test_path(dir, name), text, strlen(text), true)); }

static const char *folder(bool tied, const struct pw_st_write *t, size_t n)
{
    const char *dir = test_tmpdir();
    put(dir, "config.json", tied ? TINY "\"tie_word_embeddings\":true}" : TINY "\"tie_word_embeddings\":false}");
    ck_ok(pw_safetensors_write(test_path(dir, "model.safetensors"), t, n, NULL, true));
    return dir;
}

START_TEST(tied_heads)
{
    struct pw_checkpoint *c;
    struct pw_tensor t;
    const struct pw_st_write both[] = {embed, head}, differ[] = {embed, other_head}, only_head[] = {head}, only_embed[] = {embed};
    ck_ok(pw_checkpoint_open(&c, folder(true, only_head, 1), NULL));
    ck_assert_str_eq(pw_checkpoint_embed_name(c), "lm_head.weight");
    ck_assert_str_eq(pw_checkpoint_head_name(c), "lm_head.weight");
    pw_checkpoint_close(c);
    ck_ok(pw_checkpoint_open(&c, folder(true, only_embed, 1), NULL));
    ck_assert_str_eq(pw_checkpoint_head_name(c), "model.embed_tokens.weight");
    pw_checkpoint_close(c);
    ck_ok(pw_checkpoint_open(&c, folder(true, both, 2), NULL));
    ck_ok(pw_checkpoint_tensor(c, "model.embed_tokens.weight", 5, 4, &t));
    ck_ok(pw_checkpoint_all_used(c));
    pw_checkpoint_close(c);
    ck_ok(pw_checkpoint_open(&c, folder(false, differ, 2), NULL));
    ck_assert_str_eq(pw_checkpoint_head_name(c), "lm_head.weight");
    pw_checkpoint_close(c);
    ck_fails(pw_checkpoint_open(&c, folder(true, differ, 2), NULL), PW_E_FORMAT, "are stored and differ");
    ck_assert(!c);
    ck_fails(pw_checkpoint_open(&c, folder(false, only_head, 1), NULL), PW_E_FORMAT, "model.embed_tokens.weight is missing");
    ck_fails(pw_checkpoint_open(&c, folder(false, only_embed, 1), NULL), PW_E_FORMAT, "lm_head.weight is missing");
}
END_TEST

START_TEST(unread_and_misshaped_tensors)
{
    struct pw_checkpoint *c;
    struct pw_tensor t;
    const struct pw_st_write list[] = {embed, norm, extra, freq};
    ck_ok(pw_checkpoint_open(&c, folder(true, list, 4), NULL));
    ck_fails(pw_checkpoint_tensor(c, "model.norm.weight", 5, 0, &t), PW_E_FORMAT, "model.norm.weight: shape does not fit the config (expected (5), got (4))");
    ck_fails(pw_checkpoint_tensor(c, "model.nothing", 5, 0, &t), PW_E_FORMAT, "tensor model.nothing is missing");
    ck_ok(pw_checkpoint_tensor(c, "model.norm.weight", 4, 0, &t));
    ck_ok(pw_checkpoint_tensor(c, "model.embed_tokens.weight", 5, 4, &t));
    ck_fails(pw_checkpoint_all_used(c), PW_E_FORMAT, "unknown tensor model.layers.0.surprise");
    ck_assert_ptr_nonnull(strstr(pw_error_text(), "(1 tensors"));
    pw_checkpoint_close(c);
}
END_TEST

START_TEST(shards)
{
    struct pw_checkpoint *c;
    const char *dir = test_tmpdir();
    put(dir, "config.json", TINY "\"tie_word_embeddings\":true}");
    ck_fails(pw_checkpoint_open(&c, dir, NULL), PW_E_IO, "neither model.safetensors nor model.safetensors.index.json");
    put(dir, "model.safetensors.index.json", "{\"weight_map\":{\"model.embed_tokens.weight\":\"a.safetensors\",\"model.norm.weight\":\"b.safetensors\"}}");
    ck_ok(pw_safetensors_write(test_path(dir, "a.safetensors"), &embed, 1, NULL, true));
    ck_fails(pw_checkpoint_open(&c, dir, NULL), PW_E_IO, "missing shard");
    ck_assert_ptr_nonnull(strstr(pw_error_text(), "b.safetensors"));
    ck_ok(pw_safetensors_write(test_path(dir, "b.safetensors"), &extra, 1, NULL, true));
    ck_fails(pw_checkpoint_open(&c, dir, NULL), PW_E_FORMAT, "tensor model.layers.0.surprise is not in");
    const struct pw_st_write wrong[] = {embed, norm};
    ck_ok(pw_safetensors_write(test_path(dir, "b.safetensors"), wrong, 2, NULL, true));
    ck_fails(pw_checkpoint_open(&c, dir, NULL), PW_E_FORMAT, "should be in a.safetensors");
    ck_ok(pw_safetensors_write(test_path(dir, "b.safetensors"), &norm, 1, NULL, true));
    ck_ok(pw_checkpoint_open(&c, dir, NULL));
    ck_assert(pw_checkpoint_has(c, "model.norm.weight") && pw_checkpoint_bytes(c) == 96);
    pw_checkpoint_close(c);
    put(dir, "model.safetensors.index.json", "{\"weight_map\":{\"model.embed_tokens.weight\":\"../a.safetensors\"}}");
    ck_fails(pw_checkpoint_open(&c, dir, NULL), PW_E_FORMAT, "expected the name of a file in this folder");
}
END_TEST

START_TEST(what_is_no_model)
{
    struct pw_checkpoint *c;
    const char *dir = folder(true, &embed, 1);
    ck_fails(pw_checkpoint_open(&c, "/nowhere/at/all", NULL), PW_E_IO, "no such file or folder");
    ck_fails(pw_checkpoint_open(&c, test_path(dir, "model.safetensors"), NULL), PW_E_UNSUPPORTED, "not a model");
    put(dir, "config.json", TINY "\"tie_word_embeddings\":true,\"quantization_config\":{\"quant_method\":\"gptq\"}}");
    ck_fails(pw_checkpoint_open(&c, dir, NULL), PW_E_UNSUPPORTED, "quant_method \"gptq\"");
    put(dir, "config.json", TINY "\"tie_word_embeddings\":true,\"quantization_config\":{\"quant_method\":\"bitsandbytes\"}}");
    ck_fails(pw_checkpoint_open(&c, dir, NULL), PW_E_FORMAT, "no tensor is quantised");
    put(dir, "config.json", "{\"model_type\":");
    ck_fails(pw_checkpoint_open(&c, dir, NULL), PW_E_FORMAT, "config.json");
}
END_TEST

/* ---- text and vision ---- */

#define WHOLE "{\"model_type\":\"gemma3\",\"architectures\":[\"Gemma3ForConditionalGeneration\"],\"vision_config\":{\"hidden_size\":8},"

/* The published config of the 4B model says little: the rest is as in the class of transformers. */
START_TEST(config_of_text_and_vision)
{
    static const struct { const char *text, *message; } bad[] = {
        {WHOLE "\"eos_token_id\":1}", "config.json: text_config: expected a map"},
        {WHOLE "\"text_config\":[]}", "config.json: text_config: expected a map"},
        {"{\"model_type\":\"gemma3\",\"architectures\":[\"Gemma3ForCausalLM\"],\"text_config\":{}}", "expected Gemma3ForConditionalGeneration for model_type gemma3"},
        {WHOLE "\"text_config\":{\"model_type\":\"llama\"}}", "text_config: model_type: expected gemma3_text, got llama"},
        {WHOLE "\"text_config\":{\"hidden_size\":64}}", "text_config: intermediate_size is missing"},
        {WHOLE "\"text_config\":{" SIZES ",\"tie_word_embeddings\":false}}", "tie_word_embeddings is true, and that of text_config is not"},
        {WHOLE "\"text_config\":{" SIZES ",\"num_experts\":4}}", "text_config: num_experts is not supported"},
    };
    struct pw_model_config c;
    ck_ok(parse(WHOLE "\"eos_token_id\":[1,106],\"text_config\":{\"hidden_size\":2560,\"intermediate_size\":10240,\"model_type\":\"gemma3_text\",\"num_hidden_layers\":34,"
                "\"rope_scaling\":{\"factor\":8.0,\"rope_type\":\"linear\"},\"sliding_window\":1024}}", &c));
    ck_assert(c.vocab == 262208 && c.heads == 8 && c.kv_heads == 4 && c.head_dim == 256 && c.context == 131072 && c.window == 1024 && c.tied && c.n_eos == 2 && c.eos[1] == 106);
    ck_assert(c.rope_scaling == PW_ROPE_LINEAR && c.rope_factor == 8 && c.rope_local_theta == 1e4 && pw_model_config_window(&c, 5) == 0 && pw_model_config_window(&c, 4) == 1024);
    ck_assert_int_eq(c.parameters, 3880263168);        /* of google/gemma-3-4b-pt, without its vision part */
    ck_assert_str_eq(c.architecture, "Gemma3ForCausalLM");
    ck_assert_str_eq(c.whole, "Gemma3ForConditionalGeneration");
    ck_ok(parse(WHOLE "\"tie_word_embeddings\":false,\"text_config\":{" SIZES "}}", &c));
    ck_assert(!c.tied);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_fails(parse(bad[i].text, &c), i == 0 || i == 1 || i == 4 ? PW_E_FORMAT : PW_E_UNSUPPORTED, bad[i].message);
}
END_TEST

/* Both layouts of the file are the same text, and the same model as a folder of the text alone; nothing else may stay unread. */
START_TEST(folders_of_text_and_vision)
{
    static const char *const names[2][5] = {
        {"language_model.model.embed_tokens.weight", "language_model.model.norm.weight", "language_model.lm_head.weight", "vision_tower.vision_model.head.probe", "multi_modal_projector.x"},
        {"model.language_model.embed_tokens.weight", "model.language_model.norm.weight", "lm_head.weight", "model.vision_tower.head.probe", "model.multi_modal_projector.x"}};
    static const char text[] = "\"hidden_size\":4,\"intermediate_size\":6,\"num_hidden_layers\":1,\"num_attention_heads\":1,\"num_key_value_heads\":1,\"vocab_size\":5,"
                               "\"max_position_embeddings\":8,\"tie_word_embeddings\":false";
    struct pw_checkpoint *c;
    struct pw_tensor t;
    char config[1024], hashes[3][65];
    const char *dir = NULL;
    for (int layout = 0; layout < 2; layout++) {
        struct pw_st_write list[] = {embed, norm, head, extra, freq, norm};
        for (int i = 0; i < 5; i++)
            list[i].name = names[layout][i];
        list[5].name = "audio_tower.x";
        dir = test_tmpdir();
        snprintf(config, sizeof config, WHOLE "\"tie_word_embeddings\":false,\"text_config\":{%s}}", text);
        put(dir, "config.json", config);
        for (int n = 5; n <= 6; n++) {
            ck_ok(pw_safetensors_write(test_path(dir, "model.safetensors"), list, (size_t)n, NULL, true));
            ck_ok(pw_checkpoint_open(&c, dir, NULL));
            ck_assert_str_eq(pw_checkpoint_left_out(c), "the vision part (2 tensors, 32 B)");
            ck_ok(pw_checkpoint_tensor(c, "model.norm.weight", 4, 0, &t));
            ck_ok(pw_checkpoint_tensor(c, "model.embed_tokens.weight", 5, 4, &t));
            ck_ok(pw_checkpoint_tensor(c, "lm_head.weight", 5, 4, &t));
            ck_assert_uint_eq(pw_checkpoint_bytes(c), n == 5 ? 176 : 192);
            if (n == 5) {
                ck_ok(pw_checkpoint_all_used(c));
                ck_ok(pw_checkpoint_hash(c, hashes[layout]));
            } else
                ck_fails(pw_checkpoint_all_used(c), PW_E_FORMAT, "unknown tensor audio_tower.x: a gemma3_text model has no place for it");
            pw_checkpoint_close(c);
        }
    }
    const struct pw_st_write alone[] = {head, embed, norm};
    dir = test_tmpdir();
    snprintf(config, sizeof config, "{\"model_type\":\"gemma3_text\",%s}", text);
    put(dir, "config.json", config);
    ck_ok(pw_safetensors_write(test_path(dir, "model.safetensors"), alone, 3, NULL, true));
    ck_ok(pw_checkpoint_open(&c, dir, NULL));
    ck_assert_ptr_null(pw_checkpoint_left_out(c));
    ck_ok(pw_checkpoint_hash(c, hashes[2]));
    pw_checkpoint_close(c);
    ck_assert_str_eq(hashes[0], hashes[1]);
    ck_assert_str_eq(hashes[0], hashes[2]);
}
END_TEST

/* ---- bitsandbytes ---- */

#define W "model.layers.0.self_attn.q_proj.weight"
#define STATE "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [4, 4]}"

static int read_4bit(const char *storage, int64_t n, const char *state, int64_t blocks, const float *map, struct pw_weight *w, uint8_t *first)
{
    static const uint8_t codes[16] = {0x7F, 1, 2, 3, 4, 5, 6, 7};
    struct pw_checkpoint *c;
    const struct pw_st_write list[] = {embed, {W, storage, 2, {n, 1}, codes, (size_t)n * pw_st_dtype_bytes(storage)},
                                       {W ".absmax", "F32", 1, {blocks}, numbers, 4 * (size_t)blocks}, {W ".quant_map", "F32", 1, {16}, map, 64},
                                       {W ".quant_state.bitsandbytes__nf4", "U8", 1, {(int64_t)strlen(state)}, state, strlen(state)}};
    ck_ok(pw_checkpoint_open(&c, folder(true, list, 5), NULL));
    ck_assert_str_eq(pw_checkpoint_format(c), "safetensors, bitsandbytes nf4");
    int rc = pw_checkpoint_weight(c, W, 4, 4, w);
    if (rc == 0)
        *first = *(const uint8_t *)w->data;
    pw_checkpoint_close(c);
    return rc;
}

START_TEST(quantised_weights)
{
    struct pw_weight w;
    uint8_t first = 0;
    float wrong[16];
    memcpy(wrong, pw_nf4_table, sizeof wrong);
    wrong[3] += 1e-6f;
    ck_ok(read_4bit("U8", 8, STATE, 1, pw_nf4_table, &w, &first));
    ck_assert(w.type == PW_Q_NF4 && w.dtype == PW_BF16 && w.block == 64 && first == 0x7F && !w.absmax_q);
    ck_ok(read_4bit("BF16", 4, STATE, 1, pw_nf4_table, &w, &first));   /* quant_storage renames the same bytes */
    ck_ok(read_4bit("F32", 2, STATE, 1, pw_nf4_table, &w, &first));
    ck_fails(read_4bit("U8", 7, STATE, 1, pw_nf4_table, &w, &first), PW_E_FORMAT, "expected 8 bytes of 4-bit codes, got 7");
    ck_fails(read_4bit("U8", 8, STATE, 2, pw_nf4_table, &w, &first), PW_E_FORMAT, "absmax: expected 1 elements, got 2");
    ck_fails(read_4bit("U8", 8, STATE, 1, wrong, &w, &first), PW_E_UNSUPPORTED, "quant_map[3]");
    ck_fails(read_4bit("U8", 8, "{\"quant_type\": \"fp4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [4, 4]}", 1, pw_nf4_table, &w, &first), PW_E_FORMAT, "quant_type: expected nf4, got fp4");
    ck_fails(read_4bit("U8", 8, "{\"quant_type\": \"nf4\", \"blocksize\": 0, \"dtype\": \"bfloat16\", \"shape\": [4, 4]}", 1, pw_nf4_table, &w, &first), PW_E_FORMAT, "blocksize");
    ck_fails(read_4bit("U8", 8, "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [2, 8]}", 1, pw_nf4_table, &w, &first), PW_E_FORMAT, "expected (4, 4), got (2, 8)");
    ck_fails(read_4bit("U8", 8, "{\"quant_type\"", 1, pw_nf4_table, &w, &first), PW_E_FORMAT, "quant_state");
    numbers[0] = -1.0f / 0.0f;
    int rc = read_4bit("U8", 8, STATE, 1, pw_nf4_table, &w, &first);
    numbers[0] = 1;
    ck_assert_int_eq(rc, PW_E_NUMERIC);
}
END_TEST

/* ---- llama2.c ---- */

START_TEST(llama2c)
{
    const char *real = test_shared("data/models/stories260K/stories260K.bin"), *dir = test_tmpdir(), *path = test_path(dir, "m.bin");
    struct pw_checkpoint *c;
    int32_t v[7 + 400] = {4, 6, 1, 2, 1, 5, 8};   /* head 2 wide: 20 + 4+16+8+8+16 + 4+24*3 + 4 + 8*2 floats */
    const size_t floats = 20 + 4 + 16 + 8 + 8 + 16 + 4 + 72 + 4 + 16;
    ck_ok(pw_file_write(path, v, 28 + 4 * floats, true));
    ck_ok(pw_checkpoint_open(&c, path, NULL));
    ck_assert(pw_checkpoint_config(c)->tied && pw_checkpoint_config(c)->rope_interleaved && pw_checkpoint_config(c)->kv_heads == 1);
    pw_checkpoint_close(c);
    ck_ok(pw_file_write(path, v, 28 + 4 * floats + 4, true));
    ck_fails(pw_checkpoint_open(&c, path, NULL), PW_E_FORMAT, "size does not fit its llama2.c header (expected 700 bytes, got 704)");
    v[5] = -5;
    ck_ok(pw_file_write(path, v, 28 + 4 * (floats + 20), true));
    ck_ok(pw_checkpoint_open(&c, path, NULL));
    ck_assert(!pw_checkpoint_config(c)->tied && pw_checkpoint_has(c, "lm_head.weight"));
    pw_checkpoint_close(c);
    v[4] = 0;
    ck_ok(pw_file_write(path, v, 28 + 4 * floats, true));
    ck_fails(pw_checkpoint_open(&c, path, NULL), PW_E_FORMAT, "byte 16: n_kv_heads is out of range");
    ck_ok(pw_file_write(path, v, 27, true));
    ck_fails(pw_checkpoint_open(&c, path, NULL), PW_E_FORMAT, "too short for a llama2.c header");
    for (int i = 0; i < 7; i++)
        v[i] = 1 << 14;
    ck_ok(pw_file_write(path, v, 28, true));
    ck_fails(pw_checkpoint_open(&c, path, NULL), PW_E_FORMAT, "m.bin");
    if (!real) {
        test_skip("data/models/stories260K is not there");
        return;
    }
    ck_ok(pw_checkpoint_open(&c, real, NULL));
    ck_assert_int_eq(pw_checkpoint_config(c)->parameters, 260032);
    pw_checkpoint_close(c);
}
END_TEST

START_TEST(real_folder)
{
    const char *real = test_shared("data/models/tinystories-656k");
    struct pw_checkpoint *c;
    char a[65], b[65];
    if (!real) {
        test_skip("data/models/tinystories-656k is not there");
        return;
    }
    ck_ok(pw_checkpoint_open(&c, real, NULL));
    ck_assert_int_eq(pw_checkpoint_config(c)->parameters, 656000);
    ck_assert_str_eq(pw_checkpoint_head_name(c), "lm_head.weight");
    ck_ok(pw_checkpoint_hash(c, a));
    ck_ok(pw_checkpoint_identity(c, b));
    ck_assert_str_eq(a, b);
    ck_assert_str_eq(pw_checkpoint_tokenizer(c), real);
    pw_checkpoint_close(c);
}
END_TEST

static int open_work(void *dir)
{
    struct pw_checkpoint *c;
    char hex[65];
    int rc = pw_checkpoint_open(&c, dir, NULL);
    if (rc == 0)
        rc = pw_checkpoint_hash(c, hex);
    pw_checkpoint_close(c);
    return rc;
}

START_TEST(no_memory)
{
    const struct pw_st_write list[] = {embed, norm};
    char dir[512];
    snprintf(dir, sizeof dir, "%s", folder(true, list, 2));
    ck_assert_int_gt(test_sweep_nomem(open_work, dir), 3);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("checkpoint");
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, families);
    tcase_add_test(t, experts);
    tcase_add_loop_test(t, refused_configs, 0, sizeof bad_configs / sizeof *bad_configs);
    tcase_add_loop_test(t, config_written_reads_back, 0, (int)(sizeof written / sizeof *written));
    tcase_add_test(t, tied_heads);
    tcase_add_test(t, unread_and_misshaped_tensors);
    tcase_add_test(t, config_of_text_and_vision);
    tcase_add_test(t, folders_of_text_and_vision);
    tcase_add_test(t, shards);
    tcase_add_test(t, what_is_no_model);
    tcase_add_test(t, quantised_weights);
    tcase_add_test(t, llama2c);
    tcase_add_test(t, real_folder);
    tcase_add_test(t, no_memory);
    suite_add_tcase(s, t);
    return test_run(s);
}
