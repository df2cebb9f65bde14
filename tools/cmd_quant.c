/* pw quant: a model folder in another form, with what was lost per tensor. */
#include <string.h>

#include "data/checkpoint.h"
#include "kernels/blocks.h"
#include "quant/quant.h"
#include "tools/cmd.h"

struct quant_options { const char *out, *format, *experts; };
#define AT(field) offsetof(struct quant_options, field)
static const struct pw_option options[] = {
    {"out", 'o', PW_OPT_STRING, AT(out), "OUT", NULL, NULL, 0, 0, "the folder or file to write"},
    {"format", 0, PW_OPT_CHOICE, AT(format), "FORMAT", "hf|gguf", "hf", 0, 0, "hf: Hugging Face folder with safetensors; gguf: one file for llama.cpp"},
    {"experts", 0, PW_OPT_CHOICE, AT(experts), "WHICH", "quantised|stored", "quantised", 0, 0, "nf4, fp4 and int8 of a model with experts: quantise those too, or leave them as they are stored"},
    PW_OPTIONS_END,
};

struct sink { struct pw_json json; struct pw_buf table; size_t bytes; };

static void each(void *ctx, const struct pw_quant_report *r)
{
    struct sink *s = ctx;
    char bytes[32];
    pw_json_open(&s->json, NULL, '{');
    pw_json_str(&s->json, "name", r->name);
    pw_json_str(&s->json, "type", r->type);
    pw_json_i64(&s->json, "bytes", (int64_t)r->bytes);
    pw_json_f64(&s->json, "rmse", r->rmse);
    pw_json_f64(&s->json, "max_error", r->max_error);
    pw_json_close(&s->json, '}');
    pw_format_bytes(bytes, r->bytes);
    pw_buf_printf(&s->table, "%-52s %-5s %12s  rmse %.3e  max %.3e\n", r->name, r->type, bytes, r->rmse, r->max_error);
    s->bytes += r->bytes;
}

static int quant(struct pw_cmd *c)
{
    const struct quant_options *o = c->options;
    const struct pw_checkpoint_options copt = {.tokenizer = c->common->tokenizer};
    struct pw_quant_options to;
    struct pw_dev *dev = NULL;
    struct sink s = {0};
    int rc = 0;
    PW_CHECK(o->out, PW_E_USAGE, "-o OUT is missing: where should it go?");
    PW_CHECK(c->common->type[0], PW_E_USAGE, "--type is missing (hf: nf4, fp4, int8, f32, f16, bf16; gguf: q8_0, q4_0, q4_K, q6_K, f32, f16, bf16)");
    PW_PASS(pw_quant_parse(c->common->type, &to));
    const bool gguf = strcmp(o->format, "gguf") == 0;
    PW_CHECK(gguf || !pw_block_type(to.type), PW_E_USAGE, "--type %s belongs to GGUF files: give --format gguf", c->common->type);
    PW_CHECK(!gguf || to.type == PW_Q_DENSE || pw_block_type(to.type), PW_E_USAGE, "--type %s does not exist in GGUF files (known: q8_0, q4_0, q4_K, q6_K, f32, f16, bf16)",
             c->common->type);
    to.double_quant = c->common->double_quant;
    to.memory = c->common->memory;
    PW_CHECK(!to.double_quant || to.type == PW_Q_NF4 || to.type == PW_Q_FP4, PW_E_USAGE, "--double-quant is for nf4 and fp4, not %s", c->common->type);
    to.experts_stored = strcmp(o->experts, "stored") == 0;
    PW_CHECK(!to.experts_stored || (!gguf && to.type != PW_Q_DENSE), PW_E_USAGE, "--experts stored is for nf4, fp4 and int8, not %s", c->common->type);
    PW_PASS_OUT(pw_cmd_host_device(c, &dev));
    pw_json_begin(&s.json);
    pw_json_open(&s.json, "tensors", '[');
    PW_PASS_OUT((gguf ? pw_quant_gguf : pw_quant_folder)(dev, c->args.items[0], &copt, o->out, c->common->force, &to, each, &s, c->progress));
    pw_json_close(&s.json, ']');
    pw_json_i64(&s.json, "bytes", (int64_t)s.bytes);
    if (c->common->json) {
        rc = pw_json_finish(c, &s.json);
        goto out;
    }
    char bytes[32];
    pw_format_bytes(bytes, s.bytes);
    pw_buf_printf(&s.table, "%s: %s\n", o->out, bytes);
    PW_PASS_OUT(pw_buf_status(&s.table));
    pw_buf_add(c->out, s.table.data, s.table.len);
out:
    pw_buf_free(&s.table);
    pw_json_free(&s.json);
    pw_dev_close(dev);
    return rc;
}

const struct pw_command pw_commands_quant[] = {
    {"quant", "MODEL -o OUT --type nf4|fp4|int8|f16|bf16|f32|q8_0|q4_0|q4_K|q6_K [--double-quant] [--format hf|gguf] [--experts quantised|stored]", "a model in another number format",
     "Quantised folders are in the form of bitsandbytes and load in transformers. The linear layers of the blocks are quantised; embedding,\n"
     "norms and head stay as stored. Of a model with experts transformers 4.57 opens the folder; transformers 5 joins experts and cannot with\n"
     "quantised ones: 5.23 opens what --experts stored writes, where attention alone is quantised. pw opens both. GGUF files hold all\n"
     "matrices in the type asked for, tokenizer and chat template included, with q6_K for the head beside q4_0 and q4_K, and vectors and\n"
     "routers in f32. The error of each tensor against what it was made of is printed.\n",
     options, sizeof(struct quant_options), 1, 1, false, quant, .plans = true},
    {NULL},
};
