/* Adapters that PEFT made of joined experts (target_parameters): one pair of tensors for all experts of a layer becomes a pair for each, and gate and up,
 * whose rows are one matrix there, share its A. Refuses to know the rest of such folders (peft.c). */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "lora/peft_parts.h"

static const char prefix[] = PW_PEFT_PREFIX, tail_a[] = PW_PEFT_A;

static bool names_parameter(const struct pw_value *json, const char *parameter)
{
    const struct pw_value *list = pw_get(json, "target_parameters");
    for (size_t i = 0; list && list->kind == PW_LIST && i < list->len; i++)
        if (list->items[i].kind == PW_STRING && pw_adapter_selects(list->items[i].s, parameter))
            return true;
    return false;
}

static int check_parameters(const struct pw_value *json, const char *path)
{
    const struct pw_value *list = pw_get(json, "target_parameters");
    for (size_t i = 0; list && list->kind == PW_LIST && i < list->len; i++) {
        PW_CHECK(list->items[i].kind == PW_STRING, PW_E_FORMAT, "%s: target_parameters[%zu]: expected a name", path, i);
        PW_CHECK(pw_adapter_selects("gate_up_proj", list->items[i].s) || pw_adapter_selects("down_proj", list->items[i].s), PW_E_UNSUPPORTED,
                 "%s: target_parameters: %.80s is not supported (expected experts.gate_up_proj or experts.down_proj)", path, list->items[i].s);
    }
    return 0;
}

/* The pairs of one parameter that holds all experts, as PEFT joins them: A (E R, n_in), expert by expert; B (n_out, R E), the experts innermost. */
static int split_one(struct pw_adapter *a, const struct pw_peft_found *f, const char *layer, bool down, double r, const struct pw_model_config *model, const char *path, struct pw_peft_found *to, size_t *n)
{
    static const char *const parts[PW_EXPERT_PARTS] = {"gate_proj", "up_proj", "down_proj"};
    const int64_t experts = (int64_t)(f->a->shape[0] / r);
    char suffix[PW_EXPERT_NAME];
    PW_CHECK((double)experts * r == (double)f->a->shape[0] && f->b->shape[1] == f->a->shape[0], PW_E_FORMAT, "%s: %s%s: expected rank %g for each expert, got %" PRId64 " and %" PRId64, path, prefix,
             f->name, r, f->a->shape[0], f->b->shape[1]);
    PW_CHECK(!f->m, PW_E_UNSUPPORTED, "%s: %s%s: dora on joined experts is not supported", path, prefix, f->name);
    PW_CHECK(!model || experts == model->experts, PW_E_FORMAT, "%s: %s%s: the adapter is for another base (expected %d experts, got %" PRId64 ")", path, prefix, f->name, model->experts, experts);
    PW_CHECK(experts <= 65536 && (down || f->b->shape[0] % 2 == 0), PW_E_FORMAT, "%s: %s%s: expected the rows of gate and up, got %" PRId64 " of %" PRId64 " experts", path, prefix, f->name,
             f->b->shape[0], experts);
    for (int e = 0; e < (int)experts; e++)
        for (int p = down ? PW_EXPERT_DOWN : PW_EXPERT_GATE; p < (down ? PW_EXPERT_PARTS : PW_EXPERT_DOWN); p++) {
            struct pw_peft_found *out = &to[(*n)++];
            *out = *f;
            if (model)
                pw_expert_suffix(model, e, (enum pw_expert_part)p, suffix);
            else
                snprintf(suffix, sizeof suffix, "mlp.experts.%d.%s", e, parts[p]);
            out->name = pw_arena_printf(&a->arena, "%s.%s", layer, suffix);
            out->joined = pw_arena_printf(&a->arena, "%s.mlp.experts.%s", layer, down ? "down_proj" : "gate_up_proj");
            PW_CHECK(out->name && out->joined, PW_E_NOMEM, "%s: no memory", path);
            out->expert = e, out->experts = experts, out->half = down ? 0 : p, out->halves = down ? 1 : 2;
            pw_peft_locate(out);
        }
    return 0;
}

