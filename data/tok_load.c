/* Loading: which files make a tokenizer, what the configuration beside it says (begin, end, padding, chat templates), and
 * the tokenizer file of llama2.c. Owns the life of struct pw_tokenizer and its accessors.
 *
 * llama2.c: int32 longest piece, then for each id float32 score, int32 length, bytes. Ids 0, 1, 2 are unknown, begin, end;
 * byte b is id 3 + b. Merging takes the pair whose joined piece has the highest score, leftmost first. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "data/tok_gguf.h"
#include "data/tok_parts.h"

int tok_new(struct pw_tokenizer **out)
{
    static atomic_ullong serial;
    struct pw_tokenizer *t = pw_alloc_zero(1, sizeof *t);
    *out = t;
    PW_CHECK(t, PW_E_NOMEM, "no memory for a tokenizer");
    pw_arena_init(&t->arena);
    t->serial = atomic_fetch_add(&serial, 1) + 1;
    t->model_unk = t->bos = t->eos = t->pad = t->unk = -1;
    memset(t->raw.first, 0xFF, sizeof t->raw.first);
    memset(t->normal.first, 0xFF, sizeof t->normal.first);
    memset(t->spm.user.first, 0xFF, sizeof t->spm.user.first);
    return 0;
}

void pw_tokenizer_free(struct pw_tokenizer *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < TOK_STEPS; i++) {
        pw_regex_free(t->norm[i].regex);
        pw_regex_free(t->pre[i].regex);
        pw_regex_free(t->dec[i].regex);
    }
    tok_vocab_free(&t->vocab);
    tok_vocab_free(&t->hidden);
    tok_unigram_free(&t->unigram);
    pw_free(t->spm.user.nodes);
    tok_pairs_free(&t->merges);
    tok_pairs_free(&t->joins);
    pw_free(t->raw.nodes);
    pw_free(t->normal.nodes);
    pw_arena_free(&t->arena);
    pw_free(t);
}

/* tokenizer_config.json often holds model_max_length = 10^30 written as an integer, which no integer type holds. Numbers of
 * more than 18 digits are therefore read as reals. */
static int load_config(struct pw_arena *a, const char *path, struct pw_value **out)
{
    struct pw_buf text = { 0 }, fixed = { 0 };
    bool quoted = false;
    int rc;
    *out = NULL;
    if (!pw_file_exists(path))
        return 0;
    PW_PASS_OUT(pw_file_read(path, (size_t)64 << 20, &text));
    for (size_t i = 0; i < text.len;) {
        size_t digits = 0;
        if (text.data[i] == '"')
            quoted = !quoted;
        while (!quoted && i + digits < text.len && text.data[i + digits] >= '0' && text.data[i + digits] <= '9')
            digits++;
        if (digits == 0) {
            size_t n = quoted && text.data[i] == '\\' && i + 1 < text.len ? 2 : 1;
            pw_buf_add(&fixed, text.data + i, n);
            i += n;
            continue;
        }
        char next = i + digits < text.len ? text.data[i + digits] : 0, last = i ? text.data[i - 1] : 0;
        pw_buf_add(&fixed, text.data + i, digits);
        i += digits;
        if (digits > 18 && next != '.' && next != 'e' && next != 'E' && last != '.' && last != '+')
            pw_buf_str(&fixed, ".0");
    }
    PW_PASS_OUT(pw_buf_status(&fixed));
    PW_PASS_OUT(pw_json_parse(a, fixed.data ? fixed.data : "", fixed.len, path, out));
    PW_CHECK_OUT((*out)->kind == PW_MAP, PW_E_FORMAT, "%s: expected a map, got %s", path, pw_kind_name((*out)->kind));
    rc = 0;
out:
    pw_buf_free(&text);
    pw_buf_free(&fixed);
    return rc;
}

struct config { const struct pw_value *tokenizer, *map, *generation, *model; const char *tokenizer_path, *map_path, *generation_path, *model_path; };

