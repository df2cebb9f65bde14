/* Devices and pools: opening a device by name, its scratch, copies to and from it, and pools of its memory.
 * Knows the backends by their rows only: two that are built in, and the plugins. */
#include "kernels/dev.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/error.h"
#include "base/memory.h"
#include "base/plugin.h"
#include "kernels/backend.h"

static int count_processors(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > 1024 ? 1024 : (int)n;
}

/* ---- host memory, for the backends that compute in it ---- */

int pw_host_take(struct pw_dev *d, void **out, size_t bytes)
{
    *out = pw_alloc_pages(bytes, d->threads);
    PW_CHECK(*out, PW_E_NOMEM, "device %s: no memory for %zu bytes", d->kind, bytes);
    return 0;
}
void pw_host_give(struct pw_dev *d, void *p) { (void)d; pw_free(p); }
int pw_host_move(struct pw_dev *d, void *to, const void *from, size_t bytes)
{
    (void)d;
    if (to != from) memmove(to, from, bytes);
    return 0;
}
int pw_host_transfer(struct pw_dev *d, int lane, void *to, const void *from, size_t bytes)
{
    (void)lane;
    return pw_host_move(d, to, from, bytes);
}
int pw_host_wait(struct pw_dev *d, int lane) { (void)d, (void)lane; return 0; }
int pw_host_sync(struct pw_dev *d) { (void)d; return 0; }
size_t pw_host_held(const struct pw_dev *d) { (void)d; return 0; }
int pw_host_memory(struct pw_dev *d, size_t *free_bytes, size_t *total_bytes)
{
    (void)d;
    *free_bytes = pw_memory_available();
    *total_bytes = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    return 0;
}

/* ---- plugins ---- */

/* driver: without it there can be no device, and the plugin is not loaded: it brings libraries of hundreds of megabytes, 0.2 s. */
static const struct { const char *kind, *file, *driver; } plugins[] = { { "cuda", "libpw_cuda.so", "libcuda.so.1" }, { "simt", "libpw_simt.so", NULL } };
enum { PLUGINS = sizeof plugins / sizeof *plugins };

/* A library stays loaded until the program ends: its threads and its driver's state outlive a device. */
static int load_plugin(const char *file, const struct pw_backend **out)
{
    void *symbol = NULL;
    PW_PASS(pw_plugin_symbol(&symbol, file, PW_PLUGIN_SYMBOL, false));
    pw_plugin_fn *backend = NULL;
    memcpy(&backend, &symbol, sizeof backend);
    *out = backend ? backend(PW_VERSION, sizeof(struct pw_backend)) : NULL;
    PW_CHECK(*out, PW_E_REFUSED, "%s belongs to another build of this program", file);
    return 0;
}

/* ---- open, close ---- */

/* "cuda:1" is kind "cuda", index 1. */
static int find_backend(const char *kind, const struct pw_backend **out, int *index)
{
    size_t n = strcspn(kind, ":");
    *index = -1;
    *out = NULL;
    if (strcmp(kind, "cpu") == 0) *out = &pw_cpu_backend;
    else if (strcmp(kind, "ref") == 0) *out = &pw_ref_backend;
    if (*out) return 0;
    for (int i = 0; i < PLUGINS; i++) {
        if (strlen(plugins[i].kind) != n || strncmp(kind, plugins[i].kind, n) != 0) continue;
        if (kind[n]) {
            char *end;
            long k = strtol(kind + n + 1, &end, 10);
            PW_CHECK(strcmp(plugins[i].kind, "cuda") == 0, PW_E_USAGE, "device \"%s\": expected %s, which takes no number: there is one", kind, plugins[i].kind);
            PW_CHECK(kind[n + 1] >= '0' && kind[n + 1] <= '9' && !*end && k < 1024, PW_E_USAGE,
                     "device \"%s\": expected a number after cuda:", kind);
            *index = (int)k;
        }
        PW_CHECK(!plugins[i].driver || pw_library_is_there(plugins[i].driver), PW_E_REFUSED, "opening device %s: there is no NVIDIA driver on this machine", kind);
        PW_TRY(load_plugin(plugins[i].file, out), "opening device %s", kind);
        return 0;
    }
    return pw_error(PW_E_USAGE, "unknown device \"%s\": expected cpu, ref, cuda, cuda:N or simt", kind);
}

int pw_dev_open(struct pw_dev **out, const struct pw_dev_options *opt)
{
    *out = NULL;
    const struct pw_dev_options o = { .kind = opt && opt->kind && opt->kind[0] ? opt->kind : "cpu", .threads = opt ? opt->threads : 0,
                                      .level = opt && opt->level ? opt->level : "", .products = opt ? opt->products : PW_F32,
                                      .many_rows = opt && opt->many_rows };
    int index = -1, rc = 0;
    PW_CHECK(o.threads >= 0 && o.threads <= 1024, PW_E_USAGE, "threads: expected 0 to 1024, got %d", o.threads);
    struct pw_dev *d = pw_alloc_zero(1, sizeof *d);
    PW_CHECK(d, PW_E_NOMEM, "no memory for a device handle");
    PW_PASS_OUT(find_backend(o.kind, &d->backend, &index));
    d->kind = d->backend->kind;
    d->ops = d->backend->ops;
    d->threads = o.threads ? o.threads : count_processors();
    d->level = "";
    d->act = d->products = PW_F32;
    PW_TRY_OUT(d->backend->open(d, &o, index), "opening device %s", o.kind);
    if (d->act == PW_BF16) d->products = PW_BF16;
out:
    if (rc < 0) { pw_free(d); return rc; }
    *out = d;
    return 0;
}

