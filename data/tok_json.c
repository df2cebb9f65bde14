/* The parts of a tokenizer from tokenizer.json, and from the older pair vocab.json + merges.txt.
 *
 * Every `type` is either understood in full or refused by name. `truncation` and `padding` are settings of the program that
 * saved the file, not of the tokenizer, and are not applied. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "data/tok_parts.h"

enum { SEQUENCE_DEPTH = 8 };

static const char gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
static const char qwen2_pattern[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
                                    "\\s+(?!\\S)|\\s+";

static int unsupported(const char *where, const char *part, const char *what)
{
    return pw_error(PW_E_UNSUPPORTED, "%s: %s: %s is not supported", where, part, what);
}

static int type_of(const struct pw_value *v, const char *where, const char *part, const char **type)
{
    const struct pw_value *x = pw_get(v, "type");
    PW_CHECK(v->kind == PW_MAP, PW_E_FORMAT, "%s: %s: expected a map, got %s (line %d)", where, part, pw_kind_name(v->kind), v->line);
    PW_CHECK(x && x->kind == PW_STRING, PW_E_FORMAT, "%s: %s.type: expected a string (line %d)", where, part, v->line);
    *type = x->s;
    return 0;
}

static int keep(struct pw_tokenizer *t, const struct pw_value *v, const char *where, const char *part, const char **s, size_t *n)
{
    PW_CHECK(v && v->kind == PW_STRING, PW_E_FORMAT, "%s: %s: expected a string, got %s", where, part, v ? pw_kind_name(v->kind) : "nothing");
    *s = pw_arena_strndup(&t->arena, v->s, v->len);
    PW_CHECK(*s, PW_E_NOMEM, "%s: no memory", where);
    *n = v->len;
    return 0;
}

static int get_bool(const struct pw_value *v, const char *key, const char *where, const char *part, bool fallback, bool *out)
{
    *out = fallback;
    PW_TRY(pw_get_bool(v, key, where, out), "reading %s", part);
    return 0;
}

/* {"String": s} or {"Regex": r} */
static int pattern(struct pw_tokenizer *t, const struct pw_value *v, const char *where, const char *part, const char **find, size_t *len,
                   struct pw_regex **regex)
{
    const struct pw_value *s = v ? pw_get(v, "String") : NULL, *r = v ? pw_get(v, "Regex") : NULL;
    char source[256];
    if (s) {
        PW_PASS(keep(t, s, where, part, find, len));
        PW_CHECK(*len, PW_E_UNSUPPORTED, "%s: %s: an empty pattern is not supported", where, part);
        return 0;
    }
    PW_CHECK(r && r->kind == PW_STRING, PW_E_FORMAT, "%s: %s: expected {\"String\": …} or {\"Regex\": …}", where, part);
    snprintf(source, sizeof source, "%s: %s", where, part);
    return pw_regex_compile(regex, r->s, r->len, source);
}

static int steps_of(const struct pw_value *v, const char *key, const char *where, const char *part, int depth, const struct pw_value **list)
{
    *list = pw_get(v, key);
    PW_CHECK(depth < SEQUENCE_DEPTH, PW_E_FORMAT, "%s: %s: sequences nested deeper than %d", where, part, SEQUENCE_DEPTH);
    PW_CHECK(*list && (*list)->kind == PW_LIST, PW_E_FORMAT, "%s: %s.%s: expected a list", where, part, key);
    return 0;
}

static int read_charsmap(struct pw_tokenizer *t, const struct pw_value *v, const char *where)
{
    struct pw_buf bytes = { 0 };
    PW_CHECK(v && v->kind == PW_STRING && v->len, PW_E_FORMAT, "%s: normalizer.precompiled_charsmap: expected base64", where);
    PW_CHECK(t->spm.map.n_units == 0, PW_E_UNSUPPORTED, "%s: normalizer: two charsmaps are not supported", where);
    int rc = tok_base64((const uint8_t *)v->s, v->len, &bytes);
    if (rc == 0)
        rc = tok_charsmap_open(t, bytes.data, bytes.len, where);
    pw_buf_free(&bytes);
    return rc < 0 ? pw_error_while(rc, "%s: reading normalizer.precompiled_charsmap", where) : 0;
}

