/* GGUF models: logits against llama.cpp (tests/fixtures/gguf, made by tools/reference/gguf_models.py), written and read back in every type,
 * training on them against PyTorch and against the same weights in a folder, merging, tokenizers, and what is refused. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/value.h"
#include "data/gguf_model.h"
#include "data/tok_gguf.h"
#include "lora/merge.h"
#include "lora/peft.h"
#include "quant/quant.h"
#include "tests/model_logits.h"
#include "tests/support.h"
#include "train/run.h"
#include "train/runlog.h"

#define FIXTURES "tests/fixtures/gguf/"
#define GOLDEN "tests/fixtures/train_golden"

static struct pw_dev *cpu(const char *level) { return logits_device(level, 2); }

/* ---- reading ---- */

static const char *const names[] = {"llama", "qwen2", "mixtral", "qwen3moe", "qwen3"};
enum { NAMES = sizeof names / sizeof *names };
static const char *const levels[] = {"generic", ""};

/* Both sums run in f32 in other orders: 2 layers of sums of 256 terms, about 100 roundings of 2^-24 of values that the norms keep near 1, times
 * the head's gain (logits up to 12 and 28). */
START_TEST(logits_as_llama_cpp)
{
    char path[128], expected[128];
    const char *name = names[_i % NAMES];
    struct pw_dev *dev = cpu(levels[_i / NAMES]);
    struct pw_gguf g;
    const struct pw_gguf_pair *p;
    int32_t ids[64];
    int64_t vocab;
    snprintf(path, sizeof path, FIXTURES "%s.gguf", name);
    snprintf(expected, sizeof expected, FIXTURES "%s.logits.gguf", name);
    ck_ok(pw_gguf_open(&g, expected));
    ck_ok(pw_gguf_get_array(&g, "ids", PW_GGUF_I32, true, &p));
    const int n = (int)p->n;
    for (int i = 0; i < n; i++)
        ids[i] = (int32_t)pw_gguf_int(p, (uint64_t)i);
    float *ours = logits_of(dev, path, ids, n, &vocab), *theirs = malloc((size_t)(n * vocab) * 4);
    const struct pw_gguf_tensor *t = pw_gguf_tensor(&g, "logits");
    ck_assert(t && t->shape[0] == n && t->shape[1] == vocab);
    memcpy(theirs, t->data, t->bytes);
    const double d = logits_apart(ours, theirs, n * vocab);
    printf("%s %s: largest difference of a logit from llama.cpp %.3g\n", name, dev->level, d);
    ck_assert_msg(d <= 1e-4, "%s: %g", name, d);
    free(ours);
    free(theirs);
    pw_gguf_close(&g);
    pw_dev_close(dev);
}
END_TEST

START_TEST(what_it_is)
{
    struct pw_checkpoint *c;
    ck_ok(pw_checkpoint_open(&c, FIXTURES "llama.gguf", NULL));
    const struct pw_model_config *m = pw_checkpoint_config(c);
    ck_assert_str_eq(m->family, "llama");
    ck_assert(m->rope_interleaved && !m->tied && m->heads == 8 && m->kv_heads == 2 && m->head_dim == 32 && m->vocab == 80 && m->context == 64);
    ck_assert(m->rope_scaling == PW_ROPE_LLAMA3 && m->rope_factor == 8 && m->rope_original_context == 8192 && m->rope_theta == 500000);
    ck_close(m->norm_eps, 1e-5, 0, 1e-7);
    ck_assert(strncmp(pw_checkpoint_format(c), "GGUF, ", 6) == 0);
    ck_assert(pw_checkpoint_tokenizer(c) == NULL);
    pw_checkpoint_close(c);
    ck_ok(pw_checkpoint_open(&c, FIXTURES "qwen2.gguf", NULL));
    m = pw_checkpoint_config(c);
    ck_assert(!m->rope_interleaved && m->tied && m->qkv_bias && !m->o_bias && m->rope_scaling == PW_ROPE_PLAIN);
    pw_checkpoint_close(c);
}
END_TEST

START_TEST(tensor_names)
{
    char out[160], back[160];
    ck_assert(pw_gguf_name_to_hf("llama", "blk.31.attn_q.weight", out));
    ck_assert_str_eq(out, "model.layers.31.self_attn.q_proj.weight");
    ck_assert(pw_gguf_name_from_hf("llama", out, back));
    ck_assert_str_eq(back, "blk.31.attn_q.weight");
    ck_assert(pw_gguf_name_to_hf("llama", "blk.0.attn_k.bias", out));
    ck_assert_str_eq(out, "model.layers.0.self_attn.k_proj.bias");
    ck_assert(!pw_gguf_name_to_hf("llama", "blk.01.attn_k.bias", out) && !pw_gguf_name_to_hf("llama", "blk..attn_k.bias", out) && !pw_gguf_name_to_hf("llama", "blk.1.attn_kk.bias", out) &&
              !pw_gguf_name_to_hf("llama", "blk.1.attn_k.scale", out) && !pw_gguf_name_to_hf("llama", "output.bias", out));
}
END_TEST

/* ---- writing ---- */

