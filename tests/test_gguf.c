/* GGUF files and their block types: against the gguf package and llama.cpp (tests/fixtures/gguf_blocks.gguf, made by
 * tools/reference/gguf_blocks.py), writing and reading back, and every kind of broken file refused by name and place. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/gguf.h"
#include "kernels/op.h"
#include "tests/support.h"

static const char fixture[] = "tests/fixtures/gguf_blocks.gguf";
static const enum pw_qtype types[] = {PW_Q_Q8_0, PW_Q_Q4_0, PW_Q_Q4_1, PW_Q_Q5_0, PW_Q_Q5_1, PW_Q_Q4_K, PW_Q_Q5_K, PW_Q_Q6_K, PW_Q_IQ4_NL};
enum { N_TYPES = sizeof types / sizeof *types };
static const struct pw_dev_options devices[] = {
    {.kind = "ref"}, {.kind = "cpu", .threads = 2, .level = "generic"}, {.kind = "cpu", .threads = 2, .level = "avx2"}, {.kind = "cpu", .threads = 2, .level = "avx512"}};

static const struct pw_gguf_tensor *tensor(const struct pw_gguf *g, const struct pw_block_type *b, const char *end)
{
    char name[64];
    snprintf(name, sizeof name, "%s%s", b->stored, end);
    const struct pw_gguf_tensor *t = pw_gguf_tensor(g, name);
    ck_assert_msg(t != NULL, "%s is not in %s", name, fixture);
    return t;
}

/* NULL after a counted skip */
static struct pw_dev *device(int i)
{
    struct pw_dev *d;
    int rc = pw_dev_open(&d, &devices[i]);
    if (rc == PW_E_UNSUPPORTED) {
        test_skip("%s", pw_error_text());
        return NULL;
    }
    ck_assert_int_eq(rc, 0);
    return d;
}

START_TEST(decodes_as_the_package)
{
    struct pw_gguf g;
    struct pw_dev *dev = device(_i);
    if (!dev)
        return;
    ck_ok(pw_gguf_open(&g, fixture));
    for (int q = 0; q < N_TYPES; q++) {
        const struct pw_block_type *b = pw_block_type(types[q]);
        const struct pw_gguf_tensor *t = tensor(&g, b, ""), *v = tensor(&g, b, ".values");
        ck_assert_uint_eq(t->ggml, (uint32_t)b->ggml);
        const int64_t rows = t->shape[0], columns = t->shape[1];
        ck_assert(v->shape[0] == rows && v->shape[1] == columns && columns == 512);
        /* off by one byte: blocks are not aligned */
        uint8_t *moved = malloc(t->bytes + 1);
        ck_assert_ptr_nonnull(moved);
        memcpy(moved + 1, t->data, t->bytes);
        struct pw_weight w = {.n_out = rows, .n_in = columns, .type = types[q], .dtype = PW_F32, .data = moved + 1};
        ck_assert_uint_eq(pw_weight_bytes(&w), t->bytes);
        float *out = malloc(v->bytes), *want = malloc(v->bytes);
        memcpy(want, v->data, v->bytes);
        test_fill_nan(out, (size_t)(rows * columns));
        ck_ok(pw_decode(dev, pw_tensor2(out, PW_F32, rows, columns), &w, 0));
        for (int64_t i = 0; i < rows * columns; i++)
            ck_assert_msg(memcmp(out + i, want + i, 4) == 0, "%s: %s: element %d: %a, the package %a", devices[_i].level, b->name, (int)i, (double)out[i], (double)want[i]);
        free(out);
        free(want);
        free(moved);
    }
    pw_gguf_close(&g);
    pw_dev_close(dev);
}
END_TEST

