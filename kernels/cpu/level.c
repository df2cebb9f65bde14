/* Which instruction set the cpu backend uses: asked of the processor once, when a device is opened. */
#include <string.h>
#include "base/error.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/gemm.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Whether the processor multiplies tiles of bf16 and the system lets this process: it keeps eight kilobytes more for each thread that does, and
 * wants to be asked first (Linux, Documentation/arch/x86/xstate.rst). Threads that begin later have the permission too. */
static bool ask_for_tiles(void)
{
    enum { LEAF = 7, AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24, ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(LEAF, 0, &a, &b, &c, &d) || !(d & AMX_BF16) || !(d & AMX_TILE)) return false;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
#endif

struct level { const struct cpu_isa *isa; bool here; };
#define LEVEL_NAMES "generic, avx2, avx512, amx, avx512_bf16 or amx_bf16"

/* The last level that is here: of those in f32, or of those that round to bf16, or the one that is named. A level that packs what it multiplies, amx,
 * is left to those who multiply many rows by it. */
int cpu_choose_level(struct pw_dev *dev, const struct pw_dev_options *opt)
{
    const char *level = opt->level;
    struct level levels[6] = { { &cpu_isa_generic, true } };
    int n = 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") /* every processor with these has F16C */;
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    levels[n++] = (struct level){ &cpu_isa_avx2, avx2 };
    levels[n++] = (struct level){ &cpu_isa_avx512, avx512 };
    bool avx512_bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
    levels[n++] = (struct level){ &cpu_isa_avx512_bf16, avx512_bf16 };
    bool tiles = avx512_bf16 && ask_for_tiles();
    levels[n++] = (struct level){ &cpu_isa_amx, tiles };
    levels[n++] = (struct level){ &cpu_isa_amx_bf16, tiles };
#endif
    const bool named = level && level[0], rounded = opt->products == PW_BF16;
    const struct cpu_isa *chosen = NULL;
    bool known = false;
    for (int i = 0; i < n; i++) {
        const struct cpu_products16 *p = levels[i].isa->products16;
        const bool rounds = p && p->planes == 1, slow = p && !rounds && !opt->many_rows;
        if (named ? strcmp(level, levels[i].isa->name) != 0 : rounds != rounded || slow) continue;
        known = true;
        PW_CHECK(!named || levels[i].here, PW_E_UNSUPPORTED, "cpu level %s: this processor does not have it", level);
        PW_CHECK(rounds || !rounded, PW_E_USAGE, "cpu level %s does not multiply in bf16: avx512_bf16 and amx_bf16 do", level);
        if (levels[i].here) chosen = levels[i].isa;
    }
    PW_CHECK(known || !named, PW_E_USAGE, "unknown cpu level \"%s\": expected " LEVEL_NAMES, level);
    PW_CHECK(chosen, PW_E_UNSUPPORTED, "this processor has no instructions that multiply bf16 (AVX-512 BF16, AMX)");
    cpu_blas_init();
    dev->level = chosen->name;
    if (chosen->products16 && chosen->products16->planes == 1) dev->products = PW_BF16;
    dev->impl = (void *)(uintptr_t)chosen;
    return 0;
}
