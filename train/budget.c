/* See budget.h. */
#include "train/budget.h"

#include <assert.h>

const char *pw_budget_class_name(enum pw_budget_class c)
{
    static const char *const names[PW_BUDGET_CLASSES] = {"PROCESS", "STATIC", "SAVED", "SCRATCH"};
    return names[c];
}

void pw_budget_add(struct pw_budget *b, enum pw_budget_class c, const char *name, size_t bytes)
{
    assert(b->n < PW_BUDGET_MAX);
    if (bytes == 0)
        return;
    b->items[b->n++] = (struct pw_budget_item){c, name, bytes};
    b->sum += bytes;
}

size_t pw_budget_peak(const struct pw_budget *b)
{
    return b->sum > b->before ? b->sum : b->before;
}

size_t pw_budget_of(const struct pw_budget *b, enum pw_budget_class c)
{
    size_t sum = 0;
    for (int i = 0; i < b->n; i++)
        if (b->items[i].class == c)
            sum += b->items[i].bytes;
    return sum;
}
