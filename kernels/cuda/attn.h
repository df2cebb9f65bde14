/* Attention on the cuda backend: what its kernels share. Two products decide everything, S = Q K^T and O = P V, both by mma_m16n8k16.
 *
 * Packed rows. The queries of one sequence and the heads of one key/value group are one list of rows, row = query * share + head of the
 * group: all of them meet the same keys, so one load of K and V serves share = H / G heads.
 *
 *                 keys of the sequence (prefix, then its own)        A sequence's tiles of R packed rows begin at block
 *   rows 0..R-1   [tile][tile]                                       q_start * share / R + index of the sequence: every
 *   rows R..      [tile][tile][tile]     (causal, window: tiles      block finds its sequence by bisection, and at most one
 *   ...                                   that nobody sees are       block a sequence has nothing to do.
 *                                         not visited)
 *
 * Shared memory: rows of HD + 8 bf16, HD = the head dimension rounded up to 64, 80, 96, 128 or 256 and filled with zeros. A row is an odd
 * number of 16-byte pieces, so the eight rows that one phase of ldmatrix reads, plain or transposed, lie in eight different groups of four
 * banks. Staging writes whole rows piece after piece. Copies are cp.async of 16 bytes when d % 8 == 0 and every tensor begins on 16 bytes
 * (args.vec, decided once in the launcher, the same for the whole grid; an argument rather than a template parameter halves the instances),
 * element by element otherwise.
 *
 * Scores are kept in base 2 (z = s * scale * log2 e), so that the exponential is exp2f; lse is given back in base e. */
#ifndef PW_KERNELS_CUDA_ATTN_H
#define PW_KERNELS_CUDA_ATTN_H

#include "kernels/cuda/cuda.h"

enum {
    ATTN_DECODE_QUERIES = 16,  /* sequences with no more queries than this go to attn_decode.h: the path depends on the sequence alone */
    ATTN_SPLIT_KEYS = 128,     /* fewest keys of a split */
    ATTN_SPLITS = 32,          /* most splits of a sequence */
    ATTN_WAVE_TOKENS = 32,     /* query tokens whose partial results are kept at a time */
};
#define ATTN_LOG2E 1.4426950408889634f
#define ATTN_LN2 0.6931471805599453f

struct attn_args {
    const bf16 *q, *k, *v;     /* (T, H, d), (S, G, d), (S, G, d) */
    bf16 *out;                 /* (T, H, d) */
    float *lse;                /* (T, H) or NULL */
    const bf16 *dout;          /* (T, H, d) */
    bf16 *dq, *dk, *dv;        /* (T, H, d), (S, G, d), (S, G, d) */
    float *delta;              /* (T, H): sum of dout * out */
    const int32_t *seqs;       /* pw_seqs_put's five lists */
    const int32_t *pages;      /* NULL: contiguous rows */
    int page, page_shift;      /* rows of a page; its logarithm where it has one, else -1 */
    int n_seqs, rows, pool;    /* sequences, T, S */
    int heads, groups, share, d;
    int window;                /* INT32_MAX: all keys */
    int has_prefix, vec;
    const int8_t *k8, *v8;     /* a cache of codes in place of k and v, (S, G, d) */
    const float *k_scale, *v_scale; /* (S, G) */
    int vec8;                  /* codes in pieces of 16: d % 16 == 0 and both pools begin on 16 bytes */
    float scale;               /* of the scores, in base e */
    float inner, outer;        /* z = outer * tanh(s * inner) with a cap, z = s * outer without */
    int capped;
};

/* One sequence: its keys 0 .. n-1 are the prefix, then its own; query j sees the first back + j + 1 of them. */
struct attn_span { int row0, n_q, prefix_at, prefix_n, own_at, n, back; };

