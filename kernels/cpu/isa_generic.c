/* The cpu kernels in plain C with vectors of four: runs on every processor. No fused multiply-add. */
#include "kernels/cpu/isa.h"

#include <math.h>
#include <string.h>

#define LANES 4
#define MR 4
#define NR 2
#define MO 4
#define ISA cpu_isa_generic
#define ISA_NAME "generic"

typedef float v4 __attribute__((vector_size(16)));
typedef int32_t i4 __attribute__((vector_size(16)));
static inline v4 vfma(v4 a, v4 b, v4 c) { return a * b + c; }
static inline float vsum(v4 a) { return (a[0] + a[2]) + (a[1] + a[3]); }
static inline v4 vround(v4 a)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it leaves no fraction bits; NaN stays NaN */
    return (a + magic) - magic;
}
static inline i4 unpack4(const uint8_t *b) { return (i4){ b[0] >> 4, b[0] & 15, b[1] >> 4, b[1] & 15 }; }
static inline v4 lookup16(const float *table, i4 c) { return (v4){ table[c[0]], table[c[1]], table[c[2]], table[c[3]] }; }
static inline float half_to_float(uint16_t x) { return pw_f16_to_f32(x); }

#define vmul32(a, b) ((a) * (b))

#include "kernels/cpu/isa_body.h"
