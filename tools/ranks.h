/* Launchers of several ranks (mpirun, srun): what the environment says, joining, and leaving when everything was said. */
#ifndef PW_TOOLS_RANKS_H
#define PW_TOOLS_RANKS_H

#include "tools/cmd.h"
#include "train/ranks.h"

/* Joins the ranks that a launcher started; *out is NULL when there is one. Switches progress off but on rank 0. Belongs to the program: pw_cmd_leave. */
int pw_cmd_join(struct pw_cmd *c, struct pw_ranks **out);
int pw_cmd_rank_device(const struct pw_cmd *c, const struct pw_ranks *ranks, bool bf16, struct pw_dev **out); /* pw_cmd_device of a rank: its share of cores, its card; bf16: a processor that multiplies in it */
int pw_cmd_share_of_cores(const struct pw_cmd *c, int local); /* of `local` ranks on this machine; says when the launcher keeps it from that */
bool pw_cmd_speaks(int rc);   /* may this process print its error? One of the ranks does */
void pw_cmd_leave(int status);/* the last thing a program does; fine when nothing was joined */
#endif
