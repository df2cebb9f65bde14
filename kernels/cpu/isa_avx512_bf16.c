/* The cpu kernels for AVX-512 with BF16: those of isa_avx512.c, and products whose factors are rounded to bf16 (vdpbf16ps: two products a lane,
 * added in f32). Tile 12 x 32, pairs of terms:
 *
 *     a: rows of bf16, a pair of terms is one 32-bit word          panel: 32 columns, a pair of terms in each word
 *     a[i] . . [t t+1] . .                                         pair s:  [c0: t t+1][c1: t t+1] ... [c31: t t+1]
 *
 * A word of a is spread over all lanes and multiplies two vectors of the panel. The instruction takes subnormal numbers for zero and rounds
 * after each of the two additions. */
#if defined(__x86_64__)
#include <stddef.h>
#include "kernels/cpu/isa.h"

#define ISA_NONE
#include "kernels/cpu/isa_avx512.c"

enum { ROWS = 12, WIDE = CPU_PANEL, HALF = WIDE / 2 };
_Static_assert(CPU_STEP == 32, "what is packed at a time");

static __mmask16 first_lanes(int64_t n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1); }
static __m512 load_part(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }

static void round16(int64_t n, int64_t room, const float *x, uint16_t *out)
{
    for (int64_t i = 0; i < room; i += 16) {
        const __m256i half = (__m256i)_mm512_cvtneps_pbh(load_part(x + i, n - i));
        _mm256_mask_storeu_epi16(out + i, first_lanes(room - i), half);
    }
}

