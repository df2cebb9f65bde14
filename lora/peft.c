/* PEFT adapter folders, read strictly and written deterministically. Owns the keys of adapter_config.json, the tensor names and the
 * record of the base in the safetensors metadata. Refuses to know what the adapter is attached to. */
#include "lora/peft.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/limit.h"
#include "data/regex.h"
#include "data/safetensors.h"
#include "lora/peft_parts.h"

static const char prefix[] = PW_PEFT_PREFIX, tail_a[] = PW_PEFT_A, tail_b[] = ".lora_B.weight", tail_m[] = ".lora_magnitude_vector", tail_w[] = ".weight", tail_base[] = ".base_layer.bias", tail_bias[] = ".bias";

/* ---- reading: the config ---- */

/* Keys that are read below, and keys that say nothing about the arithmetic. Any other key must be null, false or empty. */
static const char *const read_keys[] = {"r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "peft_type", "bias", "init_lora_weights",
                                        "base_model_name_or_path", "rank_pattern", "alpha_pattern", "use_dora", "layers_to_transform", "layers_pattern", "exclude_modules", "modules_to_save", "target_parameters"};
static const char *const inert_keys[] = {"revision", "peft_version", "task_type", "inference_mode", "auto_mapping", "megatron_core", "qalora_group_size", "eva_config",
                                         "loftq_config"};

static bool listed(const char *key, const char *const *keys, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(keys[i], key) == 0)
            return true;
    return false;
}

bool pw_peft_empty(const struct pw_value *v)
{
    return v->kind == PW_NULL || (v->kind == PW_BOOL && !v->b) || ((v->kind == PW_LIST || v->kind == PW_MAP || v->kind == PW_STRING) && v->len == 0);
}

static int check_keys(const struct pw_value *json, const char *path)
{
    for (size_t i = 0; i < json->len; i++) {
        const struct pw_member *m = &json->members[i];
        if (listed(m->key, read_keys, sizeof read_keys / sizeof *read_keys) || listed(m->key, inert_keys, sizeof inert_keys / sizeof *inert_keys))
            continue;
        PW_CHECK(pw_peft_empty(&m->value), PW_E_UNSUPPORTED, "%s: %.60s is not supported (expected null, false or empty)", path, m->key);
    }
    const char *type = "";
    PW_PASS(pw_get_str(json, "peft_type", path, &type));
    PW_CHECK(strcmp(type, "LORA") == 0, PW_E_UNSUPPORTED, "%s: peft_type is not supported (expected LORA, got \"%.40s\")", path, type);
    /* These change the base when the adapter is made, so the adapter alone is not what was trained. */
    const struct pw_value *init = pw_get(json, "init_lora_weights");
    if (init && init->kind == PW_STRING)
        PW_CHECK(strcmp(init->s, "gaussian") == 0 || strcmp(init->s, "eva") == 0 || strcmp(init->s, "orthogonal") == 0, PW_E_UNSUPPORTED,
                 "%s: init_lora_weights \"%.40s\" is not supported", path, init->s);
    return 0;
}

/* target_modules as a list -> "q_proj,v_proj"; as a string it is a regular expression or all-linear: *exact = false. What an expression selects is what the
 * file has tensors of (narrowed). */
static int read_targets(struct pw_adapter *a, const struct pw_value *json, const char *path, bool *exact)
{
    const struct pw_value *v = pw_get(json, "target_modules");
    const struct pw_value *joined = pw_get(json, "target_parameters");
    PW_CHECK(!joined || pw_peft_empty(joined) || joined->kind == PW_LIST, PW_E_FORMAT, "%s: target_parameters: expected a list of names", path);
    if (joined && !pw_peft_empty(joined) && (!v || pw_peft_empty(v))) {     /* experts alone */
        *exact = false;
        a->config.targets = "";
        return 0;
    }
    PW_CHECK(v && (v->kind == PW_STRING || v->kind == PW_LIST) && v->len > 0, PW_E_FORMAT, "%s: target_modules: expected a list of names", path);
    struct pw_buf words = {0};
    *exact = v->kind == PW_LIST;
    if (!*exact)
        pw_buf_str(&words, v->s);
    for (size_t i = 0; *exact && i < v->len; i++) {
        if (v->items[i].kind != PW_STRING || v->items[i].len == 0 || v->items[i].len > 250 || strchr(v->items[i].s, ',')) {
            pw_buf_free(&words);
            return pw_error(PW_E_FORMAT, "%s: target_modules[%zu]: expected a name", path, i);
        }
        if (i)
            pw_buf_char(&words, ',');
        pw_buf_str(&words, v->items[i].s);
    }
    a->config.targets = words.failed ? NULL : pw_arena_strndup(&a->arena, words.data, words.len);
    pw_buf_free(&words);
    PW_CHECK(a->config.targets, PW_E_NOMEM, "%s: no memory", path);
    return 0;
}

/* An expression for target_modules, or keys that take modules away from it. Which are left is what the file has tensors of. */
static bool narrowed(const struct pw_value *json)
{
    const struct pw_value *layers = pw_get(json, "layers_to_transform"), *without = pw_get(json, "exclude_modules"), *joined = pw_get(json, "target_parameters");
    const struct pw_value *targets = pw_get(json, "target_modules");
    return (targets && targets->kind == PW_STRING && strcmp(targets->s, "all-linear") != 0) || (joined && !pw_peft_empty(joined)) || (layers && layers->kind != PW_NULL) || (without && !pw_peft_empty(without));
}

