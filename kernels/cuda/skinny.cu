/* y = x W^T for 1 to 4 rows of x: decoding text; up to 16 are given to skinny_mma.cu. Bound by reading W once.
 *
 * A block is 8 warps; `split` of them share one row of W (1 unless W has too few rows to fill the card), so a block makes 8 / split columns of y.
 *      lane l of a warp takes chunk l, l + 32 split, ..: 16 bytes of W each, 32 weights of 4 bits, 16 of 8, 8 of 16 (f32: 32 bytes)
 *      x, as bf16, lies in shared memory, a tile of K at a time; 32 elements and 8 of padding, so that eight lanes' 16-byte reads meet all banks
 *      4 bits: table values times x are added up in f32, then multiplied by the block's scale once
 * AHEAD chunks of a lane are loaded before the first is used: 4 x 16 bytes x 32 lanes are 2 KiB in flight for each warp; with 16 warps a processor
 * (40 KiB of shared memory a block, 2 blocks) that is 32 KiB. What a card needs in flight is bandwidth x latency: 1 TB/s x 0.7 us / 128 = 5.5 KiB a
 * processor on an RTX 4090, 3.35 TB/s x 0.8 us / 132 = 20 KiB on an H100. (Arithmetic, not measured.)
 * Shared memory, per weight: one read of the table and M x 2 bytes of x; at M = 1 that is 6 bytes of 128 a cycle for half a byte of W, about five
 * times what a card's memory delivers, at M = 4 still above it. From 5 rows on tensor cores are the better way.
 * Sums: a lane over its chunks in order, then the lanes, then the warps in order: the same for every number of rows. */
#include "kernels/cuda/skinny.h"

enum { THREADS = 256, WARPS = THREADS / 32, FMA_ROWS = 4, AHEAD = 4, TILE = 16384 /* elements of x in shared memory, all rows */ };

SIMT_FN int x_place(int e) { return e / 32 * 40 + e % 32; }
SIMT_FN void x_eight(const uint16_t *x, float out[8]) { bf16_8(*(const uint4 *)x, out); }

/* WIDE: rows of whole chunks at aligned addresses, blocks of whole chunks. Blocks of GGUF: at even addresses; their bytes lie all over a block, so
 * that they are decoded as they are read. */
