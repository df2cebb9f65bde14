/* Products on tensor cores in which the second operand is decoded while it is staged: the kernel behind linear and head_loss.
 *
 *   C (m, n) = A B, plus what the call asks for.   A is bf16, B whatever kernels/cuda/decode.h can read; both are rounded to bf16 once, sums are f32.
 *     TA  A is stored (m, k), or (k, m) when true          NT = <false, false>  y = x W^T
 *     TB  B is stored (n, k), or (k, n) when true          NN = <false, true>   dx = dy W
 *                                                          TN = <true, true>    dw = dy^T x
 * A block makes BM x BN of C in steps of 32 along k, each warp WM x WN of it in pieces of 16 x 8 (mma.m16n8k16):
 *
 *        global --cp.async--> A tile [3] --ldmatrix--> registers --mma--> sums
 *        global --> registers, decoded --> B tile [3]
 *
 * Three stages, one barrier a step: while step s is multiplied, A of s + 2 is under way (cp.async) and the codes of s + 2 are on their way to registers;
 * those of s + 1 were stored before the multiplication began. A stage is refilled two barriers after it was last read. Operands that
 * cp.async cannot take (rows that are not whole 16-byte words, dropout) come through registers like B.
 * A tile holds 16-byte chunks; chunk c of a row lies at c ^ (something of the row), so that the eight rows of one ldmatrix, and eight stores in
 * a row, meet all banks (place()).
 * The sum of an element runs over k in order, from one step to the next, whatever m and n are: a row's result does not depend on its neighbours.
 *
 * An adapter is a first segment of the same sum, over its rank: C = factor * keep * (low W_low) + A B, with keep the mask of dropout (NN) or 1 (NT). */
#ifndef PW_KERNELS_CUDA_TILE_H
#define PW_KERNELS_CUDA_TILE_H

#include "kernels/cuda/decode.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/philox.h"

enum { TILE_K = 32, TILE_STAGES = 3 };

struct tile_args {
    const bf16 *a; int64_t lda;
    bool a_words;              /* rows of A are whole 16-byte words (what lies past their end may be read) */
    const int32_t *count;      /* NULL, or what the device knows: there are only *count - count_base rows of A, stored */
    int64_t count_base;
    const int32_t *span;       /* NULL, or on the device: of A's rows, and of those of C and low, only span[0] .. span[1] are meant, TA: of the rows of A and B;
                                  m, TA: k, says how many there are. Rows of masks are counted from span[0], drop.rows from 0 */
    struct expert_group group; /* or none. With one span is the list of starts, (n + 1), B, low_w, bias and the mask are those of the block's expert, and
                                  TA: C is da or db of it, sums are not cut into pieces, alpha: times its scale for EXPERT_B */
    struct cuda_weight b;      /* b.n_in: elements from one row to the next */
    bool b_words;              /* cuda_weight_fast, or, for blocks of GGUF, an even address; F32 and BF16 alone may be false */
    int64_t b_row;             /* the first row of it */
    int64_t m, n, k, k_piece;  /* blockIdx.z sums k_piece terms, a multiple of TILE_K; its sums are at c + z * c_piece */
    struct cuda_drop drop;     /* of A (MASK), or of the adapter's segment */
    int64_t drop_row;          /* MASK: which row of the mask A's first is, unless drop.rows says it of each */
    const bf16 *low;           /* NULL, or (m, r) */
    const float *low_w;        /* (n, r), TB: (r, n) */
    int r;
    float low_factor;
    void *c; int64_t ldc, c_piece;
    bool c_f32, c_turned;      /* turned: C is stored (n, m) */
    float alpha;
    float beta;                /* 0: C is not read */
    const float *row_beta;     /* NULL, or (m): instead of beta */
    const float *bias;         /* NULL, or (n) */
};
static inline struct tile_args tile_args_make(void)
{
    struct tile_args g = {};
    g.alpha = 1;
    return g;
}
/* An operand that is not a pw_weight: (.., width) contiguous rows. */
static inline struct cuda_weight tile_view(const void *data, int64_t width)
{
    struct cuda_weight w = {};
    w.data = (const uint8_t *)data;
    w.n_in = width;
    return w;
}
/* Whether rows of `width` elements of 16 bits (ld apart) at p are whole words. */
static inline bool tile_words(const void *p, int64_t width, int64_t ld) { return (uintptr_t)p % 16 == 0 && width % 8 == 0 && ld % 8 == 0; }

