/* From a Jinja chat template to Go's (see the header). */
#include "data/go_template.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"

enum { MOST = 8 };
static const int64_t clocks[2] = {1700000000, 1800000000};
/* Contents of probes: short, of letters that no template writes, found by search. */
static const char *const marks[MOST] = {"zqvA", "zqvB", "zqvC", "zqvD", "zqvE", "zqvF", "zqvG", "zqvH"};
static const char *const texts[MOST] = {"One question:\nwhat is 2 + 2?", "It is 4.", "Why? Say \"<why>\".\n\n- shortly", "Because {x: 2}.", "x", "y", "z", "w"};

struct probe { struct pw_arena *a; const struct pw_chat *c; const char *bos; };

static const char *role_name(char r) { return r == 'S' ? "system" : r == 'U' ? "user" : "assistant"; }

/* *out NULL: the template refuses this conversation. Without the BOS at the beginning. */
static int render(const struct probe *p, const char *roles, const char *const *contents, bool generation, int64_t now, const char **out)
{
    struct pw_json w = {0};
    struct pw_value *messages;
    struct pw_buf text = {0};
    int rc = 0;
    *out = NULL;
    pw_json_open(&w, NULL, '[');
    for (size_t i = 0; roles[i]; i++) {
        pw_json_open(&w, NULL, '{');
        pw_json_str(&w, "role", role_name(roles[i]));
        pw_json_str(&w, "content", contents[i]);
        pw_json_close(&w, '}');
    }
    pw_json_close(&w, ']');
    PW_PASS_OUT(pw_json_status(&w));
    PW_PASS_OUT(pw_json_parse(p->a, w.out.data, w.out.len, "probe", &messages));
    const struct pw_chat_request q = {.messages = messages, .generation_prompt = generation, .now = now};
    rc = pw_chat_render(p->c, &q, &text);
    if (rc == PW_E_NOMEM)
        goto out;
    if (rc < 0) {
        pw_error_clear();
        rc = 0;
        goto out;
    }
    const size_t skip = p->bos && p->bos[0] && text.len >= strlen(p->bos) && memcmp(text.data, p->bos, strlen(p->bos)) == 0 ? strlen(p->bos) : 0;
    *out = pw_arena_strndup(p->a, text.len ? text.data + skip : "", text.len - skip);
    PW_CHECK_OUT(*out, PW_E_NOMEM, "out of memory");
out:
    pw_buf_free(&text);
    pw_json_free(&w);
    return rc;
}

static int probe(const struct probe *p, const char *roles, bool generation, const char **out) { return render(p, roles, marks, generation, clocks[0], out); }

/* Cuts a rendering at the marks in `order`, each there exactly once: parts[0] before the first, parts[n] after the last. */
static int cut(const struct probe *p, const char *text, const int *order, int n, const char **parts, bool *good)
{
    const char *at = text;
    *good = text != NULL;
    for (int i = 0; *good && i < n; i++) {
        const char *mark = marks[order[i]], *found = strstr(at, mark);
        *good = found && strstr(text, mark) == found && !strstr(found + 1, mark);
        if (*good) {
            parts[i] = pw_arena_strndup(p->a, at, (size_t)(found - at));
            PW_CHECK(parts[i], PW_E_NOMEM, "out of memory");
            at = found + strlen(mark);
        }
    }
    if (*good)
        parts[n] = at;
    return 0;
}

/* s = head + *rest? */
static bool after(const char *s, const char *head, const char **rest)
{
    const size_t n = strlen(head);
    *rest = s + n;
    return strncmp(s, head, n) == 0;
}

/* s = *rest + tail? */
static int before(struct pw_arena *a, const char *s, const char *tail, const char **rest, bool *good)
{
    const size_t n = strlen(s), m = strlen(tail);
    *good = n >= m && strcmp(s + n - m, tail) == 0;
    if (*good) {
        *rest = pw_arena_strndup(a, s, n - m);
        PW_CHECK(*rest, PW_E_NOMEM, "out of memory");
    }
    return 0;
}

#define CUT(text, n, parts, ...) do { PW_PASS(cut(p, text, (const int[]){__VA_ARGS__}, n, parts, &good)); if (!good) return 0; } while (0)
#define HOLDS(condition) do { if (!(condition)) return 0; } while (0)
#define BEFORE(s, tail, rest) do { PW_PASS(before(p->a, s, tail, rest, &good)); if (!good) return 0; } while (0)

