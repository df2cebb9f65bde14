/* The trainer: optimiser steps over a model and a data set, from counters that can be saved and set.
 *
 * Three phases. open counts (steps, the largest pass, parameters) and takes no large memory; budget says what the next phase will take;
 * start takes it. Then step after step. A step sums the gradients of its passes, each weighted by 1 / (trained tokens of the whole step), or by
 * 1 / (pairs or labelled answers of the whole step), clips, and updates. Several ranks share the passes of a step (accumulate times ranks of them) and sum
 * gradients before clipping; what a pass computes does not depend on who runs it. Everything random is a function of (seed, position). Knows nothing of files, logs and folders (train/run.h). */
#ifndef PW_TRAIN_TRAINER_H
#define PW_TRAIN_TRAINER_H

#include "train/budget.h"
#include "train/epochs.h"
#include "train/pass.h"
#include "train/preference.h"
#include "train/ranks.h"
#include "train/recipe.h"
#include "train/resume.h"

enum { PW_TRAINER_RECENT = 32 };
struct pw_trainer_setup {
    const struct pw_recipe *recipe;
    struct pw_model *model;             /* with the adapter attached; trainable for full training */
    struct pw_adapter *adapter;         /* planned, with or without memory; NULL: full training */
    const struct pw_dataset *train; const uint32_t *rows; int64_t n_rows;      /* rows NULL: all */
    const struct pw_dataset *eval; const uint32_t *eval_rows; int64_t n_eval;  /* eval NULL: none */
    struct pw_ranks *ranks;             /* NULL: alone */
    int kept; bool offload;             /* of the passes: train/pass.h; kept 0: as the recipe says */
    bool optim_host;                    /* averages wait in host memory: train/optim.h; only where device memory is another */
    bool (*stop)(void *ctx); void *stop_ctx;                                   /* asked between passes; may be NULL */
};
struct pw_trainer {
    struct pw_trainer_setup set;
    struct pw_epochs epochs;
    struct pw_packing_options packing;
    struct pw_packing *eval_plan;       /* NULL: no evaluation */
    struct pw_pass_shape shape;
    enum pw_optim_kind kind;
    struct pw_slot *slots; size_t n_slots;
    int64_t parameters;                 /* trained */
    struct pw_tensor still_rows, still_zeros; /* of adapters in halves: places of the second halves of B's rows; zeros */
    struct pw_arena arena;
    /* from start on */
    struct pw_pool pool;
    struct pw_optim optim;
    struct pw_pass pass;
    struct pw_packed packed;
    struct pw_preference preference;
    struct pw_packing *plan; int64_t plan_epoch;
    double *losses, *eval_losses;       /* (passes of a step and REWARDS), (passes of an evaluation; NULL: none): what ranks add up */
    /* position */
    int64_t step, epoch, at;            /* optimiser steps done; epoch and pass where the next one begins */
    int64_t tokens, trained_tokens;
    bool torn;                          /* an update began and did not end: values are of no step */
    double recent[PW_TRAINER_RECENT];   /* losses of the last steps, that of step i (from 1) at i % PW_TRAINER_RECENT; NaN: not known */
};
struct pw_step_report {
    double loss, lr, grad_norm;
    int64_t tokens, trained_tokens;
    bool has_rewards; double reward_accuracy, reward_margin;   /* preferences: share that is right; chosen minus rejected */
};

int pw_trainer_open(struct pw_trainer *t, const struct pw_trainer_setup *set);
void pw_trainer_budget(const struct pw_trainer *t, struct pw_budget *b);   /* adds its items */
int pw_trainer_start(struct pw_trainer *t);
/* Preferences with full training: reads the reference, by the weights as they are; before the first step and before a state is restored. */
int pw_trainer_reference(struct pw_trainer *t);
/* One optimiser step, of all ranks together: they fail together too. PW_E_INTERRUPTED: `stop` said so; nothing was changed. PW_E_NUMERIC: loss or gradient is not finite, or
 * the loss is far above those of the last steps (train.spike); nothing was changed, the error names step, rows and tensor. After another failure the
 * values are those of the last whole step, unless `torn`. */
int pw_trainer_step(struct pw_trainer *t, struct pw_step_report *report);
bool pw_trainer_done(const struct pw_trainer *t);
int pw_trainer_evaluate(struct pw_trainer *t, double *loss);               /* mean over the trained tokens, or the pairs, of the held-out rows */
int pw_trainer_square(struct pw_trainer *t, double *sum);                  /* sum of the squares of all trained parameters: finite when they are */
void pw_trainer_close(struct pw_trainer *t);
#endif
