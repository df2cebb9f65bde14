/* Chats: rendering, and which bytes of a rendering are learnt.
 *
 * Where a turn begins: at the end of the rendering of the messages before it with the generation prompt, when the whole rendering begins
 * with that. Some templates write earlier messages otherwise when more follow (a system message that moves, a generation prompt that
 * opens a thought): then the turn is found by rendering once more with a mark in place of its content, and a warning says so.
 * Where its content ends is found by the same mark; the end-of-turn token is the first special token after that. */
#include "data/chat.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"

struct pw_chat { struct pw_jinja *template; char *bos, *eos; };

static const char *const warn_moved =
    "the template writes earlier messages otherwise when more follow: where the assistant's turns begin is taken from their content";
static const char *const warn_no_end = "the template writes no end-of-turn token after an assistant's turn: the model will not learn to stop there";

int pw_chat_open(struct pw_chat **out, const char *source, const char *name, const char *bos, const char *eos)
{
    *out = NULL;
    int rc = 0;
    struct pw_chat *c = pw_alloc_zero(1, sizeof *c);
    PW_CHECK(c, PW_E_NOMEM, "no memory for a chat template");
    c->bos = pw_strdup(bos ? bos : "");
    c->eos = pw_strdup(eos ? eos : "");
    PW_CHECK_OUT(c->bos && c->eos, PW_E_NOMEM, "no memory for a chat template");
    PW_PASS_OUT(pw_jinja_parse(&c->template, source, strlen(source), name));
    *out = c;
    c = NULL;
out:
    pw_chat_close(c);
    return rc;
}

void pw_chat_close(struct pw_chat *c)
{
    if (!c)
        return;
    pw_jinja_free(c->template);
    pw_free(c->bos);
    pw_free(c->eos);
    pw_free(c);
}

const struct pw_jinja *pw_chat_template(const struct pw_chat *c)
{
    return c->template;
}

int pw_messages_check(const struct pw_value *messages, const char *where)
{
    PW_CHECK(messages && messages->kind == PW_LIST, PW_E_FORMAT, "%s: expected a list of messages, got %s", where,
             messages ? pw_kind_name(messages->kind) : "nothing");
    PW_CHECK(messages->len > 0, PW_E_FORMAT, "%s: no message", where);
    for (size_t i = 0; i < messages->len; i++) {
        const struct pw_value *m = &messages->items[i], *role = pw_get(m, "role"), *content = pw_get(m, "content");
        PW_CHECK(m->kind == PW_MAP, PW_E_FORMAT, "%s: message %zu: expected object, got %s", where, i, pw_kind_name(m->kind));
        PW_CHECK(role, PW_E_FORMAT, "%s: message %zu has no role", where, i);
        PW_CHECK(role->kind == PW_STRING, PW_E_FORMAT, "%s: message %zu: role: expected string, got %s", where, i, pw_kind_name(role->kind));
        PW_CHECK(content || pw_get(m, "tool_calls"), PW_E_FORMAT, "%s: message %zu has neither content nor tool_calls", where, i);
        PW_CHECK(!content || content->kind == PW_STRING || content->kind == PW_LIST || content->kind == PW_MAP || content->kind == PW_NULL,
                 PW_E_FORMAT, "%s: message %zu: content: expected string, got %s", where, i, pw_kind_name(content->kind));
        const struct pw_value *weight = pw_get(m, "weight");
        if (!weight || weight->kind == PW_NULL)
            continue;
        double amount = -1;
        PW_PASS(pw_get_f64(m, "weight", where, &amount));
        PW_CHECK(amount >= 0 && amount <= 1000, PW_E_FORMAT, "%s: message %zu: weight: expected 0 to 1000, got %g", where, i, amount);
    }
    return 0;
}

static struct pw_value text_value(const char *s)
{
    return (struct pw_value){.kind = PW_STRING, .len = strlen(s), .s = s};
}

