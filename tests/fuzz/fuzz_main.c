/* libFuzzer's entry: the target is named by PW_FUZZ when this program is built (make fuzz). */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "tests/fuzz_targets.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    for (const struct fuzz_target *t = fuzz_targets; t->name; t++)
        if (strcmp(t->name, PW_FUZZ) == 0) {
            uint8_t *copy = malloc(n ? n : 1); /* of exactly this size, so that reading past the end is seen */
            if (!copy)
                abort();
            memcpy(copy, bytes, n);
            t->run(copy, n);
            free(copy);
            pw_error_clear();
        }
    return 0;
}
