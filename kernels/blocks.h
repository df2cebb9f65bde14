/* The block-quantised types of GGUF files: one table of facts, and the byte layouts that every backend decodes.
 *
 * A row of a weight is n_in / elements whole blocks, rows follow each other without padding, nothing is aligned. Inside a block there is
 * everything that decoding needs. Elements of a block are numbered in the order of the row; a block is cut into GROUPS of 32 consecutive
 * elements, the unit in which all types can be decoded. Numbers of several bytes are little-endian; f16 is IEEE half; lo(b) = b & 15,
 * hi(b) = b >> 4. All arithmetic is f32 with one rounding for each operation written here (no fused multiply-add), so that results are
 * those of the gguf package bit for bit. Below, i = 0..31 is the element within its group, g the group within its block.
 *
 *   q8_0    0 d f16 | 2 q i8[32]                                   x = d * q[i]
 *   q4_0    0 d f16 | 2 q u8[16]                                   c = i < 16 ? lo(q[i]) : hi(q[i - 16]);   x = d * (c - 8)
 *   q4_1    0 d f16 | 2 m f16 | 4 q u8[16]                         c as in q4_0;                            x = d * c + m
 *   q5_0    0 d f16 | 2 h u32 | 6 q u8[16]                         c as in q4_0, plus 16 * (h >> i & 1);    x = d * (c - 16)
 *   q5_1    0 d f16 | 2 m f16 | 4 h u32 | 8 q u8[16]               c as in q5_0;                            x = d * c + m
 *   iq4_nl  0 d f16 | 2 q u8[16]                                   c as in q4_0;                            x = d * pw_iq4_table[c]
 *
 *   q4_K    0 d f16 | 2 e f16 | 4 s u8[12] | 16 q u8[128]          256 elements, 8 groups
 *           scale and minimum of group g, six bits each:
 *             g < 4:  S = s[g] & 63                          M = s[g + 4] & 63
 *             g >= 4: S = lo(s[g + 4]) | (s[g - 4] >> 6) << 4  M = hi(s[g + 4]) | (s[g] >> 6) << 4
 *           b = q[32 * (g / 2) + i];  c = g even ? lo(b) : hi(b);    x = (d * S) * c - (e * M)
 *   q5_K    0 d f16 | 2 e f16 | 4 s u8[12] | 16 h u8[32] | 48 q u8[128]
 *           S, M, c as in q4_K, c plus 16 * (h[i] >> g & 1);         x = (d * S) * c - (e * M)
 *   q6_K    0 l u8[128] | 128 h u8[64] | 192 s i8[16] | 208 d f16    256 elements, 8 groups
 *           n = g / 4, r = g % 4;  b = l[64 * n + 32 * (r & 1) + i];  c = r < 2 ? lo(b) : hi(b), plus 16 * (h[32 * n + i] >> 2 * r & 3)
 *           x = (d * s[2 * g + i / 16]) * (c - 32) */
#ifndef PW_KERNELS_BLOCKS_H
#define PW_KERNELS_BLOCKS_H

#include "kernels/weight.h"

#ifdef __cplusplus
extern "C" {
#endif
enum { PW_BLOCK_GROUP = 32, PW_BLOCK_MOST = 256 }; /* elements of a group, of the largest block */

struct pw_block_type {
    const char *name, *stored;  /* "q4_K", "Q4_K" */
    enum pw_qtype type;
    int ggml;                   /* number in GGUF files */
    int elements, bytes;        /* of one block */
    void (*decode)(const uint8_t *block, int group, float out[PW_BLOCK_GROUP]); /* the definition, in plain C */
    void (*encode)(const float *x, uint8_t *block);                             /* elements -> bytes; NULL: such weights are only read */
};
const struct pw_block_type *pw_block_type(enum pw_qtype t);     /* NULL: not a block type of GGUF */
const struct pw_block_type *pw_block_type_ggml(uint32_t number); /* NULL: unknown, or dense */
const struct pw_block_type *pw_block_type_stored(const char *stored); /* "Q4_K"; NULL: no such */
/* Bytes of n elements (a multiple of the block) */
static inline size_t pw_block_bytes(const struct pw_block_type *b, int64_t n) { return (size_t)(n / b->elements) * (size_t)b->bytes; }

extern const int8_t pw_iq4_table[16];

/* One block each. A block of zeros, or of values too small for an f16 scale, becomes zeros. q8_0 and q4_0 are the gguf package's choice bit
 * for bit; q4_K and q6_K look for the least squared error (kernels/block_encode.c). */
void pw_encode_q8_0(const float *x, uint8_t *block);
void pw_encode_q4_0(const float *x, uint8_t *block);
void pw_encode_q4_K(const float *x, uint8_t *block);
void pw_encode_q6_K(const float *x, uint8_t *block);
#ifdef __cplusplus
}
#endif
#endif
