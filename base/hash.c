/* SHA-256 by libsodium, whose header is included here alone; whole blocks by the processor's own instructions where it has them, which is
 * four to five times as fast: a model is hashed before every training run. */
#include <errno.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#include "base/error.h"
#include "base/file.h"

_Static_assert(sizeof(crypto_hash_sha256_state) <= sizeof(((struct pw_sha256 *)0)->state), "pw_sha256 must hold the library's state");

static crypto_hash_sha256_state *inner(struct pw_sha256 *h) { return (crypto_hash_sha256_state *)(void *)h->state; }

/* ---- whole blocks ---- */

#if defined(__x86_64__)
static bool ask_processor(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSE4_1) || !(c & bit_SSSE3)) return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA);
}
static bool has_instructions(void) /* asked once: in a virtual machine the question leaves it */
{
    static atomic_int known;
    int is = atomic_load_explicit(&known, memory_order_relaxed);
    if (!is) atomic_store_explicit(&known, is = ask_processor() ? 1 : -1, memory_order_relaxed);
    return is > 0;
}

/* FIPS 180-4, section 6.2.2, four rounds at a time. The instructions keep the state as two vectors, A B E F and C D G H from the highest lane down. */
#define SHA __attribute__((target("sha,sse4.1,ssse3")))
enum { MOST = 2 };   /* streams at a time: each round waits for the one before it, so that a second stream is nearly free */
SHA static inline __attribute__((always_inline)) void add_streams(int n, uint32_t *const state[], const unsigned char *const bytes[], size_t blocks)
{
    static const uint32_t K[64] __attribute__((aligned(16))) = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74,
        0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d,
        0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e,
        0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5,
        0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
    };
    const __m128i big_endian = _mm_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12);
    __m128i abef[MOST], cdgh[MOST];
    for (int k = 0; k < n; k++) {
        const uint32_t *s = state[k];
        abef[k] = _mm_setr_epi32((int)s[5], (int)s[4], (int)s[1], (int)s[0]);
        cdgh[k] = _mm_setr_epi32((int)s[7], (int)s[6], (int)s[3], (int)s[2]);
    }
    for (size_t at = 0; at < blocks * 64; at += 64) {
        __m128i abef_before[MOST], cdgh_before[MOST], w[MOST][4];   /* w: the last sixteen words */
        for (int k = 0; k < n; k++) {
            abef_before[k] = abef[k];
            cdgh_before[k] = cdgh[k];
            for (int i = 0; i < 4; i++) w[k][i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)(bytes[k] + at + 16 * i)), big_endian);
        }
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++)
#pragma GCC unroll 2
            for (int k = 0; k < n; k++) {
                __m128i *v = w[k];
                if (i >= 4) {
                    const __m128i nine = _mm_alignr_epi8(v[(i + 3) % 4], v[(i + 2) % 4], 4);   /* words 7 before the new ones */
                    v[i % 4] = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(v[i % 4], v[(i + 1) % 4]), nine), v[(i + 3) % 4]);
                }
                const __m128i sum = _mm_add_epi32(v[i % 4], _mm_load_si128((const __m128i *)(const void *)(K + 4 * i)));
                cdgh[k] = _mm_sha256rnds2_epu32(cdgh[k], abef[k], sum);
                abef[k] = _mm_sha256rnds2_epu32(abef[k], cdgh[k], _mm_shuffle_epi32(sum, 0x0e));
            }
        for (int k = 0; k < n; k++) {
            abef[k] = _mm_add_epi32(abef[k], abef_before[k]);
            cdgh[k] = _mm_add_epi32(cdgh[k], cdgh_before[k]);
        }
    }
    for (int k = 0; k < n; k++) {
        uint32_t low[4], high[4], *s = state[k];
        _mm_storeu_si128((__m128i *)(void *)low, abef[k]);
        _mm_storeu_si128((__m128i *)(void *)high, cdgh[k]);
        s[0] = low[3], s[1] = low[2], s[4] = low[1], s[5] = low[0];
        s[2] = high[3], s[3] = high[2], s[6] = high[1], s[7] = high[0];
    }
}
SHA static void add_blocks(uint32_t state[8], const unsigned char *bytes, size_t blocks)
{
    add_streams(1, (uint32_t *const[]){ state }, (const unsigned char *const[]){ bytes }, blocks);
}
SHA static void add_twice(uint32_t *const state[], const unsigned char *const bytes[], size_t blocks) { add_streams(2, state, bytes, blocks); }
#else
static bool has_instructions(void) { return false; }
static void add_blocks(uint32_t state[8], const unsigned char *bytes, size_t blocks) { (void)state, (void)bytes, (void)blocks; }
static void add_twice(uint32_t *const state[], const unsigned char *const bytes[], size_t blocks) { (void)state, (void)bytes, (void)blocks; }
#endif

