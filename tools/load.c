/* Loading model, tokenizer and adapters for commands (see the header). */
#include "tools/load.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "infer/memory_limit.h"
#include "lora/adapter_file.h"

static int open_tokenizer(struct pw_tokenizer **out, struct pw_checkpoint *checkpoint, bool needed)
{
    const char *path = pw_checkpoint_tokenizer(checkpoint), *name = pw_checkpoint_path(checkpoint);
    *out = NULL;
    if (!path) {
        if (!needed)
            return 0;
        int rc = pw_error(PW_E_REFUSED, "%s carries no tokenizer", name);
        pw_error_hint("give one with --tokenizer FILE");
        return rc;
    }
    if (strncmp(pw_checkpoint_format(checkpoint), "llama2.c", 8) == 0 && !pw_is_dir(path) && strlen(path) > 4 && strcmp(path + strlen(path) - 4, ".bin") == 0)
        PW_TRY(pw_tokenizer_load_llama2c(out, path, pw_checkpoint_config(checkpoint)->vocab), "loading the tokenizer %s", path);
    else
        PW_TRY(pw_tokenizer_load(out, path), "loading the tokenizer %s", path);
    if (pw_tokenizer_vocab(*out) > pw_checkpoint_config(checkpoint)->vocab) {
        int rc = pw_error(PW_E_FAIL, "%s: the tokenizer has %d tokens, the model %lld", path, (int)pw_tokenizer_vocab(*out),
                          (long long)pw_checkpoint_config(checkpoint)->vocab);
        pw_tokenizer_free(*out);
        *out = NULL;
        return rc;
    }
    return 0;
}

int pw_adapter_argument(struct pw_arena *a, const char *given, const char **path, double *scale)
{
    const char *colon = strrchr(given, ':');
    *scale = 1;
    *path = given;
    if (colon && !pw_file_exists(given) && !pw_is_dir(given) && pw_parse_f64(colon + 1, scale) == 0)
        *path = pw_arena_strndup(a, given, (size_t)(colon - given));
    PW_CHECK(*path, PW_E_NOMEM, "out of memory");
    return 0;
}

int pw_adapter_rescale(struct pw_adapter *a, const char *given, double scale)
{
    PW_CHECK(scale == 1 || a->n_saved == 0, PW_E_UNSUPPORTED, "%s: %s was trained whole, which :%g cannot multiply", given, a->saved[0].name, scale);
    for (size_t i = 0; i < a->n; i++)
        a->modules[i].lora.scale *= scale;
    return 0;
}

static int read_adapter(struct pw_adapter *a, const char *given, struct pw_model *m, const struct pw_cmd *c)
{
    struct pw_adapter_size size;
    struct pw_arena arena;
    const char *path = NULL;
    double scale = 1;
    int rc = 0;
    pw_arena_init(&arena);
    PW_PASS_OUT(pw_adapter_argument(&arena, given, &path, &scale));
    if (m->memory) {
        PW_TRY_OUT(pw_adapter_measure(path, &size), "loading the adapter %s", path);
        PW_TRY_OUT(pw_memory_check_adapter(m, size.stored, size.made + (m->dev->host ? size.largest : 0)), "loading the adapter %s", path);
    }
    PW_TRY_OUT(pw_adapter_load(a, path, &m->config), "loading the adapter %s", path);
    PW_TRY_OUT(pw_adapter_check_base(a, m->checkpoint, c->common->type, c->common->double_quant, c->common->force, c->progress), "loading the adapter %s", path);
    PW_PASS_OUT(pw_adapter_rescale(a, given, scale));
    PW_TRY_OUT(pw_adapter_put(a, m->dev), "loading the adapter %s", path);
    m->adapter_bytes += m->dev->host ? 0 : pw_adapter_bytes(a);
out:
    pw_arena_free(&arena);
    return rc;
}

/* ---- choices of products ---- */

/* On a handle of its own, so that the memory is given back; once for each shape that the blocks have. */
static int measure(struct pw_choices *choices, const struct pw_model *m, const char *device)
{
    const int64_t rows = m->config.context < PW_CHOICE_MOST ? m->config.context : PW_CHOICE_MOST;
    struct pw_dev *dev = NULL;
    int rc = 0;
    PW_PASS(pw_dev_open(&dev, &(struct pw_dev_options){.kind = device}));
    for (int i = 0; i < m->config.layers && rc == 0; i++)
        for (int j = 0; j < PW_LIN_COUNT && rc == 0; j++)
            if (m->layers[i].linear[j].data)
                rc = pw_choices_measure(choices, dev, &m->layers[i].linear[j], rows, false);
    pw_dev_close(dev);
    return rc;
}

const char *pw_cmd_products(const struct pw_cmd *c, struct pw_dev *dev, char path[4400])
{
    char folder[4096], name[256];
    if (c->common->products) {
        snprintf(path, 4400, "%s", c->common->products);
        return path;
    }
    if (!dev->backend->choose || dev->backend->driver(dev) == 0 || !pw_cmd_cache(folder, "products"))
        return NULL;
    snprintf(name, sizeof name, "%s", dev->level);
    for (char *at = name; *at; at++)
        if (strchr("/ \\", *at))
            *at = '-';
    snprintf(path, 4400, "%s/%s.json", folder, name);
    return path;
}

