/* Opening a Hugging Face folder: config.json, generation_config.json, and one safetensors file or the shards of an index. Owns the
 * rules of the index, and where in a model of several parts the text is. Refuses to know what tensors mean. */
#include <string.h>

#include "base/error.h"
#include "base/text.h"
#include "data/checkpoint_parts.h"

static int no_memory(const struct pw_checkpoint *c) { return pw_error(PW_E_NOMEM, "%s: no memory", c->path); }

static int read_config(struct pw_checkpoint *c, const char *dir, const struct pw_value **quantization)
{
    char *path = pw_path_join(&c->arena, dir, "config.json"), *generation = pw_path_join(&c->arena, dir, "generation_config.json");
    if (!path || !generation)
        return no_memory(c);
    struct pw_value *json;
    PW_CHECK(pw_file_exists(path), PW_E_IO, "%s: no such file: not a model folder", path);
    PW_PASS(pw_json_load(&c->arena, path, &json));
    PW_PASS(pw_model_config_parse(&c->config, json, path));
    *quantization = pw_get(json, "quantization_config");
    if (*quantization && (*quantization)->kind == PW_NULL)
        *quantization = NULL;
    if (*quantization) {
        const char *method = "";
        PW_CHECK((*quantization)->kind == PW_MAP, PW_E_FORMAT, "%s: quantization_config: expected a map", path);
        PW_PASS(pw_get_str(*quantization, "quant_method", path, &method));
        PW_CHECK(strcmp(method, "bitsandbytes") == 0, PW_E_UNSUPPORTED,
                 "%s: quantization_config: quant_method \"%.40s\" is not supported (known: bitsandbytes)", path, method);
    }
    if (pw_file_exists(generation)) {
        PW_PASS(pw_json_load(&c->arena, generation, &json));
        PW_CHECK(json->kind == PW_MAP, PW_E_FORMAT, "%s: expected a map", generation);
        PW_PASS(pw_model_config_eos(&c->config, json, generation));
    }
    return 0;
}

/* Opens file `name` of the folder as the next of c->files. */
static int open_file(struct pw_checkpoint *c, const char *dir, const char *name)
{
    char *path = pw_path_join(&c->arena, dir, name);
    if (!path)
        return no_memory(c);
    PW_PASS(pw_safetensors_open(&c->files[c->n_files], path));
    struct pw_safetensors *f = &c->files[c->n_files];
    c->paths[c->n_files++] = path;
    const struct pw_value *source = f->metadata ? pw_get(f->metadata, "pennyweight.source") : NULL;
    if (source) {
        PW_CHECK(source->len == 64 && strspn(source->s, "0123456789abcdef") == 64, PW_E_FORMAT,
                 "%s: __metadata__: pennyweight.source is no SHA-256", path);
        c->source = source->s;
    }
    return 0;
}

/* All tensors of all files into one list. */
static int list_tensors(struct pw_checkpoint *c)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_files; i++)
        n += c->files[i].n;
    c->tensors = pw_arena_array(&c->arena, n + 1, sizeof *c->tensors);
    if (!c->tensors)
        return no_memory(c);
    for (size_t i = 0; i < c->n_files; i++)
        for (size_t k = 0; k < c->files[i].n; k++) {
            const struct pw_st_tensor *t = &c->files[i].tensors[k];
            PW_CHECK(t->ndim <= 4, PW_E_UNSUPPORTED, "%s: %s: too many dimensions (expected at most 4, got %d)", c->paths[i], t->name, t->ndim);
            struct stored *s = &c->tensors[c->n++];
            *s = (struct stored){.t = {.name = t->name, .dtype = t->dtype, .ndim = t->ndim, .data = t->data, .bytes = t->bytes}, .file = c->paths[i]};
            memcpy(s->t.shape, t->shape, sizeof s->t.shape);
        }
    return 0;
}

/* A model of text and vision: its text under the names of a model of text alone, in the layout of published files, which transformers 4 and 5 write, and in that of
 * save_original_format=False. What belongs to neither keeps its name, and nobody will ask for it. */
static int take_text(struct pw_checkpoint *c)
{
    static const struct { const char *from, *to; } text[] = {
        {"language_model.model.", "model."}, {"language_model.lm_head.", "lm_head."}, {"model.language_model.", "model."}, {"lm_head.", "lm_head."}};
    static const char *const vision[] = {"vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."};
    size_t kept = 0, left = 0;
    uint64_t bytes = 0;
    char size[32];
    for (size_t i = 0; i < c->n; i++) {
        struct stored s = c->tensors[i];
        bool seen = false;
        for (size_t k = 0; k < sizeof vision / sizeof *vision; k++)
            seen |= strncmp(s.t.name, vision[k], strlen(vision[k])) == 0;
        left += seen;
        bytes += seen ? s.t.bytes : 0;
        if (seen)
            continue;
        for (size_t k = 0; k < sizeof text / sizeof *text; k++)
            if (strncmp(s.t.name, text[k].from, strlen(text[k].from)) == 0) {
                s.t.name = pw_arena_printf(&c->arena, "%s%s", text[k].to, s.t.name + strlen(text[k].from));
                PW_CHECK(s.t.name, PW_E_NOMEM, "%s: no memory", c->path);
                break;
            }
        c->tensors[kept++] = s;
    }
    c->n = kept;
    pw_format_bytes(size, bytes);
    c->left_out = left ? pw_arena_printf(&c->arena, "the vision part (%zu tensors, %s)", left, size) : NULL;
    PW_CHECK(c->left_out || !left, PW_E_NOMEM, "%s: no memory", c->path);
    return 0;
}