/* The texts around user and assistant, from conversations without a system message. *done only when all fits. */
static int derive_turns(const struct probe *p, struct pw_go_template *g, const char **start, bool *done)
{
    const char *one, *two, *three, *o[2], *t[3], *h[4];
    bool good;
    PW_PASS(probe(p, "U", false, &one));
    PW_PASS(probe(p, "UA", false, &two));
    PW_PASS(probe(p, "UAU", true, &three));
    CUT(one, 1, o, 0);
    CUT(two, 2, t, 0, 1);
    CUT(three, 3, h, 0, 1, 2);
    HOLDS(strcmp(h[0], o[0]) == 0 && strcmp(t[0], o[0]) == 0 && strcmp(h[1], t[1]) == 0);
    if (after(h[1], o[1], &g->assistant_pre) && after(h[3], o[1], &g->generation) && after(h[2], t[2], &g->user_pre)) {
        g->user_post = o[1];
        g->assistant_post = t[2];
        BEFORE(o[0], g->user_pre, start);
    } else {                         /* something is written at the very end of a conversation: the texts are what repeats between messages */
        size_t n = 0, m = 0, a = strlen(h[0]), b = strlen(h[2]);
        while (h[1][n] && h[1][n] == h[3][n])
            n++;
        while (m < a && m < b && h[0][a - 1 - m] == h[2][b - 1 - m])
            m++;
        g->user_post = pw_arena_strndup(p->a, h[1], n);
        g->user_pre = h[0] + a - m;
        g->assistant_pre = h[1] + n;
        g->generation = h[3] + n;
        g->assistant_post = pw_arena_strndup(p->a, h[2], b - m);
        *start = pw_arena_strndup(p->a, h[0], a - m);
        PW_CHECK(g->user_post && g->assistant_post && *start, PW_E_NOMEM, "out of memory");
    }
    *done = true;
    return 0;
}

/* Where the system message goes. start: what comes before the first user without one. */
static int derive_system(const struct probe *p, struct pw_go_template *g, const char *start, bool *done)
{
    const char *with, *s[5], *tail;
    bool good;
    PW_PASS(probe(p, "SUAU", true, &with));
    g->place = PW_GO_SYSTEM_NONE;
    g->system_pre = g->system_post = g->lead = g->without = "";
    if (!with || !strstr(with, marks[0])) {        /* refused, or left out */
        g->lead = start;
        *done = true;
        return 0;
    }
    PW_PASS(cut(p, with, (const int[]){0, 1, 2, 3}, 4, s, &good));
    if (good) {
        PW_PASS(before(p->a, s[1], g->user_pre, &g->system_post, &good));
        if (good) {
            g->place = PW_GO_SYSTEM_OWN;
            g->system_pre = s[0];
            if (start[0]) {                         /* a system message of the template's own, or a text before everything */
                const char *rest;
                bool own = after(start, s[0], &rest);
                if (own)
                    PW_PASS(before(p->a, rest, g->system_post, &tail, &own));
                if (own && tail[0])
                    g->system = tail;
                else if (after(s[0], start, &rest) && !own) {
                    g->lead = start;
                    g->system_pre = rest;
                } else
                    g->without = start;
            }
        } else {
            g->place = PW_GO_SYSTEM_FIRST;
            g->system_post = s[1];
            BEFORE(s[0], g->user_pre, &g->lead);
            HOLDS(strcmp(g->lead, start) == 0);
        }
        *done = true;
        return 0;
    }
    CUT(with, 4, s, 1, 2, 0, 3);
    g->place = PW_GO_SYSTEM_LAST;
    g->system_post = s[3];
    BEFORE(s[0], g->user_pre, &g->lead);
    HOLDS(strcmp(g->lead, start) == 0);
    *done = true;
    return 0;
}

int pw_go_template_render(const struct pw_go_template *g, const char *roles, const char *const *contents, bool generation, struct pw_buf *out)
{
    const char *system = roles[0] == 'S' ? contents[0] : NULL;
    pw_buf_str(out, g->lead);
    if (!system)
        pw_buf_str(out, g->without);
    if (!system && g->system && g->place == PW_GO_SYSTEM_OWN) {     /* Ollama puts SYSTEM in front of the messages */
        pw_buf_str(out, g->system_pre);
        pw_buf_str(out, g->system);
        pw_buf_str(out, g->system_post);
    }
    for (size_t i = 0; roles[i]; i++) {
        if (roles[i] == 'S' && g->place != PW_GO_SYSTEM_OWN)
            continue;
        pw_buf_str(out, roles[i] == 'S' ? g->system_pre : roles[i] == 'U' ? g->user_pre : g->assistant_pre);
        if (roles[i] == 'U' && system && ((g->place == PW_GO_SYSTEM_FIRST && i == 1) || (g->place == PW_GO_SYSTEM_LAST && !roles[i + 1]))) {
            pw_buf_str(out, system);
            pw_buf_str(out, g->system_post);
        }
        pw_buf_str(out, contents[i]);
        pw_buf_str(out, roles[i] == 'S' ? g->system_post : roles[i] == 'U' ? g->user_post : g->assistant_post);
    }
    if (generation)
        pw_buf_str(out, g->generation);
    return pw_buf_status(out);
}

