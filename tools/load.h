/* What most commands begin with: the device, the model, its tokenizer and the adapters that the common options name. */
#ifndef PW_TOOLS_LOAD_H
#define PW_TOOLS_LOAD_H

#include "data/tokenizer.h"
#include "infer/model.h"
#include "tools/cmd.h"

#include "kernels/choices.h"

struct pw_loaded {
    struct pw_dev *dev;
    struct pw_model *model;
    struct pw_tokenizer *tokenizer;  /* NULL when the model carries none and `needs_tokenizer` was false */
    struct pw_adapter *adapters;     /* those of --adapter, in order, scales multiplied in; not attached yet */
    const char **adapter_names;      /* as given */
    size_t n_adapters;
    struct pw_choices choices;       /* of products, on devices that know more than one way */
};
/* Loads MODEL as --type, --ctx, --device, --threads and --tokenizer say, and reads every --adapter. Errors leave nothing open. */
int pw_load(struct pw_loaded *l, const struct pw_cmd *c, const char *path, bool needs_tokenizer);
/* Memory that is not there when a command begins is a refusal (exit 3): PW_E_NOMEM becomes PW_E_REFUSED, with the way out; other codes stay. pw_load does
 * it itself. */
int pw_load_refusal(int rc);
/* As pw_load, for commands that run with at most one adapter: attaches it. */
int pw_load_attached(struct pw_loaded *l, const struct pw_cmd *c, const char *path, bool needs_tokenizer);
/* The file of choices of products: that of --products, or the card's in the cache. NULL: none, since there is nothing to choose, or no home. */
const char *pw_cmd_products(const struct pw_cmd *c, struct pw_dev *dev, char path[4400]);
void pw_unload(struct pw_loaded *l); /* fine on a zeroed struct */
/* PATH[:SCALE] of --adapter: what exists under the whole name is a path; else a colon that no number follows belongs to the path. */
int pw_adapter_argument(struct pw_arena *a, const char *given, const char **path, double *scale);
/* Multiplies the pairs by the SCALE of `given`. What was trained whole has nothing to multiply: then any but 1 is refused. */
int pw_adapter_rescale(struct pw_adapter *a, const char *given, double scale);
/* The tokenizer of MODEL alone (for commands that do not compute); never NULL on success. */
int pw_load_tokenizer(struct pw_tokenizer **out, const struct pw_cmd *c, const char *path);
#endif
