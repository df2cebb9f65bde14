/* The cpu kernels for AMX (Intel's tiles of 16 rows of 64 bytes): those of isa_avx512.c, and two ways of multiplying on its bf16 multipliers. Level
 * amx_bf16 rounds factors to bf16 as avx512_bf16 does. Level amx multiplies numbers of f32: each is the sum of three of bf16,
 *
 *     x = x0 + x1 + x2      x0 nearest to x, x1 to x - x0, x2 the rest: exact, |x1| <= 2^-9 |x|, |x2| <= 2^-18 |x|
 *     x w = x0 w0 + x0 w1 + x1 w0 + x1 w1 + x0 w2 + x2 w0 + (less than 2^-25 |x w|, left out)
 *
 * or three products, exact, where w is a number of bf16, as the frozen weights of most files are. (Henry, Tang and Heinecke, "Leveraging the bfloat16
 * artificial intelligence datatype for higher-precision computations", ARITH 2019.) A number that rounds to infinity there becomes NaN: above 3.39e38.
 *
 *     c, four tiles                a, two tiles                   panel, two tiles: 16 pairs of terms
 *     [rows  0..15] x 32 columns   [rows  0..15] x 32 terms       [pair][columns 0..15][2]  [pair][columns 16..31][2]
 *     [rows 16..31]                [rows 16..31]
 *
 * An instruction adds 32 terms to a tile: even and odd terms each in a chain of their own from zero, the two sums, and then c. Numbers are rounded
 * to nearest, subnormal ones are zero. (Intel's Architecture Instruction Set Extensions reference, TDPBF16PS.) A row of a tile depends on its own
 * row of a alone, so how the rows of a call fall into tiles changes nothing. */
#if defined(__x86_64__)
#define PACKING_ALONE
#include "kernels/cpu/isa_avx512_bf16.c"

enum { TILE_ROWS = 16, TILE_BYTES = 64, PLANES = 3, PLANE = CPU_STEP * CPU_PANEL /* numbers of a step of a panel */ };
_Static_assert(WIDE == 2 * TILE_ROWS && CPU_STEP * 2 == TILE_BYTES, "a panel is two tiles wide");

/* ---- three numbers for one ---- */

/* The next plane of 32 numbers; they become what it leaves. */
INLINE __m512i next_plane(__m512 *low, __m512 *high)
{
    const __m512i plane = (__m512i)_mm512_cvtne2ps_pbh(*high, *low);
    *low = _mm512_sub_ps(*low, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(plane)), 16)));
    *high = _mm512_sub_ps(*high, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(plane, 1)), 16)));
    return plane;
}
INLINE __m256i next_half(__m512 *x)
{
    const __m256i plane = (__m256i)_mm512_cvtneps_pbh(*x);
    *x = _mm512_sub_ps(*x, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(plane), 16)));
    return plane;
}

static void split(int64_t n, int64_t room, const float *x, uint16_t *out)
{
    for (int64_t i = 0; i < room; i += CPU_STEP) {
        __m512 low = load_part(x + i, n - i), high = load_part(x + i + 16, n - i - 16);
        for (int p = 0; p < PLANES; p++) _mm512_storeu_si512(out + i * PLANES + p * CPU_STEP, next_plane(&low, &high));
    }
}

static void split_rows(int64_t n, int64_t k, const float *w, int64_t ldw, uint16_t *panel)
{
    for (int64_t at = 0; at < k; at += CPU_STEP)
        for (int64_t j = 0; j < WIDE; j += 16) {
            __m512 low[16], high[16];
            for (int64_t i = 0; i < 16; i++) {
                const int64_t terms = j + i < n ? k - at : 0;
                low[i] = load_part(w + (j + i) * ldw + at, terms);
                high[i] = load_part(w + (j + i) * ldw + at + 16, terms - 16);
            }
            for (int p = 0; p < PLANES; p++) {
                __m512i v[16];
                for (int i = 0; i < 16; i++) v[i] = next_plane(&low[i], &high[i]);
                transpose(v);
                for (int i = 0; i < 16; i++) _mm512_storeu_si512(panel + at * WIDE * PLANES + p * PLANE + i * 2 * WIDE + 2 * j, v[i]);
            }
        }
}

/* Where a step of a panel of three planes has the pair that begins with term t. */
INLINE uint16_t *pair_at(uint16_t *panel, int64_t t) { return panel + t / CPU_STEP * PLANES * PLANE + t % CPU_STEP * WIDE; }

