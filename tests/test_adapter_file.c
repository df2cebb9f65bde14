/* Adapters of other programs: llama.cpp's logits with a GGUF adapter (tests/fixtures/gguf/lora, made by tools/reference/gguf_lora.py), the same
 * adapter as a PEFT folder, mlx-lm's form, writing and reading back in every order of rows, and what is refused. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "data/gguf.h"
#include "infer/memory_limit.h"
#include "infer/session.h"
#include "lora/adapter_file.h"
#include "lora/gguf_lora.h"
#include "lora/merge.h"
#include "lora/peft.h"
#include "tests/support.h"

#define BASE "tests/fixtures/gguf/llama.gguf"
#define FIXTURES "tests/fixtures/gguf/lora/"
enum { N = 24, V = 80 };

static void expected(const char *name, int32_t ids[N], float *logits)
{
    struct pw_gguf g;
    const struct pw_gguf_pair *p;
    ck_ok(pw_gguf_open(&g, FIXTURES "logits.gguf"));
    ck_ok(pw_gguf_get_array(&g, "ids", PW_GGUF_I32, true, &p));
    ck_assert_int_eq((int)p->n, N);
    for (int i = 0; i < N; i++)
        ids[i] = (int32_t)pw_gguf_int(p, (uint64_t)i);
    const struct pw_gguf_tensor *t = pw_gguf_tensor(&g, name);
    ck_assert(t && t->shape[0] == N && t->shape[1] == V);
    memcpy(logits, t->data, t->bytes);
    pw_gguf_close(&g);
}

/* path NULL: the model alone */
static void logits_of(const char *model, const char *path, const int32_t ids[N], float *out)
{
    struct pw_dev *dev;
    struct pw_model *m;
    struct pw_session *s;
    struct pw_adapter a = {0};
    int32_t rows[N];
    ck_ok(pw_dev_open(&dev, &(struct pw_dev_options){.kind = "cpu", .threads = 2, .level = getenv("PW_CPU")}));
    ck_ok(pw_model_load(&m, dev, model, NULL));
    if (path) {
        ck_ok(pw_adapter_load(&a, path, &m->config));
        ck_ok(pw_model_attach(m, &a));
    }
    ck_ok(pw_session_open(&s, m, N, N, 1));
    const struct pw_feed feed = {pw_session_add(s, N, -1), ids, N};
    ck_ok(pw_session_feed(s, &feed, 1));
    for (int i = 0; i < N; i++)
        rows[i] = i;
    ck_ok(pw_session_logits(s, rows, N, out));
    pw_session_close(s);
    pw_model_free(m);
    pw_adapter_free(&a);
    pw_dev_close(dev);
}

static double apart(const float *a, const float *b)
{
    double most = 0;
    for (int i = 0; i < N * V; i++) {
        const double d = fabs((double)a[i] - b[i]);
        if (!(d <= most))
            most = d;
    }
    return most;
}

/* The bound is that of the base's own logits (tests/test_gguf_model.c), which the adapter's products, of sums of 256 and of 4 terms, double. */
START_TEST(logits_as_llama_cpp)
{
    static const struct { const char *want, *path; } cases[] = {{"base", NULL}, {"lora", FIXTURES "lora.gguf"}, {"lora", FIXTURES "peft"}, {"mlx", FIXTURES "mlx"}};
    static float ours[N * V], theirs[N * V];
    int32_t ids[N];
    expected(cases[_i].want, ids, theirs);
    logits_of(BASE, cases[_i].path, ids, ours);
    const double most = apart(ours, theirs);
    printf("%s: largest difference of a logit from llama.cpp %.3g\n", cases[_i].path ? cases[_i].path : "base", most);
    ck_assert_msg(most <= 2e-4, "%s: %g", cases[_i].path, most);
}
END_TEST

/* ---- both ways ---- */

static struct pw_model_config shape_of(bool interleaved)
{
    struct pw_checkpoint *c;
    ck_ok(pw_checkpoint_open(&c, BASE, NULL));
    struct pw_model_config m = *pw_checkpoint_config(c);
    pw_checkpoint_close(c);
    ck_assert(m.rope_interleaved);
    m.rope_interleaved = interleaved;
    return m;
}

/* Equal A, equal scale * B: the product is the same; tolerance is one rounding of the scale and one of B (f16: 2^-11, and half a step of 2^-24,
 * times what B was multiplied by). */
