/* Adapters in memory: which modules, their sizes, names, scale, initial values, and whether a base is theirs. Refuses to know files (peft.c) and arithmetic on activations (kernels/). */
#include "lora/adapter.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

bool pw_adapter_selects(const char *target, const char *module)
{
    size_t n = strlen(target), m = strlen(module);
    if (n == 0 || n > m || strcmp(module + m - n, target) != 0)
        return false;
    return n == m || module[m - n - 1] == '.';
}

double pw_adapter_scale(const struct pw_adapter_config *c) { return c->rslora ? c->alpha / sqrt(c->r) : c->alpha / c->r; }

/* ---- plan ---- */

static int check_config(const struct pw_adapter_config *c)
{
    PW_CHECK(strcmp(c->kind, "lora") == 0 || strcmp(c->kind, "dora") == 0, PW_E_UNSUPPORTED, "adapter.kind: %s is not supported (known: lora, dora)", c->kind);
    PW_CHECK(!c->bias[0] || strcmp(c->bias, "none") == 0 || strcmp(c->bias, "all") == 0 || strcmp(c->bias, "lora_only") == 0, PW_E_UNSUPPORTED,
             "adapter.bias: %s is not supported (known: none, all, lora_only)", c->bias);
    PW_CHECK(c->r >= 1 && c->r <= 65536, PW_E_USAGE, "adapter.r is out of range (expected 1 to 65536, got %d)", c->r);
    PW_CHECK(isfinite(c->alpha) && c->alpha != 0, PW_E_USAGE, "adapter.alpha must be a number other than 0 (got %g)", c->alpha);
    PW_CHECK(c->dropout >= 0 && c->dropout < 1, PW_E_USAGE, "adapter.dropout is out of range (expected 0 to below 1, got %g)", c->dropout);
    return 0;
}

/* The next word of a comma-separated list, without blanks around it; false at the end. */
static bool next_target(const char **at, char word[256])
{
    while (**at == ',' || **at == ' ')
        ++*at;
    size_t n = strcspn(*at, ",");
    if (n == 0)
        return false;
    size_t keep = n;
    while (keep > 0 && (*at)[keep - 1] == ' ')
        keep--;
    snprintf(word, 256, "%.*s", (int)keep, *at);
    *at += n;
    return true;
}

static bool in_some_layer(const struct pw_model_config *model, enum pw_linear l)
{
    bool any = false;
    for (int i = 0; i < model->layers && !any; i++)
        any = pw_layer_has(model, i, l);
    return any;
}

static int unmatched(const struct pw_model_config *model, const char *key, const char *target)
{
    const char *names[PW_LIN_COUNT * 2 + PW_EXPERT_PARTS + 1];
    char known[256] = "all-linear";
    size_t n = 0, at = strlen(known);
    for (int l = 0; l < PW_LIN_COUNT; l++)
        if (in_some_layer(model, (enum pw_linear)l)) {
            names[n++] = pw_linear_suffix((enum pw_linear)l);
            names[n] = strrchr(names[n - 1], '.') + 1;
            at += (size_t)snprintf(known + at, sizeof known - at, ", %s", names[n++]);
        }
    for (int p = 0; model->experts && p < PW_EXPERT_PARTS; p++) {
        names[n] = pw_expert_part_name(model, (enum pw_expert_part)p);
        if (!strstr(known, names[n]))
            at += (size_t)snprintf(known + at, sizeof known - at, ", %s", names[n]);
        n++;
    }
    names[n++] = "all-linear";
    const char *near = pw_nearest(target, names, n);
    int rc = pw_error(PW_E_USAGE, "adapter.%s: %s names no linear layer of the model", key, target);
    if (near)
        pw_error_hint("did you mean %s?", near);
    else
        pw_error_hint("known: %s", known);
    return rc;
}

