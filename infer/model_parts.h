/* What loading (model.c), adapters (model_adapter.c) and creating (model_full.c) share; private to these. */
#ifndef PW_INFER_MODEL_PARTS_H
#define PW_INFER_MODEL_PARTS_H

#include "infer/model.h"

int pw_model_new(struct pw_model **out, struct pw_dev *dev, const struct pw_model_config *config); /* empty; config may be NULL */
int pw_model_make_layers(struct pw_model *m);                      /* from the config, in the arena, zeroed */
void pw_model_count_bytes(struct pw_model *m);                     /* weight_bytes, when all weights are placed */

/* The weights of a layer one after the other: *at counts from 0, NULL past the last. Linears have their own number; then the router, then gate, up and
 * down of each expert. */
enum pw_place { PW_PLACE_BLOCK, PW_PLACE_HEAD, PW_PLACE_ROUTER, PW_PLACE_EMBED };
struct pw_weight *pw_model_next_weight(const struct pw_model *m, int layer, int *at, enum pw_place *where);
#endif
