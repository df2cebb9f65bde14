/* The plugin: opening a card (or the emulation), its memory, its errors, and the row that the program asks for. Computes nothing. */
#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <string.h>
#include "base/memory.h"
#include "kernels/cuda/attn_cudnn.h"
#include "kernels/cuda/attn_library.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/nccl.h"
#include "kernels/cuda/runtime.h"

#define PW_OP(name, params, args) .name = cuda_##name,
static const struct pw_ops ops = {
#include "kernels/ops.def"
};
#undef PW_OP

/* ---- errors ---- */

/* A lost card says so to whoever asks next, and not which op it died of: that is one of those queued since the last wait. */
static int lost(struct pw_dev *dev, int rc)
{
    struct cuda_impl *impl = cuda_of(dev);
    if (impl->capturing || !rt_lost(impl->stream)) return rc; /* a stream that is captured may not be asked */
    if (impl->queued > 0) (void)pw_error(rc, "%s: the card is lost to this process; launches queued since it last answered: %lld, the last of them by %s", pw_error_text(), (long long)impl->queued, impl->last);
    else (void)pw_error(rc, "%s: the card is lost to this process", pw_error_text());
    pw_error_hint("with CUDA_LAUNCH_BLOCKING=1 in the environment the op that fails says so itself");
    return rc;
}

int cuda_launched(struct pw_dev *dev, const char *op, simt_error e)
{
    struct cuda_impl *impl = cuda_of(dev);
    impl->hooks.launches++;
    if (e != 0) return lost(dev, pw_error(e == RT_NO_MEMORY ? PW_E_NOMEM : PW_E_FAIL, "%s: launch on device %s failed: %s", op, dev->kind, rt_error_text(e)));
    impl->last = op;
    impl->queued++;
    return 0;
}

static int failed(struct pw_dev *dev, const char *what, simt_error e)
{
    if (e == 0) return 0;
    return lost(dev, pw_error(PW_E_FAIL, "device %s: %s: %s", dev->kind, what, rt_error_text(e)));
}

/* What a kernel reported, as an error; the report is taken back. */
static int look_at_status(struct pw_dev *dev)
{
    static const char *const what[] = {
        "", "embed: ids", "rope: pos", "head_loss: targets", "scatter_rows, gather_rows: rows", "encode: x", "route: chosen", "combine: places",
    };
    struct cuda_status s = *cuda_of(dev)->status;
    if (s.fault == CUDA_FAULT_NONE) return 0;
    memset(cuda_of(dev)->status, 0, sizeof s);
    if (s.fault == CUDA_FAULT_NOT_FINITE) return pw_error(PW_E_NUMERIC, "encode: x: element %lld is not finite", (long long)s.index);
    if (s.fault == CUDA_FAULT_LOGIT) return pw_error(PW_E_NUMERIC, "sample: logits[%d]: logit of token %lld is not a number", s.value, (long long)s.index);
    if (s.fault == CUDA_FAULT_NO_LOGIT) return pw_error(PW_E_NUMERIC, "sample: logits[%d]: no token has a finite logit", s.value);
    return pw_error(PW_E_FAIL, "%s[%lld]: expected 0 to %lld, got %d", what[s.fault], (long long)s.index, (long long)s.limit - 1, s.value);
}

/* Between the beginning and the end of a captured step only ops may be called: a transfer would happen once, at its time, or not at all. */
static int not_capturing(struct pw_dev *dev, const char *what)
{
    PW_CHECK(!cuda_of(dev)->capturing, PW_E_FAIL, "device %s: %s inside of a step that is being captured", dev->kind, what);
    return 0;
}

/* ---- memory ---- */

static struct rt_lanes *lanes_of(struct pw_dev *dev) { return (struct rt_lanes *)cuda_of(dev)->lanes; }