static const int32_t some_ids[] = {1, 5, 9, 60, 33, 2, 17, 44, 8, 8, 3, 21, 59, 40, 11, 7};
enum { SOME = sizeof some_ids / sizeof *some_ids };

static void to_folder(struct pw_dev *dev, const char *from, const char *to)
{
    struct pw_quant_options o;
    ck_ok(pw_quant_parse("f32", &o));
    ck_ok(pw_quant_folder(dev, from, NULL, to, false, &o, NULL, NULL, NULL));
}

static void to_gguf(struct pw_dev *dev, const char *from, const char *tokenizer, const char *to, const char *type)
{
    const struct pw_checkpoint_options copt = {.tokenizer = tokenizer};
    struct pw_quant_options o;
    ck_ok(pw_quant_parse(type, &o));
    ck_ok(pw_quant_gguf(dev, from, &copt, to, false, &o, NULL, NULL, NULL));
}

static void same_logits(struct pw_dev *dev, const char *a, const char *b, double bound)
{
    int64_t vocab, other;
    float *x = logits_of(dev, a, some_ids, SOME, &vocab), *y = logits_of(dev, b, some_ids, SOME, &other);
    ck_assert_int_eq(vocab, other);
    const double d = logits_apart(x, y, SOME * vocab);
    ck_assert_msg(d <= bound, "%s and %s: %g apart (bound %g)", a, b, d, bound);
    free(x);
    free(y);
}

static void add_size(void *ctx, const struct pw_quant_report *r)
{
    double *worst = ctx;
    if (!(r->rmse <= *worst))
        *worst = r->rmse;
}

/* Rows of the embedding are read from the file's blocks, and a tied head is the same bytes: what is made while loading is norms and biases. */
START_TEST(embedding_in_blocks)
{
    static const char *const files[] = {FIXTURES "llama.gguf", FIXTURES "qwen2.gguf"}; /* the second's head is tied */
    const char *hf = test_path(test_tmpdir(), "hf"), *path = test_path(test_tmpdir(), "q8_0.gguf");
    struct pw_dev *dev;
    struct pw_model *m;
    ck_ok(pw_dev_open(&dev, NULL));
    to_folder(dev, files[_i], hf);
    to_gguf(dev, hf, NULL, path, "q8_0");
    ck_ok(pw_model_load(&m, dev, path, NULL));
    const struct pw_model_config *c = &m->config;
    const size_t norms = (size_t)(2 * c->layers + 1) * pw_pool_round((size_t)c->hidden * 4), biases = c->qkv_bias ? (size_t)c->layers * 3 * pw_pool_round((size_t)(c->heads * c->head_dim) * 4) : 0;
    ck_assert_msg(m->embed.type != PW_Q_DENSE, "the embedding is dense");
    ck_assert_uint_le(m->pool.bytes, norms + biases);
    ck_assert_int_eq(c->tied, _i);
    ck_assert(!c->tied || m->head.data == m->embed.data);
    ck_assert_uint_lt(pw_weight_bytes(&m->embed), (size_t)(c->vocab * c->hidden) * 2);
    pw_model_free(m);
    pw_dev_close(dev);
}
END_TEST

/* A folder from a GGUF file, files of every type from the folder, and a folder from each of these: logits stay what the blocks say. Sums of the
 * folder's q and k rows run in another order (the pairs): 1e-4 as above. */
START_TEST(written_in_every_type)
{
    static const struct { const char *type; double worst; } types[] = {{"f32", 0}, {"f16", 4e-4}, {"bf16", 3e-3}, {"q8_0", 3e-3}, {"q4_0", 5e-2}, {"q4_K", 5e-2}, {"q6_K", 8e-3}};
    const char *dir = test_tmpdir(), *source = _i ? FIXTURES "qwen2.gguf" : FIXTURES "llama.gguf", *hf = test_path(dir, "hf");
    struct pw_dev *dev = cpu("");
    to_folder(dev, source, hf);
    same_logits(dev, source, hf, 1e-4);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        char name[64];
        struct pw_quant_options o;
        struct pw_checkpoint *c, *d;
        char a[65], b[65];
        double worst = 0;
        snprintf(name, sizeof name, "%s.gguf", types[i].type);
        const char *file = test_path(dir, name);
        ck_ok(pw_quant_parse(types[i].type, &o));
        ck_ok(pw_quant_gguf(dev, hf, NULL, file, false, &o, add_size, &worst, NULL));
        ck_assert_msg(worst <= types[i].worst && (worst > 0 || i == 0), "%s: rmse of a tensor %g (bound %g)", types[i].type, worst, types[i].worst);
        ck_fails(pw_quant_gguf(dev, hf, NULL, file, false, &o, NULL, NULL, NULL), PW_E_REFUSED, "");
        snprintf(name, sizeof name, "%s.back", types[i].type);
        to_folder(dev, file, test_path(dir, name));
        same_logits(dev, file, test_path(dir, name), 1e-4);
        if (i == 0)
            same_logits(dev, file, hf, 1e-4);
        ck_ok(pw_checkpoint_open(&c, hf, NULL));
        ck_ok(pw_checkpoint_open(&d, file, NULL));
        ck_ok(pw_checkpoint_identity(c, a));
        ck_ok(pw_checkpoint_identity(d, b));
        ck_assert_str_eq(a, b);
        ck_assert(pw_checkpoint_config(c)->rope_scaling == pw_checkpoint_config(d)->rope_scaling && pw_checkpoint_config(c)->rope_factor == pw_checkpoint_config(d)->rope_factor);
        pw_checkpoint_close(c);
        pw_checkpoint_close(d);
    }
    pw_dev_close(dev);
}
END_TEST

