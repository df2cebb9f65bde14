/* pw lora merge: base and adapter as one model, and what that changed. */
#include "tools/artefact.h"

#include <string.h>

#include "base/file.h"
#include "data/gguf_model.h"
#include "lora/adapter_file.h"
#include "lora/merge.h"

struct options { const char *out, *format, *prompts; bool no_check; };
#define AT(field) offsetof(struct options, field)
static const struct pw_option table[] = {
    {"out", 'o', PW_OPT_STRING, AT(out), "OUT", NULL, NULL, 0, 0, "the model folder or GGUF file to write"},
    {"format", 0, PW_OPT_CHOICE, AT(format), "FORMAT", "hf|gguf", NULL, 0, 0, "hf: a folder of safetensors; gguf: one file. Without it: gguf when OUT ends in .gguf"},
    {"prompts", 0, PW_OPT_STRING, AT(prompts), "FILE", NULL, NULL, 0, 0, "texts to compare adapter and merged model on, as in pw lora verify; without it built-in ones"},
    {"no-check", 0, PW_OPT_FLAG, AT(no_check), NULL, NULL, NULL, 0, 0, "do not compare the merged model with the adapter"},
    PW_OPTIONS_END,
};

struct job {
    struct pw_cmd *c;
    const struct options *o;
    struct pw_arena arena;
    struct pw_checkpoint *base;
    struct pw_adapter a;
    struct pw_merge_options how;
    const char *type;              /* of what is written */
    bool compared;
    struct pw_artefact left;       /* of the comparison */
    struct pw_artefact_diff diff;
};

