/* NF4, FP4 and int8: codes bit for bit against bitsandbytes, against a search over the table, and the layouts' corners. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "base/memory.h"
#include "base/rng.h"
#include "kernels/backend.h"
#include "tests/fixtures/bnb_codes.h"
#include "tests/support.h"

static struct pw_dev *open_device(const char *kind)
{
    struct pw_dev *d;
    ck_assert_int_eq(pw_dev_open(&d, &(struct pw_dev_options){ .kind = kind, .threads = 2 }), 0);
    return d;
}
static const char *const kinds[] = { "ref", "cpu", "simt" };

/* encode and decode with host memory on both sides, whatever the device. `lead`: bytes by which data and x are moved off alignment. */
static int encode_on(struct pw_dev *dev, struct pw_weight *w, const float *x, size_t lead)
{
    struct pw_tensor from = pw_tensor2((void *)(uintptr_t)x, PW_F32, w->n_out, w->n_in);
    if (dev->host) return pw_encode(dev, w, from);
    size_t data = pw_weight_data_bytes(w), scales = (size_t)pw_weight_blocks(w) * sizeof(float), values = pw_bytes(from);
    void *m[3];
    ck_ok(dev->backend->take(dev, &m[0], data + lead));
    ck_ok(dev->backend->take(dev, &m[1], scales));
    ck_ok(dev->backend->take(dev, &m[2], values + lead));
    struct pw_weight there = *w;
    there.data = (char *)m[0] + lead;
    there.absmax = m[1];
    from.data = (char *)m[2] + lead;
    ck_ok(pw_dev_put(dev, (char *)m[0] + lead, w->data, data)); /* what must not stay */
    ck_ok(pw_dev_put(dev, from.data, x, values));
    int rc = pw_encode(dev, &there, from);
    rc = rc ? rc : pw_dev_get(dev, (void *)(uintptr_t)w->data, there.data, data);
    rc = rc ? rc : pw_dev_get(dev, (void *)(uintptr_t)w->absmax, there.absmax, scales);
    for (int i = 0; i < 3; i++) dev->backend->give(dev, m[i]);
    return rc;
}
static void decode_on(struct pw_dev *dev, float *out, const struct pw_weight *w)
{
    struct pw_tensor to = pw_tensor2(out, PW_F32, w->n_out, w->n_in);
    if (dev->host) {
        ck_ok(pw_decode(dev, to, w, 0));
        return;
    }
    struct pw_weight there = *w;
    void *m[2];
    ck_ok(dev->backend->take(dev, &m[0], pw_weight_put_bytes(w)));
    ck_ok(dev->backend->take(dev, &m[1], pw_bytes(to)));
    ck_ok(pw_weight_put(dev, m[0], &there));
    to.data = m[1];
    ck_ok(pw_decode(dev, to, &there, 0));
    ck_ok(pw_dev_get(dev, out, m[1], pw_bytes(to)));
    for (int i = 0; i < 2; i++) dev->backend->give(dev, m[i]);
}

START_TEST(bitsandbytes)
{
    struct pw_dev *dev = open_device(kinds[_i % 3]);
    bool nf4 = _i < 3;
    float x[BNB_N], out[BNB_N], absmax[BNB_BLOCKS];
    uint8_t code[(BNB_N + 1) / 2];
    memcpy(x, bnb_values, sizeof x);
    /* one row, and 337 rows of one element: blocks run over the flat sequence, whatever the rows are */
    for (int shape = 0; shape < 2; shape++) {
        struct pw_weight w = { .n_out = shape ? BNB_N : 1, .n_in = shape ? 1 : BNB_N, .type = nf4 ? PW_Q_NF4 : PW_Q_FP4, .dtype = PW_F32, .data = code, .absmax = absmax, .block = 64 };
        memset(code, 0xee, sizeof code);
        ck_ok(encode_on(dev, &w, x, shape ? 4 : 0));
        ck_assert_mem_eq(absmax, nf4 ? bnb_nf4_absmax : bnb_fp4_absmax, sizeof absmax);
        const uint8_t *want = nf4 ? bnb_nf4_codes : bnb_fp4_codes;
        for (int i = 0; i < BNB_N; i++)
            ck_assert_msg((code[i / 2] >> (i % 2 ? 0 : 4) & 15) == (want[i / 2] >> (i % 2 ? 0 : 4) & 15), "element %d (%.9g): %02x, bitsandbytes %02x", i, (double)x[i], code[i / 2], want[i / 2]);
        test_fill_nan(out, BNB_N);
        decode_on(dev, out, &w);
        const uint32_t *decoded = nf4 ? bnb_nf4_decoded : bnb_fp4_decoded;
        for (int i = 0; i < BNB_N; i++) {
            float v;
            memcpy(&v, decoded + i, 4);
            ck_assert_msg(out[i] == v, "element %d: %.9g, bitsandbytes %.9g", i, (double)out[i], (double)v);
        }
    }
    pw_dev_close(dev);
}
END_TEST

