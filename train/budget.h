/* The memory plan: what a run will take, item by item, before anything is taken.
 *
 * PROCESS what the program holds already (measured: code, libraries, tokenizer, data set), STATIC weights, adapter, optimiser, SAVED what a
 * pass keeps for backward, SCRATCH what is used and left again. The sizes come from the functions that the run itself places with. */
#ifndef PW_TRAIN_BUDGET_H
#define PW_TRAIN_BUDGET_H

#include <stdbool.h>
#include <stddef.h>

enum pw_budget_class { PW_BUDGET_PROCESS, PW_BUDGET_STATIC, PW_BUDGET_SAVED, PW_BUDGET_SCRATCH, PW_BUDGET_CLASSES };
struct pw_budget_item { enum pw_budget_class class; const char *name; size_t bytes; };  /* names are constants */
enum { PW_BUDGET_MAX = 32 };
struct pw_budget {
    struct pw_budget_item items[PW_BUDGET_MAX];
    int n;
    size_t sum;                /* of all items: needed while training */
    size_t before;             /* largest resident memory until the plan was made (reading data may have been the peak) */
};
const char *pw_budget_class_name(enum pw_budget_class c);  /* "STATIC" */
void pw_budget_add(struct pw_budget *b, enum pw_budget_class c, const char *name, size_t bytes); /* 0 bytes: no item */
size_t pw_budget_peak(const struct pw_budget *b);
size_t pw_budget_of(const struct pw_budget *b, enum pw_budget_class c);
#endif
