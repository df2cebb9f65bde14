/* Several ranks, as processes that were forked and talk through shared memory: sums, agreements, ranks that die, and whole runs of 2 and 3 ranks
 * against one. What MPI carries is tests/e2e/ranks.sh. */
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "tests/support.h"
#include "train/run.h"
#include "train/runlog.h"

enum { MOST = 4, AREA = 8 << 20, TEXT = 2000 };
struct shared {
    atomic_int arrived, generation, warnings[MOST];
    int size;
    struct { int rc; char text[TEXT], way[PW_RANKS_WAY]; double number; } said[MOST];
    char area[MOST][AREA];
};
static struct shared *shm;
static int own_rank;

/* ---- a row that moves bytes through shared memory ---- */

static int barrier(struct pw_comm *c)
{
    const int turn = atomic_load(&shm->generation);
    if (atomic_fetch_add(&shm->arrived, 1) == shm->size - 1) {
        atomic_store(&shm->arrived, 0);
        atomic_fetch_add(&shm->generation, 1);
        return 0;
    }
    for (long asked = 0; atomic_load(&shm->generation) == turn; asked++)
        PW_PASS(c->waits(c->waits_ctx, asked));
    return 0;
}

static int shm_open_row(struct pw_comm *c)
{
    c->rank = own_rank;
    c->size = shm->size;
    return 0;
}
static void shm_close(struct pw_comm *c) { (void)c; }
static void shm_abandon(struct pw_comm *c, int status) { (void)c; _exit(status); }

static int shm_gather(struct pw_comm *c, const void *mine, void *all, size_t bytes)
{
    PW_CHECK(bytes <= AREA, PW_E_FAIL, "the test's area is too small");
    memcpy(shm->area[c->rank], mine, bytes);
    PW_PASS(barrier(c));
    for (int i = 0; i < c->size; i++)
        memcpy((char *)all + (size_t)i * bytes, shm->area[i], bytes);
    return barrier(c);
}

static int shm_exchange(struct pw_comm *c, const void *mine, void *got, size_t bytes)
{
    PW_CHECK(bytes * (size_t)c->size <= AREA, PW_E_FAIL, "the test's area is too small");
    memcpy(shm->area[c->rank], mine, bytes * (size_t)c->size);
    PW_PASS(barrier(c));
    for (int i = 0; i < c->size; i++)
        memcpy((char *)got + (size_t)i * bytes, shm->area[i] + (size_t)c->rank * bytes, bytes);
    return barrier(c);
}

static int shm_broadcast(struct pw_comm *c, int root, void *data, size_t bytes)
{
    PW_CHECK(bytes <= AREA, PW_E_FAIL, "the test's area is too small");
    if (c->rank == root)
        memcpy(shm->area[root], data, bytes);
    PW_PASS(barrier(c));
    memcpy(data, shm->area[root], bytes);
    return barrier(c);
}

static void shm_warn(struct pw_comm *c)
{
    for (int i = 0; i < c->size; i++)
        if (i != c->rank)
            atomic_store(&shm->warnings[i], 1);
}
static bool shm_warned(struct pw_comm *c) { return atomic_exchange(&shm->warnings[c->rank], 0) != 0; }

static const struct pw_comm_row row = {shm_open_row, shm_close, shm_abandon, shm_gather, shm_exchange, shm_broadcast, shm_warn, shm_warned};

/* ---- ranks as children ---- */

typedef int work_fn(struct pw_ranks *r, void *ctx);

static void setup(void) { shm = mmap(NULL, sizeof *shm, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0); }
static void teardown(void) { munmap(shm, sizeof *shm); }

/* Runs `work` on n ranks; what each returned and said is in shm->said, and `status` holds how they ended. */
static void on_ranks(int n, work_fn *work, void *ctx, int status[MOST])
{
    pid_t pids[MOST];
    memset(shm, 0, offsetof(struct shared, area));
    shm->size = n;
    fflush(NULL);
    for (int i = 0; i < n; i++)
        if ((pids[i] = fork()) == 0) {
            struct pw_ranks *r = NULL;
            own_rank = i;
            int rc = pw_ranks_open(&r, &row, n);
            if (rc == 0)
                rc = work(r, ctx);
            shm->said[i].rc = rc;
            snprintf(shm->said[i].text, TEXT, "%s | %s", pw_error_text(), pw_error_hint_text());
            pw_ranks_close(r, 3);
            _exit(0);
        }
    for (int i = 0; i < n; i++)
        ck_assert_int_eq(waitpid(pids[i], &status[i], 0), pids[i]);
}

static void all_well(int n, work_fn *work, void *ctx)
{
    int status[MOST];
    on_ranks(n, work, ctx, status);
    for (int i = 0; i < n; i++) {
        ck_assert_msg(WIFEXITED(status[i]) && WEXITSTATUS(status[i]) == 0, "rank %d ended with status %d", i, status[i]);
        ck_assert_msg(shm->said[i].rc == 0, "rank %d: %s", i, shm->said[i].text);
    }
}

