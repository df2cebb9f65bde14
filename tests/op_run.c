/* Runs one op case: memory with guards on both sides, a device against ref in double, gradients against central differences. */
#include "tests/op_cases.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "base/memory.h"
#include "base/rng.h"
#include "kernels/backend.h"
#include "tests/support.h"

enum { GUARD = 64 };

void op_case_name(const struct op_case *c, char *out, size_t room)
{
    const int64_t *p = c->p;
    char last[24] = "";
    if (p[5]) snprintf(last, sizeof last, ",%d", (int)p[5]);
    snprintf(out, room, "%s/%s/%s/%d,%d,%d,%d,%d%s/%u/%g,%g,%g", c->f->name, pw_qtype_name(c->q), pw_dtype_name(c->type), (int)p[0], (int)p[1], (int)p[2], (int)p[3],
             (int)p[4], last, c->flags, c->x[0], c->x[1], c->x[2]);
}

static int64_t count(const struct array *a) { return a->shape[0] * a->shape[1] * a->shape[2]; }

void problem_setup(struct problem *p, const struct op_case *c, enum pw_dtype act)
{
    memset(p, 0, sizeof *p);
    p->c = c;
    p->upstream = p->output = -1;
    c->f->setup(p);
    struct pw_rng r = pw_rng_make(5, PW_STREAM_TEST);
    for (int i = 0; i < p->n; i++) {
        struct array *a = &p->a[i];
        int64_t n = count(a);
        a->start = pw_alloc_zero((size_t)n + 1, sizeof(double));
        if (!a->start) abort();
        for (int64_t j = 0; j < n; j++) {
            double x = a->low + (a->high - a->low) * pw_rng_uniform(&r);
            if (a->type == PW_F32) x = round(x * 64) / 64; /* bias: exact steps for differences */
            a->start[j] = a->act && act == PW_BF16 ? (double)pw_bf16_to_f32(pw_f32_to_bf16((float)x)) : (double)(float)x; /* both sides start from the same numbers */
        }
    }
}

void problem_free(struct problem *p)
{
    for (int i = 0; i < p->n; i++) pw_free(p->a[i].start);
    for (int i = 0; i < p->n_memory; i++) pw_free(p->memory[i]);
}

static void put(struct pw_tensor t, int64_t i, double x)
{
    switch (t.dtype) {
    case PW_F64: ((double *)t.data)[i] = x; break;
    case PW_F32: ((float *)t.data)[i] = (float)x; break;
    case PW_F16: ((uint16_t *)t.data)[i] = pw_f32_to_f16((float)x); break;
    case PW_BF16: ((uint16_t *)t.data)[i] = pw_f32_to_bf16((float)x); break;
    case PW_U8: ((uint8_t *)t.data)[i] = isnan(x) ? 0 : (uint8_t)x; break;
    case PW_I8: ((int8_t *)t.data)[i] = isnan(x) ? -128 : (int8_t)x; break;
    default: ((int32_t *)t.data)[i] = isnan(x) ? INT32_MIN : (int32_t)x; break;
    }
}
static double get(struct pw_tensor t, int64_t i)
{
    switch (t.dtype) {
    case PW_F64: return ((double *)t.data)[i];
    case PW_F32: return (double)((float *)t.data)[i];
    case PW_F16: return (double)pw_f16_to_f32(((uint16_t *)t.data)[i]);
    case PW_BF16: return (double)pw_bf16_to_f32(((uint16_t *)t.data)[i]);
    case PW_U8: return ((uint8_t *)t.data)[i];
    case PW_I8: return ((int8_t *)t.data)[i];
    default: return ((int32_t *)t.data)[i];
    }
}

/* Every array in memory of its own with guards on both sides: on the host, and where the device has its memory. */
struct set { struct pw_tensor t[ARRAYS], host[ARRAYS]; unsigned char *base[ARRAYS]; void *device[ARRAYS]; struct pw_dev *dev; };