/* ---- */

void pw_sha256_init(struct pw_sha256 *h) { crypto_hash_sha256_init(inner(h)); }

/* The library's state is that of FIPS 180-4: eight words, the number of bits so far, the bytes of the block that is not whole. */
void pw_sha256_add(struct pw_sha256 *h, const void *bytes, size_t n)
{
    crypto_hash_sha256_state *s = inner(h);
    const unsigned char *at = bytes;
    if (n >= 256 && has_instructions()) {
        const size_t first = (64 - (size_t)(s->count / 8 % 64)) % 64, blocks = (n - first) / 64;
        if (first) crypto_hash_sha256_update(s, at, first);
        add_blocks(s->state, at + first, blocks);
        s->count += (uint64_t)blocks * 512;
        at += first + 64 * blocks;
        n -= first + 64 * blocks;
    }
    if (n) crypto_hash_sha256_update(s, at, n);
}

void pw_sha256_hex(struct pw_sha256 *h, char out[65])
{
    static const char digits[] = "0123456789abcdef";
    unsigned char sum[32];
    crypto_hash_sha256_final(inner(h), sum);
    for (int i = 0; i < 32; i++) {
        out[2 * i] = digits[sum[i] >> 4];
        out[2 * i + 1] = digits[sum[i] & 15];
    }
    out[64] = 0;
}

void pw_sha256_bytes(const void *bytes, size_t n, char out[65])
{
    struct pw_sha256 h;
    pw_sha256_init(&h);
    pw_sha256_add(&h, bytes, n);
    pw_sha256_hex(&h, out);
}

void pw_sha256_two(const void *const bytes[2], const size_t n[2], char *const out[2])
{
    struct pw_sha256 h[2];
    size_t done = 0;
    for (int k = 0; k < 2; k++) pw_sha256_init(&h[k]);
    if (has_instructions()) {
        const size_t blocks = (n[0] < n[1] ? n[0] : n[1]) / 64;
        add_twice((uint32_t *const[]){ inner(&h[0])->state, inner(&h[1])->state }, (const unsigned char *const[]){ bytes[0], bytes[1] }, blocks);
        for (int k = 0; k < 2; k++) inner(&h[k])->count += (uint64_t)blocks * 512;
        done = 64 * blocks;
    }
    for (int k = 0; k < 2; k++) {
        pw_sha256_add(&h[k], (const unsigned char *)bytes[k] + done, n[k] - done);
        pw_sha256_hex(&h[k], out[k]);
    }
}

int pw_sha256_file(const char *path, char out[65])
{
    FILE *f = fopen(path, "rbe");
    PW_CHECK(f, PW_E_IO, "%s: cannot open: %s", path, strerror(errno));
    struct pw_sha256 h;
    unsigned char block[1 << 16];
    size_t n;
    pw_sha256_init(&h);
    while ((n = fread(block, 1, sizeof block, f)) > 0) pw_sha256_add(&h, block, n);
    int rc = ferror(f) ? pw_error(PW_E_IO, "%s: cannot read: %s", path, strerror(errno)) : 0;
    fclose(f);
    if (rc == 0) pw_sha256_hex(&h, out);
    return rc;
}
