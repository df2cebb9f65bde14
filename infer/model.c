/* A model in memory: which tensor of the checkpoint goes where, as what type, and whose bytes it uses.
 *
 * Loading has three steps: collect views of what is stored (no bytes move), count what has to be made (widened norms, converted or
 * quantised weights, rotary tables), then take one pool of exactly that size and fill it. What can be used from the mapping stays there.
 * Knows nothing of tokens, batches or training. */
#include "infer/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "infer/memory_limit.h"
#include "infer/model_parts.h"
#include "quant/stage.h"

/* ---- what to do with stored weights --------------------------------------------------------------------------------- */

struct plan {                  /* --type, resolved, and where weights are made */
    bool quantise;             /* block linears */
    bool convert;              /* all weights to `type` */
    bool copy;                 /* even those that have the type already: they will be written to */
    enum pw_dtype type;
    struct pw_quant_options quant;
    bool head;                 /* the output layer is quantised, as quant_head says */
    struct pw_quant_options quant_head;
    bool embed_host;
    int stream;                /* so many blocks go to the slots of m->stream */
    bool device;               /* the model's device is not the host: everything is made in `stage`, then moved to the pool */
    struct pw_dev *maker;      /* a host device */
    struct pw_pool stage;
    struct pw_pool *into;      /* where weights go: the model's pool, or a slot */
    struct pw_quant_stage there; /* block linears are quantised by the device itself */
};

static int resolve(struct plan *p, const struct pw_model_options *opt)
{
    const char *type = opt->quantise ? opt->quantise : "";
    static const struct { const char *name; enum pw_dtype type; } dense[] = {{"f32", PW_F32}, {"bf16", PW_BF16}, {"f16", PW_F16}};
    *p = (struct plan){0};
    if (opt->trainable) {
        PW_CHECK(!type[0] || strcmp(type, "f32") == 0, PW_E_USAGE, "full training keeps its weights in f32, got --type %s", type);
        p->convert = p->copy = true;
        p->type = PW_F32;
        return 0;
    }
    if (opt->head_type && opt->head_type[0]) {
        PW_TRY(pw_quant_parse(opt->head_type, &p->quant_head), "the type of the output layer");
        p->head = true;
    }
    if (!type[0])
        return 0;
    for (size_t i = 0; i < sizeof dense / sizeof dense[0]; i++)
        if (strcmp(type, dense[i].name) == 0) {
            p->convert = true;
            p->type = dense[i].type;
            return 0;
        }
    PW_PASS(pw_quant_parse(type, &p->quant));
    p->quant.double_quant = opt->double_quant;
    p->quantise = true;
    return 0;
}

static bool aligned(const void *data, enum pw_dtype t)
{
    return (uintptr_t)data % pw_dtype_bytes(t) == 0;
}

/* Must this dense tensor be made anew, and how large is it then? 0 = used where it is. */
static size_t dense_bytes(const struct plan *p, const void *data, enum pw_dtype type, int64_t count)
{
    const enum pw_dtype to = p->convert ? p->type : type;
    if (to == type && !p->copy && !p->device && aligned(data, type))
        return 0;
    return pw_pool_round((size_t)count * pw_dtype_bytes(to));
}

/* What is quantised, and how: linears of blocks, and the output layer. A router is as it is stored: it is small, and what it chooses is not a matter of degree. */
static const struct pw_quant_options *quant_of(const struct plan *p, enum pw_place where)
{
    return where == PW_PLACE_HEAD ? (p->head ? &p->quant_head : NULL) : where == PW_PLACE_BLOCK && p->quantise ? &p->quant : NULL;
}

static size_t weight_need(const struct plan *p, const struct pw_weight *w, enum pw_place where)
{
    const struct pw_quant_options *quant = quant_of(p, where);
    size_t bytes = w->bias ? pw_pool_round((size_t)w->n_out * sizeof(float)) : 0;
    if (w->type != PW_Q_DENSE && !p->convert && p->device) {
        struct pw_weight bare = *w;
        bare.bias = NULL;
        return bytes + pw_weight_put_bytes(&bare);
    }
    if (w->type != PW_Q_DENSE)
        return bytes + (p->convert ? pw_pool_round((size_t)(w->n_out * w->n_in) * pw_dtype_bytes(p->type)) : 0);
    if (quant)
        return bytes + pw_pool_round(pw_quant_bytes(w->n_out, w->n_in, quant));
    return bytes + dense_bytes(p, w->data, w->dtype, w->n_out * w->n_in);
}

