/* See probes.h. */
#include "train/probes.h"

#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "data/chat.h"
#include "data/row_reader.h"

enum { CHUNK = 256 };     /* tokens of a prompt that are fed at once */

/* The text of one row, in `text`. */
static int read_prompt(struct pw_chat *chat, const struct pw_value *row, struct pw_buf *text)
{
    const struct pw_value *prompt = pw_get(row, "prompt"), *messages = pw_get(row, "messages");
    pw_buf_clear(text);
    if (prompt) {
        PW_CHECK(prompt->kind == PW_STRING, PW_E_FORMAT, "\"prompt\": expected string, got %s", pw_kind_name(prompt->kind));
        pw_buf_add(text, prompt->s, prompt->len);
        return pw_buf_status(text);
    }
    PW_CHECK(messages, PW_E_FORMAT, "expected a row with \"prompt\" or \"messages\"");
    PW_CHECK(chat, PW_E_FORMAT, "messages need a chat template, and the model has none");
    PW_PASS(pw_messages_check(messages, "\"messages\""));
    const struct pw_chat_request q = {.messages = messages, .generation_prompt = true};
    return pw_chat_render(chat, &q, text);
}

static int add_prompt(struct pw_probes *s, const struct pw_buf *text, const struct pw_model_config *c, int64_t tokens)
{
    const struct pw_tokenizer *t = s->tokenizer;
    struct pw_tokens k = {0};
    int rc = 0;
    PW_CHECK(s->n < PW_PROBES_MOST, PW_E_UNSUPPORTED, "more than %d prompts", PW_PROBES_MOST);
    PW_PASS_OUT(pw_tokenizer_encode(t, text->len ? text->data : "", text->len, PW_TOK_PARSE_SPECIAL, &k));
    const bool bos = pw_tokenizer_adds_bos(t) && pw_tokenizer_bos(t) >= 0 && !(k.n > 0 && k.ids[0] == pw_tokenizer_bos(t));
    const int64_t n = (int64_t)k.n + bos;
    PW_CHECK_OUT(n > 0, PW_E_FORMAT, "an empty prompt, and the tokenizer has no BOS");
    PW_CHECK_OUT(tokens <= c->context - n, PW_E_REFUSED, "a prompt of %lld tokens leaves no room for %lld more in a context of %lld", (long long)n, (long long)tokens,
                 (long long)c->context);
    int32_t *ids = pw_arena_array(&s->arena, (size_t)n, sizeof *ids);
    char *kept = pw_arena_strndup(&s->arena, text->len ? text->data : "", text->len);
    PW_CHECK_OUT(ids && kept, PW_E_NOMEM, "out of memory for a prompt");
    if (bos)
        ids[0] = pw_tokenizer_bos(t);
    if (k.n > 0)
        memcpy(ids + bos, k.ids, k.n * sizeof *ids);
    s->texts[s->n] = kept;
    s->asked[s->n++] = (struct pw_gen){.prompt = ids, .n_prompt = n, .max_tokens = tokens};
out:
    pw_tokens_free(&k);
    return rc;
}

static int read_rows(struct pw_probes *s, struct pw_row_reader *r, struct pw_chat *chat, const char *path, const struct pw_model_config *c, int64_t tokens)
{
    struct pw_buf text = {0};
    struct pw_arena a;
    int rc = 0;
    pw_arena_init(&a);
    for (;;) {
        struct pw_value *row = NULL;
        int64_t line = 0;
        pw_arena_reset(&a);
        PW_PASS_OUT(pw_rows_next(r, &a, &row, &line));
        if (!row)
            break;
        rc = read_prompt(chat, row, &text);
        if (rc == 0)
            rc = add_prompt(s, &text, c, tokens);
        PW_TRY_OUT(rc, "reading %s:%lld", path, (long long)line);
    }
    PW_CHECK_OUT(s->n > 0, PW_E_REFUSED, "%s: no prompts", path);
out:
    pw_buf_free(&text);
    pw_arena_free(&a);
    return rc;
}

