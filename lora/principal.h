/* The principal part of a matrix: the product of rank r that is nearest to it (Eckart and Young), as a pair of an adapter. */
#ifndef PW_LORA_PRINCIPAL_H
#define PW_LORA_PRINCIPAL_H
#include <stddef.h>
#include <stdint.h>

/* scale * b a = U_r S_r V_r^T of w (n_out, n_in), with a (r, n_in) = sqrt(S / scale) V^T, b (n_out, r) = U sqrt(S / scale), rows of b ldb apart; scale > 0.
 * Signs: the largest element of each row of a is positive. Through the Gram matrix of the smaller side in double, so singular values are right to about
 * 1e-16 S_1^2 / S_i; of a matrix of lower rank the rest of the pair is zero. r above the smaller side is an error. */
int pw_principal_pair(const float *w, int64_t n_out, int64_t n_in, int r, double scale, float *a, float *b, int64_t ldb);
size_t pw_principal_bytes(int64_t n_out, int64_t n_in, int r); /* that it takes while it works */
#endif
