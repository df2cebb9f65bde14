/* Outputs that appear whole or not at all. The temporary is a hidden name beside the target, ".NAME.PID.N.part", so that the
 * rename stays inside one file system and a crash leaves something a person can recognise. Every step that can fail on a full
 * disk (write, flush, fsync, close) is checked before the rename.
 *
 * Without force the target appears by link or by rename-without-replacing, so a file that somebody else made meanwhile is
 * kept. Special files (/dev/null, a pipe) are written to directly: there is nothing to rename. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"

static atomic_uint temp_number;

/* Copies path without trailing slashes ("/" stays). NULL when there is no memory. */
static char *trimmed(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    return pw_strndup(path, n);
}

/* The folder that holds path, into out: "." for a bare name. */
static int folder_of(const char *path, char out[PATH_MAX])
{
    size_t n = (size_t)(pw_path_base(path) - path);
    PW_CHECK(n < PATH_MAX, PW_E_IO, "%s: path too long", path);
    while (n > 1 && path[n - 1] == '/') n--;
    memcpy(out, n ? path : ".", n ? n : 1);
    out[n ? n : 1] = 0;
    return 0;
}

/* A hidden name beside path that ends with tag. NULL when there is no memory. */
static char *beside(const char *path, const char *tag)
{
    struct pw_buf b = { 0 };
    const char *base = pw_path_base(path);
    size_t keep = strlen(base);
    if (keep > 200) keep = 200; /* the name with its additions stays below NAME_MAX */
    pw_buf_add(&b, path, (size_t)(base - path));
    pw_buf_char(&b, '.');
    pw_buf_add(&b, base, keep);
    pw_buf_printf(&b, ".%ld.%u.%s", (long)getpid(), atomic_fetch_add(&temp_number, 1), tag);
    if (b.failed) pw_buf_free(&b);
    return b.data;
}

/* Makes a finished rename durable. Some file systems refuse fsync on folders (EINVAL); then there is nothing to wait for. */
static int sync_folder(const char *path)
{
    char dir[PATH_MAX];
    PW_PASS(folder_of(path, dir));
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == EACCES) return 0; /* a folder that can be written but not read */
    PW_CHECK(fd >= 0, PW_E_IO, "%s: cannot open the folder: %s", dir, strerror(errno));
    int bad = fsync(fd) != 0 && errno != EINVAL ? errno : 0;
    close(fd);
    PW_CHECK(!bad, PW_E_IO, "%s: cannot flush the folder: %s", dir, strerror(bad));
    return 0;
}

static int refuse_existing(const char *path)
{
    pw_error(PW_E_REFUSED, "%s: exists", path);
    pw_error_hint("add --force to replace it");
    return PW_E_REFUSED;
}

static int no_memory(const char *path) { return pw_error(PW_E_NOMEM, "%s: out of memory opening the output", path); }

/* Renames from to to; without force a target that exists is refused, atomically where the file system can. */
static int appear(const char *from, const char *to, bool force)
{
    if (force) {
        PW_CHECK(rename(from, to) == 0, PW_E_IO, "%s: cannot rename into place: %s", to, strerror(errno));
        return 0;
    }
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) return 0;
    if (errno == EEXIST) return refuse_existing(to);
    PW_CHECK(errno == EINVAL || errno == ENOSYS || errno == ENOTSUP, PW_E_IO, "%s: cannot rename into place: %s", to, strerror(errno));
    struct stat st;
    if (lstat(to, &st) == 0) return refuse_existing(to);
    PW_CHECK(rename(from, to) == 0, PW_E_IO, "%s: cannot rename into place: %s", to, strerror(errno));
    return 0;
}

int pw_out_check(const char *path, bool force)
{
    struct stat st;
    char dir[PATH_MAX];
    PW_CHECK(path[0], PW_E_USAGE, "the output path is empty");
    if (lstat(path, &st) == 0) {
        if (S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode)) return 0;
        if (!force) return refuse_existing(path);
    } else {
        PW_CHECK(errno == ENOENT, PW_E_IO, "%s: cannot write: %s", path, strerror(errno));
    }
    char *name = trimmed(path);
    if (!name) return no_memory(path);
    int rc = folder_of(name, dir);
    pw_free(name);
    PW_PASS(rc);
    PW_CHECK(stat(dir, &st) == 0, PW_E_IO, "%s: cannot write: folder %s: %s", path, dir, strerror(errno));
    PW_CHECK(S_ISDIR(st.st_mode), PW_E_IO, "%s: cannot write: %s is not a folder", path, dir);
    PW_CHECK(access(dir, W_OK | X_OK) == 0, PW_E_IO, "%s: cannot write: folder %s: %s", path, dir, strerror(errno));
    return 0;
}

