/* Ollama's Modelfile (see the header; its format: docs/modelfile.md of ollama/ollama). */
#include "tools/modelfile.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "data/go_template.h"

/* ---- stops: special tokens that the template's texts hold, the end of an answer first ---- */

enum { STOPS = 16 };
struct stops { const char *text[STOPS]; int n; };

static void add_stop(struct stops *s, const char *text)
{
    bool there = !text || !text[0] || strpbrk(text, "\"\n") || s->n == STOPS;
    for (int i = 0; !there && i < s->n; i++)
        there = strcmp(s->text[i], text) == 0;
    if (!there)
        s->text[s->n++] = text;
}

static int stops_in(struct stops *s, const struct pw_tokenizer *t, const char *text)
{
    struct pw_tokens tokens = {0};
    int rc = pw_tokenizer_encode(t, text, strlen(text), PW_TOK_PARSE_SPECIAL, &tokens);
    for (size_t i = 0; rc == 0 && i < tokens.n; i++)
        if (pw_tokenizer_is_special(t, tokens.ids[i]) && tokens.ids[i] != pw_tokenizer_bos(t))
            add_stop(s, pw_tokenizer_piece(t, tokens.ids[i]));
    pw_tokens_free(&tokens);
    return rc;
}

static int put_stops(const struct pw_modelfile *m, const struct pw_go_template *g, struct pw_buf *out)
{
    struct stops s = {0};
    size_t n;
    const int32_t *ids = pw_tokenizer_stops(m->tokenizer, &n);
    if (g->text) {
        const char *const parts[] = {g->assistant_post, g->user_post, g->user_pre, g->system_pre, g->system_post, g->assistant_pre, g->generation};
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
            PW_PASS(stops_in(&s, m->tokenizer, parts[i]));
    }
    for (size_t i = 0; i < n; i++)
        add_stop(&s, pw_tokenizer_piece(m->tokenizer, ids[i]));
    for (int i = 0; i < s.n; i++)
        pw_buf_printf(out, "PARAMETER stop \"%s\"\n", s.text[i]);
    return 0;
}

/* ---- how the model's makers sample ---- */

static int put_sampling(const char *path, struct pw_arena *a, struct pw_buf *out)
{
    static const char *const keys[][2] = {{"temperature", "temperature"}, {"top_p", "top_p"}, {"top_k", "top_k"}, {"min_p", "min_p"}, {"repetition_penalty", "repeat_penalty"}};
    struct pw_value *v;
    bool sample = false;
    PW_PASS(pw_json_load(a, path, &v));
    PW_PASS(pw_get_bool(v, "do_sample", path, &sample));
    for (size_t i = 0; sample && i < sizeof keys / sizeof *keys; i++) {
        double x = NAN;
        char number[32];
        PW_PASS(pw_get_f64(v, keys[i][0], path, &x));
        if (isnan(x))
            continue;
        pw_format_f64(number, x);
        pw_buf_printf(out, "PARAMETER %s %s\n", keys[i][1], number);
    }
    return 0;
}

/* ---- the template ---- */

static int derive(const struct pw_modelfile *m, struct pw_arena *a, struct pw_go_template *g)
{
    const char *source = pw_tokenizer_template(m->tokenizer, NULL), *bos = pw_tokenizer_bos_text(m->tokenizer), *eos = pw_tokenizer_eos_text(m->tokenizer);
    struct pw_chat *chat = NULL;
    *g = (struct pw_go_template){.why = "it has none"};
    if (!source)
        return 0;
    PW_PASS(pw_chat_open(&chat, source, "of the model", bos ? bos : "", eos ? eos : ""));
    const int rc = pw_go_template(a, chat, pw_tokenizer_adds_bos(m->tokenizer) ? bos : NULL, g);
    pw_chat_close(chat);
    return rc;
}

static int quoted(struct pw_buf *out, const char *key, const char *text)
{
    PW_CHECK(!strstr(text, "\"\"\"") && (!text[0] || text[strlen(text) - 1] != '"'), PW_E_UNSUPPORTED, "Modelfile: %s cannot be quoted", key);
    pw_buf_printf(out, "%s \"\"\"%s\"\"\"\n", key, text);
    return 0;
}

int pw_modelfile_write(const struct pw_modelfile *m, struct pw_buf *out, bool *has_template, struct pw_progress *progress)
{
    struct pw_go_template g = {0};
    struct pw_arena a;
    int rc = 0;
    pw_arena_init(&a);
    *has_template = false;
    PW_CHECK_OUT(!strpbrk(m->from, "\n\r") && !strpbrk(m->adapter, "\n\r"), PW_E_USAGE, "Modelfile: a path with a line break in it");
    pw_buf_printf(out, "FROM %s\nADAPTER %s\n", m->from, m->adapter);
    if (m->tokenizer) {
        PW_PASS_OUT(derive(m, &a, &g));
        *has_template = g.text != NULL;
        if (g.text)
            PW_PASS_OUT(quoted(out, "TEMPLATE", g.text));
        else
            pw_progress_say(progress, "no TEMPLATE is written: the chat template of %s has no sure form in Ollama's (%s); Ollama takes the template of the model file", m->name, g.why);
        if (g.text && g.system)
            PW_PASS_OUT(quoted(out, "SYSTEM", g.system));
        PW_PASS_OUT(put_stops(m, &g, out));
    }
    if (m->generation_config)
        PW_PASS_OUT(put_sampling(m->generation_config, &a, out));
    if (m->context > 0)
        pw_buf_printf(out, "PARAMETER num_ctx %lld\n", (long long)m->context);
    rc = pw_buf_status(out);
out:
    pw_arena_free(&a);
    return rc;
}