START_TEST(not_written)
{
    const char *dir = test_tmpdir();
    struct pw_dev *dev = cpu("");
    struct pw_quant_options o;
    ck_ok(pw_quant_parse("q4_K", &o));
    ck_fails(pw_quant_gguf(dev, FIXTURES "llama.gguf", NULL, test_path(dir, "x.gguf"), false, &o, NULL, NULL, NULL), PW_E_UNSUPPORTED, "it is quantised already");
    ck_assert(!pw_file_exists(test_path(dir, "x.gguf")));
    ck_ok(pw_quant_parse("nf4", &o));
    ck_fails(pw_quant_gguf(dev, FIXTURES "llama.gguf", NULL, test_path(dir, "x.gguf"), false, &o, NULL, NULL, NULL), PW_E_USAGE, "nf4 does not exist in GGUF files");
    /* dense is fine, and so is what the matrices are already */
    to_gguf(dev, FIXTURES "llama.gguf", NULL, test_path(dir, "a.gguf"), "f32");
    to_gguf(dev, test_path(dir, "a.gguf"), NULL, test_path(dir, "b.gguf"), "q8_0");
    to_gguf(dev, test_path(dir, "b.gguf"), NULL, test_path(dir, "c.gguf"), "q8_0");
    same_logits(dev, test_path(dir, "b.gguf"), test_path(dir, "c.gguf"), 0);
    pw_dev_close(dev);
}
END_TEST

/* ---- training ---- */

static void copy_file(const char *from, const char *dir, const char *name)
{
    size_t n;
    char *text = test_slurp(from, &n);
    ck_ok(pw_file_write(test_path(dir, name), text, n, true));
    pw_free(text);
}

static void train(struct pw_dev *dev, const char *model, const char *more, int steps, const char *output)
{
    struct pw_recipe recipe;
    struct pw_run run;
    struct pw_run_result result;
    char text[2048];
    snprintf(text, sizeof text,
             "model: %s\nadapter: {r: 4, alpha: 8, dropout: 0.0, targets: all-linear%s}\n"
             "data: {train: %s, format: completion, max_length: 40, packing: false, shuffle: false}\n"
             "train: {steps: %d, batch_size: 2, accumulate: 2, %s, clip: 1, betas: [0.9, 0.999], eps: 1.0e-8, save_every: 0, eval_every: 0}\noutput: %s\n",
             model, more ? ", init_from: " GOLDEN "/adapter_init" : "", GOLDEN "/rows.jsonl", steps, more ? more : "lr: 1e-3", output);
    ck_ok(pw_recipe_parse(&recipe, text, strlen(text), "test", NULL, 0));
    const struct pw_run_options opt = {.recipe = &recipe, .dev = dev};
    ck_ok(pw_run_open(&run, &opt));
    ck_ok(pw_run_train(&run, &result));
    ck_assert_int_eq(result.steps, steps);
    pw_run_close(&run);
    pw_recipe_free(&recipe);
}

static double distance(struct pw_tensor ours, struct pw_tensor theirs)
{
    const float *x = ours.data, *y = theirs.data;
    double d = 0, norm = 0;
    for (int64_t i = 0; i < pw_count(ours); i++) {
        d += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        norm += (double)y[i] * (double)y[i];
    }
    return sqrt(d / norm);
}

static double adapters_apart(const char *ours, const char *theirs)
{
    struct pw_adapter a, b;
    double most = 0;
    ck_ok(pw_peft_load(&a, ours, NULL));
    ck_ok(pw_peft_load(&b, theirs, NULL));
    ck_assert_uint_eq(a.n, 14);
    ck_assert_uint_eq(b.n, 14);
    for (size_t i = 0; i < a.n; i++) {
        const struct pw_adapter_module *m = pw_adapter_find(&b, a.modules[i].name);
        ck_assert_ptr_nonnull(m);
        const double d = fmax(distance(a.modules[i].lora.a, m->lora.a), distance(a.modules[i].lora.b, m->lora.b));
        if (!(d <= most))
            most = d;
    }
    pw_adapter_free(&a);
    pw_adapter_free(&b);
    return most;
}

static double number(const struct pw_value *map, const char *key)
{
    double x = NAN;
    ck_ok(pw_get_f64(map, key, "golden.json", &x));
    return x;
}

/* The 20 steps of PyTorch and peft (tests/test_train_golden.c), on the same model as a GGUF file: its rows are in another order, the adapter
 * read and the adapter written are not. */
