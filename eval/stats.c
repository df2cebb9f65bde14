/* Statistics of benchmark scores (see the header). */
#include "eval/stats.h"

#include <math.h>

static const double z95 = 1.959963984540054;

void pw_wilson(int64_t hits, int64_t n, double z, double *low, double *high)
{
    *low = 0, *high = 1;
    if (n <= 0)
        return;
    double N = (double)n, p = (double)hits / N, z2 = z * z;
    double centre = (p + z2 / (2 * N)) / (1 + z2 / N);
    double half = z * sqrt(p * (1 - p) / N + z2 / (4 * N * N)) / (1 + z2 / N);
    *low = hits == 0 ? 0 : centre - half;
    *high = hits == n ? 1 : centre + half;
}

/* The sample variance of n flags with this many ones, over n - 1. */
static double flag_variance(double share, int64_t n)
{
    return n > 1 ? share * (1 - share) * (double)n / (double)(n - 1) : 0;
}

struct pw_estimate pw_estimate_share(int64_t hits, int64_t n)
{
    struct pw_estimate e = {.n = n};
    e.value = n > 0 ? (double)hits / (double)n : 0;
    e.stderr_ = n > 0 ? sqrt(flag_variance(e.value, n) / (double)n) : 0;
    pw_wilson(hits, n, z95, &e.low, &e.high);
    return e;
}

struct pw_estimate pw_estimate_pool(const struct pw_estimate *parts, size_t n)
{
    struct pw_estimate e = {0};
    double sum = 0, squares = 0, total, parts_used = 0;
    for (size_t i = 0; i < n; i++) {
        double m = (double)parts[i].n;
        e.n += parts[i].n;
        sum += parts[i].value * m;
        squares += (m - 1) * parts[i].stderr_ * parts[i].stderr_ * m;
        parts_used++;
    }
    total = (double)e.n;
    if (e.n > 0)
        e.value = sum / total;
    if (total > parts_used)
        e.stderr_ = sqrt(squares / (total - parts_used) / total);
    pw_wilson((int64_t)llround(sum), e.n, z95, &e.low, &e.high);
    return e;
}

double pw_mcnemar_exact(int64_t b, int64_t c)
{
    int64_t n = b + c, k = b < c ? b : c;
    double tail = 0;
    if (n == 0)
        return 1;
    for (int64_t i = 0; i <= k; i++)
        tail += exp(lgamma((double)n + 1) - lgamma((double)i + 1) - lgamma((double)(n - i) + 1) - (double)n * log(2.0));
    return 2 * tail < 1 ? 2 * tail : 1;
}

struct pw_paired pw_paired_flags(const char *base, const char *other, int64_t n)
{
    struct pw_paired p = {.n = n};
    int64_t hits_base = 0, hits_other = 0;
    for (int64_t i = 0; i < n; i++) {
        int x = base[i] == '1', y = other[i] == '1';
        hits_base += x, hits_other += y;
        p.base_only += x && !y;
        p.other_only += y && !x;
    }
    double N = n > 0 ? (double)n : 1;
    p.base = (double)hits_base / N;
    p.other = (double)hits_other / N;
    p.difference = (double)(p.other_only - p.base_only) / N;
    if (n > 1) {
        double changed = (double)(p.base_only + p.other_only);
        double variance = (changed - N * p.difference * p.difference) / (N - 1);
        p.stderr_ = sqrt((variance > 0 ? variance : 0) / N);
    }
    p.low = p.difference - z95 * p.stderr_;
    p.high = p.difference + z95 * p.stderr_;
    p.p_value = pw_mcnemar_exact(p.base_only, p.other_only);
    return p;
}
