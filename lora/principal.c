/* See principal.h. Knows nothing of models and files. */
#include "lora/principal.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "kernels/cpu/gemm.h"

enum { TILE = 256 };

/* g (n, n) of the smaller side: of columns (w^T w) or of rows (w w^T), by tiles of the other. */
static int gram(const float *w, int64_t n_out, int64_t n_in, bool columns, double *g)
{
    const int64_t n = columns ? n_in : n_out, other = columns ? n_out : n_in;
    double *x = pw_alloc((size_t)(TILE * n) * sizeof *x);
    PW_CHECK(x, PW_E_NOMEM, "no memory for the principal part of (%lld, %lld)", (long long)n_out, (long long)n_in);
    memset(g, 0, (size_t)(n * n) * sizeof *g);
    for (int64_t first = 0; first < other; first += TILE) {
        const int64_t rows = other - first < TILE ? other - first : TILE;
        for (int64_t i = 0; i < rows; i++)
            for (int64_t k = 0; k < n; k++)
                x[i * n + k] = (double)(columns ? w[(first + i) * n_in + k] : w[k * n_in + first + i]);
        cpu_gram(n, rows, x, g);
    }
    pw_free(x);
    return 0;
}

/* The largest element of v becomes positive; is it turned? */
static bool turn(double *v, int64_t n)
{
    int64_t most = 0;
    for (int64_t k = 1; k < n; k++)
        most = fabs(v[k]) > fabs(v[most]) ? k : most;
    const bool turned = v[most] < 0;
    for (int64_t k = 0; turned && k < n; k++)
        v[k] = -v[k];
    return turned;
}

int pw_principal_pair(const float *w, int64_t n_out, int64_t n_in, int r, double scale, float *a, float *b, int64_t ldb)
{
    const bool columns = n_in <= n_out;
    const int64_t n = columns ? n_in : n_out, other = columns ? n_out : n_in;
    int rc = 0;
    double *g = NULL, *values = NULL, *near = NULL, *far = NULL;
    PW_CHECK(r >= 1 && r <= n, PW_E_USAGE, "a rank of %d for a matrix of (%lld, %lld): expected at most %lld", r, (long long)n_out, (long long)n_in, (long long)n);
    PW_CHECK(n <= 65536 && scale > 0 && isfinite(scale), PW_E_USAGE, "the principal part of (%lld, %lld) with scale %g is out of range", (long long)n_out, (long long)n_in, scale);
    g = pw_alloc((size_t)(n * n) * sizeof *g);
    values = pw_alloc((size_t)r * sizeof *values);
    near = pw_alloc((size_t)(r * n) * sizeof *near);
    far = pw_alloc((size_t)other * sizeof *far);
    PW_CHECK_OUT(g && values && near && far, PW_E_NOMEM, "no memory for the principal part of (%lld, %lld)", (long long)n_out, (long long)n_in);
    PW_PASS_OUT(gram(w, n_out, n_in, columns, g));
    PW_PASS_OUT(cpu_top_eigen((int)n, g, r, values, near));
    for (int i = 0; i < r; i++) {
        double *v = near + (int64_t)i * n;
        const double s = values[i] > 0 ? sqrt(values[i]) : 0;
        for (int64_t k = 0; k < other; k++) {
            double sum = 0;
            for (int64_t j = 0; j < n; j++)
                sum += (double)(columns ? w[k * n_in + j] : w[j * n_in + k]) * v[j];
            far[k] = s > 0 ? sum / s : 0;
        }
        if (turn(columns ? v : far, n_in))
            for (int64_t k = 0; k < n_out; k++)
                (columns ? far : v)[k] = -(columns ? far : v)[k];
        const double root = sqrt(s / scale);
        for (int64_t k = 0; k < n_in; k++)
            a[i * n_in + k] = (float)(root * (columns ? v : far)[k]);
        for (int64_t k = 0; k < n_out; k++)
            b[k * ldb + i] = (float)(root * (columns ? far : v)[k]);
    }
out:
    pw_free(far);
    pw_free(near);
    pw_free(values);
    pw_free(g);
    return rc;
}

size_t pw_principal_bytes(int64_t n_out, int64_t n_in, int r)
{
    const size_t n = (size_t)(n_in <= n_out ? n_in : n_out), other = (size_t)(n_in <= n_out ? n_out : n_in);
    return sizeof(double) * (n * n + (TILE > 2 * (size_t)r ? TILE : 2 * (size_t)r) * n + 40 * n + other);
}
