/* pw run and pw chat: prompts in, continuations out. Owns what is printed when; the loop itself is infer/generate.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "data/chat.h"
#include "infer/generate.h"
#include "tools/load.h"

struct options {
    struct pw_strings prompts, stops;
    int64_t max_tokens, top_k;
    double temp, top_p, min_p;
    const char *chat_template, *system;
    bool chat, no_cache, no_bos;
};
#define AT(field) offsetof(struct options, field)
#define SAMPLING \
    {"temp", 0, PW_OPT_REAL, AT(temp), "T", NULL, "0", 0, 100, "temperature; 0: always the likeliest token"}, \
    {"top-k", 0, PW_OPT_INT, AT(top_k), "K", NULL, "0", 0, 1e9, "draw from the K likeliest tokens; 0: all"}, \
    {"top-p", 0, PW_OPT_REAL, AT(top_p), "P", NULL, "1", 0, 1, "draw from the likeliest tokens that make up P"}, \
    {"min-p", 0, PW_OPT_REAL, AT(min_p), "P", NULL, "0", 0, 1, "leave out tokens below P times the likeliest one"}, \
    {"stop", 0, PW_OPT_LIST, AT(stops), "TEXT", NULL, NULL, 0, 0, "end before this text; may be repeated"}, \
    {"template", 0, PW_OPT_STRING, AT(chat_template), "NAME|FILE", NULL, NULL, 0, 0, "chat template: one of the model's by name, or a .jinja file"}, \
    {"system", 0, PW_OPT_STRING, AT(system), "TEXT", NULL, NULL, 0, 0, "system message at the beginning of a chat"}

static const struct pw_option run_table[] = {
    {"prompt", 'p', PW_OPT_LIST, AT(prompts), "TEXT", NULL, NULL, 0, 0, "text to continue; repeated: all of them in one batch"},
    {"max-tokens", 'n', PW_OPT_INT, AT(max_tokens), "N", NULL, "128", 0, 1e9, "most tokens to write"},
    SAMPLING,
    {"chat", 0, PW_OPT_FLAG, AT(chat), NULL, NULL, NULL, 0, 0, "the prompt is a user's message: render it with the chat template, print the answer alone"},
    {"no-bos", 0, PW_OPT_FLAG, AT(no_bos), NULL, NULL, NULL, 0, 0, "do not put the model's BOS before the prompt"},
    {"no-cache", 0, PW_OPT_FLAG, AT(no_cache), NULL, NULL, NULL, 0, 0, "compute everything again at each token, to check the cache; slow"},
    PW_OPTIONS_END,
};
static const struct pw_option chat_table[] = {
    {"max-tokens", 'n', PW_OPT_INT, AT(max_tokens), "N", NULL, "1024", 1, 1e9, "most tokens of one answer"},
    SAMPLING,
    PW_OPTIONS_END,
};

enum { CHUNK = 512 };          /* most prompt tokens of one pass */

/* ---- templates ------------------------------------------------------------------------------------------------------ */

static int open_chat(struct pw_chat **out, const struct options *o, const struct pw_tokenizer *t, const char *model)
{
    const char *name = o->chat_template, *source = NULL, *bos = pw_tokenizer_bos_text(t), *eos = pw_tokenizer_eos_text(t);
    struct pw_buf file = {0};
    int rc = 0;
    if (name && pw_file_exists(name) && !pw_is_dir(name)) {
        PW_PASS_OUT(pw_file_read(name, 0, &file));
        source = file.data ? file.data : "";
    } else
        source = pw_tokenizer_template(t, name);
    if (!source) {
        rc = name ? pw_error(PW_E_REFUSED, "--template %s: there is no such file, and the model has no template of that name", name)
                  : pw_error(PW_E_REFUSED, "%s has no chat template", model);
        pw_error_hint("give one with --template NAME or --template FILE.jinja");
        goto out;
    }
    PW_PASS_OUT(pw_chat_open(out, source, name ? name : "of the model", bos ? bos : "", eos ? eos : ""));
out:
    pw_buf_free(&file);
    return rc;
}

/* A conversation as the tree that templates see. */
struct talk { struct pw_arena arena; struct pw_value *messages; size_t n, cap; };

