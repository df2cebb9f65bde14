/* Writing a model as one GGUF file: which type each tensor gets, and streaming them in tiles. Refuses to know keys and names
 * (data/gguf_model.c), the tokenizer's arrays (data/tok_gguf.c) and rows of sources (source.c). */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "data/gguf_model.h"
#include "data/tok_gguf.h"
#include "quant/quant.h"
#include "quant/source.h"

struct target { uint32_t ggml; const struct pw_block_type *block; enum pw_dtype dtype; const char *type; bool copy; };
struct item {
    struct pw_source s;               /* of all experts of a layer: the first's */
    struct target to;
    char name[160];
    int ndim;
    int64_t shape[3];
    bool edited;
    double offset;
    int experts, layer;               /* experts > 0: one tensor of this part of all experts of the layer */
    enum pw_expert_part part;
};
struct job {
    struct pw_dev *dev;
    struct pw_checkpoint *c;
    const struct pw_remake *how;
    const struct pw_quant_options *o;
    struct pw_gguf_out out;
    struct pw_arena arena;
    struct item *items; size_t n;
};

/* ---- types ---- */

static struct target dense(enum pw_dtype t)
{
    return (struct target){.ggml = t == PW_F32 ? PW_GGML_F32 : t == PW_F16 ? PW_GGML_F16 : PW_GGML_BF16, .dtype = t, .type = pw_dtype_name(t)};
}

static struct target blocks(enum pw_qtype t, int64_t n_in)
{
    const struct pw_block_type *b = pw_block_type(t);
    if (n_in % b->elements != 0)
        b = pw_block_type(PW_Q_Q8_0);
    if (n_in % b->elements != 0)
        return dense(PW_F16);
    return (struct target){.ggml = (uint32_t)b->ggml, .block = b, .type = b->name};
}

static int choose(const struct job *j, const struct pw_source *s, bool linear, bool edited, struct target *to)
{
    const enum pw_qtype want = j->o->type;
    if (s->vector || pw_router_of(pw_checkpoint_config(j->c), s->name) >= 0)
        *to = dense(PW_F32);        /* llama.cpp has norms, biases and routers so */
    else if (want == PW_Q_DENSE)
        *to = dense(j->o->dtype);
    else {
        const bool head = !linear && strcmp(s->name, pw_checkpoint_head_name(j->c)) == 0;
        *to = blocks(head && (want == PW_Q_Q4_0 || want == PW_Q_Q4_K) ? PW_Q_Q6_K : want, s->w.n_in);
    }
    const struct pw_block_type *b = pw_block_type(s->w.type);
    if (!b || want == PW_Q_DENSE) {
        PW_CHECK(s->w.type == PW_Q_DENSE || want == PW_Q_DENSE || j->how->edit, PW_E_UNSUPPORTED, "%s: it is quantised already (%s)", s->name, pw_qtype_name(s->w.type));
        return 0;
    }
    if ((!linear || to->block == b) && !s->heads && !edited) {
        *to = (struct target){.ggml = (uint32_t)b->ggml, .block = b, .type = b->name, .copy = true};
        return 0;
    }
    if (j->how->edit)
        return 0;
    const int rc = pw_error(PW_E_UNSUPPORTED, "%s: it is quantised already (%s)", s->name, b->name);
    pw_error_hint("quantising twice adds both errors: begin with the unquantised model, or write f16");
    return rc;
}

static uint32_t file_type(const struct pw_quant_options *o)
{
    switch (o->type) {
    case PW_Q_DENSE: return o->dtype == PW_F32 ? 0 : o->dtype == PW_F16 ? 1 : 32;
    case PW_Q_Q4_0: return 2;
    case PW_Q_Q8_0: return 7;
    case PW_Q_Q4_K: return 14;
    default: return 18;
    }
}

/* ---- the list of tensors ---- */