/* Is another made from it, in memory or on the device, so that its bytes of the file are not read again? */
static bool leaves(const struct pw_model *m, const struct plan *p, const struct pw_weight *w, enum pw_place where)
{
    struct pw_weight bare = *w;
    bare.bias = NULL;
    return weight_need(p, &bare, where) > 0 && pw_checkpoint_is_mapped(m->checkpoint, w->data);
}

/* Does the device itself quantise this weight? Then nothing of it is made in the stage but its bias. */
static bool made_there(const struct plan *p, const struct pw_model *m, const struct pw_weight *w, enum pw_place where)
{
    const struct pw_quant_options *quant = quant_of(p, where);
    return p->device && quant && w->type == PW_Q_DENSE && pw_quant_stage_serves(m->dev, quant->type);
}

/* ---- making ---------------------------------------------------------------------------------------------------------- */

static void *take(struct pw_model *m, struct plan *p, size_t bytes)
{
    return pw_pool_take(p->device ? &p->stage : &m->pool, bytes);
}

/* A copy in the pool, converted. Source rows that are not aligned for their type are moved to an aligned place first. */
static int convert(struct pw_model *m, struct plan *p, struct pw_tensor *t, enum pw_dtype to)
{
    struct pw_tensor src = *t, dst = *t;
    dst.dtype = to;
    dst.data = take(m, p, (size_t)pw_count(src) * pw_dtype_bytes(to));
    PW_CHECK(dst.data, PW_E_NOMEM, "no room for a copy of %lld elements", (long long)pw_count(src));
    if (src.dtype == to)
        memcpy(dst.data, src.data, pw_bytes(src));
    else if (aligned(src.data, src.dtype))
        PW_PASS(pw_copy(p->maker, dst, src));
    else {
        void *moved = pw_alloc(pw_bytes(src));
        PW_CHECK(moved, PW_E_NOMEM, "out of memory for %zu bytes", pw_bytes(src));
        memcpy(moved, src.data, pw_bytes(src));
        src.data = moved;
        const int rc = pw_copy(p->maker, dst, src);
        pw_free(moved);
        PW_PASS(rc);
    }
    *t = dst;
    return 0;
}

/* A 4-bit or 8-bit weight made dense, a tile of rows at a time. */
static int widen(struct pw_model *m, struct plan *p, struct pw_weight *w, enum pw_dtype to)
{
    const int64_t tile = to == PW_F32 ? w->n_out : 64;
    struct pw_tensor dst = pw_tensor2(take(m, p, (size_t)(w->n_out * w->n_in) * pw_dtype_bytes(to)), to, w->n_out, w->n_in);
    float *rows = NULL;
    int rc = 0;
    PW_CHECK_OUT(dst.data, PW_E_NOMEM, "no room for a dense copy");
    if (to != PW_F32) {
        rows = pw_alloc((size_t)(tile * w->n_in) * sizeof *rows);
        PW_CHECK_OUT(rows, PW_E_NOMEM, "out of memory for a tile");
    }
    for (int64_t at = 0; at < w->n_out; at += tile) {
        const int64_t n = w->n_out - at < tile ? w->n_out - at : tile;
        struct pw_tensor out = pw_rows(dst, at, n), wide = rows ? pw_tensor2(rows, PW_F32, n, w->n_in) : out;
        PW_PASS_OUT(pw_decode(p->maker, wide, w, at));
        if (rows)
            PW_PASS_OUT(pw_copy(p->maker, out, wide));
    }
    {
        const float *bias = w->bias;
        *w = pw_weight_dense(dst);
        w->bias = bias;
    }
out:
    pw_free(rows);
    return rc;
}