static int check_narrowing(const struct pw_value *json, const char *path)
{
    const struct pw_value *layers = pw_get(json, "layers_to_transform"), *without = pw_get(json, "exclude_modules");
    PW_CHECK(!layers || layers->kind == PW_NULL || layers->kind == PW_INT || layers->kind == PW_LIST, PW_E_FORMAT, "%s: layers_to_transform: expected a number or a list of numbers", path);
    for (size_t i = 0; layers && layers->kind == PW_LIST && i < layers->len; i++)
        PW_CHECK(layers->items[i].kind == PW_INT, PW_E_FORMAT, "%s: layers_to_transform[%zu]: expected a number", path, i);
    PW_CHECK(!without || without->kind == PW_NULL || without->kind == PW_STRING || without->kind == PW_LIST, PW_E_FORMAT, "%s: exclude_modules: expected a list of names", path);
    return 0;
}

/* modules_to_save as "norm,lm_head". */
static int read_saved(struct pw_adapter *a, const struct pw_value *json, const char *path)
{
    const struct pw_value *v = pw_get(json, "modules_to_save");
    if (!v || pw_peft_empty(v))
        return 0;
    PW_CHECK(v->kind == PW_LIST, PW_E_FORMAT, "%s: modules_to_save: expected a list of names", path);
    const char *words = "";
    for (size_t i = 0; i < v->len && words; i++) {
        PW_CHECK(v->items[i].kind == PW_STRING && v->items[i].len > 0 && v->items[i].len <= 250 && !strpbrk(v->items[i].s, ", "), PW_E_FORMAT, "%s: modules_to_save[%zu]: expected a name", path, i);
        words = pw_arena_printf(&a->arena, "%s%s%s", words, i ? "," : "", v->items[i].s);
    }
    PW_CHECK(words, PW_E_NOMEM, "%s: no memory", path);
    a->config.modules_to_save = words;
    return 0;
}

static int read_config(struct pw_adapter *a, const struct pw_value *json, const char *path, bool *exact)
{
    struct pw_adapter_config *c = &a->config;
    PW_CHECK(json->kind == PW_MAP, PW_E_FORMAT, "%s: expected a map", path);
    PW_PASS(check_keys(json, path));
    int64_t r = 0;
    const char *base = "", *bias = "none";
    PW_PASS(pw_get_str(json, "bias", path, &bias));
    PW_CHECK(strcmp(bias, "none") == 0 || strcmp(bias, "all") == 0 || strcmp(bias, "lora_only") == 0, PW_E_UNSUPPORTED,
             "%s: bias is not supported (expected none, all or lora_only, got %.40s)", path, bias);
    snprintf(c->bias, sizeof c->bias, "%s", bias);
    PW_CHECK(pw_get(json, "r") && pw_get(json, "lora_alpha"), PW_E_FORMAT, "%s: r or lora_alpha is missing", path);
    PW_PASS(pw_get_i64(json, "r", path, &r));
    PW_PASS(pw_get_f64(json, "lora_alpha", path, &c->alpha));
    PW_PASS(pw_get_f64(json, "lora_dropout", path, &c->dropout));
    PW_PASS(pw_get_bool(json, "use_rslora", path, &c->rslora));
    PW_PASS(pw_get_str(json, "base_model_name_or_path", path, &base));
    PW_CHECK(r >= 1 && r <= 65536, PW_E_FORMAT, "%s: r is out of range (expected 1 to 65536, got %" PRId64 ")", path, r);
    PW_CHECK(isfinite(c->alpha) && c->alpha != 0, PW_E_FORMAT, "%s: lora_alpha must be a number other than 0", path);
    PW_CHECK(c->dropout >= 0 && c->dropout < 1, PW_E_FORMAT, "%s: lora_dropout is out of range (got %g)", path, c->dropout);
    PW_PASS(check_narrowing(json, path));
    PW_PASS(read_saved(a, json, path));
    c->r = (int)r;
    bool dora = false;
    PW_PASS(pw_get_bool(json, "use_dora", path, &dora));
    snprintf(c->kind, sizeof c->kind, dora ? "dora" : "lora");
    snprintf(c->base_name, sizeof c->base_name, "%s", base);
    return read_targets(a, json, path, exact);
}

static const char name_letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.";

/* What Python's re and ours read alike: no backslashes but \\. and \\d, no groups with extensions, no {,n}. */
static bool plain_expression(const char *e)
{
    static const char signs[] = "*+?^$()[]|-{},:\\";
    for (const char *at = e; *at; at++) {
        if (!strchr(name_letters, *at) && !strchr(signs, *at))
            return false;
        if ((*at == '(' && at[1] == '?' && at[2] != ':') || (*at == '[' && at[1] == '[') || (*at == '{' && at[1] == ','))
            return false;
        if (*at == '\\') {
            if (at[1] != '.' && at[1] != 'd')
                return false;
            at++;
        }
    }
    return true;
}

/* PEFT's rule: the expression matches the whole name, or its end after a dot. */
static int expression_selects(const char *e, const char *module, const char *where, bool *selected)
{
    struct pw_regex *regex = NULL;
    struct pw_regex_room *room = NULL;
    struct pw_buf text = {0};
    size_t start, end;
    int rc = 0;
    PW_CHECK(plain_expression(e), PW_E_UNSUPPORTED, "%s: the expression %.60s is not supported (expected names and . * + ? ^ $ [ ] ( ) | \\. \\d)", where, e);
    pw_buf_printf(&text, "^(?:.*\\.)?(?:%s)$", e);
    PW_PASS_OUT(pw_buf_status(&text));
    PW_PASS_OUT(pw_regex_compile(&regex, text.data, text.len, where));
    PW_PASS_OUT(pw_regex_room_open(&room));
    rc = pw_regex_find(regex, room, module, strlen(module), 0, &start, &end);
    *selected = rc > 0;
    rc = rc < 0 ? rc : 0;
out:
    pw_regex_room_free(room);
    pw_regex_free(regex);
    pw_buf_free(&text);
    return rc;
}

