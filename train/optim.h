/* The optimiser: what is trained, the gradients, and AdamW's two averages (the first is SGD's momentum), laid out in one pool.
 *
 * A slot is one trained tensor. Gradients and averages of all slots are contiguous regions (64 bytes apart), so that clearing, the norm
 * and saving are one sweep each. Parameters lie where their owner put them. Knows nothing of models. */
#ifndef PW_TRAIN_OPTIM_H
#define PW_TRAIN_OPTIM_H

#include "kernels/op.h"

struct pw_slot {
    const char *name;
    struct pw_tensor value;      /* f32, contiguous */
    struct pw_tensor grad, m, v; /* the same shape */
    bool decay;                  /* weight decay applies */
};
struct pw_optim {
    struct pw_slot *slots; size_t n;      /* slots and names belong to the caller */
    char *grads, *m, *v; size_t region;   /* bytes of each of the three regions */
    struct pw_tensor norm2;               /* (1) f64 */
};
/* Bytes of one region: of gradients, and of each of the two averages. */
size_t pw_optim_region(const struct pw_slot *slots, size_t n);
size_t pw_optim_bytes(const struct pw_slot *slots, size_t n);            /* what pw_optim_place takes from the pool */
int pw_optim_place(struct pw_optim *o, struct pw_pool *pool, struct pw_slot *slots, size_t n);
int pw_optim_clear(struct pw_dev *dev, struct pw_optim *o);              /* gradients = 0 */
int pw_optim_norm(struct pw_dev *dev, struct pw_optim *o, double *norm); /* of all gradients together, before clipping */
int pw_optim_step(struct pw_dev *dev, struct pw_optim *o, const struct pw_adamw *h); /* AdamW */
/* SGD with momentum beta1 (0: none), as in PyTorch: m = beta1 m + grad_scale g; p -= lr (m + weight_decay p). v stays as it is. */
int pw_optim_sgd(struct pw_dev *dev, struct pw_optim *o, const struct pw_adamw *h);
#endif
