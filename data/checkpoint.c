/* A model on disk, whatever the container: the common part. Owns the bookkeeping of which tensors were asked for, shape checks, the
 * tied embedding, and the model's hash. Refuses to know containers (checkpoint_hf.c, gguf_model.c, llama2c.c) and 4-bit layouts (bnb.c). */
#include "data/checkpoint.h"

#include <inttypes.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/checkpoint_parts.h"

static const char embed[] = "model.embed_tokens.weight", head[] = "lm_head.weight";

/* Buffers that old exporters stored although they are a function of the config. Nothing else may stay unread. */
static const char *const ignorable[] = {".rotary_emb.inv_freq"};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct stored *)a)->t.name, ((const struct stored *)b)->t.name);
}

struct stored *pw_checkpoint_stored(const struct pw_checkpoint *c, const char *name)
{
    struct stored key = {.t.name = name};
    return c->n ? bsearch(&key, c->tensors, c->n, sizeof *c->tensors, by_name) : NULL;
}

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

/* ---- opening ---- */

static int check_tied(struct pw_checkpoint *c)
{
    struct stored *e = pw_checkpoint_stored(c, embed), *h = pw_checkpoint_stored(c, head);
    PW_CHECK(e || (h && c->config.tied), PW_E_FORMAT, "%s: %s is missing%s", c->path, embed, h ? " and tie_word_embeddings is false" : "");
    PW_CHECK(h || c->config.tied, PW_E_FORMAT, "%s: %s is missing and tie_word_embeddings is false", c->path, head);
    if (!e || !h || !c->config.tied)
        return 0;
    PW_CHECK(e->t.bytes == h->t.bytes && strcmp(e->t.dtype, h->t.dtype) == 0 && memcmp(e->t.data, h->t.data, e->t.bytes) == 0, PW_E_FORMAT,
             "%s: tie_word_embeddings is true, but %s and %s are stored and differ", c->path, embed, head);
    h->used = true;
    return 0;
}

/* Files of other names, such as the blobs of Ollama and what is not finished yet. */
static bool begins_as_gguf(const char *path)
{
    char magic[4] = "";
    FILE *f = fopen(path, "rb");
    const bool is = f && fread(magic, 1, 4, f) == 4 && memcmp(magic, "GGUF", 4) == 0;
    if (f)
        fclose(f);
    return is;
}

static int open_any(struct pw_checkpoint *c, const char *model)
{
    if (pw_is_dir(model))
        return pw_checkpoint_open_hf(c, model);
    PW_CHECK(pw_file_exists(model), PW_E_IO, "%s: no such file or folder", model);
    if (ends_with(model, ".bin"))
        return pw_checkpoint_open_llama2c(c, model);
    if (ends_with(model, ".gguf") || begins_as_gguf(model))
        return pw_checkpoint_open_gguf(c, model);
    int rc = pw_error(PW_E_UNSUPPORTED, "%s: not a model (expected a Hugging Face folder, a .gguf or a llama2.c .bin)", model);
    if (ends_with(model, ".safetensors"))
        pw_error_hint("give the folder that holds it and its config.json");
    return rc;
}

int pw_checkpoint_open(struct pw_checkpoint **out, const char *model, const struct pw_checkpoint_options *opt)
{
    *out = NULL;
    struct pw_checkpoint *c = pw_alloc_zero(1, sizeof *c);
    PW_CHECK(c, PW_E_NOMEM, "%s: no memory", model);
    pw_arena_init(&c->arena);
    int rc = 0;
    c->path = pw_arena_strndup(&c->arena, model, strlen(model));
    PW_CHECK_OUT(c->path, PW_E_NOMEM, "%s: no memory", model);
    PW_PASS_OUT(open_any(c, model));
    qsort(c->tensors, c->n, sizeof *c->tensors, by_name);
    for (size_t i = 1; i < c->n; i++)
        PW_CHECK_OUT(by_name(&c->tensors[i - 1], &c->tensors[i]) != 0, PW_E_FORMAT, "%s: tensor %s is also in %s", c->tensors[i].file,
                     c->tensors[i].t.name, c->tensors[i - 1].file);
    PW_PASS_OUT(check_tied(c));
    if (opt && opt->tokenizer) {
        c->tokenizer = pw_arena_strndup(&c->arena, opt->tokenizer, strlen(opt->tokenizer));
        PW_CHECK_OUT(c->tokenizer, PW_E_NOMEM, "%s: no memory", model);
    }
    *out = c;
    return 0;
out:
    pw_checkpoint_close(c);
    return rc;
}

