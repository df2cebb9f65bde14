/* What loading (model.c) and creating (model_full.c) share; private to these two. */
#ifndef PW_INFER_MODEL_PARTS_H
#define PW_INFER_MODEL_PARTS_H

#include "infer/model.h"

int pw_model_new(struct pw_model **out, struct pw_dev *dev, const struct pw_model_config *config); /* empty; config may be NULL */
int pw_model_make_layers(struct pw_model *m);                      /* from the config, in the arena, zeroed */
int pw_model_make_rope(struct pw_model *m, enum pw_dtype type);    /* takes the tables from the pool */
void pw_model_count_bytes(struct pw_model *m);                     /* weight_bytes, when all weights are placed */
#endif