SIMT_FN struct attn_span attn_span_of(const struct attn_args &a, int s)
{
    const int32_t *l = a.seqs + a.n_seqs + 1;
    struct attn_span p;
    p.row0 = a.seqs[s];
    p.n_q = a.seqs[s + 1] - p.row0;
    p.own_at = l[s];
    p.prefix_at = a.has_prefix ? l[2 * a.n_seqs + s] : 0;
    p.prefix_n = a.has_prefix ? l[3 * a.n_seqs + s] : 0;
    p.n = p.prefix_n + l[a.n_seqs + s];
    p.back = p.n - p.n_q;
    return p;
}
SIMT_FN int attn_pool_row(const struct attn_span &p, int key) { return key < p.prefix_n ? p.prefix_at + key : p.own_at + key - p.prefix_n; }
/* The same through the list of pages, and for whichever of the two there is. Tiles of bf16 know as they are compiled (PAGED), so that training does not ask. */
SIMT_FN int attn_paged_row(const struct attn_args &a, const struct attn_span &p, int key)
{
    const bool shared = key < p.prefix_n;
    const int j = shared ? key : key - p.prefix_n, at = a.page_shift >= 0 ? j >> a.page_shift : j / a.page;
    return a.pages[(shared ? p.prefix_at : p.own_at) + at] * a.page + (j - at * a.page);
}
SIMT_FN int attn_cache_row(const struct attn_args &a, const struct attn_span &p, int key) { return a.pages ? attn_paged_row(a, p, key) : attn_pool_row(p, key); }
SIMT_FN int attn_low(int seen, int window) { return seen > window ? seen - window : 0; } /* the first key seen by the query that sees `seen` */

/* The sequence whose tiles of R packed rows block b belongs to, and which of its tiles. */
template <int R> SIMT_INLINE int attn_find(const struct attn_args &a, int b, int *tile)
{
    int low = 0, high = a.n_seqs; /* the last sequence that begins at or before b */
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if ((int)((int64_t)a.seqs[middle] * a.share / R) + middle <= b) low = middle;
        else high = middle;
    }
    *tile = b - (int)((int64_t)a.seqs[low] * a.share / R) - low;
    return low;
}
template <int R> static inline unsigned attn_blocks(const struct attn_args &a) { return (unsigned)((int64_t)a.rows * a.share / R + a.n_seqs); }

/* Element 0 of packed row r of group g in a tensor (T, H, d). */
SIMT_FN size_t attn_query_at(const struct attn_args &a, const struct attn_span &p, int g, int r)
{
    return ((size_t)(p.row0 + r / a.share) * (size_t)a.heads + (size_t)(g * a.share + r % a.share)) * (size_t)a.d;
}

/* ---- staging ---- */

/* ROWS rows into shared memory by N threads of which this is number `me`; at(i) is where row i begins in `from`, or negative: zeros. */
template <int HD, int ROWS, int N, class F> SIMT_INLINE void attn_stage(bf16 *to, const bf16 *__restrict__ from, int d, int vec, int me, F at)
{
    static constexpr int LD = HD + 8, PIECES = HD / 8;
    if (vec) {
#pragma unroll 2
        for (int i = me; i < ROWS * PIECES; i += N) {
            const int row = i / PIECES, e = i % PIECES * 8;
            const int64_t start = at(row);
            const bool there = start >= 0 && e < d;
            cp_async_16(to + row * LD + e, from + (there ? start + e : 0), there);
        }
    } else {
#pragma unroll 1
        for (int i = me; i < ROWS * HD; i += N) {
            const int row = i / HD, e = i % HD;
            const int64_t start = at(row);
            to[row * LD + e].bits = start >= 0 && e < d ? from[start + e].bits : (uint16_t)0;
        }
    }
}
/* Logical keys first .. first + ROWS of a sequence, those at or beyond `end` as zeros. */
template <int HD, int ROWS, int N, bool PAGED = false> SIMT_INLINE void attn_stage_keys(bf16 *to, const bf16 *from, const struct attn_args &a, const struct attn_span &p, int g, int first, int end, int me)
{
    attn_stage<HD, ROWS, N>(to, from, a.d, a.vec, me, [&](int i) -> int64_t {
        const int key = first + i;
        if (key >= end) return -1;
        return ((int64_t)(PAGED ? attn_paged_row(a, p, key) : attn_pool_row(p, key)) * a.groups + g) * a.d;
    });
}
/* Packed rows first .. first + ROWS, those at or beyond `end` as zeros. */
template <int HD, int ROWS, int N> SIMT_INLINE void attn_stage_queries(bf16 *to, const bf16 *from, const struct attn_args &a, const struct attn_span &p, int g, int first, int end, int me)
{
    attn_stage<HD, ROWS, N>(to, from, a.d, a.vec, me, [&](int i) -> int64_t { return first + i < end ? (int64_t)attn_query_at(a, p, g, first + i) : -1; });
}

