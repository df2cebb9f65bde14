/* Files: whole reads, read-only mappings, and outputs that appear whole or not at all.
 *
 * An output is written to a temporary name beside its target, flushed, fsynced and renamed; anything that fails before the
 * rename removes the temporary. Folders likewise. Errors carry the path and the system's reason. */
#ifndef PW_BASE_FILE_H
#define PW_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/memory.h"
#include "base/text.h"

/* Whole file into memory (NUL-terminated, the NUL does not count). limit: refuse larger files (0 = 4 GiB). "-" = stdin. */
int pw_file_read(const char *path, size_t limit, struct pw_buf *out);
bool pw_file_exists(const char *path);
bool pw_is_dir(const char *path);
int pw_file_size(const char *path, int64_t *bytes);
int pw_dir_make(const char *path);               /* with parents; fine when it is there */
int pw_dir_remove(const char *path);             /* recursive, never follows links */
int pw_dir_clear(const char *path, const char *keep); /* what is in it, but for the name keep (NULL: all) */
int pw_dir_list(struct pw_arena *a, const char *path, char ***names, size_t *n); /* sorted by byte order, no dot files */

struct pw_map { const uint8_t *data; size_t bytes; void *base; };
int pw_map_open(struct pw_map *m, const char *path);  /* read-only; an empty file maps to bytes = 0 */
void pw_map_close(struct pw_map *m);
/* These bytes will not be read soon: their pages are given back, and come again from the file when they are. False, and nothing done, when they do not lie in the map. */
bool pw_map_has(const struct pw_map *m, const void *at);    /* is this address one of the file's bytes? */
bool pw_map_forget(const struct pw_map *m, const void *at, size_t bytes);

/* One output file. Write with stdio on ->f or pw_out_write; pw_out_commit makes it appear; pw_out_abort (also on an
 * unopened or committed struct) leaves nothing behind. An existing target is refused with PW_E_REFUSED unless force. */
struct pw_out { FILE *f; char *path, *temp; bool replace; };
int pw_out_open(struct pw_out *o, const char *path, bool force);
int pw_out_write(struct pw_out *o, const void *bytes, size_t n);
int pw_out_commit(struct pw_out *o);
void pw_out_abort(struct pw_out *o);
int pw_file_write(const char *path, const void *bytes, size_t n, bool force); /* open, write, commit */
int pw_file_copy(const char *from, const char *to);                            /* likewise, of a file's bytes; to must not exist */
int pw_out_check(const char *path, bool force);  /* before the work: does it exist, can the folder be written to? */

/* One output folder: build it under ->temp, then commit renames it to its target. With force an existing target is
 * moved aside first and removed after the rename, so that a crash leaves the old or the new one, never neither. */
struct pw_outdir { char *path, *temp; bool force; };
int pw_outdir_open(struct pw_outdir *o, const char *path, bool force);
int pw_outdir_commit(struct pw_outdir *o);
void pw_outdir_abort(struct pw_outdir *o);

/* Removes what processes that were killed left of outputs in dir (hidden names as above); an old folder that was moved aside and
 * whose successor never appeared gets its name back. Only for a folder that nobody else writes to: the caller holds its lock. */
int pw_out_sweep(const char *dir);

char *pw_path_join(struct pw_arena *a, const char *dir, const char *name);
const char *pw_path_base(const char *path);  /* after the last slash */

/* SHA-256 (FIPS 180-4) of bytes or of a file, as 64 hex digits and NUL. */
struct pw_sha256 { _Alignas(16) unsigned char state[128]; };
void pw_sha256_init(struct pw_sha256 *h);
void pw_sha256_add(struct pw_sha256 *h, const void *bytes, size_t n);
void pw_sha256_hex(struct pw_sha256 *h, char out[65]);
void pw_sha256_bytes(const void *bytes, size_t n, char out[65]);
void pw_sha256_two(const void *const bytes[2], const size_t n[2], char *const out[2]); /* of two texts, in hardly more time than of the longer one */
int pw_sha256_file(const char *path, char out[65]);

/* Files compiled into the program (recipes, tasks, pages), by their path in the repository: "recipes/mistral-7b-qlora.yaml".
 * A file of that name under the current folder wins. */
struct pw_embedded { const char *name; const unsigned char *data; size_t bytes; };
extern const struct pw_embedded pw_embedded_files[]; /* ends with a NULL name; made by tools/embed */
int pw_embedded_read(const char *name, struct pw_buf *out);
#endif
