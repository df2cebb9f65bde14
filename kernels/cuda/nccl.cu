/* See nccl.h. The communicator is a non-blocking one: a call returns at once, and is asked about until it is through, so that a process which waits for one
 * that is gone can end the wait (ncclCommAbort also ends what of it runs on the card). Sums are queued on the stream of the ops.
 *
 * The few declarations are those of nccl.h as of 2.18, the layout that every later library takes; where the header is there, the compiler compares. */
#include "kernels/cuda/nccl.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "base/memory.h"
#include "kernels/cuda/runtime.h"

enum { OLDEST = 21800 };              /* non-blocking communicators that can be aborted; the configuration below */
enum { SUCCESS = 0, IN_PROGRESS = 7 };
enum { FLOAT32 = 7, SUM = 0 };
enum { UNDEFINED = INT_MIN };
enum { WARM_UP = 4 << 20 };           /* floats; see warm_up */
struct unique_id { char internal[PW_PEERS_ID]; };
struct config { size_t size; unsigned magic, version; int blocking, clusters, min_blocks, max_blocks; const char *net; int split_share, later; };

struct calls {
    int (*version)(int *);
    int (*unique_id)(struct unique_id *);
    int (*init)(void **comm, int size, struct unique_id, int rank, struct config *);
    int (*all_reduce)(const void *from, void *to, size_t n, int type, int op, void *comm, simt_stream);
    int (*state)(void *comm, int *state);
    int (*finalize)(void *comm);
    int (*destroy)(void *comm);
    int (*abort)(void *comm);
    const char *(*text)(int);
    const char *(*last)(void *comm);
    int (*busy)(void);                /* of the emulation alone */
};
struct nccl { void *comm; int size; };

/* ---- what differs between a card and the emulation ---- */

#if defined(__CUDACC__)
static const char *file_name() { return "libnccl.so.2"; }
static const char *extra_call() { return NULL; }
static void touch(bool) {}
static int card_of(struct pw_dev *dev, char *name, size_t room) { return cudaDeviceGetPCIBusId(name, (int)room, cuda_of(dev)->card) == cudaSuccess ? 0 : -1; }
static simt_error query(const struct calls *, simt_stream s) { return rt_query(s); }

#if __has_include(<nccl.h>)
#include <nccl.h>
template <class A, class B> constexpr bool same = false;
template <class A> constexpr bool same<A, A> = true;
static_assert(sizeof(ncclUniqueId) == sizeof(struct unique_id), "an id");
static_assert((int)ncclSuccess == (int)SUCCESS && (int)ncclInProgress == (int)IN_PROGRESS, "states");
static_assert((int)ncclFloat32 == (int)FLOAT32 && (int)ncclSum == (int)SUM, "types and operations");
static_assert((int)NCCL_CONFIG_UNDEF_INT == (int)UNDEFINED, "what is left to the library");
static_assert(NCCL_VERSION(2, 18, 0) == OLDEST, "versions");
static_assert(offsetof(ncclConfig_t, size) == offsetof(struct config, size) && offsetof(ncclConfig_t, magic) == offsetof(struct config, magic) && offsetof(ncclConfig_t, version) == offsetof(struct config, version) &&
              offsetof(ncclConfig_t, blocking) == offsetof(struct config, blocking) && offsetof(ncclConfig_t, netName) == offsetof(struct config, net) &&
              offsetof(ncclConfig_t, splitShare) == offsetof(struct config, split_share) && sizeof(ncclConfig_t) >= sizeof(struct config), "the configuration");
static_assert(same<decltype(&ncclGetVersion), ncclResult_t (*)(int *)>, "ncclGetVersion");
static_assert(same<decltype(&ncclGetUniqueId), ncclResult_t (*)(ncclUniqueId *)>, "ncclGetUniqueId");
static_assert(same<decltype(&ncclCommInitRankConfig), ncclResult_t (*)(ncclComm_t *, int, ncclUniqueId, int, ncclConfig_t *)>, "ncclCommInitRankConfig");
static_assert(same<decltype(&ncclAllReduce), ncclResult_t (*)(const void *, void *, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t)>, "ncclAllReduce");
static_assert(same<decltype(&ncclCommGetAsyncError), ncclResult_t (*)(ncclComm_t, ncclResult_t *)>, "ncclCommGetAsyncError");
static_assert(same<decltype(&ncclCommFinalize), ncclResult_t (*)(ncclComm_t)> && same<decltype(&ncclCommDestroy), ncclResult_t (*)(ncclComm_t)> &&
              same<decltype(&ncclCommAbort), ncclResult_t (*)(ncclComm_t)>, "the ends");