static enum pw_dtype type_on(const struct array *a, const struct pw_dev *dev, bool wide)
{
    return a->type != PW_F64 || wide || a->f64 ? a->type : a->act ? dev->act : PW_F32;
}

/* Bytes before the data: the guard, and one element more where rows are odd, since views of rows begin anywhere. */
static size_t lead_of(const struct array *a, enum pw_dtype type) { return GUARD + (a->shape[a->ndim - 1] % 2 ? pw_dtype_bytes(type) : 0); }
static size_t room_of(const struct array *a, enum pw_dtype type) { return (size_t)count(a) * pw_dtype_bytes(type) + 2 * GUARD + 8; }

static void set_make(struct set *s, const struct problem *p, struct pw_dev *dev, bool wide)
{
    memset(s, 0, sizeof *s);
    s->dev = dev;
    for (int i = 0; i < p->n; i++) {
        const struct array *a = &p->a[i];
        enum pw_dtype type = type_on(a, dev, wide);
        size_t room = room_of(a, type);
        s->base[i] = malloc(room);
        if (!s->base[i]) abort();
        memset(s->base[i], 0xA5, room);
        void *data = s->base[i] + lead_of(a, type);
        s->host[i] = a->ndim == 1 ? pw_tensor1(data, type, a->shape[0]) : a->ndim == 2 ? pw_tensor2(data, type, a->shape[0], a->shape[1])
                                                                                      : pw_tensor3(data, type, a->shape[0], a->shape[1], a->shape[2]);
        for (int64_t j = 0; j < count(a); j++) put(s->host[i], j, a->role == OUT ? NAN : a->start[j]);
        s->t[i] = s->host[i];
        if (dev->host) continue;
        if (dev->backend->take(dev, &s->device[i], room) < 0 || pw_dev_put(dev, s->device[i], s->base[i], room) < 0) abort();
        s->t[i].data = (char *)s->device[i] + lead_of(a, type);
    }
}
static int set_fetch(struct set *s, const struct problem *p)
{
    for (int i = 0; i < p->n && !s->dev->host; i++) PW_PASS(pw_dev_get(s->dev, s->base[i], s->device[i], room_of(&p->a[i], s->t[i].dtype)));
    return 0;
}
static void set_free(struct set *s)
{
    for (int i = 0; i < ARRAYS; i++) {
        free(s->base[i]);
        if (s->device[i]) s->dev->backend->give(s->dev, s->device[i]);
    }
}

static int guards(const struct set *s, const struct problem *p, char *why, size_t room)
{
    for (int i = 0; i < p->n; i++) {
        struct pw_tensor t = s->host[i];
        size_t bytes = pw_bytes(t), lead = lead_of(&p->a[i], t.dtype), all = room_of(&p->a[i], t.dtype);
        for (size_t j = 0; j < all; j++)
            if ((j < lead || j >= lead + bytes) && s->base[i][j] != 0xA5) {
                snprintf(why, room, "%s: bytes %s it were written", p->a[i].name, j < lead ? "before" : "after");
                return -1;
            }
        for (int64_t j = 0; p->a[i].role == IN && j < count(&p->a[i]); j++) {
            double x = t.dtype == PW_F16 || t.dtype == PW_BF16 ? get(t, j) : p->a[i].start[j];
            if (p->a[i].act) x = p->a[i].start[j];
            if (!(get(t, j) == x)) {
                snprintf(why, room, "%s: an input was written", p->a[i].name);
                return -1;
            }
        }
    }
    return 0;
}

/* The problem with its ids, weight and sequences where the device sees them. Freed with moved_free. */
struct moved { struct problem p; void *memory[3]; struct pw_dev *dev; };

