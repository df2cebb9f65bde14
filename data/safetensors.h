/* safetensors: 8 bytes little-endian header length, a JSON header, then raw tensor bytes (format of huggingface/safetensors).
 *
 * Reading is strict: header at most 100 MB and inside the file, offsets inside the data, ascending without overlap or gap,
 * product of shape times dtype = bytes, no duplicate names. Writing is deterministic: tensors in the given order, header padded
 * with spaces to 8 bytes. */
#ifndef PW_DATA_SAFETENSORS_H
#define PW_DATA_SAFETENSORS_H
#include "base/file.h"
#include "base/value.h"

struct pw_st_tensor { const char *name; const char *dtype; int ndim; int64_t shape[8]; const uint8_t *data; size_t bytes; };
/* tensors: in the byte order of their names. */
struct pw_safetensors { struct pw_map map; struct pw_arena arena; struct pw_st_tensor *tensors; size_t n; const struct pw_value *metadata; };
int pw_safetensors_open(struct pw_safetensors *s, const char *path);
void pw_safetensors_close(struct pw_safetensors *s);
const struct pw_st_tensor *pw_safetensors_find(const struct pw_safetensors *s, const char *name);
size_t pw_st_dtype_bytes(const char *dtype); /* "F32" -> 4; 0 = unknown */

/* Writes one file. metadata: pairs key, value, ended by NULL (or NULL). */
struct pw_st_write { const char *name, *dtype; int ndim; int64_t shape[8]; const void *data; size_t bytes; };
int pw_safetensors_write(const char *path, const struct pw_st_write *tensors, size_t n, const char *const *metadata, bool force);

/* The same, tensor by tensor, for files whose tensors are made on the fly: room for the header is set aside (header_bytes, from
 * pw_st_header_room of each tensor), then data is streamed, and the header is written last, padded with spaces. A tensor is
 * begun once and its bytes follow in any number of pieces; too few or too many are an error. */
struct pw_st_stream { struct pw_out out; struct pw_arena arena; struct pw_buf header; size_t room, at, want; const char *name; bool open; };
size_t pw_st_header_room(const char *name, int ndim);
int pw_st_stream_open(struct pw_st_stream *w, const char *path, size_t header_bytes, const char *const *metadata, bool force);
int pw_st_stream_begin(struct pw_st_stream *w, const char *name, const char *dtype, int ndim, const int64_t *shape);
int pw_st_stream_bytes(struct pw_st_stream *w, const void *data, size_t bytes);
int pw_st_stream_commit(struct pw_st_stream *w);
void pw_st_stream_abort(struct pw_st_stream *w);  /* fine on a zeroed, committed or failed one */
#endif
