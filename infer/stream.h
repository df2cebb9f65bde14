/* Layers that do not stay on the device: frozen weights of blocks in pinned host memory, brought into two slots of device memory by turns, the next one
 * while the present one computes. Block i always uses slot i % 2, so that the pointers in its weights never change. Norms, embedding, head and
 * adapters stay on the device. The bytes of every result are those of a model that is wholly there. For models that are larger than the card. */
#ifndef PW_INFER_STREAM_H
#define PW_INFER_STREAM_H

#include "kernels/dev.h"

enum { PW_STREAM_SLOTS = 2 };
struct pw_layer_stream {
    bool on;
    struct pw_dev *dev;
    int layers;
    struct pw_pool memory;                   /* on the device: the slots */
    struct pw_pool slot[PW_STREAM_SLOTS];    /* views of it, for placing the weights of one block at a time */
    char *host;                              /* pinned: block after block */
    size_t *offset, *bytes;                  /* (layers) */
    int held[PW_STREAM_SLOTS];               /* the block that is there, or on its way; -1: none */
};
/* bytes (layers): of each block, as the pool rounds. The slots are as large as the largest. */
int pw_stream_open(struct pw_layer_stream *s, struct pw_dev *dev, const size_t *bytes, int layers);
void pw_stream_close(struct pw_layer_stream *s);   /* fine on a zeroed struct */
struct pw_pool *pw_stream_place(struct pw_layer_stream *s, int layer); /* the slot of this block, empty */
int pw_stream_placed(struct pw_layer_stream *s, int layer);            /* what is in it now goes to the host */
/* Before the ops of `layer` are queued: it is there for them. `next` (-1: none known) sets out now. Nothing happens in a model that is wholly there. */
int pw_stream_need(struct pw_layer_stream *s, int layer, int next);
#endif
