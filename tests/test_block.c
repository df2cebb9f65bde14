/* The block and the whole model: gradients against central differences in double, checkpointing, packing, backends. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "tests/support.h"
#include "tests/whole_model.h"

static const int packed[] = {7, 5, 0};

/* Central differences in double: truncation ~ h^2 * third derivative (up to a few 1e-9 here, where a head is normalised that was short), rounding
 * ~ 1e-16 * |L| / h = 3e-10. */
static void check_gradient(struct whole *w, const char *name, struct pw_tensor value, struct pw_tensor gradient, double *largest)
{
    const double h = 3e-6;
    const bool fast = getenv("PW_FAST") != NULL;           /* every element of the small tensors, a fifth of the others; PW_FAST: fewer */
    const int64_t step = pw_count(value) > 60 ? fast ? 67 : 5 : fast ? 7 : 1;
    for (int64_t i = 0; i < pw_count(value); i += step) {
        const double x = whole_get(value, i), got = whole_get(gradient, i);
        whole_set(value, i, x + h);
        const double above = whole_forward(w, false);
        whole_set(value, i, x - h);
        const double below = whole_forward(w, false);
        whole_set(value, i, x);
        const double want = (above - below) / (2 * h), err = fabs(got - want);
        ck_assert_msg(err <= 2e-8 + 1e-7 * fabs(want), "%s[%lld]: gradient %.12g, central difference %.12g", name, (long long)i, got, want);
        if (fabs(want) > *largest)
            *largest = fabs(want);
    }
}

static void gradients(struct pw_model_config c, double dropout)
{
    struct whole w;
    char name[64];
    whole_open(&w, "ref", &c, PW_F64, 3, packed, 11);
    w.batch.train = dropout > 0;
    w.batch.drop_p = dropout;
    w.batch.drop_seed = 5;
    w.batch.drop_offset = 1000;
    whole_forward(&w, true);
    whole_backward(&w, false);
    double largest = 0, adapter = 0;
    for (int i = 0; i < c.layers; i++) {
        struct pw_layer *layer = &w.m->layers[i];
        for (int l = 0; l < PW_LIN_COUNT; l++) {
            struct pw_weight *linear = &layer->linear[l];
            if (!pw_layer_has(&c, i, l))
                continue;
            snprintf(name, sizeof name, "layer %d %s", i, pw_linear_suffix(l));
            check_gradient(&w, name, pw_tensor2((void *)(uintptr_t)linear->data, PW_F64, linear->n_out, linear->n_in), w.grads[i].dw[l], &largest);
            check_gradient(&w, name, w.lora[i][l].a, w.grads[i].da[l], &adapter);
            check_gradient(&w, name, w.lora[i][l].b, w.grads[i].db[l], &adapter);
        }
        for (int e = 0; layer->moe && e < PW_EXPERT_PARTS * c.experts; e++) {
            const int p = e % PW_EXPERT_PARTS, expert = e / PW_EXPERT_PARTS;
            snprintf(name, sizeof name, "layer %d expert %d %s", i, expert, pw_expert_part_name(&c, p));
            check_gradient(&w, name, w.expert_lora[i][p][expert].a, w.expert_grads[i][p][expert].da, &adapter);
            check_gradient(&w, name, w.expert_lora[i][p][expert].b, w.expert_grads[i][p][expert].db, &adapter);
        }
        for (int n = 0; n < PW_NORM_COUNT; n++)
            if (layer->norm[n].data)
                check_gradient(&w, pw_norm_suffix(&c, n), layer->norm[n], w.grads[i].dnorm[n], &largest);
    }
    check_gradient(&w, "final norm", w.m->norm_final, w.dnorm_final, &largest);
    check_gradient(&w, "embedding", pw_tensor2((void *)(uintptr_t)w.m->embed.data, PW_F64, c.vocab, c.hidden), w.dembed, &largest);
    if (!c.tied)
        check_gradient(&w, "head", pw_tensor2((void *)(uintptr_t)w.m->head.data, PW_F64, c.vocab, c.hidden), w.dhead, &largest);
    ck_assert(largest > 0.05 && adapter > 0.05);     /* the bound above must mean something */
    whole_close(&w);
}

