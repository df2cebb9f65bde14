/* Statistics of benchmark scores: means with standard errors, Wilson intervals, paired comparison. Plain arithmetic on arrays;
 * knows nothing of tasks. Formulas: Wilson 1927; McNemar 1947 (exact binomial form); pooled standard error of a group of tasks as
 * lm-evaluation-harness defines it (sqrt of the variance of the pooled sample over its size). */
#ifndef PW_EVAL_STATS_H
#define PW_EVAL_STATS_H
#include <stddef.h>
#include <stdint.h>

struct pw_estimate { double value, stderr_, low, high; int64_t n; };
/* hits of n: share, sd(n - 1)/sqrt(n), Wilson 95 % interval. n = 0 gives value 0 and the interval [0, 1]; n = 1 stderr 0. */
struct pw_estimate pw_estimate_share(int64_t hits, int64_t n);
/* Group: micro-average over leaf estimates, pooled standard error, Wilson interval over all documents. */
struct pw_estimate pw_estimate_pool(const struct pw_estimate *parts, size_t n);
void pw_wilson(int64_t hits, int64_t n, double z, double *low, double *high);

struct pw_paired { int64_t n, base_only, other_only; double base, other, difference, stderr_, low, high, p_value; };
/* base, other: n flags '0' or '1' of the same documents in the same order. p_value: exact McNemar, two-sided; 1 when none differ. */
struct pw_paired pw_paired_flags(const char *base, const char *other, int64_t n);
double pw_mcnemar_exact(int64_t b, int64_t c);
#endif
