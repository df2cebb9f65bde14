/* y = x W^T for every kind of weight: the instances of tile.h. */
#include "kernels/cuda/tile.h"

int tile_nt(struct pw_dev *dev, const char *op, enum decode_kind kind, const struct tile_args *g)
{
    switch (kind) {
    case DECODE_F32: TILE_BIG(false, false, DECODE_F32); break;
    case DECODE_BF16: TILE_BIG(false, false, DECODE_BF16); break;
    case DECODE_F16: TILE_BIG(false, false, DECODE_F16); break;
    case DECODE_FOUR: TILE_BIG(false, false, DECODE_FOUR); break;
    case DECODE_INT8: TILE_BIG(false, false, DECODE_INT8); break;
    default: return tile_nt_block(dev, op, kind, g);
    }
    return 0;
}
