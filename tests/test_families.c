/* Every family against transformers and peft in f32 (tools/reference/family_fixtures.py made the fixtures): log-probabilities of whole passes and
 * of passes cut anywhere through the cache, greedy continuations, the loss of an adapter and its gradients. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/value.h"
#include "data/safetensors.h"
#include "infer/session.h"
#include "lora/peft.h"
#include "tests/support.h"
#include "train/pass.h"

static const char *const families[] = {"qwen3", "gemma2", "gemma3", "gemma3-new", "gemma3-whole", "gemma3-whole-new", "phi3", "phi3-window", "phi3-su", "mistral", "qwen2-window",
                                       "llama31", "llama-yarn", "llama-yarn-factor", "llama-linear", "llama-dynamic", "mixtral", "qwen3-moe",
                                       "qwen3-moe-joined"};
enum { FAMILIES = sizeof families / sizeof families[0], LONGEST = 64 };

/* The bound on log-probabilities. Gradients: two f32 programs of some 30 operations in a row, the sums of at most 64 products each, so
 * 30 * sqrt(64) * 6e-8 = 1.4e-5 of the norm of a tensor, and what soft-caps and softmax add to it: 5e-5. */
#define LOGPROB_BOUND 2e-4
#define GRAD_BOUND 5e-5

struct family {
    const char *name, *folder;
    struct pw_arena arena;
    struct pw_value *golden;
    struct pw_safetensors tensors;
    struct pw_dev *dev;
    struct pw_model *m;
    int64_t V;
};

static void open_family(struct family *f, int i)
{
    struct pw_dev_options dev = {.kind = "cpu", .threads = 2};
    const char *root = getenv("PW_FAMILIES");     /* fixtures of another seed: tools/reference/check_families.py */
    *f = (struct family){.name = families[i], .folder = test_path(root ? root : "tests/fixtures/families", families[i])};
    pw_arena_init(&f->arena);
    ck_ok(pw_json_load(&f->arena, test_path(f->folder, "golden.json"), &f->golden));
    ck_ok(pw_safetensors_open(&f->tensors, test_path(f->folder, "golden.safetensors")));
    ck_ok(pw_dev_open(&f->dev, &dev));
    ck_ok(pw_model_load(&f->m, f->dev, f->folder, NULL));
    f->V = f->m->config.vocab;
}

static void close_family(struct family *f)
{
    pw_model_free(f->m);
    pw_dev_close(f->dev);
    pw_safetensors_close(&f->tensors);
    pw_arena_free(&f->arena);
}

static int64_t ids_of(const struct pw_value *list, int32_t ids[LONGEST])
{
    ck_assert(list && list->kind == PW_LIST && list->len <= LONGEST);
    for (size_t i = 0; i < list->len; i++)
        ids[i] = (int32_t)list->items[i].i;
    return (int64_t)list->len;
}

static const float *numbers(const struct family *f, const char *name, int64_t n)
{
    const struct pw_st_tensor *t = pw_safetensors_find(&f->tensors, name);
    ck_assert_msg(t && strcmp(t->dtype, "F32") == 0 && t->bytes == (size_t)n * sizeof(float), "%s: %s", f->name, name);
    return (const float *)(const void *)t->data;
}

/* The largest |difference| of log-probabilities over the vocabulary, of n rows; infinity for what is no number. */
static double apart(const float *logits, const float *want, int64_t n, int64_t V)
{
    double worst = 0;
    for (int64_t t = 0; t < n; t++) {
        double sum = 0, top = -INFINITY;
        for (int64_t v = 0; v < V; v++)
            top = fmax(top, (double)logits[t * V + v]);
        for (int64_t v = 0; v < V; v++)
            sum += exp((double)logits[t * V + v] - top);
        for (int64_t v = 0; v < V; v++) {
            const double d = fabs((double)logits[t * V + v] - top - log(sum) - (double)want[t * V + v]);
            worst = d <= worst ? worst : d == d ? d : INFINITY;
        }
    }
    return worst;
}

/* Feeds ids[from..to) and gives the logits of all of them. */
static void feed(struct family *f, struct pw_session *s, int seq, const int32_t *ids, int64_t from, int64_t to, float *logits)
{
    const struct pw_feed one = {.seq = seq, .ids = ids + from, .n = to - from};
    int32_t rows[LONGEST];
    for (int i = 0; i < LONGEST; i++)
        rows[i] = i;
    ck_ok(pw_session_feed(s, &one, 1));
    ck_ok(pw_session_logits(s, rows, (int)(to - from), logits + from * f->V));
}