static void same_adapter(const struct pw_adapter *x, const struct pw_adapter *y, double absolute, double relative)
{
    ck_assert_uint_eq(x->n, y->n);
    for (size_t i = 0; i < x->n; i++) {
        const struct pw_adapter_module *p = &x->modules[i], *q = &y->modules[i];
        ck_assert_str_eq(p->name, q->name);
        ck_assert(p->lora.r == q->lora.r && p->n_in == q->n_in && p->n_out == q->n_out);
        const float *a = p->lora.a.data, *b = p->lora.b.data, *c = q->lora.a.data, *d = q->lora.b.data;
        for (int64_t k = 0; k < pw_count(p->lora.a); k++)
            ck_close(a[k], c[k], absolute, absolute > 0 ? relative : 0);
        for (int64_t k = 0; k < pw_count(p->lora.b); k++)
            ck_close(b[k] * p->lora.scale, d[k] * q->lora.scale, absolute * p->lora.scale, relative);
    }
}

START_TEST(the_same_in_three_forms)
{
    const struct pw_model_config m = shape_of(_i != 0);
    struct pw_adapter peft, gguf, back;
    const char *dir = test_tmpdir(), *file = test_path(dir, "x.gguf"), *half = test_path(dir, "half.gguf"), *folder = test_tmpdir();
    ck_ok(pw_adapter_load(&peft, FIXTURES "peft", &m));
    ck_ok(pw_adapter_load(&gguf, FIXTURES "lora.gguf", &m));
    ck_assert(peft.paired == (_i ? 32 : 0) && gguf.paired == peft.paired);
    ck_assert_str_eq(gguf.config.targets, "q_proj,k_proj,down_proj");
    same_adapter(&peft, &gguf, 0, 3e-7);
    ck_ok(pw_gguf_lora_write(&peft, file, &m, PW_F32, false));
    ck_ok(pw_adapter_load(&back, file, &m));
    same_adapter(&peft, &back, 0, 3e-7);
    pw_adapter_free(&back);
    ck_ok(pw_gguf_lora_write(&peft, half, &m, PW_F16, false));
    ck_ok(pw_adapter_load(&back, half, &m));
    same_adapter(&peft, &back, ldexp(1, -25) * 4, 1.0 / 1024);
    pw_adapter_free(&back);
    ck_ok(pw_peft_write(&gguf, folder));
    ck_ok(pw_adapter_load(&back, folder, &m));
    same_adapter(&gguf, &back, 0, 1e-7);
    pw_adapter_free(&back);
    ck_fails(pw_gguf_lora_write(&peft, file, &m, PW_F32, false), PW_E_REFUSED, "exists");
    strcpy(peft.config.kind, "dora");
    ck_fails(pw_gguf_lora_write(&peft, test_path(dir, "y.gguf"), &m, PW_F32, false), PW_E_UNSUPPORTED, "plain LoRA alone");
    ck_assert_ptr_nonnull(strstr(pw_error_hint_text(), "pw lora merge"));
    strcpy(peft.config.kind, "lora");
    ((float *)peft.modules[1].lora.b.data)[5] = 1e6f;
    ck_fails(pw_gguf_lora_write(&peft, test_path(dir, "y.gguf"), &m, PW_F16, false), PW_E_NUMERIC, "does not fit into f16");
    ck_fails(pw_gguf_lora_write(&peft, test_path(dir, "y.gguf"), &m, PW_BF16, false), PW_E_USAGE, "f32 or f16");
    ck_assert(!pw_file_exists(test_path(dir, "y.gguf")));
    pw_adapter_free(&peft);
    pw_adapter_free(&gguf);
}
END_TEST

/* Modules that not all layers have are named in full; old files of mlx-lm have alpha beside scale. */
START_TEST(targets_and_old_mlx)
{
    const struct pw_model_config m = shape_of(false);
    struct pw_adapter a;
    const char *dir = test_tmpdir(), *file = test_path(dir, "x.gguf");
    ck_ok(pw_adapter_load(&a, FIXTURES "peft", &m));
    a.n--;
    ck_ok(pw_gguf_lora_write(&a, file, &m, PW_F32, false));
    pw_adapter_free(&a);
    ck_ok(pw_adapter_load(&a, file, &m));
    ck_assert(a.n == 5 && strncmp(a.config.targets, "model.layers.0.self_attn.q_proj,model.layers.0.self_attn.k_proj,model.layers.0.mlp.down_proj,", 92) == 0);
    ck_ok(pw_peft_write(&a, dir));
    pw_adapter_free(&a);
    ck_ok(pw_adapter_load(&a, dir, &m));
    pw_adapter_free(&a);
    size_t n;
    char *tensors = test_slurp(FIXTURES "mlx/adapters.safetensors", &n);
    const char *config = "{\"lora_layers\":2,\"lora_parameters\":{\"rank\":4,\"alpha\":6,\"scale\":10,\"dropout\":0.25}}", *old = test_tmpdir();
    ck_ok(pw_file_write(test_path(old, "adapters.safetensors"), tensors, n, false));
    ck_ok(pw_file_write(test_path(old, "adapter_config.json"), config, strlen(config), false));
    ck_ok(pw_adapter_load(&a, old, &m));
    ck_assert(a.modules[0].lora.scale == 15 && a.config.dropout == 0.25 && a.config.alpha == 60);
    pw_adapter_free(&a);
    pw_free(tensors);
}
END_TEST

