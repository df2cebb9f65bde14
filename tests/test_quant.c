/* Quantising: bit for bit what bitsandbytes makes (tests/fixtures/bnb.safetensors, made by tools/reference/bnb_fixtures.py), zero blocks,
 * tiles, and whole folders. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/safetensors.h"
#include "quant/dynamic_map.h"
#include "quant/quant.h"
#include "tests/support.h"

static struct pw_dev *dev;
static struct pw_safetensors bnb;

static void setup(void)
{
    const struct pw_dev_options opt = {.kind = "cpu", .threads = 1};
    ck_ok(pw_dev_open(&dev, &opt));
    ck_ok(pw_safetensors_open(&bnb, "tests/fixtures/bnb.safetensors"));
}

static void teardown(void)
{
    pw_safetensors_close(&bnb);
    pw_dev_close(dev);
}

/* The matrices of bnb_fixtures.py. */
static float *matrix(int64_t n, bool zeros)
{
    float *x = pw_alloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        uint64_t h = (uint64_t)(i + 1) * 2654435761u & 0xFFFFFFFFu;
        h ^= h >> 15;
        h = h * 2246822519u & 0xFFFFFFFFu;
        const double u = (double)(h >> 8) / 8388608.0 - 1.0;
        x[i] = zeros && i >= 128 && i < 192 ? 0 : (float)(u * u * u / 50.0);
    }
    return x;
}

static const void *expected(const char *kind, int64_t a, int64_t b, const char *what, size_t *bytes)
{
    char name[128];
    snprintf(name, sizeof name, "%s.%dx%d.%s", kind, (int)a, (int)b, what);
    const struct pw_st_tensor *t = pw_safetensors_find(&bnb, name);
    if (bytes)
        *bytes = t ? t->bytes : 0;
    return t ? t->data : NULL;
}

static const struct { int64_t a, b; } shapes[] = {{64, 64}, {64, 172}, {5, 7}, {3, 43}, {192, 130}, {300, 128}};

static void quantise(struct pw_weight *w, void **memory, float *x, int64_t a, int64_t b, const char *kind, bool nested)
{
    struct pw_quant_options o;
    ck_ok(pw_quant_parse(kind, &o));
    o.double_quant = nested;
    const size_t bytes = pw_quant_bytes(a, b, &o);
    *memory = pw_alloc(bytes);
    memset(*memory, 0xA5, bytes);
    ck_ok(pw_quant_place(w, a, b, &o, *memory, bytes));
    ck_ok(pw_quant_encode(dev, w, pw_tensor2(x, PW_F32, a, b), &o));
}

/* FP4 has a zero of each sign, codes 0 and 8; the CPU library gives tiny values the zero of the other sign, CUDA and we that of theirs. */
static int code(int c, const char *kind) { return kind[0] == 'f' && c == 8 ? 0 : c; }

START_TEST(codes_and_scales_are_those_of_bitsandbytes)
{
    const int64_t a = shapes[_i / 2].a, b = shapes[_i / 2].b;
    const char *kind = _i % 2 ? "fp4" : "nf4";
    float *x = matrix(a * b, a == 64 && b == 172);
    struct pw_weight w;
    void *memory;
    size_t bytes;
    quantise(&w, &memory, x, a, b, kind, false);
    const uint8_t *packed = expected(kind, a, b, "packed", &bytes);
    ck_assert_uint_eq(bytes, (size_t)(a * b + 1) / 2);
    size_t n = (size_t)(a * b) / 2, wrong = 0;   /* the low nibble of a last odd byte is nobody's */
    for (size_t i = 0; i < n; i++)
        wrong += code(packed[i] >> 4, kind) != code(((const uint8_t *)w.data)[i] >> 4, kind) ||
                 code(packed[i] & 15, kind) != code(((const uint8_t *)w.data)[i] & 15, kind);
    ck_assert_uint_eq(wrong, 0);
    if (a * b % 2)
        ck_assert_int_eq(code(packed[n] >> 4, kind), code(((const uint8_t *)w.data)[n] >> 4, kind));
    const float *absmax = expected(kind, a, b, "absmax", &bytes);
    ck_assert_uint_eq(bytes, 4 * (size_t)pw_weight_blocks(&w));
    ck_assert_mem_eq(absmax, w.absmax, bytes);
    pw_free(memory);
    pw_free(x);
}
END_TEST