template <enum decode_kind KIND, bool WIDE, int M> __global__ void __launch_bounds__(THREADS, 1) skinny_kernel(const skinny_args g)
{
    enum { CHUNK = chunk_of(KIND), RAW = WIDE && !chunk_is_block(KIND), K_TILE = TILE / M, LD = K_TILE / 32 * 40 };
    SIMT_DYN_SHARED(uint16_t, xs); /* (M, LD), as much of it as K needs */
    SIMT_SHARED(float[16], table);
    SIMT_SHARED(float[WARPS * M], partial);
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, part = warp % g.split;
    const int64_t n = (int64_t)blockIdx.x * (WARPS / g.split) + warp / g.split;
    const bool row_there = n < g.w.n_out;
    cuda_weight of_w = g.w;
    const bf16 *of_x = g.x, *of_xa = g.xa;
    const float *of_b = g.b, *bias = g.bias;
    float scale_b = g.scale;
    int rows = g.rows;
    int64_t y_row = 0;
    if (g.group.entries) {
        const expert_tile mine = g.group.tiles[blockIdx.y];
        if (mine.expert < 0) return; /* the whole block */
        const expert_entry &entry = g.group.entries[mine.expert];
        of_w = expert_weight(g.w, entry, g.group.operand);
        const int from = min(max(g.starts[mine.expert], 0), g.all_rows), to = min(max(g.starts[mine.expert + 1], from), g.all_rows);
        y_row = min(from + mine.first, to);
        rows = min(rows, to - (int)y_row);
        of_x += y_row * g.k;
        if (g.r) of_xa += y_row * g.r;
        of_b = entry.b;
        scale_b = entry.scale;
        bias = g.group.operand == EXPERT_W ? entry.bias : NULL;
    }
    if constexpr (decode_uses_table(KIND)) decode_table<KIND>(of_w, table);
    float sum[M] = {};
    for (int64_t k0 = 0; k0 < g.k; k0 += K_TILE) {
        const int width = (int)min((int64_t)K_TILE, g.k - k0), ld = min((int)LD, (width + 31) / 32 * 40);
        if (k0 > 0) __syncthreads(); /* everyone is done with the tile before */
        for (int m = 0; m < M; m++)
            for (int e = (int)threadIdx.x * 8; e < (width + 31) / 32 * 32; e += THREADS * 8) {
                const bf16 *from = of_x + (int64_t)m * g.k + k0 + e;
                uint4 v = make_uint4(0, 0, 0, 0);
                if (m < rows && e < width) {
                    if (g.x_words) v = __ldg((const uint4 *)from);
                    else {
                        uint32_t word[4] = {};
#pragma unroll
                        for (int j = 0; j < 8; j++)
                            if (e + j < width) word[j / 2] |= (uint32_t)from[j].bits << 16 * (j % 2);
                        v = make_uint4(word[0], word[1], word[2], word[3]);
                    }
                }
                *(uint4 *)(xs + m * ld + x_place(e)) = v;
            }
        __syncthreads();
        if (!row_there) continue; /* a whole warp; it comes back for the barriers */
        for (int c = part * 32 + lane; c * CHUNK < width; c += 32 * g.split * AHEAD) {
            [[maybe_unused]] chunk_raw<KIND> raw[AHEAD];
            if constexpr (RAW) {
#pragma unroll
                for (int a = 0; a < AHEAD; a++) {
                    const int at = (c + a * 32 * g.split) * CHUNK;
                    if (at < width) chunk_load<KIND>(raw[a], of_w, n, k0 + at);
                }
            }
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                const int at = (c + a * 32 * g.split) * CHUNK;
                if (at >= width) break;
                float mine[M] = {};
#pragma unroll
                for (int eight = 0; eight < CHUNK / 8; eight++) {
                    float v[8], x[8];
                    if constexpr (RAW) chunk_eight<KIND>(raw[a], table, eight, v);
                    else if (at + eight * 8 < width) decode8<KIND, WIDE>(of_w, table, n, k0 + at + eight * 8, v);
                    else break;
#pragma unroll
                    for (int m = 0; m < M; m++) {
                        x_eight(xs + m * ld + x_place(at + eight * 8), x);
#pragma unroll
                        for (int e = 0; e < 8; e++) mine[m] = __fmaf_rn(v[e], x[e], mine[m]);
                    }
                }
                float scale = 1;
                if constexpr (RAW && KIND == DECODE_FOUR) scale = raw[a].scale;
#pragma unroll
                for (int m = 0; m < M; m++) sum[m] = __fmaf_rn(mine[m], scale, sum[m]);
            }
        }
    }
#pragma unroll
    for (int m = 0; m < M; m++) {
        sum[m] = warp_sum(sum[m]);
        if (lane == 0) partial[warp * M + m] = sum[m];
    }
    __syncthreads();
    if (!row_there || part != 0) return;
    float step = 1;
    if (WIDE && KIND == DECODE_INT8) step = int8_step(__ldg(of_w.absmax + n));
#pragma unroll
    for (int m = 0; m < M; m++) {
        if (m >= rows) break;
        float low = 0;
        for (int i = lane; i < g.r; i += 32) low = __fmaf_rn(load(of_xa, (size_t)(m * g.r + i)), __ldg(of_b + n * g.r + i), low);
        low = warp_sum(low);
        float all = 0;
        for (int p = 0; p < g.split; p++) all += partial[(warp + p) * M + m];
        const float y = all * step + scale_b * low + (bias ? bias[n] : 0);
        if (lane != 0) continue;
        if (g.y_f32) store((float *)g.y, (size_t)((y_row + m) * g.w.n_out + n), y);
        else store((bf16 *)g.y, (size_t)((y_row + m) * g.w.n_out + n), y);
    }
}

