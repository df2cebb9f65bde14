/* Reading recipes against the table of rows, and writing the effective one. Owns the texts of a recipe (its arena). */
#include "train/recipe.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"

enum { MAX_ROWS = 96 };
struct reading {                     /* one recipe being read */
    struct pw_recipe *r;
    const struct pw_value *values[MAX_ROWS];
    const char *where[MAX_ROWS];     /* "recipe FILE line 3", "--set train.lr=1" */
};

/* Groups that may be given as one word: `model: PATH`, `quant: none`. */
static const struct { const char *group, *row; } short_forms[] = {{"model", "model.path"}, {"quant", "quant.type"}};

static int row_find(const char *key)
{
    for (int i = 0; pw_recipe_rows[i].key; i++)
        if (strcmp(pw_recipe_rows[i].key, key) == 0)
            return i;
    return -1;
}

static bool is_group(const char *prefix)
{
    size_t n = strlen(prefix);
    if (n == 0)
        return true;
    for (int i = 0; pw_recipe_rows[i].key; i++)
        if (strncmp(pw_recipe_rows[i].key, prefix, n) == 0 && pw_recipe_rows[i].key[n] == '.')
            return true;
    return false;
}

static const char *last_word(const char *key)
{
    const char *dot = strrchr(key, '.');
    return dot ? dot + 1 : key;
}

/* The right key nearest to a wrong one: first among its siblings, then among all. NULL when none is near. */
static const char *nearest_key(const char *key)
{
    const char *word = last_word(key), *names[MAX_ROWS + 8], *full[MAX_ROWS + 8];
    size_t n = 0, parent = (size_t)(word - key);
    for (int i = 0; pw_recipe_rows[i].key; i++) {
        const char *k = pw_recipe_rows[i].key;
        if (strncmp(k, key, parent) == 0 && strchr(k + parent, '.') == NULL) {
            names[n] = k + parent;
            full[n++] = k;
        }
    }
    static const char *const groups[] = {"model", "quant", "adapter", "data", "train"};
    if (parent == 0)
        for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++)
            full[n] = names[n] = groups[i], n++;
    const char *hit = pw_nearest(word, names, n);
    if (!hit) {
        n = 0;
        for (int i = 0; pw_recipe_rows[i].key; i++) {
            names[n] = last_word(pw_recipe_rows[i].key);
            full[n++] = pw_recipe_rows[i].key;
        }
        hit = pw_nearest(word, names, n);
    }
    for (size_t i = 0; hit && i < n; i++)
        if (names[i] == hit)
            return full[i];
    return NULL;
}

static int unknown_key(const char *key, const char *where)
{
    const char *near = nearest_key(key);
    int rc = pw_error(PW_E_USAGE, "%s: %s: no such key%s%s", where, key, near ? ", the nearest is " : "", near ? near : "");
    pw_error_hint("`pw recipe docs` lists the keys");
    return rc;
}

/* Puts a value, or all values under it, into their rows. key "" is the whole document. */
static int assign(struct reading *rd, const char *key, const struct pw_value *v, const char *where)
{
    struct pw_arena *a = &rd->r->arena;
    if (v->line > 0 && strncmp(where, "--set", 5) != 0) {
        where = pw_arena_printf(a, "%s line %d", rd->r->source, v->line);
        PW_CHECK(where, PW_E_NOMEM, "reading the recipe: out of memory");
    }
    int i = row_find(key);
    if (i >= 0) {
        rd->values[i] = v;
        rd->where[i] = where;
        return 0;
    }
    if (!is_group(key))
        return unknown_key(key, where);
    if (v->kind == PW_MAP) {
        for (size_t k = 0; k < v->len; k++) {
            const struct pw_member *m = &v->members[k];
            const char *name = key[0] ? pw_arena_printf(a, "%s.%s", key, m->key) : m->key;
            PW_CHECK(name, PW_E_NOMEM, "reading the recipe: out of memory");
            PW_PASS(assign(rd, name, &m->value, where));
        }
        return 0;
    }
    if (v->kind == PW_NULL)
        return 0;
    for (size_t s = 0; s < sizeof short_forms / sizeof short_forms[0]; s++)
        if (strcmp(key, short_forms[s].group) == 0) {  /* one word stands for the whole group: what was there before goes */
            for (int k = 0; pw_recipe_rows[k].key; k++)
                if (strncmp(pw_recipe_rows[k].key, key, strlen(key)) == 0 && pw_recipe_rows[k].key[strlen(key)] == '.')
                    rd->values[k] = NULL;
            return assign(rd, short_forms[s].row, v, where);
        }
    return pw_error(PW_E_USAGE, "%s: %s: expected a map, got %s", where, key[0] ? key : "the recipe", pw_kind_name(v->kind));
}

