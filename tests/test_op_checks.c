/* What the checked entry points refuse, and what they say; devices, scratch and pools. */
#include <string.h>
#include "base/error.h"
#include "base/memory.h"
#include "kernels/op.h"
#include "tests/support.h"

static float buffer[4096], other[4096], third[4096];
static struct pw_dev *dev;
static void setup(void) { ck_assert_int_eq(pw_dev_open(&dev, &(struct pw_dev_options){ .kind = "cpu", .threads = 2 }), 0); }
static void teardown(void) { pw_dev_close(dev); }

START_TEST(shapes)
{
    struct pw_tensor x = pw_tensor2(buffer, PW_F32, 4, 128), out = pw_tensor2(other, PW_F32, 4, 128), w = pw_tensor1(third, PW_F32, 64);
    ck_fails(pw_rmsnorm_fwd(dev, out, pw_none(), x, w, 1e-5, 0), PW_E_FAIL, "rmsnorm_fwd: w: expected (128) f32, got (64) f32");
    ck_fails(pw_rmsnorm_fwd(dev, out, pw_none(), x, pw_none(), 1e-5, 0), PW_E_FAIL, "rmsnorm_fwd: w: expected (128) f32, got none");
    w.shape[0] = 128;
    w.dtype = PW_F16;
    ck_fails(pw_rmsnorm_fwd(dev, out, pw_none(), x, w, 1e-5, 0), PW_E_FAIL, "expected (128) f32, got (128) f16");
    struct pw_tensor wide = x;
    wide.dtype = PW_F64;
    ck_fails(pw_scale(dev, wide, 2), PW_E_FAIL, "scale: x: expected f32, got f64");
    struct pw_tensor strided = pw_tensor2(buffer, PW_F32, 4, 64);
    strided.stride[0] = 128;
    ck_fails(pw_scale(dev, strided, 2), PW_E_FAIL, "contiguous");
}
END_TEST

START_TEST(aliasing)
{
    struct pw_tensor x = pw_tensor2(buffer, PW_F32, 4, 8), near = pw_tensor2(buffer + 4, PW_F32, 4, 8), w = pw_tensor1(third, PW_F32, 8), inside = pw_tensor1(buffer + 8, PW_F32, 4);
    ck_ok(pw_rmsnorm_fwd(dev, x, pw_none(), x, w, 1e-5, 0));
    ck_fails(pw_rmsnorm_fwd(dev, near, pw_none(), x, w, 1e-5, 0), PW_E_FAIL, "rmsnorm_fwd: out overlaps x without being it");
    ck_fails(pw_rmsnorm_fwd(dev, x, inside, x, w, 1e-5, 0), PW_E_FAIL, "rmsnorm_fwd: out and inv_rms share memory");
    ck_fails(pw_copy(dev, near, x), PW_E_FAIL, "copy: out and x share memory");
    ck_ok(pw_columns_copy(dev, pw_columns(pw_tensor2(other, PW_F32, 4, 9), 1, 8), x));
    ck_fails(pw_columns_copy(dev, pw_columns(x, 0, 4), pw_columns(x, 4, 4)), PW_E_FAIL, "columns_copy: out and x share memory");
    ck_fails(pw_columns_copy(dev, pw_columns(pw_tensor2(other, PW_F32, 4, 9), 1, 7), x), PW_E_FAIL, "columns_copy: out: expected (4, 8) f32, got (4, 7) f32");
    struct pw_tensor turned = pw_tensor2(other, PW_F32, 4, 8);
    turned.stride[0] = 1, turned.stride[1] = 4;
    ck_fails(pw_columns_copy(dev, turned, x), PW_E_FAIL, "columns_copy: out: expected rows of 8 elements in a row, got strides 1 and 4");
    struct pw_weight dense = pw_weight_dense(pw_tensor2(other, PW_F32, 6, 8));
    ck_ok(pw_dev_reserve(dev, pw_scratch_linear(dev, 4, &dense, true)));
    ck_fails(pw_linear_fwd(dev, pw_tensor2(buffer, PW_F32, 4, 6), pw_none(), x, &dense, (struct pw_drop){ 0 }), PW_E_FAIL, "linear_fwd: y and x share memory");
    ck_fails(pw_linear_fwd(dev, pw_tensor2(other + 40, PW_F32, 4, 6), pw_none(), x, &dense, (struct pw_drop){ 0 }), PW_E_FAIL, "linear_fwd: y and w share memory");
}
END_TEST

