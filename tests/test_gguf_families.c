/* GGUF files of Gemma 2, Gemma 3 and Phi-3 (tests/fixtures/gguf/families, made by tools/reference/gguf_families.py): log-probabilities against transformers,
 * llama.cpp and the same model as a folder; written and read back; adapters; keys; and what is refused. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "data/gguf_model.h"
#include "infer/model.h"
#include "lora/adapter_file.h"
#include "lora/gguf_lora.h"
#include "lora/merge.h"
#include "quant/quant.h"
#include "tests/model_logits.h"
#include "tests/support.h"

#define FAMILIES "tests/fixtures/gguf/families/"

static const char *const names[] = {"gemma2", "gemma3", "phi3"};
enum { NAMES = 3, MOST = LOGITS_MOST };

static struct pw_dev *cpu(const char *level) { return logits_device(level, 1); }

static void to_logprobs(float *x, int64_t rows, int64_t vocab)
{
    for (int64_t r = 0; r < rows; r++, x += vocab) {
        double sum = 0;
        for (int64_t i = 0; i < vocab; i++)
            sum += exp((double)x[i]);
        for (int64_t i = 0; i < vocab; i++)
            x[i] = (float)((double)x[i] - log(sum));
    }
}

/* Log-probabilities, with an adapter or without (NULL). (n, V), to be freed. */
static float *adapted(struct pw_dev *dev, const char *path, const char *adapter, const int32_t *ids, int n, int64_t *vocab)
{
    float *out = logits_with(dev, path, adapter, ids, n, vocab);
    to_logprobs(out, n, *vocab);
    return out;
}

static float *logprobs_of(struct pw_dev *dev, const char *path, const int32_t *ids, int n, int64_t *vocab) { return adapted(dev, path, NULL, ids, n, vocab); }

struct golden { struct pw_gguf g; int32_t ids[MOST]; int n; };

static void read_ids(struct golden *w, const char *key)
{
    const struct pw_gguf_pair *p;
    ck_ok(pw_gguf_get_array(&w->g, key, PW_GGUF_I32, true, &p));
    ck_assert(p->n >= 1 && p->n <= MOST);
    w->n = (int)p->n;
    for (int i = 0; i < w->n; i++)
        w->ids[i] = (int32_t)pw_gguf_int(p, (uint64_t)i);
}

static void golden(struct golden *w, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, FAMILIES "%s/logits.gguf", name);
    ck_ok(pw_gguf_open(&w->g, path));
    read_ids(w, "ids");
}

/* How far these are from a tensor of the golden file, as log-probabilities. */
static double off(const struct golden *w, const char *tensor, const float *ours, int64_t vocab)
{
    const struct pw_gguf_tensor *t = pw_gguf_tensor(&w->g, tensor);
    ck_assert(t && t->shape[0] == w->n && t->shape[1] == vocab && strcmp(t->stored, "F32") == 0);
    float *theirs = malloc(t->bytes);
    memcpy(theirs, t->data, t->bytes);
    to_logprobs(theirs, w->n, vocab);
    const double d = logits_apart(ours, theirs, w->n * vocab);
    free(theirs);
    return d;
}

static const char *file_of(const char *name, const char *what)
{
    static char path[2][128];
    static int at;
    at = !at;
    snprintf(path[at], sizeof path[at], FAMILIES "%s%s%s", name, what ? "/" : "", what ? what : "");
    return path[at];
}

/* transformers: f32 sums in another order, as in test_families.c. The folder: nothing, but that files hold Phi-3's divisors and factor in f32. llama.cpp: as
 * transformers for Phi-3; of Gemma it looks GELU up in a table of f16, so that each of L feed-forward halves is off by up to 2^-10 of what it puts out,
 * which is normalised at once: L * 2^-10. */