/* ---- typed reading of one row ---- */

static int bad_type(const struct pw_recipe_row *row, const char *where, const char *expected, const struct pw_value *v)
{
    return pw_error(PW_E_USAGE, "%s: %s: expected %s, got %s", where, row->key, expected, pw_kind_name(v->kind));
}

static int number(const struct pw_recipe_row *row, const char *where, const struct pw_value *v, double *out)
{
    if (v->kind == PW_INT)
        *out = (double)v->i;
    else if (v->kind == PW_REAL)
        *out = v->d;
    else
        return bad_type(row, where, row->type == PW_ROW_INT ? "a whole number" : "a number", v);
    char got[32], min[32], max[32];
    pw_format_f64(got, *out);
    pw_format_f64(min, row->min);
    pw_format_f64(max, row->max);
    bool inside = *out >= row->min && (row->open_max ? *out < row->max : *out <= row->max);
    PW_CHECK(inside, PW_E_USAGE, "%s: %s: out of range (expected %s to %s%s, got %s)", where, row->key, min, row->open_max ? "less than " : "",
             max, got);
    return 0;
}

/* A name that ends in _N is one with a number in its place. */
static bool is_choice(const char *name, const char *word)
{
    const size_t n = strlen(name);
    if (n < 2 || strcmp(name + n - 2, "_N") != 0)
        return strcmp(name, word) == 0;
    const char *digits = word + n - 1;
    if (strncmp(name, word, n - 1) != 0 || !*digits || strspn(digits, "0123456789") != strlen(digits) || strlen(digits) > 4 || (digits[0] == '0' && digits[1]))
        return false;
    return strtol(digits, NULL, 10) <= 1000;
}

/* Beginnings that PEFT has and this program has not: an adapter that began so elsewhere can be gone on with. */
static void hint_elsewhere(const struct pw_recipe_row *row, const char *word)
{
    static const char *const from_rows[] = {"eva", "corda", "lora_ga"}, *const others[] = {"olora", "orthogonal"};
    if (strcmp(row->key, "adapter.init") != 0)
        return;
    for (size_t i = 0; i < sizeof from_rows / sizeof from_rows[0]; i++)
        if (strcmp(word, from_rows[i]) == 0)
            pw_error_hint("%s begins from what the model does with rows of data, which is not done here: pissa begins from the weights alone, or let PEFT begin, save a plain adapter for the "
                          "unchanged base, and name its folder with adapter.init_from", word);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (strcmp(word, others[i]) == 0)
            pw_error_hint("let PEFT begin, save a plain adapter for the unchanged base, and name its folder with adapter.init_from");
}

static int read_choice(const struct pw_recipe_row *row, const char *where, const struct pw_value *v, const char **out)
{
    const char *word = v->kind == PW_STRING ? v->s : v->kind == PW_NULL ? "none" : NULL;
    if (!word)
        return bad_type(row, where, row->choices, v);
    char list[160], *names[16], *at = list;
    size_t n = 0;
    snprintf(list, sizeof list, "%s", row->choices);
    for (char *end; n < 16; at = end + 3) {
        end = strstr(at, " | ");
        if (end)
            *end = 0;
        names[n++] = at;
        if (!end)
            break;
    }
    for (size_t i = 0; i < n; i++)
        if (is_choice(names[i], word)) {
            *out = word;
            return 0;
        }
    const char *near = pw_nearest(word, (const char *const *)names, n);
    const int rc = pw_error(PW_E_USAGE, "%s: %s: no such choice (expected %s, got %s)%s%s", where, row->key, row->choices, word,
                            near ? ", the nearest is " : "", near ? near : "");
    hint_elsewhere(row, word);
    return rc;
}