static int read_norm(struct pw_tokenizer *t, const struct pw_value *v, const char *where, int depth)
{
    static const struct { const char *name; enum pw_form form; } forms[] = { { "NFC", PW_NFC }, { "NFD", PW_NFD }, { "NFKC", PW_NFKC }, { "NFKD", PW_NFKD } };
    const char *type;
    PW_PASS(type_of(v, where, "normalizer", &type));
    if (strcmp(type, "Sequence") == 0) {
        const struct pw_value *list;
        PW_PASS(steps_of(v, "normalizers", where, "normalizer", depth, &list));
        for (size_t i = 0; i < list->len; i++)
            PW_PASS(read_norm(t, &list->items[i], where, depth + 1));
        return 0;
    }
    PW_CHECK(t->n_norm < TOK_STEPS, PW_E_UNSUPPORTED, "%s: normalizer: more than %d steps are not supported", where, TOK_STEPS);
    struct tok_norm *s = &t->norm[t->n_norm++];
    if (strcmp(type, "Prepend") == 0) {
        s->kind = NORM_PREPEND;
        return keep(t, pw_get(v, "prepend"), where, "normalizer.prepend", &s->with, &s->with_len);
    }
    if (strcmp(type, "Replace") == 0) {
        s->kind = NORM_REPLACE;
        PW_PASS(pattern(t, pw_get(v, "pattern"), where, "normalizer.pattern", &s->find, &s->find_len, &s->regex));
        return keep(t, pw_get(v, "content"), where, "normalizer.content", &s->with, &s->with_len);
    }
    if (strcmp(type, "Lowercase") == 0) {
        s->kind = NORM_LOWER;
        return 0;
    }
    if (strcmp(type, "Strip") == 0) {
        s->kind = NORM_STRIP;
        PW_PASS(get_bool(v, "strip_left", where, "normalizer", true, &s->left));
        return get_bool(v, "strip_right", where, "normalizer", true, &s->right);
    }
    if (strcmp(type, "Precompiled") == 0) {
        s->kind = NORM_PRECOMPILED;
        return read_charsmap(t, pw_get(v, "precompiled_charsmap"), where);
    }
    for (size_t i = 0; i < 4; i++)
        if (strcmp(type, forms[i].name) == 0) {
            s->kind = NORM_FORM;
            s->form = forms[i].form;
            return 0;
        }
    return unsupported(where, "normalizer.type", type);
}

static int read_behaviour(const struct pw_value *v, const char *where, enum tok_behaviour *out)
{
    static const struct { const char *name; enum tok_behaviour b; } rows[] = {
        { "Removed", SPLIT_REMOVED }, { "Isolated", SPLIT_ISOLATED }, { "MergedWithPrevious", SPLIT_WITH_PREVIOUS },
        { "MergedWithNext", SPLIT_WITH_NEXT }, { "Contiguous", SPLIT_CONTIGUOUS } };
    const char *name = "";
    PW_PASS(pw_get_str(v, "behavior", where, &name));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(name, rows[i].name) == 0) {
            *out = rows[i].b;
            return 0;
        }
    return unsupported(where, "pre_tokenizer.behavior", name);
}

/* prepend_scheme, or the older add_prefix_space. */
static int read_scheme(const struct pw_value *v, const char *where, const char *part, enum tok_scheme *out)
{
    const char *scheme = "always";
    bool prefix = true;
    PW_PASS(pw_get_bool(v, "add_prefix_space", where, &prefix));
    if (!prefix)
        scheme = "never";
    PW_PASS(pw_get_str(v, "prepend_scheme", where, &scheme));
    if (strcmp(scheme, "always") == 0)
        *out = SCHEME_ALWAYS;
    else if (strcmp(scheme, "first") == 0)
        *out = SCHEME_FIRST;
    else if (strcmp(scheme, "never") == 0)
        *out = SCHEME_NEVER;
    else
        return unsupported(where, part, scheme);
    return 0;
}

static int read_replacement(struct pw_tokenizer *t, const struct pw_value *v, const char *where, const char *part, const char **s, size_t *n)
{
    uint32_t cp;
    PW_PASS(keep(t, pw_get(v, "replacement"), where, part, s, n));
    PW_CHECK(*n && pw_utf8_get(*s, *n, &cp) == *n, PW_E_FORMAT, "%s: %s: expected one character, got \"%s\"", where, part, *s);
    return 0;
}

