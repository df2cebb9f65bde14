/* Layers that are streamed from host memory (infer/stream.h): logits and gradients are those of the model that is wholly on the device, to the bit. The
 * emulation delivers a transfer as late as it may, and what did not arrive yet is NaN: a wait that is missing is seen. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "infer/session.h"
#include "tests/support.h"
#include "train/pass.h"

enum { LAYERS = 5, V = 48, T = 9 };
static const struct pw_model_config config = {.family = "llama", .architecture = "LlamaForCausalLM", .vocab = V, .layers = LAYERS, .hidden = 24, .heads = 2, .kv_heads = 1, .head_dim = 12,
    .ffn = 40, .context = 64, .norm_eps = 1e-5, .rope_theta = 1e4, .attn_scale = 0.25, .embed_scale = 1, .init_range = 0.2, .bos = 1, .eos = {2, -1}, .pad = -1, .n_eos = 1};

static const char *save_model(void)
{
    const char *dir = test_tmpdir();
    struct pw_dev *cpu;
    struct pw_model *m;
    ck_ok(pw_dev_open(&cpu, NULL));
    ck_ok(pw_model_create(&m, cpu, &config, 5));
    ck_ok(pw_model_save(m, dir, "f32"));
    pw_model_free(m);
    pw_dev_close(cpu);
    return dir;
}

static struct pw_model *load(struct pw_dev *dev, const char *dir, const char *type, int stream)
{
    const struct pw_model_options opt = {.quantise = type, .double_quant = true, .stream = stream};
    struct pw_model *m;
    ck_ok(pw_model_load(&m, dev, dir, &opt));
    ck_assert_int_eq(m->stream.count, stream);
    /* Two slots are on the device, and no room for the blocks that wait. */
    if (stream) {
        struct pw_model *whole;
        const struct pw_model_options measure = {.quantise = type, .double_quant = true, .measure = true};
        ck_ok(pw_model_load(&whole, dev, dir, &measure));
        ck_assert_uint_eq(m->stream.memory.bytes, 2 * m->block_bytes[0]);
        ck_assert_uint_eq(m->pool.bytes, whole->pool.bytes - (size_t)stream * m->block_bytes[0]);
        pw_model_free(whole);
    }
    return m;
}

/* A prompt, then tokens one by one: passes follow one another. */
static void logits_of(struct pw_model *m, float *out)
{
    struct pw_session *s;
    int32_t ids[T], row = 0;
    for (int i = 0; i < T; i++) ids[i] = (7 * i + 3) % V;
    ck_ok(pw_session_open(&s, m, 64, T, 2));
    int seq = pw_session_add(s, T + 4, -1);
    ck_ok(pw_session_feed(s, &(struct pw_feed){seq, ids, T}, 1));
    for (int i = 0; i < 3; i++, out += V) {
        row = i == 0 ? T - 1 : 0;
        ck_ok(pw_session_logits(s, &row, 1, out));
        ck_ok(pw_session_feed(s, &(struct pw_feed){seq, ids + i, 1}, 1));
    }
    pw_session_close(s);
}