static int read_words(struct pw_recipe *r, const struct pw_recipe_row *row, const char *where, const struct pw_value *v, const char **out)
{
    if (v->kind == PW_STRING && v->len > 0) {
        *out = v->s;
        return 0;
    }
    if (v->kind != PW_LIST || v->len == 0)
        return bad_type(row, where, "a word or a list of words", v);
    const char *joined = "";
    for (size_t i = 0; i < v->len; i++) {
        if (v->items[i].kind != PW_STRING || v->items[i].len == 0)
            return bad_type(row, where, "a list of words", &v->items[i]);
        joined = i ? pw_arena_printf(&r->arena, "%s,%s", joined, v->items[i].s) : v->items[i].s;
        PW_CHECK(joined, PW_E_NOMEM, "reading the recipe: out of memory");
    }
    *out = joined;
    return 0;
}

/* A number, a text such as 0-3,28, or a list of both, as "0-3,28,...". What is a range, and of what, is for who uses it. */
static int read_ranges(struct pw_recipe *r, const struct pw_recipe_row *row, const char *where, const struct pw_value *v, const char **out)
{
    const struct pw_value *items = v->kind == PW_LIST ? v->items : v;
    const size_t n = v->kind == PW_LIST ? v->len : 1;
    const char *joined = "";
    if (n == 0)
        return bad_type(row, where, "a number, a range or a list of them", v);
    for (size_t i = 0; i < n; i++) {
        const struct pw_value *item = &items[i];
        if (item->kind == PW_STRING && item->len > 0 && strlen(item->s) == item->len)
            joined = pw_arena_printf(&r->arena, "%s%s%s", joined, i ? "," : "", item->s);
        else if (item->kind == PW_INT && item->i >= 0)
            joined = pw_arena_printf(&r->arena, "%s%s%lld", joined, i ? "," : "", (long long)item->i);
        else
            return bad_type(row, where, "a number, a range or a list of them", item);
        PW_CHECK(joined, PW_E_NOMEM, "reading the recipe: out of memory");
    }
    *out = joined;
    return 0;
}

/* {name: number, ...} as "name=number,...". */
static int read_map(struct pw_recipe *r, const struct pw_recipe_row *row, const char *where, const struct pw_value *v, const char **out)
{
    const char *joined = "";
    if (v->kind != PW_MAP)
        return bad_type(row, where, "a map of names and numbers", v);
    for (size_t i = 0; i < v->len; i++) {
        const struct pw_member *m = &v->members[i];
        char number[32];
        PW_CHECK(m->key[0] && !strpbrk(m->key, "=, "), PW_E_USAGE, "%s: %s: expected the name of a linear layer, got %s", where, row->key, m->key);
        if (m->value.kind != PW_INT && m->value.kind != PW_REAL)
            return bad_type(row, where, "numbers", &m->value);
        pw_format_f64(number, m->value.kind == PW_INT ? (double)m->value.i : m->value.d);
        joined = pw_arena_printf(&r->arena, "%s%s%s=%s", joined, i ? "," : "", m->key, number);
        PW_CHECK(joined, PW_E_NOMEM, "reading the recipe: out of memory");
    }
    *out = joined;
    return 0;
}