/* ---- staging codes of 8 bits: global memory -> registers (in flight while something else is computed) -> bf16 in shared memory, exactly ---- */

SIMT_FN uint32_t attn_code_pair(uint32_t w, int i) /* codes i and i + 1 of a word */
{
    return bf16x2((float)(int8_t)(w >> 8 * i & 0xff), (float)(int8_t)(w >> (8 * i + 8) & 0xff));
}
SIMT_FN void attn_store_piece(bf16 *to, uint4 v)
{
    uint4 *const at = (uint4 *)to;
    at[0] = make_uint4(attn_code_pair(v.x, 0), attn_code_pair(v.x, 2), attn_code_pair(v.y, 0), attn_code_pair(v.y, 2));
    at[1] = make_uint4(attn_code_pair(v.z, 0), attn_code_pair(v.z, 2), attn_code_pair(v.w, 0), attn_code_pair(v.w, 2));
}
template <int HD, int ROWS, int N> struct attn_codes {
    static constexpr int PIECES = HD / 16, COUNT = (ROWS * PIECES + N - 1) / N;
    uint4 v[COUNT];
    float scale;               /* of row `me`, for the first ROWS threads */
};
/* Logical keys first .. first + ROWS of a sequence by N threads of which this is number `me`; those at or beyond `end` are zeros. */
template <int HD, int ROWS, int N> SIMT_INLINE void attn_load_codes(struct attn_codes<HD, ROWS, N> &c, const int8_t *__restrict__ from, const float *__restrict__ scale, const struct attn_args &a,
                                                                   const struct attn_span &p, int g, int first, int end, int me)
{
    static_assert(ROWS <= N, "a thread keeps one scale");
    c.scale = me < ROWS && first + me < end ? scale[(size_t)attn_cache_row(a, p, first + me) * (size_t)a.groups + (size_t)g] : 0.0f;
    if (!a.vec8) return;
#pragma unroll
    for (int j = 0; j < c.COUNT; j++) {
        const int i = me + j * N, key = first + i / c.PIECES, e = i % c.PIECES * 16;
        c.v[j] = make_uint4(0, 0, 0, 0);
        if (i < ROWS * c.PIECES && key < end && e < a.d) c.v[j] = *(const uint4 *)(from + ((int64_t)attn_cache_row(a, p, key) * a.groups + g) * a.d + e);
    }
}
template <int HD, int ROWS, int N> SIMT_INLINE void attn_store_codes(bf16 *to, float *scales, const struct attn_codes<HD, ROWS, N> &c, const int8_t *__restrict__ from, const struct attn_args &a,
                                                                    const struct attn_span &p, int g, int first, int end, int me)
{
    static constexpr int LD = HD + 8;
    if (me < ROWS) scales[me] = c.scale;
    if (a.vec8) {
#pragma unroll
        for (int j = 0; j < c.COUNT; j++) {
            const int i = me + j * N;
            if (i < ROWS * c.PIECES) attn_store_piece(to + i / c.PIECES * LD + i % c.PIECES * 16, c.v[j]);
        }
    } else {
#pragma unroll 1
        for (int i = me; i < ROWS * HD; i += N) {
            const int key = first + i / HD, e = i % HD;
            store(to, (size_t)(i / HD * LD + e), key < end && e < a.d ? (float)from[((int64_t)attn_cache_row(a, p, key) * a.groups + g) * a.d + e] : 0.0f);
        }
    }
}
/* Both at once, two pieces in flight, where there are no registers for more. */
template <int HD, int ROWS, int N> SIMT_INLINE void attn_stage_codes(bf16 *to, float *scales, const int8_t *__restrict__ from, const float *__restrict__ scale, const struct attn_args &a,
                                                                    const struct attn_span &p, int g, int first, int end, int me)
{
    static constexpr int LD = HD + 8, PIECES = HD / 16;
    if (!a.vec8) {
        struct attn_codes<HD, ROWS, N> c;
        attn_load_codes(c, from, scale, a, p, g, first, end, me);
        attn_store_codes(to, scales, c, from, a, p, g, first, end, me);
        return;
    }
    if (me < ROWS) scales[me] = first + me < end ? scale[(size_t)attn_cache_row(a, p, first + me) * (size_t)a.groups + (size_t)g] : 0.0f;
#pragma unroll 2
    for (int i = me; i < ROWS * PIECES; i += N) {
        const int key = first + i / PIECES, e = i % PIECES * 16;
        uint4 v = make_uint4(0, 0, 0, 0);
        if (key < end && e < a.d) v = *(const uint4 *)(from + ((int64_t)attn_cache_row(a, p, key) * a.groups + g) * a.d + e);
        attn_store_piece(to + i / PIECES * LD + e, v);
    }
}
/* Columns of a tile of products or weights by the scales of their keys. */
template <int N> SIMT_INLINE void attn_scale_keys(float (&s)[N / 8][4], const float *scales, int lane)
{
#pragma unroll
    for (int i = 0; i < N / 8; i++)
        for (int e = 0; e < 4; e++) s[i][e] *= scales[8 * i + 2 * (lane % 4) + e % 2];
}

