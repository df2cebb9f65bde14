/* Philox4x32-10 and what is drawn from it.
 *
 * Mapping of pw_rng: one Philox call gives two draws of 64 bits. Draw number `at` (from 0) of (seed, stream) is
 *     out = philox(counter = {at/2 low, at/2 high, stream low, stream high}, key = {seed low, seed high})
 *     draw = at even: out[0] | out[1] << 32,  at odd: out[2] | out[3] << 32
 * Every draw, of 32 bits too (its low half), moves `at` by one, so that `at` alone is the state. Dropout masks use their own
 * counters (rng.h) with the key of their stream's seed. */
#include "base/rng.h"

#include <math.h>

void pw_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u; /* golden ratio */
        k1 += 0xBB67AE85u; /* sqrt(3) - 1 */
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

struct pw_rng pw_rng_make(uint64_t seed, uint64_t stream) { return (struct pw_rng){ .seed = seed, .stream = stream }; }

uint64_t pw_rng_u64(struct pw_rng *r)
{
    uint64_t block = r->at / 2;
    uint32_t counter[4] = { (uint32_t)block, (uint32_t)(block >> 32), (uint32_t)r->stream, (uint32_t)(r->stream >> 32) };
    uint32_t key[2] = { (uint32_t)r->seed, (uint32_t)(r->seed >> 32) }, out[4];
    pw_philox(counter, key, out);
    const uint32_t *half = out + 2 * (r->at % 2);
    r->at++;
    return half[0] | (uint64_t)half[1] << 32;
}

uint32_t pw_rng_u32(struct pw_rng *r) { return (uint32_t)pw_rng_u64(r); }

double pw_rng_uniform(struct pw_rng *r) { return (double)(pw_rng_u64(r) >> 11) * 0x1p-53; }

double pw_rng_normal(struct pw_rng *r)
{
    double u = 1.0 - pw_rng_uniform(r), v = pw_rng_uniform(r); /* u in (0, 1]: its logarithm is finite */
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

uint64_t pw_rng_below(struct pw_rng *r, uint64_t n)
{
    uint64_t reject = (UINT64_MAX - n + 1) % n; /* 2^64 mod n: as many of the lowest draws would come once too often */
    for (;;) {
        uint64_t x = pw_rng_u64(r);
        if (x >= reject) return x % n;
    }
}

void pw_rng_shuffle(struct pw_rng *r, uint32_t *items, uint64_t n)
{
    for (uint64_t i = n; i > 1; i--) {
        uint64_t j = pw_rng_below(r, i);
        uint32_t t = items[i - 1];
        items[i - 1] = items[j];
        items[j] = t;
    }
}

uint32_t pw_dropout_threshold(double p)
{
    if (!(p > 0)) return 0;
    double t = floor(p * 0x1p32);
    return t >= 4294967295.0 ? UINT32_MAX : (uint32_t)t;
}