START_TEST(log_probabilities)
{
    struct family f;
    struct pw_session *s;
    int32_t ids[LONGEST];
    char name[32];
    static float logits[LONGEST * 256];
    double whole = 0, cached = 0;
    open_family(&f, _i);
    ck_assert(f.V <= 256);
    const struct pw_value *sequences = pw_get(f.golden, "sequences");
    ck_assert(sequences->len >= 2);
    ck_ok(pw_session_open(&s, f.m, LONGEST, LONGEST, 1));
    for (size_t i = 0; i < sequences->len; i++) {
        const int64_t n = ids_of(&sequences->items[i], ids);
        snprintf(name, sizeof name, "logprobs.%zu", i);
        const float *want = numbers(&f, name, n * f.V);
        int seq = pw_session_add(s, n, -1);
        feed(&f, s, seq, ids, 0, n, logits);
        whole = fmax(whole, apart(logits, want, n, f.V));
        pw_session_reset(s);
        seq = pw_session_add(s, n, -1);
        ck_ok(pw_session_expect(s, seq, n));
        for (int64_t at = 0, step = 1; at < n; at += step, step = step % 4 + 1)  /* 1, 2, 3, 4 tokens, 1, ... */
            feed(&f, s, seq, ids, at, at + step < n ? at + step : n, logits);
        cached = fmax(cached, apart(logits, want, n, f.V));
        pw_session_reset(s);
    }
    printf("%s: largest difference of a log-probability %.3g in whole passes, %.3g through the cache (bound %g)\n", f.name, whole, cached, LOGPROB_BOUND);
    ck_assert_msg(whole <= LOGPROB_BOUND && cached <= LOGPROB_BOUND, "%s: %g and %g", f.name, whole, cached);
    pw_session_close(s);
    close_family(&f);
}
END_TEST

/* Greedy tokens against those of transformers: each from a pass over all before it, where rows of rotary tables change with the length; or, `stretch`, through the cache
 * as it was rotated. */
static void continues(struct family *f, struct pw_session *s, const struct pw_value *g, const char *key, bool stretch)
{
    int32_t ids[LONGEST], want[LONGEST], last = 0;
    static float logits[LONGEST * 256];
    int64_t n = ids_of(pw_get(g, "prompt"), ids), fed = 0;
    const int64_t more = ids_of(pw_get(g, key), want);
    ck_assert(more >= 10 && n + more <= LONGEST);
    pw_session_reset(s);
    const int seq = pw_session_add(s, n + more, -1);
    for (int64_t i = 0; i < more; i++, n++) {
        if (pw_session_stale(s, seq, n - fed)) {
            ck_ok(stretch ? pw_session_stretch(s, seq, n) : pw_session_rewind(s, seq, 0));
            fed = stretch ? fed : 0;
        }
        feed(f, s, seq, ids, fed, n, logits);
        fed = n;
        const float *row = logits + (n - 1) * f->V;
        last = 0;
        for (int32_t v = 1; v < f->V; v++)
            last = row[v] > row[last] ? v : last;
        ck_assert_msg(last == want[i], "%s: %s: token %lld is %d, transformers has %d", f->name, key, (long long)i, last, want[i]);
        ids[n] = last;
    }
    printf("%s: %lld greedy tokens are those of transformers%s\n", f->name, (long long)more, stretch ? " with its cache" : "");
}

START_TEST(greedy)
{
    struct family f;
    struct pw_session *s;
    open_family(&f, _i);
    const struct pw_value *g = pw_get(f.golden, "generation");
    ck_ok(pw_session_open(&s, f.m, LONGEST, LONGEST, 1));
    continues(&f, s, g, "tokens", false);
    if (f.m->config.rope_scaling == PW_ROPE_DYNAMIC)
        continues(&f, s, g, "cached", true);
    pw_session_close(s);
    close_family(&f);
}
END_TEST

/* ---- training ------------------------------------------------------------------------------------------------------- */

static double norm_apart(struct pw_tensor got, const float *want)
{
    const float *x = got.data;
    double apart = 0, norm = 0;
    for (int64_t i = 0; i < pw_count(got); i++) {
        apart += ((double)x[i] - (double)want[i]) * ((double)x[i] - (double)want[i]);
        norm += (double)want[i] * (double)want[i];
    }
    return apart == 0 ? 0 : sqrt(apart / norm);   /* an expert without tokens has none */
}

/* The rows that are learnt from as one packed pass: each row its own sequence, its first `learnt` tokens not trained. */
static void pack(const struct pw_value *rows, struct pw_packed *b)
{
    *b = (struct pw_packed){.ids = b->ids, .positions = b->positions, .targets = b->targets, .seq_start = b->seq_start, .seq_len = b->seq_len};
    for (size_t i = 0; i < rows->len; i++) {
        int32_t ids[LONGEST];
        int64_t learnt = 0;
        const int64_t n = ids_of(pw_get(&rows->items[i], "ids"), ids);
        ck_ok(pw_get_i64(&rows->items[i], "learnt", "golden.json", &learnt));
        b->seq_start[i] = (int32_t)b->n_tokens;
        b->seq_len[i] = (int32_t)n;
        for (int64_t t = 0; t < n; t++, b->n_tokens++) {
            const bool trained = t + 1 < n && t + 1 >= learnt;
            b->ids[b->n_tokens] = ids[t];
            b->positions[b->n_tokens] = (int32_t)t;
            b->targets[b->n_tokens] = trained ? ids[t + 1] : -1;
            b->n_trained += trained;
        }
        b->seq_start[i + 1] = (int32_t)b->n_tokens;
        b->n_seqs++;
    }
}