/* rank_pattern and alpha_pattern: names, or regular expressions. */
int pw_peft_pattern(const struct pw_value *json, const char *key, const char *path, const char *module, double *value)
{
    const struct pw_value *map = pw_get(json, key);
    if (!map || map->kind == PW_NULL)
        return 0;
    PW_CHECK(map->kind == PW_MAP, PW_E_FORMAT, "%s: %s: expected a map", path, key);
    for (size_t i = 0; i < map->len; i++) {
        const char *name = map->members[i].key;
        char where[256];
        snprintf(where, sizeof where, "%.200s: %s", path, key);
        bool selected = false;
        if (strspn(name, name_letters) == strlen(name))
            selected = pw_adapter_selects(name, module);
        else
            PW_PASS(expression_selects(name, module, where, &selected));
        if (!selected)
            continue;
        PW_PASS(pw_get_f64(map, name, where, value));
        break;  /* the first that matches, as PEFT does */
    }
    return 0;
}

/* ---- reading: the tensors ---- */

int pw_peft_order(const void *x, const void *y)
{
    const struct pw_peft_found *p = x, *q = y;
    if (p->layer != q->layer)
        return p->layer < q->layer ? -1 : 1;
    if (p->linear != q->linear)
        return p->linear < q->linear ? -1 : 1;
    return strcmp(p->name, q->name);
}

/* Where the module stands in a model; what is no linear of a block comes last. */
void pw_peft_locate(struct pw_peft_found *f)
{
    int used = 0;
    f->layer = INT32_MAX;
    f->linear = INT32_MAX;
    if (sscanf(f->name, "model.layers.%9d.%n", &f->layer, &used) != 1 || used == 0) {
        f->layer = INT32_MAX;
        return;
    }
    for (int l = 0; l < PW_LIN_COUNT; l++)
        if (strcmp(f->name + used, pw_linear_suffix((enum pw_linear)l)) == 0)
            f->linear = l;
    int expert;
    enum pw_expert_part part;
    size_t length;
    if (pw_expert_of(f->name + used, &expert, &part, &length) && !f->name[used + (int)length])
        f->linear = PW_LIN_COUNT + PW_EXPERT_PARTS * expert + (int)part;
}

bool pw_peft_ends(const char *text, const char *tail)
{
    const size_t n = strlen(text), t = strlen(tail);
    return n >= t && strcmp(text + n - t, tail) == 0;
}

/* Is it the weight of a module that is trained whole? */
static bool is_saved(const struct pw_adapter *a, const char *tensor)
{
    char module[320];
    const size_t n = strlen(tensor), p = strlen(prefix), w = strlen(tail_w);
    if (n <= p + w || n - p - w >= sizeof module || strncmp(tensor, prefix, p) != 0 || !pw_peft_ends(tensor, tail_w) || pw_peft_ends(tensor, tail_a) || pw_peft_ends(tensor, tail_b))
        return false;
    snprintf(module, sizeof module, "%.*s", (int)(n - p - w), tensor + p);
    return pw_adapter_saves(a->config.modules_to_save, module);
}

/* Is it a bias of the base that was trained? Then the module that has it, without what PEFT puts around linears with a pair. */
static bool is_bias(const struct pw_adapter *a, const char *tensor, char module[320])
{
    const size_t n = strlen(tensor), p = strlen(prefix), t = strlen(pw_peft_ends(tensor, tail_base) ? tail_base : tail_bias);
    if (!a->config.bias[0] || strcmp(a->config.bias, "none") == 0 || n <= p + t || n - p - t >= 300 || strncmp(tensor, prefix, p) != 0 || !pw_peft_ends(tensor, tail_bias) || strstr(tensor, ".lora_"))
        return false;
    snprintf(module, 320, "%.*s", (int)(n - p - t), tensor + p);
    return true;
}

