/* See fits.h. */
#include "train/fits.h"

#include <string.h>

#include "base/error.h"
#include "infer/memory_limit.h"
#include "infer/session.h"

enum { PIECE = 512 };                /* tokens of a pass of a prompt */

struct asked { struct pw_arena *arena; struct pw_dev *dev; const char *model, *tokenizer; int64_t tokens; const uint64_t *limits; int n; };

/* NF4 with double quantisation, as the recipes for one card have it. */
static int run_use(const struct asked *k, struct pw_fits_use *u, bool nf4, bool *dense)
{
    const struct pw_model_options o = {.tokenizer = k->tokenizer, .quantise = nf4 ? "nf4" : NULL, .double_quant = nf4, .measure = true};
    struct pw_model *m = NULL;
    PW_PASS(pw_model_load(&m, k->dev, k->model, &o));
    const int64_t tokens = k->tokens < m->config.context ? k->tokens : m->config.context;
    *dense = true;
    for (int i = 0; i < m->config.layers; i++) {
        for (int l = 0; l < PW_LIN_COUNT; l++)
            *dense = *dense && (!pw_layer_has(&m->config, i, l) || m->layers[i].linear[l].type == PW_Q_DENSE);
    }
    u->bytes = pw_memory_need(m, tokens, tokens < PIECE ? tokens : PIECE, 1);
    for (int i = 0; i < k->n; i++)
        u->sizes[i] = (struct pw_fits_size){.limit = k->limits[i], .bytes = u->bytes, .fits = u->bytes <= k->limits[i]};
    pw_model_free(m);
    return 0;
}

static int plan(const struct asked *k, struct pw_recipe *r, struct pw_fits_use *u)
{
    struct pw_run run = {0};
    int rc = 0;
    const struct pw_run_options o = {.recipe = r, .dev = k->dev, .imagined = k->tokens};
    r->memory = "as_given";
    PW_PASS_OUT(pw_run_open(&run, &o));
    u->bytes = pw_budget_peak(&run.budget);
    r->memory = "auto";
    for (int i = 0; i < k->n; i++) {
        run.opt.memory = k->limits[i];
        PW_PASS_OUT(pw_run_choose_fit(&run));
        u->sizes[i] = (struct pw_fits_size){.limit = k->limits[i], .bytes = pw_budget_peak(&run.budget), .fits = pw_run_fits(&run), .how = run.fit};
    }
out:
    pw_run_close(&run);
    return rc;
}

static int train_use(const struct asked *k, struct pw_fits_use *u, bool nf4)
{
    struct pw_recipe r = {0};
    struct pw_buf text = {0};
    int rc = 0;
    pw_buf_printf(&text, "model: x\nquant: {type: %s, double_quant: %s}\nadapter: {r: %d}\ndata: {train: x, max_length: %lld}\noutput: x\n", nf4 ? "nf4" : "none", nf4 ? "true" : "false", PW_FITS_RANK,
                  (long long)k->tokens);
    PW_PASS_OUT(pw_buf_status(&text));
    PW_PASS_OUT(pw_recipe_parse(&r, text.data, text.len, "a plan", NULL, 0));
    r.model = k->model;              /* any path, which need not be fit for YAML */
    r.tokenizer = k->tokenizer;
    if (strcmp(k->dev->kind, "cpu") == 0 && k->dev->products == PW_BF16)
        r.compute = "bf16";
    rc = plan(k, &r, u);
out:
    pw_recipe_free(&r);
    pw_buf_free(&text);
    return rc;
}

int pw_fits(struct pw_fits_use uses[PW_FITS_USES], int *n_uses, struct pw_arena *arena, struct pw_dev *dev, const char *model, const char *tokenizer, int64_t tokens, const uint64_t *limits, int n)
{
    static const char *const names[PW_FITS_USES] = {"run as stored", "run in nf4", "train an adapter as stored", "train an adapter on nf4"};
    const struct asked k = {arena, dev, model, tokenizer, tokens, limits, n};
    bool dense = true, again;
    PW_CHECK(n <= PW_FITS_SIZES && tokens > 0, PW_E_FAIL, "plans for %d sizes of %lld tokens", n, (long long)tokens);
    *n_uses = 0;
    for (int i = 0; i < PW_FITS_USES; i++) {
        const bool nf4 = i % 2 == 1;
        if (nf4 && !dense)
            continue;
        struct pw_fits_use *u = &uses[(*n_uses)++];
        *u = (struct pw_fits_use){.name = names[i], .training = i >= 2};
        const int rc = i < 2 ? run_use(&k, u, nf4, nf4 ? &again : &dense) : train_use(&k, u, nf4);
        if (rc < 0 && rc != PW_E_UNSUPPORTED && rc != PW_E_REFUSED)
            return rc;
        if (rc < 0) {
            u->why = pw_arena_strndup(arena, pw_error_text(), strlen(pw_error_text()));
            PW_CHECK(u->why, PW_E_NOMEM, "out of memory");
            pw_error_clear();
        }
    }
    return 0;
}