/* q8_0 and q4_0: the package's bytes; q4_K and q6_K: no row worse than what llama.cpp's quantiser leaves (without an importance matrix) */
START_TEST(encodes_as_well_as_the_references)
{
    static const enum pw_qtype made[] = {PW_Q_Q8_0, PW_Q_Q4_0, PW_Q_Q4_K, PW_Q_Q6_K};
    struct pw_gguf g;
    struct pw_dev *dev = device(_i);
    if (!dev)
        return;
    ck_ok(pw_gguf_open(&g, fixture));
    const struct pw_gguf_tensor *s = pw_gguf_tensor(&g, "source");
    ck_assert_ptr_nonnull(s);
    const int64_t rows = s->shape[0], columns = s->shape[1], n = rows * columns;
    float *x = malloc(s->bytes), *ours = malloc(s->bytes), *theirs = malloc(s->bytes);
    memcpy(x, s->data, s->bytes);
    for (size_t q = 0; q < sizeof made / sizeof *made; q++) {
        const struct pw_block_type *b = pw_block_type(made[q]);
        const struct pw_gguf_tensor *t = tensor(&g, b, ".encoded");
        uint8_t *bytes = malloc(t->bytes);
        memset(bytes, 0xEE, t->bytes);
        struct pw_weight w = {.n_out = rows, .n_in = columns, .type = made[q], .dtype = PW_F32, .data = bytes}, v = w;
        v.data = t->data;
        ck_ok(pw_encode(dev, &w, pw_tensor2(x, PW_F32, rows, columns)));
        if (q < 2)
            for (size_t i = 0; i < t->bytes; i++)
                ck_assert_msg(bytes[i] == t->data[i], "%s: block %zu, byte %zu: %02x, the package %02x", b->name, i / (size_t)b->bytes, i % (size_t)b->bytes, bytes[i], t->data[i]);
        ck_ok(pw_decode(dev, pw_tensor2(ours, PW_F32, rows, columns), &w, 0));
        ck_ok(pw_decode(dev, pw_tensor2(theirs, PW_F32, rows, columns), &v, 0));
        for (int64_t r = 0; r < rows; r++) {
            double a = 0, c = 0;
            for (int64_t i = r * columns; i < (r + 1) * columns; i++) {
                a += ((double)ours[i] - (double)x[i]) * ((double)ours[i] - (double)x[i]);
                c += ((double)theirs[i] - (double)x[i]) * ((double)theirs[i] - (double)x[i]);
            }
            if (getenv("PW_VERBOSE"))
                printf("%s row %d: rmse %.4e, reference %.4e\n", b->name, (int)r, sqrt(a / (double)columns), sqrt(c / (double)columns));
            ck_assert_msg(a <= c, "%s: row %d: rmse %.6e, the reference's %.6e", b->name, (int)r, sqrt(a / (double)columns), sqrt(c / (double)columns));
        }
        free(bytes);
    }
    ck_assert(n > 0);
    free(x);
    free(ours);
    free(theirs);
    pw_gguf_close(&g);
    pw_dev_close(dev);
}
END_TEST

START_TEST(only_read)
{
    struct pw_dev *dev = device(1);
    float x[256] = {0};
    uint8_t bytes[256];
    struct pw_weight w = {.n_out = 1, .n_in = 256, .type = PW_Q_Q5_K, .dtype = PW_F32, .data = bytes};
    ck_fails(pw_encode(dev, &w, pw_tensor2(x, PW_F32, 1, 256)), PW_E_UNSUPPORTED, "encode: w: q5_K is only read, never made");
    w.n_in = 128;
    ck_fails(pw_decode(dev, pw_tensor2(x, PW_F32, 1, 128), &w, 0), PW_E_FAIL, "expected rows of whole q5_K blocks of 256, got 128 elements");
    pw_dev_close(dev);
}
END_TEST