static void whole_gradient(bool tied, double dropout, bool interleaved, int64_t window)
{
    struct pw_model_config c = whole_config(tied);
    c.rope_interleaved = interleaved;
    c.window = window;
    gradients(c, dropout);
}

START_TEST(gradient_of_everything_untied) { whole_gradient(false, 0, false, 0); } END_TEST
START_TEST(gradient_of_everything_tied) { whole_gradient(true, 0, true, 0); } END_TEST
START_TEST(gradient_with_dropout_and_window) { whole_gradient(false, 0.3, false, 3); } END_TEST

/* What families add to the block: norms of heads, and all that Gemma has, with a window in the first layer alone. */
static struct pw_model_config qwen3_config(void)
{
    struct pw_model_config c = whole_config(false);
    c.qk_norm = true;
    return c;
}

static struct pw_model_config gemma_config(void)
{
    struct pw_model_config c = whole_config(true);
    c.post_norms = c.gelu = true;
    c.norm_offset = 1;
    c.embed_scale = sqrt(c.hidden);
    c.attn_softcap = 1.5;      /* low enough to bend scores and logits of this size */
    c.logit_softcap = 2;
    c.window = 3;
    c.full[0] = 2;
    return c;
}

/* Phi-3: one linear for q, k, v and one for gate and up, half of a head rotates, the longer of the two sequences by factors of its own. */
static struct pw_model_config phi_config(void)
{
    struct pw_model_config c = whole_config(false);
    c.fused = true;
    c.rotary = 2;
    c.rope_scaling = PW_ROPE_LONG;
    c.rope_original_context = 6;
    c.rope_attention = 1.3;
    c.rope_short[0] = 1.2;
    c.rope_long[0] = 0.4;
    return c;
}

/* The longer of the two sequences has a base of its own. */
static struct pw_model_config dynamic_config(void)
{
    struct pw_model_config c = whole_config(false);
    c.rope_scaling = PW_ROPE_DYNAMIC;
    c.rope_factor = 8;
    c.rope_original_context = 4;
    return c;
}
START_TEST(gradient_with_dynamic_scaling) { gradients(dynamic_config(), 0); } END_TEST

static struct pw_model_config varied_config(int i)
{
    struct pw_model_config c = i == 0 ? whole_config(true) : i == 3 ? phi_config() : gemma_config();
    c.qk_norm = i == 2;
    return c;
}
enum { VARIED = 4 };

START_TEST(gradient_of_phi) { gradients(phi_config(), 0.3); } END_TEST
START_TEST(gradient_with_norms_of_heads) { gradients(qwen3_config(), 0); } END_TEST
START_TEST(gradient_of_gemma) { gradients(gemma_config(), 0.3); } END_TEST
START_TEST(gradient_of_gemma_with_norms_of_heads)
{
    struct pw_model_config c = gemma_config();
    c.qk_norm = true;
    c.rope_local_theta = 3;    /* of the first layer */
    gradients(c, 0);
}
END_TEST

/* Experts in both layers, and in the second alone; the share of those chosen, and of all. The largest differences of a choice are far above the steps of
 * the differences, so that none flips. */
static struct pw_model_config experts_config(bool mixed)
{
    struct pw_model_config c = whole_config(mixed);
    snprintf(c.family, sizeof c.family, "%s", mixed ? "qwen3_moe" : "mixtral");
    c.experts = WHOLE_EXPERTS;
    c.experts_chosen = mixed ? 3 : 2;
    c.expert_ffn = mixed ? 9 : c.ffn;
    c.experts_renormalise = !mixed;
    c.qk_norm = mixed;
    c.dense[0] = mixed;
    return c;
}

static struct pw_model_config some_config(int i) { return i < VARIED ? varied_config(i) : experts_config(i > VARIED); }

START_TEST(gradient_of_experts) { gradients(experts_config(false), 0); } END_TEST
START_TEST(gradient_of_experts_in_one_layer) { gradients(experts_config(true), 0.3); } END_TEST

static bool same(struct pw_tensor a, struct pw_tensor b)
{
    return (!a.data && !b.data) || memcmp(a.data, b.data, pw_bytes(a)) == 0;
}

