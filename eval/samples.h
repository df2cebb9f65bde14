/* The sample log: one JSON line a scored document, appended as it is done, so that a killed evaluation loses nothing that was logged.
 *
 * Lines go to PATH.part, which becomes PATH at the end. With resume the lines of PATH.part (else PATH) are read back; a line that was cut
 * off at the end is dropped and said so by being scored again. While a log is open it is locked: a second process is refused. A document counts as known only when task, adapter, number and prompt agree. */
#ifndef PW_EVAL_SAMPLES_H
#define PW_EVAL_SAMPLES_H
#include <stdbool.h>
#include <stdint.h>

struct pw_sample {
    const char *task, *adapter; /* adapter NULL: the base */
    int64_t doc;
    const char *prompt;
    const char *const *choices; /* as scored, with the delimiter */
    const char *const *texts;   /* the choices' own texts: their bytes are logged */
    const double *logprobs;
    int n_choices, target, n_metrics;
    const char *metric[4];
    int picked[4];
};
struct pw_samples;
int pw_samples_open(struct pw_samples **out, const char *path, bool resume, bool force);
/* Log-probabilities of a document that the log has (owned by it), or NULL. s may be NULL. */
const double *pw_samples_known(const struct pw_samples *s, const char *task, const char *adapter, int64_t doc, const char *prompt, int n_choices);
int pw_samples_add(struct pw_samples *s, const struct pw_sample *x);  /* s NULL: does nothing */
int pw_samples_finish(struct pw_samples *s);
void pw_samples_close(struct pw_samples *s);
#endif