/* Groups the tensors of the file into modules, A and B, in forward order. */
static int collect(struct pw_adapter *a, const struct pw_safetensors *s, const char *path, struct pw_peft_found **out, size_t *n)
{
    struct pw_peft_found *list = pw_arena_array(&a->arena, s->n + 1, sizeof *list);
    PW_CHECK(list, PW_E_NOMEM, "%s: no memory", path);
    *n = 0;
    for (size_t i = 0; i < s->n; i++) {
        const struct pw_st_tensor *t = &s->tensors[i];
        const size_t len = strlen(t->name), p = strlen(prefix);
        if (is_saved(a, t->name)) {
            PW_CHECK(t->ndim >= 1 && t->ndim <= 2 && t->shape[0] > 0 && t->shape[t->ndim - 1] > 0, PW_E_FORMAT, "%s: %s: expected one or two dimensions, got %d", path, t->name, t->ndim);
            continue;
        }
        char of[320];
        if (is_bias(a, t->name, of)) {
            PW_CHECK(t->ndim == 1 && t->shape[0] > 0, PW_E_FORMAT, "%s: %s: expected one dimension, got %d", path, t->name, t->ndim);
            continue;
        }
        const bool dora = pw_adapter_is_dora(a), is_m = dora && pw_peft_ends(t->name, tail_m), is_a = pw_peft_ends(t->name, tail_a);
        const size_t q = strlen(is_m ? tail_m : tail_a);
        PW_CHECK(len > p + q && strncmp(t->name, prefix, p) == 0 && (is_m || is_a || pw_peft_ends(t->name, tail_b)), PW_E_FORMAT,
                 "%s: unknown tensor %s (expected %sMODULE%s or %s%s%s)", path, t->name, prefix, tail_a, tail_b, dora ? " or " : "", dora ? tail_m : "");
        PW_CHECK(is_m || (t->ndim == 2 && t->shape[0] > 0 && t->shape[1] > 0), PW_E_FORMAT, "%s: %s: expected two dimensions, got %d", path, t->name, t->ndim);
        PW_CHECK(!is_m || (t->ndim == 1 && t->shape[0] > 0), PW_E_FORMAT, "%s: %s: expected one dimension, got %d", path, t->name, t->ndim);
        char *name = pw_arena_strndup(&a->arena, t->name + p, len - p - q);
        PW_CHECK(name, PW_E_NOMEM, "%s: no memory", path);
        /* Tensors are sorted by name, so the A and the B of a module are neighbours. */
        if (*n == 0 || strcmp(list[*n - 1].name, name) != 0)
            list[(*n)++] = (struct pw_peft_found){.name = name};
        *(is_m ? &list[*n - 1].m : is_a ? &list[*n - 1].a : &list[*n - 1].b) = t;
        pw_peft_locate(&list[*n - 1]);
    }
    for (size_t i = 0; i < *n; i++)
        PW_CHECK(list[i].a && list[i].b, PW_E_FORMAT, "%s: tensor %s%s%s is missing", path, prefix, list[i].name, list[i].a ? tail_b : tail_a);
    for (size_t i = 0; pw_adapter_is_dora(a) && i < *n; i++) {
        PW_CHECK(list[i].m, PW_E_FORMAT, "%s: tensor %s%s%s is missing", path, prefix, list[i].name, tail_m);
        PW_CHECK(list[i].m->shape[0] == list[i].b->shape[0], PW_E_FORMAT, "%s: %s%s%s: expected as many elements as %s has rows (%" PRId64 "), got %" PRId64, path, prefix,
                 list[i].name, tail_m, tail_b, list[i].b->shape[0], list[i].m->shape[0]);
    }
    PW_CHECK(*n > 0, PW_E_FORMAT, "%s: there is no tensor in it", path);
    qsort(list, *n, sizeof *list, pw_peft_order);
    *out = list;
    return 0;
}

/* targets becomes the modules that are there, by their full names. */
static int list_targets(struct pw_adapter *a, const struct pw_peft_found *list, size_t n)
{
    struct pw_buf words = {0};
    for (size_t i = 0; i < n; i++)
        pw_buf_printf(&words, "%s%s", i ? "," : "", list[i].name);
    a->config.targets = pw_buf_status(&words) == 0 ? pw_arena_strndup(&a->arena, words.data, words.len) : NULL;
    pw_buf_free(&words);
    PW_CHECK(a->config.targets, PW_E_NOMEM, "no memory for the adapter");
    return 0;
}

/* The adapter holds exactly the modules of the model that its target_modules select. */
static int check_modules(const struct pw_adapter *a, const struct pw_peft_found *list, size_t n, const struct pw_model_config *model, bool exact,
                         const char *path)
{
    struct pw_adapter expected = {0};
    struct pw_adapter_config config = a->config;
    config.modules_to_save = NULL;
    config.bias[0] = 0;
    if (!exact)
        config.targets = "all-linear";
    PW_TRY(pw_adapter_plan(&expected, &config, model), "%s: fitting the adapter to the model", path);
    int rc = 0;
    for (size_t i = 0; i < n; i++) {
        const struct pw_adapter_module *m = pw_adapter_find(&expected, list[i].name);
        PW_CHECK_OUT(m, PW_E_FORMAT, "%s: unknown tensor %s%s%s: %s", path, prefix, list[i].name, tail_a,
                     list[i].linear < INT32_MAX && list[i].layer < model->layers ? "target_modules does not name it"
                                                                                    : "the model has no such linear layer; is the adapter for another base?");
        PW_CHECK_OUT(list[i].a->shape[1] == m->n_in, PW_E_FORMAT,
                     "%s: %s%s%s: shape does not fit the model, the adapter is for another base (expected (%" PRId64 ", %" PRId64 "), got (%" PRId64 ", %" PRId64 "))",
                     path, prefix, m->name, tail_a, list[i].a->shape[0], m->n_in, list[i].a->shape[0], list[i].a->shape[1]);
        PW_CHECK_OUT(list[i].b->shape[0] == m->n_out * (list[i].joined ? list[i].halves : 1), PW_E_FORMAT,
                     "%s: %s%s%s: shape does not fit the model, the adapter is for another base (expected (%" PRId64 ", %" PRId64 "), got (%" PRId64 ", %" PRId64 "))",
                     path, prefix, m->name, tail_b, m->n_out, list[i].b->shape[1], list[i].b->shape[0], list[i].b->shape[1]);
    }
    for (size_t i = 0; exact && i < expected.n; i++) {
        bool there = false;
        for (size_t k = 0; k < n && !there; k++)
            there = strcmp(list[k].name, expected.modules[i].name) == 0;
        PW_CHECK_OUT(there, PW_E_FORMAT, "%s: tensor %s%s%s is missing", path, prefix, expected.modules[i].name, tail_a);
    }
out:
    pw_adapter_free(&expected);
    return rc;
}

