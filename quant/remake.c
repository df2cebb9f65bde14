/* Making a model folder from a model: quantised as bitsandbytes stores it, or dense. Owns which tensors are quantised, the names of the
 * companions, the order in the file, and config.json. Tensors are streamed in tiles: never a whole one in f32. Refuses to know rows
 * of sources (source.c), codes (kernels/) and what is done to the rows in between (edit). */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "data/safetensors.h"
#include "quant/quant.h"
#include "quant/source.h"

struct job {
    struct pw_dev *dev;
    struct pw_checkpoint *c;
    const struct pw_model_config *config;
    const struct pw_remake *how;
    struct pw_st_stream out;
    struct pw_arena arena;
    int64_t done, total;
    bool plans;                      /* nothing is written: what each tensor will take is added up in making */
    struct pw_making making;
};

/* Rows of a source, as they are to be stored. */
static int source_rows(struct job *j, const struct pw_source *s, int64_t first, struct pw_tensor rows)
{
    PW_PASS(pw_source_rows(j->dev, s, first, rows));
    if (j->how->edit)
        PW_PASS(j->how->edit(j->how->ctx, s->name, first, rows));
    return 0;
}

static int open_source(struct job *j, const struct pw_stored *t, bool linear, struct pw_source *s)
{
    PW_PASS(pw_source_open(s, j->c, t, false));
    PW_CHECK(!linear || j->how->to.type == PW_Q_DENSE || s->w.type == PW_Q_DENSE, PW_E_UNSUPPORTED, "%s: %s is quantised already (%s)", pw_checkpoint_path(j->c), t->name,
             pw_qtype_name(s->w.type));
    return 0;
}

static int report(struct job *j, const char *name, const char *type, size_t bytes, const struct pw_error_sum *e)
{
    PW_CHECK(isfinite(e->squares) && isfinite(e->max), PW_E_NUMERIC, "%s: its error is not a number", name);
    struct pw_quant_report r = {.name = name, .type = type, .bytes = bytes, .rmse = e->n ? sqrt(e->squares / (double)e->n) : 0, .max_error = e->max};
    if (j->how->each)
        j->how->each(j->how->ctx, &r);
    pw_progress_at(j->how->progress, ++j->done, j->total, NULL);
    PW_CHECK(!pw_progress_stopped(j->how->progress), PW_E_INTERRUPTED, "interrupted: nothing was written");
    return 0;
}

/* ---- dense tensors ---- */

static const char *st_name(enum pw_dtype t) { return t == PW_F32 ? "F32" : t == PW_F16 ? "F16" : "BF16"; }

static int write_dense(struct job *j, const struct pw_stored *t, const struct pw_source *s, enum pw_dtype to)
{
    const int64_t n_in = s->w.n_in, all = s->w.n_out, step = n_in >= (1 << 18) ? 1 : (1 << 18) / n_in;
    const int64_t tile = (step < all ? step : all) * n_in;
    if (j->plans) {
        pw_making_add(&j->making, j->c, s, (size_t)tile * (2 * sizeof(float) + sizeof(uint16_t)));
        return 0;
    }
    float *x = pw_alloc((size_t)tile * sizeof(float)), *back = pw_alloc((size_t)tile * sizeof(float));
    uint16_t *half = pw_alloc((size_t)tile * sizeof(uint16_t));
    struct pw_error_sum e = {0};
    int rc = 0;
    PW_CHECK_OUT(x && back && half, PW_E_NOMEM, "%s: no memory for a tile", t->name);
    const bool flat = s->vector;
    const int64_t shape[2] = {flat ? n_in : all, n_in};
    PW_PASS_OUT(pw_st_stream_begin(&j->out, t->name, st_name(to), flat ? 1 : 2, shape));
    for (int64_t first = 0; first < all; first += step) {
        const int64_t rows = all - first < step ? all - first : step;
        PW_PASS_OUT(source_rows(j, s, first, pw_tensor2(x, PW_F32, rows, n_in)));
        if (to == PW_F32)
            PW_PASS_OUT(pw_st_stream_bytes(&j->out, x, (size_t)(rows * n_in) * sizeof(float)));
        else {
            PW_PASS_OUT(pw_source_narrow(half, to, x, back, rows * n_in, t->name));
            pw_error_add(&e, x, back, rows * n_in);
            PW_PASS_OUT(pw_st_stream_bytes(&j->out, half, (size_t)(rows * n_in) * sizeof(uint16_t)));
        }
    }
    PW_PASS_OUT(report(j, t->name, pw_dtype_name(to), (size_t)(all * n_in) * pw_dtype_bytes(to), &e));
out:
    pw_free(half);
    pw_free(back);
    pw_free(x);
    return rc;
}