START_TEST(trained_as_pytorch)
{
    struct pw_dev *dev = cpu("");
    const char *dir = test_tmpdir(), *file = test_path(dir, "golden.gguf"), *output = test_path(dir, "run");
    struct pw_arena a;
    struct pw_value *all = NULL;
    struct pw_log_line *lines = NULL;
    size_t n = 0;
    double worst = 0;
    char more[512];
    const char *schedule = NULL;
    pw_arena_init(&a);
    ck_ok(pw_json_load(&a, GOLDEN "/golden.json", &all));
    const struct pw_value *one = pw_get(all, "dense"), *r = pw_get(one, "recipe"), *want = pw_get(one, "log");
    ck_ok(pw_get_str(r, "schedule", "golden.json", &schedule));
    to_gguf(dev, GOLDEN "/model", NULL, file, "f32");
    snprintf(more, sizeof more, "lr: %.17g, warmup: %.17g, schedule: %s, weight_decay: %.17g", number(r, "lr"), number(r, "warmup"), schedule, number(r, "weight_decay"));
    train(dev, file, more, 20, output);
    ck_ok(pw_runlog_read(&a, test_path(output, "log.jsonl"), &lines, &n));
    ck_assert(n == 20 && want->len == 20);
    for (size_t i = 0; i < n; i++) {
        ck_close(lines[i].s.loss, number(&want->items[i], "loss"), 0, 1e-5);
        worst = fmax(worst, fabs(lines[i].s.loss / number(&want->items[i], "loss") - 1));
    }
    const double d = adapters_apart(test_path(output, "adapter"), GOLDEN "/final-dense");
    printf("GGUF base: losses within %.3g of PyTorch's, adapter within %.3g of peft's\n", worst, d);
    ck_assert_msg(d <= 1e-5, "the adapter is %g away", d);
    pw_arena_free(&a);
    pw_dev_close(dev);
}
END_TEST

/* A base in blocks trains as the same numbers in f32 do. */
START_TEST(trained_on_blocks)
{
    static const char *const types[] = {"q4_K", "q8_0"};
    struct pw_dev *dev = cpu("");
    const char *dir = test_tmpdir(), *hf = test_path(dir, "hf"), *file = test_path(dir, "base.gguf"), *wide = test_path(dir, "wide");
    struct pw_arena a;
    struct pw_log_line *x = NULL, *y = NULL;
    size_t n = 0, m = 0;
    enum { STEPS = 22 };         /* two passes over the 42 rows, four at a time */
    pw_arena_init(&a);
    to_folder(dev, FIXTURES "llama.gguf", hf);
    to_gguf(dev, hf, GOLDEN "/model", file, types[_i]);
    to_folder(dev, file, wide);
    copy_file(GOLDEN "/model/tokenizer.json", wide, "tokenizer.json");
    copy_file(GOLDEN "/model/tokenizer_config.json", wide, "tokenizer_config.json");
    train(dev, file, NULL, STEPS, test_path(dir, "a"));
    train(dev, wide, NULL, STEPS, test_path(dir, "b"));
    ck_ok(pw_runlog_read(&a, test_path(test_path(dir, "a"), "log.jsonl"), &x, &n));
    ck_ok(pw_runlog_read(&a, test_path(test_path(dir, "b"), "log.jsonl"), &y, &m));
    ck_assert(n == STEPS && m == STEPS);
    double first = 0, last = 0;
    for (size_t i = 0; i < n; i++) {
        ck_close(x[i].s.loss, y[i].s.loss, 0, 1e-5);
        ck_close(x[i].s.grad_norm, y[i].s.grad_norm, 0, 1e-4);
        first += i < 5 ? x[i].s.loss / 5 : 0;
        last += i >= n - 5 ? x[i].s.loss / 5 : 0;
    }
    ck_assert_msg(last < first - 0.5, "the loss went from %g to %g", first, last);
    /* Adam divides by the gradient's size: an element near zero may take another way from rounding alone */
    const double d = adapters_apart(test_path(test_path(dir, "a"), "adapter"), test_path(test_path(dir, "b"), "adapter"));
    printf("%s: loss %.4f to %.4f, adapters %.3g apart\n", types[_i], first, last, d);
    ck_assert_msg(d <= 1e-4, "%g", d);
    pw_arena_free(&a);
    pw_dev_close(dev);
}
END_TEST

/* Merging into the folder of a GGUF base gives the bytes of merging into the folder it was made of. */
START_TEST(merged)
{
    struct pw_dev *dev = cpu("");
    const char *dir = test_tmpdir(), *file = test_path(dir, "golden.gguf"), *models[2] = {GOLDEN "/model", file}, *outs[2] = {"m0", "m1"};
    char *bytes[2];
    size_t n[2];
    to_gguf(dev, GOLDEN "/model", NULL, file, "f32");
    for (int i = 0; i < 2; i++) {
        struct pw_checkpoint *c;
        struct pw_adapter a;
        struct pw_merge_result r;
        ck_ok(pw_checkpoint_open(&c, models[i], NULL));
        struct pw_model_config shape = *pw_checkpoint_config(c);
        if (i) {
            ck_ok(pw_peft_load(&a, GOLDEN "/final-dense", &shape));
            ck_fails(pw_lora_merge(dev, c, &a, PW_F32, test_path(dir, "no"), false, &r, NULL), PW_E_FAIL, "not in the order");
            pw_adapter_free(&a);
        }
        shape.rope_interleaved = false;
        ck_ok(pw_peft_load(&a, GOLDEN "/final-dense", &shape));
        ck_ok(pw_lora_merge(dev, c, &a, PW_F32, test_path(dir, outs[i]), false, &r, NULL));
        bytes[i] = test_slurp(test_path(test_path(dir, outs[i]), "model.safetensors"), &n[i]);
        pw_adapter_free(&a);
        pw_checkpoint_close(c);
    }
    ck_assert(n[0] == n[1] && memcmp(bytes[0], bytes[1], n[0]) == 0);
    pw_free(bytes[0]);
    pw_free(bytes[1]);
    pw_dev_close(dev);
}
END_TEST

