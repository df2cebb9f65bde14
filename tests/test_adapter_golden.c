/* DoRA and trained modules against peft and PyTorch: 20 steps of training, dense and NF4, logits of adapters that peft wrote, and what becomes of them when
 * they are written again or merged (tools/reference/adapter_fixtures.py made the fixtures). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "data/safetensors.h"
#include "infer/session.h"
#include "lora/gguf_lora.h"
#include "lora/merge.h"
#include "lora/peft.h"
#include "lora/principal.h"
#include "tests/adapter_golden.h"
#include "tests/golden.h"
#include "tests/support.h"
#include "train/run.h"

static const char *model_of(const char *name) { return strncmp(name, "bias", 4) == 0 ? BIASED : MODEL; }

/* ---- training ---- */

static void golden(const char *name, const char *quant, const char *adapter, const char *device, double bound)
{
    struct pw_arena a;
    struct pw_value *all = NULL;
    const char *schedule = NULL;
    char text[2048], theirs[128], before[128];
    pw_arena_init(&a);
    ck_ok(pw_json_load(&a, FIXTURES "/golden.json", &all));
    const struct pw_value *one = pw_get(all, name), *o = pw_get(one, "recipe");
    ck_assert_ptr_nonnull(o);
    ck_ok(pw_get_str(o, "schedule", "golden.json", &schedule));
    snprintf(theirs, sizeof theirs, FIXTURES "/final-%s", name);
    snprintf(before, sizeof before, FIXTURES "/init-%s", name);
    snprintf(text, sizeof text,
             "model: %s\nquant: %s\nadapter: {r: 4, alpha: 8, dropout: 0.0, init_from: %s, %s}\n"
             "data: {train: %s, format: completion, max_length: 40, packing: false, shuffle: false}\n"
             "train: {steps: %d, batch_size: 2, accumulate: 2, lr: %.17g, warmup: %.17g, schedule: %s, weight_decay: %.17g, clip: %.17g, save_every: 0, eval_every: 0}\n"
             "output: %s\n",
             model_of(name), quant, before, adapter, ROWS, GOLDEN_STEPS, golden_number(o, "lr"), golden_number(o, "warmup"), schedule, golden_number(o, "weight_decay"),
             golden_number(o, "clip"), test_path(test_tmpdir(), "run"));
    golden_run(text, one, device, theirs, before, bound);
    pw_arena_free(&a);
}
START_TEST(dora) { golden("dora", "none", "kind: dora", "cpu", 1e-5); }
END_TEST
START_TEST(saved) { golden("saved", "none", "modules_to_save: [embed_tokens, lm_head, norm, input_layernorm]", "cpu", 1e-5); }
END_TEST
START_TEST(saved_by_definition) { golden("saved", "none", "modules_to_save: [embed_tokens, lm_head, norm, input_layernorm]", "ref", 1e-5); }
END_TEST
START_TEST(dora_by_definition) { golden("dora", "none", "kind: dora", "ref", 1e-5); }
END_TEST
START_TEST(bias) { golden("bias", "none", "bias: lora_only", "cpu", 1e-5); }
END_TEST
START_TEST(bias_by_definition) { golden("bias", "none", "bias: lora_only", "ref", 1e-5); }
END_TEST
START_TEST(bias_all) { golden("bias-all", "none", "bias: all, targets: [q_proj, up_proj]", "cpu", 1e-5); }
END_TEST
START_TEST(dora_nf4) { golden("dora-nf4", NF4, "kind: dora", "cpu", 1e-5); }
END_TEST

/* ---- logits ---- */

static void logits_of(const char *path, const char *adapter, const char *device, const int32_t *ids, int n, float *out)
{
    logits_of_quantised(path, NULL, adapter, device, ids, n, out);
}