/* "bos_token": a string, or a map with "content". */
static const char *token_text(const struct pw_value *config, const char *key)
{
    const struct pw_value *v = config ? pw_get(config, key) : NULL;
    if (v && v->kind == PW_MAP)
        v = pw_get(v, "content");
    return v && v->kind == PW_STRING ? v->s : NULL;
}

/* By name from the tokenizer's own files, else by id from those of the model. */
static int named_id(struct pw_tokenizer *t, const struct config *c, const char *token_key, const char *id_key, bool must, int32_t *out, const char **text)
{
    const char *name = token_text(c->tokenizer, token_key), *from = c->tokenizer_path;
    int64_t id = -1;
    if (!name && !(c->tokenizer && pw_get(c->tokenizer, token_key))) {
        name = token_text(c->map, token_key);
        from = c->map_path;
    }
    if (name) {
        *out = tok_vocab_find(&t->vocab, name, strlen(name));
        PW_CHECK(*out >= 0 || !must, PW_E_FORMAT, "%s: %s \"%s\" is not in the vocabulary", from, token_key, name);
    } else if (id_key && !(c->tokenizer && pw_get(c->tokenizer, token_key))) {
        const struct pw_value *sources[3] = { c->generation, c->model, c->model ? pw_get(c->model, "text_config") : NULL }; /* of text and vision: the model of text */
        for (size_t i = 0; i < 3 && id < 0; i++) {
            const struct pw_value *v = sources[i] ? pw_get(sources[i], id_key) : NULL;
            if (v && v->kind == PW_LIST && v->len)
                v = &v->items[0];
            if (v && v->kind == PW_INT)
                id = v->i;
        }
        if (id >= 0 && id < (int64_t)t->vocab.n && tok_vocab_piece(&t->vocab, (int32_t)id, NULL))
            *out = (int32_t)id;
    }
    if (*out >= 0 && text)
        *text = tok_vocab_piece(&t->vocab, *out, NULL);
    return 0;
}

static int stop_ids(struct pw_tokenizer *t, const struct config *c)
{
    const struct pw_value *v = c->generation ? pw_get(c->generation, "eos_token_id") : NULL;
    size_t n = v && v->kind == PW_LIST ? v->len : v && v->kind == PW_INT ? 1 : 0;
    t->n_stops = 0;
    t->stops = pw_arena_array(&t->arena, n + 1, sizeof *t->stops);
    PW_CHECK(t->stops, PW_E_NOMEM, "no memory for a tokenizer");
    if (t->eos >= 0)
        t->stops[t->n_stops++] = t->eos;
    for (size_t i = 0; i < n; i++) {
        const struct pw_value *x = v->kind == PW_LIST ? &v->items[i] : v;
        PW_CHECK(x->kind == PW_INT && x->i >= 0 && x->i < (int64_t)TOK_ID_LIMIT, PW_E_FORMAT, "%s: eos_token_id: expected ids", c->generation_path);
        if (x->i != t->eos)
            t->stops[t->n_stops++] = (int32_t)x->i;
    }
    return 0;
}

static int add_template(struct pw_tokenizer *t, const char *name, const char *text, size_t n, const char *where)
{
    PW_CHECK(memchr(text, 0, n) == NULL, PW_E_FORMAT, "%s: chat_template \"%s\": a NUL in the text", where, name);
    t->templates[t->n_templates].name = pw_arena_strndup(&t->arena, name, strlen(name));
    t->templates[t->n_templates].text = pw_arena_strndup(&t->arena, text, n);
    PW_CHECK(t->templates[t->n_templates].name && t->templates[t->n_templates].text, PW_E_NOMEM, "no memory for chat templates");
    t->n_templates++;
    return 0;
}

