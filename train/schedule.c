/* See schedule.h. */
#include "train/schedule.h"

#include <math.h>
#include <string.h>

int64_t pw_schedule_warmup(const struct pw_recipe *r, int64_t steps)
{
    double w = r->warmup < 1 ? ceil(r->warmup * (double)steps) : r->warmup;
    return w < (double)steps ? (int64_t)w : steps;
}

double pw_schedule_lr(const struct pw_recipe *r, int64_t i, int64_t steps)
{
    int64_t w = pw_schedule_warmup(r, steps);
    if (i < w)
        return r->lr * (double)i / (double)w;
    double rest = (double)(steps - w), at = rest > 0 ? (double)(i - w) / rest : 0, share = 1;
    if (at > 1)
        at = 1;
    if (strcmp(r->schedule, "cosine") == 0)
        share = 0.5 * (1 + cos(M_PI * at));
    else if (strcmp(r->schedule, "linear") == 0)
        share = 1 - at;
    else if (strcmp(r->schedule, "wsd") == 0) {
        double fall = r->decay * (double)steps, left = (double)(steps - i);
        share = left < fall ? left / fall : 1;
    }
    return r->lr * (r->lr_end + (1 - r->lr_end) * share);
}