START_TEST(states_in_8_bits)
{
    uint8_t m[600] = { 0 }, v[600] = { 0 };
    float scales[6] = { 0 };
    struct pw_tensor p = pw_tensor1(buffer, PW_F32, 600), g = pw_tensor1(other, PW_F32, 600), mt = pw_tensor1(m, PW_U8, 600), vt = pw_tensor1(v, PW_U8, 600);
    struct pw_tensor ms = pw_tensor1(scales, PW_F32, 3), vs = pw_tensor1(scales + 3, PW_F32, 3), maps = pw_tensor1(third, PW_F32, 512);
    const struct pw_adamw h = { .lr = 1, .beta1 = 0.9, .beta2 = 0.99, .step = 1, .grad_scale = 1 };
    ck_ok(pw_adamw8(dev, p, mt, ms, vt, vs, g, maps, &h));
    ck_fails(pw_adamw8(dev, p, mt, pw_tensor1(scales, PW_F32, 2), vt, vs, g, maps, &h), PW_E_FAIL, "adamw8: m_scale: expected (3) f32, got (2) f32");
    ck_fails(pw_adamw8(dev, p, pw_tensor1(m, PW_I8, 600), ms, vt, vs, g, maps, &h), PW_E_FAIL, "adamw8: m: expected (600) u8, got (600) i8");
    ck_fails(pw_adamw8(dev, p, mt, ms, mt, vs, g, maps, &h), PW_E_FAIL, "adamw8: m and v share memory");
    ck_fails(pw_adamw8(dev, p, mt, ms, vt, vs, g, pw_tensor1(third, PW_F32, 256), &h), PW_E_FAIL, "adamw8: maps: expected (512) f32");
    ck_fails(pw_lion(dev, p, p, g, &h), PW_E_FAIL, "lion: p and m share memory");
    ck_fails(pw_lion(dev, p, ms, g, &h), PW_E_FAIL, "lion: m: expected (600) f32");
}
END_TEST

START_TEST(ids)
{
    int32_t id[3] = { 0, 2, 5 };
    struct pw_tensor table = pw_tensor2(buffer, PW_F32, 5, 8), out = pw_tensor2(other, PW_F32, 3, 8), list = pw_tensor1(id, PW_I32, 3);
    const struct pw_weight rows = pw_weight_dense(table), narrow = pw_weight_dense(pw_tensor2(buffer, PW_F32, 5, 7));
    ck_fails(pw_embed_fwd(dev, out, &narrow, list), PW_E_FAIL, "embed_fwd: table: expected rows of 8, got 7");
    ck_fails(pw_embed_fwd(dev, out, &rows, list), PW_E_FAIL, "embed_fwd: ids[2]: expected 0 to 4, got 5");
    id[2] = -1;
    ck_fails(pw_embed_bwd(dev, table, out, list), PW_E_FAIL, "embed_bwd: ids[2]: expected 0 to 4, got -1");
    ck_fails(pw_gather_rows(dev, out, table, list), PW_E_FAIL, "gather_rows: rows[2]");
    struct pw_weight w = pw_weight_dense(table);
    id[2] = 5;
    ck_ok(pw_dev_reserve(dev, pw_scratch_head(dev, 3, &w, true)));
    ck_fails(pw_head_loss(dev, pw_tensor1(third, PW_F32, 3), pw_none(), pw_none(), pw_none(), out, &w, list, pw_none(), 0), PW_E_FAIL, "head_loss: targets[2]");
    ck_fails(pw_rope(dev, pw_tensor3(other, PW_F32, 3, 1, 8), list, pw_tensor2(buffer, PW_F32, 5, 4), pw_tensor2(buffer + 100, PW_F32, 5, 4), PW_ROPE_HALF, 1), PW_E_FAIL, "rope: pos[2]");
}
END_TEST

