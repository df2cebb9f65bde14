/* Prompts as token ids (see the header). */
#include "tools/prompts.h"

#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/file.h"
#include "base/value.h"
#include "data/chat.h"

static const char *const built_in[] = {
    "The capital of France is Paris, and the river that runs through it is called the Seine.",
    "Once upon a time there was a small town by the sea. Every morning the baker opened her door before the sun was up, and",
    "To add two fractions, first bring them to the same denominator. For example, 1/2 + 1/3 = 3/6 + 2/6 = 5/6.",
    "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n",
    "Question: Why is the sky blue?\nAnswer: Sunlight is scattered by the molecules of the air, and blue light is scattered more than red light.",
    "The parties agree that this contract is governed by the law of the place where the work is done.",
    "Der Zug nach Wien f\xc3\xa4hrt um acht Uhr ab. Le train pour Lyon part \xc3\xa0 neuf heures. El tren a Madrid sale a las diez.",
    "{\"name\": \"Ada\", \"born\": 1815, \"fields\": [\"mathematics\", \"computing\"], \"alive\": false}",
};

struct reader {
    struct pw_arena *a;
    const struct pw_tokenizer *t;
    const char *model;
    int64_t context;           /* > 0: longer texts are cut */
    struct pw_tokens tokens;
    struct pw_chat *chat;
    struct pw_prompts *out;
    size_t cap;
};

static int keep(struct reader *r, const char *where)
{
    size_t n = r->tokens.n;
    if (r->context > 0 && n > (size_t)r->context)
        n = (size_t)r->context;
    PW_CHECK(n > 0, PW_E_REFUSED, "%s: the text has no tokens", where);
    if (r->out->n == r->cap) {
        const size_t cap = r->cap ? 2 * r->cap : 16;
        struct pw_verify_prompt *more = pw_arena_array(r->a, cap, sizeof *more);
        PW_CHECK(more, PW_E_NOMEM, "out of memory");
        if (r->out->n)
            memcpy(more, r->out->items, r->out->n * sizeof *more);
        r->out->items = more;
        r->cap = cap;
    }
    int32_t *ids = pw_arena_array(r->a, n, sizeof *ids);
    PW_CHECK(ids, PW_E_NOMEM, "out of memory");
    memcpy(ids, r->tokens.ids, n * sizeof *ids);
    r->out->items[r->out->n++] = (struct pw_verify_prompt){ids, (int64_t)n};
    return 0;
}

/* BOS as the model does; a text is not ended. */
static int add_text(struct reader *r, const char *s, size_t n, const char *where)
{
    PW_TRY(pw_tokenizer_encode(r->t, n ? s : "", n, PW_TOK_DEFAULT, &r->tokens), "%s", where);
    if (pw_tokenizer_adds_eos(r->t) && r->tokens.n > 0 && r->tokens.ids[r->tokens.n - 1] == pw_tokenizer_eos(r->t))
        r->tokens.n--;
    return keep(r, where);
}

static int open_chat(struct reader *r, const char *where)
{
    const char *source = pw_tokenizer_template(r->t, NULL), *bos = pw_tokenizer_bos_text(r->t), *eos = pw_tokenizer_eos_text(r->t);
    if (r->chat)
        return 0;
    PW_CHECK(source, PW_E_REFUSED, "%s: messages need a chat template, and %s has none", where, r->model);
    return pw_chat_open(&r->chat, source, "of the model", bos ? bos : "", eos ? eos : "");
}

