/* See optim.h. Sums run over the slots in order, in double, so that the norm does not depend on threads. */
#include "train/optim.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "quant/dynamic_map.h"

enum { MAPS = 512, ZERO_CODE = 127 };

static int64_t blocks_of(int64_t n)
{
    return (n + PW_STATE8_BLOCK - 1) / PW_STATE8_BLOCK;
}

/* Places the averages of one slot, or counts them (pool NULL). Returns bytes, 0 when the pool is too small. */
static size_t place_averages(struct pw_slot *s, enum pw_optim_kind kind, struct pw_pool *pool)
{
    const int64_t n = pw_count(s->value);
    const bool small = kind == PW_OPTIM_ADAMW8 && n >= PW_OPTIM_SMALL, two = kind == PW_OPTIM_ADAMW || kind == PW_OPTIM_ADAMW8;
    size_t sum = 0;
    struct { struct pw_tensor *t, like; bool there; } parts[] = {
        {&s->m, small ? pw_tensor1(NULL, PW_U8, n) : s->value, true},
        {&s->v, small ? pw_tensor1(NULL, PW_U8, n) : s->value, two},
        {&s->m_scale, pw_tensor1(NULL, PW_F32, blocks_of(n)), small},
        {&s->v_scale, pw_tensor1(NULL, PW_F32, blocks_of(n)), small},
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (pool)
            *parts[i].t = pw_none();
        if (!parts[i].there)
            continue;
        const size_t bytes = pw_bytes(parts[i].like);
        sum += pw_pool_round(bytes);
        if (!pool)
            continue;
        *parts[i].t = parts[i].like;
        if (!(parts[i].t->data = pw_pool_take(pool, bytes)))
            return 0;
    }
    return sum;
}

static size_t averages(enum pw_optim_kind kind, const struct pw_slot *slots, size_t n)
{
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        struct pw_slot s = slots[i];
        bytes += place_averages(&s, kind, NULL);
    }
    return bytes;
}

size_t pw_optim_region(const struct pw_slot *slots, size_t n)
{
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++)
        bytes += pw_pool_round(pw_bytes(slots[i].value));
    return bytes;
}

size_t pw_optim_state_bytes(enum pw_optim_kind kind, const struct pw_slot *slots, size_t n)
{
    return pw_optim_region(slots, n) + averages(kind, slots, n);
}

size_t pw_optim_bytes(enum pw_optim_kind kind, const struct pw_slot *slots, size_t n)
{
    return pw_optim_region(slots, n) + averages(kind, slots, n) + pw_pool_round(sizeof(double)) +
           (kind == PW_OPTIM_ADAMW8 ? pw_pool_round(MAPS * sizeof(float)) : 0);
}

/* The pool is cleared; the code of 0 in the signed map is another. */
static int zero_codes(struct pw_dev *dev, struct pw_tensor m)
{
    uint8_t zeros[PW_OPTIM_SMALL];
    memset(zeros, ZERO_CODE, sizeof zeros);
    for (int64_t at = 0, n = pw_count(m); at < n; at += PW_OPTIM_SMALL)
        PW_PASS(pw_dev_put(dev, (char *)m.data + at, zeros, (size_t)(n - at < PW_OPTIM_SMALL ? n - at : PW_OPTIM_SMALL)));
    return 0;
}

int pw_optim_place(struct pw_optim *o, struct pw_pool *pool, enum pw_optim_kind kind, struct pw_slot *slots, size_t n)
{
    *o = (struct pw_optim){.kind = kind, .slots = slots, .n = n, .region = pw_optim_region(slots, n), .maps = pw_none()};
    PW_CHECK(n > 0, PW_E_REFUSED, "nothing is trained: no parameters");
    for (size_t i = 0; i < n; i++)
        PW_CHECK(slots[i].value.dtype == PW_F32 && pw_contiguous(slots[i].value), PW_E_FAIL, "%s: a trained tensor must be contiguous f32 (got %s)",
                 slots[i].name, pw_dtype_name(slots[i].value.dtype));
    o->grads = pw_pool_take(pool, o->region);
    void *norm2 = pw_pool_take(pool, sizeof(double));
    PW_CHECK(o->grads && norm2, PW_E_NOMEM, "placing the optimiser");
    o->norm2 = pw_tensor1(norm2, PW_F64, 1);
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        struct pw_slot *s = &slots[i];
        s->grad = s->value;
        s->grad.data = o->grads + at;
        at += pw_pool_round(pw_bytes(s->value));
        PW_CHECK(place_averages(s, kind, pool) > 0, PW_E_NOMEM, "placing the averages of %s", s->name);
        if (s->m.dtype == PW_U8)
            PW_TRY(zero_codes(pool->dev, s->m), "placing the averages of %s", s->name);
    }
    if (kind != PW_OPTIM_ADAMW8)
        return 0;
    void *maps = pw_pool_take(pool, MAPS * sizeof(float));
    PW_CHECK(maps, PW_E_NOMEM, "placing the optimiser");
    o->maps = pw_tensor1(maps, PW_F32, MAPS);
    PW_PASS(pw_dev_put(pool->dev, maps, pw_dynamic_map, sizeof pw_dynamic_map));
    return pw_dev_put(pool->dev, (char *)maps + sizeof pw_dynamic_map, pw_dynamic_map_unsigned, sizeof pw_dynamic_map_unsigned);
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

static int sgd(struct pw_dev *dev, struct pw_slot *s, const struct pw_adamw *h)
{
    PW_PASS(pw_scale(dev, s->m, h->beta1));
    PW_PASS(pw_axpy(dev, s->m, s->grad, h->grad_scale));
    if (h->weight_decay > 0)
        PW_PASS(pw_scale(dev, s->value, 1 - h->lr * h->weight_decay));
    return pw_axpy(dev, s->value, s->m, -h->lr);
}

static struct pw_tensor flat(struct pw_tensor t)
{
    return pw_tensor1(t.data, t.dtype, pw_count(t));
}

static int one(struct pw_dev *dev, const struct pw_optim *o, struct pw_slot *s, const struct pw_adamw *h)
{
    switch (o->kind) {
    case PW_OPTIM_ADAMW:
        return pw_adamw(dev, s->value, s->m, s->v, s->grad, h);
    case PW_OPTIM_ADAMW8:
        return s->m.dtype == PW_U8 ? pw_adamw8(dev, flat(s->value), s->m, s->m_scale, s->v, s->v_scale, flat(s->grad), o->maps, h)
                                   : pw_adamw(dev, s->value, s->m, s->v, s->grad, h);
    case PW_OPTIM_LION:
        return pw_lion(dev, s->value, s->m, s->grad, h);
    case PW_OPTIM_SGD:
        return sgd(dev, s, h);
    }
    return 0;
}

int pw_optim_step(struct pw_dev *dev, struct pw_optim *o, const struct pw_adamw *h)
{
    for (size_t i = 0; i < o->n; i++) {
        struct pw_slot *s = &o->slots[i];
        struct pw_adamw step = *h;
        if (!s->decay)
            step.weight_decay = 0;
        if (s->rate > 0)
            step.lr *= s->rate;
        PW_TRY(one(dev, o, s, &step), "updating %s", s->name);
    }
    return 0;
}