/* The file that --products names must be good; the one in the cache is made anew with a word when it is not, and is no reason to fail. With --memory nothing
 * is measured, since that takes memory of its own. */
static int choose_products(struct pw_loaded *l, const struct pw_cmd *c)
{
    const char *given = c->common->products;
    char path[4400];
    PW_CHECK(!given || l->dev->backend->choose, PW_E_USAGE, "--products: device %s has one way of multiplying", l->dev->kind);
    if (!l->dev->backend->choose)
        return 0;
    if (!pw_cmd_products(c, l->dev, path))
        return 0;
    PW_PASS(pw_choices_begin(&l->choices, l->dev, path, given != NULL, c->progress));
    const size_t before = l->choices.n + l->choices.n_attn;
    if (l->dev->backend->driver(l->dev) != 0 && c->common->memory == 0)
        PW_TRY(measure(&l->choices, l->model, strcmp(c->common->device, "auto") == 0 ? l->dev->kind : c->common->device), "measuring products");
    PW_PASS(pw_choices_keep(&l->choices, l->dev, path, given != NULL, before, c->progress));
    const struct pw_choices products = {.list = l->choices.list, .n = l->choices.n}; /* attention of the library is training's alone */
    return pw_choices_use(&products, l->dev);
}

int pw_load_refusal(int rc)
{
    char what[2048];
    if (rc != PW_E_NOMEM)
        return rc;
    snprintf(what, sizeof what, "%s", pw_error_text());
    rc = pw_error(PW_E_REFUSED, "there is less memory than this wants: %s", what);
    pw_error_hint("--type nf4, a smaller --ctx or --cache-type int8 want less");
    return rc;
}

int pw_load(struct pw_loaded *l, const struct pw_cmd *c, const char *path, bool needs_tokenizer)
{
    const struct pw_common *o = c->common;
    struct pw_model_options mo = {.tokenizer = o->tokenizer, .quantise = o->type, .double_quant = o->double_quant, .context = o->ctx, .memory = o->memory,
                                   .cache_type = o->cache_type};
    int rc = 0;
    memset(l, 0, sizeof *l);
    PW_PASS_OUT(pw_cmd_device(c, &l->dev));
    PW_TRY_OUT(pw_model_load(&l->model, l->dev, path, &mo), "loading the model %s", path);
    pw_checkpoint_tell(l->model->checkpoint, c->progress);
    PW_PASS_OUT(choose_products(l, c));
    PW_PASS_OUT(open_tokenizer(&l->tokenizer, l->model->checkpoint, needs_tokenizer));
    l->adapter_names = o->adapters.items;
    if (o->adapters.n > 0) {
        l->adapters = pw_alloc_zero(o->adapters.n, sizeof *l->adapters);
        PW_CHECK_OUT(l->adapters, PW_E_NOMEM, "out of memory");
    }
    for (; l->n_adapters < o->adapters.n; l->n_adapters++)
        PW_PASS_OUT(read_adapter(&l->adapters[l->n_adapters], o->adapters.items[l->n_adapters], l->model, c));
out:
    if (rc < 0)
        pw_unload(l);
    return pw_load_refusal(rc);
}

int pw_load_attached(struct pw_loaded *l, const struct pw_cmd *c, const char *path, bool needs_tokenizer)
{
    PW_CHECK(c->common->adapters.n <= 1, PW_E_USAGE, "--adapter: this command takes one, got %zu", c->common->adapters.n);
    PW_PASS(pw_load(l, c, path, needs_tokenizer));
    if (l->n_adapters == 0)
        return 0;
    int rc = pw_model_attach(l->model, &l->adapters[0]);
    if (rc < 0)
        pw_unload(l);
    return rc;
}

void pw_unload(struct pw_loaded *l)
{
    pw_tokenizer_free(l->tokenizer);
    if (l->model)
        pw_model_free(l->model);
    for (size_t i = 0; i < l->n_adapters; i++)
        pw_adapter_free(&l->adapters[i]);
    pw_free(l->adapters);
    if (l->dev)
        pw_dev_close(l->dev);
    pw_choices_free(&l->choices);
    memset(l, 0, sizeof *l);
}

int pw_load_tokenizer(struct pw_tokenizer **out, const struct pw_cmd *c, const char *path)
{
    struct pw_checkpoint *checkpoint = NULL;
    struct pw_checkpoint_options opt = {.tokenizer = c->common->tokenizer};
    /* A folder that is a tokenizer and no model serves too. */
    if (!c->common->tokenizer && pw_is_dir(path)) {
        char config[4096], tokenizer[4096];
        snprintf(config, sizeof config, "%s/config.json", path);
        snprintf(tokenizer, sizeof tokenizer, "%s/tokenizer.json", path);
        if (!pw_file_exists(config) || pw_file_exists(tokenizer))
            return pw_tokenizer_load(out, path);
    }
    PW_PASS(pw_checkpoint_open(&checkpoint, path, &opt));
    int rc = open_tokenizer(out, checkpoint, true);
    pw_checkpoint_close(checkpoint);
    return rc;
}