/* The linear of an expert, wherever it is stored. */
static int open_expert(struct job *j, int layer, int expert, enum pw_expert_part part, struct pw_source *s)
{
    char suffix[PW_EXPERT_NAME];
    pw_expert_suffix(pw_checkpoint_config(j->c), expert, part, suffix);
    const struct pw_stored t = {.name = pw_arena_printf(&j->arena, "model.layers.%d.%s.weight", layer, suffix), .ndim = 2};
    PW_CHECK(t.name, PW_E_NOMEM, "no memory for names");
    return pw_source_open(s, j->c, &t, false);
}

/* One tensor of all experts of a layer, of one type. */
static int add_experts(struct job *j, const char *arch, int layer, enum pw_expert_part part)
{
    static const char *const parts[PW_EXPERT_PARTS] = {"gate_proj", "up_proj", "down_proj"};
    struct item *it = &j->items[j->n];
    char name[160];
    *it = (struct item){.experts = pw_checkpoint_config(j->c)->experts, .layer = layer, .part = part, .ndim = 3};
    snprintf(name, sizeof name, "model.layers.%d.mlp.experts.%s.weight", layer, parts[part]);
    PW_CHECK(pw_gguf_name_from_hf(arch, name, it->name), PW_E_FORMAT, "%s has no name in GGUF files", name);
    for (int e = 0; e < it->experts; e++) {
        struct pw_source s;
        PW_PASS(open_expert(j, layer, e, part, &s));
        it->edited = it->edited || (j->how->edit && (!j->how->edits || j->how->edits(j->how->ctx, s.name)));
    }
    for (int e = it->experts - 1; e >= 0; e--) {
        const struct target last = it->to;
        PW_PASS(open_expert(j, layer, e, part, &it->s));
        PW_PASS(choose(j, &it->s, true, it->edited, &it->to));
        PW_CHECK(e == it->experts - 1 || (last.ggml == it->to.ggml && last.copy == it->to.copy), PW_E_UNSUPPORTED,
                 "%s: experts of a layer that are stored in different types cannot be joined in a GGUF file", it->s.name);
    }
    it->shape[0] = it->experts;
    it->shape[1] = it->s.w.n_out;
    it->shape[2] = it->s.w.n_in;
    j->n++;
    return 0;
}

static int list_items(struct job *j)
{
    struct pw_stored t;
    const char *arch;
    bool permutes;
    size_t most = 0;
    PW_PASS(pw_gguf_arch(pw_checkpoint_config(j->c), &arch, &permutes));
    while (pw_checkpoint_at(j->c, most, &t))
        most++;
    j->items = pw_arena_array(&j->arena, 2 * most + 1, sizeof *j->items);     /* gate and up may be stored as one */
    PW_CHECK(j->items, PW_E_NOMEM, "no memory for %zu tensors", most);
    for (size_t i = 0; pw_checkpoint_at(j->c, i, &t); i++) {
        enum pw_linear l;
        int layer, expert, first, last;
        enum pw_expert_part part;
        const bool joined = pw_experts_joined(pw_checkpoint_config(j->c), &t, &layer, &first, &last);
        for (int p = first; joined && p < last; p++)
            PW_PASS(add_experts(j, arch, layer, (enum pw_expert_part)p));
        if (joined)
            continue;
        if (pw_expert_named(pw_checkpoint_config(j->c), t.name, &layer, &expert, &part)) {
            if (expert == 0)
                PW_PASS(add_experts(j, arch, layer, part));
            continue;
        }
        const enum pw_role role = pw_role_of(pw_checkpoint_config(j->c), t.name, &l);
        struct item *it = &j->items[j->n];
        PW_CHECK(role != PW_ROLE_UNKNOWN && (role == PW_ROLE_COMPANION || pw_gguf_name_from_hf(arch, t.name, it->name)), PW_E_FORMAT, "%s: unknown tensor %s",
                 pw_checkpoint_path(j->c), t.name);
        if (role == PW_ROLE_COMPANION)
            continue;
        if (pw_checkpoint_config(j->c)->tied && strcmp(t.name, pw_checkpoint_embed_name(j->c)) != 0 && strcmp(t.name, "lm_head.weight") == 0)
            continue;               /* stored twice */
        if (pw_checkpoint_config(j->c)->tied && strcmp(t.name, "lm_head.weight") == 0)
            snprintf(it->name, sizeof it->name, "token_embd.weight");
        PW_PASS(pw_source_open(&it->s, j->c, &t, permutes));
        it->offset = pw_gguf_offset(pw_checkpoint_config(j->c), t.name);
        it->edited = j->how->edit && (!j->how->edits || j->how->edits(j->how->ctx, t.name));
        PW_PASS(choose(j, &it->s, role == PW_ROLE_LINEAR, it->edited, &it->to));
        it->ndim = it->s.vector ? 1 : 2;
        it->shape[0] = it->s.vector ? it->s.w.n_in : it->s.w.n_out;
        it->shape[1] = it->s.w.n_in;
        j->n++;
    }
    return pw_checkpoint_all_used(j->c);
}