static int room_for_files(struct pw_checkpoint *c, size_t n)
{
    c->files = pw_arena_array(&c->arena, n, sizeof *c->files);
    c->paths = pw_arena_array(&c->arena, n, sizeof *c->paths);
    return c->files && c->paths ? 0 : no_memory(c);
}

/* File i, whose name in the index is `name`, holds exactly what the index says it does. */
static int check_shard(const struct pw_checkpoint *c, size_t i, const char *name, const struct pw_value *map, const char *index_path)
{
    const struct pw_safetensors *f = &c->files[i];
    for (size_t k = 0; k < f->n; k++) {
        const struct pw_value *where = pw_get(map, f->tensors[k].name);
        PW_CHECK(where, PW_E_FORMAT, "%s: tensor %s is not in %s", c->paths[i], f->tensors[k].name, index_path);
        PW_CHECK(strcmp(where->s, name) == 0, PW_E_FORMAT, "%s: tensor %s should be in %s, as %s says", c->paths[i], f->tensors[k].name, where->s,
                 index_path);
    }
    for (size_t k = 0; k < map->len; k++)
        PW_CHECK(strcmp(map->members[k].value.s, name) != 0 || pw_safetensors_find(f, map->members[k].key), PW_E_FORMAT,
                 "%s: tensor %s is not in %s, where weight_map says it is", index_path, map->members[k].key, name);
    return 0;
}

static int open_shards(struct pw_checkpoint *c, const char *dir, const char *index_path)
{
    struct pw_value *json;
    PW_PASS(pw_json_load(&c->arena, index_path, &json));
    const struct pw_value *map = pw_get(json, "weight_map");
    PW_CHECK(map && map->kind == PW_MAP && map->len > 0, PW_E_FORMAT, "%s: weight_map is missing or empty", index_path);

    const char **names = pw_arena_array(&c->arena, map->len, sizeof *names);
    if (!names)
        return no_memory(c);
    PW_PASS(room_for_files(c, map->len));
    size_t n = 0;
    for (size_t i = 0; i < map->len; i++) {
        const struct pw_member *m = &map->members[i];
        PW_CHECK(m->value.kind == PW_STRING && m->value.len > 0 && strlen(m->value.s) == m->value.len && !strchr(m->value.s, '/'), PW_E_FORMAT,
                 "%s: weight_map: %s: expected the name of a file in this folder", index_path, m->key);
        size_t k = n;
        while (k > 0 && strcmp(names[k - 1], m->value.s) != 0)  /* from the end: neighbours mostly share a shard */
            k--;
        if (k == 0)
            names[n++] = m->value.s;
    }
    for (size_t i = 0; i < n; i++) {
        char *path = pw_path_join(&c->arena, dir, names[i]);
        if (!path)
            return no_memory(c);
        PW_CHECK(pw_file_exists(path), PW_E_IO, "%s: weight_map names a missing shard: %s", index_path, path);
        PW_PASS(open_file(c, dir, names[i]));
        PW_PASS(check_shard(c, i, names[i], map, index_path));
    }
    return 0;
}

static void name_format(struct pw_checkpoint *c)
{
    c->format = "safetensors";
    for (size_t i = 0; i < c->n; i++) {
        const char *name = c->tensors[i].t.name;
        if (strstr(name, ".quant_state.bitsandbytes__nf4"))
            c->format = "safetensors, bitsandbytes nf4";
        else if (strstr(name, ".quant_state.bitsandbytes__fp4"))
            c->format = "safetensors, bitsandbytes fp4";
        else if (strlen(name) > 4 && strcmp(name + strlen(name) - 4, ".SCB") == 0)
            c->format = "safetensors, bitsandbytes int8";
    }
}

static int find_tokenizer(struct pw_checkpoint *c, const char *dir)
{
    static const char *const files[] = {"tokenizer.json", "tokenizer.model", "vocab.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files && !c->tokenizer; i++) {
        char *path = pw_path_join(&c->arena, dir, files[i]);
        if (!path)
            return no_memory(c);
        if (pw_file_exists(path))
            c->tokenizer = c->path;
    }
    return 0;
}

int pw_checkpoint_open_hf(struct pw_checkpoint *c, const char *dir)
{
    const struct pw_value *quantization = NULL;
    PW_PASS(read_config(c, dir, &quantization));
    char *single = pw_path_join(&c->arena, dir, "model.safetensors"), *index_path = pw_path_join(&c->arena, dir, "model.safetensors.index.json");
    if (!single || !index_path)
        return no_memory(c);
    if (pw_file_exists(single)) {
        PW_PASS(room_for_files(c, 1));
        PW_PASS(open_file(c, dir, "model.safetensors"));
    } else {
        PW_CHECK(pw_file_exists(index_path), PW_E_IO, "%s: neither model.safetensors nor model.safetensors.index.json is there", dir);
        PW_PASS(open_shards(c, dir, index_path));
    }
    PW_PASS(list_tensors(c));
    if (c->config.whole[0])
        PW_PASS(take_text(c));
    name_format(c);
    PW_CHECK(!quantization || strcmp(c->format, "safetensors") != 0, PW_E_FORMAT,
             "%s: config.json has a quantization_config, but no tensor is quantised", dir);
    return find_tokenizer(c, dir);
}