/* ---- one file ---- */
int pw_out_open(struct pw_out *o, const char *path, bool force)
{
    *o = (struct pw_out){ .replace = force };
    PW_PASS(pw_out_check(path, force));
    struct stat st;
    bool there = stat(path, &st) == 0, special = there && (S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode));
    PW_CHECK(!(there && S_ISDIR(st.st_mode)), PW_E_IO, "%s: is a folder, a file would be written", path);
    int rc = 0, fd = -1;
    o->path = pw_strdup(path);
    if (!o->path) {
        rc = no_memory(path);
        goto out;
    }
    if (special) {
        fd = open(path, O_WRONLY | O_CLOEXEC);
    } else {
        o->temp = beside(path, "part");
        if (!o->temp) {
            rc = no_memory(path);
            goto out;
        }
        fd = open(o->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, there ? st.st_mode & 0777 : 0666);
    }
    if (fd < 0) {
        rc = pw_error(PW_E_IO, "%s: cannot write: %s", path, strerror(errno));
        pw_free(o->temp); /* nothing was made: nothing to unlink */
        o->temp = NULL;
        goto out;
    }
    o->f = fdopen(fd, "wb");
    if (!o->f) {
        rc = pw_error(PW_E_IO, "%s: cannot write: %s", path, strerror(errno));
        close(fd);
    }
out:
    if (rc < 0) pw_out_abort(o);
    return rc;
}

int pw_out_write(struct pw_out *o, const void *bytes, size_t n)
{
    errno = 0;
    PW_CHECK(n == 0 || fwrite(bytes, 1, n, o->f) == n, PW_E_IO, "%s: cannot write: %s", o->path, strerror(errno ? errno : EIO));
    return 0;
}

int pw_out_commit(struct pw_out *o)
{
    int rc = 0;
    errno = 0;
    PW_CHECK_OUT(fflush(o->f) == 0 && !ferror(o->f), PW_E_IO, "%s: cannot write: %s", o->path, strerror(errno ? errno : EIO));
    PW_CHECK_OUT(!o->temp || fsync(fileno(o->f)) == 0, PW_E_IO, "%s: cannot write: %s", o->path, strerror(errno));
    int bad = fclose(o->f) != 0 ? errno : 0;
    o->f = NULL;
    PW_CHECK_OUT(!bad, PW_E_IO, "%s: cannot write: %s", o->path, strerror(bad));
    if (o->temp) {
        PW_PASS_OUT(appear(o->temp, o->path, o->replace));
        pw_free(o->temp);
        o->temp = NULL;
        PW_PASS_OUT(sync_folder(o->path));
    }
out:
    pw_out_abort(o);
    return rc;
}

void pw_out_abort(struct pw_out *o)
{
    if (o->f) fclose(o->f);
    if (o->temp) unlink(o->temp);
    pw_free(o->temp);
    pw_free(o->path);
    *o = (struct pw_out){ 0 };
}

int pw_file_write(const char *path, const void *bytes, size_t n, bool force)
{
    struct pw_out o;
    PW_PASS(pw_out_open(&o, path, force));
    int rc = pw_out_write(&o, bytes, n);
    if (rc == 0) rc = pw_out_commit(&o);
    pw_out_abort(&o);
    return rc;
}

int pw_file_copy(const char *from, const char *to)
{
    struct pw_map map;
    PW_PASS(pw_map_open(&map, from));
    int rc = pw_file_write(to, map.bytes ? (const char *)map.data : "", map.bytes, false);
    pw_map_close(&map);
    return rc;
}

/* ---- one folder ---- */
int pw_outdir_open(struct pw_outdir *o, const char *path, bool force)
{
    *o = (struct pw_outdir){ .force = force };
    PW_PASS(pw_out_check(path, force));
    struct stat st;
    PW_CHECK(lstat(path, &st) != 0 || S_ISDIR(st.st_mode), PW_E_IO, "%s: is not a folder, a folder would be written", path);
    int rc = 0;
    o->path = trimmed(path);
    o->temp = o->path ? beside(o->path, "part") : NULL;
    if (!o->temp) {
        rc = no_memory(path);
    } else if (mkdir(o->temp, 0777) != 0) {
        rc = pw_error(PW_E_IO, "%s: cannot write: %s", path, strerror(errno));
        pw_free(o->temp);
        o->temp = NULL;
    }
    if (rc < 0) pw_outdir_abort(o);
    return rc;
}