int pw_peft_widen(float *out, const struct pw_st_tensor *t, const char *path)
{
    const size_t n = t->bytes / pw_st_dtype_bytes(t->dtype);
    if (strcmp(t->dtype, "F32") == 0)
        memcpy(out, t->data, t->bytes);
    else {
        const bool f16 = strcmp(t->dtype, "F16") == 0;
        PW_CHECK(f16 || strcmp(t->dtype, "BF16") == 0, PW_E_UNSUPPORTED, "%s: %s: dtype is not supported (expected F32, F16 or BF16, got %s)", path,
                 t->name, t->dtype);
        for (size_t i = 0; i < n; i++) {
            uint16_t x;
            memcpy(&x, t->data + 2 * i, 2);
            out[i] = f16 ? pw_f16_to_f32(x) : pw_bf16_to_f32(x);
        }
    }
    for (size_t i = 0; i < n; i++)
        PW_CHECK(isfinite(out[i]), PW_E_NUMERIC, "%s: %s: element %zu is not a number", path, t->name, i);
    return 0;
}

/* to (n_out, width) in the order of the base's rows */
static int fill_rows(const struct pw_adapter *a, const struct pw_adapter_module *m, struct pw_tensor to, int64_t width, const struct pw_st_tensor *t, const char *path)
{
    if (!a->paired)
        return pw_peft_widen(to.data, t, path);
    float *stored = pw_alloc(pw_bytes(to));
    PW_CHECK(stored, PW_E_NOMEM, "%s: no memory for %s", path, t->name);
    const int rc = pw_peft_widen(stored, t, path);
    if (rc == 0)
        pw_adapter_reorder_rows(a, m, true, to.data, stored, width);
    pw_free(stored);
    return rc;
}

static int fill_module(struct pw_adapter *a, struct pw_adapter_module *m, const struct pw_peft_found *f, const struct pw_value *json, const char *config_path,
                       const char *path)
{
    double r = a->config.r;
    struct pw_adapter_config own = a->config;
    const char *named = f->joined ? f->joined : pw_peft_name(a, &a->arena, f->name);
    const int64_t experts = f->joined ? f->experts : 1, halves = f->joined ? f->halves : 1;
    PW_CHECK(named, PW_E_NOMEM, "%s: no memory", path);
    PW_PASS(pw_peft_pattern(json, "rank_pattern", config_path, named, &r));
    PW_PASS(pw_peft_pattern(json, "alpha_pattern", config_path, named, &own.alpha));
    PW_CHECK((double)f->a->shape[0] == r * (double)experts && (double)f->b->shape[1] == r * (double)experts, PW_E_FORMAT,
             "%s: %s%s: rank does not fit the config (expected %g, got %" PRId64 " and %" PRId64 ")", path, prefix, f->name, r, f->a->shape[0],
             f->b->shape[1]);
    own.r = (int)r;
    *m = (struct pw_adapter_module){.name = f->name, .n_in = f->a->shape[1], .n_out = f->b->shape[0] / halves};
    m->lora.r = own.r;
    m->lora.scale = pw_adapter_scale(&own);
    m->lora.a = pw_tensor2(pw_arena_alloc(&a->arena, sizeof(float) * (f->a->bytes / pw_st_dtype_bytes(f->a->dtype) / (size_t)experts)), PW_F32, own.r, m->n_in);
    m->lora.b = pw_tensor2(pw_arena_alloc(&a->arena, sizeof(float) * (f->b->bytes / pw_st_dtype_bytes(f->b->dtype) / (size_t)(experts * halves))), PW_F32, m->n_out, own.r);
    PW_CHECK(m->lora.a.data && m->lora.b.data, PW_E_NOMEM, "%s: no memory for %s", path, f->name);
    if (f->joined)
        return pw_peft_fill_joined(m, f, path);
    PW_PASS(pw_peft_widen(m->lora.a.data, f->a, path));
    PW_PASS(fill_rows(a, m, m->lora.b, own.r, f->b, path));
    if (!f->m)
        return 0;
    m->lora.magnitude = pw_tensor1(pw_arena_alloc(&a->arena, sizeof(float) * (size_t)m->n_out), PW_F32, m->n_out);
    m->lora.norm = pw_tensor1(pw_arena_alloc(&a->arena, sizeof(float) * (size_t)m->n_out), PW_F32, m->n_out);
    PW_CHECK(m->lora.magnitude.data && m->lora.norm.data, PW_E_NOMEM, "%s: no memory for %s", path, f->name);
    memset(m->lora.norm.data, 0, pw_bytes(m->lora.norm));
    return fill_rows(a, m, m->lora.magnitude, 1, f->m, path);
}

/* A bias in the order of the base's rows. */
static int fill_bias(const struct pw_adapter *a, struct pw_tensor to, const char *linear, const struct pw_st_tensor *t, const char *path)
{
    const struct pw_adapter_module of = {.name = linear, .n_out = t->shape[0]};
    PW_CHECK(!a->paired || of.n_out % a->paired == 0, PW_E_FORMAT, "%s: %s: expected rows of whole heads of %d, got %" PRId64, path, t->name, a->paired, of.n_out);
    return fill_rows(a, &of, to, 1, t, path);
}

