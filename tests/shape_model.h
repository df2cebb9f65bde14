/* A model folder of which there is nothing but the shape: a safetensors file without content, which takes a few pages of the disk however large it says it is. For plans. */
#ifndef PW_TESTS_SHAPE_MODEL_H
#define PW_TESTS_SHAPE_MODEL_H

#include "infer/model.h"

/* dir is made; json: the text of config.json of a Llama-shaped family; weights in bf16, the tokenizer is a fixture's. c: what the config says. */
void shape_model_write(const char *dir, const char *json, struct pw_model_config *c);
#endif
