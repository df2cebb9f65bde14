/* The progress line. The only file below tools/ that writes to stderr, and only through a struct that tools/ switched on. */
#include "base/progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/text.h"

static const double TTY_EVERY = 0.1, LOG_EVERY = 10; /* seconds between two drawings */

double pw_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void pw_progress_start(struct pw_progress *p, const char *what, bool quiet)
{
    if (!p) return;
    *p = (struct pw_progress){ .on = !quiet, .tty = isatty(STDERR_FILENO) == 1, .started = pw_seconds(), .stop = p->stop };
    snprintf(p->what, sizeof p->what, "%s", what);
}

static int columns(void)
{
    struct winsize w;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col >= 20 ? w.ws_col : 80;
}

/* Cuts a text to n bytes without breaking a UTF-8 character. Columns are counted as bytes: a line may come out short, never long. */
static void cut(char *text, size_t n)
{
    size_t len = strlen(text);
    if (len <= n) return;
    while (n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80) n--;
    text[n] = 0;
}

static void wipe(struct pw_progress *p)
{
    if (p->tty && p->width > 0) fputs("\r\033[K", stderr);
    p->width = 0;
}

static void draw(struct pw_progress *p, char *line)
{
    if (p->tty) {
        cut(line, (size_t)columns() - 1);
        fprintf(stderr, "\r%s\033[K", line);
        fflush(stderr);
        p->width = (int)strlen(line);
    } else {
        fprintf(stderr, "%s\n", line);
    }
}

void pw_progress_at(struct pw_progress *p, int64_t done, int64_t total, const char *note)
{
    if (!p || !p->on) return;
    if (p->started == 0)        /* a command that did not start it: begins now */
        pw_progress_start(p, "working", false);
    double now = pw_seconds(), spent = now - p->started;
    bool last = total > 0 && done >= total;
    if (p->last_drawn > 0 && !last && now - p->last_drawn < (p->tty ? TTY_EVERY : LOG_EVERY)) return;
    p->last_drawn = now;
    char line[512], time[32], left[32];
    int n;
    pw_format_seconds(time, spent);
    if (total > 0) {
        double part = (double)done / (double)total;
        n = snprintf(line, sizeof line, "%s %3d%%  %lld/%lld  %s", p->what, (int)(100 * part), (long long)done, (long long)total, time);
        if (!last && done > 0 && n > 0 && (size_t)n < sizeof line) {
            pw_format_seconds(left, spent * (1 - part) / part);
            n += snprintf(line + n, sizeof line - (size_t)n, ", %s left", left);
        }
    } else {
        n = snprintf(line, sizeof line, "%s  %lld  %s", p->what, (long long)done, time);
    }
    if (note && note[0] && n > 0 && (size_t)n < sizeof line) snprintf(line + n, sizeof line - (size_t)n, "  %s", note);
    draw(p, line);
}

void pw_progress_end(struct pw_progress *p, const char *note)
{
    if (!p || !p->on) return;
    char line[512], time[32];
    pw_format_seconds(time, pw_seconds() - p->started);
    snprintf(line, sizeof line, "%s  done in %s%s%s", p->what, time, note && note[0] ? "  " : "", note ? note : "");
    draw(p, line);
    if (p->tty) fputc('\n', stderr);
    p->width = 0;
    p->last_drawn = 0;
}

void pw_progress_stop(struct pw_progress *p)
{
    if (!p || !p->on) return;
    if (p->tty && p->width > 0) fputc('\n', stderr);
    p->width = 0;
    p->last_drawn = 0;
}

void pw_progress_say(struct pw_progress *p, const char *fmt, ...)
{
    if (!p || !p->on) return;
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    wipe(p);
    fprintf(stderr, "%s\n", line);
    p->last_drawn = 0; /* the progress line comes back at the next call */
}

bool pw_progress_stopped(const struct pw_progress *p)
{
    return p && p->stop && p->stop();
}