/* The tokenizer's keys: those of a GGUF file as they are, others made. */
static int put_tokenizer(struct job *j)
{
    const char *path = pw_checkpoint_tokenizer(j->c);
    const int64_t vocab = pw_checkpoint_config(j->c)->vocab;
    struct pw_tokenizer *t = NULL;
    bool exact = true;
    if (!path)
        return 0;
    const size_t n = strlen(path);
    if (strcmp(pw_checkpoint_format(j->c), "llama2.c") == 0 && n > 4 && strcmp(path + n - 4, ".bin") == 0)
        PW_TRY(pw_tokenizer_load_llama2c(&t, path, vocab), "loading the tokenizer %s", path);
    else
        PW_TRY(pw_tokenizer_load(&t, path), "loading the tokenizer %s", path);
    const int rc = pw_gguf_put_tokenizer(&j->out, t, vocab, &exact);
    pw_tokenizer_free(t);
    if (rc == 0 && !exact)
        pw_progress_say(j->how->progress, "the tokenizer's merges do not follow from scores: llama.cpp may cut some texts otherwise than pw does");
    return rc;
}

static int announce(struct job *j)
{
    const struct pw_model_config *m = pw_checkpoint_config(j->c);
    char hex[65];
    const char *name = pw_path_base(pw_checkpoint_path(j->c));
    PW_PASS(pw_gguf_put_config(&j->out, m));
    if (pw_gguf_context(m) < m->context)
        pw_progress_say(j->how->progress, "GGUF files of this architecture have no sliding window: the context is written as the window, %" PRId64 " tokens", pw_gguf_context(m));
    pw_gguf_put_str(&j->out, "general.name", name, strlen(name));
    pw_gguf_put_u32(&j->out, "general.quantization_version", 2);
    pw_gguf_put_u32(&j->out, "general.file_type", file_type(j->o));
    if (j->how->derived) {
        PW_PASS(pw_checkpoint_identity(j->c, hex));
        pw_gguf_put_str(&j->out, "pennyweight.source", hex, 64);
    }
    PW_PASS(put_tokenizer(j));
    for (size_t i = 0; i < j->n; i++)
        PW_PASS(pw_gguf_add_tensor(&j->out, j->items[i].name, j->items[i].to.ggml, j->items[i].ndim, j->items[i].shape));
    return 0;
}

/* ---- tensors ---- */

static int write_tile(struct job *j, const struct item *it, float *x, float *back, void *stored, int64_t n, struct pw_error_sum *e)
{
    const int64_t n_in = it->s.w.n_in;
    if (it->to.block) {
        struct pw_weight w = {.n_out = n, .n_in = n_in, .type = it->to.block->type, .dtype = PW_F32, .data = stored};
        PW_TRY(pw_encode(j->dev, &w, pw_tensor2(x, PW_F32, n, n_in)), "quantising %s", it->name);
        PW_TRY(pw_decode(j->dev, pw_tensor2(back, PW_F32, n, n_in), &w, 0), "checking %s", it->name);
        pw_error_add(e, x, back, n * n_in);
        return pw_gguf_bytes(&j->out, stored, pw_weight_bytes(&w));
    }
    if (it->to.dtype == PW_F32)
        return pw_gguf_bytes(&j->out, x, (size_t)(n * n_in) * sizeof *x);
    PW_PASS(pw_source_narrow(stored, it->to.dtype, x, back, n * n_in, it->name));
    pw_error_add(e, x, back, n * n_in);
    return pw_gguf_bytes(&j->out, stored, (size_t)(n * n_in) * 2);
}

