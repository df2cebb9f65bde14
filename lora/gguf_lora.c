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

static int by_module(const void *x, const void *y)
{
    const struct half *p = x, *q = y;
    const int c = strcmp(p->name, q->name);
    return c ? c : p->half - q->half;
}

static int collect(struct pw_adapter *a, const char *arch, const struct pw_gguf *g, double alpha, struct pw_pair **out, size_t *n)
{
    struct half *list = pw_arena_array(&a->arena, g->n_tensors + 1, sizeof *list);
    struct pw_pair *pairs = pw_arena_array(&a->arena, g->n_tensors / 2 + 1, sizeof *pairs);
    PW_CHECK(list && pairs, PW_E_NOMEM, "%s: no memory for %zu tensors", g->path, g->n_tensors);
    for (size_t i = 0; i < g->n_tensors; i++) {
        list[i].t = &g->tensors[i];
        PW_PASS(module_name(a, arch, g->tensors[i].name, g->path, &list[i].half, &list[i].name));
        PW_CHECK(list[i].t->ndim == 2, PW_E_FORMAT, "%s: %s: expected two dimensions, got %d", g->path, list[i].t->name, list[i].t->ndim);
    }
    qsort(list, g->n_tensors, sizeof *list, by_module);
    *n = 0;
    for (size_t i = 0; i < g->n_tensors; i += 2) {
        const bool whole = i + 1 < g->n_tensors && list[i].half == 0 && list[i + 1].half == 1 && strcmp(list[i].name, list[i + 1].name) == 0;
        PW_CHECK(whole, PW_E_FORMAT, "%s: %s: the other half of the pair is missing", g->path, list[i].t->name);
        const struct pw_gguf_tensor *A = list[i].t, *B = list[i + 1].t;
        PW_CHECK(A->shape[0] == B->shape[1] && A->shape[0] >= 1, PW_E_FORMAT, "%s: %s: ranks of A and B differ (got %" PRId64 " and %" PRId64 ")", g->path, A->name, A->shape[0],
                 B->shape[1]);
        pairs[(*n)++] = (struct pw_pair){.name = list[i].name, .r = A->shape[0], .n_in = A->shape[1], .n_out = B->shape[0],
                                         .scale = alpha != 0 ? alpha / (double)A->shape[0] : 1, .a = A, .b = B};
    }
    *out = pairs;
    return 0;
}

static int widen(const struct pw_gguf_tensor *t, float *out, const char *path)
{
    const struct pw_block_type *b = pw_block_type_ggml(t->ggml);
    const int64_t n = t->shape[0] * t->shape[1];
    uint16_t u;
    if (b) {
        for (int64_t i = 0; i < n; i += PW_BLOCK_GROUP)
            b->decode(t->data + pw_block_bytes(b, i / b->elements * b->elements), (int)(i % b->elements / PW_BLOCK_GROUP), out + i);
        return 0;
    }
    PW_CHECK(t->ggml == PW_GGML_F32 || t->ggml == PW_GGML_F16 || t->ggml == PW_GGML_BF16, PW_E_UNSUPPORTED, "%s: %s: type %s is not supported", path, t->name, t->stored);
    if (t->ggml == PW_GGML_F32)
        memcpy(out, t->data, (size_t)n * sizeof *out);
    else
        for (int64_t i = 0; i < n; i++) {
            memcpy(&u, t->data + 2 * i, 2);
            out[i] = t->ggml == PW_GGML_F16 ? pw_f16_to_f32(u) : pw_bf16_to_f32(u);
        }
    return 0;
}