START_TEST(recomputed_backward_equals_saved)
{
    struct whole w, again;
    const struct pw_model_config c = some_config(_i);
    whole_open(&w, "cpu", &c, PW_F32, 3, packed, 3);
    whole_open(&again, "cpu", &c, PW_F32, 3, packed, 3);
    w.batch.train = again.batch.train = true;
    w.batch.drop_p = again.batch.drop_p = 0.25;
    ck_assert(whole_forward(&w, true) == whole_forward(&again, false));
    whole_backward(&w, false);
    whole_backward(&again, true);
    ck_assert(same(w.dx, again.dx) && same(w.dembed, again.dembed) && same(w.dnorm_final, again.dnorm_final));
    for (int i = 0; i < c.layers; i++) {
        for (int l = 0; l < PW_LIN_COUNT; l++)
            ck_assert(same(w.grads[i].dw[l], again.grads[i].dw[l]) && same(w.grads[i].da[l], again.grads[i].da[l]) &&
                      same(w.grads[i].db[l], again.grads[i].db[l]));
        for (int n = 0; n < PW_NORM_COUNT; n++)
            ck_assert(same(w.grads[i].dnorm[n], again.grads[i].dnorm[n]));
        for (int e = 0; w.m->layers[i].moe && e < PW_EXPERT_PARTS * c.experts; e++) {
            const struct pw_linear_grads *g = &w.expert_grads[i][e % PW_EXPERT_PARTS][e / PW_EXPERT_PARTS], *h = &again.expert_grads[i][e % PW_EXPERT_PARTS][e / PW_EXPERT_PARTS];
            ck_assert(same(g->da, h->da) && same(g->db, h->db));
        }
    }
    whole_close(&w);
    whole_close(&again);
}
END_TEST

/* The feed-forward half in parts of five rows, of three, and as one, without dropout and with it (masks belong to rows, not to parts): the same losses and
 * the same gradient of the input, bit for bit; sums over rows are another order. */
START_TEST(parts_are_the_whole)
{
    static const int64_t rows[] = {WHOLE_TOKENS, WHOLE_MLP_ROWS, 3};
    const struct pw_model_config c = whole_config(false);
    struct whole w[3];
    for (int i = 0; i < 3; i++) {
        whole_open_parts(&w[i], "cpu", &c, PW_F32, 3, packed, 3, rows[i]);
        w[i].batch.train = _i > 0;
        w[i].batch.drop_p = 0.25 * _i;
        w[i].batch.drop_seed = 5;
        whole_forward(&w[i], true);
        whole_backward(&w[i], false);
        ck_assert(same(w[0].loss, w[i].loss) && same(w[0].dx, w[i].dx));
        double apart = 0, top = 0;
        for (int64_t j = 0; j < pw_count(w[0].grads[0].da[PW_LIN_UP]); j++) {
            const double want = whole_get(w[0].grads[0].da[PW_LIN_UP], j);
            apart = fmax(apart, fabs(whole_get(w[i].grads[0].da[PW_LIN_UP], j) - want));
            top = fmax(top, fabs(want));
        }
        ck_assert(top > 0 && apart <= WHOLE_TOKENS * 0x1p-23 * top * 4);
    }
    for (int i = 0; i < 3; i++)
        whole_close(&w[i]);
}
END_TEST

/* Two equal sequences of five rows, attention's pairs at nothing, so that row t of the second part is row t of the first: without dropout the adapter
 * sees the same, with it every part has a mask of its own. */
START_TEST(parts_have_their_own_masks)
{
    static const int twins[] = {WHOLE_MLP_ROWS, WHOLE_MLP_ROWS, 0};
    static const enum pw_linear half[] = {PW_LIN_GATE, PW_LIN_UP, PW_LIN_DOWN};
    const struct pw_model_config c = whole_config(false);
    for (int dropped = 0; dropped < 2; dropped++) {
        struct whole w;
        whole_open(&w, "cpu", &c, PW_F32, 3, twins, 3);
        memcpy(w.ids + WHOLE_MLP_ROWS, w.ids, WHOLE_MLP_ROWS * sizeof *w.ids);
        for (int l = PW_LIN_Q; l <= PW_LIN_O; l++)
            for (int64_t j = 0; w.lora[0][l].b.data && j < pw_count(w.lora[0][l].b); j++)
                whole_set(w.lora[0][l].b, j, 0);
        for (int k = 1; k < 3; k++)                    /* down reads what gate and up have made */
            for (int64_t j = 0; j < pw_count(w.lora[0][half[k - 1]].b); j++)
                whole_set(w.lora[0][half[k - 1]].b, j, 0);
        w.batch.train = dropped;
        w.batch.drop_p = 0.5 * dropped;
        w.batch.drop_seed = 5;
        whole_forward(&w, true);
        for (int k = 0; k < 3; k++) {
            int equal = 0;
            for (int t = 0; t < WHOLE_MLP_ROWS; t++)
                equal += same(pw_rows(w.saved[0].xa[half[k]], t, 1), pw_rows(w.saved[0].xa[half[k]], t + WHOLE_MLP_ROWS, 1));
            ck_assert_msg(dropped ? equal == 0 : equal == WHOLE_MLP_ROWS, "%s, %s: %d of %d rows of the second part are masked as their twins", pw_linear_suffix(half[k]),
                          dropped ? "dropout" : "none", equal, WHOLE_MLP_ROWS);
        }
        whole_close(&w);
    }
}
END_TEST

