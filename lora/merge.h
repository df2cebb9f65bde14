/* Merging an adapter into a copy of its base (see merge.c). */
#ifndef PW_LORA_MERGE_H
#define PW_LORA_MERGE_H
#include "lora/adapter.h"
#include "quant/quant.h"

struct pw_merge_result { size_t modules; double max_change; char where[320]; };  /* largest change of one weight, and its module */
/* Writes out_dir, dense in dtype: dequantised base + scale * B A. A merge that changes nothing is PW_E_FAIL and leaves no folder. */
int pw_lora_merge(struct pw_dev *dev, struct pw_checkpoint *c, const struct pw_adapter *a, enum pw_dtype dtype, const char *out_dir, bool force,
                  struct pw_merge_result *result, struct pw_progress *progress);
#endif