START_TEST(as_both_worlds)
{
    const char *name = names[_i % NAMES];
    struct pw_dev *dev = cpu(_i / NAMES ? "" : "generic");
    struct golden w;
    struct pw_checkpoint *c;
    int64_t vocab, other;
    golden(&w, name);
    ck_ok(pw_checkpoint_open(&c, file_of(name, "model.gguf"), NULL));
    const struct pw_model_config *m = pw_checkpoint_config(c);
    const double bound = m->gelu ? m->layers * 0x1p-10 : 2e-5;
    float *ours = logprobs_of(dev, file_of(name, "model.gguf"), w.ids, w.n, &vocab), *folder = logprobs_of(dev, file_of(name, NULL), w.ids, w.n, &other);
    ck_assert_int_eq(vocab, other);
    const double torch = off(&w, "torch", ours, vocab), llama = off(&w, "llama", ours, vocab), hf = logits_apart(ours, folder, w.n * vocab);
    printf("%s %s: log-probabilities %.3g from transformers, %.3g from llama.cpp, %.3g from the folder\n", name, dev->level, torch, llama, hf);
    ck_assert_msg(torch <= 2e-5, "%s: %g from transformers", name, torch);
    ck_assert_msg(llama <= bound, "%s: %g from llama.cpp", name, llama);
    ck_assert_msg(hf <= (m->gelu ? 0 : 2e-5), "%s: %g from the folder", name, hf);
    if (m->rope_scaling == PW_ROPE_LONG) {     /* a sequence within the original context takes the other divisors */
        free(ours);
        read_ids(&w, "short_ids");
        ck_assert((double)w.n <= m->rope_original_context);
        ours = logprobs_of(dev, file_of(name, "model.gguf"), w.ids, w.n, &vocab);
        const double d = off(&w, "short_llama", ours, vocab);
        ck_assert_msg(d <= 2e-5, "%s: %g from llama.cpp in a short sequence", name, d);
    }
    pw_checkpoint_close(c);
    free(ours);
    free(folder);
    pw_gguf_close(&w.g);
    pw_dev_close(dev);
}
END_TEST

static void config_text(const char *path, struct pw_json *w)
{
    struct pw_checkpoint *c;
    ck_ok(pw_checkpoint_open(&c, path, NULL));
    pw_json_open(w, NULL, '{');
    pw_model_config_write(pw_checkpoint_config(c), NULL, w);
    pw_json_close(w, '}');
    ck_ok(pw_json_status(w));
    pw_checkpoint_close(c);
}

static void same_tensors(const char *ours, const char *theirs)
{
    struct pw_checkpoint *a, *b;
    struct pw_stored x, y;
    size_t i = 0;
    ck_ok(pw_checkpoint_open(&a, ours, NULL));
    ck_ok(pw_checkpoint_open(&b, theirs, NULL));
    for (; pw_checkpoint_at(b, i, &y); i++) {
        ck_assert(pw_checkpoint_at(a, i, &x));
        ck_assert_str_eq(x.name, y.name);
        ck_assert_msg(strcmp(x.dtype, y.dtype) == 0 && x.bytes == y.bytes && memcmp(x.data, y.data, x.bytes) == 0, "%s differs (%s, %s)", x.name, x.dtype, y.dtype);
    }
    ck_assert(i > 10 && !pw_checkpoint_at(a, i, &x));
    pw_checkpoint_close(a);
    pw_checkpoint_close(b);
}

/* Folder to file to folder: the same tensors, bit for bit (bf16 plus 1 fits into f32), and the same logits; and the fixture's own file to a folder. */
START_TEST(written_and_read_back)
{
    const char *name = names[_i], *dir = test_tmpdir(), *file = test_path(dir, "x.gguf"), *back = test_path(dir, "back"), *own = test_path(dir, "own");
    struct pw_dev *dev = cpu("");
    struct pw_quant_options o;
    struct golden w;
    struct pw_json text[3] = {{.out = {0}}, {.out = {0}}, {.out = {0}}};
    int64_t vocab;
    golden(&w, name);
    ck_ok(pw_quant_parse("f32", &o));
    ck_ok(pw_quant_gguf(dev, file_of(name, NULL), NULL, file, false, &o, NULL, NULL, NULL));
    ck_ok(pw_quant_parse("bf16", &o));
    ck_ok(pw_quant_folder(dev, file, NULL, back, false, &o, NULL, NULL, NULL));
    ck_ok(pw_quant_folder(dev, file_of(name, "model.gguf"), NULL, own, false, &o, NULL, NULL, NULL));
    float *x = logprobs_of(dev, file, w.ids, w.n, &vocab);
    ck_assert(off(&w, "torch", x, vocab) <= 2e-5);
    free(x);
    x = logprobs_of(dev, back, w.ids, w.n, &vocab);
    ck_assert(off(&w, "torch", x, vocab) <= 2e-5);
    free(x);
    same_tensors(back, file_of(name, NULL));
    same_tensors(own, file_of(name, NULL));
    config_text(file, &text[0]);
    config_text(file_of(name, "model.gguf"), &text[1]);
    config_text(back, &text[2]);
    for (int i = 1; i < 3; i++)
        ck_assert_msg(text[i].out.len == text[0].out.len && memcmp(text[i].out.data, text[0].out.data, text[0].out.len) == 0, "%.*s\nand\n%.*s",
                      (int)text[0].out.len, text[0].out.data, (int)text[i].out.len, text[i].out.data);
    for (int i = 0; i < 3; i++)
        pw_buf_free(&text[i].out);
    pw_dev_close(dev);
    pw_gguf_close(&w.g);
}
END_TEST

