/* pw data check: what would be trained, token by token. pw template: a chat through a model's template. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "data/chat.h"
#include "data/preflight.h"
#include "tools/load.h"

struct data_options {
    const char *model, *format, *chat_template, *overlong, *train_on, *prompt, *completion, *text;
    int64_t max_length, rows, now;
    struct pw_strings eval;
    const char *messages, *tools;
    bool generation_prompt, spans;
    struct pw_strings set;
};
#define AT(field) offsetof(struct data_options, field)
static const struct pw_option check_options[] = {
    {"model", 'm', PW_OPT_STRING, AT(model), "MODEL", NULL, NULL, 0, 0, "whose tokenizer and chat template"},
    {"format", 0, PW_OPT_CHOICE, AT(format), "FORM", "auto|text|completion|alpaca|sharegpt|messages|preference|kto", "auto", 0, 0,
     "form of the rows; auto: by the keys of the first one"},
    {"template", 0, PW_OPT_STRING, AT(chat_template), "NAME|FILE", NULL, "model", 0, 0, "chat template: model (its own), the name of one of its own, or a .jinja file"},
    {"max-length", 0, PW_OPT_INT, AT(max_length), "N", NULL, "2048", 0, 1e9, "most tokens of a row; 0: no limit"},
    {"overlong", 0, PW_OPT_CHOICE, AT(overlong), "HOW", "cut|drop", "cut", 0, 0, "what happens to a row that is longer"},
    {"train-on", 0, PW_OPT_CHOICE, AT(train_on), "WHAT", "assistant|last|all", "assistant", 0, 0, "which turns are trained"},
    {"prompt", 0, PW_OPT_STRING, AT(prompt), "JINJA", NULL, NULL, 0, 0, "makes the prompt from the keys of a row, with --completion"},
    {"completion", 0, PW_OPT_STRING, AT(completion), "JINJA", NULL, NULL, 0, 0, "makes the completion from the keys of a row"},
    {"text", 0, PW_OPT_STRING, AT(text), "JINJA", NULL, NULL, 0, 0, "makes a text from the keys of a row"},
    {"eval", 0, PW_OPT_LIST, AT(eval), "FILE", NULL, NULL, 0, 0, "rows that will be evaluated on, of any form: overlaps with them are warned of; may be repeated"},
    {"rows", 0, PW_OPT_INT, AT(rows), "N", NULL, "-1", -1, 1e9, "show the tokens of the first N rows; -1: of 3, with --json of none"},
    PW_OPTIONS_END,
};
static const struct pw_option template_options[] = {
    {"template", 0, PW_OPT_STRING, AT(chat_template), "FILE", NULL, NULL, 0, 0, "a .jinja file instead of the model's own"},
    {"messages", 0, PW_OPT_STRING, AT(messages), "FILE", NULL, NULL, 0, 0, "JSON: a list of messages, or an object with messages and tools"},
    {"tools", 0, PW_OPT_STRING, AT(tools), "FILE", NULL, NULL, 0, 0, "JSON: a list of tools"},
    {"generation-prompt", 0, PW_OPT_FLAG, AT(generation_prompt), NULL, NULL, NULL, 0, 0, "end with what opens the assistant's turn"},
    {"set", 0, PW_OPT_LIST, AT(set), "K=JSON", NULL, NULL, 0, 0, "one more variable of the template; may be repeated"},
    {"spans", 0, PW_OPT_FLAG, AT(spans), NULL, NULL, NULL, 0, 0, "JSON: the text, and the byte ranges that training would learn"},
    {"now", 0, PW_OPT_INT, AT(now), "SECONDS", NULL, "0", 0, 4e12, "seconds since 1970 for templates that write the date; 0: the clock"},
    PW_OPTIONS_END,
};

/* ---- data check ---- */

