/* Sums over ranks where the device memory lies: whether the ranks' devices can, joining them, and a sum. The devices' library is theirs (kernels/dev.h);
 * here is what several ranks owe each other: that all go the same way, and that none waits in the library for one that is gone or has failed. */
#include "train/ranks_parts.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

enum { LOOK_AT_MESSAGES = 16 };       /* waits */

struct offer { struct pw_peers_look look; char host; };
struct start { int32_t code; char id[PW_PEERS_ID], why[256]; };

/* The wait of a rank in the devices' library. */
static int waits(void *ctx, long asked)
{
    struct pw_ranks *r = ctx;
    if (asked % LOOK_AT_MESSAGES == 0 && r->row->warned(&r->comm)) {
        r->warned = true;
        return pw_error(PW_E_FAIL, "another rank has failed");
    }
    return pw_ranks_waits(r, asked);
}

static struct pw_waits waits_of(struct pw_ranks *r) { return (struct pw_waits){waits, r}; }

/* After a call of the library that failed here: the others learn of it, unless they told us. */
static void warn(struct pw_ranks *r)
{
    if (r->over == 0 && !r->warned)
        r->row->warn(&r->comm);
}

/* Why the devices of all ranks cannot sum; "": they can. */
static void compare(const struct pw_ranks *r, const struct offer *all, char why[PW_RANKS_WAY])
{
    why[0] = 0;
    for (int i = 0; i < r->comm.size && !why[0]; i++) {
        const struct pw_peers_look *a = &all[i].look;
        if (a->version == 0)
            snprintf(why, PW_RANKS_WAY, "rank %d: %.255s", i, a->why);
        else if (a->version != all[0].look.version)
            snprintf(why, PW_RANKS_WAY, "rank 0 has %.23s, rank %d %.23s", all[0].look.library, i, a->library);
        for (int k = 0; k < i && !why[0]; k++)
            if (pw_ranks_beside(r, i, k) && strcmp(a->card, all[k].look.card) == 0)
                snprintf(why, PW_RANKS_WAY, "ranks %d and %d have one card between them (%.63s)", k, i, a->card);
    }
}

/* Rank 0 makes the id, and all join by it: a failure of one is a reason for all. */
static int join(struct pw_ranks *r, struct pw_dev *dev, char why[PW_RANKS_WAY])
{
    struct start mine = {0}, *all = pw_alloc_zero((size_t)r->comm.size, sizeof *all);
    PW_CHECK(all, PW_E_NOMEM, "out of memory");
    if (r->comm.rank == 0 && (mine.code = pw_dev_peers_id(dev, mine.id)) < 0)
        snprintf(mine.why, sizeof mine.why, "%s", pw_error_text());
    int rc = pw_ranks_after(r, r->row->broadcast(&r->comm, 0, &mine, sizeof mine));
    if (rc == 0 && mine.code < 0)
        snprintf(why, PW_RANKS_WAY, "rank 0: %.255s", mine.why);
    if (rc == 0 && mine.code == 0) {
        mine.code = pw_dev_peers_join(dev, mine.id, r->comm.rank, r->comm.size, waits_of(r));
        if (mine.code < 0) {
            snprintf(mine.why, sizeof mine.why, "%s", r->warned ? "" : pw_error_text());
            warn(r);
        }
        rc = r->over ? r->over : pw_ranks_after(r, r->row->gather(&r->comm, &mine, all, sizeof mine));
        for (int i = 0; rc == 0 && i < r->comm.size; i++)
            if (all[i].code < 0 && (all[i].why[0] || !why[0]))
                snprintf(why, PW_RANKS_WAY, "rank %d: %.255s", i, all[i].why);
    }
    if (rc == 0)
        pw_error_clear();
    if (rc < 0 || why[0])
        pw_dev_peers_leave(dev, false, waits_of(r));
    pw_free(all);
    return rc;
}

int pw_ranks_join_devices(struct pw_ranks *r, struct pw_dev *dev, const char *wish, char way[PW_RANKS_WAY])
{
    struct offer mine = {.host = dev->host}, *all;
    char why[PW_RANKS_WAY] = "";
    way[0] = 0;
    if (!r)
        return 0;
    PW_PASS(pw_ranks_agree(r, 0));
    all = pw_alloc_zero((size_t)r->comm.size, sizeof *all);
    if (!all)
        return pw_ranks_after(r, pw_error(PW_E_NOMEM, "out of memory"));
    if (wish)                          /* the library is not even opened */
        snprintf(mine.look.why, sizeof mine.look.why, "%s", wish);
    else
        pw_dev_peers_look(dev, &mine.look);
    int rc = pw_ranks_after(r, r->row->gather(&r->comm, &mine, all, sizeof mine));
    bool host = true;
    for (int i = 0; rc == 0 && i < r->comm.size; i++)
        host = host && all[i].host;
    if (rc == 0 && !host) {
        compare(r, all, why);
        if (!why[0])
            rc = join(r, dev, why);
        if (rc == 0 && !why[0]) {
            r->joined = dev;
            snprintf(r->library, sizeof r->library, "%s", mine.look.library);
        }
        snprintf(way, PW_RANKS_WAY, r->joined ? "ranks sum over %s%.400s" : "ranks sum over host memory%s%.400s", r->joined ? r->library : ": ", r->joined ? "" : why);
    }
    pw_free(all);
    return rc;
}

const char *pw_ranks_sums(const struct pw_ranks *r)
{
    return !r ? "" : r->joined ? r->library : "host";
}

/* Those that come here are all there, and agree on how it went before anyone goes on. */
int pw_ranks_sum_devices(struct pw_ranks *r, float *data, size_t n)
{
    PW_PASS(pw_ranks_agree(r, 0));
    int rc = pw_dev_peers_sum(r->joined, data, n, waits_of(r));
    if (rc < 0)
        warn(r);
    return r->over ? rc : pw_ranks_agree(r, r->warned ? 0 : rc);
}

void pw_ranks_leave_devices(struct pw_ranks *r)
{
    if (r->joined)
        pw_dev_peers_leave(r->joined, r->over == 0, waits_of(r));
    r->joined = NULL;
}
