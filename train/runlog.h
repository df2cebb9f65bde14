/* The log of a run: one JSON line a step and one an evaluation, and the same as CSV.
 *
 * Lines are written whole and flushed; a saved state remembers the log's length, and a resumed run cuts the log there before it goes on,
 * so that no step stands in it twice. Knows nothing of training. */
#ifndef PW_TRAIN_RUNLOG_H
#define PW_TRAIN_RUNLOG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include "base/memory.h"

struct pw_runlog { FILE *f; char *path; };
struct pw_log_step {
    int64_t step;              /* steps done, this one included */
    double loss, lr, grad_norm;
    int64_t tokens, trained_tokens;  /* of this step */
    double tokens_per_s;
    uint64_t memory_bytes;     /* resident now; on a card, in use there */
    double seconds;            /* since the start of the run, resumed parts added */
    int ranks; const char *sums; /* of several ranks: how many, and what summed their gradients; else NULL or "". Not read back */
    bool has_rewards; double reward_accuracy, reward_margin; /* objectives over preferences */
};
/* Opens for appending after the first keep_bytes bytes; the rest is cut off. A log shorter than that is an error. */
int pw_runlog_open(struct pw_runlog *log, const char *path, int64_t keep_bytes);
int pw_runlog_step(struct pw_runlog *log, const struct pw_log_step *s);
int pw_runlog_eval(struct pw_runlog *log, int64_t step, double loss);
int pw_runlog_sync(struct pw_runlog *log, int64_t *bytes);  /* on disk; its length */
void pw_runlog_close(struct pw_runlog *log);

struct pw_log_line { bool is_eval; struct pw_log_step s; };  /* of an evaluation: step and loss */
int pw_runlog_read(struct pw_arena *a, const char *path, struct pw_log_line **lines, size_t *n);
/* log.csv from the lines: a row a step; the column eval_loss is empty without; rewards have two more columns where there are any. */
int pw_runlog_csv(const struct pw_log_line *lines, size_t n, const char *path);
#endif
