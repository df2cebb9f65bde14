/* Checks of tensors, weights and sequences before an op is called (see the header). */
#include "kernels/op_check.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "kernels/blocks.h"

/* ---- one tensor ---- */

static void describe(char *out, size_t room, int ndim, const int64_t *shape, const char *type)
{
    size_t at = 0;
    out[0] = 0;
    for (int i = 0; i < ndim && at < room; i++) at += (size_t)snprintf(out + at, room - at, "%s%" PRId64, i ? ", " : "(", shape[i]);
    if (at < room) snprintf(out + at, room - at, ") %s", type);
}

int op_shape(const char *op, const char *name, struct pw_tensor t, enum pw_dtype type, int ndim, const int64_t *shape)
{
    bool same = t.data && t.dtype == type && t.ndim == ndim;
    for (int i = 0; same && i < ndim; i++) same = t.shape[i] == shape[i];
    if (!same) {
        char want[128], got[128] = "none";
        describe(want, sizeof want, ndim, shape, pw_dtype_name(type));
        if (t.data) describe(got, sizeof got, t.ndim < 0 ? 0 : t.ndim > 4 ? 4 : t.ndim, t.shape, pw_dtype_name(t.dtype));
        return pw_error(PW_E_FAIL, "%s: %s: expected %s, got %s", op, name, want, got);
    }
    PW_CHECK(pw_contiguous(t), PW_E_FAIL, "%s: %s: expected contiguous rows, got strides", op, name);
    return 0;
}
int op_want1(const char *op, const char *name, struct pw_tensor t, enum pw_dtype type, int64_t a)
{
    return op_shape(op, name, t, type, 1, (int64_t[]){ a });
}
int op_want2(const char *op, const char *name, struct pw_tensor t, enum pw_dtype type, int64_t a, int64_t b)
{
    return op_shape(op, name, t, type, 2, (int64_t[]){ a, b });
}
int op_want3(const char *op, const char *name, struct pw_tensor t, enum pw_dtype type, int64_t a, int64_t b, int64_t c)
{
    return op_shape(op, name, t, type, 3, (int64_t[]){ a, b, c });
}
int op_want_like(const char *op, const char *name, struct pw_tensor t, struct pw_tensor like)
{
    return op_shape(op, name, t, like.dtype, like.ndim, like.shape);
}

bool op_is_float(enum pw_dtype t) { return t == PW_F32 || t == PW_F64 || t == PW_F16 || t == PW_BF16; }
bool op_is_ref(const struct pw_dev *dev) { return strcmp(dev->kind, "ref") == 0; }
/* The type of parameters, statistics and gradients of parameters beside activations of type `act`. */
enum pw_dtype op_wide_of(enum pw_dtype act) { return act == PW_F64 ? PW_F64 : PW_F32; }

static int lead_shape(const char *op, const char *name, struct pw_tensor t, int ndim)
{
    PW_CHECK(t.ndim >= 1 && t.ndim <= 4 && (!ndim || t.ndim == ndim), PW_E_FAIL, "%s: %s: expected %d dimensions, got %d", op, name, ndim, t.ndim);
    for (int i = 0; i < t.ndim; i++)
        PW_CHECK(t.shape[i] >= 0, PW_E_FAIL, "%s: %s: dimension %d is negative (%" PRId64 ")", op, name, i, t.shape[i]);
    PW_CHECK(pw_contiguous(t), PW_E_FAIL, "%s: %s: expected contiguous rows, got strides", op, name);
    return 0;
}