static int read_pre(struct pw_tokenizer *t, const struct pw_value *v, const char *where, int depth)
{
    const char *type;
    PW_PASS(type_of(v, where, "pre_tokenizer", &type));
    if (strcmp(type, "Sequence") == 0) {
        const struct pw_value *list;
        PW_PASS(steps_of(v, "pretokenizers", where, "pre_tokenizer", depth, &list));
        for (size_t i = 0; i < list->len; i++)
            PW_PASS(read_pre(t, &list->items[i], where, depth + 1));
        return 0;
    }
    PW_CHECK(t->n_pre < TOK_STEPS, PW_E_UNSUPPORTED, "%s: pre_tokenizer: more than %d steps are not supported", where, TOK_STEPS);
    for (size_t i = 0; i < t->n_pre; i++)
        PW_CHECK(t->pre[i].kind != PRE_BYTE_LEVEL, PW_E_UNSUPPORTED, "%s: pre_tokenizer: %s after ByteLevel is not supported", where, type);
    struct tok_pre *s = &t->pre[t->n_pre++];
    if (strcmp(type, "ByteLevel") == 0) {
        bool regex;
        char source[256];
        s->kind = PRE_BYTE_LEVEL;
        PW_PASS(get_bool(v, "add_prefix_space", where, "pre_tokenizer", true, &s->prefix_space));
        PW_PASS(get_bool(v, "use_regex", where, "pre_tokenizer", true, &regex));
        snprintf(source, sizeof source, "%s: pre_tokenizer", where);
        return regex ? pw_regex_compile(&s->regex, gpt2_pattern, sizeof gpt2_pattern - 1, source) : 0;
    }
    if (strcmp(type, "Split") == 0) {
        s->kind = PRE_SPLIT;
        PW_PASS(read_behaviour(v, where, &s->behaviour));
        PW_PASS(get_bool(v, "invert", where, "pre_tokenizer", false, &s->invert));
        return pattern(t, pw_get(v, "pattern"), where, "pre_tokenizer.pattern", &s->find, &s->find_len, &s->regex);
    }
    if (strcmp(type, "Digits") == 0) {
        bool each;
        s->kind = PRE_CLASS;
        s->class = pw_cp_numeric;
        PW_PASS(get_bool(v, "individual_digits", where, "pre_tokenizer", false, &each));
        s->behaviour = each ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
        return 0;
    }
    if (strcmp(type, "Metaspace") == 0) {
        s->kind = PRE_METASPACE;
        PW_PASS(read_replacement(t, v, where, "pre_tokenizer.replacement", &s->find, &s->find_len));
        PW_PASS(read_scheme(v, where, "pre_tokenizer.prepend_scheme", &s->scheme));
        return get_bool(v, "split", where, "pre_tokenizer", true, &s->split);
    }
    if (strcmp(type, "Punctuation") == 0) {
        s->kind = PRE_CLASS;
        s->class = pw_cp_punctuation;
        s->behaviour = SPLIT_ISOLATED;
        return pw_get(v, "behavior") ? read_behaviour(v, where, &s->behaviour) : 0;
    }
    if (strcmp(type, "WhitespaceSplit") == 0) {
        s->kind = PRE_CLASS;
        s->class = pw_cp_space;
        s->behaviour = SPLIT_REMOVED;
        return 0;
    }
    if (strcmp(type, "Whitespace") == 0) {
        char source[256];
        s->kind = PRE_SPLIT;
        s->behaviour = SPLIT_REMOVED;
        s->invert = true;
        snprintf(source, sizeof source, "%s: pre_tokenizer", where);
        return pw_regex_compile(&s->regex, "\\w+|[^\\w\\s]+", 12, source);
    }
    return unsupported(where, "pre_tokenizer.type", type);
}

static int read_dec(struct pw_tokenizer *t, const struct pw_value *v, const char *where, int depth)
{
    const char *type;
    bool fused = false;
    PW_PASS(type_of(v, where, "decoder", &type));
    t->has_decoder = true;
    if (strcmp(type, "Sequence") == 0) {
        const struct pw_value *list;
        PW_PASS(steps_of(v, "decoders", where, "decoder", depth, &list));
        for (size_t i = 0; i < list->len; i++)
            PW_PASS(read_dec(t, &list->items[i], where, depth + 1));
        return 0;
    }
    PW_CHECK(t->n_dec < TOK_STEPS, PW_E_UNSUPPORTED, "%s: decoder: more than %d steps are not supported", where, TOK_STEPS);
    for (size_t i = 0; i < t->n_dec; i++)
        fused = fused || t->dec[i].kind == DEC_FUSE || t->dec[i].kind == DEC_BYTE_LEVEL;
    /* What follows sees the whole text as one token; a strip of its beginning is all that occurs and all that can stream. */
    PW_CHECK(!fused || strcmp(type, "Strip") == 0 || strcmp(type, "Fuse") == 0, PW_E_UNSUPPORTED, "%s: decoder: %s after Fuse is not supported", where, type);
    struct tok_dec *s = &t->dec[t->n_dec++];
    if (strcmp(type, "ByteLevel") == 0) {
        s->kind = DEC_BYTE_LEVEL;
        return 0;
    }
    if (strcmp(type, "Replace") == 0) {
        s->kind = DEC_REPLACE;
        PW_PASS(pattern(t, pw_get(v, "pattern"), where, "decoder.pattern", &s->find, &s->find_len, &s->regex));
        PW_CHECK(!s->regex, PW_E_UNSUPPORTED, "%s: decoder.pattern: Regex is not supported", where);
        return keep(t, pw_get(v, "content"), where, "decoder.content", &s->with, &s->with_len);
    }
    if (strcmp(type, "ByteFallback") == 0) {
        s->kind = DEC_BYTE_FALLBACK;
        return 0;
    }
    if (strcmp(type, "Fuse") == 0) {
        s->kind = DEC_FUSE;
        return 0;
    }
    if (strcmp(type, "Strip") == 0) {
        uint32_t cp;
        s->kind = DEC_STRIP;
        PW_PASS(keep(t, pw_get(v, "content"), where, "decoder.content", &s->find, &s->find_len));
        PW_CHECK(s->find_len && pw_utf8_get(s->find, s->find_len, &cp) == s->find_len, PW_E_FORMAT, "%s: decoder.content: expected one character", where);
        PW_PASS(pw_get_i64(v, "start", where, &s->start));
        PW_PASS(pw_get_i64(v, "stop", where, &s->stop));
        PW_CHECK(s->start >= 0 && s->stop >= 0, PW_E_FORMAT, "%s: decoder: Strip by a negative number", where);
        PW_CHECK(!fused || s->stop == 0, PW_E_UNSUPPORTED, "%s: decoder: Strip at the end after Fuse is not supported", where);
        return 0;
    }
    if (strcmp(type, "Metaspace") == 0) {
        s->kind = DEC_METASPACE;
        PW_PASS(read_replacement(t, v, where, "decoder.replacement", &s->find, &s->find_len));
        return read_scheme(v, where, "decoder.prepend_scheme", &s->scheme);
    }
    return unsupported(where, "decoder.type", type);
}

