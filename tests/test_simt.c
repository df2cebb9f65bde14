/* The emulation of CUDA threads (kernels/simt/): what it must compute, what it must refuse, and what it must leave to the sanitizers; the PTX wrappers
 * against the definition of each instruction; the 16-bit formats of kernels/cuda/num.h against arithmetic in double that shares nothing with them.
 * Races are visible to the build with SAN=thread alone, wild accesses to shared memory to the one with SAN=address; each is tested there. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include "base/rng.h"
#include "tests/simt_kernels.h"
#include "tests/support.h"

#if defined(__SANITIZE_ADDRESS__)
enum { ASAN = 1, TSAN = 0 };
#elif defined(__SANITIZE_THREAD__)
enum { ASAN = 0, TSAN = 1 };
#else
enum { ASAN = 0, TSAN = 0 };
#endif

static const char *const schedules[] = { "forward", "reverse", "random:1", "random:2", "random:3" };
enum { SCHEDULES = sizeof schedules / sizeof *schedules };

static void run(const char *name, const char *schedule, float *out)
{
    int rc = simt_run(name, schedule, out);
    ck_assert_msg(rc == 0, "%s, %s: %d: %s", name, schedule, rc, simt_run_fault());
}
static float in(int i) { return (float)(i + 1); }

/* ---- what must work ---- */

START_TEST(barriers)
{
    float o[SIMT_OUT];
    double s[100], next[100];
    run("phases", schedules[_i], o);
    for (int i = 0; i < 100; i++) s[i] = i + 1;
    for (int p = 0; p < 3; p++) {
        double sum = 0;
        for (int i = 0; i < 100; i++) sum += s[i];
        for (int i = 0; i < 100; i++) next[i] = sum / 100 + i;
        memcpy(s, next, sizeof s);
    }
    for (int i = 0; i < 100; i++) ck_close((double)o[i], s[99 - i], 0, 1e-5);
    run("indices", schedules[_i], o);
    for (int i = 0; i < 24 * 24; i++) ck_assert_msg(o[i] == (float)i, "thread %d of all: %g", i, (double)o[i]);
    ck_assert(isnan(o[24 * 24]));
    run("counters", schedules[_i], o);
    for (int i = 0; i < 64; i++) ck_assert_msg(o[i] == 64 * 63 / 2 && o[64 + i] == 1, "thread %d: sum %g, finders %g", i, (double)o[i], (double)o[64 + i]);
}
END_TEST

START_TEST(warps)
{
    float o[SIMT_OUT];
    run("shuffles", schedules[_i], o);
    for (int l = 0; l < 32; l++) {
        ck_assert_msg(o[l] == in(5), "shfl, lane %d: %g", l, (double)o[l]);
        ck_assert_msg(o[32 + l] == in(l ^ 3), "shfl_xor, lane %d: %g", l, (double)o[32 + l]);
        ck_assert_msg(o[64 + l] == in(l < 28 ? l + 4 : l), "shfl_down, lane %d: %g", l, (double)o[64 + l]);
        ck_assert_msg(o[96 + l] == (float)(l * 5 % 32 * 7), "shfl of int, lane %d: %g", l, (double)o[96 + l]);
        ck_assert_msg(o[128 + l] == 3 * in(l ^ 16), "shfl_xor of double, lane %d: %g", l, (double)o[128 + l]);
        ck_assert_msg(o[160 + l] == 11, "ballot, lane %d: %g", l, (double)o[160 + l]);
        ck_assert_msg(o[192 + l] == 2, "any, lane %d: %g", l, (double)o[192 + l]);
    }
    run("absent_lane", schedules[_i], o);
    for (int l = 0; l < 32; l++) ck_assert_msg(isnan(o[l]), "from a lane that is not there, lane %d: %g", l, (double)o[l]);
    run("warp_write", schedules[_i], o);
    for (int l = 0; l < 64; l++) ck_assert_msg(o[l] == in(l ^ 31), "syncwarp, thread %d: %g", l, (double)o[l]);
    run("sums", schedules[_i], o);
    for (int i = 0; i < 96; i++) {
        ck_assert_msg(o[i] == 96 * 97 / 2 && o[96 + i] == 96 * 97 / 2, "block_sum, thread %d: %g, in double %g", i, (double)o[i], (double)o[96 + i]);
        ck_assert_msg(o[192 + i] == -in(i / 32 * 32), "warp_max, thread %d: %g", i, (double)o[192 + i]);
        ck_assert_msg(i / 32 == 1 ? isnan(o[288 + i]) : o[288 + i] == 1, "warp_max with NaN in lane 40, thread %d: %g", i, (double)o[288 + i]);
    }
}
END_TEST