static int say(struct talk *k, const char *role, const char *text, size_t bytes)
{
    if (k->n == k->cap) {
        const size_t cap = k->cap ? 2 * k->cap : 16;
        struct pw_value *more = pw_arena_array(&k->arena, cap, sizeof *more);
        PW_CHECK(more, PW_E_NOMEM, "out of memory");
        if (k->n)
            memcpy(more, k->messages, k->n * sizeof *more);
        k->messages = more;
        k->cap = cap;
    }
    struct pw_member *members = pw_arena_array(&k->arena, 2, sizeof *members);
    char *copy = pw_arena_strndup(&k->arena, text, bytes);
    PW_CHECK(members && copy, PW_E_NOMEM, "out of memory");
    members[0] = (struct pw_member){.key = "role", .key_len = 4, .value = {.kind = PW_STRING, .len = strlen(role), .s = role}};
    members[1] = (struct pw_member){.key = "content", .key_len = 7, .value = {.kind = PW_STRING, .len = bytes, .s = copy}};
    k->messages[k->n++] = (struct pw_value){.kind = PW_MAP, .len = 2, .members = members};
    return 0;
}

/* The rendering with the generation prompt, as ids. BOS is put in front only when the template has not written it. */
static int render(const struct talk *k, const struct pw_chat *chat, const struct pw_tokenizer *t, struct pw_tokens *tokens)
{
    const struct pw_value list = {.kind = PW_LIST, .len = k->n, .items = k->messages};
    const struct pw_chat_request request = {.messages = &list, .generation_prompt = true};
    const int32_t bos = pw_tokenizer_bos(t);
    struct pw_buf text = {0};
    int rc = 0;
    PW_TRY_OUT(pw_chat_render(chat, &request, &text), "rendering the chat");
    PW_PASS_OUT(pw_tokenizer_encode(t, text.data ? text.data : "", text.len, PW_TOK_PARSE_SPECIAL, tokens));
    if (pw_tokenizer_adds_bos(t) && bos >= 0 && !(tokens->n > 0 && tokens->ids[0] == bos)) {
        PW_PASS_OUT(pw_tokenizer_encode(t, text.data ? text.data : "", text.len, PW_TOK_DEFAULT, tokens));
        if (pw_tokenizer_adds_eos(t) && tokens->n > 0 && tokens->ids[tokens->n - 1] == pw_tokenizer_eos(t))
            tokens->n--;
    }
    PW_CHECK_OUT(tokens->n > 0, PW_E_REFUSED, "the chat has no tokens");
out:
    pw_buf_free(&text);
    return rc;
}

static int encode_prompt(const struct options *o, const struct pw_tokenizer *t, const char *prompt, struct pw_tokens *tokens)
{
    PW_TRY(pw_tokenizer_encode(t, prompt, strlen(prompt), PW_TOK_PARSE_SPECIAL | (o->no_bos ? 0 : PW_TOK_SPECIAL), tokens), "tokenizing the prompt");
    if (!o->no_bos && pw_tokenizer_adds_eos(t) && tokens->n > 0 && tokens->ids[tokens->n - 1] == pw_tokenizer_eos(t))
        tokens->n--;           /* a prompt is not ended */
    PW_CHECK(tokens->n > 0, PW_E_REFUSED, "the prompt has no tokens");
    return 0;
}

/* ---- one generation ------------------------------------------------------------------------------------------------- */

struct printer { struct pw_cmd *c; const char *before; };

/* What comes before the first piece waits for it, so that a failure leaves stdout empty. */
static int print_piece(void *ctx, const char *text, size_t bytes)
{
    struct printer *p = ctx;
    if (p->before)
        pw_buf_str(p->c->out, p->before);
    p->before = NULL;
    pw_buf_add(p->c->out, text, bytes);
    return pw_cmd_emit(p->c);
}

static void ask(struct pw_gen *g, const struct pw_cmd *c, const struct options *o, const struct pw_tokens *prompt)
{
    *g = (struct pw_gen){.prompt = prompt->ids, .n_prompt = (int64_t)prompt->n, .max_tokens = o->max_tokens, .stops = o->stops.items, .n_stops = o->stops.n,
        .sampler = {.temperature = o->temp, .top_k = o->top_k > INT32_MAX ? 0 : (int)o->top_k, .top_p = o->top_p, .min_p = o->min_p,
                    .rng = pw_rng_make((uint64_t)c->common->seed, PW_STREAM_SAMPLE)}};
}

static int generate(struct pw_loaded *l, const struct options *o, struct pw_gen *gens, int n)
{
    const struct pw_model_config *config = &l->model->config;
    struct pw_session *s = NULL;
    int32_t stops[16];
    int64_t rows, batch_tokens;
    const struct pw_gen_options opt = {.stop_ids = stops, .n_stop_ids = pw_gen_stop_ids(l->tokenizer, config, stops), .no_cache = o->no_cache,
                                       .interrupted = pw_interrupted};
    int rc = 0;
    pw_gen_sizes(config, gens, n, CHUNK, &rows, &batch_tokens);
    rows = pw_gen_rows(l->model, gens, n, rows, batch_tokens);
    PW_PASS_OUT(pw_load_refusal(pw_session_open(&s, l->model, rows, batch_tokens, n)));
    PW_PASS_OUT(pw_generate(s, l->tokenizer, gens, n, &opt));
out:
    pw_session_close(s);
    return rc;
}