/* What the model has no such tensor for, or no pair beside it where there should be one. */
static int check_saved_name(const struct pw_adapter *a, const struct pw_adapter_saved *to, const struct pw_adapter_saved *as, bool any, const char *linear, const char *tensor, const char *path)
{
    PW_CHECK(any || as, PW_E_FORMAT, "%s: unknown tensor %s: the model has no such %s; is the adapter for another base?", path, tensor, linear ? "bias" : "norm, embedding or head");
    PW_CHECK(!linear || strcmp(a->config.bias, "lora_only") != 0 || pw_adapter_find(a, linear), PW_E_FORMAT, "%s: unknown tensor %s: bias is lora_only, and its layer has no pair", path, tensor);
    PW_CHECK(!pw_adapter_find_saved(a, to->name), PW_E_FORMAT, "%s: %s: the bias of that layer is there twice", path, tensor);
    return 0;
}

/* The modules that are trained whole: exactly those that modules_to_save selects in the model, in its shapes; and the biases that bias selects. */
static int fill_saved(struct pw_adapter *a, const struct pw_safetensors *s, const struct pw_model_config *model, const char *path)
{
    struct pw_adapter expected = {0};
    struct pw_adapter_config config = a->config;
    int rc = 0;
    a->saved = pw_arena_array(&a->arena, s->n + 1, sizeof *a->saved);
    PW_CHECK(a->saved, PW_E_NOMEM, "%s: no memory", path);
    config.targets = "all-linear";
    config.layers = config.rank_pattern = config.alpha_pattern = NULL;
    if (model)
        PW_TRY(pw_adapter_plan(&expected, &config, model), "%s: fitting the adapter to the model", path);
    for (size_t i = 0; i < s->n; i++) {
        const struct pw_st_tensor *t = &s->tensors[i];
        char module[320];
        const bool bias = is_bias(a, t->name, module);
        if (!bias && !is_saved(a, t->name))
            continue;
        struct pw_adapter_saved *to = &a->saved[a->n_saved];
        to->name = bias ? pw_arena_printf(&a->arena, "%s%s", module, tail_bias) : pw_arena_strndup(&a->arena, t->name + strlen(prefix), strlen(t->name) - strlen(prefix) - strlen(tail_w));
        PW_CHECK_OUT(to->name, PW_E_NOMEM, "%s: no memory", path);
        const struct pw_adapter_saved *as = pw_adapter_find_saved(&expected, to->name);
        PW_PASS_OUT(check_saved_name(a, to, as, !model, bias ? module : NULL, t->name, path));
        PW_CHECK_OUT(!as || (as->value.ndim == t->ndim && as->value.shape[0] == t->shape[0] && (t->ndim == 1 || as->value.shape[1] == t->shape[1])), PW_E_FORMAT,
                     "%s: %s: shape does not fit the model, the adapter is for another base (expected (%" PRId64 ", %" PRId64 "), got (%" PRId64 ", %" PRId64 "))", path, t->name, as->value.shape[0],
                     as->value.ndim > 1 ? as->value.shape[1] : 1, t->shape[0], t->ndim > 1 ? t->shape[1] : 1);
        void *data = pw_arena_alloc(&a->arena, sizeof(float) * (t->bytes / pw_st_dtype_bytes(t->dtype)));
        PW_CHECK_OUT(data, PW_E_NOMEM, "%s: no memory for %s", path, t->name);
        to->value = t->ndim == 1 ? pw_tensor1(data, PW_F32, t->shape[0]) : pw_tensor2(data, PW_F32, t->shape[0], t->shape[1]);
        PW_PASS_OUT(bias ? fill_bias(a, to->value, module, t, path) : pw_peft_widen(data, t, path));
        a->n_saved++;
    }
    for (size_t i = 0; i < expected.n_saved; i++) {
        char module[320];
        const bool bias = pw_adapter_is_bias(expected.saved[i].name, module), paired = bias && pw_adapter_find(a, module);
        if (bias && !paired && strcmp(a->config.bias, "lora_only") == 0)
            continue;                    /* planned for all linears */
        PW_CHECK_OUT(pw_adapter_find_saved(a, expected.saved[i].name), PW_E_FORMAT, "%s: tensor %s%s%s is missing", path, prefix, bias ? module : expected.saved[i].name,
                     !bias ? tail_w : paired ? tail_base : tail_bias);
    }
out:
    if (model)
        pw_adapter_free(&expected);
    return rc;
}

static int read_base(struct pw_adapter_config *c, const struct pw_value *metadata, const char *path)
{
    const char *hash = "", *type = "";
    if (!metadata)
        return 0;
    PW_PASS(pw_get_str(metadata, "pennyweight.base", path, &hash));
    PW_PASS(pw_get_str(metadata, "pennyweight.base_type", path, &type));
    PW_CHECK(!hash[0] || (strlen(hash) == 64 && strspn(hash, "0123456789abcdef") == 64), PW_E_FORMAT,
             "%s: __metadata__: pennyweight.base is no SHA-256", path);
    snprintf(c->base_hash, sizeof c->base_hash, "%s", hash);
    snprintf(c->base_type, sizeof c->base_type, "%s", type);
    return 0;
}

