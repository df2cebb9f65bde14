/* The rule of the 8-bit key/value cache, for the backends in C (kernels/cuda/cache.cu has it for kernels): d values of one row and head become d codes
 * and one scale. value = code * scale, |code| <= 127, and the error of an element is at most scale / 2 = largest / 254 (and u of itself).
 * All in f32, every step rounded as IEEE has it, so that all backends make the same codes. A vector that holds NaN or infinity gets the scale NaN, so that
 * what reads it shows it; one whose values are below 127 times the smallest normal number becomes zeros. */
#ifndef PW_KERNELS_CACHE8_H
#define PW_KERNELS_CACHE8_H

#include <float.h>
#include <math.h>
#include <stdint.h>

static inline float pw_cache_scale(float largest) /* NaN if any value is */
{
    const float scale = largest / 127.0f;
    return !(largest <= FLT_MAX) ? NAN : scale < FLT_MIN ? 0.0f : scale;
}
static inline int8_t pw_cache_code(float x, float scale) { return scale > 0 ? (int8_t)rintf(x / scale) : 0; }
#endif