/* chat_template.jinja beside the tokenizer comes before the text inside tokenizer_config.json, as in transformers. */
static int chat_templates(struct pw_tokenizer *t, const struct config *c, const char *jinja)
{
    const struct pw_value *v = c->tokenizer ? pw_get(c->tokenizer, "chat_template") : NULL;
    struct pw_buf text = { 0 };
    int rc;
    t->templates = pw_arena_array(&t->arena, 2 + (v && v->kind == PW_LIST ? v->len : 0), sizeof *t->templates);
    PW_CHECK_OUT(t->templates, PW_E_NOMEM, "no memory for chat templates");
    if (pw_file_exists(jinja)) {
        PW_PASS_OUT(pw_file_read(jinja, 4 << 20, &text));
        PW_CHECK_OUT(pw_utf8_valid(text.data, text.len), PW_E_FORMAT, "%s: not UTF-8", jinja);
        PW_PASS_OUT(add_template(t, "default", text.data ? text.data : "", text.len, jinja));
    }
    if (v && v->kind == PW_STRING) {
        PW_PASS_OUT(add_template(t, "default", v->s, v->len, c->tokenizer_path));
    } else if (v && v->kind == PW_LIST) {
        for (size_t i = 0; i < v->len; i++) {
            const struct pw_value *name = pw_get(&v->items[i], "name"), *one = pw_get(&v->items[i], "template");
            PW_CHECK_OUT(name && one && name->kind == PW_STRING && one->kind == PW_STRING, PW_E_FORMAT, "%s: chat_template: item %zu: expected name and template",
                         c->tokenizer_path, i);
            PW_PASS_OUT(add_template(t, name->s, one->s, one->len, c->tokenizer_path));
        }
    } else {
        PW_CHECK_OUT(!v || v->kind == PW_NULL, PW_E_FORMAT, "%s: chat_template: expected a string or a list, got %s", c->tokenizer_path, pw_kind_name(v->kind));
    }
    rc = 0;
out:
    pw_buf_free(&text);
    return rc;
}

static int settle(struct pw_tokenizer *t, const struct config *c, const char *jinja)
{
    bool plain = !c->tokenizer && !c->map && !c->generation;
    PW_PASS(named_id(t, c, "bos_token", "bos_token_id", true, &t->bos, &t->bos_text));
    PW_PASS(named_id(t, c, "eos_token", "eos_token_id", true, &t->eos, &t->eos_text));
    PW_PASS(named_id(t, c, "pad_token", "pad_token_id", false, &t->pad, NULL));
    PW_PASS(named_id(t, c, "unk_token", NULL, false, &t->unk, NULL));
    if (t->unk < 0)
        t->unk = t->model_unk;
    /* The bare pair vocab.json + merges.txt is GPT-2's, whose one special token is all three. */
    int32_t end = tok_vocab_find(&t->vocab, "<|endoftext|>", 13);
    if (plain && t->bos < 0 && t->eos < 0 && end >= 0 && t->n_added == 1) {
        t->bos = t->eos = end;
        t->unk = t->unk < 0 ? end : t->unk;
        t->bos_text = t->eos_text = "<|endoftext|>";
    }
    PW_PASS(stop_ids(t, c));
    return chat_templates(t, c, jinja);
}

static int hash_files(struct pw_tokenizer *t, const char *const *paths, size_t n)
{
    struct pw_sha256 h;
    pw_sha256_init(&h);
    for (size_t i = 0; i < n; i++) {
        struct pw_map m;
        PW_PASS(pw_map_open(&m, paths[i]));
        uint64_t bytes = m.bytes;
        pw_sha256_add(&h, &bytes, sizeof bytes);
        pw_sha256_add(&h, m.data, m.bytes);
        pw_map_close(&m);
    }
    int32_t ids[4] = { t->bos, t->eos, t->pad, t->unk };
    pw_sha256_add(&h, ids, sizeof ids);
    pw_sha256_hex(&h, t->hash);
    return 0;
}