static int render(const struct pw_chat *c, const struct pw_chat_request *r, const struct pw_value *messages, bool prompt, struct pw_buf *out,
                  struct pw_spans *generation)
{
    size_t extra = r->extra ? r->extra->len : 0;
    struct pw_member *m = pw_alloc_zero(6 + extra, sizeof *m);
    PW_CHECK(m, PW_E_NOMEM, "no memory for a chat");
    m[0] = (struct pw_member){"messages", 8, *messages};
    m[1] = (struct pw_member){"tools", 5, {.kind = PW_NULL}};
    if (r->tools)
        m[1].value = *r->tools;
    m[2] = (struct pw_member){"documents", 9, {.kind = PW_NULL}};
    m[3] = (struct pw_member){"add_generation_prompt", 21, {.kind = PW_BOOL, .b = prompt}};
    m[4] = (struct pw_member){"bos_token", 9, text_value(c->bos)};
    m[5] = (struct pw_member){"eos_token", 9, text_value(c->eos)};
    if (extra) /* later ones win */
        memcpy(m + 6, r->extra->members, extra * sizeof *m);
    struct pw_value vars = {.kind = PW_MAP, .len = 6 + extra, .members = m};
    struct pw_jinja_limits limits = {.now = r->now};
    int rc = pw_jinja_render(c->template, &vars, &limits, out, generation);
    pw_free(m);
    return rc;
}

int pw_chat_render(const struct pw_chat *c, const struct pw_chat_request *r, struct pw_buf *out)
{
    return render(c, r, r->messages, r->generation_prompt, out, NULL);
}

/* ---- what is learnt ---- */

static bool begins_with(const struct pw_buf *whole, const struct pw_buf *part)
{
    return whole->len >= part->len && (part->len == 0 || memcmp(whole->data, part->data, part->len) == 0);
}

static bool is_assistant(const struct pw_value *message)
{
    const struct pw_value *role = pw_get(message, "role");
    return role && role->kind == PW_STRING && strcmp(role->s, "assistant") == 0;
}

/* One turn: what is known of its place in the rendering. */
struct turn {
    bool content_known; /* begins_at and ends_at are right */
    bool begin_known;
    size_t begins_at, ends_at; /* of the content */
};

/* Renders with a mark in place of the content of message i; what stands before and after the mark is compared with the whole. */
static int find_content(const struct pw_chat *c, const struct pw_chat_request *r, size_t i, const struct pw_buf *whole, struct pw_buf *part,
                        struct turn *t)
{
    const struct pw_value *m = &r->messages->items[i], *content = pw_get(m, "content"), *calls = pw_get(m, "tool_calls");
    *t = (struct turn){0};
    if (!content || content->kind != PW_STRING || (calls && calls->kind != PW_NULL))
        return 0;
    char mark[32];
    for (int k = 0;; k++) { /* a word that is not in the text */
        snprintf(mark, sizeof mark, "xqturn%dqx", k);
        if (whole->len == 0 || !memmem(whole->data, whole->len, mark, strlen(mark)))
            break;
    }
    int rc = 0;
    struct pw_value *items = pw_alloc_zero(r->messages->len, sizeof *items), list = {.kind = PW_LIST, .len = r->messages->len};
    struct pw_member *members = pw_alloc_zero(m->len, sizeof *members);
    PW_CHECK_OUT(items && members, PW_E_NOMEM, "no memory for a chat");
    memcpy(items, r->messages->items, r->messages->len * sizeof *items);
    memcpy(members, m->members, m->len * sizeof *members);
    for (size_t k = 0; k < m->len; k++)
        if (strcmp(members[k].key, "content") == 0)
            members[k].value = text_value(mark);
    items[i].members = members;
    list.items = items;
    pw_buf_clear(part);
    rc = render(c, r, &list, r->generation_prompt, part, NULL);
    if (rc == PW_E_FORMAT) { /* the template looks into its contents: then there is no mark to go by */
        pw_error_clear();
        rc = 0;
        goto out;
    }
    PW_PASS_OUT(rc);
    const char *hit = part->len ? memmem(part->data, part->len, mark, strlen(mark)) : NULL;
    if (!hit)
        goto out;
    size_t before = (size_t)(hit - part->data), after = part->len - before - strlen(mark);
    t->begin_known = whole->len >= before && memcmp(whole->data, part->data, before) == 0;
    t->begins_at = before;
    t->content_known = whole->len >= after && memcmp(whole->data + whole->len - after, part->data + part->len - after, after) == 0;
    t->ends_at = whole->len - after;
out:
    pw_free(items);
    pw_free(members);
    return rc;
}

static bool blank(const struct pw_buf *b, size_t from, size_t to)
{
    for (; from < to; from++)
        if (!strchr(" \t\r\n", b->data[from]) || b->data[from] == 0)
            return false;
    return true;
}

static bool ends_generation(const struct pw_tokenizer *t, int32_t id)
{
    size_t n;
    const int32_t *stops = pw_tokenizer_stops(t, &n);
    for (size_t i = 0; i < n; i++)
        if (stops[i] == id)
            return true;
    return id >= 0 && id == pw_tokenizer_eos(t);
}

