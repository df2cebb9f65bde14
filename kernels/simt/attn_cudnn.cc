/* The twin of kernels/cuda/attn_cudnn.cu on the processor: the contract of attn_cudnn.h as plain loops on device memory. It has plans for what the library has
 * plans for, rounds the weights to bf16 before the product as the library's graph does, and adds in another order than our kernels. */
#include "kernels/cuda/attn_cudnn.h"

#include <math.h>
#include <string.h>
#include "base/error.h"
#include "base/memory.h"
#include "kernels/cuda/cuda.h"
#include "kernels/simt/faults.h"
#include "kernels/simt/memory.h"

enum { PLANS = 256, WORKSPACE = 8192, VERSION = 1 };
struct library { const char *kind; struct pw_attn_shape plans[PLANS]; int n_plans; };

void *sdpa_new(const char *kind)
{
    struct library *l = (struct library *)pw_alloc_zero(1, sizeof *l);
    if (l) l->kind = kind;
    return l;
}
void sdpa_free(void *library) { pw_free(library); }
int64_t sdpa_version(void *, const char **why)
{
    if (why) *why = NULL;
    return VERSION;
}

static bool planned(const struct library *l, const struct pw_attn_shape *shape)
{
    for (int i = 0; i < l->n_plans; i++)
        if (pw_attn_shape_same(&l->plans[i], shape)) return true;
    return false;
}
int sdpa_plan(void *library, const struct pw_attn_shape *shape, bool *there, size_t *workspace)
{
    struct library *l = (struct library *)library;
    *there = shape->head_dim % 8 == 0 && shape->head_dim <= 256;
    *workspace = *there ? WORKSPACE : 0;
    if (!*there || planned(l, shape)) return 0;
    PW_CHECK(l->n_plans < PLANS, PW_E_FAIL, "device %s: more than %d shapes of attention", l->kind, PLANS);
    l->plans[l->n_plans++] = *shape;
    return 0;
}
size_t sdpa_workspace(const void *library, const struct pw_attn_shape *shape) { return planned((const struct library *)library, shape) ? WORKSPACE : 0; }

struct work { struct pw_attn_shape shape; struct sdpa_call call; };

static void attend(const struct pw_attn_shape *s, const struct sdpa_call *c, int i, int64_t row, int64_t h, float *z)
{
    const int64_t d = s->head_dim, group = h / (s->heads / s->groups), low = s->window > 0 && row >= s->window ? row - s->window + 1 : 0;
    const bf16 *q = (const bf16 *)c->q + c->q_at[i] + (row * s->heads + h) * d, *k = (const bf16 *)c->k + c->kv_at[i] + group * d, *v = (const bf16 *)c->v + c->kv_at[i] + group * d;
    bf16 *out = (bf16 *)c->out + c->q_at[i] + (row * s->heads + h) * d;
    float most = -INFINITY, sum = 0;
    for (int64_t key = low; key <= row; key++) {
        float dot = 0;
        for (int64_t e = 0; e < d; e++) dot += bf16_to_f32(q[e].bits) * bf16_to_f32(k[key * s->groups * d + e].bits);
        z[key] = dot * c->scale;
        if (s->softcap > 0) z[key] = (float)s->softcap * tanhf(z[key] / (float)s->softcap);
        most = fmaxf(most, z[key]);
    }
    for (int64_t key = low; key <= row; key++) sum += z[key] = expf(z[key] - most);
    for (int64_t key = low; key <= row; key++) z[key] = bf16_to_f32(bf16_from_f32(z[key] / sum));
    for (int64_t e = 0; e < d; e++) {
        float o = 0;
        for (int64_t key = low; key <= row; key++) o += z[key] * bf16_to_f32(v[key * s->groups * d + e].bits);
        out[e].bits = bf16_from_f32(o);
    }
    c->lse[c->lse_at[i] + row * s->heads + h] = most + logf(sum);
}

static simt_error run(void *arg)
{
    const struct work *w = (const struct work *)arg;
    const struct sdpa_call *c = &w->call;
    float *z = (float *)pw_alloc_zero((size_t)w->shape.rows, sizeof *z);
    if (!z) return SIMT_E_MEMORY;
    simt_memory_open();
    memset(c->workspace, 0xa5, WORKSPACE);
    for (int i = 0; i < w->shape.sequences; i++)
        for (int64_t row = 0; row < c->lengths[i]; row++)
            for (int64_t h = 0; h < w->shape.heads; h++) attend(&w->shape, c, i, row, h, z);
    simt_memory_close();
    pw_free(z);
    return 0;
}

int sdpa_run(void *library, const char *op, const struct pw_attn_shape *shape, const struct sdpa_call *call)
{
    struct library *l = (struct library *)library;
    struct work w = {*shape, *call};
    PW_CHECK(planned(l, shape), PW_E_FAIL, "%s: device %s: no plan for %lld rows, %d and %d heads of %d", op, l->kind, (long long)shape->rows, shape->heads, shape->groups, shape->head_dim);
    const simt_error e = simt_host(run, &w, sizeof w);
    PW_CHECK(e == 0, e == SIMT_E_MEMORY ? PW_E_NOMEM : PW_E_FAIL, "%s: device %s: attention of %lld rows: %s", op, l->kind, (long long)shape->rows, simt_faults_text(e));
    return 0;
}
int sdpa_engines(void *, const struct pw_attn_shape *, const char *, int *, int *) { return pw_error(PW_E_UNSUPPORTED, "the twin has no graphs"); }
