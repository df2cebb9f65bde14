/* Attention over keys and values in pages: the bytes of the same keys in contiguous rows, whatever the size and the order of the pages, on every device and
 * for every type of cache. What no sequence owns is NaN, so that a row too many or of another page shows. And what is refused. */
#include <math.h>
#include <string.h>
#include "base/error.h"
#include "base/memory.h"
#include "base/rng.h"
#include "kernels/backend.h"
#include "kernels/op.h"
#include "tests/support.h"

enum { SEQS = 5, H = 4, G = 2, D_MOST = 256, SHARED = 37, PLACES = 1024 };
static const struct { int n_q, before; bool prefix; } shape[SEQS] = { { 1, 200, true }, { 40, 0, false }, { 17, 30, true }, { 3, 130, false }, { 16, 16, true } };

struct on { struct pw_dev *dev; void *memory[16]; int n; };
static void *place(struct on *o, const void *from, size_t bytes)
{
    ck_assert(o->n < 16);
    ck_ok(o->dev->backend->take(o->dev, &o->memory[o->n], bytes + 1));
    if (from) ck_ok(pw_dev_put(o->dev, o->memory[o->n], from, bytes));
    return o->memory[o->n++];
}
static void *place_act(struct on *o, const float *x, size_t n)
{
    if (o->dev->act == PW_F32) return place(o, x, n * 4);
    uint16_t *b = pw_alloc(n * 2 + 1);
    for (size_t i = 0; i < n; i++) b[i] = pw_f32_to_bf16(x[i]);
    void *p = place(o, b, n * 2);
    pw_free(b);
    return p;
}

/* The lists of the sequences: contiguous with page 0, else in pages of so many rows in an order that is drawn. `row_of` is made here from the contract. */
struct layout { int32_t q_start[SEQS + 1], start[SEQS], len[SEQS], prefix_start[SEQS], prefix_len[SEQS], pages[PLACES]; int64_t n_pages, page, pool; };
static int64_t take_range(struct layout *l, int64_t *next, int64_t len)
{
    const int64_t at = *next;
    *next += l->page ? (len + l->page - 1) / l->page : len;
    return at;
}
static void lay_out(struct layout *l, int64_t page)
{
    struct pw_rng r = pw_rng_make((uint64_t)page, PW_STREAM_TEST);
    memset(l, 0, sizeof *l);
    l->page = page;
    int64_t next = 0;
    for (int i = 0; i < SEQS; i++) {
        l->q_start[i + 1] = l->q_start[i] + shape[i].n_q;
        l->len[i] = shape[i].n_q + shape[i].before;
        l->start[i] = (int32_t)take_range(l, &next, l->len[i]);
        if (i == 1) l->prefix_start[0] = (int32_t)take_range(l, &next, SHARED); /* between the others */
    }
    for (int i = 0; i < SEQS; i++) {
        l->prefix_len[i] = shape[i].prefix ? SHARED : 0;
        l->prefix_start[i] = shape[i].prefix ? l->prefix_start[0] : 0;
    }
    l->pool = next;
    if (!page) return;
    const int64_t there = next + 3;
    ck_assert(there <= PLACES);
    for (int64_t i = 0; i < there; i++) l->pages[i] = (int32_t)i;
    for (int64_t i = there - 1; i > 0; i--) {
        const int64_t j = (int64_t)pw_rng_below(&r, (uint64_t)i + 1);
        const int32_t p = l->pages[i];
        l->pages[i] = l->pages[j];
        l->pages[j] = p;
    }
    l->n_pages = next;
    l->pool = there * page + (page > 1); /* and a row that is in no page */
}
static int64_t row_of(const struct layout *l, int64_t start, int64_t j) { return l->page ? l->pages[start + j / l->page] * l->page + j % l->page : start + j; }

/* Keys (which = 0) or values of all that is owned at its rows, the same numbers wherever they lie; the rest NaN. */
static float *fill(const struct layout *l, int which, int64_t width)
{
    float *x = pw_alloc((size_t)(l->pool * width) * 4);
    for (int64_t i = 0; i < l->pool * width; i++) x[i] = NAN;
    for (int s = 0; s <= SEQS; s++) {
        struct pw_rng r = pw_rng_make((uint64_t)(10 * s + which), PW_STREAM_TEST);
        for (int64_t j = 0; j < (s < SEQS ? l->len[s] : SHARED); j++)
            for (int64_t e = 0; e < width; e++)
                x[row_of(l, s < SEQS ? l->start[s] : l->prefix_start[0], j) * width + e] = pw_bf16_to_f32(pw_f32_to_bf16((float)(3 * pw_rng_uniform(&r) - 1.5)));
    }
    return x;
}

