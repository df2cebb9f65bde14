/* Attention for sequences with few queries (1 to ATTN_DECODE_QUERIES) over many keys: what decoding asks for, bound by the bytes of K and V.
 *
 *      keys of the sequence, from the first that is seen        A block: 16 packed rows (attn.h) of one key/value group, one split of the keys.
 *      [ split 0 ][ split 1 ][ split 2 ] ...                    Its 4 warps take 16 keys each of every 64 and keep a maximum, a sum and an
 *      /          \                                             output of their own: no barrier while keys are read, each warp fills its own
 *      w0 w1 w2 w3 w0 w1 w2 w3 ...   (16 keys each)             buffers. At the end the four are added in order, in shared memory; splits are
 *                                                               added in order by the combine kernel.
 *
 * The splits of a sequence follow from its own lengths and the window (attn_split_of), the sums from the splits: a row's result is the
 * same bits whatever else is in the batch. It is not the same bits as from attn_fwd.h, whose sums run over other tiles.
 * Partial results live in scratch, ATTN_WAVE_TOKENS query tokens at a time: more sequences go in waves, one after the other in the stream,
 * and the scratch is bounded whatever the batch. A sequence with one split writes its output at once and needs none.
 * In a captured step (pw_seqs.most_keys) the grid has the splits of the longest sequence to come: blocks beyond a sequence's own splits return, and the
 * sums are those of its own splits, so that the bytes are the same.
 *
 *   shared memory  K [4][16][HD+8], V [4][16][HD+8], Q [16][HD+8];  afterwards o [4][16][HD+8] f32 over K and V, maximum and sum [2][4][16] over Q
 *     HD = 128: 38 KiB, HD = 256: 74 KiB. Rows of o are HD + 8 floats: a half warp's pairs cover all banks once.
 * CODES: keys and values in 8 bits (attn.h), twice the keys for the same bytes. A warp's next K and its V travel in registers, since they must be
 * converted on the way; the scale of a key multiplies its column of scores, that of a value its column of weights, before they are rounded to bf16.
 * Bytes of a split of 128 keys, HD = 128: 64 KiB of K and V, once for all heads of the group; 16 KFLOP a key, so 32 FLOP a byte at most. */
#ifndef PW_KERNELS_CUDA_ATTN_DECODE_H
#define PW_KERNELS_CUDA_ATTN_DECODE_H

#include "kernels/cuda/attn.h"

template <int HD> struct decode_tile { static constexpr int ROWS = 16, WARPS = 4, THREADS = 32 * WARPS, KEYS = 16, STEP = KEYS * WARPS, LD = HD + 8;
    static constexpr bool EARLY = HD <= 128; /* of codes: there are registers for those of the next keys */ };
template <int HD, bool CODES> static constexpr size_t decode_shared(void)
{
    typedef decode_tile<HD> t;
    return (size_t)(2 * t::STEP + t::ROWS) * t::LD * sizeof(bf16) + (CODES ? 2 * t::STEP * sizeof(float) : 0);
}

/* A wave: sequences first_seq .. of one launch, tiles of rows of the longest, where the partial results begin. */
struct decode_wave { int first_seq, tiles, splits, first_token; float *top, *sum, *o; };

