/* Which form an adapter has (see the header). */
#include "lora/adapter_file.h"

#include <string.h>

#include "base/file.h"
#include "lora/gguf_lora.h"
#include "lora/mlx.h"
#include "lora/peft.h"

const char *pw_adapter_form(const char *path)
{
    if (!pw_is_dir(path) && pw_file_exists(path))
        return "GGUF";
    return pw_mlx_is(path) ? "mlx-lm" : "PEFT";
}

int pw_adapter_load(struct pw_adapter *a, const char *path, const struct pw_model_config *model)
{
    const char *form = pw_adapter_form(path);
    if (strcmp(form, "GGUF") == 0)
        return pw_gguf_lora_load(a, path, model);
    return strcmp(form, "mlx-lm") == 0 ? pw_mlx_load(a, path, model) : pw_peft_load(a, path, model);
}