int pw_probes_read(struct pw_probes *s, const char *path, const struct pw_tokenizer *t, const char *template, const struct pw_model_config *c, int64_t tokens)
{
    struct pw_row_reader r;
    struct pw_chat *chat = NULL;
    int rc = 0;
    *s = (struct pw_probes){.tokenizer = t};
    pw_arena_init(&s->arena);
    s->asked = pw_arena_array(&s->arena, PW_PROBES_MOST, sizeof *s->asked);
    s->texts = pw_arena_array(&s->arena, PW_PROBES_MOST, sizeof *s->texts);
    PW_CHECK(s->asked && s->texts, PW_E_NOMEM, "out of memory for prompts");
    PW_PASS(pw_rows_open(&r, path));
    if (template)
        PW_PASS_OUT(pw_chat_open(&chat, template, "chat template", pw_tokenizer_bos_text(t), pw_tokenizer_eos_text(t)));
    PW_PASS_OUT(read_rows(s, &r, chat, path, c, tokens));
    s->n_stops = pw_gen_stop_ids(t, c, s->stops);
    pw_gen_sizes(c, s->asked, s->n, CHUNK, &s->rows, &s->batch_tokens);
out:
    pw_chat_close(chat);
    pw_rows_close(&r);
    return rc;
}

size_t pw_probes_bytes(const struct pw_probes *s, const struct pw_model *m)
{
    return s->n ? pw_session_bytes(m, s->rows, s->batch_tokens, s->n) : 0;
}

size_t pw_probes_scratch(const struct pw_probes *s, const struct pw_model *m)
{
    return s->n ? pw_session_scratch(m, s->rows, s->batch_tokens) : 0;
}

int pw_probes_open(struct pw_probes *s, struct pw_model *m)
{
    return s->n ? pw_session_open(&s->session, m, s->rows, s->batch_tokens, s->n) : 0;
}

int pw_probes_write(struct pw_probes *s, int64_t step, const char *path)
{
    const struct pw_gen_options o = {.stop_ids = s->stops, .n_stop_ids = s->n_stops};
    struct pw_buf out = {0};
    int rc = 0;
    PW_TRY_OUT(pw_generate(s->session, s->tokenizer, s->asked, s->n, &o), "answering the sample prompts after step %lld", (long long)step);
    for (int i = 0; i < s->n; i++) {
        const struct pw_gen *g = &s->asked[i];
        struct pw_json w = {0};
        pw_json_open(&w, NULL, '{');
        pw_json_i64(&w, "step", step);
        pw_json_str(&w, "prompt", s->texts[i]);
        pw_json_strn(&w, "text", g->text.len ? g->text.data : "", g->text.len);
        pw_json_str(&w, "finish", g->finish);
        pw_json_close(&w, '}');
        rc = pw_json_status(&w);
        if (rc == 0) {
            pw_buf_add(&out, w.out.data, w.out.len);
            pw_buf_char(&out, '\n');
        }
        pw_json_free(&w);
        PW_PASS_OUT(rc);
    }
    PW_PASS_OUT(pw_buf_status(&out));
    PW_PASS_OUT(pw_file_write(path, out.data, out.len, true));
out:
    for (int i = 0; i < s->n; i++) {       /* the prompts stay, the answers go */
        struct pw_gen again = {.prompt = s->asked[i].prompt, .n_prompt = s->asked[i].n_prompt, .max_tokens = s->asked[i].max_tokens};
        pw_gen_free(&s->asked[i]);
        s->asked[i] = again;
    }
    pw_buf_free(&out);
    return rc;
}

void pw_probes_free(struct pw_probes *s)
{
    pw_session_close(s->session);
    pw_arena_free(&s->arena);
    *s = (struct pw_probes){0};
}
