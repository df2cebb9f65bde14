/* Devices and pools: opening a device by name, its scratch, copies to and from it, and pools of its memory.
 * Knows the backends by their op tables only. */
#include "kernels/dev.h"

#include <string.h>
#include <unistd.h>
#include "base/error.h"
#include "base/memory.h"
#include "kernels/backend.h"

static int count_processors(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > 1024 ? 1024 : (int)n;
}

int pw_dev_open(struct pw_dev **out, const struct pw_dev_options *opt)
{
    *out = NULL;
    const char *kind = opt && opt->kind && opt->kind[0] ? opt->kind : "cpu";
    const char *level = opt && opt->level ? opt->level : "";
    int threads = opt ? opt->threads : 0;
    PW_CHECK(threads >= 0 && threads <= 1024, PW_E_USAGE, "threads: expected 0 to 1024, got %d", threads);

    struct pw_dev *d = pw_alloc_zero(1, sizeof *d);
    PW_CHECK(d, PW_E_NOMEM, "no memory for a device handle");
    int rc = 0;
    d->host = true;
    d->threads = threads ? threads : count_processors();
    d->level = "";
    if (strcmp(kind, "cpu") == 0) {
        d->kind = "cpu";
        d->ops = &pw_cpu_ops;
        PW_TRY_OUT(pw_cpu_choose(d, level), "opening device cpu");
    } else if (strcmp(kind, "ref") == 0) {
        PW_CHECK_OUT(!level[0], PW_E_USAGE, "device ref has no instruction set levels, got \"%s\"", level);
        d->kind = "ref";
        d->ops = &pw_ref_ops;
    } else {
        PW_CHECK_OUT(false, PW_E_USAGE, "unknown device \"%s\": expected cpu or ref", kind);
    }
out:
    if (rc < 0) { pw_free(d); return rc; }
    *out = d;
    return 0;
}

void pw_dev_close(struct pw_dev *d)
{
    if (!d) return;
    pw_free(d->scratch);
    pw_free(d);
}

int pw_dev_reserve(struct pw_dev *d, size_t bytes)
{
    if (bytes <= d->scratch_bytes) return 0;
    void *p = pw_alloc(bytes);
    PW_CHECK(p, PW_E_NOMEM, "no memory for %zu bytes of scratch on device %s", bytes, d->kind);
    pw_free(d->scratch);
    d->scratch = p;
    d->scratch_bytes = bytes;
    return 0;
}

int pw_dev_put(struct pw_dev *d, void *device, const void *host, size_t bytes)
{
    PW_CHECK(d->host, PW_E_UNSUPPORTED, "device %s: no copy to it", d->kind);
    if (bytes && device != host) memmove(device, host, bytes);
    return 0;
}

int pw_dev_get(struct pw_dev *d, void *host, const void *device, size_t bytes) { return pw_dev_put(d, host, device, bytes); }

int pw_pool_open(struct pw_pool *p, struct pw_dev *d, size_t bytes, const char *name)
{
    memset(p, 0, sizeof *p);
    p->dev = d;
    p->name = name;
    bytes = pw_pool_round(bytes);
    p->base = pw_alloc_zero(bytes ? bytes : 64, 1);
    PW_CHECK(p->base, PW_E_NOMEM, "no memory for %zu bytes of %s", bytes, name);
    p->bytes = bytes;
    return 0;
}

void *pw_pool_take(struct pw_pool *p, size_t bytes)
{
    size_t left = p->bytes - p->used;
    if (bytes > left || pw_pool_round(bytes) > left) {
        (void)pw_error(PW_E_NOMEM, "%s: planned %zu bytes, %zu are used, %zu more wanted", p->name, p->bytes, p->used, bytes);
        return NULL;
    }
    void *at = p->base + p->used;
    p->used += pw_pool_round(bytes);
    return at;
}

void pw_pool_close(struct pw_pool *p)
{
    if (!p) return;
    pw_free(p->base);
    memset(p, 0, sizeof *p);
}
