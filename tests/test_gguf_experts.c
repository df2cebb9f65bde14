/* GGUF files of models with experts and of their adapters, written: logits against llama.cpp (tests/fixtures/gguf, made by tools/reference/gguf_models.py) and against the folder
 * they were made of, the tensors and keys that llama.cpp wants, merging, and what such files cannot hold. Live: tools/reference/check_gguf.py, check_lora.py. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "data/gguf_model.h"
#include "lora/adapter_file.h"
#include "lora/gguf_lora.h"
#include "lora/merge.h"
#include "lora/peft.h"
#include "quant/quant.h"
#include "tests/model_logits.h"
#include "tests/support.h"

#define FIXTURES "tests/fixtures/gguf/"
#define FAMILIES "tests/fixtures/families/"

static const char *const names[] = {"mixtral", "qwen3moe"};
static const int32_t some_ids[] = {1, 5, 9, 33, 2, 17, 8, 8, 3, 21, 39, 11, 7};
enum { SOME = sizeof some_ids / sizeof *some_ids };

static void write_as(struct pw_dev *dev, const char *from, const char *to, const char *type, bool gguf)
{
    struct pw_quant_options o;
    ck_ok(pw_quant_parse(type, &o));
    if (gguf)
        ck_ok(pw_quant_gguf(dev, from, NULL, to, false, &o, NULL, NULL, NULL));
    else
        ck_ok(pw_quant_folder(dev, from, NULL, to, false, &o, NULL, NULL, NULL));
}

/* How far a model, with an adapter or without, is from the logits that llama.cpp gave of the fixture. */
static double from_llama(struct pw_dev *dev, const char *name, const char *path, const char *adapter)
{
    char expected[128];
    struct pw_gguf g;
    const struct pw_gguf_pair *p;
    int32_t ids[LOGITS_MOST];
    int64_t vocab;
    snprintf(expected, sizeof expected, FIXTURES "%s%s.logits.gguf", adapter ? "lora/" : "", name);
    ck_ok(pw_gguf_open(&g, expected));
    ck_ok(pw_gguf_get_array(&g, "ids", PW_GGUF_I32, true, &p));
    ck_assert(p->n >= 1 && p->n <= LOGITS_MOST);
    for (uint64_t i = 0; i < p->n; i++)
        ids[i] = (int32_t)pw_gguf_int(p, i);
    float *ours = logits_with(dev, path, adapter, ids, (int)p->n, &vocab), *theirs;
    const struct pw_gguf_tensor *t = pw_gguf_tensor(&g, "logits");
    ck_assert(t && t->shape[0] == (int64_t)p->n && t->shape[1] == vocab);
    theirs = malloc(t->bytes);
    ck_assert_ptr_nonnull(theirs);
    memcpy(theirs, t->data, t->bytes);
    const double d = logits_apart(ours, theirs, (int64_t)p->n * vocab);
    free(ours);
    free(theirs);
    pw_gguf_close(&g);
    return d;
}

static double between(struct pw_dev *dev, const char *a, const char *adapter_a, const char *b, const char *adapter_b)
{
    int64_t vocab, other;
    float *x = logits_with(dev, a, adapter_a, some_ids, SOME, &vocab), *y = logits_with(dev, b, adapter_b, some_ids, SOME, &other);
    ck_assert_int_eq(vocab, other);
    const double d = logits_apart(x, y, SOME * vocab);
    free(x);
    free(y);
    return d;
}

static void same_folders(const char *a, const char *b) { test_same_file(test_path(a, "model.safetensors"), test_path(b, "model.safetensors")); }

/* A folder of the file, a file of the folder, a folder of that: the fixture's numbers to the last bit, in f32 that holds them all, and llama.cpp's logits on each.
 * The bound is that of test_gguf_model.c. */
