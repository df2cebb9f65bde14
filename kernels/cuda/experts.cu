/* Linear layers of experts, over rows in the order of their experts: where an expert's rows begin and end is read on the device, so nothing waits for the
 * host and a step with experts can be captured.
 *
 * A product is one launch for all experts (experts.h): a call first writes to scratch, by group_kernel, the table of the experts' weights, which it gets as
 * a parameter (up to GROUP of them a launch, below the 32 KiB that parameters may have), and the tiles: for each block that there can be, which expert
 * and which of its rows. There are no more than rows / height + min(experts, rows); blocks left over leave at once.
 *     forward     xa: partial sums and their sum;  y                      5 launches, 2 without adapter, however many experts there are
 *     backward    dxa: the same;  db;  da;  dx                            6, 2 without adapter
 *   y     few rows (an expert has a few at most): skinny.cu, W is read by as many blocks as it has rows; else tile.h, in blocks of 64 x 32 or 128 x 128
 *   da, db   a block sums over all rows of its expert, in their order, and adds to the gradient: no pieces as in linear.cu, since E times as many blocks
 *            are there without. A chain of f32 sums is as long as the expert has rows
 * Weights that tile.h cannot decode are decoded to bf16 a part at a time, each with a product of its own: there a launch or two for each expert remain.
 * A row's result does not depend on the rows beside it: the order of its sums is that of k alone; few and many rows differ in it. Not measured on a card. */
#include "kernels/cuda/experts.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/tile.h"

enum { GROUP = 128, THREADS = 128, FEW_ROWS = 64, FEW_EACH = 16, SKINNY_ROWS = 16, SKINNY_EACH = 2 /* rows: of a call, or for each expert */ };

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t whole(int64_t n, int64_t of) { return (n + of - 1) / of * of; }

/* ---- scratch: the table, tiles of each height, dxa (rows, R) bf16; then, one after the other in the same place: partial sums; a decoded part of a weight ---- */

enum height { TILES_SKINNY, TILES_SMALL, TILES_BIG, HEIGHTS };
static const int height_of[HEIGHTS] = {SKINNY_TILE, 64, 128};

struct layout { size_t tiles[HEIGHTS], dxa, work, bytes; };
static struct layout layout_of(const struct pw_dev *dev, int64_t rows, const struct pw_experts *experts, bool backward)
{
    const struct pw_weight *w = experts->w;
    const int64_t r = w->lora ? w->lora->r : 0;
    struct layout l = {};
    size_t at = cuda_round((size_t)experts->n * sizeof(struct expert_entry)), decoded = 0;
    for (int h = 0; h < HEIGHTS; h++) {
        l.tiles[h] = at;
        at += cuda_round((size_t)expert_tiles(rows, experts->n, height_of[h]) * sizeof(struct expert_tile));
    }
    l.dxa = at;
    l.work = at + (backward ? cuda_round((size_t)(rows * r) * 2) : 0);
    for (int e = 0; e < experts->n && decoded == 0; e++)
        if (!linear_fused(&w[e])) decoded = cuda_round((size_t)(linear_decoded_part(dev, w, backward) * (backward ? w->n_out : whole(w->n_in, 8))) * 2);
    const size_t sums = cuda_round((size_t)(linear_pieces(backward ? w->n_out : w->n_in) * rows * r) * 4);
    l.bytes = l.work + (sums > decoded ? sums : decoded);
    return l;
}
extern "C" size_t cuda_scratch_experts(const struct pw_dev *dev, int64_t rows, const struct pw_experts *experts, bool backward)
{
    return rows > 0 ? layout_of(dev, rows, experts, backward).bytes : 0;
}

/* ---- the group ---- */

struct group_entries { struct expert_entry e[GROUP]; };
struct group_tiles { struct expert_tile *to[HEIGHTS]; int n[HEIGHTS]; };
static_assert(sizeof(group_entries) + 1024 <= 32764, "a kernel's parameters");

