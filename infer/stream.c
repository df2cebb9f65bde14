/* See stream.h. */
#include "infer/stream.h"

#include <string.h>

#include "base/error.h"
#include "base/memory.h"

/* How many blocks before this one wait: its number among them, if it does. */
static int number(int layers, int count, int layer)
{
    return (int)((int64_t)layer * count / layers);
}

bool pw_stream_waits(int layers, int count, int layer)
{
    return number(layers, count, layer + 1) > number(layers, count, layer);
}

size_t pw_stream_host_bytes(const size_t *bytes, int layers, int count)
{
    size_t sum = 0;
    for (int i = 0; i < layers; i++)
        sum += pw_stream_waits(layers, count, i) ? pw_pool_round(bytes[i]) : 0;
    return sum;
}

size_t pw_stream_slot_bytes(const size_t *bytes, int layers, int count)
{
    size_t largest = 0;
    for (int i = 0; i < layers; i++)
        if (pw_stream_waits(layers, count, i) && pw_pool_round(bytes[i]) > largest)
            largest = pw_pool_round(bytes[i]);
    return PW_STREAM_SLOTS * largest;
}

static bool waits(const struct pw_layer_stream *s, int layer) { return pw_stream_waits(s->layers, s->count, layer); }
static int slot_of(const struct pw_layer_stream *s, int layer) { return number(s->layers, s->count, layer) % PW_STREAM_SLOTS; }

int pw_stream_open(struct pw_layer_stream *s, struct pw_dev *dev, const size_t *bytes, int layers, int count)
{
    const size_t slots = pw_stream_slot_bytes(bytes, layers, count), largest = slots / PW_STREAM_SLOTS;
    size_t sum = 0;
    int rc = 0;
    *s = (struct pw_layer_stream){.dev = dev, .layers = layers, .held = {-1, -1}};
    s->offset = pw_alloc_zero(2 * (size_t)layers, sizeof *s->offset);
    PW_CHECK(s->offset, PW_E_NOMEM, "out of memory for %d layers", layers);
    s->bytes = s->offset + layers;
    for (int i = 0; i < layers; i++) {
        s->bytes[i] = pw_pool_round(bytes[i]);
        s->offset[i] = sum;
        sum += pw_stream_waits(layers, count, i) ? s->bytes[i] : 0;
    }
    void *host = NULL;
    PW_PASS_OUT(pw_pool_open(&s->memory, dev, slots, "slots for layers"));
    PW_TRY_OUT(pw_dev_pinned(dev, &host, sum), "taking host memory for the weights of layers");
    s->host = host;
    for (int k = 0; k < PW_STREAM_SLOTS; k++)
        s->slot[k] = (struct pw_pool){.dev = dev, .base = s->memory.base + (size_t)k * largest, .bytes = largest, .name = "a slot for a layer"};
    s->count = count;
out:
    if (rc < 0)
        pw_stream_close(s);
    return rc;
}

void pw_stream_close(struct pw_layer_stream *s)
{
    if (s->dev) {
        pw_dev_pinned_free(s->dev, s->host);
        pw_pool_close(&s->memory);
    }
    pw_free(s->offset);
    *s = (struct pw_layer_stream){0};
}

struct pw_pool *pw_stream_place(struct pw_layer_stream *s, int layer)
{
    struct pw_pool *slot = &s->slot[slot_of(s, layer)];
    slot->used = 0;
    s->held[slot_of(s, layer)] = -1;
    return slot;
}

int pw_stream_placed(struct pw_layer_stream *s, int layer)
{
    const struct pw_pool *slot = &s->slot[slot_of(s, layer)];
    PW_CHECK(slot->used == s->bytes[layer], PW_E_FAIL, "a layer of %zu bytes was counted as %zu", slot->used, s->bytes[layer]);
    PW_PASS(pw_dev_get(s->dev, s->host + s->offset[layer], slot->base, slot->used));
    s->held[slot_of(s, layer)] = layer;
    return 0;
}

static int lane_of(const struct pw_layer_stream *s, int layer) { return PW_LANE_WEIGHTS + slot_of(s, layer); }

static int bring(struct pw_layer_stream *s, int layer)
{
    const int k = slot_of(s, layer);
    if (s->held[k] == layer)
        return 0;
    s->held[k] = -1;
    PW_TRY(pw_dev_bring(s->dev, lane_of(s, layer), s->slot[k].base, s->host + s->offset[layer], s->bytes[layer]), "bringing layer %d", layer);
    s->held[k] = layer;
    return 0;
}

/* A transfer sets out when the ops queued before it are done: those of the block that used the slot last. */
int pw_stream_need(struct pw_layer_stream *s, int layer, int next, int step)
{
    if (!s->count)
        return 0;
    if (waits(s, layer)) {
        PW_PASS(bring(s, layer));
        PW_PASS(pw_dev_wait(s->dev, lane_of(s, layer)));
    }
    while (next >= 0 && next < s->layers && !waits(s, next))
        next += step;
    if (next < 0 || next >= s->layers || (waits(s, layer) && slot_of(s, next) == slot_of(s, layer)))
        return 0;
    return bring(s, next);
}