START_TEST(there_and_back)
{
    char source[128];
    const char *name = names[_i], *dir = test_tmpdir(), *folder = test_path(dir, "folder"), *file = test_path(dir, "x.gguf"), *again = test_path(dir, "again");
    struct pw_dev *dev = logits_device("", 2);
    snprintf(source, sizeof source, FIXTURES "%s.gguf", name);
    write_as(dev, source, folder, "f32", false);
    write_as(dev, folder, file, "f32", true);
    write_as(dev, file, again, "f32", false);
    same_folders(folder, again);
    const double d = from_llama(dev, name, folder, NULL), e = from_llama(dev, name, file, NULL);
    printf("%s: logits of the folder %.3g from llama.cpp, of the file written %.3g\n", name, d, e);
    ck_assert_msg(d <= 1e-4 && e <= 1e-4, "%s: %g and %g from llama.cpp", name, d, e);
    pw_dev_close(dev);
}
END_TEST

static void shape_of(const struct pw_gguf *g, const char *name, int ndim, int64_t a, int64_t b, int64_t c)
{
    const struct pw_gguf_tensor *t = pw_gguf_tensor(g, name);
    ck_assert_msg(t && t->ndim == ndim && t->shape[0] == a && t->shape[1] == b && (ndim < 3 || t->shape[2] == c), "%s is not as expected", name);
}

/* One tensor for each linear of all experts, a router in f32, keys; and a file of what it is already is copied, block for block. */
START_TEST(tensors_and_keys)
{
    static const char *const types[] = {"f16", "q8_0", "q4_0", "q4_K", "q6_K"};
    struct pw_dev *dev = logits_device("", 2);
    const char *dir = test_tmpdir(), *folder = test_path(dir, "folder");
    const bool moe = _i == 1;
    const int64_t experts = moe ? 6 : 4, ffn = moe ? 32 : 96;
    char source[128], text[64];
    snprintf(source, sizeof source, FIXTURES "%s.gguf", names[_i]);
    write_as(dev, source, folder, "f32", false);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct pw_gguf g;
        int64_t n = 0;
        snprintf(text, sizeof text, "%s.gguf", types[i]);
        const char *file = test_path(dir, text);
        write_as(dev, folder, file, types[i], true);
        ck_ok(pw_gguf_open(&g, file));
        shape_of(&g, "blk.0.ffn_gate_exps.weight", 3, experts, ffn, 64);
        shape_of(&g, "blk.0.ffn_up_exps.weight", 3, experts, ffn, 64);
        shape_of(&g, "blk.0.ffn_down_exps.weight", 3, experts, 64, ffn);
        shape_of(&g, "blk.0.ffn_gate_inp.weight", 2, experts, 64, 0);
        ck_assert_str_eq(pw_gguf_tensor(&g, "blk.0.ffn_gate_inp.weight")->stored, "F32");
        ck_assert_str_eq(pw_gguf_tensor(&g, "blk.0.ffn_up_exps.weight")->stored, i == 0 ? "F16" : i == 2 ? "Q4_0" : "Q8_0");   /* rows of 64: no blocks of 256 */
        snprintf(text, sizeof text, "%s.expert_count", moe ? "qwen3moe" : "llama");
        ck_ok(pw_gguf_get_i64(&g, text, true, experts, experts, &n));
        snprintf(text, sizeof text, "%s.expert_used_count", moe ? "qwen3moe" : "llama");
        ck_ok(pw_gguf_get_i64(&g, text, true, moe ? 3 : 2, moe ? 3 : 2, &n));
        ck_assert(moe == (pw_gguf_find(&g, "qwen3moe.expert_feed_forward_length") != NULL));
        pw_gguf_close(&g);
        if (i == 1 || i == 2) {
            const char *copy = test_path(dir, "copy.gguf"), *wide[2] = {test_path(dir, i == 1 ? "w1" : "w2"), test_path(dir, i == 1 ? "w3" : "w4")};
            struct pw_quant_options o;
            ck_ok(pw_quant_parse(types[i], &o));
            ck_ok(pw_quant_gguf(dev, file, NULL, copy, true, &o, NULL, NULL, NULL));
            write_as(dev, file, wide[0], "f32", false);
            write_as(dev, copy, wide[1], "f32", false);
            same_folders(wide[0], wide[1]);
            ck_assert(between(dev, file, NULL, wide[0], NULL) <= 1e-4);
            ck_assert(between(dev, file, NULL, folder, NULL) > 1e-3);
        }
    }
    pw_dev_close(dev);
}
END_TEST

