/* Capping logits, and drawing tokens from them: a block a row, so that a step of decoding brings ids to the host and no logits.
 *
 * The rule is kernels/sample.h's, in whole numbers: sums of weights come out the same in any order, so bins are filled with integer atomics and the token
 * is the host's. Where a running sum in the order of tokens exceeds a target is found in five passes over the row:
 *     coarse     bins of 1/32 of a power of two of weight: common logits lie far apart, few atomics meet
 *     3 digits   of the exact order (11, 11, 10 bits), of the tokens in the bin before alone
 *     equals     how many each warp's stretch of the row has; the one warp that holds the place counts its own by ballot
 * A row is read 2 + 5 times with temperature alone, 5 more for each of top-k and top-p, 2 for min-p; once when greedy. At 150000 words a row is 0.6 MB,
 * which the second level cache holds. (Arithmetic says some 100 us; not measured.) Rows of a batch run beside each other. */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/philox.h"
#include "kernels/sample.h"

enum { THREADS = 1024, WARPS = THREADS / 32, BINS_WARP = SAMPLE_BINS / WARPS };
static_assert(BINS_WARP == 64, "two bins a lane");

__global__ void __launch_bounds__(256) softcap_kernel(float *__restrict__ x, int64_t n, float cap)
{
    const int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i < n) x[i] = cap * tanhf(x[i] / cap);
}
extern "C" int cuda_softcap(struct pw_dev *dev, struct pw_tensor x, double cap)
{
    const int64_t n = pw_count(x);
    CUDA_LAUNCH(dev, "softcap", softcap_kernel, cuda_parts(n, 256), 256, 0, (float *)x.data, n, (float)cap);
    return 0;
}

struct sample_row { const float *z; int vocab; float top, sharpness; };
struct sample_bins { /* shared */
    unsigned long long weight[SAMPLE_BINS];
    unsigned count[SAMPLE_BINS];
    unsigned long long of_warp[WARPS], weight_of_warp[WARPS];
    unsigned long long target, before; /* what is left of the target in the bin, and the weight before it */
    int bin;
};

SIMT_FN unsigned long long running(unsigned long long v) /* sum of this lane and those before it */
{
    const int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int d = 1; d < 32; d <<= 1) {
        const unsigned long long w = __shfl_sync(0xffffffffu, v, lane >= d ? lane - d : lane);
        if (lane >= d) v += w;
    }
    return v;
}
SIMT_FN unsigned long long block_total(unsigned long long v, struct sample_bins *b)
{
    v = block_sum(v, b->of_warp);
    __syncthreads(); /* before of_warp is used again */
    return v;
}

SIMT_FN void bins_clear(struct sample_bins *b)
{
    for (int i = (int)threadIdx.x; i < SAMPLE_BINS; i += THREADS) b->weight[i] = 0, b->count[i] = 0;
    __syncthreads();
}
/* The bin in which the running sum exceeds *target, to all threads; *target and *before move to its beginning. */
SIMT_FN int bins_cross(struct sample_bins *b, bool by_weight, unsigned long long *target, unsigned long long *before)
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, first = warp * BINS_WARP + 2 * lane;
    __syncthreads(); /* bins are filled */
    const unsigned long long w0 = b->weight[first], w1 = b->weight[first + 1], v0 = by_weight ? w0 : b->count[first], v1 = by_weight ? w1 : b->count[first + 1];
    const unsigned long long up_to = running(v0 + v1), weight_up_to = running(w0 + w1);
    if (lane == 31) b->of_warp[warp] = up_to, b->weight_of_warp[warp] = weight_up_to;
    __syncthreads();
    unsigned long long at = up_to - v0 - v1, weight_at = weight_up_to - w0 - w1;
    for (int w = 0; w < warp; w++) at += b->of_warp[w], weight_at += b->weight_of_warp[w];
    if (at <= *target && *target < at + v0 + v1) { /* one thread */
        const bool second = *target >= at + v0;
        b->bin = first + second;
        b->target = *target - at - (second ? v0 : 0);
        b->before = *before + weight_at + (second ? w0 : 0);
    }
    __syncthreads();
    *target = b->target;
    *before = b->before;
    return b->bin;
}