/* One block: entries first .. first + n of the table; tiles when they are the last. */
__global__ void __launch_bounds__(THREADS) group_kernel(struct expert_entry *__restrict__ table, const __grid_constant__ group_entries entries, int first, int n, int experts,
                                                        const struct group_tiles tiles, const int32_t *__restrict__ starts, int rows)
{
    SIMT_SHARED(int[PW_EXPERTS_MAX + 1], before); /* tiles of the experts before each */
    const int thread = (int)threadIdx.x;
    for (int i = thread; i < n; i += THREADS) table[first + i] = entries.e[i];
    if (first + n < experts) return;
    for (int h = 0; h < HEIGHTS; h++) {
        const int height = h == TILES_SKINNY ? (int)SKINNY_TILE : h == TILES_SMALL ? 64 : 128;
        if (thread < 32) { /* each lane a stretch of the experts */
            const int each = (experts + 31) / 32, end = min(experts, (thread + 1) * each);
            auto tiles_of = [&](int e) { return (max(0, min(starts[e + 1], rows) - max(starts[e], 0)) + height - 1) / height; };
            int64_t mine = 0, sum; /* starts that are none may say anything */
            for (int e = thread * each; e < end; e++) mine += tiles_of(e);
            sum = mine;
#pragma unroll
            for (int d = 1; d < 32; d <<= 1) {
                const int64_t other = __shfl_sync(0xffffffffu, sum, thread >= d ? thread - d : thread);
                if (thread >= d) sum += other;
            }
            int64_t at = sum - mine;
            for (int e = thread * each; e < end; e++) {
                before[e] = (int)min(at, (int64_t)INT32_MAX);
                at += tiles_of(e);
            }
            if (thread == 31) before[experts] = (int)min(sum, (int64_t)INT32_MAX);
        }
        __syncthreads();
        for (int t = thread; t < tiles.n[h]; t += THREADS) {
            int low = 0, high = experts; /* before[low] <= t < before[high] */
            while (high - low > 1) {
                const int middle = (low + high) / 2;
                if (before[middle] <= t) low = middle;
                else high = middle;
            }
            tiles.to[h][t] = t < before[experts] ? expert_tile{low, (t - before[low]) * height} : expert_tile{-1, 0};
        }
        __syncthreads(); /* before the counts are written again */
    }
}

struct call {
    struct pw_dev *dev;
    const char *op;
    const struct pw_experts *experts;
    const int32_t *starts;
    struct pw_drop drop;
    int64_t rows;
    struct layout l;
    char *scratch;
    float *work;
    bool fused, words, a_words, b_words; /* of all experts */
};

static struct call call_of(struct pw_dev *dev, const char *op, const struct pw_experts *experts, struct pw_tensor starts, int64_t rows, struct pw_drop drop, bool backward)
{
    struct call k = {dev, op, experts, (const int32_t *)starts.data, drop, rows, layout_of(dev, rows, experts, backward), (char *)dev->scratch, NULL, true, true, true, true};
    k.work = (float *)(k.scratch + k.l.work);
    for (int e = 0; e < experts->n; e++) {
        const struct pw_weight *w = &experts->w[e];
        k.fused = k.fused && linear_fused(w);
        k.words = k.words && linear_words(w);
        if (!w->lora) continue;
        k.a_words = k.a_words && tile_words(w->lora->a.data, w->n_in, w->n_in);
        k.b_words = k.b_words && tile_words(w->lora->b.data, w->lora->r, w->lora->r);
    }
    return k;
}

static struct expert_group group_of(const struct call *k, enum height h, enum expert_operand operand)
{
    return {(const struct expert_entry *)k->scratch, (const struct expert_tile *)(k->scratch + k->l.tiles[h]), k->experts->n, (int)expert_tiles(k->rows, k->experts->n, height_of[h]), operand};
}

static int put_group(const struct call *k, const struct pw_linear_grads *g)
{
    const int all = k->experts->n;
    struct group_tiles tiles;
    struct group_entries entries = {};
    for (int h = 0; h < HEIGHTS; h++) {
        tiles.to[h] = (struct expert_tile *)(k->scratch + k->l.tiles[h]);
        tiles.n[h] = (int)expert_tiles(k->rows, all, height_of[h]);
    }
    for (int first = 0; first < all; first += GROUP) {
        const int n = (int)least(GROUP, all - first);
        for (int i = 0; i < n; i++) {
            const struct pw_weight *w = &k->experts->w[first + i];
            const struct cuda_weight c = cuda_weight_of(w);
            struct expert_entry *e = &entries.e[i];
            *e = {c.data, c.absmax, c.absmax_q, c.nested_absmax, c.nested_code, w->bias, NULL, NULL, NULL, NULL, c.nested_offset, 0};
            if (w->lora) {
                e->a = (const float *)w->lora->a.data;
                e->b = (const float *)w->lora->b.data;
                e->scale = (float)w->lora->scale;
            }
            if (g) e->da = (float *)g[first + i].da.data, e->db = (float *)g[first + i].db.data;
        }
        CUDA_LAUNCH(k->dev, k->op, group_kernel, 1, THREADS, 0, (struct expert_entry *)k->scratch, entries, first, n, all, tiles, k->starts, (int)k->rows);
    }
    return 0;
}

