/* Attention backward, dK and dV: a block owns OWN rows of the key/value pool (whatever sequences they belong to) and one key/value head.
 *
 *   pool   [ own rows: K, V in shared memory, dK, dV in registers ]     For each sequence in order that has keys among the rows - as a shared
 *             ^        ^         ^                                      prefix, then as its own keys - the packed rows (attn.h) of all heads of
 *     Q, dO of the queries that see them, MB packed rows at a time      the group pass by. Sums over heads, queries and sequences stay in
 *                                                                       registers in that order and are rounded once: no atomics, and a
 *                                                                       shared prefix needs no second pass.
 *
 *   warp w:  S^T  [16 keys x MB] = K Q^T      dP^T = V dO^T       keys are the rows of every product, so P^T and dS^T go from accumulators
 *            dV   [16 keys x HD] += P^T dO    dK += dS^T Q        to operands without shared memory
 *
 * Above head dimension 128 dK and dV do not fit the registers together: they are two launches (PART), and S is made twice.
 * Which sequences touch the rows is found by all threads at once, a sequence a thread, and kept as bits. */
#include "kernels/cuda/attn_bwd.h"

enum { PART_BOTH, PART_DV, PART_DK };

template <int HD> struct keys_shared { /* static shared memory: what each passing row of queries may see, and its numbers */
    static constexpr int MB = backward_tile<HD>::MB, STAGES = backward_tile<HD>::STAGES;
    int seen[STAGES][MB], low[STAGES][MB];
    float lse2[STAGES][MB], delta[STAGES][MB];
    unsigned touch[2][backward_tile<HD>::WARPS];
};

template <int HD> SIMT_INLINE void stage_queries(bf16 *sq, bf16 *so, struct keys_shared<HD> &n, int buffer, const struct attn_args &a, const struct attn_span &p, int g, int first, int end, int me)
{
    typedef backward_tile<HD> t;
    attn_stage_queries<HD, t::MB, t::THREADS>(sq, a.q, a, p, g, first, end, me);
    attn_stage_queries<HD, t::MB, t::THREADS>(so, a.dout, a, p, g, first, end, me);
    if (me >= t::MB) return;
    const int r = first + me;
    const bool there = r < end;
    const size_t at = there ? attn_query_at(a, p, g, r) / (size_t)a.d : 0;
    const int seen = there ? p.back + r / a.share + 1 : 0;
    n.seen[buffer][me] = seen;
    n.low[buffer][me] = attn_low(seen, a.window);
    n.lse2[buffer][me] = there ? a.lse[at] * ATTN_LOG2E : 0.0f;
    n.delta[buffer][me] = there ? a.delta[at] : 0.0f;
}