static int template_ids(struct pw_tokenizer *t, const struct pw_value *v, const struct pw_value *piece, const char *where, int32_t *ids, size_t *n, size_t cap)
{
    const char *name = "";
    PW_PASS(pw_get_str(piece, "id", where, &name));
    const struct pw_value *all = pw_get(v, "special_tokens"), *one = all ? pw_get(all, name) : NULL, *list = one ? pw_get(one, "ids") : NULL;
    PW_CHECK(list && list->kind == PW_LIST, PW_E_FORMAT, "%s: post_processor.special_tokens: \"%s\" is missing", where, name);
    for (size_t i = 0; i < list->len; i++) {
        const struct pw_value *x = &list->items[i];
        PW_CHECK(x->kind == PW_INT && x->i >= 0 && x->i < TOK_ID_LIMIT && tok_vocab_piece(&t->vocab, (int32_t)x->i, NULL), PW_E_FORMAT,
                 "%s: post_processor.special_tokens: \"%s\" has an id that is not in the vocabulary", where, name);
        PW_CHECK(*n < cap, PW_E_UNSUPPORTED, "%s: post_processor: more than %zu added tokens are not supported", where, cap);
        ids[(*n)++] = (int32_t)x->i;
    }
    return 0;
}

static int read_template(struct pw_tokenizer *t, const struct pw_value *v, const char *where, struct tok_post *s)
{
    const struct pw_value *single = pw_get(v, "single");
    int32_t *ids = pw_arena_array(&t->arena, 64, sizeof *ids);
    size_t n = 0;
    bool seen = false;
    PW_CHECK(ids, PW_E_NOMEM, "%s: no memory", where);
    PW_CHECK(single && single->kind == PW_LIST, PW_E_FORMAT, "%s: post_processor.single: expected a list", where);
    s->kind = POST_TEMPLATE;
    s->before = ids;
    for (size_t i = 0; i < single->len; i++) {
        const struct pw_value *special = pw_get(&single->items[i], "SpecialToken"), *text = pw_get(&single->items[i], "Sequence");
        if (text) {
            const char *name = "";
            PW_PASS(pw_get_str(text, "id", where, &name));
            PW_CHECK(!seen && strcmp(name, "A") == 0, PW_E_FORMAT, "%s: post_processor.single: expected the sequence A once", where);
            seen = true;
            s->n_before = n;
        } else {
            PW_CHECK(special, PW_E_FORMAT, "%s: post_processor.single: item %zu is neither SpecialToken nor Sequence", where, i);
            PW_PASS(template_ids(t, v, special, where, ids, &n, 64));
        }
    }
    PW_CHECK(seen, PW_E_FORMAT, "%s: post_processor.single: the sequence A is missing", where);
    s->after = ids + s->n_before;
    s->n_after = n - s->n_before;
    return 0;
}

static int read_post(struct pw_tokenizer *t, const struct pw_value *v, const char *where, int depth)
{
    const char *type;
    PW_PASS(type_of(v, where, "post_processor", &type));
    if (strcmp(type, "Sequence") == 0) {
        const struct pw_value *list;
        PW_PASS(steps_of(v, "processors", where, "post_processor", depth, &list));
        for (size_t i = 0; i < list->len; i++)
            PW_PASS(read_post(t, &list->items[i], where, depth + 1));
        return 0;
    }
    if (strcmp(type, "ByteLevel") == 0) {
        bool trims, prefix;
        PW_PASS(get_bool(v, "trim_offsets", where, "post_processor", true, &trims));
        PW_PASS(get_bool(v, "add_prefix_space", where, "post_processor", true, &prefix));
        if (!trims)
            return 0;
        PW_CHECK(t->n_post < TOK_STEPS, PW_E_UNSUPPORTED, "%s: post_processor: more than %d steps are not supported", where, TOK_STEPS);
        t->post[t->n_post++] = (struct tok_post){ .kind = POST_TRIM, .prefix_space = prefix };
        return 0;
    }
    if (strcmp(type, "TemplateProcessing") == 0) {
        PW_CHECK(t->n_post < TOK_STEPS, PW_E_UNSUPPORTED, "%s: post_processor: more than %d steps are not supported", where, TOK_STEPS);
        return read_template(t, v, where, &t->post[t->n_post++]);
    }
    return unsupported(where, "post_processor.type", type);
}