/* Legal oddities: no fault, no race, the same values in every order. */
START_TEST(legal)
{
    float o[SIMT_OUT], s[64];
    run("early_return", schedules[_i], o);
    for (int i = 0; i < 64; i++) ck_assert_msg(i < 40 ? o[i] == 1 : isnan(o[i]), "thread %d: %g", i, (double)o[i]);
    run("halves", schedules[_i], o);
    for (int w = 0; w < 64; w += 32) { /* the kernel's lines, in order */
        float v[32], t[32];
        for (int l = 0; l < 32; l++) v[l] = l < 16 ? in(w + (l ^ 8)) : in(w + l);
        for (int turn = 0; turn < 3; turn++) {
            for (int l = 0; l < 32; l++) t[l] = l < 16 ? v[l] : v[l] + v[l ^ 1];
            memcpy(v, t, sizeof v);
        }
        for (int l = 0; l < 32; l++) s[w + (l ^ 16)] = v[l ^ 4];
    }
    for (int i = 0; i < 64; i++) ck_assert_msg(o[i] == s[i / 32 * 32 + 31 - i % 32], "thread %d: %g", i, (double)o[i]);
    run("exited_lanes", schedules[_i], o);
    for (int i = 0; i < 64; i++) ck_assert_msg(i % 32 < 20 ? o[i] == 0xaaaaa : isnan(o[i]), "thread %d: %g", i, (double)o[i]);
}
END_TEST

START_TEST(shared_memory)
{
    float o[SIMT_OUT];
    for (int turn = 0; turn < 2; turn++) {
        run("most_shared", schedules[_i], o);
        for (int i = 0; i < 32; i++) ck_assert_msg(o[i] == in(31 - i), "thread %d: %g", i, (double)o[i]);
        run("bad_uninitialised_shared", schedules[_i], o); /* NaN again, after a block that wrote there */
        for (int i = 0; i < 64; i++) ck_assert_msg(i < 63 ? o[i] == 1 : isnan(o[i]), "thread %d: %g", i, (double)o[i]);
    }
    run("copies", schedules[_i], o);
    for (int i = 0; i < 32; i++) {
        ck_assert_msg(o[i] == in(4 * i), "first group, thread %d: %g", i, (double)o[i]);
        ck_assert_msg(isnan(o[32 + i]), "second group before its wait, thread %d: %g", i, (double)o[32 + i]);
        ck_assert_msg(o[64 + i] == in(128 + 127 - 4 * i), "second group, thread %d: %g", i, (double)o[64 + i]);
        ck_assert_msg(o[96 + i] == 0, "without a source, thread %d: %g", i, (double)o[96 + i]);
    }
}
END_TEST

/* ---- mistakes that end the launch, with a text that names the place; the next launch works ---- */

