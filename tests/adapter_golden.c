#include "tests/adapter_golden.h"

#include <math.h>

#include "base/error.h"
#include "infer/session.h"
#include "lora/peft.h"
#include "tests/support.h"

void logits_of_quantised(const char *path, const char *quantise, const char *adapter, const char *device, const int32_t *ids, int n, float *out)
{
    struct pw_dev *dev = NULL;
    struct pw_model *m = NULL;
    struct pw_adapter a = {0};
    struct pw_session *s = NULL;
    const struct pw_dev_options options = {.kind = device, .threads = 1};
    const struct pw_model_options mo = {.quantise = quantise, .double_quant = quantise != NULL};
    ck_ok(pw_dev_open(&dev, &options));
    ck_ok(pw_model_load(&m, dev, path, &mo));
    if (adapter) {
        ck_ok(pw_peft_load(&a, adapter, &m->config));
        ck_ok(pw_adapter_put(&a, dev));
        ck_ok(pw_model_attach(m, &a));
    }
    ck_ok(pw_session_open(&s, m, MOST, MOST, 1));
    const int seq = pw_session_add(s, MOST, -1);
    const struct pw_feed feed = {seq, ids, n};
    int32_t rows[MOST];
    for (int i = 0; i < n; i++)
        rows[i] = i;
    ck_ok(pw_session_feed(s, &feed, 1));
    ck_ok(pw_session_logits(s, rows, n, out));
    pw_session_close(s);
    ck_ok(pw_model_attach(m, NULL));
    pw_adapter_free(&a);
    pw_model_free(m);
    pw_dev_close(dev);
}

double furthest(const float *x, const float *y, int n)
{
    double most = 0;
    for (int i = 0; i < n; i++)
        most = fabs((double)x[i] - y[i]) > most || isnan(x[i]) ? fabs((double)x[i] - y[i]) : most;
    return most;
}

void read_expected_of(struct expected *e, const char *file, const char *name)
{
    struct pw_arena a;
    struct pw_value *all = NULL;
    pw_arena_init(&a);
    ck_ok(pw_json_load(&a, file, &all));
    const struct pw_value *ids = pw_get(all, "ids"), *rows = pw_get(all, name);
    ck_assert_ptr_nonnull(rows);
    e->n = (int)ids->len;
    ck_assert_int_le(e->n, MOST);
    for (int i = 0; i < e->n; i++) {
        e->ids[i] = (int32_t)ids->items[i].i;
        e->vocab = (int)rows->items[i].len;
        ck_assert_int_le(e->vocab, VOCAB);
        for (int v = 0; v < e->vocab; v++) {
            const struct pw_value *x = &rows->items[i].items[v];
            e->logits[i * e->vocab + v] = (float)(x->kind == PW_INT ? (double)x->i : x->d);
        }
    }
    pw_arena_free(&a);
}

void read_expected(struct expected *e, const char *name) { read_expected_of(e, FIXTURES "/logits.json", name); }