int tok_add_token(struct pw_tokenizer *t, const struct tok_added *added, const char *where)
{
    int32_t known = tok_vocab_find(&t->vocab, added->text, added->len);
    PW_CHECK(added->len, PW_E_FORMAT, "%s: an added token without text (id %d)", where, (int)added->id);
    if (known < 0)
        PW_PASS(tok_vocab_add(&t->vocab, added->id, added->text, added->len, where));
    else
        PW_CHECK(known == added->id, PW_E_FORMAT, "%s: added token \"%s\": expected id %d as in the vocabulary, got %d", where, added->text, (int)known, (int)added->id);
    for (size_t i = 0; i < t->n_added; i++)
        if (t->added[i].id == added->id)
            return 0;
    t->added[t->n_added++] = *added;
    if (added->special)
        t->special[added->id] = true;
    return 0;
}

int tok_read_added(struct pw_tokenizer *t, const struct pw_value *v, int64_t id, const char *where, struct tok_added *out)
{
    struct tok_added a = { .id = (int32_t)id };
    PW_PASS(keep(t, pw_get(v, "content"), where, "added_tokens.content", &a.text, &a.len));
    PW_PASS(get_bool(v, "special", where, "added_tokens", false, &a.special));
    PW_PASS(get_bool(v, "single_word", where, "added_tokens", false, &a.single_word));
    PW_PASS(get_bool(v, "lstrip", where, "added_tokens", false, &a.lstrip));
    PW_PASS(get_bool(v, "rstrip", where, "added_tokens", false, &a.rstrip));
    PW_PASS(get_bool(v, "normalized", where, "added_tokens", !a.special, &a.normalized));
    *out = a;
    return 0;
}

static int read_added(struct pw_tokenizer *t, const struct pw_value *v, int64_t id, const char *where)
{
    struct tok_added a;
    PW_PASS(tok_read_added(t, v, id, where, &a));
    return tok_add_token(t, &a, where);
}

static int open_vocab(struct pw_tokenizer *t, size_t ids, size_t n_added, const char *where)
{
    PW_PASS(tok_vocab_open(&t->vocab, ids));
    t->special = pw_arena_array(&t->arena, ids, sizeof *t->special);
    t->added = pw_arena_array(&t->arena, n_added + 8, sizeof *t->added);
    PW_CHECK(t->special && t->added, PW_E_NOMEM, "%s: no memory for the vocabulary", where);
    return 0;
}

/* Makes room for ids 0..top of the model and of the added tokens, and reads the model's own. */
static int read_vocab(struct pw_tokenizer *t, const struct pw_value *vocab, int64_t top, size_t n_added, const char *where)
{
    int64_t model_top = -1;
    PW_CHECK(vocab && vocab->kind == PW_MAP, PW_E_FORMAT, "%s: model.vocab: expected a map of pieces to ids", where);
    for (size_t i = 0; i < vocab->len; i++) {
        const struct pw_value *id = &vocab->members[i].value;
        PW_CHECK(id->kind == PW_INT && id->i >= 0 && id->i < TOK_ID_LIMIT, PW_E_FORMAT, "%s: model.vocab: id of \"%s\": expected an integer from 0 to %d (line %d)",
                 where, vocab->members[i].key, TOK_ID_LIMIT - 1, id->line);
        model_top = id->i > model_top ? id->i : model_top;
    }
    PW_CHECK(vocab->len, PW_E_FORMAT, "%s: model.vocab is empty", where);
    PW_CHECK(top < TOK_ID_LIMIT, PW_E_FORMAT, "%s: id %lld is too large (limit %d)", where, (long long)top, TOK_ID_LIMIT - 1);
    top = top > model_top ? top : model_top;
    t->model_vocab = (int32_t)model_top + 1;
    PW_PASS(open_vocab(t, (size_t)top + 1, n_added, where));
    for (size_t i = 0; i < vocab->len; i++)
        PW_PASS(tok_vocab_add(&t->vocab, vocab->members[i].value.i, vocab->members[i].key, vocab->members[i].key_len, where));
    return 0;
}

static int add_merge(struct pw_tokenizer *t, size_t rank, const char *l, size_t ln, const char *r, size_t rn, const char *where)
{
    char small[256], *both = ln + rn <= sizeof small ? small : pw_alloc(ln + rn);
    PW_CHECK(both, PW_E_NOMEM, "%s: no memory", where);
    memcpy(both, l, ln);
    memcpy(both + ln, r, rn);
    int32_t a = tok_vocab_find(&t->vocab, l, ln), b = tok_vocab_find(&t->vocab, r, rn), c = tok_vocab_find(&t->vocab, both, ln + rn);
    if (both != small)
        pw_free(both);
    PW_CHECK(a >= 0 && b >= 0 && c >= 0, PW_E_FORMAT, "%s: merge %zu: \"%.*s\" + \"%.*s\": %s is not in the vocabulary", where, rank, ln > 60 ? 60 : (int)ln, l,
             rn > 60 ? 60 : (int)rn, r, a < 0 ? "the left piece" : b < 0 ? "the right piece" : "the result");
    size_t slot = tok_pairs_find(&t->merges, a, b);
    if (slot == (size_t)-1)
        tok_pairs_put(&t->merges, a, b, (uint32_t)rank, c);
    else
        t->merges.rank[slot] = (uint32_t)rank; /* the last of two equal lines counts, as in the reference */
    return 0;
}