/* What transformers wrote, as a file: the logits of the folder; and merged with an adapter of all linears, those of the adapter. */
START_TEST(merged)
{
    const char *dir = test_tmpdir(), *base = FAMILIES "mixtral", *adapter = FAMILIES "mixtral/adapter", *file = test_path(dir, "base.gguf"), *out = test_path(dir, "merged.gguf");
    struct pw_dev *dev = logits_device("", 1);
    write_as(dev, base, file, "f32", true);
    double d = between(dev, base, NULL, file, NULL);
    ck_assert_msg(d <= 2e-5, "%g between folder and file", d);
    for (int from = 0; from < 2; from++) {
        const struct pw_merge_options o = {.to = {.type = PW_Q_DENSE, .dtype = PW_F32}, .gguf = true, .force = true};
        struct pw_merge_result r;
        struct pw_checkpoint *c;
        struct pw_adapter a;
        ck_ok(pw_checkpoint_open(&c, from ? file : base, NULL));
        struct pw_model_config shape = *pw_checkpoint_config(c);
        ck_ok(pw_gguf_permutes(&shape, &shape.rope_interleaved));
        ck_ok(pw_adapter_load(&a, adapter, &shape));
        ck_ok(pw_lora_merge_into(dev, c, &a, out, &o, &r, NULL));
        ck_assert_uint_eq(r.modules, 2 * (4 + 4 * 3));
        d = between(dev, base, adapter, out, NULL);
        printf("mixtral merged into a file, of a %s: %.3g from the adapter, which moves logits by %.3g\n", from ? "file" : "folder", d, between(dev, base, NULL, out, NULL));
        ck_assert_msg(d <= 2e-5, "%g between adapter and merged file", d);
        ck_assert(between(dev, base, NULL, out, NULL) > 0.1);
        pw_adapter_free(&a);
        pw_checkpoint_close(c);
    }
    pw_dev_close(dev);
}
END_TEST

/* ---- adapters ---- */