void pw_checkpoint_close(struct pw_checkpoint *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n_files; i++)
        pw_safetensors_close(&c->files[i]);
    pw_map_close(&c->map);
    pw_gguf_close(&c->gguf);
    pw_arena_free(&c->arena);
    pw_free(c);
}

/* ---- what it is ---- */

const struct pw_model_config *pw_checkpoint_config(const struct pw_checkpoint *c) { return &c->config; }
const char *pw_checkpoint_path(const struct pw_checkpoint *c) { return c->path; }
const char *pw_checkpoint_format(const struct pw_checkpoint *c) { return c->format; }
const char *pw_checkpoint_tokenizer(const struct pw_checkpoint *c) { return c->tokenizer; }
const char *pw_checkpoint_left_out(const struct pw_checkpoint *c) { return c->left_out; }

void pw_checkpoint_tell(const struct pw_checkpoint *c, struct pw_progress *progress)
{
    if (c && c->left_out)
        pw_progress_say(progress, "%s is a %s: its text is a %s, and %s is left out", c->path, c->config.whole, c->config.architecture, c->left_out);
}

size_t pw_checkpoint_bytes(const struct pw_checkpoint *c)
{
    size_t sum = 0;
    for (size_t i = 0; i < c->n; i++)
        sum += c->tensors[i].t.bytes;
    return sum;
}

const char *pw_checkpoint_embed_name(const struct pw_checkpoint *c)
{
    return pw_checkpoint_has(c, embed) ? embed : head;
}

const char *pw_checkpoint_head_name(const struct pw_checkpoint *c)
{
    return c->config.tied ? pw_checkpoint_embed_name(c) : head;
}

/* The file that has this address; NULL: none, it is a copy. */
static const struct pw_map *map_of(const struct pw_checkpoint *c, const void *at)
{
    const struct pw_map *found = pw_map_has(&c->map, at) ? &c->map : pw_map_has(&c->gguf.map, at) ? &c->gguf.map : NULL;
    for (size_t i = 0; !found && i < c->n_files; i++)
        found = pw_map_has(&c->files[i].map, at) ? &c->files[i].map : NULL;
    for (size_t i = 0; !found && i < c->gguf.n_parts; i++)
        found = pw_map_has(&c->gguf.parts[i].map, at) ? &c->gguf.parts[i].map : NULL;
    return found;
}

bool pw_checkpoint_is_mapped(const struct pw_checkpoint *c, const void *at) { return map_of(c, at) != NULL; }

bool pw_checkpoint_forget(const struct pw_checkpoint *c, const void *at, size_t bytes)
{
    const struct pw_map *map = map_of(c, at);
    return map && pw_map_forget(map, at, bytes);
}

/* ---- hash ---- */

#define PIECE ((size_t)4 << 20)

/* A tensor's bytes count as the hash of the hashes of its 4 MiB pieces, so that the cores share the work: pieces of all tensors, two at a time. */
struct piece { const uint8_t *data; size_t bytes; char hex[65]; };

static size_t pieces_of(const struct pw_stored *t) { return (t->bytes + PIECE - 1) / PIECE; }

