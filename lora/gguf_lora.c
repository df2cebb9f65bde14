/* GGUF adapters, read and written (see the header). */
#include "lora/gguf_lora.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/gguf_model.h"
#include "lora/pairs.h"

static const char tail_a[] = ".lora_a", tail_b[] = ".lora_b", weight[] = ".weight";

/* In names as they are in GGUF files: where all experts of a layer hang, and their linears. */
static const char joined[] = ".mlp.experts.";
static const char *const joined_parts[PW_EXPERT_PARTS] = {"gate_proj", "up_proj", "down_proj"};
enum { EXPERTS_MAX = 1024 };

/* ---- reading ---- */

/* "blk.3.attn_q.weight.lora_a" -> "model.layers.3.self_attn.q_proj", half 0 or 1 */
static int module_name(struct pw_adapter *a, const char *arch, const char *tensor, const char *path, int *half, const char **out)
{
    const size_t n = strlen(tensor), t = strlen(tail_a);
    char name[160], hf[160];
    *half = n > t && strcmp(tensor + n - t, tail_a) == 0 ? 0 : n > t && strcmp(tensor + n - t, tail_b) == 0 ? 1 : -1;
    PW_CHECK(*half >= 0, PW_E_FORMAT, "%s: unknown tensor %s (expected NAME%s or %s)", path, tensor, tail_a, tail_b);
    snprintf(name, sizeof name, "%.*s", (int)(n - t < sizeof name ? n - t : sizeof name - 1), tensor);
    const bool known = n - t < sizeof name && pw_gguf_name_to_hf(arch, name, hf);
    const size_t h = known ? strlen(hf) : 0, w = strlen(weight);
    PW_CHECK(known && h > w && strcmp(hf + h - w, weight) == 0 && strncmp(hf, "model.layers.", 13) == 0, PW_E_UNSUPPORTED,
             "%s: %s: not a linear layer of a block: adapters of anything else are not supported", path, tensor);
    *out = pw_arena_strndup(&a->arena, hf, h - w);
    PW_CHECK(*out, PW_E_NOMEM, "%s: no memory", path);
    return 0;
}

struct half { const char *name; int half; const struct pw_gguf_tensor *t; };

/* What follows ".mlp.experts." in the name of a module of all experts; NULL: another module. */
static const char *of_all_experts(const char *name)
{
    const char *at = strstr(name, joined);
    return at ? at + strlen(joined) : NULL;
}

static int by_module(const void *x, const void *y)
{
    const struct half *p = x, *q = y;
    const int c = strcmp(p->name, q->name);
    return c ? c : p->half - q->half;
}

/* A pair for each expert out of those of all. */
static int split(struct pw_adapter *a, const struct pw_pair *all, const struct pw_model_config *model, const char *path, struct pw_pair *pairs, size_t *n)
{
    const struct pw_gguf_tensor *A = all->a, *B = all->b;
    const char *rest = of_all_experts(all->name);
    char suffix[PW_EXPERT_NAME];
    int layer, part = 0;
    PW_CHECK(sscanf(all->name, "model.layers.%9d.", &layer) == 1, PW_E_FORMAT, "%s: %s: no layer", path, A->name);
    while (part < PW_EXPERT_PARTS && strcmp(rest, joined_parts[part]) != 0)
        part++;
    PW_CHECK(part < PW_EXPERT_PARTS && A->shape[0] == B->shape[0], PW_E_FORMAT, "%s: %s: A and B are of different numbers of experts (got %" PRId64 " and %" PRId64 ")", path, A->name,
             A->shape[0], B->shape[0]);
    PW_CHECK(!model || A->shape[0] == model->experts, PW_E_FORMAT, "%s: %s: the adapter is for another base (expected %d experts, got %" PRId64 ")", path, A->name, model->experts,
             A->shape[0]);
    for (int e = 0; e < (int)A->shape[0]; e++) {
        struct pw_pair *p = &pairs[(*n)++];
        *p = *all;
        p->slice = e;
        if (model)
            pw_expert_suffix(model, e, (enum pw_expert_part)part, suffix);
        else
            snprintf(suffix, sizeof suffix, "mlp.experts.%d.%s", e, joined_parts[part]);
        p->name = pw_arena_printf(&a->arena, "model.layers.%d.%s", layer, suffix);
        PW_CHECK(p->name, PW_E_NOMEM, "%s: no memory", path);
    }
    return 0;
}

