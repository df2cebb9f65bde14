/* cuDNN's attention without a card: every graph that kernels/cuda/attn_cudnn.cu makes is finished, and the library says which of its engines run it on cards whose
 * properties are typed in here. What they compute only a card says (tools/gpu/run). Skipped where the library, the toolkit's stub of the driver or, when
 * this was built, the headers are not there. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "kernels/cuda/attn_cudnn.h"
#include "tests/support.h"

/* ---- cards ---- */

struct card { const char *name; int version, processors, shared, threads; };
static const struct card cards[] = { { "A100", 800, 108, 166912, 2048 }, { "RTX 4090", 890, 128, 101376, 1536 }, { "H100", 900, 132, 232448, 2048 }, { "RTX 5090", 1200, 170, 101376, 1536 } };
static const struct card turing = { "RTX 2080", 750, 46, 65536, 1024 };
enum { CARDS = sizeof cards / sizeof *cards };

static const char *properties(const struct card *c)
{
    static char text[1024];
    snprintf(text, sizeof text,
             "{\"deviceName\":\"%s\",\"deviceVer\":%d,\"driverVer\":13000,\"cudaDeviceId\":0,\"pciDeviceId\":0,\"multiProcessorCount\":%d,\"warpSize\":32,\"maxSharedMemoryPerBlock\":49152,"
             "\"maxSharedMemoryPerBlockOptin\":%d,\"reservedSharedMemoryPerBlock\":1024,\"totalGlobalMem\":25769803776,\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],"
             "\"regsPerBlock\":65536,\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":24,\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":%d,\"smClockRateKHz\":1500000,\"memClockRateKHz\":1200000,"
             "\"l2CacheSize\":41943040,\"isTccDriver\":0,\"supportCoopLaunch\":1}",
             c->name, c->version, c->processors, c->shared, c->threads);
    return text;
}

/* ---- the library ---- */

/* The driver's stub answers nothing, but cuDNN wants a driver to be found before it looks at a graph. A library that is loaded is found by its name.
 * NVRTC is held here because cuDNN opens and closes it for every graph, and each time 72 KiB of its C++ library stay behind. */
static void *open_library(void)
{
    static const char *const folders[] = { "", "/usr/local/cuda/lib64/", "/usr/local/cuda/lib/" };
    const char *why = "";
    char path[256];
    bool driver = false;
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s%s", folders[i], i ? "stubs/libcuda.so" : "libcuda.so.1");
        driver = driver || dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    }
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%slibcudnn.so.9", folders[i]);
        if (dlopen(path, RTLD_NOW | RTLD_LOCAL)) break;
    }
    for (int i = 0; i < 6; i++) {
        snprintf(path, sizeof path, "%slibnvrtc.so.%d", folders[i % 3], 13 - i / 3);
        if (dlopen(path, RTLD_NOW | RTLD_LOCAL)) break;
    }
    void *library = sdpa_new("test");
    ck_assert(library);
    if (sdpa_version(library, &why) > 0 && driver) return library;
    test_skip("graphs of cuDNN: %s", driver ? why : "there is neither a driver nor the toolkit's stub of it");
    sdpa_free(library);
    return NULL;
}

/* The shapes of every family that trains, and head dimensions between them; windows and caps as Mistral, Gemma 2 and Gemma 3 have them. */
START_TEST(graphs_have_engines)
{
    static const struct { int heads, groups, head_dim; } shapes[] = { { 32, 8, 128 }, { 32, 32, 128 }, { 28, 4, 128 }, { 9, 3, 64 }, { 32, 32, 80 }, { 32, 32, 96 }, { 16, 8, 256 }, { 8, 4, 256 }, { 40, 8, 112 } };
    static const struct { int64_t window; double softcap; } masks[] = { { 0, 0 }, { 512, 0 }, { 4096, 0 }, { 0, 50 }, { 4096, 50 } };
    static const struct { int64_t rows; int sequences; } sizes[] = { { 1024, 8 }, { 8192, 1 }, { 8192, 64 } };
    void *library = open_library();
    int graphs = 0, engines = 0, unordered = 0, n = 0, without = 0;
    if (!library) return;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (size_t m = 0; m < sizeof masks / sizeof *masks; m++)
            for (size_t z = 0; z < sizeof sizes / sizeof *sizes; z++) {
                struct pw_attn_shape shape;
                ck_assert(pw_attn_shape_of(&shape, shapes[s].heads, shapes[s].groups, shapes[s].head_dim, masks[m].window, masks[m].softcap, sizes[z].rows, sizes[z].sequences));
                for (int c = 0; c < CARDS; c++) {
                    const int rc = sdpa_engines(library, &shape, properties(&cards[c]), &n, &without);
                    if (rc < 0 || n == 0)
                        ck_abort_msg("%s: %d and %d heads of %d, window %lld, cap %g, %lld rows in %d: %s", cards[c].name, shape.heads, shape.groups, shape.head_dim, (long long)shape.window, shape.softcap,
                                     (long long)shape.rows, shape.sequences, rc < 0 ? pw_error_text() : "no engine");
                    graphs++, engines += n, unordered += without;
                }
                ck_ok(sdpa_engines(library, &shape, properties(&turing), &n, &without)); /* that it can say no */
                ck_assert_int_eq(n, 0);
            }
    printf("cuDNN %lld: %d graphs, %d engines, %d of them without a fixed order of sums\n", (long long)sdpa_version(library, NULL), graphs, engines, unordered);
    sdpa_free(library);
}
END_TEST

