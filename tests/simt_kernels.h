/* What tests/test_simt.c runs: small kernels by name (tests/simt_kernels.cu), each with one point, some with one mistake. */
#ifndef PW_TESTS_SIMT_KERNELS_H
#define PW_TESTS_SIMT_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
enum { SIMT_OUT = 1024 };       /* floats of an output, NaN before the launch */

/* Runs the kernel `name` with the threads its row says; in[i] = i + 1. 0, or the launch's error; -1: no such kernel. */
int simt_run(const char *name, const char *schedule, float out[SIMT_OUT]);
const char *simt_run_fault(void);
int simt_run_threads(const char *name);  /* threads of a block */
/* A kernel that writes element `at` of an array of n floats of device memory. */
int simt_run_past_end(int n, int at);
/* Reads device memory outside of a launch. */
float simt_peek(void);

/* kernels/cuda/num.h, as the host sees it */
float simt_bf16_to_f32(uint16_t x);
uint16_t simt_bf16_from_f32(float x);
uint32_t simt_bf16x2(float low, float high);
float simt_f16_to_f32(uint16_t x);
uint16_t simt_f16_from_f32(float x);

/* ldmatrix: rows (32 x 8 u16, row r at rows + 8 r) -> r[lane][4]; mma: the operands and the result in row-major order of a 16x16, 16x8, 16x8 */
int simt_ldmatrix(bool trans, const uint16_t *rows, uint32_t *r);
int simt_mma(float *d, const uint16_t *a, const uint16_t *b);
/* kernels/cuda/philox.h: bit e of eights[i]: element first + i + e is kept, e < 8; of pairs[i]: e < 2 */
int simt_dropout(double p, uint64_t seed, uint64_t offset, uint64_t first, uint32_t eights[32], uint32_t pairs[32]);
#ifdef __cplusplus
}
#endif
#endif