static int hash_pieces(const struct pw_checkpoint *c, struct piece **out)
{
    size_t n = 0, at = 0;
    for (size_t i = 0; i < c->n; i++)
        n += pieces_of(&c->tensors[i].t);
    struct piece *list = *out = pw_alloc_zero(n + 1, sizeof *list);
    PW_CHECK(list, PW_E_NOMEM, "no memory for %zu hashes", n);
    for (size_t i = 0; i < c->n; i++) {
        const struct pw_stored *t = &c->tensors[i].t;
        for (size_t first = 0; first < t->bytes; first += PIECE)
            list[at++] = (struct piece){.data = t->data + first, .bytes = t->bytes - first < PIECE ? t->bytes - first : PIECE};
    }
#pragma omp parallel for schedule(dynamic) if (n > 2)
    for (size_t i = 0; i < n; i += 2) {
        struct piece *a = &list[i], *b = &list[i + (i + 1 < n)];
        if (a == b)
            pw_sha256_bytes(a->data, a->bytes, a->hex);
        else
            pw_sha256_two((const void *const[]){a->data, b->data}, (const size_t[]){a->bytes, b->bytes}, (char *const[]){a->hex, b->hex});
        if (c->sparing) {
            pw_checkpoint_forget(c, a->data, a->bytes);
            pw_checkpoint_forget(c, b->data, b->bytes);
        }
    }
    return 0;
}

void pw_checkpoint_spare(struct pw_checkpoint *c) { c->sparing = true; }

/* Two pieces a thread, and the pages around them. */
size_t pw_checkpoint_hash_bytes(const struct pw_checkpoint *c)
{
    const size_t most = (size_t)omp_get_max_threads() * 2 * (PIECE + ((size_t)1 << 17)), all = pw_checkpoint_bytes(c);
    return c->hash[0] || c->source ? 0 : most < all ? most : all;
}

int pw_checkpoint_hash(struct pw_checkpoint *c, char hex[65])
{
    struct pw_json w = {0};
    struct pw_buf line = {0};
    struct piece *pieces = NULL;
    int rc = 0;
    if (!c->hash[0]) {
        struct pw_sha256 h;
        PW_PASS_OUT(hash_pieces(c, &pieces));
        const struct piece *next = pieces;
        pw_sha256_init(&h);
        pw_json_open(&w, NULL, '{');
        pw_model_config_write(&c->config, NULL, &w);
        pw_json_bool(&w, "rope_interleaved", c->config.rope_interleaved);
        pw_json_close(&w, '}');
        PW_PASS_OUT(pw_json_status(&w));
        pw_sha256_add(&h, w.out.data, w.out.len);
        for (size_t i = 0; i < c->n; i++) {
            const struct pw_stored *t = &c->tensors[i].t;
            pw_buf_clear(&line);
            pw_buf_printf(&line, "\n%s %s", t->name, t->dtype);
            for (int k = 0; k < t->ndim; k++)
                pw_buf_printf(&line, " %" PRId64, t->shape[k]);
            pw_buf_char(&line, '\n');
            PW_PASS_OUT(pw_buf_status(&line));
            pw_sha256_add(&h, line.data, line.len);
            for (size_t k = pieces_of(t); k > 0; k--)
                pw_sha256_add(&h, next++->hex, 64);
        }
        pw_sha256_hex(&h, c->hash);
    }
    memcpy(hex, c->hash, 65);
out:
    pw_free(pieces);
    pw_buf_free(&line);
    pw_json_free(&w);
    return rc < 0 ? pw_error_while(rc, "hashing model %s", c->path) : 0;
}

int pw_checkpoint_identity(struct pw_checkpoint *c, char hex[65])
{
    if (!c->source)
        return pw_checkpoint_hash(c, hex);
    memcpy(hex, c->source, 65);
    return 0;
}

/* ---- tensors ---- */

bool pw_checkpoint_has(const struct pw_checkpoint *c, const char *name) { return pw_checkpoint_stored(c, name) != NULL; }

bool pw_checkpoint_at(const struct pw_checkpoint *c, size_t i, struct pw_stored *out)
{
    if (i >= c->n)
        return false;
    *out = c->tensors[i].t;
    return true;
}

int pw_checkpoint_aligned(struct pw_checkpoint *c, const struct stored *s, size_t align, const void **out)
{
    *out = s->t.data;
    if ((uintptr_t)s->t.data % align == 0)
        return 0;
    void *copy = pw_arena_alloc(&c->arena, s->t.bytes);
    PW_CHECK(copy, PW_E_NOMEM, "%s: no memory for %s", s->file, s->t.name);
    memcpy(copy, s->t.data, s->t.bytes);
    *out = copy;
    return 0;
}