/* columns become rows: 16 vectors of 16 words */
INLINE void transpose(__m512i v[16])
{
    __m512i w[16];
    for (int i = 0; i < 16; i += 2) {
        w[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        w[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(w[i], w[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(w[i], w[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(w[i + 1], w[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(w[i + 1], w[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        w[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
        w[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
        w[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
        w[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        v[i] = _mm512_shuffle_i32x4(w[i], w[i + 8], 0x88);
        v[i + 8] = _mm512_shuffle_i32x4(w[i], w[i + 8], 0xdd);
    }
}

/* n of 32, or of 16, numbers of w from element `at` on, in bf16; zeros after them */
INLINE __m512i thirty_two(const void *w, bool half, int64_t at, int64_t n)
{
    if (half) return _mm512_maskz_loadu_epi16(n >= 32 ? 0xffffffffu : n <= 0 ? 0 : (1u << n) - 1, (const uint16_t *)w + at);
    return (__m512i)_mm512_cvtne2ps_pbh(load_part((const float *)w + at + 16, n - 16), load_part((const float *)w + at, n));
}
INLINE __m256i sixteen(const void *w, bool half, int64_t at, int64_t n)
{
    if (half) return _mm256_maskz_loadu_epi16(first_lanes(n), (const uint16_t *)w + at);
    return (__m256i)_mm512_cvtneps_pbh(load_part((const float *)w + at, n));
}

/* The terms of a panel are one after another in each of n rows of w. */
INLINE void pack_rows_of(bool half, int64_t n, int64_t k, const void *w, int64_t ldw, uint16_t *panel)
{
    for (int64_t at = 0; at < k; at += 32)
        for (int64_t j = 0; j < WIDE; j += 16) {
            __m512i v[16];
            for (int64_t i = 0; i < 16; i++) v[i] = j + i < n ? thirty_two(w, half, (j + i) * ldw + at, k - at) : _mm512_setzero_si512();
            transpose(v);
            for (int64_t i = 0; i < 16; i++) _mm512_storeu_si512(panel + (at / 2 + i) * 2 * WIDE + 2 * j, v[i]);
        }
}
static void pack_rows(int64_t n, int64_t k, const float *w, int64_t ldw, uint16_t *panel) { pack_rows_of(false, n, k, w, ldw, panel); }
static void pack_rows16(int64_t n, int64_t k, const uint16_t *w, int64_t ldw, uint16_t *panel) { pack_rows_of(true, n, k, w, ldw, panel); }

/* 32 rows of w, n and more columns: of column i the first half of the terms in low[i], the others in high[i]; zeros past n columns and k rows */
INLINE void load_turned(int64_t n, int64_t k, const float *w, int64_t ldw, __m512 low[16], __m512 high[16])
{
    for (int64_t i = 0; i < 16; i++) {
        low[i] = load_part(w + i * ldw, i < k ? n : 0);
        high[i] = load_part(w + (16 + i) * ldw, 16 + i < k ? n : 0);
    }
    transpose((__m512i *)low);
    transpose((__m512i *)high);
}
static void turn_rounded(int64_t n, int64_t k, const float *w, int64_t ldw, uint16_t *out, int64_t ldo)
{
    for (int64_t t = 0; t < k; t += CPU_STEP)
        for (int64_t j = 0; j < n; j += 16) {
            __m512 low[16], high[16];
            load_turned(n - j, k - t, w + t * ldw + j, ldw, low, high);
            for (int64_t i = 0; i < 16 && j + i < n; i++) _mm512_storeu_si512(out + (j + i) * ldo + t, (__m512i)_mm512_cvtne2ps_pbh(high[i], low[i]));
        }
}

/* A term and the next, of sixteen columns */
static __m512i pairs_of(__m256i first, __m256i second)
{
    const __m512i low = _mm512_cvtepu16_epi32(first), high = _mm512_cvtepu16_epi32(second);
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

/* The terms of a panel are rows of w, n columns wide. */
INLINE void pack_columns_of(bool half, int64_t n, int64_t k, const void *w, int64_t ldw, uint16_t *panel)
{
    for (int64_t t = 0; t < k; t += 2)
        for (int64_t j = 0; j < WIDE; j += 16) {
            const __m256i second = t + 1 < k ? sixteen(w, half, (t + 1) * ldw + j, n - j) : _mm256_setzero_si256();
            _mm512_storeu_si512(panel + t * WIDE + 2 * j, pairs_of(sixteen(w, half, t * ldw + j, n - j), second));
        }
    memset(panel + (k + 1) / 2 * 2 * WIDE, 0, (size_t)(cpu_steps(k) - (k + 1) / 2 * 2) * WIDE * sizeof *panel);
}
static void pack_columns(int64_t n, int64_t k, const float *w, int64_t ldw, uint16_t *panel) { pack_columns_of(false, n, k, w, ldw, panel); }
static void pack_columns16(int64_t n, int64_t k, const uint16_t *w, int64_t ldw, uint16_t *panel) { pack_columns_of(true, n, k, w, ldw, panel); }

#ifndef PACKING_ALONE /* isa_amx.c has its own product */
INLINE void tile16(int rows, int64_t n, int64_t pairs, const uint16_t *a, int64_t lda, const uint16_t *panel, float *c, int64_t ldc, bool more)
{
    __m512 lo[ROWS], hi[ROWS];
    for (int i = 0; i < rows; i++) lo[i] = hi[i] = _mm512_setzero_ps();
    for (int64_t s = 0; s < pairs; s++) {
        const __m512bh b0 = (__m512bh)_mm512_loadu_si512(panel + s * 2 * WIDE), b1 = (__m512bh)_mm512_loadu_si512(panel + s * 2 * WIDE + WIDE);
        for (int i = 0; i < rows; i++) {
            int32_t word;
            memcpy(&word, a + i * lda + 2 * s, 4);
            const __m512bh f = (__m512bh)_mm512_set1_epi32(word);
            lo[i] = _mm512_dpbf16_ps(lo[i], f, b0);
            hi[i] = _mm512_dpbf16_ps(hi[i], f, b1);
        }
    }
    const __mmask16 first = first_lanes(n), second = first_lanes(n - 16);
    for (int i = 0; i < rows; i++) {
        float *to = c + i * ldc;
        _mm512_mask_storeu_ps(to, first, more ? _mm512_add_ps(_mm512_maskz_loadu_ps(first, to), lo[i]) : lo[i]);
        _mm512_mask_storeu_ps(to + HALF, second, more ? _mm512_add_ps(_mm512_maskz_loadu_ps(second, to + HALF), hi[i]) : hi[i]);
    }
}

/* The same of a panel of which only the first half is real: n <= 16. */
INLINE void tile16_slim(int rows, int64_t n, int64_t pairs, const uint16_t *a, int64_t lda, const uint16_t *panel, float *c, int64_t ldc, bool more)
{
    __m512 sum[ROWS];
    for (int i = 0; i < rows; i++) sum[i] = _mm512_setzero_ps();
    for (int64_t s = 0; s < pairs; s++) {
        const __m512bh b = (__m512bh)_mm512_loadu_si512(panel + s * 2 * WIDE);
        for (int i = 0; i < rows; i++) {
            int32_t word;
            memcpy(&word, a + i * lda + 2 * s, 4);
            sum[i] = _mm512_dpbf16_ps(sum[i], (__m512bh)_mm512_set1_epi32(word), b);
        }
    }
    const __mmask16 first = first_lanes(n);
    for (int i = 0; i < rows; i++) {
        float *to = c + i * ldc;
        _mm512_mask_storeu_ps(to, first, more ? _mm512_add_ps(_mm512_maskz_loadu_ps(first, to), sum[i]) : sum[i]);
    }
}

static void product_of_panel(int64_t m, int64_t n, int64_t k, const uint16_t *a, int64_t lda, const uint16_t *panel, float *c, int64_t ldc, bool add)
{
    const int64_t pairs = (k + 1) / 2, whole = m - m % ROWS, tall = m % ROWS == 4 && whole ? whole - ROWS : whole; /* 16 rows: two tiles of 8 */
    int64_t i = 0;
#define PRODUCT(rows, end) \
    for (; i + (rows) <= (end); i += (rows)) { \
        if (n <= HALF) tile16_slim(rows, n, pairs, a + i * lda, lda, panel, c + i * ldc, ldc, add); \
        else tile16(rows, n, pairs, a + i * lda, lda, panel, c + i * ldc, ldc, add); \
    }
    PRODUCT(ROWS, tall)
    PRODUCT(8, m)
    PRODUCT(4, m)
    PRODUCT(1, m)
#undef PRODUCT
}

/* 96 rows stay in the second cache for all panels; one panel stays in the first. */
static void product16(int64_t m, int64_t n, int64_t single, int64_t k, const uint16_t *a, int64_t lda, const uint16_t *panels, int64_t ldp, float *c, int64_t ldc, bool add)
{
    enum { AT_ONCE = 8 * ROWS };
    (void)single;
    for (int64_t i = 0; i < m; i += AT_ONCE)
        for (int64_t j = 0; j < n; j += WIDE)
            product_of_panel(m - i < AT_ONCE ? m - i : AT_ONCE, n - j < WIDE ? n - j : WIDE, k, a + i * lda, lda, panels + j / WIDE * ldp, c + i * ldc + j, ldc, add);
}

static const struct cpu_products16 products16 = { .planes = 1, .terms = 384, .round = round16, .turn = turn_rounded, .pack_rows = pack_rows, .pack_columns = pack_columns, .pack_rows16 = pack_rows16,
                                                  .pack_columns16 = pack_columns16, .pack_rounded = pack_columns16, .product = product16 };
const struct cpu_isa cpu_isa_avx512_bf16 = ISA_TABLE("avx512_bf16", &products16);
#endif
#endif