static_assert(sizeof(ncclResult_t) == sizeof(int) && sizeof(ncclDataType_t) == sizeof(int) && sizeof(ncclRedOp_t) == sizeof(int), "enumerations are passed as int");
#endif
#else
static char emulated[1024];
static bool one_card;
bool nccl_emulate(const char *text)
{
    static const char *const names[] = {"nccl:", "nccl-one-card:"};
    emulated[0] = 0;
    for (int i = 0; i < 2; i++) {
        const size_t n = strlen(names[i]);
        if (strncmp(text, names[i], n) != 0 || strlen(text + n) >= sizeof emulated || !text[n]) continue;
        snprintf(emulated, sizeof emulated, "%s", text + n);
        one_card = i == 1;
    }
    return emulated[0] != 0;
}
static const char *file_name() { return emulated; }
static const char *extra_call() { return "nccl_emulated_busy"; }
static void touch(bool may) { may ? simt_memory_open() : simt_memory_close(); }
static int card_of(struct pw_dev *, char *name, size_t room)
{
    snprintf(name, room, "emulated card %ld", one_card ? 0L : (long)getpid());
    return 0;
}
static simt_error query(const struct calls *c, simt_stream) { return simt_faults_lost() ? SIMT_E_LOST : c->busy() ? RT_NOT_READY : 0; }
#endif

/* ---- the library ---- */

static void version_text(char out[24], int version)
{
    const int major = version < 10000 ? 1000 : 10000; /* before 2.9 versions were four digits */
    snprintf(out, 24, "nccl %d.%d.%d", version / major, version % major / 100, version % 100);
}

/* It stays open until the program ends: it has threads of its own. */
static int open_library(struct calls *c, int *version, char *why, size_t room)
{
    static const char *const names[] = {"ncclGetVersion", "ncclGetUniqueId", "ncclCommInitRankConfig", "ncclAllReduce", "ncclCommGetAsyncError", "ncclCommFinalize", "ncclCommDestroy", "ncclCommAbort",
                                        "ncclGetErrorString", "ncclGetLastError"};
    enum { CALLS = sizeof names / sizeof *names };
    static_assert(sizeof(struct calls) == (CALLS + 1) * sizeof(void *), "a name for each call");
    void *symbols[CALLS + 1] = {}, *library = NULL;
    int rc = 0;
    *version = 0;
    if (!file_name()[0]) return snprintf(why, room, "the emulated device has no NCCL"), -1;
    library = dlopen(file_name(), RTLD_NOW | RTLD_LOCAL);
    if (!library) return snprintf(why, room, "%s", dlerror()), -1;
    for (int i = 0; i < CALLS + 1; i++) {
        const char *name = i < CALLS ? names[i] : extra_call();
        if (name && !(symbols[i] = dlsym(library, name))) return snprintf(why, room, "%.150s has no %s", file_name(), name), -1;
    }
    memcpy(c, symbols, sizeof *c);
    rc = c->version(version);
    if (rc != SUCCESS) snprintf(why, room, "%.150s does not say its version: %.60s", file_name(), c->text(rc));
    else if (*version < OLDEST) {
        char text[24];
        version_text(text, *version);
        snprintf(why, room, "%s is older than 2.18", text);
    }
    return rc == SUCCESS && *version >= OLDEST ? 0 : -1;
}

static struct calls calls; /* of this process: filled by the first look that finds it */

void nccl_look(struct pw_dev *dev, struct pw_peers_look *out)
{
    int version = 0;
    memset(out, 0, sizeof *out);
    if (open_library(&calls, &version, out->why, sizeof out->why) < 0) return;
    if (card_of(dev, out->card, sizeof out->card) < 0) {
        snprintf(out->why, sizeof out->why, "the card does not say which one it is");
        return;
    }
    out->version = version;
    version_text(out->library, version);
}

static struct nccl *nccl_of(struct pw_dev *dev) { return (struct nccl *)cuda_of(dev)->nccl; }

static int failed(struct pw_dev *dev, const char *what, int code)
{
    const struct nccl *n = nccl_of(dev);
    const char *last = n && n->comm ? calls.last(n->comm) : NULL;
    const int line = last ? (int)strcspn(last, "\n") : 0;
    return pw_error(PW_E_FAIL, "device %s: NCCL: %s: %s%s%.*s", dev->kind, what, calls.text(code), line ? ": " : "", line, line ? last : "");
}

/* Until the library is through with the last call; `queued`: and the stream with what it queued there, which is not to be asked before all of it is there. */
static int settle(struct pw_dev *dev, const char *what, bool queued, struct pw_waits w)
{
    bool all_there = false;
    for (long asked = 0;; asked++) {
        simt_error e = RT_NOT_READY;
        int state = SUCCESS;
        touch(true);
        if (queued && all_there) e = query(&calls, cuda_of(dev)->stream);
        const int code = calls.state(nccl_of(dev)->comm, &state); /* after the stream: what ended it early is known by now */
        touch(false);
        if (code != SUCCESS) return failed(dev, what, code);
        if (state != SUCCESS && state != IN_PROGRESS) return failed(dev, what, state);
        if (e != 0 && e != RT_NOT_READY) return pw_error(PW_E_FAIL, "device %s: %s: %s", dev->kind, what, rt_error_text(e));
        if (state == SUCCESS && (!queued || e == 0)) return 0;
        if (state == SUCCESS && !all_there) {
            all_there = true;
            continue;
        }
        PW_PASS(w.ask(w.ctx, asked));
    }
}