/* alpha 0 in a GGUF adapter: the scale is 1, as llama.cpp has it. */
START_TEST(alpha_zero)
{
    static const float x[16] = {1, 2, 3};
    const char *path = test_path(test_tmpdir(), "x.gguf");
    struct pw_gguf_out w;
    struct pw_adapter a;
    ck_ok(pw_gguf_create(&w, path, false));
    pw_gguf_put_str(&w, "general.architecture", "llama", 5);
    pw_gguf_put_str(&w, "general.type", "adapter", 7);
    pw_gguf_put_str(&w, "adapter.type", "lora", 4);
    pw_gguf_put_f32(&w, "adapter.lora.alpha", 0);
    ck_ok(pw_gguf_add_tensor(&w, "blk.0.attn_q.weight.lora_a", PW_GGML_F32, 2, (int64_t[]){2, 8}));
    ck_ok(pw_gguf_add_tensor(&w, "blk.0.attn_q.weight.lora_b", PW_GGML_F32, 2, (int64_t[]){8, 2}));
    ck_ok(pw_gguf_bytes(&w, x, sizeof x));
    ck_ok(pw_gguf_bytes(&w, x, sizeof x));
    ck_ok(pw_gguf_commit(&w));
    ck_ok(pw_adapter_load(&a, path, NULL));
    ck_assert(a.n == 1 && a.modules[0].lora.scale == 1 && a.config.alpha == 2 && a.config.r == 2);
    pw_adapter_free(&a);
}
END_TEST

/* ---- merging into GGUF ---- */

static int look(void *ctx, const char *path)
{
    static float got[N * V];
    int32_t ids[N];
    float *theirs = ctx;
    expected("lora", ids, theirs);
    logits_of(path, NULL, ids, got);
    const double most = apart(got, theirs);
    printf("merged: largest difference of a logit from llama.cpp with the adapter %.3g\n", most);
    PW_CHECK(most <= 2e-4, PW_E_FAIL, "a logit differs by %g", most);
    return 0;
}

static int refuse(void *ctx, const char *path)
{
    (void)ctx;
    PW_CHECK(!pw_file_exists(path), PW_E_FAIL, "not good enough");
    return 0;
}

