/* Reading: whole files, mappings, folders. Nothing here writes but pw_dir_make and pw_dir_remove (outfile.c does). */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

enum { DEPTH_MAX = 100, LIST_MAX = 1 << 20 };

int pw_file_read(const char *path, size_t limit, struct pw_buf *out)
{
    bool from_stdin = strcmp(path, "-") == 0;
    const char *shown = from_stdin ? "standard input" : path;
    int fd = -1, rc = 0;
    size_t start = out->len;
    if (limit == 0) limit = (size_t)4 << 30;
    fd = from_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    PW_CHECK_OUT(fd >= 0, PW_E_IO, "%s: cannot open: %s", shown, strerror(errno));
    struct stat st;
    PW_CHECK_OUT(fstat(fd, &st) == 0, PW_E_IO, "%s: cannot read: %s", shown, strerror(errno));
    PW_CHECK_OUT(!S_ISDIR(st.st_mode), PW_E_IO, "%s: is a folder, expected a file", shown);
    if (S_ISREG(st.st_mode) && st.st_size > 0)
        PW_CHECK_OUT((uint64_t)st.st_size <= limit, PW_E_FORMAT, "%s: file too large (at most %zu bytes, got %lld)", shown, limit,
                     (long long)st.st_size);
    for (;;) {
        char block[1 << 16];
        ssize_t n = read(fd, block, sizeof block);
        if (n < 0 && errno == EINTR) continue;
        PW_CHECK_OUT(n >= 0, PW_E_IO, "%s: cannot read: %s", shown, strerror(errno));
        if (n == 0) break;
        PW_CHECK_OUT((size_t)n <= limit - (out->len - start), PW_E_FORMAT, "%s: input too large (at most %zu bytes)", shown, limit);
        pw_buf_add(out, block, (size_t)n);
        if (out->failed) break;
    }
    pw_buf_add(out, "", 0); /* an empty file too has its NUL */
    PW_TRY_OUT(pw_buf_status(out), "reading %s", shown);
out:
    if (fd >= 0 && !from_stdin) close(fd);
    return rc;
}

bool pw_file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

bool pw_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int pw_file_size(const char *path, int64_t *bytes)
{
    struct stat st;
    PW_CHECK(stat(path, &st) == 0, PW_E_IO, "%s: %s", path, strerror(errno));
    PW_CHECK(S_ISREG(st.st_mode), PW_E_IO, "%s: not a file", path);
    *bytes = st.st_size;
    return 0;
}

/* ---- folders ---- */
int pw_dir_make(const char *path)
{
    char part[PATH_MAX];
    size_t n = strlen(path);
    PW_CHECK(n > 0 && n < sizeof part, PW_E_IO, "%s: %s", path, n ? "path too long" : "empty path");
    memcpy(part, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (part[i] != '/' && part[i] != 0) continue;
        char c = part[i];
        part[i] = 0;
        if (mkdir(part, 0777) != 0) {
            int why = errno;
            if (!pw_is_dir(part)) return pw_error(PW_E_IO, "%s: cannot make the folder: %s", part, strerror(why));
        }
        part[i] = c;
    }
    return 0;
}

static int remove_inside(int fd, const char *path, const char *keep, int depth);

/* Removes one name inside the open folder at. */
static int remove_name(int at, const char *name, const char *path, int depth)
{
    if (unlinkat(at, name, 0) == 0 || errno == ENOENT) return 0;
    PW_CHECK(errno == EISDIR || errno == EPERM, PW_E_IO, "%s/%s: cannot remove: %s", path, name, strerror(errno));
    int why = errno, fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return pw_error(PW_E_IO, "%s/%s: cannot remove: %s", path, name, strerror(why == EPERM ? why : errno));
    PW_PASS(remove_inside(fd, name, NULL, depth + 1));
    PW_CHECK(unlinkat(at, name, AT_REMOVEDIR) == 0, PW_E_IO, "%s/%s: cannot remove: %s", path, name, strerror(errno));
    return 0;
}

/* Empties the folder fd, but for the name `keep`, and closes it. */
static int remove_inside(int fd, const char *path, const char *keep, int depth)
{
    int rc = 0;
    DIR *d = fdopendir(fd);
    if (!d) {
        rc = pw_error(PW_E_IO, "%s: cannot list: %s", path, strerror(errno));
        close(fd);
        return rc;
    }
    PW_CHECK_OUT(depth <= DEPTH_MAX, PW_E_IO, "%s: folders nested deeper than %d", path, DEPTH_MAX);
    for (;;) {
        errno = 0;
        struct dirent *e = readdir(d);
        if (!e) break;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (keep && strcmp(e->d_name, keep) == 0) continue;
        PW_PASS_OUT(remove_name(dirfd(d), e->d_name, path, depth));
    }
    PW_CHECK_OUT(errno == 0, PW_E_IO, "%s: cannot list: %s", path, strerror(errno));
out:
    closedir(d);
    return rc;
}