static int collect(struct pw_adapter *a, const char *arch, const struct pw_gguf *g, double alpha, const struct pw_model_config *model, struct pw_pair **out, size_t *n)
{
    struct half *list = pw_arena_array(&a->arena, g->n_tensors + 1, sizeof *list);
    size_t room = 0;
    PW_CHECK(list, PW_E_NOMEM, "%s: no memory for %zu tensors", g->path, g->n_tensors);
    for (size_t i = 0; i < g->n_tensors; i++) {
        list[i].t = &g->tensors[i];
        PW_PASS(module_name(a, arch, g->tensors[i].name, g->path, &list[i].half, &list[i].name));
        const int ndim = of_all_experts(list[i].name) ? 3 : 2;
        PW_CHECK(list[i].t->ndim == ndim, PW_E_FORMAT, "%s: %s: expected %s dimensions, got %d", g->path, list[i].t->name, ndim == 3 ? "three" : "two", list[i].t->ndim);
        PW_CHECK(ndim == 2 || (list[i].t->shape[0] >= 1 && list[i].t->shape[0] <= EXPERTS_MAX), PW_E_FORMAT, "%s: %s: expected 1 to %d experts, got %" PRId64, g->path,
                 list[i].t->name, EXPERTS_MAX, list[i].t->shape[0]);
        room += ndim == 3 && list[i].half == 0 ? (size_t)list[i].t->shape[0] : 1;
    }
    struct pw_pair *pairs = pw_arena_array(&a->arena, room + 1, sizeof *pairs);
    PW_CHECK(pairs, PW_E_NOMEM, "%s: no memory for %zu pairs", g->path, room);
    qsort(list, g->n_tensors, sizeof *list, by_module);
    *n = 0;
    for (size_t i = 0; i < g->n_tensors; i += 2) {
        const bool whole = i + 1 < g->n_tensors && list[i].half == 0 && list[i + 1].half == 1 && strcmp(list[i].name, list[i + 1].name) == 0;
        PW_CHECK(whole, PW_E_FORMAT, "%s: %s: the other half of the pair is missing", g->path, list[i].t->name);
        const struct pw_gguf_tensor *A = list[i].t, *B = list[i + 1].t;
        const int64_t *at = A->shape + A->ndim - 2, *bt = B->shape + B->ndim - 2;
        PW_CHECK(at[0] == bt[1] && at[0] >= 1, PW_E_FORMAT, "%s: %s: ranks of A and B differ (got %" PRId64 " and %" PRId64 ")", g->path, A->name, at[0], bt[1]);
        const struct pw_pair one = {.name = list[i].name, .r = at[0], .n_in = at[1], .n_out = bt[0], .scale = alpha != 0 ? alpha / (double)at[0] : 1, .a = A, .b = B};
        if (of_all_experts(one.name))
            PW_PASS(split(a, &one, model, g->path, pairs, n));
        else
            pairs[(*n)++] = one;
    }
    *out = pairs;
    return 0;
}

/* Matrix `slice` of a tensor. Rows are whole blocks. */
static int widen(const struct pw_gguf_tensor *t, int64_t slice, float *out, const char *path)
{
    const struct pw_block_type *b = pw_block_type_ggml(t->ggml);
    const int64_t n = t->shape[t->ndim - 2] * t->shape[t->ndim - 1], from = slice * n;
    uint16_t u;
    if (b) {
        for (int64_t i = from; i < from + n; i += PW_BLOCK_GROUP)
            b->decode(t->data + pw_block_bytes(b, i / b->elements * b->elements), (int)(i % b->elements / PW_BLOCK_GROUP), out + i - from);
        return 0;
    }
    PW_CHECK(t->ggml == PW_GGML_F32 || t->ggml == PW_GGML_F16 || t->ggml == PW_GGML_BF16, PW_E_UNSUPPORTED, "%s: %s: type %s is not supported", path, t->name, t->stored);
    if (t->ggml == PW_GGML_F32)
        memcpy(out, t->data + 4 * from, (size_t)n * sizeof *out);
    else
        for (int64_t i = 0; i < n; i++) {
            memcpy(&u, t->data + 2 * (from + i), 2);
            out[i] = t->ggml == PW_GGML_F16 ? pw_f16_to_f32(u) : pw_bf16_to_f32(u);
        }
    return 0;
}

