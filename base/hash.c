/* SHA-256 by libsodium, whose header is included here alone. */
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"

_Static_assert(sizeof(crypto_hash_sha256_state) <= sizeof(((struct pw_sha256 *)0)->state), "pw_sha256 must hold the library's state");

static crypto_hash_sha256_state *inner(struct pw_sha256 *h) { return (crypto_hash_sha256_state *)(void *)h->state; }

void pw_sha256_init(struct pw_sha256 *h) { crypto_hash_sha256_init(inner(h)); }

void pw_sha256_add(struct pw_sha256 *h, const void *bytes, size_t n)
{
    if (n) crypto_hash_sha256_update(inner(h), bytes, n);
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
