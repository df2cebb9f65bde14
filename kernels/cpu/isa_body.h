/* The kernels of isa.h, written once over vectors of LANES floats. Included by isa_generic.c, isa_avx2.c and isa_avx512.c, which define
 *   LANES, MR, NR (tile of dot), MO (rows of outer's tile; it is two vectors wide), ISA (the table's name; none: who includes it makes his own), ISA_NAME,
 *   vfma(a, b, c), vsum(a) (all lanes, fixed order), it may define vsum4(v) (of four, the same bits, as four floats), vround(a), lookup16(table, codes), vmul32(a, b) (low halves of 64-bit lanes).
 * Everything is static but the table. */
#include <math.h>
#include <string.h>
#include "base/rng.h"
#define BLOCK_HALF(u) half_to_float(u)
#include "kernels/block_decode.h"
#include "kernels/codes.h"

#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(LANES * 4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));

INLINE vf vload(const float *p) { vf v; memcpy(&v, p, sizeof v); return v; }
INLINE void vstore(float *p, vf v) { memcpy(p, &v, sizeof v); }
INLINE vf vset(float x) { vf zero = { 0 }; return x - zero; } /* x - 0 is x for -0 too, so that no subtraction is left of it */
INLINE vf vload_part(const float *p, int64_t n) { vf v = { 0 }; memcpy(&v, p, (size_t)n * 4); return v; }
INLINE void vstore_part(float *p, vf v, int64_t n) { memcpy(p, &v, (size_t)n * 4); }
INLINE vf vpick(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }

/* exp with a relative error below 2 units in the last place; 0 below -87.3, infinity above 88.7, NaN stays */
INLINE vf vexp(vf x)
{
    vf y = vpick(x > vset(89.0f), vset(89.0f), x);
    vi tiny = x < vset(-87.3f);
    y = vpick(tiny, vset(-87.3f), y);
    vf n = vround(y * 1.44269504088896341f);
    vf r = vfma(n, vset(-0.693145751953125f), y);      /* ln 2 in two pieces, the first exact in products with n */
    r = vfma(n, vset(-1.42860682030941723e-6f), r);
    vf p = vset(1.98412698e-4f);                        /* Taylor to r^7 / 7!: |r| <= 0.3466, remainder 5e-9 relative */
    p = vfma(p, r, vset(1.38888889e-3f));
    p = vfma(p, r, vset(8.33333333e-3f));
    p = vfma(p, r, vset(4.16666667e-2f));
    p = vfma(p, r, vset(1.66666667e-1f));
    p = vfma(p, r, vset(0.5f));
    p = vfma(p, r, vset(1.0f));
    p = vfma(p, r, vset(1.0f));
    vi e = __builtin_convertvector(vpick(n == n, n, vset(0)), vi), half = e >> 1;
    vf a = (vf)((half + 127) << 23), b = (vf)((e - half + 127) << 23); /* two factors: 2^128 itself is not a float */
    return vpick(tiny, vset(0), p * a * b);
}

/* ---- products ---- */

/* An mr x nr tile of dot over one piece of at most CPU_KC terms. */
INLINE void dot_tile(int mr, int nr, int64_t k, const float *x, int64_t ldx, const float *w, int64_t ldw, float *y, int64_t ldy, bool add)
{
    vf acc[MR][NR];
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < nr; j++) acc[i][j] = vset(0);
    int64_t at = 0;
    for (; at + LANES <= k; at += LANES) {
        vf b[NR];
        for (int j = 0; j < nr; j++) b[j] = vload(w + j * ldw + at);
        for (int i = 0; i < mr; i++) {
            vf a = vload(x + i * ldx + at);
            for (int j = 0; j < nr; j++) acc[i][j] = vfma(a, b[j], acc[i][j]);
        }
    }
    if (at < k) {
        for (int j = 0; j < nr; j++) {
            vf b = vload_part(w + j * ldw + at, k - at);
            for (int i = 0; i < mr; i++) acc[i][j] = vfma(vload_part(x + i * ldx + at, k - at), b, acc[i][j]);
        }
    }