static int make_weight(struct pw_model *m, struct plan *p, struct pw_weight *w, enum pw_place where)
{
    const struct pw_quant_options *quant = quant_of(p, where);
    if (w->type != PW_Q_DENSE) {
        if (p->convert)
            return widen(m, p, w, p->type);
        if (quant && w->type != quant->type) {
            const int rc = pw_error(PW_E_UNSUPPORTED, "the weight is stored as %s and cannot be quantised again to %s", pw_qtype_name(w->type),
                                    pw_qtype_name(quant->type));
            pw_error_hint("leave --type away, or begin with the unquantised model");
            return rc;
        }
        return 0;
    }
    struct pw_tensor t = pw_tensor2((void *)(uintptr_t)w->data, w->dtype, w->n_out, w->n_in);
    if (quant) {
        struct pw_weight made = {0};
        const size_t bytes = pw_quant_bytes(w->n_out, w->n_in, quant);
        void *memory = take(m, p, bytes);
        PW_CHECK(memory, PW_E_NOMEM, "no room for the quantised weight");
        PW_PASS(pw_quant_place(&made, w->n_out, w->n_in, quant, memory, bytes));
        PW_PASS(pw_quant_encode(p->maker, &made, t, quant));
        made.bias = w->bias;
        *w = made;
        return 0;
    }
    const enum pw_dtype to = p->convert ? p->type : w->dtype;
    /* what a device gets as it is stored goes there from the mapping, without a copy in the stage */
    if (p->device ? to != w->dtype || !aligned(w->data, to) : dense_bytes(p, w->data, w->dtype, pw_count(t)) > 0) {
        PW_PASS(convert(m, p, &t, to));
        w->data = t.data;
        w->dtype = t.dtype;
    }
    return 0;
}

static int place_made_there(struct pw_model *m, struct plan *p, struct pw_weight *w, enum pw_place where)
{
    const struct pw_quant_options *quant = quant_of(p, where);
    const size_t bytes = pw_quant_bytes(w->n_out, w->n_in, quant), bias_bytes = w->bias ? (size_t)w->n_out * sizeof(float) : 0;
    struct pw_weight made = {0};
    void *memory = pw_pool_take(p->into, bytes), *bias = bias_bytes ? pw_pool_take(p->into, bias_bytes) : NULL;
    PW_CHECK(memory && (bias || !bias_bytes), PW_E_NOMEM, "no room for a weight on device %s", m->dev->kind);
    PW_PASS(pw_quant_place(&made, w->n_out, w->n_in, quant, memory, bytes));
    PW_PASS(pw_quant_stage_encode(&p->there, &made, pw_tensor2((void *)(uintptr_t)w->data, w->dtype, w->n_out, w->n_in)));
    if (bias)
        PW_PASS(pw_dev_put(m->dev, bias, w->bias, bias_bytes));
    made.bias = bias;
    *w = made;
    p->stage.used = 0;
    return 0;
}

/* A made weight where it stays. On a device: its parts from the stage, or from the mapping, to the pool; the stage is free again. */
static int make_and_put(struct pw_model *m, struct plan *p, struct pw_weight *w, enum pw_place where)
{
    if (made_there(p, m, w, where))
        return place_made_there(m, p, w, where);
    PW_PASS(make_weight(m, p, w, where));
    if (!p->device)
        return 0;
    void *memory = pw_pool_take(p->into, pw_weight_put_bytes(w));
    PW_CHECK(memory, PW_E_NOMEM, "no room for a weight on device %s", m->dev->kind);
    PW_PASS(pw_weight_put(m->dev, memory, w));
    p->stage.used = 0;
    return 0;
}

/* The same, and what it was made from is given back. */
static int place_weight(struct pw_model *m, struct plan *p, struct pw_weight *w, enum pw_place where)
{
    const struct pw_weight stored = *w;
    const bool gone = leaves(m, p, w, where);
    PW_PASS(make_and_put(m, p, w, where));
    if (gone)
        pw_checkpoint_forget(m->checkpoint, stored.data, pw_weight_data_bytes(&stored));
    return 0;
}

static int place_tensor(struct pw_model *m, struct plan *p, struct pw_tensor *t, enum pw_dtype type)
{
    if (!p->device)
        return convert(m, p, t, type);
    if (t->dtype != type || !aligned(t->data, type))
        PW_PASS(convert(m, p, t, type));
    void *memory = pw_pool_take(&m->pool, pw_bytes(*t));
    PW_CHECK(memory, PW_E_NOMEM, "no room for a tensor on device %s", m->dev->kind);
    PW_PASS(pw_dev_put(m->dev, memory, t->data, pw_bytes(*t)));
    t->data = memory;
    p->stage.used = 0;
    return 0;
}

/* ---- the weights of a layer ----------------------------------------------------------------------------------------- */

