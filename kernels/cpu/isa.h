/* The part of the cpu backend that is compiled once for each instruction set: small single-threaded kernels on plain arrays.
 *
 * Every result element is a fixed chain of operations that depends on its own operands only, never on how many rows or columns the call
 * has or where in a tile it lies: that is what makes results independent of batch size and thread count, bit for bit, on one level. */
#ifndef PW_KERNELS_CPU_ISA_H
#define PW_KERNELS_CPU_ISA_H

#include <stdbool.h>
#include <stdint.h>
#include "kernels/op.h"
#include "kernels/weight.h"

enum {
    CPU_KC = 1024,  /* dot products are cut into pieces of this many terms: lanes are summed at the end of each piece */
    CPU_RC = 256,  /* outer products likewise */
    CPU_PANEL = 32, /* columns of a panel of products16 */
    CPU_STEP = 32,  /* its terms are padded to a multiple of this */
    CPU_TERMS = 1024 + 64, /* a row of 1024 and an adapter's */
};

static inline int64_t cpu_steps(int64_t n) { return (n + CPU_STEP - 1) / CPU_STEP * CPU_STEP; } /* terms, padded */

/* Products on bf16 multipliers with sums in f32. A number stands there as `planes` bf16 numbers: one, to which it is rounded, or three whose sum it
 * is (each the nearest to what the ones before leave; a number of bf16 has zeros in the last two, which need not be there).
 *
 *     rows:   [step of 32 terms][plane][32]                    zeros after the last term, up to a multiple of CPU_STEP
 *     panel:  [step of 32 terms][plane][pair][column][2]       k terms of up to CPU_PANEL columns; zeros where there is no column, and likewise
 *
 * Offsets into either are `planes` times those into the numbers themselves, for multiples of CPU_STEP. */
struct cpu_products16 {
    int planes;             /* of rows, and of panels but those packed from bf16 */
    int terms;              /* of a panel that pay: whole steps, at most CPU_TERMS */
    void (*round)(int64_t n, int64_t room, const float *x, uint16_t *out); /* n numbers, then zeros up to room */
    void (*pack_rows)(int64_t n, int64_t k, const float *w, int64_t ldw, uint16_t *panel);    /* column j of the panel is row j of w: n rows, k terms */
    void (*pack_columns)(int64_t n, int64_t k, const float *w, int64_t ldw, uint16_t *panel); /* column j of the panel is column j of w: k rows */
    /* row j of out is column j of w, as round would make it: n rows, k terms, zeros up to whole steps of them */
    void (*turn)(int64_t n, int64_t k, const float *w, int64_t ldw, uint16_t *out, int64_t ldo);
    /* pack_.. of a w in bf16: panels of one plane */
    void (*pack_rows16)(int64_t n, int64_t k, const uint16_t *w, int64_t ldw, uint16_t *panel);
    void (*pack_columns16)(int64_t n, int64_t k, const uint16_t *w, int64_t ldw, uint16_t *panel);
    /* and of rows that `round` made; ldw counts all their planes, n columns begin at a multiple of CPU_STEP */
    void (*pack_rounded)(int64_t n, int64_t k, const uint16_t *rows, int64_t ldw, uint16_t *panel);
    /* c[m][0..n) = (add ? c : 0) + sum over k of a[m][k] * panel[k][0..n): one chain. lda counts the planes of a; a panel follows another after ldp
     * numbers. The first `single` terms of the panels, 0, all, or whole steps, have one plane, those after them all planes: it makes a difference where
     * there are several. */
    void (*product)(int64_t m, int64_t n, int64_t single, int64_t k, const uint16_t *a, int64_t lda, const uint16_t *panels, int64_t ldp, float *c, int64_t ldc, bool add);
};

struct cpu_isa {
    const char *name;
    /* y[m][n] = (add ? y : 0) + sum over k of x[m][k] * w[n][k] */
    void (*dot)(int64_t m, int64_t n, int64_t k, const float *x, int64_t ldx, const float *w, int64_t ldw, float *y, int64_t ldy, bool add);
    /* c[m][0..n) += sum over r of a[m * am + r * ar] * b[r][0..n) */
    void (*outer)(int64_t m, int64_t n, int64_t r, const float *a, int64_t am, int64_t ar, const float *b, int64_t ldb, float *c, int64_t ldc);
    /* y[0..n) = sum over k of x[k] * (row first_row + n of w, NF4 or FP4 with rows that begin on a block)[k]; the bits of decode, then dot */
    void (*dot4)(const struct pw_weight *w, int64_t first_row, int64_t n, const float *x, float *y);
    /* out[0..n) = elements column.. of one row, in f32 */
    void (*decode)(const struct pw_weight *w, int64_t row, int64_t column, int64_t n, float *out);
    /* n numbers as NF4 or FP4 in blocks, the first of which begins here */
    void (*encode4)(enum pw_qtype type, int64_t n, int block, const float *x, uint8_t *code, float *absmax);
    float (*max)(int64_t n, const float *x);                /* NaN if any is */
    /* x = a x within [from, to), -infinity outside; the largest, NaN if any within. n: a multiple of 16 */
    float (*mask_max)(int64_t from, int64_t to, int64_t n, float *x, float a);
    double (*exp_sub)(int64_t n, float *x, float top);      /* x = exp(x - top); returns the sum */
    /* Scores become weights, s = exp(a s - lse), and products of values and output gradients what the scores' gradients are: ds = s (ds - mean) scale */
    void (*softmax_back)(int64_t n, float *s, float *ds, const float *lse, const float *mean, float a, float scale);
    void (*scale)(int64_t n, float *x, float a);
    void (*axpy)(int64_t n, float *y, const float *x, float a);
    double (*sumsq)(int64_t n, const float *x);
    void (*norm_fwd)(int64_t n, float *out, float *inv_rms, const float *x, const float *w, double eps, float w_offset);
    void (*norm_bwd)(int64_t n, float *dx, const float *dout, const float *x, const float *w, float inv_rms, float w_offset);
    void (*glu_fwd)(int64_t n, float *out, const float *gate, const float *up, enum pw_act act);
    void (*glu_bwd)(int64_t n, float *dgate, float *dup, const float *dout, const float *gate, const float *up, enum pw_act act);
    void (*adamw)(int64_t n, float *p, float *m, float *v, const float *g, const struct pw_adamw *h);
    void (*keep)(struct pw_drop drop, int64_t first, int64_t n, const float *x, float *out); /* out = dropout(x), elements first.. */
    const struct cpu_products16 *products16;                /* NULL: products of linear layers are of f32 numbers */
};
extern const struct cpu_isa cpu_isa_generic;
#if defined(__x86_64__)
extern const struct cpu_isa cpu_isa_avx2, cpu_isa_avx512, cpu_isa_avx512_bf16, cpu_isa_amx, cpu_isa_amx_bf16;
#endif
#endif