/* "name=number" of a pattern's word. */
static int split_pattern(const char *key, char word[256], double *value)
{
    char *equals = strchr(word, '='), *end = NULL;
    PW_CHECK(equals && equals > word && equals[1], PW_E_USAGE, "adapter.%s: expected NAME=NUMBER, got %s", key, word);
    *equals = 0;
    *value = strtod(equals + 1, &end);
    PW_CHECK(*end == 0 && isfinite(*value), PW_E_USAGE, "adapter.%s: %s: expected a number, got %s", key, word, equals + 1);
    return 0;
}

/* The value of the first part of the pattern that selects the module, or value as it was. */
static int from_pattern(const char *key, const char *pattern, const char *module, double *value)
{
    char word[256];
    for (const char *at = pattern ? pattern : ""; next_target(&at, word);) {
        double x;
        PW_PASS(split_pattern(key, word, &x));
        if (pw_adapter_selects(word, module)) {
            *value = x;
            return 0;
        }
    }
    return 0;
}

static int check_pattern(const struct pw_adapter *a, const struct pw_model_config *model, const char *key, const char *pattern, double most, bool whole)
{
    char word[256];
    for (const char *at = pattern ? pattern : ""; next_target(&at, word);) {
        bool matched = false;
        double x;
        PW_PASS(split_pattern(key, word, &x));
        PW_CHECK(x > 0 && x <= most && (!whole || x == floor(x)), PW_E_USAGE, "adapter.%s: %s: expected %s above 0 and up to %g, got %g", key, word,
                 whole ? "a whole number" : "a number", most, x);
        for (size_t i = 0; i < a->n && !matched; i++)
            matched = pw_adapter_selects(word, a->modules[i].name);
        if (!matched)
            return unmatched(model, key, word);
    }
    return 0;
}

/* Is the layer in "0-3,28-31"? The text is checked against n layers on the way. */
static int layer_taken(const char *layers, int layer, int n, bool *taken)
{
    char word[256];
    *taken = !layers || strcmp(layers, "all") == 0;
    if (*taken)
        return 0;
    for (const char *at = layers; next_target(&at, word);) {
        char *end = NULL;
        const long first = strtol(word, &end, 10), last = *end == '-' ? strtol(end + 1, &end, 10) : first;
        PW_CHECK(end != word && *end == 0 && first >= 0 && first <= last && last < n, PW_E_USAGE, "adapter.layers: expected ranges such as 0-3 within 0 to %d, got %s", n - 1,
                 word);
        *taken |= layer >= first && layer <= last;
    }
    return 0;
}

static int add_module(struct pw_adapter *a, const char *name, int64_t n_out, int64_t n_in)
{
    struct pw_adapter_module *m = &a->modules[a->n];
    m->name = pw_arena_strndup(&a->arena, name, strlen(name));
    PW_CHECK(m->name, PW_E_NOMEM, "no memory for the adapter's modules");
    m->n_out = n_out;
    m->n_in = n_in;
    double r = a->config.r;
    struct pw_adapter_config own = a->config;
    PW_PASS(from_pattern("rank_pattern", a->config.rank_pattern, name, &r));
    PW_PASS(from_pattern("alpha_pattern", a->config.alpha_pattern, name, &own.alpha));
    PW_CHECK(r >= 1 && r <= 65536 && r == floor(r), PW_E_USAGE, "adapter.rank_pattern: %s: expected a whole number from 1 to 65536, got %g", name, r);
    own.r = (int)r;
    m->lora.scale = pw_adapter_scale(&own);
    m->lora.r = a->config.halves ? 2 * own.r : own.r;
    m->lora.a = pw_tensor2(NULL, PW_F32, m->lora.r, m->n_in);
    m->lora.b = pw_tensor2(NULL, PW_F32, m->n_out, m->lora.r);
    if (strcmp(a->config.kind, "dora") == 0) {
        m->lora.magnitude = m->lora.norm = pw_tensor1(NULL, PW_F32, m->n_out);
        m->lora.drops = a->config.dropout > 0;
    }
    a->n++;
    return 0;
}