/* ---- quantised tensors ---- */

static int part(struct job *j, const char *name, const char *tail, const char *dtype, int64_t n, const void *data)
{
    char full[1200];
    snprintf(full, sizeof full, "%s%s", name, tail);
    PW_PASS(pw_st_stream_begin(&j->out, full, dtype, 1, &n));
    return pw_st_stream_bytes(&j->out, data, (size_t)n * pw_st_dtype_bytes(dtype));
}

static const char *torch_name(enum pw_dtype t) { return t == PW_F32 ? "float32" : t == PW_F16 ? "float16" : "bfloat16"; }

/* The quant state, in bitsandbytes' order of keys. Spaces at the end keep what follows in the file aligned to 4 bytes. */
static int state_json(const struct pw_weight *w, size_t packed, struct pw_buf *b)
{
    char offset[32];
    pw_format_f64(offset, w->nested_offset);
    pw_buf_printf(b, "{\"quant_type\": \"%s\", \"blocksize\": %d, \"dtype\": \"%s\", \"shape\": [%" PRId64 ", %" PRId64 "]", pw_qtype_name(w->type),
                  w->block, torch_name(w->dtype), w->n_out, w->n_in);
    if (w->absmax_q)
        pw_buf_printf(b, ", \"nested_blocksize\": %d, \"nested_dtype\": \"float32\", \"nested_offset\": %s", w->nested_block, offset);
    pw_buf_char(b, '}');
    while (!b->failed && (packed + b->len) % 4)
        pw_buf_char(b, ' ');
    return pw_buf_status(b);
}

static int write_4bit(struct job *j, const char *name, const struct pw_weight *w)
{
    const int64_t blocks = pw_weight_blocks(w), packed = (w->n_out * w->n_in + 1) / 2;
    char tail[64];
    struct pw_buf state = {0};
    int rc = 0;
    if (w->absmax_q) {
        PW_PASS_OUT(part(j, name, ".nested_absmax", "F32", (blocks + w->nested_block - 1) / w->nested_block, w->nested_absmax));
        PW_PASS_OUT(part(j, name, ".nested_quant_map", "F32", 256, w->nested_code));
    } else
        PW_PASS_OUT(part(j, name, ".absmax", "F32", blocks, w->absmax));
    PW_PASS_OUT(part(j, name, ".quant_map", "F32", 16, w->type == PW_Q_NF4 ? pw_nf4_table : pw_fp4_table));
    const int64_t shape[2] = {packed, 1};
    PW_PASS_OUT(pw_st_stream_begin(&j->out, name, "U8", 2, shape));
    PW_PASS_OUT(pw_st_stream_bytes(&j->out, w->data, (size_t)packed));
    if (w->absmax_q)
        PW_PASS_OUT(part(j, name, ".absmax", "U8", blocks, w->absmax_q));
    snprintf(tail, sizeof tail, ".quant_state.bitsandbytes__%s", pw_qtype_name(w->type));
    PW_PASS_OUT(state_json(w, (size_t)packed + (w->absmax_q ? (size_t)blocks : 0), &state));
    PW_PASS_OUT(part(j, name, tail, "U8", (int64_t)state.len, state.data));
out:
    pw_buf_free(&state);
    return rc;
}

