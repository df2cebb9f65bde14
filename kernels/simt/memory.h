/* Device memory of the emulation: pages that only kernels and copies may touch.
 *
 * Each piece is a mapping of its own that ends at a guard page; outside of launches and copies nothing of it can be read or written, so that code
 * which takes a device address for a host address stops at once, as it would with a card. */
#ifndef PW_KERNELS_SIMT_MEMORY_H
#define PW_KERNELS_SIMT_MEMORY_H

#include <stddef.h>

void *simt_memory_take(size_t bytes); /* cleared, 64-byte aligned; NULL = none */
size_t simt_memory_taken(void); /* bytes, over all pieces, as they were asked for, rounded to 64 */
void simt_memory_give(void *p);
/* Each piece with its bytes as they were asked for, rounded to 64, until `see` returns false. The memory must be open for it to be touched. */
void simt_memory_each(bool (*see)(void *ctx, char *data, size_t bytes), void *ctx);
void simt_memory_open(void);          /* nests; device memory may be touched until the matching close */
void simt_memory_close(void);
#endif
