/* y = x W^T for 5 to 16 rows of x, on tensor cores: W is read once, by the lanes that need it, and never goes through shared memory.
 *
 * A block makes 8 TILES columns of y (32, or 8 where W has few rows) for all 16 rows; its 8 warps share K, in steps of 32 chunks:
 *
 *      lane 4 g + t of a warp holds chunk t of row g of W (each tile): CHUNK elements side by side, 16 bytes of codes
 *      one mma takes 4 of them, as its k = 2t, 2t + 1, 2t + 8, 2t + 9: any order of k will do if both operands have the same, so x is read in
 *      that order too, 16 bytes for two mma: row g and row g + 8 of x at the lane's own k
 *
 * x (16 rows) lies in shared memory, 1024 of K at a time, two stages filled by cp.async; 32 elements and 8 of padding, rows 4 words apart from a
 * multiple of 8, so that the eight lanes of a 16-byte read meet all banks. Every block reads all of x (128 KiB at K = 4096, from L2): 32 columns
 * a block keep that at twice the bytes of a 4-bit W. The chunks of the next step are loaded before this one is used: 4 tiles x 512 bytes for each warp, 16 KiB a
 * block in flight.
 * A weight is rounded to bf16 once, except where that changes nothing (bf16, int8 codes: their scale is that of the row and comes last).
 * Sums: a warp over its steps in order, then the warps in order. */
#include "kernels/cuda/skinny.h"

enum { THREADS = 256, WARPS = THREADS / 32, ROWS = 16, K_TILE = 1024, LD = K_TILE / 32 * 40 + 32 /* 164 words of 16 bytes, 4 more than a multiple of 8 */ };

SIMT_FN int x_place(int e) { return e / 32 * 40 + e % 32; }

