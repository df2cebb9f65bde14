/* Progress on stderr: one line that redraws on a terminal, plain lines (at most one in 10 s, and the last) in a log.
 * Silent when quiet. Library code gets a struct pw_progress * and calls pw_progress_at; only tools/ creates one. NULL is fine. */
#ifndef PW_BASE_PROGRESS_H
#define PW_BASE_PROGRESS_H
#include <stdbool.h>
#include <stdint.h>

struct pw_progress {
    bool on, tty; double started, last_drawn; char what[64]; int width;
    bool (*stop)(void);      /* may be NULL; true: the user wants an end, and long work between whose pieces it is asked returns PW_E_INTERRUPTED */
};
bool pw_progress_stopped(const struct pw_progress *p);
void pw_progress_start(struct pw_progress *p, const char *what, bool quiet);
/* done of total (total 0 = unknown); note: free text such as "loss 2.31, 812 tokens/s" or NULL. Time left is computed here. */
void pw_progress_at(struct pw_progress *p, int64_t done, int64_t total, const char *note);
void pw_progress_end(struct pw_progress *p, const char *note);
void pw_progress_stop(struct pw_progress *p);  /* leaves the line as it is: the work failed */
/* One line of information on stderr, not in the way of the progress line. Silent when quiet (p->on false) or p NULL. */
void pw_progress_say(struct pw_progress *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

double pw_seconds(void);  /* monotonic clock */
#endif
