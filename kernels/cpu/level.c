/* Which instruction set the cpu backend uses: asked of the processor once, when a device is opened. */
#include <string.h>
#include "base/error.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/gemm.h"

struct level { const struct cpu_isa *isa; bool here, by_name; }; /* by_name: never chosen by itself, since its results are not those of f32 */

int cpu_choose_level(struct pw_dev *dev, const char *level)
{
    struct level levels[4] = { { &cpu_isa_generic, true, false } };
    int n = 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") /* every processor with these has F16C */;
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    levels[n++] = (struct level){ &cpu_isa_avx2, avx2, false };
    levels[n++] = (struct level){ &cpu_isa_avx512, avx512, false };
    levels[n++] = (struct level){ &cpu_isa_avx512_bf16, avx512 && __builtin_cpu_supports("avx512bf16"), true };
#endif
    const struct cpu_isa *chosen = NULL;
    for (int i = 0; i < n; i++) {
        if (level && level[0] && strcmp(level, levels[i].isa->name) != 0) continue;
        if (levels[i].by_name && !(level && level[0])) continue;
        if (levels[i].here) chosen = levels[i].isa;
        else if (level && level[0]) return pw_error(PW_E_UNSUPPORTED, "cpu level %s: this processor does not have it", level);
    }
    PW_CHECK(chosen, PW_E_USAGE, "unknown cpu level \"%s\": expected generic, avx2, avx512 or avx512_bf16", level);
    cpu_blas_init();
    dev->level = chosen->name;
    if (chosen->products16) dev->products = PW_BF16;
    dev->impl = (void *)(uintptr_t)chosen;
    return 0;
}
