/* See optim.h. Sums run over the slots in order, in double, so that the norm does not depend on threads. */
#include "train/optim.h"

#include <math.h>

#include "base/error.h"

size_t pw_optim_region(const struct pw_slot *slots, size_t n)
{
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++)
        bytes += pw_pool_round(pw_bytes(slots[i].value));
    return bytes;
}

size_t pw_optim_bytes(const struct pw_slot *slots, size_t n)
{
    return 3 * pw_optim_region(slots, n) + pw_pool_round(sizeof(double));
}

static struct pw_tensor like(struct pw_tensor t, void *data)
{
    t.data = data;
    return t;
}

int pw_optim_place(struct pw_optim *o, struct pw_pool *pool, struct pw_slot *slots, size_t n)
{
    *o = (struct pw_optim){.slots = slots, .n = n, .region = pw_optim_region(slots, n)};
    PW_CHECK(n > 0, PW_E_REFUSED, "nothing is trained: no parameters");
    for (size_t i = 0; i < n; i++)
        PW_CHECK(slots[i].value.dtype == PW_F32 && pw_contiguous(slots[i].value), PW_E_FAIL, "%s: a trained tensor must be contiguous f32 (got %s)",
                 slots[i].name, pw_dtype_name(slots[i].value.dtype));
    o->grads = pw_pool_take(pool, o->region);
    o->m = pw_pool_take(pool, o->region);
    o->v = pw_pool_take(pool, o->region);
    void *norm2 = pw_pool_take(pool, sizeof(double));
    PW_CHECK(o->grads && o->m && o->v && norm2, PW_E_NOMEM, "placing the optimiser");
    o->norm2 = pw_tensor1(norm2, PW_F64, 1);
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        struct pw_slot *s = &slots[i];
        s->grad = like(s->value, o->grads + at);
        s->m = like(s->value, o->m + at);
        s->v = like(s->value, o->v + at);
        at += pw_pool_round(pw_bytes(s->value));
    }
    return 0;
}

int pw_optim_clear(struct pw_dev *dev, struct pw_optim *o)
{
    return pw_fill(dev, pw_tensor1(o->grads, PW_F32, (int64_t)(o->region / sizeof(float))), 0);
}

int pw_optim_norm(struct pw_dev *dev, struct pw_optim *o, double *norm)
{
    double sum = 0;
    PW_PASS(pw_fill(dev, o->norm2, 0));
    for (size_t i = 0; i < o->n; i++)
        PW_TRY(pw_sumsq(dev, o->norm2, o->slots[i].grad), "taking the norm of %s", o->slots[i].name);
    PW_PASS(pw_dev_get(dev, &sum, o->norm2.data, sizeof sum));
    *norm = sqrt(sum);
    return 0;
}

int pw_optim_step(struct pw_dev *dev, struct pw_optim *o, const struct pw_adamw *h)
{
    for (size_t i = 0; i < o->n; i++) {
        struct pw_slot *s = &o->slots[i];
        struct pw_adamw step = *h;
        if (!s->decay)
            step.weight_decay = 0;
        PW_TRY(pw_adamw(dev, s->value, s->m, s->v, s->grad, &step), "updating %s", s->name);
    }
    return 0;
}

int pw_optim_sgd(struct pw_dev *dev, struct pw_optim *o, const struct pw_adamw *h)
{
    for (size_t i = 0; i < o->n; i++) {
        struct pw_slot *s = &o->slots[i];
        const double decay = s->decay ? h->weight_decay : 0;
        PW_TRY(pw_scale(dev, s->m, h->beta1), "updating %s", s->name);
        PW_TRY(pw_axpy(dev, s->m, s->grad, h->grad_scale), "updating %s", s->name);
        if (decay > 0)
            PW_TRY(pw_scale(dev, s->value, 1 - h->lr * decay), "updating %s", s->name);
        PW_TRY(pw_axpy(dev, s->value, s->m, -h->lr), "updating %s", s->name);
    }
    return 0;
}
