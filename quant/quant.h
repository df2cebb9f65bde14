/* Quantisers: from dense tensors to 4-bit and 8-bit weights, and the reports of what was lost.
 *
 * NF4 and FP4 are bit-exact with bitsandbytes (QLoRA, Dettmers et al. 2023; layout in kernels/weight.h): codes, absmax, and with double
 * quantisation the 8-bit absmax with its offset. Folders are written so that transformers + bitsandbytes load them; those with quantised experts so that
 * transformers 4 does, as tensors of one expert each: transformers 5 joins experts into one parameter, which bitsandbytes never quantises there, and
 * opens the folders whose experts are as they were (experts_stored). */
#ifndef PW_QUANT_QUANT_H
#define PW_QUANT_QUANT_H

#include "base/progress.h"
#include "data/checkpoint.h"
#include "kernels/op.h"

struct pw_quant_options {
    enum pw_qtype type;
    bool double_quant;
    int block;               /* 64 */
    enum pw_dtype dtype;     /* recorded, bf16 */
    bool experts_stored;     /* folders: linears of experts stay in the numbers that they are stored in */
    uint64_t memory;         /* folders and files: most bytes that the process may come to, planned before anything is written; 0: no limit */
};
int pw_quant_parse(const char *name, struct pw_quant_options *out);   /* "nf4" ...; PW_E_USAGE names the nearest */

/* Bytes a quantised (n_out, n_in) takes, scales and 64-byte rounding included; and laying it out in memory of that size. */
size_t pw_quant_bytes(int64_t n_out, int64_t n_in, const struct pw_quant_options *o);
int pw_quant_place(struct pw_weight *w, int64_t n_out, int64_t n_in, const struct pw_quant_options *o, void *memory, size_t bytes);
/* Quantises rows of src (n_out, n_in; f32, f16 or bf16, host) into w placed before; never holds more than a tile of f32. */
int pw_quant_encode(struct pw_dev *dev, struct pw_weight *w, struct pw_tensor src, const struct pw_quant_options *o);

/* The same in pieces, for sources that are made on the fly: rows first.. as f32, in tiles of pw_quant_tile_rows rows (the last may be
 * shorter), then the end, where the scales are quantised. An encoder that did not end: pw_free(e->absmax). */
struct pw_quant_encoder { struct pw_weight *w; float *absmax; };
int64_t pw_quant_tile_rows(const struct pw_weight *w);
int64_t pw_quant_tile_unit(const struct pw_weight *w);   /* rows of a tile are a multiple of this, but for the last tile */
int pw_quant_encode_begin(struct pw_quant_encoder *e, struct pw_weight *w);
int pw_quant_encode_rows(struct pw_dev *dev, struct pw_quant_encoder *e, int64_t first, struct pw_tensor rows);
int pw_quant_encode_end(struct pw_quant_encoder *e);
int pw_quant_widen(float *out, const void *in, enum pw_dtype dtype, int64_t n); /* to f32; NaN and infinity are errors */

/* ---- folders and files ---- */
struct pw_quant_report { const char *name; const char *type; size_t bytes; double rmse, max_error; }; /* of what is stored against the f32 it came from */
/* How a model becomes a new folder: every block linear as `type` says (nf4, fp4, int8, or a dense dtype, which then all tensors get),
 * everything else as stored. */
struct pw_remake {
    struct pw_quant_options to;
    bool derived;                    /* the same model in another form: its identity is recorded ("pennyweight.source") */
    /* Called with rows first.. of a block linear as f32 before they are stored; NULL = nothing. */
    int (*edit)(void *ctx, const char *name, int64_t first, struct pw_tensor rows);
    bool (*edits)(void *ctx, const char *name);                /* whether it will change that tensor; NULL = it may */
    /* GGUF files: called with the path of the whole file before it appears under its name; what it refuses never appears. NULL = nothing. */
    int (*finished)(void *ctx, const char *path);
    void (*each)(void *ctx, const struct pw_quant_report *r);  /* as tensors are done; NULL = nothing */
    void *ctx;
    struct pw_progress *progress;
};
/* Writes config.json (with quantization_config), model.safetensors and the tokenizer's files into dir, an existing folder inside a
 * pw_outdir. A llama2.c model gets the row order of Hugging Face. Unknown tensors are refused. */
int pw_quant_remake(struct pw_dev *dev, struct pw_checkpoint *c, const char *dir, const struct pw_remake *how);
/* Writes MODEL as one GGUF file that llama.cpp opens: all matrices as `o` says (f32, f16, bf16, or a type of blocks that can be made;
 * vectors in f32). With q4_0 and q4_K the head, or the embedding that is one, gets q6_K, as llama.cpp does; rows that are not whole
 * blocks of a type get q8_0, and f16 when they are not whole blocks of that. A matrix stored in blocks stays as it is when that is
 * what it should become, or when it is the embedding or the head; another one is refused. Tokenizer and chat template go along. */
/* The same from an open model, with what is edited: such a file may also be made from matrices in other blocks, which are decoded and
 * encoded anew, except those that keep their type and are not edited. q and k reach the edit in the order of rows of the file. */
int pw_quant_gguf_remake(struct pw_dev *dev, struct pw_checkpoint *c, const char *out, bool force, const struct pw_remake *how);
int pw_quant_gguf(struct pw_dev *dev, const char *model, const struct pw_checkpoint_options *copt, const char *out, bool force, const struct pw_quant_options *o,
                  void (*each)(void *ctx, const struct pw_quant_report *r), void *ctx, struct pw_progress *progress);
/* Opens MODEL, remakes it in the form o (with the identity recorded), commits out_dir. */
int pw_quant_folder(struct pw_dev *dev, const char *model, const struct pw_checkpoint_options *copt, const char *out_dir, bool force,
                    const struct pw_quant_options *o, void (*each)(void *ctx, const struct pw_quant_report *r), void *ctx, struct pw_progress *progress);
#endif