/* Rows of packed sequences are those of the sequences alone, bit for bit; a tail that is packed elsewhere changes nothing. */
START_TEST(packed_equals_separate)
{
    static const int first[] = {7, 0};
    struct whole w, alone;
    const struct pw_model_config c = _i == 0 ? whole_config(false) : experts_config(_i == 2);
    whole_open(&w, "cpu", &c, PW_F32, 2, packed, 8);
    whole_open(&alone, "cpu", &c, PW_F32, 2, first, 8);
    whole_forward(&w, true);
    whole_backward(&w, false);
    whole_forward(&alone, true);
    whole_backward(&alone, false);
    ck_assert(same(alone.loss, pw_rows(w.loss, 0, 7)));
    ck_assert(same(alone.dx, pw_rows(w.dx, 0, 7)));
    whole_close(&w);
    whole_close(&alone);

    static const int second[] = {5, 0};
    whole_open(&w, "cpu", &c, PW_F32, 2, packed, 8);
    whole_open(&alone, "cpu", &c, PW_F32, 2, second, 8);
    memcpy(alone.ids, w.ids + 7, 5 * sizeof alone.ids[0]);
    memcpy(alone.targets, w.targets + 7, 5 * sizeof alone.targets[0]);
    whole_forward(&w, true);
    whole_forward(&alone, true);
    ck_assert(same(alone.loss, pw_rows(w.loss, 7, 5)));
    whole_close(&w);
    whole_close(&alone);
}
END_TEST

/* f32 against double: sums of at most 20 products a linear, 14 of them in a row, each off by a few ulp of values around 1. */
START_TEST(cpu_is_near_ref)
{
    struct whole w, ref;
    const struct pw_model_config c = whole_config(false);
    whole_open(&w, "cpu", &c, PW_F32, 3, packed, 21);
    whole_open(&ref, "ref", &c, PW_F64, 3, packed, 21);
    whole_forward(&w, true);
    whole_backward(&w, false);
    whole_forward(&ref, true);
    whole_backward(&ref, false);
    for (int64_t t = 0; t < w.tokens; t++)
        ck_assert(fabs(whole_get(w.loss, t) - whole_get(ref.loss, t)) <= 1e-5);
    for (int i = 0; i < c.layers; i++)
        for (int l = 0; l < PW_LIN_COUNT; l++) {
            double top = 0;
            for (int64_t j = 0; j < pw_count(w.grads[i].da[l]); j++)
                top = fmax(top, fabs(whole_get(ref.grads[i].da[l], j)));
            for (int64_t j = 0; j < pw_count(w.grads[i].da[l]); j++)
                ck_assert(fabs(whole_get(w.grads[i].da[l], j) - whole_get(ref.grads[i].da[l], j)) <= 2e-5 * top);
        }
    whole_close(&w);
    whole_close(&ref);
}
END_TEST

