/* Tensors and number formats: constructors of views, sizes, and conversions of 16-bit floats by their bits.
 * Owns no memory; knows no device and no op. */
#include "kernels/tensor.h"

#include <string.h>

static const struct { const char *name; size_t bytes; } dtypes[PW_DTYPES] = {
    [PW_F32] = { "f32", 4 }, [PW_F64] = { "f64", 8 }, [PW_F16] = { "f16", 2 }, [PW_BF16] = { "bf16", 2 },
    [PW_I32] = { "i32", 4 }, [PW_I64] = { "i64", 8 }, [PW_U8] = { "u8", 1 }, [PW_I8] = { "i8", 1 },
};

size_t pw_dtype_bytes(enum pw_dtype t) { return (unsigned)t < PW_DTYPES ? dtypes[t].bytes : 0; }
const char *pw_dtype_name(enum pw_dtype t) { return (unsigned)t < PW_DTYPES ? dtypes[t].name : "?"; }

struct pw_tensor pw_none(void)
{
    struct pw_tensor t;
    memset(&t, 0, sizeof t);
    return t;
}

static struct pw_tensor make(void *data, enum pw_dtype dtype, int ndim, int64_t a, int64_t b, int64_t c)
{
    struct pw_tensor t = pw_none();
    t.data = data;
    t.dtype = dtype;
    t.ndim = ndim;
    t.shape[0] = a; t.shape[1] = b; t.shape[2] = c;
    int64_t step = 1;
    for (int i = ndim; i-- > 0;) { t.stride[i] = step; step *= t.shape[i]; }
    return t;
}
struct pw_tensor pw_tensor1(void *data, enum pw_dtype t, int64_t a) { return make(data, t, 1, a, 0, 0); }
struct pw_tensor pw_tensor2(void *data, enum pw_dtype t, int64_t a, int64_t b) { return make(data, t, 2, a, b, 0); }
struct pw_tensor pw_tensor3(void *data, enum pw_dtype t, int64_t a, int64_t b, int64_t c) { return make(data, t, 3, a, b, c); }

struct pw_tensor pw_rows(struct pw_tensor t, int64_t first, int64_t n)
{
    if (!t.data) return t;
    t.data = (char *)t.data + (size_t)(first * t.stride[0]) * pw_dtype_bytes(t.dtype);
    t.shape[0] = n;
    return t;
}

struct pw_tensor pw_columns(struct pw_tensor t, int64_t first, int64_t n)
{
    if (!t.data) return t;
    t.data = (char *)t.data + (size_t)first * pw_dtype_bytes(t.dtype);
    t.shape[1] = n;
    return t;
}

struct pw_tensor pw_split_heads(struct pw_tensor t, int64_t heads)
{
    if (!t.data) return t;
    int64_t d = t.shape[1] / heads, step = t.stride[1];
    t.ndim = 3;
    t.shape[1] = heads; t.shape[2] = d;
    t.stride[1] = d * step; t.stride[2] = step;
    return t;
}

bool pw_contiguous(struct pw_tensor t)
{
    int64_t step = 1;
    for (int i = t.ndim; i-- > 0;) {
        if (t.shape[i] != 1 && t.stride[i] != step) return false;
        step *= t.shape[i];
    }
    return true;
}

int64_t pw_count(struct pw_tensor t)
{
    if (t.ndim < 1) return 0;
    int64_t n = 1;
    for (int i = 0; i < t.ndim; i++) n *= t.shape[i];
    return n;
}

size_t pw_bytes(struct pw_tensor t) { return (size_t)pw_count(t) * pw_dtype_bytes(t.dtype); }

static uint32_t bits_of(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
static float float_of(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }

float pw_bf16_to_f32(uint16_t x) { return float_of((uint32_t)x << 16); }

uint16_t pw_f32_to_bf16(float x)
{
    uint32_t u = bits_of(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u); /* quiet NaN: rounding could make it infinity */
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

float pw_f16_to_f32(uint16_t x)
{
    uint32_t sign = (uint32_t)(x & 0x8000u) << 16, exponent = (x >> 10) & 31u, mantissa = x & 0x3ffu;
    if (exponent == 31) return float_of(sign | 0x7f800000u | mantissa << 13);
    if (exponent) return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
    float tiny = (float)mantissa * 0x1p-24f; /* subnormal: exact in f32 */
    return float_of(sign | bits_of(tiny));
}

uint16_t pw_f32_to_f16(float x)
{
    uint32_t u = bits_of(x), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((a >> 13) & 0x3ffu));
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and above round to infinity */
    if (a < 0x38800000u) {                                   /* below 2^-14: the grid is 2^-24 */
        float y = float_of(a) + 0.5f;                        /* ulp of [0.5, 1) is 2^-24: the addition rounds to even for us */
        return (uint16_t)(sign | (bits_of(y) - 0x3f000000u));
    }
    a += 0xfffu + ((a >> 13) & 1u);
    return (uint16_t)(sign | ((a - 0x38000000u) >> 13));
}
