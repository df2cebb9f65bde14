/* The constants of the formats whose codes stand for values in a table, as lists of initialisers: kernels/nf4.c makes the tables of the definition from them, and
 * kernels/cuda/ its own copies where a device sees them. NF4: QLoRA, Dettmers et al. 2023, appendix E; the thresholds between its values are
 * those bitsandbytes compares with (strictly greater). They are part of a file format: never recomputed, because the normal quantiles
 * evaluated in double differ from them at 1e-7. */
#ifndef PW_KERNELS_CODES_H
#define PW_KERNELS_CODES_H

#define PW_NF4_VALUES                                                            \
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,    \
    -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,   \
    0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f, \
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f

/* threshold[i] separates codes i and i + 1. The doubles lie half-way between two floats in four cases; rounding them to f32 from double (no f
 * suffix: 0xbf591cd8 for the first) is what bitsandbytes' CPU path compares with, rounding the decimal text is one unit off. */
#define PW_NF4_THRESHOLDS                                                        \
    -0.8480964004993439, -0.6106329262256622, -0.4599952697753906, -0.33967943489551544, \
    -0.23460740596055984, -0.13791173323988914, -0.045525018125772476, 0.03979014977812767, \
    0.1202552504837513, 0.2035212516784668, 0.2920137718319893, 0.3893125355243683, \
    0.5016634166240692, 0.6427869200706482, 0.8614784181118011

/* low three bits: magnitude, not in order; bit 3: sign */
#define PW_FP4_VALUES                                                            \
    0.0f, 0.005208333333f, 0.66666667f, 1.0f, 0.33333333f, 0.5f, 0.16666667f, 0.25f, \
    -0.0f, -0.005208333333f, -0.66666667f, -1.0f, -0.33333333f, -0.5f, -0.16666667f, -0.25f
/* The magnitudes from the largest down: a value above FP4_ABOVE[i] gets FP4_CODES[i]; none: 0 */
#define PW_FP4_ABOVE 0.8333333f, 0.583333f, 0.4166667f, 0.29166667f, 0.20833333f, 0.0859375f, 0.00260417f
#define PW_FP4_CODES 3, 2, 5, 4, 7, 6, 1
/* iq4_nl of GGUF */
#define PW_IQ4_VALUES -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113
#endif