/* What peft wrote gives peft's logits, and so does the same adapter read and written by us; merged, it is the model that peft would merge. */
static void reads(const char *name, double moves)
{
    struct expected e;
    static float got[MOST * VOCAB], plain[MOST * VOCAB];
    struct pw_adapter a;
    char path[128];
    read_expected(&e, name);
    snprintf(path, sizeof path, FIXTURES "/final-%s", name);
    logits_of(model_of(name), NULL, "cpu", e.ids, e.n, plain);
    ck_assert_msg(furthest(plain, e.logits, e.n * VOCAB) > moves, "the adapter hardly matters");
    logits_of(model_of(name), path, "cpu", e.ids, e.n, got);
    const double read = furthest(got, e.logits, e.n * VOCAB);
    ck_assert_msg(read <= 1e-4, "%s: logits off by %g", path, read);
    ck_ok(pw_peft_load(&a, path, NULL));
    const char *again = test_path(test_tmpdir(), "again");
    ck_ok(pw_dir_make(again));
    ck_ok(pw_peft_write(&a, again));
    pw_adapter_free(&a);
    logits_of(model_of(name), again, "cpu", e.ids, e.n, plain);
    ck_assert_int_eq(memcmp(plain, got, sizeof(float) * (size_t)(e.n * VOCAB)), 0);
    printf("%s: largest difference of a logit %.3g\n", path, read);
}

static void merges(const char *name)
{
    struct expected e;
    static float got[MOST * VOCAB];
    struct pw_adapter a;
    struct pw_checkpoint *c = NULL;
    struct pw_dev *dev = NULL;
    const struct pw_dev_options options = {.kind = "cpu", .threads = 1};
    struct pw_merge_result result;
    char path[128];
    read_expected(&e, name);
    snprintf(path, sizeof path, FIXTURES "/final-%s", name);
    ck_ok(pw_dev_open(&dev, &options));
    ck_ok(pw_checkpoint_open(&c, model_of(name), NULL));
    ck_ok(pw_peft_load(&a, path, pw_checkpoint_config(c)));
    const char *out = test_path(test_tmpdir(), "merged");
    ck_ok(pw_lora_merge(dev, c, &a, PW_F32, out, true, &result, NULL));
    ck_assert_uint_eq(result.modules, a.n);
    pw_adapter_free(&a);
    pw_checkpoint_close(c);
    pw_dev_close(dev);
    logits_of(out, NULL, "cpu", e.ids, e.n, got);
    const double off = furthest(got, e.logits, e.n * VOCAB);
    ck_assert_msg(off <= 1e-4, "%s merged: logits off by %g", path, off);
    printf("%s merged: largest difference of a logit %.3g\n", path, off);
}
START_TEST(reads_dora) { reads("dora", 0.1); }
END_TEST
START_TEST(reads_saved) { reads("saved", 0.1); }
END_TEST
START_TEST(reads_bias) { reads("bias", 0.05); }
END_TEST
START_TEST(reads_bias_all) { reads("bias-all", 0.05); }
END_TEST
START_TEST(merges_bias) { merges("bias"); }
END_TEST
START_TEST(merges_bias_all) { merges("bias-all"); }
END_TEST
START_TEST(merges_saved) { merges("saved"); }
END_TEST
START_TEST(merges_dora) { merges("dora"); }
END_TEST

/* The text part of a model of text and vision: in either spelling of its names, written as transformers has them now, with an expression that selects the text alone. */
#define WHOLE_MODEL "tests/fixtures/families/gemma3-whole"

static const char *written_targets(struct pw_arena *arena, const struct pw_adapter *a, const char *dir, const struct pw_value **alphas)
{
    struct pw_value *json = NULL;
    const char *text = NULL;
    ck_ok(pw_dir_make(dir));
    ck_ok(pw_peft_write(a, dir));
    ck_ok(pw_json_load(arena, test_path(dir, "adapter_config.json"), &json));
    ck_ok(pw_get_str(json, "target_modules", "config", &text));
    *alphas = pw_get(json, "alpha_pattern");
    return text;
}

/* The file of dir with other names, `first` in the place of the first module's. */
static void rename_all(struct pw_arena *arena, const char *dir, const char *to, const char *first)
{
    struct pw_safetensors s;
    struct pw_st_write list[64];
    const char *path = test_path(dir, "adapter_model.safetensors");
    struct pw_buf bytes = {0};
    ck_ok(pw_file_read(path, 0, &bytes));
    ck_ok(pw_file_write(test_path(dir, "before"), bytes.data, bytes.len, true));
    pw_buf_free(&bytes);
    ck_ok(pw_safetensors_open(&s, test_path(dir, "before")));
    ck_assert_uint_le(s.n, 64);
    for (size_t i = 0; i < s.n; i++) {
        const struct pw_st_tensor *t = &s.tensors[i];
        ck_assert_msg(strncmp(t->name, "base_model.model.model.language_model.layers.", 45) == 0, "%s", t->name);
        list[i] = (struct pw_st_write){.name = i < 2 && first ? pw_arena_printf(arena, "base_model.model.%s.lora_%c.weight", first, i ? 'B' : 'A') : pw_arena_printf(arena, "base_model.model.%s%s", to, t->name + 45), .dtype = t->dtype, .ndim = t->ndim,
                                       .shape = {t->shape[0], t->shape[1]}, .data = t->data, .bytes = t->bytes};
    }
    ck_ok(pw_safetensors_write(path, list, s.n, NULL, true));
    pw_safetensors_close(&s);
}