static const struct { const char *kernel, *text; } faults[] = {
    { "bad_divergent_barrier", "threads of one block are at different __syncthreads" },
    { "bad_shuffle_vs_barrier", "the block cannot go on" },
    { "bad_lanes_disagree", "lanes of one warp are in different collectives" },
    { "bad_mask", "mask does not name the calling lane" },
    { "bad_misaligned_ldmatrix", "shared address is misaligned" },
    { "bad_global_ldmatrix", "address is not in shared memory" },
    { "bad_mma_lane", "mma:0: needs all 32 lanes" },
    { "bad_never_waits", "cp.async still in flight at the end of a thread" },
    { "bad_copy_source", "the source of cp.async is misaligned" },
    { "bad_too_much_shared", "the block asks for more shared memory than there is" },
    { "bad_dynamic", "invalid launch: grid (1,1,1), block (32,1,1), 101377 bytes of shared memory" },
    { "bad_block", "invalid launch: grid (1,1,1), block (1025,1,1)" },
};
START_TEST(refused)
{
    float o[SIMT_OUT];
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        for (int s = 0; s < SCHEDULES; s++) {
            int rc = simt_run(faults[i].kernel, schedules[s], o);
            ck_assert_msg(rc > 0, "%s, %s: %d", faults[i].kernel, schedules[s], rc);
            ck_assert_msg(strstr(simt_run_fault(), faults[i].text) != NULL, "%s, %s: expected \"%s\", got: %s", faults[i].kernel, schedules[s], faults[i].text, simt_run_fault());
            run("early_return", schedules[s], o);
            for (int t = 0; t < 40; t++) ck_assert_msg(o[t] == 1, "after %s: thread %d: %g", faults[i].kernel, t, (double)o[t]);
        }
    ck_assert_int_eq(simt_run("early_return", "sideways", o), -1);
    ck_assert_int_eq(simt_run("early_return", "random:x", o), -1);
    simt_run("bad_divergent_barrier", "forward", o); /* who waits where */
    ck_assert_msg(strstr(simt_run_fault(), "simt_kernels.cu:") && strstr(simt_run_fault(), "block (0,0,0)") && strstr(simt_run_fault(), "thread(s) from 0 wait at"), "%s", simt_run_fault());
}
END_TEST

/* ---- mistakes that change the values: NaN, or another result under another order of the threads ---- */

static const char *const racy[] = { "bad_missing_barrier", "bad_missing_second_barrier", "bad_warp_sync_assumed", "bad_no_wait", "bad_wait_too_few", "bad_wait_no_barrier", "bad_shuffle_as_barrier" };
enum { RACY = sizeof racy / sizeof *racy, BY_VALUE = RACY - 1 }; /* the last one's order happens to be right always */
START_TEST(wrong_values)
{
    for (int i = 0; i < BY_VALUE; i++) {
        float first[SIMT_OUT], o[SIMT_OUT];
        bool differs = false;
        for (int s = 0; s < SCHEDULES; s++) {
            run(racy[i], schedules[s], s ? o : first);
            differs |= s && memcmp(first, o, sizeof o) != 0;
        }
        ck_assert_msg(differs, "%s: the same result in every order", racy[i]);
    }
}
END_TEST

/* ---- races: ThreadSanitizer's report makes the process end with 66 ---- */

START_TEST(race)
{
    float o[SIMT_OUT];
    run(racy[_i], "forward", o);
}
END_TEST
START_TEST(no_race) /* and none where there is none: all that is legal, in one process */
{
    float o[SIMT_OUT];
    static const char *const names[] = { "phases", "indices", "shuffles", "warp_write", "sums", "counters", "early_return", "halves", "exited_lanes", "most_shared", "copies" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int s = 0; s < SCHEDULES; s++) run(names[i], schedules[s], o);
}
END_TEST

/* ---- wild accesses ---- */

START_TEST(inside) /* the last element is still there, one before the guard page */
{
    ck_assert_int_eq(simt_run_past_end(16, 15), 0);
    ck_assert_int_eq(simt_run_past_end(1024, 1023), 0);
}
END_TEST
START_TEST(past_end) { simt_run_past_end(16, 16); }
END_TEST
START_TEST(peek) { printf("%g\n", (double)simt_peek()); }
END_TEST
START_TEST(shared_past_end)
{
    float o[SIMT_OUT];
    simt_run("bad_shared_oob", "forward", o);
}
END_TEST

/* ---- instructions ---- */

