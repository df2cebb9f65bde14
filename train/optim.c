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

size_t pw_optim_host_bytes(enum pw_optim_kind kind, const struct pw_slot *slots, size_t n)
{
    return averages(kind, slots, n);
}

/* Of the averages of the largest piece. */
static size_t room(enum pw_optim_kind kind, const struct pw_slot *slots, size_t n)
{
    size_t most = 0;
    for (size_t i = 0; i < n; i++) {
        struct pw_slot s = slots[i];
        const int64_t all = pw_count(s.value);
        s.value = pw_tensor1(NULL, PW_F32, all < PW_OPTIM_PIECE ? all : PW_OPTIM_PIECE);
        const size_t bytes = place_averages(&s, kind, NULL);
        most = bytes > most ? bytes : most;
    }
    return most;
}

size_t pw_optim_bytes(enum pw_optim_kind kind, const struct pw_slot *slots, size_t n, bool on_host)
{
    return pw_optim_region(slots, n) + (on_host ? PW_INPUT_LANES * room(kind, slots, n) : averages(kind, slots, n)) + pw_pool_round(sizeof(double)) +
           (kind == PW_OPTIM_ADAMW8 ? pw_pool_round(MAPS * sizeof(float)) : 0);
}

/* The pool is cleared; the code of 0 in the signed map is another. */
static int zero_codes(struct pw_dev *dev, struct pw_tensor m, bool on_host)
{
    if (on_host) {
        memset(m.data, ZERO_CODE, pw_bytes(m));
        return 0;
    }
    uint8_t zeros[PW_OPTIM_SMALL];
    memset(zeros, ZERO_CODE, sizeof zeros);
    for (int64_t at = 0, n = pw_count(m); at < n; at += PW_OPTIM_SMALL)
        PW_PASS(pw_dev_put(dev, (char *)m.data + at, zeros, (size_t)(n - at < PW_OPTIM_SMALL ? n - at : PW_OPTIM_SMALL)));
    return 0;
}

/* Where averages are placed: the pool itself, or pinned memory handed out as if it were one. */
static int take_host(struct pw_optim *o, struct pw_pool *pool, struct pw_pool *host)
{
    const size_t bytes = pw_optim_host_bytes(o->kind, o->slots, o->n), each = room(o->kind, o->slots, o->n);
    PW_TRY(pw_dev_pinned(pool->dev, &o->host, bytes), "taking host memory for the state of the optimizer");
    o->dev = pool->dev;
    for (int i = 0; i < PW_INPUT_LANES; i++) {
        o->rooms[i] = pw_pool_take(pool, each);
        PW_CHECK(o->rooms[i], PW_E_NOMEM, "placing the optimiser");
    }
    *host = (struct pw_pool){.dev = pool->dev, .base = o->host, .bytes = bytes, .name = "optimizer state on the host"};
    return 0;
}

void pw_optim_close(struct pw_optim *o)
{
    if (!o->host)
        return;
    (void)pw_optim_settle(o);
    pw_dev_pinned_free(o->dev, o->host);
    o->host = NULL;
}

int pw_optim_settle(struct pw_optim *o)
{
    if (!o->on_host)
        return 0;
    for (int i = 0; i < PW_INPUT_LANES; i++)
        PW_PASS(pw_dev_wait(o->dev, i));
    return pw_dev_sync(o->dev);
}

