/* Element by element: fill, copy, axpy, scale, glu. Bound by memory: a thread does eight at a time, with 16-byte accesses where addresses allow it. */
#include "kernels/cuda/cuda.h"

enum { THREADS = 256, EIGHTS = 2, PER_BLOCK = THREADS * EIGHTS * 8 };

/* First element of the j-th eight of this thread. */
SIMT_FN int64_t eight_at(int j) { return ((int64_t)blockIdx.x * EIGHTS + j) * THREADS * 8 + threadIdx.x * 8; }

/* ---- fill, copy ---- */

template <class X, bool FAST> __global__ void __launch_bounds__(THREADS) fill_kernel(X *__restrict__ x, int64_t n, float value)
{
    const float v[8] = {value, value, value, value, value, value, value, value};
#pragma unroll
    for (int j = 0; j < EIGHTS; j++) store8<FAST>(x, eight_at(j), n, v);
}
__global__ void __launch_bounds__(THREADS) fill_double_kernel(double *__restrict__ x, int64_t n, double value)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) x[i] = value;
}

template <class O, class X, bool FAST> __global__ void __launch_bounds__(THREADS) copy_kernel(O *__restrict__ out, const X *__restrict__ x, int64_t n)
{
    float v[EIGHTS][8];
#pragma unroll
    for (int j = 0; j < EIGHTS; j++) load8<FAST>(x, eight_at(j), n, v[j]);
#pragma unroll
    for (int j = 0; j < EIGHTS; j++) store8<FAST>(out, eight_at(j), n, v[j]);
}
/* From or to f64, which only sums have. */
template <class O, class X> __global__ void __launch_bounds__(THREADS) copy_double_kernel(O *__restrict__ out, const X *__restrict__ x, int64_t n)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) store(out, (size_t)i, load(x, (size_t)i));
}
/* The same type: the bytes, in units of W. */
template <class W> __global__ void __launch_bounds__(THREADS) copy_bytes_kernel(W *__restrict__ out, const W *__restrict__ x, int64_t n)
{
    W v[4];
    const int64_t first = (int64_t)blockIdx.x * THREADS * 4 + threadIdx.x;
#pragma unroll
    for (int j = 0; j < 4; j++)
        if (first + j * THREADS < n) v[j] = x[first + j * THREADS];
#pragma unroll
    for (int j = 0; j < 4; j++)
        if (first + j * THREADS < n) out[first + j * THREADS] = v[j];
}

extern "C" int cuda_fill(struct pw_dev *dev, struct pw_tensor x, double value)
{
    const int64_t n = pw_count(x);
    if (x.dtype == PW_F64) {
        CUDA_LAUNCH(dev, "fill", fill_double_kernel, cuda_parts(n, THREADS), THREADS, 0, (double *)x.data, n, value);
        return 0;
    }
    CUDA_BY_SMALL(x, to, CUDA_BY_BOOL(cuda_aligned(to), fast, CUDA_LAUNCH(dev, "fill", (fill_kernel<to_type, fast>), cuda_parts(n, PER_BLOCK), THREADS, 0, to, n, (float)value)))
    return 0;
}

template <class W> static int copy_bytes(struct pw_dev *dev, void *out, const void *x, size_t bytes)
{
    const int64_t n = (int64_t)(bytes / sizeof(W));
    CUDA_LAUNCH(dev, "copy", copy_bytes_kernel<W>, cuda_parts(n, THREADS * 4), THREADS, 0, (W *)out, (const W *)x, n);
    return 0;
}

extern "C" int cuda_copy(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x)
{
    const int64_t n = pw_count(x);
    if (out.dtype == x.dtype) {
        const size_t bytes = pw_bytes(x);
        const uintptr_t odd = (uintptr_t)out.data | (uintptr_t)x.data | bytes;
        return odd % 16 == 0 ? copy_bytes<uint4>(dev, out.data, x.data, bytes) : odd % 4 == 0 ? copy_bytes<uint32_t>(dev, out.data, x.data, bytes)
                                                                                              : copy_bytes<uint16_t>(dev, out.data, x.data, bytes);
    }
    const bool aligned = cuda_aligned(out.data) && cuda_aligned(x.data);
    const unsigned grid = cuda_parts(n, PER_BLOCK);
    if (x.dtype == PW_F64)
        CUDA_BY_SMALL(out, to, CUDA_LAUNCH(dev, "copy", (copy_double_kernel<to_type, double>), cuda_parts(n, THREADS), THREADS, 0, to, (const double *)x.data, n))
    else if (out.dtype == PW_F64)
        CUDA_BY_SMALL(x, from, CUDA_LAUNCH(dev, "copy", (copy_double_kernel<double, from_type>), cuda_parts(n, THREADS), THREADS, 0, (double *)out.data, from, n))
    else
        CUDA_BY_SMALL(out, to, CUDA_BY_SMALL(x, from, CUDA_BY_BOOL(aligned, fast, CUDA_LAUNCH(dev, "copy", (copy_kernel<to_type, from_type, fast>), grid, THREADS, 0, to, from, n))))
    return 0;
}

/* ---- axpy, scale ---- */

/* y and x may be the same memory. */
template <class X, bool FAST> __global__ void __launch_bounds__(THREADS) axpy_kernel(X *y, const X *x, int64_t n, float alpha)
{
    float a[EIGHTS][8], b[EIGHTS][8];
#pragma unroll
    for (int j = 0; j < EIGHTS; j++) load8<FAST>(x, eight_at(j), n, a[j]), load8<FAST>(y, eight_at(j), n, b[j]);
#pragma unroll
    for (int j = 0; j < EIGHTS; j++) {
#pragma unroll
        for (int e = 0; e < 8; e++) b[j][e] = __fmaf_rn(alpha, a[j][e], b[j][e]);
        store8<FAST>(y, eight_at(j), n, b[j]);
    }
}

template <class X, bool FAST> __global__ void __launch_bounds__(THREADS) scale_kernel(X *__restrict__ x, int64_t n, float alpha)
{
    float a[EIGHTS][8];
#pragma unroll
    for (int j = 0; j < EIGHTS; j++) load8<FAST>(x, eight_at(j), n, a[j]);
#pragma unroll
    for (int j = 0; j < EIGHTS; j++) {
#pragma unroll
        for (int e = 0; e < 8; e++) a[j][e] *= alpha;
        store8<FAST>(x, eight_at(j), n, a[j]);
    }
}

extern "C" int cuda_axpy(struct pw_dev *dev, struct pw_tensor y, struct pw_tensor x, double alpha)
{
    const int64_t n = pw_count(y);
    CUDA_BY_FLOAT(y, to, CUDA_BY_BOOL(cuda_aligned(to) && cuda_aligned(x.data), fast,
                                      CUDA_LAUNCH(dev, "axpy", (axpy_kernel<to_type, fast>), cuda_parts(n, PER_BLOCK), THREADS, 0, to, (const to_type *)x.data, n, (float)alpha)))
    return 0;
}

extern "C" int cuda_scale(struct pw_dev *dev, struct pw_tensor x, double alpha)
{
    const int64_t n = pw_count(x);
    CUDA_BY_FLOAT(x, to, CUDA_BY_BOOL(cuda_aligned(to), fast, CUDA_LAUNCH(dev, "scale", (scale_kernel<to_type, fast>), cuda_parts(n, PER_BLOCK), THREADS, 0, to, n, (float)alpha)))
    return 0;
}