START_TEST(of_the_text_of_a_whole)
{
    static const char *const spelled[] = {"model.language_model.layers.", "language_model.model.layers.", "model.layers."};
    struct pw_checkpoint *c = NULL;
    struct pw_adapter a, b;
    struct pw_arena arena;
    const struct pw_value *alphas;
    pw_arena_init(&arena);
    ck_ok(pw_checkpoint_open(&c, WHOLE_MODEL, NULL));
    const struct pw_model_config *model = pw_checkpoint_config(c);
    ck_ok(pw_peft_load(&a, WHOLE_MODEL "/adapter", model));
    ck_assert(a.config.of_text && a.n == 21);
    ck_assert_str_eq(a.modules[0].name, "model.layers.0.self_attn.q_proj");
    a.modules[9].lora.scale *= 3;                      /* an alpha of its own */
    for (int k = 0; k < 3; k++) {
        const char *dir = test_path(test_tmpdir(), "adapter");
        ck_assert_str_eq(written_targets(&arena, &a, dir, &alphas), "model\\.language_model\\.layers\\.(0|1|2)\\.(self_attn\\.q_proj|self_attn\\.k_proj|self_attn\\.v_proj|self_attn\\.o_proj|"
                         "mlp\\.gate_proj|mlp\\.up_proj|mlp\\.down_proj)");
        ck_assert_ptr_nonnull(pw_get(alphas, "model.language_model.layers.1.self_attn.v_proj"));
        rename_all(&arena, dir, spelled[k], NULL);
        if (k < 2) {
            ck_ok(pw_peft_load(&b, dir, model));
            ck_assert_uint_eq(b.n, a.n);
            for (size_t i = 0; i < a.n; i++) {
                ck_assert_str_eq(b.modules[i].name, a.modules[i].name);
                ck_assert(fabs(b.modules[i].lora.scale - a.modules[i].lora.scale) <= 1e-12);
                ck_assert_mem_eq(b.modules[i].lora.b.data, a.modules[i].lora.b.data, pw_bytes(a.modules[i].lora.b));
            }
            pw_adapter_free(&b);
        }
    }
    const char *dir = test_path(test_tmpdir(), "vision");
    ck_assert_ptr_nonnull(written_targets(&arena, &a, dir, &alphas));
    rename_all(&arena, dir, spelled[0], "model.vision_tower.encoder.layers.0.self_attn.q_proj");
    ck_fails(pw_peft_load(&b, dir, model), PW_E_FORMAT, "unknown tensor base_model.model.model.vision_tower.encoder.layers.0.self_attn.q_proj.lora_A.weight: the model has no such linear layer");
    a.n = 20;                                          /* not the same in every layer: by their names */
    ck_assert(strncmp(written_targets(&arena, &a, test_path(test_tmpdir(), "few"), &alphas), "model\\.language_model\\.(layers\\.0\\.self_attn\\.q_proj|layers\\.0\\.self_attn\\.k_proj|", 70) == 0);
    a.n = 21;
    pw_adapter_free(&a);
    pw_checkpoint_close(c);
    pw_arena_free(&arena);
}
END_TEST

/* Norms and embedding of the text part that are trained whole: whole names, since PEFT would take the word norm for norms of the vision part as well; on this base, whose
 * head is its embedding, the head stays what it is. */