static int fill(const struct pw_pair *p, float *a, float *b, const char *path)
{
    PW_PASS(widen(p->a, p->slice, a, path));
    return widen(p->b, p->slice, b, path);
}

static int load(struct pw_adapter *a, struct pw_gguf *g, const char *path, const struct pw_model_config *model)
{
    const char *type = "", *arch = NULL, *base = "", *kind = "", *own = NULL;
    struct pw_pair *pairs = NULL;
    double alpha = 0;
    bool permutes = false;
    size_t n = 0;
    PW_PASS(pw_gguf_open(g, path));
    PW_PASS(pw_gguf_get_str(g, "general.type", false, &type));
    PW_CHECK(strcmp(type, "adapter") == 0, PW_E_FORMAT, "%s: general.type: not an adapter (expected adapter, got \"%.40s\")", path, type);
    PW_PASS(pw_gguf_get_str(g, "adapter.type", true, &kind));
    PW_CHECK(strcmp(kind, "lora") == 0, PW_E_UNSUPPORTED, "%s: adapter.type is not supported (expected lora, got \"%.40s\")", path, kind);
    PW_CHECK(!pw_gguf_find(g, "adapter.alora.invocation_tokens"), PW_E_UNSUPPORTED, "%s: adapter.alora.invocation_tokens: adapters that begin at a token are not supported", path);
    PW_PASS(pw_gguf_get_str(g, "general.architecture", true, &arch));
    PW_PASS(pw_gguf_get_f64(g, "adapter.lora.alpha", true, &alpha));
    PW_CHECK(isfinite(alpha), PW_E_FORMAT, "%s: adapter.lora.alpha is not a number", path);
    if (model) {
        PW_TRY(pw_gguf_arch(model, &own, &permutes), "%s: fitting the adapter to the model", path);
        PW_CHECK(strcmp(own, arch) == 0, PW_E_FORMAT, "%s: general.architecture: the adapter is for another base (expected %s, got %.40s)", path, own, arch);
    }
    PW_PASS(collect(a, arch, g, alpha, model, &pairs, &n));
    PW_PASS(pw_pairs_build(a, pairs, n, model, permutes, path, fill));
    PW_PASS(pw_gguf_get_str(g, "pennyweight.base", false, &base));
    PW_CHECK(!base[0] || (strlen(base) == 64 && strspn(base, "0123456789abcdef") == 64), PW_E_FORMAT, "%s: pennyweight.base is no SHA-256", path);
    snprintf(a->config.base_hash, sizeof a->config.base_hash, "%s", base);
    base = "";
    PW_PASS(pw_gguf_get_str(g, "pennyweight.base_type", false, &base));
    snprintf(a->config.base_type, sizeof a->config.base_type, "%s", base);
    base = "";
    PW_PASS(pw_gguf_get_str(g, "general.base_model.0.name", false, &base));
    snprintf(a->config.base_name, sizeof a->config.base_name, "%s", base);
    return 0;
}

int pw_gguf_lora_load(struct pw_adapter *a, const char *path, const struct pw_model_config *model)
{
    struct pw_gguf g = {0};
    *a = (struct pw_adapter){0};
    pw_arena_init(&a->arena);
    const int rc = load(a, &g, path, model);
    pw_gguf_close(&g);
    if (rc < 0)
        pw_adapter_free(a);
    return rc;
}

/* ---- writing ---- */

/* The one alpha of the file: that of the first module; others are reached by multiplying B. */
static double file_alpha(const struct pw_adapter *a) { return (double)(float)(a->modules[0].lora.scale * a->modules[0].lora.r); }

struct writer {
    struct pw_gguf_out out;
    const struct pw_adapter *a;
    const struct pw_model_config *model;
    const char *arch;
    bool permutes;
    enum pw_dtype type;
};

/* Is the module a linear of an expert? Then of which, and what all of them are called together. */
static bool of_expert(const struct pw_adapter_module *m, int *layer, int *expert, enum pw_expert_part *part, char all[400])
{
    int used = 0;
    size_t length;
    if (sscanf(m->name, "model.layers.%9d.%n", layer, &used) != 1 || used == 0 || !pw_expert_of(m->name + used, expert, part, &length) || m->name[used + (int)length])
        return false;
    snprintf(all, 400, "model.layers.%d%s%s", *layer, joined, joined_parts[*part]);
    return true;
}