#ifdef vsum4
    if (nr == 4) {
        for (int i = 0; i < mr; i++) {
            float *to = y + i * ldy;
            __m128 s = vsum4(acc[i]);
            _mm_storeu_ps(to, add ? _mm_add_ps(_mm_loadu_ps(to), s) : s);
        }
        return;
    }
#endif
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < nr; j++) {
            float s = vsum(acc[i][j]), *to = y + i * ldy + j;
            *to = add ? *to + s : s;
        }
}

#define DOT_ROWS(mr) \
    static void dot_rows##mr(int64_t n, int64_t k, const float *x, int64_t ldx, const float *w, int64_t ldw, float *y, int64_t ldy, bool add) \
    { \
        int64_t j = 0; \
        for (; j + NR <= n; j += NR) dot_tile(mr, NR, k, x, ldx, w + j * ldw, ldw, y + j, ldy, add); \
        for (; j < n; j++) dot_tile(mr, 1, k, x, ldx, w + j * ldw, ldw, y + j, ldy, add); \
    }
DOT_ROWS(1)
DOT_ROWS(2)
DOT_ROWS(MR)

static void dot(int64_t m, int64_t n, int64_t k, const float *x, int64_t ldx, const float *w, int64_t ldw, float *y, int64_t ldy, bool add)
{
    if (k <= 0) {
        for (int64_t i = 0; !add && i < m; i++) memset(y + i * ldy, 0, (size_t)n * 4);
        return;
    }
    for (int64_t at = 0; at < k; at += CPU_KC) {
        int64_t piece = k - at < CPU_KC ? k - at : CPU_KC, i = 0;
        bool more = add || at > 0;
        for (; i + MR <= m; i += MR) dot_rowsMR(n, piece, x + i * ldx + at, ldx, w + at, ldw, y + i * ldy, ldy, more);
        for (; i + 2 <= m; i += 2) dot_rows2(n, piece, x + i * ldx + at, ldx, w + at, ldw, y + i * ldy, ldy, more);
        for (; i < m; i++) dot_rows1(n, piece, x + i * ldx + at, ldx, w + at, ldw, y + i * ldy, ldy, more);
    }
}

/* An mo x (2 vectors) tile of outer; b has rows of ldb, `n` columns are real. */
INLINE void outer_tile(int mo, int64_t n, int64_t r, const float *a, int64_t am, int64_t ar, const float *b, int64_t ldb, float *c, int64_t ldc)
{
    vf lo[MO], hi[MO];
    for (int i = 0; i < mo; i++) lo[i] = hi[i] = vset(0);
    for (int64_t s = 0; s < r; s++) {
        vf b0 = vload(b + s * ldb), b1 = vload(b + s * ldb + LANES);
        for (int i = 0; i < mo; i++) {
            vf f = vset(a[i * am + s * ar]);
            lo[i] = vfma(f, b0, lo[i]);
            hi[i] = vfma(f, b1, hi[i]);
        }
    }
    for (int i = 0; i < mo; i++) {
        float *to = c + i * ldc;
        if (n >= 2 * LANES) {
            vstore(to, vload(to) + lo[i]);
            vstore(to + LANES, vload(to + LANES) + hi[i]);
        } else {
            vstore(to, vload(to) + lo[i]);
            vstore_part(to + LANES, vload_part(to + LANES, n - LANES) + hi[i], n - LANES);
        }
    }
}

/* The same one vector wide: n <= LANES. */
INLINE void outer_slim(int mo, int64_t n, int64_t r, const float *a, int64_t am, int64_t ar, const float *b, int64_t ldb, float *c, int64_t ldc)
{
    vf sum[MO];
    for (int i = 0; i < mo; i++) sum[i] = vset(0);
    for (int64_t s = 0; s < r; s++) {
        vf b0 = vload(b + s * ldb);
        for (int i = 0; i < mo; i++) sum[i] = vfma(vset(a[i * am + s * ar]), b0, sum[i]);
    }
    for (int i = 0; i < mo; i++) {
        float *to = c + i * ldc;
        if (n == LANES) vstore(to, vload(to) + sum[i]);
        else vstore_part(to, vload_part(to, n) + sum[i], n);
    }
}