START_TEST(ldmatrix)
{
    uint16_t rows[32][8];
    uint32_t r[32][4];
    for (int i = 0; i < 32; i++)
        for (int j = 0; j < 8; j++) rows[i][j] = (uint16_t)(256 * i + j);
    for (int trans = 0; trans < 2; trans++) {
        ck_assert_int_eq(simt_ldmatrix(trans, rows[0], r[0]), 0);
        for (int lane = 0; lane < 32; lane++)
            for (int m = 0; m < 4; m++)
                for (int half = 0; half < 2; half++) { /* PTX ISA: thread l holds row l/4, columns 2(l%4), +1 of each 8x8 matrix; .trans: of its transpose */
                    int row = lane / 4, column = 2 * (lane % 4) + half;
                    int want = trans ? rows[8 * m + column][row] : rows[8 * m + row][column], got = r[lane][m] >> 16 * half & 0xffff;
                    ck_assert_msg(got == want, "trans %d, lane %d, matrix %d, half %d: %04x, expected %04x", trans, lane, m, half, got, want);
                }
    }
}
END_TEST

START_TEST(mma)
{
    uint16_t a[16][16], b[16][8];
    float d[16][8];
    struct pw_rng r = pw_rng_make(4, PW_STREAM_TEST);
    for (int i = 0; i < 256; i++) a[i / 16][i % 16] = simt_bf16_from_f32((float)(2 * pw_rng_uniform(&r) - 1));
    for (int i = 0; i < 128; i++) b[i / 8][i % 8] = simt_bf16_from_f32((float)(2 * pw_rng_uniform(&r) - 1));
    ck_assert_int_eq(simt_mma(d[0], a[0], b[0]), 0);
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 8; n++) {
            double sum = 0.25; /* what the accumulator starts from */
            for (int k = 0; k < 16; k++) sum += (double)simt_bf16_to_f32(a[m][k]) * (double)simt_bf16_to_f32(b[k][n]);
            ck_close((double)d[m][n], sum, 0x1p-24 * 16, 0x1p-24);
        }
}
END_TEST

/* ---- 16-bit numbers: their values by ldexp, rounding by the middle between neighbours; in double all of it is exact ---- */

struct format { const char *name; int fraction, exponent; float (*wide)(uint16_t); uint16_t (*narrow)(float); };
static const struct format formats[] = { { "bf16", 7, 8, simt_bf16_to_f32, simt_bf16_from_f32 }, { "f16", 10, 5, simt_f16_to_f32, simt_f16_from_f32 } };

/* The value of a positive pattern; the one after the largest finite is where infinity would be if the format went on. */
static double value_of(const struct format *f, int bits)
{
    int e = bits >> f->fraction, m = bits & ((1 << f->fraction) - 1), bias = (1 << (f->exponent - 1)) - 1;
    return e ? ldexp(1 + ldexp(m, -f->fraction), e - bias) : ldexp(m, 1 - bias - f->fraction);
}
static void rounds_to(const struct format *f, float x, int want)
{
    for (int sign = 0; sign < 2; sign++) {
        int got = f->narrow(sign ? -x : x), expected = want | sign << 15;
        ck_assert_msg(got == expected, "%s: %.9g becomes %04x, expected %04x", f->name, (double)(sign ? -x : x), got, expected);
    }
}
START_TEST(numbers)
{
    const struct format *f = &formats[_i];
    const int infinity = ((1 << f->exponent) - 1) << f->fraction;
    for (int b = 0; b < 32768; b++)
        for (int sign = 0; sign < 2; sign++) {
            float x = f->wide((uint16_t)(b | sign << 15));
            if (b > infinity) ck_assert_msg(isnan(x), "%s: %04x is %g, expected NaN", f->name, b, (double)x);
            else {
                double want = (sign ? -1 : 1) * (b == infinity ? (double)INFINITY : value_of(f, b));
                ck_assert_msg((double)x == want && !signbit(x) == !sign, "%s: %04x is %.9g, expected %.9g", f->name, b | sign << 15, (double)x, want);
            }
        }
    for (int b = 0; b < infinity; b++) { /* between b and the next; ties go to the even one */
        double low = value_of(f, b), high = value_of(f, b + 1), middle = (low + high) / 2;
        float m = (float)middle;
        ck_assert((double)m == middle);
        rounds_to(f, (float)low, b);
        rounds_to(f, m, b % 2 ? b + 1 : b);
        rounds_to(f, nextafterf(m, 0), b);
        rounds_to(f, nextafterf(m, INFINITY), b + 1);
        if (low > 0) rounds_to(f, nextafterf((float)low, INFINITY), b);
    }
    rounds_to(f, INFINITY, infinity);
    for (uint32_t u = 0x7f800001u; u < 0x7fffffffu - 0x3ffff; u += 0x3ffffu) { /* NaN stays NaN, whatever its bits */
        float x;
        memcpy(&x, &u, 4);
        ck_assert_msg(isnan(f->wide(f->narrow(x))) && isnan(f->wide(f->narrow(-x))), "%s: %08x", f->name, u);
    }
    ck_assert_uint_eq(simt_bf16x2(1.0f, -2.0f), 0xc0003f80u);
}
END_TEST