static void split_columns(int64_t n, int64_t k, const float *w, int64_t ldw, uint16_t *panel)
{
    for (int64_t t = 0; t < cpu_steps(k); t += 2)
        for (int64_t j = 0; j < WIDE; j += 16) {
            __m512 first = load_part(w + t * ldw + j, t < k ? n - j : 0), second = load_part(w + (t + 1) * ldw + j, t + 1 < k ? n - j : 0);
            for (int p = 0; p < PLANES; p++) {
                const __m256i half = next_half(&first);
                _mm512_storeu_si512(pair_at(panel, t) + p * PLANE + 2 * j, pairs_of(half, next_half(&second)));
            }
        }
}

static void turn_split(int64_t n, int64_t k, const float *w, int64_t ldw, uint16_t *out, int64_t ldo)
{
    for (int64_t t = 0; t < k; t += CPU_STEP)
        for (int64_t j = 0; j < n; j += 16) {
            __m512 low[16], high[16];
            load_turned(n - j, k - t, w + t * ldw + j, ldw, low, high);
            for (int64_t i = 0; i < 16 && j + i < n; i++)
                for (int p = 0; p < PLANES; p++) _mm512_storeu_si512(out + (j + i) * ldo + t * PLANES + p * CPU_STEP, next_plane(&low[i], &high[i]));
        }
}

/* Column j of the panel is column j of rows that are split already. */
static void pack_split(int64_t n, int64_t k, const uint16_t *rows, int64_t ldw, uint16_t *panel)
{
    for (int64_t t = 0; t < cpu_steps(k); t += 2)
        for (int p = 0; p < PLANES; p++)
            for (int64_t j = 0; j < WIDE; j += 16) {
                const uint16_t *from = rows + t * ldw + p * CPU_STEP + j;
                const __m256i first = _mm256_maskz_loadu_epi16(first_lanes(t < k ? n - j : 0), from);
                const __m256i second = _mm256_maskz_loadu_epi16(first_lanes(t + 1 < k ? n - j : 0), from + ldw);
                _mm512_storeu_si512(pair_at(panel, t) + p * PLANE + 2 * j, pairs_of(first, second));
            }
}

/* ---- products ---- */

/* Tiles 0 1 / 2 3: c; 4 5: a; 6 7: the panel. Operand of ldtilecfg, palette 1. */
struct shapes { uint8_t palette, start, zero[14]; uint16_t bytes[16]; uint8_t rows[16]; };
_Static_assert(sizeof(struct shapes) == 64, "ldtilecfg");

/* Tiles for `rows` of 32 and `n` of 32 columns; a tile that has none keeps one row or column, which is not used. */
static void shape_tiles(int64_t rows, int64_t n)
{
    struct shapes s = { .palette = 1 };
    const uint8_t upper = (uint8_t)(rows > TILE_ROWS ? TILE_ROWS : rows), lower = (uint8_t)(rows > TILE_ROWS ? rows - TILE_ROWS : 1);
    const uint16_t left = (uint16_t)(4 * (n > HALF ? HALF : n)), right = (uint16_t)(4 * (n > HALF ? n - HALF : 1));
    s.rows[0] = s.rows[1] = s.rows[4] = upper;
    s.rows[2] = s.rows[3] = s.rows[5] = lower;
    s.rows[6] = s.rows[7] = TILE_ROWS;
    s.bytes[0] = s.bytes[2] = s.bytes[6] = left;
    s.bytes[1] = s.bytes[3] = s.bytes[7] = right;
    s.bytes[4] = s.bytes[5] = TILE_BYTES;
    __asm__ volatile("" : : "r"(&s) : "memory"); /* the compiler's own header tells it of eight bytes that are read here, not of 64 */
    _tile_loadconfig(&s);
}

/* c (rows, n) of up to two tiles by two; `in` planes of a, and of the panel after its first `single` terms, that have one */
INLINE void tiles(int in, bool tall, bool broad, int64_t single, int64_t k, const uint16_t *a, int64_t lda, const uint16_t *panel, float *c, int64_t ldc, bool add)
{
    const int64_t to_next = ldc * 4;
    float *low = c + TILE_ROWS * ldc;
#define FIRST(tile, here, at) if (here) { if (add) _tile_loadd(tile, at, to_next); else _tile_zero(tile); }
#define LOAD_A(plane) do { \
        _tile_loadd(4, a + (plane) * CPU_STEP, lda * 2); \
        if (tall) _tile_loadd(5, a + TILE_ROWS * lda + (plane) * CPU_STEP, lda * 2); } while (0)
#define LOAD_B(plane) do { \
        _tile_loadd(6, panel + (plane) * PLANE, 4 * WIDE); \
        if (broad) _tile_loadd(7, panel + (plane) * PLANE + WIDE, 4 * WIDE); } while (0)