/* What tokenizer_config.json says of a file that does not say it itself. Classes are those whose behaviour is known here. */
static int beside(struct pw_tokenizer *t, struct pw_arena *a, const struct config *c, bool sentencepiece, struct tok_beside *out, const char **pre)
{
    static const struct { const char *class, *pre; bool sentencepiece, bos, eos; } rows[] = {
        { "LlamaTokenizer", NULL, true, true, false }, { "CodeLlamaTokenizer", NULL, true, true, false }, { "GemmaTokenizer", NULL, true, true, false },
        { "T5Tokenizer", NULL, true, false, true }, { "QWenTokenizer", "qwen2", false, false, false } };
    static const char *const fast[] = { "", "Fast" };
    const struct pw_value *added = c->tokenizer ? pw_get(c->tokenizer, "added_tokens_decoder") : NULL, *kind = c->model ? pw_get(c->model, "model_type") : NULL;
    const char *class = NULL, *type = kind && kind->kind == PW_STRING ? kind->s : "";
    size_t row = 0, n_rows = sizeof rows / sizeof *rows;
    *out = (struct tok_beside){ .legacy = true };
    if (c->tokenizer) {
        PW_PASS(pw_get_str(c->tokenizer, "tokenizer_class", c->tokenizer_path, &class));
        PW_PASS(pw_get_bool(c->tokenizer, "legacy", c->tokenizer_path, &out->legacy));
    }
    if (!class && sentencepiece && (strcmp(type, "llama") == 0 || strcmp(type, "mistral") == 0 || strcmp(type, "mixtral") == 0))
        class = "LlamaTokenizer";
    if (!class && sentencepiece && strncmp(type, "gemma", 5) == 0)
        class = "GemmaTokenizer";
    for (; class && row < n_rows; row++) {
        size_t n = strlen(rows[row].class);
        if (rows[row].sentencepiece == sentencepiece && strncmp(class, rows[row].class, n) == 0 && (strcmp(class + n, fast[0]) == 0 || strcmp(class + n, fast[1]) == 0))
            break;
    }
    PW_CHECK(!class || row < n_rows || (!sentencepiece && *pre), PW_E_UNSUPPORTED, "%s: tokenizer_class %s without tokenizer.json is not supported", c->tokenizer_path, class);
    if (class && row < n_rows) {
        out->add_bos = rows[row].bos;
        out->add_eos = rows[row].eos;
        *pre = *pre ? *pre : rows[row].pre;
    }
    if (c->tokenizer) {
        PW_PASS(pw_get_bool(c->tokenizer, "add_bos_token", c->tokenizer_path, &out->add_bos));
        PW_PASS(pw_get_bool(c->tokenizer, "add_eos_token", c->tokenizer_path, &out->add_eos));
    }
    PW_CHECK(!added || added->kind == PW_MAP, PW_E_FORMAT, "%s: added_tokens_decoder: expected a map", c->tokenizer_path);
    size_t n = added ? added->len : 0;
    struct tok_added *list = pw_arena_array(a, n + 1, sizeof *list);
    PW_CHECK(list, PW_E_NOMEM, "no memory for added tokens");
    for (size_t i = 0; i < n; i++) {
        int64_t id;
        PW_CHECK(pw_parse_i64(added->members[i].key, &id) == 0 && id >= 0 && id < TOK_ID_LIMIT, PW_E_FORMAT, "%s: added_tokens_decoder: \"%s\" is no id",
                 c->tokenizer_path, added->members[i].key);
        PW_PASS(tok_read_added(t, &added->members[i].value, id, c->tokenizer_path, &list[i]));
        list[i].normalized = false; /* these files are read by programs that look for added tokens in the text as given */
    }
    out->extra = (struct tok_extra){ list, n };
    return 0;
}

/* The published file names of tiktoken's own encodings. */
static const char *pre_of_name(struct pw_arena *a, const char *path)
{
    const char *base = pw_path_base(path), *dot = strrchr(base, '.');
    const char *stem = dot && strcmp(dot, ".tiktoken") == 0 ? pw_arena_strndup(a, base, (size_t)(dot - base)) : NULL;
    return stem && tok_pre_known(stem) ? stem : NULL;
}

