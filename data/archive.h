/* Archives: a POSIX ustar (IEEE 1003.1) compressed with Zstandard, small enough to be held in memory.
 *
 * Writing is deterministic: entries in the order given, mode 0644, owner 0, time 0, one frame with a checksum at a fixed level.
 * Reading is strict: regular files only, relative names without "." or ".." parts, no name twice, checksums right, limits on number and
 * size before anything is taken. Knows nothing of what the files mean. */
#ifndef PW_DATA_ARCHIVE_H
#define PW_DATA_ARCHIVE_H
#include "base/file.h"

struct pw_archive_file { const char *name; const void *data; size_t bytes; };
int pw_archive_write(const char *path, const struct pw_archive_file *files, size_t n, bool force);
/* Everything lives in a. limit: most bytes when unpacked. */
int pw_archive_read(const char *path, size_t limit, struct pw_arena *a, struct pw_archive_file **files, size_t *n);
#endif
