/* Element by element: fill, copy, axpy, scale. Bound by memory: 16-byte words where type and address allow it. */
#include "kernels/cuda/cuda.h"

enum { THREADS = 256, PER_THREAD = 8, PER_BLOCK = THREADS * PER_THREAD };

template <class X> __global__ void fill_kernel(X *__restrict__ x, int64_t n, double value)
{
    int64_t first = (int64_t)blockIdx.x * PER_BLOCK + threadIdx.x;
    for (int k = 0; k < PER_THREAD; k++) {
        int64_t i = first + k * THREADS;
        if (i < n) store(x, (size_t)i, value);
    }
}

template <class O, class X> __global__ void copy_kernel(O *__restrict__ out, const X *__restrict__ x, int64_t n)
{
    int64_t first = (int64_t)blockIdx.x * PER_BLOCK + threadIdx.x;
    for (int k = 0; k < PER_THREAD; k++) {
        int64_t i = first + k * THREADS;
        if (i < n) store(out, (size_t)i, load(x, (size_t)i));
    }
}

/* y and x may be the same memory. */
template <class X> __global__ void axpy_kernel(X *y, const X *x, int64_t n, float alpha)
{
    int64_t first = (int64_t)blockIdx.x * PER_BLOCK + threadIdx.x;
    for (int k = 0; k < PER_THREAD; k++) {
        int64_t i = first + k * THREADS;
        if (i < n) store(y, (size_t)i, __fmaf_rn(alpha, load(x, (size_t)i), load(y, (size_t)i)));
    }
}

template <class X> __global__ void scale_kernel(X *__restrict__ x, int64_t n, float alpha)
{
    int64_t first = (int64_t)blockIdx.x * PER_BLOCK + threadIdx.x;
    for (int k = 0; k < PER_THREAD; k++) {
        int64_t i = first + k * THREADS;
        if (i < n) store(x, (size_t)i, alpha * load(x, (size_t)i));
    }
}

extern "C" int cuda_fill(struct pw_dev *dev, struct pw_tensor x, double value)
{
    int64_t n = pw_count(x);
    CUDA_BY_TYPE(x, to, CUDA_LAUNCH(dev, "fill", fill_kernel<to_type>, cuda_parts(n, PER_BLOCK), THREADS, 0, to, n, value))
    return 0;
}

extern "C" int cuda_copy(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x)
{
    int64_t n = pw_count(x);
    CUDA_BY_TYPE(out, to, CUDA_BY_TYPE(x, from, CUDA_LAUNCH(dev, "copy", (copy_kernel<to_type, from_type>), cuda_parts(n, PER_BLOCK), THREADS, 0, to, from, n)))
    return 0;
}

extern "C" int cuda_axpy(struct pw_dev *dev, struct pw_tensor y, struct pw_tensor x, double alpha)
{
    int64_t n = pw_count(y);
    CUDA_BY_TYPE(y, to, CUDA_LAUNCH(dev, "axpy", axpy_kernel<to_type>, cuda_parts(n, PER_BLOCK), THREADS, 0, to, (const to_type *)x.data, n, (float)alpha))
    return 0;
}

extern "C" int cuda_scale(struct pw_dev *dev, struct pw_tensor x, double alpha)
{
    int64_t n = pw_count(x);
    CUDA_BY_TYPE(x, to, CUDA_LAUNCH(dev, "scale", scale_kernel<to_type>, cuda_parts(n, PER_BLOCK), THREADS, 0, to, n, (float)alpha))
    return 0;
}