/* ---- adapters: those of tests/fixtures/families, which are of the same shapes ---- */

static const struct { const char *name, *adapter; double llama; } lora[] = {
    {"gemma2", "tests/fixtures/families/gemma2/adapter", 3 * 0x1p-10}, {"phi3", "tests/fixtures/families/phi3/adapter", 2e-5}};

/* As peft and llama.cpp compute it (bounds as above); the same from a GGUF adapter written here, and merged, into a file and into a folder. */
START_TEST(adapters)
{
    const char *name = lora[_i].name, *dir = test_tmpdir(), *own = test_path(dir, "lora.gguf"), *outs[2] = {test_path(dir, "merged.gguf"), test_path(dir, "merged")};
    struct pw_dev *dev = cpu("");
    struct pw_checkpoint *c;
    struct pw_adapter a;
    struct golden w;
    int64_t vocab;
    golden(&w, name);
    ck_ok(pw_checkpoint_open(&c, file_of(name, "model.gguf"), NULL));
    ck_ok(pw_adapter_load(&a, lora[_i].adapter, pw_checkpoint_config(c)));
    ck_ok(pw_gguf_lora_write(&a, own, pw_checkpoint_config(c), PW_F32, false));
    float *x = adapted(dev, file_of(name, "model.gguf"), lora[_i].adapter, w.ids, w.n, &vocab), *y = adapted(dev, file_of(name, "model.gguf"), own, w.ids, w.n, &vocab);
    const double torch = off(&w, "lora_torch", x, vocab), llama = off(&w, "lora_llama", x, vocab), gguf = logits_apart(x, y, w.n * vocab);
    printf("%s with an adapter: %.3g from peft, %.3g from llama.cpp, %.3g as a GGUF adapter\n", name, torch, llama, gguf);
    ck_assert_msg(torch <= 2e-5 && llama <= lora[_i].llama && gguf <= 2e-5, "%s: %g from peft, %g from llama.cpp, %g as a GGUF adapter", name, torch, llama, gguf);
    free(x);
    free(y);
    for (int i = 0; i < 2; i++) {
        const struct pw_merge_options o = {.to = {.type = PW_Q_DENSE, .dtype = PW_F32}, .gguf = i == 0};
        struct pw_merge_result r;
        ck_ok(pw_lora_merge_into(dev, c, &a, outs[i], &o, &r, NULL));
        x = logprobs_of(dev, outs[i], w.ids, w.n, &vocab);
        const double d = off(&w, "lora_torch", x, vocab);
        ck_assert_msg(d <= 2e-5, "%s: merged into a %s: %g from peft", name, i ? "folder" : "file", d);
        free(x);
    }
    pw_adapter_free(&a);
    pw_checkpoint_close(c);
    pw_gguf_close(&w.g);
    pw_dev_close(dev);
}
END_TEST

/* ---- keys and tensors changed ---- */

struct change { const char *key; double number; const char *text; const char *tensor, *as; };  /* of a tensor: dropped, renamed ("f16", "zero": what becomes of it) */

static const char *leaf(const char *path, const char *arch)
{
    const size_t n = strlen(arch);
    return strncmp(path, arch, n) == 0 && path[n] == '.' ? path + n + 1 : "";
}