/* Adds the module if the targets select it. */
static int consider(struct pw_adapter *a, const char *name, int64_t n_out, int64_t n_in)
{
    char word[256];
    bool selected = strcmp(a->config.targets, "all-linear") == 0;
    for (const char *at = a->config.targets; !selected && next_target(&at, word);)
        selected = pw_adapter_selects(word, name);
    return selected ? add_module(a, name, n_out, n_in) : 0;
}

/* Linears in forward order, then those of experts, expert by expert. A router is never among them. */
static int plan_layer(struct pw_adapter *a, const struct pw_model_config *model, int i)
{
    char name[320], suffix[PW_EXPERT_NAME];
    int64_t n_out, n_in;
    for (int l = 0; l < PW_LIN_COUNT; l++) {
        if (!pw_layer_has(model, i, (enum pw_linear)l))
            continue;
        snprintf(name, sizeof name, "model.layers.%d.%s", i, pw_linear_suffix((enum pw_linear)l));
        pw_linear_shape(model, (enum pw_linear)l, &n_out, &n_in);
        PW_PASS(consider(a, name, n_out, n_in));
    }
    for (int e = 0; pw_model_config_sparse(model, i) && e < PW_EXPERT_PARTS * model->experts; e++) {
        pw_expert_suffix(model, e / PW_EXPERT_PARTS, (enum pw_expert_part)(e % PW_EXPERT_PARTS), suffix);
        snprintf(name, sizeof name, "model.layers.%d.%s", i, suffix);
        pw_expert_shape(model, (enum pw_expert_part)(e % PW_EXPERT_PARTS), &n_out, &n_in);
        PW_PASS(consider(a, name, n_out, n_in));
    }
    return 0;
}

static int plan(struct pw_adapter *a, const struct pw_model_config *model)
{
    const char *targets = a->config.targets;
    const bool all = strcmp(targets, "all-linear") == 0;
    char word[256];
    a->modules = pw_arena_array(&a->arena, (size_t)model->layers * (size_t)(PW_LIN_COUNT + PW_EXPERT_PARTS * model->experts), sizeof *a->modules);
    PW_CHECK(a->modules, PW_E_NOMEM, "no memory for the adapter's modules");
    for (int i = 0; i < model->layers; i++) {
        bool taken = true;
        PW_PASS(layer_taken(a->config.layers, i, model->layers, &taken));
        if (taken)
            PW_PASS(plan_layer(a, model, i));
    }
    for (const char *at = targets; !all && next_target(&at, word);) {
        bool matched = false;
        for (size_t i = 0; i < a->n && !matched; i++)
            matched = pw_adapter_selects(word, a->modules[i].name);
        if (!matched)
            return unmatched(model, "targets", word);
    }
    PW_CHECK(a->n > 0, PW_E_USAGE, "adapter.targets is empty");
    PW_PASS(check_pattern(a, model, "rank_pattern", a->config.rank_pattern, 65536, true));
    PW_PASS(check_pattern(a, model, "alpha_pattern", a->config.alpha_pattern, 1e6, false));
    if (!a->config.layers || strcmp(a->config.layers, "all") == 0)
        return 0;
    const char *list = "";            /* what PEFT's target_modules then holds */
    for (size_t i = 0; i < a->n && list; i++)
        list = pw_arena_printf(&a->arena, "%s%s%s", list, i ? "," : "", a->modules[i].name);
    PW_CHECK(list, PW_E_NOMEM, "no memory for the adapter's modules");
    a->config.targets = list;
    return 0;
}

/* ---- modules that are trained whole ---- */

bool pw_adapter_saves(const char *words, const char *module)
{
    char word[256];
    for (const char *at = words ? words : ""; next_target(&at, word);) {
        const size_t n = strlen(module), w = strlen(word);
        if (n >= w && strcmp(module + n - w, word) == 0)
            return true;
    }
    return false;
}

