/* NF4, FP4 and int8: codes bit for bit against bitsandbytes, against a search over the table, and the layouts' corners. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "base/error.h"
#include "base/memory.h"
#include "base/rng.h"
#include "kernels/op.h"
#include "tests/fixtures/bnb_codes.h"
#include "tests/support.h"

static struct pw_dev *open_device(const char *kind)
{
    struct pw_dev *d;
    ck_assert_int_eq(pw_dev_open(&d, &(struct pw_dev_options){ .kind = kind, .threads = 2 }), 0);
    return d;
}
static const char *const kinds[] = { "ref", "cpu" };

START_TEST(bitsandbytes)
{
    struct pw_dev *dev = open_device(kinds[_i % 2]);
    bool nf4 = _i < 2;
    float x[BNB_N], out[BNB_N], absmax[BNB_BLOCKS];
    uint8_t code[(BNB_N + 1) / 2];
    memcpy(x, bnb_values, sizeof x);
    /* one row, and 337 rows of one element: blocks run over the flat sequence, whatever the rows are */
    for (int shape = 0; shape < 2; shape++) {
        struct pw_weight w = { .n_out = shape ? BNB_N : 1, .n_in = shape ? 1 : BNB_N, .type = nf4 ? PW_Q_NF4 : PW_Q_FP4, .dtype = PW_F32, .data = code, .absmax = absmax, .block = 64 };
        memset(code, 0xee, sizeof code);
        ck_ok(pw_encode(dev, &w, pw_tensor2(x, PW_F32, w.n_out, w.n_in)));
        ck_assert_mem_eq(absmax, nf4 ? bnb_nf4_absmax : bnb_fp4_absmax, sizeof absmax);
        const uint8_t *want = nf4 ? bnb_nf4_codes : bnb_fp4_codes;
        for (int i = 0; i < BNB_N; i++)
            ck_assert_msg((code[i / 2] >> (i % 2 ? 0 : 4) & 15) == (want[i / 2] >> (i % 2 ? 0 : 4) & 15), "element %d (%.9g): %02x, bitsandbytes %02x", i, (double)x[i], code[i / 2], want[i / 2]);
        test_fill_nan(out, BNB_N);
        ck_ok(pw_decode(dev, pw_tensor2(out, PW_F32, w.n_out, w.n_in), &w, 0));
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
        ck_ok(pw_encode(dev, &w, pw_tensor2(x, PW_F32, 3, 64)));
        ck_ok(pw_decode(dev, pw_tensor2(out, PW_F32, 3, 64), &w, 0));
        for (int i = 0; i < 64; i++) ck_assert_msg(out[i] == 0, "%s: a block of zeros gives %g", pw_qtype_name(q), (double)out[i]);
        for (int i = 64; i < 128; i++) ck_assert_msg(fabsf(out[i]) <= 1e-41f, "%s: tiny gives %g", pw_qtype_name(q), (double)out[i]);
        if (q == PW_Q_NF4) ck_assert_int_eq(code[0], 0x77);
        if (q == PW_Q_INT8)
            for (int i = 128; i < 192; i++) ck_assert_msg(fabsf(out[i] - x[i]) <= absmax[2] / 253, "int8: %g for %g", (double)out[i], (double)x[i]);
    }
    x[70] = NAN;
    struct pw_weight w = { .n_out = 3, .n_in = 64, .type = PW_Q_NF4, .dtype = PW_F32, .data = code, .absmax = absmax, .block = 64 };
    ck_fails(pw_encode(dev, &w, pw_tensor2(x, PW_F32, 3, 64)), PW_E_NUMERIC, "encode: x: element (1, 6)");
    pw_dev_close(dev);
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
    tcase_add_loop_test(t, bitsandbytes, 0, 4);
    tcase_add_test(t, nearest);
    tcase_add_loop_test(t, zeros_and_tiny, 0, 2);
    tcase_add_test(t, number_formats);
    suite_add_tcase(s, t);
    return test_run(s);
}