/* The chat template that `name` means: the model's own (NULL when it has none), one of its own by name, or a file's text in `file`. */
static int find_template(const struct pw_tokenizer *t, const char *name, struct pw_buf *file, const char **source)
{
    if (strcmp(name, "model") == 0) {
        *source = pw_tokenizer_template(t, NULL);
        return 0;
    }
    size_t n = strlen(name);
    if ((n > 6 && strcmp(name + n - 6, ".jinja") == 0) || pw_file_exists(name)) {
        PW_PASS(pw_file_read(name, (size_t)16 << 20, file));
        *source = file->data ? file->data : "";
        return 0;
    }
    *source = pw_tokenizer_template(t, name);
    PW_CHECK(*source, PW_E_USAGE, "--template: the model has no template %s, and there is no such file", name);
    return 0;
}

static void token_text(struct pw_json *w, const struct pw_tokenizer *t, int32_t id, struct pw_buf *piece)
{
    pw_buf_clear(piece);
    if (pw_token_bytes(t, id, piece) < 0)
        pw_error_clear();
    pw_json_strn(w, NULL, piece->len ? piece->data : "", piece->len);
}

static int64_t count_trained(const struct pw_dataset *d, int64_t row)
{
    int64_t n = 0;
    for (int64_t i = d->row_start[row]; i < d->row_start[row + 1]; i++)
        n += d->trained[i];
    return n;
}

/* What a row of a data set is, beside its number: "chosen", "rejected", "desirable", "undesirable", or nothing. */
static const char *role_of(const struct pw_dataset *d, int64_t row)
{
    return d->pairs ? row % 2 ? "rejected" : "chosen" : d->row_label ? d->row_label[row] ? "desirable" : "undesirable" : "";
}

/* On a terminal: the row as a text, trained tokens green, others dim, special ones reversed, ends of lines shown. */
static int colour_row(struct pw_buf *out, const struct pw_dataset *d, const struct pw_tokenizer *t, int64_t row)
{
    struct pw_buf piece = {0};
    for (int64_t i = d->row_start[row]; i < d->row_start[row + 1]; i++) {
        pw_buf_clear(&piece);
        PW_PASS(pw_token_bytes(t, d->ids[i], &piece));
        pw_buf_printf(out, "\033[%s%sm", d->trained[i] ? "32" : "2", pw_tokenizer_is_special(t, d->ids[i]) ? ";7" : "");
        for (size_t k = 0; k < piece.len; k++) {
            const unsigned char c = (unsigned char)piece.data[k];
            if (c == '\n')
                pw_buf_str(out, "\u23ce");
            if (c < 0x20 && c != '\n' && c != '\t')     /* nothing in the data moves the cursor */
                pw_buf_printf(out, "\\x%02x", c);
            else
                pw_buf_char(out, (char)c);
        }
        pw_buf_str(out, "\033[0m");
    }
    pw_buf_char(out, '\n');
    pw_buf_free(&piece);
    return pw_buf_status(out);
}

/* One line a token: "+" is trained, "-" is not; special tokens say so. */
static int show_row(struct pw_buf *out, const struct pw_dataset *d, const struct pw_tokenizer *t, int64_t row, bool colour)
{
    struct pw_buf piece = {0};
    const char *role = role_of(d, row);
    pw_buf_printf(out, "row %" PRId64 " (line %" PRId64 "%s%s): %" PRId64 " tokens, %" PRId64 " trained\n", row / pw_dataset_per(d) + 1, d->row_line[row],
                  role[0] ? ", " : "", role,
                  d->row_start[row + 1] - d->row_start[row], count_trained(d, row));
    if (colour)
        return colour_row(out, d, t, row);
    for (int64_t i = d->row_start[row]; i < d->row_start[row + 1]; i++) {
        struct pw_json quoted = {0};
        token_text(&quoted, t, d->ids[i], &piece);
        pw_buf_printf(out, "  %c %7d  %s%s", d->trained[i] ? '+' : '-', d->ids[i], quoted.out.len ? quoted.out.data : "\"\"",
                      pw_tokenizer_is_special(t, d->ids[i]) ? "  special" : "");
        if (d->trained[i] && d->token_weight && d->token_weight[i] != 1)
            pw_buf_printf(out, "  weight %g", (double)d->token_weight[i]);
        pw_buf_char(out, '\n');
        pw_json_free(&quoted);
    }
    pw_buf_free(&piece);
    return pw_buf_status(out);
}

