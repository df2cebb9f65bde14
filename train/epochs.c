/* See epochs.h. */
#include "train/epochs.h"

#include <string.h>

#include "base/error.h"

static int append(struct pw_epochs *e, struct pw_arena *a, int64_t *cap, int64_t passes)
{
    if (e->n == *cap) {
        int64_t wider = *cap ? 2 * *cap : 16;
        int64_t *more = pw_arena_array(a, (size_t)wider, sizeof *more);
        PW_CHECK(more, PW_E_NOMEM, "out of memory for %lld epochs", (long long)wider);
        if (e->n > 0)
            memcpy(more, e->passes, (size_t)e->n * sizeof *more);
        e->passes = more;
        *cap = wider;
    }
    e->passes[e->n++] = passes;
    return 0;
}

int pw_epochs_count(struct pw_epochs *e, struct pw_arena *a, const struct pw_dataset *d, const uint32_t *rows, int64_t n_rows,
                    const struct pw_packing_options *o, int64_t accumulate, int64_t epochs, int64_t steps)
{
    struct pw_packing *p = NULL;
    int64_t cap = 0;
    int rc = 0;
    *e = (struct pw_epochs){.accumulate = accumulate};
    while (steps > 0 ? e->steps < steps : e->n < epochs) {
        if (!p || o->shuffle || o->weights) {      /* else every epoch is like the first */
            pw_packing_free(p);
            p = NULL;
            PW_TRY_OUT(pw_packing_plan(&p, d, rows, n_rows, o, e->n), "planning epoch %lld", (long long)e->n + 1);
            PW_CHECK_OUT(p->n_passes > 0, PW_E_REFUSED, "epoch %lld has no rows", (long long)e->n + 1);
        }
        PW_PASS_OUT(append(e, a, &cap, p->n_passes));
        e->steps += (p->n_passes + accumulate - 1) / accumulate;
        int64_t counted = p->n_passes;      /* the last epoch may end early */
        if (steps > 0 && e->steps > steps)
            counted -= (e->steps - steps) * accumulate - (accumulate - (p->n_passes - 1) % accumulate - 1);
        for (int64_t i = 0; i < counted; i++)
            e->tokens += p->pass_tokens[i];
        if (p->max_tokens > e->max_tokens)
            e->max_tokens = p->max_tokens;
        if (p->max_rows > e->max_rows)
            e->max_rows = p->max_rows;
    }
    if (steps > 0)
        e->steps = steps;
out:
    pw_packing_free(p);
    return rc;
}
