/* Which experts a token goes to, its backward pass, and the rows of each expert.
 *
 * route: a warp a token; lane l has experts l, l + 32, ..: 32 of them at most, one bit each in `taken`. C rounds of "the largest that is left": a lane
 *   over its own in ascending order, then the lanes; a tie goes to the lower index, and NaN is above every number, so that it is chosen and seen.
 * route_rows: a block an expert. It counts the pairs of experts below its own and of its own, which is where its rows begin and end, and then numbers its
 *   pairs in their order. E blocks read all T * C numbers twice out of the second-level cache: for 8 of 128 experts and 2048 tokens 64 KiB a block. Nothing
 *   is handed from one block to another, and nobody waits. */
#include "kernels/cuda/cuda.h"

enum { THREADS = 256, WARPS = THREADS / 32 };

SIMT_FN bool above(float a, float b) { return a > b || (a != a && b == b); }

/* exp(logit - top) of the lane's experts, added up over the warp */
SIMT_FN float sum_all(const float *logit, int experts, int lane, float top)
{
    float sum = 0;
    for (int e = lane; e < experts; e += 32) sum += expf(logit[e] - top);
    return warp_sum(sum);
}

__global__ void __launch_bounds__(THREADS) route_fwd_kernel(float *__restrict__ weights, int32_t *__restrict__ chosen, const float *__restrict__ logits, int64_t tokens, int experts, int n,
                                                            bool renormalise)
{
    const int64_t t = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int lane = (int)threadIdx.x % 32;
    if (t >= tokens) return; /* a whole warp */
    const float *const logit = logits + t * experts;
    uint32_t taken = 0;
    float top = 0, mine = 0, sum = 0; /* mine: lane c keeps the logit of choice c */
    for (int c = 0; c < n; c++) {
        int best = -1;
        float best_logit = 0;
        for (int j = 0, e = lane; e < experts; j++, e += 32) {
            const float x = logit[e];
            if (!(taken >> j & 1) && (best < 0 || above(x, best_logit))) best = e, best_logit = x;
        }
#pragma unroll
        for (int d = 16; d > 0; d >>= 1) {
            const int other = __shfl_xor_sync(0xffffffffu, best, d);
            const float x = __shfl_xor_sync(0xffffffffu, best_logit, d);
            /* the one of lower index stands first and is kept unless the other is larger: the same in both lanes */
            const bool first = other < 0 || (best >= 0 && best < other);
            const float low = first ? best_logit : x, high = first ? x : best_logit;
            const int low_at = first ? best : other, high_at = first ? other : best;
            const bool second = high_at >= 0 && (low_at < 0 || above(high, low));
            best = second ? high_at : low_at;
            best_logit = second ? high : low;
        }
        if (best % 32 == lane) taken |= 1u << best / 32;
        if (c == 0) top = best_logit;
        if (lane == c) {
            mine = best_logit;
            chosen[t * n + c] = best;
        }
        sum += expf(best_logit - top);
    }
    if (!renormalise) sum = sum_all(logit, experts, lane, top);
    if (lane < n) weights[t * n + lane] = expf(mine - top) / sum;
}

__global__ void __launch_bounds__(THREADS) route_bwd_kernel(bf16 *__restrict__ dlogits, const float *__restrict__ dweights, const float *__restrict__ weights,
                                                            const int32_t *__restrict__ chosen, const float *__restrict__ logits, int64_t tokens, int experts, int n, bool renormalise,
                                                            struct cuda_status *status)
{
    const int64_t t = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int lane = (int)threadIdx.x % 32;
    if (t >= tokens) return;
    const float *const logit = logits + t * experts;
    const int id = lane < n ? chosen[t * n + lane] : 0;
    const bool bad = id < 0 || id >= experts;
    if (bad) cuda_report(status, CUDA_FAULT_EXPERT, t * n + lane, id, experts);
    if (__any_sync(0xffffffffu, bad)) return; /* the whole warp */
    const float w = lane < n ? weights[t * n + lane] : 0, up = lane < n ? dweights[t * n + lane] : 0, mean = warp_sum(w * up);
    const int first = __shfl_sync(0xffffffffu, id, 0);
    const float top = logit[first], rest = renormalise ? 0 : mean / sum_all(logit, experts, lane, top);
    for (int base = 0; base < experts; base += 32) {
        const int e = base + lane;
        float d = 0;
        bool mine = false;
        for (int c = 0; c < n; c++) {
            const int at = __shfl_sync(0xffffffffu, id, c);
            const float x = __shfl_sync(0xffffffffu, w, c) * (__shfl_sync(0xffffffffu, up, c) - (renormalise ? mean : 0));
            if (at == e) d = x, mine = true;
        }
        if (e >= experts || (renormalise && !mine)) continue;
        if (!renormalise) d -= rest * expf(logit[e] - top);
        store(dlogits, (size_t)(t * experts + e), load(dlogits, (size_t)(t * experts + e)) + d);
    }
}