static void shape_text(const int64_t *shape, int ndim, char out[128])
{
    size_t at = 0;
    out[0] = 0;
    for (int i = 0; i < ndim && at < 100; i++)
        at += (size_t)snprintf(out + at, 128 - at, i ? ", %" PRId64 : "%" PRId64, shape[i]);
}

static int check_shape(struct pw_checkpoint *c, const char *name, int64_t a, int64_t b, struct stored **out)
{
    struct stored *s = pw_checkpoint_stored(c, name);
    PW_CHECK(s, PW_E_FORMAT, "%s: tensor %s is missing", c->path, name);
    int64_t want[2] = {a, b};
    int ndim = b ? 2 : 1;
    if (s->t.ndim != ndim || s->t.shape[0] != a || (b && s->t.shape[1] != b)) {
        char expected[128], got[128];
        shape_text(want, ndim, expected);
        shape_text(s->t.shape, s->t.ndim, got);
        return pw_error(PW_E_FORMAT, "%s: %s: shape does not fit the config (expected (%s), got (%s))", s->file, name, expected, got);
    }
    *out = s;
    return 0;
}

int pw_checkpoint_tensor(struct pw_checkpoint *c, const char *name, int64_t a, int64_t b, struct pw_tensor *out)
{
    struct stored *s;
    PW_PASS(check_shape(c, name, a, b, &s));
    enum pw_dtype dtype = PW_F32;
    if (strcmp(s->t.dtype, "F16") == 0)
        dtype = PW_F16;
    else if (strcmp(s->t.dtype, "BF16") == 0)
        dtype = PW_BF16;
    else
        PW_CHECK(strcmp(s->t.dtype, "F32") == 0, PW_E_UNSUPPORTED, "%s: %s: dtype is not supported (expected F32, F16 or BF16, got %s)", s->file,
                 name, s->t.dtype);
    const void *data;
    PW_PASS(pw_checkpoint_aligned(c, s, pw_dtype_bytes(dtype), &data));
    /* The mapping is read-only; views of it are handed out as the tensors of constant weights are everywhere. */
    *out = b ? pw_tensor2((void *)(uintptr_t)data, dtype, a, b) : pw_tensor1((void *)(uintptr_t)data, dtype, a);
    s->used = true;
    return 0;
}

int pw_checkpoint_weight(struct pw_checkpoint *c, const char *name, int64_t n_out, int64_t n_in, struct pw_weight *out)
{
    if (pw_bnb_has(c, name))
        return pw_bnb_read(c, name, n_out, n_in, out);
    struct stored *s = c->gguf.n_tensors ? pw_checkpoint_stored(c, name) : NULL;
    const struct pw_block_type *b = s ? pw_block_type_stored(s->t.dtype) : NULL;
    if (b) {
        PW_PASS(check_shape(c, name, n_out, n_in, &s));
        *out = (struct pw_weight){.n_out = n_out, .n_in = n_in, .type = b->type, .dtype = PW_F32, .data = s->t.data};
        s->used = true;
        return 0;
    }
    struct pw_tensor t;
    PW_PASS(pw_checkpoint_tensor(c, name, n_out, n_in, &t));
    *out = pw_weight_dense(t);
    return 0;
}

int pw_checkpoint_all_used(const struct pw_checkpoint *c)
{
    size_t unread = 0;
    const struct stored *first = NULL;
    for (size_t i = 0; i < c->n; i++) {
        bool skip = c->tensors[i].used;
        for (size_t k = 0; k < sizeof ignorable / sizeof *ignorable; k++)
            skip |= ends_with(c->tensors[i].t.name, ignorable[k]);
        if (skip)
            continue;
        if (unread++ == 0)
            first = &c->tensors[i];
    }
    PW_CHECK(unread == 0, PW_E_FORMAT, "%s: unknown tensor %s: a %s model has no place for it (%zu tensors were not read)", first->file,
             first->t.name, c->config.family, unread);
    return 0;
}