/* Module i is a tensor of its own (1), the first of those of all experts, or one of the others (0). The k-th of them: nth_module. */
static int modules_together(const struct writer *w, size_t i)
{
    char all[400];
    int layer, expert = 0;
    enum pw_expert_part part;
    return !of_expert(&w->a->modules[i], &layer, &expert, &part, all) ? 1 : expert == 0 ? w->model->experts : 0;
}

static int nth_module(const struct writer *w, size_t i, int k, const struct pw_adapter_module **out)
{
    const struct pw_adapter_module *m = &w->a->modules[i];
    char all[400], suffix[PW_EXPERT_NAME], name[400];
    int layer, expert;
    enum pw_expert_part part;
    *out = m;
    if (k == 0)
        return 0;
    of_expert(m, &layer, &expert, &part, all);
    pw_expert_suffix(w->model, k, part, suffix);
    snprintf(name, sizeof name, "model.layers.%d.%s", layer, suffix);
    *out = pw_adapter_find(w->a, name);
    PW_CHECK(*out && (*out)->lora.r == m->lora.r, PW_E_UNSUPPORTED, "%s: GGUF files hold the pairs of all experts of a layer in one tensor (expected a pair of rank %d, got %s)", name, m->lora.r,
             *out ? "another rank" : "none");
    return 0;
}

static int tensor_name(const struct writer *w, const struct pw_adapter_module *m, int half, char out[200])
{
    char hf[420], all[400], name[160];
    int layer, expert;
    enum pw_expert_part part;
    snprintf(hf, sizeof hf, "%s%s", of_expert(m, &layer, &expert, &part, all) ? all : m->name, weight);
    PW_CHECK(pw_gguf_name_from_hf(w->arch, hf, name), PW_E_UNSUPPORTED, "%s has no name in GGUF files", m->name);
    snprintf(out, 200, "%s%s", name, half ? tail_b : tail_a);
    return 0;
}

static int put_numbers(struct pw_gguf_out *w, const char *module, const float *x, int64_t n, enum pw_dtype type, void *half)
{
    for (int64_t i = 0; i < n; i++)
        PW_CHECK(isfinite(x[i]), PW_E_NUMERIC, "%s: element %" PRId64 " is not a number", module, i);
    if (type == PW_F32)
        return pw_gguf_bytes(w, x, (size_t)n * sizeof *x);
    uint16_t *out = half;
    for (int64_t i = 0; i < n; i++) {
        out[i] = pw_f32_to_f16(x[i]);
        PW_CHECK(isfinite(pw_f16_to_f32(out[i])), PW_E_NUMERIC, "%s: %g does not fit into f16: write f32", module, (double)x[i]);
    }
    return pw_gguf_bytes(w, out, (size_t)n * sizeof *out);
}

/* A, or B: in the order of the file's rows, and so that its one alpha gives the module's scale. */
static int put_half(struct writer *w, const struct pw_adapter_module *m, int half)
{
    const int64_t n = pw_count(half ? m->lora.b : m->lora.a);
    const double factor = m->lora.scale * m->lora.r / file_alpha(w->a);
    const struct pw_adapter order = {.paired = (w->a->paired > 0) != w->permutes ? w->model->head_dim : 0};
    float *x = pw_alloc((size_t)n * sizeof *x);
    void *narrow = pw_alloc((size_t)n * sizeof(uint16_t));
    int rc = 0;
    PW_CHECK_OUT(x && narrow, PW_E_NOMEM, "%s: no memory", m->name);
    if (!half)
        memcpy(x, m->lora.a.data, (size_t)n * sizeof *x);
    else
        pw_adapter_reorder(&order, m, w->permutes, x, m->lora.b.data);
    if (half && fabs(factor - 1) > 1e-7)       /* below: the rounding of alpha to f32 */
        for (int64_t i = 0; i < n; i++)
            x[i] = (float)(x[i] * factor);
    PW_PASS_OUT(put_numbers(&w->out, m->name, x, n, w->type, narrow));
out:
    pw_free(narrow);
    pw_free(x);
    return rc;
}

