/* report.html of a run folder: one file with its curves as inline SVG, the last numbers, and the recipe. No scripts, nothing from outside.
 *
 * Written whole from the log's lines. Knows nothing of training. */
#ifndef PW_TRAIN_REPORT_HTML_H
#define PW_TRAIN_REPORT_HTML_H

#include "base/text.h"
#include "train/runlog.h"

void pw_report_html(struct pw_buf *out, const struct pw_log_line *lines, size_t n, const char *title, const char *recipe);
int pw_report_html_write(const struct pw_log_line *lines, size_t n, const char *title, const char *recipe, const char *path);
#endif
