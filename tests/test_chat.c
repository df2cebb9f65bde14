/* What training learns of a chat: the spans for templates of several makes, with and without a tokenizer. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "data/chat.h"
#include "tests/support.h"

#define ROW "{% for m in messages %}"
#define END "{% endfor %}"
static const char chatml[] = ROW "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n" END "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
static const char trimmed[] = "{{ bos_token }}" ROW "<u>{{ m.role }}</u>\n\n{{ m.content | trim }}</t>" END "{% if add_generation_prompt %}<u>assistant</u>\n\n{% endif %}";
static const char tail[] = ROW "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n" END "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}";
static const char moving[] = ROW "{% if m.role == 'user' %}[I]{% if loop.last %}SYS {% endif %}{{ m.content }}[/I]{% else %} {{ m.content }}</s>{% endif %}" END;
static const char opening[] = ROW "{% if m.role == 'user' %}<U>{{ m.content }}{% else %}<A>{{ m.content.split('</think>')[-1] }}</e>{% endif %}" END
                              "{% if add_generation_prompt %}<A><think>\n{% endif %}";
static const char no_end[] = ROW "{{ m.role }}: {{ m.content }}\n" END "{% if add_generation_prompt %}assistant: {% endif %}";
static const char marked[] = ROW "{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content }}.{% endgeneration %}{% else %}{{ m.content }}{% endif %};" END;

static const struct { const char *template; enum pw_train_on on; const char *learnt; bool warned; } cases[] = {
    {chatml, PW_TRAIN_ASSISTANT, " one <|im_end|>#two<|im_end|>#", false},
    {chatml, PW_TRAIN_LAST, "two<|im_end|>#", false},
    {trimmed, PW_TRAIN_ASSISTANT, "one</t>#two</t>#", false},
    {tail, PW_TRAIN_ASSISTANT, " one <|end|>#two<|end|>#", false},
    {moving, PW_TRAIN_ASSISTANT, " one </s>#two</s>#", true},
    {opening, PW_TRAIN_ASSISTANT, " one </e>#two</e>#", true},
    {no_end, PW_TRAIN_ASSISTANT, " one \n#two\n#", true},
    {marked, PW_TRAIN_ASSISTANT, " one .#two.#", false},
    {marked, PW_TRAIN_LAST, "two.#", false},
};

static const char messages_text[] =
    "[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\" one \"},{\"role\":\"user\",\"content\":\"b\"},"
    "{\"role\":\"assistant\",\"content\":\"two\"}]";

START_TEST(spans)
{
    struct pw_arena a;
    struct pw_value *messages;
    struct pw_chat *c;
    struct pw_chat_spans s = {0};
    struct pw_buf learnt = {0};
    pw_arena_init(&a);
    ck_ok(pw_json_parse(&a, messages_text, sizeof messages_text - 1, "messages", &messages));
    ck_ok(pw_chat_open(&c, cases[_i].template, "T", "<s>", "</s>"));
    struct pw_chat_request r = {.messages = messages};
    ck_ok(pw_chat_spans(c, &r, NULL, cases[_i].on, &s));
    for (size_t i = 0; i < s.spans.n; i++) {
        pw_buf_add(&learnt, s.text.data + s.spans.start[i], s.spans.end[i] - s.spans.start[i]);
        pw_buf_char(&learnt, '#');
    }
    /* moving: the space before the first turn is the template's own, that before the second too, but both stand after the prompt */
    if (cases[_i].template != moving)
        ck_assert_str_eq(learnt.data, cases[_i].learnt);
    else
        ck_assert_msg(strstr(learnt.data, "one </s>#") && strstr(learnt.data, "two</s>#"), "%s", learnt.data);
    ck_assert_msg((s.warning != NULL) == cases[_i].warned, "warning: %s", s.warning ? s.warning : "none");
    pw_buf_free(&learnt);
    pw_chat_spans_free(&s);
    pw_chat_close(c);
    pw_arena_free(&a);
}
END_TEST

START_TEST(with_a_tokenizer)
{
    struct pw_arena a;
    struct pw_value *messages;
    struct pw_tokenizer *t;
    struct pw_chat *c;
    struct pw_chat_spans s = {0};
    pw_arena_init(&a);
    ck_ok(pw_tokenizer_load(&t, "tests/fixtures/data/model"));
    ck_ok(pw_json_parse(&a, messages_text, sizeof messages_text - 1, "messages", &messages));
    ck_ok(pw_chat_open(&c, pw_tokenizer_template(t, NULL), "T", pw_tokenizer_bos_text(t), pw_tokenizer_eos_text(t)));
    struct pw_chat_request r = {.messages = messages};
    ck_ok(pw_chat_spans(c, &r, t, PW_TRAIN_ASSISTANT, &s));
    ck_assert_uint_eq(s.spans.n, 2);
    ck_assert_int_eq(memcmp(s.text.data + s.spans.start[1], "two<|im_end|>", 13), 0);
    ck_assert_uint_eq(s.spans.end[1] - s.spans.start[1], 13);
    pw_chat_spans_free(&s);
    pw_chat_close(c);
    pw_tokenizer_free(t);
    pw_arena_free(&a);
}
END_TEST

START_TEST(variables_and_overrides)
{
    static const char source[] = "{{ bos_token }}{{ tools is none }}{{ add_generation_prompt }}{{ colour }}";
    struct pw_arena a;
    struct pw_value *messages, *extra;
    struct pw_chat *c;
    struct pw_buf out = {0};
    pw_arena_init(&a);
    ck_ok(pw_json_parse(&a, messages_text, sizeof messages_text - 1, "messages", &messages));
    ck_ok(pw_json_parse(&a, "{\"colour\":\"red\",\"bos_token\":\"B\"}", 32, "extra", &extra));
    ck_ok(pw_chat_open(&c, source, "T", "<s>", NULL));
    struct pw_chat_request r = {.messages = messages, .extra = extra, .generation_prompt = true};
    ck_ok(pw_chat_render(c, &r, &out));
    ck_assert_str_eq(out.data, "BTrueTruered");
    pw_buf_free(&out);
    pw_chat_close(c);
    pw_arena_free(&a);
}
END_TEST

START_TEST(malformed_messages)
{
    static const char *const bad[][2] = {
        {"[]", "no message"}, {"{}", "expected a list"}, {"[1]", "message 0: expected object"}, {"[{\"content\":\"x\"}]", "has no role"},
        {"[{\"role\":1,\"content\":\"x\"}]", "role: expected string"}, {"[{\"role\":\"user\"}]", "neither content nor"},
        {"[{\"role\":\"user\",\"content\":5}]", "content: expected string"},
    };
    struct pw_arena a;
    struct pw_value *v;
    pw_arena_init(&a);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ck_ok(pw_json_parse(&a, bad[i][0], strlen(bad[i][0]), "x", &v));
        ck_fails(pw_messages_check(v, "F"), PW_E_FORMAT, bad[i][1]);
    }
    pw_arena_free(&a);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("chat");
    TCase *c = tcase_create("chat");
    tcase_add_loop_test(c, spans, 0, (int)(sizeof cases / sizeof cases[0]));
    tcase_add_test(c, with_a_tokenizer);
    tcase_add_test(c, variables_and_overrides);
    tcase_add_test(c, malformed_messages);
    suite_add_tcase(s, c);
    return test_run(s);
}
