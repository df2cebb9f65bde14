/* Rows of messages, rendered by the model's chat template; sharegpt is turned into them. */
#include <string.h>

#include "base/error.h"
#include "data/forms.h"

static const char *const nothing_to_learn = "the row has no assistant turn: nothing of it is trained";

/* The row from m->spans, which were just made. */
static int set_row(struct pw_row_maker *m)
{
    const struct pw_tokenizer *t = m->o->tokenizer;
    const struct pw_tokens *k = &m->spans.tokens;
    int32_t bos_id = pw_tokenizer_bos(t);
    bool bos = pw_tokenizer_adds_bos(t) && bos_id >= 0 && !(k->n > 0 && k->ids[0] == bos_id);
    PW_PASS(pw_row_set(m, k, bos, false));
    const struct pw_spans *s = &m->spans.spans;
    size_t at = 0;
    bool any = false;
    for (size_t i = 0; i < k->n; i++) {
        while (at < s->n && k->start[i] >= 0 && (size_t)k->start[i] >= s->end[at])
            at++;
        m->trained[bos + i] = at < s->n && k->start[i] >= 0 && (size_t)k->start[i] >= s->start[at];
        any |= m->trained[bos + i];
        if (m->trained[bos + i])
            pw_row_weigh(m, bos + (int64_t)i, bos + (int64_t)i + 1, m->spans.weight[at]);
    }
    PW_CHECK(!(m->weighted && m->answers), PW_E_FORMAT, "a turn has a weight: only rows of sft have them, not preferences and labelled answers");
    if (m->spans.warning)
        pw_row_warn(m, m->spans.warning);
    if (!any)
        pw_row_warn(m, nothing_to_learn);
    return 0;
}

static int need_template(const struct pw_row_maker *m)
{
    if (m->chat)
        return 0;
    int rc = pw_error(PW_E_FORMAT, "messages need a chat template, and the model has none");
    pw_error_hint("give data.template a .jinja file, or use a form that needs none (text, completion, alpaca)");
    return rc;
}

static int make_row(struct pw_row_maker *m, const struct pw_value *messages, const struct pw_value *tools)
{
    PW_PASS(need_template(m));
    struct pw_chat_request q = {.messages = messages, .tools = tools, .now = m->o->now};
    PW_PASS(pw_chat_spans(m->chat, &q, m->o->tokenizer, m->o->train_on, &m->spans));
    return set_row(m);
}

int pw_row_chat(struct pw_row_maker *m, const struct pw_value *messages, const struct pw_value *tools, size_t first)
{
    PW_PASS(need_template(m));
    struct pw_chat_request q = {.messages = messages, .tools = tools, .now = m->o->now};
    PW_PASS(pw_chat_spans_from(m->chat, &q, m->o->tokenizer, first, &m->spans));
    return set_row(m);
}

/* tools: a list, or its JSON text (as some data sets hold it); absent or null: none. */
int pw_row_tools(struct pw_arena *a, const struct pw_value *row, const struct pw_value **tools)
{
    const struct pw_value *v = pw_get(row, "tools");
    *tools = NULL;
    if (!v || v->kind == PW_NULL)
        return 0;
    if (v->kind == PW_STRING) {
        struct pw_value *parsed = NULL;
        if (v->len == 0)
            return 0;
        PW_PASS(pw_json_parse(a, v->s, v->len, "\"tools\"", &parsed));
        v = parsed;
    }
    PW_CHECK(v->kind == PW_LIST, PW_E_FORMAT, "\"tools\": expected list, got %s", pw_kind_name(v->kind));
    if (v->len > 0)
        *tools = v;
    return 0;
}

int pw_form_messages(struct pw_row_maker *m, struct pw_arena *a, const struct pw_value *row)
{
    const struct pw_value *messages = pw_get(row, "messages"), *tools;
    PW_CHECK(messages, PW_E_FORMAT, "the row has no key \"messages\"");
    PW_PASS(pw_messages_check(messages, "\"messages\""));
    PW_PASS(pw_row_tools(a, row, &tools));
    return make_row(m, messages, tools);
}