static int take(struct pw_dev *dev, void **out, size_t bytes)
{
    PW_PASS(not_capturing(dev, "taking memory"));
    *out = NULL;
    simt_error e = rt_malloc(out, bytes);
    if (e != 0) return lost(dev, pw_error(e == RT_NO_MEMORY ? PW_E_NOMEM : PW_E_FAIL, "device %s: no memory for %zu bytes: %s", dev->kind, bytes, rt_error_text(e)));
    return failed(dev, "clearing memory", rt_clear(*out, bytes, cuda_of(dev)->stream));
}
static void give(struct pw_dev *dev, void *p)
{
    if (!p) return;
    rt_lanes_drain(lanes_of(dev));
    (void)rt_free(p);
}
static int put(struct pw_dev *dev, void *device, const void *host, size_t bytes)
{
    PW_PASS(not_capturing(dev, "a copy"));
    return failed(dev, "copy to the device", rt_put(device, host, bytes, cuda_of(dev)->stream));
}
static int sync(struct pw_dev *dev)
{
    PW_PASS(not_capturing(dev, "waiting"));
    PW_PASS(failed(dev, "work on the device", rt_sync(cuda_of(dev)->stream)));
    cuda_of(dev)->queued = 0;
    return look_at_status(dev);
}
static int get(struct pw_dev *dev, void *host, const void *device, size_t bytes)
{
    PW_PASS(not_capturing(dev, "a copy"));
    PW_PASS(failed(dev, "copy from the device", rt_get(host, device, bytes, cuda_of(dev)->stream)));
    return sync(dev);
}
static int memory(struct pw_dev *dev, size_t *free_bytes, size_t *total) { return failed(dev, "asking for its memory", rt_memory(free_bytes, total)); }
static size_t held(const struct pw_dev *dev) { return cuda_of(dev)->held; }

/* ---- transfers beside the ops ---- */

static_assert((int)RT_LANES == (int)PW_LANES, "the lanes of the runtime are those of the device");
static int take_pinned(struct pw_dev *dev, void **out, size_t bytes)
{
    const simt_error e = rt_pinned(out, bytes);
    if (e == RT_NO_MEMORY) return pw_error(PW_E_NOMEM, "device %s: no pinned memory of the host for %zu bytes", dev->kind, bytes);
    PW_PASS(failed(dev, "pinned memory", e));
    memset(*out, 0, bytes);
    return 0;
}
static void give_pinned(struct pw_dev *dev, void *p)
{
    rt_lanes_drain(lanes_of(dev));
    (void)rt_pinned_free(p);
}
static int send(struct pw_dev *dev, int lane, void *host, const void *device, size_t bytes)
{
    PW_PASS(not_capturing(dev, "a transfer"));
    return failed(dev, "transfer to the host", rt_transfer(lanes_of(dev), lane, host, device, bytes, true, cuda_of(dev)->stream));
}
static int bring(struct pw_dev *dev, int lane, void *device, const void *host, size_t bytes)
{
    PW_PASS(not_capturing(dev, "a transfer"));
    return failed(dev, "transfer from the host", rt_transfer(lanes_of(dev), lane, device, host, bytes, false, cuda_of(dev)->stream));
}
static int wait(struct pw_dev *dev, int lane)
{
    PW_PASS(not_capturing(dev, "waiting"));
    return failed(dev, "transfer", rt_wait(lanes_of(dev), lane, cuda_of(dev)->stream));
}

/* ---- captured steps ---- */

static int capture(struct pw_dev *dev)
{
    PW_PASS(not_capturing(dev, "a capture"));
    PW_PASS(failed(dev, "capturing a step", rt_capture_begin(cuda_of(dev)->stream)));
    cuda_of(dev)->capturing = true;
    return 0;
}
static int captured(struct pw_dev *dev, void **graph)
{
    PW_CHECK(cuda_of(dev)->capturing, PW_E_FAIL, "device %s: no step is being captured", dev->kind);
    cuda_of(dev)->capturing = false;
    return failed(dev, "capturing a step", rt_capture_end(graph, cuda_of(dev)->stream));
}
static int replay(struct pw_dev *dev, void *graph)
{
    PW_PASS(not_capturing(dev, "a replay"));
    return failed(dev, "running a captured step", rt_replay(graph, cuda_of(dev)->stream));
}
static void forget(struct pw_dev *dev, void *graph) { (void)dev, rt_graph_free(graph); }

/* ---- choices ---- */