static int put_json(struct pw_cmd *c, const struct pw_gen *g, double seconds)
{
    struct pw_json j = {0};
    pw_json_begin(&j);
    pw_json_i64(&j, "prompt_tokens", g->n_prompt);
    pw_json_i64(&j, "tokens", g->n_tokens);
    pw_json_strn(&j, "text", g->text.data ? g->text.data : "", g->text.len);
    pw_json_str(&j, "finish", g->finish);
    pw_json_f64(&j, "seconds_to_first", g->seconds_to_first);
    pw_json_f64(&j, "tokens_per_s", seconds > 0 ? (double)g->n_tokens / seconds : 0);
    pw_json_open(&j, "prompt_ids", '[');
    for (int64_t i = 0; i < g->n_prompt; i++)
        pw_json_i64(&j, NULL, g->prompt[i]);
    pw_json_close(&j, ']');
    pw_json_open(&j, "ids", '[');
    for (int64_t i = 0; i < g->n_tokens; i++)
        pw_json_i64(&j, NULL, g->tokens[i]);
    pw_json_close(&j, ']');
    return pw_json_finish(c, &j);
}

/* ---- run ------------------------------------------------------------------------------------------------------------ */

struct run_work { struct pw_loaded l; struct pw_chat *chat; struct pw_tokens *tokens; struct pw_gen *gens; int n; };

static int make_requests(struct pw_cmd *c, const struct options *o, struct run_work *w)
{
    for (int i = 0; i < w->n; i++) {
        const char *prompt = o->prompts.items[i];
        if (o->chat) {
            struct talk talk = {0};
            pw_arena_init(&talk.arena);
            int rc = o->system ? say(&talk, "system", o->system, strlen(o->system)) : 0;
            rc = rc < 0 ? rc : say(&talk, "user", prompt, strlen(prompt));
            rc = rc < 0 ? rc : render(&talk, w->chat, w->l.tokenizer, &w->tokens[i]);
            pw_arena_free(&talk.arena);
            PW_PASS(rc);
        } else
            PW_PASS(encode_prompt(o, w->l.tokenizer, prompt, &w->tokens[i]));
        ask(&w->gens[i], c, o, &w->tokens[i]);
    }
    return 0;
}

static int run_run(struct pw_cmd *c)
{
    const struct options *o = c->options;
    struct run_work w = {.n = (int)o->prompts.n};
    struct printer printer = {.c = c};
    int rc = 0;
    if (o->prompts.n == 0) {
        rc = pw_error(PW_E_USAGE, "pw run: no prompt");
        pw_error_hint("give one with -p TEXT");
        return rc;
    }
    PW_CHECK(o->prompts.n <= 4096, PW_E_USAGE, "--prompt: at most 4096 of them, got %zu", o->prompts.n);
    w.tokens = pw_alloc_zero(o->prompts.n, sizeof *w.tokens);
    w.gens = pw_alloc_zero(o->prompts.n, sizeof *w.gens);
    PW_CHECK_OUT(w.tokens && w.gens, PW_E_NOMEM, "out of memory");
    PW_PASS_OUT(pw_load_attached(&w.l, c, c->args.items[0], true));
    if (o->chat)
        PW_PASS_OUT(open_chat(&w.chat, o, w.l.tokenizer, c->args.items[0]));
    PW_PASS_OUT(make_requests(c, o, &w));
    const bool stream = w.n == 1 && !c->common->json;
    if (stream) {
        printer.before = o->chat ? NULL : o->prompts.items[0];
        w.gens[0].piece = print_piece;
        w.gens[0].ctx = &printer;
    }
    const double started = pw_seconds();
    PW_PASS_OUT(generate(&w.l, o, w.gens, w.n));
    const double seconds = pw_seconds() - started;
    for (int i = 0; i < w.n; i++) {
        if (c->common->json)
            PW_PASS_OUT(put_json(c, &w.gens[i], seconds));
        else if (!stream || printer.before) {  /* not printed while it was made */
            pw_buf_str(c->out, o->chat ? "" : o->prompts.items[i]);
            pw_buf_add(c->out, w.gens[i].text.data ? w.gens[i].text.data : "", w.gens[i].text.len);
        }
        if (!c->common->json)
            pw_buf_char(c->out, '\n');
        if (c->common->verbose)
            pw_progress_say(c->progress, "%lld prompt tokens, %lld tokens, finish %s, first after %.3f s, %.1f tokens/s", (long long)w.gens[i].n_prompt,
                            (long long)w.gens[i].n_tokens, w.gens[i].finish, w.gens[i].seconds_to_first, (double)w.gens[i].n_tokens / seconds);
    }
out:
    for (int i = 0; w.gens && w.tokens && i < w.n; i++) {
        pw_gen_free(&w.gens[i]);
        pw_tokens_free(&w.tokens[i]);
    }
    pw_free(w.gens);
    pw_free(w.tokens);
    pw_chat_close(w.chat);
    pw_unload(&w.l);
    return rc;
}

