/* head_loss: rows with a target are listed, gathered a chunk at a time, and meet the vocabulary in chunks; logits exist for one chunk of both.
 *
 *     list       rows with a target, in order, and how many: one block; the host never learns it, blocks past the count return at once
 *     for each chunk of listed rows (hooks.head_rows):
 *         gather      h of these rows
 *         for each chunk of words (hooks.head_words):                 z = h W^T f32
 *             online  the largest logit, its first index, sum of exp(z - top) so far; how much what came before shrinks (rescale);
 *                     weights exp(z - top) in bf16, 0 for the target
 *             dh      acc = rescale * acc + weights W                 f32, (rows, D)
 *         finish      loss = top - z[target] + log(sum);  dh += dloss (acc / sum - (1 - p[target]) W[target]), rounded once
 *         dw only:    z again, now with the loss known:               dw += (dloss dloss/dz)^T h
 * So dh costs one product more than the loss, not two. The target's own weight is kept apart, because p - 1 is small where a model is right
 * and would drown in the rounding of p. A row's result does not depend on the other rows (one step of 64 rows or fewer: see tile.h). */
#include "kernels/cuda/linear.h"
#include "kernels/cuda/tile.h"

#include <float.h>

enum { THREADS = 256, WARPS = THREADS / 32, LIST_THREADS = 1024 };

/* ---- scratch ---- */

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t eights(int64_t n) { return (n + 7) / 8 * 8; }

struct head_state { float *top, *sum, *at_target, *rescale; int32_t *best; }; /* (rows) each */
struct head_place {
    int64_t rows, words, ld_words, ld_width; /* of a chunk */
    int32_t *count, *list;                   /* 1; (tokens) */
    struct head_state s;
    bf16 *h;                                 /* (rows, ld_width) */
    float *z;                                /* (rows, ld_words) */
    bf16 *dz;                                /* the same; backward only, as is the next */
    float *acc;                              /* (rows, width) */
    bf16 *w;                                 /* (words, ld_width): a chunk of a weight that is not decoded on the way */
    size_t bytes;
};
static struct head_place place_of(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w, bool backward)
{
    const struct cuda_hooks *hooks = &cuda_of(dev)->hooks;
    struct head_place p = {};
    char *at = (char *)dev->scratch;
    auto take = [&](size_t bytes) {
        char *mine = at + p.bytes;
        p.bytes += cuda_round(bytes);
        return mine;
    };
    p.rows = least(tokens, hooks->head_rows);
    p.words = least(w->n_out, hooks->head_words);
    p.ld_words = eights(p.words);
    p.ld_width = eights(w->n_in);
    const size_t rows = (size_t)p.rows;
    p.count = (int32_t *)take(4);
    p.list = (int32_t *)take((size_t)tokens * 4);
    p.s = {(float *)take(rows * 4), (float *)take(rows * 4), (float *)take(rows * 4), (float *)take(rows * 4), (int32_t *)take(rows * 4)};
    p.h = (bf16 *)take(rows * (size_t)p.ld_width * 2);
    p.z = (float *)take(rows * (size_t)p.ld_words * 4);
    if (backward) {
        p.dz = (bf16 *)take(rows * (size_t)p.ld_words * 2);
        p.acc = (float *)take(rows * (size_t)w->n_in * 4);
    }
    if (!linear_fused(w)) p.w = (bf16 *)take((size_t)(p.words * p.ld_width) * 2);
    return p;
}
extern "C" size_t cuda_scratch_head(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w, bool backward)
{
    return tokens > 0 ? place_of(dev, tokens, w, backward).bytes : 0;
}

/* ---- which rows ---- */