/* Two passes of forward and backward through an adapter; the gradients of both, added. */
static size_t gradients_of(struct pw_model *m, int kept, bool offload, char **out, double *loss)
{
    const struct pw_pass_shape shape = {.tokens = T, .sequences = 1, .train = true, .kept = kept, .offload = offload};
    const struct pw_adapter_config ac = {.kind = "lora", .r = 3, .alpha = 6, .targets = "all-linear"};
    struct pw_adapter adapter = {0};
    struct pw_arena a;
    struct pw_pool pool, gradients;
    struct pw_pass pass = {0};
    struct pw_optim optim = {0};
    struct pw_packed batch = {0};
    struct pw_pass_bytes bytes;
    pw_arena_init(&a);
    ck_ok(pw_adapter_plan(&adapter, &ac, &m->config));
    ck_ok(pw_adapter_place(&adapter, pw_arena_alloc(&a, pw_adapter_bytes(&adapter)), pw_adapter_bytes(&adapter)));
    pw_adapter_init(&adapter, 9);
    for (size_t i = 0; i < adapter.n; i++)       /* B begins as zeros: then A would have no gradient */
        for (int64_t j = 0; j < pw_count(adapter.modules[i].lora.b); j++) ((float *)adapter.modules[i].lora.b.data)[j] = 0.01f * (float)((j * 37 + (int64_t)i) % 17 - 8);
    ck_ok(pw_adapter_put(&adapter, m->dev));
    ck_ok(pw_model_attach(m, &adapter));
    pw_pass_size(m, &shape, &bytes);
    ck_ok(pw_pool_open(&pool, m->dev, bytes.saved + bytes.scratch, "training"));
    ck_ok(pw_dev_reserve(m->dev, bytes.device));
    ck_ok(pw_pass_place(&pass, m, &shape, &pool, &a));
    struct pw_slot *slots = pw_arena_array(&a, 2 * adapter.n, sizeof *slots);
    for (size_t i = 0; i < adapter.n; i++) {
        slots[2 * i] = (struct pw_slot){.name = "a", .value = adapter.modules[i].lora.a};
        slots[2 * i + 1] = (struct pw_slot){.name = "b", .value = adapter.modules[i].lora.b};
    }
    ck_ok(pw_pool_open(&gradients, m->dev, pw_optim_bytes(PW_OPTIM_SGD, slots, 2 * adapter.n, false), "gradients"));
    ck_ok(pw_optim_place(&optim, &gradients, PW_OPTIM_SGD, slots, 2 * adapter.n, false));
    ck_ok(pw_pass_connect(&pass, &optim));
    ck_ok(pw_packed_init(&batch, &a, T, 1));
    batch.n_tokens = T, batch.n_trained = T - 1, batch.n_seqs = 1;
    for (int i = 0; i < T; i++) {
        batch.ids[i] = (11 * i + 5) % V;
        batch.positions[i] = i;
        batch.targets[i] = i + 1 < T ? (11 * (i + 1) + 5) % V : -1;
    }
    batch.seq_start[0] = 0, batch.seq_start[1] = batch.seq_len[0] = T;
    ck_ok(pw_optim_clear(m->dev, &optim));
    const struct pw_pass_options o = {.backward = true, .dloss = 1.0 / (T - 1)};
    for (int i = 0; i < 2; i++) ck_ok(pw_pass_run(&pass, &batch, &o, &loss[i]));
    *out = pw_alloc(optim.region);
    ck_ok(pw_dev_get(m->dev, *out, optim.grads, optim.region));
    ck_ok(pw_model_attach(m, NULL));
    pw_pass_close(&pass);
    pw_pool_close(&gradients);
    pw_pool_close(&pool);
    pw_adapter_free(&adapter);
    pw_arena_free(&a);
    return optim.region;
}

static void all_finite(const float *x, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++) ck_assert_msg(isfinite(x[i]), "%s: element %zu is %g", what, i, (double)x[i]);
}

START_TEST(the_same_logits)
{
    static const char *const types[] = {"nf4", "bf16"};
    struct pw_dev *dev;
    if (!test_open_card(&dev, "")) return;
    const char *dir = save_model();
    for (int k = 0; k < 2; k++) {
        float there[3 * V], streamed[3 * V];
        struct pw_model *m = load(dev, dir, types[k], 0);
        logits_of(m, there);
        all_finite(there, 3 * V, "logits");
        for (int count = 1; count <= LAYERS; count++) {
            struct pw_model *s = load(dev, dir, types[k], count);
            logits_of(s, streamed);
            ck_assert_msg(memcmp(there, streamed, sizeof there) == 0, "%s, %d layers streamed: the logits differ", types[k], count);
            pw_model_free(s);
        }
        pw_model_free(m);
    }
    pw_dev_close(dev);
}
END_TEST

START_TEST(the_same_gradients)
{
    static const struct { int kept; bool offload; } cases[] = {{LAYERS, false}, {1, true}};
    struct pw_dev *dev;
    double loss[2], streamed_loss[2];
    char *there, *streamed;
    if (!test_open_card(&dev, "")) return;
    const char *dir = save_model();
    struct pw_model *m = load(dev, dir, "nf4", 0);
    const size_t n = gradients_of(m, 1, false, &there, loss);
    all_finite((const float *)(const void *)there, n / 4, "gradients");
    for (int count = 1; count <= LAYERS; count++) {
        struct pw_model *s = load(dev, dir, "nf4", count);
        for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
            ck_assert_uint_eq(gradients_of(s, cases[k].kept, cases[k].offload, &streamed, streamed_loss), n);
            ck_assert_msg(memcmp(loss, streamed_loss, sizeof loss) == 0 && memcmp(there, streamed, n) == 0, "%d layers streamed, %d blocks kept%s: gradients or loss differ", count,
                          cases[k].kept, cases[k].offload ? ", inputs on the host" : "");
            pw_free(streamed);
        }
        pw_model_free(s);
    }
    pw_free(there);
    pw_model_free(m);
    pw_dev_close(dev);
}
END_TEST

START_TEST(refused)
{
    const struct pw_model_options opt = {.stream = 2};
    struct pw_dev *cpu;
    struct pw_model *m;
    const char *dir = save_model();
    ck_ok(pw_dev_open(&cpu, NULL));
    ck_fails(pw_model_load(&m, cpu, dir, &opt), PW_E_USAGE, "layers are streamed to a card");
    pw_dev_close(cpu);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("stream");
    TCase *t = tcase_create("simt");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, the_same_logits);
    tcase_add_test(t, the_same_gradients);
    tcase_add_test(t, refused);
    suite_add_tcase(s, t);
    return test_run(s);
}