START_TEST(sizes_are_what_is_taken)
{
    const struct pw_model_config c = some_config(_i);
    const struct pw_block_shape shape = {.config = &c, .tokens = 9, .ranks = {3, 0, 3, 0, 5, 5, 1}, .backward = true, .type = PW_F32};
    struct pw_dev *dev;
    struct pw_pool pool;
    struct pw_saved saved;
    struct pw_work work;
    const struct pw_dev_options opt = {.kind = "cpu", .threads = 1};
    ck_assert_int_eq(pw_dev_open(&dev, &opt), 0);
    ck_assert_int_eq(pw_pool_open(&pool, dev, pw_saved_bytes(&shape), "saved"), 0);
    ck_assert_int_eq(pw_saved_place(&saved, &pool, &shape), 0);
    ck_assert_uint_eq(pool.used, pool.bytes);
    ck_assert(!saved.xa[PW_LIN_K].data && saved.xa[PW_LIN_GATE].shape[1] == 5);
    pw_pool_close(&pool);
    ck_assert_int_eq(pw_pool_open(&pool, dev, pw_work_bytes(&shape), "work"), 0);
    ck_assert_int_eq(pw_work_place(&work, &pool, &shape), 0);
    ck_assert_uint_eq(pool.used, pool.bytes);
    pw_pool_close(&pool);
    ck_assert_int_eq(pw_pool_open(&pool, dev, pw_work_bytes(&shape) - 64, "work"), 0);
    ck_assert_int_lt(pw_work_place(&work, &pool, &shape), 0);    /* a plan that is too small is an error */
    pw_pool_close(&pool);
    pw_dev_close(dev);
}
END_TEST

START_TEST(rope_frequencies)
{
    double freq[64];
    struct pw_model_config c = whole_config(false);
    c.head_dim = 128;
    c.rope_theta = 500000;
    ck_assert_int_eq(pw_rope_frequencies(&c, PW_ROPE_GLOBAL, 100, freq), 0);
    ck_assert(freq[0] == 1 && fabs(freq[1] - pow(500000, -1.0 / 64)) <= 1e-15);
    c.rope_scaling = PW_ROPE_LINEAR;
    c.rope_factor = 4;
    ck_assert_int_eq(pw_rope_frequencies(&c, PW_ROPE_GLOBAL, 100, freq), 0);
    ck_assert(freq[0] == 0.25);
    c.rope_scaling = PW_ROPE_LLAMA3;       /* the values of Llama 3.1 */
    c.rope_factor = 8;
    c.rope_low_freq = 1;
    c.rope_high_freq = 4;
    c.rope_original_context = 8192;
    ck_assert_int_eq(pw_rope_frequencies(&c, PW_ROPE_GLOBAL, 100, freq), 0);
    ck_assert(freq[0] == 1);               /* short waves stay */
    ck_assert(fabs(freq[63] - pow(500000, -63.0 / 64) / 8) <= 1e-18);       /* long ones are slowed */
    for (int i = 1; i < 64; i++)
        ck_assert(freq[i] < freq[i - 1]);
    c.rope_scaling = PW_ROPE_YARN;         /* those of Qwen2.5: kept, then blended, then slowed */
    ck_assert_int_lt(pw_rope_frequencies(&c, PW_ROPE_GLOBAL, 100, freq), 0);  /* no betas */
    c.rope_theta = 1e6;
    c.rope_factor = 4;
    c.rope_original_context = 32768;
    c.rope_beta_fast = 32;
    c.rope_beta_slow = 1;
    ck_assert_int_eq(pw_rope_frequencies(&c, PW_ROPE_GLOBAL, 100, freq), 0);
    for (int i = 0; i < 64; i++) {         /* beta 32: 64 ln(32768 / 64 pi) / ln(1e6) = 23.59, so 23; beta 1: 39.6, so 40 */
        const double plain = pow(1e6, -i / 64.0), slow = i < 23 ? 0 : i > 40 ? 1 : (i - 23) / 17.0;
        ck_assert(fabs(freq[i] - plain * (1 - slow + slow / 4)) <= 1e-15);
    }
    c.rope_whole_range = true;
    ck_assert_int_eq(pw_rope_frequencies(&c, PW_ROPE_GLOBAL, 100, freq), 0);
    const double low = 64 * log(32768 / (64 * M_PI)) / log(1e6), high = 64 * log(32768 / (2 * M_PI)) / log(1e6), slow = (30 - low) / (high - low);
    ck_assert(fabs(freq[30] - pow(1e6, -30.0 / 64) * (1 - slow + slow / 4)) <= 1e-15);
    c.rope_local_theta = 100;
    ck_assert_int_eq(pw_rope_frequencies(&c, PW_ROPE_LOCAL, 100, freq), 0);
    ck_assert(fabs(freq[5] - pow(100, -5.0 / 64)) <= 1e-15);
}
END_TEST