static int read_files(struct pw_recipe *r, const struct pw_recipe_row *row, const char *where, const struct pw_value *v,
                      struct pw_data_file **files, size_t *n)
{
    char *dir = NULL;
    const char *slash = strrchr(r->source, '/');
    if (slash) {
        dir = pw_arena_strndup(&r->arena, r->source, slash > r->source ? (size_t)(slash - r->source) : 1);
        PW_CHECK(dir, PW_E_NOMEM, "reading the recipe: out of memory");
    }
    int rc = pw_data_files_read(&r->arena, v, r->format, dir, where, files, n);
    PW_CHECK(rc == 0, rc == PW_E_FORMAT ? PW_E_USAGE : rc, "%s: %s", row->key, pw_error_text());
    PW_CHECK(*n > 0, PW_E_USAGE, "%s: %s: an empty list", where, row->key);
    return 0;
}

static int read_row(struct pw_recipe *r, const struct pw_recipe_row *row, const char *where, const struct pw_value *v)
{
    void *field = (char *)r + row->offset;
    double x = 0;
    if (v->kind == PW_NULL && row->type == PW_ROW_TEXT) {
        *(const char **)field = NULL;
        return 0;
    }
    switch (row->type) {
    case PW_ROW_BOOL:
        if (v->kind != PW_BOOL)
            return bad_type(row, where, "true or false", v);
        *(bool *)field = v->b;
        return 0;
    case PW_ROW_INT:
        PW_PASS(number(row, where, v, &x));
        PW_CHECK(x == floor(x), PW_E_USAGE, "%s: %s: expected a whole number, got %g", where, row->key, x);
        *(int64_t *)field = (int64_t)x;
        return 0;
    case PW_ROW_REAL:
        return number(row, where, v, field);
    case PW_ROW_CHOICE:
        return read_choice(row, where, v, field);
    case PW_ROW_TEXT:
        if (v->kind != PW_STRING || v->len == 0 || strlen(v->s) != v->len)
            return bad_type(row, where, "a text", v);
        *(const char **)field = v->s;
        return 0;
    case PW_ROW_WORDS:
        return read_words(r, row, where, v, field);
    case PW_ROW_RANGES:
        return read_ranges(r, row, where, v, field);
    case PW_ROW_PAIR:
        if (v->kind != PW_LIST || v->len != 2)
            return bad_type(row, where, "a list of two numbers", v);
        PW_PASS(number(row, where, &v->items[0], &((double *)field)[0]));
        return number(row, where, &v->items[1], &((double *)field)[1]);
    case PW_ROW_MAP:
        return read_map(r, row, where, v, field);
    case PW_ROW_SOURCES:
        return read_files(r, row, where, v, &r->train, &r->n_train);
    case PW_ROW_EVAL:
        r->n_eval = 0;
        r->eval_share = 0;
        if (v->kind == PW_NULL)
            return 0;
        if (v->kind == PW_STRING || v->kind == PW_MAP || v->kind == PW_LIST)
            return read_files(r, row, where, v, &r->eval, &r->n_eval);
        return number(row, where, v, &r->eval_share);
    }
    return 0;
}

/* A setting that another one leaves without effect is a mistake. */
static int check_objective(struct pw_recipe *r)
{
    const bool dpo = strcmp(r->objective, "dpo") == 0, simpo = strcmp(r->objective, "simpo") == 0, sigmoid = strcmp(r->dpo_loss, "sigmoid") == 0;
    PW_CHECK(dpo || sigmoid, PW_E_USAGE, "%s: train.dpo_loss: %s needs train.objective: dpo (got %s)", r->source, r->dpo_loss, r->objective);
    PW_CHECK(r->rpo_alpha == 0 || dpo, PW_E_USAGE, "%s: train.rpo_alpha needs train.objective: dpo (got %s)", r->source, r->objective);
    PW_CHECK(r->label_smoothing == 0 || simpo || (dpo && sigmoid), PW_E_USAGE,
             "%s: train.label_smoothing needs train.objective: dpo with dpo_loss: sigmoid, or simpo (got %s, %s)", r->source, r->objective, r->dpo_loss);
    if (r->beta == 0)
        r->beta = simpo ? 2.0 : 0.1;
    return 0;
}