/* A library that is first used now loads its kernels: what the card has less of after that counts as held from the first. */
static int in_use(struct pw_dev *dev, size_t *bytes)
{
    size_t free_bytes = 0, total = 0;
    *bytes = 0;
    if (cuda_of(dev)->card >= 0) PW_PASS(memory(dev, &free_bytes, &total));
    *bytes = total - free_bytes;
    return 0;
}
static int hold_more(struct pw_dev *dev, size_t before)
{
    size_t after = 0;
    PW_PASS(in_use(dev, &after));
    if (after > before) cuda_of(dev)->held += after - before;
    return 0;
}
static int choose(struct pw_dev *dev, const struct pw_choice *list, size_t n, const struct pw_attn_choice *attn, size_t n_attn)
{
    size_t before = 0;
    cuda_of(dev)->choices = list;
    cuda_of(dev)->n_choices = n;
    PW_PASS(in_use(dev, &before));
    PW_PASS(attn_library_use(dev, attn, n_attn));
    return hold_more(dev, before);
}
static int64_t library_version(struct pw_dev *dev) { return sdpa_version(cuda_of(dev)->sdpa, NULL); }
static int library_plan(struct pw_dev *dev, const struct pw_attn_shape *shape, bool *there)
{
    size_t before = 0;
    PW_PASS(in_use(dev, &before));
    PW_PASS(attn_library_ready(dev, shape, there));
    return hold_more(dev, before);
}
static int64_t driver_version(struct pw_dev *dev) { return (void)dev, rt_driver(); }

/* ---- open, close ---- */

#if defined(__CUDACC__)
static int open_card(struct pw_dev *dev, struct cuda_impl *impl, const struct pw_dev_options *opt, int index)
{
    int n = 0, driver = 0;
    (void)opt;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e == cudaErrorInsufficientDriver) {
        (void)cudaDriverGetVersion(&driver);
        PW_CHECK(driver > 0, PW_E_REFUSED, "there is no NVIDIA driver on this machine");
        return pw_error(PW_E_REFUSED, "the driver is too old: it serves CUDA %d.%d, this program needs %d.%d", driver / 1000, driver % 1000 / 10,
                        CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    }
    PW_CHECK(e == cudaSuccess && n > 0, PW_E_REFUSED, "no card was found: %s", e == cudaSuccess ? "the driver lists none" : cudaGetErrorString(e));
    impl->card = index < 0 ? 0 : index;
    PW_CHECK(impl->card < n, PW_E_REFUSED, "there is no card %d: the driver lists %d", impl->card, n);
    struct cudaDeviceProp prop;
    PW_PASS(failed(dev, "choosing the card", cudaSetDevice(impl->card)));
    PW_PASS(failed(dev, "asking for its properties", cudaGetDeviceProperties(&prop, impl->card)));
    PW_CHECK(prop.major >= 8, PW_E_REFUSED, "%s has compute capability %d.%d, expected 8.0 or more (bf16 on tensor cores)", prop.name, prop.major, prop.minor);
    snprintf(impl->name, sizeof impl->name, "%s", prop.name);
    impl->processors = prop.multiProcessorCount;
    impl->shared_limit = prop.sharedMemPerBlockOptin;
    PW_PASS(failed(dev, "making a stream", cudaStreamCreateWithFlags(&impl->stream, cudaStreamNonBlocking)));
    return 0;
}
static void close_card(struct cuda_impl *impl)
{
    if (impl->stream) (void)cudaStreamDestroy(impl->stream);
}
#define KIND "cuda"
#else
/* The level is the order of threads and, after a comma, the fault that a test asks for (kernels/simt/faults.h), or a library in the place of NCCL
 * (kernels/cuda/nccl.h). Only the order names the device: what a
 * run computes before its fault is what it computes without. */
static int open_card(struct pw_dev *dev, struct cuda_impl *impl, const struct pw_dev_options *opt, int index)
{
    (void)index;
    const size_t order = strcspn(opt->level, ","), all = strlen(opt->level), fault = order < all ? order + 1 : all;
    PW_CHECK(order < sizeof impl->name, PW_E_USAGE, "simt has no schedule of so long a name");
    memcpy(impl->name, opt->level, order);
    PW_CHECK(simt_schedule(impl->name), PW_E_USAGE, "simt has no schedule \"%s\": expected forward, reverse or random:SEED", impl->name);
    const bool library = nccl_emulate(opt->level + fault);
    PW_CHECK(simt_faults_set(opt->level + fault, library ? 0 : all - fault), PW_E_USAGE, "simt has no fault \"%s\": expected memory:N, launch:N, lost:N, nan:N or nccl:FILE", opt->level + fault);
    simt_threads(dev->threads);
    impl->card = -1;
    impl->processors = 4;
    impl->shared_limit = SIMT_SMEM_MAX;
    return 0;
}
static void close_card(struct cuda_impl *impl) { (void)impl; }
#define KIND "simt"
#endif

