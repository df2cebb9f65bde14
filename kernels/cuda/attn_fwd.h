/* Attention forward over whole sequences (more than ATTN_DECODE_QUERIES queries; shorter ones: attn_decode.h), Dao 2023, "FlashAttention-2".
 *
 *                     keys k0 .. k0+KB
 *   warp 0: 16 rows   [ S = Q K^T ] -> P    A block: 64 packed rows (attn.h) of one key/value group, 4 warps of 16 rows each, all keys that
 *   warp 1: 16 rows   [           ]         some row sees, KB at a time (64; 32 for head dimensions above 128). S becomes P in registers: the
 *   warp 2: 16 rows   [           ]         accumulator layout of one mma is the operand layout of the next. Blocks of keys begin at
 *   warp 3: 16 rows   [           ]         multiples of KB of the sequence's own numbering, so a row does not depend on its company.
 *
 * One buffer for K and one for V, each loaded while the other is used: K of the next tile travels during softmax and P V, V during Q K^T;
 * two barriers a tile.
 *
 *   shared memory      HD    K [KB][HD+8]   V [KB][HD+8]   Q [64][HD+8]        all
 *                     128    17 KiB         17 KiB         in V, then registers 34 KiB
 *                     256    16.5 KiB       16.5 KiB       33 KiB               66 KiB
 *
 * CODES: keys and values in 8 bits, as in attn_decode.h: V travels in registers during Q K^T, the next K during softmax and P V.
 *
 * A tile of 64 rows x 64 keys x 128: 2 * 2 * 64 * 64 * 128 = 2.1 MFLOP for 32 KiB loaded: 64 FLOP a byte, beyond what L2 asks for. */
#ifndef PW_KERNELS_CUDA_ATTN_FWD_H
#define PW_KERNELS_CUDA_ATTN_FWD_H

#include "kernels/cuda/attn.h"

template <int HD> struct forward_tile { static constexpr int ROWS = 64, WARPS = 4, THREADS = 32 * WARPS, KB = HD > 128 ? 32 : 64, LD = HD + 8, KEEP_Q = HD > 128; };
template <int HD, bool CODES> static constexpr size_t forward_shared(void)
{
    typedef forward_tile<HD> t;
    return (size_t)(2 * t::KB + (t::KEEP_Q ? t::ROWS : 0)) * t::LD * sizeof(bf16) + (CODES ? 2 * t::KB * sizeof(float) : 0);
}

