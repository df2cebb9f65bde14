/* The products of adapters, tall and narrow, and of a dense weight's gradient: instances of tile.h. */
#include "kernels/cuda/tile.h"

int tile_tn(struct pw_dev *dev, const char *op, const struct tile_args *g)
{
    TILE_BIG(true, true, DECODE_BF16);
    return 0;
}
int tile_low_nt(struct pw_dev *dev, const char *op, const struct tile_args *g)
{
    TILE_SMALL(false, false, DECODE_F32, true);
    return 0;
}
int tile_low_nn(struct pw_dev *dev, const char *op, const struct tile_args *g)
{
    TILE_SMALL(false, true, DECODE_F32, false);
    return 0;
}
int tile_low_tn(struct pw_dev *dev, const char *op, const struct tile_args *g)
{
    TILE_SMALL(true, true, DECODE_BF16, true);
    return 0;
}
