/* Layers that do not stay on the device: frozen weights of blocks in pinned host memory, brought into two slots of device memory by turns, the next one
 * while those before it compute. Which blocks wait there is spread evenly over the model, so that each transfer has as many resident blocks to hide behind
 * as there are. A block always uses the same slot, so that the pointers in its weights never change. Norms, embedding, head and adapters stay on the
 * device. The bytes of every result are those of a model that is wholly there. For models that are larger than the card. */
#ifndef PW_INFER_STREAM_H
#define PW_INFER_STREAM_H

#include "kernels/dev.h"

enum { PW_STREAM_SLOTS = 2 };
struct pw_layer_stream {
    int count;                               /* blocks that wait on the host, 0: none */
    struct pw_dev *dev;
    int layers;
    struct pw_pool memory;                   /* on the device: the slots */
    struct pw_pool slot[PW_STREAM_SLOTS];    /* views of it, for placing the weights of one block at a time */
    char *host;                              /* pinned: block after block */
    size_t *offset, *bytes;                  /* (layers) */
    int held[PW_STREAM_SLOTS];               /* the block that is there, or on its way; -1: none */
};
/* Does block `layer` wait on the host when `count` of `layers` do? */
bool pw_stream_waits(int layers, int count, int layer);
/* Of the blocks that wait, in device memory bytes[layer] each: what they take in host memory, and of both slots. */
size_t pw_stream_host_bytes(const size_t *bytes, int layers, int count);
size_t pw_stream_slot_bytes(const size_t *bytes, int layers, int count);

/* bytes (layers): of each block, as the pool rounds. The slots are as large as the largest that waits. */
int pw_stream_open(struct pw_layer_stream *s, struct pw_dev *dev, const size_t *bytes, int layers, int count);
void pw_stream_close(struct pw_layer_stream *s);   /* fine on a zeroed struct */
struct pw_pool *pw_stream_place(struct pw_layer_stream *s, int layer); /* the slot of this block, which waits; empty */
int pw_stream_placed(struct pw_layer_stream *s, int layer);            /* what is in it now goes to the host */
/* Before the ops of `layer` are queued: it is there for them. The first block that waits, from `next` on in steps of `step` (1 or -1), sets out now; `next`
 * outside the model: none. Nothing happens in a model that is wholly there. */
int pw_stream_need(struct pw_layer_stream *s, int layer, int next, int step);
#endif
