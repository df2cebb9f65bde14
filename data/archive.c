/* Archives: ustar within Zstandard (see the header). The only file that knows libzstd. */
#include "data/archive.h"

#include <string.h>
#define ZSTD_STATIC_LINKING_ONLY   /* for memory of our own */
#include <zstd.h>

#include "base/error.h"
#include "base/limit.h"
#include "base/memory.h"

enum { BLOCK = 512, LEVEL = 9, MAX_FILES = 4096 };
struct header {          /* of one file, POSIX ustar */
    char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100], magic[6], version[2], user[32], group[32],
        major[8], minor[8], prefix[155], pad[12];
};
_Static_assert(sizeof(struct header) == BLOCK, "a ustar header is one block");

static unsigned header_sum(const struct header *h)
{
    const unsigned char *p = (const unsigned char *)h;
    unsigned sum = 0;
    for (size_t i = 0; i < BLOCK; i++)
        sum += i >= offsetof(struct header, checksum) && i < offsetof(struct header, type) ? ' ' : p[i];
    return sum;
}

static bool name_is_safe(const char *name)
{
    if (!*name || *name == '/')
        return false;
    for (const char *p = name; *p;) {
        size_t n = strcspn(p, "/");
        if (n == 0 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
            return false;
        for (size_t i = 0; i < n; i++)
            if ((unsigned char)p[i] < 32 || p[i] == '\\' || p[i] == 127)
                return false;
        p += n;
        if (*p == '/' && !*++p)
            return false;
    }
    return true;
}

static int add_file(struct pw_buf *tar, const struct pw_archive_file *f)
{
    static const char zeros[BLOCK];
    struct header h;
    memset(&h, 0, sizeof h);
    PW_CHECK(name_is_safe(f->name) && strlen(f->name) < sizeof h.name, PW_E_FAIL, "'%s' cannot be a name in an archive", f->name);
    PW_CHECK(f->bytes < (size_t)1 << 33, PW_E_FAIL, "%s: %zu bytes are too many for an archive", f->name, f->bytes);
    memcpy(h.name, f->name, strlen(f->name));
    memcpy(h.mode, "0000644", 8);
    memcpy(h.uid, "0000000", 8);
    memcpy(h.gid, "0000000", 8);
    snprintf(h.size, sizeof h.size, "%011llo", (unsigned long long)f->bytes);
    memcpy(h.mtime, "00000000000", 12);
    h.type = '0';
    memcpy(h.magic, "ustar", 6);
    memcpy(h.version, "00", 2);
    snprintf(h.checksum, sizeof h.checksum, "%06o", header_sum(&h));
    h.checksum[7] = ' ';
    pw_buf_add(tar, &h, sizeof h);
    pw_buf_add(tar, f->data, f->bytes);
    pw_buf_add(tar, zeros, (BLOCK - f->bytes % BLOCK) % BLOCK);
    return 0;
}

/* The compressor's memory is ours: counted towards a limit, and a failure is known as one. */
static void *take(void *failed, size_t bytes)
{
    void *p = pw_alloc(bytes);
    if (!p)
        *(bool *)failed = true;
    return p;
}

static void give(void *failed, void *p)
{
    (void)failed;
    pw_free(p);
}

int pw_archive_write(const char *path, const struct pw_archive_file *files, size_t n, bool force)
{
    static const char end[2 * BLOCK];
    struct pw_buf tar = {0};
    ZSTD_CCtx *z = NULL;
    bool starved = false;
    void *packed = NULL;
    int rc = 0;
    for (size_t i = 0; i < n; i++)
        PW_TRY_OUT(add_file(&tar, &files[i]), "writing %s", path);
    pw_buf_add(&tar, end, sizeof end);
    PW_PASS_OUT(pw_buf_status(&tar));
    size_t room = ZSTD_compressBound(tar.len);
    z = ZSTD_createCCtx_advanced((ZSTD_customMem){take, give, &starved});
    packed = pw_alloc(room);
    PW_CHECK_OUT(z && packed, PW_E_NOMEM, "out of memory");
    ZSTD_CCtx_setParameter(z, ZSTD_c_compressionLevel, LEVEL);
    ZSTD_CCtx_setParameter(z, ZSTD_c_checksumFlag, 1);
    size_t bytes = ZSTD_compress2(z, packed, room, tar.data, tar.len);
    PW_CHECK_OUT(!starved, PW_E_NOMEM, "writing %s: no memory to compress it", path);
    PW_CHECK_OUT(!ZSTD_isError(bytes), PW_E_FAIL, "writing %s: %s", path, ZSTD_getErrorName(bytes));
    PW_PASS_OUT(pw_file_write(path, packed, bytes, force));
out:
    ZSTD_freeCCtx(z);
    pw_free(packed);
    pw_buf_free(&tar);
    return rc;
}

static int unpack(const struct pw_map *map, const char *path, size_t limit, struct pw_arena *a, char **tar, size_t *bytes)
{
    unsigned long long size = ZSTD_getFrameContentSize(map->data, map->bytes);
    PW_CHECK(size != ZSTD_CONTENTSIZE_ERROR, PW_E_FORMAT, "%s: not a Zstandard file", path);
    PW_CHECK(size != ZSTD_CONTENTSIZE_UNKNOWN, PW_E_FORMAT, "%s: the frame does not say its size", path);
    PW_CHECK(size <= limit, PW_E_FORMAT, "%s: unpacks to %llu bytes, the limit is %zu", path, size, limit);
    PW_CHECK(ZSTD_findFrameCompressedSize(map->data, map->bytes) == map->bytes, PW_E_FORMAT, "%s: is cut off, or goes on after its end", path);
    *tar = pw_arena_alloc(a, (size_t)size + 1);
    PW_CHECK(*tar, PW_E_NOMEM, "out of memory");
    *bytes = ZSTD_decompress(*tar, (size_t)size, map->data, map->bytes);
    PW_CHECK(!ZSTD_isError(*bytes), PW_E_FORMAT, "%s: %s", path, ZSTD_getErrorName(*bytes));
    return 0;
}

static int octal(const char *s, size_t n, unsigned long long *out)
{
    *out = 0;
    for (size_t i = 0; i < n && s[i] && s[i] != ' '; i++) {
        if (s[i] < '0' || s[i] > '7' || *out >> 60)
            return -1;
        *out = *out * 8 + (unsigned long long)(s[i] - '0');
    }
    return 0;
}

static bool all_zero(const char *p, size_t n)
{
    while (n > 0 && *p == 0)
        p++, n--;
    return n == 0;
}

int pw_archive_read(const char *path, size_t limit, struct pw_arena *a, struct pw_archive_file **files, size_t *n)
{
    struct pw_map map = {0};
    char *tar = NULL;
    size_t bytes = 0, at = 0, counted = 0;
    int rc = 0;
    PW_PASS_OUT(pw_map_open(&map, path));
    PW_CHECK_OUT(pw_limit_take(map.bytes), PW_E_NOMEM, "%s: no memory to read it", path);   /* its pages, which are all read */
    counted = map.bytes;
    PW_PASS_OUT(unpack(&map, path, limit, a, &tar, &bytes));
    *files = pw_arena_array(a, MAX_FILES, sizeof **files);
    PW_CHECK_OUT(*files, PW_E_NOMEM, "out of memory");
    *n = 0;
    for (;;) {
        struct header h;
        unsigned long long size, sum;
        PW_CHECK_OUT(bytes - at >= BLOCK, PW_E_FORMAT, "%s: the archive ends at byte %zu without its end mark", path, at);
        if (all_zero(tar + at, BLOCK)) {
            PW_CHECK_OUT(all_zero(tar + at, bytes - at), PW_E_FORMAT, "%s: bytes after the end mark", path);
            break;
        }
        memcpy(&h, tar + at, sizeof h);
        PW_CHECK_OUT(memcmp(h.magic, "ustar", 5) == 0, PW_E_FORMAT, "%s: no ustar header at byte %zu", path, at);
        PW_CHECK_OUT(octal(h.checksum, sizeof h.checksum, &sum) == 0 && sum == header_sum(&h), PW_E_FORMAT, "%s: header checksum is wrong at byte %zu",
                     path, at);
        PW_CHECK_OUT(h.type == '0' || h.type == 0, PW_E_FORMAT, "%s: entry at byte %zu is no regular file", path, at);
        PW_CHECK_OUT(h.name[sizeof h.name - 1] == 0 && h.prefix[0] == 0 && name_is_safe(h.name), PW_E_FORMAT, "%s: unsafe name at byte %zu", path, at);
        PW_CHECK_OUT(octal(h.size, sizeof h.size, &size) == 0 && size <= bytes - at - BLOCK, PW_E_FORMAT, "%s: %s goes beyond the archive", path, h.name);
        PW_CHECK_OUT(*n < MAX_FILES, PW_E_FORMAT, "%s: more than %d files", path, MAX_FILES);
        for (size_t i = 0; i < *n; i++)
            PW_CHECK_OUT(strcmp((*files)[i].name, h.name) != 0, PW_E_FORMAT, "%s: %s is there twice", path, h.name);
        struct pw_archive_file *f = &(*files)[(*n)++];
        f->name = pw_arena_strndup(a, h.name, strlen(h.name));
        PW_CHECK_OUT(f->name, PW_E_NOMEM, "out of memory");
        f->data = tar + at + BLOCK;
        f->bytes = (size_t)size;
        size_t whole = BLOCK + (size_t)size + (BLOCK - (size_t)size % BLOCK) % BLOCK;
        PW_CHECK_OUT(whole <= bytes - at, PW_E_FORMAT, "%s: %s goes beyond the archive", path, h.name);
        at += whole;
    }
out:
    pw_map_close(&map);
    pw_limit_count(-(int64_t)counted);
    return rc;
}