static void close_device(struct pw_dev *dev)
{
    struct cuda_impl *impl = cuda_of(dev);
    if (!impl) return;
    nccl_leave(dev, false, {});
    if (impl->lanes) rt_lanes_close(lanes_of(dev));
    pw_free(impl->lanes);
    sdpa_free(impl->sdpa);
    gemm_close(impl->gemm);
    close_card(impl);
    if (impl->sums) (void)rt_free(impl->sums);
    if (impl->status) (void)rt_pinned_free(impl->status);
    pw_free(impl);
    dev->impl = NULL;
}

static int open_device(struct pw_dev *dev, const struct pw_dev_options *opt, int index)
{
    struct cuda_impl *impl = (struct cuda_impl *)pw_alloc_zero(1, sizeof *impl);
    int rc = 0;
    void *status = NULL, *sums = NULL;
    PW_CHECK(impl, PW_E_NOMEM, "no memory for a device handle");
    dev->impl = impl;
    dev->host = false;
    dev->act = PW_BF16;
    dev->level = impl->name;
    impl->hooks = {CUDA_LINEAR_AUTO, 64u << 20, 0, CUDA_ATTN_AUTO, 1024, 4096};
    PW_PASS_OUT(open_card(dev, impl, opt, index));
    PW_PASS_OUT(gemm_open(&impl->gemm, dev->kind));
    impl->sdpa = sdpa_new(dev->kind);
    PW_CHECK_OUT(impl->sdpa, PW_E_NOMEM, "no memory for a device handle");
    PW_PASS_OUT(failed(dev, "pinned memory", rt_pinned(&status, sizeof *impl->status)));
    impl->lanes = pw_alloc_zero(1, sizeof(struct rt_lanes));
    PW_CHECK_OUT(impl->lanes, PW_E_NOMEM, "no memory for a device handle");
    PW_PASS_OUT(failed(dev, "opening lanes for transfers", rt_lanes_open(lanes_of(dev))));
    impl->status = (struct cuda_status *)status;
    memset(status, 0, sizeof *impl->status);
    {
        const simt_error e = rt_malloc(&sums, CUDA_SUMS * sizeof(double));
        PW_CHECK_OUT(e != RT_NO_MEMORY, PW_E_REFUSED, "there is no memory left on it");
        PW_PASS_OUT(failed(dev, "memory for sums", e));
    }
    impl->sums = (double *)sums;
    {
        size_t free_bytes = 0, total = 0;
        PW_PASS_OUT(memory(dev, &free_bytes, &total));
        impl->held = total - free_bytes;
    }
out:
    if (rc < 0) close_device(dev);
    return rc;
}

static size_t none_sample(const struct pw_dev *, int64_t) { return 0; }

static const struct pw_backend backend = {
    .kind = KIND, .ops = &ops, .open = open_device, .close = close_device, .take = take, .give = give, .put = put, .get = get, .sync = sync, .memory = memory, .held = held,
    .take_pinned = take_pinned, .give_pinned = give_pinned, .send = send, .bring = bring, .wait = wait, .capture = capture, .captured = captured, .replay = replay, .forget = forget, .choose = choose, .driver = driver_version, .attn_library = library_version, .attn_plan = library_plan,
    .peers_look = nccl_look, .peers_id = nccl_id, .peers_join = nccl_join, .peers_sum = nccl_sum, .peers_leave = nccl_leave,
    .scratch_linear = cuda_scratch_linear, .scratch_head = cuda_scratch_head, .scratch_experts = cuda_scratch_experts, .scratch_sample = none_sample, .scratch_attn = cuda_scratch_attn,
};

extern "C" __attribute__((visibility("default"))) const struct pw_backend *pw_plugin_backend(const char *version, size_t row_bytes)
{
    return strcmp(version, PW_VERSION) == 0 && row_bytes == sizeof backend ? &backend : NULL;
}
