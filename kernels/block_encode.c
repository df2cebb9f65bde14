/* Quantising blocks of GGUF types. q8_0 and q4_0 follow the one rule that all programs share (bit for bit); q4_K and q6_K are a search for
 * the least sum of squared errors:
 *     1  each group alone: scale (and minimum) in f32, from a handful of starting scales, each improved by least squares on its codes
 *     2  the block's f16 scales from the largest of these; then rounds of
 *          every group takes, among the neighbours of its integer scale (and minimum), those with the least error, and new codes
 *          the block's f32 scales are fitted to these by least squares, rounded to f16, and kept if the error fell
 * Every error is that of the decoded value. Cost: about 400 operations an element for q4_K, 600 for q6_K, over vectors of four. */
#include "kernels/blocks.h"

#include <math.h>
#include <string.h>

typedef float v4 __attribute__((vector_size(16)));
typedef int32_t i4 __attribute__((vector_size(16)));
#define INLINE static inline __attribute__((always_inline))

INLINE v4 load(const float *p) { v4 v; memcpy(&v, p, sizeof v); return v; }
INLINE void store(float *p, v4 v) { memcpy(p, &v, sizeof v); }
INLINE float sum(v4 v) { return (v[0] + v[2]) + (v[1] + v[3]); }
/* the nearest integer to x within [low, high], halves to even */
INLINE v4 clamp_round(v4 x, float low, float high)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23 */
    const v4 zero = { 0 }, lo = low + zero, hi = high + zero;
    i4 under = x < lo, over = x > hi;
    x = (v4)((under & (i4)lo) | (~under & (i4)x));
    x = (v4)((over & (i4)hi) | (~over & (i4)x));
    return (x + magic) - magic;
}

static void put_half(uint8_t *p, float x)
{
    const uint16_t h = pw_f32_to_f16(x);
    memcpy(p, &h, 2);
}
static float as_half(float x) { return pw_f16_to_f32(pw_f32_to_f16(x)); }
/* 1 / d, and 0 where that is no number: such a block is zero as f16, too */
static float inverse(float d) { return d != 0 && isfinite(1 / d) ? 1 / d : 0; }
static int nearest(float x, int low, int high)
{
    x = x < (float)low ? (float)low : x > (float)high ? (float)high : x;
    return (int)nearbyintf(x);
}

/* ---- q8_0, q4_0 ---- */

void pw_encode_q8_0(const float *x, uint8_t *block)
{
    float top = 0;
    for (int i = 0; i < 32; i++) top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
    const float d = top / 127, id = inverse(d);
    put_half(block, d);
    for (int i = 0; i < 32; i++) {
        float q = roundf(x[i] * id);
        block[2 + i] = (uint8_t)(int8_t)q;
    }
}

void pw_encode_q4_0(const float *x, uint8_t *block)
{
    float top = 0;
    for (int i = 0; i < 32; i++) top = fabsf(x[i]) > fabsf(top) ? x[i] : top;
    const float d = top / -8, id = inverse(d);
    put_half(block, d);
    for (int i = 0; i < 16; i++) {
        int low = (int)(x[i] * id + 8.5f), high = (int)(x[i + 16] * id + 8.5f);
        block[2 + i] = (uint8_t)((low > 15 ? 15 : low) | (high > 15 ? 15 : high) << 4);
    }
}

/* ---- q4_K ---- */

struct line { float scale, minimum, error; };

/* codes of 32 values for value = scale * code - minimum; the error of that line */
INLINE float codes32(const float *x, float scale, float minimum, float *code)
{
    const float id = inverse(scale);
    v4 e = { 0 };
    for (int i = 0; i < 32; i += 4) {
        const v4 at = load(x + i), q = clamp_round((at + minimum) * id, 0, 15), off = q * scale - minimum - at;
        store(code + i, q);
        e += off * off;
    }
    return sum(e);
}