/* The emulated device with a library in the place of NCCL (tests/fake/nccl.c). */
static const char *fake_nccl(const char *word)
{
    static char level[4200];
    char program[4000];
    const ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    ck_assert_int_gt(n, 0);
    program[n] = 0;
    *strrchr(program, '/') = 0;
    snprintf(level, sizeof level, "forward,%s:%s/../libnccl_fake.so", word, program);
    return level;
}

/* ---- sums ---- */

struct sum { const char *kind; size_t n, room; const char *level; };

static float value_of(int rank, size_t i)
{
    struct pw_rng rng = pw_rng_make(i + 1, PW_STREAM_TEST);
    for (int k = 0; k < rank; k++)
        (void)pw_rng_below(&rng, 1000);
    return (float)((double)pw_rng_below(&rng, 1 << 30) * (rank % 2 ? -1e-5 : 1.1e-5));
}

static int sums(struct pw_ranks *r, void *ctx)
{
    const struct sum *s = ctx;
    const struct pw_dev_options options = {.kind = s->kind, .threads = 1, .level = s->level};
    char way[PW_RANKS_WAY] = "";
    struct pw_dev *dev = NULL;
    struct pw_pool pool;
    const int me = pw_ranks_rank(r), size = pw_ranks_size(r);
    float *host = pw_alloc((s->n + 1) * sizeof *host);
    double three[3] = {me, 0.1 * me, 1};
    PW_PASS(pw_dev_open(&dev, &options));
    if (s->level) {
        PW_PASS(pw_ranks_join_devices(r, dev, NULL, way));
        PW_CHECK(strcmp(way, "ranks sum over nccl 2.28.9") == 0 && strcmp(pw_ranks_sums(r), "nccl 2.28.9") == 0 && pw_ranks_bytes(r, 5) == 0, PW_E_FAIL, "it says: %s", way);
    }
    PW_PASS(pw_pool_open(&pool, dev, (s->n + 1) * sizeof(float) + 128, "a test"));
    float *data = pw_pool_take(&pool, (s->n + 1) * sizeof(float));
    for (size_t i = 0; i <= s->n; i++)
        host[i] = value_of(me, i);
    PW_PASS(pw_dev_put(dev, data, host, (s->n + 1) * sizeof(float)));
    PW_PASS(pw_ranks_reserve(r, dev, s->room));
    PW_PASS(pw_ranks_sum_f32(r, data, s->n));
    PW_PASS(pw_dev_get(dev, host, data, (s->n + 1) * sizeof(float)));
    for (size_t i = 0; i <= s->n; i++) {
        double want = value_of(0, i);
        for (int k = 1; k < size; k++)
            want = s->level ? (float)want + value_of(k, i) : want + value_of(k, i);    /* the library sums in f32 */
        const float expected = i == s->n ? value_of(me, i) : (float)want;      /* what lies behind is not touched */
        PW_CHECK(host[i] == expected, PW_E_FAIL, "element %zu of %zu: expected %.9g, got %.9g", i, s->n, (double)expected, (double)host[i]);
    }
    PW_PASS(pw_ranks_sum_f64(r, 0, three, 3));
    double tenth = 0;
    for (int k = 0; k < size; k++)
        tenth += 0.1 * k;
    PW_CHECK(three[0] == size * (size - 1) / 2 && three[1] == tenth && three[2] == size, PW_E_FAIL, "sums of doubles: %g %g %g", three[0], three[1], three[2]);
    int64_t first, last, next = 10;
    pw_ranks_share(r, 10, 10 + 7, &first, &last);
    double shares[MOST + 1] = {0};
    shares[me] = (double)(last - first);
    PW_PASS(pw_ranks_sum_f64(r, 0, shares, MOST + 1));
    for (int k = 0; k < me; k++)
        next += (int64_t)shares[k];
    PW_CHECK(first == next && (me < size - 1 || last == 17) && last - first >= 7 / size && last - first <= 7 / size + 1, PW_E_FAIL, "a share of [%lld, %lld)",
             (long long)first, (long long)last);
    pw_ranks_release(r);
    pw_pool_close(&pool);
    pw_dev_close(dev);
    pw_free(host);
    return 0;
}

START_TEST(sums_in_order)
{
    static const struct sum cases[] = {{"cpu", 0, 0}, {"cpu", 1, 1}, {"cpu", 5, 5}, {"cpu", 1037, 100}, {"cpu", 1037, 1 << 21}, {"cpu", 1 << 20 | 3, 1 << 20 | 3},
                                       {"simt", 1037, 100}, {"simt", 300, 100}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int n = 1; n <= MOST; n++) {
            struct sum s = cases[i];
            all_well(n, sums, &s);
        }
}
END_TEST

/* As above, by the library of the devices. */
START_TEST(sums_by_the_devices)
{
    static const size_t counts[] = {0, 1, 1037, (1 << 18) + 5};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        for (int n = 2; n <= MOST; n += 2) {
            struct sum s = {"simt", counts[i], counts[i], fake_nccl("nccl")};
            all_well(n, sums, &s);
        }
}
END_TEST

