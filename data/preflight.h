/* The preflight: what training on a data set would do that nobody wants, found before step 1.
 *
 * Reads rows as they will be trained, so it sees what the model would. What it finds becomes errors and warnings of the data set (data/dataset.h),
 * after those of reading. Knows nothing of models beyond the tokenizer. */
#ifndef PW_DATA_PREFLIGHT_H
#define PW_DATA_PREFLIGHT_H

#include "data/overlap.h"

enum { PW_LENGTH_BINS = 32 };
struct pw_preflight_options {
    const struct pw_tokenizer *tokenizer;
    const char *chat_template;      /* its source, or NULL */
    int64_t max_length;             /* as the rows were made with; 0: no limit */
    const struct pw_dataset *eval;  /* rows that will be evaluated on, or NULL */
    const char *source;             /* names the data in notes on all of it */
};
struct pw_preflight {
    int64_t lengths[PW_LENGTH_BINS];/* rows of more than 2^(i-1) and at most 2^i tokens */
    double fill; int64_t packs;     /* with packing: share of max_length that is used, and packs of an epoch */
    int64_t untrained;              /* rows of which nothing is learnt */
    int64_t endless;                /* rows that are learnt from and not cut, without an end of turn */
    int64_t doubled_bos;            /* error */
    int64_t cut_answers;            /* rows whose answer goes on beyond max_length */
    struct pw_overlap near, exact, runs;
};
int pw_preflight(struct pw_preflight *p, struct pw_dataset *d, const struct pw_preflight_options *o);
#endif