template <int HD, int PART> __global__ void __launch_bounds__(backward_tile<HD>::THREADS) attn_bwd_keys_kernel(const struct attn_args a)
{
    typedef backward_tile<HD> t;
    static constexpr int LD = t::LD, OWN = t::OWN, MB = t::MB;
    SIMT_DYN_SHARED(bf16, shared);
    SIMT_SHARED(struct keys_shared<HD>, n);
    bf16 *const sk = shared, *const sv = sk + t::OWN_ELEMENTS, *const passing = sv + t::OWN_ELEMENTS;
    const int me = (int)threadIdx.x, lane = me % 32, warp = me / 32, g = (int)blockIdx.y, base = (int)blockIdx.x * OWN, top = min(base + OWN, a.pool);
    const auto pool_row = [&](int i) -> int64_t { return base + i < top ? ((int64_t)(base + i) * a.groups + g) * a.d : -1; };
    float dk[PART == PART_DV ? 1 : HD / 8][4], dv[PART == PART_DK ? 1 : HD / 8][4];
    bool touched = false;
#pragma unroll
    for (int i = 0; i < HD / 8; i++)
        for (int e = 0; e < 4; e++) {
            if constexpr (PART != PART_DV) dk[i][e] = 0;
            if constexpr (PART != PART_DK) dv[i][e] = 0;
        }
    attn_stage<HD, OWN, t::THREADS>(sk, a.k, a.d, a.vec, me, pool_row);
    if (PART != PART_DV) attn_stage<HD, OWN, t::THREADS>(sv, a.v, a.d, a.vec, me, pool_row);
    cp_async_commit();

    for (int chunk = 0; chunk < a.n_seqs; chunk += t::THREADS) {
        bool by_prefix = false, by_own = false;
        if (chunk + me < a.n_seqs) {
            const struct attn_span p = attn_span_of(a, chunk + me);
            by_prefix = p.n_q > 0 && p.prefix_n > 0 && p.prefix_at < top && p.prefix_at + p.prefix_n > base;
            by_own = p.n_q > 0 && p.own_at < top && p.own_at + (p.n - p.prefix_n) > base;
        }
        const unsigned prefix_bits = __ballot_sync(0xffffffffu, by_prefix), own_bits = __ballot_sync(0xffffffffu, by_own);
        __syncthreads(); /* the bits before are used up */
        if (lane == 0) {
            n.touch[0][warp] = prefix_bits;
            n.touch[1][warp] = own_bits;
        }
        __syncthreads(); /* and the new ones are there */
        for (int visit = 0; visit < 2 * t::THREADS; visit++) { /* sequence chunk + visit / 2: its prefix, then its own keys */
            const int bit = visit / 2;
            if (bit % 32 == 0 && visit % 2 == 0 && !(n.touch[0][bit / 32] | n.touch[1][bit / 32])) { visit += 63; continue; }
            if (!(n.touch[visit % 2][bit / 32] >> bit % 32 & 1)) continue;
            const struct attn_span p = attn_span_of(a, chunk + bit);
            /* Pool row R of this range is key R - shift of the sequence, for keys from .. to-1. */
            const int shift = visit % 2 ? p.own_at - p.prefix_n : p.prefix_at;
            const int from = max(base - shift, visit % 2 ? p.prefix_n : 0), to = min(top - shift, visit % 2 ? p.n : p.prefix_n);
            /* Query j sees keys up to back + j and from back + j + 1 - window on. */
            const int first = max(0, from - p.back) * a.share & ~(MB - 1); /* tiles of the sequence's own numbering: no bit depends on where its rows lie */
            const int64_t last_query = (int64_t)to + a.window - p.back - 1; /* the first that sees none of them any more */
            const int end = last_query < p.n_q ? (int)last_query * a.share : p.n_q * a.share;
            if (first >= end) continue;
            touched = true;
            int key[2];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                key[h] = base + warp * 16 + lane / 4 + 8 * h - shift;
                if (key[h] < from || key[h] >= to) key[h] = -1; /* nobody sees it: low is never negative */
            }
            stage_queries<HD>(passing, passing + t::MB_ELEMENTS, n, 0, a, p, g, first, end, me);
            cp_async_commit();
            int buffer = 0;
#pragma unroll 1
            for (int r0 = first; r0 < end; r0 += MB) {
                const bf16 *const sq = passing + buffer * 2 * t::MB_ELEMENTS, *const so = sq + t::MB_ELEMENTS;
                cp_async_wait<0>();
                __syncthreads(); /* these rows are here; the other buffer is used up */
                if (t::STAGES == 2 && r0 + MB < end) {
                    bf16 *const next = passing + (buffer ^ 1) * 2 * t::MB_ELEMENTS;
                    stage_queries<HD>(next, next + t::MB_ELEMENTS, n, buffer ^ 1, a, p, g, r0 + MB, end, me);
                }
                cp_async_commit();
                float s[MB / 8][4], dp[MB / 8][4];
                attn_product<HD, MB>(s, sk + warp * 16 * LD, sq, lane);
                if (PART != PART_DV) attn_product<HD, MB>(dp, sv + warp * 16 * LD, so, lane);
#pragma unroll
                for (int i = 0; i < MB / 8; i++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        const int c = 8 * i + 2 * (lane % 4) + e % 2, k = key[e / 2];
                        float slope;
                        const float w = attn_weight(a, s[i][e], n.lse2[buffer][c], k < n.seen[buffer][c] && k >= n.low[buffer][c], &slope);
                        s[i][e] = w;
                        if (PART != PART_DV) dp[i][e] = w * (dp[i][e] - n.delta[buffer][c]) * slope;
                    }
                if constexpr (PART != PART_DK) attn_accumulate<HD, MB>(dv, s, so, lane);
                if constexpr (PART != PART_DV) attn_accumulate<HD, MB>(dk, dp, sq, lane);
                if (t::STAGES == 1) {
                    __syncthreads(); /* the only buffer is used up */
                    if (r0 + MB < end) stage_queries<HD>(passing, passing + t::MB_ELEMENTS, n, 0, a, p, g, r0 + MB, end, me);
                    cp_async_commit();
                } else
                    buffer ^= 1;
            }
            __syncthreads(); /* the buffers are used up before the next sequence comes */
        }
    }
    cp_async_wait<0>();
    if (!touched) return;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int64_t at = pool_row(warp * 16 + lane / 4 + 8 * h);
        if (at < 0) continue;
#pragma unroll
        for (int i = 0; i < HD / 8; i++) {
            const int e = 8 * i + 2 * (lane % 4);
            if constexpr (PART != PART_DV) attn_add_pair(a.dk + at, e, a.d, dk[i][2 * h] * a.scale, dk[i][2 * h + 1] * a.scale, a.vec);
            if constexpr (PART != PART_DK) attn_add_pair(a.dv + at, e, a.d, dv[i][2 * h], dv[i][2 * h + 1], a.vec);
        }
    }
}

template <int HD, int PART> static int launch(struct pw_dev *dev, const struct attn_args &a)
{
    typedef backward_tile<HD> t;
    CUDA_LAUNCH(dev, "attn_bwd", (attn_bwd_keys_kernel<HD, PART>), dim3(cuda_parts(a.pool, t::OWN), (unsigned)a.groups), t::THREADS, backward_shared<HD>(), a);
    return 0;
}
template <int HD> static int keys(struct pw_dev *dev, const struct attn_args &a)
{
    if constexpr (HD <= 128) return launch<HD, PART_BOTH>(dev, a);
    else {
        PW_PASS((launch<HD, PART_DV>(dev, a)));
        return launch<HD, PART_DK>(dev, a);
    }
}
int attn_bwd_keys(struct pw_dev *dev, const struct attn_args *args)
{
    ATTN_BY_DIM(args->d, return keys<HD>(dev, *args))
}