/* All rows of a against one panel of b, n columns wide. */
INLINE void outer_panel(bool slim, int64_t m, int64_t n, int64_t r, const float *a, int64_t am, int64_t ar, const float *b, int64_t ldb, float *c, int64_t ldc)
{
    const int64_t whole = m - m % MO, tall = m % MO == MO / 3 && whole ? whole - MO : whole; /* two tiles of middle height, not one and a third */
    int64_t i = 0;
#define OUTER(rows, end) \
    for (; i + (rows) <= (end); i += (rows)) { \
        if (slim) outer_slim(rows, n, r, a + i * am, am, ar, b, ldb, c + i * ldc, ldc); \
        else outer_tile(rows, n, r, a + i * am, am, ar, b, ldb, c + i * ldc, ldc); \
    }
    OUTER(MO, tall)
    OUTER(MO * 2 / 3, m)
    OUTER(2, m)
    OUTER(1, m)
#undef OUTER
}

static void outer(int64_t m, int64_t n, int64_t r, const float *a, int64_t am, int64_t ar, const float *b, int64_t ldb, float *c, int64_t ldc)
{
    float pack[CPU_RC * 2 * LANES] __attribute__((aligned(64)));
    for (int64_t at = 0; at < r; at += CPU_RC) {
        int64_t piece = r - at < CPU_RC ? r - at : CPU_RC;
        for (int64_t j = 0; j < n; j += 2 * LANES) {
            const int64_t wide = n - j < 2 * LANES ? n - j : 2 * LANES, ld = wide > LANES ? 2 * LANES : LANES;
            const float *from = b + at * ldb + j;
            if (wide == LANES && ldb == LANES) { /* a panel as it is */
                outer_panel(true, m, wide, piece, a + at * ar, am, ar, from, LANES, c + j, ldc);
                continue;
            }
            for (int64_t s = 0; s < piece; s++, from += ldb) { /* a panel of b, contiguous: rows of b are far apart and would fall into few cache sets */
                float *to = pack + s * ld;
                if (wide == 2 * LANES) {
                    vstore(to, vload(from));
                    vstore(to + LANES, vload(from + LANES));
                } else {
                    memcpy(to, from, (size_t)wide * 4);
                    memset(to + wide, 0, (size_t)(ld - wide) * 4);
                }
            }
            if (wide > LANES) outer_panel(false, m, wide, piece, a + at * ar, am, ar, pack, 2 * LANES, c + j, ldc);
            else outer_panel(true, m, wide, piece, a + at * ar, am, ar, pack, LANES, c + j, ldc);
        }
    }
}

/* ---- weights ---- */

/* n codes of bytes (high nibble first) times scale; bytes holds whole bytes from an even element on */
INLINE void decode_codes(const float *table, const uint8_t *bytes, int64_t n, float scale, float *out)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) vstore(out + i, lookup16(table, unpack4(bytes + i / 2)) * scale);
    for (; i < n; i++) out[i] = table[i % 2 ? bytes[i / 2] & 15 : bytes[i / 2] >> 4] * scale;
}

static void decode4(const struct pw_weight *w, int64_t first, int64_t n, float *out)
{
    const float *table = w->type == PW_Q_NF4 ? pw_nf4_table : pw_fp4_table;
    const uint8_t *bytes = w->data;
    while (n > 0) {
        int64_t block = first / w->block, end = (block + 1) * w->block;
        int64_t count = end - first < n ? end - first : n;
        float scale = pw_weight_absmax(w, block);
        n -= count;
        if (first % 2) {
            *out++ = table[bytes[first / 2] & 15] * scale;
            first++;
            count--;
        }
        decode_codes(table, bytes + first / 2, count, scale, out);
        out += count;
        first += count;
    }
}

