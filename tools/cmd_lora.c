/* pw lora init and info: fresh adapters, and what an adapter is. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "lora/adapter_file.h"
#include "lora/peft.h"
#include "tools/load.h"

struct lora_options { const char *out; struct pw_strings set; };
#define AT(field) offsetof(struct lora_options, field)
static const struct pw_option init_options[] = {
    {"out", 'o', PW_OPT_STRING, AT(out), "DIR", NULL, NULL, 0, 0, "the adapter folder to write"},
    {"set", 0, PW_OPT_LIST, AT(set), "adapter.K=V", NULL, NULL, 0, 0, "kind, r, alpha, dropout, targets, rslora; as in a recipe"},
    PW_OPTIONS_END,
};
static int set_key(struct pw_adapter_config *k, const char *set)
{
    static const char *const keys[] = {"adapter.r", "adapter.alpha", "adapter.dropout", "adapter.targets", "adapter.rslora", "adapter.kind"};
    const char *value = strchr(set, '=');
    PW_CHECK(value, PW_E_USAGE, "--set %s: expected KEY=VALUE", set);
    const size_t n = (size_t)(value++ - set);
    int64_t i;
    int key = 0;
    while (key < 6 && (strlen(keys[key]) != n || strncmp(keys[key], set, n) != 0))
        key++;
    if (key == 6) {
        char word[64];
        snprintf(word, sizeof word, "%.*s", (int)(n < 60 ? n : 60), set);
        const char *near = pw_nearest(word, keys, 6);
        int rc = pw_error(PW_E_USAGE, "--set %s: unknown key", set);
        if (near)
            pw_error_hint("did you mean %s?", near);
        return rc;
    }
    bool good = true;
    if (key == 0) {
        good = pw_parse_i64(value, &i) == 0 && i >= 1 && i <= 65536;
        k->r = good ? (int)i : 0;
    } else if (key == 1)
        good = pw_parse_f64(value, &k->alpha) == 0;
    else if (key == 2)
        good = pw_parse_f64(value, &k->dropout) == 0;
    else if (key == 3)
        k->targets = value;
    else if (key == 4) {
        k->rslora = strcmp(value, "true") == 0;
        good = k->rslora || strcmp(value, "false") == 0;
    } else
        snprintf(k->kind, sizeof k->kind, "%s", value);
    PW_CHECK(good, PW_E_USAGE, "--set %s: the value is not one for %s", set, keys[key]);
    return 0;
}

/* A list in the recipe's form, [q_proj, v_proj], reads as q_proj,v_proj. */
static int plain_targets(struct pw_arena *a, struct pw_adapter_config *k)
{
    const size_t n = strlen(k->targets);
    if (n >= 2 && k->targets[0] == '[' && k->targets[n - 1] == ']')
        k->targets = pw_arena_strndup(a, k->targets + 1, n - 2);
    PW_CHECK(k->targets, PW_E_NOMEM, "out of memory");
    return 0;
}

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

/* The lengths of the base's rows, as the base will be where the adapter is used: they depend on --type. */
static int set_magnitudes(struct pw_cmd *c, struct pw_adapter *a)
{
    const struct pw_common *o = c->common;
    const struct pw_model_options mo = {.tokenizer = o->tokenizer, .quantise = o->type, .double_quant = o->double_quant, .memory = o->memory};
    const struct pw_dev_options host = {.kind = "cpu", .threads = o->threads};
    struct pw_dev *dev = NULL;
    struct pw_model *m = NULL;
    int rc = 0;
    PW_PASS_OUT(pw_dev_open(&dev, &host));
    PW_TRY_OUT(pw_model_load(&m, dev, c->args.items[0], &mo), "loading the model %s", c->args.items[0]);
    PW_PASS_OUT(pw_model_attach(m, a));
    for (size_t i = 0; i < a->n; i++)
        memcpy(a->modules[i].lora.magnitude.data, a->modules[i].lora.norm.data, pw_bytes(a->modules[i].lora.norm));
    if (m->config.rope_interleaved)
        a->paired = m->config.head_dim;
out:
    pw_model_free(m);
    pw_dev_close(dev);
    return rc;
}

static int lora_init(struct pw_cmd *c)
{
    const struct lora_options *o = c->options;
    const struct pw_checkpoint_options copt = {.tokenizer = c->common->tokenizer};
    struct pw_adapter_config k = {.kind = "lora", .r = 16, .alpha = 32, .targets = "all-linear"};
    struct pw_checkpoint *base = NULL;
    struct pw_adapter a = {0};
    struct pw_outdir out = {0};
    struct pw_arena arena;
    struct pw_json w = {0};
    void *memory = NULL;
    int rc = 0;
    pw_arena_init(&arena);
    PW_CHECK_OUT(o->out, PW_E_USAGE, "-o DIR is missing: where should the adapter go?");
    for (size_t i = 0; i < o->set.n; i++)
        PW_PASS_OUT(set_key(&k, o->set.items[i]));
    PW_PASS_OUT(plain_targets(&arena, &k));
    PW_PASS_OUT(pw_checkpoint_open(&base, c->args.items[0], &copt));
    pw_checkpoint_tell(base, c->progress);
    PW_PASS_OUT(pw_adapter_record_base(&k, base, c->common->type, c->common->double_quant));
    PW_PASS_OUT(pw_adapter_plan(&a, &k, pw_checkpoint_config(base)));
    const size_t bytes = pw_adapter_bytes(&a);
    memory = pw_alloc_zero(1, bytes);
    PW_CHECK_OUT(memory, PW_E_NOMEM, "no memory for an adapter of %zu bytes", bytes);
    PW_PASS_OUT(pw_adapter_place(&a, memory, bytes));
    pw_adapter_init(&a, (uint64_t)c->common->seed);
    if (pw_adapter_is_dora(&a))
        PW_PASS_OUT(set_magnitudes(c, &a));
    PW_PASS_OUT(pw_outdir_open(&out, o->out, c->common->force));
    PW_PASS_OUT(pw_peft_write(&a, out.temp));
    PW_PASS_OUT(pw_outdir_commit(&out));
    pw_json_begin(&w);
    describe(c, &a, &w);
out:
    pw_outdir_abort(&out);
    pw_adapter_free(&a);
    pw_free(memory);
    pw_checkpoint_close(base);
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
    {"lora init", "MODEL -o DIR [--set adapter.K=V]...", "a fresh adapter, without training", NULL, init_options, sizeof(struct lora_options), 1, 1, false, lora_init},
    {"lora info", "DIR", "what an adapter holds", NULL, NULL, 0, 1, 1, false, lora_info},
    {NULL},
};
