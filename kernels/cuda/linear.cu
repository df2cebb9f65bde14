/* Linear layers: y = x W^T + bias + adapter, and their gradients, over any weight.
 *
 * Three ways to multiply, chosen by linear_path():
 *   skinny    up to 16 rows: bound by reading W once; skinny.cu, skinny_mma.cu
 *   fused     W is decoded while it is staged for the tensor cores (tile.h); adapter and bias in the same pass, y is rounded once
 *   decoded   W is decoded to bf16 a piece at a time (hooks.decoded_bytes at most) and multiplied by gemm.h; a dense bf16 weight is used where it
 *             is. Adapter and bias are written to y first and the product is added: y is rounded twice, dx too
 * The adapter's narrow products run over pieces of k of a fixed size whose sums lie in scratch and are added in order:
 *   xa  (T, R) = dropout(x) A^T      pieces of LINEAR_PIECE along K          dxa (T, R) = scale dy B      pieces of LINEAR_PIECE along N, kept in bf16
 *   da  (R, K) += dxa^T dropout(x)   pieces along T, LINEAR_PIECES at most   db  (N, R) += scale dy^T xa  the same
 * In every way the sums of a row are made in an order that does not depend on the number of rows; ways differ in it, and so do 1 to 4, 5 to 16
 * and more rows. (gemm.h says what holds for the library.) */
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/tile.h"

enum {
    THREADS = 256,
    SLAB = 2048,         /* rows whose partial sums exist at a time */
    FEW_ROWS = 64,       /* up to here blocks of 64 x 32: W is read by more blocks, each decodes its part once */
    FUSED_ROWS = 512,    /* see linear_path */
};

/* ---- which way ---- */

bool linear_words(const struct pw_weight *w)
{
    return decode_elements(cuda_decode_kind(w)) > 0 ? (uintptr_t)w->data % 2 == 0 : cuda_weight_fast(w);
}
bool linear_fused(const struct pw_weight *w)
{
    const enum decode_kind kind = cuda_decode_kind(w);
    return kind != DECODE_KINDS && (linear_words(w) || kind == DECODE_F32 || kind == DECODE_BF16);
}

/* Without a choice measured for the shape (kernels/choices.h). Not measured on a card. Decoding to memory writes and reads 4 bytes a weight whatever the number of rows, the fused kernel decodes again for
 * each 128 rows but moves 0.5 to 2 bytes: with 512 rows the product itself (1024 operations a weight) takes about as long as that traffic on cards
 * with 150 TFLOP/s and 1 TB/s. */
static const struct pw_choice *choice_of(const struct pw_dev *dev, int64_t rows, const struct pw_weight *w, bool backward)
{
    int64_t bucket = PW_CHOICE_LEAST;
    while (bucket < rows && bucket < PW_CHOICE_MOST) bucket *= 2;
    for (size_t i = 0; i < cuda_of(dev)->n_choices; i++) {
        const struct pw_choice *c = &cuda_of(dev)->choices[i];
        if (c->rows == bucket && c->backward == backward && c->n_out == w->n_out && c->n_in == w->n_in && c->type == w->type && (w->type != PW_Q_DENSE || c->dtype == w->dtype)) return c;
    }
    return NULL;
}
static enum cuda_linear_path linear_path(const struct pw_dev *dev, int64_t rows, const struct pw_weight *w, bool backward)
{
    const int forced = cuda_of(dev)->hooks.linear_path;
    if (!backward && rows <= skinny_rows(w) && (forced == CUDA_LINEAR_AUTO || forced == CUDA_LINEAR_SKINNY)) return CUDA_LINEAR_SKINNY;
    if (!linear_fused(w)) return CUDA_LINEAR_DECODED;
    if (forced == CUDA_LINEAR_DECODED || forced == CUDA_LINEAR_FUSED) return (enum cuda_linear_path)forced;
    const struct pw_choice *const choice = choice_of(dev, rows, w, backward);
    if (choice) return choice->way == PW_WAY_FUSED ? CUDA_LINEAR_FUSED : CUDA_LINEAR_DECODED;
    return rows < FUSED_ROWS ? CUDA_LINEAR_FUSED : CUDA_LINEAR_DECODED;
}
/* Whether this many rows, or fewer, are multiplied after decoding: scratch that is enough for a pass is enough for a smaller one. */
static bool may_decode(const struct pw_dev *dev, int64_t rows, const struct pw_weight *w, bool backward)
{
    bool may = linear_path(dev, rows, w, backward) == CUDA_LINEAR_DECODED;
    for (int64_t fewer = PW_CHOICE_LEAST; !may && cuda_of(dev)->n_choices && fewer < rows; fewer *= 2) may = linear_path(dev, fewer, w, backward) == CUDA_LINEAR_DECODED;
    return may;
}
int linear_known(struct pw_dev *dev, const char *op, const struct pw_weight *w)
{
    PW_CHECK(cuda_decode_kind(w) != DECODE_KINDS, PW_E_UNSUPPORTED, "%s: device %s has no kernel for it yet: weights of type %s", op, dev->kind, pw_qtype_name(w->type));
    return 0;
}
static bool in_place(const struct pw_weight *w) { return w->type == PW_Q_DENSE && w->dtype == PW_BF16; }

