/* pw lora init and info: fresh adapters, and what an adapter is. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "lora/adapter_file.h"
#include "lora/peft.h"
#include "tools/load.h"
#include "train/begin.h"

struct lora_options { const char *out; struct pw_strings set; };
#define AT(field) offsetof(struct lora_options, field)
static const struct pw_option init_options[] = {
    {"out", 'o', PW_OPT_STRING, AT(out), "DIR", NULL, NULL, 0, 0, "the adapter folder to write"},
    {"set", 0, PW_OPT_LIST, AT(set), "adapter.K=V", NULL, NULL, 0, 0, "a key of the group adapter, as in a recipe: kind, r, alpha, dropout, targets, init, …"},
    PW_OPTIONS_END,
};

/* ---- the recipe that the settings are a part of ---- */

/* Does a recipe know this type of a base? Others change how it is loaded, and nothing begins from them. */
static bool is_recipe_type(const char *type)
{
    static const char *const types[] = {"none", "nf4", "fp4", "int8"};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(type, types[i]) == 0)
            return true;
    return false;
}

static int write_recipe(const struct pw_cmd *c, const char *out, struct pw_buf *text)
{
    const struct pw_common *g = c->common;
    struct pw_json w = {0};            /* which is YAML too */
    int rc = 0;
    pw_json_open(&w, NULL, '{');
    pw_json_open(&w, "model", '{');
    pw_json_str(&w, "path", c->args.items[0]);
    if (g->tokenizer)
        pw_json_str(&w, "tokenizer", g->tokenizer);
    pw_json_close(&w, '}');
    pw_json_open(&w, "quant", '{');
    pw_json_str(&w, "type", is_recipe_type(g->type) ? g->type : "none");
    pw_json_bool(&w, "double_quant", g->double_quant);
    pw_json_close(&w, '}');
    pw_json_open(&w, "data", '{');
    pw_json_str(&w, "train", "none");  /* is never read */
    pw_json_close(&w, '}');
    pw_json_str(&w, "output", out);
    pw_json_close(&w, '}');
    PW_PASS_OUT(pw_json_status(&w));
    pw_buf_add(text, w.out.data, w.out.len);
    rc = pw_buf_status(text);
out:
    pw_json_free(&w);
    return rc;
}

static int check_settings(const struct pw_recipe *r)
{
    int rc = 0;
    if (strcmp(r->kind, "full") == 0) {
        rc = pw_error(PW_E_USAGE, "adapter.kind: full trains the weights themselves, and there is no adapter to write (expected lora or dora)");
        pw_error_hint("`pw train` with adapter.kind: full");
    } else if (r->lora_plus != 1) {
        rc = pw_error(PW_E_USAGE, "adapter.lora_plus: %g is a learning rate: an adapter does not hold it", r->lora_plus);
        pw_error_hint("give it to `pw train`");
    }
    return rc;
}

static int read_recipe(struct pw_recipe *r, const struct pw_cmd *c)
{
    const struct lora_options *o = c->options;
    struct pw_buf text = {0};
    int rc = 0;
    for (size_t i = 0; i < o->set.n; i++)
        if (strncmp(o->set.items[i], "adapter.", 8) != 0) {
            rc = pw_error(PW_E_USAGE, "--set %s: expected adapter.KEY=VALUE", o->set.items[i]);
            pw_error_hint("`pw recipe docs` lists the keys; the base's type is --type, and --seed the seed");
            goto out;
        }
    PW_PASS_OUT(write_recipe(c, o->out, &text));
    rc = pw_recipe_parse(r, text.data, text.len, "pw lora init", (const char *const *)o->set.items, o->set.n);
    if (rc < 0) {
        if (!c->common->type[0] && strstr(pw_error_text(), "needs quant.type"))
            pw_error_hint("--type nf4 quantises the base while loading");
        goto out;
    }
    PW_PASS_OUT(check_settings(r));
    r->seed = c->common->seed;
    if (c->common->type[0] && !is_recipe_type(c->common->type))
        r->quant_type = c->common->type;
out:
    pw_buf_free(&text);
    return rc;
}

/* ---- what an adapter is ---- */

