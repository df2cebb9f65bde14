/* The table of op cases, and the two ways to run it: a device against ref in double, and ref's gradients against finite differences.
 * Knows no backend by name: a device is what pw_dev_open gives. */
#ifndef PW_TESTS_OP_CASES_H
#define PW_TESTS_OP_CASES_H

#include "kernels/op.h"

enum { ARRAYS = 16 };
enum role { IN, OUT, ADD, UPDATE }; /* OUT starts as NaN; ADD starts random and is added to; UPDATE starts random and is rewritten */

struct array {
    const char *name;
    enum role role;
    enum pw_dtype type;      /* PW_F64: f32 on devices under test, f64 on ref; others: that type everywhere */
    bool act;                /* with PW_F64: the device's type of activations instead of f32 */
    bool f64;                /* with PW_F64: f64 everywhere */
    int ndim;
    int64_t shape[3];
    double low, high;
    int gradient;            /* index of the ADD array with the gradient of this one, or -1 */
    double *start;           /* initial values */
};

struct op_case;
struct problem {
    const struct op_case *c;
    struct array a[ARRAYS];
    int n, upstream, output; /* arrays of the random upstream gradient and of the output it belongs to; -1 without backward */
    struct pw_tensor ids;    /* i32 of this case */
    struct pw_weight w;
    struct pw_lora lora;
    struct pw_seqs seqs;
    struct pw_attn attn;
    struct pw_drop drop;
    void *memory[8];         /* freed at the end */
    int n_memory;
};

struct family {
    const char *name;
    void (*setup)(struct problem *p);
    int (*forward)(struct problem *p, struct pw_dev *dev, struct pw_tensor *t);
    int (*backward)(struct problem *p, struct pw_dev *dev, struct pw_tensor *t);
    double (*bound)(const struct op_case *c); /* absolute error of every output element, inputs within [-1, 1] */
    /* What roundings to bf16 on the way add on devices with bf16 activations; largest[i]: of |array i| on ref. NULL: none. */
    double (*bound16)(const struct op_case *c, const double *largest);
    /* In place of both bounds on devices with bf16 activations: adds to allow[i][j] what element j of array i may be off by, its own last rounding
     * aside. ref: the arrays after the run on ref, f64. For families whose elements differ too much for one bound. */
    void (*allow16)(const struct problem *p, const struct pw_tensor *ref, double *const *allow);
    /* Where such devices may round a weight to bf16: rounds weight `which` (0, 1, ..) of the problem, false when there are no more. What that changes in
     * ref's own results is allowed as well, element by element: much less than the worst case of a sum, since roundings go both ways. */
    bool (*round16)(struct problem *p, int which);
};

enum { CASE_GRAD = 1, CASE_LORA = 2, CASE_BIAS = 4, CASE_NO_DX = 8, CASE_PREFIX = 16, CASE_CACHE = 32, CASE_NESTED = 64, CASE_WIDE = 128, CASE_DORA = 256 };
struct op_case {
    const struct family *f;
    int64_t p[6];            /* sizes; each family says which */
    enum pw_qtype q;
    enum pw_dtype type;
    unsigned flags;
    double x[3];             /* scalars */
};

extern const struct op_case op_cases_elements[], op_cases_attention[], op_cases_linear[], op_cases_experts[], op_cases_dora[];
extern const int op_cases_elements_n, op_cases_attention_n, op_cases_linear_n, op_cases_experts_n, op_cases_dora_n;
int op_cases_count(void);
const struct op_case *op_cases_at(int i);

/* "linear/nf4/f32/5,64,48,8/2/0": what PW_OP_CASE is matched against (a part is enough) */
void op_case_name(const struct op_case *c, char *out, size_t room);

/* 0, or -1 with the reason in `why`. */
int op_case_compare(const struct op_case *c, struct pw_dev *ref, struct pw_dev *dev, char *why, size_t room);
int op_case_gradient(const struct op_case *c, struct pw_dev *ref, char *why, size_t room);

/* act: the type of activations of the device that is to be compared; the numbers that both sides start from have that type. */
void problem_setup(struct problem *p, const struct op_case *c, enum pw_dtype act);
void problem_free(struct problem *p);
#endif
