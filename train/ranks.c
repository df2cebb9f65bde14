/* See ranks.h. */
#include "train/ranks_parts.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/plugin.h"
#include "base/progress.h"
#include "base/text.h"

enum { CHUNK = 1 << 20, BUFFERS = 5, EAGER = 2000 };
static const double LOOK_EVERY = 0.02, GRACE = 0.25, WAIT_FOR_ROOT = 120;    /* seconds */
enum { GRACE_LOOKS = 5 };

struct vote { int32_t code; uint32_t turn; };
struct words { char text[1500], hint[500]; };

/* ---- who is there ---- */

/* From /proc/PID/stat: the state, and the start of the process in ticks. */
static bool look_at(int32_t pid, char *state, uint64_t *started)
{
    char path[64];
    struct pw_buf text = {0};
    bool there = false;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (pw_file_read(path, 1 << 16, &text) == 0 && text.data) {
        char *at = strrchr(text.data, ')');        /* the name may hold anything */
        int field = 2;
        for (at = at ? at + 1 : NULL; at && *at && field < 22; field++) {
            at += strspn(at, " ");
            if (field == 2)
                *state = *at;
            if (field == 21) {
                *started = strtoull(at, NULL, 10);
                there = true;
            }
            at += strcspn(at, " ");
        }
    } else
        pw_error_clear();
    pw_buf_free(&text);
    return there;
}

static void find_self(struct whereabouts *w)
{
    struct pw_buf text = {0};
    struct stat st;
    char state;
    *w = (struct whereabouts){.pid = (int32_t)getpid()};
    if (pw_file_read("/proc/sys/kernel/random/boot_id", 1 << 12, &text) == 0 && text.data)
        snprintf(w->machine, sizeof w->machine, "%.36s", text.data);
    else if (gethostname(w->machine, sizeof w->machine - 1) != 0)
        snprintf(w->machine, sizeof w->machine, "?");
    pw_buf_free(&text);
    pw_error_clear();
    if (stat("/proc/self/ns/pid", &st) == 0)
        w->space = (uint64_t)st.st_ino;
    (void)look_at(w->pid, &state, &w->started);
}

/* A rank of this machine that has ended, or -1. */
static int find_lost(const struct pw_ranks *r)
{
    const struct whereabouts *me = &r->all[r->comm.rank];
    for (int i = 0; i < r->comm.size; i++) {
        const struct whereabouts *w = &r->all[i];
        char state = 0;
        uint64_t started = 0;
        if (i == r->comm.rank || !me->started || !w->started || w->space != me->space || strcmp(w->machine, me->machine) != 0)
            continue;
        if (!look_at(w->pid, &state, &started) || started != w->started || state == 'Z' || state == 'X')
            return i;
    }
    return -1;
}

static void nap(double seconds)
{
    const struct timespec t = {.tv_nsec = (long)(seconds * 1e9)};
    nanosleep(&t, NULL);
}

static int lost(struct pw_ranks *r)
{
    r->over = PW_E_FAIL;
    return pw_error(PW_E_FAIL, "rank %d (process %d) is gone", r->lost, r->lost >= 0 ? (int)r->all[r->lost].pid : 0);
}

int pw_ranks_waits(void *ctx, long asked)
{
    struct pw_ranks *r = ctx;
    if (asked < EAGER) {
        sched_yield();
        return 0;
    }
    nap(asked < 4 * EAGER ? 50e-6 : 500e-6);
    const double now = pw_seconds();
    if (!r->all || now - r->looked < LOOK_EVERY)
        return 0;
    r->looked = now;
    if (r->missed < 0 && (r->missed = find_lost(r)) >= 0) {
        r->since = now;
        r->looks = 0;
    }
    if (r->missed < 0 || ++r->looks < GRACE_LOOKS || now - r->since < GRACE)
        return 0;
    r->lost = r->missed;
    return lost(r);
}

int pw_ranks_after(struct pw_ranks *r, int rc)
{
    if (rc < 0 && r->over == 0)
        r->over = rc;
    return rc;
}

/* ---- open, close ---- */

static int load(const struct pw_comm_row **row)
{
    void *symbol = NULL;
    pw_comm_fn *plugin = NULL;
    if (pw_plugin_symbol(&symbol, "libpw_mpi.so", PW_COMM_SYMBOL, true) < 0) {
        char why[512];
        snprintf(why, sizeof why, "%s", pw_error_text());
        int rc = pw_error(PW_E_UNSUPPORTED, "several ranks need MPI: %s", why);
        pw_error_hint("install libopenmpi-dev and openmpi-bin (tools/bootstrap --all does), then make");
        return rc;
    }
    memcpy(&plugin, &symbol, sizeof plugin);
    *row = plugin ? plugin(PW_VERSION, sizeof **row) : NULL;
    PW_CHECK(*row, PW_E_REFUSED, "libpw_mpi.so belongs to another build of this program");
    return 0;
}