/* The end of the end-of-turn token in [from, limit), 0 when there is none. after_content: `from` is where the content ends, so the first
 * special token counts, and nothing but white space may come before it; else the first stop token, or the last special one. */
static size_t end_by_tokens(const struct pw_chat_spans *s, const struct pw_tokenizer *t, size_t from, size_t limit, bool after_content)
{
    size_t last = 0;
    for (size_t i = 0; i < s->tokens.n; i++) {
        int64_t start = s->tokens.start[i];
        if (start < (int64_t)from || start >= (int64_t)limit)
            continue;
        bool stop = ends_generation(t, s->tokens.ids[i]);
        if (!stop && !pw_tokenizer_is_special(t, s->tokens.ids[i]))
            continue;
        if (after_content)
            return blank(&s->text, from, (size_t)start) ? (size_t)s->tokens.end[i] : 0;
        if (stop)
            return (size_t)s->tokens.end[i];
        last = (size_t)s->tokens.end[i];
    }
    return last;
}

/* The same by the looks of it: after white space a word in angle brackets, such as </s>, <|im_end|> or <end_of_turn>. */
static size_t end_by_looks(const struct pw_chat_spans *s, const char *eos, size_t from, size_t limit)
{
    size_t at = from;
    while (at < limit && blank(&s->text, at, at + 1))
        at++;
    size_t n = strlen(eos);
    if (n > 0 && limit - at >= n && memcmp(s->text.data + at, eos, n) == 0)
        return at + n;
    if (at == limit || s->text.data[at] != '<')
        return 0;
    for (size_t i = at + 1; i < limit && i - at < 64 && !strchr("< \t\r\n", s->text.data[i]); i++)
        if (s->text.data[i] == '>')
            return i + 1;
    return 0;
}

static double turn_weight(const struct pw_value *message)
{
    const struct pw_value *w = pw_get(message, "weight");
    return !w || w->kind == PW_NULL ? 1 : w->kind == PW_INT ? (double)w->i : w->d;
}

/* What span n counts. */
static int weigh_span(struct pw_chat_spans *s, size_t n, double weight)
{
    if (n >= s->cap_weight) {
        const size_t cap = n + n / 2 + 16;
        double *grown = pw_realloc(s->weight, s->cap_weight * sizeof *grown, cap * sizeof *grown);
        PW_CHECK(grown, PW_E_NOMEM, "no memory for the weights of %zu turns", n);
        s->weight = grown;
        s->cap_weight = cap;
    }
    s->weight[n] = weight;
    return 0;
}

static bool is_weighted(const struct pw_value *messages)
{
    for (size_t i = 0; i < messages->len; i++)
        if (turn_weight(&messages->items[i]) != 1)
            return true;
    return false;
}

/* Spans that the template marked itself belong to the assistant's turns in their order; those that count nothing are taken out. */
static int weigh_marked(struct pw_chat_spans *s, const struct pw_value *messages)
{
    size_t turns = 0, kept = 0;
    for (size_t i = 0; i < messages->len; i++)
        turns += is_assistant(&messages->items[i]);
    PW_CHECK(turns == s->spans.n, PW_E_FORMAT, "turns have weights, but the template marks %zu parts of %zu turns of the assistant", s->spans.n, turns);
    for (size_t i = 0, k = 0; i < messages->len; i++) {
        if (!is_assistant(&messages->items[i]))
            continue;
        s->spans.start[kept] = s->spans.start[k];
        s->spans.end[kept] = s->spans.end[k++];
        PW_PASS(weigh_span(s, kept, turn_weight(&messages->items[i])));
        kept += s->weight[kept] != 0;
    }
    s->spans.n = kept;
    return 0;
}