/* Further conversations, and other contents: the same bytes? */
static int check(const struct probe *p, const struct pw_go_template *g, bool *good)
{
    static const char *const talks[] = {"U", "UA", "UAU", "UAUAU", "SU", "SUA", "SUAU", "SUAUAU", "UAUAUA"};
    *good = true;
    for (size_t i = 0; *good && i < sizeof talks / sizeof *talks; i++) {
        const bool generation = talks[i][strlen(talks[i]) - 1] == 'U';
        if (talks[i][0] == 'S' && g->place == PW_GO_SYSTEM_NONE)
            continue;
        for (int k = 0; *good && k < 2; k++) {
            const char *want;
            struct pw_buf got = {0};
            PW_PASS(render(p, talks[i], texts, generation, clocks[k], &want));
            const int rc = pw_go_template_render(g, talks[i], texts, generation, &got);
            /* Behind the last answer a template may write more, such as EOS: nothing is asked for there. */
            *good = rc == 0 && want && (generation ? strcmp(want, got.data ? got.data : "") : strncmp(want, got.data ? got.data : "", got.len)) == 0;
            pw_buf_free(&got);
            PW_PASS(rc);
        }
    }
    return 0;
}

static void role(struct pw_buf *b, const char *name, bool first, const char *pre, const char *post)
{
    pw_buf_printf(b, "{{ %s eq .Role \"%s\" }}%s{{ .Content }}%s", first ? "if" : "else if", name, pre, post);
}

static int write_text(const struct pw_go_template *g, struct pw_buf *b)
{
    pw_buf_str(b, g->lead);
    if (g->without[0])
        pw_buf_printf(b, "{{ if not .System }}%s{{ end }}", g->without);
    pw_buf_str(b, "{{ range $i, $_ := .Messages }}");
    if (g->place == PW_GO_SYSTEM_OWN)
        role(b, "system", true, g->system_pre, g->system_post);
    pw_buf_printf(b, "{{ %s eq .Role \"user\" }}%s", g->place == PW_GO_SYSTEM_OWN ? "else if" : "if", g->user_pre);
    if (g->place == PW_GO_SYSTEM_FIRST)
        pw_buf_printf(b, "{{ if and $.System (eq $i 1) }}{{ $.System }}%s{{ end }}", g->system_post);
    if (g->place == PW_GO_SYSTEM_LAST)
        pw_buf_printf(b, "{{ if and $.System (eq (len (slice $.Messages $i)) 1) }}{{ $.System }}%s{{ end }}", g->system_post);
    pw_buf_printf(b, "{{ .Content }}%s", g->user_post);
    role(b, "assistant", false, g->assistant_pre, g->assistant_post);
    pw_buf_printf(b, "{{ end }}{{ end }}%s", g->generation);
    return pw_buf_status(b);
}

static bool plain(const struct pw_go_template *g)
{
    const char *const parts[] = {g->lead, g->without, g->system_pre, g->system_post, g->user_pre, g->user_post, g->assistant_pre, g->assistant_post, g->generation, g->system ? g->system : ""};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strstr(parts[i], "{{") || strstr(parts[i], "}}") || strstr(parts[i], "\"\"\""))
            return false;
    return true;
}

int pw_go_template(struct pw_arena *a, const struct pw_chat *c, const char *bos, struct pw_go_template *out)
{
    const struct probe p = {a, c, bos};
    const char *start = NULL;
    bool turns = false, system = false, good = false;
    *out = (struct pw_go_template){.why = "its renderings are no fixed texts around the messages"};
    PW_PASS(derive_turns(&p, out, &start, &turns));
    if (turns)
        PW_PASS(derive_system(&p, out, start, &system));
    if (pw_jinja_uses_clock(pw_chat_template(c)))
        out->why = "it writes the date, which Go's templates cannot";
    if (!turns || !system)
        return 0;
    PW_PASS(check(&p, out, &good));
    if (!good) {
        if (!pw_jinja_uses_clock(pw_chat_template(c)))
            out->why = "its renderings differ in more than the messages";
        return 0;
    }
    if (!plain(out)) {
        out->why = "its texts hold {{ or \"\"\"";
        return 0;
    }
    struct pw_buf b = {0};
    int rc = write_text(out, &b);
    if (rc == 0 && !(out->text = pw_arena_strndup(a, b.data, b.len)))
        rc = pw_error(PW_E_NOMEM, "out of memory");
    pw_buf_free(&b);
    return rc;
}
