/* Adapters: which modules are selected, initial values, PEFT folders both ways, what is refused, whose base it is, merging. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/safetensors.h"
#include "lora/merge.h"
#include "lora/peft.h"
#include "tests/support.h"

static const struct pw_model_config model = {.family = "llama", .layers = 12, .hidden = 8, .heads = 2, .kv_heads = 1, .head_dim = 4, .ffn = 12, .vocab = 10};
static const struct pw_adapter_config base_config = {.kind = "lora", .r = 2, .alpha = 4, .dropout = 0.1, .targets = "all-linear", .base_name = "org/base"};

static void *made(struct pw_adapter *a, const struct pw_adapter_config *k, const struct pw_model_config *m)
{
    ck_ok(pw_adapter_plan(a, k, m));
    void *memory = pw_alloc(pw_adapter_bytes(a));
    ck_ok(pw_adapter_place(a, memory, pw_adapter_bytes(a)));
    pw_adapter_init(a, 7);
    return memory;
}

START_TEST(plan_selects)
{
    struct pw_adapter a;
    struct pw_adapter_config k = base_config;
    ck_ok(pw_adapter_plan(&a, &k, &model));
    ck_assert_uint_eq(a.n, 84);
    ck_assert_str_eq(a.modules[0].name, "model.layers.0.self_attn.q_proj");
    ck_assert_str_eq(a.modules[83].name, "model.layers.11.mlp.down_proj");
    ck_assert(a.modules[1].n_out == 4 && a.modules[1].n_in == 8 && a.modules[6].n_out == 8 && a.modules[6].n_in == 12);
    /* a layer: q (8,8) k, v (4,8) o (8,8) gate, up (12,8) down (8,12), r = 2 */
    ck_assert_int_eq(pw_adapter_parameters(&a), 12 * 2 * (16 + 12 + 12 + 16 + 20 + 20 + 20));
    ck_assert(a.modules[0].lora.scale == 2);
    ck_fails(pw_adapter_place(&a, NULL, pw_adapter_bytes(&a) - 1), PW_E_FAIL, "too little memory");
    pw_adapter_free(&a);
    k.targets = "v_proj, mlp.up_proj,model.layers.3.self_attn.q_proj";
    k.rslora = true;
    ck_ok(pw_adapter_plan(&a, &k, &model));
    ck_assert_uint_eq(a.n, 25);
    ck_close(a.modules[0].lora.scale, 4 / sqrt(2), 1e-15, 0);
    ck_assert(pw_adapter_find(&a, "model.layers.3.self_attn.q_proj") && !pw_adapter_find(&a, "model.layers.4.self_attn.q_proj"));
    pw_adapter_free(&a);
    k.targets = "q_porj";
    ck_fails(pw_adapter_plan(&a, &k, &model), PW_E_USAGE, "q_porj names no linear layer");
    ck_assert_ptr_nonnull(strstr(pw_error_hint_text(), "q_proj"));
    k.targets = "roj";
    ck_fails(pw_adapter_plan(&a, &k, &model), PW_E_USAGE, "roj");
    k.targets = "";
    ck_fails(pw_adapter_plan(&a, &k, &model), PW_E_USAGE, "empty");
    k = base_config;
    k.r = 0;
    ck_fails(pw_adapter_plan(&a, &k, &model), PW_E_USAGE, "adapter.r");
    k = base_config;
    strcpy(k.kind, "loha");
    ck_fails(pw_adapter_plan(&a, &k, &model), PW_E_UNSUPPORTED, "loha");
    struct pw_model_config sparse = model;
    sparse.experts = 4, sparse.experts_chosen = 2, sparse.expert_ffn = 12;
    k = base_config;
    strcpy(k.kind, "dora");
    ck_ok(pw_adapter_plan(&a, &k, &sparse));            /* to be merged; attaching refuses it: test_adapter_golden.c */
    ck_assert_str_eq(pw_adapter_dora_expert(&a), "model.layers.0.mlp.experts.0.gate_proj");
    pw_adapter_free(&a);
    k.targets = "q_proj,v_proj";
    ck_ok(pw_adapter_plan(&a, &k, &sparse));
    ck_assert_uint_eq(a.n, 24);
    ck_assert_ptr_null(pw_adapter_dora_expert(&a));
    pw_adapter_free(&a);
}
END_TEST