/* The nearest table value, except within 1e-6 of the middle between two (the thresholds are constants of the format, not exact middles). */
START_TEST(nearest)
{
    struct pw_rng r = pw_rng_make(1, PW_STREAM_TEST);
    for (int i = 0; i < 200000; i++) {
        float x = (float)(2 * pw_rng_uniform(&r) - 1);
        int best = 0;
        for (int c = 1; c < 16; c++)
            if (fabs((double)pw_nf4_table[c] - (double)x) < fabs((double)pw_nf4_table[best] - (double)x)) best = c;
        int got = pw_nf4_code(x);
        double loss = fabs((double)pw_nf4_table[got] - (double)x) - fabs((double)pw_nf4_table[best] - (double)x);
        ck_assert_msg(loss <= 1e-6, "%.9g: code %d, nearest %d", (double)x, got, best);
        best = 0;
        for (int c = 1; c < 16; c++)
            if (fabs((double)pw_fp4_table[c] - (double)x) < fabs((double)pw_fp4_table[best] - (double)x)) best = c;
        got = pw_fp4_code(x);
        loss = fabs((double)pw_fp4_table[got] - (double)x) - fabs((double)pw_fp4_table[best] - (double)x);
        ck_assert_msg(loss <= 1e-6, "%.9g: fp4 code %d, nearest %d", (double)x, got, best);
    }
    for (int i = 0; i < 15; i++) { /* strictly greater: the threshold itself belongs to the lower code */
        ck_assert_int_eq(pw_nf4_code(pw_nf4_threshold[i]), i);
        ck_assert_int_eq(pw_nf4_code(nextafterf(pw_nf4_threshold[i], 2)), i + 1);
    }
    for (int i = 0; i < 16; i++) ck_assert_int_eq(pw_nf4_code(pw_nf4_table[i]), i);
}
END_TEST

START_TEST(zeros_and_tiny)
{
    struct pw_dev *dev = open_device(kinds[_i]);
    float x[192] = { 0 }, out[192], absmax[3];
    uint8_t code[192];
    for (int i = 64; i < 128; i++) x[i] = i % 3 ? 1e-41f : 0; /* subnormal: 1/absmax is not finite */
    for (int i = 128; i < 192; i++) x[i] = (float)(i - 160) / 31;
    for (enum pw_qtype q = PW_Q_NF4; q <= PW_Q_INT8; q++) {
        struct pw_weight w = { .n_out = 3, .n_in = 64, .type = q, .dtype = PW_F32, .data = code, .absmax = absmax, .block = 64 };
        ck_ok(encode_on(dev, &w, x, 0));
        decode_on(dev, out, &w);
        for (int i = 0; i < 64; i++) ck_assert_msg(out[i] == 0, "%s: a block of zeros gives %g", pw_qtype_name(q), (double)out[i]);
        for (int i = 64; i < 128; i++) ck_assert_msg(fabsf(out[i]) <= 1e-41f, "%s: tiny gives %g", pw_qtype_name(q), (double)out[i]);
        if (q == PW_Q_NF4) ck_assert_int_eq(code[0], 0x77);
        if (q == PW_Q_INT8)
            for (int i = 128; i < 192; i++) ck_assert_msg(fabsf(out[i] - x[i]) <= absmax[2] / 253, "int8: %g for %g", (double)out[i], (double)x[i]);
    }
    x[70] = NAN;
    struct pw_weight w = { .n_out = 3, .n_in = 64, .type = PW_Q_NF4, .dtype = PW_F32, .data = code, .absmax = absmax, .block = 64 };
    ck_fails(encode_on(dev, &w, x, 0), PW_E_NUMERIC, dev->host ? "encode: x: element (1, 6)" : "encode: x: element 70");
    pw_dev_close(dev);
}
END_TEST