static int move(struct moved *m, const struct problem *p, struct pw_dev *dev)
{
    *m = (struct moved){ .p = *p, .dev = dev };
    if (dev->host) return 0;
    if (p->ids.data) {
        PW_PASS(dev->backend->take(dev, &m->memory[0], pw_bytes(p->ids) + 1));
        PW_PASS(pw_dev_put(dev, m->memory[0], p->ids.data, pw_bytes(p->ids)));
        m->p.ids.data = m->memory[0];
    }
    if (p->w.data) {
        PW_PASS(dev->backend->take(dev, &m->memory[1], pw_weight_put_bytes(&p->w)));
        PW_PASS(pw_weight_put(dev, m->memory[1], &m->p.w));
    }
    if (p->seqs.n) {
        PW_PASS(dev->backend->take(dev, &m->memory[2], pw_seqs_bytes(p->seqs.n, p->seqs.n_pages)));
        PW_PASS(pw_seqs_put(dev, m->memory[2], &m->p.seqs));
    }
    return 0;
}
static void moved_free(struct moved *m)
{
    for (int i = 0; i < 3; i++)
        if (m->memory[i]) m->dev->backend->give(m->dev, m->memory[i]);
}

static int run(const struct problem *p, struct pw_dev *dev, struct set *s, char *why, size_t room)
{
    struct moved m;
    int rc = move(&m, p, dev);
    rc = rc ? rc : p->c->f->forward(&m.p, dev, s->t);
    if (!rc && p->c->f->backward) rc = p->c->f->backward(&m.p, dev, s->t);
    rc = rc ? rc : set_fetch(s, p);
    if (rc) snprintf(why, room, "%s", pw_error_text());
    moved_free(&m);
    return rc;
}

/* extra[i][j]: what rounding each weight to bf16 changes in element j of array i. */
static int rounded_weights(const struct op_case *c, const struct problem *p, const struct set *want, struct pw_dev *ref, double *extra[ARRAYS], char *why, size_t room)
{
    int rc = 0;
    for (int i = 0; i < p->n; i++)
        if (!(extra[i] = pw_alloc_zero((size_t)count(&p->a[i]) + 1, sizeof(double)))) abort();
    for (int which = 0; !rc; which++) {
        struct problem q;
        struct set other;
        problem_setup(&q, c, PW_BF16);
        const bool more = c->f->round16(&q, which);
        if (more) {
            set_make(&other, &q, ref, true);
            rc = run(&q, ref, &other, why, room);
            for (int i = 0; !rc && i < p->n; i++)
                for (int64_t j = 0; j < count(&p->a[i]); j++) extra[i][j] += fabs(get(other.host[i], j) - get(want->host[i], j));
            set_free(&other);
        }
        problem_free(&q);
        if (!more) break;
    }
    return rc;
}

