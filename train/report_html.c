/* See report_html.h. */
#include "train/report_html.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"

enum { WIDE = 720, HIGH = 240, LEFT = 70, RIGHT = 12, TOP = 12, BOTTOM = 30, COLUMNS = 400 };

enum quantity { LOSS, EVAL_LOSS, LR, GRAD_NORM, TOKENS_PER_S, MEMORY };

static bool take(const struct pw_log_line *line, enum quantity q, double *y)
{
    if (line->is_eval != (q == EVAL_LOSS))
        return false;
    switch (q) {
    case LOSS: case EVAL_LOSS: *y = line->s.loss; break;
    case LR: *y = line->s.lr; break;
    case GRAD_NORM: *y = line->s.grad_norm; break;
    case TOKENS_PER_S: *y = line->s.tokens_per_s; break;
    case MEMORY: *y = (double)line->s.memory_bytes / (1 << 20); break;
    }
    return isfinite(*y);
}

static void escaped(struct pw_buf *out, const char *s)
{
    for (; *s; s++)
        switch (*s) {
        case '&': pw_buf_str(out, "&amp;"); break;
        case '<': pw_buf_str(out, "&lt;"); break;
        case '>': pw_buf_str(out, "&gt;"); break;
        case '"': pw_buf_str(out, "&quot;"); break;
        default: pw_buf_char(out, *s);
        }
}

/* ---- one chart ---- */

struct frame { double x0, x1, y0, y1; size_t points; };

static void widen(struct frame *f, const struct pw_log_line *lines, size_t n, enum quantity q)
{
    for (size_t i = 0; i < n; i++) {
        double x = (double)lines[i].s.step, y;
        if (!take(&lines[i], q, &y))
            continue;
        f->x0 = f->points && f->x0 < x ? f->x0 : x;
        f->x1 = f->points && f->x1 > x ? f->x1 : x;
        f->y0 = f->points && f->y0 < y ? f->y0 : y;
        f->y1 = f->points && f->y1 > y ? f->y1 : y;
        f->points++;
    }
}

static double at_x(const struct frame *f, double x) { return LEFT + (x - f->x0) / (f->x1 - f->x0) * (WIDE - LEFT - RIGHT); }
static double at_y(const struct frame *f, double y) { return HIGH - BOTTOM - (y - f->y0) / (f->y1 - f->y0) * (HIGH - TOP - BOTTOM); }

/* 1, 2 or 5 times a power of ten: about `parts` of it fit between a and b. */
static double nice(double a, double b, double parts)
{
    const double raw = (b - a) / parts, ten = pow(10, floor(log10(raw))), share = raw / ten;
    return ten * (share <= 1 ? 1 : share <= 2 ? 2 : share <= 5 ? 5 : 10);
}

static void grid(struct pw_buf *out, const struct frame *f)
{
    const double dy = nice(f->y0, f->y1, 4), dx = fmax(1, nice(f->x0, f->x1, 8));
    const double first_y = ceil(f->y0 / dy), first_x = ceil(f->x0 / dx);
    for (int i = 0; i < 12 && (first_y + i) * dy <= f->y1; i++) {
        const double y = at_y(f, (first_y + i) * dy);
        pw_buf_printf(out, "<line class=\"g\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.6g</text>\n", LEFT,
                      WIDE - RIGHT, y, y, LEFT - 6, y + 4, (first_y + i) * dy);
    }
    for (int i = 0; i < 24 && (first_x + i) * dx <= f->x1; i++)
        pw_buf_printf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.6g</text>\n", at_x(f, (first_x + i) * dx), HIGH - BOTTOM + 18, (first_x + i) * dx);
}

/* A line through all points; where several fall into a column, through the lowest and the highest of it, so that no spike is lost. */
static void curve(struct pw_buf *out, const struct frame *f, const struct pw_log_line *lines, size_t n, enum quantity q, const char *class)
{
    double low = 0, high = 0, x_low = 0, x_high = 0, y;
    int column = -1;
    pw_buf_printf(out, "<polyline class=\"%s\" points=\"", class);
    for (size_t i = 0; i <= n; i++) {
        if (i < n && !take(&lines[i], q, &y))
            continue;
        const double x = i < n ? (double)lines[i].s.step : 0;
        const int here = i < n ? (int)((x - f->x0) / (f->x1 - f->x0) * COLUMNS) : -2;
        if (here != column && column >= 0) {
            const bool rises = x_low <= x_high;
            pw_buf_printf(out, "%.1f,%.1f ", at_x(f, rises ? x_low : x_high), at_y(f, rises ? low : high));
            if (x_low != x_high)
                pw_buf_printf(out, "%.1f,%.1f ", at_x(f, rises ? x_high : x_low), at_y(f, rises ? high : low));
        }
        if (i == n)
            break;
        if (here != column || y < low)
            low = y, x_low = x;
        if (here != column || y > high)
            high = y, x_high = x;
        column = here;
    }
    pw_buf_str(out, "\"/>\n");
}

static void dots(struct pw_buf *out, const struct frame *f, const struct pw_log_line *lines, size_t n, enum quantity q)
{
    double y;
    size_t count = 0;
    for (size_t i = 0; i < n && count < 1000; i++)
        if (take(&lines[i], q, &y)) {
            pw_buf_printf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>\n", at_x(f, (double)lines[i].s.step), at_y(f, y));
            count++;
        }
}