START_TEST(double_quantisation_is_that_of_bitsandbytes)
{
    const int64_t a = shapes[_i].a, b = shapes[_i].b;
    float *x = matrix(a * b, a == 64 && b == 172);
    struct pw_weight w;
    void *memory;
    size_t bytes;
    quantise(&w, &memory, x, a, b, "nf4", true);
    const float *offset = expected("nf4", a, b, "offset", NULL);
    ck_assert(*offset == w.nested_offset);
    const float *nested = expected("nf4", a, b, "nested_absmax", &bytes);
    ck_assert_mem_eq(nested, w.nested_absmax, bytes);
    ck_assert_mem_eq(expected("nf4", a, b, "nested_code", NULL), w.nested_code, 1024);
    /* Codes: equal, or the two values on either side of a midpoint that the scale is within 2e-5 of (the CPU library of bitsandbytes looks
     * the value up in a table; on CUDA it compares with the midpoint, as we do). */
    const float *absmax = expected("nf4", a, b, "absmax", NULL);
    const uint8_t *q = expected("nf4", a, b, "absmax_q", &bytes);
    ck_assert_uint_eq(bytes, (size_t)pw_weight_blocks(&w));
    int differ = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (q[i] == w.absmax_q[i] || nested[i / 256] == 0)   /* one block alone has deviation 0; theirs is a NaN then */
            continue;
        const int low = q[i] < w.absmax_q[i] ? q[i] : w.absmax_q[i];
        ck_assert_int_eq(abs(q[i] - w.absmax_q[i]), 1);
        const double v = (absmax[i] - *offset) / nested[i / 256], middle = (pw_dynamic_map[low] + pw_dynamic_map[low + 1]) / 2.0;
        ck_close(v, middle, 2e-5, 0);
        differ++;
    }
    ck_assert_int_le(differ, 1);
    pw_free(memory);
    pw_free(x);
}
END_TEST

START_TEST(zero_blocks_decode_to_zero)
{
    static float x[3 * 86];                     /* four blocks and a short one, over row ends */
    for (int i = 0; i < 64; i++)
        x[i] = (float)i / 64;
    for (int nested = 0; nested < 2; nested++) {
        struct pw_weight w;
        void *memory;
        float out[3 * 86];
        quantise(&w, &memory, x, 3, 86, "nf4", nested);
        test_fill_nan(out, 3 * 86);
        ck_ok(pw_decode(dev, pw_tensor2(out, PW_F32, 3, 86), &w, 0));
        for (int i = 64; i < 3 * 86; i++)
            ck_assert_msg(out[i] == 0, "nested %d, element %d is %g", nested, i, (double)out[i]);
        for (int i = 0; i < 64; i++)
            ck_close(out[i], x[i], 0.16, 0);    /* half the widest step of the table (0.30), and nested scales */
        pw_free(memory);
    }
}
END_TEST

START_TEST(tiles_make_no_difference)
{
    const int64_t a = 4096, b = 130;            /* a tile has fewer rows than that: 2016 at most */
    float *x = matrix(a * b, false);
    struct pw_weight w, whole;
    void *memory, *other;
    struct pw_quant_options o;
    quantise(&w, &memory, x, a, b, "nf4", false);
    ck_assert_int_lt(pw_quant_tile_rows(&w), a);
    ck_ok(pw_quant_parse("nf4", &o));
    const size_t bytes = pw_quant_bytes(a, b, &o);
    other = pw_alloc_zero(1, bytes);
    ck_ok(pw_quant_place(&whole, a, b, &o, other, bytes));
    ck_ok(pw_encode(dev, &whole, pw_tensor2(x, PW_F32, a, b)));
    ck_assert_mem_eq(w.data, whole.data, (size_t)(a * b) / 2);
    ck_assert_mem_eq(w.absmax, whole.absmax, 4 * (size_t)pw_weight_blocks(&w));
    pw_free(other);
    pw_free(memory);
    pw_free(x);
}
END_TEST

START_TEST(names)
{
    struct pw_quant_options o;
    ck_fails(pw_quant_parse("nf5", &o), PW_E_USAGE, "nf5");
    ck_assert_ptr_nonnull(strstr(pw_error_hint_text(), "nf4"));
    ck_ok(pw_quant_parse("q4_K", &o));
    ck_assert_int_eq(o.type, PW_Q_Q4_K);
    ck_fails(pw_quant_parse("q6_k", &o), PW_E_USAGE, "q6_k");
    ck_assert_ptr_nonnull(strstr(pw_error_hint_text(), "q6_K"));
    ck_fails(pw_quant_parse("q5_K", &o), PW_E_UNSUPPORTED, "type q5_K is read, but not made");
}
END_TEST