int pw_dir_clear(const char *path, const char *keep)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    PW_CHECK(fd >= 0, PW_E_IO, "%s: cannot open the folder: %s", path, strerror(errno));
    PW_TRY(remove_inside(fd, path, keep, 0), "removing %s", path);
    return 0;
}

int pw_dir_remove(const char *path)
{
    PW_PASS(pw_dir_clear(path, NULL));
    PW_CHECK(rmdir(path) == 0, PW_E_IO, "%s: cannot remove: %s", path, strerror(errno));
    return 0;
}

static int compare_names(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int pw_dir_list(struct pw_arena *a, const char *path, char ***names, size_t *n)
{
    int rc = 0;
    char **list = NULL;
    size_t len = 0, cap = 0;
    DIR *d = opendir(path);
    PW_CHECK(d, PW_E_IO, "%s: cannot list: %s", path, strerror(errno));
    for (;;) {
        errno = 0;
        struct dirent *e = readdir(d);
        if (!e) break;
        if (e->d_name[0] == '.') continue;
        PW_CHECK_OUT(len < LIST_MAX, PW_E_UNSUPPORTED, "%s: more than %d names in one folder", path, LIST_MAX);
        if (len == cap) {
            size_t more = cap ? 2 * cap : 32;
            char **grown = pw_arena_array(a, more, sizeof *grown);
            PW_CHECK_OUT(grown, PW_E_NOMEM, "%s: out of memory listing %zu names", path, more);
            if (len) memcpy(grown, list, len * sizeof *list);
            list = grown;
            cap = more;
        }
        list[len] = pw_arena_strndup(a, e->d_name, strlen(e->d_name));
        PW_CHECK_OUT(list[len], PW_E_NOMEM, "%s: out of memory listing names", path);
        len++;
    }
    PW_CHECK_OUT(errno == 0, PW_E_IO, "%s: cannot list: %s", path, strerror(errno));
    if (len) qsort(list, len, sizeof *list, compare_names);
    *names = list;
    *n = len;
out:
    closedir(d);
    return rc;
}

/* ---- mappings ---- */
int pw_map_open(struct pw_map *m, const char *path)
{
    int rc = 0, fd = open(path, O_RDONLY | O_CLOEXEC);
    *m = (struct pw_map){ 0 };
    PW_CHECK(fd >= 0, PW_E_IO, "%s: cannot open: %s", path, strerror(errno));
    struct stat st;
    PW_CHECK_OUT(fstat(fd, &st) == 0, PW_E_IO, "%s: cannot read: %s", path, strerror(errno));
    PW_CHECK_OUT(S_ISREG(st.st_mode), PW_E_IO, "%s: not a file", path);
    if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        PW_CHECK_OUT(p != MAP_FAILED, errno == ENOMEM ? PW_E_NOMEM : PW_E_IO, "%s: cannot map %lld bytes: %s", path,
                     (long long)st.st_size, strerror(errno));
        *m = (struct pw_map){ .data = p, .bytes = (size_t)st.st_size, .base = p };
    }
out:
    close(fd);
    return rc;
}

void pw_map_close(struct pw_map *m)
{
    if (m->base) munmap(m->base, m->bytes);
    *m = (struct pw_map){ 0 };
}

bool pw_map_has(const struct pw_map *m, const void *at)
{
    return m->base && (const uint8_t *)at >= m->data && (size_t)((const uint8_t *)at - m->data) < m->bytes;
}

bool pw_map_forget(const struct pw_map *m, const void *at, size_t bytes)
{
    const uintptr_t around = (uintptr_t)1 << 16;   /* the kernel maps that much around a page that is read */
    if (!pw_map_has(m, at) || bytes > m->bytes - (size_t)((const uint8_t *)at - m->data)) return false;
    uintptr_t first = (uintptr_t)at & ~(around - 1), last = ((uintptr_t)at + bytes + around - 1) & ~(around - 1);
    if (first < (uintptr_t)m->base) first = (uintptr_t)m->base;
    if (last > (uintptr_t)m->base + m->bytes) last = (uintptr_t)m->base + m->bytes;
    if (last > first) (void)madvise((void *)first, last - first, MADV_DONTNEED);   /* advice: what comes of it does not matter */
    return true;
}

/* ---- paths ---- */
char *pw_path_join(struct pw_arena *a, const char *dir, const char *name)
{
    size_t n = strlen(dir);
    if (n == 0 || name[0] == '/') return pw_arena_strndup(a, name, strlen(name));
    return pw_arena_printf(a, dir[n - 1] == '/' ? "%s%s" : "%s/%s", dir, name);
}

const char *pw_path_base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}
