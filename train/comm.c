/* MPI behind the row of comm.h: libpw_mpi.so, built where MPI is. Every call is non-blocking and tested, so that a rank which waits for one that is gone
 * finds out, and does not burn a core while another rank works alone. */
#include "train/comm.h"

#include <mpi.h>
#include <string.h>

#include "base/error.h"

enum { PIECE = 1 << 28 };      /* MPI counts in int */
enum { WARNING = 1 };          /* a tag */

static int failed(int code, const char *what)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;
    MPI_Error_string(code, text, &n);
    return pw_error(PW_E_FAIL, "MPI: %s: %s", what, text);
}

#define MPI(call, what) do { int code_ = (call); if (code_ != MPI_SUCCESS) return failed(code_, what); } while (0)

static int finish(struct pw_comm *c, MPI_Request *request, const char *what)
{
    for (long asked = 0;; asked++) {
        int done = 0;
        MPI(MPI_Test(request, &done, MPI_STATUS_IGNORE), what);
        if (done)
            return 0;
        PW_PASS(c->waits(c->waits_ctx, asked));
    }
}

static int comm_open(struct pw_comm *c)
{
    int there = 0, level = 0;
    MPI(MPI_Initialized(&there), "asking whether it runs");
    if (!there)
        MPI(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level), "starting");
    MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "starting");
    MPI(MPI_Comm_rank(MPI_COMM_WORLD, &c->rank), "asking for the rank");
    MPI(MPI_Comm_size(MPI_COMM_WORLD, &c->size), "asking for the number of ranks");
    return 0;
}

/* An empty message to each of the others, who may never take it. */
static void comm_warn(struct pw_comm *c)
{
    for (int i = 0; i < c->size; i++) {
        MPI_Request request;
        if (i != c->rank && MPI_Isend(NULL, 0, MPI_BYTE, i, WARNING, MPI_COMM_WORLD, &request) == MPI_SUCCESS)
            MPI_Request_free(&request);
    }
}

static bool comm_warned(struct pw_comm *c)
{
    int there = 0;
    MPI_Status status;
    (void)c;
    if (MPI_Iprobe(MPI_ANY_SOURCE, WARNING, MPI_COMM_WORLD, &there, &status) != MPI_SUCCESS || !there)
        return false;
    MPI_Recv(NULL, 0, MPI_BYTE, status.MPI_SOURCE, WARNING, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    return true;
}

static void comm_close(struct pw_comm *c)
{
    while (comm_warned(c))
        ;
    MPI_Finalize();
}

static void comm_abandon(struct pw_comm *c, int status)
{
    (void)c;
    MPI_Abort(MPI_COMM_WORLD, status);
}

static int comm_gather(struct pw_comm *c, const void *mine, void *all, size_t bytes)
{
    MPI_Request request;
    PW_CHECK(bytes <= PIECE, PW_E_FAIL, "MPI: %zu bytes in one call", bytes);
    MPI(MPI_Iallgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, MPI_COMM_WORLD, &request), "gathering");
    return finish(c, &request, "gathering");
}

static int comm_exchange(struct pw_comm *c, const void *mine, void *got, size_t bytes)
{
    MPI_Request request;
    PW_CHECK(bytes <= PIECE, PW_E_FAIL, "MPI: %zu bytes in one call", bytes);
    MPI(MPI_Ialltoall(mine, (int)bytes, MPI_BYTE, got, (int)bytes, MPI_BYTE, MPI_COMM_WORLD, &request), "exchanging");
    return finish(c, &request, "exchanging");
}

static int comm_broadcast(struct pw_comm *c, int root, void *data, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += PIECE) {
        MPI_Request request;
        const size_t n = bytes - at < PIECE ? bytes - at : PIECE;
        MPI(MPI_Ibcast((char *)data + at, (int)n, MPI_BYTE, root, MPI_COMM_WORLD, &request), "broadcasting");
        PW_PASS(finish(c, &request, "broadcasting"));
    }
    return 0;
}

static const struct pw_comm_row row = {comm_open, comm_close, comm_abandon, comm_gather, comm_exchange, comm_broadcast, comm_warn, comm_warned};

__attribute__((visibility("default"))) pw_comm_fn pw_comm_plugin;
const struct pw_comm_row *pw_comm_plugin(const char *version, size_t row_bytes)
{
    return strcmp(version, PW_VERSION) == 0 && row_bytes == sizeof row ? &row : NULL;
}