/* Ranks, alphas and layers of their own: in the plan, and through a PEFT folder. */
START_TEST(patterns_and_layers)
{
    struct pw_adapter a, back;
    struct pw_adapter_config k = base_config;
    const char *dir = test_tmpdir();
    k.targets = "q_proj,up_proj,down_proj";
    k.rank_pattern = "layers.3.mlp.up_proj=7,up_proj=5,q_proj=1";
    k.alpha_pattern = "down_proj=16";
    k.layers = "2-4,11";
    void *memory = made(&a, &k, &model);
    ck_assert_uint_eq(a.n, 12);
    const struct pw_adapter_module *up = pw_adapter_find(&a, "model.layers.3.mlp.up_proj"), *other = pw_adapter_find(&a, "model.layers.2.mlp.up_proj");
    const struct pw_adapter_module *down = pw_adapter_find(&a, "model.layers.11.mlp.down_proj");
    ck_assert(up && other && down && !pw_adapter_find(&a, "model.layers.5.mlp.up_proj"));
    ck_assert(up->lora.r == 7 && other->lora.r == 5 && down->lora.r == 2 && pw_adapter_find(&a, "model.layers.2.self_attn.q_proj")->lora.r == 1);
    ck_close(up->lora.scale, 4.0 / 7, 0, 1e-15);
    ck_close(down->lora.scale, 8, 0, 1e-15);
    ck_ok(pw_peft_write(&a, dir));
    ck_ok(pw_peft_load(&back, dir, &model));
    ck_assert_uint_eq(back.n, a.n);
    for (size_t i = 0; i < a.n; i++) {
        const struct pw_adapter_module *m = pw_adapter_find(&back, a.modules[i].name);
        ck_assert(m && m->lora.r == a.modules[i].lora.r);
        ck_close(m->lora.scale, a.modules[i].lora.scale, 0, 1e-15);
        ck_assert_mem_eq(m->lora.a.data, a.modules[i].lora.a.data, pw_bytes(m->lora.a));
    }
    pw_adapter_free(&a);
    pw_adapter_free(&back);
    pw_free(memory);
    k = base_config;
    static const struct { const char *rank, *alpha, *layers, *text; } wrong[] = {
        {"q_porj=3", NULL, NULL, "adapter.rank_pattern: q_porj names no linear layer"}, {"q_proj=2.5", NULL, NULL, "expected a whole number"},
        {"q_proj", NULL, NULL, "adapter.rank_pattern: expected NAME=NUMBER"}, {"q_proj=x", NULL, NULL, "expected a number, got x"},
        {NULL, "k_proj=0", NULL, "adapter.alpha_pattern: k_proj: expected a number above 0"}, {NULL, NULL, "3-12", "adapter.layers: expected ranges such as 0-3 within 0 to 11, got 3-12"},
        {NULL, NULL, "4-3", "got 4-3"}, {NULL, NULL, "a", "got a"}, {NULL, NULL, "-1", "got -1"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        k.rank_pattern = wrong[i].rank, k.alpha_pattern = wrong[i].alpha, k.layers = wrong[i].layers;
        ck_fails(pw_adapter_plan(&a, &k, &model), PW_E_USAGE, wrong[i].text);
    }
}
END_TEST

START_TEST(initial_values)
{
    struct pw_adapter a, b;
    void *x = made(&a, &base_config, &model), *y = made(&b, &base_config, &model);
    double sum = 0, top = 0, bound = 1 / sqrt(8);
    int64_t n = 0;
    ck_assert_mem_eq(x, y, pw_count(a.modules[0].lora.a) * 4);
    for (size_t i = 0; i < a.n; i++) {
        const float *A = a.modules[i].lora.a.data, *B = a.modules[i].lora.b.data;
        for (int64_t k = 0; k < pw_count(a.modules[i].lora.b); k++)
            ck_assert(B[k] == 0);
        if (a.modules[i].n_in != 8)
            continue;
        for (int64_t k = 0; k < 16; k++, n++) {
            sum += (double)A[k] * A[k];
            top = fmax(top, fabs((double)A[k]));
        }
    }
    /* uniform on +-bound: variance bound^2 / 3, deviation of its estimate sqrt(4/45/n) bound^2; 5 of them */
    ck_close(sum / (double)n, bound * bound / 3, 5 * sqrt(4.0 / 45 / (double)n) * bound * bound, 0);
    ck_assert(top <= bound && top > 0.95 * bound);
    ck_assert(memcmp(a.modules[0].lora.a.data, a.modules[1].lora.a.data, 64) != 0);
    pw_adapter_free(&a);
    pw_adapter_free(&b);
    pw_free(x);
    pw_free(y);
}
END_TEST

/* ---- PEFT ---- */

static const char *written(const struct pw_adapter *a)
{
    const char *dir = test_tmpdir();
    ck_ok(pw_peft_write(a, dir));
    return dir;
}

START_TEST(folder_reads_back)
{
    struct pw_adapter a, b;
    struct pw_adapter_config k = base_config;
    memset(k.base_hash, 'a', 64);
    strcpy(k.base_type, "nf4 double");
    void *memory = made(&a, &k, &model);
    ((float *)a.modules[20].lora.b.data)[3] = 0.25f;
    const char *dir = written(&a), *again = written(&a);
    for (int with_model = 0; with_model < 2; with_model++) {
        ck_ok(pw_peft_load(&b, dir, with_model ? &model : NULL));
        ck_assert_uint_eq(b.n, a.n);
        for (size_t i = 0; i < a.n; i++) {
            ck_assert_str_eq(a.modules[i].name, b.modules[i].name);
            ck_assert(b.modules[i].lora.scale == 2 && b.modules[i].lora.r == 2);
            ck_assert_mem_eq(a.modules[i].lora.a.data, b.modules[i].lora.a.data, (size_t)pw_count(a.modules[i].lora.a) * 4);
            ck_assert_mem_eq(a.modules[i].lora.b.data, b.modules[i].lora.b.data, (size_t)pw_count(a.modules[i].lora.b) * 4);
        }
        ck_assert(b.config.r == 2 && b.config.alpha == 4 && b.config.dropout == 0.1);
        ck_assert_str_eq(b.config.base_name, "org/base");
        ck_assert_str_eq(b.config.base_hash, k.base_hash);
        ck_assert_str_eq(b.config.base_type, "nf4 double");
        pw_adapter_free(&b);
    }
    for (int i = 0; i < 2; i++) {
        static const char *const files[] = {"adapter_config.json", "adapter_model.safetensors"};
        size_t n, m;
        char *x = test_slurp(test_path(dir, files[i]), &n), *y = test_slurp(test_path(again, files[i]), &m);
        ck_assert(n == m && memcmp(x, y, n) == 0);
        if (i == 0)
            ck_assert(strstr(x, "\"lora_alpha\": 4,") && strstr(x, "\"target_modules\": [") && strstr(x, "\"q_proj\",") && strstr(x, "\"peft_type\": \"LORA\""));
        else {
            struct pw_safetensors s;
            ck_ok(pw_safetensors_open(&s, test_path(dir, files[1])));
            const struct pw_st_tensor *t = pw_safetensors_find(&s, "base_model.model.model.layers.3.self_attn.k_proj.lora_B.weight");
            ck_assert(t && t->shape[0] == 4 && t->shape[1] == 2 && strcmp(t->dtype, "F32") == 0);
            pw_safetensors_close(&s);
        }
        pw_free(x);
        pw_free(y);
    }
    struct pw_model_config other = model;
    other.ffn = 16;
    ck_fails(pw_peft_load(&b, dir, &other), PW_E_FORMAT, "the adapter is for another base");
    other = model;
    other.layers = 3;
    ck_fails(pw_peft_load(&b, dir, &other), PW_E_FORMAT, "unknown tensor");
    other.layers = 13;
    ck_fails(pw_peft_load(&b, dir, &other), PW_E_FORMAT, "lora_A.weight is missing");
    pw_adapter_free(&a);
    pw_free(memory);
}
END_TEST

#define GOOD "\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4,\"target_modules\":[\"q_proj\"]"
static const struct { const char *config; int code; const char *text; } configs[] = {
    {"{" GOOD "}", 0, ""},
    {"{" GOOD ",\"use_dora\":false,\"new_key_of_2030\":null,\"eva_config\":{},\"bias\":\"none\",\"init_lora_weights\":\"gaussian\"}", 0, ""},
    {"{" GOOD ",\"use_dora\":true}", PW_E_FORMAT, "q_proj.lora_magnitude_vector is missing"},
    {"{" GOOD ",\"layers_to_transform\":[0,1,2]}", 0, ""},
    {"{" GOOD ",\"layers_to_transform\":1,\"layers_pattern\":\"layers\"}", 0, ""},
    {"{" GOOD ",\"layers_to_transform\":[\"0\"]}", PW_E_FORMAT, "layers_to_transform[0]"},
    {"{" GOOD ",\"exclude_modules\":[\"lm_head\"]}", 0, ""},
    {"{" GOOD ",\"exclude_modules\":7}", PW_E_FORMAT, "exclude_modules"},
    {"{" GOOD ",\"modules_to_save\":[\"norm\"]}", PW_E_FORMAT, "input_layernorm.weight is missing"},
    {"{" GOOD ",\"modules_to_save\":[\"up_proj\"]}", PW_E_USAGE, "up_proj is a linear layer"},
    {"{" GOOD ",\"modules_to_save\":[\"lm_haed\"]}", PW_E_USAGE, "lm_haed names no norm"},
    {"{" GOOD ",\"modules_to_save\":[3]}", PW_E_FORMAT, "modules_to_save[0]"},
    {"{" GOOD ",\"modules_to_save\":\"norm\"}", PW_E_FORMAT, "modules_to_save"},
    {"{" GOOD ",\"fan_in_fan_out\":true}", PW_E_UNSUPPORTED, "fan_in_fan_out"},
    {"{" GOOD ",\"new_key_of_2030\":3}", PW_E_UNSUPPORTED, "new_key_of_2030"},
    {"{" GOOD ",\"bias\":\"all\"}", 0, ""},      /* this model has none, and peft then trains none */
    {"{" GOOD ",\"bias\":\"vera_only\"}", PW_E_UNSUPPORTED, "bias is not supported (expected none, all or lora_only, got vera_only)"},
    {"{" GOOD ",\"lora_bias\":true}", PW_E_UNSUPPORTED, "lora_bias is not supported"},
    {"{" GOOD ",\"init_lora_weights\":\"pissa\"}", PW_E_UNSUPPORTED, "pissa"},
    {"{" GOOD ",\"rank_pattern\":{\"^q.*\":4, \".*k_proj\":5, \"layers\\\\.99.*\":6, \"(?:model|x).layers.[0-9]+.self_attn.q_proj\":2}}", 0, ""},
    {"{" GOOD ",\"rank_pattern\":{\"^model.*q_proj\":4}}", PW_E_FORMAT, "rank does not fit the config (expected 4, got 2 and 2)"},
    {"{" GOOD ",\"rank_pattern\":{\"^model.*q\":4}}", 0, ""},       /* of the whole name */
    {"{" GOOD ",\"rank_pattern\":{\"self_attn.(q|v)_proj\":4}}", PW_E_FORMAT, "rank does not fit the config (expected 4, got 2 and 2)"},
    {"{" GOOD ",\"rank_pattern\":{\"(?i)Q_PROJ\":4}}", PW_E_UNSUPPORTED, "rank_pattern: the expression (?i)Q_PROJ is not supported"},
    {"{" GOOD ",\"rank_pattern\":{\"\\\\w+\":4}}", PW_E_UNSUPPORTED, "rank_pattern: the expression"},
    {"{" GOOD ",\"rank_pattern\":{\"(q_proj\":4}}", PW_E_FORMAT, "rank_pattern"},
    {"{" GOOD ",\"eva_config\":{\"rho\":2.0},\"init_lora_weights\":\"eva\"}", 0, ""},
    {"{" GOOD ",\"trainable_token_indices\":[3]}", PW_E_UNSUPPORTED, "trainable_token_indices is not supported"},
    {"{" GOOD ",\"use_qalora\":true}", PW_E_UNSUPPORTED, "use_qalora is not supported"},
    {"{" GOOD ",\"rank_pattern\":{\"q_proj\":4}}", PW_E_FORMAT, "rank does not fit the config (expected 4, got 2 and 2)"},
    {"{\"peft_type\":\"LORA\",\"r\":3,\"lora_alpha\":4,\"target_modules\":[\"q_proj\"]}", PW_E_FORMAT, "rank does not fit"},
    {"{\"peft_type\":\"LOHA\",\"r\":2,\"lora_alpha\":4,\"target_modules\":[\"q_proj\"]}", PW_E_UNSUPPORTED, "peft_type"},
    {"{\"peft_type\":\"LORA\",\"target_modules\":[\"q_proj\"]}", PW_E_FORMAT, "r or lora_alpha is missing"},
    {"{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4}", PW_E_FORMAT, "target_modules"},
    {"{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4,\"target_modules\":\"all-linear\"}", 0, ""},
    {"{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4,\"target_modules\":[\"v_proj\"]}", PW_E_FORMAT, "target_modules does not name it"},
    {"[1]", PW_E_FORMAT, "expected a map"},
};

START_TEST(configs_of_others)
{
    struct pw_adapter a, b;
    struct pw_adapter_config k = base_config;
    k.targets = "q_proj";
    void *memory = made(&a, &k, &model);
    const char *dir = written(&a);
    ck_ok(pw_file_write(test_path(dir, "adapter_config.json"), configs[_i].config, strlen(configs[_i].config), true));
    if (configs[_i].code == 0) {
        ck_ok(pw_peft_load(&b, dir, &model));
        ck_assert_uint_eq(b.n, 12);
        pw_adapter_free(&b);
    } else
        ck_fails(pw_peft_load(&b, dir, &model), configs[_i].code, configs[_i].text);
    pw_adapter_free(&a);
    pw_free(memory);
}
END_TEST

START_TEST(tensors_of_others)
{
    static const float x[32] = {1, 2, 3};
    static const uint16_t half[16] = {0x3F80, 0xBF00};      /* bf16 1, -0.5 */
    static const uint16_t nan16[16] = {0x7FC0};
    const char *dir = test_tmpdir(), *path = test_path(dir, "adapter_model.safetensors");
    const char *config = "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4,\"target_modules\":[\"q_proj\"],\"alpha_pattern\":{\"q_proj\":6}}";
    struct pw_model_config one = model;
    struct pw_adapter a;
    one.layers = 1;
    ck_ok(pw_file_write(test_path(dir, "adapter_config.json"), config, strlen(config), true));
#define NAME "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    struct pw_st_write t[3] = {{NAME "A.weight", "BF16", 2, {2, 8}, half, 32}, {NAME "B.weight", "F32", 2, {8, 2}, x, 64}, {"base_model.model.x", "F32", 1, {1}, x, 4}};
    ck_ok(pw_safetensors_write(path, t, 2, NULL, true));
    ck_ok(pw_peft_load(&a, dir, &one));
    ck_assert(((float *)a.modules[0].lora.a.data)[0] == 1 && ((float *)a.modules[0].lora.a.data)[1] == -0.5f && a.modules[0].lora.scale == 3);
    pw_adapter_free(&a);
    ck_ok(pw_safetensors_write(path, t, 3, NULL, true));
    ck_fails(pw_peft_load(&a, dir, &one), PW_E_FORMAT, "unknown tensor base_model.model.x");
    ck_ok(pw_safetensors_write(path, t, 1, NULL, true));
    ck_fails(pw_peft_load(&a, dir, &one), PW_E_FORMAT, NAME "B.weight is missing");
    t[0].data = nan16;
    ck_ok(pw_safetensors_write(path, t, 2, NULL, true));
    ck_fails(pw_peft_load(&a, dir, &one), PW_E_NUMERIC, "element 0 is not a number");
    t[0] = (struct pw_st_write){NAME "A.weight", "I32", 2, {2, 8}, x, 64};
    ck_ok(pw_safetensors_write(path, t, 2, NULL, true));
    ck_fails(pw_peft_load(&a, dir, &one), PW_E_UNSUPPORTED, "got I32");
    ck_fails(pw_peft_load(&a, test_tmpdir(), &one), PW_E_IO, "adapter_config.json: no such file");
}
END_TEST

/* ---- base and merge ---- */

static int load_work(void *dir)
{
    struct pw_adapter a;
    int rc = pw_peft_load(&a, dir, &model);
    if (rc == 0)
        pw_adapter_free(&a);
    return rc;
}

START_TEST(no_memory)
{
    struct pw_adapter a;
    void *memory = made(&a, &base_config, &model);
    char dir[512];
    snprintf(dir, sizeof dir, "%s", written(&a));
    ck_assert_int_gt(test_sweep_nomem(load_work, dir), 5);
    pw_adapter_free(&a);
    pw_free(memory);
}
END_TEST

START_TEST(base_and_merge)
{
    const char *path = test_shared("data/models/tinystories-656k"), *other = test_shared("data/models/stories260K/stories260K.bin"), *dir = test_tmpdir();
    if (!path || !other) {
        test_skip("data/models is not there");
        return;
    }
    const struct pw_dev_options opt = {.kind = "cpu", .threads = 1};
    struct pw_adapter_config k = {.kind = "lora", .r = 4, .alpha = 8, .targets = "k_proj,down_proj"};
    struct pw_quant_options o;
    struct pw_checkpoint *c, *q, *x;
    struct pw_merge_result r;
    struct pw_adapter a;
    struct pw_dev *dev;
    ck_ok(pw_dev_open(&dev, &opt));
    ck_ok(pw_checkpoint_open(&c, path, NULL));
    ck_ok(pw_checkpoint_open(&x, other, NULL));
    ck_ok(pw_adapter_record_base(&k, c, "nf4", true));
    ck_assert_str_eq(k.base_type, "nf4 double");
    void *memory = made(&a, &k, pw_checkpoint_config(c));
    ck_ok(pw_adapter_check_base(&a, c, "", false, false, NULL));
    ck_fails(pw_adapter_check_base(&a, x, "", false, false, NULL), PW_E_FAIL, "the adapter is for another base");
    ck_assert_ptr_nonnull(strstr(pw_error_text(), "stories260K.bin"));
    ck_ok(pw_adapter_check_base(&a, x, "", false, true, NULL));
    ck_ok(pw_quant_parse("nf4", &o));                      /* a folder that pw quant made is the same model */
    ck_ok(pw_quant_folder(dev, path, NULL, test_path(dir, "q"), false, &o, NULL, NULL, NULL));
    ck_ok(pw_checkpoint_open(&q, test_path(dir, "q"), NULL));
    ck_ok(pw_adapter_check_base(&a, q, "", false, false, NULL));

    const char *out = test_path(dir, "m");
    ck_fails(pw_lora_merge(dev, c, &a, PW_F32, out, false, &r, NULL), PW_E_FAIL, "merging changed nothing");
    ck_assert(!pw_file_exists(out) && !pw_is_dir(out));
    const struct pw_adapter_module *m = pw_adapter_find(&a, "model.layers.1.mlp.down_proj");
    ((float *)m->lora.b.data)[5 * 4 + 2] = 0.5f;            /* row 5 += 2 * 0.5 * A[2] */
    ck_ok(pw_lora_merge(dev, c, &a, PW_F32, out, false, &r, NULL));
    ck_assert_str_eq(r.where, m->name);
    struct pw_checkpoint *merged;
    struct pw_tensor before, after;
    ck_ok(pw_checkpoint_open(&merged, out, NULL));
    ck_ok(pw_checkpoint_tensor(c, "model.layers.1.mlp.down_proj.weight", 128, 384, &before));
    ck_ok(pw_checkpoint_tensor(merged, "model.layers.1.mlp.down_proj.weight", 128, 384, &after));
    const float *A = m->lora.a.data, *u = before.data, *v = after.data;
    for (int i = 0; i < 128; i++)
        for (int n = 0; n < 384; n++)
            ck_close(v[i * 384 + n], u[i * 384 + n] + (i == 5 ? A[2 * 384 + n] : 0), 1e-7, 1e-6);
    ck_ok(pw_checkpoint_tensor(c, "lm_head.weight", 2048, 128, &before));
    ck_ok(pw_checkpoint_tensor(merged, "lm_head.weight", 2048, 128, &after));
    ck_assert_mem_eq(before.data, after.data, 2048 * 128 * 4);
    ck_assert(pw_is_dir(out));
    ck_fails(pw_lora_merge(dev, c, &a, PW_F32, out, false, &r, NULL), PW_E_REFUSED, "");
    ck_ok(pw_lora_merge(dev, q, &a, PW_BF16, test_path(dir, "mq"), false, &r, NULL)); /* onto the dequantised base */
    pw_checkpoint_close(merged);
    pw_checkpoint_close(q);
    pw_checkpoint_close(x);
    pw_checkpoint_close(c);
    pw_adapter_free(&a);
    pw_free(memory);
    pw_dev_close(dev);
}
END_TEST

/* A matrix of more rows than a tile holds: the rows of B must be those of the matrix, not of the tile. */
START_TEST(merge_over_tiles)
{
    enum { D = 8, F = 40000 };
    const char *dir = test_tmpdir(), *base = test_path(dir, "base"), *out = test_path(dir, "out");
    const char *config = "{\"model_type\":\"llama\",\"hidden_size\":8,\"intermediate_size\":40000,\"num_hidden_layers\":1,\"num_attention_heads\":2,\"vocab_size\":4,"
                         "\"max_position_embeddings\":8,\"tie_word_embeddings\":true}";
    float *x = pw_alloc_zero(D * F, sizeof *x);
    struct pw_st_write t[12] = {{"model.embed_tokens.weight", "F32", 2, {4, D}, x, 4 * 4 * D}, {"model.norm.weight", "F32", 1, {D}, x, 4 * D},
                                {"model.layers.0.input_layernorm.weight", "F32", 1, {D}, x, 4 * D},
                                {"model.layers.0.post_attention_layernorm.weight", "F32", 1, {D}, x, 4 * D},
                                {"model.layers.0.mlp.gate_proj.weight", "F32", 2, {F, D}, x, 4 * D * F}, {"model.layers.0.mlp.up_proj.weight", "F32", 2, {F, D}, x, 4 * D * F},
                                {"model.layers.0.mlp.down_proj.weight", "F32", 2, {D, F}, x, 4 * D * F}};
    static const char *const square[] = {"q", "k", "v", "o"};
    char names[4][64];
    for (int i = 0; i < 4; i++) {
        snprintf(names[i], sizeof names[i], "model.layers.0.self_attn.%s_proj.weight", square[i]);
        t[7 + i] = (struct pw_st_write){names[i], "F32", 2, {D, D}, x, 4 * D * D};
    }
    ck_ok(pw_dir_make(base));
    ck_ok(pw_file_write(test_path(base, "config.json"), config, strlen(config), false));
    ck_ok(pw_safetensors_write(test_path(base, "model.safetensors"), t, 11, NULL, false));
    const struct pw_dev_options opt = {.kind = "cpu", .threads = 1};
    const struct pw_adapter_config k = {.kind = "lora", .r = 1, .alpha = 1, .targets = "gate_proj"};
    struct pw_checkpoint *c, *merged;
    struct pw_merge_result r;
    struct pw_adapter a;
    struct pw_tensor after;
    struct pw_dev *dev;
    ck_ok(pw_dev_open(&dev, &opt));
    ck_ok(pw_checkpoint_open(&c, base, NULL));
    void *memory = made(&a, &k, pw_checkpoint_config(c));
    ((float *)a.modules[0].lora.b.data)[F - 1] = 3;
    ck_ok(pw_lora_merge(dev, c, &a, PW_F32, out, false, &r, NULL));
    ck_ok(pw_checkpoint_open(&merged, out, NULL));
    ck_ok(pw_checkpoint_tensor(merged, "model.layers.0.mlp.gate_proj.weight", F, D, &after));
    for (int64_t i = 0; i < F * D; i++)
        ck_assert(((float *)after.data)[i] == (i / D == F - 1 ? 3 * ((float *)a.modules[0].lora.a.data)[i % D] : 0));
    pw_checkpoint_close(merged);
    pw_checkpoint_close(c);
    pw_adapter_free(&a);
    pw_dev_close(dev);
    pw_free(memory);
    pw_free(x);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("lora");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, plan_selects);
    tcase_add_test(t, patterns_and_layers);
    tcase_add_test(t, initial_values);
    tcase_add_test(t, folder_reads_back);
    tcase_add_loop_test(t, configs_of_others, 0, sizeof configs / sizeof *configs);
    tcase_add_test(t, tensors_of_others);
    tcase_add_test(t, no_memory);
    tcase_add_test(t, base_and_merge);
    tcase_add_test(t, merge_over_tiles);
    suite_add_tcase(s, t);
    return test_run(s);
}
