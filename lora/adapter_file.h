/* Adapters in any form that is read: which form a path holds, and its reader. */
#ifndef PW_LORA_ADAPTER_FILE_H
#define PW_LORA_ADAPTER_FILE_H
#include "lora/adapter.h"

/* "PEFT", "GGUF" or "mlx-lm": a file is GGUF, a folder with adapters.safetensors is mlx-lm's, any other folder PEFT's. */
const char *pw_adapter_form(const char *path);
/* Before it is read: bytes of its file, of its tensors in f32 (of lengths of rows twice, since those of the base go beside them), and of the largest of them. */
struct pw_adapter_size { size_t stored, made, largest; };
int pw_adapter_measure(const char *path, struct pw_adapter_size *out);
/* model: shapes that the adapter must fit, and whose order of rows it gets. NULL: for looking alone (order as in the file). */
int pw_adapter_load(struct pw_adapter *a, const char *path, const struct pw_model_config *model);
#endif
