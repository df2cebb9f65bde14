/* See ranks.h. A launcher that says nothing of several ranks is none: a plain run inside a SLURM job joins nobody. */
#include "tools/ranks.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static struct pw_ranks *joined;

static bool number(const char *name, long *n)
{
    const char *text = getenv(name);
    char *end = NULL;
    if (!text || !text[0])
        return false;
    *n = strtol(text, &end, 10);
    return !*end && *n >= 0 && *n < 1 << 20;
}

/* Variables of Open MPI, of launchers with PMI (MPICH, Intel MPI), and of a SLURM step; a batch script and an interactive shell of SLURM have
 * numbers of tasks as well, but are no step of several. */
static bool launched(int *rank, int *size)
{
    static const char *const names[][2] = {{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"}, {"PMI_RANK", "PMI_SIZE"}, {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"}};
    long r, n;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (number(names[i][0], &r) && number(names[i][1], &n) && n > 1 && r < n) {
            *rank = (int)r;
            *size = (int)n;
            return true;
        }
    return false;
}

int pw_cmd_join(struct pw_cmd *c, struct pw_ranks **out)
{
    int rank = 0, size = 1;
    *out = NULL;
    if (!launched(&rank, &size))
        return 0;
    PW_TRY(pw_ranks_open(&joined, NULL, size), "rank %d of %d", rank, size);
    pw_interrupt_on(SIGUSR1);       /* which launchers forward to all ranks, and give them time after */
    if (pw_ranks_rank(joined) != 0)
        c->progress->on = false;
    *out = joined;
    return 0;
}

int pw_cmd_share_of_cores(const struct pw_cmd *c, int local)
{
    const long all = sysconf(_SC_NPROCESSORS_ONLN);
    const int share = all > local ? (int)all / local : 1;
    cpu_set_t mine;
    if (sched_getaffinity(0, sizeof mine, &mine) != 0 || CPU_COUNT(&mine) >= share)
        return share;
    if (pw_ranks_rank(joined) == 0)
        pw_progress_say(c->progress, "the launcher lets this rank use %d of %ld cores: mpirun --bind-to none gives each of %d ranks %d", CPU_COUNT(&mine), all, local, share);
    return CPU_COUNT(&mine);
}

bool pw_cmd_speaks(int rc)
{
    int rank = 0, size = 1;
    if (joined)
        return pw_ranks_speaks(joined);
    return !launched(&rank, &size) || rank == 0 || rc != PW_E_USAGE;     /* of a wrong command line one says enough */
}

void pw_cmd_leave(int status)
{
    struct pw_ranks *ranks = joined;
    joined = NULL;
    if (!ranks)
        return;
    fflush(NULL);
    pw_ranks_close(ranks, status);
    signal(SIGTERM, SIG_IGN);   /* a launcher whose first rank has ended with another status than 0 sends it to the rest */
}