struct joining { const char *level, *other, *kind; int sums; bool wish; };     /* wish: the last rank wants sums over host memory */

/* Joins, says which way, and sums ones a few times. */
static int join_and_sum(struct pw_ranks *r, void *ctx)
{
    const struct joining *j = ctx;
    const int me = pw_ranks_rank(r);
    const struct pw_dev_options options = {.kind = j->kind ? j->kind : "simt", .threads = 1, .level = me == 1 && j->other ? j->other : j->level};
    struct pw_dev *dev = NULL;
    struct pw_pool pool;
    char way[PW_RANKS_WAY];
    const float one = 1;
    float sum = 0;
    int rc = 0;
    PW_PASS(pw_dev_open(&dev, &options));
    rc = pw_ranks_join_devices(r, dev, j->wish && me == pw_ranks_size(r) - 1 ? "it says so" : NULL, way);
    snprintf(shm->said[me].way, sizeof shm->said[me].way, "%s", rc == 0 ? way : pw_error_text());
    if (rc == 0)
        rc = pw_pool_open(&pool, dev, 64, "a test");
    if (rc == 0)
        rc = pw_ranks_reserve(r, dev, 1);
    for (int i = 0; rc == 0 && i < j->sums; i++) {
        PW_PASS(pw_dev_put(dev, pool.base, &one, sizeof one));
        rc = pw_ranks_sum_f32(r, (float *)(void *)pool.base, 1);
        if (rc == 0)
            rc = pw_dev_get(dev, &sum, pool.base, sizeof sum);
        PW_CHECK(rc < 0 || sum == (float)pw_ranks_size(r), PW_E_NUMERIC, "a sum of ones over %d ranks is %g", pw_ranks_size(r), (double)sum);
    }
    pw_ranks_release(r);
    return rc;
}