/* Tables of their own on a device, with the number of their rows. */
struct turned { struct pw_dev *dev; struct pw_pool pool; struct pw_arena arena; struct pw_rope_tables r; };

static void open_turned(struct turned *t, const char *device, const struct pw_model_config *c, int64_t longest, int64_t tokens, int64_t rows)
{
    const struct pw_dev_options opt = {.kind = device};
    const struct pw_rope_shape shape = {.config = c, .longest = longest, .tokens = tokens, .type = PW_F32};
    *t = (struct turned){0};
    pw_arena_init(&t->arena);
    ck_assert_int_eq(pw_dev_open(&t->dev, &opt), 0);
    ck_assert_int_eq(pw_pool_open(&t->pool, t->dev, pw_rope_bytes(&shape), "rope"), 0);
    ck_assert_int_eq(pw_rope_place(&t->r, t->dev, &t->pool, &t->arena, &shape), 0);
    ck_assert_uint_eq(t->pool.used, t->pool.bytes);    /* the plan is what is taken */
    ck_assert_int_eq(t->r.cosines[0].shape[0], rows);
}

static void close_turned(struct turned *t)
{
    pw_pool_close(&t->pool);
    pw_arena_free(&t->arena);
    pw_dev_close(t->dev);
}

/* The last pair of position first + i turns by `theta` a position. */
static void check_rows(struct turned *t, int64_t first, int64_t n, const int32_t *rows, double theta, double factor)
{
    float cosines[1024], sines[1024];
    const int64_t columns = t->r.cosines[0].shape[1];
    ck_assert(pw_count(t->r.cosines[0]) <= 1024);
    ck_assert_int_eq(pw_dev_get(t->dev, cosines, t->r.cosines[0].data, pw_bytes(t->r.cosines[0])), 0);
    ck_assert_int_eq(pw_dev_get(t->dev, sines, t->r.sines[0].data, pw_bytes(t->r.sines[0])), 0);
    for (int64_t i = 0; i < n; i++) {                  /* an angle is off by half a unit of f32 */
        const double angle = (double)(first + i) * theta, bound = factor * (angle * 0x1p-23 + 0x1p-23);
        const int64_t at = rows[i] * columns + columns - 1;
        ck_assert_msg(fabs(cosines[at] - factor * cos(angle)) <= bound && fabs(sines[at] - factor * sin(angle)) <= bound, "position %lld", (long long)(first + i));
    }
}

static void check_turned(struct turned *t, int64_t first, int64_t n, int64_t length, double theta, double factor)
{
    int32_t rows[400];
    ck_assert_int_eq(pw_rope_rows(&t->r, first, n, length, rows), 0);
    check_rows(t, first, n, rows, theta, factor);
}

/* Rows are made when a sequence first reaches them, on host and device alike. */
START_TEST(rope_rows)
{
    static const char *const devices[] = {"ref", "simt"};
    struct pw_model_config c = whole_config(false);
    int32_t rows[1];
    c.head_dim = 2;
    c.context = 1 << 20;
    for (int i = 0; i < 2; i++) {
        struct turned t;
        open_turned(&t, devices[i], &c, 400, 400, 400);
        ck_assert_int_eq(t.r.made[0], 0);
        check_turned(&t, 0, 5, 5, 1, 1);
        ck_assert_int_lt(t.r.made[0], 400);
        check_turned(&t, 5, 395, 400, 1, 1);           /* the last piece is shorter */
        check_turned(&t, 100, 100, 200, 1, 1);
        ck_assert_int_eq(t.r.made[0], 400);
        ck_fails(pw_rope_rows(&t.r, 400, 1, 401, rows), PW_E_FAIL, "1 tokens after 400 of a sequence of 401, and the rotary tables are for 400");
        close_turned(&t);
    }
}
END_TEST

