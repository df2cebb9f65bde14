/* The cpu kernels for AVX-512 (F, BW, VL, DQ): vectors of sixteen, 32 registers. Tile of dot 6 x 4, of outer 12 x 32. */
#if defined(__x86_64__)
#include "kernels/cpu/isa.h"

#include <immintrin.h>

#define LANES 16
#define MR 6
#define NR 4
#define MO 12
#ifndef ISA_NONE /* isa_avx512_bf16.c makes its own tables */
#define ISA cpu_isa_avx512
#define ISA_NAME "avx512"
#endif

#define vfma(a, b, c) ((vf)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
static inline float vsum(__m512 a)
{
    __m256 e = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
/* vsum of four vectors, lane by lane in the same order */
#define vsum4(v) vsum4_of((__m512)(v)[0], (__m512)(v)[1], (__m512)(v)[2], (__m512)(v)[3])
static inline __m128 vsum4_of(__m512 a, __m512 b, __m512 c, __m512 d)
{
    __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee)); /* eight sums of a, eight of b */
    __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    __m512 s = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0xee));
    s = _mm512_add_ps(s, _mm512_movehdup_ps(s));
    return _mm512_castps512_ps128(_mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), s));
}
static inline __m512 vround(__m512 a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* sixteen codes of eight bytes, high nibble first */
static inline __m512i unpack4(const uint8_t *b)
{
    int64_t word;
    __builtin_memcpy(&word, b, 8);
    __m512i bytes = _mm512_cvtepu8_epi32(_mm_shuffle_epi8(_mm_cvtsi64_si128(word), _mm_setr_epi8(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7)));
    return _mm512_and_si512(_mm512_srlv_epi32(bytes, _mm512_setr_epi32(4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0)), _mm512_set1_epi32(15));
}
static inline __m512 lookup16(const float *table, __m512i code) { return _mm512_permutexvar_ps(code, _mm512_loadu_ps(table)); }
static inline float half_to_float(uint16_t x) { return _cvtsh_ss(x); }

#define vmul32(a, b) ((vq)_mm512_mul_epu32((__m512i)(a), (__m512i)(b)))

#include "kernels/cpu/isa_body.h"
#endif