START_TEST(saved_of_the_text_of_a_whole)
{
    static const char *const words[] = {"\"norm\", \"embed_tokens\"", "\"language_model.embed_tokens\", \"model.language_model.norm\", \"norm\"", "\"language_model.model.norm\""};
    struct pw_checkpoint *c = NULL;
    struct pw_adapter a, b;
    struct pw_arena arena;
    const struct pw_value *alphas, *list;
    struct pw_value *json = NULL;
    pw_arena_init(&arena);
    ck_ok(pw_checkpoint_open(&c, WHOLE_MODEL, NULL));
    const struct pw_model_config *model = pw_checkpoint_config(c);
    ck_assert(model->tied);
    struct pw_adapter_config config = {.kind = "lora", .r = 2, .alpha = 4, .targets = "q_proj", .modules_to_save = "norm,embed_tokens", .of_text = true};
    ck_ok(pw_adapter_plan(&a, &config, model));
    void *memory = pw_alloc(pw_adapter_bytes(&a));
    ck_ok(pw_adapter_place(&a, memory, pw_adapter_bytes(&a)));
    pw_adapter_init(&a, 5);
    for (size_t i = 0; i < a.n_saved; i++)
        for (int64_t k = 0; k < pw_count(a.saved[i].value); k++)
            ((float *)a.saved[i].value.data)[k] = (float)(i + 1) + (float)k / 16;
    for (int w = 0; w < 3; w++) {
        const char *dir = test_path(test_tmpdir(), "saved");
        written_targets(&arena, &a, dir, &alphas);
        const char *path = test_path(dir, "adapter_config.json");
        ck_ok(pw_json_load(&arena, path, &json));
        list = pw_get(json, "modules_to_save");
        ck_assert(list && list->kind == PW_LIST && list->len == a.n_saved);
        ck_assert_str_eq(list->items[0].s, "model.language_model.embed_tokens");
        ck_assert_str_eq(list->items[list->len - 1].s, "model.language_model.norm");
        ck_ok(pw_peft_load(&b, dir, model));
        bool same = b.n_saved == a.n_saved;
        for (size_t i = 0; same && i < a.n_saved; i++) {
            const struct pw_adapter_saved *s = pw_adapter_find_saved(&b, a.saved[i].name);
            same = s && memcmp(s->value.data, a.saved[i].value.data, pw_bytes(s->value)) == 0;
        }
        ck_assert(same);
        pw_adapter_free(&b);
        struct pw_buf text = {0};                      /* and with words in the place of the names */
        ck_ok(pw_file_read(path, 0, &text));
        char *from = strstr(text.data, "\"modules_to_save\": ["), *end = strchr(from, ']');
        const char *changed = pw_arena_printf(&arena, "%.*s\"modules_to_save\": [%s%s", (int)(from - text.data), text.data, words[w], end);
        ck_ok(pw_file_write(path, changed, strlen(changed), true));
        pw_buf_free(&text);
        if (w < 2)
            ck_ok(pw_peft_load(&b, dir, model));
        else
            ck_fails(pw_peft_load(&b, dir, model), PW_E_FORMAT, "unknown tensor base_model.model.model.embed_tokens.weight");
        if (w < 2)
            pw_adapter_free(&b);
    }
    pw_adapter_free(&a);
    pw_free(memory);
    pw_checkpoint_close(c);
    pw_arena_free(&arena);
}
END_TEST

/* Files whose tensors do not fit: each is refused with the tensor's name. */
START_TEST(refuses)
{
    struct pw_adapter a, b;
    struct pw_checkpoint *c = NULL;
    const char *dir = test_path(test_tmpdir(), "bad");
    ck_ok(pw_checkpoint_open(&c, MODEL, NULL));
    struct pw_model_config model = *pw_checkpoint_config(c);
    ck_ok(pw_dir_make(dir));
    ck_ok(pw_peft_load(&a, FIXTURES "/final-dora", NULL));
    a.modules[3].lora.magnitude.shape[0]--;
    ck_ok(pw_peft_write(&a, dir));
    ck_fails(pw_peft_load(&b, dir, &model), PW_E_FORMAT, "o_proj.lora_magnitude_vector: expected as many elements as .lora_B.weight has rows (24), got 23");
    a.modules[3].lora.magnitude = pw_tensor2(a.modules[3].lora.magnitude.data, PW_F32, 4, 6);
    ck_ok(pw_peft_write(&a, dir));
    ck_fails(pw_peft_load(&b, dir, &model), PW_E_FORMAT, "o_proj.lora_magnitude_vector: expected one dimension, got 2");
    snprintf(a.config.kind, sizeof a.config.kind, "lora");
    ck_ok(pw_peft_write(&a, dir));
    ck_fails(pw_peft_load(&b, dir, &model), PW_E_FORMAT, "unknown tensor base_model.model.model.layers.0.mlp.down_proj.lora_magnitude_vector");
    pw_adapter_free(&a);

    ck_ok(pw_peft_load(&a, FIXTURES "/final-saved", NULL));
    a.saved[0].value.shape[0]--;          /* lm_head: tensors are sorted by name */
    ck_ok(pw_peft_write(&a, dir));
    ck_fails(pw_peft_load(&b, dir, &model), PW_E_FORMAT, "lm_head.weight: shape does not fit the model, the adapter is for another base (expected (64, 24), got (63, 24))");
    a.saved[0] = a.saved[--a.n_saved];
    ck_ok(pw_peft_write(&a, dir));
    ck_fails(pw_peft_load(&b, dir, &model), PW_E_FORMAT, "lm_head.weight is missing");
    pw_adapter_free(&a);

    pw_checkpoint_close(c);
}
END_TEST