START_TEST(nan_is_refused)
{
    float x[64] = {0};
    struct pw_quant_options o;
    struct pw_weight w;
    x[5] = NAN;
    ck_ok(pw_quant_parse("nf4", &o));
    const size_t bytes = pw_quant_bytes(1, 64, &o);
    void *memory = pw_alloc(bytes);
    ck_ok(pw_quant_place(&w, 1, 64, &o, memory, bytes));
    ck_fails(pw_quant_encode(dev, &w, pw_tensor2(x, PW_F32, 1, 64), &o), PW_E_NUMERIC, "not a number");
    pw_free(memory);
}
END_TEST

/* ---- folders ---- */

static void sum_reports(void *ctx, const struct pw_quant_report *r)
{
    double *worst = ctx;
    if (!(r->rmse <= *worst))
        *worst = r->rmse;
}

START_TEST(a_folder_reads_back_as_what_was_encoded)
{
    const char *model = test_shared("data/models/tinystories-656k"), *dir = test_tmpdir();
    if (!model) {
        test_skip("data/models/tinystories-656k is not there");
        return;
    }
    static const struct { const char *type; bool nested; const char *format; } forms[] = {
        {"nf4", false, "safetensors, bitsandbytes nf4"}, {"nf4", true, "safetensors, bitsandbytes nf4"}, {"fp4", true, "safetensors, bitsandbytes fp4"},
        {"int8", false, "safetensors, bitsandbytes int8"}, {"bf16", false, "safetensors"}, {"f32", false, "safetensors"}};
    struct pw_checkpoint *base, *c;
    char identity[65], again[65];
    ck_ok(pw_checkpoint_open(&base, model, NULL));
    ck_ok(pw_checkpoint_identity(base, identity));
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        struct pw_quant_options o;
        double worst = 0;
        const char *out = test_path(dir, forms[i].type);
        ck_ok(pw_quant_parse(forms[i].type, &o));
        o.double_quant = forms[i].nested;
        ck_ok(pw_quant_folder(dev, model, NULL, out, true, &o, sum_reports, &worst, NULL));
        if (i == 0)
            ck_fails(pw_quant_folder(dev, model, NULL, out, false, &o, NULL, NULL, NULL), PW_E_REFUSED, "nf4");
        ck_assert(i < 4 ? worst > 0 && worst < 0.2 : worst == 0);   /* this model's weights are bf16 numbers stored as f32 */
        ck_ok(pw_checkpoint_open(&c, out, NULL));
        ck_assert_str_eq(pw_checkpoint_format(c), forms[i].format);
        ck_assert(pw_checkpoint_has(c, "model.layers.1.mlp.down_proj.weight_format") == (i == 3));
        ck_ok(pw_checkpoint_identity(c, again));
        ck_assert_str_eq(again, identity);
        ck_ok(pw_checkpoint_hash(c, again));
        ck_assert((strcmp(again, identity) != 0) == (i < 5));       /* f32 to f32 changes nothing */
        struct pw_weight w, dense;
        ck_ok(pw_checkpoint_weight(c, "model.layers.1.mlp.down_proj.weight", 128, 384, &w));
        ck_ok(pw_checkpoint_weight(base, "model.layers.1.mlp.down_proj.weight", 128, 384, &dense));
        float *x = pw_alloc(4 * 128 * 384), *y = pw_alloc(4 * 128 * 384);
        ck_ok(pw_decode(dev, pw_tensor2(x, PW_F32, 128, 384), &w, 0));
        ck_ok(pw_decode(dev, pw_tensor2(y, PW_F32, 128, 384), &dense, 0));
        double sum = 0;
        for (int k = 0; k < 128 * 384; k++)
            sum += ((double)x[k] - y[k]) * ((double)x[k] - y[k]);
        ck_assert(sqrt(sum / (128 * 384)) <= worst);
        ck_fails(pw_checkpoint_weight(c, "model.layers.1.mlp.down_proj.weight", 384, 128, &w), PW_E_FORMAT, i < 3 ? "shape does not fit" : "down_proj");
        pw_free(x);
        pw_free(y);
        pw_checkpoint_close(c);
    }
    pw_checkpoint_close(base);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("quant");
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, codes_and_scales_are_those_of_bitsandbytes, 0, 12);
    tcase_add_loop_test(t, double_quantisation_is_that_of_bitsandbytes, 0, 6);
    tcase_add_test(t, zero_blocks_decode_to_zero);
    tcase_add_test(t, tiles_make_no_difference);
    tcase_add_test(t, names);
    tcase_add_test(t, nan_is_refused);
    tcase_add_test(t, a_folder_reads_back_as_what_was_encoded);
    suite_add_tcase(s, t);
    return test_run(s);
}
