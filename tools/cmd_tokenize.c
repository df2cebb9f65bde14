/* pw tokenize and pw detokenize: text to ids and back, whole or line by line.
 *
 * Detokenizing is the exact reverse of tokenizing with the same options: a leading BOS (a trailing EOS) that tokenizing adds
 * by itself is dropped, every other special token is shown as its text. */
#include <string.h>

#include "base/file.h"
#include "tools/load.h"

struct tokenize_options { bool lines, no_special, parse_special; const char *pre_split; };
#define AT(field) offsetof(struct tokenize_options, field)
static const struct pw_option tokenize_table[] = {
    {"lines", 0, PW_OPT_FLAG, AT(lines), NULL, NULL, NULL, 0, 0, "each input line is a JSON string, each output line a JSON array"},
    {"no-special", 0, PW_OPT_FLAG, AT(no_special), NULL, NULL, NULL, 0, 0, "add no BOS, EOS or other token of the model's own"},
    {"pre-split", 0, PW_OPT_STRING, AT(pre_split), "NAME", NULL, NULL, 0, 0, "how tiktoken ranks split words, where no file beside them says it: gpt-2, llama-bpe, qwen2, cl100k_base, ..."},
    {"parse-special", 0, PW_OPT_FLAG, AT(parse_special), NULL, NULL, NULL, 0, 0, "text that reads like a special token becomes that token"},
    PW_OPTIONS_END,
};
static const struct pw_option detokenize_table[] = {
    {"lines", 0, PW_OPT_FLAG, AT(lines), NULL, NULL, NULL, 0, 0, "each input line is a JSON array, each output line a JSON string"},
    {"no-special", 0, PW_OPT_FLAG, AT(no_special), NULL, NULL, NULL, 0, 0, "the ids hold no BOS or EOS of the model's own: show all of them"},
    {"pre-split", 0, PW_OPT_STRING, AT(pre_split), "NAME", NULL, NULL, 0, 0, "how tiktoken ranks split words, where no file beside them says it: gpt-2, llama-bpe, qwen2, cl100k_base, ..."},
    PW_OPTIONS_END,
};

/* A folder or file that is itself a tokenizer needs no weights beside it. */
static int open_tokenizer(struct pw_cmd *c, struct pw_tokenizer **t)
{
    const struct tokenize_options *o = c->options;
    const char *path = c->args.items[0], *dot = strrchr(pw_path_base(path), '.');
    if (o->pre_split)
        return pw_tokenizer_load_as(t, path, o->pre_split);
    if (!c->common->tokenizer && dot && strcmp(dot, ".bin") != 0 && !pw_is_dir(path) && pw_file_exists(path))
        return pw_tokenizer_load(t, path);
    if (!c->common->tokenizer && pw_is_dir(path)) {
        struct pw_arena a;
        pw_arena_init(&a);
        const char *json = pw_path_join(&a, path, "tokenizer.json"), *merges = pw_path_join(&a, path, "merges.txt");
        const char *model = pw_path_join(&a, path, "tokenizer.model"), *config = pw_path_join(&a, path, "config.json");
        bool own = json && merges && model && config && (pw_file_exists(json) || pw_file_exists(merges) || pw_file_exists(model) || !pw_file_exists(config));
        pw_arena_free(&a);
        if (own)
            return pw_tokenizer_load(t, path);
    }
    return pw_load_tokenizer(t, c, path);
}


/* One line at a time; the parsed line lives in an arena that is reset after it. */
static int each_line(struct pw_cmd *c, const struct pw_tokenizer *t, const struct pw_buf *in, const char *source, int (*work)(struct pw_cmd *, const struct pw_tokenizer *, const struct pw_value *, const char *, struct pw_tokens *),
                      struct pw_tokens *tokens)
{
    struct pw_arena a;
    size_t number = 0;
    int rc = 0;
    pw_arena_init(&a);
    for (size_t at = 0; at < in->len;) {
        const char *line = in->data + at, *nl = memchr(line, '\n', in->len - at);
        size_t n = nl ? (size_t)(nl - line) : in->len - at;
        char where[512];
        struct pw_value *v;
        at += n + 1;
        snprintf(where, sizeof where, "%s: line %zu", source, ++number);
        PW_PASS_OUT(pw_json_parse(&a, line, n, where, &v));
        PW_PASS_OUT(work(c, t, v, where, tokens));
        pw_arena_reset(&a);
    }
out:
    pw_arena_free(&a);
    return rc;
}

static void put_ids(struct pw_buf *out, const struct pw_tokens *tokens)
{
    pw_buf_char(out, '[');
    for (size_t i = 0; i < tokens->n; i++)
        pw_buf_printf(out, i ? ", %d" : "%d", (int)tokens->ids[i]);
    pw_buf_str(out, "]\n");
}

static int encode(struct pw_cmd *c, const struct pw_tokenizer *t, const char *text, size_t n, const char *where, struct pw_tokens *tokens)
{
    const struct tokenize_options *o = c->options;
    unsigned flags = (o->no_special ? 0 : PW_TOK_SPECIAL) | (o->parse_special ? PW_TOK_PARSE_SPECIAL : 0);
    PW_TRY(pw_tokenizer_encode(t, text, n, flags, tokens), "tokenizing %s", where);
    return 0;
}

static int tokenize_line(struct pw_cmd *c, const struct pw_tokenizer *t, const struct pw_value *v, const char *where, struct pw_tokens *tokens)
{
    PW_CHECK(v->kind == PW_STRING, PW_E_FORMAT, "%s: expected a JSON string, got %s", where, pw_kind_name(v->kind));
    PW_PASS(encode(c, t, v->s, v->len, where, tokens));
    put_ids(c->out, tokens);
    return pw_buf_status(c->out);
}

