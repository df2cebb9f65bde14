/* Pairs to an adapter (see the header). */
#include "lora/pairs.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

/* Where a module stands: layer, then the order of the linears, expert by expert; what is none of them comes last. */
enum { OF_EXPERTS = PW_EXPERT_PARTS * 10000, STRIDE = PW_LIN_COUNT + OF_EXPERTS + 1 };   /* names of experts have 4 digits at most */
static int64_t place(const char *name)
{
    int layer = 0, used = 0, expert, l = 0;
    enum pw_expert_part part;
    size_t length;
    if (sscanf(name, "model.layers.%9d.%n", &layer, &used) != 1 || used == 0)
        return INT64_MAX;
    while (l < PW_LIN_COUNT && strcmp(name + used, pw_linear_suffix((enum pw_linear)l)) != 0)
        l++;
    if (l == PW_LIN_COUNT)
        l += pw_expert_of(name + used, &expert, &part, &length) && !name[used + (int)length] ? PW_EXPERT_PARTS * expert + (int)part : OF_EXPERTS;
    return (int64_t)layer * STRIDE + l;
}

static int by_place(const void *x, const void *y)
{
    const struct pw_pair *p = x, *q = y;
    const int64_t a = place(p->name), b = place(q->name);
    return a != b ? (a < b ? -1 : 1) : strcmp(p->name, q->name);
}

static int check(const struct pw_pair *p, const struct pw_adapter *all, const char *path)
{
    const struct pw_adapter_module *m = pw_adapter_find(all, p->name);
    PW_CHECK(m, PW_E_FORMAT, "%s: %s: the model has no such linear layer; is the adapter for another base?", path, p->name);
    PW_CHECK(p->n_in == m->n_in && p->n_out == m->n_out, PW_E_FORMAT,
             "%s: %s: shape does not fit the model, the adapter is for another base (expected (%" PRId64 ", %" PRId64 "), got (%" PRId64 ", %" PRId64 "))", path, p->name, m->n_out,
             m->n_in, p->n_out, p->n_in);
    return 0;
}

static int check_all(const struct pw_pair *pairs, size_t n, const struct pw_model_config *model, const char *path)
{
    const struct pw_adapter_config any = {.kind = "lora", .r = 1, .alpha = 1, .targets = "all-linear"};
    struct pw_adapter all = {0};
    PW_TRY(pw_adapter_plan(&all, &any, model), "%s: fitting the adapter to the model", path);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = check(&pairs[i], &all, path);
    pw_adapter_free(&all);
    return rc;
}

/* The modules by their last parts when each is there in every layer that is there at all, and of every expert, else by their full names. */
static int make_targets(struct pw_adapter *a)
{
    enum { KINDS = PW_LIN_COUNT + PW_EXPERT_PARTS };
    size_t layers = 0, experts = 0, count[KINDS] = {0};
    const char *last[KINDS] = {NULL};
    struct pw_buf words = {0};
    for (size_t i = 0; i < a->n; i++) {
        const int64_t at = place(a->modules[i].name), l = at % STRIDE;
        if (at == INT64_MAX || l == STRIDE - 1) {
            layers = 0;
            break;
        }
        layers += i == 0 || at / STRIDE != place(a->modules[i - 1].name) / STRIDE;
        const bool expert = l >= PW_LIN_COUNT;
        const size_t e = expert ? (size_t)(l - PW_LIN_COUNT) / PW_EXPERT_PARTS + 1 : 0;
        const int64_t kind = expert ? PW_LIN_COUNT + (l - PW_LIN_COUNT) % PW_EXPERT_PARTS : l;
        experts = e > experts ? e : experts;
        count[kind]++;
        last[kind] = strrchr(a->modules[i].name, '.') + 1;
    }
    bool even = layers > 0 && place(a->modules[a->n - 1].name) / STRIDE == (int64_t)layers - 1;   /* layers 0.. without a gap */
    for (int l = 0; l < KINDS; l++)
        even = even && (count[l] == 0 || count[l] == layers * (l < PW_LIN_COUNT ? 1 : experts));
    for (int l = 0; even && l < KINDS; l++)
        if (count[l])
            pw_buf_printf(&words, "%s%s", words.len ? "," : "", last[l]);
    for (size_t i = 0; !even && i < a->n; i++)
        pw_buf_printf(&words, "%s%s", words.len ? "," : "", a->modules[i].name);
    a->config.targets = pw_buf_status(&words) == 0 ? pw_arena_strndup(&a->arena, words.data, words.len) : NULL;
    pw_buf_free(&words);
    PW_CHECK(a->config.targets, PW_E_NOMEM, "no memory for the adapter");
    return 0;
}