template <int HD, bool CODES, bool PAGED> __global__ void __launch_bounds__(decode_tile<HD>::THREADS) attn_decode_kernel(const struct attn_args a, const struct decode_wave wave)
{
    typedef decode_tile<HD> t;
    static constexpr int LD = t::LD, KEYS = t::KEYS, WARPS = t::WARPS;
    SIMT_DYN_SHARED(bf16, shared);
    const int me = (int)threadIdx.x, lane = me % 32, warp = me / 32, g = (int)blockIdx.y;
    bf16 *const sk = shared + warp * 2 * KEYS * LD, *const sv = sk + KEYS * LD, *const sq = shared + 2 * t::STEP * LD;
    [[maybe_unused]] float *const scale_k = (float *)(sq + t::ROWS * LD) + warp * 2 * KEYS, *const scale_v = scale_k + KEYS;
    float *const so = (float *)shared, *const stop = (float *)sq, *const ssum = stop + WARPS * t::ROWS;
    const int seq = wave.first_seq + (int)blockIdx.x / wave.tiles, first_row = (int)blockIdx.x % wave.tiles * t::ROWS;
    const struct attn_span p = attn_span_of(a, seq);
    const int rows = p.n_q * a.share;
    if (p.n_q > ATTN_DECODE_QUERIES || first_row >= rows) return;
    const struct attn_split split = attn_split_of(p.n, p.n_q, a.window);
    if ((int)blockIdx.z >= split.n) return;
    const int begin = split.base + (int)blockIdx.z * split.size, end = min(begin + split.size, p.n);

    attn_stage_queries<HD, t::ROWS, t::THREADS>(sq, a.q, a, p, g, first_row, rows, me);
    [[maybe_unused]] struct attn_codes<HD, CODES ? KEYS : 1, 32> kc, vc;
    if constexpr (CODES) {
        if (t::EARLY) attn_load_codes(kc, a.k8, a.k_scale, a, p, g, begin + warp * KEYS, end, lane);
    } else attn_stage_keys<HD, KEYS, 32, PAGED>(sk, a.k, a, p, g, begin + warp * KEYS, end, lane);
    cp_async_commit();
    struct attn_state<HD> w;
    attn_begin<HD>(w, a, p, first_row + lane / 4, rows);
    cp_async_wait<0>();
    __syncthreads(); /* Q is everybody's */
#pragma unroll 1
    for (int k0 = begin + warp * KEYS; k0 < end; k0 += t::STEP) {
        float s[KEYS / 8][4];
        if constexpr (CODES) {
            if constexpr (t::EARLY) {
                attn_load_codes(vc, a.v8, a.v_scale, a, p, g, k0, end, lane);
                attn_store_codes(sk, scale_k, kc, a.k8, a, p, g, k0, end, lane);
                attn_load_codes(kc, a.k8, a.k_scale, a, p, g, k0 + t::STEP, end, lane);
            } else attn_stage_codes<HD, KEYS, 32>(sk, scale_k, a.k8, a.k_scale, a, p, g, k0, end, lane);
            __syncwarp(); /* this warp's K is here, its V is used up */
        } else {
            cp_async_wait<0>();
            __syncwarp(); /* likewise */
            attn_stage_keys<HD, KEYS, 32, PAGED>(sv, a.v, a, p, g, k0, end, lane);
            cp_async_commit();
        }
        attn_product<HD, KEYS>(s, sq, sk, lane);
        if constexpr (CODES) attn_scale_keys<KEYS>(s, scale_k, lane);
        __syncwarp(); /* K is used up */
        if constexpr (CODES) {
            if constexpr (t::EARLY) attn_store_codes(sv, scale_v, vc, a.v8, a, p, g, k0, end, lane);
            else attn_stage_codes<HD, KEYS, 32>(sv, scale_v, a.v8, a.v_scale, a, p, g, k0, end, lane);
        } else {
            if (k0 + t::STEP < end) attn_stage_keys<HD, KEYS, 32, PAGED>(sk, a.k, a, p, g, k0 + t::STEP, end, lane);
            cp_async_commit();
        }
        attn_softmax<HD, KEYS>(w, s, a, k0, lane);
        cp_async_wait<1>();
        __syncwarp(); /* V is here, the next K may still travel */
        if constexpr (CODES) attn_scale_keys<KEYS>(s, scale_v, lane);
        attn_accumulate<HD, KEYS>(w.o, s, sv, lane);
    }
    cp_async_wait<0>();
    __syncthreads(); /* K, V and Q are used up: their place takes the partial results of the four warps */
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int r = lane / 4 + 8 * h;
        const float sum = attn_quad_sum(w.sum[h]);
        if (lane % 4 == 0) {
            stop[warp * t::ROWS + r] = w.top[h];
            ssum[warp * t::ROWS + r] = sum;
        }
#pragma unroll
        for (int i = 0; i < HD / 8; i++) {
            float *const to = so + (warp * t::ROWS + r) * LD + 8 * i + 2 * (lane % 4);
            to[0] = w.o[i][2 * h];
            to[1] = w.o[i][2 * h + 1];
        }
    }
    __syncthreads(); /* all four are there */
#pragma unroll 1
    for (int i = me; i < t::ROWS * HD; i += t::THREADS) {
        const int r = i / HD, e = i % HD;
        if (first_row + r >= rows || e >= a.d) continue;
        float top = -INFINITY, sum = 0, o = 0;
        for (int k = 0; k < WARPS; k++) top = fmaxf(top, stop[k * t::ROWS + r]);
        const float safe = top == -INFINITY ? 0.0f : top;
        for (int k = 0; k < WARPS; k++) {
            const float weight = exp2f(stop[k * t::ROWS + r] - safe);
            sum += weight * ssum[k * t::ROWS + r];
            o += weight * so[(k * t::ROWS + r) * LD + e];
        }
        const size_t at = attn_query_at(a, p, g, first_row + r), row = at / (size_t)a.d; /* row: token * H + head */
        if (split.n == 1) {
            store(a.out, at + (size_t)e, o / sum);
            if (a.lse && e == 0) a.lse[row] = (top + log2f(sum)) * ATTN_LN2;
        } else {
            const size_t to = (row - (size_t)wave.first_token * (size_t)a.heads) * (size_t)wave.splits + blockIdx.z;
            wave.o[to * (size_t)a.d + (size_t)e] = o;
            if (e == 0) {
                wave.top[to] = top;
                wave.sum[to] = sum;
            }
        }
    }
}