int pw_optim_place(struct pw_optim *o, struct pw_pool *pool, enum pw_optim_kind kind, struct pw_slot *slots, size_t n, bool on_host)
{
    struct pw_pool host, *state = pool;
    *o = (struct pw_optim){.kind = kind, .slots = slots, .n = n, .region = pw_optim_region(slots, n), .maps = pw_none(), .on_host = on_host};
    PW_CHECK(n > 0, PW_E_REFUSED, "nothing is trained: no parameters");
    for (size_t i = 0; i < n; i++)
        PW_CHECK(slots[i].value.dtype == PW_F32 && pw_contiguous(slots[i].value), PW_E_FAIL, "%s: a trained tensor must be contiguous f32 (got %s)",
                 slots[i].name, pw_dtype_name(slots[i].value.dtype));
    o->grads = pw_pool_take(pool, o->region);
    void *norm2 = pw_pool_take(pool, sizeof(double));
    PW_CHECK(o->grads && norm2, PW_E_NOMEM, "placing the optimiser");
    o->norm2 = pw_tensor1(norm2, PW_F64, 1);
    if (on_host) {
        PW_PASS(take_host(o, pool, &host));
        state = &host;
    }
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        struct pw_slot *s = &slots[i];
        s->grad = s->value;
        s->grad.data = o->grads + at;
        at += pw_pool_round(pw_bytes(s->value));
        PW_CHECK(place_averages(s, kind, state) > 0, PW_E_NOMEM, "placing the averages of %s", s->name);
        if (s->m.dtype == PW_U8)
            PW_TRY(zero_codes(pool->dev, s->m, on_host), "placing the averages of %s", s->name);
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

static struct pw_adamw settings(const struct pw_slot *s, const struct pw_adamw *h)
{
    struct pw_adamw step = *h;
    if (!s->decay)
        step.weight_decay = 0;
    if (s->rate > 0)
        step.lr *= s->rate;
    return step;
}

/* ---- averages on the host ---- */

/* A piece of a slot: its elements [at, at + n), with averages in a room. */
struct piece { size_t slot; int64_t at, n; };
enum { MOVES = 4 };
struct move { void *host, *device; size_t bytes; };

static struct pw_tensor elements(struct pw_tensor t, int64_t from, int64_t n)
{
    return pw_tensor1((char *)t.data + (size_t)from * pw_dtype_bytes(t.dtype), t.dtype, n);
}

static int cut(const struct pw_optim *o, const struct piece *p, char *room, struct pw_slot *s, struct move moves[MOVES])
{
    *s = o->slots[p->slot];
    s->value = elements(s->value, p->at, p->n);
    s->grad = elements(s->grad, p->at, p->n);
    struct { struct pw_tensor *t; int64_t per; } parts[MOVES] = {{&s->m, 1}, {&s->v, 1}, {&s->m_scale, PW_STATE8_BLOCK}, {&s->v_scale, PW_STATE8_BLOCK}};
    int n = 0;
    for (int i = 0; i < MOVES; i++) {
        if (!parts[i].t->data)
            continue;
        struct pw_tensor t = elements(*parts[i].t, p->at / parts[i].per, (p->n + parts[i].per - 1) / parts[i].per);
        moves[n++] = (struct move){.host = t.data, .device = room, .bytes = pw_bytes(t)};
        t.data = room;
        room += pw_pool_round(pw_bytes(t));
        *parts[i].t = t;
    }
    return n;
}

static bool next_piece(const struct pw_optim *o, struct piece *p)
{
    p->at += p->n;
    while (p->slot < o->n && p->at >= pw_count(o->slots[p->slot].value)) {
        p->slot++;
        p->at = 0;
    }
    if (p->slot == o->n)
        return false;
    const int64_t left = pw_count(o->slots[p->slot].value) - p->at;
    p->n = left < PW_OPTIM_PIECE ? left : PW_OPTIM_PIECE;
    return true;
}

static int bring(struct pw_optim *o, const struct piece *p, int lane)
{
    struct pw_slot s;
    struct move moves[MOVES];
    for (int i = 0, n = cut(o, p, o->rooms[lane], &s, moves); i < n; i++)
        PW_PASS(pw_dev_bring(o->dev, lane, moves[i].device, moves[i].host, moves[i].bytes));
    return 0;
}

/* What is brought into a room follows, on the room's lane, what was sent from it. */
static int update(struct pw_optim *o, const struct piece *p, int lane, const struct pw_adamw *h)
{
    struct pw_slot s;
    struct move moves[MOVES];
    const int n = cut(o, p, o->rooms[lane], &s, moves);
    const struct pw_adamw step = settings(&s, h);
    PW_PASS(pw_dev_wait(o->dev, lane));
    PW_TRY(one(o->dev, o, &s, &step), "updating %s", s.name);
    for (int i = 0; i < n; i++)
        PW_PASS(pw_dev_send(o->dev, lane, moves[i].host, moves[i].device, moves[i].bytes));
    return 0;
}

static int step_by_pieces(struct pw_optim *o, const struct pw_adamw *h)
{
    struct piece now = {0}, next;
    bool more = next_piece(o, &now);
    if (more)
        PW_PASS(bring(o, &now, 0));
    for (int lane = 0; more; lane = (lane + 1) % PW_INPUT_LANES, now = next) {
        next = now;
        more = next_piece(o, &next);
        if (more)
            PW_PASS(bring(o, &next, (lane + 1) % PW_INPUT_LANES));
        PW_PASS(update(o, &now, lane, h));
    }
    return 0;
}

int pw_optim_step(struct pw_dev *dev, struct pw_optim *o, const struct pw_adamw *h)
{
    if (o->on_host)
        return step_by_pieces(o, h);
    for (size_t i = 0; i < o->n; i++) {
        const struct pw_adamw step = settings(&o->slots[i], h);
        PW_TRY(one(dev, o, &o->slots[i], &step), "updating %s", o->slots[i].name);
    }
    return 0;
}