static int add_saved(struct pw_adapter *a, const char *name, struct pw_tensor value)
{
    if (!pw_adapter_saves(a->config.modules_to_save, name))
        return 0;
    a->saved[a->n_saved] = (struct pw_adapter_saved){.name = pw_arena_strndup(&a->arena, name, strlen(name)), .value = value};
    PW_CHECK(a->saved[a->n_saved++].name, PW_E_NOMEM, "no memory for the adapter's modules");
    return 0;
}

/* Each word must name something, and no linear layer of a block. */
static int check_saved(const struct pw_adapter *a)
{
    static const char *const known[] = {"embed_tokens", "lm_head", "norm", "input_layernorm", "post_attention_layernorm"};
    char word[256], name[320];
    for (const char *at = a->config.modules_to_save; next_target(&at, word);) {
        bool matched = false;
        for (int l = 0; l < PW_LIN_COUNT; l++) {
            snprintf(name, sizeof name, "model.layers.0.%s", pw_linear_suffix((enum pw_linear)l));
            PW_CHECK(!pw_adapter_saves(word, name), PW_E_USAGE, "adapter.modules_to_save: %s is a linear layer (expected norms, embed_tokens or lm_head)", word);
        }
        for (size_t i = 0; i < a->n_saved && !matched; i++)
            matched = pw_adapter_saves(word, a->saved[i].name);
        if (!matched) {
            const char *near = pw_nearest(word, known, sizeof known / sizeof *known);
            const int rc = pw_error(PW_E_USAGE, "adapter.modules_to_save: %s names no norm, embedding or head of the model", word);
            pw_error_hint(near ? "did you mean %s?" : "known: embed_tokens, lm_head, and the names of norms", near);
            return rc;
        }
    }
    return 0;
}

bool pw_adapter_is_bias(const char *saved, char *module)
{
    const size_t n = strlen(saved), tail = strlen(".bias");
    if (n <= tail || n - tail >= 320 || strcmp(saved + n - tail, ".bias") != 0)
        return false;
    if (module)
        snprintf(module, 320, "%.*s", (int)(n - tail), saved);
    return true;
}

size_t pw_adapter_biases(const struct pw_adapter *a)
{
    size_t n = 0;
    for (size_t i = 0; i < a->n_saved; i++)
        n += pw_adapter_is_bias(a->saved[i].name, NULL);
    return n;
}

/* PEFT trains the biases that the base has, and adds none. In these families linears of blocks alone have any. */
static int plan_biases(struct pw_adapter *a, const struct pw_model_config *model)
{
    const bool all = strcmp(a->config.bias, "all") == 0;
    char name[320];
    int64_t n_out, n_in;
    for (int i = 0; (all || strcmp(a->config.bias, "lora_only") == 0) && i < model->layers; i++)
        for (int l = 0; l < PW_LIN_COUNT; l++) {
            if (!pw_layer_has(model, i, (enum pw_linear)l) || !pw_linear_biased(model, (enum pw_linear)l))
                continue;
            snprintf(name, sizeof name, "model.layers.%d.%s", i, pw_linear_suffix((enum pw_linear)l));
            if (!all && !pw_adapter_find(a, name))
                continue;
            pw_linear_shape(model, (enum pw_linear)l, &n_out, &n_in);
            struct pw_adapter_saved *s = &a->saved[a->n_saved];
            *s = (struct pw_adapter_saved){.name = pw_arena_printf(&a->arena, "%s.bias", name), .value = pw_tensor1(NULL, PW_F32, n_out)};
            PW_CHECK(s->name, PW_E_NOMEM, "no memory for the adapter's modules");
            a->n_saved++;
        }
    return 0;
}

