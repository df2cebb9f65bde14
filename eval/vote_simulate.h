/* A simulated audience of honest voters, for demos and tests. The scenario file:
 *   contest: {entries: […], …}     or the path of a contest file
 *   voters: 200                    default 100
 *   seed: 1                        default 1
 *   coins: 10                      coins of each voter, default 10
 *   entries: {base: 0.3, …}        quality of each entry of the contest, or the path of a JSON file with such a map
 *   noise: 0.2                     standard deviation of a voter's own taste, default 0.2
 *   slot_bias: 0                   what each place further down the shuffled page costs an entry, default 0
 *   sharpness: 4                   a coin falls on an entry in proportion to exp(sharpness * what the voter thinks of it), default 4
 * The same scenario gives the same records. */
#ifndef PW_EVAL_VOTE_SIMULATE_H
#define PW_EVAL_VOTE_SIMULATE_H
#include <stdbool.h>
#include <stdint.h>
int pw_vote_simulate(const char *scenario, const char *ledger, bool force, int64_t *votes);
#endif
