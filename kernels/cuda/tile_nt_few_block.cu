/* y = x W^T for few rows for the block types of GGUF: instances of tile.h. */
#include "kernels/cuda/tile.h"

int tile_nt_few_block(struct pw_dev *dev, const char *op, enum decode_kind kind, const struct tile_args *g)
{
    switch (kind) {
#define PW_BLOCK(id, ...) case DECODE_##id: TILE_SMALL(false, false, DECODE_##id, false); break;
#include "kernels/blocks.def"
#undef PW_BLOCK
    default: return pw_error(PW_E_UNSUPPORTED, "%s: device %s has no kernel for weights of this type", op, dev->kind);
    }
    return 0;
}