START_TEST(sequences)
{
    int32_t q_start[3] = { 0, 2, 4 }, kv_start[2] = { 0, 2 }, kv_len[2] = { 2, 2 };
    struct pw_seqs s = { 2, q_start, kv_start, kv_len, NULL, NULL };
    struct pw_attn a = { .scale = 1 };
    struct pw_tensor q = pw_tensor3(buffer, PW_F32, 4, 2, 4), k = pw_tensor3(other, PW_F32, 4, 1, 4), v = pw_tensor3(other + 64, PW_F32, 4, 1, 4), out = pw_tensor3(third, PW_F32, 4, 2, 4);
    ck_fails(pw_attn_fwd(dev, out, pw_none(), q, k, v, &s, &a), PW_E_FAIL, "attn_fwd: scratch: expected");
    ck_ok(pw_dev_reserve(dev, pw_scratch_attn(dev, 4, 4, 2, 1, 4, true)));
    ck_ok(pw_attn_fwd(dev, out, pw_none(), q, k, v, &s, &a));
    kv_len[1] = 3;
    ck_fails(pw_attn_fwd(dev, out, pw_none(), q, k, v, &s, &a), PW_E_FAIL, "sequence 1: keys 2 + 3 outside the 4 rows");
    kv_len[1] = 1;
    ck_fails(pw_attn_fwd(dev, out, pw_none(), q, k, v, &s, &a), PW_E_FAIL, "sequence 1 has 2 queries and only 1 keys");
    kv_len[1] = 2;
    q_start[2] = 3;
    ck_fails(pw_attn_fwd(dev, out, pw_none(), q, k, v, &s, &a), PW_E_FAIL, "expected query rows 0 to 4 to be covered");
    q_start[2] = 4;
    k.shape[1] = v.shape[1] = 3;
    ck_fails(pw_attn_fwd(dev, out, pw_none(), q, k, v, &s, &a), PW_E_FAIL, "G dividing 2, got G = 3");
    /* backward: own keys apart, also when an empty sequence stands between those that share them */
    int32_t q3[4] = { 0, 2, 2, 4 }, start3[3] = { 0, 0, 1 }, len3[3] = { 2, 0, 2 };
    struct pw_seqs s3 = { 3, q3, start3, len3, NULL, NULL };
    k.shape[1] = v.shape[1] = 1;
    ck_fails(pw_attn_bwd(dev, q, k, v, out, out, pw_none(), q, k, v, &s3, &a), PW_E_FAIL, "keys of sequence 2 begin at row 1, before row 2");
}
END_TEST