static void describe(struct pw_cmd *c, const struct pw_adapter *a, struct pw_json *w)
{
    const struct pw_adapter_config *k = &a->config;
    pw_json_str(w, "kind", k->kind);
    pw_json_i64(w, "r", k->r);
    pw_json_f64(w, "alpha", k->alpha);
    pw_json_f64(w, "scale", pw_adapter_scale(k));
    pw_json_bool(w, "rslora", k->rslora);
    pw_json_f64(w, "dropout", k->dropout);
    pw_json_str(w, "targets", k->targets);
    pw_json_i64(w, "modules", (int64_t)a->n);
    pw_json_i64(w, "modules_to_save", (int64_t)(a->n_saved - pw_adapter_biases(a)));
    pw_json_str(w, "bias", k->bias[0] ? k->bias : "none");
    pw_json_i64(w, "biases", (int64_t)pw_adapter_biases(a));
    pw_json_i64(w, "parameters", pw_adapter_parameters(a));
    pw_json_i64(w, "bytes", 4 * pw_adapter_parameters(a));
    pw_json_open(w, "base", '{');
    pw_json_str(w, "name", k->base_name[0] ? k->base_name : NULL);
    pw_json_str(w, "hash", k->base_hash[0] ? k->base_hash : NULL);
    pw_json_str(w, "type", k->base_type[0] ? k->base_type : NULL);
    pw_json_close(w, '}');
    if (c->common->json)
        return;
    char bytes[32];
    pw_format_bytes(bytes, (uint64_t)(4 * pw_adapter_parameters(a)));
    char whole[96] = "";
    if (a->n_saved > 0)
        snprintf(whole, sizeof whole, ", and trained whole: %zu modules, %zu biases", a->n_saved - pw_adapter_biases(a), pw_adapter_biases(a));
    pw_buf_printf(c->out, "%s r %d, alpha %g, scale %g%s, dropout %g\ntargets     %s\nmodules     %zu%s\nparameters  %lld, %s as f32\nbase        %s %.16s %s\n", k->kind,
                  k->r, k->alpha, pw_adapter_scale(k), k->rslora ? " (rank-stabilised)" : "", k->dropout, k->targets, a->n, whole,
                  (long long)pw_adapter_parameters(a), bytes, k->base_name[0] ? k->base_name : "unknown", k->base_hash, k->base_type);
}

static int finish(struct pw_cmd *c, struct pw_json *w, int rc)
{
    if (rc == 0 && c->common->json)
        return pw_json_finish(c, w);
    pw_json_free(w);
    return rc;
}

/* What the adapter is good for, where its beginning makes that a question; "": the model as it is. */
static void note_of(const struct pw_recipe *r, const struct pw_adapter *a, char note[1024])
{
    note[0] = 0;
    if (pw_recipe_pissa(r, NULL))
        snprintf(note, 1024, "for the unchanged base, not for PiSSA's residual: half of each pair of rank %d is minus what the other half begins as, so that nothing is changed yet. Only "
                 "`pw train` with adapter.init: pissa keeps that half still; other training moves both", a->config.r);
    else if (pw_recipe_loftq_base(r))
        snprintf(note, 1024, "for the base that is written beside it, %.500s, and no other", a->config.base_name);
    else if (strcmp(r->init, "loftq") == 0)
        snprintf(note, 1024, "for the base as %s: it holds what quantising so takes away", a->config.base_type);
}

static int lora_init(struct pw_cmd *c)
{
    const struct lora_options *o = c->options;
    struct pw_recipe r = {0};
    struct pw_begin begin = {0};
    struct pw_outdir out = {0};
    struct pw_arena arena;
    struct pw_json w = {0};
    char note[1024];
    int rc = 0;
    pw_arena_init(&arena);
    PW_CHECK_OUT(o->out, PW_E_USAGE, "-o DIR is missing: where should the adapter go?");
    PW_PASS_OUT(read_recipe(&r, c));
    PW_PASS_OUT(pw_outdir_open(&out, o->out, c->common->force));
    const struct pw_begin_options opt = {.recipe = &r, .threads = c->common->threads, .memory = c->common->memory, .progress = c->progress,
                                         .base = pw_path_join(&arena, out.temp, "base"), .base_named = pw_path_join(&arena, o->out, "base")};
    PW_CHECK_OUT(opt.base && opt.base_named, PW_E_NOMEM, "out of memory");
    pw_progress_start(c->progress, "lora init", c->common->quiet);
    rc = pw_begin_open(&begin, &opt);
    pw_progress_stop(c->progress);
    PW_PASS_OUT(rc);
    PW_PASS_OUT(pw_peft_write(&begin.run.adapter, out.temp));
    PW_PASS_OUT(pw_outdir_commit(&out));
    note_of(&r, &begin.run.adapter, note);
    pw_json_begin(&w);
    describe(c, &begin.run.adapter, &w);
    pw_json_str(&w, "init", r.init_from ? "init_from" : r.init);
    pw_json_str(&w, "note", note[0] ? note : NULL);
    if (!c->common->json && note[0])
        pw_buf_printf(c->out, "init        %s: %s\n", r.init, note);
out:
    pw_outdir_abort(&out);
    pw_begin_close(&begin);
    pw_recipe_free(&r);
    pw_arena_free(&arena);
    return finish(c, &w, rc);
}

static int lora_info(struct pw_cmd *c)
{
    struct pw_adapter a = {0};
    struct pw_json w = {0};
    int rc = pw_adapter_load(&a, c->args.items[0], NULL);
    if (rc == 0) {
        pw_json_begin(&w);
        describe(c, &a, &w);
    }
    pw_adapter_free(&a);
    return finish(c, &w, rc);
}

const struct pw_command pw_commands_lora[] = {
    {"lora init", "MODEL -o DIR [--set adapter.K=V]...", "a fresh adapter, without training",
     "Writes what `pw train` starts from with the same settings of the group adapter, the same base (--type, --double-quant) and the same --seed: the same bytes. With adapter.init: pissa or loftq the\n"
     "result says which base the adapter is for; with adapter.loftq_iter above 1 that base is written too, to DIR/base. No data is read: what begins from rows (EVA) is refused.", init_options, sizeof(struct lora_options), 1, 1, false, lora_init, .plans = true},
    {"lora info", "DIR", "what an adapter holds", NULL, NULL, 0, 1, 1, false, lora_info},
    {NULL},
};
