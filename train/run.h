/* A run: from a recipe to a run folder. Reads tokenizer and data, plans memory, refuses what cannot be, trains, saves, and writes the outputs.
 *
 * The folder: adapter/ (or model/), best/, checkpoints/step-N.h5, samples/step-N.jsonl, log.jsonl, log.csv, report.html, tb/, recipe.yaml, with loftq of several rounds base/, on a card products.json. It is made
 * only after model, data and plan are accepted. Knows nothing of options and commands. */
#ifndef PW_TRAIN_RUN_H
#define PW_TRAIN_RUN_H

#include "base/lock.h"
#include "data/preflight.h"
#include "kernels/choices.h"
#include "train/probes.h"
#include "train/trainer.h"

struct pw_run_options {
    const struct pw_recipe *recipe;
    struct pw_dev *dev;
    uint64_t memory;                 /* most bytes to use; 0: what the machine has left */
    bool resume, force;
    int64_t imagined;                /* for plans without data: the rows of one pass, each of so many tokens and at most the context, and no tokenizer is read; 0: the data of the recipe */
    const char *cache_dir;           /* of tokenised rows; NULL: none */
    const char *products; bool products_given; /* file of choices (kernels/choices.h), NULL: none; given by the user: it must be good */
    struct pw_progress *progress;
    bool (*stop)(void *ctx); void *stop_ctx;
    struct pw_ranks *ranks;          /* NULL: alone. Rank 0 alone reads and writes the run folder and says what there is to say */
    /* Called after each evaluation on the held-out rows (benchmarks during training); may be NULL. */
    int (*evaluated)(void *ctx, struct pw_model *m, int64_t step, double loss); void *evaluated_ctx;
};
struct pw_run_fit { int kept; bool offload, embed_host, optim_host; int stream; size_t host_bytes; }; /* kept, offload: train/pass.h; blocks that wait; pinned host memory they take */
struct pw_run {
    struct pw_run_options opt;
    struct pw_tokenizer *tokenizer;
    struct pw_dataset *train, *eval;
    struct pw_preflight preflight;
    struct pw_probes probes;       /* none: n is 0 */
    uint32_t *rows, *held; int64_t n_rows, n_held;   /* examples; NULL: all of train; of the held-out share */
    const char *base;                /* the run's own base, instead of the recipe's model: train/loftq.h; NULL: none */
    struct pw_model *model;          /* shapes alone until training begins */
    struct pw_model_config config;
    struct pw_choices choices;       /* of products, as the run began with them; the device uses this list until the run is closed */
    struct pw_buf products;          /* the same as the text of products.json; empty: no choices */
    struct pw_adapter adapter; bool has_adapter;
    struct pw_trainer trainer; bool has_trainer;
    struct pw_budget budget;
    struct pw_run_fit fit;           /* what was chosen to make it fit */
    uint64_t limit, host_limit;      /* bytes that the plan, and what waits in host memory, must fit into */
    char base_hash[65];
    struct pw_arena arena;
};
struct pw_run_result {
    const char *output;              /* of the recipe */
    int64_t steps, tokens, trained_tokens, parameters;
    double loss; bool has_loss;      /* of the last step */
    double eval_loss; bool has_eval;
    double first_eval_loss;
    int ranks; const char *sums;     /* 1, ""; of several: what summed their gradients (train/ranks.h) */
    double seconds;
    double seconds_to_first_step; bool stepped;  /* from the start of the process; an evaluation before step 1 is in it; stepped: there was a step */
    uint64_t planned_bytes, peak_bytes; /* the most that the process came to; on a card: that was in use after a step */
};
/* Everything but memory and steps: data, counts, the plan. Several ranks succeed or fail together, here and in pw_run_train. */
int pw_run_open(struct pw_run *run, const struct pw_run_options *opt);
/* Chooses kept, offload, embed_host and optim_host as the recipe's train.memory says (train/fit.c); part of opening. */
int pw_run_choose_fit(struct pw_run *run);
bool pw_run_fits(const struct pw_run *run);
/* Settings that would make the plan smaller, as texts in run->arena; the list ends with NULL. */
int pw_run_suggest(struct pw_run *run, const char ***texts);
/* Seconds of training, from a GEMM rate that is measured here (some tens of milliseconds) and the operations of the model. Both 0 on a device whose times
 * mean nothing (an emulation). */
int pw_run_estimate(struct pw_run *run, double *seconds, double *flops_per_s);
/* PW_E_REFUSED when the output exists or the plan does not fit. */
int pw_run_accept(struct pw_run *run);
/* While a run is trained its folder is locked: a second process is refused. To ask beforehand, take and drop the lock of a folder that exists. */
int pw_run_lock(struct pw_lock *lock, const char *output);
int pw_run_train(struct pw_run *run, struct pw_run_result *result);
void pw_run_close(struct pw_run *run);
#endif