#define MULTIPLY() do { \
        _tile_dpbf16ps(0, 4, 6); \
        if (broad) _tile_dpbf16ps(1, 4, 7); \
        if (tall) _tile_dpbf16ps(2, 5, 6); \
        if (tall && broad) _tile_dpbf16ps(3, 5, 7); } while (0)
    FIRST(0, true, c)
    FIRST(1, broad, c + HALF)
    FIRST(2, tall, low)
    FIRST(3, tall && broad, low + HALF)
    for (int64_t s = 0; s < single; s += CPU_STEP, a += in * CPU_STEP, panel += PLANE) {
        LOAD_B(0);
        for (int p = in - 1; p >= 0; p--) {
            LOAD_A(p);
            MULTIPLY();
        }
    }
    for (int64_t s = single; s < k; s += CPU_STEP, a += PLANES * CPU_STEP, panel += PLANES * PLANE) { /* a tile is loaded again rather than kept: there are eight */
        LOAD_A(0);
        LOAD_B(2);
        MULTIPLY();
        LOAD_B(1);
        MULTIPLY();
        LOAD_A(1);
        MULTIPLY();
        LOAD_B(0);
        MULTIPLY();
        LOAD_A(2);
        MULTIPLY();
        LOAD_A(0);
        MULTIPLY();
    }
    _tile_stored(0, c, to_next);
    if (broad) _tile_stored(1, c + HALF, to_next);
    if (tall) _tile_stored(2, low, to_next);
    if (tall && broad) _tile_stored(3, low + HALF, to_next);
#undef MULTIPLY
#undef LOAD_B
#undef LOAD_A
#undef FIRST
}

/* 96 rows of a stay in the second cache for all panels. */
INLINE void product_of(int in, int64_t m, int64_t n, int64_t single, int64_t k, const uint16_t *a, int64_t lda, const uint16_t *panels, int64_t ldp, float *c, int64_t ldc, bool add)
{
    enum { AT_ONCE = 6 * TILE_ROWS, TALL = 2 * TILE_ROWS };
    int64_t rows = 0, columns = 0;
    for (int64_t i = 0; i < m; i += AT_ONCE)
        for (int64_t j = 0; j < n; j += WIDE) {
            const uint16_t *panel = panels + j / WIDE * ldp;
            const int64_t end = m < i + AT_ONCE ? m : i + AT_ONCE, wide = n - j < WIDE ? n - j : WIDE;
            for (int64_t t = i; t < end; t += TALL) {
                const int64_t here = end - t < TALL ? end - t : TALL;
                if (here != rows || wide != columns) shape_tiles(rows = here, columns = wide);
                if (here > TILE_ROWS && wide > HALF) tiles(in, true, true, single, k, a + t * lda, lda, panel, c + t * ldc + j, ldc, add);
                else tiles(in, here > TILE_ROWS, wide > HALF, single, k, a + t * lda, lda, panel, c + t * ldc + j, ldc, add);
            }
        }
    _tile_release();
}

static void product_rounded(int64_t m, int64_t n, int64_t single, int64_t k, const uint16_t *a, int64_t lda, const uint16_t *panels, int64_t ldp, float *c, int64_t ldc, bool add)
{
    (void)single;
    product_of(1, m, n, k, k, a, lda, panels, ldp, c, ldc, add);
}

static void product_split(int64_t m, int64_t n, int64_t single, int64_t k, const uint16_t *a, int64_t lda, const uint16_t *panels, int64_t ldp, float *c, int64_t ldc, bool add)
{
    product_of(PLANES, m, n, single < k ? single : k, k, a, lda, panels, ldp, c, ldc, add);
}

static const struct cpu_products16 rounded = { .planes = 1, .terms = CPU_TERMS, .round = round16, .turn = turn_rounded, .pack_rows = pack_rows, .pack_columns = pack_columns, .pack_rows16 = pack_rows16,
                                               .pack_columns16 = pack_columns16, .pack_rounded = pack_columns16, .product = product_rounded };
static const struct cpu_products16 whole = { .planes = PLANES, .terms = 384, .round = split, .turn = turn_split, .pack_rows = split_rows, .pack_columns = split_columns, .pack_rows16 = pack_rows16,
                                             .pack_columns16 = pack_columns16, .pack_rounded = pack_split, .product = product_split };
const struct cpu_isa cpu_isa_amx_bf16 = ISA_TABLE("amx_bf16", &rounded), cpu_isa_amx = ISA_TABLE("amx", &whole);
#endif