static void write_notes(struct pw_json *w, const char *key, const struct pw_data_note *notes, size_t n)
{
    pw_json_open(w, key, '[');
    for (size_t i = 0; i < n; i++) {
        pw_json_open(w, NULL, '{');
        pw_json_i64(w, "row", notes[i].row);
        pw_json_str(w, "file", notes[i].source);
        pw_json_str(w, "what", notes[i].what);
        pw_json_close(w, '}');
    }
    pw_json_close(w, ']');
}

static int write_json(struct pw_cmd *c, const struct pw_dataset *d, const struct pw_preflight *p, const struct pw_tokenizer *t, int64_t rows)
{
    struct pw_json w = {0};
    struct pw_buf piece = {0};
    pw_json_begin(&w);
    pw_json_i64(&w, "rows", pw_dataset_examples(d));
    pw_json_i64(&w, "tokens", d->n_tokens);
    pw_json_i64(&w, "trained_tokens", d->n_trained);
    pw_json_i64(&w, "truncated", d->truncated);
    pw_json_i64(&w, "dropped", d->dropped);
    pw_json_i64(&w, "duplicates", d->duplicates);
    pw_json_i64(&w, "longest", d->longest);
    pw_json_i64(&w, "untrained", p->untrained);
    pw_json_i64(&w, "endless", p->endless);
    pw_json_i64(&w, "doubled_bos", p->doubled_bos);
    pw_json_i64(&w, "cut_answers", p->cut_answers);
    pw_json_i64(&w, "near_duplicates", p->near.n);
    pw_json_open(&w, "overlap", '{');
    pw_json_i64(&w, "exact", p->exact.n);
    pw_json_i64(&w, "runs_of_13", p->runs.n);
    pw_json_close(&w, '}');
    pw_json_open(&w, "packing", '{');
    pw_json_i64(&w, "packs", p->packs);
    pw_json_f64(&w, "fill", p->fill);
    pw_json_close(&w, '}');
    pw_json_open(&w, "lengths", '[');
    for (int i = 0; i < PW_LENGTH_BINS; i++)
        if (p->lengths[i] > 0) {
            pw_json_open(&w, NULL, '{');
            pw_json_i64(&w, "up_to", (int64_t)1 << i);
            pw_json_i64(&w, "rows", p->lengths[i]);
            pw_json_close(&w, '}');
        }
    pw_json_close(&w, ']');
    write_notes(&w, "errors", d->errors, d->n_errors);
    write_notes(&w, "warnings", d->warnings, d->n_warnings);
    if (rows > 0) {
        pw_json_open(&w, "samples", '[');
        for (int64_t row = 0; row < rows; row++) {
            pw_json_open(&w, NULL, '{');
            pw_json_i64(&w, "row", d->row_line[row]);
            if (role_of(d, row)[0])
                pw_json_str(&w, "role", role_of(d, row));
            pw_json_open(&w, "ids", '[');
            for (int64_t i = d->row_start[row]; i < d->row_start[row + 1]; i++)
                pw_json_i64(&w, NULL, d->ids[i]);
            pw_json_close(&w, ']');
            pw_json_open(&w, "trained", '[');
            for (int64_t i = d->row_start[row]; i < d->row_start[row + 1]; i++)
                pw_json_i64(&w, NULL, d->trained[i]);
            pw_json_close(&w, ']');
            if (d->token_weight) {
                pw_json_open(&w, "weights", '[');
                for (int64_t i = d->row_start[row]; i < d->row_start[row + 1]; i++)
                    pw_json_f64(&w, NULL, d->trained[i] ? (double)d->token_weight[i] : 0);
                pw_json_close(&w, ']');
            }
            pw_json_open(&w, "texts", '[');
            for (int64_t i = d->row_start[row]; i < d->row_start[row + 1]; i++)
                token_text(&w, t, d->ids[i], &piece);
            pw_json_close(&w, ']');
            pw_json_close(&w, '}');
        }
        pw_json_close(&w, ']');
    }
    pw_buf_free(&piece);
    return pw_json_finish(c, &w);
}