struct pw_weight *pw_model_next_weight(const struct pw_model *m, int layer, int *at, enum pw_place *where)
{
    struct pw_layer *l = &m->layers[layer];
    for (; *at < PW_LIN_COUNT; ++*at)
        if (pw_layer_has(&m->config, layer, *at)) {
            *where = PW_PLACE_BLOCK;
            return &l->linear[(*at)++];
        }
    const int i = *at - PW_LIN_COUNT - 1;
    if (!l->moe || i >= PW_EXPERT_PARTS * m->config.experts)
        return NULL;
    ++*at;
    *where = i < 0 ? PW_PLACE_ROUTER : PW_PLACE_BLOCK;
    return i < 0 ? &l->moe->router : &l->moe->part[i % PW_EXPERT_PARTS][i / PW_EXPERT_PARTS];
}

/* The name of what pw_model_next_weight has just given. */
static const char *name_of(const struct pw_model *m, int at, char name[PW_EXPERT_NAME])
{
    const int i = at - PW_LIN_COUNT - 2;
    if (at <= PW_LIN_COUNT)
        return pw_linear_suffix(at - 1);
    if (i < 0)
        return pw_router_suffix(&m->config);
    pw_expert_suffix(&m->config, i / PW_EXPERT_PARTS, i % PW_EXPERT_PARTS, name);
    return name;
}

/* ---- collecting ----------------------------------------------------------------------------------------------------- */

static int collect_layer(struct pw_model *m, int i)
{
    struct pw_checkpoint *c = m->checkpoint;
    struct pw_layer *layer = &m->layers[i];
    char name[160];
    for (int n = 0; n < PW_NORM_COUNT; n++) {
        layer->norm[n] = pw_none();
        if (!pw_norm_suffix(&m->config, n))
            continue;
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", i, pw_norm_suffix(&m->config, n));
        PW_PASS(pw_checkpoint_tensor(c, name, pw_norm_width(&m->config, n), 0, &layer->norm[n]));
    }
    for (int l = 0; l < PW_LIN_COUNT; l++) {
        int64_t n_out, n_in;
        if (!pw_layer_has(&m->config, i, l))
            continue;
        pw_linear_shape(&m->config, l, &n_out, &n_in);
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", i, pw_linear_suffix(l));
        PW_PASS(pw_checkpoint_weight(c, name, n_out, n_in, &layer->linear[l]));
        if (pw_linear_biased(&m->config, l)) {          /* the view's address stands in until the vector is widened in place_layer */
            struct pw_tensor bias;
            snprintf(name, sizeof name, "model.layers.%d.%s.bias", i, pw_linear_suffix(l));
            PW_PASS(pw_checkpoint_tensor(c, name, n_out, 0, &bias));
            layer->linear[l].bias = bias.data;
        }
    }
    if (!layer->moe)
        return 0;
    PW_PASS(pw_checkpoint_router(c, i, &layer->moe->router));
    for (int e = 0; e < m->config.experts; e++)
        for (int p = 0; p < PW_EXPERT_PARTS; p++)
            PW_PASS(pw_checkpoint_expert(c, i, e, p, &layer->moe->part[p][e]));
    return 0;
}

/* The stored bias as f32 that place_weight takes along; on a device it is made in the stage. */
static int make_bias(struct pw_model *m, struct plan *p, int i, int l)
{
    struct pw_weight *w = &m->layers[i].linear[l];
    struct pw_tensor bias;
    char name[160];
    snprintf(name, sizeof name, "model.layers.%d.%s.bias", i, pw_linear_suffix(l));
    PW_PASS(pw_checkpoint_tensor(m->checkpoint, name, w->n_out, 0, &bias));
    PW_PASS(convert(m, p, &bias, PW_F32));
    w->bias = bias.data;
    return 0;
}

static int collect(struct pw_model *m)
{
    struct pw_checkpoint *c = m->checkpoint;
    const struct pw_model_config *k = &m->config;
    PW_PASS(pw_checkpoint_weight(c, pw_checkpoint_embed_name(c), k->vocab, k->hidden, &m->embed));
    PW_PASS(pw_checkpoint_tensor(c, "model.norm.weight", k->hidden, 0, &m->norm_final));
    if (k->tied)
        m->head = m->embed;
    else
        PW_PASS(pw_checkpoint_weight(c, pw_checkpoint_head_name(c), k->vocab, k->hidden, &m->head));
    for (int i = 0; i < k->layers; i++)
        PW_TRY(collect_layer(m, i), "layer %d", i);
    return pw_checkpoint_all_used(c);
}