static int plan_saved(struct pw_adapter *a, const struct pw_model_config *model)
{
    const char *words = a->config.modules_to_save;
    char name[320];
    a->saved = pw_arena_array(&a->arena, (size_t)model->layers * (PW_NORM_COUNT + PW_LIN_COUNT) + 3, sizeof *a->saved);
    PW_CHECK(a->saved, PW_E_NOMEM, "no memory for the adapter's modules");
    if (!words || !words[0] || strcmp(words, "none") == 0) {
        a->config.modules_to_save = NULL;
        return 0;
    }
    a->config.modules_to_save = pw_arena_strndup(&a->arena, words, strlen(words));
    PW_CHECK(a->config.modules_to_save, PW_E_NOMEM, "no memory for the adapter's modules");
    PW_PASS(add_saved(a, "model.embed_tokens", pw_tensor2(NULL, PW_F32, model->vocab, model->hidden)));
    for (int i = 0; i < model->layers; i++)
        for (int n = 0; n < PW_NORM_COUNT; n++) {
            const char *suffix = pw_norm_suffix(model, (enum pw_norm)n);
            if (!suffix)
                continue;
            snprintf(name, sizeof name, "model.layers.%d.%s", i, suffix);
            PW_PASS(add_saved(a, name, pw_tensor1(NULL, PW_F32, pw_norm_width(model, (enum pw_norm)n))));
        }
    PW_PASS(add_saved(a, "model.norm", pw_tensor1(NULL, PW_F32, model->hidden)));
    PW_PASS(add_saved(a, "lm_head", pw_tensor2(NULL, PW_F32, model->vocab, model->hidden)));
    return check_saved(a);
}

int pw_adapter_plan(struct pw_adapter *a, const struct pw_adapter_config *config, const struct pw_model_config *model)
{
    *a = (struct pw_adapter){.config = *config};
    a->config.of_text = model->whole[0] != 0;
    pw_arena_init(&a->arena);
    int rc = check_config(config);
    if (rc == 0 && !(a->config.targets = pw_arena_strndup(&a->arena, config->targets, strlen(config->targets))))
        rc = pw_error(PW_E_NOMEM, "no memory for the adapter");
    if (rc == 0)
        rc = plan(a, model);
    if (rc == 0 && model->rope_interleaved)
        a->paired = model->head_dim;
    a->config.rank_pattern = a->config.alpha_pattern = a->config.layers = NULL;     /* the modules have it now */
    if (rc == 0)
        rc = plan_saved(a, model);
    if (rc == 0)
        rc = plan_biases(a, model);
    if (rc == 0 && a->config.halves) {     /* as it will be written: a pair of twice the rank */
        a->config.r *= 2;
        a->config.alpha *= a->config.rslora ? sqrt(2) : 2;
    }
    if (rc < 0)
        pw_adapter_free(a);
    return rc;
}

/* ---- order of rows ---- */

static bool rotated(const struct pw_adapter_module *m)
{
    return pw_adapter_selects(pw_linear_suffix(PW_LIN_Q), m->name) || pw_adapter_selects(pw_linear_suffix(PW_LIN_K), m->name);
}

void pw_adapter_reorder(const struct pw_adapter *a, const struct pw_adapter_module *m, bool interleave, float *to, const float *from)
{
    pw_adapter_reorder_rows(a, m, interleave, to, from, m->lora.r);
}

void pw_adapter_reorder_rows(const struct pw_adapter *a, const struct pw_adapter_module *m, bool interleave, float *to, const float *from, int64_t width)
{
    const int64_t d = a->paired, r = width;
    const bool moves = d > 0 && rotated(m);
    for (int64_t i = 0; i < m->n_out; i++) {
        const int64_t k = moves ? i % d : 0, pair = interleave ? k % 2 * (d / 2) + k / 2 : k < d / 2 ? 2 * k : 2 * (k - d / 2) + 1;
        memcpy(to + i * r, from + (i - k + (moves ? pair : 0)) * r, (size_t)r * sizeof *to);
    }
}

/* ---- memory ---- */

static size_t rounded(struct pw_tensor t) { return ((size_t)pw_count(t) * sizeof(float) + 63) & ~(size_t)63; }

bool pw_adapter_is_dora(const struct pw_adapter *a) { return strcmp(a->config.kind, "dora") == 0; }

