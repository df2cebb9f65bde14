/* What the files that read PEFT folders share. Private to lora/. */
#ifndef PW_LORA_PEFT_PARTS_H
#define PW_LORA_PEFT_PARTS_H
#include "data/safetensors.h"
#include "lora/adapter.h"

#define PW_PEFT_PREFIX "base_model.model."
#define PW_PEFT_A ".lora_A.weight"

/* The tensors of a module. linear: PW_LIN_COUNT + .. of experts, INT32_MAX of what is none. */
struct pw_peft_found {
    const char *name;
    const struct pw_st_tensor *a, *b, *m;
    int layer, linear;
    const char *joined;           /* the parameter of all experts that the tensors are of, or NULL; then: */
    int expert, half, halves;     /* B has the rows of gate and of up: half 0 and 1 of 2 */
    int64_t experts;
};

bool pw_peft_ends(const char *text, const char *tail);
bool pw_peft_empty(const struct pw_value *v);                      /* null, false or empty */
int pw_peft_order(const void *x, const void *y);                   /* of pw_peft_found, by their place in a model */
void pw_peft_locate(struct pw_peft_found *f);
/* The value that rank_pattern or alpha_pattern (key) has for the module, or *value as it was. */
int pw_peft_pattern(const struct pw_value *json, const char *key, const char *path, const char *module, double *value);
int pw_peft_widen(float *out, const struct pw_st_tensor *t, const char *path); /* to f32; no NaN, no infinity */

/* Joined experts among the modules become a pair for each expert; names as in the model (NULL: mlp.experts.E.gate_proj). target_parameters is checked. */
int pw_peft_split_experts(struct pw_adapter *a, const struct pw_value *json, const struct pw_model_config *model, const char *config_path, const char *path,
                          struct pw_peft_found **list, size_t *n);
/* peft_text.c. Tensors of the text part of a model of several parts, and the words of modules_to_save, get the names of a model of text; a->config.of_text says whether there were any. */
int pw_peft_take_text(struct pw_adapter *a, struct pw_safetensors *s, const char *path);
const char *pw_peft_name(const struct pw_adapter *a, struct pw_arena *arena, const char *module); /* as in PEFT's files; NULL: no memory */
void pw_peft_write_text_targets(const struct pw_adapter *a, struct pw_json *w);
int pw_peft_write_text_saved(const struct pw_adapter *a, struct pw_arena *arena, struct pw_json *w); /* the names of modules_to_save, into an open list */
int pw_peft_fill_joined(struct pw_adapter_module *m, const struct pw_peft_found *f, const char *path); /* A and B of one expert */
#endif