/* The tensor that sets the sizes and the type of a call: present, `ndim` dimensions, contiguous, of the device's type of activations (or f64 on ref). */
int op_lead(const struct pw_dev *dev, const char *op, const char *name, struct pw_tensor t, int ndim)
{
    PW_CHECK(t.data, PW_E_FAIL, "%s: %s: expected a tensor, got none", op, name);
    PW_CHECK(t.dtype == dev->act || (t.dtype == PW_F64 && op_is_ref(dev)), PW_E_FAIL, "%s: %s: expected %s, got %s", op, name, pw_dtype_name(dev->act),
             pw_dtype_name(t.dtype));
    return lead_shape(op, name, t, ndim);
}
/* The same for parameters and what goes with them: f32 (or f64 on ref). */
int op_lead_wide(const struct pw_dev *dev, const char *op, const char *name, struct pw_tensor t, int ndim)
{
    PW_CHECK(t.data, PW_E_FAIL, "%s: %s: expected a tensor, got none", op, name);
    PW_CHECK(t.dtype == PW_F32 || (t.dtype == PW_F64 && op_is_ref(dev)), PW_E_FAIL, "%s: %s: expected f32, got %s", op, name, pw_dtype_name(t.dtype));
    return lead_shape(op, name, t, ndim);
}
/* Either of the two. */
int op_lead_any(const struct pw_dev *dev, const char *op, const char *name, struct pw_tensor t, int ndim)
{
    return t.data && t.dtype == PW_F32 ? op_lead_wide(dev, op, name, t, ndim) : op_lead(dev, op, name, t, ndim);
}

/* ---- aliasing ---- */

bool op_overlap(const void *a, size_t na, const void *b, size_t nb)
{
    if (!a || !b || !na || !nb) return false;
    uintptr_t x = (uintptr_t)a, y = (uintptr_t)b;
    return x < y ? na > y - x : nb > x - y;
}
/* No output may touch another output or an input. */
int op_apart(const char *op, const struct named *outs, int n_outs, const struct named *ins, int n_ins)
{
    for (int i = 0; i < n_outs; i++) {
        const struct named *o = &outs[i];
        for (int j = i + 1; j < n_outs; j++)
            PW_CHECK(!op_overlap(o->t.data, pw_bytes(o->t), outs[j].t.data, pw_bytes(outs[j].t)), PW_E_FAIL, "%s: %s and %s share memory", op, o->name, outs[j].name);
        for (int j = 0; j < n_ins; j++)
            PW_CHECK(!op_overlap(o->t.data, pw_bytes(o->t), ins[j].t.data, pw_bytes(ins[j].t)), PW_E_FAIL, "%s: %s and %s share memory", op, o->name, ins[j].name);
    }
    return 0;
}
/* out may be exactly x, but not overlap it otherwise */
int op_same_or_apart(const char *op, const char *name, struct pw_tensor out, const char *in_name, struct pw_tensor x)
{
    PW_CHECK(out.data == x.data || !op_overlap(out.data, pw_bytes(out), x.data, pw_bytes(x)), PW_E_FAIL, "%s: %s overlaps %s without being it", op, name, in_name);
    return 0;
}

/* ---- ids, weights, sequences ---- */

int op_ids_in(const struct pw_dev *dev, const char *op, const char *name, struct pw_tensor ids, int64_t low, int64_t limit)
{
    if (!dev->host) return 0; /* other backends look at them where they are */
    const int32_t *id = ids.data;
    for (int64_t i = 0; i < ids.shape[0]; i++)
        PW_CHECK(id[i] >= low && id[i] < limit, PW_E_FAIL, "%s: %s[%" PRId64 "]: expected %" PRId64 " to %" PRId64 ", got %" PRId32, op, name, i, low, limit - 1, id[i]);
    return 0;
}