const char *pw_adapter_dora_expert(const struct pw_adapter *a)
{
    int layer, used, expert;
    enum pw_expert_part part;
    size_t length;
    for (size_t i = 0; pw_adapter_is_dora(a) && i < a->n; i++) {
        used = 0;
        if (sscanf(a->modules[i].name, "model.layers.%9d.%n", &layer, &used) == 1 && used > 0 && pw_expert_of(a->modules[i].name + used, &expert, &part, &length))
            return a->modules[i].name;
    }
    return NULL;
}

/* The tensors of a module in the order of their places: A, B, and of DoRA the magnitude and its norms. */
static int tensors_of(struct pw_lora *l, struct pw_tensor *list[4])
{
    list[0] = &l->a, list[1] = &l->b, list[2] = &l->magnitude, list[3] = &l->norm;
    return l->magnitude.ndim > 0 ? 4 : 2;
}

size_t pw_adapter_bytes(const struct pw_adapter *a)
{
    size_t sum = 0;
    for (size_t i = 0; i < a->n; i++)
    {
        struct pw_tensor *list[4];
        for (int k = tensors_of(&a->modules[i].lora, list); k-- > 0;)
            sum += rounded(*list[k]);
    }
    for (size_t i = 0; i < a->n_saved; i++)
        sum += rounded(a->saved[i].value);
    return sum;
}

int64_t pw_adapter_parameters(const struct pw_adapter *a)
{
    int64_t sum = 0;
    for (size_t i = 0; i < a->n; i++)
        sum += pw_count(a->modules[i].lora.a) + pw_count(a->modules[i].lora.b) + (a->modules[i].lora.magnitude.ndim > 0 ? a->modules[i].n_out : 0);
    for (size_t i = 0; i < a->n_saved; i++)
        sum += pw_count(a->saved[i].value);
    return sum;
}

int pw_adapter_place(struct pw_adapter *a, void *memory, size_t bytes)
{
    size_t want = pw_adapter_bytes(a);
    PW_CHECK(bytes >= want, PW_E_FAIL, "placing the adapter: too little memory (expected %zu bytes, got %zu)", want, bytes);
    char *at = memory;
    for (size_t i = 0; i < a->n; i++) {
        struct pw_tensor *list[4];
        const int n = tensors_of(&a->modules[i].lora, list);
        for (int k = 0; k < n; k++) {
            list[k]->data = at;
            at += rounded(*list[k]);
        }
    }
    for (size_t i = 0; i < a->n_saved; i++) {
        a->saved[i].value.data = at;
        at += rounded(a->saved[i].value);
    }
    return 0;
}

void pw_adapter_init(struct pw_adapter *a, uint64_t seed)
{
#pragma omp parallel for schedule(dynamic) if (a->n > 8) /* each module has a stream of its own */
    for (size_t i = 0; i < a->n; i++) {
        struct pw_adapter_module *m = &a->modules[i];
        struct pw_rng rng = pw_rng_make(seed, PW_STREAM_INIT | (uint64_t)i << 8 | (uint64_t)1 << 40);
        const double bound = 1 / sqrt((double)m->n_in);
        float *x = m->lora.a.data;
        for (int64_t k = 0; k < pw_count(m->lora.a); k++)
            x[k] = (float)((2 * pw_rng_uniform(&rng) - 1) * bound);
        memset(m->lora.b.data, 0, (size_t)pw_count(m->lora.b) * sizeof(float));
    }
}

static int copy_tensors(struct pw_adapter *to, const struct pw_adapter *from, struct pw_dev *dev, int (*move)(struct pw_dev *, void *, const void *, size_t))
{
    for (size_t i = 0; i < to->n; i++) {
        struct pw_tensor *there[4], *here[4];
        tensors_of(&to->modules[i].lora, there);
        for (int k = tensors_of(&from->modules[i].lora, here); k-- > 0;)
            PW_PASS(move(dev, there[k]->data, here[k]->data, pw_bytes(*here[k])));
    }
    for (size_t i = 0; i < to->n_saved; i++)
        PW_PASS(move(dev, to->saved[i].value.data, from->saved[i].value.data, pw_bytes(from->saved[i].value)));
    return 0;
}