bool pw_recipe_pissa(const struct pw_recipe *r, int *rounds)
{
    static const char fast[] = "pissa_niter_";
    const bool some = strncmp(r->init, fast, sizeof fast - 1) == 0;
    if (rounds)
        *rounds = some ? (int)strtol(r->init + sizeof fast - 1, NULL, 10) : -1;
    return some || strcmp(r->init, "pissa") == 0;
}

bool pw_recipe_loftq_base(const struct pw_recipe *r)
{
    return strcmp(r->init, "loftq") == 0 && r->loftq_iter > 1;
}

static int check_whole(struct pw_recipe *r)
{
    PW_CHECK(r->patience == 0 || r->n_eval > 0 || r->eval_share > 0, PW_E_USAGE, "%s: train.patience needs rows to evaluate on: data.eval", r->source);
    PW_CHECK(!r->load_best || r->n_eval > 0 || r->eval_share > 0, PW_E_USAGE, "%s: train.load_best needs rows to evaluate on: data.eval", r->source);
    PW_PASS(check_objective(r));
    PW_CHECK(r->lora_plus == 1 || strcmp(r->kind, "full") != 0, PW_E_USAGE, "%s: adapter.lora_plus needs adapter.kind: lora (got full)", r->source);
    PW_CHECK(r->model || r->fresh, PW_E_USAGE, "%s: model: is missing", r->source);
    PW_CHECK(!r->model || !r->fresh, PW_E_USAGE, "%s: model.path and model.fresh exclude each other", r->source);
    PW_CHECK(r->n_train > 0, PW_E_USAGE, "%s: data.train: is missing", r->source);
    PW_CHECK(r->output, PW_E_USAGE, "%s: output: is missing", r->source);
    bool full = strcmp(r->kind, "full") == 0;
    PW_CHECK(!r->fresh || full, PW_E_USAGE, "%s: model.fresh needs adapter.kind: full (got %s)", r->source, r->kind);
    PW_CHECK(!r->fresh || r->tokenizer, PW_E_USAGE, "%s: model.fresh needs model.tokenizer", r->source);
    PW_CHECK(!full || strcmp(r->quant_type, "none") == 0, PW_E_USAGE, "%s: adapter.kind: full trains all weights, so quant.type must be none (got %s)",
             r->source, r->quant_type);
    const bool pissa = pw_recipe_pissa(r, NULL), loftq = strcmp(r->init, "loftq") == 0;
    PW_CHECK(!(pissa || loftq) || strcmp(r->kind, "lora") == 0, PW_E_USAGE, "%s: adapter.init: %s needs adapter.kind: lora (got %s)", r->source, r->init, r->kind);
    PW_CHECK(!(pissa || loftq) || !r->init_from, PW_E_USAGE, "%s: adapter.init: %s and adapter.init_from exclude each other", r->source, r->init);
    PW_CHECK(!pissa || r->dropout == 0, PW_E_USAGE, "%s: adapter.init: pissa needs adapter.dropout: 0, since the half that stays may not be dropped (got %g)", r->source, r->dropout);
    PW_CHECK(!pissa || r->weight_decay == 0, PW_E_USAGE, "%s: adapter.init: pissa needs train.weight_decay: 0, since the half that stays may not shrink (got %g)", r->source, r->weight_decay);
    PW_CHECK(!loftq || strcmp(r->quant_type, "none") != 0, PW_E_USAGE, "%s: adapter.init: loftq needs quant.type: it makes good for what quantising takes away", r->source);
    PW_CHECK(loftq || r->loftq_iter == 1, PW_E_USAGE, "%s: adapter.loftq_iter: %lld needs adapter.init: loftq (got %s)", r->source, (long long)r->loftq_iter, r->init);
    PW_CHECK(!full || strcmp(r->init, "default") == 0, PW_E_USAGE, "%s: adapter.init needs adapter.kind: lora or dora (got full)", r->source);
    PW_CHECK(!full || strcmp(r->modules_to_save, "none") == 0, PW_E_USAGE, "%s: adapter.modules_to_save needs adapter.kind: lora or dora (got full)", r->source);
    PW_CHECK(!full || strcmp(r->bias, "none") == 0, PW_E_USAGE, "%s: adapter.bias needs adapter.kind: lora or dora (got full)", r->source);
    PW_CHECK(!full || !r->init_from, PW_E_USAGE, "%s: adapter.init_from needs adapter.kind: lora (got full)", r->source);
    PW_CHECK(!(r->warmup > 1 && r->warmup != floor(r->warmup)), PW_E_USAGE, "%s: train.warmup: expected a share below 1 or a whole number of steps, got %g",
             r->source, r->warmup);
    return 0;
}