/* ---- tokenizers ---- */

static void same_ids(const struct pw_tokenizer *a, const struct pw_tokenizer *b, const char *text, size_t n, unsigned flags)
{
    struct pw_tokens x = {0}, y = {0};
    struct pw_buf s = {0}, t = {0};
    ck_ok(pw_tokenizer_encode(a, text, n, flags, &x));
    ck_ok(pw_tokenizer_encode(b, text, n, flags, &y));
    ck_assert_msg(x.n == y.n && (x.n == 0 || memcmp(x.ids, y.ids, x.n * sizeof *x.ids) == 0), "\"%.*s\": %zu ids and %zu ids", (int)n, text, x.n, y.n);
    ck_ok(pw_tokenizer_decode(a, x.ids, x.n, 0, &s));
    ck_ok(pw_tokenizer_decode(b, x.ids, x.n, 0, &t));
    ck_assert_msg(s.len == t.len && (s.len == 0 || memcmp(s.data, t.data, s.len) == 0), "\"%.*s\" decodes to \"%s\", then \"%s\"", (int)n, text, s.data, t.data);
    pw_buf_free(&s);
    pw_buf_free(&t);
    pw_tokens_free(&x);
    pw_tokens_free(&y);
}

static const char *const texts[] = {"Hello, world!", " two  spaces ", "na\u00efve \u2603 \U0001F600", "a\nb\t c  \n\n", "1234 567", "I'm you'll THE'RE", "x", " ", "<s> </s>", "\u00e9\u00e9 \u4e2d\u6587"};

/* Tokenizers of the repository into a GGUF file and back; exact: do llama.cpp's rules give them, too? */
START_TEST(tokenizers_written)
{
    static const struct { const char *path; int rc; const char *text; } cases[] = {
        {GOLDEN "/model/tokenizer.json", 0, "gpt2"},
        {"tests/fixtures/tokenizer/bytelevel.json", PW_E_UNSUPPORTED, "token <w> minds the text beside it"},
        {"tests/fixtures/tokenizer/bytelevel-trim.json", PW_E_UNSUPPORTED, "pre-split has no name"},
        {"tests/fixtures/tokenizer/split-digits.json", PW_E_UNSUPPORTED, "pre-split has no name"},
        {"tests/fixtures/tokenizer/splits.json", PW_E_UNSUPPORTED, "cannot be written into a GGUF file: normalizer 0"},
        {"tests/fixtures/tokenizer/sentencepiece.json", 0, "llama"},
        {"tools/demo/base/tokenizer.json", 0, "gpt2"},
    };
    const char *path = test_path(test_tmpdir(), "t.gguf"), *model = NULL;
    struct pw_tokenizer *a, *b;
    struct pw_gguf_out w;
    struct pw_gguf g;
    bool exact;
    ck_ok(pw_tokenizer_load(&a, cases[_i].path));
    ck_ok(pw_gguf_create(&w, path, true));
    const int rc = pw_gguf_put_tokenizer(&w, a, pw_tokenizer_vocab(a) + 3, &exact);
    if (cases[_i].rc) {
        ck_assert_int_eq(rc, cases[_i].rc);
        ck_assert_msg(strstr(pw_error_text(), cases[_i].text) != NULL, "%s", pw_error_text());
        pw_gguf_abort(&w);
        pw_tokenizer_free(a);
        return;
    }
    ck_assert_msg(rc == 0, "%s: %s", cases[_i].path, pw_error_text());
    ck_ok(pw_gguf_commit(&w));
    ck_ok(pw_gguf_open(&g, path));
    ck_ok(pw_gguf_get_str(&g, "tokenizer.ggml.model", true, &model));
    ck_assert_str_eq(model, cases[_i].text);
    pw_gguf_close(&g);
    ck_ok(pw_tokenizer_load(&b, path));
    ck_assert_int_eq(pw_tokenizer_vocab(b), pw_tokenizer_vocab(a) + 3);
    ck_assert(pw_tokenizer_bos(a) < 0 || (pw_tokenizer_bos(a) == pw_tokenizer_bos(b) && pw_tokenizer_adds_bos(a) == pw_tokenizer_adds_bos(b)));
    ck_assert(pw_tokenizer_eos(a) < 0 || pw_tokenizer_eos(a) == pw_tokenizer_eos(b));
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        same_ids(a, b, texts[i], strlen(texts[i]), PW_TOK_DEFAULT);
        same_ids(a, b, texts[i], strlen(texts[i]), 0);
    }
    pw_tokenizer_free(a);
    pw_tokenizer_free(b);
}
END_TEST

