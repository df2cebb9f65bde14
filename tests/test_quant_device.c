/* Quantising by a device whose memory is not the host's (quant/stage.h): the real CUDA kernels on the processor, against the encoder of the host, to the bit. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/rng.h"
#include "infer/model.h"
#include "quant/stage.h"
#include "tests/support.h"

#define FIXTURES "tests/fixtures/train_golden"
enum { LAYERS = 2 };

static void same_bytes(struct pw_dev *dev, const void *there, const void *here, size_t bytes, const char *what)
{
    char *got = pw_alloc(bytes ? bytes : 1);
    ck_assert_ptr_nonnull(got);
    ck_ok(pw_dev_get(dev, got, there, bytes));
    for (size_t i = 0; i < bytes; i++)
        ck_assert_msg(got[i] == ((const char *)here)[i], "%s: byte %zu of %zu is %02x on the device, %02x on the processor", what, i, bytes, got[i] & 255, ((const char *)here)[i] & 255);
    pw_free(got);
}

static void same_weight(struct pw_dev *dev, const struct pw_weight *there, const struct pw_weight *here, const char *what)
{
    const size_t blocks = (size_t)pw_weight_blocks(here);
    ck_assert_int_eq(there->type, here->type);
    same_bytes(dev, there->data, here->data, pw_weight_data_bytes(here), what);
    ck_assert_int_eq(there->absmax_q != NULL, here->absmax_q != NULL);
    if (here->absmax_q) {
        same_bytes(dev, there->absmax_q, here->absmax_q, blocks, what);
        same_bytes(dev, there->nested_absmax, here->nested_absmax, (blocks + (size_t)here->nested_block - 1) / (size_t)here->nested_block * 4, what);
        same_bytes(dev, there->nested_code, here->nested_code, 1024, what);
        ck_assert(memcmp(&there->nested_offset, &here->nested_offset, sizeof here->nested_offset) == 0);
    } else
        same_bytes(dev, there->absmax, here->absmax, 4 * blocks, what);
}

/* A model that is quantised while it is loaded: what the device made itself is what the processor makes, to the bit. */
START_TEST(loads_the_same_codes)
{
    static const struct { const char *type; bool nested; const char *head; } cases[] = {{"nf4", false, ""}, {"nf4", true, "int8"}, {"fp4", true, ""}, {"int8", false, "nf4"}};
    struct pw_dev *dev, *cpu;
    if (!test_open_card(&dev, "")) return;
    ck_ok(pw_dev_open(&cpu, NULL));
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const struct pw_model_options opt = {.quantise = cases[k].type, .double_quant = cases[k].nested, .head_type = cases[k].head};
        struct pw_model *there, *here;
        ck_ok(pw_model_load(&there, dev, FIXTURES "/model", &opt));
        ck_ok(pw_model_load(&here, cpu, FIXTURES "/model", &opt));
        for (int i = 0; i < LAYERS; i++)
            for (int l = 0; l < PW_LIN_COUNT; l++)
                if (pw_linear_has(&here->config, l)) same_weight(dev, &there->layers[i].linear[l], &here->layers[i].linear[l], cases[k].type);
        if (cases[k].head[0]) same_weight(dev, &there->head, &here->head, cases[k].head);
        pw_model_free(there);
        pw_model_free(here);
    }
    pw_dev_close(cpu);
    pw_dev_close(dev);
}
END_TEST

