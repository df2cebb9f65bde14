/* The 8-bit dynamic maps, and double quantisation: the scales of 4-bit blocks as 8-bit codes (see dynamic_map.c). */
#ifndef PW_QUANT_DYNAMIC_MAP_H
#define PW_QUANT_DYNAMIC_MAP_H
#include <stdint.h>

extern const float pw_dynamic_map[256];           /* signed, ascending */
extern const float pw_dynamic_map_unsigned[256];
/* offset = mean of absmax (summed in double, rounded once); then blocks of `block` scales, each with its own largest deviation.
 * q (n), nested_absmax (ceil(n / block)). */
void pw_nested_encode(const float *absmax, int64_t n, int block, uint8_t *q, float *nested_absmax, float *offset);
#endif