template <enum decode_kind KIND, int TILES> __global__ void __launch_bounds__(THREADS) skinny_mma_kernel(const skinny_args g)
{
    enum { CHUNK = chunk_of(KIND), STEP = 4 * CHUNK * WARPS, STEPS = K_TILE / STEP }; /* K of a step of all warps, steps a tile */
    static_assert(STEPS * STEP == K_TILE, "whole steps");
    SIMT_DYN_SHARED(uint16_t, xs); /* (2, ROWS, LD) */
    SIMT_SHARED(float[16], table);
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, group = lane / 4, part = lane % 4;
    const int64_t n0 = (int64_t)blockIdx.x * 8 * TILES;
    const int64_t tiles = (g.k + K_TILE - 1) / K_TILE;
    if constexpr (decode_uses_table(KIND)) decode_table<KIND>(g.w, table);

    auto fill = [&](int64_t tile) { /* the tile of x, zeros past rows and K */
        for (int c = (int)threadIdx.x; tile < tiles && c < ROWS * K_TILE / 8; c += THREADS) {
            const int row = c / (K_TILE / 8), e = c % (K_TILE / 8) * 8;
            const int64_t k = tile * K_TILE + e;
            uint16_t *to = xs + (tile % 2 * ROWS + row) * LD + x_place(e);
            const bool inside = row < g.rows && k < g.k;
            const bf16 *from = g.x + (inside ? row * g.k + k : 0);
            if (g.x_words) cp_async_16(to, from, inside);
            else {
                uint32_t word[4] = {};
#pragma unroll
                for (int j = 0; j < 8; j++)
                    if (inside && k + j < g.k) word[j / 2] |= (uint32_t)from[j].bits << 16 * (j % 2);
                *(uint4 *)to = make_uint4(word[0], word[1], word[2], word[3]);
            }
        }
        cp_async_commit();
    };
    auto at = [&](int64_t step) { return step * STEP + (int64_t)(warp * 4 + part) * CHUNK; }; /* the lane's k */
    auto fetch = [&](chunk_raw<KIND> raw[TILES], int64_t step) {
#pragma unroll
        for (int j = 0; j < TILES; j++)
            if (n0 + 8 * j + group < g.w.n_out && at(step) < g.k) chunk_load<KIND>(raw[j], g.w, n0 + 8 * j + group, at(step));
    };
    float sum[TILES][4] = {};
    chunk_raw<KIND> now[TILES] = {}, next[TILES] = {};
    fill(0);
    fetch(now, 0);
    for (int64_t tile = 0; tile < tiles; tile++) {
        fill(tile + 1);
        cp_async_wait<1>();
        __syncthreads(); /* this tile has landed */
        for (int s = 0; s < STEPS; s++) {
            const int64_t step = tile * STEPS + s, k = at(step);
            fetch(next, step + 1);
            const uint16_t *x = xs + (tile % 2 * ROWS + group) * LD;
            const int e0 = (int)(k - tile * K_TILE);
#pragma unroll
            for (int eight = 0; eight < CHUNK / 8; eight++) {
                const uint4 top = *(const uint4 *)(x + x_place(e0 + 8 * eight)), low = *(const uint4 *)(x + 8 * LD + x_place(e0 + 8 * eight));
                const uint32_t a[2][4] = {{top.x, low.x, top.y, low.y}, {top.z, low.z, top.w, low.w}};
#pragma unroll
                for (int j = 0; j < TILES; j++) {
                    const int64_t n = n0 + 8 * j + group;
                    uint32_t b[2][2] = {};
                    if (n < g.w.n_out && k < g.k) {
                        float v[8];
                        if constexpr (chunk_is_block(KIND)) decode8<KIND, true>(g.w, table, n, k + 8 * eight, v);
                        else chunk_eight<KIND>(now[j], table, eight, v);
                        if constexpr (KIND == DECODE_FOUR) {
#pragma unroll
                            for (int e = 0; e < 8; e++) v[e] = __fmul_rn(v[e], now[j].scale);
                        }
#pragma unroll
                        for (int e = 0; e < 4; e++) b[e / 2][e % 2] = bf16x2(v[2 * e], v[2 * e + 1]);
                    }
                    mma_m16n8k16_bf16(sum[j], a[0], b[0]);
                    mma_m16n8k16_bf16(sum[j], a[1], b[1]);
                }
            }
#pragma unroll
            for (int j = 0; j < TILES; j++) now[j] = next[j];
        }
        __syncthreads(); /* before the tile is filled again */
    }
    cp_async_wait<0>();

    float *partial = (float *)xs; /* (WARPS, ROWS, 8 TILES): x is done with */
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) partial[(warp * ROWS + group + e / 2 * 8) * (8 * TILES) + 8 * j + 2 * part + e % 2] = sum[j][e];
    __syncthreads();
    for (int i = (int)threadIdx.x; i < g.rows * 8 * TILES; i += THREADS) {
        const int64_t row = i / (8 * TILES), n = n0 + i % (8 * TILES);
        if (n >= g.w.n_out) continue;
        float all = 0, low = 0;
        for (int w = 0; w < WARPS; w++) all += partial[w * ROWS * 8 * TILES + i];
        for (int r = 0; r < g.r; r++) low = __fmaf_rn(bf16_to_f32(g.xa[row * g.r + r].bits), __ldg(g.b + n * g.r + r), low);
        if constexpr (KIND == DECODE_INT8) all *= int8_step(__ldg(g.w.absmax + n));
        const float y = all + g.scale * low + (g.bias ? g.bias[n] : 0);
        if (g.y_f32) store((float *)g.y, (size_t)(row * g.w.n_out + n), y);
        else store((bf16 *)g.y, (size_t)(row * g.w.n_out + n), y);
    }
}

template <enum decode_kind KIND> static int launch(struct pw_dev *dev, const skinny_args *g)
{
    enum { SMEM = 2 * ROWS * LD * 2 };
    static_assert(SMEM <= 99 * 1024 && SMEM >= WARPS * ROWS * 32 * 4, "fits; and so do the partial sums");
    /* a function of W and the card alone */
    if (g->w.n_out >= 32 * (int64_t)cuda_of(dev)->processors) CUDA_LAUNCH(dev, "linear_fwd", (skinny_mma_kernel<KIND, 4>), cuda_parts(g->w.n_out, 32), THREADS, (size_t)SMEM, *g);
    else CUDA_LAUNCH(dev, "linear_fwd", (skinny_mma_kernel<KIND, 1>), cuda_parts(g->w.n_out, 8), THREADS, (size_t)SMEM, *g);
    return 0;
}
int skinny_mma_run(struct pw_dev *dev, const struct skinny_args *g, enum decode_kind kind)
{
    switch (kind) {
    case DECODE_F32: return launch<DECODE_F32>(dev, g);
    case DECODE_BF16: return launch<DECODE_BF16>(dev, g);
    case DECODE_F16: return launch<DECODE_F16>(dev, g);
    case DECODE_FOUR: return launch<DECODE_FOUR>(dev, g);
    case DECODE_INT8: return launch<DECODE_INT8>(dev, g);
#define PW_BLOCK(id, ...) case DECODE_##id: return launch<DECODE_##id>(dev, g);
#include "kernels/blocks.def"
#undef PW_BLOCK
    default: return pw_error(PW_E_UNSUPPORTED, "linear_fwd: device %s has no kernel for weights of this type", dev->kind);
    }
}
