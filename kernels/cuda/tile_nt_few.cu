/* The same for few rows: more blocks, less of W each: the instances of tile.h. */
#include "kernels/cuda/tile.h"

int tile_nt_few(struct pw_dev *dev, const char *op, enum decode_kind kind, const struct tile_args *g)
{
    switch (kind) {
    case DECODE_F32: TILE_SMALL(false, false, DECODE_F32, false); break;
    case DECODE_BF16: TILE_SMALL(false, false, DECODE_BF16, false); break;
    case DECODE_F16: TILE_SMALL(false, false, DECODE_F16, false); break;
    case DECODE_FOUR: TILE_SMALL(false, false, DECODE_FOUR, false); break;
    case DECODE_INT8: TILE_SMALL(false, false, DECODE_INT8, false); break;
    default: return tile_nt_few_block(dev, op, kind, g);
    }
    return 0;
}