/* fsync of every file and folder below path. Libraries that write for us (HDF5, SQLite) do not do it. */
static int sync_tree(const char *path, int depth)
{
    PW_CHECK(depth <= 100, PW_E_IO, "%s: folders nested deeper than 100", path);
    struct pw_arena a;
    char **names;
    size_t n;
    int rc, fd = -1;
    pw_arena_init(&a);
    PW_PASS_OUT(pw_dir_list(&a, path, &names, &n));
    for (size_t i = 0; i <= n; i++) { /* the folder itself comes last */
        const char *name = i < n ? pw_path_join(&a, path, names[i]) : path;
        struct stat st;
        PW_CHECK_OUT(name, PW_E_NOMEM, "%s: out of memory", path);
        PW_CHECK_OUT(lstat(name, &st) == 0, PW_E_IO, "%s: cannot write: %s", name, strerror(errno));
        if (i < n && S_ISDIR(st.st_mode)) {
            PW_PASS_OUT(sync_tree(name, depth + 1));
            continue;
        }
        if (i < n && !S_ISREG(st.st_mode)) continue;
        fd = open(name, O_RDONLY | O_CLOEXEC);
        PW_CHECK_OUT(fd >= 0, PW_E_IO, "%s: cannot write: %s", name, strerror(errno));
        PW_CHECK_OUT(fsync(fd) == 0 || errno == EINVAL, PW_E_IO, "%s: cannot write: %s", name, strerror(errno));
        close(fd);
        fd = -1;
    }
out:
    if (fd >= 0) close(fd);
    pw_arena_free(&a);
    return rc;
}

int pw_outdir_commit(struct pw_outdir *o)
{
    int rc;
    char *aside = NULL;
    PW_TRY_OUT(sync_tree(o->temp, 0), "writing %s", o->path);
    struct stat st;
    if (o->force && lstat(o->path, &st) == 0) {
        aside = beside(o->path, "old");
        if (!aside) {
            rc = no_memory(o->path);
            goto out;
        }
        PW_CHECK_OUT(rename(o->path, aside) == 0, PW_E_IO, "%s: cannot move the old folder aside: %s", o->path, strerror(errno));
    }
    rc = appear(o->temp, o->path, false);
    if (rc < 0) {
        if (aside && rename(aside, o->path) != 0) pw_error_hint("the old folder is at %s", aside);
        goto out;
    }
    pw_free(o->temp);
    o->temp = NULL;
    PW_PASS_OUT(sync_folder(o->path));
    if (aside) PW_TRY_OUT(pw_dir_remove(aside), "removing what stood at %s before", o->path);
out:
    pw_free(aside);
    pw_outdir_abort(o);
    return rc;
}

void pw_outdir_abort(struct pw_outdir *o)
{
    /* The trail tells why the work failed; that the temporary could not be removed as well must not hide it. */
    if (o->temp) {
        char text[512], hint[512];
        snprintf(text, sizeof text, "%s", pw_error_text());
        snprintf(hint, sizeof hint, "%s", pw_error_hint_text());
        if (pw_dir_remove(o->temp) < 0) {
            if (text[0]) pw_error(PW_E_IO, "%s", text);
            else pw_error_clear();
            pw_error_hint("%s%sremove %s yourself", hint, hint[0] ? "; " : "", o->temp);
        }
    }
    pw_free(o->temp);
    pw_free(o->path);
    *o = (struct pw_outdir){ 0 };
}

/* ---- what a killed process left ---- */
/* Is it ".NAME.PID.N.part" or ".NAME.PID.N.old"? Then the length of NAME, else 0. */
static size_t left_over(const char *s, bool *old)
{
    static const char *const tags[] = { ".part", ".old" };
    size_t n = strlen(s);
    if (s[0] != '.') return 0;
    for (int k = 0; k < 2; k++) {
        const size_t tag = strlen(tags[k]);
        if (n <= tag || strcmp(s + n - tag, tags[k]) != 0) continue;
        n -= tag;
        for (int number = 0; number < 2; number++) {
            const size_t end = n;
            while (n > 0 && s[n - 1] >= '0' && s[n - 1] <= '9') n--;
            if (n == end || n < 3 || s[n - 1] != '.') return 0;
            n--;
        }
        *old = k == 1;
        return n - 1;
    }
    return 0;
}

static int sweep(const char *dir, const char *name, size_t n, bool old)
{
    char path[PATH_MAX], target[PATH_MAX];
    struct stat st;
    PW_CHECK((size_t)snprintf(path, sizeof path, "%s/%s", dir, name) < sizeof path, PW_E_IO, "%s: path too long", dir);
    snprintf(target, sizeof target, "%s/%.*s", dir, (int)n, name + 1);
    if (lstat(path, &st) != 0) return 0;
    const bool folder = S_ISDIR(st.st_mode);
    if (old && lstat(target, &st) != 0 && errno == ENOENT) return appear(path, target, false);
    if (folder) return pw_dir_remove(path);
    PW_CHECK(unlink(path) == 0 || errno == ENOENT, PW_E_IO, "%s: cannot remove: %s", path, strerror(errno));
    return 0;
}

int pw_out_sweep(const char *dir)
{
    DIR *d = opendir(dir);
    PW_CHECK(d, PW_E_IO, "%s: cannot list: %s", dir, strerror(errno));
    int rc = 0;
    for (struct dirent *e; rc == 0 && (e = readdir(d));) { /* what is removed or renamed meanwhile may or may not be seen again */
        bool old = false;
        const size_t n = left_over(e->d_name, &old);
        if (n > 0) rc = sweep(dir, e->d_name, n, old);
    }
    closedir(d);
    return rc;
}
