/* Quantisers: from dense tensors to 4-bit and 8-bit weights, and the reports of what was lost.
 *
 * NF4 and FP4 are bit-exact with bitsandbytes (QLoRA, Dettmers et al. 2023; layout in kernels/weight.h): codes, absmax, and with double
 * quantisation the 8-bit absmax with its offset. Folders are written so that transformers + bitsandbytes load them. */
#ifndef PW_QUANT_QUANT_H
#define PW_QUANT_QUANT_H

#include "base/progress.h"
#include "data/checkpoint.h"
#include "kernels/op.h"

struct pw_quant_options { enum pw_qtype type; bool double_quant; int block; /* 64 */ enum pw_dtype dtype; /* recorded, bf16 */ };
int pw_quant_parse(const char *name, struct pw_quant_options *out);   /* "nf4" ...; PW_E_USAGE names the nearest */

/* Bytes a quantised (n_out, n_in) takes, scales and 64-byte rounding included; and laying it out in memory of that size. */
size_t pw_quant_bytes(int64_t n_out, int64_t n_in, const struct pw_quant_options *o);
int pw_quant_place(struct pw_weight *w, int64_t n_out, int64_t n_in, const struct pw_quant_options *o, void *memory, size_t bytes);
/* Quantises rows of src (n_out, n_in; f32, f16 or bf16, host) into w placed before; never holds more than a tile of f32. */
int pw_quant_encode(struct pw_dev *dev, struct pw_weight *w, struct pw_tensor src, const struct pw_quant_options *o);

struct pw_quant_report { const char *name; const char *type; size_t bytes; double rmse, max_error; };
/* Reads MODEL, writes a folder in bitsandbytes form (config.json with quantization_config, model.safetensors, tokenizer files copied).
 * Reports go to `each` as tensors are done. */
int pw_quant_folder(struct pw_dev *dev, const char *model, const struct pw_checkpoint_options *copt, const char *out_dir, bool force,
                    const struct pw_quant_options *o, void (*each)(void *ctx, const struct pw_quant_report *r), void *ctx, struct pw_progress *progress);
#endif