/* least squares: scale and minimum >= 0 for fixed codes */
INLINE bool fit32(const float *x, const float *code, float *scale, float *minimum)
{
    v4 q1 = { 0 }, q2 = { 0 }, x1 = { 0 }, xq = { 0 };
    for (int i = 0; i < 32; i += 4) {
        const v4 q = load(code + i), at = load(x + i);
        q1 += q;
        q2 += q * q;
        x1 += at;
        xq += at * q;
    }
    const float sq = sum(q1), sqq = sum(q2), sx = sum(x1), sxq = sum(xq), det = 32 * sqq - sq * sq;
    if (!(det > 0)) return false;
    float s = (32 * sxq - sx * sq) / det, m = (s * sq - sx) / 32;
    if (m < 0) {
        m = 0;
        s = sxq / sqq;
    }
    if (!(s > 0)) return false;
    *scale = s;
    *minimum = m;
    return true;
}

static struct line best_line(const float *x)
{
    float low = 0, high = x[0], code[32];
    for (int i = 0; i < 32; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    struct line best = { 0, -low, 0 };
    best.error = codes32(x, 0, -low, code);
    if (!(high > low)) return best;
    for (int step = 0; step < 14; step++) {
        float scale = (high - low) / (12.0f + 0.375f * (float)step), minimum = -low;
        for (int round = 0; round < 3; round++) {
            const float error = codes32(x, scale, minimum, code);
            if (error < best.error) best = (struct line){ scale, minimum, error };
            if (!fit32(x, code, &scale, &minimum)) break;
        }
    }
    return best;
}

struct q4k { float d, e, error; int s[8], m[8]; float code[256]; };

/* integer scales, minima and codes for the block's d and e: around the lines, or around what is there */
static void choose4(struct q4k *k, const float *x, const struct line *line)
{
    const float id = inverse(k->d), ie = inverse(k->e);
    k->error = 0;
    for (int g = 0; g < 8; g++) {
        const int s0 = nearest(line[g].scale * id, 0, 63), m0 = nearest(line[g].minimum * ie, 0, 63);
        float best = INFINITY;
        for (int s = s0 ? s0 - 1 : 0; s <= s0 + 1 && s <= 63; s++)
            for (int m = m0 ? m0 - 1 : 0; m <= m0 + 1 && m <= 63; m++) {
                float code[32], error = codes32(x + 32 * g, k->d * (float)s, k->e * (float)m, code);
                if (!(error < best)) continue;
                best = error;
                k->s[g] = s;
                k->m[g] = m;
                memcpy(k->code + 32 * g, code, sizeof code);
            }
        k->error += best;
    }
}

/* d and e by least squares for fixed integers: x = d * (s q) - e * m */
static void refit4(const struct q4k *k, const float *x, float *d, float *e)
{
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (int g = 0; g < 8; g++) {
        const double m = -(double)k->m[g];
        double q1 = 0, q2 = 0, x1 = 0, xq = 0;
        for (int i = 32 * g; i < 32 * g + 32; i++) {
            const double a = (double)k->code[i] * k->s[g];
            q1 += a;
            q2 += a * a;
            x1 += x[i];
            xq += a * (double)x[i];
        }
        aa += q2;
        ab += q1 * m;
        bb += 32 * m * m;
        ax += xq;
        bx += x1 * m;
    }
    const double det = aa * bb - ab * ab;
    *d = k->d;
    *e = k->e;
    if (det > 1e-9 * aa * bb) {
        *d = as_half((float)((ax * bb - bx * ab) / det));
        *e = as_half((float)((bx * aa - ax * ab) / det));
    } else if (aa > 0 && bb == 0) {
        *d = as_half((float)(ax / aa));
    }
    if (!(*d > 0)) *d = k->d;
    if (!(*e >= 0)) *e = k->e;
}

void pw_encode_q4_K(const float *x, uint8_t *block)
{
    struct line line[8];
    struct q4k best, next;
    float scale = 0, minimum = 0;
    for (int g = 0; g < 8; g++) {
        line[g] = best_line(x + 32 * g);
        scale = line[g].scale > scale ? line[g].scale : scale;
        minimum = line[g].minimum > minimum ? line[g].minimum : minimum;
    }
    best.d = as_half(scale / 63);
    best.e = as_half(minimum / 63);
    choose4(&best, x, line);
    for (int round = 0; round < 3; round++) {
        refit4(&best, x, &next.d, &next.e);
        if (next.d == best.d && next.e == best.e) break;
        choose4(&next, x, line);
        if (!(next.error < best.error)) break;
        best = next;
    }
    put_half(block, best.d);
    put_half(block + 2, best.e);
    uint8_t *s = block + 4, *q = block + 16;
    for (int g = 0; g < 4; g++) {
        s[g] = (uint8_t)(best.s[g] | (best.s[g + 4] >> 4) << 6);
        s[g + 4] = (uint8_t)(best.m[g] | (best.m[g + 4] >> 4) << 6);
        s[g + 8] = (uint8_t)((best.s[g + 4] & 15) | (best.m[g + 4] & 15) << 4);
        for (int i = 0; i < 32; i++) q[32 * g + i] = (uint8_t)((int)best.code[64 * g + i] | (int)best.code[64 * g + 32 + i] << 4);
    }
}

/* ---- q6_K ---- */

INLINE float codes16(const float *x, float scale, float *code)
{
    const float id = inverse(scale);
    v4 e = { 0 };
    for (int i = 0; i < 16; i += 4) {
        const v4 at = load(x + i), q = clamp_round(at * id, -32, 31), off = q * scale - at;
        store(code + i, q);
        e += off * off;
    }
    return sum(e);
}

static float best_scale(const float *x)
{
    float top = 0, code[16], best = 0, least = codes16(x, 0, code);
    for (int i = 0; i < 16; i++) top = fabsf(x[i]) > fabsf(top) ? x[i] : top;
    if (top == 0) return 0;
    for (int step = 0; step <= 40; step++) {
        /* the largest value gets code -32 (first: it wins where others are as good), then about that, then about 31 from the other side */
        float scale = step <= 20 ? top / (-32.0f + 0.1f * (float)(step % 2 ? (step + 1) / 2 : -step / 2)) : top / (30.5f + 0.1f * (float)(step - 21));
        for (int round = 0; round < 2; round++) {
            const float error = codes16(x, scale, code);
            if (error < least) {
                least = error;
                best = scale;
            }
            v4 qq = { 0 }, xq = { 0 };
            for (int i = 0; i < 16; i += 4) {
                const v4 q = load(code + i);
                qq += q * q;
                xq += q * load(x + i);
            }
            if (!(sum(qq) > 0)) break;
            scale = sum(xq) / sum(qq);
        }
    }
    return best;
}

struct q6k { float d, error; int s[16]; float code[256]; };

static void choose6(struct q6k *k, const float *x, const float *scale)
{
    const float id = inverse(k->d);
    k->error = 0;
    for (int g = 0; g < 16; g++) {
        const int s0 = nearest(scale[g] * id, -128, 127);
        float best = INFINITY;
        for (int s = s0 - 2 < -128 ? -128 : s0 - 2; s <= s0 + 2 && s <= 127; s++) {
            float code[16], error = codes16(x + 16 * g, k->d * (float)s, code);
            if (!(error < best)) continue;
            best = error;
            k->s[g] = s;
            memcpy(k->code + 16 * g, code, sizeof code);
        }
        k->error += best;
    }
}

void pw_encode_q6_K(const float *x, uint8_t *block)
{
    struct q6k best, next;
    float scale[16], top = 0;
    for (int g = 0; g < 16; g++) {
        scale[g] = best_scale(x + 16 * g);
        top = fabsf(scale[g]) > fabsf(top) ? scale[g] : top;
    }
    best.d = as_half(top / -128);
    choose6(&best, x, scale);
    for (int round = 0; round < 3; round++) {
        double aa = 0, ax = 0;
        for (int i = 0; i < 256; i++) {
            const double a = (double)best.code[i] * best.s[i / 16];
            aa += a * a;
            ax += a * (double)x[i];
        }
        next.d = aa > 0 ? as_half((float)(ax / aa)) : best.d;
        if (next.d == best.d || next.d == 0) break;
        choose6(&next, x, scale);
        if (!(next.error < best.error)) break;
        best = next;
    }
    memset(block, 0, 192);
    for (int i = 0; i < 256; i++) {
        const int group = i / 32, half = group / 4, part = group % 4, c = (int)best.code[i] + 32;
        block[64 * half + 32 * (part & 1) + i % 32] |= (uint8_t)((c & 15) << 4 * (part >> 1));
        block[128 + 32 * half + i % 32] |= (uint8_t)((c >> 4) << 2 * part);
    }
    for (int g = 0; g < 16; g++) block[192 + g] = (uint8_t)(int8_t)best.s[g];
    put_half(block + 208, best.d);
}
