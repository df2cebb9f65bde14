/* The cpu kernels for AVX2 with FMA: vectors of eight. Tile of dot 4 x 3 (12 sums, 3 + 1 operands: all 16 registers), of outer 6 x 16. */
#if defined(__x86_64__)
#include "kernels/cpu/isa.h"

#include <immintrin.h>

#define LANES 8
#define MR 4
#define NR 3
#define MO 6
#define ISA cpu_isa_avx2
#define ISA_NAME "avx2"

#define vfma(a, b, c) ((vf)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
static inline float vsum(__m256 a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
static inline __m256 vround(__m256 a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* eight codes of four bytes, high nibble first; the bits above the lowest four are left in, lookup16 does not see them */
static inline __m256i unpack4(const uint8_t *b)
{
    int32_t word;
    __builtin_memcpy(&word, b, 4);
    __m256i all = _mm256_set1_epi32(word);
    return _mm256_srlv_epi32(all, _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24));
}
static inline __m256 lookup16(const float *table, __m256i code)
{
    __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), code), high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), code);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(code, 28)));
}
static inline float half_to_float(uint16_t x) { return _cvtsh_ss(x); }

#define vmul32(a, b) ((vq)_mm256_mul_epu32((__m256i)(a), (__m256i)(b)))

#include "kernels/cpu/isa_body.h"
#endif