START_TEST(merged_into_gguf)
{
    static float theirs[N * V], base[N * V], got[N * V];
    struct pw_dev *dev;
    struct pw_checkpoint *c;
    struct pw_adapter a, other;
    struct pw_merge_result r;
    struct pw_gguf from, to;
    struct pw_merge_options o = {.to = {.type = PW_Q_DENSE, .block = 64, .dtype = PW_F32}, .gguf = true, .finished = look, .ctx = theirs};
    const struct pw_model_config m = shape_of(true), folder = shape_of(false);
    const char *dir = test_tmpdir(), *wide = test_path(dir, "wide.gguf"), *same = test_path(dir, "same.gguf"), *no = test_path(dir, "no.gguf");
    int32_t ids[N];
    ck_ok(pw_dev_open(&dev, &(struct pw_dev_options){.kind = "cpu", .threads = 2}));
    ck_ok(pw_checkpoint_open(&c, BASE, NULL));
    ck_ok(pw_adapter_load(&a, FIXTURES "peft", &m));
    ck_ok(pw_adapter_load(&other, FIXTURES "peft", &folder));
    ck_ok(pw_lora_merge_into(dev, c, &a, wide, &o, &r, NULL));
    ck_assert(r.modules == 6 && r.max_change > 0.1);
    /* into blocks: what has the type asked for and is not edited keeps its bytes; what is edited moves the logits most of the way */
    o.to = (struct pw_quant_options){.type = PW_Q_Q4_K, .block = 64};
    o.finished = NULL;
    ck_ok(pw_lora_merge_into(dev, c, &a, same, &o, &r, NULL));
    ck_ok(pw_gguf_open(&from, BASE));
    ck_ok(pw_gguf_open(&to, same));
    int kept = 0, edited = 0, both = 0;
    for (size_t i = 0; i < from.n_tensors; i++) {
        const struct pw_gguf_tensor *x = &from.tensors[i], *y = pw_gguf_tensor(&to, x->name);
        ck_assert_msg(y != NULL, "%s", x->name);
        const bool touched = strstr(x->name, "attn_q") || strstr(x->name, "attn_k") || strstr(x->name, "ffn_down");
        if (x->ggml == y->ggml && x->ndim == 2) {
            const bool equal = memcmp(x->data, y->data, x->bytes) == 0;
            ck_assert_msg(equal == !touched, "%s: its bytes %s", x->name, equal ? "are kept" : "change");
            kept += equal;
            both += touched;
        }
        edited += touched;
    }
    ck_assert(kept >= 2 && both >= 1 && edited == 6 && !pw_gguf_find(&to, "pennyweight.source"));
    pw_gguf_close(&from);
    pw_gguf_close(&to);
    o.to.type = PW_Q_Q8_0;
    o.force = true;
    ck_ok(pw_lora_merge_into(dev, c, &a, same, &o, &r, NULL));
    o.force = false;
    expected("base", ids, base);
    logits_of(same, NULL, ids, got);
    ck_assert_msg(apart(got, theirs) < apart(got, base) / 10, "%g from the adapter, %g from the base", apart(got, theirs), apart(got, base));
    /* what must not appear */
    o.finished = refuse;
    ck_fails(pw_lora_merge_into(dev, c, &a, no, &o, &r, NULL), PW_E_FAIL, "not good enough");
    ck_fails(pw_lora_merge_into(dev, c, &other, no, &o, &r, NULL), PW_E_FAIL, "not in the order");
    for (size_t i = 0; i < a.n; i++)
        memset(a.modules[i].lora.b.data, 0, pw_bytes(a.modules[i].lora.b));
    o.finished = NULL;
    ck_fails(pw_lora_merge_into(dev, c, &a, no, &o, &r, NULL), PW_E_FAIL, "merging changed nothing");
    o.gguf = false;
    ck_fails(pw_lora_merge_into(dev, c, &other, no, &o, &r, NULL), PW_E_USAGE, "nothing is merged into quantised weights");
    ck_assert(!pw_file_exists(no));
    pw_adapter_free(&a);
    pw_adapter_free(&other);
    pw_checkpoint_close(c);
    pw_dev_close(dev);
}
END_TEST

/* ---- refused ---- */

static const struct pw_model_config small = {.family = "llama", .layers = 2, .hidden = 8, .heads = 2, .kv_heads = 1, .head_dim = 4, .ffn = 12, .vocab = 10, .rope_interleaved = true};

static void fails_saying(int rc, const char *text, const char *path)
{
    ck_assert_msg(rc < 0, "%s is read", path);
    ck_assert_msg(strstr(pw_error_text(), text) != NULL, "%s: the message is \"%s\", expected \"%s\" in it", path, pw_error_text(), text);
    ck_assert_msg(strstr(pw_error_text(), path) != NULL, "%s: the message does not name it: \"%s\"", path, pw_error_text());
    pw_error_clear();
}

START_TEST(refused_gguf)
{
    struct pw_arena arena;
    char **names;
    size_t n;
    pw_arena_init(&arena);
    ck_ok(pw_dir_list(&arena, "tests/fixtures/refused/gguf_lora", &names, &n));
    ck_assert_uint_ge(n, 21);
    for (size_t i = 0; i < n; i++) {
        const char *path = pw_path_join(&arena, "tests/fixtures/refused/gguf_lora", names[i]), *text = NULL;
        struct pw_gguf g;
        struct pw_adapter a;
        ck_ok(pw_gguf_open(&g, path));
        ck_ok(pw_gguf_get_str(&g, "test.expected", true, &text));
        fails_saying(pw_adapter_load(&a, path, &small), text, path);
        pw_gguf_close(&g);
    }
    pw_arena_free(&arena);
}
END_TEST