static int meet(struct pw_ranks *r)
{
    struct whereabouts me, *all = pw_alloc_zero((size_t)r->comm.size, sizeof *all);
    PW_CHECK(all, PW_E_NOMEM, "out of memory for %d ranks", r->comm.size);
    find_self(&me);
    int rc = r->row->gather(&r->comm, &me, all, sizeof me);
    if (rc < 0) {
        pw_free(all);
        return pw_error_while(rc, "meeting the other ranks");
    }
    r->all = all;
    for (int i = 0; i < r->comm.size; i++)
        if (strcmp(all[i].machine, me.machine) == 0) {
            r->local_rank += i < r->comm.rank;
            r->local++;
        }
    return 0;
}

int pw_ranks_open(struct pw_ranks **out, const struct pw_comm_row *row, int expected)
{
    struct pw_ranks *r = NULL;
    int rc = 0;
    *out = NULL;
    if (!row)
        PW_PASS(load(&row));
    r = pw_alloc_zero(1, sizeof *r);
    PW_CHECK(r, PW_E_NOMEM, "out of memory");
    *r = (struct pw_ranks){.row = row, .lost = -1, .missed = -1, .comm = {.waits = pw_ranks_waits, .waits_ctx = r}};
    PW_TRY_OUT(row->open(&r->comm), "joining the other ranks");
    if (r->comm.size != expected) {
        rc = pw_error(PW_E_REFUSED, "%d ranks were started, but MPI knows of %d", expected, r->comm.size);
        pw_error_hint("the launcher belongs to another MPI than this program was built with, or was told of none (srun --mpi=pmix)");
        row->close(&r->comm);
        goto out;
    }
    PW_PASS_OUT(meet(r));
    *out = r;
out:
    if (rc < 0)
        pw_free(r);
    return rc;
}

/* Rank 0 may be saving what can be saved: the others hold still until it is through. */
static void wait_for_root(struct pw_ranks *r)
{
    const struct whereabouts *root = &r->all[0], *me = &r->all[r->comm.rank];
    const double from = pw_seconds();
    char state = 0;
    uint64_t started = 0;
    while (r->lost != 0 && pw_seconds() - from < WAIT_FOR_ROOT) {
        const bool visible = root->space == me->space && strcmp(root->machine, me->machine) == 0 && root->started;
        if (visible && (!look_at(root->pid, &state, &started) || started != root->started || state == 'Z'))
            break;
        nap(0.02);
    }
}

void pw_ranks_close(struct pw_ranks *r, int status)
{
    if (!r)
        return;
    pw_ranks_release(r);
    const struct vote bye = {0, UINT32_MAX};
    struct vote *all = r->lost < 0 ? pw_alloc_zero((size_t)r->comm.size, sizeof *all) : NULL;
    const bool together = all && pw_ranks_after(r, r->row->gather(&r->comm, &bye, all, sizeof bye)) == 0;
    if (together)
        r->row->close(&r->comm);
    else {
        if (r->comm.rank != 0)
            wait_for_root(r);
        r->row->abandon(&r->comm, status);
    }
    pw_free(all);
    pw_free(r->all);
    pw_free(r);
}

int pw_ranks_rank(const struct pw_ranks *r) { return r ? r->comm.rank : 0; }
int pw_ranks_size(const struct pw_ranks *r) { return r ? r->comm.size : 1; }
bool pw_ranks_lost(const struct pw_ranks *r) { return r && r->lost >= 0; }
bool pw_ranks_speaks(const struct pw_ranks *r) { return !r || r->comm.rank == (r->lost == 0); }

int pw_ranks_local(const struct pw_ranks *r, int *rank)
{
    if (rank)
        *rank = r ? r->local_rank : 0;
    return r ? r->local : 1;
}

bool pw_ranks_beside(const struct pw_ranks *r, int a, int b) { return strcmp(r->all[a].machine, r->all[b].machine) == 0; }

void pw_ranks_share(const struct pw_ranks *r, int64_t from, int64_t to, int64_t *first, int64_t *last)
{
    const int64_t n = to - from, size = pw_ranks_size(r), rank = pw_ranks_rank(r), each = n / size, rest = n % size;
    *first = from + each * rank + (rank < rest ? rank : rest);
    *last = *first + each + (rank < rest);
}