/* Gradients of all A and B of the adapter for this pass, in `memory`; their places are told to the pass. */
static void place_grads(struct family *f, struct pw_pass *p, const struct pw_adapter *a, struct pw_tensor *da, struct pw_tensor *db)
{
    for (size_t k = 0; k < a->n; k++) {
        const struct pw_lora *lora = &a->modules[k].lora;
        const size_t n_a = (size_t)pw_count(lora->a), n_b = (size_t)pw_count(lora->b);
        da[k] = pw_tensor2(pw_arena_array(&f->arena, n_a, sizeof(float)), PW_F32, lora->a.shape[0], lora->a.shape[1]);
        db[k] = pw_tensor2(pw_arena_array(&f->arena, n_b, sizeof(float)), PW_F32, lora->b.shape[0], lora->b.shape[1]);
        for (int i = 0; i < f->m->config.layers; i++)
            for (int l = 0; l < PW_LIN_COUNT; l++)
                if (f->m->layers[i].linear[l].lora == lora) {
                    p->grads[i].da[l] = da[k];
                    p->grads[i].db[l] = db[k];
                }
        for (int i = 0; i < f->m->config.layers; i++)
            for (int e = 0; f->m->layers[i].moe && e < PW_EXPERT_PARTS * f->m->config.experts; e++) {
                const int part = e % PW_EXPERT_PARTS, expert = e / PW_EXPERT_PARTS;
                if (f->m->layers[i].moe->part[part][expert].lora == lora) {
                    p->grads[i].experts[part][expert].da = da[k];
                    p->grads[i].experts[part][expert].db = db[k];
                }
            }
    }
}

enum { MODULES = 64 };

START_TEST(adapter_gradients)
{
    struct family f;
    struct pw_adapter a;
    struct pw_pass p;
    struct pw_pass_bytes bytes;
    struct pw_pool pool;
    struct pw_tensor da[MODULES], db[MODULES];
    int32_t lists[3][2 * LONGEST], starts[8], lens[8];
    struct pw_packed b = {.ids = lists[0], .positions = lists[1], .targets = lists[2], .seq_start = starts, .seq_len = lens};
    double loss = 0, want = 0, worst = 0;
    open_family(&f, _i);
    ck_ok(pw_peft_load(&a, test_path(f.folder, "adapter"), &f.m->config));
    ck_assert(a.n <= MODULES);
    ck_ok(pw_model_attach(f.m, &a));
    const struct pw_value *train = pw_get(f.golden, "train");
    pack(pw_get(train, "rows"), &b);
    /* One block kept, the others computed again; then all kept. */
    for (int kept = 1; kept <= f.m->config.layers; kept += f.m->config.layers - 1) {
        const struct pw_pass_shape shape = {.tokens = b.n_tokens, .sequences = b.n_seqs, .train = true, .kept = kept};
        pw_pass_size(f.m, &shape, &bytes);
        ck_ok(pw_pool_open(&pool, f.dev, bytes.saved + bytes.scratch, "pass"));
        ck_ok(pw_dev_reserve(f.dev, bytes.device));
        ck_ok(pw_pass_place(&p, f.m, &shape, &pool, &f.arena));
        ck_assert_uint_eq(pool.used, pool.bytes);            /* the plan is what is taken */
        place_grads(&f, &p, &a, da, db);
        const struct pw_pass_options opt = {.backward = true, .dloss = 1.0 / (double)b.n_trained};
        ck_ok(pw_pass_run(&p, &b, &opt, &loss));
        ck_ok(pw_get_f64(train, "loss", "golden.json", &want));
        ck_close(loss / (double)b.n_trained, want, 0, 1e-5);
        for (size_t k = 0; k < a.n; k++) {
            char name[160];
            snprintf(name, sizeof name, "grad.%s.lora_A", a.modules[k].name);
            const double in_a = norm_apart(da[k], numbers(&f, name, pw_count(da[k])));
            snprintf(name, sizeof name, "grad.%s.lora_B", a.modules[k].name);
            const double in_b = norm_apart(db[k], numbers(&f, name, pw_count(db[k])));
            ck_assert_msg(in_a <= GRAD_BOUND && in_b <= GRAD_BOUND, "%s: %s: gradients of A and B differ by %g and %g of their norms", f.name,
                          a.modules[k].name, in_a, in_b);
            worst = fmax(worst, fmax(in_a, in_b));
        }
        pw_pass_close(&p);
        pw_pool_close(&pool);
    }
    printf("%s: loss %.6f (peft %.6f), largest difference of a gradient %.3g of its norm over %zu modules (bound %g)\n", f.name,
           loss / (double)b.n_trained, want, worst, a.n, GRAD_BOUND);
    pw_adapter_free(&a);
    close_family(&f);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("families");
    TCase *t = tcase_create("families");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, log_probabilities, 0, FAMILIES);
    tcase_add_loop_test(t, greedy, 0, FAMILIES);
    tcase_add_loop_test(t, adapter_gradients, 0, FAMILIES);
    suite_add_tcase(s, t);
    return test_run(s);
}