static void write_lengths(struct pw_buf *out, const struct pw_preflight *p)
{
    int64_t most = 1;
    for (int i = 0; i < PW_LENGTH_BINS; i++)
        most = p->lengths[i] > most ? p->lengths[i] : most;
    for (int i = 0; i < PW_LENGTH_BINS; i++)
        if (p->lengths[i] > 0)
            pw_buf_printf(out, "  up to %7lld tokens %9" PRId64 "  %.*s\n", 1ll << i, p->lengths[i], (int)(1 + 39 * p->lengths[i] / most),
                          "########################################");
}

static int write_plain(struct pw_cmd *c, const struct pw_dataset *d, const struct pw_preflight *p, const struct pw_tokenizer *t, int64_t rows)
{
    const char *plain = getenv("NO_COLOR");
    const bool colour = isatty(STDOUT_FILENO) == 1 && !(plain && plain[0]);
    for (int64_t row = 0; row < rows; row++)
        PW_PASS(show_row(c->out, d, t, row, colour));
    write_lengths(c->out, p);
    pw_buf_printf(c->out, "%" PRId64 " rows, %" PRId64 " tokens, %" PRId64 " trained (%.1f %%), the longest row has %" PRId64 "\n", pw_dataset_examples(d),
                  d->n_tokens, d->n_trained, d->n_tokens ? 100.0 * (double)d->n_trained / (double)d->n_tokens : 0.0, d->longest);
    pw_buf_printf(c->out, "%" PRId64 " truncated, %" PRId64 " dropped, %" PRId64 " duplicates, %" PRId64 " near-duplicates\n", d->truncated, d->dropped, d->duplicates,
                  p->near.n);
    pw_buf_printf(c->out, "packed: %" PRId64 " sequences, %.1f %% full\n", p->packs, 100 * p->fill);
    for (size_t i = 0; i < d->n_warnings; i++)
        pw_buf_printf(c->out, "warning: %s:%" PRId64 ": %s\n", d->warnings[i].source, d->warnings[i].row, d->warnings[i].what);
    for (size_t i = 0; i < d->n_errors; i++)
        pw_buf_printf(c->out, "error: %s:%" PRId64 ": %s\n", d->errors[i].source, d->errors[i].row, d->errors[i].what);
    return pw_buf_status(c->out);
}

static int data_check(struct pw_cmd *c)
{
    const struct data_options *o = c->options;
    struct pw_tokenizer *t = NULL;
    struct pw_dataset *d = NULL, *eval = NULL;
    struct pw_preflight preflight;
    struct pw_buf file = {0};
    struct pw_arena a;
    struct pw_dataset_options so = {.max_length = o->max_length, .keep_going = true, .progress = c->progress};
    int rc = 0;
    PW_CHECK(o->model, PW_E_USAGE, "--model: whose tokenizer?");
    pw_arena_init(&a);
    PW_PASS_OUT(pw_train_on_parse(o->train_on, &so.train_on));
    PW_PASS_OUT(pw_overlong_parse(o->overlong, &so.overlong));
    PW_PASS_OUT(pw_load_tokenizer(&t, c, o->model));
    PW_PASS_OUT(find_template(t, o->chat_template, &file, &so.chat_template));
    so.tokenizer = t;
    struct pw_data_file *files = pw_arena_array(&a, c->args.n, sizeof *files);
    PW_CHECK_OUT(files, PW_E_NOMEM, "no memory for the list of files");
    for (size_t i = 0; i < c->args.n; i++)
        files[i] = (struct pw_data_file){.path = c->args.items[i], .format = o->format, .weight = 1, .prompt = o->prompt,
                                         .completion = o->completion, .text = o->text};
    PW_PASS_OUT(pw_dataset_load(&d, files, c->args.n, &so));
    struct pw_data_file *held = pw_arena_array(&a, o->eval.n + 1, sizeof *held);
    PW_CHECK_OUT(held, PW_E_NOMEM, "no memory for the list of files");
    for (size_t i = 0; i < o->eval.n; i++)
        held[i] = (struct pw_data_file){.path = o->eval.items[i], .weight = 1};
    so.max_length = 0;
    so.keep_going = false;
    if (o->eval.n > 0)
        PW_TRY_OUT(pw_dataset_load(&eval, held, o->eval.n, &so), "reading --eval");
    const struct pw_preflight_options po = {.tokenizer = t, .chat_template = so.chat_template, .max_length = o->max_length, .eval = eval, .source = files[0].path};
    PW_PASS_OUT(pw_preflight(&preflight, d, &po));
    int64_t rows = o->rows >= 0 ? o->rows : c->common->json ? 0 : 3;
    rows = rows > pw_dataset_examples(d) ? d->n_rows : rows * pw_dataset_per(d);
    PW_PASS_OUT(c->common->json ? write_json(c, d, &preflight, t, rows) : write_plain(c, d, &preflight, t, rows));
    if (d->n_errors > 0) {
        PW_PASS_OUT(pw_cmd_emit(c)); /* the list of errors is the result */
        rc = pw_error(PW_E_FAIL, "%zu error%s in the data, first: %s:%" PRId64 ": %s", d->n_errors, d->n_errors == 1 ? "" : "s", d->errors[0].source, d->errors[0].row,
                      d->errors[0].what);
    }
out:
    pw_dataset_free(d);
    pw_dataset_free(eval);
    pw_buf_free(&file);
    pw_tokenizer_free(t);
    pw_arena_free(&a);
    return rc;
}

