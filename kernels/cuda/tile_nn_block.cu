/* dx = dy W for the block types of GGUF: instances of tile.h. */
#include "kernels/cuda/tile.h"

int tile_nn_block(struct pw_dev *dev, const char *op, enum decode_kind kind, const struct tile_args *g)
{
    switch (kind) {
#define PW_BLOCK(id, ...) case DECODE_##id: TILE_BIG(false, true, DECODE_##id); break;
#include "kernels/blocks.def"
#undef PW_BLOCK
    default: return pw_error(PW_E_UNSUPPORTED, "%s: device %s has no kernel for weights of this type", op, dev->kind);
    }
    return 0;
}