/* Joined experts become a pair for each expert. PEFT wraps once for each parameter: the inner one, base_layer, is the first, gate_up_proj. */
int pw_peft_split_experts(struct pw_adapter *a, const struct pw_value *json, const struct pw_model_config *model, const char *config_path, const char *path, struct pw_peft_found **list, size_t *n)
{
    static const char tail[] = ".mlp.experts", inner[] = ".mlp.experts.base_layer";
    size_t room = *n, out = 0;
    PW_PASS(check_parameters(json, config_path));
    for (size_t i = 0; i < *n; i++)
        if (pw_peft_ends((*list)[i].name, tail) || pw_peft_ends((*list)[i].name, inner)) {
            PW_CHECK((*list)[i].a->shape[0] <= 1 << 18, PW_E_FORMAT, "%s: %s: too many rows (%" PRId64 ")", path, (*list)[i].a->name, (*list)[i].a->shape[0]);
            room += 2 * (size_t)(*list)[i].a->shape[0];
        }
    if (room == *n)
        return 0;
    struct pw_peft_found *to = pw_arena_array(&a->arena, room, sizeof *to);
    PW_CHECK(to, PW_E_NOMEM, "%s: no memory", path);
    for (size_t i = 0; i < *n; i++) {
        const struct pw_peft_found *f = &(*list)[i];
        const bool within = pw_peft_ends(f->name, inner);
        if (!within && !pw_peft_ends(f->name, tail)) {
            to[out++] = *f;
            continue;
        }
        char layer[320], parameter[400];
        double r = a->config.r;
        snprintf(layer, sizeof layer, "%.*s", (int)(strlen(f->name) - strlen(within ? inner : tail)), f->name);
        snprintf(parameter, sizeof parameter, "%s.mlp.experts.gate_up_proj", layer);
        const bool up = names_parameter(json, parameter);
        snprintf(parameter, sizeof parameter, "%s.mlp.experts.down_proj", layer);
        const bool down = names_parameter(json, parameter);
        bool both = false;
        for (size_t k = 0; k < *n; k++)
            both |= pw_peft_ends((*list)[k].name, inner) && strncmp((*list)[k].name, layer, strlen(layer)) == 0 && (*list)[k].name[strlen(layer)] == '.';
        PW_CHECK((up || down) && both == (up && down), PW_E_FORMAT, "%s: unknown tensor %s%s%s: target_parameters does not name what it belongs to", path, prefix, f->name, tail_a);
        const bool is_down = both ? !within : down;
        snprintf(parameter, sizeof parameter, "%s.mlp.experts.%s", layer, is_down ? "down_proj" : "gate_up_proj");
        PW_PASS(pw_peft_pattern(json, "rank_pattern", config_path, parameter, &r));
        PW_CHECK(r >= 1 && r <= 65536 && r == floor(r), PW_E_FORMAT, "%s: rank_pattern: %s: expected a whole number, got %g", config_path, parameter, r);
        PW_PASS(split_one(a, f, layer, is_down, r, model, path, to, &out));
    }
    qsort(to, out, sizeof *to, pw_peft_order);
    *list = to;
    *n = out;
    return 0;
}

/* A and B of one expert out of the tensors of all. */
int pw_peft_fill_joined(struct pw_adapter_module *m, const struct pw_peft_found *f, const char *path)
{
    const size_t size = pw_st_dtype_bytes(f->a->dtype), wide = pw_st_dtype_bytes(f->b->dtype), part = (size_t)(m->lora.r * m->n_in) * size;
    const size_t r = (size_t)m->lora.r, rows = (size_t)m->n_out, experts = (size_t)f->experts;
    struct pw_st_tensor one = *f->a;
    one.data += (size_t)f->expert * part;
    one.bytes = part;
    PW_PASS(pw_peft_widen(m->lora.a.data, &one, path));
    uint8_t *b = pw_alloc(rows * r * wide);
    PW_CHECK(b, PW_E_NOMEM, "%s: no memory for %s", path, f->b->name);
    for (size_t i = 0; i < rows; i++)
        for (size_t k = 0; k < r; k++)
            memcpy(b + (i * r + k) * wide, f->b->data + ((((size_t)f->half * rows + i) * r + k) * experts + (size_t)f->expert) * wide, wide);
    one = *f->b;
    one.data = b;
    one.bytes = rows * r * wide;
    const int rc = pw_peft_widen(m->lora.b.data, &one, path);
    pw_free(b);
    return rc;
}
