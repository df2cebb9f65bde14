/* See faults.h. Launches and memory are asked for by one thread, so that counting needs no lock. */
#include "kernels/simt/faults.h"

#include <stdlib.h>
#include <string.h>
#include "base/memory.h"
#include "kernels/simt/memory.h"

static const char *const names[] = {"memory", "launch", "lost", "nan"};
enum kind { MEMORY, LAUNCH, LOST, NOT_A_NUMBER, KINDS };

static struct {
    kind what;
    long at;            /* 0: nothing is asked for */
    long launches, pieces;
    bool lost;
    char *before;       /* all device memory, as it was before the launch that is to write NaN */
} faults;

bool simt_faults_set(const char *text, size_t n)
{
    pw_free(faults.before);
    faults = {};
    if (n == 0) return true;
    for (int k = 0; k < KINDS; k++) {
        const size_t name = strlen(names[k]);
        if (n <= name + 1 || memcmp(text, names[k], name) != 0 || text[name] != ':') continue;
        long at = 0;
        for (size_t i = name + 1; i < n; i++) {
            if (text[i] < '0' || text[i] > '9' || at > 100000000) return false;
            at = at * 10 + (text[i] - '0');
        }
        faults.what = (kind)k;
        faults.at = at;
        return at > 0;
    }
    return false;
}

static bool due(kind what, long count) { return faults.at > 0 && faults.what == what && count == faults.at; }

simt_error simt_faults_lost(void) { return faults.lost ? SIMT_E_LOST : 0; }

simt_error simt_faults_memory(void)
{
    if (faults.lost) return SIMT_E_LOST;
    faults.pieces++;
    return faults.at > 0 && faults.what == MEMORY && faults.pieces >= faults.at ? SIMT_E_MEMORY : 0;
}

const char *simt_faults_text(simt_error e)
{
    return e == SIMT_E_MEMORY ? "out of memory" : e == SIMT_E_LOST ? "an illegal memory access was encountered" : e == SIMT_E_REFUSED ? "too many resources requested for launch" : NULL;
}

/* ---- what a launch changes ---- */

static size_t bytes_of_all(void)
{
    size_t sum = 0;
    simt_memory_each([](void *ctx, char *, size_t bytes) { *(size_t *)ctx += bytes; return true; }, &sum);
    return sum;
}

simt_error simt_faults_before(bool *skip)
{
    *skip = false;
    if (faults.lost) return SIMT_E_LOST;
    faults.launches++;
    if (due(LAUNCH, faults.launches)) return SIMT_E_REFUSED;
    if (due(LOST, faults.launches)) faults.lost = *skip = true;
    if (!due(NOT_A_NUMBER, faults.launches)) return 0;
    char *at = faults.before = (char *)pw_alloc(bytes_of_all());
    if (!at) return SIMT_E_MEMORY;
    simt_memory_open();
    simt_memory_each([](void *ctx, char *data, size_t bytes) {
        char **to = (char **)ctx;
        memcpy(*to, data, bytes);
        *to += bytes;
        return true;
    }, &at);
    simt_memory_close();
    return 0;
}

void simt_faults_after(void)
{
    if (!faults.before) return;
    char *at = faults.before;
    simt_memory_open();
    simt_memory_each([](void *ctx, char *data, size_t bytes) {
        char **was = (char **)ctx;
        for (size_t i = 0; i + 8 <= bytes; i += 8)
            if (memcmp(*was + i, data + i, 8) != 0) {
                memset(data + i, 0xff, 8); /* NaN as bf16, f32 and f64 */
                return false;
            }
        *was += bytes;
        return true;
    }, &at);
    simt_memory_close();
    pw_free(faults.before);
    faults.before = NULL;
}
