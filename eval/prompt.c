/* Prompts of a task: description, shots, question, and the continuations that are scored (see eval/task.h). */
#include "eval/task.h"

#include <string.h>

#include "base/error.h"
#include "data/jinja.h"

/* Jinja drops one newline at the end of a source; in prompts it counts and is put back (keep_trailing_newline of the harness). */
struct text_template { struct pw_jinja *parsed; bool newline; };
struct pw_prompter {
    const struct pw_task *task;
    struct text_template description, prompt, continuation;
    const char *delimiter, *shot_delimiter, *subject;
    struct pw_arena arena;
};

static int parse_template(struct text_template *out, const struct pw_task *t, const char *key, const char *fallback)
{
    const char *source = fallback;
    PW_PASS(pw_get_str(t->spec, key, t->source, &source));
    PW_CHECK(source, PW_E_FORMAT, "%s: %s: a text is missing", t->source, key);
    size_t n = strlen(source);
    out->newline = n > 0 && source[n - 1] == '\n';
    PW_TRY(pw_jinja_parse(&out->parsed, source, n, key), "reading the templates of %s", t->source);
    return 0;
}

static int render(const struct text_template *t, const struct pw_value *vars, struct pw_buf *b)
{
    PW_PASS(pw_jinja_render(t->parsed, vars, NULL, b, NULL));
    if (t->newline)
        pw_buf_char(b, '\n');
    return 0;
}

int pw_prompter_open(struct pw_prompter **out, const struct pw_task *t)
{
    struct pw_prompter *p = pw_alloc_zero(1, sizeof *p);
    int rc = 0;
    PW_CHECK(p, PW_E_NOMEM, "out of memory");
    pw_arena_init(&p->arena);
    p->task = t;
    p->delimiter = " ";
    p->shot_delimiter = "\n\n";
    char *subject = pw_arena_strndup(&p->arena, t->subject, strlen(t->subject));
    PW_CHECK_OUT(subject, PW_E_NOMEM, "out of memory");
    for (char *c = subject; *c; c++)
        *c = *c == '_' ? ' ' : *c;
    p->subject = subject;
    PW_PASS_OUT(parse_template(&p->description, t, "description", ""));
    PW_PASS_OUT(parse_template(&p->prompt, t, "prompt", NULL));
    PW_PASS_OUT(parse_template(&p->continuation, t, "continuation", "{{ choice }}"));
    PW_PASS_OUT(pw_get_str(t->spec, "delimiter", t->source, &p->delimiter));
    PW_PASS_OUT(pw_get_str(t->spec, "shot_delimiter", t->source, &p->shot_delimiter));
    *out = p;
out:
    if (rc < 0)
        pw_prompter_close(p);
    return rc;
}

void pw_prompter_close(struct pw_prompter *p)
{
    if (!p)
        return;
    pw_jinja_free(p->description.parsed);
    pw_jinja_free(p->prompt.parsed);
    pw_jinja_free(p->continuation.parsed);
    pw_arena_free(&p->arena);
    pw_free(p);
}

static struct pw_value text_value(const char *s)
{
    return (struct pw_value){.kind = PW_STRING, .len = strlen(s), .s = s};
}

static struct pw_member member(const char *key, struct pw_value v)
{
    return (struct pw_member){.key = key, .key_len = strlen(key), .value = v};
}

static int list_of(struct pw_value *v, struct pw_arena *a, const char *const *items, int n)
{
    *v = (struct pw_value){.kind = PW_LIST, .len = (size_t)n, .items = pw_arena_array(a, (size_t)n, sizeof *v)};
    PW_CHECK(v->items, PW_E_NOMEM, "out of memory");
    for (int i = 0; i < n; i++)
        v->items[i] = text_value(items[i]);
    return 0;
}

/* One question as text; the same for shots and for the document. */
static int render_question(struct pw_buf *b, struct pw_arena *a, const struct pw_prompter *p, const struct pw_doc *d)
{
    struct pw_value choices, labels;
    PW_PASS(list_of(&choices, a, d->choices, d->n_choices));
    PW_PASS(list_of(&labels, a, d->labels, d->n_choices));
    struct pw_member m[] = {member("question", text_value(d->question)), member("choices", choices), member("labels", labels),
                            member("subject", text_value(p->subject)), member("doc", *d->raw)};
    struct pw_value vars = {.kind = PW_MAP, .len = sizeof m / sizeof *m, .members = m};
    PW_TRY(render(&p->prompt, &vars, b), "putting the question of line %d", d->line);
    return 0;
}

static int render_continuation(struct pw_buf *b, const struct pw_prompter *p, const struct pw_doc *d, int choice)
{
    struct pw_member m[] = {member("choice", text_value(d->choices[choice])), member("label", text_value(d->labels[choice])),
                            member("index", (struct pw_value){.kind = PW_INT, .i = choice})};
    struct pw_value vars = {.kind = PW_MAP, .len = sizeof m / sizeof *m, .members = m};
    pw_buf_str(b, p->delimiter);
    PW_TRY(render(&p->continuation, &vars, b), "putting choice %d of line %d", choice, d->line);
    return 0;
}

int pw_prompt_build(struct pw_prompt *out, struct pw_arena *a, const struct pw_prompter *p, const struct pw_doc *shots, int n_shots,
                    const struct pw_doc *doc)
{
    struct pw_buf b = {0};
    struct pw_member subject[] = {member("subject", text_value(p->subject))};
    struct pw_value vars = {.kind = PW_MAP, .len = 1, .members = subject};
    int rc = 0;
    *out = (struct pw_prompt){.n_choices = doc->n_choices};
    PW_PASS_OUT(render(&p->description, &vars, &b));
    for (int i = 0; i < n_shots; i++) {
        PW_PASS_OUT(render_question(&b, a, p, &shots[i]));
        PW_PASS_OUT(render_continuation(&b, p, &shots[i], shots[i].answer));
        pw_buf_str(&b, p->shot_delimiter);
    }
    PW_PASS_OUT(render_question(&b, a, p, doc));
    PW_PASS_OUT(pw_buf_status(&b));
    out->context = pw_arena_strndup(a, b.data ? b.data : "", b.len);
    PW_CHECK_OUT(out->context, PW_E_NOMEM, "out of memory");
    for (int i = 0; i < doc->n_choices; i++) {
        pw_buf_clear(&b);
        PW_PASS_OUT(render_continuation(&b, p, doc, i));
        PW_PASS_OUT(pw_buf_status(&b));
        out->continuations[i] = pw_arena_strndup(a, b.data, b.len);
        PW_CHECK_OUT(out->continuations[i], PW_E_NOMEM, "out of memory");
    }
out:
    pw_buf_free(&b);
    return rc;
}