static int read_all(struct reading *rd, const char *text, size_t bytes, const char *const *sets, size_t n_sets)
{
    struct pw_recipe *r = rd->r;
    struct pw_value *tree = NULL;
    /* A mistake in a recipe is a mistake of use, whatever part of it the parser met. */
    if (pw_yaml_parse(&r->arena, text, bytes, r->source, &tree) < 0)
        return pw_error_while(PW_E_USAGE, "reading the recipe");
    PW_CHECK(tree->kind == PW_MAP, PW_E_USAGE, "%s: expected a map of settings, got %s", r->source, pw_kind_name(tree->kind));
    PW_PASS(assign(rd, "", tree, r->source));
    for (size_t i = 0; i < n_sets; i++) {
        const char *equal = strchr(sets[i], '=');
        const char *where = pw_arena_printf(&r->arena, "--set %s", sets[i]);
        PW_CHECK(equal && equal > sets[i], PW_E_USAGE, "--set %s: expected KEY=VALUE", sets[i]);
        char *key = pw_arena_strndup(&r->arena, sets[i], (size_t)(equal - sets[i]));
        struct pw_value *v = NULL;
        PW_CHECK(where && key, PW_E_NOMEM, "reading the recipe: out of memory");
        if (pw_yaml_parse(&r->arena, equal + 1, strlen(equal + 1), where, &v) < 0)
            return pw_error_while(PW_E_USAGE, "reading %s", where);
        PW_PASS(assign(rd, key, v, where));
    }
    for (int files = 0; files < 2; files++)      /* files last: their format falls back to data.format */
        for (int i = 0; pw_recipe_rows[i].key; i++) {
            const struct pw_recipe_row *row = &pw_recipe_rows[i];
            struct pw_value *v = NULL;
            if ((row->type == PW_ROW_SOURCES || row->type == PW_ROW_EVAL) != files)
                continue;
            if (row->fallback) {
                PW_PASS(pw_yaml_parse(&r->arena, row->fallback, strlen(row->fallback), row->key, &v));
                PW_PASS(read_row(r, row, "default", v));
            }
            if (rd->values[i])
                PW_PASS(read_row(r, row, rd->where[i], rd->values[i]));
        }
    return check_whole(r);
}

int pw_recipe_parse(struct pw_recipe *r, const char *text, size_t bytes, const char *source, const char *const *sets, size_t n_sets)
{
    struct reading rd = {.r = r};
    *r = (struct pw_recipe){0};
    pw_arena_init(&r->arena);
    r->source = pw_arena_strndup(&r->arena, source, strlen(source));
    PW_CHECK(r->source, PW_E_NOMEM, "reading the recipe: out of memory");
    return read_all(&rd, text, bytes, sets, n_sets);
}

int pw_recipe_load(struct pw_recipe *r, const char *name, const char *const *sets, size_t n_sets)
{
    struct pw_buf text = {0};
    char embedded[256];
    int rc = 0;
    *r = (struct pw_recipe){0};
    if (pw_file_exists(name) && !pw_is_dir(name))
        rc = pw_file_read(name, 1 << 20, &text);
    else {
        bool bare = strchr(name, '/') == NULL, yaml = strlen(name) > 5 && strcmp(name + strlen(name) - 5, ".yaml") == 0;
        snprintf(embedded, sizeof embedded, "%s%s%s", bare ? "recipes/" : "", name, bare && !yaml ? ".yaml" : "");
        rc = pw_embedded_read(embedded, &text);
        if (rc < 0) {
            rc = pw_error(PW_E_USAGE, "recipe %s: neither a file nor an embedded recipe", name);
            pw_error_hint("`pw recipe list` names the embedded ones");
        }
    }
    if (rc == 0)
        rc = pw_recipe_parse(r, text.data ? text.data : "", text.len, name, sets, n_sets);
    pw_buf_free(&text);
    return rc;
}

