/* Recipes: what to train, from what, how, in one YAML file.
 *
 * The schema is a table of rows (train/recipe_rows.c): key, type, range, default, help. Reading, checking, the effective recipe that a run
 * folder keeps, and the manual's page are all made from that table, so a setting is added in one place. An unknown key names the
 * nearest right one and its line. Knows nothing of models and data: paths are taken as they stand (data files that are
 * not found so are looked for beside the recipe). */
#ifndef PW_TRAIN_RECIPE_H
#define PW_TRAIN_RECIPE_H

#include "base/memory.h"
#include "base/value.h"
#include "data/dataset.h"

struct pw_recipe {
    const char *source;                   /* the file, or the name of an embedded recipe */
    /* model */
    const char *model;                    /* any MODEL; NULL for a fresh one */
    const char *fresh;                    /* config.json of a model that starts from random weights, or NULL */
    const char *tokenizer;                /* of a fresh model, or of a model that carries none; or NULL */
    const char *dtype;                    /* of the weights that full training writes */
    const char *quant_type;               /* "none", "nf4", "fp4", "int8" */
    bool double_quant;
    const char *quant_head;               /* "none", "int8" */
    /* adapter */
    const char *kind;                     /* "lora" or "full" */
    int64_t r;
    double alpha, dropout;
    const char *targets;                  /* "all-linear" or "q_proj,v_proj" */
    bool rslora;
    double lora_plus;
    const char *rank_pattern, *alpha_pattern;  /* "q_proj=8,up_proj=4", "" for none */
    const char *layers;                   /* "all" or "0-3,28-31" */
    const char *modules_to_save;          /* "norm,embed_tokens", "none" */
    const char *bias;                     /* "none", "all", "lora_only" */
    const char *init, *init_from;         /* init_from: adapter folder to go on from, or NULL */
    int64_t loftq_iter;
    /* data */
    struct pw_data_file *train; size_t n_train;
    struct pw_data_file *eval; size_t n_eval; /* none: a share of the training rows, or no evaluation */
    double eval_share;
    const char *format, *chat_template, *train_on, *overlong;
    int64_t max_length;
    bool packing, shuffle;
    /* train */
    const char *objective, *schedule, *optimizer;
    int64_t epochs, steps, batch_size, accumulate;
    double lr, lr_end, warmup, decay;
    const char *no_decay;                 /* parts of names, or "none" */
    double beta;                          /* after reading: never 0, the objective's own where none was given */
    const char *dpo_loss;
    double label_smoothing, rpo_alpha, gamma, desirable_weight, undesirable_weight;
    double betas[2];
    double eps, weight_decay, clip;
    bool checkpointing, load_best;
    const char *compute;                  /* "f32", "bf16" */
    const char *sums;                     /* "auto", "host" */
    const char *optimizer_state;          /* "auto", "device", "host" */
    const char *memory;                   /* "auto", "as_given", "least", "stream" */
    int64_t save_every, eval_every, keep, patience, seed;
    double spike, neftune, min_delta;
    const char *samples;                  /* file of prompts, or NULL */
    int64_t sample_every, sample_tokens;
    const char *output;

    struct pw_arena arena;
};

/* name: a file, or an embedded recipe ("mistral-7b-qlora", with or without ".yaml"); a file wins. sets: "key.key=value" each, applied
 * in order after the file. Everything is checked but the existence of files. pw_recipe_free also after a failure. */
int pw_recipe_load(struct pw_recipe *r, const char *name, const char *const *sets, size_t n_sets);
int pw_recipe_parse(struct pw_recipe *r, const char *text, size_t bytes, const char *source, const char *const *sets, size_t n_sets);
void pw_recipe_free(struct pw_recipe *r);

/* The effective recipe: every key with its value, as YAML that reads back as the same recipe. */
int pw_recipe_write(const struct pw_recipe *r, struct pw_buf *out);
/* adapter.init: pissa, exactly (*rounds -1), or pissa_niter_N (N). rounds may be NULL. */
bool pw_recipe_pissa(const struct pw_recipe *r, int *rounds);
/* adapter.init: loftq whose rounds lead to another base than the model as it is quantised: train/loftq.h. */
bool pw_recipe_loftq_base(const struct pw_recipe *r);
/* The first setting that differs between two recipes and that changes the bytes of the result (where outputs go, how often a
 * state is saved and the like do not). Returns NULL when there is none, else its key; the two values as text in a and b. */
const char *pw_recipe_difference(const struct pw_recipe *x, const struct pw_recipe *y, char a[256], char b[256]);
/* The manual's page: one Markdown table row a key. */
void pw_recipe_docs(struct pw_buf *out);

/* The rows, for those that need the table itself (docs, completion, tests). */
enum pw_row_type { PW_ROW_BOOL, PW_ROW_INT, PW_ROW_REAL, PW_ROW_CHOICE, PW_ROW_TEXT, PW_ROW_WORDS, PW_ROW_RANGES, PW_ROW_PAIR, PW_ROW_MAP, PW_ROW_SOURCES, PW_ROW_EVAL };
struct pw_recipe_row {
    const char *key;
    enum pw_row_type type;
    size_t offset;
    const char *fallback;     /* as YAML; NULL: none (a text stays NULL) */
    double min, max;          /* INT, REAL, PAIR */
    bool open_max;            /* max itself is refused */
    bool free;                /* may change when a run is resumed: the bytes of the result do not depend on it */
    const char *choices;      /* "a | b"; a name that ends in _N stands for one with a number to 1000 there */
    const char *help;
};
extern const struct pw_recipe_row pw_recipe_rows[]; /* ends with a NULL key */
#endif