/* ---- chat ----------------------------------------------------------------------------------------------------------- */

static int answer(struct pw_cmd *c, const struct options *o, struct pw_loaded *l, const struct pw_chat *chat, struct talk *talk, struct pw_tokens *tokens,
                  uint64_t turn)
{
    struct printer printer = {.c = c};
    struct pw_gen g = {0};
    int rc = 0;
    PW_PASS_OUT(render(talk, chat, l->tokenizer, tokens));
    ask(&g, c, o, tokens);
    g.sampler.rng = pw_rng_make((uint64_t)c->common->seed, PW_STREAM_SAMPLE | turn << 8);
    if (!c->common->json) {
        g.piece = print_piece;
        g.ctx = &printer;
    }
    const double started = pw_seconds();
    PW_PASS_OUT(generate(l, o, &g, 1));
    if (c->common->json)
        PW_PASS_OUT(put_json(c, &g, pw_seconds() - started));
    else
        pw_buf_char(c->out, '\n');
    PW_PASS_OUT(pw_cmd_emit(c));
    PW_PASS_OUT(say(talk, "assistant", g.text.data ? g.text.data : "", g.text.len));
out:
    pw_gen_free(&g);
    return rc;
}

static int run_chat(struct pw_cmd *c)
{
    const struct options *o = c->options;
    struct pw_loaded l = {0};
    struct pw_chat *chat = NULL;
    struct pw_tokens tokens = {0};
    struct talk talk = {0};
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    int rc = 0;
    pw_arena_init(&talk.arena);
    PW_PASS_OUT(pw_load_attached(&l, c, c->args.items[0], true));
    PW_PASS_OUT(open_chat(&chat, o, l.tokenizer, c->args.items[0]));
    if (o->system)
        PW_PASS_OUT(say(&talk, "system", o->system, strlen(o->system)));
    pw_progress_say(c->progress, "one message a line; /exit or the end of the input ends the chat");
    for (uint64_t turn = 0; !pw_interrupted() && (n = getline(&line, &cap, stdin)) >= 0;) {
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            line[--n] = '\0';
        if (strcmp(line, "/exit") == 0)
            break;
        if (n == 0)
            continue;
        PW_CHECK_OUT(pw_utf8_valid(line, (size_t)n), PW_E_FORMAT, "stdin: line %llu: not UTF-8", (unsigned long long)turn + 1);
        PW_PASS_OUT(say(&talk, "user", line, (size_t)n));
        PW_PASS_OUT(answer(c, o, &l, chat, &talk, &tokens, turn++));
    }
    PW_CHECK_OUT(!pw_interrupted(), PW_E_INTERRUPTED, "interrupted");
    PW_CHECK_OUT(!ferror(stdin), PW_E_IO, "reading stdin failed");
out:
    free(line);
    pw_tokens_free(&tokens);
    pw_arena_free(&talk.arena);
    pw_chat_close(chat);
    pw_unload(&l);
    return rc;
}

const struct pw_command pw_commands_run[] = {
    {.name = "run", .usage = "MODEL -p PROMPT [-n N] [--temp T] [--top-k K] [--top-p P] [--min-p P] [--stop S]... [--chat]",
     .summary = "continue a prompt",
     .text = "Prints prompt and continuation. Greedy by default (--temp 0): the same command gives the same text, alone or in a batch\n"
             "of several prompts. Generation ends at the model's stop tokens, at a --stop text (which is left out), after N tokens, or\n"
             "where the context ends. --json: {\"prompt_tokens\",\"tokens\",\"text\",\"finish\",\"seconds_to_first\",\"tokens_per_s\"} and the ids;\n"
             "one object a prompt. prompt_tokens and tokens are counts; finish is stop, length or context.",
     .options = run_table, .options_bytes = sizeof(struct options), .min_args = 1, .max_args = 1, .streams = true, .run = run_run, .plans = true},
    {.name = "chat", .usage = "MODEL [--template NAME|FILE] [--system TEXT] [-n N] [--temp T]",
     .summary = "talk to a model, one message a line",
     .text = "Reads messages from stdin, renders the conversation with the model's chat template and prints each answer.\n"
             "A conversation that no longer fits into the context is refused. /exit ends.",
     .options = chat_table, .options_bytes = sizeof(struct options), .max_args = 1, .min_args = 1, .streams = true, .run = run_chat, .plans = true},
    {0},
};