/* A tile of rows, its error on the way back, and as it is stored. */
struct tile { int64_t step; float *x, *back; void *stored; };

static int write_rows(struct job *j, const struct item *it, const struct pw_source *s, const struct tile *tile, struct pw_error_sum *e)
{
    const int64_t n_in = s->w.n_in, all = s->w.n_out;
    if (it->to.copy)
        return pw_gguf_bytes(&j->out, s->w.data, pw_weight_bytes(&s->w));
    for (int64_t first = 0; first < all; first += tile->step) {
        const int64_t n = all - first < tile->step ? all - first : tile->step;
        PW_PASS(pw_source_rows(j->dev, s, first, pw_tensor2(tile->x, PW_F32, n, n_in)));
        if (it->edited)
            PW_PASS(j->how->edit(j->how->ctx, s->name, first, pw_tensor2(tile->x, PW_F32, n, n_in)));
        for (int64_t i = 0; it->offset != 0 && i < n * n_in; i++)
            tile->x[i] += (float)it->offset;
        PW_PASS(write_tile(j, it, tile->x, tile->back, tile->stored, n, e));
    }
    return 0;
}

/* Elements of a tile of a tensor, and the bytes of its three forms. */
static int64_t tile_rows(const struct pw_source *s)
{
    const int64_t room = (int64_t)1 << 20, rows = s->w.n_in >= room ? 1 : room / s->w.n_in;
    return rows < s->w.n_out ? rows : s->w.n_out;
}

/* Before anything is written, but with the tokenizer's keys made: they are among the program's pages. */
static int plan(struct job *j)
{
    struct pw_making k = {0};
    size_t names = 0;
    for (size_t i = 0; i < j->n; i++) {
        const struct item *it = &j->items[i];
        const size_t elements = it->to.copy ? 0 : (size_t)(tile_rows(&it->s) * it->s.w.n_in);
        pw_making_add(&k, j->c, &it->s, elements * (3 * sizeof(float)));
        names += 2 * sizeof it->name;
    }
    return pw_making_check(&k, j->c, j->o->memory, names);
}

static int write_item(struct job *j, const struct item *it, size_t done)
{
    struct tile tile = {.step = tile_rows(&it->s)};
    const size_t elements = (size_t)(tile.step * it->s.w.n_in);
    struct pw_source s = it->s;
    struct pw_error_sum e = {0};
    size_t bytes;
    int rc = 0;
    PW_PASS(pw_gguf_tensor_bytes(it->name, it->to.ggml, it->ndim, it->shape, &bytes));
    if (!it->to.copy) {
        tile.x = pw_alloc(elements * sizeof *tile.x);
        tile.back = pw_alloc(elements * sizeof *tile.back);
        tile.stored = pw_alloc(elements * sizeof *tile.x);
        PW_CHECK_OUT(tile.x && tile.back && tile.stored, PW_E_NOMEM, "%s: no memory for a tile", it->name);
    }
    for (int n = 0; n < (it->experts ? it->experts : 1); n++) {
        if (it->experts)
            PW_PASS_OUT(open_expert(j, it->layer, n, it->part, &s));
        PW_PASS_OUT(write_rows(j, it, &s, &tile, &e));
        pw_source_forget(j->c, &s);
    }
    PW_CHECK_OUT(isfinite(e.squares) && isfinite(e.max), PW_E_NUMERIC, "%s: its error is not a number", it->name);
    const struct pw_quant_report r = {.name = it->name, .type = it->to.type, .bytes = bytes, .rmse = e.n ? sqrt(e.squares / (double)e.n) : 0, .max_error = e.max};
    if (j->how->each)
        j->how->each(j->how->ctx, &r);
    pw_progress_at(j->how->progress, (int64_t)done + 1, (int64_t)j->n, NULL);
    PW_CHECK_OUT(!pw_progress_stopped(j->how->progress), PW_E_INTERRUPTED, "interrupted: nothing was written");
out:
    pw_free(tile.stored);
    pw_free(tile.back);
    pw_free(tile.x);
    return rc;
}