/* ---- joined experts ---- */

/* What peft made of parameters that hold all experts gives peft's logits; and so does the pair for each expert that is made of it, written. */
static void joined(const char *name, const char *family)
{
    static struct expected e;
    static float got[MOST * VOCAB], again[MOST * VOCAB], plain[MOST * VOCAB];
    struct pw_adapter a;
    struct pw_checkpoint *c = NULL;
    char path[128], model[128];
    snprintf(path, sizeof path, FIXTURES "/joined-%s", name);
    snprintf(model, sizeof model, "tests/fixtures/families/%s", family);
    read_expected_of(&e, FIXTURES "/joined.json", name);
    logits_of(model, NULL, "cpu", e.ids, e.n, plain);
    ck_assert_msg(furthest(plain, e.logits, e.n * e.vocab) > 0.1, "the adapter hardly matters");
    logits_of(model, path, "cpu", e.ids, e.n, got);
    const double off = furthest(got, e.logits, e.n * e.vocab);
    ck_assert_msg(off <= 1e-4, "%s: logits off by %g", path, off);
    const char *out = test_path(test_tmpdir(), "again");
    ck_ok(pw_dir_make(out));
    ck_ok(pw_checkpoint_open(&c, model, NULL));
    ck_ok(pw_peft_load(&a, path, pw_checkpoint_config(c)));
    ck_ok(pw_peft_write(&a, out));
    pw_adapter_free(&a);
    logits_of(model, out, "cpu", e.ids, e.n, again);
    ck_assert_int_eq(memcmp(again, got, sizeof(float) * (size_t)(e.n * e.vocab)), 0);
    ck_ok(pw_peft_load(&a, path, NULL));         /* for looking alone */
    pw_adapter_free(&a);
    struct pw_model_config other = *pw_checkpoint_config(c);
    other.experts++;
    ck_fails(pw_peft_load(&a, path, &other), PW_E_FORMAT, "the adapter is for another base (expected ");
    pw_checkpoint_close(c);
    printf("%s: largest difference of a logit %.3g\n", path, off);
}
START_TEST(joined_mixtral) { joined("mixtral", "mixtral"); }
END_TEST
START_TEST(joined_qwen3) { joined("qwen3", "qwen3-moe-joined"); }
END_TEST
/* Merged into a base whose experts are joined: a folder of a tensor for each expert, with peft's logits. */
START_TEST(merges_into_joined)
{
    static struct expected e;
    static float got[MOST * VOCAB];
    struct pw_adapter a;
    struct pw_checkpoint *c = NULL;
    struct pw_dev *dev = NULL;
    const struct pw_dev_options options = {.kind = "cpu", .threads = 1};
    struct pw_merge_result result;
    const char *out = test_path(test_tmpdir(), "merged");
    read_expected_of(&e, FIXTURES "/joined.json", "qwen3");
    ck_ok(pw_dev_open(&dev, &options));
    ck_ok(pw_checkpoint_open(&c, "tests/fixtures/families/qwen3-moe-joined", NULL));
    ck_ok(pw_peft_load(&a, FIXTURES "/joined-qwen3", pw_checkpoint_config(c)));
    ck_ok(pw_lora_merge(dev, c, &a, PW_F32, out, true, &result, NULL));
    ck_assert_uint_eq(result.modules, a.n);
    pw_adapter_free(&a);
    logits_of(out, NULL, "cpu", e.ids, e.n, got);
    const double off = furthest(got, e.logits, e.n * e.vocab);
    ck_assert_msg(off <= 1e-4, "merged: logits off by %g", off);
    pw_checkpoint_close(c);
    pw_dev_close(dev);
    printf("merged into joined experts: largest difference of a logit %.3g\n", off);
}
END_TEST
/* DoRA on experts is not attached; merged it gives peft's logits, into a folder and into a file. */
START_TEST(merges_dora_experts)
{
    static struct expected e;
    static float got[MOST * VOCAB];
    static const char base[] = "tests/fixtures/families/mixtral", path[] = FIXTURES "/dora-experts";
    struct pw_adapter a;
    struct pw_checkpoint *c = NULL;
    struct pw_dev *dev = NULL;
    struct pw_model *m = NULL;
    const struct pw_dev_options options = {.kind = "cpu", .threads = 1};
    const char *outs[2] = {test_path(test_tmpdir(), "merged"), test_path(test_tmpdir(), "merged.gguf")};
    read_expected_of(&e, FIXTURES "/dora-experts.json", "dora");
    ck_ok(pw_dev_open(&dev, &options));
    ck_ok(pw_model_load(&m, dev, base, NULL));
    ck_ok(pw_peft_load(&a, path, &m->config));
    ck_fails(pw_model_attach(m, &a), PW_E_UNSUPPORTED, "dora on experts is not supported (model.layers.0.block_sparse_moe.experts.0.w1)");
    ck_assert_ptr_nonnull(strstr(pw_error_hint_text(), "pw lora merge"));
    pw_adapter_free(&a);
    pw_model_free(m);
    for (int gguf = 0; gguf < 2; gguf++) {
        const struct pw_merge_options o = {.to = {.type = PW_Q_DENSE, .dtype = PW_F32}, .gguf = gguf > 0};
        struct pw_merge_result result;
        ck_ok(pw_checkpoint_open(&c, base, NULL));
        struct pw_model_config shape = *pw_checkpoint_config(c);
        shape.rope_interleaved = gguf > 0;
        ck_ok(pw_peft_load(&a, path, &shape));
        ck_ok(pw_lora_merge_into(dev, c, &a, outs[gguf], &o, &result, NULL));
        ck_assert_uint_eq(result.modules, 2 * (1 + 4 * 3));
        pw_adapter_free(&a);
        pw_checkpoint_close(c);
        logits_of(outs[gguf], NULL, "cpu", e.ids, e.n, got);
        const double off = furthest(got, e.logits, e.n * e.vocab);
        printf("%s merged into a %s: largest difference of a logit %.3g\n", path, gguf ? "file" : "folder", off);
        ck_assert_msg(off <= 1e-5, "merged: logits off by %g", off);
    }
    logits_of(base, NULL, "cpu", e.ids, e.n, got);
    ck_assert(furthest(got, e.logits, e.n * e.vocab) > 0.1);
    pw_dev_close(dev);
}
END_TEST
START_TEST(joined_up) { joined("up", "mixtral"); }
END_TEST
START_TEST(joined_down) { joined("down", "qwen3-moe-joined"); }
END_TEST