START_TEST(weights)
{
    struct pw_weight w = { .n_out = 4, .n_in = 8, .type = PW_Q_NF4, .data = buffer, .block = 64 };
    struct pw_tensor x = pw_tensor2(other, PW_F32, 2, 8), y = pw_tensor2(third, PW_F32, 2, 4);
    struct pw_drop none = { 0 };
    ck_fails(pw_linear_fwd(dev, y, pw_none(), x, &w, none), PW_E_FAIL, "linear_fwd: w: nf4 without absmax");
    w.absmax = buffer + 100;
    w.block = 63;
    ck_fails(pw_linear_fwd(dev, y, pw_none(), x, &w, none), PW_E_FAIL, "even block size, got 63");
    w.block = 64;
    struct pw_lora lora = { .r = 2, .scale = 1, .a = pw_tensor2(buffer + 200, PW_F32, 2, 8), .b = pw_tensor2(buffer + 300, PW_F32, 4, 3) };
    w.lora = &lora;
    ck_fails(pw_linear_fwd(dev, y, pw_none(), x, &w, none), PW_E_FAIL, "linear_fwd: lora.b: expected (4, 2) f32, got (4, 3) f32");
    lora.b = pw_tensor2(buffer + 300, PW_F32, 4, 2);
    ck_fails(pw_linear_fwd(dev, y, pw_none(), x, &w, none), PW_E_FAIL, "linear_fwd: xa: expected (2, 2) f32, got none");
    ck_fails(pw_linear_fwd(dev, y, pw_none(), x, &w, (struct pw_drop){ .p = 1 }), PW_E_FAIL, "dropout: expected 0 <= p < 1, got 1");
    struct pw_linear_grads g = { .dw = pw_tensor2(buffer + 400, PW_F32, 4, 8) };
    ck_fails(pw_linear_bwd(dev, &g, y, x, pw_none(), &w, none), PW_E_FAIL, "dw: a nf4 weight has no gradient");
    ck_fails(pw_decode(dev, pw_tensor2(third, PW_F32, 3, 8), &w, 2), PW_E_FAIL, "decode: rows 2 + 3 outside the 4 there are");
}
END_TEST

START_TEST(devices)
{
    struct pw_dev *d;
    ck_fails(pw_dev_open(&d, &(struct pw_dev_options){ .kind = "gpu" }), PW_E_USAGE, "unknown device \"gpu\"");
    ck_fails(pw_dev_open(&d, &(struct pw_dev_options){ .kind = "cpu", .level = "avx9" }), PW_E_USAGE, "unknown cpu level \"avx9\": expected generic, avx2, avx512, amx, avx512_bf16 or amx_bf16");
    ck_fails(pw_dev_open(&d, &(struct pw_dev_options){ .kind = "cpu", .threads = -1 }), PW_E_USAGE, "threads");
    struct pw_pool pool;
    ck_ok(pw_pool_open(&pool, dev, 200, "activations"));
    float *a = pw_pool_take(&pool, 100), *b = pw_pool_take(&pool, 64);
    ck_assert_ptr_nonnull(a);
    ck_assert_ptr_nonnull(b);
    ck_assert_uint_eq((uintptr_t)b % 64, 0);
    ck_assert(b[3] == 0);
    ck_assert_ptr_null(pw_pool_take(&pool, 128));
    ck_assert_ptr_nonnull(strstr(pw_error_text(), "activations: planned 256 bytes, 192 are used, 128 more wanted"));
    ck_assert_ptr_null(pw_pool_take(&pool, SIZE_MAX - 3));
    pw_pool_close(&pool);
    pw_pool_close(&pool);
}
END_TEST

static int open_all(void *context)
{
    (void)context;
    struct pw_dev *d = NULL;
    struct pw_pool pool = { 0 };
    int rc = pw_dev_open(&d, &(struct pw_dev_options){ .kind = "cpu", .threads = 1 });
    if (!rc) rc = pw_dev_reserve(d, 1000);
    if (!rc) rc = pw_pool_open(&pool, d, 100, "pool");
    pw_pool_close(&pool);
    pw_dev_close(d);
    return rc;
}
START_TEST(no_memory) { ck_assert_int_eq(test_sweep_nomem(open_all, NULL), 3); }
END_TEST

int main(void)
{
    Suite *s = suite_create("op_checks");
    TCase *t = tcase_create("checks");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, states_in_8_bits);
    tcase_add_test(t, shapes);
    tcase_add_test(t, aliasing);
    tcase_add_test(t, ids);
    tcase_add_test(t, sequences);
    tcase_add_test(t, weights);
    tcase_add_test(t, devices);
    tcase_add_test(t, no_memory);
    suite_add_tcase(s, t);
    return test_run(s);
}