/* n elements from `column` of a row of blocks on: whole groups in place, a part of one through a copy */
static void decode_blocks(const struct pw_weight *w, int64_t row, int64_t column, int64_t n, float *out)
{
    static void (*const groups[])(const uint8_t *, int, float *) = {
#define PW_BLOCK(id, name, stored, ggml, elements, bytes, decode, encode) [PW_Q_##id] = decode,
#include "kernels/blocks.def"
#undef PW_BLOCK
    };
    const struct pw_block_type *b = pw_block_type(w->type);
    void (*const group)(const uint8_t *, int, float *) = groups[w->type];
    const uint8_t *bytes = (const uint8_t *)w->data + row * (w->n_in / b->elements) * b->bytes;
    while (n > 0) {
        const uint8_t *block = bytes + column / b->elements * b->bytes;
        int in_block = (int)(column % b->elements), first = in_block % PW_BLOCK_GROUP;
        int64_t count = PW_BLOCK_GROUP - first < n ? PW_BLOCK_GROUP - first : n;
        if (count == PW_BLOCK_GROUP) {
            group(block, in_block / PW_BLOCK_GROUP, out);
        } else {
            float part[PW_BLOCK_GROUP];
            group(block, in_block / PW_BLOCK_GROUP, part);
            memcpy(out, part + first, (size_t)count * 4);
        }
        out += count;
        column += count;
        n -= count;
    }
}

static void decode(const struct pw_weight *w, int64_t row, int64_t column, int64_t n, float *out)
{
    int64_t first = row * w->n_in + column;
    if (w->type > PW_Q_INT8) {
        decode_blocks(w, row, column, n, out);
    } else if (w->type == PW_Q_NF4 || w->type == PW_Q_FP4) {
        decode4(w, first, n, out);
    } else if (w->type == PW_Q_INT8) {
        const int8_t *code = (const int8_t *)w->data + first;
        float step = w->absmax[row] / 127.0f;
        for (int64_t i = 0; i < n; i++) out[i] = (float)code[i] * step;
    } else if (w->dtype == PW_BF16) {
        const uint16_t *x = (const uint16_t *)w->data + first;
        for (int64_t i = 0; i < n; i++) {
            uint32_t u = (uint32_t)x[i] << 16;
            memcpy(out + i, &u, 4);
        }
    } else if (w->dtype == PW_F16) {
        const uint16_t *x = (const uint16_t *)w->data + first;
        for (int64_t i = 0; i < n; i++) out[i] = half_to_float(x[i]);
    } else {
        memcpy(out, (const float *)w->data + first, (size_t)n * 4);
    }
}

/* nr rows at a time: a single chain of multiply-adds would wait for itself */
INLINE void dot4_rows(int nr, const struct pw_weight *w, int64_t row, const float *table, const float *x, float *y)
{
    const uint8_t *bytes[4];
    int64_t block[4];
    for (int j = 0; j < nr; j++) {
        bytes[j] = (const uint8_t *)w->data + (row + j) * w->n_in / 2;
        block[j] = (row + j) * w->n_in / w->block;
    }
    for (int64_t at = 0; at < w->n_in; at += CPU_KC) {
        int64_t end = w->n_in - at < CPU_KC ? w->n_in : at + CPU_KC;
        vf acc[4];
        for (int j = 0; j < nr; j++) acc[j] = vset(0);
        for (int64_t k = at; k < end; k += w->block) {
            vf scale[4];
            for (int j = 0; j < nr; j++) scale[j] = vset(pw_weight_absmax(w, block[j]++));
            for (int64_t i = k; i < k + w->block; i += LANES) {
                vf in = vload(x + i);
                for (int j = 0; j < nr; j++) acc[j] = vfma(in, lookup16(table, unpack4(bytes[j] + i / 2)) * scale[j], acc[j]);
            }
        }
        for (int j = 0; j < nr; j++) {
            float s = vsum(acc[j]);
            y[j] = at ? y[j] + s : s;
        }
    }
}