/* The config of an adapter of joined experts with one thing in it changed. */
START_TEST(refuses_joined)
{
    static const struct { const char *from, *to; int code; const char *text; } cases[] = {
        {"mlp.experts.gate_up_proj", "mlp.gate.weight", PW_E_UNSUPPORTED, "target_parameters: mlp.gate.weight is not supported"},
        {"mlp.experts.gate_up_proj", "xlp.experts.gate_up_proj", PW_E_FORMAT, "target_parameters does not name what it belongs to"},
        {"\"r\": 2", "\"r\": 3", PW_E_FORMAT, "expected rank 3 for each expert"},
        {"\"rank_pattern\": {}", "\"rank_pattern\": {\"mlp.experts.down_proj\": 4}", PW_E_FORMAT, "the adapter is for another base (expected 4 experts, got 2)"},
        {"\"rank_pattern\": {}", "\"rank_pattern\": {\"mlp.experts.down_proj\": 0.5}", PW_E_FORMAT, "rank_pattern: "},
    };
    struct pw_checkpoint *c = NULL;
    const char *dir = test_path(test_tmpdir(), "bad");
    struct pw_buf config = {0}, tensors = {0};
    ck_ok(pw_dir_make(dir));
    ck_ok(pw_checkpoint_open(&c, "tests/fixtures/families/mixtral", NULL));
    ck_ok(pw_file_read(FIXTURES "/joined-mixtral/adapter_config.json", 0, &config));
    ck_ok(pw_file_read(FIXTURES "/joined-mixtral/adapter_model.safetensors", 0, &tensors));
    ck_ok(pw_file_write(test_path(dir, "adapter_model.safetensors"), tensors.data, tensors.len, true));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct pw_adapter a;
        struct pw_buf changed = {0};
        const char *at = strstr(config.data, cases[i].from);
        ck_assert_ptr_nonnull(at);
        pw_buf_printf(&changed, "%.*s%s%s", (int)(at - config.data), config.data, cases[i].to, at + strlen(cases[i].from));
        ck_ok(pw_file_write(test_path(dir, "adapter_config.json"), changed.data, changed.len, true));
        ck_fails(pw_peft_load(&a, dir, pw_checkpoint_config(c)), cases[i].code, cases[i].text);
        pw_buf_free(&changed);
    }
    pw_buf_free(&config);
    pw_buf_free(&tensors);
    pw_checkpoint_close(c);
}
END_TEST

