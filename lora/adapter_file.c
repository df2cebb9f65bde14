/* Which form an adapter has (see the header). */
#include "lora/adapter_file.h"

#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "data/gguf.h"
#include "data/safetensors.h"
#include "lora/gguf_lora.h"
#include "lora/mlx.h"
#include "lora/peft.h"

const char *pw_adapter_form(const char *path)
{
    if (!pw_is_dir(path) && pw_file_exists(path))
        return "GGUF";
    return pw_mlx_is(path) ? "mlx-lm" : "PEFT";
}

static void add(struct pw_adapter_size *z, int ndim, const int64_t *shape)
{
    size_t bytes = sizeof(float);
    for (int i = 0; i < ndim; i++)
        bytes *= (size_t)shape[i];          /* the reader checked the product */
    z->made += bytes * (ndim == 1 ? 2 : 1);
    z->largest = bytes > z->largest ? bytes : z->largest;
}

int pw_adapter_measure(const char *path, struct pw_adapter_size *out)
{
    const char *form = pw_adapter_form(path);
    struct pw_safetensors s;
    struct pw_gguf g;
    struct pw_arena a;
    *out = (struct pw_adapter_size){0};
    if (strcmp(form, "GGUF") == 0) {
        PW_PASS(pw_gguf_open(&g, path));
        for (size_t i = 0; i < g.n_tensors; i++)
            add(out, g.tensors[i].ndim, g.tensors[i].shape);
        out->stored = g.map.bytes;
        pw_gguf_close(&g);
        return 0;
    }
    pw_arena_init(&a);
    const char *file = pw_path_join(&a, path, strcmp(form, "mlx-lm") == 0 ? "adapters.safetensors" : "adapter_model.safetensors");
    int rc = file ? pw_safetensors_open(&s, file) : PW_E_NOMEM;
    if (rc == 0) {
        for (size_t i = 0; i < s.n; i++)
            add(out, s.tensors[i].ndim, s.tensors[i].shape);
        out->stored = s.map.bytes;
        pw_safetensors_close(&s);
    }
    pw_arena_free(&a);
    return rc;
}

int pw_adapter_load(struct pw_adapter *a, const char *path, const struct pw_model_config *model)
{
    const char *form = pw_adapter_form(path);
    if (strcmp(form, "GGUF") == 0)
        return pw_gguf_lora_load(a, path, model);
    return strcmp(form, "mlx-lm") == 0 ? pw_mlx_load(a, path, model) : pw_peft_load(a, path, model);
}