/* One block. Skipped rows get their results here; a target past the vocabulary is reported and its row is left alone. */
__global__ void __launch_bounds__(LIST_THREADS) list_kernel(int32_t *__restrict__ list, int32_t *__restrict__ count, float *__restrict__ loss, int32_t *__restrict__ argmax,
                                                            const int32_t *__restrict__ targets, int64_t tokens, int64_t words, struct cuda_status *status)
{
    SIMT_SHARED(int[LIST_THREADS / 32], warps);
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    int before = 0;
    for (int64_t t0 = 0; t0 < tokens; t0 += LIST_THREADS) {
        const int64_t t = t0 + threadIdx.x;
        const int target = t < tokens ? targets[t] : 0;
        const bool mine = t < tokens && target >= 0 && target < words;
        if (t < tokens && target < 0) {
            loss[t] = 0;
            if (argmax) argmax[t] = -1;
        }
        if (t < tokens && target >= words) cuda_report(status, CUDA_FAULT_TARGET, t, target, words);
        const unsigned in_warp = __ballot_sync(0xffffffffu, mine);
        if (lane == 0) warps[warp] = __popc(in_warp);
        __syncthreads();
        int at = before, all = 0;
        for (int w = 0; w < LIST_THREADS / 32; w++) {
            if (w < warp) at += warps[w];
            all += warps[w];
        }
        if (mine) list[at + __popc(in_warp & ((1u << lane) - 1))] = (int32_t)t;
        before += all;
        __syncthreads(); /* before the counts are written again */
    }
    if (threadIdx.x == 0) *count = before;
}

/* out (rows, ld) = the listed rows of h, zeros past their end; a block a row. */
__global__ void __launch_bounds__(THREADS) gather_kernel(bf16 *__restrict__ out, int64_t ld, const bf16 *__restrict__ h, int64_t width, const int32_t *__restrict__ list,
                                                         const int32_t *__restrict__ count, int64_t first)
{
    if (first + blockIdx.x >= *count) return;
    const bf16 *from = h + (int64_t)list[first + blockIdx.x] * width;
    for (int64_t i = threadIdx.x; i < ld; i += THREADS) out[blockIdx.x * ld + i] = i < width ? from[i] : bf16{0};
}

/* ---- a chunk of logits ---- */

SIMT_FN float capped(float z, float cap) { return cap > 0 ? cap * tanhf(z / cap) : z; }
SIMT_FN float slope(float z, float cap) /* of the cap, from the capped logit */
{
    const float q = cap > 0 ? z / cap : 0;
    return 1 - q * q;
}
/* A block a row: words first_word .. + words of its logits. */
__global__ void __launch_bounds__(THREADS) online_kernel(struct head_state s, bf16 *__restrict__ dz, const float *__restrict__ z, int64_t ld, int words, int first_word,
                                                         const int32_t *__restrict__ targets, const int32_t *__restrict__ list, const int32_t *__restrict__ count, int64_t first, float cap)
{
    SIMT_SHARED(best[WARPS], of_warp);
    SIMT_SHARED(float[32], partial);
    const int64_t i = blockIdx.x;
    if (first + i >= *count) return;
    const int target = targets[list[first + i]] - first_word, warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const float *row = z + i * ld;
    const bool begins = first_word == 0;
    const best before = begins ? best{-INFINITY, 0} : best{s.top[i], s.best[i]};
    const float sum_before = begins ? 0 : s.sum[i];
    best mine = {-INFINITY, 0x7fffffff};
    for (int v = (int)threadIdx.x; v < words; v += THREADS) mine = better(mine, best{capped(row[v], cap), first_word + v});
    mine = warp_best(mine);
    if (lane == 0) of_warp[warp] = mine;
    __syncthreads();
    best now = warp_best(lane < WARPS ? of_warp[lane] : best{-INFINITY, 0x7fffffff});
    now = now.z > before.z ? now : before;
    float sum = 0;
    for (int v = (int)threadIdx.x; v < words; v += THREADS) {
        const float c = capped(row[v], cap), e = expf(c - now.z);
        sum += e;
        if (dz) store(dz, (size_t)(i * ld + v), v == target ? 0 : e * slope(c, cap));
        if (v == target) s.at_target[i] = c;
    }
    if (dz)
        for (int64_t v = words + threadIdx.x; v < ld; v += THREADS) dz[i * ld + v] = bf16{0};
    sum = block_sum(sum, (float *)partial);
    if (threadIdx.x != 0) return;
    const float shrink = begins ? 0 : expf(before.z - now.z);
    s.rescale[i] = shrink;
    s.sum[i] = begins ? sum : sum_before * shrink + sum;
    s.top[i] = now.z;
    s.best[i] = now.word;
}

