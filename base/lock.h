/* One process at a time: an exclusive lock on a small file that holds the owner's process id.
 *
 * The kernel drops the lock when its process ends, however it ends, so the file of a killed process blocks nobody. Dropping the lock removes
 * the file. Works across processes of one machine, and on network file systems as far as they pass flock on. */
#ifndef PW_BASE_LOCK_H
#define PW_BASE_LOCK_H

struct pw_lock { int fd; char *path; };         /* zeroed: holds nothing */
/* PW_E_REFUSED, naming `what` and the owner, when another process (or another lock of this one) has it. Does not wait. */
int pw_lock_take(struct pw_lock *l, const char *path, const char *what);
void pw_lock_drop(struct pw_lock *l);           /* fine on a zeroed struct */
#endif