/* ---- scratch ---- */

static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t whole(int64_t n, int64_t of) { return (n + of - 1) / of * of; }
int64_t linear_pieces(int64_t n) { return (n + LINEAR_PIECE - 1) / LINEAR_PIECE; }
int64_t linear_token_piece(int64_t tokens) { return most(LINEAR_PIECE, whole((tokens + LINEAR_PIECES - 1) / LINEAR_PIECES, TILE_K)); }
int64_t linear_token_pieces(int64_t tokens) { return (tokens + linear_token_piece(tokens) - 1) / linear_token_piece(tokens); }

int64_t linear_decoded_part(const struct pw_dev *dev, const struct pw_weight *w, bool backward)
{
    const int64_t bytes = (int64_t)cuda_of(dev)->hooks.decoded_bytes, all = backward ? whole(w->n_in, 8) : w->n_out;
    const int64_t line = 2 * (backward ? w->n_out : whole(w->n_in, 8));
    return least(all, most(backward ? 64 : 32, bytes / line / 64 * 64));
}
/* Backward: dxa (T, R) bf16. Then, one after the other in the same place: partial sums; the decoded part and the library's workspace. */
struct layout { size_t dxa, shared, decoded, workspace, bytes; };
static struct layout layout_of(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w, bool backward)
{
    struct layout l = {};
    const int64_t r = w->lora ? w->lora->r : 0, slab = least(tokens, SLAB);
    int64_t partial = 0;
    size_t product = 0;
    if (backward) {
        const int64_t t = linear_token_pieces(tokens);
        l.shared = cuda_round((size_t)(tokens * r) * 2);
        partial = most(linear_pieces(w->n_out) * slab * r, t * most(r * most(w->n_in, w->n_out), w->n_out));
    } else partial = linear_pieces(w->n_in) * slab * r;
    l.decoded = l.workspace = l.shared;
    if (may_decode(dev, tokens, w, backward)) {
        const size_t decoded = in_place(w) ? 0 : cuda_round((size_t)(linear_decoded_part(dev, w, backward) * (backward ? w->n_out : whole(w->n_in, 8))) * 2);
        l.workspace = l.decoded + decoded;
        product = decoded + GEMM_WORKSPACE;
    } else if (backward && w->type == PW_Q_DENSE) product = GEMM_WORKSPACE; /* dw */
    const size_t sums = cuda_round((size_t)partial * 4);
    l.bytes = l.shared + (sums > product ? sums : product);
    return l;
}
extern "C" size_t cuda_scratch_linear(const struct pw_dev *dev, int64_t tokens, const struct pw_weight *w, bool backward)
{
    if (pw_weight_is_dora(w)) return pw_dora_scratch(dev, tokens, w, backward);
    return tokens > 0 ? layout_of(dev, tokens, w, backward).bytes : 0;
}

/* ---- decoding a part of W to bf16 ---- */