static int add_messages(struct reader *r, const struct pw_value *messages, const struct pw_value *tools, const char *where)
{
    const int32_t bos = pw_tokenizer_bos(r->t);
    struct pw_buf text = {0};
    int rc = 0;
    PW_PASS_OUT(pw_messages_check(messages, where));
    PW_PASS_OUT(open_chat(r, where));
    const struct pw_value *role = messages->len ? pw_get(&messages->items[messages->len - 1], "role") : NULL;
    const bool answered = role && role->kind == PW_STRING && strcmp(role->s, "assistant") == 0;
    const struct pw_chat_request q = {.messages = messages, .tools = tools, .generation_prompt = !answered, .now = (int64_t)time(NULL)};
    PW_TRY_OUT(pw_chat_render(r->chat, &q, &text), "%s: rendering the messages", where);
    PW_TRY_OUT(pw_tokenizer_encode(r->t, text.len ? text.data : "", text.len, PW_TOK_PARSE_SPECIAL, &r->tokens), "%s", where);
    if (pw_tokenizer_adds_bos(r->t) && bos >= 0 && !(r->tokens.n > 0 && r->tokens.ids[0] == bos))
        rc = add_text(r, text.data, text.len, where);
    else
        rc = keep(r, where);
out:
    pw_buf_free(&text);
    return rc;
}

static int add_row(struct reader *r, const struct pw_value *v, const char *where)
{
    const struct pw_value *messages = pw_get(v, "messages"), *tools = pw_get(v, "tools"), *prompt = pw_get(v, "prompt");
    const char *text = NULL, *completion = NULL;
    struct pw_buf both = {0};
    PW_CHECK(v->kind == PW_MAP, PW_E_FORMAT, "%s: expected a map with messages, prompt or text, got %s", where, pw_kind_name(v->kind));
    if (!messages && prompt && prompt->kind == PW_LIST)
        messages = prompt;     /* as in rows of preferences */
    if (messages)
        return add_messages(r, messages, tools && tools->kind == PW_LIST ? tools : NULL, where);
    PW_PASS(pw_get_str(v, "text", where, &text));
    if (!text)
        PW_PASS(pw_get_str(v, "prompt", where, &text));
    PW_CHECK(text, PW_E_FORMAT, "%s: expected messages, prompt or text", where);
    if (prompt)
        PW_PASS(pw_get_str(v, "completion", where, &completion));
    pw_buf_str(&both, text);
    pw_buf_str(&both, completion ? completion : "");
    int rc = pw_buf_status(&both);
    if (rc == 0)
        rc = add_text(r, both.data, both.len, where);
    pw_buf_free(&both);
    return rc;
}

static int read_lines(struct reader *r, const char *path, const struct pw_buf *in)
{
    const char *data = in->len ? in->data : "";
    const size_t first = strspn(data, " \t\r\n");
    const bool rows = first < in->len && data[first] == '{';
    size_t number = 0;
    for (size_t at = 0; at < in->len;) {
        const char *line = data + at, *nl = memchr(line, '\n', in->len - at);
        size_t n = nl ? (size_t)(nl - line) : in->len - at;
        char where[512];
        at += n + 1;
        number++;
        while (n > 0 && line[n - 1] == '\r')
            n--;
        size_t blank = 0;
        while (blank < n && (line[blank] == ' ' || line[blank] == '\t'))
            blank++;
        if (blank == n)
            continue;
        snprintf(where, sizeof where, "%.400s: line %zu", path, number);
        struct pw_value *v;
        if (rows) {
            PW_PASS(pw_json_parse(r->a, line, n, where, &v));
            PW_PASS(add_row(r, v, where));
        } else
            PW_PASS(add_text(r, line, n, where));
    }
    PW_CHECK(r->out->n > 0, PW_E_REFUSED, "%s: there is no prompt in it", path);
    return 0;
}

int pw_prompts_read(struct pw_arena *a, const char *path, const struct pw_tokenizer *t, const char *model, int64_t context, struct pw_prompts *out)
{
    struct reader r = {.a = a, .t = t, .model = model, .context = path ? 0 : context, .out = out};
    struct pw_buf in = {0};
    int rc = 0;
    *out = (struct pw_prompts){0};
    if (path) {
        PW_PASS_OUT(pw_file_read(path, 0, &in));
        PW_PASS_OUT(read_lines(&r, path, &in));
    } else
        for (size_t i = 0; i < sizeof built_in / sizeof *built_in; i++)
            PW_PASS_OUT(add_text(&r, built_in[i], strlen(built_in[i]), "a built-in prompt"));
out:
    pw_chat_close(r.chat);
    pw_tokens_free(&r.tokens);
    pw_buf_free(&in);
    return rc;
}