int op_case_compare(const struct op_case *c, struct pw_dev *ref, struct pw_dev *dev, char *why, size_t room)
{
    struct problem p;
    struct set want, got;
    double largest[ARRAYS] = { 0 }, *extra[ARRAYS] = { 0 };
    problem_setup(&p, c, dev->products);
    set_make(&want, &p, ref, true);
    set_make(&got, &p, dev, false);
    int rc = run(&p, ref, &want, why, room);
    rc = rc ? rc : run(&p, dev, &got, why, room);
    rc = rc ? rc : guards(&want, &p, why, room);
    rc = rc ? rc : guards(&got, &p, why, room);
    for (int i = 0; !rc && i < p.n; i++)
        for (int64_t j = 0; j < count(&p.a[i]); j++) {
            double x = fabs(get(want.host[i], j));
            largest[i] = x > largest[i] ? x : largest[i];
        }
    if (!rc && dev->products == PW_BF16 && c->f->round16) rc = rounded_weights(c, &p, &want, ref, extra, why, room);
    double bound = c->f->bound(c) + (!rc && dev->products == PW_BF16 && c->f->bound16 ? c->f->bound16(c, largest) : 0), *allow[ARRAYS] = { NULL };
    const bool each = !rc && dev->products == PW_BF16 && c->f->allow16;
    for (int i = 0; each && i < p.n; i++)
        if (!(allow[i] = calloc((size_t)count(&p.a[i]) + 1, sizeof(double)))) abort();
    if (each) c->f->allow16(&p, want.host, allow);
    for (int i = 0; !rc && i < p.n; i++) {
        if (p.a[i].role == IN) continue;
        const bool rounded = got.host[i].dtype == PW_BF16 && p.a[i].act;
        int64_t moved = 0;
        for (int64_t j = 0; j < count(&p.a[i]); j++) {
            double a = get(got.host[i], j), b = get(want.host[i], j);
            /* an output in 16 bits is rounded from equal numbers; what was added to is rounded once more */
            double allowed = p.a[i].type == PW_I32 || p.a[i].type == PW_I8 ? 0 : bound * (1 + fabs(b)) * (bound > 0);
            if (p.a[i].role == OUT && p.a[i].type == PW_F64 && bound > 0) allowed = bound + 2 * 0x1p-24 * fabs(b);
            /* codes: at a midpoint of the map either neighbour; that is rare */
            if (p.a[i].type == PW_U8) allowed = (moved += a != b) <= 1 + count(&p.a[i]) / 200;
            if (each) allowed = allow[i][j];
            if (extra[i] && p.a[i].type == PW_F64) allowed += extra[i][j] * (1 + 4 * 0x1p-8); /* roundings of what is rounded: second order */
            if (rounded) allowed += 0x1p-8 * fabs(b);
            if (!(fabs(a - b) <= allowed)) {
                snprintf(why, room, "%s[%lld]: %.9g, ref %.9g, off by %.3g, allowed %.3g", p.a[i].name, (long long)j, a, b, fabs(a - b), allowed);
                rc = -1;
                break;
            }
        }
    }
    for (int i = 0; i < p.n; i++) free(allow[i]);
    for (int i = 0; i < p.n; i++) pw_free(extra[i]);
    set_free(&want);
    set_free(&got);
    problem_free(&p);
    return rc;
}

/* sum of upstream * output after a forward run from the given start */
static int objective(struct problem *p, struct pw_dev *ref, double *out, char *why, size_t room)
{
    struct set s;
    set_make(&s, p, ref, true);
    int rc = p->c->f->forward(p, ref, s.t);
    if (rc) snprintf(why, room, "%s", pw_error_text());
    *out = 0;
    for (int64_t j = 0; !rc && j < count(&p->a[p->output]); j++) *out += p->a[p->upstream].start[j] * get(s.t[p->output], j);
    set_free(&s);
    return rc;
}

int op_case_gradient(const struct op_case *c, struct pw_dev *ref, char *why, size_t room)
{
    struct problem p;
    struct set s;
    problem_setup(&p, c, PW_F32);
    set_make(&s, &p, ref, true);
    int rc = run(&p, ref, &s, why, room), checked = 0;
    for (int i = 0; !rc && i < p.n; i++) {
        struct array *a = &p.a[i];
        if (a->gradient < 0 || (a->type != PW_F64 && a->type != PW_F32)) continue;
        double h = a->type == PW_F32 ? 1.0 / 64 : 1e-5; /* truncation h^2 f''' / 6, rounding 1e-16 |f| / h: both far below 1e-7 */
        for (int64_t j = 0; !rc && j < count(a); j++) {
            double at = a->start[j], plus = 0, minus = 0;
            a->start[j] = at + h;
            rc = objective(&p, ref, &plus, why, room);
            a->start[j] = at - h;
            rc = rc ? rc : objective(&p, ref, &minus, why, room);
            a->start[j] = at;
            double want = p.a[a->gradient].start[j] + (plus - minus) / (2 * h), got = get(s.t[a->gradient], j);
            checked++;
            if (!rc && !(fabs(got - want) <= 1e-7 * (1 + fabs(want)))) {
                snprintf(why, room, "%s[%lld]: gradient %.12g, by differences %.12g", p.a[a->gradient].name, (long long)j, got, want);
                rc = -1;
            }
        }
    }
    if (!rc && !checked) {
        snprintf(why, room, "no gradient was checked");
        rc = -1;
    }
    set_free(&s);
    problem_free(&p);
    return rc;
}