START_TEST(what_a_graph_cannot_say_has_none)
{
    static const int dims[] = { 20, 100, 260, 512 };
    void *library = open_library();
    if (!library) return;
    for (int i = 0; i < 4; i++) {
        const struct pw_attn_shape shape = { 8, 2, dims[i], 1, 1024, 0, 0 };
        int n = -1, without = -1;
        ck_ok(sdpa_engines(library, &shape, properties(&cards[2]), &n, &without));
        ck_assert_int_eq(n, 0);
    }
    const struct pw_attn_shape large = { 128, 8, 256, 1, PW_ATTN_ROWS_MOST, 0, 0 }; /* offsets of 33 bits */
    int n = -1, without = -1;
    ck_ok(sdpa_engines(library, &large, properties(&cards[2]), &n, &without));
    ck_assert_int_eq(n, 0);
    sdpa_free(library);
}
END_TEST

/* Without a card there is no handle, and that is an error of one line, not a way that is quietly not there. */
START_TEST(a_plan_needs_a_card)
{
    void *library = open_library();
    if (!library) return;
    struct pw_dev *dev = NULL;
    if (pw_dev_open(&dev, &(struct pw_dev_options){ .kind = "cuda", .threads = 1 }) == 0) { /* there is one */
        pw_dev_close(dev);
        sdpa_free(library);
        return;
    }
    pw_error_clear();
    const struct pw_attn_shape shape = { 32, 8, 128, 1, 1024, 0, 0 };
    bool there = true;
    size_t workspace = 1;
    ck_fails(sdpa_plan(library, &shape, &there, &workspace), PW_E_FAIL, "cuDNN: making a handle");
    ck_assert(!there && workspace == 0 && sdpa_workspace(library, &shape) == 0);
    sdpa_free(library);
}
END_TEST

START_TEST(shapes_that_stand_for_calls)
{
    struct pw_attn_shape s;
    ck_assert(!pw_attn_shape_of(&s, 8, 2, 64, 0, 0, 128, 1) && !pw_attn_shape_of(&s, 8, 2, 64, 0, 0, 4096, 65) && !pw_attn_shape_of(&s, 8, 2, 64, 0, 0, 4096, 0));
    ck_assert(!pw_attn_shape_of(&s, 8, 2, 64, 0, 0, PW_ATTN_ROWS_MOST + 1, 1) && pw_attn_shape_of(&s, 8, 2, 64, 0, 0, PW_ATTN_ROWS_MOST, 1) && s.rows == PW_ATTN_ROWS_MOST);
    ck_assert(pw_attn_shape_of(&s, 8, 2, 64, 256, 0, 129, 2) && s.rows == 256 && s.sequences == 8 && s.window == 0);
    ck_assert(pw_attn_shape_of(&s, 8, 2, 64, 1024, 30, 1025, 9) && s.rows == 2048 && s.sequences == 64 && s.window == 1024 && s.softcap == 30);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cudnn");
    TCase *t = tcase_create("cudnn");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, graphs_have_engines);
    tcase_add_test(t, what_a_graph_cannot_say_has_none);
    tcase_add_test(t, a_plan_needs_a_card);
    tcase_add_test(t, shapes_that_stand_for_calls);
    suite_add_tcase(s, t);
    return test_run(s);
}
