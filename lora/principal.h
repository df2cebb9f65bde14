/* The principal part of a matrix: the product of rank r that is nearest to it (Eckart and Young), as a pair of an adapter. */
#ifndef PW_LORA_PRINCIPAL_H
#define PW_LORA_PRINCIPAL_H
#include <stddef.h>
#include <stdint.h>

#include "base/rng.h"

/* scale * b a = U_r S_r V_r^T of w (n_out, n_in), with a (r, n_in) = sqrt(S / scale) V^T, b (n_out, r) = U sqrt(S / scale), rows of b ldb apart; scale > 0.
 * Signs: the largest element of each row of a is positive. Through the Gram matrix of the smaller side in double, so singular values are right to about
 * 1e-16 S_1^2 / S_i; of a matrix of lower rank the rest of the pair is zero. r above the smaller side is an error. */
int pw_principal_pair(const float *w, int64_t n_out, int64_t n_in, int r, double scale, float *a, float *b, int64_t ldb);
size_t pw_principal_bytes(int64_t n_out, int64_t n_in, int r); /* that it takes while it works */
/* The same approximately, by subspace iteration from a random start (Halko et al. 2011, algorithm 5.1; PEFT's pissa_niter_N and torch.svd_lowrank): `rounds`
 * times through w and back in f32, with 8 directions more than r, of which the best r are kept. What it misses shrinks by (S_(r+9) / S_i)^2 each round, down
 * to the rounding of f32. Time goes with r n_out n_in. */
int pw_principal_fast(const float *w, int64_t n_out, int64_t n_in, int r, int rounds, struct pw_rng rng, double scale, float *a, float *b, int64_t ldb);
size_t pw_principal_fast_bytes(int64_t n_out, int64_t n_in, int r);
#endif