static size_t place_of(const struct pw_adapter *a, const char *name)
{
    const struct pw_adapter_saved *s = pw_adapter_find_saved(a, name);
    ck_assert_ptr_nonnull(s);
    return (size_t)(s - a->saved);
}

START_TEST(refuses_biases)
{
    struct pw_adapter a, b;
    struct pw_checkpoint *c = NULL;
    const char *dir = test_path(test_tmpdir(), "bad"), *file = test_path(test_tmpdir(), "bad.gguf");
    ck_ok(pw_checkpoint_open(&c, BIASED, NULL));
    struct pw_model_config model = *pw_checkpoint_config(c);
    ck_ok(pw_dir_make(dir));
    ck_ok(pw_peft_load(&a, FIXTURES "/final-bias-all", &model));
    ck_assert_uint_eq(pw_adapter_biases(&a), 6);
    ck_assert_uint_eq(a.n_saved, 6);
    ck_fails(pw_gguf_lora_write(&a, file, &model, PW_F32, true), PW_E_UNSUPPORTED, "GGUF files of adapters hold low-rank pairs alone, and this one has model.layers.0.self_attn.k_proj.bias trained");
    ck_assert(!pw_file_exists(file));
    snprintf(a.config.bias, sizeof a.config.bias, "lora_only");
    ck_ok(pw_peft_write(&a, dir));
    ck_fails(pw_peft_load(&b, dir, &model), PW_E_FORMAT, "unknown tensor base_model.model.model.layers.0.self_attn.k_proj.bias: bias is lora_only, and its layer has no pair");
    snprintf(a.config.bias, sizeof a.config.bias, "none");
    ck_ok(pw_peft_write(&a, dir));
    ck_fails(pw_peft_load(&b, dir, &model), PW_E_FORMAT, "unknown tensor base_model.model.model.layers.0.self_attn.k_proj.bias");
    snprintf(a.config.bias, sizeof a.config.bias, "boft_only");
    ck_ok(pw_peft_write(&a, dir));
    ck_fails(pw_peft_load(&b, dir, &model), PW_E_UNSUPPORTED, "bias is not supported (expected none, all or lora_only, got boft_only)");
    snprintf(a.config.bias, sizeof a.config.bias, "all");
    const size_t q = place_of(&a, "model.layers.1.self_attn.q_proj.bias"), k = place_of(&a, "model.layers.1.self_attn.k_proj.bias");
    a.saved[q].value.shape[0]--;
    ck_ok(pw_peft_write(&a, dir));
    ck_fails(pw_peft_load(&b, dir, &model), PW_E_FORMAT, "layers.1.self_attn.q_proj.base_layer.bias: shape does not fit the model, the adapter is for another base (expected (24, 1), got (23, 1))");
    a.saved[q].value = pw_tensor2(a.saved[q].value.data, PW_F32, 4, 6);
    ck_ok(pw_peft_write(&a, dir));
    ck_fails(pw_peft_load(&b, dir, &model), PW_E_FORMAT, "layers.1.self_attn.q_proj.base_layer.bias: expected one dimension, got 2");
    a.saved[q].value = pw_tensor1(a.saved[q].value.data, PW_F32, 24);
    a.saved[k] = a.saved[--a.n_saved];
    ck_ok(pw_peft_write(&a, dir));
    ck_fails(pw_peft_load(&b, dir, &model), PW_E_FORMAT, "tensor base_model.model.model.layers.1.self_attn.k_proj.bias is missing");
    pw_adapter_free(&a);
    model.qkv_bias = false;
    ck_fails(pw_peft_load(&b, FIXTURES "/final-bias", &model), PW_E_FORMAT, "layers.0.self_attn.k_proj.base_layer.bias: the model has no such bias");
    pw_checkpoint_close(c);
}
END_TEST