static int write_int8(struct job *j, const char *name, const struct pw_weight *w)
{
    char scb[1200];
    snprintf(scb, sizeof scb, "%.*s.SCB", (int)(strlen(name) - strlen(".weight")), name);
    const int64_t shape[2] = {w->n_out, w->n_in};
    PW_PASS(part(j, scb, "", "F32", w->n_out, w->absmax));
    PW_PASS(pw_st_stream_begin(&j->out, name, "I8", 2, shape));
    return pw_st_stream_bytes(&j->out, w->data, (size_t)(w->n_out * w->n_in));
}

static int write_quantised(struct job *j, const struct pw_stored *t, const struct pw_source *s)
{
    struct pw_quant_options o = j->how->to;
    struct pw_quant_encoder enc = {0};
    struct pw_weight w;
    struct pw_error_sum e = {0};
    int rc = 0;
    o.dtype = s->w.dtype;
    const size_t bytes = pw_quant_bytes(s->w.n_out, s->w.n_in, &o);
    void *memory = NULL;
    float *x = NULL, *back = NULL;
    if (j->plans) {
        PW_PASS(pw_quant_place(&w, s->w.n_out, s->w.n_in, &o, (void *)64, bytes));       /* its shape, of which the tiles follow */
        const int64_t rows = pw_quant_tile_rows(&w) < w.n_out ? pw_quant_tile_rows(&w) : w.n_out;
        pw_making_add(&j->making, j->c, s, bytes + 2 * (size_t)(rows * w.n_in) * sizeof(float) + (w.absmax_q ? (size_t)pw_weight_blocks(&w) * sizeof(float) : 0));
        return 0;
    }
    memory = pw_alloc_zero(1, bytes);
    PW_CHECK_OUT(memory, PW_E_NOMEM, "%s: no memory for its codes", t->name);
    PW_PASS_OUT(pw_quant_place(&w, s->w.n_out, s->w.n_in, &o, memory, bytes));
    const int64_t step = pw_quant_tile_rows(&w), tile = (step < w.n_out ? step : w.n_out) * w.n_in;
    x = pw_alloc((size_t)tile * sizeof(float));
    back = pw_alloc((size_t)tile * sizeof(float));
    PW_CHECK_OUT(x && back, PW_E_NOMEM, "%s: no memory for a tile", t->name);
    PW_PASS_OUT(pw_quant_encode_begin(&enc, &w));
    for (int pass = 0; pass < 2; pass++) {       /* codes first; errors when the scales are final */
        for (int64_t first = 0; first < w.n_out; first += step) {
            const int64_t n = w.n_out - first < step ? w.n_out - first : step;
            struct pw_tensor rows = pw_tensor2(x, PW_F32, n, w.n_in);
            PW_PASS_OUT(source_rows(j, s, first, rows));
            if (pass == 0)
                PW_TRY_OUT(pw_quant_encode_rows(j->dev, &enc, first, rows), "quantising %s", t->name);
            else {
                PW_TRY_OUT(pw_decode(j->dev, pw_tensor2(back, PW_F32, n, w.n_in), &w, first), "checking %s", t->name);
                pw_error_add(&e, x, back, n * w.n_in);
            }
        }
        if (pass == 0)
            PW_PASS_OUT(pw_quant_encode_end(&enc));
    }
    PW_PASS_OUT(w.type == PW_Q_INT8 ? write_int8(j, t->name, &w) : write_4bit(j, t->name, &w));
    PW_PASS_OUT(report(j, t->name, pw_qtype_name(w.type), pw_weight_bytes(&w), &e));
out:
    pw_free(enc.absmax);
    pw_free(back);
    pw_free(x);
    pw_free(memory);
    return rc;
}

/* ---- the weights file ---- */

/* Passes over the tensors, in an order that leaves each aligned in the file: f32, quantised (each a multiple of 4 bytes, int8 last), 16 bit. */
enum pass { PASS_F32, PASS_QUANTISED, PASS_16, PASS_BYTES, PASSES };