/* Is the head a weight of its own? A tied one is not, unless it is quantised. */
static bool own_head(const struct pw_model *m, const struct plan *p)
{
    return !m->config.tied || p->head;
}

static size_t block_need(const struct pw_model *m, const struct plan *p, int layer)
{
    size_t bytes = 0;
    enum pw_place where;
    const struct pw_weight *w;
    for (int at = 0; (w = pw_model_next_weight(m, layer, &at, &where));)
        bytes += weight_need(p, w, where);
    return bytes;
}

static size_t need(const struct pw_model *m, const struct plan *p)
{
    const struct pw_model_config *k = &m->config;
    const size_t norm = pw_pool_round((size_t)k->hidden * sizeof(float));
    size_t bytes = norm;
    bytes += p->embed_host ? 0 : weight_need(p, &m->embed, PW_PLACE_EMBED);
    if (own_head(m, p))
        bytes += weight_need(p, &m->head, PW_PLACE_HEAD);
    for (int i = 0; i < k->layers; i++) {
        for (int n = 0; n < PW_NORM_COUNT; n++)
            bytes += pw_norm_suffix(k, n) ? pw_pool_round((size_t)pw_norm_width(k, n) * sizeof(float)) : 0;
        bytes += pw_stream_waits(k->layers, p->stream, i) ? 0 : block_need(m, p, i);
    }
    return bytes;
}

/* Bytes of the mapped file that leave with this weight. */
static size_t leaving(const struct pw_model *m, const struct plan *p, const struct pw_weight *w, enum pw_place where)
{
    return leaves(m, p, w, where) ? pw_weight_data_bytes(w) : 0;
}

/* Of the model's files what stays resident, with the largest weight that does not: it is there while another is made from it. Small tensors count as staying. */
static size_t mapped_need(const struct pw_model *m, const struct plan *p)
{
    const size_t all = pw_checkpoint_bytes(m->checkpoint), embed = leaving(m, p, &m->embed, PW_PLACE_EMBED), head = m->config.tied ? 0 : leaving(m, p, &m->head, PW_PLACE_HEAD);
    size_t gone = embed + head, most = embed > head ? embed : head;
    for (int i = 0; i < m->config.layers; i++) {
        enum pw_place where;
        const struct pw_weight *w;
        for (int at = 0; (w = pw_model_next_weight(m, i, &at, &where));) {
            const size_t bytes = leaving(m, p, w, where);
            gone += bytes;
            most = bytes > most ? bytes : most;
        }
    }
    return all > gone ? all - gone + most : most;
}

/* What of a weight is made in the stage. What the device gets as it is stored, and what it quantises itself, goes there from the mapping: only a bias is made. */
static size_t stage_need(const struct pw_model *m, const struct plan *p, const struct pw_weight *w, enum pw_place where)
{
    const enum pw_dtype to = p->convert ? p->type : w->dtype;
    const bool stored = w->type != PW_Q_DENSE ? !p->convert : !quant_of(p, where) && to == w->dtype && aligned(w->data, to);
    return stored || made_there(p, m, w, where) ? (w->bias ? pw_pool_round((size_t)w->n_out * sizeof(float)) : 0) : weight_need(p, w, where);
}

/* The most that is in the stage at once: one tensor, or one weight with its bias. */
static size_t largest(const struct pw_model *m, const struct plan *p)
{
    size_t most = stage_need(m, p, &m->embed, PW_PLACE_EMBED), n;
    if (own_head(m, p) && (n = stage_need(m, p, &m->head, PW_PLACE_HEAD)) > most)
        most = n;
    for (int i = 0; i < m->config.layers; i++) {
        enum pw_place where;
        const struct pw_weight *w;
        for (int at = 0; (w = pw_model_next_weight(m, i, &at, &where));)
            if ((n = stage_need(m, p, w, where)) > most)
                most = n;
    }
    return most + pw_pool_round((size_t)m->config.hidden * sizeof(float));
}