/* C (m, n), ldc from one row to the next, = A B, A as contiguous rows. */
static inline struct tile_args tile_args_of(const struct pw_tensor a, struct cuda_weight b, bool b_words, int64_t m, int64_t n, int64_t k, int64_t piece, void *c, int64_t ldc)
{
    struct tile_args g = tile_args_make();
    g.a = (const bf16 *)a.data;
    g.lda = a.shape[1];
    g.a_words = tile_words(g.a, g.lda, g.lda);
    g.b = b;
    g.b_words = b_words;
    g.m = m, g.n = n, g.k = k, g.k_piece = piece;
    g.c = c;
    g.ldc = ldc;
    return g;
}
static inline void tile_add_low(struct tile_args *g, const struct pw_lora *lora, const bf16 *low, const struct pw_tensor low_w, float factor)
{
    g->low = low;
    g->low_w = (const float *)low_w.data;
    g->r = lora->r;
    g->low_factor = factor;
}

/* Where chunk c of a row begins, in elements, in a tile of W chunks a row. */
template <int W> SIMT_INLINE int tile_place(int row, int c) { return W == 4 ? row * 32 + 8 * (c ^ (row >> 1 & 3)) : row * (8 * W) + 8 * (c ^ (row & 7)); }

/* ---- eight elements on their way through registers ---- */

template <enum decode_kind KIND> struct tile_raw { float x[8]; }; /* blocks of GGUF: decoded at once, their bytes lie all over a block */
template <> struct tile_raw<DECODE_BF16> { uint4 v; };
template <> struct tile_raw<DECODE_F16> { uint4 v; };
template <> struct tile_raw<DECODE_INT8> { uint2 codes; float absmax; };
template <> struct tile_raw<DECODE_FOUR> { uint32_t codes; float scale; };

SIMT_FN uint4 tile_bf16_any(const bf16 *p, int64_t n) /* n >= 8: all */
{
    uint32_t w[4] = {};
#pragma unroll
    for (int e = 0; e < 8; e++)
        if (e < n) w[e / 2] |= (uint32_t)p[e].bits << 16 * (e % 2);
    return make_uint4(w[0], w[1], w[2], w[3]);
}
/* The load alone, so that it can be under way while something else is done. n: how many elements of the row there are from k on. */
template <enum decode_kind KIND> SIMT_INLINE void tile_load(tile_raw<KIND> &raw, const cuda_weight &w, const float *table, bool words, bool inside, int64_t row, int64_t k, int64_t n)
{
    const int64_t i = row * w.n_in + k;
    if constexpr (KIND == DECODE_F32) {
        const float *p = (const float *)w.data + i;
#pragma unroll
        for (int e = 0; e < 8; e++) raw.x[e] = 0;
        if (inside && words) {
            const float4 a = __ldg((const float4 *)p), b = __ldg((const float4 *)p + 1);
            raw.x[0] = a.x, raw.x[1] = a.y, raw.x[2] = a.z, raw.x[3] = a.w, raw.x[4] = b.x, raw.x[5] = b.y, raw.x[6] = b.z, raw.x[7] = b.w;
        } else if (inside) {
#pragma unroll
            for (int e = 0; e < 8; e++)
                if (e < n) raw.x[e] = __ldg(p + e);
        }
    } else if constexpr (KIND == DECODE_BF16) {
        raw.v = make_uint4(0, 0, 0, 0);
        if (inside) raw.v = words ? __ldg((const uint4 *)(w.data + 2 * i)) : tile_bf16_any((const bf16 *)w.data + i, n);
    } else if constexpr (KIND == DECODE_F16) {
        raw.v = inside ? __ldg((const uint4 *)(w.data + 2 * i)) : make_uint4(0, 0, 0, 0);
    } else if constexpr (KIND == DECODE_INT8) {
        raw.codes = inside ? __ldg((const uint2 *)(w.data + i)) : make_uint2(0, 0);
        raw.absmax = inside ? __ldg(w.absmax + row) : 0;
    } else if constexpr (KIND == DECODE_FOUR) {
        raw.codes = inside ? __ldg((const uint32_t *)(w.data + (i >> 1))) : 0;
        raw.scale = inside ? weight_scale<true>(w, i) : 0; /* 0 * table: zeros */
    } else {
#pragma unroll
        for (int e = 0; e < 8; e++) raw.x[e] = 0;
        if (inside) decode8<KIND, true>(w, table, row, k, raw.x);
    }
}
template <enum decode_kind KIND> SIMT_INLINE uint4 tile_finish(const tile_raw<KIND> &raw, const float *table)
{
    float x[8];
    if constexpr (KIND == DECODE_BF16) return raw.v;
    else {
        if constexpr (KIND == DECODE_F16) f16_8(raw.v, x);
        else if constexpr (KIND == DECODE_INT8) {
            const float step = int8_step(raw.absmax);
            int8_4(raw.codes.x, step, x);
            int8_4(raw.codes.y, step, x + 4);
        } else if constexpr (KIND == DECODE_FOUR) four_bit8(raw.codes, raw.scale, table, x);
        else {
#pragma unroll
            for (int e = 0; e < 8; e++) x[e] = raw.x[e];
        }
        return make_uint4(bf16x2(x[0], x[1]), bf16x2(x[2], x[3]), bf16x2(x[4], x[5]), bf16x2(x[6], x[7]));
    }
}