static int write_tensor(struct job *j, const struct pw_stored *t, enum pass pass)
{
    enum pw_linear l;
    struct pw_source s;
    const enum pw_role role = pw_role_of(j->config, t->name, &l);
    const bool dense = j->how->to.type == PW_Q_DENSE;
    int layer, expert;
    enum pw_expert_part which;
    const bool stays = dense || (j->how->to.experts_stored && pw_expert_named(j->config, t->name, &layer, &expert, &which));
    PW_CHECK(role != PW_ROLE_UNKNOWN, PW_E_FORMAT, "%s: unknown tensor %s", pw_checkpoint_path(j->c), t->name);
    if (role == PW_ROLE_COMPANION)
        return 0;
    if (!stays && role == PW_ROLE_LINEAR) {
        if (pass == PASS_BYTES && j->plans)
            return 0;
        if (pass == PASS_BYTES && j->how->to.type == PW_Q_INT8) {
            static const uint8_t row_format = 0;
            char name[1200];
            snprintf(name, sizeof name, "%s_format", t->name);
            PW_PASS(pw_st_stream_begin(&j->out, name, "U8", 0, NULL));
            return pw_st_stream_bytes(&j->out, &row_format, 1);
        }
        if (pass != PASS_QUANTISED)
            return 0;
        PW_PASS(open_source(j, t, role == PW_ROLE_LINEAR, &s));
        PW_PASS(write_quantised(j, t, &s));
        pw_source_forget(j->c, &s);
        return 0;
    }
    if (pass != PASS_F32 && pass != PASS_16)
        return 0;
    PW_PASS(open_source(j, t, role == PW_ROLE_LINEAR, &s));
    const enum pw_dtype to = dense ? j->how->to.dtype : s.w.dtype;
    if ((to == PW_F32) == (pass == PASS_F32))
        PW_PASS(write_dense(j, t, &s, to));
    pw_source_forget(j->c, &s);
    return 0;
}

/* As a tensor for each expert, the published form, which transformers joins again. */
static int write_joined(struct job *j, int layer, int first, int last, enum pass pass)
{
    char suffix[PW_EXPERT_NAME];
    for (int e = 0; e < j->config->experts; e++)
        for (int p = first; p < last; p++) {
            pw_expert_suffix(j->config, e, (enum pw_expert_part)p, suffix);
            const struct pw_stored one = {.name = pw_arena_printf(&j->arena, "model.layers.%d.%s.weight", layer, suffix), .ndim = 2};
            PW_CHECK(one.name, PW_E_NOMEM, "no memory for names");
            PW_PASS(write_tensor(j, &one, pass));
        }
    return 0;
}

/* A router has the published name, as the experts beside it. */
static int write_router(struct job *j, const struct pw_stored *t, int layer, enum pass pass)
{
    struct pw_stored named = *t;
    named.name = pw_arena_printf(&j->arena, "model.layers.%d.%s.weight", layer, pw_router_suffix(j->config));
    PW_CHECK(named.name, PW_E_NOMEM, "no memory for names");
    return write_tensor(j, &named, pass);
}

static int write_stored(struct job *j, const struct pw_stored *t, enum pass pass)
{
    int layer, first, last;
    if (pw_experts_joined(j->config, t, &layer, &first, &last))
        return write_joined(j, layer, first, last, pass);
    layer = pw_router_of(j->config, t->name);
    return layer >= 0 ? write_router(j, t, layer, pass) : write_tensor(j, t, pass);
}

static int write_all(struct job *j)
{
    struct pw_stored t;
    for (int pass = 0; pass < PASSES; pass++)
        for (size_t i = 0; pw_checkpoint_at(j->c, i, &t); i++)
            PW_PASS(write_stored(j, &t, (enum pass)pass));
    return 0;
}