static void room_there(struct pw_quant_stage_size *size, const struct pw_model *m, const struct plan *p, const struct pw_weight *w, enum pw_place where)
{
    if (!made_there(p, m, w, where))
        return;
    size->widest = w->n_in > size->widest ? w->n_in : size->widest;
    size->most = w->n_out * w->n_in > size->most ? w->n_out * w->n_in : size->most;
    size->block = quant_of(p, where)->block > size->block ? quant_of(p, where)->block : size->block;
}

/* The device's own place for quantising, when it will quantise anything. */
static int open_there(struct pw_model *m, struct plan *p)
{
    struct pw_quant_stage_size size = {0};
    room_there(&size, m, p, &m->head, PW_PLACE_HEAD);
    for (int i = 0; i < m->config.layers; i++) {
        enum pw_place where;
        const struct pw_weight *w;
        for (int at = 0; (w = pw_model_next_weight(m, i, &at, &where));)
            room_there(&size, m, p, w, where);
    }
    return size.most ? pw_quant_stage_open(&p->there, m->dev, &size) : 0;
}

/* On the host of a device: rows are read over the bus. */
static int pin_embed(struct pw_model *m, struct plan *p)
{
    PW_PASS(make_weight(m, p, &m->embed, PW_PLACE_EMBED));
    PW_CHECK(!m->embed.absmax && !m->embed.absmax_q, PW_E_UNSUPPORTED, "an embedding in %s cannot stay on the host", pw_qtype_name(m->embed.type));
    PW_TRY(pw_dev_pinned(m->dev, &m->embed_pinned, pw_weight_data_bytes(&m->embed)), "taking host memory for the embedding");
    memcpy(m->embed_pinned, m->embed.data, pw_weight_data_bytes(&m->embed));
    m->embed.data = m->embed_pinned;
    p->stage.used = 0;
    return 0;
}

/* The system reads the next weight from the file while this one is made. */
static void read_ahead(const struct pw_model *m, int layer, int at)
{
    enum pw_place where;
    const struct pw_weight *w = pw_model_next_weight(m, layer, &at, &where);
    if (!w && layer + 1 < m->config.layers) {
        at = 0;
        w = pw_model_next_weight(m, layer + 1, &at, &where);
    }
    if (w)
        pw_memory_ahead(w->data, pw_weight_data_bytes(w));
}

static int place(struct pw_model *m, struct plan *p)
{
    const struct pw_model_config *k = &m->config;
    const bool own = own_head(m, p);
    p->into = &m->pool;
    if (own)                   /* before the embedding: a tied one is made from what is stored */
        PW_TRY(place_weight(m, p, &m->head, PW_PLACE_HEAD), "head");
    PW_TRY(p->embed_host ? pin_embed(m, p) : place_weight(m, p, &m->embed, PW_PLACE_EMBED), "embedding");
    if (!own)
        m->head = m->embed;
    PW_PASS(place_tensor(m, p, &m->norm_final, PW_F32));
    for (int i = 0; i < k->layers; i++) {
        struct pw_layer *layer = &m->layers[i];
        for (int n = 0; n < PW_NORM_COUNT; n++)
            if (layer->norm[n].data)
                PW_PASS(place_tensor(m, p, &layer->norm[n], PW_F32));
        const bool waits = pw_stream_waits(k->layers, p->stream, i);
        p->into = waits ? pw_stream_place(&m->stream, i) : &m->pool;
        enum pw_place where;
        struct pw_weight *w;
        char name[PW_EXPERT_NAME];
        for (int at = 0; (w = pw_model_next_weight(m, i, &at, &where));) {
            if (w->bias)
                PW_PASS(make_bias(m, p, i, at - 1));
            if (p->device)
                read_ahead(m, i, at);
            PW_TRY(place_weight(m, p, w, where), "layer %d: %s", i, name_of(m, at, name));
        }
        if (waits)
            PW_TRY(pw_stream_placed(&m->stream, i), "layer %d", i);
    }
    return 0;
}

void pw_model_count_bytes(struct pw_model *m)
{
    const struct pw_model_config *k = &m->config;
    m->weight_bytes = pw_weight_bytes(&m->embed) + pw_bytes(m->norm_final) + (m->head.data == m->embed.data ? 0 : pw_weight_bytes(&m->head));
    for (int i = 0; i < k->layers; i++) {
        const struct pw_layer *layer = &m->layers[i];
        for (int n = 0; n < PW_NORM_COUNT; n++)
            m->weight_bytes += layer->norm[n].data ? pw_bytes(layer->norm[n]) : 0;
        enum pw_place where;
        const struct pw_weight *w;
        for (int at = 0; (w = pw_model_next_weight(m, i, &at, &where));)
            m->weight_bytes += pw_weight_bytes(w) + (w->bias ? (size_t)w->n_out * sizeof(float) : 0);
    }
}