static void chart(struct pw_buf *out, const char *title, const struct pw_log_line *lines, size_t n, enum quantity q, bool with_eval)
{
    struct frame f = {0};
    widen(&f, lines, n, q);
    if (with_eval)
        widen(&f, lines, n, EVAL_LOSS);
    if (f.points == 0)
        return;
    if (q == TOKENS_PER_S || q == MEMORY)
        f.y0 = 0;
    if (!(f.y1 > f.y0)) {        /* a constant lies in the middle */
        const double half = f.y0 != 0 ? fabs(f.y0) / 2 : 1;
        f.y0 -= half, f.y1 += half;
    }
    if (!(f.x1 > f.x0))
        f.x0 -= 1, f.x1 += 1;
    pw_buf_printf(out, "<h2>%s</h2>\n<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">\n", title, WIDE, HIGH, title);
    grid(out, &f);
    curve(out, &f, lines, n, q, "c");
    if (with_eval) {
        curve(out, &f, lines, n, EVAL_LOSS, "e");
        dots(out, &f, lines, n, EVAL_LOSS);
    }
    pw_buf_str(out, "</svg>\n");
}

/* ---- the page ---- */

static void number_row(struct pw_buf *out, const char *name, double x)
{
    char text[32];
    pw_format_f64(text, x);
    pw_buf_printf(out, "<tr><th>%s</th><td>%s</td></tr>\n", name, text);
}

static void numbers(struct pw_buf *out, const struct pw_log_line *lines, size_t n)
{
    const struct pw_log_line *last = NULL, *eval = NULL, *best = NULL;
    double tokens = 0, trained = 0, most = 0;
    for (size_t i = 0; i < n; i++) {
        const struct pw_log_line *l = &lines[i];
        if (l->is_eval) {
            eval = l;
            if (l->s.step > 0 && (!best || l->s.loss < best->s.loss))
                best = l;
            continue;
        }
        last = l;
        tokens += (double)l->s.tokens;
        trained += (double)l->s.trained_tokens;
        most = fmax(most, (double)l->s.memory_bytes);
    }
    if (!last) {
        pw_buf_str(out, "<p>No step has been taken.</p>\n");
        return;
    }
    pw_buf_str(out, "<table>\n");
    number_row(out, "steps", (double)last->s.step);
    number_row(out, "loss of the last step", last->s.loss);
    if (eval)
        number_row(out, "last held-out loss", eval->s.loss);
    if (best) {
        number_row(out, "lowest held-out loss", best->s.loss);
        number_row(out, "at step", (double)best->s.step);
    }
    number_row(out, "tokens", tokens);
    number_row(out, "trained tokens", trained);
    number_row(out, "seconds", last->s.seconds);
    number_row(out, "most memory after a step, MiB", most / (1 << 20));
    pw_buf_str(out, "</table>\n");
}

void pw_report_html(struct pw_buf *out, const struct pw_log_line *lines, size_t n, const char *title, const char *recipe)
{
    double y;
    bool with_eval = false;
    for (size_t i = 0; i < n; i++)
        with_eval |= take(&lines[i], EVAL_LOSS, &y);
    pw_buf_str(out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>");
    escaped(out, title);
    pw_buf_str(out, "</title>\n<style>\nbody { font: 15px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }\n"
                    "h1 { font-size: 1.3rem } h2 { font-size: 1rem; margin: 1.5rem 0 0 }\nsvg { width: 100%; height: auto } svg text { font-size: 11px; fill: #555 }\n"
                    ".g { stroke: #ddd } polyline { fill: none; stroke-width: 1.5 } .c { stroke: #1f6fb2 } .e { stroke: #c0392b } circle { fill: #c0392b }\n"
                    "th { text-align: left; font-weight: normal; padding-right: 2rem } td { text-align: right; font-variant-numeric: tabular-nums }\n"
                    "pre { background: #f5f5f5; padding: 1rem; overflow-x: auto }\n</style>\n</head>\n<body>\n<h1>");
    escaped(out, title);
    pw_buf_str(out, "</h1>\n");
    numbers(out, lines, n);
    chart(out, with_eval ? "Loss (blue: training, red: held out), by step" : "Loss, by step", lines, n, LOSS, with_eval);
    if (with_eval)
        chart(out, "Held-out loss", lines, n, EVAL_LOSS, false);
    chart(out, "Learning rate", lines, n, LR, false);
    chart(out, "Norm of the gradient, before clipping", lines, n, GRAD_NORM, false);
    chart(out, "Tokens a second", lines, n, TOKENS_PER_S, false);
    chart(out, "Resident memory, MiB", lines, n, MEMORY, false);
    pw_buf_str(out, "<h2>Recipe</h2>\n<pre>");
    escaped(out, recipe);
    pw_buf_str(out, "</pre>\n</body>\n</html>\n");
}

int pw_report_html_write(const struct pw_log_line *lines, size_t n, const char *title, const char *recipe, const char *path)
{
    struct pw_buf out = {0};
    int rc = 0;
    pw_report_html(&out, lines, n, title, recipe);
    PW_PASS_OUT(pw_buf_status(&out));
    PW_PASS_OUT(pw_file_write(path, out.data, out.len, true));
out:
    pw_buf_free(&out);
    return rc;
}