/* ---- products of the adapters ---- */

/* out (rows, R) = factor * (keep x) A^T, or scale x B */
static int low_rows(const struct call *k, bf16 *out, struct pw_tensor x, bool turned, float factor)
{
    const int64_t terms = x.shape[1], r = k->experts->w->lora->r;
    struct tile_args g = tile_args_of(x, tile_view(NULL, turned ? r : terms), turned ? k->b_words : k->a_words, k->rows, r, terms, LINEAR_PIECE, k->work, r);
    g.group = group_of(k, TILES_SMALL, turned ? EXPERT_B : EXPERT_A);
    g.c_f32 = true;
    g.c_piece = k->rows * r;
    g.span = k->starts;
    if (!turned) g.drop = cuda_drop_of(k->drop);
    PW_PASS(turned ? tile_low_nn(k->dev, k->op, &g) : tile_low_nt(k->dev, k->op, &g));
    return linear_pieces_store(k->dev, k->op, out, k->work, k->rows * r, linear_pieces(terms), factor);
}

/* da (R, M), or db (M, R), of each expert += factor * (keep a)^T b over its rows; for db also times its scale */
static int low_weight(const struct call *k, enum expert_operand operand, struct pw_tensor a, const bf16 *b, float factor)
{
    const int64_t m = a.shape[1], r = k->experts->w->lora->r;
    const bool is_a = operand == EXPERT_A;
    struct tile_args g = tile_args_of(a, tile_view(b, r), tile_words(b, r, r), m, r, k->rows, whole(k->rows, TILE_K), NULL, is_a ? m : r);
    g.group = group_of(k, TILES_SMALL, operand);
    g.c_f32 = true;
    g.c_turned = is_a;
    g.alpha = factor;
    g.beta = 1;
    g.span = k->starts;
    if (is_a) g.drop = cuda_drop_of(k->drop);
    return tile_low_tn(k->dev, k->op, &g);
}

/* ---- forward ---- */

static bool is_few(const struct call *k) { return k->rows <= FEW_ROWS || k->rows / k->experts->n <= FEW_EACH; }
/* A forced way is for tests that compare ways of a linear layer: there the tiles are it. */
static bool is_skinny(const struct call *k)
{
    return (k->rows <= SKINNY_ROWS || k->rows <= SKINNY_EACH * (int64_t)k->experts->n) && k->fused && cuda_of(k->dev)->hooks.linear_path == CUDA_LINEAR_AUTO;
}

static int forward(const struct call *k, struct pw_tensor y, struct pw_tensor xa, struct pw_tensor x)
{
    const struct pw_weight *w = k->experts->w;
    const bool few = is_few(k);
    struct tile_args g = tile_args_of(x, cuda_weight_of(w), k->words, k->rows, w->n_out, w->n_in, whole(w->n_in, TILE_K), y.data, w->n_out);
    g.group = group_of(k, few ? TILES_SMALL : TILES_BIG, EXPERT_W);
    g.span = k->starts;
    if (w->lora) tile_add_low(&g, w->lora, (const bf16 *)xa.data, w->lora->b, (float)w->lora->scale);
    return few ? tile_nt_few(k->dev, k->op, cuda_decode_kind(w), &g) : tile_nt(k->dev, k->op, cuda_decode_kind(w), &g);
}

/* Expert e alone, decoded first. */
static int forward_decoded(const struct call *k, int e, struct pw_tensor y, struct pw_tensor xa, struct pw_tensor x)
{
    const struct pw_weight *w = &k->experts->w[e];
    const int64_t part = linear_decoded_part(k->dev, w, false), ld = whole(w->n_in, 8);
    for (int64_t n = 0; n < w->n_out; n += part) {
        const int64_t columns = least(part, w->n_out - n);
        struct tile_args g = tile_args_of(x, tile_view(k->work, ld), true, k->rows, columns, w->n_in, whole(w->n_in, TILE_K), (bf16 *)y.data + n, w->n_out);
        PW_PASS(linear_unpack(k->dev, k->op, (bf16 *)k->work, columns, ld, w, n, 0));
        g.bias = w->bias ? w->bias + n : NULL;
        g.span = k->starts + e;
        if (w->lora) {
            tile_add_low(&g, w->lora, (const bf16 *)xa.data, w->lora->b, (float)w->lora->scale);
            g.low_w += n * w->lora->r;
        }
        PW_PASS(is_few(k) ? tile_nt_few(k->dev, k->op, DECODE_BF16, &g) : tile_nt(k->dev, k->op, DECODE_BF16, &g));
    }
    return 0;
}

