/* Tensors: views of memory that somebody else owns, passed by value.
 *
 * Row-major by default; strides are in elements, so that a head or a row range is a view too. An absent optional tensor is
 * pw_none() (data NULL). Knows nothing of devices: `data` may be a host or a device address. */
#ifndef PW_KERNELS_TENSOR_H
#define PW_KERNELS_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
enum pw_dtype { PW_F32, PW_F64, PW_F16, PW_BF16, PW_I32, PW_I64, PW_U8, PW_I8, PW_DTYPES };

struct pw_tensor {
    void *data;
    enum pw_dtype dtype;
    int ndim;           /* 1 to 4 */
    int64_t shape[4];
    int64_t stride[4];  /* in elements */
};

size_t pw_dtype_bytes(enum pw_dtype t);
const char *pw_dtype_name(enum pw_dtype t);   /* "f32" */

struct pw_tensor pw_none(void);
struct pw_tensor pw_tensor1(void *data, enum pw_dtype t, int64_t a);
struct pw_tensor pw_tensor2(void *data, enum pw_dtype t, int64_t a, int64_t b);
struct pw_tensor pw_tensor3(void *data, enum pw_dtype t, int64_t a, int64_t b, int64_t c);
struct pw_tensor pw_rows(struct pw_tensor t, int64_t first, int64_t n);             /* rows of dimension 0 */
struct pw_tensor pw_columns(struct pw_tensor t, int64_t first, int64_t n);          /* of a matrix; not contiguous */
struct pw_tensor pw_split_heads(struct pw_tensor t, int64_t heads);                 /* (T, H*d) -> (T, H, d) */
bool pw_contiguous(struct pw_tensor t);
int64_t pw_count(struct pw_tensor t);
size_t pw_bytes(struct pw_tensor t);

/* Number formats, rounding to nearest even; NaN stays NaN. */
float pw_bf16_to_f32(uint16_t x);
uint16_t pw_f32_to_bf16(float x);
float pw_f16_to_f32(uint16_t x);
uint16_t pw_f32_to_f16(float x);
#ifdef __cplusplus
}
#endif
#endif