int nccl_id(struct pw_dev *dev, char id[PW_PEERS_ID])
{
    struct unique_id made = {};
    const int code = calls.unique_id(&made);
    if (code != SUCCESS) return failed(dev, "making an id", code);
    memcpy(id, &made, sizeof made);
    return 0;
}

static int sum(struct pw_dev *dev, float *data, size_t n, struct pw_waits w)
{
    touch(true);
    const int code = calls.all_reduce(data, data, n, FLOAT32, SUM, nccl_of(dev)->comm, cuda_of(dev)->stream);
    touch(false);
    if (code != SUCCESS && code != IN_PROGRESS) return failed(dev, "summing", code);
    return settle(dev, "summing", true, w);
}

/* Connections and kernels are made by the first sum that needs them, and which does depends on its size: one that is small and one that is large, so that
 * what they take is held before memory is planned. (A size between that takes a third way takes its own later: the plan does not know.) */
static int warm_up(struct pw_dev *dev, struct pw_waits w)
{
    static const size_t counts[] = {256, WARM_UP};
    const float one = 1;
    struct pw_pool pool;
    int rc = 0;
    PW_PASS(pw_pool_open(&pool, dev, WARM_UP * sizeof(float), "a first sum over ranks"));
    float *data = (float *)pool.base;
    for (size_t i = 0; i < 2; i++) {
        float first = 0, last = 0;
        PW_PASS_OUT(pw_dev_put(dev, data, &one, sizeof one));
        PW_PASS_OUT(pw_dev_put(dev, data + counts[i] - 1, &one, sizeof one));
        PW_PASS_OUT(sum(dev, data, counts[i], w));
        PW_PASS_OUT(pw_dev_get(dev, &first, data, sizeof first));
        PW_PASS_OUT(pw_dev_get(dev, &last, data + counts[i] - 1, sizeof last));
        PW_CHECK_OUT(first == (float)nccl_of(dev)->size && last == first, PW_E_FAIL, "device %s: NCCL: a first sum of ones over %d ranks is %g and %g", dev->kind, nccl_of(dev)->size, (double)first, (double)last);
    }
out:
    pw_pool_close(&pool);
    return rc;
}

static int join(struct pw_dev *dev, const struct unique_id *id, int rank, struct pw_waits w)
{
    struct config config = {sizeof config, 0xcafebeef, OLDEST, 0, UNDEFINED, UNDEFINED, UNDEFINED, NULL, UNDEFINED, UNDEFINED};
    struct nccl *n = nccl_of(dev);
    size_t free_before = 0, free_after = 0, total = 0;
    PW_PASS(pw_dev_memory(dev, &free_before, &total));
    const int code = calls.init(&n->comm, n->size, *id, rank, &config);
    if (code != SUCCESS && code != IN_PROGRESS) return failed(dev, "joining", code);
    PW_PASS(settle(dev, "joining", false, w));
    PW_PASS(warm_up(dev, w));
    PW_PASS(pw_dev_memory(dev, &free_after, &total));
#if defined(__CUDACC__)               /* in the emulation memory is the machine's: what others do with it is no library's */
    if (free_after < free_before) cuda_of(dev)->held += free_before - free_after;
#endif
    return 0;
}

int nccl_join(struct pw_dev *dev, const char id[PW_PEERS_ID], int rank, int size, struct pw_waits w)
{
    struct unique_id made;
    PW_CHECK(!nccl_of(dev), PW_E_FAIL, "device %s has joined its peers already", dev->kind);
    struct nccl *n = (struct nccl *)pw_alloc_zero(1, sizeof *n);
    PW_CHECK(n, PW_E_NOMEM, "no memory for a communicator");
    memcpy(&made, id, sizeof made);
    n->size = size;
    cuda_of(dev)->nccl = n;
    const int rc = join(dev, &made, rank, w);
    if (rc < 0) nccl_leave(dev, false, w);
    return rc;
}

int nccl_sum(struct pw_dev *dev, float *data, size_t n, struct pw_waits w)
{
    PW_CHECK(nccl_of(dev), PW_E_FAIL, "device %s has no peers", dev->kind);
    PW_CHECK(!cuda_of(dev)->capturing, PW_E_FAIL, "device %s: a sum over ranks inside of a step that is being captured", dev->kind);
    const int rc = sum(dev, data, n, w);
    if (rc < 0) nccl_leave(dev, false, w);
    return rc;
}

/* Keeps the error that led here. */
void nccl_leave(struct pw_dev *dev, bool together, struct pw_waits w)
{
    struct nccl *n = nccl_of(dev);
    if (!n) return;
    if (together && n->comm) {
        const int code = calls.finalize(n->comm);
        together = (code == SUCCESS || code == IN_PROGRESS) && settle(dev, "leaving", false, w) == 0;
        if (!together) pw_error_clear();
    }
    if (n->comm) (void)(together ? calls.destroy(n->comm) : calls.abort(n->comm));
    pw_free(n);
    cuda_of(dev)->nccl = NULL;
}
