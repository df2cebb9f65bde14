/* HDF5 files of named arrays: the one place that knows the HDF5 library. Used by the row cache and by training checkpoints.
 *
 * A file is written under a temporary name and appears whole on commit (fsync, rename). Its first 512 bytes are a user block
 * that holds the length and the SHA-256 of everything after it; pw_h5_open checks both before HDF5 sees a byte, so a
 * truncated or altered file is an error that says so. Reading is strict: a name, type or shape other than asked for is an error.
 * Two files made of the same puts in the same order have the same bytes. Knows nothing of what the arrays mean. */
#ifndef PW_DATA_H5_H
#define PW_DATA_H5_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

enum pw_h5_type { PW_H5_F32, PW_H5_F64, PW_H5_I32, PW_H5_I64, PW_H5_U8, PW_H5_U64 };
#define PW_H5_MAX_RANK 4

/* ---- write ---- (names may hold '/': groups are made as needed; a name is put once) */
struct pw_h5_out;
int pw_h5_create(struct pw_h5_out **out, const char *path, bool force);
int pw_h5_put(struct pw_h5_out *h, const char *name, enum pw_h5_type type, const void *data, int rank, const int64_t *shape);
int pw_h5_put_1d(struct pw_h5_out *h, const char *name, enum pw_h5_type type, const void *data, int64_t n);
int pw_h5_put_2d(struct pw_h5_out *h, const char *name, enum pw_h5_type type, const void *data, int64_t rows, int64_t columns);
int pw_h5_put_text(struct pw_h5_out *h, const char *name, const char *s, size_t bytes); /* an array of u8 */
int pw_h5_put_i64(struct pw_h5_out *h, const char *name, int64_t x);
int pw_h5_put_f64(struct pw_h5_out *h, const char *name, double x);
int pw_h5_commit(struct pw_h5_out *h); /* the file appears; on failure nothing does. Frees h either way */
void pw_h5_abort(struct pw_h5_out *h); /* NULL is fine; frees h and leaves nothing behind */

/* ---- read ---- */
struct pw_h5_in;
int pw_h5_open(struct pw_h5_in **in, const char *path);
void pw_h5_close(struct pw_h5_in *in); /* NULL is fine */
bool pw_h5_has(struct pw_h5_in *in, const char *name);
/* The type must be `type`; rank and shape are told. */
int pw_h5_shape(struct pw_h5_in *in, const char *name, enum pw_h5_type type, int *rank, int64_t shape[PW_H5_MAX_RANK]);
/* Type, rank and shape must be exactly these. data has room for them. */
int pw_h5_get(struct pw_h5_in *in, const char *name, enum pw_h5_type type, void *data, int rank, const int64_t *shape);
int pw_h5_get_1d(struct pw_h5_in *in, const char *name, enum pw_h5_type type, void *data, int64_t n);
int pw_h5_get_2d(struct pw_h5_in *in, const char *name, enum pw_h5_type type, void *data, int64_t rows, int64_t columns);
int pw_h5_get_text(struct pw_h5_in *in, const char *name, struct pw_buf *out); /* replaces the contents of out */
int pw_h5_get_i64(struct pw_h5_in *in, const char *name, int64_t *x);
int pw_h5_get_f64(struct pw_h5_in *in, const char *name, double *x);
#endif