/* A base whose rows of q and k are in interleaved pairs: what is in memory follows them, what is written does not. */
START_TEST(biases_follow_the_rows)
{
    struct pw_adapter a, b, again;
    struct pw_checkpoint *c = NULL;
    const char *dir = test_path(test_tmpdir(), "pairs");
    ck_ok(pw_checkpoint_open(&c, BIASED, NULL));
    struct pw_model_config model = *pw_checkpoint_config(c);
    ck_ok(pw_dir_make(dir));
    ck_ok(pw_peft_load(&a, FIXTURES "/final-bias", &model));
    model.rope_interleaved = true;
    ck_ok(pw_peft_load(&b, FIXTURES "/final-bias", &model));
    ck_ok(pw_peft_write(&b, dir));
    model.rope_interleaved = false;
    ck_ok(pw_peft_load(&again, dir, &model));
    const int d = model.head_dim;
    for (size_t i = 0; i < a.n_saved; i++) {
        const float *x = a.saved[i].value.data, *y = b.saved[i].value.data, *z = again.saved[i].value.data;
        const bool turned = !strstr(a.saved[i].name, "v_proj");
        for (int64_t r = 0; r < a.saved[i].value.shape[0]; r++) {
            const int64_t from = turned ? r - r % d + (r % d) / 2 + (r % 2) * (d / 2) : r;
            ck_assert_msg(y[r] == x[from] && z[r] == x[r], "%s, row %d", a.saved[i].name, (int)r);
        }
    }
    pw_adapter_free(&a);
    pw_adapter_free(&b);
    pw_adapter_free(&again);
    pw_checkpoint_close(c);
}
END_TEST

/* bf16 on simt: a logit of size 4 within some hundredths. */
static void on_simt(const char *name)
{
    struct expected e;
    static float got[MOST * VOCAB];
    char path[128];
    snprintf(path, sizeof path, FIXTURES "/final-%s", name);
    read_expected(&e, name);
    logits_of(model_of(name), path, "simt", e.ids, e.n, got);
    const double off = furthest(got, e.logits, e.n * VOCAB);
    ck_assert_msg(off <= 0.1, "logits off by %g", off);
    printf("%s on simt: largest difference of a logit %.3g\n", name, off);
}
START_TEST(dora_on_simt) { on_simt("dora"); }
END_TEST
START_TEST(bias_on_simt) { on_simt("bias"); }
END_TEST

int main(void)
{
    Suite *s = suite_create("adapter_golden");
    TCase *c = tcase_create("against peft");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, dora);
    tcase_add_test(c, dora_by_definition);
    tcase_add_test(c, dora_nf4);
    tcase_add_test(c, saved);
    tcase_add_test(c, saved_by_definition);
    tcase_add_test(c, bias);
    tcase_add_test(c, bias_by_definition);
    tcase_add_test(c, bias_all);
    tcase_add_test(c, reads_bias);
    tcase_add_test(c, reads_bias_all);
    tcase_add_test(c, merges_bias);
    tcase_add_test(c, merges_bias_all);
    tcase_add_test(c, refuses_biases);
    tcase_add_test(c, joined_mixtral);
    tcase_add_test(c, joined_qwen3);
    tcase_add_test(c, merges_into_joined);
    tcase_add_test(c, merges_dora_experts);
    tcase_add_test(c, joined_up);
    tcase_add_test(c, joined_down);
    tcase_add_test(c, refuses_joined);
    tcase_add_test(c, biases_follow_the_rows);
    tcase_add_test(c, reads_saved);
    tcase_add_test(c, merges_saved);
    tcase_add_test(c, reads_dora);
    tcase_add_test(c, merges_dora);
    tcase_add_test(c, refuses);
    tcase_add_test(c, of_the_text_of_a_whole);
    tcase_add_test(c, saved_of_the_text_of_a_whole);
    tcase_add_test(c, dora_on_simt);
    tcase_add_test(c, bias_on_simt);
    suite_add_tcase(s, c);
    return test_run(s);
}
