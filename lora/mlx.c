/* Adapters of mlx-lm (see the header). */
#include "lora/mlx.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "data/safetensors.h"
#include "lora/pairs.h"

static const char weights[] = "adapters.safetensors";

struct settings { int64_t rank; double scale, dropout; };

static int read_config(struct pw_adapter *a, const char *path, struct settings *s)
{
    struct pw_value *json;
    const char *type = "lora";
    PW_PASS(pw_json_load(&a->arena, path, &json));
    PW_CHECK(json->kind == PW_MAP, PW_E_FORMAT, "%s: expected a map", path);
    PW_PASS(pw_get_str(json, "fine_tune_type", path, &type));
    PW_CHECK(strcmp(type, "lora") == 0, PW_E_UNSUPPORTED, "%s: fine_tune_type is not supported (expected lora, got \"%.40s\")", path, type);
    bool dora = false;
    PW_PASS(pw_get_bool(json, "use_dora", path, &dora));
    PW_CHECK(!dora, PW_E_UNSUPPORTED, "%s: use_dora is not supported", path);
    const struct pw_value *p = pw_get(json, "lora_parameters");
    char where[512];
    double alpha = NAN;
    PW_CHECK(p && p->kind == PW_MAP, PW_E_FORMAT, "%s: lora_parameters: expected a map", path);
    snprintf(where, sizeof where, "%.400s: lora_parameters", path);
    PW_CHECK(pw_get(p, "rank") && pw_get(p, "scale"), PW_E_FORMAT, "%s: rank or scale is missing", where);
    PW_PASS(pw_get_i64(p, "rank", where, &s->rank));
    PW_PASS(pw_get_f64(p, "scale", where, &s->scale));
    PW_PASS(pw_get_f64(p, "dropout", where, &s->dropout));
    PW_PASS(pw_get_f64(p, "alpha", where, &alpha));
    PW_CHECK(s->rank >= 1 && s->rank <= 65536, PW_E_FORMAT, "%s: rank is out of range (expected 1 to 65536, got %" PRId64 ")", where, s->rank);
    PW_CHECK(s->dropout >= 0 && s->dropout < 1, PW_E_FORMAT, "%s: dropout is out of range (got %g)", where, s->dropout);
    if (pw_get(p, "alpha"))
        s->scale = s->scale * alpha / (double)s->rank;
    PW_CHECK(isfinite(s->scale) && s->scale != 0, PW_E_FORMAT, "%s: scale must be a number other than 0", where);
    return 0;
}

/* Tensors are sorted by name, so the two of a module are neighbours. */
static int collect(struct pw_adapter *a, const struct pw_safetensors *f, const struct settings *s, const char *path, struct pw_pair **out, size_t *n)
{
    struct pw_pair *pairs = pw_arena_array(&a->arena, f->n / 2 + 1, sizeof *pairs);
    PW_CHECK(pairs, PW_E_NOMEM, "%s: no memory", path);
    *n = 0;
    for (size_t i = 0; i < f->n; i++) {
        const struct pw_st_tensor *A = &f->tensors[i], *B = A + 1;
        const size_t len = strlen(A->name), t = strlen(".lora_a");
        PW_CHECK(len > t && (strcmp(A->name + len - t, ".lora_a") == 0 || strcmp(A->name + len - t, ".lora_b") == 0), PW_E_FORMAT, "%s: unknown tensor %s (expected MODULE.lora_a or .lora_b)", path,
                 A->name);
        PW_CHECK(A->name[len - 1] == 'a' && i + 1 < f->n && strncmp(A->name, B->name, len - 1) == 0 && strcmp(B->name + len - 1, "b") == 0, PW_E_FORMAT,
                 "%s: %s: the other half of the pair is missing", path, A->name);
        for (int k = 0; k < 2; k++)
            PW_CHECK(A[k].ndim == 2 && A[k].shape[0] > 0 && A[k].shape[1] > 0, PW_E_FORMAT, "%s: %s: expected two dimensions, got %d", path, A[k].name, A[k].ndim);
        PW_CHECK(A->shape[1] == s->rank && B->shape[0] == s->rank, PW_E_FORMAT, "%s: %s: rank does not fit the config (expected %" PRId64 ", got %" PRId64 " and %" PRId64 ")", path,
                 A->name, s->rank, A->shape[1], B->shape[0]);
        const char *name = pw_arena_strndup(&a->arena, A->name, len - t);
        PW_CHECK(name, PW_E_NOMEM, "%s: no memory", path);
        pairs[(*n)++] = (struct pw_pair){.name = name, .r = s->rank, .n_in = A->shape[0], .n_out = B->shape[1], .scale = s->scale, .a = A, .b = B};
        i++;
    }
    *out = pairs;
    return 0;
}

/* to (columns, rows) = the transposed tensor */
static int transpose(const struct pw_st_tensor *t, float *to, const char *path)
{
    const int64_t rows = t->shape[0], columns = t->shape[1];
    const bool f32 = strcmp(t->dtype, "F32") == 0, f16 = strcmp(t->dtype, "F16") == 0;
    PW_CHECK(f32 || f16 || strcmp(t->dtype, "BF16") == 0, PW_E_UNSUPPORTED, "%s: %s: dtype is not supported (expected F32, F16 or BF16, got %s)", path, t->name, t->dtype);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < columns; k++) {
            float x;
            uint16_t u;
            if (f32)
                memcpy(&x, t->data + 4 * (i * columns + k), 4);
            else {
                memcpy(&u, t->data + 2 * (i * columns + k), 2);
                x = f16 ? pw_f16_to_f32(u) : pw_bf16_to_f32(u);
            }
            to[k * rows + i] = x;
        }
    return 0;
}

static int fill(const struct pw_pair *p, float *a, float *b, const char *path)
{
    PW_PASS(transpose(p->a, a, path));
    return transpose(p->b, b, path);
}

static int load(struct pw_adapter *a, struct pw_safetensors *f, const char *dir, const struct pw_model_config *model)
{
    const char *config = pw_path_join(&a->arena, dir, "adapter_config.json"), *path = pw_path_join(&a->arena, dir, weights);
    struct settings s = {0};
    struct pw_pair *pairs = NULL;
    size_t n = 0;
    PW_CHECK(config && path, PW_E_NOMEM, "%s: no memory", dir);
    PW_CHECK(pw_file_exists(config), PW_E_IO, "%s: no such file: not an adapter folder", config);
    PW_PASS(read_config(a, config, &s));
    PW_PASS(pw_safetensors_open(f, path));
    PW_PASS(collect(a, f, &s, path, &pairs, &n));
    PW_PASS(pw_pairs_build(a, pairs, n, model, false, path, fill));
    a->config.dropout = s.dropout;
    return 0;
}

bool pw_mlx_is(const char *dir)
{
    char path[4096];
    const int n = snprintf(path, sizeof path, "%s/%s", dir, weights);
    return n > 0 && (size_t)n < sizeof path && pw_file_exists(path);
}

int pw_mlx_load(struct pw_adapter *a, const char *dir, const struct pw_model_config *model)
{
    struct pw_safetensors f = {0};
    *a = (struct pw_adapter){0};
    pw_arena_init(&a->arena);
    const int rc = load(a, &f, dir, model);
    pw_safetensors_close(&f);
    if (rc < 0)
        pw_adapter_free(a);
    return rc;
}