static int read_merges(struct pw_tokenizer *t, const struct pw_value *list, const char *where)
{
    PW_CHECK(list && list->kind == PW_LIST, PW_E_FORMAT, "%s: model.merges: expected a list", where);
    PW_PASS(tok_pairs_open(&t->merges, list->len));
    for (size_t i = 0; i < list->len; i++) {
        const struct pw_value *m = &list->items[i];
        if (m->kind == PW_STRING) {
            const char *space = memchr(m->s, ' ', m->len);
            PW_CHECK(space && !memchr(space + 1, ' ', m->len - (size_t)(space - m->s) - 1), PW_E_FORMAT,
                     "%s: merge %zu: expected two pieces separated by one space, got \"%s\"", where, i, m->s);
            size_t ln = (size_t)(space - m->s);
            PW_PASS(add_merge(t, i, m->s, ln, space + 1, m->len - ln - 1, where));
        } else {
            PW_CHECK(m->kind == PW_LIST && m->len == 2 && m->items[0].kind == PW_STRING && m->items[1].kind == PW_STRING, PW_E_FORMAT,
                     "%s: merge %zu: expected a string or a pair of strings", where, i);
            PW_PASS(add_merge(t, i, m->items[0].s, m->items[0].len, m->items[1].s, m->items[1].len, where));
        }
    }
    return 0;
}

int tok_merges_text(struct pw_tokenizer *t, const struct pw_tok_text *merges, size_t n, const char *where)
{
    PW_PASS(tok_pairs_open(&t->merges, n));
    for (size_t i = 0; i < n; i++) {
        const char *s = merges[i].s, *space = memchr(s, ' ', merges[i].len), *end = s + merges[i].len;
        PW_CHECK(space && !memchr(space + 1, ' ', (size_t)(end - space) - 1), PW_E_FORMAT, "%s: merge %zu: expected two pieces separated by one space", where, i);
        PW_PASS(add_merge(t, i, s, (size_t)(space - s), space + 1, (size_t)(end - space) - 1, where));
    }
    return 0;
}

/* A score as the reference reads it: its JSON parser divides the rounded significand by a power of ten, which for 17 digits is
 * rounded twice. Ties between sums of scores depend on it. */
static double read_score(double x)
{
    char text[40], power[16];
    for (int digits = 16; digits <= 17; digits++) {
        uint64_t significand = 0;
        int exponent = 0;
        snprintf(text, sizeof text, "%.*e", digits - 1, fabs(x));
        if (strtod(text, NULL) != fabs(x))
            continue;
        for (const char *c = text; *c && *c != 'e'; c++)
            significand = *c == '.' ? significand : significand * 10 + (uint64_t)(*c - '0');
        exponent = atoi(strchr(text, 'e') + 1) - (digits - 1);
        while (significand && significand % 10 == 0) {
            significand /= 10;
            exponent++;
        }
        if (exponent > 0 || exponent < -300)
            return x;
        snprintf(power, sizeof power, "1e%d", -exponent);
        return copysign((double)significand / strtod(power, NULL), x);
    }
    return x;
}

/* [[piece, score], ...] and unk_id */
static int read_unigram(struct pw_tokenizer *t, const struct pw_value *m, int64_t top, size_t n_added, const char *where)
{
    const struct pw_value *vocab = pw_get(m, "vocab"), *unk = pw_get(m, "unk_id");
    PW_CHECK(vocab && vocab->kind == PW_LIST && vocab->len, PW_E_FORMAT, "%s: model.vocab: expected a list of pieces with scores", where);
    PW_CHECK(vocab->len <= TOK_ID_LIMIT && top < TOK_ID_LIMIT, PW_E_FORMAT, "%s: model.vocab: too many pieces (limit %d)", where, TOK_ID_LIMIT);
    size_t ids = top + 1 > (int64_t)vocab->len ? (size_t)top + 1 : vocab->len;
    PW_PASS(open_vocab(t, ids, n_added, where));
    t->model_vocab = (int32_t)vocab->len;
    t->unigram.score = pw_arena_array(&t->arena, vocab->len, sizeof *t->unigram.score);
    PW_CHECK(t->unigram.score, PW_E_NOMEM, "%s: no memory for the vocabulary", where);
    for (size_t i = 0; i < vocab->len; i++) {
        const struct pw_value *row = &vocab->items[i];
        PW_CHECK(row->kind == PW_LIST && row->len == 2 && row->items[0].kind == PW_STRING && (row->items[1].kind == PW_REAL || row->items[1].kind == PW_INT), PW_E_FORMAT,
                 "%s: model.vocab: item %zu: expected [piece, score] (line %d)", where, i, row->line);
        t->unigram.score[i] = row->items[1].kind == PW_REAL ? read_score(row->items[1].d) : (double)row->items[1].i;
        PW_PASS(tok_vocab_add(&t->vocab, (int64_t)i, row->items[0].s, row->items[0].len, where));
    }
    if (unk && unk->kind != PW_NULL) {
        PW_CHECK(unk->kind == PW_INT && unk->i >= 0 && (uint64_t)unk->i < vocab->len, PW_E_FORMAT, "%s: model.unk_id: expected an id of the vocabulary", where);
        t->model_unk = (int32_t)unk->i;
    }
    PW_PASS(get_bool(m, "byte_fallback", where, "model", false, &t->byte_fallback));
    t->fuse_unk = t->model_unk >= 0;
    return tok_unigram_ready(t);
}