static void dot4(const struct pw_weight *w, int64_t first_row, int64_t n, const float *x, float *y)
{
    float table[16];
    memcpy(table, w->type == PW_Q_NF4 ? pw_nf4_table : pw_fp4_table, sizeof table);
    int64_t j = 0;
    for (; j + 4 <= n; j += 4) dot4_rows(4, w, first_row + j, table, x, y + j);
    for (; j < n; j++) dot4_rows(1, w, first_row + j, table, x, y + j);
}

/* ---- rows ---- */

/* The largest of some numbers, NaN if any is, lane by lane. */
struct top { vf most; vi bad; };
INLINE void see(struct top *t, vf v)
{
    t->bad |= v != v;
    t->most = vpick(v > t->most, v, t->most);
}
INLINE float top_of(struct top t)
{
    vf x = vpick(t.bad, vset(NAN), t.most);
    for (int half = LANES / 2; half; half /= 2) {
        vi from;
        for (int i = 0; i < LANES; i++) from[i] = i ^ half;
        const vf other = __builtin_shuffle(x, from);
        x = vpick((other > x) | (other != other), other, x);
    }
    return x[0];
}

static float max_of(int64_t n, const float *x)
{
    struct top t = { vset(-INFINITY), { 0 } };
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) see(&t, vload(x + i));
    if (i < n) {
        vf last = vset(-INFINITY);
        memcpy(&last, x + i, (size_t)(n - i) * 4);
        see(&t, last);
    }
    return top_of(t);
}

static float mask_max(int64_t from, int64_t to, int64_t n, float *x, float a)
{
    struct top t = { vset(-INFINITY), { 0 } };
    vi lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    for (int64_t i = 0; i < n; i += LANES) {
        vf v = vload(x + i) * a;
        if (from > i || to < i + LANES) {
            const vi at = lane + (int32_t)i;
            v = vpick((at >= (int32_t)from) & (at < (int32_t)to), v, vset(-INFINITY));
        }
        vstore(x + i, v);
        see(&t, v);
    }
    return top_of(t);
}

static void softmax_back(int64_t n, float *s, float *ds, const float *lse, const float *mean, float a, float scale)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const vf p = vexp(vload(s + i) * a - vload(lse + i));
        vstore(s + i, p);
        vstore(ds + i, p * (vload(ds + i) - vload(mean + i)) * scale);
    }
    if (i < n) {
        const vf p = vexp(vload_part(s + i, n - i) * a - vload_part(lse + i, n - i));
        vstore_part(s + i, p, n - i);
        vstore_part(ds + i, p * (vload_part(ds + i, n - i) - vload_part(mean + i, n - i)) * scale, n - i);
    }
}

static double exp_sub(int64_t n, float *x, float top)
{
    double sum = 0;
    for (int64_t first = 0; first < n; first += 1024) { /* lanes of f32 hold at most 128 terms each */
        int64_t end = n - first < 1024 ? n : first + 1024, i = first;
        vf part = vset(0);
        for (; i + LANES <= end; i += LANES) {
            vf e = vexp(vload(x + i) - top);
            vstore(x + i, e);
            part += e;
        }
        if (i < end) {
            vf e = vexp(vload_part(x + i, end - i) - top);
            vstore_part(x + i, e, end - i);
            part += vload_part(x + i, end - i);
        }
        sum += (double)vsum(part);
    }
    return sum;
}

static void scale_by(int64_t n, float *x, float a)
{
    for (int64_t i = 0; i < n; i++) x[i] *= a;
}

static void axpy(int64_t n, float *y, const float *x, float a)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) vstore(y + i, vfma(vset(a), vload(x + i), vload(y + i)));
    if (i < n) vstore_part(y + i, vfma(vset(a), vload_part(x + i, n - i), vload_part(y + i, n - i)), n - i);
}

/* sum of x*y*z in double over eight lanes */
INLINE double dot3(int64_t n, const float *x, const float *y, const float *z, float offset)
{
    double lane[8] = { 0 };
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int l = 0; l < 8; l++) lane[l] += (double)x[i + l] * (double)y[i + l] * (z ? (double)(z[i + l] + offset) : 1);
    for (int l = 0; i < n; i++, l++) lane[l] += (double)x[i] * (double)y[i] * (z ? (double)(z[i] + offset) : 1);
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

