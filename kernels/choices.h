/* Which way a linear layer with many rows multiplies on a card, and who does attention forward in training: measured once for each shape, kept in a file, the same from then on.
 *
 * A card has two ways (kernels/cuda/linear.cu), in the forward product and in that of backward's dx: `fused` decodes the weight while it is staged for the
 * tensor cores, `decoded` writes it to memory as bf16 and calls a library. Both keep the bounds of the op, but not each other's bytes: with the same file
 * the choices, and so the bytes, are the same. Without an entry for a shape the backend's fixed rule holds.
 * Attention is ours or a library's (kernels/cuda/attn_cudnn.h; without the library, or without a plan of its, nothing is measured and ours is the way). Here too
 * the ways keep the bounds and not each other's bytes.
 * The file is JSON: {"schema": 3, "version", "device", "driver", "attention_library", "choices": [{"pass": "forward" or "backward", "type", "dtype", "rows", "n_out", "n_in", "way",
 * "fused_s", "decoded_s"}], "attention": [{"heads", "kv_heads", "head_dim", "window", "softcap", "rows", "sequences", "way", "ours_s", "library_s"}]}. rows is a bucket: a power of two from 32 to 4096 that stands for the numbers of rows above the one before it (4096: and all
 * above); in attention, from 256 on, and sequences are 1, 8 or 64, for up to so many. What another program, card, driver or library measured is not taken. A training run keeps the text of what it began with, and goes on with that
 * (train/run_products.c). Knows nothing of models. */
#ifndef PW_KERNELS_CHOICES_H
#define PW_KERNELS_CHOICES_H

#include "base/memory.h"
#include "base/progress.h"
#include "base/text.h"
#include "kernels/backend.h"

struct pw_choices { struct pw_choice *list; size_t n, room; struct pw_attn_choice *attn; size_t n_attn, room_attn; };
void pw_choices_free(struct pw_choices *c); /* fine on a zeroed struct */
/* A file that is not there is an empty list. PW_E_FORMAT: damaged; PW_E_REFUSED: of another card, driver or program. Then the list is empty too. */
int pw_choices_read(struct pw_choices *c, struct pw_dev *dev, const char *path);
/* The same from the text of a file whose choices hold wherever they were measured: a run goes on as it began. name: for errors. */
int pw_choices_recall(struct pw_choices *c, const char *text, size_t n, const char *name);
int pw_choices_text(const struct pw_choices *c, struct pw_dev *dev, struct pw_buf *out); /* of a file; out is freed on error */
int pw_choices_write(const struct pw_choices *c, struct pw_dev *dev, const char *path);
/* What a command begins with: the file. One that the user named must be good; another that is not is said to be measured anew, and the list is empty. */
int pw_choices_begin(struct pw_choices *c, struct pw_dev *dev, const char *path, bool named, struct pw_progress *progress);
/* Writes the list when it has more than the `before` that were read. A file that the user did not name and that cannot be written is said, and no reason to fail. */
int pw_choices_keep(const struct pw_choices *c, struct pw_dev *dev, const char *path, bool named, size_t before, struct pw_progress *progress);
/* Measures what the list lacks for w on a device that can (others: nothing), up to the bucket of most_rows. A w of a shape alone (no data) gets values for it.
 * Takes memory and scratch of dev and sets its choices: a handle of its own, closed afterwards, leaves the one that computes as it was; so does
 * pw_dev_unreserve before anything was planned. */
int pw_choices_measure(struct pw_choices *c, struct pw_dev *dev, const struct pw_weight *w, int64_t most_rows, bool backward);
/* The same for attention in training of these heads, window and cap: every shape that stands for up to most_rows rows and that the library has a plan for. */
int pw_choices_measure_attn(struct pw_choices *c, struct pw_dev *dev, int heads, int kv_heads, int head_dim, const struct pw_attn *attn, int64_t most_rows);
/* Uses the list, which must outlive the device's use, from now on: before scratch is asked for. Nothing on devices that know one way. PW_E_REFUSED: it
 * names a way that is not there. */
int pw_choices_use(const struct pw_choices *c, struct pw_dev *dev);
int64_t pw_choice_bucket(int64_t rows);
#endif