void pw_recipe_free(struct pw_recipe *r)
{
    if (r)
        pw_arena_free(&r->arena);
}

/* ---- writing ---- */

static void write_text(struct pw_buf *out, const char *s)
{
    struct pw_json w = {0};
    pw_json_str(&w, NULL, s);    /* a JSON string is a YAML double-quoted one */
    if (pw_json_status(&w) < 0)
        out->failed = true;
    else
        pw_buf_add(out, w.out.data, w.out.len);
    pw_json_free(&w);
}

static void write_number(struct pw_buf *out, double x)
{
    char text[32];
    pw_format_f64(text, x);
    pw_buf_str(out, text);
    if (!strpbrk(text, ".e"))    /* YAML tells a real from a whole number by its point */
        pw_buf_str(out, ".0");
}

static void write_files(const struct pw_data_file *files, size_t n, struct pw_buf *out)
{
    pw_buf_char(out, '[');
    for (size_t i = 0; i < n; i++) {
        const struct pw_data_file *f = &files[i];
        const struct { const char *key, *text; } texts[] = {{"prompt", f->prompt}, {"completion", f->completion}, {"text", f->text}};
        pw_buf_str(out, i ? ", {path: " : "{path: ");
        write_text(out, f->path);
        if (f->format)
            pw_buf_printf(out, ", format: %s", f->format);
        if (f->weight > 0) {
            pw_buf_str(out, ", weight: ");
            write_number(out, f->weight);
        }
        for (size_t k = 0; k < sizeof texts / sizeof texts[0]; k++)
            if (texts[k].text) {
                pw_buf_printf(out, ", %s: ", texts[k].key);
                write_text(out, texts[k].text);
            }
        pw_buf_char(out, '}');
    }
    pw_buf_char(out, ']');
}

static void write_value(const struct pw_recipe *r, const struct pw_recipe_row *row, struct pw_buf *out)
{
    const void *field = (const char *)r + row->offset;
    switch (row->type) {
    case PW_ROW_BOOL:
        pw_buf_str(out, *(const bool *)field ? "true" : "false");
        break;
    case PW_ROW_INT:
        pw_buf_printf(out, "%lld", (long long)*(const int64_t *)field);
        break;
    case PW_ROW_REAL:
        write_number(out, *(const double *)field);
        break;
    case PW_ROW_CHOICE:
        pw_buf_str(out, *(const char *const *)field);
        break;
    case PW_ROW_TEXT:
    case PW_ROW_WORDS:
    case PW_ROW_RANGES:
        if (*(const char *const *)field)
            write_text(out, *(const char *const *)field);
        else
            pw_buf_str(out, "null");
        break;
    case PW_ROW_PAIR:
        pw_buf_char(out, '[');
        write_number(out, ((const double *)field)[0]);
        pw_buf_str(out, ", ");
        write_number(out, ((const double *)field)[1]);
        pw_buf_char(out, ']');
        break;
    case PW_ROW_MAP: {
        const char *at = *(const char *const *)field;
        pw_buf_char(out, '{');
        for (bool first = true; *at; first = false) {
            const size_t name = strcspn(at, "="), number = strcspn(at + name + 1, ",");
            pw_buf_printf(out, "%s%.*s: %.*s", first ? "" : ", ", (int)name, at, (int)number, at + name + 1);
            at += name + 1 + number;
            at += *at == ',';
        }
        pw_buf_char(out, '}');
        break;
    }
    case PW_ROW_SOURCES:
        write_files(r->train, r->n_train, out);
        break;
    case PW_ROW_EVAL:
        if (r->n_eval > 0)
            write_files(r->eval, r->n_eval, out);
        else
            write_number(out, r->eval_share);
        break;
    }
}