/* ---- template ---- */

static int read_extra(struct pw_arena *a, const struct pw_strings *set, struct pw_value *extra)
{
    extra->kind = PW_MAP;
    extra->members = pw_arena_array(a, set->n + 1, sizeof *extra->members);
    PW_CHECK(extra->members, PW_E_NOMEM, "no memory for --set");
    for (size_t i = 0; i < set->n; i++) {
        const char *equals = strchr(set->items[i], '=');
        PW_CHECK(equals && equals > set->items[i], PW_E_USAGE, "--set: expected K=JSON, got %s", set->items[i]);
        struct pw_value *v;
        if (pw_json_parse(a, equals + 1, strlen(equals + 1), "--set", &v) < 0)
            return pw_error(PW_E_USAGE, "--set: %s: not JSON (a text needs quotes)", set->items[i]);
        extra->members[extra->len++] = (struct pw_member){set->items[i], (size_t)(equals - set->items[i]), *v};
    }
    return 0;
}

static int read_messages(struct pw_arena *a, const struct data_options *o, struct pw_chat_request *q)
{
    struct pw_value *v, *tools;
    PW_PASS(pw_json_load(a, o->messages, &v));
    q->messages = v->kind == PW_MAP ? pw_get(v, "messages") : v;
    q->tools = v->kind == PW_MAP ? pw_get(v, "tools") : NULL;
    PW_PASS(pw_messages_check(q->messages, o->messages));
    if (o->tools) {
        PW_PASS(pw_json_load(a, o->tools, &tools));
        q->tools = tools;
    }
    if (q->tools && q->tools->kind == PW_NULL)
        q->tools = NULL;
    PW_CHECK(!q->tools || q->tools->kind == PW_LIST, PW_E_FORMAT, "%s: tools: expected list, got %s", o->tools ? o->tools : o->messages,
             pw_kind_name(q->tools->kind));
    return 0;
}