/* out (rows, ld) = columns first_col .. of rows first_row ..; eight elements a thread, ld a multiple of 8, zeros past the end of a row. */
template <enum decode_kind KIND, bool FAST> __global__ void __launch_bounds__(THREADS) unpack_kernel(bf16 *__restrict__ out, int64_t ld, const cuda_weight w, int64_t first_row, int64_t first_col)
{
    SIMT_SHARED(float[16], table);
    if constexpr (decode_uses_table(KIND)) {
        decode_table<KIND>(w, table);
        __syncthreads();
    }
    const int64_t row = blockIdx.y, col = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 8;
    if (col >= ld) return;
    uint32_t p[4];
    decode8_bf16<KIND, FAST>(w, table, first_row + row, first_col + col, p);
    *(uint4 *)(out + row * ld + col) = make_uint4(p[0], p[1], p[2], p[3]);
}
int linear_unpack(struct pw_dev *dev, const char *op, bf16 *out, int64_t rows, int64_t ld, const struct pw_weight *w, int64_t first_row, int64_t first_col)
{
    enum { MOST = 65535 }; /* blocks in y */
    for (int64_t done = 0; done < rows; done += MOST) {
        const dim3 grid(cuda_parts(ld, THREADS * 8), (unsigned)least(MOST, rows - done));
        CUDA_BY_KIND(w, op, kind,
                     if (linear_words(w)) CUDA_LAUNCH(dev, op, (unpack_kernel<kind, true>), grid, THREADS, 0, out + done * ld, ld, cuda_weight_of(w), first_row + done, first_col);
                     else CUDA_LAUNCH(dev, op, (unpack_kernel<kind, false>), grid, THREADS, 0, out + done * ld, ld, cuda_weight_of(w), first_row + done, first_col))
    }
    return 0;
}

/* ---- sums of pieces ---- */

/* out[i] = or += alpha * (partial[0][i] + partial[1][i] + ..), in order */
template <class O, bool ADD> __global__ void __launch_bounds__(THREADS) pieces_kernel(O *__restrict__ out, const float *__restrict__ partial, int64_t n, int64_t pieces, float alpha)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    float sum = 0;
    for (int64_t p = 0; p < pieces; p++) sum += partial[p * n + i];
    store(out, (size_t)i, ADD ? load(out, (size_t)i) + alpha * sum : alpha * sum);
}
int linear_pieces_store(struct pw_dev *dev, const char *op, bf16 *out, const float *partial, int64_t n, int64_t pieces, float alpha)
{
    CUDA_LAUNCH(dev, op, (pieces_kernel<bf16, false>), cuda_parts(n, THREADS), THREADS, 0, out, partial, n, pieces, alpha);
    return 0;
}
int linear_pieces_add(struct pw_dev *dev, const char *op, float *out, const float *partial, int64_t n, int64_t pieces, float alpha)
{
    CUDA_LAUNCH(dev, op, (pieces_kernel<float, true>), cuda_parts(n, THREADS), THREADS, 0, out, partial, n, pieces, alpha);
    return 0;
}
/* partial[z][n] = sum of rows of piece z; a thread a column, so that a warp reads whole lines */
__global__ void __launch_bounds__(THREADS) columns_kernel(float *__restrict__ partial, const bf16 *__restrict__ x, int64_t rows, int64_t width, int64_t piece)
{
    const int64_t col = (int64_t)blockIdx.x * THREADS + threadIdx.x, first = (int64_t)blockIdx.y * piece, end = min(rows, first + piece);
    if (col >= width) return;
    float sum = 0;
    for (int64_t t = first; t < end; t++) sum += load(x, (size_t)(t * width + col));
    partial[blockIdx.y * width + col] = sum;
}

/* ---- the adapter's products ---- */

/* out (T, R) = factor * (keep x) A^T, or factor * dy B */
static int low_rows(struct pw_dev *dev, const char *op, bf16 *out, struct pw_tensor x, struct pw_tensor low, bool turned, struct cuda_drop drop, float factor, float *partial)
{
    const int64_t tokens = x.shape[0], k = x.shape[1], r = turned ? low.shape[1] : low.shape[0], pieces = linear_pieces(k);
    for (int64_t t = 0; t < tokens; t += SLAB) {
        const int64_t rows = least(SLAB, tokens - t);
        struct tile_args g = tile_args_of(pw_rows(x, t, rows), tile_view(low.data, low.shape[1]), tile_words(low.data, low.shape[1], low.shape[1]), rows, r, k, LINEAR_PIECE, partial, r);
        g.c_f32 = true;
        g.c_piece = rows * r;
        g.drop = drop;
        g.drop_row = t;
        PW_PASS(turned ? tile_low_nn(dev, op, &g) : tile_low_nt(dev, op, &g));
        PW_PASS(linear_pieces_store(dev, op, out + t * r, partial, rows * r, pieces, factor));
    }
    return 0;
}
/* out (M, R), or (R, M) when turned, += factor * (keep a)^T b; a (T, M), b (T, R) */
static int low_weight(struct pw_dev *dev, const char *op, float *out, bool turned, struct pw_tensor a, const bf16 *b, int64_t r, struct cuda_drop drop, float factor, float *partial)
{
    const int64_t tokens = a.shape[0], m = a.shape[1];
    struct tile_args g = tile_args_of(a, tile_view(b, r), tile_words(b, r, r), m, r, tokens, linear_token_piece(tokens), partial, turned ? m : r);
    g.c_f32 = true;
    g.c_turned = turned;
    g.c_piece = m * r;
    g.drop = drop;
    PW_PASS(tile_low_tn(dev, op, &g));
    return linear_pieces_add(dev, op, out, partial, m * r, linear_token_pieces(tokens), factor);
}