/* Tiles smaller than the weight, rows that are no whole blocks, a last tile and a last block that are short, and each stored type at an odd address. */
START_TEST(quantises_in_tiles)
{
    static const struct { int64_t n_out, n_in; const char *type; bool nested; enum pw_dtype stored; } cases[] = {
        {70, 40, "nf4", true, PW_BF16}, {33, 24, "nf4", false, PW_F16}, {131, 17, "fp4", true, PW_F32}, {37, 29, "int8", false, PW_BF16}, {64, 64, "nf4", true, PW_F32},
    };
    struct pw_dev *dev, *cpu;
    if (!test_open_card(&dev, "reverse")) return;
    ck_ok(pw_dev_open(&cpu, NULL));
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const int64_t n = cases[k].n_out * cases[k].n_in;
        const size_t size = pw_dtype_bytes(cases[k].stored);
        struct pw_rng rng = pw_rng_make(k + 1, PW_STREAM_TEST);
        struct pw_quant_options q;
        struct pw_weight there, here;
        struct pw_quant_stage stage;
        struct pw_pool pool;
        char *stored = pw_alloc((size_t)n * size + 1);
        for (int64_t i = 0; i < n; i++) {
            const float x = (float)pw_rng_normal(&rng);
            uint32_t bits;
            memcpy(&bits, &x, 4);
            const uint16_t half = cases[k].stored == PW_F16 ? pw_f32_to_f16(x) : (uint16_t)(bits >> 16);
            memcpy(stored + 1 + (size_t)i * size, size == 4 ? (const void *)&x : (const void *)&half, size);
        }
        const struct pw_tensor src = pw_tensor2(stored + 1, cases[k].stored, cases[k].n_out, cases[k].n_in);
        ck_ok(pw_quant_parse(cases[k].type, &q));
        q.double_quant = cases[k].nested;
        const size_t bytes = pw_quant_bytes(cases[k].n_out, cases[k].n_in, &q);
        void *memory = pw_alloc(bytes);
        ck_ok(pw_pool_open(&pool, dev, bytes, "test"));
        ck_ok(pw_quant_place(&there, cases[k].n_out, cases[k].n_in, &q, pw_pool_take(&pool, bytes), bytes));
        ck_ok(pw_quant_place(&here, cases[k].n_out, cases[k].n_in, &q, memory, bytes));
        const struct pw_quant_stage_size s = {.widest = cases[k].n_in, .most = n, .block = q.block, .tile = 512};
        ck_ok(pw_quant_stage_open(&stage, dev, &s));
        ck_ok(pw_quant_stage_encode(&stage, &there, src));
        ck_ok(pw_quant_encode(cpu, &here, src, &q));
        same_weight(dev, &there, &here, cases[k].type);
        pw_quant_stage_close(&stage);
        pw_pool_close(&pool);
        pw_free(memory);
        pw_free(stored);
    }
    pw_dev_close(cpu);
    pw_dev_close(dev);
}
END_TEST

/* A random model is made of the same bytes by any device, dense weights rounded to its own type. */
START_TEST(draws_the_same_codes)
{
    const struct pw_model_config config = {.family = "llama", .vocab = 40, .layers = 2, .hidden = 32, .heads = 2, .kv_heads = 1, .head_dim = 16, .ffn = 72, .context = 16,
                                           .norm_eps = 1e-5, .rope_theta = 1e4, .attn_scale = 0.25, .embed_scale = 1, .init_range = 0.02};
    const struct pw_model_options opt = {.quantise = "nf4", .double_quant = true};
    struct pw_dev *dev, *cpu;
    struct pw_model *there, *here;
    if (!test_open_card(&dev, "random:2")) return;
    ck_ok(pw_dev_open(&cpu, NULL));
    ck_ok(pw_model_random(&there, dev, &config, &opt, 3));
    ck_ok(pw_model_random(&here, cpu, &config, &opt, 3));
    ck_assert_uint_eq(here->pool.used, here->pool.bytes);
    ck_assert_uint_eq(there->pool.used, there->pool.bytes);
    for (int i = 0; i < 2; i++)
        for (int l = 0; l < PW_LIN_COUNT; l++)
            if (pw_linear_has(&config, l)) same_weight(dev, &there->layers[i].linear[l], &here->layers[i].linear[l], "random nf4");
    const float *table = here->embed.data;
    double sum = 0, squares = 0;
    uint16_t rounded[40 * 32];
    for (int i = 0; i < 40 * 32; i++) {
        rounded[i] = pw_f32_to_bf16(table[i]);
        sum += (double)table[i];
        squares += (double)table[i] * (double)table[i];
    }
    same_bytes(dev, there->embed.data, rounded, sizeof rounded, "the embedding");
    ck_close(sqrt(squares / (40 * 32)), 0.02, 0, 0.1);   /* 1280 uniform numbers: the deviation of their spread is 1.3 % */
    ck_close(sum / (40 * 32), 0, 4 * 0.02 / sqrt(40 * 32), 0);
    ck_assert(memcmp(here->layers[0].linear[PW_LIN_Q].data, here->layers[1].linear[PW_LIN_Q].data, 32 * 16) != 0);
    pw_model_free(there);
    pw_model_free(here);
    pw_dev_close(cpu);
    pw_dev_close(dev);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("quant_device");
    TCase *t = tcase_create("simt");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, loads_the_same_codes);
    tcase_add_test(t, quantises_in_tiles);
    tcase_add_test(t, draws_the_same_codes);
    suite_add_tcase(s, t);
    return test_run(s);
}