/* ---- agreements ---- */

static bool graver(int32_t a, int32_t b)
{
    return b == 0 || (b == PW_E_INTERRUPTED && a != PW_E_INTERRUPTED);
}

/* Everyone takes the words of the rank that speaks for all. */
static int pass_words(struct pw_ranks *r, int speaker, int32_t code, bool alike)
{
    struct words *w = pw_alloc_zero(1, sizeof *w);
    PW_CHECK(w, PW_E_NOMEM, "out of memory");
    if (r->comm.rank == speaker) {
        snprintf(w->text, sizeof w->text, "%s", pw_error_text());
        snprintf(w->hint, sizeof w->hint, "%s", pw_error_hint_text());
    }
    int rc = r->row->broadcast(&r->comm, speaker, w, sizeof *w);
    if (rc == 0) {
        w->text[sizeof w->text - 1] = w->hint[sizeof w->hint - 1] = 0;
        (void)(alike ? pw_error(code, "%s", w->text) : pw_error(code, "rank %d: %s", speaker, w->text));
        if (w->hint[0])
            pw_error_hint("%s", w->hint);
        rc = code;
    }
    pw_free(w);
    return rc;
}

int pw_ranks_agree(struct pw_ranks *r, int rc)
{
    if (!r || r->over != 0)
        return rc < 0 || !r ? rc : pw_error(r->over, "the other ranks have stopped");
    const struct vote mine = {rc, r->turn++};
    struct vote *all = pw_alloc_zero((size_t)r->comm.size, sizeof *all);
    int speaker = -1;
    int32_t code = 0;
    bool alike = true;
    if (!all)
        return pw_ranks_after(r, pw_error(PW_E_NOMEM, "out of memory"));
    int got = pw_ranks_after(r, r->row->gather(&r->comm, &mine, all, sizeof mine));
    for (int i = 0; got == 0 && i < r->comm.size; i++) {
        alike &= all[i].code == all[0].code;
        if (all[i].code < 0 && graver(all[i].code, code)) {
            speaker = i;
            code = all[i].code;
        }
        /* A rank that failed may be at an earlier turn; those that did not are at the same one. */
        if (all[i].code == 0 && rc == 0 && all[i].turn != mine.turn)
            got = pw_ranks_after(r, pw_error(PW_E_FAIL, "ranks are out of step (rank %d at %u, rank %d at %u)", r->comm.rank, mine.turn, i, all[i].turn));
    }
    pw_free(all);
    if (got < 0 || speaker < 0)
        return got;
    return pw_ranks_after(r, pass_words(r, speaker, code, alike));
}

int pw_ranks_same(struct pw_ranks *r, const char *what, const void *bytes, size_t n)
{
    char mine[65], *all;
    int rc = 0;
    if (!r)
        return 0;
    PW_PASS(pw_ranks_agree(r, 0));
    pw_sha256_bytes(bytes, n, mine);
    all = pw_alloc_zero((size_t)r->comm.size, sizeof mine);
    if (!all)
        return pw_ranks_after(r, pw_error(PW_E_NOMEM, "out of memory"));
    rc = pw_ranks_after(r, r->row->gather(&r->comm, mine, all, sizeof mine));
    for (int i = 1; rc == 0 && i < r->comm.size; i++)
        if (memcmp(all + (size_t)i * sizeof mine, all, sizeof mine) != 0) {
            rc = pw_error(PW_E_REFUSED, "%s of rank %d differs from that of rank 0", what, i);
            pw_error_hint("every rank needs the same program, recipe, model and data");
        }
    pw_free(all);
    return rc;
}

int pw_ranks_broadcast(struct pw_ranks *r, void *data, size_t bytes)
{
    if (!r || bytes == 0)
        return 0;
    PW_PASS(pw_ranks_agree(r, 0));
    return pw_ranks_after(r, r->row->broadcast(&r->comm, 0, data, bytes));
}

/* ---- sums ---- */

int pw_ranks_sum_f64(struct pw_ranks *r, int rc, double *x, size_t n)
{
    if (!r)
        return rc;
    PW_PASS(pw_ranks_agree(r, rc));
    for (size_t at = 0; at < n; at += CHUNK) {
        const size_t m = n - at < CHUNK ? n - at : CHUNK;
        double *all = pw_alloc((size_t)r->comm.size * m * sizeof *all);
        if (!all)
            return pw_ranks_after(r, pw_error(PW_E_NOMEM, "out of memory"));
        int got = pw_ranks_after(r, r->row->gather(&r->comm, x + at, all, m * sizeof *x));
        for (size_t i = 0; got == 0 && i < m; i++) {
            double sum = all[i];
            for (int k = 1; k < r->comm.size; k++)
                sum += all[(size_t)k * m + i];
            x[at + i] = sum;
        }
        pw_free(all);
        PW_PASS(got);
    }
    return 0;
}