/* A file that is not JSON: its bytes say what it is. c: NULL when it stands alone. */
static int load_binary(struct pw_tokenizer *t, struct pw_arena *a, const char *path, const struct config *c, const char *pre)
{
    struct tok_beside b = { .legacy = true };
    struct pw_map m;
    int rc;
    PW_PASS(pw_map_open(&m, path));
    bool spm = tok_is_spm(m.data, m.bytes), ranks = !spm && tok_is_tiktoken(m.data, m.bytes);
    PW_CHECK_OUT(spm || ranks, PW_E_FORMAT, "%s: not a tokenizer: neither JSON (it does not begin with \"{\") nor a SentencePiece model nor tiktoken ranks", path);
    PW_CHECK_OUT(!spm || !pre, PW_E_USAGE, "%s: a pre-split is given, but only tiktoken ranks need one", path);
    if (c)
        PW_PASS_OUT(beside(t, a, c, spm, &b, &pre));
    if (spm) {
        rc = tok_from_spm(t, m.data, m.bytes, c ? &b : NULL, path);
        goto out;
    }
    pre = pre ? pre : pre_of_name(a, path);
    if (!pre) {
        rc = pw_error(PW_E_FORMAT, "%s: ranks without the expression that splits words (known: %s)", path, pw_tokenizer_pre_names());
        pw_error_hint("name it with --pre-split");
        goto out;
    }
    PW_CHECK_OUT(!b.add_bos && !b.add_eos, PW_E_UNSUPPORTED, "%s: add_bos_token and add_eos_token with tiktoken ranks are not supported", path);
    rc = tok_from_tiktoken(t, m.data, m.bytes, pre, &b.extra, path);
out:
    pw_map_close(&m);
    return rc;
}

/* The one *.tiktoken of a folder; NULL: none. */
static int find_ranks(struct pw_arena *a, const char *dir, const char **out)
{
    char **names;
    size_t n;
    *out = NULL;
    PW_PASS(pw_dir_list(a, dir, &names, &n));
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(names[i]);
        if (len < 10 || strcmp(names[i] + len - 9, ".tiktoken") != 0)
            continue;
        PW_CHECK(!*out, PW_E_FORMAT, "%s: two files of ranks, %s and %s", dir, pw_path_base(*out), names[i]);
        *out = pw_path_join(a, dir, names[i]);
        PW_CHECK(*out, PW_E_NOMEM, "no memory for a tokenizer");
    }
    return 0;
}

/* 1: it begins like JSON. */
static int begins_as_json(const char *path)
{
    struct pw_map m;
    size_t at = 0;
    PW_PASS(pw_map_open(&m, path));
    while (at < m.bytes && m.data[at] && strchr(" \t\r\n", m.data[at]))
        at++;
    int json = at < m.bytes && m.data[at] == '{' && !tok_is_spm(m.data, m.bytes);
    pw_map_close(&m);
    return json;
}

static int begins_as_gguf(const char *path)
{
    struct pw_map m;
    if (pw_is_dir(path))
        return 0;
    PW_PASS(pw_map_open(&m, path));
    const int gguf = m.bytes >= 4 && memcmp(m.data, "GGUF", 4) == 0;
    pw_map_close(&m);
    return gguf;
}

static int load_json(struct pw_tokenizer *t, struct pw_arena *a, const char *path)
{
    struct pw_buf text = { 0 };
    struct pw_value *v;
    int rc = pw_file_read(path, (size_t)1 << 30, &text);
    if (rc >= 0)
        rc = pw_json_parse(a, text.data ? text.data : "", text.len, path, &v);
    pw_buf_free(&text);
    PW_PASS(rc);
    return tok_from_json(t, v, path);
}

static int load_config_files(struct pw_arena *a, const char *dir, struct config *c)
{
    struct pw_value *v;
    c->tokenizer_path = pw_path_join(a, dir, "tokenizer_config.json");
    c->map_path = pw_path_join(a, dir, "special_tokens_map.json");
    c->generation_path = pw_path_join(a, dir, "generation_config.json");
    c->model_path = pw_path_join(a, dir, "config.json");
    PW_CHECK(c->tokenizer_path && c->map_path && c->generation_path && c->model_path, PW_E_NOMEM, "no memory for a tokenizer");
    PW_PASS(load_config(a, c->tokenizer_path, &v));
    c->tokenizer = v;
    PW_PASS(load_config(a, c->map_path, &v));
    c->map = v;
    PW_PASS(load_config(a, c->generation_path, &v));
    c->generation = v;
    PW_PASS(load_config(a, c->model_path, &v));
    c->model = v;
    return 0;
}