void pw_dev_close(struct pw_dev *d)
{
    if (!d) return;
    d->backend->give(d, d->scratch);
    d->backend->close(d);
    pw_free(d);
}

void pw_dev_unreserve(struct pw_dev *d)
{
    d->backend->give(d, d->scratch);
    d->scratch = NULL;
    d->scratch_bytes = 0;
}

int pw_dev_reserve(struct pw_dev *d, size_t bytes)
{
    if (bytes <= d->scratch_bytes) return 0;
    pw_dev_unreserve(d);             /* first: the old and the new are never there at once, and no plan counts both */
    PW_TRY(d->backend->take(d, &d->scratch, bytes), "reserving scratch");
    d->scratch_bytes = bytes;
    return 0;
}

int pw_dev_put(struct pw_dev *d, void *device, const void *host, size_t bytes) { return bytes ? d->backend->put(d, device, host, bytes) : 0; }
int pw_dev_get(struct pw_dev *d, void *host, const void *device, size_t bytes) { return bytes ? d->backend->get(d, host, device, bytes) : 0; }
int pw_dev_sync(struct pw_dev *d) { return d->backend->sync(d); }
int pw_dev_memory(struct pw_dev *d, size_t *free_bytes, size_t *total_bytes) { return d->backend->memory(d, free_bytes, total_bytes); }
size_t pw_dev_held(const struct pw_dev *d) { return d->backend->held(d); }

int pw_dev_send(struct pw_dev *d, int lane, void *host, const void *device, size_t bytes) { return d->backend->send(d, lane, host, device, bytes); }
int pw_dev_bring(struct pw_dev *d, int lane, void *device, const void *host, size_t bytes) { return d->backend->bring(d, lane, device, host, bytes); }
int pw_dev_wait(struct pw_dev *d, int lane) { return d->backend->wait(d, lane); }
int pw_dev_pinned(struct pw_dev *d, void **out, size_t bytes) { return d->backend->take_pinned(d, out, bytes ? bytes : 64); }
void pw_dev_pinned_free(struct pw_dev *d, void *p) { if (p) d->backend->give_pinned(d, p); }

bool pw_dev_captures(const struct pw_dev *d) { return d->backend->capture != NULL; }
int pw_dev_capture(struct pw_dev *d)
{
    PW_CHECK(pw_dev_captures(d), PW_E_UNSUPPORTED, "device %s captures no steps", d->kind);
    return d->backend->capture(d);
}
int pw_dev_captured(struct pw_dev *d, void **graph) { return d->backend->captured(d, graph); }
int pw_dev_replay(struct pw_dev *d, void *graph) { return d->backend->replay(d, graph); }
void pw_dev_graph_free(struct pw_dev *d, void *graph) { if (graph) d->backend->forget(d, graph); }

void pw_dev_peers_look(struct pw_dev *d, struct pw_peers_look *out)
{
    memset(out, 0, sizeof *out);
    if (d->backend->peers_look) d->backend->peers_look(d, out);
    else snprintf(out->why, sizeof out->why, "device %s has no library for it", d->kind);
}
int pw_dev_peers_id(struct pw_dev *d, char id[PW_PEERS_ID]) { return d->backend->peers_id(d, id); }
int pw_dev_peers_join(struct pw_dev *d, const char id[PW_PEERS_ID], int rank, int size, struct pw_waits w) { return d->backend->peers_join(d, id, rank, size, w); }
int pw_dev_peers_sum(struct pw_dev *d, float *data, size_t n, struct pw_waits w) { return n ? d->backend->peers_sum(d, data, n, w) : 0; }
void pw_dev_peers_leave(struct pw_dev *d, bool together, struct pw_waits w)
{
    if (d->backend->peers_leave) d->backend->peers_leave(d, together, w);
}

/* ---- pools ---- */

int pw_pool_open(struct pw_pool *p, struct pw_dev *d, size_t bytes, const char *name)
{
    memset(p, 0, sizeof *p);
    p->dev = d;
    p->name = name;
    bytes = pw_pool_round(bytes);
    void *base = NULL;
    PW_TRY(d->backend->take(d, &base, bytes ? bytes : 64), "taking %zu bytes for %s", bytes, name);
    p->base = base;
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
    if (p->base) p->dev->backend->give(p->dev, p->base);
    memset(p, 0, sizeof *p);
}