static int write_rendering(struct pw_cmd *c, const struct pw_chat *chat, const struct pw_chat_request *q, const struct pw_tokenizer *t, bool spans)
{
    struct pw_chat_spans s = {0};
    struct pw_json w = {0};
    int rc = 0;
    if (!spans && !c->common->json) {
        PW_PASS_OUT(pw_chat_render(chat, q, c->out));
        goto out;
    }
    if (spans)
        PW_PASS_OUT(pw_chat_spans(chat, q, t, PW_TRAIN_ASSISTANT, &s));
    else
        PW_PASS_OUT(pw_chat_render(chat, q, &s.text));
    if (s.warning)
        pw_progress_say(c->progress, "%s", s.warning);
    pw_json_begin(&w);
    pw_json_strn(&w, "text", s.text.len ? s.text.data : "", s.text.len);
    if (spans) {
        pw_json_open(&w, "spans", '[');
        for (size_t i = 0; i < s.spans.n; i++) {
            pw_json_open(&w, NULL, '[');
            pw_json_i64(&w, NULL, (int64_t)s.spans.start[i]);
            pw_json_i64(&w, NULL, (int64_t)s.spans.end[i]);
            pw_json_close(&w, ']');
        }
        pw_json_close(&w, ']');
    }
    rc = pw_json_finish(c, &w);
out:
    pw_chat_spans_free(&s);
    return rc;
}

static int run_template(struct pw_cmd *c)
{
    const struct data_options *o = c->options;
    struct pw_tokenizer *t = NULL;
    struct pw_chat *chat = NULL;
    struct pw_buf file = {0};
    struct pw_arena a;
    struct pw_value extra = {0};
    struct pw_chat_request q = {.extra = &extra, .generation_prompt = o->generation_prompt, .now = o->now};
    int rc = 0;
    PW_CHECK(o->messages, PW_E_USAGE, "--messages: which?");
    PW_CHECK(c->args.n == 1 || o->chat_template, PW_E_USAGE, "expected MODEL or --template FILE");
    pw_arena_init(&a);
    if (c->args.n == 1)
        PW_PASS_OUT(pw_load_tokenizer(&t, c, c->args.items[0]));
    const char *source = t ? pw_tokenizer_template(t, NULL) : NULL, *name = t ? c->args.items[0] : o->chat_template;
    if (o->chat_template) {
        PW_PASS_OUT(pw_file_read(o->chat_template, (size_t)16 << 20, &file));
        source = file.data ? file.data : "";
        name = o->chat_template;
    }
    PW_CHECK_OUT(source, PW_E_FAIL, "%s: the model has no chat template", c->args.items[0]);
    PW_PASS_OUT(pw_chat_open(&chat, source, name, t ? pw_tokenizer_bos_text(t) : NULL, t ? pw_tokenizer_eos_text(t) : NULL));
    PW_PASS_OUT(read_extra(&a, &o->set, &extra));
    PW_PASS_OUT(read_messages(&a, o, &q));
    PW_PASS_OUT(write_rendering(c, chat, &q, t, o->spans));
out:
    pw_chat_close(chat);
    pw_buf_free(&file);
    pw_tokenizer_free(t);
    pw_arena_free(&a);
    return rc;
}

const struct pw_command pw_commands_data[] = {
    {"data check", "FILE... --model MODEL [--format F]", "what would be trained, token by token",
     "Reads data files as training would and shows the first rows token by token: lines with + are trained, lines with - are not; on a terminal\n"
     "the rows as texts, trained tokens green, special ones reversed (NO_COLOR: as in a file). Then lengths, totals and how full packs are. Errors, with\n"
     "exit status 1: rows that cannot be used, with their lines; nothing trained; an end-of-turn token that is never trained; BOS twice; a template\n"
     "whose control tokens the tokenizer does not know. Warnings: near-duplicates, rows that --eval holds too (the same words, or 13 in a row),\n"
     "answers longer than --max-length. Training looks in the same way before step 1.\n"
     "A row of sft, and a turn of a conversation, may have a key weight: what its tokens count in the loss, which is the mean over the trained\n"
     "tokens by their weights; a turn of weight 0 is not trained.\n"
     "Files of other keys are mapped by Jinja templates over the row: --prompt '{{ question }}' --completion '{{ answer }}'. In a JSON\n"
     "object of objects each value is a row, and its key is _key.",
     check_options, sizeof(struct data_options), 1, -1, false, data_check},
    {"template", "[MODEL] --messages FILE", "a chat as the model's template writes it",
     "Prints the rendering, exact bytes, with no newline added. --spans prints JSON with the byte ranges of it that training would learn.",
     template_options, sizeof(struct data_options), 0, 1, false, run_template},
    {0},
};
