/* scatter_rows and gather_rows: rows moved by a list of row numbers, as bytes. A number outside is reported and its row is not touched.
 * columns_copy: rows that lie apart. */
#include "kernels/cuda/cuda.h"

enum { THREADS = 256, UNITS = 2 };

/* UNITS words of a row from word i on, as far as it goes; all loads before the first store. */
template <class W> SIMT_INLINE void copy_units(W *__restrict__ to, const W *__restrict__ from, int64_t i, int64_t width)
{
    W v[UNITS];
#pragma unroll
    for (int j = 0; j < UNITS; j++)
        if (i + j * blockDim.x < width) v[j] = from[i + j * blockDim.x];
#pragma unroll
    for (int j = 0; j < UNITS; j++)
        if (i + j * blockDim.x < width) to[i + j * blockDim.x] = v[j];
}

/* One block for one piece of row t; `many` is the side that the numbers index. W: the unit of a copy, `width` of them a row. */
template <class W, bool SCATTER> __global__ void __launch_bounds__(THREADS) rows_kernel(W *__restrict__ out, const W *__restrict__ x, const int32_t *__restrict__ rows, int64_t limit, int64_t width,
                                                                                       unsigned pieces, struct cuda_status *status)
{
    const int64_t t = blockIdx.x / pieces, i = (int64_t)(blockIdx.x % pieces) * blockDim.x * UNITS + threadIdx.x;
    const int row = rows[t];
    if (row < 0 || row >= limit) {
        if (i == 0) cuda_report(status, CUDA_FAULT_ROW, t, row, limit);
        return;
    }
    const W *const from = x + (SCATTER ? t : row) * width;
    W *const to = out + (SCATTER ? row : t) * width;
    copy_units(to, from, i, width);
}

template <class W, bool SCATTER> static int move(struct pw_dev *dev, const char *op, struct pw_tensor out, struct pw_tensor x, struct pw_tensor rows, size_t row_bytes)
{
    const int64_t width = (int64_t)(row_bytes / sizeof(W)), limit = SCATTER ? out.shape[0] : x.shape[0];
    const unsigned threads = cuda_warps((width + UNITS - 1) / UNITS, THREADS), pieces = cuda_parts(width, (int64_t)threads * UNITS);
    CUDA_LAUNCH(dev, op, (rows_kernel<W, SCATTER>), (unsigned)rows.shape[0] * pieces, threads, 0, (W *)out.data, (const W *)x.data, (const int32_t *)rows.data, limit, width, pieces,
                cuda_of(dev)->status);
    return 0;
}
template <bool SCATTER> static int move_any(struct pw_dev *dev, const char *op, struct pw_tensor out, struct pw_tensor x, struct pw_tensor rows)
{
    const struct pw_tensor few = SCATTER ? x : out;
    const size_t row_bytes = few.shape[0] ? pw_bytes(few) / (size_t)few.shape[0] : 0;
    const uintptr_t odd = (uintptr_t)out.data | (uintptr_t)x.data | row_bytes;
    if (odd % 16 == 0) return move<uint4, SCATTER>(dev, op, out, x, rows, row_bytes);
    if (odd % 4 == 0) return move<uint32_t, SCATTER>(dev, op, out, x, rows, row_bytes);
    return move<uint16_t, SCATTER>(dev, op, out, x, rows, row_bytes);
}

extern "C" int cuda_scatter_rows(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, struct pw_tensor rows) { return move_any<true>(dev, "scatter_rows", out, x, rows); }
extern "C" int cuda_gather_rows(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, struct pw_tensor rows) { return move_any<false>(dev, "gather_rows", out, x, rows); }

/* One block for one piece of a row; strides and width in units of W. */
template <class W> __global__ void __launch_bounds__(THREADS) columns_kernel(W *__restrict__ out, const W *__restrict__ x, int64_t out_stride, int64_t x_stride, int64_t width, unsigned pieces)
{
    const int64_t t = blockIdx.x / pieces, i = (int64_t)(blockIdx.x % pieces) * blockDim.x * UNITS + threadIdx.x;
    const W *const from = x + t * x_stride;
    W *const to = out + t * out_stride;
    copy_units(to, from, i, width);
}

template <class W> static int columns(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, size_t size)
{
    const int64_t each = (int64_t)(sizeof(W) / size), width = x.shape[1] / each;
    const unsigned threads = cuda_warps((width + UNITS - 1) / UNITS, THREADS), pieces = cuda_parts(width, (int64_t)threads * UNITS);
    CUDA_LAUNCH(dev, "columns_copy", columns_kernel<W>, (unsigned)x.shape[0] * pieces, threads, 0, (W *)out.data, (const W *)x.data, out.stride[0] / each, x.stride[0] / each, width, pieces);
    return 0;
}

extern "C" int cuda_columns_copy(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x)
{
    const size_t size = pw_dtype_bytes(x.dtype);
    const uintptr_t odd = (uintptr_t)out.data | (uintptr_t)x.data | (uintptr_t)((size_t)(x.shape[1] | x.stride[0] | out.stride[0]) * size);
    if (x.shape[0] == 0) return 0;
    if (odd % 16 == 0) return columns<uint4>(dev, out, x, size);
    if (odd % 4 == 0) return columns<uint32_t>(dev, out, x, size);
    return columns<uint16_t>(dev, out, x, size);
}