static int copy_modules(struct pw_adapter *out, const struct pw_adapter *a)
{
    out->modules = pw_arena_array(&out->arena, a->n, sizeof *out->modules);
    PW_CHECK(out->modules, PW_E_NOMEM, "no memory for the adapter's modules");
    out->n = a->n;
    for (size_t i = 0; i < a->n; i++) {
        out->modules[i] = a->modules[i];
        out->modules[i].name = pw_arena_strndup(&out->arena, a->modules[i].name, strlen(a->modules[i].name));
        PW_CHECK(out->modules[i].name, PW_E_NOMEM, "no memory for the adapter's modules");
    }
    if (a->config.targets && !(out->config.targets = pw_arena_strndup(&out->arena, a->config.targets, strlen(a->config.targets))))
        return pw_error(PW_E_NOMEM, "no memory for the adapter");
    if (a->config.modules_to_save && !(out->config.modules_to_save = pw_arena_strndup(&out->arena, a->config.modules_to_save, strlen(a->config.modules_to_save))))
        return pw_error(PW_E_NOMEM, "no memory for the adapter");
    out->saved = pw_arena_array(&out->arena, a->n_saved + 1, sizeof *out->saved);
    PW_CHECK(out->saved, PW_E_NOMEM, "no memory for the adapter's modules");
    for (; out->n_saved < a->n_saved; out->n_saved++) {
        struct pw_adapter_saved *s = &out->saved[out->n_saved];
        *s = a->saved[out->n_saved];
        s->name = pw_arena_strndup(&out->arena, s->name, strlen(s->name));
        PW_CHECK(s->name, PW_E_NOMEM, "no memory for the adapter's modules");
    }
    void *memory = pw_arena_alloc(&out->arena, pw_adapter_bytes(a));
    PW_CHECK(memory, PW_E_NOMEM, "no memory for the adapter's tensors");
    return pw_adapter_place(out, memory, pw_adapter_bytes(a));
}

int pw_adapter_get(struct pw_adapter *out, const struct pw_adapter *a, struct pw_dev *dev)
{
    *out = (struct pw_adapter){.config = a->config, .paired = a->paired};
    pw_arena_init(&out->arena);
    int rc = copy_modules(out, a);
    if (rc == 0)
        rc = copy_tensors(out, a, dev, pw_dev_get);
    if (rc < 0)
        pw_adapter_free(out);
    return rc;
}

int pw_adapter_put(struct pw_adapter *a, struct pw_dev *dev)
{
    if (dev->host)
        return 0;
    struct pw_adapter there = *a;
    int rc = 0;
    there.modules = NULL;
    there.saved = NULL;
    PW_PASS(pw_pool_open(&there.device, dev, pw_adapter_bytes(a), "adapter"));
    there.modules = pw_arena_array(&a->arena, a->n, sizeof *there.modules);
    PW_CHECK_OUT(there.modules, PW_E_NOMEM, "no memory for the adapter's modules");
    memcpy(there.modules, a->modules, a->n * sizeof *there.modules);
    there.saved = pw_arena_array(&a->arena, a->n_saved + 1, sizeof *there.saved);
    PW_CHECK_OUT(there.saved, PW_E_NOMEM, "no memory for the adapter's modules");
    for (size_t i = 0; i < a->n_saved; i++)
        there.saved[i] = a->saved[i];
    PW_PASS_OUT(pw_adapter_place(&there, pw_pool_take(&there.device, pw_adapter_bytes(a)), pw_adapter_bytes(a)));
    PW_PASS_OUT(copy_tensors(&there, a, dev, pw_dev_put));
    for (size_t i = 0; i < a->n; i++)
        a->modules[i] = there.modules[i];
    for (size_t i = 0; i < a->n_saved; i++)
        a->saved[i] = there.saved[i];
    pw_pool_close(&a->device);
    a->device = there.device;
    return 0;
out:
    pw_pool_close(&there.device);
    return rc;
}