static int load(struct pw_tokenizer *t, struct pw_arena *a, const char *path, const char *pre)
{
    struct config c = { 0 };
    const char *files[3], *dir = path, *ranks = NULL;
    size_t n_files = 0;
    bool folder = pw_is_dir(path);
    if (!folder) {
        size_t n = (size_t)(pw_path_base(path) - path);
        dir = n ? pw_arena_strndup(a, path, n) : ".";
        int json = begins_as_json(path);
        PW_PASS(json);
        if (!json)
            return load_binary(t, a, path, NULL, pre);
    }
    PW_CHECK(dir, PW_E_NOMEM, "no memory for a tokenizer");
    const char *json = folder ? pw_path_join(a, dir, "tokenizer.json") : path;
    const char *vocab = pw_path_join(a, dir, "vocab.json"), *merges = pw_path_join(a, dir, "merges.txt");
    const char *jinja = pw_path_join(a, dir, "chat_template.jinja"), *model = pw_path_join(a, dir, "tokenizer.model");
    PW_CHECK(json && vocab && merges && jinja && model, PW_E_NOMEM, "no memory for a tokenizer");
    PW_PASS(load_config_files(a, dir, &c));
    if (!folder || pw_file_exists(json)) {
        PW_CHECK(!pre, PW_E_USAGE, "%s: a pre-split is given, but only tiktoken ranks need one", json);
        files[n_files++] = json;
        PW_PASS(load_json(t, a, json));
    } else if (pw_file_exists(vocab) && pw_file_exists(merges)) {
        PW_CHECK(!pre, PW_E_USAGE, "%s: a pre-split is given, but only tiktoken ranks need one", vocab);
        files[n_files++] = vocab;
        files[n_files++] = merges;
        if (c.tokenizer)
            files[n_files++] = c.tokenizer_path;
        PW_PASS(tok_from_two_files(t, vocab, merges, c.tokenizer, c.tokenizer_path));
    } else {
        if (pw_file_exists(model))
            ranks = model;
        else
            PW_PASS(find_ranks(a, dir, &ranks));
        PW_CHECK(ranks, PW_E_FORMAT, "%s: no tokenizer: expected tokenizer.json, or vocab.json and merges.txt, or tokenizer.model, or a .tiktoken file", path);
        files[n_files++] = ranks;
        if (c.tokenizer)
            files[n_files++] = c.tokenizer_path;
        PW_PASS(load_binary(t, a, ranks, &c, pre));
    }
    PW_PASS(settle(t, &c, jinja));
    return hash_files(t, files, n_files);
}

int pw_tokenizer_load_as(struct pw_tokenizer **out, const char *path, const char *pre)
{
    struct pw_tokenizer *t = NULL;
    struct pw_arena a;
    *out = NULL;
    const int gguf = begins_as_gguf(path);
    PW_PASS(gguf);
    if (gguf) {
        PW_CHECK(!pre, PW_E_USAGE, "%s: a pre-split is given, but only tiktoken ranks need one", path);
        PW_TRY(tok_gguf_load(out, path), "loading the tokenizer of %s", path);
        return 0;
    }
    pw_arena_init(&a);
    int rc = tok_new(&t);
    if (rc == 0)
        rc = load(t, &a, path, pre);
    pw_arena_free(&a);
    if (rc < 0) {
        pw_tokenizer_free(t);
        return pw_error_while(rc, "loading the tokenizer of %s", path);
    }
    *out = t;
    return 0;
}