/* The first token at which the running sum of weights (or of tokens) exceeds the target, and the weight of all up to it; the sum of all exceeds it. */
SIMT_FN int sample_find(const struct sample_row &r, struct sample_bins *b, bool by_weight, unsigned long long target, unsigned long long *through)
{
    const int thread = (int)threadIdx.x, warp = thread / 32, lane = thread % 32;
    unsigned long long before = 0;
    int coarse = -1;
    uint32_t order = 0;
#pragma unroll 1
    for (int d = -1; d < 3; d++) { /* coarse, then the digits */
        const int shift = d == 0 ? 21 : d == 1 ? 10 : 0, bits = d == 2 ? 10 : 11;
        bins_clear(b);
        for (int i = thread; i < r.vocab; i += THREADS) {
            const float z = r.z[i];
            const int mine = sample_bin(z, r.top, r.sharpness);
            if (d >= 0 && mine != coarse) continue;
            const uint32_t o = sample_order(z);
            if (d > 0 && o >> (shift + bits) != order) continue;
            const unsigned bin = d < 0 ? (unsigned)mine : o >> shift & ((1u << bits) - 1);
            const unsigned long long weight = sample_weight(z, r.top, r.sharpness);
            if (weight) atomicAdd(&b->weight[bin], weight);
            atomicAdd(&b->count[bin], 1u);
        }
        const int bin = bins_cross(b, by_weight, &target, &before);
        if (d < 0) coarse = bin;
        else order = order << bits | (unsigned)bin;
    }
    /* equal logits, in the order of their ids */
    const int stretch = (r.vocab + WARPS - 1) / WARPS, first = warp * stretch, end = min(r.vocab, first + stretch);
    unsigned long long mine = 0, weight = 0;
    for (int i = first + lane; i < end; i += 32)
        if (sample_order(r.z[i]) == order) mine++, weight = sample_weight(r.z[i], r.top, r.sharpness);
    mine = warp_sum(mine);
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) weight = max(weight, (unsigned long long)__shfl_xor_sync(0xffffffffu, weight, d));
    if (lane == 0) b->of_warp[warp] = mine;
    __syncthreads();
    unsigned long long at = 0;
    for (int w = 0; w < warp; w++) at += b->of_warp[w];
    const unsigned long long nth = mine == 0 ? 0 : by_weight ? target / weight : target; /* of the equals is the one */
    if (mine && at <= nth && nth < at + mine) { /* one warp, all of it */
        for (int i0 = first; i0 < end; i0 += 32) {
            const bool equal = i0 + lane < end && sample_order(r.z[min(i0 + lane, end - 1)]) == order;
            const unsigned all = __ballot_sync(0xffffffffu, equal);
            if (equal && at + __popc(all & ((1u << lane) - 1)) == nth) {
                b->bin = i0 + lane;
                b->before = before + (nth + 1) * weight;
            }
            at += __popc(all);
        }
    }
    __syncthreads();
    *through = b->before;
    const int id = b->bin;
    __syncthreads(); /* before it is written again */
    return id;
}

/* The weight of what comes before the first token, in the order of tokens, that has less than `least`. */
SIMT_FN unsigned long long weight_before(const struct sample_row &r, struct sample_bins *b, unsigned long long least)
{
    uint32_t order = 0xffffffffu;
    for (int i = (int)threadIdx.x; i < r.vocab; i += THREADS)
        if (sample_weight(r.z[i], r.top, r.sharpness) < least) order = min(order, sample_order(r.z[i]));
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) order = min(order, (uint32_t)__shfl_xor_sync(0xffffffffu, order, d));
    if (threadIdx.x % 32 == 0) b->of_warp[threadIdx.x / 32] = order;
    __syncthreads();
    for (int w = 0; w < WARPS; w++) order = min(order, (uint32_t)b->of_warp[w]);
    __syncthreads(); /* before it is written again */
    unsigned long long sum = 0;
    for (int i = (int)threadIdx.x; i < r.vocab; i += THREADS)
        if (sample_order(r.z[i]) < order) sum += sample_weight(r.z[i], r.top, r.sharpness);
    return block_total(sum, b);
}

