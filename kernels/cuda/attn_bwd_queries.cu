/* Attention backward, dQ: a block owns OWN packed rows (attn.h) of one sequence and key/value head; the keys they see pass by.
 *
 *                         keys k0 .. k0+MB                     warp w:  S  [16 rows x MB] = Q K^T     dP = dO V^T
 *   own rows Q, dO        [ S, dP -> dS ]  ->  dQ += dS K               dQ [16 rows x HD] += dS K
 *
 * As in the forward kernel the passing blocks begin at multiples of MB of the sequence's own numbering: a row does not depend on its company. */
#include "kernels/cuda/attn_bwd.h"

template <int HD> __global__ void __launch_bounds__(backward_tile<HD>::THREADS) attn_bwd_queries_kernel(const struct attn_args a)
{
    typedef backward_tile<HD> t;
    static constexpr int LD = t::LD, OWN = t::OWN, MB = t::MB;
    SIMT_DYN_SHARED(bf16, shared);
    bf16 *const sq = shared, *const so = sq + t::OWN_ELEMENTS, *const passing = so + t::OWN_ELEMENTS;
    const int me = (int)threadIdx.x, lane = me % 32, warp = me / 32, g = (int)blockIdx.y;
    int tile;
    const int seq = attn_find<OWN>(a, (int)(gridDim.x - 1 - blockIdx.x), &tile); /* long tiles first */
    const struct attn_span p = attn_span_of(a, seq);
    const int rows = p.n_q * a.share, first_row = tile * OWN;
    if (first_row >= rows) return;
    const int last_row = min(first_row + OWN, rows) - 1;
    const int end = p.back + last_row / a.share + 1;
    const int begin = attn_low(p.back + first_row / a.share + 1, a.window) & ~(MB - 1);
    const auto stage_keys = [&](int buffer, int k0) {
        bf16 *const to = passing + buffer * 2 * t::MB_ELEMENTS;
        attn_stage_keys<HD, MB, t::THREADS>(to, a.k, a, p, g, k0, end, me);
        attn_stage_keys<HD, MB, t::THREADS>(to + t::MB_ELEMENTS, a.v, a, p, g, k0, end, me);
    };
    attn_stage_queries<HD, OWN, t::THREADS>(sq, a.q, a, p, g, first_row, rows, me);
    attn_stage_queries<HD, OWN, t::THREADS>(so, a.dout, a, p, g, first_row, rows, me);
    stage_keys(0, begin);
    cp_async_commit();

    float dq[HD / 8][4], lse2[2], delta[2];
    int seen[2], low[2];
#pragma unroll
    for (int i = 0; i < HD / 8; i++)
        for (int e = 0; e < 4; e++) dq[i][e] = 0;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int r = first_row + warp * 16 + lane / 4 + 8 * h;
        const bool there = r < rows;
        const size_t at = there ? attn_query_at(a, p, g, r) / (size_t)a.d : 0;
        seen[h] = there ? p.back + r / a.share + 1 : 0;
        low[h] = attn_low(seen[h], a.window);
        lse2[h] = there ? a.lse[at] * ATTN_LOG2E : 0.0f;
        delta[h] = there ? a.delta[at] : 0.0f;
    }

    int buffer = 0;
#pragma unroll 1
    for (int k0 = begin; k0 < end; k0 += MB) {
        const bf16 *const sk = passing + buffer * 2 * t::MB_ELEMENTS, *const sv = sk + t::MB_ELEMENTS;
        cp_async_wait<0>();
        __syncthreads(); /* these keys are here; the other buffer is used up */
        if (t::STAGES == 2 && k0 + MB < end) stage_keys(buffer ^ 1, k0 + MB);
        cp_async_commit();
        float s[MB / 8][4], dp[MB / 8][4];
        attn_product<HD, MB>(s, sq + warp * 16 * LD, sk, lane);
        attn_product<HD, MB>(dp, so + warp * 16 * LD, sv, lane);
#pragma unroll
        for (int i = 0; i < MB / 8; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int key = k0 + 8 * i + 2 * (lane % 4) + e % 2, h = e / 2;
                float slope;
                const float w = attn_weight(a, s[i][e], lse2[h], key < seen[h] && key >= low[h], &slope);
                dp[i][e] = w * (dp[i][e] - delta[h]) * slope;
            }
        attn_accumulate<HD, MB>(dq, dp, sk, lane);
        if (t::STAGES == 1) {
            __syncthreads(); /* the only buffer is used up */
            if (k0 + MB < end) stage_keys(0, k0 + MB);
            cp_async_commit();
        } else
            buffer ^= 1;
    }
    cp_async_wait<0>();
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int r = first_row + warp * 16 + lane / 4 + 8 * h;
        if (r >= rows) continue;
        const size_t at = attn_query_at(a, p, g, r);
#pragma unroll
        for (int i = 0; i < HD / 8; i++) attn_add_pair(a.dq + at, 8 * i + 2 * (lane % 4), a.d, dq[i][2 * h] * a.scale, dq[i][2 * h + 1] * a.scale, a.vec);
    }
}

template <int HD> static int queries(struct pw_dev *dev, const struct attn_args &a)
{
    typedef backward_tile<HD> t;
    CUDA_LAUNCH(dev, "attn_bwd", attn_bwd_queries_kernel<HD>, dim3(attn_blocks<t::OWN>(a), (unsigned)a.groups), t::THREADS, backward_shared<HD>(), a);
    return 0;
}
int attn_bwd_queries(struct pw_dev *dev, const struct attn_args *args)
{
    ATTN_BY_DIM(args->d, return queries<HD>(dev, *args))
}
