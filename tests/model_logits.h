/* Logits of a model on disk, with an adapter on it or without: what tests of file formats compare. */
#ifndef PW_TESTS_MODEL_LOGITS_H
#define PW_TESTS_MODEL_LOGITS_H

#include <stdint.h>

#include "infer/model.h"

enum { LOGITS_MOST = 64 };                                                             /* ids */
struct pw_dev *logits_device(const char *level, int threads);                          /* a processor; level "": its best */
/* (n, *vocab), to be freed. adapter NULL: none. */
float *logits_with(struct pw_dev *dev, const char *path, const char *adapter, const int32_t *ids, int n, int64_t *vocab);
float *logits_loaded(struct pw_dev *dev, const char *path, const struct pw_model_options *opt, const char *adapter, const int32_t *ids, int n, int64_t *vocab);
float *logits_of(struct pw_dev *dev, const char *path, const int32_t *ids, int n, int64_t *vocab);
double logits_apart(const float *a, const float *b, int64_t n);                        /* the largest difference; NaN when there is one */
#endif