/* A row a block. What is no number is reported, and the token is -1. */
__global__ void __launch_bounds__(THREADS) sample_kernel(int32_t *__restrict__ ids, const float *__restrict__ logits, int vocab, const struct pw_draw *__restrict__ draws, struct cuda_status *status)
{
    SIMT_SHARED(sample_bins[1], bins);
    SIMT_SHARED(best[WARPS], of_warp);
    SIMT_SHARED(int[WARPS], bad_of_warp);
    struct sample_bins *const b = bins;
    const int thread = (int)threadIdx.x, warp = thread / 32, lane = thread % 32;
    const float *const z = logits + (int64_t)blockIdx.x * vocab;
    const struct pw_draw d = draws[blockIdx.x];
    best mine = {-INFINITY, 0x7fffffff};
    int bad = 0x7fffffff;
    for (int i = thread; i < vocab; i += THREADS) {
        const float v = z[i];
        if (!(v < INFINITY)) bad = min(bad, i);
        mine = better(mine, best{v, i});
    }
    mine = warp_best(mine);
#pragma unroll
    for (int k = 16; k > 0; k >>= 1) bad = min(bad, __shfl_xor_sync(0xffffffffu, bad, k));
    if (lane == 0) of_warp[warp] = mine, bad_of_warp[warp] = bad;
    __syncthreads();
    mine = warp_best(of_warp[lane]);
    for (int w = 0; w < WARPS; w++) bad = min(bad, bad_of_warp[w]);
    const bool none = bad != 0x7fffffff || !(mine.z > -INFINITY);
    if (none || !(d.temperature > 0)) {
        if (thread != 0) return;
        if (bad != 0x7fffffff) cuda_report(status, CUDA_FAULT_LOGIT, bad, (int)blockIdx.x, vocab);
        else if (none) cuda_report(status, CUDA_FAULT_NO_LOGIT, 0, (int)blockIdx.x, vocab);
        ids[blockIdx.x] = none ? -1 : mine.word;
        return;
    }
    const struct sample_row r = {z, vocab, mine.z, sample_sharpness(d.temperature)};
    unsigned long long total = 0;
    if (d.top_k > 0 && d.top_k < vocab) (void)sample_find(r, b, false, (unsigned long long)d.top_k - 1, &total);
    else {
        for (int i = thread; i < vocab; i += THREADS) total += sample_weight(z[i], r.top, r.sharpness);
        total = block_total(total, b);
    }
    if (d.top_p > 0 && d.top_p < 1) (void)sample_find(r, b, true, sample_share(total, d.top_p) - 1, &total);
    if (d.min_p > 0) total = min(total, weight_before(r, b, sample_least(d.min_p)));
    uint32_t words[4];
    const struct cuda_drop stream = {0, {(uint32_t)d.seed, (uint32_t)(d.seed >> 32)}, {(uint32_t)d.stream, (uint32_t)(d.stream >> 32)}, 1, 0, NULL}; /* as base/rng.h has it */
    philox4(stream, d.at / 2, words);
    const uint64_t draw = d.at % 2 ? words[2] | (uint64_t)words[3] << 32 : words[0] | (uint64_t)words[1] << 32;
    unsigned long long through;
    const int id = sample_find(r, b, true, sample_place(draw, total), &through);
    if (thread == 0) ids[blockIdx.x] = id;
}

extern "C" int cuda_sample(struct pw_dev *dev, struct pw_tensor ids, struct pw_tensor logits, const struct pw_draws *draws)
{
    CUDA_LAUNCH(dev, "sample", sample_kernel, (unsigned)logits.shape[0], THREADS, 0, (int32_t *)ids.data, (const float *)logits.data, (int)logits.shape[1],
                (const struct pw_draw *)draws->device, cuda_of(dev)->status);
    return 0;
}
