/* Quantising by a device whose memory is not the host's: rows go over as they are stored, and are widened and encoded there, so that no processor
 * touches a weight and no f32 copy larger than a tile exists. Codes and scales are those of quant.h, bit for bit: encode is one op with one
 * contract; only the scales of nested quantisation come back to the host for a moment. Memory is bounded by a tile, whatever the weight.
 *
 * It serves host devices too, where memory moves are plain copies. Types: those the device has an `encode` for (NF4, FP4, INT8 everywhere). */
#ifndef PW_QUANT_STAGE_H
#define PW_QUANT_STAGE_H

#include "quant/quant.h"

struct pw_quant_stage {
    struct pw_dev *dev;
    struct pw_pool pool;        /* on the device: rows as stored, rows in f32, scales of one weight */
    void *stored;
    float *tile;
    float *absmax;              /* of a nested weight, before they are quantised themselves */
    int64_t tile_elements, blocks;
    char *host;                 /* scales on the host, and their codes */
};
/* Room for weights of at most `most` elements (blocks of `block`; 0: none have blocks), in rows of at most `widest`. */
struct pw_quant_stage_size { int64_t widest, most; int block; int64_t tile; /* elements, 0: as is good for a card */ };
size_t pw_quant_stage_bytes(const struct pw_quant_stage_size *size);
int pw_quant_stage_open(struct pw_quant_stage *s, struct pw_dev *dev, const struct pw_quant_stage_size *size);
void pw_quant_stage_close(struct pw_quant_stage *s);       /* fine on a zeroed struct */
/* Can this type be encoded by this device? */
bool pw_quant_stage_serves(const struct pw_dev *dev, enum pw_qtype type);
/* w was placed (pw_quant_place) in memory of the device; src (n_out, n_in) f32, f16 or bf16 in host memory, at any address. Numbers that are not
 * finite are PW_E_NUMERIC. Returns when the device is done with src. */
int pw_quant_stage_encode(struct pw_quant_stage *s, struct pw_weight *w, struct pw_tensor src);

/* The same from rows that the caller makes on the device, a tile at a time: rows first.. in s->tile, then the end. */
int pw_quant_stage_begin(struct pw_quant_stage *s, struct pw_quant_encoder *e, struct pw_weight *w, int64_t *rows);  /* rows a tile has */
int pw_quant_stage_end(struct pw_quant_stage *s, struct pw_quant_encoder *e);
#endif
