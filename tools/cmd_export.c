/* pw lora export: an adapter in the form of another program. */
#include "tools/load.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "lora/adapter_file.h"
#include "lora/gguf_lora.h"
#include "lora/peft.h"
#include "quant/quant.h"
#include "tools/modelfile.h"

struct options { const char *out, *to, *model, *from; };
#define AT(field) offsetof(struct options, field)
static const struct pw_option table[] = {
    {"out", 'o', PW_OPT_STRING, AT(out), "OUT", NULL, NULL, 0, 0, "the file (gguf) or folder (peft, ollama) to write"},
    {"to", 0, PW_OPT_CHOICE, AT(to), "FORM", "gguf|ollama|peft", NULL, 0, 0, "gguf: for llama.cpp; ollama: a folder for `ollama create`; peft: for the Python package"},
    {"model", 0, PW_OPT_STRING, AT(model), "MODEL", NULL, NULL, 0, 0, "the base; without it the one that the adapter names"},
    {"from", 0, PW_OPT_STRING, AT(from), "NAME", NULL, NULL, 0, 0, "ollama: the base as Ollama knows it, in place of a file in the folder"},
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
    pw_checkpoint_tell(j->base, j->c->progress);
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
    PW_PASS(pw_adapter_rescale(&j->a, j->c->args.items[0], j->scale));
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

/* ---- Ollama ---- */

/* FROM: --from; a GGUF base where it lies; else a GGUF file made of the base, in the folder. */
static int put_base(struct job *j, const char *folder, const char **from)
{
    const char *path = pw_checkpoint_path(j->base), *type = j->c->common->type;
    struct pw_dev *dev = NULL;
    int rc = 0;
    if (j->o->from) {
        PW_CHECK(!type[0], PW_E_USAGE, "--type %s: no base is written with --from", type);
        *from = j->o->from;
        return 0;
    }
    if (strncmp(pw_checkpoint_format(j->base), "GGUF", 4) == 0) {
        PW_CHECK(!type[0], PW_E_USAGE, "--type %s: the base is a GGUF file already and stays as it is", type);
        char *whole = realpath(path, NULL);
        PW_CHECK(whole, PW_E_IO, "%s: its path cannot be resolved", path);
        *from = pw_arena_strndup(&j->arena, whole, strlen(whole));
        free(whole);
        PW_CHECK(*from, PW_E_NOMEM, "out of memory");
        return 0;
    }
    struct pw_remake how = {.derived = true, .progress = j->c->progress};
    PW_PASS(pw_quant_parse(type[0] ? type : "f16", &how.to));
    how.to.memory = j->c->common->memory;
    pw_cmd_plans();
    PW_PASS(pw_cmd_host_device(j->c, &dev));
    const char *file = pw_path_join(&j->arena, folder, "base.gguf");
    PW_CHECK_OUT(file, PW_E_NOMEM, "out of memory");
    PW_TRY_OUT(pw_quant_gguf_remake(dev, j->base, file, false, &how), "writing the base");
    *from = "./base.gguf";
out:
    pw_dev_close(dev);
    return rc;
}

static int write_ollama(struct job *j, bool *has_template)
{
    struct pw_outdir out = {0};
    struct pw_tokenizer *t = NULL;
    struct pw_buf text = {0};
    struct pw_modelfile m = {.adapter = "./adapter.gguf", .context = j->c->common->ctx, .name = pw_checkpoint_path(j->base)};
    int rc = 0;
    PW_PASS_OUT(pw_outdir_open(&out, j->o->out, j->c->common->force));
    const char *adapter = pw_path_join(&j->arena, out.temp, "adapter.gguf"), *file = pw_path_join(&j->arena, out.temp, "Modelfile");
    const char *sampling = pw_path_join(&j->arena, m.name, "generation_config.json");
    PW_CHECK_OUT(adapter && file && sampling, PW_E_NOMEM, "out of memory");
    m.generation_config = pw_is_dir(m.name) && pw_file_exists(sampling) ? sampling : NULL;
    if (pw_checkpoint_tokenizer(j->base))
        PW_PASS_OUT(pw_load_tokenizer(&t, j->c, m.name));
    m.tokenizer = t;
    PW_PASS_OUT(put_base(j, out.temp, &m.from));
    PW_PASS_OUT(pw_gguf_lora_write(&j->a, adapter, pw_checkpoint_config(j->base), PW_F32, false));
    PW_PASS_OUT(pw_modelfile_write(&m, &text, has_template, j->c->progress));
    PW_PASS_OUT(pw_file_write(file, text.data, text.len, false));
    PW_PASS_OUT(pw_outdir_commit(&out));
out:
    pw_buf_free(&text);
    pw_tokenizer_free(t);
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
    PW_CHECK_OUT(j.o->to, PW_E_USAGE, "--to FORM is missing: gguf, ollama or peft");
    PW_CHECK_OUT(j.o->out, PW_E_USAGE, "-o OUT is missing: where should it go?");
    PW_CHECK_OUT(c->common->adapters.n == 0, PW_E_USAGE, "--adapter: the adapter is the argument: pw lora export DIR");
    const bool gguf = strcmp(j.o->to, "gguf") == 0, ollama = strcmp(j.o->to, "ollama") == 0;
    bool has_template = false;
    if (gguf)
        PW_PASS_OUT(gguf_type(c, &type));
    PW_CHECK_OUT(gguf || ollama || !c->common->type[0], PW_E_USAGE, "--type %s: PEFT folders are written as f32", c->common->type);
    PW_CHECK_OUT(ollama || !j.o->from, PW_E_USAGE, "--from belongs to --to ollama");
    PW_PASS_OUT(load(&j));
    if (ollama)
        PW_PASS_OUT(write_ollama(&j, &has_template));
    else
        PW_PASS_OUT(gguf ? pw_gguf_lora_write(&j.a, j.o->out, pw_checkpoint_config(j.base), type, c->common->force) : write_peft(&j));
    if (!c->common->json) {
        pw_buf_printf(c->out, "%s: %s, %zu modules\n", j.o->out, gguf ? "GGUF adapter" : ollama ? "folder for `ollama create NAME -f Modelfile`" : "PEFT folder", j.a.n);
        goto out;
    }
    pw_json_begin(&w);
    pw_json_str(&w, "output", j.o->out);
    pw_json_str(&w, "form", j.o->to);
    pw_json_str(&w, "type", pw_dtype_name(type));
    pw_json_i64(&w, "modules", (int64_t)j.a.n);
    pw_json_i64(&w, "parameters", pw_adapter_parameters(&j.a));
    if (ollama)
        pw_json_bool(&w, "has_template", has_template);
    rc = pw_json_finish(c, &w);
out:
    pw_json_free(&w);
    pw_adapter_free(&j.a);
    pw_checkpoint_close(j.base);
    pw_arena_free(&j.arena);
    return rc;
}

const struct pw_command pw_commands_export[] = {
    {"lora export", "DIR --to gguf|ollama|peft -o OUT [--model MODEL]", "an adapter in the form of another program",
     "DIR is an adapter in any form that is read: a PEFT folder, a GGUF adapter, an mlx-lm folder; DIR:SCALE multiplies it. gguf is what llama.cpp\n"
     "takes with --lora: rank-stabilised and per-module scales are written into the tensors, rows of q and k are in the order of GGUF files. As f32,\n"
     "or --type f16. DoRA has no place in such files: merge it. ollama is a folder: Modelfile, adapter.gguf, and base.gguf (f16, or --type) unless the base\n"
     "is a GGUF file already (then FROM names it) or --from names it. TEMPLATE is derived from what the chat template renders and checked against it; a template\n"
     "that Ollama's form cannot hold is left out, and that is said.\n",
     table, sizeof(struct options), 1, 1, false, export},
    {NULL},
};
