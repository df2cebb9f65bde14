/* Merging an adapter into a copy of its base (see merge.c). */
#ifndef PW_LORA_MERGE_H
#define PW_LORA_MERGE_H
#include "lora/adapter.h"
#include "quant/quant.h"

struct pw_merge_result { size_t modules; double max_change; char where[320]; };  /* largest change of one weight, and its module */
struct pw_merge_options {
    struct pw_quant_options to;   /* a folder: dense; a GGUF file: dense or of a block type that can be made */
    bool gguf, force;
    /* Called with the path of what is written, whole but not under its name yet; what it refuses never appears. NULL = nothing. */
    int (*finished)(void *ctx, const char *path); void *ctx;
};
/* Writes out: dequantised base + scale * B A. The adapter's rows must be in the order of what is written. A merge that changes nothing is
 * PW_E_FAIL and leaves nothing. */
int pw_lora_merge_into(struct pw_dev *dev, struct pw_checkpoint *c, const struct pw_adapter *a, const char *out, const struct pw_merge_options *o,
                       struct pw_merge_result *result, struct pw_progress *progress);
/* A folder, dense in dtype. */
int pw_lora_merge(struct pw_dev *dev, struct pw_checkpoint *c, const struct pw_adapter *a, enum pw_dtype dtype, const char *out_dir, bool force,
                  struct pw_merge_result *result, struct pw_progress *progress);
#endif