/* --cache-type. A cache that is wider than activations would keep nothing more. */
static int cache_type(enum pw_dtype *out, const struct pw_dev *dev, const char *name)
{
    *out = dev->act;
    if (!name || !name[0] || strcmp(name, "auto") == 0)
        return 0;
    PW_CHECK(strcmp(name, "f32") == 0 || strcmp(name, "bf16") == 0 || strcmp(name, "int8") == 0, PW_E_USAGE, "--cache-type: expected auto, f32, bf16 or int8, got \"%s\"", name);
    PW_CHECK(name[0] != 'f' || dev->act == PW_F32, PW_E_USAGE, "--cache-type f32: device %s computes in %s, which its cache keeps as it is", dev->kind, pw_dtype_name(dev->act));
    *out = name[0] == 'f' ? PW_F32 : name[0] == 'b' ? PW_BF16 : PW_I8;
    return 0;
}

int pw_model_new(struct pw_model **out, struct pw_dev *dev, const struct pw_model_config *config)
{
    struct pw_model *m = pw_alloc_zero(1, sizeof *m);
    PW_CHECK(m, PW_E_NOMEM, "out of memory");
    m->dev = dev;
    m->cache_type = dev->act;
    pw_arena_init(&m->arena);
    *out = m;
    if (config)
        m->config = *config;
    return 0;
}

int pw_model_make_layers(struct pw_model *m)
{
    m->layers = pw_arena_array(&m->arena, (size_t)m->config.layers, sizeof *m->layers);
    PW_CHECK(m->layers, PW_E_NOMEM, "out of memory for %d layers", m->config.layers);
    for (int i = 0; i < m->config.layers; i++) {
        if (!pw_model_config_sparse(&m->config, i))
            continue;
        struct pw_moe *moe = m->layers[i].moe = pw_arena_array(&m->arena, 1, sizeof *moe);
        for (int p = 0; moe && p < PW_EXPERT_PARTS; p++)
            moe->part[p] = pw_arena_array(&m->arena, (size_t)m->config.experts, sizeof *moe->part[p]);
        PW_CHECK(moe && moe->part[0] && moe->part[1] && moe->part[2], PW_E_NOMEM, "out of memory for %d experts", m->config.experts);
    }
    return 0;
}

/* What place() would make of a weight, as far as its type goes. */
static void shape_weight(const struct plan *p, struct pw_weight *w, enum pw_place where)
{
    const struct pw_quant_options *quant = quant_of(p, where);
    if (w->type == PW_Q_DENSE && quant)
        w->type = quant->type;
    else if (p->convert) {
        w->type = PW_Q_DENSE;
        w->dtype = p->type;
    }
}

static void shape(struct pw_model *m, const struct plan *p)
{
    shape_weight(p, &m->embed, PW_PLACE_EMBED);
    shape_weight(p, &m->head, PW_PLACE_HEAD);
    m->norm_final.dtype = PW_F32;
    for (int i = 0; i < m->config.layers; i++) {
        for (int n = 0; n < PW_NORM_COUNT; n++)
            m->layers[i].norm[n].dtype = PW_F32;
        enum pw_place where;
        struct pw_weight *w;
        for (int at = 0; (w = pw_model_next_weight(m, i, &at, &where));)
            shape_weight(p, w, where);
    }
}