static double sumsq(int64_t n, const float *x) { return dot3(n, x, x, NULL, 0); }

static void norm_fwd(int64_t n, float *out, float *inv_rms, const float *x, const float *w, double eps, float w_offset)
{
    float inv = (float)(1 / sqrt(dot3(n, x, x, NULL, 0) / (double)n + eps));
    if (inv_rms) *inv_rms = inv;
    for (int64_t i = 0; i < n; i++) out[i] = x[i] * inv * (w[i] + w_offset);
}

static void norm_bwd(int64_t n, float *dx, const float *dout, const float *x, const float *w, float inv_rms, float w_offset)
{
    float mean = (float)(dot3(n, dout, x, w, w_offset) * (double)inv_rms * (double)inv_rms / (double)n);
    for (int64_t i = 0; i < n; i++) dx[i] += inv_rms * (dout[i] * (w[i] + w_offset) - x[i] * mean);
}

/* act(z) and, with slope, its derivative */
INLINE vf activate(enum pw_act act, vf z, vf *slope)
{
    if (act == PW_ACT_SILU) {
        vf s = vset(1.0f) / (vexp(-z) + 1.0f);
        if (slope) *slope = s * (z * (1.0f - s) + 1.0f);
        return z * s;
    }
    vf z2 = z * z, u = 0.79788456080286535588f * (z + 0.044715f * z2 * z);
    vf s = vset(1.0f) / (vexp(-2.0f * u) + 1.0f); /* (1 + tanh u) / 2 */
    if (slope) *slope = s + z * 2.0f * s * (1.0f - s) * 0.79788456080286535588f * (1.0f + 0.134145f * z2);
    return z * s;
}

INLINE void glu_fwd_act(enum pw_act act, int64_t n, float *out, const float *gate, const float *up)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) vstore(out + i, activate(act, vload(gate + i), NULL) * vload(up + i));
    if (i < n) vstore_part(out + i, activate(act, vload_part(gate + i, n - i), NULL) * vload_part(up + i, n - i), n - i);
}
static void glu_fwd(int64_t n, float *out, const float *gate, const float *up, enum pw_act act)
{
    if (act == PW_ACT_SILU) glu_fwd_act(PW_ACT_SILU, n, out, gate, up);
    else glu_fwd_act(PW_ACT_GELU_TANH, n, out, gate, up);
}

INLINE void glu_bwd_act(enum pw_act act, int64_t n, float *dgate, float *dup, const float *dout, const float *gate, const float *up)
{
    for (int64_t i = 0; i < n; i += LANES) {
        int64_t count = n - i < LANES ? n - i : LANES;
        bool whole = count == LANES;
        vf slope, g = whole ? vload(dout + i) : vload_part(dout + i, count), u = whole ? vload(up + i) : vload_part(up + i, count);
        vf value = activate(act, whole ? vload(gate + i) : vload_part(gate + i, count), &slope);
        if (whole) {
            vstore(dgate + i, vload(dgate + i) + g * u * slope);
            vstore(dup + i, vload(dup + i) + g * value);
        } else {
            vstore_part(dgate + i, vload_part(dgate + i, count) + g * u * slope, count);
            vstore_part(dup + i, vload_part(dup + i, count) + g * value, count);
        }
    }
}
static void glu_bwd(int64_t n, float *dgate, float *dup, const float *dout, const float *gate, const float *up, enum pw_act act)
{
    if (act == PW_ACT_SILU) glu_bwd_act(PW_ACT_SILU, n, dgate, dup, dout, gate, up);
    else glu_bwd_act(PW_ACT_GELU_TANH, n, dgate, dup, dout, gate, up);
}