static int write_weights(struct job *j, const char *dir)
{
    int layer, part, last;
    char hex[65];
    const char *metadata[5] = {"format", "pt"};
    struct pw_stored t;
    size_t room = 0;
    for (size_t i = 0; pw_checkpoint_at(j->c, i, &t); i++) {
        enum pw_linear l;
        const enum pw_role role = pw_role_of(j->config, t.name, &l);
        if (pw_experts_joined(j->config, &t, &layer, &part, &last)) {
            j->total += (int64_t)(last - part) * j->config->experts;
            room += (size_t)(last - part) * (size_t)j->config->experts * (pw_st_header_room(t.name, 2) + 80);
            continue;
        }
        j->total += role == PW_ROLE_LINEAR || role == PW_ROLE_DENSE;
        room += (role == PW_ROLE_LINEAR ? 7 : 1) * (pw_st_header_room(t.name, 2) + 80);
    }
    j->plans = true;                                 /* once through all of it, before anything large is taken or read */
    PW_PASS(write_all(j));
    j->plans = false;
    PW_PASS(pw_making_check(&j->making, j->c, j->how->to.memory, 2 * room));
    if (j->how->derived) {
        PW_PASS(pw_checkpoint_identity(j->c, hex));
        metadata[2] = "pennyweight.source";
        metadata[3] = hex;
    }
    char *path = pw_path_join(&j->arena, dir, "model.safetensors");
    PW_CHECK(path, PW_E_NOMEM, "%s: no memory", dir);
    PW_PASS(pw_st_stream_open(&j->out, path, room, metadata, false));
    PW_PASS(write_all(j));
    PW_PASS(pw_checkpoint_all_used(j->c));
    return pw_st_stream_commit(&j->out);
}

/* ---- config and the rest of the folder ---- */

/* A router is a linear of its own to transformers 4, and is not quantised here. */
static void quantization_config(struct pw_json *w, const struct pw_quant_options *o, const char *compute, bool experts)
{
    const bool int8 = o->type == PW_Q_INT8;
    pw_json_open(w, "quantization_config", '{');
    pw_json_bool(w, "_load_in_4bit", !int8);
    pw_json_bool(w, "_load_in_8bit", int8);
    pw_json_str(w, "bnb_4bit_compute_dtype", compute);
    pw_json_str(w, "bnb_4bit_quant_storage", "uint8");
    pw_json_str(w, "bnb_4bit_quant_type", o->type == PW_Q_FP4 ? "fp4" : "nf4");
    pw_json_bool(w, "bnb_4bit_use_double_quant", o->double_quant && !int8);
    pw_json_bool(w, "llm_int8_enable_fp32_cpu_offload", false);
    pw_json_bool(w, "llm_int8_has_fp16_weight", false);
    if (experts) {
        pw_json_open(w, "llm_int8_skip_modules", '[');
        pw_json_str(w, NULL, "lm_head");
        pw_json_str(w, NULL, "gate");
        pw_json_close(w, ']');
    } else
        pw_json_null(w, "llm_int8_skip_modules");
    /* llm_int8_threshold is left to its default: transformers demands a float, and 6.0 is written "6" here. */
    pw_json_bool(w, "load_in_4bit", !int8);
    pw_json_bool(w, "load_in_8bit", int8);
    pw_json_str(w, "quant_method", "bitsandbytes");
    pw_json_close(w, '}');
}

/* The dtype of the model's linears as torch names it, for configs. */
static const char *base_dtype(struct job *j)
{
    struct pw_weight w;
    int64_t n_out, n_in;
    pw_linear_shape(j->config, PW_LIN_Q, &n_out, &n_in);
    if (pw_checkpoint_weight(j->c, "model.layers.0.self_attn.q_proj.weight", n_out, n_in, &w) < 0) {
        pw_error_clear();   /* the weights are written next, and say what is wrong */
        return "float32";
    }
    return torch_name(w.dtype);
}

