/* dx = dy W for every kind of weight: the instances of tile.h. */
#include "kernels/cuda/tile.h"

int tile_nn(struct pw_dev *dev, const char *op, enum decode_kind kind, const struct tile_args *g)
{
    switch (kind) {
    case DECODE_F32: TILE_BIG(false, true, DECODE_F32); break;
    case DECODE_BF16: TILE_BIG(false, true, DECODE_BF16); break;
    case DECODE_F16: TILE_BIG(false, true, DECODE_F16); break;
    case DECODE_FOUR: TILE_BIG(false, true, DECODE_FOUR); break;
    case DECODE_INT8: TILE_BIG(false, true, DECODE_INT8); break;
    default: return tile_nn_block(dev, op, kind, g);
    }
    return 0;
}