template <enum decode_kind KIND, bool WIDE> static int launch(struct pw_dev *dev, const skinny_args *g)
{
    const int m = g->rows == 1 ? 1 : g->rows == 2 ? 2 : 4;
    const int64_t tile = g->k < TILE / m ? g->k : TILE / m;
    const size_t smem = (size_t)m * ((size_t)(tile + 31) / 32 * 40) * 2;
    const dim3 grid(cuda_parts(g->w.n_out, WARPS / g->split), g->group.entries ? (unsigned)g->group.n_tiles : 1u);
    if (m == 1) CUDA_LAUNCH(dev, "linear_fwd", (skinny_kernel<KIND, WIDE, 1>), grid, THREADS, smem, *g);
    else if (m == 2) CUDA_LAUNCH(dev, "linear_fwd", (skinny_kernel<KIND, WIDE, 2>), grid, THREADS, smem, *g);
    else CUDA_LAUNCH(dev, "linear_fwd", (skinny_kernel<KIND, WIDE, 4>), grid, THREADS, smem, *g);
    return 0;
}

static int run(struct pw_dev *dev, skinny_args *g, int rows, bool wide, struct pw_tensor x, struct pw_tensor y, const struct pw_weight *w)
{
    const enum decode_kind kind = cuda_decode_kind(w);
    g->x = (const bf16 *)x.data;
    g->k = w->n_in;
    g->x_words = w->n_in % 8 == 0 && (uintptr_t)x.data % 16 == 0;
    g->w = cuda_weight_of(w);
    g->rows = rows;
    g->y = y.data;
    g->y_f32 = y.dtype == PW_F32;
    /* enough warps for two blocks a processor, whatever N is. A function of W and the card alone, and the lanes' chunks begin anew with no tile of x,
     * so that rows do not depend on their number */
    const int most = TILE / 4 / (32 * chunk_of(kind)) < WARPS ? TILE / 4 / (32 * chunk_of(kind)) : (int)WARPS;
    g->split = 1;
    while (g->split < most && w->n_out * g->split < 2 * WARPS * (int64_t)cuda_of(dev)->processors && w->n_in > 32 * chunk_of(kind) * g->split) g->split *= 2;
    if (g->rows > FMA_ROWS) return skinny_mma_run(dev, g, kind);
    CUDA_BY_KIND(w, "linear_fwd", kind, return wide ? launch<kind, true>(dev, g) : launch<kind, false>(dev, g))
    return 0;
}

int64_t skinny_rows(const struct pw_weight *w) { return chunk_fits(w) ? 16 : FMA_ROWS; }

int skinny_fwd(struct pw_dev *dev, struct pw_tensor y, struct pw_tensor xa, struct pw_tensor x, const struct pw_weight *w)
{
    skinny_args g = {};
    g.bias = w->bias;
    if (w->lora) {
        g.xa = (const bf16 *)xa.data;
        g.b = (const float *)w->lora->b.data;
        g.r = w->lora->r;
        g.scale = (float)w->lora->scale;
    }
    return run(dev, &g, (int)x.shape[0], chunk_fits(w), x, y, w);
}
int skinny_plain(struct pw_dev *dev, struct pw_tensor out, struct pw_tensor x, const struct pw_weight *w)
{
    skinny_args g = {};
    return run(dev, &g, (int)x.shape[0], chunk_fits(w), x, out, w);
}
int skinny_experts(struct pw_dev *dev, struct pw_tensor y, struct pw_tensor xa, struct pw_tensor x, const struct pw_weight *w, const struct expert_group *group, const int32_t *starts)
{
    const bool low = group->operand == EXPERT_A;
    const struct pw_weight a = low ? pw_weight_dense(w->lora->a) : *w;
    skinny_args g = {};
    bool wide = true;
    for (int e = 0; e < group->n; e++) {
        const struct pw_weight mine = low ? pw_weight_dense(w[e].lora->a) : w[e];
        wide = wide && chunk_fits(&mine);
    }
    g.group = *group;
    g.starts = starts;
    g.all_rows = (int)x.shape[0];
    if (w->lora && !low) g.xa = (const bf16 *)xa.data, g.r = w->lora->r;
    return run(dev, &g, x.shape[0] < SKINNY_TILE ? (int)x.shape[0] : (int)SKINNY_TILE, wide, x, y, &a);
}
