/* TensorBoard's event files: a run's log as scalars, one file, written whole.
 *
 * A file is a row of TFRecords (length, masked CRC-32C of the length, bytes, masked CRC-32C of the bytes; little endian), each an Event in
 * protobuf's wire format. Only what scalars need is written. Knows the log's lines, nothing of training. */
#ifndef PW_TRAIN_TFEVENTS_H
#define PW_TRAIN_TFEVENTS_H

#include "base/text.h"
#include "train/runlog.h"

uint32_t pw_crc32c(const void *bytes, size_t n);                            /* Castagnoli, RFC 3720 */
void pw_tfevents_record(struct pw_buf *out, const void *bytes, size_t n);   /* one framed record is appended */
/* Tags train/loss, train/lr, train/grad_norm, train/tokens_per_s, train/memory_bytes, eval/loss. began: Unix time of step 0; an
 * event's time is that plus the line's seconds (an evaluation: those of the step before it). */
int pw_tfevents_write(const struct pw_log_line *lines, size_t n, double began, const char *path);
#endif
