/* Routers and experts of a model on disk: under names of their own, or as slices of tensors that hold all experts of a layer. Owns the names of the
 * latter and where a slice begins. Refuses to know who uses the weights. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "data/checkpoint_parts.h"
#include "kernels/blocks.h"

static bool joined(const struct pw_checkpoint *c, int layer, const char *part, char name[160])
{
    snprintf(name, 160, "model.layers.%d.mlp.experts.%s", layer, part);
    return pw_checkpoint_has(c, name);
}

int pw_checkpoint_router(struct pw_checkpoint *c, int layer, struct pw_weight *out)
{
    char name[160], other[160];
    const bool whole = joined(c, layer, "gate_up_proj", other) || joined(c, layer, "gate_proj.weight", other);
    snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, whole ? "mlp.gate" : pw_router_suffix(&c->config));
    return pw_checkpoint_weight(c, name, c->config.experts, c->config.hidden, out);
}

/* Rows first .. first + n_out of slice `expert` of a tensor (E, rows, n_in), dense or of blocks of GGUF. */
static int slice(struct pw_checkpoint *c, const char *name, int expert, int64_t rows, int64_t first, int64_t n_out, int64_t n_in, struct pw_weight *out)
{
    static const struct { const char *name; enum pw_dtype type; } types[] = {{"F32", PW_F32}, {"BF16", PW_BF16}, {"F16", PW_F16}};
    struct stored *s = pw_checkpoint_stored(c, name);
    const int64_t experts = c->config.experts;
    PW_CHECK(s, PW_E_FORMAT, "%s: tensor %s is missing", c->path, name);
    PW_CHECK(s->t.ndim == 3 && s->t.shape[0] == experts && s->t.shape[1] == rows && s->t.shape[2] == n_in, PW_E_FORMAT,
             "%s: %s: shape does not fit the config (expected (%" PRId64 ", %" PRId64 ", %" PRId64 "), got %d dimensions, the first %" PRId64 ")", s->file, name, experts, rows,
             n_in, s->t.ndim, s->t.ndim ? s->t.shape[0] : 0);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(types[i].name, s->t.dtype) != 0)
            continue;
        const size_t size = pw_dtype_bytes(types[i].type);
        const void *data;
        PW_PASS(pw_checkpoint_aligned(c, s, size, &data));
        const char *from = (const char *)data + (size_t)((expert * rows + first) * n_in) * size;
        *out = pw_weight_dense(pw_tensor2((void *)(uintptr_t)from, types[i].type, n_out, n_in));
        s->used = true;
        return 0;
    }
    const struct pw_block_type *b = c->gguf.n_tensors ? pw_block_type_stored(s->t.dtype) : NULL;
    if (b) {
        PW_CHECK(n_in % b->elements == 0, PW_E_FORMAT, "%s: %s: expected rows of whole blocks of %d, got %" PRId64, s->file, name, b->elements, n_in);
        const size_t row = (size_t)(n_in / b->elements) * (size_t)b->bytes;
        *out = (struct pw_weight){.n_out = n_out, .n_in = n_in, .type = b->type, .dtype = PW_F32, .data = (const char *)s->t.data + (size_t)(expert * rows + first) * row};
        s->used = true;
        return 0;
    }
    return pw_error(PW_E_UNSUPPORTED, "%s: %s: dtype is not supported (expected F32, F16 or BF16, got %s)", s->file, name, s->t.dtype);
}

int pw_checkpoint_expert(struct pw_checkpoint *c, int layer, int expert, enum pw_expert_part p, struct pw_weight *out)
{
    static const char *const parts[PW_EXPERT_PARTS] = {"gate_proj", "up_proj", "down_proj"};
    char name[160], suffix[PW_EXPERT_NAME];
    int64_t n_out, n_in;
    pw_expert_shape(&c->config, p, &n_out, &n_in);
    if (joined(c, layer, p == PW_EXPERT_DOWN ? "down_proj" : "gate_up_proj", name))
        return slice(c, name, expert, p == PW_EXPERT_DOWN ? n_out : 2 * n_out, p == PW_EXPERT_UP ? n_out : 0, n_out, n_in, out);
    snprintf(suffix, sizeof suffix, "%s.weight", parts[p]);
    if (joined(c, layer, suffix, name))
        return slice(c, name, expert, n_out, 0, n_out, n_in, out);
    pw_expert_suffix(&c->config, expert, p, suffix);
    snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, suffix);
    return pw_checkpoint_weight(c, name, n_out, n_in, out);
}
