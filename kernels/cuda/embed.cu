/* embed: rows of a table by id, and the sums of gradients back into it. An id outside the table is reported and its row is not touched. */
#include "kernels/cuda/decode.h"

enum { THREADS = 256, WARPS = THREADS / 32 };

/* One block for one piece of one token's row: `pieces` of them make it. */
template <enum decode_kind KIND, bool FAST> __global__ void __launch_bounds__(THREADS) embed_fwd_kernel(bf16 *__restrict__ out, const cuda_weight w, const int32_t *__restrict__ ids,
                                                                                                       unsigned pieces, struct cuda_status *status)
{
    SIMT_SHARED(float[16], table);
    const int64_t t = blockIdx.x / pieces, i = (int64_t)(blockIdx.x % pieces * blockDim.x + threadIdx.x) * 8;
    const int id = ids[t];
    if constexpr (decode_uses_table(KIND)) {
        decode_table<KIND>(w, table);
        __syncthreads();
    }
    if (id < 0 || id >= w.n_out) {
        if (i == 0) cuda_report(status, CUDA_FAULT_EMBED_ID, t, id, w.n_out);
        return;
    }
    float x[8];
    if (i >= w.n_in) return;
    decode8<KIND, FAST>(w, table, id, i, x);
    store8<FAST>(out + t * w.n_in, i, w.n_in, x);
}

/* One block for each token and piece of its row. The block of an id's first token adds up the rows of all its tokens, in their order; the others leave.
 * Each looks at all ids before that: T * T comparisons in all, 4 bytes each out of the second-level cache, THREADS at a time. */
template <bool FAST> __global__ void __launch_bounds__(THREADS) embed_bwd_kernel(float *__restrict__ dtable, const bf16 *__restrict__ dout, const int32_t *__restrict__ ids, int64_t tokens,
                                                                                int64_t rows, int64_t width, unsigned pieces, struct cuda_status *status)
{
    SIMT_SHARED(unsigned[2][WARPS], same);
    const int64_t t = blockIdx.x / pieces, i = ((int64_t)(blockIdx.x % pieces) * THREADS + threadIdx.x) * 8;
    const int id = ids[t];
    if (id < 0 || id >= rows) {
        if (i == 0) cuda_report(status, CUDA_FAULT_EMBED_ID, t, id, rows);
        return;
    }
    float sum[8], x[8];
    load8<FAST>(dtable + id * width, i, width, sum);
    int stage = 0;
    for (int64_t first = 0; first < tokens; first += THREADS, stage ^= 1) {
        const int64_t mine = first + threadIdx.x;
        const unsigned votes = __ballot_sync(0xffffffffu, mine < tokens && ids[mine] == id);
        if (threadIdx.x % 32 == 0) same[stage][threadIdx.x / 32] = votes;
        __syncthreads(); /* two stages: nobody is two turns ahead of a reader */
        for (int w = 0; w < WARPS; w++)
            for (unsigned left = same[stage][w]; left; left &= left - 1) {
                const int64_t at = first + 32 * w + __popc((left & (0u - left)) - 1);
                if (at < t) return; /* all threads of the block: not the first */
                load8<FAST>(dout + at * width, i, width, x);
#pragma unroll
                for (int e = 0; e < 8; e++) sum[e] += x[e];
            }
    }
    store8<FAST>(dtable + id * width, i, width, sum);
}

extern "C" int cuda_embed_fwd(struct pw_dev *dev, struct pw_tensor out, const struct pw_weight *table, struct pw_tensor ids)
{
    const struct cuda_weight view = cuda_weight_of(table);
    const int64_t width = out.shape[1], eights = (width + 7) / 8;
    const unsigned threads = cuda_warps(eights, THREADS), pieces = cuda_parts(eights, threads), grid = (unsigned)out.shape[0] * pieces;
    bf16 *to = (bf16 *)out.data;
    const int32_t *id = (const int32_t *)ids.data;
    CUDA_BY_KIND(table, "embed_fwd", kind, CUDA_BY_BOOL(cuda_weight_fast(table) && cuda_aligned(to), fast,
                                                        CUDA_LAUNCH(dev, "embed_fwd", (embed_fwd_kernel<kind, fast>), grid, threads, 0, to, view, id, pieces, cuda_of(dev)->status)))
    return 0;
}

extern "C" int cuda_embed_bwd(struct pw_dev *dev, struct pw_tensor dtable, struct pw_tensor dout, struct pw_tensor ids)
{
    const int64_t width = dout.shape[1], tokens = dout.shape[0];
    const unsigned pieces = cuda_parts(width, THREADS * 8), grid = (unsigned)tokens * pieces;
    float *to = (float *)dtable.data;
    const bf16 *from = (const bf16 *)dout.data;
    const int32_t *id = (const int32_t *)ids.data;
    CUDA_BY_BOOL(width % 8 == 0 && cuda_aligned(to) && cuda_aligned(from), fast,
                 CUDA_LAUNCH(dev, "embed_bwd", embed_bwd_kernel<fast>, grid, THREADS, 0, to, from, id, tokens, dtable.shape[0], width, pieces, cuda_of(dev)->status))
    return 0;
}
