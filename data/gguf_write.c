/* Writing GGUF files (data/gguf.h): pairs and tensor infos are collected, since their counts and offsets come before the data; tensor bytes are
 * streamed. Refuses to know what keys and tensors mean. */
#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "data/gguf.h"

enum { ALIGNMENT = 32 };

int pw_gguf_create(struct pw_gguf_out *w, const char *path, bool force)
{
    *w = (struct pw_gguf_out){0};
    pw_arena_init(&w->arena);
    return pw_out_open(&w->out, path, force);
}

static void put_string(struct pw_buf *b, const char *s, size_t n)
{
    const uint64_t len = n;
    pw_buf_add(b, &len, sizeof len);
    pw_buf_add(b, s, n);
}

static void put_key(struct pw_gguf_out *w, const char *key, enum pw_gguf_type type)
{
    const uint32_t t = type;
    put_string(&w->head, key, strlen(key));
    pw_buf_add(&w->head, &t, sizeof t);
    w->n_pairs++;
}

void pw_gguf_put_str(struct pw_gguf_out *w, const char *key, const char *s, size_t n)
{
    put_key(w, key, PW_GGUF_STRING);
    put_string(&w->head, s, n);
}
void pw_gguf_put_u32(struct pw_gguf_out *w, const char *key, uint32_t x)
{
    put_key(w, key, PW_GGUF_U32);
    pw_buf_add(&w->head, &x, sizeof x);
}
void pw_gguf_put_f32(struct pw_gguf_out *w, const char *key, float x)
{
    put_key(w, key, PW_GGUF_F32);
    pw_buf_add(&w->head, &x, sizeof x);
}
void pw_gguf_put_bool(struct pw_gguf_out *w, const char *key, bool x)
{
    put_key(w, key, PW_GGUF_BOOL);
    pw_buf_char(&w->head, x ? 1 : 0);
}
void pw_gguf_put_array(struct pw_gguf_out *w, const char *key, enum pw_gguf_type of, uint64_t n)
{
    const uint32_t t = of;
    put_key(w, key, PW_GGUF_ARRAY);
    pw_buf_add(&w->head, &t, sizeof t);
    pw_buf_add(&w->head, &n, sizeof n);
}
void pw_gguf_put_element(struct pw_gguf_out *w, enum pw_gguf_type of, const void *data, size_t n)
{
    if (of == PW_GGUF_STRING)
        put_string(&w->head, data, n);
    else
        pw_buf_add(&w->head, data, n);
}

int pw_gguf_add_tensor(struct pw_gguf_out *w, const char *name, uint32_t ggml, int ndim, const int64_t *shape)
{
    const uint32_t dims = (uint32_t)ndim;
    size_t bytes;
    PW_CHECK(!w->streaming, PW_E_FAIL, "writing GGUF: %s: tensors are announced before data", name);
    PW_CHECK(ndim >= 1 && ndim <= 4, PW_E_FAIL, "writing GGUF: %s: expected 1 to 4 dimensions, got %d", name, ndim);
    PW_PASS(pw_gguf_tensor_bytes(name, ggml, ndim, shape, &bytes));
    if (w->n_tensors == w->room) {
        const size_t room = w->room ? 2 * w->room : 64;
        void *more = pw_arena_array(&w->arena, room, sizeof *w->tensors);
        PW_CHECK(more, PW_E_NOMEM, "writing GGUF: no memory");
        if (w->room)
            memcpy(more, w->tensors, w->room * sizeof *w->tensors);
        w->tensors = more;
        w->room = room;
    }
    w->tensors[w->n_tensors].name = pw_arena_strndup(&w->arena, name, strlen(name));
    w->tensors[w->n_tensors].bytes = bytes;
    PW_CHECK(w->tensors[w->n_tensors].name, PW_E_NOMEM, "writing GGUF: no memory");
    put_string(&w->infos, name, strlen(name));
    pw_buf_add(&w->infos, &dims, sizeof dims);
    for (int k = ndim - 1; k >= 0; k--) {
        const uint64_t size = (uint64_t)shape[k];
        pw_buf_add(&w->infos, &size, sizeof size);
    }
    pw_buf_add(&w->infos, &ggml, sizeof ggml);
    pw_buf_add(&w->infos, &w->offset, sizeof w->offset);
    w->offset += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    w->n_tensors++;
    return 0;
}

static int pad(struct pw_gguf_out *w, size_t at)
{
    static const char zeros[ALIGNMENT];
    return pw_out_write(&w->out, zeros, (ALIGNMENT - at % ALIGNMENT) % ALIGNMENT);
}

/* The header, when everything in it is known. */
static int begin(struct pw_gguf_out *w)
{
    const uint32_t version = 3;
    w->streaming = true;
    PW_PASS(pw_buf_status(&w->head));
    PW_PASS(pw_buf_status(&w->infos));
    PW_PASS(pw_out_write(&w->out, "GGUF", 4));
    PW_PASS(pw_out_write(&w->out, &version, sizeof version));
    PW_PASS(pw_out_write(&w->out, &w->n_tensors, sizeof w->n_tensors));
    PW_PASS(pw_out_write(&w->out, &w->n_pairs, sizeof w->n_pairs));
    PW_PASS(pw_out_write(&w->out, w->head.data, w->head.len));
    if (w->n_tensors)
        PW_PASS(pw_out_write(&w->out, w->infos.data, w->infos.len));
    w->left = w->n_tensors ? w->tensors[0].bytes : 0;
    return pad(w, 24 + w->head.len + w->infos.len);
}

int pw_gguf_bytes(struct pw_gguf_out *w, const void *data, size_t n)
{
    const char *from = data;
    if (!w->streaming)
        PW_PASS(begin(w));
    while (n > 0) {
        PW_CHECK(w->at < w->n_tensors, PW_E_FAIL, "writing GGUF: %zu bytes more than announced", n);
        const size_t part = n < w->left ? n : w->left;
        PW_PASS(pw_out_write(&w->out, from, part));
        from += part;
        n -= part;
        w->left -= part;
        if (w->left == 0) {
            PW_PASS(pad(w, w->tensors[w->at].bytes));
            if (++w->at < w->n_tensors)
                w->left = w->tensors[w->at].bytes;
        }
    }
    return 0;
}

int pw_gguf_commit(struct pw_gguf_out *w)
{
    if (!w->streaming)
        PW_PASS(begin(w));
    PW_CHECK(w->at == w->n_tensors, PW_E_FAIL, "writing GGUF: %s: %zu bytes are missing", w->tensors[w->at].name, w->left);
    PW_PASS(pw_out_commit(&w->out));
    pw_gguf_abort(w);
    return 0;
}

void pw_gguf_abort(struct pw_gguf_out *w)
{
    pw_out_abort(&w->out);
    pw_buf_free(&w->head);
    pw_buf_free(&w->infos);
    pw_arena_free(&w->arena);
    *w = (struct pw_gguf_out){0};
}