static const char *const roles[][2] = {
    {"human", "user"}, {"user", "user"}, {"gpt", "assistant"}, {"assistant", "assistant"}, {"chatgpt", "assistant"}, {"bing", "assistant"},
    {"bard", "assistant"}, {"model", "assistant"}, {"system", "system"}, {"tool", "tool"}, {"observation", "tool"},
    {"function_response", "tool"},
};

static const char *role_of(const char *from)
{
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
        if (strcmp(roles[i][0], from) == 0)
            return roles[i][1];
    return NULL;
}

static struct pw_value string_value(const char *s, size_t n)
{
    return (struct pw_value){.kind = PW_STRING, .len = n, .s = s};
}

int pw_message_add(struct pw_arena *a, struct pw_value *list, const char *role, const char *content, size_t n)
{
    struct pw_member *m = pw_arena_array(a, 2, sizeof *m);
    PW_CHECK(m, PW_E_NOMEM, "no memory for a message");
    m[0] = (struct pw_member){"role", 4, string_value(role, strlen(role))};
    m[1] = (struct pw_member){"content", 7, string_value(content, n)};
    list->items[list->len++] = (struct pw_value){.kind = PW_MAP, .len = 2, .members = m};
    return 0;
}

/* A turn's weight goes with its message. */
static int copy_weight(struct pw_arena *a, struct pw_value *message, const struct pw_value *turn)
{
    const struct pw_value *weight = pw_get(turn, "weight");
    if (!weight)
        return 0;
    struct pw_member *m = pw_arena_array(a, message->len + 1, sizeof *m);
    PW_CHECK(m, PW_E_NOMEM, "no memory for a message");
    memcpy(m, message->members, message->len * sizeof *m);
    m[message->len++] = (struct pw_member){"weight", 6, *weight};
    message->members = m;
    return 0;
}

int pw_form_sharegpt(struct pw_row_maker *m, struct pw_arena *a, const struct pw_value *row)
{
    const struct pw_value *turns = pw_get(row, "conversations"), *tools;
    PW_CHECK(turns, PW_E_FORMAT, "the row has no key \"conversations\"");
    PW_CHECK(turns->kind == PW_LIST, PW_E_FORMAT, "\"conversations\": expected list, got %s", pw_kind_name(turns->kind));
    struct pw_value list = {.kind = PW_LIST};
    list.items = pw_arena_array(a, turns->len + 1, sizeof *list.items);
    PW_CHECK(list.items, PW_E_NOMEM, "no memory for a row");
    const char *s;
    size_t n;
    PW_PASS(pw_row_string(row, "system", false, &s, &n));
    if (n > 0)
        PW_PASS(pw_message_add(a, &list, "system", s, n));
    for (size_t i = 0; i < turns->len; i++) {
        const struct pw_value *turn = &turns->items[i];
        const char *from, *role;
        PW_CHECK(turn->kind == PW_MAP, PW_E_FORMAT, "turn %zu: expected object, got %s", i, pw_kind_name(turn->kind));
        bool plain = pw_get(turn, "role") != NULL;
        PW_TRY(pw_row_string(turn, plain ? "role" : "from", true, &from, &n), "reading turn %zu", i);
        role = role_of(from);
        PW_CHECK(role, PW_E_FORMAT, "turn %zu: unknown speaker \"%s\" (expected human, gpt, system or tool)", i, from);
        PW_TRY(pw_row_string(turn, plain ? "content" : "value", true, &s, &n), "reading turn %zu", i);
        PW_PASS(pw_message_add(a, &list, role, s, n));
        PW_PASS(copy_weight(a, &list.items[list.len - 1], turn));
    }
    PW_CHECK(list.len > 0, PW_E_FORMAT, "\"conversations\" is empty");
    PW_PASS(pw_messages_check(&list, "\"conversations\""));
    PW_PASS(pw_row_tools(a, row, &tools));
    return make_row(m, &list, tools);
}