static int tokenize(struct pw_cmd *c)
{
    const struct tokenize_options *o = c->options;
    const char *source = c->args.n > 1 ? c->args.items[1] : "-";
    struct pw_tokenizer *t = NULL;
    struct pw_tokens tokens = {0};
    struct pw_buf in = {0};
    int rc = 0;
    PW_PASS_OUT(open_tokenizer(c, &t));
    PW_PASS_OUT(pw_file_read(source, 0, &in));
    if (o->lines) {
        PW_PASS_OUT(each_line(c, t, &in, source, tokenize_line, &tokens));
    } else {
        PW_PASS_OUT(encode(c, t, in.data, in.len, source, &tokens));
        if (c->common->json) {
            struct pw_json w = {0};
            pw_json_begin(&w);
            pw_json_open(&w, "tokens", '[');
            for (size_t i = 0; i < tokens.n; i++)
                pw_json_i64(&w, NULL, tokens.ids[i]);
            pw_json_close(&w, ']');
            PW_PASS_OUT(pw_json_finish(c, &w));
        } else {
            put_ids(c->out, &tokens);
            PW_PASS_OUT(pw_buf_status(c->out));
        }
    }
out:
    pw_buf_free(&in);
    pw_tokens_free(&tokens);
    pw_tokenizer_free(t);
    return rc;
}

static int decode(struct pw_cmd *c, const struct pw_tokenizer *t, const struct pw_value *v, const char *where, struct pw_buf *text)
{
    const struct tokenize_options *o = c->options;
    int32_t *ids = NULL;
    size_t n = v->len, first = 0;
    int rc = 0;
    PW_CHECK(v->kind == PW_LIST, PW_E_FORMAT, "%s: expected a JSON array of ids, got %s", where, pw_kind_name(v->kind));
    ids = pw_alloc_zero(n + 1, sizeof *ids);
    PW_CHECK_OUT(ids, PW_E_NOMEM, "no memory for %zu ids", n);
    for (size_t i = 0; i < n; i++) {
        const struct pw_value *x = &v->items[i];
        PW_CHECK_OUT(x->kind == PW_INT && x->i >= 0 && x->i < pw_tokenizer_vocab(t), PW_E_FORMAT, "%s: item %zu: expected an id from 0 to %d", where, i,
                     (int)pw_tokenizer_vocab(t) - 1);
        ids[i] = (int32_t)x->i;
    }
    if (!o->no_special && n && pw_tokenizer_adds_bos(t) && ids[0] == pw_tokenizer_bos(t))
        first = 1;
    if (!o->no_special && n > first && pw_tokenizer_adds_eos(t) && ids[n - 1] == pw_tokenizer_eos(t))
        n--;
    PW_TRY_OUT(pw_tokenizer_decode(t, ids + first, n - first, 0, text), "detokenizing %s", where);
out:
    pw_free(ids);
    return rc;
}

static int detokenize_line(struct pw_cmd *c, const struct pw_tokenizer *t, const struct pw_value *v, const char *where, struct pw_tokens *tokens)
{
    struct pw_buf text = {0};
    struct pw_json w = {0};
    int rc = decode(c, t, v, where, &text);
    (void)tokens;
    if (rc == 0) {
        pw_json_strn(&w, NULL, text.data ? text.data : "", text.len);
        rc = pw_json_status(&w);
    }
    if (rc == 0) {
        pw_buf_add(c->out, w.out.data, w.out.len);
        pw_buf_char(c->out, '\n');
        rc = pw_buf_status(c->out);
    }
    pw_json_free(&w);
    pw_buf_free(&text);
    return rc;
}

static int detokenize(struct pw_cmd *c)
{
    const struct tokenize_options *o = c->options;
    const char *source = c->args.n > 1 ? c->args.items[1] : "-";
    struct pw_tokenizer *t = NULL;
    struct pw_arena a;
    struct pw_buf in = {0}, text = {0};
    struct pw_value *v;
    int rc = 0;
    pw_arena_init(&a);
    PW_PASS_OUT(open_tokenizer(c, &t));
    PW_PASS_OUT(pw_file_read(source, 0, &in));
    if (o->lines) {
        PW_PASS_OUT(each_line(c, t, &in, source, detokenize_line, NULL));
    } else {
        PW_PASS_OUT(pw_json_parse(&a, in.data ? in.data : "", in.len, source, &v));
        PW_PASS_OUT(decode(c, t, v, source, &text));
        if (c->common->json) {
            struct pw_json w = {0};
            pw_json_begin(&w);
            pw_json_strn(&w, "text", text.data ? text.data : "", text.len);
            PW_PASS_OUT(pw_json_finish(c, &w));
        } else {
            pw_buf_add(c->out, text.data, text.len);
            PW_PASS_OUT(pw_buf_status(c->out));
        }
    }
out:
    pw_buf_free(&text);
    pw_buf_free(&in);
    pw_tokenizer_free(t);
    pw_arena_free(&a);
    return rc;
}

const struct pw_command pw_commands_tokenize[] = {
    {"tokenize", "MODEL [FILE|-]", "ids of a text", "MODEL may also be a folder or file that holds a tokenizer alone. The whole text, as UTF-8, gives one JSON array.",
     tokenize_table, sizeof(struct tokenize_options), 1, 2, false, tokenize},
    {"detokenize", "MODEL [FILE|-]", "the text of ids",
     "The reverse of tokenize: a BOS or EOS that tokenize adds is dropped, other special tokens are shown. The text is written as it is, without a newline.",
     detokenize_table, sizeof(struct tokenize_options), 1, 2, false, detokenize},
    {0},
};
