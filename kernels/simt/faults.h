/* Faults that a test asks of the emulation: what a card does that has no memory, refuses a launch, is lost, or computes NaN.
 *
 * Counted from the moment the device is opened, one kind at a time:
 *     memory:N   the N-th piece of device memory, and every later one, is not there
 *     launch:N   the N-th launch is refused; those before and after it run
 *     lost:N     the N-th launch is queued and never ends; every later call fails, as after an illegal address
 *     nan:N      the N-th launch writes NaN into the first eight bytes of what it changes
 * Asked for in the level of the device, beside the order of threads (kernels/cuda/plugin.cu). Knows no kernel and no op. */
#ifndef PW_KERNELS_SIMT_FAULTS_H
#define PW_KERNELS_SIMT_FAULTS_H

#include "kernels/simt/fibers.h"

enum { SIMT_E_MEMORY = 2, SIMT_E_NOT_READY = 600, SIMT_E_LOST = 700, SIMT_E_REFUSED = 701 }; /* as CUDA numbers them */
bool simt_faults_set(const char *text, size_t n); /* "launch:40"; n = 0: none. Counting begins anew. False: not understood */
simt_error simt_faults_memory(void);              /* before memory is taken */
simt_error simt_faults_lost(void);                /* before any other call: SIMT_E_LOST once the card is lost */
const char *simt_faults_text(simt_error e);       /* NULL: not an error of here */

/* Around each launch. Before: 0, the launch runs; an error, it is refused; `skip`: it is queued and never runs. */
simt_error simt_faults_before(bool *skip);
void simt_faults_after(void);
#endif