/* The 46 strings of llama.cpp's vocabularies. */
START_TEST(published_vectors)
{
    static const char *const vocabularies[] = {"gpt-2", "llama-spm", "phi-3"};
    char name[160];
    snprintf(name, sizeof name, "data/tokenizers/ggml-vocab-%s.gguf", vocabularies[_i]);
    const char *path = test_shared(name);
    if (!path) {
        test_skip("%s is not there", name);
        return;
    }
    static const char separator[] = "\n__ggml_vocab_test__\n";
    struct pw_tokenizer *t;
    struct pw_tokens k = {0};
    size_t n, m;
    ck_ok(pw_tokenizer_load(&t, path));
    snprintf(name, sizeof name, "%s.inp", path);
    char *in = test_slurp(name, &n), *out;
    snprintf(name, sizeof name, "%s.out", path);
    out = test_slurp(name, &m);
    const char *at = in, *line = out;
    int strings = 0;
    for (; *line; strings++) {
        const char *end = strstr(at, separator);
        const size_t len = end ? (size_t)(end - at) : (size_t)(in + n - at);
        ck_ok(pw_tokenizer_encode(t, at, len, 0, &k));
        char *next = (char *)(uintptr_t)line;
        for (size_t i = 0; i < k.n; i++)
            ck_assert_msg(strtol(next, &next, 10) == k.ids[i], "%s: string %d: id %zu is %d", vocabularies[_i], strings, i, k.ids[i]);
        ck_assert_msg(strspn(next, " ") == strcspn(next, "\n"), "%s: string %d: more than %zu ids are expected", vocabularies[_i], strings, k.n);
        line = strchr(next, '\n') + 1;
        at = end ? end + sizeof separator - 1 : in + n;
    }
    ck_assert_int_eq(strings, 46);
    pw_tokens_free(&k);
    pw_free(in);
    pw_free(out);
    pw_tokenizer_free(t);
    struct pw_checkpoint *c; /* and it is no model, which is said */
    ck_assert_int_lt(pw_checkpoint_open(&c, path, NULL), 0);
}
END_TEST

/* ---- models in several files ---- */

static void copy_pairs(struct pw_gguf_out *w, const struct pw_gguf *g)
{
    for (size_t i = 0; i < g->n_pairs; i++) {
        const struct pw_gguf_pair *p = &g->pairs[i];
        const uint64_t len = strlen(p->key);
        const uint32_t type = p->type, of = p->of;
        pw_buf_add(&w->head, &len, 8);
        pw_buf_add(&w->head, p->key, len);
        pw_buf_add(&w->head, &type, 4);
        if (p->type == PW_GGUF_ARRAY) {
            pw_buf_add(&w->head, &of, 4);
            pw_buf_add(&w->head, &p->n, 8);
        }
        pw_buf_add(&w->head, p->data, (size_t)(p->end - p->data));
        w->n_pairs++;
    }
}

/* Tensors first.. of the whole file as part `no` of 3; twice: one tensor more, which another part has too. */
static void write_part(const char *dir, const struct pw_gguf *g, int no, size_t first, size_t n, uint32_t says, uint32_t total)
{
    char name[64];
    struct pw_gguf_out w;
    snprintf(name, sizeof name, "m-%05d-of-00003.gguf", no + 1);
    ck_ok(pw_gguf_create(&w, test_path(dir, name), true));
    if (no == 0) {
        copy_pairs(&w, g);
        pw_gguf_put_u32(&w, "split.tensors.count", total);
    }
    pw_gguf_put_u32(&w, "split.no", says);
    pw_gguf_put_u32(&w, "split.count", 3);
    for (size_t i = first; i < first + n; i++)
        ck_ok(pw_gguf_add_tensor(&w, g->tensors[i].name, g->tensors[i].ggml, g->tensors[i].ndim, g->tensors[i].shape));
    for (size_t i = first; i < first + n; i++)
        ck_ok(pw_gguf_bytes(&w, g->tensors[i].data, g->tensors[i].bytes));
    ck_ok(pw_gguf_commit(&w));
}