int op_good_weight(const struct pw_dev *dev, const char *op, const struct pw_weight *w, enum pw_dtype type)
{
    PW_CHECK(w && w->data, PW_E_FAIL, "%s: w: expected a weight, got none", op);
    PW_CHECK(w->n_out >= 1 && w->n_in >= 1, PW_E_FAIL, "%s: w: expected positive sizes, got (%" PRId64 ", %" PRId64 ")", op, w->n_out, w->n_in);
    switch (w->type) {
    case PW_Q_DENSE:
        if (type == PW_F64) PW_CHECK(op_is_float(w->dtype), PW_E_FAIL, "%s: w: expected a float type, got %s", op, pw_dtype_name(w->dtype));
        else PW_CHECK(op_is_float(w->dtype) && w->dtype != PW_F64, PW_E_FAIL, "%s: w: expected f32, f16 or bf16, got %s", op, pw_dtype_name(w->dtype));
        break;
    case PW_Q_NF4:
    case PW_Q_FP4:
        PW_CHECK(w->block >= 2 && w->block % 2 == 0, PW_E_FAIL, "%s: w: expected an even block size, got %d", op, w->block);
        if (w->absmax_q) PW_CHECK(w->nested_absmax && w->nested_code && w->nested_block >= 1, PW_E_FAIL, "%s: w: nested scales without their tables", op);
        else PW_CHECK(w->absmax, PW_E_FAIL, "%s: w: %s without absmax", op, pw_qtype_name(w->type));
        break;
    case PW_Q_INT8:
        PW_CHECK(w->absmax, PW_E_FAIL, "%s: w: int8 without absmax", op);
        break;
    default: {
        const struct pw_block_type *b = pw_block_type(w->type);
        PW_CHECK(b, PW_E_FAIL, "%s: w: unknown weight type %d", op, (int)w->type);
        PW_CHECK(w->n_in % b->elements == 0, PW_E_FAIL, "%s: w: expected rows of whole %s blocks of %d, got %" PRId64 " elements", op, b->name, b->elements, w->n_in);
    }
    }
    if (w->lora) {
        PW_CHECK(w->lora->r >= 1, PW_E_FAIL, "%s: w: adapter of rank %d", op, w->lora->r);
        PW_PASS(op_want2(op, "lora.a", w->lora->a, op_wide_of(type), w->lora->r, w->n_in));
        PW_PASS(op_want2(op, "lora.b", w->lora->b, op_wide_of(type), w->n_out, w->lora->r));
        if (pw_weight_is_dora(w)) {
            PW_PASS(op_want1(op, "lora.magnitude", w->lora->magnitude, op_wide_of(type), w->n_out));
            PW_PASS(op_want1(op, "lora.norm", w->lora->norm, op_wide_of(type), w->n_out));
        }
    }
    (void)dev;
    return 0;
}

int op_good_drop(const char *op, struct pw_drop drop, const struct pw_lora *lora, bool experts)
{
    PW_CHECK(experts || !drop.rows, PW_E_FAIL, "%s: dropout: rows of the mask of their own are for experts", op);
    PW_CHECK(drop.p >= 0 && drop.p < 1, PW_E_FAIL, "%s: dropout: expected 0 <= p < 1, got %g", op, drop.p);
    PW_CHECK(!(drop.p > 0) || !lora || lora->magnitude.ndim == 0 || lora->drops, PW_E_FAIL, "%s: dropout: expected an adapter that says it drops, got one with a magnitude that does not", op);
    return 0;
}

int op_enough(const struct pw_dev *dev, const char *op, size_t bytes)
{
    PW_CHECK(bytes <= dev->scratch_bytes, PW_E_FAIL, "%s: scratch: expected %zu bytes, device %s has %zu", op, bytes, dev->kind, dev->scratch_bytes);
    return 0;
}

/* Rows, or with pages places in their list, of one range of keys. */
static int good_range(const char *op, const struct pw_seqs *s, int seq, const char *what, int64_t start, int64_t len, int64_t pool)
{
    if (!s->pages) {
        PW_CHECK(start >= 0 && start <= pool && len <= pool - start, PW_E_FAIL, "%s: seqs: sequence %d: %s %" PRId64 " + %" PRId64 " outside the %" PRId64 " rows there are", op, seq, what, start, len, pool);
        return 0;
    }
    const int64_t n = (len + s->page - 1) / s->page;
    PW_CHECK(start >= 0 && start <= s->n_pages && n <= s->n_pages - start, PW_E_FAIL, "%s: seqs: sequence %d: %s: %" PRId64 " pages from place %" PRId64 " on, outside the %" PRId64 " that are listed", op,
             seq, what, n, start, s->n_pages);
    return 0;
}
static int good_pages(const char *op, const struct pw_seqs *s, int64_t pool, bool backward)
{
    if (!s->pages) return 0;
    PW_CHECK(!backward, PW_E_FAIL, "%s: seqs: there is no backward pass over pages", op);
    PW_CHECK(s->page >= 1 && s->page <= INT32_MAX && s->n_pages >= 0 && s->n_pages <= INT32_MAX, PW_E_FAIL, "%s: seqs: %" PRId64 " pages of %" PRId64 " rows", op, s->n_pages, s->page);
    for (int64_t i = 0; i < s->n_pages; i++)
        PW_CHECK(s->pages[i] >= 0 && s->pages[i] < pool / s->page, PW_E_FAIL, "%s: seqs: page %d at place %" PRId64 " outside the %" PRId64 " pages there are", op, s->pages[i], i, pool / s->page);
    return 0;
}

