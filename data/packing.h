/* Batches: which rows go into which pass, and the flat arrays of one pass.
 *
 * A pass holds `batch_size` bins of at most max_length tokens. With packing a bin holds several whole examples (each row its own
 * sequence: positions start at 0, attention stays inside it), without it one. There is no padding anywhere. Both rows of a pair
 * stand side by side in the same bin, whose capacity is then the longest pair where that is more than max_length.
 * The plan of an epoch is a pure function of (row lengths, options, seed, epoch), so that a resumed run needs only counters. */
#ifndef PW_DATA_PACKING_H
#define PW_DATA_PACKING_H

#include "data/dataset.h"

struct pw_packing_options {
    int64_t max_length;  /* capacity of a bin with packing; at least the longest row; 0: the longest example */
    int64_t batch_size;  /* bins of one pass */
    bool packing, shuffle;
    bool weights;        /* use row_weight (training); false: every row once (evaluation) */
    uint64_t seed;
};
struct pw_packing {
    int64_t n_passes;
    int64_t *pass_start;    /* (n_passes + 1) into rows */
    uint32_t *rows;         /* row numbers of the data set, pass by pass; both of a pair */
    int64_t n_rows;
    int64_t *pass_tokens, *pass_trained; /* (n_passes) */
    double *pass_weight;    /* (n_passes) the sum of the weights of its trained tokens: their number where every one counts 1 */
    int64_t max_tokens, max_rows;        /* of the largest pass */
    double fill;            /* tokens / (bins * max_length) */
    struct pw_arena arena;
};
/* rows: which examples take part (NULL: all of d). */
int pw_packing_plan(struct pw_packing **out, const struct pw_dataset *d, const uint32_t *rows, int64_t n_rows,
                    const struct pw_packing_options *o, int64_t epoch);
void pw_packing_free(struct pw_packing *p); /* NULL is fine */
/* Upper bounds of tokens and rows of any pass of any epoch, for the memory plan (the worst batch, not the first). */
void pw_packing_worst(const struct pw_dataset *d, const uint32_t *rows, int64_t n_rows, const struct pw_packing_options *o, int64_t *tokens,
                      int64_t *n_seqs);

/* One pass as flat arrays. Buffers are taken once for the worst pass; filling allocates nothing. */
struct pw_packed {
    int64_t n_tokens, n_trained;
    int n_seqs;
    int32_t *ids, *positions; /* (n_tokens) */
    int32_t *targets;         /* (n_tokens) the next token where it is trained, else -1 */
    float *weight;            /* (n_tokens) what the target counts, read when weighted */
    bool weighted;
    int32_t *seq_start;       /* (n_seqs + 1): what pw_seqs calls q_start */
    int32_t *seq_len;         /* (n_seqs) */
    int64_t cap_tokens, cap_seqs;
};
int pw_packed_init(struct pw_packed *b, struct pw_arena *a, int64_t max_tokens, int64_t max_seqs);
int pw_packed_fill(struct pw_packed *b, const struct pw_packing *p, const struct pw_dataset *d, int64_t pass);
#endif