__global__ void __launch_bounds__(THREADS) route_rows_kernel(int32_t *__restrict__ starts, int32_t *__restrict__ tokens, int32_t *__restrict__ places, const int32_t *__restrict__ chosen,
                                                             int64_t pairs, int n, struct cuda_status *status)
{
    SIMT_SHARED(int[32], partial);
    SIMT_SHARED(int[2][WARPS], found);
    const int mine = (int)blockIdx.x, experts = (int)gridDim.x, warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    int below = 0;
    for (int64_t i = threadIdx.x; i < pairs; i += THREADS) {
        const int id = chosen[i];
        if (mine == 0 && (id < 0 || id >= experts)) cuda_report(status, CUDA_FAULT_EXPERT, i, id, experts);
        below += id >= 0 && id < mine;
    }
    int row = block_sum(below, &partial[0]);
    if (threadIdx.x == 0) starts[mine] = row;
    int stage = 0;
    for (int64_t base = 0; base < pairs; base += THREADS, stage ^= 1) {
        const int64_t i = base + threadIdx.x;
        const bool is = i < pairs && chosen[i] == mine;
        const unsigned votes = __ballot_sync(0xffffffffu, is);
        if (lane == 0) found[stage][warp] = __popc(votes);
        __syncthreads(); /* two stages: nobody is two turns ahead of a reader */
        int before = 0, all = 0;
        for (int w = 0; w < WARPS; w++) {
            before += w < warp ? found[stage][w] : 0;
            all += found[stage][w];
        }
        if (is) {
            const int at = row + before + __popc(votes & ((1u << lane) - 1));
            tokens[at] = (int32_t)(i / n);
            places[i] = at;
        }
        row += all;
    }
    if (mine == experts - 1 && threadIdx.x == 0) starts[experts] = row;
}

extern "C" int cuda_route_fwd(struct pw_dev *dev, struct pw_tensor weights, struct pw_tensor chosen, struct pw_tensor logits, bool renormalise)
{
    CUDA_LAUNCH(dev, "route_fwd", route_fwd_kernel, cuda_parts(logits.shape[0], WARPS), THREADS, 0, (float *)weights.data, (int32_t *)chosen.data, (const float *)logits.data, logits.shape[0],
                (int)logits.shape[1], (int)weights.shape[1], renormalise);
    return 0;
}

extern "C" int cuda_route_bwd(struct pw_dev *dev, struct pw_tensor dlogits, struct pw_tensor dweights, struct pw_tensor weights, struct pw_tensor chosen, struct pw_tensor logits, bool renormalise)
{
    CUDA_LAUNCH(dev, "route_bwd", route_bwd_kernel, cuda_parts(logits.shape[0], WARPS), THREADS, 0, (bf16 *)dlogits.data, (const float *)dweights.data, (const float *)weights.data,
                (const int32_t *)chosen.data, (const float *)logits.data, logits.shape[0], (int)logits.shape[1], (int)weights.shape[1], renormalise, cuda_of(dev)->status);
    return 0;
}

extern "C" int cuda_route_rows(struct pw_dev *dev, struct pw_tensor starts, struct pw_tensor tokens, struct pw_tensor places, struct pw_tensor chosen)
{
    CUDA_LAUNCH(dev, "route_rows", route_rows_kernel, (unsigned)(starts.shape[0] - 1), THREADS, 0, (int32_t *)starts.data, (int32_t *)tokens.data, (int32_t *)places.data,
                (const int32_t *)chosen.data, pw_count(chosen), (int)chosen.shape[1], cuda_of(dev)->status);
    return 0;
}
