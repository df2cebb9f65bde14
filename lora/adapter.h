/* Adapters in memory: low-rank pairs attached to the linear layers of a model by name.
 *
 * Owns the arithmetic-free side of LoRA: which modules, which rank and scale, names, initialisation. The tensors themselves live
 * in memory that the caller gives (a pool of the device in training, host memory when loaded from disk).
 * Modules are named as in the model without prefix and suffix: "model.layers.3.self_attn.q_proj". Reading and writing: lora/peft.h. */
#ifndef PW_LORA_ADAPTER_H
#define PW_LORA_ADAPTER_H

#include "base/progress.h"
#include "base/rng.h"
#include "data/checkpoint.h"
#include "kernels/dev.h"
#include "kernels/weight.h"

struct pw_adapter_config {
    char kind[8];                 /* "lora"; "dora": with a magnitude for each output, see kernels/weight.h */
    int r;
    double alpha, dropout;
    bool rslora;
    const char *targets;          /* "all-linear", or comma-separated module suffixes "q_proj,v_proj". In models with experts all-linear takes the linears of
                                   * every expert ("mlp.experts.3.up_proj", "block_sparse_moe.experts.3.w3"), named as in the published files, and never the
                                   * router; peft 0.21 takes that too, as it did when routers were plain linear layers */
    /* For planning alone, each may be NULL: "q_proj=8,layers.3.mlp.up_proj=4" (the first that selects a module counts, by the rule of targets) for
     * ranks and alphas of their own; layers "0-3,28-31" (from 0, both included) or "all". With layers, targets becomes the list of all modules. */
    const char *rank_pattern, *alpha_pattern, *layers;
    /* PiSSA: the second half of every pair is frozen, minus what the first half began as. Ranks are twice those given, alphas so that the scale stays. */
    bool halves;
    const char *modules_to_save;  /* "norm,embed_tokens": ends of names of norms, of the embedding and of the head that are trained whole; NULL, "" or "none": none */
    char bias[12];                /* which biases of the base are trained, those that it has: "lora_only", of the linears with a pair; "all"; "" or "none" */
    bool of_text;                 /* the base is the text part of a model of several parts: PEFT's files name its layers otherwise */
    char base_name[512];          /* base_model_name_or_path */
    char base_hash[65];           /* pw_checkpoint_identity of the base, "" if unknown (adapters of other tools) */
    char base_type[24];           /* the form the base had: "dense", "nf4", "nf4 double", ...; "" if unknown */
};
struct pw_adapter_module {
    const char *name;             /* "model.layers.0.self_attn.q_proj" */
    int64_t n_in, n_out;
    struct pw_lora lora;          /* a (R, n_in), b (n_out, R), f32; DoRA: magnitude, norm (n_out); the norms are made where it is attached */
};
struct pw_adapter_saved {         /* a tensor of the base that is trained whole and stands in for it */
    const char *name;             /* "model.norm", "model.layers.0.input_layernorm", "model.embed_tokens", "lm_head": its weight; "model.layers.0.self_attn.q_proj.bias" */
    struct pw_tensor value;       /* as in the base: (D), (V, D) or (n_out), f32 */
};
struct pw_adapter {
    struct pw_adapter_config config;
    struct pw_adapter_module *modules; size_t n;
    struct pw_adapter_saved *saved; size_t n_saved;
    int paired;                   /* > 0: rows of B of q and k are ordered as those of the base, in interleaved rotary pairs (llama2.c,
                                   * GGUF), by heads of this size. Files of adapters always hold the order of Hugging Face. */
    struct pw_arena arena;        /* names, and tensors when loaded from disk */
    struct pw_pool device;        /* tensors after pw_adapter_put */
};

/* Lists the modules that `config->targets` selects in a model of this shape, in forward order (layer by layer: q k v o gate up down);
 * a target that matches nothing is an error naming the nearest. Tensors have shape but no data yet. */
int pw_adapter_plan(struct pw_adapter *a, const struct pw_adapter_config *config, const struct pw_model_config *model);
bool pw_adapter_is_dora(const struct pw_adapter *a);
/* The first module of a DoRA adapter that is a linear of an expert; NULL: there is none. Such an adapter is read, written and merged, not attached. */
const char *pw_adapter_dora_expert(const struct pw_adapter *a);
size_t pw_adapter_bytes(const struct pw_adapter *a);                 /* of all tensors in f32, norms too */
int64_t pw_adapter_parameters(const struct pw_adapter *a);
int pw_adapter_place(struct pw_adapter *a, void *memory, size_t bytes); /* lays all tensors out in one region, in module order */
/* A = uniform(-1/sqrt(n_in), 1/sqrt(n_in)) (Kaiming with a = sqrt 5, as PEFT), B = 0. One Philox stream per module. Host memory. Magnitudes are
 * the lengths of the base's rows, which it does not know: whoever attaches it sets them. */
void pw_adapter_init(struct pw_adapter *a, uint64_t seed);
/* Moves the tensors from host memory to the device, into memory that the adapter owns from then on; nothing happens on host devices. */
int pw_adapter_put(struct pw_adapter *a, struct pw_dev *dev);
/* A copy whose tensors are in host memory: for writing one that lives on a device. To be freed. */
int pw_adapter_get(struct pw_adapter *out, const struct pw_adapter *a, struct pw_dev *dev);
double pw_adapter_scale(const struct pw_adapter_config *c);
bool pw_adapter_is_bias(const char *saved, char *module);            /* is it a bias? Then of which linear: module (320), or NULL */
size_t pw_adapter_biases(const struct pw_adapter *a);                /* how many of saved are biases */
const struct pw_adapter_saved *pw_adapter_find_saved(const struct pw_adapter *a, const char *module);
bool pw_adapter_saves(const char *words, const char *module);        /* PEFT's rule for modules_to_save: the name ends with one of the words */
const struct pw_adapter_module *pw_adapter_find(const struct pw_adapter *a, const char *module);
void pw_adapter_free(struct pw_adapter *a);
/* The same for an array of (n_out, width). */
void pw_adapter_reorder_rows(const struct pw_adapter *a, const struct pw_adapter_module *m, bool interleave, float *to, const float *from, int64_t width);
/* Rows of B (n_out, R) of q or k: from the order of Hugging Face to interleaved pairs, or back. Nothing for other modules, or paired = 0. */
void pw_adapter_reorder(const struct pw_adapter *a, const struct pw_adapter_module *m, bool interleave, float *to, const float *from);
bool pw_adapter_selects(const char *target, const char *module);     /* PEFT's rule: the module is the target or ends with "." target */

/* Fills base_name, base_hash and base_type: c is the base, quantise and double_quant how it is changed while loading ("" = not).
 * Hashes the model the first time it is asked. */
int pw_adapter_record_base(struct pw_adapter_config *config, struct pw_checkpoint *c, const char *quantise, bool double_quant);
/* Is this the base that the adapter was trained on? Another identity is PW_E_FAIL naming both, unless force, which says so on
 * progress; the same model in another form (nf4 against dense) is only said on progress. An adapter that records no base passes:
 * its shapes are checked where it is loaded and attached. */
int pw_adapter_check_base(const struct pw_adapter *a, struct pw_checkpoint *c, const char *quantise, bool double_quant, bool force,
                          struct pw_progress *progress);
#endif
