/* The optimiser: what is trained, the gradients, and the averages that its kind keeps, laid out in one pool.
 *
 * A slot is one trained tensor. Gradients of all slots are one contiguous region (64 bytes apart), so that clearing is one sweep; averages lie
 * together likewise. Parameters lie where their owner put them. AdamW keeps two averages in f32; AdamW8 keeps them in 8 bits with a scale for each
 * 256 elements (tensors of fewer than PW_OPTIM_SMALL elements stay in f32, as bitsandbytes has it); Lion and SGD keep one. On a device with memory of its own the
 * averages may wait in pinned host memory: an update then goes piece by piece of PW_OPTIM_PIECE elements through two rooms on the device, the next piece on
 * its way while this one is updated; the bytes of the result are the same. Knows nothing of models. */
#ifndef PW_TRAIN_OPTIM_H
#define PW_TRAIN_OPTIM_H

#include "kernels/op.h"

enum pw_optim_kind { PW_OPTIM_ADAMW, PW_OPTIM_ADAMW8, PW_OPTIM_LION, PW_OPTIM_SGD };
enum { PW_OPTIM_SMALL = 4096, PW_OPTIM_PIECE = 1 << 20 };    /* a piece: whole blocks of 8-bit state */
struct pw_slot {
    const char *name;
    struct pw_tensor value;      /* f32, contiguous */
    struct pw_tensor grad;       /* the same shape */
    struct pw_tensor m, v;       /* averages: the same shape f32, or (elements) u8; none where the kind keeps none */
    struct pw_tensor m_scale, v_scale; /* of u8 averages */
    bool decay;                  /* weight decay applies */
    double rate;                 /* times the learning rate; 0 reads as 1 */
};
struct pw_optim {
    enum pw_optim_kind kind;
    struct pw_slot *slots; size_t n;      /* slots and names belong to the caller */
    char *grads; size_t region;           /* of all gradients */
    struct pw_tensor norm2;               /* (1) f64 */
    struct pw_tensor maps;                /* (512) f32 of AdamW8, else none */
    bool on_host;                         /* m, v and their scales are host memory */
    struct pw_dev *dev; void *host; char *rooms[PW_INPUT_LANES];
};
size_t pw_optim_region(const struct pw_slot *slots, size_t n);                            /* bytes of the gradients */
size_t pw_optim_bytes(enum pw_optim_kind kind, const struct pw_slot *slots, size_t n, bool on_host);    /* what pw_optim_place takes from the pool */
size_t pw_optim_host_bytes(enum pw_optim_kind kind, const struct pw_slot *slots, size_t n);              /* and of pinned memory, with on_host */
size_t pw_optim_state_bytes(enum pw_optim_kind kind, const struct pw_slot *slots, size_t n); /* of parameters and averages: what a saved state holds */
int pw_optim_place(struct pw_optim *o, struct pw_pool *pool, enum pw_optim_kind kind, struct pw_slot *slots, size_t n, bool on_host);
void pw_optim_close(struct pw_optim *o);                                 /* gives pinned memory back; fine on a zeroed optimiser */
int pw_optim_settle(struct pw_optim *o);                                 /* waits until averages on the host may be read and written there */
int pw_optim_clear(struct pw_dev *dev, struct pw_optim *o);              /* gradients = 0 */
int pw_optim_norm(struct pw_dev *dev, struct pw_optim *o, double *norm); /* of all gradients together, before clipping */
/* One step by the kind. SGD has momentum beta1 (0: none), as in PyTorch: m = beta1 m + grad_scale g; p -= lr (m + weight_decay p). */
int pw_optim_step(struct pw_dev *dev, struct pw_optim *o, const struct pw_adamw *h);
#endif