int pw_model_load(struct pw_model **out, struct pw_dev *dev, const char *path, const struct pw_model_options *opt)
{
    static const struct pw_model_options none = {0};
    const struct pw_checkpoint_options copt = {.tokenizer = opt ? opt->tokenizer : NULL};
    struct pw_model *m = NULL;
    struct plan plan;
    int rc = 0;
    opt = opt ? opt : &none;
    PW_PASS(resolve(&plan, opt));
    plan.device = !dev->host;
    plan.embed_host = opt->embed_host;
    PW_CHECK(!opt->embed_host || !dev->host, PW_E_USAGE, "device %s: the embedding is in host memory already", dev->kind);
    plan.stream = opt->stream;
    PW_CHECK(!opt->stream || (!dev->host && !opt->trainable), PW_E_USAGE, "device %s: layers are streamed to a card, and only when they are not trained themselves", dev->kind);
    plan.maker = dev;
    PW_PASS(pw_model_new(&m, dev, NULL));
    m->memory = opt->memory;
    PW_PASS_OUT(cache_type(&m->cache_type, dev, opt->cache_type));
    m->program_bytes = pw_rss_bytes() - pw_rss_anon_bytes();
    PW_PASS_OUT(pw_checkpoint_open(&m->checkpoint, path, &copt));
    m->config = *pw_checkpoint_config(m->checkpoint);
    m->trainable = opt->trainable;
    if (opt->context > m->config.context) {
        rc = pw_error(PW_E_USAGE, "--ctx: the model's context is %lld tokens, got %lld", (long long)m->config.context, (long long)opt->context);
        goto out;
    }
    if (opt->context > 0)
        m->config.context = opt->context;
    PW_CHECK_OUT(!plan.embed_host || own_head(m, &plan), PW_E_USAGE, "%s: the embedding is the output layer too and cannot stay on the host (unless the head is quantised)", path);
    PW_CHECK_OUT(!opt->trainable || !m->config.experts, PW_E_UNSUPPORTED, "%s: full training of a model with experts is not supported", path);
    PW_PASS_OUT(pw_model_make_layers(m));
    PW_TRY_OUT(collect(m), "loading %s", path);
    m->block_bytes = pw_arena_array(&m->arena, (size_t)m->config.layers, sizeof *m->block_bytes);
    PW_CHECK_OUT(m->block_bytes, PW_E_NOMEM, "out of memory for %d layers", m->config.layers);
    for (int i = 0; i < m->config.layers; i++)
        m->block_bytes[i] = pw_pool_round(block_need(m, &plan, i));
    PW_CHECK_OUT(opt->stream >= 0 && opt->stream <= m->config.layers, PW_E_USAGE, "%d layers are streamed, and the model has %d", opt->stream, m->config.layers);
    m->mapped_bytes = mapped_need(m, &plan);
    if (m->mapped_bytes < pw_checkpoint_bytes(m->checkpoint))
        pw_checkpoint_spare(m->checkpoint);
    if (opt->measure) {
        m->pool.bytes = need(m, &plan);
        shape(m, &plan);
        goto out;
    }
    PW_PASS_OUT(pw_memory_check_weights(m, need(m, &plan)));
    if (plan.device) {
        const struct pw_dev_options host = {.threads = dev->threads};
        plan.maker = NULL;
        PW_PASS_OUT(pw_dev_open(&plan.maker, &host));
        PW_PASS_OUT(pw_pool_open(&plan.stage, plan.maker, largest(m, &plan), "staging of weights"));
    }
    PW_PASS_OUT(pw_pool_open(&m->pool, dev, need(m, &plan), "weights"));
    if (plan.stream)
        PW_PASS_OUT(pw_stream_open(&m->stream, dev, m->block_bytes, m->config.layers, plan.stream));
    PW_PASS_OUT(open_there(m, &plan));
    PW_TRY_OUT(place(m, &plan), "loading %s", path);
    pw_model_count_bytes(m);
out:
    if (plan.device) {
        pw_quant_stage_close(&plan.there);
        pw_pool_close(&plan.stage);
        if (plan.maker != dev)
            pw_dev_close(plan.maker);
    }
    if (rc < 0) {
        pw_model_free(m);
        m = NULL;
    }
    *out = m;
    return rc;
}

void pw_model_free(struct pw_model *m)
{
    if (!m)
        return;
    pw_dev_pinned_free(m->dev, m->embed_pinned);
    pw_stream_close(&m->stream);
    pw_pool_close(&m->pool);
    pw_arena_free(&m->arena);
    pw_checkpoint_close(m->checkpoint);
    pw_free(m);
}

double pw_model_embed_scale(const struct pw_model *m)
{
    const double x = m->config.embed_scale;
    return m->embed.type == PW_Q_DENSE && m->embed.dtype == PW_F64 ? x : m->dev->act == PW_BF16 ? (double)pw_bf16_to_f32(pw_f32_to_bf16((float)x)) : (double)(float)x;
}