static int read_model(struct pw_tokenizer *t, const struct pw_value *m, int64_t top, size_t n_added, const char *where)
{
    const struct pw_value *type = pw_get(m, "type"), *dropout = pw_get(m, "dropout");
    const char *affix = "";
    PW_CHECK(m->kind == PW_MAP, PW_E_FORMAT, "%s: model: expected a map, got %s", where, pw_kind_name(m->kind));
    if (type && type->kind == PW_STRING && strcmp(type->s, "Unigram") == 0)
        return read_unigram(t, m, top, n_added, where);
    if (type ? type->kind != PW_STRING || strcmp(type->s, "BPE") != 0 : pw_get(m, "merges") == NULL)
        return unsupported(where, "model.type", type && type->kind == PW_STRING ? type->s : "(none)");
    PW_CHECK(!dropout || dropout->kind == PW_NULL || (dropout->kind == PW_REAL && dropout->d == 0) || (dropout->kind == PW_INT && dropout->i == 0),
             PW_E_UNSUPPORTED, "%s: model.dropout is not supported", where);
    PW_PASS(pw_get_str(m, "continuing_subword_prefix", where, &affix));
    PW_CHECK(!*affix, PW_E_UNSUPPORTED, "%s: model.continuing_subword_prefix \"%s\" is not supported", where, affix);
    PW_PASS(pw_get_str(m, "end_of_word_suffix", where, &affix));
    PW_CHECK(!*affix, PW_E_UNSUPPORTED, "%s: model.end_of_word_suffix \"%s\" is not supported", where, affix);
    PW_PASS(get_bool(m, "byte_fallback", where, "model", false, &t->byte_fallback));
    PW_PASS(get_bool(m, "fuse_unk", where, "model", false, &t->fuse_unk));
    PW_PASS(get_bool(m, "ignore_merges", where, "model", false, &t->ignore_merges));
    PW_PASS(read_vocab(t, pw_get(m, "vocab"), top, n_added, where));
    PW_PASS(read_merges(t, pw_get(m, "merges"), where));
    const char *unk = NULL;
    PW_PASS(pw_get_str(m, "unk_token", where, &unk));
    if (unk) {
        t->model_unk = tok_vocab_find(&t->vocab, unk, strlen(unk));
        PW_CHECK(t->model_unk >= 0, PW_E_FORMAT, "%s: model.unk_token \"%s\" is not in the vocabulary", where, unk);
    }
    return tok_bpe_ready(t);
}

static bool present(const struct pw_value *v) { return v && v->kind != PW_NULL; }

int tok_from_json(struct pw_tokenizer *t, const struct pw_value *root, const char *where)
{
    const struct pw_value *added = pw_get(root, "added_tokens"), *model = pw_get(root, "model"), *part;
    int64_t top = -1;
    PW_CHECK(root->kind == PW_MAP && model, PW_E_FORMAT, "%s: not a tokenizer.json: there is no \"model\"", where);
    PW_CHECK(!present(added) || added->kind == PW_LIST, PW_E_FORMAT, "%s: added_tokens: expected a list, got %s", where, pw_kind_name(added->kind));
    size_t n_added = present(added) ? added->len : 0;
    for (size_t i = 0; i < n_added; i++) {
        int64_t id = -1;
        PW_PASS(pw_get_i64(&added->items[i], "id", where, &id));
        PW_CHECK(id >= 0, PW_E_FORMAT, "%s: added_tokens: item %zu: an id from 0 on is missing", where, i);
        top = id > top ? id : top;
    }
    PW_PASS(read_model(t, model, top, n_added, where));
    for (size_t i = 0; i < n_added; i++) {
        int64_t id = -1;
        PW_PASS(pw_get_i64(&added->items[i], "id", where, &id));
        PW_PASS(read_added(t, &added->items[i], id, where));
    }
    if (present(part = pw_get(root, "normalizer")))
        PW_PASS(read_norm(t, part, where, 0));
    if (present(part = pw_get(root, "pre_tokenizer")))
        PW_PASS(read_pre(t, part, where, 0));
    if (present(part = pw_get(root, "post_processor")))
        PW_PASS(read_post(t, part, where, 0));
    if (present(part = pw_get(root, "decoder")))
        PW_PASS(read_dec(t, part, where, 0));
    for (size_t i = 0; i < t->n_pre; i++)
        PW_CHECK(!t->unigram.on || t->pre[i].kind != PRE_BYTE_LEVEL, PW_E_UNSUPPORTED, "%s: pre_tokenizer: ByteLevel with a Unigram model is not supported", where);
    t->kind = t->unigram.on ? "Unigram" : t->n_pre && t->pre[t->n_pre - 1].kind == PRE_BYTE_LEVEL ? "BPE byte-level" : "BPE SentencePiece";
    return tok_added_ready(t);
}

