/* The table of block types (blocks.def), and their decoding in plain C, which is the definition. */
#include "kernels/blocks.h"

#include <string.h>
#include "kernels/codes.h"

#define BLOCK_HALF(u) pw_f16_to_f32(u)
#include "kernels/block_decode.h"

const int8_t pw_iq4_table[16] = { PW_IQ4_VALUES };

static const struct pw_block_type types[] = {
#define PW_BLOCK(id, name, stored, ggml, elements, bytes, decode, encode) { name, stored, PW_Q_##id, ggml, elements, bytes, decode, encode },
#include "kernels/blocks.def"
#undef PW_BLOCK
};
enum { FIRST = PW_Q_INT8 + 1, TYPES = sizeof types / sizeof *types };
_Static_assert(TYPES == PW_QTYPES - FIRST, "the block types are the last of enum pw_qtype, in the order of blocks.def");

const struct pw_block_type *pw_block_type(enum pw_qtype t)
{
    return (int)t >= FIRST && (int)t < PW_QTYPES ? &types[(int)t - FIRST] : NULL;
}

const struct pw_block_type *pw_block_type_ggml(uint32_t number)
{
    for (int i = 0; i < TYPES; i++)
        if ((uint32_t)types[i].ggml == number) return &types[i];
    return NULL;
}

const struct pw_block_type *pw_block_type_stored(const char *stored)
{
    for (int i = 0; i < TYPES; i++)
        if (strcmp(types[i].stored, stored) == 0) return &types[i];
    return NULL;
}
