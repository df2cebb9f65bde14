/* pw lora export: an adapter in the form of another program. */
#include "tools/load.h"

#include <string.h>

#include "base/file.h"
#include "lora/adapter_file.h"
#include "lora/gguf_lora.h"
#include "lora/peft.h"

struct options { const char *out, *to, *model; };
#define AT(field) offsetof(struct options, field)
static const struct pw_option table[] = {
    {"out", 'o', PW_OPT_STRING, AT(out), "OUT", NULL, NULL, 0, 0, "the file (gguf) or folder (peft) to write"},
    {"to", 0, PW_OPT_CHOICE, AT(to), "FORM", "gguf|peft", NULL, 0, 0, "gguf: for llama.cpp; peft: for the Python package"},
    {"model", 0, PW_OPT_STRING, AT(model), "MODEL", NULL, NULL, 0, 0, "the base; without it the one that the adapter names"},
    PW_OPTIONS_END,
};

struct job {
    struct pw_cmd *c;
    const struct options *o;
    struct pw_arena arena;
    struct pw_checkpoint *base;    /* NULL: peft without a model */
    struct pw_adapter a;
    const char *path;              /* of the adapter */
    double scale;
};

/* The base: --model, or what the adapter says. NULL when neither is there and it can be done without. */
static int open_base(struct job *j, bool needed)
{
    const struct pw_checkpoint_options copt = {.tokenizer = j->c->common->tokenizer};
    const char *model = j->o->model;
    if (!model) {
        struct pw_adapter look;
        PW_TRY(pw_adapter_load(&look, j->path, NULL), "loading the adapter %s", j->path);
        model = pw_arena_strndup(&j->arena, look.config.base_name, strlen(look.config.base_name));
        pw_adapter_free(&look);
        PW_CHECK(model, PW_E_NOMEM, "out of memory");
        if (!needed && !(model[0] && (pw_file_exists(model) || pw_is_dir(model))))
            return 0;
        if (!model[0]) {
            const int rc = pw_error(PW_E_USAGE, "the adapter does not say what its base is");
            pw_error_hint("name it: --model MODEL");
            return rc;
        }
    }
    PW_TRY(pw_checkpoint_open(&j->base, model, &copt), "opening the base %s", model);
    return 0;
}

static int load(struct job *j)
{
    const bool gguf = strcmp(j->o->to, "peft") != 0;
    PW_PASS(pw_adapter_argument(&j->arena, j->c->args.items[0], &j->path, &j->scale));
    /* Rows in GGUF files are in another order for some architectures: only the model says which. */
    PW_PASS(open_base(j, gguf || strcmp(pw_adapter_form(j->path), "GGUF") == 0));
    PW_TRY(pw_adapter_load(&j->a, j->path, j->base ? pw_checkpoint_config(j->base) : NULL), "loading the adapter %s", j->path);
    if (j->base)
        PW_PASS(pw_adapter_check_base(&j->a, j->base, "", false, j->c->common->force, j->c->progress));
    for (size_t i = 0; i < j->a.n; i++)
        j->a.modules[i].lora.scale *= j->scale;
    j->a.config.alpha *= j->scale;
    return 0;
}

/* Of the GGUF file: f32 unless --type f16. */
static int gguf_type(struct pw_cmd *c, enum pw_dtype *out)
{
    const char *type = c->common->type;
    PW_CHECK(!type[0] || strcmp(type, "f32") == 0 || strcmp(type, "f16") == 0, PW_E_USAGE, "--type %s: GGUF adapters are written as f32 or f16", type);
    *out = strcmp(type, "f16") == 0 ? PW_F16 : PW_F32;
    return 0;
}

static int write_peft(struct job *j)
{
    struct pw_outdir out = {0};
    int rc = 0;
    PW_PASS_OUT(pw_outdir_open(&out, j->o->out, j->c->common->force));
    PW_PASS_OUT(pw_peft_write(&j->a, out.temp));
    PW_PASS_OUT(pw_outdir_commit(&out));
out:
    pw_outdir_abort(&out);
    return rc;
}

static int export(struct pw_cmd *c)
{
    struct job j = {.c = c, .o = c->options};
    struct pw_json w = {0};
    enum pw_dtype type = PW_F32;
    int rc = 0;
    pw_arena_init(&j.arena);
    PW_CHECK_OUT(j.o->to, PW_E_USAGE, "--to FORM is missing: gguf or peft");
    PW_CHECK_OUT(j.o->out, PW_E_USAGE, "-o OUT is missing: where should it go?");
    PW_CHECK_OUT(c->common->adapters.n == 0, PW_E_USAGE, "--adapter: the adapter is the argument: pw lora export DIR");
    const bool gguf = strcmp(j.o->to, "gguf") == 0;
    PW_PASS_OUT(gguf_type(c, &type));
    PW_CHECK_OUT(gguf || !c->common->type[0], PW_E_USAGE, "--type %s: PEFT folders are written as f32", c->common->type);
    PW_PASS_OUT(load(&j));
    PW_PASS_OUT(gguf ? pw_gguf_lora_write(&j.a, j.o->out, pw_checkpoint_config(j.base), type, c->common->force) : write_peft(&j));
    if (!c->common->json) {
        pw_buf_printf(c->out, "%s: %s, %zu modules\n", j.o->out, gguf ? "GGUF adapter" : "PEFT folder", j.a.n);
        goto out;
    }
    pw_json_begin(&w);
    pw_json_str(&w, "output", j.o->out);
    pw_json_str(&w, "form", j.o->to);
    pw_json_str(&w, "type", pw_dtype_name(type));
    pw_json_i64(&w, "modules", (int64_t)j.a.n);
    pw_json_i64(&w, "parameters", pw_adapter_parameters(&j.a));
    rc = pw_json_finish(c, &w);
out:
    pw_json_free(&w);
    pw_adapter_free(&j.a);
    pw_checkpoint_close(j.base);
    pw_arena_free(&j.arena);
    return rc;
}

const struct pw_command pw_commands_export[] = {
    {"lora export", "DIR --to gguf|peft -o OUT [--model MODEL]", "an adapter in the form of another program",
     "DIR is an adapter in any form that is read: a PEFT folder, a GGUF adapter, an mlx-lm folder; DIR:SCALE multiplies it. gguf is what llama.cpp\n"
     "takes with --lora: rank-stabilised and per-module scales are written into the tensors, rows of q and k are in the order of GGUF files. As f32,\n"
     "or --type f16. DoRA has no place in such files: merge it.\n",
     table, sizeof(struct options), 1, 1, false, export},
    {NULL},
};