int pw_recipe_write(const struct pw_recipe *r, struct pw_buf *out)
{
    const char *group = "";
    size_t group_len = 0;
    for (int i = 0; pw_recipe_rows[i].key; i++) {
        const struct pw_recipe_row *row = &pw_recipe_rows[i];
        const char *word = last_word(row->key);
        size_t len = word > row->key ? (size_t)(word - row->key) - 1 : 0;
        if (len > 0 && (len != group_len || strncmp(group, row->key, len) != 0))
            pw_buf_printf(out, "%.*s:\n", (int)len, row->key);
        group = row->key;
        group_len = len;
        pw_buf_printf(out, "%s%s: ", len ? "  " : "", word);
        write_value(r, row, out);
        pw_buf_char(out, '\n');
    }
    return pw_buf_status(out);
}

const char *pw_recipe_difference(const struct pw_recipe *x, const struct pw_recipe *y, char a[256], char b[256])
{
    const char *found = NULL;
    for (int i = 0; pw_recipe_rows[i].key && !found; i++) {
        const struct pw_recipe_row *row = &pw_recipe_rows[i];
        struct pw_buf s = {0}, t = {0};
        const bool free = row->free && !((x->patience > 0 || y->patience > 0 || x->load_best || y->load_best) && strcmp(row->key, "train.eval_every") == 0);
        if (!free) {
            if (row->type == PW_ROW_EVAL) {   /* the rows that are trained on depend on the share alone */
                write_number(&s, x->eval_share);
                write_number(&t, y->eval_share);
            } else {
                write_value(x, row, &s);
                write_value(y, row, &t);
            }
            if (s.failed || t.failed || s.len != t.len || memcmp(s.data, t.data, s.len) != 0) {
                found = row->key;
                snprintf(a, 256, "%s", s.data ? s.data : "");
                snprintf(b, 256, "%s", t.data ? t.data : "");
            }
        }
        pw_buf_free(&s);
        pw_buf_free(&t);
    }
    return found;
}

void pw_recipe_docs(struct pw_buf *out)
{
    static const char *const types[] = {[PW_ROW_BOOL] = "true or false", [PW_ROW_INT] = "whole number", [PW_ROW_REAL] = "number", [PW_ROW_CHOICE] = "", [PW_ROW_TEXT] = "text",
                                        [PW_ROW_WORDS] = "list of words", [PW_ROW_RANGES] = "ranges", [PW_ROW_PAIR] = "two numbers", [PW_ROW_MAP] = "map of names and numbers",
                                        [PW_ROW_SOURCES] = "paths", [PW_ROW_EVAL] = "path or share"};
    pw_buf_str(out, "# Recipe keys\n\nPaths are relative to the current folder. `--set KEY=VALUE` overrides a key; the value is YAML.\n"
                    "Keys marked * may change when a run is resumed.\n\n| key | value | default | meaning |\n|---|---|---|---|\n");
    for (int i = 0; pw_recipe_rows[i].key; i++) {
        const struct pw_recipe_row *row = &pw_recipe_rows[i];
        char min[32], max[32];
        pw_format_f64(min, row->min);
        pw_format_f64(max, row->max);
        pw_buf_printf(out, "| `%s`%s | ", row->key, row->free ? " *" : "");
        if (row->type == PW_ROW_CHOICE)
            for (const char *s = row->choices; *s; s++) {
                if (*s == '|')
                    pw_buf_char(out, '\\');
                pw_buf_char(out, *s);
            }
        else
            pw_buf_str(out, types[row->type]);
        if (row->max > 0)
            pw_buf_printf(out, ", %s to %s%s", min, row->open_max ? "less than " : "", max);
        pw_buf_printf(out, " | %s | %s |\n", row->fallback ? row->fallback : "", row->help);
    }
}