extern "C" int cuda_experts_fwd(struct pw_dev *dev, struct pw_tensor y, struct pw_tensor xa, struct pw_tensor x, struct pw_tensor starts, const struct pw_experts *experts, struct pw_drop drop)
{
    const struct pw_weight *w = experts->w;
    if (x.shape[0] == 0) return 0;
    const struct call k = call_of(dev, "experts_fwd", experts, starts, x.shape[0], drop, false);
    const struct cuda_drop d = cuda_drop_of(drop);
    PW_PASS(linear_known(dev, k.op, w));
    PW_PASS(put_group(&k, NULL));
    const struct expert_group first = group_of(&k, TILES_SKINNY, EXPERT_A), all = group_of(&k, TILES_SKINNY, EXPERT_W);
    if (w->lora) PW_PASS(is_skinny(&k) && d.threshold == 0 ? skinny_experts(dev, xa, xa, x, w, &first, k.starts) : low_rows(&k, (bf16 *)xa.data, x, false, d.inverse));
    if (is_skinny(&k)) return skinny_experts(dev, y, xa, x, w, &all, k.starts);
    if (k.fused) return forward(&k, y, xa, x);
    for (int e = 0; e < experts->n; e++) PW_PASS(forward_decoded(&k, e, y, xa, x));
    return 0;
}

/* ---- backward ---- */

static int backward_x(const struct call *k, struct pw_tensor dx, struct pw_tensor dy, const bf16 *dxa)
{
    const struct pw_weight *w = k->experts->w;
    struct tile_args g = tile_args_of(dy, cuda_weight_of(w), k->words, k->rows, w->n_in, k->fused ? w->n_out : 0, whole(w->n_out, TILE_K), dx.data, w->n_in);
    g.group = group_of(k, TILES_BIG, EXPERT_W);
    g.beta = 1;
    g.span = k->starts;
    g.drop = cuda_drop_of(k->drop);
    if (w->lora) tile_add_low(&g, w->lora, dxa, w->lora->a, 1);
    if (k->fused) return tile_nn(k->dev, k->op, cuda_decode_kind(w), &g);
    if (w->lora) PW_PASS(tile_nn(k->dev, k->op, DECODE_BF16, &g)); /* no terms of W: the adapters alone */
    const int64_t part = linear_decoded_part(k->dev, w, true);
    for (int e = 0; e < k->experts->n; e++)
        for (int64_t n = 0; n < w->n_in; n += part) {
            struct tile_args p = tile_args_of(dy, tile_view(k->work, part), true, k->rows, least(part, w->n_in - n), w->n_out, whole(w->n_out, TILE_K), (bf16 *)dx.data + n, w->n_in);
            p.beta = 1;
            p.span = k->starts + e;
            PW_PASS(linear_unpack(k->dev, k->op, (bf16 *)k->work, w->n_out, part, &k->experts->w[e], 0, n));
            PW_PASS(tile_nn(k->dev, k->op, DECODE_BF16, &p));
        }
    return 0;
}

extern "C" int cuda_experts_bwd(struct pw_dev *dev, struct pw_tensor dx, const struct pw_linear_grads *g, struct pw_tensor dy, struct pw_tensor x, struct pw_tensor xa, struct pw_tensor starts,
                                const struct pw_experts *experts, struct pw_drop drop)
{
    if (dy.shape[0] == 0) return 0;
    const struct call k = call_of(dev, "experts_bwd", experts, starts, dy.shape[0], drop, true);
    const struct pw_weight *w = experts->w;
    bf16 *dxa = (bf16 *)(k.scratch + k.l.dxa);
    bool da = false, db = false;
    for (int e = 0; g && e < experts->n; e++) da |= g[e].da.data != NULL, db |= g[e].db.data != NULL;
    PW_PASS(linear_known(dev, k.op, w));
    PW_PASS(put_group(&k, g));
    if (w->lora && (da || dx.data)) PW_PASS(low_rows(&k, dxa, dy, true, 1));
    if (db) PW_PASS(low_weight(&k, EXPERT_B, dy, (const bf16 *)xa.data, 1));
    if (da) PW_PASS(low_weight(&k, EXPERT_A, x, dxa, cuda_drop_of(drop).inverse));
    return dx.data ? backward_x(&k, dx, dy, dxa) : 0;
}
