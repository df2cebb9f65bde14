/* Fixtures of adapters that peft trained (tools/reference/adapter_fixtures.py), shared by the tests of adapters: logits of a model with an adapter, and those expected. */
#ifndef PW_TESTS_ADAPTER_GOLDEN_H
#define PW_TESTS_ADAPTER_GOLDEN_H
#include <stdint.h>

#define MODEL "tests/fixtures/train_golden/model"
#define ROWS "tests/fixtures/train_golden/rows.jsonl"
#define FIXTURES "tests/fixtures/adapter_golden"
#define BIASED FIXTURES "/model-bias"          /* a Qwen2: q, k and v have biases */
#define NF4 "{type: nf4, double_quant: true}"

enum { MOST = 64, VOCAB = 64 };

/* Logits of the model at `path`, quantised on the way (NULL: as it is), with the adapter (NULL: none) on ids. */
void logits_of_quantised(const char *path, const char *quantise, const char *adapter, const char *device, const int32_t *ids, int n, float *out);
double furthest(const float *x, const float *y, int n);

struct expected { int32_t ids[MOST]; int n, vocab; float logits[MOST * VOCAB]; };
void read_expected_of(struct expected *e, const char *file, const char *name);
void read_expected(struct expected *e, const char *name); /* of logits.json */
#endif