template <int HD, bool CODES, bool PAGED> __global__ void __launch_bounds__(forward_tile<HD>::THREADS) attn_fwd_kernel(const struct attn_args a)
{
    typedef forward_tile<HD> t;
    static constexpr int KB = t::KB, LD = t::LD, ROWS = t::ROWS;
    SIMT_DYN_SHARED(bf16, shared);
    bf16 *const sk = shared, *const sv = sk + KB * LD, *const sq = t::KEEP_Q ? sv + KB * LD : sv;
    [[maybe_unused]] float *const scale_k = (float *)(sv + (KB + (t::KEEP_Q ? ROWS : 0)) * LD), *const scale_v = scale_k + KB;
    const int me = (int)threadIdx.x, lane = me % 32, warp = me / 32, g = (int)blockIdx.y;
    int tile;
    const int seq = attn_find<ROWS>(a, (int)(gridDim.x - 1 - blockIdx.x), &tile); /* long tiles first */
    const struct attn_span p = attn_span_of(a, seq);
    const int rows = p.n_q * a.share, first_row = tile * ROWS;
    if (p.n_q <= ATTN_DECODE_QUERIES || first_row >= rows) return;
    const int last_row = min(first_row + ROWS, rows) - 1;
    const int end = p.back + last_row / a.share + 1;
    const int begin = attn_low(p.back + first_row / a.share + 1, a.window) & ~(KB - 1);

    attn_stage_queries<HD, ROWS, t::THREADS>(sq, a.q, a, p, g, first_row, rows, me);
    struct attn_codes<HD, CODES ? KB : 1, t::THREADS> codes;
    if constexpr (CODES) {
        attn_load_codes(codes, a.k8, a.k_scale, a, p, g, begin, end, me);
        attn_store_codes(sk, scale_k, codes, a.k8, a, p, g, begin, end, me);
    } else attn_stage_keys<HD, KB, t::THREADS, PAGED>(sk, a.k, a, p, g, begin, end, me);
    cp_async_commit();
    uint32_t fq[t::KEEP_Q ? 1 : HD / 16][4];
    if (!t::KEEP_Q) { /* V takes the place of Q */
        cp_async_wait<0>();
        __syncthreads();
#pragma unroll
        for (int kk = 0; kk < HD / 16 && !t::KEEP_Q; kk++) attn_load_a<LD>(fq[t::KEEP_Q ? 0 : kk], sq + warp * 16 * LD + kk * 16, lane);
    }
    struct attn_state<HD> w;
    attn_begin<HD>(w, a, p, first_row + warp * 16 + lane / 4, rows);

#pragma unroll 1
    for (int k0 = begin; k0 < end; k0 += KB) {
        float s[KB / 8][4];
        cp_async_wait<0>();
        __syncthreads(); /* K is here; V of the tile before is used up */
        if constexpr (CODES) attn_load_codes(codes, a.v8, a.v_scale, a, p, g, k0, end, me);
        else attn_stage_keys<HD, KB, t::THREADS, PAGED>(sv, a.v, a, p, g, k0, end, me);
        cp_async_commit();
        if (t::KEEP_Q) attn_product<HD, KB>(s, sq + warp * 16 * LD, sk, lane);
        else {
#pragma unroll
            for (int i = 0; i < KB / 8; i++)
                for (int e = 0; e < 4; e++) s[i][e] = 0;
#pragma unroll
            for (int kk = 0; kk < HD / 16; kk++)
#pragma unroll
                for (int n = 0; n < KB / 16; n++) {
                    uint32_t fb[4];
                    attn_load_b<LD>(fb, sk + n * 16 * LD + kk * 16, lane);
                    mma_m16n8k16_bf16(s[2 * n], fq[t::KEEP_Q ? 0 : kk], fb);
                    mma_m16n8k16_bf16(s[2 * n + 1], fq[t::KEEP_Q ? 0 : kk], fb + 2);
                }
        }
        if constexpr (CODES) {
            attn_scale_keys<KB>(s, scale_k, lane);
            attn_store_codes(sv, scale_v, codes, a.v8, a, p, g, k0, end, me);
        }
        cp_async_wait<0>();
        __syncthreads(); /* V is here; K is used up */
        if constexpr (CODES) attn_load_codes(codes, a.k8, a.k_scale, a, p, g, k0 + KB, end, me);
        else if (k0 + KB < end) attn_stage_keys<HD, KB, t::THREADS, PAGED>(sk, a.k, a, p, g, k0 + KB, end, me);
        cp_async_commit();
        attn_softmax<HD, KB>(w, s, a, k0, lane);
        if constexpr (CODES) attn_scale_keys<KB>(s, scale_v, lane);
        attn_accumulate<HD, KB>(w.o, s, sv, lane);
        if constexpr (CODES) attn_store_codes(sk, scale_k, codes, a.k8, a, p, g, k0 + KB, end, me);
    }

#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float sum = attn_quad_sum(w.sum[h]), inverse = 1.0f / sum;
        const int r = first_row + warp * 16 + lane / 4 + 8 * h;
        if (r >= rows) continue;
        const size_t at = attn_query_at(a, p, g, r);
#pragma unroll
        for (int i = 0; i < HD / 8; i++) attn_store_pair(a.out + at, 8 * i + 2 * (lane % 4), a.d, w.o[i][2 * h] * inverse, w.o[i][2 * h + 1] * inverse, a.vec);
        if (a.lse && lane % 4 == 0) a.lse[at / (size_t)a.d] = (w.top[h] + log2f(sum)) * ATTN_LN2;
    }
}

/* ---- launcher ---- */

template <int HD, bool CODES, bool PAGED> static int forward(struct pw_dev *dev, const struct attn_args &a)
{
    CUDA_LAUNCH(dev, "attn_fwd", (attn_fwd_kernel<HD, CODES, PAGED>), dim3(attn_blocks<forward_tile<HD>::ROWS>(a), (unsigned)a.groups), forward_tile<HD>::THREADS, (forward_shared<HD, CODES>()), a);
    return 0;
}

template <bool CODES, bool PAGED> static int forward_all(struct pw_dev *dev, const struct attn_args &a, const struct pw_seqs *seqs)
{
    bool some_long = false;
    for (int i = 0; i < seqs->n && !some_long; i++) some_long = seqs->q_start[i + 1] - seqs->q_start[i] > ATTN_DECODE_QUERIES;
    if (some_long) {
        ATTN_BY_DIM(a.d, PW_PASS((forward<HD, CODES, PAGED>(dev, a))))
    }
    return 0;
}
#endif
