/* Errors: a code and a per-thread trail of what was being done.
 *
 * Every function that can fail returns 0 or a negative enum pw_code. The one that finds the fault writes what and where
 * (PW_CHECK, PW_FAIL); each caller that passes it upward may add what it was doing (PW_TRY). The trail is printed by
 * tools/ alone:   pw: while A: while B: what, where (expected, got)
 * A fault may carry one hint, "the way out", printed on a second line.
 * This file knows nothing of files, models or exit statuses other than the mapping below. */
#ifndef PW_BASE_ERROR_H
#define PW_BASE_ERROR_H

#include <stdarg.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif
enum pw_code {
    PW_OK = 0,
    PW_E_FAIL = -1,         /* something went wrong while working: exit 1 */
    PW_E_USAGE = -2,        /* wrong option, key or argument: exit 2 */
    PW_E_REFUSED = -3,      /* refused before the start (does not fit, nothing to train on, output exists): exit 3 */
    PW_E_INTERRUPTED = -4,  /* stopped by the user with state saved: exit 130 */
    PW_E_FORMAT = -10,      /* bytes that are not what they claim to be: exit 1 */
    PW_E_IO = -11,          /* the system said no: exit 1 */
    PW_E_NOMEM = -12,       /* exit 1 */
    PW_E_UNSUPPORTED = -13, /* well formed, but not supported by this program: exit 1 */
    PW_E_NUMERIC = -14,     /* NaN or infinity where a number is due: exit 1 */
};

/* Starts a new trail with one message. Returns code, so that `return pw_error(...)` reads well. */
int pw_error(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Adds "while ..." in front of the trail. Returns code. */
int pw_error_while(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Sets the line with the way out. */
void pw_error_hint(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* The whole trail as one line, "while A: while B: what". Empty when there is none. Owned by the thread, valid until the
 * next call on this thread. Control characters in it are escaped, so that a hostile file name cannot drive a terminal. */
const char *pw_error_text(void);
const char *pw_error_hint_text(void); /* "" when there is none */
void pw_error_clear(void);
int pw_error_exit_status(int code);   /* 0, 1, 2, 3 or 130 */

/* cond must hold: otherwise record the message and return code from the calling function. */
#define PW_CHECK(cond, code, ...) do { if (!(cond)) return pw_error((code), __VA_ARGS__); } while (0)
/* Pass a failure upward, saying what was being done. */
#define PW_TRY(call, ...) do { int pw_rc_ = (call); if (pw_rc_ < 0) return pw_error_while(pw_rc_, __VA_ARGS__); } while (0)
/* The same two for functions with one exit: they set `rc` and jump to `out`. */
#define PW_CHECK_OUT(cond, code, ...) do { if (!(cond)) { rc = pw_error((code), __VA_ARGS__); goto out; } } while (0)
#define PW_TRY_OUT(call, ...) do { rc = (call); if (rc < 0) { (void)pw_error_while(rc, __VA_ARGS__); goto out; } } while (0)
/* Pass a failure upward without a word. */
#define PW_PASS(call) do { int pw_rc_ = (call); if (pw_rc_ < 0) return pw_rc_; } while (0)
#define PW_PASS_OUT(call) do { rc = (call); if (rc < 0) goto out; } while (0)

#ifdef __cplusplus
}
#endif
#endif