/* longrope: short factors within the original context, long ones for sequences beyond it, and sequences that need one set alone. */
START_TEST(rope_rows_of_two_sets)
{
    struct pw_model_config c = phi_config();
    struct turned t;
    int32_t rows[32];
    ck_assert(pw_rope_by_length(&c) && pw_rope_alike(&c, 1, 6) && !pw_rope_alike(&c, 6, 7) && pw_rope_alike(&c, 7, 32));
    open_turned(&t, "ref", &c, 99, 1, 6 + 32);         /* no sequence is longer than the context */
    check_turned(&t, 0, 6, 6, 1 / 1.2, 1.3);
    check_turned(&t, 0, 32, 32, 1 / 0.4, 1.3);
    check_turned(&t, 3, 2, 7, 1 / 0.4, 1.3);
    ck_assert_int_eq(pw_rope_rows(&t.r, 5, 1, 6, rows), 0);
    ck_assert_int_eq(rows[0], 5);
    ck_assert_int_eq(pw_rope_rows(&t.r, 5, 1, 7, rows), 0);
    ck_assert_int_eq(rows[0], 11);
    close_turned(&t);
    open_turned(&t, "ref", &c, 7, 1, 6 + 7);
    close_turned(&t);
    open_turned(&t, "ref", &c, 6, 1, 6);
    close_turned(&t);
    c.context = 6;
    ck_assert(!pw_rope_by_length(&c) && pw_rope_alike(&c, 6, 7));
    open_turned(&t, "ref", &c, 6, 1, 6);
    check_turned(&t, 0, 6, 6, 1 / 1.2, 1.3);
    close_turned(&t);
}
END_TEST

/* Dynamic scaling: within the original context as without; each longer sequence of a pass has rows of its own, by the base of its length. */
START_TEST(rope_rows_of_dynamic)
{
    struct pw_model_config c = whole_config(false);
    double freq[2];
    int32_t rows[32];
    c.rope_scaling = PW_ROPE_DYNAMIC;
    c.rope_factor = 4;
    c.rope_original_context = 8;
    c.rope_theta = 100;
    ck_assert(pw_rope_by_length(&c) && pw_rope_alike(&c, 1, 8) && !pw_rope_alike(&c, 8, 9) && !pw_rope_alike(&c, 9, 10) && pw_rope_alike(&c, 9, 9));
    for (int length = 7; length <= 32; length++) {     /* d = 4, so the exponent is 4 / 2 */
        ck_assert_int_eq(pw_rope_frequencies(&c, PW_ROPE_GLOBAL, length, freq), 0);
        const double scale = length < 8 ? 1 : 4.0 * length / 8 - 3;
        ck_assert(freq[0] == 1 && fabs(freq[1] - pow(100 * scale * scale, -0.5)) <= 1e-15);
    }
    for (int i = 0; i < 2; i++) {
        struct turned t;
        open_turned(&t, i ? "simt" : "ref", &c, 32, 20, 8 + 20);
        for (int pass = 0; pass < 2; pass++) {
            static const struct { int first, n, length; double theta; } seqs[] = {{0, 8, 8, 0.1}, {0, 16, 16, 0.1 / 5}, {9, 1, 10, 0.1 / 2}, {29, 3, 32, 0.1 / 13}};
            int32_t all[4][32];
            pw_rope_pass(&t.r);
            for (int k = 0; k < 4; k++)
                ck_assert_int_eq(pw_rope_rows(&t.r, seqs[k].first, seqs[k].n, seqs[k].length, all[k]), 0);
            for (int k = 0; k < 4; k++)
                check_rows(&t, seqs[k].first, seqs[k].n, all[k], seqs[k].theta, 1);
            ck_assert_int_eq(t.r.taken, 20);
            ck_fails(pw_rope_rows(&t.r, 8, 1, 9, rows), PW_E_FAIL, "1 more tokens after 20 in a pass, and the rotary tables are for 20");
        }
        close_turned(&t);
        open_turned(&t, i ? "simt" : "ref", &c, 8, 20, 8);       /* none of its sequences is scaled */
        close_turned(&t);
    }
    c.rope_factor = 0.5;
    ck_assert_int_lt(pw_rope_frequencies(&c, PW_ROPE_GLOBAL, 9, freq), 0);
}
END_TEST