/* Loss, and dh from what was added up. A block a row. */
template <enum decode_kind KIND> __global__ void __launch_bounds__(THREADS) finish_kernel(float *__restrict__ loss, int32_t *__restrict__ argmax, bf16 *__restrict__ dh, struct head_state s,
    const float *__restrict__ acc, const cuda_weight w, const int32_t *__restrict__ targets, const float *__restrict__ dloss, const int32_t *__restrict__ list,
    const int32_t *__restrict__ count, int64_t first, float cap)
{
    SIMT_SHARED(float[16], table);
    const int64_t i = blockIdx.x;
    if (first + i >= *count) return;
    if constexpr (decode_uses_table(KIND)) {
        decode_table<KIND>(w, table);
        __syncthreads();
    }
    const int64_t t = list[first + i], target = targets[t];
    const float mine = (s.top[i] - s.at_target[i]) + logf(s.sum[i]);
    if (threadIdx.x == 0) {
        loss[t] = mine;
        if (argmax) argmax[t] = s.best[i];
    }
    if (!dh) return;
    const float up = dloss[t], inverse = 1 / s.sum[i], at_target = expm1f(-mine) * slope(s.at_target[i], cap); /* p - 1 */
    for (int64_t k = threadIdx.x * 8; k < w.n_in; k += THREADS * 8) {
        float x[8];
        decode8<KIND, false>(w, table, target, k, x);
#pragma unroll
        for (int e = 0; e < 8; e++) {
            const size_t at = (size_t)(t * w.n_in + k + e);
            if (k + e < w.n_in) store(dh, at, load(dh, at) + up * (acc[i * w.n_in + k + e] * inverse + at_target * x[e]));
        }
    }
}

/* dz (rows, ld) bf16 = the gradient of the loss by each logit, zeros past the words. A block a row. */
__global__ void __launch_bounds__(THREADS) slope_kernel(bf16 *__restrict__ dz, const float *__restrict__ z, int64_t ld, int words, int first_word, struct head_state s,
                                                        const int32_t *__restrict__ targets, const float *__restrict__ dloss, const int32_t *__restrict__ list,
                                                        const int32_t *__restrict__ count, int64_t first, float cap)
{
    const int64_t i = blockIdx.x;
    if (first + i >= *count) return;
    const int64_t t = list[first + i];
    const int target = targets[t] - first_word;
    const float up = dloss[t], inverse = 1 / s.sum[i], top = s.top[i], p_less_one = expm1f(-((top - s.at_target[i]) + logf(s.sum[i])));
    for (int64_t v = threadIdx.x; v < ld; v += THREADS) {
        const float c = v < words ? capped(z[i * ld + v], cap) : 0;
        store(dz, (size_t)(i * ld + v), v < words ? up * (v == target ? p_less_one : expf(c - top) * inverse) * slope(c, cap) : 0);
    }
}

/* ---- the op ---- */

struct head_call { struct pw_dev *dev; struct head_place p; const struct pw_weight *w; int64_t tokens; };

/* W's rows first_word .. as the second operand of a product. */
static int words_of(const struct head_call *c, struct tile_args *g, enum decode_kind *kind, int64_t first_word, int64_t words, bool made)
{
    *kind = cuda_decode_kind(c->w);
    g->b = cuda_weight_of(c->w);
    g->b_words = linear_words(c->w);
    g->b_row = first_word;
    if (linear_fused(c->w)) return 0;
    if (!made) PW_PASS(linear_unpack(c->dev, "head_loss", c->p.w, words, c->p.ld_width, c->w, first_word, 0));
    *kind = DECODE_BF16;
    g->b = {};
    g->b.data = (const uint8_t *)c->p.w;
    g->b.n_in = c->p.ld_width;
    g->b_words = true;
    g->b_row = 0;
    return 0;
}
static struct tile_args rows_of(const struct head_call *c, int64_t first)
{
    struct tile_args g = tile_args_make();
    g.count = c->p.count;
    g.count_base = first;
    g.a_words = true;
    g.c_f32 = true;
    return g;
}
static int logits(const struct head_call *c, int64_t first, int64_t rows, int64_t first_word, int64_t words)
{
    struct tile_args g = rows_of(c, first);
    enum decode_kind kind;
    PW_PASS(words_of(c, &g, &kind, first_word, words, false));
    g.a = c->p.h;
    g.lda = c->p.ld_width;
    g.m = rows, g.n = words, g.k = c->w->n_in, g.k_piece = c->p.ld_width + TILE_K;
    g.c = c->p.z;
    g.ldc = c->p.ld_words;
    return rows <= 64 ? tile_nt_few(c->dev, "head_loss", kind, &g) : tile_nt(c->dev, "head_loss", kind, &g);
}