/* ---- forward ---- */

static char *scratch_at(const struct pw_dev *dev, size_t at) { return (char *)dev->scratch + at; }

static int forward_fused(struct pw_dev *dev, struct pw_tensor y, struct pw_tensor xa, struct pw_tensor x, const struct pw_weight *w)
{
    struct tile_args g = tile_args_of(x, cuda_weight_of(w), linear_words(w), x.shape[0], w->n_out, w->n_in, whole(w->n_in, TILE_K), y.data, w->n_out);
    g.c_f32 = y.dtype == PW_F32;
    g.bias = w->bias;
    if (w->lora) tile_add_low(&g, w->lora, (const bf16 *)xa.data, w->lora->b, (float)w->lora->scale);
    return g.m <= FEW_ROWS ? tile_nt_few(dev, "linear_fwd", cuda_decode_kind(w), &g) : tile_nt(dev, "linear_fwd", cuda_decode_kind(w), &g);
}

static int forward_decoded(struct pw_dev *dev, struct pw_tensor y, struct pw_tensor xa, struct pw_tensor x, const struct pw_weight *w)
{
    const struct layout l = layout_of(dev, x.shape[0], w, false);
    const bool first = w->lora || w->bias;
    if (first) { /* no terms of W: adapter and bias alone */
        struct tile_args g = tile_args_of(x, tile_view(NULL, 0), false, x.shape[0], w->n_out, 0, TILE_K, y.data, w->n_out);
        g.c_f32 = y.dtype == PW_F32;
        g.bias = w->bias;
        if (w->lora) tile_add_low(&g, w->lora, (const bf16 *)xa.data, w->lora->b, (float)w->lora->scale);
        PW_PASS(tile_nt(dev, "linear_fwd", DECODE_BF16, &g));
    }
    const int64_t part = in_place(w) ? w->n_out : linear_decoded_part(dev, w, false), ld = in_place(w) ? w->n_in : whole(w->n_in, 8);
    const size_t each = pw_dtype_bytes(y.dtype);
    for (int64_t n = 0; n < w->n_out; n += part) {
        struct gemm_call c = {GEMM_NT, x.shape[0], least(part, w->n_out - n), w->n_in, (const bf16 *)x.data, w->n_in, (const bf16 *)w->data, ld,
                              (char *)y.data + (size_t)n * each, w->n_out, y.dtype == PW_F32, first ? 1.0f : 0.0f, scratch_at(dev, l.workspace)};
        if (!in_place(w)) {
            PW_PASS(linear_unpack(dev, "linear_fwd", (bf16 *)scratch_at(dev, l.decoded), c.n, ld, w, n, 0));
            c.b = (const bf16 *)scratch_at(dev, l.decoded);
        }
        PW_PASS(gemm_run(dev, "linear_fwd", &c));
    }
    return 0;
}

extern "C" int cuda_linear_fwd(struct pw_dev *dev, struct pw_tensor y, struct pw_tensor xa, struct pw_tensor x, const struct pw_weight *w, struct pw_drop drop)
{
    const int64_t tokens = x.shape[0];
    PW_PASS(linear_known(dev, "linear_fwd", w));
    if (tokens == 0) return 0;
    if (pw_weight_is_dora(w)) return pw_dora_fwd(dev, y, xa, x, w, drop);
    if (w->lora) {
        const struct cuda_drop d = cuda_drop_of(drop);
        const struct pw_weight a = pw_weight_dense(w->lora->a);
        if (tokens <= skinny_rows(&a) && d.threshold == 0 && cuda_of(dev)->hooks.linear_path == CUDA_LINEAR_AUTO) {
            PW_PASS(skinny_plain(dev, xa, x, &a));
        } else PW_PASS(low_rows(dev, "linear_fwd", (bf16 *)xa.data, x, w->lora->a, false, d, d.inverse, (float *)scratch_at(dev, 0)));
    }
    switch (linear_path(dev, tokens, w, false)) {
    case CUDA_LINEAR_SKINNY: return skinny_fwd(dev, y, xa, x, w);
    case CUDA_LINEAR_FUSED: return forward_fused(dev, y, xa, x, w);
    default: return forward_decoded(dev, y, xa, x, w);
    }
}