/* The fixture's file with its key replaced (a number of 0 and no text: left out), or a tensor. */
static void changed(const char *path, const char *name, const struct change *e)
{
    struct pw_gguf g;
    struct pw_gguf_out w;
    char key[96];
    const struct pw_gguf_tensor *kept[128];
    size_t bytes[128], n = 0;
    ck_ok(pw_gguf_open(&g, file_of(name, "model.gguf")));
    ck_ok(pw_gguf_create(&w, path, true));
    for (size_t i = 0; i < g.n_pairs; i++) {
        const struct pw_gguf_pair *p = &g.pairs[i];
        if (e->key && strcmp(leaf(p->key, name), e->key) == 0)
            continue;
        const uint64_t len = strlen(p->key);
        const uint32_t type = p->type;
        ck_assert(p->type != PW_GGUF_ARRAY);
        pw_buf_add(&w.head, &len, 8);
        pw_buf_add(&w.head, p->key, len);
        pw_buf_add(&w.head, &type, 4);
        pw_buf_add(&w.head, p->data, (size_t)(p->end - p->data));
        w.n_pairs++;
    }
    snprintf(key, sizeof key, "%s.%s", name, e->key ? e->key : "");
    if (e->text)
        pw_gguf_put_str(&w, key, e->text, strlen(e->text));
    else if (e->key && strcmp(e->key, "attention.causal") == 0)
        pw_gguf_put_bool(&w, key, e->number > 0);
    else if (e->key && (strstr(e->key, "count") || strstr(e->key, "window")))
        pw_gguf_put_u32(&w, key, (uint32_t)e->number);
    else if (e->key && e->number != 0)
        pw_gguf_put_f32(&w, key, (float)e->number);
    for (size_t i = 0; i < g.n_tensors; i++) {
        const struct pw_gguf_tensor *t = &g.tensors[i];
        const bool it = e->tensor && strncmp(t->name, e->tensor, strlen(e->tensor)) == 0, half = it && e->as && strcmp(e->as, "f16") == 0;
        if (it && !e->as)
            continue;
        ck_ok(pw_gguf_add_tensor(&w, it && !half && strcmp(e->as, "zero") != 0 ? e->as : t->name, half ? PW_GGML_F16 : t->ggml, t->ndim, t->shape));
        ck_assert_uint_lt(n, 128);
        bytes[n] = half ? t->bytes / 2 : t->bytes;
        kept[n++] = t;
    }
    for (size_t i = 0; i < n; i++) {
        static const uint8_t zeros[64];
        const bool zero = e->as && strcmp(e->as, "zero") == 0 && strncmp(kept[i]->name, e->tensor, strlen(e->tensor)) == 0;
        ck_assert(!zero || bytes[i] <= sizeof zeros);
        ck_ok(pw_gguf_bytes(&w, zero ? zeros : kept[i]->data, bytes[i]));
    }
    ck_ok(pw_gguf_commit(&w));
    pw_gguf_close(&g);
}

static const struct { const char *name; struct change e; int code; const char *text; } bad[] = {
    {"gemma2", {.key = "attn_logit_softcapping", .number = -1}, PW_E_FORMAT, "gemma2.attn_logit_softcapping must be above 0 (got -1)"},
    {"gemma2", {.key = "attention.sliding_window_pattern", .number = 0}, PW_E_FORMAT, "gemma2.attention.sliding_window_pattern"},
    {"gemma2", {.key = "rope.freq_base_swa", .number = 5000}, PW_E_UNSUPPORTED, "gemma2.rope.freq_base_swa is not supported (expected that of the other layers, 10000, got 5000)"},
    {"gemma2", {.key = "attention.scale", .number = 0.5}, PW_E_UNSUPPORTED, "gemma2.attention.scale is not supported"},
    {"gemma2", {.tensor = "blk.1.post_ffw_norm.weight"}, PW_E_FORMAT, "model.layers.1.post_feedforward_layernorm.weight is missing"},
    {"gemma2", {.tensor = "blk.1.post_ffw_norm.weight", .as = "f16"}, PW_E_UNSUPPORTED, "model.layers.1.post_feedforward_layernorm.weight: expected one dimension of F32, got 1 of F16"},
    {"gemma2", {.tensor = "blk.1.ffn_norm.weight", .as = "rope_freqs.weight"}, PW_E_UNSUPPORTED, "rope_freqs.weight is not supported for gemma2"},
    {"gemma2", {.tensor = "blk.1.attn_norm.weight", .as = "blk.1.attn_norm.bias"}, PW_E_FORMAT, "model.layers.1.input_layernorm.weight is missing"},
    {"gemma3", {.key = "attn_logit_softcapping", .number = 50}, PW_E_UNSUPPORTED, "gemma3.attn_logit_softcapping is not supported"},
    {"gemma3", {.key = "rope.freq_base", .number = 0}, PW_E_FORMAT, "key gemma3.rope.freq_base is missing"},
    {"gemma3", {.key = "rope.scaling.type", .text = "yarn"}, PW_E_UNSUPPORTED, "gemma3.rope.scaling.type \"yarn\" is not supported (known: none, linear)"},
    {"gemma3", {.key = "attention.causal", .number = 0}, PW_E_UNSUPPORTED, "gemma3.attention.causal"},
    {"gemma3", {.key = "rope.dimension_count", .number = 6}, PW_E_UNSUPPORTED, "gemma3.rope.dimension_count: rotating a part of a head is not supported (expected 12, got 6)"},
    {"phi3", {.key = "rope.scaling.type", .text = "linear"}, PW_E_UNSUPPORTED, "phi3.rope.scaling.type \"linear\" is not supported here (known: none, longrope)"},
    {"phi3", {.key = "rope.scaling.factor", .number = 4}, PW_E_UNSUPPORTED, "phi3.rope.scaling.factor is not supported here"},
    {"phi3", {.key = "rope.scaling.attn_factor", .number = -2}, PW_E_FORMAT, "phi3.rope.scaling.attn_factor must be above 0 (got -2)"},
    {"phi3", {.key = "rope.dimension_count", .number = 12}, PW_E_FORMAT, "phi3.rope.dimension_count: expected an even number up to 8, got 12"},
    {"phi3", {.key = "rope.dimension_count", .number = 4}, PW_E_FORMAT, "rope_factors_short.weight: expected (2) F32"},
    {"phi3", {.key = "attention.sliding_window_pattern", .number = 2}, PW_E_UNSUPPORTED, "phi3.attention.sliding_window_pattern is not supported"},
    {"phi3", {.tensor = "rope_factors_long"}, PW_E_FORMAT, "tensor rope_factors_long.weight is missing"},
    {"phi3", {.tensor = "rope_factors"}, PW_E_UNSUPPORTED, "phi3.rope.scaling.attn_factor is not supported without rope_factors_short.weight"},
    {"phi3", {.key = "rope.scaling.type", .text = "longrope", .tensor = "rope_factors"}, PW_E_FORMAT, "phi3.rope.scaling.type is longrope, but tensor rope_factors_short.weight is missing"},
    {"phi3", {.tensor = "rope_factors_long", .as = "zero"}, PW_E_FORMAT, "rope_factors_long.weight[0] is 0"},
    {"phi3", {.tensor = "blk.0.attn_qkv.weight", .as = "blk.0.attn_q.weight"}, PW_E_FORMAT, "model.layers.0.self_attn.qkv_proj.weight is missing"},
    {"phi3", {.tensor = "blk.2.ffn_up.weight", .as = "blk.2.ffn_gate.weight"}, PW_E_FORMAT, "model.layers.2.mlp.gate_up_proj.weight is missing"},
};