/* ---- fragments: where lane l looks for a 16 x 16 piece whose first row is at `tile` ---- */

template <int LD> SIMT_INLINE void attn_load_a(uint32_t r[4], const bf16 *tile, int lane) { ldmatrix_x4(r, tile + lane % 16 * LD + lane / 16 * 8); }
/* 16 columns of B = the transpose of 16 rows: r[0..1] columns 0-7, r[2..3] columns 8-15 */
template <int LD> SIMT_INLINE void attn_load_b(uint32_t r[4], const bf16 *tile, int lane) { ldmatrix_x4(r, tile + (lane % 8 + lane / 16 * 8) * LD + lane / 8 % 2 * 8); }
/* 16 columns of B = 16 rows as they lie */
template <int LD> SIMT_INLINE void attn_load_b_rows(uint32_t r[4], const bf16 *tile, int lane) { ldmatrix_x4_trans(r, tile + lane % 16 * LD + lane / 16 * 8); }

/* s (16, N) = A B^T over HD: A 16 rows, B N rows in shared memory. */
template <int HD, int N> SIMT_INLINE void attn_product(float (&s)[N / 8][4], const bf16 *a_rows, const bf16 *b_rows, int lane)
{
    static constexpr int LD = HD + 8;
#pragma unroll
    for (int i = 0; i < N / 8; i++)
        for (int e = 0; e < 4; e++) s[i][e] = 0;
#pragma unroll
    for (int kk = 0; kk < HD; kk += 16) {
        uint32_t fa[4];
        attn_load_a<LD>(fa, a_rows + kk, lane);
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
            uint32_t fb[4];
            attn_load_b<LD>(fb, b_rows + n * 16 * LD + kk, lane);
            mma_m16n8k16_bf16(s[2 * n], fa, fb);
            mma_m16n8k16_bf16(s[2 * n + 1], fa, fb + 2);
        }
    }
}
/* o (16, HD) += P (16, N) B, B N rows in shared memory; P is rounded to bf16 here. */
template <int HD, int N> SIMT_INLINE void attn_accumulate(float (&o)[HD / 8][4], const float (&p)[N / 8][4], const bf16 *b_rows, int lane)
{
    static constexpr int LD = HD + 8;
#pragma unroll
    for (int k = 0; k < N / 16; k++) {
        const uint32_t fa[4] = {bf16x2(p[2 * k][0], p[2 * k][1]), bf16x2(p[2 * k][2], p[2 * k][3]), bf16x2(p[2 * k + 1][0], p[2 * k + 1][1]),
                                bf16x2(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < HD / 16; n++) {
            uint32_t fb[4];
            attn_load_b_rows<LD>(fb, b_rows + k * 16 * LD + n * 16, lane);
            mma_m16n8k16_bf16(o[2 * n], fa, fb);
            mma_m16n8k16_bf16(o[2 * n + 1], fa, fb + 2);
        }
    }
}

/* ---- forward: what one warp keeps for 16 rows, and a step over N keys ---- */

SIMT_FN float attn_quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
SIMT_FN float attn_quad_sum(float x)
{
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

template <int HD> struct attn_state {
    float o[HD / 8][4];        /* rows l/4 and l/4 + 8 of the warp, columns 2 (l % 4) .. of each 8 */
    float top[2], sum[2];      /* running maximum (base 2), this lane's share of the sum of weights */
    int seen[2], low[2];       /* keys low .. seen-1 are seen by the two rows; 0, 0 for rows that are not there */
};
template <int HD> SIMT_INLINE void attn_begin(struct attn_state<HD> &w, const struct attn_args &a, const struct attn_span &p, int row, int rows)
{
#pragma unroll
    for (int i = 0; i < HD / 8; i++)
        for (int e = 0; e < 4; e++) w.o[i][e] = 0;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int r = row + 8 * h;
        w.top[h] = -INFINITY;
        w.sum[h] = 0;
        w.seen[h] = r < rows ? p.back + r / a.share + 1 : 0;
        w.low[h] = attn_low(w.seen[h], a.window);
    }
}
/* s: raw products with keys first .. first + N. Leaves the weights there, and the running sums and o rescaled. */
template <int HD, int N> SIMT_INLINE void attn_softmax(struct attn_state<HD> &w, float (&s)[N / 8][4], const struct attn_args &a, int first, int lane)
{
    float top[2] = {w.top[0], w.top[1]};
    if (a.capped) {
#pragma unroll
        for (int i = 0; i < N / 8; i++)
            for (int e = 0; e < 4; e++) s[i][e] = a.outer * tanhf(s[i][e] * a.inner);
    } else {
#pragma unroll
        for (int i = 0; i < N / 8; i++)
            for (int e = 0; e < 4; e++) s[i][e] *= a.outer;
    }
#pragma unroll
    for (int i = 0; i < N / 8; i++)
        for (int e = 0; e < 4; e++) {
            const int key = first + 8 * i + 2 * (lane % 4) + e % 2;
            if (key >= w.seen[e / 2] || key < w.low[e / 2]) s[i][e] = -INFINITY;
            top[e / 2] = fmaxf(top[e / 2], s[i][e]);
        }
    float shrink[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        top[h] = attn_quad_max(top[h]);
        const float safe = top[h] == -INFINITY ? 0.0f : top[h]; /* nothing was seen so far: weights 0, not NaN */
        shrink[h] = exp2f(w.top[h] - safe);
        w.top[h] = top[h];
        w.sum[h] *= shrink[h];
        top[h] = safe;
    }
#pragma unroll
    for (int i = 0; i < N / 8; i++)
        for (int e = 0; e < 4; e++) {
            s[i][e] = exp2f(s[i][e] - top[e / 2]);
            w.sum[e / 2] += s[i][e];
        }
#pragma unroll
    for (int i = 0; i < HD / 8; i++)
        for (int e = 0; e < 4; e++) w.o[i][e] *= shrink[e / 2];
}

/* ---- writing ---- */

SIMT_FN void attn_store_pair(bf16 *row, int e, int d, float x, float y, int vec)
{
    if (vec) {
        if (e < d) *(uint32_t *)(row + e) = bf16x2(x, y);
    } else {
        if (e < d) store(row, (size_t)e, x);
        if (e + 1 < d) store(row, (size_t)e + 1, y);
    }
}
SIMT_FN void attn_add_pair(bf16 *row, int e, int d, float x, float y, int vec)
{
    if (vec) {
        if (e >= d) return;
        const uint32_t old = *(const uint32_t *)(row + e);
        *(uint32_t *)(row + e) = bf16x2(bf16x2_low(old) + x, bf16x2_high(old) + y);
    } else {
        if (e < d) store(row, (size_t)e, load(row, (size_t)e) + x);
        if (e + 1 < d) store(row, (size_t)e + 1, load(row, (size_t)e + 1) + y);
    }
}

/* ---- splits of a decoding sequence: of its own lengths and the window alone, so that a batch changes nothing ---- */

struct attn_split { int base, size, n; }; /* split i: keys base + i * size .. , n of them, up to the sequence's last key */
static inline __host__ __device__ struct attn_split attn_split_of(int keys, int n_q, int window)
{
    const int seen = keys - n_q + 1;
    struct attn_split s;
    s.base = seen > window ? (seen - window) & ~63 : 0;
    s.size = ((keys - s.base + ATTN_SPLITS - 1) / ATTN_SPLITS + 63) & ~63;
    if (s.size < ATTN_SPLIT_KEYS) s.size = ATTN_SPLIT_KEYS;
    s.n = (keys - s.base + s.size - 1) / s.size;
    return s;
}

/* The most that any sequence of up to `keys` keys can have. */
static inline int attn_most_splits(int64_t keys)
{
    const int64_t n = (keys + 63 + ATTN_SPLIT_KEYS - 1) / ATTN_SPLIT_KEYS; /* a window may begin up to 63 keys early */
    return (int)(n > ATTN_SPLITS ? (int64_t)ATTN_SPLITS : n);
}

/* ---- launchers ---- */

struct attn_args attn_args_of(struct pw_tensor q, struct pw_tensor k, struct pw_tensor v, const struct pw_seqs *seqs, const struct pw_attn *attn);
bool attn_aligned(const void *const *p, int n, int64_t d);
int attn_forward(struct pw_dev *dev, const struct attn_args *a, const struct pw_seqs *seqs); /* sequences with many queries: attn_fwd.h */
int attn_decode(struct pw_dev *dev, const struct attn_args *a, const struct pw_seqs *seqs);  /* the others: attn_decode.h */
int attn_forward_paged(struct pw_dev *dev, const struct attn_args *a, const struct pw_seqs *seqs); /* the same through a.pages */
int attn_decode_paged(struct pw_dev *dev, const struct attn_args *a, const struct pw_seqs *seqs);
int attn_forward_codes(struct pw_dev *dev, const struct attn_args *a, const struct pw_seqs *seqs); /* over k8, v8, paged or not */
int attn_decode_codes(struct pw_dev *dev, const struct attn_args *a, const struct pw_seqs *seqs);
size_t attn_decode_scratch(int64_t tokens, int64_t keys, int heads, int head_dim);
int attn_bwd_keys(struct pw_dev *dev, const struct attn_args *a);
int attn_bwd_queries(struct pw_dev *dev, const struct attn_args *a);

/* The statement with HD = the instance that serves head dimension d. */
#define ATTN_BY_DIM(d, ...)                                     \
    if ((d) <= 64) { enum { HD = 64 }; __VA_ARGS__; }           \
    else if ((d) <= 80) { enum { HD = 80 }; __VA_ARGS__; }      \
    else if ((d) <= 96) { enum { HD = 96 }; __VA_ARGS__; }      \
    else if ((d) <= 128) { enum { HD = 128 }; __VA_ARGS__; }    \
    else { enum { HD = 256 }; __VA_ARGS__; }
#endif