START_TEST(values)
{
    struct pw_gguf g;
    const struct pw_gguf_pair *p;
    const char *s;
    size_t n;
    int64_t i = 0;
    double d = 0;
    bool b = false;
    static const struct { const char *key; int64_t value; } ints[] = {{"test.u8", 200}, {"test.i8", -7}, {"test.u16", 60000}, {"test.i16", -30000}, {"test.u32", 4000000000},
        {"test.i32", -5}, {"test.u64", (int64_t)1 << 62}, {"test.i64", -((int64_t)1 << 62)}};
    ck_ok(pw_gguf_open(&g, fixture));
    ck_assert_uint_eq(g.version, 3);
    for (size_t k = 0; k < sizeof ints / sizeof *ints; k++) {
        ck_ok(pw_gguf_get_i64(&g, ints[k].key, true, INT64_MIN, INT64_MAX, &i));
        ck_assert_int_eq(i, ints[k].value);
    }
    ck_ok(pw_gguf_get_f64(&g, "test.f32", true, &d));
    ck_assert(d == (double)0.1f);
    ck_ok(pw_gguf_get_f64(&g, "test.f64", true, &d));
    ck_assert(d == 0.1);
    ck_ok(pw_gguf_get_bool(&g, "test.bool", &b));
    ck_assert(b);
    ck_ok(pw_gguf_get_str(&g, "test.string", true, &s));
    ck_assert_str_eq(s, "na\u00efve \u2603");
    ck_ok(pw_gguf_get_array(&g, "test.strings", PW_GGUF_STRING, true, &p));
    ck_assert_uint_eq(p->n, 3);
    const uint8_t *at = pw_gguf_string(p->data, &s, &n);
    ck_assert_uint_eq(n, 0);
    at = pw_gguf_string(at, &s, &n);
    ck_assert(n == 3 && memcmp(s, "one", 3) == 0);
    at = pw_gguf_string(at, &s, &n);
    ck_assert(n == 7 && at == p->end);
    ck_ok(pw_gguf_get_array(&g, "test.ints", PW_GGUF_I32, true, &p));
    ck_assert(p->n == 3 && pw_gguf_int(p, 1) == -1);
    ck_ok(pw_gguf_get_array(&g, "test.reals", PW_GGUF_F32, true, &p));
    ck_assert(p->n == 2 && pw_gguf_real(p, 1) == -0.25);
    ck_assert_ptr_nonnull(pw_gguf_find(&g, "test.nested"));
    ck_assert(pw_gguf_find(&g, "test.nested")->of == PW_GGUF_ARRAY);
    ck_fails(pw_gguf_get_i64(&g, "test.f32", true, 0, 1, &i), PW_E_FORMAT, "test.f32: expected an integer, got f32");
    ck_fails(pw_gguf_get_i64(&g, "test.u8", true, 0, 100, &i), PW_E_FORMAT, "test.u8 is out of range (expected 0 to 100, got 200)");
    ck_fails(pw_gguf_get_f64(&g, "test.u8", true, &d), PW_E_FORMAT, "test.u8: expected a real number, got u8");
    ck_fails(pw_gguf_get_bool(&g, "test.u8", &b), PW_E_FORMAT, "expected a bool");
    ck_fails(pw_gguf_get_str(&g, "test.u8", true, &s), PW_E_FORMAT, "expected a string");
    ck_fails(pw_gguf_get_array(&g, "test.ints", PW_GGUF_STRING, true, &p), PW_E_FORMAT, "test.ints: expected an array of string, got one of i32");
    ck_fails(pw_gguf_get_str(&g, "none", true, &s), PW_E_FORMAT, "key none is missing");
    ck_ok(pw_gguf_get_str(&g, "none", false, &s));
    pw_gguf_close(&g);
}
END_TEST