static void adamw(int64_t n, float *p, float *m, float *v, const float *g, const struct pw_adamw *h)
{
    float c1 = (float)(1 / (1 - pow(h->beta1, (double)h->step))), c2 = (float)(1 / (1 - pow(h->beta2, (double)h->step)));
    float b1 = (float)h->beta1, b2 = (float)h->beta2, a1 = (float)(1 - h->beta1), a2 = (float)(1 - h->beta2);
    float lr = (float)h->lr, eps = (float)h->eps, decay = (float)h->weight_decay, gs = (float)h->grad_scale;
    for (int64_t i = 0; i < n; i++) {
        float gi = g[i] * gs;
        m[i] = b1 * m[i] + a1 * gi;
        v[i] = b2 * v[i] + a2 * gi * gi;
        p[i] -= lr * (m[i] * c1 / (sqrtf(v[i] * c2) + eps) + decay * p[i]);
    }
}

/* Philox of CALLS successive counters, as pw_philox: words[4 * i ..] belong to counter first + i. 32-bit numbers in lanes of 64. */
enum { CALLS = LANES / 2 };
typedef uint64_t vq __attribute__((vector_size(LANES * 4)));
INLINE void philox_calls(uint64_t first, struct pw_drop drop, uint32_t *words)
{
    const vq zero = { 0 }, low = zero + 0xffffffffu;
    vq n = zero;
    for (int i = 0; i < CALLS; i++) n[i] = first + (uint64_t)i;
    vq c0 = n & low, c1 = n >> 32, c2 = zero + (drop.offset & 0xffffffffu), c3 = zero + (drop.offset >> 32);
    uint32_t k0 = (uint32_t)drop.seed, k1 = (uint32_t)(drop.seed >> 32);
    for (int round = 0; round < 10; round++) {
        vq p0 = vmul32(c0, zero + 0xD2511F53u), p1 = vmul32(c2, zero + 0xCD9E8D57u);
        c0 = (p1 >> 32) ^ c1 ^ (zero + k0);
        c1 = p1 & low;
        c2 = (p0 >> 32) ^ c3 ^ (zero + k1);
        c3 = p0 & low;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    vq even = c0 | c1 << 32, odd = c2 | c3 << 32;
    for (int i = 0; i < CALLS; i++) {
        uint64_t pair[2] = { even[i], odd[i] };
        memcpy(words + 4 * i, pair, sizeof pair);
    }
}

static void keep(struct pw_drop drop, int64_t first, int64_t n, const float *x, float *out)
{
    uint32_t threshold = pw_dropout_threshold(drop.p), words[4 * CALLS];
    float factor = (float)(1 / (1 - drop.p));
    first += (int64_t)drop.first;
    for (int64_t at = first - first % 4; at < first + n; at += 4 * CALLS) {
        philox_calls((uint64_t)at / 4, drop, words);
        if (at >= first && at + 4 * CALLS <= first + n) {
            const float *from = x + (at - first);
            float *to = out + (at - first);
            for (int i = 0; i < 4 * CALLS; i++) to[i] = words[i] >= threshold ? from[i] * factor : 0;
        } else {
            for (int i = 0; i < 4 * CALLS; i++)
                if (at + i >= first && at + i < first + n) out[at + i - first] = words[i] >= threshold ? x[at + i - first] * factor : 0;
        }
    }
}

#include "kernels/cpu/isa_encode.h"

/* The table of these kernels with products of linear layers by p, or NULL */
#define ISA_TABLE(level, p) { \
    .name = level, .dot = dot, .outer = outer, .dot4 = dot4, .decode = decode, .encode4 = encode4, .max = max_of, .mask_max = mask_max, .softmax_back = softmax_back, .exp_sub = exp_sub, .scale = scale_by, .axpy = axpy, \
    .sumsq = sumsq, .norm_fwd = norm_fwd, .norm_bwd = norm_bwd, .glu_fwd = glu_fwd, .glu_bwd = glu_bwd, .adamw = adamw, .keep = keep, .products16 = p }
#ifdef ISA
const struct cpu_isa ISA = ISA_TABLE(ISA_NAME, NULL);
#endif
