/* A library in the place of NCCL, for the emulated device: the calls that kernels/cuda/nccl.cu makes, over memory that the processes of one machine share,
 * on addresses of the host. Like NCCL's with a non-blocking communicator, no call waits: joining and leaving go on when they are asked about, a sum is
 * queued and goes on while the stream is asked (nccl_emulated_busy). Sums are f32 in the order of ranks. FAKE_NCCL asks for what a test wants to see:
 *     old            a version that is too old
 *     init:R         rank R fails to join
 *     error:R:N      the N-th sum of rank R ends in an error; the others hear nothing of it
 *     die:R:N        rank R is killed inside of its N-th sum, when it has given its part
 *     wrong:R:N      the N-th sum of rank R is another one */
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 8, CHUNK = 1 << 18, SUCCESS = 0, SYSTEM_ERROR = 2, BAD_ARGUMENT = 4, REMOTE_ERROR = 6, IN_PROGRESS = 7, FLOAT32 = 7 };
struct id { char internal[128]; };
struct config { size_t size; unsigned magic, version; int blocking; };
struct area {
    atomic_int came, joined, left;
    atomic_uint given[MOST], taken[MOST];   /* chunks */
    float part[MOST][CHUNK];
};
struct comm {
    struct area *area;
    int rank, size, state, sums;
    bool counted, leaving;
    float *data; size_t n;                  /* what is left of the sum at hand */
    unsigned turn; bool given;
};
static struct comm *only;

#define SHOWN __attribute__((visibility("default")))
SHOWN int ncclGetVersion(int *version);
SHOWN int ncclGetUniqueId(struct id *id);
SHOWN int ncclCommInitRankConfig(struct comm **out, int size, struct id id, int rank, struct config *config);
SHOWN int ncclAllReduce(const float *from, float *to, size_t n, int type, int op, struct comm *c, void *stream);
SHOWN int ncclCommGetAsyncError(struct comm *c, int *state);
SHOWN int ncclCommFinalize(struct comm *c);
SHOWN int ncclCommDestroy(struct comm *c);
SHOWN int ncclCommAbort(struct comm *c);
SHOWN const char *ncclGetErrorString(int code);
SHOWN const char *ncclGetLastError(struct comm *c);
SHOWN int nccl_emulated_busy(void);

/* Is it this rank's turn to do what the test asks for? n: which sum; 0: none. */
static bool wish(const char *what, int rank, int n)
{
    const char *text = getenv("FAKE_NCCL");
    char mine[64];
    if (n)
        snprintf(mine, sizeof mine, "%s:%d:%d", what, rank, n);
    else
        snprintf(mine, sizeof mine, rank < 0 ? "%s" : "%s:%d", what, rank);
    return text && strcmp(text, mine) == 0;
}

int ncclGetVersion(int *version)
{
    *version = wish("old", -1, 0) ? 21703 : 22809;
    return SUCCESS;
}

int ncclGetUniqueId(struct id *id)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "/pw-fake-nccl-%d-%lld-%ld", (int)getpid(), (long long)t.tv_sec, t.tv_nsec);
    const int f = shm_open(id->internal, O_CREAT | O_EXCL | O_RDWR, 0600);
    if (f < 0 || ftruncate(f, sizeof(struct area)) != 0)
        return SYSTEM_ERROR;
    close(f);
    return SUCCESS;
}