int pw_tokenizer_load(struct pw_tokenizer **out, const char *path) { return pw_tokenizer_load_as(out, path, NULL); }

/* ---- llama2.c ---- */

static int read_llama2c(struct pw_tokenizer *t, const struct pw_map *m, size_t vocab, const char *path)
{
    size_t at = 4;
    int32_t longest;
    float *score = pw_arena_array(&t->arena, vocab, sizeof *score);
    int32_t *bos = pw_arena_array(&t->arena, 1, sizeof *bos);
    PW_CHECK(score && bos, PW_E_NOMEM, "%s: no memory for %zu pieces", path, vocab);
    t->special = pw_arena_array(&t->arena, vocab, sizeof *t->special);
    PW_CHECK(t->special, PW_E_NOMEM, "%s: no memory for %zu pieces", path, vocab);
    PW_PASS(tok_vocab_open(&t->vocab, vocab));
    memcpy(&longest, m->data, 4);
    PW_CHECK(longest > 0 && longest <= 65536, PW_E_FORMAT, "%s: longest piece: expected 1 to 65536 bytes, got %d", path, (int)longest);
    for (size_t id = 0; id < vocab; id++) {
        int32_t len;
        PW_CHECK(m->bytes - at >= 8, PW_E_FORMAT, "%s: ends at byte %zu, inside piece %zu of %zu", path, m->bytes, id, vocab);
        memcpy(&score[id], m->data + at, 4);
        memcpy(&len, m->data + at + 4, 4);
        at += 8;
        PW_CHECK(!isnan(score[id]), PW_E_FORMAT, "%s: the score of piece %zu is not a number", path, id);
        PW_CHECK(len >= 0 && len <= longest, PW_E_FORMAT, "%s: piece %zu: expected 0 to %d bytes, got %d", path, id, (int)longest, (int)len);
        PW_CHECK(m->bytes - at >= (size_t)len, PW_E_FORMAT, "%s: ends at byte %zu, inside piece %zu of %zu", path, m->bytes, id, vocab);
        PW_CHECK(pw_utf8_check((const char *)m->data + at, (size_t)len) == (size_t)len, PW_E_FORMAT, "%s: piece %zu is not UTF-8", path, id);
        PW_PASS(tok_vocab_add(&t->vocab, (int64_t)id, (const char *)m->data + at, (size_t)len, path));
        at += (size_t)len;
    }
    PW_CHECK(at == m->bytes, PW_E_FORMAT, "%s: %zu bytes follow the %zu pieces (another vocabulary size?)", path, m->bytes - at, vocab);
    t->model_vocab = (int32_t)vocab;
    PW_PASS(tok_spm_merges(t, score, path));
    t->byte_fallback = true;
    t->model_unk = t->unk = 0;
    PW_PASS(tok_bpe_ready(t));
    for (int b = 0; b < 256; b++)
        PW_CHECK(t->byte_id[b] == 3 + b, PW_E_FORMAT, "%s: expected piece %d to be <0x%02X>", path, 3 + b, (unsigned)b);
    t->special[0] = t->special[1] = t->special[2] = true;
    t->bos = 1;
    t->eos = 2;
    t->bos_text = tok_vocab_piece(&t->vocab, 1, NULL);
    t->eos_text = tok_vocab_piece(&t->vocab, 2, NULL);
    t->stops = pw_arena_array(&t->arena, 1, sizeof *t->stops);
    PW_CHECK(t->stops, PW_E_NOMEM, "%s: no memory", path);
    t->stops[t->n_stops++] = 2;
    *bos = 1;
    t->norm[t->n_norm++] = (struct tok_norm){ .kind = NORM_PREPEND, .with = " ", .with_len = 1 };
    t->post[t->n_post++] = (struct tok_post){ .kind = POST_TEMPLATE, .before = bos, .n_before = 1 };
    t->dec[t->n_dec++] = (struct tok_dec){ .kind = DEC_BYTE_FALLBACK };
    t->dec[t->n_dec++] = (struct tok_dec){ .kind = DEC_FUSE };
    t->dec[t->n_dec++] = (struct tok_dec){ .kind = DEC_STRIP, .find = " ", .find_len = 1, .start = 1 };
    t->has_decoder = true;
    t->kind = "BPE SentencePiece";
    pw_sha256_bytes(m->data, m->bytes, t->hash);
    return 0;
}