int op_good_seqs(const char *op, const struct pw_seqs *s, int64_t rows, int64_t pool, bool backward)
{
    PW_CHECK(s && s->n >= 0, PW_E_FAIL, "%s: seqs: expected a list of sequences, got none", op);
    PW_CHECK(s->n == 0 || (s->q_start && s->kv_start && s->kv_len), PW_E_FAIL, "%s: seqs: a list is missing", op);
    PW_CHECK(!s->prefix_start == !s->prefix_len, PW_E_FAIL, "%s: seqs: prefix_start and prefix_len go together", op);
    PW_CHECK(s->n == 0 ? rows == 0 : s->q_start[0] == 0 && s->q_start[s->n] == rows, PW_E_FAIL, "%s: seqs: expected query rows 0 to %" PRId64 " to be covered", op, rows);
    PW_PASS(good_pages(op, s, pool, backward));
    int64_t taken = 0; /* own key rows before this one belong to earlier sequences */
    for (int i = 0; i < s->n; i++) {
        int64_t n_q = (int64_t)s->q_start[i + 1] - s->q_start[i], start = s->kv_start[i], len = s->kv_len[i];
        PW_CHECK(n_q >= 0, PW_E_FAIL, "%s: seqs: q_start falls from %d to %d at sequence %d", op, s->q_start[i], s->q_start[i + 1], i);
        PW_CHECK(len >= n_q, PW_E_FAIL, "%s: seqs: sequence %d has %" PRId64 " queries and only %" PRId64 " keys", op, i, n_q, len);
        PW_PASS(good_range(op, s, i, "keys", start, len, pool));
        if (s->prefix_len) {
            int64_t at = s->prefix_start[i], n = s->prefix_len[i];
            PW_CHECK(n >= 0, PW_E_FAIL, "%s: seqs: sequence %d: a prefix of %" PRId64 " keys", op, i, n);
            if (n > 0) PW_PASS(good_range(op, s, i, "prefix", at, n, pool));
        }
        PW_CHECK(!s->most_keys || len + (s->prefix_len ? s->prefix_len[i] : 0) <= s->most_keys, PW_E_FAIL, "%s: seqs: sequence %d has more keys than the %" PRId64 " that are planned for", op, i,
                 s->most_keys);
        /* backward adds to a sequence's own key rows without locks */
        if (backward && len) {
            PW_CHECK(start >= taken, PW_E_FAIL, "%s: seqs: keys of sequence %d begin at row %" PRId64 ", before row %" PRId64 " where those of an earlier one end", op, i, start, taken);
            taken = start + len;
        }
    }
    return 0;
}

/* A failure of the device itself: over what. */
int op_over(int rc, struct pw_tensor x)
{
    char shape[96];
    int at = 0;
    if (rc >= 0)
        return rc;
    for (int i = 0; i < x.ndim; i++)
        at += snprintf(shape + at, sizeof shape - (size_t)at, "%s%lld", i ? ", " : "", (long long)x.shape[i]);
    return pw_error_while(rc, "computing over %s (%s)", pw_dtype_name(x.dtype), at ? shape : "");
}

struct pw_tensor op_weight_view(const struct pw_weight *w)
{
    return pw_tensor1((void *)(uintptr_t)w->data, PW_U8, (int64_t)pw_weight_data_bytes(w));
}