/* ---- vocab.json + merges.txt ---- */

static int text_merges(struct pw_tokenizer *t, const char *path)
{
    struct pw_buf text = { 0 };
    size_t lines = 0, rank = 0, number = 0;
    int rc;
    PW_PASS_OUT(pw_file_read(path, 0, &text));
    PW_CHECK_OUT(pw_utf8_check(text.data, text.len) == text.len, PW_E_FORMAT, "%s: byte %zu is not UTF-8", path, pw_utf8_check(text.data, text.len));
    for (size_t i = 0; i < text.len; i++)
        lines += text.data[i] == '\n';
    PW_PASS_OUT(tok_pairs_open(&t->merges, lines + 1));
    for (size_t at = 0; at < text.len;) {
        const char *line = text.data + at, *nl = memchr(line, '\n', text.len - at);
        size_t n = nl ? (size_t)(nl - line) : text.len - at;
        at += n + 1;
        number++;
        if (n && line[n - 1] == '\r')
            n--;
        if (n == 0 || (number == 1 && n >= 8 && memcmp(line, "#version", 8) == 0))
            continue;
        const char *space = memchr(line, ' ', n);
        PW_CHECK_OUT(space && !memchr(space + 1, ' ', n - (size_t)(space - line) - 1), PW_E_FORMAT, "%s: line %zu: expected two pieces separated by one space", path, number);
        PW_PASS_OUT(add_merge(t, rank++, line, (size_t)(space - line), space + 1, n - (size_t)(space - line) - 1, path));
    }
    rc = 0;
out:
    pw_buf_free(&text);
    return rc;
}

int tok_from_two_files(struct pw_tokenizer *t, const char *vocab_path, const char *merges_path, const struct pw_value *config, const char *config_path)
{
    struct pw_arena a;
    struct pw_value *vocab;
    const char *class = "GPT2Tokenizer";
    const struct pw_value *added = config ? pw_get(config, "added_tokens_decoder") : NULL;
    size_t n_added = added && added->kind == PW_MAP ? added->len : 0;
    int64_t top = -1, id;
    int rc;
    pw_arena_init(&a);
    PW_PASS_OUT(pw_json_load(&a, vocab_path, &vocab));
    if (config)
        PW_PASS_OUT(pw_get_str(config, "tokenizer_class", config_path, &class));
    bool qwen = strncmp(class, "Qwen2Tokenizer", 14) == 0;
    PW_CHECK_OUT(qwen || strncmp(class, "GPT2Tokenizer", 13) == 0, PW_E_UNSUPPORTED,
                 "%s: tokenizer_class %s without tokenizer.json is not supported (GPT2Tokenizer and Qwen2Tokenizer are)", config_path, class);
    for (size_t i = 0; i < n_added; i++) {
        PW_CHECK_OUT(pw_parse_i64(added->members[i].key, &id) == 0 && id >= 0, PW_E_FORMAT, "%s: added_tokens_decoder: \"%s\" is no id", config_path, added->members[i].key);
        top = id > top ? id : top;
    }
    PW_PASS_OUT(read_vocab(t, vocab, top, n_added, vocab_path));
    PW_PASS_OUT(text_merges(t, merges_path));
    PW_PASS_OUT(tok_bpe_ready(t));
    for (size_t i = 0; i < n_added; i++) {
        pw_parse_i64(added->members[i].key, &id);
        PW_PASS_OUT(read_added(t, &added->members[i].value, id, config_path));
    }
    int32_t end = tok_vocab_find(&t->vocab, "<|endoftext|>", 13);
    if (end >= 0 && n_added == 0)
        PW_PASS_OUT(tok_add_token(t, &(struct tok_added){ .text = "<|endoftext|>", .len = 13, .id = end, .special = true }, vocab_path));
    if (qwen)
        t->norm[t->n_norm++] = (struct tok_norm){ .kind = NORM_FORM, .form = PW_NFC };
    if (qwen) {
        struct tok_pre *s = &t->pre[t->n_pre++];
        *s = (struct tok_pre){ .kind = PRE_SPLIT, .behaviour = SPLIT_ISOLATED };
        PW_PASS_OUT(pw_regex_compile(&s->regex, qwen2_pattern, sizeof qwen2_pattern - 1, "Qwen2 pattern"));
    }
    struct tok_pre *s = &t->pre[t->n_pre++];
    *s = (struct tok_pre){ .kind = PRE_BYTE_LEVEL };
    if (!qwen)
        PW_PASS_OUT(pw_regex_compile(&s->regex, gpt2_pattern, sizeof gpt2_pattern - 1, "GPT-2 pattern"));
    if (config && !qwen)
        PW_PASS_OUT(pw_get_bool(config, "add_prefix_space", config_path, &s->prefix_space));
    t->dec[t->n_dec++] = (struct tok_dec){ .kind = DEC_BYTE_LEVEL };
    t->has_decoder = true;
    t->kind = "BPE byte-level";
    rc = tok_added_ready(t);
out:
    pw_arena_free(&a);
    return rc;
}