int ncclCommInitRankConfig(struct comm **out, int size, struct id id, int rank, struct config *config)
{
    if (config->magic != 0xcafebeef || config->blocking != 0 || config->version < 21800 || size > MOST || rank >= size || only)
        return BAD_ARGUMENT;
    const int f = shm_open(id.internal, O_RDWR, 0600);
    struct comm *c = calloc(1, sizeof *c);
    if (f < 0 || !c)
        return SYSTEM_ERROR;
    c->area = mmap(NULL, sizeof *c->area, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
    close(f);
    c->rank = rank;
    c->size = size;
    c->state = wish("init", rank, 0) ? SYSTEM_ERROR : IN_PROGRESS;
    if (c->state == IN_PROGRESS)
        atomic_fetch_add(&c->area->joined, 1);
    if (atomic_fetch_add(&c->area->came, 1) == size - 1)
        shm_unlink(id.internal);
    *out = only = c;
    return IN_PROGRESS;
}

int ncclAllReduce(const float *from, float *to, size_t n, int type, int op, struct comm *c, void *stream)
{
    (void)stream;
    if (c != only || c->state != SUCCESS || c->n || from != to || type != FLOAT32 || op != 0)
        return BAD_ARGUMENT;
    c->data = to;
    c->n = n;
    c->given = false;
    c->sums++;
    c->state = IN_PROGRESS;
    return IN_PROGRESS;
}

int ncclCommGetAsyncError(struct comm *c, int *state)
{
    if (c->leaving && c->state == IN_PROGRESS) {
        if (!c->counted)
            atomic_fetch_add(&c->area->left, 1);
        c->counted = true;
        if (atomic_load(&c->area->left) == c->size)
            c->state = SUCCESS;
    } else if (c->state == IN_PROGRESS && atomic_load(&c->area->joined) == c->size) {
        *state = IN_PROGRESS;               /* once more, after which it is so */
        c->state = SUCCESS;
        return SUCCESS;
    }
    *state = c->state;
    return SUCCESS;
}

static bool all_at(const struct comm *c, atomic_uint *at, unsigned turn)
{
    for (int i = 0; i < c->size; i++)
        if (atomic_load(&at[i]) < turn)
            return false;
    return true;
}

static void take(struct comm *c, size_t m)
{
    for (size_t i = 0; i < m; i++) {
        float sum = c->area->part[0][i];
        for (int k = 1; k < c->size; k++)
            sum += c->area->part[k][i];
        c->data[i] = sum;
    }
    if (wish("wrong", c->rank, c->sums))
        c->data[0] += 1;
}

/* As far as the sum at hand goes without waiting. */
int nccl_emulated_busy(void)
{
    struct comm *c = only;
    while (c && c->n && c->state == SUCCESS) {
        const size_t m = c->n < CHUNK ? c->n : CHUNK;
        if (wish("error", c->rank, c->sums)) {
            c->state = REMOTE_ERROR;
            break;
        }
        if (!c->given) {
            if (!all_at(c, c->area->taken, c->turn))
                break;
            memcpy(c->area->part[c->rank], c->data, m * sizeof *c->data);
            atomic_store(&c->area->given[c->rank], c->turn + 1);
            c->given = true;
            if (wish("die", c->rank, c->sums))
                raise(SIGKILL);
        }
        if (!all_at(c, c->area->given, c->turn + 1))
            break;
        take(c, m);
        atomic_store(&c->area->taken[c->rank], ++c->turn);
        c->given = false;
        c->data += m;
        c->n -= m;
    }
    return c && c->n;
}

int ncclCommFinalize(struct comm *c)
{
    c->leaving = true;
    c->state = IN_PROGRESS;
    return IN_PROGRESS;
}

int ncclCommAbort(struct comm *c)
{
    munmap(c->area, sizeof *c->area);
    free(c);
    only = NULL;
    return SUCCESS;
}

int ncclCommDestroy(struct comm *c) { return c->leaving && c->state == SUCCESS ? ncclCommAbort(c) : BAD_ARGUMENT; }

const char *ncclGetErrorString(int code)
{
    return code == SYSTEM_ERROR ? "unhandled system error" : code == REMOTE_ERROR ? "remote process exited or there was a network error" : code == BAD_ARGUMENT ? "invalid argument" : "no error";
}
const char *ncclGetLastError(struct comm *c) { return c->state == SYSTEM_ERROR ? "the test asked for it\nand a second line" : ""; }