int pw_tokenizer_load_llama2c(struct pw_tokenizer **out, const char *path, int64_t vocab)
{
    struct pw_tokenizer *t = NULL;
    struct pw_map m = { 0 };
    int rc;
    *out = NULL;
    PW_PASS_OUT(tok_new(&t));
    PW_PASS_OUT(pw_map_open(&m, path));
    PW_CHECK_OUT(vocab >= 259 && vocab < TOK_ID_LIMIT, PW_E_FORMAT, "%s: a vocabulary of %lld pieces (expected 259 to %d)", path, (long long)vocab, TOK_ID_LIMIT - 1);
    PW_CHECK_OUT(m.bytes >= 4 && (m.bytes - 4) / 8 >= (size_t)vocab, PW_E_FORMAT, "%s: %zu bytes are too few for %lld pieces", path, m.bytes, (long long)vocab);
    PW_PASS_OUT(read_llama2c(t, &m, (size_t)vocab, path));
    *out = t;
    t = NULL;
    rc = 0;
out:
    pw_map_close(&m);
    pw_tokenizer_free(t);
    return rc < 0 ? pw_error_while(rc, "loading the tokenizer of %s", path) : 0;
}

/* ---- accessors ---- */

int32_t pw_tokenizer_vocab(const struct pw_tokenizer *t) { return (int32_t)t->vocab.n; }
int32_t pw_tokenizer_bos(const struct pw_tokenizer *t) { return t->bos; }
int32_t pw_tokenizer_eos(const struct pw_tokenizer *t) { return t->eos; }
int32_t pw_tokenizer_pad(const struct pw_tokenizer *t) { return t->pad; }
int32_t pw_tokenizer_unk(const struct pw_tokenizer *t) { return t->unk; }
const char *pw_tokenizer_kind(const struct pw_tokenizer *t) { return t->kind; }
const char *pw_tokenizer_hash(const struct pw_tokenizer *t) { return t->hash; }
const char *pw_tokenizer_bos_text(const struct pw_tokenizer *t) { return t->bos_text; }
const char *pw_tokenizer_eos_text(const struct pw_tokenizer *t) { return t->eos_text; }
const char *pw_tokenizer_piece(const struct pw_tokenizer *t, int32_t id) { return tok_vocab_piece(&t->vocab, id, NULL); }
int32_t pw_tokenizer_find(const struct pw_tokenizer *t, const char *piece) { return tok_vocab_find(&t->vocab, piece, strlen(piece)); }
bool pw_tokenizer_is_special(const struct pw_tokenizer *t, int32_t id) { return id >= 0 && (size_t)id < t->vocab.n && t->special[id]; }

const int32_t *pw_tokenizer_stops(const struct pw_tokenizer *t, size_t *n)
{
    *n = t->n_stops;
    return t->stops;
}

bool pw_tokenizer_adds_bos(const struct pw_tokenizer *t)
{
    for (size_t i = t->n_post; i-- > 0;)
        if (t->post[i].kind == POST_TEMPLATE && t->post[i].n_before)
            return t->post[i].before[0] == t->bos;
    return false;
}

bool pw_tokenizer_adds_eos(const struct pw_tokenizer *t)
{
    for (size_t i = t->n_post; i-- > 0;)
        if (t->post[i].kind == POST_TEMPLATE && t->post[i].n_after)
            return t->post[i].after[t->post[i].n_after - 1] == t->eos;
    return false;
}

const char *pw_tokenizer_template(const struct pw_tokenizer *t, const char *name)
{
    for (size_t i = 0; i < t->n_templates; i++)
        if (strcmp(t->templates[i].name, name ? name : "default") == 0)
            return t->templates[i].text;
    return NULL;
}