/* counted: pages of the mapped file, which are all read, towards a limit that is kept. */
static int load(struct pw_adapter *a, struct pw_safetensors *s, size_t *counted, const char *dir, const struct pw_model_config *model)
{
    char *config_path = pw_path_join(&a->arena, dir, "adapter_config.json"), *path = pw_path_join(&a->arena, dir, "adapter_model.safetensors");
    struct pw_value *json;
    struct pw_peft_found *list = NULL;
    size_t n = 0;
    bool exact = false;
    PW_CHECK(config_path && path, PW_E_NOMEM, "%s: no memory", dir);
    PW_CHECK(pw_file_exists(config_path), PW_E_IO, "%s: no such file: not an adapter folder", config_path);
    PW_PASS(pw_json_load(&a->arena, config_path, &json));
    PW_PASS(read_config(a, json, config_path, &exact));
    PW_CHECK(pw_file_exists(path), PW_E_IO, "%s: no such file", path);
    PW_PASS(pw_safetensors_open(s, path));
    PW_CHECK(pw_limit_take(s->map.bytes), PW_E_NOMEM, "%s: no memory to read it", path);
    *counted = s->map.bytes;
    PW_PASS(read_base(&a->config, s->metadata, path));
    PW_PASS(pw_peft_take_text(a, s, path));
    PW_PASS(collect(a, s, path, &list, &n));
    PW_PASS(pw_peft_split_experts(a, json, model, config_path, path, &list, &n));
    if (narrowed(json) || a->config.of_text) {
        exact = false;
        PW_PASS(list_targets(a, list, n));
    }
    if (model)
        PW_PASS(check_modules(a, list, n, model, exact, path));
    if (model && model->rope_interleaved)
        a->paired = model->head_dim;
    a->modules = pw_arena_array(&a->arena, n, sizeof *a->modules);
    PW_CHECK(a->modules, PW_E_NOMEM, "%s: no memory", path);
    for (; a->n < n; a->n++)
        PW_PASS(fill_module(a, &a->modules[a->n], &list[a->n], json, config_path, path));
    if (a->config.modules_to_save || (a->config.bias[0] && strcmp(a->config.bias, "none") != 0))
        PW_PASS(fill_saved(a, s, model, path));
    a->config.of_text = model ? model->whole[0] != 0 : a->config.of_text;
    return 0;
}

int pw_peft_load(struct pw_adapter *a, const char *dir, const struct pw_model_config *model)
{
    struct pw_safetensors s = {0};
    *a = (struct pw_adapter){0};
    pw_arena_init(&a->arena);
    size_t counted = 0;
    int rc = load(a, &s, &counted, dir, model);
    pw_safetensors_close(&s);
    pw_limit_count(-(int64_t)counted);
    if (rc < 0)
        pw_adapter_free(a);
    return rc;
}

/* ---- writing ---- */

static void write_words(struct pw_json *w, const char *words)
{
    for (const char *at = words; *at;) {
        size_t blank = strspn(at, ", "), n = strcspn(at + blank, ", ");
        if (n)
            pw_json_strn(w, NULL, at + blank, n);
        at += blank + n;
    }
}

/* Last part of the module's name if `all-linear`, else the targets as they were given; each once, in the order of the modules. */
static void write_targets(const struct pw_adapter *a, struct pw_json *w)
{
    const char *seen[PW_LIN_COUNT + PW_EXPERT_PARTS];
    size_t n_seen = 0;
    if (a->config.of_text) {
        pw_peft_write_text_targets(a, w);
        return;
    }
    pw_json_open(w, "target_modules", '[');
    if (strcmp(a->config.targets, "all-linear") == 0)
        for (size_t i = 0; i < a->n; i++) {
            const char *last = strrchr(a->modules[i].name, '.') + 1;
            size_t k = 0;
            while (k < n_seen && strcmp(seen[k], last) != 0)
                k++;
            if (k < n_seen || n_seen == sizeof seen / sizeof *seen)
                continue;
            seen[n_seen++] = last;
            pw_json_str(w, NULL, last);
        }
    else
        write_words(w, a->config.targets);
    pw_json_close(w, ']');
}

static void write_number(struct pw_json *w, const char *key, double x)
{
    if (x == floor(x) && fabs(x) < 1e15)
        pw_json_i64(w, key, (int64_t)x);   /* readers exist that take integers alone */
    else
        pw_json_f64(w, key, x);
}

static double alpha_of(const struct pw_adapter *a, const struct pw_lora *l)
{
    return a->config.rslora ? l->scale * sqrt(l->r) : l->scale * l->r;
}

/* rank_pattern or alpha_pattern: the modules that differ from the config, by their full names. */
static void write_pattern(const struct pw_adapter *a, struct pw_json *w, struct pw_arena *arena, bool rank)
{
    pw_json_open(w, rank ? "rank_pattern" : "alpha_pattern", '{');
    for (size_t i = 0; i < a->n; i++) {
        const struct pw_adapter_module *m = &a->modules[i];
        const char *name = pw_peft_name(a, arena, m->name);
        double alpha = alpha_of(a, &m->lora);
        w->out.failed |= !name;
        if (name && rank && m->lora.r != a->config.r)
            pw_json_i64(w, name, m->lora.r);
        if (name && !rank && fabs(alpha - a->config.alpha) > 1e-9 * fabs(a->config.alpha))
            write_number(w, name, alpha);
    }
    pw_json_close(w, '}');
}

