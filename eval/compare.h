/* Two evaluations of the same documents, compared pair by pair.
 *
 * Reads two result documents of `pw eval run`. A task counts when both have it, over the same documents and prompts (docs_hash);
 * different documents under one name are an error, never a silent unpaired comparison. Knows nothing of models. */
#ifndef PW_EVAL_COMPARE_H
#define PW_EVAL_COMPARE_H
#include "base/value.h"
#include "eval/stats.h"

struct pw_comparison { const char *task, *metric, *adapter; struct pw_paired p; bool same_scores; };
struct pw_comparisons { struct pw_comparison *items; size_t n; struct pw_arena arena; struct pw_paired all; bool no_effect; const char *verdict; };
/* Rows of `base` without an adapter (or its only rows) against rows of `other`: its adapter rows when it has any, else its base rows.
 * The first metric of each task is compared. verdict: "better", "worse", "no difference shown", or "no effect" when every
 * log-probability of every task is the same, which means that the adapter was not active. */
int pw_compare_files(struct pw_comparisons *c, const char *base, const char *other);
void pw_compare_json(const struct pw_comparisons *c, struct pw_json *w);
void pw_compare_table(const struct pw_comparisons *c, struct pw_buf *out);
void pw_compare_free(struct pw_comparisons *c);
#endif