START_TEST(module_names)
{
    struct whole w;
    const struct pw_model_config c = whole_config(false);
    whole_open(&w, "cpu", &c, PW_F32, 0, packed, 1);
    ck_assert_ptr_eq(pw_model_linear(w.m, "model.layers.1.mlp.up_proj"), &w.m->layers[1].linear[PW_LIN_UP]);
    static const char *const wrong[] = {"model.layers.2.mlp.up_proj", "model.layers.-1.mlp.up_proj", "model.layers.01.mlp.up_proj",
        "model.layers.1.mlp.up_projx", "model.layers.1", "model.layers.", "lm_head", "model.layers.99999999999999999999.mlp.up_proj"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        ck_assert_ptr_null(pw_model_linear(w.m, wrong[i]));

    float values[3 * 12] = {0};
    struct pw_adapter_module module = {.name = "model.layers.0.self_attn.q_proj", .n_in = 12, .n_out = 12,
        .lora = {.r = 1, .scale = 1, .a = pw_tensor2(values, PW_F32, 1, 12), .b = pw_tensor2(values, PW_F32, 12, 1)}};
    struct pw_adapter adapter = {.modules = &module, .n = 1};
    ck_assert_int_eq(pw_model_attach(w.m, &adapter), 0);
    ck_assert_ptr_eq(w.m->layers[0].linear[PW_LIN_Q].lora, &module.lora);
    module.n_out = 13;
    ck_assert_int_eq(pw_model_attach(w.m, &adapter), PW_E_FORMAT);
    ck_assert_ptr_nonnull(strstr(pw_error_text(), "expected (12, 12), got (13, 12)"));
    ck_assert_ptr_null(w.m->layers[0].linear[PW_LIN_Q].lora);
    module.name = "model.layers.7.self_attn.q_proj";
    ck_assert_int_eq(pw_model_attach(w.m, &adapter), PW_E_FORMAT);
    ck_assert_int_eq(pw_model_attach(w.m, NULL), 0);
    whole_close(&w);
}
END_TEST

START_TEST(parameters_are_listed_once)
{
    for (int tied = 0; tied < 2; tied++) {
        struct whole w;
        struct pw_param *params;
        size_t n;
        int64_t total = 0;
        struct pw_model_config c = varied_config(_i);
        c.tied = tied;
        whole_open(&w, "cpu", &c, PW_F32, 0, packed, 1);
        ck_assert_int_eq(pw_model_params(w.m, &params, &n), 0);
        for (size_t i = 0; i < n; i++)
            total += pw_count(params[i].value);
        ck_assert_int_eq(total, pw_model_config_count(&c));
        ck_assert_str_eq(params[0].name, "model.embed_tokens.weight");
        const int at = _i == 0 ? 7 : _i == 1 ? 8 : _i == 2 ? 10 : 5;
        ck_assert_str_eq(params[at].name, _i == 3 ? "model.layers.0.mlp.gate_up_proj.weight" : "model.layers.0.mlp.gate_proj.weight");
        ck_assert_str_eq(params[n - 1].name, tied ? "model.norm.weight" : "lm_head.weight");
        whole_close(&w);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("block");
    TCase *t = tcase_create("block");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, gradient_of_everything_untied);
    tcase_add_test(t, gradient_of_everything_tied);
    tcase_add_test(t, gradient_with_dropout_and_window);
    tcase_add_test(t, gradient_with_norms_of_heads);
    tcase_add_test(t, gradient_of_phi);
    tcase_add_test(t, gradient_with_dynamic_scaling);
    tcase_add_test(t, gradient_of_experts);
    tcase_add_test(t, gradient_of_experts_in_one_layer);
    tcase_add_test(t, gradient_of_gemma);
    tcase_add_test(t, gradient_of_gemma_with_norms_of_heads);
    tcase_add_loop_test(t, parts_are_the_whole, 0, 2);
    tcase_add_test(t, parts_have_their_own_masks);
    tcase_add_loop_test(t, recomputed_backward_equals_saved, 0, VARIED + 2);
    tcase_add_loop_test(t, packed_equals_separate, 0, 3);
    tcase_add_test(t, cpu_is_near_ref);
    tcase_add_loop_test(t, sizes_are_what_is_taken, 0, VARIED + 2);
    tcase_add_test(t, rope_frequencies);
    tcase_add_test(t, rope_rows);
    tcase_add_test(t, rope_rows_of_two_sets);
    tcase_add_test(t, rope_rows_of_dynamic);
    tcase_add_test(t, module_names);
    tcase_add_loop_test(t, parameters_are_listed_once, 0, VARIED);
    suite_add_tcase(s, t);
    return test_run(s);
}