START_TEST(several_files)
{
    const char *dir = test_tmpdir(), *start = test_path(dir, "m-00001-of-00003.gguf"), *last = test_path(dir, "m-00003-of-00003.gguf");
    const int32_t ids[5] = {3, 50, 7, 7, 61};
    struct pw_dev *dev = cpu("");
    struct pw_checkpoint *c;
    struct pw_gguf g;
    int64_t vocab;
    ck_ok(pw_gguf_open(&g, FIXTURES "llama.gguf"));
    const size_t n = g.n_tensors, a = _i ? 0 : 4;    /* a first file without tensors too */
    write_part(dir, &g, 0, 0, a, 0, (uint32_t)n);
    write_part(dir, &g, 1, a, 9, 1, 0);
    write_part(dir, &g, 2, a + 9, n - a - 9, 2, 0);
    float *whole = logits_of(dev, FIXTURES "llama.gguf", ids, 5, &vocab), *parts = logits_of(dev, start, ids, 5, &vocab);
    ck_assert(memcmp(whole, parts, (size_t)(5 * vocab) * sizeof *whole) == 0);
    free(whole);
    free(parts);
    ck_fails(pw_checkpoint_open(&c, last, NULL), PW_E_REFUSED, "part 3 of a model in 3 files");
    ck_assert_ptr_nonnull(strstr(pw_error_hint_text(), "NAME-00001-of-00003.gguf"));
    write_part(dir, &g, 2, a + 9, n - a - 9, 1, 0);
    ck_fails(pw_checkpoint_open(&c, start, NULL), PW_E_FORMAT, "m-00003-of-00003.gguf: expected part 3 of 3, it says 2 of 3");
    write_part(dir, &g, 2, a + 9, n - a - 10, 2, 0);
    ck_fails(pw_checkpoint_open(&c, start, NULL), PW_E_FORMAT, "split.tensors.count: expected");
    write_part(dir, &g, 2, a + 8, n - a - 9, 2, 0);
    ck_fails(pw_checkpoint_open(&c, start, NULL), PW_E_FORMAT, "is in two of the files");
    ck_assert_int_eq(remove(last), 0);
    ck_fails(pw_checkpoint_open(&c, start, NULL), PW_E_IO, "m-00003-of-00003.gguf: no such file: part 3 of 3");
    pw_gguf_close(&g);
    pw_dev_close(dev);
}
END_TEST

/* ---- what is refused ---- */

static const struct { const char *what; int code; const char *text; } bad[] = {
    {"architecture", PW_E_UNSUPPORTED, "general.architecture: unknown architecture gpt5 (known: llama, qwen2, qwen3, qwen3moe, gemma2, gemma3, phi3)"},
    {"no embedding", PW_E_FORMAT, "token_embd.weight is missing: the file holds no tensors"},
    {"heads", PW_E_FORMAT, "4 heads are no multiple of 3 key/value heads"},
    {"no length", PW_E_FORMAT, "key llama.context_length is missing"},
    {"eps", PW_E_FORMAT, "llama.attention.layer_norm_rms_epsilon must be above 0"},
    {"split", PW_E_FORMAT, "split.count: the first of 3 files, expected to be named NAME-00001-of-00003.gguf"},
    {"experts", PW_E_FORMAT, "key llama.expert_used_count is missing"},
    {"chosen", PW_E_FORMAT, "llama.expert_used_count"},
    {"shared", PW_E_UNSUPPORTED, "llama.expert_shared_count is not supported"},
    {"router", PW_E_FORMAT, "model.layers.0.block_sparse_moe.gate.weight is missing"},
    {"yarn", PW_E_FORMAT, "key llama.rope.scaling.factor is missing"},
    {"yarn beta", PW_E_UNSUPPORTED, "llama.rope.scaling.yarn_beta_fast is not supported"},
    {"longrope", PW_E_UNSUPPORTED, "llama.rope.scaling.type \"longrope\" is not supported"},
    {"partial", PW_E_UNSUPPORTED, "llama.rope.dimension_count: rotating a part of a head"},
    {"softcap", PW_E_UNSUPPORTED, "llama.attn_logit_softcapping is not supported"},
    {"missing", PW_E_FORMAT, "model.layers.0.mlp.down_proj.weight is missing"},
    {"shape", PW_E_FORMAT, "model.layers.0.self_attn.k_proj.weight: shape does not fit the config (expected (8, 16), got (16, 16))"},
    {"unknown", PW_E_FORMAT, "unknown tensor blk.0.ssm_a"},
    {"token", PW_E_FORMAT, "tokenizer.ggml.bos_token_id is no token of the model"},
    {"frequencies", PW_E_UNSUPPORTED, "rope_freqs.weight: these frequencies are not those of a llama3 rope scaling"},
    {"frequency", PW_E_FORMAT, "rope_freqs.weight[1] is -1"},
    {"good", 0, ""},
};

