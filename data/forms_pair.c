/* Rows of preferences: a prompt with a chosen and a rejected answer, or with one answer and a label.
 *
 * Prompt and answers are texts (then as the form completion has them) or lists of messages. Answers that are whole conversations (their first
 * message is not the assistant's) need no prompt: what both have in common at their beginning is the prompt. Only the answer counts. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "data/forms.h"

static bool is_list(const struct pw_value *v)
{
    return v && v->kind == PW_LIST;
}

static bool from_assistant(const struct pw_value *message)
{
    const struct pw_value *role = pw_get(message, "role");
    return role && role->kind == PW_STRING && strcmp(role->s, "assistant") == 0;
}

static bool same_value(const struct pw_value *a, const struct pw_value *b)
{
    if (a->kind != b->kind || a->len != b->len)
        return false;
    switch (a->kind) {
    case PW_STRING:
        return memcmp(a->s, b->s, a->len) == 0;
    case PW_LIST:
        for (size_t i = 0; i < a->len; i++)
            if (!same_value(&a->items[i], &b->items[i]))
                return false;
        return true;
    case PW_MAP:
        for (size_t i = 0; i < a->len; i++)
            if (strcmp(a->members[i].key, b->members[i].key) != 0 || !same_value(&a->members[i].value, &b->members[i].value))
                return false;
        return true;
    case PW_INT:
        return a->i == b->i;
    case PW_REAL:
        return a->d == b->d;
    case PW_BOOL:
        return a->b == b->b;
    default:
        return true;
    }
}

/* prompt's messages and answer's in one list, in the arena. */
static int join(struct pw_arena *a, const struct pw_value *row, const struct pw_value *answer, struct pw_value *list)
{
    const struct pw_value *prompt = pw_get(row, "prompt");
    size_t room = answer->len + (is_list(prompt) ? prompt->len : 1);
    *list = (struct pw_value){.kind = PW_LIST};
    list->items = pw_arena_array(a, room + 1, sizeof *list->items);
    PW_CHECK(list->items, PW_E_NOMEM, "no memory for a row");
    if (is_list(prompt)) {
        PW_PASS(pw_messages_check(prompt, "\"prompt\""));
        memcpy(list->items, prompt->items, prompt->len * sizeof *list->items);
        list->len = prompt->len;
    } else {
        const char *s;
        size_t n;
        PW_PASS(pw_row_string(row, "prompt", true, &s, &n));
        PW_PASS(pw_message_add(a, list, "user", s, n));
    }
    memcpy(list->items + list->len, answer->items, answer->len * sizeof *list->items);
    list->len += answer->len;
    return 0;
}

/* other: the answer on the other side of a pair, or NULL. */
static int answer_chat(struct pw_row_maker *m, struct pw_arena *a, const struct pw_value *row, const char *key, const struct pw_value *other)
{
    const struct pw_value *answer = pw_get(row, key), *tools;
    struct pw_value list;
    char what[40];
    size_t first = 0;
    snprintf(what, sizeof what, "\"%s\"", key);
    PW_PASS(pw_messages_check(answer, what));
    PW_CHECK(answer->len > 0, PW_E_FORMAT, "%s is empty", what);
    PW_PASS(pw_row_tools(a, row, &tools));
    if (from_assistant(&answer->items[0])) {
        PW_PASS(join(a, row, answer, &list));
        return pw_row_chat(m, &list, tools, list.len - answer->len);
    }
    PW_CHECK(other, PW_E_FORMAT, "%s: expected to begin with the assistant's message", what);
    PW_CHECK(is_list(other), PW_E_FORMAT, "\"chosen\" and \"rejected\": expected both as lists of messages, got %s beside one", pw_kind_name(other->kind));
    while (first < answer->len && first < other->len && same_value(&answer->items[first], &other->items[first]))
        first++;
    /* Equal answers, and answers of which one goes on where the other ends: the last message is the answer. */
    first = first == answer->len && first > 0 ? first - 1 : first;
    return pw_row_chat(m, answer, tools, first);
}

static int answer(struct pw_row_maker *m, struct pw_arena *a, const struct pw_value *row, const char *key, const char *other)
{
    const struct pw_value *v = pw_get(row, key), *o = other ? pw_get(row, other) : NULL;
    const char *prompt, *text;
    size_t n_prompt, n_text;
    m->answers = true;
    PW_CHECK(v, PW_E_FORMAT, "the row has no key \"%s\"", key);
    PW_CHECK(!other || o, PW_E_FORMAT, "the row has no key \"%s\"", other);
    if (is_list(v))
        return answer_chat(m, a, row, key, o);
    PW_PASS(pw_row_string(row, "prompt", true, &prompt, &n_prompt));
    PW_PASS(pw_row_string(row, key, true, &text, &n_text));
    return pw_row_answer(m, prompt, n_prompt, text, n_text);
}

int pw_form_preference(struct pw_row_maker *m, struct pw_arena *a, const struct pw_value *row)
{
    return answer(m, a, row, m->side ? "rejected" : "chosen", m->side ? "chosen" : "rejected");
}

int pw_form_kto(struct pw_row_maker *m, struct pw_arena *a, const struct pw_value *row)
{
    const struct pw_value *v = pw_get(row, "label");
    PW_CHECK(v, PW_E_FORMAT, "the row has no key \"label\"");
    if (v->kind == PW_BOOL)
        m->label = v->b;
    else if (v->kind == PW_INT && (v->i == 0 || v->i == 1))
        m->label = v->i == 1;
    else if (v->kind == PW_STRING && (strcmp(v->s, "true") == 0 || strcmp(v->s, "True") == 0 || strcmp(v->s, "1") == 0)) /* CSV has texts alone */
        m->label = 1;
    else if (v->kind == PW_STRING && (strcmp(v->s, "false") == 0 || strcmp(v->s, "False") == 0 || strcmp(v->s, "0") == 0))
        m->label = 0;
    else
        return pw_error(PW_E_FORMAT, "\"label\": expected true or false, got %s", pw_kind_name(v->kind));
    return answer(m, a, row, "completion", NULL);
}