static int write_small(struct pw_gguf_out *w, const char *path)
{
    static const float x[10] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    static uint8_t q[34 * 2];
    const int64_t a[2] = {2, 5}, b[2] = {1, 64}, c = 3;
    const int32_t i = -4;
    int rc = pw_gguf_create(w, path, true);
    PW_PASS_OUT(rc);
    pw_gguf_put_str(w, "general.architecture", "test", 4);
    pw_gguf_put_u32(w, "a", 7);
    pw_gguf_put_f32(w, "b", 0.5f);
    pw_gguf_put_bool(w, "c", true);
    pw_gguf_put_array(w, "d", PW_GGUF_STRING, 2);
    pw_gguf_put_element(w, PW_GGUF_STRING, "x", 1);
    pw_gguf_put_element(w, PW_GGUF_STRING, "", 0);
    pw_gguf_put_array(w, "e", PW_GGUF_I32, 1);
    pw_gguf_put_element(w, PW_GGUF_I32, &i, 4);
    PW_PASS_OUT(pw_gguf_add_tensor(w, "first", PW_GGML_F32, 2, a));
    PW_PASS_OUT(pw_gguf_add_tensor(w, "second", 8, 2, b));
    PW_PASS_OUT(pw_gguf_add_tensor(w, "third", PW_GGML_F32, 1, &c));
    for (int k = 0; k < 68; k++)
        q[k] = (uint8_t)k;
    PW_PASS_OUT(pw_gguf_bytes(w, x, 7));
    PW_PASS_OUT(pw_gguf_bytes(w, (const char *)x + 7, 33));
    PW_PASS_OUT(pw_gguf_bytes(w, q, 68));
out:
    return rc;
}

START_TEST(written_and_read)
{
    const char *path = test_path(test_tmpdir(), "x.gguf");
    static const float x[4] = {1, 2, 3, 4};
    struct pw_gguf_out w;
    struct pw_gguf g;
    int64_t i;
    ck_ok(write_small(&w, path));
    ck_fails(pw_gguf_commit(&w), PW_E_FAIL, "third: 12 bytes are missing");
    ck_assert(!pw_file_exists(path));
    pw_gguf_abort(&w);
    ck_ok(write_small(&w, path));
    ck_fails(pw_gguf_bytes(&w, x, 16), PW_E_FAIL, "4 bytes more than announced");
    pw_gguf_abort(&w);
    ck_ok(write_small(&w, path));
    ck_ok(pw_gguf_bytes(&w, x, 12));
    ck_ok(pw_gguf_commit(&w));
    ck_ok(pw_gguf_open(&g, path));
    ck_ok(pw_gguf_get_i64(&g, "a", true, 0, 10, &i));
    ck_assert(g.n_pairs == 6 && g.n_tensors == 3 && i == 7);
    const struct pw_gguf_tensor *t = pw_gguf_tensor(&g, "second");
    ck_assert(t->shape[0] == 1 && t->shape[1] == 64 && t->bytes == 68 && t->data[67] == 67 && (uintptr_t)t->data % 32 == 0);
    t = pw_gguf_tensor(&g, "first");
    ck_assert(t->ndim == 2 && t->shape[0] == 2 && t->shape[1] == 5);
    ck_assert_int_eq(memcmp(t->data + 36, &(float){10}, 4), 0);
    pw_gguf_close(&g);
}
END_TEST

/* ---- what is refused: a small file with one thing wrong ---- */