/* Pairs of all experts in one tensor: llama.cpp's logits, on the file and on the folder of it; written and read again, and as a PEFT folder. */
START_TEST(adapters)
{
    const char *name = names[_i], *dir = test_tmpdir(), *folder = test_path(dir, "folder"), *again = test_path(dir, "again.gguf"), *peft = test_path(dir, "peft");
    struct pw_dev *dev = logits_device("", 2);
    struct pw_adapter a, looked;
    struct pw_checkpoint *c;
    char base[128], lora[128];
    snprintf(base, sizeof base, FIXTURES "%s.gguf", name);
    snprintf(lora, sizeof lora, FIXTURES "lora/%s.gguf", name);
    write_as(dev, base, folder, "f32", false);
    const double d = from_llama(dev, name, base, lora), e = from_llama(dev, name, folder, lora);
    printf("%s with an adapter of all experts: logits %.3g from llama.cpp, on a folder %.3g\n", name, d, e);
    ck_assert_msg(d <= 2e-4 && e <= 2e-4, "%s: %g and %g from llama.cpp", name, d, e);
    ck_ok(pw_adapter_load(&looked, lora, NULL));
    ck_assert_uint_eq(looked.n, 1 + 3 * (_i ? 6 : 4));
    ck_assert_str_eq(looked.modules[1].name, "model.layers.0.mlp.experts.0.gate_proj");
    ck_assert_str_eq(looked.modules[4].name, "model.layers.0.mlp.experts.1.gate_proj");
    pw_adapter_free(&looked);
    ck_ok(pw_checkpoint_open(&c, base, NULL));
    ck_ok(pw_adapter_load(&a, lora, pw_checkpoint_config(c)));
    ck_assert_str_eq(a.config.targets, _i ? "q_proj,gate_proj,up_proj,down_proj" : "q_proj,w1,w3,w2");
    ck_ok(pw_gguf_lora_write(&a, again, pw_checkpoint_config(c), PW_F32, false));
    ck_ok(pw_dir_make(peft));
    ck_ok(pw_peft_write(&a, peft));
    ck_assert(between(dev, base, lora, base, again) == 0 && between(dev, base, lora, base, peft) <= 1e-6);
    ck_ok(pw_gguf_lora_write(&a, again, pw_checkpoint_config(c), PW_F16, true));
    const double half = between(dev, base, lora, base, again);       /* the fixture's numbers are of 8 bits: only those below 2^-14 are rounded */
    ck_assert_msg(half <= 1e-4, "in f16: %g", half);
    /* another number of experts; pairs of some experts alone; of different ranks */
    struct pw_model_config other = *pw_checkpoint_config(c);
    other.experts++;
    ck_fails(pw_adapter_load(&looked, lora, &other), PW_E_FORMAT, "the adapter is for another base (expected ");
    const size_t n = a.n;
    a.n--;
    ck_fails(pw_gguf_lora_write(&a, test_path(dir, "x.gguf"), pw_checkpoint_config(c), PW_F32, false), PW_E_UNSUPPORTED,
             "GGUF files hold the pairs of all experts of a layer in one tensor (expected a pair of rank 2, got none)");
    a.n = n;
    a.modules[5].lora.r = 1;
    ck_fails(pw_gguf_lora_write(&a, test_path(dir, "x.gguf"), pw_checkpoint_config(c), PW_F32, false), PW_E_UNSUPPORTED, "(expected a pair of rank 2, got another rank)");
    a.modules[5].lora.r = 2;
    a.modules += 4, a.n -= 4;
    ck_fails(pw_gguf_lora_write(&a, test_path(dir, "x.gguf"), pw_checkpoint_config(c), PW_F32, false), PW_E_UNSUPPORTED, "this adapter has them for some alone");
    ck_assert(!pw_file_exists(test_path(dir, "x.gguf")));
    pw_adapter_free(&a);
    pw_checkpoint_close(c);
    pw_dev_close(dev);
}
END_TEST

/* Ranks and scales of their own in what peft wrote: in the file they are multiplied into B. */
START_TEST(scales)
{
    const char *dir = test_tmpdir(), *file = test_path(dir, "lora.gguf"), *base = test_path(dir, "base.gguf");
    struct pw_dev *dev = logits_device("", 1);
    struct pw_adapter a;
    struct pw_checkpoint *c;
    write_as(dev, FAMILIES "mixtral", base, "f32", true);
    ck_ok(pw_checkpoint_open(&c, FAMILIES "mixtral", NULL));
    ck_ok(pw_adapter_load(&a, FAMILIES "mixtral/adapter", pw_checkpoint_config(c)));
    ck_ok(pw_gguf_lora_write(&a, file, pw_checkpoint_config(c), PW_F32, false));
    ck_assert(between(dev, FAMILIES "mixtral", FAMILIES "mixtral/adapter", base, file) <= 2e-5);
    ck_assert(between(dev, FAMILIES "mixtral", NULL, base, file) > 0.1);
    pw_adapter_free(&a);
    ck_ok(pw_adapter_load(&a, FAMILIES "mixtral/adapter", pw_checkpoint_config(c)));
    for (size_t i = 0; i < a.n; i++)
        a.modules[i].lora.scale *= 1 + (double)(i % 5);
    ck_ok(pw_gguf_lora_write(&a, file, pw_checkpoint_config(c), PW_F32, true));
    struct pw_adapter back;
    ck_ok(pw_adapter_load(&back, file, pw_checkpoint_config(c)));
    ck_assert_uint_eq(back.n, a.n);
    for (size_t i = 0; i < a.n; i++) {
        const struct pw_adapter_module *p = &a.modules[i], *q = &back.modules[i];
        ck_assert_str_eq(p->name, q->name);
        for (int64_t k = 0; k < pw_count(p->lora.b); k++)
            ck_close(p->lora.scale * ((float *)p->lora.b.data)[k], q->lora.scale * ((float *)q->lora.b.data)[k], 0, 3e-7);
    }
    pw_adapter_free(&a);
    pw_adapter_free(&back);
    pw_checkpoint_close(c);
    pw_dev_close(dev);
}
END_TEST