static size_t attend(struct on *o, const struct layout *l, enum pw_dtype type, int64_t d, int64_t window, void *out, float *lse)
{
    const int64_t rows = l->q_start[SEQS];
    const enum pw_dtype act = o->dev->act;
    struct pw_cache cache = { .k_scale = pw_none(), .v_scale = pw_none() };
    struct pw_tensor *pools[2] = { &cache.k, &cache.v }, *scales[2] = { &cache.k_scale, &cache.v_scale };
    struct pw_seqs seqs = { SEQS, l->q_start, l->start, l->len, l->prefix_start, l->prefix_len, NULL, 0, l->page ? l->pages : NULL, l->n_pages, l->page };
    int32_t *all = pw_alloc((size_t)l->pool * 4);
    for (int64_t i = 0; i < l->pool; i++) all[i] = (int32_t)i;
    const struct pw_tensor to = pw_tensor1(place(o, all, (size_t)l->pool * 4), PW_I32, l->pool);
    for (int i = 0; i < 2; i++) {
        float *x = fill(l, i, G * d);
        *pools[i] = pw_tensor3(place(o, NULL, (size_t)(l->pool * G * d) * pw_dtype_bytes(type)), type, l->pool, G, d);
        if (type == PW_I8) *scales[i] = pw_tensor2(place(o, NULL, (size_t)(l->pool * G) * 4), PW_F32, l->pool, G);
        ck_ok(pw_cache_put(o->dev, *pools[i], *scales[i], pw_tensor3(place_act(o, x, (size_t)(l->pool * G * d)), act, l->pool, G, d), to));
        pw_free(x);
    }
    pw_free(all);
    struct pw_rng r = pw_rng_make(77, PW_STREAM_TEST);
    float *x = pw_alloc((size_t)(rows * H * d) * 4);
    for (int64_t i = 0; i < rows * H * d; i++) x[i] = (float)(4 * pw_rng_uniform(&r) - 2);
    const struct pw_tensor q = pw_tensor3(place_act(o, x, (size_t)(rows * H * d)), act, rows, H, d), y = pw_tensor3(place(o, x, (size_t)(rows * H * d) * 4), act, rows, H, d);
    pw_free(x);
    const struct pw_tensor sums = pw_tensor2(place(o, NULL, (size_t)(rows * H) * 4), PW_F32, rows, H);
    ck_ok(pw_dev_reserve(o->dev, pw_scratch_attn(o->dev, rows, l->pool, H, G, (int)d, false)));
    ck_ok(pw_seqs_put(o->dev, place(o, NULL, pw_seqs_bytes(SEQS, l->n_pages)), &seqs));
    ck_ok(pw_cache_attn(o->dev, y, sums, q, &cache, &seqs, &(struct pw_attn){ .scale = 1 / sqrt((double)d), .window = window }));
    ck_ok(pw_dev_get(o->dev, out, y.data, pw_bytes(y)));
    ck_ok(pw_dev_get(o->dev, lse, sums.data, pw_bytes(sums)));
    for (int i = 0; i < o->n; i++) o->dev->backend->give(o->dev, o->memory[i]);
    o->n = 0;
    return pw_bytes(y);
}

/* _i: device, then type of cache. Pages of one row, odd ones, one that all fits into; with and without a window; rows on 16 bytes and not; then every other head dimension that kernels are made
 * for, with odd pages and whole ones. */