/* The mask of dropout against base/rng.c: any place, any offset, both ends of p. */
START_TEST(dropout)
{
    static const double ps[] = { 0, 0.1, 0.5, 1 - 1e-10 };
    for (int c = 0; c < 16; c++) {
        const double p = ps[c % 4];
        const uint64_t seed = 0x9876543210fedcbaull * (uint64_t)(c + 1), offset = c % 3 ? ((uint64_t)c << 36) + 7 : (uint64_t)c, first = c % 2 ? ((uint64_t)1 << 34) - 5 : (uint64_t)c;
        uint32_t eights[32], pairs[32], dropped = 0;
        ck_assert_int_eq(simt_dropout(p, seed, offset, first, eights, pairs), 0);
        for (uint64_t i = 0; i < 32; i++)
            for (uint64_t e = 0; e < 8; e++) {
                const uint64_t group = (first + i + e) / 4;
                const uint32_t counter[4] = { (uint32_t)group, (uint32_t)(group >> 32), (uint32_t)offset, (uint32_t)(offset >> 32) }, key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
                uint32_t word[4];
                pw_philox(counter, key, word);
                const uint32_t keep = word[(first + i + e) % 4] >= pw_dropout_threshold(p);
                dropped += !keep;
                ck_assert_msg((eights[i] >> e & 1) == keep && (e >= 2 || (pairs[i] >> e & 1) == keep), "p %g, element %llu", p, (unsigned long long)(first + i + e));
            }
        ck_assert((dropped > 0) == (p > 0) && (dropped < 256) == (p < 0.9));
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("simt");
    TCase *t = tcase_create("simt");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, barriers, 0, SCHEDULES);
    tcase_add_loop_test(t, warps, 0, SCHEDULES);
    tcase_add_loop_test(t, legal, 0, SCHEDULES);
    tcase_add_loop_test(t, shared_memory, 0, SCHEDULES);
    tcase_add_test(t, refused);
    if (TSAN) tcase_add_loop_exit_test(t, race, 66, 0, RACY);
    else tcase_add_test(t, wrong_values);
    tcase_add_test(t, no_race);
    tcase_add_test(t, inside);
    if (ASAN) {
        tcase_add_exit_test(t, past_end, 1);
        tcase_add_exit_test(t, peek, 1);
        tcase_add_exit_test(t, shared_past_end, 1);
    } else if (TSAN) {
        tcase_add_exit_test(t, past_end, 66);
        tcase_add_exit_test(t, peek, 66);
    } else {
        tcase_add_test_raise_signal(t, past_end, SIGSEGV);
        tcase_add_test_raise_signal(t, peek, SIGSEGV);
    }
    tcase_add_test(t, ldmatrix);
    tcase_add_test(t, mma);
    tcase_add_test(t, dropout);
    tcase_add_loop_test(t, numbers, 0, 2);
    suite_add_tcase(s, t);
    return test_run(s);
}
