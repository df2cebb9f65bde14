/* GGUF files, version 3 (2 has the same layout): a header of typed key/value pairs, then named tensors. Reading and writing.
 *
 *   0   u32 magic "GGUF" | u32 version | u64 tensors | u64 pairs
 *   then each pair     string key | u32 type | value
 *   then each tensor   string name | u32 dimensions | u64 size[dimensions], fastest first | u32 type | u64 offset
 *   then zeros up to a multiple of the alignment (general.alignment, 32 when absent), and the data: offsets count from there
 *   string   u64 bytes | bytes (UTF-8, no NUL)           array   u32 element type | u64 count | values
 * All little-endian. Reading is strict: counts and lengths are compared with what is left of the file, keys and names are unique, arrays
 * nest at most 4 deep, each tensor begins where the one before ends, rounded up to the alignment, its bytes are those of its type and
 * shape, and nothing but padding follows the last. Knows the sizes of types, not what keys and tensors mean. */
#ifndef PW_DATA_GGUF_H
#define PW_DATA_GGUF_H

#include "base/file.h"
#include "kernels/blocks.h"

enum pw_gguf_type {
    PW_GGUF_U8, PW_GGUF_I8, PW_GGUF_U16, PW_GGUF_I16, PW_GGUF_U32, PW_GGUF_I32, PW_GGUF_F32, PW_GGUF_BOOL, PW_GGUF_STRING, PW_GGUF_ARRAY,
    PW_GGUF_U64, PW_GGUF_I64, PW_GGUF_F64, PW_GGUF_TYPES
};
struct pw_gguf_pair {
    const char *key;
    enum pw_gguf_type type, of;       /* of: of an array's elements */
    uint64_t n;                       /* elements; 1 without an array */
    const uint8_t *data, *end;        /* the value's bytes, not aligned; of an array: its elements */
};
struct pw_gguf_tensor {
    const char *name;
    uint32_t ggml;                    /* the type's number */
    const char *stored;               /* "F32", "Q4_K" */
    int ndim;
    int64_t shape[4];                 /* slowest first, as everywhere here */
    const uint8_t *data;
    size_t bytes;
    const char *file;                 /* of a model in several files: where it is; NULL: in the first */
};
struct pw_gguf {
    struct pw_map map;
    struct pw_arena arena;
    const char *path;
    uint32_t version;
    size_t alignment;
    struct pw_gguf_pair *pairs; size_t n_pairs;         /* in the order of their keys */
    struct pw_gguf_tensor *tensors; size_t n_tensors;   /* in file order */
    struct pw_gguf *parts; size_t n_parts;              /* further files of a model: pw_gguf_join */
};
int pw_gguf_open(struct pw_gguf *g, const char *path);
/* A model in several files (split.count): opens the others, which lie beside the first, and adds their tensors. Nothing for a whole file. */
int pw_gguf_join(struct pw_gguf *g);
void pw_gguf_close(struct pw_gguf *g);                  /* fine on a zeroed one */
const struct pw_gguf_pair *pw_gguf_find(const struct pw_gguf *g, const char *key); /* NULL: absent */
const struct pw_gguf_tensor *pw_gguf_tensor(const struct pw_gguf *g, const char *name);

/* Values by key. Absent: *out stays, unless `must`. Another type: an error that names key, expected and got. Integers of all widths are
 * one kind, reals of both; strings are copies in the arena. */
int pw_gguf_get_i64(const struct pw_gguf *g, const char *key, bool must, int64_t low, int64_t high, int64_t *out);
int pw_gguf_get_f64(const struct pw_gguf *g, const char *key, bool must, double *out);
int pw_gguf_get_bool(const struct pw_gguf *g, const char *key, bool *out);
int pw_gguf_get_str(struct pw_gguf *g, const char *key, bool must, const char **out);
/* An array of elements of exactly this type; *out NULL when absent. */
int pw_gguf_get_array(const struct pw_gguf *g, const char *key, enum pw_gguf_type of, bool must, const struct pw_gguf_pair **out);
/* The strings of an array in order: begin with at = pair->data; never fails on what pw_gguf_open accepted. Not NUL-terminated. */
const uint8_t *pw_gguf_string(const uint8_t *at, const char **s, size_t *n);
int64_t pw_gguf_int(const struct pw_gguf_pair *p, uint64_t i);  /* element i of an array of integers, or a lone one */
double pw_gguf_real(const struct pw_gguf_pair *p, uint64_t i);

/* ---- writing: all pairs, then all tensors, then their bytes in that order; the file appears whole at commit ---- */
struct pw_gguf_out {
    struct pw_out out;
    struct pw_arena arena;
    struct pw_buf head, infos;
    uint64_t n_pairs, n_tensors, offset;
    struct { const char *name; size_t bytes; } *tensors; size_t room;
    size_t at, left;                  /* the tensor being written, and its bytes still to come */
    bool streaming;
};
int pw_gguf_create(struct pw_gguf_out *w, const char *path, bool force);
void pw_gguf_put_str(struct pw_gguf_out *w, const char *key, const char *s, size_t n);
void pw_gguf_put_u32(struct pw_gguf_out *w, const char *key, uint32_t x);
void pw_gguf_put_f32(struct pw_gguf_out *w, const char *key, float x);
void pw_gguf_put_bool(struct pw_gguf_out *w, const char *key, bool x);
/* an array of n elements that follow, each with pw_gguf_put_element (bytes of a number, or a string) */
void pw_gguf_put_array(struct pw_gguf_out *w, const char *key, enum pw_gguf_type of, uint64_t n);
void pw_gguf_put_element(struct pw_gguf_out *w, enum pw_gguf_type of, const void *data, size_t n);
int pw_gguf_add_tensor(struct pw_gguf_out *w, const char *name, uint32_t ggml, int ndim, const int64_t *shape);
int pw_gguf_bytes(struct pw_gguf_out *w, const void *data, size_t n);  /* of the tensors, in any pieces */
int pw_gguf_commit(struct pw_gguf_out *w);                             /* fewer bytes than announced: an error */
void pw_gguf_abort(struct pw_gguf_out *w);                             /* fine on a zeroed, committed or failed one */

enum { PW_GGML_F32 = 0, PW_GGML_F16 = 1, PW_GGML_BF16 = 30 };
/* Bytes of a tensor of this type and shape (slowest first). */
int pw_gguf_tensor_bytes(const char *tensor, uint32_t ggml, int ndim, const int64_t *shape, size_t *bytes);
#endif