/* ---- the kernel ---- */

template <int BM, int BN, int WM, int WN, bool TA, bool TB, enum decode_kind KIND, bool MASK>
__global__ void __launch_bounds__(BM / WM * (BN / WN) * 32, BM == 64 ? 4 : 1) tile_kernel(const tile_args g)
{
    enum {
        NT = BM / WM * (BN / WN) * 32, MI = WM / 16, NI = WN / 8, A_WIDE = TA ? BM / 8 : 4, B_WIDE = TB ? BN / 8 : 4, /* chunks a row */
        A_CHUNKS = BM * 4 / NT, B_CHUNKS = BN * 4 / NT, A_TILE = BM * TILE_K, B_TILE = BN * TILE_K, STAGE = A_TILE + B_TILE,
    };
    static_assert(A_CHUNKS * NT == BM * 4 && B_CHUNKS * NT == BN * 4 && WM % 16 == 0 && WN % 16 == 0, "whole chunks a thread, whole pieces a warp");
    SIMT_DYN_SHARED(uint16_t, tile);
    SIMT_SHARED(float[16], table);
    const int thread = (int)threadIdx.x, warp = thread / 32, lane = thread % 32, wm = warp / (BN / WN) * WM, wn = warp % (BN / WN) * WN;
    const int64_t n0 = (int64_t)blockIdx.y * BN;
    int64_t m0 = (int64_t)blockIdx.x * BM, k0 = (int64_t)blockIdx.z * g.k_piece;
    cuda_weight b_of = g.b;
    cuda_drop drop = g.drop;
    const float *low_w = g.low_w, *bias = g.bias;
    float low_factor = g.low_factor, alpha = g.alpha;
    void *c_of = g.c;
    const int32_t *span = g.span;
    if (g.group.entries) {
        int e;
        if (TA) e = (int)blockIdx.z, k0 = 0;
        else {
            const expert_tile mine = g.group.tiles[blockIdx.x];
            e = mine.expert, m0 = mine.first;
            if (e < 0) return; /* the whole block, here and below */
        }
        const expert_entry &entry = g.group.entries[e];
        span += e;
        drop.offset[1] += (uint32_t)(PW_EXPERT_STREAM >> 32) * (uint32_t)e;
        if (TA) c_of = g.group.operand == EXPERT_A ? entry.da : entry.db;
        else b_of = expert_weight(g.b, entry, g.group.operand);
        if (TA && (!c_of || span[1] <= span[0])) return;
        if (g.group.operand == EXPERT_B) alpha *= entry.scale;
        if (g.group.operand == EXPERT_W) {
            low_w = TB ? entry.a : entry.b;
            if (!TB) low_factor = entry.scale, bias = entry.bias;
        }
    }
    int64_t m_end = g.m, k_end = min(g.k, k0 + g.k_piece);
    if (g.count) {
        const int64_t there = max((int64_t)0, *g.count - g.count_base);
        if (TA) k_end = min(k_end, there);
        else m_end = min(m_end, there);
    }
    int64_t row0 = 0;
    if (span) {
        const int64_t all = TA ? g.k : g.m;
        row0 = min(max((int64_t)span[0], (int64_t)0), all);
        const int64_t there = min(max((int64_t)span[1], row0), all) - row0;
        if (TA) k_end = min(k_end, there);
        else m_end = min(m_end, there);
    }
    if (m0 >= m_end) return;
    const bf16 *const a_rows = g.a + row0 * g.lda;
    if constexpr (decode_uses_table(KIND)) decode_table<KIND>(b_of, table); /* read after the first barrier */
    const int steps = k_end > k0 ? (int)((k_end - k0 + TILE_K - 1) / TILE_K) : 0;

    /* what each thread moves of A in step s: chunk j is at (row, column) of the stored matrix */
    auto a_at = [&](int s, int j, int64_t &row, int64_t &col, int &place) {
        const int c = thread + j * NT, r = c / A_WIDE, w = c % A_WIDE;
        place = tile_place<A_WIDE>(r, w);
        row = TA ? k0 + s * TILE_K + r : m0 + r;
        col = TA ? m0 + w * 8 : k0 + s * TILE_K + w * 8;
        return row < (TA ? k_end : m_end) && col < (TA ? m_end : k_end);
    };
    uint4 a_raw[A_CHUNKS];
    tile_raw<KIND> b_raw[B_CHUNKS];
    const bool a_direct = !MASK && g.a_words;
    auto a_issue = [&](int s) { /* global to shared, under way until the wait */
        if (a_direct && s < steps) {
#pragma unroll
            for (int j = 0; j < A_CHUNKS; j++) {
                int64_t row, col;
                int place;
                const bool inside = a_at(s, j, row, col, place);
                cp_async_16(tile + s % TILE_STAGES * STAGE + place, a_rows + (inside ? row * g.lda + col : 0), inside);
            }
        }
        cp_async_commit();
    };
    auto fetch = [&](int s) { /* global to registers */
        if (s >= steps) return;
        if (!a_direct) {
#pragma unroll
            for (int j = 0; j < A_CHUNKS; j++) {
                int64_t row, col;
                int place;
                a_raw[j] = make_uint4(0, 0, 0, 0);
                if (!a_at(s, j, row, col, place)) continue;
                const bf16 *p = a_rows + row * g.lda + col;
                a_raw[j] = g.a_words ? __ldg((const uint4 *)p) : tile_bf16_any(p, (TA ? m_end : k_end) - col);
            }
        }
#pragma unroll
        for (int j = 0; j < B_CHUNKS; j++) {
            const int c = thread + j * NT, r = c / B_WIDE, w = c % B_WIDE;
            const int64_t row = TB ? k0 + s * TILE_K + r : n0 + r, col = TB ? n0 + w * 8 : k0 + s * TILE_K + w * 8, row_end = TB ? k_end : g.n, col_end = TB ? g.n : k_end;
            tile_load<KIND>(b_raw[j], b_of, table, g.b_words, row < row_end && col < col_end, g.b_row + row + (TA ? row0 : 0), col, col_end - col);
        }
    };
    auto put = [&](int s) { /* registers to shared */
        if (s >= steps) return;
        uint16_t *to = tile + s % TILE_STAGES * STAGE;
        if (!a_direct) {
#pragma unroll
            for (int j = 0; j < A_CHUNKS; j++) {
                int64_t row, col;
                int place;
                const bool inside = a_at(s, j, row, col, place);
                if (MASK && drop.threshold && inside) {
                    const int64_t of = drop.rows ? __ldg(drop.rows + row0 + row) : g.drop_row + row;
                    const unsigned kept = philox_keep<8>(drop, (uint64_t)(of * g.lda + col));
                    uint32_t *word = &a_raw[j].x;
#pragma unroll
                    for (int e = 0; e < 4; e++) word[e] &= (kept >> 2 * e & 1 ? 0xffffu : 0u) | (kept >> (2 * e + 1) & 1 ? 0xffff0000u : 0u);
                }
                *(uint4 *)(to + place) = a_raw[j];
            }
        }
#pragma unroll
        for (int j = 0; j < B_CHUNKS; j++) {
            const int c = thread + j * NT;
            *(uint4 *)(to + A_TILE + tile_place<B_WIDE>(c / B_WIDE, c % B_WIDE)) = tile_finish<KIND>(b_raw[j], table);
        }
    };
    float sum[MI][NI][4] = {};
    const bool idle = m0 + wm >= m_end || n0 + wn >= g.n; /* the whole warp has nothing of C */
    auto multiply = [&](const uint16_t *ta, const uint16_t *tb) {
        if (idle) return;
#pragma unroll
        for (int k = 0; k < TILE_K; k += 16) {
            uint32_t a[MI][4], b[NI / 2][4];
#pragma unroll
            for (int i = 0; i < MI; i++) {
                if (TA) ldmatrix_x4_trans(a[i], ta + tile_place<A_WIDE>(k + lane % 8 + lane / 16 * 8, (wm + 16 * i) / 8 + lane / 8 % 2));
                else ldmatrix_x4(a[i], ta + tile_place<A_WIDE>(wm + 16 * i + lane % 16, k / 8 + lane / 16));
            }
#pragma unroll
            for (int j = 0; j < NI / 2; j++) { /* two pieces of 8 columns, both halves of k */
                if (TB) ldmatrix_x4_trans(b[j], tb + tile_place<B_WIDE>(k + lane % 16, (wn + 16 * j) / 8 + lane / 16));
                else ldmatrix_x4(b[j], tb + tile_place<B_WIDE>(wn + 16 * j + lane % 8 + lane / 16 * 8, k / 8 + lane / 8 % 2));
            }
#pragma unroll
            for (int i = 0; i < MI; i++)
#pragma unroll
                for (int j = 0; j < NI; j++) mma_m16n8k16_bf16(sum[i][j], a[i], b[j / 2] + 2 * (j % 2));
        }
    };

    if (!MASK && !TA && g.low) { /* the adapter: few steps, kept plain */
        for (int r0 = 0; r0 < g.r; r0 += TILE_K) {
            for (int c = thread; c < BM * 4; c += NT) {
                const int row = c / 4, col = r0 + c % 4 * 8;
                *(uint4 *)(tile + tile_place<4>(row, c % 4)) =
                    m0 + row < m_end && col < g.r ? tile_bf16_any(g.low + (row0 + m0 + row) * g.r + col, g.r - col) : make_uint4(0, 0, 0, 0);
            }
            for (int c = thread; c < BN * 4; c += NT) {
                const int row = c / B_WIDE, w = c % B_WIDE;
                const int64_t at_row = TB ? r0 + row : n0 + row, at_col = TB ? n0 + w * 8 : r0 + w * 8, width = TB ? g.n : g.r;
                float x[8];
#pragma unroll
                for (int e = 0; e < 8; e++) x[e] = at_row < (TB ? g.r : g.n) && at_col + e < width ? __ldg(low_w + at_row * width + at_col + e) : 0.0f;
                *(uint4 *)(tile + A_TILE + tile_place<B_WIDE>(row, w)) = make_uint4(bf16x2(x[0], x[1]), bf16x2(x[2], x[3]), bf16x2(x[4], x[5]), bf16x2(x[6], x[7]));
            }
            __syncthreads();
            multiply(tile, tile + A_TILE);
            __syncthreads(); /* before the tiles are filled again */
        }
        uint64_t kept = ~(uint64_t)0;
        if (TB && drop.threshold) {
            kept = 0;
#pragma unroll 1
            for (int p = 0; p < MI * NI * 2; p++) { /* two elements each, in the order of sum */
                const int64_t row = m0 + wm + p / (2 * NI) * 16 + lane / 4 + p % 2 * 8, col = n0 + wn + p / 2 % NI * 8 + lane % 4 * 2;
                const int64_t of = drop.rows ? __ldg(drop.rows + row0 + min(row, m_end - 1)) : row;
                kept |= (uint64_t)philox_keep<2>(drop, (uint64_t)(of * g.n + col)) << 2 * p;
            }
        }
        static_assert(MI * NI * 4 <= 64, "one bit an element");
        const float factor = low_factor * (TB ? drop.inverse : 1.0f);
#pragma unroll
        for (int e = 0; e < MI * NI * 4; e++) sum[e / (4 * NI)][e / 4 % NI][e % 4] *= kept >> (e / (4 * NI) * 4 * NI + e / 4 % NI * 4 + e % 4) & 1 ? factor : 0.0f;
    }

    if (steps > 0) {
        if constexpr (decode_uses_table(KIND)) __syncthreads();
        a_issue(0);
        a_issue(1);
        fetch(0);
        put(0);
        fetch(1);
        for (int s = 0; s < steps; s++) {
            cp_async_wait<1>();
            __syncthreads(); /* step s has landed; everyone is done with s - 1 */
            put(s + 1);
            fetch(s + 2);
            a_issue(s + 2);
            multiply(tile + s % TILE_STAGES * STAGE, tile + s % TILE_STAGES * STAGE + A_TILE);
        }
        cp_async_wait<0>();
    }

#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NI; j++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int64_t row = m0 + wm + 16 * i + lane / 4 + 8 * h, col = n0 + wn + 8 * j + lane % 4 * 2;
                if (row >= m_end) continue;
                const float beta = g.row_beta ? g.row_beta[row] : g.beta;
                float x[2];
#pragma unroll
                for (int e = 0; e < 2; e++) x[e] = alpha * sum[i][j][2 * h + e] + (bias && col + e < g.n ? bias[col + e] : 0.0f);
                const int64_t at = (TA && g.group.entries ? 0 : blockIdx.z * g.c_piece) + (g.c_turned ? col * g.ldc + row : (row + (TA ? 0 : row0)) * g.ldc + col), next = g.c_turned ? g.ldc : 1;
                if (g.c_f32) {
                    float *c = (float *)c_of + at;
#pragma unroll
                    for (int e = 0; e < 2; e++)
                        if (col + e < g.n) c[e * next] = beta != 0 ? beta * c[e * next] + x[e] : x[e];
                } else {
                    bf16 *c = (bf16 *)c_of + at;
                    const bool word = !g.c_turned && col + 1 < g.n && (uintptr_t)c % 4 == 0;
                    if (word) {
                        if (beta != 0) {
                            const uint32_t old = *(const uint32_t *)c;
                            x[0] += beta * bf16x2_low(old);
                            x[1] += beta * bf16x2_high(old);
                        }
                        *(uint32_t *)c = bf16x2(x[0], x[1]);
                    } else {
#pragma unroll
                        for (int e = 0; e < 2; e++)
                            if (col + e < g.n) store(c, (size_t)(e * next), beta != 0 ? beta * load(c, (size_t)(e * next)) + x[e] : x[e]);
                    }
                }
            }
}