static int fill(const struct pw_pair *p, float *a, float *b, const char *path)
{
    PW_PASS(widen(p->a, a, path));
    return widen(p->b, b, path);
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
    PW_PASS(collect(a, arch, g, alpha, &pairs, &n));
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

static int tensor_name(const char *arch, const struct pw_adapter_module *m, int half, char out[200])
{
    char hf[400], name[160];
    snprintf(hf, sizeof hf, "%s%s", m->name, weight);
    PW_CHECK(pw_gguf_name_from_hf(arch, hf, name), PW_E_UNSUPPORTED, "%s has no name in GGUF files", m->name);
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

static int put_module(struct pw_gguf_out *w, const struct pw_adapter *a, const struct pw_adapter_module *m, const struct pw_model_config *model, bool permutes, enum pw_dtype type)
{
    const int64_t n = pw_count(m->lora.b), most = n > pw_count(m->lora.a) ? n : pw_count(m->lora.a);
    const double factor = m->lora.scale * m->lora.r / file_alpha(a);
    const struct pw_adapter order = {.paired = (a->paired > 0) != permutes ? model->head_dim : 0};
    float *b = pw_alloc((size_t)n * sizeof *b);
    void *half = pw_alloc((size_t)most * sizeof(uint16_t));
    int rc = 0;
    PW_CHECK_OUT(b && half, PW_E_NOMEM, "%s: no memory", m->name);
    pw_adapter_reorder(&order, m, permutes, b, m->lora.b.data);
    if (fabs(factor - 1) > 1e-7)       /* below: the rounding of alpha to f32 */
        for (int64_t i = 0; i < n; i++)
            b[i] = (float)(b[i] * factor);
    PW_PASS_OUT(put_numbers(w, m->name, m->lora.a.data, pw_count(m->lora.a), type, half));
    PW_PASS_OUT(put_numbers(w, m->name, b, n, type, half));
out:
    pw_free(half);
    pw_free(b);
    return rc;
}

static int announce(struct pw_gguf_out *w, const struct pw_adapter *a, const char *arch, enum pw_dtype type)
{
    const struct pw_adapter_config *k = &a->config;
    char name[200];
    pw_gguf_put_str(w, "general.architecture", arch, strlen(arch));
    pw_gguf_put_str(w, "general.type", "adapter", 7);
    pw_gguf_put_str(w, "adapter.type", "lora", 4);
    pw_gguf_put_f32(w, "adapter.lora.alpha", (float)file_alpha(a));
    pw_gguf_put_u32(w, "general.file_type", type == PW_F32 ? 0 : 1);
    if (k->base_name[0])
        pw_gguf_put_str(w, "general.base_model.0.name", k->base_name, strlen(k->base_name));
    if (k->base_hash[0])
        pw_gguf_put_str(w, "pennyweight.base", k->base_hash, strlen(k->base_hash));
    if (k->base_hash[0] && k->base_type[0])
        pw_gguf_put_str(w, "pennyweight.base_type", k->base_type, strlen(k->base_type));
    for (size_t i = 0; i < a->n; i++)
        for (int half = 0; half < 2; half++) {
            const struct pw_tensor *t = half ? &a->modules[i].lora.b : &a->modules[i].lora.a;
            PW_PASS(tensor_name(arch, &a->modules[i], half, name));
            PW_PASS(pw_gguf_add_tensor(w, name, type == PW_F32 ? PW_GGML_F32 : PW_GGML_F16, 2, t->shape));
        }
    return 0;
}

int pw_gguf_lora_write(const struct pw_adapter *a, const char *path, const struct pw_model_config *model, enum pw_dtype type, bool force)
{
    struct pw_gguf_out w = {0};
    const char *arch = NULL;
    bool permutes = false;
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
    PW_PASS(pw_gguf_arch(model, &arch, &permutes));
    PW_CHECK(file_alpha(a) != 0 && isfinite(file_alpha(a)), PW_E_NUMERIC, "%s: the scale is %g", a->modules[0].name, a->modules[0].lora.scale);
    PW_PASS_OUT(pw_gguf_create(&w, path, force));
    PW_PASS_OUT(announce(&w, a, arch, type));
    for (size_t i = 0; i < a->n; i++)
        PW_PASS_OUT(put_module(&w, a, &a->modules[i], model, permutes, type));
    PW_PASS_OUT(pw_gguf_commit(&w));
out:
    pw_gguf_abort(&w);
    return rc < 0 ? pw_error_while(rc, "writing %s", path) : 0;
}