size_t pw_ranks_bytes(const struct pw_ranks *r, size_t n)
{
    return r && !r->joined ? (size_t)BUFFERS * ((n < CHUNK ? n : CHUNK) + (size_t)r->comm.size) * sizeof(float) : 0;
}

int pw_ranks_reserve(struct pw_ranks *r, struct pw_dev *dev, size_t n)
{
    float **const buffers[BUFFERS] = {r ? &r->in[0] : NULL, r ? &r->in[1] : NULL, r ? &r->out[0] : NULL, r ? &r->out[1] : NULL, r ? &r->got : NULL};
    if (!r || r->dev || r->joined)
        return 0;
    r->dev = dev;
    r->chunk = n < CHUNK ? n : CHUNK;
    for (int i = 0; i < BUFFERS; i++) {
        void *room = NULL;
        PW_TRY(pw_dev_pinned(dev, &room, pw_ranks_bytes(r, n) / BUFFERS), "taking host memory for sums over ranks");
        *buffers[i] = room;
    }
    return 0;
}

void pw_ranks_release(struct pw_ranks *r)
{
    if (r)
        pw_ranks_leave_devices(r);
    if (!r || !r->dev)
        return;
    for (int i = 0; i < 2; i++) {
        pw_dev_pinned_free(r->dev, r->in[i]);
        pw_dev_pinned_free(r->dev, r->out[i]);
        r->in[i] = r->out[i] = NULL;
    }
    pw_dev_pinned_free(r->dev, r->got);
    r->got = NULL;
    r->dev = NULL;
}

/* in: (size, slice), row i for rank i; out: the sums of all slices. */
static int sum_chunk(struct pw_ranks *r, const float *in, float *out, size_t slice)
{
    const size_t size = (size_t)r->comm.size;
    PW_PASS(pw_ranks_after(r, r->row->exchange(&r->comm, in, r->got, slice * sizeof *in)));
    for (size_t i = 0; i < slice; i++) {
        double sum = (double)r->got[i];
        for (size_t k = 1; k < size; k++)
            sum += (double)r->got[k * slice + i];
        r->got[i] = (float)sum;
    }
    return pw_ranks_after(r, r->row->gather(&r->comm, r->got, out, slice * sizeof *out));
}

/* Chunks alternate between two lanes: the next one is on its way from the device while this one is summed, and the last one on its way back. */
int pw_ranks_sum_f32(struct pw_ranks *r, float *data, size_t n)
{
    if (!r || r->joined)
        return r ? pw_ranks_sum_devices(r, data, n) : 0;
    PW_CHECK(r->dev && (r->chunk > 0 || n == 0), PW_E_FAIL, "no room was taken for sums over ranks");
    PW_PASS(pw_ranks_agree(r, 0));
    const size_t size = (size_t)r->comm.size, chunk = r->chunk;
    for (size_t at = 0, c = 0; at < n; at += chunk, c++) {
        const size_t m = n - at < chunk ? n - at : chunk, next = at + chunk, slice = (m + size - 1) / size;
        const int lane = (int)(c % 2);
        if (c == 0)
            PW_PASS(pw_ranks_after(r, pw_dev_send(r->dev, lane, r->in[lane], data, m * sizeof *data)));
        if (next < n)
            PW_PASS(pw_ranks_after(r, pw_dev_send(r->dev, !lane, r->in[!lane], data + next, (n - next < chunk ? n - next : chunk) * sizeof *data)));
        PW_PASS(pw_ranks_after(r, pw_dev_wait(r->dev, lane)));
        PW_PASS(pw_ranks_after(r, pw_dev_sync(r->dev)));
        memset(r->in[lane] + m, 0, (slice * size - m) * sizeof *data);
        PW_PASS(sum_chunk(r, r->in[lane], r->out[lane], slice));
        PW_PASS(pw_ranks_after(r, pw_dev_bring(r->dev, lane, data + at, r->out[lane], m * sizeof *data)));
    }
    PW_PASS(pw_ranks_after(r, pw_dev_wait(r->dev, 0)));
    return pw_ranks_after(r, pw_dev_wait(r->dev, 1));
}