static int one_turn(const struct pw_chat *c, const struct pw_chat_request *r, size_t i, const struct pw_tokenizer *t, struct pw_chat_spans *s)
{
    struct pw_value before = {.kind = PW_LIST, .len = i, .items = r->messages->items}, with = before;
    struct turn turn;
    with.len = i + 1;
    PW_PASS(find_content(c, r, i, &s->text, &s->part, &turn));
    pw_buf_clear(&s->part);
    PW_TRY(render(c, r, &before, true, &s->part, NULL), "rendering the %zu messages before an assistant's turn", i);
    size_t from = s->part.len;
    if (!begins_with(&s->text, &s->part)) {
        PW_CHECK(turn.begin_known, PW_E_FORMAT,
                 "message %zu: where the assistant's turn begins cannot be told: the rendering does not begin with that of the messages before it", i);
        from = turn.begins_at;
        s->warning = warn_moved;
    }
    size_t limit = s->text.len;
    bool limit_known = i + 1 == r->messages->len && !r->generation_prompt;
    if (!limit_known) {
        pw_buf_clear(&s->part);
        PW_PASS(render(c, r, &with, false, &s->part, NULL));
        limit_known = begins_with(&s->text, &s->part) && s->part.len >= from;
        limit = limit_known ? s->part.len : limit;
    }
    bool located = turn.content_known && turn.ends_at >= from && turn.ends_at <= limit;
    size_t content_end = located ? turn.ends_at : from, end = 0;
    if (t)
        end = end_by_tokens(s, t, content_end, limit, located);
    if (!end && located)
        end = end_by_looks(s, c->eos, content_end, limit);
    if (!end && !t && !located) { /* no content to go by: the turn without the white space at its end */
        end = limit;
        while (end > from && blank(&s->text, end - 1, end))
            end--;
    } else if (!end) {
        end = limit_known ? limit : content_end;
        s->warning = warn_no_end;
    }
    const double weight = turn_weight(&r->messages->items[i]);
    if (end <= from || weight == 0)
        return 0;
    PW_PASS(weigh_span(s, s->spans.n, weight));
    return pw_spans_add(&s->spans, from, end);
}

/* The rendering and its tokens; marked: spans of the template's generation blocks are taken. */
static int render_all(const struct pw_chat *c, const struct pw_chat_request *r, const struct pw_tokenizer *t, bool marked, struct pw_chat_spans *s)
{
    PW_PASS(pw_messages_check(r->messages, "messages"));
    pw_buf_clear(&s->text);
    s->spans.n = 0;
    s->warning = NULL;
    PW_PASS(render(c, r, r->messages, r->generation_prompt, &s->text, marked ? &s->spans : NULL));
    PW_PASS(pw_buf_status(&s->text));
    if (t)
        PW_PASS(pw_tokenizer_encode(t, s->text.len ? s->text.data : "", s->text.len, PW_TOK_PARSE_SPECIAL, &s->tokens));
    return 0;
}

static int turns_from(const struct pw_chat *c, const struct pw_chat_request *r, const struct pw_tokenizer *t, size_t first, struct pw_chat_spans *s)
{
    for (size_t i = first; i < r->messages->len; i++)
        if (is_assistant(&r->messages->items[i]))
            PW_PASS(one_turn(c, r, i, t, s));
    return 0;
}

int pw_chat_spans(const struct pw_chat *c, const struct pw_chat_request *r, const struct pw_tokenizer *t, enum pw_train_on on,
                  struct pw_chat_spans *s)
{
    bool marked = pw_jinja_has_generation(c->template);
    PW_PASS(render_all(c, r, t, marked, s));
    if (on == PW_TRAIN_ALL) {
        s->spans.n = 0;
        PW_CHECK(!is_weighted(r->messages), PW_E_FORMAT, "a turn has a weight, which says nothing with train_on: all");
        PW_PASS(weigh_span(s, 0, 1));
        return s->text.len ? pw_spans_add(&s->spans, 0, s->text.len) : 0;
    }
    if (!marked) {
        size_t first = 0;
        if (on == PW_TRAIN_LAST)
            for (size_t i = 0; i < r->messages->len; i++)
                first = is_assistant(&r->messages->items[i]) ? i : first;
        return turns_from(c, r, t, first, s);
    }
    if (is_weighted(r->messages))
        PW_PASS(weigh_marked(s, r->messages));
    else
        for (size_t i = 0; i < s->spans.n; i++)
            PW_PASS(weigh_span(s, i, 1));
    if (on == PW_TRAIN_LAST && s->spans.n > 1) {
        s->weight[0] = s->weight[s->spans.n - 1];
        s->spans.start[0] = s->spans.start[s->spans.n - 1];
        s->spans.end[0] = s->spans.end[s->spans.n - 1];
        s->spans.n = 1;
    }
    return 0;
}

int pw_chat_spans_from(const struct pw_chat *c, const struct pw_chat_request *r, const struct pw_tokenizer *t, size_t first,
                       struct pw_chat_spans *s)
{
    PW_PASS(render_all(c, r, t, false, s));
    return turns_from(c, r, t, first, s);
}

void pw_chat_spans_free(struct pw_chat_spans *s)
{
    pw_buf_free(&s->text);
    pw_buf_free(&s->part);
    pw_tokens_free(&s->tokens);
    pw_spans_free(&s->spans);
    pw_free(s->weight);
    s->weight = NULL;
    s->cap_weight = 0;
    s->warning = NULL;
}