START_TEST(refused)
{
    const char *path = test_path(test_tmpdir(), "bad.gguf");
    struct pw_dev *dev = cpu("");
    struct pw_model *m;
    changed(path, bad[_i].name, &bad[_i].e);
    ck_fails(pw_model_load(&m, dev, path, NULL), bad[_i].code, bad[_i].text);
    ck_assert_msg(strstr(pw_error_text(), "bad.gguf"), "%s", pw_error_text());
    pw_dev_close(dev);
}
END_TEST

/* Keys that change nothing, and one that does. */
START_TEST(keys_heard)
{
    static const struct { const char *name; struct change e; bool same; } cases[] = {
        {"gemma2", {.key = "attention.sliding_window_pattern", .number = 2}, true}, {"gemma2", {.key = "attention.sliding_window_pattern", .number = 3}, false},
        {"gemma2", {.key = "rope.freq_base_swa", .number = 10000}, true},           {"gemma2", {.key = "attention.sliding_window", .number = 8}, false},
        {"gemma3", {.key = "rope.scaling.type", .number = 0}, true},                {"gemma3", {.key = "rope.freq_base_swa", .number = 0}, true},
        {"gemma3", {.key = "attention.sliding_window_pattern", .number = 7}, false}, {"gemma3", {.key = "final_logit_softcapping", .number = 2}, false},
        {"phi3", {.key = "rope.scaling.type", .text = "longrope"}, true},           {"phi3", {.key = "rope.scaling.attn_factor", .number = 1}, false},
        {"phi3", {.key = "attention.sliding_window", .number = 0}, true},           {"phi3", {.key = "attention.sliding_window", .number = 20}, false}};
    const char *dir = test_tmpdir(), *path = test_path(dir, "x.gguf"), *back = test_path(dir, "back"), *again = test_path(dir, "again.gguf");
    struct pw_dev *dev = cpu("");
    struct pw_quant_options o;
    ck_ok(pw_quant_parse("f32", &o));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct golden w;
        int64_t vocab;
        golden(&w, cases[i].name);
        changed(path, cases[i].name, &cases[i].e);
        float *x = logprobs_of(dev, path, w.ids, w.n, &vocab);
        const double d = off(&w, "torch", x, vocab);
        ck_assert_msg(cases[i].same ? d <= 2e-5 : d > 1e-3 && d < 100, "case %zu: %g", i, d);
        ck_ok(pw_quant_folder(dev, path, NULL, back, true, &o, NULL, NULL, NULL));    /* and it outlives the way into a folder and back */
        ck_ok(pw_quant_gguf(dev, back, NULL, again, true, &o, NULL, NULL, NULL));
        float *y = logprobs_of(dev, again, w.ids, w.n, &vocab);
        ck_assert_msg(logits_apart(x, y, w.n * vocab) <= 1e-6, "case %zu: %g apart", i, logits_apart(x, y, w.n * vocab));
        free(x);
        free(y);
        pw_gguf_close(&w.g);
    }
    pw_dev_close(dev);
}
END_TEST