static int announce(struct writer *w)
{
    const struct pw_adapter *a = w->a;
    const struct pw_adapter_config *k = &a->config;
    struct pw_gguf_out *out = &w->out;
    const struct pw_adapter_module *m;
    enum pw_expert_part part;
    size_t covered = 0;
    char name[200], all[400];
    int layer, expert;
    pw_gguf_put_str(out, "general.architecture", w->arch, strlen(w->arch));
    pw_gguf_put_str(out, "general.type", "adapter", 7);
    pw_gguf_put_str(out, "adapter.type", "lora", 4);
    pw_gguf_put_f32(out, "adapter.lora.alpha", (float)file_alpha(a));
    pw_gguf_put_u32(out, "general.file_type", w->type == PW_F32 ? 0 : 1);
    if (k->base_name[0])
        pw_gguf_put_str(out, "general.base_model.0.name", k->base_name, strlen(k->base_name));
    if (k->base_hash[0])
        pw_gguf_put_str(out, "pennyweight.base", k->base_hash, strlen(k->base_hash));
    if (k->base_hash[0] && k->base_type[0])
        pw_gguf_put_str(out, "pennyweight.base_type", k->base_type, strlen(k->base_type));
    for (size_t i = 0; i < a->n; i++) {
        const int n = modules_together(w, i), ndim = of_expert(&a->modules[i], &layer, &expert, &part, all) ? 3 : 2;
        covered += (size_t)n;
        for (int e = 0; e < n; e++)
            PW_PASS(nth_module(w, i, e, &m));
        for (int half = 0; half < 2 && n > 0; half++) {
            const struct pw_tensor *t = half ? &a->modules[i].lora.b : &a->modules[i].lora.a;
            const int64_t shape[3] = {n, t->shape[0], t->shape[1]};
            PW_PASS(tensor_name(w, &a->modules[i], half, name));
            PW_PASS(pw_gguf_add_tensor(out, name, w->type == PW_F32 ? PW_GGML_F32 : PW_GGML_F16, ndim, shape + 3 - ndim));
        }
    }
    PW_CHECK(covered == a->n, PW_E_UNSUPPORTED, "GGUF files hold the pairs of all experts of a layer in one tensor, and this adapter has them for some alone");
    return 0;
}

static int put_modules(struct writer *w, size_t i)
{
    const struct pw_adapter_module *m;
    const int n = modules_together(w, i);
    for (int half = 0; half < 2; half++)
        for (int e = 0; e < n; e++) {
            PW_PASS(nth_module(w, i, e, &m));
            PW_PASS(put_half(w, m, half));
        }
    return 0;
}

int pw_gguf_lora_write(const struct pw_adapter *a, const char *path, const struct pw_model_config *model, enum pw_dtype type, bool force)
{
    struct writer w = {.a = a, .model = model, .type = type};
    int rc = 0;
    PW_CHECK(type == PW_F32 || type == PW_F16, PW_E_USAGE, "GGUF adapters are written as f32 or f16, got %s", pw_dtype_name(type));
    if (strcmp(a->config.kind, "lora") != 0) {
        rc = pw_error(PW_E_UNSUPPORTED, "GGUF files hold plain LoRA alone, and this is %s: its lengths of rows have no place there", a->config.kind);
        pw_error_hint("merge it into the base instead: pw lora merge MODEL --adapter DIR -o OUT");
        return rc;
    }
    if (a->n_saved > 0) {
        rc = pw_error(PW_E_UNSUPPORTED, "GGUF files of adapters hold low-rank pairs alone, and this one has %s trained whole", a->saved[0].name);
        pw_error_hint("merge it into the base instead: pw lora merge MODEL --adapter DIR -o OUT");
        return rc;
    }
    PW_CHECK(a->n > 0, PW_E_FAIL, "the adapter is empty");
    PW_PASS(pw_gguf_arch(model, &w.arch, &w.permutes));
    PW_CHECK(file_alpha(a) != 0 && isfinite(file_alpha(a)), PW_E_NUMERIC, "%s: the scale is %g", a->modules[0].name, a->modules[0].lora.scale);
    PW_PASS_OUT(pw_gguf_create(&w.out, path, force));
    PW_PASS_OUT(announce(&w));
    for (size_t i = 0; i < a->n; i++)
        PW_PASS_OUT(put_modules(&w, i));
    PW_PASS_OUT(pw_gguf_commit(&w.out));
out:
    pw_gguf_abort(&w.out);
    return rc < 0 ? pw_error_while(rc, "writing %s", path) : 0;
}