extern "C" int cuda_head_loss(struct pw_dev *dev, struct pw_tensor loss, struct pw_tensor argmax, struct pw_tensor dh, struct pw_tensor dw, struct pw_tensor h,
                              const struct pw_weight *w, struct pw_tensor targets, struct pw_tensor dloss, double softcap)
{
    const char *op = "head_loss";
    const int64_t tokens = h.shape[0], width = w->n_in;
    PW_PASS(linear_known(dev, op, w));
    if (tokens == 0) return 0;
    const struct head_call c = {dev, place_of(dev, tokens, w, dh.data || dw.data), w, tokens};
    const struct head_place *p = &c.p;
    const int32_t *target = (const int32_t *)targets.data;
    const float cap = (float)softcap, *up = (const float *)dloss.data;
    CUDA_LAUNCH(dev, op, list_kernel, 1u, LIST_THREADS, 0, p->list, p->count, (float *)loss.data, (int32_t *)argmax.data, target, tokens, w->n_out, cuda_of(dev)->status);
    for (int64_t first = 0; first < tokens; first += p->rows) {
        const int64_t rows = least(p->rows, tokens - first);
        const unsigned blocks = (unsigned)rows;
        CUDA_LAUNCH(dev, op, gather_kernel, blocks, THREADS, 0, p->h, p->ld_width, (const bf16 *)h.data, width, p->list, p->count, first);
        for (int64_t v = 0; v < w->n_out; v += p->words) {
            const int64_t words = least(p->words, w->n_out - v);
            PW_PASS(logits(&c, first, rows, v, words));
            CUDA_LAUNCH(dev, op, online_kernel, blocks, THREADS, 0, p->s, dh.data ? p->dz : (bf16 *)NULL, p->z, p->ld_words, (int)words, (int)v, target, p->list, p->count, first, cap);
            if (!dh.data) continue;
            struct tile_args g = rows_of(&c, first);
            enum decode_kind kind;
            PW_PASS(words_of(&c, &g, &kind, v, words, true));
            g.a = p->dz;
            g.lda = p->ld_words;
            g.m = rows, g.n = width, g.k = words, g.k_piece = p->ld_words + TILE_K;
            g.c = p->acc;
            g.ldc = width;
            g.row_beta = p->s.rescale;
            PW_PASS(tile_nn(dev, op, kind, &g));
        }
        CUDA_BY_KIND(w, op, kind, CUDA_LAUNCH(dev, op, finish_kernel<kind>, blocks, THREADS, 0, (float *)loss.data, (int32_t *)argmax.data, (bf16 *)dh.data, p->s, p->acc,
                                              cuda_weight_of(w), target, up, p->list, p->count, first, cap))
        for (int64_t v = 0; dw.data && v < w->n_out; v += p->words) {
            const int64_t words = least(p->words, w->n_out - v);
            PW_PASS(logits(&c, first, rows, v, words));
            CUDA_LAUNCH(dev, op, slope_kernel, blocks, THREADS, 0, p->dz, p->z, p->ld_words, (int)words, (int)v, p->s, target, up, p->list, p->count, first, cap);
            struct tile_args g = rows_of(&c, first);
            g.a = p->dz;
            g.lda = p->ld_words;
            g.b.data = (const uint8_t *)p->h;
            g.b.n_in = p->ld_width;
            g.b_words = true;
            g.m = words, g.n = width, g.k = rows, g.k_piece = rows + TILE_K;
            g.c = (float *)dw.data + v * width;
            g.ldc = width;
            g.beta = 1;
            PW_PASS(tile_tn(dev, op, &g));
        }
    }
    return 0;
}