static void config_of(const char *path, struct pw_model_config *c)
{
    struct pw_gguf g;
    ck_ok(pw_gguf_open(&g, path));
    ck_ok(pw_gguf_config(&g, c));
    pw_gguf_close(&g);
}

/* What files do not say: caps and the window of Gemma 2, the scale of the two largest. */
START_TEST(silent_keys)
{
    static const struct change silent[] = {{.key = "attn_logit_softcapping"}, {.key = "final_logit_softcapping"}};
    const char *path = test_path(test_tmpdir(), "x.gguf");
    struct pw_model_config *c = pw_alloc(sizeof *c);
    ck_assert_ptr_nonnull(c);
    changed(path, "gemma2", &silent[0]);
    config_of(path, c);
    ck_assert(c->attn_softcap == 50 && c->logit_softcap == 6 && c->attn_scalar == 14 && pw_model_config_window(c, 0) == 9 && pw_model_config_window(c, 1) == 0);
    changed(path, "gemma2", &silent[1]);
    config_of(path, c);
    ck_assert(c->attn_softcap == 4 && c->logit_softcap == 30);
    changed(path, "gemma2", &(struct change){.key = "block_count", .number = 46});
    config_of(path, c);
    ck_assert(c->attn_scalar == 6);
    ck_close(c->attn_scale, 1 / sqrt(6), 0, 1e-12);
    changed(path, "gemma3", &(struct change){.key = "block_count", .number = 62});
    config_of(path, c);
    ck_assert(c->attn_scalar == 8 && pw_model_config_window(c, 59) == 0 && pw_model_config_window(c, 60) == 6);
    pw_free(c);
}
END_TEST

START_TEST(not_written)
{
    static const struct { const char *name, *text; } cases[] = {
        {"gemma2", "query_pre_attn_scalar 20 has no key in GGUF files: llama.cpp takes 14 for this gemma2 model"}, {"gemma3-new", "this rope scaling cannot be written as GGUF"}};
    const char *path = test_path(test_tmpdir(), "x.gguf");
    struct pw_dev *dev = cpu("");
    struct pw_quant_options o;
    char from[96];
    ck_ok(pw_quant_parse("f32", &o));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(from, sizeof from, "tests/fixtures/families/%s", cases[i].name);
        ck_fails(pw_quant_gguf(dev, from, NULL, path, false, &o, NULL, NULL, NULL), PW_E_UNSUPPORTED, cases[i].text);
        ck_assert(!pw_file_exists(path));
    }
    pw_dev_close(dev);
}
END_TEST

static int load_it(void *path)
{
    struct pw_checkpoint *c = NULL;
    const int rc = pw_checkpoint_open(&c, path, NULL);
    pw_checkpoint_close(c);
    return rc;
}
START_TEST(without_memory) { ck_assert(test_sweep_nomem(load_it, (void *)(uintptr_t)FAMILIES "gemma2/model.gguf") > 0); }
END_TEST

int main(void)
{
    Suite *s = suite_create("gguf families");
    TCase *t = tcase_create("gguf families");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, as_both_worlds, 0, 2 * NAMES);
    tcase_add_loop_test(t, written_and_read_back, 0, NAMES);
    tcase_add_loop_test(t, adapters, 0, (int)(sizeof lora / sizeof *lora));
    tcase_add_loop_test(t, refused, 0, (int)(sizeof bad / sizeof *bad));
    tcase_add_test(t, keys_heard);
    tcase_add_test(t, silent_keys);
    tcase_add_test(t, not_written);
    tcase_add_test(t, without_memory);
    suite_add_tcase(s, t);
    return test_run(s);
}