/* What stands in the way of one rank is a reason for all, and is said; the sums are right all the same. */
START_TEST(one_way_for_all)
{
    static const struct { const char *word, *other, *kind, *wish, *text; } cases[] = {
        {"nccl", NULL, NULL, "", "ranks sum over nccl 2.28.9"},
        {"nccl", "forward", NULL, "", "ranks sum over host memory: rank 1: the emulated device has no NCCL"},
        {"nccl", "forward,nccl:/nowhere/libnccl.so.2", NULL, "", "ranks sum over host memory: rank 1: /nowhere/libnccl.so.2: cannot open shared object file: No such file or directory"},
        {"nccl-one-card", NULL, NULL, "", "ranks sum over host memory: ranks 0 and 1 have one card between them (emulated card 0)"},
        {"nccl", NULL, NULL, "old", "ranks sum over host memory: rank 0: nccl 2.17.3 is older than 2.18"},
        {"nccl", NULL, NULL, "init:1", "ranks sum over host memory: rank 1: device simt: NCCL: joining: unhandled system error: the test asked for it"},
        {"nccl", NULL, NULL, "init:0", "ranks sum over host memory: rank 0: device simt: NCCL: joining: unhandled system error: the test asked for it"},
        {"nccl", NULL, NULL, "error:2:2", "ranks sum over host memory: rank 2: device simt: NCCL: summing: remote process exited or there was a network error"},
        {"nccl", NULL, NULL, "wrong:1:1", "ranks sum over host memory: rank 1: device simt: NCCL: a first sum of ones over 3 ranks is 4 and 3"},
        {"nccl", NULL, NULL, NULL, "ranks sum over host memory: rank 2: it says so"},
        {NULL, NULL, "cpu", "", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct joining j = {.level = cases[i].word ? fake_nccl(cases[i].word) : NULL, .other = cases[i].other, .kind = cases[i].kind, .sums = 2, .wish = !cases[i].wish};
        setenv("FAKE_NCCL", cases[i].wish ? cases[i].wish : "", 1);
        all_well(3, join_and_sum, &j);
        for (int k = 0; k < 3; k++)
            ck_assert_msg(strcmp(shm->said[k].way, cases[i].text) == 0, "case %zu, rank %d: %s (expected %s)", i, k, shm->said[k].way, cases[i].text);
    }
    unsetenv("FAKE_NCCL");
}
END_TEST

/* NVIDIA's own library has each call by its name: what it lacks is the emulation's, which is asked for last. */
START_TEST(the_real_library)
{
    static const char path[] = "/usr/local/cuda/lib64/libnccl.so.2";
    const struct pw_dev_options options = {.kind = "simt", .threads = 1, .level = "forward,nccl:/usr/local/cuda/lib64/libnccl.so.2"};
    struct pw_dev *dev = NULL;
    struct pw_peers_look look;
    if (!pw_file_exists(path)) {
        test_skip("%s is not there", path);
        return;
    }
    ck_ok(pw_dev_open(&dev, &options));
    pw_dev_peers_look(dev, &look);
    ck_assert_str_eq(look.why, "/usr/local/cuda/lib64/libnccl.so.2 has no nccl_emulated_busy");
    ck_assert_int_eq(look.version, 0);
    pw_dev_close(dev);
}
END_TEST

/* Later there is no other way: an error, or a death, inside of a sum ends it on all, with the words of the one that it came from. (Two sums are those of joining.) */
START_TEST(no_other_way_later)
{
    struct joining j = {.level = fake_nccl("nccl"), .sums = 4};
    int status[MOST];
    for (int who = 0; who < 3; who++) {
        char wish[32], text[160];
        snprintf(wish, sizeof wish, "error:%d:5", who);
        setenv("FAKE_NCCL", wish, 1);
        on_ranks(3, join_and_sum, &j, status);
        snprintf(text, sizeof text, "rank %d: device simt: NCCL: summing: remote process exited or there was a network error |", who);
        for (int k = 0; k < 3; k++)
            ck_assert_msg(WIFEXITED(status[k]) && WEXITSTATUS(status[k]) == 0 && shm->said[k].rc == PW_E_FAIL && strncmp(shm->said[k].text, text, strlen(text)) == 0, "%s, rank %d: %d: %s", wish, k,
                          shm->said[k].rc, shm->said[k].text);
    }
    setenv("FAKE_NCCL", "die:1:5", 1);
    const double from = pw_seconds();
    on_ranks(3, join_and_sum, &j, status);
    ck_assert_msg(pw_seconds() - from < 5, "it took %.1f s", pw_seconds() - from);
    ck_assert(WIFSIGNALED(status[1]));
    for (int k = 0; k < 3; k += 2)
        ck_assert_msg(shm->said[k].rc == PW_E_FAIL && strstr(shm->said[k].text, ") is gone"), "rank %d: %d: %s", k, shm->said[k].rc, shm->said[k].text);
    unsetenv("FAKE_NCCL");
}
END_TEST

/* ---- agreements ---- */

struct failing { int codes[MOST]; };

static int one_fails(struct pw_ranks *r, void *ctx)
{
    const struct failing *f = ctx;
    const int mine = f->codes[pw_ranks_rank(r)];
    double x = 1;
    PW_PASS(pw_ranks_agree(r, 0));
    if (mine < 0) {
        int rc = pw_error(mine, "what happened to %d", pw_ranks_rank(r));
        pw_error_hint("the way out of %d", pw_ranks_rank(r));
        return pw_ranks_agree(r, rc);
    }
    for (int i = 0; i < 3; i++)      /* wherever the others are when they learn of it */
        PW_PASS(pw_ranks_sum_f64(r, 0, &x, 1));
    return 0;
}

START_TEST(one_fails_all_stop)
{
    static const struct { int n; struct failing f; int code; const char *text; } cases[] = {
        {2, {{0, PW_E_FORMAT}}, PW_E_FORMAT, "rank 1: what happened to 1 | the way out of 1"},
        {3, {{PW_E_NUMERIC, 0, 0}}, PW_E_NUMERIC, "rank 0: what happened to 0 | the way out of 0"},
        {3, {{PW_E_INTERRUPTED, 0, PW_E_IO}}, PW_E_IO, "rank 2: what happened to 2 |"},
        {2, {{PW_E_REFUSED, PW_E_REFUSED}}, PW_E_REFUSED, "what happened to 0 | the way out of 0"},
        {4, {{0, PW_E_INTERRUPTED, PW_E_INTERRUPTED, 0}}, PW_E_INTERRUPTED, "rank 1: what happened to 1 |"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int status[MOST];
        struct failing f = cases[i].f;
        on_ranks(cases[i].n, one_fails, &f, status);
        for (int k = 0; k < cases[i].n; k++) {
            ck_assert_msg(WIFEXITED(status[k]) && WEXITSTATUS(status[k]) == 0, "case %zu: rank %d ended with status %d", i, k, status[k]);
            ck_assert_msg(shm->said[k].rc == cases[i].code && strncmp(shm->said[k].text, cases[i].text, strlen(cases[i].text)) == 0, "case %zu, rank %d: %d: %s", i, k,
                          shm->said[k].rc, shm->said[k].text);
        }
    }
}
END_TEST

static int alike(struct pw_ranks *r, void *ctx)
{
    const int *other = ctx;
    PW_PASS(pw_ranks_same(r, "the weather", "sun", 3));
    return pw_ranks_same(r, "the recipe", pw_ranks_rank(r) == *other ? "rain" : "sun", 3);
}

START_TEST(what_must_be_the_same)
{
    int status[MOST], other = 2;
    on_ranks(3, alike, &other, status);
    for (int k = 0; k < 3; k++)
        ck_assert_msg(shm->said[k].rc == PW_E_REFUSED && strstr(shm->said[k].text, "the recipe of rank 2 differs from that of rank 0"), "%s", shm->said[k].text);
    other = 7;
    all_well(3, alike, &other);
}
END_TEST

/* A rank that is gone is noticed by those that wait, wherever they wait; they end, rank 0 last. */
static int die(struct pw_ranks *r, void *ctx)
{
    const int *who = ctx;
    double x = 1;
    PW_PASS(pw_ranks_agree(r, 0));
    if (pw_ranks_rank(r) == *who)
        raise(SIGKILL);
    int rc = pw_ranks_sum_f64(r, 0, &x, 1);
    if (!pw_ranks_lost(r))
        return pw_error(PW_E_NUMERIC, "nobody noticed");
    return rc;
}

START_TEST(a_rank_that_dies)
{
    for (int who = 0; who < 3; who++) {
        int status[MOST];
        char text[64];
        const double from = pw_seconds();
        on_ranks(3, die, &who, status);
        ck_assert_msg(pw_seconds() - from < 5, "it took %.1f s", pw_seconds() - from);
        snprintf(text, sizeof text, "rank %d (process ", who);
        for (int k = 0; k < 3; k++) {
            if (k == who) {
                ck_assert(WIFSIGNALED(status[k]));
                continue;
            }
            /* rank 0 may have ended by the time that the other looks */
            const bool says = strncmp(shm->said[k].text, text, strlen(text)) == 0 || (k > 0 && strncmp(shm->said[k].text, "rank 0 (process ", 16) == 0);
            ck_assert_msg(shm->said[k].rc == PW_E_FAIL && says, "rank %d: %s", k, shm->said[k].text);
            ck_assert_msg(WIFEXITED(status[k]) && WEXITSTATUS(status[k]) == 3, "rank %d ended with status %d", k, status[k]);
        }
    }
}
END_TEST

/* ---- whole runs ---- */

#define FIXTURES "tests/fixtures/train_golden"
struct job {
    const char *rows, *train, *adapter, *output;
    bool resume, force;
    int64_t stop_at, kill_at, ranks; /* rank 1 says stop, or dies, in the step after this one; 0: neither */
    const char *other_rows;          /* of the last rank */
    const char *kind, *level;        /* of the device */
};

static struct pw_run *running;
static const struct job *running_job;

static bool stop(void *ctx)
{
    const struct pw_ranks *r = ctx;
    const struct job *j = running_job;
    if (pw_ranks_rank(r) != 1)
        return false;
    if (j->kill_at > 0 && running->trainer.step == j->kill_at)
        raise(SIGKILL);
    return j->stop_at > 0 && running->trainer.step == j->stop_at;
}

static int train_job(struct pw_ranks *ranks, void *ctx)
{
    const struct job *j = ctx;
    const bool other = j->other_rows && pw_ranks_rank(ranks) == pw_ranks_size(ranks) - 1;
    const struct pw_dev_options options = {.kind = j->kind ? j->kind : "cpu", .threads = 1, .level = j->level};
    char way[PW_RANKS_WAY];
    struct pw_recipe r = {0};
    struct pw_dev *dev = NULL;
    struct pw_run run = {0};
    struct pw_run_result result;
    char text[2048];
    int rc = 0;
    snprintf(text, sizeof text, "model: %s\nadapter: {%s}\ndata: {train: %s, max_length: 40, eval: 0.2}\ntrain: {warmup: 0, eps: 1e-4, %s}\noutput: %s\n",
             FIXTURES "/model", j->adapter, other ? j->other_rows : j->rows, j->train, j->output);
    PW_PASS_OUT(pw_recipe_parse(&r, text, strlen(text), "test", NULL, 0));
    PW_PASS_OUT(pw_dev_open(&dev, &options));
    const struct pw_run_options opt = {.recipe = &r, .dev = dev, .ranks = pw_ranks_size(ranks) > 1 ? ranks : NULL, .resume = j->resume, .force = j->force, .stop = stop, .stop_ctx = ranks};
    PW_PASS_OUT(pw_ranks_join_devices(opt.ranks, dev, strcmp(r.sums, "host") == 0 ? "the recipe" : NULL, way));
    running = &run;
    running_job = j;
    PW_PASS_OUT(pw_run_open(&run, &opt));
    PW_PASS_OUT(pw_run_train(&run, &result));
    shm->said[pw_ranks_rank(ranks)].number = result.first_eval_loss;
    snprintf(shm->said[pw_ranks_rank(ranks)].way, sizeof shm->said[0].way, "%d %s", result.ranks, result.sums);
out:
    pw_ranks_release(ranks);
    pw_run_close(&run);
    if (dev)
        pw_dev_close(dev);
    pw_recipe_free(&r);
    return rc;
}

static struct pw_log_line *read_log(struct pw_arena *a, const char *dir, size_t *n)
{
    struct pw_log_line *lines = NULL;
    ck_ok(pw_runlog_read(a, test_path(dir, "log.jsonl"), &lines, n));
    ck_assert_uint_gt(*n, 0);
    return lines;
}

/* Losses and gradient norms of each step, and the trained values, within the reordering of float sums; 0: the same bytes. */
static void same_run(const char *a, const char *b, double bound, bool full)
{
    struct pw_arena arena;
    size_t n = 0, m = 0;
    const char *file = full ? "model/model.safetensors" : "adapter/adapter_model.safetensors";
    pw_arena_init(&arena);
    const struct pw_log_line *x = read_log(&arena, a, &n), *y = read_log(&arena, b, &m);
    ck_assert_uint_eq(n, m);
    for (size_t i = 0; i < n; i++) {
        ck_assert(x[i].is_eval == y[i].is_eval && x[i].s.step == y[i].s.step && x[i].s.tokens == y[i].s.tokens && x[i].s.trained_tokens == y[i].s.trained_tokens);
        ck_close(x[i].s.loss, y[i].s.loss, 0, x[i].s.step <= 1 ? 0 : bound);     /* before the first update nothing is reordered */
        ck_close(x[i].s.grad_norm, y[i].s.grad_norm, 0, 10 * bound);
        ck_assert(x[i].s.has_rewards == y[i].s.has_rewards);
        ck_close(x[i].s.reward_accuracy, y[i].s.reward_accuracy, 0, bound);
        ck_close(x[i].s.reward_margin, y[i].s.reward_margin, bound, 10 * bound);
    }
    char *p = test_slurp(test_path(a, file), &n), *q = test_slurp(test_path(b, file), &m);
    ck_assert_uint_eq(n, m);
    uint64_t head = 0;
    memcpy(&head, p, sizeof head);
    ck_assert(head < n && memcmp(p, q, 8 + head) == 0);
    if (bound == 0)
        ck_assert_msg(memcmp(p, q, n) == 0, "%s differs", file);
    const size_t count = (n - 8 - head) / sizeof(float);
    float *u = pw_alloc(count * sizeof *u), *v = pw_alloc(count * sizeof *v);
    memcpy(u, p + 8 + head, count * sizeof *u);
    memcpy(v, q + 8 + head, count * sizeof *v);
    const double worst = test_worst(u, v, count, bound + 1e-30, bound + 1e-30);
    ck_assert_msg(worst <= 1, "%s: values differ by %g of the bound", file, worst);
    pw_free(u);
    pw_free(v);
    pw_free(p);
    pw_free(q);
    pw_arena_free(&arena);
}

static const char *preference_rows(void)
{
    static const char text[] = "{\"prompt\":\"turn abc:\",\"chosen\":\" bca\",\"rejected\":\" abc\"}\n{\"prompt\":\"12+30=\",\"chosen\":\"42\",\"rejected\":\"41\"}\n"
                               "{\"prompt\":\"the sky of day 3 is\",\"chosen\":\" blue and wide\",\"rejected\":\" green\"}\n{\"prompt\":\"turn gbd:\",\"chosen\":\" dbg\",\"rejected\":\" gg\"}\n"
                               "{\"prompt\":\"1+1=\",\"chosen\":\"2\",\"rejected\":\"11\"}\n{\"prompt\":\"turn ah:\",\"chosen\":\" ha\",\"rejected\":\" ah\"}\n"
                               "{\"prompt\":\"20+21=\",\"chosen\":\"41\",\"rejected\":\"2021\"}\n";
    const char *path = test_path(test_tmpdir(), "pairs.jsonl");
    ck_ok(pw_file_write(path, text, strlen(text), true));
    return path;
}

static const char *kto_rows(void)
{
    char text[2048];
    size_t at = 0;
    for (int i = 0; i < 12; i++)
        at += (size_t)snprintf(text + at, sizeof text - at, "{\"prompt\":\"%d+%d=\",\"completion\":\"%d\",\"label\":%s}\n", i, 3 * i, 4 * i, i % 6 == 5 ? "false" : "true");
    const char *path = test_path(test_tmpdir(), "kto.jsonl");
    ck_ok(pw_file_write(path, text, at, true));
    return path;
}

#define PAIRS "r: 4, alpha: 8, dropout: 0.1"
/* 2 ranks x 3 passes = 3 ranks x 2 = 1 rank x 6, with steps at the ends of epochs that do not divide; and twice the same bytes. */
static void many_or_one(const char *rows, const char *adapter, const char *more)
{
    static const int ranks[] = {1, 2, 3, 2};
    const char *dirs[4];
    double first = 0;
    for (int i = 0; i < 4; i++) {
        char train[400];
        dirs[i] = test_path(test_tmpdir(), "run");
        snprintf(train, sizeof train, "steps: 7, batch_size: 1, accumulate: %d, eval_every: 3, save_every: 4, %s%s", 6 / ranks[i], strstr(more, "lr: ") ? "" : "lr: 3e-3, ", more);
        struct job j = {.rows = rows, .train = train, .adapter = adapter, .output = dirs[i]};
        all_well(ranks[i], train_job, &j);
        for (int k = 0; k < ranks[i]; k++)
            ck_assert_msg(i == 0 || shm->said[k].number == first, "the first evaluation on %d ranks is %.17g on rank %d (expected %.17g)", ranks[i], shm->said[k].number, k, first);
        first = shm->said[0].number;
    }
    const bool full = strstr(adapter, "full") != NULL;
    same_run(dirs[0], dirs[1], 1e-4, full);
    same_run(dirs[0], dirs[2], 1e-4, full);
    same_run(dirs[1], dirs[3], 0, full);
}

START_TEST(sft) { many_or_one(FIXTURES "/rows.jsonl", PAIRS, "neftune: 5"); }
END_TEST
START_TEST(full) { many_or_one(FIXTURES "/rows.jsonl", "kind: full", "optimizer: adamw8"); }
END_TEST
START_TEST(dpo) { many_or_one(preference_rows(), PAIRS, "objective: dpo"); }
END_TEST
START_TEST(full_dpo) { many_or_one(preference_rows(), "kind: full", "objective: dpo"); }
END_TEST
START_TEST(kto) { many_or_one(kto_rows(), "r: 4, alpha: 16", "objective: kto, lr: 2e-2"); }      /* z is above 0 from the second step on */
END_TEST

/* Rank 1 stops, then dies, then the run goes on to the end: the same bytes as without; and other numbers of ranks. */
START_TEST(stopped_killed_resumed)
{
#define TWICE "lr: 3e-3, steps: 12, batch_size: 2, accumulate: 2, eval_every: 5, save_every: 3"
    const char *whole = test_path(test_tmpdir(), "whole"), *cut = test_path(test_tmpdir(), "cut");
    int status[MOST];
    struct job j = {.rows = FIXTURES "/rows.jsonl", .train = TWICE, .adapter = PAIRS, .output = whole};
    all_well(2, train_job, &j);
    j.output = cut;
    j.stop_at = 4;
    on_ranks(2, train_job, &j, status);
    for (int k = 0; k < 2; k++)
        ck_assert_msg(shm->said[k].rc == PW_E_INTERRUPTED && strstr(shm->said[k].text, "interrupted after step 4 of 12, state saved in "), "rank %d: %s", k, shm->said[k].text);
    j.stop_at = 0;
    j.kill_at = 7;
    j.resume = true;
    on_ranks(2, train_job, &j, status);
    ck_assert(WIFSIGNALED(status[1]));
    ck_assert_msg(shm->said[0].rc == PW_E_FAIL && strstr(shm->said[0].text, " is gone: the run ends; state of step 7 saved in ") &&
                  strstr(shm->said[0].text, "| --resume goes on"), "rank 0: %s", shm->said[0].text);
    j.kill_at = 0;
    j.train = "lr: 3e-3, steps: 12, batch_size: 2, accumulate: 3, eval_every: 5, save_every: 3";
    on_ranks(2, train_job, &j, status);
    for (int k = 0; k < 2; k++)
        ck_assert_msg(shm->said[k].rc == PW_E_REFUSED && strstr(shm->said[k].text, "train.accumulate times the number of ranks was changed (saved 4, now 6)"), "rank %d: %s", k,
                      shm->said[k].text);
    j.train = TWICE;
    all_well(2, train_job, &j);
    same_run(whole, cut, 0, false);

    /* one rank goes on where two were */
    const char *fewer = test_path(test_tmpdir(), "fewer");
    struct job f = {.rows = FIXTURES "/rows.jsonl", .train = TWICE, .adapter = PAIRS, .output = fewer, .stop_at = 4};
    on_ranks(2, train_job, &f, status);
    f.resume = true;
    on_ranks(1, train_job, &f, status);
    ck_assert_msg(shm->said[0].rc == PW_E_REFUSED && strstr(shm->said[0].text, "(saved 4, now 2)"), "%s", shm->said[0].text);
    f.train = "lr: 3e-3, steps: 12, batch_size: 2, accumulate: 4, eval_every: 5, save_every: 3";
    all_well(1, train_job, &f);
    same_run(whole, fewer, 1e-4, false);
}
END_TEST

START_TEST(ranks_that_read_other_rows)
{
    const char *path = test_path(test_tmpdir(), "rows.jsonl");
    int status[MOST];
    size_t n = 0;
    char *text = test_slurp(FIXTURES "/rows.jsonl", &n);
    struct job j = {.rows = FIXTURES "/rows.jsonl", .train = "steps: 2", .adapter = PAIRS, .output = test_path(test_tmpdir(), "run"), .other_rows = path};
    ck_ok(pw_file_write(path, text, n, true));
    on_ranks(3, train_job, &j, status);
    for (int k = 0; k < 3; k++)      /* the same rows from another file: the recipe says so */
        ck_assert_msg(shm->said[k].rc == PW_E_REFUSED && strstr(shm->said[k].text, "the recipe of rank 2 differs"), "rank %d: %s", k, shm->said[k].text);
    ck_ok(pw_file_write(path, "{\"nothing\": 1}\n", 15, true));
    on_ranks(3, train_job, &j, status);
    for (int k = 0; k < 3; k++)
        ck_assert_msg(shm->said[k].rc < 0 && strncmp(shm->said[k].text, "rank 2: ", 8) == 0 && strstr(shm->said[k].text, "rows.jsonl"), "rank %d: %s", k, shm->said[k].text);
    ck_assert(!pw_file_exists(j.output));
    pw_free(text);
}
END_TEST

/* Gradients that lie in a device's own memory. */
START_TEST(on_a_device)
{
    const char *one = test_path(test_tmpdir(), "one"), *two = test_path(test_tmpdir(), "two"), *again = test_path(test_tmpdir(), "again");
    struct job j = {.rows = FIXTURES "/rows.jsonl", .train = "steps: 2, batch_size: 2, accumulate: 2", .adapter = "r: 2", .output = one, .kind = "simt"};
    all_well(1, train_job, &j);
    j.train = "steps: 2, batch_size: 2, accumulate: 1";
    j.output = two;
    all_well(2, train_job, &j);
    j.output = again;
    all_well(2, train_job, &j);
    same_run(one, two, 1e-4, false);
    same_run(two, again, 0, false);
}
END_TEST

/* What summed is in the result of every rank, and in every line of a step. */
static void says(const char *dir, const char *result, const char *line)
{
    struct pw_buf log = {0};
    int lines = 0;
    for (int k = 0; k < 2; k++)
        ck_assert_str_eq(shm->said[k].way, result);
    ck_ok(pw_file_read(test_path(dir, "log.jsonl"), 0, &log));
    pw_buf_char(&log, 0);
    for (const char *at = log.data; (at = strstr(at, line)) != NULL; at++)
        lines++;
    ck_assert_msg(lines == 3, "%s is in %d lines: %s", line, lines, log.data);
    pw_buf_free(&log);
}

/* A run whose ranks sum by the devices' library: the same bytes as over host memory (a sum of two is rounded once either way), an error in it leaves a state to
 * go on from, and going on by the other way is refused. */
START_TEST(a_run_by_the_devices)
{
    const char *host = test_path(test_tmpdir(), "host"), *devices = test_path(test_tmpdir(), "devices"), *cut = test_path(test_tmpdir(), "cut"),
               *asked = test_path(test_tmpdir(), "asked");
    int status[MOST];
    struct job j = {.rows = FIXTURES "/rows.jsonl", .train = "steps: 3, batch_size: 1, accumulate: 1, eval_every: 0", .adapter = "r: 2, dropout: 0.1", .output = host, .kind = "simt"};
    all_well(2, train_job, &j);
    j.level = fake_nccl("nccl");
    j.output = devices;
    all_well(2, train_job, &j);
    same_run(host, devices, 0, false);
    says(devices, "2 nccl 2.28.9", "\"ranks\":2,\"sums\":\"nccl 2.28.9\"");
    j.output = asked;
    j.train = "steps: 3, batch_size: 1, accumulate: 1, eval_every: 0, sums: host";
    all_well(2, train_job, &j);
    same_run(host, asked, 0, false);
    says(asked, "2 host", "\"ranks\":2,\"sums\":\"host\"");
    j.train = "steps: 3, batch_size: 1, accumulate: 1, eval_every: 0";
    j.output = cut;
    setenv("FAKE_NCCL", "error:1:5", 1);
    on_ranks(2, train_job, &j, status);
    for (int k = 0; k < 2; k++)
        ck_assert_msg(shm->said[k].rc == PW_E_FAIL && strstr(shm->said[k].text, "rank 1: device simt: NCCL: summing: remote") &&
                      (k == 1 || strstr(shm->said[k].text, "state of step 2 saved in ")), "rank %d: %s", k, shm->said[k].text);
    unsetenv("FAKE_NCCL");
    j.resume = true;
    j.train = "steps: 3, batch_size: 1, accumulate: 1, eval_every: 0, sums: host";
    on_ranks(2, train_job, &j, status);
    ck_assert_msg(shm->said[0].rc == PW_E_REFUSED && strstr(shm->said[0].text, "(saved with 'nccl 2.28.9', now 'host')"), "%s", shm->said[0].text);
    j.train = "steps: 3, batch_size: 1, accumulate: 1, eval_every: 0";
    j.level = NULL;
    on_ranks(2, train_job, &j, status);
    ck_assert_msg(shm->said[0].rc == PW_E_REFUSED && strstr(shm->said[0].text, "ranks sum by another way now, to other bytes (saved with 'nccl 2.28.9', now 'host')"), "%s", shm->said[0].text);
    j.level = fake_nccl("nccl");
    all_well(2, train_job, &j);
    same_run(host, cut, 0, false);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("ranks");
    TCase *c = tcase_create("ranks");
    tcase_set_timeout(c, 120);
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, sums_in_order);
    tcase_add_test(c, sums_by_the_devices);
    tcase_add_test(c, one_way_for_all);
    tcase_add_test(c, the_real_library);
    tcase_add_test(c, no_other_way_later);
    tcase_add_test(c, one_fails_all_stop);
    tcase_add_test(c, what_must_be_the_same);
    tcase_add_test(c, a_rank_that_dies);
    tcase_add_test(c, sft);
    tcase_add_test(c, full);
    tcase_add_test(c, dpo);
    tcase_add_test(c, full_dpo);
    tcase_add_test(c, kto);
    tcase_add_test(c, stopped_killed_resumed);
    tcase_add_test(c, ranks_that_read_other_rows);
    tcase_add_test(c, on_a_device);
    tcase_add_test(c, a_run_by_the_devices);
    suite_add_tcase(s, c);
    return test_run(s);
}