const struct pw_adapter_saved *pw_adapter_find_saved(const struct pw_adapter *a, const char *module)
{
    for (size_t i = 0; i < a->n_saved; i++)
        if (strcmp(a->saved[i].name, module) == 0)
            return &a->saved[i];
    return NULL;
}

const struct pw_adapter_module *pw_adapter_find(const struct pw_adapter *a, const char *module)
{
    for (size_t i = 0; i < a->n; i++)
        if (strcmp(a->modules[i].name, module) == 0)
            return &a->modules[i];
    return NULL;
}

void pw_adapter_free(struct pw_adapter *a)
{
    if (!a)
        return;
    pw_pool_close(&a->device);
    pw_arena_free(&a->arena);
    *a = (struct pw_adapter){0};
}

/* ---- the base ---- */

static void form_of(const struct pw_checkpoint *c, const char *quantise, bool double_quant, char out[24])
{
    struct pw_stored t;
    const char *kind = "dense";
    bool nested = double_quant;
    if (quantise && quantise[0] && strcmp(quantise, "f32") != 0 && strcmp(quantise, "f16") != 0 && strcmp(quantise, "bf16") != 0)
        kind = quantise;
    else {
        nested = false;
        for (size_t i = 0; pw_checkpoint_at(c, i, &t); i++) {
            size_t n = strlen(t.name);
            if (strstr(t.name, ".quant_state.bitsandbytes__"))
                kind = t.name + n - 3;
            else if (n > 4 && strcmp(t.name + n - 4, ".SCB") == 0)
                kind = "int8";
            nested |= n > 14 && strcmp(t.name + n - 14, ".nested_absmax") == 0;
        }
    }
    bool four_bit = strcmp(kind, "nf4") == 0 || strcmp(kind, "fp4") == 0;
    snprintf(out, 24, "%.12s%s", kind, nested && four_bit ? " double" : "");
}

int pw_adapter_record_base(struct pw_adapter_config *config, struct pw_checkpoint *c, const char *quantise, bool double_quant)
{
    PW_TRY(pw_checkpoint_identity(c, config->base_hash), "recording the base of the adapter");
    snprintf(config->base_name, sizeof config->base_name, "%s", pw_checkpoint_path(c));
    form_of(c, quantise, double_quant, config->base_type);
    return 0;
}

int pw_adapter_check_base(const struct pw_adapter *a, struct pw_checkpoint *c, const char *quantise, bool double_quant, bool force,
                          struct pw_progress *progress)
{
    const struct pw_adapter_config *k = &a->config;
    char identity[65], stored[65], form[24];
    if (!k->base_hash[0])
        return 0;
    PW_TRY(pw_checkpoint_identity(c, identity), "checking the base of the adapter");
    bool same = strcmp(identity, k->base_hash) == 0;
    if (!same) {   /* recorded by a program that knew only what is stored */
        PW_TRY(pw_checkpoint_hash(c, stored), "checking the base of the adapter");
        same = strcmp(stored, k->base_hash) == 0;
    }
    if (!same && !force) {
        int rc = pw_error(PW_E_FAIL, "the adapter is for another base: it was made on %s (%.16s), this is %s (%.16s)",
                          k->base_name[0] ? k->base_name : "a model", k->base_hash, pw_checkpoint_path(c), identity);
        pw_error_hint("give the model it was made on, or --force to use it anyway");
        return rc;
    }
    if (!same)
        pw_progress_say(progress, "the adapter was made on another base (%.16s, this is %.16s); used all the same because of --force", k->base_hash, identity);
    form_of(c, quantise, double_quant, form);
    if (same && k->base_type[0] && strcmp(form, k->base_type) != 0)
        pw_progress_say(progress, "the adapter was made on this base as %s; here it is %s, results will differ a little", k->base_type, form);
    return 0;
}
