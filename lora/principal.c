/* See principal.h. Knows nothing of models and files. */
#include "lora/principal.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "kernels/cpu/gemm.h"

enum { TILE = 256, MORE = 8 };

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

static int check(int64_t n_out, int64_t n_in, int r, double scale)
{
    const int64_t n = n_in <= n_out ? n_in : n_out;
    PW_CHECK(r >= 1 && r <= n, PW_E_USAGE, "a rank of %d for a matrix of (%lld, %lld): expected at most %lld", r, (long long)n_out, (long long)n_in, (long long)n);
    PW_CHECK(n <= 65536 && scale > 0 && isfinite(scale), PW_E_USAGE, "the principal part of (%lld, %lld) with scale %g is out of range", (long long)n_out, (long long)n_in, scale);
    return 0;
}

/* Row i of a and column i of b from singular value s and its vectors u (n_out), v (n_in), which may be turned. */
static void place(double s, double *u, double *v, int64_t n_out, int64_t n_in, double scale, int i, float *a, float *b, int64_t ldb)
{
    if (turn(v, n_in))
        for (int64_t k = 0; k < n_out; k++)
            u[k] = -u[k];
    const double root = sqrt(s / scale);
    for (int64_t k = 0; k < n_in; k++)
        a[i * n_in + k] = (float)(root * v[k]);
    for (int64_t k = 0; k < n_out; k++)
        b[k * ldb + i] = (float)(root * u[k]);
}

int pw_principal_pair(const float *w, int64_t n_out, int64_t n_in, int r, double scale, float *a, float *b, int64_t ldb)
{
    const bool columns = n_in <= n_out;
    const int64_t n = columns ? n_in : n_out, other = columns ? n_out : n_in;
    int rc = 0;
    double *g = NULL, *values = NULL, *near = NULL, *far = NULL;
    PW_PASS(check(n_out, n_in, r, scale));
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
        place(s, columns ? far : v, columns ? v : far, n_out, n_in, scale, i, a, b, ldb);
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

/* ---- approximately ---- */

/* Rows of vectors: of the outputs (Q, n_out), of the inputs (Q, n_in). */
struct fast { int64_t n_out, n_in; int q; float *out, *in, *work; double *g, *values, *vectors, *u, *v; };

static int fast_open(struct fast *k, int64_t n_out, int64_t n_in, int r)
{
    const int64_t n = n_in <= n_out ? n_in : n_out;
    const int q = r + MORE < n ? r + MORE : (int)n;
    *k = (struct fast){.n_out = n_out, .n_in = n_in, .q = q};
    k->out = pw_alloc((size_t)(q * n_out) * sizeof(float));
    k->in = pw_alloc((size_t)(q * n_in) * sizeof(float));
    k->work = pw_alloc((size_t)cpu_orthonormal_work(q) * sizeof(float));
    k->g = pw_alloc_zero((size_t)q * (size_t)q, sizeof(double));
    k->values = pw_alloc((size_t)q * sizeof(double));
    k->vectors = pw_alloc((size_t)q * (size_t)q * sizeof(double));
    k->u = pw_alloc((size_t)n_out * sizeof(double));
    k->v = pw_alloc((size_t)n_in * sizeof(double));
    PW_CHECK(k->out && k->in && k->work && k->g && k->values && k->vectors && k->u && k->v, PW_E_NOMEM, "no memory for the principal part of (%lld, %lld)",
             (long long)n_out, (long long)n_in);
    return 0;
}

static void fast_close(struct fast *k)
{
    void *all[] = {k->out, k->in, k->work, k->g, k->values, k->vectors, k->u, k->v};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        pw_free(all[i]);
}

/* Vectors of the inputs through w, and of the outputs back. */
static void forth(struct fast *k, const float *w) { cpu_gemm_nt(k->q, k->n_out, k->n_in, k->in, k->n_in, w, k->n_in, k->out, k->n_out); }
static void back(struct fast *k, const float *w) { cpu_gemm_nn(k->q, k->n_in, k->n_out, k->out, k->n_out, w, k->n_in, k->in, k->n_in); }

/* out: a basis Q of what w reaches; in = Q^T w, whose singular values and right vectors are those of w: from its small Gram matrix, in double. */
static int small_values(struct fast *k)
{
    double *x = pw_alloc((size_t)(TILE * k->q) * sizeof *x);
    PW_CHECK(x, PW_E_NOMEM, "no memory for the principal part of (%lld, %lld)", (long long)k->n_out, (long long)k->n_in);
    for (int64_t first = 0; first < k->n_in; first += TILE) {
        const int64_t n = k->n_in - first < TILE ? k->n_in - first : TILE;
        for (int64_t i = 0; i < n; i++)
            for (int j = 0; j < k->q; j++)
                x[i * k->q + j] = k->in[j * k->n_in + first + i];
        cpu_gram(k->q, n, x, k->g);
    }
    pw_free(x);
    return cpu_top_eigen(k->q, k->g, k->q, k->values, k->vectors);
}

/* sum = the rows of x (Q, N) with these shares, over s (0: nothing) */
static void mixed(double *sum, const float *x, int64_t n, int q, const double *shares, double s)
{
    memset(sum, 0, (size_t)n * sizeof *sum);
    for (int j = 0; s > 0 && j < q; j++)
        for (int64_t i = 0; i < n; i++)
            sum[i] += shares[j] * x[j * n + i] / s;
}

int pw_principal_fast(const float *w, int64_t n_out, int64_t n_in, int r, int rounds, struct pw_rng rng, double scale, float *a, float *b, int64_t ldb)
{
    struct fast k;
    int rc = 0;
    PW_PASS(check(n_out, n_in, r, scale));
    PW_PASS_OUT(fast_open(&k, n_out, n_in, r));
    for (int64_t i = 0; i < k.q * n_in; i++)
        k.in[i] = (float)pw_rng_normal(&rng);
    forth(&k, w);
    PW_PASS_OUT(cpu_orthonormal(k.q, (int)n_out, k.out, k.work));
    for (int round = 0; round < rounds; round++) {
        back(&k, w);
        PW_PASS_OUT(cpu_orthonormal(k.q, (int)n_in, k.in, k.work));
        forth(&k, w);
        PW_PASS_OUT(cpu_orthonormal(k.q, (int)n_out, k.out, k.work));
    }
    back(&k, w);
    PW_PASS_OUT(small_values(&k));
    for (int i = 0; i < r; i++) {
        const double *shares = k.vectors + (int64_t)i * k.q, s = k.values[i] > 0 ? sqrt(k.values[i]) : 0;
        mixed(k.u, k.out, n_out, k.q, shares, 1);
        mixed(k.v, k.in, n_in, k.q, shares, s);
        place(s, k.u, k.v, n_out, n_in, scale, i, a, b, ldb);
    }
out:
    fast_close(&k);
    return rc;
}

size_t pw_principal_fast_bytes(int64_t n_out, int64_t n_in, int r)
{
    const size_t q = (size_t)r + MORE, sides = (size_t)n_out + (size_t)n_in;
    return sizeof(float) * (q * sides + (size_t)cpu_orthonormal_work((int)q)) + sizeof(double) * (q * (4 * q + 40 + TILE) + sides);
}
