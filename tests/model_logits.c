/* See the header. */
#include "tests/model_logits.h"

#include <math.h>
#include <stdlib.h>

#include "base/error.h"
#include "infer/session.h"
#include "lora/adapter_file.h"
#include "tests/support.h"

struct pw_dev *logits_device(const char *level, int threads)
{
    struct pw_dev *d;
    ck_ok(pw_dev_open(&d, &(struct pw_dev_options){.kind = "cpu", .threads = threads, .level = level}));
    return d;
}

float *logits_loaded(struct pw_dev *dev, const char *path, const struct pw_model_options *opt, const char *adapter, const int32_t *ids, int n, int64_t *vocab)
{
    struct pw_model *m;
    struct pw_session *s;
    struct pw_adapter a = {0};
    int32_t rows[LOGITS_MOST];
    ck_assert(n >= 1 && n <= LOGITS_MOST);
    ck_ok(pw_model_load(&m, dev, path, opt));
    if (adapter) {
        ck_ok(pw_adapter_load(&a, adapter, &m->config));
        ck_ok(pw_model_attach(m, &a));
    }
    ck_ok(pw_session_open(&s, m, n, n, 1));
    const int seq = pw_session_add(s, n, -1);
    ck_assert_int_ge(seq, 0);
    const struct pw_feed feed = {seq, ids, n};
    ck_ok(pw_session_feed(s, &feed, 1));
    *vocab = m->config.vocab;
    float *out = malloc((size_t)(n * *vocab) * sizeof *out);
    ck_assert_ptr_nonnull(out);
    for (int i = 0; i < n; i++)
        rows[i] = i;
    ck_ok(pw_session_logits(s, rows, n, out));
    pw_session_close(s);
    pw_model_free(m);
    pw_adapter_free(&a);
    return out;
}

float *logits_with(struct pw_dev *dev, const char *path, const char *adapter, const int32_t *ids, int n, int64_t *vocab)
{
    return logits_loaded(dev, path, NULL, adapter, ids, n, vocab);
}

float *logits_of(struct pw_dev *dev, const char *path, const int32_t *ids, int n, int64_t *vocab) { return logits_with(dev, path, NULL, ids, n, vocab); }

double logits_apart(const float *a, const float *b, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= most))
            most = d;
    }
    return most;
}
