/* Locks by flock on a file that is removed with the lock (see the header). */
#include "base/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/memory.h"

static int busy(int fd, const char *what)
{
    char pid[24] = "";
    ssize_t n = pread(fd, pid, sizeof pid - 1, 0);
    pid[n > 0 ? strspn(pid, "0123456789") : 0] = 0;
    int rc = pw_error(PW_E_REFUSED, "%s is in use by another process%s%s", what, pid[0] ? ", " : "", pid);
    pw_error_hint("wait for it or stop it; a process that was killed leaves nothing to clean up");
    return rc;
}

/* The file at path may have been removed by the owner between open and flock: then the lock is one on a file that nobody can find. */
static bool still_there(int fd, const char *path)
{
    struct stat ours, named;
    return fstat(fd, &ours) == 0 && stat(path, &named) == 0 && ours.st_dev == named.st_dev && ours.st_ino == named.st_ino;
}

int pw_lock_take(struct pw_lock *l, const char *path, const char *what)
{
    char pid[24];
    int rc = 0, fd = -1;
    *l = (struct pw_lock){ 0 };
    for (;;) {
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        PW_CHECK(fd >= 0, PW_E_IO, "%s: cannot write: %s", path, strerror(errno));
        if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
            rc = errno == EWOULDBLOCK ? busy(fd, what) : pw_error(PW_E_IO, "%s: cannot be locked: %s", path, strerror(errno));
            goto out;
        }
        if (still_there(fd, path)) break;
        close(fd);
    }
    snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
    const size_t n = strlen(pid);
    PW_CHECK_OUT(ftruncate(fd, 0) == 0 && pwrite(fd, pid, n, 0) == (ssize_t)n, PW_E_IO, "%s: cannot write: %s", path, strerror(errno));
    l->path = pw_strdup(path);
    PW_CHECK_OUT(l->path, PW_E_NOMEM, "%s: out of memory", path);
    l->fd = fd;
out:
    if (rc < 0) {
        if (rc != PW_E_REFUSED && still_there(fd, path)) unlink(path);
        close(fd);
    }
    return rc;
}

void pw_lock_drop(struct pw_lock *l)
{
    if (!l->path) return;
    if (still_there(l->fd, l->path)) unlink(l->path); /* before the lock goes, so that no other owner's file is removed */
    close(l->fd);
    pw_free(l->path);
    *l = (struct pw_lock){ 0 };
}
