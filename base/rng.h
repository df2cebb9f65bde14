/* Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
 * The n-th draw of a stream is a pure function of (seed, stream, n): no state to save but n, the same bits on every device. */
#ifndef PW_BASE_RNG_H
#define PW_BASE_RNG_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
void pw_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

struct pw_rng { uint64_t seed, stream, at; };          /* plain data: copy it to save it */
enum pw_stream {                                       /* stream numbers in use; add (kind | index) */
    PW_STREAM_INIT = 1, PW_STREAM_SHUFFLE = 2, PW_STREAM_DROPOUT = 3, PW_STREAM_SAMPLE = 4, PW_STREAM_BOOTSTRAP = 5,
    PW_STREAM_SPLIT = 6, PW_STREAM_SIMULATE = 7, PW_STREAM_TEST = 8,
};
struct pw_rng pw_rng_make(uint64_t seed, uint64_t stream);
uint32_t pw_rng_u32(struct pw_rng *r);
uint64_t pw_rng_u64(struct pw_rng *r);
double pw_rng_uniform(struct pw_rng *r);               /* [0, 1), 53 bits */
double pw_rng_normal(struct pw_rng *r);                /* Box-Muller, two draws of u64 each */
uint64_t pw_rng_below(struct pw_rng *r, uint64_t n);   /* [0, n), unbiased by rejection; n >= 1 */
void pw_rng_shuffle(struct pw_rng *r, uint32_t *items, uint64_t n); /* Fisher-Yates */
/* The element mask of dropout: element i of a tensor keeps iff u32(i) >= threshold(p). One Philox call serves 4 elements:
 * counter = {i/4 low, i/4 high, offset low, offset high}, key = {seed low, seed high}, word i%4. threshold = floor(p * 2^32). */
uint32_t pw_dropout_threshold(double p);
#ifdef __cplusplus
}
#endif
#endif