/* ---- backward ---- */

static int backward_x(struct pw_dev *dev, struct pw_tensor dx, struct pw_tensor dy, const bf16 *dxa, const struct pw_weight *w, struct cuda_drop drop, const struct layout *l)
{
    const int64_t tokens = dy.shape[0];
    const bool fused = linear_path(dev, tokens, w, true) == CUDA_LINEAR_FUSED;
    struct tile_args g = tile_args_of(dy, cuda_weight_of(w), linear_words(w), tokens, w->n_in, fused ? w->n_out : 0, whole(w->n_out, TILE_K), dx.data, w->n_in);
    g.beta = 1;
    g.drop = drop;
    if (w->lora) tile_add_low(&g, w->lora, dxa, w->lora->a, 1);
    if (fused) return tile_nn(dev, "linear_bwd", cuda_decode_kind(w), &g);
    if (w->lora) PW_PASS(tile_nn(dev, "linear_bwd", DECODE_BF16, &g)); /* no terms of W: the adapter alone */
    const int64_t part = in_place(w) ? w->n_in : linear_decoded_part(dev, w, true), ld = in_place(w) ? w->n_in : part;
    for (int64_t k = 0; k < w->n_in; k += part) {
        struct gemm_call c = {GEMM_NN, tokens, least(part, w->n_in - k), w->n_out, (const bf16 *)dy.data, w->n_out, (const bf16 *)w->data, ld,
                              (bf16 *)dx.data + k, w->n_in, false, 1.0f, scratch_at(dev, l->workspace)};
        if (!in_place(w)) {
            PW_PASS(linear_unpack(dev, "linear_bwd", (bf16 *)scratch_at(dev, l->decoded), w->n_out, ld, w, 0, k));
            c.b = (const bf16 *)scratch_at(dev, l->decoded);
        }
        PW_PASS(gemm_run(dev, "linear_bwd", &c));
    }
    return 0;
}

extern "C" int cuda_linear_bwd(struct pw_dev *dev, const struct pw_linear_grads *g, struct pw_tensor dy, struct pw_tensor x, struct pw_tensor xa, const struct pw_weight *w, struct pw_drop drop)
{
    const char *op = "linear_bwd";
    const int64_t tokens = dy.shape[0], r = w->lora ? w->lora->r : 0;
    PW_PASS(linear_known(dev, op, w));
    if (tokens == 0) return 0;
    if (pw_weight_is_dora(w)) return pw_dora_bwd(dev, g, dy, x, xa, w, drop);
    const struct layout l = layout_of(dev, tokens, w, true);
    const struct cuda_drop d = cuda_drop_of(drop), whole_x = cuda_drop_of({0, 0, 0});
    bf16 *dxa = (bf16 *)scratch_at(dev, 0);
    float *partial = (float *)scratch_at(dev, l.shared);
    if (g->dbias.data) {
        CUDA_LAUNCH(dev, op, columns_kernel, dim3(cuda_parts(w->n_out, THREADS), (unsigned)linear_token_pieces(tokens)), THREADS, 0, partial, (const bf16 *)dy.data, tokens, w->n_out, linear_token_piece(tokens));
        PW_PASS(linear_pieces_add(dev, op, (float *)g->dbias.data, partial, w->n_out, linear_token_pieces(tokens), 1));
    }
    if (g->db.data) PW_PASS(low_weight(dev, op, (float *)g->db.data, false, dy, (const bf16 *)xa.data, r, whole_x, (float)w->lora->scale, partial));
    if (r && (g->dx.data || g->da.data)) PW_PASS(low_rows(dev, op, dxa, dy, w->lora->b, true, whole_x, (float)w->lora->scale, partial));
    if (g->da.data) PW_PASS(low_weight(dev, op, (float *)g->da.data, true, x, dxa, r, d, d.inverse, partial));
    if (g->dx.data) PW_PASS(backward_x(dev, g->dx, dy, dxa, w, d, &l));
    if (g->dw.data) {
        const struct gemm_call c = {GEMM_TN, w->n_out, w->n_in, tokens, (const bf16 *)dy.data, w->n_out, (const bf16 *)x.data, w->n_in,
                                    g->dw.data, w->n_in, true, 1.0f, scratch_at(dev, l.workspace)};
        PW_PASS(gemm_run(dev, op, &c));
    }
    return 0;
}