START_TEST(refused_mlx)
{
    struct pw_arena arena;
    char **names;
    size_t n;
    pw_arena_init(&arena);
    ck_ok(pw_dir_list(&arena, "tests/fixtures/refused/mlx", &names, &n));
    ck_assert_uint_ge(n, 15);
    for (size_t i = 0; i < n; i++) {
        const char *path = pw_path_join(&arena, "tests/fixtures/refused/mlx", names[i]), *text = NULL;
        struct pw_value *config;
        struct pw_adapter a;
        ck_ok(pw_json_load(&arena, pw_path_join(&arena, path, "adapter_config.json"), &config));
        ck_ok(pw_get_str(config, "expected", path, &text));
        fails_saying(pw_adapter_load(&a, path, &small), text, path);
    }
    pw_arena_free(&arena);
}
END_TEST

static int load_work(void *path)
{
    static struct pw_model_config m;
    struct pw_adapter a;
    if (!m.layers)
        m = shape_of(false);
    const int rc = pw_adapter_load(&a, path, &m);
    if (rc == 0)
        pw_adapter_free(&a);
    return rc;
}

START_TEST(no_memory)
{
    ck_ok(load_work((void *)FIXTURES "peft"));       /* the shape is there from now on */
    ck_assert_int_gt(test_sweep_nomem(load_work, (void *)(_i ? FIXTURES "mlx" : FIXTURES "lora.gguf")), 5);
}
END_TEST

/* Before an adapter is read its bytes are known; a limit counts it, before it is read and, where it lies on a device, when a session opens. */
START_TEST(counted_beforehand)
{
    static const char *const paths[] = {FIXTURES "lora.gguf", FIXTURES "peft", FIXTURES "mlx"};
    struct pw_dev *dev;
    struct pw_model *m;
    ck_ok(pw_dev_open(&dev, &(struct pw_dev_options){.kind = "cpu", .threads = 1}));
    ck_ok(pw_model_load(&m, dev, BASE, NULL));
    for (int i = 0; i < 3; i++) {
        struct pw_adapter_size z;
        struct pw_adapter a;
        ck_ok(pw_adapter_measure(paths[i], &z));
        ck_ok(pw_adapter_load(&a, paths[i], &m->config));
        const size_t bytes = (size_t)pw_adapter_parameters(&a) * sizeof(float);
        ck_assert_msg(z.made >= bytes && z.made < bytes + 4096, "%s: measured %zu bytes, %zu are there", paths[i], z.made, bytes);
        ck_assert(z.stored > 0 && z.largest > 0 && z.largest <= z.made);
        m->memory = pw_rss_bytes() + ((size_t)64 << 20);
        ck_ok(pw_memory_check_adapter(m, z.stored, z.made));
        ck_fails(pw_memory_check_adapter(m, z.stored, z.made + ((size_t)80 << 20)), PW_E_REFUSED, "the adapter's file");
        ck_fails(pw_memory_check_adapter(m, z.stored + ((size_t)80 << 20), z.made), PW_E_REFUSED, "the adapter's file");
        m->memory = 0;
        ck_ok(pw_memory_check_adapter(m, SIZE_MAX / 4, SIZE_MAX / 4));
        pw_adapter_free(&a);
    }
    pw_model_free(m);
    pw_dev_close(dev);
    if (!test_open_card(&dev, ""))
        return;
    ck_ok(pw_model_load(&m, dev, BASE, NULL));
    m->memory = m->pool.bytes + pw_session_bytes(m, 64, 8, 1) + pw_session_scratch(m, 64, 8) + 1000;
    m->adapter_bytes = 1000;
    ck_ok(pw_memory_check_session(m, 64, 8, 1));
    m->adapter_bytes = 1001;
    ck_fails(pw_memory_check_session(m, 64, 8, 1), PW_E_REFUSED, "adapters 1001 ");
    m->memory = m->pool.bytes + 3000;
    ck_ok(pw_memory_check_adapter(m, 1 << 20, 1999));
    ck_fails(pw_memory_check_adapter(m, 1 << 20, 2000), PW_E_REFUSED, "the adapter");
    pw_model_free(m);
    pw_dev_close(dev);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("adapter files");
    TCase *c = tcase_create("adapter files");
    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, logits_as_llama_cpp, 0, 4);
    tcase_add_loop_test(c, the_same_in_three_forms, 0, 2);
    tcase_add_test(c, targets_and_old_mlx);
    tcase_add_test(c, alpha_zero);
    tcase_add_test(c, counted_beforehand);
    tcase_add_test(c, merged_into_gguf);
    tcase_add_test(c, refused_gguf);
    tcase_add_test(c, refused_mlx);
    tcase_add_loop_test(c, no_memory, 0, 2);
    suite_add_tcase(s, c);
    return test_run(s);
}
