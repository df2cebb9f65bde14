/* Chat templates in Ollama's form: forms of the field are derived with the right texts, what cannot be is left out with a reason, and the
 * published templates of shared/ give what is expected of each. */
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "data/go_template.h"
#include "tests/support.h"

static struct pw_arena arena;
static void setup(void) { pw_arena_init(&arena); }
static void teardown(void) { pw_arena_free(&arena); }

static struct pw_go_template derive(const char *source, const char *bos)
{
    struct pw_go_template g;
    struct pw_chat *c;
    ck_ok(pw_chat_open(&c, source, "test", bos ? bos : "", "</s>"));
    ck_ok(pw_go_template(&arena, c, bos, &g));
    pw_chat_close(c);
    return g;
}

#define CHATML "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
#define CHATML_GO "{{ range $i, $_ := .Messages }}{{ if eq .Role \"system\" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n{{ else if eq .Role \"user\" }}<|im_start|>user\n" \
    "{{ .Content }}<|im_end|>\n{{ else if eq .Role \"assistant\" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n{{ end }}{{ end }}<|im_start|>assistant\n"

static const struct { const char *source, *bos, *go, *system; } forms[] = {
    {CHATML, NULL, CHATML_GO, NULL},
    /* BOS written by the template and added by the reader of the Go template */
    {"{{ bos_token }}" CHATML, "<s>", CHATML_GO, NULL},
    /* a system message of its own when there is none */
    {"{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" CHATML, NULL, CHATML_GO, "Be kind."},
    /* a header without one, and EOS behind the last answer */
    {"{% if messages[0].role != 'system' %}<|im_start|>system\n<|im_end|>\n{% endif %}" CHATML "{% if not add_generation_prompt %}</s>{% endif %}", NULL,
     "{{ if not .System }}<|im_start|>system\n{{ end }}{{ range $i, $_ := .Messages }}{{ if eq .Role \"system\" }}<|im_start|>system\n{{ .Content }}{{ else if eq .Role \"user\" }}<|im_end|>\n"
     "<|im_start|>user\n{{ .Content }}<|im_end|>\n<|im_start|>assistant\n{{ else if eq .Role \"assistant\" }}{{ .Content }}{{ end }}{{ end }}", NULL},
    /* no system messages at all */
    {"{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}<{{ m.role }}>{{ m.content }}</>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
     NULL, "{{ range $i, $_ := .Messages }}{{ if eq .Role \"user\" }}<user>{{ .Content }}</>{{ else if eq .Role \"assistant\" }}<assistant>{{ .Content }}</>{{ end }}{{ end }}<assistant>", NULL},
    /* inside the first message of the user */
    {"{% set ns = namespace(s='') %}{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{% set ns.s = m.content + '\\n\\n' %}{% elif m.role == 'user' %}[INST] {{ ns.s }}{% set ns.s = '' %}{{ m.content }} "
     "[/INST]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}", "<s>",
     "{{ range $i, $_ := .Messages }}{{ if eq .Role \"user\" }}[INST] {{ if and $.System (eq $i 1) }}{{ $.System }}\n\n{{ end }}{{ .Content }} [/INST]{{ else if eq .Role \"assistant\" }} "
     "{{ .Content }}</s>{{ end }}{{ end }}", NULL},
    /* inside the last */
    {"{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }}\n\n{% endif %}{{ m.content }}[/INST]{% elif m.role == "
     "'assistant' %} {{ m.content }}</s>{% endif %}{% endfor %}", "<s>",
     "{{ range $i, $_ := .Messages }}{{ if eq .Role \"user\" }}[INST] {{ if and $.System (eq (len (slice $.Messages $i)) 1) }}{{ $.System }}\n\n{{ end }}{{ .Content }}[/INST]{{ else if eq .Role "
     "\"assistant\" }} {{ .Content }}</s>{{ end }}{{ end }}", NULL},
};

START_TEST(derived)
{
    const struct pw_go_template g = derive(forms[_i].source, forms[_i].bos);
    ck_assert_msg(g.text != NULL, "%s", g.why);
    ck_assert_str_eq(g.text, forms[_i].go);
    ck_assert_msg((g.system != NULL) == (forms[_i].system != NULL), "system: %s", g.system ? g.system : "none");
    if (g.system)
        ck_assert_str_eq(g.system, forms[_i].system);
}
END_TEST

static const struct { const char *source, *why; } not[] = {
    {"{{ messages[0].content }}", "no fixed texts"},
    {"{{ strftime_now('%Y-%m-%d') }} " CHATML, "the date"},
    {"{% for m in messages %}<{{ loop.index }}{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}", "no fixed texts"},
    {"{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% if m.content|length > 20 %}(long){% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}", "more than the messages"},
    {"{% for m in messages %}<{{ m.role }}>{{ m.content|upper }}\n{% endfor %}", "no fixed texts"},
    {"{% for m in messages %}<{{ m.role }}>{{ m.content|replace('x', 'y') }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}", "more than the messages"},
    {"{% for m in messages %}{{ '{{' }}{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}", "hold {{"},
    {"{{ raise_exception('no') }}", "no fixed texts"},
};

START_TEST(left_out)
{
    const struct pw_go_template g = derive(not[_i].source, NULL);
    ck_assert_msg(g.text == NULL, "%s", g.text);
    ck_assert_msg(strstr(g.why, not[_i].why) != NULL, "%s", g.why);
}
END_TEST

/* What each published template gives: derived or not, and the place of the system message. */
static const struct { const char *file, *bos; bool text; enum pw_go_system place; } published[] = {
    {"Qwen-Qwen2.5-7B-Instruct", NULL, true, PW_GO_SYSTEM_OWN}, {"google-gemma-2-2b-it", "<bos>", true, PW_GO_SYSTEM_NONE},
    {"meta-llama-Llama-3.1-8B-Instruct", "<|begin_of_text|>", true, PW_GO_SYSTEM_OWN}, {"meta-llama-Llama-3.2-3B-Instruct", "<|begin_of_text|>", false, 0},
    {"microsoft-Phi-3.5-mini-instruct", NULL, true, PW_GO_SYSTEM_OWN}, {"deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "<\xef\xbd\x9c" "begin\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>", true, PW_GO_SYSTEM_OWN},
    {"HuggingFaceTB-SmolLM3-3B", NULL, true, PW_GO_SYSTEM_OWN}, {"Qwen-Qwen3-0.6B", NULL, false, 0},
};

START_TEST(published_templates)
{
    char name[120];
    snprintf(name, sizeof name, "data/chat_templates/%s.jinja", published[_i].file);
    const char *path = test_shared(name);
    if (!path) {
        test_skip("%s is not there", name);
        return;
    }
    size_t n;
    char *source = test_slurp(path, &n);
    const struct pw_go_template g = derive(source, published[_i].bos);
    printf("%s: %s%s\n", published[_i].file, g.text ? "derived" : g.why, g.system ? ", with a system message" : "");
    ck_assert_msg((g.text != NULL) == published[_i].text, "%s: %s", published[_i].file, g.text ? g.text : g.why);
    if (g.text)
        ck_assert_int_eq(g.place, published[_i].place);
    pw_free(source);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("go templates");
    TCase *c = tcase_create("go templates");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_loop_test(c, derived, 0, (int)(sizeof forms / sizeof forms[0]));
    tcase_add_loop_test(c, left_out, 0, (int)(sizeof not / sizeof not[0]));
    tcase_add_loop_test(c, published_templates, 0, (int)(sizeof published / sizeof published[0]));
    suite_add_tcase(s, c);
    return test_run(s);
}