static bool ends_with(const char *s, const char *tail)
{
    const size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

/* --type; else f16 for GGUF, and for folders the base's own dtype (that of what a quantised base was made of). */
static int output_type(struct job *j)
{
    const char *given = j->c->common->type;
    struct pw_quant_options *to = &j->how.to;
    struct pw_weight w;
    int64_t n_out, n_in;
    j->how.gguf = j->o->format ? strcmp(j->o->format, "gguf") == 0 : ends_with(j->o->out, ".gguf");
    PW_CHECK(!j->c->common->double_quant, PW_E_USAGE, "--double-quant: nothing is merged into 4-bit weights");
    if (given[0]) {
        PW_PASS(pw_quant_parse(given, to));
        const bool can = to->type == PW_Q_DENSE || (j->how.gguf && pw_block_type(to->type));
        PW_CHECK(can, PW_E_USAGE, "--type %s: merging writes f32, f16 or bf16, and into GGUF files (-o NAME.gguf) also q8_0, q4_0, q4_K and q6_K; nothing is merged into 4-bit weights", given);
    } else {
        *to = (struct pw_quant_options){.type = PW_Q_DENSE, .block = 64, .dtype = PW_F16};
        if (!j->how.gguf) {
            pw_linear_shape(pw_checkpoint_config(j->base), PW_LIN_Q, &n_out, &n_in);
            PW_PASS(pw_checkpoint_weight(j->base, "model.layers.0.self_attn.q_proj.weight", n_out, n_in, &w));
            to->dtype = w.dtype;
        }
    }
    to->memory = j->c->common->memory;
    j->type = to->type == PW_Q_DENSE ? pw_dtype_name(to->dtype) : pw_qtype_name(to->type);
    return 0;
}

/* The adapter, with the rows of q and k in the order of what is written. */
static int load(struct job *j)
{
    const struct pw_checkpoint_options copt = {.tokenizer = j->c->common->tokenizer};
    const char *path = NULL;
    double scale = 1;
    PW_PASS(pw_adapter_argument(&j->arena, j->c->common->adapters.items[0], &path, &scale));
    PW_PASS(pw_checkpoint_open(&j->base, j->c->args.items[0], &copt));
    pw_checkpoint_spare(j->base);
    if (j->o->no_check || !pw_checkpoint_tokenizer(j->base))   /* comparing loads it, and says so */
        pw_checkpoint_tell(j->base, j->c->progress);
    PW_PASS(output_type(j));
    struct pw_model_config own = *pw_checkpoint_config(j->base), shape = own;
    shape.rope_interleaved = false;
    if (j->how.gguf)
        PW_PASS(pw_gguf_permutes(&own, &shape.rope_interleaved));
    PW_TRY(pw_adapter_load(&j->a, path, &shape), "loading the adapter %s", path);
    PW_PASS(pw_adapter_check_base(&j->a, j->base, "", false, j->c->common->force, j->c->progress));
    return pw_adapter_rescale(&j->a, j->c->common->adapters.items[0], scale);
}

/* Of what will be written; no type in blocks takes more than 16 bits. */
static uint64_t merged_bytes(const struct job *j)
{
    const struct pw_quant_options *to = &j->how.to;
    return (uint64_t)pw_checkpoint_config(j->base)->parameters * (to->type == PW_Q_DENSE ? pw_dtype_bytes(to->dtype) : sizeof(uint16_t));
}

static bool compares(const struct job *j)
{
    return !j->o->no_check && !pw_adapter_dora_expert(&j->a) && pw_checkpoint_tokenizer(j->base);
}

/* Base with adapter against what was written, before it gets its name. */
static int compare(void *ctx, const char *path)
{
    struct job *j = ctx;
    const struct pw_artefact side[2] = {j->left, {.model = path, .type = "", .same_tokenizer = true}};
    if (j->o->no_check)
        return 0;
    if (!compares(j)) {
        pw_progress_say(j->c->progress, pw_adapter_dora_expert(&j->a) ? "not compared: dora on experts is merged, and cannot be attached to compare it with"
                                                                      : "not compared: the model has no tokenizer (give one with --tokenizer)");
        return 0;
    }
    PW_TRY(pw_artefact_compare(&j->diff, j->c, side, j->o->prompts, -1), "comparing the adapter with the merged model");
    j->compared = true;
    return 0;
}

static int result(struct job *j, const struct pw_merge_result *r)
{
    struct pw_json w = {0};
    if (!j->c->common->json) {
        pw_buf_printf(j->c->out, "%s: %zu modules merged, %s; largest change of a weight %.6g in %s\n", j->o->out, r->modules, j->type, r->max_change, r->where);
        if (j->compared) {
            pw_buf_str(j->c->out, "adapter against merged model: ");
            pw_artefact_text(&j->diff, j->c->out);
        }
        return 0;
    }
    pw_json_begin(&w);
    pw_json_str(&w, "output", j->o->out);
    pw_json_str(&w, "format", j->how.gguf ? "gguf" : "hf");
    pw_json_str(&w, "type", j->type);
    pw_json_i64(&w, "modules", (int64_t)r->modules);
    pw_json_f64(&w, "max_change", r->max_change);
    pw_json_str(&w, "max_change_in", r->where);
    if (j->compared)
        pw_artefact_json(&j->diff, &w);
    else {
        pw_json_null(&w, "max_logit_diff");
        pw_json_null(&w, "kl");
    }
    const int rc = pw_json_finish(j->c, &w);
    pw_json_free(&w);
    return rc;
}

static int merge(struct pw_cmd *c)
{
    struct job j = {.c = c, .o = c->options};
    struct pw_merge_result r;
    struct pw_dev *dev = NULL;
    int rc = 0;
    pw_arena_init(&j.arena);
    PW_CHECK_OUT(j.o->out, PW_E_USAGE, "-o OUT is missing: where should the model go?");
    PW_CHECK_OUT(c->common->adapters.n == 1, PW_E_USAGE, "--adapter DIR: expected one, got %zu", c->common->adapters.n);
    PW_PASS_OUT(load(&j));
    j.how.force = c->common->force;
    j.how.finished = compare;
    j.how.ctx = &j;
    j.left = (struct pw_artefact){.model = c->args.items[0], .adapter = c->common->adapters.items[0], .type = "", .force = true};
    PW_PASS_OUT(pw_cmd_host_device(c, &dev));
    if (compares(&j))
        PW_PASS_OUT(pw_artefact_plan(&j.left, &j.a, merged_bytes(&j), c, j.o->prompts));
    PW_PASS_OUT(pw_lora_merge_into(dev, j.base, &j.a, j.o->out, &j.how, &r, c->progress));
    rc = result(&j, &r);
out:
    pw_dev_close(dev);
    pw_adapter_free(&j.a);
    pw_checkpoint_close(j.base);
    pw_arena_free(&j.arena);
    return rc;
}

const struct pw_command pw_commands_merge[] = {
    {"lora merge", "MODEL --adapter DIR -o OUT [--type TYPE]", "base and adapter as one model",
     "The product of the adapter is added in f32 to the dequantised base, and the largest change of a weight is printed. OUT is a folder (f32, f16 or bf16), or a\n"
     "GGUF file (also q8_0, q4_0, q4_K, q6_K; f16 without --type). Before OUT appears, base with adapter and the merged model are compared token by token, as\n"
     "pw lora verify does: largest difference of a logit and KL. A merge that changes nothing is an error.\n",
     table, sizeof(struct options), 1, 1, false, merge, .plans = true},
    {NULL},
};