struct bad { const char *what; int code; const char *text; };
static const struct bad bad[] = {
    {"magic", PW_E_FORMAT, "not a GGUF file"},
    {"version 1", PW_E_UNSUPPORTED, "GGUF version 1 is not supported"},
    {"big-endian", PW_E_UNSUPPORTED, "big-endian"},
    {"too many pairs", PW_E_FORMAT, "key/value pairs do not fit"},
    {"too many tensors", PW_E_FORMAT, "tensors do not fit"},
    {"key longer than the file", PW_E_FORMAT, "byte 24: a key: a string of"},
    {"key empty", PW_E_FORMAT, "byte 24: a key: expected 1 to"},
    {"key not UTF-8", PW_E_FORMAT, "a key is not UTF-8"},
    {"type of a value", PW_E_FORMAT, "a: unknown type 13"},
    {"key twice", PW_E_FORMAT, "key a is there twice"},
    {"array too long", PW_E_FORMAT, "a: 4611686018427387904 values of type u32 do not fit"},
    {"strings too many", PW_E_FORMAT, "a: 1152921504606846976 values of type string do not fit"},
    {"array element type", PW_E_FORMAT, "a: unknown element type 99"},
    {"arrays too deep", PW_E_FORMAT, "a: arrays inside each other 4 deep"},
    {"bool", PW_E_FORMAT, "a: a bool is 2"},
    {"alignment", PW_E_FORMAT, "general.alignment: expected a power of two, got 24"},
    {"dimensions", PW_E_FORMAT, "t: expected 1 to 4 dimensions, got 5"},
    {"no dimension", PW_E_FORMAT, "t: expected 1 to 4 dimensions, got 0"},
    {"dimension zero", PW_E_FORMAT, "t: dimension 0 is 0"},
    {"shape overflows", PW_E_FORMAT, "t: its shape overflows"},
    {"type of a tensor", PW_E_UNSUPPORTED, "t: type 10 is not supported"},
    {"rows of blocks", PW_E_FORMAT, "t: rows of 4 elements are not whole Q8_0 blocks of 32"},
    {"offset", PW_E_FORMAT, "t: expected it to begin at offset 0, got 32"},
    {"data too short", PW_E_FORMAT, "t: 16 bytes from offset 0 on, the file has 15"},
    {"data too long", PW_E_FORMAT, "32 bytes follow the last tensor"},
    {"tensor twice", PW_E_FORMAT, "tensor t is there twice"},
    {"name with a NUL", PW_E_FORMAT, "a tensor's name is not UTF-8 text"},
    {"empty file", PW_E_FORMAT, "not a GGUF file"},
    {"cut in the header", PW_E_FORMAT, "byte 8: the file ends inside the header"},
};

static void u32(struct pw_buf *b, uint32_t x) { pw_buf_add(b, &x, 4); }
static void u64(struct pw_buf *b, uint64_t x) { pw_buf_add(b, &x, 8); }
static void text(struct pw_buf *b, const char *s, size_t n)
{
    u64(b, n);
    pw_buf_add(b, s, n);
}

static void make_bad(struct pw_buf *b, const char *what)
{
#define IS(name) (strcmp(what, name) == 0)
    const bool one_tensor = IS("dimensions") || IS("no dimension") || IS("dimension zero") || IS("shape overflows") || IS("type of a tensor") || IS("rows of blocks") || IS("offset") ||
                            IS("data too short") || IS("data too long") || IS("name with a NUL") || IS("good");
    const uint64_t tensors = IS("too many tensors") ? (uint64_t)1 << 40 : IS("tensor twice") ? 2 : one_tensor;
    const uint64_t pairs = IS("too many pairs") ? UINT64_MAX : IS("key twice") ? 2 : 1;
    if (IS("empty file"))
        return;
    pw_buf_str(b, IS("magic") ? "GGUX" : "GGUF");
    u32(b, IS("version 1") ? 1 : IS("big-endian") ? 0x03000000u : 3);
    if (IS("cut in the header"))
        return;
    u64(b, tensors);
    u64(b, pairs);
    for (uint64_t i = 0; i < (pairs == 2 ? 2 : 1); i++) {
        if (IS("key longer than the file")) u64(b, UINT64_MAX - 3);
        else text(b, IS("key not UTF-8") ? "\xff" : IS("alignment") ? "general.alignment" : "a", IS("key empty") ? 0 : IS("alignment") ? 17 : 1);
        if (IS("type of a value")) u32(b, 13);
        else if (IS("array too long") || IS("strings too many") || IS("array element type")) {
            u32(b, 9);
            u32(b, IS("array element type") ? 99 : IS("array too long") ? 4 : 8);
            u64(b, IS("array too long") ? (uint64_t)1 << 62 : (uint64_t)1 << 60);
        } else if (IS("arrays too deep")) {
            u32(b, 9);
            for (int k = 0; k < 6; k++) {
                u32(b, 9);
                u64(b, 1);
            }
        } else if (IS("bool")) {
            u32(b, 7);
            pw_buf_char(b, 2);
        } else {
            u32(b, 4);
            u32(b, IS("alignment") ? 24 : 5);
        }
    }
    for (uint64_t i = 0; i < tensors && i < 2; i++) {
        text(b, IS("name with a NUL") ? "t\0" : "t", IS("name with a NUL") ? 2 : 1);
        const uint32_t dims = IS("dimensions") ? 5 : IS("no dimension") ? 0 : IS("shape overflows") ? 3 : 1;
        u32(b, dims);
        for (uint32_t k = 0; k < dims; k++)
            u64(b, IS("dimension zero") ? 0 : IS("shape overflows") ? (uint64_t)1 << 40 : 4);
        u32(b, IS("type of a tensor") ? 10 : IS("rows of blocks") ? 8 : 0);
        u64(b, IS("offset") ? 32 : 32 * i);
    }
    while (b->len % 32)
        pw_buf_char(b, 0);
    for (uint64_t i = 0; i < tensors && i < 2; i++)
        for (int k = 0; k < (IS("data too short") ? 15 : IS("data too long") ? 64 : 32); k++)
            pw_buf_char(b, 0);
#undef IS
}

