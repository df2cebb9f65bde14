/* What pw bench measures, one function a number; tools/cmd_bench.c has the options and the output. Each result carries its share of what the same
 * device does at best in the same run: arithmetic of the rate of a dense product, traffic of the rate of a copy (on a processor: of reading). */
#ifndef PW_TOOLS_BENCH_H
#define PW_TOOLS_BENCH_H

#include "infer/session.h"
#include "kernels/choices.h"
#include "tools/cmd.h"

enum { PW_BENCH_MOST = 8 };
struct pw_bench_memory { size_t planned, measured; };  /* of a device: bytes in use at the worst moment, as planned and as it says; 0 on host devices */
struct pw_bench_run { int64_t batch, tokens; double tokens_per_s, share, seconds; struct pw_bench_memory memory; };
struct pw_bench {
    struct pw_cmd *c;
    struct pw_model *m;
    int64_t gen, repeat;
    bool checkpointing;
    size_t held;               /* what driver and libraries held when the device was opened */
    double gemm, bandwidth, copy;                      /* FLOP/s; bytes/s: the bandwidth is that of reading on a processor, of copying on a device */
    double encode, encode_share;                       /* bytes of f32 read and codes written a second; 0: not measured */
    struct pw_bench_run prefill[PW_BENCH_MOST], decode[PW_BENCH_MOST], train[PW_BENCH_MOST];
    int n_prefill, n_decode, n_train;
    struct pw_choices attention;                       /* forward of training: ours and the library's, where there is one */
};
int pw_bench_gemm(struct pw_bench *b);
int pw_bench_bandwidth(struct pw_bench *b);
int pw_bench_encode(struct pw_bench *b);               /* NF4, from f32 on the device */
int pw_bench_prefill(struct pw_bench *b, struct pw_bench_run *r);                /* one prompt of r->tokens */
int pw_bench_decode(struct pw_bench *b, struct pw_bench_run *r, int64_t prompt); /* r->batch sequences, r->tokens each after the prompt */
int pw_bench_train(struct pw_bench *b, struct pw_bench_run *r);                  /* r->batch rows of r->tokens: forward, backward, AdamW */
int pw_bench_attention(struct pw_bench *b);            /* both ways of attention for the rows of train; leaves none of them in use. Last: what it loads stays on the card */
#endif