/* ---- launching: one instance each, in tile_*.cu ---- */

/* Big: 128 x 128, for many rows. Small: 64 x 32, for few rows or few columns. Kinds other than F32 and BF16 need b_words. */
int tile_nt(struct pw_dev *dev, const char *op, enum decode_kind kind, const struct tile_args *g);        /* y = x W^T */
int tile_nn(struct pw_dev *dev, const char *op, enum decode_kind kind, const struct tile_args *g);        /* dx = dy W */
int tile_nt_block(struct pw_dev *dev, const char *op, enum decode_kind kind, const struct tile_args *g);     /* these three for the blocks of GGUF, */
int tile_nn_block(struct pw_dev *dev, const char *op, enum decode_kind kind, const struct tile_args *g);     /* called by those above */
int tile_nt_few_block(struct pw_dev *dev, const char *op, enum decode_kind kind, const struct tile_args *g);
int tile_tn(struct pw_dev *dev, const char *op, const struct tile_args *g);                               /* B is bf16 */
int tile_nt_few(struct pw_dev *dev, const char *op, enum decode_kind kind, const struct tile_args *g);    /* as tile_nt; small */
/* For adapters, small, in pieces of k: */
int tile_low_nt(struct pw_dev *dev, const char *op, const struct tile_args *g);                           /* dropout(x) A^T, A f32 */
int tile_low_nn(struct pw_dev *dev, const char *op, const struct tile_args *g);                           /* dy B, B f32 */
int tile_low_tn(struct pw_dev *dev, const char *op, const struct tile_args *g);                           /* dropout(x)^T dxa, dy^T xa; B bf16 */

#define TILE_LAUNCH(BM, BN, WM, WN, TA, TB, KIND, MASK)                                                                                             \
    CUDA_LAUNCH(dev, op, (tile_kernel<BM, BN, WM, WN, TA, TB, KIND, MASK>),                                                                         \
                dim3(!TA && g->group.entries ? (unsigned)g->group.n_tiles : cuda_parts(g->m, BM), cuda_parts(g->n, BN),                             \
                     TA && g->group.entries ? (unsigned)g->group.n : g->k > g->k_piece ? cuda_parts(g->k, g->k_piece) : 1u),                        \
                (unsigned)(BM / WM * (BN / WN) * 32), (size_t)(TILE_STAGES * (BM + BN) * TILE_K * 2), *g)
#define TILE_BIG(TA, TB, KIND) TILE_LAUNCH(128, 128, 64, 32, TA, TB, KIND, false)
#define TILE_SMALL(TA, TB, KIND, MASK) TILE_LAUNCH(64, 32, 16, 32, TA, TB, KIND, MASK)
#endif