START_TEST(same_bytes)
{
    static const int64_t pages[] = { 1, 7, 16, 64, 300 }, dims[] = { 32, 20, 80, 96, 128, 256 }, windows[] = { 0, 50, 50, 0, 50, 0 };
    static struct layout plain, paged;
    const char *const kind = _i / 2 == 0 ? "ref" : _i / 2 == 1 ? "cpu" : test_card();
    struct on o = { 0 };
    ck_ok(pw_dev_open(&o.dev, &(struct pw_dev_options){ .kind = kind, .threads = 2 }));
    const enum pw_dtype types[] = { PW_I8, _i % 2 ? PW_BF16 : o.dev->act };
    lay_out(&plain, 0);
    const size_t n = (size_t)(plain.q_start[SEQS] * H * D_MOST);
    float *want = pw_alloc(n * 4), *got = pw_alloc(n * 4), lse[2][128 * H];
    ck_assert(plain.q_start[SEQS] <= 128);
    for (int t = _i % 2 ? 1 : 0; t < 2; t++)
        for (int k = 0; k < 6; k++) {
            const size_t bytes = attend(&o, &plain, types[t], dims[k], windows[k], want, lse[0]);
            for (int64_t i = 0; i < plain.q_start[SEQS] * H; i++) ck_assert_msg(isfinite(lse[0][i]), "%s: lse of row %d: %g", kind, (int)i, (double)lse[0][i]);
            for (int p = 0; p < 5; p++) {
                if (k > 1 && pages[p] != 7 && pages[p] != 16) continue;
                lay_out(&paged, pages[p]);
                memset(got, 0, n * 4);
                ck_assert(attend(&o, &paged, types[t], dims[k], windows[k], got, lse[1]) == bytes);
                ck_assert_msg(memcmp(want, got, bytes) == 0 && memcmp(lse[0], lse[1], (size_t)(plain.q_start[SEQS] * H) * 4) == 0,
                              "%s, cache of %s, d = %d, pages of %d: other bytes than contiguous rows", kind, pw_dtype_name(types[t]), (int)dims[k], (int)pages[p]);
            }
        }
    pw_free(want);
    pw_free(got);
    pw_dev_close(o.dev);
}
END_TEST

START_TEST(refused)
{
    struct pw_dev *dev;
    float q[4] = { 0 }, out[4], lse[1], k[40] = { 0 }, v[40] = { 0 }, dk[40], dv[40];
    const int32_t q_start[2] = { 0, 1 }, start = 1, len = 6;
    int32_t pages[3] = { 0, 2, 1 };
    struct pw_seqs s = { 1, q_start, &start, &len, NULL, NULL, NULL, 0, pages, 3, 3 };
    ck_ok(pw_dev_open(&dev, &(struct pw_dev_options){ .kind = "ref", .threads = 1 }));
    const struct pw_tensor tq = pw_tensor3(q, PW_F32, 1, 1, 4), to = pw_tensor3(out, PW_F32, 1, 1, 4), tk = pw_tensor3(k, PW_F32, 10, 1, 4), tv = pw_tensor3(v, PW_F32, 10, 1, 4), tl = pw_tensor2(lse, PW_F32, 1, 1);
    const struct pw_attn attn = { .scale = 1 };
#define FWD pw_attn_fwd(dev, to, tl, tq, tk, tv, &s, &attn)
    ck_ok(FWD);
    pages[2] = 3; /* rows 9 to 11 of 10 */
    ck_fails(FWD, PW_E_FAIL, "page 3 at place 2 outside the 3 pages there are");
    pages[2] = -1;
    ck_fails(FWD, PW_E_FAIL, "page -1 at place 2");
    pages[2] = 1;
    s.n_pages = 2;
    ck_fails(FWD, PW_E_FAIL, "keys: 2 pages from place 1 on, outside the 2 that are listed");
    s.n_pages = 3;
    s.page = 0;
    ck_fails(FWD, PW_E_FAIL, "3 pages of 0 rows");
    s.page = 3;
    const int32_t prefix = 2, prefix_len = 4;
    s.prefix_start = &prefix, s.prefix_len = &prefix_len;
    ck_fails(FWD, PW_E_FAIL, "prefix: 2 pages from place 2 on");
    s.prefix_start = s.prefix_len = NULL;
    ck_fails(pw_attn_bwd(dev, pw_none(), pw_tensor3(dk, PW_F32, 10, 1, 4), pw_tensor3(dv, PW_F32, 10, 1, 4), tq, to, tl, tq, tk, tv, &s, &attn), PW_E_FAIL, "no backward pass over pages");
    pw_dev_close(dev);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("pages");
    TCase *t = tcase_create("pages");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, same_bytes, 0, 6);
    tcase_add_test(t, refused);
    suite_add_tcase(s, t);
    return test_run(s);
}