static int add(struct pw_adapter *a, const struct pw_pair *p, const struct pw_model_config *model, bool interleaved, const char *path,
               int (*fill)(const struct pw_pair *p, float *to_a, float *to_b, const char *path))
{
    struct pw_adapter_module *m = &a->modules[a->n];
    PW_CHECK(p->r >= 1 && p->r <= 65536, PW_E_FORMAT, "%s: %s: rank is out of range (expected 1 to 65536, got %" PRId64 ")", path, p->name, p->r);
    PW_CHECK(isfinite(p->scale) && p->scale != 0, PW_E_FORMAT, "%s: %s: its scale must be a number other than 0 (got %g)", path, p->name, p->scale);
    *m = (struct pw_adapter_module){.name = p->name, .n_in = p->n_in, .n_out = p->n_out, .lora = {.r = (int)p->r, .scale = p->scale}};
    m->lora.a = pw_tensor2(pw_arena_alloc(&a->arena, (size_t)(p->r * p->n_in) * sizeof(float)), PW_F32, p->r, p->n_in);
    m->lora.b = pw_tensor2(pw_arena_alloc(&a->arena, (size_t)(p->r * p->n_out) * sizeof(float)), PW_F32, p->n_out, p->r);
    PW_CHECK(m->lora.a.data && m->lora.b.data, PW_E_NOMEM, "%s: no memory for %s", path, p->name);
    const bool moves = model && model->rope_interleaved != interleaved;
    float *stored = moves ? pw_alloc(pw_bytes(m->lora.b)) : m->lora.b.data;
    PW_CHECK(stored, PW_E_NOMEM, "%s: no memory for %s", path, p->name);
    int rc = fill(p, m->lora.a.data, stored, path);
    for (int64_t i = 0; rc == 0 && i < p->r * (p->n_in + p->n_out); i++) {
        const float x = i < p->r * p->n_in ? ((float *)m->lora.a.data)[i] : stored[i - p->r * p->n_in];
        if (!isfinite(x))
            rc = pw_error(PW_E_NUMERIC, "%s: %s: element %" PRId64 " is not a number", path, p->name, i);
    }
    if (moves) {
        const struct pw_adapter order = {.paired = model->head_dim};
        if (rc == 0)
            pw_adapter_reorder(&order, m, model->rope_interleaved, m->lora.b.data, stored);
        pw_free(stored);
    }
    a->n += rc == 0;
    return rc;
}

int pw_pairs_build(struct pw_adapter *a, struct pw_pair *pairs, size_t n, const struct pw_model_config *model, bool interleaved, const char *path,
                   int (*fill)(const struct pw_pair *p, float *to_a, float *to_b, const char *path))
{
    PW_CHECK(n > 0, PW_E_FORMAT, "%s: there is no adapter in it", path);
    qsort(pairs, n, sizeof *pairs, by_place);
    if (model)
        PW_PASS(check_all(pairs, n, model, path));
    if (model && model->rope_interleaved)
        a->paired = model->head_dim;
    a->config.of_text = model && model->whole[0];
    a->modules = pw_arena_array(&a->arena, n, sizeof *a->modules);
    PW_CHECK(a->modules, PW_E_NOMEM, "%s: no memory", path);
    for (size_t i = 0; i < n; i++)
        PW_PASS(add(a, &pairs[i], model, interleaved, path, fill));
    snprintf(a->config.kind, sizeof a->config.kind, "lora");
    a->config.r = a->modules[0].lora.r;
    a->config.alpha = a->modules[0].lora.scale * a->modules[0].lora.r;
    return make_targets(a);
}