static int write_config(struct job *j, const char *dir)
{
    struct pw_json w = {.indent = true};
    const struct pw_quant_options *o = &j->how->to;
    const char *dtype = o->type == PW_Q_DENSE ? torch_name(o->dtype) : base_dtype(j);
    int rc = 0;
    char *to = pw_path_join(&j->arena, dir, "config.json"), *from = pw_path_join(&j->arena, pw_checkpoint_path(j->c), "config.json");
    PW_CHECK_OUT(to && from, PW_E_NOMEM, "%s: no memory", dir);
    pw_json_open(&w, NULL, '{');
    if (pw_is_dir(pw_checkpoint_path(j->c)) && !j->config->whole[0]) {   /* everything that other programs may want of it is kept; of several parts the text is written */
        struct pw_value *json;
        PW_PASS_OUT(pw_json_load(&j->arena, from, &json));
        for (size_t i = 0; i < json->len; i++) {
            const char *key = json->members[i].key;
            if (strcmp(key, "quantization_config") && strcmp(key, "torch_dtype") && strcmp(key, "dtype"))
                pw_json_value(&w, key, &json->members[i].value);
        }
        pw_json_str(&w, "torch_dtype", dtype);
    } else
        pw_model_config_write(j->config, dtype, &w);
    if (o->type != PW_Q_DENSE)
        quantization_config(&w, o, dtype, j->config->experts > 0);
    pw_json_close(&w, '}');
    pw_buf_char(&w.out, '\n');
    PW_PASS_OUT(pw_json_status(&w));
    PW_PASS_OUT(pw_file_write(to, w.out.data, w.out.len, false));
out:
    pw_json_free(&w);
    return rc;
}

static int copy_files(struct job *j, const char *dir)
{
    static const char *const files[] = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja",
                                        "chat_template.json", "vocab.json", "merges.txt", "tokenizer.model", "added_tokens.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files && pw_is_dir(pw_checkpoint_path(j->c)); i++) {
        char *from = pw_path_join(&j->arena, pw_checkpoint_path(j->c), files[i]), *to = pw_path_join(&j->arena, dir, files[i]);
        PW_CHECK(from && to, PW_E_NOMEM, "%s: no memory", dir);
        if (pw_file_exists(from))
            PW_PASS(pw_file_copy(from, to));
    }
    return 0;
}

int pw_quant_remake(struct pw_dev *dev, struct pw_checkpoint *c, const char *dir, const struct pw_remake *how)
{
    struct job j = {.dev = dev, .c = c, .config = pw_checkpoint_config(c), .how = how};
    pw_arena_init(&j.arena);
    pw_checkpoint_spare(c);
    if (j.config->experts && how->to.type != PW_Q_DENSE && !how->to.experts_stored)
        pw_progress_say(how->progress, "experts are quantised: transformers 4.57 opens such a folder, transformers 5 does not, since it joins experts (--experts stored leaves them as they are)");
    int rc = write_config(&j, dir);
    if (rc == 0)
        rc = copy_files(&j, dir);
    if (rc == 0)
        rc = write_weights(&j, dir);
    pw_st_stream_abort(&j.out);
    pw_arena_free(&j.arena);
    return rc;
}

int pw_quant_folder(struct pw_dev *dev, const char *model, const struct pw_checkpoint_options *copt, const char *out_dir, bool force,
                    const struct pw_quant_options *o, void (*each)(void *ctx, const struct pw_quant_report *r), void *ctx, struct pw_progress *progress)
{
    struct pw_checkpoint *c = NULL;
    struct pw_outdir out = {0};
    struct pw_remake how = {.to = *o, .derived = true, .each = each, .ctx = ctx, .progress = progress};
    int rc = pw_checkpoint_open(&c, model, copt);
    PW_PASS_OUT(rc);
    pw_checkpoint_tell(c, progress);
    PW_PASS_OUT(pw_outdir_open(&out, out_dir, force));
    PW_PASS_OUT(pw_quant_remake(dev, c, out.temp, &how));
    PW_PASS_OUT(pw_outdir_commit(&out));
out:
    pw_outdir_abort(&out);
    pw_checkpoint_close(c);
    return rc;
}