static int write_rope(struct job *j, bool announced)
{
    const struct pw_model_config *m = pw_checkpoint_config(j->c);
    const char *name = NULL;
    int n = 0;
    float *factors = pw_arena_array(&j->arena, (size_t)m->head_dim, sizeof *factors);
    PW_CHECK(factors, PW_E_NOMEM, "no memory");
    for (int i = 0; pw_gguf_rope_tensor(m, i, &name, factors, &n) > 0; i++) {
        if (announced)
            PW_PASS(pw_gguf_bytes(&j->out, factors, (size_t)n * sizeof *factors));
        else
            PW_PASS(pw_gguf_add_tensor(&j->out, name, PW_GGML_F32, 1, (int64_t[]){n}));
    }
    return 0;
}

/* The file is whole, but for its name. */
static int look_at(struct job *j)
{
    if (!j->how->finished)
        return 0;
    PW_CHECK(j->out.out.temp, PW_E_UNSUPPORTED, "%s: not a file: what is written cannot be read back", j->out.out.path);
    PW_CHECK(fflush(j->out.out.f) == 0, PW_E_IO, "%s: cannot write", j->out.out.path);
    return j->how->finished(j->how->ctx, j->out.out.temp);
}

int pw_quant_gguf_remake(struct pw_dev *dev, struct pw_checkpoint *c, const char *out, bool force, const struct pw_remake *how)
{
    struct job j = {.dev = dev, .c = c, .how = how, .o = &how->to};
    int rc = 0;
    PW_CHECK(j.o->type == PW_Q_DENSE || pw_block_type(j.o->type), PW_E_USAGE, "type %s does not exist in GGUF files (known: f32, f16, bf16, q8_0, q4_0, q4_K, q6_K)",
             pw_qtype_name(j.o->type));
    pw_arena_init(&j.arena);
    pw_checkpoint_spare(c);
    PW_PASS_OUT(list_items(&j));
    PW_PASS_OUT(plan(&j));                           /* what is known by now; again with the tokenizer */
    PW_PASS_OUT(pw_gguf_create(&j.out, out, force));
    PW_TRY_OUT(announce(&j), "writing %s", out);
    PW_PASS_OUT(plan(&j));
    PW_PASS_OUT(write_rope(&j, false));
    for (size_t i = 0; i < j.n; i++)
        PW_TRY_OUT(write_item(&j, &j.items[i], i), "writing %s", out);
    PW_PASS_OUT(write_rope(&j, true));
    PW_PASS_OUT(look_at(&j));
    PW_PASS_OUT(pw_gguf_commit(&j.out));
out:
    pw_gguf_abort(&j.out);
    pw_arena_free(&j.arena);
    return rc;
}

int pw_quant_gguf(struct pw_dev *dev, const char *model, const struct pw_checkpoint_options *copt, const char *out, bool force, const struct pw_quant_options *o,
                  void (*each)(void *ctx, const struct pw_quant_report *r), void *ctx, struct pw_progress *progress)
{
    const struct pw_remake how = {.to = *o, .derived = true, .each = each, .ctx = ctx, .progress = progress};
    struct pw_checkpoint *c = NULL;
    int rc = pw_checkpoint_open(&c, model, copt);
    pw_checkpoint_tell(c, progress);
    if (rc == 0)
        rc = pw_quant_gguf_remake(dev, c, out, force, &how);
    pw_checkpoint_close(c);
    return rc;
}