/* Kernels have paths for blocks of a power of two and for others, for rows and addresses of any kind: all give the bytes of ref. */
START_TEST(kernels_agree_with_ref)
{
    static const struct { int64_t n_out, n_in; int block; size_t lead; } shapes[] = {
        { 1, 1, 64, 0 }, { 3, 7, 64, 0 }, { 9, 65, 64, 0 }, { 9, 65, 64, 4 }, { 5, 64, 8, 0 }, { 4, 130, 256, 0 }, { 7, 33, 6, 0 }, { 7, 33, 2, 0 }, { 3, 1000, 512, 0 },
        { 2, 2051, 32, 0 }, { 40, 128, 128, 0 }, { 300, 172, 64, 0 },
    };
    static const char *const levels[] = { NULL, "generic", "avx2", "avx512" };
    struct pw_dev *ref = open_device("ref"), *dev = NULL;
    if (_i == 0) dev = open_device("simt");
    else if (pw_dev_open(&dev, &(struct pw_dev_options){ .kind = "cpu", .threads = 2, .level = levels[_i] }) < 0) {
        test_skip("this processor has no %s", levels[_i]);
        pw_dev_close(ref);
        return;
    }
    struct pw_rng r = pw_rng_make(3, PW_STREAM_TEST);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (enum pw_qtype q = PW_Q_NF4; q <= PW_Q_INT8; q++) {
            struct pw_weight w = { .n_out = shapes[s].n_out, .n_in = shapes[s].n_in, .type = q, .dtype = PW_F32, .block = shapes[s].block };
            int64_t n = w.n_out * w.n_in;
            size_t bytes = pw_weight_data_bytes(&w), scales = (size_t)pw_weight_blocks(&w);
            float *x = malloc((size_t)n * sizeof *x), *absmax = malloc(2 * scales * sizeof *absmax);
            uint8_t *code = malloc(2 * bytes);
            memset(code, 0xee, 2 * bytes);
            for (int64_t i = 0; i < n; i++) x[i] = (float)(2 * pw_rng_uniform(&r) - 1) * (i % 91 ? 1 : 0) * (i / 100 % 3 ? 1 : 1e-20f);
            for (int i = 0; i < 15 && i < n; i++) x[i] = i < 14 ? pw_nf4_threshold[i] : 1; /* with absmax 1: right on the thresholds */
            w.data = code;
            w.absmax = absmax;
            ck_ok(encode_on(ref, &w, x, 0));
            w.data = code + bytes;
            w.absmax = absmax + scales;
            ck_ok(encode_on(dev, &w, x, shapes[s].lead));
            for (size_t i = 0; i < scales; i++) ck_assert_msg(absmax[i] == absmax[scales + i], "%s, shape %zu: absmax[%zu] %g, ref %g", pw_qtype_name(q), s, i, (double)absmax[scales + i], (double)absmax[i]);
            for (size_t i = 0; i < bytes; i++) ck_assert_msg(code[i] == code[bytes + i], "%s, shape %zu: byte %zu is %02x, ref %02x", pw_qtype_name(q), s, i, code[bytes + i], code[i]);
            free(x);
            free(absmax);
            free(code);
        }
    pw_dev_close(dev);
    pw_dev_close(ref);
}
END_TEST

START_TEST(number_formats)
{
    for (uint32_t i = 0; i < 65536; i++) { /* every 16-bit number comes back as itself; NaN as NaN */
        float h = pw_f16_to_f32((uint16_t)i), b = pw_bf16_to_f32((uint16_t)i);
        if (h == h) ck_assert_int_eq(pw_f32_to_f16(h), i);
        else ck_assert(pw_f16_to_f32(pw_f32_to_f16(h)) != pw_f16_to_f32(pw_f32_to_f16(h)));
        if (b == b) ck_assert_int_eq(pw_f32_to_bf16(b), i);
        else ck_assert(pw_bf16_to_f32(pw_f32_to_bf16(b)) != pw_bf16_to_f32(pw_f32_to_bf16(b)));
    }
    ck_assert_int_eq(pw_f32_to_f16(65519.0f), 0x7bff);
    ck_assert_int_eq(pw_f32_to_f16(65520.0f), 0x7c00);
    ck_assert_int_eq(pw_f32_to_f16(0x1p-25f), 0);            /* half of the smallest: to even */
    ck_assert_int_eq(pw_f32_to_f16(0x1.000002p-25f), 1);
    ck_assert_int_eq(pw_f32_to_f16(1.0f + 0x1p-11f), 0x3c00);
    ck_assert_int_eq(pw_f32_to_f16(1.0f + 0x3p-11f), 0x3c02);
    ck_assert_int_eq(pw_f32_to_bf16(1.0f + 0x1p-8f), 0x3f80);
    ck_assert_int_eq(pw_f32_to_bf16(1.0f + 0x3p-8f), 0x3f82);
    ck_assert_int_eq(pw_f32_to_bf16(3.4e38f), 0x7f80);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("op_codes");
    TCase *t = tcase_create("codes");
    tcase_add_loop_test(t, bitsandbytes, 0, 6);
    tcase_add_test(t, nearest);
    tcase_add_loop_test(t, zeros_and_tiny, 0, 3);
    tcase_add_loop_test(t, kernels_agree_with_ref, 0, 4);
    tcase_add_test(t, number_formats);
    suite_add_tcase(s, t);
    return test_run(s);
}