/* ---- what cannot be ---- */

/* A copy of a family's folder with one word of its config replaced. */
static void folder_with(const char *family, const char *dir, const char *from, const char *to)
{
    char path[128];
    size_t n;
    struct pw_buf b = {0};
    snprintf(path, sizeof path, FAMILIES "%s/config.json", family);
    char *text = test_slurp(path, &n), *at = strstr(text, from);
    ck_assert_ptr_nonnull(at);
    pw_buf_printf(&b, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    ck_ok(pw_dir_make(dir));
    ck_ok(pw_file_write(test_path(dir, "config.json"), b.data, b.len, false));
    pw_buf_free(&b);
    pw_free(text);
    snprintf(path, sizeof path, FAMILIES "%s/model.safetensors", family);
    text = test_slurp(path, &n);
    ck_ok(pw_file_write(test_path(dir, "model.safetensors"), text, n, false));
    pw_free(text);
}

START_TEST(not_written)
{
    struct pw_dev *dev = logits_device("", 1);
    const char *dir = test_tmpdir(), *other = test_path(dir, "other"), *out = test_path(dir, "x.gguf");
    struct pw_quant_options o;
    ck_ok(pw_quant_parse("f16", &o));
    ck_fails(pw_quant_gguf(dev, FAMILIES "qwen3-moe", NULL, out, false, &o, NULL, NULL, NULL), PW_E_UNSUPPORTED,
             "layer 1 has no experts, and llama.cpp expects them in every layer of a qwen3moe model");
    ck_fails(pw_quant_gguf(dev, FAMILIES "qwen3-moe-joined", NULL, out, false, &o, NULL, NULL, NULL), PW_E_UNSUPPORTED, "layer 0 has no experts");
    char source[] = FIXTURES "qwen3moe.gguf";
    write_as(dev, source, test_path(dir, "moe"), "f32", false);
    size_t n;
    char *text = test_slurp(test_path(test_path(dir, "moe"), "config.json"), &n), *at = strstr(text, "\"norm_topk_prob\": true");
    ck_assert_ptr_nonnull(at);
    memcpy(at + strlen("\"norm_topk_prob\": "), "null", 4);
    ck_ok(pw_file_write(test_path(test_path(dir, "moe"), "config.json"), text, n, true));
    pw_free(text);
    ck_fails(pw_quant_gguf(dev, test_path(dir, "moe"), NULL, out, false, &o, NULL, NULL, NULL), PW_E_UNSUPPORTED, "norm_topk_prob false has no key in GGUF files");
    folder_with("mixtral", other, "\"num_local_experts\": 4", "\"num_local_experts\": 3");
    ck_fails(pw_quant_gguf(dev, other, NULL, out, false, &o, NULL, NULL, NULL), PW_E_FORMAT, "expert");
    ck_assert(!pw_file_exists(out));
    pw_dev_close(dev);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("gguf experts");
    TCase *t = tcase_create("gguf experts");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, there_and_back, 0, 2);
    tcase_add_loop_test(t, tensors_and_keys, 0, 2);
    tcase_add_test(t, merged);
    tcase_add_loop_test(t, adapters, 0, 2);
    tcase_add_test(t, scales);
    tcase_add_test(t, not_written);
    suite_add_tcase(s, t);
    return test_run(s);
}