static void small_model(const char *path, const char *what)
{
#define IS(name) (strcmp(what, name) == 0)
    struct pw_gguf_out w;
    static float zeros[1024];
    static const struct { const char *name; int64_t a, b; } all[] = {
        {"token_embd.weight", 12, 16}, {"output_norm.weight", 16, 0}, {"blk.0.attn_norm.weight", 16, 0}, {"blk.0.ffn_norm.weight", 16, 0},
        {"blk.0.attn_q.weight", 16, 16}, {"blk.0.attn_k.weight", 8, 16}, {"blk.0.attn_v.weight", 8, 16}, {"blk.0.attn_output.weight", 16, 16},
        {"blk.0.ffn_gate.weight", 24, 16}, {"blk.0.ffn_up.weight", 24, 16}, {"blk.0.ffn_down.weight", 16, 24}, {"blk.0.ssm_a", 4, 0}, {"rope_freqs.weight", 2, 0}};
    const float freqs[2] = {IS("frequency") ? 1 : 3, IS("frequency") ? -1 : 5};
    size_t bytes[16], n = 0;
    ck_ok(pw_gguf_create(&w, path, true));
    pw_gguf_put_str(&w, "general.architecture", IS("architecture") ? "gpt5" : "llama", IS("architecture") ? 4 : 5);
    pw_gguf_put_u32(&w, "llama.block_count", 1);
    if (!IS("no length")) pw_gguf_put_u32(&w, "llama.context_length", 32);
    pw_gguf_put_u32(&w, "llama.embedding_length", 16);
    pw_gguf_put_u32(&w, "llama.feed_forward_length", 24);
    pw_gguf_put_u32(&w, "llama.attention.head_count", 4);
    pw_gguf_put_u32(&w, "llama.attention.head_count_kv", IS("heads") ? 3 : 2);
    pw_gguf_put_f32(&w, "llama.attention.layer_norm_rms_epsilon", IS("eps") ? 0 : 1e-5f);
    if (IS("split")) pw_gguf_put_u32(&w, "split.count", 3);
    if (IS("experts") || IS("chosen") || IS("shared") || IS("router")) pw_gguf_put_u32(&w, "llama.expert_count", 8);
    if (IS("chosen") || IS("shared") || IS("router")) pw_gguf_put_u32(&w, "llama.expert_used_count", IS("chosen") ? 9 : 2);
    if (IS("shared")) pw_gguf_put_u32(&w, "llama.expert_shared_count", 1);
    if (IS("yarn beta")) pw_gguf_put_f32(&w, "llama.rope.scaling.yarn_beta_fast", 16);
    if (IS("longrope")) pw_gguf_put_str(&w, "llama.rope.scaling.type", "longrope", 8);
    if (IS("yarn") || IS("yarn beta")) pw_gguf_put_str(&w, "llama.rope.scaling.type", "yarn", 4);
    if (IS("partial")) pw_gguf_put_u32(&w, "llama.rope.dimension_count", 2);
    if (IS("softcap")) pw_gguf_put_f32(&w, "llama.attn_logit_softcapping", 50);
    if (IS("token")) pw_gguf_put_u32(&w, "tokenizer.ggml.bos_token_id", 12);
    for (size_t i = 0; i < sizeof all / sizeof *all && !IS("no embedding"); i++) {
        int64_t shape[2] = {all[i].a, all[i].b};
        if ((strstr(all[i].name, "ssm_a") && !IS("unknown")) || (strstr(all[i].name, "rope_freqs") && !IS("frequencies") && !IS("frequency")) ||
            (strstr(all[i].name, "ffn_down") && IS("missing")))
            continue;
        if (strstr(all[i].name, "attn_k") && IS("shape")) shape[0] = 16;
        ck_ok(pw_gguf_add_tensor(&w, all[i].name, PW_GGML_F32, all[i].b ? 2 : 1, shape));
        bytes[n++] = (size_t)(shape[0] * (all[i].b ? shape[1] : 1)) * 4;
    }
    for (size_t i = 0; i < n; i++)
        ck_ok(pw_gguf_bytes(&w, bytes[i] == sizeof freqs ? freqs : zeros, bytes[i]));
    ck_ok(pw_gguf_commit(&w));
#undef IS
}

START_TEST(refused)
{
    const char *path = test_path(test_tmpdir(), "bad.gguf");
    struct pw_dev *dev = cpu("");
    struct pw_model *m;
    small_model(path, bad[_i].what);
    if (bad[_i].code == 0) {
        ck_ok(pw_model_load(&m, dev, path, NULL));
        pw_model_free(m);
    } else {
        ck_fails(pw_model_load(&m, dev, path, NULL), bad[_i].code, bad[_i].text);
        ck_assert_msg(strstr(pw_error_text(), "bad.gguf"), "%s", pw_error_text());
    }
    pw_dev_close(dev);
}
END_TEST

static int load_it(void *path)
{
    struct pw_dev *dev = NULL;
    struct pw_model *m = NULL;
    int rc = pw_dev_open(&dev, &(struct pw_dev_options){.kind = "ref"});
    if (rc == 0)
        rc = pw_model_load(&m, dev, path, NULL);
    if (rc == 0)
        pw_model_free(m);
    if (dev)
        pw_dev_close(dev);
    return rc;
}
START_TEST(without_memory) { ck_assert(test_sweep_nomem(load_it, (void *)(uintptr_t)FIXTURES "qwen2.gguf") > 0); }
END_TEST

int main(void)
{
    Suite *s = suite_create("gguf model");
    TCase *t = tcase_create("gguf model");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, logits_as_llama_cpp, 0, 2 * NAMES);
    tcase_add_loop_test(t, several_files, 0, 2);
    tcase_add_test(t, what_it_is);
    tcase_add_loop_test(t, embedding_in_blocks, 0, 2);
    tcase_add_test(t, tensor_names);
    tcase_add_loop_test(t, written_in_every_type, 0, 2);
    tcase_add_test(t, not_written);
    tcase_add_test(t, trained_as_pytorch);
    tcase_add_loop_test(t, trained_on_blocks, 0, 2);
    tcase_add_test(t, merged);
    tcase_add_loop_test(t, tokenizers_written, 0, 7);
    tcase_add_loop_test(t, published_vectors, 0, 3);
    tcase_add_loop_test(t, refused, 0, (int)(sizeof bad / sizeof *bad));
    tcase_add_test(t, without_memory);
    suite_add_tcase(s, t);
    return test_run(s);
}