START_TEST(refused)
{
    const char *path = test_path(test_tmpdir(), "bad.gguf");
    struct pw_buf b = {0};
    struct pw_gguf g;
    make_bad(&b, bad[_i].what);
    ck_ok(pw_file_write(path, b.data ? b.data : "", b.len, true));
    ck_fails(pw_gguf_open(&g, path), bad[_i].code, bad[_i].text);
    ck_assert_msg(strstr(pw_error_text(), "bad.gguf"), "%s: the file is not named: %s", bad[_i].what, pw_error_text());
    pw_buf_free(&b);
}
END_TEST

/* The same maker without a fault gives a file that opens; every cut of it is refused. */
START_TEST(cut)
{
    const char *path = test_path(test_tmpdir(), "cut.gguf");
    struct pw_buf b = {0};
    struct pw_gguf g;
    make_bad(&b, "good");
    for (size_t n = 0; n <= b.len; n++) {
        ck_ok(pw_file_write(path, b.data, n, true));
        const int rc = pw_gguf_open(&g, path);
        /* the last tensor's padding may be missing: 16 bytes of data, 16 of padding */
        ck_assert_msg((rc == 0) == (n >= b.len - 16), "cut at %zu of %zu: %d %s", n, b.len, rc, pw_error_text());
        if (rc == 0)
            pw_gguf_close(&g);
    }
    pw_buf_free(&b);
}
END_TEST

static int open_it(void *path)
{
    struct pw_gguf g;
    PW_PASS(pw_gguf_open(&g, path));
    pw_gguf_close(&g);
    return 0;
}
START_TEST(without_memory) { ck_assert(test_sweep_nomem(open_it, (void *)(uintptr_t)fixture) > 0); }
END_TEST

int main(void)
{
    Suite *s = suite_create("gguf");
    TCase *t = tcase_create("gguf");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, decodes_as_the_package, 0, 4);
    tcase_add_loop_test(t, encodes_as_well_as_the_references, 0, 2);
    tcase_add_test(t, only_read);
    tcase_add_test(t, values);
    tcase_add_test(t, written_and_read);
    tcase_add_loop_test(t, refused, 0, (int)(sizeof bad / sizeof *bad));
    tcase_add_test(t, cut);
    tcase_add_test(t, without_memory);
    suite_add_tcase(s, t);
    return test_run(s);
}