/* out, lse of one query token and head a block: its splits added in order. */
static __global__ void attn_combine_kernel(const struct attn_args a, const struct decode_wave wave)
{
    const int token = wave.first_token + (int)blockIdx.x / a.heads;
    int low = 0, high = a.n_seqs;
    while (high - low > 1) { /* the sequence that owns the token */
        const int middle = (low + high) / 2;
        if (a.seqs[middle] <= token) low = middle;
        else high = middle;
    }
    const struct attn_span p = attn_span_of(a, low);
    const struct attn_split split = attn_split_of(p.n, p.n_q, a.window);
    if (split.n == 1) return;
    const size_t from = (size_t)blockIdx.x * (size_t)wave.splits, row = (size_t)wave.first_token * (size_t)a.heads + blockIdx.x;
    for (int e = (int)threadIdx.x; e < a.d; e += (int)blockDim.x) {
        float top = -INFINITY, sum = 0, o = 0;
        for (int i = 0; i < split.n; i++) top = fmaxf(top, wave.top[from + (size_t)i]);
        for (int i = 0; i < split.n; i++) {
            const float weight = exp2f(wave.top[from + (size_t)i] - top);
            sum += weight * wave.sum[from + (size_t)i];
            o += weight * wave.o[(from + (size_t)i) * (size_t)a.d + (size_t)e];
        }
        store(a.out, row * (size_t)a.d + (size_t)e, o / sum);
        if (a.lse && e == 0) a.lse[row] = (top + log2f(sum)) * ATTN_LN2;
    }
}

/* ---- launcher ---- */

template <int HD, bool CODES, bool PAGED> static int decode(struct pw_dev *dev, const struct attn_args &a, const struct decode_wave &wave, int n)
{
    CUDA_LAUNCH(dev, "attn_fwd", (attn_decode_kernel<HD, CODES, PAGED>), dim3((unsigned)(n * wave.tiles), (unsigned)a.groups, (unsigned)wave.splits), decode_tile<HD>::THREADS,
                (decode_shared<HD, CODES>()), a, wave);
    return 0;
}

template <bool CODES, bool PAGED> static int decode_all(struct pw_dev *dev, const struct attn_args &a, const struct pw_seqs *seqs)
{
    for (int first = 0; first < seqs->n;) {
        struct decode_wave wave = {};
        int n = 0, queries = 0; /* of the wave; most queries of a sequence */
        wave.first_seq = first;
        wave.first_token = seqs->q_start[first];
        for (; first + n < seqs->n; n++) {
            const int i = first + n, n_q = seqs->q_start[i + 1] - seqs->q_start[i], keys = seqs->kv_len[i] + (seqs->prefix_len ? seqs->prefix_len[i] : 0);
            const int64_t most = min(seqs->most_keys, (int64_t)a.window + n_q);
            const int splits = n_q == 0 ? 1 : seqs->most_keys ? attn_most_splits(most) : attn_split_of(keys, n_q, a.window).n;
            const int tokens = seqs->q_start[i + 1] - wave.first_token;
            if (n_q > ATTN_DECODE_QUERIES) break;
            if (n && tokens > ATTN_WAVE_TOKENS && max(splits, wave.splits) > 1) break;
            wave.splits = max(wave.splits, splits);
            queries = max(queries, n_q);
        }
        first += n ? n : 1;
        if (queries == 0) continue;
        wave.tiles = (queries * a.share + 15) / 16;
        const int tokens = seqs->q_start[wave.first_seq + n] - wave.first_token;
        const size_t places = wave.splits > 1 ? (size_t)tokens * (size_t)a.heads * (size_t)wave.splits : 0;
        wave.top = (float *)dev->scratch;
        wave.sum = wave.top + places;
        wave.o = wave.sum + places;
        ATTN_BY_DIM(a.d, PW_PASS((decode<HD, CODES, PAGED>(dev, a, wave, n))))
        if (wave.splits > 1) CUDA_LAUNCH(dev, "attn_fwd", attn_combine_kernel, (unsigned)(tokens * a.heads), a.d <= 64 ? 64 : 128, 0, a, wave);
    }
    return 0;
}
#endif
