/* The row cache: tokenised rows of one source file in an HDF5 file named by the hash of everything they depend on.
 * A file that is damaged, or made from another source, is said to be so and made again. Knows nothing of how rows are made. */
#ifndef PW_DATA_CACHE_H
#define PW_DATA_CACHE_H

#include <stdbool.h>

#include "base/progress.h"
#include "base/text.h"

struct pw_cache_rows {     /* growing arrays of one file's rows */
    int32_t *ids;
    uint8_t *trained;
    float *weight;         /* what each token counts where it is trained; NULL: 1 */
    int64_t *row_start, *row_line;
    uint8_t *row_label;
    int64_t per;           /* rows of an example: 1, or 2 for pairs; 0 while nothing is known */
    bool labelled;         /* row_label means something */
    int64_t n_rows, n_tokens, cap_rows, cap_tokens;
    int64_t truncated, dropped;
    struct pw_buf warnings; /* "line\tcount\ttext\n" each */
};
/* weight NULL: every token counts 1. */
int pw_cache_rows_add(struct pw_cache_rows *r, const int32_t *ids, const uint8_t *trained, const float *weight, int64_t n, int64_t line, uint8_t label);
void pw_cache_rows_drop_last(struct pw_cache_rows *r);
void pw_cache_rows_free(struct pw_cache_rows *r);

/* 1: rows were read; 0: there are none to be had (absent, or unusable, which is said); negative: failed. */
int pw_cache_load(struct pw_cache_rows *r, const char *dir, const char *key, const char *source_sha256, struct pw_progress *p);
int pw_cache_store(const struct pw_cache_rows *r, const char *dir, const char *key, const char *source_sha256);
#endif