static int write_config(const struct pw_adapter *a, struct pw_arena *arena, const char *path)
{
    struct pw_json w = {.indent = true};
    const struct pw_adapter_config *c = &a->config;
    int rc = 0;
    pw_json_open(&w, NULL, '{');
    write_pattern(a, &w, arena, false);
    pw_json_null(&w, "auto_mapping");
    pw_json_str(&w, "base_model_name_or_path", c->base_name[0] ? c->base_name : NULL);
    pw_json_str(&w, "bias", c->bias[0] ? c->bias : "none");
    pw_json_bool(&w, "fan_in_fan_out", false);
    pw_json_bool(&w, "inference_mode", true);
    pw_json_bool(&w, "init_lora_weights", true);
    pw_json_null(&w, "layers_pattern");
    pw_json_null(&w, "layers_to_transform");
    pw_json_open(&w, "loftq_config", '{');
    pw_json_close(&w, '}');
    write_number(&w, "lora_alpha", c->alpha);
    pw_json_f64(&w, "lora_dropout", c->dropout);
    pw_json_null(&w, "megatron_config");
    pw_json_str(&w, "megatron_core", "megatron.core");
    if (a->n_saved > pw_adapter_biases(a)) {
        pw_json_open(&w, "modules_to_save", '[');
        if (c->of_text)
            PW_PASS_OUT(pw_peft_write_text_saved(a, arena, &w));
        else
            write_words(&w, c->modules_to_save);
        pw_json_close(&w, ']');
    } else
        pw_json_null(&w, "modules_to_save");
    pw_json_str(&w, "peft_type", "LORA");
    pw_json_i64(&w, "r", c->r);
    write_pattern(a, &w, arena, true);
    pw_json_null(&w, "revision");
    write_targets(a, &w);
    pw_json_str(&w, "task_type", "CAUSAL_LM");
    pw_json_bool(&w, "use_dora", pw_adapter_is_dora(a));
    pw_json_bool(&w, "use_rslora", c->rslora);
    pw_json_close(&w, '}');
    pw_buf_char(&w.out, '\n');
    PW_PASS_OUT(pw_json_status(&w));
    PW_PASS_OUT(pw_file_write(path, w.out.data, w.out.len, true));
out:
    pw_json_free(&w);
    return rc;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct pw_st_write *)a)->name, ((const struct pw_st_write *)b)->name);
}

static struct pw_st_write entry(const struct pw_adapter *a, struct pw_arena *arena, const char *module, const char *tail, struct pw_tensor t)
{
    const char *name = pw_peft_name(a, arena, module);
    return (struct pw_st_write){.name = name ? pw_arena_printf(arena, "%s%s%s", prefix, name, tail) : NULL, .dtype = "F32", .ndim = t.ndim,
                                .shape = {t.shape[0], t.ndim > 1 ? t.shape[1] : 0}, .data = t.data, .bytes = (size_t)pw_count(t) * sizeof(float)};
}

int pw_peft_write(const struct pw_adapter *a, const char *dir)
{
    struct pw_arena arena;
    int rc = 0;
    size_t n = 0;
    pw_arena_init(&arena);
    char *config_path = pw_path_join(&arena, dir, "adapter_config.json"), *path = pw_path_join(&arena, dir, "adapter_model.safetensors");
    struct pw_st_write *list = pw_arena_array(&arena, 3 * a->n + a->n_saved + 1, sizeof *list);
    PW_CHECK_OUT(config_path && path && list, PW_E_NOMEM, "no memory to write the adapter");
    for (size_t i = 0; i < a->n; i++) {
        const struct pw_adapter_module *m = &a->modules[i];
        PW_CHECK_OUT(m->lora.a.dtype == PW_F32 && m->lora.b.dtype == PW_F32 && m->lora.a.data && m->lora.b.data, PW_E_FAIL,
                     "writing the adapter: %s: expected f32 tensors in memory", m->name);
        const struct pw_tensor parts[3] = {m->lora.a, m->lora.b, m->lora.magnitude};
        const char *const tails[3] = {tail_a, tail_b, tail_m};
        for (int k = 0; k < (m->lora.magnitude.ndim > 0 ? 3 : 2); k++) {
            struct pw_tensor t = parts[k];
            if (a->paired && k > 0) {
                t.data = pw_arena_alloc(&arena, pw_bytes(t));
                PW_CHECK_OUT(t.data, PW_E_NOMEM, "no memory to write the adapter");
                pw_adapter_reorder_rows(a, m, false, t.data, parts[k].data, k == 1 ? m->lora.r : 1);
            }
            list[n] = entry(a, &arena, m->name, tails[k], t);
            PW_CHECK_OUT(list[n++].name, PW_E_NOMEM, "no memory to write the adapter");
        }
    }
    for (size_t i = 0; i < a->n_saved; i++) {
        char module[320];
        struct pw_tensor t = a->saved[i].value;
        if (pw_adapter_is_bias(a->saved[i].name, module)) {
            const struct pw_adapter_module of = {.name = module, .n_out = t.shape[0]};
            if (a->paired) {
                t.data = pw_arena_alloc(&arena, pw_bytes(t));
                PW_CHECK_OUT(t.data, PW_E_NOMEM, "no memory to write the adapter");
                pw_adapter_reorder_rows(a, &of, false, t.data, a->saved[i].value.data, 1);
            }
            list[n] = entry(a, &arena, module, pw_adapter_find(a, module) ? tail_base : tail_bias, t);
        } else
            list[n] = entry(a, &arena, a->saved[i].name, tail_w, t);
        PW_CHECK_OUT(list[n++].name, PW_E_NOMEM, "no memory to write the adapter");
    }
    qsort(list, n, sizeof *list, by_name);
    const char *metadata[7] = {"format", "pt"};
    if (a->config.base_hash[0]) {
        metadata[2] = "pennyweight.base";
        metadata[3] = a->config.base_hash;
        if (a->config.base_type[0]) {
            metadata[4] = "pennyweight.base_type";
            metadata[5] = a->config.base_type;
        }
    }
    PW_PASS_OUT(write_config(a, &arena, config_path));
    PW_PASS_OUT(pw_safetensors_write(path, list, n, metadata, true));
out:
    pw_arena_free(&arena);
    return rc < 0 ? pw_error_while(rc, "writing adapter %s", dir) : 0;
}
